//! The two copies of a manifest: `manifest.json`, which decides, and `manifest-copy.json`, which is written after it and
//! is taken when the first is lost.
//!
//! The copy can be behind by one change, after a crash between the two, so it is believed only where it agrees with what
//! lies beside it: the same layers, the same overlays. Else the manifest has to be built again, see [`crate::rebuild`];
//! until then the replica is not opened, and nothing in its directory changes.

use crate::error::{Error, Result};
use crate::io::{Io, read_limited};
use crate::layout::{Inventory, Layout, layer_name};
use crate::manifest::{self, Disk, MAX_MANIFEST, Manifest};
use crate::overlay;
use crate::qcow2::Image;
use standin_model::Epoch;
use std::path::Path;

/// Writes the copy. Its content is durable before it has the name, and the name may come later: after a loss of power the
/// old one or the new one is there.
fn write_copy(io: &Io, layout: &Layout, text: &[u8]) -> Result<()> {
    Ok(io.stage(&layout.manifest_copy(), text)?.publish_for_this_boot()?)
}

/// Brings the copy up to date. The manifest itself is durable: a copy that cannot be written is said, and written with the
/// next change.
pub(crate) fn follow(io: &Io, layout: &Layout, text: &[u8]) {
    if let Err(error) = write_copy(io, layout, text) {
        tracing::warn!(directory = %layout.root().display(), error = %crate::store::describe(&error),
            "the second copy of a replica's manifest is an old one until the next change");
    }
}

/// Writes both copies of a new manifest, durably.
pub(crate) fn write(io: &Io, layout: &Layout, text: &[u8]) -> Result<()> {
    io.write_atomic(&layout.manifest(), text)?;
    write_copy(io, layout, text)
}

/// One of the two files, as it was found.
enum Found {
    Whole(Vec<u8>, Box<Manifest>),
    /// Why it cannot be used.
    Lost(String),
}

fn find(path: &Path) -> Result<Found> {
    let bytes = match read_limited(path, MAX_MANIFEST) {
        Ok(bytes) => bytes,
        Err(error) => return Ok(Found::Lost(crate::store::describe(&error))),
    };
    if let Some(format) = manifest::newer_format(&bytes) {
        return Err(Error::Newer { path: path.to_owned(), format });
    }
    Ok(match manifest::parse(&bytes) {
        Ok(manifest) => Found::Whole(bytes, Box::new(manifest)),
        Err(what) => Found::Lost(format!("{}: {what}", path.display())),
    })
}

/// A manifest, and what has to be done about its copies.
struct Chosen {
    manifest: Manifest,
    text: Vec<u8>,
    /// Why the first one cannot be used: it is restored from this one.
    lost: Option<String>,
    /// The copy is another one, or cannot be used.
    behind: bool,
}

fn choose(layout: &Layout) -> Result<Chosen> {
    let (first, copy) = (find(&layout.manifest())?, find(&layout.manifest_copy())?);
    let (why, text, manifest) = match (first, copy) {
        (Found::Whole(text, manifest), copy) => {
            let behind = !matches!(copy, Found::Whole(copy, _) if copy == text);
            return Ok(Chosen { manifest: *manifest, text, lost: None, behind });
        }
        (Found::Lost(why), Found::Whole(text, manifest)) => (why, text, manifest),
        (Found::Lost(why), Found::Lost(copy)) => return Err(lost(layout, format!("{why}; {copy}"))),
    };
    if let Err(differs) = agrees(&manifest, layout) {
        let copy = layout.manifest_copy();
        return Err(lost(layout, format!("{why}; {} is not of now: {differs}", copy.display())));
    }
    Ok(Chosen { manifest: *manifest, text, lost: Some(why), behind: false })
}

/// The manifest of a replica, from the copy where that is exact. Both copies are the same then.
///
/// # Errors
/// [`Error::ManifestLost`]; [`Error::Newer`].
pub(crate) fn load(io: &Io, layout: &Layout) -> Result<Manifest> {
    let chosen = choose(layout)?;
    if let Some(why) = &chosen.lost {
        tracing::warn!(vm = %chosen.manifest.name, %why,
            "the manifest was lost and is restored from its second copy; nothing is missing");
        io.write_atomic(&layout.manifest(), &chosen.text)?;
    }
    if chosen.behind {
        follow(io, layout, &chosen.text);
    }
    Ok(chosen.manifest)
}

