//! A host loses its database while a guest writes: the recovery points stay, and replication goes on from where it was.

use crate::rig::{PATIENCE, Rig, status, wait_state, wait_status};
use serde_json::Value;
use standin_testbed::daemon::{Daemon, complaints};
use std::path::PathBuf;

/// The type codes of the jobs that read whole disks: an initial replication and a resynchronization.
const WHOLE: [u64; 2] = [94, 107];

fn database(daemon: &Daemon) -> PathBuf {
    daemon.dir().join("data/state.redb")
}

fn points(rig: &Rig) -> Vec<String> {
    let points = rig.b.json(&["points", "writer"]).unwrap();
    points.as_array().unwrap().iter().map(|point| point["id"].as_str().unwrap().to_owned()).collect()
}

/// What `status` says to do about something.
fn remedy_of(daemon: &Daemon, what: &str) -> String {
    let found = |status: &Value| {
        let issues = status["health_issues"].as_array().unwrap();
        let issue = issues.iter().find(|issue| issue["message"].as_str().unwrap().contains(what));
        issue.map(|issue| issue["remedy"].as_str().unwrap().to_owned())
    };
    found(&wait_status(daemon, "writer", |status| found(status).is_some())).unwrap()
}

/// Replicates to the replica host and keeps every point.
fn replicate(rig: &Rig) {
    let to = rig.to();
    let keep = ["--interval", "2s", "--keep-all-for", "1h", "--no-wait"];
    rig.a.run(&[&["replicate", "writer", "--to", &to], &keep[..]].concat()).unwrap();
    wait_state(&rig.a, "writer", 3);
    wait_state(&rig.b, "writer", 3);
}

#[test]
fn a_database_that_was_cut_off_is_refused_with_what_helps() {
    let mut rig = Rig::new();
    rig.b.kill().unwrap();
    let whole = std::fs::read(database(&rig.b)).unwrap();
    for length in [0, 100, whole.len() / 2] {
        std::fs::write(database(&rig.b), &whole[..length]).unwrap();
        let refused = format!("{:#}", rig.b.start().unwrap_err());
        assert!(
            refused.contains("move the file aside") && refused.contains("auth add"),
            "{length}: {refused}"
        );
    }
    std::fs::rename(database(&rig.b), rig.path("state.aside")).unwrap();
    rig.b.start().unwrap();
    assert!(rig.b.json(&["auth", "list"]).unwrap().as_array().unwrap().is_empty());
}

#[test]
fn a_replica_host_whose_database_is_gone_keeps_its_points_and_goes_on() {
    let mut rig = Rig::new();
    rig.may_complain(
        &[complaints::OF_AN_ENTRY],
        &[complaints::OF_AN_ENTRY, complaints::OF_A_LOST_DATABASE, complaints::OF_AN_ASSERTION],
    );
    let guest = rig.boot("writer", 50);
    replicate(&rig);
    let epoch = rig.wait_point_beyond("writer", 2);
    let before = points(&rig);
    rig.b.kill().unwrap();
    std::fs::remove_file(database(&rig.b)).unwrap();
    rig.b.start().unwrap();

    let after = points(&rig);
    assert!(before.iter().all(|point| after.contains(point)), "every point is there");
    assert!(remedy_of(&rig.b, "no authorization entry").contains("standin auth add host-a"));
    assert!(remedy_of(&rig.a, "not authorised").contains("standin auth add"));
    rig.b.run(&["auth", "add", "host-a"]).unwrap();
    rig.wait_point_beyond("writer", epoch + 1);
    wait_state(&rig.a, "writer", 3);
    wait_state(&rig.b, "writer", 3);
    let last_error = wait_status(&rig.a, "writer", |status| status["last_error"].is_null());
    assert_eq!(last_error["health"], status(&rig.a, "writer")["health"]);
    let jobs = rig.a.json(&["jobs"]).unwrap();
    let whole = |job: &&Value| WHOLE.contains(&job["type_code"].as_u64().unwrap());
    assert_eq!(jobs.as_array().unwrap().iter().filter(whole).count(), 1, "only the first copy: {jobs}");
    assert!(before.iter().all(|point| points(&rig).contains(point)));

    rig.a.lose_power().unwrap();
    let oldest = before.last().unwrap().as_str();
    rig.b.run(&["failover", "writer", "--point", oldest, "--start", "--yes"]).unwrap();
    let serial = rig.b.replica_serial("writer").unwrap();
    let (records, last) = serial.wait_verified(0, PATIENCE).unwrap();
    assert!(records > 0 && last < guest.serial.last_written().unwrap(), "{records} records up to {last}");
    assert!(serial.faults().is_empty(), "{:?}", serial.faults());
}

#[test]
fn a_primary_whose_database_is_gone_goes_on_with_the_replica_that_it_finds() {
    let mut rig = Rig::new();
    rig.may_complain(&[complaints::OF_A_LOST_DATABASE], &[complaints::OF_AN_ASSERTION]);
    let guest = rig.boot("writer", 50);
    replicate(&rig);
    rig.wait_point_beyond("writer", 2);
    rig.a.kill().unwrap();
    let before = points(&rig);
    let epoch = rig.newest_epoch("writer");
    std::fs::remove_file(database(&rig.a)).unwrap();
    rig.a.start().unwrap();
    assert!(remedy_of(&rig.a, "has lost the record").contains("standin replicate writer --to"));
    let to = rig.to();
    let again = ["replicate", "writer", "--to", &to, "--interval", "2s", "--keep-all-for", "1h"];
    let output = rig.a.cli(&again).unwrap();
    assert_eq!(output.status, 0, "{output:?}");
    let found =
        format!("found {} recovery points of this VM on {to}; comparing instead of copying", before.len());
    assert!(output.stderr.contains(&found), "{output:?}");
    rig.wait_point_beyond("writer", epoch + 1);
    assert!(before.iter().all(|point| points(&rig).contains(point)), "every point of before is there");
    let written = guest.serial.last_written().unwrap();
    rig.a.lose_power().unwrap();
    rig.b.run(&["failover", "writer", "--start", "--yes"]).unwrap();
    let serial = rig.b.replica_serial("writer").unwrap();
    let (records, last) = serial.wait_verified(0, PATIENCE).unwrap();
    assert!(records > 0 && last > 0 && last <= written + 500, "{records} records up to {last} of {written}");
    assert!(serial.faults().is_empty(), "{:?}", serial.faults());
}
