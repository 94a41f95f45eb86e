//! The hosts that share a VM: who comes to be one, by a relationship, and how the fence outlives that.

use super::learn::Told;
use super::reason::Vm;
use super::record::VmRecord;
use super::registry::Vms;
use super::task::{Answer, Request, Task};
use crate::engine::hypervisor_refusal;
use crate::peers::{self, Presence};
use crate::records::PrimaryRecord;
use standin_hypervisor::{PowerState, VmInfo};
use standin_model::fence::{Claim, Fence, KnownHost, Learned, MAX_ADDRESSES, Role, WhenSilent, may_send};
use standin_model::{HostId, Refusal, VmId, VmName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A host that comes to share a VM with this one.
#[derive(Debug, Clone)]
pub struct Sharing {
    /// Which host.
    pub host: HostId,
    /// Its name, addresses and role.
    pub known: KnownHost,
    /// The VM's name here.
    pub name: VmName,
    /// The claim under which it is shared: what the primary offers. `None` on the primary, which has its own.
    pub claim: Option<Claim>,
}

impl VmRecord {
    /// A record of a VM that begins to be shared, or of which another host told.
    #[must_use]
    pub fn new(vm: VmId, name: VmName, fence: Fence) -> Self {
        Self {
            vm,
            name,
            fence,
            alarm: None,
            tombstone: false,
            when_silent: None,
            stances: BTreeMap::new(),
            given_up: false,
            promised: Vec::new(),
            witnessed: BTreeMap::new(),
        }
    }
}

impl Told {
    /// A host that told nothing yet.
    pub fn nothing(host: HostId, name: String) -> Self {
        Self {
            host,
            name,
            address: None,
            claim: None,
            place: None,
            stance: None,
            sees_as: None,
            others: Vec::new(),
        }
    }

    /// What an answer to a call said.
    #[must_use]
    pub fn word(host: HostId, name: String, presence: &Presence) -> Self {
        let (claim, place) = (presence.claim, Some(presence.place));
        let stance = presence.stance;
        Self { claim, place, stance, ..Self::nothing(host, name) }
    }

    /// The teller as a host of the fence.
    pub fn known(&self, role: Role) -> KnownHost {
        let addresses = self.address.iter().cloned().collect();
        KnownHost { name: self.name.clone(), addresses, role, accepted: None }
    }
}

impl Vms {
    /// The highest claim that is known of a VM; this host's first one for a VM that never replicated.
    #[must_use]
    pub fn claim(&self, vm: VmId) -> Claim {
        self.fence(vm).map_or_else(|| Claim::first(self.me()), |fence| fence.claim)
    }

    /// The claim that a relationship begins with: this host's.
    ///
    /// # Errors
    /// When another host holds the VM, or two do, or may: its images carry marks, and nothing else is kept of it. The
    /// hypervisor's reason.
    pub async fn offered(&self, info: &VmInfo) -> Result<Claim, Refusal> {
        let heard = if self.fence(info.id).is_none() { self.gather(info.id).await } else { Vec::new() };
        // What was heard may have made a record.
        let fence = self.fence(info.id);
        let marked =
            fence.is_none() && info.power == PowerState::Off && self.context.is_marked(info.id).await?;
        may_send(self.me(), fence.as_ref(), &heard, marked, self.context.policy.rules).map_err(|reason| {
            let named = |host| fence.as_ref()?.hosts.get(&host).map(|known| known.name.clone());
            let host = reason.host().map(|host| named(host).unwrap_or_else(|| self.title_of(host)));
            reason.refusal(info.name.as_str(), &host.unwrap_or_default())
        })
    }

    /// A relationship begins, or is found to lead to another address: the host is one of the fence from now on.
    ///
    /// # Errors
    /// When another host holds the VM than the one that offers it; when it cannot be kept.
    pub async fn share(&self, vm: VmId, sharing: Sharing) -> Result<Claim, Refusal> {
        let sharing = Box::new(sharing);
        self.ask(vm, |answer| Request::Share { sharing, answer }).await?
    }

    /// A session with the replica came up: it is known by its own id and at this address from now on. Not waited for, as
    /// [`Vms::compared`].
    pub(crate) fn met_replica(self: &Arc<Self>, record: &PrimaryRecord, host: HostId, name: &str) {
        let at_address = |known: &KnownHost| known.addresses.first() == Some(&record.peer);
        if self.fence(record.vm).is_some_and(|fence| fence.hosts.get(&host).is_some_and(at_address)) {
            return;
        }
        let (vm, old, new) = (record.vm, HostId::of_name(peers::host_of(&record.peer)), name.to_owned());
        self.post(vm, "the id of a replica's host", move |answer| Request::SameHost {
            old,
            new: host,
            name: new,
            answer,
        });
        let addresses = vec![record.peer.clone()];
        let known = KnownHost { name: name.to_owned(), addresses, role: Role::Replica, accepted: None };
        let sharing = Box::new(Sharing { host, known, name: record.name.clone(), claim: None });
        self.post(vm, "the address of a replica's host", move |answer| Request::Share { sharing, answer });
    }

    /// The relationship has ended; the fence stays.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn unshare(&self, vm: VmId) -> Result<(), Refusal> {
        self.ask(vm, |answer| Request::Unshare { answer }).await?
    }

    /// Gives the VM another name on this host, running or off; `false` where the hypervisor does not know it, as of a replica
    /// that has not failed over.
    ///
    /// # Errors
    /// 32774 when another VM of the hypervisor has the name; when it cannot be kept.
    pub async fn rename(&self, vm: VmId, name: VmName) -> Result<bool, Refusal> {
        self.ask(vm, |answer| Request::Rename { name, answer }).await?
    }

    /// What silence means for the start of this VM; `None` for what the host is configured to.
    ///
    /// # Errors
    /// 32775 for a VM that never replicated.
    pub async fn set_when_silent(&self, vm: VmId, when: Option<WhenSilent>) -> Result<(), Refusal> {
        self.ask(vm, |answer| Request::WhenSilent { when, answer }).await?
    }

    /// The disks were compared with the replica's: what an older data directory knew of it counts no more.
    ///
    /// Not waited for: the one who calls may be asked to stop sending by the very task that this is for.
    pub(crate) fn compared(self: &Arc<Self>, vm: VmId) {
        self.post(vm, "that the disks were compared", |answer| Request::Compared { answer });
    }

    /// A session told a claim. Not waited for, as [`Vms::compared`]; whoever follows the record sees what it changed.
    pub(crate) fn told_claim(self: &Arc<Self>, vm: VmId, host: HostId, claim: Claim) {
        let told = Box::new(Told { claim: Some(claim), ..Told::nothing(host, self.title_of(host)) });
        self.post(vm, "the claim of another host", |answer| Request::Told { told, answer });
    }

    fn post<T: Send + 'static>(
        self: &Arc<Self>,
        vm: VmId,
        what: &'static str,
        request: impl FnOnce(Answer<T>) -> Request + Send + 'static,
    ) {
        let vms = Arc::clone(self);
        self.context.tasks.spawn(async move {
            if let Ok(Err(refusal)) | Err(refusal) = vms.ask(vm, request).await {
                tracing::warn!(%vm, %refusal, "{what} could not be kept");
            }
        });
    }

    /// A host that has proven these names tells its id: that takes the place of one that was made of a name, by the release
    /// before or from its records.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn known_by_id(
        &self,
        vm: VmId,
        id: HostId,
        name: &str,
        names: &[String],
    ) -> Result<(), Refusal> {
        for old in peers::former_ids(names).filter(|old| *old != id) {
            if self.fence(vm).is_some_and(|fence| fence.hosts.contains_key(&old) || fence.claim.holder == old)
            {
                self.same_host(vm, old, id, name).await?;
            }
        }
        Ok(())
    }

    /// A host is known by another id from now on.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn same_host(&self, vm: VmId, old: HostId, new: HostId, name: &str) -> Result<(), Refusal> {
        let name = name.to_owned();
        self.ask(vm, |answer| Request::SameHost { old, new, name, answer }).await?
    }

    /// Two hosts hold the same number: this one's copy is kept, or the other one's.
    ///
    /// # Errors
    /// 32775 when only one holds it.
    pub async fn resolve_rivals(&self, vm: VmId, keep_here: bool) -> Result<Claim, Refusal> {
        self.ask(vm, |answer| Request::Resolve { keep: keep_here, answer }).await?
    }

    /// What a copy wrote that was given up is being kept, or is nowhere but in its disks.
    ///
    /// # Errors
    /// When that cannot be kept.
    pub(crate) async fn is_given_up(&self, vm: VmId) -> Result<(), Refusal> {
        self.ask(vm, |answer| Request::IsGivenUp { answer }).await?
    }

    /// Forgets who may run a VM that no relationship has any more. Only an operator asks for it, by the VM's name.
    ///
    /// # Errors
    /// 32775 while a relationship has it, 32779 for a VM of which nothing is kept.
    pub async fn forget(&self, vm: VmId) -> Result<(), Refusal> {
        self.ask(vm, |answer| Request::Forget { answer }).await?
    }
}

