//! The replica runs the VM and does not answer its old primary: cut off, stopped, or its daemon is down. Needs root:
//! the hosts are network namespaces.

use super::{A_FEW_RECORDS, STATE, UNAVAILABLE, copies, fenced, worries};
use crate::rig::{PATIENCE, Rig, status, wait_status};
use rustix::process::Signal;
use standin_testbed::daemon::Daemon;
use standin_testbed::daemon::complaints::{self, OF_AN_ASSERTION, OF_THE_OLD_HOST, OF_TWO_COPIES};
use standin_testbed::guest::{Guest, GuestPlan, SerialLog};
use standin_testbed::netns::{Network, available};
use standin_testbed::process;
use std::net::SocketAddr;

/// Two hosts on a network of their own. It is to be dropped after them.
fn apart(policy: &str) -> (Network, Rig) {
    let network = Network::new(2).unwrap();
    let rig = Rig::with(|a, b| {
        for (index, plan) in [(0, &mut *a), (1, &mut *b)] {
            let host = network.host(index).unwrap();
            plan.listen = SocketAddr::new(host.address, 28444);
            plan.namespace = Some(host.namespace.clone());
        }
        a.extra_config.push_str(policy);
    });
    (network, rig)
}

/// The primary is lost and the VM runs on `b`.
fn failed_over(rig: &mut Rig) {
    rig.replicate("web", "2s");
    rig.wait_point_beyond("web", 1);
    rig.a.lose_power().unwrap();
    rig.b.run(&["failover", "web", "--start", "--yes"]).unwrap();
}

fn stop(daemon: &Daemon, stopped: bool) {
    let signal = if stopped { Signal::STOP } else { Signal::CONT };
    process::signal(daemon.pid().unwrap(), signal).unwrap();
}

/// `b` is silent in each way in turn, and `a` starts nothing; at the end the daemon of `b` is down.
fn silent_in_every_way(rig: &mut Rig, network: &Network, guest: &Guest) {
    network.cut(1).unwrap();
    rig.a.start().unwrap();
    let ask = |rig: &Rig, how: &str| {
        fenced(&rig.a, &["vm", "start", "web"], UNAVAILABLE, "host-b does not answer");
        fenced(&rig.a, &["vm", "start", "web", "--yes"], UNAVAILABLE, "--force");
        copies(rig, guest, [0, 1], how);
    };
    ask(rig, "b was cut off");
    stop(&rig.b, true);
    network.join(1).unwrap();
    ask(rig, "b's daemon was stopped");
    network.cut(1).unwrap();
    rig.b.kill().unwrap();
    network.join(1).unwrap();
    ask(rig, "b's daemon went down");
}

fn both_write(one: &SerialLog, other: &SerialLog) {
    for serial in [one, other] {
        let written = serial.last_written().unwrap();
        serial.wait_written_beyond(written, PATIENCE).unwrap();
    }
}

#[test]
fn a_silent_replica_is_no_leave_to_start_and_who_forces_it_decides_when_the_hosts_meet() {
    if !available() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let (network, mut rig) = apart("");
    rig.may_complain(
        &[OF_AN_ASSERTION, OF_TWO_COPIES, complaints::OF_A_SILENT_HOST, complaints::OF_A_STOPPED_VM],
        &[OF_AN_ASSERTION, OF_TWO_COPIES],
    );
    let guest = rig.boot("web", 20);
    failed_over(&mut rig);
    let there = rig.b.replica_serial("web").unwrap();
    let (_, last) = there.wait_verified(0, PATIENCE).unwrap();
    there.wait_written_beyond(last, PATIENCE).unwrap();
    silent_in_every_way(&mut rig, &network, &guest);

    rig.a.run(&["vm", "start", "web", "--force"]).unwrap();
    let said = worries(&status(&rig.a, "web"));
    assert!(said.contains("confirm"), "an assertion is shown: {said}");
    guest.serial.wait_verified(0, PATIENCE).unwrap();
    copies(&rig, &guest, [1, 1], "the assertion that b is gone");
    both_write(&guest.serial, &there);

    rig.b.start().unwrap();
    for host in [&rig.a, &rig.b] {
        let met = wait_status(host, "web", |status| worries(status).contains("--keep"));
        assert_eq!(met["health"], "critical", "{met}");
    }
    let epoch = rig.newest_epoch("web");
    both_write(&guest.serial, &there);
    assert_eq!(rig.newest_epoch("web"), epoch, "neither sends");
    rig.a.run(&["failover", "web", "--keep", "there"]).unwrap();
    wait_status(&rig.a, "web", |status| status["power"] != "running");
    let ended = guest.serial.last_written();
    let written = there.last_written().unwrap();
    there.wait_written_beyond(written, PATIENCE).unwrap();
    std::thread::sleep(A_FEW_RECORDS);
    assert_eq!(guest.serial.last_written(), ended, "the copy that was given up writes no more");
    if status(&rig.a, "web")["power"] == "paused" {
        rig.a.run(&["vm", "stop", "web", "--force"]).unwrap();
    }
    fenced(&rig.a, &["vm", "start", "web"], STATE, "VM web has failed over to host-b");
    copies(&rig, &guest, [0, 1], "one was kept");
}

#[test]
fn a_start_that_may_wait_for_a_silent_replica_says_so_and_ends_when_the_hosts_meet() {
    if !available() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let (network, mut rig) = apart("[fence]\nwhen_peer_is_silent = \"start-after 3s\"\n");
    rig.may_complain(
        &[OF_THE_OLD_HOST, OF_AN_ASSERTION, OF_TWO_COPIES, complaints::OF_A_COMPARISON],
        &[OF_AN_ASSERTION, OF_TWO_COPIES],
    );
    let guest = rig.define(GuestPlan::idle("web"));
    rig.a.run(&["vm", "start", "web"]).unwrap();
    failed_over(&mut rig);
    // One that answers is believed at once: nothing waits, and nothing starts.
    rig.a.start().unwrap();
    fenced(&rig.a, &["vm", "start", "web"], STATE, "VM web has failed over to host-b");
    copies(&rig, &guest, [0, 1], "b answered");
    rig.b.run(&["failover", "web", "--revert"]).unwrap();
    rig.a.run(&["vm", "start", "web"]).unwrap();
    copies(&rig, &guest, [1, 0], "the revert");
    rig.wait_point_beyond("web", rig.newest_epoch("web"));

    rig.a.lose_power().unwrap();
    rig.b.run(&["failover", "web", "--start", "--yes"]).unwrap();
    network.cut(1).unwrap();
    rig.a.start().unwrap();
    let said = rig.a.run(&["vm", "start", "web"]).unwrap();
    assert!(said.contains("web waits"), "{said}");
    copies(&rig, &guest, [0, 1], "a start that waits");
    wait_status(&rig.a, "web", |status| status["power"] == "running");
    copies(&rig, &guest, [1, 1], "a waited in vain");
    let said = worries(&status(&rig.a, "web"));
    assert!(said.contains("without a confirmation"), "{said}");
    network.join(1).unwrap();
    for (host, says) in [(&rig.a, "it was paused here"), (&rig.b, "has the higher claim")] {
        let met = wait_status(host, "web", |status| worries(status).contains(says));
        assert_eq!(met["health"], "critical", "{met}");
    }
    assert_eq!(status(&rig.a, "web")["power"], "paused");
    assert_eq!(status(&rig.b, "web")["power"], "running");
}
