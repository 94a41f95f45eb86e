//! Users: who they are, how they prove it, and what they may do.
//!
//! ```text
//! standin user add ... ──> UsersFile ── users.toml (0600) ──> Directory ──> auth
//!                          (locked, replaced whole)           (in RAM, looks at the file once a second)
//! ```
//!
//! Names compare without regard to case, as they do on Windows, and have no domain: in `HOST\alice` and
//! `alice@realm` only `alice` counts (see [`names`]).

pub mod directory;
pub mod file;
pub mod hash;
pub mod names;

pub use directory::Directory;
pub use file::{NewUser, UsersError, UsersFile};
pub use hash::PasswordHash;

use crate::auth::ntlm::NtHash;
use standin_cim::Role;
use std::fmt;
use std::sync::Arc;

/// A user as the file has him.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// As it was spelled when he was added; the audit log shows it so.
    pub name: Arc<str>,
    /// What he may do.
    pub role: Role,
    /// The hash of his password; without one he comes by certificate or Kerberos only.
    pub password: Option<PasswordHash>,
    /// The hash that NTLM needs. It is worth as much as the password, so it is kept only when asked for.
    pub nt_hash: Option<NtHash>,
    /// The client certificates that are his.
    pub certificates: Vec<CertificateMatch>,
    /// His Kerberos principal, as `alice@EXAMPLE.ORG`; compared with regard to case, as Kerberos does.
    pub principal: Option<String>,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

/// Which certificate belongs to a user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CertificateMatch {
    /// The one with this SHA-256, 64 lower-case hexadecimal digits.
    Fingerprint(String),
    /// Every one with this subject from an authority that the listener trusts, as `CN=alice, O=Example`.
    Subject(String),
}

impl CertificateMatch {
    /// Reads a fingerprint (with or without colons) or a subject.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        if digits.len() == 64 && digits.chars().all(|c| c.is_ascii_hexdigit()) {
            return Some(Self::Fingerprint(digits.to_ascii_lowercase()));
        }
        let subject = text.len() <= 512 && text.contains('=') && !text.chars().any(char::is_control);
        subject.then(|| Self::Subject(normal_subject(text)))
    }
}

impl fmt::Display for CertificateMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fingerprint(text) | Self::Subject(text) => f.write_str(text),
        }
    }
}

/// One spelling of a subject: parts separated by `, `.
pub(crate) fn normal_subject(text: &str) -> String {
    text.split(',').map(str::trim).collect::<Vec<_>>().join(", ")
}

/// The role of that name.
#[must_use]
pub fn parse_role(text: &str) -> Option<Role> {
    [Role::Viewer, Role::Operator, Role::Administrator].into_iter().find(|role| role.as_str() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_with_and_without_colons_and_in_any_case() {
        let plain = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        assert_eq!(CertificateMatch::parse(&plain), CertificateMatch::parse(&colons));
        assert_eq!(CertificateMatch::parse(&colons), Some(CertificateMatch::Fingerprint(plain)));
    }

    #[test]
    fn a_subject_is_read_and_anything_else_is_not() {
        assert_eq!(
            CertificateMatch::parse("CN=alice,O=Example"),
            Some(CertificateMatch::Subject("CN=alice, O=Example".to_owned()))
        );
        for text in ["", "alice", "abcdef", "CN=a\nb", &"g".repeat(64)] {
            assert_eq!(CertificateMatch::parse(text), None, "{text:?}");
        }
    }
}
