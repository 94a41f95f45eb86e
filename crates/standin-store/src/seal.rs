//! Sealing a layer: the moment in which it becomes part of the replica.
//!
//! Order, and what a crash after each step finds:
//! 1. files complete and synced under `.part`, with the note of this seal: a delta is removed, a base is resumed with
//!    nothing left to send;
//! 2. files renamed, directories synced: the same, they are not in the manifest;
//! 3. configuration written: the same;
//! 4. **manifest replaced: sealed**;
//! 5. digest trees brought up to date: they are found lagging and brought up to date from the sidecars.

use crate::config::{self, ConfigFile};
use crate::error::{Error, Result};
use crate::io::Handle;
use crate::layer::{DiskWriter, Kind, LayerWriter};
use crate::layout::part;
use crate::manifest::{Config, Layer, Manifest, Point};
use crate::note::{Note, NotedDisk};
use crate::replica::{lock, record};
use crate::scrub::{Ranges, granules};
use crate::sidecar::{Sidecar, add_note};
use crate::tree::{Pending, Tree};
use jiff::Timestamp;
use standin_model::digest::BlockDigest;
use standin_model::{DiskName, Epoch, PointId, PointKind, RecoveryPoint};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Seals after which the trees are made durable; as many sidecars are replayed after a crash.
const TREE_SYNC_EVERY: u64 = 64;

/// A recovery point to record with a seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPoint {
    /// Chosen by the primary at the cut.
    pub id: PointId,
    /// The instant of the cut, by the primary's clock.
    pub created_at: Timestamp,
    /// How the guest was.
    pub kind: PointKind,
}

/// How to seal a layer.
#[derive(Debug, Clone, Default)]
pub struct SealRequest {
    /// The recovery point, if this layer ends at one. The first copy does not.
    pub point: Option<NewPoint>,
    /// The VM's configuration. Empty: as it was in the newest epoch that has one.
    pub config: Vec<ConfigFile>,
}

/// A sealed layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Its epoch.
    pub epoch: Epoch,
    /// The point that was recorded.
    pub point: Option<RecoveryPoint>,
}

