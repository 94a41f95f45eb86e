//! How a connection comes about: TCP, TLS, hello. Bounded in time and size until the peer is known.
//!
//! ```text
//!  connect                                   accept
//!     │ ── TCP, TLS 1.3, certificates ── ALPN ─┤
//!     │                                        ├── "standin-enroll/1" ──> Accepted::Enrolment
//!     │ ── Hello ──>                <── Hello ─┤   "standin/1": a client certificate is required
//!     │   versions meet?      versions meet?   │
//!     │ <── Goodbye with a sentence, if not ── │
//!  Connection                             Accepted::Replication
//! ```

use crate::enroll;
use crate::error::{Error, tame};
use crate::frame::{Frame, Incoming, Kind};
use crate::hello::Hello;
use crate::link::handshake::{LINGER, handshake};
use crate::link::{Receiver, Sender};
use crate::tls::{ALPN_ENROLMENT, ALPN_REPLICATION, CertificateFacts, Identity, PeerIdentity, Tls, TlsFault};
use rustls_pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// Times of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// A peer that is silent for longer is gone.
    pub idle_timeout: Duration,
    /// TCP, TLS and hello together end within this time.
    pub handshake_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { idle_timeout: Duration::from_secs(30), handshake_timeout: Duration::from_secs(10) }
    }
}

/// A connection between two hosts that know each other.
pub struct Connection {
    ends: Ends,
    peer: PeerIdentity,
    hello: Hello,
    version: u16,
}

impl Connection {
    /// Who the peer is, proven by its certificate.
    #[must_use]
    pub const fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    /// What the peer says about itself.
    #[must_use]
    pub const fn peer_hello(&self) -> &Hello {
        &self.hello
    }

    /// The protocol version both agreed on.
    #[must_use]
    pub const fn version(&self) -> u16 {
        self.version
    }

    /// The next frame, as [`Receiver::next`] gives it: for whoever must see the first one before it knows what the
    /// connection is for. Safe to cancel.
    ///
    /// # Errors
    /// As [`Receiver::next`].
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        self.ends.receiver.next().await
    }

    pub(crate) const fn in_memory(ends: Ends, peer: PeerIdentity, hello: Hello, version: u16) -> Self {
        Self { ends, peer, hello, version }
    }

    /// The two directions, to be used by two tasks.
    #[must_use]
    pub fn split(self) -> (Sender, Receiver) {
        (self.ends.sender, self.ends.receiver)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What a connection to the port turned out to be.
#[derive(Debug)]
pub enum Accepted {
    /// A host that wants to replicate. What it may do is up to the caller.
    Replication(Connection),
    /// A host that wants a certificate: hand it to [`enroll::serve`], or drop it.
    Enrolment(enroll::Session),
}

/// Connects to `address` (`host:port`) with the default [`Settings`].
///
/// # Errors
/// See [`connect_with`].
pub async fn connect(address: &str, identity: &Identity, hello: Hello) -> Result<Connection, Error> {
    connect_with(address, identity, hello, &Settings::default()).await
}

/// Connects to `address` (`host:port`), verifies that the certificate there is from a trusted authority and for
/// that host, and agrees on a protocol version.
///
/// # Errors
/// [`Error::Connect`], [`Error::Tls`], [`Error::Version`], [`Error::Refused`] with the peer's sentence,
/// [`Error::Slow`] after the handshake timeout, and what [`Receiver::next`] can return.
pub async fn connect_with(
    address: &str,
    identity: &Identity,
    hello: Hello,
    settings: &Settings,
) -> Result<Connection, Error> {
    let establishing = async {
        let (stream, name) = open_socket(address).await?;
        let tls = Tls::client(identity.current().client.clone(), name)
            .map_err(|error| tls_error(address, error))?;
        let ends = handshake(stream, tls, settings).await?;
        let peer = ends.peer()?.ok_or_else(|| no_certificate(address))?;
        let (ends, theirs, version) = greet(ends, &hello).await?;
        Ok(Connection { ends, peer, hello: theirs, version })
    };
    within(settings, "connecting", establishing).await
}

/// Answers a connection that a listener took, with the default [`Settings`].
///
/// # Errors
/// See [`accept_with`].
pub async fn accept(stream: TcpStream, identity: &Identity, hello: Hello) -> Result<Accepted, Error> {
    accept_with(stream, identity, hello, &Settings::default()).await
}

/// Answers a connection that a listener took. Call it in a task of its own: until it returns, the other side may
/// be anybody, and it may be slow.
///
/// # Errors
/// [`Error::Tls`] for something that is not TLS or whose certificate is not accepted (it is told why),
/// [`Error::Version`], [`Error::Slow`], and what [`Receiver::next`] can return.
pub async fn accept_with(
    stream: TcpStream,
    identity: &Identity,
    hello: Hello,
    settings: &Settings,
) -> Result<Accepted, Error> {
    let establishing = async {
        let address = stream.peer_addr().map_err(|source| Error::Io { verb: "accept", source })?.to_string();
        let tls =
            Tls::server(identity.current().server.clone()).map_err(|error| tls_error(&address, error))?;
        let ends = handshake(stream, tls, settings).await?;
        let peer = ends.peer()?;
        if ends.alpn.as_deref() == Some(ALPN_ENROLMENT) {
            return Ok(Accepted::Enrolment(enroll::Session::new(ends, peer)));
        }
        let peer = match peer {
            Some(peer) if ends.alpn.as_deref() == Some(ALPN_REPLICATION) => peer,
            Some(_) => {
                return Err(ends
                    .turn_away("this port speaks only the protocol of standin", TlsFault::NoCommonProtocol)
                    .await);
            }
            None => {
                return Err(ends
                    .turn_away(
                        "replication needs a certificate and none was presented; enrol this host first",
                        TlsFault::NoCertificate,
                    )
                    .await);
            }
        };
        let (ends, theirs, version) = greet(ends, &hello).await?;
        Ok(Accepted::Replication(Connection { ends, peer, hello: theirs, version }))
    };
    within(settings, "the handshake of a connecting host", establishing).await
}

async fn within<T>(
    settings: &Settings,
    what: &'static str,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let after = settings.handshake_timeout;
    tokio::time::timeout(after, work).await.unwrap_or(Err(Error::Slow { what, after }))
}

fn tls_error(peer: &str, error: rustls::Error) -> Error {
    Error::tls(peer, error)
}

fn no_certificate(peer: &str) -> Error {
    Error::Tls { peer: peer.to_owned(), fault: TlsFault::NoCertificate, source: None }
}

/// Opens TCP to `host:port` and gives the name that the certificate there must carry.
pub(crate) async fn open_socket(address: &str) -> Result<(TcpStream, ServerName<'static>), Error> {
    let refused = |source| Error::Connect { address: address.to_owned(), source };
    let invalid = || refused(io::Error::new(io::ErrorKind::InvalidInput, "the address is not HOST:PORT"));
    let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port: u16 = port.parse().map_err(|_| invalid())?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| invalid())?;
    let stream = TcpStream::connect((host, port)).await.map_err(refused)?;
    Ok((stream, name))
}

