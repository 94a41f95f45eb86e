//! All replicas of this host.

use crate::error::{Error, Result};
use crate::fault::CrashPoint;
use crate::io::Io;
use crate::layout::Layout;
use crate::manifest::{Disk, FORMAT, Manifest, check_granule};
use crate::recover;
use crate::replica::Replica;
use jiff::Timestamp;
use standin_model::{DiskName, Generation, VmId, VmName};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// How a store works.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Directories that hold replicas; made when they are missing.
    pub locations: Vec<PathBuf>,
    /// Bytes that are left free on the file system: a layer that would go below is given up. The manifest and
    /// merges live on them.
    pub reserve: u64,
    /// Files in a chain that QEMU opens by itself, the overlay included. Longer ones are served as a map.
    pub max_chain: usize,
    /// Kills the store in a test.
    pub crash: Option<CrashPoint>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { locations: Vec::new(), reserve: 256 << 20, max_chain: 40, crash: None }
    }
}

/// A disk of a new replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// Its name.
    pub name: DiskName,
    /// Bytes the guest sees; a multiple of 512.
    pub size: u64,
}

/// A new replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaSpec {
    /// The VM.
    pub vm: VmId,
    /// Its name.
    pub name: VmName,
    /// All its disks.
    pub disks: Vec<DiskSpec>,
    /// Bytes that one digest covers: a power of two from 4 KiB to 1 MiB.
    pub granule: u32,
}

/// What happens to the files of a replica that is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoveDisks {
    /// They stay where they are; a VM that was failed over goes on running on them.
    Keep,
    /// They go.
    Delete,
}

/// Something in a location that needs a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub path: PathBuf,
    /// What, with the remedy.
    pub message: String,
}

#[derive(Debug)]
struct Shared {
    io: Io,
    options: StoreOptions,
    locations: RwLock<Vec<PathBuf>>,
    replicas: RwLock<BTreeMap<VmId, Replica>>,
    problems: Mutex<Vec<Problem>>,
}

/// The replicas of this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

impl Store {
    /// Finds the replicas in all locations and puts each in order. A replica that cannot be opened does not
    /// keep the others from being opened: see [`Store::problems`].
    ///
    /// # Errors
    /// When a location cannot be made or listed.
    pub fn open(options: StoreOptions) -> Result<Self> {
        let io = Io::new(options.crash.clone());
        let (mut replicas, mut problems) = (BTreeMap::new(), Vec::new());
        for location in &options.locations {
            if !location.is_dir() {
                io.create_dir(location)?;
            }
            open_location(&io, location, &options, &mut replicas, &mut problems)?;
        }
        for problem in &problems {
            tracing::warn!(path = %problem.path.display(), "{}", problem.message);
        }
        let (replicas, problems) = (RwLock::new(replicas), Mutex::new(problems));
        let locations = RwLock::new(options.locations.clone());
        Ok(Self { shared: Arc::new(Shared { io, options, locations, replicas, problems }) })
    }

    /// Adds a storage location, with the replicas that it holds. One that is known already stays as it is.
    ///
    /// # Errors
    /// When it cannot be made or listed.
    pub fn add_location(&self, location: &Path) -> Result<()> {
        let mut locations = self.shared.locations.write().unwrap_or_else(PoisonError::into_inner);
        if locations.iter().any(|known| known == location) {
            return Ok(());
        }
        if !location.is_dir() {
            self.shared.io.create_dir(location)?;
        }
        let mut replicas = self.shared.replicas.write().unwrap_or_else(PoisonError::into_inner);
        let mut problems = crate::replica::lock(&self.shared.problems);
        open_location(&self.shared.io, location, &self.shared.options, &mut replicas, &mut problems)?;
        locations.push(location.to_owned());
        Ok(())
    }

