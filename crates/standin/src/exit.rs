//! How a verb ends, and the exit status that follows from it. Verbs return a [`Failure`]; only `main` turns it
//! into a status and text, so that no verb can end the process with a number of its own.
//!
//! | Status | Meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | something on this machine failed: the configuration, a file, the start of the daemon |
//! | 2 | the command line is wrong |
//! | 3 | refused: nothing was changed |
//! | 4 | the job failed |
//! | 5 | no daemon answers |
//! | 130 | Ctrl-C while waiting; the job goes on |

use standin_model::Refusal;
use std::fmt;

/// Why a verb did not end well.
#[derive(Debug)]
pub enum Failure {
    /// Something local failed: the sentence says what and what to do.
    Local(anyhow::Error),
    /// An argument is well-formed for the parser and still makes no sense.
    Usage(String),
    /// The daemon (or a check before it) refused; nothing was changed.
    Refused(Refusal),
    /// The job was started and failed.
    JobFailed {
        /// Which job and what happened.
        message: String,
        /// What to do now; empty if the daemon gave none.
        remedy: String,
    },
    /// No daemon answers on the socket.
    NoDaemon(String),
    /// Ctrl-C while waiting for a job, which goes on.
    Interrupted(String),
}

impl Failure {
    /// The exit status.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Local(_) => 1,
            Self::Usage(_) => 2,
            Self::Refused(_) => 3,
            Self::JobFailed { .. } => 4,
            Self::NoDaemon(_) => 5,
            Self::Interrupted(_) => 130,
        }
    }
}

/// The text for the standard error output.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(error) => write!(f, "standin: {error:#}"),
            Self::Usage(message) => write!(f, "standin: {message}"),
            Self::Refused(refusal) => {
                write!(f, "refused ({}): {}", u32::from(refusal.code), refusal.message)?;
                remedy(f, &refusal.remedy)
            }
            Self::JobFailed { message, remedy: text } => {
                write!(f, "failed: {message}")?;
                remedy(f, text)
            }
            Self::NoDaemon(message) | Self::Interrupted(message) => f.write_str(message),
        }
    }
}

fn remedy(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    if text.is_empty() { Ok(()) } else { write!(f, "\nwhat to do: {text}") }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Local(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use standin_model::ReturnCode;

    #[test]
    fn a_refusal_shows_its_code_and_its_remedy() {
        let refusal =
            Refusal::told(ReturnCode::InvalidState, "replica_paused", "web is suspended", "Resume it first.");
        let failure = Failure::from(refusal);
        assert_eq!(failure.status(), 3);
        assert_eq!(failure.to_string(), "refused (32775): web is suspended\nwhat to do: Resume it first.");
    }

    #[test]
    fn every_ending_has_its_own_status() {
        let refusal = Refusal::told(ReturnCode::Failed, "", "", "");
        let all = [
            Failure::Local(anyhow::anyhow!("x")),
            Failure::Usage(String::new()),
            Failure::Refused(refusal),
            Failure::JobFailed { message: String::new(), remedy: String::new() },
            Failure::NoDaemon(String::new()),
            Failure::Interrupted(String::new()),
        ];
        let statuses: Vec<u8> = all.iter().map(Failure::status).collect();
        assert_eq!(statuses, [1, 2, 3, 4, 5, 130]);
    }
}
