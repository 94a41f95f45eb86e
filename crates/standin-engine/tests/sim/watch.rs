//! Who runs the VM, and by whose word: seen in the instant of every start, and judged by a ledger of its own
//! ([`super::words`]). Nothing here asks the engine.
//!
//! A start while another host runs the VM is allowed in six cases, and in no other:
//! * by a word that was said on this host of the other one, and is not settled;
//! * it has waited for as long as `start-after` says, and the other host could not be reached;
//! * by a word that was said on the other host of this one, which had taken the VM over from it and cannot have heard that;
//! * the same, when this start was under way already, or goes by the witness that both name;
//! * on a host that was put back to before it shared the VM, whose images carry no marks (they went with a crash in the run
//!   in which they were made), and that cannot reach the other one.

use super::step::{Host, Says, What};
use super::words::Words;
use standin_hypervisor::PowerState;
use standin_hypervisor::fake::FakeHypervisor;
use standin_model::{JobId, VmId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Default)]
struct State {
    words: Words,
    start_after: BTreeMap<Host, Duration>,
    /// The shortest that was ever set: an older data directory may have it.
    shortest: BTreeMap<Host, Duration>,
    /// Starts that somebody waits for, since when, and by which job.
    starting: BTreeMap<Host, (Instant, Option<JobId>)>,
    /// When it began to run on a host last.
    ran: BTreeMap<Host, Instant>,
    /// Hosts where a QEMU was started by hand, which its daemon is to adopt, and how often it was asked for that: it counts as
    /// the VM once that is done.
    adopting: BTreeMap<Host, usize>,
    /// Orders that are under way and may take points away.
    dropping: usize,
    violations: Vec<String>,
    log: Vec<String>,
}

impl State {
    /// The start on `host` was under way when the VM began to run on `other`.
    fn was_overtaken(&self, host: Host, other: Host) -> bool {
        self.starting.get(&host).zip(self.ran.get(&other)).is_some_and(|((since, _), ran)| since <= ran)
    }

    /// The start on `host` has waited for as long as is set there.
    fn has_waited(&self, host: Host) -> bool {
        let waiting = self.start_after.get(&host).zip(self.starting.get(&host));
        waiting.is_some_and(|(after, (since, _))| since.elapsed() >= *after)
    }

    fn is_allowed(&self, host: Host, other: Host) -> bool {
        self.words.allow(host, other)
            || (self.has_waited(host) && !self.words.met(host, other))
            || self.words.excuse(host, other)
            || self.words.may_be_misled(host, other)
            || (self.words.holds(other, host) && self.was_overtaken(host, other))
    }
}

/// See the module's doc.
pub struct Watch {
    vm: VmId,
    fakes: Vec<(Host, Arc<FakeHypervisor>)>,
    begun: Instant,
    state: Mutex<State>,
}

impl Watch {
    pub fn new(vm: VmId, fakes: Vec<(Host, Arc<FakeHypervisor>)>) -> Arc<Self> {
        let words = Words::new(fakes.iter().map(|(host, _)| *host).collect());
        let state = Mutex::new(State { words, ..State::default() });
        Arc::new(Self { vm, fakes, begun: Instant::now(), state })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it was held")
    }

    pub fn power(&self, host: Host) -> Option<PowerState> {
        self.fakes.iter().find(|(known, _)| *known == host).and_then(|(_, fake)| fake.power(self.vm))
    }

    pub fn running(&self) -> Vec<Host> {
        let adopting = self.lock().adopting.clone();
        let running =
            |host: &Host| !adopting.contains_key(host) && self.power(*host) == Some(PowerState::Running);
        self.fakes.iter().map(|(host, _)| *host).filter(running).collect()
    }

    pub fn say(&self, line: String) {
        let at = self.begun.elapsed().as_secs_f64();
        self.lock().log.push(format!("{at:10.3} {line}"));
    }

    pub fn violation(&self, what: String) {
        self.say(format!("VIOLATION: {what}"));
        self.lock().violations.push(what);
    }

    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    pub fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    /// The VM has just begun to run on a host.
    pub fn started(&self, host: Host) {
        self.lock().adopting.remove(&host);
        let running = self.running();
        let others: Vec<Host> = running.iter().copied().filter(|other| *other != host).collect();
        self.say(format!("    the VM runs on {host:?}; it runs on {others:?} too"));
        let marked = self.fakes.iter().any(|(known, fake)| *known == host && fake.carries_marks(self.vm));
        let forbidden: Vec<Host> = {
            let mut state = self.lock();
            state.words.settle(&running);
            let unknown = |other: &Host| !marked && state.words.knows_nobody(host, *other);
            let forbidden = others
                .into_iter()
                .filter(|other| !state.is_allowed(host, *other) && !unknown(other))
                .collect();
            if state.has_waited(host) {
                state.words.waited(host);
            }
            state.ran.insert(host, Instant::now());
            forbidden
        };
        for other in forbidden {
            self.violation(format!(
                "two run: it began to run on {host:?} while it ran on {other:?}, and nobody said so"
            ));
        }
    }

