//! The host that speaks in a session, and whether it is the one that a replica belongs to.
//!
//! Called by [`super::session`] when a connection comes in.

use super::host::ReplicaHost;
use crate::peers::{self, Peers};
use crate::records::ReplicaRecord;
use standin_model::{HostId, Refusal, VmId};
use standin_wire::{Hello, PeerIdentity};
use std::net::SocketAddr;

/// The protocol version from which on a primary offers the name of now.
const TELLS_RENAMES: u16 = 2;

/// The host that speaks in a session.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    /// What its certificate says.
    pub identity: PeerIdentity,
    /// Its id; `None` where its certificate has no name of its own.
    pub host: Option<HostId>,
    /// Where it listens, for calls of this host: at the address that it came from, and under the names of its certificate.
    pub addresses: Vec<String>,
    /// It offers a VM under the name that it has now. One of protocol version 1 goes on with the name that the
    /// relationship was made with.
    pub tells_renames: bool,
    /// Why it may not be who it says it is; nothing of a VM is told or taken then.
    pub doubted: Option<Refusal>,
}

impl Sender {
    /// Of a connection. Its id counts only with the certificate that it belongs to.
    pub async fn of(peers: &Peers, identity: &PeerIdentity, hello: &Hello) -> Self {
        let seen_at = hello.port.map(|port| SocketAddr::new(identity.address.ip(), port).to_string());
        let addresses = seen_at.into_iter().chain(peers::proven_addresses(identity, hello)).collect();
        let host = peers::host_id(identity, hello);
        let doubted = match host {
            Some(_) => peers.identify(identity, hello).await.err(),
            None => None,
        };
        let tells_renames = hello.max_version >= TELLS_RENAMES;
        Self { identity: identity.clone(), host, addresses, tells_renames, doubted }
    }

    /// Whether it is the host that a replica belongs to: by its id, or by its name where it has never told one.
    pub fn is_source_of(&self, record: &ReplicaRecord) -> bool {
        match record.host {
            Some(host) => self.host == Some(host),
            None => self.identity.names.contains(&record.primary_host),
        }
    }

    /// What the release before made names its primary by an id made of its name. Before claims are compared, the primary is
    /// known by its own, or it would be taken for a third host; and a failover takes the VM from it and gives it back to it.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn known_by_its_id(&self, host: &ReplicaHost, vm: VmId) -> Result<(), Refusal> {
        let Some(id) = self.host else { return Ok(()) };
        host.shared.vms.known_by_id(vm, id, &self.name(), &self.identity.names).await?;
        let Some(vm) = host.find(vm) else { return Ok(()) };
        let unnamed = |record: &ReplicaRecord| record.host.is_none() && self.is_source_of(record);
        if !unnamed(&vm.snapshot()) {
            return Ok(());
        }
        let mut record = vm.lock().await;
        if unnamed(&record) {
            record.host = Some(id);
            record.save().await?;
        }
        Ok(())
    }

    /// The first name in its certificate.
    pub fn name(&self) -> String {
        self.identity.names.first().cloned().unwrap_or_else(|| self.identity.address.ip().to_string())
    }
}
