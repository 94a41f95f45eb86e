//! Authorization entries, and the settings of the service that admits by them.

use super::call::Call;
use super::reason::{Argument, Missing};
use super::relationship::{number, text};
use super::{Answer, Done, Tools};
use crate::{ids, service};
use standin_cim::{Datetime, Instance, TypedValue, Value, same_name};
use standin_engine::Engine;
use standin_model::{AuthId, AuthorizationEntry, Refusal};
use std::path::PathBuf;

/// The trust group of an entry that names none.
const DEFAULT_GROUP: &str = "default";

/// `AddAuthorizationEntry`.
pub async fn add(tools: &Tools, call: &Call) -> Answer {
    let data = call.instance("AuthorizationEntry")?;
    let required = |name: &str| {
        text(data, name).map(str::to_owned).ok_or_else(|| Argument::EntryLacks { name: name.to_owned() })
    };
    let entry = AuthorizationEntry {
        id: AuthId::random(),
        allowed_primary: required("AllowedPrimaryHostSystem")?,
        trust_group: text(data, "TrustGroup").unwrap_or(DEFAULT_GROUP).to_owned(),
        storage_location: PathBuf::from(required("ReplicaStorageLocation")?),
    };
    tools.engine.replicas().add_entry(entry).await?;
    Ok(Done::default())
}

/// `ModifyAuthorizationEntry`: what is null stays as it is. The entry is found by its id, else by its hosts.
pub async fn modify(tools: &Tools, call: &Call) -> Answer {
    let data = call.instance("AuthorizationEntry")?;
    let mut entry = named(tools, data)?;
    if let Some(hosts) = text(data, "AllowedPrimaryHostSystem") {
        hosts.clone_into(&mut entry.allowed_primary);
    }
    if let Some(group) = text(data, "TrustGroup") {
        group.clone_into(&mut entry.trust_group);
    }
    if let Some(location) = text(data, "ReplicaStorageLocation") {
        entry.storage_location = PathBuf::from(location);
    }
    tools.engine.replicas().modify_entry(entry).await?;
    Ok(Done::default())
}

/// A Put on an entry: its three properties can be written (the class says so).
pub async fn put(
    engine: &Engine,
    instance: &Instance,
    changes: &[(String, TypedValue)],
) -> Result<(), Refusal> {
    let guid = text(instance, "InstanceID").and_then(ids::guid_in);
    let entries = engine.replicas().entries();
    let entry = entries.into_iter().find(|entry| Some(entry.id.0) == guid);
    let mut entry = entry.ok_or(Missing::EntryGone)?;
    for (name, value) in changes {
        let Some(Value::String(text)) = &value.value else {
            return Err(Argument::EntryNull { name: name.clone() }.into());
        };
        match name.to_ascii_lowercase().as_str() {
            "allowedprimaryhostsystem" => text.clone_into(&mut entry.allowed_primary),
            "trustgroup" => text.clone_into(&mut entry.trust_group),
            "replicastoragelocation" => entry.storage_location = PathBuf::from(text),
            _ => return Err(Argument::EntryFixed { name: name.clone() }.into()),
        }
    }
    engine.replicas().modify_entry(entry).await
}

/// `RemoveAuthorizationEntry`, by the hosts that it admits.
pub async fn remove(tools: &Tools, call: &Call) -> Answer {
    let hosts = call
        .text("AllowedPrimaryHostSystem")
        .ok_or_else(|| Argument::Missing { parameter: "AllowedPrimaryHostSystem".to_owned() })?;
    let entry = of_hosts(tools, hosts)?;
    tools.engine.replicas().remove_entry(entry.id).await?;
    Ok(Done::default())
}

/// `SetAuthorizationEntry`: binds a replica to an entry.
pub async fn bind(tools: &Tools, call: &Call) -> Answer {
    let machine = call.machine(tools)?;
    let entry = named(tools, call.instance("AuthorizationEntry")?)?;
    tools.engine.replicas().bind(machine.id, entry.id).await?;
    Ok(Done::default())
}

fn named(tools: &Tools, data: &Instance) -> Result<AuthorizationEntry, Refusal> {
    if let Some(id) = text(data, "InstanceID") {
        let guid = ids::guid_in(id);
        let entries = tools.engine.replicas().entries();
        if let Some(entry) = entries.into_iter().find(|entry| Some(entry.id.0) == guid) {
            return Ok(entry);
        }
    }
    match text(data, "AllowedPrimaryHostSystem") {
        Some(hosts) => of_hosts(tools, hosts),
        None => Err(Argument::EntryUnnamed.into()),
    }
}

fn of_hosts(tools: &Tools, hosts: &str) -> Result<AuthorizationEntry, Refusal> {
    let entries = tools.engine.replicas().entries();
    let found = entries.into_iter().find(|entry| same_name(&entry.allowed_primary, hosts));
    found.ok_or_else(|| Missing::Entry { hosts: hosts.to_owned() }.into())
}

/// `ModifyServiceSettings`: what is null stays as it is.
pub async fn service_settings(tools: &Tools, call: &Call) -> Answer {
    let data = call.instance("SettingData")?;
    let before = tools.engine.service_settings();
    let mut settings = before;
    if let Some(Value::Boolean(on)) = data.value("RecoveryServerEnabled") {
        settings.recovery_server_enabled = *on;
    }
    if let Some(code) = number(data, "AllowedAuthenticationType")? {
        settings.authentication = service::authentication(code).ok_or(Argument::NotOneOf {
            value: code,
            kind: "AllowedAuthenticationType",
            choices: "2, certificates",
        })?;
    }
    if let Some(port) = number(data, "HttpsPort")? {
        settings.https_port = port;
    }
    match data.value("MonitoringStartTime") {
        None => {}
        Some(Value::Datetime(Datetime::Instant { at, .. })) => settings.monitoring.start = *at,
        Some(_) => return Err(Argument::MonitoringStart.into()),
    }
    match data.value("MonitoringInterval") {
        None => {}
        Some(Value::Uint32(seconds)) => settings.monitoring.length_s = *seconds,
        Some(_) => {
            let seconds = number(data, "MonitoringInterval")?;
            settings.monitoring.length_s = seconds.map_or(settings.monitoring.length_s, u32::from);
        }
    }
    if settings != before {
        tools.engine.modify_service_settings(settings).await?;
    }
    Ok(Done::default())
}
