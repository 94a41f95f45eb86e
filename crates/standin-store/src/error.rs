//! What can go wrong in the store. One type, because callers branch on few of its cases: no space, unknown
//! things, things in use, and everything else.

use standin_durable::FileError;
use standin_durable::faults::Crashed;
use standin_model::{DiskName, Epoch, PointId, VmId};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What a store call returns.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the store. `Display` says what happened to which file, VM or disk, and what to do next where
/// a person can do something.
#[derive(Debug, Error)]
pub enum Error {
    /// A system call failed.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// Verb, as in "cannot VERB PATH".
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file system is full, or would fall below the reserve.
    #[error(
        "no space for {needed} bytes at {}: {free} bytes are free; free some space or shorten the retention, \
         then replication goes on by itself",
        path.display()
    )]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// Bytes that were wanted, the reserve included.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A file of the store does not hold what it must.
    #[error("{} is damaged: {what}; run `standin store check` to see which recovery points are good", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Neither copy of a replica's manifest can be used.
    #[error(
        "the manifest of the replica of VM {vm} in {} is lost: {what}; its disks and recovery points are not: `standin \
         store repair {vm}` builds it again from them",
        directory.display()
    )]
    ManifestLost {
        /// The VM's name in the directory's name.
        vm: String,
        /// The replica's directory.
        directory: PathBuf,
        /// What is wrong with the copies.
        what: String,
    },
    /// A manifest cannot be built again.
    #[error(
        "the manifest in {} cannot be built again: {why}; its layers are as they were, and can be used by hand as \
         docs/rescue.md says",
        directory.display()
    )]
    NotProvable {
        /// The replica's directory.
        directory: PathBuf,
        /// What is missing.
        why: String,
    },
    /// A manifest of a later version.
    #[error("{} has format {format}: it was written by a newer standin; update this one", path.display())]
    Newer {
        /// The manifest.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// A request that makes no sense; a bug of the caller or of the peer.
    #[error("refused: {0}")]
    Invalid(String),
    /// No replica of this VM here.
    #[error("there is no replica of VM {0} here")]
    UnknownVm(VmId),
    /// The replica has no such disk.
    #[error("the replica of VM {vm} has no disk {disk}")]
    UnknownDisk {
        /// Whose.
        vm: VmId,
        /// Which.
        disk: DiskName,
    },
    /// The replica has no such point.
    #[error("the replica of VM {vm} has no recovery point {point}; `standin points` lists those it has")]
    UnknownPoint {
        /// Whose.
        vm: VmId,
        /// Which.
        point: PointId,
    },
    /// Nothing was sealed with this epoch, or it was merged away.
    #[error("the replica of VM {vm} has no layer of epoch {epoch}")]
    UnknownEpoch {
        /// Whose.
        vm: VmId,
        /// Which.
        epoch: Epoch,
    },
    /// The replica has no such overlay.
    #[error("the replica of VM {vm} has no overlay {id:?}")]
    UnknownOverlay {
        /// Whose.
        vm: VmId,
        /// Which.
        id: String,
    },
    /// It is there already.
    #[error("{0} exists already")]
    Exists(String),
    /// Another process holds the replica.
    #[error("{} is held by another process; stop that daemon first", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// Something else of this replica is in the way; try again when it is done.
    #[error("the replica of VM {vm} is in use: {what}")]
    Busy {
        /// Whose.
        vm: VmId,
        /// By what.
        what: String,
    },
    /// An earlier I/O error left the handle in an unknown state.
    #[error("an earlier error made this writer unusable; discard it and begin the layer again")]
    Poisoned,
    /// The crash of a test's [`CrashPoint`](crate::CrashPoint).
    #[error("crashed on purpose at step {0}")]
    Crashed(&'static str),
}

impl Error {
    pub(crate) fn io(op: &'static str, path: &Path, source: std::io::Error) -> Self {
        if let Some(Crashed(step)) = Crashed::of(&source) {
            return Self::Crashed(step);
        }
        match source.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => Self::NoSpace {
                path: path.to_owned(),
                needed: 1,
                free: crate::io::free_bytes(path).unwrap_or(0),
            },
            _ => Self::Io { op, path: path.to_owned(), source },
        }
    }

    pub(crate) fn corrupt(path: &Path, what: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), what: what.into() }
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid(what.into())
    }
}

impl From<FileError> for Error {
    fn from(error: FileError) -> Self {
        Self::io(error.verb, &error.path, error.source)
    }
}

/// A `usize` of a `u64` that is known to be small; an error instead of a truncation where it is not.
pub(crate) fn to_usize(value: u64, what: &str) -> Result<usize> {
    usize::try_from(value).map_err(|_| Error::Invalid(format!("{what} of {value} does not fit in memory")))
}
