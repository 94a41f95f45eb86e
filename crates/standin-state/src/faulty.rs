//! A store for tests of what stands on one: the world stops at a transaction that the test chose.
//!
//! What a crash looks like from inside is that a call never returns. So at the n-th transaction, before or after it took
//! effect, its call stays pending, [`FaultyStore::stopped`] tells the test, and from then on no call returns, not even one
//! that was under way. The test then throws away what stood on the store, and begins anew on the one below
//! ([`FaultyStore::inner`]), as a next process would. A crash is not an error: code that meets it must not go on.
//!
//! Watches that were made before go on, and the record of a lease goes when the test drops its holder.

use crate::Result;
use crate::lease::Lease;
use crate::store::{Op, Revision, StateStore, Versioned};
use crate::watch::Watch;
use async_trait::async_trait;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Where the world stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopAt {
    /// Before the n-th transaction took effect. The first is 1.
    Before(u64),
    /// After the n-th took effect, and before anybody learned it.
    After(u64),
}

#[derive(Debug, Default)]
struct Counted {
    /// Transactions that began, leases among them.
    transactions: u64,
    stop: Option<StopAt>,
}

/// A store that stops the world. See the module's doc.
pub struct FaultyStore {
    inner: Arc<dyn StateStore>,
    counted: Mutex<Counted>,
    stopped: watch::Sender<bool>,
}

impl FaultyStore {
    /// A store that passes everything on to `inner` until it is told where to stop.
    #[must_use]
    pub fn new(inner: Arc<dyn StateStore>) -> Self {
        Self { inner, counted: Mutex::default(), stopped: watch::Sender::new(false) }
    }

    /// Chooses where the world stops; counted from the making of this store, see [`Self::transactions`].
    pub fn stop_at(&self, stop: StopAt) {
        self.counted().stop = Some(stop);
    }

    /// Stops the world now.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Transactions so far, leases and refused ones among them.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.counted().transactions
    }

    /// Waits until the world has stopped.
    pub async fn stopped(&self) {
        let mut stopped = self.stopped.subscribe();
        // The sender is this store's own.
        drop(stopped.wait_for(|stopped| *stopped).await);
    }

    /// What it passes calls on to: what the next process finds.
    #[must_use]
    pub fn inner(&self) -> &Arc<dyn StateStore> {
        &self.inner
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        // Whole after any panic: each change is one assignment.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does not return once the world has stopped.
    async fn goes_on(&self) {
        let stopped = *self.stopped.borrow();
        if stopped {
            std::future::pending::<()>().await;
        }
    }

    async fn read<T>(&self, call: impl Future<Output = T> + Send) -> T {
        self.goes_on().await;
        let answer = call.await;
        self.goes_on().await;
        answer
    }

    async fn write<T>(&self, call: impl Future<Output = T> + Send) -> T {
        self.goes_on().await;
        let (number, stop) = {
            let mut counted = self.counted();
            counted.transactions += 1;
            (counted.transactions, counted.stop)
        };
        if stop == Some(StopAt::Before(number)) {
            self.stop();
        }
        self.goes_on().await;
        let answer = call.await;
        if stop == Some(StopAt::After(number)) {
            self.stop();
        }
        self.goes_on().await;
        answer
    }
}

#[async_trait]
impl StateStore for FaultyStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        self.read(self.inner.get(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        self.read(self.inner.list(prefix)).await
    }

    async fn transaction(&self, ops: Vec<Op>) -> Result<Revision> {
        self.write(self.inner.transaction(ops)).await
    }

    async fn watch(&self, prefix: &str) -> Result<Watch> {
        self.read(self.inner.watch(prefix)).await
    }

    async fn lease(&self, key: &str, value: Vec<u8>, ttl: Duration) -> Result<Lease> {
        self.write(self.inner.lease(key, value, ttl)).await
    }
}
