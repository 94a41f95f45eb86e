//! What the judge must detect, each alone on disks that are otherwise right.

use standin_testbed::judge::{Disk, Verdict, judge};
use standin_testbed::record::{BLOCK, Header, Record, Side, expected, place, sum_of};
use std::io;

const SLOTS: u64 = 16;

/// A disk in memory.
#[derive(Clone)]
pub struct Memory(pub Vec<u8>);

impl Disk for Memory {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap();
        let part = self.0.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(part);
        Ok(())
    }
}

/// Two disks and the writer's state.
#[derive(Clone)]
pub struct Pair {
    pub a: Memory,
    pub b: Memory,
    pub last: u64,
    sum: u64,
}

impl Pair {
    pub fn blank() -> Self {
        let disk = Memory(vec![0; (1 + usize::try_from(SLOTS).unwrap() + 3) * BLOCK]);
        Self { a: disk.clone(), b: disk, last: 0, sum: 0 }
    }

    pub fn with_records(count: u64) -> Self {
        let mut pair = Self::blank();
        pair.put(Side::A, 0, &Header { slots: SLOTS }.encode().0);
        pair.put(Side::B, 0, &Header { slots: SLOTS }.encode().0);
        pair.write(count, 1);
        pair
    }

    /// Appends `count` records of boot `run`.
    pub fn write(&mut self, count: u64, run: u128) {
        for _ in 0..count {
            let record =
                Record { sequence: self.last + 1, run, written_at: 1000 + self.last, previous: self.sum };
            let block = record.encode();
            let (side, offset) = place(record.sequence, SLOTS);
            self.put(side, offset, &block.0);
            self.last = record.sequence;
            self.sum = sum_of(&block.0);
        }
    }

    fn disk(&mut self, side: Side) -> &mut [u8] {
        match side {
            Side::A => &mut self.a.0,
            Side::B => &mut self.b.0,
        }
    }

