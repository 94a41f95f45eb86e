//! Filling an overlay from its backing until it stands alone, while the guest runs.

use super::Shared;
use super::inventory::Inventory;
use super::lifecycle;
use super::machine::{Machine, Vm};
use super::names;
use crate::error::Error;
use crate::qmp::{Event, json};
use serde_json::{Value, json as value};
use standin_model::DiskName;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;

/// Events tell of the end; this is for one that was missed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Flattens. A job of an earlier process of the daemon is waited for, not started again. A future that is
/// dropped leaves the job running.
pub(crate) async fn flatten(
    shared: &Arc<Shared>,
    vm: &Arc<Vm>,
    disk: &DiskName,
    bytes_per_s: u64,
) -> Result<(), Error> {
    let machine = vm.require_machine()?;
    let inventory = Inventory::take(vm, &machine).await?;
    let found = inventory.disks.iter().find(|live| live.name == *disk);
    let live = found.ok_or_else(|| Error::UnknownDisk { vm: vm.id, disk: disk.clone() })?;
    let job = format!("standin.flatten.{}", names::disk_node(disk));
    let mut events = machine.qmp.events();
    if status(&machine, &job).await?.is_none() {
        let arguments = value!({
            "job-id": job, "device": live.node, "speed": bytes_per_s, "auto-dismiss": false,
        });
        machine.qmp.execute("block-stream", arguments).await?;
    } else {
        machine.qmp.execute("block-job-set-speed", value!({ "device": job, "speed": bytes_per_s })).await?;
    }
    let error = concluded(&machine, &job, &mut events).await?;
    machine.qmp.execute("job-dismiss", value!({ "id": job })).await?;
    if let Some(problem) = error {
        return Err(Error::DiskProblem {
            disk: disk.clone(),
            problem: format!("filling it failed: {problem}"),
        });
    }
    forget_backing(shared, vm, disk).await?;
    close_backing(&machine, disk).await
}

/// Ends the connection to the server of the backing, if it was served.
async fn close_backing(machine: &Machine, disk: &DiskName) -> Result<(), Error> {
    match machine.qmp.execute("blockdev-del", value!({ "node-name": names::backing_node(disk) })).await {
        Err(Error::Qmp { desc, .. }) if desc.contains("Failed to find") => Ok(()),
        other => other.map(|_| ()),
    }
}

async fn status(machine: &Machine, job: &str) -> Result<Option<Value>, Error> {
    let jobs = machine.qmp.execute("query-jobs", Value::Null).await?;
    Ok(json::items(&jobs).iter().find(|found| json::text(found, "id") == job).cloned())
}

/// Waits for the end of the job; the error it ended with.
async fn concluded(
    machine: &Machine,
    job: &str,
    events: &mut broadcast::Receiver<Event>,
) -> Result<Option<String>, Error> {
    loop {
        let Some(found) = status(machine, job).await? else {
            return Err(Error::Internal(format!("the job {job} was dismissed by somebody else")));
        };
        if json::text(&found, "status") == "concluded" {
            return Ok(found.get("error").and_then(Value::as_str).map(str::to_owned));
        }
        let ended = async {
            while let Ok(event) = events.recv().await {
                if event.name == "JOB_STATUS_CHANGE" && json::text(&event.data, "id") == job {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(LOOK_AGAIN, ended).await;
    }
}

/// The next start must not look for a backing that nobody serves any more.
///
/// The disks of a VM are filled at the same time, and each changes the one definition: only one may between its
/// reading and its keeping. A VM that was removed meanwhile must not come back by its file.
async fn forget_backing(shared: &Arc<Shared>, vm: &Arc<Vm>, disk: &DiskName) -> Result<(), Error> {
    let _alone = vm.lifecycle.lock().await;
    if !shared.vm(vm.id).is_ok_and(|known| Arc::ptr_eq(&known, vm)) {
        return Ok(());
    }
    let mut definition = vm.definition();
    let mut changed = false;
    for described in definition.disks.iter_mut().filter(|described| described.name == *disk) {
        changed |= described.backing.take().is_some();
    }
    if !changed {
        return Ok(());
    }
    lifecycle::save(shared, &definition).await?;
    vm.redefine(definition);
    Ok(())
}
