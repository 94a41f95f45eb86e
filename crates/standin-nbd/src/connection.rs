//! The task behind a connection: it writes requests, reads replies and hands each to its caller.
//!
//! ```text
//! callers --Command--> writer --28 bytes each--> server
//!             |  registers the cookie in `Shared::pending`
//!             v
//! callers <--oneshot-- reader <--chunks--------- server
//! ```
//!
//! Invariants: a cookie is registered before its request is written and never used twice; whoever ends the
//! connection first leaves the reason in [`Shared`] before any caller wakes; a caller that went away changes
//! nothing on the wire, its reply is read and dropped.

use crate::Error;
use crate::assemble::Assembly;
use crate::extents::StatusExtent;
use crate::proto::{Request, command};
use crate::reader::Reader;
use bytes::{Bytes, BytesMut};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Requests on their way at once; QEMU takes 16 and lets the others wait in the socket.
pub const MAX_IN_FLIGHT: u32 = 128;
/// How long a connection that nobody holds any more may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// What is asked, and who waits for it.
pub enum Job {
    Read { assembly: Assembly, reply: oneshot::Sender<Result<Bytes, Error>> },
    Status { offset: u64, length: u32, found: Option<Vec<StatusExtent>>, reply: StatusReply },
}

/// Who waits for a block status.
pub type StatusReply = oneshot::Sender<Result<Vec<StatusExtent>, Error>>;

impl Job {
    fn request(&self, cookie: u64) -> Request {
        let (command, (offset, length)) = match self {
            Self::Read { assembly, .. } => (command::READ, assembly.range()),
            Self::Status { offset, length, .. } => (command::BLOCK_STATUS, (*offset, *length)),
        };
        Request { flags: 0, command, cookie, offset, length }
    }

    /// For messages.
    pub fn describe(&self) -> String {
        let (name, (offset, length)) = match self {
            Self::Read { assembly, .. } => ("a read", assembly.range()),
            Self::Status { offset, length, .. } => ("the block status", (*offset, *length)),
        };
        format!("{name} of {length} bytes at {offset}")
    }

    fn abandoned(&self) -> bool {
        match self {
            Self::Read { reply, .. } => reply.is_closed(),
            Self::Status { reply, .. } => reply.is_closed(),
        }
    }
}

/// What a caller hands to the task.
pub enum Command {
    /// Send this; the permit is given back when the reply is complete.
    Request(Job, OwnedSemaphorePermit),
    /// Send NBD_CMD_DISC and wait until the server closes.
    Disconnect,
}

/// A request whose reply is not complete.
pub struct Pending {
    pub job: Job,
    /// The first error chunk of the reply so far.
    pub failed: Option<(u32, String)>,
    /// Given back when the reply is complete.
    pub permit: OwnedSemaphorePermit,
}

/// What the callers and the task share.
pub struct Shared {
    /// `export "x" at unix:...`, for messages.
    pub target: String,
    /// One permit per request on its way; closed when the connection is dead.
    pub permits: std::sync::Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pending: HashMap<u64, Pending>,
    last_cookie: u64,
    dead: Option<Error>,
}

impl Shared {
    pub fn new(target: String) -> Self {
        let permits = Semaphore::new(usize::try_from(MAX_IN_FLIGHT).unwrap_or(1));
        Self { target, permits: std::sync::Arc::new(permits), state: Mutex::default() }
    }

    /// Nothing panics while the lock is held, and each critical section leaves the state whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the connection is dead.
    pub fn reason(&self) -> Error {
        self.state()
            .dead
            .clone()
            .unwrap_or_else(|| self.closed("its task was ended with the program's runtime"))
    }

    /// Ends the connection for all callers. The first reason is the one that stays.
    pub fn poison(&self, error: Error) {
        let orphans = {
            let mut state = self.state();
            state.dead.get_or_insert(error);
            std::mem::take(&mut state.pending)
        };
        self.permits.close();
        // Dropping the senders wakes the callers, who then find the reason.
        drop(orphans);
    }

    pub fn closed(&self, reason: impl Into<String>) -> Error {
        Error::Closed { target: self.target.clone(), reason: reason.into() }
    }

    pub fn protocol(&self, message: impl Into<String>) -> Error {
        Error::Protocol { target: self.target.clone(), message: message.into() }
    }

    /// Remembers a job under a new cookie; `None` when the connection died meanwhile (the caller is woken).
    fn register(&self, job: Job, permit: OwnedSemaphorePermit) -> Option<Request> {
        let mut state = self.state();
        if state.dead.is_some() {
            return None;
        }
        state.last_cookie += 1;
        let cookie = state.last_cookie;
        let request = job.request(cookie);
        state.pending.insert(cookie, Pending { job, failed: None, permit });
        Some(request)
    }

    /// Takes the request with this cookie out.
    pub fn take(&self, cookie: u64) -> Result<Pending, Error> {
        self.state().pending.remove(&cookie).ok_or_else(|| {
            self.protocol(format!("it answered request {cookie}, which was not asked or was answered before"))
        })
    }

    /// Puts a request back whose reply goes on.
    pub fn put_back(&self, cookie: u64, pending: Pending) {
        self.state().pending.insert(cookie, pending);
    }
}

/// Runs a connection until either side ends it. `gone` resolves when the last handle was dropped.
pub async fn run<R, W>(
    shared: std::sync::Arc<Shared>,
    reader: Reader<R>,
    writer: W,
    commands: mpsc::Receiver<Command>,
    gone: oneshot::Receiver<()>,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let abandoned = async {
        // Only ever resolves by being dropped. The writer then says goodbye; a server that does not listen
        // must not keep this task for ever.
        let _ = gone.await;
        tokio::time::sleep(GOODBYE).await;
    };
    // Both loops leave their reason in `shared` themselves, before their jobs are dropped.
    tokio::select! {
        () = reader.run(&shared) => {}
        () = write_loop(&shared, writer, commands) => {}
        () = abandoned => {}
    }
    shared.poison(shared.closed("nobody holds it any more"));
}

async fn write_loop<W: AsyncWrite + Unpin>(
    shared: &Shared,
    mut writer: W,
    mut commands: mpsc::Receiver<Command>,
) {
    let batch = usize::try_from(MAX_IN_FLIGHT).unwrap_or(1);
    let mut taken = Vec::with_capacity(batch);
    let mut out = BytesMut::new();
    loop {
        let leaving = commands.recv_many(&mut taken, batch).await == 0;
        let mut goodbye = leaving;
        for command in taken.drain(..) {
            match command {
                Command::Request(job, _) if job.abandoned() => {}
                Command::Request(job, permit) => {
                    if let Some(request) = shared.register(job, permit) {
                        request.encode(&mut out);
                    }
                }
                Command::Disconnect => goodbye = true,
            }
        }
        if goodbye {
            Request { flags: 0, command: command::DISC, cookie: 0, offset: 0, length: 0 }.encode(&mut out);
        }
        if let Err(error) = writer.write_all_buf(&mut out).await {
            shared.poison(shared.closed(format!("sending requests failed: {error}")));
            return;
        }
        if goodbye {
            if let Err(error) = writer.shutdown().await {
                shared.poison(shared.closed(format!("closing failed: {error}")));
                return;
            }
            if leaving {
                return;
            }
            // The reader sees the server close; `disconnect` bounds how long that may take.
            std::future::pending::<()>().await;
        }
    }
}
