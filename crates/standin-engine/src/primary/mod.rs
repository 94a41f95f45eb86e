//! The primary's side of a relationship: the task that owns it, the pieces of work, the session with the
//! replica, and the passes over the disks.

mod asking;
mod batches;
mod book;
pub mod config_files;
mod cycle;
mod encode;
mod first_copy;
mod handle;
pub mod ledger;
mod modify;
mod outcome;
pub mod pass;
mod provenance;
pub(crate) mod reason;
mod requests;
mod resync;
pub mod schedule;
pub mod session;
pub mod task;
mod thrift;
mod work;
pub mod worker;

pub use handle::{Command, Handle, Modification, Snapshot};
pub use task::Shared;
pub use worker::{Tools, Worker};
