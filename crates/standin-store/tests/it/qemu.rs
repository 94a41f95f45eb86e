//! qemu-img as the judge: everything in the store opens with stock QEMU, and shows the same.

use crate::rig::{Rig, change, directory, disk, layer_file, merge_all, options, spec};
use standin_model::{Epoch, Policy};
use standin_store::{Backing, OverlayRequest, Purpose, Replica, Store};
use std::path::Path;
use std::process::Command;

pub fn qemu_img(arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).output().expect("qemu-img is installed");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {arguments:?}: {text}");
    text
}

/// Every layer passes `qemu-img check`, and every point is what the model says when QEMU reads it.
pub fn judge(rig: &Rig, replica: &Replica, scratch: &Path) {
    let manifest = replica.manifest();
    for (number, record) in manifest.disks.iter().enumerate() {
        for layer in &record.layers {
            let path = layer_file(replica, number, layer.epoch);
            let text = qemu_img(&["check", "-f", "qcow2", &path.to_string_lossy()]);
            assert!(text.contains("No errors were found"), "{text}");
        }
    }
    for point in replica.points() {
        for (number, wanted) in rig.history[&point.epoch].1.iter().enumerate() {
            let (raw, path) = (scratch.join("wanted.raw"), layer_file(replica, number, point.epoch));
            std::fs::write(&raw, wanted).expect("writes");
            let text = qemu_img(&[
                "compare",
                "-f",
                "raw",
                "-F",
                "qcow2",
                &raw.to_string_lossy(),
                &path.to_string_lossy(),
            ]);
            assert!(text.contains("Images are identical"), "{text}");
        }
    }
}

#[test]
fn qemu_finds_every_layer_clean_and_every_point_equal_before_and_after_merging() {
    let (home, scratch) = (directory(), directory());
    // A size that is no multiple of the granule, nor of the cluster.
    let sizes = [(1 << 20) + 512, 5 << 20];
    let store = Store::open(options(home.path())).expect("opens");
    let replica = store.create(home.path(), spec(&sizes, 4096)).expect("creates");
    let mut rig = Rig::new(&sizes, 4096);
    rig.layer(&replica, 0, &[change(0, 0, 257, 1), change(1, 100, 500, 2)], false).expect("base");
    for epoch in 1..9_u8 {
        let n = u64::from(epoch);
        let changes = [
            change(0, n * 7, 3, epoch),
            change(0, 250, 7, epoch * 2),
            change(1, n * 90, 40, epoch),
            change(1, n * 90 + 10, 4, 0),
        ];
        rig.layer(&replica, n, &changes, true).expect("delta");
    }
    rig.verify(&replica);
    judge(&rig, &replica, scratch.path());
    for id in [0, 1, 2, 5].map(|n| replica.points()[n].id) {
        replica.remove_point(id).expect("removed");
    }
    assert!(merge_all(&replica, 4096).expect("merges") >= 8);
    rig.verify(&replica);
    judge(&rig, &replica, scratch.path());
    crate::rig::assert_good(&store);
}

#[test]
fn a_moved_directory_opens_and_its_chain_with_it() {
    let (home, other, scratch) = (directory(), directory(), directory());
    let store = Store::open(options(home.path())).expect("opens");
    let replica = store.create(home.path(), spec(&[1 << 20], 4096)).expect("creates");
    let mut rig = Rig::new(&[1 << 20], 4096);
    rig.layer(&replica, 0, &[change(0, 0, 9, 1)], false).expect("base");
    rig.layer(&replica, 1, &[change(0, 5, 9, 2)], true).expect("delta");
    let (vm, from) = (replica.vm(), replica.directory().to_owned());
    drop((replica, store));
    std::fs::rename(&from, other.path().join(from.file_name().expect("a name"))).expect("moves");
    let store = Store::open(options(other.path())).expect("opens");
    let replica = store.get(vm).expect("found");
    rig.verify(&replica);
    judge(&rig, &replica, scratch.path());
}

