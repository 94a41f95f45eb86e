//! What every benchmark stands on: two daemons on loopback addresses, VMs on the first, and a calm disk.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use standin_testbed::daemon::{Daemon, DaemonPlan, complaints};
use standin_testbed::{hosts, process};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long the small guest may take to boot under emulation on a busy machine.
pub const BOOT: Duration = Duration::from_secs(120);

/// The replica's address: its own, so that its connections can be told from others.
const REPLICA: [u8; 4] = [127, 0, 0, 2];

/// KVM is switched off for all: where it is there, figures would not compare.
const CONFIG: &str = "[log]\nlevel = \"warn\"\n\n[qemu]\nkvm = \"never\"\n";

/// Two hosts that know each other.
pub struct Hosts {
    /// Where the VMs are.
    pub primary: Daemon,
    /// Where they are replicated to.
    pub replica: Daemon,
    dir: PathBuf,
}

impl Hosts {
    /// Starts them in `parent/name`, which is removed when they are dropped.
    ///
    /// # Errors
    /// When they do not start or do not get to know each other.
    pub fn start(parent: &Path, name: &str) -> Result<Self> {
        Self::start_with(parent, name, "")
    }

    /// The same, with further lines in the configuration of the primary.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(parent: &Path, name: &str, more: &str) -> Result<Self> {
        let dir = parent.join(name);
        let plan = |host: &str, ip: [u8; 4], more: &str| -> Result<DaemonPlan> {
            let mut plan = DaemonPlan::new(host, dir.join(host), free_port(ip)?);
            plan.extra_config = format!("{CONFIG}\n{more}");
            Ok(plan)
        };
        let (primary, replica) = hosts::pair(plan("a", [127, 0, 0, 1], more)?, plan("b", REPLICA, "")?)?;
        for host in [&primary, &replica] {
            host.may_complain(complaints::ANY);
        }
        Ok(Self { primary, replica, dir })
    }

    /// Where VMs' files are to be put.
    pub fn vm_dir(&self) -> PathBuf {
        self.dir.join("vms")
    }

    /// Defines and starts a VM on the primary.
    ///
    /// # Errors
    /// What the command line said.
    pub fn start_vm(&self, definition: &Path, name: &str) -> Result<()> {
        self.primary.run(&["vm", "define", &definition.to_string_lossy()])?;
        self.primary.run(&["vm", "start", name]).map(drop)
    }

    /// Replicates a VM to the replica and waits until its first recovery point is durable there.
    ///
    /// # Errors
    /// What the command line said.
    pub fn replicate(&self, vm: &str, options: &[&str]) -> Result<()> {
        let to = self.replica.listen().to_string();
        self.primary.run(&[&["replicate", vm, "--to", &to], options].concat()).map(drop)
    }

    /// A VM's status on the primary.
    ///
    /// # Errors
    /// What the command line said.
    pub fn status(&self, vm: &str) -> Result<Value> {
        one(self.primary.json(&["status", vm])?)
    }

    /// Waits for `count` more cycles that succeeded; the status then.
    ///
    /// # Errors
    /// When they do not come by the deadline.
    pub fn wait_cycles(&self, vm: &str, count: u64, deadline: Duration) -> Result<Value> {
        let before = counter(&self.status(vm)?, "cycles_ok")?;
        let enough = |status: &Value| {
            one(status.clone())
                .and_then(|status| counter(&status, "cycles_ok"))
                .is_ok_and(|now| now >= before + count)
        };
        one(self.primary.wait_json(&["status", vm], deadline, enough)?)
    }

    /// Process ids of both daemons.
    ///
    /// # Errors
    /// When one does not run.
    pub fn pids(&self) -> Result<(i32, i32)> {
        self.primary.pid().zip(self.replica.pid()).context("a daemon does not run")
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for daemon in [&mut self.primary, &mut self.replica] {
            if let Err(error) = daemon.lose_power() {
                eprintln!("daemon {} was not ended: {error:#}", daemon.name());
            }
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("{} is left: {error}", self.dir.display());
        }
    }
}

/// `status VM --json` prints one object, or a list of one.
fn one(status: Value) -> Result<Value> {
    match status {
        Value::Array(mut list) => {
            ensure!(list.len() == 1, "the status has {} VMs instead of one", list.len());
            list.pop().context("the status is empty")
        }
        other => Ok(other),
    }
}

/// A counter of a VM's statistics.
///
/// # Errors
/// When the status does not have it.
pub fn counter(status: &Value, name: &str) -> Result<u64> {
    status["statistics"][name].as_u64().with_context(|| format!("no {name} in {status}"))
}

/// An address with a free port.
pub fn free_port(ip: [u8; 4]) -> Result<SocketAddr> {
    let listener = TcpListener::bind((std::net::IpAddr::from(ip), 0)).context("bind a port")?;
    listener.local_addr().context("read the port")
}

/// Writes the definition of a VM without an operating system: its firmware looks at the disk, finds nothing to
/// boot, and halts.
///
/// # Errors
/// When it cannot be written.
pub fn define_idle(dir: &Path, name: &str, disk: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let path = dir.join(format!("{name}.toml"));
    let text = format!(
        "name = {name:?}\nmemory_mib = 64\nvcpus = 1\naccelerator = \"tcg\"\n\n\
         [[disks]]\nname = \"root\"\nfile = {:?}\nformat = \"raw\"\n",
        disk.to_string_lossy()
    );
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Waits until the only QEMU of a host has come to rest.
///
/// # Errors
/// When there is no such process, or it never does.
pub fn wait_halted(host: &Daemon) -> Result<i32> {
    let pid = *host.vm_pids().first().context("the VM does not run")?;
    for _ in 0..60 {
        let before = process::cpu_time(pid)?;
        std::thread::sleep(Duration::from_secs(1));
        if process::cpu_time(pid)?.saturating_sub(before) < Duration::from_millis(30) {
            return Ok(pid);
        }
    }
    anyhow::bail!("a VM without an operating system is still busy after a minute")
}

/// Puts everything that was written on disk, so that nobody's measurement pays for somebody else's writes.
///
/// # Errors
/// When `sync` cannot be run.
pub fn settle_disk() -> Result<()> {
    let status = Command::new("sync").stdin(Stdio::null()).status().context("run sync")?;
    ensure!(status.success(), "sync failed ({status})");
    Ok(())
}

/// Reads a file into the page cache.
///
/// # Errors
/// When it cannot be read.
pub fn warm(path: &Path) -> Result<()> {
    let mut file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    std::io::copy(&mut file, &mut std::io::sink()).with_context(|| format!("read {}", path.display()))?;
    Ok(())
}

/// Load averages over 1, 5 and 15 minutes: what else the machine was doing.
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}
