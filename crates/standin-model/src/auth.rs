//! Authorization entries of a replica host: who may send, and where it is stored.

pub(crate) mod reason;

use crate::codes::Refusal;
use crate::ids::AuthId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Component, PathBuf};

/// Longest DNS name.
const MAX_HOST: usize = 253;
/// Longest label of a DNS name.
const MAX_LABEL: usize = 63;
/// Longest trust group.
const MAX_TRUST_GROUP: usize = 64;

/// Admits a primary host: `Msvm_ReplicationAuthorizationSettingData`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorizationEntry {
    /// Its identity.
    pub id: AuthId,
    /// `AllowedPrimaryHostSystem`: a host's full name, `*.` and a domain, or `*` for every host with a valid
    /// certificate. A wildcard stands for exactly one label, the first.
    pub allowed_primary: String,
    /// `TrustGroup`: only hosts that are admitted by an entry of the same group may take over sending for a VM.
    pub trust_group: String,
    /// `ReplicaStorageLocation`: the directory that new replicas of these hosts are stored in; an absolute
    /// path without `..`.
    pub storage_location: PathBuf,
}

/// A letter, digit or inner hyphen in each place, as DNS has it.
fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl AuthorizationEntry {
    /// Checks every field.
    ///
    /// # Errors
    /// [`crate::ReturnCode::InvalidParameter`] with what is allowed.
    pub fn validate(&self) -> Result<(), Refusal> {
        self.check_host()?;
        let group_ok = (1..=MAX_TRUST_GROUP).contains(&self.trust_group.len())
            && self.trust_group.chars().all(|c| c.is_ascii_graphic() || c == ' ')
            && self.trust_group.trim() == self.trust_group;
        if !group_ok {
            return Err(reason::Entry::TrustGroup { group: self.trust_group.clone() }.into());
        }
        let path_ok = self.storage_location.is_absolute()
            && self.storage_location.components().all(|part| part != Component::ParentDir);
        if !path_ok {
            return Err(reason::Entry::StorageLocation { path: self.storage_location.clone() }.into());
        }
        Ok(())
    }

    fn check_host(&self) -> Result<(), Refusal> {
        let name = self.allowed_primary.as_str();
        let domain = name.strip_prefix("*.").unwrap_or(name);
        if name == "*" || (name.len() <= MAX_HOST && domain.split('.').all(is_label)) {
            return Ok(());
        }
        Err(reason::Entry::Hosts { pattern: name.to_owned() }.into())
    }

    /// Whether a host whose certificate carries these names is admitted. Without regard to case; the dot that
    /// may end a full name is no part of it.
    ///
    /// A wildcard *in a certificate* admits nobody: a certificate names a host, an entry names hosts. `*` asks
    /// for no name at all; that the certificate is valid was checked by TLS.
    #[must_use]
    pub fn matches(&self, certificate_names: &[String]) -> bool {
        self.allowed_primary == "*" || certificate_names.iter().any(|name| self.admits(name))
    }

    fn admits(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        if !name.split('.').all(is_label) {
            return false;
        }
        match self.allowed_primary.strip_prefix("*.") {
            None => self.allowed_primary.eq_ignore_ascii_case(name),
            Some(domain) => name.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain)),
        }
    }

    /// How well the entry fits, to choose one among several that match: 2 for the host itself, 1 for its
    /// domain, 0 for everybody.
    #[must_use]
    pub fn specificity(&self) -> u8 {
        match self.allowed_primary.as_str() {
            "*" => 0,
            name if name.starts_with("*.") => 1,
            _ => 2,
        }
    }

    /// The entry that decides for a host: the most specific one that matches; among equals the first.
    #[must_use]
    pub fn choose<'a>(entries: &'a [Self], certificate_names: &[String]) -> Option<&'a Self> {
        let mut best: Option<&Self> = None;
        for entry in entries.iter().filter(|entry| entry.matches(certificate_names)) {
            if best.is_none_or(|held| entry.specificity() > held.specificity()) {
                best = Some(entry);
            }
        }
        best
    }
}

impl fmt::Display for AuthorizationEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (trust group {}) into {}",
            self.allowed_primary,
            self.trust_group,
            self.storage_location.display()
        )
    }
}
