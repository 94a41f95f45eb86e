//! The task that owns a relationship on its primary. It waits (for the next slot, a command, the end of a piece
//! of work, an event of the VM) and then applies what came, synchronously. Work itself runs beside it in a
//! spawned future that has borrowed the [`Worker`], so a command is answered while a copy runs.
//!
//! Called by [`crate::engine`] through [`Handle`]. What may be asked of it is in [`super::requests`].

use super::asking::Asking;
use super::handle::{Answer, Command, Handle, Snapshot};
use super::schedule::Schedule;
use super::worker::{Order, Sealed, Tools, Worker};
use crate::error::{WorkError, chain};
use crate::jobs::{JobHandle, Jobs, Progress};
use crate::records::{self, LastError, PrimaryRecord, Tables};
use crate::service::Service;
use jiff::{SignedDuration, Timestamp};
use standin_hypervisor::{PowerState, VmEvent};
use standin_model::point::PointKind;
use standin_model::state::{self, Event, ReplicationState, Side};
use standin_model::stats::Cycle;
use standin_model::{Generation, JobId, Refusal, ReturnCode};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Failures in a row after which the state becomes critical. It is tried on all the same.
const CRITICAL_AFTER: u32 = 3;

/// How often those who watch a job see its progress.
const PROGRESS: Duration = Duration::from_millis(200);

/// How old the stored times and counters of cycles may be: what a crash of this host makes of what is shown. A write
/// of the record costs a flush of the state's file, so it is not one for each cycle of a second.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// How long the task sleeps when there is nothing to do.
const IDLE: Duration = Duration::from_secs(60);

/// What all primary tasks of a host share.
#[derive(Clone)]
pub struct Shared {
    /// What workers need.
    pub tools: Tools,
    /// Where records are kept.
    pub tables: Tables,
    /// All jobs.
    pub jobs: Arc<Jobs>,
    /// Pieces of work side by side on this host.
    pub slots: Arc<tokio::sync::Semaphore>,
    /// Settings of this host's service.
    pub service: Arc<Service>,
    /// The daemon stops.
    pub shutdown: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Initial,
    Cycle { application: bool },
    Resynchronize,
}

impl Work {
    fn activity(self) -> &'static str {
        match self {
            Self::Initial => "initial replication",
            Self::Cycle { .. } => "cycle",
            Self::Resynchronize => "resynchronization",
        }
    }
}

pub(super) struct Running {
    work: Work,
    pub(super) task: JoinHandle<(Worker, Result<Sealed, WorkError>)>,
    cancel: CancellationToken,
    progress: Arc<Progress>,
    started: Instant,
}

/// State, generation, fence, job, whether there is a point, error.
type Essence = (ReplicationState, Generation, bool, Option<JobId>, bool, Option<String>);

/// The task of a relationship: only it changes the record.
pub(super) struct Task {
    pub(super) shared: Shared,
    pub(super) record: PrimaryRecord,
    pub(super) worker: Option<Worker>,
    pub(super) running: Option<Running>,
    /// The job that the current or next piece of work belongs to.
    pub(super) job: Option<JobHandle>,
    pub(super) point_wanted: Option<bool>,
    pub(super) vm_running: bool,
    pub(super) schedule: Schedule,
    snapshot: watch::Sender<Snapshot>,
    /// What was stored last, and when.
    saved: (Essence, Instant),
    pub(super) removed: bool,
    /// What a session is opened with changed while the worker was away: the next piece of work opens a new one.
    pub(super) offer_again: bool,
    pub(super) asking: Asking,
}

