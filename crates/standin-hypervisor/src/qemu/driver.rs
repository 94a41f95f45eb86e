//! The driver itself: what it knows when it opens, and the seam's calls, handed to the parts that do them.

use super::image::{self, Locks};
use super::lifecycle::Replace;
use super::machine::{self, CONNECT_TIMEOUT, Machine, Origin, Vm};
use super::process::Process;
use super::store::Store;
use super::{
    QemuOptions, Shared, adopt, cut, flatten, freeze, inventory, lifecycle, live, marks, running, short_names,
};
use crate::agent::{self, network::Patience};
use crate::definition::VmDefinition;
use crate::error::Error;
use crate::probe::Prober;
use crate::qmp::Qmp;
use crate::seam::{
    CutRequest, DiskInfo, GuestNic, Hypervisor, LiveRequest, Mark, MarkStatus, PowerState, Result,
    StartOptions, Tracker, View, VmEvent, VmInfo,
};
use async_trait::async_trait;
use standin_model::{DiskName, VmId, VmName};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Starts and stops are few.
const EVENT_QUEUE: usize = 256;
/// How many VMs a list asks at once.
const ASKED_AT_ONCE: usize = 32;
/// Looking at an image takes a processor, not only a disk.
const LOOKERS: usize = 4;

/// The [`Hypervisor`] of QEMU. When it is dropped its VMs go on, and the next one finds them.
#[derive(Debug)]
pub struct QemuDriver {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl QemuDriver {
    /// Reads what is known and attaches to every VM that runs.
    ///
    /// # Errors
    /// When the directories cannot be used. A VM that cannot be attached is logged and looked for again.
    pub async fn open(options: QemuOptions) -> Result<Arc<Self>> {
        let store = Store::open(&options.state_dir, &options.runtime_dir)?;
        let qemu = options.qemu_binary.unwrap_or_else(|| "qemu-system-x86_64".into());
        let (definitions, adoptions) = store.load()?;
        let owned = definitions.into_iter().map(|definition| Vm::new(Origin::Owned, definition));
        let adopted = adoptions.into_iter().map(adopt::vm);
        let mut vms = owned.chain(adopted).map(|vm| (vm.id, Arc::new(vm))).collect();
        short_names::take_over(&store, &vms)?;
        running::take_up(&store, &mut vms)?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            prober: Prober::new(&qemu, store.state_dir(), options.probe_timeout),
            store,
            qemu,
            kvm: options.kvm,
            vms: Mutex::new(vms),
            naming: tokio::sync::Mutex::default(),
            events: broadcast::channel(EVENT_QUEUE).0,
            lookers: Semaphore::new(LOOKERS),
            stop: stop.clone(),
        });
        let mut attaching = JoinSet::new();
        let known: Vec<Arc<Vm>> = shared.vms().values().cloned().collect();
        for vm in known {
            attaching.spawn(attach(Arc::clone(&shared), vm));
        }
        while attaching.join_next().await.is_some() {}
        find_accelerator(&shared);
        Ok(Arc::new(Self { shared, _stop: stop.drop_guard() }))
    }

    /// How VMs that leave the choice open are run on this host. The first call may take as long as the probe.
    pub async fn accelerator(&self) -> crate::seam::Accelerator {
        lifecycle::host_accelerator(&self.shared).await
    }
}

/// Probes ahead of the first start: a failover does not wait for it then.
fn find_accelerator(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let stop = shared.stop.clone();
        let probe = stop.run_until_cancelled(lifecycle::host_accelerator(&shared));
        if let Some(accelerator) = probe.await {
            tracing::info!(?accelerator, "how this host runs its VMs");
        }
    });
}

