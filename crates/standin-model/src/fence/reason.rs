//! Why a VM must not run here, and what a person can do about it. Names of VMs and hosts are filled in at the edge.

use super::Claim;
use crate::codes::Refusal;
use crate::ids::HostId;
use crate::reason::Text;
use crate::reasons;

reasons! {
    /// Why a VM must not run here.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Reason {
        /// Another host holds it.
        LivesElsewhere(Claim) => "lives_elsewhere", InvalidState;
        /// This host holds it, and another one runs it.
        RunsElsewhere(HostId) => "runs_elsewhere", InUse;
        /// A host that could run it does not answer.
        Silent(HostId) => "peer_silent", NotAvailable;
        /// Two hosts hold the same number.
        Rivals {
            /// The claim that this host knew first.
            ours: Claim,
            /// The other one.
            theirs: Claim,
        } => "rival_claims", InUse;
        /// Its images carry marks of a replication that this host has no record of.
        MarkedImage => "marked_image", InUse;
        /// At a failover: the primary runs it.
        PrimaryRuns(HostId) => "primary_runs", InUse;
        /// At a failover: the primary does not answer, and nobody asserted that it is down.
        PrimarySilent(HostId) => "primary_silent", NotAvailable;
        /// At a failover: the witness does not know of it.
        WitnessSilent => "witness_silent", NotAvailable;
    }
}

impl Reason {
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
        let (message, remedy) = match self {
            Self::LivesElsewhere(_) => (
                format!("VM {vm} has failed over to {host}; starting it here would run two copies"),
                format!(
                    "To run it here again, revert the failover on {host} (`standin failover {vm} --revert`). If it \
                     was committed there, it lives there: replicate it back. If {host} is lost for good: `standin vm \
                     start {vm} --force`."
                ),
            ),
            Self::RunsElsewhere(_) => (
                format!("VM {vm} runs on {host}; starting it here would run two copies"),
                format!(
                    "Stop it on {host} first. If that answer is wrong and you have turned {host} off: `standin vm \
                     start {vm} --force`."
                ),
            ),
            Self::Silent(_) => (
                format!("{host} does not answer, and VM {vm} may have failed over to it"),
                format!(
                    "Connect {host} and try again, or make sure that VM {vm} does not run there, then `standin vm \
                     start {vm} --force`. If {host} is gone for good: `standin unreplicate {vm}`, then `standin vm \
                     forget {vm}`."
                ),
            ),
            Self::Rivals { ours, theirs } => (
                format!(
                    "VM {vm} was forced to run both here and on {host} (claims {} and {} of the same number)",
                    ours.id, theirs.id
                ),
                format!(
                    "Decide which copy stays, on either host: `standin failover {vm} --keep here` or `--keep there`."
                ),
            ),
            Self::MarkedImage => (
                format!(
                    "the disks of VM {vm} carry marks of a replication that this host has no record of; the VM may \
                     run elsewhere"
                ),
                format!(
                    "Make sure that it runs nowhere else (a replica may have taken over), then `standin vm start \
                     {vm} --force`. While it runs, replication can be enabled."
                ),
            ),
            Self::PrimaryRuns(_) => (
                format!("VM {vm} runs on {host}; starting it here would run two copies"),
                format!(
                    "Stop it on {host} and start it here then (`standin vm start {vm}`), or give the failover up \
                     (`standin failover {vm} --revert`). If you have turned {host} off: add `--force`."
                ),
            ),
            Self::PrimarySilent(_) => (
                format!("{host} does not answer, so nobody knows whether VM {vm} still runs there"),
                "Make sure that it is down, then repeat this with `--yes`.".to_owned(),
            ),
            Self::WitnessSilent => (
                format!(
                    "the witness {host} does not answer, so it would not know that VM {vm} runs here, and the host that \
                     it came from may start it on the witness's word"
                ),
                "Connect the witness and try again. Or make sure that the host that the VM came from is down, then repeat \
                 this with `--yes`."
                    .to_owned(),
            ),
        };
        Refusal::of(&self, Text { message, remedy })
    }
}
