//! The texts of a `datetime`: CIM's 25 characters (DSP0004 5.2.4), and the `xs:dateTime` and `xs:duration` of
//! WS-Management (DSP0230).
//!
//! Reading is lenient where a client can mean one thing only: an asterisk stands for digits that do not count
//! and reads as the least value, a missing zone is UTC, digits below a microsecond are dropped. What can not be
//! said exactly, as the length of a month, is not read.

use crate::Datetime;
use jiff::{Timestamp, civil, tz::Offset};

/// The most that 8 digits of days and the rest of an interval can say.
const MAX_INTERVAL: u64 = (99_999_999 * 86_400 + 86_399) * 1_000_000 + 999_999;

impl Datetime {
    /// Reads `yyyymmddhhmmss.mmmmmmsutc` or `ddddddddhhmmss.mmmmmm:000`.
    #[must_use]
    pub fn parse_cim(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 25 || !text.is_ascii() || bytes[14] != b'.' {
            return None;
        }
        let micros = digits(&bytes[15..21], 0)?;
        match bytes[21] {
            b':' if &bytes[22..] == b"000" => {
                let days = digits(&bytes[..8], 0)?;
                let clock =
                    clock(digits(&bytes[8..10], 0)?, digits(&bytes[10..12], 0)?, digits(&bytes[12..14], 0)?)?;
                Some(Self::Interval { microseconds: (days * 86_400 + clock) * 1_000_000 + micros })
            }
            sign @ (b'+' | b'-') => {
                let minutes = i16::try_from(digits(&bytes[22..], 0)?).ok()?;
                let offset_minutes = if sign == b'-' { -minutes } else { minutes };
                let date = civil::DateTime::new(
                    i16::try_from(digits(&bytes[..4], 0)?).ok()?,
                    small(&bytes[4..6], 1)?,
                    small(&bytes[6..8], 1)?,
                    small(&bytes[8..10], 0)?,
                    small(&bytes[10..12], 0)?,
                    small(&bytes[12..14], 0)?,
                    i32::try_from(micros * 1000).ok()?,
                );
                instant(date.ok()?, offset_minutes)
            }
            _ => None,
        }
    }

    /// The 25 characters. An interval beyond the form is written as the longest there is, a year before 0 as 0.
    #[must_use]
    pub fn to_cim(&self) -> String {
        match *self {
            Self::Instant { at, offset_minutes } => {
                let date = local(at, offset_minutes);
                format!(
                    "{:04}{:02}{:02}{:02}{:02}{:02}.{:06}{}{:03}",
                    date.year().max(0),
                    date.month(),
                    date.day(),
                    date.hour(),
                    date.minute(),
                    date.second(),
                    date.subsec_nanosecond() / 1000,
                    if offset_minutes < 0 { '-' } else { '+' },
                    offset_minutes.unsigned_abs()
                )
            }
            Self::Interval { microseconds } => {
                let (days, hours, minutes, seconds, micros) = parts(microseconds.min(MAX_INTERVAL));
                format!("{days:08}{hours:02}{minutes:02}{seconds:02}.{micros:06}:000")
            }
        }
    }

    /// Reads an `xs:dateTime` or an `xs:duration`. Negative durations, and years and months in one, are refused.
    #[must_use]
    pub fn parse_xsd(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(duration) = text.strip_prefix('P') { parse_duration(duration) } else { parse_date(text) }
    }

    /// `2013-04-15T16:28:43.488171Z`, or `P0DT0H1M40S` for an interval.
    #[must_use]
    pub fn to_xsd(&self) -> String {
        match *self {
            Self::Instant { at, offset_minutes } => {
                // Schema's zones end at 14 hours; an instant is the same one in UTC.
                let offset = if offset_minutes.unsigned_abs() > 14 * 60 { 0 } else { offset_minutes };
                let date = local(at, offset);
                let zone = match (offset, offset.unsigned_abs()) {
                    (0, _) => "Z".to_owned(),
                    (east, minutes) => {
                        format!("{}{:02}:{:02}", if east < 0 { '-' } else { '+' }, minutes / 60, minutes % 60)
                    }
                };
                format!(
                    "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{}{zone}",
                    date.year().max(0),
                    date.month(),
                    date.day(),
                    date.hour(),
                    date.minute(),
                    date.second(),
                    fraction(u64::from(date.subsec_nanosecond().unsigned_abs() / 1000)),
                )
            }
            Self::Interval { microseconds } => {
                let (days, hours, minutes, seconds, micros) = parts(microseconds);
                format!("P{days}DT{hours}H{minutes}M{seconds}{}S", fraction(micros))
            }
        }
    }
}

