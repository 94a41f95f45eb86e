//! Open views: a cut holds the contents as they were, a live view looks at the disk as it is.

use super::disk::{Bits, Content};
use super::{Op, Shared};
use crate::error::Error;
use crate::seam::{DiskReader, Extent, Result, Tracker, View, ViewInfo};
use async_trait::async_trait;
use bytes::Bytes;
use standin_model::{DiskName, VmId};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// The most that one read may ask for, as in NBD.
const MAX_READ: u32 = 32 << 20;

/// A view, registered with its VM until it is closed or dropped.
pub(super) struct FakeView {
    pub(super) shared: Arc<Shared>,
    pub(super) vm: VmId,
    pub(super) id: u64,
    pub(super) tracker: Tracker,
    pub(super) info: ViewInfo,
    pub(super) disks: BTreeMap<DiskName, Arc<FakeReader>>,
    pub(super) failure: watch::Receiver<Option<String>>,
    pub(super) closed: bool,
}

#[async_trait]
impl View for FakeView {
    fn info(&self) -> &ViewInfo {
        &self.info
    }

    fn disk(&self, name: &DiskName) -> Option<Arc<dyn DiskReader>> {
        self.disks.get(name).map(|reader| Arc::clone(reader) as Arc<dyn DiskReader>)
    }

    fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.clone()
    }

    async fn close(mut self: Box<Self>) -> Result<()> {
        // An error or a cancelled wait here leaves the rest to `drop`, which records the left-over.
        self.shared.faults.pass(Op::Close).await?;
        self.closed = true;
        Ok(())
    }
}

impl Drop for FakeView {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let Ok(fake) = state.vm_mut(self.vm) else { return };
        if let Some(view) = fake.views.remove(&self.id) {
            // Readers that outlive their view must not answer any more.
            view.failure.send_if_modified(|failure| {
                let open = failure.is_none();
                if open {
                    *failure = Some("the view was closed".to_owned());
                }
                open
            });
        }
        if !self.closed && fake.power != crate::seam::PowerState::Off {
            fake.leftovers.insert(self.tracker.0.clone());
        }
    }
}

/// Where a reader's bytes come from.
pub(super) enum Source {
    /// As they were at the cut.
    Frozen(Content),
    /// As they are.
    Live,
}

/// Reads one disk of a view.
pub(super) struct FakeReader {
    pub(super) shared: Arc<Shared>,
    pub(super) vm: VmId,
    pub(super) disk: DiskName,
    pub(super) size: u64,
    pub(super) source: Source,
    /// The frozen copy of the request's `since`.
    pub(super) dirty: Option<Bits>,
    pub(super) failure: watch::Receiver<Option<String>>,
    pub(super) view: u64,
}

impl FakeReader {
    fn check(&self, offset: u64, length: u64) -> Result<()> {
        if let Some(reason) = self.failure.borrow().as_ref() {
            return Err(Error::View(reason.clone()));
        }
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(Error::Read {
                context: format!("read {length} bytes at {offset} of disk {}", self.disk),
                detail: format!("the disk ends at {}", self.size),
            });
        }
        Ok(())
    }

    fn content(&self) -> Result<Content> {
        match &self.source {
            Source::Frozen(content) => Ok(content.clone()),
            Source::Live => {
                let state = self.shared.lock();
                let disks = &state.vm(self.vm)?.disks;
                let disk = disks
                    .get(&self.disk)
                    .ok_or_else(|| Error::UnknownDisk { vm: self.vm, disk: self.disk.clone() })?;
                Ok(disk.content.clone())
            }
        }
    }

    fn fail_view(&self) {
        let state = self.shared.lock();
        if let Some(view) = state.vms.get(&self.vm).and_then(|fake| fake.views.get(&self.view)) {
            view.failure.send_replace(Some("the scratch space is used up".to_owned()));
        }
    }
}

#[async_trait]
impl DiskReader for FakeReader {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(&self, offset: u64, length: u32) -> Result<Bytes> {
        if length > MAX_READ {
            return Err(Error::Read {
                context: format!("read {length} bytes of disk {}", self.disk),
                detail: format!("at most {MAX_READ} bytes can be read at once"),
            });
        }
        self.shared.faults.pass(Op::Read).await?;
        if self.shared.faults.take_view_failure() {
            self.fail_view();
        }
        self.check(offset, length.into())?;
        let data = self.content()?.read(offset, length.into());
        self.shared.lock().bytes_read += u64::from(length);
        Ok(data.into())
    }

    async fn dirty(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        self.shared.faults.pass(Op::Status).await?;
        self.check(offset, length)?;
        match &self.dirty {
            Some(bits) => Ok(bits.extents(offset, length)),
            None => Err(Error::Read {
                context: format!("read dirty extents of disk {}", self.disk),
                detail: "the view was opened without a mark to compare with".to_owned(),
            }),
        }
    }

    async fn allocation(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        self.shared.faults.pass(Op::Status).await?;
        self.check(offset, length)?;
        Ok(self.content()?.allocation(offset, length))
    }
}
