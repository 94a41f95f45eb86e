//! What a pass reads, in batches: which runs of a disk are data, which are holes, and how they are cut.
//!
//! Invariants: runs ascend, cover what was selected once, and end on granules but at the end of the disk, because
//! the digest of a granule needs all of it; a granule that is partly data is data. A batch knows up to where
//! everything is in it or before it, which makes watermarks possible.
//!
//! Called by [`super::pass`] and [`super::resync`].

use super::pass::{Select, WATERMARK_EVERY};
use crate::error::WorkError;
use standin_hypervisor::{DiskReader, Extent};

/// Bytes of a run that is read at once. 256 KiB requests, 16 in flight, read QEMU's exports fastest.
pub(super) const BATCH_BYTES: u64 = 256 << 10;
/// Runs of about so many bytes are read and encoded by one task: waking a thread costs as much as hashing a run.
pub(super) const BATCH_DATA: u64 = 1 << 20;
/// Runs in a batch: scattered 4 KiB changes share the cost of a task.
const BATCH_RUNS: usize = 64;
/// A dirty run at least this long is asked for its holes before it is read.
const ASK_ALLOCATION: u64 = 1 << 20;

/// Runs to send in a window, each marked as data or zeros, cut on granules.
pub(super) async fn runs(
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
pub(super) struct Batch {
    pub(super) runs: Vec<Extent>,
    /// Everything of the disk below this was selected and is in this or an earlier batch.
    pub(super) end: u64,
}

/// `run` is the longest run that is read at once.
pub(super) fn batches(runs: Vec<Extent>, end: u64, granule: u32, run: u64) -> Vec<Batch> {
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
}
