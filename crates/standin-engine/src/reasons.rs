//! Every reason for which this crate refuses something, by room: for `docs/reasons.md`, and the test that keeps it true.

use crate::engine::reason::{Hypervisor, Operation};
use crate::error::WorkError;
use crate::jobs::reason::Job;
use crate::network::reason::Network;
use crate::peers::Silence;
use crate::peers::reason::Peer;
use crate::primary::reason::Primary;
use crate::records::reason::Record;
use crate::replica::reason::admission::{Admission, Entry};
use crate::replica::reason::failover::Failover;
use crate::replica::reason::receive::Receive;
use crate::replica::reason::storage::{Storage, Store};
use crate::vm::reason::Vm;
use standin_model::reason::Room;

/// The rooms of this crate.
pub const ROOMS: &[Room] = &[
    Room { title: "Operations on a VM", reasons: Operation::ALL },
    Room { title: "Errors of the hypervisor", reasons: Hypervisor::ALL },
    Room { title: "The VM's task", reasons: Vm::ALL },
    Room { title: "The primary", reasons: Primary::ALL },
    Room { title: "Work that failed", reasons: WorkError::ALL },
    Room { title: "Other hosts", reasons: Peer::ALL },
    Room { title: "Hosts that do not answer", reasons: Silence::ALL },
    Room { title: "Authorization at the replica", reasons: Entry::ALL },
    Room { title: "Admission at the replica", reasons: Admission::ALL },
    Room { title: "Receiving", reasons: Receive::ALL },
    Room { title: "Failover", reasons: Failover::ALL },
    Room { title: "Storage of a replica", reasons: Storage::ALL },
    Room { title: "Errors of the store", reasons: Store::ALL },
    Room { title: "Network settings at a failover", reasons: Network::ALL },
    Room { title: "Jobs", reasons: Job::ALL },
    Room { title: "Records", reasons: Record::ALL },
];
