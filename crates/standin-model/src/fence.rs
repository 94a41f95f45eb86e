//! Who may run a VM. One pure function for each question, over facts that somebody else has gathered; every road on
//! which a VM begins to run goes through them.
//!
//! The right to run is a [`Claim`]: a number that rises at every change of holder, the holder, and an id. Each host
//! keeps the highest claim that it knows of a VM in a [`Fence`], together with the hosts that ever shared the VM with
//! it. The fence outlives the relationship, the authorization entry, the service and the database.
//!
//! ```text
//!   claims that meet   -> learn()        the higher number wins; equal numbers with two holders are a rival claim
//!   a start, a resume  -> may_run()      the holder asks all hosts that could run it, silence is not a "no"; after a
//!                                        failover only over a primary that accepted the claim, is fenced, or by assertion
//!   both run           -> meet()         the lower one is paused; with equal numbers nobody is, and a person decides
//! ```
//!
//! Called by the VM's task of the engine and by nobody else.

mod heard;
mod reason;
mod stance;

pub use heard::{Heard, one_word_each};
pub use reason::Reason;
pub use stance::{Stance, WitnessId, WitnessWord};

use crate::ids::{Generation, HostId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use uuid::Uuid;

/// The right to run a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// Rises at every change of holder.
    pub number: Generation,
    /// Whose right it is.
    pub holder: HostId,
    /// Tells two claims of one number and one holder apart: a host whose data directory was restored from a backup can
    /// take a number twice.
    pub id: Uuid,
}

impl Claim {
    /// The first claim on a VM: that of the host on which it was before it was ever replicated.
    #[must_use]
    pub fn first(holder: HostId) -> Self {
        Self { number: Generation(1), holder, id: Uuid::new_v4() }
    }

    /// A claim that a host of the version before states: it has a number and no id.
    #[must_use]
    pub const fn unnamed(number: Generation, holder: HostId) -> Self {
        Self { number, holder, id: Uuid::nil() }
    }

    /// The same claim. One without an id is the same as any of its number and holder.
    #[must_use]
    pub fn same_as(self, other: Self) -> bool {
        let unnamed = self.id.is_nil() || other.id.is_nil();
        self.number == other.number && self.holder == other.holder && (unnamed || self.id == other.id)
    }

    /// Of two claims of one number, the holder that is not `me`.
    #[must_use]
    pub fn other_than(self, me: HostId, rival: Self) -> HostId {
        if self.holder == me { rival.holder } else { self.holder }
    }

    /// The claim after this one, of `holder`.
    #[must_use]
    pub fn next(self, holder: HostId) -> Self {
        Self { number: self.number.next(), holder, id: Uuid::new_v4() }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.number, self.holder)
    }
}

/// How a host came to share a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It receives, or received, the VM from this host: it can fail over at any time, on somebody's assertion.
    Replica,
    /// It sends, or sent, the VM to this host. Once it has accepted a higher claim it starts the VM only when forced.
    Source,
    /// It shares the VM with a host that this one shares it with, which named it, or says so itself. That it runs the VM
    /// counts; its silence keeps nobody from starting it, since nobody waits for a host that it never chose.
    Named,
}

impl Role {
    /// How the host that sees another one so is seen from there.
    #[must_use]
    pub const fn seen_from_there(self) -> Self {
        match self {
            Self::Replica => Self::Source,
            Self::Source => Self::Replica,
            Self::Named => Self::Named,
        }
    }
}

/// Another host that shares, or ever shared, the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownHost {
    /// Its name, for people.
    pub name: String,
    /// Where it can be reached (`host:port`), the likeliest first. Empty when it only ever connected from behind NAT.
    pub addresses: Vec<String>,
    /// How it came to share the VM.
    pub role: Role,
    /// The highest claim of this host that it has durably accepted while it did not run the VM.
    #[serde(default)]
    pub accepted: Option<Generation>,
}

/// A host that shares a VM, as another one names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedHost {
    /// Which host.
    pub host: HostId,
    /// Its name, for people.
    pub name: String,
    /// Where it can be reached (`host:port`), the likeliest first.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// Hosts that are known of one VM, at most: those of its relationships are always taken in, named ones up to here.
