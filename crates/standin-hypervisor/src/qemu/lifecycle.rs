//! Defining, starting and ending VMs.

use super::cmdline::{self, Host};
use super::image::{self, Image};
use super::machine::{self, Machine, Origin, Vm};
use super::process::{self, Process};
use super::store::{Adoption, Store};
use super::{KvmUse, Shared};
use crate::definition::{AcceleratorChoice, VmDefinition};
use crate::error::Error;
use crate::qmp::Qmp;
use crate::seam::{Accelerator, PowerState, StartOptions};
use serde_json::Value;
use standin_model::{VmId, VmName};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Child;
use tokio::time::Instant;

/// From the start of the process to its greeting. A backing that is served has 20 s of this to appear.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// From `quit` to the end of the process: caches and bitmaps are written.
const QUIT_TIMEOUT: Duration = Duration::from_secs(60);
/// From SIGKILL to the end of the process.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// A guest that is still booting misses the power button; it is pressed again this often.
const PRESS_AGAIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// Whether a definition may take the place of one that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replace {
    Yes,
    No,
}

/// Makes a VM known, or replaces the definition of one that is off.
pub(crate) async fn define(
    shared: &Arc<Shared>,
    definition: VmDefinition,
    replace: Replace,
) -> Result<VmId, Error> {
    definition.validate()?;
    only_absolute_paths(&definition)?;
    let id = definition.uuid;
    let vm = match (shared.vm(id).ok(), replace) {
        (None, _) => Arc::new(Vm::new(Origin::Owned, definition.clone())),
        (Some(_), Replace::No) => return Err(Error::VmExists(id)),
        (Some(vm), Replace::Yes) => {
            vm.require_owned("redefine")?;
            vm
        }
    };
    let _busy = vm.lifecycle.lock().await;
    // After that one: a VM may take a minute to start, and others are not to wait for it.
    let _naming = shared.naming.lock().await;
    free_name(shared, id, &definition.name)?;
    if shared.vm(id).is_ok_and(|known| !Arc::ptr_eq(&known, &vm)) {
        return Err(Error::VmExists(id));
    }
    if running(shared, &vm) {
        return Err(Error::AlreadyRunning(id));
    }
    save(shared, &definition).await?;
    vm.redefine(definition);
    shared.vms().insert(id, Arc::clone(&vm));
    Ok(id)
}

/// Refuses a name that another VM has.
pub(crate) fn free_name(shared: &Shared, id: VmId, name: &VmName) -> Result<(), Error> {
    match shared.vms().values().find(|vm| vm.id != id && vm.name() == *name) {
        Some(other) => Err(Error::AlreadyDefined { name: name.clone(), owner: other.id }),
        None => Ok(()),
    }
}

/// Gives a VM another name, running or off.
pub(crate) async fn rename(shared: &Arc<Shared>, id: VmId, name: VmName) -> Result<(), Error> {
    let vm = shared.vm(id)?;
    let _busy = vm.lifecycle.lock().await;
    let _naming = shared.naming.lock().await;
    free_name(shared, id, &name)?;
    let definition = VmDefinition { name, ..vm.definition() };
    match &vm.origin {
        Origin::Owned => save(shared, &definition).await?,
        Origin::Adopted { qmp } => {
            let adoption = Adoption { uuid: id, name: definition.name.clone(), qmp: qmp.clone() };
            stored(shared, move |store| store.save_adoption(&adoption)).await?;
        }
    }
    vm.rename(definition.name);
    Ok(())
}

/// Keeps a definition on disk, and beside the process of a VM that runs.
pub(crate) async fn save(shared: &Arc<Shared>, definition: &VmDefinition) -> Result<(), Error> {
    let definition = definition.clone();
    stored(shared, move |store| {
        store.save_definition(&definition)?;
        if Process::find(store, definition.uuid).is_some() { store.save_running(&definition) } else { Ok(()) }
    })
    .await
}

/// Writes off the runtime's threads: it waits for the disk.
async fn stored(
    shared: &Arc<Shared>,
    write: impl FnOnce(&Store) -> Result<(), Error> + Send + 'static,
) -> Result<(), Error> {
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || write(&shared.store))
        .await
        .map_err(|error| Error::Internal(error.to_string()))?
}

fn only_absolute_paths(definition: &VmDefinition) -> Result<(), Error> {
    let mut resolved = definition.clone();
    resolved.resolve(Path::new("/"));
    if resolved == *definition {
        return Ok(());
    }
    Err(Error::Definition("it has relative paths; resolve them against the directory of its file".to_owned()))
}

/// Forgets a VM that is off, or an adopted one.
pub(crate) async fn undefine(shared: &Arc<Shared>, id: VmId) -> Result<(), Error> {
    let vm = shared.vm(id)?;
    let _busy = vm.lifecycle.lock().await;
    if vm.origin == Origin::Owned && running(shared, &vm) {
        return Err(Error::AlreadyRunning(id));
    }
    shared.store.remove(id)?;
    shared.vms().remove(&id);
    vm.forget();
    Ok(())
}

