//! The VM of a failover: made from a recovery point's overlay and the configuration of that time, started, filled,
//! removed.
//!
//! The primary sends disks and a description, not commands: arguments to QEMU are left out, and a file that the
//! description names is opened only if it travelled with the point. What the guest writes goes to the overlay and a
//! copy of the NVRAM, so the point stays what it was until the failover is final. Removing what is not there is no
//! error: it is called again after a crash.
//!
//! Called by [`super::failover`] and, after a restart, by [`super::after_restart`]; the engine starts the VM with it.

use super::admission::file_path;
use super::defining;
use super::layer::{blocking, refusal_of};
use super::network;
use super::reason::Failover;
use super::vm::ReplicaVm;
use crate::engine::inspect_refusal;
use crate::error::chain;
use crate::messages::ConfigFileInfo;
use crate::records::KeptCopy;
use crate::tasks;
use crate::vm::{Start, Started};
use standin_hypervisor::{DiskFormat, PowerState, VmDefinition, VmInfo};
use standin_model::{PointKind, RecoveryPoint, Refusal, VmName};
use standin_store::{Backing, NewPoint, Overlay, OverlayRequest, Purpose};
use std::path::Path;
use std::sync::Arc;

/// Makes the overlay and the VM on it.
pub(super) async fn make(vm: &Arc<ReplicaVm>, point: &RecoveryPoint) -> Result<(), Refusal> {
    let Some(failover) = vm.snapshot().failover else {
        return Err(Failover::RecordGone.into());
    };
    let request =
        OverlayRequest { id: failover.overlay.clone(), point: point.id, purpose: Purpose::Failover };
    let store = vm.store().clone();
    let overlay = blocking(move || store.overlay(request).map_err(|error| refusal_of(&error))).await?;
    serve_maps(vm, &overlay).await?;
    let definition = definition(vm, &overlay, point)?;
    defining::define(vm, &overlay, definition).await
}

/// Serves the disks of an overlay that has no chain of files beneath it.
///
/// By the epoch of the overlay, not by the point: a commit drops the points, and what the overlay stands on stays.
pub(super) async fn serve_maps(vm: &ReplicaVm, overlay: &Overlay) -> Result<(), Refusal> {
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
    let served = vm.exports.serve(&overlay.id, reader, &disks);
    served.map_err(|error| Failover::NotServed { error: chain(&error) }.into())
}

/// The VM as it was at the point, with the overlay's disks and the files of that time.
fn definition(vm: &ReplicaVm, overlay: &Overlay, point: &RecoveryPoint) -> Result<VmDefinition, Refusal> {
    let unreadable = |what: String, error: &dyn std::error::Error| {
        Refusal::from(Failover::Configuration { what, error: chain(error) })
    };
    let config = overlay.config.as_ref().ok_or(Failover::NoConfiguration { point: point.id })?;
    let read = |name: &str| {
        std::fs::read_to_string(config.join(name))
            .map_err(|error| unreadable(format!("read {name} of the recovery point {}", point.id), &error))
    };
    let mut definition = VmDefinition::from_toml(&read("vm.toml")?).map_err(|error| {
        unreadable("understand the configuration of the recovery point".to_owned(), &error)
    })?;
    let record = vm.snapshot();
    (definition.uuid, definition.name) = (record.vm, record.name);
    let files: Vec<ConfigFileInfo> = serde_json::from_str(&read("files.json")?)
        .map_err(|error| unreadable("understand the files of the recovery point".to_owned(), &error))?;
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
        definition.serial_log = Some(serial_log(vm, &definition.name));
    }
    Ok(definition)
}

/// Where the VM of a failover writes its serial log: two VMs must not write one file.
pub(super) fn serial_log(vm: &ReplicaVm, name: &VmName) -> std::path::PathBuf {
    vm.shared.log_dir.join(format!("{name}-serial.log"))
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
        let missing = || Failover::FileMissing { vm: definition.name.clone(), role, point: point.id };
        let file = files.iter().find(|file| file.role == role).ok_or_else(missing)?;
        let kept = file_path(vm, &file.hash);
        let path = if role == "nvram" { nvram(disk_directory(overlay)?, &kept)? } else { kept };
        definition.set_carried_file(role, path);
    }
    Ok(())
}

/// The definition of a failover's VM after the replica's directory was moved: every file in it is named at the new place.
pub(super) fn moved(mut definition: VmDefinition, from: &Path, to: &Path) -> VmDefinition {
    let there = |path: &Path| path.strip_prefix(from).ok().map(|inner| to.join(inner));
    for disk in &mut definition.disks {
        if let Some(path) = there(&disk.file) {
            disk.file = path;
        }
    }
    let carried: Vec<_> = definition
        .carried_files()
        .into_iter()
        .filter_map(|(role, path)| Some((role, there(path)?)))
        .collect();
    for (role, path) in carried {
        definition.set_carried_file(role, path);
    }
    definition
}

