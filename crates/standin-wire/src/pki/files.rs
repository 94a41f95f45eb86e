//! Replacing files so that a crash leaves the old or the new one, and the lock around it.

use crate::pki::PkiError;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// For the owner only: keys and tokens.
pub(crate) const SECRET: u32 = 0o600;
/// Readable by anybody: certificates.
pub(crate) const PUBLIC: u32 = 0o644;

/// Writes `data` to `path` and makes it durable. A file that was there is emptied first: only for names that
/// nobody reads yet.
pub(super) fn write_new(path: &Path, data: &[u8], mode: u32) -> Result<(), PkiError> {
    // A left-over could have another mode, and `mode` applies to new files only.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(PkiError::io("remove", path)(error));
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(PkiError::io("create", path))?;
    file.write_all(data).and_then(|()| file.sync_all()).map_err(PkiError::io("write", path))
}

/// Renames within a directory and makes that durable.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), PkiError> {
    std::fs::rename(from, to).map_err(PkiError::io("replace", to))?;
    sync_directory(to)
}

fn sync_directory(of: &Path) -> Result<(), PkiError> {
    let parent = of.parent().unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(PkiError::io("write", parent))
}

/// Replaces `path` as a whole. The caller holds the directory's lock, so the temporary name is its own.
pub(crate) fn write_durably(path: &Path, data: &[u8], secret: bool) -> Result<(), PkiError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".part");
    let temporary = Path::new(&temporary);
    write_new(temporary, data, if secret { SECRET } else { PUBLIC })?;
    rename(temporary, path)
}

/// Held while files of a directory are replaced, by the daemon or by the command line.
#[derive(Debug)]
pub(crate) struct DirLock(#[expect(dead_code, reason = "the lock lives as long as the file is open")] File);

impl DirLock {
    /// Waits until nobody else holds it. Held for milliseconds only.
    pub fn take(dir: &Path) -> Result<Self, PkiError> {
        let path = dir.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(SECRET)
            .open(&path)
            .map_err(PkiError::io("open", &path))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|error| PkiError::io("lock", &path)(error.into()))?;
        Ok(Self(file))
    }
}
