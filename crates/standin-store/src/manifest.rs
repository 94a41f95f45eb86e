//! The manifest of a replica: its disks, layers, recovery points, configurations and overlays.
//!
//! It is JSON for people, followed by one line with its BLAKE3 digest for programs, and it is replaced
//! atomically. It is the truth about what is sealed: a layer that it does not list does not exist, whatever
//! lies in the directory.
//!
//! # Rescue by hand
//!
//! Without standin, on any machine with QEMU, in the replica's directory:
//!
//! 1. Choose a point in `manifest.json` under `points`; take its `epoch`, written with 12 digits, say
//!    `000000000042`.
//! 2. Run the disk from an overlay, so that the replica stays as it is:
//!    `qemu-img create -f qcow2 -F qcow2 -b "$PWD/disks/vda/000000000042.qcow2" /somewhere/vda.qcow2`
//! 3. Or copy it out: `qemu-img convert -O qcow2 disks/vda/000000000042.qcow2 /somewhere/vda.qcow2`
//! 4. `config/<config_epoch of the point>/` holds the VM's definition and the files that it names.
//!
//! `qemu-img info --backing-chain disks/vda/000000000042.qcow2` shows the chain. Nothing there may be written
//! to, not even by `qemu-img commit` or `qemu-img check -r`: the layers belong to all points.

use crate::checked;
use crate::error::{Error, Result};
use crate::layout::check_component;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use standin_model::{DiskName, Epoch, Generation, PointId, PointKind, VmId, VmName};
use std::collections::BTreeSet;

/// The format that this build writes and reads.
pub const FORMAT: u32 = 1;
/// Largest manifest that is read.
pub const MAX_MANIFEST: u64 = 64 << 20;

const MAX_LAYERS: usize = 100_000;
const MAX_DISKS: usize = 256;

/// One sealed file of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The newest epoch whose changes it holds; its file name.
    pub epoch: Epoch,
    /// Bytes it takes on the file system, with its sidecar.
    pub stored: u64,
}

/// A disk of the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Its name.
    pub name: DiskName,
    /// Bytes the guest sees.
    pub size: u64,
    /// Base first, then ascending.
    pub layers: Vec<Layer>,
}

/// A recovery point as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Chosen by the primary.
    pub id: PointId,
    /// Every disk has a layer of this epoch.
    pub epoch: Epoch,
    /// The instant of the cut.
    pub created_at: Timestamp,
    /// When it was sealed here.
    pub received_at: Timestamp,
    /// How the guest was.
    pub kind: PointKind,
    /// Bytes written by its cycle, zeros counted in full.
    pub changed_bytes: u64,
    /// See [`crate::point_digest`].
    pub digest: String,
    /// Why it must stay; empty when retention may drop it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub pins: BTreeSet<String>,
    /// Where its configuration is, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_epoch: Option<Epoch>,
}

/// A file of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigEntry {
    /// Its name in the directory.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Hexadecimal BLAKE3.
    pub digest: String,
}

/// The configuration of the VM at an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Names its directory.
    pub epoch: Epoch,
    /// What is in it.
    pub files: Vec<ConfigEntry>,
}

/// What an overlay is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The VM itself runs on it.
    Failover,
    /// A rehearsal.
    Test,
}

/// Where an overlay reads what it does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backing {
    /// Its header names the layer; QEMU opens the chain by itself.
    Chain,
    /// The chain is too long for QEMU: the caller serves the point's reader by NBD as the backing.
    Map,
}

/// A writable copy of a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverlayRecord {
    /// Its name; its directory.
    pub id: String,
    /// The point it stands on. The point's record may be gone after a commit; the epoch counts.
    pub point: PointId,
    /// Every layer up to this is frozen.
    pub epoch: Epoch,
    /// What for.
    pub purpose: Purpose,
    /// How it reads.
    pub backing: Backing,
    /// When it was made.
    pub created_at: Timestamp,
    /// It has become the VM's disk.
    #[serde(default)]
    pub committed: bool,
}

/// A merge that has begun to change files in place or to replace them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeRecord {
    /// Of which disk.
    pub disk: DiskName,
    /// The layer that goes.
    pub lower: Epoch,
    /// The layer whose name stays.
    pub upper: Epoch,
    /// `lower` is the base and is written in place.
    pub into_base: bool,
}

