//! One replica: its manifest in memory, its digest trees, and who uses it at the moment.
//!
//! A [`Replica`] is a handle; clones share one state. Any number of threads may call it. One layer is written
//! at a time. Every change of the manifest goes through [`Replica::update`], which makes it durable before it
//! becomes visible.

use crate::copies;
use crate::damage::Damage;
use crate::error::{Error, Result};
use crate::io::Io;
use crate::layout::Layout;
use crate::manifest::{Disk, Manifest, Point};
use crate::merge::Job;
use crate::scrub::Ranges;
use crate::sidecar::{Shape, Sidecar};
use crate::store::StoreOptions;
use crate::tree::Tree;
use jiff::Timestamp;
use standin_durable::FileLock;
use standin_model::digest::BlockDigest;
use standin_model::{DiskName, Epoch, PointId, Policy, RecoveryPoint, VmId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Takes a lock. What these locks guard is replaced as a whole, so a panic elsewhere leaves nothing half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The replica of one VM. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Replica {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) io: Io,
    pub(crate) layout: Layout,
    pub(crate) options: StoreOptions,
    pub(crate) vm: VmId,
    manifest: RwLock<Arc<Manifest>>,
    /// Held while the manifest changes, and while files change so that the manifest must not.
    change: Mutex<()>,
    /// A manifest was renamed into place but is not known to be durable: nothing may be changed any more.
    failed: AtomicBool,
    pub(crate) trees: BTreeMap<DiskName, Mutex<Tree>>,
    pub(crate) writing: AtomicBool,
    /// Epochs that readers read, with how many do.
    pub(crate) readers: Mutex<BTreeMap<Epoch, usize>>,
    pub(crate) merging: Mutex<Option<Job>>,
    /// What the last check found damaged in the newest point.
    pub(crate) damage: Mutex<Damage>,
    _lock: FileLock,
}

impl Replica {
    pub(crate) fn assemble(
        io: Io,
        layout: Layout,
        options: StoreOptions,
        manifest: Manifest,
        lock: FileLock,
    ) -> Result<Self> {
        let mut trees = BTreeMap::new();
        for disk in &manifest.disks {
            let shape = Shape { granule: manifest.granule, size: disk.size };
            trees.insert(disk.name.clone(), Mutex::new(Tree::open(&io, &layout.tree(&disk.name), shape)?));
        }
        let damage = Damage::load(&layout);
        let inner = Inner {
            io,
            layout,
            options,
            vm: manifest.vm,
            manifest: RwLock::new(Arc::new(manifest)),
            change: Mutex::new(()),
            failed: AtomicBool::new(false),
            trees,
            writing: AtomicBool::new(false),
            readers: Mutex::new(BTreeMap::new()),
            merging: Mutex::new(None),
            damage: Mutex::new(damage),
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The VM.
    #[must_use]
    pub fn vm(&self) -> VmId {
        self.inner.vm
    }

    /// The directory it lives in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.inner.layout.root()
    }

    /// What is on disk, as of now.
    #[must_use]
    pub fn manifest(&self) -> Arc<Manifest> {
        Arc::clone(&self.inner.manifest.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The newest sealed epoch; `Some(Epoch(0))` after the first copy.
    #[must_use]
    pub fn head_epoch(&self) -> Option<Epoch> {
        self.manifest().head()
    }

    /// The recovery points, oldest first.
    #[must_use]
    pub fn points(&self) -> Vec<RecoveryPoint> {
        let manifest = self.manifest();
        let mut after = None;
        manifest
            .points
            .iter()
            .map(|point| {
                let record = record(&manifest, point, after);
                after = Some(point.epoch);
                record
            })
            .collect()
    }

    /// One recovery point.
    ///
    /// # Errors
    /// [`Error::UnknownPoint`].
    pub fn point(&self, id: PointId) -> Result<RecoveryPoint> {
        let found = self.points().into_iter().find(|point| point.id == id);
        found.ok_or(Error::UnknownPoint { vm: self.inner.vm, point: id })
    }

    /// The directory of the VM's configuration at a point, if the point has one. Not to be written to: points share
    /// these files.
    #[must_use]
    pub fn config_directory(&self, id: PointId) -> Option<PathBuf> {
        let manifest = self.manifest();
        let epoch = manifest.point(id)?.config_epoch?;
        Some(self.inner.layout.config_dir(epoch))
    }

    /// Changes the manifest: durable first, then visible. When it fails before the new file has its name,
    /// nothing has changed; when it fails after, the replica refuses every change until it is opened again.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Manifest) -> Result<T>) -> Result<T> {
        let guard = lock(&self.inner.change);
        self.update_locked(&guard, change)
    }

    /// The lock under which the manifest and what it lists change.
    pub(crate) fn change_lock(&self) -> MutexGuard<'_, ()> {
        lock(&self.inner.change)
    }

    pub(crate) fn update_locked<T>(
        &self,
        _guard: &MutexGuard<'_, ()>,
        change: impl FnOnce(&mut Manifest) -> Result<T>,
    ) -> Result<T> {
        if self.inner.failed.load(Ordering::SeqCst) {
            return Err(Error::Poisoned);
        }
        let mut next = Manifest::clone(&self.manifest());
        let answer = change(&mut next)?;
        let text = next.render()?;
        // What cannot be read back must never be written.
        let next = crate::manifest::parse(&text)
            .map_err(|what| Error::invalid(format!("the manifest would become unreadable: {what}")))?;
        let path = self.inner.layout.manifest();
        let staged = self.inner.io.stage(&path, &text)?;
        if let Err(error) = staged.publish_synced() {
            self.inner.failed.store(true, Ordering::SeqCst);
            return Err(error.into());
        }
        *self.inner.manifest.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        copies::follow(&self.inner.io, &self.inner.layout, &text);
        Ok(answer)
    }

    /// The manifest on disk may be newer than the one in memory; see [`Replica::update`].
    pub(crate) fn failed(&self) -> bool {
        self.inner.failed.load(Ordering::SeqCst)
    }

    pub(crate) fn shape(&self, disk: &Disk) -> Shape {
        Shape { granule: self.manifest().granule, size: disk.size }
    }

    pub(crate) fn unknown_disk(&self, disk: &DiskName) -> Error {
        Error::UnknownDisk { vm: self.inner.vm, disk: disk.clone() }
    }

    fn tree(&self, disk: &DiskName) -> Result<MutexGuard<'_, Tree>> {
        let tree = self.inner.trees.get(disk).ok_or_else(|| self.unknown_disk(disk))?;
        let mut tree = lock(tree);
        self.catch_up(disk, &mut tree)?;
        Ok(tree)
    }

