//! What people said of hosts: the ledger by which a start beside a VM that runs elsewhere is judged. Nothing here asks the
//! engine.
//!
//! A word is said on one host of another one:
//! * "it is down", by `--yes`, the answer to the prompt, or InitiateFailover: of every host that cannot be reached from
//!   there at any moment of the command or its job; of every host, when the witness cannot be;
//! * "whatever it says", by `--force` or `--keep here`: of every host;
//! * that it was waited for in vain, as `start-after` says: of every host that could not be reached when the VM began to run.
//!
//! A word of a command that was refused does not count. Any other one counts for later starts on that host too, since a
//! failover and the start of its VM can be two commands, until it is settled: the two hosts have been connected for long
//! enough to tell each other, and what was said "whatever it says" only when the other one does not run the VM then.
//!
//! A VM of the same id that was defined by hand on a host that never shared it is another VM for all that hosts can know, and
//! so is every copy of it, until the two lines meet on one host.
//!
//! A host that was put back to before it shared the VM knows nobody to ask; a VM of that id that is defined there by hand then
//! is another one, too, for as long as it meets no host that knows better.
//!
//! What was said on a host is said again when an older data directory is put back that has it.
//!
//! Whoever has a host forget a VM says that it may start there unasked from then on.

use super::step::{Host, Says};
use standin_model::JobId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Hosts that were connected for so long have told each other what they know.
pub const MET: Duration = Duration::from_secs(20);

/// A command that asserts something, and its job.
struct Command {
    on: Host,
    says: Says,
    of: BTreeSet<Host>,
    /// It has been answered.
    answered: bool,
    job: Option<JobId>,
}

#[derive(Clone, Copy)]
struct Word {
    says: Says,
    at: Instant,
}

#[derive(Default)]
pub struct Words {
    hosts: Vec<Host>,
    commands: BTreeMap<u64, Command>,
    next: u64,
    /// Who said something of whom, and has not settled it since.
    unsettled: BTreeMap<(Host, Host), Word>,
    /// The same, settled or not.
    ever: BTreeSet<(Host, Host)>,
    /// Hosts on which the VM was forgotten, and not shared since.
    forgot: BTreeSet<Host>,
    /// Hosts with a VM that was made by hand, or a copy of that: where it was made, and as which one.
    made: BTreeMap<Host, usize>,
    /// VMs that were made by hand.
    makes: usize,
    /// The witness that each host names.
    witness: BTreeMap<Host, Host>,
    /// The witnesses that a host ever named.
    witnesses: BTreeSet<(Host, Host)>,
    /// Hosts that had an older data directory put back, or lost their records: they may take a number twice.
    older: BTreeSet<Host>,
    /// What was said on a host of others when its data directory was kept.
    kept: BTreeMap<Host, Vec<(Host, Says)>>,
    /// Hosts with a backup from before they shared the VM with anybody.
    blank_backup: BTreeSet<Host>,
    /// Hosts that were put back to that: they know nobody to ask.
    blank: BTreeSet<Host>,
    /// The newest relationship of two hosts: from whom to whom.
    sent: BTreeMap<(Host, Host), (Host, Host)>,
    /// Those of which nobody knows whether they began: a daemon died meanwhile.
    unsure: BTreeSet<(Host, Host)>,
    /// Hosts that took the VM over.
    took: BTreeSet<Host>,
    /// Hosts that were given the VM back, by a revert of which the second host cannot have heard.
    given: BTreeSet<(Host, Host)>,
    /// Hosts that the first of the two refuses, because they have another name than it knows.
    refused: BTreeSet<(Host, Host)>,
    /// Since when two hosts are connected.
    together: BTreeMap<(Host, Host), Instant>,
}

fn pair(one: Host, other: Host) -> (Host, Host) {
    (one.min(other), one.max(other))
}

impl Words {
    pub fn new(hosts: Vec<Host>) -> Self {
        Self { hosts, ..Self::default() }
    }

    /// The two can have told each other what they know.
    pub fn met(&self, one: Host, other: Host) -> bool {
        self.together.get(&pair(one, other)).is_some_and(|since| since.elapsed() >= MET)
    }

    /// Two hosts can reach each other, or cannot, from now on.
    pub fn connected(&mut self, one: Host, other: Host, connected: bool) {
        let refused = self.refused.contains(&(one, other)) || self.refused.contains(&(other, one));
        if connected && !refused {
            self.together.entry(pair(one, other)).or_insert_with(Instant::now);
        } else {
            self.together.remove(&pair(one, other));
        }
        self.extend();
    }

    /// A host knows another one by the name that it has now, or by an older one.
    pub fn knows(&mut self, on: Host, of: Host, by_its_name: bool) {
        if by_its_name {
            self.refused.remove(&(on, of));
        } else {
            self.refused.insert((on, of));
        }
    }

    /// A daemon is gone.
    pub fn is_down(&mut self, host: Host) {
        self.together.retain(|(one, other), _| *one != host && *other != host);
        self.extend();
    }

