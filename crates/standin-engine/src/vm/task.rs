//! The task of one VM: takes one request after the other, so that between a decision and the call of the hypervisor that
//! follows from it nothing else is decided.
//!
//! A shutdown that waits for the guest runs beside it ([`super::operate`]): it only ever makes a VM stop, and other hosts
//! must be answered meanwhile.

use super::alarm::{Alarm, AlarmKind};
use super::hosts::Sharing;
use super::record::VmRecord;
use super::registry::{Start, Started, VmContext};
use crate::engine::hypervisor_refusal;
use crate::peers::{ClaimFact, Presence};
use crate::records;
use crate::spans;
use jiff::Timestamp;
use standin_hypervisor::{PowerState, VmDefinition, VmInfo};
use standin_model::fence::{Assertion, Claim, Fence, Heard, Learned, Meeting, Place, WhenSilent, meet};
use standin_model::{HostId, Refusal, ReturnCode, VmId, VmName};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

pub(super) type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

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
}

/// What is asked of the task.
pub(super) enum Request {
    Run { start: Start, heard: Vec<Heard>, fenced: Option<bool>, answer: Answer<Started> },
    Define { definition: Box<VmDefinition>, replace: bool, answer: Answer<()> },
    Undefine { answer: Answer<()> },
    PowerOff { answer: Answer<()> },
    Pause { answer: Answer<()> },
    Adopted { start: Start, heard: Vec<Heard>, answer: Answer<()> },
    Share { sharing: Box<Sharing>, answer: Answer<Claim> },
    Unshare { answer: Answer<()> },
    Join { record: Box<VmRecord>, answer: Answer<()> },
    Rename { name: VmName, answer: Answer<bool> },
    WhenSilent { when: Option<WhenSilent>, answer: Answer<()> },
    Take { from: Box<Sharing>, asserted: Option<Assertion>, answer: Answer<Claim> },
    Give { to: HostId, answer: Answer<Claim> },
    Told { told: Box<Told>, answer: Answer<Presence> },
    Raised { told: Box<Told>, pause: bool, answer: Answer<Presence> },
    Accepted { host: HostId, claim: Claim, answer: Answer<()> },
    SameHost { old: HostId, new: HostId, name: String, answer: Answer<()> },
    Compared { answer: Answer<()> },
    Resolve { keep: bool, answer: Answer<Claim> },
    Forget { answer: Answer<()> },
    PowerChanged,
}

/// The task of one VM.
pub(super) struct Task {
    pub context: Arc<VmContext>,
    pub vm: VmId,
    pub record: Option<VmRecord>,
    publish: watch::Sender<Option<VmRecord>>,
    /// What each other host said last, since this daemon started.
    pub last: HashMap<HostId, Place>,
}

