//! Cutting all disks of a VM at one instant.

use super::Shared;
use super::freeze;
use super::inventory::{Inventory, LiveDisk};
use super::machine::{Machine, Vm};
use super::marks;
use super::names::{Kind, Names};
use super::nbd;
use super::scratch;
use super::view::{self, Context, Exported, Parts, QemuView};
use crate::definition::VmDefinition;
use crate::error::Error;
use crate::seam::{Consistency, CutRequest, Mark, Tracker, View, ViewInfo, VmConfig};
use jiff::Timestamp;
use serde_json::{Value, json};
use standin_nbd::Target;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A variable store is some hundred kilobytes; a file that is far larger is not one.
const MAX_NVRAM: u64 = 256 << 20;

/// Removes what is left of a tracker, and thaws a guest that was left frozen.
pub(crate) async fn clean(
    shared: &Arc<Shared>,
    vm: &Arc<Vm>,
    tracker: &Tracker,
    scratch_dir: &Path,
) -> Result<(), Error> {
    let names = Names::new(tracker)?;
    let _guard = vm.open_view(tracker)?;
    if vm.machine().is_some() {
        freeze::thaw_left_over(&shared.store, vm.id);
    }
    view::remove(vm, &names, Some(scratch_dir)).await
}

/// Cuts.
pub(crate) async fn open(
    shared: &Arc<Shared>,
    vm: &Arc<Vm>,
    request: CutRequest,
) -> Result<Box<dyn View>, Error> {
    let context = Context {
        machine: vm.require_machine()?,
        names: Names::new(&request.tracker)?,
        scratch_dir: Some(absolute(&request.scratch_dir)?),
        _guard: vm.open_view(&request.tracker)?,
        vm: Arc::clone(vm),
    };
    match build(shared, &context, &request).await {
        Ok(parts) => Ok(Box::new(QemuView::open(shared, context, parts))),
        Err(error) => {
            // What cannot be removed now is removed by the next clean; the first error is the one to know.
            if let Err(left) = context.remove().await {
                tracing::warn!(vm = %vm.id, error = %left, "a cut that failed could not be undone");
            }
            Err(error)
        }
    }
}

/// QEMU runs in another directory.
fn absolute(dir: &Path) -> Result<PathBuf, Error> {
    fs::canonicalize(dir).map_err(Error::io(format!("find the scratch directory {}", dir.display())))
}

async fn build(shared: &Shared, context: &Context, request: &CutRequest) -> Result<Parts, Error> {
    let Context { vm, machine, names, scratch_dir, .. } = context;
    let scratch_dir = scratch_dir.as_deref().unwrap_or(&request.scratch_dir);
    scratch::require(scratch_dir, request.scratch_reserve)?;
    let inventory = Inventory::take(vm, machine).await?;
    if leftovers(&inventory, names) {
        context.remove().await?;
    }
    let disks = inventory.select(vm, &request.disks)?;
    prepare_marks(machine, names, &disks, request).await?;
    let socket = nbd::server(shared, vm, machine).await?;
    add_scratch(context, scratch_dir, &disks).await?;
    let events = machine.qmp.events();
    let info = cut_now(shared, context, scratch_dir, &disks, request).await?;
    for (index, disk) in disks.iter().enumerate() {
        export_cut(machine, names, index, disk).await?;
    }
    let disks = exported(context, &socket, &disks, Some(request.since)).await?;
    Ok(Parts { disks, info, reserve: request.scratch_reserve, events })
}

/// What a view offers of `disks`, which have their exports, and with `since` their frozen bitmaps.
pub(crate) async fn exported(
    context: &Context,
    socket: &Path,
    disks: &[LiveDisk],
    since: Option<Mark>,
) -> Result<Vec<Exported>, Error> {
    let Context { vm, machine, names, .. } = context;
    let idle = |disk: &LiveDisk, name: &str| disk.bitmap(name).is_some_and(|bitmap| bitmap.dirty == 0);
    let mark = since.map(|since| names.mark(since));
    // What looked idle before the transaction may have changed until it; what looked busy is busy.
    let after = match &mark {
        Some(mark) if disks.iter().any(|disk| idle(disk, mark)) => Inventory::take(vm, machine).await?.disks,
        _ => Vec::new(),
    };
    // Only a cut has a scratch directory; a live view has nothing between it and the disk.
    let apart = context.scratch_dir.is_some() && !machine.features().await?.cut_reads_across;
    let frozen = names.frozen();
    let offer = |(index, disk): (usize, &LiveDisk)| {
        let is_idle = after.iter().any(|now| now.node == disk.node && idle(now, &frozen));
        Exported {
            name: disk.name.clone(),
            target: Target::unix(socket, names.item(Kind::Export, index)),
            size: disk.size,
            changed: since.map(|_| !is_idle),
            apart,
            local: None,
        }
    };
    Ok(disks.iter().enumerate().map(offer).collect())
}

