//! Crash points: what a test can do before each system call that changes something on disk.
//!
//! The state after a call is the state before the next one, so a test that stops before every call, within every
//! write, and not at all has seen every state that a process can leave.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;

/// A system call that changes something.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Step<'a> {
    /// Makes a new, empty file.
    Create(&'a Path),
    /// Writes at the end of a file.
    Write {
        /// Which file.
        path: &'a Path,
        /// What is written.
        data: &'a [u8],
    },
    /// Makes a file's content durable.
    Sync(&'a Path),
    /// Gives a file another name; what had that name is gone.
    Rename {
        /// Its name so far.
        from: &'a Path,
        /// Its new name.
        to: &'a Path,
    },
    /// Gives a file a second name, which nothing has.
    Link {
        /// Its name.
        from: &'a Path,
        /// Its second name.
        to: &'a Path,
    },
    /// Removes a name.
    Remove(&'a Path),
    /// Removes a directory with all that is in it: many calls.
    RemoveTree(&'a Path),
    /// Makes a directory.
    MakeDirectory(&'a Path),
    /// Makes the names in a directory durable.
    SyncDirectory(&'a Path),
}

impl<'a> Step<'a> {
    /// What the call is named in logs and tests.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Write { .. } => "write",
            Self::Sync(_) => "fsync",
            Self::Rename { .. } => "rename",
            Self::Link { .. } => "link",
            Self::Remove(_) => "remove",
            Self::RemoveTree(_) => "remove tree",
            Self::MakeDirectory(_) => "mkdir",
            Self::SyncDirectory(_) => "fsync directory",
        }
    }

    /// The file or directory; the new name where there are two.
    #[must_use]
    pub const fn path(&self) -> &'a Path {
        match self {
            Self::Create(path)
            | Self::Write { path, .. }
            | Self::Sync(path)
            | Self::Remove(path)
            | Self::RemoveTree(path)
            | Self::MakeDirectory(path)
            | Self::SyncDirectory(path)
            | Self::Rename { to: path, .. }
            | Self::Link { to: path, .. } => path,
        }
    }
}

/// What becomes of a call.
#[derive(Debug)]
pub enum Verdict {
    /// It is made.
    Go,
    /// It fails and does nothing.
    Fail(io::Error),
    /// A write puts that many bytes there and fails then. Any other call fails and does nothing.
    Short(usize, io::Error),
}

/// Decides over each call of a [`Files`](crate::Files). The daemon has none.
///
/// | Implementation | Does |
/// | --- | --- |
/// | [`Crash`] | lets a number of calls through, then none: a killed process |
/// | `standin_store::CrashPoint` | the same, or a full disk, for the calls of the store too |
/// | the recorder in this crate's tests | writes down every call, to make every state that a loss of power can leave |
pub trait Faults: Debug + Send + Sync {
    /// Asked before the call.
    fn before(&self, step: &Step<'_>) -> Verdict;

    /// Told after the call has succeeded.
    fn after(&self, _step: &Step<'_>) {}
}

/// The error of a call that a test stopped as if the process had been killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("crashed on purpose before the step {0}")]
pub struct Crashed(pub &'static str);

impl Crashed {
    /// As the error of a system call.
    #[must_use]
    pub fn error(self) -> io::Error {
        io::Error::other(self)
    }

    /// The crash behind an error, if a test made it.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref()).copied()
    }
}

/// Lets a number of stops pass, then nothing any more: what is on disk then is what a kill -9 would have left. A
/// write has two stops, before it and half-way through it; every other call has one.
#[derive(Debug)]
pub struct Crash {
    left: AtomicU64,
    passed: AtomicU64,
}

impl Crash {
    /// Crashes at stop number `stop`, counted from 0.
    #[must_use]
    pub const fn at(stop: u64) -> Self {
        Self { left: AtomicU64::new(stop), passed: AtomicU64::new(0) }
    }

    /// Never crashes; counts.
    #[must_use]
    pub const fn never() -> Self {
        Self::at(u64::MAX)
    }

    /// Stops that were passed.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    /// The process is dead.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    fn pass(&self) -> bool {
        let passed =
            self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        self.passed.fetch_add(u64::from(passed), Ordering::SeqCst);
        passed
    }
}

impl Faults for Crash {
    fn before(&self, step: &Step<'_>) -> Verdict {
        let crashed = Crashed(step.name()).error();
        match step {
            _ if !self.pass() => Verdict::Fail(crashed),
            Step::Write { data, .. } if !self.pass() => Verdict::Short(data.len() / 2, crashed),
            _ => Verdict::Go,
        }
    }
}
