//! Failover on the replica: to a point, back, or for good.
//!
//! ```text
//!  3, 7, 8 --InitiateFailover--> 12 --overlay made, VM defined--> 5 --commit--> 6
//!      ^                          |                               |
//!      +-------- failed ----------+           revert -------------+
//! ```
//!
//! The overlay makes it instant: nothing is copied at any size and any number of points. The VM is started only
//! when that was asked for too.

use super::admission::file_path;
use super::layer::{blocking, refusal_of};
use super::network;
use super::vm::{Locked, ReplicaVm};
use crate::engine::{hypervisor_code, inspect_refusal};
use crate::jobs::{JobHandle, NewJob};
use crate::messages::ConfigFileInfo;
use crate::records::FailoverRecord;
use standin_hypervisor::{DiskFormat, PowerState, StartOptions, VmDefinition};
use standin_model::job::JobType;
use standin_model::state::{Event, Method, ReplicationState};
use standin_model::{JobId, PointId, RecoveryPoint, Refusal, ReturnCode};
use standin_store::{Backing, Overlay, OverlayRequest, Purpose};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long what a primary is sending may take to be sealed or given up.
const SESSION_PATIENCE: Duration = Duration::from_secs(120);

fn failed(context: &str, error: &dyn std::error::Error, remedy: impl Into<String>) -> Refusal {
    Refusal::new(ReturnCode::Failed, format!("{context}: {}", crate::error::chain(error)), remedy)
}

/// An error of the hypervisor, with the code that it has.
fn not_done(context: &str, error: &standin_hypervisor::Error) -> Refusal {
    let refusal = failed(context, error, error.remedy().to_string());
    Refusal { code: hypervisor_code(error), ..refusal }
}

/// Fails over to a point, or to the latest. Returns the job once it is recorded; the rest goes on by itself.
///
/// # Errors
/// 32775 in the wrong state, 32779 for an unknown point, 32774 and 32772 while the VM is held.
pub async fn initiate(vm: &Arc<ReplicaVm>, point: Option<PointId>, start: bool) -> Result<JobId, Refusal> {
    let mut record = vm.claim().await?;
    record.allow(Method::InitiateFailover)?;
    let chosen = choose(vm, point)?;
    let job = begin_job(vm, &record, JobType::InitiateFailover, "failover")?;
    let id = job.id();
    record.failover = Some(FailoverRecord {
        point: chosen.id,
        kind: chosen.kind,
        overlay: format!("failover-{}", short(id)),
        prior: record.state,
        job: Some(id),
        reverting: false,
        start,
        point_at: chosen.created_at,
        network: None,
    });
    record.step(Event::StartFailover)?;
    drop(record);
    let vm = Arc::clone(vm);
    tokio::spawn(async move {
        let result = carry_out(&vm, point).await;
        let result = match result {
            Ok(()) if start => start_vm(&vm).await,
            other => other,
        };
        job.finish(result);
    });
    Ok(id)
}

fn short(id: JobId) -> String {
    id.0.simple().to_string().chars().take(8).collect()
}

/// The point of an id, or the newest.
fn choose(vm: &ReplicaVm, point: Option<PointId>) -> Result<RecoveryPoint, Refusal> {
    let points = vm.store().points();
    let found = match point {
        Some(id) => points.into_iter().find(|known| known.id == id),
        None => points.into_iter().max_by_key(|known| known.epoch),
    };
    found.ok_or_else(|| {
        let name = vm.snapshot().name;
        let what = point.map_or_else(|| "any recovery point".to_owned(), |id| format!("recovery point {id}"));
        Refusal::new(
            ReturnCode::FileNotFound,
            format!("VM {name} does not have {what}"),
            "`standin points VM` lists the points that are there.",
        )
    })
}

fn begin_job(
    vm: &ReplicaVm,
    record: &Locked<'_>,
    job_type: JobType,
    what: &str,
) -> Result<JobHandle, Refusal> {
    vm.shared.jobs.begin(NewJob {
        job_type,
        vm: Some((record.vm, record.name.clone())),
        description: format!("{what} of {}", record.name),
        cancellable: false,
    })
}