/// Where the overlay's files are.
fn disk_directory(overlay: &Overlay) -> Result<&Path, Refusal> {
    let disk = overlay.disks.values().next();
    disk.and_then(|disk| disk.path.parent()).ok_or_else(|| Failover::NoDisks.into())
}

/// The guest writes to its NVRAM, so the failover has a copy of its own.
fn nvram(directory: &Path, kept: &Path) -> Result<std::path::PathBuf, Refusal> {
    let own = directory.join("nvram.fd");
    std::fs::copy(kept, &own).map_err(|error| Failover::Nvram { error: chain(&error) })?;
    Ok(own)
}

pub(super) async fn start_vm(vm: &Arc<ReplicaVm>) -> Result<(), Refusal> {
    let record = vm.snapshot();
    let asserted = record.failover.as_ref().and_then(|failover| failover.asserted);
    network::prepare(vm).await;
    let started = vm.shared.vms.start(record.vm, Start { asserted, ..Start::default() }).await;
    let failed = |refusal: Refusal| {
        let why = &refusal.message;
        let message = format!("VM {} has failed over, but it could not be started: {why}", record.name);
        refusal.saying(message)
    };
    match started.map_err(failed)? {
        Started::Runs(_) => runs(vm).await,
        Started::Waits(_) => return Err(Failover::NotStarted { vm: record.name }.into()),
    }
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
pub(super) fn fill_overlays(vm: &Arc<ReplicaVm>) {
    let record = vm.snapshot();
    let Some(failover) = record.failover else { return };
    let overlays = vm.store().overlays();
    let Some(overlay) = overlays.into_iter().find(|overlay| overlay.id == failover.overlay) else { return };
    for (name, disk) in overlay.disks {
        if disk.backing != Backing::Map {
            continue;
        }
        let vm = Arc::clone(vm);
        tasks::spawn(async move {
            let rate = vm.shared.merge_bytes_per_s;
            if let Err(error) = vm.shared.hypervisor.flatten(vm.id(), &name, rate).await {
                tracing::warn!(disk = %name, error = %crate::error::chain(&error),
                    "the overlay was not filled; the VM goes on reading the recovery point from this daemon");
            }
        });
    }
}

/// Why a point that was made of a copy stays.
const GIVEN_UP: &str = "a copy of the VM that was given up";

/// Turns the VM off, and makes a pinned recovery point of what it wrote. The overlay stays; one that is gone was kept
/// before.
pub(super) async fn keep_copy(vm: &ReplicaVm, overlay: &str, kept: KeptCopy) -> Result<(), Refusal> {
    let Some(made) = vm.store().overlays().into_iter().find(|known| known.id == overlay) else {
        return Ok(());
    };
    if let Some(info) = own_vm(vm, Some(&made)).await? {
        turn_off(vm, &info).await?;
    }
    let (store, id, name) = (vm.store().clone(), overlay.to_owned(), vm.snapshot().name);
    let point = NewPoint { id: kept.point, created_at: kept.at, kind: PointKind::Standard };
    let made =
        blocking(move || store.keep_overlay(&id, point, GIVEN_UP).map_err(|error| refusal_of(&error))).await;
    let point = made.map_err(|refusal| {
        let message = format!(
            "what the copy of VM {name} wrote could not be made a recovery point: {}. The copy is left as it is",
            refusal.message
        );
        let remedy = format!("{} Then go on with `standin failover {name} --revert`.", refusal.remedy);
        refusal.saying(message).with_remedy(remedy)
    })?;
    tracing::warn!(vm = %name, point = %point.id, epoch = %point.epoch, "what a copy wrote that was given up is a recovery point");
    Ok(())
}

/// The VM of a failover, if the hypervisor has it. One of the same id that the failover did not make is left.
async fn own_vm(vm: &ReplicaVm, made: Option<&Overlay>) -> Result<Option<VmInfo>, Refusal> {
    match vm.shared.hypervisor.inspect(vm.id()).await {
        Ok(info) if made.is_some_and(|made| defining::is_made_by(made, &info)) => Ok(Some(info)),
        Ok(info) => {
            tracing::error!(vm = %info.name, "a VM of the replica's id is there that this failover did not make; it is left");
            Ok(None)
        }
        Err(standin_hypervisor::Error::UnknownVm(_)) => Ok(None),
        Err(error) => Err(inspect_refusal(&error)),
    }
}

async fn turn_off(vm: &ReplicaVm, info: &VmInfo) -> Result<(), Refusal> {
    match info.power {
        PowerState::Off => Ok(()),
        _ => vm.shared.vms.power_off(vm.id()).await,
    }
}

/// Removes the VM, what serves its disks, and the overlay. Nothing of it that is not there is an error.
pub(super) async fn undo(vm: &ReplicaVm, overlay: &str) -> Result<(), Refusal> {
    let made = vm.store().overlays().into_iter().find(|known| known.id == overlay);
    if let Some(info) = own_vm(vm, made.as_ref()).await? {
        turn_off(vm, &info).await?;
        vm.shared.vms.undefine(vm.id()).await?;
    }
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
