//! Starts write-back early: a thread that syncs files while they are still being written, so that the sync
//! before a seal finds little to do.
//!
//! The kernel reports a failed write-back once, to whoever syncs first. So an error seen here fails the layer.

use crate::error::{Error, Result};
use crate::io::Handle;
use crate::replica::lock;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Arc<Handle>>,
    stop: bool,
    error: Option<Error>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

/// The thread; it begins to run with the first file.
#[derive(Debug, Default)]
pub(crate) struct Syncer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Syncer {
    /// Asks for a file to be synced. Answers at once; an earlier error is handed out here.
    pub(crate) fn request(&self, file: Arc<Handle>) -> Result<()> {
        let mut state = lock(&self.shared.state);
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        if state.queue.iter().any(|queued| Arc::ptr_eq(queued, &file)) {
            return Ok(());
        }
        state.queue.push_back(file);
        drop(state);
        self.shared.wake.notify_one();
        let mut thread = lock(&self.thread);
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let builder = std::thread::Builder::new().name("store-sync".into());
            let spawned = builder.spawn(move || run(&shared));
            *thread = Some(spawned.map_err(|e| Error::Io {
                op: "start a thread for",
                path: "write-back".into(),
                source: e,
            })?);
        }
        Ok(())
    }

    /// Ends the thread; what it has not begun to sync is left to the caller.
    pub(crate) fn stop(&self) -> Result<()> {
        lock(&self.shared.state).stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            // A panic of the thread is a lost sync.
            thread.join().map_err(|_| Error::Poisoned)?;
        }
        lock(&self.shared.state).error.take().map_or(Ok(()), Err)
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::debug!(%error, "write-back of a layer that is not sealed");
        }
    }
}

fn run(shared: &Shared) {
    let mut state = lock(&shared.state);
    loop {
        if state.stop {
            return;
        }
        let Some(file) = state.queue.pop_front() else {
            state = shared.wake.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
            continue;
        };
        drop(state);
        let outcome = file.sync();
        state = lock(&shared.state);
        if let Err(error) = outcome {
            state.error = Some(error);
            return;
        }
    }
}
