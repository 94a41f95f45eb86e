//! The scratch space runs out under a guest that really writes: a boot sector that writes 32 KiB blocks one after
//! the other for ever, a dot on the serial port after each, and an `E` if one failed.

use crate::qemu_harness::*;
use standin_hypervisor::{DiskFormat, Hypervisor, PowerState, StartOptions, VmDefinition};
use standin_model::VmId;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// 16-bit code at 0x7c00. LBA 2048 to 98304 in steps of 64 sectors, then again.
const WRITER: [u8; 88] = [
    0xfa, // cli
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, // ds = ss = 0
    0xbc, 0x00, 0x7c, // sp = 0x7c00
    0xfb, // sti
    0xbe, 0x48, 0x7c, // again: si = packet
    0xb2, 0x80, // dl = first disk
    0xb8, 0x00, 0x43, // ax = extended write
    0xcd, 0x13, // int 0x13
    0x72, 0x21, // jc failed
    0xb0, 0x2e, // al = '.'
    0xe8, 0x24, 0x00, // call put
    0x66, 0x83, 0x06, 0x50, 0x7c, 0x40, // packet.lba += 64
    0x66, 0x81, 0x3e, 0x50, 0x7c, 0x00, 0x80, 0x01, 0x00, // packet.lba < 98304?
    0x72, 0xde, // jb again
    0x66, 0xc7, 0x06, 0x50, 0x7c, 0x00, 0x08, 0x00, 0x00, // packet.lba = 2048
    0xeb, 0xd3, // jmp again
    0xb0, 0x45, // failed: al = 'E'
    0xe8, 0x03, 0x00, // call put
    0xf4, 0xeb, 0xfd, // hlt for ever
    0xba, 0xf8, 0x03, 0xee, 0xc3, // put: out 0x3f8, al; ret
    0x8d, 0x74, 0x00, // (padding)
    0x10, 0x00, 0x40, 0x00, 0x00, 0x80, 0x00, 0x00, // packet: 64 sectors from 0:0x8000
    0x00, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // packet.lba
];

fn writer(host: &Host) -> VmDefinition {
    let mut vm = host.definition(&[("a", DiskFormat::Raw, 64 * MIB)]);
    let mut sector = [0_u8; 512];
    sector[..WRITER.len()].copy_from_slice(&WRITER);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let disk = std::fs::File::options().write(true).open(&vm.disks[0].file).expect("the disk");
    std::os::unix::fs::FileExt::write_all_at(&disk, &sector, 0).expect("the boot sector");
    vm.serial_log = Some(serial(host));
    vm
}

fn serial(host: &Host) -> PathBuf {
    host.path("serial.log")
}

fn written(host: &Host) -> usize {
    std::fs::read(serial(host)).map_or(0, |said| said.len())
}

async fn boot(host: &Host, vm: &VmDefinition) -> VmId {
    let id = host.driver().define(vm.clone()).await.expect("define");
    host.driver().start(id, StartOptions::default()).await.expect("start");
    eventually("the guest writes", async || written(host) > 10).await;
    id
}

/// The guest has written on and saw no error.
async fn unharmed(host: &Host, vm: VmId) {
    let before = written(host);
    eventually("the guest goes on", async || written(host) > before + 20).await;
    let said = std::fs::read(serial(host)).expect("the serial log");
    assert!(said.iter().all(|byte| *byte == b'.'), "the guest saw an error");
    assert_eq!(host.driver().inspect(vm).await.expect("inspect").power, PowerState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_view_fails_before_the_reserve_is_gone_and_the_guest_goes_on() {
    let host = Host::new().await;
    let vm = boot(&host, &writer(&host)).await;
    host.first_mark(vm, &["a"]).await;
    let stat = rustix::fs::statvfs(host.scratch()).expect("statvfs");
    let mut request = host.cut(&["a"], 0, 1);
    // 16 MiB of 64 that the guest overwrites: it does not fit, on whatever file system this is.
    request.scratch_reserve = stat.f_bavail * stat.f_frsize - 16 * MIB;
    let view = host.driver().cut(vm, request).await.expect("cut");
    let reader = view.disk(&name("a")).expect("the disk");
    let mut failure = view.failure();
    let failed = tokio::time::timeout(Duration::from_secs(20), failure.wait_for(Option::is_some));
    let reason = failed.await.expect("in time").expect("a watch").clone().expect("a reason");
    assert!(reason.contains("scratch"), "{reason}");
    assert!(reader.read(0, 4096).await.is_err());
    unharmed(&host, vm).await;
    view.close().await.expect("close");
    assert_eq!(std::fs::read_dir(host.scratch()).expect("list").count(), 0);
    let marks = host.driver().marks(vm, &tracker(), &names(&["a"])).await.expect("marks");
    assert!(marks.iter().all(|mark| mark.complete), "no change is lost: {marks:?}");
}

/// A file system that is too small for the old data; `None` where this user may not mount one.
struct Tiny(PathBuf);

impl Tiny {
    fn mount(path: &Path) -> Option<Self> {
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(path).output();
        mount.is_ok_and(|output| output.status.success()).then(|| Self(path.to_owned()))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        // QEMU may still hold a file there when a test fails.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_outruns_the_watch_sees_no_error_either() {
    let host = Host::new().await;
    let Some(_tiny) = Tiny::mount(&host.scratch()) else {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    };
    let vm = boot(&host, &writer(&host)).await;
    host.first_mark(vm, &["a"]).await;
    // Without a reserve the watch has nothing to see until it is too late.
    for round in 0..3 {
        let view = host.driver().cut(vm, host.cut(&["a"], 0, 1)).await.expect("cut");
        let mut failure = view.failure();
        let failed = tokio::time::timeout(Duration::from_secs(20), failure.wait_for(Option::is_some));
        let reason = failed.await.expect("in time").expect("a watch").clone().expect("a reason");
        assert!(reason.contains("no space"), "round {round}: {reason}");
        unharmed(&host, vm).await;
        view.close().await.expect("close");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_stood_still_while_no_daemon_ran_goes_on_at_the_clean() {
    let mut host = Host::new().await;
    let Some(_tiny) = Tiny::mount(&host.scratch()) else {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    };
    let vm = boot(&host, &writer(&host)).await;
    host.first_mark(vm, &["a"]).await;
    let view = host.driver().cut(vm, host.cut(&["a"], 0, 1)).await.expect("cut");
    drop(view);
    host.reopen().await;
    eventually("QEMU stops the guest", async || {
        host.driver().inspect(vm).await.expect("inspect").power == PowerState::Paused
    })
    .await;
    host.driver().clean(vm, &tracker(), &host.scratch()).await.expect("clean");
    unharmed(&host, vm).await;
}