async fn carry_out(vm: &Arc<ReplicaVm>, point: Option<PointId>) -> Result<(), Refusal> {
    let made = reach(vm, point).await;
    let mut record = vm.lock().await;
    let Some(mut failover) = record.failover.clone() else {
        return Err(Refusal::new(ReturnCode::Failed, "the failover's record is gone", "Fail over again."));
    };
    match made {
        Ok(chosen) => {
            failover.point = chosen.id;
            failover.kind = chosen.kind;
            failover.point_at = chosen.created_at;
            record.last_failover_kind = Some(chosen.kind);
            record.failover = Some(failover);
            record.generation = record.generation.next();
            record.step(Event::FailoverDone)?;
            drop(record);
            vm.mirror().await;
            Ok(())
        }
        Err(refusal) => {
            drop(undo(vm, &failover.overlay).await);
            record.failover = None;
            record.step(Event::FailoverFailed { before: failover.prior })?;
            record.note_error(&refusal);
            Err(refusal)
        }
    }
}

/// Lets what is fully received become a point, and goes to the point of the id or to the latest then.
async fn reach(vm: &Arc<ReplicaVm>, point: Option<PointId>) -> Result<RecoveryPoint, Refusal> {
    vm.end_session_within(SESSION_PATIENCE).await?;
    let chosen = choose(vm, point)?;
    make(vm, &chosen).await?;
    Ok(chosen)
}

/// Makes the overlay and the VM on it.
async fn make(vm: &Arc<ReplicaVm>, point: &RecoveryPoint) -> Result<(), Refusal> {
    let Some(failover) = vm.snapshot().failover else {
        return Err(Refusal::new(ReturnCode::Failed, "the failover's record is gone", "Fail over again."));
    };
    let request =
        OverlayRequest { id: failover.overlay.clone(), point: point.id, purpose: Purpose::Failover };
    let store = vm.store().clone();
    let overlay = blocking(move || store.overlay(request).map_err(|error| refusal_of(&error))).await?;
    serve_maps(vm, &overlay).await?;
    let definition = definition(vm, &overlay, point)?;
    vm.shared
        .hypervisor
        .define(definition)
        .await
        .map_err(|error| not_done(&format!("define VM {} on this host", vm.snapshot().name), &error))?;
    vm.shared.inventory.refresh(vm.id()).await;
    Ok(())
}

/// Serves the disks of an overlay that has no chain of files beneath it.
///
/// By the epoch of the overlay, not by the point: a commit drops the points, and what the overlay stands on stays.
async fn serve_maps(vm: &ReplicaVm, overlay: &Overlay) -> Result<(), Refusal> {
    let disks: Vec<_> = overlay
        .disks
        .iter()
        .filter(|(_, disk)| disk.backing == Backing::Map)
        .map(|(name, _)| name.clone())
        .collect();
    if disks.is_empty() {
        return Ok(());
    }
    let (store, epoch) = (vm.store().clone(), overlay.epoch);
    let reader = blocking(move || store.reader_at(epoch).map_err(|error| refusal_of(&error))).await?;
    vm.exports.serve(&overlay.id, reader, &disks).map_err(|error| {
        failed("serve the recovery point to QEMU", &error, "See to the runtime directory of the daemon.")
    })
}

/// The VM as it was at the point, with the overlay's disks and the files of that time.
fn definition(vm: &ReplicaVm, overlay: &Overlay, point: &RecoveryPoint) -> Result<VmDefinition, Refusal> {
    let remedy =
        "The point's disks are whole: define a VM over them by hand, see the documentation on rescue.";
    let config = overlay.config.as_ref().ok_or_else(|| {
        Refusal::new(
            ReturnCode::FileNotFound,
            format!("the recovery point {} has no configuration of the VM", point.id),
            remedy,
        )
    })?;
    let read = |name: &str| {
        std::fs::read_to_string(config.join(name)).map_err(|error| {
            failed(&format!("read {name} of the recovery point {}", point.id), &error, remedy)
        })
    };
    let mut definition = VmDefinition::from_toml(&read("vm.toml")?)
        .map_err(|error| failed("understand the configuration of the recovery point", &error, remedy))?;
    let files: Vec<ConfigFileInfo> = serde_json::from_str(&read("files.json")?)
        .map_err(|error| failed("understand the files of the recovery point", &error, remedy))?;
    definition.disks.retain(|disk| overlay.disks.contains_key(&disk.name));
    for disk in &mut definition.disks {
        let Some(made) = overlay.disks.get(&disk.name) else { continue };
        disk.file.clone_from(&made.path);
        disk.format = DiskFormat::Qcow2;
        disk.backing = (made.backing == Backing::Map).then(|| vm.exports.backing(&overlay.id, &disk.name));
    }
    carry_files(vm, overlay, point, &mut definition, &files)?;
    vm.shared.networks.map.apply(&mut definition);
    // Arguments are commands to QEMU on this host; the primary may send disks, not commands.
    if !definition.extra_args.is_empty() {
        tracing::warn!(
            vm = %definition.name, arguments = ?definition.extra_args,
            "the primary's extra QEMU arguments are left out on this host"
        );
        definition.extra_args.clear();
    }
    if definition.serial_log.is_some() {
        definition.serial_log = Some(vm.shared.log_dir.join(format!("{}-serial.log", definition.name)));
    }
    Ok(definition)
}

