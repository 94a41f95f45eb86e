//! One log-in: the challenge, and the check of the answer to it.

use super::NtHash;
use super::crypto::{Rc4, hmac_md5};
use super::messages::{self, Authenticate, MIC_AT, challenge, find_pair, flag, pair, push_pair, utf16};
use super::session::Session;
use subtle::ConstantTimeEq as _;
use thiserror::Error;

/// The longest message that is looked at.
const MAX_MESSAGE: usize = 16 << 10;

/// Why a message was refused. For the log; the client hears only that it was.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum NtlmError {
    #[error("the NTLM message is malformed")]
    Malformed,
    #[error("the NTLM messages came out of order")]
    OutOfOrder,
    #[error("anonymous log-ins are refused")]
    Anonymous,
    #[error("the client uses LM or NTLMv1; only NTLMv2 is accepted")]
    TooOld,
    #[error("the client does not offer 128 bit keys with extended session security")]
    TooWeak,
    #[error(
        "the user is unknown, has no hash for NTLM (standin user passwd --ntlm), or the password is wrong"
    )]
    WrongProof,
    #[error("the messages were altered on their way (MIC)")]
    Altered,
    #[error("the log-in belongs to another TLS connection (channel bindings)")]
    OtherChannel,
}

/// What the server calls itself in the challenge. Clients take it as a hint only.
#[derive(Debug, Clone)]
pub struct Names {
    /// Up to 15 characters, upper case.
    pub computer: String,
    /// The host's name.
    pub dns: String,
}

impl Names {
    /// From the name of the host.
    #[must_use]
    pub fn of_host(host: &str) -> Self {
        let first = host.split('.').next().unwrap_or(host);
        Self { computer: first.chars().take(15).collect::<String>().to_uppercase(), dns: host.to_owned() }
    }
}

/// A client that has proven who it is.
pub struct Proven {
    /// Signing and sealing with it.
    pub session: Session,
    /// The client protected its messages by a MIC.
    pub had_mic: bool,
}

/// The server's half of one log-in. A message of another connection's log-in does not fit: the challenge is
/// drawn anew for each.
pub struct Acceptor {
    negotiate: Vec<u8>,
    challenge: Vec<u8>,
    server_challenge: [u8; 8],
    flags: u32,
}

impl Acceptor {
    /// Answers a NEGOTIATE message with a challenge.
    ///
    /// # Errors
    /// [`NtlmError::OutOfOrder`], [`NtlmError::Malformed`].
    pub fn begin(message: &[u8], names: &Names) -> Result<(Self, Vec<u8>), NtlmError> {
        Self::begin_with(message, names, rand::random(), file_time())
    }

    pub(super) fn begin_with(
        message: &[u8],
        names: &Names,
        server_challenge: [u8; 8],
        time: u64,
    ) -> Result<(Self, Vec<u8>), NtlmError> {
        if message.len() > MAX_MESSAGE {
            return Err(NtlmError::Malformed);
        }
        match messages::kind(message) {
            Some(1) => {}
            Some(3) => return Err(NtlmError::OutOfOrder),
            _ => return Err(NtlmError::Malformed),
        }
        let asked = messages::negotiate_flags(message).ok_or(NtlmError::Malformed)?;
        // What the client may have of what it asked for, and what every challenge has.
        let mirrored = flag::SIGN
            | flag::SEAL
            | flag::KEY_128
            | flag::KEY_56
            | flag::KEY_EXCHANGE
            | flag::VERSION
            | flag::REQUEST_TARGET;
        let flags = asked & mirrored
            | flag::UNICODE
            | flag::NTLM
            | flag::ALWAYS_SIGN
            | flag::EXTENDED_SECURITY
            | flag::TARGET_INFO
            | flag::TARGET_TYPE_SERVER;
        let mut pairs = Vec::new();
        for (id, name) in [
            (pair::NB_DOMAIN, &names.computer),
            (pair::NB_COMPUTER, &names.computer),
            (pair::DNS_DOMAIN, &names.dns),
            (pair::DNS_COMPUTER, &names.dns),
        ] {
            push_pair(&mut pairs, id, &utf16(name));
        }
        // With a time in the challenge the client has to protect its messages by a MIC.
        push_pair(&mut pairs, pair::TIMESTAMP, &time.to_le_bytes());
        push_pair(&mut pairs, pair::END, &[]);
        let challenge = challenge(flags, server_challenge, &names.computer, &pairs);
        let acceptor =
            Self { negotiate: message.to_vec(), challenge: challenge.clone(), server_challenge, flags };
        Ok((acceptor, challenge))
    }

