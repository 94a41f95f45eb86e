//! Reading the running disks while a mark records: the first copy, and the first pass of a large delta. No
//! copy-before-write: the guest does not pay for the hours this can take.

use super::Shared;
use super::cut::{self, leftovers, plain_config, require_mark};
use super::image;
use super::inventory::{Inventory, LiveDisk};
use super::machine::Vm;
use super::marks;
use super::names::{Kind, Names};
use super::nbd;
use super::process::Process;
use super::view::{Context, Exported, Parts, QemuView};
use crate::error::Error;
use crate::seam::{LiveRequest, View, ViewInfo};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// Starts the mark and opens the disks.
pub(crate) async fn open(
    shared: &Arc<Shared>,
    vm: &Arc<Vm>,
    request: LiveRequest,
) -> Result<Box<dyn View>, Error> {
    let context = Context {
        machine: vm.require_machine()?,
        names: Names::new(&request.tracker)?,
        scratch_dir: None,
        _guard: vm.open_view(&request.tracker)?,
        vm: Arc::clone(vm),
    };
    match build(shared, &context, &request).await {
        Ok(parts) => Ok(Box::new(QemuView::open(shared, context, parts))),
        Err(error) => {
            if let Err(left) = context.remove().await {
                tracing::warn!(vm = %vm.id, error = %left, "a live view that failed could not be undone");
            }
            Err(error)
        }
    }
}

async fn build(shared: &Shared, context: &Context, request: &LiveRequest) -> Result<Parts, Error> {
    let Context { vm, machine, names, .. } = context;
    let inventory = Inventory::take(vm, machine).await?;
    if leftovers(&inventory, names) {
        context.remove().await?;
    }
    let disks = inventory.select(vm, &request.disks)?;
    let actions = transaction(names, &disks, request)?;
    let socket = nbd::server(shared, vm, machine).await?;
    let events = machine.qmp.events();
    let at = Timestamp::now();
    if !actions.is_empty() {
        machine.qmp.execute("transaction", json!({ "actions": actions })).await?;
    }
    let bitmap = request.since.map(|_| names.frozen());
    for (index, disk) in disks.iter().enumerate() {
        let id = names.item(Kind::Export, index);
        cut::export(machine, &id, &disk.node, disk, bitmap.clone()).await?;
    }
    let config = plain_config(vm.definition());
    let exported = cut::exported(context, &socket, &disks, request.since).await?;
    Ok(Parts {
        info: ViewInfo { at, application_consistent: false, freeze_error: None, config },
        disks: exported
            .into_iter()
            .zip(&disks)
            .map(|(offer, disk)| Exported { local: local(disk, machine.process), ..offer })
            .collect(),
        reserve: 0,
        events,
    })
}

/// The image itself, where reading it is the same as asking QEMU; see [`crate::local`].
fn local(disk: &LiveDisk, process: Option<Process>) -> Option<(File, PathBuf)> {
    if !disk.plain_file {
        return None;
    }
    let file = File::open(&disk.path).ok()?;
    let metadata = file.metadata().ok()?;
    let same = metadata.is_file()
        && metadata.len() == disk.size
        && image::holds_lock(&metadata)
        && process?.has_open(&metadata);
    same.then(|| (file, disk.path.clone()))
}

fn transaction(names: &Names, disks: &[LiveDisk], request: &LiveRequest) -> Result<Vec<Value>, Error> {
    let mut actions = Vec::new();
    let mark = names.mark(request.mark);
    let recording = disks.iter().filter(|disk| disk.bitmap(&mark).is_some_and(marks::usable)).count();
    for disk in disks {
        if let Some(since) = request.since {
            let granularity = require_mark(names, disk, since)?;
            actions.extend(cut::freeze_mark(names, disk, since, granularity));
        }
        if recording == 0 && disk.bitmap(&mark).is_none() {
            actions.push(cut::new_mark(names, disk, request.mark, request.granularity));
        } else {
            // Some have it: an interrupted copy goes on, which is only right if all have.
            require_mark(names, disk, request.mark)?;
        }
    }
    Ok(actions)
}
