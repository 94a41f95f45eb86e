//! A host with the driver on it, in a temporary directory, and VMs without an operating system. Writes are made
//! as the guest's device makes them, with QEMU's own `qemu-io` on a second monitor.

use standin_hypervisor::qemu::{KvmUse, QemuDriver, QemuOptions};
use standin_hypervisor::qmp::Qmp;
use standin_hypervisor::{
    Consistency, CutRequest, DiskDefinition, DiskFormat, Hypervisor, LiveRequest, Mark, StartOptions,
    Tracker, View, VmDefinition, VmEvent,
};
use standin_model::{DiskName, Epoch, VmId, VmName};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::broadcast;

pub const KIB: u64 = 1024;
pub const MIB: u64 = 1024 * KIB;

/// A host. Its QEMUs are killed when it goes.
pub struct Host {
    pub dir: TempDir,
    driver: Option<Arc<QemuDriver>>,
}

impl Host {
    pub async fn new() -> Self {
        let mut host = Self { dir: tempfile::tempdir().expect("a directory"), driver: None };
        std::fs::create_dir(host.scratch()).expect("a scratch directory");
        host.reopen().await;
        host
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn scratch(&self) -> PathBuf {
        self.path("scratch")
    }

    /// The daemon ends without a word.
    pub async fn close(&mut self) {
        self.driver = None;
        // Its tasks end when they next run.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    /// A runtime file of a VM as the release before named it.
    pub fn short_runtime_file(&self, vm: VmId, suffix: &str) -> PathBuf {
        let digits: String = vm.0.simple().to_string().chars().take(12).collect();
        self.path("run").join(format!("{digits}.{suffix}"))
    }

    /// Names the runtime files of a VM that runs as the release before would have.
    pub fn shorten_runtime_names(&self, vm: VmId) {
        for entry in std::fs::read_dir(self.path("run")).expect("list").map(|entry| entry.expect("an entry"))
        {
            let path = entry.path();
            let is_of_vm =
                path.file_stem().and_then(|stem| stem.to_str()) == Some(&vm.0.simple().to_string());
            if let Some(suffix) = path.extension().and_then(|suffix| suffix.to_str()).filter(|_| is_of_vm) {
                match suffix {
                    // It kept no such file.
                    "toml" => std::fs::remove_file(&path).expect("remove"),
                    _ => std::fs::rename(&path, self.short_runtime_file(vm, suffix)).expect("rename"),
                }
            }
        }
    }

    /// The daemon ends without a word, and another one begins.
    pub async fn reopen(&mut self) {
        self.close().await;
        let mut options = QemuOptions::new(self.path("state"), self.path("run"));
        options.kvm = KvmUse::Never;
        self.driver = Some(QemuDriver::open(options).await.expect("open the driver"));
    }

    pub fn driver(&self) -> &Arc<QemuDriver> {
        self.driver.as_ref().expect("an open driver")
    }

    /// A VM with a second monitor and these disks: names, formats, sizes.
    pub fn definition(&self, disks: &[(&str, DiskFormat, u64)]) -> VmDefinition {
        let mut vm = VmDefinition::new(VmName::new("guest").expect("a name"), 32);
        for (disk, format, size) in disks {
            let file = self.path(&format!("{disk}.img"));
            create_image(&file, format.as_str(), *size);
            vm.disks.push(DiskDefinition::new(name(disk), file, *format));
        }
        let monitor = format!("socket,id=test,path={},server=on,wait=off", self.path("test.qmp").display());
        vm.extra_args = ["-chardev", &monitor, "-mon", "chardev=test,mode=control"].map(Into::into).into();
        vm
    }

    /// Defines and starts it, with its CPUs standing still.
    pub async fn start(&self, vm: &VmDefinition) -> VmId {
        let id = self.driver().define(vm.clone()).await.expect("define");
        self.start_again(id).await;
        id
    }

    pub async fn start_again(&self, vm: VmId) {
        self.driver().start(vm, StartOptions { paused: true }).await.expect("start");
    }

    /// The test's own monitor.
    pub async fn monitor(&self) -> Qmp {
        Qmp::connect(&self.path("test.qmp"), Duration::from_secs(5)).await.expect("the second monitor")
    }

    /// What a cut of all of `vm`'s disks since one epoch asks for.
    pub fn cut(&self, disks: &[&str], since: u64, mark: u64) -> CutRequest {
        CutRequest {
            disks: names(disks),
            tracker: tracker(),
            since: epoch(since),
            mark: epoch(mark),
            granularity: 4096,
            consistency: Consistency::Crash,
            scratch_dir: self.scratch(),
            scratch_reserve: 0,
        }
    }

    /// Starts the first mark.
    pub async fn first_mark(&self, vm: VmId, disks: &[&str]) {
        let view = self.driver().live(vm, live(disks, None, 0)).await.expect("a live view");
        view.close().await.expect("close");
    }

    /// Kills the VM's process as a crash does.
    pub async fn kill(&self, vm: VmId) {
        let pid = self.driver().inspect(vm).await.expect("inspect").pid.expect("a pid");
        kill(pid);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let Ok(entries) = std::fs::read_dir(self.path("run")) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "pid") {
                let pid = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
                let line =
                    pid.map(|pid: i32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default());
                let needle = self.dir.path().as_os_str().as_encoded_bytes();
                // Only if it is still the QEMU of this host.
                if line.is_some_and(|line| line.windows(needle.len()).any(|part| part == needle)) {
                    pid.into_iter().for_each(kill);
                }
            }
        }
    }
}

