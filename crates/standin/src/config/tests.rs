use super::*;

const SAMPLE: &str = include_str!("../../../../packaging/standin.toml");

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/standin/standin.toml"))
}

fn complaint(text: &str) -> String {
    parse(text).expect_err("accepted").to_string()
}

/// The sample with every commented-out key switched on.
fn sample_with_every_key() -> String {
    let is_key = |line: &str| {
        line.starts_with("#[")
            || line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase())
    };
    let lines = SAMPLE.lines().map(|line| if is_key(line) { &line[1..] } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.data_dir, Path::new("/var/lib/standin"));
    assert_eq!(config.socket, Path::new("/run/standin/standin.sock"));
    assert_eq!(config.listen.to_string(), "0.0.0.0:28444");
    assert_eq!(config.replica_storage, Path::new("/var/lib/standin/replicas"));
    assert_eq!(config.certificates, Certificates::Builtin("/var/lib/standin/pki".into()));
    assert_eq!(config.kvm, KvmUse::Auto);
    assert_eq!(config.monitoring_interval.as_secs(), 43200);
    assert!(!config.host_name.is_empty());
}

#[test]
fn directories_below_another_follow_it() {
    let config = parse("data_dir = '/srv/s'\nruntime_dir = '/tmp/s'").unwrap();
    assert_eq!(config.socket, Path::new("/tmp/s/standin.sock"));
    assert_eq!(config.scratch_dir, Path::new("/srv/s/scratch"));
    assert_eq!(config.pki_dir, Path::new("/srv/s/pki"));
}

#[test]
fn relative_paths_count_from_the_directory_of_the_file() {
    let config = Config::parse("data_dir = 'state'", Path::new("/opt/a/standin.toml")).unwrap();
    assert_eq!(config.data_dir, Path::new("/opt/a/state"));
}

#[test]
fn the_sample_changes_nothing_and_names_every_key() {
    let mut sample = parse(SAMPLE).unwrap();
    let mut defaults = parse("").unwrap();
    assert_eq!(sample, defaults, "the sample as shipped differs from the defaults");
    let every = sample_with_every_key();
    sample = parse(&every).unwrap_or_else(|error| panic!("{error}\n{every}"));
    for (table, keys) in keys::KEYS {
        for key in keys {
            let header = format!("[{key}]");
            let found = every.lines().any(|line| line.starts_with(&format!("{key} =")) || line == header);
            assert!(found, "[{table}] {key} is missing in packaging/standin.toml");
        }
    }
    // The values shown in the sample are the defaults, except where a key has none.
    defaults.host_name = sample.host_name.clone();
    defaults.socket_group = sample.socket_group.clone();
    defaults.qemu_binary = sample.qemu_binary.clone();
    defaults.certificates = sample.certificates.clone();
    defaults.network_map = sample.network_map.clone();
    defaults.policy.fence_command = sample.policy.fence_command.clone();
    defaults.policy.witness = sample.policy.witness.clone();
    let management = sample.management.clone().unwrap();
    let examples = AccessSettings {
        certificate: management.certificate.clone(),
        key: management.key.clone(),
        client_trust: management.client_trust.clone(),
        users: Some("/var/lib/standin/users.toml".into()),
        audit_log: Some("/var/lib/standin/audit.log".into()),
        keytab: management.keytab.clone(),
        ..AccessSettings::default()
    };
    defaults.management = Some(examples);
    assert_eq!(sample, defaults, "a value shown in the sample is not the default");
}