/// Points the definition to the files that travelled with the point. One that did not travel is a path of the
/// primary's choice: it must not be opened here.
fn carry_files(
    vm: &ReplicaVm,
    overlay: &Overlay,
    point: &RecoveryPoint,
    definition: &mut VmDefinition,
    files: &[ConfigFileInfo],
) -> Result<(), Refusal> {
    super::files::check(files)?;
    let roles: Vec<&'static str> = definition.carried_files().into_iter().map(|(role, _)| role).collect();
    for role in roles {
        let file = files.iter().find(|file| file.role == role).ok_or_else(|| {
            Refusal::new(
                ReturnCode::FileNotFound,
                format!(
                    "the {role} of VM {} did not travel with the recovery point {}",
                    definition.name, point.id
                ),
                "Fail over to another point.",
            )
        })?;
        let kept = file_path(vm, &file.hash);
        let path = if role == "nvram" { nvram(disk_directory(overlay)?, &kept)? } else { kept };
        definition.set_carried_file(role, path);
    }
    Ok(())
}

/// Where the overlay's files are.
fn disk_directory(overlay: &Overlay) -> Result<&Path, Refusal> {
    overlay.disks.values().next().and_then(|disk| disk.path.parent()).ok_or_else(|| {
        Refusal::new(ReturnCode::Failed, "the overlay has no disks", "Fail over to another point.")
    })
}

/// The guest writes to its NVRAM, so the failover has a copy of its own.
fn nvram(directory: &Path, kept: &Path) -> Result<std::path::PathBuf, Refusal> {
    let own = directory.join("nvram.fd");
    std::fs::copy(kept, &own).map_err(|error| {
        failed("copy the NVRAM of the recovery point", &error, "See to the storage location.")
    })?;
    Ok(own)
}

async fn start_vm(vm: &Arc<ReplicaVm>) -> Result<(), Refusal> {
    let record = vm.snapshot();
    network::prepare(vm).await;
    vm.shared.hypervisor.start(record.vm, StartOptions::default()).await.map_err(|error| {
        let context = format!("VM {} has failed over, but it could not be started", record.name);
        let refusal = not_done(&context, &error);
        Refusal { remedy: format!("{} Then: `standin vm start {}`.", error.remedy(), record.name), ..refusal }
    })?;
    runs(vm).await;
    Ok(())
}

/// Before a VM that has failed over is started.
pub async fn before_start(vm: &Arc<ReplicaVm>) {
    network::prepare(vm).await;
}

/// What is to be done once the VM runs.
pub async fn runs(vm: &Arc<ReplicaVm>) {
    network::started(vm).await;
    fill_overlays(vm);
}

/// An overlay on a served point is filled in the background until it stands alone, so that the guest no longer
/// depends on this daemon. Called when the VM runs.
pub fn fill_overlays(vm: &Arc<ReplicaVm>) {
    let record = vm.snapshot();
    let Some(failover) = record.failover else { return };
    let overlays = vm.store().overlays();
    let Some(overlay) = overlays.into_iter().find(|overlay| overlay.id == failover.overlay) else { return };
    for (name, disk) in overlay.disks {
        if disk.backing != Backing::Map {
            continue;
        }
        let vm = Arc::clone(vm);
        tokio::spawn(async move {
            let rate = vm.shared.merge_bytes_per_s;
            if let Err(error) = vm.shared.hypervisor.flatten(vm.id(), &name, rate).await {
                tracing::warn!(disk = %name, error = %crate::error::chain(&error),
                    "the overlay was not filled; the VM goes on reading the recovery point from this daemon");
            }
        });
    }
}

