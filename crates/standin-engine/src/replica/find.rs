//! Finds the replicas of this host: by the records of the database, and by what lies beside their disks where those are
//! lost or older.
//!
//! ```text
//!   a record, and disks          -> the newer of the record and the copy beside the disks
//!   a record, no disks           -> kept as missing, and said
//!   disks without a record       -> the copy beside them; else what the manifest and the claim say
//! ```
//!
//! Called by [`super::host`] at the start, and when an authorization entry brings a storage location along.

use super::admission::takes_nothing;
use super::host::ReplicaHost;
use super::reattach::older_disks;
use super::vm::ReplicaVm;
use super::{after_restart, beside, storage};
use crate::error::chain;
use crate::messages::DiskShape;
use crate::records::{self, FailoverRecord, LastError, ReplicaRecord};
use jiff::Timestamp;
use standin_model::fence::Role;
use standin_model::settings::RelationshipSettings;
use standin_model::state::ReplicationState;
use standin_model::stats::Monitor;
use standin_model::{PointKind, RelationshipId};
use standin_store::{Manifest, Purpose, Replica};
use std::sync::Arc;
use uuid::Uuid;

impl ReplicaHost {
    /// Takes up what the database has of a replica.
    pub(super) async fn take_up(self: &Arc<Self>, record: ReplicaRecord) {
        let Some(store) = self.shared.store.get(record.vm) else {
            if record.state == ReplicationState::Disabled {
                return self.finish_removal(&record).await;
            }
            let (id, vm, name) = (record.id(), record.vm, record.name.clone());
            self.lock_missing().insert(id, record);
            if let Some(refusal) = self.disks_missing(vm) {
                tracing::error!(vm = %name, %refusal, "this replica cannot be used");
            }
            return;
        };
        let beside = self.beside_disks(&store);
        let newest = beside::newest(record.clone(), beside.clone());
        if newest.revision != record.revision || newest.replica != record.replica {
            tracing::warn!(vm = %newest.name, state = %newest.state,
                "the database has an older record of this replica than lies beside its disks; the newer one counts");
        }
        let is_kept =
            |kept: &ReplicaRecord| kept.replica == newest.replica && kept.revision == newest.revision;
        let kept = is_kept(&record) && beside.as_ref().is_some_and(is_kept);
        self.restore(store, newest, kept).await;
    }

    /// Replicas without a record come back from what lies beside their disks. One whose relationship was removed is
    /// detached, and the store does not list it.
    pub(super) async fn find_again(self: &Arc<Self>) {
        for store in self.shared.store.list() {
            if self.find(store.vm()).is_some() {
                continue;
            }
            self.shared.vms.keeps_beside(store.vm(), store.directory().to_owned()).await;
            let id = self.lock_missing().range(RelationshipId::all_of(store.vm())).next().map(|(id, _)| *id);
            let missing = id.and_then(|id| self.lock_missing().remove(&id));
            if let Some(record) = missing {
                self.take_up(record).await;
                continue;
            }
            let record = self.beside_disks(&store).unwrap_or_else(|| self.by_manifest(&store));
            tracing::warn!(vm = %record.name, state = %record.state, directory = %store.directory().display(),
                "the database has no record of this replica; it was found by what lies beside its disks");
            self.restore(store, record, false).await;
        }
    }

    /// The record beside the disks; a version before kept it in the manifest.
    pub(super) fn beside_disks(&self, store: &Replica) -> Option<ReplicaRecord> {
        let found = beside::read(&self.shared.files, store.directory()).unwrap_or_else(|error| {
            tracing::error!(vm = %store.manifest().name, error = %chain(&error), "the record beside a replica cannot be read");
            None
        });
        let earlier = || serde_json::from_value(store.manifest().engine.clone()).ok();
        found.or_else(earlier).filter(|record: &ReplicaRecord| record.vm == store.vm())
    }

