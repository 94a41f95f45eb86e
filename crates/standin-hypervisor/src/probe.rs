//! Whether guests really run under KVM on this host.
//!
//! `/dev/kvm` can exist, open and answer, and guests still hang, or crawl at a hundredth of their speed: in nested
//! and in sandboxed hosts. So nothing is believed but a guest that ran: a boot sector that writes a word to its
//! serial port, within a deadline, and not slower than the same guest emulated. Otherwise VMs are emulated, and the
//! reason is kept for the log and for `status`.
//!
//! ```text
//!   /dev/kvm missing or closed ──────────────────────────────► Tcg (asked again each time)
//!   answer in memory or in accelerator.json, of this boot and
//!   this QEMU binary ────────────────────────────────────────► that answer
//!   probe guest ── the word arrived at once ─────────────────► Kvm, kept
//!              ├── late: the same guest emulated ── as late ─► Kvm, kept (a busy host)
//!              │                                 └─ sooner ──► Tcg, kept
//!              └── silence, death, no QEMU ──────────────────► Tcg, kept
//! ```
//!
//! [`crate::qemu`] asks before it starts a VM whose definition leaves the choice to standin.

#[cfg(test)]
mod tests;

use crate::error::Error;
use crate::seam::{Accelerator, Result};
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

/// What the probe guest writes.
const WORD: &[u8] = b"standin-guest-ran";

/// The device that KVM is spoken to through.
const DEVICE: &str = "/dev/kvm";

/// A word that arrived this soon needs no comparison. An idle host with KVM needs about a tenth of it.
const AT_ONCE: Duration = Duration::from_secs(1);

/// SeaBIOS does not boot from a disk smaller than one cylinder, about 0.5 MiB.
const DISK_SIZE: u64 = 1 << 20;

/// The name of the file with the last answer, in the state directory.
pub const CACHE_FILE: &str = "accelerator.json";

/// The cache is small; anything larger is not ours.
const MAX_CACHE: u64 = 64 << 10;

/// What QEMU may say before it stops being of interest.
const MAX_OUTPUT: usize = 16 << 10;

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

/// The answer is asked for anew when any of this changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    boot_id: String,
    qemu: PathBuf,
    qemu_mtime_ns: u128,
    qemu_size: u64,
}

