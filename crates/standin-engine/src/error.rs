//! Why a piece of work for a relationship failed, told apart where the engine must branch: what a retry can
//! mend, what needs a resynchronization, what needs a person.

use jiff::Timestamp;
use standin_model::fence::Claim;
use standin_model::reason::{Named, Reason, Text};
use standin_model::{PointId, Refusal, ReturnCode, VmName, reasons};
use std::borrow::Cow;
use thiserror::Error;

reasons! {
    /// Why a cycle, a first copy or a resynchronization ended early. In every case the primary's recording marks
    /// still know all that the replica lacks.
    #[derive(Debug, Error)]
    pub enum WorkError {
        /// The replica host did not answer or the connection broke.
        #[error("{}", link_failed(peer, source))]
        Link {
            /// The address that was tried.
            peer: String,
            /// What broke.
            #[source]
            source: Box<standin_wire::Error>,
        } => "link_failed", NotAvailable;
        /// The replica answered with a refusal. Its own reason is told where it has one.
        #[error("{peer} refused: {}", refusal.message)]
        Refused {
            /// The replica's address.
            peer: String,
            /// Its answer.
            refusal: Refusal,
            /// The highest claim that it knows, where it told.
            claim: Option<Box<Claim>>,
            /// Another host holds this VM.
            failed_over: bool,
        } => "peer_refused", Failed;
        /// The host at the replica's address presents an id that is not its own.
        #[error("{}", refusal.message)]
        NotItself {
            /// Why, and what to do.
            refusal: Refusal,
        } => "peer_not_itself", AccessDenied;
        /// The replica said something that the protocol does not have here.
        #[error("{peer} answered out of turn: {what}")]
        OutOfTurn {
            /// The replica's address.
            peer: String,
            /// What came.
            what: String,
        } => "peer_out_of_turn", Failed;
        /// A block could not be put into a frame.
        #[error("a block of the disk could not be encoded")]
        Encode {
            /// The wire's reason.
            #[source]
            source: standin_wire::Error,
        } => "block_not_encoded", Failed;
        /// The hypervisor on the primary failed while a cycle asked it for the disks.
        #[error("{context}")]
        Hypervisor {
            /// Verb and object.
            context: String,
            /// Its error.
            #[source]
            source: standin_hypervisor::Error,
        } => "disks_not_read", Failed;
        /// The view of the disks broke while a cycle read it.
        #[error("the view of the disks was lost: {0}")]
        ViewLost(String) => "view_lost", Failed;
        /// What changed since the last point is not known any more.
        #[error("change tracking was lost: {0}")]
        TrackingLost(String) => "tracking_lost", Failed;
        /// The replica has sealed something else than what was sent.
        #[error(
            "the replica of VM {vm} on {peer} is not what was sent to it: the digest of {disks} differs at recovery \
             point {point}"
        )]
        ReplicaDiffers {
            /// The VM's name.
            vm: VmName,
            /// The replica's address.
            peer: String,
            /// Which disks, in words.
            disks: String,
            /// The point that was sealed.
            point: PointId,
        } => "replica_differs", Failed;
        /// The replica has less than it acknowledged: an older copy of its disks was put back.
        #[error("{}", older_replica(vm, peer, *lost, *since, *until))]
        ReplicaOlder {
            /// The VM's name.
            vm: VmName,
            /// The replica's address.
            peer: String,
            /// Epochs that are gone: so many recovery points at most.
            lost: u64,
            /// The cut of the newest point that is there.
            since: Option<Timestamp>,
            /// The cut of the newest one that was acknowledged.
            until: Option<Timestamp>,
        } => "replica_older", Failed;
        /// The VM is off: there is nothing to cut, and nothing changes.
        #[error("the VM is not running")]
        NotRunning => "vm_not_running", InvalidState;
        /// A disk is not as the relationship has it.
        #[error("{message}")]
        DiskChanged {
            /// Which disk and how.
            message: String,
            /// What to do.
            remedy: String,
        } => "disk_changed", Failed;
        /// Somebody cancelled the work.
        #[error("cancelled")]
        Cancelled => "work_cancelled", Failed;
        /// A local file could not be read or written.
        #[error("{context}")]
        Io {
            /// Verb and object.
            context: String,
            /// The system's error.
            #[source]
            source: std::io::Error,
        } => "local_io_failed", Failed;
    }
}

