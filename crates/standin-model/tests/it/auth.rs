use standin_model::{AuthId, AuthorizationEntry, ReturnCode};

fn entry(allowed_primary: &str) -> AuthorizationEntry {
    AuthorizationEntry {
        id: AuthId::random(),
        allowed_primary: allowed_primary.to_owned(),
        trust_group: "default".to_owned(),
        storage_location: "/srv/replicas".into(),
    }
}

fn admits(allowed: &str, names: &[&str]) -> bool {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    entry(allowed).matches(&names)
}

#[test]
fn a_full_name_admits_that_host_without_regard_to_case() {
    assert!(admits("kvm1.example.org", &["KVM1.Example.ORG"]));
    assert!(admits("kvm1.example.org", &["other.test", "kvm1.example.org."]));
    assert!(!admits(
        "kvm1.example.org",
        &["kvm2.example.org", "example.org", "kvm1.example.org.evil.test", ""]
    ));
    assert!(!admits("kvm1.example.org", &[]));
}

#[test]
fn a_wildcard_stands_for_exactly_one_label() {
    assert!(admits("*.example.org", &["kvm1.EXAMPLE.org"]));
    for other in [
        "example.org",
        "a.b.example.org",
        ".example.org",
        "kvm1.example.com",
        "kvm1example.org",
        "a..example.org",
    ] {
        assert!(!admits("*.example.org", &[other]), "{other} was admitted");
    }
}

#[test]
fn a_wildcard_certificate_admits_nobody() {
    assert!(!admits("*.example.org", &["*.example.org"]));
    assert!(!admits("kvm1.example.org", &["*.example.org"]));
}

#[test]
fn a_lone_star_admits_every_authenticated_host() {
    assert!(admits("*", &["anything.test"]));
    assert!(admits("*", &[]));
}

#[test]
fn names_and_places_that_cannot_be_meant_are_refused() {
    for good in ["kvm1", "kvm1.example.org", "*.example.org", "*.lan", "*", "10.0.0.1"] {
        assert_eq!(entry(good).validate(), Ok(()), "{good}");
    }
    let long = format!("{}.org", "a.".repeat(130));
    for bad in [
        "",
        ".",
        "*.",
        "**",
        "*a.org",
        "kvm*.example.org",
        "a.*.org",
        "*.*.org",
        "a b",
        "-a.org",
        "a-.org",
        "a..b",
        "a/b",
        "ä.org",
        &long,
    ] {
        let refusal = entry(bad).validate().expect_err(bad);
        assert_eq!(refusal.code, ReturnCode::InvalidParameter, "{bad}");
    }
    for bad in ["", " a", "a\n", &"x".repeat(65)] {
        assert!(
            AuthorizationEntry { trust_group: bad.to_owned(), ..entry("*") }.validate().is_err(),
            "{bad:?}"
        );
    }
    for bad in ["", "replicas", "/srv/../etc"] {
        assert!(
            AuthorizationEntry { storage_location: bad.into(), ..entry("*") }.validate().is_err(),
            "{bad:?}"
        );
    }
}

#[test]
fn the_most_specific_entry_decides() {
    let entries = [entry("*"), entry("*.example.org"), entry("kvm1.example.org"), entry("kvm1.example.org")];
    let chosen = |name: &str| AuthorizationEntry::choose(&entries, &[name.to_owned()]).map(|entry| entry.id);
    assert_eq!(chosen("kvm1.example.org"), Some(entries[2].id));
    assert_eq!(chosen("kvm2.example.org"), Some(entries[1].id));
    assert_eq!(chosen("elsewhere.test"), Some(entries[0].id));
    assert_eq!(AuthorizationEntry::choose(&entries[1..], &["elsewhere.test".to_owned()]), None);
}
