//! Records with a type and a schema version, as JSON, over a [`StateStore`].
//!
//! ```text
//!   relationship/1f0c...   {"schema":2,"record":{...}}
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

/// Brings a record from schema version `from` to the next one. An error says what is wrong with it.
pub type Upgrade = fn(from: u32, record: Value) -> std::result::Result<Value, String>;

/// The records of one type. Cheap to clone.
pub struct Typed<T> {
    store: Arc<dyn StateStore>,
    prefix: &'static str,
    schema: u32,
    upgrade: Upgrade,
    record: PhantomData<fn() -> T>,
}

impl<T> Clone for Typed<T> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            prefix: self.prefix,
            schema: self.schema,
            upgrade: self.upgrade,
            record: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Typed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Typed").field("prefix", &self.prefix).field("schema", &self.schema).finish()
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
    /// The records below `prefix/`, written with version `schema`, which begins with 1. Records of older
    /// versions are errors until [`Typed::with_upgrade`] says what to do with them.
    #[must_use]
    pub fn new(store: Arc<dyn StateStore>, prefix: &'static str, schema: u32) -> Self {
        let upgrade: Upgrade = |from, _| Err(format!("schema version {from} is no longer known"));
        Self { store, prefix, schema, upgrade, record: PhantomData }
    }

    /// How records of older versions are brought up.
    #[must_use]
    pub fn with_upgrade(mut self, upgrade: Upgrade) -> Self {
        self.upgrade = upgrade;
        self
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
    pub fn get(&self, id: impl fmt::Display) -> Result<Option<(T, Revision)>> {
        let key = self.key(id);
        match self.store.get(&key)? {
            None => Ok(None),
            Some(found) => Ok(Some((self.decode(&key, &found.value)?, found.revision))),
        }
    }

    /// All records with their ids, ascending by id.
    ///
    /// # Errors
    /// As [`Typed::get`]: one that cannot be read fails the whole list, so that it is not overlooked.
    pub fn list(&self) -> Result<Vec<(String, T, Revision)>> {
        let prefix = format!("{}/", self.prefix);
        let mut records = Vec::new();
        for (key, found) in self.store.list(&prefix)? {
            let record = self.decode(&key, &found.value)?;
            records.push((key[prefix.len()..].to_owned(), record, found.revision));
        }
        Ok(records)
    }

    /// Writes a record.
    ///
    /// # Errors
    /// Those of [`StateStore::transaction`].
    pub fn put(&self, id: impl fmt::Display, record: &T, expect: Expect) -> Result<Revision> {
        self.store.transaction(vec![self.put_op(id, record, expect)?])
    }

    /// The step that writes a record, for a transaction.
    ///
    /// # Errors
    /// [`StateError::BadRecord`] for one that has no JSON form.
    pub fn put_op(&self, id: impl fmt::Display, record: &T, expect: Expect) -> Result<Op> {
        let key = self.key(id);
        let value = serde_json::to_vec(&Storing { schema: self.schema, record })
            .map_err(|error| StateError::BadRecord { key: key.clone(), detail: error.to_string() })?;
        Ok(Op::Put { key, value, expect })
    }

    /// Removes a record.
    ///
    /// # Errors
    /// Those of [`StateStore::transaction`].
    pub fn delete(&self, id: impl fmt::Display, expect: Expect) -> Result<Revision> {
        self.store.delete(&self.key(id), expect)
    }

    /// The step that removes a record, for a transaction.
    #[must_use]
    pub fn delete_op(&self, id: impl fmt::Display, expect: Expect) -> Op {
        Op::Delete { key: self.key(id), expect }
    }

    fn decode(&self, key: &str, value: &[u8]) -> Result<T> {
        let bad = |detail: String| StateError::BadRecord { key: key.to_owned(), detail };
        let stored: Stored = serde_json::from_slice(value).map_err(|error| bad(error.to_string()))?;
        if stored.schema > self.schema {
            return Err(StateError::NewerSchema {
                key: key.to_owned(),
                found: stored.schema,
                known: self.schema,
            });
        }
        let mut record = stored.record;
        for version in stored.schema..self.schema {
            record = (self.upgrade)(version, record).map_err(bad)?;
        }
        serde_json::from_value(record).map_err(|error| bad(error.to_string()))
    }
}
