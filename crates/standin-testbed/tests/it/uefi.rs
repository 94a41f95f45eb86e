//! A VM with UEFI firmware: the firmware and the VM's own variables travel with its points.

use crate::rig::{PATIENCE, Rig, text};
use standin_testbed::daemon::complaints;
use standin_testbed::guest::{Guest, GuestPlan};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What the package `ovmf` has, in Debian 12 and 13.
const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

fn files_called(name: &str, below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_called(name, &path));
        } else if path.file_name().is_some_and(|last| last == name) {
            found.push(path);
        }
    }
    found
}

/// Starts a guest with UEFI firmware, a kernel and two disks on the first host, and waits until it writes; with it,
/// the file of its variables.
pub fn boot(rig: &Rig, name: &str, rate: u32) -> (Guest, PathBuf) {
    assert!(Path::new(CODE).is_file(), "{CODE} is missing: run scripts/setup");
    let plan = GuestPlan { memory_mib: 256, ..GuestPlan::records(name, rate) };
    let guest = plan.create(&rig.path("disks")).unwrap();
    let vars = rig.path("disks").join("vars.fd");
    std::fs::copy(VARS, &vars).unwrap();
    let mut definition = std::fs::read_to_string(&guest.definition).unwrap();
    write!(definition, "\n[firmware]\ncode = {CODE:?}\nvars = {:?}\n", text(&vars)).unwrap();
    std::fs::write(&guest.definition, definition).unwrap();
    rig.a.run(&["vm", "define", text(&guest.definition)]).unwrap();
    rig.a.run(&["vm", "start", name]).unwrap();
    guest.serial.wait_written_beyond(1, PATIENCE).unwrap();
    (guest, vars)
}

#[test]
fn firmware_and_its_variables_travel_and_the_replica_boots_with_them() {
    let rig = Rig::new();
    rig.a.may_complain(complaints::OF_LOST_TRACKING);
    rig.a.may_complain(complaints::OF_THE_OLD_HOST);
    let (_, vars) = boot(&rig, "uefi", 20);
    // The firmware has written to its variables: they are this VM's, not the package's.
    let ours = std::fs::read(&vars).unwrap();
    assert!(ours != std::fs::read(VARS).unwrap(), "this test could not tell which file travelled");

    rig.replicate("uefi", "2s");
    rig.wait_point_beyond("uefi", 1);
    rig.a.kill_vms().unwrap();
    rig.b.run(&["failover", "uefi"]).unwrap();
    let travelled = files_called("nvram.fd", rig.dir.path());
    let [nvram] = &travelled[..] else { panic!("one copy of the variables, not {travelled:?}") };
    assert!(std::fs::read(nvram).unwrap() == ours, "the variables are not those of the point");
    rig.b.run(&["vm", "start", "uefi"]).unwrap();
    let serial = rig.b.replica_serial("uefi").unwrap();
    let (records, last) = serial.wait_verified(0, PATIENCE).unwrap();
    assert!(records > 0 && records == last, "{records} records up to {last}");
}
