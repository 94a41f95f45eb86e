//! How the rest of the engine reaches the task of a relationship: it asks by [`Command`], and sees the last
//! [`Snapshot`] without waiting.

use super::reason::Primary;
use crate::records::PrimaryRecord;
use jiff::Timestamp;
use standin_model::fence::WhenSilent;
use standin_model::network::AdapterSettings;
use standin_model::settings::SettingsChange;
use standin_model::{JobId, Refusal, VmName};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// What a relationship's task is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Ask a replica of the version before whether it has failed over; the VM is about to be started.
    Greet,
    /// Another host holds the VM: end what is sent, and be done with it.
    Yield,
    /// Start the initial replication.
    Start,
    /// Start the initial replication at a time to come.
    StartAt(Timestamp),
    /// Give the initial replication up; what arrived stays.
    CancelInitial,
    /// Pause.
    Suspend,
    /// Go on after a pause, out of a critical state, or with a paused resynchronization.
    Resume,
    /// Take a recovery point now.
    Point {
        /// With the guest frozen by its agent.
        application: bool,
    },
    /// Compare and send what differs.
    Resynchronize,
    /// Give the comparison up.
    CancelResynchronize,
    /// Begin to count anew.
    ResetStatistics,
    /// Change the settings, or where the replica is.
    Modify(Box<Modification>),
    /// The VM has another name on this host.
    Renamed(VmName),
    /// Change what network cards of the VM get at a failover, by their names; `None` clears.
    Network(Vec<(String, Option<AdapterSettings>)>),
    /// End the relationship on this side and, if it can be reached, on the other.
    Remove,
}

/// What is to change of a relationship; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modification {
    /// Of what was agreed.
    pub settings: SettingsChange,
    /// The `host:port` at which the same replica is found now.
    pub peer: Option<String>,
    /// What this host does at a start of the VM when another host that could run it is silent; `Some(None)` for what the
    /// host is configured to. Of this host alone, on either side of a relationship.
    pub when_silent: Option<Option<WhenSilent>>,
}

impl Modification {
    /// Nothing of it concerns the relationship.
    pub(crate) fn is_of_this_host_alone(&self) -> bool {
        self.when_silent.is_some() && *self == Self { when_silent: self.when_silent, ..Self::default() }
    }
}

impl From<SettingsChange> for Modification {
    fn from(settings: SettingsChange) -> Self {
        Self { settings, ..Self::default() }
    }
}

/// Where the decision on a command goes.
pub(super) type Answer = oneshot::Sender<Result<Option<JobId>, Refusal>>;

/// What a relationship looks like from outside.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The record as it is stored.
    pub record: PrimaryRecord,
    /// What runs now, in a word for people.
    pub activity: Option<&'static str>,
    /// Bytes done and in all of what runs now.
    pub progress: (u64, u64),
    /// How long it has been running.
    pub since: Duration,
    /// The VM runs.
    pub running: bool,
    /// The relationship was removed; the task has ended.
    pub removed: bool,
}

impl Snapshot {
    /// Bytes a second of what runs now, on average.
    #[must_use]
    pub fn rate(&self) -> u64 {
        let millis = u64::try_from(self.since.as_millis()).unwrap_or(u64::MAX).max(1);
        self.progress.0.saturating_mul(1000) / millis
    }
}

/// Reaches the task of a relationship.
#[derive(Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<(Command, Answer)>,
    pub(super) snapshot: watch::Receiver<Snapshot>,
}

impl Handle {
    /// Asks for something and waits until it is decided (not until it is done).
    ///
    /// # Errors
    /// The task's refusal.
    pub async fn ask(&self, command: Command) -> Result<Option<JobId>, Refusal> {
        let gone = || Refusal::from(Primary::Removed);
        let (answer, decided) = oneshot::channel();
        self.commands.send((command, answer)).await.map_err(|_| gone())?;
        decided.await.map_err(|_| gone())?
    }

    /// Both reach the same task.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.commands.same_channel(&other.commands)
    }

    /// The relationship as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }
}
