//! What the VM of an overlay wrote is kept as a recovery point, written by QEMU and judged by it.

use crate::qemu::judge;
use crate::rig::{Rig, assert_good, change, directory, disk, layer_file, merge_all, options, spec};
use jiff::Timestamp;
use standin_model::{Epoch, PointId, PointKind, Policy};
use standin_store::{CrashPoint, NewPoint, Overlay, OverlayRequest, Purpose, Replica, Store, StoreOptions};
use std::process::Command;

const WRITES: [(usize, u64, u64); 4] =
    [(0, 40_960, 8192), (0, 3 << 20, 70_000), (1, 0, 512), (1, (1 << 20) + 4096, 4096)];

/// QEMU writes to an overlay what a guest would, and the model too.
fn write(overlay: &Overlay, model: &mut [Vec<u8>]) {
    for (number, at, length) in WRITES {
        let write = Command::new("qemu-io")
            .args([
                "-f",
                "qcow2",
                "-c",
                &format!("write -P 0xaa {at} {length}"),
                "-c",
                "write -z 65536 65536",
            ])
            .arg(&overlay.disks[&disk(number)].path)
            .output();
        assert!(write.expect("qemu-io is installed").status.success());
        model[number][at as usize..(at + length) as usize].fill(0xaa);
        model[number][65_536..131_072].fill(0);
    }
}

fn overlay(replica: &Replica, point: PointId) -> Overlay {
    let request = OverlayRequest { id: "failover-1".into(), point, purpose: Purpose::Failover };
    replica.overlay(request).expect("an overlay")
}

fn new_point() -> NewPoint {
    NewPoint { id: PointId::random(), created_at: Timestamp::now(), kind: PointKind::Standard }
}

#[test]
fn what_a_copy_wrote_becomes_the_newest_point_and_stays() {
    let (home, scratch) = (directory(), directory());
    let store = Store::open(options(home.path())).expect("opens");
    let sizes = [(4 << 20) + 512, (1 << 20) + 8192];
    let replica = store.create(home.path(), spec(&sizes, 4096)).expect("creates");
    let mut rig = Rig::new(&sizes, 4096);
    rig.layer(&replica, 0, &[change(0, 0, 64, 1), change(1, 0, 300, 1)], false).expect("base");
    let point = rig.layer(&replica, 1, &[change(0, 10, 5, 2)], true).expect("delta").expect("a point");
    let overlay = overlay(&replica, point);
    // What came after the point is not in the copy: it has to be taken back in its point.
    let newer = [change(0, 11, 2, 3), change(0, 900, 100, 4), change(1, 20, 9, 0)];
    rig.layer(&replica, 2, &newer, true).expect("delta");
    let mut wanted = rig.history[&Epoch(1)].1.clone();
    write(&overlay, &mut wanted);
    let new = new_point();
    rig.history.insert(Epoch(3), (Some(new.id), wanted));
    let kept = replica.keep_overlay("failover-1", new.clone(), "given up").expect("kept");
    assert_eq!((kept.epoch, kept.pinned, kept.id), (Epoch(3), true, new.id));
    // Above it is the newest point of before, so that the primary goes on.
    let (before, again) = (replica.points()[1].clone(), replica.points()[3].clone());
    assert_eq!((again.epoch, again.created_at, again.digest), (Epoch(4), before.created_at, before.digest));
    assert!(!before.pinned && !again.pinned);
    rig.history.insert(Epoch(4), (Some(again.id), rig.now.clone()));
    rig.verify(&replica);
    rig.verify_tree(&replica);
    judge(&rig, &replica, scratch.path());
    // Once more, as after a crash: it is the same point.
    let again = replica.keep_overlay("failover-1", new, "given up").expect("kept");
    assert_eq!((again.epoch, again.digest, replica.points().len()), (kept.epoch, kept.digest, 4));
    replica.discard_overlay("failover-1").expect("discarded");
    // The primary goes on above it; retention takes what it may, and not this point.
    rig.layer(&replica, 5, &[change(0, 0, 1000, 5)], true).expect("delta");
    let none = Policy { tiers: Vec::new() };
    replica.apply_retention(&none, Timestamp::now()).expect("applied");
    let left: Vec<_> = replica.points().iter().map(|point| point.epoch).collect();
    assert_eq!(left, [Epoch(3), Epoch(5)]);
    merge_all(&replica, 1 << 20).expect("merges");
    rig.verify(&replica);
    judge(&rig, &replica, scratch.path());
    assert_good(&store);
    assert!(layer_file(&replica, 0, Epoch(3)).is_file());
}

