//! One run of the probe guest, with the time it took. Called by [`super`], for each accelerator.
//!
//! The guest waits for a line before each round of its work, and the clock starts before that line is written: this
//! process may be held up by a busy host as much as it likes, a round never seems shorter than it was.
//!
//! ```text
//!   here      ── spawn ────────────── \n ─────────────── \n ── ... ── kill
//!   guest         BIOS, boot ── READY     work ── ROUND     work
//!                                     |---- round ----|
//!             |---------------------------- whole ----------------------|
//! ```

use super::guest;
use crate::error::Error;
use crate::seam::Result;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Take};
use tokio::process::{Child, ChildStdout, Command};

/// How often the guest does its work. The first round is the one in which the host has to find memory for it.
const ROUNDS: usize = 3;

/// SeaBIOS does not boot from a disk smaller than one cylinder, about 0.5 MiB.
const DISK_SIZE: u64 = 1 << 20;

/// What QEMU or the guest may say before it stops being of interest.
const MAX_OUTPUT: u64 = 16 << 10;

/// How long a probe guest took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ran {
    /// The shortest round of work.
    pub round: Duration,
    /// All of it, from the start of QEMU on.
    pub whole: Duration,
}

/// Why the guest's next word did not come.
enum Silence {
    QemuEnded,
    WrongMemory,
    SomethingElse,
}

/// Boots the probe guest under `accelerator` and has it work. Its disk is kept in `dir` meanwhile.
///
/// # Errors
/// [`Error::Timeout`] when it is not done within `timeout`, [`Error::Unsupported`] with QEMU's words when QEMU ends
/// before, [`Error::Io`] when QEMU or the disk is not there.
pub async fn run_guest(qemu: &Path, accelerator: &str, dir: &Path, timeout: Duration) -> Result<Ran> {
    let disk = dir.join(format!("probe-{}-{accelerator}.img", std::process::id()));
    make_disk(&disk).map_err(Error::io(format!("write {}", disk.display())))?;
    let outcome = boot(qemu, accelerator, &disk, timeout).await;
    if let Err(error) = std::fs::remove_file(&disk) {
        tracing::warn!(%error, file = %disk.display(), "the probe guest's disk stays");
    }
    outcome
}

/// The guest, on a sparse disk of [`DISK_SIZE`].
fn make_disk(file: &Path) -> std::io::Result<()> {
    let mut disk = std::fs::File::create(file)?;
    disk.write_all(&guest::image())?;
    disk.set_len(DISK_SIZE)
}

async fn boot(qemu: &Path, accelerator: &str, disk: &Path, timeout: Duration) -> Result<Ran> {
    let begin = Instant::now();
    let mut child = spawn(qemu, accelerator, disk)?;
    let mut rounds = None;
    let outcome = tokio::time::timeout(timeout, work(&mut child, &mut rounds)).await;
    let whole = begin.elapsed();
    // Whatever came out: the guest has no further use, and no zombie stays.
    if let Err(error) = child.kill().await {
        tracing::warn!(%error, "the probe guest could not be ended");
    }
    match outcome {
        Ok(Ok(round)) => Ok(Ran { round, whole }),
        Ok(Err(detail)) => {
            Err(Error::Unsupported { feature: format!("acceleration by {accelerator}"), detail })
        }
        Err(_) => Err(Error::Timeout { what: what_lasted(rounds), after: in_millis(timeout) }),
    }
}

fn what_lasted(rounds: Option<usize>) -> String {
    match rounds {
        None => "the probe guest's boot".to_owned(),
        Some(done) => format!("round {} of {ROUNDS} of the probe guest's work", done + 1),
    }
}

/// For people.
fn in_millis(time: Duration) -> Duration {
    Duration::new(time.as_secs(), time.subsec_millis() * 1_000_000)
}

fn spawn(qemu: &Path, accelerator: &str, disk: &Path) -> Result<Child> {
    // A comma in a path is written twice in QEMU's option syntax.
    let disk = disk.display().to_string().replace(',', ",,");
    Command::new(qemu)
        .args(["-accel", accelerator, "-machine", "q35", "-m", &guest::MEMORY_MIB.to_string()])
        .args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"])
        .args(["-drive", &format!("if=none,id=boot,format=raw,readonly=on,file={disk}")])
        .args(["-device", "virtio-blk-pci,drive=boot,bootindex=0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::io(format!("run {}", qemu.display())))
}

/// Has the guest work and returns its shortest round, or says why there is none. `done` is the number of rounds
/// after the boot, for whom it takes too long.
async fn work(child: &mut Child, done: &mut Option<usize>) -> std::result::Result<Duration, String> {
    let (Some(mut orders), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err("its input and output are not connected".to_owned());
    };
    // Read beside the other: a pipe that nobody empties could stop QEMU. It ends with QEMU.
    let complaint = tokio::spawn(read_some(stderr));
    let mut words = BufReader::new(stdout.take(MAX_OUTPUT));
    let mut shortest = Duration::MAX;
    let silence = async {
        hear(&mut words, guest::READY).await?;
        for round in 0..ROUNDS {
            *done = Some(round);
            let begin = Instant::now();
            orders.write_all(b"\n").await.map_err(|_| Silence::QemuEnded)?;
            hear(&mut words, guest::ROUND).await?;
            shortest = shortest.min(begin.elapsed());
        }
        Ok(())
    };
    match silence.await {
        Ok(()) => Ok(shortest),
        Err(Silence::WrongMemory) => Err("the guest's memory does not keep what is written to it".to_owned()),
        Err(Silence::SomethingElse) => Err("the guest wrote something else".to_owned()),
        Err(Silence::QemuEnded) => {
            let said = complaint.await.unwrap_or_default();
            Err(if said.is_empty() { "QEMU ended before its guest was done".to_owned() } else { said })
        }
    }
}

/// Waits for a line with `word`.
async fn hear(from: &mut BufReader<Take<ChildStdout>>, word: &str) -> std::result::Result<(), Silence> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = from.read_until(b'\n', &mut line).await.unwrap_or(0);
        let said = String::from_utf8_lossy(&line);
        if said.contains(word) {
            return Ok(());
        }
        if said.contains(guest::WRONG) {
            return Err(Silence::WrongMemory);
        }
        if from.get_ref().limit() == 0 {
            return Err(Silence::SomethingElse);
        }
        if count == 0 {
            return Err(Silence::QemuEnded);
        }
    }
}

/// The beginning of what is said, on one line.
async fn read_some(from: impl AsyncRead + Unpin) -> String {
    let mut said = Vec::new();
    // What cannot be read is only missing in a message.
    let _ = from.take(MAX_OUTPUT).read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).trim().replace(char::is_control, "; ")
}
