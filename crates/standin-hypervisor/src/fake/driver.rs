//! The contract of [`Hypervisor`], in memory.

use super::disk::{Bits, FakeDisk};
use super::view::{FakeReader, FakeView, Source};
use super::{FakeHypervisor, FakeVm, Op, OpenView, Shared, State};
use crate::definition::{DiskFormat, NicDefinition, VmDefinition};
use crate::error::Error;
use crate::seam::{
    Accelerator, Consistency, CutRequest, DiskInfo, GuestNic, Hypervisor, LiveRequest, Mark, MarkStatus,
    PowerState, Result, StartOptions, Tracker, View, ViewInfo, VmConfig, VmEvent, VmInfo,
};
use async_trait::async_trait;
use standin_model::{DiskName, VmId, VmName};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// The virtual size of an image that exists, 0 of one that does not or cannot be read: a fake VM starts without.
pub(super) fn size_of_image(file: &Path, format: DiskFormat) -> u64 {
    let Ok(mut image) = std::fs::File::open(file) else { return 0 };
    match format {
        DiskFormat::Raw => image.metadata().map_or(0, |meta| meta.len()),
        DiskFormat::Qcow2 => {
            // qcow2: magic "QFI\xfb" at 0, virtual size as a big-endian u64 at 24.
            let mut header = [0; 32];
            match image.read_exact(&mut header) {
                Ok(()) if header.starts_with(b"QFI\xfb") => {
                    header[24..].iter().fold(0, |size, byte| size << 8 | u64::from(*byte))
                }
                _ => 0,
            }
        }
    }
}

fn info(fake: &FakeVm) -> VmInfo {
    let disks = fake.definition.disks.iter().filter_map(|entry| {
        let disk = fake.disks.get(&entry.name)?;
        Some(DiskInfo {
            name: entry.name.clone(),
            path: entry.file.clone(),
            format: entry.format.as_str().to_owned(),
            size: disk.content.size(),
            read_only: entry.read_only,
            problem: disk.problem.clone(),
        })
    });
    let owned = fake.power != PowerState::Off && !fake.adopted;
    VmInfo {
        id: fake.definition.uuid,
        name: fake.definition.name.clone(),
        power: fake.power,
        adopted: fake.adopted,
        accelerator: owned.then(|| Accelerator::Tcg { reason: "this hypervisor is a fake".to_owned() }),
        disks: disks.collect(),
        pid: fake.pid,
        definition: fake.definition.clone(),
    }
}

/// A VM that is on.
fn running(state: &mut State, vm: VmId) -> Result<&mut FakeVm> {
    let fake = state.vm_mut(vm)?;
    if fake.power == PowerState::Off { Err(Error::NotRunning(vm)) } else { Ok(fake) }
}

fn disk<'a>(fake: &'a FakeVm, name: &DiskName) -> Result<&'a FakeDisk> {
    let unknown = || Error::UnknownDisk { vm: fake.definition.uuid, disk: name.clone() };
    fake.disks.get(name).ok_or_else(unknown)
}

/// What [`Hypervisor::live`] and [`Hypervisor::cut`] have in common.
struct Opening {
    disks: Vec<DiskName>,
    tracker: Tracker,
    since: Option<Mark>,
    mark: Mark,
    granularity: u32,
    live: bool,
}

