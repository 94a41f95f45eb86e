//! One pass over disks: which runs to send, read, encode, send in order.
//!
//! ```text
//! extents -> batches (about 1 MiB or 64 runs) -> read + digest + compress, a window of them side by side
//!                                             -> sent in order, so that "all below X" is a watermark
//! ```
//!
//! Memory is bounded by the window, and used again and again. CPU work runs on blocking threads, reading too
//! where the disk is local; the relationship's task only forwards.

use super::ledger::Ledger;
use super::session::Session;
use super::thrift::Thrift;
use crate::error::WorkError;
use crate::jobs::Progress;
use crate::messages::Request;
use bytes::Bytes;
use standin_hypervisor::{DiskReader, Extent, LocalDisk};
use standin_model::digest::{DeltaDigest, is_zero_data};
use standin_wire::Pool;
use standin_wire::block::{self, Compression, EncodedBlock};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Bytes of a run that is read at once. 256 KiB requests, 16 in flight, read QEMU's exports fastest.
pub(super) const BATCH_BYTES: u64 = 256 << 10;
/// Runs of about so many bytes are read and encoded by one task: waking a thread costs as much as hashing a run.
const BATCH_DATA: u64 = 1 << 20;
/// Runs in a batch: scattered 4 KiB changes share the cost of a task.
const BATCH_RUNS: usize = 64;
/// Batches under way, each with one read in flight. With a batch's data in two forms, 12 of them are about 24 MiB.
const WINDOW: usize = 12;
/// The same of a disk that is read on the threads which encode: enough to keep the processors busy.
const LOCAL_WINDOW: usize = 4;
/// How much of a disk is asked for its extents at once; bounds the list that comes back.
const EXTENT_WINDOW: u64 = 32 << 30;
/// A dirty run at least this long is asked for its holes before it is read.
const ASK_ALLOCATION: u64 = 1 << 20;
/// Between watermarks of a first copy.
const WATERMARK_EVERY: u64 = 64 << 20;
/// A run of zeros inside a batch that is worth a frame of its own.
const ZERO_RUN: u64 = 64 << 10;

/// What of a disk a pass sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// What changed since the view's mark.
    Dirty,
    /// Everything from an offset on: a first copy.
    From(u64),
}

/// One disk of a pass.
#[derive(Clone)]
pub struct DiskPass {
    /// Its block stream.
    pub stream: u16,
    /// Where it is read.
    pub reader: Arc<dyn DiskReader>,
    /// What of it.
    pub select: Select,
}

/// How a pass is sent, and what can end it.
#[derive(Clone)]
pub struct PassControl {
    /// Bytes of a granule: the unit of digests.
    pub granule: u32,
    /// How blocks are compressed, where the link is slow enough for that to pay.
    pub compression: Compression,
    /// Raised as data is sent.
    pub progress: Arc<Progress>,
    /// Somebody wants the end.
    pub cancel: CancellationToken,
    /// The view broke.
    pub failure: watch::Receiver<Option<String>>,
    /// Learns what is sent.
    pub ledger: Arc<Ledger>,
}

/// What a pass did.
#[derive(Debug, Default, Clone)]
pub struct PassTotals {
    /// Bytes of the disks that were sent, zeros included.
    pub bytes: u64,
    /// The digest by stream.
    pub digests: BTreeMap<u16, DeltaDigest>,
}

impl PassTotals {
    /// Adds a block that goes on the wire.
    pub(super) fn add(&mut self, encoded: &EncodedBlock) {
        let header = encoded.header();
        let digest = self.digests.entry(header.stream).or_default();
        add_to_digest(digest, header.offset, header.length, header.granule, encoded.digests());
        self.bytes += header.length;
    }

    /// The message that closes the pass.
    #[must_use]
    pub fn pass_end(&self) -> Request {
        let digests = self.digests.iter().map(|(stream, digest)| (*stream, digest.to_string())).collect();
        Request::PassEnd { digests }
    }
}

/// Adds a block's granules to the digest of a pass; both sides do it alike. A block without digests is zeros.
pub fn add_to_digest(
    digest: &mut DeltaDigest,
    offset: u64,
    length: u64,
    granule: u32,
    digests: &[standin_model::digest::BlockDigest],
) {
    if digests.is_empty() {
        digest.add_zero(offset, length);
        return;
    }
    let mut at = offset;
    for block in digests {
        let size = u64::from(granule).min(offset + length - at);
        digest.add_block(at, size, *block);
        at += size;
    }
}

