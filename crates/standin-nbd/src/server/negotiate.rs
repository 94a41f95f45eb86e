//! The server's side of the negotiation: options until GO, EXPORT_NAME or ABORT.

use super::{Exports, Source};
use crate::proto::{self, MAX_OPTION, export_flag, handshake_flag, info, option, option_reply};
use crate::{CONTEXT_ALLOCATION, MAX_READ};
use bytes::{Buf, BufMut, BytesMut};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// What we tell clients about lengths: any alignment, 64 KiB is good.
const BLOCK_MIN: u32 = 1;
const BLOCK_PREFERRED: u32 = 64 << 10;
/// The number of `base:allocation` on the wire. Any would do.
pub const ALLOCATION_ID: u32 = 1;
/// Options one client may send: a negotiation needs about five.
const MAX_OPTIONS: u32 = 1000;

/// What was agreed with a client.
pub struct Session {
    pub name: String,
    pub source: Arc<dyn Source>,
    pub structured: bool,
    pub allocation: bool,
}

/// What has been agreed so far.
#[derive(Default)]
struct Agreed {
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was selected.
    allocation_of: Option<String>,
}

/// Where an option leads.
enum Next {
    More,
    Transmit(Session),
    Close,
}

/// Negotiates with a fresh client. `None` when it left in order. The caller bounds the time.
pub async fn negotiate(stream: &mut UnixStream, exports: &Exports) -> io::Result<Option<Session>> {
    let ours = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
    let mut out = BytesMut::new();
    out.put_u64(proto::GREETING);
    out.put_u64(proto::OPTION_MAGIC);
    out.put_u16(ours);
    stream.write_all_buf(&mut out).await?;
    let theirs = stream.read_u32().await?;
    if theirs & !u32::from(ours) != 0 || theirs & u32::from(handshake_flag::FIXED_NEWSTYLE) == 0 {
        return Err(invalid(format!("handshake flags {theirs:#x}")));
    }
    let mut agreed =
        Agreed { no_zeroes: theirs & u32::from(handshake_flag::NO_ZEROES) != 0, ..Agreed::default() };
    for _ in 0..MAX_OPTIONS {
        let (number, data) = match receive(stream).await {
            Ok(received) => received,
            // A client that just closes, as probes do, is no failure.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut out = BytesMut::new();
        let next = answer(number, &data, &mut agreed, exports, &mut out);
        stream.write_all_buf(&mut out).await?;
        match next {
            Next::More => {}
            Next::Transmit(session) => return Ok(Some(session)),
            Next::Close => return Ok(None),
        }
    }
    Err(invalid(format!("more than {MAX_OPTIONS} options")))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the client sent {what}"))
}

async fn receive(stream: &mut UnixStream) -> io::Result<(u32, Vec<u8>)> {
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    let mut head = &head[..];
    let (magic, number, length) = (head.get_u64(), head.get_u32(), head.get_u32());
    if magic != proto::OPTION_MAGIC || length > MAX_OPTION {
        return Err(invalid(format!("option {number} of {length} bytes with magic {magic:#x}")));
    }
    let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
    stream.read_exact(&mut data).await?;
    Ok((number, data))
}

/// Answers one option into `out`.
fn answer(number: u32, data: &[u8], agreed: &mut Agreed, exports: &Exports, out: &mut BytesMut) -> Next {
    match number {
        option::EXPORT_NAME => return export_name(data, agreed, exports, out),
        option::ABORT => {
            reply(number, option_reply::ACK, &[], out);
            return Next::Close;
        }
        option::LIST if data.is_empty() => {
            for name in exports.keys() {
                let mut data = BytesMut::new();
                proto::put_string(name, &mut data);
                reply(number, option_reply::SERVER, &data, out);
            }
            reply(number, option_reply::ACK, &[], out);
        }
        option::STRUCTURED_REPLY if data.is_empty() => {
            agreed.structured = true;
            reply(number, option_reply::ACK, &[], out);
        }
        option::LIST | option::STRUCTURED_REPLY => {
            refuse(number, option_reply::ERR_INVALID, "the option takes no data", out);
        }
        option::LIST_META_CONTEXT | option::SET_META_CONTEXT => contexts(number, data, agreed, exports, out),
        option::INFO | option::GO => return info_or_go(number, data, agreed, exports, out),
        _ => refuse(number, option_reply::ERR_UNSUP, "the option is not known here", out),
    }
    Next::More
}

fn reply(option: u32, kind: u32, data: &[u8], out: &mut BytesMut) {
    out.put_u64(proto::OPTION_REPLY_MAGIC);
    out.put_u32(option);
    out.put_u32(kind);
    out.put_u32(proto::len32(data.len()));
    out.put_slice(data);
}

fn refuse(option: u32, kind: u32, text: &str, out: &mut BytesMut) {
    reply(option, kind, text.as_bytes(), out);
}

fn flags() -> u16 {
    // DF is free: a read is always answered in a single chunk.
    export_flag::HAS_FLAGS | export_flag::READ_ONLY | export_flag::CAN_MULTI_CONN | export_flag::SEND_DF
}

/// EXPORT_NAME has no way to say no but to close.
fn export_name(data: &[u8], agreed: &Agreed, exports: &Exports, out: &mut BytesMut) -> Next {
    let found = std::str::from_utf8(data).ok().and_then(|name| exports.get_key_value(name));
    let Some((name, source)) = found else {
        return Next::Close;
    };
    out.put_u64(source.size());
    out.put_u16(flags());
    if !agreed.no_zeroes {
        out.put_bytes(0, 124);
    }
    Next::Transmit(session(name, source, agreed))
}

fn session(name: &str, source: &Arc<dyn Source>, agreed: &Agreed) -> Session {
    Session {
        name: name.to_owned(),
        source: Arc::clone(source),
        structured: agreed.structured,
        allocation: agreed.structured && agreed.allocation_of.as_deref() == Some(name),
    }
}

fn info_or_go(number: u32, data: &[u8], agreed: &Agreed, exports: &Exports, out: &mut BytesMut) -> Next {
    let Some(name) = info_name(data) else {
        refuse(number, option_reply::ERR_INVALID, "the option's data is malformed", out);
        return Next::More;
    };
    let Some(source) = exports.get(&name) else {
        refuse(number, option_reply::ERR_UNKNOWN, "there is no export of this name", out);
        return Next::More;
    };
    let mut data = BytesMut::new();
    data.put_u16(info::EXPORT);
    data.put_u64(source.size());
    data.put_u16(flags());
    reply(number, option_reply::INFO, &data, out);
    data.clear();
    data.put_u16(info::BLOCK_SIZE);
    data.put_u32(BLOCK_MIN);
    data.put_u32(BLOCK_PREFERRED);
    data.put_u32(MAX_READ);
    reply(number, option_reply::INFO, &data, out);
    reply(number, option_reply::ACK, &[], out);
    if number == option::GO { Next::Transmit(session(&name, source, agreed)) } else { Next::More }
}

/// The export's name in the data of INFO and GO: name, count, that many 16-bit kinds of information.
fn info_name(mut data: &[u8]) -> Option<String> {
    let name = proto::take_string(&mut data)?;
    let count = usize::from(data.try_get_u16().ok()?);
    (data.len() == count * 2).then_some(name)
}

fn contexts(number: u32, data: &[u8], agreed: &mut Agreed, exports: &Exports, out: &mut BytesMut) {
    let set = number == option::SET_META_CONTEXT;
    if set {
        // Whatever comes of it, what was selected before is not any more.
        agreed.allocation_of = None;
    }
    if !agreed.structured {
        return refuse(number, option_reply::ERR_INVALID, "negotiate structured replies first", out);
    }
    let Some((name, queries)) = context_queries(data) else {
        return refuse(number, option_reply::ERR_INVALID, "the option's data is malformed", out);
    };
    if !exports.contains_key(&name) {
        return refuse(number, option_reply::ERR_UNKNOWN, "there is no export of this name", out);
    }
    let listed = !set && (queries.is_empty() || queries.iter().any(|query| query == "base:"));
    if listed || queries.iter().any(|query| query == CONTEXT_ALLOCATION) {
        let mut data = BytesMut::new();
        // In a list the number has no meaning and is zero.
        data.put_u32(if set { ALLOCATION_ID } else { 0 });
        data.put_slice(CONTEXT_ALLOCATION.as_bytes());
        reply(number, option_reply::META_CONTEXT, &data, out);
        if set {
            agreed.allocation_of = Some(name);
        }
    }
    reply(number, option_reply::ACK, &[], out);
}

fn context_queries(mut data: &[u8]) -> Option<(String, Vec<String>)> {
    let name = proto::take_string(&mut data)?;
    let count = data.try_get_u32().ok()?;
    let mut queries = Vec::new();
    // Each query takes at least four bytes of the option's bounded data, so a large count ends soon.
    for _ in 0..count {
        queries.push(proto::take_string(&mut data)?);
    }
    data.is_empty().then_some((name, queries))
}
