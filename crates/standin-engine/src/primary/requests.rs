//! What operators and management protocols ask of a primary: each request is allowed or refused by the model's table, and
//! then decided at once by the task that owns the relationship. What takes time is a job.

use super::asking::{GREETING, held_elsewhere, silent};
use super::handle::Command;
use super::reason::Primary;
use super::task::Task;
use super::work::ended;
use super::worker::Worker;
use crate::error::chain;
use crate::jobs::NewJob;
use crate::messages::Request;
use crate::records;
use jiff::Timestamp;
use standin_model::job::JobType;
use standin_model::network::AdapterSettings;
use standin_model::state::{self, Event, Facts, Method, ReplicationState, Side};
use standin_model::{JobId, Refusal};

impl Task {
    pub(super) async fn command(&mut self, command: Command) -> Result<Option<JobId>, Refusal> {
        self.allowed(&command)?;
        if matches!(
            command,
            Command::Start
                | Command::StartAt(_)
                | Command::Resume
                | Command::Point { .. }
                | Command::Resynchronize
        ) {
            self.not_fenced()?;
        }
        match command {
            Command::Greet => self.greet().await.map(|()| None),
            Command::Yield => {
                self.yield_up().await;
                Ok(None)
            }
            Command::Start => self.start_initial(None).await.map(Some),
            Command::StartAt(at) => self.start_initial(Some(at)).await.map(Some),
            Command::ResetStatistics => self.reset_statistics().await.map(|()| None),
            Command::Suspend => self.suspend().await.map(|()| None),
            Command::Resume => self.resume().await.map(|()| None),
            Command::Point { application } => self.want_point(application).await.map(Some),
            Command::Resynchronize => self.begin_resync().await.map(Some),
            Command::CancelInitial | Command::CancelResynchronize => self.cancel_work().await.map(|()| None),
            Command::Modify(wanted) => self.modify(*wanted).await.map(|()| None),
            Command::Renamed(name) => self.renamed(name).await.map(|()| None),
            Command::Network(changes) => self.set_network(&changes).await.map(|()| None),
            Command::Remove => self.remove().await.map(|()| None),
        }
    }

    fn allowed(&self, command: &Command) -> Result<(), Refusal> {
        let method = match command {
            Command::Greet | Command::Yield | Command::Renamed(_) => return Ok(()),
            Command::Start | Command::StartAt(_) => Method::StartReplication,
            Command::ResetStatistics => Method::ResetReplicationStatistics,
            Command::CancelInitial => Method::RequestCancelInitialReplication,
            Command::Suspend => Method::RequestSuspend,
            Command::Resume => Method::RequestResume,
            Command::Point { .. } => Method::TakePoint,
            Command::Resynchronize => Method::Resynchronize,
            Command::CancelResynchronize => Method::RequestCancelResynchronization,
            Command::Modify(_) => Method::ModifyReplicationSettings,
            Command::Network(_) => Method::SetFailoverNetworkAdapterSettings,
            Command::Remove => Method::RemoveReplicationRelationship,
        };
        let facts = Facts { initial_done: self.record.last_point_at.is_some(), has_extended: false };
        state::request_for(&self.record.name, Side::Primary, self.record.state, method, facts)
    }

    /// Asks a replica of the version before, which has no link, whether it has failed over.
    ///
    /// # Errors
    /// Its refusal; 32777 when it does not answer.
    async fn greet(&mut self) -> Result<(), Refusal> {
        let mut another = Worker::new(self.shared.tools.clone());
        // Work on a VM that has just ended is lost, and holds the worker until it has noticed: not to ask
        // meanwhile would let a VM that runs on the replica start a second time.
        let worker = self.worker.as_mut().unwrap_or(&mut another);
        // What an open session was told is of the past: only a new one asks.
        worker.hang_up();
        self.asking.stop();
        let said = tokio::time::timeout(GREETING, worker.head(&self.record)).await;
        let Ok(said) = said else {
            worker.hang_up();
            return Err(silent(&self.record.peer).refusal());
        };
        self.replica_said(&said).await;
        self.save_or_refuse().await?;
        said.map(|_| ()).map_err(|error| error.refusal())
    }

    /// Another host holds the VM: when this returns nothing reads its disks, and nothing of it is sent.
    async fn yield_up(&mut self) {
        self.asking.stop();
        self.cancel_running();
        if self.running.is_some() {
            let done = ended(&mut self.running).await;
            self.finished(done).await;
        }
        if let Some(worker) = &mut self.worker {
            worker.hang_up();
        }
    }

    /// Whoever asks for data to be sent is told why nothing is, and what to do.
    fn not_fenced(&self) -> Result<(), Refusal> {
        match self.fence.borrow().as_ref() {
            Some(known) if !known.fence.held_by(self.shared.tools.vms.me()) => {
                Err(held_elsewhere(&self.record.name, &known.fence))
            }
            _ => Ok(()),
        }
    }

    async fn start_initial(&mut self, at: Option<Timestamp>) -> Result<JobId, Refusal> {
        let what = match self.record.found {
            Some(points) => format!("comparison with the replica that was found ({points} recovery points)"),
            None => "initial replication".to_owned(),
        };
        let id = self.begin_job(JobType::StartInitialReplication, &what, true).await?;
        self.record.job = Some(id);
        self.record.start_at = at;
        if let Some(job) = self.job.as_ref().filter(|_| at.is_some()) {
            job.suspend().await;
        }
        self.apply(Event::StartInitial);
        self.schedule.at_once();
        self.save_or_refuse().await?;
        Ok(id)
    }

