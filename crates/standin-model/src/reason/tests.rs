use super::*;
use crate::settings::parse_interval;
use crate::view::ErrorView;
use crate::{Method, RelationshipSettings, ReplicationState, Side, request};

#[test]
fn a_reason_becomes_a_refusal_with_all_that_is_told_about_it() {
    let refusal =
        RelationshipSettings { history: 25, ..Default::default() }.validate().expect_err("too long");
    assert_eq!(
        (refusal.code, refusal.reason.as_ref()),
        (ReturnCode::InvalidParameter, "history_out_of_range")
    );
    assert_eq!(refusal.message, "a history of 25 hourly recovery points is out of range");
    assert_eq!(refusal.remedy, "Use 0 to 24; for longer ones set a retention policy.");
    let refusal =
        request(Side::Replica, ReplicationState::Suspended, Method::Resynchronize).expect_err("the side");
    assert_eq!((refusal.code, refusal.reason.as_ref()), (ReturnCode::InvalidState, "other_side"));
    assert_eq!(refusal.remedy, "Run it on the host that holds the primary.");
}

#[test]
fn other_words_leave_the_reason() {
    let refusal = parse_interval("soon").expect_err("no interval");
    let retold = refusal.clone().saying("in the file: no interval").with_code(ReturnCode::Failed);
    assert_eq!((retold.reason, retold.code), (refusal.reason, ReturnCode::Failed));
    assert_eq!((retold.message.as_str(), retold.remedy), ("in the file: no interval", refusal.remedy));
}

#[test]
fn a_refusal_goes_round_with_its_reason() {
    let refusal = parse_interval("soon").expect_err("no interval");
    let json = serde_json::to_string(&refusal).expect("plain values");
    assert!(json.contains(r#""reason":"interval_unreadable""#), "{json}");
    assert_eq!(serde_json::from_str::<Refusal>(&json).expect("it is read"), refusal);
}

#[test]
fn a_refusal_of_the_release_before_has_no_reason() {
    let before = r#"{"code":32777,"message":"a cannot be reached","remedy":"Check the link."}"#;
    let refusal: Refusal = serde_json::from_str(before).expect("it is read");
    assert_eq!((refusal.reason.as_ref(), refusal.named()), ("", None));
    assert_eq!(serde_json::to_string(&refusal).expect("plain values"), before);
    let error: ErrorView =
        serde_json::from_str(r#"{"code":32768,"message":"m","remedy":"r","at":null}"#).expect("it is read");
    assert_eq!(error.reason, "");
}

#[test]
fn what_another_host_sends_for_a_name_and_is_none_is_dropped() {
    for wrong in ["two words", "Upper", "é", &"a".repeat(65)] {
        let json = serde_json::json!({"code": 32768, "message": "m", "remedy": "r", "reason": wrong});
        let refusal: Refusal = serde_json::from_value(json).expect("it is read");
        assert_eq!(refusal.reason, "", "{wrong}");
    }
}
