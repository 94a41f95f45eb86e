//! Reads batches and turns them into blocks for the wire: digests, compression, and zeros that carry no data.
//!
//! A disk behind a socket is read asynchronously, and only the encoding takes a thread; a local one is read on the
//! thread that encodes. Neither keeps more than one batch, and both end with the task that waits for them.
//!
//! Called by [`super::pass`]; [`super::resync`] encodes what differs.

use super::batches::Batch;
use super::pass::{DiskPass, PassControl};
use crate::error::WorkError;
use crate::tasks;
use bytes::Bytes;
use standin_hypervisor::{DiskReader, Extent, LocalDisk};
use standin_model::digest::is_zero_data;
use standin_wire::Pool;
use standin_wire::block::{self, Compression, EncodedBlock};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// A run of zeros inside a batch that is worth a frame of its own.
const ZERO_RUN: u64 = 64 << 10;

pub(super) type Encoded = Result<(Vec<EncodedBlock>, u64), WorkError>;

pub(super) fn start(
    disk: &DiskPass,
    batch: Batch,
    control: &PassControl,
    compression: Compression,
) -> JoinHandle<Encoded> {
    let (reader, stream) = (Arc::clone(&disk.reader), disk.stream);
    let granule = control.granule;
    tasks::spawn(async move {
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
        let blocks = tasks::on_thread(encode).await.map_err(|_| WorkError::Cancelled)??;
        Ok((blocks, end))
    })
}

/// The same on one blocking thread: what was just read is still in its caches when it is hashed.
pub(super) fn start_local(
    disk: &DiskPass,
    (local, pool): (&Arc<LocalDisk>, &Pool),
    batch: Batch,
    granule: u32,
    compression: Compression,
) -> JoinHandle<Encoded> {
    let (local, pool, stream) = (Arc::clone(local), pool.clone(), disk.stream);
    tasks::on_thread(move || {
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

#[cfg(test)]
mod tests {
    use super::*;

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
