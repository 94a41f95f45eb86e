//! Hosts with their daemons, the network between them, one VM, and what happens to them: carries the steps of a schedule
//! out, and has them judged.

use super::judge::Judge;
use super::machine::{Machine, simulated_clock};
use super::orders::{Answer, Order};
use super::power::Power;
use super::step::{Crash, Host, Part, Says, Schedule, Step, What, When};
use super::watch::Watch;
use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use standin_hypervisor::PowerState;
use standin_hypervisor::fake::FakeHypervisor;
use standin_model::VmId;
use standin_model::fence::Rules;
use standin_wire::Settings;
use standin_wire::memory::Network;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// The VM's only disk, and its size in bytes.
pub const DISK: (&str, u64) = ("a", 64 << 10);
/// Its name.
pub const NAME: &str = "web";
/// How long an order is waited for, unless it goes beside.
const PATIENCE: Duration = Duration::from_secs(60);
/// An order that is not answered then is stuck.
const STUCK: Duration = Duration::from_secs(600);
/// How long hosts that are all connected get to settle everything.
const SETTLING: Duration = Duration::from_secs(900);

/// What was covered: the kind of a step, and where a daemon died in it.
pub type Covered = Vec<(String, &'static str)>;

pub struct World {
    _dir: TempDir,
    pub machines: Vec<Machine>,
    network: Network,
    pub vm: VmId,
    pub watch: Arc<Watch>,
    judge: Judge,
    pub interval_s: u32,
    cut: BTreeSet<(Host, Host)>,
    one_way: BTreeSet<(Host, Host)>,
    clocks: Arc<[AtomicI64; 3]>,
    orders: Vec<(String, JoinHandle<()>)>,
    contents: StdRng,
    pub covered: Covered,
}

/// A clock that goes with simulated time, and can jump.
fn clock(clocks: &Arc<[AtomicI64; 3]>, host: Host) -> impl Fn() -> Timestamp + use<> {
    let (clocks, clock) = (Arc::clone(clocks), simulated_clock());
    move || clock.now() + SignedDuration::from_secs(clocks[host.index()].load(Ordering::SeqCst))
}

/// Where a daemon can die in a step, and that it does not.
pub const COLUMNS: [&str; 7] =
    ["lives", "before 1", "after 1", "before 2", "after 2", "before 3+", "after 3+"];

fn column(crash: &Crash) -> &'static str {
    match (crash.n, crash.when) {
        (1, When::Before) => "before 1",
        (1, When::After) => "after 1",
        (2, When::Before) => "before 2",
        (2, When::After) => "after 2",
        (_, When::Before) => "before 3+",
        (_, When::After) => "after 3+",
    }
}

impl World {
    /// All daemons run, and each host admits every other one. The VM runs on A.
    pub async fn new(schedule: &Schedule, rules: Rules) -> Self {
        let memory = std::path::Path::new("/dev/shm");
        let dir =
            if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a directory");
        let network = Network::new(Settings::default());
        let clocks: Arc<[AtomicI64; 3]> = Arc::default();
        let hosts = &Host::ALL[..schedule.hosts];
        let fakes: Vec<_> =
            hosts.iter().map(|host| (*host, FakeHypervisor::with_clock(clock(&clocks, *host)))).collect();
        let vm = fakes[0].1.add_vm_as(VmId(Uuid::from_u128(7)), NAME, &[DISK]);
        let watch = Watch::new(vm, fakes.clone());
        let mut machines = Vec::new();
        let power = Power::new(vm, network.clone());
        for (host, fake) in fakes {
            let at = dir.path().join(host.name());
            let (network, power, watch) = (network.clone(), power.clone(), Arc::clone(&watch));
            machines.push(Machine::new(host, at, fake, network, power, watch, rules));
        }
        let mut world = Self {
            _dir: dir,
            machines,
            network,
            vm,
            judge: Judge::new(vm, Arc::clone(&watch), schedule.interval_s),
            watch,
            interval_s: schedule.interval_s,
            cut: BTreeSet::new(),
            one_way: BTreeSet::new(),
            clocks,
            orders: Vec::new(),
            contents: StdRng::seed_from_u64(1),
            covered: Vec::new(),
        };
        for at in 0..world.machines.len() {
            world.machines[at].start().await;
            world.admit_all(Host::ALL[at]).await;
        }
        world.write(Host::A);
        world.network_changed();
        world
    }

