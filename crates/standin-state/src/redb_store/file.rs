//! Making and opening the file, and what redb's errors mean.

#![expect(clippy::result_large_err, reason = "redb's own error, and only while a file is opened")]

use crate::Result;
use crate::error::StateError;
use redb::{
    Database, ReadTransaction, ReadableTable, StorageBackend as _, TableDefinition, Value, WriteTransaction,
};
use standin_durable::{FileError, Files, Mode};
use std::fs::File;
use std::io::{self, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
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
        redb::Error::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
            StateError::Corrupt { path, detail: "it ends before it should".to_owned() }
        }
        redb::Error::Io(source) => StateError::Io { action, path, source },
        redb::Error::PreviousIo => StateError::Closed { path },
        redb::Error::DatabaseAlreadyOpen => StateError::InUse { path },
        other => StateError::Corrupt { path, detail: other.to_string() },
    }
}

/// Makes an empty store. The caller holds the data directory's lock, so nobody else makes one at the same time.
pub(super) fn create(path: &Path) -> Result<()> {
    write_anew(path, |into| {
        into.open_table(RECORDS)?;
        let mut meta = into.open_table(META)?;
        meta.insert(FORMAT, FORMAT_VERSION)?;
        meta.insert(LAST_REVISION, 0)?;
        Ok(())
    })
}

type Filled = std::result::Result<(), redb::Error>;

/// Makes a store that holds what `fill` writes: complete under a temporary name, then renamed, so that a crash leaves
/// what was there, or all of it.
fn write_anew(path: &Path, fill: impl FnOnce(&WriteTransaction) -> Filled) -> Result<()> {
    let failed = |error: FileError| io_error(error.verb, &error.path, error.source);
    let staged = Files::default().stage(path, Mode::Owner).map_err(failed)?;
    let file = staged.file().try_clone().map_err(|source| io_error("open", path, source))?;
    let made = catch_unwind(AssertUnwindSafe(|| initialise(file, fill))).unwrap_or_else(|_| {
        Err(redb::Error::Io(io::Error::other("the database library failed while it made the file")))
    });
    made.map_err(|error| from_redb("create", path, error))?;
    staged.publish().map_err(failed)
}

fn initialise(file: File, fill: impl FnOnce(&WriteTransaction) -> Filled) -> Filled {
    let backend = redb::backends::FileBackend::new(file)?;
    let mut builder = Database::builder();
    let database =
        builder.set_cache_size(CACHE_BYTES).create_with_file_format_v3(true).create_with_backend(backend)?;
    let write = database.begin_write()?;
    fill(&write)?;
    // What closing adds saves the next open a scan, no more.
    Ok(write.commit()?)
}

pub(super) fn open_database(path: &Path) -> Result<Database> {
    if is_of_a_newer_line(path).map_err(|source| io_error("read", path, source))? {
        renew(path)?;
    }
    opened(path, || Ok(Database::builder().set_cache_size(CACHE_BYTES).open(path)?))
}

/// What `open` opens, and all of it checked.
fn opened(
    path: &Path,
    open: impl FnOnce() -> std::result::Result<Database, redb::Error>,
) -> Result<Database> {
    match catch_unwind(AssertUnwindSafe(|| checked(open()?))) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(error)) => Err(from_redb("open", path, error)),
        Err(_) => Err(StateError::Corrupt {
            path: path.to_owned(),
            detail: "its pages contradict each other".to_owned(),
        }),
    }
}

/// redb from 3.0 on keeps no page for the header of a region, which 2.6 reads and cannot write to. Where their number is
/// in the file: `DatabaseHeader` in redb's `header.rs`.
fn is_of_a_newer_line(path: &Path) -> io::Result<bool> {
    const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
    const REGION_HEADER_PAGES: std::ops::Range<usize> = 16..20;
    let mut head = [0; 20];
    match File::open(path)?.read_exact(&mut head) {
        Ok(()) => Ok(head.starts_with(MAGIC) && head[REGION_HEADER_PAGES] == [0; 4]),
        // Too short for a store, which is said when it is opened.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Puts a copy that this line wrote in the place of the file, which is only read. A crash leaves one of the two.
fn renew(path: &Path) -> Result<()> {
    let mut image = std::fs::read(path).map_err(|source| io_error("read", path, source))?;
    make_room(&mut image);
    let from = opened(path, || {
        let backend = redb::backends::InMemoryBackend::new();
        backend.set_len(image.len() as u64)?;
        backend.write(0, &image)?;
        Ok(Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?)
    })?;
    let written = write_anew(path, |into| copy(&from, into));
    // It would write as it is dropped, and panic at that. So some 100 KiB are left, once in the life of a data directory.
    std::mem::forget(from);
    written?;
    tracing::info!(path = %path.display(), "the state was written anew: it was of a newer database library");
    Ok(())
}

/// Makes an image readable for 2.6, which writes a little as it opens one. A newer line that closes a file notes which pages
/// are taken, in a table whose keys 2.6 does not know and panics at, and leaves no page free; and 2.6 cannot add any.
///
/// That table is read where the last transaction was of two phases. Where it was not, the pages are counted, and a damaged
/// one is gone back by: that of the close changed nothing else.
fn make_room(image: &mut Vec<u8>) {
    // In redb's `header.rs`: `GOD_BYTE_OFFSET`, `TWO_PHASE_COMMIT`, `PAGE_SIZE_OFFSET`, `TRAILING_REGION_DATA_PAGES_OFFSET`.
    const FLAGS: usize = 9;
    const TWO_PHASE_COMMIT: u8 = 4;
    const PAGE_SIZE: usize = 12;
    const PAGES: usize = 28;
    const MORE: u32 = 64;
    let number = |image: &[u8], at: usize| {
        let bytes = image.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        bytes.map_or(0, u32::from_le_bytes)
    };
    let (page, pages) = (number(image, PAGE_SIZE), number(image, PAGES));
    // A damaged header is for redb to refuse.
    if page != 4096 || pages > 1 << 20 {
        return;
    }
    image[FLAGS] &= !TWO_PHASE_COMMIT;
    image[PAGES..PAGES + 4].copy_from_slice(&(pages + MORE).to_le_bytes());
    image.resize(image.len() + MORE as usize * page as usize, 0);
}

fn copy(from: &Database, into: &WriteTransaction) -> Filled {
    let from = from.begin_read()?;
    copy_table(&from, into, RECORDS)?;
    copy_table(&from, into, LEASES)?;
    copy_table(&from, into, META)
}

fn copy_table<V: Value + 'static>(
    from: &ReadTransaction,
    into: &WriteTransaction,
    table: TableDefinition<'_, &'static str, V>,
) -> Filled {
    let from = match from.open_table(table) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
        from => from?,
    };
    let mut into = into.open_table(table)?;
    for entry in from.iter()? {
        let (key, value) = entry?;
        into.insert(key.value(), value.value())?;
    }
    Ok(())
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
