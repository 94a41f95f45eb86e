//! All replicas of this host: takes new ones in, lets them go. How they are found at the start is in [`super::find`], who
//! may send in [`super::entries`].

use super::layer::refusal_of;
use super::local_name::{self, LocalNames};
use super::reason::{Failover, Storage};
use super::storage;
use super::upkeep;
use super::vm::ReplicaVm;
use crate::inventory::Inventory;
use crate::jobs::Jobs;
use crate::network::SiteNetworks;
use crate::peers::Peers;
use crate::records::{self, ReplicaRecord, Tables};
use crate::service::Service;
use crate::tasks::to_its_end;
use crate::vm::Vms;
use standin_durable::Files;
use standin_hypervisor::Hypervisor;
use standin_model::auth::AuthorizationEntry;
use standin_model::state::{Event, ReplicationState};
use standin_model::{Refusal, RelationshipId, VmId};
use standin_state::StateError;
use standin_store::{RemoveDisks, Store};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What all replicas of a host share.
#[derive(Clone)]
pub struct HostShared {
    /// Runs VMs that failed over.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// The VMs of this host as they were seen last.
    pub inventory: Arc<Inventory>,
    /// Who may run them, and what starts and stops them.
    pub vms: Arc<Vms>,
    /// Replicas' disks.
    pub store: Store,
    /// The way to the file system, for the records beside the disks.
    pub files: Files,
    /// The other hosts.
    pub peers: Arc<Peers>,
    /// Where records are kept.
    pub tables: Tables,
    /// All jobs.
    pub jobs: Arc<Jobs>,
    /// Settings of this host's service.
    pub service: Arc<Service>,
    /// The names of replicas on this host.
    pub names: Arc<LocalNames>,
    /// Short-lived sockets.
    pub runtime_dir: PathBuf,
    /// Serial logs of VMs that failed over.
    pub log_dir: PathBuf,
    /// How VMs that failed over are connected.
    pub networks: SiteNetworks,
    /// Bytes a second that merging may write; 0 for no bound.
    pub merge_bytes_per_s: u64,
    /// The daemon stops.
    pub shutdown: CancellationToken,
}

/// All replicas of this host.
pub struct ReplicaHost {
    pub(super) shared: HostShared,
    vms: Mutex<BTreeMap<RelationshipId, Held>>,
    /// Replicas whose disks are in no storage location, because one is not mounted or somebody removed them, and replicas
    /// that cannot be opened.
    missing: Mutex<BTreeMap<RelationshipId, ReplicaRecord>>,
    /// Changed only under `changing`, once that is durable.
    pub(super) entries: watch::Sender<Vec<AuthorizationEntry>>,
    pub(super) changing: tokio::sync::Mutex<()>,
    pub(super) creating: tokio::sync::Mutex<()>,
}

struct Held {
    vm: Arc<ReplicaVm>,
    upkeep: upkeep::Handle,
}

impl ReplicaHost {
    /// Finds the replicas of an earlier process again and brings half-done flows to an end.
    ///
    /// # Errors
    /// When the state store cannot be read.
    pub async fn load(shared: HostShared) -> Result<Arc<Self>, StateError> {
        let entries = records::list(&shared.tables.entries).await?;
        let host = Arc::new(Self {
            shared: shared.clone(),
            vms: Mutex::default(),
            missing: Mutex::default(),
            entries: watch::Sender::new(entries),
            changing: tokio::sync::Mutex::default(),
            creating: tokio::sync::Mutex::default(),
        });
        for record in records::receivers(&shared.tables).await? {
            host.take_up(record).await;
        }
        host.find_again().await;
        host.note_unreadable();
        local_name::settle(&host).await;
        Ok(host)
    }

    /// Takes a replica in and starts its upkeep.
    pub(super) fn insert(&self, vm: Arc<ReplicaVm>) -> Arc<ReplicaVm> {
        let upkeep = upkeep::start(Arc::clone(&vm), self.shared.shutdown.clone());
        self.lock().insert(vm.relationship(), Held { vm: Arc::clone(&vm), upkeep });
        vm
    }

    /// The replica of a VM.
    #[must_use]
    pub fn find(&self, vm: VmId) -> Option<Arc<ReplicaVm>> {
        self.lock().range(RelationshipId::all_of(vm)).next().map(|(_, held)| Arc::clone(&held.vm))
    }

