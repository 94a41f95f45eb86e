//! The judgement over two disks of records: are they one instant of one history?
//!
//! Given the newest record N on either disk, the content of every slot of both is known (see `record`). The
//! judge reads everything, finds N, and compares. It is used by the oracle on images and by the guest itself
//! when it boots from a recovery point. It stands on `std` only.

use crate::record::{self, BLOCK, Header, Record, Side};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// Blocks read at once.
const BATCH: usize = 64;
/// How much of a disk without a header is looked at for data that should not be there.
const BLANK_CHECK_BLOCKS: u64 = 16 * 1024;

/// Something whose blocks can be read: an image file or a block device.
pub trait Disk {
    /// Size in bytes.
    ///
    /// # Errors
    /// When the size cannot be told.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// When not all of it can be read.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Disk for File {
    fn size(&self) -> io::Result<u64> {
        // A block device has no length in its metadata; its end can be sought.
        let mut handle = self;
        handle.seek(SeekFrom::End(0))
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

/// What the judge found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Both disks are of one instant of one history.
    pub consistent: bool,
    /// Record slots on each disk; 0 when nothing was written yet.
    pub slots: u64,
    /// Intact records in their places.
    pub records: u64,
    /// The newest record on either disk; 0 when there is none.
    pub last_sequence: u64,
    /// When that one was written, by the guest's clock, nanoseconds since 1970.
    pub last_written_at: u64,
    /// Blocks with content that is no intact record.
    pub torn: u64,
    /// Records that must be there and are not: blank, or an older lap of the ring.
    pub lost: u64,
    /// Intact records in a slot that is not theirs.
    pub misplaced: u64,
    /// Records that do not follow on the one before: another history.
    pub broken_links: u64,
    /// How many boots of the guest wrote the records.
    pub runs: u64,
    /// The violation with the lowest record number, as a sentence.
    pub first_violation: Option<String>,
    /// Checksum of the newest record, for the writer to go on.
    pub last_sum: u64,
}

#[derive(Clone, Copy)]
enum Slot {
    Blank,
    Torn,
    Held { record: Record, sum: u64 },
}

/// Judges the two disks.
///
/// # Errors
/// Only when a disk cannot be read; whatever is wrong with its content is in the verdict.
pub fn judge(a: &dyn Disk, b: &dyn Disk) -> io::Result<Verdict> {
    let slots = match headers(a, b)? {
        Headers::Both(slots) => slots,
        Headers::None => return Ok(Verdict { consistent: true, ..Verdict::default() }),
        Headers::Wrong(sentence) => {
            return Ok(Verdict { first_violation: Some(sentence), ..Verdict::default() });
        }
    };
    let scans = [scan(a, slots)?, scan(b, slots)?];
    Ok(Comparison::new(slots, &scans).verdict())
}

enum Headers {
    None,
    Both(u64),
    Wrong(String),
}

fn headers(a: &dyn Disk, b: &dyn Disk) -> io::Result<Headers> {
    let mut found = Vec::new();
    for (side, disk) in [(Side::A, a), (Side::B, b)] {
        let size = disk.size()?;
        if size < 2 * BLOCK as u64 {
            return Ok(Headers::Wrong(format!("disk {side} has {size} bytes: too small for any record")));
        }
        let mut block = vec![0; BLOCK];
        disk.read(&mut block, 0)?;
        let header = Header::decode(&block);
        if header.is_none() && !record::is_blank(&block) {
            return Ok(Headers::Wrong(format!("disk {side} begins with a block that is no intact header")));
        }
        if header.is_some_and(|header| header.slots > size / BLOCK as u64 - 1) {
            return Ok(Headers::Wrong(format!("disk {side} is smaller than its header says")));
        }
        found.push(header.map(|header| header.slots));
    }
    match found[..] {
        [Some(one), Some(other)] if one == other => Ok(Headers::Both(one)),
        [Some(one), Some(other)] => {
            Ok(Headers::Wrong(format!("disk A is laid out for {one} slots and disk B for {other}")))
        }
        [None, Some(_)] => {
            Ok(Headers::Wrong("disk B has a header and disk A, written first, has none".into()))
        }
        _ => no_record_without_header(a, b),
    }
}

/// The headers are written before the first record, A's first: without both of them nothing else is legal.
fn no_record_without_header(a: &dyn Disk, b: &dyn Disk) -> io::Result<Headers> {
    for (side, disk) in [(Side::A, a), (Side::B, b)] {
        let blocks = (disk.size()? / BLOCK as u64).min(BLANK_CHECK_BLOCKS);
        let mut dirty = None;
        for_each_block(disk, 1, blocks, |index, block| {
            if dirty.is_none() && !record::is_blank(block) {
                dirty = Some(index);
            }
        })?;
        if let Some(index) = dirty {
            return Ok(Headers::Wrong(format!(
                "disk {side} has data in block {index}, but not both disks have a header"
            )));
        }
    }
    Ok(Headers::None)
}

fn for_each_block(
    disk: &dyn Disk,
    first: u64,
    end: u64,
    mut visit: impl FnMut(u64, &[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; BATCH * BLOCK];
    let mut index = first;
    while index < end {
        let count = usize::try_from(end - index).map_or(BATCH, |left| left.min(BATCH));
        let bytes = &mut buffer[..count * BLOCK];
        disk.read(bytes, index * BLOCK as u64)?;
        for block in bytes.chunks_exact(BLOCK) {
            visit(index, block);
            index += 1;
        }
    }
    Ok(())
}

fn scan(disk: &dyn Disk, slots: u64) -> io::Result<Vec<Slot>> {
    let mut found = Vec::new();
    for_each_block(disk, 1, slots + 1, |_, block| {
        found.push(match Record::decode(block) {
            Some(record) => Slot::Held { record, sum: record::sum_of(block) },
            None if record::is_blank(block) => Slot::Blank,
            None => Slot::Torn,
        });
    })?;
    Ok(found)
}

/// Both disks' slots beside what the newest record says they must hold.
struct Comparison<'a> {
    slots: u64,
    scans: &'a [Vec<Slot>; 2],
    last: u64,
    verdict: Verdict,
    first_violation: Option<(u64, String)>,
}

impl<'a> Comparison<'a> {
    fn new(slots: u64, scans: &'a [Vec<Slot>; 2]) -> Self {
        let mut this = Self { slots, scans, last: 0, verdict: Verdict::default(), first_violation: None };
        // Only a record in its own place may say how far the history goes.
        this.last = this.in_place().map(|(_, record, _)| record.sequence).max().unwrap_or(0);
        this
    }

