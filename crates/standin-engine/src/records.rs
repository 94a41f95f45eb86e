//! What the engine keeps across restarts, as JSON in the state store, one record a key:
//!
//! | Key | Record |
//! | --- | --- |
//! | `relationship/<vm>/<index>` | [`RelationshipRecord`]: this host sends the VM, or receives it |
//! | `vm/<vm>` | [`VmRecord`]: who may run it |
//! | `peer/<host>` | [`PeerRecord`] |
//! | `witnessed/<vm>` | [`WitnessRecord`]: a claim that others recorded with this host |
//! | `witness/log` | [`WitnessLog`] |
//! | `auth/<id>` | an authorization entry |
//! | `job/<id>` | a job |
//! | `service/settings` | [`ServiceRecord`] |
//!
//! Every record has a schema version, and a record of a newer one than is known here is an error: the older daemon must not
//! go on over what it does not understand. What versions before kept under other keys is taken up by [`take_up`].
//!
//! A replica's layers and points are not here: they are in the manifest beside the disks, so that a replica can
//! be rescued without this store. Beside them is a copy of a receiver's record too, see [`crate::replica::beside`].

mod earlier;
pub(crate) mod reason;

pub use earlier::take_up;

use crate::messages::DiskShape;
use crate::vm::{VmRecord, WitnessLog, WitnessRecord};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use standin_hypervisor::Tracker;
use standin_model::auth::AuthorizationEntry;
use standin_model::fence::Assertion;
use standin_model::job::JobRecord;
use standin_model::network::{AppliedNetwork, NetworkSettings};
use standin_model::point::PointKind;
use standin_model::service::AllowedAuthentication;
use standin_model::settings::RelationshipSettings;
use standin_model::state::ReplicationState;
use standin_model::stats::{Monitor, Window};
use standin_model::{
    AuthId, Epoch, HostId, JobId, PointId, Refusal, RelationshipId, ReturnCode, VmId, VmName,
};
use standin_state::{Expect, StateError, StateStore, Typed};
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use uuid::Uuid;

/// An error of the last piece of work, for `status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LastError {
    /// When.
    pub at: Timestamp,
    /// What, in a sentence.
    pub message: String,
    /// What to do.
    pub remedy: String,
    /// The stable name of the reason; empty in records of a version before.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl LastError {
    /// What has just been refused or gone wrong.
    #[must_use]
    pub fn now(refusal: Refusal) -> Self {
        let reason = refusal.named().unwrap_or_default();
        Self { at: Timestamp::now(), message: refusal.message, remedy: refusal.remedy, reason }
    }

    /// What it was. The record has no code: whoever looks at it sees that something failed.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        Refusal::told(ReturnCode::Failed, self.reason.clone(), self.message.clone(), self.remedy.clone())
    }
}

/// The primary's side of a relationship.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PrimaryRecord {
    /// Which VM.
    pub vm: VmId,
    /// Which of its relationships, see [`RelationshipId`].
    #[serde(default)]
    pub index: u32,
    /// Its name.
    pub name: VmName,
    /// The replica's `host:port`.
    pub peer: String,
    /// What was agreed.
    pub settings: RelationshipSettings,
    /// The disks and their sizes when replication was enabled.
    pub disks: Vec<DiskShape>,
    /// The durable state; transient ones are mapped at start, see [`standin_model::state::after_restart`].
    pub state: ReplicationState,
    /// The replica's host; `None` until it has told, and from a version before.
    #[serde(default)]
    pub host: Option<HostId>,
    /// Names this relationship's marks in the hypervisor.
    pub tracker: Tracker,
    /// The newest epoch that the replica acknowledged as durable.
    pub acknowledged: Option<Epoch>,
    /// The cut of the newest acknowledged recovery point.
    pub last_point_at: Option<Timestamp>,
    /// The cut of the newest application-consistent point, or the try at one.
    pub last_application_at: Option<Timestamp>,
    /// The last error, until a cycle ends well.
    pub last_error: Option<LastError>,
    /// Errors in a row.
    pub failures: u32,
    /// Counters of the monitoring window.
    pub statistics: Monitor,
    /// The job that a restart goes on with (first copy, resynchronization).
    pub job: Option<JobId>,
    /// The initial replication does not begin before this.
    #[serde(default)]
    pub start_at: Option<Timestamp>,
    /// The kind of the newest acknowledged point.
    #[serde(default)]
    pub last_kind: Option<PointKind>,
    /// When the relationship was made.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// What the VM's network cards get at a failover; the replica has it too.
    #[serde(default)]
    pub network: NetworkSettings,
    /// The replica's digests were not those of what was sent, and no cycle since has shown otherwise.
    #[serde(default)]
    pub doubted: bool,
    /// When this record was last written while it was known how far the replica is; `None` before, and from a version
    /// before.
    #[serde(default)]
    pub saved_at: Option<Timestamp>,
    /// The replica was there when the relationship was made, with so many recovery points: what this host has recorded of
    /// changes does not count until both sides were compared.
    #[serde(default)]
    pub found: Option<u64>,
}

