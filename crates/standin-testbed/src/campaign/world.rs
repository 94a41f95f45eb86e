//! The world of a campaign: two hosts in namespaces, a guest that writes, and everything that can be broken.
//!
//! ```text
//!   namespace 1                                   namespace 2
//!   daemon host-a ---- eth0 ==== switch ==== eth0 ---- proxy ---- daemon host-b
//!     QEMU, guest "writer"                              (flips bits)   replicas on a small file system
//!     scratch on a small file system
//! ```

use super::proxy::Proxy;
use crate::daemon::{Daemon, DaemonPlan, complaints};
use crate::guest::{Guest, GuestPlan, SerialLog};
use crate::hosts::{self, SmallFs};
use crate::netns::Network;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Name of the replicated VM.
pub const VM: &str = "writer";
/// Seconds from cut to cut.
pub const INTERVAL_S: u64 = 3;
/// Hours of which one recovery point is kept.
pub const HISTORY: i64 = 24;
/// What the primary leaves free of its scratch space, in MiB.
pub const SCRATCH_RESERVE_MIB: u64 = 8;
/// Size of the replica's file system. standin keeps 256 MiB of it free.
const STORAGE_BYTES: u64 = 640 << 20;
/// How long the first copy of two small disks may take.
const FIRST_COPY: Duration = Duration::from_secs(120);
/// A kernel that boots under emulation on a busy machine.
const BOOT: Duration = Duration::from_secs(150);

/// Everything that runs. Dropped in this order: daemons and their guests first, then what they stand on.
#[derive(Debug)]
pub struct World {
    /// The primary.
    pub a: Daemon,
    /// The replica.
    pub b: Daemon,
    /// The connection between them.
    pub proxy: Proxy,
    /// The hosts' links.
    pub network: Network,
    /// Where the primary keeps scratch images.
    pub scratch: SmallFs,
    /// Where the replica keeps disks.
    pub storage: SmallFs,
    /// The guest, on the primary.
    pub guest: Guest,
    /// For how many seconds every point is kept.
    pub keep_all_s: i64,
    /// Everything is below it.
    pub dir: PathBuf,
    consoles: u32,
}

impl World {
    /// Builds everything in `dir` and starts the guest; nothing replicates yet. `program` is this program, which
    /// is also the proxy's.
    ///
    /// # Errors
    /// When a step of the set-up fails. Needs root.
    pub fn build(dir: &Path, program: &Path, keep_all_s: i64) -> Result<Self> {
        fs::create_dir_all(dir.join("logs")).with_context(|| format!("make {}", dir.display()))?;
        let network = Network::new(2)?;
        let scratch = SmallFs::mount(&dir.join("scratch"), 64 << 20)?;
        let storage = SmallFs::mount(&dir.join("storage"), STORAGE_BYTES)?;
        let plan = |index: usize, name: &str| -> Result<DaemonPlan> {
            let host = network.host(index)?;
            let listen = SocketAddr::new(host.address, 28444);
            let mut plan = DaemonPlan::new(name, dir.join(name), listen);
            plan.namespace = Some(host.namespace.clone());
            plan.extra_config = format!(
                "[limits]\nscratch_reserve = \"{SCRATCH_RESERVE_MIB}MiB\"\n[qemu]\nkvm = \"never\"\n"
            );
            Ok(plan)
        };
        let primary = DaemonPlan { scratch_dir: Some(scratch.path().into()), ..plan(0, "host-a")? };
        let replica = DaemonPlan { replica_storage: Some(storage.path().join("r")), ..plan(1, "host-b")? };
        let target = replica.listen;
        let (a, b) = hosts::pair(primary, replica)?;
        for host in [&a, &b] {
            host.may_complain(complaints::ANY);
        }
        let front = SocketAddr::new(target.ip(), 28445);
        let proxy = Proxy::start(program, &network.host(1)?.namespace, front, target)?;
        let guest = define_guest(dir, &a)?;
        let dir = dir.to_path_buf();
        let world = Self { a, b, proxy, network, scratch, storage, guest, keep_all_s, dir, consoles: 0 };
        world.a.run(&["vm", "start", VM])?;
        world.guest.serial.wait_written_beyond(20, BOOT)?;
        Ok(world)
    }

    /// Enables replication and waits for the first recovery point.
    ///
    /// # Errors
    /// When the first copy fails.
    pub fn replicate(&self) -> Result<()> {
        let (to, interval) = (self.proxy.front().to_string(), format!("{INTERVAL_S}s"));
        let (history, all) = (HISTORY.to_string(), format!("{}s", self.keep_all_s));
        let kept = ["--history", &history, "--keep-all-for", &all];
        let enable = ["replicate", VM, "--to", &to, "--interval", &interval, "--no-wait"];
        self.a.run(&[&enable[..], &kept[..]].concat())?;
        let listed = |points: &Value| points.as_array().is_some_and(|points| !points.is_empty());
        self.b.wait_json(&["points", VM], FIRST_COPY, listed).map(drop)
    }

