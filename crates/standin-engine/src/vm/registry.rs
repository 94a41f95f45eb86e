//! All VMs of a host, by id, and what they share. Tasks are made when a VM is first asked for, and at the start for every
//! VM that has a record.

use super::alarm::AlarmKind;
use super::claims::ClaimFiles;
use super::fencing::Fencing;
use super::reason::Vm;
use super::record::VmRecord;
use super::task::{Request, Task};
use super::witness::{NamedWitness, WitnessRecords};
use crate::engine::hypervisor_refusal;
use crate::inventory::Inventory;
use crate::peers::{Address, ClaimFact, Peers};
use crate::records::Tables;
use crate::spans;
use async_trait::async_trait;
use standin_hypervisor::{Hypervisor, VmEvent};
use standin_model::fence::{Assertion, Fence, OverRunning, Place, Rules, Stance, WhenSilent};
use standin_model::{HostId, Refusal, VmId};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// What becomes of the VM with the lower claim when two hosts meet that both run it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenBothRun {
    /// Its CPUs are stopped; nothing is lost.
    #[default]
    Pause,
    /// It is turned off.
    PowerOff,
    /// It runs on; both hosts are critical.
    Leave,
}

/// How this host decides where the design leaves a choice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// A start while a replica is silent.
    pub when_silent: WhenSilent,
    /// The start of a failover while the primary runs the VM.
    pub over_running: OverRunning,
    /// Two hosts meet that both run it.
    pub both_run: WhenBothRun,
    /// The `host:port` of a third host that answers for a silent one. It counts where both hosts of a VM name it.
    pub witness: Option<String>,
    /// Turns a host off: program and arguments. `{host}` and `{vm}` in them are replaced.
    pub fence_command: Vec<String>,
    /// All of them, except in the proof that each is needed.
    pub rules: Rules,
}

/// How a VM is to be started or resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Start {
    /// What somebody asserts.
    pub asserted: Option<Assertion>,
    /// How long it has waited for other hosts.
    pub waited: Duration,
    /// The VM is paused and goes on.
    pub resume: bool,
    /// Start with the CPUs standing still.
    pub paused: bool,
}

/// How a start ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It runs; with an assertion, nobody confirmed that it may.
    Runs(Option<Assertion>),
    /// It waits for hosts that are silent, for so long at most. Ask again.
    Waits(Duration),
}

/// Stops what sends a VM to another host, and returns when nothing reads its disks any more.
#[async_trait]
pub(crate) trait Senders: Send + Sync {
    /// The VM lives elsewhere, or two hosts claim it: nothing of it is to be sent.
    /// `false` when it did not end in time.
    async fn yield_up(&self, vm: VmId) -> bool;

    /// Somebody decided for the other one of two copies of the VM. Where this host's is a failover, what it wrote becomes a
    /// recovery point, and the failover is reverted.
    async fn give_up(&self, vm: VmId);

    /// Asks a replica of the version before, which has no link, by a session.
    async fn ask_by_session(&self, vm: VmId) -> Place;
}

/// What all VM tasks of a host share.
pub(crate) struct VmContext {
    pub me: HostId,
    pub hypervisor: Arc<dyn Hypervisor>,
    pub inventory: Arc<Inventory>,
    pub tables: Tables,
    pub files: ClaimFiles,
    pub peers: Arc<Peers>,
    pub policy: Policy,
    pub fencing: Arc<dyn Fencing>,
    pub witness: Option<NamedWitness>,
    pub witnessing: WitnessRecords,
    pub senders: OnceLock<Weak<dyn Senders>>,
    pub shutdown: CancellationToken,
    pub tasks: TaskTracker,
}

impl VmContext {
    pub fn senders(&self) -> Option<Arc<dyn Senders>> {
        self.senders.get().and_then(Weak::upgrade)
    }

    /// Its images carry marks of a replication.
    pub async fn is_marked(&self, vm: VmId) -> Result<bool, Refusal> {
        match self.hypervisor.is_marked(vm).await {
            Ok(marked) => Ok(marked),
            Err(standin_hypervisor::Error::UnknownVm(_)) => Ok(false),
            Err(error) => Err(hypervisor_refusal(&error)),
        }
    }

    /// What another host is told of a VM.
    pub fn fact(&self, record: &VmRecord, to: HostId, place: Place) -> ClaimFact {
        let (vm, fence) = (record.vm, &record.fence);
        let ran = record.alarm.as_ref().is_some_and(|alarm| alarm.kind == AlarmKind::BothRanLower);
        let sees_as = fence.hosts.get(&to).map(|known| known.role);
        let (claim, others) = (fence.told_to(to), fence.names_for(to));
        ClaimFact { vm, claim, place, ran, stance: Some(self.stance(Some(record))), sees_as, others }
    }

    /// How this host decides about a VM.
    pub fn stance(&self, record: Option<&VmRecord>) -> Stance {
        let when_silent = record.and_then(|record| record.when_silent);
        let promised =
            |witness: &&NamedWitness| record.is_some_and(|record| record.promised.contains(&witness.address));
        let witness = self.witness.as_ref().filter(promised).and_then(NamedWitness::seen);
        Stance { when_silent: when_silent.unwrap_or(self.policy.when_silent), witness }
    }
}

/// The refusal of a daemon that goes down.
pub(super) fn stopping() -> Refusal {
    Vm::Stopping.into()
}

