//! Why a verb is refused by the command line itself, without a daemon: certificates, the authority and users.

use standin_model::reason::{Reason, Text};
use standin_model::reasons;
use std::path::PathBuf;

reasons! {
    /// Why a verb is refused by the command line itself.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Local {
        /// The file that an authority is to be exported to exists.
        FileExists { path: PathBuf } => "export_file_exists", InUse;
        /// The host uses the operator's own certificate, not the built-in authority's.
        OwnCertificate { path: PathBuf } => "own_certificate_in_use", InvalidState;
        /// This host has no certificate.
        NoCertificate { path: PathBuf } => "no_certificate", FileNotFound;
        /// This host has no authority, and where it enrolled is not known.
        NotEnrolled => "enrolled_where_unknown", InvalidState;
        /// A token is to be valid for no time, or for more than a week.
        TokenValidity => "token_validity_out_of_range", InvalidParameter;
        /// There is an authority already, none, or this host is it.
        Authority(Text) => "authority_state", InvalidState;
        /// A name or a passphrase cannot be used for a certificate.
        CertificateInput(Text) => "certificate_input_invalid", InvalidParameter;
        /// An enrolment token cannot be read.
        Token(Text) => "token_invalid", InvalidParameter;
        /// The host that enrols others refused this one.
        EnrolmentRefused(Text) => "enrolment_refused", AccessDenied;
        /// The host that enrols others cannot be reached.
        EnrolmentFailed(Text) => "enrolment_unreachable", NotAvailable;
        /// A user of the management API cannot be so: the name, the password, or whether they exist.
        User(Text) => "api_user_invalid", InvalidParameter;
    }
}

impl Reason for Local {
    fn text(&self) -> Text {
        match self {
            Self::FileExists { path } => Text::new(
                format!("{} exists already", path.display()),
                "Name another file, or remove that one first.",
            ),
            Self::OwnCertificate { path } => Text::new(
                format!("this host uses the operator's own certificate {}", path.display()),
                "Manage it where it was made, or remove [tls] from the configuration to use the built-in authority.",
            ),
            Self::NoCertificate { path } => Text::new(
                format!("this host has no certificate in {}", path.display()),
                "Run `standin pki init` on the first host, and `standin enroll TOKEN` on every other one.",
            ),
            Self::NotEnrolled => Text::new(
                "this host has no authority, and it is not known where it enrolled",
                "Name the host that has the authority: `standin pki renew --from HOST`.",
            ),
            Self::TokenValidity => {
                Text::new("a token cannot be valid for that long", "Use --valid with 1s to 7d.")
            }
            Self::Authority(text)
            | Self::CertificateInput(text)
            | Self::Token(text)
            | Self::EnrolmentRefused(text)
            | Self::EnrolmentFailed(text)
            | Self::User(text) => text.clone(),
        }
    }
}