    /// What the manifest and the claim say of a replica of which nothing else is left: its primary tells the rest when it
    /// sends again.
    pub(super) fn by_manifest(&self, store: &Replica) -> ReplicaRecord {
        let manifest = store.manifest();
        let fence = self.shared.vms.fence(store.vm());
        let taken = fence.as_ref().is_some_and(|fence| fence.claim.holder == self.shared.vms.me());
        let hosts = fence.map(|fence| fence.hosts).unwrap_or_default();
        let source = hosts.into_iter().find(|(_, known)| known.role == Role::Source);
        let failover = failover_of(&manifest);
        let committed = manifest.committed().is_some();
        let location = store.directory().parent().unwrap_or(store.directory()).to_owned();
        let statistics = Monitor::new(self.shared.service.get().monitoring, Timestamp::now());
        ReplicaRecord {
            primary_host: source.as_ref().map(|(_, known)| known.name.clone()).unwrap_or_default(),
            host: source.map(|(host, _)| host),
            settings: RelationshipSettings {
                granularity: manifest.granule,
                ..RelationshipSettings::default()
            },
            disks: manifest
                .disks
                .iter()
                .map(|disk| DiskShape { name: disk.name.clone(), size: disk.size })
                .collect(),
            state: match &failover {
                Some(_) if committed => ReplicationState::Committed,
                Some(_) if taken => ReplicationState::Recovered,
                // Its overlay was made, and the VM not taken yet: that is undone.
                Some(_) => ReplicationState::FailoverInProgress,
                None => ReplicationState::WaitingForInitialReplication,
            },
            last_failover_kind: failover.as_ref().map(|failover| failover.kind),
            failover,
            last_epoch: store.head_epoch(),
            ..ReplicaRecord::blank(manifest.vm, manifest.name.clone(), location, statistics)
        }
    }

    /// Takes a replica in as its record has it. `kept` says that the record lies where it belongs, in both places.
    pub(super) async fn restore(self: &Arc<Self>, store: Replica, mut record: ReplicaRecord, kept: bool) {
        if record.state == ReplicationState::Disabled {
            return self.finish_removal(&record).await;
        }
        if let Some(newest) = store.points().iter().max_by_key(|point| point.epoch) {
            record.last_point_at = Some(newest.created_at);
            record.last_received_at = Some(newest.received_at);
        }
        if record.last_point_at.is_some() && record.state == ReplicationState::WaitingForInitialReplication {
            record.state = ReplicationState::Replicating;
        }
        self.shared_again(&store, &record).await;
        let head = store.head_epoch();
        let older = record.last_epoch.filter(|known| head.is_none_or(|head| head < *known));
        if let Some(known) = older.filter(|_| takes_nothing(&record).is_none()) {
            let error = LastError::now(older_disks(&record.name, head, known));
            tracing::error!(vm = %record.name, remedy = %error.remedy, "{}", error.message);
            record.last_error = Some(error);
        }
        let unnamed = record.replica.is_nil();
        if unnamed {
            record.replica = Uuid::new_v4();
        }
        let moved = storage::follow(&store, &mut record);
        let vm = ReplicaVm::new(self.shared.clone(), store, record);
        let stored = if unnamed || moved || !kept { vm.lock().await.save().await } else { Ok(()) };
        if let Err(refusal) = stored {
            tracing::error!(vm = %vm.snapshot().name, %refusal, "the record of a replica could not be stored");
        }
        if let Err(refusal) = storage::bring_vm(&vm).await {
            tracing::error!(vm = %vm.snapshot().name, %refusal, "a VM that failed over is not where its storage is");
        }
        if let Err(refusal) = after_restart::take_up(&vm).await {
            tracing::error!(vm = %vm.snapshot().name, %refusal, "a failover could not be taken up again");
        }
        self.insert(vm);
    }

    /// The disks of a removed replica were put back, or somebody had this host forget who may run the VM while they were
    /// not here.
    async fn shared_again(&self, store: &Replica, record: &ReplicaRecord) {
        let known = self.shared.vms.record(record.vm);
        if known.is_some_and(|known| !known.tombstone) {
            return;
        }
        if let Err(refusal) = self.share_again(store, record).await {
            tracing::error!(vm = %record.name, %refusal, "who may run this VM is not kept here");
        }
    }

    /// The daemon ended in the middle of a removal.
    async fn finish_removal(&self, record: &ReplicaRecord) {
        let removed = match self.let_go(record.vm).await {
            Ok(()) => records::delete(&self.shared.tables.relationships, record.id()).await,
            refused => refused,
        };
        if let Err(refusal) = removed {
            tracing::error!(vm = %record.name, %refusal, "the removal of this replica could not be finished");
        }
    }
}

/// The failover that a manifest shows by its overlay.
fn failover_of(manifest: &Manifest) -> Option<FailoverRecord> {
    let overlay = manifest.overlays.iter().find(|overlay| overlay.purpose == Purpose::Failover)?;
    let point = manifest.point(overlay.point);
    Some(FailoverRecord {
        point: overlay.point,
        kind: point.map_or(PointKind::Standard, |point| point.kind),
        overlay: overlay.id.clone(),
        prior: ReplicationState::Replicating,
        job: None,
        reverting: false,
        kept: None,
        start: false,
        asserted: None,
        from: None,
        point_at: point.map_or(overlay.created_at, |point| point.created_at),
        network: None,
    })
}
