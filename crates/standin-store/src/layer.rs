//! Writing one layer of a replica: what one cycle brought, on all disks.
//!
//! ```text
//! begin ── write / write_zeroes / checkpoint ... ── seal    files synced, renamed, directories synced,
//!                                                 │         configuration, manifest; then the digest trees
//!                                                 └ drop    a delta's files go; a base's stay for resumption
//! ```
//!
//! Until the manifest lists it, a layer does not exist. Calls run side by side, also those for one disk: only
//! finding a place in the file is done in turn, the data is written without a lock. A call that overlaps one
//! under way waits for it, so that the digest that is kept is that of the data that is kept. After an I/O error
//! the writer is poisoned.

use crate::error::{Error, Result};
use crate::io::free_bytes;
use crate::layout::{layer_name, part};
use crate::manifest::Disk;
use crate::qcow2::{Piece, Writer, format::CLUSTER, write_pieces};
use crate::replica::{Replica, lock};
use crate::runs::Run;
use crate::sidecar::{Shape, SidecarWriter};
use crate::sync::Syncer;
use serde::{Deserialize, Serialize};
use standin_model::digest::{BlockDigest, is_zero_data};
use standin_model::{DiskName, Epoch};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// L2 tables of 64 KiB in memory for all disks of a layer: 8 MiB.
const TABLES: usize = 128;
/// Bytes after which a file is handed to the write-back thread, and free space is measured again.
const WRITE_BACK: u64 = 32 << 20;
/// A checkpoint is made durable at most this often.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(3);

/// What a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The first copy: all of every disk. It can be interrupted and resumed.
    Base,
    /// The changes since the newest sealed epoch.
    Delta,
}

/// How far a first copy is durable.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    watermark: u64,
    changed: u64,
    segments: Vec<crate::sidecar::Segment>,
}

/// The files of one disk while they are written.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) qcow: Writer,
    pub(crate) side: SidecarWriter,
    changed: u64,
    unsynced: u64,
    /// Bytes below this must not be overwritten without lowering it: they are, or are about to be, durable.
    guarded: u64,
    /// Ranges of the disk, begin and end, that are being changed without the lock.
    under_way: Vec<(u64, u64)>,
}

#[derive(Debug)]
pub(crate) struct DiskWriter {
    pub(crate) shape: Shape,
    pub(crate) part: Mutex<Part>,
    /// A range is not under way any more.
    ended: Condvar,
    /// Serialises changes of the progress file; when it was last written.
    pub(crate) progress: Mutex<Option<Instant>>,
}

/// Writes one layer. Dropping it without [`LayerWriter::seal`] removes a delta; a base is kept for resumption.
#[derive(Debug)]
pub struct LayerWriter {
    pub(crate) replica: Replica,
    pub(crate) epoch: Epoch,
    pub(crate) kind: Kind,
    pub(crate) disks: BTreeMap<DiskName, DiskWriter>,
    pub(crate) syncer: Syncer,
    pub(crate) poisoned: AtomicBool,
    since_free_check: AtomicU64,
    /// Dropping it leaves the files alone.
    pub(crate) keep_files: bool,
}

