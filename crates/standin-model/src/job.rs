//! Jobs: every mutating operation is recorded as one before it starts, and is found again after a restart.
//!
//! A [`JobRecord`] is a value; its methods are the only way it changes and take the time from the caller. The
//! engine stores the record after each of them that succeeds.

use crate::coded::coded;
pub(crate) mod reason;

use crate::codes::{Refusal, ReturnCode};
use crate::ids::{JobId, VmId};
use crate::names::VmName;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// How long a job is kept after it ended: `TimeBeforeRemoval` 00000000000500.000000:000.
pub const RETENTION: SignedDuration = SignedDuration::from_mins(5);

/// Errors that one job remembers. What comes later is counted by the last of them only.
pub const MAX_ERRORS: usize = 32;

coded! {
    /// `JobType` of an `Msvm_ConcreteJob` of the replication service.
    pub enum JobType {
        /// The VM starts, by a management protocol.
        StartVm = 12, "Start virtual machine";
        /// The plug is pulled.
        PowerOffVm = 13, "Power off virtual machine";
        /// The guest is asked to shut down.
        ShutDownVm = 16, "Shut down virtual machine";
        /// The guest's processors stop.
        PauseVm = 26, "Pause virtual machine";
        /// They go on.
        ResumeVm = 27, "Resume virtual machine";
        /// ModifyServiceSettings.
        ModifyServiceSettings = 90, "Modify service settings";
        /// CreateReplicationRelationship.
        CreateRelationship = 91, "Create replication relationship";
        /// ModifyReplicationSettings.
        ModifyRelationship = 92, "Modify replication relationship";
        /// RemoveReplicationRelationship.
        RemoveRelationship = 93, "Remove replication relationship";
        /// StartReplication.
        StartInitialReplication = 94, "Start initial replication";
        /// ImportInitialReplica.
        ImportInitialReplica = 95, "Import initial replica";
        /// RequestReplicationStateChange.
        StateChange = 96, "Change replication state";
        /// InitiateFailover.
        InitiateFailover = 97, "Initiate failover";
        /// RevertFailover.
        RevertFailover = 98, "Revert failover";
        /// CommitFailover.
        CommitFailover = 99, "Commit failover";
        /// RequestReplicationStateChange 4.
        PreparePlannedFailover = 100, "Prepare planned failover";
        /// RequestReplicationStateChange 3 on a prepared planned failover.
        CancelPlannedFailover = 101, "Cancel planned failover";
        /// TestReplicaSystem.
        MakeTestReplica = 102, "Make test replica";
        /// DestroySystem of a test replica.
        RemoveTestReplica = 103, "Remove test replica";
        /// ReverseReplicationRelationship.
        Reverse = 104, "Reverse replication relationship";
        /// A cycle, on the primary.
        SendDelta = 105, "Sending delta";
        /// A cycle, on the replica.
        ReceiveDelta = 106, "Receiving delta";
        /// Resynchronize.
        Resynchronize = 107, "Resynchronizing";
        /// Received changes are brought into the replica's disks.
        ApplyChangeLog = 108, "Apply change log";
        /// RequestReplicationStateChange 1.
        StopInitialReplication = 109, "Stop initial replication";
        /// RequestReplicationStateChange 9.
        StopResynchronize = 110, "Stop resynchronizing";
        /// GetReplicationStatistics.
        GetStatistics = 111, "Get replication statistics";
        /// TestReplicationConnection.
        TestConnection = 115, "Test connection";
        /// The initial replication over the network.
        SendInitialReplica = 116, "Sending initial replica";
        /// The initial replication of a resynchronization.
        ResyncInitialReplication = 117, "Start resynchronization initial replication";
        /// The initial replication to a directory.
        ExportInitialReplica = 118, "Export initial replica";
        /// ResetReplicationStatistics.
        ResetStatistics = 119, "Reset replication statistics";
        /// Resynchronize of an extended relationship.
        ResynchronizeExtended = 121, "Resynchronizing extended replica";
        /// The configuration of a test replica is read.
        ReadTestConfiguration = 122, "Reading test replica configuration";
        /// ChangeReplicationModeToPrimary.
        ChangeModeToPrimary = 123, "Change replication mode to primary";
        /// InitiateFailback.
        InitiateFailback = 124, "Initiate failback";
        /// The set of disks of a relationship changes.
        UpdateDiskSet = 125, "Update disk set";
        /// Verifying replicas: standin's own, in the range that CIM leaves to vendors.
        CheckStore = 32768, "Check store";
    }
}

