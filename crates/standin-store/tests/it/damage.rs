//! Damage is found by the check, and the points that it touches are named, and no others.

use crate::rig::{Rig, change, directory, layer_file, options, spec};
use standin_model::Epoch;
use standin_store::{Replica, Report, Store};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

struct Scene {
    _home: tempfile::TempDir,
    store: Store,
    replica: Replica,
}

fn scene() -> Scene {
    let home = directory();
    let store = Store::open(options(home.path())).expect("opens");
    let replica = store.create(home.path(), spec(&[2 << 20], 4096)).expect("creates");
    let mut rig = Rig::new(&[2 << 20], 4096);
    rig.layer(&replica, 0, &[change(0, 0, 300, 1)], false).expect("base");
    rig.layer(&replica, 1, &[change(0, 10, 5, 2)], true).expect("delta");
    rig.layer(&replica, 2, &[change(0, 100, 5, 3)], true).expect("delta");
    rig.layer(&replica, 3, &[change(0, 8, 9, 4)], true).expect("delta");
    Scene { _home: home, store, replica }
}

fn check(scene: &Scene) -> Report {
    scene.store.check(None, &mut |_, _| {}).expect("checks")
}

fn bad_epochs(report: &Report) -> Vec<u64> {
    report.replicas[0].points.iter().filter(|point| !point.good).map(|point| point.epoch.0).collect()
}

fn flip(path: &Path, offset: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("reads");
    file.write_all_at(&[byte[0] ^ 4], offset).expect("writes");
}

/// Where a granule of data is in a file, by its content.
fn find(path: &Path, needle: &[u8]) -> u64 {
    let data = std::fs::read(path).expect("reads");
    data.windows(needle.len()).position(|window| window == needle).expect("is there") as u64
}

#[test]
fn an_untouched_store_is_good() {
    let scene = scene();
    assert!(check(&scene).good());
}

#[test]
fn a_bit_flipped_in_a_layer_spoils_the_points_that_show_it_and_no_others() {
    let scene = scene();
    let path = layer_file(&scene.replica, 0, Epoch(1));
    flip(&path, find(&path, &crate::rig::pattern(12 * 4096, 64, 2)));
    let report = check(&scene);
    // Layer 3 holds that granule again.
    assert_eq!(bad_epochs(&report), [1, 2]);
    let text = format!("{:?}", report.replicas[0].points[0].problems);
    assert!(text.contains("disk vda") && text.contains("49152"), "{text}");
}

#[test]
fn what_a_check_found_is_remembered_across_a_restart_until_a_newer_layer_covers_it() {
    let scene = scene();
    let (home, vm) = (scene._home, scene.replica.vm());
    let disk = crate::rig::disk(0);
    let whole = scene.replica.leaf_digests(&disk, 0, 300).expect("digests");
    let path = layer_file(&scene.replica, 0, Epoch(2));
    flip(&path, find(&path, &crate::rig::pattern(102 * 4096, 64, 3)));
    assert!(!scene.store.check(None, &mut |_, _| {}).expect("checks").good());
    drop((scene.replica, scene.store));
    let differing = |store: &Store| {
        let now = store.get(vm).expect("found").leaf_digests(&disk, 0, 300).expect("digests");
        (0..300).filter(|at| now[*at] != whole[*at]).collect::<Vec<usize>>()
    };
    let store = Store::open(options(home.path())).expect("opens");
    assert!(store.problems().is_empty(), "{:?}", store.problems());
    assert_eq!(differing(&store), [102]);
    let mut rig = Rig::new(&[2 << 20], 4096);
    rig.layer(&store.get(vm).expect("found"), 4, &[change(0, 102, 1, 3)], true).expect("delta");
    assert!(differing(&store).is_empty());
    drop(store);
    let store = Store::open(options(home.path())).expect("opens");
    assert!(differing(&store).is_empty(), "mended, and not forgotten that it is");
}

#[test]
fn a_flipped_bit_in_every_metadata_file_is_found() {
    let names =
        ["manifest.json", "digests/vda.tree", "disks/vda/000000000001.digests", "config/000000000003/kernel"];
    for name in names {
        let scene = scene();
        let path = scene.replica.directory().join(name);
        let offset = std::fs::metadata(&path).expect("is there").len() / 2;
        // The middle of the tree file is a leaf.
        flip(&path, if name.ends_with(".tree") { 4096 + 12 * 16 } else { offset });
        assert!(!check(&scene).good(), "{name}");
    }
}

#[test]
fn every_flipped_bit_in_the_tables_of_a_layer_is_found_or_harmless() {
    let scene = scene();
    let path = layer_file(&scene.replica, 0, Epoch(2));
    let original = std::fs::read(&path).expect("reads");
    // Header, L1, the used part of the L2 table and of the refcounts: everything that is not zeros.
    let places: Vec<u64> = (0..original.len()).filter(|at| original[*at] != 0).map(|at| at as u64).collect();
    let data = find(&path, &crate::rig::pattern(100 * 4096, 64, 3));
    let mut unseen = Vec::new();
    for at in places.into_iter().filter(|at| !(data..data + 5 * 4096).contains(at)) {
        flip(&path, at);
        let report = check(&scene);
        if report.good() {
            unseen.push(at);
        }
        flip(&path, at);
    }
    // Lengths and offsets of header fields that this store does not read.
    assert!(unseen.iter().all(|at| *at < 128), "{unseen:?}");
    assert!(check(&scene).good());
}

#[test]
fn a_missing_layer_spoils_what_stands_on_it() {
    let scene = scene();
    std::fs::remove_file(layer_file(&scene.replica, 0, Epoch(2))).expect("removed");
    assert_eq!(bad_epochs(&check(&scene)), [2, 3]);
}

#[test]
fn garbage_in_place_of_any_file_is_an_error_and_never_a_panic() {
    for name in [
        "manifest.json",
        "digests/vda.tree",
        "disks/vda/000000000001.digests",
        "disks/vda/000000000001.qcow2",
    ] {
        for fill in [0_u8, 0xff, 0x51] {
            let mut scene = scene();
            let path: PathBuf = scene.replica.directory().join(name);
            let (home, vm) =
                (scene.replica.directory().parent().expect("a parent").to_owned(), scene.replica.vm());
            let length = std::fs::metadata(&path).expect("is there").len();
            drop((scene.replica, scene.store));
            std::fs::write(&path, vec![fill; length as usize]).expect("writes");
            if name == "manifest.json" {
                std::fs::write(path.with_file_name("manifest-copy.json"), [fill; 99]).expect("writes");
            }
            let store = Store::open(options(&home)).expect("opens");
            if name == "manifest.json" {
                assert!(store.get(vm).is_none());
                assert_eq!(store.problems().len(), 1);
                continue;
            }
            let replica = store.get(vm).expect("found: a failover must be possible");
            scene.store = store;
            scene.replica = replica;
            // A tree is rebuilt from the layers.
            assert_eq!(check(&scene).good(), name.ends_with(".tree"), "{name}");
        }
    }
}
