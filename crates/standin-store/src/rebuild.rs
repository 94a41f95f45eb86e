//! Building a manifest again from what lies in the directory, when both copies of it are lost.
//!
//! ```text
//! notes of the seals   which disks, in which order; which epoch is which point, with its digest
//! names in the layers  which layer stands on which: the chain of each disk, from the newest layer down
//! every granule        read against its digest, and the digests of all layers against those of the points
//! ```
//!
//! What cannot be proven is not offered and is said. Layers above the newest epoch that is whole on every disk are set
//! aside under another name, never removed. A point that retention dropped before, and that can still be proven, is there
//! again: retention drops it again.
//!
//! Called by [`crate::Store::repair`], with the lock of the directory held and nothing of the replica open.

use crate::check::{LayerReport, PointReport};
use crate::error::{Error, Result};
use crate::io::Io;
use crate::layout::{Inventory, Layout, layer_name, part};
use crate::manifest::{
    Backing, Config, Disk, FORMAT, Layer, Manifest, MergeRecord, OverlayRecord, Point, Purpose,
};
use crate::note::Note;
use crate::overlay;
use crate::qcow2::Image;
use crate::replica::Replica;
use crate::sidecar::Sidecar;
use crate::store::describe;
use jiff::Timestamp;
use standin_model::{DiskName, Epoch, Generation, PointId, VmId, VmName};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The suffix of files that no point needs that can be proven.
pub(crate) const ASIDE: &str = "aside";

/// A manifest as it can be built, before what it lists has been read.
pub(crate) struct Draft {
    pub(crate) manifest: Manifest,
    /// What is not offered, and why.
    pub(crate) left_out: Vec<String>,
}

/// What is known of a directory before its disks are looked at.
struct Notes {
    newest: Note,
    points: BTreeMap<Epoch, Point>,
    configs: BTreeMap<Epoch, Config>,
    left_out: Vec<String>,
}

/// Builds a manifest from the notes and the chains. Changes nothing but the name of digests whose merge was cut off.
///
/// # Errors
/// [`Error::NotProvable`] when no layer says what it is of, or an overlay stands on layers that are not whole.
pub(crate) fn draft(io: &Io, layout: &Layout, name: &VmName, vm: VmId) -> Result<Draft> {
    let notes = read_notes(layout, vm)?;
    for disk in &notes.newest.disks {
        finish_merged(io, layout, &disk.name)?;
    }
    let (chains, mut left_out) = chains(layout, &notes)?;
    left_out.splice(0..0, notes.left_out.iter().cloned());
    let mut manifest = Manifest {
        format: FORMAT,
        vm,
        name: name.clone(),
        created_at: notes.newest.created_at,
        generation: Generation(0),
        granule: notes.newest.granule,
        detached: false,
        disks: chains,
        points: Vec::new(),
        configs: Vec::new(),
        overlays: Vec::new(),
        merges: Vec::new(),
        engine: serde_json::Value::Null,
    };
    take_overlays(layout, &mut manifest, &notes)?;
    if manifest.committed().is_none() {
        take_points(layout, &mut manifest, &notes, &mut left_out);
    }
    take_configs(layout, &mut manifest, &notes);
    Ok(Draft { manifest, left_out })
}

