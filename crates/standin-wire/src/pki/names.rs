//! Names that may stand in a host's certificate. They decide who may replicate, so they are checked wherever
//! they come from.

use crate::pki::PkiError;
use std::fmt;
use std::net::IpAddr;

const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
/// More names than any host has.
const MAX_NAMES: usize = 16;
const RULE: &str = "use a DNS name of letters, digits, '-' and '.' without wildcards, or an IP address";

/// A name that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateName {
    /// A DNS name in lower case.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
}

impl CertificateName {
    /// Checks one name.
    ///
    /// # Errors
    /// [`PkiError::Name`], which says what is allowed.
    pub fn parse(name: &str) -> Result<Self, PkiError> {
        if let Ok(address) = name.parse() {
            return Ok(Self::Ip(address));
        }
        let label_ok = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() <= MAX_NAME && name.split('.').all(label_ok) {
            return Ok(Self::Dns(name.to_ascii_lowercase()));
        }
        Err(PkiError::Name { name: name.chars().take(64).collect(), reason: RULE })
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

/// Checks all names of a certificate: at least one, no doubles.
///
/// # Errors
/// [`PkiError::Name`] for the first that cannot be used, or if there are none or more than 16.
pub fn check_names(names: &[String]) -> Result<Vec<CertificateName>, PkiError> {
    if names.is_empty() || names.len() > MAX_NAMES {
        let name = names.first().cloned().unwrap_or_default();
        return Err(PkiError::Name { name, reason: "a certificate has 1 to 16 names" });
    }
    let mut checked = Vec::new();
    for name in names {
        let name = CertificateName::parse(name)?;
        if !checked.contains(&name) {
            checked.push(name);
        }
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_reach_beyond_one_host_are_refused() {
        for bad in
            ["", "*", "*.example.org", "a..b", ".a", "a.", "-a", "a-", "a b", "a/b", "ä", "a_b", "a\0", "a:1"]
        {
            assert!(CertificateName::parse(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(CertificateName::parse(&"a".repeat(64)).is_err());
        assert!(CertificateName::parse(&"a.".repeat(150)).is_err());
        assert!(check_names(&[]).is_err());
        assert!(check_names(&vec!["a".to_owned(); 17]).is_err());
    }

    #[test]
    fn usual_names_are_taken_in_lower_case_and_once() {
        let names = ["Host-1.Example.org", "host-1.example.org", "10.0.0.1", "::1"].map(str::to_owned);
        let shown: Vec<_> = check_names(&names).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["host-1.example.org", "10.0.0.1", "::1"]);
    }
}
