//! Relationships as management protocols show them: everything at once, from memory, without I/O, so that it can be asked
//! for thousands of times a second.

use crate::engine::Engine;
use crate::inventory::Vms;
use crate::messages::DiskShape;
use crate::primary;
use crate::records::{LastError, ReplicaRecord};
use crate::replica::ReplicaVm;
use crate::status::{accelerator, power, primary_status, replica_status, without_its_vm};
use jiff::Timestamp;
use standin_hypervisor::VmInfo;
use standin_model::health::{Health, HealthIssue};
use standin_model::settings::RelationshipSettings;
use standin_model::state::ReplicationState;
use standin_model::stats::Monitor;
use standin_model::view::StatusView;
use standin_model::{AuthId, JobId, PointId, PointKind, Refusal, Side, VmId};
use standin_store::Point;
use std::path::PathBuf;
use std::sync::Arc;

/// One side of a relationship, whole.
#[derive(Debug, Clone)]
pub struct Relationship {
    /// State, health, last error, progress. `pending_bytes` is that of the last cycle, `power` that of the last event.
    pub status: StatusView,
    /// Which side this host is.
    pub side: Side,
    /// What was agreed.
    pub settings: RelationshipSettings,
    /// The statistics of the window that lasts and of the last one.
    pub statistics: Monitor,
    /// The disks that replicate, in stream order, with their sizes.
    pub disks: Vec<DiskShape>,
    /// When it was made; `None` for one that an older version made.
    pub created_at: Option<Timestamp>,
    /// `LastReplicationType`: the kind of the newest point.
    pub last_kind: Option<PointKind>,
    /// `LastReplicationTime`: when a cycle was last sent (primary) or received (replica).
    pub last_replication_at: Option<Timestamp>,
    /// `LastApplyTime`: when what was received last became a recovery point.
    pub last_apply_at: Option<Timestamp>,
    /// `FailedOverReplicationType`, on the replica: the kind of the point of a failover that is under way or done.
    pub failed_over_kind: Option<PointKind>,
    /// The point of that failover.
    pub failed_over_to: Option<PointId>,
    /// The job that works on it now and is found again after a restart.
    pub job: Option<JobId>,
    /// On the primary: when a planned initial replication begins.
    pub start_at: Option<Timestamp>,
    /// On the primary: the replica has failed over, and the VM must not run here.
    pub fenced: bool,
    /// On the replica: the authorization entry that it is bound to.
    pub auth: Option<AuthId>,
    /// On the replica: its storage location.
    pub location: Option<PathBuf>,
}

impl Engine {
    /// The relationship of a VM on this host; `None` when it has none here. No I/O: a few microseconds.
    #[must_use]
    pub fn relationship(&self, vm: VmId) -> Option<Relationship> {
        let found = if let Some(replica) = self.replicas().find(vm) {
            self.of_replica(&replica)
        } else if let Some(primary) = self.primary(vm) {
            self.of_primary(&primary.snapshot())
        } else {
            let missing = self.replicas().missing().into_iter().find(|record| record.vm == vm)?;
            self.of_missing(missing)
        };
        let found = with_power(found, self.inventory().get(vm).as_deref());
        Some(Relationship { status: self.with_fence(found.status), ..found })
    }

    /// Every relationship of this host, by name of the VM. No I/O.
    #[must_use]
    pub fn relationships(&self) -> Vec<Relationship> {
        let vms = self.vms();
        let replicas = self.replicas().list();
        let mut all: Vec<Relationship> = replicas.iter().map(|replica| self.of_replica(replica)).collect();
        all.extend(self.replicas().missing().into_iter().map(|record| self.of_missing(record)));
        all.extend(self.primaries().iter().map(|snapshot| self.of_primary(snapshot)));
        all.sort_by(|a, b| (&a.status.vm, a.status.id).cmp(&(&b.status.vm, b.status.id)));
        all.into_iter()
            .map(|one| {
                let info = vms.get(&one.status.id).map(AsRef::as_ref);
                let one = with_power(one, info);
                Relationship { status: self.with_fence(one.status), ..one }
            })
            .collect()
    }

