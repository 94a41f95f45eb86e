//! A third host that replicates to `b` as well comes upon a VM of the same identity: by a definition, or by a QEMU that
//! somebody started there.

use super::{IN_USE, STATE, called, copies, fenced, in_vain, processes, worries};
use crate::adoption::Foreign;
use crate::management::{add_admin, listens};
use crate::rig::{self, Rig, status, text, wait_state, wait_status};
use serde_json::json;
use standin_testbed::daemon::{Daemon, complaints};
use standin_testbed::guest::{Guest, GuestPlan};
use standin_testbed::hosts;

/// A host that has a VM of its own on `b`. Its management API listens.
fn third(rig: &Rig) -> Daemon {
    let mut plan = rig::plan(rig.dir.path(), "host-c");
    listens(&mut plan, "");
    let host = hosts::join(&rig.a, plan).unwrap();
    host.may_complain(complaints::OF_A_NAMESAKE);
    add_admin(&host);
    rig.b.run(&["auth", "add", "host-c"]).unwrap();
    let other = GuestPlan::idle("other").create(&rig.path("disks-c")).unwrap();
    host.run(&["vm", "define", text(&other.definition)]).unwrap();
    host.run(&["vm", "start", "other"]).unwrap();
    host.run(&["replicate", "other", "--to", &rig.to(), "--interval", "2s", "--no-wait"]).unwrap();
    wait_state(&rig.b, "other", 3);
    host
}

/// The same VM, with other disks: they carry no marks.
fn twin(rig: &Rig, guest: &Guest) -> Guest {
    let plan = GuestPlan { uuid: guest.plan.uuid, ..GuestPlan::idle("web") };
    plan.create(&rig.path("twin")).unwrap()
}

/// A VM that runs on `a` and replicates to `b`.
fn replicating() -> (Rig, Guest) {
    let rig = Rig::new();
    rig.b.may_complain(complaints::OF_AN_ASSERTION);
    let guest = rig.define(GuestPlan::idle("web"));
    rig.a.run(&["vm", "start", "web"]).unwrap();
    rig.replicate("web", "1s");
    rig.wait_point_beyond("web", 1);
    (rig, guest)
}

/// Asks at each place where the VM can be by then; the numbers are the QEMU processes on `a` and `b`.
fn wherever_it_lives(rig: &mut Rig, guest: &Guest, c: &Daemon, ask: impl Fn(&str)) {
    let looks = |rig: &Rig, expected: [usize; 2], after: &str| {
        ask(after);
        copies(rig, guest, expected, after);
    };
    looks(rig, [1, 0], "a runs it and b has its replica");
    rig.a.lose_power().unwrap();
    rig.b.run(&["failover", "web", "--start", "--yes"]).unwrap();
    looks(rig, [0, 1], "b runs it");
    rig.b.run(&["failover", "web", "--commit"]).unwrap();
    rig.b.run(&["unreplicate", "web"]).unwrap();
    looks(rig, [0, 1], "b keeps it for good");
    assert_eq!(status(c, "other")["state_code"], 3, "the VM of its own is none the worse");
}

/// The VM is defined on a third host in one of the ways that there are, and does not start there in any.
fn does_not_start(define: impl Fn(&Daemon, &Guest)) {
    let (mut rig, guest) = replicating();
    let c = third(&rig);
    define(&c, &twin(&rig, &guest));
    assert_eq!(status(&c, "web")["id"], json!(guest.plan.uuid), "the same VM");
    wherever_it_lives(&mut rig, &guest, &c, |after| {
        // By what another host says (32774), or by what this one has learned from it (32775).
        for consent in [&["vm", "start", "web"][..], &["vm", "start", "web", "--yes"]] {
            let output = c.cli(consent).unwrap();
            eprintln!("on host-c: {output:?}");
            assert!(output.status == 3 && output.stderr.contains("VM web "), "{output:?}");
        }
        for way in ["cimxml", "wsman"] {
            let started = called(&c, way, "web", &["RequestStateChange", "2"]);
            assert!(in_vain(&started, IN_USE) || in_vain(&started, STATE), "{started}");
        }
        assert_eq!(processes(&c, &guest), 0, "{after}");
    });
}

/// Defines it by the management API.
fn by(way: &str) -> impl Fn(&Daemon, &Guest) + use<'_> {
    move |host, twin| {
        let id = twin.plan.uuid.to_string();
        let images = twin.disks.iter().map(|disk| text(disk));
        let call: Vec<&str> = ["DefineSystem", &id].into_iter().chain(images).collect();
        let defined = called(host, way, "web", &call);
        assert_eq!(defined["code"], 0, "{defined}");
    }
}

#[test]
fn a_third_host_does_not_start_a_vm_that_lives_on_a_host_it_speaks_to_or_behind_that_one() {
    does_not_start(|host, twin| drop(host.run(&["vm", "define", text(&twin.definition)]).unwrap()));
}

#[test]
fn a_third_host_does_not_start_such_a_vm_that_was_defined_by_a_client_of_cim_xml() {
    does_not_start(by("cimxml"));
}

#[test]
fn a_third_host_does_not_start_such_a_vm_that_was_defined_by_a_client_of_ws_management() {
    does_not_start(by("wsman"));
}

#[test]
fn a_qemu_of_such_a_vm_on_a_third_host_is_not_adopted_and_one_that_is_forced_is_said_on_both_hosts() {
    let (mut rig, guest) = replicating();
    let c = third(&rig);
    let qmp = rig.path("web.qmp");
    let foreign = Foreign::start(&twin(&rig, &guest), &qmp);
    let adopt = ["vm", "adopt", "--qmp", text(&qmp), "--name", "web"];
    wherever_it_lives(&mut rig, &guest, &c, |_| {
        let output = c.cli(&adopt).unwrap();
        eprintln!("on host-c: {output:?}");
        assert!(output.status == 3 && output.stderr.contains("VM web "), "{output:?}");
        assert!(output.stderr.contains("It runs on: stop it by the program that started it"), "{output:?}");
        let known = c.json(&["vm", "list"]).unwrap();
        assert!(
            known.as_array().unwrap().iter().all(|vm| vm["vm"] != "web"),
            "it is forgotten again: {known}"
        );
    });
    fenced(&c, &adopt, STATE, "host-b");

    // Who insists is heard, and so is everybody else.
    rig.b.may_complain(complaints::OF_TWO_COPIES);
    c.may_complain(complaints::OF_TWO_COPIES);
    c.may_complain(complaints::OF_AN_ASSERTION);
    c.run(&[&adopt[..], &["--force"]].concat()).unwrap();
    for (host, says) in [(&c, "this host has the higher claim"), (&rig.b, "it was paused here")] {
        let told = wait_status(host, "web", |status| worries(status).contains(says));
        assert_eq!(told["health"], "critical", "{told}");
    }
    assert_eq!(status(&rig.b, "web")["power"], "paused");
    foreign.kill();
}
