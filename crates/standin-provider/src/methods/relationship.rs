//! Making, changing, starting and ending relationships.

use super::call::Call;
use super::reason::{Argument, Method, Missing};
use super::statistics::own_relationship;
use super::{Answer, Done, Tools, disks};
use crate::replication::{BY_CERTIFICATE, PROVIDER, split};
use crate::world::Machine;
use standin_cim::{Datetime, Instance, Value, same_name};
use standin_engine::{Enable, Modification, Relationship};
use standin_model::Refusal;
use standin_model::settings::{DayWindow, RelationshipSettings, SettingsChange};

/// `InitialReplicationType`: over the network.
const OVER_THE_NETWORK: u16 = 1;
/// By export to a directory, and compared with what the replica has already.
const BY_EXPORT: u16 = 2;
const SEEDED: u16 = 3;

/// `CreateReplicationRelationship`: to state 1; `StartReplication` begins.
pub async fn create(tools: &Tools, call: &Call) -> Answer {
    let machine = call.machine(tools)?;
    let data = call.instance("ReplicationSettingData")?;
    if machine.is_replica() {
        return Err(Method::Extend { vm: machine.name.clone() }.into());
    }
    check_ways(tools, data)?;
    let peer = peer(tools, data)?;
    let defaults = RelationshipSettings::default();
    let settings = change(&machine, data, &defaults)?.applied_to(&defaults)?;
    let enabled = tools.engine.enable(machine.id, Enable { peer, settings, start: false }).await?;
    Ok(Done::job(enabled.job))
}

/// `ModifyReplicationSettings`: what is null stays as it is. Another `RecoveryConnectionPoint` or port is where the same
/// replica is found now.
pub async fn modify(tools: &Tools, call: &Call) -> Answer {
    let machine = call.machine(tools)?;
    let data = call.instance("ReplicationSettingData")?;
    check_ways(tools, data)?;
    let Some(found) = machine.relationship.as_ref() else {
        return Err(Method::NoRelationship { vm: machine.name.clone() }.into());
    };
    let settings = change(&machine, data, &found.settings)?;
    let peer = moved_to(tools, data, found)?;
    tools.engine.modify(machine.id, Modification { settings, peer, when_silent: None }).await?;
    Ok(Done::default())
}

/// Where the replica is, if the settings say so; host and port are each what they were when they are null.
fn moved_to(tools: &Tools, data: &Instance, found: &Relationship) -> Result<Option<String>, Refusal> {
    let host = text(data, "RecoveryConnectionPoint");
    let port = number(data, "RecoveryServerPortNumber")?.filter(|port| *port != 0);
    let Some(before) = found.status.peer.as_deref().filter(|_| host.is_some() || port.is_some()) else {
        return Ok(None);
    };
    let (old_host, old_port) = split(before, tools.site.port);
    let same_host = host.is_none_or(|host| same_name(host, old_host));
    let port = port.or(same_host.then_some(old_port));
    address(tools, host.unwrap_or(old_host), port).map(Some)
}

/// `StartReplication`.
pub async fn start(tools: &Tools, call: &Call) -> Answer {
    let machine = call.machine(tools)?;
    match call.number("InitialReplicationType") {
        Some(OVER_THE_NETWORK) => {}
        Some(BY_EXPORT | SEEDED) => {
            return Err(Method::Seed.into());
        }
        Some(other) => {
            return Err(Argument::NotOneOf {
                value: other,
                kind: "InitialReplicationType",
                choices: "1, over the network",
            }
            .into());
        }
        None => return Err(Argument::Missing { parameter: "InitialReplicationType".to_owned() }.into()),
    }
    let at = match call.arguments.get("StartTime") {
        None => None,
        Some(Value::Datetime(Datetime::Instant { at, .. })) => Some(*at),
        Some(_) => return Err(Argument::StartTime.into()),
    };
    let job = tools.engine.start_replication(machine.id, at).await?;
    Ok(Done::job(Some(job)))
}

/// `RemoveReplicationRelationship`, and the form that names it.
pub async fn remove(tools: &Tools, call: &Call) -> Answer {
    let machine = call.machine(tools)?;
    own_relationship(call, &machine)?;
    tools.engine.remove(machine.id).await?;
    Ok(Done::default())
}

/// `TestReplicationConnection`.
pub async fn test_connection(tools: &Tools, call: &Call) -> Answer {
    let host = call
        .text("RecoveryConnectionPoint")
        .ok_or_else(|| Argument::Missing { parameter: "RecoveryConnectionPoint".to_owned() })?;
    authentication(call.number("AuthenticationType"))?;
    thumbprint(tools, call.text("CertificateThumbPrint"))?;
    let peer = address(tools, host, call.number("RecoveryServerPortNumber"))?;
    tools.engine.test_connection(&peer).await?;
    Ok(Done::default())
}

/// How hosts prove who they are: certificates, whatever else a client asks for.
fn check_ways(tools: &Tools, data: &Instance) -> Result<(), Refusal> {
    authentication(number(data, "AuthenticationType")?)?;
    thumbprint(tools, text(data, "CertificateThumbPrint"))?;
    match text(data, "ReplicationProvider") {
        Some(provider) if !provider.to_ascii_uppercase().contains(PROVIDER) => {
            Err(Method::Provider { provider: provider.to_owned() }.into())
        }
        _ => Ok(()),
    }
}

