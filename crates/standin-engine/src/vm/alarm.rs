//! What two hosts found when they met over a VM, for `status` on both of them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use standin_model::HostId;
use standin_model::fence::{Claim, Meeting};
use standin_model::health::{Health, HealthIssue};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// Both hosts ran the VM; this one has the higher claim.
    BothRanHigher,
    /// Both hosts ran the VM; this one had the lower claim.
    BothRanLower,
    /// Both hosts hold the same number.
    Rivals,
    /// Two other hosts hold the same number.
    RivalsElsewhere,
    /// The VM runs here, and another host holds it.
    RunsUnheld,
}

/// An alarm that stays until the hosts agree again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// What is wrong.
    pub kind: AlarmKind,
    /// The other host.
    pub host: HostId,
    /// Since when.
    pub at: Timestamp,
    /// What was done about it here: `paused`, `powered off`, or nothing.
    pub action: Option<String>,
}

impl AlarmKind {
    /// The alarm of a meeting.
    #[must_use]
    pub fn of(meeting: Meeting) -> Option<Self> {
        match meeting {
            Meeting::Fine => None,
            Meeting::BothRunHigher => Some(Self::BothRanHigher),
            Meeting::BothRunLower => Some(Self::BothRanLower),
            Meeting::Rivals => Some(Self::Rivals),
            Meeting::RivalsElsewhere => Some(Self::RivalsElsewhere),
            Meeting::RunsUnheld => Some(Self::RunsUnheld),
        }
    }
}

impl Alarm {
    /// The alarm as an issue of the VM's health. `vm` and `host` are names, `claim` is the one that is known here.
    #[must_use]
    pub fn issue(&self, vm: &str, host: &str, claim: Claim) -> HealthIssue {
        let done = self.action.as_deref().map(|action| format!("; it was {action} here")).unwrap_or_default();
        let number = claim.number;
        let (message, remedy) = match self.kind {
            AlarmKind::BothRanHigher => (
                format!("VM {vm} ran here and on {host} at once; this host has the higher claim ({number})"),
                format!(
                    "The copy here goes on. See on {host} what its copy wrote before that is given up: it is paused \
                     there unless it was set to go on."
                ),
            ),
            AlarmKind::BothRanLower => (
                format!(
                    "VM {vm} ran here and on {host} at once; {host} has the higher claim ({number}){done}"
                ),
                format!(
                    "Save what only this copy has, then stop it: `standin vm stop {vm} --force`. To keep this copy \
                     instead, revert the failover on {host}."
                ),
            ),
            AlarmKind::Rivals => (
                format!("VM {vm} was forced to run both here and on {host}, with the same claim ({number})"),
                format!(
                    "Decide which copy stays, on either host: `standin failover {vm} --keep here` or `--keep there`."
                ),
            ),
            AlarmKind::RivalsElsewhere => (
                format!(
                    "VM {vm} was forced to run on {host} and on another host, with the same claim ({number}){done}"
                ),
                format!(
                    "Decide on {host} which copy stays: `standin failover {vm} --keep here` or `--keep there`."
                ),
            ),
            AlarmKind::RunsUnheld => (
                format!("VM {vm} runs here, and {host} holds it (claim {number})"),
                format!(
                    "Stop it here (`standin vm stop {vm}`, with `--force` if the guest does not answer); it can then start on \
                     {host}. If {host} holds it by a failover, reverting that lets it go on here."
                ),
            ),
        };
        HealthIssue { severity: Health::Critical, message, remedy }
    }
}
