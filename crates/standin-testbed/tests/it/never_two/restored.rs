//! What a host knew is lost, or an older backup of its data directory is put back, while the VM runs on the other one or on
//! this very host.

use super::{IN_USE, STATE, copies, fenced, worries};
use crate::adoption::Foreign;
use crate::rig::{Rig, status, text, wait_state, wait_status};
use serde_json::json;
use standin_testbed::daemon::Daemon;
use standin_testbed::daemon::complaints::{self, OF_AN_ASSERTION, OF_THE_OLD_HOST};
use standin_testbed::guest::{Guest, GuestPlan};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A VM that runs on `a` and replicates.
fn running(rig: &Rig) -> Guest {
    let guest = rig.define(GuestPlan::idle("web"));
    rig.a.run(&["vm", "start", "web"]).unwrap();
    guest
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success(), "cp -a {} {}", from.display(), to.display());
}

/// A backup of a host's data directory, taken while its daemon is down.
fn backup(rig: &mut Rig, of: fn(&mut Rig) -> &mut Daemon, name: &str) -> PathBuf {
    let to = rig.path(name);
    let daemon = of(rig);
    daemon.stop().unwrap();
    copy(&daemon.dir().join("data"), &to);
    daemon.start().unwrap();
    to
}

/// Puts a backup back in place of the data directory of a host whose daemon is down.
fn restore(daemon: &Daemon, backup: &Path) {
    let data = daemon.dir().join("data");
    fs::remove_dir_all(&data).unwrap();
    copy(backup, &data);
}

#[test]
fn a_primary_that_comes_back_from_an_older_backup_starts_nothing_that_runs_on_the_replica() {
    let mut rig = Rig::new();
    rig.may_complain(
        &[
            OF_THE_OLD_HOST,
            complaints::OF_TWO_COPIES,
            complaints::OF_A_STOPPED_VM,
            complaints::OF_A_REMOVED_RELATIONSHIP,
        ],
        &[OF_AN_ASSERTION, complaints::OF_TWO_COPIES],
    );
    let guest = running(&rig);
    let before_all = backup(&mut rig, |rig| &mut rig.a, "a-before-all");
    rig.replicate("web", "1s");
    rig.wait_point_beyond("web", 1);
    let before = backup(&mut rig, |rig| &mut rig.a, "a-before");
    rig.wait_point_beyond("web", rig.newest_epoch("web"));
    // In order: the images keep the marks of the replication.
    rig.a.run(&["vm", "stop", "web", "--force"]).unwrap();
    rig.a.lose_power().unwrap();
    rig.b.run(&["failover", "web", "--start", "--yes"]).unwrap();

    restore(&rig.a, &before);
    rig.a.start().unwrap();
    fenced(&rig.a, &["vm", "start", "web"], STATE, "VM web has failed over to host-b");
    copies(&rig, &guest, [0, 1], "an older backup of a was put back");
    // A QEMU that somebody starts past the daemon is not made known.
    rig.a.run(&["unreplicate", "web"]).unwrap();
    rig.a.run(&["vm", "remove", "web"]).unwrap();
    let twin =
        GuestPlan { uuid: guest.plan.uuid, ..GuestPlan::idle("web") }.create(&rig.path("twin")).unwrap();
    let qmp = rig.path("web.qmp");
    let foreign = Foreign::start(&twin, &qmp);
    fenced(&rig.a, &["vm", "adopt", "--qmp", text(&qmp)], STATE, "stop it by the program that started it");
    assert_eq!(rig.a.json(&["vm", "list"]).unwrap(), json!([]), "it is forgotten again");
    foreign.kill();

    rig.a.stop().unwrap();
    restore(&rig.a, &before_all);
    rig.a.start().unwrap();
    assert_eq!(status(&rig.a, "web")["mode"], "none", "nothing is known of a replication");
    // `b` does not know where to call it: its images say that they were replicated.
    fenced(&rig.a, &["vm", "start", "web"], IN_USE, "carry marks of a replication");
    copies(&rig, &guest, [0, 1], "a backup of a from before the relationship was put back");
}

#[test]
fn a_replica_that_lost_its_database_still_says_that_the_vm_runs_there() {
    let mut rig = Rig::new();
    rig.may_complain(
        &[OF_THE_OLD_HOST],
        &[OF_AN_ASSERTION, complaints::OF_AN_ENTRY, complaints::OF_A_LOST_DATABASE],
    );
    let guest = running(&rig);
    rig.replicate("web", "1s");
    rig.wait_point_beyond("web", 1);
    rig.a.lose_power().unwrap();
    rig.b.run(&["failover", "web", "--start", "--yes"]).unwrap();
    rig.b.kill().unwrap();
    fs::remove_file(rig.b.dir().join("data/state.redb")).unwrap();
    rig.b.start().unwrap();
    let found = wait_state(&rig.b, "web", 5);
    assert_eq!(found["power"], "running", "{found}");
    rig.a.start().unwrap();
    fenced(&rig.a, &["vm", "start", "web"], STATE, "VM web has failed over to host-b");
    copies(&rig, &guest, [0, 1], "b lost its database");
    rig.b.run(&["failover", "web", "--commit"]).unwrap();
    fenced(&rig.a, &["vm", "start", "web"], STATE, "VM web has failed over to host-b");
    copies(&rig, &guest, [0, 1], "the commit");
}

#[test]
fn a_replica_whose_backup_is_from_before_the_failover_still_says_that_the_vm_runs_there() {
    let mut rig = Rig::new();
    rig.may_complain(
        &[complaints::OF_A_COMPARISON, complaints::OF_OLDER_DISKS],
        &[
            OF_AN_ASSERTION,
            complaints::OF_AN_UNKNOWN_VM,
            complaints::OF_OLDER_DISKS,
            complaints::OF_A_STOPPED_VM,
        ],
    );
    let guest = running(&rig);
    rig.replicate("web", "1s");
    rig.wait_point_beyond("web", 1);
    let before = backup(&mut rig, |rig| &mut rig.b, "b-before");
    rig.wait_point_beyond("web", rig.newest_epoch("web"));
    rig.a.lose_power().unwrap();
    rig.b.run(&["failover", "web", "--start", "--yes"]).unwrap();
    rig.b.kill().unwrap();
    restore(&rig.b, &before);
    rig.b.start().unwrap();
    copies(&rig, &guest, [0, 1], "an older backup of b was put back");

    // Nobody but the process itself knows that it failed over: `a` was down all the time.
    let told = wait_status(&rig.b, "web", |status| status["health"] == "critical");
    assert!(worries(&told).contains("VM web runs here"), "{told}");
    assert_eq!(told["power"], "running", "{told}");
    rig.a.start().unwrap();
    fenced(&rig.a, &["vm", "start", "web"], IN_USE, "VM web runs on host-b");
    copies(&rig, &guest, [0, 1], "the start was refused");
    // Nor does a second copy begin on the same host.
    let again = rig.b.cli(&["failover", "web", "--start", "--yes"]).unwrap();
    assert_ne!(again.status, 0, "{again:?}");
    copies(&rig, &guest, [0, 1], "another failover");
    // What is advised works, and everything goes on.
    rig.b.run(&["vm", "stop", "web", "--force"]).unwrap();
    rig.b.run(&["vm", "remove", "web"]).unwrap();
    rig.a.run(&["vm", "start", "web"]).unwrap();
    copies(&rig, &guest, [1, 0], "the end of the process that nobody knew");
    rig.wait_point_beyond("web", rig.newest_epoch("web"));
}
