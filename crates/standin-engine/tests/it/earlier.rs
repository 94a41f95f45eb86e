//! What the version before left in the state is gone on with.

use crate::world::{World, every_second};
use serde_json::Value;
use standin_engine::records::{self, Tables};
use standin_state::{Expect, MemoryStore, StateStore};
use std::sync::Arc;

/// Puts the relationships of a host that is down where the version before kept them.
async fn put_back(store: &Arc<MemoryStore>, role: &str, table: &str) {
    for (key, kept) in store.list("relationship/").await.expect("readable") {
        let mut stored: Value = serde_json::from_slice(&kept.value).expect("a record");
        let mut record = stored["record"][role].take();
        record.as_object_mut().expect("a record of this role").remove("index");
        stored["record"] = record;
        let vm = stored["record"]["vm"].as_str().expect("an id").to_owned();
        let value = serde_json::to_vec(&stored).expect("JSON");
        store.put(&format!("{table}/{vm}"), value, Expect::Absent).await.expect("written");
        store.delete(&key, Expect::At(kept.revision)).await.expect("removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn relationships_of_the_version_before_go_on_on_both_sides() {
    let mut world = World::replicating(every_second()).await;
    let (ours, theirs) = (world.a.memory(), world.b.memory());
    world.a.stop().await;
    world.b.stop().await;
    put_back(&ours, "sender", "primary").await;
    put_back(&theirs, "receiver", "replica").await;
    world.b.start().await;
    world.link.lead_to(world.b.port());
    world.a.start().await;
    world.newer_than(&world.point().await).await;
    for store in [ours, theirs] {
        let tables = Tables::new(&(Arc::clone(&store) as Arc<dyn StateStore>));
        assert_eq!(store.list("primary/").await.expect("readable"), []);
        assert_eq!(store.list("replica/").await.expect("readable"), []);
        let all = records::list(&tables.relationships).await.expect("readable");
        assert_eq!(all.len(), 1, "{all:?}");
    }
}
