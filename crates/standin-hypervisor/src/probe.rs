//! Whether guests really run under KVM on this host.
//!
//! `/dev/kvm` can exist, open and answer, and guests still hang, or crawl at a hundredth of their speed: in nested
//! and in sandboxed hosts. Their BIOS may even seem well there, and the kernel stands still a moment later. So
//! nothing is believed but a comparison: a [guest](guest) that does what a kernel does when it starts has to be
//! clearly faster under KVM than emulated. Otherwise VMs are emulated, and the reason is kept for the log and for
//! `status`.
//!
//! ```text
//!   /dev/kvm missing or closed ──────────────────────────────► Tcg (asked again each time)
//!   answer in memory or in accelerator.json, of this boot,
//!   this QEMU binary and this probe ─────────────────────────► that answer
//!   the guest emulated, then under KVM, with twice the time:
//!              ├── KVM needs less than half of emulation's time ─► Kvm, kept
//!              ├── it needs more ────────────────────────────────► Tcg, kept
//!              ├── silence, death, wrong memory, no QEMU ────────► Tcg, kept
//!              └── neither is done in time: a busy host ─────────► Tcg, asked again
//! ```
//!
//! What is compared is the shortest of several rounds of work: the first one may wait for memory, and any may wait
//! for a busy host. Where KVM works it needs about a twentieth of emulation's time, where it crawls a hundredfold,
//! so that a limit of one half errs on neither side.
//!
//! [`crate::qemu`] asks before it starts a VM whose definition leaves the choice to standin.

mod guest;
mod run;
#[cfg(test)]
mod tests;

pub use run::{Ran, run_guest};

use crate::error::Error;
use crate::seam::{Accelerator, Result};
use serde::{Deserialize, Serialize};
use standin_durable::{Files, Mode};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::Mutex;

/// The device that KVM is spoken to through.
const DEVICE: &str = "/dev/kvm";

/// How many times faster than emulation KVM has to be.
const FASTER: u32 = 2;

/// KVM has this time even where emulation was done sooner: a busy host can hold up either.
const ENOUGH: Duration = Duration::from_secs(2);

/// Answers of another probe are not believed. To be raised when this one judges differently.
const PROBE: u32 = 2;

/// The name of the file with the last answer, in the state directory.
pub const CACHE_FILE: &str = "accelerator.json";

/// The cache is small; anything larger is not ours.
const MAX_CACHE: u64 = 64 << 10;

/// Answers whether KVM can be used, once per boot and QEMU binary. See the module's doc.
#[derive(Debug)]
pub struct Prober {
    qemu: PathBuf,
    state_dir: PathBuf,
    timeout: Duration,
    device: PathBuf,
    /// Held while a probe runs, so that VMs that start together cause one.
    answer: Mutex<Option<Cached>>,
}

/// An answer and what it was true of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cached {
    key: Key,
    accelerator: Accelerator,
}

/// Why a guest had better be emulated, for people.
enum Doubt {
    /// As long as nothing changes.
    Kept(String),
    /// As far as one can see now.
    Open(String),
}

/// The answer is asked for anew when any of this changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    probe: u32,
    boot_id: String,
    qemu: PathBuf,
    qemu_mtime_ns: u128,
    qemu_size: u64,
}

/// Whether VMs of `qemu` can use KVM, from the cache in `state_dir` or by a probe that takes at most
/// twice `timeout`. Not being able to tell is an answer too: emulation, with the reason.
pub async fn kvm_usable(qemu: &Path, state_dir: &Path, timeout: Duration) -> Accelerator {
    Prober::new(qemu, state_dir, timeout).accelerator().await
}

impl Prober {
    /// Nothing runs yet. `qemu` is a path or a name in `PATH`.
    pub fn new(qemu: impl Into<PathBuf>, state_dir: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self {
            qemu: qemu.into(),
            state_dir: state_dir.into(),
            timeout,
            device: DEVICE.into(),
            answer: Mutex::new(None),
        }
    }

