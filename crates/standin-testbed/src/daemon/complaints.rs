//! What a daemon under test warns of or calls an error, and whether the test had to expect it.
//!
//! A daemon that complains while nothing is wrong teaches its operators to look away. So each line of level WARN or
//! ERROR that no test named beforehand ends that test.

/// The host that a VM failed over from, and learned it.
pub const OF_THE_OLD_HOST: &[&str] =
    &["another host has a newer claim on a VM", "runs here, and host-b holds it (claim"];

/// The host that started a VM on somebody's word that the other one is down.
pub const OF_AN_ASSERTION: &[&str] = &["a VM is started that no other host confirmed"];

/// The host of a VM whose QEMU ended, and its tracking with it, in the middle of any call.
pub const OF_LOST_TRACKING: &[&str] = &[
    "work failed",
    "old marks are left",
    "dirty bitmaps are left",
    "a view was not closed cleanly",
    "what other hosts say of a VM cannot be compared",
];

/// Faults of every kind are injected, or times are measured: what counts there is judged otherwise.
pub const ANY: &[&str] = &[""];

/// Lines of `log` with level WARN or ERROR that contain none of `expected`.
pub fn unexpected<'l>(log: &'l str, expected: &[String]) -> Vec<&'l str> {
    log.lines().filter(|line| complains(line)).filter(|line| !is_expected(line, expected)).collect()
}

fn is_expected(line: &str, expected: &[String]) -> bool {
    expected.iter().any(|words| line.contains(words.as_str()))
}

/// A line of the plain format: `2026-03-01T13:05:09.123Z  WARN target: ...`.
fn complains(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    let time = words.next().unwrap_or_default();
    time.ends_with('Z') && time.contains('T') && matches!(words.next(), Some("WARN" | "ERROR"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complaints_that_nobody_named_are_unexpected() {
        let log = "2026-03-01T13:05:09.123Z  INFO standin: a WARN of it\n\
                   2026-03-01T13:05:09.124Z  WARN standin_engine: the disk is full vm=web\n\
                   2026-03-01T13:05:09.125Z ERROR standin_engine: lost\n\
                   WARN not from the daemon";
        let expected = vec!["the disk is full".to_owned()];
        assert_eq!(unexpected(log, &[]).len(), 2);
        assert_eq!(unexpected(log, &expected), ["2026-03-01T13:05:09.125Z ERROR standin_engine: lost"]);
    }
}
