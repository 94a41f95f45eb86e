//! What must survive a restart: a small durable key-value store.
//!
//! ```text
//!   engine ──> Typed<T>  records with a schema version, as JSON
//!                 │
//!              StateStore  keys, bytes, revisions, transactions, watches, leases
//!               │      │
//!        RedbStore   MemoryStore (tests)
//! ```
//!
//! It holds relationships, jobs and authorization entries: small records, written seldom. Disks, layers and
//! what belongs to recovery points live in the store's own files, so that losing this one loses no data.

#![forbid(unsafe_code)]

pub mod error;
pub mod faulty;
pub mod lease;
pub mod memory;
pub mod redb_store;
pub mod store;
pub mod typed;
pub mod watch;

pub use error::StateError;
pub use lease::Lease;
pub use memory::MemoryStore;
pub use redb_store::RedbStore;
pub use store::{Expect, Op, Revision, StateStore, Versioned};
pub use typed::Typed;
pub use watch::{Change, Missed, Watch};

/// What a call of this crate returns.
pub type Result<T> = std::result::Result<T, StateError>;
