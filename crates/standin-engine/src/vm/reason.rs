//! Why a VM's task refuses what it is asked for, beside what [`standin_model::fence::Reason`] says of who may run it.

use standin_model::reason::{Reason, Text};
use standin_model::{VmId, VmName, reasons};

reasons! {
    /// Why a VM's task refuses what it is asked for.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Vm {
        /// The daemon is stopping.
        Stopping => "daemon_stopping", NotAvailable;
        /// A failover would replace a VM that this host has.
        Exists { vm: VmName, id: VmId } => "vm_is_here_already", InUse;
        /// A running VM is to be adopted, and a host that could run it too does not answer.
        AdoptedUnasked { vm: String } => "adopted_vm_unconfirmed", NotAvailable;
        /// What reads the disks of a VM does not end.
        StillRead { vm: String } => "disks_still_read", Timeout;
        /// Nothing is kept of who may run the VM, because it never replicated here.
        NoClaim { vm: String } => "no_claim", FileNotFound;
        /// A VM is to be given to another host, and nothing is kept of who may run it.
        ClaimLost { vm: String } => "claim_lost", Failed;
        /// Who may run a VM is to be forgotten while it has a replication relationship.
        StillRelated { vm: VmName } => "claim_in_use", InvalidState;
        /// A VM was about to start when somebody had this host forget who may run it.
        ForgottenMeanwhile { vm: String } => "claim_forgotten_meanwhile", InvalidState;
        /// One of two copies is to be kept, and only one host holds the VM.
        NoRivals { vm: String } => "no_rival_claims", InvalidState;
        /// The copy "there" is to be kept, and two other hosts hold the VM.
        RivalsElsewhere { vm: String } => "rival_claims_elsewhere", InvalidState;
        /// Who may run a VM cannot be written down.
        ClaimNotKept { vm: VmName, error: String } => "claim_not_kept", Failed;
        /// The record of who may run a VM cannot be removed.
        ClaimNotRemoved { vm: VmId, error: String } => "claim_not_removed", Failed;
        /// A host would record a claim with a witness that it neither holds nor gives.
        ForeignClaim { by: String } => "foreign_claim", AccessDenied;
        /// This host's records cannot be those of a witness.
        NoWitness { why: String } => "witness_unusable", Failed;
    }
}

impl Reason for Vm {
    fn text(&self) -> Text {
        match self {
            Self::Stopping => {
                Text::new("the daemon is stopping", "Try again when it runs; VMs run on meanwhile.")
            }
            Self::Exists { vm, id } => Text::new(
                format!("this host already has VM {vm} ({id})"),
                "A failover does not replace it: remove that VM first (`standin vm remove VM`; its disks stay).",
            ),
            Self::AdoptedUnasked { vm } => Text::new(
                format!("another host that could run VM {vm} does not answer"),
                "Connect it and adopt the VM again, or adopt it with `--force`.",
            ),
            Self::StillRead { vm } => Text::new(
                format!("what reads the disks of VM {vm} does not end"),
                "Look at the daemon's log on that host, then try again.",
            ),
            Self::NoClaim { vm } => Text::new(
                format!("nothing is kept of who may run VM {vm}"),
                "It never replicated on this host; `standin status` shows what does.",
            ),
            Self::ClaimLost { vm } => Text::new(
                format!("nothing is kept of who may run VM {vm}"),
                "Look at the daemon's log; `standin status` shows what this host is for the VM.",
            ),
            Self::StillRelated { vm } => Text::new(
                format!("VM {vm} has a replication relationship on this host"),
                "Remove that first: `standin unreplicate VM`.",
            ),
            Self::ForgottenMeanwhile { vm } => Text::new(
                format!("somebody had this host forget who may run VM {vm} while it was about to start"),
                format!("Start it again (`standin vm start {vm}`): other hosts are asked then than before."),
            ),
            Self::NoRivals { vm } => Text::new(
                format!("only one host holds VM {vm}: there is nothing to decide"),
                "`standin status` shows where it lives.",
            ),
            Self::RivalsElsewhere { vm } => Text::new(
                format!("two other hosts hold VM {vm}: \"there\" could be either of them"),
                "Decide on one of them. To keep this host's copy instead: `--keep here`.",
            ),
            Self::ClaimNotKept { vm, error } => Text::new(
                format!("who may run VM {vm} could not be kept: {error}"),
                "Check the file system of the data directory (full, read-only, failing), then try again.",
            ),
            Self::ClaimNotRemoved { vm, error } => Text::new(
                format!("the claim of VM {vm} could not be removed: {error}"),
                "Check the file system of the data directory (full, read-only, failing), then try again.",
            ),
            Self::ForeignClaim { by } => Text::new(
                format!("{by} records a claim that it neither holds nor gives"),
                "This is a defect of that host, or an attack from it.",
            ),
            Self::NoWitness { why } => Text::new(
                format!("this host cannot be a witness: {why}"),
                "Check its data and runtime directories (full, read-only, failing).",
            ),
        }
    }
}
