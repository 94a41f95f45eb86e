//! A hypervisor in memory, for tests of whatever stands on the seam. It keeps the contract of [`crate::seam`]
//! to the letter and does no I/O and no sleeping, so tests run with simulated time. (The one exception is the
//! length of a disk file that a definition names, which is asked of the file system.)
//!
//! A test plays the guest with [`FakeHypervisor::write`], the operator and the power company with
//! [`FakeHypervisor::clean_stop`] and [`FakeHypervisor::crash`], and the misfortune with
//! [`FakeHypervisor::faults`].
//!
//! ```
//! # use standin_hypervisor::fake::FakeHypervisor;
//! let fake = FakeHypervisor::new();
//! let vm = fake.add_vm("web", &[("a", 1 << 20), ("b", 1 << 30)]);
//! fake.write(vm, "b", 4096, b"hello");
//! assert_eq!(fake.read(vm, "b", 4096, 5), b"hello");
//! ```
//!
//! # What it is strict about
//!
//! More than QEMU has to be, so that a caller that breaks the contract fails its tests: a second view of one
//! tracker is refused, also when the first was dropped without `close` and nobody called `clean`; `clean` is
//! refused while a view is open; reads outside a disk and reads above 32 MiB are refused; a mark that exists
//! already is refused by a cut. As with QEMU, growing a disk leaves the new tail clean in every mark, and a crash
//! takes marks away, or leaves those that were in the file before as incomplete ones.
//!
//! The helpers that tests call directly panic on a VM or a disk that is not there: such a test is wrong itself.

mod disk;
mod driver;
mod faults;
#[cfg(test)]
mod tests;
mod view;

pub use faults::{Faults, Op};

use crate::definition::{DiskDefinition, DiskFormat, VmDefinition};
use crate::error::Error;
use crate::seam::{PowerState, Tracker, VmEvent};
use disk::{Bits, FakeDisk};
use jiff::Timestamp;
use standin_model::network::AdapterSettings;
use standin_model::{DiskName, VmId, VmName};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{broadcast, watch};

/// Events that a slow receiver can lag behind.
const EVENTS: usize = 1024;

/// What time a cut is said to be of.
type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// The hypervisor. See the module's doc.
pub struct FakeHypervisor {
    shared: Arc<Shared>,
}

impl fmt::Debug for FakeHypervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeHypervisor").field("vms", &self.shared.lock().vms.len()).finish_non_exhaustive()
    }
}

/// What the hypervisor and its open views have in common.
struct Shared {
    state: Mutex<State>,
    faults: Faults,
    events: broadcast::Sender<VmEvent>,
    clock: Clock,
}

#[derive(Default)]
struct State {
    vms: BTreeMap<VmId, FakeVm>,
    /// Running QEMUs that nobody adopted yet, by their QMP socket.
    foreign: BTreeMap<PathBuf, FakeVm>,
    next_view: u64,
    next_pid: i32,
    bytes_read: u64,
}

struct FakeVm {
    definition: VmDefinition,
    power: PowerState,
    adopted: bool,
    pid: Option<i32>,
    disks: BTreeMap<DiskName, FakeDisk>,
    views: BTreeMap<u64, OpenView>,
    /// Trackers of views that were dropped, or whose close failed: their jobs and nodes are still there.
    leftovers: BTreeSet<String>,
    /// What its guest was told of its network, by the card's name.
    network: BTreeMap<String, AdapterSettings>,
}

/// What the VM knows of a view of it.
struct OpenView {
    tracker: Tracker,
    failure: watch::Sender<Option<String>>,
}

impl Shared {
    /// A test that panicked while it held the lock has failed anyway; the state is whole after every change.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody has to listen to events.
    fn tell(&self, event: VmEvent) {
        let _ = self.events.send(event);
    }

    /// The process of a VM ends: disks, views and the power state follow. Nothing happens if it is off.
    fn stop(&self, vm: VmId, clean: bool) -> Result<(), Error> {
        let mut state = self.lock();
        let fake = state.vm_mut(vm)?;
        if fake.power == PowerState::Off {
            return Ok(());
        }
        fake.power = PowerState::Off;
        fake.pid = None;
        for disk in fake.disks.values_mut() {
            if clean { disk.stop_cleanly() } else { disk.stop_uncleanly() }
        }
        // Jobs, exports and nodes live in the process.
        fake.leftovers.clear();
        fake.fail_views("the VM's process ended");
        drop(state);
        self.tell(VmEvent::Stopped { vm, clean });
        Ok(())
    }
}

