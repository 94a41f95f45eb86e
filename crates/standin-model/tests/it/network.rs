use standin_model::network::{
    Adapter, AdapterSettings, CimSettings, InterfaceAddress, MAX_ADAPTERS, MacAddress, NetworkSettings,
    ProtocolInterface,
};
use standin_model::{ReturnCode, VmId};

fn settings() -> AdapterSettings {
    AdapterSettings {
        addresses: vec!["192.0.2.5/24".parse().expect("v4"), "2001:db8::5/64".parse().expect("v6")],
        gateways: vec!["192.0.2.1".parse().expect("v4"), "fe80::1".parse().expect("v6")],
        dns: vec!["192.0.2.53".parse().expect("v4")],
        ..AdapterSettings::default()
    }
}

fn refused(change: impl FnOnce(&mut AdapterSettings)) -> String {
    let mut changed = settings();
    change(&mut changed);
    let refusal = changed.validate().expect_err("it should have been refused");
    assert_eq!(refusal.code, ReturnCode::InvalidParameter);
    assert!(refusal.remedy.ends_with('.'), "{}", refusal.remedy);
    refusal.message
}

#[test]
fn both_families_with_gateways_and_servers_are_taken() {
    assert_eq!(settings().validate(), Ok(()));
    let dhcp = AdapterSettings { dhcp4: true, ..AdapterSettings::default() };
    assert_eq!(dhcp.validate(), Ok(()));
}

#[test]
fn five_gateways_are_taken_and_six_are_not() {
    let gateways = |count: u8| (1..=count).map(|n| [192, 0, 2, 100 + n].into()).collect();
    let five = AdapterSettings { gateways: gateways(5), ..settings() };
    assert_eq!(five.validate(), Ok(()));
    assert!(refused(|s| s.gateways = gateways(6)).contains("6 default gateways"));
}

#[test]
fn what_no_guest_can_use_is_refused_and_named() {
    assert!(refused(|s| (s.addresses, s.gateways) = (vec![], vec![])).contains("no address"));
    assert!(refused(|s| s.dhcp4 = true).contains("IPv4"));
    assert!(refused(|s| s.dhcp6 = true).contains("IPv6"));
    assert!(refused(|s| s.addresses.push(s.addresses[0])).contains("192.0.2.5 is given twice"));
    assert!(refused(|s| s.gateways.push(s.gateways[0])).contains("192.0.2.1"));
    assert!(refused(|s| s.dns = vec!["224.0.0.1".parse().expect("an address")]).contains("group"));
    assert!(refused(|s| s.gateways = vec!["192.0.2.5".parse().expect("an address")]).contains("itself"));
    assert!(refused(|s| s.addresses.truncate(1)).contains("fe80::1"));
    assert!(refused(|s| s.addresses = vec![s.addresses[0]; 65]).contains("65 addresses"));
}

#[test]
fn an_address_is_read_with_a_prefix_or_a_mask_and_written_with_a_prefix() {
    for (text, written, subnet) in [
        ("192.0.2.5/24", "192.0.2.5/24", "255.255.255.0"),
        ("192.0.2.5/255.255.255.192", "192.0.2.5/26", "255.255.255.192"),
        ("192.0.2.4/31", "192.0.2.4/31", "255.255.255.254"),
        ("192.0.2.4/32", "192.0.2.4/32", "255.255.255.255"),
        ("2001:DB8::5/64", "2001:db8::5/64", "64"),
    ] {
        let address: InterfaceAddress = text.parse().expect(text);
        assert_eq!((address.to_string(), address.subnet()), (written.to_owned(), subnet.to_owned()));
    }
}

#[test]
fn an_address_that_no_interface_can_have_is_refused() {
    for bad in [
        "192.0.2.5",
        "192.0.2.5/33",
        "192.0.2.5/0",
        "192.0.2.0/24",
        "192.0.2.255/24",
        "127.0.0.1/8",
        "224.0.0.1/4",
        "0.0.0.0/8",
        "255.255.255.255/32",
        "2001:db8::1/129",
        "ff02::1/64",
        "::1/128",
        "::/64",
        "::ffff:192.0.2.5/96",
        "192.0.2.5/255.0.255.0",
        "192.0.2.5/-1",
        "x/24",
        "",
        "/",
    ] {
        assert!(bad.parse::<InterfaceAddress>().is_err(), "{bad:?} was accepted");
    }
}