    /// What the primary says of the replication.
    ///
    /// # Errors
    /// When its daemon does not answer.
    pub fn status(&self) -> Result<Value> {
        Ok(first(self.a.json(&["status", VM])?))
    }

    /// Where the replica of the VM is stored.
    ///
    /// # Errors
    /// When there is none.
    pub fn replica_dir(&self) -> Result<PathBuf> {
        let name = format!("{VM}-{}", self.guest.plan.uuid);
        find_dir(self.storage.path(), &name, 3).with_context(|| format!("no replica {name} is stored"))
    }

    /// The image file of a disk at a point.
    ///
    /// # Errors
    /// When there is no replica.
    pub fn layer(&self, disk: &str, epoch: u64) -> Result<PathBuf> {
        Ok(self.replica_dir()?.join("disks").join(disk).join(format!("{epoch:012}.qcow2")))
    }

    /// Names of the guest's disks.
    #[must_use]
    pub fn disks(&self) -> Vec<String> {
        self.guest.plan.disks.iter().map(|disk| disk.name.clone()).collect()
    }

    /// Starts the VM again after its QEMU was killed, and waits until it writes. Its console's log so far is kept.
    ///
    /// # Errors
    /// When it does not start or finds its own disks damaged.
    pub fn restart_vm(&mut self) -> Result<()> {
        self.consoles += 1;
        let kept = self.dir.join("logs").join(format!("console-{}.txt", self.consoles));
        fs::copy(self.guest.serial.path(), kept).context("keep the console's log")?;
        // Emptied, so that nothing of the old boot is taken for the new one's.
        fs::write(self.guest.serial.path(), []).context("empty the console's log")?;
        let until = Instant::now() + Duration::from_secs(15);
        loop {
            let output = self.a.cli(&["vm", "start", VM])?;
            if output.status == 0 {
                break;
            }
            // The daemon may not have noticed the end of the old process yet.
            anyhow::ensure!(Instant::now() < until, "the VM cannot be started again: {}", output.stderr);
            std::thread::sleep(Duration::from_millis(300));
        }
        let (_, last) = self.guest.serial.wait_verified(0, BOOT)?;
        self.guest.serial.wait_written_beyond(last, BOOT)?;
        Ok(())
    }

    /// The console of the VM on the replica.
    ///
    /// # Errors
    /// When it has none.
    pub fn replica_console(&self) -> Result<SerialLog> {
        self.b.replica_serial(VM).context("the VM on the replica has no console log")
    }
}

/// Every process of the campaign in `dir`: daemons, their QEMUs, and the command line. All inherit where the
/// configuration is.
#[must_use]
pub fn processes(dir: &Path) -> Vec<i32> {
    let needle = format!("STANDIN_CONFIG={}/", dir.display());
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let ours = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|word| word.starts_with(needle.as_bytes()))
    };
    pids.filter(ours).collect()
}

fn define_guest(dir: &Path, a: &Daemon) -> Result<Guest> {
    let mut plan = GuestPlan::records(VM, 60);
    plan.writer.push("standin.slots=2048".into());
    let guest = plan.create(&dir.join("host-a").join("vm"))?;
    // A second monitor, by which the campaign looks for what standin left behind.
    let text = fs::read_to_string(&guest.definition).context("read the VM's definition")?;
    let socket = format!("socket,id=look,path={},server=on,wait=off", monitor_socket(dir).display());
    let monitor = ["-chardev", &socket, "-mon", "chardev=look,mode=control"];
    let text = format!("extra_args = {monitor:?}\n{text}");
    fs::write(&guest.definition, text).context("write the VM's definition")?;
    a.run(&["vm", "define", &guest.definition.to_string_lossy()])?;
    Ok(guest)
}

/// Where the guest's QEMU has its second monitor.
#[must_use]
pub fn monitor_socket(dir: &Path) -> PathBuf {
    dir.join("monitor.sock")
}

/// An object, or the first of a list.
#[must_use]
pub fn first(value: Value) -> Value {
    match value {
        Value::Array(mut list) if !list.is_empty() => list.swap_remove(0),
        other => other,
    }
}

fn find_dir(dir: &Path, name: &str, depth: u32) -> Option<PathBuf> {
    let here = dir.join(name);
    if here.is_dir() {
        return Some(here);
    }
    let entries = fs::read_dir(dir).ok().filter(|_| depth > 0)?;
    entries.flatten().map(|entry| entry.path()).find_map(|path| find_dir(&path, name, depth - 1))
}