/// Both directions of a connection whose TLS is up.
pub(crate) struct Ends {
    pub sender: Sender,
    pub receiver: Receiver,
    pub(super) alpn: Option<Vec<u8>>,
    pub(super) chain: Vec<rustls_pki_types::CertificateDer<'static>>,
    pub(super) address: SocketAddr,
}

impl Ends {
    /// Ends without TLS, and so without certificates.
    pub const fn in_memory(sender: Sender, receiver: Receiver, address: SocketAddr) -> Self {
        Self { sender, receiver, alpn: None, chain: Vec::new(), address }
    }

    /// What the peer's certificate says. TLS has verified it.
    fn peer(&self) -> Result<Option<PeerIdentity>, Error> {
        let Some(leaf) = self.chain.first() else { return Ok(None) };
        match CertificateFacts::read(leaf) {
            Ok(facts) => Ok(Some(facts.at(self.address))),
            Err(reason) => Err(Error::Frame { reason: format!("the peer's certificate: {reason}") }),
        }
    }

    /// The certificates the peer presented, its own first.
    pub fn chain(&self) -> &[rustls_pki_types::CertificateDer<'static>] {
        &self.chain
    }

    /// Where the peer is.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells the peer why it is refused, and gives the error for this side.
    async fn turn_away(self, reason: &str, fault: TlsFault) -> Error {
        let error = Error::Tls { peer: self.address.to_string(), fault, source: None };
        self.refuse(reason).await;
        error
    }

    /// Says a goodbye with a sentence and waits a moment for the peer to read it.
    pub async fn refuse(self, reason: &str) {
        let Self { sender, mut receiver, address, .. } = self;
        if let Err(error) = sender.refuse(reason).await {
            tracing::debug!(peer = %address, %error, "the refusal could not be delivered");
        }
        receiver.drain(LINGER).await;
    }
}

/// Exchanges hellos. Both sides send theirs before they read, so a refusal never hides the range of the refuser.
async fn greet(mut ends: Ends, ours: &Hello) -> Result<(Ends, Hello, u16), Error> {
    let sent = ends.sender.internal(Kind::Hello, &ours.to_bytes()?).await;
    // A peer that refused this host's certificate has hung up: what it said is worth more than "broken pipe".
    let theirs = match (read_hello(&mut ends).await, sent) {
        (Err(refused @ (Error::Tls { .. } | Error::Refused { .. })), _) => return Err(refused),
        (_, Err(broken)) => return Err(broken),
        (Err(Error::Frame { reason }), Ok(())) => {
            ends.refuse(&reason).await;
            return Err(Error::Frame { reason });
        }
        (theirs, Ok(())) => theirs?,
    };
    let Some(version) = ours.versions().common(theirs.versions()) else {
        let (ours, theirs, peer) = (ours.versions(), theirs.versions(), theirs.host);
        ends.refuse(&format!("it speaks protocol versions {ours} and not {theirs}")).await;
        return Err(Error::Version { peer, ours, theirs });
    };
    ends.receiver.open_wide();
    Ok((ends, theirs, version))
}

async fn read_hello(ends: &mut Ends) -> Result<Hello, Error> {
    match ends.receiver.next_incoming().await? {
        Some(Incoming::Hello(body)) => Ok(Hello::parse(&body)?),
        Some(Incoming::Goodbye(reason)) => Err(Error::Refused { reason: tame(&reason) }),
        Some(_) => Err(Error::Frame { reason: "it does not begin with a hello".to_owned() }),
        None => Err(Error::Closed { mid_frame: false }),
    }
}