impl State {
    fn vm(&self, vm: VmId) -> Result<&FakeVm, Error> {
        self.vms.get(&vm).ok_or(Error::UnknownVm(vm))
    }

    fn vm_mut(&mut self, vm: VmId) -> Result<&mut FakeVm, Error> {
        self.vms.get_mut(&vm).ok_or(Error::UnknownVm(vm))
    }

    fn pid(&mut self) -> i32 {
        self.next_pid += 1;
        10_000 + self.next_pid
    }
}

impl FakeVm {
    fn is_marked(&self) -> bool {
        self.disks.values().any(|disk| !disk.marks.is_empty())
    }

    fn new(definition: VmDefinition) -> Self {
        let disks = definition
            .disks
            .iter()
            .map(|disk| {
                let size = driver::size_of_image(&disk.file, disk.format);
                (disk.name.clone(), FakeDisk::new(size, disk.format == DiskFormat::Qcow2))
            })
            .collect();
        Self {
            definition,
            power: PowerState::Off,
            adopted: false,
            pid: None,
            disks,
            views: BTreeMap::new(),
            leftovers: BTreeSet::new(),
            network: BTreeMap::new(),
        }
    }

    fn fail_views(&self, reason: &str) {
        for view in self.views.values() {
            // The first reason is the one that counts.
            view.failure.send_if_modified(|failure| {
                let first = failure.is_none();
                if first {
                    *failure = Some(reason.to_owned());
                }
                first
            });
        }
    }
}