/// Sends what `disks` select. On success everything was handed to the connection, not yet acknowledged.
///
/// # Errors
/// The first thing that went wrong; the session is then of no more use for this layer.
pub async fn send(
    session: &mut Session,
    disks: &[DiskPass],
    control: &PassControl,
) -> Result<PassTotals, WorkError> {
    let mut totals = PassTotals::default();
    let mut thrift = Thrift::new(control.compression, BATCH_DATA * WINDOW as u64);
    for disk in disks {
        send_disk(session, disk, control, &mut totals, &mut thrift).await?;
    }
    Ok(totals)
}

async fn send_disk(
    session: &mut Session,
    disk: &DiskPass,
    control: &PassControl,
    totals: &mut PassTotals,
    thrift: &mut Thrift,
) -> Result<(), WorkError> {
    let size = disk.reader.size();
    let mut at = match disk.select {
        Select::Dirty => 0,
        Select::From(offset) => offset.min(size),
    };
    let local = disk.reader.local();
    let (side_by_side, run) = match &local {
        Some(_) => (LOCAL_WINDOW, block::MAX_BLOCK as u64),
        None => (WINDOW, BATCH_BYTES),
    };
    let mut pipe = Pipe { window: VecDeque::new(), side_by_side, watermark: at, stream: disk.stream, thrift };
    let pool = Pool::default();
    while at < size {
        let length = EXTENT_WINDOW.min(size - at);
        let runs = runs(&*disk.reader, disk.select, control.granule, at, length).await?;
        let keep_watermark = matches!(disk.select, Select::From(_));
        for batch in batches(runs, at + length, control.granule, run) {
            pipe.make_room(session, control, totals, keep_watermark).await?;
            let compression = pipe.thrift.choice();
            pipe.window.push_back(match &local {
                Some(local) => start_local(disk, (local, &pool), batch, control.granule, compression),
                None => start(disk, batch, control, compression),
            });
        }
        at += length;
    }
    pipe.drain(session, control, totals, matches!(disk.select, Select::From(_))).await
}

/// Runs to send in a window, each marked as data or zeros, cut on granules.
async fn runs(
    reader: &dyn DiskReader,
    select: Select,
    granule: u32,
    offset: u64,
    length: u64,
) -> Result<Vec<Extent>, WorkError> {
    let allocation = |offset, length| allocated(reader, granule, offset, length);
    let Select::Dirty = select else { return allocation(offset, length).await };
    let dirty = reader.dirty(offset, length).await.map_err(WorkError::hypervisor("read the dirty blocks"))?;
    let mut runs = Vec::with_capacity(dirty.len());
    for run in dirty {
        if run.length >= ASK_ALLOCATION {
            runs.extend(allocation(run.offset, run.length).await?);
        } else {
            runs.push(Extent { zero: false, ..run });
        }
    }
    Ok(runs)
}

/// The allocation of a range as runs of whole granules: a granule that is partly data is data.
pub(super) async fn allocated(
    reader: &dyn DiskReader,
    granule: u32,
    offset: u64,
    length: u64,
) -> Result<Vec<Extent>, WorkError> {
    let found = reader
        .allocation(offset, length)
        .await
        .map_err(WorkError::hypervisor("read which blocks are in use"))?;
    Ok(whole_granules(&found, u64::from(granule), reader.size()))
}

fn whole_granules(runs: &[Extent], granule: u64, size: u64) -> Vec<Extent> {
    let mut aligned: Vec<Extent> = Vec::with_capacity(runs.len());
    let mut push = |offset: u64, end: u64, zero: bool| {
        if offset >= end {
            return;
        }
        match aligned.last_mut() {
            Some(last) if last.zero == zero && last.offset + last.length == offset => {
                last.length = end - last.offset;
            }
            _ => aligned.push(Extent { offset, length: end - offset, zero }),
        }
    };
    let mut at = runs.first().map_or(0, |run| run.offset);
    for run in runs.iter().filter(|run| run.zero) {
        let end = run.offset + run.length;
        let zero_start = run.offset.next_multiple_of(granule);
        // The last granule of a disk may be short.
        let zero_end = if end == size { end } else { end - end % granule };
        if zero_start < zero_end {
            push(at, zero_start, false);
            push(zero_start, zero_end, true);
            at = zero_end;
        }
    }
    let end = runs.last().map_or(0, |run| run.offset + run.length);
    push(at, end, false);
    aligned
}

