//! Reads a point as one disk, from one map of all its layers, however many there are.
//!
//! The map is made in windows of 256 MiB, what one L2 table of every layer covers, when they are first read.
//! It is bounded: the windows used least recently go. So opening takes the same short time for any disk, and
//! the cost of a read does not grow with the chain.

use crate::error::{Error, Result, to_usize};
use crate::manifest::{Disk, Manifest};
use crate::qcow2::format::L2_SPAN;
use crate::qcow2::{Image, State};
use crate::replica::{Replica, lock};
use standin_model::{DiskName, Epoch, PointId};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

/// Pieces of all windows of a disk in memory: 32 bytes each, so 8 MiB.
const MAX_PIECES: usize = 256 << 10;
/// Largest read.
const MAX_READ: u64 = 32 << 20;

/// A run of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// It reads as zeros.
    pub zero: bool,
}

/// Data of a window: what is not in a piece is zeros.
#[derive(Debug, Clone, Copy)]
struct Piece {
    offset: u64,
    length: u64,
    layer: usize,
    host: u64,
}

#[derive(Debug, Default)]
struct Windows {
    map: HashMap<u64, (u64, Arc<Vec<Piece>>)>,
    pieces: usize,
    clock: u64,
}

/// One disk: its layers, the newest first, and what is mapped of them.
#[derive(Debug)]
struct DiskReader {
    size: u64,
    layers: Vec<Image>,
    windows: Mutex<Windows>,
}

/// Reads one point. Calls from several threads run side by side. While it lives, the base is not merged into.
#[derive(Debug)]
pub struct PointReader {
    replica: Replica,
    epoch: Epoch,
    disks: BTreeMap<DiskName, DiskReader>,
}

impl Replica {
    /// A reader of a recovery point.
    ///
    /// # Errors
    /// [`Error::UnknownPoint`], or a layer cannot be opened.
    pub fn reader(&self, point: PointId) -> Result<PointReader> {
        let manifest = self.manifest();
        let found = manifest.point(point).ok_or(Error::UnknownPoint { vm: self.vm(), point })?;
        self.reader_at(found.epoch)
    }

    /// A reader of a sealed epoch, a point or not.
    ///
    /// # Errors
    /// [`Error::UnknownEpoch`] when there is no such layer or it is being merged away.
    pub fn reader_at(&self, epoch: Epoch) -> Result<PointReader> {
        // Held while the files are opened: a merge replaces them under this lock.
        let _guard = self.change_lock();
        let manifest = self.manifest();
        let unknown = || Error::UnknownEpoch { vm: self.vm(), epoch };
        let has = |disk: &Disk| disk.layers.iter().any(|layer| layer.epoch == epoch);
        let merged = |m: &crate::manifest::MergeRecord| m.into_base && m.lower <= epoch && epoch < m.upper;
        if !manifest.disks.iter().all(has) || manifest.merges.iter().any(merged) {
            return Err(unknown());
        }
        let disks = self.open_disks(&manifest, epoch)?;
        *lock(&self.inner.readers).entry(epoch).or_insert(0) += 1;
        Ok(PointReader { replica: self.clone(), epoch, disks })
    }

    fn open_disks(&self, manifest: &Manifest, epoch: Epoch) -> Result<BTreeMap<DiskName, DiskReader>> {
        let mut disks = BTreeMap::new();
        for disk in &manifest.disks {
            let mut layers = Vec::new();
            for layer in disk.layers.iter().rev().filter(|layer| layer.epoch <= epoch) {
                let path = self.inner.layout.layer(&disk.name, layer.epoch);
                let image = Image::open(&path)?;
                if image.size() != disk.size {
                    return Err(Error::corrupt(
                        &path,
                        format!("its disk has {} bytes, not {}", image.size(), disk.size),
                    ));
                }
                layers.push(image);
            }
            let windows = Mutex::new(Windows::default());
            disks.insert(disk.name.clone(), DiskReader { size: disk.size, layers, windows });
        }
        Ok(disks)
    }
}

impl Drop for PointReader {
    fn drop(&mut self) {
        let mut readers = lock(&self.replica.inner.readers);
        if let Some(count) = readers.get_mut(&self.epoch) {
            *count -= 1;
            if *count == 0 {
                readers.remove(&self.epoch);
            }
        }
    }
}

impl PointReader {
    /// The epoch it reads.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Bytes of a disk.
    ///
    /// # Errors
    /// [`Error::UnknownDisk`].
    pub fn size(&self, disk: &DiskName) -> Result<u64> {
        Ok(self.disk(disk)?.size)
    }

    /// Lays an image over a disk: what it holds is read from it.
    pub(crate) fn cover(&mut self, disk: &DiskName, image: Image) -> Result<()> {
        let unknown = || self.replica.unknown_disk(disk);
        let reader = self.disks.get_mut(disk).ok_or_else(unknown)?;
        if image.size() != reader.size {
            let (found, size) = (image.size(), reader.size);
            let what = format!("its disk has {found} bytes, not {size}");
            return Err(Error::corrupt(image.file().path(), what));
        }
        reader.layers.insert(0, image);
        reader.windows = Mutex::default();
        Ok(())
    }

    fn disk(&self, disk: &DiskName) -> Result<&DiskReader> {
        self.disks.get(disk).ok_or_else(|| self.replica.unknown_disk(disk))
    }