    /// The answer, see [`kvm_usable`].
    pub async fn accelerator(&self) -> Accelerator {
        // This can change with a `usermod` or a `modprobe`, and costs nothing to ask.
        if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open(&self.device) {
            return tcg(format!("{} cannot be opened: {error}", self.device.display()));
        }
        let key = match Key::of(&self.qemu) {
            Ok(key) => key,
            Err(error) => return tcg(error.to_string()),
        };
        let mut answer = self.answer.lock().await;
        if let Some(cached) = answer.as_ref().filter(|cached| cached.key == key) {
            return cached.accelerator.clone();
        }
        let file = self.state_dir.join(CACHE_FILE);
        let cached = match read_cache(&file).filter(|cached| cached.key == key) {
            Some(cached) => cached,
            None => {
                let (device, again) = (self.device.display(), file.display());
                let accelerator = match self.ask(&key.qemu).await {
                    Ok(()) => Accelerator::Kvm,
                    Err(Doubt::Kept(why)) => {
                        tcg(format!("{device} is there, but {why} (removing {again} asks again)"))
                    }
                    Err(Doubt::Open(why)) => {
                        return tcg(format!("{device} is there, but {why} (the next start asks again)"));
                    }
                };
                let cached = Cached { accelerator, key };
                if let Err(error) = write_cache(&file, &cached) {
                    tracing::warn!(%error, "the KVM probe's answer is not kept and will be asked for again");
                }
                cached
            }
        };
        answer.insert(cached).accelerator.clone()
    }

    async fn ask(&self, qemu: &Path) -> std::result::Result<(), Doubt> {
        let emulated = run_guest(qemu, "tcg", &self.state_dir, self.timeout).await;
        // Where KVM works, it is done in a fraction of this, its boot included.
        let limit = match &emulated {
            Ok(ran) => (ran.whole * 2).max(ENOUGH).min(self.timeout),
            Err(Error::Timeout { .. }) => self.timeout / FASTER,
            Err(_) => self.timeout,
        };
        let by_kvm = run_guest(qemu, "kvm", &self.state_dir, limit).await;
        tracing::debug!(?emulated, ?by_kvm, "the KVM probe's guests ran");
        compare(emulated, by_kvm)
    }
}

/// Whether KVM is the better choice after these two outcomes, or why not.
fn compare(emulated: Result<Ran>, by_kvm: Result<Ran>) -> std::result::Result<(), Doubt> {
    match (emulated, by_kvm) {
        (Ok(emulated), Ok(by_kvm)) if by_kvm.round <= emulated.round / FASTER => Ok(()),
        (Ok(emulated), Ok(by_kvm)) => Err(Doubt::Kept(format!(
            "a probe guest needed {:.1?} for its work under KVM and {:.1?} emulated",
            by_kvm.round, emulated.round
        ))),
        (Ok(emulated), Err(error)) => Err(Doubt::Kept(format!(
            "a probe guest that needs {:.1?} emulated, {:.1?} of it for a round of work, did not run under KVM: \
             {error}",
            emulated.whole, emulated.round
        ))),
        // KVM was done in half the time that was too short for emulation, or there is nothing to choose between.
        (Err(_), Ok(_)) => Ok(()),
        (Err(slow @ Error::Timeout { .. }), Err(error @ Error::Timeout { .. })) => Err(Doubt::Open(format!(
            "this host is too busy to tell whether it works: under KVM {error}, and emulated {slow}"
        ))),
        (Err(neither), Err(error)) => {
            Err(Doubt::Kept(format!("a probe guest did not run under KVM: {error}; nor emulated: {neither}")))
        }
    }
}

fn tcg(reason: String) -> Accelerator {
    Accelerator::Tcg { reason }
}

impl Key {
    fn of(qemu: &Path) -> Result<Self> {
        let qemu = in_path(qemu)?;
        let meta = std::fs::metadata(&qemu).map_err(Error::io(format!("look at {}", qemu.display())))?;
        let mtime = meta.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(Error::io("read the boot id of this host"))?;
        Ok(Self {
            probe: PROBE,
            boot_id: boot_id.trim().to_owned(),
            qemu_mtime_ns: mtime.map_or(0, |since| since.as_nanos()),
            qemu_size: meta.len(),
            qemu,
        })
    }
}

/// A bare name is looked for as the shell does.
fn in_path(program: &Path) -> Result<PathBuf> {
    if program.components().count() > 1 || program.is_absolute() {
        return Ok(program.to_path_buf());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file());
    found.ok_or_else(|| {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        Error::Io { context: format!("find {} in PATH", program.display()), source }
    })
}

/// A cache that is missing, too large or not understood is none.
fn read_cache(file: &Path) -> Option<Cached> {
    if std::fs::metadata(file).ok()?.len() > MAX_CACHE {
        return None;
    }
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

fn write_cache(file: &Path, cached: &Cached) -> Result<()> {
    let text = serde_json::to_vec_pretty(cached)
        .map_err(|error| Error::Io { context: format!("write {}", file.display()), source: error.into() })?;
    Ok(Files::default().replace(file, &text, Mode::Owner)?)
}
