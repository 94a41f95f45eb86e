//! Hypervisors, as the replication engine sees them: inventory, lifecycle, configuration and the cut.
//!
//! ```text
//!    engine  ──►  seam::Hypervisor  (the contract: marks, views, events)
//!                    ▲          ▲
//!                    │          │
//!                 qemu::     fake::          drivers
//!                    │
//!          ┌─────────┼──────────┬─────────────┐
//!         qmp::    agent::    probe::     standin_nbd
//!       (QEMU's   (the guest  (does KVM   (reads the
//!        monitor)  agent)      work?)      exports)
//! ```
//!
//! [`nocloud`] makes the disk that tells a guest without an agent its network settings.
//!
//! Nothing here knows of replication beyond marks and views, and nothing above this crate knows of QEMU.
//! Whoever adds a driver starts with the contract in [`seam`] and with [`fake`], which is the shortest
//! complete implementation of it.
#![forbid(unsafe_code)]

pub mod agent;
pub mod definition;
pub mod error;
pub mod fake;
pub mod local;
pub mod nocloud;
pub mod probe;
pub mod qemu;
pub mod qmp;
pub mod seam;

pub use definition::{
    AcceleratorChoice, DiskBus, DiskDefinition, DiskFormat, Firmware, MacAddress, NbdBacking, NetworkMap,
    NicDefinition, NicKind, VmDefinition,
};
pub use error::Error;
pub use local::LocalDisk;
pub use seam::{
    Accelerator, Consistency, CutRequest, DiskInfo, DiskReader, Extent, GuestNic, Hypervisor, LiveRequest,
    Mark, MarkStatus, PowerState, Result, StartOptions, Tracker, View, ViewInfo, VmConfig, VmEvent, VmInfo,
};
