//! Watches and leases, on every implementation of the trait.

use crate::contract::{on_every_store, put};
use standin_state::{Change, Expect, Missed, Op, RedbStore, StateError, StateStore, Watch};
use std::time::Duration;

const TTL: Duration = Duration::from_secs(10);

fn written(key: &str, value: &[u8]) -> (String, Option<Vec<u8>>) {
    (key.to_owned(), Some(value.to_vec()))
}

async fn next(watch: &mut Watch) -> Change {
    let next = tokio::time::timeout(Duration::from_secs(20), watch.next());
    next.await.expect("a change comes").expect("none was missed")
}

/// The changes that are there already.
async fn told(watch: &mut Watch, count: usize) -> Vec<(String, Option<Vec<u8>>)> {
    let mut told = Vec::new();
    for _ in 0..count {
        let change = next(watch).await;
        told.push((change.key, change.value));
    }
    told
}

#[tokio::test]
async fn a_watch_tells_what_changes_below_its_prefix_in_order() {
    on_every_store(async |store| {
        store.put("vm/0", b"before".to_vec(), Expect::Any).await.expect("written");
        let mut watch = store.watch("vm/").await.expect("open");
        store.put("vm/1", b"a".to_vec(), Expect::Any).await.expect("written");
        store.put("other/1", b"b".to_vec(), Expect::Any).await.expect("written");
        store.put("vm/1", b"c".to_vec(), Expect::Absent).await.expect_err("it is there");
        let both =
            vec![put("vm/2", b"d", Expect::Any), Op::Delete { key: "vm/1".to_owned(), expect: Expect::Any }];
        let revision = store.transaction(both).await.expect("written");
        store.delete("vm/3", Expect::Any).await.expect("nothing to remove is no error, and no change");
        let last = store.put("vm/4", Vec::new(), Expect::Any).await.expect("written");
        assert_eq!(
            told(&mut watch, 3).await,
            [written("vm/1", b"a"), written("vm/2", b"d"), ("vm/1".to_owned(), None)]
        );
        assert!(last > revision);
        assert_eq!(
            next(&mut watch).await,
            Change { key: "vm/4".into(), revision: last, value: Some(Vec::new()) }
        );
    })
    .await;
}

#[tokio::test]
async fn a_watch_that_lags_is_told_so_once_and_goes_on() {
    on_every_store(async |store| {
        let mut watch = store.watch("").await.expect("open");
        for number in 0..600_u32 {
            store.put("a", number.to_le_bytes().to_vec(), Expect::Any).await.expect("written");
        }
        assert_eq!(watch.next().await, Err(Missed::Lagged));
        let mut newest = next(&mut watch).await;
        assert!(newest.value > Some(0_u32.to_le_bytes().to_vec()));
        while newest.value != Some(599_u32.to_le_bytes().to_vec()) {
            let later = next(&mut watch).await;
            assert!(later.revision > newest.revision);
            newest = later;
        }
    })
    .await;
}

#[tokio::test]
async fn the_record_of_a_lease_goes_with_its_holder() {
    on_every_store(async |store| {
        let mut watch = store.watch("lease/").await.expect("open");
        let lease = store.lease("lease/a", b"me".to_vec(), TTL).await.expect("free");
        assert_eq!((lease.key(), next(&mut watch).await.revision), ("lease/a", lease.revision()));
        let found = store.get("lease/a").await.expect("readable").expect("held");
        assert_eq!((found.value.as_slice(), found.revision), (b"me".as_slice(), lease.revision()));
        let error = store.lease("lease/a", b"you".to_vec(), TTL).await.expect_err("held");
        assert!(matches!(error, StateError::Conflict { .. }), "{error}");
        drop(lease);
        assert_eq!(next(&mut watch).await.value, None);
        store.lease("lease/a", b"you".to_vec(), TTL).await.expect("free again");
    })
    .await;
}

#[tokio::test]
async fn a_lease_is_lost_to_whoever_replaces_its_record_and_does_not_remove_theirs() {
    on_every_store(async |store| {
        let mut lease = store.lease("a", b"me".to_vec(), TTL).await.expect("free");
        store.put("ab", Vec::new(), Expect::Any).await.expect("written");
        let waits = tokio::time::timeout(Duration::from_millis(20), lease.lost());
        waits.await.expect_err("another record is none of its business");
        store.put("a", b"theirs".to_vec(), Expect::Any).await.expect("written");
        tokio::time::timeout(Duration::from_secs(20), lease.lost()).await.expect("lost");
        drop(lease);
        store.put("b", Vec::new(), Expect::Any).await.expect("written after the end of the lease");
        assert_eq!(store.get("a").await.expect("readable").expect("theirs").value, b"theirs");
    })
    .await;
}

#[tokio::test]
async fn a_reopened_file_has_no_lease_of_the_process_before() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state");
    let store = RedbStore::open(&path).expect("an empty store");
    let held = store.lease("lease/a", b"me".to_vec(), TTL).await.expect("free");
    let lost = store.lease("lease/b", b"me".to_vec(), TTL).await.expect("free");
    let kept = store.put("lease/b", b"a record of its own".to_vec(), Expect::Any).await.expect("written");
    drop(store);
    let store = RedbStore::open(&path).expect("the same store");
    let left: Vec<_> = store.list("").await.expect("readable");
    assert_eq!(
        left.iter().map(|(key, record)| (key.as_str(), record.revision)).collect::<Vec<_>>(),
        [("lease/b", kept)]
    );
    // The holders of before have nothing to say here.
    store.lease("lease/a", b"you".to_vec(), TTL).await.expect("free");
    drop((held, lost));
}