/// Runs that are read, encoded and sent together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Batch {
    runs: Vec<Extent>,
    /// Everything of the disk below this was selected and is in this or an earlier batch.
    end: u64,
}

/// `run` is the longest run that is read at once.
fn batches(runs: Vec<Extent>, end: u64, granule: u32, run: u64) -> Vec<Batch> {
    // A granule is never split: its digest needs all of it.
    let limit = run.max(u64::from(granule));
    let mut done = Vec::new();
    let mut batch = Batch::default();
    let mut bytes = 0;
    for run in runs {
        let mut rest = run;
        while rest.length > 0 {
            // Zeros carry no data: any length is one run.
            let take = if rest.zero { rest.length } else { cut_length(rest, limit) };
            batch.runs.push(Extent { length: take, ..rest });
            batch.end = rest.offset + take;
            bytes += if rest.zero { 0 } else { take };
            rest = Extent { offset: rest.offset + take, length: rest.length - take, zero: rest.zero };
            // A long hole ends a batch: what is below it need not wait for data above it to become a watermark.
            let hole = run.zero && take >= WATERMARK_EVERY;
            if hole || bytes >= limit.max(BATCH_DATA) || batch.runs.len() >= BATCH_RUNS {
                done.push(std::mem::take(&mut batch));
                bytes = 0;
            }
        }
    }
    batch.end = end;
    done.push(batch);
    done
}

/// Keeps cuts on multiples of the batch size, so that requests stay aligned and granules whole.
fn cut_length(run: Extent, limit: u64) -> u64 {
    // A batch may grow to twice the limit for this: what is left of it need not end a granule.
    run.length.min(limit - run.offset % limit)
}

type Encoded = Result<(Vec<EncodedBlock>, u64), WorkError>;

fn start(
    disk: &DiskPass,
    batch: Batch,
    control: &PassControl,
    compression: Compression,
) -> JoinHandle<Encoded> {
    let (reader, stream) = (Arc::clone(&disk.reader), disk.stream);
    let granule = control.granule;
    tokio::spawn(async move {
        let mut read = Vec::with_capacity(batch.runs.len());
        for run in batch.runs {
            let data = match run.zero {
                true => None,
                false => Some(read_run(&*reader, run).await?),
            };
            read.push((run, data));
        }
        let end = batch.end;
        if read.is_empty() {
            return Ok((Vec::new(), end));
        }
        let encode = move || encode(stream, read, granule, compression);
        let blocks = tokio::task::spawn_blocking(encode).await.map_err(|_| WorkError::Cancelled)??;
        Ok((blocks, end))
    })
}

/// The same on one blocking thread: what was just read is still in its caches when it is hashed.
fn start_local(
    disk: &DiskPass,
    (local, pool): (&Arc<LocalDisk>, &Pool),
    batch: Batch,
    granule: u32,
    compression: Compression,
) -> JoinHandle<Encoded> {
    let (local, pool, stream) = (Arc::clone(local), pool.clone(), disk.stream);
    tokio::task::spawn_blocking(move || {
        let mut read = Vec::with_capacity(batch.runs.len());
        for run in batch.runs {
            let data = match run.zero {
                true => None,
                false => {
                    let mut buffer = pool.take(run_length(run)? as usize, 0);
                    let context = || format!("read {} bytes at {} of a disk", run.length, run.offset);
                    local.read(run.offset, &mut buffer).map_err(WorkError::hypervisor(context()))?;
                    Some(buffer.freeze())
                }
            };
            read.push((run, data));
        }
        Ok((encode(stream, read, granule, compression)?, batch.end))
    })
}

fn run_length(run: Extent) -> Result<u32, WorkError> {
    u32::try_from(run.length).map_err(|_| WorkError::ViewLost("a run is too long".into()))
}

