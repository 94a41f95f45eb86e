//! What must hold whatever happens, beside what [`super::watch`] sees: no acknowledged recovery point is lost, every point is
//! the guest's disk at one instant, and at the end nothing is stuck.

use super::machine::Machine;
use super::orders::KEPT_CYCLES;
use super::step::{Host, Part, What};
use super::watch::Watch;
use super::world::DISK;
use jiff::Timestamp;
use standin_engine::Engine;
use standin_hypervisor::PowerState;
use standin_model::health::Health;
use standin_model::state::{ReplicationMode, ReplicationState};
use standin_model::{DiskName, Epoch, PointId, RecoveryPoint, VmId};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

#[derive(Debug, Clone, Copy)]
struct Known {
    epoch: Epoch,
    at: Timestamp,
    contents: u64,
}

/// What a host was seen to have.
#[derive(Default, Clone)]
struct Ledger {
    points: BTreeMap<PointId, Known>,
    /// They may be gone: a failover was committed, or the relationship was removed.
    given_up: bool,
}

/// See the module's doc.
pub struct Judge {
    vm: VmId,
    watch: Arc<Watch>,
    /// How long every point is kept.
    kept_s: i64,
    /// What the guest ever had on its disk, anywhere.
    had: BTreeSet<u64>,
    ledgers: BTreeMap<Host, Ledger>,
    backups: BTreeMap<Host, Ledger>,
    /// Disks of a replica that are an older state, until the primary's next acknowledged epoch.
    older: BTreeMap<Host, Option<Epoch>>,
    /// What a primary says that an older state was put back of: it may be of a relationship that was removed since. Until it says
    /// something else.
    recalled: BTreeMap<Host, Option<Epoch>>,
    /// What each primary had acknowledged when all was connected.
    acknowledged: BTreeMap<Host, Option<Epoch>>,
}

fn hash(data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    hasher.finish()
}

/// By which a point ages.
fn dated(point: &RecoveryPoint) -> Timestamp {
    point.created_at.min(point.received_at)
}

impl Judge {
    pub fn new(vm: VmId, watch: Arc<Watch>, interval_s: u32) -> Self {
        let had = BTreeSet::from([hash(&vec![0; usize::try_from(DISK.1).expect("a small disk")])]);
        Self {
            vm,
            watch,
            kept_s: (KEPT_CYCLES * interval_s).into(),
            had,
            ledgers: BTreeMap::new(),
            backups: BTreeMap::new(),
            older: BTreeMap::new(),
            recalled: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
        }
    }

    pub fn guest_has(&mut self, disks: &BTreeMap<DiskName, Vec<u8>>) {
        self.had.extend(disks.values().map(|data| hash(data)));
    }

    /// An order was given: some allow points to go.
    pub fn ordered(&mut self, what: What) {
        match what {
            What::Commit { on } => self.ledgers.entry(on).or_default().given_up = true,
            // The other side is told, if it can be; each may then begin anew.
            What::Unreplicate { .. } | What::Replicate { .. } => {
                self.ledgers.values_mut().for_each(|ledger| ledger.given_up = true);
            }
            _ => {}
        }
    }

    pub fn backed_up(&mut self, of: Host) {
        self.backups.insert(of, self.ledgers.get(&of).cloned().unwrap_or_default());
    }

    pub fn restored(&mut self, of: Host, part: Part) {
        self.recalled.insert(of, None);
        if matches!(part, Part::All | Part::Disks) {
            self.ledgers.insert(of, self.backups.get(&of).cloned().unwrap_or_default());
            self.older.insert(of, None);
        } else {
            self.lost_records(of);
        }
    }

    /// Its records are others than those that go with its disks.
    pub fn lost_records(&mut self, of: Host) {
        self.older.insert(of, None);
    }

    /// Looks at every host.
    pub async fn look(&mut self, machines: &[Machine]) {
        for machine in machines {
            let Some(engine) = machine.engine() else { continue };
            let running: Vec<_> = engine.jobs().running().iter().map(|job| job.id).collect();
            self.watch.jobs(machine.host, &running);
            self.look_at_points(machine.host, &engine);
        }
        for machine in machines {
            self.look_at_acknowledged(machine, machines);
        }
    }

