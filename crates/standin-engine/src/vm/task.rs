//! The task of one VM: takes one request after the other, so that between a decision and the call of the hypervisor that
//! follows from it nothing else is decided.
//!
//! A shutdown that waits for the guest runs beside it ([`super::operate`]): it only ever makes a VM stop, and other hosts
//! must be answered meanwhile.

use super::hosts::Sharing;
use super::learn::Told;
use super::reason::Vm;
use super::record::VmRecord;
use super::registry::{Start, Started, VmContext};
use super::run::Words;
use crate::engine::hypervisor_refusal;
use crate::peers::{Address, Presence};
use crate::records;
use crate::spans;
use standin_hypervisor::{PowerState, VmDefinition, VmInfo};
use standin_model::fence::{Assertion, Claim, Fence, Place, WhenSilent};
use standin_model::{HostId, Refusal, VmId, VmName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

pub(super) type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// What is asked of the task.
pub(super) enum Request {
    Run {
        start: Start,
        words: Words,
        answer: Answer<Started>,
    },
    Define {
        definition: Box<VmDefinition>,
        replace: bool,
        answer: Answer<()>,
    },
    Undefine {
        answer: Answer<()>,
    },
    PowerOff {
        answer: Answer<()>,
    },
    Pause {
        answer: Answer<()>,
    },
    Adopted {
        start: Start,
        words: Words,
        answer: Answer<()>,
    },
    Share {
        sharing: Box<Sharing>,
        answer: Answer<Claim>,
    },
    Unshare {
        answer: Answer<()>,
    },
    Join {
        found: Option<Box<VmRecord>>,
        answer: Answer<()>,
    },
    Rename {
        name: VmName,
        answer: Answer<bool>,
    },
    WhenSilent {
        when: Option<WhenSilent>,
        answer: Answer<()>,
    },
    Take {
        from: Box<Sharing>,
        asserted: Option<Assertion>,
        answer: Answer<Claim>,
    },
    Give {
        to: HostId,
        answer: Answer<Claim>,
    },
    Told {
        told: Box<Told>,
        answer: Answer<Presence>,
    },
    Raised {
        told: Box<Told>,
        pause: bool,
        answer: Answer<Presence>,
    },
    Accepted {
        host: HostId,
        claim: Claim,
        answer: Answer<()>,
    },
    SameHost {
        old: HostId,
        new: HostId,
        name: String,
        answer: Answer<()>,
    },
    Compared {
        answer: Answer<()>,
    },
    Resolve {
        keep: bool,
        answer: Answer<Claim>,
    },
    Forget {
        answer: Answer<()>,
    },
    /// See [`super::registry::Senders::give_up`].
    IsGivenUp {
        answer: Answer<()>,
    },
    /// A witness has recorded a claim of this host.
    Witnessed {
        address: String,
        claim: Claim,
        answer: Answer<()>,
    },
    /// A host that the VM came from has taken in which witness this host names.
    KnowsTheWitness {
        host: HostId,
        answer: Answer<()>,
    },
    Announce,
    TellAgain,
    PowerChanged,
}

/// The task of one VM.
pub(super) struct Task {
    pub context: Arc<VmContext>,
    pub vm: VmId,
    pub record: Option<VmRecord>,
    publish: watch::Sender<Option<VmRecord>>,
    /// What each other host said last, since this daemon started.
    pub last: BTreeMap<HostId, Place>,
    /// The hosts that have taken in, since this daemon started, which witness this host names.
    pub know_witness: BTreeSet<HostId>,
}

impl Task {
    pub fn new(
        context: Arc<VmContext>,
        vm: VmId,
        record: Option<VmRecord>,
        publish: watch::Sender<Option<VmRecord>>,
    ) -> Self {
        Self { context, vm, record, publish, last: BTreeMap::new(), know_witness: BTreeSet::new() }
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
            Request::Run { start, words, answer } => drop(answer.send(self.begin(start, &words).await)),
            Request::Define { definition, replace, answer } => {
                drop(answer.send(self.define(*definition, replace).await));
            }
            Request::Undefine { answer } => drop(answer.send(self.undefine().await)),
            Request::PowerOff { answer } => drop(answer.send(self.power_off().await)),
            Request::Pause { answer } => drop(answer.send(self.pause().await)),
            Request::Adopted { start, words, answer } => drop(answer.send(self.adopted(start, &words).await)),
            Request::Share { sharing, answer } => drop(answer.send(self.share(*sharing).await)),
            Request::Unshare { answer } => drop(answer.send(self.unshare().await)),
            Request::Join { found, answer } => drop(answer.send(self.join(found.map(|found| *found)).await)),
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
            Request::IsGivenUp { answer } => drop(answer.send(self.is_given_up().await)),
            Request::Witnessed { address, claim, answer } => {
                drop(answer.send(self.was_witnessed(address, claim).await));
            }
            Request::KnowsTheWitness { host, answer } => {
                drop(answer.send(self.knows_the_witness(host).await));
            }
            Request::Announce => {
                self.promise_before_telling().await;
                self.announce_as_it_is().await;
            }
            Request::TellAgain => self.tell_again().await,
            Request::PowerChanged => {
                self.look_at_meetings().await;
                self.announce_as_it_is().await;
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
    pub async fn change(&mut self, mut changed: VmRecord) -> Result<(), Refusal> {
        self.promise_witness(&mut changed);
        // The files first: a database that is lost, or restored from a backup, is then behind them and not before them.
        self.context.files.write(&changed).await?;
        records::put(&self.context.tables.vms, self.vm, &changed).await?;
        if self.record.as_ref().is_none_or(|known| known.name != changed.name) {
            spans::has_name(&changed.name);
        }
        self.hold_links(Some(&changed.fence));
        self.record = Some(changed);
        self.publish.send_replace(self.record.clone());
        Ok(())
    }

    /// Holds a link with every host that shares the VM, for as long as it is known to: each of them may lose its records, and
    /// then learns from here where the VM is.
    fn hold_links(&self, now: Option<&Fence>) {
        for address in not_in(self.fence(), now) {
            self.context.peers.keep(address);
        }
        for address in not_in(now, self.fence()) {
            self.context.peers.forget(&address);
        }
    }

    /// When this returns, nothing of the VM is sent, and nothing reads its disks.
    ///
    /// # Errors
    /// 32772 when that does not end in time.
    pub async fn stop_sending(&self) -> Result<(), Refusal> {
        match self.context.senders() {
            Some(senders) if !senders.yield_up(self.vm).await => {
                Err(Vm::StillRead { vm: self.name() }.into())
            }
            _ => Ok(()),
        }
    }

    pub async fn erase(&mut self) -> Result<(), Refusal> {
        records::delete(&self.context.tables.vms, self.vm).await?;
        self.context.files.remove(self.vm).await?;
        self.hold_links(None);
        self.record = None;
        self.publish.send_replace(None);
        Ok(())
    }

    /// Tells every host that shares the VM how things are here. Nobody waits for it: a host that does not hear it asks when
    /// it matters, and is told when the link is up again.
    pub fn announce(&self, place: Place) {
        self.tell(place, |_| true);
    }

    fn tell(&self, place: Place, is_told: impl Fn(&HostId) -> bool) {
        let Some(record) = &self.record else { return };
        for (host, known) in record.fence.hosts.iter().filter(|(host, _)| is_told(host)) {
            let fact = self.context.fact(record, *host, place);
            self.context.peers.announce(*host, &known.addresses, vec![fact]);
        }
    }

    pub async fn announce_as_it_is(&self) {
        if let Ok(place) = self.place().await {
            self.announce(place);
        }
    }

    /// As [`Self::announce_as_it_is`], over the links that there are.
    async fn tell_again(&self) {
        if let Ok(place) = self.place().await {
            let linked = self.context.peers.linked();
            self.tell(place, |host| linked.contains(host));
        }
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
        Ok(Presence {
            claim: self.fence().map(|fence| fence.claim),
            place: self.place().await?,
            further: Vec::new(),
            stance: Some(self.context.stance(self.record.as_ref())),
        })
    }
}

/// The hosts of `these` that `fence` does not have, or at other addresses.
fn not_in(fence: Option<&Fence>, these: Option<&Fence>) -> Vec<Address> {
    let known = |host| fence.and_then(|fence| fence.hosts.get(host)).map(|known| &known.addresses);
    let hosts = these.into_iter().flat_map(|these| &these.hosts);
    let other = hosts.filter(|(host, here)| known(host) != Some(&here.addresses));
    other.map(|(host, here)| Address { host: Some(*host), addresses: here.addresses.clone() }).collect()
}
