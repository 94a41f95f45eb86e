//! The VMs of the hypervisor as they were seen last, in memory: asking a hypervisor costs a conversation with each VM, or
//! a look at its images, and a management client asks for all of them thousands of times a second.
//!
//! Kept up by the hypervisor's events, by every full list that somebody takes, and by [`Inventory::refresh`] after a VM
//! was defined or removed. What the guest or a person changes behind the hypervisor's back (the size of an image of a
//! VM that is off) is seen at the next of these.

use standin_hypervisor::{Hypervisor, VmEvent, VmInfo};
use standin_model::VmId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

/// VMs by id, as they were seen last.
pub type Vms = BTreeMap<VmId, Arc<VmInfo>>;

/// The VMs of this host, as they were seen last.
pub struct Inventory {
    hypervisor: Arc<dyn Hypervisor>,
    seen: RwLock<Arc<Vms>>,
    /// A full list was taken: what is not in it is not there.
    listed: AtomicBool,
}

impl Inventory {
    /// An empty one; [`Self::follow`] fills it.
    #[must_use]
    pub fn new(hypervisor: Arc<dyn Hypervisor>) -> Arc<Self> {
        Arc::new(Self { hypervisor, seen: RwLock::default(), listed: AtomicBool::new(false) })
    }

    /// All VMs. No I/O, no copy.
    #[must_use]
    pub fn all(&self) -> Arc<Vms> {
        Arc::clone(&self.seen.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// One VM. No I/O.
    #[must_use]
    pub fn get(&self, vm: VmId) -> Option<Arc<VmInfo>> {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).get(&vm).cloned()
    }

    /// The hypervisor does not know this VM, as far as it was asked: before its first full list nothing is lacking. No I/O.
    #[must_use]
    pub fn lacks(&self, vm: VmId) -> bool {
        self.listed.load(Ordering::Acquire) && self.get(vm).is_none()
    }

    /// Takes note that the hypervisor has just said that it does not know a VM.
    pub fn forget(&self, vm: VmId) {
        self.change(|vms| {
            vms.remove(&vm);
        });
    }

    /// Takes note of a VM that somebody has just looked at.
    pub fn note(&self, info: VmInfo) {
        self.change(|vms| {
            vms.insert(info.id, Arc::new(info));
        });
    }

    /// Takes note of a full list.
    pub fn note_all(&self, infos: &[VmInfo]) {
        self.change(|vms| *vms = infos.iter().map(|info| (info.id, Arc::new(info.clone()))).collect());
        self.listed.store(true, Ordering::Release);
    }

    /// Looks at one VM again: it was defined, removed, started or stopped.
    pub async fn refresh(&self, vm: VmId) {
        match self.hypervisor.inspect(vm).await {
            Ok(info) => self.note(info),
            Err(standin_hypervisor::Error::UnknownVm(_)) => self.forget(vm),
            // It is in the middle of something; its next event comes.
            Err(error) => {
                tracing::debug!(%vm, error = %crate::error::chain(&error), "a VM cannot be looked at")
            }
        }
    }

    /// Looks at all VMs again.
    pub async fn refresh_all(&self) {
        match self.hypervisor.list().await {
            Ok(infos) => self.note_all(&infos),
            Err(error) => {
                tracing::warn!(error = %crate::error::chain(&error), "the VMs of this host cannot be listed");
            }
        }
    }

    /// Keeps it up until the daemon stops.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut events = self.hypervisor.events();
        let work = async {
            self.refresh_all().await;
            loop {
                match events.recv().await {
                    Ok(VmEvent::Started(vm) | VmEvent::Stopped { vm, .. }) => self.refresh(vm).await,
                    Err(RecvError::Lagged(_)) => self.refresh_all().await,
                    // The driver is gone only when the daemon goes down.
                    Err(RecvError::Closed) => return,
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    fn change(&self, change: impl FnOnce(&mut Vms)) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut seen));
    }
}
