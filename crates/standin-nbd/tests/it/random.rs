//! Seeded random replies: chunks of any size, in any order, of many requests at once; then the same with one bit
//! of a header flipped. Whatever arrives, a read that succeeds has the right bytes. A failing seed is named in the
//! panic and can be given to the test's function again.

use crate::fake::{Asked, DONE, MODERN, Peer, SIZE, chunk, scripted, within};
use standin_nbd::Error;

const READS: usize = 8;

/// Small numbers from a seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// The disk of the scripted server: every third 64 bytes are zeros, the others tell their offset.
fn content(offset: u64, length: u32) -> Vec<u8> {
    let byte =
        |at: u64| if at / 64 % 3 == 0 { 0 } else { (at ^ (at >> 8) ^ (at >> 16)).to_be_bytes()[7] | 1 };
    (offset..offset + u64::from(length)).map(byte).collect()
}

/// One chunk on the wire, and how many of its first bytes are protocol rather than data.
struct Piece {
    bytes: Vec<u8>,
    protocol: usize,
}

/// The reply to one request as chunks in random order, the last of them marked; `fail` adds an error.
fn pieces(dice: &mut Dice, asked: Asked, fail: bool) -> Vec<Piece> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < asked.length {
        let length = u32::try_from(1 + dice.below(400)).unwrap().min(asked.length - at);
        parts.push((asked.offset + u64::from(at), length));
        at += length;
    }
    for n in (1..parts.len()).rev().take(if dice.below(2) == 0 { 0 } else { parts.len() }) {
        parts.swap(n, usize::try_from(dice.below(n as u64 + 1)).unwrap());
    }
    let mut out = Vec::new();
    for (offset, length) in parts {
        let data = content(offset, length);
        let place = offset.to_be_bytes();
        let (kind, payload) = if data.iter().all(|byte| *byte == 0) {
            (2, [&place[..], &length.to_be_bytes()].concat())
        } else {
            (1, [&place[..], &data].concat())
        };
        out.push((kind, payload));
    }
    if fail {
        let place = usize::try_from(dice.below(out.len() as u64 + 1)).unwrap();
        out.insert(place, (0x8001, [0, 0, 0, 5, 0, 3, b'b', b'a', b'd'].to_vec()));
    }
    if dice.below(2) == 0 {
        out.push((0, Vec::new()));
    }
    let last = out.len() - 1;
    out.into_iter()
        .enumerate()
        .map(|(n, (kind, payload))| Piece {
            bytes: chunk(if n == last { DONE } else { 0 }, kind, asked.cookie, &payload),
            protocol: if kind == 1 { 28 } else { 20 + payload.len() },
        })
        .collect()
}

/// Answers [`READS`] requests with their chunks mixed at random. With `flip`, one bit of one header is wrong.
async fn answer(mut peer: Peer, mut dice: Dice, flip: bool, fail: Option<u64>) {
    let mut queues = Vec::new();
    for n in 0..READS as u64 {
        let asked = peer.asked().await.unwrap();
        let mut queue = pieces(&mut dice, asked, fail == Some(n));
        queue.reverse();
        queues.push(queue);
    }
    let mut mixed: Vec<Piece> = Vec::new();
    while queues.iter().any(|queue| !queue.is_empty()) {
        let pick = usize::try_from(dice.below(READS as u64)).unwrap();
        mixed.extend(queues[pick].pop());
    }
    if flip {
        let piece = usize::try_from(dice.below(mixed.len() as u64)).unwrap();
        let bit = dice.below(mixed[piece].protocol as u64 * 8);
        mixed[piece].bytes[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
    }
    // Cut anywhere, so that headers arrive in parts too.
    let stream = mixed.into_iter().flat_map(|piece| piece.bytes).collect::<Vec<u8>>();
    let mut rest = &stream[..];
    while !rest.is_empty() {
        let cut = usize::try_from(1 + dice.below(3000)).unwrap().min(rest.len());
        peer.send(&rest[..cut]).await;
        rest = &rest[cut..];
        tokio::task::yield_now().await;
    }
}

/// Runs one seed; returns how many of its reads failed.
async fn round(seed: u64, flip: bool, fail: Option<u64>) -> Vec<Error> {
    let mut dice = Dice::new(seed);
    let ranges: Vec<(u64, u32)> =
        (0..READS).map(|_| (dice.below(SIZE - 5000), u32::try_from(1 + dice.below(5000)).unwrap())).collect();
    let (client, _script) =
        scripted(MODERN, None, move |peer| answer(peer, Dice::new(!seed), flip, fail)).await;
    let reads: Vec<_> = ranges
        .iter()
        .map(|&(offset, length)| {
            let client = client.clone();
            tokio::spawn(async move { client.read(offset, length).await })
        })
        .collect();
    let mut errors = Vec::new();
    for ((offset, length), read) in ranges.into_iter().zip(reads) {
        match within(read).await.unwrap() {
            Ok(data) => {
                assert!(data == content(offset, length), "seed {seed}: {length} at {offset} are wrong")
            }
            Err(error) => errors.push(error),
        }
    }
    errors
}

#[tokio::test]
async fn any_legal_cutting_and_mixing_of_replies_gives_the_right_bytes() {
    for seed in 1..150 {
        let errors = round(seed, false, None).await;
        assert!(errors.is_empty(), "seed {seed}: {errors:?}");
    }
}

#[tokio::test]
async fn an_error_anywhere_in_a_reply_fails_that_read_alone() {
    for seed in 1..80 {
        let errors = round(seed, false, Some(seed % READS as u64)).await;
        assert!(matches!(errors[..], [Error::Server { errno: 5, .. }]), "seed {seed}: {errors:?}");
    }
}

#[tokio::test]
async fn a_flipped_bit_in_a_header_never_gives_wrong_bytes() {
    let mut hurt = 0;
    for seed in 1..400 {
        let errors = round(seed, true, None).await;
        for error in &errors {
            let expected =
                matches!(error, Error::Protocol { .. } | Error::Closed { .. } | Error::Server { .. });
            assert!(expected, "seed {seed}: {error:?}");
        }
        hurt += usize::from(!errors.is_empty());
    }
    // Only a flip of a flag bit without a meaning goes unseen.
    assert!(hurt > 300, "{hurt} of 399 flips were seen");
}
