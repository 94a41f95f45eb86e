//! The start and the resume of a VM: asks the other hosts beside the task, then decides and acts within it.
//!
//! Words may be a moment old when the decision falls, and that is enough: a host that takes the VM over meanwhile brings
//! its claim first, and it is in this task's inbox, or already in its fence, before anything runs.

use super::reason::Vm;
use super::registry::{Start, Started, Vms};
use super::task::{Request, Task};
use crate::engine::hypervisor_refusal;
use standin_hypervisor::{PowerState, StartOptions};
use standin_model::fence::{
    Assertion, Heard, Place, Reason, Role, Run, RunFacts, WitnessId, may_run, one_word_each,
};
use standin_model::{Refusal, VmId};
use std::sync::Arc;

/// What every host that counts said just now.
#[derive(Debug)]
pub(super) struct Words {
    /// One word of each host.
    pub heard: Vec<Heard>,
    /// They are of the hosts that the record of this host names. Without one, others are asked.
    pub by_record: bool,
    /// How `fence_command` ended; `None` where it was not run.
    pub fenced: Option<bool>,
    /// From which records the witness of this host answered; `None` when it was not asked, or is silent.
    pub witness: Option<WitnessId>,
}

impl Vms {
    /// Starts or resumes a VM, if it may run here.
    ///
    /// # Errors
    /// The fence's reason with the way out, or the hypervisor's.
    pub async fn start(self: &Arc<Self>, vm: VmId, start: Start) -> Result<Started, Refusal> {
        let words = self.words(vm, start.asserted).await;
        let started = self.ask(vm, |answer| Request::Run { start, words, answer }).await??;
        // One that was forced has taken the next number.
        self.record_later(vm);
        Ok(started)
    }

    /// What every host that counts says just now. Where the VM came from another host, the claim is brought to that one
    /// and to the witness first; where it does not let go, `fence_command` is run.
    pub(super) async fn words(&self, vm: VmId, asserted: Option<Assertion>) -> Words {
        let by_record = self.record(vm).is_some();
        let (mut heard, ()) = tokio::join!(self.gather(vm), self.record_with_witnesses(vm));
        let silent = heard.iter().any(|heard| heard.place == Place::Silent);
        let witness = if silent { self.hear_witness(vm).await } else { None };
        // What the others say of a host that the VM came from was true before the claim was brought to it.
        heard = one_word_each(self.bring(vm, asserted).await, heard);
        let sources = self.fence(vm).map(|fence| fence.hosts).unwrap_or_default();
        let open = |heard: &&Heard| {
            let source = sources.get(&heard.host).filter(|known| known.role == Role::Source);
            source.is_some() && !matches!(heard.place, Place::NotHere | Place::Unknown)
        };
        let Some(unsettled) = heard.iter().find(open).filter(|_| asserted.is_none()) else {
            return Words { heard, by_record, fenced: None, witness };
        };
        let name = sources.get(&unsettled.host).map(|known| known.name.clone()).unwrap_or_default();
        let fenced = self.run_fence_command(vm, &name).await;
        Words { heard, by_record, fenced, witness }
    }
}

impl Task {
    /// Decides, and starts.
    pub(super) async fn begin(&mut self, start: Start, words: &Words) -> Result<Started, Refusal> {
        // What was said a while ago, and by hosts that are silent now, counts no more.
        self.last.extend(words.heard.iter().map(|heard| (heard.host, heard.place)));
        let asserted = match self.decide(start, words).await? {
            Run::Wait(left) => return Ok(Started::Waits(left)),
            Run::Refuse(reason) => return Err(self.refusal(reason)),
            Run::Go { asserted, take } => {
                // What the hypervisor refuses because of how the VM is takes no number.
                if self.can_begin(start).await? {
                    self.note_assertion(asserted, take).await?;
                }
                asserted
            }
        };
        self.let_run(start).await?;
        self.announce(Place::Runs);
        self.look_at_meetings().await;
        Ok(Started::Runs(asserted))
    }

    async fn can_begin(&self, start: Start) -> Result<bool, Refusal> {
        let begins_as = if start.resume { PowerState::Paused } else { PowerState::Off };
        Ok(self.inspect().await?.is_some_and(|info| info.power == begins_as))
    }

    pub(super) async fn decide(&self, start: Start, words: &Words) -> Result<Run, Refusal> {
        if words.by_record && self.record.is_none() && start.asserted != Some(Assertion::Forced) {
            return Err(Vm::ForgottenMeanwhile { vm: self.name() }.into());
        }
        let marked = self.record.is_none() && self.context.is_marked(self.vm).await?;
        Ok(may_run(&RunFacts {
            me: self.me(),
            fence: self.fence(),
            marked,
            heard: &words.heard,
            asserted: start.asserted,
            fenced: words.fenced,
            waited: start.waited,
            when_silent: self.context.stance(self.record.as_ref()).when_silent,
            witness: self.witness_word(words.witness),
            stances: &self.stances(),
            rules: self.context.policy.rules,
        }))
    }

    pub(super) fn refusal(&self, reason: Reason) -> Refusal {
        let host = match reason {
            Reason::WitnessSilent => self.deaf_witness(),
            _ => reason.host().map(|host| self.host_name(host)).unwrap_or_default(),
        };
        reason.refusal(&self.name(), &host)
    }

    /// Durable before the VM runs: the next number where it was forced, and that nobody confirmed it.
    pub(super) async fn note_assertion(
        &mut self,
        asserted: Option<Assertion>,
        take: bool,
    ) -> Result<(), Refusal> {
        if let Some(how) = asserted {
            tracing::warn!(?how, "a VM is started that no other host confirmed");
        }
        let Some(mut changed) = self.record.clone() else { return Ok(()) };
        let me = self.me();
        if take {
            changed.fence.take(me, asserted);
        } else {
            changed.fence.asserted = asserted;
        }
        if self.record.as_ref() == Some(&changed) { Ok(()) } else { self.change(changed).await }
    }

    async fn let_run(&self, start: Start) -> Result<(), Refusal> {
        let hypervisor = &self.context.hypervisor;
        let done = if start.resume {
            hypervisor.resume(self.vm).await
        } else {
            hypervisor.start(self.vm, StartOptions { paused: start.paused }).await
        };
        self.context.inventory.refresh(self.vm).await;
        done.map_err(|error| hypervisor_refusal(&error))
    }

    /// A QEMU that somebody else started was made known. One that must not run here is forgotten again.
    pub(super) async fn adopted(&mut self, start: Start, words: &Words) -> Result<(), Refusal> {
        let on = self.inspect().await?.is_some_and(|info| info.power != PowerState::Off);
        let decided = self.decide(start, words).await?;
        let refused = match decided {
            Run::Go { asserted, take } => {
                self.note_assertion(asserted, take).await?;
                self.look_at_meetings().await;
                self.announce_as_it_is().await;
                return Ok(());
            }
            Run::Refuse(reason) => self.refusal(reason),
            Run::Wait(_) => Vm::AdoptedUnasked { vm: self.name() }.into(),
        };
        self.context.hypervisor.undefine(self.vm).await.map_err(|error| hypervisor_refusal(&error))?;
        self.context.inventory.refresh(self.vm).await;
        let still = if on { " It runs on: stop it by the program that started it." } else { "" };
        let remedy = format!("{}{still}", refused.remedy);
        Err(refused.with_remedy(remedy))
    }
}
