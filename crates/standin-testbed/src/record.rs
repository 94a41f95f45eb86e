//! The records that the test guest writes to its two disks.
//!
//! Shared by the guest's writer, which is compiled alone for a root file system of a few megabytes, and by the
//! oracle: so it stands on `std` only.
//!
//! ```text
//! disk A  | header | record 1 | record 3 | record 5 | ...      4 KiB each, a ring of `slots` records a disk
//! disk B  | header | record 2 | record 4 | record 6 | ...
//! ```
//!
//! Record n+1 is begun only once record n is durable. So at any instant, with N the newest record on either
//! disk, every slot of both disks holds exactly one known record, and no other content is legal. A cut that
//! mixes two instants of the disks, loses a write, or tears one, breaks that and is named by the judge. Every
//! record also names the checksum of the one before, so records of two histories cannot be mixed either.

use std::fmt;

/// Size of a record and of the header, in bytes: the unit in which a guest's write is not torn.
pub const BLOCK: usize = 4096;
/// Most slots a header may claim: 1 TiB a disk. A header is as little trusted as any other input.
pub const MAX_SLOTS: u64 = 1 << 28;

const HEADER_MAGIC: u64 = u64::from_le_bytes(*b"SBYHEAD1");
const RECORD_MAGIC: u64 = u64::from_le_bytes(*b"SBYRECD1");
const SUM_AT: usize = BLOCK - 8;
const FILLER_AT: usize = 64;

/// One block, aligned as direct I/O wants it.
#[repr(C, align(4096))]
#[derive(Clone)]
pub struct Block(pub [u8; BLOCK]);

impl Block {
    /// A block of zeros.
    #[must_use]
    pub fn zeroed() -> Self {
        Self([0; BLOCK])
    }

    fn put(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn sealed(mut self) -> Self {
        let sum = checksum(&self.0[..SUM_AT]);
        self.put(SUM_AT, sum);
        self
    }
}

fn get(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, word)
}

fn intact(bytes: &[u8], magic: u64) -> bool {
    bytes.len() == BLOCK && get(bytes, 0) == magic && sum_of(bytes) == checksum(&bytes[..SUM_AT])
}

/// Nothing was ever written here.
#[must_use]
pub fn is_blank(bytes: &[u8]) -> bool {
    // By words: bytes one at a time take an emulated CPU a second for the disks of a test.
    bytes.chunks(8).all(|chunk| word(chunk) == 0)
}

fn word(bytes: &[u8]) -> u64 {
    let mut eight = [0; 8];
    for (to, from) in eight.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_le_bytes(eight)
}

/// 64-bit checksum of `bytes`, whose length is a multiple of 8. Each step is a bijection of its lane, so a
/// change within one word always shows; four lanes keep an emulated CPU busy.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    const ODD: [u64; 4] =
        [0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F, 0x1656_67B1_9E37_79F9, 0xD6E8_FEB8_6659_FD93];
    let mut lanes = ODD;
    for (index, chunk) in bytes.chunks_exact(8).enumerate() {
        let lane = &mut lanes[index % 4];
        *lane = (*lane ^ word(chunk)).wrapping_mul(ODD[index % 4]).rotate_left(31);
    }
    lanes.iter().fold(bytes.len() as u64, |sum, lane| {
        let mixed = (sum ^ lane).wrapping_mul(ODD[0]);
        mixed ^ (mixed >> 29)
    })
}

/// A small generator of incompressible bytes (xorshift64*). Equal seeds give equal bytes.
#[derive(Debug, Clone)]
pub struct Noise(u64);

impl Noise {
    /// From any seed; the seed is spread first, so that neighbours do not resemble each other.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let spread = (seed ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        Self((spread ^ (spread >> 32)) | 1)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // The remainder is below a `usize`, so it fits one.
        usize::try_from(self.next_u64() % bound as u64).unwrap_or(0)
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let value = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&value[..chunk.len()]);
        }
    }
}

/// The first block of each disk: how many record slots follow on each of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Record slots on each disk.
    pub slots: u64,
}

impl Header {
    /// As a block.
    #[must_use]
    pub fn encode(self) -> Block {
        let mut block = Block::zeroed();
        block.put(0, HEADER_MAGIC);
        block.put(8, self.slots);
        block.sealed()
    }

    /// From a block; `None` unless it is an intact header with a believable number of slots.
    #[must_use]
    pub fn decode(block: &[u8]) -> Option<Self> {
        let slots = get(block, 8);
        (intact(block, HEADER_MAGIC) && (1..=MAX_SLOTS).contains(&slots)).then_some(Self { slots })
    }
}

/// A record without its filler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its number; the first is 1.
    pub sequence: u64,
    /// Identity of the boot that wrote it.
    pub run: u128,
    /// When it was written by the guest's wall clock, nanoseconds since 1970.
    pub written_at: u64,
    /// Checksum of the record before; 0 for the first.
    pub previous: u64,
}

impl Record {
    /// As a block, filled up with incompressible bytes derived from its number.
    #[must_use]
    pub fn encode(&self) -> Block {
        let mut block = Block::zeroed();
        block.put(0, RECORD_MAGIC);
        block.put(8, self.sequence);
        block.0[16..32].copy_from_slice(&self.run.to_le_bytes());
        block.put(32, self.written_at);
        block.put(40, self.previous);
        Noise::new(self.sequence).fill(&mut block.0[FILLER_AT..SUM_AT]);
        block.sealed()
    }

    /// From a block; `None` unless every byte is as the writer made it.
    #[must_use]
    pub fn decode(block: &[u8]) -> Option<Self> {
        let sequence = get(block, 8);
        if !intact(block, RECORD_MAGIC) || sequence == 0 {
            return None;
        }
        let run = u128::from(get(block, 16)) | (u128::from(get(block, 24)) << 64);
        Some(Self { sequence, run, written_at: get(block, 32), previous: get(block, 40) })
    }
}

/// The checksum that a sealed block carries: what the next record names as `previous`.
#[must_use]
pub fn sum_of(block: &[u8]) -> u64 {
    get(block, SUM_AT)
}

/// One of the two disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first disk: odd records.
    A,
    /// The second disk: even records.
    B,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// Where record `sequence` (from 1) lives on disks of `slots` record slots each: side, and byte offset.
#[must_use]
pub fn place(sequence: u64, slots: u64) -> (Side, u64) {
    let index = sequence - 1;
    let side = if index % 2 == 0 { Side::A } else { Side::B };
    (side, (1 + (index / 2) % slots) * BLOCK as u64)
}

/// The record that must be in slot `slot` of `side` when the newest record of all is `last`; `None` when the
/// slot was never written.
#[must_use]
pub fn expected(side: Side, slot: u64, slots: u64, last: u64) -> Option<u64> {
    let first = 2 * slot + if side == Side::A { 1 } else { 2 };
    let lap = 2 * slots;
    (first <= last).then(|| first + (last - first) / lap * lap)
}
