//! Asynchronous NBD (Network Block Device): a client for reading the exports of QEMU, and a small read-only
//! server that lets QEMU stand on a recovery point.
//!
//! ```text
//! Client --clone--> callers            listener --accept--> one task per connection
//!    | requests (bounded channel)         | negotiate (options), then requests
//!    v                                    v
//! connection task: writer + reader     Source::read / Source::status, a bounded number at a time
//!    |                                    |
//!  socket  <------ NBD protocol ------>  socket
//! ```
//!
//! What is built is the part of the protocol that standin needs, after the specification of the NBD project
//! (`doc/proto.md`): fixed newstyle negotiation, structured replies, one meta context per connection, reads and
//! block status. There is no writing, no TLS (QEMU is on the same host, behind a unix socket) and no extended
//! headers.
//!
//! # Invariants
//!
//! - Every byte of a read comes from exactly one chunk of the reply, or the read fails.
//! - A block status covers exactly the range that was asked for, or fails.
//! - Memory is only taken for what this side asked for, or for lengths checked against a fixed bound.
//! - A peer that breaks the protocol ends the connection: every request on it, pending or later, fails with the
//!   same sentence. Nothing that arrives after the violation is believed.
//! - Dropping the future of a request leaves the connection usable.

#![forbid(unsafe_code)]

mod assemble;
mod client;
mod connection;
mod error;
mod extents;
mod handshake;
mod proto;
mod reader;
mod server;
mod target;
mod zero;

pub use client::Client;
pub use error::Error;
pub use extents::{StatusExtent, merge};
pub use handshake::BlockSizes;
pub use server::{Server, Source};
pub use target::{Address, Target};

/// The meta context of allocation: [`FLAG_HOLE`] and [`FLAG_ZERO`].
pub const CONTEXT_ALLOCATION: &str = "base:allocation";
/// In [`CONTEXT_ALLOCATION`]: nothing is allocated there.
pub const FLAG_HOLE: u32 = 1;
/// In [`CONTEXT_ALLOCATION`]: the range reads as zeros.
pub const FLAG_ZERO: u32 = 2;
/// In a [`dirty_context`]: the range was written since the bitmap began to record.
pub const FLAG_DIRTY: u32 = 1;
/// The most bytes one read may ask for, whatever the server allows: 32 MiB, QEMU's own bound.
pub const MAX_READ: u32 = 32 << 20;

/// The name of the meta context in which QEMU exports the dirty bitmap `bitmap`.
#[must_use]
pub fn dirty_context(bitmap: &str) -> String {
    format!("qemu:dirty-bitmap:{bitmap}")
}
