//! The state store of a single daemon: one file, by redb.
//!
//! Every transaction is flushed before it is acknowledged. The file is checked as a whole when it is opened;
//! beyond that every record carries a digest over its key, revision and bytes, so that a bit that flips while
//! the daemon runs is an error and never another value:
//!
//! ```text
//!   byte 0      1 .. 9           9 .. 25        25 ..
//!   format 1    revision, LE     digest         value
//! ```
//!
//! After a failed write what is on the disk is not known, so the store is closed for good; the next start
//! checks it.

use crate::Result;
use crate::error::StateError;
use crate::store::{MAX_VALUE, Op, Revision, StateStore, Versioned, check_key, check_ops};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use standin_model::BlockDigest;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// In [`META`]: the revision of the last transaction.
const LAST_REVISION: &str = "last_revision";
/// In [`META`]: the version of this layout.
const FORMAT: &str = "format";
const FORMAT_VERSION: u64 = 1;

const RECORD_FORMAT: u8 = 1;
const HEADER: usize = 1 + 8 + BlockDigest::LEN;

/// The state is small; redb's own default would let the cache grow to a GiB.
const CACHE_BYTES: usize = 8 << 20;

/// The state store of a single daemon. See the module's doc.
#[derive(Debug)]
pub struct RedbStore {
    path: PathBuf,
    database: Database,
    closed: AtomicBool,
}

impl RedbStore {
    /// Opens the store at `path` and checks all of it, or makes an empty one. The directory must exist.
    ///
    /// # Errors
    /// [`StateError::Corrupt`] when the file is not a whole store, [`StateError::InUse`] when another process
    /// has it open, [`StateError::Io`] for the rest.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if !path.try_exists().map_err(|source| io_error("look for", &path, source))? {
            create(&path)?;
        }
        let database = open_database(&path)?;
        let store = Self { path, database, closed: AtomicBool::new(false) };
        store.check_format()?;
        tracing::debug!(path = %store.path.display(), "opened the state");
        Ok(store)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn check_format(&self) -> Result<()> {
        let found = self.guarded("read", || {
            let table = self.database.begin_read()?.open_table(META)?;
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

    fn corrupt(&self, detail: impl Into<String>) -> StateError {
        StateError::Corrupt { path: self.path.clone(), detail: detail.into() }
    }

    /// Runs a step in the database. Whatever redb makes of a damaged file, a panic included, becomes an error,
    /// and then the store is closed.
    fn guarded<T>(
        &self,
        action: &'static str,
        step: impl FnOnce() -> std::result::Result<T, Trouble>,
    ) -> Result<T> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StateError::Closed { path: self.path.clone() });
        }
        let trouble = match catch_unwind(AssertUnwindSafe(step)) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(Trouble::Refused(refused))) => return Err(*refused),
            Ok(Err(Trouble::Database(error))) => from_redb(action, &self.path, *error),
            Err(_) => self.corrupt("its pages contradict each other"),
        };
        self.closed.store(true, Ordering::Release);
        tracing::error!(path = %self.path.display(), error = %trouble, "the state is closed after an error");
        Err(trouble)
    }

    fn unpack(&self, key: &str, packed: &[u8]) -> Result<Versioned> {
        unpack(key, packed).ok_or_else(|| self.corrupt(format!("the record {key} is not what was written")))
    }
}

/// Why a step ended: the caller's fault, which leaves the store as it is, or the database's.
enum Trouble {
    Refused(Box<StateError>),
    Database(Box<redb::Error>),
}

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

impl StateStore for RedbStore {
    fn get(&self, key: &str) -> Result<Option<Versioned>> {
        check_key(key)?;
        self.guarded("read", || {
            let table = self.database.begin_read()?.open_table(RECORDS)?;
            let Some(packed) = table.get(key)? else { return Ok(None) };
            Ok(Some(self.unpack(key, packed.value())?))
        })
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        self.guarded("read", || {
            let table = self.database.begin_read()?.open_table(RECORDS)?;
            let mut found = Vec::new();
            for entry in table.range(prefix..)? {
                let (key, packed) = entry?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                found.push((key.value().to_owned(), self.unpack(key.value(), packed.value())?));
            }
            Ok(found)
        })
    }

