//! A third host that replicates to `b` as well has a VM of the same identity.

use super::copies;
use crate::rig::{self, Rig, text, wait_state};
use standin_testbed::daemon::{Daemon, complaints};
use standin_testbed::guest::{Guest, GuestPlan};
use standin_testbed::hosts;

/// A host that has a VM of its own on `b`.
fn third(rig: &Rig) -> Daemon {
    let host = hosts::join(&rig.a, rig::plan(rig.dir.path(), "host-c")).unwrap();
    host.may_complain(complaints::OF_A_NAMESAKE);
    rig.b.run(&["auth", "add", "host-c"]).unwrap();
    let other = GuestPlan::idle("other").create(&rig.path("disks-c")).unwrap();
    host.run(&["vm", "define", text(&other.definition)]).unwrap();
    host.run(&["vm", "start", "other"]).unwrap();
    host.run(&["replicate", "other", "--to", &rig.to(), "--interval", "2s", "--no-wait"]).unwrap();
    wait_state(&rig.b, "other", 3);
    host
}

/// The same VM, with other disks: they carry no marks.
fn twin(rig: &Rig, guest: &Guest, host: &Daemon) {
    let plan = GuestPlan { uuid: guest.plan.uuid, ..GuestPlan::idle("web") };
    let twin = plan.create(&rig.path("twin")).unwrap();
    host.run(&["vm", "define", text(&twin.definition)]).unwrap();
}

#[test]
fn a_third_host_does_not_start_a_vm_that_lives_on_a_host_it_speaks_to_or_behind_that_one() {
    let mut rig = Rig::new();
    rig.b.may_complain(complaints::OF_AN_ASSERTION);
    let guest = rig.define(GuestPlan::idle("web"));
    rig.a.run(&["vm", "start", "web"]).unwrap();
    rig.replicate("web", "1s");
    rig.wait_point_beyond("web", 1);
    let c = third(&rig);
    twin(&rig, &guest, &c);
    let refuses = |after: &str, expected: [usize; 2], rig: &Rig| {
        // By what another host says (32774), or by what this one has learned from it (32775).
        let output = c.cli(&["vm", "start", "web"]).unwrap();
        eprintln!("on host-c: {output:?}");
        assert!(output.status == 3 && output.stderr.contains("VM web "), "{output:?}");
        copies(rig, &guest, expected, after);
        assert_eq!(super::processes(&c, &guest), 0, "{after}");
    };
    refuses("a runs it and b has its replica", [1, 0], &rig);
    rig.a.lose_power().unwrap();
    rig.b.run(&["failover", "web", "--start", "--yes"]).unwrap();
    refuses("b runs it", [0, 1], &rig);
    rig.b.run(&["failover", "web", "--commit"]).unwrap();
    rig.b.run(&["unreplicate", "web"]).unwrap();
    refuses("b keeps it for good", [0, 1], &rig);
}
