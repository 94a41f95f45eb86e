//! Methods of `Msvm_VirtualSystemSnapshotService`. Recovery points are made by replication; one can be removed here.

use super::call::Call;
use super::reason::{Argument, Method, Missing};
use super::{Answer, Done, Tools, not_here};
use crate::{ids, world};
use standin_cim::Narrow;
use standin_model::PointId;

/// Calls a method of the service.
pub async fn service(tools: &Tools, call: &Call) -> Answer {
    match call.method.as_str() {
        "DestroySnapshot" => destroy(tools, call).await,
        "CreateSnapshot" => Err(Method::CreateSnapshot.into()),
        method => Err(not_here("Msvm_VirtualSystemSnapshotService", method)),
    }
}

/// `DestroySnapshot`: removes one recovery point.
async fn destroy(tools: &Tools, call: &Call) -> Answer {
    let path = call.reference("AffectedSnapshot")?;
    let id = ids::key_text(path, "InstanceID")
        .ok_or_else(|| Argument::Missing { parameter: "AffectedSnapshot".to_owned() })?;
    let unknown = || Missing::Point { id: id.to_owned() };
    let guid = ids::guid_in(id).ok_or_else(unknown)?;
    let machines = world::machines(&tools.engine, &Narrow::default());
    let owner = machines
        .iter()
        .find(|machine| world::points(&tools.engine, machine).iter().any(|point| point.id.0 == guid));
    let owner = owner.ok_or_else(unknown)?;
    tools.engine.remove_point(owner.id, PointId(guid)).await?;
    Ok(Done::default())
}