coded! {
    /// `JobState` of an `Msvm_ConcreteJob`.
    pub enum JobState {
        /// Recorded.
        New = 2, "New";
        /// On its way.
        Starting = 3, "Starting";
        /// At work.
        Running = 4, "Running";
        /// Stands still and can go on.
        Suspended = 5, "Suspended";
        /// Was told to end and is cleaning up.
        ShuttingDown = 6, "Shutting down";
        /// Done.
        Completed = 7, "Completed";
        /// Ended on request.
        Terminated = 8, "Terminated";
        /// Ended without a chance to clean up.
        Killed = 9, "Killed";
        /// Failed.
        Exception = 10, "Exception";
    }
}

impl JobType {
    /// The daemon goes on with an unfinished job of this type at its next start, under the same id: what it has done
    /// is durable, and the record of its VM says what is left to do.
    #[must_use]
    pub const fn survives_restart(self) -> bool {
        matches!(
            self,
            Self::StartInitialReplication
                | Self::SendInitialReplica
                | Self::Resynchronize
                | Self::InitiateFailover
                | Self::RevertFailover
                | Self::CommitFailover
        )
    }
}

impl JobState {
    /// It has ended and will not change.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Terminated | Self::Killed | Self::Exception)
    }
}

/// A job as it is stored and shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its identity.
    pub id: JobId,
    /// What it does.
    pub job_type: JobType,
    /// The VM it works on; `None` for the jobs of a host.
    pub vm: Option<VmId>,
    /// The VM's name when the job was made.
    pub vm_name: Option<VmName>,
    /// Where it is.
    pub state: JobState,
    /// 0 to 100; never falls, and 100 only when completed.
    pub percent: u8,
    /// Bytes it has dealt with.
    pub bytes_done: u64,
    /// Bytes it has to deal with, as far as it knows; 0 when it does not count bytes.
    pub bytes_total: u64,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// When it began to work.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// [`JobRecord::cancel`] is allowed.
    pub cancellable: bool,
    /// How it ended; `None` before.
    pub return_code: Option<ReturnCode>,
    /// Why it failed or was ended.
    pub error: Option<Refusal>,
    /// Who asked for it: a user, or `standin` itself.
    pub owner: String,
    /// A sentence for people.
    pub description: String,
    /// What went wrong on the way, oldest first, for `GetErrorEx`; at most [`MAX_ERRORS`].
    #[serde(default)]
    pub errors: Vec<Refusal>,
}

impl JobRecord {
    /// A job that is recorded and not yet started.
    #[must_use]
    pub fn new(job_type: JobType, owner: impl Into<String>, now: Timestamp) -> Self {
        Self {
            id: JobId::random(),
            job_type,
            vm: None,
            vm_name: None,
            state: JobState::New,
            percent: 0,
            bytes_done: 0,
            bytes_total: 0,
            created_at: now,
            started_at: None,
            ended_at: None,
            cancellable: false,
            return_code: None,
            error: None,
            owner: owner.into(),
            description: job_type.name().to_owned(),
            errors: Vec::new(),
        }
    }

    /// The VM it works on.
    #[must_use]
    pub fn for_vm(mut self, vm: VmId, name: VmName) -> Self {
        self.vm = Some(vm);
        self.vm_name = Some(name);
        self
    }

    /// It may be cancelled.
    #[must_use]
    pub fn cancellable(mut self) -> Self {
        self.cancellable = true;
        self
    }

