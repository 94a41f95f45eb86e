//! The witness: a third host that both sides of a VM name, and that answers for a silent one.
//!
//! ```text
//!   a failover here   -> its claim is recorded with the witness, then the VM starts
//!   a start here      -> a replica is silent -> the witness is asked: it counts if that replica named it, and the very
//!                        records from which it answers now (its [`Stance`](standin_model::fence::Stance))
//! ```
//!
//! Invariants:
//! * Others are told of a witness only after this host has promised, durably, to record there ([`VmRecord::promised`]).
//!   A promise holds until every host that the VM came from has taken in that this host names another one, or none: it
//!   outlives a change of the configuration.
//! * A failover that could not be recorded is started on an assertion only, and recorded as soon as the witness answers.
//! * An answer counts only from the records that the silent host named. [`records`] has how a witness loses them.

mod records;

pub(crate) use records::WitnessRecords;
pub use records::{WitnessLog, WitnessRecord};

use super::learn::Told;
use super::record::VmRecord;
use super::registry::Vms;
use super::task::{Request, Task};
use crate::peers::{Address, Answer, Call, Silence};
use standin_model::fence::{Claim, Role, Stance, WitnessId, WitnessWord};
use standin_model::{HostId, Refusal, VmId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a witness may take to record a claim, or to say what it knows.
const WITHIN: Duration = Duration::from_secs(5);
/// A witness that does not answer is asked again.
const AGAIN: Duration = Duration::from_secs(5);
/// One that does is told what it has not recorded yet.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The witness that this host names.
pub(crate) struct NamedWitness {
    /// Its `host:port`, as configured.
    pub address: String,
    /// From which records it answered last, since this daemon started.
    seen: Mutex<Option<WitnessId>>,
}

impl NamedWitness {
    pub fn new(address: String) -> Self {
        Self { address, seen: Mutex::default() }
    }

    /// From which records it answered last.
    pub fn seen(&self) -> Option<WitnessId> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `true` when these are others.
    fn note(&self, id: WitnessId) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).replace(id) != Some(id)
    }
}

impl VmRecord {
    /// This host can take the VM over from another one, which may count on its witness.
    pub(super) fn came_from_elsewhere(&self) -> bool {
        self.fence.hosts.values().any(|known| known.role == Role::Source)
    }

    /// The witnesses that have to know this host's claim and do not, by address.
    pub fn unwitnessed(&self, me: HostId) -> Vec<String> {
        let claim = self.fence.claim;
        if claim.holder != me || !self.came_from_elsewhere() {
            return Vec::new();
        }
        let knows =
            |address: &&String| self.witnessed.get(*address).is_some_and(|known| known.same_as(claim));
        self.promised.iter().filter(|address| !knows(address)).cloned().collect()
    }
}

impl Vms {
    /// The witness that this host names: its address, and from which records it answered last.
    #[must_use]
    pub fn witness(&self) -> Option<(&str, Option<WitnessId>)> {
        self.context.witness.as_ref().map(|witness| (witness.address.as_str(), witness.seen()))
    }

    /// Asks a witness what it knows of a VM, after it has recorded `claim`.
    async fn ask_witness(
        &self,
        address: &str,
        vm: Option<VmId>,
        claim: Option<Claim>,
        within: Duration,
    ) -> Result<(WitnessId, Option<Claim>), Silence> {
        let deadline = Instant::now() + within;
        let at = Address { host: None, addresses: vec![address.to_owned()] };
        let peer = self.context.peers.meet(&at, within).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let answer =
            self.context.peers.call(peer.id, &at.addresses, Call::Witness { vm, claim }, left).await?;
        let said = match answer {
            Answer::Witness(said) => said,
            Answer::Refused(refusal) => return Err(Silence::Refused(refusal)),
            _ => {
                let reason = "it is no answer to what a witness is asked".to_owned();
                return Err(Silence::Unreadable { host: peer.name, reason });
            }
        };
        let id = WitnessId { host: peer.id, records: said.records };
        let named = self.context.witness.as_ref().filter(|witness| witness.address == address);
        if named.is_some_and(|witness| witness.note(id)) {
            tracing::info!(witness = %peer.name, records = %id.records, "the witness answers");
            self.tell_of_witness().await;
        }
        Ok((id, said.claim))
    }

    /// The hosts that VMs came from hear from which records the witness answers.
    async fn tell_of_witness(&self) {
        for record in self.records().into_iter().filter(VmRecord::came_from_elsewhere) {
            // A task that has ended went down with the daemon.
            drop(self.send(record.vm, Request::Announce).await);
        }
    }

