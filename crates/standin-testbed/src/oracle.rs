//! The oracle: judges two disk images, of whatever format, that a test guest wrote.
//!
//! Called by the demo, the fault campaigns and the benchmarks, on the disks of a recovery point. Images that
//! are not raw are converted by `qemu-img` into a sparse temporary file; nothing of standin is used, so that a
//! mistake of standin's cannot hide itself.

use crate::judge;
pub use crate::judge::Verdict;
use anyhow::{Context, Result, bail};
use serde::ser::{Serialize, SerializeStruct, Serializer};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_struct("Verdict", 11)?;
        map.serialize_field("consistent", &self.consistent)?;
        map.serialize_field("records", &self.records)?;
        map.serialize_field("last_sequence", &self.last_sequence)?;
        map.serialize_field("last_written_at", &self.last_written_at)?;
        map.serialize_field("torn", &self.torn)?;
        map.serialize_field("lost", &self.lost)?;
        map.serialize_field("misplaced", &self.misplaced)?;
        map.serialize_field("broken_links", &self.broken_links)?;
        map.serialize_field("runs", &self.runs)?;
        map.serialize_field("slots", &self.slots)?;
        map.serialize_field("first_violation", &self.first_violation)?;
        map.end()
    }
}

/// How an image is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// By its first bytes, or by being a URI.
    Guess,
    /// Byte for byte.
    Raw,
    /// Through `qemu-img`.
    Qcow2,
}

/// Judges the images `a` and `b`: paths of raw or qcow2 files, or NBD URIs.
///
/// # Errors
/// When an image cannot be read or converted. What is wrong with its content is in the verdict.
pub fn judge_images(a: &str, b: &str, format: Format) -> Result<Verdict> {
    let scratch = tempfile::Builder::new()
        .prefix("standin-oracle-")
        .tempdir()
        .context("make a directory for converted images")?;
    let a = open(a, format, scratch.path().join("a.raw"))?;
    let b = open(b, format, scratch.path().join("b.raw"))?;
    judge::judge(&a, &b).context("read the images")
}

/// Judges two files whose formats their first bytes tell.
///
/// # Errors
/// As [`judge_images`].
pub fn judge_files(a: &Path, b: &Path) -> Result<Verdict> {
    judge_images(&a.to_string_lossy(), &b.to_string_lossy(), Format::Guess)
}

fn open(image: &str, format: Format, scratch: PathBuf) -> Result<File> {
    let raw = match format {
        Format::Raw => true,
        Format::Qcow2 => false,
        Format::Guess => !is_uri(image) && !is_qcow2(Path::new(image))?,
    };
    if !raw {
        convert(image, format, &scratch)?;
    }
    let path = if raw { Path::new(image) } else { &scratch };
    File::open(path).with_context(|| format!("open {}", path.display()))
}

fn is_uri(image: &str) -> bool {
    image.starts_with("nbd://") || image.starts_with("nbd+unix://")
}

fn is_qcow2(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut magic = Vec::new();
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    file.take(4).read_to_end(&mut magic).with_context(|| format!("read {}", path.display()))?;
    Ok(magic == *b"QFI\xfb")
}

fn convert(image: &str, format: Format, to: &Path) -> Result<()> {
    let mut command = Command::new("qemu-img");
    // -U: a running QEMU may hold the image; its records are durable before the next one is begun.
    command.args(["convert", "-U", "-O", "raw"]);
    if format == Format::Qcow2 || (format == Format::Guess && !is_uri(image)) {
        command.args(["-f", "qcow2"]);
    }
    let output = command.arg(image).arg(to).output().context("run qemu-img")?;
    if !output.status.success() {
        bail!("qemu-img cannot read {image}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
