//! Why a job does not begin, is not there, or ended without what it was begun for.

use standin_model::JobId;
use standin_model::reason::{Reason, Text};
use standin_model::reasons;

reasons! {
    /// Why a job does not begin, is not there, or ended without what it was begun for.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Job {
        /// The daemon is stopping and begins nothing new.
        Stopping { what: String } => "job_not_begun", NotAvailable;
        /// Another job works on the VM and does not end soon.
        Busy { what: String } => "another_job_works", InUse;
        /// There is no such job, or it ended more than five minutes ago.
        Unknown { id: JobId } => "unknown_job", FileNotFound;
        /// The job was ended on request.
        Cancelled => "job_cancelled", Failed;
        /// A defect of standin ended the job.
        NoResult => "job_without_result", Failed;
    }
}

impl Reason for Job {
    fn text(&self) -> Text {
        match self {
            Self::Stopping { what } => Text::new(
                format!("the daemon is stopping, so it does not begin: {what}"),
                "Ask again when the daemon is up.",
            ),
            Self::Busy { what } => Text::new(
                format!("another job works on the VM: {what}"),
                "Wait until it has ended; `standin jobs` shows how far it is.",
            ),
            Self::Unknown { id } => Text::new(
                format!("there is no job {id}"),
                "Jobs are kept for five minutes after their end; `standin jobs` lists those that are there.",
            ),
            Self::Cancelled => Text::new(
                "it was ended on request",
                "Start it again when it is wanted; nothing half done was left behind.",
            ),
            Self::NoResult => Text::new(
                "the operation ended without a result",
                "Look at the daemon's log, and start the operation again.",
            ),
        }
    }
}
