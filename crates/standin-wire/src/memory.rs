//! Connections without TCP and TLS: a double for tests of whatever speaks over a [`Connection`].
//!
//! The frames, their limits, the order, the back-pressure, the signs of life and the idle timeout are those of the real
//! path; what is missing is the network, the cipher and the proof of who the peer is: each end says what its
//! certificate would. Everything waits on tokio's clock, so a test may pause it. Make one inside a runtime.
//!
//! ```text
//!   first ── Forth ──>  [ frames that wait, at most ROOM bytes ]  ──> second
//!         <── Back ──                                             ──
//! ```
//!
//! A [`Cable`] does to a connection what networks do: it ends it ([`Cable::cut`]), or one direction of it stands still
//! ([`Cable::hold`]) or loses what is sent ([`Cable::lose`]). In the latter two cases neither end is told, as with a
//! one-way failure of a real network: an end that hears nothing gives up after its idle timeout.
//!
//! [`Network`] is hosts with addresses, and the cables between them.

mod network;

pub use network::Network;

use crate::error::Error;
use crate::hello::Hello;
use crate::link::{Connection, Ends, Receiver, Sender, Settings, Shared, Writer};
use crate::tls::{PeerIdentity, sha256_hex};
use bytes::Bytes;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Bytes that a direction holds for a peer that does not read, as a socket's buffers do. A frame that begins below is
/// taken whole.
const ROOM: usize = 1 << 20;

/// Who one end is.
#[derive(Debug, Clone)]
pub struct End {
    /// What its certificate would prove.
    pub identity: PeerIdentity,
    /// How it introduces itself.
    pub hello: Hello,
}

impl End {
    /// A host whose certificate carries these names, seen at `address`, and valid for ever.
    #[must_use]
    pub fn new(names: &[&str], address: SocketAddr, hello: Hello) -> Self {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let fingerprint = sha256_hex(names.join(" ").as_bytes());
        let identity = PeerIdentity { names, fingerprint, address, not_after: jiff::Timestamp::MAX };
        Self { identity, hello }
    }
}

/// One of the two directions of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the first end to the second: from whoever connected.
    Forth,
    /// From the second end to the first.
    Back,
}

impl Direction {
    const BOTH: [Self; 2] = [Self::Forth, Self::Back];

    const fn other(self) -> Self {
        match self {
            Self::Forth => Self::Back,
            Self::Back => Self::Forth,
        }
    }
}

/// What a direction does with what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Flow {
    #[default]
    Free,
    Held,
    Lost,
}

#[derive(Default)]
struct Lane {
    queue: VecDeque<Bytes>,
    queued: usize,
    flow: Flow,
    /// Nothing more will be put in.
    ended: bool,
    /// Nobody takes anything out any more.
    abandoned: bool,
}

#[derive(Default)]
struct Wire {
    lanes: Mutex<[Lane; 2]>,
    readable: [Notify; 2],
    writable: [Notify; 2],
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, [Lane; 2]> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        for notify in self.readable.iter().chain(&self.writable) {
            notify.notify_one();
        }
    }
}

/// A handle on what lies between the two ends.
#[derive(Clone)]
pub struct Cable(Arc<Wire>);

impl Cable {
    /// Ends the connection for both ends, without a goodbye. What had arrived can still be read.
    pub fn cut(&self) {
        for lane in self.0.lock().iter_mut() {
            if lane.flow != Flow::Free {
                lane.queue.clear();
                lane.queued = 0;
            }
            (lane.flow, lane.ended, lane.abandoned) = (Flow::Free, true, true);
        }
        self.0.wake();
    }

    /// What is sent in this direction waits, and arrives when it may [`Cable::flow`] again.
    pub fn hold(&self, direction: Direction) {
        self.set(direction, Flow::Held);
    }

    /// What is sent in this direction is lost, and the sender does not notice.
    pub fn lose(&self, direction: Direction) {
        self.set(direction, Flow::Lost);
    }

    /// This direction works again.
    pub fn flow(&self, direction: Direction) {
        self.set(direction, Flow::Free);
    }

    pub(crate) fn set(&self, direction: Direction, flow: Flow) {
        self.0.lock()[direction as usize].flow = flow;
        self.0.wake();
    }

