//! Every system call that changes something on disk goes through here, and through [`standin_durable`] where a file is
//! written whole: one place for errors and for the crash points of tests.
//!
//! A [`CrashPoint`] counts those calls and has them fail when its number is up. Called by every other module of the
//! crate.

use crate::direct::Direct;
use crate::error::{Error, Result};
use crate::fault::CrashPoint;
use standin_durable::faults::Verdict;
use standin_durable::{Files, Mode, Staged};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The way to the file system. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Io {
    crash: Option<CrashPoint>,
    files: Files,
}

impl Io {
    pub(crate) fn new(crash: Option<CrashPoint>) -> Self {
        let files = crash.clone().map_or_else(Files::default, |crash| Files::with(Arc::new(crash)));
        Self { crash, files }
    }

    /// Whether a test lets this call happen.
    fn step(&self, name: &'static str, path: &Path) -> Result<()> {
        match self.crash.as_ref().map(|crash| crash.verdict(name, 0)) {
            Some(Verdict::Fail(error) | Verdict::Short(_, error)) => Err(Error::io(name, path, error)),
            Some(Verdict::Go) | None => Ok(()),
        }
    }

    /// How much of a write a test lets happen, and the error that follows then.
    fn let_through(&self, data: usize, path: &Path) -> Result<(usize, Option<std::io::Error>)> {
        match self.crash.as_ref().map(|crash| crash.verdict("write", data)) {
            Some(Verdict::Fail(error)) => Err(Error::io("write", path, error)),
            Some(Verdict::Short(length, error)) => Ok((length, Some(error))),
            Some(Verdict::Go) | None => Ok((data, None)),
        }
    }

    /// Makes a new file, or empties an old one, for reading and writing.
    pub(crate) fn create(&self, path: &Path) -> Result<Handle> {
        self.step("create", path)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| Error::io("create", path, e))?;
        Ok(Handle::over(file, path, self))
    }

    /// Opens a file for reading and writing; `create` makes it when it is missing.
    pub(crate) fn open_rw(&self, path: &Path, create: bool) -> Result<Handle> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|e| Error::io("open", path, e))?;
        Ok(Handle::over(file, path, self))
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        Ok(self.files.rename(from, to)?)
    }

    /// Renames within a directory, durably.
    pub(crate) fn rename_durably(&self, from: &Path, to: &Path) -> Result<()> {
        Ok(self.files.rename_durably(from, to)?)
    }

    /// Removes a file; one that is gone already is no error.
    pub(crate) fn remove(&self, path: &Path) -> Result<()> {
        Ok(self.files.unlink(path)?)
    }

    /// Removes a directory with all in it; one that is gone already is no error.
    pub(crate) fn remove_tree(&self, path: &Path) -> Result<()> {
        Ok(self.files.remove_tree(path)?)
    }

    /// Makes a directory with those above it. QEMU may run as another user.
    pub(crate) fn create_dir(&self, path: &Path) -> Result<()> {
        Ok(self.files.make_directory(path, Mode::Everybody)?)
    }

    pub(crate) fn hard_link(&self, from: &Path, to: &Path) -> Result<()> {
        Ok(self.files.hard_link(from, to)?)
    }

    pub(crate) fn sync_dir(&self, path: &Path) -> Result<()> {
        Ok(self.files.sync_directory(path)?)
    }

    /// Writes a whole small file so that after a crash either the old or the new one is there.
    pub(crate) fn write_atomic(&self, path: &Path, data: &[u8]) -> Result<()> {
        Ok(self.files.replace(path, data, Mode::Owner)?)
    }

    /// The first half of [`Io::write_atomic`]: the new file is durable under another name. It is published with
    /// [`Staged::publish_synced`]; until then nothing has changed, and on failure nothing is left.
    pub(crate) fn stage(&self, path: &Path, data: &[u8]) -> Result<Staged> {
        let mut staged = self.files.stage(path, Mode::Owner)?;
        staged.write(data)?;
        staged.sync()?;
        Ok(staged)
    }
}

/// An open file with its path, for errors.
#[derive(Debug)]
pub(crate) struct Handle {
    file: File,
    path: PathBuf,
    io: Io,
    direct: Direct,
}

impl Handle {
    fn over(file: File, path: &Path, io: &Io) -> Self {
        let direct = Direct::new(io.crash.as_ref().map(CrashPoint::direct).unwrap_or_default());
        Self { file, path: path.to_owned(), io: io.clone(), direct }
    }