/// The VMs of this host.
pub struct Vms {
    pub(super) context: Arc<VmContext>,
    handles: Mutex<HashMap<VmId, Handle>>,
}

#[derive(Clone)]
struct Handle {
    inbox: mpsc::Sender<Request>,
    seen: watch::Receiver<Option<VmRecord>>,
}

impl Vms {
    /// Takes up the VMs that have a record.
    pub(crate) fn new(context: VmContext, records: Vec<VmRecord>) -> Arc<Self> {
        let vms = Arc::new(Self { context: Arc::new(context), handles: Mutex::default() });
        for record in records {
            let handle = vms.spawn(record.vm, Some(record.clone()));
            vms.lock().insert(record.vm, handle);
        }
        vms
    }

    fn spawn(&self, vm: VmId, record: Option<VmRecord>) -> Handle {
        let (inbox, requests) = mpsc::channel(64);
        let (publish, seen) = watch::channel(record.clone());
        let task = Task::new(Arc::clone(&self.context), vm, record, publish);
        let span = spans::vm(vm, task.record.as_ref().map(|record| &record.name));
        self.context.tasks.spawn(task.run(requests).instrument(span));
        Handle { inbox, seen }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<VmId, Handle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, vm: VmId) -> Handle {
        self.lock().entry(vm).or_insert_with(|| self.spawn(vm, None)).clone()
    }

    /// Asks the task of a VM, and waits for its answer.
    pub(super) async fn ask<T>(
        &self,
        vm: VmId,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        let handle = self.handle(vm);
        handle.inbox.send(request(answer)).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())
    }

    /// This host.
    #[must_use]
    pub fn me(&self) -> HostId {
        self.context.me
    }

    /// What a host is called, for people.
    pub(super) fn title_of(&self, host: HostId) -> String {
        self.context.peers.name(host).unwrap_or_else(|| format!("host {host}"))
    }

    /// The policy of this host.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.context.policy
    }

    /// What is kept of a VM; `None` for one that never replicated. No I/O.
    #[must_use]
    pub fn record(&self, vm: VmId) -> Option<VmRecord> {
        self.lock().get(&vm).and_then(|handle| handle.seen.borrow().clone())
    }

    /// The fence of a VM. No I/O.
    #[must_use]
    pub fn fence(&self, vm: VmId) -> Option<Fence> {
        self.record(vm).map(|record| record.fence)
    }

    /// How this host decides about a VM. No I/O.
    #[must_use]
    pub fn stance(&self, vm: VmId) -> Stance {
        self.context.stance(self.record(vm).as_ref())
    }

    /// Follows the record of a VM.
    #[must_use]
    pub fn watch(&self, vm: VmId) -> watch::Receiver<Option<VmRecord>> {
        self.handle(vm).seen
    }

    /// Every record. No I/O.
    #[must_use]
    pub fn records(&self) -> Vec<VmRecord> {
        self.lock().values().filter_map(|handle| handle.seen.borrow().clone()).collect()
    }

    /// Who stops sending when a VM goes elsewhere: set once, when the engine is whole.
    pub(crate) fn sends_by(&self, senders: Weak<dyn Senders>) {
        if self.context.senders.set(senders).is_err() {
            tracing::error!("the senders of this host were set twice");
        }
    }

    /// Holds a link with every host that shares a VM, as its task does from then on: a host that comes back with an older
    /// data directory learns by it where its VMs live, although it asks nobody.
    pub(crate) fn keep_links(&self) {
        for (host, known) in self.records().into_iter().flat_map(|record| record.fence.hosts) {
            self.context.peers.keep(Address { host: Some(host), addresses: known.addresses });
        }
    }

    /// Tells a VM's task, and by it the other hosts, when the VM begins or ends to run; and at first how each one is: what
    /// runs here may not be what the records say.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut events = self.context.hypervisor.events();
        for record in self.records() {
            // Asked how the VM is, its task compares that with the claim. Nobody is told: a link that comes up tells.
            drop(self.presence(record.vm).await);
        }
        loop {
            let event = tokio::select! {
                () = self.context.shutdown.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                Ok(VmEvent::Started(vm) | VmEvent::Stopped { vm, .. }) => self.power_changed(vm).await,
                Err(RecvError::Lagged(_)) => {
                    for record in self.records() {
                        self.power_changed(record.vm).await;
                    }
                }
                // The driver is gone only when the daemon goes down.
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn power_changed(&self, vm: VmId) {
        if self.record(vm).is_none() {
            return;
        }
        // A task that has ended went down with the daemon.
        drop(self.send(vm, Request::PowerChanged).await);
    }

    /// Hands the task of a VM something that is not answered.
    pub(super) async fn send(&self, vm: VmId, request: Request) -> Result<(), Refusal> {
        self.handle(vm).inbox.send(request).await.map_err(|_| stopping())
    }

    /// The claim of a replica is kept beside its disks, too, from now on: in its directory. What a copy there says counts.
    /// Called whenever a replica is made or found.
    pub(crate) async fn keeps_beside(&self, vm: VmId, directory: PathBuf) {
        let files = self.context.files.clone();
        files.beside(vm, directory.clone());
        let found = files.read_beside(vm, directory).await.map(Box::new);
        let joined = self.ask(vm, |answer| Request::Join { found, answer }).await;
        if let Ok(Err(refusal)) | Err(refusal) = joined {
            tracing::error!(%vm, %refusal, "the claim beside a replica could not be taken up");
        }
    }
}
