//! The frame decoder and the block decoder on what a peer could send.
//!
//! Input: the first byte says whether the header checksums are mended, so that the fuzzer gets past them, the
//! second how long the pieces are in which the rest arrives. Nothing may panic, and no block may come out that is
//! longer than its header says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use standin_wire::frame::{Assembler, HEADER_LEN};
use standin_wire::{BlockData, Frame};

fuzz_target!(|input: &[u8]| {
    let [mend, piece, stream @ ..] = input else { return };
    let mut stream = stream.to_vec();
    if mend & 1 == 1 {
        mend_headers(&mut stream);
    }
    let mut assembler = Assembler::new();
    for chunk in stream.chunks(usize::from(*piece) + 1) {
        if assembler.push(chunk).is_err() {
            return;
        }
        while let Some(frame) = assembler.pop_user() {
            look_at(frame);
        }
    }
});

fn look_at(frame: Frame) {
    match frame {
        Frame::Control(control) => drop(control.parse::<Vec<String>>()),
        Frame::Block(block) => {
            let length = block.header.length;
            if let Ok(BlockData::Data(data)) = block.decode().map(|decoded| decoded.data) {
                assert_eq!(data.len() as u64, length);
            }
        }
    }
}

/// Gives every header, where the lengths before it put it, its magic, its layout and a right checksum.
fn mend_headers(stream: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = stream.get_mut(at..at + HEADER_LEN) {
        header[..5].copy_from_slice(b"SIFR\x01");
        let crc = crc32fast::hash(&header[..HEADER_LEN - 4]);
        header[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
        at += HEADER_LEN + word(32).saturating_mul(16).saturating_add(word(36)).min(1 << 21);
    }
}
