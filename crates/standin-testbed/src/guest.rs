//! The guests: built on demand, described for `standin vm define`, heard through their serial logs.
//!
//! The small guest runs `guest-writer` on its first two disks; what it says is documented there. The Debian
//! guest boots from its own disk and has a guest agent and a database.

use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The checkout this crate was built from.
#[must_use]
pub fn checkout() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Where everything is built.
pub(crate) fn target_dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| checkout().join("target"))
}

fn guest_dir() -> PathBuf {
    target_dir().join("guest")
}

fn build(which: &str) -> Result<()> {
    let script = checkout().join("scripts/build-guest");
    let status = Command::new(&script).arg(which).stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("run {}", script.display()))?;
    if !status.success() {
        bail!("{} {which} failed ({status}): run it by hand to see why", script.display());
    }
    Ok(())
}

/// Kernel and root file system of the small guest.
#[derive(Debug, Clone)]
pub struct SmallGuest {
    /// Debian's cloud kernel.
    pub kernel: PathBuf,
    /// Busybox, modules and the writer.
    pub initrd: PathBuf,
}

/// The small guest; built first if need be.
///
/// # Errors
/// When it cannot be built.
pub fn small() -> Result<SmallGuest> {
    build("small")?;
    let dir = guest_dir();
    Ok(SmallGuest { kernel: dir.join("vmlinuz"), initrd: dir.join("initrd") })
}

/// The disk image of the Debian guest, qcow2, to be copied or used as a backing file; built first if need be.
///
/// # Errors
/// When it cannot be built.
pub fn debian() -> Result<PathBuf> {
    build("debian")?;
    Ok(guest_dir().join("debian.qcow2"))
}

/// A disk of a guest to be made.
#[derive(Debug, Clone)]
pub struct GuestDisk {
    /// Its name.
    pub name: String,
    /// `raw` or `qcow2`.
    pub format: &'static str,
    /// Bytes that the guest sees.
    pub size: u64,
}

/// A small guest to be made: its disks and what its writer does.
#[derive(Debug, Clone)]
pub struct GuestPlan {
    /// Name of the VM.
    pub name: String,
    /// Identity of the VM.
    pub uuid: Uuid,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Disks; the records go to the first two.
    pub disks: Vec<GuestDisk>,
    /// What the writer is to do, in its own words: `standin.rate=50`, `standin.mode=random`, ...
    pub writer: Vec<String>,
    /// Boot this image instead of the small guest: a path from [`debian`], becomes the backing of disk 1.
    pub boots_from: Option<PathBuf>,
    /// Boot nothing: the firmware waits. Enough, and soon there, where it only matters which host runs the VM.
    pub idle: bool,
}

impl GuestPlan {
    /// The usual guest: two disks of 64 MiB, one raw and one qcow2, and `rate` records a second.
    #[must_use]
    pub fn records(name: &str, rate: u32) -> Self {
        let disk = |name: &str, format| GuestDisk { name: name.into(), format, size: 64 << 20 };
        Self {
            name: name.into(),
            uuid: Uuid::new_v4(),
            memory_mib: 128,
            vcpus: 1,
            disks: vec![disk("log-a", "qcow2"), disk("log-b", "raw")],
            writer: vec![format!("standin.rate={rate}")],
            boots_from: None,
            idle: false,
        }
    }

    /// The same VM with nothing to boot.
    #[must_use]
    pub fn idle(name: &str) -> Self {
        Self { idle: true, writer: Vec::new(), ..Self::records(name, 0) }
    }

    /// The Debian guest with its guest agent, on one disk.
    ///
    /// # Errors
    /// When the image cannot be built.
    pub fn debian(name: &str) -> Result<Self> {
        Ok(Self {
            memory_mib: 384,
            disks: vec![GuestDisk { name: "root".into(), format: "qcow2", size: 0 }],
            writer: Vec::new(),
            boots_from: Some(debian()?),
            ..Self::records(name, 0)
        })
    }

    /// Makes the disks in `dir` and the definition beside them.
    ///
    /// # Errors
    /// When the guest cannot be built or `qemu-img` fails.
    pub fn create(self, dir: &Path) -> Result<Guest> {
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let mut disks = Vec::new();
        for (index, disk) in self.disks.iter().enumerate() {
            let path = dir.join(format!("{}-{}.{}", self.name, disk.name, disk.format));
            let image = self.boots_from.as_ref().filter(|_| index == 0);
            create_disk(disk, &path, image.map(PathBuf::as_path))?;
            disks.push(path);
        }
        let guest = Guest {
            definition: dir.join(format!("{}.toml", self.name)),
            serial: SerialLog::new(dir.join(format!("{}.serial", self.name))),
            disks,
            plan: self,
        };
        let text = guest.to_toml()?;
        std::fs::write(&guest.definition, text)
            .with_context(|| format!("write {}", guest.definition.display()))?;
        Ok(guest)
    }
}

