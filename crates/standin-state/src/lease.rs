//! A record that goes with whoever holds it.

use crate::store::Revision;
use crate::watch::{Missed, Watch};
use std::fmt;

/// Removes the record in the background.
pub(crate) type Release = Box<dyn FnOnce() + Send + Sync>;

/// Holds a record that was written by [`crate::StateStore::lease`]: dropped, the record is removed soon after.
pub struct Lease {
    key: String,
    revision: Revision,
    watch: Watch,
    release: Option<Release>,
}

impl Lease {
    /// `watch` began before the record was written.
    pub(crate) fn new(key: &str, revision: Revision, watch: Watch, release: Release) -> Self {
        Self { key: key.to_owned(), revision, watch, release: Some(release) }
    }

    /// Which record.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The transaction that wrote it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Waits until the record is no longer what this lease wrote, or may not be: somebody replaced or removed it, or the
    /// store closed, or changes were missed. Whoever acts by the lease then stops.
    pub async fn lost(&mut self) {
        loop {
            match self.watch.next().await {
                Ok(change) if change.key == self.key && change.revision > self.revision => return,
                Ok(_) => {}
                Err(Missed::Lagged | Missed::Closed) => return,
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release();
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("key", &self.key)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}
