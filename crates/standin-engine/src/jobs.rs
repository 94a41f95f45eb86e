//! Jobs: every mutating operation is one. A job is recorded before its work starts, shows progress, can be
//! cancelled where its type allows, and is found again after a restart, where it is resumed by the relationship
//! that owns it or failed with the reason.
//!
//! Called by the engine's tasks (through [`JobHandle`]) and by the management interfaces (through [`Jobs`]).

use jiff::Timestamp;
use standin_model::job::{JobRecord, JobState, JobType};
use standin_model::{JobId, Refusal, ReturnCode, VmId, VmName};
use standin_state::{StateError, Typed};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

struct Entry {
    record: watch::Sender<JobRecord>,
    cancel: CancellationToken,
}

/// All jobs of this host.
pub struct Jobs {
    entries: Mutex<HashMap<JobId, Arc<Entry>>>,
    table: Typed<JobRecord>,
    owner: String,
    /// The daemon stops: work that is cut off was not at fault.
    stopping: AtomicBool,
}

/// What a job is to be.
pub struct NewJob {
    /// Its type.
    pub job_type: JobType,
    /// The VM it is for.
    pub vm: Option<(VmId, VmName)>,
    /// A sentence for people.
    pub description: String,
    /// Whether a request may end it.
    pub cancellable: bool,
}

impl Jobs {
    /// Reads the jobs of an earlier process. Those that were still running come back as running; the engine
    /// then resumes or fails each.
    ///
    /// # Errors
    /// When the state store cannot be read.
    pub fn load(table: Typed<JobRecord>, owner: String) -> Result<Arc<Self>, StateError> {
        let mut entries = HashMap::new();
        for record in crate::records::list(&table)? {
            let id = record.id;
            let entry = Entry { record: watch::Sender::new(record), cancel: CancellationToken::new() };
            entries.insert(id, Arc::new(entry));
        }
        let stopping = AtomicBool::new(false);
        Ok(Arc::new(Self { entries: Mutex::new(entries), table, owner, stopping }))
    }

