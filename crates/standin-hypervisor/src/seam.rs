//! The seam to hypervisors: what the engine needs of one, and nothing else.
//!
//! # Marks
//!
//! Change tracking is expressed in *marks*. A mark is a recording dirty bitmap on every replicating disk of a
//! VM, made at one instant: it answers "what changed since then". A cycle is
//!
//! ```text
//! marks: [e]            everything since the sealed epoch e is recorded
//!   cut(since e, mark e+1)      one transaction: freeze a copy of mark e, start mark e+1, hold the old data
//!   ... read the view, send, the replica seals e+1 ...
//!   view.close()
//!   retain_marks([e+1])         success: only now mark e goes
//!   retain_marks([e])           failure: mark e still knows everything; e+1 goes
//! ```
//!
//! The first copy, and the first pass of a large delta, read the running disk without copy-before-write:
//! `live(since, mark)` starts a mark and exports the live disks; what changes meanwhile is in the new mark.
//!
//! # Implementations
//!
//! | Driver | Marks are | A cut is |
//! | --- | --- | --- |
//! | [`crate::qemu`] | named dirty bitmaps, persistent on qcow2 | `blockdev-backup sync=none` and a snapshot-access node per disk, in one transaction |
//! | [`crate::fake`] | sets of blocks in memory | a copy in memory; can be told to fail, stall and crash |

use crate::definition::VmDefinition;
use crate::error::Error;
use crate::local::LocalDisk;
use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use standin_model::network::{AdapterSettings, MacAddress};
use standin_model::{DiskName, Epoch, VmId, VmName};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// What a hypervisor call returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Whether a VM runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// No process.
    Off,
    /// The guest runs.
    Running,
    /// The process lives, the guest's CPUs stand still.
    Paused,
}

/// How the guest's CPUs are run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// A probe guest really ran under KVM on this host.
    Kvm,
    /// Emulation. The reason says why not KVM.
    Tcg {
        /// Why KVM is not used, for the log and for `status`.
        reason: String,
    },
}

/// A disk of a VM as the hypervisor has it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// Its name, unique in the VM.
    pub name: DiskName,
    /// The image file or block device.
    pub path: PathBuf,
    /// `raw` or `qcow2`; anything else cannot be tracked.
    pub format: String,
    /// Size the guest sees, in bytes.
    pub size: u64,
    /// The guest cannot write to it.
    pub read_only: bool,
    /// `None` when it can replicate; else a sentence that says why not and what to do.
    pub problem: Option<String>,
}

/// A VM as the hypervisor has it now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmInfo {
    /// Its identity.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// Whether it runs.
    pub power: PowerState,
    /// Somebody else started it and standin only speaks to its QMP socket.
    pub adopted: bool,
    /// How its CPUs run; `None` while it is off or when it was adopted.
    pub accelerator: Option<Accelerator>,
    /// All its disks, in the order of its definition.
    pub disks: Vec<DiskInfo>,
    /// Process id of the hypervisor process, where there is one.
    pub pid: Option<i32>,
    /// The configuration it would be started with. For an adopted VM: what could be read of it.
    pub definition: VmDefinition,
}

/// A recording point of the change tracking of one relationship, see the module's doc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mark {
    /// Changes are recorded since this epoch's cut.
    pub epoch: Epoch,
    /// 0 for the cut itself, 1 for the second pass of a large delta.
    pub pass: u8,
}

/// Names one relationship's bitmaps, nodes and files in the hypervisor, so that left-overs are recognised:
/// 1 to 16 lower-case letters and digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tracker(pub String);

/// A mark found in the hypervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkStatus {
    /// Which.
    pub mark: Mark,
    /// It records on every disk that was asked about, with one granularity, and is consistent. A mark that is
    /// not complete cannot be used.
    pub complete: bool,
    /// Bytes per bit.
    pub granularity: u32,
    /// Dirty bytes on all disks, for the pending size.
    pub dirty_bytes: u64,
}

/// How the guest is to be at the instant of the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// As if the power had been cut.
    Crash,
    /// Synced and frozen by the guest agent; given up after `deadline`, and then the cut is a crash-consistent
    /// one with [`ViewInfo::freeze_error`] set.
    Application {
        /// How long the guest may stay frozen at most.
        deadline: Duration,
    },
}

/// What to read of the live disks.
#[derive(Debug, Clone)]
pub struct LiveRequest {
    /// Which disks.
    pub disks: Vec<DiskName>,
    /// Whose marks.
    pub tracker: Tracker,
    /// Offer the changes since this mark as [`DiskReader::dirty`]; `None` for a first copy.
    pub since: Option<Mark>,
    /// The mark that begins to record in the same transaction. If it exists already and records (an
    /// interrupted first copy), it is kept as it is.
    pub mark: Mark,
    /// Bytes per bit of a new mark, a power of two from 4 KiB.
    pub granularity: u32,
}

