//! Why a method is refused before the engine is asked: what this host has no provider for, what is not here, and, in
//! [`argument`], what is wrong with the arguments.

pub(crate) mod argument;

use super::call::cut;
pub(super) use argument::Argument;
use standin_model::reason::{Reason, Text};
use standin_model::{ReplicationState, VmId, reasons};

const METHODS: &str = "See the list of methods in docs/management-api.md.";
const SEE_WHAT_IS_HERE: &str =
    "Enumerate Msvm_ComputerSystem and Msvm_VirtualSystemSettingData to see what is here.";

reasons! {
    /// Why a method is not run: this host does not have it, or the VM is not in the state for it.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Method {
        /// The role of the user does not include the method.
        Role { user: String, role: &'static str, method: String } => "role_may_not_call", AccessDenied;
        /// A defect of standin ended the method.
        Defect => "method_defect", StatusUnknown;
        /// The method belongs to something that this version does not have, as test failovers.
        Later { method: String, what: &'static str } => "method_not_done", NotSupported;
        /// The method is declared and has nothing behind it on this host.
        NotHere { class: String, method: String } => "method_not_supported", NotSupported;
        /// Recovery points are made by replication, not by `CreateSnapshot`.
        CreateSnapshot => "create_snapshot_not_supported", NotSupported;
        /// Planned failover, or becoming a replica, is requested.
        Planned => "planned_failover_not_supported", NotSupported;
        /// A state of power is requested that this host does not have.
        PowerState { state: u16 } => "power_state_not_supported", NotSupported;
        /// The VM is in the requested state of power already, or cannot get there.
        Power { vm: String, is: &'static str } => "power_state_wrong", InvalidState;
        /// A replica is to be started that has not failed over.
        Replica { vm: String, state: ReplicationState } => "start_of_a_replica", InvalidState;
        /// A VM is to be started that has failed over to the replica host.
        FailedOver { vm: String } => "start_of_a_failed_over_vm", InvalidState;
        /// A relationship is to be made for a replica.
        Extend { vm: String } => "extended_replication_not_supported", NotSupported;
        /// The relationship named is an extended one.
        Extended => "extended_relationship_not_supported", NotSupported;
        /// The VM has no relationship.
        NoRelationship { vm: String } => "no_relationship", InvalidState;
        /// Initial replication by export, or from a seed, is requested.
        Seed => "initial_replication_type_not_supported", NotSupported;
        /// A replication provider is named that this host does not have.
        Provider { provider: String } => "unknown_replication_provider", NotSupported;
        /// Hosts are to authenticate each other by Kerberos.
        Kerberos => "kerberos_between_hosts", NotSupported;
        /// A VM is to be defined by the UUID of one that is here.
        Exists { id: VmId } => "uuid_taken", InUse;
        /// A resource of a class is defined that is not taken here.
        Resource { class: String } => "resource_not_supported", NotSupported;
        /// A setting of a VM is changed that cannot be changed by the method.
        Fixed { vm: String, property: String } => "vm_setting_is_fixed", NotSupported;
        /// A job is to be terminated that has ended.
        JobEnded { state: &'static str } => "job_has_ended", InvalidState;
    }
}

impl Reason for Method {
    fn text(&self) -> Text {
        match self {
            Self::Role { user, role, method } => Text::new(
                format!("the user {user} has the role {role}, which may not call {method}"),
                "Ask an administrator, or have the role changed with `standin user`.",
            ),
            Self::Defect => Text::new(
                "the method ended by a defect of the daemon",
                "Look at the state of the VM before you go on, and at the daemon's log.",
            ),
            Self::Later { method, what } => {
                Text::new(format!("{method} was not done: this version does not have {what}"), METHODS)
            }
            Self::NotHere { class, method } => {
                Text::new(format!("{method} of {class} is not supported"), METHODS)
            }
            Self::CreateSnapshot => Text::new(
                "recovery points are made by replication, not by CreateSnapshot",
                "Ask for one on the primary host: `standin point VM`.",
            ),
            Self::Planned => Text::new("planned failover and becoming a replica are not supported", METHODS),
            Self::PowerState { state } => Text::new(
                format!("the state {state} is not supported"),
                "Use 2 (start), 3 (power off), 4 (shut down) or 9 (pause).",
            ),
            Self::Power { vm, is } => Text::new(
                format!("VM {vm} is {is} already, or cannot get there from {is}"),
                "EnabledState of its Msvm_ComputerSystem shows how it is: 2 running, 3 off, 9 paused.",
            ),
            Self::Replica { vm, state } => Text::new(
                format!("VM {vm} is a replica in state {state}"),
                "Fail over first: InitiateFailover of Msvm_ReplicationService.",
            ),
            Self::FailedOver { vm } => Text::new(
                format!("VM {vm} has failed over: two of it would run"),
                "Revert the failover on the replica host to run it here again.",
            ),
            Self::Extend { vm } => Text::new(
                format!("VM {vm} is a replica here: extended replication is not supported"),
                "Create the relationship on the primary host.",
            ),
            Self::Extended => Text::new(
                "extended replication is not supported",
                "Pass the relationship of the primary, or none.",
            ),
            Self::NoRelationship { vm } => Text::new(
                format!("VM {vm} does not replicate"),
                "Create a relationship first: CreateReplicationRelationship.",
            ),
            Self::Seed => Text::new(
                "initial replication by export or from a seed is not supported",
                "Use InitialReplicationType 1, over the network.",
            ),
            Self::Provider { provider } => Text::new(
                format!("there is no replication provider {}", cut(provider)),
                "Leave ReplicationProvider null, or pass the Msvm_ReplicationProvider of this host.",
            ),
            Self::Kerberos => Text::new(
                "hosts do not authenticate each other by Kerberos",
                "Use AuthenticationType 2, certificates: `standin enroll` gives a host one.",
            ),
            Self::Exists { id } => {
                Text::new(format!("VM {id} exists"), "Leave VirtualSystemIdentifier null for a new VM.")
            }
            Self::Resource { class } => Text::new(
                format!("resources of the class {} cannot be defined here", cut(class)),
                "Define memory, processors and disks here, and the rest by `standin vm define FILE`.",
            ),
            Self::Fixed { vm, property } => Text::new(
                format!("{property} of VM {vm} cannot be changed here"),
                "Change the VM's definition file and read it again: `standin vm define FILE`.",
            ),
            Self::JobEnded { state } => {
                Text::new(format!("the job has ended: {state}"), "There is nothing to terminate.")
            }
        }
    }
}

reasons! {
    /// What a client names and is not here.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Missing {
        /// A reference names no VM.
        Vm { id: String } => "reference_to_no_vm", FileNotFound;
        /// A reference names a VM that this host does not know.
        VmHere { name: String } => "reference_to_unknown_vm", FileNotFound;
        /// A reference names no recovery point.
        Point { id: String } => "reference_to_no_point", FileNotFound;
        /// A reference names a recovery point that the VM does not have.
        PointOf { vm: String, id: String } => "reference_to_unknown_point", FileNotFound;
        /// The settings name a disk that the VM does not have.
        Disk { vm: String, disk: String } => "reference_to_unknown_disk", FileNotFound;
        /// There is no such job.
        Job { id: String } => "reference_to_unknown_job", FileNotFound;
        /// The authorization entry was removed meanwhile.
        EntryGone => "entry_gone", FileNotFound;
        /// There is no authorization entry for those hosts.
        Entry { hosts: String } => "no_entry_for_hosts", FileNotFound;
        /// The reference leads to the host where a VM is meant.
        IsHost { name: String } => "reference_to_host", NotSupported;
        /// This host has no certificate with that thumbprint.
        Thumbprint { wanted: String } => "unknown_thumbprint", FileNotFound;
    }
}

impl Reason for Missing {
    fn text(&self) -> Text {
        let message = match self {
            Self::Vm { id } => format!("there is no VM {}", cut(id)),
            Self::VmHere { name } => format!("there is no VM {name} on this host"),
            Self::Point { id } => format!("there is no recovery point {}", cut(id)),
            Self::PointOf { vm, id } => format!("VM {vm} has no recovery point {}", cut(id)),
            Self::Disk { vm, disk } => format!("VM {vm} has no disk {}", cut(disk)),
            Self::Job { id } => format!("there is no job {}", cut(id)),
            Self::EntryGone => "the authorization entry is gone".to_owned(),
            Self::Entry { hosts } => format!("no authorization entry is for {}", cut(hosts)),
            Self::IsHost { name } => {
                return Text::new(
                    format!("{name} is this host, not a VM"),
                    "Pass the Msvm_ComputerSystem of a VM.",
                );
            }
            Self::Thumbprint { wanted } => {
                return Text::new(
                    format!("this host has no certificate with the thumbprint {}", cut(wanted)),
                    "Leave CertificateThumbPrint null, or pass the one that Msvm_ReplicationServiceSettingData shows.",
                );
            }
        };
        Text::new(message, SEE_WHAT_IS_HERE)
    }
}