/// Finds out whether a VM runs, and follows it if it does.
async fn attach(shared: Arc<Shared>, vm: Arc<Vm>) {
    let process = match vm.origin {
        Origin::Owned => match Process::find(&shared.store, vm.id) {
            Some(process) => Some(process),
            None => return,
        },
        Origin::Adopted { .. } => None,
    };
    let socket = shared.qmp_socket(&vm);
    let qmp = match Qmp::connect(&socket, CONNECT_TIMEOUT).await {
        Ok(qmp) => qmp,
        Err(error) => {
            if process.is_some() {
                tracing::error!(vm = %vm.id, %error, "the VM runs and its monitor does not answer");
            }
            return machine::look_for(&shared, &vm, process);
        }
    };
    let accelerator = lifecycle::running_accelerator(&shared, &vm, process).await;
    let events = qmp.events();
    let machine = Arc::new(Machine::new(qmp, process, accelerator));
    if let Err(error) = adopt::recognise(&vm, &machine, &socket).await {
        tracing::warn!(vm = %machine::shown(&vm), %error, "a monitor does not answer as this VM's");
        return machine::look_for(&shared, &vm, process);
    }
    tracing::info!(vm = %machine::shown(&vm), "attached to a running VM");
    machine::adopt_running(&shared, &vm, machine, events);
    freeze::thaw_left_over(&shared.store, vm.id);
}

async fn info(shared: &Shared, vm: &Arc<Vm>, locks: &Arc<Locks>) -> Result<VmInfo> {
    let adopted = matches!(vm.origin, Origin::Adopted { .. });
    let machine = vm.machine();
    let (power, disks) = match &machine {
        Some(machine) => running(vm, machine).await?,
        // Its monitor does not answer, but it is there.
        None if Process::find(&shared.store, vm.id).is_some() => {
            (PowerState::Running, off(shared, vm, locks).await)
        }
        None => (PowerState::Off, off(shared, vm, locks).await),
    };
    let process = machine.as_ref().and_then(|machine| machine.process);
    Ok(VmInfo {
        id: vm.id,
        name: vm.name(),
        power,
        adopted,
        accelerator: machine.as_ref().and_then(|machine| machine.accelerator.clone()),
        disks,
        pid: process.or_else(|| Process::find(&shared.store, vm.id)).map(|process| process.pid),
        definition: vm.definition(),
    })
}

/// The same for a list, which shows every VM: one that ended or hangs in between as it is on disk.
async fn listed(shared: &Shared, vm: &Arc<Vm>, locks: &Arc<Locks>) -> VmInfo {
    match info(shared, vm, locks).await {
        Ok(info) => info,
        Err(error) => {
            tracing::warn!(vm = %vm.id, %error, "the VM cannot be asked");
            VmInfo {
                id: vm.id,
                name: vm.name(),
                power: if vm.machine().is_some() { PowerState::Running } else { PowerState::Off },
                adopted: vm.origin != Origin::Owned,
                accelerator: None,
                disks: off(shared, vm, locks).await,
                pid: None,
                definition: vm.definition(),
            }
        }
    }
}

async fn running(vm: &Arc<Vm>, machine: &Machine) -> Result<(PowerState, Vec<DiskInfo>)> {
    let power = match machine.status().await?.as_str() {
        "running" => PowerState::Running,
        _ => PowerState::Paused,
    };
    let disks = inventory::Inventory::take(vm, machine).await?.disks;
    Ok((power, disks.iter().map(inventory::LiveDisk::info).collect()))
}

/// The disks of a VM that is off: what is wrong with one is said, not raised.
async fn off(shared: &Shared, vm: &Vm, locks: &Arc<Locks>) -> Vec<DiskInfo> {
    if vm.origin != Origin::Owned {
        return Vec::new();
    }
    let mut disks = Vec::new();
    for disk in vm.definition().disks {
        let (size, problem) = match image::look(&disk, &vm.images, locks, &shared.lookers).await {
            Ok(_) if disk.read_only => (0, Some(inventory::READ_ONLY.to_owned())),
            Ok(size) => (size, None),
            Err(Error::DiskProblem { problem, .. }) => (0, Some(problem)),
            Err(error) => (0, Some(error.to_string())),
        };
        disks.push(DiskInfo {
            name: disk.name,
            path: disk.file,
            format: disk.format.as_str().to_owned(),
            size,
            read_only: disk.read_only,
            problem,
        });
    }
    disks
}

#[async_trait]
impl Hypervisor for QemuDriver {
    async fn list(&self) -> Result<Vec<VmInfo>> {
        let known: Vec<Arc<Vm>> = self.shared.vms().values().cloned().collect();
        let locks = Arc::new(Locks::read());
        let mut infos = Vec::with_capacity(known.len());
        let mut asked = JoinSet::new();
        for vm in known {
            if asked.len() >= ASKED_AT_ONCE {
                infos.extend(asked.join_next().await);
            }
            let (shared, locks) = (Arc::clone(&self.shared), Arc::clone(&locks));
            asked.spawn(async move { listed(&shared, &vm, &locks).await });
        }
        while let Some(info) = asked.join_next().await {
            infos.push(info);
        }
        let mut infos: Vec<VmInfo> = infos
            .into_iter()
            .collect::<std::result::Result<_, _>>()
            .map_err(|e| Error::Internal(e.to_string()))?;
        infos.sort_unstable_by_key(|info| info.id);
        Ok(infos)
    }

