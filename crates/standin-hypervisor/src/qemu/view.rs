//! An open view: what was made for it, and its end.

use super::Shared;
use super::machine::{Machine, ViewGuard, Vm};
use super::names::Names;
use super::reader::{Changes, Reader};
use super::scratch::{self, Watch};
use super::teardown;
use crate::error::Error;
use crate::local::LocalDisk;
use crate::qmp::Event;
use crate::seam::{DiskReader, View, ViewInfo};
use async_trait::async_trait;
use standin_model::DiskName;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The watch ends at once, unless it is just letting a stopped guest go on.
const WATCH_ENDS: Duration = Duration::from_secs(35);

/// What every view of a VM is made for and with.
#[derive(Debug)]
pub(crate) struct Context {
    /// The VM.
    pub vm: Arc<Vm>,
    /// Its QEMU.
    pub machine: Arc<Machine>,
    /// The tracker's names.
    pub names: Names,
    /// Where scratch files are; `None` for a live view.
    pub scratch_dir: Option<PathBuf>,
    /// No other view of this tracker may open while this lives.
    pub _guard: ViewGuard,
}

impl Context {
    /// Removes everything that bears the tracker's name, in QEMU and in the scratch directory.
    pub async fn remove(&self) -> Result<(), Error> {
        remove(&self.vm, &self.names, self.scratch_dir.as_deref()).await
    }
}

/// Removes everything of a tracker but its marks. Scratch files stay as long as a QEMU may still write to them:
/// their space would not come free, and they would not be found again.
pub(crate) async fn remove(vm: &Vm, names: &Names, scratch_dir: Option<&Path>) -> Result<(), Error> {
    // Not the machine of the view: the connection may be a new one by now, or the VM another process.
    match vm.machine() {
        Some(machine) => match teardown::everything(&machine, names).await {
            // It ended while we were at it: nothing is left in it.
            Err(Error::Connection { .. }) if vm.stopped(Duration::from_secs(5)).await => Ok(()),
            other => other,
        },
        None => Ok(()),
    }?;
    scratch_dir.map_or(Ok(()), |dir| remove_scratch(vm, names, dir))
}

/// Removes the files of a cut of this VM, whichever release made them.
pub(crate) fn remove_scratch(vm: &Vm, names: &Names, dir: &Path) -> Result<(), Error> {
    scratch::remove_files(dir, &names.scratch_prefix(vm.id))?;
    scratch::remove_files(dir, &names.former_scratch_prefix(vm.id))
}

/// A view of a running QEMU.
#[derive(Debug)]
pub(crate) struct QemuView {
    info: ViewInfo,
    readers: BTreeMap<DiskName, Arc<Reader>>,
    failure: watch::Receiver<Option<String>>,
    closing: CancellationToken,
    watching: JoinHandle<()>,
    context: Context,
}

/// A disk that a view offers.
pub(crate) struct Exported {
    /// Its name.
    pub name: DiskName,
    /// Its export.
    pub target: standin_nbd::Target,
    /// Its size in bytes.
    pub size: u64,
    /// Whether anything changed since the request's `since`; `None` if it had none.
    pub changed: Option<bool>,
    /// Whether each cluster has to be asked for by itself; see [`super::clusters`].
    pub apart: bool,
    /// The image, where it may be read past QEMU, and its name.
    pub local: Option<(File, PathBuf)>,
}

/// The parts of a view that [`QemuView::open`] puts together.
pub(crate) struct Parts {
    /// Facts.
    pub info: ViewInfo,
    /// What is to be read.
    pub disks: Vec<Exported>,
    /// Bytes that have to stay free in the scratch directory.
    pub reserve: u64,
    /// QEMU's events since before the cut.
    pub events: broadcast::Receiver<Event>,
}

impl QemuView {
    /// Begins to watch and hands out the readers.
    pub fn open(shared: &Shared, context: Context, parts: Parts) -> Self {
        let (sender, failure) = watch::channel(None);
        let closing = shared.stop.child_token();
        let watch = Watch {
            machine: Arc::clone(&context.machine),
            names: context.names.clone(),
            space: context.scratch_dir.clone().map(|dir| (dir, parts.reserve)),
            failure: sender,
            closing: closing.clone(),
        };
        let watching = tokio::spawn(watch.run(parts.events));
        let frozen = context.names.frozen();
        let readers = parts.disks.into_iter().map(|disk| {
            let changes = match disk.changed {
                None => Changes::NotAsked,
                Some(false) => Changes::Nothing,
                Some(true) => Changes::In(&frozen),
            };
            let local = disk.local.map(|(file, path)| LocalDisk::new(file, &path, failure.clone()));
            let reader = Reader::new(disk.target, disk.size, changes, failure.clone())
                .with_local(local)
                .with_clusters_apart(disk.apart);
            (disk.name, Arc::new(reader))
        });
        let readers = readers.collect();
        Self { info: parts.info, readers, failure, closing, watching, context }
    }
}

#[async_trait]
impl View for QemuView {
    fn info(&self) -> &ViewInfo {
        &self.info
    }

    fn disk(&self, name: &DiskName) -> Option<Arc<dyn DiskReader>> {
        let reader = Arc::clone(self.readers.get(name)?);
        Some(reader)
    }

    fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.clone()
    }

    async fn close(self: Box<Self>) -> Result<(), Error> {
        let Self { context, closing, watching, readers, .. } = *self;
        drop(readers);
        closing.cancel();
        // Two that cancel the same jobs and let the same guest go on would be in each other's way.
        if tokio::time::timeout(WATCH_ENDS, watching).await.is_err() {
            tracing::error!(vm = %context.vm.id, "the watch of a view does not end");
        }
        context.remove().await
    }
}
