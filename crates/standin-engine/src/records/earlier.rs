//! Takes up what versions before kept: `primary/<vm>` and `replica/<vm>` become `relationship/<vm>/<index>`.
//!
//! Each record moves in one transaction, so it is never at both places and never at none, and a crash between two leaves
//! the rest for the next start. Whoever went back to the version before for a while finds what that one wrote taken up
//! again, in place of what it did not see.

use super::{PrimaryRecord, RelationshipRecord, ReplicaRecord, Tables};
use serde::Serialize;
use serde::de::DeserializeOwned;
use standin_model::RelationshipId;
use standin_state::{Expect, Op, StateError, Typed};
use std::sync::Arc;

/// Takes up the records of versions before. Called before anything else reads relationships; does nothing where there is
/// nothing to take up.
///
/// # Errors
/// When the store cannot be read or written, or holds what this version does not understand.
pub async fn take_up(tables: &Tables) -> Result<(), StateError> {
    // Receivers first: index 0 is theirs, should one VM have been sent on from its replica's host.
    take_up_table::<ReplicaRecord>(tables, "replica").await?;
    take_up_table::<PrimaryRecord>(tables, "primary").await
}

/// A record that was kept by the VM alone.
trait Earlier: Serialize + DeserializeOwned + Into<RelationshipRecord> {
    fn id(&self) -> RelationshipId;
    fn move_to(&mut self, index: u32);
    fn is_same_role(record: &RelationshipRecord) -> bool;
}

impl Earlier for PrimaryRecord {
    fn id(&self) -> RelationshipId {
        Self::id(self)
    }
    fn move_to(&mut self, index: u32) {
        self.index = index;
    }
    fn is_same_role(record: &RelationshipRecord) -> bool {
        matches!(record, RelationshipRecord::Sender(_))
    }
}

impl Earlier for ReplicaRecord {
    fn id(&self) -> RelationshipId {
        Self::id(self)
    }
    fn move_to(&mut self, index: u32) {
        self.index = index;
    }
    fn is_same_role(record: &RelationshipRecord) -> bool {
        matches!(record, RelationshipRecord::Receiver(_))
    }
}

async fn take_up_table<T: Earlier>(tables: &Tables, prefix: &'static str) -> Result<(), StateError> {
    let earlier: Typed<T> = Typed::new(Arc::clone(tables.relationships.store()), prefix, &[]);
    for (id, record, revision) in earlier.list().await? {
        let put = place(tables, record).await?;
        let key = put.key().to_owned();
        let take_away = earlier.delete_op(&id, Expect::At(revision));
        tables.relationships.store().transaction(vec![put, take_away]).await?;
        tracing::info!(from = %earlier.key(&id), to = %key, "a record of the version before was taken up");
    }
    Ok(())
}

/// Where the record goes: to the first place that is free, or has a record of the same role.
async fn place<T: Earlier>(tables: &Tables, mut record: T) -> Result<Op, StateError> {
    loop {
        let id = record.id();
        let expect = match tables.relationships.get(id).await? {
            None => Expect::Absent,
            Some((found, revision)) if T::is_same_role(&found) => Expect::At(revision),
            Some(_) => {
                record.move_to(id.index + 1);
                continue;
            }
        };
        return tables.relationships.put_op(id, &record.into(), expect);
    }
}

#[cfg(test)]
mod tests;
