//! A file that says: this guest may be frozen, by us. It exists from before the freeze is sent until the thaw is
//! confirmed, so that a daemon that is killed in between finds the guest again; and because a guest that somebody
//! else froze has none, theirs stays as it is.
//!
//! The file holds the path of the agent's socket. It need not survive a power cut, as the guest does not either.

use crate::error::Error;
use crate::seam::Result;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A socket's path is at most 107 bytes.
const MAX: u64 = 4096;

/// Markers that a task of this process works on. They are left to it.
static HELD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A marker that belongs to a task of this process.
#[derive(Debug)]
pub(super) struct Marker {
    file: PathBuf,
}

fn held() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Marker {
    /// Before a freeze is sent.
    pub(super) fn write(file: &Path, socket: &Path) -> Result<Self> {
        let marker = Self::hold(file).ok_or_else(|| {
            Error::Agent("an earlier freeze of this guest is not yet certainly thawed".to_owned())
        })?;
        std::fs::write(file, socket.as_os_str().as_encoded_bytes())
            .map_err(Error::io(format!("write {}", file.display())))?;
        Ok(marker)
    }

    /// What an earlier process left: the marker, and the agent's socket.
    pub(super) fn take_over(file: &Path) -> Option<(Self, PathBuf)> {
        let marker = Self::hold(file)?;
        if std::fs::metadata(file).ok()?.len() > MAX {
            return None;
        }
        let socket = std::fs::read_to_string(file).ok()?;
        Some((marker, socket.into()))
    }

    /// The guest is not frozen.
    pub(super) fn clear(self) {
        match std::fs::remove_file(&self.file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => tracing::warn!(
                %error, file = %self.file.display(),
                "a marker could not be removed; the guest will be thawed once more than needed"
            ),
            _ => {}
        }
    }

    fn hold(file: &Path) -> Option<Self> {
        held().insert(file.to_path_buf()).then(|| Self { file: file.to_path_buf() })
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        held().remove(&self.file);
    }
}
