//! The cut and the marks, on a real QEMU.

use crate::qemu_harness::*;
use standin_hypervisor::{DiskFormat, Error, Hypervisor, VmEvent};
use std::time::Duration;

const TWO: [(&str, DiskFormat, u64); 2] =
    [("a", DiskFormat::Qcow2, 64 * MIB), ("b", DiskFormat::Raw, 64 * MIB)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_shows_the_instant_of_the_cut_whatever_is_written_later() {
    let host = Host::new().await;
    let vm = host.start(&host.definition(&TWO)).await;
    let monitor = host.monitor().await;
    host.first_mark(vm, &["a", "b"]).await;
    for disk in ["a", "b"] {
        write(&monitor, disk, 0x41, 0, 128 * KIB).await;
    }
    let view = host.driver().cut(vm, host.cut(&["a", "b"], 0, 1)).await.expect("cut");
    for disk in ["a", "b"] {
        write(&monitor, disk, 0x42, 0, 64 * KIB).await;
        write(&monitor, disk, 0x43, MIB, 64 * KIB).await;
        assert_eq!(pattern(&*view, disk, 0, 128 << 10).await, 0x41, "{disk}");
        assert_eq!(pattern(&*view, disk, MIB, 64 << 10).await, 0, "{disk}");
        assert_eq!(dirty(&*view, disk).await, [(0, 128 * KIB)], "{disk}");
    }
    assert_eq!(*view.failure().borrow(), None);
    view.close().await.expect("close");
    // What was written after the cut belongs to the next one.
    host.driver().retain_marks(vm, &tracker(), &[epoch(1)]).await.expect("retain");
    let view = host.driver().cut(vm, host.cut(&["a", "b"], 1, 2)).await.expect("cut");
    for disk in ["a", "b"] {
        assert_eq!(dirty(&*view, disk).await, [(0, 64 * KIB), (MIB, 64 * KIB)], "{disk}");
        assert_eq!(pattern(&*view, disk, MIB, 64 << 10).await, 0x43, "{disk}");
    }
    view.close().await.expect("close");
}

/// A read that begins in a cluster that was copied and goes on beyond it, and the allocation of the same range.
/// QEMU below 8.0 answers both from the running disk if it is asked for all of it at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zeros_that_are_written_later_are_not_in_the_cut_however_much_of_it_is_read_at_once() {
    let host = Host::new().await;
    let vm = host.start(&host.definition(&TWO)).await;
    let monitor = host.monitor().await;
    host.first_mark(vm, &["a", "b"]).await;
    for disk in ["a", "b"] {
        write(&monitor, disk, 0x41, 0, 2 * MIB).await;
        io(&monitor, disk, &format!("write -zu {} {MIB}", 2 * MIB)).await;
    }
    let view = host.driver().cut(vm, host.cut(&["a", "b"], 0, 1)).await.expect("cut");
    for disk in ["a", "b"] {
        // Clusters of their own, the first of a read, neighbours, and parts of them; the last one was zeros.
        for (offset, length) in [(0, 64 * KIB), (MIB - 512, 3 * KIB + 512), (MIB + 256 * KIB, 160 * KIB)] {
            io(&monitor, disk, &format!("write -zu {offset} {length}")).await;
        }
        write(&monitor, disk, 0x42, 2 * MIB + 64 * KIB, 64 * KIB).await;
        let reader = view.disk(&name(disk)).expect("the disk");
        for (offset, length) in [(0, 2 << 20), (0, 1 << 20), (512, 256 << 10), (MIB + 300 * KIB, 700 << 10)] {
            assert_eq!(pattern(&*view, disk, offset, length).await, 0x41, "{disk}: {length} at {offset}");
        }
        assert_eq!(pattern(&*view, disk, 2 * MIB, 1 << 20).await, 0, "{disk}: zeros that were written over");
        let runs = reader.allocation(0, 3 * MIB).await.expect("allocation");
        let zeros = runs.iter().filter(|run| run.zero);
        assert!(zeros.clone().all(|run| run.offset >= 2 * MIB), "{disk}: data is called zeros: {runs:?}");
        assert!(zeros.map(|run| run.length).sum::<u64>() > 512 * KIB, "{disk}: zeros are known: {runs:?}");
    }
    view.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_disks_are_cut_between_the_same_two_writes() {
    let host = Host::new().await;
    let vm = host.start(&host.definition(&TWO)).await;
    let monitor = host.monitor().await;
    host.first_mark(vm, &["a", "b"]).await;
    let writer = tokio::spawn(async move {
        // Record n goes to a, then to b: b never has one that a lacks.
        for n in 1..=250_u8 {
            write(&monitor, "a", n, 0, 4 * KIB).await;
            write(&monitor, "b", n, 0, 4 * KIB).await;
        }
    });
    for round in 0..5 {
        tokio::time::sleep(Duration::from_millis(15)).await;
        let view = host.driver().cut(vm, host.cut(&["a", "b"], round, round + 1)).await.expect("cut");
        let (a, b) = (pattern(&*view, "a", 0, 4096).await, pattern(&*view, "b", 0, 4096).await);
        assert!(a == b || a == b + 1, "a has record {a}, b has record {b}");
        view.close().await.expect("close");
    }
    writer.await.expect("the writer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_told_to_4_kib() {
    let host = Host::new().await;
    let vm = host.start(&host.definition(&TWO)).await;
    let monitor = host.monitor().await;
    host.first_mark(vm, &["a", "b"]).await;
    for disk in ["a", "b"] {
        write(&monitor, disk, 1, 4 * KIB, 512).await;
        write(&monitor, disk, 2, 16 * KIB - 512, KIB).await;
        io(&monitor, disk, &format!("write -z {} 64k", 8 * MIB)).await;
        write(&monitor, disk, 3, 64 * MIB - 4 * KIB, 4 * KIB).await;
    }
    let view = host.driver().cut(vm, host.cut(&["a", "b"], 0, 1)).await.expect("cut");
    let expected =
        [(4 * KIB, 4 * KIB), (12 * KIB, 8 * KIB), (8 * MIB, 64 * KIB), (64 * MIB - 4 * KIB, 4 * KIB)];
    for disk in ["a", "b"] {
        assert_eq!(dirty(&*view, disk).await, expected, "{disk}");
        let reader = view.disk(&name(disk)).expect("the disk");
        let clipped = reader.dirty(14 * KIB, MIB).await.expect("dirty");
        assert_eq!(
            (clipped[0].offset, clipped[0].length),
            (14 * KIB, 6 * KIB),
            "{disk}: clipped to what was asked"
        );
        let zeros = reader.allocation(8 * MIB, 64 * KIB).await.expect("allocation");
        assert!(zeros.iter().all(|extent| extent.zero), "{disk}: zeros are known to be zeros: {zeros:?}");
    }
    view.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_cycle_loses_no_change() {
    let host = Host::new().await;
    let vm = host.start(&host.definition(&TWO)).await;
    let monitor = host.monitor().await;
    host.first_mark(vm, &["a", "b"]).await;
    write(&monitor, "a", 1, 0, 4 * KIB).await;
    let view = host.driver().cut(vm, host.cut(&["a", "b"], 0, 1)).await.expect("cut");
    write(&monitor, "a", 2, MIB, 4 * KIB).await;
    view.close().await.expect("close");
    host.driver().retain_marks(vm, &tracker(), &[epoch(0)]).await.expect("retain");
    let marks = host.driver().marks(vm, &tracker(), &names(&["a", "b"])).await.expect("marks");
    assert_eq!(marks.len(), 1);
    assert!(marks[0].complete);
    assert_eq!((marks[0].mark, marks[0].granularity, marks[0].dirty_bytes), (epoch(0), 4096, 8 * KIB));
    let view = host.driver().cut(vm, host.cut(&["a", "b"], 0, 1)).await.expect("cut again");
    assert_eq!(dirty(&*view, "a").await, [(0, 4 * KIB), (MIB, 4 * KIB)]);
    view.close().await.expect("close");
    // A cycle that failed before it could even drop its new mark is no obstacle.
    let view = host.driver().cut(vm, host.cut(&["a", "b"], 0, 1)).await.expect("cut a third time");
    assert_eq!(dirty(&*view, "a").await, [(0, 4 * KIB), (MIB, 4 * KIB)]);
    view.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_daemon_left_is_removed_by_name() {
    let mut host = Host::new().await;
    let vm = host.start(&host.definition(&TWO)).await;
    let monitor = host.monitor().await;
    host.first_mark(vm, &["a", "b"]).await;
    let before = nodes(&monitor).await;
    let view = host.driver().cut(vm, host.cut(&["a", "b"], 0, 1)).await.expect("cut");
    assert_ne!(nodes(&monitor).await, before);
    write(&monitor, "a", 1, 0, 4 * KIB).await;
    // Not closed: the process just ends.
    drop(view);
    host.reopen().await;
    assert!(host.driver().inspect(vm).await.expect("inspect").pid.is_some(), "the VM is found again");
    host.driver().clean(vm, &tracker(), &host.scratch()).await.expect("clean");
    assert_eq!(nodes(&monitor).await, before);
    assert_eq!(std::fs::read_dir(host.scratch()).expect("list").count(), 0);
    host.driver().clean(vm, &tracker(), &host.scratch()).await.expect("clean again");
    let view = host.driver().cut(vm, host.cut(&["a", "b"], 0, 1)).await.expect("cut");
    assert_eq!(dirty(&*view, "a").await, [(0, 4 * KIB)]);
    drop(view);
    // Even without a clean, the next cut is not in the way of the last.
    let view = host.driver().cut(vm, host.cut(&["a", "b"], 0, 1)).await.expect("cut over left-overs");
    view.close().await.expect("close");
    assert_eq!(nodes(&monitor).await, before);
}

async fn nodes(monitor: &standin_hypervisor::qmp::Qmp) -> Vec<String> {
    let answer = monitor.execute("query-named-block-nodes", serde_json::json!({ "flat": true })).await;
    let answer = answer.expect("nodes");
    let mut nodes: Vec<String> = answer
        .as_array()
        .expect("a list")
        .iter()
        .map(|node| node["node-name"].as_str().expect("a name").to_owned())
        .collect();
    nodes.sort();
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_survive_an_orderly_end_on_qcow2_and_not_on_raw() {
    let host = Host::new().await;
    let vm = host.start(&host.definition(&TWO)).await;
    host.first_mark(vm, &["a", "b"]).await;
    write(&host.monitor().await, "a", 1, 0, 4 * KIB).await;
    let mut events = host.driver().events();
    host.driver().power_off(vm).await.expect("power off");
    assert_eq!(event(&mut events).await, VmEvent::Stopped { vm, clean: true });
    assert_eq!(
        host.driver().marks(vm, &tracker(), &names(&["a"])).await.expect("marks of a VM that is off"),
        []
    );
    host.start_again(vm).await;
    let kept = host.driver().marks(vm, &tracker(), &names(&["a"])).await.expect("marks");
    assert!(kept[0].complete);
    assert_eq!((kept[0].mark, kept[0].dirty_bytes), (epoch(0), 4 * KIB));
    let both = host.driver().marks(vm, &tracker(), &names(&["a", "b"])).await.expect("marks");
    assert!(!both[0].complete, "the raw disk has lost its mark");
    let refused = host.driver().cut(vm, host.cut(&["a", "b"], 0, 1)).await.err().expect("no mark on b");
    assert!(matches!(refused, Error::NoMark { ref disk, .. } if *disk == name("b")), "{refused}");
    let view = host.driver().cut(vm, host.cut(&["a"], 0, 1)).await.expect("cut");
    assert_eq!(dirty(&*view, "a").await, [(0, 4 * KIB)]);
    view.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_leaves_no_mark_that_could_be_believed() {
    let host = Host::new().await;
    let vm = host.start(&host.definition(&TWO[..1])).await;
    host.first_mark(vm, &["a"]).await;
    // Once stored, the bitmap is in the file; the next run marks it as in use.
    host.driver().power_off(vm).await.expect("power off");
    host.start_again(vm).await;
    write(&host.monitor().await, "a", 1, 0, 4 * KIB).await;
    let mut events = host.driver().events();
    host.kill(vm).await;
    assert_eq!(event(&mut events).await, VmEvent::Stopped { vm, clean: false });
    host.start_again(vm).await;
    let marks = host.driver().marks(vm, &tracker(), &names(&["a"])).await.expect("marks");
    assert!(marks.iter().all(|mark| !mark.complete), "{marks:?}");
    assert_eq!(marks.len(), 1, "it is reported once");
    assert_eq!(
        host.driver().marks(vm, &tracker(), &names(&["a"])).await.expect("marks"),
        [],
        "and is gone then"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_view_shows_the_running_disk_and_keeps_an_interrupted_mark() {
    let host = Host::new().await;
    let vm = host.start(&host.definition(&TWO)).await;
    let monitor = host.monitor().await;
    let view = host.driver().live(vm, live(&["a", "b"], None, 0)).await.expect("live");
    write(&monitor, "b", 7, 0, 4 * KIB).await;
    assert_eq!(pattern(&*view, "b", 0, 4096).await, 7);
    let reader = view.disk(&name("b")).expect("the disk");
    assert!(reader.dirty(0, MIB).await.is_err(), "there is no `since` to compare with");
    assert!(view.disk(&name("c")).is_none());
    view.close().await.expect("close");
    // The first copy goes on: what changed since its beginning is still known.
    let view = host.driver().live(vm, live(&["a", "b"], None, 0)).await.expect("live again");
    view.close().await.expect("close");
    // A first pass of a delta: changes since epoch 0 while epoch 1 records.
    let view = host.driver().live(vm, live(&["a", "b"], Some(0), 1)).await.expect("live with since");
    assert_eq!(dirty(&*view, "b").await, [(0, 4 * KIB)]);
    write(&monitor, "b", 8, MIB, 4 * KIB).await;
    assert_eq!(dirty(&*view, "b").await, [(0, 4 * KIB)], "a frozen copy does not move");
    view.close().await.expect("close");
    let view = host.driver().cut(vm, host.cut(&["a", "b"], 1, 2)).await.expect("cut");
    assert_eq!(dirty(&*view, "b").await, [(MIB, 4 * KIB)]);
    view.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_fails_with_its_vm_and_then_gives_no_data() {
    let host = Host::new().await;
    let vm = host.start(&host.definition(&TWO)).await;
    host.first_mark(vm, &["a", "b"]).await;
    let view = host.driver().cut(vm, host.cut(&["a", "b"], 0, 1)).await.expect("cut");
    let reader = view.disk(&name("a")).expect("the disk");
    reader.read(0, 4096).await.expect("read");
    let mut failure = view.failure();
    host.kill(vm).await;
    let failed = tokio::time::timeout(Duration::from_secs(5), failure.wait_for(Option::is_some));
    let reason = failed.await.expect("in time").expect("a watch").clone().expect("a reason");
    assert!(reason.contains("ended"), "{reason}");
    assert!(matches!(reader.read(0, 4096).await, Err(Error::View(_))));
    assert!(matches!(reader.dirty(0, 4096).await, Err(Error::View(_))));
    view.close().await.expect("close");
    assert_eq!(std::fs::read_dir(host.scratch()).expect("list").count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_whose_job_somebody_cancels_fails() {
    let host = Host::new().await;
    let vm = host.start(&host.definition(&TWO)).await;
    let monitor = host.monitor().await;
    host.first_mark(vm, &["a", "b"]).await;
    let view = host.driver().cut(vm, host.cut(&["a", "b"], 0, 1)).await.expect("cut");
    let reader = view.disk(&name("a")).expect("the disk");
    let mut failure = view.failure();
    let job = serde_json::json!({ "device": "standin-t1-j0", "force": true });
    monitor.execute("block-job-cancel", job).await.expect("cancel");
    // Before the watch has heard of it, QEMU itself refuses; never is other data given.
    write(&monitor, "a", 9, 0, 4 * KIB).await;
    assert!(reader.read(0, 4096).await.is_err());
    let failed = tokio::time::timeout(Duration::from_secs(5), failure.wait_for(Option::is_some));
    failed.await.expect("in time").expect("a watch");
    view.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_grew_is_read_at_its_new_size() {
    let host = Host::new().await;
    let vm = host.start(&host.definition(&TWO)).await;
    let monitor = host.monitor().await;
    host.first_mark(vm, &["a", "b"]).await;
    let grow = serde_json::json!({ "node-name": "disk-a", "size": 65 * MIB });
    monitor.execute("block_resize", grow).await.expect("grow");
    let info = host.driver().inspect(vm).await.expect("inspect");
    assert_eq!(info.disks[0].size, 65 * MIB);
    let view = host.driver().cut(vm, host.cut(&["a", "b"], 0, 1)).await.expect("cut");
    assert_eq!(view.disk(&name("a")).expect("the disk").size(), 65 * MIB);
    assert_eq!(pattern(&*view, "a", 64 * MIB, 4096).await, 0);
    view.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_cut_is_refused_and_leaves_nothing() {
    let host = Host::new().await;
    let vm = host.start(&host.definition(&TWO)).await;
    let monitor = host.monitor().await;
    let before = nodes(&monitor).await;
    let unknown = host.driver().cut(vm, host.cut(&["x"], 0, 1)).await.err().expect("no disk x");
    assert!(matches!(unknown, Error::UnknownDisk { .. }), "{unknown}");
    let unmarked = host.driver().cut(vm, host.cut(&["a"], 0, 1)).await.err().expect("no mark");
    assert!(matches!(unmarked, Error::NoMark { .. }), "{unmarked}");
    host.first_mark(vm, &["a"]).await;
    let mut greedy = host.cut(&["a"], 0, 1);
    greedy.scratch_reserve = u64::MAX;
    let full = host.driver().cut(vm, greedy).await.err().expect("no space");
    assert!(matches!(full, Error::ScratchSpace { .. }), "{full}");
    let mut odd = host.cut(&["a"], 0, 1);
    odd.granularity = 5000;
    let refused = host.driver().cut(vm, odd).await.err().expect("no such granularity");
    assert!(matches!(refused, Error::Qmp { .. }), "{refused}");
    assert_eq!(nodes(&monitor).await, before);
    assert_eq!(std::fs::read_dir(host.scratch()).expect("list").count(), 0);
    let view = host.driver().cut(vm, host.cut(&["a"], 0, 1)).await.expect("cut");
    let second = host.driver().cut(vm, host.cut(&["a"], 0, 2)).await.err().expect("one view at a time");
    assert!(second.to_string().contains("open view"), "{second}");
    view.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_travels_with_the_cut_and_the_variable_store_as_it_was_then() {
    let host = Host::new().await;
    let mut definition = host.definition(&TWO);
    let (code, vars) = (host.path("code.fd"), host.path("vars.fd"));
    std::fs::write(&code, vec![0; 256 << 10]).expect("write");
    std::fs::write(&vars, vec![1; 64 << 10]).expect("write");
    definition.firmware = Some(standin_hypervisor::Firmware { code: code.clone(), vars: Some(vars.clone()) });
    let vm = host.start(&definition).await;
    host.first_mark(vm, &["a", "b"]).await;
    let view = host.driver().cut(vm, host.cut(&["a", "b"], 0, 1)).await.expect("cut");
    std::fs::write(&vars, vec![2; 64 << 10]).expect("write");
    let config = &view.info().config;
    assert_eq!(config.definition, definition);
    assert_eq!(config.files["firmware"], code);
    let copy = config.files["nvram"].clone();
    assert_eq!(std::fs::read(&copy).expect("the copy"), vec![1; 64 << 10]);
    view.close().await.expect("close");
    assert!(!copy.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_disk_has_no_changes_and_a_busy_one_beside_it_has_its_own() {
    let host = Host::new().await;
    let vm = host.start(&host.definition(&TWO)).await;
    host.first_mark(vm, &["a", "b"]).await;
    write(&host.monitor().await, "b", 1, 0, 4 * KIB).await;
    let view = host.driver().cut(vm, host.cut(&["a", "b"], 0, 1)).await.expect("cut");
    assert_eq!(dirty(&*view, "a").await, []);
    assert_eq!(dirty(&*view, "b").await, [(0, 4 * KIB)]);
    assert_eq!(pattern(&*view, "a", 0, 4096).await, 0);
    view.close().await.expect("close");
}
