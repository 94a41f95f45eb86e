//! When what changed is not known any more: state 9, and a comparison that sends only what differs.

use crate::host::{End, State, until};
use crate::world::{KIB, MIB, World, disk, keep_all, random, refused, to};
use standin_engine::Command;
use standin_hypervisor::fake::Op;
use standin_model::health::Health;
use standin_model::job::{JobRecord, JobState, JobType};
use standin_model::settings::RelationshipSettings;
use standin_model::state::ReplicationState as S;
use standin_model::{JobId, ReturnCode};

/// The guest's host loses power; what the guest wrote last was recorded by nobody.
async fn crash(world: &World) {
    world.a.fake.crash(world.vm);
    world.write("a", 2 * MIB, &random(8 * KIB, 91));
    world.write("b", 0, &[0; 16 << 10]);
    start(world).await;
}

async fn start(world: &World) {
    let vm = world.vm;
    world.a.call(move |engine| async move { engine.start_vm(vm, None).await }).await.expect("started");
}

fn by_hand() -> RelationshipSettings {
    RelationshipSettings { auto_resync: false, ..keep_all() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_crashed_is_compared_by_itself_and_only_what_differs_is_sent() {
    let world = World::replicating(keep_all()).await;
    world.write("a", MIB, &random(MIB, 90));
    let before = world.contents();
    let old = world.proven_point().await;
    let sent = world.link.forwarded();
    crash(&world).await;
    let now = world.contents();
    let point = world.newer_than(&old).await;
    world.both_replicate().await;
    world.equals(point.id, &now);
    world.equals(old.id, &before);
    // 8 KiB of data, the zeros, and the comparison itself.
    let sent = world.link.forwarded() - sent;
    assert!(sent < 8 * KIB + 8 * KIB, "{sent} bytes on the wire");
    assert!(point.changed_bytes <= 24 * KIB, "{}", point.changed_bytes);
    let jobs = world.a.engine().jobs().list();
    let job = jobs.iter().find(|job| job.job_type == JobType::Resynchronize).expect("a job");
    assert_eq!(job.state, JobState::Completed, "{:?}", job.error);
    // Tracking works again.
    world.write("b", 512 * KIB, b"after");
    assert_eq!(world.proven_point().await.changed_bytes, 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_it_waits_until_it_is_asked() {
    let world = World::replicating(by_hand()).await;
    let old = world.latest();
    crash(&world).await;
    world.a.reaches(world.vm, S::WaitingToStartResynchronization).await;
    let status = world.a.status(world.vm).await;
    assert_eq!((status.state_code, status.health), (9, Health::Critical));
    assert!(status.last_error.expect("an error").message.contains("tracking was lost"));
    refused(world.a.ask(world.vm, Command::Point { application: false }).await, ReturnCode::InvalidState);
    assert_eq!(world.latest(), old);
    let job = world.a.ask(world.vm, Command::Resynchronize).await.expect("asked").expect("a job");
    world.done(job).await;
    world.both_replicate().await;
    world.equals(world.latest().id, &world.contents());
    assert!(world.a.status(world.vm).await.last_error.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_state_9_stays_there_or_goes_on_as_the_settings_say() {
    let mut world = World::replicating(by_hand()).await;
    crash(&world).await;
    world.a.reaches(world.vm, S::WaitingToStartResynchronization).await;
    world.a.restart(End::Kill).await;
    assert_eq!(world.a.state(world.vm), S::WaitingToStartResynchronization);
    let job = world.a.ask(world.vm, Command::Resynchronize).await.expect("asked").expect("a job");
    world.done(job).await;
    world.equals(world.latest().id, &world.contents());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_is_interrupted_by_restarts_and_ends_all_the_same() {
    for how in [End::Stop, End::Kill] {
        let mut world = World::replicating(by_hand()).await;
        let old = world.latest();
        let before = world.contents();
        crash(&world).await;
        world.a.reaches(world.vm, S::WaitingToStartResynchronization).await;
        world.a.fake.faults().stall(Op::Read, 2);
        let job = world.a.ask(world.vm, Command::Resynchronize).await.expect("asked").expect("a job");
        world.a.fake.faults().stalled(Op::Read).await;
        world.write("b", 200 * KIB, b"during the comparison");
        world.a.restart(how).await;
        world.b.restart_behind(&world.link, how).await;
        world.a.fake.faults().clear();
        world.done(job).await;
        world.both_replicate().await;
        world.equals(world.latest().id, &world.contents());
        world.equals(old.id, &before);
    }
}

/// A comparison that was begun, by itself or by hand, and stands still.
async fn held_comparison(world: &World, by_itself: bool) -> JobId {
    let faults = world.a.fake.faults();
    if by_itself {
        faults.stall(Op::Read, 2);
        crash(world).await;
    } else {
        crash(world).await;
        world.a.reaches(world.vm, S::WaitingToStartResynchronization).await;
        faults.stall(Op::Read, 2);
        world.a.ask(world.vm, Command::Resynchronize).await.expect("asked");
    }
    faults.stalled(Op::Read).await;
    world.a.reaches(world.vm, S::Resynchronizing).await;
    let jobs = world.a.engine().jobs().list();
    jobs.iter().find(|job| job.job_type == JobType::Resynchronize).expect("a job").id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_that_a_failover_interrupts_goes_on_after_the_revert() {
    for by_itself in [false, true] {
        let settings = RelationshipSettings { auto_resync: by_itself, ..keep_all() };
        let world = World::replicating(settings).await;
        let linked = || (!world.b.engine().peers().linked().is_empty()).then_some(());
        until("a link", linked).await;
        let (old, before) = (world.latest(), world.contents());
        let job = held_comparison(&world, by_itself).await;
        let vm = world.vm;
        let begun = world.b.call(move |engine| async move { engine.failover(vm, to(None, false)).await });
        world.done_on_replica(begun.await.expect("begun")).await;
        world.a.reaches(vm, S::WaitingToStartResynchronization).await;
        world.a.fake.faults().clear();
        refused(world.a.ask(vm, Command::Resynchronize).await, ReturnCode::InvalidState);
        let waits = world.a.engine().jobs().watch(job).expect("known").borrow().state;
        assert!(!waits.is_final(), "the job ended with the failover: {waits:?}");
        world.write("b", 200 * KIB, b"during the failover");
        world.revert().await;
        // Nobody asks for it again.
        world.done(job).await;
        world.both_replicate().await;
        world.equals(world.latest().id, &world.contents());
        world.equals(old.id, &before);
        let compared = |job: &&JobRecord| job.job_type == JobType::Resynchronize;
        assert_eq!(world.a.engine().jobs().list().iter().filter(compared).count(), 1);
        assert!(world.a.status(vm).await.last_error.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_can_be_suspended_resumed_and_cancelled() {
    let world = World::replicating(by_hand()).await;
    crash(&world).await;
    world.a.reaches(world.vm, S::WaitingToStartResynchronization).await;
    world.a.fake.faults().stall(Op::Read, 1);
    let job = world.a.ask(world.vm, Command::Resynchronize).await.expect("asked").expect("a job");
    world.a.fake.faults().stalled(Op::Read).await;
    world.a.ask(world.vm, Command::Suspend).await.expect("suspended");
    assert_eq!(world.a.state(world.vm), S::ResynchronizationSuspended);
    world.a.ask(world.vm, Command::Resume).await.expect("resumed");
    assert_eq!(world.a.state(world.vm), S::Resynchronizing);
    world.a.fake.faults().stalled(Op::Read).await;
    world.a.engine().jobs().cancel(job).expect("cancelled");
    world.a.reaches(world.vm, S::WaitingToStartResynchronization).await;
    assert_eq!(world.a.job(job).await.state, JobState::Terminated);
    world.a.fake.faults().clear();
    let job = world.a.ask(world.vm, Command::Resynchronize).await.expect("asked").expect("a job");
    world.done(job).await;
    world.equals(world.latest().id, &world.contents());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_stopped_in_order_is_not_compared() {
    let world = World::replicating(keep_all()).await;
    world.write("a", 0, b"before the stop");
    world.a.fake.clean_stop(world.vm);
    let status = until("the stop", || {
        let snapshot = world.a.engine().primary(world.vm)?.snapshot();
        (!snapshot.running).then_some(snapshot)
    });
    status.await;
    refused(world.a.ask(world.vm, Command::Point { application: false }).await, ReturnCode::InvalidState);
    let old = world.latest();
    let lives = world.a.fake.faults().calls(Op::Live);
    let expected = world.contents();
    start(&world).await;
    // A cycle at once: nobody knows how long it was off.
    let point = world.newer_than(&old).await;
    world.equals(point.id, &expected);
    assert_eq!(point.changed_bytes, 4096);
    assert_eq!(world.a.fake.faults().calls(Op::Live), lives, "nothing was compared");
    assert_eq!(world.a.state(world.vm), S::Replicating);
}

#[tokio::test(flavor = "multi_thread")]
async fn tracking_that_was_lost_during_the_first_copy_is_no_loss() {
    let world = World::new().await;
    world.a.fake.faults().stall(Op::Read, 1);
    let job = world.begin(keep_all()).await;
    world.a.fake.faults().stalled(Op::Read).await;
    world.a.fake.crash(world.vm);
    world.write("a", 0, &random(40 * KIB, 95));
    world.a.fake.faults().clear();
    start(&world).await;
    world.done(job).await;
    world.both_replicate().await;
    world.equals(world.latest().id, &world.contents());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_crashed_between_the_copy_and_its_first_point_is_compared_in_the_same_job() {
    let world = World::new().await;
    world.a.fake.faults().stall(Op::Cut, 0);
    let job = world.begin(keep_all()).await;
    world.a.fake.faults().stalled(Op::Cut).await;
    world.a.fake.crash(world.vm);
    world.write("b", 0, &random(40 * KIB, 96));
    world.a.fake.faults().clear();
    start(&world).await;
    world.done(job).await;
    world.both_replicate().await;
    world.equals(world.latest().id, &world.contents());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_disk_loses_its_marks_at_every_stop_and_is_compared() {
    let world = World::with_disks(&[("a", MIB), ("b", MIB)], State::Memory(Default::default())).await;
    world.a.fake.make_raw(world.vm, "b");
    let job = world.begin(keep_all()).await;
    world.done(job).await;
    world.both_replicate().await;
    let old = world.latest();
    world.write("b", 0, b"before the stop");
    world.a.fake.clean_stop(world.vm);
    start(&world).await;
    let point = world.newer_than(&old).await;
    world.both_replicate().await;
    world.equals(point.id, &world.contents());
    assert_eq!(world.contents()[&disk("b")][..6], *b"before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_disk_that_was_resized_is_critical_and_says_both_sizes() {
    let world = World::with_disks(&[("a", MIB), ("b", MIB)], State::Memory(Default::default())).await;
    world.a.fake.make_raw(world.vm, "b");
    let job = world.begin(keep_all()).await;
    world.done(job).await;
    world.both_replicate().await;
    let old = world.latest();
    world.a.fake.clean_stop(world.vm);
    world.a.fake.grow(world.vm, "b", 2 * MIB);
    start(&world).await;
    world.a.reaches(world.vm, S::Critical).await;
    let engine = world.a.engine();
    let job = until("the end of the comparison", || {
        let jobs = engine.jobs().list();
        jobs.into_iter().find(|job| job.job_type == JobType::Resynchronize && job.state.is_final())
    });
    let job = job.await;
    assert_eq!(job.state, JobState::Exception);
    for error in [job.error.expect("a reason").message, last_error(&world).await] {
        assert!(
            error.contains("disk b") && error.contains("2097152") && error.contains("1048576"),
            "{error}"
        );
    }
    // It does not flap: the next tries find the same, and nothing is compared.
    let lives = world.a.fake.faults().calls(Op::Live);
    world.a.ask(world.vm, Command::Resume).await.expect("resumed");
    world.a.reaches(world.vm, S::Critical).await;
    assert!(last_error(&world).await.contains("2097152"));
    assert!(world.a.fake.faults().calls(Op::Live) <= lives + 1);
    assert_eq!(world.latest(), old);
}

async fn last_error(world: &World) -> String {
    world.a.status(world.vm).await.last_error.expect("an error").message
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_check_found_before_a_restart_is_sent_by_the_next_comparison() {
    let mut world = World::replicating(by_hand()).await;
    let old = world.latest();
    world.b.stop().await;
    let path = world.b.replicas_dir();
    let options = standin_store::StoreOptions { locations: vec![path], ..Default::default() };
    let store = standin_store::Store::open(options).expect("opens");
    rot(store.get(world.vm).expect("a replica").directory(), &random(300 * KIB, 1)[8192..8256]);
    assert!(!store.check(None, &mut |_, _| {}).expect("checked").good());
    drop(store);
    world.b.start().await;
    world.link.lead_to(world.b.port());
    crash(&world).await;
    world.a.reaches(world.vm, S::WaitingToStartResynchronization).await;
    let job = world.a.ask(world.vm, Command::Resynchronize).await.expect("asked").expect("a job");
    world.done(job).await;
    let point = world.latest();
    assert!(point.epoch > old.epoch);
    world.equals(point.id, &world.contents());
}

/// Flips a bit in the file of disk a that holds `needle`.
fn rot(directory: &std::path::Path, needle: &[u8]) {
    for entry in std::fs::read_dir(directory.join("disks/a")).expect("a directory") {
        let path = entry.expect("an entry").path();
        let mut data = std::fs::read(&path).expect("reads");
        if let Some(at) = data.windows(needle.len()).position(|window| window == needle) {
            data[at] ^= 1;
            std::fs::write(&path, data).expect("writes");
            return;
        }
    }
    panic!("the data is in no layer");
}
