//! Cycles: what they carry, what they cost, and what they leave when they fail.

use crate::host::{End, until};
use crate::world::{KIB, MIB, World, disk, every_second, keep_all, random, refused, settings};
use standin_engine::Command;
use standin_hypervisor::Hypervisor;
use standin_hypervisor::fake::Op;
use standin_model::ReturnCode;
use standin_model::health::Health;
use standin_model::job::JobState;
use standin_model::point::PointKind;
use standin_model::state::ReplicationState as S;

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_in_the_next_point_and_not_in_the_one_before() {
    let world = World::replicating(keep_all()).await;
    let before = world.contents();
    let first = world.latest();
    world.write("a", 4096 * 5 + 100, b"a few bytes");
    world.write("b", MIB, &random(4 * KIB + 512, 31));
    let second = world.proven_point().await;
    world.write("a", 4096 * 5 + 100, b"other ones!");
    let third = world.proven_point().await;
    world.equals(first.id, &before);
    assert!(first.epoch < second.epoch && second.epoch < third.epoch);
    assert_eq!(third.changed_bytes, 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_cycle_makes_a_point_and_reads_nothing() {
    let world = World::replicating(keep_all()).await;
    world.proven_point().await;
    let (read, cuts) = (world.a.fake.bytes_read(), world.a.fake.faults().calls(Op::Cut));
    let sent = world.link.forwarded();
    for _ in 0..3 {
        let point = world.proven_point().await;
        assert_eq!(point.changed_bytes, 0);
    }
    assert_eq!((world.a.fake.bytes_read(), world.a.fake.faults().calls(Op::Cut)), (read, cuts));
    assert!(world.link.forwarded() - sent < 16 * KIB);
    world.write("b", 0, b"x");
    assert_eq!(world.proven_point().await.changed_bytes, 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn scattered_blocks_of_4_kib_cost_little_more_than_themselves() {
    let world = World::replicating(keep_all()).await;
    for number in 0..40_u64 {
        world.write("a", number * 17 * 4096, &random(4096, 100 + number));
    }
    let (read, sent) = (world.a.fake.bytes_read(), world.link.forwarded());
    let point = world.proven_point().await;
    assert_eq!(point.changed_bytes, 40 * 4096);
    assert_eq!(world.a.fake.bytes_read() - read, 40 * 4096);
    let sent = world.link.forwarded() - sent;
    assert!(sent < 40 * 4096 * 11 / 10 + 4 * KIB, "{sent} bytes on the wire");
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_became_zeros_become_zeros_and_cost_nothing() {
    let world = World::replicating(keep_all()).await;
    let before = world.contents();
    let first = world.latest();
    world.write("a", 0, &[0; 300 << 10]);
    world.write("b", 8 * KIB, &[0; 4096]);
    let sent = world.link.forwarded();
    world.proven_point().await;
    assert!(world.link.forwarded() - sent < 8 * KIB);
    world.equals(first.id, &before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_delta_is_read_live_first_and_what_changes_meanwhile_is_in_the_point() {
    let state = crate::host::State::Memory(Default::default());
    let world = World::with_disks(&[("a", 400 * MIB), ("b", MIB)], state).await;
    let job = world.begin(keep_all()).await;
    world.done(job).await;
    world.both_replicate().await;
    // Zeros are dirty too, and cost neither the test nor the network anything.
    let zeros = vec![0; 20 << 20];
    for number in 0..15 {
        world.write("a", number * 20 * MIB, &zeros);
    }
    world.write("a", 350 * MIB, &random(300 * KIB, 41));
    let lives = world.a.fake.faults().calls(Op::Live);
    let job = world.held_cycle(0).await;
    assert_eq!(world.a.fake.faults().calls(Op::Live), lives + 1, "the first pass reads the live disks");
    world.write("a", 10 * MIB, &random(8 * KIB, 42));
    world.write("b", 0, b"and this");
    world.release();
    world.done(job).await;
    let replica = world.b.engine().replicas().find(world.vm).expect("a replica");
    let reader = replica.store().reader(world.latest().id).expect("a reader");
    for (name, offset, length) in [("a", 0, 20 * MIB), ("a", 349 * MIB, 4 * MIB), ("b", 0, MIB)] {
        let expected = world.a.fake.read(world.vm, name, offset, usize::try_from(length).expect("small"));
        assert!(reader.read(&disk(name), offset, length).expect("a read") == expected, "{name} at {offset}");
    }
    // The mark of the first pass is gone: the next cycle knows exactly what changed.
    world.write("b", 0, b"x");
    assert_eq!(world.point().await.changed_bytes, 4096);
}

/// After a failure the replica has what it had, and the next cycle brings everything.
async fn fails_and_recovers(world: &World, what: &str) {
    let points = world.points();
    let before = world.contents_of(points.last().expect("a point").id);
    world.write("a", 200 * KIB, &random(50 * KIB, 51));
    world.write("b", 0, &random(3 * KIB, 52));
    let job = world.order_point().await;
    let ended = world.a.job(job).await;
    assert_eq!(ended.state, JobState::Exception, "{what}");
    let error = ended.error.unwrap_or_else(|| panic!("{what}: no reason"));
    assert!(!error.message.is_empty() && !error.remedy.is_empty(), "{what}: {error:?}");
    assert_eq!(world.points(), points, "{what}");
    world.equals(points.last().expect("a point").id, &before);
    world.a.fake.faults().clear();
    // By itself, after a short wait.
    let expected = world.contents();
    let point = world.newer_than(points.last().expect("a point")).await;
    world.equals(point.id, &expected);
    let engine = world.a.engine();
    until("the end of the error", || {
        let record = engine.primary(world.vm)?.snapshot().record;
        (record.last_error.is_none() && record.state == S::Replicating).then_some(())
    })
    .await;
    assert_eq!((world.a.fake.open_views(), world.a.fake.leftovers()), (0, 0), "{what}");
    let tracker = engine.primary(world.vm).expect("a primary").snapshot().record.tracker;
    let found = world.a.fake.marks(world.vm, &tracker, &[disk("a"), disk("b")]).await.expect("marks");
    assert_eq!(found.len(), 1, "{what}: one mark is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_that_fails_anywhere_changes_nothing_and_loses_nothing() {
    let world = World::replicating(keep_all()).await;
    for op in [Op::Cut, Op::Read, Op::Status, Op::Marks] {
        world.a.fake.faults().fail_next(op);
        fails_and_recovers(&world, &format!("{op:?}")).await;
    }
    let failed = world.status_of_primary().await.statistics.expect("statistics").cycles_failed;
    assert_eq!(failed, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_breaks_changes_nothing_and_loses_nothing() {
    let world = World::replicating(keep_all()).await;
    world.a.fake.faults().fail_view_after_reads(1);
    fails_and_recovers(&world, "the view").await;
    world.a.fake.faults().fail(Op::Read, 1, u64::MAX);
    fails_and_recovers(&world, "the second read and all after it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_tidied_up_is_tidied_up_by_the_next_cycle() {
    let world = World::replicating(keep_all()).await;
    for op in [Op::Close, Op::RetainMarks, Op::Clean] {
        world.write("a", 0, &random(10 * KIB, 61));
        world.a.fake.faults().fail_next(op);
        world.proven_point().await;
        world.a.fake.faults().clear();
        world.write("a", 0, &random(10 * KIB, 62));
        world.proven_point().await;
        assert_eq!(world.a.fake.leftovers(), 0, "{op:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_that_stands_still_can_be_cancelled_by_its_job() {
    let world = World::replicating(keep_all()).await;
    let points = world.points();
    world.write("a", 0, &random(100 * KIB, 71));
    let job = world.held_cycle(0).await;
    world.a.engine().jobs().cancel(job).expect("cancelled");
    assert_eq!(world.a.job(job).await.state, JobState::Terminated);
    assert_eq!(world.points(), points);
    world.release();
    let expected = world.contents();
    let point = world.newer_than(points.last().expect("a point")).await;
    world.equals(point.id, &expected);
    assert_eq!((world.a.fake.open_views(), world.a.fake.leftovers()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_breaks_in_the_middle_of_a_cycle_loses_nothing() {
    let world = World::replicating(keep_all()).await;
    for after in [300, 20 * KIB, 700 * KIB] {
        let points = world.points();
        world.write("a", 0, &random(MIB, 80 + after));
        world.write("b", 0, &random(64 * KIB, 81 + after));
        world.link.cut_after(after);
        let job = world.order_point().await;
        assert_eq!(world.a.job(job).await.state, JobState::Exception);
        assert!(world.link.is_cut());
        assert_eq!(world.points(), points);
        world.link.mend();
        let expected = world.contents();
        let point = world.newer_than(points.last().expect("a point")).await;
        world.equals(point.id, &expected);
        world.a.reaches(world.vm, S::Replicating).await;
    }
    assert!(world.status_of_primary().await.statistics.expect("statistics").network_failures >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_whose_acknowledgement_was_lost_is_there_and_the_next_one_is_right() {
    let world = World::replicating(keep_all()).await;
    for round in 0..2 {
        let old = world.latest();
        world.write("a", 0, &random(20 * KIB, 85 + round));
        let sealed = world.contents();
        let job = world.held_cycle(0).await;
        // The end of the pass is answered, the seal is not.
        world.link.hold_answers_after(1);
        world.release();
        let point = world.newer_than(&old).await;
        world.equals(point.id, &sealed);
        world.link.cut();
        assert_eq!(world.a.job(job).await.state, JobState::Exception);
        world.write("b", 0, &random(3 * KIB, 87 + round));
        let expected = world.contents();
        world.link.mend();
        let next = world.newer_than(&point).await;
        world.equals(next.id, &expected);
        world.equals(point.id, &sealed);
        world.a.reaches(world.vm, S::Replicating).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_vms_replicate_side_by_side_with_other_granules_and_without_compression() {
    let world = World::replicating(keep_all()).await;
    let other = world.a.fake.add_vm("db", &[("only", 777 * 512)]);
    world.a.fake.write(other, "only", 1000, &random(100 * KIB, 88));
    let plain = standin_model::settings::RelationshipSettings {
        granularity: 65536,
        compression: false,
        ..keep_all()
    };
    let peer = world.link.address();
    let enable = standin_engine::Enable { peer, settings: plain, start: true };
    let job = world.a.call(move |engine| async move { engine.enable(other, enable).await }).await;
    world.done(job.expect("enabled").job.expect("a job")).await;
    for round in 0..2 {
        world.write("a", 0, &random(5 * KIB, 89 + round));
        world.a.fake.write(other, "only", 776 * 512, &random(512, 90 + round));
        let job = world.a.ask(other, Command::Point { application: false }).await.expect("ordered");
        world.proven_point().await;
        world.done(job.expect("a job")).await;
        let replica = world.b.engine().replicas().find(other).expect("a replica");
        let point = replica.store().points().pop().expect("a point");
        let reader = replica.store().reader(point.id).expect("a reader");
        let found = reader.read(&disk("only"), 0, 777 * 512).expect("a read");
        assert!(found == world.a.fake.snapshot(other)[&disk("only")]);
    }
    assert_eq!(world.a.engine().primaries().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_space_says_so_and_goes_on_when_there_is_some() {
    let mut world = World::replicating(keep_all()).await;
    let old = world.latest();
    world.b.store.reserve = u64::MAX / 2;
    world.b.restart_behind(&world.link, End::Kill).await;
    world.write("a", 0, &random(20 * KIB, 91));
    let job = world.order_point().await;
    let error = world.a.job(job).await.error.expect("a reason");
    assert!(error.remedy.contains("Free some space"), "{error:?}");
    assert_eq!(world.latest(), old);
    let full = world.b.status(world.vm).await;
    let issue = full.health_issues.first().expect("a reason");
    assert_eq!(full.health, Health::Critical, "{full:?}");
    assert!(issue.remedy.contains("Free some space"), "{issue:?}");
    world.b.store.reserve = 0;
    world.b.restart_behind(&world.link, End::Kill).await;
    let expected = world.contents();
    let point = world.newer_than(&old).await;
    world.equals(point.id, &expected);
    assert_eq!(world.b.status(world.vm).await.last_error, None, "it stores again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_broke_while_nothing_was_sent_costs_no_cycle() {
    let world = World::replicating(keep_all()).await;
    world.link.cut();
    world.link.mend();
    world.write("a", 0, b"after the cut");
    world.proven_point().await;
    assert_eq!(world.status_of_primary().await.statistics.expect("statistics").cycles_failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_restarted_while_nothing_was_sent_costs_no_cycle() {
    for how in [End::Stop, End::Kill] {
        let mut world = World::replicating(keep_all()).await;
        world.b.restart_behind(&world.link, how).await;
        world.write("a", 0, b"after the restart");
        world.proven_point().await;
        let failed = world.status_of_primary().await.statistics.expect("statistics").cycles_failed;
        assert_eq!(failed, 0, "{how:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cycles_come_by_themselves_and_slots_that_pass_are_counted_as_missed() {
    let world = World::new().await;
    let job = world.begin(every_second()).await;
    world.done(job).await;
    let first = world.latest();
    world.write("a", 0, b"seen by the clock alone");
    let expected = world.contents();
    let second = world.newer_than(&first).await;
    world.equals(second.id, &expected);
    world.write("a", 0, b"something that is held");
    world.a.fake.faults().stall(Op::Read, 0);
    world.a.fake.faults().stalled(Op::Read).await;
    let held = std::time::Instant::now();
    until("a slot that passes", || (held.elapsed().as_millis() > 1100).then_some(())).await;
    world.release();
    let engine = world.a.engine();
    until("a missed cycle", || {
        let missed = engine.primary(world.vm)?.snapshot().record.statistics.current.cycles_missed;
        (missed >= 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_consistent_point_says_so() {
    let world = World::replicating(keep_all()).await;
    world.write("a", 0, b"flushed by the agent");
    let before = world.contents();
    let job = world.a.ask(world.vm, Command::Point { application: true }).await.expect("ordered");
    world.done(job.expect("a job")).await;
    let point = world.latest();
    assert_eq!(point.kind, PointKind::ApplicationConsistent);
    world.equals(point.id, &before);
    let status = world.status_of_primary().await;
    assert_eq!(status.statistics.expect("statistics").application_consistent_ok, 1);
    assert!(status.last_application_consistent_at.is_some());
    assert!(world.b.status(world.vm).await.last_application_consistent_at.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_that_fails_still_makes_a_point_and_is_said_and_counted() {
    let world = World::replicating(keep_all()).await;
    world.write("a", 0, b"not flushed");
    let before = world.contents();
    let first = world.latest();
    world.a.fake.faults().fail_freezes(1);
    let job = world.a.ask(world.vm, Command::Point { application: true }).await.expect("ordered");
    let ended = world.a.job(job.expect("a job")).await;
    assert_eq!((ended.state, ended.return_code), (JobState::Exception, Some(ReturnCode::Failed)));
    let message = ended.error.expect("a reason").message;
    assert!(message.contains("the guest agent did not answer"), "{message}");
    let point = world.newer_than(&first).await;
    assert_eq!(point.kind, PointKind::Standard);
    world.equals(point.id, &before);
    let status = world.status_of_primary().await;
    assert_eq!(status.statistics.expect("statistics").application_consistent_failed, 1);
    assert_eq!(status.state, S::Replicating);
    assert!(status.health_issues.iter().any(|issue| issue.message.contains("application-consistent")));
    let job = world.a.ask(world.vm, Command::Point { application: true }).await.expect("ordered");
    world.done(job.expect("a job")).await;
    let status = world.status_of_primary().await;
    assert_eq!(status.health, Health::Ok, "{:?}", status.health_issues);
    assert_eq!(status.statistics.expect("statistics").application_consistent_failed, 1, "still counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_point_is_refused_while_one_is_under_way() {
    let world = World::replicating(settings()).await;
    world.write("a", 0, b"x");
    let job = world.held_cycle(0).await;
    refused(world.a.ask(world.vm, Command::Point { application: false }).await, ReturnCode::InUse);
    world.release();
    world.done(job).await;
}

impl World {
    pub async fn status_of_primary(&self) -> standin_model::view::StatusView {
        self.a.status(self.vm).await
    }
}
