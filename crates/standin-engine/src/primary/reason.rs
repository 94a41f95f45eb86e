//! Why the sending side of a replication refuses what it is asked for, or gives something up.

use standin_model::reason::{Reason, Text};
use standin_model::{JobId, VmName, reasons};

reasons! {
    /// Why the sending side of a replication refuses what it is asked for, or gives something up.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Primary {
        /// The replication was removed while something was asked of it.
        Removed => "replication_just_removed", InvalidState;
        /// A setting cannot change while the relationship lasts: the disks, or the granularity of the change tracking.
        Fixed { vm: VmName, what: &'static str, other: &'static str } => "setting_is_fixed", NotSupported;
        /// The replica did not answer in time at the address that it is to have from now on.
        SilentAddress { peer: String, seconds: u64 } => "new_address_silent", Timeout;
        /// At the address that the replica is to have from now on there is another host.
        AnotherHost { vm: VmName, peer: String, found: String, known: String } => "new_address_another_host", InvalidParameter;
        /// The replica at the new address is not as far as the one that this host has sent to.
        NotAsFar { vm: VmName, peer: String } => "new_address_not_as_far", InvalidState;
        /// The host at the new address does not have the replica.
        NotThere { vm: VmName, peer: String, refusal: String } => "new_address_without_replica", FileNotFound;
        /// A recovery point was asked for, and the replication was paused or the VM ended before.
        PointGivenUp { vm: VmName } => "point_given_up", InvalidState;
        /// The guest could not be frozen: the recovery point is crash-consistent only.
        NotFrozen { vm: VmName, reason: String } => "guest_not_frozen", Failed;
        /// A recovery point is asked for while the VM is off.
        VmOff { vm: VmName } => "vm_off_no_point", InvalidState;
        /// A job works on the VM already.
        Busy { vm: VmName, job: JobId } => "job_works_already", InUse;
    }
}

impl Reason for Primary {
    fn text(&self) -> Text {
        match self {
            Self::Removed => {
                Text::new("the replication of this VM has just been removed", "Look at `standin status`.")
            }
            Self::Fixed { vm, what, other } => Text::new(
                format!("{what} of VM {vm} cannot be changed"),
                format!("Remove the replication and enable it again with the other {other}."),
            ),
            Self::SilentAddress { peer, seconds } => Text::new(
                format!("{peer} did not answer within {seconds} s; nothing was changed"),
                "Check the address, and that the replica's daemon runs there and can be reached from this host.",
            ),
            Self::AnotherHost { vm, peer, found, known } => Text::new(
                format!("the host at {peer} is {found}; the replica of VM {vm} is on {known}"),
                format!(
                    "Give an address at which {known} is reached. To replicate to another host, end this replication \
                     (`standin unreplicate {vm}`) and enable it anew."
                ),
            ),
            Self::NotAsFar { vm, peer } => Text::new(
                format!(
                    "the replica of VM {vm} at {peer} is not as far as the one that this host has sent to"
                ),
                "Check the address. If it is the right one, let one cycle reach the replica at the address of before \
                 first.",
            ),
            Self::NotThere { vm, peer, refusal } => Text::new(
                format!("{peer} does not have the replica of VM {vm}: {refusal}"),
                format!(
                    "Nothing was changed. Give an address of the host that has it; `standin status {vm}` shows the one \
                     that is used now."
                ),
            ),
            Self::PointGivenUp { vm } => Text::new(
                format!(
                    "before the point, VM {vm} went off or to another host, or its replication was paused or has to \
                     compare the disks first"
                ),
                "Nothing is lost. See `standin status VM`, and ask for the point again when it replicates.",
            ),
            Self::NotFrozen { vm, reason } => Text::new(
                format!(
                    "the guest of VM {vm} could not be frozen ({reason}); a crash-consistent recovery point was taken"
                ),
                "See to the guest agent in the guest (qemu-guest-agent running, guest_agent = true in its definition).",
            ),
            Self::VmOff { vm } => Text::new(
                format!("VM {vm} is not running, so nothing can be cut"),
                "Start it with `standin vm start VM`; its last recovery point is the newest state there is.",
            ),
            Self::Busy { vm, job } => Text::new(
                format!("job {job} already works on VM {vm}"),
                format!("Wait for its end (`standin jobs {job} --watch`), or `standin jobs cancel {job}`."),
            ),
        }
    }
}
