//! Why a replica cannot fail over, go back, or be what a method wants it to be now.

use standin_model::reason::{Reason, Text};
use standin_model::{PointId, VmId, VmName, reasons};

/// What can always be done with the disks of a point.
const BY_HAND: &str =
    "The point's disks are whole: define a VM over them by hand, see the documentation on rescue.";

reasons! {
    /// Why a replica cannot fail over, go back, or be what a method wants it to be now.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Failover {
        /// The VM does not have that recovery point, or none at all.
        UnknownPoint { vm: VmName, point: Option<PointId> } => "unknown_point", FileNotFound;
        /// The record of a failover is gone.
        RecordGone => "failover_record_gone", Failed;
        /// A failover is to be committed while it is being reverted.
        BeingReverted { vm: VmName } => "failover_being_reverted", InUse;
        /// There is no failover to revert.
        None { vm: VmName } => "no_failover", InvalidState;
        /// The overlay that a failover's VM runs on is gone.
        OverlayGone { vm: VmName, overlay: String } => "failover_overlay_gone", FileNotFound;
        /// This host has a VM of the same id that is not of this failover.
        VmOfAnother { vm: VmName, id: VmId } => "vm_not_of_this_failover", InUse;
        /// The recovery point cannot be served to QEMU.
        NotServed { error: String } => "point_not_served", Failed;
        /// The recovery point has no configuration of the VM.
        NoConfiguration { point: PointId } => "point_without_configuration", FileNotFound;
        /// The configuration of the recovery point cannot be read or understood.
        Configuration { what: String, error: String } => "point_configuration_unreadable", Failed;
        /// A file of the VM, as its firmware, did not travel with the recovery point.
        FileMissing { vm: VmName, role: &'static str, point: PointId } => "point_file_missing", FileNotFound;
        /// The overlay of a failover has no disks.
        NoDisks => "overlay_without_disks", Failed;
        /// The NVRAM of the recovery point cannot be copied.
        Nvram { error: String } => "nvram_not_copied", Failed;
        /// The VM has failed over and was not started, because a host that could run it does not answer.
        NotStarted { vm: VmName } => "failover_not_started", NotAvailable;
        /// The VM is being failed over.
        UnderWay { vm: VmName } => "failover_under_way", InUse;
        /// The replication is to be removed while a failover is neither committed nor reverted.
        NotCommitted { vm: VmName } => "failover_not_committed", InvalidState;
        /// The disks of a failover's VM are still being filled from its recovery point.
        StillFilled { vm: VmName } => "disks_still_filled", InUse;
        /// This host is not the replica of the VM.
        NoReplica { vm: String } => "not_the_replica", InvalidState;
        /// This host is not the replica of a VM of that id.
        UnknownReplica { id: VmId } => "unknown_replica", FileNotFound;
        /// The name is that of another VM of this host.
        NameTaken { name: VmName, owner: VmId } => "vm_name_taken", InUse;
        /// Something has held the replica for long and does not let go.
        Held { vm: VmName, seconds: u64 } => "replica_held", Timeout;
        /// What is being received of the VM could be neither sealed nor given up in time.
        NotSealed { vm: VmName, seconds: u64 } => "receive_does_not_end", Timeout;
    }
}

impl Reason for Failover {
    fn text(&self) -> Text {
        match self {
            Self::UnknownPoint { vm, point } => {
                let what = point
                    .map_or_else(|| "any recovery point".to_owned(), |id| format!("recovery point {id}"));
                Text::new(
                    format!("VM {vm} does not have {what}"),
                    "`standin points VM` lists the points that are there.",
                )
            }
            Self::RecordGone => Text::new("the failover's record is gone", "Fail over again."),
            Self::BeingReverted { vm } => Text::new(
                format!("the failover of VM {vm} is being reverted"),
                "Wait for that job; if it has failed, `standin failover VM --revert` goes on with it.",
            ),
            Self::None { vm } => {
                Text::new(format!("VM {vm} has no failover to revert"), "Look at `standin status`.")
            }
            Self::OverlayGone { vm, overlay } => Text::new(
                format!("the overlay {overlay} of VM {vm} is gone"),
                "Revert the failover and fail over again.",
            ),
            Self::VmOfAnother { vm, id } => Text::new(
                format!("this host has a VM {vm} ({id}) that is not of this failover: it is left as it is"),
                "See what it is (`standin vm show VM`) and remove it here (`standin vm remove VM`, its disks stay), then \
                 fail over again; the recovery points are unharmed.",
            ),
            Self::NotServed { error } => Text::new(
                format!("serve the recovery point to QEMU: {error}"),
                "See to the runtime directory of the daemon.",
            ),
            Self::NoConfiguration { point } => {
                Text::new(format!("the recovery point {point} has no configuration of the VM"), BY_HAND)
            }
            Self::Configuration { what, error } => Text::new(format!("{what}: {error}"), BY_HAND),
            Self::FileMissing { vm, role, point } => Text::new(
                format!("the {role} of VM {vm} did not travel with the recovery point {point}"),
                "Fail over to another point.",
            ),
            Self::NoDisks => Text::new("the overlay has no disks", "Fail over to another point."),
            Self::Nvram { error } => Text::new(
                format!("copy the NVRAM of the recovery point: {error}"),
                "See to the storage location.",
            ),
            Self::NotStarted { vm } => Text::new(
                format!(
                    "VM {vm} has failed over, but it could not be started: a host that could run it does not answer"
                ),
                format!("Start it with `standin vm start {vm}`: that waits for the host."),
            ),
            Self::UnderWay { vm } => Text::new(
                format!("VM {vm} is being failed over"),
                "Wait until the failover is complete; `standin jobs` shows how far it is.",
            ),
            Self::NotCommitted { vm } => Text::new(
                format!("VM {vm} has failed over and is not committed"),
                "Commit the failover (`standin failover VM --commit`) or revert it (--revert) first.",
            ),
            Self::StillFilled { vm } => Text::new(
                format!("the disks of VM {vm} are still being filled from its recovery point"),
                "Let the VM run until that is done (it is in the log), then remove the replication.",
            ),
            Self::NoReplica { vm } => Text::new(
                format!("this host is not the replica of VM {vm}"),
                "Use this verb on the replica host; `standin status` shows what this host is for each VM.",
            ),
            Self::UnknownReplica { id } => Text::new(
                format!("this host is not the replica of a VM {id}"),
                "`standin status` shows what this host is for each VM.",
            ),
            Self::NameTaken { name, owner } => Text::new(
                format!("the VM {owner} on this host is called {name}"),
                "Choose another name, or give that VM another one first: `standin rename VM NAME`.",
            ),
            Self::Held { vm, seconds } => Text::new(
                format!("something has held VM {vm} for {seconds} s and does not let go"),
                "Try again; if that does not help, look at the daemon's log and restart the daemon: what is half done is \
                 finished or undone then.",
            ),
            Self::NotSealed { vm, seconds } => Text::new(
                format!(
                    "what is being received of VM {vm} could not be sealed or given up within {seconds} s"
                ),
                "See to the storage of the replica: a write to it does not end. Then try again.",
            ),
        }
    }
}