impl Opening {
    /// Everything that could be refused, before anything is changed.
    fn check(&self, fake: &FakeVm) -> Result<()> {
        if self.disks.is_empty() {
            return Err(Error::Internal("a view without disks was asked for".to_owned()));
        }
        if self.granularity < 4096 || !self.granularity.is_power_of_two() {
            return Err(Error::Internal(format!("{} is no granularity", self.granularity)));
        }
        let taken = fake.views.values().any(|view| view.tracker == self.tracker);
        if taken || fake.leftovers.contains(&self.tracker.0) {
            return Err(exists(format!("a view of {}", self.tracker.0)));
        }
        for name in &self.disks {
            let found = disk(fake, name)?;
            if let Some(problem) = &found.problem {
                return Err(Error::DiskProblem { disk: name.clone(), problem: problem.clone() });
            }
            if let Some(since) = self.since.filter(|since| found.usable(&self.tracker, *since).is_none()) {
                let mark = format!("{}.{}", since.epoch, since.pass);
                return Err(Error::NoMark { disk: name.clone(), mark });
            }
            if !self.live && found.marks.contains_key(&(self.tracker.0.clone(), self.mark)) {
                return Err(exists(format!("mark {}.{} on {name}", self.mark.epoch, self.mark.pass)));
            }
        }
        Ok(())
    }

    /// Starts the marks, freezes copies of the old ones, and takes hold of the contents: one instant, as the
    /// caller holds the lock.
    fn open(&self, shared: &Arc<Shared>, fake: &mut FakeVm, id: u64) -> Result<Opened> {
        let (sender, failure) = watch::channel(None);
        let mut readers = BTreeMap::new();
        for name in &self.disks {
            let vm = fake.definition.uuid;
            let unknown = || Error::UnknownDisk { vm, disk: name.clone() };
            let found = fake.disks.get_mut(name).ok_or_else(unknown)?;
            let dirty = self.since.and_then(|since| found.usable(&self.tracker, since).cloned());
            let key = (self.tracker.0.clone(), self.mark);
            // An interrupted first copy goes on with the mark that it had, unless that one missed writes.
            found
                .marks
                .entry(key)
                .and_modify(|bits| {
                    if bits.inconsistent {
                        *bits = Bits::new(self.granularity);
                    }
                })
                .or_insert_with(|| Bits::new(self.granularity));
            let content = found.content.clone();
            let reader = FakeReader {
                shared: Arc::clone(shared),
                vm,
                disk: name.clone(),
                size: content.size(),
                source: if self.live { Source::Live } else { Source::Frozen(content) },
                dirty,
                failure: failure.clone(),
                view: id,
            };
            readers.insert(name.clone(), Arc::new(reader));
        }
        fake.views.insert(id, OpenView { tracker: self.tracker.clone(), failure: sender });
        Ok(Opened { readers, failure })
    }
}

struct Opened {
    readers: BTreeMap<DiskName, Arc<FakeReader>>,
    failure: watch::Receiver<Option<String>>,
}

/// What QEMU answers when a node, a job or a bitmap of that name is there already.
fn exists(what: String) -> Error {
    let desc = format!("{what} exists already");
    Error::Qmp { command: "transaction".to_owned(), class: "GenericError".to_owned(), desc }
}

impl FakeHypervisor {
    fn open(&self, vm: VmId, opening: &Opening, freeze: Option<Option<String>>) -> Result<Box<dyn View>> {
        let mut state = self.shared.lock();
        let id = state.next_view;
        state.next_view += 1;
        let fake = running(&mut state, vm)?;
        opening.check(fake)?;
        let opened = opening.open(&self.shared, fake, id)?;
        let files = fake.definition.carried_files();
        let files = files.into_iter().map(|(role, path)| (role.to_owned(), path.to_path_buf())).collect();
        let config = VmConfig { definition: fake.definition.clone(), files };
        let info = ViewInfo {
            at: (self.shared.clock)(),
            application_consistent: freeze == Some(None),
            freeze_error: freeze.flatten(),
            config,
        };
        Ok(Box::new(FakeView {
            shared: Arc::clone(&self.shared),
            vm,
            id,
            tracker: opening.tracker.clone(),
            info,
            disks: opened.readers,
            failure: opened.failure,
            closed: false,
        }))
    }

    fn set_power(&self, vm: VmId, power: PowerState) -> Result<()> {
        running(&mut self.shared.lock(), vm)?.power = power;
        Ok(())
    }
}

