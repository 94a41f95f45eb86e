//! The two meanings of CIM's `datetime`: an instant, and an interval.

use jiff::Timestamp;

/// A `datetime`. Both forms have a resolution of a microsecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datetime {
    /// An instant with the offset from UTC in minutes that it was written with: `yyyymmddhhmmss.mmmmmmsutc`.
    Instant {
        /// The instant.
        at: Timestamp,
        /// Minutes east of UTC, -999 to 999 on the wire.
        offset_minutes: i16,
    },
    /// A length of time, `ddddddddhhmmss.mmmmmm:000`, in microseconds.
    Interval {
        /// Up to 99999999 days, 23 hours, 59 minutes and 59.999999 seconds.
        microseconds: u64,
    },
}

impl Datetime {
    /// An instant in UTC.
    #[must_use]
    pub fn utc(at: Timestamp) -> Self {
        Self::Instant { at, offset_minutes: 0 }
    }

    /// An interval of whole seconds.
    #[must_use]
    pub fn seconds(seconds: u64) -> Self {
        Self::Interval { microseconds: seconds.saturating_mul(1_000_000) }
    }
}

impl From<Timestamp> for Datetime {
    fn from(at: Timestamp) -> Self {
        Self::utc(at)
    }
}
