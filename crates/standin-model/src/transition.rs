//! The one table that moves a relationship from state to state.
//!
//! ```text
//!            create        start           done
//! primary  0 ------> 1 -----------> 2 --------------> 3 <------> 7      suspend, resume
//!                    ^   cancelled  |                 |
//!                    +--------------+                 +--> 8 --> 3      retries exhausted, resume or retry
//!                                                     +--> 9 --> 10 --> 3   bitmaps lost, resynchronize
//!                                                     |    ^      |
//!                                                     |    +-----11     cancelled, suspended
//!                                                     +--> 4            prepared for a planned failover
//!
//! replica  0 -------------> 2 --> 3 | 7 | 8 --> 12 --> 5 --> 6          fail over, commit
//!                                 ^----------- before --+               failed or reverted: the state before
//! ```
//!
//! It is pure: the task that owns a relationship asks it before it does anything and stores the answer before
//! it acts on it. An event that the table does not know in a state is a defect of the caller and comes back as
//! a refusal. What an operator may ask for is decided earlier, by [`crate::request`].

pub(crate) mod reason;

use crate::codes::Refusal;
use crate::state::{ReplicationState as S, Side};
use std::fmt;

/// Everything that moves a relationship.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The relationship was made.
    Create,
    /// The initial replication begins; on the replica: begins to arrive.
    StartInitial,
    /// The initial replication is complete and the first recovery point is sealed.
    InitialDone,
    /// The initial replication was cancelled. What arrived stays on the replica and is compared later.
    InitialCancelled,
    /// An operator paused this side.
    Suspend,
    /// An operator resumed this side, the initial replication being complete. From a paused
    /// resynchronization the resynchronization goes on.
    Resume,
    /// An operator resumed, or a retry succeeded, while the initial replication is not complete: back to it.
    ResumeInitial,
    /// An operator asked for another attempt out of a critical state.
    ResumeFromCritical,
    /// A cycle failed and will be tried again: counted, the state stays.
    TransportFailed,
    /// It failed too often, or in a way that no retry mends.
    RetryExhausted,
    /// A cycle went through after failures, the initial replication being complete.
    RetrySucceeded,
    /// What changed since the last sealed epoch is no longer known, or the sides were found to differ.
    BitmapsLost,
    /// The replica has failed over while this primary still lives.
    PeerFailedOver,
    /// The resynchronization begins.
    StartResync,
    /// The sides are equal again.
    ResyncDone,
    /// An operator paused the resynchronization.
    ResyncSuspend,
    /// The resynchronization was cancelled or failed.
    ResyncCancelled,
    /// A failover begins. The caller keeps the state it began in.
    StartFailover,
    /// The failover overlay is in place.
    FailoverDone,
    /// The failover did not come about. `before` is the state it began in.
    FailoverFailed {
        /// The state that the caller kept at [`Event::StartFailover`].
        before: S,
    },
    /// The failover overlay was discarded. `before` is the state the failover began in.
    Revert {
        /// The state that the caller kept at [`Event::StartFailover`].
        before: S,
    },
    /// The failover became final.
    Commit,
    /// The VM is off, its last changes are on the replica, it is locked from starting.
    PrepareFailover,
    /// The prepared planned failover was called off.
    CancelPrepared,
    /// The roles swap after a planned failover: both sides replicate at once the other way round.
    ReversePlanned,
    /// The failed-over VM becomes a primary after an unplanned failover; it starts with state 1.
    ReverseUnplanned,
    /// The old primary becomes a replica that waits for an initial replication.
    BecomeReplica,
    /// A committed replica with an extended relationship leaves this one; the extended one goes on as first.
    BecomePrimary,
    /// The set of disks begins to change.
    DiskUpdateStarted,
    /// The set of disks has changed.
    DiskUpdateDone,
    /// The set of disks could not be changed.
    DiskUpdateFailed,
    /// The relationship ends on this side.
    Remove,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FailoverFailed { before } => write!(f, "FailoverFailed (before: {before})"),
            Self::Revert { before } => write!(f, "Revert (before: {before})"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// The state after `event`, on this side of a relationship that is in `state`.
///
/// # Errors
/// [`crate::ReturnCode::InvalidState`] when the table has no such step. Nothing has changed then.
pub fn transition(side: Side, state: S, event: Event) -> Result<S, Refusal> {
    let next = if side.receives() { on_replica(state, event) } else { on_primary(state, event) };
    next.ok_or_else(|| reason::NoStep::Misplaced { event, state, side }.into())
}

fn on_primary(state: S, event: Event) -> Option<S> {
    match (event, state) {
        (Event::Create, S::Disabled) | (Event::InitialCancelled, S::WaitingForInitialReplication) => {
            Some(S::ReadyForReplication)
        }
        (Event::StartInitial, S::ReadyForReplication)
        | (Event::BecomeReplica, S::Replicating | S::Suspended | S::Critical)
        | (Event::BecomeReplica, S::WaitingToStartResynchronization | S::ResynchronizationSuspended) => {
            Some(S::WaitingForInitialReplication)
        }
        (Event::PrepareFailover, S::Replicating) | (Event::PeerFailedOver, S::SyncedReplicationComplete) => {
            Some(S::SyncedReplicationComplete)
        }
        // The old primary of a planned failover goes on as the replica.
        (Event::CancelPrepared | Event::ReversePlanned, S::SyncedReplicationComplete) => Some(S::Replicating),
        // A paused relationship stays paused; the marks are looked at again when it is resumed.
        (Event::BitmapsLost, S::Suspended) => Some(S::Suspended),
        // The initial replication is a comparison with what arrived so far, so it can do without its mark.
        (Event::BitmapsLost, S::WaitingForInitialReplication) => Some(S::WaitingForInitialReplication),
        (Event::BitmapsLost, S::Replicating | S::Critical) => Some(S::WaitingToStartResynchronization),
        (Event::PeerFailedOver, S::WaitingForInitialReplication | S::Replicating)
        | (Event::PeerFailedOver, S::Suspended | S::Critical) => Some(S::Critical),
        _ => resynchronization(state, event).or_else(|| on_both(state, event)),
    }
}

/// Steps into, within and out of a resynchronization; only the sending side has them.
fn resynchronization(state: S, event: Event) -> Option<S> {
    match (event, state) {
        (Event::StartResync, S::WaitingToStartResynchronization | S::Suspended)
        | (Event::Resume, S::ResynchronizationSuspended)
        | (Event::TransportFailed | Event::RetrySucceeded, S::Resynchronizing) => Some(S::Resynchronizing),
        (Event::ResyncDone, S::Resynchronizing) => Some(S::Replicating),
        (Event::ResyncSuspend, S::Resynchronizing) => Some(S::ResynchronizationSuspended),
        // Whatever ends a comparison early leaves the need for one. A failover on the replica cancels it too.
        (
            Event::ResyncCancelled | Event::BitmapsLost | Event::PeerFailedOver,
            S::Resynchronizing | S::ResynchronizationSuspended | S::WaitingToStartResynchronization,
        )
        | (Event::RetryExhausted | Event::TransportFailed, S::WaitingToStartResynchronization) => {
            Some(S::WaitingToStartResynchronization)
        }
        // A comparison that fails in passing is tried again; one that no retry mends needs a person.
        (Event::RetryExhausted, S::Resynchronizing) => Some(S::Critical),
        // A connection that was closing when the operator paused.
        (Event::TransportFailed | Event::RetryExhausted, S::ResynchronizationSuspended) => Some(state),
        _ => None,
    }
}

fn on_replica(state: S, event: Event) -> Option<S> {
    match (event, state) {
        (Event::Create, S::Disabled)
        | (Event::StartInitial | Event::InitialCancelled, S::WaitingForInitialReplication) => {
            Some(S::WaitingForInitialReplication)
        }
        (Event::StartFailover, before) if before.can_fail_over() => Some(S::FailoverInProgress),
        (Event::FailoverDone, S::FailoverInProgress) => Some(S::Recovered),
        (Event::FailoverFailed { before }, S::FailoverInProgress)
        | (Event::Revert { before }, S::Recovered)
            if before.can_fail_over() =>
        {
            Some(before)
        }
        (Event::Commit, S::Recovered) => Some(S::Committed),
        // From here on this side is the primary.
        (Event::ReversePlanned, S::Recovered | S::Committed) => Some(S::Replicating),
        (Event::ReverseUnplanned, S::Recovered | S::Committed) => Some(S::ReadyForReplication),
        (Event::BecomePrimary, S::Committed) => Some(S::Disabled),
        _ => on_both(state, event),
    }
}

/// Steps that both sides have.
fn on_both(state: S, event: Event) -> Option<S> {
    match (event, state) {
        (Event::InitialDone | Event::ResumeInitial, S::WaitingForInitialReplication) => {
            Some(if event == Event::InitialDone { S::Replicating } else { state })
        }
        (Event::Suspend, S::WaitingForInitialReplication | S::Replicating | S::Critical | S::Suspended) => {
            Some(S::Suspended)
        }
        (Event::Resume, S::Suspended)
        | (Event::ResumeFromCritical | Event::RetrySucceeded, S::Critical)
        | (Event::RetrySucceeded, S::Replicating)
        | (Event::DiskUpdateDone, S::DiskUpdateInProgress) => Some(S::Replicating),
        (Event::ResumeInitial, S::Suspended | S::Critical) => Some(S::WaitingForInitialReplication),
        (Event::RetrySucceeded, S::WaitingForInitialReplication) => Some(state),
        // In states 7 and 8 it is the end of a cycle that was under way when the state changed.
        (
            Event::TransportFailed,
            S::WaitingForInitialReplication | S::Replicating | S::Suspended | S::Critical,
        ) => Some(state),
        (Event::RetryExhausted, S::WaitingForInitialReplication | S::Replicating | S::Critical) => {
            Some(S::Critical)
        }
        (Event::RetryExhausted, S::Suspended) => Some(S::Suspended),
        (Event::DiskUpdateStarted, S::Replicating)
        | (Event::DiskUpdateStarted | Event::ResumeFromCritical, S::DiskUpdateCritical) => {
            Some(S::DiskUpdateInProgress)
        }
        (Event::DiskUpdateFailed, S::DiskUpdateInProgress) => Some(S::DiskUpdateCritical),
        // While a failover runs its overlay is being made: it ends first.
        (Event::Remove, S::Disabled | S::FailoverInProgress) => None,
        (Event::Remove, _) => Some(S::Disabled),
        _ => None,
    }
}

/// The state to go on in when the daemon has restarted and found `state` stored, and, where that is another
/// one, why. `before_failover` is what the caller kept at [`Event::StartFailover`].
#[must_use]
pub fn after_restart(state: S, before_failover: Option<S>) -> (S, Option<&'static str>) {
    match state {
        S::Resynchronizing => (
            S::WaitingToStartResynchronization,
            Some(
                "the daemon restarted during the resynchronization; the next one sends only what still differs",
            ),
        ),
        // The overlay is made by rename at the end: before that nothing of the failover exists.
        S::FailoverInProgress => match before_failover.filter(|before| before.can_fail_over()) {
            Some(before) => (
                before,
                Some("the daemon restarted during the failover, which left nothing behind; start it again"),
            ),
            None => (
                S::Critical,
                Some(
                    "the daemon restarted during a failover and the state before it is not known; \
                      check the recovery points with `standin points` and fail over again",
                ),
            ),
        },
        S::DiskUpdateInProgress => (
            S::DiskUpdateCritical,
            Some("the daemon restarted while the set of disks changed; apply the disk set again"),
        ),
        S::FailbackInProgress | S::RepurposeInProgress | S::FiredrillInProgress => {
            (S::Critical, Some("the daemon restarted in a step that it does not know how to go on with"))
        }
        durable => (durable, None),
    }
}
