//! The task that owns a relationship on its primary. It waits (for the next slot, a command, the end of a piece
//! of work, an event of the VM) and then applies what came, before it waits again; what must be durable is written down
//! meanwhile, and no command comes between. Work itself runs beside it in a spawned future that has borrowed the [`Worker`], so a command is answered while a copy runs.
//!
//! Called by [`crate::engine`] through [`Handle`]. What may be asked of it is in [`super::requests`], what it begins in
//! [`super::work`], what the end of that changes in [`super::outcome`].

use super::asking::{Asking, comes_up};
use super::handle::{Answer, Command, Handle, Snapshot};
use super::schedule::Schedule;
use super::work::{Running, ended};
use super::worker::{Tools, Worker};
use crate::error::chain;
use crate::jobs::{JobHandle, Jobs};
use crate::peers::LinkState;
use crate::records::{self, PrimaryRecord, Tables};
use crate::service::Service;
use crate::spans;
use crate::vm::VmRecord;
use jiff::Timestamp;
use standin_hypervisor::{PowerState, VmEvent};
use standin_model::state::{self, Event, ReplicationState, Side};
use standin_model::{JobId, Refusal};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// How often those who watch a job see its progress.
const PROGRESS: Duration = Duration::from_millis(200);

/// How long the end of a cycle may wait to be written down: what a crash of this host makes of what is shown, and of what
/// is known of the replica ([`super::provenance`]). A write of the record costs a flush of the state's file, so it is not
/// one for each cycle of a second.
pub(super) const SAVE_EVERY: Duration = Duration::from_secs(5);

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

/// State, job, whether there is a point, error.
type Essence = (ReplicationState, Option<JobId>, bool, Option<String>);

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
    /// The record has changed since.
    unsaved: bool,
    /// The replica has what the record says, as it told this process.
    pub(super) in_step: bool,
    pub(super) removed: bool,
    /// What a session is opened with changed while the worker was away: the next piece of work opens a new one.
    pub(super) offer_again: bool,
    pub(super) asking: Asking,
    /// How the link with the replica's host is.
    pub(super) link: Option<watch::Receiver<LinkState>>,
    /// Who may run the VM, and so who may send it.
    pub(super) fence: watch::Receiver<Option<VmRecord>>,
    /// As it was when it was looked at last.
    pub(super) was_fenced: bool,
}

