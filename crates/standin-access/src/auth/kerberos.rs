//! Kerberos 5 as an acceptor of one step: RFC 4120 (messages), RFC 4121 (its GSS-API), RFC 3962 (AES).
//!
//! Written here rather than bound to the system's GSS-API: that one takes its keytab from the environment of the
//! process, has to be there (with its headers and a C front end) wherever standin is built, and parses what
//! strangers send in C. What a server needs is to decrypt a ticket with its own key, an authenticator with the
//! ticket's, and to wrap messages. The tests hold it against MIT's KDC and clients, and against the standards' vectors.
//!
//! ```text
//! client                             this host
//!   ticket, encrypted with   ──AP-REQ──>  keytab decrypts the ticket: who, until when, session key
//!     this host's key;                    session key decrypts the authenticator: now, not seen before,
//!   authenticator                           channel bindings
//!                            <──AP-REP──  proves that this host could do that
//! ```
//!
//! Encryption types: AES with SHA-1 in both sizes (17 and 18), the ones that every KDC of the last fifteen years
//! issues. The keytab is read again when its file has changed: keys are rotated while the daemon runs. What is refused: DES and RC4, user-to-user, the three-step form of DCE, tickets that are not yet or no
//! longer valid, authenticators more than five minutes off or seen before.

mod context;
mod crypto;
mod keytab;
mod messages;

pub(crate) use context::Context;
pub use keytab::KerberosError;

use super::ntlm::bindings_of;
use super::{der, spnego};
use crypto::Key;
use keytab::KeytabFile;
use messages::{ApReq, Authenticator, Ticket};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use subtle::ConstantTimeEq as _;
use thiserror::Error;

/// How far clocks may be apart, in seconds (RFC 4120, 3.1.3: five minutes is usual).
const SKEW: i64 = 300;
/// The longest token.
const MAX_TOKEN: usize = 64 << 10;
/// The most authenticators remembered. Only holders of valid tickets get one in here.
const MAX_SEEN: usize = 65_536;

mod flag {
    pub const MUTUAL: u32 = 2;
    pub const CONFIDENTIAL: u32 = 16;
    pub const DCE: u32 = 0x1000;
}

/// Why a ticket was refused. For the log.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub(crate) enum TicketError {
    #[error("the Kerberos message is malformed")]
    Malformed,
    #[error("the ticket is for another service or another key of this one; renew the keytab")]
    WrongKey,
    #[error("the ticket or its session key has encryption type {0}; only AES (17 and 18) is accepted")]
    Encryption(i64),
    #[error("the ticket is not valid now; compare the clocks of client, KDC and this host")]
    NotNow,
    #[error("the authenticator is {0} s off; set the clocks of client and this host")]
    Skew(i64),
    #[error("the authenticator came before: somebody replays it")]
    Replayed,
    #[error("the log-in belongs to another TLS connection (channel bindings)")]
    OtherChannel,
    #[error("the client wants a form of Kerberos that is not offered ({0})")]
    Unsupported(&'static str),
}

/// A client that has proven who it is.
pub(crate) struct Accepted {
    /// As `alice@EXAMPLE.ORG`.
    pub principal: String,
    /// The GSS token of the AP-REP, if the client wants one.
    pub reply: Option<Vec<u8>>,
    /// Wrapping with it.
    pub context: Context,
    /// The client may seal its messages.
    pub can_seal: bool,
}

/// The acceptor: this host's keys, and what came lately.
#[derive(Debug)]
pub(crate) struct Acceptor {
    keytab: KeytabFile,
    seen: Mutex<HashMap<[u8; 32], i64>>,
}

impl Acceptor {
    /// Reads a keytab.
    pub fn open(path: &Path) -> Result<Self, KerberosError> {
        Ok(Self { keytab: KeytabFile::open(path)?, seen: Mutex::new(HashMap::new()) })
    }

    /// Takes a GSS token with an AP-REQ. `end_point` is the application data of the channel bindings.
    pub fn accept(&self, token: &[u8], end_point: Option<&[u8]>) -> Result<Accepted, TicketError> {
        self.accept_at(token, end_point, jiff::Timestamp::now())
    }

