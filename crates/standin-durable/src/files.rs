//! The way to the file system: files that are replaced, made or removed as a whole, and the single system calls
//! for callers that have an order of their own.

use crate::append::Appended;
use crate::faults::{Faults, Step, Verdict};
use crate::staged::{self, Staged};
use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// A file could not be changed or read.
#[derive(Debug, Error)]
#[error("cannot {verb} {}", .path.display())]
pub struct FileError {
    /// Verb, as in "cannot VERB PATH".
    pub verb: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
    /// The change was made, but whether it would survive a loss of power is not known. Unset: nothing has changed.
    pub uncertain: bool,
}

impl FileError {
    /// An error after which everything is as it was.
    pub fn new(verb: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self { verb, path: path.into(), source: source.into(), uncertain: false }
    }

    /// There is a file of that name already.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }

    pub(crate) fn but_changed(self) -> Self {
        Self { uncertain: true, ..self }
    }
}

/// Who may read a new file or list a new directory. The process's umask can take more away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Its owner only (0600, a directory 0700): keys, passwords, and whatever nobody else needs.
    #[default]
    Owner,
    /// Everybody (0644, a directory 0755).
    Everybody,
}

impl Mode {
    /// The permission bits of a file.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Everybody => 0o644,
        }
    }

    const fn directory_bits(self) -> u32 {
        match self {
            Self::Owner => 0o700,
            Self::Everybody => 0o755,
        }
    }
}

/// The way to the file system. The default is the real one; a test puts [`Faults`] in between. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Files {
    faults: Option<Arc<dyn Faults>>,
}

impl Files {
    /// Has `faults` decide over every call.
    #[must_use]
    pub fn with(faults: Arc<dyn Faults>) -> Self {
        Self { faults: Some(faults) }
    }

    /// Writes the whole file anew, durably: temporary file, fsync, rename, fsync of the directory.
    ///
    /// # Errors
    /// The old file is untouched unless the error is uncertain.
    pub fn replace(&self, path: &Path, data: &[u8], mode: Mode) -> Result<(), FileError> {
        let mut staged = self.stage(path, mode)?;
        staged.write(data)?;
        staged.publish()
    }

    /// As [`Files::replace`], but for this boot only: a killed process leaves the old file or the new one, a loss of
    /// power may leave anything, an empty file among it. The content must tell by itself whether it is of this boot.
    ///
    /// # Errors
    /// The old file is untouched.
    pub fn replace_for_this_boot(&self, path: &Path, data: &[u8], mode: Mode) -> Result<(), FileError> {
        let mut staged = self.stage(path, mode)?;
        staged.write(data)?;
        staged.publish_for_this_boot()
    }

    /// Makes a file that is not there yet, whole and durable. Of several that do so at once, one succeeds.
    ///
    /// # Errors
    /// [`FileError::exists`] when there is one, which is untouched.
    pub fn create(&self, path: &Path, data: &[u8], mode: Mode) -> Result<(), FileError> {
        let mut staged = self.stage(path, mode)?;
        staged.write(data)?;
        staged.publish_new()
    }

    /// Begins a file that takes the name `path` when it is published. Another writer of the same file waits until
    /// then, or until it is dropped.
    ///
    /// # Errors
    /// No file can be made beside `path`.
    pub fn stage(&self, path: &Path, mode: Mode) -> Result<Staged, FileError> {
        Staged::begin(self, path, mode)
    }

    /// Opens a file to append to, and makes it when it is missing.
    ///
    /// # Errors
    /// It cannot be opened, or a new one not be made durable.
    pub fn append(&self, path: &Path, mode: Mode) -> Result<Appended, FileError> {
        Appended::open(self, path, mode)
    }

    /// Removes a file, durably. One that is gone already is no error, and its absence is durable then too.
    ///
    /// # Errors
    /// It is still there, unless the error is uncertain.
    pub fn remove(&self, path: &Path) -> Result<(), FileError> {
        self.unlink(path)?;
        let directory = directory_of(path);
        if !directory.exists() {
            return Ok(());
        }
        self.sync_directory(directory).map_err(FileError::but_changed)
    }

