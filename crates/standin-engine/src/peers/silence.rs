//! Why a host did not answer. Silence is no answer: nobody may conclude from it what the host does.

use crate::error::WorkError;
use standin_model::reason::{Reason, Text};
use standin_model::{HostId, Refusal, reasons};
use thiserror::Error;

reasons! {
    /// Why a host did not answer.
    #[derive(Debug, Clone, PartialEq, Eq, Error)]
    pub enum Silence {
        /// The other host has not connected, and nobody knows where it is.
        #[error("no address of host {host} is known, and it has not connected")]
        NoAddress {
            /// The host, by name or id.
            host: String,
        } => "peer_address_unknown", NotAvailable;
        /// No connection with the other host came about.
        #[error("{0}")]
        Unreachable(Refusal) => "peer_unreachable", NotAvailable;
        /// The other host speaks protocol version 1, which has no calls.
        #[error("{host} runs a release of standin that cannot be asked about VMs")]
        OldVersion {
            /// The host.
            host: String,
        } => "peer_of_old_release", NotAvailable;
        /// Another host answers at the address of the one that is meant.
        #[error("another host answers at {address}: {name} (id {found})")]
        OtherHost {
            /// Where.
            address: String,
            /// Who it is.
            name: String,
            /// Its id.
            found: HostId,
        } => "peer_address_of_another", NotAvailable;
        /// The other host takes no link from this one, or refused a call.
        #[error("{0}")]
        Refused(Refusal) => "peer_refuses_link", NotAvailable;
        /// The other host did not answer in time.
        #[error("{host} does not answer")]
        NoAnswer {
            /// The host.
            host: String,
        } => "peer_no_answer", NotAvailable;
        /// The link with the other host ended before the answer came.
        #[error("the link with {host} ended: {reason}")]
        Ended {
            /// The host.
            host: String,
            /// Why.
            reason: String,
        } => "peer_link_ended", NotAvailable;
        /// What the other host answered cannot be read.
        #[error("{host} answered something that this release does not understand: {reason}")]
        Unreadable {
            /// The host.
            host: String,
            /// What is wrong with it.
            reason: String,
        } => "peer_answer_unreadable", NotAvailable;
        /// The call to the other host is longer than a message may be.
        #[error("{host} cannot be asked: {reason}")]
        Unsendable {
            /// The host.
            host: String,
            /// Why.
            reason: String,
        } => "peer_call_too_long", NotAvailable;
        /// The other host was not asked, because this daemon is stopping.
        #[error("this daemon is stopping")]
        Stopping => "not_asked_stopping", NotAvailable;
    }
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

    /// What whoever asked gets to see of it.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        Reason::refusal(self)
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
}

impl Reason for Silence {
    fn text(&self) -> Text {
        Text::new(self.to_string(), self.remedy())
    }
}