    /// Records the claim of this host on a VM with every witness that it promised that to. What came of it is in the VM's
    /// record: [`VmRecord::unwitnessed`].
    pub(super) async fn record_with_witnesses(&self, vm: VmId) {
        let Some(record) = self.record(vm) else { return };
        for address in record.unwitnessed(self.me()) {
            let claim = record.fence.claim;
            match self.ask_witness(&address, Some(vm), Some(claim), WITHIN).await {
                Ok((id, known)) => self.was_witnessed(vm, address, id, claim, known).await,
                Err(silence) => {
                    tracing::warn!(vm = %record.name, witness = %address, %silence,
                        "the witness could not be told that this host holds a VM");
                }
            }
        }
    }

    async fn was_witnessed(
        &self,
        vm: VmId,
        address: String,
        id: WitnessId,
        claim: Claim,
        known: Option<Claim>,
    ) {
        let noted = if known.is_some_and(|known| known.same_as(claim)) {
            self.ask(vm, |answer| Request::Witnessed { address, claim, answer }).await
        } else {
            self.heard_of(vm, id, known).await
        };
        if let Ok(Err(refusal)) | Err(refusal) = noted {
            tracing::warn!(%vm, %refusal, "what the witness said could not be kept");
        }
    }

    /// A witness knows a claim: that counts whoever tells it.
    async fn heard_of(
        &self,
        vm: VmId,
        id: WitnessId,
        claim: Option<Claim>,
    ) -> Result<Result<(), Refusal>, Refusal> {
        let told = Told { claim, ..Told::nothing(id.host, self.title_of(id.host)) };
        let told = Box::new(told);
        let kept = self.ask(vm, |answer| Request::Told { told, answer }).await?;
        Ok(kept.map(|_| ()))
    }

    /// What the named witness knows of a VM is taken in; from which records it answered, `None` when it is silent.
    pub(super) async fn hear_witness(&self, vm: VmId) -> Option<WitnessId> {
        let address = self.context.witness.as_ref()?.address.clone();
        match self.ask_witness(&address, Some(vm), None, WITHIN).await {
            Ok((id, claim)) => match self.heard_of(vm, id, claim).await {
                Ok(Ok(())) => Some(id),
                Ok(Err(refusal)) | Err(refusal) => {
                    tracing::warn!(%vm, %refusal, "what the witness said could not be kept");
                    None
                }
            },
            Err(silence) => {
                tracing::info!(%vm, witness = %address, %silence, "the witness does not answer");
                None
            }
        }
    }

    /// The first witness that has to know a failover of this VM and does not answer.
    pub(super) async fn silent_witness(&self, vm: VmId) -> Option<String> {
        let promised = self.record(vm).map(|record| record.promised).unwrap_or_default();
        let named = self.context.witness.as_ref().map(|witness| witness.address.clone());
        for address in promised.iter().cloned().chain(named.filter(|named| !promised.contains(named))) {
            if self.ask_witness(&address, Some(vm), None, WITHIN).await.is_err() {
                return Some(address);
            }
        }
        None
    }

    /// Records the claim of this host, and does not wait for it: a witness that is silent is told when it answers.
    pub(super) fn record_later(self: &Arc<Self>, vm: VmId) {
        if self.record(vm).is_none_or(|record| record.unwitnessed(self.me()).is_empty()) {
            return;
        }
        let vms = Arc::clone(self);
        self.context.tasks.spawn(async move {
            vms.record_with_witnesses(vm).await;
        });
    }

    /// Records that the VM was given back. Not waited for, and not repeated: a witness that does not hear it knows a lower
    /// claim than both hosts, which changes nothing.
    pub(super) fn record_given(self: &Arc<Self>, vm: VmId, claim: Claim) {
        let promised = self.record(vm).map(|record| record.promised).unwrap_or_default();
        for address in promised {
            let vms = Arc::clone(self);
            self.context.tasks.spawn(async move {
                if let Err(silence) = vms.ask_witness(&address, Some(vm), Some(claim), WITHIN).await {
                    tracing::info!(%vm, witness = %address, %silence, "the witness could not be told that a VM was given back");
                }
            });
        }
    }

    /// A host has taken in what this one told of a VM since its daemon started: which witness it names too.
    pub(super) async fn knows_the_witness(&self, vm: VmId, host: HostId) {
        let named = self.context.witness.as_ref().map(|witness| &witness.address);
        let outdated = |record: VmRecord| record.promised.iter().any(|address| Some(address) != named);
        if !self.record(vm).is_some_and(outdated) {
            return;
        }
        let kept = self.ask(vm, |answer| Request::KnowsTheWitness { host, answer }).await;
        if let Ok(Err(refusal)) | Err(refusal) = kept {
            tracing::warn!(%vm, %refusal, "that another host knows the witness could not be kept");
        }
    }

