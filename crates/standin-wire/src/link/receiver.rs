//! The receiving half: large reads, decryption in place, frames.

use crate::error::{Error, tame};
use crate::frame::{Assembler, Frame, Incoming};
use crate::link::Shared;
use crate::tls::{RECORD, State};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::Instant;

/// Ciphertext read at once when data flows.
const READ: usize = 256 << 10;
/// Ciphertext read at once before the peer is known: somebody who sends rubbish costs no more than this.
const READ_FIRST: usize = 2 * RECORD;
/// A receiver that was not asked for a while first takes what came meanwhile; only then is silence silence.
const GRACE: Duration = Duration::from_millis(50);

/// The receiving half of a connection.
pub struct Receiver {
    tcp: OwnedReadHalf,
    shared: Arc<Shared>,
    /// Ciphertext; what is used up stands before `start`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    assembler: Assembler,
    idle_timeout: Duration,
    last_heard: Instant,
    /// Set at the orderly end and after an error: nothing more will come.
    over: Option<Over>,
}

#[derive(Clone, Copy)]
enum Over {
    Orderly,
    Failed,
}

impl Receiver {
    pub(crate) fn new(tcp: OwnedReadHalf, shared: Arc<Shared>, idle_timeout: Duration) -> Self {
        Self {
            tcp,
            shared,
            buffer: vec![0; READ_FIRST],
            start: 0,
            end: 0,
            assembler: Assembler::new(),
            idle_timeout,
            last_heard: Instant::now(),
            over: None,
        }
    }

    /// The peer is known and admitted: from now on large reads.
    pub(crate) fn open_wide(&mut self) {
        self.buffer.resize(READ, 0);
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
            let step = match self.fill().await {
                Ok(()) => self.digest().map(|_| ()),
                Err(error) => Err(error),
            };
            if let Err(error) = step {
                return self.fail(error);
            }
        }
    }

    fn fail<T>(&mut self, error: Error) -> Result<T, Error> {
        self.over = Some(Over::Failed);
        self.shared.dead.cancel();
        Err(error)
    }

    /// Waits for ciphertext. The only place where the receiver waits; a cancelled read has taken nothing.
    pub(crate) async fn fill(&mut self) -> Result<(), Error> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let deadline = (self.last_heard + self.idle_timeout).max(Instant::now() + GRACE);
        let read = self.tcp.read(&mut self.buffer[self.end..]);
        let count = match tokio::time::timeout_at(deadline, read).await {
            Err(_) => return Err(Error::Silent { after: self.idle_timeout }),
            Ok(Err(source)) => return Err(Error::Io { verb: "read from", source }),
            Ok(Ok(0)) => return Err(Error::Closed { mid_frame: self.assembler.mid_frame() }),
            Ok(Ok(count)) => count,
        };
        self.end += count;
        self.last_heard = Instant::now();
        self.shared.received.fetch_add(count as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Decrypts what was read and puts frames together.
    pub(crate) fn digest(&mut self) -> Result<State, Error> {
        let shared = self.shared.clone();
        let mut guarded = shared.lock();
        let guarded = &mut *guarded;
        let assembler = &mut self.assembler;
        let mut result = Ok(());
        let mut plain = |bytes: &[u8]| {
            if result.is_ok() {
                result = assembler.push(bytes);
            }
        };
        let input = &mut self.buffer[self.start..self.end];
        let (used, state) = guarded.tls.feed(input, &mut guarded.out, &mut plain);
        self.start += used;
        let tls_has_to_speak = !guarded.out.pending().is_empty();
        result?;
        let state = state.map_err(|error| shared.tls_error(error))?;
        if self.end - self.start == self.buffer.len() {
            return Err(Error::Frame { reason: "a TLS record is longer than allowed".to_owned() });
        }
        if tls_has_to_speak {
            shared.nudge.notify_one();
        }
        if state == State::PeerClosed && self.over.is_none() {
            // The goodbye, if there was one, is among the frames that wait; without one the next read says so.
            tracing::trace!(peer = %shared.peer, "the peer closed its side of TLS");
        }
        Ok(state)
    }

    /// Reads on without looking until the peer hangs up: closing a socket with unread data makes the kernel reset
    /// the connection, and the alert that says why it was refused would be lost.
    pub(crate) async fn drain(&mut self, within: Duration) {
        let mut left = 1_usize << 20;
        let draining = async {
            while left > 0 {
                match self.tcp.read(&mut self.buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => left = left.saturating_sub(count),
                }
            }
        };
        if tokio::time::timeout(within, draining).await.is_err() {
            tracing::debug!(peer = %self.shared.peer, "the refused peer does not hang up");
        }
    }

    /// Bytes read from the socket so far, with everything TLS adds.
    #[must_use]
    pub fn bytes_received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }
}
