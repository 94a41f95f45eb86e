//! Makes schedules: looks at how the world is, and chooses by a seed what happens next. What could not be of any effect now is
//! rarely chosen, so that thirty steps lead far.

use super::machine::Machine;
use super::orders::RENAMED_MOST;
use super::step::{BothRun, Crash, Fences, Host, OverRunning, Part, Says, Setup, Step, What, When};
use super::world::{COLUMNS, World};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use standin_hypervisor::PowerState;
use standin_model::state::{ReplicationMode, ReplicationState};

/// One thing that could happen, and how likely it is.
struct Choice {
    weight: u32,
    what: What,
}

struct Choices(Vec<Choice>);

impl Choices {
    fn add(&mut self, weight: u32, what: What) {
        self.0.push(Choice { weight, what });
    }

    fn draw(&self, chance: &mut StdRng) -> What {
        let chosen = self.0.choose_weighted(chance, |choice| choice.weight);
        chosen.map_or(What::Passes { seconds: 10 }, |choice| choice.what)
    }
}

/// What three quarters of the schedules come back to: a kind of step in which a daemon dies at one place. Without it some
/// pairs of the two are so rare that thousands of schedules have none.
#[derive(Debug, Clone, Copy)]
pub struct Theme {
    pub kind: &'static str,
    pub column: &'static str,
}

impl Theme {
    /// Of a seed: every pair has its turn.
    pub fn of(seed: u64) -> Option<Self> {
        let turn = usize::try_from(seed - seed / 4).unwrap_or_default();
        let (kinds, columns) = (What::KINDS, &COLUMNS[1..]);
        let (kind, column) = (kinds[turn % kinds.len()], columns[turn / kinds.len() % columns.len()]);
        (seed % 4 != 3).then_some(Self { kind, column })
    }

    fn crash(self, chance: &mut StdRng) -> (u32, When) {
        let when = if self.column.starts_with("before") { When::Before } else { When::After };
        let n = match self.column.split(' ').nth(1) {
            Some("1") => 1,
            Some("2") => 2,
            _ => *[3, 3, 3, 4, 5, 8].choose(chance).unwrap_or(&3),
        };
        (n, when)
    }
}

/// The first steps of a schedule: nothing, a replication, and what can become of one until the VM is on a third host. (An
/// extended replication, of a replica, does not exist yet: a chain is made by commits.)
pub fn opening(hosts: usize, chance: &mut StdRng) -> Vec<What> {
    use Host::{A, B, C};
    if chance.random_bool(0.05) {
        return forgotten(chance);
    }
    let mut steps = Vec::new();
    let witnessed = hosts > 2 && chance.random_bool(0.3);
    if witnessed {
        // A third host that is nobody's replica is the witness of the two.
        let setup = Setup::DEFAULT.witness(C);
        steps.extend([What::Configure { on: A, setup }, What::Configure { on: B, setup }]);
    }
    if chance.random_bool(0.15) {
        // To be put back when the VM is elsewhere.
        steps.push(What::Backup { of: *[A, B].choose(chance).unwrap_or(&A) });
    }
    let far = chance.random_range(0..10);
    if far == 0 {
        return steps;
    }
    steps.push(What::Replicate { from: A, to: B });
    if witnessed {
        return with_witness(steps, chance);
    }
    if far > 6 {
        // The fan: B keeps its points, and C gets some too.
        let third = *[B, C].choose(chance).unwrap_or(&B);
        if hosts > 2 && third == C {
            steps.extend([What::Unreplicate { on: A }, What::Replicate { from: A, to: C }]);
            return steps;
        }
        let says = if chance.random_bool(0.5) { Says::Silent } else { Says::Nothing };
        steps.extend([What::HostDies { on: A }, What::Failover { on: B, start: true, says }]);
    }
    if far > 7 {
        steps.push(What::Commit { on: B });
    }
    if far > 8 {
        steps.push(What::Unreplicate { on: B });
        // The chain, where there is a third host.
        steps.push(What::Replicate { from: B, to: if hosts > 2 { C } else { A } });
    }
    steps
}

/// A primary that is put back to before it ever replicated, when its VM may be elsewhere: only the marks in its images are
/// left to tell it so.
fn forgotten(chance: &mut StdRng) -> Vec<What> {
    use Host::{A, B};
    let mut steps = vec![What::Backup { of: A }, What::Replicate { from: A, to: B }, What::VmStop { on: A }];
    steps.push(What::Failover { on: B, start: true, says: says(chance) });
    if chance.random_bool(0.8) {
        steps.push(What::Cut { one: A, other: B });
    }
    steps.push(What::Restore { of: A, part: Part::All });
    steps
}

/// A failover that the witness is to know of, or cannot be told of, and what may make the primary forget it.
fn with_witness(mut steps: Vec<What>, chance: &mut StdRng) -> Vec<What> {
    use Host::{A, B, C};
    if chance.random_bool(0.5) {
        return steps;
    }
    steps.extend([What::Backup { of: A }, What::VmStop { on: A }]);
    if chance.random_bool(0.7) {
        steps.push(What::Cut { one: B, other: C });
    }
    steps.push(What::Failover { on: B, start: true, says: says(chance) });
    if chance.random_bool(0.7) {
        steps.extend([What::Cut { one: A, other: B }, What::Restore { of: A, part: Part::All }]);
    }
    steps
}

