//! The names of things: keys and instance ids, as clients of Hyper-V know them, made and taken apart.
//!
//! | Class | Key |
//! | --- | --- |
//! | `Msvm_ComputerSystem` | `Name`: the VM's GUID in capitals, or the host's name |
//! | `Msvm_VirtualSystemSettingData` | `Microsoft:<VM>` realized, `Microsoft:<recovery point>` |
//! | `Msvm_ReplicationRelationship` | `Microsoft:<VM>\HVR\0` |
//! | `Msvm_ReplicationSettingData` | `Microsoft:<VM>\HVR` |
//! | `Msvm_ReplicationStatistics` | `Microsoft:<VM>\HVR\0\Statistics` |
//! | `Msvm_StorageAllocationSettingData` | `Microsoft:<VM or point>\Disk\<name>` |
//! | `Msvm_SyntheticEthernetPort` | `DeviceID`: `Microsoft:<adapter>` |
//! | `Msvm_SyntheticEthernetPortSettingData` | `Microsoft:<VM>\<adapter>` |
//! | `Msvm_FailoverNetworkAdapterSettingData` | `Microsoft:<VM>\<adapter>\FailoverNetwork` |
//! | `Msvm_ReplicationAuthorizationSettingData` | `Microsoft:<entry>` |
//! | `Msvm_ConcreteJob` | the job's GUID in capitals |

use standin_cim::{Key, KeyValue, Keys, ObjectPath, same_name};
use standin_model::{JobId, VmId};
use std::fmt::Display;

/// A GUID as the API writes it.
pub fn guid(id: impl Display) -> String {
    id.to_string().to_ascii_uppercase()
}

/// `Microsoft:<guid><rest>`.
pub fn microsoft(id: impl Display, rest: &str) -> String {
    format!("Microsoft:{}{rest}", guid(id))
}

/// The path of a VM's `Msvm_ComputerSystem`.
pub fn system_path(vm: VmId) -> ObjectPath {
    ObjectPath::new("Msvm_ComputerSystem", system_keys(guid(vm)))
}

/// The keys of an `Msvm_ComputerSystem`.
pub fn system_keys(name: String) -> Vec<Key> {
    vec![Key::text("CreationClassName", "Msvm_ComputerSystem"), Key::text("Name", name)]
}

/// The path of an instance whose only key is its `InstanceID`.
pub fn instance_path(class: &'static str, id: String) -> ObjectPath {
    ObjectPath::new(class, vec![Key::text("InstanceID", id)])
}

/// The path of a job.
pub fn job_path(job: JobId) -> ObjectPath {
    instance_path("Msvm_ConcreteJob", guid(job))
}

/// The first GUID in a key's value: `Microsoft:<guid>\...`, or the GUID alone. Clients write it in either case.
pub fn guid_in(text: &str) -> Option<uuid::Uuid> {
    let rest = match text.get(..10) {
        Some(head) if same_name(head, "Microsoft:") => &text[10..],
        _ => text,
    };
    let end = rest.find('\\').unwrap_or(rest.len());
    rest[..end].trim_matches(['{', '}']).parse().ok()
}

/// What stands after the GUID: `HVR\0` of `Microsoft:<guid>\HVR\0`.
pub fn after_guid(text: &str) -> &str {
    text.split_once('\\').map_or("", |(_, rest)| rest)
}

/// The text of a key of a path.
pub fn key_text<'a>(path: &'a ObjectPath, name: &str) -> Option<&'a str> {
    let Keys::Named(keys) = &path.keys else { return None };
    keys.iter().find(|key| same_name(&key.name, name)).and_then(|key| text_of(&key.value))
}

/// The text of a key's value.
pub fn text_of(value: &KeyValue) -> Option<&str> {
    match value {
        KeyValue::Text(text) => Some(text),
        _ => None,
    }
}

/// The keys by which a VM's or a relationship's instances can be told apart.
const TELLING: [&str; 5] = ["Name", "InstanceID", "SystemName", "VirtualSystemIdentifier", "DeviceID"];

/// The GUID that a set of keys names, looking into references as well.
pub fn guid_of_keys(keys: &[Key]) -> Option<uuid::Uuid> {
    keys.iter().find_map(|key| match &key.value {
        KeyValue::Text(text) if TELLING.iter().any(|name| same_name(name, &key.name)) => guid_in(text),
        KeyValue::Reference(path) => guid_of_path(path),
        _ => None,
    })
}

/// The GUID that a path names.
pub fn guid_of_path(path: &ObjectPath) -> Option<uuid::Uuid> {
    match &path.keys {
        Keys::Named(keys) => guid_of_keys(keys),
        _ => None,
    }
}
