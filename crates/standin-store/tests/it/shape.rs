//! Large disks, long chains, commits: costs and shapes that must not grow.

use crate::rig::{
    Rig, change, digests, directory, disk, layer_file, merge_all, options, pattern, request, spec,
};
use standin_model::{Epoch, PointId};
use standin_store::{Kind, OverlayRequest, Purpose, Store};
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

const TIB: u64 = 1 << 40;

#[test]
fn a_disk_of_a_tebibyte_costs_what_is_written_to_it() {
    let home = directory();
    let store = Store::open(options(home.path())).expect("opens");
    let replica = store.create(home.path(), spec(&[TIB], 65536)).expect("creates");
    let name = disk(0);
    let base = replica.begin(Epoch(0), Kind::Base).expect("begins");
    base.write_zeroes(&name, 0, TIB).expect("zeros");
    let places = [0, TIB / 2, TIB - 65536];
    for at in places {
        let data = pattern(at, 65536, 5);
        base.write(&name, at, &data, &digests(&data, 65536)).expect("writes");
    }
    base.seal(request(None, 0)).expect("seals");
    let point = PointId::random();
    let started = Instant::now();
    replica.begin(Epoch(1), Kind::Delta).expect("begins").seal(request(Some(point), 1)).expect("seals");
    let idle = started.elapsed();
    assert!(idle.as_millis() < 500, "an idle layer took {idle:?}");
    let stored =
        |epoch| std::fs::metadata(layer_file(&replica, 0, Epoch(epoch))).expect("there").blocks() * 512;
    assert!(stored(0) < 1 << 20, "the base takes {}", stored(0));
    assert!(stored(1) <= 64 << 10, "an idle layer takes {}", stored(1));
    let reader = replica.reader(point).expect("opens");
    for at in places {
        assert!(reader.read(&name, at, 65536).expect("reads") == pattern(at, 65536, 5));
    }
    let extents = reader.extents(&name, 0, TIB).expect("extents");
    assert_eq!(extents.iter().filter(|extent| !extent.zero).count(), 3);
    let text = crate::qemu::qemu_img(&["check", &layer_file(&replica, 0, Epoch(1)).to_string_lossy()]);
    assert!(text.contains("No errors"), "{text}");
    drop(reader);
    crate::rig::assert_good(&store);
    let overlay = OverlayRequest { id: "f".into(), point, purpose: Purpose::Failover };
    let started = Instant::now();
    replica.overlay(overlay).expect("an overlay");
    assert!(started.elapsed().as_millis() < 500, "an overlay took {:?}", started.elapsed());
}

#[test]
fn small_random_writes_are_stored_at_their_size() {
    let home = directory();
    let store = Store::open(options(home.path())).expect("opens");
    let size = 1 << 30;
    let replica = store.create(home.path(), spec(&[size], 4096)).expect("creates");
    replica.begin(Epoch(0), Kind::Base).expect("begins").seal(request(None, 0)).expect("seals");
    let layer = replica.begin(Epoch(1), Kind::Delta).expect("begins");
    let mut written = 0;
    let mut at = 0;
    while at + 4096 <= size {
        let data = pattern(at, 4096, 9);
        layer.write(&disk(0), at, &data, &digests(&data, 4096)).expect("writes");
        written += 4096;
        at += 131_072 + 4096;
    }
    layer.seal(request(Some(PointId::random()), 1)).expect("seals");
    let stored = replica.points()[0].stored_bytes;
    assert!(stored < written * 5 / 4, "{stored} bytes for {written}");
}

#[test]
fn a_committed_failover_keeps_its_chain_and_drops_the_rest() {
    let home = directory();
    let store = Store::open(options(home.path())).expect("opens");
    let replica = store.create(home.path(), spec(&[1 << 20], 4096)).expect("creates");
    let mut rig = Rig::new(&[1 << 20], 4096);
    for epoch in 0..5_u8 {
        rig.layer(&replica, epoch.into(), &[change(0, epoch.into(), 3, epoch + 1)], epoch > 0)
            .expect("a layer");
    }
    let point = replica.points()[1].id;
    let overlay = |id: &str, purpose| OverlayRequest { id: id.into(), point, purpose };
    let made = replica.overlay(overlay("fo", Purpose::Failover)).expect("an overlay");
    replica.overlay(overlay("t", Purpose::Test)).expect("another");
    assert!(replica.commit_overlay("t").is_err(), "a test cannot be committed");
    assert!(replica.commit_overlay("fo").is_err(), "while a test runs");
    replica.discard_overlay("t").expect("ends");
    replica.commit_overlay("fo").expect("commits");
    replica.commit_overlay("fo").expect("again is no error");
    assert!(replica.points().is_empty());
    assert_eq!(replica.head_epoch(), Some(Epoch(2)));
    assert!(!layer_file(&replica, 0, Epoch(3)).exists());
    assert_eq!(merge_all(&replica, 1 << 20).expect("frozen"), 0);
    assert!(replica.begin(Epoch(6), Kind::Delta).is_err());
    assert!(replica.discard_overlay("fo").is_err());
    let vm = replica.vm();
    drop((replica, store));
    let store = Store::open(options(home.path())).expect("opens");
    let replica = store.get(vm).expect("found");
    assert!(replica.overlays()[0].committed);
    rig.verify_tree(&replica);
    let raw = home.path().join("raw");
    let path = made.disks[&disk(0)].path.to_string_lossy().into_owned();
    crate::qemu::qemu_img(&["convert", "-O", "raw", &path, &raw.to_string_lossy()]);
    assert!(std::fs::read(&raw).expect("reads") == rig.history[&Epoch(2)].1[0]);
}

#[test]
fn an_unchanged_configuration_is_stored_once_and_an_unused_one_goes() {
    let home = directory();
    let store = Store::open(options(home.path())).expect("opens");
    let replica = store.create(home.path(), spec(&[1 << 20], 4096)).expect("creates");
    let mut rig = Rig::new(&[1 << 20], 4096);
    for epoch in 0..9_u8 {
        rig.layer(&replica, epoch.into(), &[change(0, epoch.into(), 3, epoch + 1)], epoch > 0)
            .expect("a layer");
    }
    // vm.toml differs at 3 and 6 only, the kernel never.
    let epochs =
        |r: &standin_store::Replica| r.manifest().configs.iter().map(|c| c.epoch.0).collect::<Vec<_>>();
    assert_eq!(epochs(&replica), [0, 3, 6]);
    let inode = |epoch: u64| {
        let path = replica.directory().join(format!("config/{epoch:012}/kernel"));
        std::fs::metadata(path).expect("there").ino()
    };
    assert!(inode(0) == inode(3) && inode(3) == inode(6));
    let drop_ids: Vec<_> = replica.points()[..7].iter().map(|point| point.id).collect();
    drop_ids.into_iter().for_each(|id| replica.remove_point(id).expect("removed"));
    merge_all(&replica, 1 << 20).expect("merges");
    assert_eq!(epochs(&replica), [6]);
}
