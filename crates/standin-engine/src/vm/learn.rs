//! What other hosts tell of a VM, and what follows from it: the claim, how they decide, a confirmation of a start, and the
//! alarm where both run it. Part of the VM's task, see [`super::task`].

use super::alarm::{Alarm, AlarmKind};
use super::record::{ToldStance, VmRecord};
use super::task::Task;
use crate::peers::Presence;
use jiff::Timestamp;
use standin_hypervisor::PowerState;
use standin_model::fence::{Claim, Fence, Learned, Meeting, NamedHost, Place, Role, Rules, Stance, meet};
use standin_model::{HostId, Refusal};

/// What another host told of a VM.
#[derive(Debug, Clone)]
pub(super) struct Told {
    /// Who.
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// Where it can be reached, if that is known.
    pub address: Option<String>,
    /// The claim that it knows.
    pub claim: Option<Claim>,
    /// Where the VM is, seen from there.
    pub place: Option<Place>,
    /// How it decides about the VM.
    pub stance: Option<Stance>,
    /// How this host shares the VM, seen from there.
    pub sees_as: Option<Role>,
    /// The other hosts that share the VM with it.
    pub others: Vec<NamedHost>,
}

impl VmRecord {
    /// Takes in a claim that another host told.
    pub(super) fn learn(&mut self, me: HostId, claim: Claim, rules: Rules) -> Learned {
        let other = self.fence.rival.map(|rival| rival.other_than(me, self.fence.claim));
        let learned = self.fence.learn(me, claim, rules);
        // Two held it, and the other one has the next number: somebody decided for that one.
        self.given_up |= matches!(learned, Learned::Lost(claim) if other == Some(claim.holder));
        learned
    }
}

impl Task {
    /// Takes in what a host told: the claim, where the VM is, and what follows when both run it.
    pub async fn told(&mut self, told: Told) -> Result<Presence, Refusal> {
        if let Some(place) = told.place {
            self.last.insert(told.host, place);
        }
        self.learn(&told).await?;
        self.note_teller(&told).await?;
        self.note_stance(&told).await?;
        self.note_address(&told).await?;
        self.note_others(&told).await?;
        self.contradicted_by(&told).await?;
        self.confirmed_by(&told).await?;
        self.look_at_meetings().await;
        self.presence().await
    }

    /// A host shares the VM that this one does not know of: it is told what is known here, too.
    async fn note_teller(&mut self, told: &Told) -> Result<(), Refusal> {
        let Some(mut changed) = self.record.clone().filter(|_| told.sees_as.is_some()) else { return Ok(()) };
        if !changed.fence.names_itself(self.me(), told.host, told.known(Role::Named)) {
            return Ok(());
        }
        self.change(changed).await?;
        self.announce_as_it_is().await;
        Ok(())
    }

    /// How a host that shares the VM decides about it: kept, because it counts when that host is silent.
    async fn note_stance(&mut self, told: &Told) -> Result<(), Refusal> {
        let Some(stance) = told.stance else { return Ok(()) };
        let Some(mut changed) = self.record.clone() else { return Ok(()) };
        let known = changed.stances.get(&told.host).is_some_and(|known| known.stance == stance);
        if known || !changed.fence.hosts.contains_key(&told.host) {
            return Ok(());
        }
        changed.stances.insert(told.host, ToldStance { stance, at: Timestamp::now() });
        self.change(changed).await
    }

    /// Where the teller can be reached. What hosts are met is in the database; this is also in the files, from which a host that
    /// lost its database finds the others.
    async fn note_address(&mut self, told: &Told) -> Result<(), Refusal> {
        let Some((mut changed, address)) = self.record.clone().zip(told.address.as_deref()) else {
            return Ok(());
        };
        if changed.fence.is_reached_at(told.host, address) { self.change(changed).await } else { Ok(()) }
    }

