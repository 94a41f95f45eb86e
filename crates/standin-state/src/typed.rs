//! Records with a type and a schema version, as JSON, over a [`StateStore`].
//!
//! ```text
//!   relationship/1f0c.../0   {"schema":2,"record":{...}}
//! ```
//!
//! An older version is brought up step by step when it is read, and written in the new form with the next
//! change. A newer one is an error that says so: an old daemon must not write over what it does not know.

use crate::Result;
use crate::error::StateError;
use crate::store::{Expect, Op, Revision, StateStore};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// Brings a record from one schema version to the next. An error says what is wrong with it.
pub type Upgrade = fn(record: Value) -> std::result::Result<Value, String>;

/// The records of one type. Cheap to clone.
pub struct Typed<T> {
    store: Arc<dyn StateStore>,
    prefix: &'static str,
    /// The first brings version 1 to version 2; the last brings what it gets to the version of today.
    upgrades: &'static [Upgrade],
    record: PhantomData<fn() -> T>,
}

impl<T> Clone for Typed<T> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            prefix: self.prefix,
            upgrades: self.upgrades,
            record: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Typed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Typed").field("prefix", &self.prefix).field("upgrades", &self.upgrades.len()).finish()
    }
}

#[derive(Deserialize)]
struct Stored {
    schema: u32,
    record: Value,
}

#[derive(Serialize)]
struct Storing<'a, T> {
    schema: u32,
    record: &'a T,
}

impl<T: Serialize + DeserializeOwned> Typed<T> {
    /// The records below `prefix/`. The schema version is one more than there are `upgrades`: the first of them brings a
    /// record of version 1 to version 2, and so on. A version that cannot be brought up any more has an upgrade that
    /// says so.
    #[must_use]
    pub fn new(store: Arc<dyn StateStore>, prefix: &'static str, upgrades: &'static [Upgrade]) -> Self {
        Self { store, prefix, upgrades, record: PhantomData }
    }

    fn schema(&self) -> u32 {
        // A chain of upgrades is written by hand.
        u32::try_from(self.upgrades.len()).map_or(u32::MAX, |steps| steps.saturating_add(1))
    }

    /// The store, for transactions that mix types.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn StateStore> {
        &self.store
    }

    /// The key of a record, for transactions that mix types.
    #[must_use]
    pub fn key(&self, id: impl fmt::Display) -> String {
        format!("{}/{id}", self.prefix)
    }

    /// The record, if there is one.
    ///
    /// # Errors
    /// [`StateError::BadRecord`] or [`StateError::NewerSchema`] for one that cannot be read, and those of the
    /// store.
    pub async fn get(&self, id: impl fmt::Display) -> Result<Option<(T, Revision)>> {
        let key = self.key(id);
        match self.store.get(&key).await? {
            None => Ok(None),
            Some(found) => Ok(Some((self.decode(&key, &found.value)?, found.revision))),
        }
    }

    /// All records with their ids, ascending by id.
    ///
    /// # Errors
    /// As [`Typed::get`]: one that cannot be read fails the whole list, so that it is not overlooked.
    pub async fn list(&self) -> Result<Vec<(String, T, Revision)>> {
        let prefix = format!("{}/", self.prefix);
        let mut records = Vec::new();
        for (key, found) in self.store.list(&prefix).await? {
            let record = self.decode(&key, &found.value)?;
            records.push((key[prefix.len()..].to_owned(), record, found.revision));
        }
        Ok(records)
    }

    /// Writes a record.
    ///
    /// # Errors
    /// Those of [`StateStore::transaction`].
    pub async fn put(&self, id: impl fmt::Display, record: &T, expect: Expect) -> Result<Revision> {
        self.store.transaction(vec![self.put_op(id, record, expect)?]).await
    }

    /// The step that writes a record, for a transaction.
    ///
    /// # Errors
    /// [`StateError::BadRecord`] for one that has no JSON form.
    pub fn put_op(&self, id: impl fmt::Display, record: &T, expect: Expect) -> Result<Op> {
        let key = self.key(id);
        let value = serde_json::to_vec(&Storing { schema: self.schema(), record })
            .map_err(|error| StateError::BadRecord { key: key.clone(), detail: error.to_string() })?;
        Ok(Op::Put { key, value, expect })
    }

    /// Removes a record.
    ///
    /// # Errors
    /// Those of [`StateStore::transaction`].
    pub async fn delete(&self, id: impl fmt::Display, expect: Expect) -> Result<Revision> {
        self.store.delete(&self.key(id), expect).await
    }

    /// The step that removes a record, for a transaction.
    #[must_use]
    pub fn delete_op(&self, id: impl fmt::Display, expect: Expect) -> Op {
        Op::Delete { key: self.key(id), expect }
    }

    fn decode(&self, key: &str, value: &[u8]) -> Result<T> {
        let bad = |detail: String| StateError::BadRecord { key: key.to_owned(), detail };
        let stored: Stored = serde_json::from_slice(value).map_err(|error| bad(error.to_string()))?;
        let known = self.schema();
        if stored.schema > known {
            return Err(StateError::NewerSchema { key: key.to_owned(), found: stored.schema, known });
        }
        let Some(steps) = stored.schema.checked_sub(1) else {
            return Err(bad("schema version 0 was never written".to_owned()));
        };
        let upgrades = self.upgrades.iter().skip(steps as usize);
        let record =
            upgrades.copied().try_fold(stored.record, |record, upgrade| upgrade(record)).map_err(bad)?;
        serde_json::from_value(record).map_err(|error| bad(error.to_string()))
    }
}
