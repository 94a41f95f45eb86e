//! Addresses as people and programs write them: hardware addresses, and IP addresses with their network.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// A hardware address, written as `52:54:00:12:34:56`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no hardware address: write it as 52:54:00:12:34:56");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        if bytes[0] & 1 == 1 {
            return Err(format!("{text} is a group address: its first byte has to be even"));
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> String {
        mac.to_string()
    }
}

/// An address of an interface with the length of its network's prefix, written as `192.0.2.5/24`. What exists
/// can be given to an interface: no network, broadcast, group, loopback or unspecified address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceAddress {
    address: IpAddr,
    prefix: u8,
}

impl InterfaceAddress {
    /// An address in a network of `prefix` bits.
    ///
    /// # Errors
    /// A sentence when the prefix is out of range or no interface can have the address.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, String> {
        let widest = if address.is_ipv4() { 32 } else { 128 };
        if prefix == 0 || prefix > widest {
            return Err(format!("{address}/{prefix}: a prefix of this family has 1 to {widest} bits"));
        }
        let made = Self { address, prefix };
        match unusable(address).or_else(|| made.reserved()) {
            Some(why) => Err(format!("{address}/{prefix} {why}, which no interface can have")),
            None => Ok(made),
        }
    }

    /// An address and the second column of `Subnets`: a dotted mask, a prefix length, or that with a slash.
    ///
    /// # Errors
    /// A sentence when either cannot be read.
    pub fn with_subnet(address: &str, subnet: &str) -> Result<Self, String> {
        let ip: IpAddr = address.trim().parse().map_err(|_| format!("{address:?} is no IP address"))?;
        let subnet = subnet.trim();
        let prefix = match (ip, subnet.parse::<Ipv4Addr>()) {
            (IpAddr::V4(_), Ok(mask)) => mask_length(mask)?,
            _ => subnet
                .strip_prefix('/')
                .unwrap_or(subnet)
                .parse()
                .map_err(|_| format!("{subnet:?} is no subnet of {ip}: write 255.255.255.0 or 24"))?,
        };
        Self::new(ip, prefix)
    }

    /// The address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Bits of the network.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The network as `Subnets` has it: a dotted mask for IPv4, the prefix length for IPv6.
    #[must_use]
    pub fn subnet(self) -> String {
        match self.address {
            IpAddr::V4(_) => Ipv4Addr::from(!host_mask(self.prefix)).to_string(),
            IpAddr::V6(_) => self.prefix.to_string(),
        }
    }

    /// The network or the broadcast address of an IPv4 network that has them.
    fn reserved(self) -> Option<&'static str> {
        let IpAddr::V4(v4) = self.address else { return None };
        if self.prefix >= 31 {
            return None;
        }
        let hosts = host_mask(self.prefix);
        match u32::from(v4) & hosts {
            0 => Some("is the address of the network itself"),
            bits if bits == hosts => Some("is the network's broadcast address"),
            _ => None,
        }
    }
}

/// The host bits of an IPv4 prefix.
fn host_mask(prefix: u8) -> u32 {
    u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0)
}

fn mask_length(mask: Ipv4Addr) -> Result<u8, String> {
    let bits = u32::from(mask);
    let length = bits.leading_ones();
    if bits.count_ones() != length {
        return Err(format!("{mask} is no subnet mask: its ones have to come first"));
    }
    u8::try_from(length).map_err(|error| error.to_string())
}

/// Why no interface, gateway or server of a guest can have the address.
pub(super) fn unusable(address: IpAddr) -> Option<&'static str> {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0);
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    match () {
        () if address.is_unspecified() => Some("is the unspecified address"),
        () if address.is_loopback() => Some("is a loopback address"),
        () if address.is_multicast() => Some("is a group address"),
        () if broadcast => Some("is a reserved address"),
        () if mapped => Some("is an IPv4 address in the clothes of IPv6"),
        () => None,
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for InterfaceAddress {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, subnet) =
            text.split_once('/').ok_or_else(|| format!("{text:?} has no network: write 192.0.2.5/24"))?;
        Self::with_subnet(address, subnet)
    }
}

impl TryFrom<String> for InterfaceAddress {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<InterfaceAddress> for String {
    fn from(address: InterfaceAddress) -> String {
        address.to_string()
    }
}
