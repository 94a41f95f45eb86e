//! One process at a time.
//!
//! A lock is one of the kernel on an open file, which no crash leaves behind. The file itself stays. Programs that
//! this process starts do not inherit it, and a drop frees it even while such a program is between its fork and its
//! exec, when it still shares the open file (flock(2): an unlock through any of the descriptors frees the lock).

use crate::files::{FileError, Files, Mode};
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Name of the lock file in a directory.
const FILE: &str = "lock";
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a lock was not taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another daemon holds the data directory.
    #[error(
        "the data directory {} is held by {holder}; end that daemon, or give this one another directory",
        .path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// `process N`, or a sentence where that cannot be told.
        holder: String,
    },
    /// Another process holds a file.
    #[error("{} is held by {holder}; end that process first", .path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// `process N`, or a sentence where that cannot be told.
        holder: String,
    },
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Holds a lock file until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl FileLock {
    /// Waits until nobody else holds the file, which is made if it does not exist. For locks that are held for
    /// milliseconds.
    ///
    /// # Errors
    /// The file cannot be made or locked.
    pub fn wait(path: &Path) -> Result<Self, FileError> {
        let file = open(path)?;
        flock(&file, FlockOperation::LockExclusive).map_err(|error| FileError::new("lock", path, error))?;
        Ok(Self { file })
    }

    /// Takes the file, which is made if it does not exist, and writes this process's id into it: that only serves
    /// the refusal of others. Tries again until `patience` is over.
    ///
    /// # Errors
    /// [`LockError::Held`] with the process that holds it, [`LockError::File`] for the rest.
    pub fn take(path: &Path, patience: Duration) -> Result<Self, LockError> {
        let mut file = open(path)?;
        let begun = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < patience => std::thread::sleep(PAUSE),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(LockError::Held { path: path.to_owned(), holder: holder(&mut file) });
                }
                Err(error) => return Err(FileError::new("lock", path, error).into()),
            }
        }
        let lock = Self { file };
        if let Err(error) = lock.write_pid() {
            // A full disk must not keep anybody from what lies on it.
            tracing::debug!(path = %path.display(), %error, "the lock does not tell who holds it");
        }
        Ok(lock)
    }

    fn write_pid(&self) -> io::Result<()> {
        let mut file = &self.file;
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            // The closing of the file that follows frees the lock as well.
            tracing::debug!(%error, "a lock is freed by closing its file");
        }
    }
}

/// Holds a data directory by the file `lock` in it: one daemon for one directory.
#[derive(Debug)]
pub struct DirLock {
    directory: PathBuf,
    _lock: FileLock,
}

impl DirLock {
    /// Takes the directory, which is made if it does not exist, readable by its owner only.
    ///
    /// # Errors
    /// [`LockError::Directory`] with the process that holds it, [`LockError::File`] for the rest.
    pub fn take(directory: impl Into<PathBuf>) -> Result<Self, LockError> {
        let directory = directory.into();
        Files::default().make_directory(&directory, Mode::Owner)?;
        match FileLock::take(&directory.join(FILE), Duration::ZERO) {
            Ok(lock) => Ok(Self { directory, _lock: lock }),
            Err(LockError::Held { holder, .. }) => Err(LockError::Directory { path: directory, holder }),
            Err(error) => Err(error),
        }
    }

    /// The directory that is held.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

fn open(path: &Path) -> Result<File, FileError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(Mode::Owner.bits());
    options.open(path).map_err(|error| FileError::new("open", path, error))
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
