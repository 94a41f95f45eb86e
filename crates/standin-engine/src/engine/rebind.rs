//! A host that this one has met is another one now, and only a person can say so: it has a certificate with another name,
//! or it was set up anew and has another id.
//!
//! Called by the local API.

use super::Engine;
use super::reason::Operation;
use crate::peers::reason::Peer;
use standin_model::{HostId, Refusal};

/// What a host is known as from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NowKnownAs {
    /// The same id, with a certificate of this name.
    Name(String),
    /// Another id: that of the same machine after it was set up anew.
    Host(HostId),
}

impl From<String> for NowKnownAs {
    /// The text of an id is an id; anything else is a name.
    fn from(text: String) -> Self {
        text.parse().map_or(Self::Name(text), Self::Host)
    }
}

impl Engine {
    /// Says what a host is known as from now on. What it shares with this host stays: claims, replicas, their recovery
    /// points.
    ///
    /// # Errors
    /// 32779 for a host that this one has never met, 32773 for a name or an id that cannot be its own; when it cannot be
    /// kept, and then what was changed by then holds: it can be said again.
    pub async fn rebind_host(&self, host: HostId, now: NowKnownAs) -> Result<(), Refusal> {
        match now {
            NowKnownAs::Name(name) => self.peers().rebind(host, vec![name]).await,
            NowKnownAs::Host(new) => self.has_another_id(host, new).await,
        }
    }

    async fn has_another_id(&self, old: HostId, new: HostId) -> Result<(), Refusal> {
        if old == new || new == self.vms.me() || old == self.vms.me() {
            return Err(Operation::SameHost { old, new }.into());
        }
        let Some(name) = self.peers().name(new) else { return Err(Peer::NeverMet { id: new }.into()) };
        let known_before = self.peers().name(old).is_some();
        let mut shared = 0_usize;
        for record in self.vms.records() {
            let fence = &record.fence;
            if fence.hosts.contains_key(&old) || fence.claim.holder == old {
                self.vms.same_host(record.vm, old, new, &name).await?;
                shared += 1;
            }
        }
        for replica in self.replicas.list().into_iter().filter(|vm| vm.snapshot().source() == old) {
            let mut record = replica.lock().await;
            let before =
                (record.host.replace(new), std::mem::replace(&mut record.primary_host, name.clone()));
            if let Err(refusal) = record.save().await {
                (record.host, record.primary_host) = before;
                return Err(refusal);
            }
            shared += 1;
        }
        if shared == 0 && !known_before {
            return Err(Peer::NeverMet { id: old }.into());
        }
        tracing::warn!(%old, %new, %name, "a host has another id from now on, as an operator says");
        self.peers().forget_host(old).await
    }
}
