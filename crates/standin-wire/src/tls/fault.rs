//! The errors of TLS in words that tell whose certificate is wrong and what to do about it.

use rustls::{AlertDescription, CertificateError, Error as RustlsError, PeerIncompatible};
use std::fmt;

/// What went wrong in TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsFault {
    /// Its certificate comes from an authority that this host does not trust.
    UnknownAuthority,
    /// Its certificate has expired.
    Expired,
    /// Its certificate is not valid yet: a clock is wrong.
    NotYetValid,
    /// Its certificate is for other names than the one that was called.
    WrongName {
        /// The names in the certificate.
        presented: String,
    },
    /// It presented no certificate.
    NoCertificate,
    /// Its certificate is broken in another way.
    BadCertificate,
    /// It refused the certificate of this host.
    RefusedOurs(Refused),
    /// It does not speak TLS 1.3, or not TLS at all.
    NotTls,
    /// It speaks TLS and is no standin.
    NoCommonProtocol,
    /// A record did not decrypt: it was altered on its way.
    Altered,
    /// The certificate authority's fingerprint is not the one of the token.
    WrongFingerprint,
    /// Something else; the source says what.
    Other,
}

/// Why the other side refused the certificate of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It does not trust the authority.
    UnknownAuthority,
    /// It has expired.
    Expired,
    /// It was not presented.
    Missing,
    /// It did not say.
    Other,
}

impl TlsFault {
    /// Sorts an error of the TLS library.
    pub(crate) fn of(error: &RustlsError) -> Self {
        match error {
            RustlsError::InvalidCertificate(reason) => Self::of_certificate(reason),
            RustlsError::NoCertificatesPresented => Self::NoCertificate,
            RustlsError::AlertReceived(alert) => Self::of_alert(*alert),
            RustlsError::NoApplicationProtocol => Self::NoCommonProtocol,
            RustlsError::DecryptError => Self::Altered,
            RustlsError::InvalidMessage(_)
            | RustlsError::InappropriateMessage { .. }
            | RustlsError::PeerIncompatible(
                PeerIncompatible::Tls13RequiredForQuic
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::SupportedVersionsExtensionRequired,
            ) => Self::NotTls,
            _ => Self::Other,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::NotValidForName => Self::WrongName { presented: "other names".to_owned() },
            CertificateError::NotValidForNameContext { presented, .. } => {
                Self::WrongName { presented: presented.join(", ") }
            }
            // Only the verifier of an enrolment says this: see `enroll::pin`.
            CertificateError::ApplicationVerificationFailure => Self::WrongFingerprint,
            _ => Self::BadCertificate,
        }
    }

    const fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::UnknownCA => Self::RefusedOurs(Refused::UnknownAuthority),
            AlertDescription::CertificateExpired => Self::RefusedOurs(Refused::Expired),
            AlertDescription::CertificateRequired => Self::RefusedOurs(Refused::Missing),
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied => Self::RefusedOurs(Refused::Other),
            AlertDescription::NoApplicationProtocol => Self::NoCommonProtocol,
            AlertDescription::ProtocolVersion => Self::NotTls,
            AlertDescription::BadRecordMac => Self::Altered,
            _ => Self::Other,
        }
    }

    /// What to do now, a full sentence.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::UnknownAuthority => {
                "Enrol both hosts with the same certificate authority, or add the other one's authority to trusted.crt here."
            }
            Self::Expired => "Renew the certificate on the other host with `standin pki renew`.",
            Self::NotYetValid => "Set the clocks of both hosts.",
            Self::WrongName { .. } => {
                "Use a name that stands in the other host's certificate, or issue it a certificate with this name."
            }
            Self::NoCertificate => "Give the other host a certificate with `standin enroll TOKEN`.",
            Self::BadCertificate => "Issue the other host a new certificate with `standin enroll TOKEN`.",
            Self::RefusedOurs(Refused::UnknownAuthority) => {
                "Enrol both hosts with the same certificate authority, or add this host's authority to trusted.crt there."
            }
            Self::RefusedOurs(Refused::Expired) => "Renew this host's certificate with `standin pki renew`.",
            Self::RefusedOurs(Refused::Missing) => {
                "Give this host a certificate with `standin enroll TOKEN`."
            }
            Self::RefusedOurs(Refused::Other) => {
                "The log of the other host says why; a new certificate from `standin enroll TOKEN` helps in most cases."
            }
            Self::NotTls | Self::NoCommonProtocol => {
                "Check address and port: something else than standin seems to answer there."
            }
            Self::Altered => {
                "The connection is made anew by itself. If it happens again, look for a faulty network device between the hosts."
            }
            Self::WrongFingerprint => {
                "Do not go on: another host answers at the token's address. Check the address and make a new token."
            }
            Self::Other => "Compare the standin releases of both hosts and see the log of the other one.",
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAuthority => {
                f.write_str("its certificate is from an authority that this host does not trust")
            }
            Self::Expired => f.write_str("its certificate has expired"),
            Self::NotYetValid => f.write_str("its certificate is not valid yet"),
            Self::WrongName { presented } => write!(f, "its certificate is for another name ({presented})"),
            Self::NoCertificate => f.write_str("it presented no certificate"),
            Self::BadCertificate => f.write_str("its certificate cannot be used"),
            Self::RefusedOurs(Refused::UnknownAuthority) => {
                f.write_str("it does not trust the authority of this host's certificate")
            }
            Self::RefusedOurs(Refused::Expired) => f.write_str("this host's certificate has expired"),
            Self::RefusedOurs(Refused::Missing) => {
                f.write_str("it wants a certificate and this host has none")
            }
            Self::RefusedOurs(Refused::Other) => f.write_str("it refused the certificate of this host"),
            Self::NotTls => f.write_str("it does not speak TLS 1.3"),
            Self::NoCommonProtocol => f.write_str("it speaks TLS but not the protocol of standin"),
            Self::Altered => f.write_str("a record was altered on its way"),
            Self::WrongFingerprint => f.write_str("its certificate authority is not the one of the token"),
            Self::Other => f.write_str("the handshake or a record failed"),
        }
    }
}
