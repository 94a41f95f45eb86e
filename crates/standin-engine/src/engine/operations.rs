//! Operations on a VM that is known here: each finds out on which side this host is, and asks the one that owns the
//! relationship. Nothing is decided here that a relationship's owner decides, but what only the host can see: which VM
//! a name means, whether a VM may be started, what may be forgotten.
//!
//! Called by the local API and the management protocols.

use super::reason::Operation;
use super::{Engine, hypervisor_refusal, inspect_refusal};
use crate::jobs::NewJob;
use crate::overview::Relationship;
use crate::primary::Command;
use crate::primary::session::Session;
use crate::records::{PrimaryRecord, ReplicaRecord};
use crate::replica::failover::{self, Failover};
use crate::replica::{ReplicaVm, overlay_vm};
use crate::spans;
use crate::tasks::to_its_end;
use crate::vm::{Start, Started};
use standin_hypervisor::PowerState;
use standin_model::fence::Assertion;
use standin_model::state::{ReplicationState, Side};
use standin_model::{JobId, JobType, Refusal, VmId, VmName};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument as _;

/// How often hosts that are silent are asked again while a start waits for them.
const ASK_AGAIN: Duration = Duration::from_secs(2);

impl Engine {
    /// Finds a VM by its name among those that run here, are sent from here and are received here.
    ///
    /// # Errors
    /// 32779 when there is none, 32773 when the name is ambiguous.
    pub async fn resolve(&self, name: &VmName) -> Result<VmId, Refusal> {
        let mut found: Vec<VmId> = Vec::new();
        let names = self.hypervisor.names().await.map_err(|error| hypervisor_refusal(&error))?;
        found.extend(names.iter().filter(|(_, known)| known == name).map(|(id, _)| *id));
        found.extend(self.primaries().iter().filter(|p| p.record.name == *name).map(|p| p.record.vm));
        found.extend(self.replicas.list().iter().filter(|vm| vm.snapshot().name == *name).map(|vm| vm.id()));
        found.extend(self.replicas.missing().iter().filter(|vm| vm.name == *name).map(|vm| vm.vm));
        found.sort_unstable();
        found.dedup();
        match found[..] {
            [one] => Ok(one),
            [] => Err(Operation::UnknownVm { name: name.clone() }.into()),
            _ => Err(Operation::Ambiguous { name: name.clone(), count: found.len() }.into()),
        }
    }

    /// Could this host replicate to that one?
    ///
    /// # Errors
    /// The reason why not.
    pub async fn test_connection(&self, peer: &str) -> Result<(), Refusal> {
        Session::probe(&self.shared.tools.peers, peer).await.map_err(|error| error.refusal())
    }

    /// Asks the task of a primary.
    ///
    /// # Errors
    /// 32775 when this host does not send the VM; the task's refusal.
    pub async fn ask(&self, vm: VmId, command: Command) -> Result<Option<JobId>, Refusal> {
        match self.primary(vm) {
            Some(handle) => handle.ask(command).await,
            None => Err(self.no_primary(vm).await),
        }
    }

    async fn no_primary(&self, vm: VmId) -> Refusal {
        if let Some(replica) = self.replicas.find(vm) {
            return Operation::Received { vm: replica.snapshot().name }.into();
        }
        match self.hypervisor.inspect(vm).await {
            Ok(info) => Operation::NotReplicating { vm: info.name.to_string() }.into(),
            Err(error) => inspect_refusal(&error),
        }
    }

    /// The replica of a VM on this host.
    ///
    /// # Errors
    /// 32775 or 32779 when there is none, 32777 when its disks are not there, 32771 when the hypervisor cannot say whether
    /// there is such a VM.
    pub async fn replica(&self, vm: VmId) -> Result<Arc<ReplicaVm>, Refusal> {
        if let Some(replica) = self.replicas.find(vm) {
            return Ok(replica);
        }
        if let Some(refusal) = self.replicas.disks_missing(vm) {
            return Err(refusal);
        }
        match self.hypervisor.inspect(vm).await {
            Ok(info) => Err(crate::replica::vm::no_replica(info.name.as_str())),
            Err(error) => Err(inspect_refusal(&error)),
        }
    }

    /// Pauses the side that this host is.
    ///
    /// # Errors
    /// 32775 in the wrong state.
    pub async fn suspend(&self, vm: VmId) -> Result<(), Refusal> {
        match self.replicas.find(vm) {
            Some(replica) => replica.suspend().await,
            None => self.ask(vm, Command::Suspend).await.map(|_| ()),
        }
    }

