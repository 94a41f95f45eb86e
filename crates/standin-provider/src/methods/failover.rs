//! `InitiateFailover`, `RevertFailover`, `CommitFailover`: on the replica host. None of them starts the VM.

use super::call::{Call, point_of};
use super::{Answer, Done, Tools};
use standin_engine::replica::failover::Failover;
use standin_engine::vm::Asserts;

/// `InitiateFailover`: to a recovery point, or to the latest when none is given.
pub async fn initiate(tools: &Tools, call: &Call) -> Answer {
    let machine = call.machine(tools)?;
    let point = match call.point.clone()? {
        Some(id) => Some(point_of(tools, &machine, &id)?),
        None => None,
    };
    // A primary that is silent is taken to be down: whoever calls this says so.
    let failover = Failover { point, start: false, asserts: Asserts::IfSilent };
    let job = tools.engine.failover(machine.id, failover).await?;
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
