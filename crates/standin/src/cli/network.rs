//! `standin network`

use super::Session;
use super::vm::path;
use crate::api::types::NetworkRequest;
use crate::args::Network;
use crate::exit::Failure;
use crate::output::network;
use standin_model::network::{AdapterSettings, NetworkChange, NetworkView};

/// Shows the cards, or sets what one of them gets.
pub(super) async fn run(session: &Session, args: Network) -> Result<(), Failure> {
    let vm = args.vm.clone();
    let target = path(&vm, "/network");
    let view: NetworkView = match change(args)? {
        Some(change) => session.client.send(&target, &NetworkRequest { changes: vec![change] }).await?,
        None => session.client.get(&target).await?,
    };
    session.style.print(&view, |view| network::cards(session.look(), view))
}

/// What is to be changed; `None` when nothing but the VM, and maybe a card, was named.
fn change(args: Network) -> Result<Option<NetworkChange>, Failure> {
    let Network { adapter, addresses, gateways, dns, dhcp, clear, .. } = args;
    let nothing = addresses.is_empty() && gateways.is_empty() && dns.is_empty() && !dhcp;
    let settings = match (clear, nothing) {
        (true, _) => None,
        (false, true) => return Ok(None),
        (false, false) => {
            let has = |v4: bool| addresses.iter().any(|address| address.address().is_ipv4() == v4);
            let (dhcp4, dhcp6) = (dhcp && !has(true), dhcp && !has(false));
            let settings = AdapterSettings { dhcp4, dhcp6, addresses, gateways, dns };
            // The daemon would refuse it as well; here it costs no connection.
            settings.validate()?;
            Some(settings)
        }
    };
    Ok(Some(NetworkChange { adapter, settings }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Verb};
    use clap::Parser;

    fn of(options: &str) -> Result<Option<NetworkChange>, Failure> {
        let line = format!("standin network web {options}");
        match Args::try_parse_from(line.split_whitespace()).expect("understood").verb {
            Verb::Network(network) => change(network),
            _ => panic!("not the network verb"),
        }
    }

    #[test]
    fn without_options_it_asks_and_changes_nothing() {
        assert!(of("").is_ok_and(|change| change.is_none()));
        assert!(of("--adapter lan").is_ok_and(|change| change.is_none()));
    }

    #[test]
    fn dhcp_is_for_the_families_without_an_address() {
        let flags = |options| {
            let settings = of(options).ok().flatten().and_then(|change| change.settings).expect("settings");
            (settings.dhcp4, settings.dhcp6)
        };
        assert_eq!(flags("--dhcp"), (true, true));
        assert_eq!(flags("--dhcp --address 192.0.2.5/24"), (false, true));
        assert_eq!(flags("--dhcp --address 2001:db8::5/64"), (true, false));
        assert_eq!(flags("--address 192.0.2.5/24"), (false, false));
    }

    #[test]
    fn clear_names_a_card_and_sets_nothing() {
        let change = of("--adapter dmz --clear").ok().flatten().expect("a change");
        assert_eq!(change, NetworkChange { adapter: Some("dmz".into()), settings: None });
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_asked() {
        for options in ["--gateway 192.0.2.1", "--dns 192.0.2.53", "--address 192.0.2.5/24 --gateway ::2"] {
            assert!(of(options).is_err(), "{options}");
        }
    }
}
