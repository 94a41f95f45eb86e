//! VMs that run although the state directory does not know them.
//!
//! A process goes on when the data directory of its host is lost, or put back from a backup that is older than the VM.
//! Who is asked then whether the VM runs here must not say no, and whoever has to stop it needs the ordinary verbs. So
//! what a process was started from lies beside its pid file, and makes the VM known again when the driver opens.
//!
//! Called by [`super::driver`] before anything looks for processes.

use super::machine::{Origin, Vm};
use super::process::Process;
use super::store::Store;
use crate::definition::VmDefinition;
use crate::error::Error;
use standin_model::{VmId, VmName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Makes every VM known that runs here. Those that the state directory knows have their file beside the process too when
/// this returns: what an earlier release started has none.
///
/// # Errors
/// When a file cannot be read or written: a VM that runs could be taken for one that does not.
pub(super) fn take_up(store: &Store, vms: &mut BTreeMap<VmId, Arc<Vm>>) -> Result<(), Error> {
    let kept = store.load_running()?;
    let has_file = |vm: &Vm| kept.iter().any(|definition| definition.uuid == vm.id);
    let owned = vms.values().filter(|vm| vm.origin == Origin::Owned);
    for vm in owned.filter(|vm| !has_file(vm) && Process::find(store, vm.id).is_some()) {
        store.save_running(&vm.definition())?;
    }
    for definition in kept {
        let process = Process::find(store, definition.uuid);
        let Some(process) = process.filter(|_| !vms.contains_key(&definition.uuid)) else { continue };
        let definition = with_free_name(definition, vms);
        tracing::error!(vm = %definition.name, vm_id = %definition.uuid, pid = process.pid,
            "a VM runs here of which the data directory knows nothing: it was lost, or put back from an older backup; the \
             VM is known again by its process. Stop it here if it is to run elsewhere: `standin vm stop {} --force`",
            definition.name);
        store.save_definition(&definition)?;
        vms.insert(definition.uuid, Arc::new(Vm::new(Origin::Owned, definition)));
    }
    Ok(())
}

/// Another VM may have got the name since.
fn with_free_name(mut definition: VmDefinition, vms: &BTreeMap<VmId, Arc<Vm>>) -> VmDefinition {
    let taken = vms.values().any(|vm| vm.name() == definition.name);
    if let (true, Ok(name)) = (taken, VmName::new(definition.uuid.to_string())) {
        definition.name = name;
    }
    definition
}