    /// Opens a file for reading only.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        Ok(Self::over(file, path, &Io::default()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(|e| Error::io("inspect", &self.path, e))?.len())
    }

    /// Bytes that the file takes on its file system.
    pub(crate) fn stored(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(self.file.metadata().map_err(|e| Error::io("inspect", &self.path, e))?.blocks() * 512)
    }

    pub(crate) fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let failed = |e| Error::io("write", &self.path, e);
        let (length, error) = self.io.let_through(data.len(), &self.path)?;
        self.file.write_all_at(&data[..length], offset).map_err(failed)?;
        error.map_or(Ok(()), |error| Err(failed(error)))
    }

    /// Writes a run of guest data, around the page cache where it is long. How many bytes wait in the cache.
    pub(crate) fn write_run(&self, data: &[u8], offset: u64) -> Result<u64> {
        let failed = |e| Error::io("write", &self.path, e);
        let (length, error) = self.io.let_through(data.len(), &self.path)?;
        let data = &data[..length];
        let done = self.direct.write(&self.file, data, offset).map_err(failed)?;
        let rest = &data[done..];
        self.file.write_all_at(rest, offset + done as u64).map_err(failed)?;
        error.map_or(Ok(rest.len() as u64), |error| Err(failed(error)))
    }

    /// Has the file system find space for a run before it is written, and lengthens the file to its end. A help,
    /// no promise: where it cannot, the write that needs the space will say so.
    pub(crate) fn reserve(&self, offset: u64, length: u64) -> Result<()> {
        self.io.step("reserve", &self.path)?;
        let reserved = rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), offset, length);
        if let Err(error) = reserved {
            tracing::debug!(path = %self.path.display(), %error, "no space was reserved");
        }
        Ok(())
    }

    /// Reads exactly `buffer`; what lies behind the end of the file is an error.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|e| Error::io("read", &self.path, e))
    }

    /// Reads `buffer`; what lies behind the end of the file reads as zeros, as in a sparse file.
    pub(crate) fn read_padded(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", &self.path, e)),
            }
        }
        buffer[done..].fill(0);
        Ok(())
    }

    /// Data and size durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.io.step("fsync", &self.path)?;
        self.file.sync_data().map_err(|e| Error::io("sync", &self.path, e))
    }

    pub(crate) fn set_len(&self, length: u64) -> Result<()> {
        self.io.step("truncate", &self.path)?;
        self.file.set_len(length).map_err(|e| Error::io("resize", &self.path, e))
    }

    /// Gives the space of a run back; it reads as zeros after. Where the file system cannot, zeros are written.
    pub(crate) fn punch(&self, offset: u64, length: u64) -> Result<()> {
        use rustix::fs::FallocateFlags as Flags;
        self.io.step("punch", &self.path)?;
        match rustix::fs::fallocate(&self.file, Flags::PUNCH_HOLE | Flags::KEEP_SIZE, offset, length) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP) => self.write_zeros(offset, length),
            Err(e) => Err(Error::io("punch a hole in", &self.path, e.into())),
        }
    }

    fn write_zeros(&self, offset: u64, length: u64) -> Result<()> {
        const STEP: u64 = 1 << 20;
        let zeros = vec![0; 1 << 20];
        let mut done = 0;
        while done < length {
            let n = STEP.min(length - done);
            let part = &zeros[..crate::error::to_usize(n, "zero run")?];
            self.file.write_all_at(part, offset + done).map_err(|e| Error::io("write", &self.path, e))?;
            done += n;
        }
        Ok(())
    }
}

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut data = Vec::new();
    file.take(limit + 1).read_to_end(&mut data).map_err(|e| Error::io("read", path, e))?;
    if data.len() as u64 > limit {
        return Err(Error::corrupt(path, format!("it is larger than {limit} bytes")));
    }
    Ok(data)
}

/// Bytes an unprivileged process can still write at `path`, or at its directory if it does not exist.
pub(crate) fn free_bytes(path: &Path) -> Result<u64> {
    let stat =
        rustix::fs::statvfs(path).or_else(|_| rustix::fs::statvfs(path.parent().unwrap_or(path))).map_err(
            |e| Error::Io { op: "measure the free space at", path: path.to_owned(), source: e.into() },
        )?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