/// Reads a run.
pub(super) async fn read_run(reader: &dyn DiskReader, run: Extent) -> Result<Bytes, WorkError> {
    let length = run_length(run)?;
    let context = || format!("read {length} bytes at {} of a disk", run.offset);
    reader.read(run.offset, length).await.map_err(WorkError::hypervisor(context()))
}

/// Encodes runs that were read. Pure CPU.
///
/// # Errors
/// A run that the wire cannot carry; a defect of the caller.
pub(super) fn encode(
    stream: u16,
    runs: Vec<(Extent, Option<Bytes>)>,
    granule: u32,
    compression: Compression,
) -> Result<Vec<EncodedBlock>, WorkError> {
    let failed = |source| WorkError::Encode { source };
    let mut blocks = Vec::with_capacity(runs.len());
    for (run, data) in runs {
        match data {
            None => blocks.push(block::zero(stream, run.offset, run.length).map_err(failed)?),
            Some(data) => {
                for (offset, data, zero) in split_zeros(run.offset, data) {
                    let encoded = if zero {
                        block::zero(stream, offset, data.len() as u64)
                    } else {
                        block::encode(stream, offset, data, granule, compression)
                    };
                    blocks.push(encoded.map_err(failed)?);
                }
            }
        }
    }
    Ok(blocks)
}

/// Splits data at 64 KiB boundaries of the disk where a whole such piece is zeros.
fn split_zeros(offset: u64, data: Bytes) -> Vec<(u64, Bytes, bool)> {
    let mut parts: Vec<(u64, Bytes, bool)> = Vec::new();
    let mut start = 0_usize;
    let mut at = 0_usize;
    let mut kind = None;
    while at < data.len() {
        let to_boundary = ZERO_RUN - (offset + at as u64) % ZERO_RUN;
        let next = data.len().min(at.saturating_add(usize::try_from(to_boundary).unwrap_or(usize::MAX)));
        let zero = is_zero_data(&data[at..next]);
        if kind.is_some_and(|before| before != zero) {
            parts.push((offset + start as u64, data.slice(start..at), !zero));
            start = at;
        }
        kind = Some(zero);
        at = next;
    }
    if let Some(zero) = kind {
        parts.push((offset + start as u64, data.slice(start..), zero));
    }
    parts
}

struct Pipe<'a> {
    window: VecDeque<JoinHandle<Encoded>>,
    side_by_side: usize,
    watermark: u64,
    stream: u16,
    thrift: &'a mut Thrift,
}

impl Drop for Pipe<'_> {
    fn drop(&mut self) {
        for task in &self.window {
            task.abort();
        }
    }
}

impl Pipe<'_> {
    async fn make_room(
        &mut self,
        session: &mut Session,
        control: &PassControl,
        totals: &mut PassTotals,
        watermarks: bool,
    ) -> Result<(), WorkError> {
        while self.window.len() >= self.side_by_side {
            self.forward(session, control, totals, watermarks).await?;
        }
        Ok(())
    }

    async fn drain(
        &mut self,
        session: &mut Session,
        control: &PassControl,
        totals: &mut PassTotals,
        watermarks: bool,
    ) -> Result<(), WorkError> {
        while !self.window.is_empty() {
            self.forward(session, control, totals, watermarks).await?;
        }
        Ok(())
    }

    async fn forward(
        &mut self,
        session: &mut Session,
        control: &PassControl,
        totals: &mut PassTotals,
        watermarks: bool,
    ) -> Result<(), WorkError> {
        let Some(mut task) = self.window.pop_front() else { return Ok(()) };
        let mut failure = control.failure.clone();
        let ended = tokio::select! {
            biased;
            () = control.cancel.cancelled() => Err(WorkError::Cancelled),
            reason = broken(&mut failure) => Err(WorkError::ViewLost(reason)),
            ended = &mut task => ended.unwrap_or(Err(WorkError::Cancelled)),
        };
        let (blocks, end) = ended.inspect_err(|_| task.abort())?;
        for encoded in blocks {
            totals.add(&encoded);
            control.ledger.noted(&encoded);
            let (length, wire) = (encoded.header().length, encoded.wire_len() as u64);
            // A slow link must not hold the end of a view or a cancellation up.
            tokio::select! {
                biased;
                () = control.cancel.cancelled() => return Err(WorkError::Cancelled),
                reason = broken(&mut failure) => return Err(WorkError::ViewLost(reason)),
                sent = session.block(encoded) => sent?,
            }
            self.thrift.sent(wire, Instant::now());
            control.progress.done.fetch_add(length, Ordering::Relaxed);
        }
        control.ledger.settle_if_full().await;
        if watermarks && end >= self.watermark + WATERMARK_EVERY {
            self.watermark = end;
            // What the replica will not ask for again must be known here, too, if this process ends.
            control.ledger.settle().await;
            session.tell(&Request::Watermark { stream: self.stream, offset: end }).await?;
        }
        Ok(())
    }
}