    /// Records a new job, durably, and hands it to the one who does the work.
    ///
    /// # Errors
    /// A refusal when the job cannot be recorded, or when the daemon stops (32777); the work must then not begin.
    pub fn begin(self: &Arc<Self>, new: NewJob) -> Result<JobHandle, Refusal> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(Refusal::new(
                ReturnCode::NotAvailable,
                format!("the daemon is stopping, so it does not begin: {}", new.description),
                "Ask again when the daemon is up.",
            ));
        }
        let now = Timestamp::now();
        let mut record = JobRecord::new(new.job_type, self.owner.clone(), now).described(new.description);
        if let Some((id, name)) = new.vm {
            record = record.for_vm(id, name);
        }
        record.cancellable = new.cancellable;
        record.start(now)?;
        self.save(&record)?;
        let id = record.id;
        let entry = Arc::new(Entry { record: watch::Sender::new(record), cancel: CancellationToken::new() });
        self.lock().insert(id, Arc::clone(&entry));
        Ok(JobHandle { id, entry, jobs: Arc::clone(self), progress: Arc::default(), released: false })
    }

    /// Takes up a job of an earlier process.
    #[must_use]
    pub fn resume(self: &Arc<Self>, id: JobId) -> Option<JobHandle> {
        let entry = self.lock().get(&id).cloned()?;
        if entry.record.borrow().state.is_final() {
            return None;
        }
        Some(JobHandle { id, entry, jobs: Arc::clone(self), progress: Arc::default(), released: false })
    }

    /// All jobs that are still kept, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<JobRecord> {
        self.forget_old();
        let mut all: Vec<_> = self.lock().values().map(|entry| entry.record.borrow().clone()).collect();
        all.sort_by_key(|record| (record.created_at, record.id));
        all
    }

    /// Jobs that are not at their end.
    #[must_use]
    pub fn running(&self) -> Vec<JobRecord> {
        self.list().into_iter().filter(|record| !record.state.is_final()).collect()
    }

    /// Waits for the end of the jobs of a VM: one that has just done its work may have its record still to close.
    ///
    /// # Errors
    /// 32774 when one goes on for longer than that takes.
    pub async fn free(&self, vm: VmId, patience: Duration) -> Result<(), Refusal> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let Some(job) = self.working_on(vm) else { return Ok(()) };
            let Some(mut seen) = self.watch(job.id) else { continue };
            let ended = tokio::time::timeout_at(until, seen.wait_for(|record| record.state.is_final()));
            if ended.await.is_err() {
                return Err(Refusal::new(
                    ReturnCode::InUse,
                    format!("another job works on the VM: {}", job.description),
                    "Wait until it has ended; `standin jobs` shows how far it is.",
                ));
            }
        }
    }

    fn working_on(&self, vm: VmId) -> Option<JobRecord> {
        let entries = self.lock();
        let mut records = entries.values().map(|entry| entry.record.borrow());
        let found = records.find(|record| record.vm == Some(vm) && !record.state.is_final())?;
        Some(found.clone())
    }

    /// Follows one job.
    #[must_use]
    pub fn watch(&self, id: JobId) -> Option<watch::Receiver<JobRecord>> {
        self.lock().get(&id).map(|entry| entry.record.subscribe())
    }

    /// Asks a job to end.
    ///
    /// # Errors
    /// 32779 for an unknown job, 32775 for one that ended, 32770 for one that cannot be cancelled.
    pub fn cancel(&self, id: JobId) -> Result<(), Refusal> {
        let entry = self.lock().get(&id).cloned().ok_or_else(|| unknown(id))?;
        let mut decided = Ok(());
        entry.record.send_modify(|record| decided = record.cancel());
        decided?;
        entry.cancel.cancel();
        Ok(())
    }

    /// The daemon stops: from now on a job whose worker is gone was interrupted, and one that the next process takes up
    /// stays as it is.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    fn forget_old(&self) {
        let now = Timestamp::now();
        let old: Vec<JobId> = self
            .lock()
            .iter()
            .filter(|(_, entry)| entry.record.borrow().expired(now))
            .map(|(id, _)| *id)
            .collect();
        for id in old {
            // The memory copy goes only with the stored one: a job must not come back after a restart.
            match crate::records::delete(&self.table, id) {
                Ok(()) => {
                    self.lock().remove(&id);
                }
                Err(error) => tracing::warn!(%id, %error, "an old job could not be removed"),
            }
        }
    }

    fn save(&self, record: &JobRecord) -> Result<(), Refusal> {
        crate::records::put(&self.table, record.id, record)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, Arc<Entry>>> {
        // The map is whole after any panic of a holder: every change is one insert or remove.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The refusal for a job that is not known.
#[must_use]
pub fn unknown(id: JobId) -> Refusal {
    Refusal::new(
        ReturnCode::FileNotFound,
        format!("there is no job {id}"),
        "Jobs are kept for five minutes after their end; `standin jobs` lists those that are there.",
    )
}

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
    pub fn suspend(&self) {
        self.change(JobState::Running, |record| drop(record.suspend()));
    }

    /// The job is at work again.
    pub fn go_on(&self) {
        self.change(JobState::Suspended, |record| drop(record.start(Timestamp::now())));
    }

    fn change(&self, from: JobState, change: impl FnOnce(&mut JobRecord)) {
        let changed = self.entry.record.send_if_modified(|record| {
            let fits = record.state == from;
            if fits {
                change(record);
            }
            fits
        });
        let record = self.entry.record.borrow().clone();
        if changed && let Err(refusal) = self.jobs.save(&record) {
            tracing::error!(job = %self.id, error = %refusal, "the state of a job could not be recorded");
        }
    }

    /// Remembers something that went wrong on the way; the job goes on.
    pub fn note_error(&self, refusal: Refusal) {
        self.entry.record.send_modify(|record| record.note_error(refusal));
    }

    /// Ends the job well.
    pub fn complete(self) {
        self.end(|record| record.complete(Timestamp::now()));
    }

    /// Ends the job with a reason.
    pub fn fail(self, refusal: Refusal) {
        self.end(|record| record.fail(refusal, Timestamp::now()));
    }

    /// Ends the job on request.
    pub fn terminate(self) {
        let reason = Refusal::new(
            ReturnCode::Failed,
            "it was ended on request",
            "Start it again when it is wanted; nothing half done was left behind.",
        );
        self.end(|record| record.terminated(reason, Timestamp::now()));
    }

    /// Ends the job because the daemon that did it is gone.
    pub fn interrupted(self) {
        self.end(|record| record.interrupted(Timestamp::now()));
    }

    /// Ends the job by a result.
    pub fn finish(self, result: Result<(), Refusal>) {
        match result {
            Ok(()) => self.complete(),
            Err(_) if self.entry.cancel.is_cancelled() => self.terminate(),
            Err(refusal) => self.fail(refusal),
        }
    }

    /// Lets go of the job without an end: the process stops, and the next one takes the job up again.
    pub fn keep_for_restart(mut self) {
        self.released = true;
    }

    fn end(&self, change: impl FnOnce(&mut JobRecord) -> Result<(), Refusal>) {
        self.publish();
        let mut ended = Ok(());
        self.entry.record.send_modify(|record| ended = change(record));
        if let Err(refusal) = ended {
            tracing::error!(job = %self.id, error = %refusal, "a job was ended twice");
            return;
        }
        let record = self.entry.record.borrow().clone();
        if let Err(refusal) = self.jobs.save(&record) {
            tracing::error!(job = %self.id, error = %refusal, "the end of a job could not be recorded");
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
                self.end(|record| record.interrupted(Timestamp::now()));
            }
            return;
        }
        self.end(|record| {
            record.fail(
                Refusal::new(
                    ReturnCode::Failed,
                    "the operation ended without a result",
                    "Look at the daemon's log, and start the operation again.",
                ),
                Timestamp::now(),
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use standin_state::{MemoryStore, StateStore};

    fn jobs() -> (Arc<Jobs>, Typed<JobRecord>) {
        let store: Arc<dyn StateStore> = Arc::new(MemoryStore::new());
        let table = Typed::new(store, "job", 1);
        (Jobs::load(table.clone(), "test".into()).expect("an empty store"), table)
    }

    fn begin(jobs: &Arc<Jobs>, job_type: JobType) -> JobHandle {
        let new = NewJob { job_type, vm: None, description: "a test".into(), cancellable: true };
        jobs.begin(new).expect("recorded")
    }

    fn kept(table: &Typed<JobRecord>, id: JobId) -> JobRecord {
        table.get(id).expect("read").expect("a job").0
    }

    #[test]
    fn work_that_the_end_of_the_daemon_cuts_off_is_left_to_the_next_one_or_was_interrupted() {
        let (jobs, table) = jobs();
        let dropped = begin(&jobs, JobType::SendDelta);
        let id = dropped.id();
        drop(dropped);
        assert!(kept(&table, id).error.expect("a reason").message.contains("without a result"));
        let (copy, cycle) =
            (begin(&jobs, JobType::StartInitialReplication), begin(&jobs, JobType::SendDelta));
        let (copy_id, cycle_id) = (copy.id(), cycle.id());
        jobs.stop();
        drop((copy, cycle));
        assert_eq!(kept(&table, copy_id).state, JobState::Running);
        let cycle = kept(&table, cycle_id);
        assert!(cycle.error.expect("a reason").message.contains("the daemon ended"));
    }

    #[test]
    fn a_suspended_job_is_found_suspended_and_goes_on() {
        let (jobs, table) = jobs();
        let job = begin(&jobs, JobType::StartInitialReplication);
        job.suspend();
        job.suspend();
        assert_eq!(kept(&table, job.id()).state, JobState::Suspended);
        job.go_on();
        assert_eq!(kept(&table, job.id()).state, JobState::Running);
        jobs.cancel(job.id()).expect("cancelled");
        job.suspend();
        assert_eq!(jobs.watch(job.id()).expect("a job").borrow().state, JobState::ShuttingDown);
        job.terminate();
    }
}
