//! Identifiers. Each is a newtype, so that an epoch cannot be passed where a generation is meant.

use serde::{Deserialize, Serialize};
use std::fmt;
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
