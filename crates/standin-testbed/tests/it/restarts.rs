//! Daemons and guests that end, in order or not, pauses, and jobs: what goes on by itself.

use crate::rig::{PATIENCE, Rig, facts, refused, status, text, wait_state, wait_status};
use serde_json::Value;
use standin_testbed::daemon::{Daemon, complaints};
use standin_testbed::guest::{Guest, GuestDisk, GuestPlan};
use standin_testbed::{images, oracle, process};
use std::thread;
use std::time::Duration;

/// The type code of a resynchronization's job.
const RESYNC: u64 = 107;

fn resyncs(daemon: &Daemon) -> usize {
    let jobs = daemon.json(&["jobs"]).unwrap();
    jobs.as_array().unwrap().iter().filter(|job| job["type_code"] == RESYNC).count()
}

/// Loses the primary, fails over to the newest point, and has the guest verify its own records there.
fn prove_failover(rig: &mut Rig, vm: &str, at_least: u64) {
    rig.a.lose_power().unwrap();
    rig.b.run(&["failover", vm, "--start", "--yes"]).unwrap();
    let shown = rig.b.json(&["vm", "show", vm]).unwrap();
    assert_eq!(shown["power"], "running", "{shown}");
    let serial = rig.b.replica_serial(vm).unwrap();
    let (records, last) = serial.wait_verified(0, PATIENCE).unwrap();
    assert!(last >= at_least && records > 0, "{records} records up to {last}, {at_least} were expected");
    serial.wait_written_beyond(last, PATIENCE).unwrap();
    assert!(serial.faults().is_empty(), "{:?}", serial.faults());
}

#[test]
fn a_killed_daemon_of_either_side_stops_neither_the_vm_nor_for_long_the_replication() {
    let mut rig = Rig::new();
    rig.b.may_complain(complaints::OF_AN_ASSERTION);
    let guest = rig.boot("writer", 50);
    rig.replicate("writer", "2s");
    rig.wait_point_beyond("writer", 1);
    let pids = rig.a.vm_pids();
    assert_eq!(pids.len(), 1);

    rig.a.kill().unwrap();
    let output = rig.a.cli(&["status"]).unwrap();
    assert_eq!(output.status, 5, "no daemon: {output:?}");
    assert!(output.stderr.contains("standin serve"), "{output:?}");
    let written = guest.serial.last_written().unwrap();
    guest.serial.wait_written_beyond(written + 20, PATIENCE).unwrap();
    let epoch = rig.newest_epoch("writer");
    rig.a.start().unwrap();
    rig.wait_point_beyond("writer", epoch);
    assert_eq!(rig.a.vm_pids(), pids, "the same process");
    assert_eq!(status(&rig.a, "writer")["state_code"], 3);

    rig.b.kill().unwrap();
    let written = guest.serial.last_written().unwrap();
    guest.serial.wait_written_beyond(written + 20, PATIENCE).unwrap();
    rig.b.start().unwrap();
    let epoch = rig.newest_epoch("writer");
    assert!(epoch > 0, "its points survived");
    rig.wait_point_beyond("writer", epoch);
    let now = wait_status(&rig.a, "writer", |status| status["last_error"].is_null());
    assert_eq!(now["state_code"], 3);
    assert_eq!(resyncs(&rig.a), 0, "nothing had to be compared");
    assert!(guest.serial.faults().is_empty());
    prove_failover(&mut rig, "writer", written);
}

fn restart_vm(rig: &Rig, guest: &Guest) {
    // The guest ignores the power button; the images are closed in order all the same.
    rig.a.run(&["vm", "stop", "writer", "--force"]).unwrap();
    rig.a.run(&["vm", "start", "writer"]).unwrap();
    guest.serial.wait_verified(0, PATIENCE).unwrap();
}