/// As [`load`], without a change on disk.
///
/// # Errors
/// As [`load`].
pub(crate) fn look(layout: &Layout) -> Result<Manifest> {
    choose(layout).map(|chosen| chosen.manifest)
}

/// Whether there is a manifest or a copy of it, readable or not.
pub(crate) fn exist(layout: &Layout) -> bool {
    layout.manifest().exists() || layout.manifest_copy().exists()
}

pub(crate) fn lost(layout: &Layout, what: String) -> Error {
    let name = layout.root().file_name().unwrap_or_default().to_string_lossy().into_owned();
    // The name of the VM, without its identity.
    let vm = name.len().checked_sub(37).and_then(|end| name.get(..end)).unwrap_or(&name).to_owned();
    Error::ManifestLost { vm, directory: layout.root().to_owned(), what }
}

/// Whether a manifest lists what is in the directory and nothing else.
fn agrees(manifest: &Manifest, layout: &Layout) -> std::result::Result<(), String> {
    for disk in &manifest.disks {
        agrees_on(manifest, disk, layout)?;
    }
    for config in &manifest.configs {
        if !layout.config_dir(config.epoch).is_dir() {
            return Err(format!("configuration {} is missing", config.epoch));
        }
    }
    let found = overlay::found(layout).map_err(|error| error.to_string())?;
    let listed = |id: &str| manifest.overlays.iter().find(|overlay| overlay.id == id);
    for id in &found {
        let Some(known) = listed(id) else { return Err(format!("it does not list overlay {id:?}")) };
        let noted = overlay::noted(layout, id).map_err(|error| error.to_string())?;
        if noted.is_some_and(|noted| noted.committed != known.committed) {
            return Err(format!("overlay {id:?} was committed"));
        }
    }
    match manifest.overlays.iter().find(|overlay| !found.contains(&overlay.id)) {
        Some(overlay) => Err(format!("overlay {:?} is missing", overlay.id)),
        None => Ok(()),
    }
}

fn agrees_on(manifest: &Manifest, disk: &Disk, layout: &Layout) -> std::result::Result<(), String> {
    let found = Inventory::read(&layout.disk_dir(&disk.name)).map_err(|error| error.to_string())?.sealed();
    let wrong = |epoch: Epoch, what| Err(format!("layer {epoch} of disk {} {what}", disk.name));
    if let Some(epoch) = found.iter().find(|epoch| disk.layers.iter().all(|layer| layer.epoch != **epoch)) {
        return wrong(*epoch, "is not listed");
    }
    let merging = |epoch| manifest.merges.iter().any(|m| m.disk == disk.name && m.lower == epoch);
    let mut below = None;
    for layer in &disk.layers {
        if !found.contains(&layer.epoch) {
            if merging(layer.epoch) {
                continue;
            }
            return wrong(layer.epoch, "is missing");
        }
        let image = Image::open(&layout.layer(&disk.name, layer.epoch)).map_err(|error| error.to_string())?;
        let merged = manifest.merges.iter().any(|m| m.disk == disk.name && m.upper == layer.epoch);
        if !merged && image.header().backing != below.map(layer_name) {
            return wrong(layer.epoch, "does not stand on the one before");
        }
        below = Some(layer.epoch);
    }
    Ok(())
}

/// What is wrong with the copies on disk, for the check.
pub(crate) fn problems(layout: &Layout) -> Vec<String> {
    let files = [layout.manifest(), layout.manifest_copy()];
    let problem = |path: &std::path::PathBuf| match find(path) {
        Ok(Found::Whole(..)) => None,
        Ok(Found::Lost(why)) => Some(why),
        Err(error) => Some(crate::store::describe(&error)),
    };
    files.iter().filter_map(problem).collect()
}
