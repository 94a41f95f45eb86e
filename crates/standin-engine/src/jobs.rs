//! Jobs: every mutating operation is one. A job is recorded before its work starts, shows progress, can be
//! cancelled where its type allows, and is found again after a restart, where it is resumed by the relationship
//! that owns it or failed with the reason.
//!
//! A job is written down before its beginning is answered, and its end before the one who did the work goes on. Where
//! nobody can wait, because a worker is gone without a word, [`writer`] does it.
//!
//! Called by the engine's tasks (through [`JobHandle`]) and by the management interfaces (through [`Jobs`]).

mod handle;
pub(crate) mod reason;
mod writer;

pub use handle::{JobHandle, Progress};

use jiff::Timestamp;
use standin_model::job::{JobRecord, JobType};
use standin_model::{JobId, Refusal, VmId, VmName};
use standin_state::{StateError, Typed};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

struct Entry {
    record: watch::Sender<JobRecord>,
    cancel: CancellationToken,
}

impl Entry {
    fn new(record: JobRecord) -> Arc<Self> {
        Arc::new(Self { record: watch::Sender::new(record), cancel: CancellationToken::new() })
    }
}

/// Where jobs are, in memory and in the store.
struct Kept {
    entries: Mutex<HashMap<JobId, Arc<Entry>>>,
    table: Typed<JobRecord>,
}

impl Kept {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, Arc<Entry>>> {
        // The map is whole after any panic of a holder: every change is one insert or remove.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a job down as it is now.
    async fn save(&self, entry: &Entry) -> Result<(), Refusal> {
        let record = entry.record.borrow().clone();
        crate::records::put(&self.table, record.id, &record).await
    }
}

/// All jobs of this host.
pub struct Jobs {
    kept: Arc<Kept>,
    writer: mpsc::UnboundedSender<writer::Order>,
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
    pub async fn load(table: Typed<JobRecord>, owner: String) -> Result<Arc<Self>, StateError> {
        let records = crate::records::list(&table).await?;
        let entries = records.into_iter().map(|record| (record.id, Entry::new(record))).collect();
        let kept = Arc::new(Kept { entries: Mutex::new(entries), table });
        let writer = writer::start(Arc::clone(&kept));
        Ok(Arc::new(Self { kept, writer, owner, stopping: AtomicBool::new(false) }))
    }

    /// Records a new job, durably, and hands it to the one who does the work.
    ///
    /// # Errors
    /// A refusal when the job cannot be recorded, or when the daemon stops (32777); the work must then not begin.
    pub async fn begin(self: &Arc<Self>, new: NewJob) -> Result<JobHandle, Refusal> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(reason::Job::Stopping { what: new.description }.into());
        }
        let now = Timestamp::now();
        let mut record = JobRecord::new(new.job_type, self.owner.clone(), now).described(new.description);
        if let Some((id, name)) = new.vm {
            record = record.for_vm(id, name);
        }
        record.cancellable = new.cancellable;
        record.start(now)?;
        let entry = Entry::new(record);
        // Held from here on: whoever asked may go away before it is written, and then it ends.
        let job = JobHandle::new(Arc::clone(&entry), Arc::clone(self));
        self.kept.lock().insert(job.id(), Arc::clone(&entry));
        if let Err(refusal) = self.kept.save(&entry).await {
            self.kept.lock().remove(&job.id());
            job.release();
            return Err(refusal);
        }
        Ok(job)
    }

    /// Takes up a job of an earlier process.
    #[must_use]
    pub fn resume(self: &Arc<Self>, id: JobId) -> Option<JobHandle> {
        let entry = self.kept.lock().get(&id).cloned()?;
        let ended = entry.record.borrow().state.is_final();
        (!ended).then(|| JobHandle::new(entry, Arc::clone(self)))
    }

    /// All jobs that are still kept, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<JobRecord> {
        let now = Timestamp::now();
        let mut all: Vec<_> = self.kept.lock().values().map(|entry| entry.record.borrow().clone()).collect();
        all.retain(|record| !record.expired(now));
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
                return Err(reason::Job::Busy { what: job.description.clone() }.into());
            }
        }
    }

    fn working_on(&self, vm: VmId) -> Option<JobRecord> {
        let entries = self.kept.lock();
        let mut records = entries.values().map(|entry| entry.record.borrow());
        let found = records.find(|record| record.vm == Some(vm) && !record.state.is_final())?;
        Some(found.clone())
    }

    /// Follows one job.
    #[must_use]
    pub fn watch(&self, id: JobId) -> Option<watch::Receiver<JobRecord>> {
        self.kept.lock().get(&id).map(|entry| entry.record.subscribe())
    }

    /// Asks a job to end.
    ///
    /// # Errors
    /// 32779 for an unknown job, 32775 for one that ended, 32770 for one that cannot be cancelled.
    pub fn cancel(&self, id: JobId) -> Result<(), Refusal> {
        let entry = self.kept.lock().get(&id).cloned().ok_or_else(|| unknown(id))?;
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

    /// Waits until the ends of all jobs whose workers are gone by now are written down.
    pub async fn settle(&self) {
        writer::settle(&self.writer).await;
    }
}

/// The refusal for a job that is not known.
#[must_use]
pub fn unknown(id: JobId) -> Refusal {
    reason::Job::Unknown { id }.into()
}

#[cfg(test)]
mod tests;