    /// Somebody has started a QEMU by hand, and asks the daemon to adopt it.
    pub fn adopting(&self, on: Host) {
        *self.lock().adopting.entry(on).or_default() += 1;
    }

    /// An adoption was refused, and the QEMU is known all the same, by no other adoption: the daemon stopped meanwhile, and
    /// finds it when it starts again.
    pub fn is_left_adopted(&self, on: Host) -> bool {
        self.lock().adopting.get(&on) == Some(&1) && self.power(on).is_some()
    }

    /// The daemon has, or refused it and knows nothing of it.
    pub fn adopted(&self, on: Host, done: bool) {
        let mut state = self.lock();
        if let Some(asked) = state.adopting.get_mut(&on) {
            *asked -= 1;
        }
        state.adopting.retain(|_, asked| *asked > 0);
        drop(state);
        let runs = self.power(on) == Some(PowerState::Running);
        if done && runs {
            self.started(on);
        }
    }

    /// Two hosts can reach each other, or cannot, from now on.
    pub fn connected(&self, one: Host, other: Host, connected: bool) {
        let running = self.running();
        let mut state = self.lock();
        state.words.settle(&running);
        state.words.connected(one, other, connected);
    }

    /// A daemon is gone.
    pub fn is_down(&self, host: Host) {
        self.lock().words.is_down(host);
    }

    /// A command is given that asserts something.
    pub fn said(&self, on: Host, says: Says) -> u64 {
        self.lock().words.said(on, says)
    }

    /// It was refused (an error), done, or goes on as a job. Of one that was never answered nobody knows.
    pub fn answered(&self, id: u64, answer: Option<Result<Option<JobId>, ()>>) {
        let mut state = self.lock();
        match answer {
            Some(Err(())) => state.words.refused(id),
            Some(Ok(job)) => state.words.accepted(id, job),
            None => state.words.accepted(id, None),
        }
    }

    /// The jobs that a host's daemon works on: those of others are over.
    pub fn jobs(&self, on: Host, running: &[JobId]) {
        let mut state = self.lock();
        state.starting.retain(|host, (_, job)| *host != on || job.is_none_or(|job| running.contains(&job)));
        state.words.jobs(on, running);
    }

    /// An order that may take points away is given.
    pub fn begin_of(&self, what: What) {
        self.lock().dropping += usize::from(what.may_drop_points());
    }

    /// It was answered, or its daemon died.
    pub fn end_of(&self, what: What) {
        self.lock().dropping -= usize::from(what.may_drop_points());
    }

    /// An order is under way that may take points away.
    pub fn is_dropping(&self) -> bool {
        self.lock().dropping > 0
    }

    /// Changes what is known of relationships.
    pub fn note(&self, change: impl FnOnce(&mut Words)) {
        change(&mut self.lock().words);
    }

    /// People said of each of the two, on the other one, that it does not count.
    pub fn is_disputed(&self, one: Host, other: Host) -> bool {
        self.lock().words.contradict(one, other)
    }

    /// See [`Words::share`].
    pub fn share(&self, one: Host, other: Host) -> bool {
        self.lock().words.share(one, other)
    }

    /// See [`Words::are_strangers`].
    pub fn are_strangers(&self, one: Host, other: Host) -> bool {
        self.lock().words.are_strangers(one, other)
    }

    /// What silence means on a host was set, if that was answered.
    pub fn start_after(&self, host: Host, after: Option<Duration>, answered: bool) {
        let mut state = self.lock();
        let before = state.start_after.get(&host).copied();
        match (after, answered) {
            (None, true) => {
                state.start_after.remove(&host);
            }
            (None, false) => {}
            (Some(after), answered) => {
                let now = if answered { after } else { before.map_or(after, |before| before.min(after)) };
                state.start_after.insert(host, now);
                let shortest = state.shortest.entry(host).or_insert(after);
                *shortest = after.min(*shortest);
            }
        }
    }

    /// A host has an older data directory.
    pub fn is_older(&self, host: Host) {
        let mut state = self.lock();
        if let Some(shortest) = state.shortest.get(&host).copied() {
            state.start_after.insert(host, shortest);
        }
    }

    /// Somebody asks for a start.
    pub fn starting(&self, host: Host) {
        self.lock().starting.entry(host).or_insert((Instant::now(), None));
    }

    /// The start was answered: done or refused, or it waits as a job.
    pub fn start_answered(&self, host: Host, job: Option<JobId>) {
        let mut state = self.lock();
        match (state.starting.get_mut(&host), job) {
            (Some((_, waits)), Some(job)) => *waits = Some(job),
            (Some((_, None)), None) => {
                state.starting.remove(&host);
            }
            _ => {}
        }
    }
}
