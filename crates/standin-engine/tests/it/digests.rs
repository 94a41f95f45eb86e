//! The primary knows what the replica must have, and notices at the seal when it is something else.

use crate::host::{End, State, until};
use crate::world::{KIB, MIB, SIZE_A, World, disk, keep_all, random};
use rand::{Rng, SeedableRng};
use standin_engine::Command;
use standin_hypervisor::fake::Op;
use standin_model::digest::BlockDigest;
use standin_model::health::Health;
use standin_model::job::JobState;
use standin_model::settings::RelationshipSettings;
use standin_model::state::ReplicationState as S;
use standin_model::{Epoch, RecoveryPoint};
use standin_store::SourceTree;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

fn by_hand() -> RelationshipSettings {
    RelationshipSettings { auto_resync: false, ..keep_all() }
}

impl World {
    /// Where the primary keeps the digests of what it sent.
    fn sent_dir(&self) -> PathBuf {
        self.root().join("a/sent").join(self.vm.to_string())
    }

    /// What the primary has written down; `None` when there is nothing, or nothing that can be read.
    fn page(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&std::fs::read(self.sent_dir().join("sent.json")).ok()?).ok()
    }

    /// The epoch whose content the primary knows.
    fn known(&self) -> Option<Epoch> {
        self.page()?["epoch"].as_u64().map(Epoch)
    }

    /// Changes what the primary has written down, while it is down.
    fn rewrite_page(&self, key: &str, value: serde_json::Value) {
        let mut page = self.page().expect("a page");
        page[key] = value;
        let text = serde_json::to_vec(&page).expect("JSON");
        std::fs::write(self.sent_dir().join("sent.json"), text).expect("written");
    }

    /// The primary knows the content of `point`, and has the roots that the replica has.
    #[track_caller]
    fn agrees(&self, point: &RecoveryPoint) {
        // Idle cycles are not noted: nothing changes by them.
        assert!(
            self.known().is_some_and(|known| known <= point.epoch),
            "{:?} of {}",
            self.known(),
            point.epoch
        );
        let store = self.b.engine().replicas().find(self.vm).expect("a replica").store().clone();
        for (name, data) in self.contents() {
            let path = self.sent_dir().join(format!("{name}.tree"));
            let granule = store.manifest().granule;
            let ours = SourceTree::open(&path, granule, data.len() as u64).expect("opens").expect("is there");
            let ours = ours.root().expect("a root");
            assert_eq!(ours, store.root(&name).expect("a root"), "the root of {name}");
            let leaves = data.chunks(granule as usize).map(BlockDigest::of);
            assert_eq!(ours, standin_model::digest::tree::root(leaves), "the root of what {name} holds");
        }
    }

    /// Takes a point of a change; the two sides agree on it.
    async fn agreed(&self, seed: u64) {
        self.write("a", 256 * KIB, &random(9 * KIB, seed));
        let point = self.proven_point().await;
        self.agrees(&point);
    }

    /// Replaces a digest in the replica's tree of disk a.
    fn tamper(&self, offset: u64) {
        let replica = std::fs::read_dir(self.b.replicas_dir()).expect("listed").next().expect("a replica");
        let path = replica.expect("an entry").path().join("digests/a.tree");
        let file = std::fs::OpenOptions::new().write(true).open(path).expect("the tree");
        file.write_all_at(&[0x5a; 16], offset).expect("written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_have_the_same_roots_after_random_cycles_restarts_and_broken_links() {
    let mut world = World::replicating(keep_all()).await;
    world.agreed(1).await;
    let mut dice = rand::rngs::StdRng::seed_from_u64(20);
    for round in 0..24_u64 {
        for _ in 0..dice.random_range(0..6) {
            let length = dice.random_range(1..40 * KIB);
            let offset = dice.random_range(0..SIZE_A - length);
            let data = if dice.random_bool(0.3) {
                vec![0; usize::try_from(length).expect("small")]
            } else {
                random(length, dice.random())
            };
            world.write("a", offset, &data);
            world.write("b", offset % MIB, &data[..data.len().min(4096)]);
        }
        let how = if dice.random_bool(0.5) { End::Stop } else { End::Kill };
        match round % 4 {
            1 => world.a.restart(how).await,
            2 => world.b.restart_behind(&world.link, how).await,
            3 => {
                let old = world.latest();
                world.link.cut_after(dice.random_range(200..60 * KIB));
                let job = world.order_point().await;
                world.a.job(job).await;
                world.link.mend();
                world.newer_than(&old).await;
            }
            _ => {}
        }
        world.a.reaches(world.vm, S::Replicating).await;
        world.agreed(100 + round).await;
    }
    assert!(
        world
            .a
            .engine()
            .jobs()
            .list()
            .iter()
            .all(|job| job.job_type != standin_model::job::JobType::Resynchronize)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_a_seal_that_is_lost_makes_nothing_unknown() {
    for killed in [false, true] {
        let mut world = World::replicating(keep_all()).await;
        world.agreed(2).await;
        let old = world.latest();
        world.write("a", MIB, &random(30 * KIB, 3));
        // Begun, the end of the pass, the files wanted; the fourth answer is that of the seal.
        world.link.hold_answers_after(3);
        let job = world.order_point().await;
        world.newer_than(&old).await;
        if killed {
            world.a.kill().await;
            world.link.mend();
            world.a.start().await;
        } else {
            world.link.cut();
            world.a.job(job).await;
            world.link.mend();
        }
        // The first tries may still meet the broken connection.
        for _ in 0..20 {
            let job = world.order_point().await;
            if world.a.job(job).await.state == JobState::Completed {
                break;
            }
        }
        world.a.reaches(world.vm, S::Replicating).await;
        world.agreed(4).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_comparison_the_primary_knows_every_granule_by_its_own_reading() {
    let world = World::replicating(keep_all()).await;
    let old = world.latest();
    world.a.fake.crash(world.vm);
    world.write("a", 2 * MIB, &random(70 * KIB, 5));
    world.write("b", 0, &[0; 64 << 10]);
    let vm = world.vm;
    world.a.call(move |engine| async move { engine.start_vm(vm, None).await }).await.expect("started");
    let point = world.newer_than(&old).await;
    world.both_replicate().await;
    world.agrees(&point);
    world.agreed(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_copy_that_goes_on_after_a_restart_is_known_from_its_beginning() {
    for how in [End::Stop, End::Kill] {
        let state = State::Memory(Default::default());
        let mut world = World::with_disks(&[("a", 200 * MIB), ("b", MIB)], state).await;
        for at in 0..20 {
            world.write("a", at * 10 * MIB, &random(64 * KIB, at));
        }
        world.a.fake.faults().stall(Op::Read, 15);
        let job = world.begin(keep_all()).await;
        world.a.fake.faults().stalled(Op::Read).await;
        world.a.restart(how).await;
        world.a.fake.faults().clear();
        world.done(job).await;
        world.both_replicate().await;
        world.agrees(&world.latest());
        world.write("a", 150 * MIB, &random(9 * KIB, 7));
        world.agrees(&world.point().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_digests_were_altered_is_noticed_at_the_next_cycle_and_mended() {
    // 769 granules: their digests, 13 groups, the root; each level begins on a page.
    let (leaf, group, root) = (4096 + 5 * 16, 20480 + 9 * 16, 24576);
    for (offset, change) in [(leaf, true), (group, true), (root, false)] {
        let mut world = World::replicating(by_hand()).await;
        world.agreed(8).await;
        let points = world.points();
        world.tamper(offset);
        if change {
            world.write("a", 6 * 4 * KIB, &random(4 * KIB, 9));
        }
        let job = world.order_point().await;
        let ended = world.a.job(job).await;
        assert_eq!(ended.state, JobState::Exception, "{offset}");
        world.a.reaches(world.vm, S::WaitingToStartResynchronization).await;
        let status = world.a.status(world.vm).await;
        assert_eq!((status.state_code, status.health), (9, Health::Critical));
        let error = status.last_error.expect("an error");
        assert!(error.message.contains("VM web") && error.message.contains("disk a"), "{error:?}");
        assert!(!error.message.contains("disk b") && error.remedy.contains("standin resync"), "{error:?}");
        assert!(points.iter().all(|point| world.points().contains(point)), "the points stay");
        // What is wanted survives a restart.
        world.a.restart(End::Kill).await;
        let job = world.a.ask(world.vm, Command::Resynchronize).await.expect("asked").expect("a job");
        world.done(job).await;
        world.both_replicate().await;
        world.agrees(&world.latest());
        world.agreed(10).await;
        assert!(world.a.status(world.vm).await.last_error.is_none());
        assert!(points.iter().all(|point| world.points().contains(point)), "the points stay");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_setting_a_replica_that_deviates_is_mended_by_itself() {
    let mut world = World::replicating(keep_all()).await;
    world.agreed(11).await;
    world.b.stop().await;
    world.tamper(20480 + 9 * 16);
    world.b.start().await;
    world.link.lead_to(world.b.port());
    world.write("a", 0, &random(4 * KIB, 12));
    world.order_point().await;
    let engine = world.a.engine();
    until("the comparison", || {
        let jobs = engine.jobs().list();
        let mut ended = jobs.iter().filter(|job| job.job_type == standin_model::job::JobType::Resynchronize);
        ended.find(|job| job.state == JobState::Completed).map(|_| ())
    })
    .await;
    world.both_replicate().await;
    world.agreed(13).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_certain_any_more_is_unknown_and_never_an_alarm() {
    type Harm = fn(&World);
    let harms: [(&str, Harm); 5] = [
        ("another boot", |world| world.rewrite_page("boot", "another".into())),
        ("an older note", |world| world.rewrite_page("epoch", 0.into())),
        ("another relationship", |world| world.rewrite_page("relationship", "another".into())),
        ("a page that was cut off", |world| {
            std::fs::write(world.sent_dir().join("sent.json"), b"{\"rel").expect("written");
        }),
        ("no tree", |world| std::fs::remove_file(world.sent_dir().join("a.tree")).expect("removed")),
    ];
    for (what, harm) in harms {
        let mut world = World::replicating(keep_all()).await;
        world.agreed(14).await;
        world.a.kill().await;
        harm(&world);
        let known = world.known();
        world.a.start().await;
        world.write("a", 0, &random(20 * KIB, 15));
        world.proven_point().await;
        assert_eq!(world.a.state(world.vm), S::Replicating, "{what}");
        // Nothing was noted, so nothing was compared.
        assert_eq!(world.known(), known, "{what}");
        world.a.ask(world.vm, Command::Suspend).await.expect("suspended");
        let job = world.a.ask(world.vm, Command::Resynchronize).await.expect("asked").expect("a job");
        world.done(job).await;
        world.agrees(&world.latest());
        world.agreed(16).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_ended_in_order_knows_all_after_another_boot_of_the_host_too() {
    let mut world = World::replicating(keep_all()).await;
    world.agreed(17).await;
    world.a.stop().await;
    assert_eq!(world.page().expect("a page")["durable"], true);
    world.rewrite_page("boot", "another".into());
    world.a.start().await;
    world.agreed(18).await;
    assert_eq!(world.page().expect("a page")["durable"], false, "it is not durable while it changes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relationship_that_ends_leaves_no_digests() {
    let world = World::replicating(keep_all()).await;
    world.agreed(19).await;
    assert_eq!(world.known(), Some(world.latest().epoch));
    let vm = world.vm;
    world.a.call(move |engine| async move { engine.remove(vm).await }).await.expect("removed");
    assert!(!world.sent_dir().exists());
    assert!(world.contents().contains_key(&disk("a")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_cycle_writes_nothing_down() {
    let world = World::replicating(keep_all()).await;
    world.agreed(20).await;
    let (known, page) = (world.known(), world.page());
    let seen =
        std::fs::metadata(world.sent_dir().join("sent.json")).expect("a page").modified().expect("a time");
    for _ in 0..5 {
        world.point().await;
    }
    let now =
        std::fs::metadata(world.sent_dir().join("sent.json")).expect("a page").modified().expect("a time");
    assert_eq!((known, page, seen), (world.known(), world.page(), now));
    assert!(world.known() < Some(world.latest().epoch));
    world.agreed(21).await;
}