    /// Goes on after a pause or out of a critical state, or begins what was made and not started; that is a job.
    ///
    /// # Errors
    /// 32775 in the wrong state.
    pub async fn resume(&self, vm: VmId) -> Result<Option<JobId>, Refusal> {
        if let Some(replica) = self.replicas.find(vm) {
            return replica.resume().await.map(|()| None);
        }
        let ready = self
            .primary(vm)
            .is_some_and(|p| p.snapshot().record.state == ReplicationState::ReadyForReplication);
        self.ask(vm, if ready { Command::Start } else { Command::Resume }).await
    }

    /// Ends the relationship on this side; the primary tells the other side if it can.
    ///
    /// # Errors
    /// 32775 in the wrong state.
    pub async fn remove(&self, vm: VmId) -> Result<(), Refusal> {
        let received = self.replicas.find(vm).is_some() || self.replicas.disks_missing(vm).is_some();
        if received {
            return self.replicas.remove(vm).await;
        }
        let Some(handle) = self.primary(vm) else {
            // Its record is lost, and the claim says that there was one.
            return match self.lost_relationship(vm) {
                Some(_) => self.vms.unshare(vm).await,
                None => Err(self.no_primary(vm).await),
            };
        };
        handle.ask(Command::Remove).await?;
        self.vms.unshare(vm).await?;
        // Its task ends a moment later; whoever looks, or replicates the VM anew, must not meet it any more.
        self.forget_primary(handle.snapshot().record.id(), &handle);
        Ok(())
    }

    /// Fails over on this host.
    ///
    /// # Errors
    /// 32775 in the wrong state, 32779 for an unknown point; 32774 while another job works on the VM, 32772 when what
    /// holds it does not let go. With a start, 32774 while the primary runs the VM, and 32777 while it does not answer and
    /// nobody asserts that it is down.
    pub async fn failover(&self, vm: VmId, failover: Failover) -> Result<JobId, Refusal> {
        failover::initiate(&self.replica(vm).await?, failover).await
    }

    /// Goes back to the state before the failover.
    ///
    /// # Errors
    /// 32775 in the wrong state.
    pub async fn revert(&self, vm: VmId) -> Result<JobId, Refusal> {
        failover::revert(&self.replica(vm).await?).await
    }

    /// Makes the failover final.
    ///
    /// # Errors
    /// 32775 in the wrong state.
    pub async fn commit(&self, vm: VmId) -> Result<JobId, Refusal> {
        failover::commit(&self.replica(vm).await?).await
    }

    /// Starts a VM that is off, or continues one that is paused, unless it may run elsewhere. A start that waits for a host
    /// that is silent is a job.
    ///
    /// # Errors
    /// 32775 when the replication does not allow it, or another host holds the VM; 32774 when another host runs it; 32777
    /// when one that could run it does not answer; the hypervisor's reason.
    pub async fn start_vm(
        self: &Arc<Self>,
        vm: VmId,
        asserted: Option<Assertion>,
    ) -> Result<Option<JobId>, Refusal> {
        let engine = Arc::clone(self);
        to_its_end(async move {
            let resume = match engine.hypervisor.inspect(vm).await {
                Ok(info) => info.power == PowerState::Paused,
                // A replica that has not failed over: what is said of that is better.
                Err(_) if engine.replicas.find(vm).is_some() => false,
                Err(error) => return Err(inspect_refusal(&error)),
            };
            engine.begin_start(vm, Start { asserted, resume, ..Start::default() }).await
        })
        .await
    }

    async fn begin_start(self: &Arc<Self>, vm: VmId, start: Start) -> Result<Option<JobId>, Refusal> {
        if let Started::Waits(left) = self.try_start(vm, start).await? {
            return self.start_later(vm, start, left).await.map(Some);
        }
        Ok(None)
    }

    async fn try_start(&self, vm: VmId, start: Start) -> Result<Started, Refusal> {
        if let Some(handle) = self.primary(vm) {
            not_prepared(&handle.snapshot().record)?;
        }
        let replica = self.replicas.find(vm);
        if let Some(replica) = &replica {
            failed_over(&replica.snapshot())?;
            overlay_vm::before_start(replica).await;
        }
        let started = match self.vms.start(vm, start).await {
            Ok(started) => started,
            Err(refusal) => return Err(self.as_the_replica_says(vm, refusal).await),
        };
        if let (Some(replica), Started::Runs(_)) = (&replica, started) {
            overlay_vm::runs(replica).await;
        }
        Ok(started)
    }