#[test]
fn a_clean_stop_keeps_the_tracking_of_qcow2_disks_and_compares_raw_ones() {
    let rig = Rig::new();
    rig.a.may_complain(complaints::OF_LOST_TRACKING);
    let mut plan = GuestPlan::records("writer", 50);
    plan.disks.iter_mut().for_each(|disk| disk.format = "qcow2");
    let guest = rig.define(plan);
    rig.a.run(&["vm", "start", "writer"]).unwrap();
    guest.serial.wait_written_beyond(10, PATIENCE).unwrap();
    rig.replicate("writer", "2s");
    let epoch = rig.wait_point_beyond("writer", 1);
    restart_vm(&rig, &guest);
    rig.wait_point_beyond("writer", epoch + 2);
    assert_eq!(resyncs(&rig.a), 0, "persistent bitmaps know what changed: {}", rig.a.log());
    drop(rig);

    let rig = Rig::new();
    rig.a.may_complain(complaints::OF_LOST_TRACKING);
    let guest = rig.boot("writer", 50);
    rig.replicate("writer", "2s");
    let epoch = rig.wait_point_beyond("writer", 1);
    let oldest = rig.b.json(&["points", "writer"]).unwrap();
    restart_vm(&rig, &guest);
    rig.wait_point_beyond("writer", epoch + 2);
    assert_eq!(resyncs(&rig.a), 1, "a raw image keeps no bitmaps");
    let points = rig.b.json(&["points", "writer"]).unwrap();
    assert!(points.as_array().unwrap().len() >= 2, "points stay: {oldest} {points}");
}

#[test]
fn an_unclean_end_of_qemu_leads_to_state_9_with_its_reason_and_a_comparison_by_itself() {
    let mut rig = Rig::new();
    rig.a.may_complain(complaints::OF_LOST_TRACKING);
    rig.b.may_complain(complaints::OF_AN_ASSERTION);
    let guest = rig.boot("writer", 50);
    rig.replicate("writer", "2s");
    let epoch = rig.wait_point_beyond("writer", 1);
    rig.a.kill_vms().unwrap();
    rig.a.wait_json(&["vm", "show", "writer"], PATIENCE, |vm| vm["power"] == "off").unwrap();
    rig.a.run(&["vm", "start", "writer"]).unwrap();
    let (_, last) = guest.serial.wait_verified(0, PATIENCE).unwrap();
    let newest = rig.wait_point_beyond("writer", epoch);
    wait_state(&rig.a, "writer", 3);
    assert_eq!(resyncs(&rig.a), 1);
    let jobs = rig.a.json(&["jobs"]).unwrap();
    let job = jobs.as_array().unwrap().iter().find(|job| job["type_code"] == RESYNC).unwrap();
    assert_eq!(job["state_code"], 7, "{job}");
    assert!(rig.a.log().contains("change tracking was lost"), "the reason is in the log");
    rig.wait_point_beyond("writer", newest + 1);
    prove_failover(&mut rig, "writer", last);
}

