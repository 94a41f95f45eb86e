//! Why an authorization entry cannot be as somebody wrote it.

use crate::reason::{Reason, Text};
use crate::reasons;
use std::path::PathBuf;

reasons! {
    /// Why an authorization entry cannot be as somebody wrote it.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Entry {
        /// The trust group of an authorization entry is empty, too long or not printable.
        TrustGroup { group: String } => "trust_group_invalid", InvalidParameter;
        /// The storage location of an authorization entry is no absolute path.
        StorageLocation { path: PathBuf } => "storage_location_not_absolute", InvalidParameter;
        /// An authorization entry does not name hosts: no full name, no wildcard in the first label, no `*`.
        Hosts { pattern: String } => "primary_pattern_invalid", InvalidParameter;
    }
}

impl Reason for Entry {
    fn text(&self) -> Text {
        match self {
            Self::TrustGroup { group } => Text::new(
                format!("{:?} cannot be a trust group", cut(group)),
                "Use 1 to 64 printable ASCII characters without spaces at the ends.",
            ),
            Self::StorageLocation { path } => Text::new(
                format!("{} cannot be a storage location", path.display()),
                "Use an absolute path without `..`.",
            ),
            Self::Hosts { pattern } => Text::new(
                format!("{:?} does not name primary hosts", cut(pattern)),
                "Use a host's full name (host.example.org), a wildcard in the first label (*.example.org), \
                 or * for every host with a valid certificate.",
            ),
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}
