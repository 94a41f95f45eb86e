//! What a disk's image is. Before QEMU is started on it ([`examine`]), asked of `qemu-img`: a refusal here is a
//! sentence; the same mistake found by a starting QEMU is a line in a log. For lists of VMs that are off
//! ([`look`]), from its first bytes where those say it all.

mod glance;
mod look;

pub(crate) use look::{Memory, look};

use crate::definition::{DiskDefinition, DiskFormat};
use crate::error::Error;
use crate::qmp::json;
use serde_json::Value;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// A healthy image is described in milliseconds; a dead network file system never.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The first bytes of a qcow2 image.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// What is known of an image that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// What the guest sees, in bytes.
    pub size: u64,
    /// A block device, not a file.
    pub block_device: bool,
    /// It can keep marks over a clean stop.
    pub persistent_marks: bool,
    /// The images below it, nearest first. Empty when there are none, and when they are not all plain files.
    pub backing: Vec<Layer>,
}

/// An image below another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    /// Its file.
    pub file: PathBuf,
    /// Its format, as the image above says.
    pub format: String,
    /// A block device, not a file.
    pub block_device: bool,
}

/// Looks at a disk's image. An image that a running program writes to is a problem. With `exclusive` that is
/// found out by locking it for a moment, which a QEMU that starts at the same time would trip over; without, by
/// looking at its locks.
pub(crate) async fn examine(disk: &DiskDefinition, exclusive: bool) -> Result<Image, Error> {
    let opened = check_file(disk)?;
    if !exclusive && !disk.read_only && is_written(&disk.file) {
        return Err(problem(disk, in_use(&disk.file)));
    }
    let block_device = opened.block_device;
    // Closed again before another process locks it.
    drop(opened);
    let (image, _) = ask_qemu(disk, exclusive).await?;
    Ok(Image { block_device, ..image })
}

/// What `qemu-img` says about an image, and whether there are images below it. Whether it is a block device is
/// not asked.
async fn ask_qemu(disk: &DiskDefinition, exclusive: bool) -> Result<(Image, bool), Error> {
    let info = run_info(disk, &disk.file, exclusive, false).await?;
    let top = json::items(&info).first().unwrap_or(&info);
    let chained = disk.backing.is_none() && top.get("backing-filename").is_some();
    let backing = if chained {
        // Images below are shared with others; only the top one has to be ours alone.
        let chain = run_info(disk, &disk.file, false, true).await?;
        layers(json::items(&chain))
    } else {
        Vec::new()
    };
    let image = Image {
        size: json::number(top, "virtual-size"),
        block_device: false,
        persistent_marks: keeps_marks(top) && !disk.read_only,
        backing,
    };
    Ok((image, chained))
}

/// The names of the bitmaps in an image, which may be in use.
pub(crate) async fn bitmaps(disk: &DiskDefinition) -> Result<Vec<String>, Error> {
    let info = run_info(disk, &disk.file, false, false).await?;
    let top = json::items(&info).first().unwrap_or(&info);
    let found = top.pointer("/format-specific/data/bitmaps").map(json::items).unwrap_or_default();
    Ok(found.iter().map(|bitmap| json::text(bitmap, "name").to_owned()).collect())
}

/// Whether an image, as QEMU describes it, can hold persistent bitmaps: qcow2 of version 3.
pub(crate) fn keeps_marks(image: &Value) -> bool {
    let data = image.pointer("/format-specific/data");
    json::text(image, "format") == "qcow2" && data.is_some_and(|data| json::text(data, "compat") != "0.10")
}

fn problem(disk: &DiskDefinition, problem: impl Into<String>) -> Error {
    Error::DiskProblem { disk: disk.name.clone(), problem: problem.into() }
}

/// An image that opens as the VM will open it.
struct Opened {
    file: File,
    block_device: bool,
}

/// Exists, is a file or a block device, opens as the VM will open it, and does not contradict its format.
fn check_file(disk: &DiskDefinition) -> Result<Opened, Error> {
    let shown = disk.file.display();
    let kind = fs::metadata(&disk.file)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => problem(disk, format!("its image {shown} does not exist")),
            _ => problem(disk, format!("its image {shown} cannot be reached: {error}")),
        })?
        .file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(problem(disk, format!("{shown} is neither a file nor a block device")));
    }
    let mut options = File::options();
    let mut file = options.read(true).write(!disk.read_only).open(&disk.file).map_err(|error| {
        let wanted = if disk.read_only { "read" } else { "written" };
        problem(disk, format!("its image {shown} cannot be {wanted}: {error}"))
    })?;
    let mut head = [0; 4];
    let looks_qcow2 = file.read_exact(&mut head).is_ok() && head == QCOW2_MAGIC;
    if disk.format == DiskFormat::Raw && looks_qcow2 {
        return Err(problem(disk, format!("{shown} is a qcow2 image, and the definition says raw")));
    }
    Ok(Opened { file, block_device: kind.is_block_device() })
}

async fn run_info(disk: &DiskDefinition, file: &Path, exclusive: bool, chain: bool) -> Result<Value, Error> {
    let mut command = Command::new("qemu-img");
    command.args(["info", "--output=json", "-f", disk.format.as_str()]);
    if !exclusive {
        command.arg("--force-share");
    }
    if chain {
        command.arg("--backing-chain");
    }
    // Definitions have absolute paths only: one that begins with '/' is neither an option nor a protocol.
    command.arg(file).kill_on_drop(true);
    let output = tokio::time::timeout(TIMEOUT, command.output())
        .await
        .map_err(|_| Error::Timeout { what: format!("qemu-img info of disk {}", disk.name), after: TIMEOUT })?
        .map_err(Error::io("run qemu-img"))?;
    if !output.status.success() {
        return Err(problem(disk, explain(file, disk, &String::from_utf8_lossy(&output.stderr))));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| {
        problem(disk, format!("qemu-img described it with something that is no JSON: {error}"))
    })
}