#[async_trait]
impl Hypervisor for FakeHypervisor {
    async fn list(&self) -> Result<Vec<VmInfo>> {
        self.shared.faults.pass(Op::Inspect).await?;
        Ok(self.shared.lock().vms.values().map(info).collect())
    }

    async fn names(&self) -> Result<Vec<(VmId, VmName)>> {
        Ok(self.shared.lock().vms.iter().map(|(id, fake)| (*id, fake.definition.name.clone())).collect())
    }

    async fn inspect(&self, vm: VmId) -> Result<VmInfo> {
        self.shared.faults.pass(Op::Inspect).await?;
        self.shared.lock().vm(vm).map(info)
    }

    async fn define(&self, definition: VmDefinition) -> Result<VmId> {
        self.shared.faults.pass(Op::Define).await?;
        definition.validate()?;
        let vm = definition.uuid;
        let mut state = self.shared.lock();
        free_name(&state, vm, &definition.name)?;
        let mut fake = FakeVm::new(definition);
        if let Some(old) = state.vms.remove(&vm) {
            if old.power != PowerState::Off {
                state.vms.insert(vm, old);
                return Err(Error::AlreadyRunning(vm));
            }
            keep_disks(&mut fake, old);
        }
        state.vms.insert(vm, fake);
        Ok(vm)
    }

    async fn define_new(&self, definition: VmDefinition) -> Result<VmId> {
        self.shared.faults.pass(Op::Define).await?;
        definition.validate()?;
        let vm = definition.uuid;
        let mut state = self.shared.lock();
        free_name(&state, vm, &definition.name)?;
        if state.vms.contains_key(&vm) {
            return Err(Error::VmExists(vm));
        }
        state.vms.insert(vm, FakeVm::new(definition));
        Ok(vm)
    }

    async fn rename(&self, vm: VmId, name: VmName) -> Result<()> {
        self.shared.faults.pass(Op::Define).await?;
        let mut state = self.shared.lock();
        free_name(&state, vm, &name)?;
        state.vm_mut(vm)?.definition.name = name;
        Ok(())
    }

    async fn undefine(&self, vm: VmId) -> Result<()> {
        self.shared.faults.pass(Op::Define).await?;
        let mut state = self.shared.lock();
        let fake = state.vm(vm)?;
        if fake.power != PowerState::Off && !fake.adopted {
            return Err(Error::AlreadyRunning(vm));
        }
        state.vms.remove(&vm);
        Ok(())
    }

    async fn adopt(&self, qmp: PathBuf, name: Option<VmName>) -> Result<VmId> {
        self.shared.faults.pass(Op::Define).await?;
        let mut state = self.shared.lock();
        let Some(mut fake) = state.foreign.remove(&qmp) else {
            let peer = qmp.display().to_string();
            return Err(Error::Connection { peer, detail: "nobody listens there".to_owned() });
        };
        if let Some(name) = name {
            fake.definition.name = name;
        }
        let vm = fake.definition.uuid;
        let refused = match state.vms.contains_key(&vm) {
            true => Err(Error::AlreadyDefined { name: fake.definition.name.clone(), owner: vm }),
            false => free_name(&state, vm, &fake.definition.name),
        };
        if let Err(error) = refused {
            state.foreign.insert(qmp, fake);
            return Err(error);
        }
        state.vms.insert(vm, fake);
        drop(state);
        self.shared.tell(VmEvent::Started(vm));
        Ok(vm)
    }

    async fn start(&self, vm: VmId, options: StartOptions) -> Result<()> {
        self.shared.faults.pass(Op::Start).await?;
        let mut state = self.shared.lock();
        let pid = state.pid();
        let fake = state.vm_mut(vm)?;
        if fake.adopted {
            return Err(Error::Adopted { vm, operation: "start" });
        }
        if fake.power != PowerState::Off {
            return Err(Error::AlreadyRunning(vm));
        }
        fake.power = if options.paused { PowerState::Paused } else { PowerState::Running };
        fake.pid = Some(pid);
        drop(state);
        self.shared.tell(VmEvent::Started(vm));
        Ok(())
    }

