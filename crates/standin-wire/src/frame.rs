//! The frame: a fixed header of 48 bytes and a body. Pure bytes, no I/O; [`Assembler`] is what the fuzz target
//! feeds.
//!
//! All numbers are little-endian.
//!
//! ```text
//!  0        4     5     6     7     8         10        12          16
//! +--------+-----+-----+-----+-----+---------+---------+-----------+
//! | "SIFR" | ver | kind| enc |  0  | stream  |    0    |  granule  |
//! +--------+-----+-----+-----+-----+---------+---------+-----------+
//! | offset (8)                      | length, raw (8)              | 32
//! +----------------+----------------+--------------+---------------+
//! | digests (count)| payload (bytes)| payload CRC  | header CRC    | 48
//! +----------------+----------------+--------------+---------------+
//! | digests x 16 bytes (block frames only)                         |
//! +----------------------------------------------------------------+
//! | payload                                                        |
//! +----------------------------------------------------------------+
//! ```
//!
//! Invariants:
//! * The header CRC (CRC-32 of bytes 0 to 44) and every length are checked before memory is taken for the body,
//!   so a peer can make us hold one body of at most [`MAX_BODY`] bytes.
//! * The payload CRC covers the payload of every kind but the block: a block is covered by its digests, which
//!   the caller verifies on a pool of its own ([`crate::block::ReceivedBlock::decode`]).
//! * Fields that a kind does not use are zero, and a frame where they are not is refused: they are free for later.
//! * Header and `Hello` keep this shape in every version of the protocol; otherwise two versions could not tell
//!   each other what they are.

use crate::block::{BlockHeader, Encoding, MAX_BLOCK, MIN_GRANULE, ReceivedBlock};
use crate::pool::{Buffer, Pool};
use crate::tls::Sink;
use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;
use standin_model::BlockDigest;
use std::collections::VecDeque;
use std::time::Duration;
use thiserror::Error;

/// Bytes of a header.
pub const HEADER_LEN: usize = 48;
/// Largest body of a control frame, in bytes of JSON.
pub const MAX_CONTROL: usize = 1 << 20;
/// Largest body of the frames of the connection itself: hello, ping, pong, goodbye.
pub const MAX_INTERNAL: usize = 16 << 10;
/// Largest body of any frame: the digests and the payload of a block.
pub const MAX_BODY: usize = MAX_BLOCK + MAX_BLOCK / MIN_GRANULE as usize * BlockDigest::LEN;

const MAGIC: [u8; 4] = *b"SIFR";
const LAYOUT: u8 = 1;
/// Where the CRC of the header stands.
const CRC_AT: usize = 44;
/// Offsets and lengths end below this, because the kernel's and QEMU's offsets are signed.
const MAX_OFFSET: u64 = i64::MAX as u64;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Hello = 0,
    Control = 1,
    Block = 2,
    Ping = 3,
    Pong = 4,
    /// The orderly end. A body is the sentence that says why the peer was refused.
    Goodbye = 5,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Hello, Self::Control, Self::Block, Self::Ping, Self::Pong, Self::Goodbye]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }

    const fn max_payload(self) -> usize {
        match self {
            Self::Control => MAX_CONTROL,
            Self::Block => MAX_BLOCK,
            Self::Hello | Self::Ping | Self::Pong | Self::Goodbye => MAX_INTERNAL,
        }
    }
}

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the frame is not valid: {0}")]
pub struct FrameError(pub(crate) String);

fn refuse<T>(reason: impl Into<String>) -> Result<T, FrameError> {
    Err(FrameError(reason.into()))
}

/// A header whose every field was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub kind: Kind,
    pub encoding: Encoding,
    pub block: BlockHeader,
    pub digests: usize,
    pub payload: usize,
    pub payload_crc: u32,
}

impl Header {
    /// A header of everything but a block.
    pub fn plain(kind: Kind, payload: &[u8]) -> Self {
        Self {
            kind,
            encoding: Encoding::Zero,
            block: BlockHeader { stream: 0, offset: 0, length: 0, granule: 0 },
            digests: 0,
            payload: payload.len(),
            payload_crc: crc32fast::hash(payload),
        }
    }

