//! A lost manifest loses nothing: it comes back from its second copy where that is exact, else it is built again from
//! what lies beside it, and every point that is offered then equals what was sealed.

use crate::rig::{Rig, assert_good, change, directory, disk, layer_file, merge_all, options, spec};
use standin_model::{Epoch, PointId, VmId};
use standin_store::{Error, OverlayRequest, Purpose, RemoveDisks, Repaired, Replica, ReplicaSpec, Store};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SIZES: [u64; 2] = [(1 << 20) + 512, 200 << 10];
const COPIES: [&str; 2] = ["manifest.json", "manifest-copy.json"];

/// A replica with three points and a model of them; not open.
struct Scene {
    home: tempfile::TempDir,
    rig: Rig,
    spec: ReplicaSpec,
    directory: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let (home, spec) = (directory(), spec(&SIZES, 4096));
        let store = Store::open(options(home.path())).expect("opens");
        let replica = store.create(home.path(), spec.clone()).expect("creates");
        let mut rig = Rig::new(&SIZES, 4096);
        rig.layer(&replica, 0, &[change(0, 0, 200, 1), change(1, 0, 40, 2)], false).expect("base");
        rig.layer(&replica, 1, &[change(0, 10, 5, 3)], true).expect("delta");
        rig.layer(&replica, 2, &[change(0, 100, 5, 4), change(1, 3, 2, 0)], true).expect("delta");
        rig.layer(&replica, 3, &[change(0, 8, 9, 5)], true).expect("delta");
        let directory = replica.directory().to_owned();
        Self { home, rig, spec, directory }
    }

    fn vm(&self) -> VmId {
        self.spec.vm
    }

    fn open(&self) -> Store {
        Store::open(options(self.home.path())).expect("opens")
    }

    fn lose_both(&self) {
        for name in COPIES {
            std::fs::remove_file(self.directory.join(name)).expect("removed");
        }
    }

    fn repair(&self, store: &Store) -> (Replica, Repaired) {
        let mut seen = (0, 0);
        let repaired = store.repair(self.vm(), &mut |done, all| seen = (done, all)).expect("repairs");
        assert!(seen.0 > 0 && seen.0 <= seen.1, "{seen:?}");
        repaired
    }

    /// Takes another layer, and finds everything good at the next start too.
    fn goes_on(mut self, store: Store) {
        let replica = store.get(self.vm()).expect("open");
        let head = replica.head_epoch().expect("a head");
        self.rig.now = self.rig.history[&head].1.clone();
        self.rig
            .layer(&replica, head.0 + 7, &[change(0, 3, 5, 9), change(1, 0, 2, 8)], true)
            .expect("goes on");
        self.rig.verify(&replica);
        drop((replica, store));
        let store = self.open();
        let replica = store.get(self.vm()).expect("found");
        self.rig.verify(&replica);
        self.rig.verify_tree(&replica);
    }
}

fn epochs(replica: &Replica) -> Vec<u64> {
    replica.points().iter().map(|point| point.epoch.0).collect()
}

fn flip(path: &Path, offset: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("reads");
    file.write_all_at(&[byte[0] ^ 4], offset).expect("writes");
}

#[test]
fn a_lost_manifest_comes_back_from_its_second_copy_by_itself() {
    let scene = Scene::new();
    let path = scene.directory.join(COPIES[0]);
    let whole = std::fs::read(&path).expect("reads");
    let cuts = [0, 1, whole.len() / 4, whole.len() / 2, whole.len() - 72, whole.len() - 1];
    let mut cases: Vec<Option<Vec<u8>>> = cuts.iter().map(|cut| Some(whole[..*cut].to_vec())).collect();
    for at in [3, whole.len() / 2, whole.len() - 5] {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        cases.push(Some(flipped));
    }
    cases.push(None);
    for (number, case) in cases.into_iter().enumerate() {
        match case {
            Some(bytes) => std::fs::write(&path, bytes).expect("writes"),
            None => std::fs::remove_file(&path).expect("removed"),
        }
        let store = scene.open();
        let replica =
            store.get(scene.vm()).unwrap_or_else(|| panic!("case {number}: {:?}", store.problems()));
        assert_eq!(epochs(&replica), [1, 2, 3], "case {number}");
        scene.rig.verify(&replica);
        assert!(std::fs::read(&path).expect("reads") == whole, "case {number}");
    }
    let store = scene.open();
    assert_good(&store);
    scene.goes_on(store);
}

