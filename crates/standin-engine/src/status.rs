//! What `status` shows: the record of a relationship, the hypervisor's facts and the health, as one view.

mod fence;

use crate::engine::Engine;
use crate::primary::Snapshot;
use crate::records::{LastError, ReplicaRecord};
use jiff::Timestamp;
use standin_hypervisor::{Accelerator, Mark, PowerState, VmInfo};
use standin_model::health::{self, Health, Inputs};
use standin_model::point::PointKind;
use standin_model::state::{ReplicationMode, ReplicationState, Side};
use standin_model::stats::Statistics;
use standin_model::view::{DiskView, ErrorView, ProgressView, StatusView, VmView};
use standin_model::{Generation, Refusal, VmId};
use std::collections::BTreeMap;

/// The words of a power state.
#[must_use]
pub fn power(state: PowerState) -> &'static str {
    match state {
        PowerState::Off => "off",
        PowerState::Running => "running",
        PowerState::Paused => "paused",
    }
}

/// The words of an accelerator.
#[must_use]
pub fn accelerator(accelerator: &Accelerator) -> String {
    match accelerator {
        Accelerator::Kvm => "kvm".to_owned(),
        Accelerator::Tcg { reason } => format!("tcg ({reason})"),
    }
}

fn error_view(error: &LastError) -> ErrorView {
    ErrorView::new(error.refusal(), Some(error.at))
}

fn age(at: Timestamp) -> f64 {
    Timestamp::now().duration_since(at).as_secs_f64().max(0.0)
}

impl Engine {
    /// The mode and state of a VM on this host.
    #[must_use]
    pub fn role(&self, vm: VmId) -> (ReplicationMode, ReplicationState) {
        if let Some(replica) = self.replicas().find(vm) {
            return (ReplicationMode::Replica, replica.snapshot().state);
        }
        if self.replicas().disks_missing(vm).is_some() {
            return (ReplicationMode::Replica, ReplicationState::Critical);
        }
        match self.primary(vm) {
            Some(handle) => (ReplicationMode::Primary, handle.snapshot().record.state),
            None => (ReplicationMode::None, ReplicationState::Disabled),
        }
    }

    /// A VM as `vm list` shows it.
    #[must_use]
    pub fn vm_view(&self, info: &VmInfo) -> VmView {
        let (mode, state) = self.role(info.id);
        VmView {
            vm: info.name.clone(),
            id: info.id,
            power: power(info.power).to_owned(),
            accelerator: info.accelerator.as_ref().map(accelerator),
            adopted: info.adopted,
            pid: info.pid,
            disks: info
                .disks
                .iter()
                .map(|disk| DiskView {
                    name: disk.name.clone(),
                    path: disk.path.display().to_string(),
                    format: disk.format.clone(),
                    size: disk.size,
                    problem: disk.problem.clone(),
                })
                .collect(),
            mode,
            state,
        }
    }

    /// The status of one VM.
    ///
    /// # Errors
    /// 32779 when nothing on this host knows it.
    pub async fn status(&self, vm: VmId) -> Result<StatusView, Refusal> {
        let info = self.hypervisor().inspect(vm).await;
        match &info {
            Ok(info) => self.inventory().note(info.clone()),
            Err(standin_hypervisor::Error::UnknownVm(_)) => self.inventory().forget(vm),
            // It is in the middle of something: as it was seen last.
            Err(_) => {}
        }
        self.status_of(vm, info).await
    }

    /// The status of a VM that the hypervisor was just asked for.
    async fn status_of(
        &self,
        vm: VmId,
        info: standin_hypervisor::Result<VmInfo>,
    ) -> Result<StatusView, Refusal> {
        let mut view = if let Some(found) = self.relationship(vm) {
            let pending = match self.primary(vm) {
                Some(handle) => self.pending(&handle.snapshot()).await,
                None => None,
            };
            StatusView { pending_bytes: pending, ..found.status }
        } else {
            match &info {
                Ok(info) => self.with_fence(plain_status(info)),
                Err(error) => return Err(crate::engine::hypervisor_refusal(error)),
            }
        };
        // Else the relationship says so itself.
        if view.mode == ReplicationMode::Primary
            && matches!(&info, Err(standin_hypervisor::Error::UnknownVm(_)))
            && !self.inventory().lacks(vm)
        {
            without_its_vm(&mut view);
        }
        let known = info.as_ref().ok();
        view.power = known.map(|info| power(info.power).to_owned());
        view.accelerator = known.and_then(|info| info.accelerator.as_ref()).map(accelerator);
        Ok(view)
    }