/// Waits until a view is broken.
pub(super) async fn broken(failure: &mut watch::Receiver<Option<String>>) -> String {
    let reason = failure.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
    match reason {
        Some(reason) => reason,
        // The sender is gone: the view was closed in order, nothing will break any more.
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(offset: u64, length: u64) -> Extent {
        Extent { offset, length, zero: false }
    }

    #[test]
    fn batches_cover_every_run_once_and_in_order() {
        let runs = vec![
            data(4096, 4096),
            data(BATCH_BYTES - 4096, 3 * BATCH_BYTES),
            Extent { offset: 10 << 30, length: 1 << 40, zero: true },
        ];
        let end = (10 << 30) + (1 << 40);
        let batches = batches(runs.clone(), end, 4096, BATCH_BYTES);
        let mut flat: Vec<Extent> = Vec::new();
        for piece in batches.iter().flat_map(|batch| &batch.runs) {
            match flat.last_mut() {
                Some(last) if last.offset + last.length == piece.offset && last.zero == piece.zero => {
                    last.length += piece.length;
                }
                _ => flat.push(*piece),
            }
        }
        assert_eq!(flat, runs);
        assert!(batches.windows(2).all(|pair| pair[0].end <= pair[1].end));
        assert_eq!(batches.last().map(|batch| batch.end), Some(end));
    }

    #[test]
    fn batches_are_cut_where_every_granule_ends() {
        let runs = vec![data(0, 4096), data(1 << 20, 8 << 20)];
        for piece in batches(runs, 1 << 30, 4096, BATCH_BYTES).into_iter().flat_map(|batch| batch.runs) {
            assert!(piece.length <= BATCH_BYTES);
            assert!((piece.offset + piece.length) % 4096 == 0);
            if piece.offset >= 1 << 20 {
                assert_eq!(piece.length, BATCH_BYTES, "at {}", piece.offset);
            }
        }
    }

    #[test]
    fn runs_of_holes_shrink_to_whole_granules_and_data_grows_over_the_rest() {
        let granule = 64 << 10;
        let hole = |offset, length| Extent { offset, length, zero: true };
        let size = 10 * granule + 512;
        let found = [hole(0, 4096), data(4096, granule), hole(4096 + granule, size - 4096 - granule)];
        let aligned = whole_granules(&found, granule, size);
        assert_eq!(aligned, [data(0, 2 * granule), hole(2 * granule, size - 2 * granule)]);
        let tiny = [data(granule, 512), hole(granule + 512, 512), data(granule + 1024, granule - 1024)];
        assert_eq!(whole_granules(&tiny, granule, size), [data(granule, granule)]);
    }

    #[test]
    fn a_thousand_scattered_changes_share_batches() {
        let runs = (0..1000).map(|n| data(n * (1 << 20), 4096)).collect();
        let batches = batches(runs, 1 << 30, 4096, BATCH_BYTES);
        assert_eq!(batches.len(), 1000_usize.div_ceil(BATCH_RUNS));
    }

    #[test]
    fn zeros_inside_data_are_split_off_and_nothing_is_lost() {
        let mut bytes = vec![1_u8; 256 << 10];
        bytes[64 << 10..192 << 10].fill(0);
        let parts = split_zeros(1 << 20, Bytes::from(bytes));
        let shape: Vec<_> = parts.iter().map(|(at, data, zero)| (*at, data.len(), *zero)).collect();
        let base = 1 << 20;
        assert_eq!(
            shape,
            [
                (base, 64 << 10, false),
                (base + (64 << 10), 128 << 10, true),
                (base + (192 << 10), 64 << 10, false)
            ]
        );
    }
}
