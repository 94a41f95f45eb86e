//! The receiving half: large reads, decryption in place, frames. In memory ([`crate::memory`]) bytes come as they are.

use crate::error::{Error, tame};
use crate::frame::{Assembler, Frame, Incoming};
use crate::link::Shared;
use crate::link::handshake::drain;
use crate::memory::LaneOut;
use crate::tls::{OpenError, Opened, Opener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::Instant;

/// Ciphertext read at once when data flows.
const READ: usize = 256 << 10;
/// Room for ciphertext of a connection over which no data flows: there are hundreds of them.
const READ_AT_REST: usize = 32 << 10;
/// When nothing came for so long, memory for data is given back.
const REST: Duration = Duration::from_secs(2);
/// A receiver that was not asked for a while first takes what came meanwhile; only then is silence silence.
const GRACE: Duration = Duration::from_millis(50);

/// Where bytes come from. One branch for each read, none for each byte.
enum Way {
    Tls(Box<Tls>),
    Memory(LaneOut),
}

/// TLS over TCP.
struct Tls {
    tcp: OwnedReadHalf,
    opener: Opener,
    /// Ciphertext; what is used up stands before `start`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// The receiving half of a connection.
pub struct Receiver {
    way: Way,
    shared: Arc<Shared>,
    assembler: Assembler,
    idle_timeout: Duration,
    last_heard: Instant,
    /// What ends the connection once the frames that were whole before it are given out.
    broken: Option<Error>,
    /// Set at the orderly end and after an error: nothing more will come.
    over: Option<Over>,
}

#[derive(Clone, Copy)]
enum Over {
    Orderly,
    Failed,
}

impl Receiver {
    /// Goes on where the handshake ended: `buffer` has that many bytes of ciphertext, `assembler` what was behind.
    pub(super) fn new(
        tcp: OwnedReadHalf,
        shared: Arc<Shared>,
        opener: Opener,
        (buffer, end): (Vec<u8>, usize),
        assembler: Assembler,
        idle_timeout: Duration,
    ) -> Self {
        let way = Way::Tls(Box::new(Tls { tcp, opener, buffer, start: 0, end }));
        Self::over(way, shared, assembler, idle_timeout)
    }

    /// The end of a direction that has no network.
    pub(crate) fn in_memory(lane: LaneOut, shared: Arc<Shared>, idle_timeout: Duration) -> Self {
        Self::over(Way::Memory(lane), shared, Assembler::new(), idle_timeout)
    }

    fn over(way: Way, shared: Arc<Shared>, assembler: Assembler, idle_timeout: Duration) -> Self {
        let (last_heard, broken, over) = (Instant::now(), None, None);
        Self { way, shared, assembler, idle_timeout, last_heard, broken, over }
    }

    /// The peer is known and admitted: from now on large reads.
    pub(crate) fn open_wide(&mut self) {
        if let Way::Tls(tls) = &mut self.way {
            tls.buffer.resize(READ, 0);
        }
    }

    /// The next frame, or nothing after the peer's orderly end. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Silent`] if nothing came for the idle timeout, not even a sign of life; [`Error::Closed`] if the
    /// connection ended without a goodbye; [`Error::Refused`] if the peer said why it ended it; [`Error::Frame`]
    /// for bytes that are no frame; [`Error::Tls`] and [`Error::Io`]. The connection is over after any of them,
    /// and its sender fails too.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            let Some(incoming) = self.next_incoming().await? else { return Ok(None) };
            match incoming {
                Incoming::User(frame) => return Ok(Some(frame)),
                Incoming::Ping => {
                    self.shared.pong_due.store(true, Ordering::Relaxed);
                    self.shared.nudge.notify_one();
                }
                Incoming::Pong => {}
                Incoming::Hello(_) => {
                    return self.fail(Error::Frame { reason: "a second hello".to_owned() });
                }
                Incoming::Goodbye(reason) if reason.is_empty() => {
                    self.over = Some(Over::Orderly);
                    return Ok(None);
                }
                Incoming::Goodbye(reason) => {
                    return self.fail(Error::Refused { reason: tame(&reason) });
                }
            }
        }
    }

    /// The next frame of any kind.
    pub(crate) async fn next_incoming(&mut self) -> Result<Option<Incoming>, Error> {
        loop {
            match self.over {
                Some(Over::Orderly) => return Ok(None),
                Some(Over::Failed) => return Err(Error::Closed { mid_frame: false }),
                None => {}
            }
            if let Some(incoming) = self.assembler.pop() {
                return Ok(Some(incoming));
            }
            if let Some(error) = self.broken.take() {
                return self.fail(error);
            }
            // What the handshake left comes first.
            let digested = match &mut self.way {
                Way::Tls(tls) => tls.digest(&self.shared, &mut self.assembler),
                Way::Memory(_) => Ok(()),
            };
            match digested {
                Err(error) => self.broken = Some(error),
                Ok(()) if self.assembler.has_whole() => {}
                Ok(()) => {
                    if let Err(error) = self.fill().await {
                        return self.fail(error);
                    }
                }
            }
        }
    }

    fn fail<T>(&mut self, error: Error) -> Result<T, Error> {
        self.over = Some(Over::Failed);
        self.shared.dead.cancel();
        Err(error)
    }

    /// Waits for bytes. The only place where the receiver waits; a cancelled read has taken nothing.
    async fn fill(&mut self) -> Result<(), Error> {
        // Also between the small frames of idle cycles, of which there may be one a second.
        self.assembler.release(REST);
        let deadline = (self.last_heard + self.idle_timeout).max(Instant::now() + GRACE);
        let Self { way, assembler, .. } = self;
        let filled = match way {
            Way::Tls(tls) => tls.fill(assembler, deadline).await,
            Way::Memory(lane) => match tokio::time::timeout_at(deadline, lane.take()).await {
                Ok(Some(bytes)) => assembler.push(&bytes).map(|()| Some(bytes.len())).map_err(Error::from),
                Ok(None) => Err(Error::Closed { mid_frame: assembler.mid_frame() }),
                Err(_) => Ok(None),
            },
        };
        let count = filled?.ok_or(Error::Silent { after: self.idle_timeout })?;
        self.last_heard = Instant::now();
        self.shared.received.fetch_add(count as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Reads on without looking until the peer hangs up: closing a socket with unread data makes the kernel reset
    /// the connection, and the alert that says why it was refused would be lost.
    pub(crate) async fn drain(&mut self, within: Duration) {
        if let Way::Tls(tls) = &mut self.way {
            drain(&mut tls.tcp, &mut tls.buffer, &self.shared.peer, within).await;
        }
    }

    /// Bytes read from the socket so far, with everything TLS adds.
    #[must_use]
    pub fn bytes_received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }
}

impl Tls {
    /// Waits for ciphertext and returns how much came, or nothing when the deadline passed.
    async fn fill(&mut self, assembler: &Assembler, deadline: Instant) -> Result<Option<usize>, Error> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let count = loop {
            let rest = deadline.min(Instant::now() + REST);
            let read = self.tcp.read(&mut self.buffer[self.end..]);
            match tokio::time::timeout_at(rest, read).await {
                Err(_) if rest < deadline => self.rest(assembler),
                Err(_) => return Ok(None),
                Ok(Err(source)) => return Err(Error::Io { verb: "read from", source }),
                Ok(Ok(0)) => return Err(Error::Closed { mid_frame: assembler.mid_frame() }),
                Ok(Ok(count)) => break count,
            }
        };
        self.end += count;
        if self.end == self.buffer.len() && self.buffer.len() == READ_AT_REST {
            self.buffer.resize(READ, 0);
        }
        Ok(Some(count))
    }

    /// Nothing came for a while: memory for data goes back. It is taken again with the first data.
    fn rest(&mut self, assembler: &Assembler) {
        assembler.release(REST);
        if self.end < READ_AT_REST && self.buffer.len() > READ_AT_REST {
            self.buffer.truncate(READ_AT_REST);
            self.buffer.shrink_to_fit();
        }
    }

    /// Decrypts the whole records of what was read and puts frames together.
    fn digest(&mut self, shared: &Shared, assembler: &mut Assembler) -> Result<(), Error> {
        loop {
            let input = &mut self.buffer[self.start..self.end];
            let whole = Opener::whole(input).map_err(|error| shared.tls_error(error))?;
            let Some(length) = whole else { return Ok(()) };
            self.start += length;
            match self.opener.open(&mut input[..length], assembler) {
                Ok(Opened::Data) => {}
                Ok(Opened::UpdateDue) => shared.nudge.notify_one(),
                Ok(Opened::End) => {
                    // The goodbye, if there was one, is among the frames that wait; without one the next read says so.
                    tracing::trace!(peer = %shared.peer, "the peer closed its side of TLS");
                    self.start = self.end;
                }
                Err(OpenError::Tls(error)) => return Err(shared.tls_error(error)),
                Err(OpenError::Sink(reason)) => return Err(Error::Frame { reason }),
            }
        }
    }
}
