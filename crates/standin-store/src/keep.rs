//! What the VM of an overlay wrote becomes a recovery point: of a copy that is given up, so that nothing of it is lost.
//!
//! Points are a chain, and an overlay is a branch of it. So the copy becomes a layer over the newest point, with what
//! differs from that, and a second layer leads back:
//!
//! ```text
//!   ... ── newest point ── the copy, pinned ── the newest point again ── what the primary sends next
//!                 └─ overlay ──┘ read
//! ```
//!
//! The primary knows what changed since the newest point, and goes on above the last one as if nothing had happened. Only
//! what the overlay's VM wrote, and what layers above the overlay's point brought, is read and written: the cost grows
//! with what changed on either side since the overlay was made.
//!
//! A crash in between is taken up by the same call: the newest point is pinned until the way back is sealed. Until the call
//! has returned, nobody may send to the replica.

use crate::config;
use crate::error::{Error, Result};
use crate::layer::{Kind, LayerWriter};
use crate::manifest::{Disk, Point};
use crate::overlay::Overlay;
use crate::qcow2::Image;
use crate::reader::PointReader;
use crate::replica::{Replica, record};
use crate::seal::{NewPoint, SealRequest};
use standin_model::{BlockDigest, DiskName, Epoch, PointId, RecoveryPoint};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Bytes that are compared at once; a multiple of every granule.
const CHUNK: u64 = 1 << 20;

/// Why the newest point stays until the way back to it is sealed.
pub(crate) const UNDER_WAY: &str = "a copy of the VM is being kept above it";

impl Replica {
    /// Makes a recovery point of what an overlay shows now, pins it for `reason`, and repeats the newest point above it. The
    /// overlay stays as it is. The VM on it must be off. Called again with the same point after a crash it goes on.
    ///
    /// # Errors
    /// [`Error::UnknownOverlay`]; [`Error::Busy`] when it is committed, a layer is being written, or what was sealed last
    /// is no point; an overlay that cannot be read, or no space.
    pub fn keep_overlay(&self, id: &str, point: NewPoint, reason: &str) -> Result<RecoveryPoint> {
        let overlay = self.find_overlay(id)?;
        let wanted = point.id;
        if self.manifest().point(wanted).is_none() {
            let newest = self.newest_point()?;
            self.pin(newest.id, UNDER_WAY)?;
            self.seal_copy(&overlay, &newest, point)
                .inspect_err(|_| drop(self.unpin(newest.id, UNDER_WAY)))?;
        }
        self.pin(wanted, reason)?;
        self.lead_back(wanted)?;
        let manifest = self.manifest();
        let kept = manifest.point(wanted).ok_or(Error::UnknownPoint { vm: self.vm(), point: wanted })?;
        let before = manifest.points.iter().rev().map(|point| point.epoch).find(|epoch| *epoch < kept.epoch);
        Ok(record(&manifest, kept, before))
    }

    /// The newest point, above which nothing is.
    fn newest_point(&self) -> Result<Point> {
        let manifest = self.manifest();
        let newest = manifest.points.last().filter(|point| Some(point.epoch) == manifest.head());
        let what = || "what it received last is no recovery point".to_owned();
        newest.cloned().ok_or_else(|| Error::Busy { vm: self.vm(), what: what() })
    }

    fn seal_copy(&self, overlay: &Overlay, newest: &Point, point: NewPoint) -> Result<()> {
        let config = overlay.config.as_deref().map_or_else(|| Ok(Vec::new()), config::read)?;
        let (shown, below) = (self.reader_over(overlay)?, self.reader_at(newest.epoch)?);
        let chunks = |disk: &Disk| self.touched(overlay, disk);
        self.seal_differences(&shown, &below, chunks, SealRequest { point: Some(point), config })
    }