/// The next step of a schedule.
pub fn next(world: &World, theme: Option<Theme>, chance: &mut StdRng) -> Step {
    let mut choices = Choices(Vec::new());
    for machine in &world.machines {
        of_host(world, machine, &mut choices, chance);
    }
    of_network(world, &mut choices, chance);
    // The longest is beyond what is kept.
    let seconds = *[5, 30, 120, 600, 30 * world.interval_s].choose(chance).unwrap_or(&5);
    choices.add(if seconds >= 600 { 2 } else { 8 }, What::Passes { seconds });
    if let Some(step) = theme.and_then(|theme| of_theme(world, theme, &choices, chance)) {
        return step;
    }
    let what = choices.draw(chance);
    let crash = chance.random_bool(0.15).then(|| {
        let n = *[1, 1, 2, 2, 3, 4, 6, 9, 14].choose(chance).unwrap_or(&1);
        let when = if chance.random_bool(0.5) { When::Before } else { When::After };
        Crash { host: world.hosts()[chance.random_range(0..world.machines.len())], n, when }
    });
    let then_ms = match crash {
        // Long enough for some cycles, so that there are steps to die at.
        Some(_) => chance.random_range(5_000..20_000),
        None => *[0, 1, 20, 300, 2_000, 10_000, 40_000].choose(chance).unwrap_or(&0),
    };
    Step { what, crash, beside: chance.random_bool(0.2), then_ms }
}

/// The step that the schedule comes back to, where it can be taken now: with a daemon that has something to do, and time in
/// which to die.
fn of_theme(world: &World, theme: Theme, choices: &Choices, chance: &mut StdRng) -> Option<Step> {
    let those: Vec<What> =
        choices.0.iter().map(|choice| choice.what).filter(|what| what.kind() == theme.kind).collect();
    let what = *those.choose(chance).filter(|_| chance.random_bool(0.8))?;
    let is_busy = |machine: &&Machine| {
        let role = machine.engine().map(|engine| engine.role(world.vm));
        let sends = machine.fake.power(world.vm) == Some(PowerState::Running);
        matches!(role, Some((ReplicationMode::Primary, ReplicationState::Replicating)) if sends)
            || matches!(role, Some((ReplicationMode::Replica, ReplicationState::Replicating)))
    };
    let busy: Vec<Host> = world.machines.iter().filter(is_busy).map(|machine| machine.host).collect();
    let ends = |host: &Host| {
        matches!(what, What::DaemonDies { on } | What::DaemonStops { on } | What::HostDies { on } if on == *host)
            || matches!(what, What::Restore { of, .. } | What::LoseRecords { of } | What::Rename { of } if of == *host)
    };
    let left: Vec<Host> = busy.iter().copied().filter(|host| !ends(host)).collect();
    let host = *left.choose(chance).filter(|_| busy.len() > 1)?;
    let (n, when) = theme.crash(chance);
    let then_ms = chance.random_range(20_000..90_000);
    Some(Step { what, crash: Some(Crash { host, n, when }), beside: chance.random_bool(0.2), then_ms })
}

fn says(chance: &mut StdRng) -> Says {
    match chance.random_range(0..10) {
        0 => Says::Force,
        1..=3 => Says::Silent,
        _ => Says::Nothing,
    }
}

fn of_host(world: &World, machine: &Machine, choices: &mut Choices, chance: &mut StdRng) {
    let on = machine.host;
    let power = machine.fake.power(world.vm);
    if power == Some(PowerState::Running) {
        choices.add(6, What::GuestWrites { on });
        choices.add(1, What::GuestDies { on });
    }
    let others: Vec<Host> = world.hosts().into_iter().filter(|other| *other != on).collect();
    let other = *others.choose(chance).unwrap_or(&on);
    choices.add(1, What::ClockJumps { on, seconds: *[-7200, -60, 60, 7200].choose(chance).unwrap_or(&60) });
    let Some(engine) = machine.engine() else {
        choices.add(12, What::DaemonStarts { on });
        return;
    };
    choices.add(2, What::DaemonDies { on });
    choices.add(1, What::DaemonStops { on });
    choices.add(2, What::HostDies { on });
    choices.add(2, What::Backup { of: on });
    if machine.has_backup() {
        let part = *[Part::All, Part::All, Part::Records, Part::Claims, Part::Disks]
            .choose(chance)
            .unwrap_or(&Part::All);
        choices.add(2, What::Restore { of: on, part });
    }
    choices.add(1, What::LoseRecords { of: on });
    choices.add(1, What::AuthRemove { on, of: other });
    choices.add(2, What::AuthAdd { on, of: other });
    choices.add(1, What::Recovery { on, enabled: chance.random_bool(0.7) });
    choices.add(
        1,
        What::StartAfter { on, seconds: *[None, Some(30), Some(120)].choose(chance).unwrap_or(&None) },
    );
    if let Some(fence) = engine.vm_tasks().fence(world.vm) {
        choices.add(
            if fence.rival.is_some() { 6 } else { 1 },
            What::Resolve { on, keep: chance.random_bool(0.5) },
        );
        choices.add(1, What::Forget { on });
    }
    of_configuration(world, machine, other, choices, chance);
    of_power(on, power, choices, chance);
    let (mode, state) = engine.role(world.vm);
    match mode {
        ReplicationMode::Primary => of_primary(on, choices),
        ReplicationMode::Replica => of_replica(on, state, choices, chance),
        _ if power.is_some() => choices.add(10, What::Replicate { from: on, to: other }),
        _ => {}
    }
    // Whatever makes no sense now.
    choices.add(1, any(on, other, chance));
}

