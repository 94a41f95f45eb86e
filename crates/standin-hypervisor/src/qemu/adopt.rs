//! VMs that somebody else runs. Their definition is put together from what QEMU can be asked: identity, name,
//! memory, CPUs, machine type, disks. Network cards, firmware and kernel cannot be asked, so a recovery point
//! of an adopted VM carries its disks and a definition that has to be completed by hand.

use super::Shared;
use super::inventory::Inventory;
use super::machine::{self, CONNECT_TIMEOUT, Machine, Origin, Vm};
use super::store::Adoption;
use crate::definition::{DiskDefinition, DiskFormat, VmDefinition};
use crate::error::Error;
use crate::qmp::{Qmp, json};
use serde_json::{Value, json as value};
use standin_model::{VmId, VmName};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// QEMU's default, for a VM that does not say.
const DEFAULT_MEMORY_MIB: u64 = 128;

/// A VM from its adoption, before its QEMU was asked.
pub(crate) fn vm(adoption: Adoption) -> Vm {
    let mut definition = VmDefinition::new(adoption.name, DEFAULT_MEMORY_MIB);
    definition.uuid = adoption.uuid;
    Vm::new(Origin::Adopted { qmp: adoption.qmp }, definition)
}

/// Makes a running QEMU known.
pub(crate) async fn adopt(
    shared: &Arc<Shared>,
    socket: PathBuf,
    name: Option<VmName>,
) -> Result<VmId, Error> {
    let socket = std::fs::canonicalize(&socket)
        .map_err(Error::io(format!("find the monitor socket {}", socket.display())))?;
    // A monitor serves one client: behind a socket that is adopted already a second one would only wait.
    let origin = Origin::Adopted { qmp: socket.clone() };
    if let Some(owner) = shared.vms().values().find(|vm| vm.origin == origin) {
        return Err(Error::AlreadyDefined { name: owner.name(), owner: owner.id });
    }
    let qmp = Qmp::connect(&socket, CONNECT_TIMEOUT).await?;
    let mut definition = describe(&qmp, &socket).await?;
    if let Some(name) = name {
        definition.name = name;
    }
    let _naming = shared.naming.lock().await;
    let adoption = Adoption { uuid: definition.uuid, name: definition.name.clone(), qmp: socket.clone() };
    let taken =
        shared.vms().values().find(|vm| vm.id == adoption.uuid || vm.name() == adoption.name).cloned();
    if let Some(owner) = taken {
        return Err(Error::AlreadyDefined { name: adoption.name, owner: owner.id });
    }
    let vm = Arc::new(Vm::new(origin, definition));
    let events = qmp.events();
    let machine = Arc::new(Machine::new(qmp, None, None));
    complete(&vm, &machine).await?;
    shared.store.save_adoption(&adoption)?;
    shared.vms().insert(vm.id, Arc::clone(&vm));
    machine::adopt_running(shared, &vm, machine, events);
    tracing::info!(vm = %machine::shown(&vm),
        "adopted a running VM; its definition has no network cards, firmware or kernel");
    Ok(adoption.uuid)
}

/// Checks that a monitor is that of `vm`, and learns what changed of an adopted one since it was last seen.
pub(crate) async fn recognise(vm: &Vm, machine: &Machine, socket: &Path) -> Result<(), Error> {
    let mut found = describe(&machine.qmp, socket).await?;
    if found.uuid != vm.id {
        let peer = socket.display().to_string();
        return Err(Error::Connection { peer, detail: format!("VM {} answers there", found.uuid) });
    }
    if vm.origin == Origin::Owned {
        return Ok(());
    }
    found.name = vm.name();
    vm.redefine(found);
    complete(vm, machine).await
}

/// What a QEMU says of itself, without its disks.
async fn describe(qmp: &Qmp, socket: &Path) -> Result<VmDefinition, Error> {
    let uuid = qmp.execute("query-uuid", Value::Null).await?;
    let uuid: Uuid = json::text(&uuid, "UUID").parse().unwrap_or_default();
    // Without an identity of its own, the VM behind one socket is always the same one to us.
    let from_path = || Uuid::new_v5(&Uuid::NAMESPACE_URL, socket.as_os_str().as_bytes());
    let uuid = if uuid.is_nil() { from_path() } else { uuid };
    let name = qmp.execute("query-name", Value::Null).await?;
    let name = vm_name(json::text(&name, "name"), uuid)?;
    let memory = qmp.execute("query-memory-size-summary", Value::Null).await?;
    let cpus = qmp.execute("query-cpus-fast", Value::Null).await?;
    let machine = qmp.execute("qom-get", value!({ "path": "/machine", "property": "type" })).await;
    let mut definition = VmDefinition::new(name, (json::number(&memory, "base-memory") >> 20).max(16));
    definition.uuid = VmId(uuid);
    definition.vcpus = u32::try_from(json::items(&cpus).len()).unwrap_or(1).max(1);
    if let Some(machine) = machine.ok().as_ref().and_then(Value::as_str) {
        definition.machine = machine.trim_end_matches("-machine").to_owned();
    }
    Ok(definition)
}

fn vm_name(given: &str, uuid: Uuid) -> Result<VmName, Error> {
    let clean = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let name: String = given.chars().map(clean).take(64).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let name = if name.is_empty() { format!("vm-{uuid}") } else { name.to_owned() };
    VmName::new(name).map_err(|error| Error::Definition(error.to_string()))
}

/// Adds the disks to an adopted VM's definition: those whose format a definition can have.
async fn complete(vm: &Vm, machine: &Machine) -> Result<(), Error> {
    let mut definition = vm.definition();
    let disks = Inventory::take(vm, machine).await?.disks;
    let known = disks.into_iter().filter_map(|disk| {
        let format = match disk.format.as_str() {
            "raw" => DiskFormat::Raw,
            "qcow2" => DiskFormat::Qcow2,
            _ => return None,
        };
        let mut described = DiskDefinition::new(disk.name, disk.path, format);
        described.read_only = disk.read_only;
        Some(described)
    });
    definition.disks = known.collect();
    vm.redefine(definition);
    Ok(())
}