/// What became of the network settings at a failover.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// The settings it is about.
    pub settings: NetworkSettings,
    /// How far they are.
    pub applied: AppliedNetwork,
    /// The guest's agent did not answer: the next start hands them over by a disk.
    pub agent_silent: bool,
}

/// A failover under way or done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FailoverRecord {
    /// The point.
    pub point: PointId,
    /// Its kind.
    pub kind: PointKind,
    /// Names the overlay in the store.
    pub overlay: String,
    /// The state to go back to when it fails or is reverted.
    pub prior: ReplicationState,
    /// The job that does it; after that, the one that reverts or commits it.
    pub job: Option<JobId>,
    /// It is being reverted: what has begun to go must go, also after a restart.
    #[serde(default)]
    pub reverting: bool,
    /// What its VM wrote becomes a recovery point before it is reverted.
    #[serde(default)]
    pub kept: Option<KeptCopy>,
    /// Start the VM when the failover is done.
    pub start: bool,
    /// What was asserted of the primary when it was begun.
    #[serde(default)]
    pub asserted: Option<Assertion>,
    /// Who held the VM before, and gets it back by a revert. `None` before it is taken, and from a version before.
    #[serde(default)]
    pub from: Option<HostId>,
    /// The instant of the cut of the point.
    pub point_at: Timestamp,
    /// The network settings; `None` before the VM is started, and without any.
    #[serde(default)]
    pub network: Option<NetworkRecord>,
}

/// The point that is made of a copy that is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptCopy {
    /// Chosen when it was decided, so that a restart makes the same one.
    pub point: PointId,
    /// When it was decided.
    pub at: Timestamp,
}

/// The replica's side of a relationship.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplicaRecord {
    /// Which VM.
    pub vm: VmId,
    /// Which of its relationships, see [`RelationshipId`].
    #[serde(default)]
    pub index: u32,
    /// Its name on this host, see [`crate::replica::local_name`].
    pub name: VmName,
    /// Its name on its primary, as that offered it, where it is another one.
    #[serde(default)]
    pub primary_name: Option<VmName>,
    /// The first certificate name of the host that made the relationship.
    pub primary_host: String,
    /// That host; `None` from a version before.
    #[serde(default)]
    pub host: Option<HostId>,
    /// The entry that admitted it.
    pub auth: AuthId,
    /// Somebody bound it to that entry: while there is such a one, nobody sends but hosts of its trust group.
    #[serde(default)]
    pub bound: bool,
    /// Where its directory is.
    pub location: PathBuf,
    /// The primary's settings.
    pub settings: RelationshipSettings,
    /// The disks in stream order.
    pub disks: Vec<DiskShape>,
    /// The durable state.
    pub state: ReplicationState,
    /// A failover that is under way, done or committed.
    pub failover: Option<FailoverRecord>,
    /// The kind of the point of the last failover, for the API; kept after a revert.
    pub last_failover_kind: Option<PointKind>,
    /// When the last layer became durable.
    pub last_received_at: Option<Timestamp>,
    /// The newest epoch that was durable when the record was last written; `None` from a version before.
    #[serde(default)]
    pub last_epoch: Option<Epoch>,
    /// The cut of the newest point.
    pub last_point_at: Option<Timestamp>,
    /// The last error, until something is received again.
    pub last_error: Option<LastError>,
    /// Counters of the monitoring window.
    pub statistics: Monitor,
    /// What the VM's network cards get at a failover, as it was set on this host.
    #[serde(default)]
    pub network: NetworkSettings,
    /// The same, as it was set on the primary.
    #[serde(default)]
    pub primary_network: NetworkSettings,
    /// Which replica: one that is made anew has another id. Nil from a version before.
    #[serde(default)]
    pub replica: Uuid,
    /// Counts the changes of this record: of two copies of it the higher one is newer.
    #[serde(default)]
    pub revision: u64,
}