const MAX_HOSTS: usize = 16;
/// Addresses that are known of one host, at most.
pub const MAX_ADDRESSES: usize = 8;

/// How a start came about that nobody could confirm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assertion {
    /// Somebody said so at a prompt or by `--yes`, or by InitiateFailover, while the other host was silent.
    Silent,
    /// Somebody forced it against what another host said.
    Forced,
    /// The time of `start-after` ran out.
    Waited,
}

/// What a host keeps of the right to run one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The highest claim that this host knows.
    pub claim: Claim,
    /// Another holder's claim of the same number: people asserted both.
    #[serde(default)]
    pub rival: Option<Claim>,
    /// The hosts that ever shared the VM with this one.
    #[serde(default)]
    pub hosts: BTreeMap<HostId, KnownHost>,
    /// The VM was started here without a confirmation, and no host has confirmed it since.
    #[serde(default)]
    pub asserted: Option<Assertion>,
    /// This host was told a higher number of its own than it knew: its data directory is an older one, and so what it
    /// knows of the replica. A comparison clears it.
    #[serde(default)]
    pub outdated: bool,
}

impl Fence {
    /// A fence whose claim is `claim`, with no other host.
    #[must_use]
    pub fn new(claim: Claim) -> Self {
        Self { claim, rival: None, hosts: BTreeMap::new(), asserted: None, outdated: false }
    }

    /// `me` holds the VM, and nobody else claims the same.
    #[must_use]
    pub fn held_by(&self, me: HostId) -> bool {
        self.claim.holder == me && self.rival.is_none()
    }

    /// Two other hosts than `me` hold the same number.
    #[must_use]
    pub fn is_disputed_elsewhere(&self, me: HostId) -> bool {
        self.rival.is_some_and(|rival| me != rival.holder && me != self.claim.holder)
    }

    /// The claim that `host` is told: a holder hears of its rival, everybody else of the claim that was known first.
    #[must_use]
    pub fn told_to(&self, host: HostId) -> Claim {
        self.rival.filter(|_| self.claim.holder == host).unwrap_or(self.claim)
    }

    /// Takes in a claim that another host told, and says what that changed.
    pub fn learn(&mut self, me: HostId, told: Claim, rules: Rules) -> Learned {
        use std::cmp::Ordering as O;
        if !rules.compare_claims {
            return Learned::Nothing;
        }
        match told.number.cmp(&self.claim.number) {
            O::Less => Learned::Older,
            O::Equal if told.holder == self.claim.holder => {
                if told.same_as(self.claim) || told.holder != me {
                    return Learned::Nothing;
                }
                self.outdate()
            }
            O::Equal if self.rival.is_some_and(|rival| rival.same_as(told)) => Learned::Nothing,
            O::Equal => {
                self.rival = Some(told);
                Learned::Rival(told)
            }
            O::Greater => {
                let before = std::mem::replace(&mut self.claim, told).holder == me;
                let rival = self.rival.take().is_some();
                match (before, told.holder == me) {
                    // It held the VM all the time, as far as it knew, and missed that it went away and came back.
                    (true, true) if !rival => self.outdate(),
                    (_, true) => Learned::Returned(told),
                    (true, false) => Learned::Lost(told),
                    (false, false) => Learned::Newer(told),
                }
            }
        }
    }

    fn outdate(&mut self) -> Learned {
        self.outdated = true;
        Learned::Outdated
    }

    /// Takes the next number for `me`.
    pub fn take(&mut self, me: HostId, asserted: Option<Assertion>) -> Claim {
        self.claim = self.claim.next(me);
        self.rival = None;
        self.asserted = asserted;
        self.claim
    }

    /// A host told where the VM is, seen from there. One that the VM came from, and that has it, is not down, and has not let
    /// go of it: what was asserted of its silence holds no more, nor that it once accepted a claim, also when it falls silent
    /// again. `true`: something of that held.
    pub fn hear(&mut self, host: HostId, place: Place) -> bool {
        let source = self.hosts.get_mut(&host).filter(|known| known.role == Role::Source);
        let Some(source) = source.filter(|_| matches!(place, Place::Runs | Place::Lives)) else {
            return false;
        };
        let had_accepted = source.accepted.take().is_some();
        self.asserted.take_if(|how| *how == Assertion::Silent).is_some() || had_accepted
    }