    /// A command is given that asserts something.
    pub fn said(&mut self, on: Host, says: Says) -> u64 {
        let id = self.next;
        self.next += 1;
        self.commands.insert(id, Command { on, says, of: BTreeSet::new(), answered: false, job: None });
        self.extend();
        id
    }

    /// What is said now is said of whoever cannot be reached now, too.
    fn extend(&mut self) {
        let mut commands = std::mem::take(&mut self.commands);
        for command in commands.values_mut().filter(|command| command.says != Says::Nothing) {
            let on = command.on;
            let deaf = self.witnesses.iter().any(|(host, witness)| *host == on && !self.met(on, *witness));
            let of_all = command.says == Says::Force || deaf;
            let others = self.hosts.iter().filter(|other| **other != on);
            command.of.extend(others.filter(|other| of_all || !self.met(on, **other)));
            if command.answered {
                // It was accepted, and what its job finds silent is meant too.
                command.of.iter().for_each(|of| self.word(command.on, *of, command.says));
            }
        }
        self.commands = commands;
    }

    /// A word that holds from now on.
    fn word(&mut self, on: Host, of: Host, says: Says) {
        let word = self.unsettled.entry((on, of)).or_insert(Word { says, at: Instant::now() });
        word.says = word.says.max(says);
        self.ever.insert((on, of));
    }

    /// The command was done, or goes on as a job, or nobody knows because the daemon died.
    pub fn accepted(&mut self, id: u64, job: Option<JobId>) {
        if let Some(command) = self.commands.get_mut(&id) {
            (command.answered, command.job) = (true, job);
        }
        self.extend();
        if job.is_none() {
            self.commands.remove(&id);
        }
    }

    /// The command was refused.
    pub fn refused(&mut self, id: u64) {
        self.commands.remove(&id);
    }

    /// The jobs that a host's daemon works on: what was said for others is no more said of hosts that fall silent from now
    /// on.
    pub fn jobs(&mut self, on: Host, running: &[JobId]) {
        self.commands
            .retain(|_, command| command.on != on || command.job.is_none_or(|job| running.contains(&job)));
    }

    /// It was waited for hosts that could not be reached.
    pub fn waited(&mut self, on: Host) {
        for other in self.hosts.clone() {
            if other != on && !self.met(on, other) {
                self.word(on, other, Says::Silent);
            }
        }
    }

    /// The VM was forgotten on a host.
    pub fn forgot(&mut self, on: Host) {
        self.forgot.insert(on);
    }

    /// A VM of the same id was defined by hand. A host with a replica of it would have refused that.
    pub fn made(&mut self, on: Host) {
        self.unsure.retain(|(from, to)| {
            if *to == on {
                self.sent.remove(&pair(*from, *to));
            }
            *to != on
        });
        if !self.shares_it(on) || self.blank.contains(&on) {
            self.makes += 1;
            self.made.insert(on, self.makes);
        }
    }

    /// The host shares the VM with another one, or did.
    fn shares_it(&self, host: Host) -> bool {
        self.sent.keys().any(|(one, other)| host == *one || host == *other)
    }

    /// A host names a witness from now on, or none.
    pub fn names_witness(&mut self, on: Host, witness: Option<Host>) {
        self.witness.remove(&on);
        if let Some(witness) = witness {
            self.witness.insert(on, witness);
            self.witnesses.insert((on, witness));
        }
        self.extend();
    }

    /// Both name the same witness, and somebody said on `other` that `host` is down: what came of that the witness may not
    /// have been told, and then it says so to nobody. A host that is older has forgotten what it was told itself.
    pub fn may_be_misled(&self, host: Host, other: Host) -> bool {
        let both = self.witness.get(&host).is_some_and(|witness| self.witnesses.contains(&(other, *witness)));
        let forgot = self.older.contains(&host) && self.ever.contains(&(other, host));
        both && (forgot || self.holds(other, host))
    }

    /// It has an older data directory, or lost its records.
    pub fn is_older(&mut self, host: Host) {
        self.older.insert(host);
    }

    /// Its data directory was kept.
    pub fn backed_up(&mut self, host: Host) {
        let words = self.unsettled.iter().filter(|((on, _), _)| *on == host);
        self.kept.insert(host, words.map(|((_, of), word)| (*of, word.says)).collect());
        if self.shares_it(host) && !self.blank.contains(&host) {
            self.blank_backup.remove(&host);
        } else {
            self.blank_backup.insert(host);
        }
    }

    /// What was kept was put back, or a part of it: with it comes what was said on the host by then.
    pub fn put_back(&mut self, host: Host) {
        for (of, says) in self.kept.get(&host).cloned().unwrap_or_default() {
            self.word(host, of, says);
        }
    }

    /// All of what was kept was put back.
    pub fn restored(&mut self, host: Host) {
        if self.blank_backup.contains(&host) {
            self.blank.insert(host);
        } else {
            self.blank.remove(&host);
        }
    }

