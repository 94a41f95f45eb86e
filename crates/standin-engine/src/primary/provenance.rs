//! Whether what this host has recorded of changes is about the replica that is there: the marks count from an epoch that
//! both sides must have sealed in one history. Where one side was lost, or an older copy of it put back, only a comparison
//! tells what differs; the recovery points that are there stay.
//!
//! ```text
//!   replica  ----- head                          ----- acknowledged here, gone there:  its disks are older
//!   primary  ----- acknowledged    (+1 at most)  ----- head                        :  these records are older
//! ```
//!
//! A daemon that was killed may be behind by more than one epoch, because its record is written some seconds after a cycle
//! ([`super::task`]): what the replica has then was cut soon after that.
//!
//! Called by [`super::cycle`] before a mark is believed, and by [`super::asking`] while nothing is sent.

use super::task::SAVE_EVERY;
use crate::error::WorkError;
use crate::messages::Opened;
use crate::records::PrimaryRecord;
use jiff::{SignedDuration, Timestamp};

/// What was cut later after the record was written than this was not of the process that wrote it: a cycle is written down
/// within [`SAVE_EVERY`] of its end, and one more may have been under way.
const OF_ONE_PROCESS: SignedDuration = SignedDuration::from_secs(3 * SAVE_EVERY.as_secs() as i64);

/// Why the marks do not count; `None` when they do.
pub(super) fn doubt(record: &PrimaryRecord, opened: &Opened) -> Option<WorkError> {
    let head = opened.head?.0;
    if let Some(points) = record.found {
        return Some(WorkError::TrackingLost(format!(
            "the replica was found with {points} recovery points of before this relationship"
        )));
    }
    let known = record.acknowledged.map_or(0, |epoch| epoch.0);
    if head < known {
        return Some(WorkError::ReplicaOlder {
            vm: record.name.clone(),
            peer: record.peer.clone(),
            lost: known - head,
            since: opened.newest.as_ref().map(|newest| newest.created_at),
            until: record.last_point_at,
        });
    }
    let newest = opened.newest.as_ref().map(|newest| newest.created_at);
    (head > known + 1 && is_of_before(record, newest)).then(|| {
        WorkError::TrackingLost(format!(
            "this host has a record of epoch {known} and the replica has epoch {head}: an older data directory of this \
             host was put back"
        ))
    })
}

/// The record is older than one that a daemon leaves when it is killed.
fn is_of_before(record: &PrimaryRecord, newest: Option<Timestamp>) -> bool {
    let written = record.saved_at.or(record.last_point_at).or(record.created_at);
    newest.zip(written).is_some_and(|(newest, written)| newest.duration_since(written) > OF_ONE_PROCESS)
}

#[cfg(test)]
mod tests;
