//! Scrubbing: reads everything that a replica has and says which points are good.
//!
//! Each layer is read once: its structure as `qemu-img check` would, every granule against its digest, and that
//! it holds just what its sidecar says. Damage is carried up to the points that show it: a bad granule of a
//! layer is seen by the points from there up to the next layer that holds that granule. Then the digests of
//! all layers are laid over each other, and the digest of every point is computed and compared.

use crate::damage::Damage;
use crate::error::Result;
use crate::io::Io;
use crate::layout::layer_name;
use crate::manifest::{Disk, Layer, Manifest};
use crate::note::Note;
use crate::qcow2::Image;
use crate::qcow2::check::structure;
use crate::replica::{Replica, lock};
use crate::scrub::{Granules, Ranges, granules, verify_run};
use crate::seal::point_digest;
use crate::sidecar::Sidecar;
use crate::store::{Problem, Store, describe};
use crate::tree::Tree;
use serde::Serialize;
use standin_model::digest::BlockDigest;
use standin_model::{DiskName, Epoch, PointId, VmId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A run of a disk whose data does not match its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BadRange {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// What was found in one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerReport {
    /// Of which disk.
    pub disk: DiskName,
    /// Its epoch.
    pub epoch: Epoch,
    /// Bytes read and compared.
    pub checked_bytes: u64,
    /// Data that does not match its digest; at most 1000 runs.
    pub bad: Vec<BadRange>,
    /// What is wrong with the files themselves. Then no point at or above the layer can be trusted.
    pub problems: Vec<String>,
}

impl LayerReport {
    /// Nothing is wrong with it.
    #[must_use]
    pub fn good(&self) -> bool {
        self.bad.is_empty() && self.problems.is_empty()
    }
}

/// What is known about one point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PointReport {
    /// Which.
    pub point: PointId,
    /// Its epoch.
    pub epoch: Epoch,
    /// It can be failed over to, and is what the primary cut.
    pub good: bool,
    /// Why not: which disk, where.
    pub problems: Vec<String>,
}

/// What was found in one replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplicaReport {
    /// Which.
    pub vm: VmId,
    /// Its points, oldest first.
    pub points: Vec<PointReport>,
    /// Its layers.
    pub layers: Vec<LayerReport>,
    /// What is wrong elsewhere: manifest, digest trees, configurations.
    pub problems: Vec<String>,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// Per replica.
    pub replicas: Vec<ReplicaReport>,
    /// What the start found: replicas that cannot be opened, foreign files.
    pub store: Vec<(PathBuf, String)>,
}

impl Report {
    /// Every point of every replica is good, and nothing else is wrong.
    #[must_use]
    pub fn good(&self) -> bool {
        let sound = |r: &ReplicaReport| {
            r.problems.is_empty() && r.points.iter().all(|p| p.good) && r.layers.iter().all(LayerReport::good)
        };
        self.store.is_empty() && self.replicas.iter().all(sound)
    }
}

impl Store {
    /// Checks one replica or all, by reading all of it. `progress` gets bytes checked and bytes in all, about.
    /// What is sealed or merged meanwhile may be left out.
    ///
    /// # Errors
    /// [`crate::Error::UnknownVm`]. What is wrong with a replica is in the report, not an error.
    pub fn check(&self, vm: Option<VmId>, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
        let replicas = match vm {
            Some(vm) => vec![self.get(vm).ok_or(crate::Error::UnknownVm(vm))?],
            None => self.list(),
        };
        let all =
            |r: &Replica| r.manifest().disks.iter().flat_map(|d| &d.layers).map(|l| l.stored).sum::<u64>();
        let total = replicas.iter().map(all).sum();
        let mut done = 0;
        let mut tick = |bytes: u64| {
            done += bytes;
            progress(done.min(total), total);
        };
        let mut report = Report::default();
        for replica in replicas {
            report.replicas.push(replica.check(&mut tick));
        }
        report.store = self.problems().into_iter().map(|Problem { path, message }| (path, message)).collect();
        Ok(report)
    }
}

impl Replica {
    fn check(&self, tick: &mut dyn FnMut(u64)) -> ReplicaReport {
        // No merge runs meanwhile; layers may still be added.
        let _merging = lock(&self.inner.merging);
        let manifest = self.manifest();
        let mut report =
            ReplicaReport { vm: self.vm(), points: Vec::new(), layers: Vec::new(), problems: Vec::new() };
        report.problems.extend(crate::copies::problems(&self.inner.layout));
        for config in &manifest.configs {
            let directory = self.inner.layout.config_dir(config.epoch);
            report.problems.extend(crate::config::verify(&directory, config));
        }
        report.layers = self.check_layers(&manifest, tick);
        for disk in &manifest.disks {
            report.problems.extend(self.check_tree(disk).err().map(|error| describe(&error)));
            report.problems.extend(self.check_notes(disk));
        }
        report.points = self.judge(&manifest, &report.layers);
        if let Err(error) = self.note_damage(self.damage_of_newest(&manifest, &report.layers)) {
            report
                .problems
                .push(format!("what was found is not kept for after a restart: {}", describe(&error)));
        }
        report
    }