    /// The VMs of the hypervisor as they were seen last. No I/O. A replica that has not failed over is not among them.
    #[must_use]
    pub fn vms(&self) -> Arc<Vms> {
        self.inventory().all()
    }

    /// Looks at a VM again: to be called by whoever defined, adopted or removed it past this engine.
    pub async fn vm_changed(&self, vm: VmId) {
        self.inventory().refresh(vm).await;
    }

    fn of_primary(&self, snapshot: &primary::Snapshot) -> Relationship {
        let record = &snapshot.record;
        let statistics = self.rolled(&record.statistics);
        let pending = snapshot.running.then_some(statistics.current.pending_bytes);
        let mut status = primary_status(snapshot, &statistics.current, pending);
        // One that runs is there, whatever a list that was taken a moment too early says.
        if !snapshot.running && self.inventory().lacks(record.vm) {
            without_its_vm(&mut status);
        }
        Relationship {
            status,
            side: Side::Primary,
            settings: record.settings.clone(),
            disks: record.disks.clone(),
            created_at: record.created_at,
            last_kind: record.last_kind,
            last_replication_at: statistics.current.last_replication_at,
            last_apply_at: statistics.current.last_apply_at,
            failed_over_kind: None,
            failed_over_to: None,
            job: record.job,
            start_at: record.start_at,
            fenced: self.vms.fence(record.vm).is_some_and(|fence| !fence.held_by(self.vms.me())),
            auth: None,
            location: None,
            statistics,
        }
    }

    fn of_replica(&self, replica: &ReplicaVm) -> Relationship {
        let manifest = replica.store().manifest();
        let record = replica.snapshot();
        let unadmitted = self.replicas().unadmitted(&record);
        let mut found = self.of_record(record, &manifest.points, Some(manifest.created_at));
        if let Some(Refusal { message, remedy, .. }) = unadmitted {
            let status = &mut found.status;
            (status.health, status.health_code) = (Health::Critical, Health::Critical.code());
            status.health_issues.insert(0, HealthIssue { severity: Health::Critical, message, remedy });
        }
        found
    }

    /// A replica whose disks are not there is shown with that as its error.
    fn of_missing(&self, mut record: ReplicaRecord) -> Relationship {
        if !record.state.is_failed_over() {
            record.state = ReplicationState::Critical;
        }
        if let Some(refusal) = self.replicas().disks_missing(record.vm) {
            record.last_error = Some(LastError::now(refusal));
        }
        self.of_record(record, &[], None)
    }

    fn of_record(
        &self,
        record: ReplicaRecord,
        points: &[Point],
        created_at: Option<Timestamp>,
    ) -> Relationship {
        let statistics = self.rolled(&record.statistics);
        let newest = points.last();
        let failover = record.failover.as_ref();
        Relationship {
            status: replica_status(&record, points, &statistics.current),
            side: Side::Replica,
            disks: record.disks.clone(),
            created_at,
            last_kind: newest.map(|point| point.kind),
            last_replication_at: record.last_received_at,
            last_apply_at: newest.map(|point| point.received_at),
            failed_over_kind: failover.map(|failover| failover.kind),
            failed_over_to: failover.map(|failover| failover.point),
            job: failover.and_then(|failover| failover.job),
            start_at: None,
            fenced: false,
            auth: Some(record.auth),
            location: Some(record.location),
            settings: record.settings,
            statistics,
        }
    }

    /// Statistics as they are in the window of now: one that is over ends also while nothing replicates.
    pub(crate) fn rolled(&self, kept: &Monitor) -> Monitor {
        let mut monitor = kept.clone();
        self.service().roll(&mut monitor, Timestamp::now());
        monitor
    }
}

fn with_power(mut found: Relationship, info: Option<&VmInfo>) -> Relationship {
    // The task of a primary knows by itself whether its VM runs.
    let known = found.status.power.take();
    found.status.power = info.map(|info| power(info.power).to_owned()).or(known);
    found.status.accelerator = info.and_then(|info| info.accelerator.as_ref()).map(accelerator);
    found
}
