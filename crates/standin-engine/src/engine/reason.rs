//! Why the engine refuses an operation on a VM of this host, and what a hypervisor's error means to whoever asked.

use crate::error::{chain, out_of_memory};
use standin_hypervisor::Error;
use standin_model::reason::{Reason, Text};
use standin_model::reasons;
use standin_model::state::{ReplicationState, Side};
use standin_model::{DiskName, HostId, VmId, VmName};

reasons! {
    /// Why the engine refuses an operation on a VM of this host.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Operation {
        /// A VM is to be defined by the UUID of a replica on this host.
        UuidOfReplica { vm: VmName } => "uuid_of_replica", InUse;
        /// A VM is to be defined by the name of another VM that this host sends or receives.
        NameOfAnother { name: VmName, id: VmId, side: Side } => "name_of_another_vm", InUse;
        /// Replication is to be enabled for a VM that this host sends already.
        Replicates { vm: VmName, peer: String } => "replicates_already", InvalidState;
        /// Replication is to be enabled for a VM that is a replica on this host.
        IsReplica { vm: VmName, of: String } => "vm_is_replica", InvalidState;
        /// The VM has no disk of that name.
        UnknownDisk { vm: VmName, disk: DiskName } => "unknown_disk", FileNotFound;
        /// A disk cannot replicate: it is read-only, or of a kind that standin does not read.
        DiskUnfit { vm: VmName, disk: DiskName, problem: String } => "disk_cannot_replicate", InvalidParameter;
        /// The VM has no disk that could replicate.
        NoDisk { vm: VmName } => "no_disk_to_replicate", InvalidParameter;
        /// No VM of that name is known on this host.
        UnknownVm { name: VmName } => "unknown_vm", FileNotFound;
        /// Several VMs on this host have that name.
        Ambiguous { name: VmName, count: usize } => "vm_name_ambiguous", InvalidParameter;
        /// The verb belongs to the primary host, and this host receives the VM.
        Received { vm: VmName } => "vm_is_received_here", InvalidState;
        /// The VM has no replication relationship on this host.
        NotReplicating { vm: String } => "vm_does_not_replicate", InvalidState;
        /// A VM is to be forgotten that still has a replication relationship.
        Related { vm: VmName } => "vm_replicates", InUse;
        /// A VM is to be started that is prepared for a planned failover.
        Prepared { vm: VmName } => "failover_is_prepared", InvalidState;
        /// A replica is to be started that has not failed over.
        NotFailedOver { vm: VmName, state: ReplicationState } => "replica_not_failed_over", InvalidState;
        /// A host is to become another one that is the same, or either of them is this host.
        SameHost { old: HostId, new: HostId } => "rebind_to_same_host", InvalidParameter;
        /// An initial replication is planned for later than in seven days.
        TooFarAhead => "start_too_far_ahead", InvalidParameter;
        /// An initial replication was started, and its job is not known.
        JobLost => "initial_replication_job_unknown", StatusUnknown;
        /// A defect of standin ended the operation.
        Defect => "operation_defect", Failed;
    }
}