impl Replica {
    /// Begins the layer of `epoch`. A delta goes over the newest sealed epoch, which must be lower; epochs may
    /// skip. A base goes on where an interrupted one stopped: [`LayerWriter::watermark`] says where.
    ///
    /// # Errors
    /// [`Error::Busy`] while another layer is written or after a committed failover, [`Error::NoSpace`],
    /// [`Error::Invalid`] for an epoch that is not above the head, or a base where there is one.
    pub fn begin(&self, epoch: Epoch, kind: Kind) -> Result<LayerWriter> {
        let manifest = self.manifest();
        let busy = |what: String| Error::Busy { vm: manifest.vm, what };
        if let Some(id) = manifest.committed() {
            return Err(busy(format!(
                "its failover (overlay {id:?}) is committed, nothing is received any more"
            )));
        }
        match (kind, manifest.head()) {
            (Kind::Base, None) => {}
            (Kind::Delta, Some(head)) if head < epoch => {}
            (Kind::Base, Some(head)) => {
                return Err(Error::invalid(format!(
                    "a first copy of a replica that has epoch {head} already"
                )));
            }
            (Kind::Delta, head) => {
                let head = head.map_or("none".into(), |head| head.to_string());
                return Err(Error::invalid(format!(
                    "a delta of epoch {epoch}; the newest sealed one is {head}"
                )));
            }
        }
        check_free(self, 0)?;
        if self.inner.writing.swap(true, Ordering::SeqCst) {
            return Err(busy("another layer is being written".into()));
        }
        let mut writer = LayerWriter {
            replica: self.clone(),
            epoch,
            kind,
            disks: BTreeMap::new(),
            syncer: Syncer::default(),
            poisoned: AtomicBool::new(false),
            since_free_check: AtomicU64::new(0),
            keep_files: false,
        };
        let tables = (TABLES / manifest.disks.len().max(1)).max(4);
        for disk in &manifest.disks {
            match writer.open_disk(disk, manifest.head(), tables) {
                Ok(opened) => writer.disks.insert(disk.name.clone(), opened),
                Err(error) => {
                    // The writer knows only the disks before: what was made of this one goes here.
                    writer.give_up(&disk.name);
                    return Err(error);
                }
            };
        }
        Ok(writer)
    }
}

fn check_free(replica: &Replica, wanted: u64) -> Result<()> {
    let path = replica.inner.layout.root();
    let free = free_bytes(path)?;
    let needed = wanted.saturating_add(replica.inner.options.reserve);
    if free < needed {
        return Err(Error::NoSpace { path: path.to_owned(), needed, free });
    }
    Ok(())
}

impl LayerWriter {
    fn open_disk(&self, disk: &Disk, head: Option<Epoch>, tables: usize) -> Result<DiskWriter> {
        let inner = &self.replica.inner;
        let shape = self.replica.shape(disk);
        let layer = part(&inner.layout.layer(&disk.name, self.epoch));
        let sidecar = part(&inner.layout.sidecar(&disk.name, self.epoch));
        let resumed = match self.kind {
            Kind::Base => self.resume(disk, shape, tables).unwrap_or_else(|error| {
                tracing::warn!(vm = %inner.vm, disk = %disk.name, %error, "the first copy begins anew");
                None
            }),
            Kind::Delta => None,
        };
        let part = match resumed {
            Some(part) => part,
            None => {
                inner.io.remove(&inner.layout.progress(&disk.name, self.epoch))?;
                let backing = head.map(layer_name);
                let qcow = Writer::create(&inner.io, &layer, disk.size, backing, tables)?;
                let side = SidecarWriter::create(&inner.io, &sidecar, shape)?;
                Part { qcow, side, changed: 0, unsynced: 0, guarded: 0, under_way: Vec::new() }
            }
        };
        let ended = Condvar::new();
        Ok(DiskWriter { shape, part: Mutex::new(part), ended, progress: Mutex::new(None) })
    }

    fn resume(&self, disk: &Disk, shape: Shape, tables: usize) -> Result<Option<Part>> {
        let inner = &self.replica.inner;
        let path = inner.layout.progress(&disk.name, self.epoch);
        if !path.exists() {
            return Ok(None);
        }
        let text = crate::io::read_limited(&path, 64 << 20)?;
        let progress: Progress =
            serde_json::from_slice(&text).map_err(|e| Error::corrupt(&path, e.to_string()))?;
        let layer = part(&inner.layout.layer(&disk.name, self.epoch));
        let sidecar = part(&inner.layout.sidecar(&disk.name, self.epoch));
        let watermark = progress.watermark.min(disk.size);
        let qcow = Writer::resume(&inner.io, &layer, disk.size, watermark, tables)?;
        let mut side = SidecarWriter::resume(&inner.io, &sidecar, shape, progress.segments)?;
        let first = watermark.div_ceil(u64::from(shape.granule));
        side.push(Run::zero(first, shape.granules() - first))?;
        let under_way = Vec::new();
        Ok(Some(Part { qcow, side, changed: progress.changed, unsynced: 0, guarded: watermark, under_way }))
    }