    fn look_at_points(&mut self, host: Host, engine: &Engine) {
        let ledger = self.ledgers.entry(host).or_default();
        let Some(replica) = engine.replicas().find(self.vm) else {
            if !ledger.given_up && !ledger.points.is_empty() {
                let points = ledger.points.len();
                self.watch.violation(format!(
                    "lost: {host:?} does not know its replica with {points} points any more"
                ));
            }
            *ledger = Ledger::default();
            return;
        };
        let points = replica.store().points();
        if replica.snapshot().state == ReplicationState::Committed {
            ledger.given_up = true;
        }
        let newest = points.iter().map(dated).max();
        let oldest_kept = newest.map(|newest| newest.as_second() - self.kept_s);
        let present: BTreeSet<PointId> = points.iter().map(|point| point.id).collect();
        let gone: Vec<PointId> = ledger.points.keys().copied().filter(|id| !present.contains(id)).collect();
        for id in gone {
            let Some(known) = ledger.points.remove(&id) else { continue };
            let expired = oldest_kept.is_some_and(|oldest| known.at.as_second() <= oldest);
            if !expired && !ledger.given_up {
                self.watch.violation(format!(
                    "lost: point {id} of epoch {} is not on {host:?} any more",
                    known.epoch
                ));
            }
        }
        for point in points {
            if ledger.points.contains_key(&point.id) {
                continue;
            }
            let Some(data) = contents_of(replica.store(), point.id) else { continue };
            let contents = hash(&data);
            if !self.had.contains(&contents) {
                self.watch.violation(format!(
                    "torn: point {} of epoch {} on {host:?} is no state that the disk ever had",
                    point.id, point.epoch
                ));
            }
            ledger.points.insert(point.id, Known { epoch: point.epoch, at: dated(&point), contents });
        }
        let again = ledger.given_up && !self.watch.is_dropping();
        if again && !replica.snapshot().state.is_failed_over() && !ledger.points.is_empty() {
            // A new relationship, whose points count.
            ledger.given_up = false;
        }
    }

    /// What a primary says was acknowledged must be on the replica.
    fn look_at_acknowledged(&mut self, primary: &Machine, machines: &[Machine]) {
        let Some(sending) = primary.engine().and_then(|engine| engine.primary(self.vm)) else { return };
        let record = sending.snapshot().record;
        let Some(acknowledged) = record.acknowledged else { return };
        let recalled = self.recalled.get(&primary.host).map(|recalled| recalled.unwrap_or(acknowledged));
        if recalled == Some(acknowledged) {
            self.recalled.insert(primary.host, recalled);
            return;
        }
        let replica = machines.iter().find(|machine| machine.host.address() == record.peer);
        let Some((host, engine)) = replica.and_then(|machine| Some((machine.host, machine.engine()?))) else {
            return;
        };
        match self.older.get(&host) {
            Some(None) => {
                self.older.insert(host, Some(acknowledged));
                return;
            }
            // It may have forgotten the last of them in a crash.
            Some(Some(then)) if acknowledged <= *then => return,
            _ => {}
        }
        let Some(replica) = engine.replicas().find(self.vm) else { return };
        if replica.snapshot().host.is_some_and(|sender| sender != primary.id) {
            // Another host's: the one that this primary sent to was removed there.
            return;
        }
        let ledger = self.ledgers.entry(host).or_default();
        let head = replica.store().head_epoch();
        if head < Some(acknowledged) && !ledger.given_up && !replica.snapshot().state.is_failed_over() {
            self.watch.violation(format!(
                "lost: {:?} says that epoch {acknowledged} was acknowledged, and {host:?} has {head:?}",
                primary.host
            ));
        }
    }

    /// All is connected from now on.
    pub fn all_is_connected(&mut self, machines: &[Machine]) {
        for machine in machines {
            let sending = machine.engine().and_then(|engine| engine.primary(self.vm));
            let acknowledged = sending.and_then(|sending| sending.snapshot().record.acknowledged);
            self.acknowledged.insert(machine.host, acknowledged);
        }
    }

    /// All is connected, and time has passed.
    pub async fn at_the_end(&mut self, machines: &[Machine]) {
        for machine in machines {
            let Some(engine) = machine.engine() else { continue };
            self.no_job_is_stuck(machine.host, &engine);
            self.relationship_is_settled(machine.host, &engine).await;
            self.points_are_whole(machine.host, &engine);
        }
        self.one_runs(machines).await;
        self.all_tell_the_same(machines).await;
    }

    /// Hosts that have met do not both run it, unless people asserted both or a host is set to leave both; then both say so,
    /// and people must decide.
    async fn one_runs(&self, machines: &[Machine]) {
        let running = self.watch.running();
        let mut critical = BTreeSet::new();
        for machine in machines.iter().filter(|machine| running.contains(&machine.host)) {
            let Some(engine) = machine.engine() else { continue };
            let held = engine.vm_tasks().fence(self.vm).is_none_or(|fence| fence.held_by(machine.id));
            if is_critical(&engine, self.vm).await {
                critical.insert(machine.host);
            } else if !held {
                self.watch.violation(format!(
                    "unsaid: it runs on {:?}, which knows that it lives elsewhere, and is not critical",
                    machine.host
                ));
            }
        }
        for (at, one) in running.iter().enumerate() {
            for other in &running[at + 1..] {
                self.both_run(*one, *other, &critical, machines);
            }
        }
    }

