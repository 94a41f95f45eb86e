use jiff::{SignedDuration, Timestamp};
use standin_model::health::{Inputs, assess};
use standin_model::{Health, Refusal, ReplicationState as S, ReturnCode, Side};

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).expect("a time")
}

fn well() -> Inputs {
    Inputs {
        side: Side::Primary,
        state: S::Replicating,
        interval_s: 300,
        cycles_ok: 100,
        cycles_missed: 0,
        average_latency: Some(SignedDuration::from_secs(20)),
        last_transfer_at: now() - SignedDuration::from_secs(300),
        blocked: None,
        application_consistent_failures: 0,
    }
}

fn health(inputs: &Inputs) -> Health {
    let (health, issues) = assess(inputs, now());
    assert_eq!(health > Health::Ok, !issues.is_empty(), "{issues:?}");
    assert!(
        issues.iter().all(|issue| !issue.message.is_empty() && issue.remedy.ends_with('.')),
        "{issues:?}"
    );
    assert!(issues.windows(2).all(|pair| pair[0].severity >= pair[1].severity), "the worst comes first");
    health
}

#[test]
fn every_state_has_the_health_of_the_model() {
    let warning = [1, 2, 4, 5, 6, 12];
    let critical = [8, 9, 10, 11, 16, 17];
    for state in S::ALL.iter().copied() {
        for side in Side::ALL {
            let expected = match state.code() {
                0 => Health::NotApplicable,
                7 if side == Side::Primary => Health::Warning,
                7 => Health::Critical,
                code if warning.contains(&code) => Health::Warning,
                code if critical.contains(&code) => Health::Critical,
                _ => Health::Ok,
            };
            assert_eq!(health(&Inputs { side, state, ..well() }), expected, "{side}, {state}");
        }
    }
}

#[test]
fn more_than_a_fifth_of_missed_cycles_is_a_warning() {
    assert_eq!(health(&Inputs { cycles_ok: 80, cycles_missed: 20, ..well() }), Health::Ok);
    assert_eq!(health(&Inputs { cycles_ok: 79, cycles_missed: 20, ..well() }), Health::Warning);
    assert_eq!(health(&Inputs { cycles_ok: 0, cycles_missed: 0, ..well() }), Health::Ok);
    assert_eq!(health(&Inputs { cycles_ok: u64::MAX, cycles_missed: u64::MAX, ..well() }), Health::Warning);
}

#[test]
fn an_hour_of_silence_is_a_warning_and_grows_with_long_intervals() {
    let silent = |minutes, interval_s| {
        health(&Inputs { last_transfer_at: now() - SignedDuration::from_mins(minutes), interval_s, ..well() })
    };
    assert_eq!(silent(60, 300), Health::Ok);
    assert_eq!(silent(61, 300), Health::Warning);
    assert_eq!(silent(61, 5), Health::Warning, "a shorter interval does not shorten the hour");
    assert_eq!(silent(180, 900), Health::Ok);
    assert_eq!(silent(181, 900), Health::Warning);
    assert_eq!(silent(24 * 60, 86_400), Health::Ok);
}

#[test]
fn an_average_latency_over_five_minutes_is_not_ok() {
    let slow = |seconds, interval_s| {
        health(&Inputs { average_latency: Some(SignedDuration::from_secs(seconds)), interval_s, ..well() })
    };
    assert_eq!(slow(300, 300), Health::Ok);
    assert_eq!(slow(301, 30), Health::Warning);
    assert_eq!(slow(301, 900), Health::Ok);
    assert_eq!(slow(901, 900), Health::Warning);
    assert_eq!(health(&Inputs { average_latency: None, ..well() }), Health::Ok);
}

#[test]
fn a_primary_that_cannot_send_is_critical_with_the_reason_and_its_remedy() {
    let blocked = Refusal::told(
        ReturnCode::NotAvailable,
        "peer_unreachable",
        "host b cannot be reached",
        "Check the link.",
    );
    let (health, issues) = assess(&Inputs { blocked: Some(blocked), cycles_missed: 900, ..well() }, now());
    assert_eq!(health, Health::Critical);
    assert_eq!(issues.len(), 2);
    assert_eq!(
        (issues[0].message.as_str(), issues[0].remedy.as_str()),
        ("host b cannot be reached", "Check the link.")
    );
}

#[test]
fn failed_freezes_are_said() {
    let (health, issues) = assess(&Inputs { application_consistent_failures: 2, ..well() }, now());
    assert_eq!(health, Health::Warning);
    assert!(issues[0].remedy.contains("guest agent"));
}

#[test]
fn a_pause_is_not_told_off_for_missing_cycles() {
    let (_, issues) = assess(
        &Inputs {
            state: S::Suspended,
            cycles_missed: 500,
            last_transfer_at: now() - SignedDuration::from_hours(48),
            ..well()
        },
        now(),
    );
    assert_eq!(issues.len(), 1, "{issues:?}");
}