fn authentication(kind: Option<u16>) -> Result<(), Refusal> {
    match kind {
        // Null, and the 0 that a fresh instance has.
        None | Some(0 | BY_CERTIFICATE) => Ok(()),
        Some(1) => Err(Method::Kerberos.into()),
        Some(other) => {
            Err(Argument::NotOneOf { value: other, kind: "AuthenticationType", choices: "2, certificates" }
                .into())
        }
    }
}

/// A client may name the certificate; it is the host's one, or it is not here.
fn thumbprint(tools: &Tools, wanted: Option<&str>) -> Result<(), Refusal> {
    let Some(wanted) = wanted else { return Ok(()) };
    let own = tools.thumbprint.of(&tools.site);
    let plain: String = wanted.chars().filter(char::is_ascii_hexdigit).collect();
    if own.as_deref().is_some_and(|own| same_name(own, &plain)) {
        return Ok(());
    }
    Err(Missing::Thumbprint { wanted: wanted.to_owned() }.into())
}

fn peer(tools: &Tools, data: &Instance) -> Result<String, Refusal> {
    let host = text(data, "RecoveryConnectionPoint").or_else(|| text(data, "RecoveryHostSystem"));
    let host = host.ok_or(Argument::NoConnectionPoint)?;
    address(tools, host, number(data, "RecoveryServerPortNumber")?)
}

/// `host:port`; a port of null or 0 is the usual one. A host with a port of its own is taken as it is.
fn address(tools: &Tools, host: &str, port: Option<u16>) -> Result<String, Refusal> {
    let sane = host.len() <= 255 && host.chars().all(|c| c.is_ascii_graphic() && !"/\\@\"'".contains(c));
    if !sane {
        return Err(Argument::Host { host: host.to_owned() }.into());
    }
    let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
    let (host, given) = if is_v6 { (host, 0) } else { split(host, 0) };
    let port = match port {
        Some(port) if port != 0 => port,
        _ if given != 0 => given,
        _ => tools.site.port,
    };
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// What an instance says of the settings: null changes nothing.
fn change(
    machine: &Machine,
    data: &Instance,
    before: &RelationshipSettings,
) -> Result<SettingsChange, Refusal> {
    let count = |name: &str| number(data, name).map(|found| found.map(u32::from));
    let flag = |name: &str| match data.value(name) {
        Some(Value::Boolean(on)) => Some(*on),
        _ => None,
    };
    Ok(SettingsChange {
        interval_s: count("ReplicationInterval")?,
        history: count("RecoveryHistory")?,
        application_consistent_hours: count("ApplicationConsistentSnapshotInterval")?,
        compression: flag("CompressionEnabled"),
        auto_resync: flag("AutoResynchronizeEnabled"),
        auto_resync_window: Some(window(data, before.auto_resync_window)?),
        disks: disks::included(machine, data)?,
        ..SettingsChange::default()
    })
}

/// When a resynchronization may begin by itself: both midnight is the whole day, null changes nothing.
fn window(data: &Instance, before: Option<DayWindow>) -> Result<DayWindow, Refusal> {
    let time = |name: &str, before: u32| match data.value(name) {
        None => Ok(before),
        Some(Value::Datetime(Datetime::Interval { microseconds })) => {
            // What does not fit is out of range; `validate` says so.
            Ok(u32::try_from(microseconds / 1_000_000).unwrap_or(u32::MAX))
        }
        Some(_) => Err(Argument::TimeOfDay { name: name.to_owned() }),
    };
    let held = before.unwrap_or(DayWindow::ANY_TIME);
    Ok(DayWindow {
        start_s: time("AutoResynchronizeIntervalStart", held.start_s)?,
        end_s: time("AutoResynchronizeIntervalEnd", held.end_s)?,
    })
}

/// A text of an instance; `None` when it is null or empty.
pub fn text<'a>(data: &'a Instance, name: &str) -> Option<&'a str> {
    match data.value(name) {
        Some(Value::String(text)) if !text.trim().is_empty() => Some(text.trim()),
        _ => None,
    }
}

/// A number of an instance. Embedded instances carry their types with them, and clients get them wrong.
pub fn number(data: &Instance, name: &str) -> Result<Option<u16>, Refusal> {
    let number: i128 = match data.value(name) {
        None => return Ok(None),
        Some(Value::Uint8(number)) => i128::from(*number),
        Some(Value::Uint16(number)) => i128::from(*number),
        Some(Value::Uint32(number)) => i128::from(*number),
        Some(Value::Uint64(number)) => i128::from(*number),
        Some(Value::Sint8(number)) => i128::from(*number),
        Some(Value::Sint16(number)) => i128::from(*number),
        Some(Value::Sint32(number)) => i128::from(*number),
        Some(Value::Sint64(number)) => i128::from(*number),
        Some(_) => {
            return Err(Argument::NoNumber { name: name.to_owned(), class: data.class.to_string() }.into());
        }
    };
    u16::try_from(number).map(Some).map_err(|_| Argument::OutOfRange { name: name.to_owned(), number }.into())
}