    /// What was found at the start that needs a person: replicas that cannot be opened, foreign files.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        crate::replica::lock(&self.shared.problems).clone()
    }

    /// Makes a replica in one of the store's locations. It is empty until its base is sealed.
    ///
    /// # Errors
    /// [`Error::Exists`] when there is one of this VM; [`Error::Invalid`] for a location that is not the
    /// store's, or disks that cannot be.
    pub fn create(&self, location: &Path, spec: ReplicaSpec) -> Result<Replica> {
        let mut replicas = self.shared.replicas.write().unwrap_or_else(PoisonError::into_inner);
        if replicas.contains_key(&spec.vm) {
            return Err(Error::Exists(format!("a replica of VM {}", spec.vm)));
        }
        let locations = self.shared.locations.read().unwrap_or_else(PoisonError::into_inner).clone();
        if !locations.iter().any(|known| known == location) {
            return Err(Error::invalid(format!(
                "{} is no storage location of this store",
                location.display()
            )));
        }
        check_granule(spec.granule)?;
        let layout = Layout::new(location.join(Layout::directory_name(&spec.name, spec.vm)));
        self.make_room(&layout)?;
        let disks = spec.disks.into_iter().map(|d| Disk { name: d.name, size: d.size, layers: Vec::new() });
        let manifest = Manifest {
            format: FORMAT,
            vm: spec.vm,
            name: spec.name,
            created_at: Timestamp::now(),
            generation: Generation(0),
            granule: spec.granule,
            detached: false,
            disks: disks.collect(),
            points: Vec::new(),
            configs: Vec::new(),
            overlays: Vec::new(),
            merges: Vec::new(),
            engine: serde_json::Value::Null,
        };
        // Refused here rather than found unreadable at the next start.
        crate::manifest::parse(&manifest.render()?)
            .map_err(|what| Error::invalid(format!("this replica: {what}")))?;
        let replica = recover::create(&self.shared.io, layout, &self.shared.options, manifest)?;
        replicas.insert(replica.vm(), replica.clone());
        Ok(replica)
    }

    /// A directory of the same name is moved aside if it is of a removed relationship, or of a replica whose
    /// making never ended.
    fn make_room(&self, layout: &Layout) -> Result<()> {
        let root = layout.root();
        if !root.exists() {
            return Ok(());
        }
        let _lock = recover::take_lock(layout)?;
        if layout.manifest().exists() {
            let old = crate::manifest::load(&layout.manifest())?;
            if !old.detached || !old.overlays.is_empty() {
                let what = format!("{} with a replica in use; move or delete it first", root.display());
                return Err(Error::Exists(what));
            }
        }
        let mut aside = root.as_os_str().to_owned();
        aside.push(format!(".kept-{}", Timestamp::now().as_second()));
        self.shared.io.rename(root, Path::new(&aside))
    }

    /// The replica of a VM.
    #[must_use]
    pub fn get(&self, vm: VmId) -> Option<Replica> {
        self.shared.replicas.read().unwrap_or_else(PoisonError::into_inner).get(&vm).cloned()
    }

    /// All replicas, by VM.
    #[must_use]
    pub fn list(&self) -> Vec<Replica> {
        self.shared.replicas.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Forgets a replica; its files stay or go. Where its directory is gone already, only the memory of it goes.
    ///
    /// # Errors
    /// [`Error::UnknownVm`]; [`Error::Busy`] while a layer is written, or when files that an overlay needs
    /// should go.
    pub fn remove(&self, vm: VmId, disks: RemoveDisks) -> Result<()> {
        let mut replicas = self.shared.replicas.write().unwrap_or_else(PoisonError::into_inner);
        let replica = replicas.get(&vm).cloned().ok_or(Error::UnknownVm(vm))?;
        if replica.inner.writing.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Error::Busy { vm, what: "a layer is being written".into() });
        }
        if !replica.directory().exists() {
            replicas.remove(&vm);
            return Ok(());
        }
        let manifest = replica.manifest();
        if let Some(overlay) = manifest.overlays.first().filter(|_| disks == RemoveDisks::Delete) {
            let what = format!(
                "overlay {:?} stands on its disks; revert or end it first, or keep the disks",
                overlay.id
            );
            return Err(Error::Busy { vm, what });
        }
        // A replica that is half removed is not found again.
        let marked = replica.update(|manifest| {
            manifest.detached = true;
            Ok(())
        });
        if let Err(error) = marked {
            // Of one whose directory somebody deleted, or whose disk is gone, there is nothing to be marked.
            if replica.directory().try_exists().is_ok_and(|there| !there) {
                replicas.remove(&vm);
                return Ok(());
            }
            return Err(error);
        }
        replicas.remove(&vm);
        if disks == RemoveDisks::Delete {
            let io = &self.shared.io;
            let root = replica.directory();
            let mut gone = root.as_os_str().to_owned();
            gone.push(".gone");
            io.rename(root, Path::new(&gone))?;
            io.remove_tree(Path::new(&gone))?;
        }
        Ok(())
    }
}

fn open_location(
    io: &Io,
    location: &Path,
    options: &StoreOptions,
    replicas: &mut BTreeMap<VmId, Replica>,
    problems: &mut Vec<Problem>,
) -> Result<()> {
    let list = std::fs::read_dir(location).map_err(|e| Error::io("list", location, e))?;
    for entry in list {
        let path = entry.map_err(|e| Error::io("list", location, e))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name.strip_suffix(".gone").and_then(Layout::parse_directory).is_some() {
            io.remove_tree(&path)?;
            continue;
        }
        let Some(vm) = Layout::parse_directory(name) else { continue };
        if !path.join("manifest.json").exists() {
            continue;
        }
        let layout = Layout::new(path.clone());
        match recover::open(io, layout, options) {
            Ok(None) => {}
            Ok(Some(_)) if replicas.contains_key(&vm) => {
                let message =
                    "a second replica of this VM; it is not used, move one of the two away".to_owned();
                problems.push(Problem { path, message });
            }
            Ok(Some(opened)) => {
                let message = "this file is not standin's; it is left alone, move it away".to_owned();
                problems.extend(
                    opened.foreign.into_iter().map(|path| Problem { path, message: message.clone() }),
                );
                replicas.insert(vm, opened.replica);
            }
            Err(Error::Crashed(step)) => return Err(Error::Crashed(step)),
            Err(error) => problems.push(Problem { path, message: describe(&error) }),
        }
    }
    Ok(())
}

/// An error with all its causes, in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}
