//! The hosts that this one has met: their ids, and the certificates that they are bound to.
//!
//! An id is presented in a hello, and anybody can write anything there; a certificate is proven. So an id belongs to the
//! certificate names with which it was seen first, and whoever presents it with another certificate is refused, until an
//! operator binds it anew. What counts of the names is the first one that is no name of every host (`localhost`): a
//! renewed certificate still carries it, and one that is shared (an alias) is not taken for it.
//!
//! A certificate may stand behind several ids, one after the other: a host whose data directory was made anew.

use super::reason;
use crate::records::{self, PeerRecord, Tables};
use jiff::Timestamp;
use standin_model::{HostId, Refusal};
use standin_state::StateError;
use standin_wire::{Hello, PeerIdentity};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Ids that may stand behind one certificate. The oldest gives way: nobody fills the records of a host by making ids up.
pub(super) const IDS: usize = 8;
/// Addresses that are kept of a host.
const ADDRESSES: usize = 4;

/// Who is at the other end of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub id: HostId,
    /// The name of its certificate that it is known by.
    pub name: String,
    /// All names that it has proven: those of its certificate, and the one or the IP address that was dialled.
    pub names: Vec<String>,
    /// Where it can be reached (`host:port`), as far as is known.
    pub address: Option<String>,
}

impl Peer {
    /// The ids under which it may be known from when its release told none.
    pub fn former_ids(&self) -> impl Iterator<Item = HostId> + '_ {
        former_ids(&self.names)
    }
}

/// The ids that were made of names, before the host told its own.
pub fn former_ids(names: &[String]) -> impl Iterator<Item = HostId> + '_ {
    names.iter().filter(|name| !is_everybody(name)).map(|name| HostId::of_name(name))
}

/// The id of a host: the one that it tells, or one of its certificate's name.
#[must_use]
pub fn host_id(identity: &PeerIdentity, hello: &Hello) -> Option<HostId> {
    hello.host_id.or_else(|| own_name(&identity.names).map(HostId::of_name))
}

/// The host of `host:port`.
#[must_use]
pub fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_everybody(name: &str) -> bool {
    name == "localhost" || name.starts_with("localhost.")
}

fn own_name(names: &[String]) -> Option<&str> {
    names.iter().map(String::as_str).find(|name| !is_everybody(name))
}

impl PeerRecord {
    /// The name that the host is known by.
    pub(super) fn own_name(&self) -> &str {
        own_name(&self.names).unwrap_or_default()
    }
}

/// Where a host that has connected can certainly be reached: under the names that its certificate proves.
pub(crate) fn proven_addresses(identity: &PeerIdentity, hello: &Hello) -> Vec<String> {
    let Some(port) = hello.port.filter(|port| *port != 0) else { return Vec::new() };
    let names = identity.names.iter().filter(|name| !is_everybody(name) && !name.contains('*'));
    names.map(|name| format!("{name}:{port}")).collect()
}

/// The records of the hosts that this one has met.
pub(super) struct Book {
    me: HostId,
    tables: Tables,
    /// Of two hosts that present one new id at once, one is first.
    admitting: tokio::sync::Mutex<()>,
    records: Mutex<HashMap<HostId, PeerRecord>>,
}

