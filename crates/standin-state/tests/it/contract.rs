//! The contract of the trait, on every implementation of it.

use proptest::prelude::*;
use standin_state::store::{MAX_KEY, MAX_OPS, MAX_TRANSACTION, MAX_VALUE};
use standin_state::{Expect, MemoryStore, Op, RedbStore, Revision, StateError, StateStore};
use std::sync::Arc;

/// Runs a check on each implementation.
fn on_every_store(check: impl Fn(&dyn StateStore)) {
    check(&MemoryStore::new());
    let directory = tempfile::tempdir().expect("a temporary directory");
    check(&RedbStore::open(directory.path().join("state")).expect("an empty store"));
}

fn put(key: &str, value: &[u8], expect: Expect) -> Op {
    Op::Put { key: key.to_owned(), value: value.to_vec(), expect }
}

#[test]
fn a_record_is_read_back_with_the_revision_of_its_transaction() {
    on_every_store(|store| {
        assert_eq!(store.get("a").expect("readable"), None);
        let first = store.put("a", b"1".to_vec(), Expect::Any).expect("written");
        let second = store.put("b", Vec::new(), Expect::Absent).expect("written");
        assert!(second > first);
        let found = store.get("a").expect("readable").expect("there");
        assert_eq!((found.value.as_slice(), found.revision), (b"1".as_slice(), first));
        assert_eq!(store.get("b").expect("readable").expect("there").value, b"");
    });
}

