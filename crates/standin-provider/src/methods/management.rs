//! Methods of `Msvm_VirtualSystemManagementService`, as far as the engine has VMs of its own.

use super::call::{Call, machine_of};
use super::reason::{Argument, Method, Missing};
use super::relationship::text;
use super::{Answer, Done, Tools, disks, not_here};
use crate::make::{Make, Out};
use crate::world::{self, Machine};
use crate::{ids, settings, system};
use standin_cim::{Instance, Narrow, ObjectPath, Property, Value, same_name};
use standin_engine::engine::hypervisor_refusal;
use standin_hypervisor::PowerState;
use standin_hypervisor::definition::{DiskDefinition, DiskFormat, VmDefinition};
use standin_model::{DiskName, Refusal, VmId, VmName};

/// Memory of a VM whose settings do not say: Hyper-V's own default.
const DEFAULT_MEMORY_MIB: u64 = 1024;

/// Calls a method of the service.
pub async fn service(tools: &Tools, call: &Call) -> Answer {
    match call.method.as_str() {
        "DefineSystem" => define(tools, call).await,
        "DestroySystem" => destroy(tools, call).await,
        "ModifySystemSettings" => modify(tools, call).await,
        "GetSummaryInformation" => summaries(tools, call),
        "FormatError" => format_error(call),
        method => Err(not_here("Msvm_VirtualSystemManagementService", method)),
    }
}

/// `DefineSystem`: name from the settings; disks, memory and processors from the resources.
async fn define(tools: &Tools, call: &Call) -> Answer {
    let settings = call.instance("SystemSettings")?;
    let name = text(settings, "ElementName").ok_or(Argument::NoName)?;
    let mut definition = VmDefinition::new(vm_name(name)?, DEFAULT_MEMORY_MIB);
    if let Some(id) = text(settings, "VirtualSystemIdentifier") {
        definition.uuid = ids::guid_in(id).map(VmId).ok_or(Argument::NoGuid)?;
    }
    for resource in call.instances("ResourceSettings").unwrap_or_default() {
        add_resource(&mut definition, resource)?;
    }
    definition.validate().map_err(|error| hypervisor_refusal(&error))?;
    if world::machine(&tools.engine, definition.uuid).is_some() {
        return Err(Method::Exists { id: definition.uuid }.into());
    }
    let id = tools.engine.define_vm(definition).await?;
    Ok(Done::with(Out::default().with("ResultingSystem", ids::system_path(id))))
}

fn add_resource(definition: &mut VmDefinition, resource: &Instance) -> Result<(), Refusal> {
    let quantity = quantity(resource);
    match &*resource.class {
        class if same_name(class, "Msvm_MemorySettingData") => {
            definition.memory_mib = quantity.unwrap_or(DEFAULT_MEMORY_MIB);
        }
        class if same_name(class, "Msvm_ProcessorSettingData") => {
            definition.vcpus = u32::try_from(quantity.unwrap_or(1)).map_err(|_| Argument::Processors)?;
        }
        class if same_name(class, "Msvm_StorageAllocationSettingData") => {
            definition.disks.push(disk(definition.disks.len(), resource)?);
        }
        class => {
            return Err(Method::Resource { class: class.to_owned() }.into());
        }
    }
    Ok(())
}

