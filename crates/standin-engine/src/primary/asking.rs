//! Asks the replica how things stand while nothing is sent to it.
//!
//! A host that was dead finds its VMs off and the state of before: whether one of them runs on the replica by now is
//! only known there. So each relationship asks once after the daemon has started, unless a piece of work does so by
//! connecting; when the link with the replica's host is up again, because what lies there may be older than what it
//! acknowledged; and now and then while the replica runs in the VM's place, to see that end.
//!
//! Invariants: asking never runs beside work, because a new session ends the one before it; an answer of any kind is
//! an answer, and only silence is tried again. Part of the task of a relationship, see [`super::task`].

use super::provenance;
use super::task::Task;
use super::worker::Worker;
use crate::error::{WorkError, chain};
use crate::messages::Opened;
use crate::peers::LinkState;
use crate::records::LastError;
use crate::tasks;
use crate::vm::VmRecord;
use standin_model::fence::{Claim, Fence, Reason};
use standin_model::state::{Event, ReplicationState};
use standin_model::{Backoff, Generation, Refusal, VmName};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long a replica may take to say whether it has failed over.
pub(super) const GREETING: Duration = Duration::from_secs(5);

/// Until when the relationships with a host that is back have asked it, one after the other.
const AFTER_MEETING: Duration = Duration::from_secs(2);

type Said = Result<Opened, WorkError>;

/// The question that is under way or to come.
#[derive(Default)]
pub(super) struct Asking {
    question: Option<JoinHandle<Said>>,
    /// The replica has answered since the daemon started.
    answered: bool,
    /// Questions without an answer in a row.
    silent: u32,
    /// Not before this.
    next: Option<Instant>,
    /// The hosts have met again: the replica is asked although work is to come.
    met: bool,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Asking {
    /// Something else asks, or nobody wants to know any more.
    pub(super) fn stop(&mut self) {
        if let Some(question) = self.question.take() {
            question.abort();
        }
    }

    /// The replica is elsewhere, or was not asked as it should be: it is asked once more.
    pub(super) fn ask_again(&mut self) {
        self.stop();
        self.answered = false;
        self.silent = 0;
        self.next = None;
    }

    /// A piece of work has ended: whatever the replica said to it is an answer.
    pub(super) fn note<T>(&mut self, result: &Result<T, WorkError>) {
        self.answered |= matches!(result, Ok(_) | Err(WorkError::Refused { .. }));
        self.met &= !self.answered;
    }

    /// A question is under way for which work waits: a session that came up after that of the work would end it.
    pub(super) fn is_first(&self) -> bool {
        self.met && self.question.is_some()
    }

    /// Waits for the answer to the question that is under way.
    pub(super) async fn answer(&mut self) -> Said {
        let Some(question) = &mut self.question else { return std::future::pending().await };
        let said = question.await;
        self.question = None;
        said.unwrap_or(Err(WorkError::Cancelled))
    }
}

impl Task {
    /// When the replica is asked next; `None` if there is no need, or a question is under way.
    pub(super) fn asks_at(&self) -> Option<Instant> {
        use ReplicationState as S;
        let record = &self.record;
        let sends = self.vm_running
            && !self.is_fenced()
            && matches!(
                record.state,
                S::WaitingForInitialReplication | S::Replicating | S::Critical | S::Resynchronizing
            );
        // Without a point there is nothing that the replica could have failed over to.
        let wanted = record.last_point_at.is_some() && (!self.asking.answered || self.is_fenced());
        let free = self.running.is_none() && self.asking.question.is_none();
        (wanted && free && (!sends || self.asking.met)).then(|| self.asking.next.unwrap_or_else(Instant::now))
    }

    /// The link with the replica's host is up again: the host may have been restarted, with older disks. What was due when
    /// this process began asks by itself.
    pub(super) fn met_again(&mut self) {
        if !self.in_step {
            return;
        }
        self.asking.ask_again();
        self.asking.met = true;
        self.asking.next = Some(Instant::now() + AFTER_MEETING.mul_f64(Backoff::chance(self.record.vm)));
    }

    pub(super) fn ask_if_due(&mut self) {
        if self.asks_at().is_none_or(|at| at > Instant::now()) {
            return;
        }
        let (tools, record) = (self.shared.tools.clone(), self.record.clone());
        let slots = Arc::clone(&self.shared.slots);
        self.asking.question = Some(tasks::spawn(async move {
            // Never closed, so the only way this fails is a daemon that is going down.
            let Ok(_slot) = slots.acquire_owned().await else { return Err(WorkError::Cancelled) };
            let mut worker = Worker::new(tools);
            let asked = tokio::time::timeout(GREETING, worker.head(&record)).await;
            asked.unwrap_or_else(|_| Err(silent(&record.peer)))
        }));
    }

    /// The answer to a question that this task asked by itself.
    pub(super) async fn answered(&mut self, said: &Said) {
        if let Err(error) = said {
            tracing::info!(error = %chain(error), "the replica was asked how things stand");
        }
        self.replica_said(said).await;
        let attempt = self.asking.silent.saturating_sub(1);
        let wait = Backoff::default().wait(attempt, Backoff::chance((self.record.vm, attempt)));
        self.asking.next = Some(Instant::now() + wait);
        self.save_if_needed().await;
    }