#[test]
fn qemu_writes_to_an_overlay_and_the_point_stays() {
    let (home, scratch) = (directory(), directory());
    let store = Store::open(options(home.path())).expect("opens");
    let replica = store.create(home.path(), spec(&[2 << 20], 4096)).expect("creates");
    let mut rig = Rig::new(&[2 << 20], 4096);
    rig.layer(&replica, 0, &[change(0, 0, 64, 1)], false).expect("base");
    let point = rig.layer(&replica, 1, &[change(0, 10, 5, 2)], true).expect("delta").expect("a point");
    let request = OverlayRequest { id: "test-1".into(), point, purpose: Purpose::Test };
    let overlay = replica.overlay(request).expect("an overlay");
    let path = &overlay.disks[&disk(0)].path;
    assert_eq!(overlay.disks[&disk(0)].backing, Backing::Chain);
    let write =
        Command::new("qemu-io").args(["-f", "qcow2", "-c", "write -P 0xaa 40960 8192"]).arg(path).output();
    assert!(write.expect("qemu-io is installed").status.success());
    qemu_img(&["check", "-f", "qcow2", &path.to_string_lossy()]);
    let raw = scratch.path().join("overlay.raw");
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw", &path.to_string_lossy(), &raw.to_string_lossy()]);
    let mut wanted = rig.history[&Epoch(1)].1[0].clone();
    wanted[40960..49152].fill(0xaa);
    assert!(std::fs::read(&raw).expect("reads") == wanted, "the overlay shows something else");
    rig.verify(&replica);
    judge(&rig, &replica, scratch.path());
    assert!(overlay.config.expect("a configuration").join("vm.toml").is_file());
}

#[test]
fn a_chain_under_which_the_base_is_half_merged_still_shows_the_point_to_qemu() {
    let (home, scratch) = (directory(), directory());
    let store = Store::open(options(home.path())).expect("opens");
    let replica = store.create(home.path(), spec(&[4 << 20], 4096)).expect("creates");
    let mut rig = Rig::new(&[4 << 20], 4096);
    rig.layer(&replica, 0, &[change(0, 0, 600, 1)], false).expect("base");
    rig.layer(&replica, 1, &[change(0, 100, 600, 2)], true).expect("delta");
    rig.layer(&replica, 2, &[change(0, 3, 4, 3)], true).expect("delta");
    let small = standin_store::MergeBudget { max_bytes: 1 };
    for _ in 0..2 {
        replica.merge_step(&small).expect("a step");
    }
    assert_eq!(replica.manifest().merges.len(), 1, "the merge is under way");
    let request = OverlayRequest { id: "t".into(), point: replica.points()[0].id, purpose: Purpose::Test };
    let overlay = replica.overlay(request).expect("an overlay");
    let path = overlay.disks[&disk(0)].path.to_string_lossy().into_owned();
    let raw = scratch.path().join("overlay.raw");
    let copy = || {
        qemu_img(&["convert", "-f", "qcow2", "-O", "raw", &path, &raw.to_string_lossy()]);
        assert!(std::fs::read(&raw).expect("reads") == rig.history[&Epoch(1)].1[0]);
    };
    copy();
    assert_eq!(merge_all(&replica, 1).expect("frozen"), 0, "nothing under an overlay is merged");
    copy();
    drop((replica, store));
    let store = Store::open(options(home.path())).expect("opens");
    let replica = store.list().pop().expect("found");
    copy();
    replica.discard_overlay("t").expect("reverted");
    assert!(merge_all(&replica, 1 << 20).expect("thawed") > 0);
    rig.verify(&replica);
    judge(&rig, &replica, scratch.path());
}

#[test]
fn a_point_with_a_long_chain_is_served_as_a_map() {
    let home = directory();
    let mut settings = options(home.path());
    settings.max_chain = 5;
    let store = Store::open(settings).expect("opens");
    let replica = store.create(home.path(), spec(&[1 << 20], 4096)).expect("creates");
    let mut rig = Rig::new(&[1 << 20], 4096);
    for epoch in 0..8_u8 {
        rig.layer(&replica, u64::from(epoch), &[change(0, u64::from(epoch), 3, epoch + 1)], epoch > 0)
            .expect("a layer");
    }
    let make = |id: &str, number: usize| {
        let request =
            OverlayRequest { id: id.into(), point: replica.points()[number].id, purpose: Purpose::Test };
        replica.overlay(request).expect("an overlay").disks[&disk(0)].clone()
    };
    assert_eq!(make("short", 2).backing, Backing::Chain);
    let long = make("long", 6);
    assert_eq!(long.backing, Backing::Map);
    assert!(!qemu_img(&["info", &long.path.to_string_lossy()]).contains("backing file"));
    rig.verify(&replica);
    replica.apply_retention(&Policy::default(), jiff::Timestamp::now()).expect("retention");
    assert_eq!(replica.points().len(), 2, "the points under overlays stay");
}