/// All that is known about one replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The VM.
    pub vm: VmId,
    /// Its name.
    pub name: VmName,
    /// When the replica was made.
    pub created_at: Timestamp,
    /// What a version before kept of the relationship's generation: 0 in a replica that it did not write.
    pub generation: Generation,
    /// Bytes of a granule: what one digest covers.
    pub granule: u32,
    /// The relationship was removed; the files stay until somebody deletes them.
    #[serde(default)]
    pub detached: bool,
    /// Its disks, in the order of the relationship.
    pub disks: Vec<Disk>,
    /// Its points, ascending by epoch.
    pub points: Vec<Point>,
    /// Configurations, ascending by epoch.
    #[serde(default)]
    pub configs: Vec<Config>,
    /// Overlays.
    #[serde(default)]
    pub overlays: Vec<OverlayRecord>,
    /// Merges that must be finished.
    #[serde(default)]
    pub merges: Vec<MergeRecord>,
    /// What a version before kept of the engine's record. Now the engine has a file of its own beside this one.
    #[serde(default)]
    pub engine: serde_json::Value,
}

impl Manifest {
    /// The newest sealed epoch.
    #[must_use]
    pub fn head(&self) -> Option<Epoch> {
        self.disks.first()?.layers.last().map(|layer| layer.epoch)
    }

    /// A disk by name.
    #[must_use]
    pub fn disk(&self, name: &DiskName) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.name == *name)
    }

    /// A point by id.
    #[must_use]
    pub fn point(&self, id: PointId) -> Option<&Point> {
        self.points.iter().find(|point| point.id == id)
    }

    /// Layers up to this epoch are frozen: an overlay stands on them.
    #[must_use]
    pub fn frozen(&self) -> Option<Epoch> {
        self.overlays.iter().map(|overlay| overlay.epoch).max()
    }

    /// The id of the overlay that has become the VM's disk.
    #[must_use]
    pub fn committed(&self) -> Option<&str> {
        self.overlays.iter().find(|overlay| overlay.committed).map(|overlay| overlay.id.as_str())
    }

    /// The text of the file.
    ///
    /// # Errors
    /// When it cannot be written as JSON; a bug.
    pub fn render(&self) -> Result<Vec<u8>> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::invalid(format!("the manifest cannot be written: {e}")))?;
        Ok(checked::seal(text))
    }

    fn validate(&self) -> std::result::Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("it has format {}, this build reads {FORMAT}", self.format));
        }
        check_granule(self.granule).map_err(|e| e.to_string())?;
        if self.disks.is_empty() || self.disks.len() > MAX_DISKS {
            return Err(format!("it has {} disks", self.disks.len()));
        }
        let names: BTreeSet<_> = self.disks.iter().map(|disk| &disk.name).collect();
        if names.len() != self.disks.len() {
            return Err("two disks have one name".into());
        }
        self.disks.iter().try_for_each(|disk| validate_disk(disk, self.head()))?;
        ascending("points", self.points.iter().map(|point| point.epoch))?;
        ascending("configurations", self.configs.iter().map(|config| config.epoch))?;
        for point in &self.points {
            if self.disks.iter().any(|disk| disk.layers.iter().all(|layer| layer.epoch != point.epoch)) {
                return Err(format!("point {} has no layer on some disk", point.id));
            }
            if let Some(epoch) = point.config_epoch.filter(|e| self.configs.iter().all(|c| c.epoch != *e)) {
                return Err(format!("point {} has no configuration of epoch {epoch}", point.id));
            }
        }
        let overlays = self.overlays.iter().map(|overlay| ("overlay", &overlay.id));
        let files = self.configs.iter().flat_map(|c| &c.files).map(|file| ("configuration file", &file.name));
        overlays
            .chain(files)
            .try_for_each(|(what, name)| check_component(what, name).map_err(|e| e.to_string()))
    }
}

