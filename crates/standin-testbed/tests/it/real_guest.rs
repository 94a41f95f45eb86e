//! The small guest for real, under emulation, on a QEMU of this test's own.

use standin_testbed::guest::{Guest, GuestPlan};
use standin_testbed::{faults, oracle, process};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const BOOT: Duration = Duration::from_secs(90);

struct Qemu(Child);

impl Qemu {
    fn start(guest: &Guest) -> Self {
        let text = std::fs::read_to_string(&guest.definition).unwrap();
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).unwrap();
            line.trim_matches('"').to_owned()
        };
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-display", "none", "-machine", "q35", "-accel", "tcg", "-m", "128"]);
        command.args([
            "-kernel",
            &value("kernel"),
            "-initrd",
            &value("initrd"),
            "-append",
            &value("cmdline"),
        ]);
        command.arg("-serial").arg(format!("file:{}", guest.serial.path().display()));
        for (disk, path) in guest.plan.disks.iter().zip(&guest.disks) {
            let drive = format!("if=virtio,file={},format={}", path.display(), disk.format);
            command.args(["-drive", &drive]);
        }
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    fn kill(mut self) {
        process::kill(i32::try_from(self.0.id()).unwrap()).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Already gone after `kill`.
        let _ = self.0.kill().and_then(|()| self.0.wait().map(drop));
    }
}

#[test]
fn a_killed_guest_leaves_consistent_disks_verifies_them_goes_on_and_refuses_damaged_ones() {
    let dir = tempfile::tempdir().unwrap();
    let guest = GuestPlan::records("writer", 200).create(dir.path()).unwrap();

    let qemu = Qemu::start(&guest);
    assert_eq!(guest.serial.wait_verified(0, BOOT).unwrap(), (0, 0));
    let reported = guest.serial.wait_written_beyond(100, BOOT).unwrap();
    qemu.kill();
    let verdict = oracle::judge_files(&guest.disks[0], &guest.disks[1]).unwrap();
    assert!(verdict.consistent && verdict.last_sequence >= reported, "{verdict:?}");

    std::fs::remove_file(guest.serial.path()).unwrap();
    let qemu = Qemu::start(&guest);
    let (records, last) = guest.serial.wait_verified(0, BOOT).unwrap();
    assert_eq!((records, last), (verdict.records, verdict.last_sequence));
    guest.serial.wait_written_beyond(last + 50, BOOT).unwrap();
    qemu.kill();
    let again = oracle::judge_files(&guest.disks[0], &guest.disks[1]).unwrap();
    assert!(again.consistent && again.runs == 2 && again.last_sequence > last, "{again:?}");

    // Any byte of the first record of the raw disk: record 2, in its second block.
    let raw = &guest.disks[1];
    let mut bytes = std::fs::read(raw).unwrap();
    bytes[4096 + 1234] ^= 4;
    std::fs::write(raw, bytes).unwrap();
    std::fs::remove_file(guest.serial.path()).unwrap();
    let _qemu = Qemu::start(&guest);
    let error = guest.serial.wait_verified(0, BOOT).unwrap_err().to_string();
    assert!(error.contains("record 2 is torn"), "{error}");
    assert!(!guest.serial.faults().is_empty());
}

#[test]
fn a_flipped_bit_of_a_stored_image_is_seen_by_the_oracle() {
    let dir = tempfile::tempdir().unwrap();
    let pair = crate::judged::Pair::with_records(24);
    let (a, b) = (dir.path().join("a.raw"), dir.path().join("b.raw"));
    for choice in [4096, 9000, 5 * 4096 + 4095] {
        std::fs::write(&a, &pair.a.0).unwrap();
        std::fs::write(&b, &pair.b.0).unwrap();
        faults::flip_stored_bit(&a, choice).unwrap();
        assert!(!oracle::judge_files(&a, &b).unwrap().consistent);
    }
}
