//! The client: one connection to one export, shared by many callers.

use crate::assemble::Assembly;
use crate::connection::{self, Command, Job, MAX_IN_FLIGHT, Shared};
use crate::extents::{self, StatusExtent};
use crate::handshake::{self, BlockSizes, Failure, Negotiated};
use crate::proto::export_flag;
use crate::reader::Reader;
use crate::{Address, Error, Target};
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// How long connecting and negotiating may take together.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long [`Client::disconnect`] waits for pending requests, and again for the server to close.
const DISCONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The longest range one status request asks about. Lengths are 32 bits wide on the wire.
const STATUS_STEP: u64 = 2 << 30;
/// The most extents one [`Client::block_status`] collects: 64 MiB of memory.
const MAX_EXTENTS: usize = 4 << 20;

/// A connection to one export. Cheap to clone; all clones share the connection. It ends when the last clone is
/// dropped, or by [`Client::disconnect`].
///
/// Any number of requests may run side by side; 128 are on their way at once, the others wait.
///
/// Every method is cancel-safe: dropping its future leaves the connection in order. A reply that nobody waits
/// for any more is read and dropped. Only [`Client::connect`] and [`Client::disconnect`] have a time limit of their
/// own; whoever must not wait for a hanging server puts `tokio::time::timeout` around a request.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    negotiated: Negotiated,
    commands: mpsc::Sender<Command>,
    task: AbortHandle,
    /// Dropped with the last handle; tells the task that nobody is left.
    _gone: oneshot::Sender<()>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({}, {} bytes)", self.inner.shared.target, self.size())
    }
}

