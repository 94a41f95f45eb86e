//! The state store of a single daemon: one file, by redb, on a thread of its own.
//!
//! Every transaction is flushed before it is acknowledged; those that wait meanwhile share the next flush. The file is
//! checked as a whole when it is opened; beyond that every record carries a digest over its key, revision and bytes, so
//! that a bit that flips while the daemon runs is an error and never another value:
//!
//! ```text
//!   byte 0      1 .. 9           9 .. 25        25 ..
//!   format 1    revision, LE     digest         value
//! ```
//!
//! Leases are records whose key stands in a second table; the next process that opens the file removes them first.
//!
//! After a failed write what is on the disk is not known, so the store is closed for good; the next start
//! checks it.

mod content;
mod file;
mod record;
mod thread;

use crate::Result;
use crate::error::StateError;
use crate::lease::Lease;
use crate::store::{Expect, Op, Revision, StateStore, Versioned, check_key, check_ops};
use crate::watch::Watch;
use async_trait::async_trait;
use content::Content;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;
use thread::{Answer, Request};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// The state store of a single daemon. See the module's doc.
///
/// Dropped, it waits until everything that was asked of it is done and the file is closed: some flushes of a disk.
#[derive(Debug)]
pub struct RedbStore {
    path: PathBuf,
    /// `None` only while it is dropped.
    queue: Option<UnboundedSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl RedbStore {
    /// Opens the store at `path` and checks all of it, or makes an empty one. The directory must exist. It blocks while
    /// it reads the file.
    ///
    /// # Errors
    /// [`StateError::Corrupt`] when the file is not a whole store, [`StateError::InUse`] when another process
    /// has it open, [`StateError::Io`] for the rest.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let store = Self::start(Content::open(&path)?, path)?;
        tracing::debug!(path = %store.path.display(), "opened the state");
        Ok(store)
    }

    fn start(content: Content, path: PathBuf) -> Result<Self> {
        let (queue, thread) =
            thread::start(content).map_err(|source| file::io_error("start the thread of", &path, source))?;
        Ok(Self { path, queue: Some(queue), thread: Some(thread) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks the thread, and waits for its answer.
    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let closed = || StateError::Closed { path: self.path.clone() };
        let queue = self.queue.as_ref().ok_or_else(closed)?;
        queue.send(request(answer)).map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        // The thread ends when its queue has no sender and nothing in it.
        self.queue = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(path = %self.path.display(), "the thread of the state ended by a defect");
        }
    }
}

#[async_trait]
impl StateStore for RedbStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        check_key(key)?;
        self.ask(|answer| Request::Get { key: key.to_owned(), answer }).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        self.ask(|answer| Request::List { prefix: prefix.to_owned(), answer }).await
    }

    async fn transaction(&self, ops: Vec<Op>) -> Result<Revision> {
        check_ops(&ops)?;
        self.ask(|answer| Request::Transaction { ops, answer }).await
    }

    async fn watch(&self, prefix: &str) -> Result<Watch> {
        self.ask(|answer| Request::Watch { prefix: prefix.to_owned(), answer }).await
    }

    async fn lease(&self, key: &str, value: Vec<u8>, _ttl: Duration) -> Result<Lease> {
        let put = Op::Put { key: key.to_owned(), value, expect: Expect::Absent };
        check_ops(std::slice::from_ref(&put))?;
        self.ask(|answer| Request::Lease { put, answer }).await
    }
}

#[cfg(test)]
mod tests;
