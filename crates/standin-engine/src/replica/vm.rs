//! One VM that this host is the replica of: its record, its store, and who may work on it now.
//!
//! The record changes only under its lock, by steps of the model's table; a session, a failover and an upkeep
//! run exclude each other by it. Readers see the last published record without waiting.

use super::beside;
use super::host::HostShared;
use super::layer::blocking;
use super::reason::{Failover, Storage};
use crate::records::{self, LastError, ReplicaRecord};
use crate::tasks::to_its_end;
use jiff::Timestamp;
use standin_model::state::{self, Event, Facts, Method, ReplicationState, Side};
use standin_model::{PointId, Refusal, RelationshipId, VmId, VmName};
use standin_store::Replica;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{MutexGuard, watch};
use tokio_util::sync::CancellationToken;

/// How long a method waits for what holds the VM. Everything that holds it for long is a job, which is told at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// Why a point stays that somebody pinned.
const PINNED_BY_HAND: &str = "an operator wants it";
/// How long a job may take to close after its work is done: whoever follows the state asks before that.
const SETTLING: Duration = Duration::from_secs(1);

/// A VM that this host is the replica of.
pub struct ReplicaVm {
    /// What all replicas of the host share.
    pub(crate) shared: HostShared,
    /// Its disks.
    pub(super) store: Replica,
    record: tokio::sync::Mutex<ReplicaRecord>,
    published: watch::Sender<ReplicaRecord>,
    session: Mutex<Option<ActiveSession>>,
    /// Serves points with too many layers for a chain.
    pub(super) exports: super::exports::Exports,
    /// Its network cards at the newest recovery point.
    pub(crate) cards: crate::network::CardsRead,
}

/// The session that may write to a replica now.
#[derive(Clone)]
pub struct ActiveSession {
    /// Ends it.
    pub cancel: CancellationToken,
    /// It has ended, its layer is sealed or discarded.
    pub ended: CancellationToken,
}

impl ReplicaVm {
    /// A replica with its record.
    #[must_use]
    pub fn new(shared: HostShared, store: Replica, record: ReplicaRecord) -> Arc<Self> {
        Arc::new(Self {
            exports: super::exports::Exports::new(&shared.runtime_dir),
            cards: crate::network::CardsRead::default(),
            shared,
            store,
            published: watch::Sender::new(record.clone()),
            record: tokio::sync::Mutex::new(record),
            session: Mutex::new(None),
        })
    }

    /// The record as it was last stored.
    #[must_use]
    pub fn snapshot(&self) -> ReplicaRecord {
        self.published.borrow().clone()
    }

    /// Whether no job works on the VM.
    ///
    /// # Errors
    /// 32774 while one does.
    pub async fn is_free(&self) -> Result<(), Refusal> {
        self.shared.jobs.free(self.id(), SETTLING).await
    }

    /// Whether `method` may run in the state that was published last. Nothing is held by it: who goes on asks again under
    /// the lock.
    ///
    /// # Errors
    /// The model's refusal.
    pub fn allows(&self, method: Method) -> Result<(), Refusal> {
        allow(&self.snapshot(), method)
    }

    /// Its disks.
    #[must_use]
    pub fn store(&self) -> &Replica {
        &self.store
    }

    /// Which VM.
    #[must_use]
    pub fn id(&self) -> VmId {
        self.published.borrow().vm
    }

    /// Which relationship.
    #[must_use]
    pub fn relationship(&self) -> RelationshipId {
        self.published.borrow().id()
    }