/// Goes back to the state before the failover; a running replica VM is turned off and what it wrote is gone.
///
/// # Errors
/// 32775 unless failed over and not committed, 32774 and 32772 while the VM is held.
pub async fn revert(vm: &Arc<ReplicaVm>) -> Result<JobId, Refusal> {
    let mut record = vm.claim().await?;
    record.allow(Method::RevertFailover)?;
    let job = begin_job(vm, &record, JobType::RevertFailover, "revert of the failover")?;
    let id = job.id();
    belongs_to(&mut record, id, true)?;
    drop(record);
    let vm = Arc::clone(vm);
    tokio::spawn(async move { job.finish(carry_out_revert(&vm).await) });
    Ok(id)
}

/// Notes the job that reverts or commits the failover, so that a restart goes on with it.
fn belongs_to(record: &mut Locked<'_>, job: JobId, reverting: bool) -> Result<(), Refusal> {
    let Some(failover) = &mut record.failover else { return Ok(()) };
    if failover.reverting && !reverting {
        let name = record.name.clone();
        return Err(Refusal::new(
            ReturnCode::InUse,
            format!("the failover of VM {name} is being reverted"),
            "Wait for that job; if it has failed, `standin failover VM --revert` goes on with it.",
        ));
    }
    let before = (failover.job.replace(job), std::mem::replace(&mut failover.reverting, reverting));
    let saved = record.save();
    if saved.is_err()
        && let Some(failover) = &mut record.failover
    {
        (failover.job, failover.reverting) = before;
    }
    saved
}

async fn carry_out_revert(vm: &ReplicaVm) -> Result<(), Refusal> {
    let mut record = vm.lock().await;
    let Some(failover) = record.failover.clone() else {
        return Err(Refusal::new(
            ReturnCode::InvalidState,
            format!("VM {} has no failover to revert", record.name),
            "Look at `standin status`.",
        ));
    };
    undo(vm, &failover.overlay).await?;
    record.generation = record.generation.next();
    record.failover = None;
    record.step(Event::Revert { before: failover.prior })?;
    drop(record);
    vm.mirror().await;
    Ok(())
}

/// Removes the VM, what serves its disks, and the overlay. Nothing of it that is not there is an error.
async fn undo(vm: &ReplicaVm, overlay: &str) -> Result<(), Refusal> {
    let hypervisor = &vm.shared.hypervisor;
    match hypervisor.inspect(vm.id()).await {
        Ok(info) => {
            if info.power != PowerState::Off {
                hypervisor
                    .power_off(vm.id())
                    .await
                    .map_err(|error| not_done("turn the replica VM off", &error))?;
            }
            hypervisor.undefine(vm.id()).await.map_err(|error| not_done("remove the replica VM", &error))?;
        }
        Err(standin_hypervisor::Error::UnknownVm(_)) => {}
        Err(error) => return Err(inspect_refusal(&error)),
    }
    vm.shared.inventory.refresh(vm.id()).await;
    vm.exports.stop(overlay);
    let (store, overlay) = (vm.store().clone(), overlay.to_owned());
    blocking(move || {
        if store.overlays().iter().any(|known| known.id == overlay) {
            store.discard_overlay(&overlay).map_err(|error| refusal_of(&error))?;
        }
        Ok(())
    })
    .await
}

/// Makes the failover final: the overlay is the VM's disk, the other points go.
///
/// # Errors
/// 32775 unless failed over and not committed, 32774 and 32772 while the VM is held.
pub async fn commit(vm: &Arc<ReplicaVm>) -> Result<JobId, Refusal> {
    let mut record = vm.claim().await?;
    record.allow(Method::CommitFailover)?;
    let job = begin_job(vm, &record, JobType::CommitFailover, "commit of the failover")?;
    belongs_to(&mut record, job.id(), false)?;
    drop(record);
    let id = job.id();
    let vm = Arc::clone(vm);
    tokio::spawn(async move { job.finish(carry_out_commit(&vm).await) });
    Ok(id)
}

