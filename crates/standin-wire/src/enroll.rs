//! How a new host gets its certificate: by a token that one person carries from one host to the other.
//!
//! ```text
//!  host A, has the authority                              host B, new
//!  Registry::create ── token (a line of text, once) ──>   Token::parse
//!                                                         makes its key
//!  accept ─ ALPN "standin-enroll/1" <──── TLS ─────────── pins A's authority by the token's fingerprint
//!  serve:  token known, in time, unused?  <── request ──  signing request, proof = MAC(token's secret, request)
//!          marks it used, durably
//!          signs for the names of the token ── answer ──> checks that all fits, writes its directory
//! ```
//!
//! Invariants:
//! * The secret never crosses the network, and A keeps only a key derived from it.
//! * A token makes one certificate at most: it is marked used on disk before the certificate is sent. If that
//!   is lost on its way, the remedy is a new token.
//! * The names in the certificate are those the administrator of A gave to the token; B can take fewer, not
//!   others.
//! * B talks to nobody but the authority of its token: the fingerprint is checked within the TLS handshake.
//!
//! A host that has a certificate gets its next one the same way, with the certificate itself in place of the
//! token ([`renew`]).

mod client;
mod pin;
mod registry;
mod server;
mod token;

pub use client::{renew, request};
pub use registry::{MAX_TRIES, Registry};
pub use server::{Report, Session, serve};
pub use token::{Token, TokenError};

use crate::error::Error;
use crate::pki::PkiError;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a host asks for. Binary data is base64.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
enum Ask {
    /// A first certificate.
    Enrol { id: String, names: Vec<String>, request: String, proof: String },
    /// The next certificate, for the names of the one that TLS has verified.
    Renew { request: String },
}

/// What it gets, all PEM.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    certificate: String,
    authority: String,
    trusted: String,
}

/// Why a token was not honoured. The sentence is for the host that asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Denied {
    /// No such token, or its proof is wrong: whoever guesses is told no more.
    #[error("the token is not known here or was changed; make a new one with `standin enroll --new NAME`")]
    Unknown,
    /// Too many wrong proofs.
    #[error("the token was tried with wrong proofs too often and is void; make a new one")]
    Void,
    /// It made a certificate already.
    #[error("the token was used already; make a new one")]
    Used,
    /// It is too old.
    #[error("the token has expired; make a new one")]
    Expired,
    /// A renewal without a certificate.
    #[error("a renewal needs the certificate that is to be renewed; enrol with a token instead")]
    NoCertificate,
    /// A renewal with a certificate of another authority.
    #[error("the certificate to be renewed was not issued here; enrol with a token instead")]
    NotOurs,
    /// The host asked for names that the token is not for.
    #[error("the token is for {allowed} and not for {asked}")]
    Names {
        /// The names of the token.
        allowed: String,
        /// The name that is not among them.
        asked: String,
    },
}

/// What can go wrong while a host enrols or renews.
#[derive(Debug, Error)]
pub enum EnrollError {
    /// The token is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The connection, or what the other side said.
    #[error(transparent)]
    Wire(#[from] Error),
    /// The files of this host.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The request was not granted; the other host was told the same.
    #[error("the host that asks for a certificate was refused: {0}")]
    Denied(#[from] Denied),
}

impl EnrollError {
    /// What to do now, a full sentence.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Token(_) => "Copy the whole line that `standin enroll --new NAME` printed.".to_owned(),
            Self::Wire(error) => error.remedy(),
            Self::Pki(error) => error.remedy().to_owned(),
            Self::Denied(_) => {
                "Nothing, unless the host is yours; then make it a new token with `standin enroll --new NAME`.".to_owned()
            }
        }
    }
}
