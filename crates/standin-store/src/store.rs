//! All replicas of this host.

use crate::clock::Clock;
use crate::copies;
use crate::error::{Error, Result};
use crate::fault::CrashPoint;
use crate::io::Io;
use crate::layout::Layout;
use crate::locations;
use crate::manifest::{Disk, FORMAT, Manifest, check_granule};
use crate::recover;
use crate::replica::{Replica, lock};
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
    /// Files that running VMs use. Of two copies of a replica, the one that a VM runs from is taken.
    pub in_use: Vec<PathBuf>,
    /// Kills the store in a test.
    pub crash: Option<CrashPoint>,
    /// Dates what is received.
    pub clock: Clock,
}

impl Default for StoreOptions {
    fn default() -> Self {
        let (locations, in_use) = (Vec::new(), Vec::new());
        Self { locations, reserve: 256 << 20, max_chain: 40, in_use, crash: None, clock: Clock::system() }
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

/// A replica that is there and cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Of which VM, by the name of its directory.
    pub vm: VmId,
    /// That VM's name, likewise.
    pub name: VmName,
    /// Where it is.
    pub directory: PathBuf,
    /// Why it cannot be opened, and what to do.
    pub message: String,
    /// Its manifest is lost, and [`Store::repair`] builds it again.
    pub repairable: bool,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) io: Io,
    pub(crate) options: StoreOptions,
    pub(crate) locations: RwLock<Vec<PathBuf>>,
    pub(crate) replicas: RwLock<BTreeMap<VmId, Replica>>,
    pub(crate) unreadable: Mutex<BTreeMap<VmId, Unreadable>>,
    pub(crate) problems: Mutex<Vec<Problem>>,
}

/// The replicas of this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

impl Store {
    /// Finds the replicas in all locations and puts each in order. A replica that cannot be opened does not
    /// keep the others from being opened: see [`Store::problems`].
    ///
    /// # Errors
    /// When a location cannot be made or listed.
    pub fn open(options: StoreOptions) -> Result<Self> {
        let io = Io::new(options.crash.clone());
        for location in options.locations.iter().filter(|location| !location.is_dir()) {
            io.create_dir(location)?;
        }
        let found = locations::open_all(&io, &options.locations, &options, &BTreeMap::new())?;
        for problem in &found.problems {
            tracing::warn!(path = %problem.path.display(), "{}", problem.message);
        }
        let shared = Shared {
            io,
            locations: RwLock::new(options.locations.clone()),
            options,
            replicas: RwLock::new(found.replicas),
            unreadable: Mutex::new(found.unreadable),
            problems: Mutex::new(found.problems),
        };
        Ok(Self { shared: Arc::new(shared) })
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
        let (io, options) = (&self.shared.io, &self.shared.options);
        let found = locations::open_all(io, &[location.to_owned()], options, &replicas)?;
        replicas.extend(found.replicas);
        lock(&self.shared.unreadable).extend(found.unreadable);
        lock(&self.shared.problems).extend(found.problems);
        locations.push(location.to_owned());
        Ok(())
    }

    /// The storage locations.
    #[must_use]
    pub fn locations(&self) -> Vec<PathBuf> {
        self.shared.locations.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replicas that are there and cannot be opened, by VM.
    #[must_use]
    pub fn unreadable(&self) -> Vec<Unreadable> {
        lock(&self.shared.unreadable).values().cloned().collect()
    }

    /// What was found at the start that needs a person: replicas that cannot be opened, foreign files.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        lock(&self.shared.problems).clone()
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
        self.is_readable(spec.vm)?;
        if !self.locations().iter().any(|known| known == location) {
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
            created_at: self.clock().now(),
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

    /// A replica that cannot be opened may be all that somebody has of its VM: nothing takes its place.
    pub(crate) fn is_readable(&self, vm: VmId) -> Result<()> {
        match lock(&self.shared.unreadable).get(&vm) {
            Some(unreadable) => Err(Error::Exists(format!(
                "a replica of VM {} that cannot be opened ({})",
                unreadable.name, unreadable.message
            ))),
            None => Ok(()),
        }
    }

    /// A directory of the same name is moved aside if it is of a removed relationship, or of a replica whose
    /// making never ended.
    pub(crate) fn make_room(&self, layout: &Layout) -> Result<()> {
        let root = layout.root();
        if !root.exists() {
            return Ok(());
        }
        let _lock = recover::take_lock(layout)?;
        if copies::exist(layout) || locations::has_layers(layout)? {
            let old = copies::load(&self.shared.io, layout)?;
            if !old.detached || !old.overlays.is_empty() {
                let what = format!("{} with a replica in use; move or delete it first", root.display());
                return Err(Error::Exists(what));
            }
        }
        self.shared.io.rename(root, &layout.kept(self.clock().now()))
    }

    /// Dates what is received.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.shared.options.clock
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