    /// A relationship begins, or nobody knows whether it did. One of a VM that is another one to the second host would have
    /// been refused.
    pub fn shares(&mut self, from: Host, to: Host, known: bool) {
        if !known && self.made.get(&from) != self.made.get(&to) {
            return;
        }
        let is_new = !self.shares_it(to);
        if let Some(made) = self.made.get(&from).copied().filter(|_| is_new) {
            self.made.insert(to, made);
        }
        let before = self.sent.insert(pair(from, to), (from, to));
        if known {
            self.unsure.retain(|(one, other)| pair(*one, *other) != pair(from, to));
        } else if before.is_none() {
            self.unsure.insert((from, to));
        }
        for host in [from, to] {
            self.forgot.remove(&host);
            self.blank.remove(&host);
        }
    }

    /// A host took the VM over, or gave it back.
    pub fn took(&mut self, host: Host, took: bool) {
        if took {
            self.took.insert(host);
        } else if self.took.remove(&host) {
            let before = self.sent.values().filter(|(_, to)| *to == host).map(|(from, _)| *from);
            let deaf = |other: &&Host| **other != host && !self.met(host, **other);
            let given: Vec<_> =
                before.flat_map(|to| self.hosts.iter().filter(deaf).map(move |other| (to, *other))).collect();
            self.given.extend(given);
        }
    }

    /// Drops what is settled. `runs`: where the VM runs now.
    pub fn settle(&mut self, runs: &[Host]) {
        let together = &self.together;
        self.unsettled.retain(|(on, of), word| {
            let since = together.get(&pair(*on, *of)).map(|since| word.at.max(*since));
            let told = since.is_some_and(|since| since.elapsed() >= MET);
            !told || (word.says == Says::Force && runs.contains(of))
        });
    }

    /// `host` may run the VM although `other` runs it, because of what was said on `host`.
    pub fn allow(&self, host: Host, other: Host) -> bool {
        let now = self.commands.values().any(|command| command.on == host && command.of.contains(&other));
        let unasked = self.forgot.contains(&host) && !self.met(host, other);
        let said = |on| self.unsettled.contains_key(&(on, other));
        // Whoever receives the VM from a host goes on with what was said there, until it meets the other one itself.
        let inherited =
            !self.share(host, other) && self.sent.values().any(|(from, to)| *to == host && said(*from));
        now || unasked || said(host) || inherited || self.are_strangers(host, other)
    }

    /// `host` was put back to before it shared the VM, and cannot reach `other`: it knows nobody to ask.
    pub fn knows_nobody(&self, host: Host, other: Host) -> bool {
        self.blank.contains(&host) && !self.met(host, other)
    }

    /// The two never shared a VM: what they have only has the same id. Or they were made to forget that.
    pub fn are_strangers(&self, one: Host, other: Host) -> bool {
        let forgets = |host| self.forgot.contains(&host) || self.blank.contains(&host);
        if forgets(one) && forgets(other) {
            return true;
        }
        let blank = self.blank.contains(&one) || self.blank.contains(&other);
        let unknown = !self.sent.contains_key(&pair(one, other)) || (blank && !self.met(one, other));
        self.made.get(&one) != self.made.get(&other) && unknown
    }

    /// `host` took the VM over before, and `other`, which is no replica of it, runs the VM by a word that `host` cannot have
    /// heard of: the silence of a host that let go of the VM keeps nobody from starting it. Two hosts that received the VM
    /// from the same one do not know each other; between them the word counts that was said of anybody.
    pub fn excuse(&self, host: Host, other: Host) -> bool {
        let by_a_word = match self.sent.get(&pair(host, other)) {
            Some((from, _)) => *from == other && self.holds(other, host),
            None => self.unsettled.keys().any(|(on, _)| *on == other),
        };
        self.took.contains(&host) && by_a_word
    }

    /// One of the two received the VM from the other.
    pub fn share(&self, one: Host, other: Host) -> bool {
        self.sent.contains_key(&pair(one, other))
    }

    /// Somebody said something on `on` of `of`, and it is not settled.
    pub fn holds(&self, on: Host, of: Host) -> bool {
        self.unsettled.contains_key(&(on, of))
    }

    /// People said of each of the two, on the other one, that it does not count; or of one, on the other one, which had
    /// forgotten a number that it knew; or of one, while it was given the VM back elsewhere, which takes a number too.
    pub fn contradict(&self, one: Host, other: Host) -> bool {
        let said = |on, of| self.ever.contains(&(on, of));
        let twice = |on, of| said(on, of) && self.older.contains(&on);
        let given = |on, of| said(on, of) && self.given.contains(&(of, on));
        let either = |is: &dyn Fn(Host, Host) -> bool| is(one, other) || is(other, one);
        (said(one, other) && said(other, one)) || either(&twice) || either(&given)
    }
}
