//! The log as somebody reads it who looks for one VM: every line says which one it is about.

use crate::rig::{Rig, wait_state};
use standin_testbed::daemon::complaints;

/// Rooms of the engine in which there is nothing that is not about a VM.
const ABOUT_A_VM: &[&str] = &[
    "standin_engine::primary",
    "standin_engine::replica::session",
    "standin_engine::vm::task",
    "standin_engine::vm::learn",
];

/// The lines of those rooms.
fn lines(log: &str) -> Vec<&str> {
    let about = |line: &str| ABOUT_A_VM.iter().any(|room| line.contains(&format!(" {room}")));
    log.lines().filter(|line| about(line)).collect()
}

fn one_has(log: &str, words: &[&str]) -> bool {
    log.lines().any(|line| words.iter().all(|word| line.contains(word)))
}

#[test]
fn every_line_names_the_vm_the_relationship_the_flow_and_the_point() {
    let mut rig = Rig::with(|a, b| {
        for plan in [a, b] {
            plan.extra_config.push_str("[log]\nlevel = \"info,standin_engine=debug\"\n");
        }
    });
    rig.b.may_complain(complaints::OF_AN_ASSERTION);
    let guest = rig.boot("web", 20);
    rig.replicate("web", "1s");
    // The primary has written its line of the point before.
    let epoch = rig.wait_point_beyond("web", 2) - 1;
    rig.a.lose_power().unwrap();
    rig.b.run(&["failover", "web", "--start", "--yes"]).unwrap();
    wait_state(&rig.b, "web", 5);
    rig.b.run(&["failover", "web", "--revert"]).unwrap();
    wait_state(&rig.b, "web", 3);
    let relationship = format!("relationship={}/0", guest.plan.uuid);
    for (host, role) in [(&rig.a, "sender{"), (&rig.b, "receiver{")] {
        let log = host.log();
        let about = lines(&log);
        assert!(!about.is_empty(), "{log}");
        for line in about {
            let session = line.contains("session{peer=");
            assert!(session || line.contains("vm=web"), "on {}, of which VM is this?\n{line}", host.name());
        }
        let point = format!("point{{point={epoch}}}");
        assert!(one_has(&log, &[role, "vm=web", &relationship, &point]), "no line of point {epoch}:\n{log}");
    }
    for flow in ["flow{flow=failover job=", "flow{flow=revert job="] {
        assert!(
            one_has(&rig.b.log(), &[flow, "a job has ended", "state=Completed"]),
            "{flow}:\n{}",
            rig.b.log()
        );
    }
}
