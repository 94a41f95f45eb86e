//! What the end of a piece of work changes: the record, the schedule, the job that waited for it.
//!
//! ```text
//! sealed    -> counted, errors forgotten, a step of the table, the job ends
//! failed    -> tried again later; critical after some failures in a row or one that lasts;
//!              what changed is lost, or the replica differs -> resynchronization
//! cancelled -> by its job: the state goes back; by a pause, a removal: the job stays, or the point is given up
//! ```
//!
//! A job ends with the work that was begun for it, never with a cycle that was under way when it came. Nothing here
//! waits but for what is written down, and no command comes between.
//!
//! Called by [`super::task`]; [`super::requests`] and [`super::asking`] note errors and cancel with it.

use super::reason::Primary;
use super::task::Task;
use super::work::Work;
use super::worker::{Sealed, Worker};
use crate::error::{WorkError, chain};
use crate::records::{LastError, PrimaryRecord};
use jiff::{SignedDuration, Timestamp};
use standin_model::point::PointKind;
use standin_model::state::{Event, ReplicationState};
use standin_model::stats::Cycle;
use standin_model::{Refusal, ReturnCode};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Failures in a row after which the state becomes critical. It is tried on all the same.
const CRITICAL_AFTER: u32 = 3;

impl Task {
    pub(super) async fn finished(&mut self, done: (Option<Worker>, Result<Sealed, WorkError>)) {
        let Some(running) = self.running.take() else { return };
        let (worker, result) = done;
        let mut worker = worker.unwrap_or_else(|| Worker::new(self.shared.tools.clone()));
        if let Some((host, _)) = worker.host().filter(|_| result.is_ok()) {
            if self.record.host.replace(host) != Some(host) {
                self.link = Some(self.shared.tools.peers.watch(host));
            }
        }
        if std::mem::take(&mut self.offer_again) {
            worker.hang_up();
        }
        self.worker = Some(worker);
        self.roll_statistics();
        self.asking.note(&result);
        match result {
            Ok(sealed) => self.succeeded(running.work, &sealed).await,
            Err(error) => {
                if matches!(running.work, Work::Cycle { .. }) {
                    let dirty = running.progress.total.load(Ordering::Relaxed);
                    let pending = &mut self.record.statistics.current.pending_bytes;
                    *pending = dirty.max(*pending);
                }
                self.failed(running.work, error, running.started.elapsed()).await;
            }
        }
        self.save_if_needed().await;
    }

    async fn succeeded(&mut self, work: Work, sealed: &Sealed) {
        let missed = self.schedule.succeeded();
        self.record.acknowledged = Some(sealed.epoch);
        self.in_step = true;
        self.record.failures = 0;
        self.record.last_error = None;
        self.record.doubted = false;
        if self.record.found.take().is_some() {
            self.shared.tools.vms.compared(self.record.vm);
        }
        if let Some(point) = &sealed.point {
            self.record.last_point_at = Some(point.created_at);
            self.record.last_kind = Some(point.kind);
        }
        self.count(sealed, missed);
        match (work, self.record.state) {
            (Work::Initial, state) => {
                if state == ReplicationState::Critical {
                    self.apply(Event::ResumeInitial);
                }
                self.apply(Event::InitialDone);
            }
            (Work::Resynchronize, _) => {
                self.apply(Event::ResyncDone);
                self.shared.tools.vms.compared(self.record.vm);
            }
            (Work::Cycle { .. }, ReplicationState::Critical) => self.apply(Event::RetrySucceeded),
            _ => {}
        }
        self.note_freeze(work, sealed);
        if self.is_of_another(work) {
            return;
        }
        self.record.job = None;
        let Some(job) = self.job.take() else { return };
        match &sealed.freeze_error {
            Some(reason) => job.fail(freeze_refusal(&self.record, reason)).await,
            None => job.complete().await,
        }
    }

    /// The job came while this cycle was under way. It asked for a point: what the guest had written by then may
    /// not be in the cut, and the next cycle is the job's. Or it is to copy or compare, which no cycle does.
    fn is_of_another(&self, work: Work) -> bool {
        matches!(work, Work::Cycle { .. }) && (self.record.job.is_some() || self.point_wanted.is_some())
    }

    fn note_freeze(&mut self, work: Work, sealed: &Sealed) {
        if work != (Work::Cycle { application: true }) {
            return;
        }
        self.record.last_application_at = Some(Timestamp::now());
        if let Some(reason) = &sealed.freeze_error {
            self.record.statistics.current.application_consistent_failed();
            tracing::warn!(
                %reason,
                "the guest could not be frozen; the recovery point is crash-consistent"
            );
        }
    }

    async fn failed(&mut self, work: Work, error: WorkError, after: Duration) {
        if matches!(error, WorkError::Cancelled) {
            return self.was_cancelled(work).await;
        }
        self.tell_job(work, &error).await;
        match &error {
            WorkError::NotRunning => {
                self.vm_running = false;
                return self.schedule.at_once();
            }
            WorkError::TrackingLost(_) | WorkError::ReplicaOlder { .. } => self.tracking_lost(&error).await,
            WorkError::ReplicaDiffers { .. } => {
                self.record.doubted = true;
                self.tracking_lost(&error).await;
            }
            WorkError::Refused { failed_over: true, .. } => self.fenced_by(&error),
            _ => self.note_failure(&error).await,
        }
        self.record.statistics.current.failed(matches!(error, WorkError::Link { .. }));
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let (work, said) = (work.activity(), chain(&error));
        match &error {
            // Somebody paused the replica, or failed over.
            WorkError::Refused { refusal, .. } if refusal.code == ReturnCode::InvalidState => {
                tracing::info!(work, error = said, after_ms, "the replica takes nothing now");
            }
            _ => tracing::warn!(work, error = said, after_ms, "work failed"),
        }
        self.schedule.failed(self.record.failures);
    }