fn validate_disk(disk: &Disk, head: Option<Epoch>) -> std::result::Result<(), String> {
    if disk.size == 0 || disk.size % 512 != 0 || disk.size > crate::qcow2::format::MAX_DISK {
        return Err(format!("disk {} has the impossible size {}", disk.name, disk.size));
    }
    if disk.layers.len() > MAX_LAYERS || disk.layers.last().map(|layer| layer.epoch) != head {
        return Err(format!(
            "disk {} has {} layers and another newest one than the first disk",
            disk.name,
            disk.layers.len()
        ));
    }
    ascending("layers", disk.layers.iter().map(|layer| layer.epoch))
}

fn ascending(what: &str, epochs: impl Iterator<Item = Epoch>) -> std::result::Result<(), String> {
    let mut last = None;
    for epoch in epochs {
        if last.is_some_and(|last| last >= epoch) {
            return Err(format!("its {what} do not ascend at epoch {epoch}"));
        }
        last = Some(epoch);
    }
    Ok(())
}

/// Whether a granule can be used.
///
/// # Errors
/// [`Error::Invalid`] with the rule.
pub(crate) fn check_granule(granule: u32) -> Result<()> {
    if granule.is_power_of_two() && (4096..=1 << 20).contains(&granule) {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "a granule of {granule} bytes: a power of two from 4 KiB to 1 MiB is possible"
        )))
    }
}

/// Reads the bytes of a manifest. Whatever they are, the answer is a manifest that holds together or a
/// sentence that says what is wrong; this is what the fuzzer calls.
///
/// # Errors
/// A sentence.
pub fn parse(bytes: &[u8]) -> std::result::Result<Manifest, String> {
    if bytes.len() as u64 > MAX_MANIFEST {
        return Err(format!("it is larger than {MAX_MANIFEST} bytes"));
    }
    let body = checked::body(bytes)?;
    let manifest: Manifest = serde_json::from_slice(body).map_err(|e| format!("it cannot be read: {e}"))?;
    manifest.validate()?;
    Ok(manifest)
}

/// The format of a manifest that is whole and of a later version than this one.
pub(crate) fn newer_format(bytes: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Probe {
        format: u32,
    }
    let probe: Probe = serde_json::from_slice(checked::body(bytes).ok()?).ok()?;
    (probe.format > FORMAT).then_some(probe.format)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let layer = |epoch| Layer { epoch: Epoch(epoch), stored: 4096 };
        let now = Timestamp::UNIX_EPOCH;
        Manifest {
            format: FORMAT,
            vm: VmId::random(),
            name: VmName::new("web").expect("a name"),
            created_at: now,
            generation: Generation(1),
            granule: 4096,
            detached: false,
            disks: vec![Disk {
                name: DiskName::new("vda").expect("a name"),
                size: 1 << 20,
                layers: vec![layer(0), layer(1)],
            }],
            points: vec![Point {
                id: PointId::random(),
                epoch: Epoch(1),
                created_at: now,
                received_at: now,
                kind: PointKind::Standard,
                changed_bytes: 4096,
                digest: "00".into(),
                pins: BTreeSet::new(),
                config_epoch: None,
            }],
            configs: Vec::new(),
            overlays: Vec::new(),
            merges: Vec::new(),
            engine: serde_json::json!({"state": 3}),
        }
    }

    #[test]
    fn a_manifest_survives_its_text() {
        let text = manifest().render().expect("renders");
        let read = parse(&text).expect("parses");
        assert_eq!(read.render().expect("renders"), text);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let text = manifest().render().expect("renders");
        for bit in 0..text.len() * 8 {
            let mut damaged = text.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&damaged).is_err(), "bit {bit}");
        }
        for cut in 0..text.len() {
            assert!(parse(&text[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_manifest_that_does_not_hold_together_is_refused_even_with_a_good_checksum() {
        let spoil: [fn(&mut Manifest); 8] = [
            |m| m.format = 2,
            |m| m.granule = 1000,
            |m| m.disks[0].size = 513,
            |m| m.disks[0].layers.swap(0, 1),
            |m| m.disks[0].layers.truncate(1),
            |m| m.disks.push(m.disks[0].clone()),
            |m| m.disks.clear(),
            |m| m.points[0].config_epoch = Some(Epoch(1)),
        ];
        for (number, spoil) in spoil.into_iter().enumerate() {
            let mut bad = manifest();
            spoil(&mut bad);
            assert!(parse(&bad.render().expect("renders")).is_err(), "case {number}");
        }
    }
}
