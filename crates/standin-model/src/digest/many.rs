//! The digests of many granules at once.
//!
//! BLAKE3 hashes the chunks of one input side by side, in as many lanes as the processor's vectors have: sixteen
//! with AVX-512. A granule of 4 KiB has four chunks, so that three quarters of the lanes would idle. Here the lanes
//! go across granules:
//!
//! ```text
//! lane        0                1                2      ..
//! round c     chunk c of       chunk c of       chunk c of          all with counter c: they begin
//!             granule 0        granule 1        granule 2           trees of their own
//! then        the parents of all granules, level by level; the last level makes the roots
//! ```
//!
//! Invariant: bit for bit what [`BlockDigest::of`] gives for each granule. The tests compare them, and whatever is
//! not whole granules of 2 to 8 chunks goes that way anyhow. The function of `blake3` that is used is public, but
//! left out of its documentation, hence the exact minor version in the workspace's `Cargo.toml`.

use super::{BlockDigest, is_zero_data};
use blake3::IncrementCounter;
use blake3::platform::Platform;

/// Facts of BLAKE3 from its specification, sections 2.1 to 2.6: bytes of a chunk, of a block and of a chaining
/// value, the flags, and the key of the mode that hashes without one.
const CHUNK: usize = blake3::CHUNK_LEN;
const BLOCK: usize = blake3::BLOCK_LEN;
const VALUE: usize = blake3::OUT_LEN;
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 1 << 1;
const PARENT: u8 = 1 << 2;
const ROOT: u8 = 1 << 3;
const NO_KEY: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Granules that are hashed side by side; more than the widest vector would bring nothing.
const LANES: usize = 16;
/// Chunks of a granule above which BLAKE3 fills its lanes by itself.
const MOST_CHUNKS: usize = 8;

/// The digest of every `granule` bytes of `data`, of which the last may be fewer, in order. A `granule` of 0 is
/// taken for all of `data`.
#[must_use]
pub fn digests(data: &[u8], granule: usize) -> Vec<BlockDigest> {
    let granule = if granule == 0 { data.len().max(1) } else { granule };
    let chunks = granule / CHUNK;
    let usual = granule % CHUNK == 0 && (2..=MOST_CHUNKS).contains(&chunks) && chunks.is_power_of_two();
    if !usual {
        return data.chunks(granule).map(BlockDigest::of).collect();
    }
    let mut digests = Vec::with_capacity(data.len().div_ceil(granule));
    let mut whole = data.chunks_exact(granule);
    let mut group = Group::new();
    for piece in &mut whole {
        digests.push(BlockDigest::ZERO);
        if !is_zero_data(piece) {
            group.add(digests.len() - 1, piece);
            if group.lanes == LANES {
                group.hash(chunks, &mut digests);
            }
        }
    }
    group.hash(chunks, &mut digests);
    if !whole.remainder().is_empty() {
        digests.push(BlockDigest::of(whole.remainder()));
    }
    digests
}

