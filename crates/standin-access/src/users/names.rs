//! Names of users. Pure.
//!
//! A name is 1 to 64 letters, digits, `.`, `-` and `_`, and begins with a letter or a digit. Names compare
//! without regard to case. This host is no member of a domain of its own, so that what stands before `\` and
//! after `@` does not tell users apart: clients put a host, a domain, `.` or nothing there.

/// The longest name, in characters.
pub const MAX_NAME: usize = 64;

/// Whether a user can be called so.
#[must_use]
pub fn is_valid(name: &str) -> bool {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    name.chars().count() <= MAX_NAME
        && name.chars().next().is_some_and(char::is_alphanumeric)
        && name.chars().all(allowed)
}

/// The name without a domain before or a realm behind it.
#[must_use]
pub fn bare(name: &str) -> &str {
    let name = name.rsplit_once('\\').map_or(name, |(_, name)| name);
    name.split_once('@').map_or(name, |(name, _)| name)
}

/// What is compared: the bare name in lower case.
#[must_use]
pub fn fold(name: &str) -> String {
    bare(name).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_in_any_case_and_with_any_domain() {
        for name in ["alice", "ALICE", "HOST\\alice", ".\\Alice", "alice@EXAMPLE.ORG", "\\alice"] {
            assert_eq!(fold(name), "alice", "{name}");
        }
        assert_ne!(fold("alice2"), "alice");
    }

    #[test]
    fn names_that_could_be_mistaken_are_not_valid() {
        for name in ["alice", "a.b-c_d", "7up", "Zoë"] {
            assert!(is_valid(name), "{name}");
        }
        for name in ["", "a b", "a\\b", "a@b", "a:b", "-a", ".a", "a\n", "a/b", &"x".repeat(65)] {
            assert!(!is_valid(name), "{name:?}");
        }
    }
}
