//! Making a VM known: by a definition, or by the QEMU that runs it already. A name on this host belongs to one VM, and a UUID
//! that a replica here has is that of its VM.
//!
//! Called by the local API and the management protocols.

use super::Engine;
use super::reason::Operation;
use crate::replica::vm::name_taken;
use crate::vm::Start;
use standin_hypervisor::VmDefinition;
use standin_model::fence::Assertion;
use standin_model::state::Side;
use standin_model::{Refusal, VmId, VmName};
use std::path::PathBuf;

impl Engine {
    /// Makes a new VM known, or replaces the definition of one that is off. Nothing is started by it.
    ///
    /// # Errors
    /// 32774 for a UUID or a name that a replica has, or a name that another VM that is sent from here has; the hypervisor's
    /// reason. Nothing changed then.
    pub async fn define_vm(&self, definition: VmDefinition) -> Result<VmId, Refusal> {
        if let Some(replica) = self.replicas().find(definition.uuid) {
            return Err(Operation::UuidOfReplica { vm: replica.snapshot().name }.into());
        }
        self.may_be_named(definition.uuid, &definition.name)?;
        self.vms.define(definition).await
    }

    /// Makes a running QEMU known, unless its VM lives elsewhere.
    ///
    /// # Errors
    /// 32774 for a name that another VM of this host has; the hypervisor's reason, or as [`Engine::start_vm`]. It is not
    /// known then.
    pub async fn adopt_vm(
        &self,
        qmp: PathBuf,
        name: Option<VmName>,
        asserted: Option<Assertion>,
    ) -> Result<VmId, Refusal> {
        let free = |vm: VmId, name: &VmName| match self.related(vm, name) {
            Some((owner, _)) => Err(name_taken(name, owner)),
            None => Ok(()),
        };
        self.vms.adopt(qmp, name, Start { asserted, ..Start::default() }, free).await
    }

    /// Whether a VM may be defined by this name: no relationship of another VM has it. Two of one name could be told apart
    /// only by their ids, and one of them could not run here after a failover. No I/O.
    ///
    /// # Errors
    /// 32774 when another VM that this host sends or receives has the name, with that VM's id.
    pub fn may_be_named(&self, vm: VmId, name: &VmName) -> Result<(), Refusal> {
        // One that is already called so is not refused when it is defined anew.
        if self.inventory().get(vm).is_some_and(|info| info.name == *name) {
            return Ok(());
        }
        let Some((id, side)) = self.related(vm, name) else { return Ok(()) };
        Err(Operation::NameOfAnother { name: name.clone(), id, side }.into())
    }

    /// Another VM than `vm` that is sent from here or received here by a name, and which side this host is. No I/O.
    pub(super) fn related(&self, vm: VmId, name: &VmName) -> Option<(VmId, Side)> {
        let taken = self.relationships().into_iter().find(|r| r.status.vm == *name && r.status.id != vm);
        taken.map(|taken| (taken.status.id, taken.side))
    }
}
