//! `GetReplicationStatistics` and `ResetReplicationStatistics`, with and without the relationship named.

use super::call::Call;
use super::reason::{Argument, Method};
use super::{Answer, Done, Tools};
use crate::make::Out;
use crate::world::Machine;
use crate::{ids, replication};
use standin_cim::{Instance, Value};
use standin_model::Refusal;

/// The set of the window that lasts, then that of the last one; and why the health is not ok.
pub fn get(tools: &Tools, call: &Call) -> Answer {
    let machine = machine(tools, call)?;
    let found = machine.relationship.as_ref().ok_or_else(|| none(&machine))?;
    let sets = std::iter::once(&found.statistics.current).chain(found.statistics.last.as_ref());
    let statistics: Vec<Instance> = sets.map(|set| replication::statistics(&machine, found, set)).collect();
    let issues: Vec<Instance> = found.status.health_issues.iter().map(replication::issue).collect();
    let out = Out::default()
        .instances("ReplicationStatistics", statistics)
        .instances("ReplicationHealthIssues", issues);
    Ok(Done::with(out))
}

/// Counting begins anew.
pub async fn reset(tools: &Tools, call: &Call) -> Answer {
    let machine = machine(tools, call)?;
    tools.engine.reset_statistics(machine.id).await?;
    Ok(Done::default())
}

fn machine(tools: &Tools, call: &Call) -> Result<Machine, Refusal> {
    let machine = call.machine(tools)?;
    own_relationship(call, &machine)?;
    Ok(machine)
}

/// The relationship that an ...Ex method names, which must be the VM's own. There is one until extended replication:
/// `\HVR\0`.
pub fn own_relationship(call: &Call, machine: &Machine) -> Result<(), Refusal> {
    let Some(Value::Instance(instance)) = call.arguments.get("ReplicationRelationship") else {
        return Ok(());
    };
    let Some(Value::String(id)) = instance.value("InstanceID") else {
        return Err(Argument::Relationship.into());
    };
    let own = ids::guid_in(id) == Some(machine.id.0);
    if own && ids::after_guid(id).eq_ignore_ascii_case("HVR\\1") {
        return Err(Method::Extended.into());
    }
    if own && ids::after_guid(id).eq_ignore_ascii_case("HVR\\0") {
        return Ok(());
    }
    Err(Argument::OtherRelationship { vm: machine.name.clone(), id: id.clone() }.into())
}

fn none(machine: &Machine) -> Refusal {
    Method::NoRelationship { vm: machine.name.clone() }.into()
}
