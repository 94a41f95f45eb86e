//! The task that owns a relationship on its primary. It waits (for the next slot, a command, the end of a piece
//! of work, an event of the VM) and then applies what came, synchronously. Work itself runs beside it in a
//! spawned future that has borrowed the [`Worker`], so a command is answered while a copy runs.
//!
//! Called by [`crate::engine`] through [`Handle`].

use super::schedule::Schedule;
use super::worker::{Order, Sealed, Tools, Worker};
use crate::error::{WorkError, chain};
use crate::jobs::{JobHandle, Jobs, NewJob, Progress};
use crate::messages::Request;
use crate::records::{self, LastError, PrimaryRecord, Tables};
use crate::service::Service;
use jiff::{SignedDuration, Timestamp};
use standin_hypervisor::{PowerState, VmEvent};
use standin_model::job::JobType;
use standin_model::point::PointKind;
use standin_model::settings::RelationshipSettings;
use standin_model::state::{self, Event, Facts, Method, ReplicationState, Side};
use standin_model::stats::Cycle;
use standin_model::{Generation, JobId, Refusal, ReturnCode};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Failures in a row after which the state becomes critical. It is tried on all the same.
const CRITICAL_AFTER: u32 = 3;

/// How long a replica may take to say whether it has failed over, before a VM is started.
const GREETING: Duration = Duration::from_secs(5);

/// How often those who watch a job see its progress.
const PROGRESS: Duration = Duration::from_millis(200);

/// How old the stored times of cycles may be.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// How long the task sleeps when there is nothing to do.
const IDLE: Duration = Duration::from_secs(60);

/// What a relationship's task is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Ask the replica whether it runs in this VM's place; the VM is about to be started.
    Greet,
    /// Start the initial replication.
    Start,
    /// Start the initial replication at a time to come.
    StartAt(Timestamp),
    /// Give the initial replication up; what arrived stays.
    CancelInitial,
    /// Pause.
    Suspend,
    /// Go on after a pause, out of a critical state, or with a paused resynchronization.
    Resume,
    /// Take a recovery point now.
    Point {
        /// With the guest frozen by its agent.
        application: bool,
    },
    /// Compare and send what differs.
    Resynchronize,
    /// Give the comparison up.
    CancelResynchronize,
    /// Begin to count anew.
    ResetStatistics,
    /// Change the settings.
    Modify(Box<RelationshipSettings>),
    /// End the relationship on this side and, if it can be reached, on the other.
    Remove,
}

type Answer = oneshot::Sender<Result<Option<JobId>, Refusal>>;

/// What a relationship looks like from outside.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The record as it is stored.
    pub record: PrimaryRecord,
    /// What runs now, in a word for people.
    pub activity: Option<&'static str>,
    /// Bytes done and in all of what runs now.
    pub progress: (u64, u64),
    /// How long it has been running.
    pub since: Duration,
    /// The VM runs.
    pub running: bool,
    /// The relationship was removed; the task has ended.
    pub removed: bool,
}

impl Snapshot {
    /// Bytes a second of what runs now, on average.
    #[must_use]
    pub fn rate(&self) -> u64 {
        let millis = u64::try_from(self.since.as_millis()).unwrap_or(u64::MAX).max(1);
        self.progress.0.saturating_mul(1000) / millis
    }
}

/// Reaches the task of a relationship.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<(Command, Answer)>,
    snapshot: watch::Receiver<Snapshot>,
}

impl Handle {
    /// Asks for something and waits until it is decided (not until it is done).
    ///
    /// # Errors
    /// The task's refusal.
    pub async fn ask(&self, command: Command) -> Result<Option<JobId>, Refusal> {
        let gone = || {
            Refusal::new(
                ReturnCode::InvalidState,
                "the replication of this VM has just been removed",
                "Look at `standin status`.",
            )
        };
        let (answer, decided) = oneshot::channel();
        self.commands.send((command, answer)).await.map_err(|_| gone())?;
        decided.await.map_err(|_| gone())?
    }