fn of_configuration(
    world: &World,
    machine: &Machine,
    other: Host,
    choices: &mut Choices,
    chance: &mut StdRng,
) {
    let on = machine.host;
    choices.add(1, What::Configure { on, setup: setup(on, world.machines.len(), chance) });
    if machine.renamed() < RENAMED_MOST {
        choices.add(1, What::Rename { of: on });
    }
    // A host that got another name is refused until somebody says that it is the same.
    let renamed = world.machine(other).is_some_and(|other| other.renamed() > 0);
    choices.add(if renamed { 5 } else { 1 }, What::Rebind { on, of: other });
    if machine.fake.power(world.vm).is_none() {
        choices.add(1, What::Define { on });
        choices.add(1, What::Adopt { on, says: says(chance) });
    }
}

fn setup(on: Host, hosts: usize, chance: &mut StdRng) -> Setup {
    let both_run =
        *[BothRun::Pause, BothRun::PowerOff, BothRun::Leave].choose(chance).unwrap_or(&BothRun::Pause);
    let over = [OverRunning::RefuseStart, OverRunning::PauseFirst];
    let over_running = *over.choose(chance).unwrap_or(&OverRunning::RefuseStart);
    let fences =
        *[Fences::No, Fences::No, Fences::Works, Fences::Fails].choose(chance).unwrap_or(&Fences::No);
    let witness = (hosts > 2 && on != Host::C && chance.random_bool(0.7)).then_some(Host::C);
    Setup { both_run, over_running, witness, fences }
}

fn of_power(on: Host, power: Option<PowerState>, choices: &mut Choices, chance: &mut StdRng) {
    match power {
        Some(PowerState::Running) => {
            choices.add(2, What::VmStop { on });
            choices.add(1, What::VmKill { on });
            choices.add(2, What::VmPause { on });
        }
        Some(PowerState::Paused) => {
            choices.add(6, What::VmResume { on, says: says(chance) });
            choices.add(1, What::VmKill { on });
        }
        Some(PowerState::Off) => {
            choices.add(10, What::VmStart { on, says: says(chance) });
            choices.add(1, What::VmRemove { on });
        }
        None => {}
    }
}

fn of_primary(on: Host, choices: &mut Choices) {
    choices.add(2, What::Point { on });
    choices.add(1, What::Suspend { on });
    choices.add(2, What::GoOn { on });
    choices.add(1, What::Resync { on });
    choices.add(1, What::Unreplicate { on });
}

fn of_replica(on: Host, state: ReplicationState, choices: &mut Choices, chance: &mut StdRng) {
    match state {
        ReplicationState::Recovered => {
            choices.add(5, What::Commit { on });
            choices.add(4, What::Revert { on });
        }
        ReplicationState::Committed => choices.add(8, What::Unreplicate { on }),
        _ => {
            choices.add(6, What::Failover { on, start: chance.random_bool(0.7), says: says(chance) });
            choices.add(2, What::InitiateFailover { on });
            choices.add(1, What::Suspend { on });
            choices.add(1, What::GoOn { on });
            choices.add(1, What::Unreplicate { on });
        }
    }
}

fn any(on: Host, other: Host, chance: &mut StdRng) -> What {
    match chance.random_range(0..12) {
        0 => What::Replicate { from: on, to: other },
        1 => What::Unreplicate { on },
        2 => What::VmStart { on, says: says(chance) },
        3 => What::VmResume { on, says: says(chance) },
        4 => What::Failover { on, start: true, says: says(chance) },
        5 => What::InitiateFailover { on },
        6 => What::Revert { on },
        7 => What::Commit { on },
        8 => What::Resync { on },
        9 => What::VmRemove { on },
        10 => What::Point { on },
        _ => What::GoOn { on },
    }
}

fn of_network(world: &World, choices: &mut Choices, chance: &mut StdRng) {
    let hosts = world.hosts();
    for (at, one) in hosts.iter().enumerate() {
        for other in &hosts[at + 1..] {
            if !world.is_free(*one, *other) {
                choices.add(5, What::Mend { one: *one, other: *other });
                continue;
            }
            choices.add(2, What::Cut { one: *one, other: *other });
            let (from, to) = if chance.random_bool(0.5) { (*one, *other) } else { (*other, *one) };
            choices.add(1, What::Hold { from, to });
            choices.add(1, What::Lose { from, to });
        }
    }
}
