//! Hashes of passwords: Argon2id, written as a PHC string (`$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH`).
//!
//! The parameters of new hashes are the ones that OWASP's cheat sheet on password storage names first: 19 MiB,
//! two passes, one lane. A hash from elsewhere may have others within [`MAX_MEMORY_KIB`] and [`MAX_PASSES`]: a
//! file must not be able to take the daemon's memory.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use std::fmt;
use subtle::ConstantTimeEq as _;
use thiserror::Error;

/// What a new hash costs: memory in KiB.
const MEMORY_KIB: u32 = 19_456;
/// What a new hash costs: passes over the memory.
const PASSES: u32 = 2;
/// The most memory that a hash in the file may ask for, in KiB.
pub const MAX_MEMORY_KIB: u32 = 65_536;
/// The most passes that a hash in the file may ask for.
pub const MAX_PASSES: u32 = 16;
/// The longest password, in bytes.
pub const MAX_PASSWORD: usize = 1024;

/// A hash that cannot be made or read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum HashError {
    /// It is no PHC string of Argon2id.
    #[error("it is not an argon2id hash as `standin user passwd` writes them")]
    Malformed,
    /// Its parameters would cost too much.
    #[error("its parameters are above {MAX_MEMORY_KIB} KiB, {MAX_PASSES} passes or 4 lanes")]
    TooCostly,
    /// The password is empty or too long.
    #[error("a password has 1 to {MAX_PASSWORD} bytes")]
    Length,
    /// Argon2 itself refused.
    #[error("the password cannot be hashed: {0}")]
    Argon2(String),
}

/// The hash of a password. Debug shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

impl PasswordHash {
    /// Hashes a password with a fresh salt. Takes tens of milliseconds.
    ///
    /// # Errors
    /// [`HashError::Length`], [`HashError::Argon2`].
    pub fn of(password: &str) -> Result<Self, HashError> {
        if password.is_empty() || password.len() > MAX_PASSWORD {
            return Err(HashError::Length);
        }
        let salt: [u8; 16] = rand::random();
        let mut new =
            Self { memory_kib: MEMORY_KIB, passes: PASSES, lanes: 1, salt: salt.to_vec(), hash: vec![0; 32] };
        new.hash = new.compute(password)?;
        Ok(new)
    }

    /// A hash of no password, for users that there are none of: to compare with it costs as much.
    #[must_use]
    pub fn decoy() -> Self {
        Self {
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            lanes: 1,
            salt: rand::random::<[u8; 16]>().to_vec(),
            hash: rand::random::<[u8; 32]>().to_vec(),
        }
    }

    /// Whether it is the hash of this password; compared in constant time. Takes as long as [`PasswordHash::of`],
    /// and must not run on an asynchronous thread.
    ///
    /// # Errors
    /// [`HashError::Argon2`].
    pub fn matches(&self, password: &str) -> Result<bool, HashError> {
        let password = if password.len() > MAX_PASSWORD { "" } else { password };
        let computed = self.compute(password)?;
        Ok(bool::from(computed.ct_eq(&self.hash)) && !password.is_empty())
    }

    fn compute(&self, password: &str) -> Result<Vec<u8>, HashError> {
        let refused = |error: argon2::Error| HashError::Argon2(error.to_string());
        let mut out = vec![0; self.hash.len()];
        let params =
            Params::new(self.memory_kib, self.passes, self.lanes, Some(out.len())).map_err(refused)?;
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password.as_bytes(), &self.salt, &mut out)
            .map_err(refused)?;
        Ok(out)
    }

    /// Reads a PHC string.
    ///
    /// # Errors
    /// [`HashError::Malformed`], [`HashError::TooCostly`].
    pub fn parse(text: &str) -> Result<Self, HashError> {
        let mut parts = text.split('$');
        let fixed = [parts.next(), parts.next(), parts.next()];
        let (Some(params), Some(salt), Some(hash), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(HashError::Malformed);
        };
        if fixed != [Some(""), Some("argon2id"), Some("v=19")] {
            return Err(HashError::Malformed);
        }
        let (mut memory_kib, mut passes, mut lanes) = (0, 0, 0);
        for param in params.split(',') {
            let (name, value) = param.split_once('=').ok_or(HashError::Malformed)?;
            let value: u32 = value.parse().map_err(|_| HashError::Malformed)?;
            match name {
                "m" => memory_kib = value,
                "t" => passes = value,
                "p" => lanes = value,
                _ => return Err(HashError::Malformed),
            }
        }
        if memory_kib > MAX_MEMORY_KIB || passes > MAX_PASSES || lanes > 4 {
            return Err(HashError::TooCostly);
        }
        let bytes = |text: &str| STANDARD_NO_PAD.decode(text).map_err(|_| HashError::Malformed);
        let (salt, hash) = (bytes(salt)?, bytes(hash)?);
        let sizes = (8..=64).contains(&salt.len()) && (16..=64).contains(&hash.len());
        if !sizes || passes == 0 || lanes == 0 || memory_kib < 8 * lanes {
            return Err(HashError::Malformed);
        }
        Ok(Self { memory_kib, passes, lanes, salt, hash })
    }

    /// As a PHC string.
    #[must_use]
    pub fn to_phc(&self) -> String {
        let Self { memory_kib, passes, lanes, salt, hash } = self;
        let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
        format!("$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${hash}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_matches_and_the_text_form_keeps_that() {
        let hash = PasswordHash::of("correct horse").unwrap();
        let again = PasswordHash::parse(&hash.to_phc()).unwrap();
        assert_eq!(hash, again);
        assert!(again.matches("correct horse").unwrap());
        for wrong in ["", "correct hors", "correct horsE", &"x".repeat(MAX_PASSWORD + 1)] {
            assert!(!again.matches(wrong).unwrap(), "{wrong}");
        }
        assert!(!PasswordHash::decoy().matches("correct horse").unwrap());
    }

    #[test]
    fn the_hash_of_no_user_costs_what_a_user_s_hash_costs() {
        // The cost is in the parameters and sizes; times would depend on what else the machine does.
        let cost = |hash: &PasswordHash| {
            (hash.memory_kib, hash.passes, hash.lanes, hash.salt.len(), hash.hash.len())
        };
        assert_eq!(cost(&PasswordHash::decoy()), cost(&PasswordHash::of("secret").unwrap()));
    }

    #[test]
    fn a_known_hash_of_the_reference_implementation_matches() {
        // echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1 -l 24 -e, from the reference's README parameters
        // (m = 65536 KiB, t = 2, p = 1): test vector of phc-winner-argon2, src/test.c, version 0x13, Argon2id.
        let hash = PasswordHash::parse(
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        )
        .unwrap();
        assert!(hash.matches("password").unwrap());
        assert!(!hash.matches("differentpassword").unwrap());
    }

    #[test]
    fn hashes_that_are_none_or_cost_too_much_are_refused() {
        for (text, error) in [
            ("", HashError::Malformed),
            ("secret", HashError::Malformed),
            (
                "$argon2i$v=19$m=4096,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8",
                HashError::Malformed,
            ),
            (
                "$argon2id$v=19$m=4096,t=0,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8",
                HashError::Malformed,
            ),
            (
                "$argon2id$v=19$m=4294967295,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y",
                HashError::TooCostly,
            ),
            ("$argon2id$v=19$m=4096,t=99,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y", HashError::TooCostly),
        ] {
            assert_eq!(PasswordHash::parse(text), Err(error), "{text}");
        }
    }
}
