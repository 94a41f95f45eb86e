//! Methods of `Msvm_ComputerSystem`: starting and stopping VMs, and the state of their replication.

use super::call::{Call, machine_of};
use super::reason::{Argument, Method};
use super::statistics::own_relationship;
use super::{Answer, Done, Tools, not_here};
use crate::world::Machine;
use standin_engine::Engine;
use standin_engine::jobs::NewJob;
use standin_hypervisor::PowerState;
use standin_model::{JobId, JobType, Refusal, ReplicationState, VmId, VmName};
use std::sync::Arc;
use std::time::Duration;

/// How long a guest may take to shut down.
const SHUT_DOWN: Duration = Duration::from_secs(120);

/// Calls a method of a VM. The host's own instance has none that can be called.
pub async fn computer_system(tools: &Tools, call: &Call) -> Answer {
    let machine = machine_of(tools, &call.target)?;
    match call.method.as_str() {
        "RequestStateChange" => {
            let state = call
                .number("RequestedState")
                .ok_or_else(|| Argument::Missing { parameter: "RequestedState".to_owned() })?;
            change_power(tools, &machine, state).await
        }
        "RequestReplicationStateChange" | "RequestReplicationStateChangeEx" => {
            own_relationship(call, &machine)?;
            let state = call
                .number("RequestedState")
                .ok_or_else(|| Argument::Missing { parameter: "RequestedState".to_owned() })?;
            change_replication(tools, &machine, state).await
        }
        method => Err(not_here("Msvm_ComputerSystem", method)),
    }
}

/// `RequestReplicationStateChange`.
async fn change_replication(tools: &Tools, machine: &Machine, state: u16) -> Answer {
    let engine = &tools.engine;
    match state {
        1 => engine.cancel_initial(machine.id).await.map(|()| Done::default()),
        3 => engine.resume(machine.id).await.map(Done::job),
        7 => engine.suspend(machine.id).await.map(|()| Done::default()),
        9 => engine.cancel_resynchronization(machine.id).await.map(|()| Done::default()),
        2 | 4 => Err(Method::Planned.into()),
        other => Err(Argument::NotRequestable { state: other }.into()),
    }
}

/// What can be asked of a VM's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Start,
    PowerOff,
    ShutDown,
    Pause,
    Resume,
}

/// `RequestStateChange`: checked at once, done by a job.
async fn change_power(tools: &Tools, machine: &Machine, state: u16) -> Answer {
    let change = match (state, machine.power()) {
        (2, PowerState::Off) => Change::Start,
        (2, PowerState::Paused) => Change::Resume,
        (3, PowerState::Running | PowerState::Paused) => Change::PowerOff,
        (4, PowerState::Running) => Change::ShutDown,
        (9 | 32776, PowerState::Running) => Change::Pause,
        (2 | 3 | 4 | 9 | 32776, power) => return Err(wrong_state(machine, power)),
        (6 | 7 | 8 | 10 | 11 | 32768..=65535, _) => {
            return Err(Method::PowerState { state }.into());
        }
        _ => return Err(Argument::NotOneOf { value: state, kind: "state", choices: "2, 3, 4 or 9" }.into()),
    };
    if change == Change::Start {
        may_start(machine)?;
    }
    begin(tools, machine, change).await
}

/// What replication says of a start; the engine asks the other host too before it starts anything.
fn may_start(machine: &Machine) -> Result<(), Refusal> {
    let Some(found) = &machine.relationship else { return Ok(()) };
    let state = found.status.state;
    if machine.is_replica() && !matches!(state, ReplicationState::Recovered | ReplicationState::Committed) {
        return Err(Method::Replica { vm: machine.name.clone(), state }.into());
    }
    if found.fenced {
        return Err(Method::FailedOver { vm: machine.name.clone() }.into());
    }
    Ok(())
}

fn wrong_state(machine: &Machine, power: PowerState) -> Refusal {
    let is = match power {
        PowerState::Off => "off",
        PowerState::Running => "running",
        PowerState::Paused => "paused",
    };
    Method::Power { vm: machine.name.clone(), is }.into()
}

async fn begin(tools: &Tools, machine: &Machine, change: Change) -> Answer {
    let (job_type, verb) = match change {
        Change::Start => (JobType::StartVm, "Start"),
        Change::PowerOff => (JobType::PowerOffVm, "Power off"),
        Change::ShutDown => (JobType::ShutDownVm, "Shut down"),
        Change::Pause => (JobType::PauseVm, "Pause"),
        Change::Resume => (JobType::ResumeVm, "Resume"),
    };
    let name = VmName::new(&machine.name).map_err(|error| Argument::OwnName { error: error.to_string() })?;
    let new = NewJob {
        job_type,
        vm: Some((machine.id, name)),
        description: format!("{verb} VM {}", machine.name),
        cancellable: false,
    };
    let job = tools.engine.jobs().begin(new).await?;
    let (id, engine, vm) = (job.id(), Arc::clone(&tools.engine), machine.id);
    tokio::spawn(async move {
        let result = perform(&engine, vm, change).await;
        engine.vm_changed(vm).await;
        job.finish(result).await;
    });
    Ok(Done::job(Some(id)))
}

async fn perform(engine: &Arc<Engine>, vm: VmId, change: Change) -> Result<(), Refusal> {
    let vms = engine.vm_tasks();
    match change {
        Change::Start | Change::Resume => match engine.start_vm(vm, None).await? {
            Some(job) => ended(engine, job).await,
            None => Ok(()),
        },
        Change::PowerOff => vms.power_off(vm).await,
        Change::ShutDown => vms.shutdown(vm, SHUT_DOWN).await,
        Change::Pause => vms.pause(vm).await,
    }
}

/// Waits for the start that waits for another host.
async fn ended(engine: &Engine, job: JobId) -> Result<(), Refusal> {
    let Some(mut seen) = engine.jobs().watch(job) else { return Ok(()) };
    // The sender goes with the job, which is kept for a while after its end.
    let Ok(record) = seen.wait_for(|record| record.state.is_final()).await else { return Ok(()) };
    match &record.error {
        Some(error) => Err(error.clone()),
        None => Ok(()),
    }
}
