//! Writable copies of a point: a failover or a test. An overlay is an empty qcow2 file per disk over the
//! point's layer, so making it takes the same time for any disk, and reverting is removing it.
//!
//! What an overlay stands on is frozen: no merge touches a layer up to its epoch. That is durable before the
//! overlay is handed out. The overlay's directory says itself what it is, in `overlay.json`, so that the manifest can be
//! built again when it is lost.

use crate::checked;
use crate::error::{Error, Result};
use crate::io::{Io, read_limited};
use crate::layout::{Layout, check_component, layer_name, part};
use crate::manifest::{Backing, Disk, Manifest, OverlayRecord, Purpose};
use crate::qcow2::Writer;
use crate::replica::{Replica, lock};
use standin_model::{DiskName, Epoch, PointId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// What the manifest says of an overlay, once more in its directory: which it is without the manifest.
const NOTE: &str = "overlay.json";
const MAX_NOTE: u64 = 64 << 10;

/// What to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayRequest {
    /// Its name, unique in the replica: one path component by the rule for names.
    pub id: String,
    /// The point it shows.
    pub point: PointId,
    /// What for.
    pub purpose: Purpose,
}

/// One disk of an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayDisk {
    /// The qcow2 file to run from.
    pub path: PathBuf,
    /// Whether QEMU finds the rest by itself or the caller serves [`crate::PointReader`] by NBD.
    pub backing: Backing,
}

/// A writable copy of a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Its name.
    pub id: String,
    /// The point it shows.
    pub point: PointId,
    /// The epoch of that point.
    pub epoch: Epoch,
    /// What for.
    pub purpose: Purpose,
    /// It has become the VM's disk.
    pub committed: bool,
    /// Its disks.
    pub disks: BTreeMap<DiskName, OverlayDisk>,
    /// The configuration of the point, if it has one. Not to be written to: points share these files.
    pub config: Option<PathBuf>,
}

impl Replica {
    /// Makes an overlay on a point. Instant at any disk size.
    ///
    /// # Errors
    /// [`Error::UnknownPoint`]; [`Error::Exists`]; [`Error::Busy`] after a commit; [`Error::Invalid`] for a name
    /// that cannot be.
    pub fn overlay(&self, request: OverlayRequest) -> Result<Overlay> {
        check_component("overlay", &request.id)?;
        // Held to the end: no merge replaces a file of the chain before the pin is durable.
        let guard = self.change_lock();
        let manifest = self.manifest();
        let Some(point) = manifest.point(request.point) else {
            return Err(Error::UnknownPoint { vm: self.vm(), point: request.point });
        };
        if manifest.overlays.iter().any(|overlay| overlay.id == request.id) {
            return Err(Error::Exists(format!("overlay {:?}", request.id)));
        }
        if let Some(id) = manifest.committed() {
            return Err(Error::Busy {
                vm: self.vm(),
                what: format!("its failover (overlay {id:?}) is committed"),
            });
        }
        let longest = manifest.disks.iter().map(|disk| chain(disk, point.epoch)).max().unwrap_or(0);
        let backing = if longest < self.inner.options.max_chain { Backing::Chain } else { Backing::Map };
        let target = self.inner.layout.overlay_dir(&request.id);
        if target.exists() {
            return Err(Error::Exists(format!(
                "{}, which the manifest does not list; move it away",
                target.display()
            )));
        }
        let record = OverlayRecord {
            id: request.id.clone(),
            point: point.id,
            epoch: point.epoch,
            purpose: request.purpose,
            backing,
            created_at: self.inner.options.clock.now(),
            committed: false,
        };
        self.write_overlay(&manifest, &target, &record)?;
        // Listed first, named after: an overlay that is not listed never has a name that a person could run.
        let recorded = self.update_locked(&guard, |manifest| {
            manifest.overlays.push(record);
            Ok(())
        });
        let named = recorded.and_then(|()| self.name_overlay(&request.id));
        if let Err(error) = named {
            self.undo_overlay(&guard, &request.id);
            return Err(error);
        }
        drop(guard);
        self.find_overlay(&request.id)
    }

    fn write_overlay(
        &self,
        manifest: &Manifest,
        target: &std::path::Path,
        record: &OverlayRecord,
    ) -> Result<()> {
        let io = &self.inner.io;
        let staged = part(target);
        io.remove_tree(&staged)?;
        io.create_dir(&staged)?;
        for disk in &manifest.disks {
            let below = match record.backing {
                Backing::Chain => Some(format!("../../disks/{}/{}", disk.name, layer_name(record.epoch))),
                Backing::Map => None,
            };
            let path = staged.join(format!("{}.qcow2", disk.name));
            let mut writer = Writer::create(io, &path, disk.size, below, 2)?;
            writer.finish()?;
            writer.handle().sync()?;
        }
        io.write_atomic(&staged.join(NOTE), &render(record)?)?;
        io.sync_dir(&staged)?;
        io.sync_dir(&self.inner.layout.overlays())
    }

