//! The token: everything a new host needs to find and to know the host that will sign for it, in one line.
//!
//! ```text
//! "standin1." base64url( id 8 | secret 16 | SHA-256 of ca.crt 32
//!                        | n, name of the signing host | count, (n, address) ... | CRC-32 of all before )
//! ```
//!
//! The CRC is for people: a line that lost its end is told from a token that was not honoured.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

const PREFIX: &str = "standin1.";
/// Longer than any token: text is checked before it is decoded.
const MAX_TEXT: usize = 4096;
const MAX_ADDRESSES: usize = 8;
/// Says for what a key was derived from the secret.
const CONTEXT: &str = "standin 2026 enrolment: proof of a token's secret, v1";

/// Text that is no token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("this is no enrolment token: {0}")]
pub struct TokenError(pub &'static str);

/// A one-time token. Debug does not show the secret; Display shows the whole token, which is one.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: [u8; 8],
    secret: [u8; 16],
    authority: [u8; 32],
    host: String,
    addresses: Vec<String>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("id", &self.id())
            .field("host", &self.host)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// A fresh token. `authority` is the SHA-256 of the authority's certificate in hexadecimal, `host` a name in
    /// the certificate of the host that signs, `addresses` where it is reached (`host:port`), the best first.
    ///
    /// # Errors
    /// [`TokenError`] if the fingerprint is none, or there are no or too many addresses.
    pub fn create(authority: &str, host: &str, addresses: &[String]) -> Result<Self, TokenError> {
        let texts_fit = addresses.iter().map(String::as_str).chain([host]).all(|text| text.len() <= 255);
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES || !texts_fit {
            return Err(TokenError("it needs 1 to 8 addresses of at most 255 characters"));
        }
        Ok(Self {
            id: rand::random(),
            secret: rand::random(),
            authority: from_hex(authority).ok_or(TokenError("the authority's fingerprint is no SHA-256"))?,
            host: host.to_owned(),
            addresses: addresses.to_vec(),
        })
    }

    /// Reads a token. The same as its `FromStr`.
    ///
    /// # Errors
    /// [`TokenError`], which says whether it was cut off or is something else.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let body = text.strip_prefix(PREFIX).ok_or(TokenError("it does not begin with \"standin1.\""))?;
        if body.len() > MAX_TEXT {
            return Err(TokenError("it is too long"));
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|_| TokenError("it was cut off or has characters that do not belong there"))?;
        let (bytes, crc) = bytes.split_last_chunk::<4>().ok_or(TokenError("it was cut off"))?;
        if crc32fast::hash(bytes) != u32::from_le_bytes(*crc) {
            return Err(TokenError("it was cut off or mistyped"));
        }
        Self::read(bytes).ok_or(TokenError("its parts do not fit together"))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk()?;
        let (secret, rest) = rest.split_first_chunk()?;
        let (authority, mut rest) = rest.split_first_chunk()?;
        let host = take_text(&mut rest)?;
        let (count, tail) = rest.split_first()?;
        rest = tail;
        let count = usize::from(*count);
        if count == 0 || count > MAX_ADDRESSES {
            return None;
        }
        let addresses = (0..count).map(|_| take_text(&mut rest)).collect::<Option<_>>()?;
        rest.is_empty().then_some(Self { id: *id, secret: *secret, authority: *authority, host, addresses })
    }

    /// The number by which the signing host finds it. No secret.
    #[must_use]
    pub fn id(&self) -> String {
        hex(&self.id)
    }

    /// SHA-256 of the authority's certificate in hexadecimal.
    #[must_use]
    pub fn authority(&self) -> String {
        hex(&self.authority)
    }

    /// A name in the signing host's certificate.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Where the signing host is reached, the best first.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// What the signing host keeps: enough to check a proof, not enough to make the token again.
    pub(crate) fn key(&self) -> [u8; 32] {
        blake3::derive_key(CONTEXT, &self.secret)
    }
}

/// The proof that whoever made `request` holds the secret behind `key`. Everything that decides what is signed is
/// in it.
pub(super) fn proof(key: &[u8; 32], id: &str, names: &[String], request: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(key);
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(id.as_bytes());
    part(&(names.len() as u64).to_le_bytes());
    names.iter().for_each(|name| part(name.as_bytes()));
    part(request);
    hasher.finalize()
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::new();
        bytes.extend(self.id);
        bytes.extend(self.secret);
        bytes.extend(self.authority);
        put_text(&mut bytes, &self.host);
        bytes.push(u8::try_from(self.addresses.len()).unwrap_or(u8::MAX));
        self.addresses.iter().for_each(|address| put_text(&mut bytes, address));
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Token {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        Self::parse(text)
    }
}

/// `create` has checked that the length fits.
fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    bytes.extend(text.as_bytes());
}

fn take_text(bytes: &mut &[u8]) -> Option<String> {
    let (length, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    *bytes = rest;
    let text = String::from_utf8(text.to_vec()).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let addresses = ["a.example:7110".to_owned(), "[::1]:7110".to_owned()];
        Token::create(&"ab".repeat(32), "a.example", &addresses).unwrap()
    }

    #[test]
    fn a_token_survives_being_printed() {
        let token = token();
        let text = token.to_string();
        assert!(!text.contains(char::is_whitespace));
        assert_eq!(Token::parse(&format!("  {text}\n")).unwrap(), token);
    }

    #[test]
    fn a_token_that_lost_or_changed_a_character_is_told_from_a_good_one() {
        let text = token().to_string();
        for end in 0..text.len() {
            assert!(Token::parse(&text[..end]).is_err(), "cut to {end} characters");
        }
        for at in PREFIX.len()..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(Token::parse(&changed).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let token = token();
        let shown = format!("{token:?}");
        assert!(!shown.contains(&hex(&token.secret)) && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_proof_covers_id_names_and_request() {
        let key = token().key();
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let good = proof(&key, "1", &names(&["ab", "c"]), b"request");
        assert_eq!(good, proof(&key, "1", &names(&["ab", "c"]), b"request"));
        assert_ne!(good, proof(&key, "2", &names(&["ab", "c"]), b"request"));
        assert_ne!(good, proof(&key, "1", &names(&["a", "bc"]), b"request"));
        assert_ne!(good, proof(&key, "1", &names(&["ab"]), b"crequest"));
        assert_ne!(good, proof(&key, "1", &names(&["ab", "c"]), b"requesu"));
        assert_ne!(good, proof(&token().key(), "1", &names(&["ab", "c"]), b"request"));
    }
}