    /// `length` bytes of a disk at `offset`; at most 32 MiB.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a range that the disk does not have, or a layer cannot be read.
    pub fn read(&self, disk: &DiskName, offset: u64, length: u64) -> Result<Vec<u8>> {
        let reader = self.disk(disk)?;
        reader.check(offset, length)?;
        if length > MAX_READ {
            return Err(Error::invalid(format!("a read of {length} bytes; {MAX_READ} are possible")));
        }
        let mut data = vec![0; to_usize(length, "read")?];
        reader.each(offset, length, |piece, from, bytes| {
            let at = to_usize(from - offset, "read")?;
            let target = &mut data[at..at + to_usize(bytes, "read")?];
            reader.layers[piece.layer].read_host(target, piece.host + (from - piece.offset))
        })?;
        Ok(data)
    }

    /// The whole range as runs of data and of zeros, ascending.
    ///
    /// # Errors
    /// As [`PointReader::read`], without its limit.
    pub fn extents(&self, disk: &DiskName, offset: u64, length: u64) -> Result<Vec<Extent>> {
        let reader = self.disk(disk)?;
        let end = reader.check(offset, length)?;
        let mut extents: Vec<Extent> = Vec::new();
        let mut done = offset;
        reader.each(offset, length, |_, from, bytes| {
            push(&mut extents, done, from - done, true);
            push(&mut extents, from, bytes, false);
            done = from + bytes;
            Ok(())
        })?;
        push(&mut extents, done, end - done, true);
        Ok(extents)
    }
}

fn push(extents: &mut Vec<Extent>, offset: u64, length: u64, zero: bool) {
    match extents.last_mut() {
        _ if length == 0 => {}
        Some(last) if last.zero == zero && last.offset + last.length == offset => last.length += length,
        _ => extents.push(Extent { offset, length, zero }),
    }
}

impl DiskReader {
    fn check(&self, offset: u64, length: u64) -> Result<u64> {
        offset.checked_add(length).filter(|end| *end <= self.size).ok_or_else(|| {
            Error::invalid(format!("{length} bytes at {offset} lie behind a disk of {} bytes", self.size))
        })
    }

    /// Calls `visit` with every piece of data in a range, ascending: the piece, the first byte, the bytes.
    fn each(
        &self,
        offset: u64,
        length: u64,
        mut visit: impl FnMut(&Piece, u64, u64) -> Result<()>,
    ) -> Result<()> {
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let until = end.min(at - at % L2_SPAN + L2_SPAN);
            let window = self.window(at / L2_SPAN)?;
            let first = window.partition_point(|piece| piece.offset + piece.length <= at);
            for piece in window[first..].iter().take_while(|piece| piece.offset < until) {
                let from = piece.offset.max(at);
                let bytes = until.min(piece.offset + piece.length) - from;
                visit(piece, from, bytes)?;
            }
            at = until;
        }
        Ok(())
    }

    fn window(&self, index: u64) -> Result<Arc<Vec<Piece>>> {
        {
            let mut windows = lock(&self.windows);
            windows.clock += 1;
            let clock = windows.clock;
            if let Some((used, pieces)) = windows.map.get_mut(&index) {
                *used = clock;
                return Ok(Arc::clone(pieces));
            }
        }
        let pieces = Arc::new(self.build(index)?);
        let mut windows = lock(&self.windows);
        while windows.pieces + pieces.len() > MAX_PIECES && !windows.map.is_empty() {
            let oldest = windows.map.iter().min_by_key(|(_, (used, _))| *used).map(|(index, _)| *index);
            if let Some((_, gone)) = oldest.and_then(|index| windows.map.remove(&index)) {
                windows.pieces -= gone.len();
            }
        }
        windows.clock += 1;
        let clock = windows.clock;
        if let Some((_, old)) = windows.map.insert(index, (clock, Arc::clone(&pieces))) {
            windows.pieces -= old.len();
        }
        windows.pieces += pieces.len();
        Ok(pieces)
    }

    /// Goes down the layers; each fills what the newer ones left open.
    fn build(&self, index: u64) -> Result<Vec<Piece>> {
        let start = index * L2_SPAN;
        let mut open = vec![(start, self.size.min(start + L2_SPAN))];
        let mut pieces = Vec::new();
        for (layer, image) in self.layers.iter().enumerate() {
            if open.is_empty() {
                break;
            }
            let runs = image.runs(index)?;
            if runs.is_empty() {
                continue;
            }
            let mut still = Vec::new();
            let mut from = 0;
            for (mut first, last) in open {
                while from < runs.len() && runs[from].offset + runs[from].length <= first {
                    from += 1;
                }
                for run in runs[from..].iter().take_while(|run| run.offset < last) {
                    let (a, b) = (run.offset.max(first), last.min(run.offset + run.length));
                    if first < a {
                        still.push((first, a));
                    }
                    if let State::Data(host) = run.state {
                        pieces.push(Piece { offset: a, length: b - a, layer, host: host + (a - run.offset) });
                    }
                    first = b;
                }
                if first < last {
                    still.push((first, last));
                }
            }
            open = still;
        }
        pieces.sort_unstable_by_key(|piece| piece.offset);
        Ok(pieces)
    }
}
