//! `InitiateFailover`, `RevertFailover`, `CommitFailover`: on the replica host. None of them starts the VM.

use super::call::{Call, point_of};
use super::{Answer, Done, Tools};

/// `InitiateFailover`: to a recovery point, or to the latest when none is given.
pub async fn initiate(tools: &Tools, call: &Call) -> Answer {
    let machine = call.machine(tools)?;
    let point = match call.point.clone()? {
        Some(id) => Some(point_of(tools, &machine, &id)?),
        None => None,
    };
    let job = tools.engine.failover(machine.id, point, false).await?;
    Ok(Done::job(Some(job)))
}

/// `RevertFailover`.
pub async fn revert(tools: &Tools, call: &Call) -> Answer {
    let machine = call.machine(tools)?;
    Ok(Done::job(Some(tools.engine.revert(machine.id).await?)))
}

/// `CommitFailover`.
pub async fn commit(tools: &Tools, call: &Call) -> Answer {
    let machine = call.machine(tools)?;
    Ok(Done::job(Some(tools.engine.commit(machine.id).await?)))
}
