//! Network settings that a guest gets at a failover: `Msvm_FailoverNetworkAdapterSettingData`. Kept per network
//! card on the side where they were set; what the primary has travels to the replica. Pure data and its rules; the
//! engine keeps it, the hypervisor crate applies it in the guest.
//!
//! A card is named by its name in the VM's definition, which never changes; its hardware address and its
//! [`AdapterId`] follow from the definition.

mod address;
mod cim;
pub(crate) mod reason;
mod view;

pub use address::{InterfaceAddress, MacAddress};
pub use cim::{CimSettings, ProtocolInterface};
pub use view::{AdapterView, AppliedNetwork, ApplyState, ApplyWay, NetworkView, SettingsOrigin};

use crate::codes::Refusal;
use crate::ids::VmId;
use reason::Network;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use uuid::Uuid;

/// Most gateways of one card: the limit of the API.
pub const MAX_GATEWAYS: usize = 5;
/// Most addresses of one card.
pub const MAX_ADDRESSES: usize = 64;
/// Most DNS servers of one card.
pub const MAX_DNS: usize = 16;
/// Most cards of one VM that can have settings.
pub const MAX_ADAPTERS: usize = 32;
/// Longest name of a card, in bytes.
pub const MAX_ADAPTER_NAME: usize = 64;

/// A network card for the management API: stable while the VM has a card of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AdapterId(pub Uuid);

impl AdapterId {
    /// The id of the card of that name: the same on every host.
    #[must_use]
    pub fn of(vm: VmId, name: &str) -> Self {
        Self(Uuid::new_v5(&vm.0, format!("adapter/{name}").as_bytes()))
    }
}

impl fmt::Display for AdapterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A network card of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    /// Its stable id.
    pub id: AdapterId,
    /// Its name in the VM's definition.
    pub name: String,
    /// Its hardware address, as the guest sees it.
    pub mac: MacAddress,
}

impl Adapter {
    /// The card of that name and hardware address.
    #[must_use]
    pub fn new(vm: VmId, name: impl Into<String>, mac: MacAddress) -> Self {
        let name = name.into();
        Self { id: AdapterId::of(vm, &name), name, mac }
    }

    /// Whether `text` names this card: its name, its hardware address or its id.
    #[must_use]
    pub fn is_named(&self, text: &str) -> bool {
        self.name == text
            || text.parse() == Ok(self.mac)
            || text.parse().is_ok_and(|id: Uuid| id == self.id.0)
    }
}

/// What one card gets at a failover.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterSettings {
    /// IPv4 addresses come from DHCP.
    pub dhcp4: bool,
    /// IPv6 addresses come from DHCPv6 or router advertisements.
    pub dhcp6: bool,
    /// Static addresses, at most [`MAX_ADDRESSES`].
    pub addresses: Vec<InterfaceAddress>,
    /// Default gateways, at most [`MAX_GATEWAYS`]; the first of a family is preferred.
    pub gateways: Vec<IpAddr>,
    /// DNS servers, at most [`MAX_DNS`], asked in this order.
    pub dns: Vec<IpAddr>,
}

impl AdapterSettings {
    /// Checks every rule: what passed can be applied.
    ///
    /// # Errors
    /// [`crate::ReturnCode::InvalidParameter`] that names the value and what is allowed.
    pub fn validate(&self) -> Result<(), Refusal> {
        if self.addresses.is_empty() && !self.dhcp4 && !self.dhcp6 {
            return Err(Network::NoAddress.into());
        }
        bounded("addresses", self.addresses.len(), MAX_ADDRESSES)?;
        bounded("default gateways", self.gateways.len(), MAX_GATEWAYS)?;
        bounded("DNS servers", self.dns.len(), MAX_DNS)?;
        distinct("address", self.addresses.iter().map(|address| address.address()))?;
        distinct("default gateway", self.gateways.iter().copied())?;
        distinct("DNS server", self.dns.iter().copied())?;
        for server in &self.dns {
            // A resolver of the guest's own, on its loopback, is a usual DNS server.
            if !server.is_loopback() {
                usable("DNS server", *server)?;
            }
        }
        self.check_families()?;
        self.gateways.iter().try_for_each(|gateway| self.check_gateway(*gateway))
    }