    /// The hosts that share the VM, as they are named to `host`. One that was named itself is named no further, nor is one
    /// whose own id is not known: the same host would be known as two.
    #[must_use]
    pub fn names_for(&self, host: HostId) -> Vec<NamedHost> {
        let others = self
            .hosts
            .iter()
            .filter(|(other, known)| **other != host && known.role != Role::Named && !other.is_of_name());
        others
            .map(|(other, known)| NamedHost {
                host: *other,
                name: known.name.clone(),
                addresses: known.addresses.clone(),
            })
            .collect()
    }

    /// Takes in hosts that `teller` names. Only one that shares the VM with this host by a relationship is listened to, and
    /// what is known of a host by a relationship is not changed by it. `true`: there is something new.
    pub fn take_names(&mut self, me: HostId, teller: HostId, named: &[NamedHost]) -> bool {
        let direct = |known: &KnownHost| known.role != Role::Named;
        if !self.hosts.get(&teller).is_some_and(direct) {
            return false;
        }
        let mut changed = false;
        for other in named.iter().filter(|other| other.host != me) {
            let full = self.hosts.len() >= MAX_HOSTS;
            let addresses = other.addresses.iter().take(MAX_ADDRESSES).cloned().collect();
            let now = KnownHost { name: other.name.clone(), addresses, role: Role::Named, accepted: None };
            match self.hosts.get_mut(&other.host) {
                None if full => continue,
                None => drop(self.hosts.insert(other.host, now)),
                Some(known) if direct(known) || *known == now => continue,
                Some(known) => *known = now,
            }
            changed = true;
        }
        changed
    }

    /// A host says itself that it shares the VM. `true`: that is new.
    pub fn names_itself(&mut self, me: HostId, host: HostId, known: KnownHost) -> bool {
        if host == me || self.hosts.contains_key(&host) || self.hosts.len() >= MAX_HOSTS {
            return false;
        }
        self.hosts.insert(host, KnownHost { role: Role::Named, ..known });
        true
    }

    /// A host of a relationship can be reached at `address`, too. The first one that is known stays the first: it is that of the
    /// relationship. `true`: that is new.
    pub fn is_reached_at(&mut self, host: HostId, address: &str) -> bool {
        let known = self.hosts.get_mut(&host).filter(|known| known.role != Role::Named);
        let Some(known) = known.filter(|known| known.addresses.iter().all(|known| known != address)) else {
            return false;
        };
        known.addresses.insert(known.addresses.len().min(1), address.to_owned());
        known.addresses.truncate(MAX_ADDRESSES);
        true
    }

    /// A host is known by another id from now on: one of the version before has told its own, or an operator said so.
    pub fn rename(&mut self, old: HostId, new: HostId) -> bool {
        let known = self.hosts.remove(&old);
        let renamed = known.is_some() || self.claim.holder == old;
        if let Some(known) = known {
            self.hosts.entry(new).or_insert(known);
        }
        if self.claim.holder == old {
            self.claim.holder = new;
        }
        if let Some(rival) = self.rival.as_mut().filter(|rival| rival.holder == old) {
            rival.holder = new;
        }
        if self.rival.is_some_and(|rival| rival.holder == self.claim.holder) {
            self.rival = None;
        }
        renamed
    }

    /// Gives the VM to `to` by the next number.
    pub fn give(&mut self, to: HostId) -> Claim {
        self.claim = self.claim.next(to);
        self.rival = None;
        self.asserted = None;
        self.claim
    }
}

/// What a claim that was told changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// It was known.
    Nothing,
    /// It is older than what is known here: its teller is to be told.
    Older,
    /// The VM has another holder than was known.
    Newer(Claim),
    /// This host held the VM and does not any more.
    Lost(Claim),
    /// The VM comes back to this host, which knew that another one held it.
    Returned(Claim),
    /// Another holder has the same number.
    Rival(Claim),
    /// A higher number of this host's own: the number is taken up, the disks must be compared.
    Outdated,
}

/// What a host says of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// It runs there.
    Runs,
    /// That host holds it, and it is off or paused.
    Lives,
    /// That host knows it, does not hold it, and does not run it.
    NotHere,
    /// That host has never heard of it.
    Unknown,
    /// No answer.
    Silent,
}

