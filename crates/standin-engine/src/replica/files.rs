//! The files of VM configurations (kernel, initrd, firmware, NVRAM) on a replica: kept by the hash of their
//! content in the directory `files` of the replica, once for all points that have them.

use super::layer::blocking;
use super::reason::Receive;
use crate::messages::{ConfigFileInfo, MAX_CONFIG_FILE};
use standin_durable::{FileError, Files, Mode};
use standin_model::Refusal;
use standin_model::reason::Text;
use standin_wire::{BlockData, ReceivedBlock};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Roles that a configuration can have, so that no name of a peer becomes a path.
const ROLES: [&str; 4] = ["kernel", "initrd", "firmware", "nvram"];

/// How much of a file is in memory at once.
const PIECE: usize = 256 << 10;

fn failed(verb: &'static str, path: &Path, error: &std::io::Error) -> Refusal {
    Receive::File { verb, path: path.to_owned(), error: error.to_string() }.into()
}

fn failed_file(error: FileError) -> Refusal {
    failed(error.verb, &error.path, &error.source)
}

/// The place of a content.
#[must_use]
pub fn path_of(replica: &Path, hash: &str) -> PathBuf {
    replica.join("files").join(hash)
}

/// Checks what a peer says of its files before anything is done with it.
///
/// # Errors
/// 32773 that names what is wrong.
pub fn check(files: &[ConfigFileInfo]) -> Result<(), Refusal> {
    let wrong = |what: String| Err(Receive::FilesInvalid { what }.into());
    let mut seen = BTreeSet::new();
    for file in files {
        if !ROLES.contains(&file.role.as_str()) || !seen.insert(&file.role) {
            return wrong(format!("the role {:?}", file.role.chars().take(32).collect::<String>()));
        }
        if file.hash.len() != 64 || !file.hash.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
            return wrong(format!("the hash of {}", file.role));
        }
        if file.length > MAX_CONFIG_FILE {
            return wrong(format!("{} bytes of {}", file.length, file.role));
        }
    }
    Ok(())
}

/// Which of `files` the replica does not have.
#[must_use]
pub fn wanted(replica: &Path, files: &[ConfigFileInfo]) -> Vec<ConfigFileInfo> {
    let missing = |file: &&ConfigFileInfo| {
        !std::fs::metadata(path_of(replica, &file.hash)).is_ok_and(|meta| meta.len() == file.length)
    };
    files.iter().filter(missing).cloned().collect()
}

/// Receives files, one after the other in one stream.
pub struct Incoming {
    replica: PathBuf,
    files: Vec<ConfigFileInfo>,
    part: PathBuf,
    file: File,
    length: u64,
    digest: standin_model::digest::DeltaDigest,
}

impl Incoming {
    /// Makes ready for `files`.
    ///
    /// # Errors
    /// 32768 when the directory cannot be written.
    pub fn new(replica: &Path, files: Vec<ConfigFileInfo>) -> Result<Self, Refusal> {
        let dir = replica.join("files");
        Files::default().make_directory(&dir, Mode::Everybody).map_err(failed_file)?;
        let part = dir.join("incoming.part");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&part)
            .map_err(|error| failed("make", &part, &error))?;
        let length = files.iter().map(|file| file.length).sum();
        Ok(Self { replica: replica.to_owned(), files, part, file, length, digest: Default::default() })
    }

    /// Takes a block of the stream.
    ///
    /// # Errors
    /// When it is damaged, outside of what was offered, or cannot be written.
    pub fn push(&mut self, block: ReceivedBlock) -> Result<(), Refusal> {
        let block = block
            .decode()
            .map_err(|error| Receive::Block(Text::new(crate::error::chain(&error), error.remedy())))?;
        if block.offset.checked_add(block.length).is_none_or(|end| end > self.length) {
            return Err(Receive::FilesTooLong.into());
        }
        if let BlockData::Data(data) = &block.data {
            self.file
                .write_all_at(data, block.offset)
                .map_err(|error| failed("write", &self.part, &error))?;
        }
        crate::primary::pass::add_to_digest(
            &mut self.digest,
            block.offset,
            block.length,
            block.granule,
            &block.digests,
        );
        Ok(())
    }

    /// All has arrived: each file is verified against its hash and put in its place, durably.
    ///
    /// # Errors
    /// When a content is not what its hash says, or cannot be written.
    pub async fn finish(self, digest: &str) -> Result<(), Refusal> {
        if self.digest.to_string() != digest {
            return Err(Receive::FilesDiffer.into());
        }
        blocking(move || self.place()).await
    }

    fn place(self) -> Result<(), Refusal> {
        self.file.set_len(self.length).map_err(|error| failed("write", &self.part, &error))?;
        let mut at = 0;
        for info in &self.files {
            self.place_one(info, at)?;
            at += info.length;
        }
        std::fs::remove_file(&self.part).map_err(|error| failed("remove", &self.part, &error))
    }

    /// Copies one file out of the stream, piece by piece: they are too large to hold in memory.
    fn place_one(&self, info: &ConfigFileInfo, at: u64) -> Result<(), Refusal> {
        let target = path_of(&self.replica, &info.hash);
        // QEMU may run as another user.
        let mut staged = Files::default().stage(&target, Mode::Everybody).map_err(failed_file)?;
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; PIECE];
        let mut done = 0;
        while done < info.length {
            let length = (info.length - done).min(PIECE as u64);
            let piece = &mut piece[..usize::try_from(length).unwrap_or(PIECE)];
            self.file.read_exact_at(piece, at + done).map_err(|error| failed("read", &self.part, &error))?;
            hasher.update(piece);
            staged.write(piece).map_err(failed_file)?;
            done += length;
        }
        if hasher.finalize().to_hex().as_str() != info.hash {
            return Err(Receive::FileDiffers { role: info.role.clone() }.into());
        }
        staged.publish().map_err(failed_file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(role: &str, hash: &str, length: u64) -> ConfigFileInfo {
        ConfigFileInfo { role: role.into(), hash: hash.into(), length }
    }

    #[test]
    fn what_a_peer_says_of_files_never_becomes_another_path() {
        let hash = "ab".repeat(32);
        assert!(check(&[info("kernel", &hash, 1)]).is_ok());
        for bad in [
            info("../kernel", &hash, 1),
            info("kernel", "../../../etc/passwd", 1),
            info("kernel", &"AB".repeat(32), 1),
            info("kernel", &hash, MAX_CONFIG_FILE + 1),
        ] {
            assert!(check(std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        }
        assert!(check(&[info("kernel", &hash, 1), info("kernel", &hash, 1)]).is_err());
    }
}