/// What to cut.
#[derive(Debug, Clone)]
pub struct CutRequest {
    /// Which disks: all of the relationship's.
    pub disks: Vec<DiskName>,
    /// Whose marks.
    pub tracker: Tracker,
    /// The changes since this mark are what [`DiskReader::dirty`] answers.
    pub since: Mark,
    /// The mark that begins to record at the instant of the cut.
    pub mark: Mark,
    /// Bytes per bit of the new mark.
    pub granularity: u32,
    /// How the guest is to be.
    pub consistency: Consistency,
    /// Where the old data of overwritten blocks is kept while the view is open.
    pub scratch_dir: PathBuf,
    /// The view fails, before the guest could notice, when less than this is free there. Bytes.
    pub scratch_reserve: u64,
}

/// Facts of an open view.
#[derive(Debug, Clone)]
pub struct ViewInfo {
    /// The instant of the cut, or of the start of a live view. Wall clock of this host.
    pub at: Timestamp,
    /// The guest was frozen by its agent at the instant of the cut.
    pub application_consistent: bool,
    /// The freeze that was asked for did not work, and why.
    pub freeze_error: Option<String>,
    /// The VM's configuration at that instant.
    pub config: VmConfig,
}

/// A VM's configuration with the files it names, to travel with a recovery point.
#[derive(Debug, Clone, PartialEq)]
pub struct VmConfig {
    /// The definition.
    pub definition: VmDefinition,
    /// The files other than disks that the definition names, by role: `kernel`, `initrd`, `firmware`, `nvram`.
    /// Paths, not contents: they are tens of megabytes, and most cycles find them unchanged. One that the guest
    /// changes (`nvram`) is copied at the cut, and the path is that of the copy, which [`View::close`] removes.
    pub files: BTreeMap<String, PathBuf>,
}

/// A run of a disk. Offsets and lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Length.
    pub length: u64,
    /// The run reads as zeros.
    pub zero: bool,
}

/// Reads one disk of a view. Calls may run side by side; a reader answers with an error, never with other
/// data, once its view has failed.
#[async_trait]
pub trait DiskReader: Send + Sync {
    /// Size in bytes, as at the instant of the view.
    fn size(&self) -> u64;

    /// `length` bytes at `offset`; at most 32 MiB.
    async fn read(&self, offset: u64, length: u32) -> Result<Bytes>;

    /// The runs that changed since the request's `since`, clipped to `offset..offset+length`, ascending.
    /// `zero` is not filled in. An error if the request had no `since`.
    async fn dirty(&self, offset: u64, length: u64) -> Result<Vec<Extent>>;

    /// All of `offset..offset+length` as runs of data and of zeros, ascending.
    async fn allocation(&self, offset: u64, length: u64) -> Result<Vec<Extent>>;

    /// The same disk for threads that may block, where that is the shorter way. Calls of both kinds may be mixed.
    fn local(&self) -> Option<std::sync::Arc<LocalDisk>> {
        None
    }
}

/// An open view of a VM's disks at one instant (a cut), or of the running disks (live).
#[async_trait]
pub trait View: Send + Sync {
    /// Facts.
    fn info(&self) -> &ViewInfo;

    /// The reader of a disk of the request.
    fn disk(&self, name: &DiskName) -> Option<std::sync::Arc<dyn DiskReader>>;

    /// Becomes `Some(reason)` when the view can no longer be trusted: scratch full, job gone, VM gone. The
    /// cycle must then be given up.
    fn failure(&self) -> watch::Receiver<Option<String>>;

    /// Ends the view: jobs cancelled, exports and nodes deleted, scratch removed, frozen bitmaps removed. Marks
    /// stay. Call it on success and on failure alike; a view that is only dropped is cleaned up by the next
    /// [`Hypervisor::clean`].
    ///
    /// # Errors
    /// When something could not be removed; it is recognised by name and removed by the next clean.
    async fn close(self: Box<Self>) -> Result<()>;
}

/// Something happened to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmEvent {
    /// It began to run.
    Started(VmId),
    /// Its process ended. `clean` when the hypervisor closed its images in order.
    Stopped {
        /// Which VM.
        vm: VmId,
        /// The images were closed in order, so persistent marks survive.
        clean: bool,
    },
}

/// How to start a VM.
#[derive(Debug, Clone, Default)]
pub struct StartOptions {
    /// Start with the CPUs standing still.
    pub paused: bool,
}

/// What a network card of a guest is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestNic {
    /// The card's name in the VM's definition, for messages.
    pub name: String,
    /// Its hardware address: how the guest is told which card is meant.
    pub mac: MacAddress,
    /// Valid settings.
    pub settings: AdapterSettings,
}