    fn each_slot(&self) -> impl Iterator<Item = (Side, u64, Slot)> + use<'a> {
        let sides = [Side::A, Side::B].into_iter().zip(self.scans);
        sides.flat_map(|(side, slots)| (0..).zip(slots).map(move |(index, slot)| (side, index, *slot)))
    }

    fn in_place(&self) -> impl Iterator<Item = (Side, Record, u64)> + use<'a> {
        let slots = self.slots;
        self.each_slot().filter_map(move |(side, index, slot)| match slot {
            Slot::Held { record, sum }
                if record::place(record.sequence, slots) == (side, (index + 1) * BLOCK as u64) =>
            {
                Some((side, record, sum))
            }
            _ => None,
        })
    }

    fn violation(&mut self, order: u64, sentence: String) {
        if self.first_violation.as_ref().is_none_or(|(lowest, _)| order < *lowest) {
            self.first_violation = Some((order, sentence));
        }
    }

    fn verdict(mut self) -> Verdict {
        for (side, index, slot) in self.each_slot() {
            self.compare(side, index, slot);
        }
        self.check_links();
        let runs: BTreeSet<u128> = self.in_place().map(|(_, record, _)| record.run).collect();
        let newest = self.in_place().find(|(_, record, _)| record.sequence == self.last);
        Verdict {
            consistent: self.first_violation.is_none(),
            slots: self.slots,
            last_sequence: self.last,
            last_written_at: newest.map_or(0, |(_, record, _)| record.written_at),
            last_sum: newest.map_or(0, |(_, _, sum)| sum),
            runs: runs.len() as u64,
            first_violation: self.first_violation.map(|(_, sentence)| sentence),
            ..self.verdict
        }
    }

    fn compare(&mut self, side: Side, index: u64, slot: Slot) {
        let wanted = record::expected(side, index, self.slots, self.last);
        let order = wanted.unwrap_or(u64::MAX);
        let at = format!("disk {side}, byte {}", (index + 1) * BLOCK as u64);
        let last = self.last;
        match (slot, wanted) {
            (Slot::Blank, None) => {}
            (Slot::Held { record, .. }, Some(wanted)) if record.sequence == wanted => {
                self.verdict.records += 1;
            }
            (Slot::Torn, Some(wanted)) => {
                self.verdict.torn += 1;
                self.violation(order, format!("record {wanted} is torn ({at})"));
            }
            (Slot::Torn, None) => {
                self.verdict.torn += 1;
                self.violation(order, format!("a torn record or foreign data after the newest ({at})"));
            }
            (Slot::Blank, Some(wanted)) => {
                self.verdict.lost += 1;
                self.violation(order, format!("record {wanted} is missing while {last} is there ({at})"));
            }
            (Slot::Held { record, .. }, wanted) => {
                let lap = 2 * self.slots;
                let held = record.sequence;
                if let Some(wanted) = wanted.filter(|wanted| held < *wanted && (wanted - held) % lap == 0) {
                    self.verdict.lost += 1;
                    let sentence = format!(
                        "record {wanted} is missing while {last} is there: {held} still stands ({at})"
                    );
                    self.violation(order, sentence);
                } else {
                    self.verdict.misplaced += 1;
                    self.violation(order, format!("record {held} stands where it never belongs ({at})"));
                }
            }
        }
    }

    /// Each record names the checksum of the one before it. Where the one before is not there any more (the
    /// ring went on) or never was, there is nothing to compare.
    fn check_links(&mut self) {
        let mut records: Vec<(Record, u64)> = self.in_place().map(|(_, record, sum)| (record, sum)).collect();
        records.sort_unstable_by_key(|(record, _)| record.sequence);
        if let Some((record, _)) = records.first().filter(|(r, _)| r.sequence == 1 && r.previous != 0) {
            self.verdict.broken_links += 1;
            self.violation(1, format!("record {} claims one before it", record.sequence));
        }
        for pair in records.windows(2) {
            let [(before, sum), (record, _)] = pair else { continue };
            if before.sequence + 1 == record.sequence && record.previous != *sum {
                self.verdict.broken_links += 1;
                let sentence = format!(
                    "record {} does not follow on record {}: they are of two histories",
                    record.sequence, before.sequence
                );
                self.violation(record.sequence, sentence);
            }
        }
    }
}
