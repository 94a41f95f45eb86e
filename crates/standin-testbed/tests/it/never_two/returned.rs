//! The primary's host was lost, the VM failed over, and the host comes back.

use super::{A_FEW_RECORDS, STATE, called, copies, fenced, worries};
use crate::management::managed;
use crate::rig::{PATIENCE, Rig, status, wait_state, wait_status};
use standin_testbed::daemon::{Daemon, complaints};
use standin_testbed::guest::{Guest, SerialLog};

/// The guest on `b` goes on, and `a` says why it starts none.
fn lives_on_b(rig: &Rig, guest: &Guest, there: &SerialLog, after: &str) {
    for consent in [&["vm", "start", "web"][..], &["vm", "start", "web", "--yes"]] {
        fenced(&rig.a, consent, STATE, "VM web has failed over to host-b");
    }
    copies(rig, guest, [0, 1], after);
    let written = there.last_written().unwrap();
    there.wait_written_beyond(written, PATIENCE).unwrap();
}

fn restart(daemon: &mut Daemon) {
    daemon.stop().unwrap();
    daemon.start().unwrap();
}

#[test]
fn a_returned_primary_stays_off_whatever_is_removed_on_either_host() {
    let mut rig = managed();
    rig.may_complain(
        &[complaints::OF_A_REMOVED_RELATIONSHIP],
        &[complaints::OF_AN_ENTRY, complaints::OF_A_REMOVED_RELATIONSHIP],
    );
    let guest = rig.boot("web", 20);
    rig.replicate("web", "2s");
    rig.wait_point_beyond("web", 1);
    rig.a.lose_power().unwrap();
    copies(&rig, &guest, [0, 0], "the loss of a");
    rig.b.run(&["failover", "web", "--start", "--yes"]).unwrap();
    let there = rig.b.replica_serial("web").unwrap();
    let (_, last) = there.wait_verified(0, PATIENCE).unwrap();
    there.wait_written_beyond(last, PATIENCE).unwrap();

    rig.a.start().unwrap();
    lives_on_b(&rig, &guest, &there, "the return of a");
    let told = wait_status(&rig.a, "web", |status| status["health"] == "critical");
    assert!(worries(&told).contains("failed over"), "{told}");

    // The entry that let `a` in is gone: that hides nothing.
    rig.b.run(&["auth", "remove", "host-a"]).unwrap();
    lives_on_b(&rig, &guest, &there, "the removal of a's entry");
    restart(&mut rig.a);
    lives_on_b(&rig, &guest, &there, "a's restart");
    let told = wait_status(&rig.a, "web", |status| status["health"] == "critical");
    assert!(worries(&told).contains("failed over"), "{told}");

    rig.b.run(&["failover", "web", "--commit"]).unwrap();
    wait_state(&rig.b, "web", 6);
    lives_on_b(&rig, &guest, &there, "the commit");
    restart(&mut rig.a);
    wait_state(&rig.a, "web", 8);
    fenced(&rig.a, &["resume", "web"], STATE, "failed over");
    assert_eq!(status(&rig.a, "web")["state_code"], 8, "it does not say that it replicates");
    lives_on_b(&rig, &guest, &there, "resume");

    let disabled = called(&rig.b, "cimxml", "web", &["DisableRecoveryServer"]);
    assert_eq!(disabled["code"], 0, "{disabled}");
    restart(&mut rig.a);
    lives_on_b(&rig, &guest, &there, "the recovery service was disabled");

    rig.b.run(&["unreplicate", "web"]).unwrap();
    lives_on_b(&rig, &guest, &there, "unreplicate on b");
    rig.a.run(&["unreplicate", "web"]).unwrap();
    lives_on_b(&rig, &guest, &there, "unreplicate on a");
    restart(&mut rig.a);
    restart(&mut rig.b);
    lives_on_b(&rig, &guest, &there, "a restart of both");
    // Nothing of `a` ran in all that time.
    let before = guest.serial.last_written();
    std::thread::sleep(A_FEW_RECORDS);
    assert_eq!(guest.serial.last_written(), before);
    assert!(there.faults().is_empty(), "{:?}", there.faults());
}