    /// Repeats the point below a copy above it, unless that was done.
    fn lead_back(&self, copy: PointId) -> Result<()> {
        let manifest = self.manifest();
        let unknown = || Error::UnknownPoint { vm: self.vm(), point: copy };
        let kept = manifest.point(copy).ok_or_else(unknown)?;
        let under_way = |point: &&Point| point.epoch < kept.epoch && point.pins.contains(UNDER_WAY);
        let Some(newest) = manifest.points.iter().rev().find(under_way) else { return Ok(()) };
        if manifest.head() == Some(kept.epoch) {
            let directory = newest.config_epoch.map(|epoch| self.inner.layout.config_dir(epoch));
            let config = directory.as_deref().map_or_else(|| Ok(Vec::new()), config::read)?;
            let again = NewPoint { id: PointId::random(), created_at: newest.created_at, kind: newest.kind };
            let (shown, below) = (self.reader_at(newest.epoch)?, self.reader_at(kept.epoch)?);
            let layer = |disk: &Disk| chunks_of(&[self.inner.layout.layer(&disk.name, kept.epoch)]);
            self.seal_differences(&shown, &below, layer, SealRequest { point: Some(again), config })?;
        }
        self.unpin(newest.id, UNDER_WAY)
    }

    /// Seals a layer that makes the newest one, `below`, look like `shown`; `chunks` are those in which they can differ.
    fn seal_differences(
        &self,
        shown: &PointReader,
        below: &PointReader,
        chunks: impl Fn(&Disk) -> Result<BTreeSet<u64>>,
        request: SealRequest,
    ) -> Result<()> {
        let manifest = self.manifest();
        let writer = self.begin(Epoch(below.epoch().0 + 1), Kind::Delta)?;
        for disk in &manifest.disks {
            let sides = Sides { shown, below, disk };
            sides.write_differences(&writer, &chunks(disk)?, manifest.granule)?;
        }
        writer.seal(request)?;
        Ok(())
    }

    /// A reader of what the overlay shows.
    fn reader_over(&self, overlay: &Overlay) -> Result<PointReader> {
        let mut reader = self.reader_at(overlay.epoch)?;
        for (name, disk) in &overlay.disks {
            reader.cover(name, Image::open(&disk.path)?)?;
        }
        Ok(reader)
    }

    /// The chunks in which the overlay can differ from the newest layer, by number.
    fn touched(&self, overlay: &Overlay, disk: &Disk) -> Result<BTreeSet<u64>> {
        let layout = &self.inner.layout;
        let newer = disk.layers.iter().filter(|layer| layer.epoch > overlay.epoch);
        let mut files: Vec<_> = newer.map(|layer| layout.layer(&disk.name, layer.epoch)).collect();
        files.extend(overlay.disks.get(&disk.name).map(|disk| disk.path.clone()));
        chunks_of(&files)
    }
}

/// The chunks of which files hold something.
fn chunks_of(files: &[PathBuf]) -> Result<BTreeSet<u64>> {
    let mut chunks = BTreeSet::new();
    for file in files {
        for runs in Image::open(file)?.all_runs() {
            for run in runs? {
                chunks.extend(run.offset / CHUNK..(run.offset + run.length).div_ceil(CHUNK));
            }
        }
    }
    Ok(chunks)
}

/// One disk as it is to look, and as the newest layer has it.
struct Sides<'a> {
    shown: &'a PointReader,
    below: &'a PointReader,
    disk: &'a Disk,
}

impl Sides<'_> {
    fn write_differences(&self, writer: &LayerWriter, chunks: &BTreeSet<u64>, granule: u32) -> Result<()> {
        let name = &self.disk.name;
        for chunk in chunks {
            let offset = chunk * CHUNK;
            let length = CHUNK.min(self.disk.size - offset);
            let shown = self.shown.read(name, offset, length)?;
            let below = self.below.read(name, offset, length)?;
            if shown != below {
                write_granules(writer, name, offset, (&shown, &below), granule)?;
            }
        }
        Ok(())
    }
}

/// Writes the granules that differ, neighbours at once.
fn write_granules(
    writer: &LayerWriter,
    disk: &DiskName,
    offset: u64,
    (shown, below): (&[u8], &[u8]),
    granule: u32,
) -> Result<()> {
    let step = granule as usize;
    let differs: Vec<bool> =
        shown.chunks(step).zip(below.chunks(step)).map(|(ours, theirs)| ours != theirs).collect();
    let mut first = 0;
    for group in differs.chunk_by(|a, b| a == b) {
        let (from, to) = (first * step, shown.len().min((first + group.len()) * step));
        if group[0] {
            let data = &shown[from..to];
            let digests: Vec<BlockDigest> = data.chunks(step).map(BlockDigest::of).collect();
            writer.write(disk, offset + from as u64, data, &digests)?;
        }
        first += group.len();
    }
    Ok(())
}