    /// The hosts that share the VM with the teller: two that received it from the same one do not meet otherwise.
    async fn note_others(&mut self, told: &Told) -> Result<(), Refusal> {
        let Some(mut changed) = self.record.clone() else { return Ok(()) };
        match changed.fence.take_names(self.me(), told.host, &told.others) {
            true => self.change(changed).await,
            false => Ok(()),
        }
    }

    /// A host that was said to be down says that it has the VM.
    async fn contradicted_by(&mut self, told: &Told) -> Result<(), Refusal> {
        let Some((mut changed, place)) = self.record.clone().zip(told.place) else { return Ok(()) };
        if changed.fence.hear(told.host, place) { self.change(changed).await } else { Ok(()) }
    }

    /// A start that nobody confirmed is confirmed when every host that shares the VM knows this claim, and runs nothing.
    async fn confirmed_by(&mut self, told: &Told) -> Result<(), Refusal> {
        let Some(mut changed) = self.record.clone() else { return Ok(()) };
        let says_no = |host: &HostId| matches!(self.last.get(host), Some(Place::NotHere | Place::Unknown));
        let knows = told.claim.is_some_and(|claim| claim.same_as(changed.fence.claim));
        let mut direct = changed.fence.hosts.iter().filter(|(_, known)| known.role != Role::Named);
        let confirmed = knows && changed.fence.held_by(self.me()) && direct.all(|(host, _)| says_no(host));
        if !confirmed || changed.fence.asserted.take().is_none() {
            return Ok(());
        }
        self.change(changed).await
    }

    pub async fn learn(&mut self, told: &Told) -> Result<Learned, Refusal> {
        let Some(claim) = told.claim else { return Ok(Learned::Nothing) };
        let Some(mut changed) = self.record.clone() else { return self.first_heard(told, claim).await };
        let learned = changed.learn(self.me(), claim, self.context.policy.rules);
        if matches!(learned, Learned::Nothing | Learned::Older) {
            return Ok(learned);
        }
        let host = told.name.as_str();
        match learned {
            Learned::Returned(_) => tracing::info!(%host, %claim, "another host gave a VM back"),
            _ => tracing::warn!(%host, %claim, ?learned, "another host has a newer claim on a VM"),
        }
        if changed.fence.claim.holder != self.me() {
            changed.fence.asserted = None;
        }
        self.change(changed).await?;
        if matches!(learned, Learned::Lost(_) | Learned::Rival(_)) {
            self.stop_sending().await?;
        }
        if matches!(learned, Learned::Newer(_) | Learned::Lost(_) | Learned::Returned(_)) {
            // Hosts that have no link with its teller hear of it from here. Numbers only rise, so that this ends.
            self.announce(self.place().await?);
        }
        self.give_up();
        Ok(learned)
    }

    /// Has what this copy wrote kept, where somebody decided for the other one. Not waited for: that stops the VM by this
    /// task.
    pub fn give_up(&self) {
        let given_up = self.record.as_ref().is_some_and(|record| record.given_up);
        if let Some(senders) = self.context.senders().filter(|_| given_up) {
            let vm = self.vm;
            self.context.tasks.spawn(async move { senders.give_up(vm).await });
        }
    }

    /// A host tells of a VM that this one has no record of: it was lost, or an older data directory was put back. While the
    /// VM is off only a holder's own word makes a record: any other one would have the marks of its images overlooked. Where
    /// it runs, and the teller shares it with this host, both must be able to say so.
    async fn first_heard(&mut self, told: &Told, claim: Claim) -> Result<Learned, Refusal> {
        let of_holder = claim.holder == told.host && matches!(told.place, Some(Place::Runs | Place::Lives));
        let shares_one_that_runs = told.sees_as.is_some() && self.place().await? == Place::Runs;
        if !of_holder && !shares_one_that_runs {
            return Ok(Learned::Nothing);
        }
        let Some(info) = self.inspect().await? else { return Ok(Learned::Nothing) };
        if claim.holder == self.me() {
            // Also in the moment between the first word of a new replica and the end of what makes it one here.
            tracing::info!(host = %told.name, %claim, "another host knows who holds a VM; that is kept");
        } else {
            tracing::warn!(host = %told.name, %claim,
                "another host holds a VM of which this host has no record; it is kept that the VM lives there");
        }
        let role = told.sees_as.map_or(Role::Replica, Role::seen_from_there);
        let mut fence = Fence::new(claim);
        fence.hosts.insert(told.host, told.known(role));
        // No relationship has it here, unless one was lost in which this host sends.
        let tombstone = claim.holder != self.me() || role != Role::Replica;
        self.change(VmRecord { tombstone, ..VmRecord::new(self.vm, info.name, fence) }).await?;
        self.announce_as_it_is().await;
        Ok(Learned::Newer(claim))
    }

