//! The initial replication: a copy of the running disks, then the first recovery point.

use crate::host::{End, State, until};
use crate::world::{KIB, MIB, World, disk, random, settings};
use standin_engine::Command;
use standin_hypervisor::fake::Op;
use standin_model::ReturnCode;
use standin_model::job::JobState;
use standin_model::state::ReplicationState as S;
use standin_state::MemoryStore;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn the_first_point_equals_both_disks_of_the_source() {
    let world = World::replicating(settings()).await;
    world.equals(world.latest().id, &world.contents());
    assert_eq!(world.points().len(), 1, "the first copy itself is no recovery point");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_during_the_copy_are_in_the_first_point() {
    let world = World::new().await;
    world.a.fake.faults().stall(Op::Read, 1);
    let job = world.begin(settings()).await;
    world.a.fake.faults().stalled(Op::Read).await;
    // Before what is being copied, behind it, on the other disk, and zeros over data that was copied.
    world.write("a", 0, &random(5000, 11));
    world.write("a", 3 * MIB, &random(3 * 512, 12));
    world.write("b", 900 * KIB, &random(9000, 13));
    world.write("a", 64 * KIB, &[0; 64 << 10]);
    let at_the_cut = world.contents();
    world.release();
    world.done(job).await;
    world.both_replicate().await;
    world.equals(world.latest().id, &at_the_cut);
}

/// Two pieces of data with a hole between them that is larger than the distance of two watermarks.
async fn halfway(state: State) -> (World, standin_model::JobId, u64) {
    let world = World::with_disks(&[("a", 200 * MIB), ("b", MIB)], state).await;
    world.write("a", 0, &random(30 * MIB, 21));
    world.write("a", 100 * MIB, &random(16 * MIB, 22));
    // 120 reads below the hole, 64 above it. Batches of four reads, twelve batches under way: before those below
    // are through, at most 44 above can be. When 165 were let through, those that are held are behind the
    // watermark.
    world.a.fake.faults().stall(Op::Read, 165);
    let job = world.begin(settings()).await;
    world.a.fake.faults().stalled(Op::Read).await;
    let replicas = world.b.replicas_dir();
    until("a durable watermark", || has_progress(&replicas).then_some(())).await;
    let read = world.a.fake.bytes_read();
    (world, job, read)
}

fn has_progress(dir: &std::path::Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() { has_progress(&path) } else { path.extension().is_some_and(|e| e == "progress") }
    })
}

async fn goes_on_without_what_was_durable(world: &World, job: standin_model::JobId, read: u64) {
    world.done(job).await;
    world.both_replicate().await;
    let again = world.a.fake.bytes_read() - read;
    // The reads that were held may still happen for nothing.
    assert!(again <= 16 * MIB + 12 * MIB + 512 * KIB, "{again} bytes were read again");
    let point = world.latest().id;
    let replica = world.b.engine().replicas().find(world.vm).expect("a replica");
    let reader = replica.store().reader(point).expect("a reader");
    for (offset, length) in [(0, 31 * MIB), (99 * MIB, 18 * MIB)] {
        let expected = world.a.fake.read(world.vm, "a", offset, usize::try_from(length).expect("small"));
        assert!(reader.read(&disk("a"), offset, length).expect("a read") == expected, "at {offset}");
    }
}

fn memory() -> State {
    State::Memory(Arc::new(MemoryStore::new()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_breaks_does_not_cost_what_was_durable() {
    let (world, job, read) = halfway(memory()).await;
    world.link.cut();
    world.release();
    until("the failure", || world.a.engine().primary(world.vm)?.snapshot().record.last_error).await;
    world.link.mend();
    goes_on_without_what_was_durable(&world, job, read).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_restarts_goes_on_with_the_copy_and_its_job() {
    for how in [End::Stop, End::Kill] {
        let (mut world, job, read) = halfway(State::Redb).await;
        world.a.restart(how).await;
        world.release();
        goes_on_without_what_was_durable(&world, job, read).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_restarts_goes_on_with_the_copy() {
    for how in [End::Stop, End::Kill] {
        let (mut world, job, read) = halfway(State::Redb).await;
        world.b.restart_behind(&world.link, how).await;
        world.release();
        goes_on_without_what_was_durable(&world, job, read).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_copy_goes_on_where_it_stopped() {
    let (world, job, read) = halfway(memory()).await;
    world.a.ask(world.vm, Command::Suspend).await.expect("suspended");
    world.release();
    until("the end of the copy", || (world.a.fake.open_views() == 0).then_some(())).await;
    assert_eq!(world.a.state(world.vm), S::Suspended);
    assert!(world.points().is_empty());
    world.a.ask(world.vm, Command::Resume).await.expect("resumed");
    goes_on_without_what_was_durable(&world, job, read).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_gives_the_copy_up_and_it_can_be_started_again() {
    let (world, job, read) = halfway(memory()).await;
    world.a.engine().jobs().cancel(job).expect("cancelled");
    world.a.reaches(world.vm, S::ReadyForReplication).await;
    let ended = world.a.job(job).await;
    assert_eq!((ended.state, ended.return_code), (JobState::Terminated, Some(ReturnCode::Failed)));
    world.release();
    let job = world.a.ask(world.vm, Command::Start).await.expect("started").expect("a job");
    goes_on_without_what_was_durable(&world, job, read).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_to_cancel_does_the_same() {
    let (world, job, _) = halfway(memory()).await;
    world.a.ask(world.vm, Command::CancelInitial).await.expect("cancelled");
    world.a.reaches(world.vm, S::ReadyForReplication).await;
    assert_eq!(world.a.job(job).await.state, JobState::Terminated);
    assert_eq!((world.a.fake.open_views(), world.a.fake.leftovers()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_off_is_copied_when_it_starts() {
    let world = World::new().await;
    world.a.fake.clean_stop(world.vm);
    let job = world.begin(settings()).await;
    assert_eq!(world.a.state(world.vm), S::WaitingForInitialReplication);
    let vm = world.vm;
    world.a.call(move |engine| async move { engine.start_vm(vm, None).await }).await.expect("started");
    world.done(job).await;
    world.both_replicate().await;
    world.equals(world.latest().id, &world.contents());
}
