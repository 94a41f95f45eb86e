//! Who may run a VM: each case in which a VM ran on two hosts, or could not run on any.
//!
//! The hosts are two engines with a link between them that can be cut; `a` is the primary, `b` the replica.

mod kept;
mod silence;
mod third;
mod witness;

use crate::host::{End, Host};
use crate::names::another;
use crate::world::{World, keep_all, refused};
use standin_engine::Enable;
use standin_engine::replica::failover::Failover;
use standin_engine::vm::{AlarmKind, Asserts};
use standin_hypervisor::{Hypervisor, PowerState};
use standin_model::fence::Assertion;
use standin_model::health::Health;
use standin_model::job::JobState;
use standin_model::state::ReplicationState as S;
use standin_model::{JobId, Refusal, ReturnCode};

/// What is asked of a failover here: to the latest point, with a start.
fn start(asserts: Asserts) -> Failover {
    Failover { point: None, start: true, asserts }
}

impl World {
    async fn try_failover(&self, asserts: Asserts) -> Result<JobId, Refusal> {
        let vm = self.vm;
        self.b.call(move |engine| async move { engine.failover(vm, start(asserts)).await }).await
    }

    async fn took_over(&self, asserts: Asserts) {
        let job = self.try_failover(asserts).await.expect("begun");
        self.done_on_replica(job).await;
    }

    async fn start_on(&self, host: &Host, asserted: Option<Assertion>) -> Result<(), Refusal> {
        let vm = self.vm;
        let started = host.call(move |engine| async move { engine.start_vm(vm, asserted).await }).await;
        started.map(|job| assert_eq!(job, None, "it waits"))
    }

    async fn runs_on(&self, host: &Host) -> bool {
        host.fake.inspect(self.vm).await.is_ok_and(|info| info.power == PowerState::Running)
    }

    async fn alarm(&self, host: &Host) -> Option<AlarmKind> {
        let record = host.engine().vm_tasks().record(self.vm);
        record.and_then(|record| record.alarm).map(|alarm| alarm.kind)
    }

    /// The two hosts can call each other.
    async fn linked(&self) {
        let both =
            || !self.b.engine().peers().linked().is_empty() && !self.a.engine().peers().linked().is_empty();
        crate::host::until("a link".to_owned(), || both().then_some(())).await;
    }

    /// The primary's host has died with its VM, and the VM runs on the replica.
    async fn died_and_failed_over(&mut self) {
        self.link.cut();
        // In order, so that what changed is known when it comes back: that is not what these tests are about.
        self.a.fake.clean_stop(self.vm);
        self.a.kill().await;
        self.took_over(Asserts::Down).await;
        assert!(self.runs_on(&self.b).await);
    }

    async fn comes_back(&mut self) {
        // First, so that the claim is told as soon as both speak: the reason of a refusal depends on it.
        self.link.mend();
        self.a.start().await;
    }

    async fn both_agree_that_it_runs_only_on_b(&self) {
        let refusal = refused(self.start_on(&self.a, None).await, ReturnCode::InvalidState);
        assert!(refusal.message.contains("failed over"), "{refusal}");
        assert!(!self.runs_on(&self.a).await && self.runs_on(&self.b).await);
    }
}

