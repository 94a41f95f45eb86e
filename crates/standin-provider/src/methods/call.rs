//! A call with its arguments, and how VMs and recovery points are taken from them.

use super::Tools;
use crate::world::{self, Machine};
use crate::{VIRTUALIZATION, ids};
use standin_cim::arguments::Arguments;
use standin_cim::{Instance, MethodCall, Namespace, ObjectPath, RawValue, Value, embedded, same_name};
use standin_model::{PointId, Refusal, ReturnCode, VmId};

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

/// A malformed or missing argument.
pub fn invalid(message: impl Into<String>, remedy: impl Into<String>) -> Refusal {
    Refusal::new(ReturnCode::InvalidParameter, message, remedy)
}

/// Nothing is there under that name.
pub fn not_found(message: impl Into<String>) -> Refusal {
    Refusal::new(
        ReturnCode::FileNotFound,
        message,
        "Enumerate Msvm_ComputerSystem and Msvm_VirtualSystemSettingData to see what is here.",
    )
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

fn wrong_type() -> Refusal {
    Refusal::new(
        ReturnCode::IncorrectDataType,
        "SnapshotSettingData is neither a reference nor an instance of Msvm_VirtualSystemSettingData",
        "Pass the recovery point's path, its instance, or null for the latest one.",
    )
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
            Some(_) => Err(wrong_type()),
        },
        RawValue::Array(_) => Err(wrong_type()),
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
    let path = ObjectPath::parse(text).ok_or_else(wrong_type)?;
    id_of_path(&path).map(Some)
}

fn id_of_path(path: &ObjectPath) -> Result<String, Refusal> {
    local(path.namespace.as_ref())?;
    if !same_name(&path.class, "Msvm_VirtualSystemSettingData")
        && !same_name(&path.class, "CIM_VirtualSystemSettingData")
    {
        return Err(wrong_type());
    }
    ids::key_text(path, "InstanceID").map(str::to_owned).ok_or_else(|| {
        invalid(
            "the reference to a recovery point has no InstanceID",
            "Pass the path that an enumeration gave.",
        )
    })
}

fn id_of_instance(instance: &Instance) -> Result<String, Refusal> {
    if !same_name(&instance.class, "Msvm_VirtualSystemSettingData") {
        return Err(wrong_type());
    }
    match instance.value("InstanceID") {
        Some(Value::String(id)) => Ok(id.clone()),
        _ => Err(invalid(
            "the recovery point's instance has no InstanceID",
            "Pass it as an enumeration gave it.",
        )),
    }
}

/// Objects of this API live in one namespace.
fn local(namespace: Option<&Namespace>) -> Result<(), Refusal> {
    match namespace {
        Some(other) if *other != VIRTUALIZATION => Err(invalid(
            format!("a reference points into the namespace {other}"),
            "Pass references into root/virtualization/v2.",
        )),
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
            _ => Err(missing(parameter)),
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
            _ => Err(missing(parameter)),
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
        if found.is_empty() { Err(missing(parameter)) } else { Ok(found) }
    }
}

/// A parameter that has to be there and is not.
pub fn missing(parameter: &str) -> Refusal {
    invalid(format!("the parameter {parameter} is missing"), "Pass it; the class definition has its type.")
}

/// The VM under a path of `Msvm_ComputerSystem`.
pub fn machine_of(tools: &Tools, path: &ObjectPath) -> Result<Machine, Refusal> {
    let name = ids::key_text(path, "Name").ok_or_else(|| {
        invalid(
            "the reference to a VM has no Name",
            "Pass the path that an enumeration of Msvm_ComputerSystem gave.",
        )
    })?;
    if same_name(name, &tools.site.host) {
        return Err(Refusal::new(
            ReturnCode::NotSupported,
            format!("{name} is this host, not a VM"),
            "Pass the Msvm_ComputerSystem of a VM.",
        ));
    }
    let id = ids::guid_in(name).ok_or_else(|| not_found(format!("there is no VM {}", cut(name))))?;
    world::machine(&tools.engine, VmId(id))
        .ok_or_else(|| not_found(format!("there is no VM {name} on this host")))
}

/// What a client sent, short enough for a sentence.
pub fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The recovery point of a VM under its instance id.
pub fn point_of(tools: &Tools, machine: &Machine, id: &str) -> Result<PointId, Refusal> {
    let guid =
        ids::guid_in(id).ok_or_else(|| not_found(format!("there is no recovery point {}", cut(id))))?;
    if guid == machine.id.0 {
        return Err(invalid(
            format!("these are the settings of VM {} as it is, not a recovery point", machine.name),
            "Pass one of the instances that Msvm_SnapshotOfVirtualSystem relates to the VM.",
        ));
    }
    let known = world::points(&tools.engine, machine).iter().any(|point| point.id.0 == guid);
    if known || !machine.is_replica() {
        // Who is no replica is told that, not that its point is unknown.
        return Ok(PointId(guid));
    }
    Err(not_found(format!("VM {} has no recovery point {}", machine.name, cut(id))))
}