    /// The status of every VM that this host knows, by name.
    ///
    /// # Errors
    /// The hypervisor's reason.
    pub async fn all_status(&self) -> Result<Vec<StatusView>, Refusal> {
        let vms =
            self.hypervisor().list().await.map_err(|error| crate::engine::hypervisor_refusal(&error))?;
        self.inventory().note_all(&vms);
        let mut infos: BTreeMap<VmId, VmInfo> = vms.into_iter().map(|info| (info.id, info)).collect();
        let mut ids: Vec<VmId> = infos.keys().copied().collect();
        ids.extend(self.primaries().iter().map(|primary| primary.record.vm));
        ids.extend(self.replicas().list().iter().map(|replica| replica.id()));
        ids.extend(self.replicas().missing().iter().map(|record| record.vm));
        ids.sort_unstable();
        ids.dedup();
        let mut all = Vec::with_capacity(ids.len());
        for id in ids {
            let info = infos.remove(&id).ok_or(standin_hypervisor::Error::UnknownVm(id));
            // One that is removed in this moment is simply not shown.
            all.extend(self.status_of(id, info).await.ok());
        }
        all.sort_by(|a, b| a.vm.cmp(&b.vm));
        Ok(all)
    }

    /// Bytes that the replica lacks now, from the newest mark.
    async fn pending(&self, snapshot: &Snapshot) -> Option<u64> {
        let record = &snapshot.record;
        if !snapshot.running {
            return None;
        }
        let disks: Vec<_> = record.disks.iter().map(|disk| disk.name.clone()).collect();
        let marks = self.hypervisor().marks(record.vm, &record.tracker, &disks).await.ok()?;
        let newest =
            |mark: &Mark| mark.pass == 0 && record.acknowledged.is_some_and(|head| mark.epoch <= head);
        let usable = marks.iter().filter(|status| status.complete && newest(&status.mark));
        usable.max_by_key(|status| status.mark).map(|status| status.dirty_bytes)
    }
}

/// Nothing fails where there is no VM to be cut: it has to be said, or the relationship looks well for hours.
pub(crate) fn without_its_vm(view: &mut StatusView) {
    view.health = Health::Critical;
    view.health_code = Health::Critical.code();
    let issue = health::HealthIssue {
        severity: Health::Critical,
        message: "this host does not know the VM any more, so nothing of it is sent: its definition is gone or cannot be read"
            .to_owned(),
        remedy: format!(
            "The daemon's log names a file that it could not read. Mend it and restart the daemon, or define the VM again \
             with `uuid = \"{}\"`, or end the replication with `standin unreplicate {}`.",
            view.id, view.vm
        ),
    };
    view.health_issues.insert(0, issue);
}

/// What health is judged by, on either side.
fn inputs(
    side: Side,
    state: ReplicationState,
    interval_s: u32,
    last_transfer: Option<Timestamp>,
    error: Option<&LastError>,
    current: &Statistics,
) -> Inputs {
    Inputs {
        side,
        state,
        interval_s,
        cycles_ok: current.cycles_ok,
        cycles_missed: current.cycles_missed,
        average_latency: current.average_latency(),
        last_transfer_at: last_transfer.or(current.start).unwrap_or_else(Timestamp::now),
        blocked: error.map(LastError::refusal),
        application_consistent_failures: current.application_consistent_failing,
    }
}

