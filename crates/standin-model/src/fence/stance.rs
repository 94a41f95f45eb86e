//! What a host told of how it decides: others count on it while it is silent, and people ask for it before they fail over.

use super::WhenSilent;
use crate::ids::HostId;
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// The records of a witness: the host that keeps them, and which ones they are. A witness that lost its records, or had an
/// older backup of them put back, answers from other ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WitnessId {
    /// The witness.
    pub host: HostId,
    /// Its records.
    pub records: Uuid,
}

/// What the witness that a host names says of a VM just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WitnessWord {
    /// From which records it answered, with what it said already learned; `None` when it is silent, or was not asked.
    pub answers: Option<WitnessId>,
    /// It knows this host's claim.
    pub recorded: bool,
}

/// How a host decides about one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stance {
    /// A start while another host that could run the VM is silent.
    pub when_silent: WhenSilent,
    /// Where it records its claim before it starts the VM after a failover; `None` where it names no witness, or has not
    /// met it since its daemon started.
    #[serde(default)]
    pub witness: Option<WitnessId>,
}

impl fmt::Display for WhenSilent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuse => f.write_str("refuse"),
            Self::StartAfter(wait) => match wait.as_secs() {
                hours if hours > 0 && hours % 3600 == 0 => write!(f, "start-after {}h", hours / 3600),
                minutes if minutes > 0 && minutes % 60 == 0 => write!(f, "start-after {}m", minutes / 60),
                seconds => write!(f, "start-after {seconds}s"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_silence_means_is_written_as_it_is_configured() {
        let after = |seconds| WhenSilent::StartAfter(Duration::from_secs(seconds)).to_string();
        assert_eq!(WhenSilent::Refuse.to_string(), "refuse");
        assert_eq!(after(90), "start-after 90s");
        assert_eq!(after(120), "start-after 2m");
        assert_eq!(after(7200), "start-after 2h");
        assert_eq!(after(0), "start-after 0s");
    }
}