/// A hypervisor on this host. See the module's doc for the contract of marks and views.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// Every VM that is defined or adopted, by id: a conversation with each that runs, and a look at the images of
    /// each that is off.
    async fn list(&self) -> Result<Vec<VmInfo>>;

    /// The identities and names of the same, by id. From memory: no VM and no image is asked.
    async fn names(&self) -> Result<Vec<(VmId, VmName)>>;

    /// One VM.
    ///
    /// # Errors
    /// [`Error::UnknownVm`].
    async fn inspect(&self, vm: VmId) -> Result<VmInfo>;

    /// Makes a VM known, or replaces the definition of one that is off. Durable on return.
    async fn define(&self, definition: VmDefinition) -> Result<VmId>;

    /// As [`Hypervisor::define`], for a VM that nobody knows yet: nothing is ever replaced.
    ///
    /// # Errors
    /// [`Error::VmExists`] when a VM of that id is defined or adopted.
    async fn define_new(&self, definition: VmDefinition) -> Result<VmId>;

    /// Gives a VM another name, running or off, adopted or not. Durable on return. The process of a VM that runs bears
    /// the old name until it ends.
    ///
    /// # Errors
    /// [`Error::AlreadyDefined`] when another VM has the name.
    async fn rename(&self, vm: VmId, name: VmName) -> Result<()>;

    /// Forgets a VM that is off, or an adopted one. Its disks stay.
    async fn undefine(&self, vm: VmId) -> Result<()>;

    /// Makes a running QEMU known by its QMP socket. It is only watched and tracked, never started.
    async fn adopt(&self, qmp: PathBuf, name: Option<VmName>) -> Result<VmId>;

    /// Starts a VM that is off. Returns when its process runs and answers.
    async fn start(&self, vm: VmId, options: StartOptions) -> Result<()>;

    /// Asks the guest to shut down and waits at most `deadline`.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it still runs then; nothing is forced.
    async fn shutdown(&self, vm: VmId, deadline: Duration) -> Result<()>;

    /// Ends the VM at once, as pulling the plug does, but the images are closed in order.
    async fn power_off(&self, vm: VmId) -> Result<()>;

    /// Stops the CPUs.
    async fn pause(&self, vm: VmId) -> Result<()>;

    /// Runs the CPUs again.
    async fn resume(&self, vm: VmId) -> Result<()>;

    /// The marks of `tracker` on `disks`. Empty when the VM is off.
    async fn marks(&self, vm: VmId, tracker: &Tracker, disks: &[DiskName]) -> Result<Vec<MarkStatus>>;

    /// Whether any disk of the VM carries a mark, of whatever tracker: also in the images of a VM that is off. Images that
    /// cannot keep marks, or cannot be read, carry none.
    async fn is_marked(&self, vm: VmId) -> Result<bool>;

    /// Removes every mark of `tracker` that is not in `keep`, on all disks of the VM.
    async fn retain_marks(&self, vm: VmId, tracker: &Tracker, keep: &[Mark]) -> Result<()>;

    /// Removes what an earlier process of this daemon left of `tracker` in the VM and in `scratch_dir`: jobs,
    /// exports, nodes, frozen bitmaps, scratch files. Marks stay. Must not run while a view is open.
    async fn clean(&self, vm: VmId, tracker: &Tracker, scratch_dir: &std::path::Path) -> Result<()>;

    /// Starts a mark and opens the live disks.
    async fn live(&self, vm: VmId, request: LiveRequest) -> Result<Box<dyn View>>;

    /// Cuts all disks at one instant.
    async fn cut(&self, vm: VmId, request: CutRequest) -> Result<Box<dyn View>>;

    /// Fills the overlay of a running VM's disk from its backing until it stands alone, while the guest runs.
    /// Returns when that is done. `bytes_per_s` bounds the copying; 0 is unbounded.
    async fn flatten(&self, vm: VmId, disk: &DiskName, bytes_per_s: u64) -> Result<()>;

    /// Gives cards of a running guest their settings by the guest's agent, so that the guest keeps them over a
    /// reboot, and reads the addresses back. Waits at most `patience` for the agent to answer, and some minutes
    /// more for the guest to do it. One sentence a card of what was done.
    ///
    /// # Errors
    /// [`Error::Timeout`] when the agent did not answer in time, [`Error::Unsupported`] when the VM has no channel
    /// for one: nothing was changed. [`Error::Agent`] says which card did not get its settings, and why.
    async fn configure_network(
        &self,
        vm: VmId,
        cards: &[GuestNic],
        patience: Duration,
    ) -> Result<Vec<String>>;

    /// Starts and stops of VMs from now on. A receiver that lags reads [`Hypervisor::inspect`].
    fn events(&self) -> broadcast::Receiver<VmEvent>;
}