#[test]
fn the_arrays_of_the_api_become_settings_and_back() {
    let cim = CimSettings::from(&settings());
    assert_eq!(cim.protocol.code(), 4098);
    assert_eq!(cim.subnets, ["255.255.255.0", "64"]);
    assert_eq!(cim.to_settings(), Ok(settings()));
    for code in [0, 1, 4096, 4097, 4098] {
        assert_eq!(ProtocolInterface::from_code(code).map(ProtocolInterface::code), Some(code));
    }
    assert_eq!(ProtocolInterface::from_code(2), None);
}

#[test]
fn dhcp_of_the_api_is_for_the_families_it_names_or_those_without_an_address() {
    let of = |protocol, addresses: &[&str]| {
        let cim = CimSettings {
            protocol,
            dhcp_enabled: true,
            ip_addresses: addresses.iter().map(|&a| a.to_owned()).collect(),
            subnets: addresses.iter().map(|_| "24".to_owned()).collect(),
            ..CimSettings::default()
        };
        cim.to_settings().map(|s| (s.dhcp4, s.dhcp6))
    };
    assert_eq!(of(ProtocolInterface::Ipv4, &[]), Ok((true, false)));
    assert_eq!(of(ProtocolInterface::Ipv6, &["192.0.2.5"]), Ok((false, true)));
    assert_eq!(of(ProtocolInterface::Both, &[]), Ok((true, true)));
    assert_eq!(of(ProtocolInterface::Unknown, &["192.0.2.5"]), Ok((false, true)));
    assert!(of(ProtocolInterface::Ipv4, &["192.0.2.5"]).is_err());
}

#[test]
fn arrays_of_different_lengths_and_unreadable_entries_are_refused() {
    let cim = CimSettings::from(&settings());
    let error = |cim: CimSettings| cim.to_settings().expect_err("refused").message;
    assert!(error(CimSettings { subnets: vec![], ..cim.clone() }).contains("0 Subnets"));
    assert!(error(CimSettings { dns_servers: vec!["dns".into()], ..cim.clone() }).contains("DNSServers"));
    assert!(error(CimSettings { default_gateways: vec!["".into()], ..cim }).contains("DefaultGateways"));
}

#[test]
fn what_was_set_here_goes_before_what_the_primary_sent_card_by_card() {
    let one = |text: &str| AdapterSettings {
        addresses: vec![text.parse().expect("an address")],
        ..AdapterSettings::default()
    };
    let map = |pairs: &[(&str, &str)]| {
        NetworkSettings(pairs.iter().map(|(name, text)| ((*name).to_owned(), one(text))).collect())
    };
    let sent = map(&[("dmz", "192.0.2.5/24"), ("lan", "192.0.2.6/24")]);
    let here = map(&[("lan", "198.51.100.6/24")]);
    let both = sent.overlaid(&here);
    assert_eq!(both, map(&[("dmz", "192.0.2.5/24"), ("lan", "198.51.100.6/24")]));
}

#[test]
fn settings_of_a_peer_are_bounded_in_number_and_name() {
    let many = NetworkSettings((0..=MAX_ADAPTERS).map(|n| (format!("n{n}"), settings())).collect());
    assert!(many.validate().expect_err("too many").message.contains("33"));
    for name in ["", "a\nb", &"x".repeat(65)] {
        let odd = NetworkSettings([(name.to_owned(), settings())].into());
        assert!(odd.validate().is_err(), "{name:?} was accepted");
    }
    let empty = NetworkSettings([("lan".to_owned(), AdapterSettings::default())].into());
    assert!(empty.validate().expect_err("no address").message.contains("network card lan"));
}

#[test]
fn a_card_is_named_by_name_address_or_id_which_is_the_same_on_every_host() {
    let vm = VmId::random();
    let mac: MacAddress = "52:54:00:12:34:56".parse().expect("an address");
    let card = Adapter::new(vm, "lan", mac);
    assert_eq!(card.id, Adapter::new(vm, "lan", mac).id);
    assert_ne!(card.id, Adapter::new(VmId::random(), "lan", mac).id);
    assert_ne!(card.id, Adapter::new(vm, "dmz", mac).id);
    for name in ["lan", "52:54:00:12:34:56", &card.id.to_string()] {
        assert!(card.is_named(name), "{name}");
    }
    assert!(!card.is_named("dmz") && !card.is_named("52:54:00:12:34:57"));
}

#[test]
fn settings_survive_their_json_and_a_bad_address_in_it_is_refused() {
    let text = serde_json::to_string(&settings()).expect("writes");
    assert!(text.contains("\"192.0.2.5/24\""), "{text}");
    assert_eq!(serde_json::from_str::<AdapterSettings>(&text).expect("reads"), settings());
    assert!(serde_json::from_str::<AdapterSettings>(&text.replace("/24", "/99")).is_err());
}
