//! The contract of the trait, on every implementation of it.

use proptest::prelude::*;
use standin_state::faulty::FaultyStore;
use standin_state::store::{MAX_KEY, MAX_OPS, MAX_TRANSACTION};
use standin_state::{Expect, MemoryStore, Op, RedbStore, Revision, StateError, StateStore};
use std::sync::Arc;

/// Runs a check on each implementation.
pub async fn on_every_store(check: impl AsyncFn(Arc<dyn StateStore>)) {
    check(Arc::new(MemoryStore::new())).await;
    check(Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())))).await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    check(Arc::new(RedbStore::open(directory.path().join("state")).expect("an empty store"))).await;
}

pub fn put(key: &str, value: &[u8], expect: Expect) -> Op {
    Op::Put { key: key.to_owned(), value: value.to_vec(), expect }
}

#[tokio::test]
async fn a_record_is_read_back_with_the_revision_of_its_transaction() {
    on_every_store(async |store| {
        assert_eq!(store.get("a").await.expect("readable"), None);
        let first = store.put("a", b"1".to_vec(), Expect::Any).await.expect("written");
        let second = store.put("b", Vec::new(), Expect::Absent).await.expect("written");
        assert!(second > first);
        let found = store.get("a").await.expect("readable").expect("there");
        assert_eq!((found.value.as_slice(), found.revision), (b"1".as_slice(), first));
        assert_eq!(store.get("b").await.expect("readable").expect("there").value, b"");
    })
    .await;
}