    fn transaction(&self, ops: Vec<Op>) -> Result<Revision> {
        check_ops(&ops)?;
        self.guarded("write", || {
            // Dropped without commit on every early return, and then nothing has happened. The default
            // durability flushes before `commit` returns.
            let write = self.database.begin_write()?;
            let revision = {
                let mut meta = write.open_table(META)?;
                let last = meta.get(LAST_REVISION)?.map_or(0, |last| last.value());
                meta.insert(LAST_REVISION, last + 1)?;
                Revision(last + 1)
            };
            {
                let mut table = write.open_table(RECORDS)?;
                for op in &ops {
                    self.apply(&mut table, op, revision)?;
                }
            }
            write.commit()?;
            Ok(revision)
        })
    }
}

impl RedbStore {
    fn apply(
        &self,
        table: &mut redb::Table<'_, &'static str, &'static [u8]>,
        op: &Op,
        revision: Revision,
    ) -> std::result::Result<(), Trouble> {
        let key = op.key();
        let found = match table.get(key)? {
            None => None,
            Some(packed) => Some(self.unpack(key, packed.value())?.revision),
        };
        op.expect().check(key, found)?;
        match op {
            Op::Put { value, .. } => {
                table.insert(key, pack(key, revision, value).as_slice())?;
            }
            Op::Delete { .. } => {
                table.remove(key)?;
            }
            Op::Check { .. } => {}
        }
        Ok(())
    }
}

/// Over the key too, so that a value cannot turn up under another one.
fn digest(key: &str, revision: Revision, value: &[u8]) -> BlockDigest {
    let mut whole = Vec::with_capacity(key.len() + 9 + value.len());
    whole.extend_from_slice(key.as_bytes());
    whole.push(0);
    whole.extend_from_slice(&revision.0.to_le_bytes());
    whole.extend_from_slice(value);
    BlockDigest::of(&whole)
}

fn pack(key: &str, revision: Revision, value: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(HEADER + value.len());
    packed.push(RECORD_FORMAT);
    packed.extend_from_slice(&revision.0.to_le_bytes());
    packed.extend_from_slice(digest(key, revision, value).as_bytes());
    packed.extend_from_slice(value);
    packed
}

/// `None` when it is not what [`pack`] made.
fn unpack(key: &str, packed: &[u8]) -> Option<Versioned> {
    let (format, rest) = packed.split_first()?;
    let (revision, rest) = rest.split_first_chunk::<8>()?;
    let (stored, value) = rest.split_first_chunk::<{ BlockDigest::LEN }>()?;
    let revision = Revision(u64::from_le_bytes(*revision));
    let whole = *format == RECORD_FORMAT
        && value.len() <= MAX_VALUE
        && digest(key, revision, value) == BlockDigest::from_bytes(*stored);
    whole.then(|| Versioned { value: value.to_vec(), revision })
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> StateError {
    StateError::Io { action, path: path.to_owned(), source }
}

fn from_redb(action: &'static str, path: &Path, error: redb::Error) -> StateError {
    let path = path.to_owned();
    match error {
        redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
            StateError::Corrupt { path, detail: source.to_string() }
        }
        redb::Error::Io(source) => StateError::Io { action, path, source },
        redb::Error::PreviousIo | redb::Error::DatabaseClosed => StateError::Closed { path },
        redb::Error::DatabaseAlreadyOpen => StateError::InUse { path },
        other => StateError::Corrupt { path, detail: other.to_string() },
    }
}

/// Makes an empty store: complete under a temporary name, then renamed, so that a crash leaves none or a whole
/// one. The caller holds the data directory's lock, so nobody else makes one at the same time.
fn create(path: &Path) -> Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)
        .map_err(|source| io_error("create", &part, source))?;
    let made = catch_unwind(|| initialise(file)).unwrap_or_else(|_| {
        Err(redb::Error::Io(io::Error::other("the database library failed while it made the file")))
    });
    made.map_err(|error| from_redb("create", &part, error))?;
    std::fs::rename(&part, path).map_err(|source| io_error("rename to", path, source))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .map_err(|source| io_error("flush the directory", directory, source))
}

fn initialise(file: File) -> std::result::Result<(), redb::Error> {
    let backend = redb::backends::FileBackend::new(file)?;
    let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?;
    let write = database.begin_write()?;
    {
        write.open_table(RECORDS)?;
        let mut meta = write.open_table(META)?;
        meta.insert(FORMAT, FORMAT_VERSION)?;
        meta.insert(LAST_REVISION, 0)?;
    }
    write.commit()?;
    Ok(database.close()?)
}

fn open_database(path: &Path) -> Result<Database> {
    let opened = catch_unwind(|| {
        Database::builder().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).open(path)
    });
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(error)) => Err(from_redb("open", path, error.into())),
        Err(_) => Err(StateError::Corrupt {
            path: path.to_owned(),
            detail: "its pages contradict each other".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests;