    /// The epoch that is written.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How far a resumed first copy of a disk is durable, in bytes; 0 for a new one.
    ///
    /// # Errors
    /// [`Error::UnknownDisk`].
    pub fn watermark(&self, disk: &DiskName) -> Result<u64> {
        Ok(lock(&self.disk(disk)?.part).guarded)
    }

    /// Bytes of all disks that were written or zeroed so far.
    #[must_use]
    pub fn changed_bytes(&self) -> u64 {
        self.disks.values().map(|disk| lock(&disk.part).changed).sum()
    }

    /// Bytes of data that went into the files so far.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.disks.values().map(|disk| lock(&disk.part).qcow.written()).sum()
    }

    fn disk(&self, disk: &DiskName) -> Result<&DiskWriter> {
        self.disks.get(disk).ok_or_else(|| self.replica.unknown_disk(disk))
    }

    /// Runs `work`; an error of the file system makes the writer unusable.
    fn guarded<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.poisoned.load(Ordering::SeqCst) {
            return Err(Error::Poisoned);
        }
        let outcome = work();
        if matches!(&outcome, Err(error) if !matches!(error, Error::Invalid(_) | Error::UnknownDisk { .. })) {
            self.poisoned.store(true, Ordering::SeqCst);
        }
        outcome
    }

    /// Writes `data` at `offset`, both aligned to the granule but for the end of the disk, with one digest per
    /// granule. The digests are trusted, as the receiver has verified them; only that a zero digest means
    /// zeros is checked. What was written there before in this layer is replaced.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a range or digests that do not fit; [`Error::NoSpace`] and others poison the writer.
    pub fn write(&self, disk: &DiskName, offset: u64, data: &[u8], digests: &[BlockDigest]) -> Result<()> {
        let writer = self.disk(disk)?;
        let granule = u64::from(writer.shape.granule);
        check_range(writer.shape, offset, data.len() as u64)?;
        if digests.len() as u64 != (data.len() as u64).div_ceil(granule) {
            return Err(Error::invalid(format!("{} digests for {} bytes", digests.len(), data.len())));
        }
        let step = writer.shape.granule as usize;
        let lies = |(digest, granule): (&BlockDigest, &[u8])| digest.is_zero() && !is_zero_data(granule);
        if digests.iter().zip(data.chunks(step)).any(lies) {
            return Err(Error::invalid(format!(
                "data at {offset} of disk {disk} whose digest says that it is zeros"
            )));
        }
        self.guarded(|| {
            self.take_space(data.len() as u64)?;
            self.lower_watermark(disk, writer, offset)?;
            let (claim, mut part) = writer.claim(offset, data.len() as u64);
            let file = part.qcow.handle();
            let (mut at, mut placed) = (0, Vec::new());
            for group in digests.chunk_by(|a, b| a.is_zero() == b.is_zero()) {
                let bytes = &data[at * step..data.len().min((at + group.len()) * step)];
                placed.push((
                    part.put(offset + (at * step) as u64, bytes.len() as u64, group, granule)?,
                    bytes,
                ));
                at += group.len();
            }
            drop(part);
            let cached =
                placed.iter().map(|(pieces, bytes)| write_pieces(&file, pieces, bytes)).sum::<Result<_>>()?;
            drop(claim);
            self.write_back(writer, cached)
        })
    }

    /// Makes a run read as zeros. Aligned as in [`LayerWriter::write`].
    ///
    /// # Errors
    /// As [`LayerWriter::write`].
    pub fn write_zeroes(&self, disk: &DiskName, offset: u64, length: u64) -> Result<()> {
        let writer = self.disk(disk)?;
        check_range(writer.shape, offset, length)?;
        self.guarded(|| {
            self.lower_watermark(disk, writer, offset)?;
            let (_claim, mut part) = writer.claim(offset, length);
            let zeroed = part.zero(offset, length, u64::from(writer.shape.granule));
            // Before the claim, which takes the lock once more when it ends.
            drop(part);
            zeroed
        })
    }

    fn take_space(&self, bytes: u64) -> Result<()> {
        if self.since_free_check.fetch_add(bytes, Ordering::Relaxed) + bytes < WRITE_BACK {
            return Ok(());
        }
        self.since_free_check.store(0, Ordering::Relaxed);
        check_free(&self.replica, bytes)
    }

    /// `cached` more bytes wait in the page cache.
    fn write_back(&self, writer: &DiskWriter, cached: u64) -> Result<()> {
        if cached == 0 {
            return Ok(());
        }
        let mut part = lock(&writer.part);
        part.unsynced += cached;
        if part.unsynced < WRITE_BACK {
            return Ok(());
        }
        part.unsynced = 0;
        self.syncer.request(part.qcow.handle())
    }

    /// A write below the durable watermark of a base makes what is there unsure until the next checkpoint.
    fn lower_watermark(&self, name: &DiskName, writer: &DiskWriter, offset: u64) -> Result<()> {
        if self.kind == Kind::Delta || lock(&writer.part).guarded <= offset {
            return Ok(());
        }
        let mut written = lock(&writer.progress);
        let progress = {
            let mut part = lock(&writer.part);
            part.guarded = part.guarded.min(align_down(offset, writer.shape));
            part.side.flush()?;
            Progress { watermark: part.guarded, changed: part.changed, segments: part.side.segments() }
        };
        // The digests of what stays below the watermark must be as durable as it was.
        lock(&writer.part).side.handle().sync()?;
        self.write_progress(name, &progress)?;
        *written = Some(Instant::now());
        Ok(())
    }

    fn write_progress(&self, disk: &DiskName, progress: &Progress) -> Result<()> {
        let inner = &self.replica.inner;
        let text = serde_json::to_vec(progress).map_err(|e| Error::invalid(e.to_string()))?;
        inner.io.write_atomic(&inner.layout.progress(disk, self.epoch), &text)
    }

    /// Tells that everything of a disk of a first copy below `watermark` has been written. Made durable every
    /// few seconds, so that an interrupted copy goes on there; cheap otherwise. Nothing for a delta.
    ///
    /// # Errors
    /// [`Error::Invalid`] behind the end of the disk; others poison the writer.
    pub fn checkpoint(&self, disk: &DiskName, watermark: u64) -> Result<()> {
        let writer = self.disk(disk)?;
        if watermark > writer.shape.size {
            return Err(Error::invalid(format!("a watermark of {watermark} behind the end of disk {disk}")));
        }
        let due = |last: &Option<Instant>| last.is_none_or(|last| last.elapsed() >= CHECKPOINT_EVERY);
        let Ok(mut last) = writer.progress.try_lock() else { return Ok(()) };
        if self.kind == Kind::Delta || (!due(&last) && watermark < writer.shape.size) {
            return Ok(());
        }
        self.guarded(|| self.make_durable(disk, writer, watermark))?;
        *last = Some(Instant::now());
        Ok(())
    }

    /// Syncs what is written and records that a first copy is durable up to `watermark`. The caller holds the
    /// lock of the progress file.
    pub(crate) fn make_durable(&self, disk: &DiskName, writer: &DiskWriter, watermark: u64) -> Result<()> {
        let (mut progress, files) = {
            let mut part = lock(&writer.part);
            let aligned = align_down(watermark, writer.shape);
            part.qcow.flush()?;
            part.side.flush()?;
            part.guarded = part.guarded.max(aligned);
            let segments = part.side.segments();
            let progress = Progress { watermark: aligned, changed: part.changed, segments };
            (progress, [part.qcow.handle(), part.side.handle()])
        };
        files.iter().try_for_each(|file| file.sync())?;
        // A write below it may have come meanwhile; it waits for the lock of the progress file.
        progress.watermark = progress.watermark.min(lock(&writer.part).guarded);
        self.write_progress(disk, &progress)
    }

    /// Throws the layer away, a base with all its progress too.
    ///
    /// # Errors
    /// When a file cannot be removed; it goes at the next start.
    pub fn discard(mut self) -> Result<()> {
        self.keep_files = true;
        self.syncer.stop()?;
        self.remove_files()
    }

    pub(crate) fn remove_files(&self) -> Result<()> {
        self.disks.keys().try_for_each(|disk| self.remove_files_of(disk))
    }

    fn remove_files_of(&self, disk: &DiskName) -> Result<()> {
        let inner = &self.replica.inner;
        inner.io.remove(&inner.layout.progress(disk, self.epoch))?;
        for path in [inner.layout.layer(disk, self.epoch), inner.layout.sidecar(disk, self.epoch)] {
            inner.io.remove(&part(&path))?;
            inner.io.remove(&path)?;
        }
        Ok(())
    }

    /// Removes what was made of a disk that could not be opened. Of a base it stays, as all of it does.
    fn give_up(&self, disk: &DiskName) {
        if self.kind == Kind::Base {
            return;
        }
        if let Err(error) = self.remove_files_of(disk) {
            let vm = self.replica.inner.vm;
            tracing::warn!(%vm, %disk, epoch = %self.epoch, %error, "a layer that was not begun goes at the next start");
        }
    }
}