    /// The relationship as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }
}

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
enum Work {
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

struct Running {
    work: Work,
    task: JoinHandle<(Worker, Result<Sealed, WorkError>)>,
    cancel: CancellationToken,
    progress: Arc<Progress>,
    started: Instant,
}

/// State, generation, fence, job, whether there is a point, error.
type Essence = (ReplicationState, Generation, bool, Option<JobId>, bool, Option<String>);

struct Task {
    shared: Shared,
    record: PrimaryRecord,
    worker: Option<Worker>,
    running: Option<Running>,
    /// The job that the current or next piece of work belongs to.
    job: Option<JobHandle>,
    point_wanted: Option<bool>,
    vm_running: bool,
    schedule: Schedule,
    snapshot: watch::Sender<Snapshot>,
    /// What was stored last, and when.
    saved: (Essence, Instant),
    removed: bool,
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
            self.publish();
            let wake = self.wake_at();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                done = ended(&mut self.running) => self.finished(done).await,
                Some((command, answer)) = inbox.recv() => {
                    let decided = self.command(command).await;
                    // Whoever asked looks at the snapshot next.
                    self.publish();
                    // Whoever asked may have gone away; what was decided holds all the same.
                    drop(answer.send(decided));
                }
                event = events.recv() => self.vm_event(event).await,
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
            // Due, and not started: the state or the VM does not allow it; a command or an event will wake.
            None if self.schedule.is_due() => Instant::now() + IDLE,
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
            ReplicationState::WaitingForInitialReplication if due => Some(Work::Initial),
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
        let cancel = match &self.job {
            Some(job) => job.cancelled().child_token(),
            None => CancellationToken::new(),
        };
        let progress = self.job.as_ref().map_or_else(Arc::default, JobHandle::progress);
        let order =
            Order { record: self.record.clone(), progress: Arc::clone(&progress), cancel: cancel.clone() };
        let slots = Arc::clone(&self.shared.slots);
        let task = tokio::spawn(async move {
            // Never closed, so the only way this fails is a daemon that is going down.
            let Ok(_slot) = slots.acquire_owned().await else { return (worker, Err(WorkError::Cancelled)) };
            let result = match work {
                Work::Initial => worker.initial(&order).await,
                Work::Cycle { application } => worker.cycle(&order, application).await,
                Work::Resynchronize => worker.resynchronize(&order).await,
            };
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
        self.worker = Some(worker.unwrap_or_else(|| Worker::new(self.shared.tools.clone())));
        self.roll_statistics();
        match result {
            Ok(sealed) => self.succeeded(running.work, &sealed),
            Err(error) => self.failed(running.work, error, running.started.elapsed()),
        }
        self.save_if_needed();
    }

    /// Most cycles change only what the replica can tell again; those are stored once in a while, so that an
    /// idle cycle costs no flush of the state store.
    fn save_if_needed(&mut self) {
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
        let Some(job) = self.job.take() else { return };
        self.record.job = None;
        match &sealed.freeze_error {
            Some(reason) => job.fail(freeze_refusal(&self.record, reason)),
            None => job.complete(),
        }
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
            WorkError::Refused { generation, failed_over: true, .. } => {
                self.record.fenced = true;
                self.record.generation = generation.unwrap_or(self.record.generation);
                self.note_error(&error);
                self.apply(Event::PeerFailedOver);
            }
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
        if matches!(work, Work::Cycle { .. }) && self.record.job.is_none() {
            if let Some(job) = self.job.take() {
                job.fail(error.refusal());
            }
        } else if let Some(job) = &self.job {
            job.note_error(error.refusal());
        }
    }

    fn note_error(&mut self, error: &WorkError) {
        self.record.failures = self.record.failures.saturating_add(1);
        self.record.last_error =
            Some(LastError { at: Timestamp::now(), message: chain(error), remedy: error.remedy() });
    }

    fn note_failure(&mut self, error: &WorkError) {
        self.note_error(error);
        let exhausted = self.record.failures >= CRITICAL_AFTER || error.is_lasting();
        let event = if exhausted { Event::RetryExhausted } else { Event::TransportFailed };
        if self.record.state != ReplicationState::Resynchronizing {
            self.apply(event);
        }
    }

    /// What changed is not known any more: state 9, and from there by itself if the settings say so.
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
    fn was_cancelled(&mut self, work: Work) {
        let by_job = self.job.as_ref().is_some_and(|job| job.cancelled().is_cancelled());
        if by_job {
            match (work, self.record.state) {
                (Work::Initial, ReplicationState::WaitingForInitialReplication) => {
                    self.apply(Event::InitialCancelled);
                }
                (Work::Resynchronize, ReplicationState::Resynchronizing) => {
                    self.apply(Event::ResyncCancelled);
                }
                _ => {}
            }
            self.record.job = None;
            if let Some(job) = self.job.take() {
                job.terminate();
            }
        } else if matches!(work, Work::Cycle { .. }) {
            self.give_point_up();
        }
        self.schedule.at_once();
    }

    /// The point that was asked for does not come now: its job must not wait for a day on which it might.
    fn give_point_up(&mut self) {
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

    async fn command(&mut self, command: Command) -> Result<Option<JobId>, Refusal> {
        self.allowed(&command)?;
        match command {
            Command::Greet => self.greet().await.map(|()| None),
            Command::Start => self.start_initial(None).map(Some),
            Command::StartAt(at) => self.start_initial(Some(at)).map(Some),
            Command::ResetStatistics => self.reset_statistics().map(|()| None),
            Command::Suspend => self.suspend().map(|()| None),
            Command::Resume => self.resume().map(|()| None),
            Command::Point { application } => self.want_point(application).map(Some),
            Command::Resynchronize => self.begin_resync().map(Some),
            Command::CancelInitial | Command::CancelResynchronize => self.cancel_work().map(|()| None),
            Command::Modify(settings) => self.modify(*settings).await.map(|()| None),
            Command::Remove => self.remove().await.map(|()| None),
        }
    }

    fn allowed(&self, command: &Command) -> Result<(), Refusal> {
        let method = match command {
            Command::Greet => return Ok(()),
            Command::Start | Command::StartAt(_) => Method::StartReplication,
            Command::ResetStatistics => Method::ResetReplicationStatistics,
            Command::CancelInitial => Method::RequestCancelInitialReplication,
            Command::Suspend => Method::RequestSuspend,
            Command::Resume => Method::RequestResume,
            Command::Point { .. } => Method::TakePoint,
            Command::Resynchronize => Method::Resynchronize,
            Command::CancelResynchronize => Method::RequestCancelResynchronization,
            Command::Modify(_) => Method::ModifyReplicationSettings,
            Command::Remove => Method::RemoveReplicationRelationship,
        };
        let facts = Facts { initial_done: self.record.last_point_at.is_some(), has_extended: false };
        state::request_with(Side::Primary, self.record.state, method, facts)
    }

    /// A host that comes back after a failover has an older generation: it learns that here, before the VM runs
    /// twice. A replica that cannot be asked does not keep the VM from starting: that would make the replica
    /// a single point of failure of the primary.
    async fn greet(&mut self) -> Result<(), Refusal> {
        let Some(worker) = &mut self.worker else { return Ok(()) };
        // What an open session was told is of the past: only a new one asks.
        worker.hang_up();
        match tokio::time::timeout(GREETING, worker.head(&self.record)).await {
            Ok(Err(WorkError::Refused { generation, failed_over: true, .. })) => {
                self.record.fenced = true;
                self.record.generation = generation.unwrap_or(self.record.generation);
                self.apply(Event::PeerFailedOver);
            }
            Ok(Ok(opened)) => {
                self.record.fenced = false;
                self.record.generation = opened.generation;
            }
            Ok(Err(error)) => {
                tracing::warn!(vm = %self.record.name, error = %chain(&error), "the replica was not asked before the start");
            }
            Err(_) => {
                worker.hang_up();
                tracing::warn!(vm = %self.record.name, "the replica did not answer before the start");
            }
        }
        self.save_or_refuse()
    }

    fn start_initial(&mut self, at: Option<Timestamp>) -> Result<JobId, Refusal> {
        let id = self.begin_job(JobType::StartInitialReplication, "initial replication", true)?;
        self.record.job = Some(id);
        self.record.start_at = at;
        self.apply(Event::StartInitial);
        self.schedule.at_once();
        self.save_or_refuse()?;
        Ok(id)
    }

    fn reset_statistics(&mut self) -> Result<(), Refusal> {
        self.record.statistics.reset(Timestamp::now());
        self.save_or_refuse()
    }

    fn begin_resync(&mut self) -> Result<JobId, Refusal> {
        // An initial replication that ends in a comparison is still that job.
        let id = match (&self.job, self.record.job) {
            (Some(job), Some(known)) if job.id() == known => known,
            _ => self.begin_job(JobType::Resynchronize, "resynchronization", true)?,
        };
        self.record.job = Some(id);
        self.apply(Event::StartResync);
        self.schedule.at_once();
        self.save_or_refuse()?;
        Ok(id)
    }

    fn want_point(&mut self, application: bool) -> Result<JobId, Refusal> {
        if !self.vm_running {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                format!("VM {} is not running, so nothing can be cut", self.record.name),
                "Start it with `standin vm start VM`; its last recovery point is the newest state there is.",
            ));
        }
        let what = if application { "application-consistent recovery point" } else { "recovery point" };
        let id = self.begin_job(JobType::SendDelta, what, true)?;
        self.point_wanted = Some(application);
        Ok(id)
    }