    /// Follows the witness that this host names: it hears what it has not recorded, and others hear when its records are
    /// other ones.
    pub(crate) async fn follow_witness(self: Arc<Self>) {
        let Some(address) = self.context.witness.as_ref().map(|witness| witness.address.clone()) else {
            return;
        };
        self.context.peers.keep(Address { host: None, addresses: vec![address.clone()] });
        self.tell_of_witness().await;
        let follow = async {
            let mut last = None;
            loop {
                match self.ask_witness(&address, None, None, WITHIN).await {
                    Ok((id, _)) => {
                        let others = last.replace(id) != Some(id);
                        self.record_all(&address, others).await;
                        // Its records can be others only when its daemon has started anew.
                        let mut link = self.context.peers.watch(id.host);
                        drop(tokio::time::timeout(LOOK_AGAIN, link.wait_for(|state| !state.up)).await);
                    }
                    Err(silence) => {
                        tracing::debug!(witness = %address, %silence, "the witness does not answer")
                    }
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::select! {
            () = self.context.shutdown.cancelled() => {}
            () = follow => {}
        }
    }

    /// Records what this host holds: what is not recorded yet, or all of it with records that are others.
    async fn record_all(&self, address: &str, others: bool) {
        for record in self.records() {
            let held = record.came_from_elsewhere() && record.fence.held_by(self.me());
            if others && held && record.promised.iter().any(|promised| promised == address) {
                let claim = record.fence.claim;
                if let Err(silence) = self.ask_witness(address, Some(record.vm), Some(claim), WITHIN).await {
                    return tracing::debug!(witness = %address, %silence, "the witness does not answer");
                }
            }
            self.record_with_witnesses(record.vm).await;
        }
    }
}

impl Task {
    /// Before a host that may count on it is told of the witness, it is kept that failovers are recorded there.
    pub(super) fn promise_witness(&self, record: &mut VmRecord) {
        let Some(witness) = &self.context.witness else { return };
        if record.came_from_elsewhere() && !record.promised.contains(&witness.address) {
            record.promised.push(witness.address.clone());
        }
    }

    pub(super) async fn promise_before_telling(&mut self) {
        let Some(mut changed) = self.record.clone() else { return };
        self.promise_witness(&mut changed);
        if self.record.as_ref() == Some(&changed) {
            return;
        }
        if let Err(refusal) = self.change(changed).await {
            tracing::warn!(%refusal, "no other host is told of the witness: that could not be kept");
        }
    }

    pub(super) async fn was_witnessed(&mut self, address: String, claim: Claim) -> Result<(), Refusal> {
        let Some(mut changed) = self.record.clone() else { return Ok(()) };
        changed.witnessed.insert(address, claim);
        self.change(changed).await
    }

    /// Once all hosts that the VM came from know which witness this host names now, none counts on another one.
    pub(super) async fn knows_the_witness(&mut self, host: HostId) -> Result<(), Refusal> {
        self.know_witness.insert(host);
        let Some(mut changed) = self.record.clone() else { return Ok(()) };
        let sources = changed.fence.hosts.iter().filter(|(_, known)| known.role == Role::Source);
        if !sources.map(|(host, _)| host).all(|host| self.know_witness.contains(host)) {
            return Ok(());
        }
        let named = self.context.witness.as_ref().map(|witness| witness.address.clone());
        changed.promised.retain(|address| Some(address) == named.as_ref());
        changed.witnessed.retain(|address, _| Some(address) == named.as_ref());
        if self.record.as_ref() == Some(&changed) { Ok(()) } else { self.change(changed).await }
    }

    /// What a decision has to know of the witness, from whose records `answers` came.
    pub(super) fn witness_word(&self, answers: Option<WitnessId>) -> Option<WitnessWord> {
        let record = self.record.as_ref()?;
        let concerned = self.context.witness.is_some() || !record.promised.is_empty();
        let recorded = record.unwitnessed(self.me()).is_empty();
        concerned.then_some(WitnessWord { answers, recorded })
    }

    pub(super) fn stances(&self) -> BTreeMap<HostId, Stance> {
        let told = self.record.iter().flat_map(|record| &record.stances);
        told.map(|(host, told)| (*host, told.stance)).collect()
    }

    /// The witness that does not know this host's claim, for people.
    pub(super) fn deaf_witness(&self) -> String {
        let deaf = self.record.as_ref().and_then(|record| record.unwitnessed(self.me()).into_iter().next());
        deaf.unwrap_or_default()
    }
}
