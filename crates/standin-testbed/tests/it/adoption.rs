//! A QEMU that somebody else started: adopted by its monitor, replicated, lost, come back, failed over.

use crate::restarts::judge;
use crate::rig::{PATIENCE, Rig, refused, text, wait_state};
use standin_testbed::daemon::complaints;
use standin_testbed::guest::{Guest, GuestPlan};
use standin_testbed::{oracle, process};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A QEMU of somebody else's, ended when dropped.
pub struct Foreign(Child);

impl Foreign {
    /// As a script of somebody's would start it.
    pub fn start(guest: &Guest, qmp: &Path) -> Self {
        let text = std::fs::read_to_string(&guest.definition).unwrap();
        let said = |key: &str| text.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
        let value = |key: &str| said(key).unwrap().trim_matches('"').to_owned();
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-display", "none", "-machine", "q35", "-accel", "tcg", "-m", "128"]);
        command.args(["-name", "foreign", "-uuid", &value("uuid")]);
        let boots = [("-kernel", "kernel"), ("-initrd", "initrd"), ("-append", "cmdline")];
        for (option, key) in boots.into_iter().filter(|_| !guest.plan.idle) {
            command.args([option, &value(key)]);
        }
        command.arg("-serial").arg(format!("file:{}", guest.serial.path().display()));
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", qmp.display()));
        for (disk, path) in guest.plan.disks.iter().zip(&guest.disks) {
            let drive = format!("if=virtio,id={},file={},format={}", disk.name, path.display(), disk.format);
            command.args(["-drive", &drive]);
        }
        let this = Self(command.stdin(Stdio::null()).spawn().unwrap());
        let until = Instant::now() + PATIENCE;
        while !qmp.exists() {
            assert!(Instant::now() < until, "QEMU has no monitor at {}", qmp.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        this
    }

    pub fn kill(mut self) {
        process::kill(i32::try_from(self.0.id()).unwrap()).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // Already gone after `kill`.
        let _ = self.0.kill().and_then(|()| self.0.wait().map(drop));
    }
}

#[test]
fn an_adopted_vm_replicates_survives_its_qemus_death_by_a_comparison_and_fails_over() {
    let rig = Rig::new();
    rig.a.may_complain(complaints::OF_LOST_TRACKING);
    rig.a.may_complain(complaints::OF_THE_OLD_HOST);
    let guest = GuestPlan::records("foreign", 50).create(&rig.path("disks")).unwrap();
    let qmp = rig.path("foreign.qmp");
    refused(&rig.a, &["vm", "adopt", "--qmp", text(&qmp)], 32768, &["foreign.qmp"]);
    let qemu = Foreign::start(&guest, &qmp);
    guest.serial.wait_written_beyond(10, PATIENCE).unwrap();
    rig.a.run(&["vm", "adopt", "--qmp", text(&qmp)]).unwrap();
    let shown = rig.a.json(&["vm", "show", "foreign"]).unwrap();
    assert_eq!((&shown["adopted"], &shown["power"]), (&true.into(), &"running".into()), "{shown}");
    assert_eq!(shown["disks"].as_array().unwrap().len(), 2, "{shown}");
    refused(&rig.a, &["vm", "adopt", "--qmp", text(&qmp)], 32774, &["foreign"]);
    refused(&rig.a, &["vm", "stop", "foreign"], 32775, &["foreign"]);
    rig.replicate("foreign", "2s");
    let epoch = rig.wait_point_beyond("foreign", 2);

    qemu.kill();
    rig.a.wait_json(&["vm", "show", "foreign"], PATIENCE, |vm| vm["power"] == "off").unwrap();
    refused(&rig.a, &["vm", "start", "foreign"], 32775, &["foreign"]);
    let qemu = Foreign::start(&guest, &qmp);
    let (_, last) = guest.serial.wait_verified(0, PATIENCE).unwrap();
    let epoch = rig.wait_point_beyond("foreign", epoch);
    wait_state(&rig.a, "foreign", 3);
    let jobs = rig.a.json(&["jobs"]).unwrap();
    let compared = jobs.as_array().unwrap().iter().filter(|job| job["type_code"] == 107).count();
    assert_eq!(compared, 1, "{jobs}");
    rig.wait_point_beyond("foreign", epoch + 1);

    qemu.kill();
    let source = oracle::judge_files(&guest.disks[0], &guest.disks[1]).unwrap();
    rig.b.run(&["failover", "foreign"]).unwrap();
    let verdict = judge(&rig.b, "foreign");
    assert!(verdict.consistent && verdict.last_sequence > last, "{verdict:?}");
    assert!(source.consistent && verdict.last_sequence <= source.last_sequence, "{source:?} {verdict:?}");
    rig.b.run(&["vm", "start", "foreign"]).unwrap();
    assert_eq!(rig.b.json(&["vm", "show", "foreign"]).unwrap()["power"], "running");
    assert!(guest.serial.faults().is_empty());
}