impl Task {
    pub fn new(
        context: Arc<VmContext>,
        vm: VmId,
        record: Option<VmRecord>,
        publish: watch::Sender<Option<VmRecord>>,
    ) -> Self {
        Self { context, vm, record, publish, last: HashMap::new() }
    }

    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let shutdown = self.context.shutdown.clone();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                request = requests.recv() => match request {
                    Some(request) => self.request(request).await,
                    None => return,
                },
            }
        }
    }

    /// Whoever asked may have gone away; what was decided holds all the same.
    async fn request(&mut self, request: Request) {
        match request {
            Request::Run { start, heard, fenced, answer } => {
                drop(answer.send(self.begin(start, &heard, fenced).await));
            }
            Request::Define { definition, replace, answer } => {
                drop(answer.send(self.define(*definition, replace).await));
            }
            Request::Undefine { answer } => drop(answer.send(self.undefine().await)),
            Request::PowerOff { answer } => drop(answer.send(self.power_off().await)),
            Request::Pause { answer } => drop(answer.send(self.pause().await)),
            Request::Adopted { start, heard, answer } => {
                drop(answer.send(self.adopted(start, &heard).await));
            }
            Request::Share { sharing, answer } => drop(answer.send(self.share(*sharing).await)),
            Request::Unshare { answer } => drop(answer.send(self.unshare().await)),
            Request::Join { record, answer } => drop(answer.send(self.join(*record).await)),
            Request::Rename { name, answer } => drop(answer.send(self.rename(name).await)),
            Request::WhenSilent { when, answer } => drop(answer.send(self.set_when_silent(when).await)),
            Request::Take { from, asserted, answer } => {
                drop(answer.send(self.take(*from, asserted).await));
            }
            Request::Give { to, answer } => drop(answer.send(self.give(to).await)),
            Request::Told { told, answer } => drop(answer.send(self.told(*told).await)),
            Request::Raised { told, pause, answer } => drop(answer.send(self.raised(*told, pause).await)),
            Request::Accepted { host, claim, answer } => drop(answer.send(self.accepted(host, claim).await)),
            Request::SameHost { old, new, name, answer } => {
                drop(answer.send(self.same_host(old, new, name).await));
            }
            Request::Compared { answer } => drop(answer.send(self.compared().await)),
            Request::Resolve { keep, answer } => drop(answer.send(self.resolve(keep).await)),
            Request::Forget { answer } => drop(answer.send(self.forget().await)),
            Request::PowerChanged => {
                self.look_at_meetings().await;
                if let Ok(place) = self.place().await {
                    self.announce(place);
                }
            }
        }
    }

    pub fn me(&self) -> HostId {
        self.context.me
    }

    pub fn fence(&self) -> Option<&Fence> {
        self.record.as_ref().map(|record| &record.fence)
    }

    /// The VM's name, for people: as it is here, else its id.
    pub fn name(&self) -> String {
        let seen = self.context.inventory.get(self.vm).map(|info| info.name.to_string());
        let kept = self.record.as_ref().map(|record| record.name.to_string());
        seen.or(kept).unwrap_or_else(|| self.vm.to_string())
    }

    /// A host's name, for people.
    pub fn host_name(&self, host: HostId) -> String {
        let known = self.fence().and_then(|fence| fence.hosts.get(&host));
        known.map(|known| known.name.clone()).or_else(|| self.context.peers.name(host)).unwrap_or_else(|| {
            if host == self.me() { "this host".to_owned() } else { format!("host {host}") }
        })
    }

    pub async fn inspect(&self) -> Result<Option<VmInfo>, Refusal> {
        match self.context.hypervisor.inspect(self.vm).await {
            Ok(info) => Ok(Some(info)),
            Err(standin_hypervisor::Error::UnknownVm(_)) => Ok(None),
            Err(error) => Err(hypervisor_refusal(&error)),
        }
    }

    /// Changes the record, durably; without one on disk nothing has changed.
    pub async fn change(&mut self, changed: VmRecord) -> Result<(), Refusal> {
        // The files first: a database that is lost, or restored from a backup, is then behind them and not before them.
        self.context.files.write(&changed).await?;
        records::put(&self.context.tables.vms, self.vm, &changed).await?;
        if self.record.as_ref().is_none_or(|known| known.name != changed.name) {
            spans::has_name(&changed.name);
        }
        self.record = Some(changed);
        self.publish.send_replace(self.record.clone());
        Ok(())
    }

    /// When this returns, nothing of the VM is sent, and nothing reads its disks.
    ///
    /// # Errors
    /// 32772 when that does not end in time.
    pub async fn stop_sending(&self) -> Result<(), Refusal> {
        match self.context.senders() {
            Some(senders) if !senders.yield_up(self.vm).await => Err(Refusal::new(
                ReturnCode::Timeout,
                format!("what reads the disks of VM {} does not end", self.name()),
                "Look at the daemon's log on that host, then try again.",
            )),
            _ => Ok(()),
        }
    }

    pub async fn erase(&mut self) -> Result<(), Refusal> {
        records::delete(&self.context.tables.vms, self.vm).await?;
        self.context.files.remove(self.vm).await?;
        self.record = None;
        self.publish.send_replace(None);
        Ok(())
    }

    /// Tells every host that shares the VM how things are here. Nobody waits for it: a host that does not hear it asks when
    /// it matters, and is told when the link is up again.
    pub fn announce(&self, place: Place) {
        let Some(fence) = self.fence() else { return };
        for (host, known) in &fence.hosts {
            let claim = fence.told_to(*host);
            let fact = ClaimFact { vm: self.vm, claim, place, ran: self.ran_unheld() };
            self.context.peers.announce(*host, &known.addresses, vec![fact]);
        }
    }

    /// The copy here ran under the lower claim, and nobody has seen to it yet.
    fn ran_unheld(&self) -> bool {
        let alarm = self.record.as_ref().and_then(|record| record.alarm.as_ref());
        alarm.is_some_and(|alarm| alarm.kind == AlarmKind::BothRanLower)
    }

    /// What this host says of the VM.
    pub async fn place(&self) -> Result<Place, Refusal> {
        let info = self.inspect().await?;
        let held = self.fence().is_some_and(|fence| fence.claim.holder == self.me());
        Ok(match info {
            // One that somebody else started can be continued past this daemon.
            Some(info)
                if info.power == PowerState::Running || (info.adopted && info.power != PowerState::Off) =>
            {
                Place::Runs
            }
            _ if held => Place::Lives,
            Some(_) => Place::NotHere,
            None if self.record.is_some() => Place::NotHere,
            None => Place::Unknown,
        })
    }

    pub async fn presence(&self) -> Result<Presence, Refusal> {
        let when_silent = self.record.as_ref().and_then(|record| record.when_silent);
        Ok(Presence {
            claim: self.fence().map(|fence| fence.claim),
            place: self.place().await?,
            further: Vec::new(),
            when_silent: when_silent.unwrap_or(self.context.policy.when_silent),
        })
    }

    /// Takes in what a host told: the claim, where the VM is, and what follows when both run it.
    pub async fn told(&mut self, told: Told) -> Result<Presence, Refusal> {
        if let Some(place) = told.place {
            self.last.insert(told.host, place);
        }
        self.learn(&told).await?;
        self.confirmed_by(&told).await?;
        self.look_at_meetings().await;
        self.presence().await
    }

    /// A start that nobody confirmed is confirmed when every host that shares the VM knows this claim, and runs nothing.
    async fn confirmed_by(&mut self, told: &Told) -> Result<(), Refusal> {
        let Some(mut changed) = self.record.clone() else { return Ok(()) };
        let says_no = |host: &HostId| matches!(self.last.get(host), Some(Place::NotHere | Place::Unknown));
        let knows = told.claim.is_some_and(|claim| claim.same_as(changed.fence.claim));
        let confirmed = knows && changed.fence.held_by(self.me()) && changed.fence.hosts.keys().all(says_no);
        if !confirmed || changed.fence.asserted.take().is_none() {
            return Ok(());
        }
        self.change(changed).await
    }

    pub async fn learn(&mut self, told: &Told) -> Result<Learned, Refusal> {
        let Some(claim) = told.claim else { return Ok(Learned::Nothing) };
        let Some(mut changed) = self.record.clone() else { return self.first_heard(told, claim).await };
        let learned = changed.fence.learn(self.me(), claim, self.context.policy.rules);
        if matches!(learned, Learned::Nothing | Learned::Older) {
            return Ok(learned);
        }
        let host = told.name.as_str();
        tracing::warn!(%host, claim = %claim, ?learned, "another host has a newer claim on a VM");
        if changed.fence.claim.holder != self.me() {
            changed.fence.asserted = None;
        }
        self.change(changed).await?;
        if matches!(learned, Learned::Lost(_) | Learned::Rival(_)) {
            self.stop_sending().await?;
        }
        Ok(learned)
    }

    /// A host tells of a VM that this one has no record of: it was lost, or an older data directory was put back. Only
    /// a holder's own word makes a record.
    async fn first_heard(&mut self, told: &Told, claim: Claim) -> Result<Learned, Refusal> {
        if claim.holder != told.host || !matches!(told.place, Some(Place::Runs | Place::Lives)) {
            return Ok(Learned::Nothing);
        }
        let Some(info) = self.inspect().await? else { return Ok(Learned::Nothing) };
        tracing::warn!(host = %told.name, %claim,
            "another host holds a VM of which this host has no record; it is kept that the VM lives there");
        let mut fence = Fence::new(claim);
        fence.hosts.insert(told.host, told.known(standin_model::fence::Role::Replica));
        self.change(VmRecord::new(self.vm, info.name, fence)).await?;
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
        let stays = known.is_some_and(|(kind, _)| kind == AlarmKind::BothRanLower)
            && now.is_none()
            && self.is_on().await;
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
        let rules = self.context.policy.rules;
        if let Some(rival) = fence.rival {
            return Some((Meeting::Rivals, rival.holder));
        }
        let met = self.last.iter().map(|(host, place)| (meet(self.me(), fence, runs, *place, rules), *host));
        let rank = |meeting: &Meeting| match meeting {
            Meeting::Fine => 0,
            Meeting::RunsUnheld => 1,
            Meeting::BothRunHigher => 2,
            Meeting::BothRunLower => 3,
            Meeting::Rivals => 4,
        };
        let unheard =
            (runs && fence.claim.holder != self.me()).then_some((Meeting::RunsUnheld, fence.claim.holder));
        met.chain(unheard)
            .filter(|(meeting, _)| *meeting != Meeting::Fine)
            .max_by_key(|(meeting, _)| rank(meeting))
    }
}
