//! A file under its temporary name, `<name>.part`, until it is whole.
//!
//! Whoever makes one holds a lock on it until it is published or dropped. So another writer of the same file can
//! tell a temporary file that is being written, for which it waits, from one that a crash left, which it removes. It
//! is removed and never written over: it can have another mode, somebody can have it open, and after a crash of
//! [`Staged::publish_new`] it is the published file itself under a second name.

use crate::faults::Step;
use crate::files::{FileError, Files, Mode, directory_of};
use rustix::fs::{FlockOperation, flock};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// How a temporary name ends.
const PART: &str = "part";

/// The temporary name of a file.
pub(crate) fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(PART);
    name.into()
}

/// A name that [`part_of`] makes.
pub(crate) fn is_part(path: &Path) -> bool {
    path.extension() == Some(OsStr::new(PART))
}

/// A file that is being written under a temporary name. Dropped without being published, it is removed.
#[derive(Debug)]
#[must_use = "it is removed again unless it is published"]
pub struct Staged {
    files: Files,
    file: File,
    part: PathBuf,
    target: PathBuf,
    /// The temporary name is still this file's.
    pending: bool,
    /// A write failed: nobody knows what the file holds.
    poisoned: bool,
}

impl Staged {
    pub(crate) fn begin(files: &Files, target: &Path, mode: Mode) -> Result<Self, FileError> {
        let part = part_of(target);
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(mode.bits());
            let file = match files.call(Step::Create(&part), "create", || options.open(&part)) {
                Err(error) if error.exists() => {
                    clear_when_free(files, &part)?;
                    continue;
                }
                created => created?,
            };
            // Another writer can have taken it for a left-over in the moment before it was locked.
            if lock_as(&file, &part, FlockOperation::LockExclusive)? {
                let target = target.to_owned();
                return Ok(Self { files: files.clone(), file, part, target, pending: true, poisoned: false });
            }
        }
    }

    /// Writes at the end of the file. After an error it cannot be published any more.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&mut self, data: &[u8]) -> Result<(), FileError> {
        self.whole("write")?;
        self.files.write(&self.file, &self.part, data).inspect_err(|_| self.poisoned = true)
    }

    /// The open file, for a library that writes by itself. What it does is no step that a test can stop at.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Makes the content durable under the temporary name, before [`Staged::publish`] does: for callers that have
    /// something to do between the two. After an error it cannot be published any more, because the kernel reports
    /// a failed write-back once only.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&mut self) -> Result<(), FileError> {
        self.whole("sync")?;
        self.files.sync_file(&self.file, &self.part).inspect_err(|_| self.poisoned = true)
    }

    /// Makes the content durable and gives it the name, durably. What had the name is gone.
    ///
    /// # Errors
    /// The file of that name is untouched, unless the error is uncertain.
    pub fn publish(mut self) -> Result<(), FileError> {
        self.sync()?;
        self.publish_synced()
    }

    /// The second half of [`Staged::publish`], after [`Staged::sync`].
    ///
    /// # Errors
    /// As [`Staged::publish`].
    pub fn publish_synced(mut self) -> Result<(), FileError> {
        self.take_name()?;
        self.files.sync_directory(directory_of(&self.target)).map_err(FileError::but_changed)
    }

    /// Gives the file the name without making anything durable; see [`Files::replace_for_this_boot`].
    ///
    /// # Errors
    /// The file of that name is untouched.
    pub fn publish_for_this_boot(mut self) -> Result<(), FileError> {
        self.take_name()
    }

    /// As [`Staged::publish`], where nothing may have the name yet.
    ///
    /// # Errors
    /// [`FileError::exists`] when something has it; that is untouched, and durable from then on.
    pub fn publish_new(mut self) -> Result<(), FileError> {
        self.sync()?;
        let directory = directory_of(&self.target).to_owned();
        // A rename would replace what somebody else made in between; a second name is refused then.
        if let Err(error) = self.files.hard_link(&self.part, &self.target) {
            if error.exists() {
                self.files.sync_directory(&directory)?;
            }
            return Err(error);
        }
        self.pending = false;
        self.files.unlink(&self.part).map_err(FileError::but_changed)?;
        self.files.sync_directory(&directory).map_err(FileError::but_changed)
    }

    fn take_name(&mut self) -> Result<(), FileError> {
        self.whole("publish")?;
        self.files.rename(&self.part, &self.target)?;
        self.pending = false;
        Ok(())
    }

    fn whole(&self, verb: &'static str) -> Result<(), FileError> {
        if self.poisoned {
            let reason = io::Error::other("an earlier write to it failed");
            return Err(FileError::new(verb, &self.part, reason));
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.pending {
            return;
        }
        if let Err(error) = self.files.unlink(&self.part) {
            // The next write of the file removes it.
            tracing::debug!(%error, reason = %error.source, "a temporary file is left");
        }
    }
}

/// Removes a temporary file that a crash left; one that somebody is writing is let be.
pub(crate) fn clear(files: &Files, part: &Path) -> Result<(), FileError> {
    clear_with(files, part, FlockOperation::NonBlockingLockExclusive)
}

/// Waits until nobody writes the temporary file, and removes it if it is still there then.
fn clear_when_free(files: &Files, part: &Path) -> Result<(), FileError> {
    clear_with(files, part, FlockOperation::LockExclusive)
}

fn clear_with(files: &Files, part: &Path, operation: FlockOperation) -> Result<(), FileError> {
    let mut options = OpenOptions::new();
    // A link to elsewhere is removed as it is: what it leads to is not opened, let alone locked.
    if part.symlink_metadata().is_ok_and(|meta| meta.is_symlink()) {
        return files.unlink(part);
    }
    let file = match options.read(true).open(part) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(|error| FileError::new("open", part, error))?,
    };
    if lock_as(&file, part, operation)? { files.unlink(part) } else { Ok(()) }
}

/// Locks a temporary file. False: it is locked by somebody else, or `part` is no longer its name.
fn lock_as(file: &File, part: &Path, operation: FlockOperation) -> Result<bool, FileError> {
    match flock(file, operation) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
        Err(error) => return Err(FileError::new("lock", part, error)),
    }
    let inspect = |error| FileError::new("inspect", part, error);
    let own = file.metadata().map_err(inspect)?;
    match part.symlink_metadata() {
        Ok(named) => Ok((named.dev(), named.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(inspect(error)),
    }
}