impl Drop for LayerWriter {
    fn drop(&mut self) {
        if !self.keep_files && self.kind == Kind::Delta {
            if let Err(error) = self.remove_files() {
                let vm = self.replica.inner.vm;
                tracing::warn!(%vm, epoch = %self.epoch, %error, "a layer that was given up goes at the next start");
            }
        }
        self.replica.inner.writing.store(false, Ordering::SeqCst);
    }
}

/// A range of a disk that nobody else may change. Ends with itself; the lock of the part must not be held then.
struct Claim<'a> {
    writer: &'a DiskWriter,
    range: (u64, u64),
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut part = lock(&self.writer.part);
        if let Some(at) = part.under_way.iter().position(|range| *range == self.range) {
            part.under_way.swap_remove(at);
        }
        drop(part);
        self.writer.ended.notify_all();
    }
}

impl DiskWriter {
    /// Waits until nothing is under way that overlaps, and takes the lock.
    fn claim(&self, offset: u64, length: u64) -> (Claim<'_>, MutexGuard<'_, Part>) {
        let range = (offset, offset + length);
        let overlaps =
            |part: &mut Part| part.under_way.iter().any(|(from, to)| *from < range.1 && range.0 < *to);
        let part = self.ended.wait_while(lock(&self.part), overlaps);
        let mut part = part.unwrap_or_else(PoisonError::into_inner);
        part.under_way.push(range);
        (Claim { writer: self, range }, part)
    }
}