    /// All replicas, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<ReplicaVm>> {
        let mut all: Vec<_> = self.lock().values().map(|held| Arc::clone(&held.vm)).collect();
        all.sort_by_cached_key(|vm| (vm.snapshot().name, vm.id()));
        all
    }

    /// Replicas of this host whose disks were in no storage location when the daemon started.
    #[must_use]
    pub fn missing(&self) -> Vec<ReplicaRecord> {
        self.lock_missing().values().cloned().collect()
    }

    /// The refusal for a replica whose disks are not there; `None` for any other VM.
    #[must_use]
    pub fn disks_missing(&self, vm: VmId) -> Option<Refusal> {
        let missing = self.lock_missing();
        let (_, record) = missing.range(RelationshipId::all_of(vm)).next()?;
        let unreadable = self.shared.store.unreadable().into_iter().find(|unreadable| unreadable.vm == vm);
        if let Some(unreadable) = unreadable {
            return Some(storage::cannot_be_opened(&record.name, &unreadable));
        }
        Some(Storage::DisksMissing { vm: record.name.clone(), location: record.location.clone() }.into())
    }

    pub(super) fn lock_missing(&self) -> std::sync::MutexGuard<'_, BTreeMap<RelationshipId, ReplicaRecord>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A layer was sealed: there may be something to merge.
    pub(crate) fn upkeep(&self, vm: &ReplicaVm) {
        if let Some(held) = self.lock().get(&vm.relationship()) {
            held.upkeep.wake();
        }
    }

    /// Ends the relationship on this side. The disks stay in the storage location.
    ///
    /// # Errors
    /// 32775 while a failover runs, or when the record cannot be removed.
    pub async fn remove(self: &Arc<Self>, id: VmId) -> Result<(), Refusal> {
        let host = Arc::clone(self);
        to_its_end(async move {
            match host.find(id) {
                Some(vm) => host.end_relationship(&vm).await,
                None => host.forget_missing(id).await,
            }
        })
        .await
    }

    async fn end_relationship(&self, vm: &ReplicaVm) -> Result<(), Refusal> {
        vm.end_session().await;
        let mut record = vm.lock().await;
        record.allow(standin_model::Method::RemoveReplicationRelationship)?;
        if record.state == ReplicationState::Recovered {
            return Err(Failover::NotCommitted { vm: record.name.clone() }.into());
        }
        self.stands_alone(vm).await?;
        let before = record.state;
        record.step(Event::Remove).await?;
        if let Err(refusal) = self.let_go(vm.id()).await {
            record.state = before;
            record.save().await?;
            return Err(refusal);
        }
        // The fence stays: who ever shared the VM is told where it lives, also when nothing of the relationship is left.
        self.shared.vms.unshare(vm.id()).await?;
        records::delete(&self.shared.tables.relationships, record.id()).await?;
        self.lock().remove(&vm.relationship());
        self.shared.names.forget(vm.id());
        Ok(())
    }

    /// A replica without its disks: only the record is there to be removed.
    async fn forget_missing(&self, id: VmId) -> Result<(), Refusal> {
        let of_vm = RelationshipId::all_of(id);
        let found = self.lock_missing().range(of_vm).next().map(|(_, record)| record.clone());
        let Some(record) = found else { return Ok(()) };
        tracing::warn!(vm = %record.name, location = %record.location.display(),
            "a replica is removed whose disks were not there; if they come back, it is found again by its manifest");
        self.shared.vms.unshare(id).await?;
        records::delete(&self.shared.tables.relationships, record.id()).await?;
        self.lock_missing().remove(&record.id());
        self.shared.names.forget(id);
        Ok(())
    }

    /// The disks stay where they are, and are no replica any more.
    pub(super) async fn let_go(&self, id: VmId) -> Result<(), Refusal> {
        let store = self.shared.store.clone();
        super::layer::blocking(move || match store.remove(id, RemoveDisks::Keep) {
            Err(standin_store::Error::UnknownVm(_)) | Ok(()) => Ok(()),
            Err(error) => Err(refusal_of(&error)),
        })
        .await
    }

    /// A VM that reads its recovery point from this daemon would stall without the replica.
    async fn stands_alone(&self, vm: &ReplicaVm) -> Result<(), Refusal> {
        let Ok(info) = self.shared.hypervisor.inspect(vm.id()).await else { return Ok(()) };
        if info.definition.disks.iter().all(|disk| disk.backing.is_none()) {
            return Ok(());
        }
        Err(Failover::StillFilled { vm: info.name }.into())
    }

    /// Stops what serves points, after the last session has ended.
    pub async fn stop(&self) {
        self.end_sessions(|_| true).await;
    }

    /// Ends what primaries send for some replicas; who comes back is asked again.
    pub(crate) async fn end_sessions(&self, which: impl Fn(&ReplicaRecord) -> bool) {
        for vm in self.list().into_iter().filter(|vm| which(&vm.snapshot())) {
            vm.end_session().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<RelationshipId, Held>> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
