//! The opened file: reads, and transactions of which several are flushed together.
//!
//! The file is checked as a whole when it is opened; later every record is checked against its digest. After a failed
//! write what is on the disk is not known, so the content is closed for good; the next start checks it.
//!
//! Called by [`super::thread`] alone.

use super::file::{
    FORMAT, FORMAT_VERSION, LAST_REVISION, LEASES, META, RECORDS, create, from_redb, io_error, open_database,
};
use super::record::{pack, unpack};
use crate::Result;
use crate::error::StateError;
use crate::store::{Expect, MAX_OPS, Op, Revision, Versioned};
use crate::watch::Change;
use redb::{Database, ReadableTable};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// A transaction that waits.
pub(super) struct Transaction {
    /// Its steps; no key twice.
    pub ops: Vec<Op>,
    /// What it writes goes with this process.
    pub leased: bool,
}

/// What became of a group of transactions that were flushed together.
#[derive(Default)]
pub(super) struct Committed {
    /// One for each, in their order.
    pub answers: Vec<Result<Revision>>,
    /// What they changed, in that order too.
    pub changes: Vec<Change>,
}

/// The opened file.
pub(super) struct Content {
    path: PathBuf,
    database: Database,
    closed: bool,
}

/// Why a step ended: the caller's fault, which leaves the store as it is, or the database's.
enum Trouble {
    Refused(Box<StateError>),
    Database(Box<redb::Error>),
}

type Step<T> = std::result::Result<T, Trouble>;
type Records<'t> = redb::Table<'t, &'static str, &'static [u8]>;
type Leases<'t> = redb::Table<'t, &'static str, u64>;

impl From<StateError> for Trouble {
    fn from(error: StateError) -> Self {
        Self::Refused(Box::new(error))
    }
}

macro_rules! trouble_from {
    ($($error:ty),+) => {
        $(impl From<$error> for Trouble {
            fn from(error: $error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        })+
    };
}

trouble_from!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::DatabaseError
);