    /// Reads every layer that a manifest lists.
    pub(crate) fn check_layers(&self, manifest: &Manifest, tick: &mut dyn FnMut(u64)) -> Vec<LayerReport> {
        let mut reports = Vec::new();
        for disk in &manifest.disks {
            let mut below = None;
            for layer in &disk.layers {
                reports.push(self.check_layer(manifest, disk, below, layer.epoch, tick));
                below = Some(layer.epoch);
            }
        }
        reports
    }

    /// Reads the base of a disk alone.
    pub(crate) fn check_base(&self, manifest: &Manifest, disk: &Disk) -> LayerReport {
        let epoch = disk.layers.first().map_or(Epoch(0), |layer| layer.epoch);
        self.check_layer(manifest, disk, None, epoch, &mut |_| {})
    }

    /// Notes that could not be used to build the manifest again. A layer without one is of a version before.
    fn check_notes(&self, disk: &Disk) -> Vec<String> {
        let problem = |layer: &Layer| {
            let path = self.inner.layout.sidecar(&disk.name, layer.epoch);
            // One that cannot be opened is named with its layer.
            let bytes = Sidecar::open(&path, self.shape(disk)).and_then(|sidecar| sidecar.note()).ok()?;
            Note::parse(&bytes, &path).err().map(|error| describe(&error))
        };
        disk.layers.iter().filter_map(problem).collect()
    }

    fn check_layer(
        &self,
        manifest: &Manifest,
        disk: &Disk,
        below: Option<Epoch>,
        epoch: Epoch,
        tick: &mut dyn FnMut(u64),
    ) -> LayerReport {
        let mut report = LayerReport {
            disk: disk.name.clone(),
            epoch,
            checked_bytes: 0,
            bad: Vec::new(),
            problems: Vec::new(),
        };
        // A base that a merge is being written into does not hold what its sidecar says; the layer above masks it.
        let changing =
            manifest.merges.iter().find(|m| m.into_base && m.disk == disk.name && m.lower == epoch);
        let masked = changing.map(|merge| self.inner.layout.sidecar(&disk.name, merge.upper));
        if let Err(error) = self.read_layer(disk, below, masked, &mut report, tick) {
            report.problems.push(describe(&error));
        }
        report
    }

    fn read_layer(
        &self,
        disk: &Disk,
        below: Option<Epoch>,
        masked: Option<PathBuf>,
        report: &mut LayerReport,
        tick: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let path = self.inner.layout.layer(&disk.name, report.epoch);
        let image = Image::open(&path)?;
        let shape = self.shape(disk);
        if image.size() != disk.size {
            report.problems.push(format!("{} holds a disk of {} bytes", path.display(), image.size()));
        }
        let backing = below.map(layer_name);
        if image.header().backing != backing {
            let (found, wanted) = (&image.header().backing, &backing);
            report.problems.push(format!("{} is backed by {found:?}, not by {wanted:?}", path.display()));
        }
        if !image.header().dirty {
            report
                .problems
                .extend(structure(&image)?.into_iter().map(|what| format!("{}: {what}", path.display())));
        }
        let sidecar = Sidecar::open(&self.inner.layout.sidecar(&disk.name, report.epoch), shape)?;
        let mut skip = match masked {
            Some(path) => granules(Sidecar::open(&path, shape)?.runs())?,
            None => Ranges::default(),
        };
        let mut data = Granules::new(&image, shape);
        for run in sidecar.runs() {
            verify_run(&run?, shape, &mut data, &mut skip, report, tick)?;
        }
        if let Some(extra) = data.unclaimed(below.is_none(), &skip)? {
            report
                .problems
                .push(format!("{} holds data at {extra} that its sidecar does not list", path.display()));
        }
        Ok(())
    }

    /// Compares the digest tree with the sidecars, by building another.
    fn check_tree(&self, disk: &Disk) -> Result<()> {
        let shape = self.shape(disk);
        let Some(tree) = self.inner.trees.get(&disk.name) else { return Ok(()) };
        let path = self.inner.layout.tree(&disk.name).with_extension("check");
        let outcome = (|| {
            let mut fresh = Tree::open(&Io::default(), &path, shape)?;
            fresh.clear()?;
            let mut tree = lock(tree);
            self.catch_up(&disk.name, &mut tree)?;
            let manifest = self.manifest();
            for layer in manifest.disk(&disk.name).map(|disk| disk.layers.as_slice()).unwrap_or_default() {
                let sidecar = Sidecar::open(&self.inner.layout.sidecar(&disk.name, layer.epoch), shape)?;
                fresh.lay(layer.epoch, sidecar.runs())?;
            }
            match tree.first_difference(&fresh)? {
                None => Ok(()),
                Some((level, node)) => Err(crate::Error::corrupt(
                    &self.inner.layout.tree(&disk.name),
                    format!("node {node} of level {level} is not what the layers' digests give"),
                )),
            }
        })();
        Io::default().remove(&path)?;
        outcome
    }

