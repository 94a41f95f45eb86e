//! May this method run now? Pure: a side, a state and a few facts give a yes or a refusal with the code of the
//! model, the state it found and the remedy. Every front end (command line, management API) and the engine ask
//! here before anything is recorded or touched.

use crate::codes::Refusal;
use crate::names::VmName;
use crate::state::{ReplicationState as S, Side};
use reason::NotNow;

pub(crate) mod reason;

/// The methods that are gated, by their names in `Msvm_ReplicationService`; the `Request…` ones are the values
/// of `RequestReplicationStateChange`, [`Method::TakePoint`] is standin's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "each is the method of its name; the table of replication-model.md says what it does"
)]
pub enum Method {
    ModifyServiceSettings,
    AddAuthorizationEntry,
    ModifyAuthorizationEntry,
    RemoveAuthorizationEntry,
    SetAuthorizationEntry,
    TestReplicationConnection,
    GetSystemCertificates,
    CreateReplicationRelationship,
    ModifyReplicationSettings,
    StartReplication,
    ImportInitialReplica,
    TestReplicaSystem,
    InitiateFailover,
    RevertFailover,
    CommitFailover,
    ReverseReplicationRelationship,
    ChangeReplicationModeToPrimary,
    RemoveReplicationRelationship,
    Resynchronize,
    GetReplicationStatistics,
    ResetReplicationStatistics,
    SetFailoverNetworkAdapterSettings,
    InitiateFailback,
    RequestCancelInitialReplication,
    RequestBecomeReplica,
    RequestResume,
    RequestPrepareFailover,
    RequestSuspend,
    RequestCancelResynchronization,
    TakePoint,
}

/// What a state alone does not tell. The default is the careful answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// The initial replication of this relationship was completed once, so there are recovery points.
    pub initial_done: bool,
    /// The VM on this host has an extended relationship beside this one.
    pub has_extended: bool,
}

/// Which side a method runs on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    Primary,
    Replica,
    Either,
}

struct Rule {
    runs_on: Where,
    states: &'static [S],
}

/// All states with a relationship in which no step of the daemon is under way that must end first.
const SETTLED: &[S] = &[
    S::ReadyForReplication,
    S::WaitingForInitialReplication,
    S::Replicating,
    S::SyncedReplicationComplete,
    S::Recovered,
    S::Committed,
    S::Suspended,
    S::Critical,
    S::WaitingToStartResynchronization,
    S::Resynchronizing,
    S::ResynchronizationSuspended,
    S::FailbackComplete,
    S::DiskUpdateCritical,
    S::Unknown,
    S::PreparedForSyncReplication,
    S::PreparedForGroupReverseReplication,
];

/// States whose settings can change: nothing is being failed over.
const MODIFIABLE: &[S] = &[
    S::ReadyForReplication,
    S::WaitingForInitialReplication,
    S::Replicating,
    S::Suspended,
    S::Critical,
    S::WaitingToStartResynchronization,
    S::ResynchronizationSuspended,
    S::DiskUpdateCritical,
];

/// Replica states with a complete initial replication in which recovery points are there to rehearse with.
const REHEARSABLE: &[S] = &[S::Replicating, S::Suspended, S::Critical, S::Recovered];

const FAILED_OVER: &[S] = &[S::Recovered, S::Committed];

impl Method {
    /// Every method, for tables and tests.
    pub const ALL: [Self; 30] = [
        Self::ModifyServiceSettings,
        Self::AddAuthorizationEntry,
        Self::ModifyAuthorizationEntry,
        Self::RemoveAuthorizationEntry,
        Self::SetAuthorizationEntry,
        Self::TestReplicationConnection,
        Self::GetSystemCertificates,
        Self::CreateReplicationRelationship,
        Self::ModifyReplicationSettings,
        Self::StartReplication,
        Self::ImportInitialReplica,
        Self::TestReplicaSystem,
        Self::InitiateFailover,
        Self::RevertFailover,
        Self::CommitFailover,
        Self::ReverseReplicationRelationship,
        Self::ChangeReplicationModeToPrimary,
        Self::RemoveReplicationRelationship,
        Self::Resynchronize,
        Self::GetReplicationStatistics,
        Self::ResetReplicationStatistics,
        Self::SetFailoverNetworkAdapterSettings,
        Self::InitiateFailback,
        Self::RequestCancelInitialReplication,
        Self::RequestBecomeReplica,
        Self::RequestResume,
        Self::RequestPrepareFailover,
        Self::RequestSuspend,
        Self::RequestCancelResynchronization,
        Self::TakePoint,
    ];