/// Starts the task of a relationship. `worker` may bring the session that made it. The returned future ends
/// when the relationship is removed or the daemon stops.
pub fn spawn(shared: Shared, record: PrimaryRecord, worker: Option<Worker>) -> (Handle, JoinHandle<()>) {
    let (commands, inbox) = mpsc::channel(16);
    let first = Snapshot {
        record: record.clone(),
        activity: None,
        progress: (0, 0),
        since: Duration::ZERO,
        running: false,
        removed: false,
    };
    let (snapshot, seen) = watch::channel(first);
    let worker = worker.unwrap_or_else(|| Worker::new(shared.tools.clone()));
    let job = record.job.and_then(|id| shared.jobs.resume(id));
    let schedule = Schedule::new(Duration::from_secs(u64::from(record.settings.interval_s)));
    let never = (ReplicationState::Disabled, Generation(0), false, None, false, None);
    let task = Task {
        saved: (never, Instant::now()),
        shared,
        record,
        worker: Some(worker),
        running: None,
        job,
        point_wanted: None,
        vm_running: false,
        schedule,
        snapshot,
        removed: false,
        offer_again: false,
        asking: Asking::default(),
    };
    let ended = tokio::spawn(task.run(inbox));
    (Handle { commands, snapshot: seen }, ended)
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<(Command, Answer)>) {
        let mut events = self.shared.tools.hypervisor.events();
        let shutdown = self.shared.shutdown.clone();
        self.look_at_vm().await;
        self.go_on_after_restart();
        while !self.removed {
            self.start_due_work();
            self.ask_if_due();
            self.publish();
            let wake = self.asks_at().map_or(self.wake_at(), |at| at.min(self.wake_at()));
            let idle = self.job.as_ref().filter(|_| self.running.is_none()).map(JobHandle::cancelled);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                done = ended(&mut self.running) => self.finished(done).await,
                said = self.asking.answer() => self.answered(&said),
                Some((command, answer)) = inbox.recv() => {
                    let decided = self.command(command).await;
                    // Whoever asked looks at the snapshot next.
                    self.publish();
                    // Whoever asked may have gone away; what was decided holds all the same.
                    drop(answer.send(decided));
                }
                event = events.recv() => self.vm_event(event).await,
                () = cancelled(idle) => self.was_cancelled(self.waiting_for()),
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        self.stop().await;
    }

    /// An automatic resynchronization that an earlier process did not come to start.
    fn go_on_after_restart(&mut self) {
        let waits = self.record.state == ReplicationState::WaitingToStartResynchronization;
        if waits
            && self.record.settings.auto_resync
            && let Err(refusal) = self.begin_resync()
        {
            tracing::error!(vm = %self.record.name, error = %refusal, "the resynchronization was not started");
        }
    }

    fn wake_at(&self) -> Instant {
        match &self.running {
            Some(_) => Instant::now() + PROGRESS,
            // Due, and not started: the state or the VM does not allow it; a command or an event will wake. So will the
            // clock, which is looked at again and again because it may be set.
            None if self.schedule.is_due() => {
                let planned = self.record.start_at.map(|at| at.duration_since(Timestamp::now()));
                let wait = planned.and_then(|wait| Duration::try_from(wait).ok()).unwrap_or(IDLE);
                Instant::now() + wait.clamp(Duration::from_millis(1), IDLE)
            }
            None => self.schedule.next_at(),
        }
    }

    /// What should run now, if anything.
    fn due(&self) -> Option<Work> {
        if !self.vm_running || self.running.is_some() {
            return None;
        }
        let due = self.schedule.is_due();
        match self.record.state {
            ReplicationState::WaitingForInitialReplication if due && !self.is_planned() => {
                Some(Work::Initial)
            }
            ReplicationState::Resynchronizing if due => Some(Work::Resynchronize),
            // Critical before the first point: it is still the initial replication that is tried again.
            ReplicationState::Critical if self.record.last_point_at.is_none() => due.then_some(Work::Initial),
            ReplicationState::Replicating | ReplicationState::Critical => {
                if let Some(application) = self.point_wanted {
                    return Some(Work::Cycle { application });
                }
                due.then(|| Work::Cycle { application: self.application_due() })
            }
            _ => None,
        }
    }

    /// The initial replication is for later.
    fn is_planned(&self) -> bool {
        self.record.start_at.is_some_and(|at| at > Timestamp::now())
    }

    fn application_due(&self) -> bool {
        let Some(every) = self.record.settings.application_consistent_every_s() else { return false };
        let last = self.record.last_application_at;
        last.is_none_or(|at| {
            Timestamp::now().duration_since(at).as_secs() >= i64::try_from(every).unwrap_or(i64::MAX)
        })
    }

    fn start_due_work(&mut self) {
        let Some(work) = self.due() else { return };
        let Some(mut worker) = self.worker.take() else { return };
        self.asking.stop();
        let cancel = match &self.job {
            Some(job) => job.cancelled().child_token(),
            None => CancellationToken::new(),
        };
        let progress = self.job.as_ref().map_or_else(Arc::default, JobHandle::progress);
        self.record.start_at = None;
        if let Some(job) = &self.job {
            job.go_on();
        }
        let order =
            Order { record: self.record.clone(), progress: Arc::clone(&progress), cancel: cancel.clone() };
        let slots = Arc::clone(&self.shared.slots);
        let task = tokio::spawn(async move {
            // Never closed, so the only way this fails is a daemon that is going down.
            let Ok(_slot) = slots.acquire_owned().await else { return (worker, Err(WorkError::Cancelled)) };
            let result = carry_out(&mut worker, work, &order).await;
            (worker, result)
        });
        if matches!(work, Work::Cycle { .. }) {
            self.point_wanted = None;
        }
        self.schedule.started();
        self.running = Some(Running { work, task, cancel, progress, started: Instant::now() });
    }

    async fn finished(&mut self, done: (Option<Worker>, Result<Sealed, WorkError>)) {
        let Some(running) = self.running.take() else { return };
        let (worker, result) = done;
        let mut worker = worker.unwrap_or_else(|| Worker::new(self.shared.tools.clone()));
        if std::mem::take(&mut self.offer_again) {
            worker.hang_up();
        }
        self.worker = Some(worker);
        self.roll_statistics();
        self.asking.note(&result);
        match result {
            Ok(sealed) => self.succeeded(running.work, &sealed),
            Err(error) => {
                if matches!(running.work, Work::Cycle { .. }) {
                    let dirty = running.progress.total.load(Ordering::Relaxed);
                    let pending = &mut self.record.statistics.current.pending_bytes;
                    *pending = dirty.max(*pending);
                }
                self.failed(running.work, error, running.started.elapsed());
            }
        }
        self.save_if_needed();
    }

    /// Most cycles change only what the replica can tell again; those are stored once in a while, so that an
    /// idle cycle costs no flush of the state store.
    pub(super) fn save_if_needed(&mut self) {
        let essence = self.essence();
        if self.saved.0 == essence && self.saved.1.elapsed() < SAVE_EVERY {
            return;
        }
        match self.save_or_refuse() {
            Ok(()) => self.saved = (essence, Instant::now()),
            Err(refusal) => {
                tracing::error!(vm = %self.record.name, error = %refusal, "the relationship could not be saved");
            }
        }
    }

    /// What of the record must not be lost by a restart.
    fn essence(&self) -> Essence {
        let record = &self.record;
        let error = record.last_error.as_ref().map(|error| error.message.clone());
        (record.state, record.generation, record.fenced, record.job, record.last_point_at.is_some(), error)
    }

    fn succeeded(&mut self, work: Work, sealed: &Sealed) {
        let missed = self.schedule.succeeded();
        self.record.acknowledged = Some(sealed.epoch);
        self.record.failures = 0;
        self.record.last_error = None;
        self.record.fenced = false;
        self.record.fence = None;
        self.record.doubted = false;
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
            (Work::Resynchronize, _) => self.apply(Event::ResyncDone),
            (Work::Cycle { .. }, ReplicationState::Critical) => self.apply(Event::RetrySucceeded),
            _ => {}
        }
        self.note_freeze(work, sealed);
        if self.is_of_another(work) {
            return;
        }
        let Some(job) = self.job.take() else { return };
        self.record.job = None;
        match &sealed.freeze_error {
            Some(reason) => job.fail(freeze_refusal(&self.record, reason)),
            None => job.complete(),
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
                vm = %self.record.name, %reason,
                "the guest could not be frozen; the recovery point is crash-consistent"
            );
        }
    }

    fn failed(&mut self, work: Work, error: WorkError, after: Duration) {
        if matches!(error, WorkError::Cancelled) {
            return self.was_cancelled(work);
        }
        self.tell_job(work, &error);
        match &error {
            WorkError::NotRunning => {
                self.vm_running = false;
                return self.schedule.at_once();
            }
            WorkError::TrackingLost(_) => self.tracking_lost(&error),
            WorkError::ReplicaDiffers { .. } => {
                self.record.doubted = true;
                self.tracking_lost(&error);
            }
            WorkError::Refused { failed_over: true, .. } => self.fenced_by(&error),
            _ => self.note_failure(&error),
        }
        self.record.statistics.current.failed(matches!(error, WorkError::Link { .. }));
        tracing::warn!(
            vm = %self.record.name, work = work.activity(), error = %chain(&error),
            after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX), "work failed"
        );
        self.schedule.failed(self.record.failures);
    }

    /// A first copy and a comparison go on by themselves; a point that was asked for is this cycle or none.
    fn tell_job(&mut self, work: Work, error: &WorkError) {
        let goes_on = !matches!(
            error,
            WorkError::NotRunning
                | WorkError::TrackingLost(_)
                | WorkError::ReplicaDiffers { .. }
                | WorkError::Refused { failed_over: true, .. }
        );
        if goes_on && self.is_of_another(work) {
            return;
        }
        if matches!(work, Work::Cycle { .. }) && self.record.job.is_none() {
            if let Some(job) = self.job.take() {
                job.fail(error.refusal());
            }
        } else if let Some(job) = &self.job {
            job.note_error(error.refusal());
        }
    }

    pub(super) fn note_error(&mut self, error: &WorkError) {
        self.record.failures = self.record.failures.saturating_add(1);
        self.record.last_error =
            Some(LastError { at: Timestamp::now(), message: chain(error), remedy: error.remedy() });
    }

    fn note_failure(&mut self, error: &WorkError) {
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
                job.fail(error.refusal());
            }
        }
    }

    /// What changed is not known any more, or the replica is not what was sent: state 9, and from there by itself if
    /// the settings say so.
    fn tracking_lost(&mut self, error: &WorkError) {
        self.note_error(error);
        self.apply(Event::BitmapsLost);
        if self.record.settings.auto_resync
            && self.record.state == ReplicationState::WaitingToStartResynchronization
            && let Err(refusal) = self.begin_resync()
        {
            tracing::error!(vm = %self.record.name, error = %refusal, "the resynchronization was not started");
        }
    }

    /// The work ended because it was told to: by a pause, a removal, or a cancelled job.
    pub(super) fn was_cancelled(&mut self, work: Work) {
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
                job.terminate();
            }
        } else if matches!(work, Work::Cycle { .. }) {
            self.give_point_up();
        }
        self.schedule.at_once();
    }

    /// The point that was asked for does not come now: its job must not wait for a day on which it might.
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

    pub(super) fn give_point_up(&mut self) {
        self.point_wanted = None;
        if self.record.job.is_none()
            && let Some(job) = self.job.take()
        {
            job.fail(Refusal::new(
                ReturnCode::InvalidState,
                format!(
                    "the replication of VM {} was paused, or the VM ended, before the point",
                    self.record.name
                ),
                "Nothing is lost. Resume the replication or start the VM, then ask for the point again.",
            ));
        }
    }

    pub(super) fn cancel_running(&self) {
        if let Some(running) = &self.running {
            running.cancel.cancel();
        }
    }

    pub(super) async fn look_at_vm(&mut self) {
        match self.shared.tools.hypervisor.inspect(self.record.vm).await {
            Ok(info) => self.vm_running = info.power != PowerState::Off,
            Err(error) => {
                self.vm_running = false;
                tracing::warn!(vm = %self.record.name, error = %chain(&error), "the VM cannot be looked at");
            }
        }
    }

    async fn vm_event(&mut self, event: Result<VmEvent, broadcast::error::RecvError>) {
        match event {
            Ok(VmEvent::Started(vm)) if vm == self.record.vm => {
                self.vm_running = true;
                self.schedule.at_once();
            }
            Ok(VmEvent::Stopped { vm, .. }) if vm == self.record.vm => {
                self.vm_running = false;
                if self.running.is_none() {
                    self.give_point_up();
                }
            }
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => self.look_at_vm().await,
            // The driver is gone only when the daemon goes down.
            Err(broadcast::error::RecvError::Closed) => {
                tokio::time::sleep(PROGRESS).await;
            }
        }
    }

    /// Takes a step of the table. A step that it does not have is a defect of this task: said, and not taken.
    pub(super) fn apply(&mut self, event: Event) {
        match state::transition(Side::Primary, self.record.state, event) {
            Ok(next) => self.record.state = next,
            Err(refusal) => {
                tracing::error!(vm = %self.record.name, error = %refusal, "a state change was not possible");
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

    pub(super) fn save_or_refuse(&self) -> Result<(), Refusal> {
        if self.removed {
            return Ok(());
        }
        records::put(&self.shared.tables.primaries, self.record.vm, &self.record)
    }

    fn publish(&self) {
        if let Some(job) = &self.job {
            job.publish();
        }
        let running = self.running.as_ref();
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        self.snapshot.send_replace(Snapshot {
            record: self.record.clone(),
            activity: running.map(|running| running.work.activity()),
            progress: running
                .map_or((0, 0), |running| (load(&running.progress.done), load(&running.progress.total))),
            since: running.map_or(Duration::ZERO, |running| running.started.elapsed()),
            running: self.vm_running,
            removed: self.removed,
        });
    }

    /// The daemon stops, or the relationship is gone: nothing runs on when this returns.
    async fn stop(mut self) {
        self.asking.stop();
        self.cancel_running();
        if let Some(running) = self.running.take() {
            self.worker = running.task.await.ok().map(|(worker, _)| worker);
        }
        if let Some(worker) = self.worker.as_mut().filter(|_| !self.removed) {
            worker.rest(&self.record).await;
        }
        if let Some(job) = self.job.take() {
            if self.record.job == Some(job.id()) {
                job.keep_for_restart();
            } else {
                job.interrupted();
            }
        }
        self.publish();
    }
}

async fn carry_out(worker: &mut Worker, work: Work, order: &Order) -> Result<Sealed, WorkError> {
    // What made it critical may need a person: a cycle must not find lost marks first, and begin a comparison that
    // cannot end either.
    if order.record.state == ReplicationState::Critical {
        worker.check_disks(&order.record).await?;
    }
    match work {
        Work::Initial => worker.initial(order).await,
        Work::Cycle { application } => worker.cycle(order, application).await,
        Work::Resynchronize => worker.resynchronize(order).await,
    }
}

/// Fires when somebody cancels the job for which nothing runs now: it waits, or is paused.
async fn cancelled(job: Option<CancellationToken>) {
    match job {
        Some(token) => token.cancelled_owned().await,
        None => std::future::pending().await,
    }
}

/// Waits for the end of the running work. A worker that panicked is lost; the task makes a new one.
async fn ended(running: &mut Option<Running>) -> (Option<Worker>, Result<Sealed, WorkError>) {
    match running {
        None => std::future::pending().await,
        Some(running) => match (&mut running.task).await {
            Ok((worker, result)) => (Some(worker), result),
            Err(panic) => {
                tracing::error!(%panic, "a piece of work ended by a defect");
                (None, Err(WorkError::ViewLost("the work ended by a defect of standin".into())))
            }
        },
    }
}

fn freeze_refusal(record: &PrimaryRecord, reason: &str) -> Refusal {
    Refusal::new(
        ReturnCode::Failed,
        format!(
            "the guest of VM {} could not be frozen ({reason}); a crash-consistent recovery point was taken",
            record.name
        ),
        "See to the guest agent in the guest (qemu-guest-agent running, guest_agent = true in its definition).",
    )
}