/// What a host does with a start when another host that could run the VM does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum WhenSilent {
    /// Refuses. A person decides, with `--force`.
    #[default]
    Refuse,
    /// Starts when it has waited for so long without an answer, and says that nobody confirmed it.
    StartAfter(Duration),
}

/// The rules that can be switched off, for the proof that a simulation finds each one missing. Production has all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Rule 1: claims are compared wherever two hosts speak.
    pub compare_claims: bool,
    /// Rule 2: a failover's VM is started only over a confirmed or asserted claim.
    pub confirm_failover: bool,
    /// Rule 3: a failover is recorded with the witness before its VM is started.
    pub record_with_witness: bool,
    /// Rule 3: a start asks every host that could run the VM.
    pub ask_before_start: bool,
    /// Rule 3: silence is not a "no".
    pub heed_silence: bool,
    /// Rule 4: when both run, the lower number is paused.
    pub pause_lower: bool,
    /// Rule 6: the fence outlives the relationship.
    pub keep_tombstones: bool,
    /// Rule 6: an image with marks and no record needs force.
    pub heed_marks: bool,
}

impl Rules {
    /// All rules hold.
    pub const ALL: Self = Self {
        compare_claims: true,
        confirm_failover: true,
        record_with_witness: true,
        ask_before_start: true,
        heed_silence: true,
        pause_lower: true,
        keep_tombstones: true,
        heed_marks: true,
    };
}

impl Default for Rules {
    fn default() -> Self {
        Self::ALL
    }
}

/// The facts of a start or a resume.
#[derive(Debug, Clone)]
pub struct RunFacts<'a> {
    /// This host.
    pub me: HostId,
    /// What is kept here, with all that the hosts just told already learned; `None` for a VM that never replicated.
    pub fence: Option<&'a Fence>,
    /// Its images carry marks of a replication.
    pub marked: bool,
    /// One word of each host of the fence, and of those that they named further. Without a fence: of the hosts that this
    /// one speaks to anyway. A host of the fence that is missing here counts as silent.
    pub heard: &'a [Heard],
    /// What somebody asserts: [`Assertion::Silent`] that the hosts from which the VM came are down, or
    /// [`Assertion::Forced`] against any word.
    pub asserted: Option<Assertion>,
    /// `fence_command` turned the hosts off from which the VM came (exit status 0); `None` when it was not run.
    pub fenced: Option<bool>,
    /// How long it has waited for an answer.
    pub waited: Duration,
    /// What silence means here.
    pub when_silent: WhenSilent,
    /// What the witness said just now; `None` where this host names none.
    pub witness: Option<WitnessWord>,
    /// How other hosts decide about the VM, as they last told.
    pub stances: &'a BTreeMap<HostId, Stance>,
    /// Which rules hold.
    pub rules: Rules,
}

/// The answer to "may it run here now?".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// It may. With an assertion, nobody has confirmed it; `take` the next number durably before it runs.
    Go {
        /// How it was asserted, if it was.
        asserted: Option<Assertion>,
        /// The next number is to be taken first.
        take: bool,
    },
    /// Not yet: ask again, for so long at most.
    Wait(Duration),
    /// It must not.
    Refuse(Reason),
}

const GO: Run = Run::Go { asserted: None, take: false };
const FORCED: Run = Run::Go { asserted: Some(Assertion::Forced), take: true };

/// May the VM begin to run here: by a start, or by a resume of one that is paused.
#[must_use]
pub fn may_run(facts: &RunFacts<'_>) -> Run {
    let forced = facts.asserted == Some(Assertion::Forced);
    let Some(fence) = facts.fence else { return without_a_fence(facts, forced) };
    if let Some(rival) = fence.rival {
        return Run::Refuse(Reason::Rivals { ours: fence.claim, theirs: rival });
    }
    if fence.claim.holder != facts.me {
        return if forced { FORCED } else { Run::Refuse(Reason::LivesElsewhere(fence.claim)) };
    }
    let over_others = match over_sources(facts, fence) {
        Run::Go { asserted, .. } => with_assertion(over_witness(facts, fence), asserted),
        stopped => return stopped,
    };
    match over_others {
        Run::Go { asserted, .. } => with_assertion(over_replicas(facts, fence), asserted),
        stopped => stopped,
    }
}

