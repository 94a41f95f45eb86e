//! Files that must survive a crash and a power failure: one helper for all crates.
//!
//! ```text
//!   Documents<T>   a directory of documents, one a name        claims/<uuid>.json
//!   Document<T>    magic, version, checksum, upgrades          host-id
//!        │
//!      Files       replace, create, remove, stage, append      keys, definitions, certificates
//!        │
//!      Faults      asked before each system call that changes something: tests crash there
//!
//!   FileLock, DirLock   one process at a time
//! ```
//!
//! Invariants, each proven by a crash before and within every system call and by a simulated loss of power after
//! every one:
//! * after a crash a file has its old content or its new one, whole; once a call has returned `Ok`, the new one;
//! * a file is never seen half-written by a reader, nor mixed by two writers;
//! * what a crash leaves under a temporary name is removed by the next write of that file, or by
//!   [`Files::recover`] and [`Files::recover_directory`];
//! * a call that fails with [`FileError::uncertain`] unset has changed nothing.
//!
//! Everything here blocks: asynchronous callers use a thread for it.

mod append;
mod document;
mod documents;
mod envelope;
pub mod faults;
mod files;
mod lock;
mod staged;

pub use append::Appended;
pub use document::{Content, Document, DocumentError, Upgrade};
pub use documents::{Documents, Listed};
pub use files::{FileError, Files, Mode};
pub use lock::{DirLock, FileLock, LockError};
pub use staged::Staged;