/// Whether VMs of `qemu` can use KVM, from the cache in `state_dir` or by a probe guest that has `timeout` to
/// speak. Not being able to tell is an answer too: emulation, with the reason.
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
                let cached = Cached { accelerator: self.ask(&key.qemu).await, key };
                if let Err(error) = write_cache(&file, &cached) {
                    tracing::warn!(%error, "the KVM probe's answer is not kept and will be asked for again");
                }
                cached
            }
        };
        answer.insert(cached).accelerator.clone()
    }

    async fn ask(&self, qemu: &Path) -> Accelerator {
        let again = format!("removing {} asks again", self.state_dir.join(CACHE_FILE).display());
        let device = self.device.display();
        let by_kvm = match run_guest(qemu, "kvm", &self.state_dir, self.timeout).await {
            Ok(took) if took <= AT_ONCE => return Accelerator::Kvm,
            Ok(took) => took,
            Err(error) => {
                return tcg(format!(
                    "{device} is there, but a probe guest did not run under KVM: {error} ({again})"
                ));
            }
        };
        // Where emulation is the faster one, a guest's hardware is so slow under KVM that its drivers give up.
        match run_guest(qemu, "tcg", &self.state_dir, self.timeout).await {
            Ok(emulated) if emulated < by_kvm / 2 => tcg(format!(
                "{device} is there, but a probe guest took {by_kvm:.1?} under KVM and {emulated:.1?} emulated ({again})"
            )),
            Ok(_) | Err(_) => Accelerator::Kvm,
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
    let failed = |source| Error::Io { context: format!("write {}", file.display()), source };
    let text = serde_json::to_vec_pretty(cached).map_err(|error| failed(error.into()))?;
    let part = file.with_extension("json.part");
    let mut out = std::fs::File::create(&part).map_err(failed)?;
    out.write_all(&text).and_then(|()| out.sync_all()).map_err(failed)?;
    std::fs::rename(&part, file).map_err(failed)?;
    let dir = file.parent().unwrap_or(Path::new("."));
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

/// Boots the probe guest under `accelerator` and returns how long it took to speak. Its disk is kept in `dir`
/// meanwhile.
///
/// # Errors
/// [`Error::Timeout`] when it stays silent, [`Error::Unsupported`] with QEMU's words when QEMU ends without it,
/// [`Error::Io`] when QEMU or the disk is not there.
pub async fn run_guest(qemu: &Path, accelerator: &str, dir: &Path, timeout: Duration) -> Result<Duration> {
    let disk = dir.join(format!("probe-{}-{accelerator}.img", std::process::id()));
    make_disk(&disk).map_err(Error::io(format!("write {}", disk.display())))?;
    let outcome = boot(qemu, accelerator, &disk, timeout).await;
    if let Err(error) = std::fs::remove_file(&disk) {
        tracing::warn!(%error, file = %disk.display(), "the probe guest's disk stays");
    }
    outcome
}

/// The boot sector, on a sparse disk of [`DISK_SIZE`].
fn make_disk(file: &Path) -> std::io::Result<()> {
    let mut disk = std::fs::File::create(file)?;
    disk.write_all(&boot_sector())?;
    disk.set_len(DISK_SIZE)
}

async fn boot(qemu: &Path, accelerator: &str, disk: &Path, timeout: Duration) -> Result<Duration> {
    let begin = Instant::now();
    let mut child = spawn(qemu, accelerator, disk)?;
    let spoken = tokio::time::timeout(timeout, listen(&mut child)).await;
    let took = begin.elapsed();
    // Whatever came out: the guest has no further use, and no zombie stays.
    if let Err(error) = child.kill().await {
        tracing::warn!(%error, "the probe guest could not be ended");
    }
    match spoken {
        Ok(Ok(())) => Ok(took),
        Ok(Err(said)) => {
            Err(Error::Unsupported { feature: format!("acceleration by {accelerator}"), detail: said })
        }
        Err(_) => {
            Err(Error::Timeout { what: "waiting for the guest's first output".to_owned(), after: timeout })
        }
    }
}

fn spawn(qemu: &Path, accelerator: &str, disk: &Path) -> Result<Child> {
    // A comma in a path is written twice in QEMU's option syntax.
    let disk = disk.display().to_string().replace(',', ",,");
    Command::new(qemu)
        .args(["-accel", accelerator, "-machine", "q35", "-m", "16"])
        .args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"])
        .args(["-drive", &format!("if=none,id=boot,format=raw,readonly=on,file={disk}")])
        .args(["-device", "virtio-blk-pci,drive=boot,bootindex=0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::io(format!("run {}", qemu.display())))
}

/// Waits for the word. When QEMU ends without it: what it said instead.
async fn listen(child: &mut Child) -> std::result::Result<(), String> {
    let (Some(mut stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("its output is not connected".to_owned());
    };
    // Read beside the other: a pipe that nobody empties could stop QEMU. It ends with QEMU.
    let complaint = tokio::spawn(read_some(stderr));
    let mut heard = Vec::new();
    let mut piece = [0; 256];
    loop {
        match stdout.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(count) => heard.extend_from_slice(&piece[..count]),
        }
        if heard.windows(WORD.len()).any(|window| window == WORD) {
            return Ok(());
        }
        if heard.len() > MAX_OUTPUT {
            return Err("the guest wrote something else".to_owned());
        }
    }
    let said = complaint.await.unwrap_or_default();
    if said.is_empty() { Err("QEMU ended without output of the guest".to_owned()) } else { Err(said) }
}

/// The beginning of what is said, on one line.
async fn read_some(from: impl AsyncRead + Unpin) -> String {
    let mut said = Vec::new();
    // What cannot be read is only missing in a message.
    let _ = from.take(MAX_OUTPUT as u64).read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).trim().replace(char::is_control, "; ")
}

/// 512 bytes that the BIOS loads to 0x7c00: write [`WORD`] to the first serial port, then stand still.
fn boot_sector() -> Vec<u8> {
    // The message follows the code, and the code is as long as it is.
    const CODE: [u8; 22] = [
        0x31, 0xc0, //       xor  ax, ax
        0x8e, 0xd8, //       mov  ds, ax
        0xbe, 0x16, 0x7c, // mov  si, 0x7c00 + 22: the message
        0xba, 0xf8, 0x03, // mov  dx, 0x3f8: the first serial port
        0xfc, //             cld
        0xac, //       next: lodsb
        0x84, 0xc0, //       test al, al
        0x74, 0x03, //       jz   end
        0xee, //             out  dx, al
        0xeb, 0xf8, //       jmp  next
        0xf4, //        end: hlt
        0xeb, 0xfd, //       jmp  end
    ];
    let mut sector = vec![0; 512];
    sector[..CODE.len()].copy_from_slice(&CODE);
    sector[CODE.len()..CODE.len() + WORD.len()].copy_from_slice(WORD);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}
