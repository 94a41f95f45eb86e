use jiff::Timestamp;
use serde_json::{Value, json};
use standin_model::view::{CheckView, ErrorView, JobView, PointView, ProgressView, StatusView};
use standin_model::{
    Epoch, Generation, Health, JobRecord, JobType, PointId, PointKind, RecoveryPoint, Refusal,
    ReplicationMode, ReplicationState, ReturnCode, VmId, VmName,
};

fn at() -> Timestamp {
    Timestamp::from_second(1_700_000_000).expect("a time")
}

fn name() -> VmName {
    VmName::new("web-1").expect("a name")
}

/// Every one of `fields` is there, `null` or not.
fn has_fields(value: &Value, fields: &[&str]) {
    let object = value.as_object().expect("an object");
    for field in fields {
        assert!(object.contains_key(*field), "{field} is missing in {value}");
    }
    let snake = |key: &String| key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    assert!(object.keys().all(snake), "{value}");
}

#[test]
fn status_has_the_promised_fields_even_when_they_are_unknown() {
    let status = StatusView {
        vm: name(),
        primary_name: None,
        id: VmId::random(),
        mode: ReplicationMode::Primary,
        state: ReplicationState::WaitingForInitialReplication,
        state_code: 2,
        health: Health::Warning,
        health_code: 2,
        health_issues: Vec::new(),
        peer: None,
        interval_s: None,
        last_point_at: None,
        lag_s: None,
        pending_bytes: None,
        last_error: None,
        power: None,
        accelerator: None,
        generation: Generation(1),
        fence: None,
        points: 0,
        last_application_consistent_at: None,
        progress: Some(ProgressView::new(1, 4, 1)),
        statistics: None,
        disks: Vec::new(),
    };
    let value = serde_json::to_value(&status).expect("plain values");
    has_fields(
        &value,
        &[
            "vm",
            "primary_name",
            "id",
            "mode",
            "state",
            "state_code",
            "health",
            "peer",
            "interval_s",
            "last_point_at",
            "lag_s",
            "pending_bytes",
            "last_error",
        ],
    );
    assert_eq!(value["state"], json!("waiting_for_initial_replication"));
    assert_eq!(value["mode"], json!("primary"));
    assert_eq!(value["health"], json!("warning"));
    assert_eq!(value["last_point_at"], Value::Null);
    assert_eq!(value["progress"]["remaining_s"], json!(3));
    assert_eq!(serde_json::from_value::<StatusView>(value).expect("own JSON"), status);
}

#[test]
fn a_point_shows_its_fields_and_times_in_utc() {
    let point = RecoveryPoint {
        id: PointId::random(),
        epoch: Epoch(7),
        created_at: at(),
        received_at: at(),
        kind: PointKind::ApplicationConsistent,
        changed_bytes: 5,
        stored_bytes: 6,
        digest: "ab".to_owned(),
        pinned: true,
    };
    let value = serde_json::to_value(PointView::new(&point, name(), VmName::new("web").expect("a name")))
        .expect("plain values");
    has_fields(
        &value,
        &[
            "vm",
            "primary_name",
            "id",
            "epoch",
            "created_at",
            "kind",
            "changed_bytes",
            "stored_bytes",
            "digest",
            "pinned",
        ],
    );
    assert_eq!(value["created_at"], json!("2023-11-14T22:13:20Z"));
    assert_eq!((&value["vm"], &value["primary_name"]), (&json!("web-1"), &json!("web")));
    assert_eq!(value["kind"], json!("application_consistent"));
    assert_eq!((&value["epoch"], &value["pinned"]), (&json!(7), &json!(true)));
}

#[test]
fn a_failed_job_shows_code_error_and_remedy() {
    let mut job =
        JobRecord::new(JobType::InitiateFailover, "root", at()).for_vm(VmId::random(), name()).cancellable();
    job.start(at()).expect("a new job starts");
    job.fail(
        Refusal::told(ReturnCode::FileNotFound, "unknown_point", "no such point", "See `standin points`."),
        at(),
    )
    .expect("it runs");
    let value = serde_json::to_value(JobView::from(&job)).expect("plain values");
    has_fields(
        &value,
        &["id", "type_code", "type", "state", "state_code", "percent", "return_code", "error", "remedy"],
    );
    assert_eq!((&value["type_code"], &value["type"]), (&json!(97), &json!("initiate_failover")));
    assert_eq!((&value["state"], &value["state_code"]), (&json!("exception"), &json!(10)));
    assert_eq!((&value["return_code"], &value["error"]), (&json!(32779), &json!("no such point")));
    assert_eq!(value["reason"], json!("unknown_point"));
    assert_eq!((&value["remedy"], &value["vm"]), (&json!("See `standin points`."), &json!("web-1")));
    assert_eq!(value["cancellable"], json!(false), "it has ended");
}

#[test]
fn progress_is_computed_without_overflow_and_without_dividing_by_zero() {
    let progress = ProgressView::new(u64::MAX - 1, u64::MAX, 0);
    assert_eq!((progress.percent, progress.remaining_s), (99, None));
    assert_eq!(ProgressView::new(5, 0, 7).percent, 0);
    assert_eq!(ProgressView::new(9, 5, 7).percent, 100);
    assert_eq!(ProgressView::new(0, 10, 3).remaining_s, Some(4));
}

#[test]
fn errors_and_checks_keep_their_shape() {
    let error =
        ErrorView::new(Refusal::told(ReturnCode::Timeout, "too_slow", "too slow", "Wait."), Some(at()));
    let value = serde_json::to_value(error).expect("plain values");
    assert_eq!(
        value,
        json!({
            "code": 32772, "reason": "too_slow", "message": "too slow", "remedy": "Wait.",
            "at": "2023-11-14T22:13:20Z",
        })
    );
    let check = CheckView {
        vm: name(),
        id: VmId::random(),
        good: true,
        checked_bytes: 1,
        points: Vec::new(),
        problems: Vec::new(),
    };
    has_fields(
        &serde_json::to_value(check).expect("plain values"),
        &["vm", "id", "good", "points", "problems"],
    );
}
