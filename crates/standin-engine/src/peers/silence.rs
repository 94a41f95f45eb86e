//! Why a host did not answer. Silence is no answer: nobody may conclude from it what the host does.

use crate::error::WorkError;
use standin_model::{HostId, Refusal, ReturnCode};
use thiserror::Error;

/// Why a host did not answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Silence {
    /// It has not connected, and nobody knows where it is.
    #[error("no address of host {host} is known, and it has not connected")]
    NoAddress {
        /// The host, by name or id.
        host: String,
    },
    /// No connection came about.
    #[error("{0}")]
    Unreachable(Refusal),
    /// It speaks protocol version 1, which has no calls.
    #[error("{host} runs a release of standin that cannot be asked about VMs")]
    OldVersion {
        /// The host.
        host: String,
    },
    /// Another host answers at its address.
    #[error("another host answers at {address}: {name} (id {found})")]
    OtherHost {
        /// Where.
        address: String,
        /// Who it is.
        name: String,
        /// Its id.
        found: HostId,
    },
    /// It takes no link from this host, or this host none from it.
    #[error("{0}")]
    Refused(Refusal),
    /// It did not answer in time.
    #[error("{host} does not answer")]
    NoAnswer {
        /// The host.
        host: String,
    },
    /// The link ended before the answer came.
    #[error("the link with {host} ended: {reason}")]
    Ended {
        /// The host.
        host: String,
        /// Why.
        reason: String,
    },
    /// What it answered cannot be read.
    #[error("{host} answered something that this release does not understand: {reason}")]
    Unreadable {
        /// The host.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The call cannot be sent: it is longer than a message may be.
    #[error("{host} cannot be asked: {reason}")]
    Unsendable {
        /// The host.
        host: String,
        /// Why.
        reason: String,
    },
    /// This daemon is going down.
    #[error("this daemon is stopping")]
    Stopping,
}

impl Silence {
    /// The host is there, and speaks a version that has no calls.
    #[must_use]
    pub const fn is_of_an_older_version(&self) -> bool {
        matches!(self, Self::OldVersion { .. })
    }

    /// No connection came about with what is at `address`.
    pub(super) fn unreachable(address: &str, error: standin_wire::Error) -> Self {
        Self::Unreachable(WorkError::link(address, error).refusal())
    }

    /// What to do now, a full sentence.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::NoAddress { .. } => "Start standin on that host; it connects by itself.".to_owned(),
            Self::Unreachable(refusal) | Self::Refused(refusal) => refusal.remedy.clone(),
            Self::OldVersion { .. } | Self::Unreadable { .. } => {
                "Install the same standin release on both hosts.".to_owned()
            }
            Self::OtherHost { .. } => {
                "Correct the address, or the name service; a host whose data directory was made anew has another id."
                    .to_owned()
            }
            Self::NoAnswer { .. } => {
                "Look at the load and at the log of that host, and at the network between the hosts.".to_owned()
            }
            Self::Ended { .. } => "The hosts connect again by themselves; try again then.".to_owned(),
            Self::Unsendable { .. } => "Report this as a bug of standin.".to_owned(),
            Self::Stopping => "Try again when the daemon is up.".to_owned(),
        }
    }

    /// The same, for the API.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        Refusal::new(ReturnCode::NotAvailable, self.to_string(), self.remedy())
    }
}
