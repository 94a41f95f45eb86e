//! A VM changes hands: a failover takes it, a revert gives it back, and the claim is brought to the host that it was
//! taken from before it runs.

use super::hosts::Sharing;
use super::learn::Told;
use super::reason::Vm;
use super::registry::Vms;
use super::task::{Request, Task};
use crate::peers::{Answer as PeerAnswer, Call, Presence};
use jiff::Timestamp;
use standin_model::fence::{
    Assertion, Claim, Fence, Heard, OverRunning, Place, Reason, Role, WhenSilent, one_word_each,
};
use standin_model::{HostId, Refusal, VmId};
use std::sync::Arc;
use std::time::Duration;

/// How long a host may take to accept a claim: it ends what it sends first.
const ACCEPT: Duration = Duration::from_secs(15);
/// The same when somebody has asserted that it is down: nobody waits for a dead host longer than for a slow link.
const ACCEPT_ASSERTED: Duration = Duration::from_secs(5);

/// What somebody says of the primary when a failover begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Asserts {
    /// Nothing.
    #[default]
    Nothing,
    /// That it is down, if it does not answer: what InitiateFailover of the management API means.
    IfSilent,
    /// That it is down: said at a prompt, or by `--yes`. Counts only while it does not answer.
    Down,
    /// That it is fenced off, whatever it answers: `--force`.
    Forced,
}

/// What the host says that a failover would take the VM from.
#[derive(Debug, Clone)]
pub struct PrimaryWord {
    /// Its own word.
    pub place: Place,
    /// What those say that it asked in turn, and those that it once named.
    further: Vec<Heard>,
    /// A witness that would have to know of the failover and does not answer.
    silent_witness: Option<String>,
}

impl Vms {
    /// Asks the host that sent the VM here, and those that it named: one of them may have taken the VM over already.
    pub async fn ask_primary(&self, vm: VmId, from: &Sharing) -> PrimaryWord {
        let known = self.fence(vm).and_then(|fence| fence.hosts.get(&from.host).cloned());
        let addresses = known.map(|known| known.addresses).unwrap_or_default();
        let (word, named, silent_witness) =
            tokio::join!(self.ask_one(vm, from.host, addresses), self.ask_named(vm), self.silent_witness(vm));
        let (own, further): (Vec<Heard>, Vec<Heard>) =
            one_word_each(word, named).into_iter().partition(|heard| heard.host == from.host);
        let place = own.first().map_or(Place::Silent, |heard| heard.place);
        PrimaryWord { place, further, silent_witness }
    }

    /// Before a failover begins: whether it may, after what the primary said, and what is asserted then. Changes nothing.
    ///
    /// # Errors
    /// 32775 when the VM has gone on to a third host, and nobody forces it. With a start also 32774 while the primary, or
    /// a host that it names, runs the VM, and 32777 while it or the witness is silent and nobody asserts that it is down.
    pub fn before_failover(
        &self,
        vm: VmId,
        from: &Sharing,
        word: &PrimaryWord,
        start: bool,
        asserts: Asserts,
    ) -> Result<Option<Assertion>, Refusal> {
        let refuse =
            |reason: Reason| Err(reason.refusal(from.name.as_str(), &self.title(from, reason.host())));
        let went_on = self.went_on(vm, from.host, &word.further);
        if let Some(reason) = went_on.filter(|_| asserts != Asserts::Forced) {
            return refuse(reason);
        }
        match (word.place, asserts) {
            (Place::Silent, Asserts::IfSilent | Asserts::Down) => Ok(Some(Assertion::Silent)),
            (_, Asserts::Forced) => Ok(Some(Assertion::Forced)),
            (Place::Silent, Asserts::Nothing) if start && self.policy().fence_command.is_empty() => {
                let meanwhile = self.meanwhile(vm, from);
                refuse(Reason::PrimarySilent(from.host)).map_err(|refusal| {
                    let message = format!("{}; {meanwhile}", refusal.message);
                    refusal.saying(message)
                })
            }
            (Place::Runs, _)
                if start
                    && self.policy().over_running == OverRunning::Refuse
                    && self.policy().rules.confirm_failover =>
            {
                refuse(Reason::PrimaryRuns(from.host))
            }
            (_, asserts) => match word.silent_witness.as_ref().filter(|_| start) {
                None => Ok(None),
                Some(_) if asserts != Asserts::Nothing => Ok(Some(Assertion::Silent)),
                Some(_) if !self.policy().rules.record_with_witness => Ok(None),
                Some(witness) => Err(Reason::WitnessSilent.refusal(from.name.as_str(), witness)),
            },
        }
    }

