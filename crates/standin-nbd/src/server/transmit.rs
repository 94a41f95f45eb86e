//! The server's transmission phase: requests in, replies out, several being answered at once.
//!
//! Requests of one connection are read one by one, each is answered by its own task, and replies leave in the
//! order in which they are ready, each whole. What a connection can take of our memory is bounded: 64 requests and
//! 32 MiB of data being answered; a client that sends more waits in its socket.

use super::negotiate::{ALLOCATION_ID, Session};
use super::wait_for;
use crate::extents::{self, StatusExtent};
use crate::proto::{self, CHUNK_LEN, Chunk, REQUEST_LEN, Request, chunk, command, errno};
use crate::zero::is_zero;
use crate::{MAX_READ, merge};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

/// Requests being answered at once.
const MAX_REQUESTS: usize = 64;
/// One permit of memory, in bytes.
const UNIT: u32 = 4096;
/// Extents in one block status reply: 64 KiB of them. The client asks again for the rest.
const MAX_REPLY_EXTENTS: usize = 8 << 10;

struct Connection {
    session: Session,
    writer: Mutex<OwnedWriteHalf>,
}

/// Answers requests until the client leaves, breaks the protocol, or `stop` becomes true. What was begun is
/// answered before it returns.
pub async fn transmit(
    stream: UnixStream,
    session: Session,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let (mut reader, writer) = stream.into_split();
    let connection = Arc::new(Connection { session, writer: Mutex::new(writer) });
    let requests = Arc::new(Semaphore::new(MAX_REQUESTS));
    let memory = Arc::new(Semaphore::new(usize::try_from(MAX_READ / UNIT).unwrap_or(1)));
    let mut answers = JoinSet::new();
    let result = loop {
        // Dropping a half-read request is fine here: after `stop` none is read any more.
        let request = tokio::select! {
            () = wait_for(&mut stop) => break Ok(()),
            request = next_request(&mut reader) => request,
        };
        let Some(request) = (match request {
            Ok(request) => request,
            Err(error) => break Err(error),
        }) else {
            break Ok(());
        };
        while let Some(answered) = answers.try_join_next() {
            flatten(answered)?;
        }
        let permits = (acquire(&requests, 1).await?, acquire(&memory, cost(&request)).await?);
        let connection = Arc::clone(&connection);
        answers.spawn(async move {
            let result = answer(&connection, request).await;
            drop(permits);
            result
        });
    };
    while let Some(answered) = answers.join_next().await {
        flatten(answered)?;
    }
    result
}

fn flatten(answered: Result<io::Result<()>, tokio::task::JoinError>) -> io::Result<()> {
    answered.map_err(io::Error::other)?
}

async fn acquire(semaphore: &Arc<Semaphore>, count: u32) -> io::Result<OwnedSemaphorePermit> {
    Arc::clone(semaphore).acquire_many_owned(count).await.map_err(io::Error::other)
}

/// The memory a request needs while it is answered, in units; never more than there are.
fn cost(request: &Request) -> u32 {
    match request.command {
        command::READ if request.length <= MAX_READ => request.length.div_ceil(UNIT).max(1),
        command::BLOCK_STATUS => proto::len32(MAX_REPLY_EXTENTS * 8) / UNIT,
        _ => 1,
    }
}

/// The next request; `None` when the client left. The data of a write is read and dropped.
async fn next_request(reader: &mut OwnedReadHalf) -> io::Result<Option<Request>> {
    let mut head = [0; REQUEST_LEN];
    // The first byte apart, to tell a client that left from one that broke off in the middle.
    if reader.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut head[1..]).await?;
    let broken = |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("the client sent {what}"));
    let request = Request::decode(&head).ok_or_else(|| broken("something that is no request".to_owned()))?;
    match request.command {
        command::DISC => return Ok(None),
        command::WRITE if request.length > MAX_READ => {
            return Err(broken(format!("a write of {} bytes", request.length)));
        }
        command::WRITE => {
            let length = u64::from(request.length);
            let dropped = tokio::io::copy(&mut reader.take(length), &mut tokio::io::sink()).await?;
            if dropped < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        _ => {}
    }
    Ok(Some(request))
}

/// An error for the client: number and text.
type Refusal = (u32, String);

async fn answer(connection: &Connection, request: Request) -> io::Result<()> {
    let size = connection.session.source.size();
    let inside = request.offset.checked_add(u64::from(request.length)).is_some_and(|end| end <= size);
    let outside = || (errno::EINVAL, format!("the range is not inside of the {size} bytes of the export"));
    let refusal = match request.command {
        command::READ | command::BLOCK_STATUS if !inside || request.length == 0 => outside(),
        command::READ if request.length > MAX_READ => {
            (errno::EINVAL, format!("a read may have at most {MAX_READ} bytes"))
        }
        command::READ => match read(connection, &request).await {
            Ok(data) => return connection.data(&request, data).await,
            Err(refusal) => refusal,
        },
        command::BLOCK_STATUS => match status(connection, &request).await {
            Ok(extents) => return connection.status(&request, &extents).await,
            Err(refusal) => refusal,
        },
        // Nothing is ever written, so there is nothing to flush.
        command::FLUSH => return connection.ok(&request).await,
        command::WRITE | command::TRIM | command::WRITE_ZEROES => {
            (errno::EPERM, "a recovery point is read-only".to_owned())
        }
        other => (errno::EINVAL, format!("command {other} is not known here")),
    };
    connection.refuse(&request, refusal).await
}