fn running(shared: &Shared, vm: &Vm) -> bool {
    vm.machine().is_some() || Process::find(&shared.store, vm.id).is_some()
}

/// Starts a VM that is off.
pub(crate) async fn start(shared: &Arc<Shared>, id: VmId, options: &StartOptions) -> Result<(), Error> {
    let vm = shared.vm(id)?;
    vm.require_owned("start")?;
    let _busy = vm.lifecycle.lock().await;
    if running(shared, &vm) {
        return Err(Error::AlreadyRunning(id));
    }
    let definition = vm.definition();
    let images = preflight(&definition).await?;
    let accelerator = choose_accelerator(shared, &definition).await?;
    let host = Host {
        qmp: shared.store.qmp_socket(id),
        agent: shared.store.agent_socket(id),
        pid_file: shared.store.pid_file(id),
        accelerator: if accelerator == Accelerator::Kvm { "kvm" } else { "tcg" },
    };
    for stale in [&host.qmp, &host.agent, &host.pid_file, &shared.store.nbd_socket(id)] {
        remove_stale(stale)?;
    }
    let arguments = cmdline::arguments(&definition, &images, &host);
    // Before there is a process: one without it would be lost with the state directory.
    stored(shared, move |store| store.save_running(&definition)).await?;
    tracing::info!(vm = %machine::shown(&vm), accelerator = host.accelerator, "starting the VM");
    let log = shared.store.log_file(id);
    let (mut child, said_from) = process::spawn(&shared.qemu, &arguments, &log)?;
    let attached = async {
        let (qmp, process) = greet(shared, id, &host, &mut child, (&log, said_from)).await?;
        let events = qmp.events();
        if !options.paused {
            qmp.execute("cont", Value::Null).await?;
        }
        Ok((Machine::new(qmp, Some(process), Some(accelerator)), events))
    };
    let (machine, events) = match attached.await {
        Ok(attached) => attached,
        Err(error) => {
            // Nobody has seen it run yet.
            if let Err(alive) = child.kill().await {
                tracing::warn!(vm = %machine::shown(&vm), error = %alive, "a QEMU that did not start could not be ended");
            }
            return Err(error);
        }
    };
    // Somebody has to wait for it, or it stays as a zombie when it ends.
    tokio::spawn(async move { child.wait().await });
    machine::adopt_running(shared, &vm, Arc::new(machine), events);
    Ok(())
}