/// An unsigned number of digits; asterisks from some digit on read as `least`.
fn digits(bytes: &[u8], least: u64) -> Option<u64> {
    if bytes.iter().all(|byte| *byte == b'*') {
        return Some(least);
    }
    bytes.iter().try_fold(0_u64, |number, byte| match byte {
        b'0'..=b'9' => Some(number * 10 + u64::from(byte - b'0')),
        b'*' => Some(number * 10),
        _ => None,
    })
}

fn small(bytes: &[u8], least: u64) -> Option<i8> {
    i8::try_from(digits(bytes, least)?).ok()
}

/// The seconds of a time of day.
fn clock(hours: u64, minutes: u64, seconds: u64) -> Option<u64> {
    (hours < 24 && minutes < 60 && seconds < 60).then_some(hours * 3600 + minutes * 60 + seconds)
}

fn instant(date: civil::DateTime, offset_minutes: i16) -> Option<Datetime> {
    let offset = Offset::from_seconds(i32::from(offset_minutes) * 60).ok()?;
    Some(Datetime::Instant { at: offset.to_timestamp(date).ok()?, offset_minutes })
}

/// The date in its own zone; in UTC when the offset is none.
fn local(at: Timestamp, offset_minutes: i16) -> civil::DateTime {
    Offset::from_seconds(i32::from(offset_minutes) * 60).unwrap_or(Offset::UTC).to_datetime(at)
}

fn parts(microseconds: u64) -> (u64, u64, u64, u64, u64) {
    let seconds = microseconds / 1_000_000;
    (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60, microseconds % 1_000_000)
}

/// The fraction of a second with its point; nothing for none.
fn fraction(micros: u64) -> String {
    if micros == 0 { String::new() } else { format!(".{micros:06}") }
}

/// Microseconds of the digits behind a point; at least one is needed.
fn micros(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.bytes()
        .chain(std::iter::repeat(b'0'))
        .take(6)
        .try_fold(0, |sum, byte| digits(&[byte], 0).map(|d| sum * 10 + d))
}

/// What stands behind the `P` of a duration.
fn parse_duration(text: &str) -> Option<Datetime> {
    let (days, time) = match text.split_once('T') {
        Some((_, "")) => return None,
        Some((days, time)) => (days, time),
        None if text.is_empty() => return None,
        None => (text, ""),
    };
    let mut total = 0_u64;
    for (part, units) in
        [(days, &[('Y', 0), ('M', 0), ('D', 86_400)]), (time, &[('H', 3600), ('M', 60), ('S', 1)])]
    {
        let mut rest = part;
        for (unit, seconds) in units {
            let Some((number, behind)) = rest.split_once(*unit) else { continue };
            let (whole, part) = match number.split_once('.') {
                Some((whole, part)) if *unit == 'S' => (whole, micros(part)?),
                Some(_) => return None,
                None => (number, 0),
            };
            let whole = number_of(whole)?;
            if *seconds == 0 && whole != 0 {
                return None;
            }
            total = total.checked_add(whole.checked_mul(seconds * 1_000_000)?)?.checked_add(part)?;
            rest = behind;
        }
        if !rest.is_empty() {
            return None;
        }
    }
    Some(Datetime::Interval { microseconds: total })
}