impl Client {
    /// Connects to `target` and negotiates, in at most 10 s. With `context`, [`Client::block_status`] can be
    /// used and answers in that context: [`crate::CONTEXT_ALLOCATION`] or a [`crate::dirty_context`].
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Handshake`] (unknown export, context not offered), [`Error::Protocol`],
    /// [`Error::Timeout`].
    pub async fn connect(target: &Target, context: Option<&str>) -> Result<Client, Error> {
        timeout(HANDSHAKE_LIMIT, Self::open(target, context)).await.map_err(|_| Error::Timeout {
            target: target.to_string(),
            step: "connecting and negotiating",
            limit: HANDSHAKE_LIMIT,
        })?
    }

    async fn open(target: &Target, context: Option<&str>) -> Result<Client, Error> {
        let refused =
            |source: io::Error| Error::Connect { target: target.to_string(), source: Arc::new(source) };
        match &target.address {
            Address::Unix(path) => {
                let mut stream = UnixStream::connect(path).await.map_err(refused)?;
                let negotiated = negotiate(&mut stream, target, context).await?;
                let (reader, writer) = stream.into_split();
                Ok(Self::start(target, negotiated, reader, writer))
            }
            Address::Tcp(address) => {
                let mut stream = TcpStream::connect(address).await.map_err(refused)?;
                // Requests are small and each is waited for.
                stream.set_nodelay(true).map_err(refused)?;
                let negotiated = negotiate(&mut stream, target, context).await?;
                let (reader, writer) = stream.into_split();
                Ok(Self::start(target, negotiated, reader, writer))
            }
        }
    }

    fn start<R, W>(target: &Target, negotiated: Negotiated, reader: R, writer: W) -> Client
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let shared = Arc::new(Shared::new(target.to_string()));
        // Every request holds a permit, so with one place more for the goodbye the channel is never full.
        let places = usize::try_from(MAX_IN_FLIGHT).unwrap_or(1) + 1;
        let (commands, receiver) = mpsc::channel(places);
        let (gone_sender, gone) = oneshot::channel();
        let reader = Reader::new(reader, negotiated.structured, negotiated.context);
        let task = tokio::spawn(connection::run(Arc::clone(&shared), reader, writer, receiver, gone));
        let task = task.abort_handle();
        Client { inner: Arc::new(Inner { shared, negotiated, commands, task, _gone: gone_sender }) }
    }

    /// Size of the export in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.inner.negotiated.size
    }

    /// The server does not take writes (this client never sends one).
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.inner.negotiated.flags & export_flag::READ_ONLY != 0
    }

    /// The server shows every connection the same data, so several may be used side by side.
    #[must_use]
    pub fn multi_connection(&self) -> bool {
        self.inner.negotiated.flags & export_flag::CAN_MULTI_CONN != 0
    }

    /// What the server says about the lengths of requests; `max` never exceeds [`crate::MAX_READ`].
    #[must_use]
    pub fn block_sizes(&self) -> BlockSizes {
        self.inner.negotiated.blocks
    }

    /// Reads `length` bytes at `offset`. Any offset and length inside the export: where the server has a
    /// minimum block size, more is read and cut off. 256 KiB with 16 in flight is fastest with QEMU.
    ///
    /// # Errors
    /// [`Error::Request`] when the range is not inside the export or longer than `block_sizes().max`;
    /// [`Error::Server`] when the server could not read; [`Error::Protocol`] and [`Error::Closed`] when the
    /// connection is dead.
    pub async fn read(&self, offset: u64, length: u32) -> Result<Bytes, Error> {
        self.check(offset, u64::from(length))?;
        if length == 0 {
            return Ok(Bytes::new());
        }
        let max = self.block_sizes().max;
        let (start, end) = self.aligned(offset, u64::from(length));
        let asked = u32::try_from(end - start).ok().filter(|asked| *asked <= max).ok_or_else(|| {
            self.refuse(format!("a read of {length} bytes at {offset} is longer than the {max} allowed"))
        })?;
        let (reply, answer) = oneshot::channel();
        self.send(Job::Read { assembly: Assembly::new(start, asked), reply }).await?;
        let data = answer.await.map_err(|_| self.inner.shared.reason())??;
        if asked == length {
            return Ok(data);
        }
        // The skipped part is shorter than a block, at most 64 KiB.
        let skip = usize::try_from(offset - start).unwrap_or(0);
        let keep = usize::try_from(length).unwrap_or(usize::MAX);
        Ok(data.slice(skip..skip + keep))
    }

    /// The extents of `offset..offset + length` in the connection's context, neighbours with equal flags joined;
    /// together exactly `length` bytes.
    ///
    /// # Errors
    /// As [`Client::read`]; [`Error::Request`] also when the connection has no context, or when the range has
    /// more than 4 Mi extents: ask for a smaller one then.
    pub async fn block_status(&self, offset: u64, length: u64) -> Result<Vec<StatusExtent>, Error> {
        self.check(offset, length)?;
        if self.inner.negotiated.context.is_none() {
            return Err(self.refuse("the connection was opened without a meta context".to_owned()));
        }
        if length == 0 {
            return Ok(Vec::new());
        }
        let (start, end) = self.aligned(offset, length);
        let min = u64::from(self.block_sizes().min);
        let mut list = Vec::new();
        let mut at = start;
        while at < end {
            let step = STATUS_STEP.min(end - at);
            let found = self.status_once(at, u32::try_from(step).unwrap_or(u32::MAX)).await?;
            at += extents::total(&found);
            if at % min != 0 && at < end {
                let error = self
                    .inner
                    .shared
                    .protocol(format!("a block status ends at {at}, inside a block of {min}"));
                self.inner.shared.poison(error.clone());
                self.inner.task.abort();
                return Err(error);
            }
            found.into_iter().for_each(|extent| extents::push(&mut list, extent));
            if list.len() > MAX_EXTENTS {
                return Err(
                    self.refuse(format!("{length} bytes at {offset} have too many extents; ask for less"))
                );
            }
        }
        if (start, end) == (offset, offset + length) {
            return Ok(list);
        }
        Ok(extents::window(&list, offset - start, length))
    }

    async fn status_once(&self, offset: u64, length: u32) -> Result<Vec<StatusExtent>, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Status { offset, length, found: None, reply }).await?;
        answer.await.map_err(|_| self.inner.shared.reason())?
    }

    /// Ends the connection in order: waits for what is pending (at most 5 s), takes no more requests, tells the
    /// server, waits for it to close (at most 5 s). All clones are closed with it. Does nothing when the
    /// connection is dead already.
    pub async fn disconnect(&self) {
        let Inner { shared, commands, task, .. } = &*self.inner;
        // All permits back means that nothing is pending. A failure means that the connection is dead.
        let idle = timeout(DISCONNECT_LIMIT, shared.permits.acquire_many(MAX_IN_FLIGHT)).await;
        shared.poison(shared.closed("this side disconnected"));
        if matches!(idle, Ok(Ok(_))) && commands.send(Command::Disconnect).await.is_ok() {
            // The receiver goes when the task ends. Past the limit the abort below closes the socket.
            let _ = timeout(DISCONNECT_LIMIT, commands.closed()).await;
        }
        task.abort();
    }

    async fn send(&self, job: Job) -> Result<(), Error> {
        let shared = &self.inner.shared;
        let permit = Arc::clone(&shared.permits).acquire_owned().await.map_err(|_| shared.reason())?;
        self.inner.commands.send(Command::Request(job, permit)).await.map_err(|_| shared.reason())
    }

    fn check(&self, offset: u64, length: u64) -> Result<(), Error> {
        let size = self.size();
        if offset.checked_add(length).is_some_and(|end| end <= size) {
            return Ok(());
        }
        Err(self.refuse(format!("{length} bytes at {offset} are not inside of its {size} bytes")))
    }

    /// The range widened to whole blocks, but never past the end of the export.
    fn aligned(&self, offset: u64, length: u64) -> (u64, u64) {
        let min = u64::from(self.block_sizes().min);
        let end = (offset + length).next_multiple_of(min).min(self.size());
        (offset - offset % min, end)
    }

    fn refuse(&self, message: String) -> Error {
        Error::Request { target: self.inner.shared.target.clone(), message }
    }
}

async fn negotiate<S>(stream: &mut S, target: &Target, context: Option<&str>) -> Result<Negotiated, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    handshake::negotiate(stream, &target.export, context).await.map_err(|failure| match failure {
        Failure::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => Error::Handshake {
            target: target.to_string(),
            message: "the server closed the connection during the negotiation".to_owned(),
        },
        Failure::Io(source) => Error::Connect { target: target.to_string(), source: Arc::new(source) },
        Failure::Refused(message) => Error::Handshake { target: target.to_string(), message },
        Failure::Broken(message) => Error::Protocol { target: target.to_string(), message },
    })
}