#[tokio::test]
async fn a_list_has_what_begins_with_the_prefix_and_nothing_else() {
    on_every_store(async |store| {
        for key in ["job/2", "job/1", "jobs", "job", "jo", "k"] {
            store.put(key, key.as_bytes().to_vec(), Expect::Any).await.expect("written");
        }
        let keys = async |prefix| -> Vec<String> {
            store.list(prefix).await.expect("readable").into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(keys("job/").await, ["job/1", "job/2"]);
        assert_eq!(keys("job").await, ["job", "job/1", "job/2", "jobs"]);
        assert_eq!(keys("z").await, Vec::<String>::new());
        assert_eq!(keys("").await.len(), 6);
    })
    .await;
}

#[tokio::test]
async fn a_stale_writer_is_refused_and_told_what_is_there() {
    on_every_store(async |store| {
        let first = store.put("a", b"1".to_vec(), Expect::Absent).await.expect("written");
        let second = store.put("a", b"2".to_vec(), Expect::At(first)).await.expect("written");
        for expect in [Expect::At(first), Expect::Absent] {
            let error = store.put("a", b"3".to_vec(), expect).await.expect_err("stale");
            assert!(
                matches!(&error, StateError::Conflict { found, .. } if found.0 == Some(second)),
                "{error}"
            );
            assert!(error.to_string().contains("read it again"), "{error}");
        }
        assert!(store.delete("a", Expect::At(first)).await.is_err());
        assert!(store.delete("nothing", Expect::At(first)).await.is_err());
        assert_eq!(store.get("a").await.expect("readable").expect("there").value, b"2");
        store.delete("a", Expect::At(second)).await.expect("removed");
        store.delete("a", Expect::Any).await.expect("that it is gone is no error");
        assert_eq!(store.get("a").await.expect("readable"), None);
    })
    .await;
}

#[tokio::test]
async fn a_transaction_happens_as_a_whole_or_not_at_all() {
    on_every_store(async |store| {
        store.put("a", b"1".to_vec(), Expect::Any).await.expect("written");
        let half = vec![
            put("a", b"2", Expect::Any),
            put("b", b"2", Expect::Any),
            Op::Check { key: "c".to_owned(), expect: Expect::At(Revision(99)) },
        ];
        assert!(matches!(store.transaction(half).await, Err(StateError::Conflict { key, .. }) if key == "c"));
        assert_eq!(store.get("a").await.expect("readable").expect("there").value, b"1");
        assert_eq!(store.get("b").await.expect("readable"), None);
        let steps = vec![
            put("b", b"3", Expect::Absent),
            Op::Delete { key: "a".to_owned(), expect: Expect::Any },
            put("c", b"4", Expect::Absent),
        ];
        let revision = store.transaction(steps).await.expect("it holds");
        let records = store.list("").await.expect("readable");
        assert!(records.iter().all(|(_, record)| record.revision == revision));
        assert_eq!(records.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_names_a_record_twice_is_refused() {
    on_every_store(async |store| {
        let twice = vec![put("a", b"1", Expect::Any), Op::Check { key: "a".to_owned(), expect: Expect::Any }];
        let error = store.transaction(twice).await.expect_err("twice");
        assert!(matches!(&error, StateError::Twice { key } if key == "a"), "{error}");
        assert_eq!(store.get("a").await.expect("readable"), None);
    })
    .await;
}

#[tokio::test]
async fn keys_and_sizes_out_of_range_are_refused_and_nothing_is_written() {
    on_every_store(async |store| {
        let long = "k".repeat(MAX_KEY + 1);
        for bad in ["", "/", "a/", "/a", "a//b", "a b", "a\0", "ä", "a\n", &long] {
            let error = store.put(bad, Vec::new(), Expect::Any).await.expect_err(bad);
            assert!(matches!(error, StateError::BadKey { .. }), "{error}");
            assert!(store.get(bad).await.is_err(), "{bad:?}");
        }
        let longest = "k".repeat(MAX_KEY);
        store.put(&longest, vec![1; MAX_TRANSACTION - MAX_KEY], Expect::Any).await.expect("at the limits");
        let before = store.list("").await.expect("readable").len();
        assert!(matches!(
            store.put("big", vec![1; MAX_TRANSACTION - 2], Expect::Any).await,
            Err(StateError::TooLarge { what, limit: MAX_TRANSACTION, .. }) if what.contains("big")
        ));
        let many = (0..=MAX_OPS).map(|n| put(&format!("m/{n}"), b"", Expect::Any)).collect();
        assert!(matches!(store.transaction(many).await, Err(StateError::TooLarge { limit: MAX_OPS, .. })));
        let heavy =
            (0..5).map(|n| put(&format!("h/{n}"), &vec![1; MAX_TRANSACTION / 5], Expect::Any)).collect();
        assert!(matches!(
            store.transaction(heavy).await,
            Err(StateError::TooLarge { limit: MAX_TRANSACTION, .. })
        ));
        assert_eq!(store.list("").await.expect("readable").len(), before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_writers_that_expect_the_same_exactly_one_wins() {
    on_every_store(async |store| {
        let first = store.put("a", b"0".to_vec(), Expect::Absent).await.expect("written");
        let writers: Vec<_> = (0..8_u8)
            .map(|n| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { store.put("a", vec![n], Expect::At(first)).await.is_ok() })
            })
            .collect();
        let mut wins = 0;
        for writer in writers {
            wins += u32::from(writer.await.expect("no panic"));
        }
        assert_eq!(wins, 1);
    })
    .await;
}

#[tokio::test]
async fn a_reopened_store_has_all_records_and_goes_on_counting() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state");
    let before = {
        let store = RedbStore::open(&path).expect("an empty store");
        store.put("a", b"1".to_vec(), Expect::Any).await.expect("written");
        store.put("b", b"2".to_vec(), Expect::Any).await.expect("written");
        store.list("").await.expect("readable")
    };
    let store = RedbStore::open(&path).expect("the same store");
    assert_eq!(store.list("").await.expect("readable"), before);
    let next = store.put("c", b"3".to_vec(), Expect::Any).await.expect("written");
    assert_eq!(next, Revision(3));
}

fn any_op() -> impl Strategy<Value = Op> {
    let key = prop::sample::select(vec!["a", "a/b", "a/c", "b"]);
    let expect = prop_oneof![
        4 => Just(Expect::Any),
        1 => Just(Expect::Absent),
        2 => (0_u64..12).prop_map(|n| Expect::At(Revision(n))),
    ];
    let value = prop::collection::vec(any::<u8>(), 0..8);
    (0_u8..5, key, value, expect).prop_map(|(kind, key, value, expect)| {
        let key = key.to_owned();
        match kind {
            0 => Op::Delete { key, expect },
            1 => Op::Check { key, expect },
            _ => Op::Put { key, value, expect },
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_file_behaves_like_the_memory(transactions in prop::collection::vec(any_ops(), 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(both_do(transactions))?;
    }
}

/// Each key once.
fn any_ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(any_op(), 0..4).prop_map(|mut ops| {
        ops.sort_by(|a, b| a.key().cmp(b.key()));
        ops.dedup_by(|a, b| a.key() == b.key());
        ops
    })
}

async fn both_do(transactions: Vec<Vec<Op>>) -> Result<(), TestCaseError> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state");
    let memory = MemoryStore::new();
    let mut file = RedbStore::open(&path).expect("an empty store");
    for (index, ops) in transactions.into_iter().enumerate() {
        if index % 5 == 4 {
            drop(file);
            file = RedbStore::open(&path).expect("the same store");
        }
        let expected = memory.transaction(ops.clone()).await.map_err(|error| error.to_string());
        prop_assert_eq!(file.transaction(ops).await.map_err(|error| error.to_string()), expected);
        for prefix in ["", "a", "a/", "c"] {
            let expected = memory.list(prefix).await.expect("readable");
            prop_assert_eq!(file.list(prefix).await.expect("readable"), expected);
        }
    }
    Ok(())
}
