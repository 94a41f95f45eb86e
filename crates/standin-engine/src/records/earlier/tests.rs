use super::super::{receivers, senders};
use super::*;
use standin_model::{Epoch, ReplicationState, VmId};
use standin_state::faulty::{FaultyStore, StopAt};
use standin_state::{MemoryStore, StateStore, Versioned};

/// A primary of the version before, as it was stored.
const PRIMARY: &str = include_str!("primary.json");
/// A replica of the version before that has failed over, as it was stored.
const REPLICA: &str = include_str!("replica.json");

const SENT: &str = "primary/7a2bc7fb-24e3-4e4f-9f2d-9a3f3a3a0001";
const RECEIVED: &str = "replica/7a2bc7fb-24e3-4e4f-9f2d-9a3f3a3a0002";

/// A store with a record of each kind under the keys of the version before.
async fn earlier() -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    store.put(SENT, PRIMARY.into(), Expect::Absent).await.expect("written");
    store.put(RECEIVED, REPLICA.into(), Expect::Absent).await.expect("written");
    store
}

fn here() -> HostId {
    HostId::of_name("here.example")
}

fn tables(store: &Arc<MemoryStore>) -> Tables {
    Tables::new(&(Arc::clone(store) as Arc<dyn StateStore>))
}

fn id(key: &str, index: u32) -> RelationshipId {
    let (_, vm) = key.split_once('/').expect("a table and an id");
    RelationshipId { vm: vm.parse::<VmId>().expect("an id"), index }
}

async fn all(store: &MemoryStore) -> Vec<(String, Versioned)> {
    store.list("").await.expect("readable")
}

async fn keys(store: &MemoryStore) -> Vec<String> {
    all(store).await.into_iter().map(|(key, _)| key).filter(|key| !key.starts_with("vm/")).collect()
}

fn new_key(key: &str, index: u32) -> String {
    format!("relationship/{}", id(key, index))
}

#[tokio::test]
async fn records_of_the_version_before_are_taken_up_whole() {
    let store = earlier().await;
    let tables = tables(&store);
    take_up(&tables, here()).await.expect("taken up");
    assert_eq!(keys(&store).await, [new_key(SENT, 0), new_key(RECEIVED, 0)]);
    let sent = senders(&tables).await.expect("readable").remove(0);
    assert_eq!(sent.id(), id(SENT, 0));
    assert_eq!((sent.state, sent.acknowledged), (ReplicationState::Replicating, Some(Epoch(1))));
    assert_eq!((sent.disks.len(), sent.settings.interval_s), (2, 1));
    let received = receivers(&tables).await.expect("readable").remove(0);
    assert_eq!((received.id(), received.state), (id(RECEIVED, 0), ReplicationState::Recovered));
    let fence = |key: &str| id(key, 0).vm;
    let ours = tables.vms.get(fence(SENT)).await.expect("readable").expect("a fence").0.fence;
    assert!(ours.held_by(here()) && ours.hosts.len() == 1, "{ours:?}");
    let theirs = tables.vms.get(fence(RECEIVED)).await.expect("readable").expect("a fence").0.fence;
    assert!(theirs.held_by(here()) && theirs.claim.number.0 > 1, "it has failed over: {theirs:?}");
    let failover = received.failover.expect("a failover");
    assert!(failover.start && failover.job.is_some());
}

#[tokio::test]
async fn taking_up_a_second_time_changes_nothing() {
    let store = earlier().await;
    take_up(&tables(&store), here()).await.expect("taken up");
    let before = all(&store).await;
    take_up(&tables(&store), here()).await.expect("nothing is left to take up");
    assert_eq!(all(&store).await, before);
}

#[tokio::test]
async fn a_crash_on_the_way_leaves_each_record_at_one_place_and_the_next_start_goes_on() {
    let mut crashes = 0;
    for stop in (1..=2).flat_map(|number| [StopAt::Before(number), StopAt::After(number)]) {
        let store = earlier().await;
        let faulty = Arc::new(FaultyStore::new(Arc::clone(&store) as Arc<dyn StateStore>));
        faulty.stop_at(stop);
        let crashing = Tables::new(&(Arc::clone(&faulty) as Arc<dyn StateStore>));
        tokio::select! {
            taken = take_up(&crashing, here()) => panic!("{stop:?} did not stop it: {taken:?}"),
            () = faulty.stopped() => crashes += 1,
        }
        assert_eq!(keys(&store).await.len(), 2, "{stop:?}");
        take_up(&tables(&store), here()).await.expect("taken up");
        assert_eq!(keys(&store).await, [new_key(SENT, 0), new_key(RECEIVED, 0)], "{stop:?}");
    }
    assert_eq!(crashes, 4);
}

#[tokio::test]
async fn a_record_of_a_newer_version_is_an_error_that_says_so_and_stays() {
    for (key, text) in [(SENT, PRIMARY), (RECEIVED, REPLICA)] {
        let newer = text.replacen("\"schema\":1", "\"schema\":2", 1);
        for key in [key.to_owned(), new_key(key, 0)] {
            let store = Arc::new(MemoryStore::new());
            store.put(&key, newer.clone().into(), Expect::Absent).await.expect("written");
            let tables = tables(&store);
            let read = match take_up(&tables, here()).await {
                Ok(()) => senders(&tables).await.map(drop),
                refused => refused,
            };
            let error = read.expect_err("newer");
            assert!(matches!(error, StateError::NewerSchema { found: 2, known: 1, .. }), "{error}");
            assert!(error.to_string().contains("start the newer standin"), "{error}");
            assert_eq!(keys(&store).await, [key]);
        }
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_named_and_stays() {
    let store = earlier().await;
    store.put(SENT, b"{\"schema\":1,\"record\":{}}".to_vec(), Expect::Any).await.expect("written");
    let error = take_up(&tables(&store), here()).await.expect_err("unreadable");
    assert!(matches!(&error, StateError::BadRecord { key, .. } if key == SENT), "{error}");
    assert!(keys(&store).await.contains(&SENT.to_owned()));
}

#[tokio::test]
async fn what_the_version_before_wrote_after_a_way_back_takes_the_place_of_the_same_role() {
    let store = earlier().await;
    let tables = tables(&store);
    take_up(&tables, here()).await.expect("taken up");
    let later = PRIMARY.replacen("\"failures\":0", "\"failures\":7", 1);
    store.put(SENT, later.into(), Expect::Absent).await.expect("written by the version before");
    take_up(&tables, here()).await.expect("taken up");
    assert_eq!(senders(&tables).await.expect("readable").remove(0).failures, 7);
    assert_eq!(keys(&store).await.len(), 2);
}

#[tokio::test]
async fn a_vm_that_is_received_and_sent_keeps_both_relationships() {
    let store = earlier().await;
    let vm = RECEIVED.trim_start_matches("replica/");
    let sent_on = PRIMARY.replace(SENT.trim_start_matches("primary/"), vm);
    store.put(&format!("primary/{vm}"), sent_on.into(), Expect::Absent).await.expect("written");
    let tables = tables(&store);
    take_up(&tables, here()).await.expect("taken up");
    assert_eq!(keys(&store).await, [new_key(SENT, 0), new_key(RECEIVED, 0), new_key(RECEIVED, 1)]);
    let sent: Vec<_> = senders(&tables).await.expect("readable").iter().map(PrimaryRecord::id).collect();
    assert_eq!(sent, [id(SENT, 0), id(RECEIVED, 1)]);
}