impl Task {
    pub(super) fn record_or(&self, sharing: Option<&Sharing>) -> Result<VmRecord, Refusal> {
        if let Some(record) = self.record.clone() {
            return Ok(record);
        }
        let Some(sharing) = sharing else {
            return Err(Vm::NoClaim { vm: self.name() }.into());
        };
        let claim = sharing.claim.unwrap_or_else(|| Claim::first(self.me()));
        Ok(VmRecord::new(self.vm, sharing.name.clone(), Fence::new(claim)))
    }

    pub(super) async fn share(&mut self, sharing: Sharing) -> Result<Claim, Refusal> {
        let me = self.me();
        let mut changed = self.record_or(Some(&sharing))?;
        if let Some(claim) = sharing.claim {
            // A host of the version before states a number and no claim: that cannot rival one, only be newer or older.
            let states = !claim.id.is_nil() || claim.number != changed.fence.claim.number;
            let learned = match states {
                true => changed.learn(me, claim, self.context.policy.rules),
                false => Learned::Nothing,
            };
            let holder = changed.fence.claim.holder;
            let lives_here = learned == Learned::Older && holder != sharing.host;
            if changed.fence.rival.is_some() || lives_here {
                return Err(self.lives_at(changed.fence.rival.unwrap_or(changed.fence.claim)));
            }
        }
        let known = changed.fence.hosts.entry(sharing.host).or_insert_with(|| sharing.known.clone());
        known.name.clone_from(&sharing.known.name);
        for address in &sharing.known.addresses {
            known.addresses.retain(|known| known != address);
        }
        known.addresses.splice(0..0, sharing.known.addresses.iter().cloned());
        known.addresses.truncate(MAX_ADDRESSES);
        // What it is now counts: the relationship that came before in the other direction has ended.
        known.role = sharing.known.role;
        changed.tombstone = false;
        changed.name = sharing.name;
        let claim = changed.fence.claim;
        if self.record.as_ref() != Some(&changed) {
            self.change(changed).await?;
            // The others that share the VM learn of this one.
            self.announce_as_it_is().await;
        }
        self.give_up();
        Ok(claim)
    }

