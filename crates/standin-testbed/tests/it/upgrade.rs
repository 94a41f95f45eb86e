//! Data directories that the release before wrote, in the hands of this build: nothing of them is lost, and a VM that ran
//! meanwhile runs on.

use crate::application;
use crate::management::{PASSWORD, add_user_by};
use crate::restarts::judge;
use crate::rig::{self, PATIENCE, Rig, refused, status, text, wait_state};
use serde_json::Value;
use standin_testbed::builds::{find_binary, find_release_before};
use standin_testbed::daemon::{Daemon, complaints};
use standin_testbed::guest::{Guest, GuestPlan};
use std::path::Path;

/// What the release before left on both hosts.
struct Left {
    rig: Rig,
    guest: Guest,
    pids: Vec<i32>,
    token: String,
    kept: [Kept; 2],
}

/// What must be the same after the upgrade.
#[derive(Debug, PartialEq)]
struct Kept {
    auth: Value,
    users: Value,
    jobs: Vec<String>,
}

impl Kept {
    fn of(daemon: &Daemon) -> Self {
        let jobs = daemon.json(&["jobs"]).unwrap();
        let mut jobs: Vec<String> =
            jobs.as_array().unwrap().iter().map(|job| job["id"].to_string()).collect();
        jobs.sort_unstable();
        Self {
            auth: daemon.json(&["auth", "list"]).unwrap(),
            users: daemon.json(&["user", "list"]).unwrap(),
            jobs,
        }
    }
}

/// A VM that replicated, was turned off on `a`, and failed over to `b`.
fn failed_over(rig: &Rig, name: &str) {
    rig.define(GuestPlan::idle(name));
    rig.a.run(&["vm", "start", name]).unwrap();
    rig.replicate(name, "1s");
    rig.wait_point_beyond(name, 1);
    rig.a.run(&["vm", "stop", name, "--force"]).unwrap();
    rig.b.run(&["failover", name, "--start"]).unwrap();
}

/// Two hosts of a build.
fn both_of(build: &Path) -> Rig {
    let rig = Rig::with(|a, b| [a, b].into_iter().for_each(|plan| plan.binary = Some(build.to_owned())));
    // The release before warned of every session that a failover ended.
    rig.may_complain(
        &[complaints::OF_THE_OLD_HOST, complaints::OF_A_COMPARISON, complaints::OF_A_STOPPED_VM],
        &[complaints::OF_AN_ASSERTION, &["has failed over to the replica host"]],
    );
    rig
}

/// Everything that a data directory can hold, written by `before`.
fn written_by(before: &Path) -> Left {
    let rig = both_of(before);
    let mut plan = GuestPlan::records("web", 50);
    plan.disks.iter_mut().for_each(|disk| disk.format = "qcow2");
    let guest = rig.define(plan);
    rig.a.run(&["vm", "start", "web"]).unwrap();
    failed_over(&rig, "over");
    failed_over(&rig, "gone");
    rig.b.run(&["failover", "gone", "--commit"]).unwrap();
    guest.serial.wait_written_beyond(1, PATIENCE).unwrap();
    let options = ["--interval", "2s", "--keep-all-for", "30m", "--no-wait"];
    rig.a.run(&[&["replicate", "web", "--to", &rig.to()], &options[..]].concat()).unwrap();
    wait_state(&rig.a, "web", 3);
    rig.wait_point_beyond("web", 3);
    for daemon in [&rig.a, &rig.b] {
        add_user_by(before, daemon, "admin", PASSWORD, &["--role", "administrator", "--ntlm"]);
    }
    let token = rig.a.json(&["enroll", "--new", "host-c"]).unwrap()["token"].as_str().unwrap().to_owned();
    let kept = [Kept::of(&rig.a), Kept::of(&rig.b)];
    let pids = rig.a.vm_pids();
    Left { pids, token, kept, rig, guest }
}

/// Installs this build on both hosts. The points that `vm` has then: with nobody to send, none is added meanwhile.
fn upgrade(rig: &mut Rig, vm: &str) -> Value {
    for daemon in [&mut rig.a, &mut rig.b] {
        daemon.stop().unwrap();
        daemon.install(find_binary().unwrap()).unwrap();
    }
    rig.b.start().unwrap();
    let points = rig.b.json(&["points", vm]).unwrap();
    rig.a.start().unwrap();
    points
}

fn ids(points: &Value) -> Vec<String> {
    points.as_array().unwrap().iter().map(|point| point["id"].as_str().unwrap().to_owned()).collect()
}

/// The newest record at each point, by the oracle, the newest point first. Nothing in them is torn or lost.
fn at_each_point(rig: &Rig, points: &[String]) -> Vec<u64> {
    let at = |point: &String| {
        rig.b.run(&["failover", "web", "--point", point]).unwrap();
        let verdict = judge(&rig.b, "web");
        assert!(verdict.consistent && verdict.records > 0, "{point}: {verdict:?}");
        rig.b.run(&["failover", "web", "--revert"]).unwrap();
        verdict.last_sequence
    };
    points.iter().map(at).collect()
}

