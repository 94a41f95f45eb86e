//! Asks every other host that could run a VM, all at once, and takes in what they say.

use super::learn::Told;
use super::registry::Vms;
use super::task::Request;
use crate::peers::{Answer, Call, Presence};
use standin_model::fence::{Fence, Heard, Place, Role, one_word_each};
use standin_model::{HostId, VmId};
use std::time::Duration;

/// How long a host may take to answer: it asks those behind it in that time.
const WITHIN: Duration = Duration::from_secs(5);
/// How long those behind it may take.
const FURTHER_WITHIN: Duration = Duration::from_secs(3);

/// The hosts of a fence whose role is one of those, and where each can be reached.
fn hosts_of(fence: Fence, is_one: impl Fn(Role) -> bool) -> Vec<(HostId, Vec<String>)> {
    let those = fence.hosts.into_iter().filter(|(_, known)| is_one(known.role));
    those.map(|(host, known)| (host, known.addresses)).collect()
}

impl Vms {
    /// One word of every host that could run the VM: those that received it from here, those behind them, and those that
    /// another host named. Without a record, of the hosts that this one speaks to anyway.
    pub(super) async fn gather(&self, vm: VmId) -> Vec<Heard> {
        let asked = match self.fence(vm) {
            Some(fence) => hosts_of(fence, |role| role != Role::Source),
            None => self.context.peers.linked().into_iter().map(|host| (host, Vec::new())).collect(),
        };
        self.ask_all(vm, asked, &[self.me()], WITHIN).await
    }

    /// The word of one host, and of those that it names further.
    pub(super) async fn ask_one(&self, vm: VmId, host: HostId, addresses: Vec<String>) -> Vec<Heard> {
        self.ask_all(vm, vec![(host, addresses)], &[self.me()], WITHIN).await
    }

    /// The words of the hosts that others named.
    pub(super) async fn ask_named(&self, vm: VmId) -> Vec<Heard> {
        let Some(fence) = self.fence(vm) else { return Vec::new() };
        let named = hosts_of(fence, |role| role == Role::Named);
        self.ask_all(vm, named, &[self.me()], WITHIN).await
    }

    /// What the hosts behind this one say, for a host that asks here. `seen` were asked already.
    pub(super) async fn further(&self, vm: VmId, seen: &[HostId]) -> Vec<(HostId, Place)> {
        let Some(fence) = self.fence(vm) else { return Vec::new() };
        let mut behind = hosts_of(fence, |role| role == Role::Replica);
        behind.retain(|(host, _)| !seen.contains(host));
        let mut now_seen = seen.to_vec();
        now_seen.push(self.me());
        let heard = self.ask_all(vm, behind, &now_seen, FURTHER_WITHIN).await;
        heard.into_iter().map(|heard| (heard.host, heard.place)).collect()
    }

    async fn ask_all(
        &self,
        vm: VmId,
        hosts: Vec<(HostId, Vec<String>)>,
        seen: &[HostId],
        within: Duration,
    ) -> Vec<Heard> {
        let claim = self.fence(vm).map(|fence| fence.claim);
        let mut seen = seen.to_vec();
        seen.extend(hosts.iter().map(|(host, _)| *host));
        let asking = hosts.into_iter().map(|(host, addresses)| {
            let call = Call::Ask { vm, claim, seen: seen.clone() };
            async move { (host, self.context.peers.call(host, &addresses, call, within).await) }
        });
        let (mut own, mut told, mut holders) = (Vec::new(), Vec::new(), Vec::new());
        for (host, answer) in futures_util::future::join_all(asking).await {
            let presence = match answer {
                Ok(Answer::Ask(presence)) => presence,
                Err(silence) if silence.is_of_an_older_version() => {
                    own.push(Heard { host, place: self.ask_by_session(vm).await });
                    continue;
                }
                _ => {
                    own.push(Heard { host, place: Place::Silent });
                    continue;
                }
            };
            let place = self.take_in(vm, host, &presence).await;
            own.push(Heard { host, place });
            holders.extend(self.lives_elsewhere(vm, &presence));
            let further = presence.further.into_iter().filter(|(host, _)| *host != self.me());
            told.extend(further.map(|(host, place)| Heard { host, place }));
        }
        let mut heard = one_word_each(own, told);
        // Whatever the holder itself knows of that.
        heard.extend(holders);
        heard
    }

    /// A host without a record of a VM is told of a claim: the VM lives with its holder, which nobody here can ask.
    fn lives_elsewhere(&self, vm: VmId, presence: &Presence) -> Option<Heard> {
        let claim = presence.claim.filter(|claim| claim.holder != self.me() && self.fence(vm).is_none())?;
        Some(Heard { host: claim.holder, place: Place::Lives })
    }

    async fn ask_by_session(&self, vm: VmId) -> Place {
        match self.context.senders() {
            Some(senders) => senders.ask_by_session(vm).await,
            None => Place::Silent,
        }
    }

    /// A word counts when what came with it is kept.
    async fn take_in(&self, vm: VmId, host: HostId, presence: &Presence) -> Place {
        let told = Box::new(Told::word(host, self.title_of(host), presence));
        match self.ask(vm, |answer| Request::Told { told, answer }).await {
            Ok(Ok(_)) => presence.place,
            Ok(Err(refusal)) | Err(refusal) => {
                tracing::warn!(%vm, %refusal, "what another host said could not be kept");
                Place::Silent
            }
        }
    }
}