fn number_of(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn parse_date(text: &str) -> Option<Datetime> {
    let (date, time) = text.split_once('T')?;
    let (time, offset_minutes) = split_zone(time)?;
    let mut ymd = date.splitn(3, '-').map(number_of);
    let (year, month, day) = (ymd.next()??, ymd.next()??, ymd.next()??);
    let (time, micros) = match time.split_once('.') {
        Some((time, part)) => (time, micros(part)?),
        None => (time, 0),
    };
    let mut hms = time.splitn(3, ':').map(number_of);
    let (hour, minute, second) = (hms.next()??, hms.next()??, hms.next()??);
    let midnight_after = (hour, minute, second, micros) == (24, 0, 0, 0);
    let date = civil::DateTime::new(
        i16::try_from(year).ok()?,
        i8::try_from(month).ok()?,
        i8::try_from(day).ok()?,
        if midnight_after { 0 } else { i8::try_from(hour).ok()? },
        i8::try_from(minute).ok()?,
        i8::try_from(second).ok()?,
        i32::try_from(micros * 1000).ok()?,
    )
    .ok()?;
    let date = if midnight_after { date.tomorrow().ok()? } else { date };
    instant(date, offset_minutes)
}

/// The time and the minutes east of UTC behind it.
fn split_zone(time: &str) -> Option<(&str, i16)> {
    if let Some(time) = time.strip_suffix('Z') {
        return Some((time, 0));
    }
    let Some(at) = time.find(['+', '-']) else { return Some((time, 0)) };
    let (hours, minutes) = time.get(at + 1..)?.split_once(':')?;
    let (hours, minutes) = (number_of(hours)?, number_of(minutes)?);
    if hours > 14 || minutes > 59 {
        return None;
    }
    let offset = i16::try_from(hours * 60 + minutes).ok()?;
    Some((&time[..at], if time[at..].starts_with('-') { -offset } else { offset }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_instant_reads_in_both_forms() {
        let cim = Datetime::parse_cim("20130415182843.488171+120").unwrap();
        assert_eq!(cim, Datetime::parse_xsd("2013-04-15T18:28:43.488171+02:00").unwrap());
        let Datetime::Instant { at, .. } = cim else { panic!("an interval") };
        assert_eq!(at.to_string(), "2013-04-15T16:28:43.488171Z");
        assert_eq!(cim.to_cim(), "20130415182843.488171+120");
        assert_eq!(cim.to_xsd(), "2013-04-15T18:28:43.488171+02:00");
    }

    #[test]
    fn an_interval_reads_in_both_forms() {
        let hundred = Datetime::seconds(100);
        assert_eq!(hundred.to_cim(), "00000000000140.000000:000");
        assert_eq!(hundred.to_xsd(), "P0DT0H1M40S");
        for text in ["PT100S", "P0DT0H1M40S", "PT1M40.000S", "P0Y0M0DT1M40S"] {
            assert_eq!(Datetime::parse_xsd(text), Some(hundred), "{text}");
        }
        assert_eq!(Datetime::parse_cim("00000000000140.000000:000"), Some(hundred));
    }

    #[test]
    fn what_is_no_datetime_is_not_read() {
        for text in [
            "",
            "20130415182843.488171",
            "20131315182843.488171+120",
            "20130415182843.488171:120",
            "20130415182843,488171+120",
            "00000000240000.000000:000",
            "\u{e9}0130415182843.488171+12",
        ] {
            assert_eq!(Datetime::parse_cim(text), None, "{text}");
        }
        for text in [
            "P",
            "PT",
            "P1Y",
            "P1M",
            "-PT1S",
            "PT1.S",
            "PT1H1H",
            "PT1",
            "2013-04-15",
            "2013-04-15T25:00:00Z",
            "2013-04-15T10:00:00+15:00",
            "P99999999999999999999D",
            "PT1S1M",
            "P-1D",
        ] {
            assert_eq!(Datetime::parse_xsd(text), None, "{text}");
        }
    }

    #[test]
    fn asterisks_read_as_the_least() {
        let day = Datetime::parse_cim("20130415******.******+***").unwrap();
        assert_eq!(day.to_xsd(), "2013-04-15T00:00:00Z");
    }

    #[test]
    fn midnight_may_be_written_as_24() {
        assert_eq!(Datetime::parse_xsd("2013-04-15T24:00:00Z"), Datetime::parse_xsd("2013-04-16T00:00:00Z"));
    }

    proptest! {
        #[test]
        fn instants_survive_both_forms(micros in 0_i64..4_102_444_800_000_000, offset in -840_i16..=840) {
            let at = Timestamp::from_microsecond(micros).unwrap();
            let datetime = Datetime::Instant { at, offset_minutes: offset };
            prop_assert_eq!(Datetime::parse_cim(&datetime.to_cim()), Some(datetime));
            prop_assert_eq!(Datetime::parse_xsd(&datetime.to_xsd()), Some(datetime));
        }

        #[test]
        fn intervals_survive_both_forms(microseconds in 0..=MAX_INTERVAL) {
            let datetime = Datetime::Interval { microseconds };
            prop_assert_eq!(Datetime::parse_cim(&datetime.to_cim()), Some(datetime));
            prop_assert_eq!(Datetime::parse_xsd(&datetime.to_xsd()), Some(datetime));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,40}", stamp in "[0-9*PTZ:.+-]{25}") {
            for text in [&text, &stamp] {
                let _read = (Datetime::parse_cim(text), Datetime::parse_xsd(text));
            }
        }
    }
}
