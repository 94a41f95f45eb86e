//! The block codec: what goes in comes out, and nothing else does.

use crate::support::random;
use bytes::Bytes;
use proptest::prelude::*;
use standin_model::BlockDigest;
use standin_wire::block::{MIN_GRANULE, encode, zero};
use standin_wire::frame::Assembler;
use standin_wire::{
    BlockData, BlockHeader, Compression, DecodedBlock, EncodedBlock, Encoding, Error, Frame, MAX_BLOCK,
    ReceivedBlock,
};

/// Through the frame, as over a connection.
fn over_the_wire(block: &EncodedBlock) -> ReceivedBlock {
    let mut assembler = Assembler::new();
    assembler.push(&block.to_bytes()).unwrap();
    match assembler.pop_user() {
        Some(Frame::Block(received)) if !assembler.mid_frame() => received,
        other => panic!("not one block: {other:?}"),
    }
}

fn round_trip(block: &EncodedBlock) -> DecodedBlock {
    over_the_wire(block).decode().unwrap()
}

fn text(length: usize) -> Vec<u8> {
    b"the quick brown fox jumps over the lazy dog, again and again; "
        .iter()
        .copied()
        .cycle()
        .take(length)
        .collect()
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![1..200_usize, 1..70_000_usize, Just(MAX_BLOCK), Just(4096), Just(262_144)];
    (length, 0..4_u8, any::<u64>()).prop_map(|(length, shape, seed)| match shape {
        0 => vec![0; length],
        1 => random(length, seed),
        2 => text(length),
        _ => {
            let mut mixed = random(length, seed);
            mixed.iter_mut().skip(length / 3).step_by(2).for_each(|byte| *byte = 0);
            mixed
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_block_comes_out_as_it_went_in(
        data in data(),
        stream in any::<u16>(),
        offset in 0..(1_u64 << 62),
        granule in (9..=20_u32).prop_map(|bits| 1 << bits),
        level in prop_oneof![Just(Compression::Off), (1..=5).prop_map(Compression::Zstd)],
    ) {
        let data = Bytes::from(data);
        let block = encode(stream, offset, data.clone(), granule, level).unwrap();
        let got = round_trip(&block);
        prop_assert_eq!((got.stream, got.offset, got.length), (stream, offset, data.len() as u64));
        if data.iter().all(|byte| *byte == 0) {
            prop_assert_eq!(got.data, BlockData::Zero);
        } else {
            let digests: Vec<_> = data.chunks(granule as usize).map(BlockDigest::of).collect();
            prop_assert_eq!(got.data, BlockData::Data(data));
            prop_assert_eq!(&got.digests, &digests);
            prop_assert_eq!(block.digests(), &digests[..]);
        }
        prop_assert_eq!(block.wire_len(), block.to_bytes().len());
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_block_is_never_taken_for_other_data(
        shape in 0..2_u8,
        position in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let block = block_of_shape(shape);
        after_a_flip(&block, position.index(block.wire_len()), bit)?;
    }
}

/// A block that goes raw (shape 0) or compressed (shape 1).
fn block_of_shape(shape: u8) -> EncodedBlock {
    let data = if shape == 0 { random(20_000, 7) } else { text(20_000) };
    encode(3, 4096, Bytes::from(data), 4096, Compression::Zstd(3)).unwrap()
}

/// Flips a bit of a block on the wire: it is refused, or it says all the same what was sent. A flip in the header
/// is always refused. Gives whether it was refused.
fn after_a_flip(block: &EncodedBlock, at: usize, bit: u8) -> Result<bool, TestCaseError> {
    let mut bytes = block.to_bytes().to_vec();
    bytes[at] ^= 1 << bit;
    let mut assembler = Assembler::new();
    let refused = assembler.push(&bytes).is_err();
    prop_assert!(refused || at >= 48, "a header with a flipped bit at {} was read", at);
    let received = match assembler.pop_user() {
        None => return Ok(true),
        Some(Frame::Control(message)) => {
            return Err(TestCaseError::fail(format!(
                "a flip at {at} made a message of a block: {message:?}"
            )));
        }
        Some(Frame::Block(received)) => received,
    };
    let Ok(decoded) = received.decode() else { return Ok(true) };
    prop_assert_eq!(&decoded, &round_trip(block), "other data after a flip of bit {} at {}", bit, at);
    Ok(false)
}

#[test]
fn each_flipped_bit_of_a_compressed_block_is_refused_or_changes_no_data() {
    let block = block_of_shape(1);
    let places = (0..block.wire_len()).flat_map(|at| (0..8).map(move |bit| (at, bit)));
    let harmless: Vec<_> = places.filter(|(at, bit)| !after_a_flip(&block, *at, *bit).unwrap()).collect();
    // Bits that zstd does not use, and one that makes it copy from another repetition of the same text. Which they are
    // has been seen to differ between runs of different builds; that they are few shows that the others are refused.
    assert!(harmless.len() <= 8, "{harmless:?}");
}

#[test]
fn the_error_names_the_first_byte_of_the_granule_that_is_wrong() {
    let block = encode(5, 1 << 20, Bytes::from(random(64 << 10, 1)), 4096, Compression::Off).unwrap();
    let mut received = over_the_wire(&block);
    let mut payload = received.payload.to_vec();
    payload[3 * 4096 + 17] ^= 1;
    received.payload = Bytes::from(payload);
    match received.decode() {
        Err(Error::Corrupt { stream: 5, offset, .. }) => assert_eq!(offset, (1 << 20) + 3 * 4096),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_digest_that_does_not_fit_is_found_under_compression_too() {
    let block = encode(0, 0, Bytes::from(text(32 << 10)), 4096, Compression::Zstd(3)).unwrap();
    assert_eq!(block.encoding(), Encoding::Zstd);
    let mut received = over_the_wire(&block);
    received.digests[7] = BlockDigest::of(b"something else");
    assert!(matches!(received.decode(), Err(Error::Corrupt { offset, .. }) if offset == 7 * 4096));
}

#[test]
fn what_does_not_compress_goes_raw_without_a_copy_and_what_does_is_smaller() {
    let noise = Bytes::from(random(256 << 10, 3));
    let raw = encode(0, 0, noise.clone(), 4096, Compression::Zstd(3)).unwrap();
    assert_eq!(raw.encoding(), Encoding::Raw);
    assert!(raw.wire_len() < noise.len() + 64 * 16 + 64, "{}", raw.wire_len());
    let squeezed = encode(0, 0, Bytes::from(text(256 << 10)), 4096, Compression::Zstd(3)).unwrap();
    assert_eq!(squeezed.encoding(), Encoding::Zstd);
    assert!(squeezed.wire_len() < 8 << 10, "{}", squeezed.wire_len());
    let off = encode(0, 0, Bytes::from(text(256 << 10)), 4096, Compression::Off).unwrap();
    assert_eq!(off.encoding(), Encoding::Raw);
}

#[test]
fn a_block_that_begins_with_noise_is_compressed_for_what_follows() {
    let mut data = random(64 << 10, 9);
    data.extend(text(192 << 10));
    let block = encode(0, 0, Bytes::from(data), 4096, Compression::Zstd(3)).unwrap();
    assert_eq!(block.encoding(), Encoding::Zstd);
    assert!(block.wire_len() < 80 << 10, "{}", block.wire_len());
}

#[test]
fn a_small_random_write_costs_little_more_than_itself() {
    let block = encode(0, 0, Bytes::from(random(4096, 5)), 4096, Compression::Zstd(3)).unwrap();
    assert!(block.wire_len() <= 4096 + 64, "{}", block.wire_len());
}

#[test]
fn a_terabyte_of_zeros_is_one_header() {
    let block = zero(1, 0, 1 << 40).unwrap();
    assert_eq!(block.wire_len(), 48);
    let got = round_trip(&block);
    assert_eq!((got.data, got.length, got.digests.len()), (BlockData::Zero, 1 << 40, 0));
}

#[test]
fn blocks_that_could_not_be_received_are_not_sent() {
    let data = |length: usize| Bytes::from(vec![1; length]);
    let off = Compression::Off;
    assert!(encode(0, 0, data(0), 4096, off).is_err(), "empty");
    assert!(encode(0, 0, data(MAX_BLOCK + 1), 4096, off).is_err(), "too long");
    assert!(encode(0, u64::MAX - 10, data(4096), 4096, off).is_err(), "beyond the end of all offsets");
    for granule in [0, 1, MIN_GRANULE / 2, 4095, 2 << 20] {
        assert!(encode(0, 0, data(4096), granule, off).is_err(), "granule {granule}");
    }
    assert!(zero(0, 0, 0).is_err(), "no zeros");
    assert!(zero(0, 1 << 62, 1 << 63).is_err(), "zeros beyond the end");
}

/// A peer that lies about how much its payload decompresses to.
fn claims(payload: Vec<u8>, length: u64) -> ReceivedBlock {
    let header = BlockHeader { stream: 0, offset: 0, length, granule: 1 << 20 };
    ReceivedBlock {
        header,
        encoding: Encoding::Zstd,
        digests: vec![BlockDigest::ZERO],
        payload: Bytes::from(payload),
    }
}

#[test]
fn a_payload_that_swells_beyond_its_length_is_refused() {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    assert!(bomb.len() < 16 << 10);
    assert!(matches!(claims(bomb.clone(), 4096).decode(), Err(Error::Corrupt { .. })), "longer than stated");
    assert!(matches!(claims(bomb.clone(), 64 << 20).decode(), Err(Error::Corrupt { .. })), "over the limit");
    assert!(matches!(claims(bomb, u64::MAX).decode(), Err(Error::Corrupt { .. })), "absurd");
    let short = zstd::bulk::compress(&[0; 100], 3).unwrap();
    assert!(matches!(claims(short, 4096).decode(), Err(Error::Corrupt { .. })), "shorter than stated");
    assert!(matches!(claims(b"no zstd at all".to_vec(), 4096).decode(), Err(Error::Corrupt { .. })));
}

#[test]
fn a_block_put_together_by_hand_does_not_panic() {
    for (granule, digests) in [(0, 1), (4096, 0), (3, 1)] {
        let block = ReceivedBlock {
            header: BlockHeader { stream: 0, offset: 0, length: 4096, granule },
            encoding: Encoding::Raw,
            digests: vec![BlockDigest::ZERO; digests],
            payload: Bytes::from(vec![1; 4096]),
        };
        assert!(matches!(block.decode(), Err(Error::Corrupt { .. })));
    }
}
