//! One log-in of one or more steps on one connection. Which kind it is shows in the first bytes, whatever the scheme in
//! the header is called.
//!
//! ```text
//!             ┌─ "NTLMSSP\0"     ── raw NTLM ──────────┐
//! first token ┤                  ┌─ NTLM ─────────────┴─> challenge ─> answer ─┐
//!             ├─ 0x60, SPNEGO ───┤                                             ├─> user, session keys
//!             │                  └─ Kerberos ─────────┬─> ticket ──────────────┘
//!             └─ 0x60, Kerberos ── bare Kerberos ─────┘
//! ```

use super::Channel;
use super::kerberos::{self, TicketError};
use super::ntlm::{self, NtlmError};
use super::spnego::{self, Init, Response, State};
use crate::users::{Directory, User};
use std::sync::Arc;
use thiserror::Error;

/// Why a log-in was refused. For the log.
#[derive(Debug, Error)]
pub(crate) enum NegotiateError {
    #[error("the message is neither NTLM nor SPNEGO")]
    Unknown,
    #[error("the SPNEGO message is malformed")]
    Malformed,
    #[error("the client offers no mechanism that is configured here")]
    NoMechanism,
    #[error("SPNEGO's list of mechanisms was altered on its way (MIC)")]
    ListAltered,
    #[error(transparent)]
    Ntlm(#[from] NtlmError),
    #[error(transparent)]
    Ticket(#[from] TicketError),
    #[error("no user has the Kerberos principal {0}; standin user add --principal gives one to somebody")]
    NoUser(String),
}

/// What log-ins are checked against.
#[derive(Clone, Copy)]
pub(crate) struct Against<'a> {
    pub channel: &'a Channel,
    pub directory: &'a Directory,
    pub names: &'a ntlm::Names,
    pub kerberos: Option<&'a kerberos::Acceptor>,
}

impl Against<'_> {
    fn end_point(&self) -> Option<&[u8]> {
        self.channel.tls.as_ref()?.end_point.as_deref()
    }
}

/// What messages after the log-in are sealed with.
pub(crate) enum Sealer {
    Ntlm(Box<ntlm::Session>),
    Kerberos(Box<kerberos::Context>),
}

impl Sealer {
    /// Decrypts a message and checks its signature; `None` if it does not fit.
    pub fn unseal(&mut self, signature: &[u8], data: Vec<u8>) -> Option<Vec<u8>> {
        match self {
            Self::Ntlm(session) => session.unseal(signature, data),
            Self::Kerberos(context) => context.unseal(signature, &data),
        }
    }

    /// Encrypts a message: signature and data.
    pub fn seal(&mut self, data: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        match self {
            Self::Ntlm(session) => {
                let (signature, sealed) = session.seal(data);
                Some((signature.to_vec(), sealed))
            }
            Self::Kerberos(context) => context.seal(data),
        }
    }
}

/// What a token led to.
pub(crate) enum Step {
    /// The client has to answer this.
    Continue { negotiation: Negotiation, reply: Vec<u8> },
    /// It is this user.
    Done { user: Arc<User>, proof: &'static str, sealer: Option<Sealer>, reply: Option<Vec<u8>> },
}

/// SPNEGO's list of mechanisms as the client sent it, which both sides can sign.
pub(crate) struct List {
    der: Vec<u8>,
    /// NTLM is not the client's favourite: without its signature somebody in between could have taken the
    /// favourite out.
    must_sign: bool,
}

/// A log-in that is under way.
#[derive(Default)]
pub(crate) enum Negotiation {
    /// Nothing was said yet.
    #[default]
    New,
    /// SPNEGO: NTLM was agreed on, its first message is to come.
    Agreed { list: List },
    /// The challenge is out.
    Challenged {
        acceptor: Box<ntlm::Acceptor>,
        /// `None` for raw NTLM.
        list: Option<List>,
    },
}

impl Negotiation {
    /// Whom the token claims to be of, if it says so: then a proof comes with it, and a failure counts.
    pub fn claims(&self, token: &[u8]) -> Option<String> {
        match self {
            Self::Challenged { list: None, .. } => ntlm::Acceptor::claimed(token).ok(),
            Self::Challenged { list: Some(_), .. } => {
                ntlm::Acceptor::claimed(Response::read(token)?.token?).ok()
            }
            Self::New | Self::Agreed { .. } => None,
        }
    }

