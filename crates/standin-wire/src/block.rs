//! Blocks of a disk's data, made ready to be sent and verified on arrival. Pure CPU work without I/O, so that
//! the engine can spread it over a pool of threads while one task owns the connection.
//!
//! ```text
//! data ── is it all zeros? ── yes ──> Zero: no digests, no payload
//!            │ no
//!       digest of each granule ── do samples shrink? ── no ──> Raw: the caller's bytes, not copied
//!                                      │ yes
//!                                   zstd ── saves 6 %? ── yes ──> Zstd        no ──> Raw
//! ```
//!
//! Invariants:
//! * The digests are those of the raw data, so they can be kept with the layer, whatever the encoding was.
//! * [`ReceivedBlock::decode`] gives out no byte whose digest it did not verify.
//! * Decompression writes into a buffer of the stated length, which the frame decoder has bounded by
//!   [`MAX_BLOCK`]; a payload that would need more is an error, not an allocation.

mod codec;

use crate::error::Error;
use crate::frame::{HEADER_LEN, Header, Kind, check_block_header};
use bytes::{Bytes, BytesMut};
use standin_model::digest::digests;
use standin_model::{BlockDigest, is_zero_data};

/// Longest block of data, in bytes before compression. A run of zeros may be longer.
pub const MAX_BLOCK: usize = 1 << 20;
/// Smallest granule: a sector.
pub const MIN_GRANULE: u32 = 512;

/// Where a block belongs and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHeader {
    /// The disk, by the number the engine gave it on this connection.
    pub stream: u16,
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes on the disk, before compression.
    pub length: u64,
    /// Bytes that one digest covers, a power of two; the last granule may be shorter. 0 for zeros.
    pub granule: u32,
}

impl BlockHeader {
    /// How many digests go with the block.
    pub(crate) fn digest_count(&self, encoding: Encoding) -> usize {
        match encoding {
            Encoding::Zero => 0,
            Encoding::Raw | Encoding::Zstd => {
                usize::try_from(self.length.div_ceil(u64::from(self.granule.max(1)))).unwrap_or(usize::MAX)
            }
        }
    }
}

/// How a block's payload is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// All zeros: no payload.
    Zero = 0,
    /// As it is on the disk.
    Raw = 1,
    /// One zstd frame.
    Zstd = 2,
}

impl Encoding {
    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Zero),
            1 => Some(Self::Raw),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Whether blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Zero runs are still sent as such.
    Off,
    /// zstd at this level, 1 to 19; raw where it does not help.
    Zstd(i32),
}

/// A block that is ready to be sent.
#[derive(Debug, Clone)]
pub struct EncodedBlock {
    header: BlockHeader,
    encoding: Encoding,
    digests: Vec<BlockDigest>,
    /// Frame header and digests as they go over the wire.
    head: Bytes,
    payload: Bytes,
}

impl EncodedBlock {
    fn new(header: BlockHeader, encoding: Encoding, digests: Vec<BlockDigest>, payload: Bytes) -> Self {
        let frame = Header {
            kind: Kind::Block,
            encoding,
            block: header,
            digests: digests.len(),
            payload: payload.len(),
            payload_crc: 0,
        };
        let mut head = BytesMut::with_capacity(HEADER_LEN + digests.len() * BlockDigest::LEN);
        head.extend_from_slice(&frame.to_bytes());
        for digest in &digests {
            head.extend_from_slice(digest.as_bytes());
        }
        Self { header, encoding, digests, head: head.freeze(), payload }
    }

    /// Place and size.
    #[must_use]
    pub const fn header(&self) -> &BlockHeader {
        &self.header
    }

    /// How the payload is written.
    #[must_use]
    pub const fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// One digest for each granule of the raw data, in order; none for zeros.
    #[must_use]
    pub fn digests(&self) -> &[BlockDigest] {
        &self.digests
    }

    /// Bytes of the frame, before TLS adds its own (22 for each 16 KiB).
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// The frame as it goes into TLS, for tests and tools. A [`crate::Sender`] does without this copy.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        [&self.head[..], &self.payload[..]].concat().into()
    }

    pub(crate) fn into_parts(self) -> (Bytes, Bytes) {
        (self.head, self.payload)
    }
}

fn refused(header: &BlockHeader, reason: &str) -> Error {
    Error::Block { stream: header.stream, offset: header.offset, reason: reason.to_owned() }
}

