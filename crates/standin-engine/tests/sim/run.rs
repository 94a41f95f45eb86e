//! Runs schedules: one by its steps or by its seed, many on all processors, and a failing one with ever fewer steps.

use super::plan::{self, Theme};
use super::step::{Schedule, What, step};
use super::world::{COLUMNS, Covered, World};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use standin_model::fence::Rules;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Steps of a schedule that a seed makes.
const STEPS: usize = 30;

/// What a schedule came to.
#[derive(Debug)]
pub struct Outcome {
    pub schedule: Schedule,
    pub violations: Vec<String>,
    pub log: Vec<String>,
    pub covered: Covered,
}

/// Simulated time, on this thread; what blocks is done one after the other, so that a seed gives the same again.
fn simulate<T>(run: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).max_blocking_threads(1).build().expect("a runtime");
    let outcome = runtime.block_on(run);
    runtime.shutdown_timeout(Duration::from_secs(5));
    outcome
}

/// How a schedule of a seed begins: hosts, interval, and how far it has come. From the beginning few would come far.
fn beginning(theme: Option<Theme>, chance: &mut StdRng) -> Schedule {
    let hosts = chance.random_range(2..=3);
    let interval_s = if theme.is_some() || chance.random_bool(0.2) { 5 } else { 60 };
    let steps = plan::opening(hosts, chance).into_iter().map(|what| step(what, 10_000)).collect();
    Schedule { hosts, interval_s, steps }
}

/// Makes and runs the schedule of a seed, until its end or the first violation.
pub fn run_seed(seed: u64, rules: Rules) -> Outcome {
    run_with_theme(seed, Theme::of(seed), rules)
}

fn run_with_theme(seed: u64, theme: Option<Theme>, rules: Rules) -> Outcome {
    simulate(async {
        let mut chance = StdRng::seed_from_u64(seed);
        let mut schedule = beginning(theme, &mut chance);
        let mut world = World::new(&schedule, rules).await;
        for number in 0..STEPS {
            if number >= schedule.steps.len() {
                schedule.steps.push(plan::next(&world, theme, &mut chance));
            }
            world.carry_out(number, &schedule.steps[number]).await;
            if !world.watch.violations().is_empty() {
                break;
            }
        }
        conclude(world, schedule).await
    })
}

/// Runs a schedule as it is written.
pub fn run(schedule: &Schedule, rules: Rules) -> Outcome {
    simulate(async {
        let mut world = World::new(schedule, rules).await;
        for (number, step) in schedule.steps.iter().enumerate() {
            world.carry_out(number, step).await;
            if !world.watch.violations().is_empty() {
                break;
            }
        }
        conclude(world, schedule.clone()).await
    })
}

async fn conclude(mut world: World, schedule: Schedule) -> Outcome {
    if world.watch.violations().is_empty() {
        world.settle().await;
    }
    let (violations, log) = (world.watch.violations(), world.watch.log());
    Outcome { schedule, violations, log, covered: world.covered }
}

/// The kind of a violation: its first words.
pub fn kind(violation: &str) -> &str {
    violation.split(':').next().unwrap_or_default()
}

/// Leaves out steps, crashes and waits while the same kind of violation is still found.
pub fn shrink(outcome: &Outcome, rules: Rules) -> Outcome {
    let Some(wanted) = outcome.violations.first().map(|violation| kind(violation).to_owned()) else {
        return run(&outcome.schedule, rules);
    };
    let mut best = outcome.schedule.clone();
    let fails = |schedule: &Schedule| {
        let outcome = run(schedule, rules);
        outcome.violations.iter().any(|violation| kind(violation) == wanted)
    };
    let mut shorter = true;
    while shorter {
        shorter = false;
        for at in (0..best.steps.len()).rev() {
            let mut without = best.clone();
            without.steps.remove(at);
            let mut simpler = vec![without];
            let step = best.steps[at];
            for less in [
                super::step::Step { crash: None, ..step },
                super::step::Step { beside: false, ..step },
                super::step::Step { then_ms: 0, ..step },
            ] {
                if less != step {
                    let mut changed = best.clone();
                    changed.steps[at] = less;
                    simpler.push(changed);
                }
            }
            if let Some(found) = simpler.into_iter().find(|schedule| fails(schedule)) {
                (best, shorter) = (found, true);
            }
        }
    }
    run(&best, rules)
}

/// What many schedules came to.
#[derive(Default)]
pub struct Campaign {
    pub run: u64,
    pub failed: Vec<(u64, Outcome)>,
    pub covered: BTreeMap<(String, &'static str), u64>,
}

impl Campaign {
    /// How often each kind of step was taken, and how often a daemon died in it, by where.
    pub fn table(&self) -> String {
        let mut text = format!("{:18}", "");
        text.extend(COLUMNS.iter().map(|column| format!("{column:>10}")));
        for kind in What::KINDS {
            text += &format!("\n{kind:18}");
            text.extend(COLUMNS.iter().map(|column| format!("{:>10}", self.count(kind, column))));
        }
        text
    }

    /// Runs further schedules, which come back to what was never covered, until all is; at most so many for each.
    pub fn fill(&mut self, from: u64, most: u64, rules: Rules) {
        for (kind, column) in self.gaps().into_iter().filter(|(_, column)| *column != COLUMNS[0]) {
            for seed in from..from + most {
                if self.count(kind, column) > 0 {
                    break;
                }
                self.take(seed, run_with_theme(seed, Some(Theme { kind, column }), rules));
            }
        }
    }

    fn take(&mut self, seed: u64, outcome: Outcome) {
        self.run += 1;
        for cell in &outcome.covered {
            *self.covered.entry(cell.clone()).or_default() += 1;
        }
        if self.run % 500 == 0 {
            eprintln!("{} schedules, {} failed", self.run, self.failed.len());
        }
        if !outcome.violations.is_empty() {
            // At once: a long campaign may be ended before it reports.
            eprintln!("seed {seed}: {}", outcome.violations.join("; "));
            self.failed.push((seed, outcome));
        }
    }

    /// What was never covered.
    pub fn gaps(&self) -> Vec<(&'static str, &'static str)> {
        let all = What::KINDS.iter().flat_map(|kind| COLUMNS.iter().map(|column| (*kind, *column)));
        all.filter(|(kind, column)| self.count(kind, column) == 0).collect()
    }

    fn count(&self, kind: &str, column: &'static str) -> u64 {
        self.covered.get(&(kind.to_owned(), column)).copied().unwrap_or_default()
    }
}

/// Runs the schedules of all these seeds, one thread a processor; stops when `enough` have failed.
pub fn campaign(seeds: Range<u64>, enough: usize, rules: Rules) -> Campaign {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let all = Mutex::new(Campaign::default());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run_seed(seed, rules);
                    let mut all = all.lock().expect("no panic");
                    all.take(seed, outcome);
                    if all.failed.len() >= enough {
                        stop.store(true, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    all.into_inner().expect("no panic")
}