    async fn reset_statistics(&mut self) -> Result<(), Refusal> {
        self.record.statistics.reset(Timestamp::now());
        self.save_or_refuse().await
    }

    pub(super) async fn begin_resync(&mut self) -> Result<JobId, Refusal> {
        // An initial replication that ends in a comparison is still that job.
        let id = match (&self.job, self.record.job) {
            (Some(job), Some(known)) if job.id() == known => known,
            _ => self.begin_job(JobType::Resynchronize, "resynchronization", true).await?,
        };
        self.record.job = Some(id);
        self.apply(Event::StartResync);
        self.schedule.at_once();
        self.save_or_refuse().await?;
        Ok(id)
    }

    async fn want_point(&mut self, application: bool) -> Result<JobId, Refusal> {
        if !self.vm_running {
            // The event of a start that has just been answered may still be on its way.
            self.look_at_vm().await;
        }
        if !self.vm_running {
            return Err(Primary::VmOff { vm: self.record.name.clone() }.into());
        }
        let what = if application { "application-consistent recovery point" } else { "recovery point" };
        let id = self.begin_job(JobType::SendDelta, what, true).await?;
        self.point_wanted = Some(application);
        Ok(id)
    }

    async fn begin_job(
        &mut self,
        job_type: JobType,
        what: &str,
        cancellable: bool,
    ) -> Result<JobId, Refusal> {
        if let Some(job) = &self.job {
            return Err(Primary::Busy { vm: self.record.name.clone(), job: job.id() }.into());
        }
        let new = NewJob {
            job_type,
            vm: Some((self.record.vm, self.record.name.clone())),
            description: format!("{what} of {} to {}", self.record.name, self.record.peer),
            cancellable,
        };
        let job = self.shared.jobs.begin(new).await?;
        let id = job.id();
        self.job = Some(job);
        Ok(id)
    }

    async fn suspend(&mut self) -> Result<(), Refusal> {
        let before = self.record.state;
        if before == ReplicationState::Resynchronizing {
            self.apply(Event::ResyncSuspend);
        } else {
            self.apply(Event::Suspend);
        }
        match &self.running {
            Some(_) => self.cancel_running(),
            None => self.give_point_up().await,
        }
        if let Some(job) = self.job.as_ref().filter(|job| self.record.job == Some(job.id())) {
            job.suspend().await;
        }
        self.save_or_refuse().await
    }

    async fn resume(&mut self) -> Result<(), Refusal> {
        let initial = self.record.last_point_at.is_none();
        let event = match self.record.state {
            ReplicationState::ResynchronizationSuspended => Event::Resume,
            _ if initial => Event::ResumeInitial,
            ReplicationState::Critical => Event::ResumeFromCritical,
            _ => Event::Resume,
        };
        self.apply(event);
        self.record.failures = 0;
        if let Some(job) = self.job.as_ref().filter(|_| self.record.start_at.is_none()) {
            job.go_on().await;
        }
        self.schedule.at_once();
        self.save_or_refuse().await
    }

    async fn cancel_work(&mut self) -> Result<(), Refusal> {
        match &self.job {
            Some(job) => self.shared.jobs.cancel(job.id())?,
            None => self.apply(Event::ResyncCancelled),
        }
        self.cancel_running();
        if self.running.is_none() {
            self.was_cancelled(self.waiting_for()).await;
        }
        self.save_or_refuse().await
    }

    /// Keeps the network settings here, and has the replica learn them: they are part of what opens a session.
    /// A replica that cannot be reached now learns them with the next session.
    async fn set_network(&mut self, changes: &[(String, Option<AdapterSettings>)]) -> Result<(), Refusal> {
        let settings = self.record.network.changed(changes)?;
        let before = std::mem::replace(&mut self.record.network, settings);
        if let Err(refusal) = self.save_or_refuse().await {
            self.record.network = before;
            return Err(refusal);
        }
        let Some(worker) = &mut self.worker else {
            self.offer_again = true;
            return Ok(());
        };
        worker.hang_up();
        match tokio::time::timeout(GREETING, worker.head(&self.record)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::info!(error = %chain(&error), "the replica learns the network settings later");
            }
            Err(_) => worker.hang_up(),
        }
        Ok(())
    }

    async fn remove(&mut self) -> Result<(), Refusal> {
        self.asking.stop();
        self.cancel_running();
        if let Some(running) = self.running.take() {
            self.worker = running.task.await.ok().map(|(worker, _)| worker);
        }
        if let Some(worker) = &mut self.worker {
            // Each side removes for itself; the other one may be gone for good.
            if let Err(error) = worker.tell(&self.record, &Request::Remove).await {
                tracing::warn!(error = %chain(&error), "the replica was not told");
            }
            worker.hang_up();
            worker.forget_tracking(&self.record).await;
        }
        records::delete(&self.shared.tables.relationships, self.record.id()).await?;
        self.apply(Event::Remove);
        self.removed = true;
        if let Some(job) = self.job.take() {
            job.terminate().await;
        }
        Ok(())
    }
}
