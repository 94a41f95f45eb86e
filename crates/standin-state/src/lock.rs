//! One daemon for one data directory.

use crate::Result;
use crate::error::StateError;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Name of the lock file in the data directory.
const FILE: &str = "lock";

/// Holds a data directory until it is dropped or the process ends, however it ends.
///
/// It is a lock of the kernel on an open file, which no crash leaves behind. The file stays: its content, the
/// process id of the holder, only serves the refusal. Programs that this process starts do not inherit it, and
/// a drop frees the directory even while such a program is between its fork and its exec, when it still shares
/// the open file (flock(2): an unlock through any of the descriptors frees the lock).
#[derive(Debug)]
pub struct DirLock {
    directory: PathBuf,
    file: File,
}

impl DirLock {
    /// Takes the directory, which is made if it does not exist, readable by its owner only.
    ///
    /// # Errors
    /// [`StateError::DirectoryHeld`] with the process that holds it, [`StateError::Io`] for the rest.
    pub fn take(directory: impl Into<PathBuf>) -> Result<Self> {
        let directory = directory.into();
        let failed = |action, source| StateError::Io { action, path: directory.clone(), source };
        make(&directory).map_err(|source| failed("make the data directory", source))?;
        let path = directory.join(FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| failed("open the lock file in", source))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(StateError::DirectoryHeld { path: directory, holder: holder(&mut file) });
            }
            Err(error) => return Err(failed("lock", error.into())),
        }
        write_pid(&mut file).map_err(|source| failed("write the lock file in", source))?;
        Ok(Self { directory, file })
    }

    /// The directory that is held.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Should it fail, the closing of the file that follows frees the lock as well.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

fn make(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// The process that holds the lock, as far as the file tells: its holder may not have written it yet.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(32).read_to_string(&mut text);
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!("process {pid}"),
        _ => "another process (`fuser` on its lock file tells which)".to_owned(),
    }
}
