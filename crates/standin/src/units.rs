//! Sizes, rates and durations as people write and read them. Pure. The command line and the configuration
//! parse with it; tables and progress bars print with it. JSON never passes through here: it has exact numbers.

use jiff::{Timestamp, tz::TimeZone};
use standin_model::fence::WhenSilent;
use std::time::Duration;

/// Powers of 1024 with the names that [`size`] prints.
const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// A number and the letters after it: `"64 KiB"` is `("64", "kib")`.
fn split(text: &str) -> (&str, String) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim().to_ascii_lowercase())
}

/// Bytes from `"4096"`, `"64KiB"`, `"64k"`, `"1 GiB"`; units are powers of 1024.
///
/// # Errors
/// A sentence with the forms that are understood.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let help =
        || format!("{text:?} is no size: write bytes, or a number with KiB, MiB, GiB or TiB, as in 64KiB");
    let (number, unit) = split(text);
    let number: u64 = number.parse().map_err(|_| help())?;
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(help()),
    };
    number.checked_mul(1_u64 << shift).ok_or_else(|| format!("{text:?} is larger than any disk can be"))
}

/// A duration from `"30s"`, `"5m"`, `"1h"`, `"2d"` or bare seconds.
///
/// # Errors
/// A sentence with the forms that are understood.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let help = || format!("{text:?} is no duration: write a whole number with s, m, h or d, as in 30s or 5m");
    let (number, unit) = split(text);
    let number: u64 = number.parse().map_err(|_| help())?;
    let seconds = match unit.as_str() {
        "" | "s" | "sec" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err(help()),
    };
    number
        .checked_mul(seconds)
        .filter(|total| *total <= 10 * 365 * 86400)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{text:?} is longer than ten years"))
}

/// Reads `refuse`, or `start-after` and a time: what a host does at a start while another one is silent.
pub(crate) fn when_silent(text: &str) -> Result<WhenSilent, String> {
    if text == "refuse" {
        return Ok(WhenSilent::Refuse);
    }
    let wait = text.strip_prefix("start-after").map(str::trim).filter(|wait| !wait.is_empty());
    let wait = wait.ok_or_else(|| format!("{text:?} is unknown, use refuse, or start-after and a time"))?;
    parse_duration(wait).map(WhenSilent::StartAfter)
}

/// Bytes for a person: exact below 1 KiB, otherwise three digits, as in `1.50 GiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Bytes in a second for a person.
#[must_use]
pub fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", size(bytes_per_second))
}

/// A length of time for a person: the two largest units, as in `1h 05m`.
#[must_use]
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds % 86400 / 3600, seconds % 3600 / 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes:02}m"),
        _ => format!("{days}d {hours:02}h"),
    }
}

/// How long ago `at` was, as seen at `now`; a clock that is ahead reads as `now`.
#[must_use]
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = u64::try_from(now.as_second() - at.as_second()).unwrap_or(0);
    if seconds == 0 { "just now".to_owned() } else { format!("{} ago", span(seconds)) }
}

/// `at` in local time, with the date, and how long ago: `2026-03-01 14:05:09 (3m 10s ago)`.
#[must_use]
pub fn when(at: Timestamp, now: Timestamp) -> String {
    format!("{} ({})", local(at), ago(at, now))
}

/// `at` in local time to the second.
#[must_use]
pub fn local(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_the_usual_spellings() {
        for (text, bytes) in
            [("4096", 4096), ("64KiB", 65536), ("64k", 65536), ("1 GiB", 1 << 30), ("2T", 2 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_that_mean_nothing_or_overflow_are_refused() {
        for text in ["", "KiB", "-1", "1.5GiB", "12 parsecs", "99999999999999999999", "18446744073709551615k"]
        {
            assert!(parse_size(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn durations_are_read_in_the_usual_spellings() {
        for (text, seconds) in [("30s", 30), ("30", 30), ("5m", 300), ("1h", 3600), ("2d", 172_800)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "-5s", "1 fortnight", "18446744073709551615d", "4000d"] {
            assert!(parse_duration(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn sizes_are_shown_with_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (10 << 20, "10.0 MiB"),
            (500 << 30, "500 GiB"),
            ((1 << 30) - 1, "1.00 GiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn spans_show_their_two_largest_units() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1m 01s"), (3900, "1h 05m"), (90_000, "1d 01h")]
        {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn a_time_in_the_future_is_not_shown_as_negative() {
        let now = Timestamp::from_second(1000).unwrap();
        assert_eq!(ago(Timestamp::from_second(1010).unwrap(), now), "just now");
        assert_eq!(ago(Timestamp::from_second(10).unwrap(), now), "16m 30s ago");
    }
}