pub fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    // It may have ended by itself.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

pub fn live(disks: &[&str], since: Option<u64>, mark: u64) -> LiveRequest {
    LiveRequest {
        disks: names(disks),
        tracker: tracker(),
        since: since.map(epoch),
        mark: epoch(mark),
        granularity: 4096,
    }
}

pub fn tracker() -> Tracker {
    Tracker("t1".to_owned())
}

pub fn epoch(epoch: u64) -> Mark {
    Mark { epoch: Epoch(epoch), pass: 0 }
}

pub fn name(disk: &str) -> DiskName {
    DiskName::new(disk).expect("a disk's name")
}

pub fn names(disks: &[&str]) -> Vec<DiskName> {
    disks.iter().map(|disk| name(disk)).collect()
}

pub fn create_image(file: &Path, format: &str, size: u64) {
    let output = Command::new("qemu-img")
        .args(["create", "-q", "-f", format])
        .arg(file)
        .arg(size.to_string())
        .output()
        .expect("run qemu-img");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Writes as the guest does, through its device.
pub async fn write(monitor: &Qmp, disk: &str, pattern: u8, offset: u64, length: u64) {
    io(monitor, disk, &format!("write -P {pattern} {offset} {length}")).await;
}

/// Runs a `qemu-io` command on the guest's device.
pub async fn io(monitor: &Qmp, disk: &str, command: &str) {
    let device = format!("/machine/peripheral/dev-{disk}/virtio-backend");
    let said = monitor.human(&format!("qemu-io -d {device} \"{command}\"")).await.expect("qemu-io");
    assert_eq!(said, "", "{command} on {disk}");
}

/// The one byte that fills `length` bytes at `offset` of a disk of a view.
pub async fn pattern(view: &dyn View, disk: &str, offset: u64, length: u32) -> u8 {
    let reader = view.disk(&name(disk)).expect("the disk is in the view");
    let data = reader.read(offset, length).await.expect("read");
    assert_eq!(data.len(), length as usize);
    assert!(data.iter().all(|byte| *byte == data[0]), "mixed data at {offset} of {disk}");
    data[0]
}

/// The dirty extents of a disk: offsets and lengths.
pub async fn dirty(view: &dyn View, disk: &str) -> Vec<(u64, u64)> {
    let reader = view.disk(&name(disk)).expect("the disk is in the view");
    let extents = reader.dirty(0, reader.size()).await.expect("dirty extents");
    extents.into_iter().map(|extent| (extent.offset, extent.length)).collect()
}

/// Waits for an event of the driver.
pub async fn event(events: &mut broadcast::Receiver<VmEvent>) -> VmEvent {
    tokio::time::timeout(Duration::from_secs(10), events.recv()).await.expect("an event").expect("the driver")
}

/// Waits until `check` holds.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..400 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what} did not come true within 10 s");
}