impl WorkError {
    /// What a person should do now. A retry happens by itself in any case but `TrackingLost`,
    /// `ReplicaOlder`, `ReplicaDiffers` and `Cancelled`.
    fn remedy(&self) -> String {
        match self {
            Self::Link { source, .. } => source.remedy().to_string(),
            Self::Refused { refusal, .. } | Self::NotItself { refusal } => refusal.remedy.clone(),
            Self::OutOfTurn { .. } | Self::Encode { .. } => {
                "Look at the replica's log; run the same version of standin on both hosts.".to_owned()
            }
            Self::Hypervisor { source, .. } => source.remedy().to_string(),
            Self::ViewLost(_) => {
                "Nothing is lost; the next cycle sends the changes. If it happens again, give the scratch \
                 directory more space."
                    .to_owned()
            }
            Self::TrackingLost(_) | Self::ReplicaOlder { .. } => {
                "A resynchronization compares both sides and sends what differs: `standin resync VM`."
                    .to_owned()
            }
            Self::ReplicaDiffers { .. } => {
                "A resynchronization compares both sides and mends the replica: `standin resync VM`. Run `standin \
                 store check` on the replica host: it says which points are good; see to its memory and storage."
                    .to_owned()
            }
            Self::NotRunning => "The next cycle comes when it runs again; `standin vm start VM`.".to_owned(),
            Self::DiskChanged { remedy, .. } => remedy.clone(),
            Self::Cancelled => "Nothing is lost; start it again when you want it.".to_owned(),
            Self::Io { .. } => "See to the file system that the message names.".to_owned(),
        }
    }

    /// No retry mends it: a person must change something.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::DiskChanged { .. } => true,
            Self::Refused { refusal, .. } | Self::NotItself { refusal } => matches!(
                refusal.code,
                ReturnCode::AccessDenied | ReturnCode::InvalidParameter | ReturnCode::NotSupported
            ),
            _ => false,
        }
    }

    /// What whoever asked gets to see of it.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        Reason::refusal(self)
    }

    /// What this host has recorded of changes does not count: only a comparison tells what differs.
    #[must_use]
    pub fn asks_for_a_comparison(&self) -> bool {
        matches!(self, Self::TrackingLost(_) | Self::ReplicaOlder { .. } | Self::ReplicaDiffers { .. })
    }

    /// The connection to `peer` failed.
    pub fn link(peer: &str, source: standin_wire::Error) -> Self {
        Self::Link { peer: peer.to_owned(), source: Box::new(source) }
    }

    /// Wraps a hypervisor error with what was tried.
    pub fn hypervisor(context: impl Into<String>) -> impl FnOnce(standin_hypervisor::Error) -> Self {
        let context = context.into();
        move |source| Self::Hypervisor { context, source }
    }
}

impl Reason for WorkError {
    /// The error with its chain of causes in one sentence, and the remedy. A retry happens by itself in any case but
    /// `TrackingLost`, `ReplicaOlder`, `ReplicaDiffers` and `Cancelled`.
    fn text(&self) -> Text {
        Text::new(chain(self), self.remedy())
    }

    /// What the other host said, or what is known of it, has a reason of its own: that is the one.
    fn refusal(&self) -> Refusal {
        let Text { message, remedy } = self.text();
        match self {
            Self::Refused { refusal, .. } | Self::NotItself { refusal } => {
                let reason = refusal.named().map_or(Cow::Borrowed(self.name()), Cow::Owned);
                Refusal::told(refusal.code, reason, message, remedy)
            }
            _ => Refusal::told(self.code(), self.name(), message, remedy),
        }
    }
}

fn older_replica(
    vm: &VmName,
    peer: &str,
    lost: u64,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
) -> String {
    let points =
        if lost == 1 { "one recovery point".to_owned() } else { format!("up to {lost} recovery points") };
    let after = since.map(|at| format!(" after that of {at:.0}")).unwrap_or_default();
    let last = until.map(|at| format!(", the newest of {at:.0}")).unwrap_or_default();
    format!(
        "the replica of VM {vm} on {peer} has lost {points} that it acknowledged{after}{last}: older disks were put back there"
    )
}

/// An error that names the peer itself needs no words before it; its causes come after, see [`chain`].
fn link_failed(peer: &str, source: &standin_wire::Error) -> String {
    use standin_wire::Error as E;
    match source {
        E::Connect { .. } | E::Tls { .. } | E::Version { .. } => source.to_string(),
        _ => format!("the connection to {peer} failed"),
    }
}

/// The system had no memory for it: another try may succeed when it has.
#[must_use]
pub fn out_of_memory(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::OutOfMemory
}

/// An error and its causes, joined with colons.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let part = inner.to_string();
        // A cause whose text the outer one already shows would only be said twice.
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_cannot_be_reached_is_named_once_and_the_reason_is_said_once() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let source = standin_wire::Error::Connect { address: "b:1".into(), source: refused };
        let text = WorkError::link("b:1", source).refusal().message;
        assert_eq!(text, "cannot connect to b:1: connection refused");
        let closed = standin_wire::Error::Closed { mid_frame: false };
        let text = WorkError::link("b:1", closed).refusal().message;
        assert_eq!(text, "the connection to b:1 failed: the peer closed the connection without a goodbye");
    }
}
