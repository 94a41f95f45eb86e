//! Renaming: a VM has a name on each host, and each host changes its own.
//!
//! Called by the local API and the management protocols.

use super::{Engine, hypervisor_refusal};
use crate::primary::Command;
use crate::replica::vm::name_taken;
use standin_hypervisor::Error;
use standin_model::{Refusal, VmId, VmName};

impl Engine {
    /// Gives a VM another name on this host: one that runs here, off or on, or one that is received here. The primary's
    /// new name reaches the replica with the next session, where it is shown beside the replica's own.
    ///
    /// # Errors
    /// 32774 when another VM of this host has the name, or a job works on the replica; 32779 for an unknown VM; 32777 for a
    /// replica whose disks are not there; 32768 when it cannot be kept. Nothing changed then.
    pub async fn rename(&self, vm: VmId, name: VmName) -> Result<(), Refusal> {
        self.free_name(vm, &name).await?;
        if let Some(refusal) = self.replicas().disks_missing(vm) {
            return Err(refusal);
        }
        let done = match self.replicas().find(vm) {
            Some(replica) => replica.rename(name).await,
            None => self.rename_own(vm, name).await,
        };
        self.inventory().refresh(vm).await;
        done
    }

    async fn rename_own(&self, vm: VmId, name: VmName) -> Result<(), Refusal> {
        let (known, primary) = (self.vms.rename(vm, name.clone()).await?, self.primary(vm));
        match primary {
            // Also where its definition is gone: the relationship is still to be told from another VM of the name.
            Some(handle) => handle.ask(Command::Renamed(name)).await.map(|_| ()),
            None if known => Ok(()),
            None => Err(hypervisor_refusal(&Error::UnknownVm(vm))),
        }
    }

    /// No other VM of this host has the name, be it one that runs here, is sent from here or is received here.
    async fn free_name(&self, vm: VmId, name: &VmName) -> Result<(), Refusal> {
        let names = self.hypervisor().names().await.map_err(|error| hypervisor_refusal(&error))?;
        let here = names.iter().find(|(id, known)| *id != vm && known == name).map(|(id, _)| *id);
        match here.or_else(|| self.related(vm, name).map(|(owner, _)| owner)) {
            Some(owner) => Err(name_taken(name, owner)),
            None => Ok(()),
        }
    }
}
