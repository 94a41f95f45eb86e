//! A connection between two daemons.
//!
//! ```text
//!  block(), control()                                                       next()
//!      │ queue (one frame at most stays behind)                                ▲
//!   Writer ── whole records of 16 KiB ── Sealer ── TCP ~~~~ TCP ── Opener ── Assembler
//!   keepalive task: pings when nothing was sent for a while, answers the peer's pings
//! ```
//!
//! Invariants:
//! * Back-pressure: a send returns when all but the last, unfilled record is in the kernel's hands. A peer that
//!   does not read makes the sender wait; memory stays bounded by one frame on either side plus fixed buffers.
//! * A byte is copied by nobody but the kernel and the cipher: records are sealed from the caller's bytes, and
//!   opened into the memory of the block that they belong to.
//! * What came whole before something that ends the connection is given out before the error.
//! * [`Receiver::next`] may be cancelled at any time without losing anything. A cancelled send either queued its
//!   frame whole or not at all, and a later send or the keepalive task writes the rest.
//! * A living peer is heard at least every third of the idle timeout, so silence means that it is gone.
//!
//! Sockets keep the kernel's automatic buffer sizes: a fixed `SO_SNDBUF` is cut to `net.core.wmem_max`, which is
//! below what the kernel grows to by itself.

mod establish;
mod handshake;
mod receiver;
mod sender;
mod socket;

pub use establish::{Accepted, Connection, Settings, accept, accept_with, connect, connect_with};
pub use receiver::Receiver;
pub use sender::Sender;

pub(crate) use establish::{Ends, open_socket};
pub(crate) use handshake::handshake;
pub(crate) use sender::Writer;

use crate::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What both directions of a connection share.
pub(crate) struct Shared {
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

impl Shared {
    pub(crate) fn new(peer: String) -> Self {
        Self {
            peer,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            pong_due: AtomicBool::new(false),
            nudge: Notify::new(),
            dead: CancellationToken::new(),
        }
    }

    fn tls_error(&self, error: rustls::Error) -> Error {
        Error::tls(&self.peer, error)
    }
}
