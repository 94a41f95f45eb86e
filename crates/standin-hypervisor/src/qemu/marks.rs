//! Marks: listing them, and removing those that are no longer needed.

use super::image;
use super::inventory::{Bitmap, Inventory, LiveDisk};
use super::machine::Vm;
use super::names::Names;
use crate::definition::DiskFormat;
use crate::error::Error;
use crate::qmp::Qmp;
use crate::seam::{Mark, MarkStatus, Tracker};
use serde_json::json;
use standin_model::DiskName;
use std::collections::BTreeSet;

/// The marks of `tracker` on `disks`. Those that a crash left inconsistent are removed on the way: nothing else
/// can be done with them.
pub(crate) async fn list(vm: &Vm, tracker: &Tracker, disks: &[DiskName]) -> Result<Vec<MarkStatus>, Error> {
    let names = Names::new(tracker)?;
    let Some(machine) = vm.machine() else { return Ok(Vec::new()) };
    let inventory = Inventory::take(vm, &machine).await?;
    let wanted = inventory.select(vm, disks)?;
    for (node, bitmap) in &inventory.bitmaps {
        if bitmap.inconsistent && names.parse_mark(&bitmap.name).is_some() {
            tracing::warn!(vm = %vm.id, %node, bitmap = %bitmap.name, "an unclean end left a mark unusable; removing it");
            remove(&machine.qmp, node, &bitmap.name).await?;
        }
    }
    let found: BTreeSet<Mark> =
        inventory.bitmaps.iter().filter_map(|(_, bitmap)| names.parse_mark(&bitmap.name)).collect();
    Ok(found.into_iter().map(|mark| status(&names, mark, &wanted)).collect())
}

/// Whether any disk of the VM carries a mark of whatever tracker. An image that cannot be read carries none: its VM cannot
/// start either.
pub(crate) async fn any(vm: &Vm) -> Result<bool, Error> {
    if let Some(machine) = vm.machine() {
        let inventory = Inventory::take(vm, &machine).await?;
        return Ok(inventory.bitmaps.iter().any(|(_, bitmap)| Names::is_mark(&bitmap.name)));
    }
    for disk in vm.definition().disks.iter().filter(|disk| disk.format == DiskFormat::Qcow2) {
        match image::bitmaps(disk).await {
            Ok(names) if names.iter().any(|name| Names::is_mark(name)) => return Ok(true),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(vm = %vm.id, disk = %disk.name, %error, "an image cannot be searched for marks")
            }
        }
    }
    Ok(false)
}

fn status(names: &Names, mark: Mark, disks: &[LiveDisk]) -> MarkStatus {
    let name = names.mark(mark);
    let bitmaps: Vec<&Bitmap> = disks.iter().filter_map(|disk| disk.bitmap(&name)).collect();
    let granularity = bitmaps.first().map_or(0, |bitmap| bitmap.granularity);
    let complete = bitmaps.len() == disks.len()
        && bitmaps.iter().all(|bitmap| usable(bitmap) && bitmap.granularity == granularity);
    let dirty_bytes = bitmaps.iter().map(|bitmap| bitmap.dirty).sum();
    MarkStatus { mark, complete, granularity, dirty_bytes }
}

/// Whether a bitmap knows all that changed since it was made.
pub(crate) fn usable(bitmap: &Bitmap) -> bool {
    bitmap.recording && !bitmap.inconsistent
}

/// Removes every mark of `tracker` that is not in `keep`.
pub(crate) async fn retain(vm: &Vm, tracker: &Tracker, keep: &[Mark]) -> Result<(), Error> {
    let names = Names::new(tracker)?;
    // A VM that is off has no marks that could be reached; those in its files are met at the next start.
    let Some(machine) = vm.machine() else { return Ok(()) };
    let inventory = Inventory::take(vm, &machine).await?;
    for (node, bitmap) in &inventory.bitmaps {
        if names.parse_mark(&bitmap.name).is_some_and(|mark| !keep.contains(&mark)) {
            remove(&machine.qmp, node, &bitmap.name).await?;
        }
    }
    Ok(())
}

/// Removes a bitmap. One that is not there is removed already.
pub(crate) async fn remove(qmp: &Qmp, node: &str, bitmap: &str) -> Result<(), Error> {
    match qmp.execute("block-dirty-bitmap-remove", json!({ "node": node, "name": bitmap })).await {
        Err(Error::Qmp { desc, .. }) if desc.contains("not found") => Ok(()),
        other => other.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use standin_model::Epoch;

    fn disk(name: &str, bitmaps: Vec<Bitmap>) -> LiveDisk {
        LiveDisk {
            name: DiskName::new(name).expect("a name"),
            node: format!("disk-{name}"),
            path: "/x".into(),
            format: "qcow2".into(),
            size: 1 << 20,
            read_only: false,
            plain_file: false,
            keeps_marks: true,
            bitmaps,
        }
    }

    fn bitmap(granularity: u32) -> Bitmap {
        Bitmap {
            name: "standin:t:3.0".into(),
            recording: true,
            inconsistent: false,
            granularity,
            dirty: 4096,
        }
    }

    fn of(disks: &[LiveDisk]) -> MarkStatus {
        let names = Names::new(&Tracker("t".into())).expect("a tracker");
        status(&names, Mark { epoch: Epoch(3), pass: 0 }, disks)
    }

    #[test]
    fn a_mark_is_complete_only_if_it_records_on_every_disk_alike() {
        let whole = of(&[disk("a", vec![bitmap(4096)]), disk("b", vec![bitmap(4096)])]);
        assert!(whole.complete);
        assert_eq!((whole.granularity, whole.dirty_bytes), (4096, 8192));
        assert!(!of(&[disk("a", vec![bitmap(4096)]), disk("b", vec![])]).complete);
        assert!(!of(&[disk("a", vec![bitmap(4096)]), disk("b", vec![bitmap(65536)])]).complete);
        let broken = Bitmap { inconsistent: true, ..bitmap(4096) };
        assert!(!of(&[disk("a", vec![broken])]).complete);
        let stopped = Bitmap { recording: false, ..bitmap(4096) };
        assert!(!of(&[disk("a", vec![stopped])]).complete);
    }
}
