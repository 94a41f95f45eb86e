//! The replica's side: admission, sessions that receive layers, failover flows, upkeep.

mod admission;
mod after_restart;
mod defining;
mod entries;
mod exports;
pub mod failover;
mod files;
pub mod host;
pub mod layer;
pub mod local_name;
mod network;
pub(crate) mod overlay_vm;
pub mod session;
mod upkeep;
pub mod vm;

pub use host::{HostShared, ReplicaHost};
pub use vm::ReplicaVm;
