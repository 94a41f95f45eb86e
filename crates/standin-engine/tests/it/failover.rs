//! Failover: to the latest point and to older ones, back, and for good; and the primary that finds out.

use crate::host::{End, until};
use crate::world::{Contents, KIB, World, disk, every_second, keep_all, random, refused, to};
use standin_engine::{Command, Enable};
use standin_hypervisor::fake::Op;
use standin_hypervisor::{DiskDefinition, DiskFormat, Hypervisor, PowerState, VmDefinition};
use standin_model::fence::Assertion;
use standin_model::health::Health;
use standin_model::job::{JobState, JobType};
use standin_model::state::ReplicationState as S;
use standin_model::{JobId, PointId, RecoveryPoint, Refusal, ReturnCode, VmName};
use standin_nbd::{Client, Target};
use std::time::{Duration, Instant};

impl World {
    pub async fn fail_over(&self, point: Option<PointId>, start: bool) -> Result<JobId, Refusal> {
        let vm = self.vm;
        self.b.call(move |engine| async move { engine.failover(vm, to(point, start)).await }).await
    }

    pub async fn failed_over(&self, point: Option<PointId>, start: bool) {
        let job = self.fail_over(point, start).await.expect("begun");
        self.done_on_replica(job).await;
        assert_eq!(self.b.state(self.vm), S::Recovered);
    }

    pub async fn revert(&self) {
        let vm = self.vm;
        let job = self.b.call(move |engine| async move { engine.revert(vm).await }).await.expect("begun");
        self.done_on_replica(job).await;
    }

    pub async fn commit(&self) {
        let vm = self.vm;
        let job = self.b.call(move |engine| async move { engine.commit(vm).await }).await.expect("begun");
        self.done_on_replica(job).await;
        assert_eq!(self.b.state(vm), S::Committed);
    }

