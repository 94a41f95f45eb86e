//! A VM as the driver knows it, and the QEMU that runs it.
//!
//! One task per running VM ([`supervise`]) follows the monitor's events and finds out how the process ended.
//!
//! ```text
//! attach ──► running ──(monitor closes)──► process gone? ── yes ──► Stopped{clean} ──► owned: the task ends
//!               ▲                              │ no                                    adopted: wait for the
//!               └───────── reconnect ◄─────────┘                                       socket to answer again
//! ```

use super::Shared;
use super::features::Features;
use super::names;
use super::process::Process;
use crate::definition::VmDefinition;
use crate::error::Error;
use crate::qmp::{Event, Qmp, json};
use crate::seam::{Accelerator, Tracker, VmEvent};
use serde_json::Value;
use standin_model::{VmId, VmName};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OnceCell, broadcast, watch};
use tokio_util::sync::CancellationToken;

/// A QEMU that runs greets at once, unless its disks drain.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a monitor that is away is looked for.
const RECONNECT: Duration = Duration::from_secs(1);
/// The monitor closes some time before the process ends: images are flushed in between.
const LAST_WRITES: Duration = Duration::from_secs(30);

/// Who runs a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// standin, from a definition.
    Owned,
    /// Somebody else.
    Adopted {
        /// Its monitor.
        qmp: PathBuf,
    },
}

/// A VM that is known.
#[derive(Debug)]
pub(crate) struct Vm {
    /// Identity.
    pub id: VmId,
    /// Who runs it.
    pub origin: Origin,
    definition: Mutex<VmDefinition>,
    running: watch::Sender<Option<Arc<Machine>>>,
    /// Held while it is started or stopped.
    pub lifecycle: tokio::sync::Mutex<()>,
    views: Mutex<HashSet<Tracker>>,
    /// Nobody follows it any more: it is not known from here on.
    forgotten: CancellationToken,
    /// What is known of its images while it is off.
    pub images: super::image::Memory,
}

impl Vm {
    /// A VM that does not run as far as is known.
    pub fn new(origin: Origin, definition: VmDefinition) -> Self {
        Self {
            id: definition.uuid,
            origin,
            definition: Mutex::new(definition),
            running: watch::Sender::new(None),
            lifecycle: tokio::sync::Mutex::default(),
            views: Mutex::default(),
            forgotten: CancellationToken::new(),
            images: super::image::Memory::default(),
        }
    }

    fn locked(&self) -> MutexGuard<'_, VmDefinition> {
        self.definition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its definition now.
    pub fn definition(&self) -> VmDefinition {
        self.locked().clone()
    }

    /// Its name.
    pub fn name(&self) -> VmName {
        self.locked().name.clone()
    }

    /// Replaces its definition.
    pub fn redefine(&self, definition: VmDefinition) {
        *self.locked() = definition;
        self.images.clear();
    }

    /// Gives it another name; what is known of its images stays.
    pub fn rename(&self, name: VmName) {
        self.locked().name = name;
    }

    /// The QEMU that runs it.
    pub fn machine(&self) -> Option<Arc<Machine>> {
        self.running.borrow().clone()
    }

    /// The QEMU that runs it, or [`Error::NotRunning`].
    pub fn require_machine(&self) -> Result<Arc<Machine>, Error> {
        self.machine().ok_or(Error::NotRunning(self.id))
    }

    /// Lets go of its QEMU, which may run on: a monitor serves one client, and somebody else may want it.
    pub fn forget(&self) {
        self.forgotten.cancel();
        self.running.send_replace(None);
    }

    /// Waits until it is off; `false` at the deadline.
    pub async fn stopped(&self, deadline: Duration) -> bool {
        let mut running = self.running.subscribe();
        let off = running.wait_for(Option::is_none);
        matches!(tokio::time::timeout(deadline, off).await, Ok(Ok(_)))
    }

    /// Refuses an adopted VM.
    pub fn require_owned(&self, operation: &'static str) -> Result<(), Error> {
        match self.origin {
            Origin::Owned => Ok(()),
            Origin::Adopted { .. } => Err(Error::Adopted { vm: self.id, operation }),
        }
    }

    /// Notes that a tracker has a view open, until the guard is dropped.
    pub fn open_view(self: &Arc<Self>, tracker: &Tracker) -> Result<ViewGuard, Error> {
        let mut open = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        if !open.insert(tracker.clone()) {
            return Err(Error::Internal(format!("VM {} has an open view of {} already", self.id, tracker.0)));
        }
        Ok(ViewGuard { vm: Arc::clone(self), tracker: tracker.clone() })
    }
}

/// A tracker's only open view of a VM.
#[derive(Debug)]
pub(crate) struct ViewGuard {
    vm: Arc<Vm>,
    tracker: Tracker,
}

impl Drop for ViewGuard {
    fn drop(&mut self) {
        let mut open = self.vm.views.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&self.tracker);
    }
}

/// A QEMU that runs, and the connection to its monitor.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The monitor.
    pub qmp: Qmp,
    /// The process, where it is known.
    pub process: Option<Process>,
    /// How its CPUs run, where it is known.
    pub accelerator: Option<Accelerator>,
    /// What it can do, asked once.
    features: OnceCell<Features>,
    /// Held while its NBD server is started.
    pub nbd: tokio::sync::Mutex<()>,
    closes_in_order: AtomicBool,
}

impl Machine {
    /// A machine behind an open monitor.
    pub fn new(qmp: Qmp, process: Option<Process>, accelerator: Option<Accelerator>) -> Self {
        Self {
            qmp,
            process,
            accelerator,
            features: OnceCell::new(),
            nbd: tokio::sync::Mutex::default(),
            closes_in_order: AtomicBool::new(false),
        }
    }