    /// Takes the client's next token.
    pub fn step(self, token: &[u8], against: Against<'_>) -> Result<Step, NegotiateError> {
        let names = against.names;
        if token.starts_with(b"NTLMSSP\0") {
            return match self {
                Self::Challenged { acceptor, list: None } => finish(*acceptor, token, None, None, against),
                // Whoever begins again begins again.
                _ => begin_raw(token, names),
            };
        }
        match (self, token.first()) {
            (_, Some(0x60)) => match spnego::mechanism_of(token) {
                Some((spnego::KERBEROS, _)) => bare_kerberos(token, against),
                Some(_) => begin_spnego(token, against),
                None => Err(NegotiateError::Malformed),
            },
            (Self::Agreed { list }, Some(0xa1)) => {
                let response = Response::read(token).ok_or(NegotiateError::Malformed)?;
                challenge(response.token.ok_or(NegotiateError::Malformed)?, list, names)
            }
            (Self::Challenged { acceptor, list: Some(list) }, Some(0xa1)) => {
                let response = Response::read(token).ok_or(NegotiateError::Malformed)?;
                let answer = response.token.ok_or(NegotiateError::Malformed)?;
                finish(*acceptor, answer, Some(&list), response.mic, against)
            }
            (_, Some(0xa1)) => Err(NtlmError::OutOfOrder.into()),
            _ => Err(NegotiateError::Unknown),
        }
    }
}

fn begin_raw(token: &[u8], names: &ntlm::Names) -> Result<Step, NegotiateError> {
    let (acceptor, reply) = ntlm::Acceptor::begin(token, names)?;
    Ok(Step::Continue {
        negotiation: Negotiation::Challenged { acceptor: Box::new(acceptor), list: None },
        reply,
    })
}

/// The user of a ticket.
fn user_of_ticket(
    token: &[u8],
    against: Against<'_>,
) -> Result<(Arc<User>, kerberos::Accepted), NegotiateError> {
    let acceptor = against.kerberos.ok_or(NegotiateError::NoMechanism)?;
    let accepted = acceptor.accept(token, against.end_point())?;
    match against.directory.by_principal(&accepted.principal) {
        Some(user) => Ok((user, accepted)),
        None => Err(NegotiateError::NoUser(accepted.principal)),
    }
}

fn bare_kerberos(token: &[u8], against: Against<'_>) -> Result<Step, NegotiateError> {
    let (user, accepted) = user_of_ticket(token, against)?;
    let sealer = accepted.can_seal.then(|| Sealer::Kerberos(Box::new(accepted.context)));
    Ok(Step::Done { user, proof: "kerberos", sealer, reply: accepted.reply })
}

/// SPNEGO whose favourite is Kerberos, with the ticket in the first message: nothing is left to negotiate.
fn spnego_kerberos(mechanism: &[u8], token: &[u8], against: Against<'_>) -> Result<Step, NegotiateError> {
    let (user, accepted) = user_of_ticket(token, against)?;
    let reply = spnego::response(State::Completed, Some(mechanism), accepted.reply.as_deref(), None);
    let sealer = accepted.can_seal.then(|| Sealer::Kerberos(Box::new(accepted.context)));
    Ok(Step::Done { user, proof: "kerberos", sealer, reply: Some(reply) })
}

fn begin_spnego(token: &[u8], against: Against<'_>) -> Result<Step, NegotiateError> {
    let names = against.names;
    let init = Init::read(token).ok_or(NegotiateError::Malformed)?;
    let is_kerberos = |mechanism: &&[u8]| [spnego::KERBEROS, spnego::KERBEROS_WINDOWS].contains(mechanism);
    let favourite = init.mechanisms.first().copied().filter(is_kerberos);
    if let (Some(mechanism), Some(token), Some(_)) = (favourite, init.token, against.kerberos) {
        return spnego_kerberos(mechanism, token, against);
    }
    let position = init.mechanisms.iter().position(|mechanism| *mechanism == spnego::NTLM);
    let list = List { der: init.list.to_vec(), must_sign: position != Some(0) };
    match (position, init.token) {
        (None, _) => Err(NegotiateError::NoMechanism),
        (Some(0), Some(token)) => challenge(token, list, names),
        // The token, if there is one, is the favourite's and of no use.
        (Some(at), _) => {
            let state = if at == 0 { State::Incomplete } else { State::RequestMic };
            let reply = spnego::response(state, Some(spnego::NTLM), None, None);
            Ok(Step::Continue { negotiation: Negotiation::Agreed { list }, reply })
        }
    }
}

fn challenge(token: &[u8], list: List, names: &ntlm::Names) -> Result<Step, NegotiateError> {
    let (acceptor, challenge) = ntlm::Acceptor::begin(token, names)?;
    let reply = spnego::response(State::Incomplete, Some(spnego::NTLM), Some(&challenge), None);
    let negotiation = Negotiation::Challenged { acceptor: Box::new(acceptor), list: Some(list) };
    Ok(Step::Continue { negotiation, reply })
}

fn finish(
    acceptor: ntlm::Acceptor,
    answer: &[u8],
    list: Option<&List>,
    mic: Option<&[u8]>,
    against: Against<'_>,
) -> Result<Step, NegotiateError> {
    let name = ntlm::Acceptor::claimed(answer)?;
    let user = against.directory.by_name(&name);
    let hash = user.as_ref().and_then(|user| user.nt_hash.as_ref());
    let proven = acceptor.finish(answer, hash, against.end_point().map(ntlm::bindings_of))?;
    let mut session = proven.session;
    let reply = match (list, mic) {
        (None, _) => None,
        (Some(list), Some(mic)) => {
            let own = session.exchange_list_mic(&list.der, mic).ok_or(NegotiateError::ListAltered)?;
            Some(spnego::response(State::Completed, None, None, Some(&own)))
        }
        (Some(list), None) if list.must_sign => return Err(NegotiateError::ListAltered),
        (Some(_), None) => Some(spnego::response(State::Completed, None, None, None)),
    };
    // There is one: nobody's proof is accepted.
    let user = user.ok_or(NtlmError::WrongProof)?;
    let sealer = session.can_seal().then(|| Sealer::Ntlm(Box::new(session)));
    Ok(Step::Done { user, proof: "ntlm", sealer, reply })
}
