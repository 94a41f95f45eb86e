//! The file of the audit log: appended to, flushed to the disk line by line, turned over when it is long.

use standin_durable::{Appended, FileError, Files, Mode};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A file that is longer is turned over.
const MAX_SIZE: u64 = 32 << 20;
/// Older files that are kept, as `audit.log.1` (the newest) to `audit.log.8`.
const KEPT: u32 = 8;

/// The audit log.
#[derive(Debug)]
pub struct AuditLog {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    path: PathBuf,
    max_size: u64,
    file: Option<Appended>,
    /// Why the last line could not be written.
    failed: Option<String>,
}

impl AuditLog {
    /// Opens the file, for its owner only, and makes it if it is not there.
    ///
    /// # Errors
    /// What the system said; the caller names the path.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        Self::with_size(path.into(), MAX_SIZE)
    }

    pub(super) fn with_size(path: PathBuf, max_size: u64) -> io::Result<Self> {
        let mut state = State { path, max_size, file: None, failed: None };
        state.reopen()?;
        Ok(Self { state: Arc::new(Mutex::new(state)) })
    }

    /// Opens the file anew: for SIGHUP, after something else moved it away. If that fails, the file that is open
    /// stays in use.
    ///
    /// # Errors
    /// What the system said.
    pub fn reopen(&self) -> io::Result<()> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).reopen()
    }

    /// Whether a call may be done: the last line was written, or one can be written now.
    pub(super) async fn ready(&self) -> Result<(), String> {
        let failed = self.state.lock().unwrap_or_else(PoisonError::into_inner).failed.clone();
        let Some(reason) = failed else { return Ok(()) };
        let note = serde_json::json!({
            "time": jiff::Timestamp::now().to_string(),
            "note": "the audit log is written again; calls before this line may be missing and are in the \
                     daemon's log",
            "reason": reason,
        });
        self.append(note.to_string()).await
    }

    /// Writes a line. A failure is told in the daemon's log with the line, and by [`AuditLog::ready`].
    pub(super) async fn write(&self, line: String) {
        if let Err(reason) = self.append(line.clone()).await {
            tracing::error!(
                %reason, %line,
                "the audit log cannot be written; calls that change something are refused until it can"
            );
        }
    }

    async fn append(&self, line: String) -> Result<(), String> {
        let state = Arc::clone(&self.state);
        let written = tokio::task::spawn_blocking(move || {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let result = state.append(&line).map_err(|error| format!("{}: {error}", state.path.display()));
            state.failed = result.clone().err();
            result
        });
        written.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

impl State {
    fn reopen(&mut self) -> io::Result<()> {
        let file = Files::default().append(&self.path, Mode::Owner).map_err(|error| error.source)?;
        self.file = Some(file);
        Ok(())
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.failed.is_some() {
            self.reopen()?;
            // The line before may have been cut off in the middle.
            self.put(b"\n")?;
        }
        if self.file.as_ref().is_some_and(|file| file.length() >= self.max_size) {
            self.turn_over()?;
        }
        self.put(format!("{line}\n").as_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("the file is not open"))?;
        file.append(bytes).map_err(|error| error.source)
    }

    fn turn_over(&mut self) -> io::Result<()> {
        for index in (1..KEPT).rev() {
            rename_if_there(&numbered(&self.path, index), &numbered(&self.path, index + 1))?;
        }
        rename_if_there(&self.path, &numbered(&self.path, 1))?;
        // Makes the new names durable too.
        self.reopen()
    }
}

fn numbered(path: &Path, index: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{index}"));
    name.into()
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match Files::default().rename(from, to) {
        Err(FileError { source, .. }) if source.kind() != io::ErrorKind::NotFound => Err(source),
        _ => Ok(()),
    }
}