/// Starts the task of a relationship. `worker` may bring the session that made it. The returned future ends
/// when the relationship is removed or the daemon stops.
pub fn spawn(shared: Shared, mut record: PrimaryRecord, worker: Option<Worker>) -> (Handle, JoinHandle<()>) {
    let (commands, inbox) = mpsc::channel(16);
    let job = record.job.and_then(|id| shared.jobs.resume(id));
    // It had ended, and the daemon with it, before that was noted here.
    record.job = job.as_ref().map(JobHandle::id);
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
    let schedule = Schedule::new(record.vm, Duration::from_secs(u64::from(record.settings.interval_s)));
    let never = (ReplicationState::Disabled, None, false, None);
    let fence = shared.tools.vms.watch(record.vm);
    let link = record.host.map(|host| shared.tools.peers.watch(host));
    let task = Task {
        saved: (never, Instant::now()),
        unsaved: false,
        in_step: false,
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
        link,
        fence,
        was_fenced: false,
    };
    let span = spans::sender(task.record.id(), &task.record.name);
    let ended = tokio::spawn(task.run(inbox).instrument(span));
    (Handle { commands, snapshot: seen }, ended)
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<(Command, Answer)>) {
        let mut events = self.shared.tools.hypervisor.events();
        let shutdown = self.shared.shutdown.clone();
        self.look_at_vm().await;
        self.look_at_fence().await;
        self.go_on_after_restart().await;
        while !self.removed {
            self.give_up_what_cannot_begin().await;
            self.start_due_work().await;
            self.ask_if_due();
            if self.unsaved {
                self.save_if_needed().await;
            }
            self.publish();
            let saves_at = self.unsaved.then(|| self.saved.1 + SAVE_EVERY);
            let wakes = [Some(self.wake_at()), self.asks_at(), saves_at];
            let wake = wakes.into_iter().flatten().min().unwrap_or_else(|| self.wake_at());
            let idle = self.job.as_ref().filter(|_| self.running.is_none()).map(JobHandle::cancelled);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                done = ended(&mut self.running) => self.finished(done).await,
                said = self.asking.answer() => self.answered(&said).await,
                Some((command, answer)) = inbox.recv() => {
                    let decided = self.command(command).await;
                    // Whoever asked looks at the snapshot next.
                    self.publish();
                    // Whoever asked may have gone away; what was decided holds all the same.
                    drop(answer.send(decided));
                }
                Ok(()) = self.fence.changed() => self.look_at_fence().await,
                () = comes_up(&mut self.link) => self.met_again(),
                event = events.recv() => self.vm_event(event).await,
                () = cancelled(idle) => self.was_cancelled(self.waiting_for()).await,
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        self.stop().await;
    }

    /// An automatic resynchronization that an earlier process did not come to start.
    async fn go_on_after_restart(&mut self) {
        self.resync_by_itself(self.record.settings.auto_resync).await;
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

    /// Most cycles change only what the replica can tell again; those are stored once in a while, so that an
    /// idle cycle costs no flush of the state store.
    pub(super) async fn save_if_needed(&mut self) {
        let essence = self.essence();
        self.unsaved = self.saved.0 == essence && self.saved.1.elapsed() < SAVE_EVERY;
        if self.unsaved {
            return;
        }
        match self.save_or_refuse().await {
            Ok(()) => self.saved = (essence, Instant::now()),
            Err(refusal) => {
                tracing::error!(error = %refusal, "the relationship could not be saved");
            }
        }
    }

    /// What of the record must not be lost by a restart.
    fn essence(&self) -> Essence {
        let record = &self.record;
        let error = record.last_error.as_ref().map(|error| error.message.clone());
        (record.state, record.job, record.last_point_at.is_some(), error)
    }

    pub(super) async fn look_at_vm(&mut self) {
        match self.shared.tools.hypervisor.inspect(self.record.vm).await {
            Ok(info) => {
                self.vm_running = info.power != PowerState::Off;
                // It may have been defined anew under another name.
                if let Err(refusal) = self.renamed(info.name).await {
                    tracing::error!(error = %refusal, "the VM's new name could not be saved");
                }
            }
            Err(error) => {
                self.vm_running = false;
                tracing::warn!(error = %chain(&error), "the VM cannot be looked at");
            }
        }
    }

    async fn vm_event(&mut self, event: Result<VmEvent, broadcast::error::RecvError>) {
        match event {
            Ok(VmEvent::Started(vm)) if vm == self.record.vm => {
                self.look_at_vm().await;
                self.vm_running = true;
                self.schedule.at_once();
            }
            Ok(VmEvent::Stopped { vm, .. }) if vm == self.record.vm => {
                self.vm_running = false;
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
                tracing::error!(error = %refusal, "a state change was not possible");
            }
        }
    }

    pub(super) async fn save_or_refuse(&mut self) -> Result<(), Refusal> {
        if self.removed {
            return Ok(());
        }
        if self.in_step {
            self.record.saved_at = Some(Timestamp::now());
        }
        let record = self.record.clone().into();
        records::put(&self.shared.tables.relationships, self.record.id(), &record).await
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
        let saved = if self.unsaved { self.save_or_refuse().await } else { Ok(()) };
        if let Err(refusal) = saved {
            tracing::error!(vm = %self.record.name, error = %refusal, "the relationship could not be saved");
        }
        if let Some(job) = self.job.take() {
            if self.record.job == Some(job.id()) {
                job.keep_for_restart();
            } else {
                job.interrupted().await;
            }
        }
        self.publish();
    }
}

/// Fires when somebody cancels the job for which nothing runs now: it waits, or is paused.
async fn cancelled(job: Option<CancellationToken>) {
    match job {
        Some(token) => token.cancelled_owned().await,
        None => std::future::pending().await,
    }
}