    /// What this QEMU can do.
    pub async fn features(&self) -> Result<&Features, Error> {
        self.features.get_or_try_init(|| Features::probe(&self.qmp)).await
    }

    /// Whether its end is one in which the images are closed.
    pub fn set_closes_in_order(&self, in_order: bool) {
        self.closes_in_order.store(in_order, Ordering::Release);
    }

    fn closed_in_order(&self) -> bool {
        self.closes_in_order.load(Ordering::Acquire)
    }

    /// `query-status`: `running`, `paused`, `io-error`, ...
    pub async fn status(&self) -> Result<String, Error> {
        let answer = self.qmp.execute("query-status", Value::Null).await?;
        Ok(json::text(&answer, "status").to_owned())
    }
}

/// Makes a machine known as running and follows it, in a task, to its end.
pub(crate) fn adopt_running(
    shared: &Arc<Shared>,
    vm: &Arc<Vm>,
    machine: Arc<Machine>,
    events: broadcast::Receiver<Event>,
) {
    vm.running.send_replace(Some(Arc::clone(&machine)));
    shared.tell(VmEvent::Started(vm.id));
    let (shared, vm) = (Arc::clone(shared), Arc::clone(vm));
    tokio::spawn(async move {
        let (stop, forgotten) = (shared.stop.clone(), vm.forgotten.clone());
        // The driver goes, or forgets it; the VM stays.
        let followed = supervise(shared, vm, machine, events);
        stop.run_until_cancelled(forgotten.run_until_cancelled(followed)).await;
    });
}

/// Looks for the monitor of a VM, in a task, until it answers: of an adopted VM for ever, of an owned one as long
/// as its process lives.
pub(crate) fn look_for(shared: &Arc<Shared>, vm: &Arc<Vm>, process: Option<Process>) {
    let (shared, vm) = (Arc::clone(shared), Arc::clone(vm));
    tokio::spawn(async move {
        let stop = shared.stop.clone();
        stop.run_until_cancelled(reappear(shared, vm, process)).await;
    });
}

async fn supervise(
    shared: Arc<Shared>,
    vm: Arc<Vm>,
    mut machine: Arc<Machine>,
    mut events: broadcast::Receiver<Event>,
) {
    loop {
        follow(&machine, &mut events).await;
        match survivor(&shared, &vm, &machine).await {
            Some((next, next_events)) => {
                machine = next;
                events = next_events;
                vm.running.send_replace(Some(Arc::clone(&machine)));
            }
            None => break,
        }
    }
    let clean = machine.closed_in_order();
    tracing::info!(vm = %vm.id, clean, "the VM's process has ended");
    vm.running.send_replace(None);
    shared.tell(VmEvent::Stopped { vm: vm.id, clean });
    if matches!(vm.origin, Origin::Adopted { .. }) && shared.knows(&vm) {
        look_for(&shared, &vm, None);
    }
}

/// Follows the events until the monitor closes.
async fn follow(machine: &Machine, events: &mut broadcast::Receiver<Event>) {
    let closed = machine.qmp.closed();
    loop {
        let event = tokio::select! {
            biased;
            // Those that came before the end are still read: one of them tells how it ended.
            event = events.recv() => event,
            () = closed.cancelled() => return,
        };
        match event {
            Ok(event) if event.name == "SHUTDOWN" => machine.set_closes_in_order(true),
            // With -no-shutdown a guest that was shut down can run again after a reset.
            Ok(event) if matches!(event.name.as_str(), "RESET" | "RESUME") => {
                machine.set_closes_in_order(false);
            }
            // The events that fell out are old ones.
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// After the monitor closed: a new connection if the same process lives on, `None` if it is gone.
async fn survivor(
    shared: &Shared,
    vm: &Vm,
    machine: &Machine,
) -> Option<(Arc<Machine>, broadcast::Receiver<Event>)> {
    let socket = shared.qmp_socket(vm);
    if let Some(process) = machine.process {
        if process.ended(Duration::from_millis(500)).await {
            return None;
        }
        let mut grace = LAST_WRITES;
        while process.alive() {
            match Qmp::connect(&socket, CONNECT_TIMEOUT).await {
                Ok(qmp) => {
                    let events = qmp.events();
                    let next = Machine::new(qmp, machine.process, machine.accelerator.clone());
                    return Some((Arc::new(next), events));
                }
                Err(error) if grace.is_zero() => {
                    tracing::error!(vm = %vm.id, %error, "QEMU runs and its monitor does not answer");
                    grace = LAST_WRITES;
                }
                Err(_) => grace = grace.saturating_sub(RECONNECT),
            }
            process.ended(RECONNECT).await;
        }
    }
    None
}

/// Waits until the monitor answers as that VM.
async fn reappear(shared: Arc<Shared>, vm: Arc<Vm>, process: Option<Process>) {
    let socket = shared.qmp_socket(&vm);
    while shared.knows(&vm) && process.is_none_or(Process::alive) {
        tokio::time::sleep(RECONNECT).await;
        let Ok(qmp) = Qmp::connect(&socket, CONNECT_TIMEOUT).await else { continue };
        let events = qmp.events();
        let machine = Arc::new(Machine::new(qmp, process, None));
        match super::adopt::recognise(&vm, &machine, &socket).await {
            Ok(()) => {
                adopt_running(&shared, &vm, machine, events);
                return;
            }
            Err(error) => {
                tracing::warn!(vm = %shown(&vm), %error, "a monitor does not answer as this VM's");
            }
        }
        drop(machine);
        tokio::time::sleep(RECONNECT * 10).await;
    }
}

/// A short text for logs: name and id.
pub(crate) fn shown(vm: &Vm) -> String {
    format!("{} ({})", vm.name(), names::short(vm.id))
}
