//! A state store in memory, for tests of what stands on one. Same contract, nothing survives.

use crate::Result;
use crate::store::{Op, Revision, StateStore, Versioned, check_key, check_ops};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default, Clone)]
struct Content {
    records: BTreeMap<String, Versioned>,
    last: Revision,
}

/// A state store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    content: Mutex<Content>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A panic elsewhere while the lock was held left the content whole: a transaction replaces it at its end.
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateStore for MemoryStore {
    fn get(&self, key: &str) -> Result<Option<Versioned>> {
        check_key(key)?;
        Ok(self.content().records.get(key).cloned())
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        let content = self.content();
        let from = content.records.range(prefix.to_owned()..);
        let matching = from.take_while(|(key, _)| key.starts_with(prefix));
        Ok(matching.map(|(key, record)| (key.clone(), record.clone())).collect())
    }

    fn transaction(&self, ops: Vec<Op>) -> Result<Revision> {
        check_ops(&ops)?;
        let mut content = self.content();
        let mut next = content.clone();
        next.last = Revision(content.last.0 + 1);
        for op in ops {
            op.expect().check(op.key(), next.records.get(op.key()).map(|record| record.revision))?;
            match op {
                Op::Put { key, value, .. } => {
                    next.records.insert(key, Versioned { value, revision: next.last });
                }
                Op::Delete { key, .. } => {
                    next.records.remove(&key);
                }
                Op::Check { .. } => {}
            }
        }
        *content = next;
        Ok(content.last)
    }
}