    /// The record, to be changed. Whoever holds it decides alone.
    pub async fn lock(&self) -> Locked<'_> {
        Locked { record: self.record.lock().await, vm: self }
    }

    /// The record for a method that changes what the VM is here, while no job works on the VM.
    ///
    /// # Errors
    /// 32774 while another job goes on, 32772 when what holds the record does not let go, 32777 when the storage location
    /// is gone: what would be written there went into another file system.
    pub async fn claim(&self) -> Result<Locked<'_>, Refusal> {
        let (jobs, id) = (&self.shared.jobs, self.id());
        jobs.free(id, SETTLING).await?;
        self.storage_is_there().await?;
        let locked = tokio::time::timeout(PATIENCE, self.lock()).await.map_err(|_| {
            Refusal::from(Failover::Held { vm: self.snapshot().name, seconds: PATIENCE.as_secs() })
        })?;
        // One may have begun in the meantime.
        jobs.free(id, Duration::ZERO).await?;
        Ok(locked)
    }

    async fn storage_is_there(&self) -> Result<(), Refusal> {
        let directory = self.store.directory().to_owned();
        let name = self.snapshot().name;
        blocking(move || match directory.is_dir() {
            true => Ok(()),
            false => Err(Storage::DisksGone { vm: name, directory }.into()),
        })
        .await
    }

    /// Takes the place of the session that may write, after ending the one before.
    pub async fn take_session(&self) -> ActiveSession {
        let session = ActiveSession { cancel: CancellationToken::new(), ended: CancellationToken::new() };
        // In one step: of two that come at once, one must end the other, and both must be within reach.
        let before = self.session.lock().unwrap_or_else(PoisonError::into_inner).replace(session.clone());
        if let Some(before) = before {
            before.cancel.cancel();
            before.ended.cancelled().await;
        }
        session
    }

    /// Ends the session that writes, if there is one, and waits until its layer is sealed or discarded.
    pub async fn end_session(&self) {
        let active = self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(active) = active {
            active.cancel.cancel();
            active.ended.cancelled().await;
        }
    }

    /// As [`Self::end_session`], for as long as a method waits.
    ///
    /// # Errors
    /// 32772 when the session has not ended by then; it ends when it can, and may not write another layer.
    pub async fn end_session_within(&self, patience: Duration) -> Result<(), Refusal> {
        let active = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(active) = active else { return Ok(()) };
        active.cancel.cancel();
        tokio::time::timeout(patience, active.ended.cancelled())
            .await
            .map_err(|_| Failover::NotSealed { vm: self.snapshot().name, seconds: patience.as_secs() }.into())
    }

    /// Pauses: takes nothing more from the primary.
    ///
    /// # Errors
    /// 32775 in the wrong state.
    pub async fn suspend(self: &Arc<Self>) -> Result<(), Refusal> {
        let vm = Arc::clone(self);
        to_its_end(async move {
            let mut record = vm.lock().await;
            record.allow(Method::RequestSuspend)?;
            record.step(Event::Suspend).await?;
            drop(record);
            vm.end_session().await;
            Ok(())
        })
        .await
    }

    /// Goes on after a pause.
    ///
    /// # Errors
    /// 32775 in the wrong state.
    pub async fn resume(self: &Arc<Self>) -> Result<(), Refusal> {
        let vm = Arc::clone(self);
        to_its_end(async move {
            let mut record = vm.lock().await;
            record.allow(Method::RequestResume)?;
            let event = match record.state {
                _ if record.last_point_at.is_none() => Event::ResumeInitial,
                ReplicationState::Critical => Event::ResumeFromCritical,
                _ => Event::Resume,
            };
            record.step(event).await
        })
        .await
    }

    /// Gives the replica another name on this host, and the VM of its failover too.
    ///
    /// # Errors
    /// 32774 for a name that another VM of this host has, and while a job works on the VM; 32768 when it cannot be kept.
    pub async fn rename(self: &Arc<Self>, name: VmName) -> Result<(), Refusal> {
        let vm = Arc::clone(self);
        to_its_end(async move {
            let mut record = vm.claim().await?;
            let (id, before) = (vm.id(), record.name.clone());
            vm.shared.names.take(id, &name).map_err(|owner| name_taken(&name, owner))?;
            let renamed = vm.shared.vms.rename(id, name.clone()).await;
            record.give_name(name);
            let done = match renamed {
                Ok(_) => record.save().await,
                Err(refusal) => Err(refusal),
            };
            if let Err(refusal) = done {
                // At its next start the daemon calls it as its VM is, should that have the new name.
                record.give_name(before.clone());
                if let Err(owner) = vm.shared.names.take(id, &before) {
                    tracing::warn!(vm = %before, %owner, "two replicas have one name until the daemon starts again");
                }
                return Err(refusal);
            }
            Ok(())
        })
        .await
    }

    /// Removes a point. Its space comes back by merging.
    ///
    /// # Errors
    /// 32779 for an unknown one; 32774 for the newest one, and for one that is pinned or that a failover stands on, or
    /// may be choosing.
    pub async fn remove_point(&self, point: PointId) -> Result<(), Refusal> {
        let record = self.lock().await;
        if record.state == ReplicationState::FailoverInProgress {
            return Err(Failover::UnderWay { vm: record.name.clone() }.into());
        }
        let store = self.store.clone();
        blocking(move || store.remove_point(point).map_err(|error| super::layer::refusal_of(&error))).await
    }

    /// Keeps a point from retention, or lets it go, whatever it was kept for.
    ///
    /// # Errors
    /// 32779 for an unknown one; 32768 when it cannot be kept.
    pub async fn pin_point(&self, point: PointId, pinned: bool) -> Result<(), Refusal> {
        let store = self.store.clone();
        blocking(move || {
            let done = if pinned { store.pin(point, PINNED_BY_HAND) } else { store.release(point) };
            done.map_err(|error| super::layer::refusal_of(&error))
        })
        .await
    }

    /// Begins to count anew.
    ///
    /// # Errors
    /// 32768 when it cannot be kept.
    pub async fn reset_statistics(self: &Arc<Self>) -> Result<(), Refusal> {
        let vm = Arc::clone(self);
        to_its_end(async move {
            let mut record = vm.lock().await;
            record.allow(Method::ResetReplicationStatistics)?;
            record.statistics.reset(Timestamp::now());
            record.save().await
        })
        .await
    }

    /// Brings retention up to date: drops the points that no tier wants. Space comes back by merging.
    ///
    /// # Errors
    /// The store's reason.
    pub async fn apply_retention(&self) -> Result<(), Refusal> {
        let policy = self.snapshot().settings.policy();
        let store = self.store.clone();
        let now = self.shared.store.clock().now();
        blocking(move || {
            store.apply_retention(&policy, now).map(|_| ()).map_err(|error| super::layer::refusal_of(&error))
        })
        .await
    }
}