async fn carry_out_commit(vm: &ReplicaVm) -> Result<(), Refusal> {
    let mut record = vm.lock().await;
    let overlay = record.failover.as_ref().map(|failover| failover.overlay.clone()).unwrap_or_default();
    // The state first: if the daemon dies between, the commit is finished at the next start, not half undone.
    record.step(Event::Commit)?;
    drop(record);
    vm.mirror().await;
    finish_commit(vm, overlay).await
}

async fn finish_commit(vm: &ReplicaVm, overlay: String) -> Result<(), Refusal> {
    let store = vm.store().clone();
    blocking(move || store.commit_overlay(&overlay).map_err(|error| refusal_of(&error))).await
}

/// Takes up what an earlier process left: a failover in the middle goes back, one that is done is served again,
/// a revert and a commit are finished. Their jobs end as the work does.
///
/// # Errors
/// What stood in the way; the VM's disks are whole.
pub async fn after_restart(vm: &Arc<ReplicaVm>) -> Result<(), Refusal> {
    let record = vm.snapshot();
    let Some(failover) = record.failover else {
        complete_reverts(vm);
        return Ok(());
    };
    let job = failover.job.and_then(|id| vm.shared.jobs.resume(id));
    match record.state {
        ReplicationState::FailoverInProgress => {
            let undone = give_up(vm, &failover).await;
            if let Some(job) = job {
                job.interrupted();
            }
            undone
        }
        ReplicationState::Recovered if failover.reverting => end(job, carry_out_revert(vm).await),
        ReplicationState::Recovered => {
            let done = match serve_again(vm, &failover).await {
                Err(refusal) => Err(refusal),
                Ok(running) => match job.as_ref().and_then(|job| type_of(vm, job)) {
                    Some(JobType::CommitFailover) => carry_out_commit(vm).await,
                    // It was asked for with the failover, and had not come about.
                    Some(JobType::InitiateFailover) if failover.start && !running => start_vm(vm).await,
                    _ => Ok(()),
                },
            };
            end(job, done)
        }
        ReplicationState::Committed => {
            let done = match serve_again(vm, &failover).await {
                Err(refusal) => Err(refusal),
                Ok(_) => finish_commit(vm, failover.overlay).await,
            };
            end(job, done)
        }
        _ => Ok(()),
    }
}

/// A revert whose last word, the record without a failover, was kept, and only the end of its job was not.
fn complete_reverts(vm: &ReplicaVm) {
    let jobs = &vm.shared.jobs;
    let done =
        |job: &standin_model::JobRecord| job.vm == Some(vm.id()) && job.job_type == JobType::RevertFailover;
    for job in jobs.running().into_iter().filter(done) {
        if let Some(job) = jobs.resume(job.id) {
            job.complete();
        }
    }
}

fn type_of(vm: &ReplicaVm, job: &JobHandle) -> Option<JobType> {
    vm.shared.jobs.watch(job.id()).map(|seen| seen.borrow().job_type)
}

/// Ends a job that a restart went on with.
fn end(job: Option<JobHandle>, result: Result<(), Refusal>) -> Result<(), Refusal> {
    if let Some(job) = job {
        job.finish(result.clone());
    }
    result
}

/// A failover that the end of the daemon cut off.
async fn give_up(vm: &ReplicaVm, failover: &FailoverRecord) -> Result<(), Refusal> {
    undo(vm, &failover.overlay).await?;
    let mut record = vm.lock().await;
    record.failover = None;
    record.step(Event::FailoverFailed { before: failover.prior })
}

/// Serves the disks of a failover again, and tells whether its VM runs.
async fn serve_again(vm: &Arc<ReplicaVm>, failover: &FailoverRecord) -> Result<bool, Refusal> {
    let overlays = vm.store().overlays();
    let Some(overlay) = overlays.into_iter().find(|known| known.id == failover.overlay) else {
        return Err(Refusal::new(
            ReturnCode::FileNotFound,
            format!("the overlay {} of VM {} is gone", failover.overlay, vm.snapshot().name),
            "Revert the failover and fail over again.",
        ));
    };
    serve_maps(vm, &overlay).await?;
    let running = vm.shared.hypervisor.inspect(vm.id()).await.is_ok_and(|info| info.power != PowerState::Off);
    if running {
        fill_overlays(vm);
        network::started(vm).await;
    }
    Ok(running)
}
