//! Names that people choose: of VMs, disks and hosts. They become parts of paths, so they are checked once,
//! here, and nothing that came from a peer or a client becomes a path without passing through these types.

use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the {what} {shown:?} cannot be used: {reason}")]
pub struct NameError {
    /// Which kind of name.
    pub what: &'static str,
    /// The name, cut to 64 characters.
    pub shown: String,
    /// What is wrong and what is allowed.
    pub reason: &'static str,
}

const MAX: usize = 64;
const RULE: &str = "use 1 to 64 letters, digits, '-', '_' or '.', beginning with a letter or digit";

fn check(what: &'static str, name: &str) -> Result<(), NameError> {
    let fail = |reason| Err(NameError { what, shown: name.chars().take(MAX).collect(), reason });
    if name.is_empty() || name.len() > MAX {
        return fail(RULE);
    }
    let first_ok = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest_ok = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if !first_ok || !rest_ok { fail(RULE) } else { Ok(()) }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `name` and takes it.
            ///
            /// # Errors
            /// A [`NameError`] that says which characters are allowed.
            pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
                let name = name.into();
                check($what, &name)?;
                Ok(Self(name))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a VM, unique on a host.
    VmName,
    "VM name"
);
name!(
    /// The name of a disk, unique within its VM; it names the disk's directory on the replica.
    DiskName,
    "disk name"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_become_another_path_are_refused() {
        for bad in ["", ".", "..", "a/b", "/etc", "a b", "a\0b", "a\nb", ".hidden", "-x", "ä"] {
            assert!(VmName::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(VmName::new("x".repeat(300)).is_err());
        assert!(VmName::new("x".repeat(65)).is_err());
    }

    #[test]
    fn usual_names_are_taken() {
        for good in ["web-1", "db_2", "host.example.org", "0", &"x".repeat(64)] {
            assert_eq!(VmName::new(good).expect("a usual name").as_str(), good);
        }
    }
}
