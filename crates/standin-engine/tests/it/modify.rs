//! Changing where the replica is: the same replica at another address, and what is not the same replica.

use crate::host::Host;
use crate::host::State;
use crate::link::Link;
use crate::names::another;
use crate::world::{MIB, World, keep_all, random, refused, settings, to};
use standin_engine::Modification;
use standin_model::job::JobState;
use standin_model::state::ReplicationState as S;
use standin_model::{Refusal, ReturnCode, SettingsChange};
use standin_state::MemoryStore;
use standin_wire::PkiDir;
use std::sync::Arc;

impl World {
    pub async fn moves(&self, peer: &str) -> Result<(), Refusal> {
        self.modifies(Modification { peer: Some(peer.to_owned()), ..Modification::default() }).await
    }

    async fn modifies(&self, wanted: Modification) -> Result<(), Refusal> {
        let vm = self.vm;
        self.a.call(move |engine| async move { engine.modify(vm, wanted).await }).await
    }

    fn peer(&self) -> String {
        self.a.engine().primary(self.vm).expect("a primary").snapshot().record.peer
    }

    /// A second way to the replica.
    pub async fn another_address(&self) -> Link {
        let link = Link::new().await;
        link.lead_to(self.b.port());
        link
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replica_is_found_at_its_new_address_and_replication_goes_on() {
    let mut world = World::replicating(settings()).await;
    let link = world.another_address().await;
    world.moves(&link.address()).await.expect("moved");
    assert_eq!(world.peer(), link.address());
    world.link.cut();
    world.write("a", 0, &random(MIB, 41));
    world.proven_point().await;
    world.both_replicate().await;
    world.a.restart(crate::host::End::Kill).await;
    world.write("a", MIB, b"after a restart");
    world.proven_or_newer(&world.latest()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_under_way_is_begun_again_over_the_new_address() {
    let world = World::replicating(settings()).await;
    world.write("a", 0, &random(MIB, 42));
    let job = world.held_cycle(1).await;
    let link = world.another_address().await;
    world.moves(&link.address()).await.expect("moved");
    world.link.cut();
    world.release();
    let ended = world.a.job(job).await;
    assert_eq!(ended.state, JobState::Completed, "{:?}", ended.error);
    world.equals(world.latest().id, &world.contents());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_copy_goes_on_over_the_new_address() {
    let world = World::new().await;
    world.a.fake.faults().stall(standin_hypervisor::fake::Op::Read, 2);
    let job = world.begin(settings()).await;
    world.a.fake.faults().stalled(standin_hypervisor::fake::Op::Read).await;
    let link = world.another_address().await;
    world.moves(&link.address()).await.expect("moved");
    world.link.cut();
    world.release();
    world.done(job).await;
    world.both_replicate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_another_host_is_refused_by_its_name() {
    let world = World::replicating(keep_all()).await;
    let mut other = another(&world, "other");
    other.start().await;
    other.admit("primary.example.org", "one").await;
    let there = format!("localhost:{}", other.port());
    let before = world.peer();
    let wanted = Modification {
        peer: Some(there.clone()),
        settings: SettingsChange { interval_s: Some(7), ..SettingsChange::default() },
        ..Modification::default()
    };
    let refusal = refused(world.modifies(wanted).await, ReturnCode::InvalidParameter);
    assert!(refusal.message.contains("other.example.org"), "{refusal}");
    assert!(refusal.message.contains("replica.example.org"), "{refusal}");
    assert_eq!(world.peer(), before);
    assert_eq!(world.a.engine().settings(world.vm).expect("settings").interval_s, 3600, "all or nothing");
    world.write("a", 0, b"goes on");
    world.proven_point().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_the_same_name_without_the_replica_is_refused() {
    let world = World::replicating(settings()).await;
    let identity = PkiDir::new(world.root().join("pki")).identity().expect("the replica's identity");
    let state = State::Memory(Arc::new(MemoryStore::new()));
    let mut empty = Host::new("replica", world.root().join("empty"), identity, state);
    empty.start().await;
    let there = format!("localhost:{}", empty.port());
    let before = world.peer();
    let refuse = async || refused(world.moves(&there).await, ReturnCode::FileNotFound);
    let refusal = refuse().await;
    assert!(refusal.message.contains("does not have the replica of VM web"), "{refusal}");
    empty.admit("primary.example.org", "one").await;
    refuse().await;
    assert_eq!(world.peer(), before);
    world.write("a", 0, b"goes on");
    world.proven_point().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_at_which_nobody_answers_is_refused() {
    let world = World::replicating(settings()).await;
    let before = world.peer();
    refused(world.moves("localhost:1").await, ReturnCode::NotAvailable);
    assert_eq!(world.peer(), before);
    assert_eq!(world.a.state(world.vm), S::Replicating);
    world.proven_point().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_failed_over_is_found_and_keeps_the_primary_off() {
    let world = World::replicating(keep_all()).await;
    let vm = world.vm;
    let link = world.another_address().await;
    world.link.cut();
    let job = world.b.call(move |engine| async move { engine.failover(vm, to(None, true)).await }).await;
    world.done_on_replica(job.expect("begun")).await;
    world.moves(&link.address()).await.expect("the replica is there");
    assert_eq!(world.peer(), link.address());
    world.a.reaches(vm, S::Critical).await;
    assert!(world.a.status(vm).await.last_error.expect("a reason").message.contains("failed over"));
}
