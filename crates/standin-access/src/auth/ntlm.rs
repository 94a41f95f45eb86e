//! NTLM version 2 as an acceptor: MS-NLMP, sections 2.2 (messages), 3.3 (proof), 3.4 (signing and sealing).
//!
//! Written here rather than taken from a library for its size: a general implementation of all of Windows'
//! security packages brings more than a hundred crates; what a server needs of NTLMv2 is a challenge, one proof to
//! check, and a stream cipher. The tests hold it against the examples of MS-NLMP and against other
//! implementations of clients.
//!
//! ```text
//! client                                server
//!   NEGOTIATE (flags)            ──>
//!                                <──     CHALLENGE (flags, 8 random bytes, names, time)
//!   AUTHENTICATE (user, proof,   ──>
//!     session key, MIC)                  proof, MIC and channel bindings are checked
//! ```
//!
//! What is refused: anonymous log-ins, LM and NTLMv1, 40 and 56 bit keys, session security without the extended
//! form. A user needs an NT hash in the users' file.

mod acceptor;
mod crypto;
mod messages;
mod session;

pub use acceptor::{Acceptor, Names, NtlmError, Proven};
pub use session::Session;

use crypto::md4;
use std::fmt;

/// The MD4 of a password in UTF-16: what NTLM takes for the password, and as secret as it. Debug shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct NtHash([u8; 16]);

impl fmt::Debug for NtHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NtHash")
    }
}

impl NtHash {
    /// The hash of a password.
    #[must_use]
    pub fn of(password: &str) -> Self {
        Self(md4(&messages::utf16(password)))
    }

    /// Reads 32 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        if text.len() != 32 || !text.is_ascii() {
            return None;
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        text.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(Self(bytes))
    }

    /// As 32 hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What NTLM has of channel bindings (MS-NLMP 2.2.2.1, MsvAvChannelBindings): the MD5 of the structure of RFC 2744,
/// 3.11, whose addresses are empty.
#[must_use]
pub fn bindings_of(application_data: &[u8]) -> [u8; 16] {
    let length = u32::try_from(application_data.len()).unwrap_or(u32::MAX);
    crypto::md5(&[&[0; 16], &length.to_le_bytes(), application_data])
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "sizes of small test data")]
mod tests;