    async fn names(&self) -> Result<Vec<(VmId, VmName)>> {
        Ok(self.shared.vms().values().map(|vm| (vm.id, vm.name())).collect())
    }

    async fn inspect(&self, vm: VmId) -> Result<VmInfo> {
        let vm = self.shared.vm(vm)?;
        info(&self.shared, &vm, &Arc::new(Locks::read())).await
    }

    async fn define(&self, definition: VmDefinition) -> Result<VmId> {
        lifecycle::define(&self.shared, definition, Replace::Yes).await
    }

    async fn define_new(&self, definition: VmDefinition) -> Result<VmId> {
        lifecycle::define(&self.shared, definition, Replace::No).await
    }

    async fn rename(&self, vm: VmId, name: VmName) -> Result<()> {
        lifecycle::rename(&self.shared, vm, name).await
    }

    async fn undefine(&self, vm: VmId) -> Result<()> {
        lifecycle::undefine(&self.shared, vm).await
    }

    async fn adopt(&self, qmp: PathBuf, name: Option<VmName>) -> Result<VmId> {
        adopt::adopt(&self.shared, qmp, name).await
    }

    async fn start(&self, vm: VmId, options: StartOptions) -> Result<()> {
        lifecycle::start(&self.shared, vm, &options).await
    }

    async fn shutdown(&self, vm: VmId, deadline: Duration) -> Result<()> {
        lifecycle::shutdown(&self.shared, vm, deadline).await
    }

    async fn power_off(&self, vm: VmId) -> Result<()> {
        lifecycle::power_off(&self.shared, vm).await
    }

    async fn pause(&self, vm: VmId) -> Result<()> {
        lifecycle::pause(&self.shared, vm).await
    }

    async fn resume(&self, vm: VmId) -> Result<()> {
        lifecycle::resume(&self.shared, vm).await
    }

    async fn marks(&self, vm: VmId, tracker: &Tracker, disks: &[DiskName]) -> Result<Vec<MarkStatus>> {
        marks::list(&*self.shared.vm(vm)?, tracker, disks).await
    }

    async fn is_marked(&self, vm: VmId) -> Result<bool> {
        marks::any(&*self.shared.vm(vm)?).await
    }

    async fn retain_marks(&self, vm: VmId, tracker: &Tracker, keep: &[Mark]) -> Result<()> {
        marks::retain(&*self.shared.vm(vm)?, tracker, keep).await
    }

    async fn clean(&self, vm: VmId, tracker: &Tracker, scratch_dir: &Path) -> Result<()> {
        let vm = self.shared.vm(vm)?;
        cut::clean(&self.shared, &vm, tracker, scratch_dir).await
    }

    async fn live(&self, vm: VmId, request: LiveRequest) -> Result<Box<dyn View>> {
        let vm = self.shared.vm(vm)?;
        live::open(&self.shared, &vm, request).await
    }

    async fn cut(&self, vm: VmId, request: CutRequest) -> Result<Box<dyn View>> {
        let vm = self.shared.vm(vm)?;
        cut::open(&self.shared, &vm, request).await
    }

    async fn flatten(&self, vm: VmId, disk: &DiskName, bytes_per_s: u64) -> Result<()> {
        let vm = self.shared.vm(vm)?;
        flatten::flatten(&self.shared, &vm, disk, bytes_per_s).await
    }

    async fn configure_network(
        &self,
        vm: VmId,
        cards: &[GuestNic],
        patience: Duration,
    ) -> Result<Vec<String>> {
        let vm = self.shared.vm(vm)?;
        let socket = freeze::agent_socket(&self.shared, &vm, &*vm.require_machine()?).await?;
        agent::network::configure(&socket, cards, Patience::with_agent(patience)).await
    }

    fn events(&self) -> broadcast::Receiver<VmEvent> {
        self.shared.events.subscribe()
    }
}
