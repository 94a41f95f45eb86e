//! The directory of certificates: what it holds, what it refuses, what a crash leaves.

use crate::support::{host, names};
use standin_durable::Files;
use standin_durable::faults::Crash;
use standin_wire::PkiDir;
use standin_wire::pki::PkiError;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect()
}

#[test]
fn init_makes_keys_that_only_the_owner_can_read() {
    let host = host();
    let mode =
        |name: &str| std::fs::metadata(host.dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("ca.key"), 0o600);
    assert_eq!(mode("host.key"), 0o600);
    assert_eq!(mode("host.crt"), 0o644);
    assert_eq!(std::fs::metadata(host.dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
    let files: Vec<_> = contents(host.dir.path()).into_keys().collect();
    assert_eq!(files, ["ca.crt", "ca.key", "host.crt", "host.key", "lock", "trusted.crt"], "no left-overs");
}

#[test]
fn init_is_refused_where_something_would_be_lost_and_force_replaces_it() {
    let host = host();
    let before = contents(host.dir.path());
    let error = host.dir.init(&names(&["x"]), false).unwrap_err();
    assert!(matches!(error, PkiError::Exists { .. }) && error.remedy().contains("--force"), "{error}");
    assert_eq!(contents(host.dir.path()), before, "a refusal changed something");
    let old = host.dir.summary().unwrap();
    let new = host.dir.init(&names(&["x.example"]), true).unwrap();
    assert_ne!(new.authority, old.authority);
    assert_eq!(new.names, ["x.example"]);
    host.identity.reload().unwrap();
}

#[test]
fn init_with_names_that_cannot_be_used_writes_nothing() {
    let keep = tempfile::tempdir().unwrap();
    let dir = PkiDir::new(keep.path().join("pki"));
    for bad in [&[][..], &["*.example"], &["a/b"], &["ok", ""]] {
        assert!(matches!(dir.init(&names(bad), false), Err(PkiError::Name { .. })), "{bad:?}");
    }
    assert!(!dir.path().exists());
}

#[test]
fn a_renewed_certificate_keeps_its_names_and_has_a_new_key() {
    let host = host();
    let old = host.dir.summary().unwrap();
    let old_key = std::fs::read(host.dir.path().join("host.key")).unwrap();
    let new = host.dir.renew().unwrap();
    assert_eq!(new.names, ["host-a.example", "localhost", "127.0.0.1"]);
    assert_eq!(new.names, old.names);
    assert_ne!(new.fingerprint, old.fingerprint);
    assert_ne!(std::fs::read(host.dir.path().join("host.key")).unwrap(), old_key);
    let days = (new.not_after - jiff::Timestamp::now()).total(jiff::Unit::Hour).unwrap() / 24.0;
    assert!((364.0..366.0).contains(&days), "{days}");
}

/// Every state that a crash can leave while key and certificate are replaced is a usable identity afterwards.
#[test]
fn a_crash_while_key_and_certificate_are_replaced_leaves_a_pair() {
    let host = host();
    let old = contents(host.dir.path());
    let old_print = host.dir.summary().unwrap().fingerprint;
    let new_print = host.dir.renew().unwrap().fingerprint;
    let new = contents(host.dir.path());
    let put = |name: &str, data: &[u8]| std::fs::write(host.dir.path().join(name), data).unwrap();
    let remove = |name: &str| drop(std::fs::remove_file(host.dir.path().join(name)));
    let (new_key, new_crt) = (&new["host.key"], &new["host.crt"]);
    // The key was not renamed yet: whatever is there beside the old pair, the old pair is it.
    let torn: [&[(&str, &[u8])]; 3] = [
        &[("host.key.new", &new_key[..20])],
        &[("host.key.new", new_key), ("host.crt.new", &new_crt[..20])],
        &[("host.key.new", new_key), ("host.crt.new", new_crt)],
    ];
    let before = torn.into_iter().map(|extra| (extra, &old["host.key"], &old_print));
    // It was renamed: the new certificate has to follow.
    let after: &[(&str, &[u8])] = &[("host.crt.new", new_crt)];
    for (number, (extra, key, expected)) in before.chain([(after, new_key, &new_print)]).enumerate() {
        put("host.key", key);
        put("host.crt", &old["host.crt"]);
        for (name, data) in extra {
            put(name, data);
        }
        let identity = host.dir.identity().unwrap_or_else(|error| panic!("state {number}: {error}"));
        assert_eq!(identity.fingerprint(), *expected, "state {number}");
        for name in ["host.key.new", "host.crt.new"] {
            assert!(!host.dir.path().join(name).exists(), "state {number} keeps {name}");
            remove(name);
        }
    }
}

#[test]
fn a_renewal_that_dies_at_any_step_leaves_a_pair() {
    let host = host();
    let before = contents(host.dir.path());
    let old = host.dir.summary().unwrap().fingerprint;
    for stop in 0..100 {
        let keep = tempfile::tempdir().unwrap();
        for (name, data) in &before {
            std::fs::write(keep.path().join(name), data).unwrap();
        }
        let renewed = PkiDir::over(Files::with(Arc::new(Crash::at(stop))), keep.path()).renew();
        let next = PkiDir::new(keep.path());
        let identity = next.identity().unwrap_or_else(|error| panic!("stop {stop}: {error}"));
        assert_eq!(next.summary().unwrap().fingerprint, identity.fingerprint(), "stop {stop}");
        assert!(contents(keep.path()).keys().eq(before.keys()), "stop {stop} leaves something");
        if let Ok(renewed) = renewed {
            assert_eq!(renewed.fingerprint, identity.fingerprint());
            assert_ne!(renewed.fingerprint, old);
            assert!(stop > 10, "only {stop} steps");
            return;
        }
    }
    panic!("it never ends");
}

#[test]
fn an_authority_is_trusted_once_and_rubbish_not_at_all() {
    let (a, b) = (host(), host());
    let other = std::fs::read_to_string(b.dir.path().join("ca.crt")).unwrap();
    assert_eq!(a.dir.trust(&other).unwrap(), 1);
    assert_eq!(a.dir.trust(&other).unwrap(), 0);
    assert!(matches!(a.dir.trust("rubbish"), Err(PkiError::Unusable { .. })));
    let trusted = std::fs::read_to_string(a.dir.path().join("trusted.crt")).unwrap();
    assert_eq!(trusted.matches("BEGIN CERTIFICATE").count(), 2);
    a.identity.reload().unwrap();
}

#[test]
fn an_authority_whose_key_belongs_to_another_is_refused() {
    let (a, b) = (host(), host());
    std::fs::copy(b.dir.path().join("ca.key"), a.dir.path().join("ca.key")).unwrap();
    let error = a.dir.authority().unwrap_err();
    assert!(error.to_string().contains("ca.key"), "{error}");
}

const PASSPHRASE: &str = "correct horse battery";

#[test]
fn an_exported_authority_opens_with_its_passphrase_only_and_shows_no_secret() {
    let a = host();
    let key = std::fs::read_to_string(a.dir.path().join("ca.key")).unwrap();
    let text = a.dir.export(PASSPHRASE).unwrap();
    let secret: Vec<&str> = key.lines().filter(|line| !line.starts_with('-')).collect();
    assert!(!secret.is_empty() && secret.iter().all(|line| !text.contains(line)), "the key is in the file");
    assert!(text.contains(&a.dir.summary().unwrap().authority), "people see whose authority it is");
    let keep = tempfile::tempdir().unwrap();
    let b = PkiDir::new(keep.path().join("pki"));
    let refused =
        |text: &str, passphrase: &str| b.import(text, passphrase, &names(&["b.example"]), false).unwrap_err();
    assert!(matches!(refused(&text, "correct horse batterz"), PkiError::Passphrase { .. }));
    assert!(matches!(a.dir.export("short").unwrap_err(), PkiError::Passphrase { .. }));
    assert!(matches!(refused("rubbish", PASSPHRASE), PkiError::Unusable { .. }));
    for (from, to) in
        [("\"passes\": 3", "\"passes\": 2"), ("\"memory_kib\": 262144", "\"memory_kib\": 4000000000")]
    {
        assert!(text.contains(from), "{text}");
        refused(&text.replace(from, to), PASSPHRASE);
    }
    assert!(!b.path().join("ca.key").exists(), "a refusal changed something");
}

#[test]
fn an_import_takes_no_authority_away_unless_forced() {
    let (a, b) = (host(), host());
    let text = a.dir.export(PASSPHRASE).unwrap();
    let before = contents(b.dir.path());
    let error = b.dir.import(&text, PASSPHRASE, &[], false).unwrap_err();
    assert!(matches!(error, PkiError::Exists { .. }), "{error}");
    assert_eq!(contents(b.dir.path()), before);
    let summary = b.dir.import(&text, PASSPHRASE, &[], true).unwrap();
    assert_eq!(summary.authority, a.dir.summary().unwrap().authority);
    // The same again is no loss: a host can import what it exported.
    a.dir.import(&text, PASSPHRASE, &[], false).unwrap();
    let mode = std::fs::metadata(b.dir.path().join("ca.key")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
}

#[test]
fn an_import_that_dies_at_any_step_leaves_pairs_and_can_be_repeated() {
    let a = host();
    let text = a.dir.export(PASSPHRASE).unwrap();
    let wanted = a.dir.summary().unwrap().authority;
    // Every guess costs a second: some steps stand for all.
    for step in [0, 3, 7, 11, 14, 17, 20, 24] {
        let b = host();
        let crash = Arc::new(Crash::at(step));
        let dying = PkiDir::over(Files::with(crash), b.dir.path());
        drop(dying.import(&text, PASSPHRASE, &[], true));
        b.dir.identity().unwrap_or_else(|error| panic!("step {step}: {error}"));
        b.dir.authority().unwrap_or_else(|error| panic!("step {step}: {error}"));
        assert_eq!(b.dir.import(&text, PASSPHRASE, &[], true).unwrap().authority, wanted, "step {step}");
        b.dir.identity().unwrap();
    }
}
