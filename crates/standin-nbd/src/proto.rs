//! The numbers and fixed-size headers of the NBD protocol, shared by client and server. Pure: bytes in, values
//! out. All integers are big-endian. Facts are from the NBD project's `doc/proto.md`.

use bytes::{Buf, BufMut, BytesMut};

/// First eight bytes of a server's greeting.
pub const GREETING: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// Second eight bytes of a newstyle greeting, and the magic of every option.
pub const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// Magic of an option's reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Magic of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Magic of a simple reply.
pub const SIMPLE_MAGIC: u32 = 0x6744_6698;
/// Magic of a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags, of server and client alike.
pub mod handshake_flag {
    /// Options are answered one by one.
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// The 124 zero bytes after an export's flags are left out.
    pub const NO_ZEROES: u16 = 2;
}

/// Options.
pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Types of option replies.
pub mod option_reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    /// Set in every error.
    pub const ERROR_BIT: u32 = 1 << 31;
    pub const ERR_UNSUP: u32 = ERROR_BIT | 1;
    pub const ERR_POLICY: u32 = ERROR_BIT | 2;
    pub const ERR_INVALID: u32 = ERROR_BIT | 3;
    pub const ERR_TLS_REQD: u32 = ERROR_BIT | 5;
    pub const ERR_UNKNOWN: u32 = ERROR_BIT | 6;
    pub const ERR_SHUTDOWN: u32 = ERROR_BIT | 7;
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR_BIT | 8;
    pub const ERR_TOO_BIG: u32 = ERROR_BIT | 9;
}

/// Kinds of information in the reply to INFO and GO.
pub mod info {
    pub const EXPORT: u16 = 0;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Flags of an export.
pub mod export_flag {
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
}

/// Commands.
pub mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
    /// Flag of BLOCK_STATUS: answer with a single extent.
    pub const FLAG_REQ_ONE: u16 = 1 << 3;
}

/// Types and flags of chunks.
pub mod chunk {
    /// Flag: the last chunk of the reply.
    pub const DONE: u16 = 1;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    /// Set in the type of every error chunk.
    pub const ERROR_BIT: u16 = 1 << 15;
    pub const ERROR: u16 = ERROR_BIT | 1;
}

/// Error numbers on the wire. They are Linux's.
pub mod errno {
    pub const EPERM: u32 = 1;
    pub const EIO: u32 = 5;
    pub const EINVAL: u32 = 22;
}

/// The longest string the protocol allows, and so the longest name and message that is believed.
pub const MAX_STRING: usize = 4096;
/// The longest option, or reply to one, that is read.
pub const MAX_OPTION: u32 = 64 << 10;

/// Bytes of a request's header.
pub const REQUEST_LEN: usize = 28;
/// Bytes of a simple reply's header.
pub const SIMPLE_LEN: usize = 16;
/// Bytes of a chunk's header.
pub const CHUNK_LEN: usize = 20;

/// A request's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    pub offset: u64,
    pub length: u32,
}

impl Request {
    /// Appends the 28 bytes.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u32(REQUEST_MAGIC);
        out.put_u16(self.flags);
        out.put_u16(self.command);
        out.put_u64(self.cookie);
        out.put_u64(self.offset);
        out.put_u32(self.length);
    }

    /// Reads the 28 bytes; `None` when the magic is not a request's.
    pub fn decode(bytes: &[u8; REQUEST_LEN]) -> Option<Self> {
        let mut b = &bytes[..];
        if b.get_u32() != REQUEST_MAGIC {
            return None;
        }
        Some(Self {
            flags: b.get_u16(),
            command: b.get_u16(),
            cookie: b.get_u64(),
            offset: b.get_u64(),
            length: b.get_u32(),
        })
    }
}

/// A chunk's header, without its magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    pub flags: u16,
    pub kind: u16,
    pub cookie: u64,
    pub length: u32,
}

impl Chunk {
    /// Appends the 20 bytes, magic included.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(CHUNK_MAGIC);
        out.put_u16(self.flags);
        out.put_u16(self.kind);
        out.put_u64(self.cookie);
        out.put_u32(self.length);
    }

    /// This is the last chunk of its reply.
    pub fn done(&self) -> bool {
        self.flags & chunk::DONE != 0
    }
}

/// Appends an option: magic, number, length, data. `data` is bounded by [`MAX_OPTION`] by whoever builds it.
pub fn encode_option(option: u32, data: &[u8], out: &mut BytesMut) {
    out.put_u64(OPTION_MAGIC);
    out.put_u32(option);
    out.put_u32(len32(data.len()));
    out.put_slice(data);
}

/// Appends a string with its 32-bit length.
pub fn put_string(text: &str, out: &mut BytesMut) {
    out.put_u32(len32(text.len()));
    out.put_slice(text.as_bytes());
}

/// Takes a string with its 32-bit length from the front of `data`; `None` when it is cut short, too long or not
/// UTF-8.
pub fn take_string(data: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(data.try_get_u32().ok()?).ok()?;
    if length > MAX_STRING || length > data.len() {
        return None;
    }
    let (text, rest) = data.split_at(length);
    *data = rest;
    std::str::from_utf8(text).ok().map(str::to_owned)
}

/// Text of a peer for a log line: at most 512 characters, control characters replaced.
pub fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_STRING)]);
    text.chars().take(512).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// The name of an error number, for messages.
pub fn errno_name(errno: u32) -> &'static str {
    match errno {
        1 => "EPERM, not permitted",
        5 => "EIO, input/output error",
        12 => "ENOMEM, out of memory",
        22 => "EINVAL, invalid argument",
        28 => "ENOSPC, no space left",
        75 => "EOVERFLOW, value too large",
        95 => "ENOTSUP, not supported",
        108 => "ESHUTDOWN, the server is shutting down",
        _ => "an unknown error",
    }
}

/// Lengths of what this side builds fit 32 bits; saturating keeps a programming error from wrapping around.
pub fn len32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_wire() {
        let request =
            Request { flags: 8, command: command::BLOCK_STATUS, cookie: 7, offset: 1 << 40, length: 9 };
        let mut wire = BytesMut::new();
        request.encode(&mut wire);
        let bytes: [u8; REQUEST_LEN] = wire[..].try_into().unwrap();
        assert_eq!(Request::decode(&bytes), Some(request));
        let mut bad = bytes;
        bad[0] ^= 1;
        assert_eq!(Request::decode(&bad), None);
    }

    #[test]
    fn strings_that_lie_about_their_length_are_refused() {
        let mut good = BytesMut::new();
        put_string("vda", &mut good);
        assert_eq!(take_string(&mut &good[..]).as_deref(), Some("vda"));
        for bad in [&[0, 0, 0][..], &[0, 0, 0, 4, b'a'], &[0xff, 0xff, 0xff, 0xff, b'a'], &[0, 0, 0, 1, 0xff]]
        {
            assert_eq!(take_string(&mut &bad[..]), None, "{bad:?}");
        }
    }

    #[test]
    fn a_peers_text_cannot_forge_log_lines() {
        assert_eq!(printable(b"no such\nexport\x1b[2J"), "no such export [2J");
        assert_eq!(printable(&[b'x'; 9000]).len(), 512);
    }
}
