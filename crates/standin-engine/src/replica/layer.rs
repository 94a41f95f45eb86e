//! Receives a layer: blocks are decoded, verified and written on blocking threads, a bounded number side by
//! side, so that the network is read on while a block is written. The order of blocks within a pass does not
//! matter; a pass ends only when all of its blocks are written and agree with the sender's digest.

use super::reason::{Receive, Storage, Store};
use crate::primary::pass::add_to_digest;
use crate::tasks;
use standin_model::digest::DeltaDigest;
use standin_model::reason::Text;
use standin_model::{DiskName, Epoch, Refusal};
use standin_store::LayerWriter;
use standin_wire::{BlockData, ReceivedBlock};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Batches under way. A block is at most 1 MiB in two forms; senders use 256 KiB.
const WINDOW: u32 = 8;
/// Bytes on the wire, or blocks, that are given to a thread together: scattered 4 KiB changes share the cost of
/// waking it.
const BATCH_BYTES: usize = 512 << 10;
const BATCH_BLOCKS: usize = 64;

/// A layer that is being received.
pub struct Layer {
    /// Its epoch.
    pub epoch: Epoch,
    /// It is the first copy.
    pub base: bool,
    shared: Arc<Shared>,
    window: Arc<Semaphore>,
    /// Blocks that have arrived and wait for more.
    waiting: Mutex<Batch>,
}

#[derive(Default)]
struct Batch {
    blocks: Vec<ReceivedBlock>,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, block: ReceivedBlock) {
        self.bytes += block.payload.len();
        self.blocks.push(block);
    }

    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.blocks.len() >= BATCH_BLOCKS
    }
}

struct Shared {
    writer: LayerWriter,
    disks: Vec<DiskName>,
    digests: Mutex<BTreeMap<u16, DeltaDigest>>,
    failed: Mutex<Option<Refusal>>,
    written: AtomicU64,
}

impl Layer {
    /// Receives into `writer`; stream n is `disks[n]`.
    #[must_use]
    pub fn new(epoch: Epoch, base: bool, writer: LayerWriter, disks: Vec<DiskName>) -> Self {
        let shared = Shared {
            writer,
            disks,
            digests: Mutex::default(),
            failed: Mutex::default(),
            written: AtomicU64::new(0),
        };
        let window = Arc::new(Semaphore::new(WINDOW as usize));
        Self { epoch, base, shared: Arc::new(shared), window, waiting: Mutex::default() }
    }

    /// From where each stream goes on.
    ///
    /// # Errors
    /// When the writer does not have one of the disks.
    pub fn watermarks(&self) -> Result<BTreeMap<u16, u64>, Refusal> {
        let mark = |disk| self.shared.writer.watermark(disk).map_err(|error| refusal_of(&error));
        (0_u16..).zip(&self.shared.disks).map(|(stream, disk)| Ok((stream, mark(disk)?))).collect()
    }

    /// Bytes of the disks that were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Takes a block; it may wait for more before it is written. Waits while the window is full.
    ///
    /// # Errors
    /// Why an earlier block could not be taken.
    pub async fn push(&self, block: ReceivedBlock) -> Result<(), Refusal> {
        let full = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.add(block);
            waiting.is_full().then(|| std::mem::take(&mut *waiting))
        };
        match full {
            Some(batch) => self.begin(batch).await,
            None => Ok(()),
        }
    }

    /// Has a batch written on a blocking thread.
    async fn begin(&self, batch: Batch) -> Result<(), Refusal> {
        let permit = Arc::clone(&self.window).acquire_owned().await.map_err(|_| gone())?;
        self.shared.check()?;
        let shared = Arc::clone(&self.shared);
        tasks::on_thread(move || {
            if let Err(refusal) = batch.blocks.into_iter().try_for_each(|block| shared.take(block)) {
                shared.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(refusal);
            }
            // Before the permit: whoever holds all permits is then the only one who holds the writer.
            drop(shared);
            drop(permit);
        });
        Ok(())
    }

    /// Waits until every block that was pushed is written.
    ///
    /// # Errors
    /// Why one could not be.
    pub async fn settle(&self) -> Result<(), Refusal> {
        let rest = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let begun = if rest.blocks.is_empty() { Ok(()) } else { self.begin(rest).await };
        // Also when that failed: nobody else may hold the writer when this returns.
        drop(self.window.acquire_many(WINDOW).await.map_err(|_| gone())?);
        begun.and_then(|()| self.shared.check())
    }

    /// All of a first copy below `offset` has arrived: makes it durable in time.
    ///
    /// # Errors
    /// Why a block could not be written.
    pub async fn watermark(&self, stream: u16, offset: u64) -> Result<(), Refusal> {
        self.settle().await?;
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let disk = shared.disk(stream)?;
            shared.writer.checkpoint(disk, offset).map_err(|error| refusal_of(&error))
        })
        .await
    }

    /// Ends a pass: compares what arrived with what was sent.
    ///
    /// # Errors
    /// 32768 when they differ.
    pub async fn end_pass(&self, theirs: &BTreeMap<u16, String>) -> Result<(), Refusal> {
        self.settle().await?;
        let ours = std::mem::take(&mut *self.shared.lock_digests());
        let ours: BTreeMap<u16, String> =
            ours.into_iter().map(|(stream, digest)| (stream, digest.to_string())).collect();
        if ours == *theirs {
            return Ok(());
        }
        Err(Receive::PassDiffers { epoch: self.epoch }.into())
    }

    /// Gives the writer back, for the seal or to discard it. Call after [`Self::settle`].
    ///
    /// # Errors
    /// When a block is still being written.
    pub fn into_writer(self) -> Result<LayerWriter, Refusal> {
        Arc::into_inner(self.shared).map(|shared| shared.writer).ok_or_else(gone)
    }
}

impl Shared {
    fn lock_digests(&self) -> std::sync::MutexGuard<'_, BTreeMap<u16, DeltaDigest>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<(), Refusal> {
        match &*self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(()),
        }
    }

    fn disk(&self, stream: u16) -> Result<&DiskName, Refusal> {
        self.disks.get(usize::from(stream)).ok_or_else(|| Receive::UnknownStream { stream }.into())
    }

    fn take(&self, block: ReceivedBlock) -> Result<(), Refusal> {
        let decoded = block
            .decode()
            .map_err(|error| Receive::Block(Text::new(crate::error::chain(&error), error.remedy())))?;
        let disk = self.disk(decoded.stream)?;
        match &decoded.data {
            BlockData::Zero => self.writer.write_zeroes(disk, decoded.offset, decoded.length),
            BlockData::Data(data) => self.writer.write(disk, decoded.offset, data, &decoded.digests),
        }
        .map_err(|error| refusal_of(&error))?;
        let mut digests = self.lock_digests();
        let digest = digests.entry(decoded.stream).or_default();
        add_to_digest(digest, decoded.offset, decoded.length, decoded.granule, &decoded.digests);
        self.written.fetch_add(decoded.length, Ordering::Relaxed);
        Ok(())
    }
}

fn gone() -> Refusal {
    Receive::LayerClosed.into()
}

/// A store's error as the primary and the operator see it.
#[must_use]
pub fn refusal_of(error: &standin_store::Error) -> Refusal {
    Store::of(error).into()
}

/// Runs a call of the store on a blocking thread.
///
/// # Errors
/// The call's, or 32768 when it ended by a defect.
pub async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tasks::on_thread(call).await.unwrap_or_else(|_| Err(Storage::Defect.into()))
}
