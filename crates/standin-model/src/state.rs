//! The states of a replication relationship and the roles of hosts and VMs in it, with the numbers of the
//! Hyper-V replication API. How one state leads to another is [`crate::transition`]; what may be asked for in
//! which state is [`crate::request`].

use crate::coded::coded;
use serde::{Deserialize, Serialize};
use std::fmt;

pub use crate::request::{Facts, Method, request, request_for, request_with};
pub use crate::transition::{Event, after_restart, transition};

coded! {
    /// `ReplicationState` of a relationship, as one of its two sides sees it.
    pub enum ReplicationState {
        /// No relationship.
        Disabled = 0, "Disabled";
        /// Primary: the relationship is made, the initial replication was not started.
        ReadyForReplication = 1, "Ready for replication";
        /// The initial replication runs, or, on the replica, is awaited.
        WaitingForInitialReplication = 2, "Waiting to complete initial replication";
        /// Cycle after cycle.
        Replicating = 3, "Replicating";
        /// Primary: last changes sent, the VM is locked from starting. Prepared for a planned failover.
        SyncedReplicationComplete = 4, "Synced replication complete";
        /// Replica: failed over, not committed.
        Recovered = 5, "Recovered";
        /// Replica: the failover is committed.
        Committed = 6, "Committed";
        /// Paused on request.
        Suspended = 7, "Suspended";
        /// Needs an administrator or a successful retry.
        Critical = 8, "Critical";
        /// Primary: what changed is no longer known, the sides must be compared.
        WaitingToStartResynchronization = 9, "Waiting to start resynchronization";
        /// Primary: the sides are being compared and what differs is sent.
        Resynchronizing = 10, "Resynchronizing";
        /// Primary: the comparison is paused.
        ResynchronizationSuspended = 11, "Resynchronization suspended";
        /// Replica: a failover runs.
        FailoverInProgress = 12, "Failover in progress";
        /// Recovery VM of an external provider.
        FailbackInProgress = 13, "Failback in progress";
        /// Recovery VM of an external provider.
        FailbackComplete = 14, "Failback complete";
        /// The set of disks is being changed.
        DiskUpdateInProgress = 15, "Disk update in progress";
        /// The set of disks could not be changed.
        DiskUpdateCritical = 16, "Disk update critical";
        /// Not known.
        Unknown = 17, "Unknown";
        /// Groups: the replica is being made fit for another purpose.
        RepurposeInProgress = 18, "Repurpose in progress";
        /// Groups: ready for synchronous replication.
        PreparedForSyncReplication = 19, "Prepared for sync replication";
        /// Groups: ready to be reversed.
        PreparedForGroupReverseReplication = 20, "Prepared for group reverse replication";
        /// Groups: a rehearsal runs.
        FiredrillInProgress = 21, "Firedrill in progress";
    }
}

coded! {
    /// `ReplicationMode` of a VM: what it is to the host it is on.
    pub enum ReplicationMode {
        /// It does not replicate.
        None = 0, "None";
        /// It runs here and is sent elsewhere.
        Primary = 1, "Primary";
        /// It is received here.
        Replica = 2, "Replica";
        /// It was made from a recovery point for a rehearsal.
        TestReplica = 3, "Test replica";
        /// It is received here from a replica.
        ExtendedReplica = 4, "Extended replica";
    }
}

/// The role of this host in one relationship. On the middle host of a chain A to B to C the VM has mode
/// [`ReplicationMode::Replica`]; in the relationship from A it is `Replica`, in the one to C it is the sending
/// side, which is `Primary` here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Sends.
    Primary,
    /// Receives.
    Replica,
    /// Receives from a replica.
    ExtendedReplica,
}

impl Side {
    /// Every side, for tables and tests.
    pub const ALL: [Self; 3] = [Self::Primary, Self::Replica, Self::ExtendedReplica];

    /// It receives.
    #[must_use]
    pub const fn receives(self) -> bool {
        matches!(self, Self::Replica | Self::ExtendedReplica)
    }

    /// The mode of a VM whose first relationship has this side.
    #[must_use]
    pub const fn mode(self) -> ReplicationMode {
        match self {
            Self::Primary => ReplicationMode::Primary,
            Self::Replica => ReplicationMode::Replica,
            Self::ExtendedReplica => ReplicationMode::ExtendedReplica,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::ExtendedReplica => "extended replica",
        })
    }
}

impl ReplicationState {
    /// There is a relationship.
    #[must_use]
    pub const fn is_enabled(self) -> bool {
        !matches!(self, Self::Disabled)
    }

    /// A step of the daemon is under way in this state, so a restart leaves it: see [`after_restart`].
    #[must_use]
    pub const fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Resynchronizing
                | Self::FailoverInProgress
                | Self::FailbackInProgress
                | Self::DiskUpdateInProgress
                | Self::RepurposeInProgress
                | Self::FiredrillInProgress
        )
    }

    /// A failover can have begun in this state, so a failed or reverted one leads back to it.
    #[must_use]
    pub const fn can_fail_over(self) -> bool {
        matches!(
            self,
            Self::WaitingForInitialReplication | Self::Replicating | Self::Suspended | Self::Critical
        )
    }

    /// The VM on the replica is the live one: the replica takes nothing more from the old primary.
    #[must_use]
    pub const fn is_failed_over(self) -> bool {
        matches!(self, Self::FailoverInProgress | Self::Recovered | Self::Committed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coded::check_coded;

    #[test]
    fn every_state_and_mode_has_its_number_name_and_json() {
        check_coded!(ReplicationState);
        check_coded!(ReplicationMode);
        assert_eq!(ReplicationState::ALL.len(), 22);
        assert_eq!(ReplicationState::from_code(21), Some(ReplicationState::FiredrillInProgress));
        assert_eq!(ReplicationMode::from_code(4), Some(ReplicationMode::ExtendedReplica));
    }

    #[test]
    fn names_are_the_words_of_the_model() {
        assert_eq!(
            ReplicationState::from_code(2).map(|s| s.to_string()).as_deref(),
            Some("Waiting to complete initial replication")
        );
        assert_eq!(
            ReplicationState::from_code(9).map(|s| s.to_string()).as_deref(),
            Some("Waiting to start resynchronization")
        );
    }
}
