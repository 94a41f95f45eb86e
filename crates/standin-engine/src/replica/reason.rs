//! Why the receiving side of a replication refuses something, and what went wrong there. One module for each of its
//! concerns.

pub(crate) mod admission;
pub(crate) mod failover;
pub(crate) mod receive;
pub(crate) mod storage;

pub(super) use admission::{Admission, Entry};
pub(super) use failover::Failover;
pub(super) use receive::Receive;
pub(super) use storage::{Storage, Store};