    /// Takes in what a replica said when a session was opened.
    pub(super) async fn replica_said(&mut self, said: &Said) {
        self.asking.note(said);
        // While it stays as it is, it is asked less and less often.
        self.asking.silent = self.asking.silent.saturating_add(1);
        match said {
            Ok(opened) => self.takes_part(opened).await,
            Err(error @ WorkError::Refused { failed_over: true, .. }) => self.fenced_by(error),
            Err(_) => {}
        }
    }

    /// The replica takes what this host sends: it does not hold the VM.
    async fn takes_part(&mut self, opened: &Opened) {
        self.asking.silent = 0;
        if let Some(doubt) = provenance::doubt(&self.record, opened) {
            // What the record has of the newest point says so, until both sides were compared.
            if matches!(self.record.state, ReplicationState::Replicating | ReplicationState::Critical) {
                self.tracking_lost(&doubt).await;
            }
            return self.holds_it_not(opened);
        }
        self.in_step = true;
        let record = &mut self.record;
        if let Some(newest) = &opened.newest {
            if record.last_point_at.is_none_or(|known| known < newest.created_at) {
                record.last_point_at = Some(newest.created_at);
                record.last_kind = Some(newest.kind);
            }
        }
        self.holds_it_not(opened);
    }

    fn holds_it_not(&mut self, opened: &Opened) {
        let me = self.shared.tools.vms.me();
        self.was_told(opened.claim.unwrap_or_else(|| Claim::unnamed(opened.generation, me)));
    }

    /// Another host holds this VM: the replica, or one that the replica knows of.
    pub(super) fn fenced_by(&mut self, error: &WorkError) {
        if let WorkError::Refused { claim: Some(claim), .. } = error {
            // The answer may be of the past: the VM has come back meanwhile.
            if !self.is_fenced() && self.known_number().is_some_and(|known| known > claim.number) {
                return self.schedule.at_once();
            }
            self.was_told(**claim);
        }
        self.note_error(error);
        self.schedule.answered();
        self.apply(Event::PeerFailedOver);
    }

    /// What it changes comes back by the fence that this task follows.
    fn was_told(&self, claim: Claim) {
        let host = self.record.host.unwrap_or(claim.holder);
        self.shared.tools.vms.told_claim(self.record.vm, host, claim);
    }

    fn known_number(&self) -> Option<Generation> {
        self.fence.borrow().as_ref().map(|record| record.fence.claim.number)
    }

    /// Another host holds the VM, or two do: nothing of it is sent.
    pub(super) fn is_fenced(&self) -> bool {
        let me = self.shared.tools.vms.me();
        self.fence.borrow().as_ref().is_some_and(|record| !record.fence.held_by(me))
    }

    /// The fence of the VM is another one: what is being sent ends, or begins again.
    pub(super) async fn look_at_fence(&mut self) {
        let Some(known) = self.fence.borrow_and_update().clone() else { return };
        if self.is_fenced() {
            self.cancel_running();
            if !std::mem::replace(&mut self.was_fenced, true) {
                self.is_held_elsewhere(&known);
            }
        } else if std::mem::take(&mut self.was_fenced) {
            self.is_held_again().await;
        }
        if known.fence.outdated && !self.is_fenced() {
            self.compare_after_all().await;
        }
        self.save_if_needed().await;
    }

    fn is_held_elsewhere(&mut self, known: &VmRecord) {
        if self.record.last_error.is_none() {
            self.record.last_error = Some(LastError::now(held_elsewhere(&self.record.name, &known.fence)));
        }
        self.apply(Event::PeerFailedOver);
    }

    async fn is_held_again(&mut self) {
        self.record.last_error = None;
        self.record.failures = 0;
        self.schedule.at_once();
        if self.record.state == ReplicationState::Critical {
            self.apply(Event::RetrySucceeded);
        }
        // A comparison that the other holder interrupted: its job is still wanted.
        self.resync_by_itself(self.record.settings.auto_resync || self.record.job.is_some()).await;
    }

    /// This host's data directory is an older one than the replica's: what it knows of the disks counts no more.
    async fn compare_after_all(&mut self) {
        use ReplicationState as S;
        if !matches!(self.record.state, S::Replicating | S::Critical) || self.record.last_point_at.is_none() {
            return;
        }
        let error = WorkError::TrackingLost(
            "the replica knows a later claim of this host: an older data directory was put back".to_owned(),
        );
        self.tracking_lost(&error).await;
        self.resync_by_itself(true).await;
    }
}

/// Waits until the link with a host comes up again.
pub(super) async fn comes_up(link: &mut Option<watch::Receiver<LinkState>>) {
    let Some(link) = link else { return std::future::pending().await };
    while link.changed().await.is_ok() {
        if link.borrow_and_update().up {
            return;
        }
    }
    std::future::pending().await
}

/// Why nothing of a VM is sent, and what to do.
pub(super) fn held_elsewhere(vm: &VmName, fence: &Fence) -> Refusal {
    let theirs = fence.rival.unwrap_or(fence.claim);
    let host = fence.hosts.get(&theirs.holder).map_or("another host", |known| known.name.as_str());
    let reason = match fence.rival {
        Some(theirs) => Reason::Rivals { ours: fence.claim, theirs },
        None => Reason::LivesElsewhere(theirs),
    };
    reason.refusal(vm.as_str(), host)
}

pub(super) fn silent(peer: &str) -> WorkError {
    WorkError::OutOfTurn { peer: peer.to_owned(), what: format!("nothing for {} s", GREETING.as_secs()) }
}
