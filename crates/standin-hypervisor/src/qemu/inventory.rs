//! The disks of a running QEMU: which nodes they are on, and which bitmaps those have. Asked anew each time,
//! because the generated names of an adopted VM's nodes change at every start.

use super::image::keeps_marks;
use super::machine::{Machine, Origin, Vm};
use super::names;
use crate::error::Error;
use crate::qmp::{Qmp, json};
use crate::seam::DiskInfo;
use serde_json::{Value, json as value};
use standin_model::DiskName;
use std::path::PathBuf;

/// Nodes between a device and its image that pass everything through.
const FILTERS: [&str; 7] =
    ["copy-before-write", "copy-on-read", "throttle", "compress", "preallocate", "mirror_top", "commit_top"];
/// Why a read-only disk does not replicate.
pub(crate) const READ_ONLY: &str = "it is read-only and never changes; leave it out of the replication";
/// How many of those are followed at most.
const MAX_FILTERS: usize = 16;

/// A disk of a running VM.
#[derive(Debug, Clone)]
pub(crate) struct LiveDisk {
    /// Name in the VM.
    pub name: DiskName,
    /// The node in the image's format: bitmaps are here.
    pub node: String,
    /// The image.
    pub path: PathBuf,
    /// QEMU's name of the format.
    pub format: String,
    /// What the guest sees, in bytes.
    pub size: u64,
    /// The guest cannot write.
    pub read_only: bool,
    /// A raw file that QEMU reads and writes through the page cache: whoever reads the file sees what it does.
    pub plain_file: bool,
    /// Marks can be persistent.
    pub keeps_marks: bool,
    /// Every bitmap of the node.
    pub bitmaps: Vec<Bitmap>,
}

/// A dirty bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bitmap {
    /// Its name.
    pub name: String,
    /// It records writes.
    pub recording: bool,
    /// It came from a file that was not closed in order.
    pub inconsistent: bool,
    /// Bytes per bit.
    pub granularity: u32,
    /// Dirty bytes.
    pub dirty: u64,
}

/// Everything in QEMU's block layer that the driver looks at.
#[derive(Debug, Clone)]
pub(crate) struct Inventory {
    /// The VM's disks.
    pub disks: Vec<LiveDisk>,
    /// Names of all nodes.
    pub nodes: Vec<String>,
    /// All bitmaps, with their nodes.
    pub bitmaps: Vec<(String, Bitmap)>,
}

impl Inventory {
    /// Asks QEMU.
    pub async fn take(vm: &Vm, machine: &Machine) -> Result<Self, Error> {
        let nodes = machine.qmp.execute("query-named-block-nodes", value!({ "flat": true })).await?;
        let nodes = json::items(&nodes);
        let disks = match vm.origin {
            Origin::Owned => owned(vm, nodes),
            Origin::Adopted { .. } => adopted(&machine.qmp, nodes).await?,
        };
        let name = |node: &Value| json::text(node, "node-name").to_owned();
        let bitmaps = nodes.iter().flat_map(|node| bitmaps(node).into_iter().map(move |b| (name(node), b)));
        Ok(Self { disks, nodes: nodes.iter().map(name).collect(), bitmaps: bitmaps.collect() })
    }

    /// The disks of a request, in its order.
    pub fn select(&self, vm: &Vm, wanted: &[DiskName]) -> Result<Vec<LiveDisk>, Error> {
        wanted
            .iter()
            .map(|name| {
                let found = self.disks.iter().find(|disk| disk.name == *name);
                let disk = found.ok_or_else(|| Error::UnknownDisk { vm: vm.id, disk: name.clone() })?;
                match problem(disk) {
                    Some(problem) => Err(Error::DiskProblem { disk: name.clone(), problem }),
                    None => Ok(disk.clone()),
                }
            })
            .collect()
    }
}

impl LiveDisk {
    /// As the seam shows it.
    pub fn info(&self) -> DiskInfo {
        DiskInfo {
            name: self.name.clone(),
            path: self.path.clone(),
            format: self.format.clone(),
            size: self.size,
            read_only: self.read_only,
            problem: problem(self),
        }
    }

    /// A bitmap of its node.
    pub fn bitmap(&self, name: &str) -> Option<&Bitmap> {
        self.bitmaps.iter().find(|bitmap| bitmap.name == name)
    }
}

fn problem(disk: &LiveDisk) -> Option<String> {
    if disk.read_only {
        return Some(READ_ONLY.to_owned());
    }
    if !matches!(disk.format.as_str(), "raw" | "qcow2") {
        return Some(format!("its format {} cannot be tracked; convert it to qcow2 or raw", disk.format));
    }
    if disk.size == 0 || disk.size % 512 != 0 {
        return Some(format!("its size of {} bytes is not a multiple of 512", disk.size));
    }
    None
}

fn owned(vm: &Vm, nodes: &[Value]) -> Vec<LiveDisk> {
    let definition = vm.definition();
    let disks = definition.disks.iter().filter_map(|disk| {
        let node = find(nodes, &names::disk_node(&disk.name))?;
        Some(LiveDisk { path: disk.file.clone(), ..live_disk(disk.name.clone(), node, nodes) })
    });
    disks.collect()
}

fn find<'a>(nodes: &'a [Value], name: &str) -> Option<&'a Value> {
    nodes.iter().find(|node| json::text(node, "node-name") == name)
}