/// The digest of a point: over the names, sizes and tree roots of its disks, in the order given. Primary and
/// replica compute it alike. 64 hexadecimal digits.
#[must_use]
pub fn point_digest<'a>(
    granule: u32,
    disks: impl IntoIterator<Item = (&'a DiskName, u64, BlockDigest)>,
) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("standin 2026 digest of a recovery point, v1");
    hasher.update(&granule.to_le_bytes());
    for (name, size, root) in disks {
        hasher.update(&(name.as_str().len() as u64).to_le_bytes());
        hasher.update(name.as_str().as_bytes());
        hasher.update(&size.to_le_bytes());
        hasher.update(root.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// A disk whose files are complete, but for the note, and not synced.
struct Finished {
    name: DiskName,
    layer: Arc<Handle>,
    side: Arc<Handle>,
}

/// A disk with its new root.
struct Rooted {
    disk: Finished,
    root: BlockDigest,
    pending: Pending,
}

/// What the manifest will say of the new layer.
struct Entry {
    config: Option<Config>,
    point: Option<Point>,
}

impl LayerWriter {
    /// Makes the layer part of the replica. Durable on return: a crash after it finds the layer and its point,
    /// a crash before it finds neither.
    ///
    /// # Errors
    /// Nothing has changed then, and the writer is gone: a delta must be sent again, a base can be resumed.
    pub fn seal(mut self, request: SealRequest) -> Result<Sealed> {
        if self.poisoned.load(Ordering::SeqCst) {
            return Err(Error::Poisoned);
        }
        config::check(&request.config)?;
        let known = self.replica.manifest();
        if let Some(point) = request.point.as_ref().filter(|point| known.point(point.id).is_some()) {
            return Err(Error::Exists(format!("recovery point {}", point.id)));
        }
        self.syncer.stop()?;
        let finished = self.finish_all()?;
        let rooted = finished.into_iter().map(|disk| self.root(disk)).collect::<Result<Vec<_>>>()?;
        let healed = self.heals(&rooted)?;
        let entry = self.entry(&known, &request, &rooted);
        let stored = self.make_durable_with(&self.note(&known, &entry).render()?, &rooted)?;
        let outcome =
            self.rename_files(&rooted).and_then(|()| self.record(&known, entry, &request.config, stored));
        // Whatever happens now, the manifest may be there already: it decides at the next start.
        self.keep_files = outcome.is_ok() || self.replica.failed();
        let sealed = match outcome {
            Ok(sealed) => sealed,
            Err(error) => {
                self.undo_config();
                self.undo_rename();
                return Err(error);
            }
        };
        self.replica.damage_healed(healed);
        self.clean_base();
        rooted.into_iter().for_each(|disk| self.apply(disk));
        Ok(sealed)
    }

    /// Completes the files of all disks, side by side.
    fn finish_all(&self) -> Result<Vec<Finished>> {
        side_by_side(self.disks.iter(), |(name, writer)| self.finish(name, writer))
    }

    /// Puts the note behind the digests of every disk and makes all files durable, side by side. Bytes that each disk's
    /// files take.
    fn make_durable_with(&self, note: &[u8], disks: &[Rooted]) -> Result<Vec<(DiskName, u64)>> {
        side_by_side(disks.iter(), |Rooted { disk, .. }| {
            add_note(&disk.side, note)?;
            disk.layer.sync()?;
            disk.side.sync()?;
            Ok((disk.name.clone(), disk.layer.stored()? + disk.side.stored()?))
        })
    }

    fn finish(&self, name: &DiskName, writer: &DiskWriter) -> Result<Finished> {
        if self.kind == Kind::Base {
            let mut last = lock(&writer.progress);
            self.make_durable(name, writer, writer.shape.size)?;
            *last = Some(std::time::Instant::now());
        }
        let mut part = lock(&writer.part);
        part.qcow.finish()?;
        let side = part.side.finish()?;
        Ok(Finished { name: name.clone(), layer: part.qcow.handle(), side })
    }

    /// The new root of a disk's tree. The tree itself stays as it is, but for a base: there the tree counts for
    /// nothing until the base is sealed, and is built at once.
    fn root(&self, disk: Finished) -> Result<Rooted> {
        let writer = self.disks.get(&disk.name).ok_or_else(|| self.replica.unknown_disk(&disk.name))?;
        let sidecar = Sidecar::open(disk.side.path(), writer.shape)?;
        let mut tree = self.tree(&disk.name)?;
        if self.kind == Kind::Base {
            tree.clear()?;
            tree.lay(self.epoch, sidecar.runs())?;
            let root = tree.root()?;
            drop(tree);
            return Ok(Rooted { disk, root, pending: Pending::default() });
        }
        self.replica.catch_up(&disk.name, &mut tree)?;
        let (root, pending) = tree.preview(sidecar.runs())?;
        drop(tree);
        Ok(Rooted { disk, root, pending })
    }

    /// What the layer covers of each disk, if a check has found damage that it may cover. Read before the files get
    /// their names: once they have them, a merge may put what is below under the same names.
    fn heals(&self, disks: &[Rooted]) -> Result<Vec<(DiskName, Ranges)>> {
        if lock(&self.replica.inner.damage).is_empty() {
            return Ok(Vec::new());
        }
        let covered = |Rooted { disk, .. }: &Rooted| {
            let writer = self.disks.get(&disk.name).ok_or_else(|| self.replica.unknown_disk(&disk.name))?;
            let sidecar = Sidecar::open(disk.side.path(), writer.shape)?;
            Ok((disk.name.clone(), granules(sidecar.runs())?))
        };
        disks.iter().map(covered).collect()
    }

    fn tree(&self, disk: &DiskName) -> Result<std::sync::MutexGuard<'_, Tree>> {
        let tree = self.replica.inner.trees.get(disk);
        tree.map(lock).ok_or_else(|| self.replica.unknown_disk(disk))
    }

    fn rename_files(&self, disks: &[Rooted]) -> Result<()> {
        let (io, layout) = (&self.replica.inner.io, &self.replica.inner.layout);
        for Rooted { disk, .. } in disks {
            let layer = layout.layer(&disk.name, self.epoch);
            io.rename(disk.side.path(), &layout.sidecar(&disk.name, self.epoch))?;
            io.rename(&part(&layer), &layer)?;
            io.sync_dir(&layout.disk_dir(&disk.name))?;
        }
        Ok(())
    }

    /// What is recorded with the layer.
    fn entry(&self, known: &Manifest, request: &SealRequest, disks: &[Rooted]) -> Entry {
        let config = config::plan(self.epoch, &request.config, known.configs.last());
        let config_epoch = config.as_ref().or(known.configs.last()).map(|config| config.epoch);
        let root = |name: &DiskName| disks.iter().find(|disk| disk.disk.name == *name).map(|disk| disk.root);
        let roots = known.disks.iter().map(|d| (&d.name, d.size, root(&d.name).unwrap_or(BlockDigest::ZERO)));
        let point = request.point.as_ref().map(|point| Point {
            id: point.id,
            epoch: self.epoch,
            created_at: point.created_at,
            received_at: self.replica.inner.options.clock.now(),
            kind: point.kind,
            changed_bytes: self.changed_bytes(),
            digest: point_digest(known.granule, roots),
            pins: BTreeSet::new(),
            config_epoch,
        });
        Entry { config, point }
    }

    fn note(&self, known: &Manifest, entry: &Entry) -> Note {
        let disks = known.disks.iter().map(|disk| NotedDisk { name: disk.name.clone(), size: disk.size });
        Note {
            vm: known.vm,
            created_at: known.created_at,
            granule: known.granule,
            disks: disks.collect(),
            epoch: self.epoch,
            point: entry.point.clone(),
            config: entry.config.as_ref().or(known.configs.last()).cloned(),
        }
    }

    fn record(
        &self,
        known: &Manifest,
        entry: Entry,
        files: &[ConfigFile],
        stored: Vec<(DiskName, u64)>,
    ) -> Result<Sealed> {
        let inner = &self.replica.inner;
        if let Some(config) = &entry.config {
            config::write(&inner.io, &inner.layout, config, files, known.configs.last())?;
        }
        self.replica.update(|manifest| {
            for (name, stored) in stored {
                let record = manifest.disks.iter_mut().find(|record| record.name == name);
                let Some(record) = record else { return Err(self.replica.unknown_disk(&name)) };
                record.layers.push(Layer { epoch: self.epoch, stored });
            }
            manifest.configs.extend(entry.config);
            let after = manifest.points.last().map(|point| point.epoch);
            let listed = entry.point.as_ref().map(|point| record(manifest, point, after));
            manifest.points.extend(entry.point);
            Ok(Sealed { epoch: self.epoch, point: listed })
        })
    }

    /// The configuration of an epoch that was not recorded goes.
    fn undo_config(&self) {
        if self.keep_files {
            return;
        }
        let inner = &self.replica.inner;
        let directory = inner.layout.config_dir(self.epoch);
        for path in [part(&directory), directory] {
            if let Err(error) = inner.io.remove_tree(&path) {
                tracing::warn!(vm = %inner.vm, %error, "a configuration that belongs to no point goes at the next start");
            }
        }
    }

    /// A base that was not recorded gets its unsealed names back; a delta goes when the writer is dropped.
    fn undo_rename(&self) {
        if self.keep_files || self.kind == Kind::Delta {
            return;
        }
        for disk in self.disks.keys() {
            let inner = &self.replica.inner;
            if let Err(error) = crate::recover::unseal_base(&inner.io, &inner.layout, disk, self.epoch) {
                tracing::warn!(vm = %inner.vm, %disk, %error, "an unsealed first copy is put in order at the next start");
            }
        }
    }

    /// What a base needed to be resumed is of no use any more.
    fn clean_base(&self) {
        if self.kind == Kind::Delta {
            return;
        }
        let (io, layout) = (&self.replica.inner.io, &self.replica.inner.layout);
        for disk in self.disks.keys() {
            let digests = part(&layout.sidecar(disk, self.epoch));
            for path in [layout.progress(disk, self.epoch), digests] {
                if let Err(error) = io.remove(&path) {
                    tracing::debug!(%error, "left for the next start");
                }
            }
        }
    }

    /// The layer is sealed. A tree that cannot follow is brought up to date before it is used next.
    fn apply(&self, disk: Rooted) {
        let apply = || -> Result<()> {
            let mut tree = self.tree(&disk.disk.name)?;
            if self.kind == Kind::Delta {
                let path = self.replica.inner.layout.sidecar(&disk.disk.name, self.epoch);
                let shape = self.disks.get(&disk.disk.name).map(|writer| writer.shape);
                let shape = shape.ok_or_else(|| self.replica.unknown_disk(&disk.disk.name))?;
                tree.apply(self.epoch, disk.pending, || Ok(Sidecar::open(&path, shape)?.into_runs()))?;
            }
            let lag = self.epoch.0 - tree.durable().map_or(0, |epoch: Epoch| epoch.0);
            if self.kind == Kind::Base || lag >= TREE_SYNC_EVERY { tree.sync() } else { Ok(()) }
        };
        if let Err(error) = apply() {
            let vm = self.replica.inner.vm;
            tracing::warn!(%vm, disk = %disk.disk.name, %error, "the digest tree lags behind and is read again later");
        }
    }
}

/// Works on all disks at once; one disk needs no thread.
fn side_by_side<I: Send, T: Send>(
    items: impl ExactSizeIterator<Item = I>,
    work: impl Fn(I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    if items.len() < 2 {
        return items.map(work).collect();
    }
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.map(|item| scope.spawn(move || work(item))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Err(Error::Poisoned))).collect()
    })
}
