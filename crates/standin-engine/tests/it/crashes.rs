//! The replica's daemon dies at every single step of what changes its disks and its records. What the next process
//! finds is done, or goes on, or was never begun; and the job says which.

use crate::host::End;
use crate::world::{World, keep_all, to};
use standin_model::job::JobState;
use standin_model::state::ReplicationState as S;
use standin_model::{JobId, Refusal};
use standin_store::CrashPoint;

/// More steps than any of these flows has, on the disk and in the records.
const STEPS: [i64; 2] = [80, 8];

/// Where the daemon dies: after so many changes of the file system, or of the records.
#[derive(Debug, Clone, Copy)]
enum Death {
    Disk(i64),
    Records(i64),
}

impl World {
    /// A replica whose daemon can be made to die.
    async fn mortal() -> (Self, CrashPoint) {
        let mut world = Self::replicating(keep_all()).await;
        world.point().await;
        let crash = CrashPoint::after(i64::MAX);
        world.b.store.crash = Some(crash.clone());
        world.b.restart_behind(&world.link, End::Stop).await;
        (world, crash)
    }

    /// The same, failed over to the latest point and running there.
    async fn mortal_and_failed_over() -> (Self, CrashPoint) {
        let (world, crash) = Self::mortal().await;
        let (vm, before) = (world.vm, world.points());
        let job = world.b.call(move |engine| async move { engine.failover(vm, to(None, true)).await }).await;
        world.done_on_replica(job.expect("begun")).await;
        assert!(before.iter().all(|point| world.points().iter().any(|kept| kept.id == point.id)));
        (world, crash)
    }

    /// Begins something, lets the daemon die on the way, and starts it again. `None` when all of it was done before.
    async fn dies<F, Fut>(&mut self, crash: &CrashPoint, death: Death, flow: F) -> Option<Option<JobId>>
    where
        F: FnOnce(std::sync::Arc<standin_engine::Engine>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Option<JobId>, Refusal>> + Send + 'static,
    {
        match death {
            Death::Disk(steps) => crash.arm(steps),
            Death::Records(steps) => self.b.records_left(steps),
        }
        let job = self.b.call(flow).await.ok().flatten();
        if let Some(job) = job {
            self.b.job(job).await;
        }
        let died = crash.crashed() || self.b.is_dead();
        self.b.store.crash = None;
        self.b.records_left(i64::MAX);
        self.b.restart_behind(&self.link, End::Kill).await;
        died.then_some(job)
    }
}

/// Deaths at one step after the other, first of the disk, then of the records; of each until all was done before it.
#[derive(Default)]
struct Deaths {
    kind: usize,
    step: i64,
}

impl Deaths {
    fn next(&mut self) -> Option<Death> {
        let step = self.step;
        let limit = *STEPS.get(self.kind)?;
        assert!(step < limit, "more steps than were tried");
        self.step += 1;
        Some(if self.kind == 0 { Death::Disk(step) } else { Death::Records(step) })
    }

