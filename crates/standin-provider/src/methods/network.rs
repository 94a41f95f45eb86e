//! `SetFailoverNetworkAdapterSettings`: what a VM's network cards get at a failover.

use super::call::Call;
use super::reason::Argument;
use super::{Answer, Done, Tools};
use crate::ids;
use standin_cim::{Instance, Value};
use standin_model::network::{CimSettings, NetworkChange, ProtocolInterface};
use standin_model::{Refusal, ReturnCode};

/// All instances, or none of them. An instance without any address and without DHCP takes the settings away.
pub async fn set(tools: &Tools, call: &Call) -> Answer {
    // This method has no code for what is not found (its values end at 32778): the parameter is at fault.
    let machine = call.machine(tools).map_err(|refusal| match refusal.code {
        ReturnCode::FileNotFound => refusal.with_code(ReturnCode::InvalidParameter),
        _ => refusal,
    })?;
    let changes =
        call.instances("NetworkSettings")?.into_iter().map(change).collect::<Result<Vec<_>, _>>()?;
    tools.engine.set_network(machine.id, changes).await?;
    Ok(Done::default())
}

fn change(data: &Instance) -> Result<NetworkChange, Refusal> {
    let Some(Value::String(id)) = data.value("InstanceID") else {
        return Err(Argument::CardUnnamed.into());
    };
    let adapter = adapter_of(id)?;
    let dhcp = match data.value("DHCPEnabled") {
        Some(Value::Boolean(dhcp)) => dhcp,
        Some(_) => return Err(wrong("DHCPEnabled", "no boolean")),
        None => {
            return Err(Argument::DhcpUnsaid.into());
        }
    };
    if data.value("IPAddresses").is_none() {
        return Err(Argument::AddressesUnsaid.into());
    }
    let texts = |name: &str| texts(data, name);
    let protocol = super::relationship::number(data, "ProtocolIFType")?.unwrap_or_default();
    let protocol = ProtocolInterface::from_code(protocol).ok_or(Argument::NotOneOf {
        value: protocol,
        kind: "ProtocolIFType",
        choices: "4096 for IPv4, 4097 for IPv6, 4098 for both",
    })?;
    let cim = CimSettings {
        protocol,
        dhcp_enabled: *dhcp,
        ip_addresses: texts("IPAddresses")?,
        subnets: texts("Subnets")?,
        default_gateways: texts("DefaultGateways")?,
        dns_servers: texts("DNSServers")?,
    };
    let cleared = !cim.dhcp_enabled && cim.ip_addresses.is_empty();
    let settings = if cleared { None } else { Some(cim.to_settings()?) };
    Ok(NetworkChange { adapter: Some(adapter), settings })
}

/// The adapter of `Microsoft:<VM>\<adapter>\FailoverNetwork`.
fn adapter_of(id: &str) -> Result<String, Refusal> {
    let adapter = ids::after_guid(id).split('\\').next().unwrap_or_default();
    if adapter.parse::<uuid::Uuid>().is_err() {
        return Err(Argument::CardId { id: id.to_owned() }.into());
    }
    Ok(adapter.to_ascii_lowercase())
}

fn texts(data: &Instance, name: &str) -> Result<Vec<String>, Refusal> {
    match data.value(name) {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(values)) => values.iter().flatten().map(|value| one_text(name, value)).collect(),
        Some(_) => Err(wrong(name, "no array of texts")),
    }
}

fn one_text(name: &str, value: &Value) -> Result<String, Refusal> {
    match value {
        Value::String(text) => Ok(text.trim().to_owned()),
        _ => Err(wrong(name, "no array of texts")),
    }
}

fn wrong(name: &str, is: &'static str) -> Refusal {
    Argument::CardType { name: name.to_owned(), is }.into()
}
