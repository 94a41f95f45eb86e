//! What a refused request says: the state that was found and the way out of it, for whoever asked.

use super::Method;
use crate::reason::{Reason, Text};
use crate::reasons;
use crate::state::{ReplicationState as S, Side};

reasons! {
    /// Why a method may not run now. A `vm` is "the VM", or "VM" and its name.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum NotNow {
        /// Failback is asked for, which belongs to an external replication provider.
        Failback => "failback_not_supported", NotSupported;
        /// This host holds the other side of the replication than the one that the method runs on.
        OtherSide { vm: String, side: Side, state: S, method: Method } => "other_side", InvalidState;
        /// The VM does not replicate.
        Disabled { vm: String, method: Method } => "replication_not_enabled", InvalidState;
        /// Replication is to be enabled where the VM replicates already.
        EnabledAlready { vm: String, side: Side, state: S } => "replication_enabled_already", InvalidState;
        /// The replication is in a state that does not allow the method.
        State { vm: String, side: Side, state: S, method: Method, allowed: &'static [S] } =>
            "replication_state", InvalidState;
        /// The replication is to be removed while an extended one depends on it.
        ExtendedDepends { vm: String, state: S } => "extended_depends", InvalidState;
        /// A replica is to become a primary without an extended replication that would go on.
        NoExtended { vm: String, state: S } => "no_extended", InvalidState;
    }
}

/// Why `method` may not run in `state`, where only the states in `allowed` let it.
pub(super) fn wrong_state(vm: String, side: Side, state: S, method: Method, allowed: &'static [S]) -> NotNow {
    if state == S::Disabled {
        NotNow::Disabled { vm, method }
    } else if method == Method::CreateReplicationRelationship {
        NotNow::EnabledAlready { vm, side, state }
    } else {
        NotNow::State { vm, side, state, method, allowed }
    }
}

impl Reason for NotNow {
    fn text(&self) -> Text {
        match self {
            Self::Failback => Text::new(
                "failback belongs to an external replication provider, and this host has none",
                "Reverse the replication after the failover, and fail over again in the other direction.",
            ),
            Self::OtherSide { vm, side, state, method } => {
                let other = if *side == Side::Primary { "replica" } else { "primary" };
                Text::new(
                    format!(
                        "cannot {} here: this host holds the {side} of {vm}, in state {}",
                        method.action(),
                        shown(*state)
                    ),
                    format!("Run it on the host that holds the {other}."),
                )
            }
            Self::Disabled { vm, method } => Text::new(
                format!(
                    "cannot {}: {vm} does not replicate, its state is {}",
                    method.action(),
                    shown(S::Disabled)
                ),
                "Enable replication first, on the host where the VM runs: `standin replicate VM --to HOST`.",
            ),
            Self::EnabledAlready { vm, side, state } => Text::new(
                format!(
                    "cannot enable replication: {vm} replicates already, as {side} in state {}",
                    shown(*state)
                ),
                "See `standin status VM`; to set it up anew, remove the replication on both hosts first.",
            ),
            Self::State { vm, side, state, method, allowed } => Text::new(
                format!("cannot {}: the {side} of {vm} is in state {}", method.action(), shown(*state)),
                format!("{} {}", way_out(*side, *state, *method), allowed_in(allowed)),
            ),
            Self::ExtendedDepends { vm, state } => Text::new(
                format!(
                    "cannot remove the replication of {vm} in state {}: an extended one depends on it",
                    shown(*state)
                ),
                "Remove the extended replication first.",
            ),
            Self::NoExtended { vm, state } => Text::new(
                format!(
                    "cannot make the replica of {vm} a primary in state {}: it has no extended replication",
                    shown(*state)
                ),
                "Reverse the replication, or remove it and run the VM on this host alone.",
            ),
        }
    }
}

fn shown(state: S) -> String {
    format!("{} ({state})", state.code())
}

fn allowed_in(states: &[S]) -> String {
    let allowed: Vec<String> = states.iter().map(|allowed| shown(*allowed)).collect();
    match allowed.as_slice() {
        [only] => format!("It can be done in state {only}."),
        many if many.len() > 6 => "It can be done before and after that step.".to_owned(),
        many => format!("It can be done in the states {}.", many.join(", ")),
    }
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
