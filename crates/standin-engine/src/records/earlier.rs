//! Takes up what versions before kept: `primary/<vm>` and `replica/<vm>` become `relationship/<vm>/<index>`.
//!
//! Each record moves in one transaction, so it is never at both places and never at none, and a crash between two leaves
//! the rest for the next start. Whoever went back to the version before for a while finds what that one wrote taken up
//! again, in place of what it did not see.

use super::{PrimaryRecord, RelationshipRecord, ReplicaRecord, Tables};
use crate::peers;
use crate::vm::VmRecord;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use standin_model::fence::{Claim, Fence, KnownHost, Role};
use standin_model::{Generation, HostId, RelationshipId};
use standin_state::{Expect, Op, StateError, Typed};
use std::sync::Arc;

/// Takes up the records of versions before. Called before anything else reads relationships; does nothing where there is
/// nothing to take up.
///
/// # Errors
/// When the store cannot be read or written, or holds what this version does not understand.
pub async fn take_up(tables: &Tables, me: HostId) -> Result<(), StateError> {
    // Receivers first: index 0 is theirs, should one VM have been sent on from its replica's host.
    take_up_table::<EarlierReplica>(tables, "replica", me).await?;
    take_up_table::<EarlierPrimary>(tables, "primary", me).await
}

/// What a primary had of the right to run its VM.
#[derive(Serialize, Deserialize)]
struct EarlierPrimary {
    #[serde(flatten)]
    record: PrimaryRecord,
    #[serde(default)]
    generation: Generation,
    #[serde(default)]
    fenced: bool,
}

/// What a replica had of it.
#[derive(Serialize, Deserialize)]
struct EarlierReplica {
    #[serde(flatten)]
    record: ReplicaRecord,
    #[serde(default)]
    generation: Generation,
}

impl From<EarlierPrimary> for RelationshipRecord {
    fn from(earlier: EarlierPrimary) -> Self {
        earlier.record.into()
    }
}

impl From<EarlierReplica> for RelationshipRecord {
    fn from(earlier: EarlierReplica) -> Self {
        earlier.record.into()
    }
}

/// The fence of a VM whose one other host is `other`. That version told no ids: both the claim and the host are known by
/// their names until the host tells its own.
fn fence_of(claim: Claim, other: HostId, known: KnownHost) -> Fence {
    let mut fence = Fence::new(claim);
    fence.hosts.insert(other, known);
    fence
}

/// A record that was kept by the VM alone.
trait Earlier: Serialize + DeserializeOwned + Into<RelationshipRecord> {
    fn id(&self) -> RelationshipId;
    fn move_to(&mut self, index: u32);
    fn is_same_role(record: &RelationshipRecord) -> bool;
    fn vm_record(&self, me: HostId) -> VmRecord;
}

impl Earlier for EarlierPrimary {
    fn id(&self) -> RelationshipId {
        self.record.id()
    }
    fn move_to(&mut self, index: u32) {
        self.record.index = index;
    }
    fn is_same_role(record: &RelationshipRecord) -> bool {
        matches!(record, RelationshipRecord::Sender(_))
    }
    fn vm_record(&self, me: HostId) -> VmRecord {
        let record = &self.record;
        let name = peers::host_of(&record.peer).to_owned();
        let replica = HostId::of_name(&name);
        let claim = Claim::unnamed(self.generation, if self.fenced { replica } else { me });
        let addresses = vec![record.peer.clone()];
        let known = KnownHost { name, addresses, role: Role::Replica, accepted: None };
        VmRecord::new(record.vm, record.name.clone(), fence_of(claim, replica, known))
    }
}

impl Earlier for EarlierReplica {
    fn id(&self) -> RelationshipId {
        self.record.id()
    }
    fn move_to(&mut self, index: u32) {
        self.record.index = index;
    }
    fn is_same_role(record: &RelationshipRecord) -> bool {
        matches!(record, RelationshipRecord::Receiver(_))
    }
    fn vm_record(&self, me: HostId) -> VmRecord {
        let record = &self.record;
        let source = record.source();
        let claim = Claim::unnamed(self.generation, if record.state.is_failed_over() { me } else { source });
        let name = record.primary_host.clone();
        let known = KnownHost { name, addresses: Vec::new(), role: Role::Source, accepted: None };
        VmRecord::new(record.vm, record.name.clone(), fence_of(claim, source, known))
    }
}

async fn take_up_table<T: Earlier>(
    tables: &Tables,
    prefix: &'static str,
    me: HostId,
) -> Result<(), StateError> {
    let earlier: Typed<T> = Typed::new(Arc::clone(tables.relationships.store()), prefix, &[]);
    for (id, record, revision) in earlier.list().await? {
        let fence = fence_op(tables, record.vm_record(me)).await?;
        let put = place(tables, record).await?;
        let key = put.key().to_owned();
        let take_away = earlier.delete_op(&id, Expect::At(revision));
        let ops = [put, take_away].into_iter().chain(fence).collect();
        tables.relationships.store().transaction(ops).await?;
        tracing::info!(from = %earlier.key(&id), to = %key, "a record of the version before was taken up");
    }
    Ok(())
}

/// The fence is kept where none is known yet, or an older one.
async fn fence_op(tables: &Tables, record: VmRecord) -> Result<Option<Op>, StateError> {
    let expect = match tables.vms.get(record.vm).await? {
        None => Expect::Absent,
        Some((known, revision)) if known.fence.claim.number < record.fence.claim.number => {
            Expect::At(revision)
        }
        Some(_) => return Ok(None),
    };
    tables.vms.put_op(record.vm, &record, expect).map(Some)
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
