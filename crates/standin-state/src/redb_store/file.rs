//! Making and opening the file, and what redb's errors mean.

use crate::Result;
use crate::error::StateError;
use redb::{Database, TableDefinition};
use standin_durable::{FileError, Files, Mode};
use std::fs::File;
use std::io;
use std::panic::catch_unwind;
use std::path::Path;

/// The records, packed as [`super::record`] does it.
pub(super) const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
/// Keys of records that go with this process, each with its revision. Made with the first of them.
pub(super) const LEASES: TableDefinition<'_, &str, u64> = TableDefinition::new("leases");
/// Numbers of the store as a whole.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// In [`META`]: the revision of the last transaction.
pub(super) const LAST_REVISION: &str = "last_revision";
/// In [`META`]: the version of this layout.
pub(super) const FORMAT: &str = "format";
pub(super) const FORMAT_VERSION: u64 = 1;

/// The state is small; redb's own default would let the cache grow to a GiB.
const CACHE_BYTES: usize = 8 << 20;

pub(super) fn io_error(action: &'static str, path: &Path, source: io::Error) -> StateError {
    StateError::Io { action, path: path.to_owned(), source }
}

pub(super) fn from_redb(action: &'static str, path: &Path, error: redb::Error) -> StateError {
    let path = path.to_owned();
    match error {
        redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
            StateError::Corrupt { path, detail: source.to_string() }
        }
        redb::Error::Io(source) => StateError::Io { action, path, source },
        redb::Error::PreviousIo => StateError::Closed { path },
        redb::Error::DatabaseAlreadyOpen => StateError::InUse { path },
        other => StateError::Corrupt { path, detail: other.to_string() },
    }
}

/// Makes an empty store: complete under a temporary name, then renamed, so that a crash leaves none or a whole
/// one. The caller holds the data directory's lock, so nobody else makes one at the same time.
pub(super) fn create(path: &Path) -> Result<()> {
    let failed = |error: FileError| io_error(error.verb, &error.path, error.source);
    let staged = Files::default().stage(path, Mode::Owner).map_err(failed)?;
    let file = staged.file().try_clone().map_err(|source| io_error("open", path, source))?;
    let made = catch_unwind(|| initialise(file)).unwrap_or_else(|_| {
        Err(redb::Error::Io(io::Error::other("the database library failed while it made the file")))
    });
    made.map_err(|error| from_redb("create", path, error))?;
    staged.publish().map_err(failed)
}

fn initialise(file: File) -> std::result::Result<(), redb::Error> {
    let backend = redb::backends::FileBackend::new(file)?;
    let mut builder = Database::builder();
    let database =
        builder.set_cache_size(CACHE_BYTES).create_with_file_format_v3(true).create_with_backend(backend)?;
    let write = database.begin_write()?;
    {
        write.open_table(RECORDS)?;
        let mut meta = write.open_table(META)?;
        meta.insert(FORMAT, FORMAT_VERSION)?;
        meta.insert(LAST_REVISION, 0)?;
    }
    // What closing adds saves the next open a scan, no more.
    Ok(write.commit()?)
}

pub(super) fn open_database(path: &Path) -> Result<Database> {
    let opened = catch_unwind(|| {
        let database = Database::builder().set_cache_size(CACHE_BYTES).open(path)?;
        checked(database)
    });
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(error)) => Err(from_redb("open", path, error)),
        Err(_) => Err(StateError::Corrupt {
            path: path.to_owned(),
            detail: "its pages contradict each other".to_owned(),
        }),
    }
}

/// Reads and checks all pages. redb mends what it finds, also by going back to the transaction before: right after a
/// crash, where that one was not acknowledged and which it did when it opened the file, and wrong at any other time.
pub(super) fn checked(mut database: Database) -> std::result::Result<Database, redb::Error> {
    let newest = last_revision(&database)?;
    let sound = database.check_integrity()?;
    if !sound && last_revision(&database)? != newest {
        let lost = "its newest transaction is damaged".to_owned();
        return Err(redb::Error::Corrupted(lost));
    }
    Ok(database)
}

fn last_revision(database: &Database) -> std::result::Result<Option<u64>, redb::Error> {
    let meta = match database.begin_read()?.open_table(META) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        meta => meta?,
    };
    Ok(meta.get(LAST_REVISION)?.map(|last| last.value()))
}
