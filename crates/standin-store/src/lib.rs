//! The replica's disks: layers, chains, recovery points, merging and scrubbing. Knows nothing of the network.
//!
//! ```text
//! Store ── one per daemon, finds and recovers the replicas of its locations
//!   └─ Replica ── one VM: manifest, digest trees
//!        ├─ LayerWriter     what one cycle brought, until it is sealed
//!        ├─ Overlay         a failover or a test on a point
//!        ├─ PointReader     all layers of a point as one map
//!        └─ merge_step      gives the space of dropped points back
//! ```
//!
//! A disk is a chain of qcow2 files: a base and one immutable layer per epoch, each backed by the one before
//! under a relative name. Stock QEMU opens every one of them; see [`manifest`] for how to rescue a point by
//! hand, without this program.
//!
//! Invariants, each with a test:
//! * What the manifest lists is durable and complete; what it does not list does not exist.
//! * A crash between any two system calls leaves every recovery point as it was, or the merge of its layers.
//! * Layers that an overlay stands on never change and never go.
//! * The cost of sealing a layer grows with what changed, not with the disk.
//! * Nothing read from a file becomes a path, a size or an offset unchecked.
//!
//! All calls block; the engine makes them on threads that may. Readers of long chains open every layer: the
//! process needs as many file descriptors.

#![forbid(unsafe_code)]

mod check;
mod checked;
mod clock;
mod config;
mod copies;
mod damage;
mod direct;
mod error;
mod fault;
mod io;
mod keep;
mod layer;
mod layout;
mod locations;
pub mod manifest;
mod merge;
mod note;
mod overlay;
mod plan;
mod qcow2;
mod reader;
mod rebuild;
mod recover;
mod repair;
mod replica;
mod runs;
mod scrub;
mod seal;
mod sidecar;
mod source;
mod store;
mod survey;
mod sync;
mod tree;

pub use check::{BadRange, LayerReport, PointReport, ReplicaReport, Report};
pub use clock::Clock;
pub use config::ConfigFile;
pub use error::{Error, Result};
pub use fault::{CrashPoint, DirectWrites};
pub use layer::{Kind, LayerWriter};
pub use manifest::{Backing, Manifest, Point, Purpose};
pub use merge::{MergeBudget, MergeOutcome};
pub use overlay::{Overlay, OverlayDisk, OverlayRequest};
pub use reader::{Extent, PointReader};
pub use repair::Repaired;
pub use replica::Replica;
pub use seal::{NewPoint, SealRequest, Sealed, point_digest};
pub use source::{Sent, SourceTree};
pub use standin_model::RecoveryPoint as PointRecord;
pub use store::{DiskSpec, Problem, RemoveDisks, ReplicaSpec, Store, StoreOptions, Unreadable};
pub use survey::{Directory, DirectoryState};
