//! Finding replicas in storage locations. Of two directories of one VM, after its storage was moved or copied, one is
//! opened and the other is left as it is and said.
//!
//! Which one: the one that a running VM uses; else the one with the higher generation, the newer layers, the newer writes
//! of a failed-over VM; of equals the one in the location that is named first.

use crate::copies;
use crate::error::{Error, Result};
use crate::io::Io;
use crate::layout::{Inventory, Layout};
use crate::manifest::Manifest;
use crate::recover;
use crate::replica::Replica;
use crate::store::{Problem, StoreOptions, Unreadable, describe};
use jiff::Timestamp;
use standin_model::{Epoch, Generation, VmId, VmName};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What locations hold.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) replicas: BTreeMap<VmId, Replica>,
    pub(crate) unreadable: BTreeMap<VmId, Unreadable>,
    pub(crate) problems: Vec<Problem>,
}

/// A directory that may be a replica's.
struct Candidate {
    vm: VmId,
    name: VmName,
    layout: Layout,
    /// `None`: its relationship was removed.
    manifest: Result<Option<Manifest>>,
    order: usize,
}

/// By which of two copies the better one is known; the greater is better.
type Rank = (bool, bool, Generation, Option<Epoch>, Option<Timestamp>, Option<SystemTime>, Reverse<usize>);

/// Opens the replicas of locations. `known` are open already, and stay.
pub(crate) fn open_all(
    io: &Io,
    locations: &[PathBuf],
    options: &StoreOptions,
    known: &BTreeMap<VmId, Replica>,
) -> Result<Found> {
    let mut by_vm: BTreeMap<VmId, Vec<Candidate>> = BTreeMap::new();
    for (order, location) in locations.iter().enumerate() {
        for candidate in candidates(io, location, order)? {
            by_vm.entry(candidate.vm).or_default().push(candidate);
        }
    }
    let mut found = Found::default();
    for (vm, mut candidates) in by_vm {
        candidates.retain(|candidate| !matches!(candidate.manifest, Ok(None)));
        candidates.sort_by_cached_key(|candidate| Reverse(rank(candidate, options)));
        let mut used = known.get(&vm).map(|replica| replica.directory().to_owned());
        for candidate in candidates {
            let path = candidate.layout.root().to_owned();
            match &used {
                None => {
                    used = Some(path);
                    open_one(io, candidate, options, &mut found)?;
                }
                // One location by two names.
                Some(used) if same_place(used, &path) => {}
                Some(used) => found.problems.push(second_copy(path, used)),
            }
        }
    }
    Ok(found)
}

fn same_place(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn second_copy(path: PathBuf, used: &Path) -> Problem {
    let message = format!(
        "this is a second copy of a replica; {} is used and this one is not. Remove it with `standin store remove`, or \
         move it away",
        used.display()
    );
    Problem { path, message }
}

fn candidates(io: &Io, location: &Path, order: usize) -> Result<Vec<Candidate>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(location).map_err(|e| Error::io("list", location, e))? {
        let path = entry.map_err(|e| Error::io("list", location, e))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name.strip_suffix(".gone").and_then(Layout::parse_any).is_some() {
            io.remove_tree(&path)?;
            continue;
        }
        if Layout::parse_directory(name).is_none() {
            continue;
        }
        let Some((name, vm)) = Layout::parse_any(name) else { continue };
        let layout = Layout::new(path);
        if !copies::exist(&layout) && !has_layers(&layout)? {
            continue;
        }
        let manifest = match look(io, &layout) {
            Err(Error::Crashed(step)) => return Err(Error::Crashed(step)),
            manifest => manifest,
        };
        found.push(Candidate { vm, name, layout, manifest, order });
    }
    found.sort_by(|a, b| a.layout.root().cmp(b.layout.root()));
    Ok(found)
}

/// The manifest of a directory that nobody else uses; `None` when its relationship was removed.
fn look(io: &Io, layout: &Layout) -> Result<Option<Manifest>> {
    let _lock = recover::take_lock(layout)?;
    let manifest = copies::load(io, layout)?;
    Ok((!manifest.detached).then_some(manifest))
}

/// Whether anything was sealed in a directory.
pub(crate) fn has_layers(layout: &Layout) -> Result<bool> {
    let disks = layout.root().join("disks");
    let list = match std::fs::read_dir(&disks) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        list => list.map_err(|error| Error::io("list", &disks, error))?,
    };
    for entry in list {
        let path = entry.map_err(|error| Error::io("list", &disks, error))?.path();
        if path.is_dir() && !Inventory::read(&path)?.sealed().is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn rank(candidate: &Candidate, options: &StoreOptions) -> Rank {
    let root = candidate.layout.root();
    let in_use = options.in_use.iter().any(|file| file.starts_with(root));
    let order = Reverse(candidate.order);
    let Ok(Some(manifest)) = &candidate.manifest else {
        return (in_use, false, Generation(0), None, None, None, order);
    };
    let received = manifest.points.last().map(|point| point.received_at);
    let written = manifest.overlays.iter().filter_map(|o| written_at(&candidate.layout.overlay_dir(&o.id)));
    (in_use, true, manifest.generation, manifest.head(), received, written.max(), order)
}

/// When a file of a directory was last written to.
fn written_at(directory: &Path) -> Option<SystemTime> {
    let modified = |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.metadata().ok()?.modified().ok();
    std::fs::read_dir(directory).ok()?.filter_map(modified).max()
}

fn open_one(io: &Io, candidate: Candidate, options: &StoreOptions, found: &mut Found) -> Result<()> {
    let Candidate { vm, name, layout, manifest, .. } = candidate;
    let path = layout.root().to_owned();
    let opened = manifest.and_then(|_| recover::open(io, layout, options));
    match opened {
        Ok(Some(opened)) => {
            found.problems.extend(opened.foreign.into_iter().map(foreign));
            found.replicas.insert(vm, opened.replica);
        }
        Ok(None) => {}
        Err(Error::Crashed(step)) => return Err(Error::Crashed(step)),
        Err(error) => {
            let repairable = matches!(error, Error::ManifestLost { .. });
            let message = describe(&error);
            found.problems.push(Problem { path: path.clone(), message: message.clone() });
            found.unreadable.insert(vm, Unreadable { vm, name, directory: path, message, repairable });
        }
    }
    Ok(())
}

/// A file in a replica's directory that has no name of the store's.
pub(crate) fn foreign(path: PathBuf) -> Problem {
    let aside = path.extension().is_some_and(|end| end == crate::rebuild::ASIDE);
    let message = match aside {
        true => {
            "a repair set this file aside, because no recovery point needs it; remove it once the points are good"
        }
        false => "this file is not standin's; it is left alone, move it away",
    };
    Problem { path, message: message.to_owned() }
}