    /// The method behind a value of `RequestReplicationStateChange`.
    #[must_use]
    pub const fn from_requested_state(value: u16) -> Option<Self> {
        match value {
            1 => Some(Self::RequestCancelInitialReplication),
            2 => Some(Self::RequestBecomeReplica),
            3 => Some(Self::RequestResume),
            4 => Some(Self::RequestPrepareFailover),
            7 => Some(Self::RequestSuspend),
            9 => Some(Self::RequestCancelResynchronization),
            _ => None,
        }
    }

    /// What it does, to complete "cannot ..." in a sentence.
    #[must_use]
    pub const fn action(self) -> &'static str {
        match self {
            Self::ModifyServiceSettings => "change the service settings",
            Self::AddAuthorizationEntry => "add an authorization entry",
            Self::ModifyAuthorizationEntry => "change an authorization entry",
            Self::RemoveAuthorizationEntry => "remove an authorization entry",
            Self::SetAuthorizationEntry => "bind the VM to an authorization entry",
            Self::TestReplicationConnection => "test the connection",
            Self::GetSystemCertificates => "list certificates",
            Self::CreateReplicationRelationship => "enable replication",
            Self::ModifyReplicationSettings => "change the replication settings",
            Self::StartReplication => "start the initial replication",
            Self::ImportInitialReplica => "import an initial replica",
            Self::TestReplicaSystem => "start a test failover",
            Self::InitiateFailover => "fail over",
            Self::RevertFailover => "revert the failover",
            Self::CommitFailover => "commit the failover",
            Self::ReverseReplicationRelationship => "reverse the replication",
            Self::ChangeReplicationModeToPrimary => "make the replica a primary",
            Self::RemoveReplicationRelationship => "remove the replication",
            Self::Resynchronize => "resynchronize",
            Self::GetReplicationStatistics => "read statistics",
            Self::ResetReplicationStatistics => "reset statistics",
            Self::SetFailoverNetworkAdapterSettings => "set failover network settings",
            Self::InitiateFailback => "fail back",
            Self::RequestCancelInitialReplication => "cancel the initial replication",
            Self::RequestBecomeReplica => "turn the VM into a replica",
            Self::RequestResume => "resume the replication",
            Self::RequestPrepareFailover => "prepare a planned failover",
            Self::RequestSuspend => "suspend the replication",
            Self::RequestCancelResynchronization => "cancel the resynchronization",
            Self::TakePoint => "take a recovery point",
        }
    }

    /// The table of the model file. `None`: the method does not depend on a relationship.
    const fn rule(self) -> Option<Rule> {
        use Where::{Either, Primary, Replica};
        let (runs_on, states): (Where, &'static [S]) = match self {
            Self::ModifyServiceSettings
            | Self::AddAuthorizationEntry
            | Self::ModifyAuthorizationEntry
            | Self::RemoveAuthorizationEntry
            | Self::SetAuthorizationEntry
            | Self::TestReplicationConnection
            | Self::GetSystemCertificates
            | Self::InitiateFailback => return None,
            Self::CreateReplicationRelationship => (Either, &[S::Disabled]),
            Self::ModifyReplicationSettings => (Either, MODIFIABLE),
            Self::StartReplication => (Primary, &[S::ReadyForReplication]),
            Self::ImportInitialReplica => (Replica, &[S::WaitingForInitialReplication]),
            Self::TestReplicaSystem => (Replica, REHEARSABLE),
            Self::InitiateFailover => (Replica, &[S::Replicating, S::Suspended, S::Critical]),
            Self::RevertFailover | Self::CommitFailover => (Replica, &[S::Recovered]),
            Self::ReverseReplicationRelationship => (Replica, FAILED_OVER),
            Self::ChangeReplicationModeToPrimary => (Replica, &[S::Committed]),
            Self::RemoveReplicationRelationship => (Either, SETTLED),
            Self::Resynchronize => (Primary, &[S::WaitingToStartResynchronization, S::Suspended]),
            Self::GetReplicationStatistics
            | Self::ResetReplicationStatistics
            | Self::SetFailoverNetworkAdapterSettings => (Either, &S::ALL_ENABLED),
            Self::RequestCancelInitialReplication => (Primary, &[S::WaitingForInitialReplication]),
            Self::RequestBecomeReplica => (
                Primary,
                &[
                    S::Replicating,
                    S::Suspended,
                    S::Critical,
                    S::WaitingToStartResynchronization,
                    S::ResynchronizationSuspended,
                ],
            ),
            Self::RequestResume => (
                Either,
                &[
                    S::SyncedReplicationComplete,
                    S::Suspended,
                    S::Critical,
                    S::ResynchronizationSuspended,
                    S::DiskUpdateCritical,
                ],
            ),
            Self::RequestPrepareFailover | Self::TakePoint => (Primary, &[S::Replicating]),
            Self::RequestSuspend => {
                (Either, &[S::WaitingForInitialReplication, S::Replicating, S::Critical, S::Resynchronizing])
            }
            Self::RequestCancelResynchronization => (
                Primary,
                &[S::WaitingToStartResynchronization, S::Resynchronizing, S::ResynchronizationSuspended],
            ),
        };
        Some(Rule { runs_on, states })
    }
}

