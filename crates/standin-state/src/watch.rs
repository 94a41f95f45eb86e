//! Changes of records, as they are committed.

use crate::store::Revision;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::broadcast;

/// Changes that a watch may be behind before it misses some.
const BEHIND: usize = 256;

/// What a committed transaction did to one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which record.
    pub key: String,
    /// The transaction.
    pub revision: Revision,
    /// What it holds now; `None` when it was removed.
    pub value: Option<Vec<u8>>,
}

/// Why a watch has no next change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Missed {
    /// Whoever watches was too slow, and some changes are lost to them. The watch goes on behind those.
    #[error("some changes of the state were missed; list the records again")]
    Lagged,
    /// The store is closed, and nothing will change any more.
    #[error("the state is closed, and nothing of it will change any more")]
    Closed,
}

/// The changes of the records below a prefix, in the order of their revisions. A transaction's changes are here before
/// it is acknowledged, so that whoever wrote something finds it in their own watch.
#[derive(Debug)]
pub struct Watch {
    prefix: String,
    changes: broadcast::Receiver<Arc<Change>>,
}

impl Watch {
    /// The next change. No change is lost when this future is dropped.
    ///
    /// # Errors
    /// [`Missed::Lagged`] once, when changes were lost; [`Missed::Closed`] at the end.
    pub async fn next(&mut self) -> Result<Change, Missed> {
        loop {
            match self.changes.recv().await {
                Ok(change) if change.key.starts_with(&self.prefix) => return Ok(Change::clone(&change)),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return Err(Missed::Lagged),
                Err(broadcast::error::RecvError::Closed) => return Err(Missed::Closed),
            }
        }
    }
}

/// Where an implementation tells its changes.
#[derive(Debug)]
pub(crate) struct Changes(broadcast::Sender<Arc<Change>>);

impl Default for Changes {
    fn default() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }
}

impl Changes {
    pub(crate) fn watch(&self, prefix: &str) -> Watch {
        Watch { prefix: prefix.to_owned(), changes: self.0.subscribe() }
    }

    pub(crate) fn tell(&self, change: Change) {
        // It fails only where nobody watches.
        drop(self.0.send(Arc::new(change)));
    }
}
