//! A disk that is full at any place of a cycle, and file systems without direct writes: a layer is whole or it is
//! refused, nothing of a refused one stays behind, and the next cycle makes it good.

use crate::rig::{Change, Rig, assert_good, change, directory, layer_file, merge_all, options, spec};
use standin_model::Epoch;
use standin_store::{CrashPoint, DirectWrites, Error, Replica, Store, StoreOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Granules of 4 KiB. Runs from 128 KiB on are written around the page cache.
const SIZES: [u64; 2] = [(1 << 20) + 512, 512 << 10];

fn store_with(home: &Path, fault: &CrashPoint) -> Store {
    Store::open(StoreOptions { crash: Some(fault.clone()), ..options(home) }).expect("opens")
}

/// Long runs and short ones, zeros, on both disks.
fn changes(fill: u8) -> Vec<Change> {
    vec![
        change(0, 0, 60, fill),
        change(0, 100, 3, fill),
        change(0, 30, 10, 0),
        change(0, 200, 57, fill),
        change(1, 7, 40, fill),
    ]
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn assert_nothing_left(replica: &Replica, epoch: u64, step: i64) {
    let number = format!("{epoch:012}");
    let left = files_below(replica.directory());
    let left: Vec<_> = left
        .iter()
        .filter(|path| {
            let text = path.to_string_lossy();
            text.ends_with(".part") || text.ends_with(".tmp") || text.contains(&number)
        })
        .collect();
    assert!(left.is_empty(), "step {step}: {left:?}");
}

/// A cycle whose disk is full from step `steps` on; `false` when it did not come that far.
fn full_at(steps: i64) -> bool {
    let home = directory();
    let fault = CrashPoint::full_after(i64::MAX);
    let store = store_with(home.path(), &fault);
    let replica = store.create(home.path(), spec(&SIZES, 4096)).expect("a replica");
    let mut rig = Rig::new(&SIZES, 4096);
    rig.layer(&replica, 0, &changes(1), true).expect("the first copy");
    rig.layer(&replica, 1, &[change(0, 50, 60, 2)], true).expect("a cycle");

    fault.arm(steps);
    let outcome = rig.layer(&replica, 7, &changes(3), true);
    let met = fault.crashed();
    fault.arm(i64::MAX);
    match &outcome {
        Ok(_) => {}
        Err(Error::NoSpace { .. } | Error::Poisoned) if met => {}
        Err(other) => panic!("step {steps}: {other}"),
    }
    if outcome.is_err() {
        assert_eq!(replica.head_epoch(), Some(Epoch(1)), "step {steps}: a refused layer counts");
        assert_eq!(replica.points().len(), 2, "step {steps}");
        assert_nothing_left(&replica, 7, steps);
        rig.history.remove(&Epoch(7));
    }
    rig.verify(&replica);
    rig.verify_tree(&replica);

    // The primary kept all its changes and sends them again.
    rig.layer(&replica, 8, &changes(3), true).expect("the next cycle");
    rig.verify(&replica);
    rig.verify_tree(&replica);
    assert_good(&store);
    drop((replica, store));
    let store = Store::open(options(home.path())).expect("opens again");
    assert!(store.problems().is_empty(), "step {steps}: {:?}", store.problems());
    let replica = store.list().into_iter().next().expect("the replica");
    rig.verify(&replica);
    merge_all(&replica, 1 << 20).expect("merges");
    rig.verify(&replica);
    assert_good(&store);
    met
}

#[test]
fn a_disk_that_is_full_at_any_step_of_a_cycle_refuses_it_whole_and_the_next_one_makes_it_good() {
    let mut steps = 0;
    while full_at(steps) {
        steps += 1;
        assert!(steps < 1000, "the cycle does not end");
    }
    assert!(steps > 30, "the cycle has only {steps} steps");
}

#[test]
fn a_first_copy_that_found_the_disk_full_goes_on_when_there_is_space() {
    for steps in (0..200).step_by(7) {
        let home = directory();
        let fault = CrashPoint::full_after(i64::MAX);
        let store = store_with(home.path(), &fault);
        let replica = store.create(home.path(), spec(&SIZES, 4096)).expect("a replica");
        let mut rig = Rig::new(&SIZES, 4096);
        fault.arm(steps);
        let outcome = rig.layer(&replica, 0, &changes(1), true);
        let met = fault.crashed();
        fault.arm(i64::MAX);
        if outcome.is_err() {
            assert!(met && replica.head_epoch().is_none(), "step {steps}: {outcome:?}");
            rig.history.clear();
            rig.layer(&replica, 0, &changes(1), true).expect("the first copy again");
        }
        rig.verify(&replica);
        rig.verify_tree(&replica);
        assert_good(&store);
        if !met {
            assert!(steps > 20, "the copy has only {steps} steps");
            return;
        }
    }
    panic!("the copy does not end");
}

#[test]
fn without_direct_writes_a_layer_is_the_same() {
    let mut files = Vec::new();
    for direct in [DirectWrites::AsIs, DirectWrites::RefusedAtOpen, DirectWrites::RefusedHalfWay] {
        // Older kernels have no direct writes in memory.
        let home = tempfile::tempdir_in(".").expect("a directory");
        let store = store_with(home.path(), &CrashPoint::direct_writes(direct));
        let replica = store.create(home.path(), spec(&SIZES, 4096)).expect("a replica");
        let mut rig = Rig::new(&SIZES, 4096);
        rig.layer(&replica, 0, &changes(1), true).expect("the first copy");
        rig.layer(&replica, 1, &changes(2), true).expect("a cycle");
        rig.verify(&replica);
        rig.verify_tree(&replica);
        assert_good(&store);
        let layer = layer_file(&replica, 0, Epoch(1));
        let check =
            Command::new("qemu-img").args(["check", "-q"]).arg(&layer).status().expect("run qemu-img");
        assert!(check.success(), "{direct:?}");
        files.push((direct, std::fs::read(&layer).expect("read")));
    }
    for (direct, bytes) in &files[1..] {
        assert!(*bytes == files[0].1, "{direct:?} wrote another file");
    }
}