fn quantity(resource: &Instance) -> Option<u64> {
    match resource.value("VirtualQuantity")? {
        Value::Uint64(number) => Some(*number),
        Value::Uint32(number) => Some(u64::from(*number)),
        Value::Uint16(number) => Some(u64::from(*number)),
        Value::Sint64(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// A disk by its image; the format is told by the file's name, because what a guest writes cannot be trusted to tell.
fn disk(index: usize, resource: &Instance) -> Result<DiskDefinition, Refusal> {
    let file = disks::host_resource(resource).ok_or(Argument::DiskWithoutImage)?;
    let format = match file.rsplit_once('.').map(|(_, end)| end) {
        Some(end) if same_name(end, "qcow2") => DiskFormat::Qcow2,
        Some(end) if ["raw", "img"].iter().any(|raw| same_name(end, raw)) => DiskFormat::Raw,
        _ if file.starts_with("/dev/") => DiskFormat::Raw,
        _ => {
            return Err(Argument::DiskFormat { file: file.to_owned() }.into());
        }
    };
    let name = text(resource, "ElementName").map_or_else(|| format!("disk{index}"), str::to_owned);
    let name = DiskName::new(&name).map_err(|error| Argument::DiskName { name, error: error.to_string() })?;
    Ok(DiskDefinition::new(name, file, format))
}

/// `DestroySystem`: forgets a VM that is off and does not replicate. Its disks stay.
async fn destroy(tools: &Tools, call: &Call) -> Answer {
    let machine = call.machine_in(tools, "AffectedSystem")?;
    tools.engine.remove_vm(machine.id).await?;
    tools.engine.vm_changed(machine.id).await;
    Ok(Done::default())
}

/// `ModifySystemSettings`: settings that are as they were are taken. Of the others only the name can be changed.
async fn modify(tools: &Tools, call: &Call) -> Answer {
    let wanted = call.instance("SystemSettings")?;
    let id = text(wanted, "InstanceID")
        .ok_or_else(|| Argument::Missing { parameter: "InstanceID of SystemSettings".to_owned() })?;
    let machine = ids::guid_in(id).and_then(|guid| world::machine(&tools.engine, VmId(guid)));
    let machine = machine.ok_or_else(|| Missing::Vm { id: id.to_owned() })?;
    let is = settings::realized(&machine);
    let changed = |property: &&Property| {
        property.value.value.is_some() && is.value(&property.name) != property.value.value.as_ref()
    };
    let is_name = |property: &Property| same_name(&property.name, "ElementName");
    match wanted.properties.iter().filter(changed).find(|property| !is_name(property)) {
        None => rename(tools, &machine, wanted).await,
        Some(property) => {
            Err(Method::Fixed { vm: machine.name.clone(), property: property.name.to_string() }.into())
        }
    }
}

/// Gives the VM the name on this host that its settings have.
async fn rename(tools: &Tools, machine: &Machine, wanted: &Instance) -> Answer {
    let Some(name) = text(wanted, "ElementName").filter(|name| *name != machine.name) else {
        return Ok(Done::default());
    };
    tools.engine.rename(machine.id, vm_name(name)?).await?;
    Ok(Done::default())
}

fn vm_name(name: &str) -> Result<VmName, Refusal> {
    VmName::new(name)
        .map_err(|error| Argument::VmName { name: name.to_owned(), error: error.to_string() }.into())
}

/// `GetSummaryInformation`: of the VMs named, or of all.
fn summaries(tools: &Tools, call: &Call) -> Answer {
    let machines = match call.arguments.get("SettingData") {
        Some(Value::Array(values)) => {
            values.iter().flatten().map(|value| owner(tools, value)).collect::<Result<Vec<_>, _>>()?
        }
        _ => world::machines(&tools.engine, &Narrow::default()),
    };
    let summaries = machines.iter().map(|machine| summary(tools, machine)).collect();
    Ok(Done::with(Out::default().instances("SummaryInformation", summaries)))
}

fn owner(tools: &Tools, value: &Value) -> Result<Machine, Refusal> {
    let Value::Reference(path) = value else {
        return Err(Argument::SettingData.into());
    };
    let id = ids::key_text(path, "InstanceID").unwrap_or_default();
    if let Some(machine) = ids::guid_in(id).and_then(|guid| world::machine(&tools.engine, VmId(guid))) {
        return Ok(machine);
    }
    machine_of(tools, &ObjectPath::new("Msvm_ComputerSystem", ids::system_keys(id.to_owned())))
}

/// Everything that standin knows of what a summary can have, whichever part was asked for.
fn summary(tools: &Tools, machine: &Machine) -> Instance {
    let definition = machine.info.as_ref().map(|info| &info.definition);
    let own = system::vm(machine);
    let points = world::points(&tools.engine, machine);
    let make = Make::embedded("Msvm_SummaryInformation")
        .with("InstanceID", ids::microsoft(machine.id, ""))
        .with("Name", ids::guid(machine.id))
        .with("ElementName", machine.name.as_str())
        .with("EnabledState", system::enabled_state(machine.power()))
        .with("HealthState", system::health_state(machine))
        .numbers("OperationalStatus", &[system::operational(machine).0])
        .maybe("NumberOfProcessors", definition.and_then(|found| u16::try_from(found.vcpus).ok()))
        .maybe(
            "MemoryUsage",
            definition.filter(|_| machine.power() != PowerState::Off).map(|found| found.memory_mib),
        )
        .with("ReplicationMode", machine.mode().code())
        .time("CreationTime", settings::created_at(machine))
        .texts("Snapshots", points.iter().map(|point| settings::point_path(point).to_string()));
    ["ReplicationState", "ReplicationHealth"]
        .into_iter()
        .fold(make, |make, name| make.maybe(name, own.value(name).cloned()))
        .done()
}

/// `FormatError`: one text of several errors.
fn format_error(call: &Call) -> Answer {
    let errors = call.instances("Errors")?;
    let texts: Vec<&str> = errors.iter().filter_map(|error| text(error, "Message")).collect();
    if texts.is_empty() {
        return Err(Argument::NoErrorMessage.into());
    }
    Ok(Done::with(Out::default().with("ErrorMessage", texts.join("\n"))))
}
