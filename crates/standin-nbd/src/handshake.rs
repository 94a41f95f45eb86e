//! The client's side of the negotiation: greeting, structured replies, at most one meta context, GO.
//!
//! ```text
//! server: NBDMAGIC IHAVEOPT flags        client: flags
//! client: STRUCTURED_REPLY               server: ACK (or an error: then simple replies)
//! client: SET_META_CONTEXT name          server: META_CONTEXT id, ACK        only with a context
//! client: GO name                        server: INFO export, INFO block size, ACK
//! ```
//!
//! Only one context: with two on one connection QEMU up to at least 11.1 gets out of step when the first fails.
//! Called by [`crate::Client::connect`], which bounds the time all of it may take.

use crate::proto::{self, MAX_OPTION, handshake_flag, info, option, option_reply};
use bytes::{Buf, BufMut, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What the server says about the lengths of requests, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths must be multiples of this. [`crate::Client`] takes care of it.
    pub min: u32,
    /// Requests of multiples of this are fast.
    pub preferred: u32,
    /// The longest read.
    pub max: u32,
}

/// What the protocol says of a server that does not tell: 1, 4 KiB, 32 MiB.
const UNTOLD: BlockSizes = BlockSizes { min: 1, preferred: 4096, max: crate::MAX_READ };

/// The result of a negotiation.
#[derive(Debug, Clone, Copy)]
pub struct Negotiated {
    /// Bytes of the export.
    pub size: u64,
    /// The transmission flags.
    pub flags: u16,
    pub blocks: BlockSizes,
    /// Reads are answered in chunks.
    pub structured: bool,
    /// The server's number for the context.
    pub context: Option<u32>,
}

/// Why a negotiation failed.
#[derive(Debug)]
pub enum Failure {
    /// The connection broke.
    Io(io::Error),
    /// The server refused, with its text.
    Refused(String),
    /// The server spoke something else than NBD.
    Broken(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Negotiates `export` on a fresh connection. The caller bounds the time.
pub async fn negotiate<S>(stream: &mut S, export: &str, context: Option<&str>) -> Result<Negotiated, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    for (what, text) in [("export", export), ("context", context.unwrap_or_default())] {
        if text.len() > proto::MAX_STRING {
            return Err(Failure::Refused(format!(
                "the {what} name is longer than 4096 bytes; use a shorter one"
            )));
        }
    }
    greet(stream).await?;
    let structured = structured_replies(stream).await?;
    let context = match context {
        Some(_) if !structured => {
            return Err(Failure::Refused(
                "the server has no structured replies, so it cannot tell block status; use QEMU's own NBD server"
                    .to_owned(),
            ));
        }
        Some(name) => Some(set_context(stream, export, name).await?),
        None => None,
    };
    go(stream, export, structured, context).await
}

async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<(), Failure> {
    let (magic, style) = (stream.read_u64().await?, stream.read_u64().await?);
    if magic != proto::GREETING || style != proto::OPTION_MAGIC {
        return Err(Failure::Broken("the greeting is not that of a newstyle NBD server".to_owned()));
    }
    let wanted = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
    let offered = stream.read_u16().await?;
    if offered & handshake_flag::FIXED_NEWSTYLE == 0 {
        return Err(Failure::Refused(
            "the server has no fixed newstyle negotiation and is too old".to_owned(),
        ));
    }
    stream.write_u32(u32::from(offered & wanted)).await?;
    Ok(())
}

async fn structured_replies<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<bool, Failure> {
    send(stream, option::STRUCTURED_REPLY, &[]).await?;
    let reply = receive(stream, option::STRUCTURED_REPLY).await?;
    match reply.kind {
        option_reply::ACK => Ok(true),
        // Whatever the reason, the server goes on with simple replies.
        kind if kind & option_reply::ERROR_BIT != 0 && kind != option_reply::ERR_TLS_REQD => Ok(false),
        _ => Err(reply.into_failure("structured replies")),
    }
}

async fn set_context<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    export: &str,
    context: &str,
) -> Result<u32, Failure> {
    let mut data = BytesMut::new();
    proto::put_string(export, &mut data);
    data.put_u32(1);
    proto::put_string(context, &mut data);
    send(stream, option::SET_META_CONTEXT, &data).await?;
    let mut id = None;
    loop {
        let reply = receive(stream, option::SET_META_CONTEXT).await?;
        match reply.kind {
            option_reply::META_CONTEXT if id.is_none() => {
                let mut data = &reply.data[..];
                let number = data.try_get_u32().ok().filter(|_| data == context.as_bytes());
                id = Some(number.ok_or_else(|| {
                    Failure::Broken(format!("the server selected another context than {context:?}"))
                })?);
            }
            option_reply::META_CONTEXT => {
                return Err(Failure::Broken(
                    "the server selected more contexts than were asked for".to_owned(),
                ));
            }
            option_reply::ACK => {
                return id.ok_or_else(|| {
                    Failure::Refused(format!(
                        "the export does not offer the context {context:?}; was it exported with that bitmap?"
                    ))
                });
            }
            _ => return Err(reply.into_failure(&format!("the context {context:?}"))),
        }
    }
}

