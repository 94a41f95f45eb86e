use super::*;
use crate::messages::PointOffer;
use standin_hypervisor::Tracker;
use standin_model::network::NetworkSettings;
use standin_model::settings::RelationshipSettings;
use standin_model::state::ReplicationState;
use standin_model::stats::{Monitor, Window};
use standin_model::{Epoch, PointId, PointKind, VmId, VmName};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("a time")
}

fn record(acknowledged: Option<u64>, saved: i64) -> PrimaryRecord {
    PrimaryRecord {
        vm: VmId::random(),
        index: 0,
        name: VmName::new("web").expect("a name"),
        peer: "b:1".to_owned(),
        settings: RelationshipSettings::default(),
        disks: Vec::new(),
        state: ReplicationState::Replicating,
        host: None,
        tracker: Tracker("web".to_owned()),
        acknowledged: acknowledged.map(Epoch),
        last_point_at: Some(at(saved)),
        last_application_at: None,
        last_error: None,
        failures: 0,
        statistics: Monitor::new(Window::default(), at(0)),
        job: None,
        start_at: None,
        last_kind: None,
        created_at: Some(at(0)),
        network: NetworkSettings::default(),
        doubted: false,
        saved_at: Some(at(saved)),
        found: None,
    }
}

fn opened(head: u64, cut: i64) -> Opened {
    let newest = PointOffer { id: PointId::random(), created_at: at(cut), kind: PointKind::Standard };
    Opened {
        generation: Default::default(),
        claim: None,
        head: Some(Epoch(head)),
        has_points: true,
        resumable: false,
        newest: Some(newest),
        points: head,
    }
}

fn said(record: &PrimaryRecord, opened: &Opened) -> String {
    doubt(record, opened).map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn the_same_history_is_believed_also_after_a_kill() {
    for (known, head, cut) in
        [(Some(7), 7, 0), (Some(7), 8, 5000), (Some(7), 12, 9), (None, 0, 0), (None, 1, 9)]
    {
        assert_eq!(said(&record(known, 0), &opened(head, cut)), "", "{known:?} {head} {cut}");
    }
}

#[test]
fn older_disks_of_the_replica_are_said_with_what_is_gone() {
    let text = said(&record(Some(7), 50), &opened(4, 20));
    assert!(text.contains("up to 3 recovery points") && text.contains("after that of"), "{text}");
    let text = said(&record(Some(7), 50), &opened(6, 20));
    assert!(text.contains("lost one recovery point"), "{text}");
}

#[test]
fn an_older_record_of_this_host_is_said() {
    for (known, head) in [(Some(7), 9), (None, 5)] {
        let text = said(&record(known, 0), &opened(head, 60));
        assert!(text.contains("older data directory"), "{known:?} {head}: {text}");
    }
}

#[test]
fn a_replica_that_was_found_is_compared_however_far_it_is() {
    let found = PrimaryRecord { found: Some(4), ..record(None, 0) };
    assert!(said(&found, &opened(1, 0)).contains("found with 4"), "{}", said(&found, &opened(1, 0)));
}
