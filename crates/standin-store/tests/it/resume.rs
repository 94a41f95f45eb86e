//! A first copy that is interrupted goes on where it was durable.

use crate::rig::{Rig, assert_good, change, digests, directory, disk, options, pattern, request, spec};
use standin_model::{Epoch, PointId};
use standin_store::{CrashPoint, Kind, Replica, Result, Store, StoreOptions};

const SIZE: u64 = (3 << 20) + 1536;
const STEP: u64 = 256 << 10;

/// Copies from the watermark on, with a checkpoint after every write.
fn copy(replica: &Replica, source: &[u8]) -> Result<u64> {
    let layer = replica.begin(Epoch(0), Kind::Base)?;
    let start = layer.watermark(&disk(0))?;
    let mut at = start;
    while at < SIZE {
        let length = STEP.min(SIZE - at);
        let data = &source[at as usize..(at + length) as usize];
        layer.write(&disk(0), at, data, &digests(data, 4096))?;
        at += length;
        // Made durable every few seconds only: sleeping is cheaper than a clock to turn.
        if at == 4 * STEP {
            std::thread::sleep(std::time::Duration::from_millis(3100));
        }
        layer.checkpoint(&disk(0), at)?;
    }
    layer.seal(request(None, 0))?;
    Ok(start)
}

fn source() -> Vec<u8> {
    let mut data = pattern(0, SIZE, 9);
    data[STEP as usize..2 * STEP as usize].fill(0);
    data
}

#[test]
fn an_interrupted_first_copy_goes_on_at_its_watermark_and_is_whole() {
    let home = directory();
    let crash = CrashPoint::after(1_000_000);
    let crashing = StoreOptions { crash: Some(crash.clone()), ..options(home.path()) };
    let store = Store::open(crashing).expect("opens");
    let replica = store.create(home.path(), spec(&[SIZE], 4096)).expect("creates");
    let layer = replica.begin(Epoch(0), Kind::Base).expect("begins");
    let source = source();
    for at in (0..4 * STEP).step_by(STEP as usize) {
        let data = &source[at as usize..(at + STEP) as usize];
        layer.write(&disk(0), at, data, &digests(data, 4096)).expect("writes");
    }
    layer.checkpoint(&disk(0), 4 * STEP).expect("durable");
    // What comes behind the checkpoint may or may not be there; it must not be taken for sent.
    let stale = pattern(0, STEP, 77);
    layer.write(&disk(0), 5 * STEP, &stale, &digests(&stale, 4096)).expect("writes");
    crash.arm(0);
    drop((layer, replica, store));

    let store = Store::open(options(home.path())).expect("opens");
    let replica = store.list().pop().expect("found");
    assert_eq!(copy(&replica, &source).expect("copies the rest"), 4 * STEP);
    let mut rig = Rig::new(&[SIZE], 4096);
    rig.now[0] = source;
    rig.history.insert(Epoch(0), (None, rig.now.clone()));
    rig.layer(&replica, 1, &[change(0, 7, 2, 3)], true).expect("a delta");
    rig.verify(&replica);
    rig.verify_tree(&replica);
    crate::qemu::judge(&rig, &replica, home.path());
    std::fs::remove_file(home.path().join("wanted.raw")).expect("removed");
    assert_good(&store);
}

#[test]
fn a_crash_at_any_step_of_the_seal_of_a_first_copy_leaves_it_resumable_or_sealed() {
    let source = source();
    let mut resumed_at_the_end = 0;
    for steps in 0.. {
        let home = directory();
        let crash = CrashPoint::after(1_000_000);
        let crashing = StoreOptions { crash: Some(crash.clone()), ..options(home.path()) };
        let store = Store::open(crashing).expect("opens");
        let replica = store.create(home.path(), spec(&[SIZE], 4096)).expect("creates");
        let layer = replica.begin(Epoch(0), Kind::Base).expect("begins");
        // Downwards, so that the digests have several segments.
        for at in (0..SIZE.div_ceil(STEP)).rev().map(|n| n * STEP) {
            let data = &source[at as usize..(at + STEP).min(SIZE) as usize];
            layer.write(&disk(0), at, data, &digests(data, 4096)).expect("writes");
        }
        crash.arm(steps);
        let sealed = layer.seal(request(None, 0)).is_ok();
        let ended = !crash.crashed();
        drop((replica, store));
        let store = Store::open(options(home.path())).expect("opens");
        let replica = store.list().pop().expect("found");
        assert!(!sealed || replica.head_epoch() == Some(Epoch(0)), "step {steps}: a sealed base is lost");
        if replica.head_epoch().is_none() {
            let layer = replica.begin(Epoch(0), Kind::Base).expect("begins again");
            let at = layer.watermark(&disk(0)).expect("known");
            resumed_at_the_end += usize::from(at == SIZE);
            let rest = &source[at as usize..];
            layer.write(&disk(0), at, rest, &digests(rest, 4096)).expect("writes the rest");
            layer.seal(request(None, 0)).expect("seals");
        }
        let mut rig = Rig::new(&[SIZE], 4096);
        rig.now[0].clone_from(&source);
        rig.history.insert(Epoch(0), (None, rig.now.clone()));
        rig.layer(&replica, 1, &[], true).expect("a delta");
        rig.verify(&replica);
        assert_good(&store);
        if ended {
            assert!(resumed_at_the_end > 5, "only {resumed_at_the_end} crashes had nothing left to send");
            return;
        }
    }
}

#[test]
fn a_write_below_the_watermark_lowers_it_before_it_can_hurt() {
    let home = directory();
    let store = Store::open(options(home.path())).expect("opens");
    let replica = store.create(home.path(), spec(&[SIZE], 4096)).expect("creates");
    let layer = replica.begin(Epoch(0), Kind::Base).expect("begins");
    let data = pattern(0, SIZE, 4);
    layer.write(&disk(0), 0, &data, &digests(&data, 4096)).expect("writes");
    layer.checkpoint(&disk(0), SIZE).expect("durable");
    let other = pattern(0, 4096, 5);
    layer.write(&disk(0), 8 * 65536 + 4096, &other, &digests(&other, 4096)).expect("overwrites");
    drop(layer);
    let layer = replica.begin(Epoch(0), Kind::Base).expect("resumes");
    assert_eq!(layer.watermark(&disk(0)).expect("known"), 8 * 65536);
    let rest = &data[8 * 65536..];
    layer.write(&disk(0), 8 * 65536, rest, &digests(rest, 4096)).expect("writes");
    layer.seal(request(Some(PointId::random()), 0)).expect("seals");
    let point = replica.points()[0].id;
    assert!(replica.reader(point).expect("opens").read(&disk(0), 0, SIZE).expect("reads") == data);
    assert_good(&store);
}
