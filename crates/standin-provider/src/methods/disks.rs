//! Disks that clients name: in `IncludedDisks` as instances or paths of `Msvm_StorageAllocationSettingData`, in
//! `HostResource` by their image.

use super::reason::Missing;
use crate::settings;
use crate::world::Machine;
use standin_cim::{Instance, ObjectPath, Value, embedded};
use standin_model::{DiskName, Refusal};

/// The disks that a property names; `None` when it is null: all of them.
pub fn included(machine: &Machine, settings: &Instance) -> Result<Option<Vec<DiskName>>, Refusal> {
    let Some(Value::Array(values)) = settings.value("IncludedDisks") else { return Ok(None) };
    values.iter().flatten().map(|value| disk_of(machine, value)).collect::<Result<Vec<_>, _>>().map(Some)
}

fn disk_of(machine: &Machine, value: &Value) -> Result<DiskName, Refusal> {
    match value {
        Value::Instance(instance) => of_instance(machine, instance),
        Value::String(text) => of_text(machine, text),
        Value::Reference(path) => {
            of_id(machine, crate::ids::key_text(path, "InstanceID").unwrap_or_default())
        }
        _ => Err(unknown(machine, "of that type")),
    }
}

fn of_text(machine: &Machine, text: &str) -> Result<DiskName, Refusal> {
    if let Ok(instance) = embedded::parse(text) {
        return of_instance(machine, &instance);
    }
    match ObjectPath::parse(text) {
        Some(path) => of_id(machine, crate::ids::key_text(&path, "InstanceID").unwrap_or_default()),
        None => of_id(machine, text),
    }
}

fn of_instance(machine: &Machine, instance: &Instance) -> Result<DiskName, Refusal> {
    match instance.value("InstanceID") {
        Some(Value::String(id)) => of_id(machine, id),
        _ => of_id(machine, host_resource(instance).unwrap_or_default()),
    }
}

/// The image that a disk's instance names.
pub fn host_resource(instance: &Instance) -> Option<&str> {
    let Some(Value::Array(values)) = instance.value("HostResource") else { return None };
    values.iter().flatten().find_map(|value| match value {
        Value::String(text) => Some(text.as_str()),
        _ => None,
    })
}

/// By the name at the end of an instance id, by the bare name, or by the image.
fn of_id(machine: &Machine, id: &str) -> Result<DiskName, Refusal> {
    let disks = settings::disks(machine);
    let name = id.rsplit_once("\\Disk\\").map_or(id, |(_, name)| name);
    let found = disks.iter().find(|disk| disk.name == name || disk.path.as_deref() == Some(id));
    let found = found.ok_or_else(|| unknown(machine, id))?;
    DiskName::new(&found.name).map_err(|_| unknown(machine, id))
}

fn unknown(machine: &Machine, disk: &str) -> Refusal {
    Missing::Disk { vm: machine.name.clone(), disk: disk.to_owned() }.into()
}
