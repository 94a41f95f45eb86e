//! The host that speaks in a session, and whether it is the one that a replica belongs to.
//!
//! Called by [`super::session`] when a connection comes in.

use crate::peers::{self, Peers};
use crate::records::ReplicaRecord;
use standin_model::{HostId, Refusal};
use standin_wire::{Hello, PeerIdentity};
use std::net::SocketAddr;

/// The host that speaks in a session.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    /// What its certificate says.
    pub identity: PeerIdentity,
    /// Its id; `None` where its certificate has no name of its own.
    pub host: Option<HostId>,
    /// Where it listens, for calls of this host.
    pub address: Option<String>,
    /// Why it may not be who it says it is; nothing of a VM is told or taken then.
    pub doubted: Option<Refusal>,
}

impl Sender {
    /// Of a connection. Its id counts only with the certificate that it belongs to.
    pub async fn of(peers: &Peers, identity: &PeerIdentity, hello: &Hello) -> Self {
        let address = hello.port.map(|port| SocketAddr::new(identity.address.ip(), port).to_string());
        let host = peers::host_id(identity, hello);
        let doubted = match host {
            Some(_) => peers.identify(identity, hello).await.err(),
            None => None,
        };
        Self { identity: identity.clone(), host, address, doubted }
    }

    /// Whether it is the host that a replica belongs to: by its id, or by its name where it has never told one.
    pub fn is_source_of(&self, record: &ReplicaRecord) -> bool {
        match record.host {
            Some(host) => self.host == Some(host),
            None => self.identity.names.contains(&record.primary_host),
        }
    }

    /// The first name in its certificate.
    pub fn name(&self) -> String {
        self.identity.names.first().cloned().unwrap_or_else(|| self.identity.address.ip().to_string())
    }
}