    /// A first copy and a comparison go on by themselves; a point that was asked for is this cycle or none.
    async fn tell_job(&mut self, work: Work, error: &WorkError) {
        let goes_on = !error.asks_for_a_comparison()
            && !matches!(error, WorkError::NotRunning | WorkError::Refused { failed_over: true, .. });
        if goes_on && self.is_of_another(work) {
            return;
        }
        if matches!(work, Work::Cycle { .. }) && self.record.job.is_none() {
            if let Some(job) = self.job.take() {
                job.fail(error.refusal()).await;
            }
        } else if let Some(job) = &self.job {
            job.note_error(error.refusal());
        }
    }

    pub(super) fn note_error(&mut self, error: &WorkError) {
        self.record.failures = self.record.failures.saturating_add(1);
        self.record.last_error = Some(LastError::now(error.refusal()));
    }

    async fn note_failure(&mut self, error: &WorkError) {
        self.note_error(error);
        let exhausted = self.record.failures >= CRITICAL_AFTER || error.is_lasting();
        let event = if exhausted { Event::RetryExhausted } else { Event::TransportFailed };
        if self.record.state != ReplicationState::Resynchronizing {
            return self.apply(event);
        }
        // A comparison is tried for as long as that can help.
        if error.is_lasting() {
            self.apply(Event::RetryExhausted);
            self.record.job = None;
            if let Some(job) = self.job.take() {
                job.fail(error.refusal()).await;
            }
        }
    }

    /// What changed is not known any more, or the replica is not what was sent: state 9, and from there by itself if
    /// the settings say so.
    pub(super) async fn tracking_lost(&mut self, error: &WorkError) {
        self.note_error(error);
        self.apply(Event::BitmapsLost);
        self.resync_by_itself(self.record.settings.auto_resync).await;
    }

    /// Begins the comparison that this relationship waits for, where that is `wanted`.
    pub(super) async fn resync_by_itself(&mut self, wanted: bool) {
        if !wanted || self.record.state != ReplicationState::WaitingToStartResynchronization {
            return;
        }
        if let Err(refusal) = self.begin_resync().await {
            tracing::error!(error = %refusal, "the resynchronization was not started");
        }
    }

    /// The work ended because it was told to: by a pause, a removal, or a cancelled job.
    pub(super) async fn was_cancelled(&mut self, work: Work) {
        let by_job = self.job.as_ref().is_some_and(|job| job.cancelled().is_cancelled());
        if by_job {
            match (work, self.record.state) {
                (Work::Initial, state) => {
                    if state != ReplicationState::WaitingForInitialReplication {
                        self.apply(Event::ResumeInitial);
                    }
                    self.apply(Event::InitialCancelled);
                }
                (Work::Resynchronize, state)
                    if state != ReplicationState::WaitingToStartResynchronization =>
                {
                    self.apply(Event::ResyncCancelled);
                }
                (Work::Resynchronize, _) => {}
                (Work::Cycle { .. }, _) => self.point_wanted = None,
            }
            self.record.job = None;
            self.record.start_at = None;
            if let Some(job) = self.job.take() {
                job.terminate().await;
            }
        } else if matches!(work, Work::Cycle { .. }) {
            self.give_point_up().await;
        }
        self.schedule.at_once();
    }

    /// What the job that waits, or is paused, would go on with.
    pub(super) fn waiting_for(&self) -> Work {
        use ReplicationState as S;
        match self.record.state {
            _ if self.record.job.is_none() => Work::Cycle { application: false },
            S::Resynchronizing | S::ResynchronizationSuspended | S::WaitingToStartResynchronization => {
                Work::Resynchronize
            }
            _ => Work::Initial,
        }
    }

    /// Gives the point up that was asked for where no cycle can begin: the VM went off, or to another host, or the disks must be
    /// compared first.
    pub(super) async fn give_up_what_cannot_begin(&mut self) {
        use ReplicationState as S;
        let can_begin =
            self.vm_running && !self.is_fenced() && matches!(self.record.state, S::Replicating | S::Critical);
        if self.point_wanted.is_some() && self.running.is_none() && !can_begin {
            self.give_point_up().await;
        }
    }

    /// The point that was asked for does not come now: its job must not wait for a day on which it might.
    pub(super) async fn give_point_up(&mut self) {
        self.point_wanted = None;
        if self.record.job.is_none() {
            if let Some(job) = self.job.take() {
                job.fail(Primary::PointGivenUp { vm: self.record.name.clone() }.into()).await;
            }
        }
    }

    fn count(&mut self, sealed: &Sealed, missed: u64) {
        let statistics = &mut self.record.statistics.current;
        statistics.missed(missed);
        statistics.pending_bytes = 0;
        let Some(point) = &sealed.point else { return };
        statistics.succeeded(Cycle {
            at: Timestamp::now(),
            latency: SignedDuration::try_from(sealed.latency).unwrap_or(SignedDuration::MAX),
            changed_bytes: sealed.changed_bytes,
            sent_bytes: sealed.wire_bytes,
            application_consistent: point.kind == PointKind::ApplicationConsistent,
        });
    }

    fn roll_statistics(&mut self) {
        self.shared.service.roll(&mut self.record.statistics, Timestamp::now());
    }
}

fn freeze_refusal(record: &PrimaryRecord, reason: &str) -> Refusal {
    Primary::NotFrozen { vm: record.name.clone(), reason: reason.to_owned() }.into()
}
