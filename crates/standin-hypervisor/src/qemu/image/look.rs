//! The images of VMs that are off, for lists: a thousand of them in a fraction of a second.
//!
//! An ordinary image is told from its first bytes each time ([`super::glance`]). For the rest `qemu-img` is run, a few
//! at once, and what it said is remembered until one of the files it looked at differs: device, inode, size, or the
//! times of its content and of its inode. A complaint is not remembered: its cause may lie outside of the files.
//!
//! A start does not rely on any of this: see [`super::examine`].

use super::glance::{Glance, glance};
use super::{Image, Locks, TIMEOUT, ask_qemu, check_file, in_use, other_format, problem};
use crate::definition::DiskDefinition;
use crate::error::Error;
use standin_model::DiskName;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;

/// A file that changed less than this before it was looked at may change again without a new time.
const SETTLED: Duration = Duration::from_secs(2);

/// What `qemu-img` said about the disks of one VM.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<BTreeMap<DiskName, Remembered>>);

#[derive(Debug, Clone)]
struct Remembered {
    disk: DiskDefinition,
    files: Vec<Stamp>,
    size: u64,
}

/// A file as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    file: std::path::PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Memory {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<DiskName, Remembered>> {
        // Single insertions and removals: never half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything: the VM has another definition.
    pub fn clear(&self) {
        self.entries().clear();
    }

    fn size(&self, disk: &DiskDefinition) -> Option<u64> {
        let known = self.entries().get(&disk.name).cloned()?;
        let same = known.disk == *disk
            && known.files.iter().all(|stamp| Stamp::of(&stamp.file).as_ref() == Some(stamp));
        same.then_some(known.size)
    }

    fn keep(&self, disk: &DiskDefinition, files: Vec<Stamp>, size: u64) {
        self.entries().insert(disk.name.clone(), Remembered { disk: disk.clone(), files, size });
    }
}

impl Stamp {
    /// `None` where the file's times say nothing: it cannot be reached, or is a device.
    fn of(file: &Path) -> Option<Self> {
        let found = fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
        Some(Self {
            file: file.to_owned(),
            device: found.dev(),
            inode: found.ino(),
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    fn settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        u64::try_from(self.changed.0).is_ok_and(|changed| changed + SETTLED.as_secs() <= now)
    }
}

/// What the guest would see of a disk, in bytes, found without locking its image. `processes` bounds how many
/// `qemu-img` run at once.
pub(crate) async fn look(
    disk: &DiskDefinition,
    memory: &Memory,
    locks: &Arc<Locks>,
    processes: &Semaphore,
) -> Result<u64, Error> {
    let (here, locks) = (disk.clone(), Arc::clone(locks));
    let first = tokio::task::spawn_blocking(move || first_look(&here, &locks));
    let late =
        |_| Error::Timeout { what: format!("a look at the image of disk {}", disk.name), after: TIMEOUT };
    let first = tokio::time::timeout(TIMEOUT, first).await.map_err(late)?;
    match first.map_err(|error| Error::Internal(error.to_string()))?? {
        Glance::Size(size) => return Ok(size),
        Glance::OtherFormat => return Err(problem(disk, other_format(&disk.file, disk))),
        Glance::AskQemu => {}
    }
    if let Some(size) = memory.size(disk) {
        return Ok(size);
    }
    let _turn = processes.acquire().await.map_err(|error| Error::Internal(error.to_string()))?;
    // Another list that waited for its turn may have asked meanwhile.
    if let Some(size) = memory.size(disk) {
        return Ok(size);
    }
    let before = SystemTime::now();
    let top = Stamp::of(&disk.file);
    let (image, chained) = ask_qemu(disk, false).await?;
    if let Some(files) = stamps(top, &image, chained, before) {
        memory.keep(disk, files, image.size);
    }
    Ok(image.size)
}

fn first_look(disk: &DiskDefinition, locks: &Locks) -> Result<Glance, Error> {
    let mut opened = check_file(disk)?;
    if !disk.read_only && opened.file.metadata().is_ok_and(|metadata| locks.hold(&metadata)) {
        return Err(problem(disk, in_use(&disk.file)));
    }
    Ok(glance(&mut opened.file, disk.format))
}

/// All files that an answer rests on, if they can be told and none of them changes just now.
fn stamps(top: Option<Stamp>, image: &Image, chained: bool, now: SystemTime) -> Option<Vec<Stamp>> {
    if chained && image.backing.is_empty() {
        return None;
    }
    let mut files = vec![top?];
    for layer in &image.backing {
        files.push(Stamp::of(&layer.file)?);
    }
    files.iter().all(|stamp| stamp.settled(now)).then_some(files)
}

#[cfg(test)]
mod tests;
