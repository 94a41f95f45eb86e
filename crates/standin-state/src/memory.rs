//! A state store in memory, for tests of what stands on one. Same contract, nothing survives.

use crate::Result;
use crate::lease::Lease;
use crate::store::{Expect, Op, Revision, StateStore, Versioned, check_key, check_ops};
use crate::watch::{Change, Changes, Watch};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
struct Content {
    records: BTreeMap<String, Versioned>,
    last: Revision,
    changes: Changes,
}

impl Content {
    fn transaction(&mut self, ops: Vec<Op>) -> Result<Revision> {
        for op in &ops {
            op.expect().check(op.key(), self.records.get(op.key()).map(|record| record.revision))?;
        }
        self.last = Revision(self.last.0 + 1);
        let revision = self.last;
        for op in ops {
            match op {
                Op::Put { key, value, .. } => {
                    self.records.insert(key.clone(), Versioned { value: value.clone(), revision });
                    self.changes.tell(Change { key, revision, value: Some(value) });
                }
                Op::Delete { key, .. } => {
                    if self.records.remove(&key).is_some() {
                        self.changes.tell(Change { key, revision, value: None });
                    }
                }
                Op::Check { .. } => {}
            }
        }
        Ok(revision)
    }
}

/// A state store in memory. Its calls are ready at once.
#[derive(Debug, Default)]
pub struct MemoryStore {
    content: Arc<Mutex<Content>>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        lock(&self.content)
    }
}

/// A transaction checks everything before it changes anything, and the changes themselves do not panic.
fn lock(content: &Mutex<Content>) -> MutexGuard<'_, Content> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl StateStore for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        check_key(key)?;
        Ok(self.content().records.get(key).cloned())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        let content = self.content();
        let from = content.records.range(prefix.to_owned()..);
        let matching = from.take_while(|(key, _)| key.starts_with(prefix));
        Ok(matching.map(|(key, record)| (key.clone(), record.clone())).collect())
    }

    async fn transaction(&self, ops: Vec<Op>) -> Result<Revision> {
        check_ops(&ops)?;
        self.content().transaction(ops)
    }

    async fn watch(&self, prefix: &str) -> Result<Watch> {
        Ok(self.content().changes.watch(prefix))
    }

    async fn lease(&self, key: &str, value: Vec<u8>, _ttl: Duration) -> Result<Lease> {
        let ops = vec![Op::Put { key: key.to_owned(), value, expect: Expect::Absent }];
        check_ops(&ops)?;
        let mut content = self.content();
        let watch = content.changes.watch(key);
        let revision = content.transaction(ops)?;
        let (held, released) = (Arc::downgrade(&self.content), key.to_owned());
        let release = move || {
            let Some(content) = held.upgrade() else { return };
            let delete = Op::Delete { key: released, expect: Expect::At(revision) };
            // Somebody else's record by now: not this lease's to remove.
            drop(lock(&content).transaction(vec![delete]));
        };
        Ok(Lease::new(key, revision, watch, Box::new(release)))
    }
}