    async fn shutdown(&self, vm: VmId, deadline: Duration) -> Result<()> {
        self.shared.faults.pass(Op::Stop).await?;
        running(&mut self.shared.lock(), vm)?;
        if self.shared.faults.deaf_to_shutdown() {
            tokio::time::sleep(deadline).await;
            return Err(Error::Timeout { what: format!("the shutdown of VM {vm}"), after: deadline });
        }
        self.shared.stop(vm, true)
    }

    async fn power_off(&self, vm: VmId) -> Result<()> {
        self.shared.faults.pass(Op::Stop).await?;
        running(&mut self.shared.lock(), vm)?;
        self.shared.stop(vm, true)
    }

    async fn pause(&self, vm: VmId) -> Result<()> {
        self.set_power(vm, PowerState::Paused)
    }

    async fn resume(&self, vm: VmId) -> Result<()> {
        self.set_power(vm, PowerState::Running)
    }

    async fn marks(&self, vm: VmId, tracker: &Tracker, disks: &[DiskName]) -> Result<Vec<MarkStatus>> {
        self.shared.faults.pass(Op::Marks).await?;
        let mut state = self.shared.lock();
        let fake = state.vm_mut(vm)?;
        for name in disks {
            disk(fake, name)?;
        }
        if fake.power == PowerState::Off {
            return Ok(Vec::new());
        }
        Ok(statuses(fake, tracker, disks))
    }

    async fn is_marked(&self, vm: VmId) -> Result<bool> {
        Ok(self.shared.lock().vm(vm)?.is_marked())
    }

    async fn retain_marks(&self, vm: VmId, tracker: &Tracker, keep: &[Mark]) -> Result<()> {
        self.shared.faults.pass(Op::RetainMarks).await?;
        let mut state = self.shared.lock();
        let fake = state.vm_mut(vm)?;
        // Marks in the files of a VM that is off cannot be reached; they are met at its next start.
        let on = fake.power != PowerState::Off;
        for disk in fake.disks.values_mut().filter(|_| on) {
            disk.marks.retain(|(owner, mark), _| *owner != tracker.0 || keep.contains(mark));
        }
        Ok(())
    }

    async fn clean(&self, vm: VmId, tracker: &Tracker, _scratch_dir: &Path) -> Result<()> {
        self.shared.faults.pass(Op::Clean).await?;
        let mut state = self.shared.lock();
        let fake = state.vm_mut(vm)?;
        if fake.views.values().any(|view| view.tracker == *tracker) {
            return Err(Error::Internal(format!("clean was called while a view of {} is open", tracker.0)));
        }
        fake.leftovers.remove(&tracker.0);
        Ok(())
    }

    async fn live(&self, vm: VmId, request: LiveRequest) -> Result<Box<dyn View>> {
        self.shared.faults.pass(Op::Live).await?;
        let LiveRequest { disks, tracker, since, mark, granularity } = request;
        let opening = Opening { disks, tracker, since, mark, granularity, live: true };
        self.open(vm, &opening, None)
    }

    async fn cut(&self, vm: VmId, request: CutRequest) -> Result<Box<dyn View>> {
        self.shared.faults.pass(Op::Cut).await?;
        let freeze = match request.consistency {
            Consistency::Crash => None,
            Consistency::Application { .. } if self.shared.faults.take_freeze_failure() => {
                Some(Some("the guest agent did not answer".to_owned()))
            }
            Consistency::Application { .. } => Some(None),
        };
        let CutRequest { disks, tracker, since, mark, granularity, .. } = request;
        let opening = Opening { disks, tracker, since: Some(since), mark, granularity, live: false };
        self.open(vm, &opening, freeze)
    }