    /// The replica VM stands on overlays of the point, whose contents are the point's.
    pub async fn stands_on(&self, point: &RecoveryPoint) {
        let info = self.b.fake.inspect(self.vm).await.expect("the replica VM is defined");
        assert_eq!(info.name.as_str(), "web");
        let replica = self.b.engine().replicas().find(self.vm).expect("a replica");
        let overlay = replica.store().overlays().pop().expect("an overlay");
        assert_eq!(overlay.point, point.id);
        for entry in &info.definition.disks {
            assert!(entry.file.is_file(), "{} is missing", entry.file.display());
            assert_eq!(entry.file, overlay.disks[&entry.name].path);
        }
        assert_eq!(info.disks.len(), 2);
        assert_eq!(info.disks[0].size, crate::world::SIZE_A);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn to_the_latest_point_then_back_and_on_again() {
    let world = World::replicating(keep_all()).await;
    let first = world.latest();
    world.write("a", 0, b"newer");
    let second = world.proven_point().await;
    let expected = world.contents();
    world.a.fake.pause(world.vm).await.expect("paused");
    world.failed_over(None, true).await;
    world.stands_on(&second).await;
    let info = world.b.fake.inspect(world.vm).await.expect("defined");
    assert_eq!(info.power, PowerState::Running);
    let status = world.b.status(world.vm).await;
    assert_eq!((status.state_code, status.health, status.points), (5, Health::Warning, 2));
    refused(world.fail_over(None, false).await, ReturnCode::InvalidState);
    world.revert().await;
    assert_eq!(world.b.state(world.vm), S::Replicating);
    assert!(world.b.fake.inspect(world.vm).await.is_err(), "the replica VM is gone");
    world.failed_over(Some(first.id), false).await;
    world.stands_on(&first).await;
    let info = world.b.fake.inspect(world.vm).await.expect("defined");
    assert_eq!(info.power, PowerState::Off);
    let vm = world.vm;
    world.b.call(move |engine| async move { engine.start_vm(vm, None).await }).await.expect("started");
    // The points under the overlay are as they were.
    world.equals(second.id, &expected);
    world.commit().await;
    assert!(world.points().is_empty(), "there is no way back");
    let info = world.b.fake.inspect(vm).await.expect("defined");
    assert_eq!(info.power, PowerState::Running);
    assert!(info.definition.disks.iter().all(|disk| disk.file.is_file()));
    for refusal in [
        world.b.call(move |engine| async move { engine.revert(vm).await }).await,
        world.b.call(move |engine| async move { engine.commit(vm).await }).await,
    ] {
        refused(refusal, ReturnCode::InvalidState);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_primary_is_fenced_and_goes_on_after_the_revert_with_the_newer_generation() {
    let mut world = World::replicating(keep_all()).await;
    let generation = world.a.status(world.vm).await.generation;
    world.failed_over(None, true).await;
    world.write("a", 0, b"written while the replica runs");
    let old = world.latest();
    world.a.reaches(world.vm, S::Critical).await;
    refused(world.a.ask(world.vm, Command::Point { application: false }).await, ReturnCode::InvalidState);
    let status = world.a.status(world.vm).await;
    assert!(status.generation > generation);
    assert!(status.last_error.expect("a reason").message.contains("failed over"));
    // It stays so after a crash of its host, and the VM does not start twice.
    world.a.fake.clean_stop(world.vm);
    world.a.restart(End::Kill).await;
    let vm = world.vm;
    let refusal = world.a.call(move |engine| async move { engine.start_vm(vm, None).await }).await;
    assert!(refused(refusal, ReturnCode::InvalidState).message.contains("failed over"));
    assert_eq!(world.a.fake.inspect(vm).await.expect("there").power, PowerState::Off);
    assert_eq!(world.latest(), old);
    world.revert().await;
    world.a.call(move |engine| async move { engine.start_vm(vm, None).await }).await.expect("started");
    let expected = world.contents();
    let point = world.newer_than(&old).await;
    world.equals(point.id, &expected);
    world.both_replicate().await;
    let (ours, theirs) = (world.a.status(vm).await, world.b.status(vm).await);
    assert_eq!(ours.generation, theirs.generation);
    assert!(ours.generation > status.generation, "a revert counts too");
    assert!(ours.last_error.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_comes_back_from_a_crash_asks_before_it_starts_the_vm() {
    let mut world = World::replicating(keep_all()).await;
    world.a.fake.crash(world.vm);
    world.a.kill().await;
    world.failed_over(None, true).await;
    world.a.start().await;
    let vm = world.vm;
    let refusal = world.a.call(move |engine| async move { engine.start_vm(vm, None).await }).await;
    assert!(refused(refusal, ReturnCode::InvalidState).message.contains("failed over"));
    assert_eq!(world.a.fake.inspect(vm).await.expect("there").power, PowerState::Off);
    let reason = world.a.status(vm).await.last_error.expect("the health points to a last error");
    assert!(reason.message.contains("failed over"), "{reason:?}");
}

/// The primary was dead during the failover and is back, with its VM off.
async fn back_from_the_dead() -> World {
    let mut world = World::replicating(keep_all()).await;
    world.a.fake.crash(world.vm);
    world.a.kill().await;
    world.failed_over(None, true).await;
    world.link.cut();
    world.a.start().await;
    // Nobody answers yet, and what is shown is what was.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.a.state(world.vm), S::Replicating);
    world.link.mend();
    world.a.reaches(world.vm, S::Critical).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_returns_finds_out_by_itself_that_its_vm_runs_on_the_replica_and_when_that_ends() {
    let world = back_from_the_dead().await;
    let vm = world.vm;
    let status = world.a.status(vm).await;
    assert_eq!(status.health, Health::Critical);
    let error = status.last_error.expect("the reason");
    assert!(error.message.contains("failed over") && error.remedy.contains("evert"), "{error:?}");
    world.revert().await;
    world.a.reaches(vm, S::Replicating).await;
    assert!(world.a.status(vm).await.last_error.is_none());
    assert_eq!(world.a.fake.inspect(vm).await.expect("there").power, PowerState::Off, "nobody started it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_is_final_is_not_to_be_reverted_in_what_the_old_primary_says() {
    let world = back_from_the_dead().await;
    let vm = world.vm;
    let start = || world.a.call(move |engine| async move { engine.start_vm(vm, None).await });
    assert!(refused(start().await, ReturnCode::InvalidState).remedy.contains("Revert"));
    world.commit().await;
    let remedy = refused(start().await, ReturnCode::InvalidState).remedy;
    assert!(remedy.contains("unreplicate") && !remedy.contains("evert"), "{remedy}");
    // What was said last holds also when nobody can be asked.
    world.link.cut();
    assert_eq!(refused(start().await, ReturnCode::InvalidState).remedy, remedy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_was_killed_shows_the_newest_point_also_of_a_vm_that_is_off() {
    let mut world = World::replicating(keep_all()).await;
    let (vm, older) = (world.vm, world.latest());
    let newest = world.point().await;
    assert!(newest.created_at > older.created_at);
    world.a.fake.crash(vm);
    world.a.restart(End::Kill).await;
    let engine = world.a.engine();
    until("the newest point", || {
        let record = engine.primary(vm)?.snapshot().record;
        (record.last_point_at == Some(newest.created_at)).then_some(())
    })
    .await;
    assert_eq!(world.a.status(vm).await.last_point_at, Some(newest.created_at));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_with_an_open_session_asks_before_it_starts_the_vm() {
    let world = World::replicating(keep_all()).await;
    world.a.fake.clean_stop(world.vm);
    world.failed_over(None, true).await;
    let vm = world.vm;
    let refusal = world.a.call(move |engine| async move { engine.start_vm(vm, None).await }).await;
    refused(refusal, ReturnCode::InvalidState);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_in_the_middle_of_a_cycle_asks_before_it_starts_the_vm() {
    let world = World::replicating(keep_all()).await;
    world.write("a", 0, &random(64 * KIB, 7));
    world.held_cycle(0).await;
    world.failed_over(None, true).await;
    world.a.fake.crash(world.vm);
    let vm = world.vm;
    let refusal = world.a.call(move |engine| async move { engine.start_vm(vm, None).await }).await;
    assert!(refused(refusal, ReturnCode::InvalidState).message.contains("failed over"));
    world.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_primary_finds_out_by_itself_that_the_failover_was_reverted() {
    let world = World::replicating(every_second()).await;
    world.failed_over(None, false).await;
    world.a.reaches(world.vm, S::Critical).await;
    let old = world.latest();
    world.write("b", 0, b"during the failover");
    world.revert().await;
    let expected = world.contents();
    let point = world.newer_than(&old).await;
    world.equals(point.id, &expected);
    world.both_replicate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_in_the_middle_of_a_cycle_ends_the_cycle_and_takes_what_is_sealed() {
    let world = World::replicating(keep_all()).await;
    let old = world.latest();
    let expected = world.contents();
    world.write("a", 0, &random(20 * KIB, 111));
    let job = world.held_cycle(0).await;
    world.failed_over(None, false).await;
    world.stands_on(&old).await;
    world.release();
    assert_eq!(world.a.job(job).await.state, JobState::Exception);
    world.a.reaches(world.vm, S::Critical).await;
    assert_eq!(world.latest(), old);
    world.equals(old.id, &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_a_restart_interrupts_goes_back_and_can_be_repeated() {
    let mut world = World::replicating(keep_all()).await;
    world.b.fake.faults().stall(Op::Define, 0);
    let job = world.fail_over(None, true).await.expect("begun");
    world.b.fake.faults().stalled(Op::Define).await;
    assert_eq!(world.b.state(world.vm), S::FailoverInProgress);
    world.b.kill().await;
    world.b.fake.faults().clear();
    world.b.start().await;
    world.link.lead_to(world.b.port());
    assert_eq!(world.b.state(world.vm), S::Replicating);
    let ended = world.b.job(job).await;
    assert_eq!((ended.state, ended.job_type), (JobState::Exception, JobType::InitiateFailover));
    assert!(ended.error.expect("a reason").message.contains("the daemon ended"));
    let replica = world.b.engine().replicas().find(world.vm).expect("a replica");
    assert!(replica.store().overlays().is_empty());
    world.proven_point().await;
    world.failed_over(None, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_cannot_define_the_vm_leaves_everything_as_it_was() {
    let world = World::replicating(keep_all()).await;
    world.b.fake.faults().fail_next(Op::Define);
    let job = world.fail_over(None, true).await.expect("begun");
    let ended = world.b.job(job).await;
    assert_eq!(ended.state, JobState::Exception);
    assert!(!ended.error.expect("a reason").remedy.is_empty());
    assert_eq!(world.b.state(world.vm), S::Replicating);
    assert!(world.b.status(world.vm).await.last_error.is_some());
    world.proven_point().await;
    assert!(world.b.status(world.vm).await.last_error.is_none());
    world.failed_over(None, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_replica_ended_while_nothing_was_sent_is_not_used_again() {
    let world = World::replicating(keep_all()).await;
    world.b.fake.faults().fail_next(Op::Define);
    let job = world.fail_over(None, true).await.expect("begun");
    world.b.job(job).await;
    // The refusal that ended the session is here; the connection stays until this side hangs up.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begun = Instant::now();
    world.proven_point().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}: it waited for an answer", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_cannot_be_started_is_failed_over_all_the_same() {
    let world = World::replicating(keep_all()).await;
    world.b.fake.faults().fail_next(Op::Start);
    let job = world.fail_over(None, true).await.expect("begun");
    assert_eq!(world.b.job(job).await.state, JobState::Exception);
    assert_eq!(world.b.state(world.vm), S::Recovered);
    let vm = world.vm;
    world
        .b
        .call(move |engine| async move { engine.start_vm(vm, Some(Assertion::Forced)).await })
        .await
        .expect("started");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_over_replica_survives_restarts_and_commits_afterwards() {
    let mut world = World::replicating(keep_all()).await;
    let point = world.proven_point().await;
    world.failed_over(None, true).await;
    world.b.restart_behind(&world.link, End::Kill).await;
    assert_eq!(world.b.state(world.vm), S::Recovered);
    world.stands_on(&point).await;
    let info = world.b.fake.inspect(world.vm).await.expect("defined");
    assert_eq!(info.power, PowerState::Running);
    world.commit().await;
    world.b.restart_behind(&world.link, End::Stop).await;
    assert_eq!(world.b.state(world.vm), S::Committed);
    let info = world.b.fake.inspect(world.vm).await.expect("defined");
    assert!(info.definition.disks.iter().all(|disk| disk.file.is_file()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_replica_fails_over_and_reverts_to_suspended() {
    let world = World::replicating(keep_all()).await;
    let vm = world.vm;
    world.b.call(move |engine| async move { engine.suspend(vm).await }).await.expect("suspended");
    world.failed_over(None, false).await;
    world.revert().await;
    assert_eq!(world.b.state(vm), S::Suspended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_failed_over_is_not_removed_before_it_is_settled() {
    let world = World::replicating(keep_all()).await;
    let vm = world.vm;
    world.failed_over(None, true).await;
    let removed = world.b.call(move |engine| async move { engine.remove(vm).await }).await;
    refused(removed, ReturnCode::InvalidState);
    world.commit().await;
    world.b.call(move |engine| async move { engine.remove(vm).await }).await.expect("removed");
    let info = world.b.fake.inspect(vm).await.expect("the VM stays");
    assert_eq!(info.power, PowerState::Running);
    assert!(info.definition.disks.iter().all(|disk| disk.file.is_file()), "and its disks");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_vm_starts_only_after_a_failover() {
    let world = World::replicating(keep_all()).await;
    let vm = world.vm;
    let refusal = world.b.call(move |engine| async move { engine.start_vm(vm, None).await }).await;
    refused(refusal, ReturnCode::InvalidState);
}

impl World {
    /// A replica with more layers than its host lets QEMU open.
    async fn with_a_long_chain() -> Self {
        let mut world = Self::new().await;
        world.b.store.max_chain = 2;
        world.b.restart_behind(&world.link, End::Kill).await;
        let job = world.begin(keep_all()).await;
        world.done(job).await;
        for number in 0..4 {
            world.write("a", number * 8 * KIB, &random(4 * KIB, 170 + number));
            world.proven_point().await;
        }
        world
    }

    /// What backs the overlays of the failover is served, and is `expected`.
    async fn serves(&self, expected: &Contents) {
        let info = self.b.fake.inspect(self.vm).await.expect("defined");
        for entry in &info.definition.disks {
            let backing = entry.backing.clone().expect("it is served");
            let target = Target::unix(backing.socket, backing.export);
            let client = Client::connect(&target, None).await.expect("a client");
            let data = &expected[&entry.name];
            let length = u32::try_from(data.len()).expect("small");
            assert!(client.read(0, length).await.expect("a read") == data[..], "{}", entry.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_failover_that_reads_its_point_from_the_daemon_does_so_after_a_restart_too() {
    let mut world = World::with_a_long_chain().await;
    let expected = world.contents();
    world.write("a", 0, &random(4 * KIB, 180));
    let chosen = world.latest();
    world.proven_point().await;
    world.failed_over(Some(chosen.id), false).await;
    world.commit().await;
    for end in [End::Kill, End::Stop] {
        world.b.restart_behind(&world.link, end).await;
        world.serves(&expected).await;
    }
    let vm = world.vm;
    world.b.call(move |engine| async move { engine.start_vm(vm, None).await }).await.expect("started");
    until("the overlays stand alone", || (world.b.fake.faults().calls(Op::Flatten) == 2).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_with_too_many_layers_for_qemu_is_served_and_the_overlay_is_filled() {
    let mut world = World::with_a_long_chain().await;
    let expected = world.contents();
    world.failed_over(None, false).await;
    world.serves(&expected).await;
    world.b.restart_behind(&world.link, End::Kill).await;
    world.serves(&expected).await;
    let vm = world.vm;
    world.b.call(move |engine| async move { engine.start_vm(vm, None).await }).await.expect("started");
    until("the overlays stand alone", || (world.b.fake.faults().calls(Op::Flatten) == 2).then_some(())).await;
    world.revert().await;
    world.both_replicate().await;
    world.proven_point().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_of_a_point_travels_with_it_and_is_used_by_its_failover() {
    let world = World::new().await;
    let file = |name: &str, content: &[u8]| {
        let path = world.root().join(name);
        std::fs::write(&path, content).expect("write");
        path
    };
    let mut definition = VmDefinition::new(VmName::new("booted").expect("a name"), 256);
    let image = file("root.raw", &[0; 64 << 10]);
    definition.disks.push(DiskDefinition::new(disk("root"), image, DiskFormat::Raw));
    definition.kernel = Some(file("vmlinuz", b"the first kernel"));
    definition.extra_args = vec!["-device".into(), "something-of-the-primary".into()];
    let vm = world.a.fake.define(definition.clone()).await.expect("defined");
    world.a.call(move |engine| async move { engine.start_vm(vm, None).await }).await.expect("started");
    let enable = Enable { peer: world.link.address(), settings: keep_all(), start: true };
    let job = world.a.call(move |engine| async move { engine.enable(vm, enable).await }).await;
    world.done(job.expect("enabled").job.expect("a job")).await;
    let replica = world.b.engine().replicas().find(vm).expect("a replica");
    let first = replica.store().points().pop().expect("a point");
    file("vmlinuz", b"the second kernel, which is longer");
    world.a.fake.write(vm, "root", 0, b"x");
    let job = world.a.ask(vm, Command::Point { application: false }).await.expect("ordered");
    world.done(job.expect("a job")).await;
    for (point, kernel) in
        [(Some(first.id), "the first kernel"), (None, "the second kernel, which is longer")]
    {
        let job =
            world.b.call(move |e| async move { e.failover(vm, to(point, true)).await }).await.expect("begun");
        world.done_on_replica(job).await;
        let info = world.b.fake.inspect(vm).await.expect("defined");
        let path = info.definition.kernel.clone().expect("a kernel");
        assert!(path.starts_with(world.b.replicas_dir()), "{}", path.display());
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), kernel);
        assert!(info.definition.extra_args.is_empty(), "commands of another host are not run");
        assert_eq!((info.definition.memory_mib, info.disks[0].format.as_str()), (256, "qcow2"));
        let job = world.b.call(move |e| async move { e.revert(vm).await }).await.expect("begun");
        world.done_on_replica(job).await;
    }
}