#[test]
fn a_copy_that_cannot_be_read_leaves_no_point() {
    let home = directory();
    let store = Store::open(options(home.path())).expect("opens");
    let replica = store.create(home.path(), spec(&[1 << 20], 4096)).expect("creates");
    let mut rig = Rig::new(&[1 << 20], 4096);
    rig.layer(&replica, 0, &[change(0, 0, 64, 1)], false).expect("base");
    let point = rig.layer(&replica, 1, &[change(0, 10, 5, 2)], true).expect("delta").expect("a point");
    let overlay = overlay(&replica, point);
    std::fs::write(&overlay.disks[&disk(0)].path, b"no image").expect("written");
    replica.keep_overlay("failover-1", new_point(), "given up").expect_err("it is no image");
    assert!(replica.points().iter().all(|point| !point.pinned) && replica.points().len() == 1);
    assert_eq!(replica.head_epoch(), Some(Epoch(1)));
    rig.verify(&replica);
    // Nothing of it stands in the way of what the primary sends.
    rig.layer(&replica, 2, &[change(0, 0, 9, 5)], true).expect("delta");
    rig.verify(&replica);
}

#[test]
fn a_crash_at_any_step_of_keeping_a_copy_is_gone_on_with() {
    let (home, sizes) = (directory(), [1 << 20, 512 << 10]);
    let mut rig = Rig::new(&sizes, 4096);
    let (vm, point) = {
        let store = Store::open(options(home.path())).expect("opens");
        let replica = store.create(home.path(), spec(&sizes, 4096)).expect("creates");
        rig.layer(&replica, 0, &[change(0, 0, 64, 1), change(1, 0, 90, 1)], false).expect("base");
        let point = rig.layer(&replica, 1, &[change(0, 10, 5, 2)], true).expect("delta").expect("a point");
        let overlay = overlay(&replica, point);
        rig.layer(&replica, 2, &[change(0, 11, 2, 3), change(1, 60, 9, 4)], true).expect("delta");
        let write = |number: usize| {
            let path = &overlay.disks[&disk(number)].path;
            let write = Command::new("qemu-io")
                .args(["-f", "qcow2", "-c", "write -P 0xaa 4096 8192"])
                .arg(path)
                .output();
            assert!(write.expect("qemu-io is installed").status.success());
        };
        (0..2).for_each(write);
        (replica.vm(), point)
    };
    let mut copy = rig.history[&Epoch(1)].1.clone();
    copy.iter_mut().for_each(|disk| disk[4096..12_288].fill(0xaa));
    let new = new_point();
    let mut steps = 0;
    loop {
        let there = directory();
        let copied = Command::new("cp").arg("-a").arg(home.path()).arg(there.path().join("store")).status();
        assert!(copied.expect("cp").success());
        let location = there.path().join("store");
        let crash = CrashPoint::after(steps);
        let told = StoreOptions { crash: Some(crash.clone()), ..options(&location) };
        let outcome = Store::open(told).and_then(|store| {
            store.get(vm).map_or(Ok(()), |r| r.keep_overlay("failover-1", new.clone(), "x").map(|_| ()))
        });
        assert!(outcome.is_ok() || crash.crashed(), "step {steps}: {outcome:?}");
        let store = Store::open(options(&location)).expect("opens after the crash");
        let replica = store.get(vm).expect("the replica");
        let kept = replica.keep_overlay("failover-1", new.clone(), "x").expect("gone on with");
        let points = replica.points();
        let epochs: Vec<_> = points.iter().map(|point| point.epoch.0).collect();
        assert!(epochs.len() == 4 && epochs.is_sorted(), "step {steps}: {epochs:?}");
        assert_eq!((points[0].id, points[2].id, kept.id), (point, new.id, new.id), "step {steps}");
        let pinned: Vec<_> = points.iter().map(|point| point.pinned).collect();
        assert_eq!(pinned, [false, false, true, false], "step {steps}");
        rig.history.insert(points[2].epoch, (Some(new.id), copy.clone()));
        rig.history.insert(points[3].epoch, (Some(points[3].id), rig.now.clone()));
        rig.verify(&replica);
        rig.verify_tree(&replica);
        assert_good(&store);
        if !crash.crashed() {
            break;
        }
        steps += 1;
    }
    assert!(steps > 20, "{steps}");
}