async fn replicating() -> World {
    let world = World::replicating(keep_all()).await;
    world.linked().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_and_removed_failover_still_keeps_the_old_primary_from_starting() {
    let mut world = replicating().await;
    world.died_and_failed_over().await;
    world.commit().await;
    let vm = world.vm;
    world.b.call(move |engine| async move { engine.remove(vm).await }).await.expect("removed");
    world.comes_back().await;
    world.both_agree_that_it_runs_only_on_b().await;
    world.a.reaches(vm, S::Critical).await;
    // Not even when its own side of the relationship is removed too, and after a restart.
    world.a.call(move |engine| async move { engine.remove(vm).await }).await.expect("removed");
    world.both_agree_that_it_runs_only_on_b().await;
    world.a.restart(End::Kill).await;
    world.both_agree_that_it_runs_only_on_b().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_entry_or_a_disabled_service_does_not_hide_where_the_vm_lives() {
    let mut world = replicating().await;
    world.died_and_failed_over().await;
    let entry = world.b.engine().replicas().entries()[0].id;
    world
        .b
        .call(move |engine| async move { engine.replicas().remove_entry(entry).await })
        .await
        .expect("removed");
    world.comes_back().await;
    world.both_agree_that_it_runs_only_on_b().await;
    world.commit().await;
    world.both_agree_that_it_runs_only_on_b().await;
    let settings = world.b.engine().service_settings();
    let disabled = standin_model::ServiceSettings { recovery_server_enabled: false, ..settings };
    let set = world.b.call(move |engine| async move { engine.modify_service_settings(disabled).await });
    set.await.expect("disabled");
    world.both_agree_that_it_runs_only_on_b().await;
    // Nor does it in `status`, which has the replica's last word too.
    world.a.restart(End::Stop).await;
    let vm = world.vm;
    crate::host::until("the last word is about something else".to_owned(), || {
        let said = world.a.engine().primary(vm)?.snapshot().record.last_error?;
        (!said.message.contains("failed over")).then_some(())
    })
    .await;
    let status = world.a.status(vm).await;
    assert_eq!(status.health, Health::Critical);
    assert!(status.health_issues[0].message.contains("failed over to"), "{:?}", status.health_issues);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_vm_that_failed_over_does_not_go_on() {
    let world = replicating().await;
    let vm = world.vm;
    world.a.call(move |engine| async move { engine.vm_tasks().pause(vm).await }).await.expect("paused");
    // It answers that it does not run, and accepts that it does not any more: nothing has to be asserted.
    world.took_over(Asserts::Nothing).await;
    world.both_agree_that_it_runs_only_on_b().await;
    world.commit().await;
    world.both_agree_that_it_runs_only_on_b().await;
    assert_eq!(world.a.fake.inspect(vm).await.expect("there").power, PowerState::Paused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_replica_is_no_leave_to_start_and_forcing_is_said_on_both_hosts() {
    let mut world = replicating().await;
    world.died_and_failed_over().await;
    // The replica's daemon is cut off; its VM runs on.
    world.a.start().await;
    let refusal = refused(world.start_on(&world.a, None).await, ReturnCode::NotAvailable);
    assert!(refusal.remedy.contains("--force"), "{refusal:?}");
    assert!(!world.runs_on(&world.a).await);
    world.start_on(&world.a, Some(Assertion::Forced)).await.expect("forced");
    assert!(world.runs_on(&world.a).await, "somebody asserted it");
    // Both took the same number: nothing is paused, both say it, and neither sends.
    world.link.mend();
    for host in [&world.a, &world.b] {
        crate::host::until("both are critical".to_owned(), || {
            let alarm = host.engine().vm_tasks().record(world.vm).and_then(|record| record.alarm);
            alarm.filter(|alarm| alarm.kind == AlarmKind::Rivals)
        })
        .await;
        let status = host.status(world.vm).await;
        assert_eq!(status.health, Health::Critical);
        assert!(status.health_issues.iter().any(|issue| issue.remedy.contains("--keep")), "{status:?}");
    }
    assert!(world.runs_on(&world.a).await && world.runs_on(&world.b).await);
    // A person decides, on either host.
    let vm = world.vm;
    world.b.call(move |engine| async move { engine.keep_copy(vm, true).await }).await.expect("decided");
    crate::host::until("the other copy is stopped".to_owned(), || {
        let stopped = world.a.engine().vm_tasks().record(vm).and_then(|record| record.alarm)?;
        (stopped.kind == AlarmKind::BothRanLower).then_some(())
    })
    .await;
    assert!(!world.runs_on(&world.a).await && world.runs_on(&world.b).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waited_for_a_silent_host_is_ended_by_the_higher_claim_when_they_meet() {
    let mut world = replicating().await;
    world.a.policy.when_silent =
        standin_model::fence::WhenSilent::StartAfter(std::time::Duration::from_secs(1));
    world.died_and_failed_over().await;
    world.a.start().await;
    let vm = world.vm;
    let job =
        world.a.call(move |engine| async move { engine.start_vm(vm, None).await }).await.expect("waits");
    let job = world.a.job(job.expect("a job")).await;
    assert_eq!(job.state, JobState::Completed, "{:?}", job.error);
    let status = world.a.status(vm).await;
    assert!(
        status.health_issues.iter().any(|issue| issue.message.contains("without a confirmation")),
        "{status:?}"
    );
    world.link.mend();
    crate::host::until("the lower copy is paused".to_owned(), || {
        let alarm = world.a.engine().vm_tasks().record(vm).and_then(|record| record.alarm)?;
        (alarm.kind == AlarmKind::BothRanLower && alarm.action.as_deref() == Some("paused")).then_some(())
    })
    .await;
    assert!(!world.runs_on(&world.a).await && world.runs_on(&world.b).await);
    crate::host::until("the other host says it too".to_owned(), || {
        let alarm = world.b.engine().vm_tasks().record(vm).and_then(|record| record.alarm)?;
        (alarm.kind == AlarmKind::BothRanHigher).then_some(())
    })
    .await;
    assert_eq!(world.b.status(vm).await.health, Health::Critical);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_over_a_healthy_primary_is_refused_and_touches_nothing() {
    let world = replicating().await;
    for asserts in [Asserts::Nothing, Asserts::Down] {
        let refusal = refused(world.try_failover(asserts).await, ReturnCode::InUse);
        assert!(refusal.message.contains("runs on"), "{refusal}");
    }
    world.both_replicate().await;
    world.proven_point().await;
    // A primary that is silent needs somebody's word.
    world.link.cut();
    refused(world.try_failover(Asserts::Nothing).await, ReturnCode::NotAvailable);
    assert_eq!(world.b.state(world.vm), S::Replicating);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_runs_is_paused_first_where_that_is_the_policy() {
    let mut world = replicating().await;
    world.b.policy.over_running = standin_model::fence::OverRunning::Pause;
    world.b.restart_behind(&world.link, End::Stop).await;
    world.both_replicate().await;
    world.linked().await;
    world.took_over(Asserts::Nothing).await;
    assert_eq!(world.a.fake.inspect(world.vm).await.expect("there").power, PowerState::Paused);
    assert!(world.runs_on(&world.b).await);
    assert_eq!(world.alarm(&world.a).await, None, "both never ran");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_command_that_succeeds_stands_for_the_primarys_word() {
    let mut world = replicating().await;
    world.link.cut();
    for (command, fenced) in [("/bin/false", false), ("/bin/true", true)] {
        world.b.policy.fence_command = vec![command.to_owned()];
        world.b.restart_behind(&world.link, End::Stop).await;
        let job = world.try_failover(Asserts::Nothing).await.expect("begun");
        let ended = world.b.job(job).await;
        assert_eq!(ended.state == JobState::Completed, fenced, "{:?}", ended.error);
        assert_eq!(world.runs_on(&world.b).await, fenced);
        if !fenced {
            world.revert().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lost_its_records_still_says_that_the_vm_lives_there() {
    let mut world = replicating().await;
    world.died_and_failed_over().await;
    world.b.kill().await;
    world.b.forget_records();
    world.b.start().await;
    world.link.lead_to(world.b.port());
    assert_eq!(world.b.state(world.vm), S::Recovered, "its manifest says so");
    world.comes_back().await;
    world.both_agree_that_it_runs_only_on_b().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resuming_a_returned_primary_says_that_the_vm_lives_elsewhere() {
    let mut world = replicating().await;
    world.died_and_failed_over().await;
    world.commit().await;
    world.comes_back().await;
    world.a.reaches(world.vm, S::Critical).await;
    let vm = world.vm;
    // Critical is also a primary that has not reached its replica yet.
    crate::host::until("it is told where the VM lives".to_owned(), || {
        let fence = world.a.engine().vm_tasks().fence(vm)?;
        (fence.claim.holder != world.a.engine().vm_tasks().me()).then_some(())
    })
    .await;
    let resumed = world.a.call(move |engine| async move { engine.resume(vm).await }).await;
    refused(resumed, ReturnCode::InvalidState);
    assert_eq!(world.a.state(vm), S::Critical);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_data_directory_of_the_primary_learns_where_its_vm_lives() {
    let mut world = replicating().await;
    let backup = world.a.backup().await;
    world.died_and_failed_over().await;
    world.commit().await;
    world.a.restore(&backup).await;
    world.comes_back().await;
    world.both_agree_that_it_runs_only_on_b().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_whose_records_are_from_before_the_relationship_needs_force() {
    let mut world = replicating().await;
    world.died_and_failed_over().await;
    world.a.forget_records();
    std::fs::remove_dir_all(world.a.claims_dir()).expect("removed");
    world.a.start().await;
    // Its images carry marks of a replication that it knows nothing of, and nobody can be asked.
    let refusal = refused(world.start_on(&world.a, None).await, ReturnCode::InUse);
    assert!(refusal.message.contains("marks"), "{refusal}");
    // A new relationship would have a record in which nothing is left of the old one.
    let refusal = refused(world.enable(keep_all(), true).await, ReturnCode::InUse);
    assert!(refusal.message.contains("marks") && refusal.remedy.contains("While it runs"), "{refusal:?}");
    world.start_on(&world.a, None).await.expect_err("as before");
    assert!(!world.runs_on(&world.a).await);
    // What is advised.
    world.start_on(&world.a, Some(Assertion::Forced)).await.expect("forced");
    let mut third = another(&world, "third");
    third.start().await;
    third.admit("primary.example.org", "one").await;
    let vm = world.vm;
    let enable = Enable { peer: format!("localhost:{}", third.port()), settings: keep_all(), start: true };
    world.a.call(move |engine| async move { engine.enable(vm, enable).await }).await.expect("it runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_gives_the_vm_back_and_it_starts_without_a_word() {
    let mut world = replicating().await;
    world.died_and_failed_over().await;
    world.comes_back().await;
    world.both_agree_that_it_runs_only_on_b().await;
    world.revert().await;
    world.start_on(&world.a, None).await.expect("it is back");
    assert!(world.runs_on(&world.a).await && !world.runs_on(&world.b).await);
    world.both_replicate().await;
    world.proven_point().await;
}
