//! A file that only grows: each piece is durable when the call returns.

use crate::faults::Step;
use crate::files::{FileError, Files, Mode, directory_of};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// A file that is appended to. After an error it takes nothing more: what is at its end is not known, and only
/// whoever opens it again can look.
#[derive(Debug)]
pub struct Appended {
    files: Files,
    file: File,
    path: PathBuf,
    length: u64,
    poisoned: bool,
}

impl Appended {
    pub(crate) fn open(files: &Files, path: &Path, mode: Mode) -> Result<Self, FileError> {
        let mut options = OpenOptions::new();
        options.append(true).mode(mode.bits());
        let file = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                files.call(Step::Create(path), "create", || options.create(true).open(path))?
            }
            opened => opened.map_err(|error| FileError::new("open", path, error))?,
        };
        // Also for a file that is there: whoever made it may have crashed before this.
        files.sync_directory(directory_of(path))?;
        let length = file.metadata().map_err(|error| FileError::new("inspect", path, error))?.len();
        Ok(Self { files: files.clone(), file, path: path.to_owned(), length, poisoned: false })
    }

    /// Bytes in the file, as far as this handle knows.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Appends, durably. A crash leaves none, some or all of the bytes; once this has returned, all.
    ///
    /// # Errors
    /// The system's, or that an earlier call failed.
    pub fn append(&mut self, data: &[u8]) -> Result<(), FileError> {
        if self.poisoned {
            let reason = io::Error::other("an earlier write to it failed; open it again");
            return Err(FileError::new("append to", &self.path, reason));
        }
        self.poisoned = true;
        self.files.write(&self.file, &self.path, data).map_err(FileError::but_changed)?;
        let sync = || self.file.sync_data();
        self.files.call(Step::Sync(&self.path), "sync", sync).map_err(FileError::but_changed)?;
        self.length += data.len() as u64;
        self.poisoned = false;
        Ok(())
    }
}