impl Reason for Operation {
    fn text(&self) -> Text {
        match self {
            Self::UuidOfReplica { vm } => Text::new(
                format!("VM {vm} is a replica on this host"),
                "Give the new VM another UUID, or remove the replica first.",
            ),
            Self::NameOfAnother { name, id, side } => Text::new(
                format!("the VM {id}, which has a replication relationship on this host, is called {name}"),
                match side {
                    Side::Primary => format!(
                        "If this is that VM, write `uuid = \"{id}\"` into its definition. Else choose another name, or \
                         end that replication with `standin unreplicate {id}`."
                    ),
                    _ => format!(
                        "Choose another name, or give that replica another one: `standin rename {id} NAME`."
                    ),
                },
            ),
            Self::Replicates { vm, peer } => Text::new(
                format!("VM {vm} already replicates to {peer}"),
                "`standin status` shows it; remove it first with `standin unreplicate VM`.",
            ),
            Self::IsReplica { vm, of } => Text::new(
                format!("VM {vm} is a replica of {of}"),
                "Commit its failover and remove the replica relationship (`standin unreplicate VM`) first.",
            ),
            Self::UnknownDisk { vm, disk } => {
                Text::new(format!("VM {vm} has no disk {disk}"), "`standin vm show VM` lists its disks.")
            }
            Self::DiskUnfit { vm, disk, problem } => Text::new(
                format!("disk {disk} of VM {vm} cannot replicate: {problem}"),
                "Mend that, or name the disks that are to replicate with --disks.",
            ),
            Self::NoDisk { vm } => {
                Text::new(format!("VM {vm} has no disk that could replicate"), "Give it a raw or qcow2 disk.")
            }
            Self::UnknownVm { name } => Text::new(
                format!("there is no VM {name} on this host"),
                "`standin vm list` and `standin status` show what is here.",
            ),
            Self::Ambiguous { name, count } => Text::new(
                format!("{count} VMs on this host are called {name}"),
                "Name the VM by its UUID; `standin status --json` shows it.",
            ),
            Self::Received { vm } => {
                Text::new(format!("VM {vm} is received here, not sent"), "Use this verb on its primary host.")
            }
            Self::NotReplicating { vm } => Text::new(
                format!("VM {vm} does not replicate"),
                "Enable its replication with `standin replicate VM --to HOST`.",
            ),
            Self::Related { vm } => Text::new(
                format!("VM {vm} has a replication relationship"),
                "Remove that first: `standin unreplicate VM`.",
            ),
            Self::Prepared { vm } => Text::new(
                format!("VM {vm} is prepared for a planned failover"),
                "Call it off with `standin resume VM`, or fail over on the replica host.",
            ),
            Self::NotFailedOver { vm, state } => Text::new(
                format!("VM {vm} is a replica in state {state}"),
                "Fail over first: `standin failover VM --start`.",
            ),
            Self::SameHost { old, new } => Text::new(
                format!(
                    "the host {old} cannot become the host {new} here: they are the same, or one is this host"
                ),
                "Name the id of before and the one of now, as `standin peer list` shows them.",
            ),
            Self::TooFarAhead => Text::new(
                "an initial replication can be planned for the next seven days, not later",
                "Give a start time at most seven days ahead, or none to start now.",
            ),
            Self::JobLost => Text::new(
                "the initial replication was started, but its job is not known",
                "Look at `standin jobs`.",
            ),
            Self::Defect => Text::new(
                "the operation ended by a defect of standin",
                "Look at `standin status` for what is done of it, and at the daemon's log; please report it.",
            ),
        }
    }
}

reasons! {
    /// What a hypervisor's error means to whoever asked: its text, by what a program can do about it.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Hypervisor {
        /// The hypervisor knows no such VM or disk.
        Unknown(Text) => "hypervisor_knows_none", FileNotFound;
        /// The VM runs where it must be off, or its UUID or name belongs to another VM.
        InUse(Text) => "hypervisor_in_use", InUse;
        /// The VM is off where it must run, or somebody else starts and stops it.
        State(Text) => "hypervisor_vm_state", InvalidState;
        /// This hypervisor, or this version of it, cannot do it.
        Unsupported(Text) => "hypervisor_unsupported", NotSupported;
        /// The hypervisor did not do it in time.
        Timeout(Text) => "hypervisor_timeout", Timeout;
        /// The definition of the VM or one of its disks cannot be used as it is.
        Definition(Text) => "hypervisor_definition", InvalidParameter;
        /// The host had no memory for it.
        OutOfMemory(Text) => "hypervisor_out_of_memory", OutOfMemory;
        /// The hypervisor failed otherwise.
        Failed(Text) => "hypervisor_failed", Failed;
        /// The hypervisor cannot say how the VM is.
        Unclear(Text) => "hypervisor_unclear", StatusUnknown;
    }
}

impl Hypervisor {
    /// What the error of a call means.
    pub(crate) fn of(error: &Error) -> Self {
        let text = Text::new(chain(error), error.remedy());
        match error {
            Error::UnknownVm(_) | Error::UnknownDisk { .. } => Self::Unknown(text),
            Error::AlreadyRunning(_) | Error::AlreadyDefined { .. } | Error::VmExists(_) => Self::InUse(text),
            Error::NotRunning(_) | Error::Adopted { .. } => Self::State(text),
            Error::Unsupported { .. } => Self::Unsupported(text),
            Error::Timeout { .. } => Self::Timeout(text),
            Error::Definition { .. } | Error::DiskProblem { .. } => Self::Definition(text),
            Error::Io { source, .. } if out_of_memory(source) => Self::OutOfMemory(text),
            _ => Self::Failed(text),
        }
    }

    /// The same of an error of `inspect`: unless the hypervisor knows that the VM is not there, it cannot say how the VM is.
    pub(crate) fn of_inspect(error: &Error) -> Self {
        match Self::of(error) {
            Self::Failed(Text { message, remedy }) => Self::Unclear(Text {
                message: format!("the hypervisor cannot say how the VM is: {message}"),
                remedy,
            }),
            known => known,
        }
    }
}

impl Reason for Hypervisor {
    fn text(&self) -> Text {
        match self {
            Self::Unknown(text)
            | Self::InUse(text)
            | Self::State(text)
            | Self::Unsupported(text)
            | Self::Timeout(text)
            | Self::Definition(text)
            | Self::OutOfMemory(text)
            | Self::Failed(text)
            | Self::Unclear(text) => text.clone(),
        }
    }
}
