//! Who may send to this host: its authorization entries, and what they let a peer do.
//!
//! A change is durable before it is shown; changes exclude each other, and who reads never waits.
//!
//! A replica is bound to the entry that admitted it and to its primary's host. The host counts where the entry is gone:
//! its id, which its certificate has proven ([`crate::peers`]), outlives entries and names.
//!
//! Called by the management interfaces, and by sessions for each primary that connects.

use super::admission::takes_nothing;
use super::host::ReplicaHost;
use super::layer::refusal_of;
use super::reason::Entry;
use super::sender::Sender;
use crate::records::{self, ReplicaRecord};
use crate::tasks::to_its_end;
use standin_model::auth::AuthorizationEntry;
use standin_model::{AuthId, Refusal, VmId};
use standin_wire::PeerIdentity;
use std::sync::Arc;

impl ReplicaHost {
    /// The authorization entries.
    #[must_use]
    pub fn entries(&self) -> Vec<AuthorizationEntry> {
        self.entries.borrow().clone()
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// 32773 for a malformed one, 32774 for a pattern that is there, 32768 when it cannot be kept.
    pub async fn add_entry(
        self: &Arc<Self>,
        entry: AuthorizationEntry,
    ) -> Result<AuthorizationEntry, Refusal> {
        entry.validate()?;
        let host = Arc::clone(self);
        to_its_end(async move {
            let _one_at_a_time = host.changing.lock().await;
            free_pattern(&host.entries(), &entry)?;
            host.keep_entry(&entry).await?;
            host.entries.send_modify(|entries| entries.push(entry.clone()));
            // Its storage location may hold replicas of which the records are lost.
            host.find_again().await;
            Ok(entry)
        })
        .await
    }

    /// Removes an entry. VMs that it admitted stop being received; their points stay.
    ///
    /// # Errors
    /// 32779 for an unknown one.
    pub async fn remove_entry(self: &Arc<Self>, id: AuthId) -> Result<(), Refusal> {
        let host = Arc::clone(self);
        to_its_end(async move {
            {
                let _one_at_a_time = host.changing.lock().await;
                host.known_entry(id)?;
                records::delete(&host.shared.tables.entries, id).await?;
                host.entries.send_modify(|entries| entries.retain(|entry| entry.id != id));
            }
            host.end_sessions(|record| record.auth == id).await;
            Ok(())
        })
        .await
    }

    /// `ModifyAuthorizationEntry`: replaces the entry of the same id. What it admitted stays bound to it; a changed
    /// location is that of new replicas only.
    ///
    /// # Errors
    /// 32779 for an unknown one, 32773 for a malformed one, 32774 for a pattern that another entry has, 32768 when it
    /// cannot be kept; nothing changed then.
    pub async fn modify_entry(self: &Arc<Self>, entry: AuthorizationEntry) -> Result<(), Refusal> {
        entry.validate()?;
        let host = Arc::clone(self);
        to_its_end(async move {
            let id = entry.id;
            {
                let _one_at_a_time = host.changing.lock().await;
                free_pattern(&host.entries(), &entry)?;
                host.known_entry(id)?;
                host.keep_entry(&entry).await?;
                let same = |known: &&mut AuthorizationEntry| known.id == id;
                host.entries.send_modify(|entries| {
                    if let Some(place) = entries.iter_mut().find(same) {
                        *place = entry;
                    }
                });
            }
            // Who is connected was admitted by what it said before.
            host.end_sessions(|record| record.auth == id).await;
            Ok(())
        })
        .await
    }

    /// Writes an entry down, and takes its location in.
    async fn keep_entry(&self, entry: &AuthorizationEntry) -> Result<(), Refusal> {
        self.take_location(entry)?;
        records::put(&self.shared.tables.entries, entry.id, entry).await
    }

    fn known_entry(&self, id: AuthId) -> Result<(), Refusal> {
        let known = self.entries.borrow().iter().any(|entry| entry.id == id);
        if known { Ok(()) } else { Err(unknown_entry(id)) }
    }

    /// `SetAuthorizationEntry`: binds a replica to an entry, and so to its trust group: only hosts that entries of that
    /// group admit may send for it. Its disks stay where they are.
    ///
    /// # Errors
    /// 32779 for an unknown VM or entry, 32768 when it cannot be kept.
    pub async fn bind(&self, id: VmId, entry: AuthId) -> Result<(), Refusal> {
        let vm = self.find(id).ok_or_else(|| super::vm::unknown_replica(id))?;
        self.known_entry(entry)?;
        to_its_end(async move {
            let mut record = vm.lock().await;
            let before = (record.auth, record.bound);
            (record.auth, record.bound) = (entry, true);
            if let Err(refusal) = record.save().await {
                (record.auth, record.bound) = before;
                return Err(refusal);
            }
            drop(record);
            vm.end_session().await;
            Ok(())
        })
        .await
    }

    fn take_location(&self, entry: &AuthorizationEntry) -> Result<(), Refusal> {
        std::fs::create_dir_all(&entry.storage_location).map_err(|error| {
            Refusal::from(Entry::StorageUnusable {
                location: entry.storage_location.clone(),
                error: error.to_string(),
            })
        })?;
        self.shared.store.add_location(&entry.storage_location).map_err(|error| refusal_of(&error))
    }

    /// The entry that admits a peer.
    pub(super) fn entry_for(&self, peer: &PeerIdentity) -> Result<AuthorizationEntry, Refusal> {
        self.shared.service.admits()?;
        let entries = self.entries();
        AuthorizationEntry::choose(&entries, &peer.names).cloned().ok_or_else(|| not_authorised(peer))
    }

    /// Whether a peer may send for a replica, and the entry that it is bound to from then on.
    ///
    /// A host of the trust group of the replica's entry may. So may the very host that the replica belongs to, whichever
    /// entry admits it now, because entries are removed and added again, and hosts are renamed; but not where somebody
    /// bound the replica to an entry of another group, and that is there.
    pub(super) fn may_send(&self, peer: &Sender, record: &ReplicaRecord) -> Result<AuthId, Refusal> {
        self.shared.service.admits()?;
        let (entries, names) = (self.entries(), &peer.identity.names);
        let bound = entries.iter().find(|known| known.id == record.auth);
        let of_group = |bound: &AuthorizationEntry| {
            entries.iter().any(|known| known.trust_group == bound.trust_group && known.matches(names))
        };
        if bound.is_some_and(of_group) {
            return Ok(record.auth);
        }
        let elsewhere = bound.is_some() && record.bound;
        let own =
            AuthorizationEntry::choose(&entries, names).filter(|_| peer.is_source_of(record) && !elsewhere);
        own.map(|entry| entry.id).ok_or_else(|| not_authorised(&peer.identity))
    }

    /// The names by which this host knows the primary's host of a replica.
    fn names_of_source(&self, record: &ReplicaRecord) -> Vec<String> {
        let met = self.shared.peers.names(record.source());
        if met.is_empty() { vec![record.primary_host.clone()] } else { met }
    }

    /// Why nothing can be received for a replica, where that is for want of an entry.
    #[must_use]
    pub fn unadmitted(&self, record: &ReplicaRecord) -> Option<Refusal> {
        let entries = self.entries();
        let bound = entries.iter().any(|known| known.id == record.auth);
        let names = self.names_of_source(record);
        if bound || takes_nothing(record).is_some() || entries.iter().any(|known| known.matches(&names)) {
            return None;
        }
        Some(Entry::Unadmitted { vm: record.name.clone(), host: record.primary_host.clone() }.into())
    }
}

/// Two entries of one pattern would leave it to chance which one decides.
fn free_pattern(entries: &[AuthorizationEntry], entry: &AuthorizationEntry) -> Result<(), Refusal> {
    let same = entries.iter().find(|known| {
        known.id != entry.id && known.allowed_primary.eq_ignore_ascii_case(&entry.allowed_primary)
    });
    let Some(same) = same else { return Ok(()) };
    Err(Entry::PatternTaken { pattern: same.allowed_primary.clone(), id: same.id }.into())
}

fn unknown_entry(id: AuthId) -> Refusal {
    Entry::Unknown { id }.into()
}

fn not_authorised(peer: &PeerIdentity) -> Refusal {
    Entry::NotAuthorised { names: peer.names.clone() }.into()
}
