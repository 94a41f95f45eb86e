//! Why a primary is not let in: by the entries that authorize hosts, and by what it offers.

use standin_model::reason::{Reason, Text};
use standin_model::state::ReplicationState;
use standin_model::{AuthId, DiskName, Epoch, HostId, VmId, VmName, reasons};
use std::path::PathBuf;

reasons! {
    /// Why a host may not replicate to here, and why an entry cannot be so.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Entry {
        /// The replica host takes in no replicas: its recovery server is disabled.
        RecoveryServerDisabled => "recovery_server_disabled", AccessDenied;
        /// No authorization entry of the replica host admits the primary.
        NotAuthorised { names: Vec<String> } => "not_authorised", AccessDenied;
        /// Nothing is received for a replica, because no authorization entry admits its primary any more.
        Unadmitted { vm: VmName, host: String } => "primary_not_admitted", AccessDenied;
        /// There is an authorization entry of the same pattern already.
        PatternTaken { pattern: String, id: AuthId } => "entry_exists", InUse;
        /// There is no such authorization entry.
        Unknown { id: AuthId } => "unknown_entry", FileNotFound;
        /// The storage location of an authorization entry cannot be made.
        StorageUnusable { location: PathBuf, error: String } => "storage_location_unusable", InvalidParameter;
    }
}

impl Reason for Entry {
    fn text(&self) -> Text {
        match self {
            Self::RecoveryServerDisabled => Text::new(
                "this host does not take in replicas: its recovery server is disabled",
                "Enable it on the replica host (RecoveryServerEnabled in its service settings).",
            ),
            Self::NotAuthorised { names } => Text::new(
                format!("the host {} is not authorised to replicate to this host", names.join(", ")),
                "On the replica host: `standin auth add NAME`, with the name of the primary's certificate.",
            ),
            Self::Unadmitted { vm, host } => Text::new(
                format!(
                    "no authorization entry of this host admits {host}, so nothing is received for VM {vm}"
                ),
                format!(
                    "`standin auth add {host}`: the replication goes on by itself then, and every recovery point stays. \
                     Until then the VM can fail over to those that are here."
                ),
            ),
            Self::PatternTaken { pattern, id } => Text::new(
                format!("{pattern} is already authorised by entry {id}"),
                "Remove that entry first: `standin auth remove ID`.",
            ),
            Self::Unknown { id } => Text::new(
                format!("there is no authorization entry {id}"),
                "`standin auth list` shows the entries.",
            ),
            Self::StorageUnusable { location, error } => Text::new(
                format!("the storage location {} cannot be used: {error}", location.display()),
                "Name a directory that this host can write to.",
            ),
        }
    }
}

reasons! {
    /// Why a replica does not take what a primary offers.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Admission {
        /// The primary goes on with a replica that was removed on the replica host.
        NoReplica { vm: VmName } => "replica_removed", FileNotFound;
        /// The VM exists on the host that is to receive it, and is no replica there.
        Exists { vm: VmName, id: VmId, adopting: bool } => "vm_is_no_replica", InUse;
        /// The primary offers no disk, or too many.
        DiskCount { vm: VmName, disks: usize } => "offer_disk_count", InvalidParameter;
        /// The primary offers a disk twice.
        DiskTwice { vm: VmName, disk: DiskName } => "offer_disk_twice", InvalidParameter;
        /// The primary offers a disk whose size is no multiple of a sector, or too large.
        DiskSize { vm: VmName, disk: DiskName, bytes: u64 } => "offer_disk_size", InvalidParameter;
        /// The replica is paused.
        Paused { vm: VmName, state: ReplicationState } => "replica_paused", InvalidState;
        /// The VM has failed over to the replica host.
        FailedOver { vm: VmName, state: ReplicationState } => "replica_failed_over", InvalidState;
        /// The primary tracks changes with another granularity than the replica was made for.
        GranularityDiffers { vm: VmName } => "replica_granularity_differs", InvalidParameter;
        /// A disk has another name or size on the primary than on the replica.
        DiskDiffers { vm: VmName, disk: DiskName, bytes: u64, offered: DiskName, offered_bytes: u64 } =>
            "replica_disk_differs", InvalidParameter;
        /// The VM has another number of disks on the primary than on the replica.
        DiskCountDiffers { vm: VmName } => "replica_disk_count_differs", InvalidParameter;
        /// The primary has removed the replication; the replica stays with its recovery points.
        PrimaryRemoved { vm: VmName, has_points: bool } => "removed_on_primary", InvalidState;
        /// The definition that came with a recovery point cannot be understood.
        DefinitionUnreadable { vm: VmName, error: String } => "definition_not_understood", InvalidParameter;
        /// The definition that came with a recovery point is that of another VM.
        DefinitionOfAnother { found: VmName, found_id: VmId, vm: VmName, id: VmId } =>
            "definition_of_another_vm", InvalidParameter;
        /// The replica has lost every record of the host that it belongs to.
        OwnerLost { vm: VmName } => "replica_owner_lost", InUse;
        /// The replica belongs to another primary host.
        OfAnotherHost { vm: VmName, owner: String, old: HostId, asks: String, new: Option<HostId> } =>
            "replica_of_another_host", InUse;
        /// The disks of the replica are an older copy than what was acknowledged of them.
        OlderDisks { vm: VmName, newest: Option<Epoch>, known: Epoch } => "replica_disks_older", InvalidState;
    }
}