    /// What a host that is silent here does meanwhile with a start of the VM, as it last told.
    fn meanwhile(&self, vm: VmId, from: &Sharing) -> String {
        let host = &from.known.name;
        let told = self.record(vm).and_then(|record| record.stances.get(&from.host).copied());
        let Some(told) = told else {
            return format!(
                "what {host} does when this host does not answer it (when_peer_is_silent) was never told here"
            );
        };
        let does = match told.stance.when_silent {
            WhenSilent::Refuse => "is refused while this host does not answer it".to_owned(),
            WhenSilent::StartAfter(wait) => {
                format!("goes ahead when this host has not answered it for {} s", wait.as_secs())
            }
        };
        let until = self.context.peers.contact(from.host).until.max(Some(told.at)).unwrap_or(told.at);
        let ago = ago(Timestamp::now().duration_since(until).as_secs());
        format!("a start of it on {host} {does} (when_peer_is_silent there, as of {ago} ago)")
    }

    /// The host that sent the VM here does not have it any more: a failover here would take it from a third one, which
    /// nothing on this host would ask before the start.
    fn went_on(&self, vm: VmId, from: HostId, further: &[Heard]) -> Option<Reason> {
        let claim = self.fence(vm).map(|fence| fence.claim);
        let elsewhere = claim.filter(|claim| claim.holder != from && claim.holder != self.me());
        let there = |heard: &&Heard| matches!(heard.place, Place::Runs | Place::Lives);
        elsewhere
            .map(Reason::LivesElsewhere)
            .or_else(|| further.iter().find(there).map(|heard| Reason::RunsElsewhere(heard.host)))
    }

    /// What a host is called that a refusal is about.
    fn title(&self, from: &Sharing, host: Option<HostId>) -> String {
        let other = host.filter(|host| *host != from.host);
        other.map_or_else(|| from.known.name.clone(), |host| self.title_of(host))
    }

    /// This host holds the VM from now on, taken from the host that sent it: by a failover that is complete. Nothing is
    /// started by it.
    ///
    /// # Errors
    /// When the claim cannot be kept, and while two hosts hold the same number.
    pub async fn take(&self, vm: VmId, from: Sharing, asserted: Option<Assertion>) -> Result<Claim, Refusal> {
        let from = Box::new(from);
        self.ask(vm, |answer| Request::Take { from, asserted, answer }).await?
    }

    /// The VM goes back to `to`: the failover was reverted, or it failed.
    ///
    /// # Errors
    /// When the claim cannot be kept.
    pub async fn give(self: &Arc<Self>, vm: VmId, to: HostId) -> Result<Claim, Refusal> {
        let given = self.ask(vm, |answer| Request::Give { to, answer }).await??;
        self.record_given(vm, given);
        Ok(given)
    }

    /// Brings the claim of this host to every host that the VM came from, and hears whether it runs there.
    pub(super) async fn bring(&self, vm: VmId, asserted: Option<Assertion>) -> Vec<Heard> {
        let within = if asserted.is_some() { ACCEPT_ASSERTED } else { ACCEPT };
        let Some(fence) = self.fence(vm).filter(|fence| fence.held_by(self.me())) else { return Vec::new() };
        let pause = self.policy().over_running == OverRunning::Pause;
        let mut heard = Vec::new();
        for (host, known) in fence.hosts.iter().filter(|(_, known)| known.role == Role::Source) {
            let call = Call::Raise { vm, claim: fence.claim, pause };
            let place = match self.context.peers.call(*host, &known.addresses, call, within).await {
                Ok(PeerAnswer::Raise(presence)) => self.was_brought(vm, *host, fence.claim, &presence).await,
                Ok(_) => Place::Silent,
                Err(silence) => {
                    tracing::info!(%vm, host = %known.name, %silence, "a host could not be told that a VM was taken over");
                    Place::Silent
                }
            };
            heard.push(Heard { host: *host, place });
        }
        heard
    }

    async fn was_brought(&self, vm: VmId, host: HostId, claim: Claim, presence: &Presence) -> Place {
        let told = Told::word(host, self.title_of(host), presence);
        let accepted = presence.claim.is_some_and(|theirs| theirs.same_as(claim));
        let noted = async {
            // One that runs the VM all the same is held back by nothing: its later silence would be no "no".
            if accepted && matches!(presence.place, Place::NotHere | Place::Unknown) {
                self.ask(vm, |answer| Request::Accepted { host, claim, answer }).await??;
            }
            let told = Box::new(told);
            self.ask(vm, |answer| Request::Told { told, answer }).await?
        };
        match noted.await {
            // It answered and keeps another claim: that is no acceptance, whatever else it said.
            Ok(_) if !accepted && presence.place == Place::NotHere => Place::Silent,
            Ok(_) => presence.place,
            Err(refusal) => {
                tracing::warn!(%vm, %refusal, "what another host said could not be kept");
                Place::Silent
            }
        }
    }
}