#[test]
fn data_directories_of_the_release_before_are_taken_up_with_every_point_and_relationship() {
    let Some(before) = find_release_before().unwrap() else { return };
    let Left { mut rig, guest, pids, token, kept } = written_by(&before);
    let points = upgrade(&mut rig, "web");

    // The VM that ran runs on, is replicated on without a comparison, and its points are there.
    assert_eq!(rig.a.vm_pids(), pids, "the same process");
    assert_eq!(status(&rig.a, "web")["power"], "running");
    let points = ids(&points);
    assert!(points.len() >= 3, "{points:?}");
    let newest = rig.newest_epoch("web");
    rig.wait_point_beyond("web", newest + 1);
    wait_state(&rig.a, "web", 3);
    let now = ids(&rig.b.json(&["points", "web"]).unwrap());
    assert!(points.iter().all(|point| now.contains(point)), "{points:?} {now:?}");
    let jobs = rig.a.json(&["jobs"]).unwrap();
    assert!(jobs.as_array().unwrap().iter().all(|job| job["type_code"] != 107), "a comparison: {jobs}");

    for (daemon, before) in [&rig.a, &rig.b].into_iter().zip(&kept) {
        let mut found = Kept::of(daemon);
        found.jobs.retain(|job| before.jobs.contains(job));
        assert_eq!(found, *before, "{}", daemon.name());
    }
    let host_c = {
        let c = Daemon::prepare(rig::plan(rig.dir.path(), "host-c")).unwrap();
        c.run(&["enroll", &token]).unwrap();
        c
    };
    assert!(host_c.run(&["pki", "show"]).unwrap().contains("host-c"), "a token of before is taken");

    // What had failed over is where it was, and its old primary starts none.
    for (name, state) in [("over", 5), ("gone", 6)] {
        let found = status(&rig.b, name);
        assert_eq!((&found["state_code"], &found["power"]), (&state.into(), &"running".into()), "{found}");
        let refusal = rig.a.cli(&["vm", "start", name]).unwrap();
        assert_eq!(refusal.status, 3, "{refusal:?}");
        assert!(refusal.stderr.contains(&format!("VM {name} has failed over to host-b")), "{refusal:?}");
    }
    rig.b.run(&["failover", "over", "--revert"]).unwrap();
    rig.a.run(&["vm", "start", "over"]).unwrap();
    rig.wait_point_beyond("over", rig.newest_epoch("over"));
    refused(&rig.b, &["failover", "gone", "--revert"], 32775, &["state 6"]);

    let at = at_each_point(&rig, &points);
    assert!(at.windows(2).all(|pair| pair[0] >= pair[1]), "newer points have more: {at:?}");
    let written = guest.serial.last_written().unwrap();
    rig.wait_point_beyond("web", rig.newest_epoch("web") + 1);
    rig.a.lose_power().unwrap();
    rig.b.run(&["failover", "web", "--start", "--yes"]).unwrap();
    let there = rig.b.replica_serial("web").unwrap();
    let (_, last) = there.wait_verified(0, PATIENCE).unwrap();
    assert!(last >= written, "{last} of {written}");
    assert!(there.faults().is_empty() && !text(there.path()).is_empty(), "{:?}", there.faults());
}

/// What a point is, whichever build says it.
fn facts_of(points: &Value) -> Vec<Value> {
    let keys = ["id", "epoch", "kind", "created_at"];
    let facts = |point: &Value| keys.iter().map(|key| point[*key].clone()).collect();
    points.as_array().unwrap().iter().map(facts).collect()
}

/// When the newest application-consistent point was cut, as the host that has it says.
fn newest_consistent(host: &Daemon) -> Value {
    status(host, "debian")["last_application_consistent_at"].clone()
}

#[test]
fn application_consistent_points_of_the_release_before_are_taken_up_as_what_they_are() {
    let Some(before) = find_release_before().unwrap() else { return };
    let mut rig = both_of(&before);
    rig.may_complain(&[&["could not be frozen"], complaints::OF_LOST_TRACKING], &[]);
    let guest = application::booted(&rig);
    let options = ["--interval", "1h", "--keep-all-for", "5h"];
    rig.a.run(&[&["replicate", "debian", "--to", &rig.to()], &options[..]].concat()).unwrap();
    let (point, row) = application::consistent_point(&rig, &guest);
    rig.a.run(&["point", "debian"]).unwrap();
    let (points, pids, at) =
        (rig.b.json(&["points", "debian"]).unwrap(), rig.a.vm_pids(), newest_consistent(&rig.b));
    let kinds: Vec<&str> =
        points.as_array().unwrap().iter().map(|point| point["kind"].as_str().unwrap()).collect();
    assert!(kinds[0] == "standard" && kinds[kinds.len() - 1] == "standard", "{kinds:?}");
    assert!(kinds.contains(&"application_consistent"), "{kinds:?}");

    let found = upgrade(&mut rig, "debian");
    assert_eq!(facts_of(&found), facts_of(&points));
    assert_eq!(newest_consistent(&rig.b), at);
    assert_eq!(rig.a.vm_pids(), pids, "the same process");
    // The agent of the guest that runs on answers to this build too.
    let (next, _) = application::consistent_point(&rig, &guest);
    assert!(next["epoch"].as_u64() > found[0]["epoch"].as_u64(), "{next} {found}");
    let jobs = rig.a.json(&["jobs"]).unwrap();
    assert!(jobs.as_array().unwrap().iter().all(|job| job["type_code"] != 107), "a comparison: {jobs}");

    rig.a.kill_vms().unwrap();
    application::is_clean(&rig, &point);
    application::boots_with(&rig, &point, row);
}
