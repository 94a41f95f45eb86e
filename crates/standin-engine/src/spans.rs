//! Whom a line of the log is about: each is written within the spans of its VM or relationship, of the flow that a job
//! does, and of the recovery point. All are of level ERROR, so that no filter takes them from a line that it keeps. What
//! has a task of its own is nobody's child: whoever happened to begin it has no part in what it says later.

use standin_model::{Epoch, JobId, RelationshipId, VmId, VmName};
use tracing::{Span, error_span, field::Empty};

/// What the one task of a VM does. Its name is added when it has one.
pub(crate) fn vm(id: VmId, name: Option<&VmName>) -> Span {
    let span = error_span!(parent: None, "vm", vm = Empty, id = %id);
    if let Some(name) = name {
        span.record("vm", tracing::field::display(name));
    }
    span
}

/// What is done for a relationship that this host sends in.
pub(crate) fn sender(id: RelationshipId, name: &VmName) -> Span {
    error_span!(parent: None, "sender", vm = %name, relationship = %id)
}

/// What is done for a relationship that this host receives in.
pub(crate) fn receiver(id: RelationshipId, name: &VmName) -> Span {
    error_span!(parent: None, "receiver", vm = %name, relationship = %id)
}

/// What a job does, to what `about` is about.
pub(crate) fn flow(about: &Span, kind: &'static str, job: JobId) -> Span {
    error_span!(parent: about, "flow", flow = %kind, %job)
}

/// What is done for one recovery point.
pub(crate) fn point(epoch: Epoch) -> Span {
    error_span!("point", point = %epoch)
}

/// A session of another host, before it has said which relationship it is about.
pub(crate) fn session(peer: &impl std::fmt::Display) -> Span {
    error_span!("session", %peer)
}

/// The VM that the span is about has this name from now on.
pub(crate) fn has_name(name: &VmName) {
    Span::current().record("vm", tracing::field::display(name));
}
