//! Recovery points, as they are listed. The store keeps what belongs to them; retention, views and the
//! management API read this plain form.

use crate::ids::{Epoch, PointId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How the guest was at the instant of the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PointKind {
    /// As if the power had been cut: crash-consistent.
    Standard,
    /// Synced and frozen by the guest agent.
    ApplicationConsistent,
    /// Off, after a shutdown: the last point before a planned failover.
    Planned,
}

impl PointKind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 3] = [Self::Standard, Self::ApplicationConsistent, Self::Planned];

    /// `VirtualSystemType` of the point's `Msvm_VirtualSystemSettingData`.
    #[must_use]
    pub const fn virtual_system_type(self) -> &'static str {
        match self {
            Self::Standard => "Microsoft:Hyper-V:Snapshot:Replica:Standard",
            Self::ApplicationConsistent => "Microsoft:Hyper-V:Snapshot:Replica:ApplicationConsistent",
            Self::Planned => "Microsoft:Hyper-V:Snapshot:Replica:PlannedFailover",
        }
    }

    /// The kind of a `VirtualSystemType`, if it is one of a recovery point.
    #[must_use]
    pub fn from_virtual_system_type(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.virtual_system_type() == text)
    }

    /// The number in `FailedOverReplicationType` and `LastReplicationType`; 0 there means none.
    #[must_use]
    pub const fn replication_type(self) -> u16 {
        match self {
            Self::Standard => 1,
            Self::ApplicationConsistent => 2,
            Self::Planned => 3,
        }
    }

    /// The kind of a `FailedOverReplicationType` or `LastReplicationType`; `None` for 0 and unknown numbers.
    #[must_use]
    pub fn from_replication_type(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.replication_type() == number)
    }
}

impl fmt::Display for PointKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standard => "standard",
            Self::ApplicationConsistent => "application-consistent",
            Self::Planned => "planned",
        })
    }
}

/// A state of all disks of a VM at one cut, that the replica can fail over to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPoint {
    /// Chosen by the primary at the cut.
    pub id: PointId,
    /// The number of the cut; rises within a relationship.
    pub epoch: Epoch,
    /// The instant of the cut, by the primary's clock.
    pub created_at: Timestamp,
    /// When the replica had sealed it, by the replica's clock. The RPO counts from here.
    pub received_at: Timestamp,
    /// How the guest was.
    pub kind: PointKind,
    /// Bytes that changed since the point before, before compression and with zeros counted in full.
    pub changed_bytes: u64,
    /// Bytes its layers take on the replica's disks now; rises when older layers are merged into it.
    pub stored_bytes: u64,
    /// Hexadecimal digest over the deltas of all disks, as sender and receiver agreed on it.
    pub digest: String,
    /// Never removed by retention.
    pub pinned: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_both_cim_forms_and_json() {
        for kind in PointKind::ALL {
            assert_eq!(PointKind::from_virtual_system_type(kind.virtual_system_type()), Some(kind));
            assert_eq!(PointKind::from_replication_type(kind.replication_type()), Some(kind));
            let json = serde_json::to_string(&kind).expect("a unit variant");
            assert_eq!(serde_json::from_str::<PointKind>(&json).expect("own JSON"), kind);
        }
    }

    #[test]
    fn what_is_no_recovery_point_has_no_kind() {
        assert_eq!(PointKind::from_replication_type(0), None);
        assert_eq!(PointKind::from_replication_type(4), None);
        assert_eq!(PointKind::from_virtual_system_type("Microsoft:Hyper-V:Snapshot:Realized"), None);
    }

    #[test]
    fn json_uses_snake_case() {
        assert_eq!(
            serde_json::to_string(&PointKind::ApplicationConsistent).expect("unit"),
            "\"application_consistent\""
        );
    }
}
