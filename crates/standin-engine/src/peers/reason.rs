//! Why a host is not let in, not known, or not answered.

use standin_model::reason::{Reason, Text};
use standin_model::{HostId, reasons};

reasons! {
    /// Why a host is not let in, not known, or not answered.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Peer {
        /// The certificate of a host carries no name of its own. A primary that is to be let in is refused by 32769.
        Nameless { address: String } => "certificate_without_name", InvalidParameter;
        /// A host presents the id of the very host that it speaks to.
        SameAsHere { name: String } => "host_id_is_own", AccessDenied;
        /// A host presents an id that is bound to another certificate.
        IdOfAnother { id: HostId, name: String, owner: Option<String> } => "host_id_of_another", AccessDenied;
        /// This host has never met a host with that id.
        NeverMet { id: HostId } => "host_never_met", FileNotFound;
        /// A host is to be bound to a certificate without a name of its own.
        BoundToNoName => "host_bound_to_no_name", InvalidParameter;
        /// Another host has more calls open here than this host answers at once.
        Busy => "too_many_calls", InUse;
        /// The daemon has just started and does not answer other hosts yet.
        Starting => "daemon_starting", NotAvailable;
        /// A call of another host is not understood: it runs another release.
        NotUnderstood { why: String } => "call_not_understood", NotSupported;
        /// The answer to a call of another host does not fit into a message.
        TooLong => "answer_too_long", Failed;
    }
}

impl Reason for Peer {
    fn text(&self) -> Text {
        match self {
            Self::Nameless { address } => Text::new(
                format!("the certificate that came from {address} carries no name of its own"),
                "Issue a certificate with the host's name, then restart the daemon there.",
            ),
            Self::SameAsHere { name } => Text::new(
                format!("{name} presents the id of the very host that it speaks to"),
                "If the address leads back to the same host, correct it. If the data directory of one host was copied \
                 from the other, remove the file host-id there and restart its daemon.",
            ),
            Self::IdOfAnother { id, name, owner } => {
                let owner =
                    owner.as_ref().map(|owner| format!(", which is bound to {owner}")).unwrap_or_default();
                Text::new(
                    format!("{name} presents the host id {id}{owner}"),
                    format!(
                        "If that host got a certificate with another name, say so on the host that refuses: `standin peer \
                         rebind {id} {name}`; a replica host must also admit the name (`standin auth add {name}`). If its \
                         data directory was copied, remove the file host-id there and restart its daemon."
                    ),
                )
            }
            Self::NeverMet { id } => Text::new(
                format!("this host has never met a host with the id {id}"),
                "Name the id of a host that `standin peer list` shows; a host is met when it connects for the first time.",
            ),
            Self::BoundToNoName => Text::new(
                "a host cannot be bound to a certificate without a name of its own",
                "Name the host as its certificate does.",
            ),
            Self::Busy => {
                Text::new("this host answers as many calls of that host as it can", "Try again in a moment.")
            }
            Self::Starting => Text::new("this daemon has just started", "Try again in a moment."),
            Self::NotUnderstood { why } => Text::new(
                format!("this release of standin does not understand the call: {why}"),
                "Install the same standin release on both hosts.",
            ),
            Self::TooLong => {
                Text::new("the answer is longer than a message may be", "Report this as a bug of standin.")
            }
        }
    }
}
