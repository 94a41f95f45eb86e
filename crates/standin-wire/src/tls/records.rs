//! The record layer of TLS 1.3 once the handshake is done (RFC 8446, sections 4.6.3, 5 and 6).
//!
//! rustls does the handshake and derives the keys; the records are made and opened here, because rustls copies
//! every byte twice while it seals. Here a record is sealed from the caller's bytes into the buffer that is
//! written, and opened from the buffer that was read into the memory where its data is to stay, without a copy.
//!
//! Invariants:
//! * A number of a record is used once with a key: [`Sealer`] and [`Opener`] own theirs and only count up.
//! * Keys are changed before the cipher's limit, and whenever the peer asks for it; requests of the peer are
//!   answered once, however many there are.
//! * Nothing of a record is given out before its tag was verified.
//! * After an error the half that met it must not be used any more.
//!
//! Used by both halves of [`crate::link`].

use super::session::OutBuf;
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ConnectionTrafficSecrets, Error, SupportedCipherSuite};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Largest plaintext of a record.
pub(crate) const RECORD: usize = 16 << 10;
const HEADER: usize = 5;
const TAG: usize = 16;
/// What a record may have more than its plaintext on the wire, by the RFC.
const MAX_EXPANSION: usize = 256;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// Derives the next keys.
pub(super) enum Secrets {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Secrets {
    fn suite(&self) -> SupportedCipherSuite {
        match self {
            Self::Client(connection) => connection.negotiated_cipher_suite(),
            Self::Server(connection) => connection.negotiated_cipher_suite(),
        }
    }

    fn next_to_seal(&mut self) -> Result<Keys, Error> {
        Keys::new(match self {
            Self::Client(connection) => connection.update_tx_secret()?,
            Self::Server(connection) => connection.update_tx_secret()?,
        })
    }

    fn next_to_open(&mut self) -> Result<Keys, Error> {
        Keys::new(match self {
            Self::Client(connection) => connection.update_rx_secret()?,
            Self::Server(connection) => connection.update_rx_secret()?,
        })
    }
}

/// What both directions share.
struct Shared {
    secrets: Mutex<Secrets>,
    /// The peer asked for a change of our keys.
    update_due: AtomicBool,
}

impl Shared {
    fn secrets(&self) -> std::sync::MutexGuard<'_, Secrets> {
        // Deriving keys leaves nothing half done that a later use could meet: at worst the peer cannot open it.
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both directions of a connection whose handshake is done.
pub(super) fn records(
    tx: (u64, ConnectionTrafficSecrets),
    rx: (u64, ConnectionTrafficSecrets),
    secrets: Secrets,
) -> Result<(Sealer, Opener), Error> {
    let suite = secrets.suite();
    let limit = suite.tls13().map_or(0, |suite| suite.common.confidentiality_limit);
    let shared = Arc::new(Shared { secrets: Mutex::new(secrets), update_due: AtomicBool::new(false) });
    Ok((
        Sealer { keys: Keys::new(tx)?, limit, shared: Arc::clone(&shared) },
        Opener { keys: Keys::new(rx)?, shared },
    ))
}

/// The key of a direction and the number of its next record.
struct Keys {
    key: LessSafeKey,
    iv: [u8; 12],
    number: u64,
}

impl Keys {
    fn new((number, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(unusable()),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| unusable())?;
        let iv = iv.as_ref().try_into().map_err(|_| unusable())?;
        Ok(Self { key: LessSafeKey::new(key), iv, number })
    }

    /// The nonce of the next record, which no other gets.
    fn nonce(&mut self) -> Result<Nonce, Error> {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.number.to_be_bytes()) {
            *byte ^= number;
        }
        self.number = self.number.checked_add(1).ok_or_else(unusable)?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

fn unusable() -> Error {
    Error::General("keys of the agreed cipher suite cannot be used".to_owned())
}

fn broken(what: &str) -> Error {
    Error::General(format!("the peer broke the rules of TLS: {what}"))
}

/// Makes records. Owned by the sending half.
pub(crate) struct Sealer {
    keys: Keys,
    /// Records after which the key must not be used any more.
    limit: u64,
    shared: Arc<Shared>,
}

impl Sealer {
    /// Encrypts `data` behind what is pending in `out`, in as many records as it takes.
    pub fn seal(&mut self, data: &[u8], out: &mut OutBuf) -> Result<(), Error> {
        self.answer(out)?;
        for piece in data.chunks(RECORD) {
            // The last record of a key is the one that says so.
            if self.keys.number + 1 >= self.limit {
                self.change_keys(out)?;
            }
            self.record(DATA, piece, out)?;
        }
        Ok(())
    }

    /// Says that nothing more will be sent.
    pub fn seal_end(&mut self, out: &mut OutBuf) -> Result<(), Error> {
        self.answer(out)?;
        // Level 1 is a warning, which this alert is by tradition.
        self.record(ALERT, &[1, CLOSE_NOTIFY], out)
    }

    /// Changes the keys if the peer asked for it.
    pub fn answer(&mut self, out: &mut OutBuf) -> Result<(), Error> {
        if self.shared.update_due.swap(false, Ordering::Relaxed) { self.change_keys(out) } else { Ok(()) }
    }

    fn change_keys(&mut self, out: &mut OutBuf) -> Result<(), Error> {
        // The zero at the end: the peer need not change its own.
        self.record(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], out)?;
        self.keys = self.shared.secrets().next_to_seal()?;
        Ok(())
    }