    fn check_families(&self) -> Result<(), Refusal> {
        for (dhcp, v4, family) in [(self.dhcp4, true, "IPv4"), (self.dhcp6, false, "IPv6")] {
            if dhcp && self.addresses.iter().any(|address| address.address().is_ipv4() == v4) {
                return Err(Network::DhcpAndStatic { family }.into());
            }
        }
        Ok(())
    }

    fn check_gateway(&self, gateway: IpAddr) -> Result<(), Refusal> {
        usable("default gateway", gateway)?;
        let own = self.addresses.iter().find(|address| address.address() == gateway);
        if let Some(own) = own {
            return Err(Network::GatewayIsOwn { gateway, own: *own }.into());
        }
        let v4 = gateway.is_ipv4();
        let dhcp = if v4 { self.dhcp4 } else { self.dhcp6 };
        if dhcp || self.addresses.iter().any(|address| address.address().is_ipv4() == v4) {
            return Ok(());
        }
        Err(Network::GatewayWithoutAddress { gateway }.into())
    }
}

fn bounded(what: &'static str, count: usize, most: usize) -> Result<(), Refusal> {
    if count <= most {
        return Ok(());
    }
    Err(Network::TooMany { what, count, most }.into())
}

fn distinct(what: &'static str, values: impl Iterator<Item = IpAddr>) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    match values.into_iter().find(|value| !seen.insert(*value)) {
        None => Ok(()),
        Some(twice) => Err(Network::Twice { what, address: twice }.into()),
    }
}

fn usable(what: &'static str, address: IpAddr) -> Result<(), Refusal> {
    match address::unusable(address) {
        None => Ok(()),
        Some(why) => Err(Network::Unusable { what, address, why }.into()),
    }
}

/// The settings of a VM's cards, by the card's name. Cards that are not in it are left as the guest has them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetworkSettings(pub BTreeMap<String, AdapterSettings>);

impl NetworkSettings {
    /// No card has settings.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks every card's settings, and the names: this may come from a peer.
    ///
    /// # Errors
    /// [`crate::ReturnCode::InvalidParameter`] that names the card.
    pub fn validate(&self) -> Result<(), Refusal> {
        if self.0.len() > MAX_ADAPTERS {
            return Err(Network::TooManyCards { cards: self.0.len() }.into());
        }
        for (name, settings) in &self.0 {
            if name.is_empty() || name.len() > MAX_ADAPTER_NAME || name.chars().any(char::is_control) {
                return Err(Network::CardName { name: name.clone() }.into());
            }
            settings.validate().map_err(|refusal| {
                let message = format!("network card {name}: {}", refusal.message);
                refusal.saying(message)
            })?;
        }
        Ok(())
    }

    /// These after changes, by the names of cards: `None` clears.
    ///
    /// # Errors
    /// As [`Self::validate`], of what they would be.
    pub fn changed(&self, changes: &[(String, Option<AdapterSettings>)]) -> Result<Self, Refusal> {
        let mut changed = self.clone();
        for (name, settings) in changes {
            match settings {
                Some(settings) => drop(changed.0.insert(name.clone(), settings.clone())),
                None => drop(changed.0.remove(name)),
            }
        }
        changed.validate().map(|()| changed)
    }

    /// These with those of `over` in place of them, card by card: what was set on a host goes before what came
    /// from the other one.
    #[must_use]
    pub fn overlaid(&self, over: &Self) -> Self {
        let mut all = self.clone();
        all.0.extend(over.0.iter().map(|(name, settings)| (name.clone(), settings.clone())));
        all
    }
}

/// One change of `SetFailoverNetworkAdapterSettings` or `standin network`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkChange {
    /// The card: its name, hardware address or id; `None` for the only card of a VM that has one.
    pub adapter: Option<String>,
    /// What it gets, all in all; `None` clears its settings.
    pub settings: Option<AdapterSettings>,
}