fn remove_stale(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Everything a start needs is there. The facts of the disks, in order.
async fn preflight(definition: &VmDefinition) -> Result<Vec<Image>, Error> {
    for (role, path) in definition.carried_files() {
        let readable = fs::File::open(path).map(|_| ());
        readable.map_err(Error::io(format!(
            "open the {role} {} of VM {}",
            path.display(),
            definition.name
        )))?;
    }
    let mut images = Vec::with_capacity(definition.disks.len());
    for disk in &definition.disks {
        images.push(image::examine(disk, !disk.read_only).await?);
    }
    Ok(images)
}

async fn greet(
    shared: &Shared,
    id: VmId,
    host: &Host,
    child: &mut Child,
    (log, said_from): (&Path, u64),
) -> Result<(Qmp, Process), Error> {
    let failed = |detail: String| Error::StartFailed { vm: id, detail };
    let until = Instant::now() + START_TIMEOUT;
    loop {
        if let Some(status) = child.try_wait().map_err(Error::io("wait for QEMU"))? {
            let said = process::log_since(log, said_from);
            return Err(failed(format!("QEMU ended with {status}: {said}")));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let said = process::log_since(log, said_from);
            return Err(failed(format!("QEMU did not answer within {START_TIMEOUT:?}: {said}")));
        }
        let connected = if host.qmp.exists() { Qmp::connect(&host.qmp, left).await.ok() } else { None };
        match (connected, Process::find(&shared.store, id)) {
            (Some(qmp), Some(process)) => return Ok((qmp, process)),
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

async fn choose_accelerator(shared: &Shared, definition: &VmDefinition) -> Result<Accelerator, Error> {
    match definition.accelerator {
        AcceleratorChoice::Auto => Ok(host_accelerator(shared).await),
        AcceleratorChoice::Tcg => Ok(tcg("the VM's definition asks for emulation")),
        AcceleratorChoice::Kvm => match host_accelerator(shared).await {
            Accelerator::Kvm => Ok(Accelerator::Kvm),
            Accelerator::Tcg { reason } => Err(Error::Unsupported {
                feature: "KVM, which the VM's definition asks for,".into(),
                detail: reason,
            }),
        },
    }
}

fn tcg(reason: &str) -> Accelerator {
    Accelerator::Tcg { reason: reason.to_owned() }
}

/// How VMs that leave the choice open are run here.
pub(crate) async fn host_accelerator(shared: &Shared) -> Accelerator {
    match shared.kvm {
        KvmUse::Auto => shared.prober.accelerator().await,
        KvmUse::Never => tcg("KVM is switched off in the configuration"),
        KvmUse::Always => Accelerator::Kvm,
    }
}

/// How a VM that was found running is run.
pub(crate) async fn running_accelerator(
    shared: &Shared,
    vm: &Vm,
    process: Option<Process>,
) -> Option<Accelerator> {
    let line = fs::read(format!("/proc/{}/cmdline", process?.pid)).ok()?;
    let mut arguments = line.split(|byte| *byte == 0);
    arguments.find(|argument| *argument == b"-accel")?;
    if arguments.next()? == b"kvm" {
        return Some(Accelerator::Kvm);
    }
    Some(match choose_accelerator(shared, &vm.definition()).await {
        Ok(Accelerator::Tcg { reason }) | Err(Error::Unsupported { detail: reason, .. }) => {
            Accelerator::Tcg { reason }
        }
        _ => tcg("KVM was not usable when the VM was started"),
    })
}

/// Asks the guest to shut down.
pub(crate) async fn shutdown(shared: &Arc<Shared>, id: VmId, deadline: Duration) -> Result<(), Error> {
    let vm = shared.vm(id)?;
    vm.require_owned("shut down")?;
    // Without the lock: whoever loses patience can power it off meanwhile.
    let machine = vm.require_machine()?;
    let until = Instant::now() + deadline;
    loop {
        if let Err(error) = machine.qmp.execute("system_powerdown", Value::Null).await {
            // It may be ending at this very moment.
            if vm.stopped(until.saturating_duration_since(Instant::now())).await {
                return Ok(());
            }
            return Err(error);
        }
        let left = until.saturating_duration_since(Instant::now());
        if vm.stopped(left.min(PRESS_AGAIN)).await {
            return Ok(());
        }
        if until <= Instant::now() {
            return Err(Error::Timeout {
                what: format!("the shutdown of VM {}", machine::shown(&vm)),
                after: deadline,
            });
        }
    }
}

/// Ends the VM at once, with its images closed in order if QEMU still can.
pub(crate) async fn power_off(shared: &Arc<Shared>, id: VmId) -> Result<(), Error> {
    let vm = shared.vm(id)?;
    vm.require_owned("power off")?;
    let _busy = vm.lifecycle.lock().await;
    let Some(machine) = vm.machine() else { return kill_unreachable(shared, &vm).await };
    machine.set_closes_in_order(true);
    // The answer is lost when QEMU is quick.
    let asked = machine.qmp.execute("quit", Value::Null).await;
    if vm.stopped(QUIT_TIMEOUT).await {
        return Ok(());
    }
    tracing::warn!(vm = %machine::shown(&vm), ?asked, "QEMU does not end; killing it");
    machine.set_closes_in_order(false);
    if let Some(process) = machine.process {
        process.kill()?;
    }
    if vm.stopped(KILL_TIMEOUT).await {
        return Ok(());
    }
    Err(Error::Timeout { what: format!("the end of VM {}", machine::shown(&vm)), after: QUIT_TIMEOUT })
}

/// A VM whose monitor never answered can only be killed.
async fn kill_unreachable(shared: &Shared, vm: &Vm) -> Result<(), Error> {
    let Some(process) = Process::find(&shared.store, vm.id) else { return Err(Error::NotRunning(vm.id)) };
    process.kill()?;
    if process.ended(KILL_TIMEOUT).await {
        return Ok(());
    }
    Err(Error::Timeout { what: format!("the end of VM {}", machine::shown(vm)), after: KILL_TIMEOUT })
}

/// Stops the CPUs.
pub(crate) async fn pause(shared: &Arc<Shared>, id: VmId) -> Result<(), Error> {
    set_power(shared, id, "pause", "stop", PowerState::Paused).await
}

/// Runs the CPUs.
pub(crate) async fn resume(shared: &Arc<Shared>, id: VmId) -> Result<(), Error> {
    set_power(shared, id, "resume", "cont", PowerState::Running).await
}

async fn set_power(
    shared: &Arc<Shared>,
    id: VmId,
    operation: &'static str,
    command: &'static str,
    wanted: PowerState,
) -> Result<(), Error> {
    let vm = shared.vm(id)?;
    vm.require_owned(operation)?;
    let _busy = vm.lifecycle.lock().await;
    let machine = vm.require_machine()?;
    machine.qmp.execute(command, Value::Null).await?;
    let runs = machine.status().await? == "running";
    if runs == (wanted == PowerState::Running) {
        return Ok(());
    }
    Err(Error::Internal(format!("VM {} is not {wanted:?} after {command}", machine::shown(&vm))))
}
