//! Replication: one task per relationship.
//!
//! ```text
//!   local API, management protocols
//!                |
//!             Engine ---------------- jobs, records, status
//!            /      \
//!     primary task   replica VM       one per relationship; the only ones that change its record
//!        worker       session, failover, upkeep
//!       /      \          |
//!  hypervisor  peers <-> wire -> store
//! ```
//!
//! Invariants, each with a test: an acknowledged recovery point survives a crash of either side; a cycle that
//! fails anywhere changes nothing on the replica and loses no change on the primary; every state is reached by
//! a step of [`standin_model::transition`].

#![forbid(unsafe_code)]

pub mod engine;
pub mod error;
pub mod inventory;
pub mod jobs;
pub mod manage;
pub mod messages;
pub mod network;
pub mod overview;
pub mod peers;
pub mod primary;
pub mod reasons;
pub mod records;
pub mod replica;
pub mod service;
mod spans;
pub mod status;
mod tasks;
pub mod vm;

pub use engine::{Enable, Enabled, Engine, EngineConfig, NowKnownAs, Parts};
pub use network::SiteNetworks;
pub use overview::Relationship;
pub use primary::{Command, Modification};