    fn record(&mut self, kind: u8, plain: &[u8], out: &mut OutBuf) -> Result<(), Error> {
        let sealed = plain.len() + 1 + TAG;
        let [high, low] = u16::try_from(sealed).map_err(|_| Error::EncryptError)?.to_be_bytes();
        let header = [DATA, 3, 3, high, low];
        let nonce = self.keys.nonce()?;
        let room = &mut out.spare(HEADER + sealed)[..HEADER + sealed];
        let (head, body) = room.split_at_mut(HEADER);
        head.copy_from_slice(&header);
        let (body, end) = body.split_at_mut(plain.len());
        let key = &self.keys.key;
        key.seal_out_of_place_scatter(nonce, Aad::from(header), plain, body, &[kind], end)
            .map_err(|_| Error::EncryptError)?;
        out.extend(HEADER + sealed);
        Ok(())
    }
}

/// Where opened data goes.
pub(crate) trait Sink {
    /// Memory of exactly `count` bytes for a piece of data that has up to `count - 1`, where the next data is to
    /// stay; what is written into it counts only after [`Sink::advance`]. None if there is no such place.
    fn place(&mut self, count: usize) -> Option<&mut [u8]>;
    /// The first `count` bytes of what the last [`Sink::place`] gave are data now.
    fn advance(&mut self, count: usize) -> Result<(), String>;
    /// Takes data that is somewhere else.
    fn push(&mut self, data: &[u8]) -> Result<(), String>;
}

/// What a record was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// Data, which is in the sink now; or something that changes nothing.
    Data,
    /// The peer wants our keys changed: somebody should call [`Sealer::answer`].
    UpdateDue,
    /// The peer will send nothing more.
    End,
}

/// Why a record was not taken.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// By TLS.
    Tls(Error),
    /// By the sink, with its reason.
    Sink(String),
}

impl From<Error> for OpenError {
    fn from(error: Error) -> Self {
        Self::Tls(error)
    }
}

/// Opens records. Owned by the receiving half.
pub(crate) struct Opener {
    keys: Keys,
    shared: Arc<Shared>,
}

impl Opener {
    /// Bytes of the record at the beginning of `input`, or nothing while it is not whole. Looked at before memory
    /// is filled, so a length that is not allowed is refused from the header alone.
    pub fn whole(input: &[u8]) -> Result<Option<usize>, Error> {
        let Some([kind, major, _, high, low]) = input.first_chunk::<HEADER>() else { return Ok(None) };
        if (*kind, *major) != (DATA, 3) {
            return Err(broken("a record that is not encrypted after the handshake"));
        }
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length > RECORD + MAX_EXPANSION {
            return Err(Error::PeerSentOversizedRecord);
        }
        if length < 1 + TAG {
            return Err(broken("a record that is too short"));
        }
        Ok((input.len() >= HEADER + length).then_some(HEADER + length))
    }

    /// Opens `record`, which [`Opener::whole`] has measured.
    pub fn open(&mut self, record: &mut [u8], sink: &mut dyn Sink) -> Result<Opened, OpenError> {
        let (header, body) = record.split_first_chunk_mut::<HEADER>().ok_or_else(|| broken("no record"))?;
        let count = body.len().checked_sub(TAG).ok_or_else(|| broken("a record that is too short"))?;
        let nonce = self.keys.nonce()?;
        let (key, aad) = (&self.keys.key, Aad::from(*header));
        if let Some(place) = sink.place(count) {
            let (sealed, tag) = body.split_at(count);
            key.open_separate_gather(nonce, aad, sealed, tag, place).map_err(|_| Error::DecryptError)?;
            let (kind, length) = inner(place)?;
            if kind == DATA {
                sink.advance(length).map_err(OpenError::Sink)?;
                return Ok(Opened::Data);
            }
            return Ok(self.control(kind, &place[..length])?);
        }
        let plain = key.open_in_place(nonce, aad, body).map_err(|_| Error::DecryptError)?;
        let (kind, length) = inner(plain)?;
        if kind == DATA {
            sink.push(&plain[..length]).map_err(OpenError::Sink)?;
            return Ok(Opened::Data);
        }
        Ok(self.control(kind, &plain[..length])?)
    }

    fn control(&mut self, kind: u8, content: &[u8]) -> Result<Opened, Error> {
        match (kind, content) {
            (ALERT, [_, CLOSE_NOTIFY]) => Ok(Opened::End),
            (ALERT, [_, USER_CANCELED]) => Ok(Opened::Data),
            (ALERT, [_, description]) => Err(Error::AlertReceived(AlertDescription::from(*description))),
            (HANDSHAKE, [KEY_UPDATE, 0, 0, 1, asked @ (0 | 1)]) => {
                self.keys = self.shared.secrets().next_to_open()?;
                if *asked == 0 {
                    return Ok(Opened::Data);
                }
                self.shared.update_due.store(true, Ordering::Relaxed);
                Ok(Opened::UpdateDue)
            }
            // No session is ever resumed.
            (HANDSHAKE, [NEW_SESSION_TICKET, a, b, c, ticket @ ..])
                if u32::from_be_bytes([0, *a, *b, *c]) as usize == ticket.len() =>
            {
                Ok(Opened::Data)
            }
            (HANDSHAKE, _) => {
                Err(broken("a handshake message after the handshake that is not a change of keys"))
            }
            _ => Err(broken("a record of a kind that has no place here")),
        }
    }
}

/// The kind and the length of what a decrypted record holds: behind it stand its kind and zeros to any length.
fn inner(plain: &[u8]) -> Result<(u8, usize), Error> {
    let end = plain.iter().rposition(|byte| *byte != 0).ok_or_else(|| broken("a record without a kind"))?;
    if end > RECORD {
        return Err(Error::PeerSentOversizedRecord);
    }
    Ok((plain[end], end))
}

#[cfg(test)]
mod tests;