    fn both_run(&self, one: Host, other: Host, critical: &BTreeSet<Host>, machines: &[Machine]) {
        if self.watch.are_strangers(one, other) {
            return;
        }
        let said = [one, other].iter().filter(|host| critical.contains(*host)).count();
        let leaves =
            |host: Host| machines.iter().any(|machine| machine.host == host && machine.leaves_both());
        if !self.watch.share(one, other) {
            // Both received the VM from a third host, which tells the one with the lower claim; they do not know each other.
            if said == 0 {
                self.watch
                    .violation(format!("two run at the end, on {one:?} and {other:?}, and neither says so"));
            }
        } else if said < 2 {
            self.watch.violation(format!(
                "two run at the end, on {one:?} and {other:?}; {critical:?} alone says so"
            ));
        } else if !(self.watch.is_disputed(one, other) || leaves(one) || leaves(other)) {
            self.watch
                .violation(format!("two run at the end, on {one:?} and {other:?}, and neither is paused"));
        }
    }

    /// Hosts that share the VM by a relationship tell the same holder, or that something is wrong.
    async fn all_tell_the_same(&self, machines: &[Machine]) {
        for one in machines {
            let Some(engine) = one.engine() else { continue };
            if engine.role(self.vm).0 == ReplicationMode::None {
                continue;
            }
            let Some(fence) = engine.vm_tasks().fence(self.vm) else {
                self.watch.violation(format!("unsaid: {:?} replicates the VM and keeps no claim", one.host));
                continue;
            };
            for other in machines.iter().filter(|other| fence.hosts.contains_key(&other.id)) {
                let Some(theirs) = other.engine() else { continue };
                let Some(told) = theirs.vm_tasks().fence(self.vm) else { continue };
                let same = told.claim.holder == fence.claim.holder;
                if !same && !is_critical(&engine, self.vm).await && !is_critical(&theirs, self.vm).await {
                    self.watch.violation(format!(
                        "unsaid: {:?} says that {} holds the VM, {:?} says {}, and neither is critical",
                        one.host, fence.claim, other.host, told.claim
                    ));
                }
            }
        }
    }

    fn no_job_is_stuck(&self, host: Host, engine: &Engine) {
        for job in engine.jobs().running() {
            let waits = engine
                .relationship(self.vm)
                .is_some_and(|found| found.job == Some(job.id) && !found.status.health_issues.is_empty());
            if !waits {
                self.watch
                    .violation(format!("stuck: on {host:?} the job {:?} has not ended", job.description));
            }
        }
    }

    async fn relationship_is_settled(&self, host: Host, engine: &Engine) {
        let Ok(status) = engine.status(self.vm).await else { return };
        let said = status.health != Health::Ok && !status.health_issues.is_empty();
        let between = matches!(
            status.state,
            ReplicationState::WaitingForInitialReplication
                | ReplicationState::Resynchronizing
                | ReplicationState::FailoverInProgress
        );
        if between && !said {
            self.watch.violation(format!("stuck: {host:?} is in state {} and says nothing", status.state));
        }
        if status.mode != ReplicationMode::Primary || status.state != ReplicationState::Replicating || said {
            return;
        }
        let Some(sending) = engine.primary(self.vm) else { return };
        let record = sending.snapshot().record;
        let runs = self.watch.power(host) == Some(PowerState::Running);
        if runs && self.acknowledged.get(&host) == Some(&record.acknowledged) {
            self.watch.violation(format!(
                "stuck: {host:?} says that it replicates to {} and all is well, and nothing is sent",
                record.peer
            ));
        }
    }

    fn points_are_whole(&self, host: Host, engine: &Engine) {
        let Some(replica) = engine.replicas().find(self.vm) else { return };
        for (id, known) in self.ledgers.get(&host).into_iter().flat_map(|ledger| &ledger.points) {
            match contents_of(replica.store(), *id) {
                Some(data) if hash(&data) == known.contents => {}
                Some(_) => {
                    self.watch.violation(format!("torn: point {id} on {host:?} reads otherwise than before"))
                }
                None => self.watch.violation(format!("lost: point {id} on {host:?} cannot be read")),
            }
        }
    }
}

async fn is_critical(engine: &Engine, vm: VmId) -> bool {
    engine.status(vm).await.is_ok_and(|status| status.health == Health::Critical)
}

/// The disk at a point; nothing where a merge or a commit takes it away in this moment.
fn contents_of(store: &standin_store::Replica, point: PointId) -> Option<Vec<u8>> {
    let reader = store.reader(point).ok()?;
    reader.read(&DiskName::new(DISK.0).ok()?, 0, DISK.1).ok()
}