    /// Judges what is known of the other hosts, acts where both run, and says it.
    pub async fn look_at_meetings(&mut self) {
        let Some(record) = self.record.clone() else { return };
        let place = match self.place().await {
            Ok(place) => place,
            Err(refusal) => {
                tracing::warn!(%refusal, "what other hosts say of a VM cannot be compared");
                return;
            }
        };
        let found = self.worst_meeting(&record.fence, place == Place::Runs);
        let kind = found.and_then(|(meeting, _)| AlarmKind::of(meeting));
        let known = record.alarm.as_ref().map(|alarm| (alarm.kind, alarm.host));
        let now = kind.zip(found.map(|(_, host)| host));
        // A copy that was paused for it stays an alarm until the claims are settled by a person.
        let less = kind.is_none_or(|kind| kind == AlarmKind::RivalsElsewhere);
        let stays =
            known.is_some_and(|(kind, _)| kind == AlarmKind::BothRanLower) && less && self.is_on().await;
        if now == known || stays {
            return;
        }
        let mut changed = record;
        changed.alarm = now.map(|(kind, host)| Alarm { kind, host, at: Timestamp::now(), action: None });
        if let Some(alarm) = &mut changed.alarm {
            alarm.action = self.act_on(alarm.kind).await;
            let issue = alarm.issue(&self.name(), &self.host_name(alarm.host), changed.fence.claim);
            tracing::error!(remedy = %issue.remedy, "{}", issue.message);
        } else {
            tracing::info!("the hosts agree again on where this VM lives");
        }
        if let Err(refusal) = self.change(changed).await {
            tracing::error!(%refusal, "what two hosts found could not be kept");
        }
        if let Ok(place) = self.place().await {
            self.announce(place);
        }
    }

    async fn is_on(&self) -> bool {
        matches!(self.inspect().await, Ok(Some(info)) if info.power != PowerState::Off)
    }

    fn worst_meeting(&self, fence: &Fence, runs: bool) -> Option<(Meeting, HostId)> {
        let (me, rules) = (self.me(), self.context.policy.rules);
        let met = self.last.iter().map(|(host, place)| (meet(me, fence, runs, *place, rules), *host));
        let rank = |meeting: &Meeting| match meeting {
            Meeting::Fine => 0,
            Meeting::RunsUnheld => 1,
            Meeting::BothRunHigher => 2,
            Meeting::RivalsElsewhere => 3,
            Meeting::BothRunLower => 4,
            Meeting::Rivals => 5,
        };
        // What the claims alone say, whatever the other hosts last said of the VM.
        let holder = fence.rival.map_or(fence.claim.holder, |rival| rival.other_than(me, fence.claim));
        let unheard = match fence.rival {
            Some(_) => Some(meet(me, fence, false, Place::Silent, rules)),
            None => (runs && holder != me).then_some(Meeting::RunsUnheld),
        };
        met.map(|(meeting, host)| match meeting {
            Meeting::Rivals | Meeting::RivalsElsewhere => (meeting, holder),
            _ => (meeting, host),
        })
        .chain(unheard.map(|meeting| (meeting, holder)))
        .filter(|(meeting, _)| *meeting != Meeting::Fine)
        .max_by_key(|(meeting, _)| rank(meeting))
    }
}