    /// Lays the sidecars of all sealed layers over a tree that lacks them.
    pub(crate) fn catch_up(&self, disk: &DiskName, tree: &mut Tree) -> Result<()> {
        let manifest = self.manifest();
        let Some(record) = manifest.disk(disk) else { return Err(self.unknown_disk(disk)) };
        if tree.applied() == record.layers.last().map(|layer| layer.epoch) {
            return Ok(());
        }
        // A tree that is ahead of the manifest is not of this replica.
        if tree.applied() > manifest.head() {
            tree.clear()?;
        }
        let known = tree.applied();
        for layer in record.layers.iter().filter(|layer| known < Some(layer.epoch)) {
            let sidecar = Sidecar::open(&self.inner.layout.sidecar(disk, layer.epoch), self.shape(record))?;
            tree.lay(layer.epoch, sidecar.runs())?;
        }
        tree.sync()
    }

    /// Reads a disk's digest tree again from the sidecars of its layers: somebody doubts it.
    ///
    /// # Errors
    /// [`Error::UnknownDisk`], or a sidecar or the tree's directory is damaged; the tree is as before then.
    pub fn rebuild_tree(&self, disk: &DiskName) -> Result<()> {
        let held = self.inner.trees.get(disk).ok_or_else(|| self.unknown_disk(disk))?;
        let mut held = lock(held);
        let manifest = self.manifest();
        let Some(record) = manifest.disk(disk) else { return Err(self.unknown_disk(disk)) };
        let (io, path) = (&self.inner.io, self.inner.layout.tree(disk));
        // A name that is cleared away at the next start, and not the one that a check works under.
        let staged = path.with_extension("again.check");
        let build = || {
            let mut tree = Tree::open(io, &staged, self.shape(record))?;
            tree.clear()?;
            self.catch_up(disk, &mut tree)?;
            io.rename_durably(&staged, &path)?;
            Tree::open(io, &path, self.shape(record))
        };
        match build() {
            Ok(tree) => {
                *held = tree;
                Ok(())
            }
            Err(error) => {
                io.remove(&staged)?;
                Err(error)
            }
        }
    }

    /// Digests of `count` granules of a disk from `first` on, as of the newest sealed epoch; fewer at the end
    /// of the disk. At most 1 Mi at once. A granule that a check found damaged has a digest that no data has.
    ///
    /// # Errors
    /// [`Error::UnknownDisk`], or the tree cannot be read.
    pub fn leaf_digests(&self, disk: &DiskName, first: u64, count: u64) -> Result<Vec<BlockDigest>> {
        self.node_digests(disk, 0, first, count)
    }

    /// Nodes of a level of a disk's digest tree; level 0 is the granules.
    ///
    /// # Errors
    /// As [`Replica::leaf_digests`], and a level that the tree does not have.
    pub fn node_digests(
        &self,
        disk: &DiskName,
        level: u32,
        first: u64,
        count: u64,
    ) -> Result<Vec<BlockDigest>> {
        let mut nodes = self.tree(disk)?.nodes(level, first, count)?;
        lock(&self.inner.damage).mask(disk, level, first, &mut nodes);
        Ok(nodes)
    }

    /// Takes note of what a check found, durably.
    pub(crate) fn note_damage(&self, found: Damage) -> Result<()> {
        let mut damage = lock(&self.inner.damage);
        // In memory whatever happens: a resynchronization of this process must not trust what is known to be bad.
        *damage = found;
        damage.save(&self.inner.io, &self.inner.layout)
    }

