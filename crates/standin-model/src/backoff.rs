//! Retry as a value: how long to wait before the next attempt. Pure; the caller sleeps and supplies chance.

use serde::{Deserialize, Serialize};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::time::Duration;

/// How waits grow.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Backoff {
    minimum: Duration,
    maximum: Duration,
    factor: f64,
    jitter: f64,
}

/// The stored form, checked on the way in.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    minimum_ms: u64,
    maximum_ms: u64,
    factor: f64,
    jitter: f64,
}

impl From<Backoff> for Raw {
    fn from(value: Backoff) -> Self {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self {
            minimum_ms: millis(value.minimum),
            maximum_ms: millis(value.maximum),
            factor: value.factor,
            jitter: value.jitter,
        }
    }
}

impl TryFrom<Raw> for Backoff {
    type Error = &'static str;
    fn try_from(raw: Raw) -> Result<Self, &'static str> {
        let (minimum, maximum) =
            (Duration::from_millis(raw.minimum_ms), Duration::from_millis(raw.maximum_ms));
        Self::new(minimum, maximum, raw.factor, raw.jitter)
            .ok_or("a back-off needs 0 < minimum <= maximum <= 1 day, 1 <= factor <= 10 and 0 <= jitter <= 1")
    }
}

impl Backoff {
    /// Waits from `minimum`, times `factor` with every attempt, up to `maximum`; up to the share `jitter` of
    /// each wait is left to chance. `None` unless 0 < minimum <= maximum <= 1 day, 1 <= factor <= 10 and
    /// 0 <= jitter <= 1.
    #[must_use]
    pub fn new(minimum: Duration, maximum: Duration, factor: f64, jitter: f64) -> Option<Self> {
        let spans = !minimum.is_zero() && minimum <= maximum && maximum <= Duration::from_secs(86_400);
        let shape = (1.0..=10.0).contains(&factor) && (0.0..=1.0).contains(&jitter);
        (spans && shape).then_some(Self { minimum, maximum, factor, jitter })
    }

    /// The chance of [`Backoff::wait`] for whatever waits, and its attempt: evenly spread, and the same for the same, so that
    /// a simulation can be repeated.
    #[must_use]
    pub fn chance(of: impl Hash) -> f64 {
        let mut hasher = DefaultHasher::new();
        of.hash(&mut hasher);
        f64::from(u32::try_from(hasher.finish() >> 32).unwrap_or_default()) / f64::from(u32::MAX)
    }

    /// The wait after the failed attempt number `attempt`, counted from 0. `chance` is evenly spread over
    /// 0..1; it shortens the wait by up to the jitter's share, so that many relationships that lost the same
    /// link do not come back at the same instant. At most `maximum`, at least `minimum * (1 - jitter)`.
    #[must_use]
    pub fn wait(&self, attempt: u32, chance: f64) -> Duration {
        // Beyond 1024 attempts every factor above 1 has long reached the maximum.
        let exponent = i32::try_from(attempt.min(1024)).unwrap_or(1024);
        let full = (self.minimum.as_secs_f64() * self.factor.powi(exponent)).min(self.maximum.as_secs_f64());
        let chance = if chance.is_finite() { chance.clamp(0.0, 1.0) } else { 0.0 };
        Duration::from_secs_f64(full * (1.0 - self.jitter * chance))
    }
}

impl Default for Backoff {
    /// For a broken connection: half a second, doubling up to a minute, a quarter left to chance.
    fn default() -> Self {
        Self {
            minimum: Duration::from_millis(500),
            maximum: Duration::from_secs(60),
            factor: 2.0,
            jitter: 0.25,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(minimum: u64, maximum: u64) -> Backoff {
        Backoff::new(Duration::from_secs(minimum), Duration::from_secs(maximum), 2.0, 0.5)
            .expect("a valid back-off")
    }

    #[test]
    fn waits_double_up_to_the_maximum() {
        let waits: Vec<u64> = (0..5).map(|attempt| seconds(1, 6).wait(attempt, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 6, 6]);
        assert_eq!(seconds(1, 6).wait(u32::MAX, 0.0), Duration::from_secs(6));
    }

    #[test]
    fn chance_shortens_a_wait_by_the_share_of_the_jitter_at_most() {
        assert_eq!(seconds(4, 60).wait(0, 1.0), Duration::from_secs(2));
        assert_eq!(seconds(4, 60).wait(0, 0.5), Duration::from_secs(3));
        for odd in [f64::NAN, f64::INFINITY, -7.0] {
            assert_eq!(seconds(4, 60).wait(0, odd), Duration::from_secs(4));
        }
    }

    #[test]
    fn senseless_values_are_refused_also_from_a_file() {
        let second = Duration::from_secs(1);
        assert_eq!(Backoff::new(Duration::ZERO, second, 2.0, 0.0), None);
        assert_eq!(Backoff::new(second * 2, second, 2.0, 0.0), None);
        assert_eq!(Backoff::new(second, second, 0.5, 0.0), None);
        assert_eq!(Backoff::new(second, second, f64::NAN, 0.0), None);
        assert_eq!(Backoff::new(second, second, 2.0, 1.5), None);
        let json = r#"{"minimum_ms":0,"maximum_ms":1,"factor":2.0,"jitter":0.0}"#;
        assert!(serde_json::from_str::<Backoff>(json).is_err());
        let own = serde_json::to_string(&Backoff::default()).expect("plain numbers");
        assert_eq!(serde_json::from_str::<Backoff>(&own).expect("own JSON"), Backoff::default());
    }

    proptest! {
        #[test]
        fn a_wait_stays_within_its_limits(attempt: u32, chance in 0.0..1.0f64) {
            let wait = seconds(2, 30).wait(attempt, chance);
            prop_assert!(wait >= Duration::from_secs(1) && wait <= Duration::from_secs(30));
        }
    }
}
