//! What the version before left in the state is gone on with.

use crate::names::files_named;
use crate::world::{World, every_second};
use serde_json::Value;
use standin_engine::records::{self, Tables};
use standin_engine::replica::failover::Failover;
use standin_engine::vm::Asserts;
use standin_model::health::Health;
use standin_model::state::ReplicationState;
use standin_state::{Expect, MemoryStore, StateStore};
use std::sync::Arc;

/// Puts the relationships of a host that is down where the version before kept them.
async fn put_back(store: &Arc<MemoryStore>, role: &str, table: &str) {
    for (key, kept) in store.list("relationship/").await.expect("readable") {
        let mut stored: Value = serde_json::from_slice(&kept.value).expect("a record");
        let mut record = stored["record"][role].take();
        for later in ["index", "host"] {
            record.as_object_mut().expect("a record of this role").remove(later);
        }
        stored["record"] = record;
        let vm = stored["record"]["vm"].as_str().expect("an id").to_owned();
        let value = serde_json::to_vec(&stored).expect("JSON");
        store.put(&format!("{table}/{vm}"), value, Expect::Absent).await.expect("written");
        store.delete(&key, Expect::At(kept.revision)).await.expect("removed");
    }
}

/// The version before knew no claims and no ids of hosts.
async fn forget_claims(store: &MemoryStore) {
    for table in ["vm/", "peer/"] {
        for (key, kept) in store.list(table).await.expect("readable") {
            store.delete(&key, Expect::At(kept.revision)).await.expect("removed");
        }
    }
}

/// Puts everything of both hosts back into the form of the version before, while they are down.
async fn downgrade(world: &mut World) -> [Arc<MemoryStore>; 2] {
    let stores = [world.a.memory(), world.b.memory()];
    world.a.stop().await;
    world.b.stop().await;
    put_back(&stores[0], "sender", "primary").await;
    put_back(&stores[1], "receiver", "replica").await;
    for store in &stores {
        forget_claims(store).await;
    }
    for claims in [world.a.claims_dir(), world.b.claims_dir()] {
        std::fs::remove_dir_all(claims).expect("removed");
    }
    for beside in files_named(world.root(), "claim.json") {
        std::fs::remove_file(beside).expect("removed");
    }
    stores
}

async fn upgraded(world: &mut World) {
    world.b.start().await;
    world.link.lead_to(world.b.port());
    world.a.start().await;
}

/// Each host is known by its own id, once, and nothing is amiss.
async fn know_each_other(world: &World) {
    for (host, other) in [(&world.a, &world.b), (&world.b, &world.a)] {
        let other = other.engine().vm_tasks().me();
        crate::host::until("the other host is known by its id", || {
            let fence = host.engine().vm_tasks().fence(world.vm)?;
            let holder = fence.claim.holder == world.a.engine().vm_tasks().me();
            (fence.hosts.keys().eq([&other]) && holder).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn relationships_of_the_version_before_go_on_on_both_sides() {
    let mut world = World::replicating(every_second()).await;
    let stores = downgrade(&mut world).await;
    upgraded(&mut world).await;
    world.newer_than(&world.point().await).await;
    for store in stores {
        let tables = Tables::new(&(Arc::clone(&store) as Arc<dyn StateStore>));
        assert_eq!(store.list("primary/").await.expect("readable"), []);
        assert_eq!(store.list("replica/").await.expect("readable"), []);
        let all = records::list(&tables.relationships).await.expect("readable");
        assert_eq!(all.len(), 1, "{all:?}");
    }
    know_each_other(&world).await;
    for host in [&world.a, &world.b] {
        assert_eq!(host.status(world.vm).await.health, Health::Ok);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_of_the_version_before_is_given_back_to_its_primary() {
    let mut world = World::replicating(every_second()).await;
    let vm = world.vm;
    let to = Failover { point: None, start: false, asserts: Asserts::Nothing };
    let job = world.b.call(move |engine| async move { engine.failover(vm, to).await }).await.expect("begun");
    world.done_on_replica(job).await;
    downgrade(&mut world).await;
    upgraded(&mut world).await;
    world.a.reaches(vm, ReplicationState::Critical).await;
    world.revert().await;
    know_each_other(&world).await;
    world.newer_than(&world.latest()).await;
}
