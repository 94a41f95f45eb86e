use standin_model::{DiskName, Policy, RelationshipSettings, ReturnCode, Tier, parse_interval};

fn refused(change: impl FnOnce(&mut RelationshipSettings)) -> String {
    let mut settings = RelationshipSettings::default();
    change(&mut settings);
    let refusal = settings.validate().expect_err("out of range");
    assert_eq!(refusal.code, ReturnCode::InvalidParameter);
    assert!(refusal.remedy.ends_with('.'), "{}", refusal.remedy);
    refusal.message
}

#[test]
fn defaults_and_the_standard_intervals_are_valid() {
    for interval_s in [1, 30, 300, 900, 86_400] {
        assert_eq!(RelationshipSettings { interval_s, ..Default::default() }.validate(), Ok(()));
    }
}

#[test]
fn every_value_out_of_range_is_refused_and_named() {
    assert!(refused(|s| s.interval_s = 0).contains("0 s"));
    assert!(refused(|s| s.interval_s = 86_401).contains("86401 s"));
    assert!(refused(|s| s.history = 25).contains("25"));
    assert!(refused(|s| (s.history, s.application_consistent_hours) = (1, 13)).contains("13 hours"));
    assert!(refused(|s| s.application_consistent_hours = 1).contains("the history is 0"));
    assert!(refused(|s| s.freeze_deadline_s = 0).contains("0 s"));
    for granularity in [0, 2048, 4097, 2 << 20] {
        assert!(refused(|s| s.granularity = granularity).contains(&granularity.to_string()));
    }
    let disk = DiskName::new("vda").expect("a name");
    assert!(refused(|s| s.disks = vec![disk.clone(), disk.clone()]).contains("vda"));
}

#[test]
fn a_policy_that_keeps_too_many_points_for_its_interval_is_refused() {
    let hour = Policy { tiers: vec![Tier { keep_for_s: 7200, every_s: 0 }] };
    assert!(refused(|s| (s.interval_s, s.retention) = (1, Some(hour.clone()))).contains("7201"));
    let slower = RelationshipSettings { interval_s: 30, retention: Some(hour), ..Default::default() };
    assert_eq!(slower.validate(), Ok(()));
}

#[test]
fn application_consistent_points_fit_a_history_or_a_policy() {
    let mut settings =
        RelationshipSettings { history: 24, application_consistent_hours: 12, ..Default::default() };
    assert_eq!(settings.validate(), Ok(()));
    assert_eq!(settings.application_consistent_every_s(), Some(12 * 3600));
    settings.history = 0;
    assert!(settings.validate().is_err());
    settings.retention = Some(Policy { tiers: vec![Tier { keep_for_s: 3600, every_s: 0 }] });
    assert_eq!(settings.validate(), Ok(()));
}

#[test]
fn an_extended_replication_is_not_faster_than_its_source() {
    let first = RelationshipSettings { interval_s: 300, ..Default::default() };
    let extended = |interval_s| RelationshipSettings { interval_s, ..Default::default() };
    assert_eq!(extended(300).validate_extended(&first), Ok(()));
    assert_eq!(extended(900).validate_extended(&first), Ok(()));
    assert!(extended(299).validate_extended(&first).is_err());
    let own = RelationshipSettings { history: 1, application_consistent_hours: 1, ..extended(300) };
    assert!(own.validate_extended(&first).is_err());
}

#[test]
fn intervals_are_read_as_people_write_them() {
    for (text, seconds) in [
        ("30s", 30),
        ("5m", 300),
        ("1h", 3600),
        ("24h", 86_400),
        ("1d", 86_400),
        ("300", 300),
        (" 15min ", 900),
    ] {
        assert_eq!(parse_interval(text), Ok(seconds), "{text}");
    }
}

#[test]
fn text_that_is_no_interval_is_refused() {
    let huge = "9".repeat(300);
    for text in [
        "",
        "s",
        "5 m",
        "-5m",
        "+5m",
        "1.5h",
        "5x",
        "0s",
        "25h",
        "m5",
        "5m5",
        "٣s",
        "99999999999999999999h",
        &huge,
    ] {
        let refusal = parse_interval(text).expect_err(text);
        assert_eq!(refusal.code, ReturnCode::InvalidParameter);
        assert!(refusal.message.len() < 120, "{}", refusal.message);
    }
}

#[test]
fn settings_of_a_newer_version_are_not_half_understood() {
    let json = serde_json::to_string(&RelationshipSettings::default()).expect("plain values");
    assert_eq!(
        serde_json::from_str::<RelationshipSettings>(&json).expect("own JSON"),
        RelationshipSettings::default()
    );
    assert!(serde_json::from_str::<RelationshipSettings>(r#"{"interval_s":30,"turbo":true}"#).is_err());
}
