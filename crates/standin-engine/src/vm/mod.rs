//! The VMs of this host: one task a VM, the only one that defines, starts, stops, pauses, resumes, adopts or forgets it.
//!
//! ```text
//!   command line, management API          flows (failover, revert)         other hosts
//!            start, resume, adopt              take, give back            ask, raise, claims
//!                 |                                 |                          |
//!   gather: ask every host that could run it        |                          |
//!                 \_________________ one inbox a VM ___________________________/
//!                                        |
//!                  standin_model::fence decides, then the hypervisor is told
//! ```
//!
//! Invariants:
//! * A VM begins to run only after [`standin_model::fence::may_run`] or `may_take` said so, over the fence as it is at
//!   that moment, with nothing in between: a claim that another host raises meanwhile waits in the inbox.
//! * A claim is durable before anybody is told of it, and before the VM runs under it: in the state store, in a file of
//!   its own in the data directory, and beside the replica's disks. The highest of the three counts at the next start.
//! * The fence outlives the relationship. Only an operator clears it, by the VM's name.
//!
//! Called by [`crate::engine`] for everything that is asked of a VM, by [`crate::replica`] for failovers, by
//! [`crate::peers`] for what other hosts ask.

mod alarm;
mod answers;
mod claims;
mod fencing;
mod gather;
mod hosts;
mod learn;
mod operate;
pub(crate) mod reason;
mod record;
mod registry;
mod run;
mod takeover;
mod task;
mod witness;

pub use alarm::{Alarm, AlarmKind};
pub(crate) use answers::VmAnswers;
pub use claims::ClaimFiles;
pub use fencing::{FenceCommand, Fencing};
pub use hosts::Sharing;
pub(crate) use record::recover;
pub use record::{ToldStance, VmRecord};
pub use registry::{Policy, Start, Started, Vms, WhenBothRun};
pub(crate) use registry::{Senders, VmContext};
pub use takeover::{Asserts, PrimaryWord};
pub(crate) use witness::{NamedWitness, WitnessRecords};
pub use witness::{WitnessLog, WitnessRecord};