fn allow(record: &ReplicaRecord, method: Method) -> Result<(), Refusal> {
    let facts = Facts { initial_done: record.last_point_at.is_some(), has_extended: false };
    state::request_for(&record.name, Side::Replica, record.state, method, facts)
}

/// The record under its lock.
pub struct Locked<'a> {
    record: MutexGuard<'a, ReplicaRecord>,
    vm: &'a ReplicaVm,
}

impl std::ops::Deref for Locked<'_> {
    type Target = ReplicaRecord;
    fn deref(&self) -> &ReplicaRecord {
        &self.record
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut ReplicaRecord {
        &mut self.record
    }
}

impl Locked<'_> {
    /// Whether `method` may run in the state of now.
    ///
    /// # Errors
    /// The model's refusal.
    pub fn allow(&self, method: Method) -> Result<(), Refusal> {
        allow(&self.record, method)
    }

    /// Takes a step of the table and stores it.
    ///
    /// # Errors
    /// When the table has no such step, or it cannot be stored; the record is then as before.
    pub async fn step(&mut self, event: Event) -> Result<(), Refusal> {
        let before = self.record.state;
        self.record.state = state::transition(Side::Replica, before, event)?;
        self.save().await.inspect_err(|_| self.record.state = before)
    }

    /// Stores and publishes the record, and keeps it beside the disks.
    ///
    /// # Errors
    /// When it cannot be stored. A copy that cannot be kept beside the disks is said only: the database is the truth
    /// while it is there.
    pub async fn save(&mut self) -> Result<(), Refusal> {
        self.record.revision += 1;
        let (id, record) = (self.record.id(), self.record.clone());
        let stored = records::put(&self.vm.shared.tables.relationships, id, &record.clone().into()).await;
        if stored.is_err() {
            self.record.revision -= 1;
            return stored;
        }
        self.vm.published.send_replace(record.clone());
        let directory = self.vm.store.directory().to_owned();
        if let Err(refusal) = beside::write(&self.vm.shared.files, directory, &record).await {
            tracing::warn!(vm = %record.name, remedy = %refusal.remedy, "{}", refusal.message);
        }
        Ok(())
    }

    /// Shows the record without storing it: for what can be found again elsewhere.
    pub fn publish(&self) {
        self.vm.published.send_replace(self.record.clone());
    }

    /// Shows an error in `status` until the next one, or until something is received; it is not stored.
    pub fn show_error(&mut self, refusal: &Refusal) {
        if self.record.last_error.as_ref().is_none_or(|known| known.message != refusal.message) {
            self.record.last_error = Some(LastError::now(refusal.clone()));
            self.publish();
        }
    }

    /// Notes an error for `status`.
    pub async fn note_error(&mut self, refusal: &Refusal) {
        self.record.last_error = Some(LastError::now(refusal.clone()));
        if let Err(error) = self.save().await {
            tracing::error!(vm = %self.record.name, %error, "the replica's record could not be saved");
        }
    }
}

/// The refusal for a name that another VM of this host has.
#[must_use]
pub(crate) fn name_taken(name: &VmName, owner: VmId) -> Refusal {
    Failover::NameTaken { name: name.clone(), owner }.into()
}

/// The refusal for a VM that this host is no replica of.
#[must_use]
pub fn no_replica(name: &str) -> Refusal {
    Failover::NoReplica { vm: name.to_owned() }.into()
}

/// The same, where only its id is known.
#[must_use]
pub(super) fn unknown_replica(id: VmId) -> Refusal {
    Failover::UnknownReplica { id }.into()
}