    /// Both ends are gone, or the connection was cut.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.lock().iter().all(|lane| lane.ended && lane.abandoned)
    }
}

/// Where a sender puts bytes.
pub(crate) struct LaneIn {
    wire: Arc<Wire>,
    direction: Direction,
}

impl LaneIn {
    /// Takes the bytes, when there is room for them. Cancelled, it has taken nothing.
    pub(crate) async fn put(&mut self, bytes: Bytes) -> Result<(), Error> {
        let at = self.direction as usize;
        loop {
            {
                let mut lanes = self.wire.lock();
                // That the reader is gone is known only from what comes back.
                let told = lanes[self.direction.other() as usize].flow == Flow::Free;
                let lane = &mut lanes[at];
                if lane.ended || (lane.abandoned && told) {
                    return Err(Error::Closed { mid_frame: false });
                }
                if lane.flow == Flow::Lost {
                    return Ok(());
                }
                if lane.queued < ROOM {
                    lane.queued += bytes.len();
                    lane.queue.push_back(bytes);
                    self.wire.readable[at].notify_one();
                    return Ok(());
                }
            }
            self.wire.writable[at].notified().await;
        }
    }

    /// Nothing more will come.
    pub(crate) fn end(&mut self) {
        let at = self.direction as usize;
        let lane = &mut self.wire.lock()[at];
        // Where everything is lost, so is the news of the end.
        lane.ended |= lane.flow != Flow::Lost;
        self.wire.readable[at].notify_one();
    }
}

impl Drop for LaneIn {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where a receiver takes bytes from.
pub(crate) struct LaneOut {
    wire: Arc<Wire>,
    direction: Direction,
}

impl LaneOut {
    /// The next bytes, or nothing after the end. Safe to cancel.
    pub(crate) async fn take(&mut self) -> Option<Bytes> {
        let at = self.direction as usize;
        loop {
            {
                let lane = &mut self.wire.lock()[at];
                if lane.flow == Flow::Free {
                    if let Some(bytes) = lane.queue.pop_front() {
                        lane.queued -= bytes.len();
                        self.wire.writable[at].notify_one();
                        return Some(bytes);
                    }
                    if lane.ended {
                        return None;
                    }
                }
            }
            self.wire.readable[at].notified().await;
        }
    }
}

impl Drop for LaneOut {
    fn drop(&mut self) {
        let at = self.direction as usize;
        self.wire.lock()[at].abandoned = true;
        self.wire.writable[at].notify_one();
    }
}

/// Two ends of a connection, as [`crate::connect`] and [`crate::accept`] give them, with the default [`Settings`].
///
/// # Errors
/// [`Error::Version`] if the hellos have no protocol version in common, as the first end is told.
pub fn pair(first: &End, second: &End) -> Result<(Connection, Connection, Cable), Error> {
    pair_with(first, second, &Settings::default())
}

/// The same, with an idle timeout of one's own.
///
/// # Errors
/// As [`pair`].
pub fn pair_with(
    first: &End,
    second: &End,
    settings: &Settings,
) -> Result<(Connection, Connection, Cable), Error> {
    let (ours, theirs) = (first.hello.versions(), second.hello.versions());
    let Some(version) = ours.common(theirs) else {
        return Err(Error::Version { peer: second.hello.host.clone(), ours, theirs });
    };
    let wire = Arc::new(Wire::default());
    let end = |peer: &End, sends: Direction| {
        let shared = Arc::new(Shared::new(peer.identity.address.to_string()));
        let into = LaneIn { wire: Arc::clone(&wire), direction: sends };
        let out = LaneOut { wire: Arc::clone(&wire), direction: sends.other() };
        let sender = Sender::new(Writer::in_memory(into, Arc::clone(&shared)), settings.idle_timeout);
        let receiver = Receiver::in_memory(out, shared, settings.idle_timeout);
        let ends = Ends::in_memory(sender, receiver, peer.identity.address);
        Connection::in_memory(ends, peer.identity.clone(), peer.hello.clone(), version)
    };
    let [forth, back] = Direction::BOTH;
    Ok((end(second, forth), end(first, back), Cable(wire)))
}
