//! What goes on beside the cycles: retention, merging, status.

use crate::host::{End, State, until};
use crate::world::{KIB, MIB, World, disk, keep_all, random, settings};
use standin_hypervisor::Hypervisor;
use standin_model::health::Health;
use standin_model::retention::{Policy, Tier};
use standin_model::settings::RelationshipSettings;
use standin_model::state::{ReplicationMode, ReplicationState as S};

#[tokio::test(flavor = "multi_thread")]
async fn retention_drops_points_and_merging_leaves_the_others_as_they_were() {
    // One point an hour, and the latest: all points of this test but two go.
    let world = World::replicating(settings()).await;
    let first = world.latest();
    let mut history = vec![(first.clone(), world.contents())];
    for number in 0..6_u64 {
        world.write("a", number * 100 * KIB, &random(60 * KIB, 120 + number));
        world.write("b", 4 * KIB, &random(KIB, 130 + number));
        let point = world.proven_point().await;
        history.push((point, world.contents()));
    }
    let vm = world.vm;
    let engine = world.b.engine();
    let layers = || {
        let replica = engine.replicas().find(vm)?;
        let most = replica.store().manifest().disks.iter().map(|disk| disk.layers.len()).max()?;
        (replica.store().points().len() <= 3 && most <= 4).then_some(())
    };
    until("few points and few layers", layers).await;
    let left = world.points();
    assert_eq!(left.last().map(|point| point.id), history.last().map(|(point, _)| point.id));
    for (point, contents) in history.iter().filter(|(point, _)| left.iter().any(|kept| kept.id == point.id)) {
        world.equals(point.id, contents);
    }
    // Cycles go on above it.
    world.write("a", 0, b"after the merge");
    world.proven_point().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_keeps_every_point_keeps_every_point() {
    let tier = Tier { keep_for_s: 600, every_s: 0 };
    let policy = Policy { tiers: vec![tier] };
    let world = World::replicating(RelationshipSettings { retention: Some(policy), ..settings() }).await;
    let mut history = Vec::new();
    for number in 0..5_u64 {
        world.write("a", number * 8 * KIB, &random(4 * KIB, 140 + number));
        history.push((world.proven_point().await, world.contents()));
    }
    let replica = world.b.engine().replicas().find(world.vm).expect("a replica");
    replica.apply_retention().await.expect("applied");
    assert_eq!(world.points().len(), 6);
    history.iter().for_each(|(point, contents)| world.equals(point.id, contents));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relationship_whose_vm_is_unknown_is_critical_and_says_so() {
    let mut world = World::replicating(keep_all()).await;
    world.a.fake.clean_stop(world.vm);
    assert_eq!(world.a.status(world.vm).await.health, Health::Ok);
    world.a.fake.undefine(world.vm).await.expect("forgotten");
    world.a.restart(End::Stop).await;
    // Management protocols have it from memory, once the VMs were listed.
    let engine = world.a.engine();
    let missed = || engine.relationship(world.vm).filter(|found| found.status.health == Health::Critical);
    until("the VM is missed", missed).await;
    let found = engine.relationships();
    let issues = &found.first().expect("one").status.health_issues;
    assert!(issues.first().is_some_and(|issue| issue.message.contains("does not know the VM")), "{issues:?}");
    let all = world.a.engine().all_status().await.expect("a status");
    for status in [world.a.status(world.vm).await, all.first().expect("one").clone()] {
        assert_eq!((status.health, status.health_code), (Health::Critical, 3));
        let issue = status.health_issues.first().expect("a reason");
        assert_eq!(status.health_issues.len(), 1, "it is said once");
        assert!(issue.message.contains("does not know the VM"), "{issue:?}");
        assert!(issue.remedy.contains(&world.vm.to_string()), "{issue:?}");
    }
    assert_eq!(world.b.status(world.vm).await.health, Health::Ok, "the replica has its VM");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_what_each_side_is_and_how_it_stands() {
    let world = World::new().await;
    let plain = world.a.status(world.vm).await;
    assert_eq!(
        (plain.mode, plain.state, plain.health),
        (ReplicationMode::None, S::Disabled, Health::NotApplicable)
    );
    assert_eq!(plain.power.as_deref(), Some("running"));
    let job = world.begin(keep_all()).await;
    world.done(job).await;
    world.both_replicate().await;
    let point = world.proven_point().await;
    world.write("a", 0, &random(8 * KIB, 151));
    world.write("b", 512 * KIB, b"x");
    let ours = world.a.status(world.vm).await;
    assert_eq!((ours.mode, ours.state, ours.state_code), (ReplicationMode::Primary, S::Replicating, 3));
    assert_eq!((ours.health, ours.health_issues.len()), (Health::Ok, 0));
    assert_eq!(ours.peer, Some(world.link.address()));
    assert_eq!(ours.interval_s, Some(3600));
    assert_eq!(ours.last_point_at, Some(point.created_at));
    assert!(ours.lag_s.is_some_and(|lag| (0.0..30.0).contains(&lag)));
    assert_eq!(ours.pending_bytes, Some(3 * 4 * KIB));
    assert_eq!(ours.disks, [disk("a"), disk("b")]);
    let counted = ours.statistics.expect("statistics");
    assert_eq!((counted.cycles_ok, counted.cycles_failed, counted.cycles_missed), (2, 0, 0));
    assert!(counted.bytes_sent > 0 && counted.last_replication_at.is_some());
    let theirs = world.b.status(world.vm).await;
    assert_eq!(
        (theirs.mode, theirs.state, theirs.health),
        (ReplicationMode::Replica, S::Replicating, Health::Ok)
    );
    assert_eq!(theirs.peer.as_deref(), Some("primary.example.org"));
    assert_eq!((theirs.points, theirs.last_point_at), (2, Some(point.created_at)));
    assert_eq!((theirs.pending_bytes, theirs.power), (None, None));
    assert_eq!(world.a.engine().all_status().await.expect("all").len(), 1);
    assert_eq!(world.b.engine().all_status().await.expect("all").len(), 1);
    assert_eq!(
        world.a.engine().vm_view(&world.a.fake.inspect(world.vm).await.expect("there")).state,
        S::Replicating
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_shows_its_progress_in_status_and_in_its_job() {
    let world = World::with_disks(&[("a", 24 * MIB), ("b", MIB)], State::Memory(Default::default())).await;
    world.write("a", 0, &random(24 * MIB, 161));
    // A dozen batches of four reads may be under way before the first goes; a sixtieth read makes sure that some went.
    world.a.fake.faults().stall(standin_hypervisor::fake::Op::Read, 60);
    let job = world.begin(keep_all()).await;
    world.a.fake.faults().stalled(standin_hypervisor::fake::Op::Read).await;
    let engine = world.a.engine();
    until("progress of the job", || {
        let seen = engine.jobs().watch(job)?.borrow().clone();
        (seen.bytes_total == 25 * MIB && seen.bytes_done > 0 && seen.percent > 0).then_some(())
    })
    .await;
    let status = world.a.status(world.vm).await;
    assert_eq!((status.state, status.health), (S::WaitingForInitialReplication, Health::Warning));
    let progress = status.progress.expect("progress");
    assert!(progress.bytes_done > 0 && progress.bytes_done < progress.bytes_total, "{progress:?}");
    let theirs = world.b.status(world.vm).await;
    assert_eq!((theirs.state, theirs.points), (S::WaitingForInitialReplication, 0));
    world.release();
    let ended = world.done(job).await;
    assert_eq!((ended.bytes_done, ended.bytes_total), (25 * MIB, 25 * MIB));
}