#[test]
fn either_side_can_pause_and_go_on_and_nothing_is_lost() {
    let mut rig = Rig::new();
    rig.b.may_complain(complaints::OF_AN_ASSERTION);
    let guest = rig.boot("writer", 50);
    rig.replicate("writer", "1s");
    rig.wait_point_beyond("writer", 1);

    rig.a.run(&["suspend", "writer"]).unwrap();
    let paused = wait_state(&rig.a, "writer", 7);
    assert_eq!(paused["health"], "warning", "{paused}");
    thread::sleep(Duration::from_millis(500));
    let epoch = rig.newest_epoch("writer");
    refused(&rig.a, &["suspend", "writer"], 32775, &["state 7"]);
    refused(&rig.a, &["point", "writer"], 32775, &["state 7"]);
    let written = guest.serial.last_written().unwrap();
    guest.serial.wait_written_beyond(written + 100, PATIENCE).unwrap();
    assert_eq!(rig.newest_epoch("writer"), epoch, "no point while it is paused");
    assert!(status(&rig.a, "writer")["pending_bytes"].as_u64().unwrap_or(0) > 0, "changes are recorded");
    // A pause survives a restart.
    rig.a.stop().unwrap();
    rig.a.start().unwrap();
    assert_eq!(status(&rig.a, "writer")["state_code"], 7);
    rig.a.run(&["resume", "writer"]).unwrap();
    let epoch = rig.wait_point_beyond("writer", epoch);
    wait_state(&rig.a, "writer", 3);
    refused(&rig.a, &["resume", "writer"], 32775, &["state 3"]);

    rig.b.run(&["suspend", "writer"]).unwrap();
    let paused = wait_state(&rig.b, "writer", 7);
    assert_eq!(paused["health"], "critical", "{paused}");
    // The first error may be that of the session that ended; the next try is told why.
    wait_status(&rig.a, "writer", |status| {
        status["last_error"]["remedy"].as_str().is_some_and(|remedy| remedy.contains("resume"))
    });
    rig.b.run(&["resume", "writer"]).unwrap();
    rig.wait_point_beyond("writer", epoch + 1);
    wait_state(&rig.a, "writer", 3);
    assert_eq!(resyncs(&rig.a), 0);
    let written = guest.serial.last_written().unwrap();
    let epoch = rig.newest_epoch("writer");
    rig.wait_point_beyond("writer", epoch + 1);
    prove_failover(&mut rig, "writer", written);
}

#[test]
fn a_first_copy_can_be_cancelled_and_begun_again_and_each_end_has_its_exit_status() {
    let rig = Rig::new();
    rig.a.may_complain(&["could not be frozen"]);
    let mut plan = GuestPlan::records("writer", 50);
    plan.disks.push(GuestDisk { name: "bulk".into(), format: "raw", size: 768 << 20 });
    let guest = rig.define(plan);
    images::make_mixed(&guest.disks[2], 768 << 20, 7).unwrap();
    rig.a.run(&["vm", "start", "writer"]).unwrap();
    guest.serial.wait_written_beyond(1, PATIENCE).unwrap();

    let to = rig.to();
    let mut waiting = rig.a.spawn_cli(&["replicate", "writer", "--to", &to, "--interval", "2s"]).unwrap();
    let running = |jobs: &Value| jobs[0]["bytes_done"].as_u64().unwrap_or(0) > 0;
    let jobs = rig.a.wait_json(&["jobs"], PATIENCE, running).unwrap();
    let job = &jobs[0];
    assert_eq!((&job["type_code"], &job["cancellable"]), (&94.into(), &true.into()), "{job}");
    let id = job["id"].as_str().unwrap();
    refused(&rig.a, &["resync", "writer"], 32775, &["state 2"]);
    rig.a.run(&["jobs", "cancel", id]).unwrap();
    assert_eq!(waiting.wait().unwrap().code(), Some(4), "who waited hears that the job did not succeed");
    let ended = rig.a.wait_json(&["jobs", id], PATIENCE, |job| !job["ended_at"].is_null()).unwrap();
    assert_eq!(ended["state_code"], 8, "{ended}");
    wait_state(&rig.a, "writer", 1);
    refused(&rig.a, &["jobs", "cancel", id], 32775, &[&id[..8]]);

    // What was copied stays; it goes on from there.
    rig.a.run(&["resume", "writer"]).unwrap();
    wait_state(&rig.a, "writer", 3);
    rig.wait_point_beyond("writer", 1);

    assert_eq!(rig.a.cli(&["status"]).unwrap().status, 0);
    assert_eq!(rig.a.cli(&["status", "--wrong"]).unwrap().status, 2);
    assert_eq!(rig.a.cli(&["failover", "writer", "--revert", "--commit"]).unwrap().status, 2);
    // No agent in this guest: the job fails, a standard point is there all the same.
    let epoch = rig.newest_epoch("writer");
    let output = rig.a.cli(&["point", "writer", "--application-consistent"]).unwrap();
    assert_eq!(output.status, 4, "{output:?}");
    let says = |word: &str| output.stderr.lines().any(|line| line.starts_with(word));
    assert!(says("failed: ") && says("what to do: "), "{output:?}");
    assert!(rig.newest_epoch("writer") > epoch);
    let nobody = rig.path("nobody.sock");
    let output = rig.a.cli(&["--socket", text(&nobody), "status"]).unwrap();
    assert_eq!(output.status, 5, "{output:?}");
    assert!(output.stderr.contains("nobody.sock"), "{output:?}");
}

