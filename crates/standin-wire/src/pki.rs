//! The built-in certificate authority: a directory that one host makes (`standin pki init`) and others get a
//! part of by enrolling.
//!
//! ```text
//! pki/                         the host that ran init        a host that enrolled
//!   ca.key       0600          the authority's key           -
//!   ca.crt                     the authority                 the authority it enrolled with
//!   former.crt                 its authorities before that  -
//!   cross.crt                  ca.crt's key signed by the    -
//!                              authority before it
//!   trusted.crt                authorities it trusts         the same
//!   host.key     0600          its own key                   its own key, made there, never sent
//!   host.crt                   its certificate and ca.crt    its certificate and ca.crt
//!   enrolments.json 0600       tokens that wait              -
//!   lock                       held while any of these is replaced
//! ```
//!
//! Invariants:
//! * Each file is replaced as a whole, durably, by [`standin_durable::Files`].
//! * `host.key` and `host.crt` belong together. Both are written beside the old ones first, then the key is
//!   renamed, then the certificate; [`PkiDir::recover`] finishes or undoes a replacement that was interrupted.
//! * A new authority is trusted beside the old one ([`PkiDir::rotate_authority`]) until the old one is removed
//!   from trusted.crt, so hosts can renew one after the other while replication goes on.

mod authority;
mod dir;
mod export;
mod names;

pub use authority::{Authority, Issued};
pub use dir::{PkiDir, Summary};
pub use export::MAX_EXPORT;
pub use names::{CertificateName, check_names};

pub(crate) use authority::HostKey;

use standin_durable::{DocumentError, FileError};
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// How long an authority is valid.
pub const AUTHORITY_DAYS: u32 = 3650;
/// How long a host's certificate is valid unless said otherwise.
pub const HOST_DAYS: u32 = 365;

/// Makes a certificate authority in `dir` and a certificate for this host under `host_names`. The same as
/// [`PkiDir::init`].
///
/// # Errors
/// As [`PkiDir::init`].
pub fn init(dir: impl Into<PathBuf>, host_names: &[String], force: bool) -> Result<Summary, PkiError> {
    PkiDir::new(dir).init(host_names, force)
}

/// What can go wrong with certificates on disk.
#[derive(Debug, Error)]
pub enum PkiError {
    /// There is one already.
    #[error("{} exists already", .path.display())]
    Exists {
        /// The file that would be lost.
        path: PathBuf,
    },
    /// This host has no authority of its own.
    #[error("this host has no certificate authority ({} is missing)", .path.display())]
    NoAuthority {
        /// The key that would be there.
        path: PathBuf,
    },
    /// This host is an authority itself.
    #[error("this host has a certificate authority of its own ({})", .path.display())]
    OwnAuthority {
        /// Its key.
        path: PathBuf,
    },
    /// A name that cannot stand in a certificate.
    #[error("the host name {name:?} cannot be used: {reason}")]
    Name {
        /// The name, cut to 64 characters.
        name: String,
        /// What is allowed.
        reason: &'static str,
    },
    /// A file could not be read or written.
    #[error("cannot {verb} {}", .path.display())]
    Io {
        /// What was being done.
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The file of the tokens cannot be read or written.
    #[error(transparent)]
    Tokens(DocumentError),
    /// A passphrase that cannot be used.
    #[error("the passphrase cannot be used: {reason}")]
    Passphrase {
        /// Why.
        reason: &'static str,
    },
    /// A certificate, key or request that cannot be used.
    #[error("{what} cannot be used: {reason}")]
    Unusable {
        /// Which one.
        what: String,
        /// Why.
        reason: String,
    },
}

impl From<FileError> for PkiError {
    fn from(error: FileError) -> Self {
        Self::Io { verb: error.verb, path: error.path, source: error.source }
    }
}

impl From<DocumentError> for PkiError {
    fn from(error: DocumentError) -> Self {
        match error {
            DocumentError::File(error) => error.into(),
            error => Self::Tokens(error),
        }
    }
}

impl PkiError {
    /// What to do now, a full sentence.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Exists { .. } => {
                "Use it as it is, renew the host's certificate with `standin pki renew`, or replace everything with --force; enrolled hosts must enrol again then."
            }
            Self::NoAuthority { .. } => {
                "Do this on the host that ran `standin pki init`, or run it here to make an authority."
            }
            Self::OwnAuthority { .. } => {
                "Enrol from another directory, or remove this one first; hosts that enrolled here must enrol again then."
            }
            Self::Name { .. } => "Give the name under which other hosts reach this one, or its IP address.",
            Self::Io { .. } => {
                "Check that the directory exists, that its disk is not full, and that standin may write there."
            }
            Self::Tokens(_) => {
                "Tokens that wait in it are void then; hosts that have enrolled are not touched by it."
            }
            Self::Passphrase { .. } => {
                "Give the one that the export was made with; a new one needs at least 12 characters."
            }
            Self::Unusable { .. } => {
                "Restore the file from a backup, or make a new one with `standin pki init --force` or `standin enroll TOKEN`."
            }
        }
    }

    pub(crate) fn io(verb: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { verb, path, source }
    }

    pub(crate) fn unusable(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Unusable { what: what.into(), reason: reason.to_string() }
    }
}