    /// Where a replica holds the VM, what is to be done depends on whether its failover is final, and that is what it says.
    async fn as_the_replica_says(&self, vm: VmId, refusal: Refusal) -> Refusal {
        let elsewhere = self.vms.fence(vm).is_some_and(|fence| fence.claim.holder != self.vms.me());
        let Some(handle) = self.primary(vm).filter(|_| elsewhere) else { return refusal };
        // Its answer is noted; without one, what it said last holds.
        drop(handle.ask(Command::Greet).await);
        match handle.snapshot().record.last_error {
            Some(said) => refusal.with_remedy(said.remedy),
            None => refusal,
        }
    }

    /// Asks again until a host that was silent answers, or the time is over. By the clock that no one sets, and of this
    /// process: a restart of the daemon ends it, and its job says so.
    async fn start_later(self: &Arc<Self>, vm: VmId, start: Start, left: Duration) -> Result<JobId, Refusal> {
        let name = self.vms.record(vm).map(|record| record.name);
        let about = spans::vm(vm, name.as_ref());
        let job = self.shared.jobs.begin(NewJob {
            job_type: JobType::StartVm,
            description: format!(
                "start of VM {}: waits at most {} s for a host that could run it and does not answer",
                name.as_ref().map_or_else(|| vm.to_string(), ToString::to_string),
                left.as_secs()
            ),
            vm: name.map(|name| (vm, name)),
            cancellable: true,
        });
        let job = job.await?;
        let (id, engine, shutdown) = (job.id(), Arc::clone(self), self.shared.shutdown.clone());
        let work = async move {
            let began = Instant::now();
            let result = loop {
                tokio::select! {
                    () = shutdown.cancelled() => return job.interrupted().await,
                    () = job.cancelled().cancelled_owned() => return job.terminate().await,
                    () = tokio::time::sleep(ASK_AGAIN) => {}
                }
                match engine.try_start(vm, Start { waited: began.elapsed(), ..start }).await {
                    Ok(Started::Waits(_)) => {}
                    Ok(Started::Runs(_)) => break Ok(()),
                    Err(refusal) => break Err(refusal),
                }
            };
            job.finish(result).await;
        };
        let span = spans::flow(&about, "start", id);
        self.tasks.spawn(work.instrument(span));
        Ok(id)
    }

    /// Two hosts hold a VM by the same number: this one's copy is kept, or the other one's. The copy that is not kept is
    /// stopped. What a failover's copy wrote becomes a pinned recovery point on its host, and the failover is reverted: the
    /// job of that, where it is this host. The disks of any other copy stay as they are.
    ///
    /// # Errors
    /// 32775 when only one host holds it.
    pub async fn keep_copy(&self, vm: VmId, here: bool) -> Result<Option<JobId>, Refusal> {
        self.vms.resolve_rivals(vm, here).await?;
        if here { Ok(None) } else { self.give_up_copy(vm).await }
    }

    /// The job that keeps what a failover's copy wrote; `None` where this host has none.
    pub(super) async fn give_up_copy(&self, vm: VmId) -> Result<Option<JobId>, Refusal> {
        let failed_over = |replica: &Arc<ReplicaVm>| replica.snapshot().state == ReplicationState::Recovered;
        let job = match self.replicas.find(vm).filter(failed_over) {
            Some(replica) => Some(failover::give_up(&replica).await?),
            None => None,
        };
        // The job is found again after a restart.
        self.vms.is_given_up(vm).await?;
        Ok(job)
    }

    /// Forgets a VM that is off and does not replicate.
    ///
    /// # Errors
    /// 32774 while it replicates; the hypervisor's reason.
    pub async fn remove_vm(&self, vm: VmId) -> Result<(), Refusal> {
        // A replica's own VM is there while it is failed over; one of its id that is there otherwise only keeps it from that.
        let own = |found: &Relationship| found.side == Side::Primary || found.status.state.is_failed_over();
        if let Some(found) = self.relationship(vm).filter(own) {
            return Err(Operation::Related { vm: found.status.vm }.into());
        }
        self.vms.undefine(vm).await
    }
}

fn not_prepared(record: &PrimaryRecord) -> Result<(), Refusal> {
    if record.state == ReplicationState::SyncedReplicationComplete {
        return Err(Operation::Prepared { vm: record.name.clone() }.into());
    }
    Ok(())
}

fn failed_over(record: &ReplicaRecord) -> Result<(), Refusal> {
    if matches!(record.state, ReplicationState::Recovered | ReplicationState::Committed) {
        return Ok(());
    }
    Err(Operation::NotFailedOver { vm: record.name.clone(), state: record.state }.into())
}
