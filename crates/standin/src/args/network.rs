//! `standin network`: what a VM's network cards get at a failover.

use clap::Args as ClapArgs;
use standin_model::network::InterfaceAddress;
use std::net::IpAddr;

const HELP: &str = "\
Examples:
  standin network web                                    the cards and what they get
  standin network web --address 192.0.2.5/24 --gateway 192.0.2.1 --dns 192.0.2.53
  standin network web --adapter dmz --address 198.51.100.5/24 --address 2001:db8::5/64
  standin network web --dhcp
  standin network web --clear

What is given replaces what the card had before. Set on the primary, it travels to the replica; set on the replica, \
it goes before what the primary has. The guest gets it when the VM is started after a failover: by its guest agent, \
or by a cloud-init disk where the VM has no channel for one (guest_agent = true). A revert takes it away.";

/// `standin network`
#[derive(Debug, ClapArgs)]
#[command(after_help = HELP)]
pub struct Network {
    /// Name or UUID of a VM that replicates
    pub vm: String,
    /// The network card: its name, its hardware address or its id; not needed where the VM has one
    #[arg(long, value_name = "CARD")]
    pub adapter: Option<String>,
    /// An address with its network, as 192.0.2.5/24 or 2001:db8::5/64; again for more
    #[arg(long = "address", value_name = "ADDRESS/PREFIX")]
    pub addresses: Vec<InterfaceAddress>,
    /// A default gateway; again for more, at most five
    #[arg(long = "gateway", value_name = "ADDRESS")]
    pub gateways: Vec<IpAddr>,
    /// A DNS server; again for more
    #[arg(long = "dns", value_name = "ADDRESS")]
    pub dns: Vec<IpAddr>,
    /// DHCP, for IPv4 and IPv6 or for that of the two without an address here
    #[arg(long)]
    pub dhcp: bool,
    /// Forget what the card gets; the guest keeps what it has
    #[arg(long, conflicts_with_all = ["addresses", "gateways", "dns", "dhcp"])]
    pub clear: bool,
}