/// A span in its largest unit.
fn ago(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86400),
    }
}

impl Task {
    pub(super) async fn take(
        &mut self,
        from: Sharing,
        asserted: Option<Assertion>,
    ) -> Result<Claim, Refusal> {
        let me = self.me();
        let mut changed = self.record_or(Some(&from))?;
        changed.fence.hosts.entry(from.host).or_insert(from.known);
        // Taken already: a flow that a restart repeats must not raise the number again.
        if changed.fence.held_by(me) {
            return Ok(changed.fence.claim);
        }
        if changed.fence.rival.is_some() {
            return Err(self.refusal_of_rivals(&changed.fence));
        }
        let claim = changed.fence.take(me, asserted);
        self.change(changed).await?;
        let place = self.place().await?;
        self.announce(place);
        Ok(claim)
    }

    pub(super) async fn give(&mut self, to: HostId) -> Result<Claim, Refusal> {
        let Some(mut changed) = self.record.clone() else {
            return Err(Vm::ClaimLost { vm: self.name() }.into());
        };
        // Given already: a flow that a restart repeats must not raise the number again.
        if changed.fence.claim.holder == to && changed.fence.rival.is_none() {
            return Ok(changed.fence.claim);
        }
        let claim = changed.fence.give(to);
        self.change(changed).await?;
        let place = self.place().await?;
        self.announce(place);
        Ok(claim)
    }

    /// Another host holds the VM from now on. Durable first; then nothing of it is sent any more, and only then it is said
    /// whether it runs: a cut stops a guest for an instant, and that is no "not running".
    pub(super) async fn raised(&mut self, told: Told, pause: bool) -> Result<Presence, Refusal> {
        self.learn(&told).await?;
        let accepted = self.fence().zip(told.claim).is_some_and(|(fence, claim)| fence.claim.same_as(claim));
        if accepted {
            self.stop_sending().await?;
            if pause {
                self.pause_for_another().await?;
            }
        }
        self.look_at_meetings().await;
        self.presence().await
    }

    pub(super) async fn accepted(&mut self, host: HostId, claim: Claim) -> Result<(), Refusal> {
        let Some(mut changed) = self.record.clone() else { return Ok(()) };
        if !changed.fence.claim.same_as(claim) {
            return Ok(());
        }
        let Some(known) = changed.fence.hosts.get_mut(&host) else { return Ok(()) };
        known.accepted = known.accepted.max(Some(claim.number));
        let sources = || changed.fence.hosts.values().filter(|known| known.role == Role::Source);
        if sources().all(|known| known.accepted >= Some(claim.number)) {
            changed.fence.asserted = changed.fence.asserted.filter(|how| *how == Assertion::Waited);
        }
        if self.record.as_ref() == Some(&changed) { Ok(()) } else { self.change(changed).await }
    }

    /// Two hosts hold the same number, and a person decides for one of them: the next number goes to it.
    pub(super) async fn resolve(&mut self, keep: bool) -> Result<Claim, Refusal> {
        let Some(mut changed) = self.record.clone().filter(|record| record.fence.rival.is_some()) else {
            return Err(Vm::NoRivals { vm: self.name() }.into());
        };
        let me = self.me();
        if !keep && changed.fence.is_disputed_elsewhere(me) {
            return Err(Vm::RivalsElsewhere { vm: self.name() }.into());
        }
        let other = changed
            .fence
            .rival
            .map_or(changed.fence.claim.holder, |rival| rival.other_than(me, changed.fence.claim));
        changed.given_up = !keep;
        let claim =
            if keep { changed.fence.take(me, Some(Assertion::Forced)) } else { changed.fence.give(other) };
        self.change(changed).await?;
        self.look_at_meetings().await;
        let place = self.place().await?;
        self.announce(place);
        Ok(claim)
    }

    pub(super) fn refusal_of_rivals(&self, fence: &Fence) -> Refusal {
        let theirs = fence.rival.unwrap_or(fence.claim);
        self.refusal(Reason::Rivals { ours: fence.claim, theirs })
    }
}