    /// The points that the damage of the layers reaches, and those whose digest is not theirs.
    pub(crate) fn judge(&self, manifest: &Manifest, layers: &[LayerReport]) -> Vec<PointReport> {
        let mut reports: Vec<PointReport> = manifest
            .points
            .iter()
            .map(|p| PointReport { point: p.id, epoch: p.epoch, good: true, problems: Vec::new() })
            .collect();
        for layer in layers.iter().filter(|layer| !layer.good()) {
            for point in reports.iter_mut().filter(|point| point.epoch >= layer.epoch) {
                point
                    .problems
                    .extend(layer.problems.iter().map(|what| format!("disk {}: {what}", layer.disk)));
                let seen = layer.bad.iter().filter(|bad| self.shows(manifest, layer, bad, point.epoch));
                point.problems.extend(seen.map(|bad| {
                    let BadRange { offset, length } = bad;
                    format!(
                        "disk {}: {length} bytes at {offset} (layer {}) do not match their digest",
                        layer.disk, layer.epoch
                    )
                }));
            }
        }
        match self.digests(manifest) {
            Ok(digests) => {
                for (report, point) in reports.iter_mut().zip(&manifest.points) {
                    if digests.get(&point.epoch) != Some(&point.digest) {
                        report
                            .problems
                            .push("the digests of its layers do not give the digest of the point".into());
                    }
                }
            }
            // A sidecar that cannot be read is named with its layer already.
            Err(error) => {
                tracing::debug!(vm = %self.vm(), %error, "the digests of the points cannot be computed")
            }
        }
        reports.iter_mut().for_each(|report| report.good = report.problems.is_empty());
        reports
    }

    /// The granules whose damage the newest epoch shows. A run that it shows in part counts as a whole.
    pub(crate) fn damage_of_newest(&self, manifest: &Manifest, layers: &[LayerReport]) -> Damage {
        let mut found: BTreeMap<DiskName, Vec<(u64, u64)>> = BTreeMap::new();
        let Some(head) = manifest.head() else { return Damage::default() };
        let granule = u64::from(manifest.granule);
        for layer in layers {
            let seen = layer.bad.iter().filter(|bad| self.shows(manifest, layer, bad, head));
            let ranges = seen.map(|bad| (bad.offset / granule, (bad.offset + bad.length).div_ceil(granule)));
            found.entry(layer.disk.clone()).or_default().extend(ranges);
        }
        Damage::new(found)
    }

    /// Whether a bad run of a layer is still to be seen at an epoch: no layer between them holds all of it.
    fn shows(&self, manifest: &Manifest, layer: &LayerReport, bad: &BadRange, epoch: Epoch) -> bool {
        let Some(disk) = manifest.disk(&layer.disk) else { return true };
        let shape = self.shape(disk);
        let first = bad.offset / u64::from(shape.granule);
        let mut open: BTreeSet<u64> =
            (first..(bad.offset + bad.length).div_ceil(u64::from(shape.granule))).collect();
        for newer in disk.layers.iter().filter(|newer| layer.epoch < newer.epoch && newer.epoch <= epoch) {
            let path = self.inner.layout.sidecar(&disk.name, newer.epoch);
            let covered = Sidecar::open(&path, shape).and_then(|sidecar| granules(sidecar.runs()));
            match covered {
                Ok(covered) => open.retain(|granule| !covered.contains(*granule)),
                Err(_) => return true,
            }
        }
        !open.is_empty()
    }

    /// The digest of every point, from the sidecars alone.
    fn digests(&self, manifest: &Manifest) -> Result<BTreeMap<Epoch, String>> {
        let mut roots: BTreeMap<(Epoch, DiskName), BlockDigest> = BTreeMap::new();
        for disk in &manifest.disks {
            let shape = self.shape(disk);
            let path = self.inner.layout.tree(&disk.name).with_extension("check");
            let mut tree = Tree::open(&Io::default(), &path, shape)?;
            tree.clear()?;
            for layer in &disk.layers {
                let sidecar = Sidecar::open(&self.inner.layout.sidecar(&disk.name, layer.epoch), shape)?;
                tree.lay(layer.epoch, sidecar.runs())?;
                roots.insert((layer.epoch, disk.name.clone()), tree.root()?);
            }
            Io::default().remove(&path)?;
        }
        let root =
            |epoch, disk: &Disk| roots.get(&(epoch, disk.name.clone())).copied().unwrap_or(BlockDigest::ZERO);
        let digest = |epoch| {
            point_digest(manifest.granule, manifest.disks.iter().map(|d| (&d.name, d.size, root(epoch, d))))
        };
        Ok(manifest.points.iter().map(|point| (point.epoch, digest(point.epoch))).collect())
    }
}