#[test]
fn a_lost_second_copy_is_written_again() {
    let scene = Scene::new();
    let path = scene.directory.join(COPIES[1]);
    let whole = std::fs::read(&path).expect("reads");
    for spoil in [b"".as_slice(), &whole[..40]] {
        std::fs::write(&path, spoil).expect("writes");
        drop(scene.open());
        assert!(std::fs::read(&path).expect("reads") == whole);
    }
}

#[test]
fn with_both_copies_gone_the_replica_is_shown_and_no_new_one_takes_its_place() {
    let scene = Scene::new();
    scene.lose_both();
    let store = scene.open();
    assert!(store.get(scene.vm()).is_none());
    let [unreadable] = &store.unreadable()[..] else { panic!("{:?}", store.unreadable()) };
    assert!(unreadable.repairable && unreadable.directory == scene.directory, "{unreadable:?}");
    assert!(unreadable.message.contains("`standin store repair web`"), "{unreadable:?}");
    let refused = store.create(scene.home.path(), scene.spec.clone()).expect_err("its place is taken");
    assert!(matches!(refused, Error::Exists(_)), "{refused}");
    let (replica, repaired) = scene.repair(&store);
    assert_eq!((repaired.points, repaired.set_aside.len()), (3, 0), "{repaired:?}");
    assert_eq!(repaired.left_out, Vec::<String>::new());
    assert!(store.unreadable().is_empty() && store.problems().is_empty());
    scene.rig.verify(&replica);
    scene.rig.verify_tree(&replica);
    assert_good(&store);
    drop(replica);
    scene.goes_on(store);
}

#[test]
fn a_copy_that_is_behind_is_not_believed() {
    let mut scene = Scene::new();
    let behind = std::fs::read(scene.directory.join(COPIES[1])).expect("reads");
    let store = scene.open();
    let replica = store.get(scene.vm()).expect("open");
    scene.rig.layer(&replica, 4, &[change(0, 60, 3, 7)], true).expect("delta");
    drop((replica, store));
    scene.lose_both();
    std::fs::write(scene.directory.join(COPIES[1]), behind).expect("writes");
    let store = scene.open();
    assert!(store.unreadable()[0].message.contains("layer 4"), "{:?}", store.unreadable());
    let (replica, repaired) = scene.repair(&store);
    assert_eq!((epochs(&replica), repaired.points), (vec![1, 2, 3, 4], 4));
    scene.rig.verify(&replica);
}

#[test]
fn a_point_that_cannot_be_proven_is_not_offered_and_is_said() {
    let scene = Scene::new();
    let store = scene.open();
    let replica = store.get(scene.vm()).expect("open");
    let path = layer_file(&replica, 0, Epoch(2));
    drop((replica, store));
    let needle = crate::rig::pattern(100 * 4096, 64, 4);
    let data = std::fs::read(&path).expect("reads");
    let at = data.windows(64).position(|window| window == needle).expect("is there");
    flip(&path, at as u64);
    scene.lose_both();
    let store = scene.open();
    let (replica, repaired) = scene.repair(&store);
    assert_eq!(epochs(&replica), [1]);
    assert_eq!(repaired.left_out.len(), 2, "{repaired:?}");
    assert!(repaired.left_out.iter().all(|why| why.contains("is not offered")), "{repaired:?}");
    scene.rig.verify(&replica);
    // The newest state shows the damage: a comparison sends it again.
    let leaf = replica.leaf_digests(&disk(0), 100, 1).expect("reads")[0];
    let wanted = crate::rig::digests(&scene.rig.now[0][100 * 4096..101 * 4096], 4096)[0];
    assert_ne!(leaf, wanted);
}

#[test]
fn layers_above_a_missing_one_are_set_aside_and_the_points_below_stay() {
    for missing in ["qcow2", "digests"] {
        let scene = Scene::new();
        let path = scene.directory.join(format!("disks/vda/000000000002.{missing}"));
        std::fs::remove_file(&path).expect("removed");
        scene.lose_both();
        let store = scene.open();
        let (replica, repaired) = scene.repair(&store);
        assert_eq!(epochs(&replica), [1], "{repaired:?}");
        // Layer 3 of both disks, what is left of 2.
        assert_eq!(repaired.set_aside.len(), 7, "{repaired:?}");
        assert!(repaired.set_aside.iter().all(|path| path.exists()));
        scene.rig.verify(&replica);
        drop(replica);
        assert!(store.problems().iter().all(|problem| problem.message.contains("set this file aside")));
        scene.goes_on(store);
    }
}