    /// The last one came when all was done: its kind has no more steps.
    fn came_late(&mut self) {
        (self.kind, self.step) = (self.kind + 1, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_taken_on_is_finished_wherever_the_daemon_died() {
    let (mut finished, mut never) = (0, 0);
    let mut deaths = Deaths::default();
    while let Some(death) = deaths.next() {
        let (mut world, crash) = World::mortal_and_failed_over().await;
        let vm = world.vm;
        let died =
            world.dies(&crash, death, move |engine| async move { engine.commit(vm).await.map(Some) }).await;
        match died {
            // All of it was done before.
            None => deaths.came_late(),
            // It was refused at once: not taken on.
            Some(None) => {
                assert_eq!(world.b.state(vm), S::Recovered, "{death:?}");
                never += 1;
                continue;
            }
            Some(Some(job)) => {
                assert_eq!(world.b.job(job).await.state, JobState::Completed, "{death:?}");
                finished += 1;
            }
        }
        assert_eq!(world.b.state(vm), S::Committed, "{death:?}");
        let replica = world.b.engine().replicas().find(vm).expect("a replica");
        assert!(replica.store().points().is_empty(), "{death:?}");
        assert_eq!(replica.store().overlays().len(), 1, "{death:?}");
    }
    assert!(finished > 2 && never > 0, "{finished} {never}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_that_was_taken_on_is_finished_wherever_the_daemon_died() {
    let mut finished = 0;
    let mut deaths = Deaths::default();
    while let Some(death) = deaths.next() {
        let (mut world, crash) = World::mortal_and_failed_over().await;
        let vm = world.vm;
        let before = world.points();
        let died =
            world.dies(&crash, death, move |engine| async move { engine.revert(vm).await.map(Some) }).await;
        match died {
            None => deaths.came_late(),
            Some(None) => {
                assert_eq!(world.b.state(vm), S::Recovered, "{death:?}");
                continue;
            }
            Some(Some(job)) => {
                assert_eq!(world.b.job(job).await.state, JobState::Completed, "{death:?}");
                finished += 1;
            }
        }
        assert_eq!(world.b.state(vm), S::Replicating, "{death:?}");
        let replica = world.b.engine().replicas().find(vm).expect("a replica");
        assert!(replica.store().overlays().is_empty(), "{death:?}");
        assert!(before.iter().all(|point| world.points().iter().any(|kept| kept.id == point.id)));
    }
    assert!(finished > 2, "{finished}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_of_a_replica_is_done_or_never_begun_wherever_the_daemon_died() {
    let (mut gone, mut whole) = (0, 0);
    let mut deaths = Deaths::default();
    while let Some(death) = deaths.next() {
        let (mut world, crash) = World::mortal().await;
        let vm = world.vm;
        // No cycle of the primary may take steps of the removal.
        world.link.cut();
        let points = world.points().len();
        let died =
            world.dies(&crash, death, move |engine| async move { engine.remove(vm).await.map(|()| None) });
        let late = died.await.is_none();
        if late {
            deaths.came_late();
        }
        match world.b.engine().replicas().find(vm) {
            Some(replica) => {
                assert_eq!(replica.store().points().len(), points, "{death:?}");
                assert!(!late, "{death:?}");
                whole += 1;
                let removed = world.b.call(move |engine| async move { engine.remove(vm).await }).await;
                removed.expect("it can be removed");
            }
            None => gone += 1,
        }
        assert_eq!(world.b.state(vm), S::Disabled, "{death:?}");
        assert!(world.b.engine().replicas().missing().is_empty(), "{death:?}");
        world.b.restart(End::Kill).await;
        assert!(world.b.engine().replicas().list().is_empty(), "{death:?}: it came back");
    }
    assert!(gone > 1 && whole > 0, "{gone} {whole}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_directory_is_missing_says_so_and_can_be_removed() {
    for running in [false, true] {
        let mut world = World::replicating(keep_all()).await;
        let vm = world.vm;
        world.link.cut();
        if !running {
            world.b.stop().await;
        }
        let away = world.root().join("away");
        std::fs::rename(world.b.replicas_dir(), &away).expect("moved away");
        if !running {
            world.b.start().await;
            let status = world.b.status(vm).await;
            assert_eq!((status.state, status.points), (S::Critical, 0));
            let error = status.last_error.expect("an error");
            assert!(error.message.contains("are not in its storage location"), "{error:?}");
            let failover =
                world.b.call(move |engine| async move { engine.failover(vm, to(None, true)).await });
            let refusal = failover.await.expect_err("there is nothing to fail over to");
            assert!(refusal.message.contains("are not in its storage location"), "{refusal}");
        }
        world.b.call(move |engine| async move { engine.remove(vm).await }).await.expect("removed");
        assert_eq!(world.b.state(vm), S::Disabled);
        world.b.restart(End::Kill).await;
        assert!(world.b.engine().relationships().is_empty());
    }
}
