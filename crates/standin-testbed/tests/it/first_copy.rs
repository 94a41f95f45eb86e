//! The first copy of a guest that never stops writing.

use crate::rig::{PATIENCE, Rig, text, wait_state};
use serde_json::Value;
use standin_testbed::guest::{Guest, GuestDisk, GuestPlan};
use standin_testbed::oracle;
use standin_testbed::tcpproxy::TcpProxy;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Slots of a disk: the ring is written several times while the copy runs, so that a block of another instant
/// cannot hide.
const SLOTS: u64 = 512;
/// Bytes of a disk that nobody writes: the copy has something to do.
const OTHER: usize = 32 << 20;
/// Bytes of the copy that go through before it is held.
const BEGUN: u64 = 256 << 10;
/// Records that are written while it is held: both disks' rings and more.
const MEANWHILE: u64 = 3 * SLOTS;

fn wait_forwarded(proxy: &TcpProxy, bytes: u64) {
    let until = Instant::now() + PATIENCE;
    while proxy.forwarded() < bytes {
        assert!(Instant::now() < until, "the copy did not begin: {} bytes", proxy.forwarded());
        thread::sleep(Duration::from_millis(2));
    }
}

fn layers(rig: &Rig, epoch: u64) -> [PathBuf; 2] {
    let replicas = rig.b.dir().join("data/replicas");
    let mut found = std::fs::read_dir(replicas).unwrap().map(|entry| entry.unwrap().path());
    let replica: PathBuf = found.find(|path| path.join("manifest.json").is_file()).unwrap();
    ["log-a", "log-b"].map(|disk| layer(&replica, disk, epoch))
}

fn layer(replica: &Path, disk: &str, epoch: u64) -> PathBuf {
    replica.join("disks").join(disk).join(format!("{epoch:012}.qcow2"))
}

/// As fast as the disks go, with a third disk that holds something else to copy.
fn busy_guest(rig: &Rig) -> Guest {
    let mut plan = GuestPlan::records("writer", 0);
    plan.writer = vec!["standin.rate=max".into(), format!("standin.slots={SLOTS}")];
    plan.disks.push(GuestDisk { name: "other".into(), format: "raw", size: OTHER as u64 });
    let guest = rig.define(plan);
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = vec![0; OTHER];
    for part in bytes.chunks_exact_mut(8) {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        part.copy_from_slice(&word.to_le_bytes());
    }
    std::fs::write(&guest.disks[2], bytes).unwrap();
    rig.a.run(&["vm", "start", "writer"]).unwrap();
    guest.serial.wait_written_beyond(1, PATIENCE).unwrap();
    guest
}

#[test]
fn the_first_point_of_a_guest_that_writes_all_the_time_is_one_instant() {
    let rig = Rig::new();
    let guest = busy_guest(&rig);
    let proxy = TcpProxy::start_at(SocketAddr::new(rig.b.listen().ip(), 0), rig.b.listen()).unwrap();
    let to = proxy.address().to_string();
    // An hour: the first point is alone.
    rig.a
        .run(&["replicate", "writer", "--to", &to, "--interval", "1h", "--history", "24", "--no-wait"])
        .unwrap();
    wait_forwarded(&proxy, BEGUN);
    proxy.hold(true);
    let begun = guest.serial.last_written().unwrap();
    let during = guest.serial.wait_written_beyond(begun + MEANWHILE, PATIENCE).unwrap();
    let status = crate::rig::status(&rig.a, "writer");
    assert_ne!(status["state_code"], 3, "the copy is over already: {status}");
    proxy.hold(false);
    wait_state(&rig.a, "writer", 3);
    let after = guest.serial.last_written().unwrap();

    let points: Value = rig.b.json(&["points", "writer"]).unwrap();
    assert_eq!(points.as_array().unwrap().len(), 1, "the first point alone: {points}");
    let [a, b] = layers(&rig, points[0]["epoch"].as_u64().unwrap());
    eprintln!("held from record {begun} to {during}, ready at {after}: {} {}", text(&a), text(&b));
    let verdict = oracle::judge_files(&a, &b).unwrap();
    assert!(verdict.consistent, "{verdict:?}");
    // The instant is that of the end of the copy, not of its beginning, and no record of the ring is missing.
    assert!(verdict.last_sequence >= during, "record {during} was written before: {verdict:?}");
    assert_eq!(verdict.records, 2 * SLOTS, "{verdict:?}");
    assert!(guest.serial.faults().is_empty(), "{:?}", guest.serial.faults());
}