fn create_disk(disk: &GuestDisk, path: &Path, image: Option<&Path>) -> Result<()> {
    let mut command = Command::new("qemu-img");
    match image {
        // A copy, not an overlay: the VM's configuration names one file and that one must be whole.
        Some(image) => command.args(["convert", "-O", disk.format]).arg(image).arg(path),
        None => command.args(["create", "-q", "-f", disk.format]).arg(path).arg(disk.size.to_string()),
    };
    let output = command.stdin(Stdio::null()).output().context("run qemu-img")?;
    if !output.status.success() {
        bail!("make disk {}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A guest whose files exist. They stay until their directory is removed.
#[derive(Debug, Clone)]
pub struct Guest {
    /// What it was made from.
    pub plan: GuestPlan,
    /// For `standin vm define`.
    pub definition: PathBuf,
    /// Its disks, in the order of the plan.
    pub disks: Vec<PathBuf>,
    /// What it says on the host where it was defined.
    pub serial: SerialLog,
}

impl Guest {
    fn to_toml(&self) -> Result<String> {
        let mut text = String::new();
        let quoted = |value: &str| format!("{value:?}");
        let path = |path: &Path| format!("{:?}", path.to_string_lossy());
        let plan = &self.plan;
        writeln!(text, "name = {}\nuuid = \"{}\"", quoted(&plan.name), plan.uuid)?;
        writeln!(text, "memory_mib = {}\nvcpus = {}", plan.memory_mib, plan.vcpus)?;
        writeln!(text, "accelerator = \"tcg\"\nserial_log = {}", path(&self.serial.path))?;
        if plan.boots_from.is_some() {
            writeln!(text, "guest_agent = true")?;
        } else if !plan.idle {
            let small = small()?;
            // On a busy host an emulated CPU loses ticks, and Linux gives up on its timer: no_timer_check.
            let words =
                format!("console=ttyS0 quiet mitigations=off no_timer_check {}", plan.writer.join(" "));
            writeln!(text, "kernel = {}\ninitrd = {}", path(&small.kernel), path(&small.initrd))?;
            writeln!(text, "cmdline = {}", quoted(words.trim()))?;
        }
        for (disk, file) in plan.disks.iter().zip(&self.disks) {
            writeln!(text, "\n[[disks]]\nname = {}\nfile = {}", quoted(&disk.name), path(file))?;
            writeln!(text, "format = {}", quoted(disk.format))?;
        }
        Ok(text)
    }
}

/// What a guest says on its serial console.
#[derive(Debug, Clone)]
pub struct SerialLog {
    path: PathBuf,
}

impl SerialLog {
    /// The log at `path`, which need not exist yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of it so far; empty before the guest has started.
    #[must_use]
    pub fn text(&self) -> String {
        // A guest may say anything: the log need not be UTF-8.
        std::fs::read(&self.path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// How far it goes now, to wait only for what comes later.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.text().len()
    }

    /// The first whole line from `mark` on that contains `wanted`. QEMU begins the log anew with each start; a
    /// log that became shorter than `mark` is read from its beginning.
    ///
    /// # Errors
    /// When no such line came by the deadline, or the guest reported a fault first.
    pub fn wait_for_line(&self, mark: usize, wanted: &str, deadline: Duration) -> Result<String> {
        let until = Instant::now() + deadline;
        loop {
            let text = self.text();
            let fresh = text.get(mark..).unwrap_or(&text);
            let whole = fresh.rsplit_once('\n').map_or("", |(whole, _)| whole);
            for line in whole.lines().map(str::trim_end) {
                if line.contains(wanted) {
                    return Ok(line.to_owned());
                }
                if line.contains("standin-guest: FAULT") {
                    bail!("the guest reports: {line} ({})", self.path.display());
                }
            }
            if Instant::now() > until {
                let end: Vec<&str> = text.lines().rev().take(12).collect();
                let end: Vec<&str> = end.into_iter().rev().collect();
                bail!(
                    "no {wanted:?} in {} after {deadline:?}; it ends with\n{}",
                    self.path.display(),
                    end.join("\n")
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the writer has verified its disks: records found, and the newest of them.
    ///
    /// # Errors
    /// As [`Self::wait_for_line`].
    pub fn wait_verified(&self, mark: usize, deadline: Duration) -> Result<(u64, u64)> {
        let line = self.wait_for_line(mark, "standin-guest: verified", deadline)?;
        let records = line.split_whitespace().find_map(|word| word.parse().ok());
        records.zip(number_after(&line, "last=")).with_context(|| format!("not understood: {line}"))
    }

    /// The newest record that the writer has reported.
    #[must_use]
    pub fn last_written(&self) -> Option<u64> {
        self.text().lines().rev().find_map(|line| number_after(line, "standin-guest: wrote last="))
    }

    /// Waits until the writer reports a record beyond `sequence`.
    ///
    /// # Errors
    /// When it does not by the deadline, or reports a fault.
    pub fn wait_written_beyond(&self, sequence: u64, deadline: Duration) -> Result<u64> {
        let until = Instant::now() + deadline;
        loop {
            if let Some(last) = self.last_written().filter(|last| *last > sequence) {
                return Ok(last);
            }
            if let Some(fault) = self.faults().first() {
                bail!("the guest reports: {fault}");
            }
            if Instant::now() > until {
                bail!("{}: no record beyond {sequence} after {deadline:?}", self.path.display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Everything the guest has complained about.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        self.text().lines().filter(|line| line.contains("standin-guest: FAULT")).map(str::to_owned).collect()
    }

    /// Writes a second of mode `random`, one number for each second reported from `mark` on.
    #[must_use]
    pub fn iops(&self, mark: usize) -> Vec<u64> {
        let text = self.text();
        let fresh = text.get(mark..).unwrap_or(&text);
        fresh.lines().filter_map(|line| number_after(line, "standin-guest: io iops=")).collect()
    }
}

fn number_after(line: &str, key: &str) -> Option<u64> {
    let rest = line.split_once(key)?.1;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
    digits.parse().ok()
}
