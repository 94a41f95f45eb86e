//! The primary's side of a relationship: the task that owns it, the pieces of work, the session with the
//! replica, and the passes over the disks.

pub mod config_files;
pub mod pass;
mod resync;
pub mod schedule;
pub mod session;
pub mod task;
mod thrift;
pub mod worker;

pub use task::{Command, Handle, Shared, Snapshot};
pub use worker::{Tools, Worker};
