//! The QEMU driver: VMs that standin runs from a definition, and VMs that somebody else runs, adopted by their
//! monitor. The floor is QEMU 7.2; what later versions have is probed.
//!
//! ```text
//!            QemuDriver (impl Hypervisor)
//!   lifecycle   adopt    marks    view ─► cut, live         flatten
//!       │         │        │        │   ├─ scratch (watch)
//!   cmdline     inventory ─┴────────┤   ├─ teardown (close, undo, clean: one way)
//!   image       (disks, nodes,      │   └─ reader ─► standin_nbd
//!   process      bitmaps)           │
//!       └────────── machine ────────┴──► qmp
//!              store (files that survive)
//! ```
//!
//! # The cut
//!
//! ```text
//!   guest ─► device ─► F: copy-before-write ─► disk node (bitmaps: since, mark, frozen copy of since)
//!                         │ old data of what the guest overwrites
//!                         ├─► scratch file
//!                         └─◄ A: snapshot-access ─► NBD export ─► DiskReader
//! ```
//!
//! One QMP transaction over all disks adds the frozen copy of `since`, the new recording mark, and the backup job
//! whose filter F is.
//!
//! # Invariants
//!
//! - QEMU processes outlive the driver; they are found again by pid file and monitor, and verified.
//! - Everything made in a QEMU is named by [`names`] and removed by [`teardown`], which looks at what is there
//!   and not at what this process remembers.
//! - The guest does not pay for replication with an error: see [`scratch`].

mod adopt;
mod clusters;
mod cmdline;
mod cut;
mod driver;
mod features;
mod flatten;
mod freeze;
mod image;
mod inventory;
mod lifecycle;
mod live;
mod machine;
mod marks;
mod names;
mod nbd;
mod process;
mod reader;
mod running;
mod scratch;
mod short_names;
mod store;
mod teardown;
mod view;

pub use driver::QemuDriver;

use crate::error::Error;
use crate::probe::Prober;
use crate::seam::VmEvent;
use machine::{Origin, Vm};
use standin_model::VmId;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::Store;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

/// How the driver is set up.
#[derive(Debug, Clone)]
pub struct QemuOptions {
    /// What has to survive a reboot: definitions, adoptions, logs.
    pub state_dir: PathBuf,
    /// Sockets and pid files. Its path has to be short: at most 70 bytes.
    pub runtime_dir: PathBuf,
    /// QEMU; `qemu-system-x86_64` of the search path when absent.
    pub qemu_binary: Option<PathBuf>,
    /// Whether KVM is used.
    pub kvm: KvmUse,
    /// How long the probe guest may take to show that KVM works.
    pub probe_timeout: Duration,
}

impl QemuOptions {
    /// The usual set-up with these directories.
    pub fn new(state_dir: impl Into<PathBuf>, runtime_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            runtime_dir: runtime_dir.into(),
            qemu_binary: None,
            kvm: KvmUse::default(),
            probe_timeout: Duration::from_secs(5),
        }
    }
}

/// Whether KVM is used for VMs that leave the choice open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvmUse {
    /// Where a probe guest ran under it.
    #[default]
    Auto,
    /// Never: all VMs are emulated.
    Never,
    /// Always, without a probe.
    Always,
}

/// What the driver's parts share.
#[derive(Debug)]
pub(crate) struct Shared {
    store: Store,
    qemu: PathBuf,
    kvm: KvmUse,
    prober: Prober,
    vms: Mutex<BTreeMap<VmId, Arc<Vm>>>,
    /// Held while a VM gets its identity or its name: both are unique on a host.
    naming: tokio::sync::Mutex<()>,
    events: broadcast::Sender<VmEvent>,
    /// How many `qemu-img` may look at images for lists at once.
    lookers: Semaphore,
    /// Ends the tasks; the VMs go on.
    stop: CancellationToken,
}

impl Shared {
    fn vms(&self) -> MutexGuard<'_, BTreeMap<VmId, Arc<Vm>>> {
        // Single insertions and removals: never half done.
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vm(&self, id: VmId) -> Result<Arc<Vm>, Error> {
        self.vms().get(&id).cloned().ok_or(Error::UnknownVm(id))
    }

    fn knows(&self, vm: &Arc<Vm>) -> bool {
        self.vms().get(&vm.id).is_some_and(|known| Arc::ptr_eq(known, vm))
    }

    fn tell(&self, event: VmEvent) {
        // Nobody listening is no error.
        let _ = self.events.send(event);
    }

    fn qmp_socket(&self, vm: &Vm) -> PathBuf {
        match &vm.origin {
            Origin::Owned => self.store.qmp_socket(vm.id),
            Origin::Adopted { qmp } => qmp.clone(),
        }
    }
}