    async fn admit_all(&self, on: Host) {
        let Some(order) = self.order_of(on) else { return };
        for of in self.hosts().into_iter().filter(|of| *of != on) {
            order.engine.replicas().add_entry(order.entry(of)).await.expect("an entry");
        }
    }

    pub fn hosts(&self) -> Vec<Host> {
        self.machines.iter().map(|machine| machine.host).collect()
    }

    pub fn machine(&self, host: Host) -> Option<&Machine> {
        self.machines.get(host.index())
    }

    fn machine_mut(&mut self, host: Host) -> Option<&mut Machine> {
        self.machines.get_mut(host.index())
    }

    fn order_of(&self, on: Host) -> Option<Order> {
        let machine = self.machine(on)?;
        let (vm, interval_s) = (self.vm, self.interval_s);
        let of = |machine: &Machine| (machine.host, (machine.id, machine.certificate()));
        let hosts = self.machines.iter().map(of).collect();
        let (fake, replicas_dir) = (Arc::clone(&machine.fake), machine.replicas_dir());
        Some(Order { engine: machine.engine()?, fake, vm, interval_s, replicas_dir, hosts })
    }

    /// Nothing is in the way between two hosts.
    pub fn is_free(&self, one: Host, other: Host) -> bool {
        let pair = (one.min(other), one.max(other));
        let ways = [(one, other), (other, one)];
        !self.cut.contains(&pair) && !ways.iter().any(|way| self.one_way.contains(way))
    }

    fn network_changed(&self) {
        let hosts = self.hosts();
        let up = |host: Host| self.machine(host).is_some_and(Machine::is_up);
        for (at, one) in hosts.iter().enumerate() {
            for other in &hosts[at + 1..] {
                let connected = self.is_free(*one, *other) && up(*one) && up(*other);
                self.watch.connected(*one, *other, connected);
            }
        }
    }

    /// Carries a step out, lets its time pass, and judges.
    pub async fn carry_out(&mut self, number: usize, step: &Step) {
        self.watch.say(format!("[{number}] {step:?}"));
        if let Some(Crash { host, n, when }) = step.crash {
            if let Some(life) = self.machine(host).and_then(Machine::life) {
                life.arm(Some((n, when)));
            }
        }
        self.happens(step).await;
        self.network_changed();
        sleep(Duration::from_millis(step.then_ms.into())).await;
        let kind = step.what.kind();
        self.covered.push((kind.clone(), "lives"));
        for at in 0..self.machines.len() {
            let Some(life) = self.machines[at].life() else { continue };
            if life.is_dead() {
                self.watch.say(format!("    the daemon of {:?} has died", Host::ALL[at]));
                self.covered.extend(step.crash.as_ref().map(|crash| (kind.clone(), column(crash))));
                self.machines[at].bury().await;
            } else {
                life.arm(None);
            }
        }
        self.network_changed();
        self.judge.look(&self.machines).await;
    }