#[test]
fn a_list_has_what_begins_with_the_prefix_and_nothing_else() {
    on_every_store(|store| {
        for key in ["job/2", "job/1", "jobs", "job", "jo", "k"] {
            store.put(key, key.as_bytes().to_vec(), Expect::Any).expect("written");
        }
        let keys = |prefix| -> Vec<String> {
            store.list(prefix).expect("readable").into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(keys("job/"), ["job/1", "job/2"]);
        assert_eq!(keys("job"), ["job", "job/1", "job/2", "jobs"]);
        assert_eq!(keys("z"), Vec::<String>::new());
        assert_eq!(keys("").len(), 6);
    });
}

#[test]
fn a_stale_writer_is_refused_and_told_what_is_there() {
    on_every_store(|store| {
        let first = store.put("a", b"1".to_vec(), Expect::Absent).expect("written");
        let second = store.put("a", b"2".to_vec(), Expect::At(first)).expect("written");
        for expect in [Expect::At(first), Expect::Absent] {
            let error = store.put("a", b"3".to_vec(), expect).expect_err("stale");
            assert!(
                matches!(&error, StateError::Conflict { found, .. } if found.0 == Some(second)),
                "{error}"
            );
            assert!(error.to_string().contains("read it again"), "{error}");
        }
        assert!(store.delete("a", Expect::At(first)).is_err());
        assert!(store.delete("nothing", Expect::At(first)).is_err());
        assert_eq!(store.get("a").expect("readable").expect("there").value, b"2");
        store.delete("a", Expect::At(second)).expect("removed");
        store.delete("a", Expect::Any).expect("that it is gone is no error");
        assert_eq!(store.get("a").expect("readable"), None);
    });
}

#[test]
fn a_transaction_happens_as_a_whole_or_not_at_all() {
    on_every_store(|store| {
        store.put("a", b"1".to_vec(), Expect::Any).expect("written");
        let half = vec![
            put("a", b"2", Expect::Any),
            put("b", b"2", Expect::Any),
            Op::Check { key: "c".to_owned(), expect: Expect::At(Revision(99)) },
        ];
        assert!(matches!(store.transaction(half), Err(StateError::Conflict { key, .. }) if key == "c"));
        assert_eq!(store.get("a").expect("readable").expect("there").value, b"1");
        assert_eq!(store.get("b").expect("readable"), None);
        // A later step sees the earlier ones.
        let steps = vec![
            put("b", b"3", Expect::Absent),
            Op::Delete { key: "a".to_owned(), expect: Expect::Any },
            put("a", b"4", Expect::Absent),
        ];
        let revision = store.transaction(steps).expect("it holds");
        let records = store.list("").expect("readable");
        assert!(records.iter().all(|(_, record)| record.revision == revision));
        assert_eq!(records.len(), 2);
    });
}

#[test]
fn keys_and_sizes_out_of_range_are_refused_and_nothing_is_written() {
    on_every_store(|store| {
        let long = "k".repeat(MAX_KEY + 1);
        for bad in ["", "/", "a/", "/a", "a//b", "a b", "a\0", "ä", "a\n", &long] {
            let error = store.put(bad, Vec::new(), Expect::Any).expect_err(bad);
            assert!(matches!(error, StateError::BadKey { .. }), "{error}");
            assert!(store.get(bad).is_err(), "{bad:?}");
        }
        store.put(&"k".repeat(MAX_KEY), vec![1; MAX_VALUE], Expect::Any).expect("at the limits");
        let before = store.list("").expect("readable").len();
        assert!(matches!(
            store.put("big", vec![1; MAX_VALUE + 1], Expect::Any),
            Err(StateError::TooLarge { limit: MAX_VALUE, .. })
        ));
        let many = (0..=MAX_OPS).map(|n| put(&format!("m/{n}"), b"", Expect::Any)).collect();
        assert!(matches!(store.transaction(many), Err(StateError::TooLarge { limit: MAX_OPS, .. })));
        let heavy = (0..17).map(|n| put(&format!("h/{n}"), &vec![1; MAX_VALUE], Expect::Any)).collect();
        assert!(matches!(store.transaction(heavy), Err(StateError::TooLarge { limit: MAX_TRANSACTION, .. })));
        assert_eq!(store.list("").expect("readable").len(), before);
    });
}

#[test]
fn of_writers_that_expect_the_same_exactly_one_wins() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let redb: Arc<dyn StateStore> =
        Arc::new(RedbStore::open(directory.path().join("state")).expect("an empty store"));
    for store in [Arc::new(MemoryStore::new()) as Arc<dyn StateStore>, redb] {
        let first = store.put("a", b"0".to_vec(), Expect::Absent).expect("written");
        let writers: Vec<_> = (0..8_u8)
            .map(|n| {
                let store = Arc::clone(&store);
                std::thread::spawn(move || store.put("a", vec![n], Expect::At(first)).is_ok())
            })
            .collect();
        let wins = writers.into_iter().map(|writer| writer.join().expect("no panic"));
        assert_eq!(wins.filter(|won| *won).count(), 1);
    }
}

#[test]
fn a_reopened_store_has_all_records_and_goes_on_counting() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state");
    let before = {
        let store = RedbStore::open(&path).expect("an empty store");
        store.put("a", b"1".to_vec(), Expect::Any).expect("written");
        store.put("b", b"2".to_vec(), Expect::Any).expect("written");
        store.list("").expect("readable")
    };
    let store = RedbStore::open(&path).expect("the same store");
    assert_eq!(store.list("").expect("readable"), before);
    let next = store.put("c", b"3".to_vec(), Expect::Any).expect("written");
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
    fn the_file_behaves_like_the_memory(transactions in prop::collection::vec(prop::collection::vec(any_op(), 0..4), 1..12)) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("state");
        let memory = MemoryStore::new();
        let mut file = RedbStore::open(&path).expect("an empty store");
        for (index, ops) in transactions.into_iter().enumerate() {
            if index % 5 == 4 {
                drop(file);
                file = RedbStore::open(&path).expect("the same store");
            }
            let expected = memory.transaction(ops.clone()).map_err(|error| error.to_string());
            prop_assert_eq!(file.transaction(ops).map_err(|error| error.to_string()), expected);
            for prefix in ["", "a", "a/", "c"] {
                prop_assert_eq!(file.list(prefix).expect("readable"), memory.list(prefix).expect("readable"));
            }
        }
    }
}
