//! A disk in memory: sparse contents, and the bitmaps that record writes to them.
//!
//! Contents are shared copy-on-write, so that a cut of a disk of any size is one reference count, and a cut can
//! by construction not see a later write.

use crate::seam::{Extent, Mark, Tracker};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes per block of contents: the finest granularity of a mark.
pub(super) const BLOCK: u64 = 4096;

/// Sparse bytes. A block that is absent reads as zeros, and a block written with zeros is absent again.
#[derive(Debug, Clone)]
pub(super) struct Content {
    size: u64,
    blocks: Arc<BTreeMap<u64, Arc<Vec<u8>>>>,
}

impl Content {
    pub(super) fn new(size: u64) -> Self {
        Self { size, blocks: Arc::default() }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Makes the disk larger. The new tail reads as zeros.
    pub(super) fn grow(&mut self, size: u64) {
        self.size = self.size.max(size);
    }

    /// The caller has checked the range.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let blocks = Arc::make_mut(&mut self.blocks);
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            let inside = index(at % BLOCK);
            let take = rest.len().min(index(BLOCK) - inside);
            let (piece, next) = rest.split_at(take);
            let block = blocks.entry(at / BLOCK).or_insert_with(|| Arc::new(vec![0; index(BLOCK)]));
            Arc::make_mut(block)[inside..inside + take].copy_from_slice(piece);
            if block.iter().all(|byte| *byte == 0) {
                blocks.remove(&(at / BLOCK));
            }
            at += take as u64;
            rest = next;
        }
    }

    /// The caller has checked the range.
    pub(super) fn read(&self, offset: u64, length: u64) -> Vec<u8> {
        let mut data = vec![0; index(length)];
        let end = offset + length;
        for (number, block) in self.blocks.range(offset / BLOCK..end.div_ceil(BLOCK)) {
            let start = (number * BLOCK).max(offset);
            let stop = (number * BLOCK + BLOCK).min(end);
            let from = index(start - number * BLOCK);
            data[index(start - offset)..index(stop - offset)]
                .copy_from_slice(&block[from..from + index(stop - start)]);
        }
        data
    }

    /// All of the range as runs of data and of zeros.
    pub(super) fn allocation(&self, offset: u64, length: u64) -> Vec<Extent> {
        let end = offset + length;
        let mut runs = Vec::new();
        let mut at = offset;
        for number in self.blocks.range(offset / BLOCK..end.div_ceil(BLOCK)).map(|(number, _)| *number) {
            let start = (number * BLOCK).max(offset);
            let stop = (number * BLOCK + BLOCK).min(end);
            push(&mut runs, at, start, true);
            push(&mut runs, start, stop, false);
            at = stop;
        }
        push(&mut runs, at, end, true);
        runs
    }
}

