//! What a daemon under test warns of or calls an error, and whether the test had to expect it.
//!
//! A daemon that complains while nothing is wrong teaches its operators to look away. So each line of level WARN or
//! ERROR that no test named beforehand ends that test.

/// The host that a VM failed over from, and learned it.
pub const OF_THE_OLD_HOST: &[&str] =
    &["another host has a newer claim on a VM", "runs here, and host-b holds it (claim"];

/// The host that started a VM on somebody's word that the other one is down.
pub const OF_AN_ASSERTION: &[&str] = &["a VM is started that no other host confirmed"];

/// A host that hears of a VM of its own, of which it has no record, that another host holds.
pub const OF_A_NAMESAKE: &[&str] = &["another host holds a VM of which this host has no record"];

/// Hosts that meet while both run a VM.
pub const OF_TWO_COPIES: &[&str] = &[
    "another host has a newer claim on a VM",
    "at once; ",
    "was forced to run both here and on",
    // It ends when somebody stops it: standin stops none that somebody else started.
    "standin does not pause VM",
];

/// A host whose VM ended by a command, in the middle of any call about it.
pub const OF_A_STOPPED_VM: &[&str] = &[
    ".qmp: ",
    "old marks are left",
    "a view was not closed cleanly",
    "what other hosts say of a VM cannot be compared",
];

/// The host of a VM whose marks do not count: a raw disk after a stop, or an older record.
pub const OF_A_COMPARISON: &[&str] = &["change tracking was lost"];

/// The host of a VM whose replica does not answer.
pub const OF_A_SILENT_HOST: &[&str] = &["cannot connect to", "the link with", "does not answer"];

/// Both hosts, while no entry admits the primary.
pub const OF_AN_ENTRY: &[&str] = &["is not authorised to replicate to this host"];

/// Both hosts, after the end of a relationship on one of them.
pub const OF_A_REMOVED_RELATIONSHIP: &[&str] =
    &["the replica was not told", "this host has no replica of VM", "its recovery server is disabled"];

/// A host whose database is gone, and what it knows is found beside the disks.
pub const OF_A_LOST_DATABASE: &[&str] = &[
    "the database has no record of this replica; it was found by what lies beside its disks",
    "the claim on a VM was found in a file only; the database was lost",
];

/// Both hosts, while no manifest of a replica can be read.
pub const OF_A_LOST_MANIFEST: &[&str] = &["the manifest of the replica of VM"];

/// A replica host whose directories of replicas were copied.
pub const OF_A_COPIED_REPLICA: &[&str] = &["this is a second copy of a replica"];

/// Both hosts, when an older backup of the replica's disks was put back.
pub const OF_OLDER_DISKS: &[&str] = &["are an older copy", "has lost up to"];

/// A host that runs a VM of which its data directory, an older one, knows nothing.
pub const OF_AN_UNKNOWN_VM: &[&str] = &[
    "a VM runs here of which the data directory knows nothing",
    "runs here, and host-a holds it (claim",
    "a VM of the replica's id is there that this failover did not make",
];

/// Hosts that see an id with another certificate, or another id with a certificate.
pub const OF_ANOTHER_IDENTITY: &[&str] =
    &["presents the host id", "has the host id", "a host has another id from now on, as an operator says"];

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