    /// Whom an AUTHENTICATE message says it is of, before anything of it is checked.
    ///
    /// # Errors
    /// [`NtlmError::Malformed`], [`NtlmError::Anonymous`].
    pub fn claimed(message: &[u8]) -> Result<String, NtlmError> {
        if message.len() > MAX_MESSAGE {
            return Err(NtlmError::Malformed);
        }
        let read = Authenticate::read(message).ok_or(NtlmError::Malformed)?;
        if read.user.is_empty() || read.nt_response.is_empty() || read.flags & flag::ANONYMOUS != 0 {
            return Err(NtlmError::Anonymous);
        }
        Ok(read.user)
    }

    /// Checks an AUTHENTICATE message. `bindings` is the MD5 of the channel bindings of this connection, if it
    /// has any; a client that gives none is let in, as on Windows by default.
    ///
    /// # Errors
    /// Why not. An unknown user (`hash` is `None`) takes the same path as a wrong password.
    pub fn finish(
        self,
        message: &[u8],
        hash: Option<&NtHash>,
        bindings: Option<[u8; 16]>,
    ) -> Result<Proven, NtlmError> {
        Self::claimed(message)?;
        let read = Authenticate::read(message).ok_or(NtlmError::Malformed)?;
        // The proof of 16 bytes, then at least the fixed part of what it proves (2.2.2.7).
        let Some((proof, blob)) = read.nt_response.split_at_checked(16).filter(|(_, blob)| blob.len() >= 28)
        else {
            return Err(NtlmError::TooOld);
        };
        let pairs = blob.get(28..).ok_or(NtlmError::Malformed)?;
        let decoy = NtHash([0; 16]);
        let key_of_user = response_key(hash.unwrap_or(&decoy), &read.user, &read.domain);
        let expected = hmac_md5(&key_of_user, &[&self.server_challenge, blob]);
        if hash.is_none() || !bool::from(expected.ct_eq(proof)) {
            return Err(NtlmError::WrongProof);
        }
        let flags = self.flags & read.flags;
        let base_key = hmac_md5(&key_of_user, &[&expected]);
        let key = exported_key(flags, base_key, read.session_key)?;
        let protected =
            find_pair(pairs, pair::FLAGS).and_then(|value| messages::u32_at(value, 0)).unwrap_or(0);
        let had_mic = protected & 2 != 0;
        if had_mic {
            self.check_mic(message, &read, &key)?;
        }
        check_bindings(find_pair(pairs, pair::CHANNEL_BINDINGS), bindings)?;
        Ok(Proven { session: Session::new(&key, flags), had_mic })
    }

    fn check_mic(&self, message: &[u8], read: &Authenticate<'_>, key: &[u8; 16]) -> Result<(), NtlmError> {
        let mic = read.mic.ok_or(NtlmError::Malformed)?;
        let (before, after) = (&message[..MIC_AT], &message[MIC_AT + 16..]);
        let expected = hmac_md5(key, &[&self.negotiate, &self.challenge, before, &[0; 16], after]);
        if bool::from(expected.ct_eq(mic)) { Ok(()) } else { Err(NtlmError::Altered) }
    }
}

/// NTOWFv2 (3.3.2).
pub(super) fn response_key(hash: &NtHash, user: &str, domain: &str) -> [u8; 16] {
    hmac_md5(&hash.0, &[&utf16(&user.to_uppercase()), &utf16(domain)])
}

/// The key that messages are sealed with (3.4.5.1): drawn by the client, or made of the proof.
fn exported_key(flags: u32, base_key: [u8; 16], encrypted: &[u8]) -> Result<[u8; 16], NtlmError> {
    if flags & flag::KEY_128 == 0 && flags & (flag::SIGN | flag::SEAL) != 0 {
        return Err(NtlmError::TooWeak);
    }
    if flags & flag::KEY_EXCHANGE == 0 || flags & (flag::SIGN | flag::SEAL) == 0 && encrypted.is_empty() {
        return Ok(base_key);
    }
    let mut key: [u8; 16] = encrypted.try_into().map_err(|_| NtlmError::Malformed)?;
    Rc4::new(&base_key).apply(&mut key);
    Ok(key)
}

/// Bindings that a client gives must be those of this connection. On a connection without TLS there are none to
/// compare with, and a client that saw TLS there talked to somebody in between.
fn check_bindings(given: Option<&[u8]>, own: Option<[u8; 16]>) -> Result<(), NtlmError> {
    match given {
        None => Ok(()),
        Some(given) if bool::from(given.ct_eq(&[0; 16])) => Ok(()),
        Some(given) => {
            let own = own.ok_or(NtlmError::OtherChannel)?;
            if bool::from(given.ct_eq(&own)) { Ok(()) } else { Err(NtlmError::OtherChannel) }
        }
    }
}

/// Now, in units of 100 ns since 1601 (MS-DTYP 2.3.3).
fn file_time() -> u64 {
    const TO_1970: u64 = 116_444_736_000_000_000;
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    TO_1970 + u64::try_from(since.as_nanos() / 100).unwrap_or(0)
}