async fn read(connection: &Connection, request: &Request) -> Result<Bytes, Refusal> {
    let Session { source, name, .. } = &connection.session;
    let data =
        source.read(request.offset, request.length).await.map_err(|error| failed(name, request, &error))?;
    if proto::len32(data.len()) != request.length {
        let error = io::Error::other(format!("the source returned {} bytes", data.len()));
        return Err(failed(name, request, &error));
    }
    Ok(data)
}

async fn status(connection: &Connection, request: &Request) -> Result<Vec<StatusExtent>, Refusal> {
    let Session { source, name, allocation, .. } = &connection.session;
    if !allocation {
        return Err((errno::EINVAL, "no meta context was negotiated for this export".to_owned()));
    }
    let length = u64::from(request.length);
    let found = source.status(request.offset, length).await.map_err(|error| failed(name, request, &error))?;
    let mut list = extents::window(&merge(found), 0, length);
    list.truncate(if request.flags & command::FLAG_REQ_ONE != 0 { 1 } else { MAX_REPLY_EXTENTS });
    if list.is_empty() {
        return Err(failed(name, request, &io::Error::other("the source returned no extent")));
    }
    Ok(list)
}

/// Logs a failure of the source and makes it an error for the client.
fn failed(export: &str, request: &Request, error: &io::Error) -> Refusal {
    let (offset, length) = (request.offset, request.length);
    tracing::error!(export, offset, length, %error, "reading a recovery point for an NBD client failed");
    // Numbers the protocol does not know, and errors without one, are input/output errors.
    let known = [1, 5, 12, 22, 28, 75, 95, 108];
    let number = error.raw_os_error().and_then(|number| u32::try_from(number).ok());
    (number.filter(|number| known.contains(number)).unwrap_or(errno::EIO), error.to_string())
}

impl Connection {
    /// A chunk that is the whole reply. `length` counts what follows the header.
    fn chunk(request: &Request, kind: u16, length: usize) -> BytesMut {
        let mut out = BytesMut::with_capacity(CHUNK_LEN + 16);
        Chunk { flags: chunk::DONE, kind, cookie: request.cookie, length: proto::len32(length) }
            .encode(&mut out);
        out
    }

    fn simple(request: &Request, errno: u32) -> BytesMut {
        let mut out = BytesMut::with_capacity(proto::SIMPLE_LEN);
        out.put_u32(proto::SIMPLE_MAGIC);
        out.put_u32(errno);
        out.put_u64(request.cookie);
        out
    }

    async fn send(&self, mut reply: impl Buf) -> io::Result<()> {
        self.writer.lock().await.write_all_buf(&mut reply).await
    }

    async fn data(&self, request: &Request, data: Bytes) -> io::Result<()> {
        if !self.session.structured {
            return self.send(Self::simple(request, 0).chain(data)).await;
        }
        if is_zero(&data) {
            let mut out = Self::chunk(request, chunk::OFFSET_HOLE, 12);
            out.put_u64(request.offset);
            out.put_u32(request.length);
            return self.send(out).await;
        }
        let mut out = Self::chunk(request, chunk::OFFSET_DATA, 8 + data.len());
        out.put_u64(request.offset);
        self.send(out.chain(data)).await
    }

    async fn status(&self, request: &Request, list: &[StatusExtent]) -> io::Result<()> {
        let mut out = Self::chunk(request, chunk::BLOCK_STATUS, 4 + 8 * list.len());
        out.put_u32(ALLOCATION_ID);
        for extent in list {
            // Clipped to the request before, whose length has 32 bits.
            out.put_u32(u32::try_from(extent.length).map_err(io::Error::other)?);
            out.put_u32(extent.flags);
        }
        self.send(out).await
    }

    async fn ok(&self, request: &Request) -> io::Result<()> {
        let reply = if self.session.structured {
            Self::chunk(request, chunk::NONE, 0)
        } else {
            Self::simple(request, 0)
        };
        self.send(reply).await
    }

    async fn refuse(&self, request: &Request, (errno, text): Refusal) -> io::Result<()> {
        if !self.session.structured {
            return self.send(Self::simple(request, errno)).await;
        }
        let text: String = text.chars().take(500).collect();
        let mut out = Self::chunk(request, chunk::ERROR, 6 + text.len());
        out.put_u32(errno);
        out.put_u16(u16::try_from(text.len()).map_err(io::Error::other)?);
        out.put_slice(text.as_bytes());
        self.send(out).await
    }
}