    /// A sentence for people in place of the type's name.
    #[must_use]
    pub fn described(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// It begins to work.
    ///
    /// # Errors
    /// [`ReturnCode::InvalidState`] unless it is new, starting or suspended.
    pub fn start(&mut self, now: Timestamp) -> Result<(), Refusal> {
        match self.state {
            JobState::New | JobState::Starting | JobState::Suspended => {
                self.state = JobState::Running;
                self.started_at.get_or_insert(now);
                Ok(())
            }
            _ => Err(self.wrong_state("start")),
        }
    }

    /// It stands still and may be started again.
    ///
    /// # Errors
    /// [`ReturnCode::InvalidState`] unless it runs.
    pub fn suspend(&mut self) -> Result<(), Refusal> {
        if self.state != JobState::Running {
            return Err(self.wrong_state("suspend"));
        }
        self.state = JobState::Suspended;
        Ok(())
    }

    /// Takes note of how far it is. The percentage follows from the bytes where `total` is not 0; it never
    /// falls, even when `total` grows, and stays below 100 until the job is complete. A job that has ended is
    /// left as it is: the last report of a worker may come late.
    pub fn progress(&mut self, done: u64, total: u64) {
        if self.state.is_final() {
            return;
        }
        self.bytes_done = done;
        // What is dealt with was to be dealt with, whatever was thought before.
        self.bytes_total = if total > 0 { total.max(done) } else { 0 };
        if total > 0 {
            let percent = u128::from(done.min(total)) * 100 / u128::from(total);
            self.raise_percent(u8::try_from(percent).unwrap_or(99));
        }
    }

    /// Takes note of how far a job is that does not count bytes. As [`JobRecord::progress`].
    pub fn raise_percent(&mut self, percent: u8) {
        if !self.state.is_final() {
            self.percent = self.percent.max(percent.min(99));
        }
    }

    /// Remembers something that went wrong on the way without ending the job.
    pub fn note_error(&mut self, error: Refusal) {
        self.errors.truncate(MAX_ERRORS - 1);
        self.errors.push(error);
    }

    /// It is done.
    ///
    /// # Errors
    /// [`ReturnCode::InvalidState`] when it has ended already.
    pub fn complete(&mut self, now: Timestamp) -> Result<(), Refusal> {
        self.end(JobState::Completed, ReturnCode::Completed, None, now)?;
        self.percent = 100;
        Ok(())
    }

    /// It failed.
    ///
    /// # Errors
    /// [`ReturnCode::InvalidState`] when it has ended already.
    pub fn fail(&mut self, error: Refusal, now: Timestamp) -> Result<(), Refusal> {
        self.end(JobState::Exception, error.code, Some(error), now)
    }

    /// It is told to end: `RequestStateChange` 4. The worker cleans up and then calls [`JobRecord::terminated`].
    ///
    /// # Errors
    /// [`ReturnCode::InvalidState`] when it has ended already, [`ReturnCode::NotSupported`] when it cannot be
    /// cancelled. Cancelling twice is no error.
    pub fn cancel(&mut self) -> Result<(), Refusal> {
        if self.state.is_final() {
            return Err(self.wrong_state("cancel"));
        }
        if !self.cancellable {
            return Err(reason::Job::NotCancellable { id: self.id, what: self.job_type }.into());
        }
        self.state = JobState::ShuttingDown;
        Ok(())
    }

    /// It has ended on request.
    ///
    /// # Errors
    /// [`ReturnCode::InvalidState`] when it has ended already.
    pub fn terminated(&mut self, reason: Refusal, now: Timestamp) -> Result<(), Refusal> {
        self.end(JobState::Terminated, reason.code, Some(reason), now)
    }

    /// The daemon found it unfinished at its start and does not go on with it. A job that was being cancelled
    /// has ended as asked.
    ///
    /// # Errors
    /// [`ReturnCode::InvalidState`] when it has ended already.
    pub fn interrupted(&mut self, now: Timestamp) -> Result<(), Refusal> {
        let reason = Refusal::from(reason::Job::Interrupted { id: self.id, what: self.job_type });
        let state =
            if self.state == JobState::ShuttingDown { JobState::Terminated } else { JobState::Exception };
        self.end(state, reason.code, Some(reason), now)
    }

    fn end(
        &mut self,
        state: JobState,
        code: ReturnCode,
        error: Option<Refusal>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if self.state.is_final() {
            return Err(self.wrong_state("end"));
        }
        self.state = state;
        self.return_code = Some(code);
        if let Some(error) = &error {
            self.note_error(error.clone());
        }
        self.error = error;
        // The wall clock may have been set back meanwhile; a job never ends before it began.
        self.ended_at = Some(now.max(self.started_at.unwrap_or(self.created_at)));
        Ok(())
    }

    /// It ended five minutes ago or longer, so it is forgotten.
    #[must_use]
    pub fn expired(&self, now: Timestamp) -> bool {
        self.ended_at.is_some_and(|ended| now.duration_since(ended) >= RETENTION)
    }

    fn wrong_state(&self, verb: &'static str) -> Refusal {
        reason::Job::State { verb, id: self.id, what: self.job_type, state: self.state }.into()
    }
}
