//! What this host answers to others, and what it tells them when a link comes up and every few minutes. The answer is that of the VM's task,
//! never one from a cache.
//!
//! A host is told of a VM only when it shares it, or asks for it by its id: an id is no secret worth keeping from a host
//! that proved its certificate, and a second host that is about to run the VM must hear where it lives.

use super::learn::Told;
use super::registry::{Vms, stopping};
use super::task::Request;
use crate::peers::{Answer, Answers, Call, ClaimFact, Peer, Presence};
use async_trait::async_trait;
use standin_model::fence::{Claim, Place};
use standin_model::{HostId, Refusal, VmId};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Every host that shares a VM is told of it again after so long, if nothing new came meanwhile: one may have been made to
/// forget it, or could not keep what it was told.
const TELL_AGAIN: Duration = Duration::from_secs(300);
/// VMs in one message of claims.
const MAX_FACTS: usize = 1000;

impl Told {
    fn by(peer: &Peer, claim: Option<Claim>, place: Option<Place>) -> Self {
        let (name, address) = (peer.name.clone(), peer.address.clone());
        Self { address, claim, place, ..Self::nothing(peer.id, name) }
    }
}

/// Answers for the VMs of this host, as long as there are any: the links do not keep them alive.
pub(crate) struct VmAnswers(pub Weak<Vms>);

#[async_trait]
impl Answers for VmAnswers {
    async fn answer(&self, peer: &Peer, call: Call) -> Answer {
        let Some(vms) = self.0.upgrade() else { return Answer::Refused(stopping()) };
        let answered = match call {
            Call::Claims(facts) => vms.claims(peer, facts).await.map(Answer::Claims),
            Call::Ask { vm, claim, seen } => vms.asked(peer, vm, claim, &seen).await.map(Answer::Ask),
            Call::Raise { vm, claim, pause } => vms.raised(peer, vm, claim, pause).await.map(Answer::Raise),
            Call::Witness { vm, claim } => {
                vms.context.witnessing.testify(peer, vm, claim).await.map(Answer::Witness)
            }
        };
        answered.unwrap_or_else(Answer::Refused)
    }

    async fn heard(&self, peer: &Peer, facts: Vec<ClaimFact>) {
        let Some(vms) = self.0.upgrade() else { return };
        let told: Vec<VmId> = facts.iter().map(|fact| fact.vm).collect();
        match vms.claims(peer, facts).await {
            Ok(_) => {}
            // It is told again when both speak again.
            Err(refusal) if refusal == stopping() => {
                tracing::debug!(host = %peer.name, "what another host knows of VMs is not kept: this daemon ends");
            }
            Err(refusal) => {
                tracing::warn!(host = %peer.name, %refusal, "what another host knows of VMs could not be kept");
            }
        }
        for vm in told {
            vms.knows_the_witness(vm, peer.id).await;
        }
    }

    async fn met(&self, peer: &Peer) -> Vec<ClaimFact> {
        match self.0.upgrade() {
            Some(vms) => vms.facts_for(peer).await,
            None => Vec::new(),
        }
    }
}

impl Vms {
    /// What a host is told when a link with it comes up. The id that it tells now takes the place of one that was made
    /// of its name.
    async fn facts_for(&self, peer: &Peer) -> Vec<ClaimFact> {
        let mut facts = Vec::new();
        for record in self.records() {
            if let Err(refusal) = self.known_by_id(record.vm, peer.id, &peer.name, &peer.names).await {
                tracing::warn!(vm = %record.name, %refusal, "the id of another host could not be kept");
            }
            if facts.len() < MAX_FACTS && self.shares(record.vm, peer.id) {
                facts.extend(self.fact(record.vm, peer.id).await);
            }
        }
        facts
    }

    fn shares(&self, vm: VmId, host: HostId) -> bool {
        self.fence(vm).is_some_and(|fence| fence.hosts.contains_key(&host) || fence.claim.holder == host)
    }

    async fn fact(&self, vm: VmId, to: HostId) -> Option<ClaimFact> {
        let presence = self.presence(vm).await.ok()?;
        self.as_fact(vm, to, presence.place)
    }

    fn as_fact(&self, vm: VmId, to: HostId, place: Place) -> Option<ClaimFact> {
        self.record(vm).map(|record| self.context.fact(&record, to, place))
    }

    /// Tells the hosts with which there is a link about each VM again, one VM after the other, for as long as the daemon runs.
    pub(crate) async fn tell_again(self: Arc<Self>) {
        loop {
            let vms: Vec<VmId> = self.records().into_iter().map(|record| record.vm).collect();
            let turns = vms.len().max(1);
            for turn in 0..turns {
                tokio::select! {
                    () = self.context.shutdown.cancelled() => return,
                    () = tokio::time::sleep(TELL_AGAIN / u32::try_from(turns).unwrap_or(u32::MAX)) => {}
                }
                if let Some(vm) = vms.get(turn) {
                    // A task that has ended went down with the daemon.
                    drop(self.send(*vm, Request::TellAgain).await);
                }
            }
        }
    }

    /// How the VM is here: from its task.
    pub(super) async fn presence(&self, vm: VmId) -> Result<Presence, Refusal> {
        let told = Box::new(Told::nothing(self.me(), String::new()));
        self.ask(vm, |answer| Request::Told { told, answer }).await?
    }

    async fn claims(&self, peer: &Peer, facts: Vec<ClaimFact>) -> Result<Vec<ClaimFact>, Refusal> {
        let mut ours = Vec::new();
        for fact in facts.into_iter().take(MAX_FACTS) {
            let vm = fact.vm;
            // One that ran until it met this host counts as one that runs.
            let place = if fact.ran { Place::Runs } else { fact.place };
            let told = Told::by(peer, Some(fact.claim), Some(place));
            let ClaimFact { stance, sees_as, others, .. } = fact;
            let told = Box::new(Told { stance, sees_as, others, ..told });
            let presence = self.ask(vm, |answer| Request::Told { told, answer }).await??;
            ours.extend(self.as_fact(vm, peer.id, presence.place));
        }
        Ok(ours)
    }

    async fn asked(
        &self,
        peer: &Peer,
        vm: VmId,
        claim: Option<Claim>,
        seen: &[HostId],
    ) -> Result<Presence, Refusal> {
        let further = self.further(vm, seen).await;
        // A host that does not share the VM learns where it is, and changes nothing here.
        let claim = claim.filter(|_| self.shares(vm, peer.id));
        let told = Box::new(Told::by(peer, claim, None));
        let presence = self.ask(vm, |answer| Request::Told { told, answer }).await??;
        Ok(Presence { further, ..presence })
    }

    async fn raised(&self, peer: &Peer, vm: VmId, claim: Claim, pause: bool) -> Result<Presence, Refusal> {
        let told = Box::new(Told::by(peer, Some(claim), None));
        if !self.shares(vm, peer.id) {
            return self.presence(vm).await;
        }
        self.ask(vm, |answer| Request::Raised { told, pause, answer }).await?
    }
}