/// Makes `data` ready to be sent: zeros as zeros, otherwise with a digest for each `granule` bytes, compressed
/// where that helps.
///
/// # Errors
/// [`Error::Block`] if `data` is empty or longer than [`MAX_BLOCK`], the granule is no power of two between 512
/// bytes and 1 MiB, or the block ends beyond the largest offset.
pub fn encode(
    stream: u16,
    offset: u64,
    data: Bytes,
    granule: u32,
    compression: Compression,
) -> Result<EncodedBlock, Error> {
    let header = BlockHeader { stream, offset, length: data.len() as u64, granule };
    check_block_header(&header, Encoding::Raw).map_err(|reason| refused(&header, reason))?;
    if is_zero_data(&data) {
        return zero(stream, offset, header.length);
    }
    let digests = digests(&data, granule as usize);
    let compressed = match compression {
        Compression::Off => None,
        Compression::Zstd(level) => codec::compress(&data, level),
    };
    Ok(match compressed {
        Some(payload) => EncodedBlock::new(header, Encoding::Zstd, digests, payload),
        None => EncodedBlock::new(header, Encoding::Raw, digests, data),
    })
}

/// A run of `length` zero bytes, of any length.
///
/// # Errors
/// [`Error::Block`] if it is empty or ends beyond the largest offset.
pub fn zero(stream: u16, offset: u64, length: u64) -> Result<EncodedBlock, Error> {
    let header = BlockHeader { stream, offset, length, granule: 0 };
    check_block_header(&header, Encoding::Zero).map_err(|reason| refused(&header, reason))?;
    Ok(EncodedBlock::new(header, Encoding::Zero, Vec::new(), Bytes::new()))
}

/// A block as it came in: its frame is sound, its data is not verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedBlock {
    /// Place and size, checked against the limits of the frame but not against the disk.
    pub header: BlockHeader,
    /// How the payload is written.
    pub encoding: Encoding,
    /// What the sender says the granules hash to.
    pub digests: Vec<BlockDigest>,
    /// Raw or compressed data.
    pub payload: Bytes,
}

/// The data of a decoded block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockData {
    /// `length` zeros, which may be many more than fit into memory.
    Zero,
    /// Exactly `length` bytes.
    Data(Bytes),
}

/// A block whose every byte was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedBlock {
    /// The disk, by the number the engine gave it on this connection.
    pub stream: u16,
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes on the disk.
    pub length: u64,
    /// Bytes that one digest covers; 0 for zeros.
    pub granule: u32,
    /// The data.
    pub data: BlockData,
    /// One for each granule, in order; none for zeros.
    pub digests: Vec<BlockDigest>,
}

impl ReceivedBlock {
    /// Decompresses the block and verifies every digest.
    ///
    /// # Errors
    /// [`Error::Corrupt`], which names the first byte of the granule that is wrong. Nothing of the block may be
    /// used then.
    pub fn decode(self) -> Result<DecodedBlock, Error> {
        let BlockHeader { stream, offset, length, granule } = self.header;
        let data = match self.encoding {
            Encoding::Zero => BlockData::Zero,
            Encoding::Raw => BlockData::Data(self.verified(self.payload.clone())?),
            Encoding::Zstd => {
                let raw = codec::decompress(&self.payload, length).map_err(|reason| Error::Corrupt {
                    stream,
                    offset,
                    reason,
                })?;
                BlockData::Data(self.verified(raw)?)
            }
        };
        Ok(DecodedBlock { stream, offset, length, granule, data, digests: self.digests })
    }

    fn verified(&self, data: Bytes) -> Result<Bytes, Error> {
        let header = &self.header;
        let corrupt = |offset, reason: &str| Error::Corrupt {
            stream: header.stream,
            offset,
            reason: reason.to_owned(),
        };
        // The fields are public: a block that no frame decoder has checked must not panic here.
        let whole = check_block_header(header, self.encoding).is_ok()
            && data.len() as u64 == header.length
            && self.digests.len() == header.digest_count(self.encoding);
        if !whole {
            return Err(corrupt(header.offset, "its length does not match its header"));
        }
        let found = digests(&data, header.granule as usize);
        match found.iter().zip(&self.digests).position(|(found, told)| found != told) {
            Some(at) => {
                let offset = header.offset + at as u64 * u64::from(header.granule);
                Err(corrupt(offset, "the data does not match its digest"))
            }
            None => Ok(data),
        }
    }
}