impl PrimaryRecord {
    /// Which relationship.
    #[must_use]
    pub fn id(&self) -> RelationshipId {
        RelationshipId { vm: self.vm, index: self.index }
    }
}

impl ReplicaRecord {
    /// One of which nothing is known but the VM, its name here, its directory's place and the windows of its statistics:
    /// waiting for its initial replication, bound to no host and no entry, never saved.
    #[must_use]
    pub fn blank(vm: VmId, name: VmName, location: PathBuf, statistics: Monitor) -> Self {
        Self {
            vm,
            index: 0,
            name,
            primary_name: None,
            primary_host: String::new(),
            host: None,
            auth: AuthId(Uuid::nil()),
            bound: false,
            location,
            settings: RelationshipSettings::default(),
            disks: Vec::new(),
            state: ReplicationState::WaitingForInitialReplication,
            failover: None,
            last_failover_kind: None,
            last_received_at: None,
            last_epoch: None,
            last_point_at: None,
            last_error: None,
            statistics,
            network: NetworkSettings::default(),
            primary_network: NetworkSettings::default(),
            replica: Uuid::nil(),
            revision: 0,
        }
    }

    /// The host that made the relationship.
    #[must_use]
    pub fn source(&self) -> HostId {
        self.host.unwrap_or_else(|| HostId::of_name(&self.primary_host))
    }

    /// Which relationship.
    #[must_use]
    pub fn id(&self) -> RelationshipId {
        RelationshipId { vm: self.vm, index: self.index }
    }

    /// The name that the VM has on its primary.
    #[must_use]
    pub fn primary_name(&self) -> &VmName {
        self.primary_name.as_ref().unwrap_or(&self.name)
    }

    /// Gives the VM another name on this host; that on its primary stays.
    pub fn give_name(&mut self, name: VmName) {
        let primary = self.primary_name().clone();
        self.name = name;
        self.note_primary_name(&primary);
    }

    /// Takes note of the name that the VM has on its primary; that on this host stays.
    pub fn note_primary_name(&mut self, name: &VmName) {
        self.primary_name = Some(name.clone()).filter(|name| *name != self.name);
    }
}

/// This host's side of a relationship.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelationshipRecord {
    /// It sends.
    Sender(Box<PrimaryRecord>),
    /// It receives.
    Receiver(Box<ReplicaRecord>),
}

impl From<PrimaryRecord> for RelationshipRecord {
    fn from(record: PrimaryRecord) -> Self {
        Self::Sender(Box::new(record))
    }
}

impl From<ReplicaRecord> for RelationshipRecord {
    fn from(record: ReplicaRecord) -> Self {
        Self::Receiver(Box::new(record))
    }
}

/// A host that this one has met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// Which host.
    pub id: HostId,
    /// The names of its certificate, which its id is bound to.
    pub names: Vec<String>,
    /// Where it listens, as `host:port`; the one that answered last is first.
    pub addresses: Vec<String>,
    /// What it said it runs, for people.
    pub software: String,
    /// When it was last heard.
    pub last_seen: Timestamp,
}

/// What was set of [`standin_model::ServiceSettings`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// This host takes in replicas.
    pub recovery_server_enabled: bool,
    /// How primaries may prove who they are.
    pub authentication: AllowedAuthentication,
    /// Where the windows of the statistics lie; as configured when it was never set.
    pub monitoring: Option<Window>,
}