impl S {
    /// Every state with a relationship.
    const ALL_ENABLED: [S; 21] = {
        let mut states = [S::Unknown; 21];
        let mut index = 0;
        while index < states.len() {
            states[index] = S::ALL[index + 1];
            index += 1;
        }
        states
    };
}

/// May `method` run now, with nothing known but side and state? See [`request_with`].
///
/// # Errors
/// As [`request_with`] with [`Facts::default`].
pub fn request(side: Side, state: S, method: Method) -> Result<(), Refusal> {
    request_with(side, state, method, Facts::default())
}

/// May `method` run now on this side of a relationship in `state`? For a VM without a relationship the state
/// is [`S::Disabled`] and the side does not matter.
///
/// # Errors
/// [`crate::ReturnCode::InvalidState`] for the wrong state or side, [`crate::ReturnCode::NotSupported`] for what standin has
/// no provider for. The refusal names the state and the remedy.
pub fn request_with(side: Side, state: S, method: Method, facts: Facts) -> Result<(), Refusal> {
    decide("the VM", side, state, method, facts)
}

/// As [`request_with`], for a VM that the refusal calls by its name.
///
/// # Errors
/// As [`request_with`].
pub fn request_for(vm: &VmName, side: Side, state: S, method: Method, facts: Facts) -> Result<(), Refusal> {
    decide(&format!("VM {vm}"), side, state, method, facts)
}

fn decide(vm: &str, side: Side, state: S, method: Method, facts: Facts) -> Result<(), Refusal> {
    if method == Method::InitiateFailback {
        return Err(NotNow::Failback.into());
    }
    let Some(rule) = method.rule() else { return Ok(()) };
    // After a completed initial replication a replica that waits for another one still has its points.
    let points_while_waiting = state == S::WaitingForInitialReplication
        && facts.initial_done
        && matches!(method, Method::InitiateFailover | Method::TestReplicaSystem);
    let side_fits = match rule.runs_on {
        Where::Primary => side == Side::Primary,
        Where::Replica => side.receives(),
        Where::Either => true,
    };
    // The other host first: what the state allows here would mislead.
    if !side_fits && state.is_enabled() {
        return Err(NotNow::OtherSide { vm: vm.to_owned(), side, state, method }.into());
    }
    if !rule.states.contains(&state) && !points_while_waiting {
        return Err(reason::wrong_state(vm.to_owned(), side, state, method, rule.states).into());
    }
    check_extended(vm, side, state, method, facts)
}

fn check_extended(vm: &str, side: Side, state: S, method: Method, facts: Facts) -> Result<(), Refusal> {
    match method {
        Method::RemoveReplicationRelationship if facts.has_extended && side == Side::Replica => {
            Err(NotNow::ExtendedDepends { vm: vm.to_owned(), state }.into())
        }
        Method::ChangeReplicationModeToPrimary if !facts.has_extended => {
            Err(NotNow::NoExtended { vm: vm.to_owned(), state }.into())
        }
        _ => Ok(()),
    }
}
