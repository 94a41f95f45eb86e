//! Opening a replica: putting in order what a crash left.
//!
//! The manifest decides. Merges that it records are finished or undone; layers that it does not list are
//! removed, but for a first copy that can be resumed; files whose names are not ours are left alone and
//! reported.

use crate::copies;
use crate::error::{Error, Result};
use crate::io::Io;
use crate::layout::{DiskFile, DiskFileKind, Layout, part};
use crate::manifest::Manifest;
use crate::replica::{Replica, lock};
use crate::store::StoreOptions;
use crate::tree::Tree;
use standin_durable::{FileLock, LockError};
use standin_model::{DiskName, Epoch};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// What opening a directory gave.
pub(crate) struct Opened {
    pub(crate) replica: Replica,
    pub(crate) foreign: Vec<PathBuf>,
}

/// Takes the lock of a replica's directory.
pub(crate) fn take_lock(layout: &Layout) -> Result<FileLock> {
    // A daemon that is just ending, or a child between its fork and its exec, still holds it for a moment.
    FileLock::take(&layout.lock(), LOCK_PATIENCE).map_err(|error| match error {
        LockError::File(error) => error.into(),
        LockError::Held { path, .. } | LockError::Directory { path, .. } => Error::Locked { path },
    })
}

/// Opens a replica's directory. `None` when its relationship was removed and only its files were kept.
pub(crate) fn open(io: &Io, layout: Layout, options: &StoreOptions) -> Result<Option<Opened>> {
    let guard = take_lock(&layout)?;
    let path = layout.manifest();
    let manifest = copies::load(io, &layout)?;
    let own = layout.root().file_name().and_then(|name| name.to_str());
    if own != Some(&Layout::directory_name(&manifest.name, manifest.vm)) {
        return Err(Error::corrupt(&path, "it is the manifest of another directory"));
    }
    if manifest.detached {
        return Ok(None);
    }
    let names: Vec<DiskName> = manifest.disks.iter().map(|disk| disk.name.clone()).collect();
    let replica = Replica::assemble(io.clone(), layout, options.clone(), manifest, guard)?;
    replica.finish_merges()?;
    let mut foreign = Vec::new();
    for disk in &names {
        clean_disk(&replica, disk, &mut foreign)?;
    }
    clean_top(&replica, &mut foreign)?;
    clean_configs(&replica, &mut foreign)?;
    clean_overlays(&replica, &mut foreign)?;
    replica.note_overlays();
    for disk in &names {
        // Damage of a sidecar must not keep a failover from happening; check names the points it touches.
        if let Some(tree) = replica.inner.trees.get(disk) {
            if let Err(error) = bring_up(&replica, disk, &mut lock(tree)) {
                tracing::error!(vm = %replica.vm(), %disk, %error, "the digests of this disk cannot be used");
            }
        }
    }
    Ok(Some(Opened { replica, foreign }))
}

/// A tree holds what is sealed and nothing else.
fn bring_up(replica: &Replica, disk: &DiskName, tree: &mut Tree) -> Result<()> {
    if replica.head_epoch().is_none() {
        // A first copy that was not recorded may have left its digests.
        tree.clear()?;
    }
    replica.catch_up(disk, tree)
}

/// Names and paths in a directory; names that are no UTF-8 count as foreign.
fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let list = std::fs::read_dir(directory).map_err(|e| Error::io("list", directory, e))?;
    let mut found = Vec::new();
    for entry in list {
        let entry = entry.map_err(|e| Error::io("list", directory, e))?;
        found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    found.sort();
    Ok(found)
}

fn clean_disk(replica: &Replica, disk: &DiskName, foreign: &mut Vec<PathBuf>) -> Result<()> {
    let (io, layout, manifest) = (&replica.inner.io, &replica.inner.layout, replica.manifest());
    let Some(record) = manifest.disk(disk) else { return Ok(()) };
    let resumable = record.layers.is_empty() && layout.progress(disk, Epoch(0)).exists();
    if resumable {
        unseal_base(io, layout, disk, Epoch(0))?;
    }
    for (name, path) in entries(&layout.disk_dir(disk))? {
        let Some(file) = DiskFile::parse(&name) else {
            foreign.push(path);
            continue;
        };
        let sealed = !file.part
            && file.kind != DiskFileKind::Progress
            && record.layers.iter().any(|layer| layer.epoch == file.epoch);
        let unfinished = file.part && (file.kind == DiskFileKind::Progress || name.ends_with(".sorted"));
        let kept = resumable && file.epoch == Epoch(0) && !unfinished;
        if !sealed && !kept {
            io.remove(&path)?;
        }
    }
    Ok(())
}

