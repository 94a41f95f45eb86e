//! A connection between two daemons.
//!
//! ```text
//!  block(), control()                                                       next()
//!      │ queue (one frame at most stays behind)                                ▲
//!   Writer ── whole records of 16 KiB ── seal ── TCP ~~~~ TCP ── feed ── Assembler
//!      ▲                                   └── Shared (TLS state) ──┘
//!   keepalive task: pings when nothing was sent for a while, answers the peer's pings
//! ```
//!
//! Invariants:
//! * Back-pressure: a send returns when all but the last, unfilled record is in the kernel's hands. A peer that
//!   does not read makes the sender wait; memory stays bounded by one frame on either side plus fixed buffers.
//! * The order of records: whoever seals holds the TLS state, and what the receiving side had to say is written
//!   before what is sealed next.
//! * [`Receiver::next`] may be cancelled at any time without losing anything. A cancelled send either queued its
//!   frame whole or not at all, and a later send or the keepalive task writes the rest.
//! * A living peer is heard at least every third of the idle timeout, so silence means that it is gone.
//!
//! Sockets keep the kernel's automatic buffer sizes: a fixed `SO_SNDBUF` is cut to `net.core.wmem_max`, which is
//! below what the kernel grows to by itself.

mod establish;
mod receiver;
mod sender;
mod socket;

pub use establish::{Accepted, Connection, Settings, accept, accept_with, connect, connect_with};
pub use receiver::Receiver;
pub use sender::Sender;

pub(crate) use establish::{Ends, handshake, open_socket};

use crate::error::Error;
use crate::tls::{OutBuf, Tls};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What both directions of a connection share.
pub(crate) struct Shared {
    guarded: Mutex<Guarded>,
    /// Address of the peer, for messages.
    peer: String,
    /// Ciphertext bytes.
    sent: AtomicU64,
    received: AtomicU64,
    /// The peer asked for a sign of life.
    pong_due: AtomicBool,
    /// Wakes the keepalive task.
    nudge: Notify,
    /// The connection has failed: a sender that waits for the socket gives up.
    dead: CancellationToken,
}

struct Guarded {
    tls: Tls,
    /// What TLS had to say while receiving; the writer puts it first.
    out: OutBuf,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Guarded> {
        // A panic while the lock was held can only come from within TLS; the connection fails by itself then.
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tls_error(&self, error: rustls::Error) -> Error {
        Error::tls(&self.peer, error)
    }
}
