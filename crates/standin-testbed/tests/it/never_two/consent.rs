//! Failovers beside a primary that runs, and one that is paused.

use super::{A_FEW_RECORDS, IN_USE, STATE, called, copies, fenced, in_vain};
use crate::management::managed;
use crate::rig::{PATIENCE, Rig, refused, status, wait_state, wait_status};
use standin_testbed::guest::Guest;

/// The primary runs: nothing is started on `b`, and what it sends goes on.
fn over_a_healthy_primary(rig: &Rig, guest: &Guest) {
    for consent in [&["failover", "web", "--start"][..], &["failover", "web", "--start", "--yes"]] {
        refused(&rig.b, consent, IN_USE, &["VM web runs on host-a"]);
    }
    copies(rig, guest, [1, 0], "a failover over a healthy primary");
    rig.wait_point_beyond("web", rig.newest_epoch("web"));

    // The API's failover starts nothing by itself, may be reverted, and touches no VM; its start is another call.
    let begun = called(&rig.b, "cimxml", "web", &["InitiateFailover"]);
    assert_eq!((&begun["code"], &begun["job"]), (&4096.into(), &7.into()), "{begun}");
    assert_eq!(status(&rig.b, "web")["state_code"], 5);
    wait_state(&rig.a, "web", 8);
    assert_eq!(status(&rig.a, "web")["power"], "running");
    for way in ["cimxml", "wsman"] {
        let started = called(&rig.b, way, "web", &["RequestStateChange", "2"]);
        assert!(in_vain(&started, IN_USE), "{started}");
    }
    fenced(&rig.b, &["vm", "start", "web", "--yes"], IN_USE, "VM web runs on host-a");
    copies(rig, guest, [1, 0], "InitiateFailover over a healthy primary");
    let reverted = called(&rig.b, "cimxml", "web", &["RevertFailover"]);
    assert_eq!(reverted["job"], 7, "{reverted}");
    rig.wait_point_beyond("web", rig.newest_epoch("web"));
    wait_state(&rig.a, "web", 3);
    assert!(guest.serial.faults().is_empty(), "{:?}", guest.serial.faults());
}

/// The paused copy does not go on, by any road.
fn stays_paused(rig: &Rig, guest: &Guest, after: &str) {
    let written = guest.serial.last_written();
    for way in ["wsman", "cimxml"] {
        let resumed = called(&rig.a, way, "web", &["RequestStateChange", "2"]);
        assert!(in_vain(&resumed, STATE), "{resumed}");
    }
    fenced(&rig.a, &["vm", "start", "web"], STATE, "VM web has failed over to host-b");
    copies(rig, guest, [1, 1], after);
    std::thread::sleep(A_FEW_RECORDS);
    assert_eq!(guest.serial.last_written(), written, "it wrote after {after}");
    assert_eq!(status(&rig.a, "web")["power"], "paused");
}

#[test]
fn a_failover_starts_nothing_beside_a_primary_that_runs_and_a_paused_one_does_not_go_on() {
    let rig = managed();
    let guest = rig.boot("web", 20);
    rig.replicate("web", "2s");
    rig.wait_point_beyond("web", 1);
    over_a_healthy_primary(&rig, &guest);

    let paused = called(&rig.a, "wsman", "web", &["RequestStateChange", "9"]);
    assert_eq!(paused["job"], 7, "{paused}");
    wait_status(&rig.a, "web", |status| status["power"] == "paused");
    // It answers that it does not run: nothing has to be asserted.
    rig.b.run(&["failover", "web", "--start"]).unwrap();
    let there = rig.b.replica_serial("web").unwrap();
    let (_, last) = there.wait_verified(0, PATIENCE).unwrap();
    stays_paused(&rig, &guest, "the failover of a paused VM");
    rig.b.run(&["failover", "web", "--commit"]).unwrap();
    stays_paused(&rig, &guest, "the commit");
    there.wait_written_beyond(last, PATIENCE).unwrap();
    // What was paused is turned off, and stays off.
    rig.a.run(&["vm", "stop", "web", "--force"]).unwrap();
    fenced(&rig.a, &["vm", "start", "web"], STATE, "VM web has failed over to host-b");
    copies(&rig, &guest, [0, 1], "the end of the paused copy");
}
