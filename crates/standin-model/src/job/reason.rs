//! Why a job cannot do what it is asked for, and why one ended by itself.

use super::{JobState, JobType};
use crate::ids::JobId;
use crate::reason::{Reason, Text};
use crate::reasons;

reasons! {
    /// Why a job cannot do what it is asked for, and why one ended by itself.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Job {
        /// A job of this kind is carried to its end.
        NotCancellable { id: JobId, what: JobType } => "job_not_cancellable", NotSupported;
        /// The daemon ended while the job worked.
        Interrupted { id: JobId, what: JobType } => "job_interrupted", Failed;
        /// The job is in a state that does not allow it, as to cancel one that has ended.
        State { verb: &'static str, id: JobId, what: JobType, state: JobState } => "job_state", InvalidState;
    }
}

impl Reason for Job {
    fn text(&self) -> Text {
        match self {
            Self::NotCancellable { id, what } => Text::new(
                format!("job {id} ({what}) cannot be cancelled"),
                "Wait until it has ended; `standin jobs --watch` shows how far it is.",
            ),
            Self::Interrupted { id, what } => Text::new(
                format!("the daemon ended during job {id} ({what})"),
                "Start it again; nothing half done was left behind.",
            ),
            Self::State { verb, id, what, state } => Text::new(
                format!("cannot {verb} job {id} ({what}): it is {}", state.name().to_lowercase()),
                if state.is_final() {
                    "It has ended; start a new one if it is still needed."
                } else {
                    "Look at `standin jobs` and repeat it from the state it shows."
                },
            ),
        }
    }
}