fn read_notes(layout: &Layout, vm: VmId) -> Result<Notes> {
    let mut found = Notes {
        newest: Note {
            vm,
            created_at: Timestamp::UNIX_EPOCH,
            granule: 0,
            disks: Vec::new(),
            epoch: Epoch(0),
            point: None,
            config: None,
        },
        points: BTreeMap::new(),
        configs: BTreeMap::new(),
        left_out: Vec::new(),
    };
    let mut any = false;
    for disk in disk_names(layout)? {
        for epoch in Inventory::read(&layout.disk_dir(&disk))?.digests {
            let path = layout.sidecar(&disk, epoch);
            let note = match read_note(&path) {
                Ok(Some(note)) if note.vm == vm && note.epoch == epoch => note,
                // Of a version before.
                Ok(None) => continue,
                Ok(Some(_)) => {
                    found.left_out.push(format!("{} is of another VM or epoch", path.display()));
                    continue;
                }
                Err(error) => {
                    found.left_out.push(describe(&error));
                    continue;
                }
            };
            found.points.extend(note.point.clone().map(|point| (epoch, point)));
            found.configs.extend(note.config.clone().map(|config| (config.epoch, config)));
            if !any || note.epoch > found.newest.epoch {
                (found.newest, any) = (note, true);
            }
        }
    }
    if any { Ok(found) } else { Err(not_provable(layout, "no layer says which point it is")) }
}

fn read_note(path: &Path) -> Result<Option<Note>> {
    let sidecar = Sidecar::open(path, Sidecar::shape_of(path)?)?;
    Note::parse(&sidecar.note()?, path)
}

fn disk_names(layout: &Layout) -> Result<Vec<DiskName>> {
    let path = layout.root().join("disks");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(|error| Error::io("list", &path, error))? {
        let name = entry.map_err(|error| Error::io("list", &path, error))?.file_name();
        names.extend(name.to_str().and_then(|name| DiskName::new(name).ok()));
    }
    names.sort();
    Ok(names)
}

pub(crate) fn not_provable(layout: &Layout, why: impl Into<String>) -> Error {
    Error::NotProvable { directory: layout.root().to_owned(), why: why.into() }
}

/// A merge renames the layer before its digests: where it was cut off between the two, the digests get their name now.
fn finish_merged(io: &Io, layout: &Layout, disk: &DiskName) -> Result<()> {
    let found = Inventory::read(&layout.disk_dir(disk))?;
    for epoch in found.merged.intersection(&found.sealed()) {
        let image = Image::open(&layout.layer(disk, *epoch))?;
        let below = image.header().backing.as_deref().and_then(epoch_of);
        // The lower layer is still there, or its digests are, and the upper one does not stand on it any more.
        let skips = found.digests.range(..*epoch).next_back().is_some_and(|lower| Some(*lower) != below);
        let side = layout.sidecar(disk, *epoch);
        let whole = Sidecar::shape_of(&part(&side)).is_ok();
        if skips && whole {
            io.rename_durably(&part(&side), &side)?;
        }
    }
    Ok(())
}

fn epoch_of(backing: &str) -> Option<Epoch> {
    let digits = backing.strip_suffix(".qcow2")?;
    let epoch = Epoch(digits.parse().ok()?);
    (layer_name(epoch) == backing).then_some(epoch)
}

/// The chain of every disk from the newest epoch that is whole on all of them.
fn chains(layout: &Layout, notes: &Notes) -> Result<(Vec<Disk>, Vec<String>)> {
    let mut left_out = Vec::new();
    let disks = &notes.newest.disks;
    let mut heads: Option<BTreeSet<Epoch>> = None;
    for disk in disks {
        let found = Inventory::read(&layout.disk_dir(&disk.name))?.layers;
        heads = Some(match heads {
            None => found,
            Some(heads) => heads.intersection(&found).copied().collect(),
        });
    }
    for head in heads.unwrap_or_default().into_iter().rev() {
        let chains: std::result::Result<Vec<Disk>, String> = disks
            .iter()
            .map(|disk| chain(layout, &disk.name, disk.size, notes.newest.granule, head))
            .collect();
        match chains {
            Ok(chains) => return Ok((chains, left_out)),
            Err(why) => left_out.push(format!("epoch {head} is not offered: {why}")),
        }
    }
    let why = left_out.pop().unwrap_or_else(|| "no epoch has a layer on every disk".to_owned());
    Err(not_provable(layout, why))
}