    async fn happens(&mut self, step: &Step) {
        match step.what {
            What::GuestWrites { on } => self.write(on),
            What::GuestDies { on } => self.guest_dies(on),
            What::DaemonDies { on } => {
                if let Some(machine) = self.machine_mut(on) {
                    machine.bury().await;
                }
            }
            What::DaemonStops { on } => {
                if let Some(machine) = self.machine_mut(on) {
                    machine.stop().await;
                }
            }
            What::DaemonStarts { on } => self.start(on).await,
            What::HostDies { on } => {
                self.guest_dies(on);
                // Nobody is told: what is sent to it is lost.
                self.network.power_off(on.name());
                if let Some(machine) = self.machine_mut(on) {
                    machine.bury().await;
                }
            }
            What::Configure { on, setup } => {
                if let Some(machine) = self.machine_mut(on) {
                    machine.stop().await;
                    machine.configure(setup);
                    self.watch.note(|words| words.names_witness(on, setup.witness));
                    self.start(on).await;
                }
            }
            What::Rename { of } => {
                if let Some(machine) = self.machine_mut(of) {
                    machine.stop().await;
                    machine.rename();
                    for on in self.hosts().into_iter().filter(|on| *on != of) {
                        self.watch.note(|words| words.knows(on, of, false));
                    }
                    self.start(of).await;
                }
            }
            What::Backup { of } => {
                if let Some(machine) = self.machine_mut(of) {
                    machine.back_up().await;
                }
                self.judge.backed_up(of);
                self.watch.note(|words| words.backed_up(of));
            }
            What::Restore { of, part } => {
                if let Some(machine) = self.machine_mut(of).filter(|machine| machine.has_backup()) {
                    machine.bury().await;
                    machine.restore(part).await;
                    self.judge.restored(of, part);
                    self.watch.note(|words| words.put_back(of));
                    if part == Part::All {
                        self.watch.note(|words| words.restored(of));
                    }
                    self.is_older(of);
                    self.start(of).await;
                }
            }
            What::LoseRecords { of } => {
                if let Some(machine) = self.machine_mut(of) {
                    machine.bury().await;
                    machine.lose_records();
                    self.judge.lost_records(of);
                    self.is_older(of);
                    self.start(of).await;
                }
            }
            What::Cut { one, other } => {
                self.network.cut(one.name(), other.name());
                self.cut.insert((one.min(other), one.max(other)));
            }
            What::Hold { from, to } => {
                self.network.hold(from.name(), to.name());
                self.one_way.insert((from, to));
            }
            What::Lose { from, to } => {
                self.network.lose(from.name(), to.name());
                self.one_way.insert((from, to));
            }
            What::Mend { one, other } => self.mend(one, other),
            What::ClockJumps { on, seconds } => {
                self.clocks[on.index()].fetch_add(seconds.into(), Ordering::SeqCst);
            }
            What::Passes { seconds } => sleep(Duration::from_secs(seconds.into())).await,
            what => self.order(what, step.beside).await,
        }
    }

    /// A host has an older data directory: it may know others by older names.
    fn is_older(&self, of: Host) {
        self.watch.is_older(of);
        self.watch.note(|words| words.is_older(of));
        for other in self.machines.iter().filter(|other| other.renamed() > 0 && other.host != of) {
            self.watch.note(|words| words.knows(of, other.host, false));
        }
    }

    fn mend(&mut self, one: Host, other: Host) {
        self.network.mend(one.name(), other.name());
        self.cut.remove(&(one.min(other), one.max(other)));
        self.one_way.remove(&(one, other));
        self.one_way.remove(&(other, one));
    }

    async fn start(&mut self, on: Host) {
        let Some(machine) = self.machine_mut(on).filter(|machine| !machine.is_up()) else { return };
        machine.bury().await;
        machine.start().await;
    }

    fn write(&mut self, on: Host) {
        if self.watch.power(on) != Some(PowerState::Running) {
            return;
        }
        let mut data = vec![0; 4096];
        self.contents.fill_bytes(&mut data);
        let block = self.contents.random_range(0..DISK.1 / 4096);
        let Some(machine) = self.machine(on) else { return };
        let disks = machine.fake.snapshot(self.vm);
        if disks.iter().any(|(name, data)| name.as_str() == DISK.0 && data.len() as u64 == DISK.1) {
            machine.fake.write(self.vm, DISK.0, block * 4096, &data);
        }
        self.judge.guest_has(&self.machines[on.index()].fake.snapshot(self.vm));
    }

    fn guest_dies(&mut self, on: Host) {
        if let Some(machine) = self.machine(on).filter(|machine| machine.fake.power(self.vm).is_some()) {
            machine.fake.crash(self.vm);
        }
    }

    async fn order(&mut self, what: What, beside: bool) {
        let Some(on) = on(what) else { return };
        let Some(order) = self.order_of(on) else {
            self.watch.say(format!("    {on:?} is down"));
            return;
        };
        let Some(life) = self.machine(on).and_then(Machine::life).map(Arc::clone) else { return };
        self.judge.ordered(what);
        self.watch.begin_of(what);
        let watch = Arc::clone(&self.watch);
        let says = says(what);
        let said = (says != Says::Nothing).then(|| watch.said(on, says));
        if let What::VmStart { .. } | What::VmResume { .. } = what {
            watch.starting(on);
        }
        if let What::Adopt { .. } = what {
            watch.adopting(on);
        }
        let mut task = tokio::spawn(async move {
            let answer = order.carry_out(what).await;
            let answer = (!life.is_dead()).then_some(answer);
            answered(&watch, on, what, said, answer);
        });
        if beside || timeout(PATIENCE, &mut task).await.is_err() {
            self.orders.push((format!("{what:?}"), task));
        }
    }

