//! What a refused request says: the state that was found and the way out of it, for whoever asked.

use super::Method;
use crate::codes::{Refusal, ReturnCode};
use crate::state::{ReplicationState as S, Side};

pub(super) fn shown(state: S) -> String {
    format!("{} ({state})", state.code())
}

pub(super) fn wrong_side(vm: &str, side: Side, state: S, method: Method) -> Refusal {
    let other = if side == Side::Primary { "replica" } else { "primary" };
    Refusal::new(
        ReturnCode::InvalidState,
        format!(
            "cannot {} here: this host holds the {side} of {vm}, in state {}",
            method.action(),
            shown(state)
        ),
        format!("Run it on the host that holds the {other}."),
    )
}

pub(super) fn wrong_state(vm: &str, side: Side, state: S, method: Method, states: &[S]) -> Refusal {
    if state == S::Disabled {
        return Refusal::new(
            ReturnCode::InvalidState,
            format!("cannot {}: {vm} does not replicate, its state is {}", method.action(), shown(state)),
            "Enable replication first, on the host where the VM runs: `standin replicate VM --to HOST`.",
        );
    }
    if method == Method::CreateReplicationRelationship {
        return Refusal::new(
            ReturnCode::InvalidState,
            format!(
                "cannot enable replication: {vm} replicates already, as {side} in state {}",
                shown(state)
            ),
            "See `standin status VM`; to set it up anew, remove the replication on both hosts first.",
        );
    }
    let message = format!("cannot {}: the {side} of {vm} is in state {}", method.action(), shown(state));
    let allowed: Vec<String> = states.iter().map(|allowed| shown(*allowed)).collect();
    let allowed = match allowed.as_slice() {
        [only] => format!("It can be done in state {only}."),
        many if many.len() > 6 => "It can be done before and after that step.".to_owned(),
        many => format!("It can be done in the states {}.", many.join(", ")),
    };
    Refusal::new(ReturnCode::InvalidState, message, format!("{} {allowed}", way_out(side, state, method)))
}

/// The first step out of `state`, for someone who wanted `method`.
fn way_out(side: Side, state: S, method: Method) -> &'static str {
    match state {
        S::Disabled => "Enable replication first.",
        S::ReadyForReplication => "Start the initial replication first.",
        S::WaitingForInitialReplication => {
            "Wait until the initial replication is complete; `standin status VM` shows how far it is."
        }
        S::Replicating if matches!(method, Method::RevertFailover | Method::CommitFailover) => {
            "There is no failover to end; start one with `standin failover VM`."
        }
        S::Replicating if method == Method::Resynchronize => {
            "The sides are in step; to compare them all the same, suspend the replication first."
        }
        S::Replicating => "The replication runs.",
        S::SyncedReplicationComplete => {
            "A planned failover is prepared; fail over on the replica, or call it off with `standin resume VM`."
        }
        S::Recovered => {
            "The VM is failed over; `standin failover VM --revert` undoes it, `standin failover VM --commit` ends it."
        }
        S::Committed => "The failover is final; reverse the replication or remove it.",
        S::Suspended if method == Method::RequestSuspend => "It is suspended already.",
        S::Suspended => "Resume it first with `standin resume VM`.",
        S::Critical if side == Side::Primary => {
            "See the last error in `standin status VM`, mend it, then `standin resume VM`."
        }
        S::Critical => "See the last error in `standin status VM`, mend it, then resume it.",
        S::WaitingToStartResynchronization => "Run `standin resync VM` first, or wait for the automatic one.",
        S::Resynchronizing => "Wait until the resynchronization is complete, or cancel its job.",
        S::ResynchronizationSuspended => "Resume it with `standin resume VM`, or cancel it.",
        S::FailoverInProgress => "Wait until the failover is complete; `standin jobs` shows how far it is.",
        S::FailbackInProgress | S::FailbackComplete => "End the failback first.",
        S::DiskUpdateInProgress => {
            "Wait until the set of disks is updated; `standin jobs` shows how far it is."
        }
        S::DiskUpdateCritical => {
            "See the last error in `standin status VM`, mend it, then `standin resume VM`."
        }
        S::Unknown => "Check the other host and the daemon's log.",
        S::RepurposeInProgress | S::FiredrillInProgress => "Wait until that step of the group is complete.",
        S::PreparedForSyncReplication | S::PreparedForGroupReverseReplication => {
            "End the step of the group first."
        }
    }
}
