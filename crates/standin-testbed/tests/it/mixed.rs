//! Hosts of this release and of the one before replicate to each other, as they do while hosts are upgraded one after
//! another.

use crate::restarts::judge;
use crate::rig::{PATIENCE, Rig, refused, status, wait_state};
use standin_testbed::builds::find_release_before;
use standin_testbed::daemon::{Daemon, complaints};
use standin_testbed::guest::Guest;
use std::path::PathBuf;

/// A guest that replicates between two hosts, one of which is of the release before.
fn replicating(primary: Option<PathBuf>, replica: Option<PathBuf>) -> (Rig, Guest) {
    let rig = Rig::with(|a, b| (a.binary, b.binary) = (primary.clone(), replica.clone()));
    // The release before warned of every session and cycle that a failover ended.
    let of_the_release_before = &["has failed over to the replica host"];
    rig.may_complain(
        &[complaints::OF_THE_OLD_HOST, complaints::OF_A_COMPARISON, of_the_release_before],
        &[complaints::OF_AN_ASSERTION, of_the_release_before],
    );
    let guest = rig.boot("web", 50);
    rig.replicate("web", "2s");
    rig.wait_point_beyond("web", 2);
    (rig, guest)
}

/// Fails over and back while the guest runs on the primary; what it had written is there.
fn rehearse(rig: &Rig, guest: &Guest) {
    rig.b.run(&["failover", "web"]).unwrap();
    let verdict = judge(&rig.b, "web");
    assert!(verdict.consistent && verdict.records > 0, "{verdict:?}");
    let told = wait_state(&rig.a, "web", 8);
    assert!(told["last_error"]["message"].as_str().unwrap().contains("failed over"), "{told}");
    rig.b.run(&["failover", "web", "--revert"]).unwrap();
    rig.wait_point_beyond("web", rig.newest_epoch("web") + 1);
    wait_state(&rig.a, "web", 3);
    assert!(guest.serial.faults().is_empty(), "{:?}", guest.serial.faults());
}

/// Loses the primary and starts the VM on the replica, where it verifies what it wrote.
fn fail_over(rig: &mut Rig, consent: &[&str]) {
    rig.a.lose_power().unwrap();
    rig.b.run(&[&["failover", "web", "--start"], consent].concat()).unwrap();
    let there = rig.b.replica_serial("web").unwrap();
    let (_, last) = there.wait_verified(0, PATIENCE).unwrap();
    there.wait_written_beyond(last, PATIENCE).unwrap();
    assert!(there.faults().is_empty(), "{:?}", there.faults());
    rig.a.start().unwrap();
}

/// The old primary starts none, and says where the VM is.
fn stays_off(host: &Daemon) {
    let output = host.cli(&["vm", "start", "web"]).unwrap();
    assert_eq!(output.status, 3, "{output:?}");
    assert!(
        output.stderr.starts_with("refused (32775): ") && output.stderr.contains("failed over"),
        "{output:?}"
    );
    assert_eq!(status(host, "web")["power"], "off");
    assert!(host.vm_pids().is_empty());
}

/// The failover is taken back, and everything goes on as before.
fn give_back(rig: &Rig) {
    rig.b.run(&["failover", "web", "--revert"]).unwrap();
    rig.a.run(&["vm", "start", "web"]).unwrap();
    rig.wait_point_beyond("web", rig.newest_epoch("web") + 1);
    wait_state(&rig.a, "web", 3);
}

#[test]
fn a_primary_of_the_release_before_replicates_to_this_one_fails_over_and_back() {
    let Some(before) = find_release_before().unwrap() else { return };
    let (mut rig, guest) = replicating(Some(before), None);
    rehearse(&rig, &guest);
    // It cannot be asked whether it runs the VM, nor accept that it must not: that takes somebody's word.
    refused(&rig.b, &["failover", "web", "--start"], 32777, &["host-a", "web"]);
    fail_over(&mut rig, &["--yes"]);
    stays_off(&rig.a);
    give_back(&rig);
}

#[test]
fn a_primary_of_this_release_replicates_to_the_one_before_fails_over_and_back() {
    let Some(before) = find_release_before().unwrap() else { return };
    let (mut rig, guest) = replicating(None, Some(before));
    rehearse(&rig, &guest);
    fail_over(&mut rig, &[]);
    stays_off(&rig.a);
    // Silence of such a replica is no leave either.
    rig.b.stop().unwrap();
    rig.a.stop().unwrap();
    rig.a.start().unwrap();
    let output = rig.a.cli(&["vm", "start", "web"]).unwrap();
    assert_eq!(output.status, 3, "{output:?}");
    assert!(rig.a.vm_pids().is_empty());
    rig.b.start().unwrap();
    stays_off(&rig.a);
    give_back(&rig);
}
