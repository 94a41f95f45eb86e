//! The settings in the shape of `Msvm_FailoverNetworkAdapterSettingData`: arrays of text, one DHCP flag, and a
//! number that says for which families.

use super::reason::Network;
use super::{AdapterSettings, InterfaceAddress, MAX_ADDRESSES};
use crate::codes::Refusal;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// `ProtocolIFType`: which families the settings are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProtocolInterface {
    /// 0: to be told from the addresses.
    #[default]
    Unknown,
    /// 1: likewise.
    Other,
    /// 4096.
    Ipv4,
    /// 4097.
    Ipv6,
    /// 4098.
    Both,
}

impl ProtocolInterface {
    /// The number of the API.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Unknown => 0,
            Self::Other => 1,
            Self::Ipv4 => 4096,
            Self::Ipv6 => 4097,
            Self::Both => 4098,
        }
    }

    /// The family of a number; `None` for a number that the API does not have.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        [Self::Unknown, Self::Other, Self::Ipv4, Self::Ipv6, Self::Both]
            .into_iter()
            .find(|known| known.code() == code)
    }
}

/// The properties of the class, as they are in the API. `Subnets` has one entry for each of `IPAddresses`, in the
/// same order: a dotted mask or a prefix length for IPv4, a prefix length for IPv6.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CimSettings {
    /// `ProtocolIFType`.
    pub protocol: ProtocolInterface,
    /// `DHCPEnabled`.
    pub dhcp_enabled: bool,
    /// `IPAddresses`.
    pub ip_addresses: Vec<String>,
    /// `Subnets`.
    pub subnets: Vec<String>,
    /// `DefaultGateways`.
    pub default_gateways: Vec<String>,
    /// `DNSServers`.
    pub dns_servers: Vec<String>,
}

impl CimSettings {
    /// Reads and checks the settings. DHCP is for the families that `protocol` names; where it names none, for
    /// those that have no static address.
    ///
    /// # Errors
    /// [`crate::ReturnCode::InvalidParameter`] that names the property and the value.
    pub fn to_settings(&self) -> Result<AdapterSettings, Refusal> {
        if self.ip_addresses.len() != self.subnets.len() || self.ip_addresses.len() > MAX_ADDRESSES {
            let (addresses, subnets) = (self.ip_addresses.len(), self.subnets.len());
            return Err(Network::SubnetsDiffer { addresses, subnets }.into());
        }
        let addresses = self
            .ip_addresses
            .iter()
            .zip(&self.subnets)
            .map(|(address, subnet)| InterfaceAddress::with_subnet(address, subnet))
            .collect::<Result<Vec<_>, String>>()
            .map_err(|why| Network::Subnet { why })?;
        let has = |v4: bool| addresses.iter().any(|address| address.address().is_ipv4() == v4);
        let (dhcp4, dhcp6) = match (self.dhcp_enabled, self.protocol) {
            (false, _) => (false, false),
            (true, ProtocolInterface::Ipv4) => (true, false),
            (true, ProtocolInterface::Ipv6) => (false, true),
            (true, _) => (!has(true), !has(false)),
        };
        let settings = AdapterSettings {
            dhcp4,
            dhcp6,
            addresses,
            gateways: parse("DefaultGateways", &self.default_gateways)?,
            dns: parse("DNSServers", &self.dns_servers)?,
        };
        settings.validate()?;
        Ok(settings)
    }
}

fn parse(property: &'static str, texts: &[String]) -> Result<Vec<IpAddr>, Refusal> {
    texts
        .iter()
        .map(|text| {
            let unreadable = |_| Network::NoIpAddress { property, text: text.clone() }.into();
            text.trim().parse().map_err(unreadable)
        })
        .collect()
}

impl From<&AdapterSettings> for CimSettings {
    fn from(settings: &AdapterSettings) -> Self {
        let uses = |v4: bool, dhcp: bool| {
            dhcp || settings.addresses.iter().any(|address| address.address().is_ipv4() == v4)
        };
        let text = |all: &[IpAddr]| all.iter().map(ToString::to_string).collect();
        Self {
            protocol: match (uses(true, settings.dhcp4), uses(false, settings.dhcp6)) {
                (true, true) => ProtocolInterface::Both,
                (true, false) => ProtocolInterface::Ipv4,
                (false, true) => ProtocolInterface::Ipv6,
                (false, false) => ProtocolInterface::Unknown,
            },
            dhcp_enabled: settings.dhcp4 || settings.dhcp6,
            ip_addresses: settings.addresses.iter().map(|a| a.address().to_string()).collect(),
            subnets: settings.addresses.iter().map(|a| a.subnet()).collect(),
            default_gateways: text(&settings.gateways),
            dns_servers: text(&settings.dns),
        }
    }
}