    fn accept_at(
        &self,
        token: &[u8],
        end_point: Option<&[u8]>,
        now: jiff::Timestamp,
    ) -> Result<Accepted, TicketError> {
        if token.len() > MAX_TOKEN {
            return Err(TicketError::Malformed);
        }
        let request = ap_req_of(token).and_then(ApReq::read).ok_or(TicketError::Malformed)?;
        if request.use_session_key {
            return Err(TicketError::Unsupported("user-to-user"));
        }
        let ticket = self.open_ticket(&request)?;
        let session =
            Key::new(ticket.key_type, &ticket.key).ok_or(TicketError::Encryption(ticket.key_type))?;
        let plain = session
            .decrypt(crypto::usage::AP_REQ_AUTHENTICATOR, request.authenticator)
            .ok_or(TicketError::Malformed)?;
        let authenticator = Authenticator::read(&plain).ok_or(TicketError::Malformed)?;
        check_times(&ticket, &authenticator, now.as_second())?;
        if authenticator.client != ticket.client {
            return Err(TicketError::Malformed);
        }
        let flags = check_bindings(&authenticator, end_point)?;
        if flags & flag::DCE != 0 {
            return Err(TicketError::Unsupported("DCE style"));
        }
        self.note(&request, now.as_second())?;
        let key = match &authenticator.subkey {
            Some((kind, key)) => Key::new(*kind, key).ok_or(TicketError::Encryption(*kind))?,
            None => session.clone(),
        };
        let mutual = request.mutual || flags & flag::MUTUAL != 0;
        let sequence = u32::from(rand::random::<u16>());
        let reply = mutual.then(|| {
            let part = messages::enc_ap_rep_part(&authenticator, sequence);
            let sealed = session.encrypt(crypto::usage::AP_REP, &part);
            gss_token(&[2, 0], &messages::ap_rep(session.kind(), &sealed))
        });
        let own = if mutual { sequence } else { authenticator.sequence };
        Ok(Accepted {
            principal: ticket.client,
            reply,
            context: Context::new(key, authenticator.sequence, own),
            can_seal: flags & flag::CONFIDENTIAL != 0,
        })
    }

    fn open_ticket(&self, request: &ApReq<'_>) -> Result<Ticket, TicketError> {
        if !Key::knows(request.ticket_type) {
            return Err(TicketError::Encryption(request.ticket_type));
        }
        // The service's name in the ticket is not believed: the key that fits is the service.
        let keytab = self.keytab.current();
        let plain = keytab
            .keys(request.ticket_type)
            .find_map(|key| key.decrypt(crypto::usage::TICKET, request.ticket))
            .ok_or(TicketError::WrongKey)?;
        Ticket::read(&plain).ok_or(TicketError::Malformed)
    }

    /// Notes an authenticator; refuses it the second time.
    fn note(&self, request: &ApReq<'_>, now: i64) -> Result<(), TicketError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(request.ticket).update(request.authenticator);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_SEEN {
            // Older ones would be refused for their age.
            seen.retain(|_, at| now - *at <= 2 * SKEW);
        }
        if seen.len() >= MAX_SEEN || seen.insert(*hasher.finalize().as_bytes(), now).is_some() {
            return Err(TicketError::Replayed);
        }
        Ok(())
    }
}

/// The AP-REQ in a GSS token (RFC 4121, 4.1).
fn ap_req_of(token: &[u8]) -> Option<&[u8]> {
    let (mechanism, content) = spnego::mechanism_of(token)?;
    if mechanism != spnego::KERBEROS {
        return None;
    }
    content.strip_prefix(&[1, 0])
}

fn gss_token(kind: &[u8; 2], message: &[u8]) -> Vec<u8> {
    der::write(0x60, &[&der::write(0x06, &[spnego::KERBEROS]), kind, message])
}

fn check_times(ticket: &Ticket, authenticator: &Authenticator, now: i64) -> Result<(), TicketError> {
    if ticket.start > now + SKEW || ticket.end < now - SKEW || ticket.invalid {
        return Err(TicketError::NotNow);
    }
    let off = authenticator.seconds.saturating_sub(now);
    if off.abs() > SKEW { Err(TicketError::Skew(off)) } else { Ok(()) }
}

/// Checks the channel bindings in the authenticator (RFC 4121, 4.1.1); gives the flags beside them.
fn check_bindings(authenticator: &Authenticator, end_point: Option<&[u8]>) -> Result<u32, TicketError> {
    let Some(checksum) = &authenticator.checksum else { return Err(TicketError::Malformed) };
    let (Some(length), Some(given), Some(flags)) =
        (checksum.get(..4), checksum.get(4..20), checksum.get(20..24))
    else {
        return Err(TicketError::Malformed);
    };
    if length != [16, 0, 0, 0] {
        return Err(TicketError::Malformed);
    }
    if !bool::from(given.ct_eq(&[0; 16])) {
        let own = bindings_of(end_point.ok_or(TicketError::OtherChannel)?);
        if !bool::from(given.ct_eq(&own)) {
            return Err(TicketError::OtherChannel);
        }
    }
    Ok(u32::from_le_bytes([flags[0], flags[1], flags[2], flags[3]]))
}

#[cfg(test)]
mod tests;