    /// A newer layer holds `covered` of its disks. What cannot be written down is sent once more after a restart.
    pub(crate) fn damage_healed(&self, covered: Vec<(DiskName, Ranges)>) {
        if covered.is_empty() {
            return;
        }
        let mut damage = lock(&self.inner.damage);
        let before = damage.clone();
        for (disk, covered) in covered {
            damage.healed(&disk, &covered);
        }
        if *damage != before {
            if let Err(error) = damage.save(&self.inner.io, &self.inner.layout) {
                tracing::warn!(vm = %self.inner.vm, %error, "the list of damage names what is mended");
            }
        }
    }

    /// The root of a disk's digest tree, as of the newest sealed epoch.
    ///
    /// # Errors
    /// As [`Replica::leaf_digests`].
    pub fn root(&self, disk: &DiskName) -> Result<BlockDigest> {
        self.tree(disk)?.root()
    }

    /// Keeps a point from retention until every reason is taken back.
    ///
    /// # Errors
    /// [`Error::UnknownPoint`].
    pub fn pin(&self, id: PointId, reason: &str) -> Result<()> {
        let reason: String = reason.chars().take(256).collect();
        self.with_point(id, |point| {
            point.pins.insert(reason);
        })
    }

    /// Takes a reason back.
    ///
    /// # Errors
    /// [`Error::UnknownPoint`].
    pub fn unpin(&self, id: PointId, reason: &str) -> Result<()> {
        let reason: String = reason.chars().take(256).collect();
        self.with_point(id, |point| {
            point.pins.remove(&reason);
        })
    }

    /// Takes back every reason but that of work which is under way: somebody decided that the point may go.
    ///
    /// # Errors
    /// [`Error::UnknownPoint`].
    pub fn release(&self, id: PointId) -> Result<()> {
        self.with_point(id, |point| point.pins.retain(|reason| reason == crate::keep::UNDER_WAY))
    }

    fn with_point(&self, id: PointId, change: impl FnOnce(&mut Point)) -> Result<()> {
        self.update(|manifest| match manifest.points.iter_mut().find(|point| point.id == id) {
            Some(point) => {
                change(point);
                Ok(())
            }
            None => Err(Error::UnknownPoint { vm: manifest.vm, point: id }),
        })
    }

    /// Drops a point. Its space comes back by merging.
    ///
    /// # Errors
    /// [`Error::Busy`] when it is pinned, is the newest one, or an overlay stands on it.
    pub fn remove_point(&self, id: PointId) -> Result<()> {
        self.update(|manifest| {
            let busy = |what: String| Err(Error::Busy { vm: manifest.vm, what });
            let Some(point) = manifest.point(id) else {
                return Err(Error::UnknownPoint { vm: manifest.vm, point: id });
            };
            if let Some(reason) = point.pins.first() {
                return busy(format!("point {id} is pinned ({reason}); unpin it first"));
            }
            if let Some(overlay) = manifest.overlays.iter().find(|overlay| overlay.point == id) {
                return busy(format!(
                    "overlay {:?} stands on point {id}; revert or end it first",
                    overlay.id
                ));
            }
            if manifest.points.last().is_some_and(|last| last.id == id) {
                return busy(format!("point {id} is the newest one and always stays"));
            }
            manifest.points.retain(|point| point.id != id);
            Ok(())
        })
    }

    /// Drops the points that the policy does not want. Overlays keep theirs. Returns what was dropped; the
    /// space comes back by merging.
    ///
    /// # Errors
    /// When the manifest cannot be made durable.
    pub fn apply_retention(&self, policy: &Policy, now: Timestamp) -> Result<Vec<PointId>> {
        let used: Vec<PointId> = self.manifest().overlays.iter().map(|overlay| overlay.point).collect();
        let mut records = self.points();
        records.iter_mut().for_each(|record| record.pinned |= used.contains(&record.id));
        let plan = policy.plan(&records, now);
        if plan.is_empty() {
            return Ok(plan);
        }
        self.update(|manifest| {
            let stays = |point: &Point| {
                let in_use = manifest.overlays.iter().any(|overlay| overlay.point == point.id);
                !plan.contains(&point.id) || !point.pins.is_empty() || in_use
            };
            let (stay, go): (Vec<_>, Vec<_>) = manifest.points.clone().into_iter().partition(stays);
            manifest.points = stay;
            Ok(go.into_iter().map(|point| point.id).collect())
        })
    }
}

/// A point as it is listed. Its space is that of all layers after the point before.
pub(crate) fn record(manifest: &Manifest, point: &Point, after: Option<Epoch>) -> RecoveryPoint {
    let layers = manifest.disks.iter().flat_map(|disk| &disk.layers);
    let own = layers.filter(|layer| Some(layer.epoch) > after && layer.epoch <= point.epoch);
    RecoveryPoint {
        id: point.id,
        epoch: point.epoch,
        created_at: point.created_at,
        received_at: point.received_at,
        kind: point.kind,
        changed_bytes: point.changed_bytes,
        stored_bytes: own.map(|layer| layer.stored).sum(),
        digest: point.digest.clone(),
        pinned: !point.pins.is_empty(),
    }
}
