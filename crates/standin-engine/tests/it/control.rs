//! What operators ask for, what is refused, and what jobs say in the end.

use crate::host::{End, until};
use crate::world::{
    KIB, MIB, World, disk, every_second, keep_all, random, refused, settings, to, write_identity,
};
use standin_engine::messages::Offer;
use standin_engine::peers::{Peers, TlsTransport};
use standin_engine::primary::session::Session;
use standin_engine::records::Tables;
use standin_engine::{Command, Enable};
use standin_hypervisor::fake::Op;
use standin_model::health::Health;
use standin_model::job::JobState;
use standin_model::settings::RelationshipSettings;
use standin_model::state::{ReplicationMode, ReplicationState as S};
use standin_model::{AuthId, Generation, HostId, JobId, PointId, ReturnCode, SettingsChange, VmId, VmName};
use standin_state::{MemoryStore, StateStore};
use standin_wire::Hello;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_primary_sends_nothing_and_then_everything_since() {
    let world = World::replicating(every_second()).await;
    world.a.ask(world.vm, Command::Suspend).await.expect("suspended");
    until("the end of a cycle", || (world.a.fake.open_views() == 0).then_some(())).await;
    let status = world.a.status(world.vm).await;
    assert_eq!((status.state, status.health), (S::Suspended, Health::Warning));
    let old = world.latest();
    world.write("a", 0, &random(20 * KIB, 101));
    refused(world.a.ask(world.vm, Command::Suspend).await, ReturnCode::InvalidState);
    let begun = std::time::Instant::now();
    until("two slots", || (begun.elapsed().as_millis() > 1500).then_some(())).await;
    assert_eq!(world.latest(), old);
    let expected = world.contents();
    world.a.ask(world.vm, Command::Resume).await.expect("resumed");
    let point = world.newer_than(&old).await;
    world.equals(point.id, &expected);
    assert_eq!(world.a.state(world.vm), S::Replicating);
}