    /// The header as it goes over the wire. Lengths that do not fit their fields cannot be built: the block
    /// codec and the sender check theirs first.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(4, &[LAYOUT, self.kind as u8, self.encoding as u8]);
        put(8, &self.block.stream.to_le_bytes());
        put(12, &self.block.granule.to_le_bytes());
        put(16, &self.block.offset.to_le_bytes());
        put(24, &self.block.length.to_le_bytes());
        put(32, &u32::try_from(self.digests).unwrap_or(u32::MAX).to_le_bytes());
        put(36, &u32::try_from(self.payload).unwrap_or(u32::MAX).to_le_bytes());
        put(40, &self.payload_crc.to_le_bytes());
        let crc = crc32fast::hash(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads and checks a header.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, FrameError> {
        if bytes[..4] != MAGIC {
            return refuse("it does not begin with the magic number");
        }
        if u32_at(bytes, CRC_AT) != crc32fast::hash(&bytes[..CRC_AT]) {
            return refuse("the checksum of the header is wrong");
        }
        if bytes[4] != LAYOUT {
            return refuse(format!("frame layout {} is unknown, this host knows {LAYOUT}", bytes[4]));
        }
        let Some(kind) = Kind::from_number(bytes[5]) else {
            return refuse(format!("kind {} is unknown", bytes[5]));
        };
        let Some(encoding) = Encoding::from_number(bytes[6]) else {
            return refuse(format!("encoding {} is unknown", bytes[6]));
        };
        if bytes[7] != 0 || bytes[10..12] != [0, 0] {
            return refuse("reserved bytes are not zero");
        }
        let header = Self {
            kind,
            encoding,
            block: BlockHeader {
                stream: u16::from_le_bytes([bytes[8], bytes[9]]),
                granule: u32_at(bytes, 12),
                offset: u64_at(bytes, 16),
                length: u64_at(bytes, 24),
            },
            digests: usize_of(u32_at(bytes, 32)),
            payload: usize_of(u32_at(bytes, 36)),
            payload_crc: u32_at(bytes, 40),
        };
        header.check()?;
        Ok(header)
    }

    /// Bytes that follow the header.
    pub const fn body_len(&self) -> usize {
        self.digests * BlockDigest::LEN + self.payload
    }

    fn check(&self) -> Result<(), FrameError> {
        if self.payload > self.kind.max_payload() {
            return refuse(format!(
                "its payload of {} bytes is over the limit of {}",
                self.payload,
                self.kind.max_payload()
            ));
        }
        if self.kind == Kind::Block {
            return self.check_block();
        }
        let unused = Self { kind: self.kind, ..Self::plain(Kind::Ping, &[]) };
        let shown = Self { payload: 0, payload_crc: 0, ..*self };
        if shown != unused {
            return refuse("it carries fields of a block and is none");
        }
        Ok(())
    }

    fn check_block(&self) -> Result<(), FrameError> {
        check_block_header(&self.block, self.encoding).or_else(refuse)?;
        if self.payload_crc != 0 {
            return refuse("a block carries a payload checksum");
        }
        if self.digests != self.block.digest_count(self.encoding) {
            return refuse(format!(
                "{} digests cannot cover a block of {} bytes in granules of {}",
                self.digests, self.block.length, self.block.granule
            ));
        }
        let length = usize::try_from(self.block.length).unwrap_or(usize::MAX);
        let payload_fits = match self.encoding {
            Encoding::Zero => self.payload == 0,
            Encoding::Raw => self.payload == length,
            // What does not shrink is sent raw, so a longer payload is a lie.
            Encoding::Zstd => self.payload > 0 && self.payload < length,
        };
        if !payload_fits {
            return refuse(format!("a payload of {} bytes does not fit a block of {length}", self.payload));
        }
        Ok(())
    }
}

/// The rules of a block's place and size. Used on both sides, so that what is sent can be received.
pub(crate) fn check_block_header(block: &BlockHeader, encoding: Encoding) -> Result<(), &'static str> {
    let end = block.offset.checked_add(block.length);
    if block.length == 0 || end.is_none_or(|end| end > MAX_OFFSET) {
        return Err("the block is empty or ends beyond the largest offset");
    }
    if encoding == Encoding::Zero {
        return if block.granule == 0 { Ok(()) } else { Err("a block of zeros carries a granule") };
    }
    if block.length > MAX_BLOCK as u64 {
        return Err("a block of data is longer than 1 MiB");
    }
    let granule = block.granule;
    if !granule.is_power_of_two() || granule < MIN_GRANULE || granule as usize > MAX_BLOCK {
        return Err("the granule is no power of two between 512 bytes and 1 MiB");
    }
    Ok(())
}

fn u32_at(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | (u64::from(u32_at(bytes, at + 4)) << 32)
}

fn usize_of(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A whole frame of anything but a block.
pub(crate) fn plain_frame(kind: Kind, payload: &[u8]) -> Result<Bytes, FrameError> {
    if payload.len() > kind.max_payload() {
        return refuse(format!(
            "a message of {} bytes is over the limit of {}",
            payload.len(),
            kind.max_payload()
        ));
    }
    let mut frame = BytesMut::with_capacity(HEADER_LEN + payload.len());
    frame.extend_from_slice(&Header::plain(kind, payload).to_bytes());
    frame.extend_from_slice(payload);
    Ok(frame.freeze())
}

/// The body of a control frame: JSON whose meaning is the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control(pub Bytes);

impl Control {
    /// The message in it.
    ///
    /// # Errors
    /// [`crate::Error::Frame`] if the body is no such message.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, crate::Error> {
        serde_json::from_slice(&self.0).map_err(|error| crate::Error::Frame {
            reason: format!("a control message is not as expected: {error}"),
        })
    }
}