    async fn flatten(&self, vm: VmId, disk: &DiskName, _bytes_per_s: u64) -> Result<()> {
        self::disk(running(&mut self.shared.lock(), vm)?, disk)?;
        self.shared.faults.pass(Op::Flatten).await?;
        let mut state = self.shared.lock();
        let fake = running(&mut state, vm)?;
        let entries = fake.definition.disks.iter_mut();
        entries.filter(|entry| entry.name == *disk).for_each(|entry| entry.backing = None);
        Ok(())
    }

    async fn configure_network(
        &self,
        vm: VmId,
        cards: &[GuestNic],
        patience: Duration,
    ) -> Result<Vec<String>> {
        if !running(&mut self.shared.lock(), vm)?.definition.guest_agent {
            let detail = "the VM has no channel for it".to_owned();
            return Err(Error::Unsupported { feature: "the guest agent".to_owned(), detail });
        }
        self.shared.faults.pass(Op::Network).await?;
        if self.shared.faults.agents_are_silent() {
            tokio::time::sleep(patience).await;
            return Err(Error::Timeout {
                what: "the wait for the guest's agent".to_owned(),
                after: patience,
            });
        }
        let mut state = self.shared.lock();
        let fake = running(&mut state, vm)?;
        let mut done = Vec::new();
        for card in cards {
            let has = |nic: &&NicDefinition| nic.address(vm) == card.mac;
            let Some(nic) = fake.definition.nics.iter().find(has) else {
                return Err(Error::Agent(format!(
                    "the guest has no network card with the address {}",
                    card.mac
                )));
            };
            fake.network.insert(nic.name.clone(), card.settings.clone());
            done.push(format!("the guest has the settings of {}", card.name));
        }
        Ok(done)
    }

    fn events(&self) -> broadcast::Receiver<VmEvent> {
        self.shared.events.subscribe()
    }
}

/// Refuses a name that another VM has.
fn free_name(state: &State, vm: VmId, name: &VmName) -> Result<()> {
    match state.vms.values().find(|fake| fake.definition.uuid != vm && fake.definition.name == *name) {
        Some(other) => Err(Error::AlreadyDefined { name: name.clone(), owner: other.definition.uuid }),
        None => Ok(()),
    }
}

/// A definition that replaces another one keeps the disks that exist only in memory.
fn keep_disks(fake: &mut FakeVm, old: FakeVm) {
    for (name, mut kept) in old.disks {
        if let Some(disk) = fake.disks.get_mut(&name).filter(|disk| disk.content.size() == 0) {
            kept.persistent = disk.persistent;
            *disk = kept;
        }
    }
}

/// The marks on these disks. Inconsistent ones are reported and then removed, since nothing else can be done
/// with them.
fn statuses(fake: &mut FakeVm, tracker: &Tracker, disks: &[DiskName]) -> Vec<MarkStatus> {
    let mut found: BTreeMap<Mark, Vec<(&Bits, u64)>> = BTreeMap::new();
    for disk in disks.iter().filter_map(|name| fake.disks.get(name)) {
        for ((_, mark), bits) in disk.marks.iter().filter(|((owner, _), _)| *owner == tracker.0) {
            found.entry(*mark).or_default().push((bits, disk.dirty_bytes(tracker, *mark)));
        }
    }
    let status = |(mark, on): (Mark, Vec<(&Bits, u64)>)| {
        let granularity = on.iter().map(|(bits, _)| bits.granularity).max().unwrap_or_default();
        MarkStatus {
            mark,
            complete: on.len() == disks.len()
                && on.iter().all(|(bits, _)| !bits.inconsistent && bits.granularity == granularity),
            granularity,
            dirty_bytes: on.iter().map(|(_, dirty)| dirty).sum(),
        }
    };
    let statuses = found.into_iter().map(status).collect();
    for disk in fake.disks.values_mut() {
        disk.marks.retain(|(owner, _), bits| *owner != tracker.0 || !bits.inconsistent);
    }
    statuses
}