async fn add_scratch(context: &Context, scratch_dir: &Path, disks: &[LiveDisk]) -> Result<(), Error> {
    let Context { vm, machine, names, .. } = context;
    // A file may be there without a node: the VM was restarted since.
    view::remove_scratch(vm, names, scratch_dir)?;
    for (index, disk) in disks.iter().enumerate() {
        let file = scratch_dir.join(names.scratch_file(vm.id, index));
        scratch::create(&file, disk.size)?;
        // Nobody else opens it, and QEMU need not lock it.
        let node = json!({
            "driver": "file", "node-name": names.item(Kind::Scratch, index), "filename": file,
            "locking": "off", "discard": "unmap",
        });
        machine.qmp.execute("blockdev-add", node).await?;
    }
    Ok(())
}

/// Freezes the guest if that is asked for, cuts, and thaws whatever came of the cut.
async fn cut_now(
    shared: &Shared,
    context: &Context,
    scratch_dir: &Path,
    disks: &[LiveDisk],
    request: &CutRequest,
) -> Result<ViewInfo, Error> {
    let Context { vm, machine, names, .. } = context;
    let on_cbw_error = machine.features().await?.backup_on_cbw_error;
    let actions = transaction(names, disks, request, on_cbw_error)?;
    let frozen = match request.consistency {
        Consistency::Crash => None,
        Consistency::Application { deadline } => Some(freeze::freeze(shared, vm, machine, deadline).await),
    };
    let at = Timestamp::now();
    let outcome = async {
        machine.qmp.execute("transaction", json!({ "actions": actions })).await?;
        config(vm.definition(), names, vm, scratch_dir).await
    };
    let config = outcome.await;
    let held = match frozen {
        None => None,
        Some(Ok(frozen)) => Some(frozen.finish().await),
        Some(Err(error)) => Some(Err(error)),
    };
    let freeze_error = held.as_ref().and_then(|held| held.as_ref().err()).map(ToString::to_string);
    if let Some(reason) = &freeze_error {
        // Whoever asked for it warns of it.
        tracing::debug!(vm = %vm.id, reason, "the guest could not be frozen; the cut is crash-consistent");
    }
    let application_consistent = matches!(held, Some(Ok(())));
    Ok(ViewInfo { at, application_consistent, freeze_error, config: config? })
}

/// Whether an earlier view of the tracker was not closed.
pub(crate) fn leftovers(inventory: &Inventory, names: &Names) -> bool {
    inventory.nodes.iter().any(|node| names.owns(node))
        || inventory.bitmaps.iter().any(|(_, bitmap)| names.owns(&bitmap.name))
}

/// `since` is usable on every disk, and `mark` is free. A mark that is there already is of a cycle that failed;
/// what it knows `since` knows too.
async fn prepare_marks(
    machine: &Machine,
    names: &Names,
    disks: &[LiveDisk],
    request: &CutRequest,
) -> Result<(), Error> {
    if request.since == request.mark {
        return Err(Error::Internal(format!("a cut from mark {:?} to itself", request.mark)));
    }
    for disk in disks {
        require_mark(names, disk, request.since)?;
        let name = names.mark(request.mark);
        if disk.bitmap(&name).is_some() {
            marks::remove(&machine.qmp, &disk.node, &name).await?;
        }
    }
    Ok(())
}

/// The granularity of a mark that is usable.
pub(crate) fn require_mark(names: &Names, disk: &LiveDisk, mark: Mark) -> Result<u32, Error> {
    match disk.bitmap(&names.mark(mark)) {
        Some(bitmap) if marks::usable(bitmap) => Ok(bitmap.granularity),
        _ => Err(Error::NoMark { disk: disk.name.clone(), mark: format!("{}.{}", mark.epoch, mark.pass) }),
    }
}