#[test]
fn a_failed_over_replica_keeps_its_overlay_and_what_became_of_it() {
    for commit in [false, true] {
        let scene = Scene::new();
        let store = scene.open();
        let replica = store.get(scene.vm()).expect("open");
        let point = replica.points()[1].id;
        let request = OverlayRequest { id: "f-1".into(), point, purpose: Purpose::Failover };
        replica.overlay(request).expect("an overlay");
        if commit {
            replica.commit_overlay("f-1").expect("commits");
        }
        let before = replica.overlays();
        drop((replica, store));
        scene.lose_both();
        let store = scene.open();
        match (commit, store.repair(scene.vm(), &mut |_, _| {})) {
            (_, Ok((replica, _))) => {
                assert_eq!(replica.overlays(), before, "committed: {commit}");
                assert_eq!(epochs(&replica).len(), if commit { 0 } else { 3 });
                assert!(commit || replica.discard_overlay("f-1").is_ok());
            }
            (_, Err(error)) => panic!("{error}"),
        }
    }
}

#[test]
fn a_replica_of_a_version_without_notes_opens_and_says_that_it_cannot_be_built_again() {
    let scene = Scene::new();
    for name in ["vda", "vdb"] {
        for epoch in 0..4 {
            without_note(&scene.directory.join(format!("disks/{name}/{epoch:012}.digests")));
        }
    }
    std::fs::remove_file(scene.directory.join(COPIES[1])).expect("removed");
    let store = scene.open();
    let replica = store.get(scene.vm()).expect("opens");
    scene.rig.verify(&replica);
    assert_good(&store);
    drop((replica, store));
    scene.lose_both();
    let store = scene.open();
    let refused = store.repair(scene.vm(), &mut |_, _| {}).expect_err("nothing says which point it is");
    assert!(matches!(refused, Error::NotProvable { .. }), "{refused}");
}

/// Makes a sidecar what the version before wrote.
fn without_note(path: &Path) {
    let mut bytes = std::fs::read(path).expect("reads");
    let payload = u64::from_le_bytes(bytes[40..48].try_into().expect("eight bytes"));
    bytes.truncate(64 + payload as usize);
    bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
    let check = blake3::hash(&bytes[..48]);
    bytes[48..64].copy_from_slice(&check.as_bytes()[..16]);
    std::fs::write(path, bytes).expect("writes");
}

/// The life of a replica up to a crash, then the loss of both manifests: what was acknowledged is there.
fn crash_and_lose(steps: i64) -> bool {
    let (home, spec) = (directory(), spec(&SIZES, 4096));
    let crash = standin_store::CrashPoint::after(steps);
    let told = standin_store::StoreOptions { crash: Some(crash.clone()), ..options(home.path()) };
    let mut rig = Rig::new(&SIZES, 4096);
    let mut acknowledged: Vec<PointId> = Vec::new();
    let story = || -> standin_store::Result<()> {
        let store = Store::open(told)?;
        let replica = store.create(home.path(), spec.clone())?;
        rig.layer(&replica, 0, &[change(0, 0, 45, 1), change(1, 0, 25, 2)], false)?;
        for epoch in 1..7_u8 {
            let n = u64::from(epoch);
            let changes =
                [change(0, n * 6, 9, epoch), change(0, n * 6 + 4, 2, 0), change(1, 20 - n, 8, epoch)];
            acknowledged.extend(rig.layer(&replica, n, &changes, true)?);
            if epoch == 4 {
                for number in [0, 1] {
                    let id = replica.points()[number].id;
                    acknowledged.retain(|known| *known != id);
                    replica.remove_point(id)?;
                }
                merge_all(&replica, 8192)?;
            }
        }
        Ok(())
    };
    drop(story());
    let directory = home.path().join(format!("web-{}", spec.vm));
    for name in COPIES {
        drop(std::fs::remove_file(directory.join(name)));
    }
    let store = Store::open(options(home.path())).expect("opens");
    if acknowledged.is_empty() {
        return crash.crashed();
    }
    let (replica, repaired) =
        store.repair(spec.vm, &mut |_, _| {}).unwrap_or_else(|e| panic!("step {steps}: {e}"));
    let found: Vec<PointId> = replica.points().iter().map(|point| point.id).collect();
    assert!(acknowledged.iter().all(|id| found.contains(id)), "step {steps}: a point is lost: {repaired:?}");
    rig.verify(&replica);
    rig.verify_tree(&replica);
    merge_all(&replica, 1 << 20).expect("merges");
    rig.verify(&replica);
    crash.crashed()
}