    /// Makes a directory, with those above it, durably. One that is there is left as it is, its mode too.
    ///
    /// # Errors
    /// It cannot be made, or something else has its name.
    pub fn make_directory(&self, path: &Path, mode: Mode) -> Result<(), FileError> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = directory_of(path);
        self.make_directory(parent, mode)?;
        let made = self.call(Step::MakeDirectory(path), "make the directory", || {
            DirBuilder::new().mode(mode.directory_bits()).create(path)
        });
        match made {
            Err(error) if !(error.exists() && path.is_dir()) => Err(error),
            // Whoever made it in between may not have synced it yet.
            _ => self.sync_directory(parent),
        }
    }

    /// Removes what a crash left beside `path`, and makes durable that it is there or not: what is read from then on
    /// survives a loss of power.
    ///
    /// # Errors
    /// The directory is missing or cannot be written.
    pub fn recover(&self, path: &Path) -> Result<(), FileError> {
        let part = staged::part_of(path);
        if part.exists() {
            staged::clear(self, &part)?;
        }
        self.sync_directory(directory_of(path))
    }

    /// As [`Files::recover`], for a directory whose files are all written by this crate.
    ///
    /// # Errors
    /// The directory is missing or cannot be written.
    pub fn recover_directory(&self, directory: &Path) -> Result<(), FileError> {
        let failed = |error| FileError::new("list", directory, error);
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if staged::is_part(&path) {
                staged::clear(self, &path)?;
            }
        }
        self.sync_directory(directory)
    }
}

/// Single system calls. The caller orders them and says when names become durable.
impl Files {
    /// Gives a file another name.
    ///
    /// # Errors
    /// The system's.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), FileError> {
        self.call(Step::Rename { from, to }, "rename", || std::fs::rename(from, to))
            .map_err(|error| FileError { path: from.to_owned(), ..error })
    }

    /// Gives a file another name in its directory, durably. Its content must be durable already.
    ///
    /// # Errors
    /// The names are as they were, unless the error is uncertain.
    pub fn rename_durably(&self, from: &Path, to: &Path) -> Result<(), FileError> {
        self.rename(from, to)?;
        self.sync_directory(directory_of(to)).map_err(FileError::but_changed)
    }

    /// Gives a file a second name, which must be free.
    ///
    /// # Errors
    /// [`FileError::exists`], or the system's.
    pub fn hard_link(&self, from: &Path, to: &Path) -> Result<(), FileError> {
        self.call(Step::Link { from, to }, "link", || std::fs::hard_link(from, to))
    }

    /// Removes a file's name; one that is gone already is no error.
    ///
    /// # Errors
    /// The system's.
    pub fn unlink(&self, path: &Path) -> Result<(), FileError> {
        self.call(Step::Remove(path), "remove", || gone_is_fine(std::fs::remove_file(path)))
    }

    /// Removes a directory with all in it; one that is gone already is no error. After an error or a crash any part
    /// of it can be left.
    ///
    /// # Errors
    /// The system's.
    pub fn remove_tree(&self, path: &Path) -> Result<(), FileError> {
        self.call(Step::RemoveTree(path), "remove", || gone_is_fine(std::fs::remove_dir_all(path)))
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// The system's. What is on disk is not known then.
    pub fn sync_directory(&self, directory: &Path) -> Result<(), FileError> {
        self.call(Step::SyncDirectory(directory), "sync the directory", || File::open(directory)?.sync_all())
    }

    pub(crate) fn sync_file(&self, file: &File, path: &Path) -> Result<(), FileError> {
        self.call(Step::Sync(path), "sync", || file.sync_all())
    }

    /// Writes at the file's position. After an error any part of `data` can be there.
    pub(crate) fn write(&self, mut file: &File, path: &Path, data: &[u8]) -> Result<(), FileError> {
        let failed = |error| FileError::new("write", path, error);
        let step = Step::Write { path, data };
        match self.verdict(&step) {
            Verdict::Go => file.write_all(data).map_err(failed)?,
            Verdict::Fail(error) => return Err(failed(error)),
            Verdict::Short(length, error) => {
                file.write_all(data.get(..length).unwrap_or(data)).map_err(failed)?;
                return Err(failed(error));
            }
        }
        self.done(&step);
        Ok(())
    }

    pub(crate) fn call<T>(
        &self,
        step: Step<'_>,
        verb: &'static str,
        call: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, FileError> {
        let failed = |error| FileError::new(verb, step.path(), error);
        match self.verdict(&step) {
            Verdict::Go => {}
            Verdict::Fail(error) | Verdict::Short(_, error) => return Err(failed(error)),
        }
        let result = call().map_err(failed)?;
        self.done(&step);
        Ok(result)
    }

    fn verdict(&self, step: &Step<'_>) -> Verdict {
        self.faults.as_ref().map_or(Verdict::Go, |faults| faults.before(step))
    }

    fn done(&self, step: &Step<'_>) {
        if let Some(faults) = &self.faults {
            faults.after(step);
        }
    }
}

/// The directory that a file's name is in.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