/// The claim with which a relationship begins that sends the VM from `me`: that of the fence, or the first one.
///
/// Without a fence, `heard` is the word of each host that this one speaks to anyway, as at a start. `marked`: the VM is off,
/// and its images carry marks of a replication. One that runs was let run, in spite of them.
///
/// # Errors
/// Another host holds it, or two do; or nothing is kept of it, and it is elsewhere by what others say, or may be by the
/// marks: the record that a relationship makes would have both overlooked at every later start.
pub fn may_send(
    me: HostId,
    fence: Option<&Fence>,
    heard: &[Heard],
    marked: bool,
    rules: Rules,
) -> Result<Claim, Reason> {
    match (fence, elsewhere(heard)) {
        (Some(fence), _) if fence.held_by(me) => Ok(fence.claim),
        (Some(fence), _) => Err(Reason::LivesElsewhere(fence.rival.unwrap_or(fence.claim))),
        (None, Some(host)) if rules.ask_before_start => Err(Reason::RunsElsewhere(host)),
        (None, _) if marked && rules.heed_marks => Err(Reason::MarkedImage),
        (None, _) => Ok(Claim::first(me)),
    }
}

/// A host that runs the VM, or holds it.
fn elsewhere(heard: &[Heard]) -> Option<HostId> {
    heard.iter().find(|heard| matches!(heard.place, Place::Runs | Place::Lives)).map(|heard| heard.host)
}

/// A VM that this host has no record of: it may be one that never replicated, or one whose record was lost.
fn without_a_fence(facts: &RunFacts<'_>, forced: bool) -> Run {
    match elsewhere(facts.heard) {
        _ if forced => GO,
        Some(host) if facts.rules.ask_before_start => Run::Refuse(Reason::RunsElsewhere(host)),
        _ if facts.marked && facts.rules.heed_marks => Run::Refuse(Reason::MarkedImage),
        _ => GO,
    }
}

fn with_assertion(run: Run, earlier: Option<Assertion>) -> Run {
    match run {
        Run::Go { asserted, take } => Run::Go { asserted: asserted.or(earlier), take },
        stopped => stopped,
    }
}

/// Rule 2: the hosts that the VM came from must have accepted the claim and not run it, or be fenced off, or somebody
/// asserts that they are down.
fn over_sources(facts: &RunFacts<'_>, fence: &Fence) -> Run {
    if !facts.rules.confirm_failover || facts.fenced == Some(true) {
        return GO;
    }
    let mut asserted = None;
    for (host, known) in fence.hosts.iter().filter(|(_, known)| known.role == Role::Source) {
        let forced = facts.asserted == Some(Assertion::Forced);
        match place_of(facts.heard, *host) {
            // Its claim is lower: nothing higher is to be taken.
            Place::Runs | Place::Lives if forced => asserted = Some(Assertion::Forced),
            Place::Runs | Place::Lives => return Run::Refuse(Reason::PrimaryRuns(*host)),
            Place::NotHere | Place::Unknown => {}
            // A host that has accepted this very claim starts the VM only when forced: its silence is as good as its word.
            Place::Silent if known.accepted.is_some_and(|number| number >= fence.claim.number) => {}
            // What was asserted of this claim once holds until the host speaks again.
            Place::Silent => match facts.asserted.or(fence.asserted) {
                Some(how) => asserted = Some(how),
                None => return Run::Refuse(Reason::PrimarySilent(*host)),
            },
        }
    }
    Run::Go { asserted, take: false }
}

/// Rule 3: a host that the VM came from may start it on the word of the witness, which therefore knows this host's claim
/// before the VM runs here. Without that, somebody has to assert that the other host is down.
fn over_witness(facts: &RunFacts<'_>, fence: &Fence) -> Run {
    let came_from_elsewhere = fence.hosts.values().any(|known| known.role == Role::Source);
    let unrecorded = facts.witness.is_some_and(|witness| !witness.recorded);
    if !facts.rules.record_with_witness || !came_from_elsewhere || !unrecorded {
        return GO;
    }
    match facts.asserted.or(fence.asserted) {
        Some(how) => Run::Go { asserted: Some(how), take: false },
        None => Run::Refuse(Reason::WitnessSilent),
    }
}

