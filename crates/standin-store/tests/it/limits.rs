//! Disks that fill up, names and requests that cannot be, files of others.

use crate::rig::{Rig, change, digests, directory, disk, options, pattern, request, spec};
use standin_model::{DiskName, Epoch, PointId, VmId};
use standin_store::{
    DiskSpec, Error, Kind, MergeBudget, MergeOutcome, OverlayRequest, Purpose, RemoveDisks, Store,
    StoreOptions,
};
use std::path::Path;
use std::process::Command;

/// A small file system in memory, unmounted when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(size: &str) -> Option<Self> {
        let directory = directory();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(directory.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self(directory)),
            outcome => {
                eprintln!("SKIPPED: a tmpfs cannot be mounted here ({outcome:?}); run the tests as root");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the tmpfs stays mounted");
    }
}

#[test]
fn a_full_disk_gives_up_the_layer_and_keeps_everything_else() {
    let Some(small) = Small::mount("16m") else { return };
    let home = small.0.path();
    let store = Store::open(options(home)).expect("opens");
    let replica = store.create(home, spec(&[64 << 20], 4096)).expect("creates");
    let mut rig = Rig::new(&[64 << 20], 4096);
    rig.layer(&replica, 0, &[change(0, 0, 500, 1)], false).expect("base");
    rig.layer(&replica, 1, &[change(0, 10, 5, 2)], true).expect("delta");
    let error = rig.layer(&replica, 2, &[change(0, 0, 8000, 3)], true).expect_err("32 MB do not fit");
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    rig.verify(&replica);
    rig.layer(&replica, 2, &[change(0, 20, 5, 4)], true).expect("a layer that fits goes on");
    rig.verify(&replica);
    crate::rig::assert_good(&store);
    drop((replica, store));
}

#[test]
fn a_merge_that_does_not_fit_leaves_nothing_behind_and_is_done_when_there_is_room() {
    let Some(small) = Small::mount("16m") else { return };
    let home = small.0.path();
    let store = Store::open(options(home)).expect("opens");
    let replica = store.create(home, spec(&[64 << 20], 4096)).expect("creates");
    let mut rig = Rig::new(&[64 << 20], 4096);
    rig.layer(&replica, 0, &[change(0, 0, 100, 1)], true).expect("base");
    rig.layer(&replica, 1, &[change(0, 200, 800, 2)], false).expect("a delta that no point needs");
    rig.layer(&replica, 2, &[change(0, 1000, 800, 3)], true).expect("delta");
    let ballast = home.join(".ballast");
    let free = rustix::fs::statvfs(home).map(|space| space.f_bavail * space.f_frsize).expect("statvfs");
    let file = std::fs::File::create(&ballast).expect("creates the ballast");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free - (64 << 10))
        .expect("fills up");
    let error = merge_all(&replica).expect_err("6 MB do not fit");
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert_eq!(unfinished(home), Vec::<std::path::PathBuf>::new());
    rig.verify(&replica);
    drop(file);
    std::fs::remove_file(&ballast).expect("makes room");
    assert!(merge_all(&replica).expect("merges now"), "something was merged");
    rig.verify(&replica);
    assert_eq!(unfinished(home), Vec::<std::path::PathBuf>::new());
}

/// Merges until there is nothing to do; whether anything was merged.
fn merge_all(replica: &standin_store::Replica) -> Result<bool, Error> {
    let mut merged = false;
    loop {
        match replica.merge_step(&MergeBudget { max_bytes: 1 << 20 })? {
            MergeOutcome::Idle => return Ok(merged),
            MergeOutcome::Merged { .. } => merged = true,
            MergeOutcome::Progress { .. } => {}
        }
    }
}

/// Everything below a directory that is half written.
fn unfinished(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).expect("lists").map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| if path.is_dir() { unfinished(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|end| end == "part"))
        .collect()
}

#[test]
fn a_layer_below_the_reserve_is_refused_before_it_begins() {
    let home = directory();
    let store = Store::open(StoreOptions { reserve: u64::MAX, ..options(home.path()) }).expect("opens");
    let replica = store.create(home.path(), spec(&[1 << 20], 4096)).expect("creates");
    let error = replica.begin(Epoch(0), Kind::Base).expect_err("no room");
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
}