impl Book {
    pub async fn load(me: HostId, tables: Tables) -> Result<Self, StateError> {
        let records =
            records::list(&tables.peers).await?.into_iter().map(|record| (record.id, record)).collect();
        Ok(Self { me, tables, admitting: tokio::sync::Mutex::default(), records: Mutex::new(records) })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<HostId, PeerRecord>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who presents itself, if its id may be its own; written down.
    ///
    /// # Errors
    /// 32769 for an id that belongs to another certificate or to this host, 32773 for a certificate without a name of
    /// its own, and when it cannot be kept.
    pub async fn admit(
        &self,
        identity: &PeerIdentity,
        hello: &Hello,
        dialled: Option<&str>,
    ) -> Result<Peer, Refusal> {
        let (Some(name), Some(id)) = (own_name(&identity.names), host_id(identity, hello)) else {
            return Err(nameless(identity));
        };
        let _admitting = self.admitting.lock().await;
        self.check(id, name, identity, hello)?;
        let (record, gone) = self.seen(id, identity, hello, dialled);
        records::put(&self.tables.peers, id, &record).await?;
        if let Some(gone) = gone {
            records::delete(&self.tables.peers, gone).await?;
            self.lock().remove(&gone);
        }
        let told = || proven_addresses(identity, hello).into_iter().next();
        let address = dialled.map(str::to_owned).or_else(told).or_else(|| record.addresses.first().cloned());
        self.lock().insert(id, record);
        let mut names = identity.names.clone();
        // Whoever dials verifies the certificate against that. Addresses are not among its names.
        names.extend(dialled.map(|dialled| host_of(dialled).to_owned()).filter(|name| !names.contains(name)));
        Ok(Peer { id, name: name.to_owned(), names, address })
    }

    /// As [`Self::admit`], of whom nothing new is to be noted.
    ///
    /// # Errors
    /// As [`Self::admit`].
    pub async fn identify(&self, identity: &PeerIdentity, hello: &Hello) -> Result<(), Refusal> {
        let (Some(name), Some(id)) = (own_name(&identity.names), host_id(identity, hello)) else {
            return Err(nameless(identity));
        };
        if self.get(id).is_none() {
            return self.admit(identity, hello, None).await.map(|_| ());
        }
        self.check(id, name, identity, hello)
    }

    fn check(&self, id: HostId, name: &str, identity: &PeerIdentity, hello: &Hello) -> Result<(), Refusal> {
        if id == self.me {
            return Err(same_as_here(name));
        }
        // Ids of this kind are made of the names of certificates, and belong to them.
        let made_of_a_name = hello.host_id.is_some_and(|id| id.0.get_version_num() == 5);
        if made_of_a_name && !identity.names.iter().any(|name| HostId::of_name(name) == id) {
            return Err(anothers(id, name, None));
        }
        match self.lock().get(&id) {
            Some(known) if !identity.names.iter().any(|name| name == known.own_name()) => {
                Err(anothers(id, name, Some(known.own_name())))
            }
            _ => Ok(()),
        }
    }

    /// The record of a host that was seen now, and the id that gives way to it.
    fn seen(
        &self,
        id: HostId,
        identity: &PeerIdentity,
        hello: &Hello,
        dialled: Option<&str>,
    ) -> (PeerRecord, Option<HostId>) {
        let records = self.lock();
        let known = records.get(&id).cloned();
        let mut record = known.unwrap_or_else(|| PeerRecord {
            id,
            names: identity.names.clone(),
            addresses: Vec::new(),
            software: String::new(),
            last_seen: Timestamp::now(),
        });
        record.software.clone_from(&hello.software);
        record.last_seen = Timestamp::now();
        let told = proven_addresses(identity, hello).into_iter().take(1);
        let seen_at = hello.port.map(|port| SocketAddr::new(identity.address.ip(), port).to_string());
        let mut found: Vec<String> = match dialled {
            Some(dialled) => vec![dialled.to_owned()],
            None => told.chain(seen_at).collect(),
        };
        // One that was dialled has proven to work: it comes first. Then the newest of what was told.
        record.addresses.retain(|address| Some(address.as_str()) != dialled);
        let at = if dialled.is_some() { 0 } else { record.addresses.len().min(1) };
        found.retain(|address| !record.addresses.contains(address));
        record.addresses.splice(at..at, found);
        record.addresses.truncate(ADDRESSES);
        let name = record.own_name();
        let mut others: Vec<_> =
            records.values().filter(|other| other.id != id && other.own_name() == name).collect();
        others.sort_by_key(|other| other.last_seen);
        let gone = (others.len() >= IDS).then(|| others[0].id);
        (record, gone)
    }

    /// Binds an id to another certificate: somebody says that it is the same host.
    pub async fn rebind(&self, id: HostId, names: Vec<String>) -> Result<(), Refusal> {
        let _admitting = self.admitting.lock().await;
        let Some(mut record) = self.get(id) else {
            return Err(reason::Peer::NeverMet { id }.into());
        };
        if own_name(&names).is_none() {
            return Err(reason::Peer::BoundToNoName.into());
        }
        record.names = names;
        records::put(&self.tables.peers, id, &record).await?;
        self.lock().insert(id, record);
        Ok(())
    }

    /// Forgets a host.
    pub async fn forget(&self, id: HostId) -> Result<(), Refusal> {
        let _admitting = self.admitting.lock().await;
        records::delete(&self.tables.peers, id).await?;
        self.lock().remove(&id);
        Ok(())
    }

    pub fn get(&self, id: HostId) -> Option<PeerRecord> {
        self.lock().get(&id).cloned()
    }

    pub fn all(&self) -> Vec<PeerRecord> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by(|a, b| (a.own_name(), a.id).cmp(&(b.own_name(), b.id)));
        all
    }
}

fn nameless(identity: &PeerIdentity) -> Refusal {
    reason::Peer::Nameless { address: identity.address.to_string() }.into()
}

fn same_as_here(name: &str) -> Refusal {
    reason::Peer::SameAsHere { name: name.to_owned() }.into()
}

fn anothers(id: HostId, name: &str, owner: Option<&str>) -> Refusal {
    reason::Peer::IdOfAnother { id, name: name.to_owned(), owner: owner.map(str::to_owned) }.into()
}

#[cfg(test)]
mod tests;