/// A frame for the user of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A message of the engine.
    Control(Control),
    /// Data of a disk, not verified yet: see [`ReceivedBlock::decode`].
    Block(ReceivedBlock),
}

/// What came in, including what the connection handles itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Incoming {
    User(Frame),
    Hello(Bytes),
    Ping,
    Pong,
    Goodbye(Bytes),
}

/// Puts frames together from bytes in pieces of any size.
#[derive(Debug, Default)]
pub struct Assembler {
    head: BytesMut,
    begun: Option<Begun>,
    ready: VecDeque<Incoming>,
    pool: Pool,
}

/// A frame whose body is not whole.
#[derive(Debug)]
struct Begun {
    header: Header,
    body: Buffer,
    filled: usize,
}

impl Assembler {
    /// An assembler at the beginning of a frame.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives memory back that no block was put into within the last `rest`.
    pub(crate) fn release(&self, rest: Duration) {
        self.pool.release(rest);
    }

    /// Takes bytes. Afterwards all frames that are whole wait to be popped.
    ///
    /// # Errors
    /// The first frame that is not valid. The stream is lost then: nobody knows where the next one begins.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), FrameError> {
        loop {
            let Some(begun) = &mut self.begun else {
                let take = bytes.len().min(HEADER_LEN - self.head.len());
                self.head.extend_from_slice(&bytes[..take]);
                bytes = &bytes[take..];
                let Ok(whole) = <&[u8; HEADER_LEN]>::try_from(&self.head[..]) else { return Ok(()) };
                let header = Header::parse(whole)?;
                self.head.clear();
                // The payload at the beginning of a page: so the store can write it without a copy.
                let body = self.pool.take(header.body_len(), header.digests * BlockDigest::LEN);
                self.begun = Some(Begun { header, body, filled: 0 });
                continue;
            };
            let take = bytes.len().min(begun.body.len() - begun.filled);
            begun.body[begun.filled..begun.filled + take].copy_from_slice(&bytes[..take]);
            begun.filled += take;
            bytes = &bytes[take..];
            if !self.finish_if_whole()? {
                return Ok(());
            }
        }
    }

    /// Gives out the frame that has begun if its body is whole.
    fn finish_if_whole(&mut self) -> Result<bool, FrameError> {
        match self.begun.take_if(|begun| begun.filled == begun.body.len()) {
            Some(Begun { header, body, .. }) => {
                self.ready.push_back(finish(&header, body.freeze())?);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// The next whole frame.
    pub(crate) fn pop(&mut self) -> Option<Incoming> {
        self.ready.pop_front()
    }

    /// A whole frame waits to be popped.
    pub(crate) fn has_whole(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next whole frame for the user. Frames of the connection itself are passed over: this is for tests
    /// and the fuzz target, which have no connection.
    pub fn pop_user(&mut self) -> Option<Frame> {
        while let Some(incoming) = self.pop() {
            if let Incoming::User(frame) = incoming {
                return Some(frame);
            }
        }
        None
    }

    /// A frame has begun and is not whole.
    #[must_use]
    pub fn mid_frame(&self) -> bool {
        self.begun.is_some() || !self.head.is_empty()
    }
}

/// Data is decrypted right into the body of the frame that has begun, where all of it belongs there.
impl Sink for Assembler {
    fn place(&mut self, count: usize) -> Option<&mut [u8]> {
        let begun = self.begun.as_mut()?;
        begun.body.window(begun.filled, count)
    }

    fn advance(&mut self, count: usize) -> Result<(), String> {
        let Some(begun) = &mut self.begun else { return Err("data without a frame".to_owned()) };
        begun.filled = (begun.filled + count).min(begun.body.len());
        self.finish_if_whole().map(drop).map_err(|FrameError(reason)| reason)
    }

    fn push(&mut self, data: &[u8]) -> Result<(), String> {
        Self::push(self, data).map_err(|FrameError(reason)| reason)
    }
}

fn finish(header: &Header, mut body: Bytes) -> Result<Incoming, FrameError> {
    if header.kind == Kind::Block {
        let digests = body.split_to(header.digests * BlockDigest::LEN);
        let digests = digests.chunks_exact(BlockDigest::LEN).map(digest_from).collect();
        let block = ReceivedBlock { header: header.block, encoding: header.encoding, digests, payload: body };
        return Ok(Incoming::User(Frame::Block(block)));
    }
    if crc32fast::hash(&body) != header.payload_crc {
        return refuse("the checksum of the payload is wrong");
    }
    Ok(match header.kind {
        Kind::Hello => Incoming::Hello(body),
        Kind::Ping => Incoming::Ping,
        Kind::Pong => Incoming::Pong,
        Kind::Goodbye => Incoming::Goodbye(body),
        Kind::Control | Kind::Block => Incoming::User(Frame::Control(Control(body))),
    })
}

fn digest_from(bytes: &[u8]) -> BlockDigest {
    let mut digest = [0; BlockDigest::LEN];
    digest.copy_from_slice(bytes);
    BlockDigest::from_bytes(digest)
}