/// Gives the files of a first copy, which were renamed but not recorded, their unsealed names back.
pub(crate) fn unseal_base(io: &Io, layout: &Layout, disk: &DiskName, epoch: Epoch) -> Result<()> {
    let (layer, digests) = (layout.layer(disk, epoch), layout.sidecar(disk, epoch));
    if layer.exists() {
        io.rename(&layer, &part(&layer))?;
    }
    if digests.exists() {
        // The unsorted file is what the progress file is about, where there is one.
        if part(&digests).exists() {
            io.remove(&digests)?;
        } else {
            io.rename(&digests, &part(&digests))?;
        }
    }
    io.sync_dir(&layout.disk_dir(disk))
}

fn clean_top(replica: &Replica, foreign: &mut Vec<PathBuf>) -> Result<()> {
    // `files`, `claim.json` and `relationship.json` are the engine's: kernels and the like, by the hash of their content; who
    // may run the VM; whose replica it is.
    // It puts in order itself what a crash leaves of the last two.
    const OURS: [&str; 13] = [
        "manifest.json",
        "manifest-copy.json",
        "damage.json",
        "claim.json",
        "claim.json.part",
        "relationship.json",
        "relationship.json.part",
        "lock",
        "disks",
        "digests",
        "config",
        "overlays",
        "files",
    ];
    // The last two are of builds before the temporary names of all crates were one.
    const UNFINISHED: [&str; 5] = [
        "manifest.json.part",
        "manifest-copy.json.part",
        "damage.json.part",
        "manifest.json.tmp",
        "damage.json.tmp",
    ];
    let manifest = replica.manifest();
    for (name, path) in entries(replica.inner.layout.root())? {
        if UNFINISHED.contains(&name.as_str()) {
            replica.inner.io.remove(&path)?;
        } else if !OURS.contains(&name.as_str()) {
            foreign.push(path);
        }
    }
    let known = |name: &str| DiskName::new(name).is_ok_and(|name| manifest.disk(&name).is_some());
    for (name, path) in entries(&replica.inner.layout.root().join("disks"))? {
        if !known(&name) {
            foreign.push(path);
        }
    }
    for (name, path) in entries(&replica.inner.layout.root().join("digests"))? {
        match name.strip_suffix(".tree") {
            Some(disk) if known(disk) => {}
            _ if name.ends_with(".check") => replica.inner.io.remove(&path)?,
            _ => foreign.push(path),
        }
    }
    Ok(())
}

fn clean_configs(replica: &Replica, foreign: &mut Vec<PathBuf>) -> Result<()> {
    let manifest = replica.manifest();
    for (name, path) in entries(&replica.inner.layout.root().join("config"))? {
        let digits = name.strip_suffix(".part").unwrap_or(&name);
        let epoch = digits.parse().ok().map(Epoch).filter(|_| digits.len() >= 12);
        match epoch {
            Some(epoch) if manifest.configs.iter().any(|config| config.epoch == epoch) && digits == name => {}
            Some(_) => replica.inner.io.remove_tree(&path)?,
            None => foreign.push(path),
        }
    }
    Ok(())
}

/// An overlay may hold all that a failed-over VM has written: one that the manifest does not list is reported,
/// never removed, unless its own name says that it was never complete or that it goes.
fn clean_overlays(replica: &Replica, foreign: &mut Vec<PathBuf>) -> Result<()> {
    let manifest = replica.manifest();
    let listed = |id: &str| manifest.overlays.iter().any(|overlay| overlay.id == id);
    let overlays = replica.inner.layout.overlays();
    for (name, path) in entries(&overlays)? {
        if let Some(id) = name.strip_suffix(".gone") {
            if listed(id) && !overlays.join(id).exists() {
                replica.forget_overlay(id)?;
            } else {
                replica.inner.io.remove_tree(&path)?;
            }
        } else if let Some(id) = name.strip_suffix(".part") {
            if listed(id) && !overlays.join(id).exists() {
                replica.name_overlay(id)?;
            } else {
                replica.inner.io.remove_tree(&path)?;
            }
        } else if !listed(&name) {
            foreign.push(path);
        }
    }
    Ok(())
}

/// Makes the directories of a new replica and its first manifest.
pub(crate) fn create(io: &Io, layout: Layout, options: &StoreOptions, manifest: Manifest) -> Result<Replica> {
    let root = layout.root().to_owned();
    for directory in ["disks", "digests", "config", "overlays"] {
        io.create_dir(&root.join(directory))?;
    }
    for disk in &manifest.disks {
        io.create_dir(&layout.disk_dir(&disk.name))?;
    }
    let guard = take_lock(&layout)?;
    io.sync_dir(&root.join("disks"))?;
    // With the manifest the replica exists.
    copies::write(io, &layout, &manifest.render()?)?;
    if let Some(location) = root.parent() {
        io.sync_dir(location)?;
    }
    Replica::assemble(io.clone(), layout, options.clone(), manifest, guard)
}
