//! Why a VM must not run here, and what a person can do about it. Names of VMs and hosts are filled in at the edge.

use super::Claim;
use crate::codes::{Refusal, ReturnCode};
use crate::ids::HostId;

/// Why a VM must not run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Another host holds it.
    LivesElsewhere(Claim),
    /// This host holds it, and another one runs it.
    RunsElsewhere(HostId),
    /// A host that could run it does not answer.
    Silent(HostId),
    /// Two hosts hold the same number.
    Rivals {
        /// The claim that this host knew first.
        ours: Claim,
        /// The other one.
        theirs: Claim,
    },
    /// Its images carry marks of a replication that this host has no record of.
    MarkedImage,
    /// At a failover: the primary runs it.
    PrimaryRuns(HostId),
    /// At a failover: the primary does not answer, and nobody asserted that it is down.
    PrimarySilent(HostId),
    /// At a failover: the witness does not know of it.
    WitnessSilent,
}

impl Reason {
    /// A stable name, for programs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::LivesElsewhere(_) => "lives_elsewhere",
            Self::RunsElsewhere(_) => "runs_elsewhere",
            Self::Silent(_) => "peer_silent",
            Self::Rivals { .. } => "rival_claims",
            Self::MarkedImage => "marked_image",
            Self::PrimaryRuns(_) => "primary_runs",
            Self::PrimarySilent(_) => "primary_silent",
            Self::WitnessSilent => "witness_silent",
        }
    }

    /// The host that it is about.
    #[must_use]
    pub const fn host(self) -> Option<HostId> {
        match self {
            Self::LivesElsewhere(claim) | Self::Rivals { theirs: claim, .. } => Some(claim.holder),
            Self::RunsElsewhere(host)
            | Self::Silent(host)
            | Self::PrimaryRuns(host)
            | Self::PrimarySilent(host) => Some(host),
            Self::MarkedImage | Self::WitnessSilent => None,
        }
    }

    /// The refusal, for people. `vm` and `host` are names; `host` is the witness where the reason is of that.
    #[must_use]
    pub fn refusal(self, vm: &str, host: &str) -> Refusal {
        let (code, message, remedy) = match self {
            Self::LivesElsewhere(_) => (
                ReturnCode::InvalidState,
                format!("VM {vm} has failed over to {host}; starting it here would run two copies"),
                format!(
                    "To run it here again, revert the failover on {host} (`standin failover {vm} --revert`). If it \
                     was committed there, it lives there: replicate it back. If {host} is lost for good: `standin vm \
                     start {vm} --force`."
                ),
            ),
            Self::RunsElsewhere(_) => (
                ReturnCode::InUse,
                format!("VM {vm} runs on {host}; starting it here would run two copies"),
                format!(
                    "Stop it on {host} first. If that answer is wrong and you have turned {host} off: `standin vm \
                     start {vm} --force`."
                ),
            ),
            Self::Silent(_) => (
                ReturnCode::NotAvailable,
                format!("{host} does not answer, and VM {vm} may have failed over to it"),
                format!(
                    "Connect {host} and try again, or make sure that VM {vm} does not run there, then `standin vm \
                     start {vm} --force`. If {host} is gone for good: `standin unreplicate {vm}`, then `standin vm \
                     forget {vm}`."
                ),
            ),
            Self::Rivals { ours, theirs } => (
                ReturnCode::InUse,
                format!(
                    "VM {vm} was forced to run both here and on {host} (claims {} and {} of the same number)",
                    ours.id, theirs.id
                ),
                format!(
                    "Decide which copy stays, on either host: `standin failover {vm} --keep here` or `--keep there`."
                ),
            ),
            Self::MarkedImage => (
                ReturnCode::InUse,
                format!(
                    "the disks of VM {vm} carry marks of a replication that this host has no record of; the VM may \
                     run elsewhere"
                ),
                format!(
                    "Make sure that it runs nowhere else (a replica may have taken over), then `standin vm start \
                     {vm} --force`."
                ),
            ),
            Self::PrimaryRuns(_) => (
                ReturnCode::InUse,
                format!("VM {vm} runs on {host}; starting it here would run two copies"),
                format!(
                    "Stop it on {host} and start it here then (`standin vm start {vm}`), or give the failover up \
                     (`standin failover {vm} --revert`). If you have turned {host} off: add `--force`."
                ),
            ),
            Self::PrimarySilent(_) => (
                ReturnCode::NotAvailable,
                format!("{host} does not answer, so nobody knows whether VM {vm} still runs there"),
                "Make sure that it is down, then repeat this with `--yes`.".to_owned(),
            ),
            Self::WitnessSilent => (
                ReturnCode::NotAvailable,
                format!(
                    "the witness {host} does not answer, so it would not know that VM {vm} runs here, and the host that \
                     it came from may start it on the witness's word"
                ),
                "Connect the witness and try again. Or make sure that the host that the VM came from is down, then repeat \
                 this with `--yes`."
                    .to_owned(),
            ),
        };
        Refusal::new(code, message, remedy)
    }
}
