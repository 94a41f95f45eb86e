//! The store that stops the world.

use standin_state::faulty::{FaultyStore, StopAt};
use standin_state::{Expect, MemoryStore, StateStore};
use std::sync::Arc;
use std::time::Duration;

/// Writes a, b, c, and tells what was acknowledged until the world stopped.
async fn write(store: &Arc<FaultyStore>) -> usize {
    let acknowledged = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (writer, count) = (Arc::clone(store), Arc::clone(&acknowledged));
    let writing = tokio::spawn(async move {
        for key in ["a", "b", "c"] {
            writer.put(key, Vec::new(), Expect::Any).await.expect("a crash is no error");
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    });
    tokio::time::timeout(Duration::from_secs(20), store.stopped()).await.expect("it stops");
    assert!(!writing.is_finished());
    writing.abort();
    acknowledged.load(std::sync::atomic::Ordering::SeqCst)
}

#[tokio::test]
async fn the_world_stops_before_or_after_the_chosen_transaction() {
    for (stop, acknowledged, kept) in [
        (StopAt::Before(2), 1, vec!["a"]),
        (StopAt::After(2), 1, vec!["a", "b"]),
        (StopAt::Before(1), 0, vec![]),
    ] {
        let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
        store.stop_at(stop);
        assert_eq!(write(&store).await, acknowledged, "{stop:?}");
        let found = store.inner().list("").await.expect("the next process reads");
        assert_eq!(found.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), kept, "{stop:?}");
    }
}

#[tokio::test]
async fn no_call_returns_after_the_world_has_stopped() {
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    store.put("a", Vec::new(), Expect::Any).await.expect("written");
    assert_eq!(store.transactions(), 1);
    store.stop();
    let wait = Duration::from_millis(5);
    assert!(tokio::time::timeout(wait, store.get("a")).await.is_err());
    assert!(tokio::time::timeout(wait, store.list("")).await.is_err());
    assert!(tokio::time::timeout(wait, store.watch("")).await.is_err());
    assert!(tokio::time::timeout(wait, store.put("b", Vec::new(), Expect::Any)).await.is_err());
    assert!(tokio::time::timeout(wait, store.lease("c", Vec::new(), wait)).await.is_err());
    assert_eq!(store.inner().list("").await.expect("readable").len(), 1);
}