#[tokio::test(flavor = "multi_thread")]
async fn suspending_in_the_middle_of_a_cycle_loses_nothing() {
    let world = World::replicating(keep_all()).await;
    let old = world.latest();
    world.write("a", 0, &random(20 * KIB, 102));
    let job = world.held_cycle(0).await;
    world.a.ask(world.vm, Command::Suspend).await.expect("suspended");
    world.release();
    assert!(world.a.job(job).await.state.is_final());
    assert_eq!((world.latest(), world.a.state(world.vm)), (old.clone(), S::Suspended));
    world.a.ask(world.vm, Command::Resume).await.expect("resumed");
    let point = world.newer_than(&old).await;
    world.equals(point.id, &world.contents());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_replica_takes_nothing_until_it_is_resumed() {
    let mut world = World::replicating(keep_all()).await;
    let vm = world.vm;
    world.b.call(move |engine| async move { engine.suspend(vm).await }).await.expect("suspended");
    let status = world.b.status(vm).await;
    assert_eq!((status.state, status.health), (S::Suspended, Health::Critical));
    let old = world.latest();
    world.write("a", 0, &random(20 * KIB, 103));
    let job = world.order_point().await;
    let error = world.a.job(job).await.error.expect("a reason");
    assert!(error.remedy.contains("standin resume"), "{error:?}");
    assert_eq!(world.latest(), old);
    // It remembers.
    world.b.restart_behind(&world.link, End::Kill).await;
    assert_eq!(world.b.state(vm), S::Suspended);
    world.b.call(move |engine| async move { engine.resume(vm).await }).await.expect("resumed");
    let point = world.newer_than(&old).await;
    world.equals(point.id, &world.contents());
    world.both_replicate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_whose_replica_is_being_paused_hears_why() {
    let world = World::replicating(keep_all()).await;
    world.write("a", 0, &random(MIB, 106));
    let job = world.held_cycle(0).await;
    let vm = world.vm;
    world.b.call(move |engine| async move { engine.suspend(vm).await }).await.expect("suspended");
    world.release();
    let error = world.a.job(job).await.error.expect("a reason");
    assert!(error.message.contains("the replica of VM web is in state Suspended"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_that_a_restart_of_the_primary_interrupts_is_made_up_for() {
    for how in [End::Stop, End::Kill] {
        let mut world = World::replicating(keep_all()).await;
        let old = world.latest();
        world.write("a", 0, &random(30 * KIB, 104));
        let job = world.held_cycle(0).await;
        world.a.restart(how).await;
        world.release();
        assert_eq!(world.latest(), old);
        let ended = world.a.job(job).await;
        assert_ne!(ended.state, JobState::Completed, "{how:?}");
        assert!(ended.error.is_some() && ended.return_code.is_some(), "{ended:?}");
        let point = world.proven_or_newer(&old).await;
        assert!(point.changed_bytes <= 32 * KIB, "{how:?}: {}", point.changed_bytes);
        assert_eq!((world.a.fake.open_views(), world.a.fake.leftovers()), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_that_a_restart_of_the_replica_interrupts_is_made_up_for() {
    for how in [End::Stop, End::Kill] {
        let mut world = World::replicating(keep_all()).await;
        let old = world.latest();
        let before = world.contents();
        world.write("a", 0, &random(MIB, 105));
        let job = world.held_cycle(2).await;
        world.b.restart_behind(&world.link, how).await;
        world.release();
        assert_eq!(world.a.job(job).await.state, JobState::Exception, "{how:?}");
        let expected = world.contents();
        let point = world.newer_than(&old).await;
        world.equals(point.id, &expected);
        world.equals(old.id, &before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_change_on_both_sides_and_not_their_granularity() {
    let world = World::replicating(keep_all()).await;
    let modify = |change: SettingsChange| world.a.ask(world.vm, Command::Modify(Box::new(change.into())));
    let faster = SettingsChange {
        interval_s: Some(1),
        disks: Some(vec![disk("b"), disk("a")]),
        ..SettingsChange::default()
    };
    let old = world.latest();
    modify(faster).await.expect("modified");
    world.write("a", 0, b"by the clock");
    world.newer_than(&old).await;
    assert_eq!(world.b.status(world.vm).await.interval_s, Some(1));
    let coarse = SettingsChange { granularity: Some(65536), ..SettingsChange::default() };
    let refusal = refused(modify(coarse).await, ReturnCode::NotSupported);
    assert!(refusal.message.contains("granularity"), "{refusal}");
    let fewer = SettingsChange { disks: Some(vec![disk("a")]), ..SettingsChange::default() };
    let refusal = refused(modify(fewer).await, ReturnCode::NotSupported);
    assert!(refusal.message.contains("disks"), "{refusal}");
    let never = SettingsChange { interval_s: Some(0), ..SettingsChange::default() };
    refused(modify(never).await, ReturnCode::InvalidParameter);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_32779() {
    let world = World::replicating(settings()).await;
    let nobody = VmId::random();
    refused(world.a.ask(nobody, Command::Resume).await, ReturnCode::FileNotFound);
    let engine = world.a.engine();
    refused(engine.status(nobody).await, ReturnCode::FileNotFound);
    refused(engine.resolve(&VmName::new("nobody").expect("a name")).await, ReturnCode::FileNotFound);
    assert_eq!(engine.resolve(&VmName::new("web").expect("a name")).await.expect("found"), world.vm);
    refused(engine.jobs().cancel(JobId::random()), ReturnCode::FileNotFound);
    let vm = world.vm;
    let unknown_point = world
        .b
        .call(move |engine| async move { engine.failover(vm, to(Some(PointId::random()), false)).await });
    refused(unknown_point.await, ReturnCode::FileNotFound);
    assert_eq!(world.b.state(vm), S::Replicating);
    let other = world.a.fake.add_vm("other", &[("a", MIB)]);
    let missing = RelationshipSettings { disks: vec![disk("zz")], ..settings() };
    let peer = world.link.address();
    let asked = world.a.call(move |engine| async move {
        engine.enable(other, Enable { peer, settings: missing, start: true }).await
    });
    refused(asked.await, ReturnCode::FileNotFound);
    refused(world.b.engine().replicas().remove_entry(AuthId::random()).await, ReturnCode::FileNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_state_does_not_allow_is_32775() {
    let world = World::replicating(settings()).await;
    let vm = world.vm;
    for command in [Command::Start, Command::Resume, Command::Resynchronize, Command::CancelInitial] {
        let refusal = refused(world.a.ask(vm, command).await, ReturnCode::InvalidState);
        assert!(refusal.message.contains("VM web"), "{refusal}");
    }
    refused(world.enable(settings(), true).await, ReturnCode::InvalidState);
    refused(
        world.a.call(move |e| async move { e.failover(vm, to(None, false)).await }).await,
        ReturnCode::InvalidState,
    );
    refused(world.b.call(move |e| async move { e.revert(vm).await }).await, ReturnCode::InvalidState);
    let commit = world.b.call(move |e| async move { e.commit(vm).await });
    assert!(refused(commit.await, ReturnCode::InvalidState).message.contains("VM web"));
    refused(world.b.ask(vm, Command::Point { application: false }).await, ReturnCode::InvalidState);
    refused(world.b.call(move |e| async move { e.resume(vm).await }).await, ReturnCode::InvalidState);
    let removal = world.a.call(move |e| async move { e.remove_vm(vm).await });
    assert!(refused(removal.await, ReturnCode::InUse).message.contains("VM web"));
    named_apart(&world);
    let other = world.a.fake.add_vm("other", &[("a", MIB)]);
    refused(world.a.ask(other, Command::Suspend).await, ReturnCode::InvalidState);
    assert_eq!(world.a.engine().role(other), (ReplicationMode::None, S::Disabled));
}

/// Nobody else can be called as a VM that is sent or received here, be it known to the hypervisor or not.
fn named_apart(world: &World) {
    let web = VmName::new("web").expect("a name");
    let stranger = VmId::random();
    for host in [&world.a, &world.b] {
        let engine = host.engine();
        let taken = refused(engine.may_be_named(stranger, &web), ReturnCode::InUse);
        assert!(taken.message.contains(&world.vm.to_string()), "{taken}");
        assert_eq!(engine.may_be_named(world.vm, &web), Ok(()), "it may be defined again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_before_the_first_point_is_refused() {
    let world = World::new().await;
    world.a.fake.faults().stall(Op::Read, 0);
    world.begin(settings()).await;
    world.a.fake.faults().stalled(Op::Read).await;
    let vm = world.vm;
    refused(
        world.b.call(move |e| async move { e.failover(vm, to(None, false)).await }).await,
        ReturnCode::InvalidState,
    );
    assert_eq!(world.b.state(vm), S::WaitingForInitialReplication);
    world.release();
    world.both_replicate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_authorised_changes_nothing() {
    let world = World::new().await;
    for entry in world.b.engine().replicas().entries() {
        world.b.engine().replicas().remove_entry(entry.id).await.expect("removed");
    }
    let peer = world.link.address();
    let probed = world.a.call(move |engine| async move { engine.test_connection(&peer).await }).await;
    refused(probed, ReturnCode::AccessDenied);
    refused(world.enable(settings(), true).await, ReturnCode::AccessDenied);
    assert!(world.a.engine().primary(world.vm).is_none() && world.b.engine().replicas().list().is_empty());
    assert_eq!(std::fs::read_dir(world.b.replicas_dir()).expect("a directory").count(), 0);
    world.b.admit("*.example.org", "one").await;
    let peer = world.link.address();
    world.a.call(move |engine| async move { engine.test_connection(&peer).await }).await.expect("admitted");
    world.begin(settings()).await;
    world.both_replicate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_lost_its_authorisation_sends_no_more() {
    let world = World::replicating(keep_all()).await;
    let entry = world.b.engine().replicas().entries().remove(0);
    world.b.engine().replicas().remove_entry(entry.id).await.expect("removed");
    world.write("a", 0, b"unwanted");
    let old = world.latest();
    let job = world.order_point().await;
    assert_eq!(world.a.job(job).await.return_code, Some(ReturnCode::AccessDenied));
    world.a.reaches(world.vm, S::Critical).await;
    assert_eq!(world.latest(), old);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_cannot_be_reached_is_32777() {
    let world = World::new().await;
    world.link.cut();
    refused(world.enable(settings(), true).await, ReturnCode::NotAvailable);
    assert!(world.a.engine().primary(world.vm).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_host_of_the_same_trust_group_may_send_for_a_vm() {
    let world = World::replicating(settings()).await;
    let pki = standin_wire::PkiDir::new(world.root().join("pki"));
    let names = |host: &str| vec![format!("{host}.example.org"), "localhost".to_owned()];
    world.b.admit("friend.example.org", "one").await;
    world.b.admit("stranger.example.org", "two").await;
    let record = world.a.engine().primary(world.vm).expect("a primary").snapshot().record;
    for (host, may) in [("friend", true), ("stranger", false)] {
        let issued = pki.issue(&names(host), 30).expect("a certificate");
        let trust = pki.identity_files().trust;
        let dir = world.root().join(host);
        let identity = write_identity(&dir, &issued.certificate, issued.key.as_str(), &trust);
        let transport = Arc::new(TlsTransport::new(identity, Hello::new(host, "standin test")));
        let tables = Tables::new(&(Arc::new(MemoryStore::new()) as Arc<dyn StateStore>));
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let peers = Peers::open(transport, HostId::random(), tables, shutdown, tasks).await.expect("peers");
        let offer = Offer {
            vm: record.vm,
            name: record.name.clone(),
            generation: Generation(1),
            claim: None,
            disks: record.disks.clone(),
            settings: record.settings.clone(),
            network: record.network.clone(),
            acknowledged: None,
        };
        let opened =
            Session::open(&peers, &world.link.address(), offer).await.map(|_| ()).map_err(|e| e.refusal());
        match may {
            true => opened.expect("admitted"),
            false => drop(refused(opened, ReturnCode::AccessDenied)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_another_size_is_refused_and_said() {
    let world = World::replicating(keep_all()).await;
    let old = world.latest();
    world.a.fake.grow(world.vm, "b", 2 * MIB);
    world.write("b", 0, b"x");
    let job = world.order_point().await;
    let ended = world.a.job(job).await;
    let error = ended.error.expect("a reason");
    assert!(error.message.contains("disk b has 2097152 bytes"), "{error:?}");
    world.a.reaches(world.vm, S::Critical).await;
    assert_eq!(world.latest(), old);
    let status = world.a.status(world.vm).await;
    assert_eq!(status.health, Health::Critical);
    assert_eq!((world.a.fake.open_views(), world.a.fake.leftovers()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_with_a_problem_is_refused_before_anything_is_made() {
    let world = World::new().await;
    world.a.fake.set_problem(world.vm, "b", Some("another program has it open"));
    let refusal = refused(world.enable(settings(), true).await, ReturnCode::InvalidParameter);
    assert!(refusal.message.contains("another program has it open"), "{refusal}");
    assert!(world.b.engine().replicas().list().is_empty());
    let only_a = RelationshipSettings { disks: vec![disk("a")], ..settings() };
    let job = world.begin(only_a).await;
    world.done(job).await;
    let contents = world.contents_of(world.latest().id);
    assert_eq!(contents.keys().collect::<Vec<_>>(), [&disk("a")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_on_the_primary_the_replica_keeps_its_points_and_can_fail_over() {
    let world = World::replicating(keep_all()).await;
    let expected = world.contents();
    let vm = world.vm;
    world.a.call(move |engine| async move { engine.remove(vm).await }).await.expect("removed");
    until("its end", || world.a.engine().primary(vm).is_none().then_some(())).await;
    assert_eq!(world.a.engine().role(vm), (ReplicationMode::None, S::Disabled));
    world.equals(world.latest().id, &expected);
    let status = world.b.status(vm).await;
    assert_eq!(status.state, S::Critical);
    assert!(status.last_error.expect("a reason").message.contains("removed"));
    let job =
        world.b.call(move |e| async move { e.failover(vm, to(None, false)).await }).await.expect("begun");
    world.done_on_replica(job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_on_the_replica_the_primary_says_so_and_both_can_begin_anew() {
    let world = World::replicating(keep_all()).await;
    let vm = world.vm;
    world.b.call(move |engine| async move { engine.remove(vm).await }).await.expect("removed");
    assert!(world.b.engine().replicas().list().is_empty());
    let job = world.order_point().await;
    let ended = world.a.job(job).await;
    assert_eq!(ended.return_code, Some(ReturnCode::FileNotFound), "{:?}", ended.error);
    world.a.call(move |engine| async move { engine.remove(vm).await }).await.expect("removed");
    until("its end", || world.a.engine().primary(vm).is_none().then_some(())).await;
    let job = world.begin(keep_all()).await;
    world.done(job).await;
    world.both_replicate().await;
    world.equals(world.latest().id, &world.contents());
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_during_the_first_copy_ends_it_and_its_job() {
    let world = World::new().await;
    world.a.fake.faults().stall(Op::Read, 1);
    let job = world.begin(settings()).await;
    world.a.fake.faults().stalled(Op::Read).await;
    let vm = world.vm;
    world.a.call(move |engine| async move { engine.remove(vm).await }).await.expect("removed");
    assert_eq!(world.a.job(job).await.state, JobState::Terminated);
    assert_eq!((world.a.fake.open_views(), world.a.fake.leftovers()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn made_without_start_it_waits_for_it_also_after_a_restart() {
    let mut world = World::new().await;
    assert_eq!(world.enable(settings(), false).await.expect("enabled"), None);
    assert_eq!(world.a.state(world.vm), S::ReadyForReplication);
    assert_eq!(world.b.state(world.vm), S::WaitingForInitialReplication);
    world.a.restart(End::Kill).await;
    world.b.restart_behind(&world.link, End::Kill).await;
    assert_eq!(world.a.state(world.vm), S::ReadyForReplication);
    let job = world.a.ask(world.vm, Command::Start).await.expect("started").expect("a job");
    world.done(job).await;
    world.both_replicate().await;
    world.equals(world.latest().id, &world.contents());
}

#[tokio::test(flavor = "multi_thread")]
async fn three_failures_are_critical_and_the_first_success_ends_that() {
    let world = World::replicating(keep_all()).await;
    world.write("a", 0, b"x");
    world.a.fake.faults().fail(Op::Cut, 0, u64::MAX);
    let old = world.latest();
    world.order_point().await;
    world.a.reaches(world.vm, S::Critical).await;
    let status = world.a.status(world.vm).await;
    assert_eq!(status.health, Health::Critical);
    assert!(status.statistics.expect("statistics").cycles_failed >= 3);
    let error = status.last_error.expect("an error");
    assert!(error.message.contains("cut the disks") && !error.remedy.is_empty(), "{error:?}");
    world.a.fake.faults().clear();
    world.a.ask(world.vm, Command::Resume).await.expect("resumed");
    let point = world.newer_than(&old).await;
    world.equals(point.id, &world.contents());
    world.a.reaches(world.vm, S::Replicating).await;
}

impl World {
    /// After a restart either the schedule or this call makes the next point.
    pub async fn proven_or_newer(&self, old: &standin_model::RecoveryPoint) -> standin_model::RecoveryPoint {
        let expected = self.contents();
        let point = self.newer_than(old).await;
        self.equals(point.id, &expected);
        point
    }
}
