//! A failover defines, it never redefines: a VM of the replica's id that is there already belongs to somebody, unless this
//! very failover made it before a crash. What it stands on tells: the overlay of a failover is nobody else's.
//!
//! Called by [`super::overlay_vm`] to make the VM of a failover and to take it back.

use super::overlay_vm::serial_log;
use super::reason::Failover;
use super::vm::ReplicaVm;
use crate::engine::{hypervisor_refusal, inspect_refusal};
use standin_hypervisor::{Error, VmDefinition, VmInfo};
use standin_model::{Refusal, VmName};
use standin_store::Overlay;

/// How often a name that was taken a moment before is given up for another one.
const TRIES: u32 = 8;

/// Defines the VM of a failover under the replica's name, or under the next one by the rule when another VM has that.
///
/// # Errors
/// 32774 when this host has a VM of that id that the failover did not make; the hypervisor's reason.
pub(super) async fn define(
    vm: &ReplicaVm,
    overlay: &Overlay,
    mut definition: VmDefinition,
) -> Result<(), Refusal> {
    let vms = &vm.shared.vms;
    match vm.shared.hypervisor.inspect(vm.id()).await {
        Ok(info) if is_made_by(overlay, &info) => return vms.define(definition).await.map(|_| ()),
        Ok(info) => return Err(somebody_elses(&info)),
        Err(Error::UnknownVm(_)) => {}
        Err(error) => return Err(inspect_refusal(&error)),
    }
    let mut tries = 0;
    loop {
        let done = vms.define_new(definition.clone()).await;
        tries += 1;
        if done.is_ok() || tries > TRIES || !vm.lacks_its_name(&definition.name).await? {
            return done;
        }
        definition.name = vm.find_free_name().await?;
        if let Some(log) = &mut definition.serial_log {
            *log = serial_log(vm, &definition.name);
        }
    }
}

/// Whether a VM stands on an overlay, and so was made by the failover that the overlay belongs to.
pub(super) fn is_made_by(overlay: &Overlay, info: &VmInfo) -> bool {
    let stands_on = |file: &std::path::Path| overlay.disks.values().any(|disk| disk.path == file);
    !info.adopted && info.definition.disks.iter().any(|disk| stands_on(&disk.file))
}

fn somebody_elses(info: &VmInfo) -> Refusal {
    Failover::VmOfAnother { vm: info.name.clone(), id: info.id }.into()
}

impl ReplicaVm {
    /// Another VM of the hypervisor has the name.
    async fn lacks_its_name(&self, name: &VmName) -> Result<bool, Refusal> {
        let names = self.shared.hypervisor.names().await.map_err(|error| hypervisor_refusal(&error))?;
        Ok(names.iter().any(|(id, known)| *id != self.id() && known == name))
    }

    /// Gives the replica another name by the rule: the one that it has is taken.
    async fn find_free_name(&self) -> Result<VmName, Refusal> {
        let others = self.shared.hypervisor.names().await.map_err(|error| hypervisor_refusal(&error))?;
        let mut record = self.lock().await;
        let name = self.shared.names.give(record.vm, record.primary_name(), &record.primary_host, &others);
        tracing::warn!(vm = %record.name, %name, "the replica's name is taken by another VM of this host");
        record.give_name(name.clone());
        record.save().await?;
        Ok(name)
    }
}
