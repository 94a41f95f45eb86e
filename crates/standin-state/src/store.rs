//! The contract of a state store.
//!
//! Keys are paths of names, `relationship/<vm>/<index>`; values are bytes. Every committed transaction has a revision,
//! a number that rises over the whole store, and a record carries the revision of the transaction that wrote
//! it last. A writer that read a record says so with [`Expect::At`], and a transaction whose expectations do not
//! all hold changes nothing. The limits and the meaning of every call are what a cluster store such as etcd offers
//! too, so a driver for one fits below this.
//!
//! | Implementation | Durable | Use |
//! | --- | --- | --- |
//! | [`crate::RedbStore`] | a committed transaction survives a kill and a power cut | the daemon |
//! | [`crate::MemoryStore`] | no | tests |
//! | [`crate::faulty::FaultyStore`] | as the store that it wraps | tests of crashes |
//!
//! A call whose future is dropped before it is ready may have taken effect, or take effect later: whoever must know reads
//! again.

use crate::Result;
use crate::error::{Found, StateError};
use crate::lease::Lease;
use crate::watch::Watch;
use async_trait::async_trait;
use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

/// Longest key, in bytes.
pub const MAX_KEY: usize = 256;
/// Most operations of one transaction.
pub const MAX_OPS: usize = 128;
/// Most bytes of one transaction, keys and values together, and so of one record.
pub const MAX_TRANSACTION: usize = 1 << 20;

/// The number of a committed transaction. 0 is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value and the transaction that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The bytes.
    pub value: Vec<u8>,
    /// Which transaction wrote them.
    pub revision: Revision,
}

/// What must hold for a record when its transaction commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// It does not exist.
    Absent,
    /// It was last written by this transaction.
    At(Revision),
}

impl Expect {
    /// Whether it holds for a record that was found with `revision`.
    pub(crate) fn check(self, key: &str, found: Option<Revision>) -> Result<()> {
        let holds = match self {
            Self::Any => true,
            Self::Absent => found.is_none(),
            Self::At(revision) => found == Some(revision),
        };
        if holds {
            return Ok(());
        }
        Err(StateError::Conflict { key: key.to_owned(), expected: self, found: Found(found) })
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("anything"),
            Self::Absent => f.write_str("no record"),
            Self::At(revision) => write!(f, "revision {revision}"),
        }
    }
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a record.
    Put {
        /// Which.
        key: String,
        /// The bytes.
        value: Vec<u8>,
        /// What must hold before.
        expect: Expect,
    },
    /// Removes a record. That it does not exist is no error, unless `expect` says so.
    Delete {
        /// Which.
        key: String,
        /// What must hold before.
        expect: Expect,
    },
    /// Changes nothing; the transaction commits only if this holds.
    Check {
        /// Which.
        key: String,
        /// What must hold.
        expect: Expect,
    },
}

impl Op {
    /// The record it is about.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Check { key, .. } => key,
        }
    }

    /// What it counts towards [`MAX_TRANSACTION`], in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let value = if let Self::Put { value, .. } = self { value.len() } else { 0 };
        self.key().len() + value
    }

    /// What must hold before.
    #[must_use]
    pub const fn expect(&self) -> Expect {
        match self {
            Self::Put { expect, .. } | Self::Delete { expect, .. } | Self::Check { expect, .. } => *expect,
        }
    }
}

/// A small durable key-value store; the module's doc has its contract.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// The record, if there is one.
    ///
    /// # Errors
    /// [`StateError::Corrupt`] when its bytes are not those that were written.
    async fn get(&self, key: &str) -> Result<Option<Versioned>>;

    /// All records whose key begins with `prefix`, ascending by key, all as of one instant. The empty prefix
    /// lists everything.
    ///
    /// # Errors
    /// As [`StateStore::get`].
    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>>;

    /// Carries out all of `ops` or none. No key may be named twice. Durable on return.
    ///
    /// # Errors
    /// [`StateError::Conflict`] for the first expectation that does not hold; [`StateError::BadKey`],
    /// [`StateError::Twice`] and [`StateError::TooLarge`] for what cannot be stored.
    async fn transaction(&self, ops: Vec<Op>) -> Result<Revision>;

    /// Follows all records whose key begins with `prefix`, from now on. Whoever needs the present state too begins to
    /// watch first and lists then: what changed in between comes twice, never not at all.
    ///
    /// # Errors
    /// [`StateError::Closed`] when nothing will change any more.
    async fn watch(&self, prefix: &str) -> Result<Watch>;

    /// Writes a record that lives as long as the [`Lease`] is held, and is gone within `ttl` when its holder is, however
    /// that ended. The store keeps it alive meanwhile. A store of one process needs no clock for that: with the process,
    /// everybody who could read the record is gone too, and the next one begins by removing it.
    ///
    /// # Errors
    /// [`StateError::Conflict`] when there is such a record, and those of [`StateStore::transaction`].
    async fn lease(&self, key: &str, value: Vec<u8>, ttl: Duration) -> Result<Lease>;

    /// Writes one record.
    ///
    /// # Errors
    /// As [`StateStore::transaction`].
    async fn put(&self, key: &str, value: Vec<u8>, expect: Expect) -> Result<Revision> {
        self.transaction(vec![Op::Put { key: key.to_owned(), value, expect }]).await
    }

    /// Removes one record.
    ///
    /// # Errors
    /// As [`StateStore::transaction`].
    async fn delete(&self, key: &str, expect: Expect) -> Result<Revision> {
        self.transaction(vec![Op::Delete { key: key.to_owned(), expect }]).await
    }
}

/// Checks what every implementation must refuse before it begins.
pub(crate) fn check_ops(ops: &[Op]) -> Result<()> {
    let too_large =
        |what: &str, size, limit| Err(StateError::TooLarge { what: what.to_owned(), size, limit });
    if ops.len() > MAX_OPS {
        return too_large("the number of operations of the transaction", ops.len(), MAX_OPS);
    }
    let mut keys = HashSet::with_capacity(ops.len());
    let mut total = 0_usize;
    for op in ops {
        check_key(op.key())?;
        if !keys.insert(op.key()) {
            return Err(StateError::Twice { key: op.key().to_owned() });
        }
        total += op.size();
    }
    match ops {
        _ if total <= MAX_TRANSACTION => Ok(()),
        [op] => too_large(&format!("the record {}", op.key()), total, MAX_TRANSACTION),
        _ => too_large("the transaction", total, MAX_TRANSACTION),
    }
}

/// Segments of letters, digits, `-`, `_` and `.`, separated by single slashes.
pub(crate) fn check_key(key: &str) -> Result<()> {
    const RULE: &str =
        "use 1 to 256 bytes: parts of letters, digits, '-', '_' and '.', joined by single slashes";
    let part_ok = |part: &str| {
        !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
    };
    if key.len() <= MAX_KEY && key.split('/').all(part_ok) {
        return Ok(());
    }
    Err(StateError::BadKey { shown: key.chars().take(64).collect(), reason: RULE })
}
