//! Operations on a VM that is known here: each finds out on which side this host is, and asks the one that owns the
//! relationship. Nothing is decided here that a relationship's owner decides, but what only the host can see: which VM
//! a name means, whether a VM may be started, what may be forgotten.
//!
//! Called by the local API and the management protocols.

use super::{Engine, hypervisor_refusal, inspect_refusal, refuse};
use crate::primary::Command;
use crate::records::PrimaryRecord;
use crate::replica::{ReplicaVm, failover, overlay_vm};
use standin_hypervisor::StartOptions;
use standin_model::state::ReplicationState;
use standin_model::{JobId, PointId, Refusal, ReturnCode, VmId, VmName};
use std::sync::Arc;

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
            [] => Err(unknown_vm(name)),
            _ => Err(refuse(
                ReturnCode::InvalidParameter,
                format!("{} VMs on this host are called {name}", found.len()),
                "Name the VM by its UUID; `standin status --json` shows it.",
            )),
        }
    }

    /// Could this host replicate to that one?
    ///
    /// # Errors
    /// The reason why not.
    pub async fn test_connection(&self, peer: &str) -> Result<(), Refusal> {
        self.shared.tools.dialer.probe(peer).await.map_err(|error| error.refusal())
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
            return refuse(
                ReturnCode::InvalidState,
                format!("VM {} is received here, not sent", replica.snapshot().name),
                "Use this verb on its primary host.",
            );
        }
        match self.hypervisor.inspect(vm).await {
            Ok(info) => refuse(
                ReturnCode::InvalidState,
                format!("VM {} does not replicate", info.name),
                "Enable its replication with `standin replicate VM --to HOST`.",
            ),
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
        let Some(handle) = self.primary(vm) else { return Err(self.no_primary(vm).await) };
        handle.ask(Command::Remove).await?;
        // Its task ends a moment later; whoever looks, or replicates the VM anew, must not meet it any more.
        self.forget_primary(vm, &handle);
        Ok(())
    }

    /// Fails over on this host.
    ///
    /// # Errors
    /// 32775 in the wrong state, 32779 for an unknown point; 32774 while another job works on the VM, 32772 when what
    /// holds it does not let go.
    pub async fn failover(&self, vm: VmId, point: Option<PointId>, start: bool) -> Result<JobId, Refusal> {
        failover::initiate(&self.replica(vm).await?, point, start).await
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

    /// Starts a VM, unless it runs elsewhere in its place.
    ///
    /// # Errors
    /// 32775 when the replication does not allow it; the hypervisor's reason.
    pub async fn start_vm(&self, vm: VmId) -> Result<(), Refusal> {
        if let Some(handle) = self.primary(vm) {
            handle.ask(Command::Greet).await?;
            may_start_primary(&handle.snapshot().record)?;
        }
        let replica = self.replicas.find(vm);
        if let Some(replica) = &replica {
            let record = replica.snapshot();
            if !matches!(record.state, ReplicationState::Recovered | ReplicationState::Committed) {
                return Err(refuse(
                    ReturnCode::InvalidState,
                    format!("VM {} is a replica in state {}", record.name, record.state),
                    "Fail over first: `standin failover VM --start`.",
                ));
            }
        }
        if let Some(replica) = &replica {
            overlay_vm::before_start(replica).await;
        }
        self.hypervisor
            .start(vm, StartOptions::default())
            .await
            .map_err(|error| hypervisor_refusal(&error))?;
        if let Some(replica) = &replica {
            overlay_vm::runs(replica).await;
        }
        Ok(())
    }

    /// Forgets a VM that is off and does not replicate.
    ///
    /// # Errors
    /// 32774 while it replicates; the hypervisor's reason.
    pub async fn remove_vm(&self, vm: VmId) -> Result<(), Refusal> {
        if let Some(found) = self.relationship(vm) {
            return Err(refuse(
                ReturnCode::InUse,
                format!("VM {} has a replication relationship", found.status.vm),
                "Remove that first: `standin unreplicate VM`.",
            ));
        }
        let removed = self.hypervisor.undefine(vm).await.map_err(|error| hypervisor_refusal(&error));
        self.inventory.refresh(vm).await;
        removed
    }
}

fn unknown_vm(name: &VmName) -> Refusal {
    refuse(
        ReturnCode::FileNotFound,
        format!("there is no VM {name} on this host"),
        "`standin vm list` and `standin status` show what is here.",
    )
}

fn may_start_primary(record: &PrimaryRecord) -> Result<(), Refusal> {
    if record.fenced {
        // What is to be done depends on whether the failover is final, and that is what the replica said.
        let remedy = record.fence.as_ref().map_or(
            "Revert the failover on the replica host to run it here again, or remove the replication here if \
             the replica is not to be used.",
            |fence| fence.remedy.as_str(),
        );
        return Err(refuse(
            ReturnCode::InvalidState,
            format!("VM {} has failed over to {}: two of it would run", record.name, record.peer),
            remedy,
        ));
    }
    if record.state == ReplicationState::SyncedReplicationComplete {
        return Err(refuse(
            ReturnCode::InvalidState,
            format!("VM {} is prepared for a planned failover", record.name),
            "Call it off with `standin resume VM`, or fail over on the replica host.",
        ));
    }
    Ok(())
}
