//! What each host does when the other one is silent: set a VM, told to the other host, and shown before a failover.

use super::replicating;
use crate::host::{End, Host, until};
use crate::world::{World, refused};
use standin_engine::Modification;
use standin_model::fence::{Place, Role, WhenSilent};
use standin_model::view::{FenceHostView, PreflightView};
use standin_model::{Refusal, ReturnCode};
use std::time::Duration;

const TWO_MINUTES: WhenSilent = WhenSilent::StartAfter(Duration::from_secs(120));

impl World {
    async fn set_when_silent(&self, host: &Host, when: Option<WhenSilent>) {
        let (vm, wanted) = (self.vm, Modification { when_silent: Some(when), ..Modification::default() });
        let set = host.call(move |engine| async move { engine.modify(vm, wanted).await });
        set.await.expect("set");
    }

    async fn look(&self) -> Result<PreflightView, Refusal> {
        let vm = self.vm;
        self.b.call(move |engine| async move { engine.preflight(vm, None).await }).await
    }

    /// What the replica knows of its primary.
    async fn primary_as_known(&self) -> FenceHostView {
        let fence = self.b.status(self.vm).await.fence.expect("it replicated");
        fence.hosts.into_iter().find(|host| host.role == Role::Source).expect("the primary")
    }

    async fn replica_hears_that(&self, when: &str) {
        let (engine, vm, when) = (self.b.engine(), self.vm, when.to_owned());
        until(format!("{when} is heard"), move || {
            let record = engine.vm_tasks().record(vm)?;
            record.stances.values().find(|told| told.stance.when_silent.to_string() == when).map(|_| ())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_silence_means_to_the_primary_is_set_a_vm_and_known_to_the_replica() {
    let world = replicating().await;
    world.replica_hears_that("refuse").await;
    let known = world.primary_as_known().await;
    assert_eq!((known.when_peer_is_silent.as_deref(), known.connected), (Some("refuse"), true));
    world.set_when_silent(&world.a, Some(TWO_MINUTES)).await;
    let own = world.a.status(world.vm).await.fence.expect("it replicates");
    assert_eq!((own.when_peer_is_silent.as_str(), own.set_for_vm), ("start-after 2m", true));
    world.replica_hears_that("start-after 2m").await;
    assert_eq!(world.primary_as_known().await.when_peer_is_silent.as_deref(), Some("start-after 2m"));
    world.set_when_silent(&world.a, None).await;
    let own = world.a.status(world.vm).await.fence.expect("it replicates");
    assert_eq!((own.when_peer_is_silent.as_str(), own.set_for_vm), ("refuse", false));
    world.replica_hears_that("refuse").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_says_what_a_silent_primary_does_meanwhile_also_after_a_restart() {
    let mut world = replicating().await;
    world.set_when_silent(&world.a, Some(TWO_MINUTES)).await;
    world.replica_hears_that("start-after 2m").await;
    let vm = world.vm;
    let seen = world.look().await.expect("a look");
    assert_eq!((seen.primary_says, seen.point), (Place::Runs, world.latest().id));
    assert_eq!(seen.refusal.expect("it runs there").code, ReturnCode::InUse);
    world.link.cut();
    world.a.kill().await;
    world.b.restart(End::Kill).await;
    let seen = world.look().await.expect("a look");
    assert_eq!((seen.primary_says, seen.primary.connected), (Place::Silent, false));
    assert_eq!(seen.primary.when_peer_is_silent.as_deref(), Some("start-after 2m"));
    assert!(seen.primary.heard_at.is_some(), "{seen:?}");
    let refusal = refused(world.try_failover(super::Asserts::Nothing).await, ReturnCode::NotAvailable);
    assert!(refusal.message.contains("goes ahead when this host has not answered it for 120 s"), "{refusal}");
    assert_eq!(seen.refusal.expect("nobody asserted anything").remedy, refusal.remedy);
    assert_eq!(world.b.state(vm), standin_model::state::ReplicationState::Replicating, "only looked at");
}