    fn begin_job(&mut self, job_type: JobType, what: &str, cancellable: bool) -> Result<JobId, Refusal> {
        if let Some(job) = &self.job {
            return Err(Refusal::new(
                ReturnCode::InUse,
                format!("job {} already works on VM {}", job.id(), self.record.name),
                "Wait for its end (`standin jobs --watch`) or cancel it.",
            ));
        }
        let job = self.shared.jobs.begin(NewJob {
            job_type,
            vm: Some((self.record.vm, self.record.name.clone())),
            description: format!("{what} of {} to {}", self.record.name, self.record.peer),
            cancellable,
        })?;
        let id = job.id();
        self.job = Some(job);
        Ok(id)
    }

    fn suspend(&mut self) -> Result<(), Refusal> {
        let before = self.record.state;
        if before == ReplicationState::Resynchronizing {
            self.apply(Event::ResyncSuspend);
        } else {
            self.apply(Event::Suspend);
        }
        match &self.running {
            Some(_) => self.cancel_running(),
            None => self.give_point_up(),
        }
        self.save_or_refuse()
    }

    fn resume(&mut self) -> Result<(), Refusal> {
        let initial = self.record.last_point_at.is_none();
        let event = match self.record.state {
            ReplicationState::ResynchronizationSuspended => Event::Resume,
            _ if initial => Event::ResumeInitial,
            ReplicationState::Critical => Event::ResumeFromCritical,
            _ => Event::Resume,
        };
        self.apply(event);
        self.record.failures = 0;
        self.schedule.at_once();
        self.save_or_refuse()
    }

