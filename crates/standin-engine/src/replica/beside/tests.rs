use super::*;
use jiff::Timestamp;
use standin_model::state::ReplicationState as S;
use standin_model::stats::{Monitor, Window};
use standin_model::{AuthId, HostId, VmId, VmName};
use uuid::Uuid;

fn record(replica: u128, revision: u64) -> ReplicaRecord {
    let (vm, name) = (VmId(Uuid::from_u128(1)), VmName::new("web").expect("a name"));
    let statistics = Monitor::new(Window::default(), Timestamp::UNIX_EPOCH);
    ReplicaRecord {
        primary_host: "alpha.example.org".to_owned(),
        host: Some(HostId(Uuid::from_u128(2))),
        auth: AuthId(Uuid::from_u128(3)),
        state: S::Replicating,
        replica: Uuid::from_u128(replica),
        revision,
        ..ReplicaRecord::blank(vm, name, "/var/lib/standin/replicas".into(), statistics)
    }
}

fn chosen(stored: (u128, u64), beside: (u128, u64)) -> (Uuid, u64) {
    let newest = newest(record(stored.0, stored.1), Some(record(beside.0, beside.1)));
    (newest.replica, newest.revision)
}

#[test]
fn of_one_replica_the_newer_record_counts() {
    let one = Uuid::from_u128(7);
    assert_eq!(chosen((7, 4), (7, 5)), (one, 5), "an older database was put back");
    assert_eq!(chosen((7, 5), (7, 4)), (one, 5), "older disks were put back");
    assert_eq!(chosen((7, 5), (7, 5)), (one, 5));
    assert_eq!(newest(record(7, 5), None).revision, 5);
}

#[test]
fn of_two_replicas_the_one_whose_disks_are_there_counts() {
    assert_eq!(chosen((7, 50), (8, 2)), (Uuid::from_u128(8), 2));
}

#[test]
fn what_a_version_before_wrote_since_counts() {
    assert_eq!(chosen((0, 0), (8, 2)), (Uuid::nil(), 0));
}

#[tokio::test]
async fn a_record_comes_back_as_it_was_written_and_damage_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = Files::default();
    assert!(read(&files, dir.path()).expect("readable").is_none());
    write(&files, dir.path().to_owned(), &record(7, 3)).await.expect("written");
    let found = read(&files, dir.path()).expect("readable").expect("there");
    assert_eq!((found.replica, found.revision, found.state), (Uuid::from_u128(7), 3, S::Replicating));
    let path = dir.path().join(NAME);
    let whole = std::fs::read(&path).expect("readable");
    for length in [0, 1, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).expect("written");
        let error = read(&files, dir.path()).expect_err("damaged").to_string();
        assert!(error.contains(NAME), "{length}: {error}");
    }
}
