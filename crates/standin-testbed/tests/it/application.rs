//! Application-consistent points for real: the Debian guest, its agent, and a database that is being written.
//!
//! The guest writes rows without flushing them. Only the freeze makes what was committed durable, so a point
//! that has every row reported before it was asked for, on a file system whose journal need not be replayed,
//! was cut while the guest was frozen.

use crate::rig::{PATIENCE, Rig, status, wait_state, wait_status};
use serde_json::Value;
use standin_testbed::daemon::{Daemon, complaints};
use standin_testbed::guest::{Guest, GuestPlan, SerialLog};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The first partition, where `scripts/build-debian-guest` puts it.
const PARTITION: u64 = 1 << 20;

/// An emulated Debian needs about half a minute to boot on an idle machine.
const BOOT: Duration = Duration::from_secs(240);

/// The newest row that the guest reported.
fn last_row(serial: &SerialLog) -> u64 {
    let text = serial.text();
    let mut rows = text.lines().rev().filter_map(|line| line.split_once("standin-db: wrote last="));
    rows.find_map(|(_, rest)| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn wait_row_beyond(serial: &SerialLog, row: u64) -> u64 {
    let until = Instant::now() + PATIENCE;
    loop {
        let last = last_row(serial);
        if last > row {
            return last;
        }
        assert!(Instant::now() < until, "the guest writes nothing beyond row {row}: it is frozen");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The newest point on the replica.
fn newest(rig: &Rig) -> Value {
    rig.b.json(&["points", "debian"]).unwrap()[0].clone()
}

/// Has the guest's agent run a command in the guest, over the socket that standin uses between its own calls.
fn in_guest(daemon: &Daemon, program: &str, arguments: &[&str]) {
    let run = std::fs::read_dir(daemon.dir().join("run")).unwrap().flatten();
    let agent = run.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "ga"));
    let mut socket = UnixStream::connect(agent.unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let order =
        serde_json::json!({ "execute": "guest-exec", "arguments": { "path": program, "arg": arguments } });
    writeln!(socket, "{order}").unwrap();
    let mut answer = String::new();
    BufReader::new(&socket).read_line(&mut answer).unwrap();
    assert!(answer.contains("pid"), "{answer}");
}

/// What a tool of e2fsprogs says about the file system on the first partition of a raw image.
fn e2(tool: &str, options: &[&str], image: &Path) -> (i32, String) {
    let target = format!("{}?offset={PARTITION}", image.display());
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let mut command = Command::new(tool);
    let output = command.env("PATH", path).args(options).arg(target).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
}

/// What the file system says of itself. Not by dumpe2fs: that of e2fsprogs 1.47.2 takes no offset.
fn superblock(image: &Path) -> String {
    let (code, said) = e2("tune2fs", &["-l"], image);
    assert_eq!(code, 0, "{said}");
    said
}

/// Fails over to a point without starting the VM and copies its disk, then reverts.
fn disk_of_point(rig: &Rig, point: &Value, into: &str) -> PathBuf {
    rig.b.run(&["failover", "debian", "--point", point["id"].as_str().unwrap()]).unwrap();
    let shown = rig.b.json(&["vm", "show", "debian"]).unwrap();
    let image = rig.path(into);
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-O", "raw", shown["disks"][0]["path"].as_str().unwrap()]).arg(&image);
    assert!(command.stdin(Stdio::null()).status().unwrap().success());
    rig.b.run(&["failover", "debian", "--revert"]).unwrap();
    image
}

/// The Debian guest, running on `a` with its database.
pub fn booted(rig: &Rig) -> Guest {
    let guest = rig.define(GuestPlan::debian("debian").unwrap());
    rig.a.run(&["vm", "start", "debian"]).unwrap();
    guest.serial.wait_for_line(0, "standin-db: verified", BOOT).unwrap();
    guest
}

/// Takes an application-consistent point, and returns it with a row that was committed before it.
pub fn consistent_point(rig: &Rig, guest: &Guest) -> (Value, u64) {
    // The agent comes up a little later than the database.
    let until = Instant::now() + PATIENCE;
    let mut before = last_row(&guest.serial);
    while rig.a.cli(&["point", "debian", "--application-consistent"]).unwrap().status != 0 {
        assert!(Instant::now() < until, "the agent does not answer: {}", rig.a.log());
        std::thread::sleep(Duration::from_secs(3));
        before = last_row(&guest.serial);
    }
    let point = newest(rig);
    assert_eq!(point["kind"], "application_consistent", "{point}");
    let frozen_until = last_row(&guest.serial);
    wait_row_beyond(&guest.serial, frozen_until);
    (point, before)
}

/// The point's file system was flushed and frozen: nothing of its journal has to be replayed.
pub fn is_clean(rig: &Rig, point: &Value) {
    let clean = disk_of_point(rig, point, "clean.raw");
    let said = superblock(&clean);
    assert!(said.contains("has_journal") && !said.contains("needs_recovery"), "{said}");
    let (code, said) = e2("e2fsck", &["-fn"], &clean);
    assert_eq!(code, 0, "{said}");
}

/// The point boots on `b`, and its database has the row.
pub fn boots_with(rig: &Rig, point: &Value, row: u64) {
    rig.b
        .run(&["failover", "debian", "--point", point["id"].as_str().unwrap(), "--start", "--force"])
        .unwrap();
    let serial = rig.b.replica_serial("debian").unwrap();
    let line = serial.wait_for_line(0, "standin-db: verified", BOOT).unwrap();
    let last: u64 = line.rsplit_once("last=").unwrap().1.trim().parse().unwrap();
    assert!(last >= row, "row {row} was committed before the point and is not in it: {line}");
    let row = last_row(&serial);
    wait_row_beyond(&serial, row);
    let fenced = wait_state(&rig.b, "debian", 5);
    assert_eq!(fenced["power"], "running");
}

#[test]
fn a_point_of_a_frozen_guest_has_a_clean_file_system_and_every_committed_row() {
    let rig = Rig::new();
    rig.a.may_complain(&["could not be frozen"]);
    rig.a.may_complain(complaints::OF_LOST_TRACKING);
    rig.a.may_complain(complaints::OF_THE_OLD_HOST);
    let begun = Instant::now();
    let guest = booted(&rig);
    eprintln!("booted after {:?}", begun.elapsed());
    let to = rig.to();
    rig.a.run(&["replicate", "debian", "--to", &to, "--interval", "1h", "--history", "4"]).unwrap();
    eprintln!("replicated after {:?}", begun.elapsed());
    wait_row_beyond(&guest.serial, 3);
    assert_eq!(newest(&rig)["kind"], "standard");

    let (point, before) = consistent_point(&rig, &guest);
    let failed = |status: &Value| status["statistics"]["application_consistent_failed"].as_u64().unwrap();
    let failed_before = failed(&status(&rig.a, "debian"));
    eprintln!("application-consistent point after {:?}", begun.elapsed());

    in_guest(&rig.a, "/bin/systemctl", &["stop", "qemu-guest-agent"]);
    std::thread::sleep(Duration::from_secs(3));
    let epoch = point["epoch"].as_u64().unwrap();
    let output = rig.a.cli(&["point", "debian", "--application-consistent"]).unwrap();
    eprintln!("{}", output.stderr);
    assert_eq!(output.status, 4, "{output:?}");
    assert!(output.stderr.contains("agent") && output.stderr.contains("what to do: "), "{output:?}");
    let fallen_back = newest(&rig);
    assert_eq!(fallen_back["kind"], "standard", "{fallen_back}");
    assert!(fallen_back["epoch"].as_u64().unwrap() > epoch, "a standard point all the same");
    let now = wait_status(&rig.a, "debian", |now| failed(now) == failed_before + 1);
    assert_eq!(now["state_code"], 3, "{now}");
    let row = last_row(&guest.serial);
    wait_row_beyond(&guest.serial, row + 5);
    assert!(!guest.serial.text().contains("FAULT"));

    rig.a.kill_vms().unwrap();
    let crashed = disk_of_point(&rig, &fallen_back, "standard.raw");
    let said = superblock(&crashed);
    assert!(said.contains("needs_recovery"), "a point of a running guest is as after a crash: {said}");
    is_clean(&rig, &point);
    eprintln!("disks examined after {:?}", begun.elapsed());

    boots_with(&rig, &point, before);
    eprintln!("all after {:?}", begun.elapsed());
}
