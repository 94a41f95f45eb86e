//! Why a network card cannot have these settings.

use super::{InterfaceAddress, MAX_ADAPTER_NAME, MAX_ADAPTERS, MAX_ADDRESSES};
use crate::reason::{Reason, Text};
use crate::reasons;
use std::net::IpAddr;

reasons! {
    /// Why a network card cannot have these settings.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Network {
        /// The settings of a network card have neither an address nor DHCP.
        NoAddress => "card_without_address", InvalidParameter;
        /// The settings of a network card have both DHCP and a static address for one family.
        DhcpAndStatic { family: &'static str } => "dhcp_and_static", InvalidParameter;
        /// The default gateway is an address of the card itself.
        GatewayIsOwn { gateway: IpAddr, own: InterfaceAddress } => "gateway_is_own_address", InvalidParameter;
        /// The default gateway is of a family that the card has no address of.
        GatewayWithoutAddress { gateway: IpAddr } => "gateway_without_address", InvalidParameter;
        /// A network card has more addresses, gateways or DNS servers than it may.
        TooMany { what: &'static str, count: usize, most: usize } => "too_many_addresses", InvalidParameter;
        /// An address, gateway or DNS server is given twice.
        Twice { what: &'static str, address: IpAddr } => "address_given_twice", InvalidParameter;
        /// An address can be no gateway or DNS server, as a group address cannot.
        Unusable { what: &'static str, address: IpAddr, why: &'static str } => "address_unusable", InvalidParameter;
        /// There are settings for more network cards than a VM may have.
        TooManyCards { cards: usize } => "too_many_cards", InvalidParameter;
        /// A network card's name is empty, too long or not printable.
        CardName { name: String } => "card_name_invalid", InvalidParameter;
        /// There is not one subnet for each address.
        SubnetsDiffer { addresses: usize, subnets: usize } => "subnets_differ", InvalidParameter;
        /// An address and its subnet make no address of a card.
        Subnet { why: String } => "subnet_invalid", InvalidParameter;
        /// A value that should be an IP address is none.
        NoIpAddress { property: &'static str, text: String } => "ip_address_unreadable", InvalidParameter;
    }
}

impl Reason for Network {
    fn text(&self) -> Text {
        match self {
            Self::NoAddress => Text::new(
                "the settings give the network card no address",
                "Give at least one address with its network, as 192.0.2.5/24, or DHCP.",
            ),
            Self::DhcpAndStatic { family } => Text::new(
                format!("the settings have both DHCP and a static address for {family}"),
                "Give each family either DHCP or static addresses.",
            ),
            Self::GatewayIsOwn { gateway, own } => Text::new(
                format!("{gateway} is the default gateway and, as {own}, an address of the card itself"),
                "Give the address of the router in that network as the gateway.",
            ),
            Self::GatewayWithoutAddress { gateway } => Text::new(
                format!("the default gateway {gateway} has no address of its family to be used with"),
                "Give an address of the same family too, or leave the gateway out.",
            ),
            Self::TooMany { what, count, most } => {
                Text::new(format!("{count} {what} for one network card"), format!("Give at most {most}."))
            }
            Self::Twice { what, address } => {
                Text::new(format!("the {what} {address} is given twice"), "Give each one once.")
            }
            Self::Unusable { what, address, why } => Text::new(
                format!("{address} cannot be a {what}: it {why}"),
                format!("Give the address of a {what} that the guest can reach."),
            ),
            Self::TooManyCards { cards } => Text::new(
                format!("network settings for {cards} cards"),
                format!("Give settings for at most {MAX_ADAPTERS} network cards."),
            ),
            Self::CardName { name } => {
                let shown: String = name.chars().take(MAX_ADAPTER_NAME).collect();
                Text::new(
                    format!("{shown:?} is no name of a network card"),
                    "Name the card as the VM's definition does.",
                )
            }
            Self::SubnetsDiffer { addresses, subnets } => Text::new(
                format!("{addresses} IPAddresses and {subnets} Subnets"),
                format!("Give one subnet for each address, in the same order; at most {MAX_ADDRESSES}."),
            ),
            Self::Subnet { why } => Text::new(why.clone(), "Correct IPAddresses and Subnets."),
            Self::NoIpAddress { property, text } => {
                let shown: String = text.chars().take(64).collect();
                Text::new(format!("{property} has {shown:?}"), "Write IP addresses, without a network.")
            }
        }
    }
}