#[test]
fn wherever_a_crash_came_before_the_loss_every_acknowledged_point_is_proven_again() {
    let mut steps = 30;
    while crash_and_lose(steps) {
        steps += 3;
        assert!(steps < 5000, "the story does not end");
    }
    assert!(steps > 150, "the story has only {steps} steps");
}

#[test]
fn what_was_kept_is_listed_used_again_and_removed() {
    use standin_store::DirectoryState;
    let scene = Scene::new();
    let store = scene.open();
    store.remove(scene.vm(), RemoveDisks::Keep).expect("kept");
    let states = |store: &Store| -> Vec<(DirectoryState, usize)> {
        store.survey().expect("listed").into_iter().map(|found| (found.state, found.points)).collect()
    };
    assert_eq!(states(&store), [(DirectoryState::Kept, 3)]);
    let second = store.create(scene.home.path(), scene.spec.clone()).expect("another one");
    let found = store.survey().expect("listed");
    assert_eq!(states(&store), [(DirectoryState::Replica, 0), (DirectoryState::Kept, 3)]);
    let kept = found[1].path.clone();
    assert!(found[1].bytes > 1 << 20, "{found:?}");
    let refused = store.adopt(&kept).expect_err("its place is taken");
    assert!(refused.to_string().contains("standin unreplicate web"), "{refused}");
    drop(second);
    store.remove(scene.vm(), RemoveDisks::Keep).expect("kept");
    let replica = store.adopt(&kept).expect("adopted");
    assert_eq!(replica.directory(), scene.directory);
    scene.rig.verify(&replica);
    assert_eq!(states(&store), [(DirectoryState::Replica, 3), (DirectoryState::Kept, 0)]);
    let empty = store.survey().expect("listed").remove(1).path;
    for refused in [&scene.directory, Path::new("/etc"), &scene.home.path().join("nothing")] {
        assert!(store.remove_directory(refused).is_err(), "{}", refused.display());
    }
    store.remove_directory(&empty).expect("removed");
    assert!(!empty.exists());
    drop((replica, store));
    let store = scene.open();
    scene.rig.verify(&store.get(scene.vm()).expect("open"));
    scene.goes_on(store);
}

fn copy_tree(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").args([from, to]).status().expect("cp");
    assert!(done.success());
}

#[test]
fn of_two_copies_the_newer_one_is_used_and_the_other_is_said() {
    let scene = Scene::new();
    let other = directory();
    copy_tree(&scene.directory, other.path());
    let moved = other.path().join(scene.directory.file_name().expect("a name"));
    let both = |first: &Path, second: &Path, in_use: Vec<PathBuf>| {
        let locations = vec![first.to_owned(), second.to_owned()];
        let store =
            Store::open(standin_store::StoreOptions { locations, in_use, ..options(first) }).expect("opens");
        let used = store.get(scene.vm()).expect("one of them").directory().to_owned();
        let [problem] = &store.problems()[..] else { panic!("{:?}", store.problems()) };
        assert!(problem.message.contains(&used.display().to_string()), "{problem:?}");
        assert_ne!(problem.path, used);
        used
    };
    // Equal: the location that is named first.
    assert_eq!(both(other.path(), scene.home.path(), Vec::new()), moved);
    assert_eq!(both(scene.home.path(), other.path(), Vec::new()), scene.directory);
    // A VM runs from one.
    let running = vec![scene.directory.join("overlays/f/vda.qcow2")];
    assert_eq!(both(other.path(), scene.home.path(), running), scene.directory);
    // One is newer.
    let store = scene.open();
    let mut rig = Rig::new(&SIZES, 4096);
    rig.now.clone_from(&scene.rig.now);
    rig.layer(&store.get(scene.vm()).expect("open"), 4, &[change(0, 60, 3, 7)], true).expect("delta");
    drop(store);
    assert_eq!(both(other.path(), scene.home.path(), Vec::new()), scene.directory);
    let store = Store::open(standin_store::StoreOptions {
        locations: vec![scene.home.path().to_owned(), other.path().to_owned()],
        ..options(other.path())
    })
    .expect("opens");
    let states: Vec<_> =
        store.survey().expect("listed").into_iter().map(|found| (found.path, found.state)).collect();
    assert!(states.contains(&(moved.clone(), standin_store::DirectoryState::Copy)), "{states:?}");
    store.remove_directory(&moved).expect("removed");
    assert!(store.problems().is_empty());
}