/// See [`LiveDisk::plain_file`]. With options (an offset, a layer of encryption) QEMU shows no plain name.
fn plain_file(node: &Value, nodes: &[Value]) -> bool {
    let shown = json::text(node, "file");
    let direct = |node: &Value| node.pointer("/cache/direct").and_then(Value::as_bool) != Some(false);
    let same = || nodes.iter().filter(|other| json::text(other, "file") == shown);
    json::text(node, "drv") == "raw"
        && shown.starts_with('/')
        && same().any(|other| json::text(other, "drv") == "file")
        && !same().any(direct)
}

fn live_disk(name: DiskName, node: &Value, nodes: &[Value]) -> LiveDisk {
    let image = node.get("image").unwrap_or(&Value::Null);
    LiveDisk {
        name,
        node: json::text(node, "node-name").to_owned(),
        path: image_path(json::text(node, "file")),
        format: json::text(node, "drv").to_owned(),
        size: json::number(image, "virtual-size"),
        read_only: json::flag(node, "ro"),
        plain_file: plain_file(node, nodes),
        keeps_marks: keeps_marks(image) && !json::flag(node, "ro"),
        bitmaps: bitmaps(node),
    }
}

/// QEMU shows a file that was given with options as `json:{...}`.
fn image_path(shown: &str) -> PathBuf {
    let options = shown.strip_prefix("json:").and_then(|text| serde_json::from_str::<Value>(text).ok());
    let inner = options.as_ref().and_then(|options| {
        ["/file/filename", "/filename"].iter().find_map(|path| options.pointer(path)?.as_str())
    });
    inner.unwrap_or(shown).into()
}

fn bitmaps(node: &Value) -> Vec<Bitmap> {
    let read = |bitmap: &Value| Bitmap {
        name: json::text(bitmap, "name").to_owned(),
        recording: json::flag(bitmap, "recording"),
        inconsistent: json::flag(bitmap, "inconsistent"),
        granularity: u32::try_from(json::number(bitmap, "granularity")).unwrap_or_default(),
        dirty: json::number(bitmap, "count"),
    };
    json::list(node, "dirty-bitmaps").iter().map(read).filter(|bitmap| !bitmap.name.is_empty()).collect()
}

async fn adopted(qmp: &Qmp, nodes: &[Value]) -> Result<Vec<LiveDisk>, Error> {
    let devices = qmp.execute("query-block", Value::Null).await?;
    let mut graph = None;
    let mut disks: Vec<LiveDisk> = Vec::new();
    for device in json::items(&devices).iter().filter(|device| is_disk(device)) {
        let Some(inserted) = device.get("inserted") else { continue };
        let mut node = json::text(inserted, "node-name").to_owned();
        if FILTERS.contains(&json::text(inserted, "drv")) {
            if graph.is_none() {
                graph = Some(qmp.execute("x-debug-query-block-graph", Value::Null).await?);
            }
            node = graph.as_ref().map_or(node.clone(), |graph| below_filters(graph, nodes, node));
        }
        let Some(node) = find(nodes, &node) else { continue };
        let name = unique(disk_name(device, disks.len()), &disks)?;
        disks.push(live_disk(name, node, nodes));
    }
    Ok(disks)
}

/// A disk of the guest: no CD drive, no floppy drive, no firmware.
fn is_disk(device: &Value) -> bool {
    let place = json::text(device, "qdev");
    let firmware =
        place.starts_with("/machine/system.flash") || json::text(device, "device").starts_with("pflash");
    !json::flag(device, "removable") && !place.is_empty() && !firmware
}

fn below_filters(graph: &Value, nodes: &[Value], top: String) -> String {
    let named = |name: &str| json::list(graph, "nodes").iter().find(|node| json::text(node, "name") == name);
    let mut current = top;
    for _ in 0..MAX_FILTERS {
        let is_filter = find(nodes, &current).is_some_and(|node| FILTERS.contains(&json::text(node, "drv")));
        let Some(id) = named(&current).map(|node| json::number(node, "id")).filter(|_| is_filter) else {
            break;
        };
        let below = json::list(graph, "edges").iter().find(|edge| {
            json::number(edge, "parent") == id && matches!(json::text(edge, "name"), "file" | "backing")
        });
        let Some(child) = below.map(|edge| json::number(edge, "child")) else { break };
        let Some(next) = json::list(graph, "nodes").iter().find(|node| json::number(node, "id") == child)
        else {
            break;
        };
        current = json::text(next, "name").to_owned();
    }
    current
}

/// A name that stays the same over restarts, where QEMU was given one: of the device, else of its drive.
fn disk_name(device: &Value, index: usize) -> String {
    let place = json::text(device, "qdev");
    let id = match place.strip_prefix("/machine/peripheral/") {
        Some(rest) => rest.split('/').next().unwrap_or_default(),
        None if place.starts_with('/') => "",
        None => place,
    };
    let node = device.get("inserted").map(|inserted| json::text(inserted, "node-name")).unwrap_or_default();
    let candidates = [id, json::text(device, "device"), node];
    let given = candidates.into_iter().find(|name| !name.is_empty() && !name.starts_with('#'));
    let given = given.map(|name| name.trim_start_matches("dev-")).unwrap_or_default();
    let clean = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let name: String = given.chars().map(clean).take(60).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if name.is_empty() { format!("disk{index}") } else { name.to_owned() }
}

fn unique(name: String, taken: &[LiveDisk]) -> Result<DiskName, Error> {
    let free = |candidate: &String| taken.iter().all(|disk| disk.name.as_str() != candidate);
    let mut candidates = std::iter::once(name.clone()).chain((2..1000).map(|n| format!("{name}-{n}")));
    let name = candidates.find(free).unwrap_or(name);
    DiskName::new(name).map_err(|error| Error::Internal(error.to_string()))
}

#[cfg(test)]
mod tests;