/// The layers of a disk under an epoch, base first.
fn chain(
    layout: &Layout,
    name: &DiskName,
    size: u64,
    granule: u32,
    head: Epoch,
) -> std::result::Result<Disk, String> {
    let mut layers = Vec::new();
    let mut next = Some(head);
    while let Some(epoch) = next {
        let text = |error: Error| format!("layer {epoch} of disk {name}: {}", describe(&error));
        let image = Image::open(&layout.layer(name, epoch)).map_err(text)?;
        let side = layout.sidecar(name, epoch);
        Sidecar::open(&side, crate::sidecar::Shape { granule, size }).map_err(text)?;
        let stored = image.stored().map_err(text)?
            + crate::io::Handle::open(&side).and_then(|side| side.stored()).map_err(text)?;
        layers.push(Layer { epoch, stored });
        next = match &image.header().backing {
            None => None,
            Some(backing) => match epoch_of(backing).filter(|below| *below < epoch) {
                Some(below) => Some(below),
                None => return Err(format!("layer {epoch} of disk {name} stands on {backing:?}")),
            },
        };
    }
    layers.reverse();
    Ok(Disk { name: name.clone(), size, layers })
}

/// Overlays are never left out: a VM may run on one.
fn take_overlays(layout: &Layout, manifest: &mut Manifest, notes: &Notes) -> Result<()> {
    for id in overlay::found(layout)? {
        let record = match overlay::noted(layout, &id)? {
            Some(record) => record,
            None => unnoted(layout, manifest, notes, &id)?,
        };
        let whole = manifest.disks.iter().all(|disk| disk.layers.iter().any(|l| l.epoch == record.epoch));
        if record.id != id || !whole {
            let why = format!("overlay {id:?} stands on epoch {}, whose layers are not whole", record.epoch);
            return Err(not_provable(layout, why));
        }
        manifest.overlays.push(record);
    }
    if let Some(epoch) = manifest.overlays.iter().find(|overlay| overlay.committed).map(|o| o.epoch) {
        manifest.disks.iter_mut().for_each(|disk| disk.layers.retain(|layer| layer.epoch <= epoch));
    }
    Ok(())
}

/// An overlay of a version before, which did not say what it is: what its own header says.
fn unnoted(layout: &Layout, manifest: &Manifest, notes: &Notes, id: &str) -> Result<OverlayRecord> {
    let disk = &manifest.disks[0].name;
    let path = layout.overlay_dir(id).join(format!("{disk}.qcow2"));
    let header = crate::qcow2::read_header(&crate::io::Handle::open(&path)?)?;
    let epoch = header.backing.as_deref().and_then(|backing| epoch_of(backing.rsplit('/').next()?));
    let Some(epoch) = epoch else {
        return Err(not_provable(layout, format!("overlay {id:?} does not say which point it stands on")));
    };
    Ok(OverlayRecord {
        id: id.to_owned(),
        point: notes.points.get(&epoch).map_or_else(PointId::random, |point| point.id),
        epoch,
        purpose: Purpose::Failover,
        backing: Backing::Chain,
        created_at: Timestamp::now(),
        committed: false,
    })
}

fn take_points(layout: &Layout, manifest: &mut Manifest, notes: &Notes, left_out: &mut Vec<String>) {
    let listed = |epoch: Epoch| manifest.disks.iter().all(|d| d.layers.iter().any(|l| l.epoch == epoch));
    let mut points = Vec::new();
    for (epoch, point) in notes.points.iter().filter(|(epoch, _)| listed(**epoch)) {
        let config = point.config_epoch.map(|config| (config, notes.configs.get(&config)));
        let problem = match config {
            None => None,
            Some((config, None)) => Some(format!("nothing says what its configuration {config} holds")),
            Some((config, Some(entry))) => {
                crate::config::verify(&layout.config_dir(config), entry).into_iter().next()
            }
        };
        match problem {
            None => points.push(point.clone()),
            Some(why) => left_out.push(format!("point {} (epoch {epoch}) is not offered: {why}", point.id)),
        }
    }
    manifest.points = points;
}

