//! One pass over disks: which runs to send, read, encode, send in order.
//!
//! ```text
//! extents -> batches (about 1 MiB or 64 runs) -> read + digest + compress, a window of them side by side
//!                                             -> sent in order, so that "all below X" is a watermark
//! ```
//!
//! What is read is decided in [`super::batches`], and made into blocks in [`super::encode`]. Memory is bounded by the
//! window, and used again and again. CPU work runs on blocking threads, reading too where the disk is local; the
//! relationship's task only forwards.
//!
//! Called by [`super::first_copy`], [`super::cycle`] and [`super::resync`].

use super::batches::{BATCH_BYTES, BATCH_DATA, batches, runs};
use super::encode::{Encoded, start, start_local};
use super::ledger::Ledger;
use super::session::Session;
use super::thrift::Thrift;
use crate::error::WorkError;
use crate::jobs::Progress;
use crate::messages::Request;
use standin_hypervisor::DiskReader;
use standin_model::digest::DeltaDigest;
use standin_wire::Pool;
use standin_wire::block::{self, Compression, EncodedBlock};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Batches under way, each with one read in flight. With a batch's data in two forms, 12 of them are about 24 MiB.
const WINDOW: usize = 12;
/// The same of a disk that is read on the threads which encode: enough to keep the processors busy.
const LOCAL_WINDOW: usize = 4;
/// How much of a disk is asked for its extents at once; bounds the list that comes back.
const EXTENT_WINDOW: u64 = 32 << 30;
/// Between watermarks of a first copy.
pub(super) const WATERMARK_EVERY: u64 = 64 << 20;

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
