//! What can go wrong with the state, and what to do then.

use crate::store::{Expect, Revision};
use std::path::PathBuf;
use thiserror::Error;

/// Why a call failed. Nothing was changed by it, except where [`StateError::Io`] says otherwise.
#[derive(Debug, Error)]
pub enum StateError {
    /// Somebody else wrote the record in between.
    #[error(
        "the record {key} was changed by somebody else: {expected} was expected and {found} found; \
         read it again and repeat the change"
    )]
    Conflict {
        /// Which record.
        key: String,
        /// What the writer expected.
        expected: Expect,
        /// Its revision now; `None` when it does not exist.
        found: Found,
    },

    /// A key that cannot be used.
    #[error("{shown:?} cannot be a key of the state: {reason}")]
    BadKey {
        /// The key, cut to 64 characters.
        shown: String,
        /// What is allowed.
        reason: &'static str,
    },

    /// A transaction that names a record twice.
    #[error(
        "the record {key} is named twice in one transaction, and which of the two would hold is not defined; this is a \
         defect of standin, please report it"
    )]
    Twice {
        /// Which record.
        key: String,
    },

    /// A record or a transaction over the limit.
    #[error("{what} is {size} large, and {limit} is the limit; split it up")]
    TooLarge {
        /// What it is.
        what: String,
        /// Bytes or operations.
        size: usize,
        /// The most that is allowed, in the same unit.
        limit: usize,
    },

    /// The file is not what was written to it.
    #[error(
        "the state in {path} is damaged: {detail}; stop the daemon, move the file aside, put a backup of it in its place if \
         there is one, and start the daemon: without the file it makes an empty one and finds the replicas beside their \
         disks; then `standin auth add` lets their primaries go on, and `standin replicate` goes on with what this host sent"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },

    /// Another process has the file open.
    #[error("the state in {path} is open in another process; end the other standin daemon first")]
    InUse {
        /// The file.
        path: PathBuf,
    },

    /// The system refused a call. After a failed write the store refuses all further calls.
    #[error("{action} {path}; check the disk and its free space, then restart the daemon")]
    Io {
        /// What was tried: verb and object.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },

    /// A write failed before, so what is on the disk is not known.
    #[error("the state in {path} is closed after an earlier error; restart the daemon, which checks it")]
    Closed {
        /// The file.
        path: PathBuf,
    },

    /// A record that cannot be read as what it should be.
    #[error("the record {key} cannot be read: {detail}; it was written by another version or by hand")]
    BadRecord {
        /// Which record.
        key: String,
        /// What is wrong with it.
        detail: String,
    },

    /// A record of a newer standin.
    #[error(
        "the record {key} has schema version {found} and this standin knows versions up to {known}; \
         start the newer standin that wrote it"
    )]
    NewerSchema {
        /// Which record.
        key: String,
        /// Version of the record.
        found: u32,
        /// Newest version known here.
        known: u32,
    },
}

/// What a conflict found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found(pub Option<Revision>);

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(revision) => write!(f, "revision {revision}"),
            None => f.write_str("no record"),
        }
    }
}