/// Granules on their way.
struct Group<'a> {
    platform: Platform,
    lanes: usize,
    /// The granule of each lane, and which one of all it is.
    granules: [(usize, &'a [u8]); LANES],
}

impl<'a> Group<'a> {
    fn new() -> Self {
        Self { platform: Platform::detect(), lanes: 0, granules: [(0, &[]); LANES] }
    }

    fn add(&mut self, number: usize, granule: &'a [u8]) {
        self.granules[self.lanes] = (number, granule);
        self.lanes += 1;
    }

    /// Puts the digests of the granules to their places, and is empty again.
    fn hash(&mut self, chunks: usize, digests: &mut [BlockDigest]) {
        let lanes = std::mem::take(&mut self.lanes);
        let mut values = [0; LANES * MOST_CHUNKS * VALUE];
        for chunk in 0..chunks {
            self.hash_chunk(chunk, chunks, lanes, &mut values);
        }
        let mut left = chunks;
        while left > 1 {
            let flags = if left == 2 { PARENT | ROOT } else { PARENT };
            self.hash_parents(lanes * left / 2, flags, &mut values);
            left /= 2;
        }
        for (lane, (number, _)) in self.granules[..lanes].iter().enumerate() {
            let mut short = [0; BlockDigest::LEN];
            short.copy_from_slice(&values[lane * VALUE..lane * VALUE + BlockDigest::LEN]);
            digests[*number] = BlockDigest(short);
        }
    }

    /// The chaining values of one chunk of each granule, to where that granule's values are.
    fn hash_chunk(&self, chunk: usize, chunks: usize, lanes: usize, values: &mut [u8]) {
        let mut inputs = [&[0; CHUNK]; LANES];
        for (input, (_, granule)) in inputs.iter_mut().zip(&self.granules[..lanes]) {
            if let Some(bytes) = granule[chunk * CHUNK..].first_chunk() {
                *input = bytes;
            }
        }
        let mut out = [0; LANES * VALUE];
        let (same, flags) = (IncrementCounter::No, (0, CHUNK_START, CHUNK_END));
        let inputs = &inputs[..lanes];
        self.platform.hash_many(inputs, &NO_KEY, chunk as u64, same, flags.0, flags.1, flags.2, &mut out);
        for (lane, value) in out.chunks_exact(VALUE).take(lanes).enumerate() {
            let at = (lane * chunks + chunk) * VALUE;
            values[at..at + VALUE].copy_from_slice(value);
        }
    }

    /// Replaces each two neighbouring values by their parent.
    fn hash_parents(&self, parents: usize, flags: u8, values: &mut [u8]) {
        let mut done = 0;
        while done < parents {
            let count = LANES.min(parents - done);
            let mut out = [0; LANES * VALUE];
            let mut inputs = [&[0; BLOCK]; LANES];
            for (number, input) in inputs.iter_mut().take(count).enumerate() {
                if let Some(bytes) = values[(done + number) * BLOCK..].first_chunk() {
                    *input = bytes;
                }
            }
            let inputs = &inputs[..count];
            self.platform.hash_many(inputs, &NO_KEY, 0, IncrementCounter::No, flags, 0, 0, &mut out);
            values[done * VALUE..(done + count) * VALUE].copy_from_slice(&out[..count * VALUE]);
            done += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that differ everywhere, with some granules of zeros.
    fn sample(length: usize, seed: u64, zeros: &[bool], granule: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()[7]
        };
        let mut data: Vec<u8> = (0..length).map(|_| next()).collect();
        for (piece, zero) in data.chunks_mut(granule).zip(zeros) {
            if *zero {
                piece.fill(0);
            }
        }
        data
    }

    proptest! {
        #[test]
        fn many_at_once_are_the_digests_of_each(
            shift in 9_u32..16,
            pieces in 0_usize..40,
            tail in 0_usize..5000,
            seed in any::<u64>(),
            zeros in proptest::collection::vec(proptest::bool::weighted(0.3), 0..40),
        ) {
            let granule = 1_usize << shift;
            let data = sample(pieces * granule.min(8192) + tail, seed, &zeros, granule);
            let each: Vec<_> = data.chunks(granule).map(BlockDigest::of).collect();
            prop_assert_eq!(digests(&data, granule), each);
        }
    }

    #[test]
    fn every_number_of_lanes_and_every_tree_is_right() {
        for granule in [2 * CHUNK, 4 * CHUNK, 8 * CHUNK] {
            for pieces in 1..=2 * LANES + 1 {
                let data = sample(pieces * granule, pieces as u64, &[], granule);
                let each: Vec<_> = data.chunks(granule).map(BlockDigest::of).collect();
                assert_eq!(digests(&data, granule), each, "{pieces} granules of {granule}");
            }
        }
    }

    #[test]
    fn nothing_and_odd_sizes_are_no_special_case() {
        assert!(digests(&[], 4096).is_empty());
        assert_eq!(digests(&[7; 100], 0), [BlockDigest::of(&[7; 100])]);
        assert_eq!(digests(&[0; 9000], 4096), [BlockDigest::ZERO; 3]);
        let odd = sample(10_000, 3, &[], 3000);
        assert_eq!(digests(&odd, 3000), odd.chunks(3000).map(BlockDigest::of).collect::<Vec<_>>());
    }
}
