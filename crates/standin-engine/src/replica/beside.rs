//! The record of a replica as a file beside its disks, so that neither the loss of the database nor an older one takes
//! anything from a failover: settings, the host that it belongs to, its name here, network settings, a failover with its
//! overlay.
//!
//! ```text
//!   <replica's directory>/relationship.json    the record as it was stored last
//!   <replica's directory>/claim.json           who may run the VM, see [`crate::vm`]
//! ```
//!
//! It is written after the database, at every change of the record, under the record's lock; a cycle changes no record.
//! At the start the newer of both counts ([`newest`]), and is written to the other place.
//!
//! Called by [`super::vm`] for each change, and by [`super::host`] when replicas are found.

use super::layer::blocking;
use super::reason::Storage;
use crate::error::chain;
use crate::records::ReplicaRecord;
use standin_durable::{Content, Document, DocumentError, Files};
use standin_model::Refusal;
use std::path::{Path, PathBuf};

/// Its name in the replica's directory.
const NAME: &str = "relationship.json";

impl Content for ReplicaRecord {
    const KIND: &'static str = "standin replica";
    const VERSION: u32 = 1;
    const IF_LOST: &'static str = "the daemon writes it again from its database (state.redb)";
}

/// The record beside the disks; `None` where there is none, as a version before has left it. Blocks.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn read(files: &Files, directory: &Path) -> Result<Option<ReplicaRecord>, DocumentError> {
    Document::open(files.clone(), directory.join(NAME))?.read()
}

/// Replaces the record beside the disks, durably.
///
/// # Errors
/// 32768 with the reason; the one of before is there.
pub(super) async fn write(files: &Files, directory: PathBuf, record: &ReplicaRecord) -> Result<(), Refusal> {
    let (files, record) = (files.clone(), record.clone());
    blocking(move || {
        let written = Document::open(files, directory.join(NAME)).and_then(|file| file.write(&record));
        written.map_err(|error| {
            Refusal::from(Storage::RecordNotKept { vm: record.name.clone(), error: chain(&error) })
        })
    })
    .await
}

/// Of the record in the database and the one beside the disks, the one that counts.
///
/// Of the same replica that is the newer one: either may come from an older backup. Of two replicas it is the one beside
/// the disks that are there; but where the database's is of a version before, which knows no ids, that version has been
/// run since, and did not see the other.
pub(super) fn newest(stored: ReplicaRecord, beside: Option<ReplicaRecord>) -> ReplicaRecord {
    let Some(beside) = beside.filter(|beside| beside.vm == stored.vm) else { return stored };
    let same = stored.replica == beside.replica;
    if (same && beside.revision > stored.revision) || (!same && !stored.replica.is_nil()) {
        return beside;
    }
    stored
}

#[cfg(test)]
mod tests;