#[test]
fn requests_that_make_no_sense_are_refused_and_change_nothing() {
    let home = directory();
    let store = Store::open(options(home.path())).expect("opens");
    for bad in [
        spec(&[1000], 4096),
        spec(&[], 4096),
        spec(&[1 << 20], 1000),
        spec(&[0], 4096),
        spec(&[1 << 60], 4096),
    ] {
        assert!(matches!(store.create(home.path(), bad), Err(Error::Invalid(_))));
    }
    let mut twice = spec(&[1 << 20], 4096);
    twice.disks.push(DiskSpec { name: disk(0), size: 512 });
    assert!(store.create(home.path(), twice).is_err());
    assert!(store.create(Path::new("/etc"), spec(&[512], 4096)).is_err(), "another location");
    let replica = store.create(home.path(), spec(&[(1 << 20) + 512], 4096)).expect("creates");
    assert!(replica.begin(Epoch(1), Kind::Delta).is_err(), "a delta before the base");
    let layer = replica.begin(Epoch(0), Kind::Base).expect("begins");
    assert!(matches!(replica.begin(Epoch(0), Kind::Base), Err(Error::Busy { .. })));
    let data = pattern(0, 8192, 1);
    let good = digests(&data, 4096);
    let name = disk(0);
    for (offset, length, count) in
        [(1, 4096, 1), (0, 4095, 1), (0, 8192, 1), (1 << 20, 4096, 1), (u64::MAX - 4095, 4096, 1)]
    {
        assert!(
            matches!(layer.write(&name, offset, &data[..length], &good[..count]), Err(Error::Invalid(_))),
            "{offset}"
        );
    }
    assert!(layer.write_zeroes(&name, 0, u64::MAX).is_err());
    assert!(layer.write(&DiskName::new("other").expect("a name"), 0, &data, &good).is_err());
    let lie = [standin_model::BlockDigest::ZERO; 2];
    assert!(
        matches!(layer.write(&name, 0, &data, &lie), Err(Error::Invalid(_))),
        "data whose digest says zeros"
    );
    layer.write(&name, 0, &data, &good).expect("refusals do not poison");
    layer.write(&name, 1 << 20, &data[..512], &digests(&data[..512], 4096)).expect("the tail");
    layer.seal(request(None, 0)).expect("seals");
    assert!(replica.begin(Epoch(0), Kind::Delta).is_err(), "an epoch that is sealed");
    let layer = replica.begin(Epoch(1), Kind::Delta).expect("begins");
    let mut escaping = request(Some(PointId::random()), 1);
    escaping.config[0].name = "../../../etc/passwd".into();
    assert!(matches!(layer.seal(escaping), Err(Error::Invalid(_))));
    let point = PointId::random();
    replica.begin(Epoch(1), Kind::Delta).expect("begins").seal(request(Some(point), 1)).expect("seals");
    for id in ["", "..", "a/b", ".x", "x.part", &"x".repeat(300)] {
        let request = OverlayRequest { id: id.into(), point, purpose: Purpose::Test };
        assert!(matches!(replica.overlay(request), Err(Error::Invalid(_))), "{id:?}");
    }
    assert!(matches!(replica.reader(PointId::random()), Err(Error::UnknownPoint { .. })));
    assert!(store.get(VmId::random()).is_none());
    crate::rig::assert_good(&store);
}

#[test]
fn a_replica_that_is_held_is_not_opened_twice() {
    let home = directory();
    let store = Store::open(options(home.path())).expect("opens");
    store.create(home.path(), spec(&[512], 4096)).expect("creates");
    let other = Store::open(options(home.path())).expect("opens without it");
    assert!(other.list().is_empty());
    assert!(other.problems()[0].message.contains("another process"), "{:?}", other.problems());
}

#[test]
fn foreign_files_are_reported_and_left_alone() {
    let home = directory();
    let store = Store::open(options(home.path())).expect("opens");
    let replica = store.create(home.path(), spec(&[1 << 20], 4096)).expect("creates");
    let mut rig = Rig::new(&[1 << 20], 4096);
    rig.layer(&replica, 0, &[change(0, 0, 5, 1)], false).expect("base");
    let root = replica.directory().to_owned();
    let foreign = [root.join("notes.txt"), root.join("disks/vda/backup.raw"), root.join("overlays/mine")];
    let ours = [root.join("disks/vda/000000000009.qcow2"), root.join("disks/vda/000000000001.qcow2.part")];
    for path in &foreign[..2] {
        std::fs::write(path, "x").expect("writes");
    }
    std::fs::create_dir(&foreign[2]).expect("made");
    for path in &ours {
        std::fs::write(path, "x").expect("writes");
    }
    drop((replica, store));
    let store = Store::open(options(home.path())).expect("opens");
    assert!(foreign.iter().all(|path| path.exists()), "a foreign file is gone");
    assert!(ours.iter().all(|path| !path.exists()), "a left-over of our own stays");
    let reported: Vec<_> = store.problems().into_iter().map(|problem| problem.path).collect();
    assert!(foreign.iter().all(|path| reported.contains(path)), "{reported:?}");
}

#[test]
fn a_replica_whose_directory_is_gone_is_forgotten_and_can_be_made_anew() {
    for disks in [RemoveDisks::Keep, RemoveDisks::Delete] {
        let home = directory();
        let store = Store::open(options(home.path())).expect("opens");
        let spec = spec(&[1 << 20], 4096);
        let replica = store.create(home.path(), spec.clone()).expect("creates");
        std::fs::remove_dir_all(replica.directory()).expect("somebody deletes it");
        drop(replica);
        store.remove(spec.vm, disks).expect("there is nothing left to be marked");
        assert!(store.get(spec.vm).is_none());
        store.create(home.path(), spec).expect("room for a new one");
    }
}

#[test]
fn removing_keeps_or_deletes_the_files_and_a_new_relationship_can_begin() {
    let home = directory();
    let store = Store::open(options(home.path())).expect("opens");
    let spec = spec(&[1 << 20], 4096);
    let replica = store.create(home.path(), spec.clone()).expect("creates");
    let root = replica.directory().to_owned();
    store.remove(spec.vm, RemoveDisks::Keep).expect("removes");
    assert!(root.is_dir() && store.get(spec.vm).is_none());
    drop((replica, store));
    let store = Store::open(options(home.path())).expect("opens");
    assert!(store.get(spec.vm).is_none(), "a removed one comes back");
    store.create(home.path(), spec.clone()).expect("a new one, the old one aside");
    store.remove(spec.vm, RemoveDisks::Delete).expect("removes");
    assert!(!root.exists());
}
