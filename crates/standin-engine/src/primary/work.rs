//! Which piece of work is due, and how it runs beside the task.
//!
//! One piece of a relationship at a time: it takes the [`Worker`] along and brings it back. Pieces of all
//! relationships share the slots of the host; one that waits for a slot can be cancelled like one that runs.
//! Nothing is due while the VM is off.
//!
//! Called by [`super::task`] before it waits; [`super::outcome`] takes up what comes back.

use super::task::Task;
use super::worker::{Order, Sealed, Worker};
use crate::error::WorkError;
use crate::jobs::{JobHandle, Progress};
use crate::tasks;
use jiff::Timestamp;
use standin_model::state::ReplicationState;
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Initial,
    Cycle { application: bool },
    Resynchronize,
}

impl Work {
    pub(super) fn activity(self) -> &'static str {
        match self {
            Self::Initial => "initial replication",
            Self::Cycle { .. } => "cycle",
            Self::Resynchronize => "resynchronization",
        }
    }
}

impl Work {
    /// Whether a cycle freezes the guest; `None` for what is no cycle.
    pub(super) fn application(self) -> Option<bool> {
        match self {
            Self::Cycle { application } => Some(application),
            Self::Initial | Self::Resynchronize => None,
        }
    }
}

/// The piece that runs, or waits for a slot.
pub(super) struct Running {
    pub(super) work: Work,
    pub(super) task: JoinHandle<(Worker, Result<Sealed, WorkError>)>,
    cancel: CancellationToken,
    pub(super) progress: Arc<Progress>,
    pub(super) started: Instant,
}

impl Task {
    /// What should run now, if anything.
    fn due(&self) -> Option<Work> {
        if !self.vm_running || self.running.is_some() || self.is_fenced() || self.asking.is_first() {
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

    pub(super) async fn start_due_work(&mut self) {
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
            job.go_on().await;
        }
        let order =
            Order { record: self.record.clone(), progress: Arc::clone(&progress), cancel: cancel.clone() };
        let slots = Arc::clone(&self.shared.slots);
        let task = tasks::spawn(async move {
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

    pub(super) fn cancel_running(&self) {
        if let Some(running) = &self.running {
            running.cancel.cancel();
        }
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

/// Waits for the end of the running work. A worker that panicked is lost; the task makes a new one.
pub(super) async fn ended(running: &mut Option<Running>) -> (Option<Worker>, Result<Sealed, WorkError>) {
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
