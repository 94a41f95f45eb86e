//! Digests of disk data.
//!
//! * [`BlockDigest`] names the content of one granule of a disk. The replica keeps the newest one of every
//!   granule, so that a resynchronization compares two disks without reading the replica's.
//! * [`tree`] folds the block digests of a whole disk into one, which primary and replica compute alike: equal
//!   roots over disks of equal size mean equal disks.
//! * [`DeltaDigest`] sums up the blocks of one cycle in whatever order they arrive.
//!
//! The sender, the receiver, the store's layers and `standin store check` all use these and no other digest.

mod many;

pub use many::digests;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Text that is no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a digest is {expected} hexadecimal digits, this text is something else ({found} bytes long)")]
pub struct DigestError {
    /// Digits of the digest that was expected.
    pub expected: usize,
    /// Length of the text that was given.
    pub found: usize,
}

/// Whether every byte is zero. The empty slice is.
///
/// The slice is compared with itself shifted by 16 bytes: one `memcmp`, which stops at the first difference
/// and runs at the speed of memory when there is none.
#[must_use]
pub fn is_zero_data(data: &[u8]) -> bool {
    const STEP: usize = 16;
    match data.split_at_checked(STEP) {
        None => data.iter().all(|byte| *byte == 0),
        Some((head, tail)) => head == [0; STEP] && data[..tail.len()] == *tail,
    }
}

/// The digest of one granule of a disk: the first 128 bits of its BLAKE3 hash, or [`BlockDigest::ZERO`] for
/// data that is all zeros, whatever its length.
///
/// 128 bits are enough. That two different granules meet by accident becomes likely only after about 2^64 of
/// them, which is 2^76 bytes of 4 KiB granules. A guest that wants to forge a collision needs 2^64 work, and
/// what it wins is that its own disk is replicated wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BlockDigest([u8; 16]);

impl BlockDigest {
    /// The digest of zeros.
    pub const ZERO: Self = Self([0; 16]);
    /// Bytes of a digest on the wire and in files.
    pub const LEN: usize = 16;

    /// The digest of `data`.
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        if is_zero_data(data) { Self::ZERO } else { Self::truncate(&blake3::hash(data)) }
    }

    fn truncate(hash: &blake3::Hash) -> Self {
        let mut short = [0; Self::LEN];
        short.copy_from_slice(&hash.as_bytes()[..Self::LEN]);
        Self(short)
    }

    /// The data is all zeros.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// The digest as it stands on the wire and in files.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// A digest read from the wire or a file.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn read_hex<const N: usize>(text: &str) -> Result<[u8; N], DigestError> {
    let bad = DigestError { expected: 2 * N, found: text.len() };
    // `from_str_radix` would take a sign, so the digits are checked first; then slicing by bytes is sound too.
    if text.len() != 2 * N || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(bad);
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| bad)?;
    }
    Ok(bytes)
}

impl fmt::Display for BlockDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl FromStr for BlockDigest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        read_hex(text).map(Self)
    }
}

macro_rules! serde_as_hex {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

serde_as_hex!(BlockDigest);
serde_as_hex!(DeltaDigest);

/// A digest over the blocks of one disk's delta that does not depend on their order, because blocks are
/// compressed and written side by side and an interrupted delta goes on where it stopped.
///
/// It is the sum, in four lanes of 64 bits, of the BLAKE3 hashes of `(offset, length, block digest)`. Sender
/// and receiver add what they sent and what they wrote; equal sums mean that no block was lost, doubled or put
/// elsewhere. It guards against loss and against bugs. Against attackers TLS guards: sums of hashes can be
/// forged by whoever may choose the blocks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DeltaDigest([u64; 4]);

impl DeltaDigest {
    /// Bytes of a delta digest on the wire and in files.
    pub const LEN: usize = 32;

    /// The digest of an empty delta.
    #[must_use]
    pub const fn new() -> Self {
        Self([0; 4])
    }

    /// Adds a block. `offset` and `length` in bytes.
    pub fn add_block(&mut self, offset: u64, length: u64, digest: BlockDigest) {
        let mut record = [0; 8 + 8 + BlockDigest::LEN];
        record[..8].copy_from_slice(&offset.to_le_bytes());
        record[8..16].copy_from_slice(&length.to_le_bytes());
        record[16..].copy_from_slice(digest.as_bytes());
        self.merge(&Self::from_bytes(*blake3::hash(&record).as_bytes()));
    }

    /// Adds a run of zeros. The same as [`DeltaDigest::add_block`] with [`BlockDigest::ZERO`]: zeros that were
    /// read and zeros that the block status told count alike.
    pub fn add_zero(&mut self, offset: u64, length: u64) {
        self.add_block(offset, length, BlockDigest::ZERO);
    }

    /// Adds all blocks of another part of the same delta.
    pub fn merge(&mut self, other: &Self) {
        for (lane, add) in self.0.iter_mut().zip(other.0) {
            *lane = lane.wrapping_add(add);
        }
    }

    /// The digest as it stands on the wire and in files.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; Self::LEN];
        for (chunk, lane) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&lane.to_le_bytes());
        }
        bytes
    }

    /// A digest read from the wire or a file.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut lanes = [0; 4];
        for (lane, chunk) in lanes.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            *lane = u64::from_le_bytes(word);
        }
        Self(lanes)
    }
}

