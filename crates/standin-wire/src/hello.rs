//! What two hosts tell each other first, and whether they can work together.
//!
//! Both send their [`Hello`] as soon as TLS is up, without waiting, so each knows the other's range before
//! anybody refuses. Both then compute the same answer from the same two ranges; the one that refuses says a
//! goodbye with a sentence, and both report [`crate::Error::Version`] with both ranges.

use crate::error::Error;
use crate::frame::{FrameError, MAX_INTERNAL};
use serde::{Deserialize, Serialize};
use standin_model::HostId;
use std::fmt;

/// The protocol versions of this crate. A version that changes what a frame or a message means gets a line here.
///
/// * 1: the first.
/// * 2: links: two hosts call each other, both ways, on one connection. Hosts have an id.
pub const PROTOCOL: VersionRange = VersionRange { min: 1, max: 2 };

const MAX_TEXT: usize = 255;
const MAX_FEATURES: usize = 64;

/// Versions from `min` to `max`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// The oldest.
    pub min: u16,
    /// The newest.
    pub max: u16,
}

impl VersionRange {
    /// The newest version that both know.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.min)
        } else {
            write!(f, "{} to {}", self.min, self.max)
        }
    }
}

/// How a host introduces itself. Unknown fields of a newer host are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What the host calls itself. For logs only: who it is, its certificate says.
    pub host: String,
    /// Name and release of its software.
    pub software: String,
    /// The oldest protocol version it speaks.
    pub min_version: u16,
    /// The newest protocol version it speaks.
    pub max_version: u16,
    /// What it can do beyond its version.
    #[serde(default)]
    pub features: Vec<String>,
    /// Its id, which outlives its name, its addresses and its certificate. A host of version 1 tells none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<HostId>,
    /// The TCP port on which it takes connections of other hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl Hello {
    /// A hello of this build, with the versions this crate speaks.
    #[must_use]
    pub fn new(host: impl Into<String>, software: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            software: software.into(),
            min_version: PROTOCOL.min,
            max_version: PROTOCOL.max,
            features: Vec::new(),
            host_id: None,
            port: None,
        }
    }

    /// The same hello, with the id of the host and the port on which it listens (0 for none).
    #[must_use]
    pub fn of(self, host_id: HostId, port: u16) -> Self {
        Self { host_id: Some(host_id), port: (port != 0).then_some(port), ..self }
    }

    /// Its versions.
    #[must_use]
    pub const fn versions(&self) -> VersionRange {
        VersionRange { min: self.min_version, max: self.max_version }
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let bytes = serde_json::to_vec(self)
            .map_err(|error| Error::Frame { reason: format!("the hello of this host: {error}") })?;
        if bytes.len() > MAX_INTERNAL {
            return Err(Error::Frame { reason: "the hello of this host is too long".to_owned() });
        }
        Ok(bytes)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        let hello: Self = serde_json::from_slice(bytes)
            .map_err(|error| FrameError(format!("its hello cannot be read: {error}")))?;
        let sane = |text: &String| text.len() <= MAX_TEXT && !text.chars().any(char::is_control);
        let all_sane = hello.features.len() <= MAX_FEATURES
            && [&hello.host, &hello.software].into_iter().chain(&hello.features).all(sane);
        if all_sane {
            Ok(hello)
        } else {
            Err(FrameError("its hello holds overlong or unprintable text".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(min: u16, max: u16) -> VersionRange {
        VersionRange { min, max }
    }

    #[test]
    fn the_newest_version_both_know_is_chosen() {
        assert_eq!(range(1, 3).common(range(2, 5)), Some(3));
        assert_eq!(range(2, 5).common(range(1, 3)), Some(3));
        assert_eq!(range(4, 4).common(range(1, 9)), Some(4));
    }

    #[test]
    fn ranges_that_do_not_meet_have_no_version() {
        assert_eq!(range(1, 2).common(range(3, 4)), None);
        assert_eq!(range(3, 4).common(range(1, 2)), None);
        assert_eq!(range(5, 1).common(range(1, 9)), None, "a range that ends before it begins");
    }

    #[test]
    fn a_hello_with_overlong_or_unprintable_text_is_refused() {
        for host in ["x".repeat(300), "a\nb".to_owned(), "\u{1b}[31m".to_owned()] {
            let bytes = Hello::new(host, "standin").to_bytes().unwrap();
            assert!(Hello::parse(&bytes).is_err());
        }
    }

    #[test]
    fn a_newer_host_may_say_more_than_we_know() {
        let text = br#"{"host":"a","software":"standin 9","min_version":1,"max_version":9,"mood":"good"}"#;
        let hello = Hello::parse(text).unwrap();
        assert_eq!(hello.versions(), range(1, 9));
    }

    #[test]
    fn an_older_host_tells_no_id_and_minds_none() {
        let text = br#"{"host":"a","software":"standin 0","min_version":1,"max_version":1}"#;
        let old = Hello::parse(text).unwrap();
        assert_eq!((old.host_id, old.port), (None, None));
        let id = HostId::random();
        let ours = Hello::new("b", "standin").of(id, 8444);
        let read = Hello::parse(&ours.to_bytes().unwrap()).unwrap();
        assert_eq!((read.host_id, read.port), (Some(id), Some(8444)));
        assert_eq!(Hello::new("b", "standin").of(id, 0).port, None);
    }
}
