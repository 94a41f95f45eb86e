//! What can go wrong on a connection, for whom, and what to do about it.

use crate::hello::VersionRange;
use crate::tls::TlsFault;
use std::io;
use std::time::Duration;
use thiserror::Error;

/// An error of the transport. Display says what happened, [`Error::remedy`] what to do now, the source holds
/// the error of the system or of TLS where there is one.
#[derive(Debug, Error)]
pub enum Error {
    /// No TCP connection came about.
    #[error("cannot connect to {address}")]
    Connect {
        /// `host:port` as it was given.
        address: String,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// TLS failed: certificates, or something that does not speak TLS.
    #[error("the TLS connection with {peer} failed: {fault}")]
    Tls {
        /// The address of the other side.
        peer: String,
        /// What was wrong with whose certificate.
        fault: TlsFault,
        /// The error of the TLS library, where it says more than the fault does.
        #[source]
        source: Option<rustls::Error>,
    },
    /// No protocol version is known to both.
    #[error("{peer} speaks protocol versions {theirs}, this host speaks {ours}")]
    Version {
        /// What the other side calls itself.
        peer: String,
        /// The versions of this host.
        ours: VersionRange,
        /// The versions of the other side.
        theirs: VersionRange,
    },
    /// The other side ended the connection and said why.
    #[error("the other side refused: {reason}")]
    Refused {
        /// Its sentence, with control characters removed and cut to 512 characters.
        reason: String,
    },
    /// Bytes that are no frame, or a message that is not as expected.
    #[error("the peer sent something that cannot be read: {reason}")]
    Frame {
        /// What is wrong with it.
        reason: String,
    },
    /// A block that cannot be sent: a bug of the caller, found before anything went out.
    #[error("the block at offset {offset} of disk {stream} cannot be sent: {reason}")]
    Block {
        /// The disk's number on the connection.
        stream: u16,
        /// Where the block begins, in bytes.
        offset: u64,
        /// Which rule it breaks.
        reason: String,
    },
    /// Data that does not match its digest.
    #[error("the data of disk {stream} at offset {offset} is corrupt: {reason}")]
    Corrupt {
        /// The disk's number on the connection.
        stream: u16,
        /// The first byte of the granule that is wrong.
        offset: u64,
        /// How it was noticed.
        reason: String,
    },
    /// Nothing came for longer than the idle timeout, not even the peer's sign of life.
    #[error("the peer has been silent for {} s", .after.as_secs())]
    Silent {
        /// The idle timeout.
        after: Duration,
    },
    /// Something did not end in its time.
    #[error("{what} took longer than {} s", .after.as_secs())]
    Slow {
        /// What took too long.
        what: &'static str,
        /// The limit.
        after: Duration,
    },
    /// The connection ended without a goodbye.
    #[error("the peer closed the connection without a goodbye{}", if *.mid_frame { ", in the middle of a frame" } else { "" })]
    Closed {
        /// A frame had begun.
        mid_frame: bool,
    },
    /// The socket failed.
    #[error("cannot {verb} the connection")]
    Io {
        /// What was being done.
        verb: &'static str,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The certificate, the key or the trusted authorities of this host cannot be used.
    #[error("the identity of this host cannot be used: {reason}")]
    Identity {
        /// Which file and what is wrong with it.
        reason: String,
    },
}

impl Error {
    /// An error of the TLS library, in the words of the fault that it is. What these words do not tell is kept as the
    /// source; the rest would say the same thing twice.
    pub(crate) fn tls(peer: &str, error: rustls::Error) -> Self {
        let fault = TlsFault::of(&error);
        tracing::debug!(peer, %error, "TLS failed");
        let source = matches!(fault, TlsFault::Other | TlsFault::BadCertificate).then_some(error);
        Self::Tls { peer: peer.to_owned(), fault, source }
    }

    /// What to do now, a full sentence.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Connect { .. } => {
                "Check that standin runs on that host, that the port is open in its firewall, and that the name resolves."
            }
            Self::Tls { fault, .. } => return fault.remedy().to_owned(),
            Self::Version { .. } => "Install the same standin release on both hosts; a replica is upgraded first.",
            Self::Refused { .. } => "Do on the other host what its sentence asks for, then try again.",
            Self::Frame { .. } => {
                "The connection is made anew by itself. If it happens again, compare the standin releases of both hosts and look for a faulty network device."
            }
            Self::Block { .. } => "Report this as a bug of standin.",
            Self::Corrupt { .. } => {
                "The block is sent again. If it happens again, test the memory of both hosts."
            }
            Self::Silent { .. } | Self::Slow { .. } => {
                "Check the network between the hosts and the load of the other host; the connection is made anew by itself."
            }
            Self::Closed { .. } | Self::Io { .. } => {
                "Check that standin runs on the other host; the connection is made anew by itself."
            }
            Self::Identity { .. } => {
                "Run `standin pki init` or `standin enroll TOKEN`, or correct the paths of the operator's own certificates."
            }
        }
        .to_owned()
    }

    /// Trying again cannot help before somebody changes something.
    #[must_use]
    pub const fn needs_a_person(&self) -> bool {
        matches!(
            self,
            Self::Version { .. }
                | Self::Refused { .. }
                | Self::Identity { .. }
                | Self::Block { .. }
                | Self::Tls { .. }
        )
    }
}

impl From<crate::frame::FrameError> for Error {
    fn from(error: crate::frame::FrameError) -> Self {
        Self::Frame { reason: error.0 }
    }
}

/// Makes a sentence of a peer fit to be shown and logged.
pub(crate) fn tame(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(512).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_fault_says_is_not_said_again_by_its_source() {
        let said = |error| match Error::tls("b:1", error) {
            Error::Tls { fault, source, .. } => (fault, source.is_some()),
            other => panic!("{other}"),
        };
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert_eq!(said(unknown), (TlsFault::UnknownAuthority, false));
        assert_eq!(said(rustls::Error::General("what only TLS knows".into())), (TlsFault::Other, true));
    }
}
