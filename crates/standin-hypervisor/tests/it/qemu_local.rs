//! Reading a running raw image past QEMU: it must be the same as asking QEMU, and must not happen where it might not.

use crate::qemu_harness::*;
use standin_hypervisor::qmp::Qmp;
use standin_hypervisor::{DiskFormat, Hypervisor, LocalDisk, View};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const SIZE: u64 = 16 * MIB;
const PIECE: u64 = 128 * KIB;

fn local_of(view: &dyn View, disk: &str) -> Option<Arc<LocalDisk>> {
    view.disk(&name(disk)).expect("the disk is in the view").local()
}

/// Writes, zeros and discards as the guest's device does, until told to stop. Returns how many.
async fn guest(monitor: Qmp, stop: Arc<AtomicBool>, done: Arc<AtomicU64>, seed: u64) {
    let mut state = seed;
    let mut below = |limit: u64| {
        // A linear congruential generator (Knuth's MMIX); its high bits are good enough for this.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    while !stop.load(Ordering::SeqCst) {
        let length = 512 * (1 + below(256));
        let offset = 512 * below((SIZE - length) / 512 + 1);
        let command = match below(10) {
            0 => format!("write -z {offset} {length}"),
            1 => format!("write -zu {offset} {length}"),
            2 => format!("discard {offset} {length}"),
            kind => format!("write -P {} {offset} {length}", kind * 27),
        };
        io(&monitor, "b", &command).await;
        done.fetch_add(1, Ordering::SeqCst);
    }
}

async fn whole(view: &dyn View) -> Vec<u8> {
    let reader = view.disk(&name("b")).expect("the disk");
    let mut image = Vec::new();
    for offset in (0..SIZE).step_by(1 << 20) {
        image.extend_from_slice(&reader.read(offset, 1 << 20).await.expect("read"));
    }
    image
}

async fn copied(local: Arc<LocalDisk>) -> Vec<u8> {
    let mut image = vec![0; usize::try_from(SIZE).expect("small")];
    for (number, piece) in image.chunks_mut(usize::try_from(PIECE).expect("small")).enumerate() {
        local.read(number as u64 * PIECE, piece).expect("read past QEMU");
        // The copy of a large disk takes long; here the guest gets that time.
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    image
}

/// The first copy of a disk that is written all the time, then what changed since its mark, first from the
/// running disk, as a large delta is sent, then from the cut: that is the disk at the cut, byte for byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_past_qemu_and_what_changed_since_its_mark_are_the_disk_at_the_cut() {
    for seed in 1..=3 {
        let host = Host::new().await;
        let vm = host.start(&host.definition(&[("b", DiskFormat::Raw, SIZE)])).await;
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writing = tokio::spawn(guest(host.monitor().await, stop.clone(), done.clone(), seed));
        eventually("the guest writes", async || done.load(Ordering::SeqCst) > 20).await;
        let view = host.driver().live(vm, live(&["b"], None, 0)).await.expect("a live view");
        let before = done.load(Ordering::SeqCst);
        let mut image = copied(local_of(&*view, "b").expect("a raw file is read past QEMU")).await;
        let during = done.load(Ordering::SeqCst) - before;
        assert!(during > 20, "only {during} writes while it was copied");
        view.close().await.expect("close");
        // A pass over the running disk for what changed, also past QEMU.
        let mut ahead = live(&["b"], Some(0), 0);
        ahead.mark.pass = 1;
        let since = ahead.mark;
        let view = host.driver().live(vm, ahead).await.expect("a live view");
        let local = local_of(&*view, "b").expect("past QEMU");
        for (offset, length) in dirty(&*view, "b").await {
            let place =
                usize::try_from(offset).expect("small")..usize::try_from(offset + length).expect("small");
            local.read(offset, &mut image[place]).expect("read past QEMU");
        }
        view.close().await.expect("close");
        // What a cut shows of a guest that goes on is for the tests of cuts; here it is the measure.
        stop.store(true, Ordering::SeqCst);
        writing.await.expect("the guest");
        let mut request = host.cut(&["b"], 0, 1);
        request.since = since;
        let view = host.driver().cut(vm, request).await.expect("cut");
        assert!(local_of(&*view, "b").is_none(), "a cut is never read past QEMU");
        let truth = whole(&*view).await;
        assert!(image != truth, "nothing was written after the copy: this shows nothing");
        let reader = view.disk(&name("b")).expect("the disk");
        for (offset, length) in dirty(&*view, "b").await {
            let data = reader.read(offset, u32::try_from(length).expect("small")).await.expect("read");
            let start = usize::try_from(offset).expect("small");
            image[start..start + data.len()].copy_from_slice(&data);
        }
        let differs = image.iter().zip(&truth).position(|(ours, theirs)| ours != theirs);
        assert_eq!(differs, None, "seed {seed}: the first byte that differs");
        view.close().await.expect("close");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_image_that_the_vm_has_open_is_read_past_qemu() {
    let host = Host::new().await;
    let disks = [("a", DiskFormat::Qcow2, SIZE), ("b", DiskFormat::Raw, SIZE)];
    let vm = host.start(&host.definition(&disks)).await;
    let view = host.driver().live(vm, live(&["a", "b"], None, 0)).await.expect("a live view");
    assert!(local_of(&*view, "a").is_none(), "qcow2 is QEMU's to read");
    let local = local_of(&*view, "b").expect("raw");
    write(&host.monitor().await, "b", 0x5a, 3 * MIB, 64 * KIB).await;
    let mut found = [0; 512];
    local.read(3 * MIB + 512, &mut found).expect("read");
    assert_eq!(found, [0x5a; 512], "what QEMU wrote is seen at once");
    view.close().await.expect("close");
    // Somebody gives the name to another image: QEMU goes on with the one it has open.
    let other = host.path("other.img");
    create_image(&other, "raw", SIZE);
    std::fs::rename(&other, host.path("b.img")).expect("rename");
    let view = host.driver().live(vm, live(&["b"], Some(0), 1)).await.expect("a live view");
    assert!(local_of(&*view, "b").is_none(), "another file has the name now");
    assert_eq!(pattern(&*view, "b", 3 * MIB, 64 << 10).await, 0x5a, "QEMU's image is read through QEMU");
    view.close().await.expect("close");
}
