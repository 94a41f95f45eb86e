//! The receiving half of a connection: takes replies apart and hands each to its caller.
//!
//! Payloads go from the socket into their final buffer. Only the header, and what follows it within 28 bytes,
//! passes through a small stash: 28 is a chunk's header with its offset, so the usual reply costs one system
//! call before its payload, and the payload begins at the (aligned) begin of its buffer.

use crate::Error;
use crate::assemble::{Assembly, Place};
use crate::connection::{Job, Pending, Shared};
use crate::extents::{self, StatusExtent};
use crate::proto::{self, CHUNK_LEN, Chunk, SIMPLE_LEN, chunk};
use bytes::{Buf, BufMut, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest block status reply that is read: QEMU sends at most 1 MiB.
const MAX_STATUS: u32 = 8 << 20;
/// The longest error chunk: number, length, message, offset.
const MAX_ERROR: u32 = 4 + 2 + 4096 + 8;

/// The receiving half.
pub struct Reader<R> {
    io: R,
    structured: bool,
    context: Option<u32>,
    stash: [u8; STASH],
    from: usize,
    to: usize,
}

const STASH: usize = CHUNK_LEN + 8;

/// The header of a reply or of a part of one.
enum Header {
    Simple { errno: u32, cookie: u64 },
    Chunk(Chunk),
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(io: R, structured: bool, context: Option<u32>) -> Self {
        Self { io, structured, context, stash: [0; STASH], from: 0, to: 0 }
    }

    /// Reads replies until the connection ends, and leaves the reason in `shared`.
    pub async fn run(mut self, shared: &Shared) {
        loop {
            let header = match self.header(shared).await {
                Ok(Some(header)) => header,
                Ok(None) => return shared.poison(shared.closed("the server closed it")),
                Err(error) => return shared.poison(error),
            };
            let cookie = match &header {
                Header::Simple { cookie, .. } => *cookie,
                Header::Chunk(chunk) => chunk.cookie,
            };
            let mut pending = match shared.take(cookie) {
                Ok(pending) => pending,
                Err(error) => return shared.poison(error),
            };
            let done = match &header {
                Header::Simple { errno, .. } => {
                    self.simple(shared, &mut pending, *errno).await.map(|()| true)
                }
                Header::Chunk(chunk) => self.chunk(shared, &mut pending, *chunk).await.map(|()| chunk.done()),
            };
            let result = match done {
                Ok(true) => complete(shared, pending),
                Ok(false) => {
                    shared.put_back(cookie, pending);
                    Ok(())
                }
                Err(error) => {
                    // Before `pending` goes: its caller wakes and asks for the reason.
                    shared.poison(error);
                    return;
                }
            };
            if let Err(error) = result {
                return shared.poison(error);
            }
        }
    }

    async fn header(&mut self, shared: &Shared) -> Result<Option<Header>, Error> {
        if !self.gather(SIMPLE_LEN).await.map_err(|error| lost(shared, &error))? {
            return Ok(None);
        }
        let magic = (&self.stash[self.from..self.to]).get_u32();
        if magic == proto::SIMPLE_MAGIC {
            let mut head = &self.stash[self.from + 4..self.to];
            let header = Header::Simple { errno: head.get_u32(), cookie: head.get_u64() };
            self.from += SIMPLE_LEN;
            return Ok(Some(header));
        }
        if magic != proto::CHUNK_MAGIC || !self.structured {
            return Err(
                shared.protocol(format!("a reply begins with {magic:#010x}, which is no reply's magic"))
            );
        }
        if !self.gather(CHUNK_LEN).await.map_err(|error| lost(shared, &error))? {
            return Ok(None);
        }
        let mut head = &self.stash[self.from + 4..self.to];
        let chunk = Chunk {
            flags: head.get_u16(),
            kind: head.get_u16(),
            cookie: head.get_u64(),
            length: head.get_u32(),
        };
        self.from += CHUNK_LEN;
        Ok(Some(Header::Chunk(chunk)))
    }

    /// A simple reply: all of a server without structured replies, and errors of any other.
    async fn simple(&mut self, shared: &Shared, pending: &mut Pending, errno: u32) -> Result<(), Error> {
        if errno != 0 {
            pending.failed.get_or_insert((errno, proto::errno_name(errno).to_owned()));
            return Ok(());
        }
        match &mut pending.job {
            Job::Read { assembly, .. } if !self.structured => {
                let (offset, length) = assembly.range();
                self.data(shared, assembly, offset, length).await
            }
            job => Err(shared.protocol(format!("{} was answered by a simple reply", job.describe()))),
        }
    }

    async fn chunk(&mut self, shared: &Shared, pending: &mut Pending, head: Chunk) -> Result<(), Error> {
        let length = head.length;
        match (head.kind, &mut pending.job) {
            (chunk::NONE, _) if length == 0 && head.done() => Ok(()),
            (chunk::OFFSET_DATA, Job::Read { assembly, .. }) if length > 8 => {
                let offset = self.offset(shared).await?;
                self.data(shared, assembly, offset, length - 8).await
            }
            (chunk::OFFSET_HOLE, Job::Read { assembly, .. }) if length == 12 => {
                let offset = self.offset(shared).await?;
                let mut size = [0; 4];
                self.fill(&mut size).await.map_err(|error| lost(shared, &error))?;
                assembly.hole(offset, u32::from_be_bytes(size)).map_err(|problem| shared.protocol(problem))
            }
            (chunk::BLOCK_STATUS, Job::Status { length: asked, found, .. }) if length <= MAX_STATUS => {
                let asked = *asked;
                if found.is_some() {
                    return Err(shared.protocol("it sent two block statuses for one request"));
                }
                *found = Some(self.status(shared, length, asked).await?);
                Ok(())
            }
            (kind, _) if kind & chunk::ERROR_BIT != 0 && (6..=MAX_ERROR).contains(&length) => {
                let error = self.error(shared, length).await?;
                pending.failed.get_or_insert(error);
                Ok(())
            }
            (kind, job) => Err(shared.protocol(format!(
                "{} was answered by a chunk of type {kind:#x} and {length} bytes, which cannot be",
                job.describe()
            ))),
        }
    }

    async fn offset(&mut self, shared: &Shared) -> Result<u64, Error> {
        let mut offset = [0; 8];
        self.fill(&mut offset).await.map_err(|error| lost(shared, &error))?;
        Ok(u64::from_be_bytes(offset))
    }

    async fn data(
        &mut self,
        shared: &Shared,
        assembly: &mut Assembly,
        offset: u64,
        length: u32,
    ) -> Result<(), Error> {
        let place = assembly.place(offset, length).map_err(|problem| shared.protocol(problem))?;
        let read = match place {
            Place::Append(count) => self.append(assembly.buffer(), count).await,
            Place::At(range) => self.fill(&mut assembly.buffer()[range]).await,
        };
        read.map_err(|error| lost(shared, &error))
    }

    async fn status(&mut self, shared: &Shared, length: u32, asked: u32) -> Result<Vec<StatusExtent>, Error> {
        let payload = self.payload(shared, length).await?;
        let mut payload = &payload[..];
        let context = payload.try_get_u32().ok();
        if context.is_none() || context != self.context {
            return Err(
                shared.protocol(format!("it sent the block status of context {context:?}, not asked for"))
            );
        }
        extents::parse(payload, asked).map_err(|problem| shared.protocol(problem))
    }

    async fn error(&mut self, shared: &Shared, length: u32) -> Result<(u32, String), Error> {
        let payload = self.payload(shared, length).await?;
        let mut rest = &payload[..];
        // The lengths were checked: at least 6 bytes are there.
        let (errno, text) = (rest.get_u32(), usize::from(rest.get_u16()));
        if errno == 0 || text > rest.len() {
            return Err(shared.protocol("it sent an error chunk whose parts do not fit"));
        }
        let text = proto::printable(&rest[..text]);
        let name = proto::errno_name(errno);
        Ok((errno, if text.is_empty() { name.to_owned() } else { format!("{name}: {text}") }))
    }

    /// A small payload. The caller checked its length against a bound; memory still grows only with what comes.
    async fn payload(&mut self, shared: &Shared, length: u32) -> Result<BytesMut, Error> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut payload = BytesMut::with_capacity(length.min(64 << 10));
        self.append(&mut payload, length).await.map_err(|error| lost(shared, &error))?;
        Ok(payload)
    }

    /// Gets at least `need` bytes into the stash; `false` when the stream ended before the first of them.
    async fn gather(&mut self, need: usize) -> io::Result<bool> {
        if self.from > 0 {
            self.stash.copy_within(self.from..self.to, 0);
            self.to -= self.from;
            self.from = 0;
        }
        // Never past the header of a simple reply's successor: its payload belongs into its buffer.
        let want = if self.structured { STASH } else { need };
        while self.to < need {
            let count = self.io.read(&mut self.stash[self.to..want]).await?;
            if count == 0 {
                return if self.to == 0 { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            self.to += count;
        }
        Ok(true)
    }

    /// Appends the next `count` bytes of the stream to `buffer`.
    async fn append(&mut self, buffer: &mut BytesMut, count: usize) -> io::Result<()> {
        let stashed = count.min(self.to - self.from);
        buffer.extend_from_slice(&self.stash[self.from..self.from + stashed]);
        self.from += stashed;
        let mut left = count - stashed;
        while left > 0 {
            let got = self.io.read_buf(&mut (&mut *buffer).limit(left)).await?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= got;
        }
        Ok(())
    }

    /// Fills `target` with the next bytes of the stream.
    async fn fill(&mut self, target: &mut [u8]) -> io::Result<()> {
        let stashed = target.len().min(self.to - self.from);
        target[..stashed].copy_from_slice(&self.stash[self.from..self.from + stashed]);
        self.from += stashed;
        self.io.read_exact(&mut target[stashed..]).await.map(|_| ())
    }
}

fn lost(shared: &Shared, error: &io::Error) -> Error {
    shared.closed(match error.kind() {
        io::ErrorKind::UnexpectedEof => "the server closed it in the middle of a reply".to_owned(),
        _ => format!("reading replies failed: {error}"),
    })
}

/// Hands a complete reply to its caller, who may have gone.
fn complete(shared: &Shared, pending: Pending) -> Result<(), Error> {
    let Pending { job, failed, permit } = pending;
    let failed = failed.map(|(errno, message)| Error::Server {
        target: shared.target.clone(),
        request: job.describe(),
        errno,
        message,
    });
    let violation = |problem: String| {
        let error = shared.protocol(problem);
        shared.poison(error.clone());
        error
    };
    drop(permit);
    match job {
        Job::Read { assembly, reply } => {
            let result = match failed {
                Some(error) => Err(error),
                None => Ok(assembly.finish().map_err(violation)?),
            };
            // An error means that the caller dropped its future: the reply is not wanted any more.
            let _ = reply.send(result);
        }
        Job::Status { offset, found, reply, .. } => {
            let result = match (failed, found) {
                (Some(error), _) => Err(error),
                (None, Some(found)) => Ok(found),
                (None, None) => return Err(violation(format!("it sent no block status for {offset}"))),
            };
            let _ = reply.send(result);
        }
    }
    Ok(())
}
