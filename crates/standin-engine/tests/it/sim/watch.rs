//! Who runs the VM, and by whose word: seen in the instant of every start, and judged by a ledger of its own. Nothing here
//! asks the engine.
//!
//! A start while another host runs the VM is allowed in four cases, and in no other:
//! * somebody forces it on that host in this moment;
//! * somebody says there that the other host is down, and that one cannot be reached;
//! * it has waited for as long as `start-after` says, and the other host could not be reached;
//! * one of these was said of that host before, and the two have not met since. The same the other way round, when this host
//!   took the VM over before and could not hear that the other one was forced, or when its start was under way already.

use super::step::{Host, Says};
use standin_hypervisor::PowerState;
use standin_hypervisor::fake::FakeHypervisor;
use standin_model::{JobId, VmId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// Hosts that were connected for so long have told each other what they know.
const MET: Duration = Duration::from_secs(20);

/// An assertion that goes with a command, and with the job that it began.
#[derive(Debug, Clone)]
struct Asserted {
    on: Host,
    says: Says,
    /// The command has been answered.
    answered: bool,
    job: Option<JobId>,
}

#[derive(Default)]
struct State {
    asserted: BTreeMap<u64, Asserted>,
    next: u64,
    /// Who said something against whom, and has not met it since.
    against: BTreeSet<(Host, Host)>,
    /// Hosts that took the VM over.
    took: BTreeSet<Host>,
    start_after: BTreeMap<Host, Duration>,
    /// The shortest that was ever set: an older data directory may have it.
    shortest: BTreeMap<Host, Duration>,
    /// Starts that somebody waits for, since when, and by which job.
    starting: BTreeMap<Host, (Instant, Option<JobId>)>,
    /// When it began to run on a host last.
    ran: BTreeMap<Host, Instant>,
    /// Since when two hosts are connected.
    together: BTreeMap<(Host, Host), Instant>,
    violations: Vec<String>,
    log: Vec<String>,
}

impl State {
    /// The two can have told each other something.
    fn met(&self, one: Host, other: Host) -> bool {
        self.together.get(&pair(one, other)).is_some_and(|since| since.elapsed() >= MET)
    }

    fn forget_what_is_settled(&mut self) {
        let met: Vec<_> =
            self.against.iter().copied().filter(|(one, other)| self.met(*one, *other)).collect();
        for pair in met {
            self.against.remove(&pair);
        }
    }

    /// The start on `host` was under way when somebody said on `other` that it was down.
    fn was_overtaken(&self, host: Host, other: Host) -> bool {
        self.starting.get(&host).zip(self.ran.get(&other)).is_some_and(|((since, _), ran)| since <= ran)
    }

    fn is_allowed(&self, host: Host, other: Host) -> bool {
        let silent = !self.met(host, other);
        let said =
            self.asserted.values().filter(|asserted| asserted.on == host).map(|asserted| asserted.says);
        let now = said.max().unwrap_or(Says::Nothing);
        let waited = self
            .start_after
            .get(&host)
            .zip(self.starting.get(&host))
            .is_some_and(|(after, (since, _))| since.elapsed() >= *after);
        now == Says::Force
            || (silent && (now == Says::Silent || waited))
            || self.against.contains(&(host, other))
            || (self.against.contains(&(other, host))
                && (self.took.contains(&host) || self.was_overtaken(host, other)))
    }
}

fn pair(one: Host, other: Host) -> (Host, Host) {
    (one.min(other), one.max(other))
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
        Arc::new(Self { vm, fakes, begun: Instant::now(), state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it was held")
    }

    pub fn power(&self, host: Host) -> Option<PowerState> {
        self.fakes.iter().find(|(known, _)| *known == host).and_then(|(_, fake)| fake.power(self.vm))
    }

    pub fn running(&self) -> Vec<Host> {
        let running = |host: &Host| self.power(*host) == Some(PowerState::Running);
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
        let others: Vec<Host> = self.running().into_iter().filter(|other| *other != host).collect();
        self.say(format!("    the VM runs on {host:?}; it runs on {others:?} too"));
        let forbidden: Vec<Host> = {
            let mut state = self.lock();
            state.forget_what_is_settled();
            let forbidden = others.into_iter().filter(|other| !state.is_allowed(host, *other)).collect();
            let said =
                state.asserted.values().any(|asserted| asserted.on == host && asserted.says != Says::Nothing);
            let waits = state.start_after.contains_key(&host);
            for (other, _) in self.fakes.iter().filter(|(other, _)| *other != host && (said || waits)) {
                if !state.met(host, *other) {
                    state.against.insert((host, *other));
                }
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

    /// Two hosts can reach each other, or cannot, from now on.
    pub fn connected(&self, one: Host, other: Host, connected: bool) {
        let mut state = self.lock();
        state.forget_what_is_settled();
        if connected {
            state.together.entry(pair(one, other)).or_insert_with(Instant::now);
        } else {
            state.together.remove(&pair(one, other));
        }
    }

    /// A daemon is gone.
    pub fn is_down(&self, host: Host) {
        self.lock().together.retain(|(one, other), _| *one != host && *other != host);
    }

    /// A command is given that asserts something, from now until [`Watch::answered`], and as long as its job lasts.
    pub fn asserts(&self, on: Host, says: Says) -> u64 {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.asserted.insert(id, Asserted { on, says, answered: false, job: None });
        id
    }

    /// It was answered: refused, done, or by a job. Of one that was never answered nobody knows.
    pub fn answered(&self, id: u64, job: Option<Option<JobId>>) {
        let mut state = self.lock();
        match job {
            Some(None) => {
                state.asserted.remove(&id);
            }
            Some(job) => {
                if let Some(asserted) = state.asserted.get_mut(&id) {
                    (asserted.answered, asserted.job) = (true, job);
                }
            }
            None => {}
        }
    }

    /// The jobs that a host's daemon works on: assertions of others are over.
    pub fn jobs(&self, on: Host, running: &[JobId]) {
        let mut state = self.lock();
        state.starting.retain(|host, (_, job)| *host != on || job.is_none_or(|job| running.contains(&job)));
        state.asserted.retain(|_, asserted| {
            let over = match asserted.job {
                Some(job) => !running.contains(&job),
                // The daemon died before it could answer, and has begun again.
                None => !asserted.answered && running.is_empty(),
            };
            asserted.on != on || !over
        });
    }

    /// Somebody said, by a failover through the management API, that whoever is silent is down.
    pub fn asserts_all_silent(&self, on: Host) {
        let mut state = self.lock();
        for (other, _) in self.fakes.iter().filter(|(other, _)| *other != on) {
            if !state.met(on, *other) {
                state.against.insert((on, *other));
            }
        }
    }

    pub fn took(&self, host: Host, took: bool) {
        let mut state = self.lock();
        if took {
            state.took.insert(host)
        } else {
            state.took.remove(&host)
        };
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