async fn go<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    export: &str,
    structured: bool,
    context: Option<u32>,
) -> Result<Negotiated, Failure> {
    let mut data = BytesMut::new();
    proto::put_string(export, &mut data);
    data.put_u16(1);
    data.put_u16(info::BLOCK_SIZE);
    send(stream, option::GO, &data).await?;
    let mut found = None;
    let mut blocks = UNTOLD;
    // A server that sends information for ever is ended by the caller's time limit; nothing is kept of it.
    loop {
        let reply = receive(stream, option::GO).await?;
        match reply.kind {
            option_reply::INFO => {
                let mut data = &reply.data[..];
                let kind = data.try_get_u16().map_err(|_| broken_info())?;
                match (kind, data.len()) {
                    (info::EXPORT, 10) => found = Some((data.get_u64(), data.get_u16())),
                    (info::BLOCK_SIZE, 12) => blocks = block_sizes(data)?,
                    (info::EXPORT | info::BLOCK_SIZE, _) => return Err(broken_info()),
                    _ => {}
                }
            }
            option_reply::ACK => break,
            _ => return Err(reply.into_failure("the export")),
        }
    }
    let (size, flags) =
        found.ok_or_else(|| Failure::Broken("the server did not tell the size of the export".to_owned()))?;
    if i64::try_from(size).is_err() {
        return Err(Failure::Broken(format!(
            "the export would have {size} bytes, more than a disk can have"
        )));
    }
    Ok(Negotiated { size, flags, blocks, structured, context })
}

fn broken_info() -> Failure {
    Failure::Broken("the server's information about the export has a wrong length".to_owned())
}

fn block_sizes(mut data: &[u8]) -> Result<BlockSizes, Failure> {
    let sizes = BlockSizes { min: data.get_u32(), preferred: data.get_u32(), max: data.get_u32() };
    let sane = sizes.min.is_power_of_two() && sizes.min <= 64 << 10 && sizes.max >= sizes.min;
    if !sane {
        return Err(Failure::Broken(format!(
            "the block sizes {}, {}, {} are impossible",
            sizes.min, sizes.preferred, sizes.max
        )));
    }
    let max = sizes.max.min(crate::MAX_READ);
    Ok(BlockSizes { max: max - max % sizes.min, ..sizes })
}

/// One reply to an option.
struct Reply {
    kind: u32,
    data: Vec<u8>,
}

impl Reply {
    /// The failure that this reply is, when it is not one that was hoped for.
    fn into_failure(self, what: &str) -> Failure {
        if self.kind & option_reply::ERROR_BIT == 0 {
            return Failure::Broken(format!("reply {:#x} makes no sense when asking for {what}", self.kind));
        }
        let reason = match self.kind {
            option_reply::ERR_UNSUP => "the server does not know this option; it is too old",
            option_reply::ERR_POLICY => "the server's policy forbids it",
            option_reply::ERR_INVALID => "the server calls the request invalid",
            option_reply::ERR_TLS_REQD => {
                "the server wants TLS, which is not supported here; use a unix socket"
            }
            option_reply::ERR_UNKNOWN => "there is no export of this name",
            option_reply::ERR_SHUTDOWN => "the server is shutting down",
            option_reply::ERR_BLOCK_SIZE_REQD => "the server insists on its block sizes",
            option_reply::ERR_TOO_BIG => "the server calls the request too big",
            _ => "the server refused",
        };
        let said = proto::printable(&self.data);
        let said = if said.is_empty() { String::new() } else { format!(" (it said: {said})") };
        Failure::Refused(format!("{what}: {reason}{said}"))
    }
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, option: u32, data: &[u8]) -> Result<(), Failure> {
    let mut out = BytesMut::new();
    proto::encode_option(option, data, &mut out);
    stream.write_all(&out).await?;
    stream.flush().await?;
    Ok(())
}

async fn receive<S: AsyncRead + Unpin>(stream: &mut S, option: u32) -> Result<Reply, Failure> {
    let mut head = [0; 20];
    stream.read_exact(&mut head).await?;
    let mut head = &head[..];
    let (magic, answered, kind, length) = (head.get_u64(), head.get_u32(), head.get_u32(), head.get_u32());
    if magic != proto::OPTION_REPLY_MAGIC || answered != option {
        return Err(Failure::Broken(format!("what came is no reply to option {option}")));
    }
    if length > MAX_OPTION {
        return Err(Failure::Broken(format!("a reply of {length} bytes to option {option} is too long")));
    }
    let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
    stream.read_exact(&mut data).await?;
    Ok(Reply { kind, data })
}