fn in_use(file: &Path) -> String {
    format!(
        "its image {} is in use by another process (another VM, or a tool such as qemu-nbd); stop that one first",
        file.display()
    )
}

/// Whether a program holds QEMU's lock for writing to an image. `false` where that cannot be told; a start finds it
/// out then.
fn is_written(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| holds_lock(&metadata))
}

/// The same for a file that is open here.
pub(crate) fn holds_lock(metadata: &fs::Metadata) -> bool {
    Locks::read().hold(metadata)
}

/// QEMU's locks for writing that programs of this host hold, as the kernel lists them: the byte of `BLK_PERM_WRITE`
/// after `RAW_LOCK_PERM_BASE`, see `block/file-posix.c` in QEMU and `/proc/locks` in proc(5). Takes no lock. Read once
/// for a whole list of VMs.
#[derive(Debug, Default)]
pub(crate) struct Locks(HashSet<String>);

impl Locks {
    /// As they are now; none where the kernel does not say.
    pub fn read() -> Self {
        let list = fs::read_to_string("/proc/locks").unwrap_or_default();
        Self(list.lines().filter_map(written_file).map(str::to_owned).collect())
    }

    /// Whether a file is written.
    pub fn hold(&self, metadata: &fs::Metadata) -> bool {
        let (device, inode) = (metadata.dev(), metadata.ino());
        let file = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
        self.0.contains(&file)
    }
}

/// The file that a line locks for writing: `1: OFDLCK  ADVISORY  READ -1 fd:00:1234 100 101`; one that waits has `->`
/// after its number.
fn written_file(line: &str) -> Option<&str> {
    const WRITE_PERMISSION: u64 = 100 + 1;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, kind, _, _, _, file, start, end] = words[..] else { return None };
    let start = start.parse().unwrap_or(u64::MAX);
    let end = if end == "EOF" { u64::MAX } else { end.parse().unwrap_or(0) };
    let held = matches!(kind, "OFDLCK" | "POSIX") && (start..=end).contains(&WRITE_PERMISSION);
    held.then_some(file)
}

fn explain(file: &Path, disk: &DiskDefinition, stderr: &str) -> String {
    let shown = file.display();
    let said = stderr.trim();
    if said.contains("lock") {
        return in_use(file);
    }
    if said.contains("not in qcow2 format") {
        return other_format(file, disk);
    }
    format!("its image {shown} cannot be used: {said}")
}

fn other_format(file: &Path, disk: &DiskDefinition) -> String {
    format!("{} is not a {} image", file.display(), disk.format.as_str())
}

fn layers(chain: &[Value]) -> Vec<Layer> {
    let mut found = Vec::new();
    // Each image names the one below and its format; the format is never guessed.
    for above in chain {
        let file = json::text(above, "full-backing-filename");
        if above.get("backing-filename").is_none() {
            break;
        }
        let format = json::text(above, "backing-filename-format");
        let Ok(metadata) = fs::metadata(file) else { return Vec::new() };
        if format.is_empty() || !file.starts_with('/') {
            return Vec::new();
        }
        found.push(Layer {
            file: file.into(),
            format: format.to_owned(),
            block_device: metadata.file_type().is_block_device(),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_chain_of_files_is_followed_and_anything_else_is_left_to_qemu() {
        let dir = tempfile::tempdir().expect("a directory");
        let base = dir.path().join("base");
        fs::write(&base, "x").expect("write");
        let top = json!({ "backing-filename": "base", "full-backing-filename": base,
                          "backing-filename-format": "raw" });
        let found = layers(&[top.clone(), json!({})]);
        assert_eq!(found, vec![Layer { file: base, format: "raw".into(), block_device: false }]);
        let mut remote = top.clone();
        remote["full-backing-filename"] = json!("nbd:unix:/s");
        assert_eq!(layers(&[remote]), vec![]);
        let mut unsaid = top;
        unsaid["backing-filename-format"] = json!("");
        assert_eq!(layers(&[unsaid]), vec![]);
    }

    #[test]
    fn only_a_held_lock_on_qemus_byte_for_writing_counts() {
        let of = |line| written_file(line) == Some("fd:00:1234");
        assert!(of("1: OFDLCK  ADVISORY  READ -1 fd:00:1234 100 101"));
        assert!(of("7: POSIX   ADVISORY  WRITE 3568 fd:00:1234 0 EOF"));
        assert!(!of("1: OFDLCK  ADVISORY  READ -1 fd:00:1234 100 100"), "only reads");
        assert!(!of("1: OFDLCK  ADVISORY  READ -1 fd:00:1234 201 201"), "only keeps others from writing");
        assert!(!of("1: OFDLCK  ADVISORY  READ -1 fd:00:5678 100 101"), "another file");
        assert!(!of("1: FLOCK   ADVISORY  WRITE 3568 fd:00:1234 0 EOF"), "another kind of lock");
        assert!(!of("1: -> OFDLCK ADVISORY READ -1 fd:00:1234 100 101"), "waits for it");
        assert!(!of(""));
    }

    #[test]
    fn only_qcow2_of_version_3_keeps_marks() {
        let of =
            |compat: &str| json!({ "format": "qcow2", "format-specific": { "data": { "compat": compat } } });
        assert!(keeps_marks(&of("1.1")));
        assert!(!keeps_marks(&of("0.10")));
        assert!(!keeps_marks(&json!({ "format": "raw" })));
    }
}