impl FakeHypervisor {
    /// A host without VMs. Cuts are dated by the system's clock.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::with_clock(Timestamp::now)
    }

    /// As [`FakeHypervisor::new`], with the clock that dates the cuts.
    pub fn with_clock(clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Arc<Self> {
        let (events, _) = broadcast::channel(EVENTS);
        let shared =
            Shared { state: Mutex::default(), faults: Faults::default(), events, clock: Box::new(clock) };
        Arc::new(Self { shared: Arc::new(shared) })
    }

    /// The switches of what goes wrong.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// A running VM with empty qcow2 disks of the given sizes in bytes.
    ///
    /// # Panics
    /// On a name that is not allowed or taken.
    #[track_caller]
    pub fn add_vm(&self, name: &str, disks: &[(&str, u64)]) -> VmId {
        self.add_vm_as(VmId::random(), name, disks)
    }

    /// As [`FakeHypervisor::add_vm`], with the VM's id: for a test that must be the same each time.
    ///
    /// # Panics
    /// As there.
    #[track_caller]
    pub fn add_vm_as(&self, vm: VmId, name: &str, disks: &[(&str, u64)]) -> VmId {
        let mut fake = build(name, disks);
        fake.definition.uuid = vm;
        let mut state = self.shared.lock();
        assert!(state.vms.values().all(|vm| vm.definition.name != fake.definition.name), "{name} exists");
        fake.power = PowerState::Running;
        fake.pid = Some(state.pid());
        state.vms.insert(vm, fake);
        vm
    }

    /// A running VM that somebody else started: unknown until `adopt` is called with this socket.
    ///
    /// # Panics
    /// On a name that is not allowed.
    #[track_caller]
    pub fn add_foreign(&self, qmp: impl Into<PathBuf>, name: &str, disks: &[(&str, u64)]) -> VmId {
        let vm = VmId::random();
        self.add_foreign_as(vm, qmp, name, disks);
        vm
    }

    /// The same, of a given identity.
    ///
    /// # Panics
    /// On a name that is not allowed.
    #[track_caller]
    pub fn add_foreign_as(&self, vm: VmId, qmp: impl Into<PathBuf>, name: &str, disks: &[(&str, u64)]) {
        let mut fake = build(name, disks);
        fake.definition.uuid = vm;
        let mut state = self.shared.lock();
        fake.power = PowerState::Running;
        fake.pid = Some(state.pid());
        fake.adopted = true;
        state.foreign.insert(qmp.into(), fake);
    }

    /// The guest writes; every mark records it while the VM is on. While it is off the bytes change and nobody
    /// records it, as when somebody else opens the image.
    ///
    /// # Panics
    /// On an unknown VM or disk, and outside the disk.
    #[track_caller]
    pub fn write(&self, vm: VmId, disk: &str, offset: u64, data: &[u8]) {
        self.with_disk(vm, disk, |disk, power| {
            let size = disk.content.size();
            let end = offset.checked_add(data.len() as u64);
            assert!(end.is_some_and(|end| end <= size), "a write at {offset} ends outside {size} bytes");
            if power == PowerState::Off { disk.content.write(offset, data) } else { disk.write(offset, data) }
        });
    }

    /// What the guest would read now.
    ///
    /// # Panics
    /// On an unknown VM or disk, and outside the disk.
    #[track_caller]
    #[must_use]
    pub fn read(&self, vm: VmId, disk: &str, offset: u64, length: usize) -> Vec<u8> {
        self.with_disk(vm, disk, |disk, _| {
            let size = disk.content.size();
            let end = offset.checked_add(length as u64);
            assert!(end.is_some_and(|end| end <= size), "a read at {offset} ends outside {size} bytes");
            disk.content.read(offset, length as u64)
        })
    }

    /// Every disk's whole contents at this instant, to compare with a replica's. For small disks.
    ///
    /// # Panics
    /// On an unknown VM.
    #[track_caller]
    #[must_use]
    pub fn snapshot(&self, vm: VmId) -> BTreeMap<DiskName, Vec<u8>> {
        let state = self.shared.lock();
        let fake = state.vms.get(&vm);
        assert!(fake.is_some(), "no VM {vm}");
        let disks = fake.into_iter().flat_map(|fake| &fake.disks);
        disks.map(|(name, disk)| (name.clone(), disk.content.read(0, disk.content.size()))).collect()
    }

    /// The disk becomes larger while the VM runs. The new tail reads as zeros and is clean in every mark.
    ///
    /// # Panics
    /// On an unknown VM or disk.
    #[track_caller]
    pub fn grow(&self, vm: VmId, disk: &str, size: u64) {
        self.with_disk(vm, disk, |disk, _| disk.content.grow(size));
    }

    /// The disk becomes a raw one: its marks do not survive any stop.
    ///
    /// # Panics
    /// On an unknown VM or disk.
    #[track_caller]
    pub fn make_raw(&self, vm: VmId, disk: &str) {
        self.with_disk(vm, disk, |disk, _| disk.persistent = false);
        let mut state = self.shared.lock();
        let disks = state.vms.get_mut(&vm).into_iter().flat_map(|fake| &mut fake.definition.disks);
        disks.filter(|entry| entry.name.as_str() == disk).for_each(|entry| entry.format = DiskFormat::Raw);
    }

    /// The disk cannot replicate, for this reason; `None` and it can.
    ///
    /// # Panics
    /// On an unknown VM or disk.
    #[track_caller]
    pub fn set_problem(&self, vm: VmId, disk: &str, problem: Option<&str>) {
        self.with_disk(vm, disk, |disk, _| disk.problem = problem.map(str::to_owned));
    }

    /// Marks every one of the VM's marks as one that missed writes.
    ///
    /// # Panics
    /// On an unknown VM or disk.
    #[track_caller]
    pub fn spoil_marks(&self, vm: VmId, disk: &str) {
        self.with_disk(vm, disk, |disk, _| {
            disk.marks.values_mut().for_each(|bits: &mut Bits| bits.inconsistent = true);
        });
    }

    /// The VM's process dies at once. Marks that were never in an image file are gone.
    ///
    /// # Panics
    /// On an unknown VM.
    #[track_caller]
    pub fn crash(&self, vm: VmId) {
        assert!(self.shared.stop(vm, false).is_ok(), "no VM {vm}");
    }

    /// An image of the VM carries marks; `false` also for a VM that is not known.
    #[must_use]
    pub fn carries_marks(&self, vm: VmId) -> bool {
        self.shared.lock().vm(vm).is_ok_and(FakeVm::is_marked)
    }

    /// The guest shuts itself down and the images are closed in order: marks on qcow2 survive.
    ///
    /// # Panics
    /// On an unknown VM.
    #[track_caller]
    pub fn clean_stop(&self, vm: VmId) {
        assert!(self.shared.stop(vm, true).is_ok(), "no VM {vm}");
    }

    /// What the guest was told of its network by its agent, by the card's name.
    ///
    /// # Panics
    /// On an unknown VM.
    #[track_caller]
    #[must_use]
    pub fn guest_network(&self, vm: VmId) -> BTreeMap<String, AdapterSettings> {
        let state = self.shared.lock();
        let fake = state.vms.get(&vm);
        assert!(fake.is_some(), "no VM {vm}");
        fake.map(|fake| fake.network.clone()).unwrap_or_default()
    }

    /// Changes the definition of a VM as it is, running or not: what a test needs of it is set here.
    ///
    /// # Panics
    /// On an unknown VM.
    #[track_caller]
    pub fn redefine(&self, vm: VmId, change: impl FnOnce(&mut VmDefinition)) {
        let mut state = self.shared.lock();
        match state.vms.get_mut(&vm) {
            Some(fake) => change(&mut fake.definition),
            None => panic!("no VM {vm}"),
        }
    }

    /// Every open view of the VM fails for this reason, as when its scratch space runs out.
    ///
    /// # Panics
    /// On an unknown VM.
    #[track_caller]
    pub fn fail_views(&self, vm: VmId, reason: &str) {
        let state = self.shared.lock();
        let fake = state.vms.get(&vm);
        assert!(fake.is_some(), "no VM {vm}");
        fake.into_iter().for_each(|fake| fake.fail_views(reason));
    }

    /// Whether a VM runs; `None` for one that this host does not know.
    #[must_use]
    pub fn power(&self, vm: VmId) -> Option<PowerState> {
        self.shared.lock().vms.get(&vm).map(|fake| fake.power)
    }

    /// Views that are open now, of all VMs.
    #[must_use]
    pub fn open_views(&self) -> usize {
        self.shared.lock().vms.values().map(|fake| fake.views.len()).sum()
    }

    /// Views that were dropped or could not be closed, and were not cleaned up since, of all VMs.
    #[must_use]
    pub fn leftovers(&self) -> usize {
        self.shared.lock().vms.values().map(|fake| fake.leftovers.len()).sum()
    }

    /// Bytes that were read through views so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.shared.lock().bytes_read
    }

    #[track_caller]
    fn with_disk<T>(&self, vm: VmId, disk: &str, act: impl FnOnce(&mut FakeDisk, PowerState) -> T) -> T {
        let mut state = self.shared.lock();
        let Some(fake) = state.vms.get_mut(&vm) else { panic!("no VM {vm}") };
        let power = fake.power;
        match fake.disks.iter_mut().find(|(name, _)| name.as_str() == disk) {
            Some((_, found)) => act(found, power),
            None => panic!("VM {vm} has no disk {disk}"),
        }
    }
}

/// A VM with disks that exist only in memory.
#[track_caller]
fn build(name: &str, disks: &[(&str, u64)]) -> FakeVm {
    let vm_name = match VmName::new(name) {
        Ok(vm_name) => vm_name,
        Err(error) => panic!("{error}"),
    };
    let mut definition = VmDefinition::new(vm_name, 64);
    for (disk, _) in disks {
        let disk_name = match DiskName::new(*disk) {
            Ok(disk_name) => disk_name,
            Err(error) => panic!("{error}"),
        };
        let file = format!("/nonexistent/{name}/{disk}.qcow2");
        definition.disks.push(DiskDefinition::new(disk_name, file, DiskFormat::Qcow2));
    }
    let mut fake = FakeVm::new(definition);
    for (disk, size) in fake.disks.iter_mut().filter_map(|(name, disk)| {
        disks.iter().find(|(wanted, _)| *wanted == name.as_str()).map(|(_, size)| (disk, *size))
    }) {
        disk.content.grow(size);
    }
    fake
}