impl Content {
    /// Opens the file and checks all of it, or makes an empty one, and removes the leases of the process before.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.try_exists().map_err(|source| io_error("look for", path, source))? {
            create(path)?;
        }
        Self::take(path, open_database(path)?)
    }

    /// As [`Self::open`], of a database that is open already.
    pub fn take(path: &Path, database: Database) -> Result<Self> {
        let mut content = Self { path: path.to_owned(), database, closed: false };
        content.check_format()?;
        content.end_leases()?;
        Ok(content)
    }

    /// It has failed, and every call will.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The error of a call on what is closed.
    pub fn closed(&self) -> StateError {
        StateError::Closed { path: self.path.clone() }
    }

    pub fn get(&mut self, key: &str) -> Result<Option<Versioned>> {
        self.guarded("read", |content| {
            let table = content.database.begin_read()?.open_table(RECORDS)?;
            let Some(packed) = table.get(key)? else { return Ok(None) };
            Ok(Some(content.unpack(key, packed.value())?))
        })
    }

    pub fn list(&mut self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        self.guarded("read", |content| {
            let table = content.database.begin_read()?.open_table(RECORDS)?;
            let mut found = Vec::new();
            for entry in table.range(prefix..)? {
                let (key, packed) = entry?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                found.push((key.value().to_owned(), content.unpack(key.value(), packed.value())?));
            }
            Ok(found)
        })
    }

    /// Carries out each of `group` or refuses it, in their order, and flushes all of them at once. When that fails none
    /// is acknowledged, and what is on the disk is not known.
    pub fn commit(&mut self, group: &[Transaction]) -> Committed {
        match self.guarded("write", |content| content.carry_out(group)) {
            Ok(committed) => committed,
            Err(error) => {
                // The rest of the group meets a store that is closed now.
                let others = (1..group.len()).map(|_| self.closed());
                let answers = std::iter::once(error).chain(others).map(Err).collect();
                Committed { answers, changes: Vec::new() }
            }
        }
    }

    fn carry_out(&self, group: &[Transaction]) -> Step<Committed> {
        // Dropped without commit on every early return, and then nothing has happened. The default
        // durability flushes before `commit` returns.
        let write = self.database.begin_write()?;
        let mut committed = Committed::default();
        {
            let mut meta = write.open_table(META)?;
            let (mut records, mut leases) = (write.open_table(RECORDS)?, write.open_table(LEASES)?);
            let mut last = meta.get(LAST_REVISION)?.map_or(0, |last| last.value());
            for transaction in group {
                let answer = match self.check(&records, &transaction.ops) {
                    Ok(()) => {
                        last += 1;
                        let changes = &mut committed.changes;
                        apply(&mut records, &mut leases, transaction, Revision(last), changes)?;
                        Ok(Revision(last))
                    }
                    Err(Trouble::Refused(refused)) => Err(*refused),
                    Err(trouble) => return Err(trouble),
                };
                committed.answers.push(answer);
            }
            meta.insert(LAST_REVISION, last)?;
        }
        if committed.answers.iter().any(Result::is_ok) {
            write.commit()?;
        } else {
            write.abort()?;
        }
        Ok(committed)
    }

    /// All expectations before the first change: as no key comes twice, none sees what its own transaction writes.
    fn check(&self, records: &Records<'_>, ops: &[Op]) -> Step<()> {
        for op in ops {
            let found = match records.get(op.key())? {
                None => None,
                Some(packed) => Some(self.unpack(op.key(), packed.value())?.revision),
            };
            op.expect().check(op.key(), found)?;
        }
        Ok(())
    }

    fn check_format(&mut self) -> Result<()> {
        let found = self.guarded("read", |content| {
            let table = content.database.begin_read()?.open_table(META)?;
            let version = table.get(FORMAT)?;
            Ok(version.map(|version| version.value()))
        })?;
        match found {
            Some(FORMAT_VERSION) => Ok(()),
            Some(newer) if newer > FORMAT_VERSION => Err(StateError::NewerSchema {
                key: self.path.display().to_string(),
                found: u32::try_from(newer).unwrap_or(u32::MAX),
                known: 1,
            }),
            _ => Err(self.corrupt("it has no format version")),
        }
    }

    /// Whoever held them is gone with the process before.
    fn end_leases(&mut self) -> Result<()> {
        let left = self.guarded("read", |content| {
            let table = match content.database.begin_read()?.open_table(LEASES) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let mut left = Vec::new();
            for entry in table.iter()? {
                left.push(entry?.0.value().to_owned());
            }
            Ok(left)
        })?;
        let ends: Vec<Op> = left.into_iter().map(|key| Op::Delete { key, expect: Expect::Any }).collect();
        for ops in ends.chunks(MAX_OPS) {
            let end = Transaction { ops: ops.to_vec(), leased: false };
            self.commit(&[end]).answers.into_iter().try_for_each(|answer| answer.map(drop))?;
        }
        Ok(())
    }

    fn corrupt(&self, detail: impl Into<String>) -> StateError {
        StateError::Corrupt { path: self.path.clone(), detail: detail.into() }
    }

    fn unpack(&self, key: &str, packed: &[u8]) -> Result<Versioned> {
        unpack(key, packed).ok_or_else(|| self.corrupt(format!("the record {key} is not what was written")))
    }

    /// Runs a step in the database. Whatever redb makes of a damaged file, a panic included, becomes an error,
    /// and then the store is closed.
    fn guarded<T>(&mut self, action: &'static str, step: impl FnOnce(&Self) -> Step<T>) -> Result<T> {
        if self.closed {
            return Err(self.closed());
        }
        let trouble = match catch_unwind(AssertUnwindSafe(|| step(self))) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(Trouble::Refused(refused))) => return Err(*refused),
            Ok(Err(Trouble::Database(error))) => from_redb(action, &self.path, *error),
            Err(_) => self.corrupt("its pages contradict each other"),
        };
        self.closed = true;
        tracing::error!(path = %self.path.display(), error = %trouble, "the state is closed after an error");
        Err(trouble)
    }
}

fn apply(
    records: &mut Records<'_>,
    leases: &mut Leases<'_>,
    transaction: &Transaction,
    revision: Revision,
    changes: &mut Vec<Change>,
) -> Step<()> {
    for op in &transaction.ops {
        let key = op.key();
        let value = match op {
            Op::Check { .. } => continue,
            Op::Put { value, .. } => {
                records.insert(key, pack(key, revision, value).as_slice())?;
                Some(value.clone())
            }
            Op::Delete { .. } if records.remove(key)?.is_none() => continue,
            Op::Delete { .. } => None,
        };
        // A record that somebody writes anew is theirs, and no lease's any more.
        match transaction.leased {
            true => leases.insert(key, revision.0)?,
            false => leases.remove(key)?,
        };
        changes.push(Change { key: key.to_owned(), revision, value });
    }
    Ok(())
}