/// Configurations that a point, or what an overlay stands on, needs.
fn take_configs(layout: &Layout, manifest: &mut Manifest, notes: &Notes) {
    let overlays: Vec<Epoch> = manifest.overlays.iter().map(|overlay| overlay.epoch).collect();
    let newest = manifest.head();
    let needed = |config: &Config| {
        let by_point = manifest.points.iter().any(|point| point.config_epoch == Some(config.epoch));
        let whole = || crate::config::verify(&layout.config_dir(config.epoch), config).is_empty();
        let beneath = overlays.iter().any(|epoch| config.epoch <= *epoch) || Some(config.epoch) <= newest;
        by_point || (beneath && whole())
    };
    manifest.configs = notes.configs.values().filter(|config| needed(config)).cloned().collect();
}

impl Draft {
    /// Reads everything that is listed and keeps the points that are proven.
    pub(crate) fn prove(&mut self, replica: &Replica, tick: &mut dyn FnMut(u64)) -> Vec<LayerReport> {
        let mut reports = replica.check_layers(&self.manifest, tick);
        self.find_base_merges(replica, &mut reports);
        let judged = replica.judge(&self.manifest, &reports);
        for PointReport { point, epoch, problems, .. } in judged.into_iter().filter(|report| !report.good) {
            let why = problems.into_iter().next().unwrap_or_default();
            self.left_out.push(format!("point {point} (epoch {epoch}) is not offered: {why}"));
            self.manifest.points.retain(|known| known.epoch != epoch);
        }
        reports
    }

    /// A base that does not hold what its digests say may be one that a merge is being written into: then the layer above
    /// holds all that differs, and the merge is gone on with.
    fn find_base_merges(&mut self, replica: &Replica, reports: &mut [LayerReport]) {
        for disk in self.manifest.disks.clone() {
            let [base, above, ..] = disk.layers.as_slice() else { continue };
            let Some(report) = reports.iter_mut().find(|r| r.disk == disk.name && r.epoch == base.epoch)
            else {
                continue;
            };
            let half = Image::open(&replica.inner.layout.layer(&disk.name, base.epoch))
                .is_ok_and(|image| image.header().dirty);
            if report.good() && !half {
                continue;
            }
            let merge = MergeRecord {
                disk: disk.name.clone(),
                lower: base.epoch,
                upper: above.epoch,
                into_base: true,
            };
            self.manifest.merges.push(merge.clone());
            let again = replica.check_base(&self.manifest, &disk);
            if !again.good() {
                self.manifest.merges.retain(|known| *known != merge);
                continue;
            }
            *report = again;
            // What ended at the base alone went when the merge began.
            self.manifest.points.retain(|point| point.epoch < base.epoch || above.epoch <= point.epoch);
        }
    }
}

/// Sets aside what a manifest does not list: no point that can be proven needs it. Where it is now.
pub(crate) fn set_aside(io: &Io, layout: &Layout, manifest: &Manifest) -> Result<Vec<PathBuf>> {
    let mut moved = Vec::new();
    for disk in &manifest.disks {
        let listed = |epoch: &Epoch| disk.layers.iter().any(|layer| layer.epoch == *epoch);
        let found = Inventory::read(&layout.disk_dir(&disk.name))?;
        let layers = found.layers.iter().filter(|e| !listed(e)).map(|e| layout.layer(&disk.name, *e));
        let digests = found.digests.iter().filter(|e| !listed(e)).map(|e| layout.sidecar(&disk.name, *e));
        for path in layers.chain(digests) {
            let mut aside = path.as_os_str().to_owned();
            aside.push(format!(".{ASIDE}"));
            let aside = PathBuf::from(aside);
            io.rename(&path, &aside)?;
            moved.push(aside);
        }
        io.sync_dir(&layout.disk_dir(&disk.name))?;
    }
    Ok(moved)
}
