//! Two copies of a VM were forced to run, and a person decides: what the other one wrote is kept.

use super::replicating;
use crate::host::{Host, until};
use crate::world::{Contents, World, disk};
use standin_engine::vm::{AlarmKind, Asserts};
use standin_model::fence::Assertion;
use standin_model::point::PointKind;
use standin_model::state::ReplicationState as S;
use standin_model::{JobId, RecoveryPoint};
use std::process::Command;

impl World {
    /// Both hosts were forced to run the VM, and have met. What the copy on the replica wrote: by QEMU, as its overlay has
    /// it, over the point that it began with.
    async fn two_copies(&mut self) -> Contents {
        let mut copy = self.contents();
        self.died_and_failed_over().await;
        self.a.start().await;
        self.start_on(&self.a, Some(Assertion::Forced)).await.expect("forced");
        let replica = self.b.engine().replicas().find(self.vm).expect("a replica");
        let overlay = replica.store().overlays().into_iter().next().expect("an overlay");
        let path = &overlay.disks[&disk("a")].path;
        let write = Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", "write -P 0x5c 65536 12288"])
            .arg(path)
            .output();
        assert!(write.expect("qemu-io is installed").status.success());
        copy.get_mut(&disk("a")).expect("disk a")[65_536..77_824].fill(0x5c);
        self.link.mend();
        for host in [&self.a, &self.b] {
            until("both say it".to_owned(), || {
                let alarm = host.engine().vm_tasks().record(self.vm).and_then(|record| record.alarm);
                alarm.filter(|alarm| alarm.kind == AlarmKind::Rivals)
            })
            .await;
        }
        copy
    }

    async fn keep(&self, host: &Host, here: bool) -> Option<JobId> {
        let vm = self.vm;
        let kept = host.call(move |engine| async move { engine.keep_copy(vm, here).await });
        kept.await.expect("decided")
    }

    /// The copy on the replica is a pinned point, its failover is reverted, and replication goes on without a comparison.
    async fn the_copy_is_a_point(&self, copy: &Contents) {
        self.b.reaches(self.vm, S::Replicating).await;
        let pinned: Vec<RecoveryPoint> = self.points().into_iter().filter(|point| point.pinned).collect();
        let [kept] = &pinned[..] else { panic!("{pinned:?}") };
        assert_eq!(kept.kind, PointKind::Standard);
        self.equals(kept.id, copy);
        assert!(!self.runs_on(&self.b).await && self.runs_on(&self.a).await);
        let replica = self.b.engine().replicas().find(self.vm).expect("a replica");
        assert!(replica.store().overlays().is_empty());
        self.both_replicate().await;
        self.write("a", 0, b"the copy that stays goes on");
        let next = self.proven_point().await;
        assert!(next.epoch > kept.epoch);
        // It can be failed over to by the ordinary call, and retention never takes it.
        replica.apply_retention().await.expect("applied");
        self.equals(kept.id, copy);
        self.a.fake.clean_stop(self.vm);
        let vm = self.vm;
        let to = standin_engine::replica::failover::Failover {
            point: Some(kept.id),
            start: false,
            asserts: Asserts::Nothing,
        };
        let job =
            self.b.call(move |engine| async move { engine.failover(vm, to).await }).await.expect("begun");
        self.done_on_replica(job).await;
        assert_eq!(self.b.state(vm), S::Recovered);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failovers_copy_wrote_is_a_pinned_point_when_the_other_copy_stays() {
    let mut world = replicating().await;
    let copy = world.two_copies().await;
    let job = world.keep(&world.b, false).await.expect("a job");
    world.done_on_replica(job).await;
    world.the_copy_is_a_point(&copy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_kept_as_well_when_that_is_decided_on_the_other_host() {
    let mut world = replicating().await;
    let copy = world.two_copies().await;
    assert_eq!(world.keep(&world.a, true).await, None);
    world.the_copy_is_a_point(&copy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_cannot_be_kept_is_left_and_kept_when_it_can() {
    let mut world = replicating().await;
    let copy = world.two_copies().await;
    let replica = world.b.engine().replicas().find(world.vm).expect("a replica");
    let overlay = replica.store().overlays().into_iter().next().expect("an overlay");
    let path = overlay.disks[&disk("a")].path.clone();
    drop(replica);
    let image = std::fs::read(&path).expect("readable");
    std::fs::write(&path, b"no image").expect("written");
    let job = world.keep(&world.b, false).await.expect("a job");
    let ended = world.b.job(job).await;
    let error = ended.error.expect("it cannot be read");
    assert!(error.message.contains("left as it is") && error.remedy.contains("--revert"), "{error:?}");
    assert_eq!(world.b.state(world.vm), S::Recovered);
    std::fs::write(&path, image).expect("written");
    // The daemon takes it up again by itself.
    world.b.restart_behind(&world.link, crate::host::End::Kill).await;
    world.the_copy_is_a_point(&copy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disks_of_a_primary_that_is_given_up_stay_as_they_are_and_are_named() {
    let mut world = replicating().await;
    world.two_copies().await;
    let before = world.contents();
    assert_eq!(world.keep(&world.b, true).await, None);
    until("the primary's copy is stopped".to_owned(), || {
        let alarm = world.a.engine().vm_tasks().record(world.vm).and_then(|record| record.alarm)?;
        (alarm.kind == AlarmKind::BothRanLower).then_some(())
    })
    .await;
    assert!(!world.runs_on(&world.a).await && world.runs_on(&world.b).await);
    let status = world.a.status(world.vm).await;
    let issue = status.health_issues.first().expect("an issue");
    assert!(issue.remedy.contains("qemu-img convert") && issue.remedy.contains("vm stop"), "{issue:?}");
    assert_eq!(world.contents(), before);
}