impl Part {
    /// Finds the place of granules that are all not zeros; makes those that are all zeros zeros.
    fn put(&mut self, offset: u64, length: u64, digests: &[BlockDigest], granule: u64) -> Result<Vec<Piece>> {
        if digests.first().is_some_and(BlockDigest::is_zero) {
            return self.zero(offset, length, granule).map(|()| Vec::new());
        }
        let pieces = self.qcow.place(offset, length)?;
        self.side.push(Run::data(offset / granule, digests.to_vec()))?;
        self.changed += length;
        Ok(pieces)
    }

    fn zero(&mut self, offset: u64, length: u64, granule: u64) -> Result<()> {
        self.qcow.write_zeroes(offset, length)?;
        self.side.push(Run::zero(offset / granule, length.div_ceil(granule)))?;
        self.changed += length;
        Ok(())
    }
}

fn align_down(offset: u64, shape: Shape) -> u64 {
    if offset >= shape.size { offset } else { offset - offset % CLUSTER.max(u64::from(shape.granule)) }
}

fn check_range(shape: Shape, offset: u64, length: u64) -> Result<()> {
    let granule = u64::from(shape.granule);
    let end = offset.checked_add(length).filter(|end| *end <= shape.size);
    if length == 0 && end.is_some() {
        return Ok(());
    }
    let aligned = |end: u64| offset % granule == 0 && (end % granule == 0 || end == shape.size);
    match end {
        Some(end) if aligned(end) => Ok(()),
        Some(_) => Err(Error::invalid(format!(
            "{length} bytes at {offset} are not aligned to granules of {granule}"
        ))),
        None => Err(Error::invalid(format!(
            "{length} bytes at {offset} lie behind a disk of {} bytes",
            shape.size
        ))),
    }
}
