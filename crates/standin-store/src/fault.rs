//! Faults for tests: how a store behaves whose process is killed, whose disk is full, or whose file system has no
//! direct writes, each at every place where that can happen. [`crate::io`] asks before each call that changes
//! something, and so does [`standin_durable`] for the files that it replaces.

use standin_durable::faults::{Crashed, Faults, Step, Verdict};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// What does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// This call and every later one fail without doing anything, as if the process had been killed: what a test
    /// finds on disk then is what a kill -9 would have left.
    Kill,
    /// This call and every later one that needs space fail as the kernel does. A write puts half of its bytes
    /// there first: a short write, and then the error.
    Full,
}

/// How a file system answers direct writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DirectWrites {
    /// As it does.
    #[default]
    AsIs,
    /// A file cannot be opened for them.
    RefusedAtOpen,
    /// A file can; a write ends short, and the rest of it is refused.
    RefusedHalfWay,
}

/// Calls that do not fail for want of space: they give space back, stay within a directory, or are only a help.
const NEED_NO_SPACE: [&str; 6] = ["remove", "remove tree", "punch", "reserve", "rename", "fsync directory"];

/// Lets a number of changing system calls of a store through, and then has them fail.
#[derive(Debug, Clone)]
pub struct CrashPoint {
    left: Arc<AtomicI64>,
    taken: Arc<AtomicU64>,
    fault: Fault,
    direct: DirectWrites,
}

impl CrashPoint {
    /// Lets `steps` changing calls through, then none: the process is gone.
    #[must_use]
    pub fn after(steps: i64) -> Self {
        Self::new(steps, Fault::Kill)
    }

    /// Lets `steps` calls through that need space, then none until [`Self::arm`]: the disk is full.
    #[must_use]
    pub fn full_after(steps: i64) -> Self {
        Self::new(steps, Fault::Full)
    }

    /// Everything works, but for direct writes.
    #[must_use]
    pub fn direct_writes(direct: DirectWrites) -> Self {
        Self { direct, ..Self::after(i64::MAX) }
    }

    fn new(steps: i64, fault: Fault) -> Self {
        let (left, taken) = (Arc::new(AtomicI64::new(steps)), Arc::new(AtomicU64::new(0)));
        Self { left, taken, fault, direct: DirectWrites::AsIs }
    }

    /// The fault happened.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }

    /// Changing calls that were let through so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }

    /// Sets the number of calls still to be let through.
    pub fn arm(&self, steps: i64) {
        self.left.store(steps, Ordering::SeqCst);
    }

    pub(crate) fn direct(&self) -> DirectWrites {
        self.direct
    }

    /// What becomes of a call with that many bytes.
    pub(crate) fn verdict(&self, name: &'static str, bytes: usize) -> Verdict {
        if self.fault == Fault::Full && NEED_NO_SPACE.contains(&name) {
            return Verdict::Go;
        }
        if self.left.fetch_sub(1, Ordering::SeqCst) > 0 {
            self.taken.fetch_add(1, Ordering::SeqCst);
            return Verdict::Go;
        }
        self.left.store(-1, Ordering::SeqCst);
        match self.fault {
            Fault::Kill => Verdict::Fail(Crashed(name).error()),
            Fault::Full => Verdict::Short(bytes / 2, rustix::io::Errno::NOSPC.into()),
        }
    }
}

impl Faults for CrashPoint {
    fn before(&self, step: &Step<'_>) -> Verdict {
        let bytes = if let Step::Write { data, .. } = step { data.len() } else { 0 };
        self.verdict(step.name(), bytes)
    }
}