    /// Gives an overlay that is complete and listed its name.
    pub(crate) fn name_overlay(&self, id: &str) -> Result<()> {
        let target = self.inner.layout.overlay_dir(id);
        self.inner.io.rename(&part(&target), &target)?;
        self.inner.io.sync_dir(&self.inner.layout.overlays())
    }

    fn undo_overlay(&self, guard: &std::sync::MutexGuard<'_, ()>, id: &str) {
        let unlist = self.update_locked(guard, |manifest| {
            manifest.overlays.retain(|overlay| overlay.id != id);
            Ok(())
        });
        let target = self.inner.layout.overlay_dir(id);
        let removed = unlist.and_then(|()| {
            self.inner.io.remove_tree(&part(&target))?;
            self.inner.io.remove_tree(&target)
        });
        if let Err(error) = removed {
            tracing::warn!(vm = %self.vm(), overlay = id, %error, "an overlay that failed is put in order at the next start");
        }
    }

    pub(crate) fn find_overlay(&self, id: &str) -> Result<Overlay> {
        let found = self.overlays().into_iter().find(|overlay| overlay.id == id);
        found.ok_or_else(|| Error::UnknownOverlay { vm: self.vm(), id: id.chars().take(64).collect() })
    }

    /// All overlays.
    #[must_use]
    pub fn overlays(&self) -> Vec<Overlay> {
        let manifest = self.manifest();
        manifest.overlays.iter().map(|record| self.describe_overlay(&manifest, record)).collect()
    }

    fn describe_overlay(&self, manifest: &Manifest, record: &OverlayRecord) -> Overlay {
        let layout = &self.inner.layout;
        let directory = layout.overlay_dir(&record.id);
        let disk = |disk: &Disk| {
            let path = directory.join(format!("{}.qcow2", disk.name));
            (disk.name.clone(), OverlayDisk { path, backing: record.backing })
        };
        // After a commit the point is gone; its configuration is the newest that stayed.
        let config = match manifest.point(record.point) {
            Some(point) => point.config_epoch,
            None => manifest.configs.iter().rev().map(|c| c.epoch).find(|epoch| *epoch <= record.epoch),
        };
        Overlay {
            id: record.id.clone(),
            point: record.point,
            epoch: record.epoch,
            purpose: record.purpose,
            committed: record.committed,
            disks: manifest.disks.iter().map(disk).collect(),
            config: config.map(|epoch| layout.config_dir(epoch)),
        }
    }

    /// Removes an overlay with all that was written to it: a revert, or the end of a test. The VM on it must be
    /// off.
    ///
    /// # Errors
    /// [`Error::UnknownOverlay`]; [`Error::Busy`] when it is committed.
    pub fn discard_overlay(&self, id: &str) -> Result<()> {
        let overlay = self.find_overlay(id)?;
        if overlay.committed {
            return Err(Error::Busy {
                vm: self.vm(),
                what: format!("overlay {id:?} is committed: it is the VM's disk"),
            });
        }
        let directory = self.inner.layout.overlay_dir(id);
        if directory.exists() {
            // From here on its name says that it goes, whatever happens.
            let gone = self.inner.layout.overlay_dir(&format!("{id}.gone"));
            self.inner.io.remove_tree(&gone)?;
            self.inner.io.rename(&directory, &gone)?;
            self.inner.io.sync_dir(&self.inner.layout.overlays())?;
        }
        self.forget_overlay(id)
    }

    /// Unlists an overlay whose directory says that it goes, and removes that.
    pub(crate) fn forget_overlay(&self, id: &str) -> Result<()> {
        self.update(|manifest| {
            manifest.overlays.retain(|overlay| overlay.id != id);
            Ok(())
        })?;
        self.inner.io.remove_tree(&self.inner.layout.overlay_dir(&format!("{id}.gone")))
    }

