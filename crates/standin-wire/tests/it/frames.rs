//! The frame decoder, fed with what a peer would not send.

use bytes::Bytes;
use proptest::prelude::*;
use standin_wire::block::{encode, zero};
use standin_wire::frame::{Assembler, HEADER_LEN, MAX_BODY};
use standin_wire::{Compression, Frame};

fn frame() -> Vec<u8> {
    encode(1, 8192, Bytes::from(vec![7; 5000]), 4096, Compression::Off).unwrap().to_bytes().to_vec()
}

/// Sets bytes of a header and mends its checksum, as a peer that lies would.
fn forged(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    mend(&mut frame);
    frame
}

fn mend(frame: &mut [u8]) {
    let crc = crc32fast::hash(&frame[..44]);
    frame[44..48].copy_from_slice(&crc.to_le_bytes());
}

fn refusal(bytes: &[u8]) -> String {
    Assembler::new().push(bytes).expect_err("the frame was read").to_string()
}

#[test]
fn a_forged_field_is_refused_with_its_reason() {
    assert!(refusal(&forged(0, b"HTTP")).contains("magic"));
    assert!(refusal(&forged(4, &[9])).contains("layout 9"));
    assert!(refusal(&forged(5, &[77])).contains("kind 77"));
    assert!(refusal(&forged(6, &[3])).contains("encoding 3"));
    assert!(refusal(&forged(7, &[1])).contains("reserved"));
    assert!(refusal(&forged(10, &[1])).contains("reserved"));
    assert!(refusal(&forged(12, &4095_u32.to_le_bytes())).contains("granule"));
    assert!(refusal(&forged(16, &u64::MAX.to_le_bytes())).contains("offset"));
    assert!(refusal(&forged(24, &(1_u64 << 40).to_le_bytes())).contains("longer than 1 MiB"));
    assert!(refusal(&forged(32, &9_u32.to_le_bytes())).contains("digests"));
    assert!(refusal(&forged(36, &1_u32.to_le_bytes())).contains("payload"));
    assert!(refusal(&forged(40, &[1])).contains("checksum"));
    assert!(refusal(&forged(5, &[1])).contains("none"), "a control frame with fields of a block");
    let mut unmended = frame();
    unmended[16] ^= 1;
    assert!(refusal(&unmended).contains("checksum of the header"));
}

/// Four gigabytes announced, 48 bytes sent: refused from the header alone, so no memory was taken for the body.
#[test]
fn absurd_lengths_are_refused_from_the_header_alone() {
    for at in [32, 36] {
        refusal(&forged(at, &u32::MAX.to_le_bytes())[..HEADER_LEN]);
    }
    // A control frame one byte over its limit.
    let mut control = vec![0; HEADER_LEN];
    control[..4].copy_from_slice(b"SIFR");
    control[4..6].copy_from_slice(&[1, 1]);
    control[36..40].copy_from_slice(&((1_u32 << 20) + 1).to_le_bytes());
    mend(&mut control);
    assert!(refusal(&control).contains("limit"));
    // A hello may be far shorter still.
    control[5] = 0;
    control[36..40].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    mend(&mut control);
    assert!(refusal(&control).contains("limit"));
}

#[test]
fn a_truncated_frame_is_not_given_out() {
    let whole = frame();
    for end in 0..whole.len() {
        let mut assembler = Assembler::new();
        assembler.push(&whole[..end]).unwrap();
        assert_eq!(assembler.pop_user(), None, "after {end} bytes");
        assert_eq!(assembler.mid_frame(), end > 0, "after {end} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_cuts_between_pieces_do_not_matter(cuts in prop::collection::vec(1..6000_usize, 1..60)) {
        let mut stream = Vec::new();
        let mut sent = Vec::new();
        for number in 0..20_u64 {
            let block = if number % 3 == 0 {
                zero(2, number * 4096, 4096).unwrap()
            } else {
                let byte = u8::try_from(number).unwrap();
                encode(2, number * 4096, Bytes::from(vec![byte; 4096]), 4096, Compression::Zstd(1)).unwrap()
            };
            stream.extend(block.to_bytes());
            sent.push(block.header().offset);
        }
        let mut assembler = Assembler::new();
        let mut rest = &stream[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break }
            let (piece, tail) = rest.split_at((*cut).min(rest.len()));
            assembler.push(piece).unwrap();
            rest = tail;
        }
        let mut got = Vec::new();
        while let Some(Frame::Block(block)) = assembler.pop_user() {
            got.push(block.decode().unwrap().offset);
        }
        prop_assert_eq!(got, sent);
        prop_assert!(!assembler.mid_frame());
    }

    #[test]
    fn random_bytes_are_refused_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut assembler = Assembler::new();
        let result = assembler.push(&bytes);
        prop_assert!(result.is_err() || bytes.len() < HEADER_LEN);
        prop_assert_eq!(assembler.pop_user(), None);
    }

    #[test]
    fn a_header_whose_checksum_is_right_is_bounded_whatever_it_says(fields in prop::collection::vec(any::<u8>(), 38)) {
        let mut header = vec![0; HEADER_LEN];
        header[..4].copy_from_slice(b"SIFR");
        header[4] = 1;
        header[5] = fields[0] % 6;
        header[6] = fields[1] % 3;
        header[8..10].copy_from_slice(&fields[2..4]);
        header[12..44].copy_from_slice(&fields[4..36]);
        mend(&mut header);
        let mut assembler = Assembler::new();
        if assembler.push(&header).is_ok() {
            // It was taken, so its body fits the limit: this much always completes it or fails.
            let done = assembler.push(&vec![0; MAX_BODY]).is_err() || !assembler.mid_frame() || assembler.pop_user().is_some();
            prop_assert!(done);
        }
    }
}