    /// Everything is connected, every daemon runs, and time passes: what is not settled then is stuck.
    pub async fn settle(&mut self) {
        self.watch.say("[end] all is connected".to_owned());
        let hosts = self.hosts();
        for one in &hosts {
            self.start(*one).await;
            for other in &hosts {
                self.mend(*one, *other);
            }
        }
        for (on, of) in hosts.iter().flat_map(|on| hosts.iter().map(move |of| (*on, *of))) {
            if on != of && self.machine(of).is_some_and(|of| of.renamed() > 0) {
                self.order(What::Rebind { on, of }, false).await;
            }
        }
        self.network_changed();
        self.judge.all_is_connected(&self.machines);
        sleep(SETTLING).await;
        self.judge.look(&self.machines).await;
        for (what, order) in std::mem::take(&mut self.orders) {
            if timeout(STUCK, order).await.is_err() {
                self.watch.violation(format!("stuck: {what} is never answered"));
            }
        }
        self.judge.at_the_end(&self.machines).await;
        for machine in &mut self.machines {
            machine.stop().await;
        }
    }
}

fn answered(watch: &Watch, on: Host, what: What, said: Option<u64>, answer: Option<Answer>) {
    let done = match &answer {
        None => "is not known: the daemon died".to_owned(),
        Some(Ok(None)) => "done".to_owned(),
        Some(Ok(Some(job))) => format!("job {job}"),
        Some(Err(refusal)) => refusal.to_string(),
    };
    watch.say(format!("    {what:?}: {done}"));
    watch.end_of(what);
    if let (What::Rebind { of, .. }, true) = (what, answer.is_some()) {
        // One that it has never met it takes by its name, too.
        watch.note(|words| words.knows(on, of, true));
    }
    let known = answer.is_some();
    if let (What::Adopt { .. }, Some(answer)) = (what, &answer) {
        let is_known = answer.is_ok() || watch.is_left_adopted(on);
        if is_known {
            watch.note(|words| words.made(on));
        }
        watch.adopted(on, is_known);
    }
    let answer = answer.map(|answer| answer.map_err(|_| ()));
    if let Some(id) = said {
        watch.answered(id, answer);
    }
    if let What::VmStart { .. } | What::VmResume { .. } = what {
        watch.start_answered(on, answer.and_then(Result::ok).flatten());
    }
    if matches!(answer, Some(Err(()))) {
        return;
    }
    match what {
        What::Failover { .. } | What::InitiateFailover { .. } => watch.note(|words| words.took(on, true)),
        What::Revert { .. } => watch.note(|words| words.took(on, false)),
        What::Replicate { from, to } => watch.note(|words| words.shares(from, to, known)),
        What::Forget { .. } => watch.note(|words| words.forgot(on)),
        What::Define { .. } => watch.note(|words| words.made(on)),
        What::StartAfter { seconds, .. } => {
            watch.start_after(on, seconds.map(|seconds| Duration::from_secs(seconds.into())), known);
        }
        _ => {}
    }
}

/// Where an order is given.
fn on(what: What) -> Option<Host> {
    match what {
        What::Replicate { from, .. } => Some(from),
        What::Unreplicate { on }
        | What::VmStart { on, .. }
        | What::VmStop { on }
        | What::VmKill { on }
        | What::VmPause { on }
        | What::VmResume { on, .. }
        | What::VmRemove { on }
        | What::Suspend { on }
        | What::GoOn { on }
        | What::Point { on }
        | What::Failover { on, .. }
        | What::InitiateFailover { on }
        | What::Revert { on }
        | What::Commit { on }
        | What::AuthRemove { on, .. }
        | What::AuthAdd { on, .. }
        | What::Resync { on }
        | What::Resolve { on, .. }
        | What::Forget { on }
        | What::Recovery { on, .. }
        | What::StartAfter { on, .. }
        | What::Define { on }
        | What::Adopt { on, .. }
        | What::Rebind { on, .. } => Some(on),
        _ => None,
    }
}

/// What an order asserts.
fn says(what: What) -> Says {
    match what {
        What::VmStart { says, .. }
        | What::VmResume { says, .. }
        | What::Adopt { says, .. }
        | What::Failover { says, .. } => says,
        // That whoever is silent is down.
        What::InitiateFailover { .. } => Says::Silent,
        What::Resolve { keep: true, .. } => Says::Force,
        _ => Says::Nothing,
    }
}
