//! The handshake of TLS without any socket: what came in, what is to be sent, and in the end the two halves of
//! the record layer.
//!
//! The unbuffered interface of rustls is used: the caller owns the buffers, and only what belongs to the
//! handshake is taken from them. Data that came right behind it is given out too.

use super::records::{Opener, Sealer, Secrets, records};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, ExtractedSecrets, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use std::sync::Arc;

/// Room for what TLS may put before the data: an alert or a change of keys.
const SLACK: usize = 512;

/// Ciphertext that waits to be written. The memory stays initialised and is used again and again, so no byte
/// is zeroed only to be overwritten.
#[derive(Debug, Default)]
pub(crate) struct OutBuf {
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl OutBuf {
    pub fn pending(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// `count` bytes of the pending ones were written.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// At least `count` bytes behind what is pending.
    pub(super) fn spare(&mut self, count: usize) -> &mut [u8] {
        if self.memory.len() < self.end + count {
            self.memory.resize(self.end + count, 0);
        }
        &mut self.memory[self.end..]
    }

    /// The first `count` of the spare bytes are pending too now.
    pub(super) fn extend(&mut self, count: usize) {
        self.end += count;
    }
}

/// How far the connection is after it was fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The handshake needs more from the peer.
    Handshake,
    /// Data can flow.
    Open,
    /// The peer will send nothing more.
    PeerClosed,
}

/// The TLS state of a connection whose handshake is under way.
pub(crate) struct Tls {
    side: Side,
    /// Set by the first error. rustls must not be asked for more then: it may hold positions in a buffer that is
    /// not there any more.
    broken: bool,
}

enum Side {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What one step of the state machine led to.
enum Step {
    Again,
    Rest(State),
}

impl Tls {
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        let side = Side::Client(Box::new(UnbufferedClientConnection::new(config, name)?));
        Ok(Self { side, broken: false })
    }

    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let side = Side::Server(Box::new(UnbufferedServerConnection::new(config)?));
        Ok(Self { side, broken: false })
    }

    fn common(&self) -> &CommonState {
        match &self.side {
            Side::Client(connection) => connection,
            Side::Server(connection) => connection,
        }
    }

    /// The protocol that was agreed on.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    /// The peer's certificate and those it sent with it.
    pub fn peer_chain(&self) -> &[CertificateDer<'static>] {
        self.common().peer_certificates().unwrap_or_default()
    }

    /// Takes ciphertext from the beginning of `input`, gives plaintext to `plain`, and puts what TLS itself has to
    /// say into `out`. Returns how many bytes were used up; the rest is part of a record that is not whole.
    /// After an error `out` holds the alert for the peer, and nothing more can be done with the connection.
    pub fn feed(
        &mut self,
        input: &mut [u8],
        out: &mut OutBuf,
        plain: &mut dyn FnMut(&[u8]),
    ) -> (usize, Result<State, Error>) {
        if self.broken {
            return (0, Err(gone()));
        }
        let mut used = 0;
        let result = loop {
            let (discard, step) = self.step(&mut input[used..], out, plain);
            used += discard;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Rest(State::Open)) if holds_a_record(&input[used..]) => break Err(fragmented()),
                Ok(Step::Rest(state)) => break Ok(state),
                Err(error) => break Err(error),
            }
        };
        if result.is_err() {
            self.broken = true;
            self.queue_alert(out);
        }
        (used, result)
    }

    fn step(
        &mut self,
        input: &mut [u8],
        out: &mut OutBuf,
        plain: &mut dyn FnMut(&[u8]),
    ) -> (usize, Result<Step, Error>) {
        match &mut self.side {
            Side::Client(connection) => step(connection.process_tls_records(input), out, plain),
            Side::Server(connection) => step(connection.process_tls_records(input), out, plain),
        }
    }

    /// Takes from TLS what it wants to tell the peer after an error, and asks it for nothing else.
    fn queue_alert(&mut self, out: &mut OutBuf) {
        while self.common().wants_write() {
            let (_, Ok(_)) = self.step(&mut [], out, &mut |_| {}) else { return };
        }
    }

    /// The two halves of the record layer, once the state was [`State::Open`] and all that TLS had to say is in a
    /// buffer.
    pub fn into_records(self) -> Result<(Sealer, Opener), Error> {
        if self.broken {
            return Err(gone());
        }
        let (ExtractedSecrets { tx, rx }, secrets) = match self.side {
            Side::Client(connection) => {
                let (secrets, rest) = connection.dangerous_into_kernel_connection()?;
                (secrets, Secrets::Client(rest))
            }
            Side::Server(connection) => {
                let (secrets, rest) = connection.dangerous_into_kernel_connection()?;
                (secrets, Secrets::Server(rest))
            }
        };
        records(tx, rx, secrets)
    }
}

fn gone() -> Error {
    Error::General("the connection has failed before".to_owned())
}

/// A handshake message in more than one record behind the handshake. Nobody sends that: what remains of the
/// handshake then is a change of keys, which is five bytes.
fn fragmented() -> Error {
    Error::General("the peer sent part of a handshake message after the handshake".to_owned())
}

/// Whether bytes that were not used up begin with a whole record.
fn holds_a_record(rest: &[u8]) -> bool {
    const HEADER: usize = 5;
    match rest.first_chunk::<HEADER>() {
        Some([.., high, low]) => rest.len() >= HEADER + usize::from(u16::from_be_bytes([*high, *low])),
        None => false,
    }
}

fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    out: &mut OutBuf,
    plain: &mut dyn FnMut(&[u8]),
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Step::Again),
                Some(Err(error)) => break Err(error),
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain(record.payload);
                }
            }
        },
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Rest(State::Handshake)),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Rest(State::Open)),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Rest(State::PeerClosed)),
        Ok(other) => speak(other, out).map(|()| Step::Again),
    };
    (discard, step)
}

/// Puts what TLS itself has to say into `out`. The caller writes `out` in order, so "transmitted" is true as soon
/// as it is there.
fn speak<Data>(state: ConnectionState<'_, '_, Data>, out: &mut OutBuf) -> Result<(), Error> {
    match state {
        ConnectionState::TransmitTlsData(transmit) => transmit.done(),
        ConnectionState::EncodeTlsData(mut encode) => {
            let mut room = SLACK;
            loop {
                match encode.encode(out.spare(room)) {
                    Ok(count) => {
                        out.end += count;
                        break;
                    }
                    Err(EncodeError::InsufficientSize(size)) if size.required_size > room => {
                        room = size.required_size;
                    }
                    Err(error) => return Err(Error::General(error.to_string())),
                }
            }
        }
        other => return Err(Error::General(format!("unexpected state of TLS: {other:?}"))),
    }
    Ok(())
}
