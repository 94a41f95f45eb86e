//! Every directory of a replica in the storage locations, also those that no replica uses any more, and what can be done
//! with these: used again, or removed.

use crate::copies;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::locations::foreign;
use crate::manifest::Manifest;
use crate::recover;
use crate::replica::{Replica, lock};
use crate::store::{Store, describe};
use jiff::Timestamp;
use standin_model::{VmId, VmName};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

/// What a directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryState {
    /// A replica that is open.
    Replica,
    /// A copy of one that is open elsewhere.
    Copy,
    /// What was kept of a replica whose relationship was removed, or that another one replaced.
    Kept,
    /// It cannot be opened, and why.
    Unreadable(String),
    /// A first copy of it never ended.
    Unfinished,
}

/// A directory of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Where it is.
    pub path: PathBuf,
    /// Of which VM, by its name.
    pub vm: VmId,
    /// That VM's name, likewise.
    pub name: VmName,
    /// What it is.
    pub state: DirectoryState,
    /// How many recovery points it has; 0 where that cannot be read.
    pub points: usize,
    /// The newest point's instant.
    pub newest: Option<Timestamp>,
    /// Bytes that it takes on its file system.
    pub bytes: u64,
    /// What the engine kept with it; null where that cannot be read.
    pub engine: serde_json::Value,
}

impl Store {
    /// Every directory of a replica in the storage locations, by path. Looks at every file: for people, not for a cycle.
    ///
    /// # Errors
    /// When a location cannot be listed.
    pub fn survey(&self) -> Result<Vec<Directory>> {
        let mut found = Vec::new();
        for location in self.locations() {
            if !location.is_dir() {
                continue;
            }
            for entry in std::fs::read_dir(&location).map_err(|e| Error::io("list", &location, e))? {
                let path = entry.map_err(|e| Error::io("list", &location, e))?.path();
                let name = path.file_name().and_then(|name| name.to_str()).and_then(Layout::parse_any);
                if let Some((name, vm)) = name.filter(|_| path.is_dir()) {
                    found.push(self.look(path, name, vm));
                }
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found.dedup_by(|a, b| a.path == b.path);
        Ok(found)
    }

    fn look(&self, path: PathBuf, name: VmName, vm: VmId) -> Directory {
        let open = self.get(vm).filter(|replica| replica.directory() == path);
        let layout = Layout::new(path.clone());
        let (state, manifest) = match open {
            Some(replica) => (DirectoryState::Replica, Some(Manifest::clone(&replica.manifest()))),
            None if !copies::exist(&layout) && !crate::locations::has_layers(&layout).unwrap_or(true) => {
                (DirectoryState::Unfinished, None)
            }
            // Without a change: what is listed stays as it is.
            None => match copies::look(&layout) {
                Ok(manifest) if manifest.detached || self.get(vm).is_none() => {
                    (DirectoryState::Kept, Some(manifest))
                }
                Ok(manifest) => (DirectoryState::Copy, Some(manifest)),
                Err(error) => (DirectoryState::Unreadable(describe(&error)), None),
            },
        };
        let points = manifest.as_ref().map_or(0, |manifest| manifest.points.len());
        let newest = manifest.as_ref().and_then(|manifest| Some(manifest.points.last()?.created_at));
        let engine = manifest.map(|manifest| manifest.engine).unwrap_or_default();
        let bytes = usage(&path);
        Directory { path, vm, name, state, points, newest, bytes, engine }
    }

    /// Makes a directory that was kept the replica of its VM again, with all its points.
    ///
    /// # Errors
    /// [`Error::Exists`] where the VM has a replica; [`Error::Invalid`] for what is no such directory; what stands in the
    /// way of opening it.
    pub fn adopt(&self, path: &Path) -> Result<Replica> {
        let (name, vm) = self.known(path)?;
        let mut replicas = self.shared.replicas.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(replica) = replicas.get(&vm) {
            return Err(Error::Exists(format!(
                "a replica of VM {name} in {}: remove that replication first (`standin unreplicate {name}`, its disks are \
                 kept)",
                replica.directory().display()
            )));
        }
        self.is_readable(vm)?;
        let io = &self.shared.io;
        let kept = Layout::new(path.to_owned());
        let guard = recover::take_lock(&kept)?;
        let mut manifest = copies::load(io, &kept)?;
        if let Some(overlay) = manifest.overlays.first() {
            return Err(Error::Busy {
                vm,
                what: format!("overlay {:?} stands on it; a VM that failed over may use it", overlay.id),
            });
        }
        let location = path.parent().unwrap_or(Path::new("/"));
        let own = Layout::new(location.join(Layout::directory_name(&manifest.name, manifest.vm)));
        if own.root() != path {
            self.make_room(&own)?;
            io.rename(path, own.root())?;
            io.sync_dir(location)?;
        }
        manifest.detached = false;
        copies::write(io, &own, &manifest.render()?)?;
        drop(guard);
        let opened = recover::open(io, own, &self.shared.options)?.ok_or(Error::UnknownVm(vm))?;
        lock(&self.shared.problems).extend(opened.foreign.into_iter().map(foreign));
        replicas.insert(vm, opened.replica.clone());
        Ok(opened.replica)
    }

    /// Removes a directory that no replica uses, with all that is in it. Whether a VM runs from it is for the caller to
    /// know.
    ///
    /// # Errors
    /// [`Error::Busy`] for a replica that is open, or that could not be opened; [`Error::Invalid`] for what is no
    /// directory of a replica in a storage location.
    pub fn remove_directory(&self, path: &Path) -> Result<()> {
        let (name, vm) = self.known(path)?;
        let replicas = self.shared.replicas.write().unwrap_or_else(PoisonError::into_inner);
        let busy = |what: &str| Err(Error::Busy { vm, what: format!("{} {what}", path.display()) });
        if replicas.get(&vm).is_some_and(|replica| replica.directory() == path) {
            return busy(&format!(
                "is the replica of VM {name}; end the replication first (`standin unreplicate {name}`)"
            ));
        }
        let layout = Layout::new(path.to_owned());
        let guard = recover::take_lock(&layout)?;
        let io = &self.shared.io;
        let mut gone = path.as_os_str().to_owned();
        gone.push(".gone");
        io.rename(path, Path::new(&gone))?;
        drop(guard);
        io.remove_tree(Path::new(&gone))?;
        lock(&self.shared.unreadable).retain(|_, unreadable| unreadable.directory != path);
        lock(&self.shared.problems).retain(|problem| problem.path != path);
        Ok(())
    }

    /// The VM of a path, if it is the directory of a replica in a storage location.
    fn known(&self, path: &Path) -> Result<(VmName, VmId)> {
        let known = path.parent().is_some_and(|parent| self.locations().iter().any(|known| known == parent));
        let named = path.file_name().and_then(|name| name.to_str()).and_then(Layout::parse_any);
        named.filter(|_| known && path.is_dir()).ok_or_else(|| {
            Error::invalid(format!(
                "{} is no directory of a replica in a storage location; `standin store list` shows those",
                path.display()
            ))
        })
    }
}

/// Bytes that a directory takes on its file system, as far as it can be read. A file with several names counts once.
fn usage(path: &Path) -> u64 {
    let (mut waiting, mut seen, mut bytes) = (vec![path.to_owned()], std::collections::BTreeSet::new(), 0);
    while let Some(path) = waiting.pop() {
        let Ok(list) = std::fs::read_dir(&path) else { continue };
        for entry in list.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                waiting.push(entry.path());
            } else if seen.insert((meta.dev(), meta.ino())) {
                bytes += meta.blocks() * 512;
            }
        }
    }
    bytes
}