#[test]
fn the_list_of_keys_is_the_one_that_serde_knows() {
    for (table, keys) in keys::KEYS {
        let text = if table.is_empty() { "zzz = 1".to_owned() } else { format!("[{table}]\nzzz = 1") };
        let error = toml::from_str::<file::File>(&text).expect_err("zzz is no key").to_string();
        for key in keys {
            assert!(error.contains(&format!("`{key}`")), "serde does not know {key}: {error}");
        }
        assert_eq!(error.matches('`').count() / 2 - 1, keys.len(), "serde knows more keys: {error}");
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_valid_one() {
    let text = complaint("# comment\nlisten = '0.0.0.0'\ndata_dri = '/x'\n");
    assert!(text.contains("line 3"), "{text}");
    assert!(text.contains("\"data_dri\"") && text.contains("\"data_dir\""), "{text}");
    let text = complaint("[qemu]\nkwm = 'auto'");
    assert!(text.contains("line 2") && text.contains("in [qemu]") && text.contains("\"kvm\""), "{text}");
}

#[test]
fn an_unknown_key_that_resembles_nothing_lists_the_valid_ones() {
    let text = complaint("[log]\nfrobnication = 1");
    assert!(text.contains("valid keys here are level, format"), "{text}");
}

#[test]
fn a_key_in_the_wrong_table_is_told_where_it_belongs() {
    assert!(complaint("[log]\nlisten = '0.0.0.0'").contains("top of the file"));
    assert!(complaint("kvm = 'never'").contains("[qemu]"));
}

#[test]
fn a_wrong_type_is_told_with_its_line() {
    let text = complaint("\n[limits]\nmax_cycles = \"four\"");
    assert!(
        text.contains("line 3") && text.contains("max_cycles") && text.contains("whole number"),
        "{text}"
    );
    let text = complaint("[qemu]\nkvm = 'sometimes'");
    assert!(text.contains("line 2") && text.contains("auto") && text.contains("never"), "{text}");
}

#[test]
fn text_that_is_no_toml_is_told_with_its_line() {
    let text = complaint("data_dir = '/x'\nsocket = ");
    assert!(text.contains("line 2"), "{text}");
}

#[test]
fn values_out_of_range_are_refused_with_the_range() {
    for (text, hint) in [
        ("[limits]\nmax_cycles = 0", "1 to 1024"),
        ("[monitoring]\ninterval = '10m'", "1h 00m to 7d"),
        ("[monitoring]\nstart = '25:00'", "HH:MM"),
        ("[limits]\nmerge_rate = 'fast'", "KiB"),
        ("listen = 'everywhere'", "0.0.0.0:28444"),
        ("listen = '0.0.0.0:99999'", "0.0.0.0:28444"),
        ("host_name = 'a/b'", "host name"),
        ("host_name = ''", "host name"),
        ("[tls]\nkey = '/k'", "certificate and trust"),
    ] {
        let message = complaint(text);
        assert!(message.contains(hint), "{text}: {message}");
    }
    let long = format!("socket = '/{}'", "x".repeat(120));
    assert!(complaint(&long).contains("107"));
}

#[test]
fn an_address_without_a_port_gets_the_default_one() {
    assert_eq!(parse("listen = '10.0.0.1'").unwrap().listen.to_string(), "10.0.0.1:28444");
    assert_eq!(parse("listen = '::1'").unwrap().listen.to_string(), "[::1]:28444");
    assert_eq!(parse("listen = '[::]:7000'").unwrap().listen.to_string(), "[::]:7000");
}

#[test]
fn a_witness_is_named_by_its_address() {
    let witness = |text: &str| parse(text).unwrap().policy.witness;
    assert_eq!(witness(""), None);
    assert_eq!(witness("[fence]\nwitness = 'gamma'").as_deref(), Some("gamma:28444"));
    assert_eq!(witness("[fence]\nwitness = 'gamma:7000'").as_deref(), Some("gamma:7000"));
    let text = complaint("[fence]\nwitness = 'a b'");
    assert!(text.contains("fence.witness") && text.contains("HOST:PORT"), "{text}");
}

#[test]
fn a_file_that_was_named_must_exist() {
    let error = Config::load(Some(Path::new("/nonexistent/standin.toml"))).expect_err("there is none");
    assert!(error.to_string().contains("/nonexistent/standin.toml"), "{error}");
}

#[test]
fn own_certificates_replace_the_built_in_ones() {
    let config = parse("[tls]\ncertificate = 'h.crt'\nkey = 'h.key'\ntrust = 'ca.crt'").unwrap();
    let expected = |name: &str| Path::new("/etc/standin").join(name);
    assert_eq!(
        config.certificates,
        Certificates::Own {
            certificate: expected("h.crt"),
            key: expected("h.key"),
            trust: expected("ca.crt")
        }
    );
}

#[test]
fn networks_are_mapped_by_names_of_the_operators_own_and_nonsense_is_refused() {
    let config = parse("[network_map]\n\"br-prod\" = \"br-dr\"\nuser = \"none\"").unwrap();
    let network = |text: &str| standin_hypervisor::NicKind::Bridge { bridge: text.into() };
    assert_eq!(config.network_map.here(&network("br-prod")), network("br-dr"));
    assert_eq!(config.network_map.here(&network("other")), network("other"));
    for (text, says) in [
        ("[network_map]\nbr0 = 7", "line 2"),
        ("[network_map]\nbr0 = \"a b\"", "network_map"),
        ("[network_map]\nbr0 = \"vlan:7\"", "tap:NAME"),
        ("network_map = \"br0\"", "line 1"),
    ] {
        assert!(complaint(text).contains(says), "{}", complaint(text));
    }
}

#[test]
fn the_management_api_is_off_until_its_table_is_there_and_its_files_are_in_the_data_directory() {
    let config = parse("data_dir = '/srv/s'").unwrap();
    assert_eq!(config.management, None);
    assert_eq!(config.users_file(), Path::new("/srv/s/users.toml"));
    assert_eq!(config.audit_log(), Path::new("/srv/s/audit.log"));
    let config = parse("[management]\nusers = 'u.toml'").unwrap();
    assert!(config.management.as_ref().is_some_and(|settings| settings.listen.is_loopback()));
    assert_eq!(config.users_file(), Path::new("/etc/standin/u.toml"));
    assert!(complaint("[management]\nkey = 'k'").contains("certificate and key together"));
    assert!(complaint("[management]\nlisten = 'everywhere'").contains("line 2"));
}
