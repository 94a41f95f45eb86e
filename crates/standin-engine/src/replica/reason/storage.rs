//! Why the storage of a replica is not there, cannot be used or must not be touched; and what the store's errors mean.

use crate::error::{chain, out_of_memory};
use standin_model::reason::{Named, Reason, Text};
use standin_model::{VmId, VmName, reasons};
use standin_store::Error;
use std::path::PathBuf;

reasons! {
    /// Why the storage of a replica is not there, cannot be used or must not be touched.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Storage {
        /// The disks of a replica are not in their storage location, as it was at the start of the daemon.
        DisksMissing { vm: VmName, location: PathBuf } => "replica_disks_missing", NotAvailable;
        /// The disks of a replica are not in their storage location any more.
        DisksGone { vm: VmName, directory: PathBuf } => "replica_disks_gone", NotAvailable;
        /// The replica is there and cannot be opened.
        NotOpened { vm: VmName, error: String, directory: PathBuf, repairable: bool } =>
            "replica_not_opened", NotAvailable;
        /// The VM of a failover runs on the disks of before, which were copied elsewhere.
        RunsOnOldDisks { vm: VmName, old: PathBuf } => "vm_runs_on_old_disks", InUse;
        /// There is no replica of that VM whose manifest is lost.
        NothingToRepair { id: VmId } => "nothing_to_repair", InvalidState;
        /// A VM of this host has disks in the directory that is to be removed.
        UsedByVm { vm: VmName, path: PathBuf } => "directory_used_by_vm", InUse;
        /// The directory that is to be removed is a replica that cannot be opened.
        IsReplica { vm: String, path: PathBuf } => "directory_is_replica", InUse;
        /// The path is no directory of a replica in a storage location of this host.
        UnknownDirectory { path: PathBuf } => "unknown_directory", FileNotFound;
        /// The record beside the disks of a replica cannot be written.
        RecordNotKept { vm: VmName, error: String } => "record_beside_disks_not_kept", Failed;
        /// A replica was taken up again from what was kept of it, and nothing is sent to it.
        TakenUp { vm: VmName } => "replica_taken_up", Failed;
        /// A defect of standin ended a call of the store.
        Defect => "store_defect", Failed;
    }
}

impl Reason for Storage {
    fn text(&self) -> Text {
        match self {
            Self::DisksMissing { vm, location } => Text::new(
                format!(
                    "the disks of the replica of VM {vm} are not in its storage location {}",
                    location.display()
                ),
                "Mount the storage location on the replica host and restart its daemon; if the disks are gone for good, \
                 remove the replica there (`standin unreplicate VM`).",
            ),
            Self::DisksGone { vm, directory } => Text::new(
                format!("the disks of the replica of VM {vm} are not in {} any more", directory.display()),
                "Mount the storage location on the replica host again and restart its daemon.",
            ),
            Self::NotOpened { vm, error, directory, repairable } => Text::new(
                format!("the replica of VM {vm} cannot be opened: {error}"),
                match repairable {
                    true => format!(
                        "On the replica host: `standin store repair {vm}`; it reads all of the replica."
                    ),
                    false => format!(
                        "Mend that in {} on the replica host and restart its daemon; docs/rescue.md says how its points \
                         are used by hand.",
                        directory.display()
                    ),
                },
            ),
            Self::RunsOnOldDisks { vm, old } => Text::new(
                format!("VM {vm} runs on the disks in {}", old.display()),
                "Shut it down, copy the directory again, then restart the daemon.",
            ),
            Self::NothingToRepair { id } => Text::new(
                format!("this host has no replica of VM {id} whose manifest is lost"),
                "`standin store list` shows what is there, `standin store check` what is good.",
            ),
            Self::UsedByVm { vm, path } => Text::new(
                format!("VM {vm} of this host has disks in {}", path.display()),
                "Move its disks elsewhere, or remove the VM first (`standin vm remove VM`).",
            ),
            Self::IsReplica { vm, path } => Text::new(
                format!("{} is the replica of VM {vm}, which cannot be opened", path.display()),
                "End the replication on this host first (`standin unreplicate VM`) if its points are of no more use.",
            ),
            Self::UnknownDirectory { path } => Text::new(
                format!("{} is no directory of a replica in a storage location of this host", path.display()),
                "`standin store list` shows those that are.",
            ),
            Self::RecordNotKept { vm, error } => Text::new(
                format!("the record beside the disks of VM {vm} is an old one: {error}"),
                "See to the storage location (full, read-only, failing); the next change writes it again.",
            ),
            Self::TakenUp { vm } => Text::new(
                format!(
                    "the replica of VM {vm} was taken up again from what was kept, and nothing is sent to it"
                ),
                "Fail over to one of its points, replicate the VM to this host again, or remove it with `standin \
                 unreplicate VM`.",
            ),
            Self::Defect => Text::new(
                "a call of the store ended by a defect of standin",
                "Look at the daemon's log and report it; `standin store check` tells which points are good.",
            ),
        }
    }
}

