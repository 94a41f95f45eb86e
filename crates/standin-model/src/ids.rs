//! Identifiers. Each is a newtype, so that an epoch cannot be passed where a generation is meant.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh random identifier.
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

uuid_id!(
    /// A virtual machine. The same on the primary and on the replica, as in the Hyper-V model.
    VmId
);
uuid_id!(
    /// A job, an `Msvm_ConcreteJob` of the management API.
    JobId
);
uuid_id!(
    /// A recovery point. Chosen by the primary at the cut, so both sides name it alike.
    PointId
);
uuid_id!(
    /// An authorization entry of a replica host.
    AuthId
);

uuid_id!(
    /// A host that runs the daemon. Made at its first start and kept with its data directory, so that it outlives
    /// certificates and names.
    HostId
);

impl HostId {
    /// The id of a host that tells none, as the version before does: the same for the same certificate name.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        Self(Uuid::new_v5(&Uuid::NAMESPACE_DNS, name.as_bytes()))
    }

    /// It was made of a name: the host has another one, or tells none.
    #[must_use]
    pub fn is_of_name(self) -> bool {
        self.0.get_version_num() == 5
    }
}

/// One direction of replication of one VM. The index is that of the management API's `\HVR\n`: 0 for the relationship
/// of the primary, 1 for that of an extended replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RelationshipId {
    /// Which VM.
    pub vm: VmId,
    /// Which of its relationships.
    pub index: u32,
}

impl RelationshipId {
    /// Every relationship of a VM, the first one first.
    #[must_use]
    pub fn all_of(vm: VmId) -> RangeInclusive<Self> {
        Self { vm, index: 0 }..=Self { vm, index: u32::MAX }
    }
}

impl fmt::Display for RelationshipId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.vm, self.index)
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// The number of a cut within a relationship. 0 is the first copy, which is no recovery point; the
    /// first cut is 1. It never repeats and never falls while the relationship lives.
    Epoch
);
counter!(
    /// Rises at every failover of a relationship. A host that speaks with an older one is refused: it has
    /// been away while the other side took over.
    Generation
);