impl Reason for Admission {
    fn text(&self) -> Text {
        match self {
            Self::NoReplica { vm } => Text::new(
                format!("this host has no replica of VM {vm}"),
                "The replication was removed on the replica; remove it on the primary (`standin unreplicate VM`) and \
                 enable it again.",
            ),
            Self::Exists { vm, id, adopting } => Text::new(
                format!("VM {vm} ({id}) exists on this host, so it cannot be a replica here"),
                match adopting {
                    true => "Remove the VM here first (`standin vm remove VM`, its disks stay).",
                    false => "Replicate to another host, or remove the VM here (`standin vm remove VM`).",
                },
            ),
            Self::DiskCount { vm, disks } => Text::new(
                format!("{disks} disks of VM {vm} cannot be replicated"),
                "Name at least one disk of the VM with --disks.",
            ),
            Self::DiskTwice { vm, disk } => {
                Text::new(format!("the disk {disk} of VM {vm} is there twice"), "Name it once.")
            }
            Self::DiskSize { vm, disk, bytes } => Text::new(
                format!("disk {disk} of VM {vm} has {bytes} bytes"),
                "A disk that replicates has a multiple of 512 bytes, at most 64 TiB.",
            ),
            Self::Paused { vm, state } => Text::new(
                format!("the replica of VM {vm} is in state {state}"),
                "Resume it on the replica host: `standin resume VM`.",
            ),
            Self::FailedOver { vm, state } => Text::new(
                format!("VM {vm} has failed over to the replica host (state {state})"),
                match state {
                    ReplicationState::Committed => {
                        "Do not run the VM on this host: it runs on the replica host for good. Here, `standin unreplicate \
                         VM` and `standin vm remove VM` forget it; its old disks stay."
                    }
                    _ => {
                        "Do not run the VM on this host. Revert the failover on the replica host (`standin failover VM \
                         --revert`) to go on replicating, or commit it there."
                    }
                },
            ),
            Self::GranularityDiffers { vm } => Text::new(
                format!("the primary tracks changes of VM {vm} with another granularity"),
                "Remove the replication on both hosts and enable it again.",
            ),
            Self::DiskDiffers { vm, disk, bytes, offered, offered_bytes } => Text::new(
                format!(
                    "disk {disk} of VM {vm} has {bytes} bytes on the replica; the primary offers disk {offered} of \
                     {offered_bytes} bytes"
                ),
                "Remove the replication on both hosts and enable it again; changing replicated disks is not \
                 supported yet.",
            ),
            Self::DiskCountDiffers { vm } => Text::new(
                format!("VM {vm} has another number of disks on the replica"),
                "Remove the replication on both hosts and enable it again.",
            ),
            Self::PrimaryRemoved { vm, has_points } => Text::new(
                format!("the primary has removed the replication of VM {vm}"),
                match has_points {
                    true => {
                        "Its recovery points are still here: fail over to one, or remove the replica with `standin \
                         unreplicate VM`."
                    }
                    false => "It has no recovery point: remove the replica with `standin unreplicate VM`.",
                },
            ),
            Self::DefinitionUnreadable { vm, error } => Text::new(
                format!("the definition of VM {vm} cannot be understood: {error}"),
                "Run the same version of standin on both hosts.",
            ),
            Self::DefinitionOfAnother { found, found_id, vm, id } => Text::new(
                format!(
                    "the primary sent the definition of VM {found} ({found_id}) with a recovery point of VM {vm} ({id})"
                ),
                "Look at the log of the primary host: its standin sends what its VM is; another program, or a host that \
                 is no longer its owner's, may not.",
            ),
            Self::OwnerLost { vm } => Text::new(
                format!(
                    "the replica of VM {vm} on this host has lost every record of the host that it belongs to"
                ),
                format!(
                    "Its recovery points can be failed over to on the replica host. To replicate anew, remove it there \
                     first (`standin unreplicate {vm}`): its disks stay there."
                ),
            ),
            Self::OfAnotherHost { vm, owner, old, asks, new } => {
                let new = new.map(|host| host.to_string()).unwrap_or_default();
                Text::new(
                    format!(
                        "the replica of VM {vm} on this host belongs to {owner} (host id {old}); {asks} has the host id \
                         {new}"
                    ),
                    format!(
                        "If that is the same machine, set up anew, say so on the replica host: `standin peer rebind {old} \
                         {new}`; then replicate again, and every recovery point stays. If the VM has another primary now, \
                         remove its replica there first: `standin unreplicate {vm}`."
                    ),
                )
            }
            Self::OlderDisks { vm, newest, known } => {
                let newest = newest.map_or_else(|| "none".to_owned(), |newest| newest.to_string());
                Text::new(
                    format!(
                        "the disks of the replica of VM {vm} are an older copy: their newest epoch is {newest}, and \
                         {known} was durable here before; the recovery points in between are gone"
                    ),
                    "Its primary compares and goes on by itself; the points that are here stay. If the newer disks still \
                     exist, put them back instead: stop the daemon first.",
                )
            }
        }
    }
}