/// The tables, by kind of record.
#[derive(Clone)]
pub struct Tables {
    /// Relationships, by [`RelationshipId`].
    pub relationships: Typed<RelationshipRecord>,
    /// VMs that ever replicated.
    pub vms: Typed<VmRecord>,
    /// Other hosts.
    pub peers: Typed<PeerRecord>,
    /// Claims that others recorded with this host.
    pub witnessed: Typed<WitnessRecord>,
    /// Which records those are.
    pub witness_log: Typed<WitnessLog>,
    /// Authorization entries.
    pub entries: Typed<AuthorizationEntry>,
    /// Jobs.
    pub jobs: Typed<JobRecord>,
    /// Settings of the service.
    pub service: Typed<ServiceRecord>,
}

impl Tables {
    /// The tables of a store. All are at their first schema version, so there is nothing to bring up.
    #[must_use]
    pub fn new(store: &Arc<dyn StateStore>) -> Self {
        Self {
            relationships: Typed::new(Arc::clone(store), "relationship", &[]),
            vms: Typed::new(Arc::clone(store), "vm", &[]),
            peers: Typed::new(Arc::clone(store), "peer", &[]),
            witnessed: Typed::new(Arc::clone(store), "witnessed", &[]),
            witness_log: Typed::new(Arc::clone(store), "witness", &[]),
            entries: Typed::new(Arc::clone(store), "auth", &[]),
            jobs: Typed::new(Arc::clone(store), "job", &[]),
            service: Typed::new(Arc::clone(store), "service", &[]),
        }
    }
}

fn failed(key: &str, error: &StateError) -> Refusal {
    reason::Record::not_kept(key.to_owned(), error).into()
}

/// Reads a record.
///
/// # Errors
/// 32768 when the store cannot be read or holds what this version does not understand.
pub async fn get<T: Serialize + DeserializeOwned>(
    table: &Typed<T>,
    id: impl Display,
) -> Result<Option<T>, Refusal> {
    let key = table.key(&id);
    match table.get(id).await {
        Ok(found) => Ok(found.map(|(record, _)| record)),
        Err(error) => Err(reason::Record::Unreadable { key, error: crate::error::chain(&error) }.into()),
    }
}

/// Writes a record, durably.
///
/// # Errors
/// 32768 with the store's reason, 32778 when there was no memory for it.
pub async fn put<T: Serialize + DeserializeOwned>(
    table: &Typed<T>,
    id: impl Display,
    record: &T,
) -> Result<(), Refusal> {
    let key = table.key(&id);
    table.put(id, record, Expect::Any).await.map(|_| ()).map_err(|error| failed(&key, &error))
}

/// Removes a record, durably. One that is not there is no error.
///
/// # Errors
/// 32768 with the store's reason, 32778 when there was no memory for it.
pub async fn delete<T: Serialize + DeserializeOwned>(
    table: &Typed<T>,
    id: impl Display,
) -> Result<(), Refusal> {
    let key = table.key(&id);
    table.delete(id, Expect::Any).await.map(|_| ()).map_err(|error| failed(&key, &error))
}

/// Every record of a table.
///
/// # Errors
/// When the store cannot be read or holds what this version does not understand.
pub async fn list<T: Serialize + DeserializeOwned>(table: &Typed<T>) -> Result<Vec<T>, StateError> {
    Ok(table.list().await?.into_iter().map(|(_, record, _)| record).collect())
}

/// The relationships in which this host sends.
///
/// # Errors
/// As [`list`].
pub async fn senders(tables: &Tables) -> Result<Vec<PrimaryRecord>, StateError> {
    let all = list(&tables.relationships).await?.into_iter();
    Ok(all
        .filter_map(|record| match record {
            RelationshipRecord::Sender(record) => Some(*record),
            RelationshipRecord::Receiver(_) => None,
        })
        .collect())
}

/// The relationships in which this host receives.
///
/// # Errors
/// As [`list`].
pub async fn receivers(tables: &Tables) -> Result<Vec<ReplicaRecord>, StateError> {
    let all = list(&tables.relationships).await?.into_iter();
    Ok(all
        .filter_map(|record| match record {
            RelationshipRecord::Sender(_) => None,
            RelationshipRecord::Receiver(record) => Some(*record),
        })
        .collect())
}