/// Rule 3: every host that received the VM from here could have failed over, on somebody's assertion, at any time.
fn over_replicas(facts: &RunFacts<'_>, fence: &Fence) -> Run {
    if !facts.rules.ask_before_start {
        return GO;
    }
    let replicas = fence.hosts.iter().filter(|(_, known)| known.role == Role::Replica);
    let of_fence = replicas.map(|(host, _)| Heard { host: *host, place: place_of(facts.heard, *host) });
    let further =
        facts.heard.iter().filter(|heard| match fence.hosts.get(&heard.host).map(|known| known.role) {
            None => true,
            Some(Role::Named) => heard.place != Place::Silent,
            Some(Role::Replica | Role::Source) => false,
        });
    let words: Vec<Heard> = of_fence.chain(further.copied()).collect();
    let forced = facts.asserted == Some(Assertion::Forced);
    if let Some(host) = elsewhere(&words) {
        return if forced { FORCED } else { Run::Refuse(Reason::RunsElsewhere(host)) };
    }
    let open = |heard: &&Heard| heard.place == Place::Silent && !is_vouched_for(facts, heard.host);
    match words.iter().find(open) {
        Some(silent) if facts.rules.heed_silence => {
            if forced {
                FORCED
            } else {
                over_silence(facts, silent.host)
            }
        }
        _ => GO,
    }
}

/// The witness answers for a silent host that named it, from the very records that the host named: a failover there would
/// be among them, and what is among them is in the fence already.
fn is_vouched_for(facts: &RunFacts<'_>, host: HostId) -> bool {
    let named = facts.stances.get(&host).and_then(|stance| stance.witness);
    named.is_some_and(|named| facts.witness.is_some_and(|witness| witness.answers == Some(named)))
}

fn place_of(heard: &[Heard], host: HostId) -> Place {
    heard.iter().find(|heard| heard.host == host).map_or(Place::Silent, |heard| heard.place)
}

fn over_silence(facts: &RunFacts<'_>, host: HostId) -> Run {
    match facts.when_silent {
        WhenSilent::Refuse => Run::Refuse(Reason::Silent(host)),
        WhenSilent::StartAfter(wait) if facts.waited >= wait => {
            Run::Go { asserted: Some(Assertion::Waited), take: false }
        }
        WhenSilent::StartAfter(wait) => Run::Wait(wait.saturating_sub(facts.waited)),
    }
}

/// What is to be done when the primary runs the VM at the start of a failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum OverRunning {
    /// The start is refused.
    #[default]
    Refuse,
    /// The primary's VM is paused first.
    Pause,
}

/// What two hosts find when they meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// Nothing is wrong.
    Fine,
    /// Both run it; this host has the higher number.
    BothRunHigher,
    /// Both run it; this host has the lower number, and pauses its own.
    BothRunLower,
    /// Both hold the same number: nothing is paused, and neither sends.
    Rivals,
    /// Two other hosts hold the same number.
    RivalsElsewhere,
    /// This host runs the VM, another one holds it and does not run it.
    RunsUnheld,
}

/// What is found when another host's word comes in. The claims have been learned before.
#[must_use]
pub fn meet(me: HostId, fence: &Fence, runs_here: bool, other: Place, rules: Rules) -> Meeting {
    let disputed_elsewhere = fence.is_disputed_elsewhere(me);
    if fence.rival.is_some() && !disputed_elsewhere {
        return Meeting::Rivals;
    }
    let held = fence.claim.holder == me;
    match (runs_here, other) {
        // Whoever wins, it is not this host.
        (true, Place::Runs) if disputed_elsewhere && rules.pause_lower => Meeting::BothRunLower,
        _ if disputed_elsewhere => Meeting::RivalsElsewhere,
        (true, Place::Runs) if held => Meeting::BothRunHigher,
        (true, Place::Runs) if rules.pause_lower => Meeting::BothRunLower,
        (true, _) if !held => Meeting::RunsUnheld,
        _ => Meeting::Fine,
    }
}

#[cfg(test)]
mod tests;