    /// Takes in the copy of the record that was found beside a replica's disks, and writes what is missing of it there.
    pub(super) async fn join(&mut self, found: Option<VmRecord>) -> Result<(), Refusal> {
        let joined = match (self.record.clone(), found.clone()) {
            (Some(known), Some(found)) => known.joined(found),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return Ok(()),
        };
        if self.record.as_ref() == Some(&joined) && found.as_ref() == Some(&joined) {
            return Ok(());
        }
        self.change(joined).await
    }

    fn lives_at(&self, claim: Claim) -> Refusal {
        self.refusal(standin_model::fence::Reason::LivesElsewhere(claim))
    }

    pub(super) async fn unshare(&mut self) -> Result<(), Refusal> {
        let Some(mut changed) = self.record.clone() else { return Ok(()) };
        changed.tombstone = true;
        if !self.context.policy.rules.keep_tombstones {
            return self.erase().await;
        }
        self.change(changed).await
    }

    pub(super) async fn rename(&mut self, name: VmName) -> Result<bool, Refusal> {
        let known = match self.context.hypervisor.rename(self.vm, name.clone()).await {
            Ok(()) => true,
            Err(standin_hypervisor::Error::UnknownVm(_)) => false,
            Err(error) => return Err(hypervisor_refusal(&error)),
        };
        self.context.inventory.refresh(self.vm).await;
        if let Some(mut changed) = self.record.clone().filter(|record| record.name != name) {
            changed.name = name;
            self.change(changed).await?;
        }
        Ok(known)
    }

    pub(super) async fn set_when_silent(&mut self, when: Option<WhenSilent>) -> Result<(), Refusal> {
        let mut changed = self.record_or(None)?;
        changed.when_silent = when;
        self.change(changed).await?;
        // Whoever is about to fail over is told what this host does meanwhile.
        let place = self.place().await?;
        self.announce(place);
        Ok(())
    }

    pub(super) async fn compared(&mut self) -> Result<(), Refusal> {
        let Some(mut changed) = self.record.clone().filter(|record| record.fence.outdated) else {
            return Ok(());
        };
        changed.fence.outdated = false;
        self.change(changed).await
    }

    pub(super) async fn same_host(&mut self, old: HostId, new: HostId, name: String) -> Result<(), Refusal> {
        let Some(mut changed) = self.record.clone() else { return Ok(()) };
        if !changed.fence.rename(old, new) {
            return Ok(());
        }
        if let Some(known) = changed.fence.hosts.get_mut(&new) {
            known.name = name;
        }
        if let Some(told) = changed.stances.remove(&old) {
            changed.stances.entry(new).or_insert(told);
        }
        self.change(changed).await
    }

    pub(super) async fn is_given_up(&mut self) -> Result<(), Refusal> {
        match self.record.clone().filter(|record| record.given_up) {
            Some(changed) => self.change(VmRecord { given_up: false, ..changed }).await,
            None => Ok(()),
        }
    }

    pub(super) async fn forget(&mut self) -> Result<(), Refusal> {
        let Some(record) = &self.record else { return self.record_or(None).map(|_| ()) };
        if !record.tombstone {
            return Err(Vm::StillRelated { vm: record.name.clone() }.into());
        }
        tracing::warn!(claim = %record.fence.claim,
            "an operator has this host forget who may run a VM");
        self.erase().await
    }
}