reasons! {
    /// What an error of the store means to the primary and the operator.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Store {
        /// The store has no such VM, recovery point, epoch or overlay.
        Unknown { error: String } => "store_has_none", FileNotFound;
        /// The store cannot take what it is given: no such disk, or nothing that makes sense.
        Invalid { error: String } => "store_invalid", InvalidParameter;
        /// Something holds what is to be changed in the store.
        Busy { error: String } => "store_busy", InUse;
        /// The storage location is full.
        NoSpace { error: String } => "store_no_space", Failed;
        /// Something in the store is damaged.
        Corrupt { error: String } => "store_corrupt", Failed;
        /// The replica host had no memory for it.
        OutOfMemory { error: String } => "store_out_of_memory", OutOfMemory;
        /// A file of the replica is not there: its storage location may not be mounted.
        NotThere { error: String } => "store_not_there", NotAvailable;
        /// The file system of the storage location fails.
        Failed { error: String } => "store_failed", Failed;
    }
}

impl Store {
    /// What an error means.
    pub(crate) fn of(error: &Error) -> Self {
        let text = chain(error);
        match error {
            Error::UnknownVm(_)
            | Error::UnknownPoint { .. }
            | Error::UnknownEpoch { .. }
            | Error::UnknownOverlay { .. } => Self::Unknown { error: text },
            Error::UnknownDisk { .. } | Error::Invalid(_) => Self::Invalid { error: text },
            Error::Busy { .. } | Error::Exists(_) | Error::Locked { .. } => Self::Busy { error: text },
            Error::NoSpace { .. } => Self::NoSpace { error: text },
            Error::Corrupt { .. } => Self::Corrupt { error: text },
            Error::Io { source, .. } if out_of_memory(source) => Self::OutOfMemory { error: text },
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Self::NotThere { error: text }
            }
            _ => Self::Failed { error: text },
        }
    }

    /// Whether a reason says that the replica's storage is full: that is over when something can be stored again.
    pub(crate) fn is_no_space(name: &str) -> bool {
        name == Self::NoSpace { error: String::new() }.name()
    }
}

impl Reason for Store {
    fn text(&self) -> Text {
        let (error, remedy) = match self {
            Self::Unknown { error } => {
                (error, "`standin status` and `standin points VM` show what is there.")
            }
            Self::Invalid { error } => {
                (error, "Run the same version of standin on both hosts; look at both logs.")
            }
            Self::Busy { error } => (error, "Wait for what holds it to end, or end that, then try again."),
            Self::NoSpace { error } => (
                error,
                "Free some space on the replica's storage or shorten the retention; replication goes on by itself.",
            ),
            Self::Corrupt { error } => {
                (error, "Run `standin store check` on the replica host: it says which points are good.")
            }
            Self::OutOfMemory { error } => (error, "Free some memory on the replica host, then try again."),
            Self::NotThere { error } => (
                error,
                "Mount the replica's storage location again and restart its daemon; if it is mounted, run `standin store \
                 check`.",
            ),
            Self::Failed { error } => (error, "See to the file system of the replica's storage location."),
        };
        Text::new(error, remedy)
    }
}
