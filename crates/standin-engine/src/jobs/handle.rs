//! The worker's end of a job.

use super::reason::Job;
use super::{Entry, Jobs, writer};
use jiff::Timestamp;
use standin_model::job::{JobRecord, JobState};
use standin_model::{JobId, Refusal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;

/// Counters that the worker of a job raises; the handle turns them into percent.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes dealt with.
    pub done: AtomicU64,
    /// Bytes in all, as far as known.
    pub total: AtomicU64,
}

/// The worker's end of a job. Dropped without an end, the job fails with that as its reason; when the daemon stops, it was
/// interrupted, or is left to the next process if that takes it up.
pub struct JobHandle {
    id: JobId,
    entry: Arc<Entry>,
    jobs: Arc<Jobs>,
    progress: Arc<Progress>,
    released: bool,
}

impl JobHandle {
    pub(super) fn new(entry: Arc<Entry>, jobs: Arc<Jobs>) -> Self {
        let id = entry.record.borrow().id;
        Self { id, entry, jobs, progress: Arc::default(), released: false }
    }

    /// Lets go of a job that is none.
    pub(super) fn release(mut self) {
        self.released = true;
    }

    /// The job.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Fires when somebody cancels the job.
    #[must_use]
    pub fn cancelled(&self) -> CancellationToken {
        self.entry.cancel.clone()
    }

    /// The counters to raise.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Shows the counters to those who watch. Not written to disk: after a restart progress begins anew.
    pub fn publish(&self) {
        let done = self.progress.done.load(Ordering::Relaxed);
        let total = self.progress.total.load(Ordering::Relaxed);
        self.entry.record.send_if_modified(|record| {
            let changed = record.bytes_done != done || record.bytes_total != total;
            if changed {
                record.progress(done, total);
            }
            changed
        });
    }

    /// The job stands still until [`Self::go_on`], also across a restart.
    pub async fn suspend(&self) {
        self.change(JobState::Running, |record| drop(record.suspend())).await;
    }

    /// The job is at work again.
    pub async fn go_on(&self) {
        self.change(JobState::Suspended, |record| drop(record.start(Timestamp::now()))).await;
    }

    async fn change(&self, from: JobState, change: impl FnOnce(&mut JobRecord)) {
        let changed = self.entry.record.send_if_modified(|record| {
            let fits = record.state == from;
            if fits {
                change(record);
            }
            fits
        });
        if changed {
            if let Err(refusal) = self.jobs.kept.save(&self.entry).await {
                tracing::error!(job = %self.id, error = %refusal, "the state of a job could not be recorded");
            }
        }
    }

    /// Remembers something that went wrong on the way; the job goes on.
    pub fn note_error(&self, refusal: Refusal) {
        self.entry.record.send_modify(|record| record.note_error(refusal));
    }

    /// Ends the job well.
    pub async fn complete(self) {
        self.end(|record| record.complete(Timestamp::now())).await;
    }

    /// Ends the job with a reason.
    pub async fn fail(self, refusal: Refusal) {
        self.end(|record| record.fail(refusal, Timestamp::now())).await;
    }

    /// Ends the job on request.
    pub async fn terminate(self) {
        let reason = Refusal::from(Job::Cancelled);
        self.end(|record| record.terminated(reason, Timestamp::now())).await;
    }

    /// Ends the job because the daemon that did it is gone.
    pub async fn interrupted(self) {
        self.end(|record| record.interrupted(Timestamp::now())).await;
    }

    /// Ends the job by a result.
    pub async fn finish(self, result: Result<(), Refusal>) {
        match result {
            Ok(()) => self.complete().await,
            Err(_) if self.entry.cancel.is_cancelled() => self.terminate().await,
            Err(refusal) => self.fail(refusal).await,
        }
    }

    /// Lets go of the job without an end: the process stops, and the next one takes the job up again.
    pub fn keep_for_restart(mut self) {
        self.released = true;
    }

    async fn end(&self, change: impl FnOnce(&mut JobRecord) -> Result<(), Refusal>) {
        if self.show_end(change) {
            if let Err(refusal) = self.jobs.kept.save(&self.entry).await {
                tracing::error!(job = %self.id, error = %refusal, "the end of a job could not be recorded");
            }
        }
    }

    /// Shows the end to those who watch; tells whether it is one.
    fn show_end(&self, change: impl FnOnce(&mut JobRecord) -> Result<(), Refusal>) -> bool {
        self.publish();
        let mut ended = Ok(());
        self.entry.record.send_modify(|record| ended = change(record));
        if let Err(refusal) = &ended {
            tracing::error!(job = %self.id, error = %refusal, "a job was ended twice");
            return false;
        }
        let record = self.entry.record.borrow();
        tracing::info!(job = %self.id, what = %record.description, state = %record.state, "a job has ended");
        true
    }

    /// The worker is gone without a word: nobody waits here, so the writer keeps the end.
    fn end_unattended(&self, change: impl FnOnce(&mut JobRecord) -> Result<(), Refusal>) {
        if self.show_end(change) {
            writer::end(&self.jobs.writer, Arc::clone(&self.entry));
        }
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        let (job_type, ended) = {
            let record = self.entry.record.borrow();
            (record.job_type, record.state.is_final())
        };
        if self.released || ended {
            return;
        }
        if self.jobs.stopping.load(Ordering::SeqCst) {
            if !job_type.survives_restart() {
                self.end_unattended(|record| record.interrupted(Timestamp::now()));
            }
            return;
        }
        self.end_unattended(|record| record.fail(Job::NoResult.into(), Timestamp::now()));
    }
}