impl fmt::Display for DeltaDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.to_bytes(), f)
    }
}

impl FromStr for DeltaDigest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        read_hex(text).map(Self::from_bytes)
    }
}

/// The tree over the block digests of a disk.
///
/// ```text
/// level 2                     root
///                 /            |        \
/// level 1      node          node      node        node(children) = BLAKE3, keyed, of up to 64 digests
///            / .. \         / .. \      |
/// level 0   0      63     64     127   128         one digest per granule, in the order of the disk
/// ```
///
/// Invariants: all-zero children make a zero node, so holes cost nothing; a root says nothing about the number
/// of leaves, so the sizes and granularities of two disks are compared before their roots are.
pub mod tree {
    use super::BlockDigest;

    /// Children of a node.
    pub const FAN_OUT: usize = 64;

    /// Keys the nodes, so that no disk content can pass for a node.
    const NODE_KEY: [u8; 32] = *b"standin digest tree: node, v1\0\0\0";

    /// The node above `children`, of which there are at most [`FAN_OUT`]. All zero makes zero.
    #[must_use]
    pub fn node(children: &[BlockDigest]) -> BlockDigest {
        if children.iter().all(BlockDigest::is_zero) {
            return BlockDigest::ZERO;
        }
        let mut hasher = blake3::Hasher::new_keyed(&NODE_KEY);
        for child in children {
            hasher.update(child.as_bytes());
        }
        BlockDigest::truncate(&hasher.finalize())
    }

    /// Levels above the leaves: 0 for up to one leaf, 1 for up to 64, 2 for up to 4096.
    #[must_use]
    pub fn levels(leaves: u64) -> u32 {
        let mut width = leaves;
        let mut levels = 0;
        while width > 1 {
            width = width.div_ceil(FAN_OUT as u64);
            levels += 1;
        }
        levels
    }

    /// The root over `leaves` in the order of the disk. No leaves make zero, one leaf is its own root.
    #[must_use]
    pub fn root(leaves: impl IntoIterator<Item = BlockDigest>) -> BlockDigest {
        let mut builder = RootBuilder::new();
        for leaf in leaves {
            builder.push(leaf);
        }
        builder.finish()
    }

    /// Computes a root while the leaves pass by. Memory: 1 KiB a level, so 6 KiB for any disk.
    #[derive(Debug, Clone, Default)]
    pub struct RootBuilder {
        /// Per level the children that do not make a full node yet: always fewer than [`FAN_OUT`].
        pending: Vec<Vec<BlockDigest>>,
    }

    impl RootBuilder {
        /// A builder without leaves.
        #[must_use]
        pub fn new() -> Self {
            Self::default()
        }

        /// Adds the next leaf.
        pub fn push(&mut self, leaf: BlockDigest) {
            self.push_at(0, leaf);
        }

        /// Adds `count` leaves of zeros, in a time that does not grow with `count`.
        pub fn push_zeros(&mut self, count: u64) {
            self.push_zeros_at(0, count);
        }

        /// Adds `count` zero children at `level`; no level below it holds any.
        fn push_zeros_at(&mut self, level: usize, count: u64) {
            let fan_out = FAN_OUT as u64;
            let mut left = count;
            while left > 0 {
                if left >= fan_out && self.pending.get(level).is_none_or(Vec::is_empty) {
                    self.push_zeros_at(level + 1, left / fan_out);
                    left %= fan_out;
                } else {
                    self.push_at(level, BlockDigest::ZERO);
                    left -= 1;
                }
            }
        }

        fn push_at(&mut self, start: usize, digest: BlockDigest) {
            let mut level = start;
            let mut rising = digest;
            loop {
                while self.pending.len() <= level {
                    self.pending.push(Vec::with_capacity(FAN_OUT));
                }
                self.pending[level].push(rising);
                if self.pending[level].len() < FAN_OUT {
                    return;
                }
                rising = node(&self.pending[level]);
                self.pending[level].clear();
                level += 1;
            }
        }

        /// The root over all leaves.
        #[must_use]
        pub fn finish(self) -> BlockDigest {
            // What rises from an unfinished level is the last child of the level above.
            let mut rising: Option<BlockDigest> = None;
            let top = self.pending.iter().rposition(|level| !level.is_empty());
            for (level, mut children) in self.pending.into_iter().enumerate() {
                children.extend(rising.take());
                if Some(level) >= top && children.len() == 1 {
                    return children[0];
                }
                if !children.is_empty() {
                    rising = Some(node(&children));
                }
            }
            rising.unwrap_or(BlockDigest::ZERO)
        }
    }
}
