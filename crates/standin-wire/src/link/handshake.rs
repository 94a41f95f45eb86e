//! TCP and TLS until data can flow. Bounded in size here, in time by the caller: the peer may be anybody.

use crate::error::Error;
use crate::frame::Assembler;
use crate::link::sender::Writer;
use crate::link::{Ends, Receiver, Sender, Settings, Shared, socket};
use crate::tls::{OutBuf, RECORD, State, Tls};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a refused peer may take to read why.
pub(super) const LINGER: Duration = Duration::from_millis(500);
/// Ciphertext read at once before the peer is known: somebody who sends rubbish costs no more than this.
const READ: usize = 2 * RECORD;

/// A connection whose handshake is under way.
struct Handshake {
    stream: TcpStream,
    tls: Tls,
    shared: Arc<Shared>,
    input: Vec<u8>,
    end: usize,
    out: OutBuf,
    /// Takes the data that came right behind the handshake.
    assembler: Assembler,
}

/// Brings TLS up. A peer that is refused gets the alert that says why.
pub(crate) async fn handshake(stream: TcpStream, tls: Tls, settings: &Settings) -> Result<Ends, Error> {
    socket::prepare(&stream).map_err(|source| Error::Io { verb: "set up", source })?;
    let address = stream.peer_addr().map_err(|source| Error::Io { verb: "set up", source })?;
    let shared = Arc::new(Shared::new(address.to_string()));
    let (input, out, assembler) = (vec![0; READ], OutBuf::default(), Assembler::new());
    let mut handshake = Handshake { stream, tls, shared, input, end: 0, out, assembler };
    loop {
        match handshake.step() {
            Ok(state) => {
                handshake.write().await?;
                if state == State::Open {
                    break;
                }
                handshake.read().await?;
            }
            Err(error) => {
                handshake.end().await;
                return Err(error);
            }
        }
    }
    let Handshake { stream, tls, shared, input, end, assembler, .. } = handshake;
    let (alpn, chain) = (tls.alpn().map(<[u8]>::to_vec), tls.peer_chain().to_vec());
    let (sealer, opener) = tls.into_records().map_err(|error| shared.tls_error(error))?;
    let (read, write) = stream.into_split();
    let receiver =
        Receiver::new(read, shared.clone(), opener, (input, end), assembler, settings.idle_timeout);
    let sender = Sender::new(Writer::new(write, shared, sealer), settings.idle_timeout);
    Ok(Ends { sender, receiver, alpn, chain, address })
}

impl Handshake {
    /// Gives what was read to TLS.
    fn step(&mut self) -> Result<State, Error> {
        let mut pushed = Ok(());
        let assembler = &mut self.assembler;
        let mut plain = |bytes: &[u8]| {
            if pushed.is_ok() {
                pushed = assembler.push(bytes);
            }
        };
        let (used, state) = self.tls.feed(&mut self.input[..self.end], &mut self.out, &mut plain);
        self.input.copy_within(used..self.end, 0);
        self.end -= used;
        pushed?;
        let state = state.map_err(|error| self.shared.tls_error(error))?;
        if self.end == self.input.len() {
            return Err(Error::Frame { reason: "a TLS record is longer than allowed".to_owned() });
        }
        Ok(state)
    }

    async fn read(&mut self) -> Result<(), Error> {
        match self.stream.read(&mut self.input[self.end..]).await {
            Err(source) => Err(Error::Io { verb: "read from", source }),
            Ok(0) => Err(Error::Closed { mid_frame: false }),
            Ok(count) => {
                self.end += count;
                self.shared.received.fetch_add(count as u64, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    async fn write(&mut self) -> Result<(), Error> {
        let count = self.out.pending().len();
        let written = self.stream.write_all(self.out.pending()).await;
        written.map_err(|source| Error::Io { verb: "write to", source })?;
        self.out.consume(count);
        self.shared.sent.fetch_add(count as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Delivers the alert, and reads on until the peer hangs up: closing a socket with unread data makes the
    /// kernel reset the connection, and the alert would be lost.
    async fn end(mut self) {
        if let Err(error) = self.write().await {
            tracing::debug!(peer = %self.shared.peer, %error, "the alert could not be delivered");
        }
        if let Err(error) = self.stream.shutdown().await {
            tracing::debug!(peer = %self.shared.peer, %error, "the connection was gone already");
        }
        drain(&mut self.stream, &mut self.input, &self.shared.peer, LINGER).await;
    }
}

/// Reads without looking until the peer hangs up, within a time and a size.
pub(super) async fn drain(
    tcp: &mut (impl tokio::io::AsyncRead + Unpin),
    buffer: &mut [u8],
    peer: &str,
    within: Duration,
) {
    let mut left = 1_usize << 20;
    let draining = async {
        while left > 0 {
            match tcp.read(buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    };
    if tokio::time::timeout(within, draining).await.is_err() {
        tracing::debug!(%peer, "the refused peer does not hang up");
    }
}