#[test]
fn failover_can_be_reverted_and_repeated_on_an_older_point_and_committed() {
    let rig = Rig::new();
    rig.a.may_complain(complaints::OF_THE_OLD_HOST);
    let guest = rig.boot("writer", 50);
    rig.replicate("writer", "2s");
    // So that no point goes by its age between two looks.
    rig.a.run(&["set", "writer", "--keep-all-for", "1h"]).unwrap();
    rig.wait_point_beyond("writer", 2);
    let points = rig.b.json(&["points", "writer"]).unwrap();
    let oldest = points.as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned();
    let pid = rig.a.vm_pids()[0];
    rig.b.run(&["failover", "writer", "--point", &oldest]).unwrap();
    assert_eq!(status(&rig.b, "writer")["state_code"], 5);
    let judged = judge(&rig.b, "writer");
    assert!(judged.consistent, "{judged:?}");
    let fenced = wait_state(&rig.a, "writer", 8);
    assert!(fenced["last_error"]["message"].as_str().unwrap().contains("failed over"), "{fenced}");
    refused(&rig.b, &["failover", "writer"], 32775, &["state 5"]);
    rig.b.run(&["failover", "writer", "--revert"]).unwrap();
    assert!(process::is_alive(pid));
    let epoch = rig.newest_epoch("writer");
    rig.wait_point_beyond("writer", epoch);
    wait_state(&rig.a, "writer", 3);
    assert!(guest.serial.faults().is_empty());

    rig.b.run(&["failover", "writer"]).unwrap();
    let later = judge(&rig.b, "writer");
    assert!(later.consistent && later.last_sequence > judged.last_sequence, "{judged:?} {later:?}");
    rig.b.run(&["failover", "writer", "--commit"]).unwrap();
    assert_eq!(status(&rig.b, "writer")["state_code"], 6);
    refused(&rig.b, &["failover", "writer", "--revert"], 32775, &["state 6"]);
    let kept = judge(&rig.b, "writer");
    assert_eq!((kept.consistent, kept.last_sequence), (true, later.last_sequence));

    // The old primary comes back and may not run the VM a second time.
    rig.a.kill_vms().unwrap();
    rig.a.wait_json(&["vm", "show", "writer"], PATIENCE, |vm| vm["power"] == "off").unwrap();
    // It learns of the failover by this very question, so its state may change with the answer.
    let output = rig.a.cli(&["vm", "start", "writer"]).unwrap();
    assert_eq!(output.status, 3, "{}", output.stderr);
    assert!(output.stderr.starts_with("refused (32775): VM writer has failed over"), "{}", output.stderr);
    assert_eq!(facts(&rig.a)["vms"][0][2], "off");
}

/// The oracle's verdict on the first two disks of a VM that is off or failed over.
pub fn judge(daemon: &Daemon, vm: &str) -> oracle::Verdict {
    let shown = daemon.json(&["vm", "show", vm]).unwrap();
    let path = |index: usize| shown["disks"][index]["path"].as_str().unwrap().to_owned();
    oracle::judge_images(&path(0), &path(1), oracle::Format::Guess).unwrap()
}

#[test]
fn what_acts_on_a_replication_is_refused_for_a_vm_without_one() {
    let rig = Rig::new();
    rig.define(GuestPlan::records("writer", 50));
    for verb in ["suspend", "resume", "resync", "point"] {
        refused(&rig.a, &[verb, "writer"], 32775, &["writer", "does not replicate"]);
    }
}
