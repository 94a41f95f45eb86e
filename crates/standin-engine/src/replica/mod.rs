//! The replica's side: admission, sessions that receive layers, failover flows, upkeep.

mod admission;
mod after_restart;
pub mod beside;
mod defining;
mod entries;
mod exports;
pub mod failover;
mod files;
mod find;
pub mod host;
pub mod layer;
pub mod local_name;
mod network;
pub(crate) mod overlay_vm;
pub(crate) mod reason;
mod reattach;
mod sender;
pub mod session;
mod storage;
mod upkeep;
pub mod vm;

pub use host::{HostShared, ReplicaHost};
pub use vm::ReplicaVm;
