//! What management interfaces ask of the engine beyond replicating and failing over: settings of a relationship and of
//! the service, single recovery points, cancelling, statistics, a start that is planned ahead.
//!
//! Called by the management protocols, beside [`crate::engine`].

use crate::engine::Engine;
use crate::engine::reason::Operation;
use crate::primary::{Command, Modification};
use jiff::{SignedDuration, Timestamp};
use standin_model::service::ServiceSettings;
use standin_model::settings::RelationshipSettings;
use standin_model::stats::Monitor;
use standin_model::{JobId, PointId, Refusal, VmId};

/// How far ahead an initial replication can be planned: `StartTime` of `StartReplication`.
pub const MAX_AHEAD: SignedDuration = SignedDuration::from_hours(7 * 24);

impl Engine {
    /// The settings of a relationship, on either side; `None` where this host has none of the VM. No I/O.
    #[must_use]
    pub fn settings(&self, vm: VmId) -> Option<RelationshipSettings> {
        if let Some(replica) = self.replicas().find(vm) {
            return Some(replica.snapshot().settings);
        }
        self.primary(vm).map(|handle| handle.snapshot().record.settings)
    }

    /// `ModifyReplicationSettings`, on the primary: interval, history and retention, application-consistent points,
    /// compression, automatic resynchronization, and the address of the replica. The replica learns what was agreed at
    /// once, or when it can be reached again; an address is taken only if the same replica answers there. What silence of
    /// another host means for a start of the VM is this host's own, on either side.
    ///
    /// # Errors
    /// 32773 for a value out of range, or for the address of another host; 32770 for another granularity or set of
    /// disks; 32775 in the wrong state or on the replica; 32779 for an unknown VM, or when the host at the address does
    /// not have the replica; 32777 or 32772 when nobody answers there. Nothing changed then.
    pub async fn modify(&self, vm: VmId, wanted: impl Into<Modification>) -> Result<(), Refusal> {
        let wanted = wanted.into();
        let when_silent = wanted.when_silent;
        if !wanted.is_of_this_host_alone() {
            self.ask(vm, Command::Modify(Box::new(wanted))).await?;
        }
        match when_silent {
            Some(when) => self.vms.set_when_silent(vm, when).await,
            None => Ok(()),
        }
    }

    /// `StartReplication`, on the primary: begins the initial replication, now or at a time at most [`MAX_AHEAD`]
    /// away. One in the past is now. The job waits for it, also across restarts, and can be cancelled.
    ///
    /// # Errors
    /// 32773 for a time too far ahead, 32775 in the wrong state, 32774 when another job works on the VM.
    pub async fn start_replication(&self, vm: VmId, at: Option<Timestamp>) -> Result<JobId, Refusal> {
        let now = Timestamp::now();
        let at = at.filter(|at| *at > now);
        if at.is_some_and(|at| at.duration_since(now) > MAX_AHEAD) {
            return Err(Operation::TooFarAhead.into());
        }
        let command = at.map_or(Command::Start, Command::StartAt);
        self.ask(vm, command).await?.ok_or_else(|| Operation::JobLost.into())
    }

    /// `RequestReplicationStateChange` 1, on the primary: gives a running or planned initial replication up. Its job
    /// ends as terminated; what arrived stays for the next try.
    ///
    /// # Errors
    /// 32775 when none runs or is planned.
    pub async fn cancel_initial(&self, vm: VmId) -> Result<(), Refusal> {
        self.ask(vm, Command::CancelInitial).await.map(|_| ())
    }

    /// `RequestReplicationStateChange` 9, on the primary: gives a comparison up, or the wait for one. State 9 remains.
    ///
    /// # Errors
    /// 32775 when there is none.
    pub async fn cancel_resynchronization(&self, vm: VmId) -> Result<(), Refusal> {
        self.ask(vm, Command::CancelResynchronize).await.map(|_| ())
    }

    /// Removes a recovery point of a replica: `DestroySnapshot`. Its space comes back as its layers are merged.
    ///
    /// # Errors
    /// 32779 for an unknown VM or point; 32774 for the newest one, for one that is pinned, and for one that a failover
    /// stands on or may be choosing; 32775 on the primary.
    pub async fn remove_point(&self, vm: VmId, point: PointId) -> Result<(), Refusal> {
        let replica = self.replica(vm).await?;
        replica.remove_point(point).await?;
        self.replicas().upkeep(&replica);
        Ok(())
    }

    /// Keeps a recovery point of a replica from retention, or lets it go. One that goes is dropped when no tier wants it.
    ///
    /// # Errors
    /// 32779 for an unknown VM or point; 32775 on the primary; 32768 when it cannot be kept.
    pub async fn pin_point(&self, vm: VmId, point: PointId, pinned: bool) -> Result<(), Refusal> {
        let replica = self.replica(vm).await?;
        replica.pin_point(point, pinned).await?;
        self.replicas().upkeep(&replica);
        Ok(())
    }

    /// `GetReplicationStatistics`: the set of the window that lasts, and the last complete one. `None` where this host
    /// has no relationship of the VM. No I/O.
    #[must_use]
    pub fn statistics(&self, vm: VmId) -> Option<Monitor> {
        let mut monitor = match self.replicas().find(vm) {
            Some(replica) => replica.snapshot().statistics,
            None => self.primary(vm)?.snapshot().record.statistics,
        };
        self.service().roll(&mut monitor, Timestamp::now());
        Some(monitor)
    }

    /// `ResetReplicationStatistics`: counting begins anew on this side; both sets are forgotten.
    ///
    /// # Errors
    /// 32775 or 32779 without a relationship here.
    pub async fn reset_statistics(&self, vm: VmId) -> Result<(), Refusal> {
        match self.replicas().find(vm) {
            Some(replica) => replica.reset_statistics().await,
            None => self.ask(vm, Command::ResetStatistics).await.map(|_| ()),
        }
    }

    /// The settings of the service. No I/O.
    #[must_use]
    pub fn service_settings(&self) -> ServiceSettings {
        self.service().get()
    }

    /// `ModifyServiceSettings`. When the recovery server is disabled, what primaries are sending now is ended; their
    /// points stay, and their replication is critical until it is enabled again.
    ///
    /// # Errors
    /// 32773 or 32770 for values that cannot be, 32768 when they cannot be kept; nothing changed then.
    pub async fn modify_service_settings(&self, settings: ServiceSettings) -> Result<(), Refusal> {
        self.service().set(settings).await?;
        if self.service().admits().is_err() {
            self.replicas().end_sessions(|_| true).await;
        }
        Ok(())
    }
}