/// The view of a primary, with the counters of the window of now.
pub(crate) fn primary_status(snapshot: &Snapshot, current: &Statistics, pending: Option<u64>) -> StatusView {
    let record = &snapshot.record;
    let last_transfer = current.last_replication_at.or(record.last_point_at);
    let error = record.last_error.as_ref();
    let interval_s = record.settings.interval_s;
    let judged = inputs(Side::Primary, record.state, interval_s, last_transfer, error, current);
    let (health, mut issues) = health::assess(&judged, Timestamp::now());
    if let Some(points) = record.found {
        issues.retain(|issue| issue.severity == Health::Critical);
        issues.insert(0, compares_first(points));
    }
    issues.extend(waits_for_the_vm(snapshot));
    let (done, total) = snapshot.progress;
    StatusView {
        vm: record.name.clone(),
        primary_name: None,
        id: record.vm,
        mode: ReplicationMode::Primary,
        state: record.state,
        state_code: record.state.code(),
        health,
        health_code: health.code(),
        health_issues: issues,
        peer: Some(record.peer.clone()),
        interval_s: Some(interval_s),
        last_point_at: record.last_point_at,
        lag_s: record.last_point_at.map(age),
        pending_bytes: pending,
        last_error: error.map(error_view),
        power: snapshot.running.then(|| power(PowerState::Running).to_owned()),
        accelerator: None,
        generation: Generation::default(),
        fence: None,
        points: 0,
        last_application_consistent_at: current.last_application_consistent_at,
        progress: snapshot
            .activity
            .filter(|_| total > 0)
            .map(|_| ProgressView::new(done, total, snapshot.rate())),
        statistics: Some(current.clone()),
        disks: record.disks.iter().map(|disk| disk.name.clone()).collect(),
    }
}

/// The initial replication has a replica to begin with.
fn compares_first(points: u64) -> health::HealthIssue {
    health::HealthIssue {
        severity: Health::Warning,
        message: format!(
            "the replica was found with {points} recovery points of before; both sides are compared, and only what differs \
             is sent"
        ),
        remedy: "Wait for it. The recovery points that are there can be failed over to meanwhile.".to_owned(),
    }
}

/// What the health cannot know: a copy does not go on because there is nothing that could be read.
fn waits_for_the_vm(snapshot: &Snapshot) -> Option<health::HealthIssue> {
    let what = match snapshot.record.state {
        ReplicationState::WaitingForInitialReplication => "the first copy",
        ReplicationState::Resynchronizing => "the resynchronization",
        _ => return None,
    };
    (!snapshot.running).then(|| health::HealthIssue {
        severity: Health::Warning,
        message: format!("the VM is off, and {what} goes on when it runs"),
        remedy: "Start it: `standin vm start VM`.".to_owned(),
    })
}

/// The view of a replica, with the counters of the window of now.
pub(crate) fn replica_status(
    record: &ReplicaRecord,
    points: &[standin_store::Point],
    current: &Statistics,
) -> StatusView {
    let newest = points.last();
    let application = points
        .iter()
        .rev()
        .find(|point| point.kind == PointKind::ApplicationConsistent)
        .map(|point| point.created_at);
    let error = record.last_error.as_ref();
    let interval_s = record.settings.interval_s;
    let judged = inputs(Side::Replica, record.state, interval_s, record.last_received_at, error, current);
    let (health, issues) = health::assess(&judged, Timestamp::now());
    StatusView {
        vm: record.name.clone(),
        primary_name: Some(record.primary_name().clone()),
        id: record.vm,
        mode: ReplicationMode::Replica,
        state: record.state,
        state_code: record.state.code(),
        health,
        health_code: health.code(),
        health_issues: issues,
        peer: Some(record.primary_host.clone()),
        interval_s: Some(interval_s),
        last_point_at: newest.map(|point| point.created_at),
        lag_s: newest.map(|point| age(point.created_at)),
        pending_bytes: None,
        last_error: error.map(error_view),
        power: None,
        accelerator: None,
        generation: Generation::default(),
        fence: None,
        points: points.len() as u64,
        last_application_consistent_at: application,
        progress: None,
        statistics: Some(current.clone()),
        disks: record.disks.iter().map(|disk| disk.name.clone()).collect(),
    }
}

fn plain_status(info: &VmInfo) -> StatusView {
    StatusView {
        vm: info.name.clone(),
        primary_name: None,
        id: info.id,
        mode: ReplicationMode::None,
        state: ReplicationState::Disabled,
        state_code: ReplicationState::Disabled.code(),
        health: Health::NotApplicable,
        health_code: Health::NotApplicable.code(),
        health_issues: Vec::new(),
        peer: None,
        interval_s: None,
        last_point_at: None,
        lag_s: None,
        pending_bytes: None,
        last_error: None,
        power: None,
        accelerator: None,
        generation: Generation::default(),
        fence: None,
        points: 0,
        last_application_consistent_at: None,
        progress: None,
        statistics: None,
        disks: Vec::new(),
    }
}