    /// Makes an overlay the VM's disk: all points go, layers above it are removed, what it stands on stays
    /// frozen. There is no way back, and the replica receives nothing more.
    ///
    /// # Errors
    /// [`Error::UnknownOverlay`]; [`Error::Busy`] while a layer is written or another overlay is there;
    /// [`Error::Invalid`] for an overlay of a test.
    pub fn commit_overlay(&self, id: &str) -> Result<()> {
        let overlay = self.find_overlay(id)?;
        if overlay.committed {
            return Ok(());
        }
        if overlay.purpose == Purpose::Test {
            return Err(Error::invalid(format!(
                "overlay {id:?} is a test; only a failover can be committed"
            )));
        }
        let busy = |what: String| Error::Busy { vm: self.vm(), what };
        if self.inner.writing.swap(true, Ordering::SeqCst) {
            return Err(busy("a layer is being written".into()));
        }
        let outcome = self.commit_locked(&overlay);
        self.inner.writing.store(false, Ordering::SeqCst);
        let removed = outcome?;
        self.note_overlays();
        for (disk, epoch) in removed {
            self.inner.io.remove(&self.inner.layout.layer(&disk, epoch))?;
            self.inner.io.remove(&self.inner.layout.sidecar(&disk, epoch))?;
        }
        Ok(())
    }

    /// Brings what the overlays' directories say of them up to date.
    pub(crate) fn note_overlays(&self) {
        self.manifest().overlays.iter().for_each(|record| note(&self.inner.io, &self.inner.layout, record));
    }

    /// The layers that go.
    fn commit_locked(&self, overlay: &Overlay) -> Result<Vec<(DiskName, Epoch)>> {
        let busy = |what: String| Error::Busy { vm: self.vm(), what };
        // The trees hold digests of layers that go. They are emptied, and built again when they are needed; until
        // the manifest is durable nobody may bring them up to date.
        let mut trees: Vec<_> = self.inner.trees.values().map(lock).collect();
        trees.iter_mut().try_for_each(|tree| tree.clear())?;
        self.update(|manifest| {
            if let Some(other) = manifest.overlays.iter().find(|other| other.id != overlay.id) {
                return Err(busy(format!("overlay {:?} is there too; end it first", other.id)));
            }
            manifest.overlays.iter_mut().for_each(|overlay| overlay.committed = true);
            manifest.points.clear();
            let mut removed = Vec::new();
            for disk in &mut manifest.disks {
                let above = disk.layers.iter().filter(|layer| layer.epoch > overlay.epoch);
                removed.extend(above.map(|layer| (disk.name.clone(), layer.epoch)));
                disk.layers.retain(|layer| layer.epoch <= overlay.epoch);
            }
            manifest.merges.retain(|merge| merge.upper <= overlay.epoch);
            Ok(removed)
        })
    }
}

/// The ids of the overlays whose directories are there and have their names.
pub(crate) fn found(layout: &Layout) -> Result<BTreeSet<String>> {
    let path = layout.overlays();
    let mut ids = BTreeSet::new();
    for entry in std::fs::read_dir(&path).map_err(|error| Error::io("list", &path, error))? {
        let name = entry.map_err(|error| Error::io("list", &path, error))?.file_name();
        ids.extend(name.to_str().filter(|name| check_component("overlay", name).is_ok()).map(str::to_owned));
    }
    Ok(ids)
}

/// What an overlay's directory says of it; `None` in one of a version before.
pub(crate) fn noted(layout: &Layout, id: &str) -> Result<Option<OverlayRecord>> {
    let path = layout.overlay_dir(id).join(NOTE);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read_limited(&path, MAX_NOTE)?;
    let body = checked::body(&bytes).map_err(|what| Error::corrupt(&path, what))?;
    serde_json::from_slice(body).map(Some).map_err(|error| Error::corrupt(&path, error.to_string()))
}

/// Brings the file in an overlay's directory up to date. The manifest decides: one that cannot be written is said.
pub(crate) fn note(io: &Io, layout: &Layout, record: &OverlayRecord) {
    if noted(layout, &record.id).is_ok_and(|known| known.as_ref() == Some(record)) {
        return;
    }
    let path = layout.overlay_dir(&record.id).join(NOTE);
    if let Err(error) = render(record).and_then(|text| io.write_atomic(&path, &text)) {
        tracing::warn!(path = %path.display(), error = %crate::store::describe(&error),
            "what an overlay is for is kept in the manifest only until the next start");
    }
}

fn render(record: &OverlayRecord) -> Result<Vec<u8>> {
    let text = serde_json::to_vec_pretty(record)
        .map_err(|error| Error::invalid(format!("what an overlay is for cannot be written: {error}")))?;
    Ok(checked::seal(text))
}

/// Files of the chain of a disk up to an epoch.
fn chain(disk: &Disk, epoch: Epoch) -> usize {
    disk.layers.iter().filter(|layer| layer.epoch <= epoch).count()
}