    fn cancel_work(&mut self) -> Result<(), Refusal> {
        match &self.job {
            Some(job) => self.shared.jobs.cancel(job.id())?,
            None => self.apply(Event::ResyncCancelled),
        }
        self.cancel_running();
        if self.running.is_none() {
            let work = match self.record.state {
                ReplicationState::WaitingForInitialReplication => Work::Initial,
                _ => Work::Resynchronize,
            };
            self.was_cancelled(work);
        }
        self.save_or_refuse()
    }

    async fn modify(&mut self, settings: RelationshipSettings) -> Result<(), Refusal> {
        settings.validate()?;
        if settings.granularity != self.record.settings.granularity {
            return Err(Refusal::new(
                ReturnCode::NotSupported,
                "the granularity of a relationship cannot be changed",
                "Remove the replication and enable it again with the other granularity.",
            ));
        }
        let told = Request::Settings(Box::new(settings.clone()));
        if let Some(worker) = &mut self.worker {
            worker.tell(&self.record, &told).await.map_err(|error| error.refusal())?;
        } else {
            return Err(Refusal::new(
                ReturnCode::InUse,
                format!("a cycle of VM {} is under way", self.record.name),
                "Try again in a moment.",
            ));
        }
        self.schedule.set_interval(Duration::from_secs(u64::from(settings.interval_s)));
        self.record.settings = settings;
        self.save_or_refuse()
    }

    async fn remove(&mut self) -> Result<(), Refusal> {
        self.cancel_running();
        if let Some(running) = self.running.take() {
            self.worker = running.task.await.ok().map(|(worker, _)| worker);
        }
        if let Some(worker) = &mut self.worker {
            // Each side removes for itself; the other one may be gone for good.
            if let Err(error) = worker.tell(&self.record, &Request::Remove).await {
                tracing::warn!(vm = %self.record.name, error = %chain(&error), "the replica was not told");
            }
            worker.hang_up();
            worker.forget_tracking(&self.record).await;
        }
        records::delete(&self.shared.tables.primaries, self.record.vm)?;
        self.apply(Event::Remove);
        self.removed = true;
        if let Some(job) = self.job.take() {
            job.terminate();
        }
        Ok(())
    }

    fn cancel_running(&self) {
        if let Some(running) = &self.running {
            running.cancel.cancel();
        }
    }

    async fn look_at_vm(&mut self) {
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
    fn apply(&mut self, event: Event) {
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

    fn save_or_refuse(&self) -> Result<(), Refusal> {
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
        self.cancel_running();
        if let Some(running) = self.running.take() {
            drop(running.task.await);
        }
        if let Some(job) = self.job.take() {
            if self.record.job == Some(job.id()) {
                job.keep_for_restart();
            } else {
                job.terminate();
            }
        }
        self.publish();
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