/// A length that is known to be in memory already, as an index.
fn index(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// Adds `start..stop`, joined to the run before it where both are alike.
fn push(runs: &mut Vec<Extent>, start: u64, stop: u64, zero: bool) {
    if start >= stop {
        return;
    }
    match runs.last_mut() {
        Some(last) if last.zero == zero && last.offset + last.length == start => last.length += stop - start,
        _ => runs.push(Extent { offset: start, length: stop - start, zero }),
    }
}

/// A bitmap: what was written since it began.
#[derive(Debug, Clone)]
pub(super) struct Bits {
    /// Bytes per bit.
    pub(super) granularity: u32,
    /// It has been in the image file once, so that a crash leaves it there, unusable.
    pub(super) flushed: bool,
    /// It comes from before a crash and may miss writes.
    pub(super) inconsistent: bool,
    dirty: BTreeSet<u64>,
}

impl Bits {
    pub(super) fn new(granularity: u32) -> Self {
        Self { granularity, flushed: false, inconsistent: false, dirty: BTreeSet::new() }
    }

    fn record(&mut self, offset: u64, length: u64) {
        if length > 0 {
            let bytes = u64::from(self.granularity);
            self.dirty.extend(offset / bytes..(offset + length).div_ceil(bytes));
        }
    }

    /// Dirty runs inside `offset..offset + length`. The caller has clipped that to the disk.
    pub(super) fn extents(&self, offset: u64, length: u64) -> Vec<Extent> {
        let bytes = u64::from(self.granularity);
        let end = offset + length;
        let mut runs = Vec::new();
        for bit in self.dirty.range(offset / bytes..end.div_ceil(bytes)) {
            push(&mut runs, (bit * bytes).max(offset), (bit * bytes + bytes).min(end), false);
        }
        runs
    }

    fn dirty_bytes(&self, size: u64) -> u64 {
        self.extents(0, size).iter().map(|run| run.length).sum()
    }
}

/// A disk with its marks.
#[derive(Debug, Clone)]
pub(super) struct FakeDisk {
    pub(super) content: Content,
    pub(super) marks: BTreeMap<(String, Mark), Bits>,
    /// Marks can be kept in the image: qcow2.
    pub(super) persistent: bool,
    /// A sentence why it cannot replicate.
    pub(super) problem: Option<String>,
}

impl FakeDisk {
    pub(super) fn new(size: u64, persistent: bool) -> Self {
        Self { content: Content::new(size), marks: BTreeMap::new(), persistent, problem: None }
    }

    /// A write of the guest: every mark records it, of whatever relationship.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        self.content.write(offset, data);
        for bits in self.marks.values_mut() {
            bits.record(offset, data.len() as u64);
        }
    }

    /// A mark that can be used.
    pub(super) fn usable(&self, tracker: &Tracker, mark: Mark) -> Option<&Bits> {
        self.marks.get(&(tracker.0.clone(), mark)).filter(|bits| !bits.inconsistent)
    }

    /// Dirty bytes under one mark.
    pub(super) fn dirty_bytes(&self, tracker: &Tracker, mark: Mark) -> u64 {
        self.usable(tracker, mark).map_or(0, |bits| bits.dirty_bytes(self.content.size()))
    }

    /// The images were closed in order: what an image can hold survives, the rest is gone.
    pub(super) fn stop_cleanly(&mut self) {
        if !self.persistent {
            self.marks.clear();
        }
        for bits in self.marks.values_mut() {
            bits.flushed = true;
        }
    }

    /// The process died: a mark that was never in the file is gone, one that was is there but worthless.
    pub(super) fn stop_uncleanly(&mut self) {
        self.marks.retain(|_, bits| bits.flushed);
        for bits in self.marks.values_mut() {
            bits.inconsistent = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(offset: u64, length: u64, zero: bool) -> Extent {
        Extent { offset, length, zero }
    }

    #[test]
    fn reads_give_back_what_was_written_across_block_borders() {
        let mut content = Content::new(5 * BLOCK + 100);
        let data: Vec<u8> = (0..9000_u32).map(|n| (n % 251) as u8 + 1).collect();
        content.write(4000, &data);
        assert_eq!(content.read(4000, 9000), data);
        let all = content.read(0, content.size());
        assert_eq!(all.len() as u64, content.size());
        assert_eq!(&all[4000..13000], &data[..]);
        assert!(all[..4000].iter().chain(&all[13000..]).all(|byte| *byte == 0));
    }

    #[test]
    fn a_clone_does_not_see_later_writes() {
        let mut content = Content::new(2 * BLOCK);
        content.write(0, b"old");
        let copy = content.clone();
        content.write(0, b"new");
        assert_eq!(copy.read(0, 3), b"old");
        assert_eq!(content.read(0, 3), b"new");
    }

    #[test]
    fn allocation_covers_the_range_and_written_zeros_are_zeros_again() {
        let mut content = Content::new(6 * BLOCK);
        content.write(BLOCK, &[7; 2 * 4096]);
        content.write(4 * BLOCK, &[7; 10]);
        content.write(4 * BLOCK, &[0; 10]);
        let runs = content.allocation(100, 6 * BLOCK - 100);
        assert_eq!(
            runs,
            [run(100, BLOCK - 100, true), run(BLOCK, 2 * BLOCK, false), run(3 * BLOCK, 3 * BLOCK, true)]
        );
    }

    #[test]
    fn dirty_runs_are_rounded_to_the_granularity_joined_and_clipped() {
        let mut disk = FakeDisk::new(10 * BLOCK + 1000, true);
        let tracker = Tracker("t".into());
        let mark = Mark { epoch: standin_model::Epoch(1), pass: 0 };
        disk.marks.insert((tracker.0.clone(), mark), Bits::new(8192));
        disk.write(8191, b"x");
        disk.write(8192, b"x");
        disk.write(10 * BLOCK, b"x");
        let bits = disk.usable(&tracker, mark).expect("the mark");
        assert_eq!(bits.extents(0, disk.content.size()), [run(0, 16384, false), run(40960, 1000, false)]);
        assert_eq!(bits.extents(8000, 1000), [run(8000, 1000, false)]);
        assert_eq!(disk.dirty_bytes(&tracker, mark), 16384 + 1000);
    }

    #[test]
    fn an_empty_write_dirties_nothing() {
        let mut bits = Bits::new(4096);
        bits.record(100, 0);
        assert_eq!(bits.extents(0, 8192), []);
    }
}
