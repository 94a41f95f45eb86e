//! A call with its arguments, and how VMs and recovery points are taken from them.

use super::Tools;
use super::reason::{Argument, Missing};
use crate::world::{self, Machine};
use crate::{VIRTUALIZATION, ids};
use standin_cim::arguments::Arguments;
use standin_cim::{Instance, MethodCall, Namespace, ObjectPath, RawValue, Value, embedded, same_name};
use standin_model::{PointId, Refusal, VmId};

/// A call whose arguments have their types.
pub struct Call {
    /// The class, as it is declared.
    pub class: String,
    /// The method, as it is declared.
    pub method: String,
    /// The instance, all keys there.
    pub target: ObjectPath,
    /// The arguments.
    pub arguments: Arguments,
    /// The recovery point, which comes in more forms than a declaration can say.
    pub point: Result<Option<String>, Refusal>,
}

/// The parameter that is declared as a reference and comes as an embedded instance too.
pub fn is_point(name: &str) -> bool {
    same_name(name, "SnapshotSettingData")
}

/// The instance id of the recovery point that a call names; `None` for the latest. The class's page says reference,
/// the published samples pass the instance: both are taken.
pub fn point_argument(call: &MethodCall) -> Result<Option<String>, Refusal> {
    let Some(argument) = call.arguments.iter().find(|argument| is_point(&argument.name)) else {
        return Ok(None);
    };
    instance_id(&argument.value)
}

fn instance_id(value: &RawValue) -> Result<Option<String>, Refusal> {
    match value {
        RawValue::Null => Ok(None),
        RawValue::Reference(path) => id_of_path(path).map(Some),
        RawValue::Instance(instance) => id_of_instance(instance).map(Some),
        RawValue::Text(text) => id_of_text(text),
        RawValue::Typed(typed) => match &typed.value {
            None => Ok(None),
            Some(Value::Reference(path)) => id_of_path(path).map(Some),
            Some(Value::Instance(instance)) => id_of_instance(instance).map(Some),
            Some(Value::String(text)) => id_of_text(text),
            Some(_) => Err(Argument::PointType.into()),
        },
        RawValue::Array(_) => Err(Argument::PointType.into()),
    }
}

fn id_of_text(text: &str) -> Result<Option<String>, Refusal> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(instance) = embedded::parse(text) {
        return id_of_instance(&instance).map(Some);
    }
    let path = ObjectPath::parse(text).ok_or(Argument::PointType)?;
    id_of_path(&path).map(Some)
}

fn id_of_path(path: &ObjectPath) -> Result<String, Refusal> {
    local(path.namespace.as_ref())?;
    if !same_name(&path.class, "Msvm_VirtualSystemSettingData")
        && !same_name(&path.class, "CIM_VirtualSystemSettingData")
    {
        return Err(Argument::PointType.into());
    }
    ids::key_text(path, "InstanceID").map(str::to_owned).ok_or_else(|| Argument::PointReference.into())
}

fn id_of_instance(instance: &Instance) -> Result<String, Refusal> {
    if !same_name(&instance.class, "Msvm_VirtualSystemSettingData") {
        return Err(Argument::PointType.into());
    }
    match instance.value("InstanceID") {
        Some(Value::String(id)) => Ok(id.clone()),
        _ => Err(Argument::PointInstance.into()),
    }
}

/// Objects of this API live in one namespace.
fn local(namespace: Option<&Namespace>) -> Result<(), Refusal> {
    match namespace {
        Some(other) if *other != VIRTUALIZATION => {
            Err(Argument::Namespace { namespace: other.clone() }.into())
        }
        _ => Ok(()),
    }
}

impl Call {
    /// The VM that the argument `ComputerSystem` names.
    pub fn machine(&self, tools: &Tools) -> Result<Machine, Refusal> {
        self.machine_in(tools, "ComputerSystem")
    }

    /// The VM that an argument names.
    pub fn machine_in(&self, tools: &Tools, parameter: &str) -> Result<Machine, Refusal> {
        let path = self.reference(parameter)?;
        machine_of(tools, path)
    }

    /// A reference that must be there.
    pub fn reference(&self, parameter: &str) -> Result<&ObjectPath, Refusal> {
        match self.arguments.get(parameter) {
            Some(Value::Reference(path)) => {
                local(path.namespace.as_ref())?;
                Ok(path)
            }
            _ => Err(Argument::Missing { parameter: parameter.to_owned() }.into()),
        }
    }

    /// A text; `None` when it is null or empty.
    pub fn text(&self, parameter: &str) -> Option<&str> {
        match self.arguments.get(parameter) {
            Some(Value::String(text)) if !text.trim().is_empty() => Some(text.trim()),
            _ => None,
        }
    }

    /// A number.
    pub fn number(&self, parameter: &str) -> Option<u16> {
        match self.arguments.get(parameter) {
            Some(Value::Uint16(number)) => Some(*number),
            _ => None,
        }
    }

    /// An instance that must be there.
    pub fn instance(&self, parameter: &str) -> Result<&Instance, Refusal> {
        match self.arguments.get(parameter) {
            Some(Value::Instance(instance)) => Ok(instance),
            _ => Err(Argument::Missing { parameter: parameter.to_owned() }.into()),
        }
    }

    /// Instances, of which one at least must be there.
    pub fn instances(&self, parameter: &str) -> Result<Vec<&Instance>, Refusal> {
        let found: Vec<&Instance> = match self.arguments.get(parameter) {
            Some(Value::Instance(instance)) => vec![instance],
            Some(Value::Array(values)) => values
                .iter()
                .filter_map(|value| match value {
                    Some(Value::Instance(instance)) => Some(instance.as_ref()),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        match found.is_empty() {
            true => Err(Argument::Missing { parameter: parameter.to_owned() }.into()),
            false => Ok(found),
        }
    }
}

/// The VM under a path of `Msvm_ComputerSystem`.
pub fn machine_of(tools: &Tools, path: &ObjectPath) -> Result<Machine, Refusal> {
    let name = ids::key_text(path, "Name").ok_or(Argument::VmReference)?;
    if same_name(name, &tools.site.host) {
        return Err(Missing::IsHost { name: name.to_owned() }.into());
    }
    let id = ids::guid_in(name).ok_or_else(|| Missing::Vm { id: name.to_owned() })?;
    world::machine(&tools.engine, VmId(id)).ok_or_else(|| Missing::VmHere { name: name.to_owned() }.into())
}

/// What a client sent, short enough for a sentence.
pub fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The recovery point of a VM under its instance id.
pub fn point_of(tools: &Tools, machine: &Machine, id: &str) -> Result<PointId, Refusal> {
    let guid = ids::guid_in(id).ok_or_else(|| Missing::Point { id: id.to_owned() })?;
    if guid == machine.id.0 {
        return Err(Argument::NoPoint { vm: machine.name.clone() }.into());
    }
    let known = world::points(&tools.engine, machine).iter().any(|point| point.id.0 == guid);
    if known || !machine.is_replica() {
        // Who is no replica is told that, not that its point is unknown.
        return Ok(PointId(guid));
    }
    Err(Missing::PointOf { vm: machine.name.clone(), id: id.to_owned() }.into())
}