/// The one transaction that cuts all disks.
fn transaction(
    names: &Names,
    disks: &[LiveDisk],
    request: &CutRequest,
    on_cbw_error: bool,
) -> Result<Vec<Value>, Error> {
    let mut actions = Vec::with_capacity(disks.len() * 4);
    for (index, disk) in disks.iter().enumerate() {
        let granularity = require_mark(names, disk, request.since)?;
        actions.extend(freeze_mark(names, disk, request.since, granularity));
        actions.push(new_mark(names, disk, request.mark, request.granularity));
        let mut backup = json!({
            "job-id": names.item(Kind::Job, index),
            "device": disk.node,
            "target": names.item(Kind::Scratch, index),
            "filter-node-name": names.item(Kind::Filter, index),
            "sync": "none",
            "auto-finalize": true,
            "auto-dismiss": true,
        });
        if on_cbw_error {
            backup["on-cbw-error"] = json!("break-snapshot");
        }
        actions.push(json!({ "type": "blockdev-backup", "data": backup }));
    }
    Ok(actions)
}

/// A copy of a mark as it is at the instant of the transaction.
pub(crate) fn freeze_mark(names: &Names, disk: &LiveDisk, mark: Mark, granularity: u32) -> [Value; 2] {
    let frozen = names.frozen();
    [
        json!({ "type": "block-dirty-bitmap-add", "data": {
            "node": disk.node, "name": frozen, "granularity": granularity, "disabled": true } }),
        json!({ "type": "block-dirty-bitmap-merge", "data": {
            "node": disk.node, "target": frozen, "bitmaps": [names.mark(mark)] } }),
    ]
}

/// A mark that records from the instant of the transaction on, and survives a clean stop where it can.
pub(crate) fn new_mark(names: &Names, disk: &LiveDisk, mark: Mark, granularity: u32) -> Value {
    json!({ "type": "block-dirty-bitmap-add", "data": {
        "node": disk.node, "name": names.mark(mark), "granularity": granularity,
        "persistent": disk.keeps_marks } })
}

async fn export_cut(machine: &Machine, names: &Names, index: usize, disk: &LiveDisk) -> Result<(), Error> {
    let access = names.item(Kind::Access, index);
    let node = json!({
        "driver": "snapshot-access", "node-name": access, "file": names.item(Kind::Filter, index),
        "read-only": true,
    });
    machine.qmp.execute("blockdev-add", node).await?;
    export(machine, &names.item(Kind::Export, index), &access, disk, Some(names.frozen())).await
}

/// Offers `node` over NBD, with a frozen bitmap of `disk`.
pub(crate) async fn export(
    machine: &Machine,
    id: &str,
    node: &str,
    disk: &LiveDisk,
    bitmap: Option<String>,
) -> Result<(), Error> {
    let mut arguments = json!({ "type": "nbd", "id": id, "name": id, "node-name": node, "writable": false });
    if let Some(bitmap) = bitmap {
        arguments["bitmaps"] = json!([{ "node": disk.node, "name": bitmap }]);
    }
    machine.qmp.execute("block-export-add", arguments).await.map(|_| ())
}

/// The configuration at the instant of the cut. Of its files the guest changes only the variable store, which is
/// copied now.
async fn config(
    definition: VmDefinition,
    names: &Names,
    vm: &Vm,
    scratch_dir: &Path,
) -> Result<VmConfig, Error> {
    let mut config = plain_config(definition);
    if let Some(nvram) = config.files.get_mut("nvram") {
        let copy = scratch_dir.join(format!("{}nvram", names.scratch_prefix(vm.id)));
        let (from, to) = (nvram.clone(), copy.clone());
        tokio::task::spawn_blocking(move || copy_nvram(&from, &to))
            .await
            .map_err(|error| Error::Internal(error.to_string()))??;
        *nvram = copy;
    }
    Ok(config)
}

fn copy_nvram(from: &Path, to: &Path) -> Result<(), Error> {
    let context = || format!("copy the variable store {}", from.display());
    let size = fs::metadata(from).map_err(Error::io(context()))?.len();
    if size > MAX_NVRAM {
        return Err(Error::Definition(format!("the variable store {} has {size} bytes", from.display())));
    }
    fs::copy(from, to).map(|_| ()).map_err(Error::io(context()))
}

/// The configuration with the files where they are.
pub(crate) fn plain_config(definition: VmDefinition) -> VmConfig {
    let files: BTreeMap<String, PathBuf> = definition
        .carried_files()
        .into_iter()
        .map(|(role, path)| (role.to_owned(), path.to_owned()))
        .collect();
    VmConfig { definition, files }
}