    fn put(&mut self, side: Side, offset: u64, bytes: &[u8]) {
        let at = usize::try_from(offset).unwrap();
        self.disk(side)[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The block of record `sequence`, wherever it is.
    fn block(&mut self, sequence: u64) -> &mut [u8] {
        let (side, offset) = place(sequence, SLOTS);
        let at = usize::try_from(offset).unwrap();
        &mut self.disk(side)[at..at + BLOCK]
    }

    pub fn judged(&self) -> Verdict {
        judge(&self.a, &self.b).unwrap()
    }

    fn violation(&self) -> String {
        let verdict = self.judged();
        assert!(!verdict.consistent, "{verdict:?}");
        verdict.first_violation.expect("an inconsistency is named")
    }
}

#[test]
fn every_prefix_of_a_history_is_consistent_over_several_laps_of_the_ring() {
    let mut pair = Pair::with_records(0);
    for count in 0..4 * SLOTS + 3 {
        let verdict = pair.judged();
        assert!(verdict.consistent, "{count}: {verdict:?}");
        assert_eq!((verdict.last_sequence, verdict.records), (count, count.min(2 * SLOTS)));
        pair.write(1, 1);
    }
}

#[test]
fn blank_disks_and_half_made_headers_are_an_empty_history() {
    let verdict = Pair::blank().judged();
    assert!(verdict.consistent && verdict.records == 0 && verdict.slots == 0);
    let mut only_a = Pair::blank();
    only_a.put(Side::A, 0, &Header { slots: SLOTS }.encode().0);
    assert!(only_a.judged().consistent);
    let mut only_b = Pair::blank();
    only_b.put(Side::B, 0, &Header { slots: SLOTS }.encode().0);
    assert!(only_b.violation().contains("disk B has a header and disk A"));
}

#[test]
fn several_boots_of_one_history_are_counted() {
    let mut pair = Pair::with_records(5);
    pair.write(4, 2);
    let verdict = pair.judged();
    assert!(verdict.consistent);
    assert_eq!((verdict.runs, verdict.last_written_at), (2, 1008));
}

#[test]
fn a_torn_record_is_detected_wherever_it_is_torn() {
    for sequence in [1, 8, 20] {
        for keep in [512, 2048, 4088, 4095] {
            let mut pair = Pair::with_records(20);
            let older = Pair::with_records(0).block(sequence).to_vec();
            pair.block(sequence)[keep..].copy_from_slice(&older[keep..]);
            let verdict = pair.judged();
            // The newest record torn: then the one before is the newest, and the torn one stands after it.
            assert_eq!(verdict.torn, 1, "record {sequence} torn at {keep}: {verdict:?}");
            assert!(!verdict.consistent);
        }
    }
}

#[test]
fn any_single_flipped_bit_is_detected() {
    let clean = Pair::with_records(6);
    for sequence in 1..=6 {
        for bit in (0..BLOCK * 8).step_by(97).chain([0, BLOCK * 8 - 1]) {
            let mut pair = clean.clone();
            pair.block(sequence)[bit / 8] ^= 1 << (bit % 8);
            assert!(!pair.judged().consistent, "record {sequence}, bit {bit}");
        }
    }
}

#[test]
fn a_lost_write_is_detected_on_the_first_lap_and_on_later_ones() {
    let mut blank = Pair::with_records(20);
    blank.block(11).fill(0);
    assert!(blank.violation().contains("record 11 is missing while 20 is there"));
    assert_eq!(blank.judged().lost, 1);

    let older = Pair::with_records(2 * SLOTS).block(5).to_vec();
    let mut stale = Pair::with_records(2 * SLOTS + 20);
    stale.block(5).copy_from_slice(&older);
    let verdict = stale.judged();
    assert_eq!((verdict.consistent, verdict.lost), (false, 1));
    assert!(stale.violation().contains("still stands"));
}

#[test]
fn disks_of_different_instants_are_detected_in_both_directions() {
    let mut pair = Pair::with_records(7);
    let early = pair.clone();
    pair.write(1, 1);
    // Record 8 went to B alone: A of before and B of after are one instant, the other way round as well.
    assert!(Pair { a: early.a.clone(), ..pair.clone() }.judged().consistent);
    pair.write(3, 1);
    let a_older = Pair { a: early.a.clone(), ..pair.clone() };
    assert_eq!(a_older.violation(), "record 9 is missing while 10 is there (disk A, byte 20480)");
    let b_older = Pair { b: early.b.clone(), ..pair.clone() };
    assert!(b_older.violation().starts_with("record 8 is missing while 11 is there"));
}

#[test]
fn disks_of_different_instants_are_detected_when_the_ring_has_gone_round() {
    let mut pair = Pair::with_records(3 * SLOTS);
    let early = pair.clone();
    pair.write(4, 1);
    assert!(!Pair { a: early.a.clone(), ..pair.clone() }.judged().consistent);
    assert!(!Pair { b: early.b, ..pair.clone() }.judged().consistent);
    // A whole lap apart every slot is full and intact, and still of another instant.
    pair.write(2 * SLOTS - 4, 1);
    assert!(!Pair { a: early.a, ..pair }.judged().consistent);
}

#[test]
fn garbage_between_records_and_behind_the_newest_is_detected() {
    let mut middle = Pair::with_records(20);
    middle.block(9).fill(0x5A);
    assert!(middle.violation().contains("record 9 is torn"));
    let mut behind = Pair::with_records(8);
    behind.block(15)[77] = 1;
    assert!(behind.violation().contains("after the newest"));
}

#[test]
fn a_record_in_the_wrong_slot_or_on_the_wrong_disk_is_detected() {
    let mut pair = Pair::with_records(20);
    let record = pair.block(4).to_vec();
    pair.block(5).copy_from_slice(&record);
    assert!(pair.violation().contains("record 4 stands where it never belongs"));
    let pair = Pair::with_records(20);
    let swapped = Pair { a: pair.b.clone(), b: pair.a.clone(), ..pair };
    let verdict = swapped.judged();
    assert!(!verdict.consistent && verdict.misplaced == 20 && verdict.last_sequence == 0);
}

#[test]
fn records_of_two_histories_are_not_taken_for_one() {
    let mut one = Pair::with_records(10);
    let mut other = one.clone();
    one.write(6, 2);
    other.write(6, 3);
    assert!(one.judged().consistent && other.judged().consistent);
    let mixed = Pair { b: other.b, ..one };
    assert!(mixed.violation().contains("record 12 does not follow on record 11"));
    assert!(mixed.judged().broken_links > 0);
}

#[test]
fn headers_that_lie_are_refused_before_anything_is_allocated() {
    for slots in [0, u64::MAX, 1 << 28, SLOTS + 4] {
        let mut pair = Pair::with_records(4);
        pair.put(Side::A, 0, &Header { slots }.encode().0);
        pair.put(Side::B, 0, &Header { slots }.encode().0);
        assert!(!pair.judged().consistent, "{slots} slots");
    }
    let mut unequal = Pair::with_records(4);
    unequal.put(Side::B, 0, &Header { slots: SLOTS - 1 }.encode().0);
    assert!(unequal.violation().contains("laid out for"));
    let mut damaged = Pair::with_records(4);
    damaged.put(Side::A, 9, &[0xFF]);
    assert!(damaged.violation().contains("no intact header"));
    let mut erased = Pair::with_records(4);
    erased.put(Side::A, 0, &[0; BLOCK]);
    assert!(!erased.judged().consistent);
    let mut both_erased = Pair::with_records(4);
    both_erased.put(Side::A, 0, &[0; BLOCK]);
    both_erased.put(Side::B, 0, &[0; BLOCK]);
    assert!(both_erased.violation().contains("not both disks have a header"));
    let tiny = Memory(vec![0; BLOCK]);
    assert!(!judge(&tiny, &tiny).unwrap().consistent);
}

#[test]
fn the_expected_record_of_a_slot_is_the_newest_that_is_placed_there() {
    for last in 0..5 * SLOTS {
        for side in [Side::A, Side::B] {
            for slot in 0..SLOTS {
                let here = |sequence: &u64| place(*sequence, SLOTS) == (side, (slot + 1) * BLOCK as u64);
                assert_eq!(expected(side, slot, SLOTS, last), (1..=last).rev().find(here));
            }
        }
    }
}
