//! Why a relationship cannot step.

use super::Event;
use crate::reason::{Reason, Text};
use crate::reasons;
use crate::state::{ReplicationState, Side};

reasons! {
    /// Why a relationship cannot step.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum NoStep {
        /// A defect of standin: what happened has no place in the state of the relationship.
        Misplaced { event: Event, state: ReplicationState, side: Side } => "event_out_of_place", InvalidState;
    }
}

impl Reason for NoStep {
    fn text(&self) -> Text {
        let Self::Misplaced { event, state, side } = self;
        Text::new(
            format!("the event {event} has no place in state {} ({state}) of a {side}", state.code()),
            "Look at `standin status` and repeat what you asked for from the state it shows; \
             if it comes again, report it with the daemon's log.",
        )
    }
}
