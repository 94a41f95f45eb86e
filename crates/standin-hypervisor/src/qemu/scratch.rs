//! The scratch space of a cut: files that take the old data of what the guest overwrites, and the watch that
//! gives the cut up before the guest could notice that they do not fit.
//!
//! # Why the guest never sees an error
//!
//! In QEMU up to 10 a guest's write fails when the old data cannot be put away. Three lines of defence:
//!
//! 1. The watch looks every [`LOOK`] and cancels the jobs when less than the reserve is free. The reserve has to
//!    hold what the guest can write while that happens.
//! 2. A guest that outruns it gets no error all the same: QEMU's policy of a disk is to stop the guest at
//!    "no space" and to try the write again when it goes on. The watch hears of it, cancels the jobs and lets
//!    the guest go on: a pause of some milliseconds.
//! 3. Where QEMU can, the job is told to break the view instead (`on-cbw-error`).
//!
//! If the daemon is not there to watch, the guest stays stopped until it is back: `clean` lets it go on.

use super::machine::Machine;
use super::names::Names;
use super::teardown;
use crate::error::Error;
use crate::qmp::{Event, json};
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// How often the free space is looked at. One look costs a system call.
pub(crate) const LOOK: Duration = Duration::from_millis(10);
/// QEMU stops a guest a moment after the write that failed.
const STOP_DELAYS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(400)];

/// Free bytes in the file system of `dir`.
pub(crate) fn free(dir: &Path) -> Result<u64, Error> {
    let stat = rustix::fs::statvfs(dir)
        .map_err(|error| Error::io(format!("ask for the free space of {}", dir.display()))(error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Refuses a cut that would be given up at once.
pub(crate) fn require(dir: &Path, reserve: u64) -> Result<(), Error> {
    let free = free(dir)?;
    if free < reserve {
        return Err(Error::ScratchSpace { dir: dir.to_owned(), free, reserve });
    }
    Ok(())
}

/// An empty scratch file of exactly `size` bytes that takes no space yet.
pub(crate) fn create(path: &Path, size: u64) -> Result<(), Error> {
    let make = || -> std::io::Result<()> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.set_len(size)
    };
    make().map_err(Error::io(format!("make the scratch file {}", path.display())))
}

/// Removes the files in `dir` whose names begin with `prefix`.
pub(crate) fn remove_files(dir: &Path, prefix: &str) -> Result<(), Error> {
    let context = || format!("clean the scratch directory {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(context())(error)),
    };
    for entry in entries {
        let entry = entry.map_err(Error::io(context()))?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix)) {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(context())(error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// What a view is watched for.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The QEMU.
    pub machine: Arc<Machine>,
    /// The tracker's names.
    pub names: Names,
    /// Where the scratch files are and what has to stay free; `None` for a live view.
    pub space: Option<(PathBuf, u64)>,
    /// Is told the reason.
    pub failure: watch::Sender<Option<String>>,
    /// The view is being closed: what ends now ends in order.
    pub closing: CancellationToken,
}

impl Watch {
    /// Watches until the view fails or is closed. `events` are those since before the cut.
    pub async fn run(self, mut events: broadcast::Receiver<Event>) {
        let reason = tokio::select! {
            reason = self.trouble(&mut events) => reason,
            () = self.closing.cancelled() => return,
        };
        tracing::warn!(reason, "a view of a VM's disks failed");
        self.failure.send_replace(Some(reason));
        // From here on it must not be cut short: the guest may stand still.
        if let Err(error) = self.release_guest().await {
            tracing::error!(%error, "the jobs of a failed view could not be ended; they are tried again at its close");
        }
    }

    async fn trouble(&self, events: &mut broadcast::Receiver<Event>) -> String {
        let closed = self.machine.qmp.closed();
        tokio::select! {
            () = closed.cancelled() => "the VM's process ended".to_owned(),
            reason = self.no_space() => reason,
            reason = self.bad_event(events) => reason,
        }
    }

    async fn no_space(&self) -> String {
        let Some((dir, reserve)) = &self.space else { return std::future::pending().await };
        loop {
            match require(dir, *reserve) {
                Ok(()) => tokio::time::sleep(LOOK).await,
                Err(error) => return error.to_string(),
            }
        }
    }

    async fn bad_event(&self, events: &mut broadcast::Receiver<Event>) -> String {
        loop {
            match events.recv().await {
                Ok(event) => {
                    if let Some(reason) = self.judge(&event) {
                        return reason;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    return format!("{count} events of QEMU were missed");
                }
                Err(broadcast::error::RecvError::Closed) => return "the VM's process ended".to_owned(),
            }
        }
    }

    fn judge(&self, event: &Event) -> Option<String> {
        let data = &event.data;
        match event.name.as_str() {
            "JOB_STATUS_CHANGE" if self.names.owns(json::text(data, "id")) => {
                let status = json::text(data, "status");
                matches!(status, "aborting" | "concluded" | "null")
                    .then(|| format!("the backup job {} ended by itself", json::text(data, "id")))
            }
            "BLOCK_JOB_ERROR" if self.names.owns(json::text(data, "device")) => {
                Some(format!("the backup job {} reported an error", json::text(data, "device")))
            }
            "BLOCK_IO_ERROR" if self.space.is_some() && json::text(data, "action") == "stop" => {
                Some(format!("a write of the guest found no space: {}", json::text(data, "reason")))
            }
            _ => None,
        }
    }

    async fn release_guest(&self) -> Result<(), Error> {
        if self.machine.qmp.closed().is_cancelled() || self.space.is_none() {
            return Ok(());
        }
        teardown::cancel_jobs(&self.machine.qmp, &self.names).await?;
        for delay in STOP_DELAYS {
            tokio::time::sleep(delay).await;
            if teardown::rescue(&self.machine).await? {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_tracker_are_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["standin-a-1-0.scratch", "standin-b-1-0.scratch", "other"] {
            create(&dir.path().join(name), 4096).expect("create");
        }
        remove_files(dir.path(), "standin-a-1-").expect("remove");
        remove_files(dir.path(), "standin-a-1-").expect("remove again");
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .expect("list")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        left.sort();
        assert_eq!(left, ["other", "standin-b-1-0.scratch"]);
        remove_files(&dir.path().join("gone"), "x").expect("a directory that is gone has no files");
    }

    #[test]
    fn a_scratch_file_takes_no_space_and_is_never_somebody_elses() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        create(&path, 1 << 40).expect("create");
        let metadata = fs::metadata(&path).expect("metadata");
        assert_eq!((metadata.len(), metadata.blocks()), (1 << 40, 0));
        assert!(create(&path, 4096).is_err());
    }

    #[test]
    fn a_cut_without_room_is_refused_with_the_figures() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = require(dir.path(), u64::MAX).expect_err("nobody has that much");
        assert!(matches!(error, Error::ScratchSpace { reserve: u64::MAX, .. }));
    }
}
