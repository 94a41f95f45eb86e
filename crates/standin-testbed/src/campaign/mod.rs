//! Campaigns: a seeded plan of faults carried out on two real daemons and a real guest, with the invariants of
//! the design judged after every step.
//!
//! ```text
//!   world      hosts, guest, link, small file systems        witness    the guest saw no error and no stall
//!   inject     one fault, begun and ended                     ledger     acknowledged points stay, and are right
//!   rot        a flipped bit in a stored layer                leftovers  nothing accumulates
//!   trace      every step with its time, violations           finale     two failovers at the end
//! ```
//!
//! A step: some quiet time, the list of points, the fault, its end; then replication goes on by itself within a
//! deadline, what was listed is still listed and holds what it held, and nothing is left behind. Called by
//! `standin-soak`. Needs root.

mod finale;
mod inject;
mod ledger;
mod leftovers;
mod proxy;
mod rot;
mod trace;
mod witness;
mod world;

pub use proxy::{PROXY_WORD, serve as serve_proxy};

use crate::faults::{Campaign, Fault, Step};
use crate::process;
use anyhow::{Context, Result, ensure};
use inject::Scene;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use trace::Trace;
use witness::Witness;
use world::World;

/// Nothing takes as long as that; a step that does is ended by ending the daemons.
const STUCK: Duration = Duration::from_secs(240);

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Equal seeds give equal plans.
    pub seed: u64,
    /// How many faults.
    pub steps: usize,
    /// No step begins later than that after the start.
    pub limit: Duration,
    /// Out of which faults; each comes once before any comes twice.
    pub faults: Vec<Fault>,
    /// Where everything is kept; a new directory below the system's temporary one when absent.
    pub dir: Option<PathBuf>,
    /// Keep the directory also when all went well.
    pub keep: bool,
}

/// How a campaign ended.
#[derive(Debug)]
pub struct Outcome {
    /// Nothing was violated, and the harness could do everything.
    pub ok: bool,
    /// One JSON object.
    pub verdict: String,
}

/// Runs a campaign. What happens is printed as it happens.
///
/// # Errors
/// When not even its directory can be made.
pub fn run(options: &Options) -> Result<Outcome> {
    let default = || std::env::temp_dir().join(format!("soak-{}-{}", options.seed, std::process::id()));
    let dir = options.dir.clone().unwrap_or_else(default);
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let trace = Arc::new(Trace::create(&dir.join("trace.txt")).context("make the trace")?);
    let plan = Campaign::of(options.seed, options.steps, &options.faults);
    trace.say(format!("seed {}, {} steps, in {}", options.seed, plan.steps.len(), dir.display()));
    let mut counts = Counts::default();
    let guard = watch_for_standstill(Arc::clone(&trace), dir.clone());
    let ended = carry_out(options, &plan, &dir, &trace, &mut counts);
    guard.store(true, Ordering::SeqCst);
    if let Err(error) = &ended {
        trace.violation(format!("{error:#}"));
    }
    let violations = trace.violations();
    let ok = violations.is_empty();
    let verdict = json!({
        "soak": if ok { "ok" } else { "failed" },
        "seed": options.seed,
        "steps": counts.steps,
        "faults": counts.faults,
        "points_judged": counts.judged,
        "slowest_recovery_s": (counts.slowest_recovery_s * 10.0).round() / 10.0,
        "slowest_write_ms": counts.slowest_write_ms,
        "violations": violations,
        "minutes": (trace.elapsed().as_secs_f64() / 6.0).round() / 10.0,
        "logs": if ok && !options.keep { None } else { Some(dir.display().to_string()) },
    });
    if ok && !options.keep {
        std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    } else {
        for path in leftovers::logs(&dir) {
            println!("kept: {}", path.display());
        }
    }
    Ok(Outcome { ok, verdict: verdict.to_string() })
}

#[derive(Debug, Default)]
struct Counts {
    steps: usize,
    faults: BTreeMap<String, u64>,
    judged: u64,
    slowest_recovery_s: f64,
    slowest_write_ms: u64,
}

fn carry_out(
    options: &Options,
    plan: &Campaign,
    dir: &Path,
    trace: &Arc<Trace>,
    counts: &mut Counts,
) -> Result<()> {
    let program = std::env::current_exe().context("find this program")?;
    // Short, so that most of what is merged is merged under faults; or long, so that chains grow.
    let keep_all_s = [40, 90, 180][usize::try_from(options.seed % 3).unwrap_or(0)];
    let mut world = World::build(dir, &program, keep_all_s)?;
    trace.say("the guest writes");
    let witness = Witness::start(Arc::clone(trace), world.guest.serial.clone());
    world.replicate()?;
    trace.say(format!("the first point is there; every point is kept for {keep_all_s} s"));
    let mut ledger = ledger::Ledger::default();
    let mut scene = Scene { world: &mut world, witness: &witness, trace, ledger: &mut ledger };
    let ended = all_steps(&mut scene, options, plan, counts);
    let ended = ended.and_then(|()| {
        trace.begin_step(plan.steps.len() + 1);
        finale::fail_over(&mut scene, options.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 17)
    });
    counts.judged = ledger.judged;
    counts.slowest_write_ms = witness.slowest_ms();
    if ended.is_err() || !trace.violations().is_empty() {
        keep_evidence(&world, dir);
    }
    ended
}

fn all_steps(scene: &mut Scene<'_>, options: &Options, plan: &Campaign, counts: &mut Counts) -> Result<()> {
    for (index, step) in plan.steps.iter().enumerate() {
        if scene.trace.elapsed() > options.limit {
            scene.trace.say("the time is up");
            break;
        }
        scene.trace.begin_step(index + 1);
        let recovered = one_step(scene, step).with_context(|| format!("{:?}", step.fault))?;
        counts.steps += 1;
        *counts.faults.entry(format!("{:?}", step.fault)).or_default() += 1;
        counts.slowest_recovery_s = counts.slowest_recovery_s.max(recovered.as_secs_f64());
        ensure!(scene.trace.violations().len() < 10, "too many violations to go on");
    }
    Ok(())
}

/// How long replication may take until a point that was cut after the fault's end is listed. The waits after
/// failures grow to a minute; a resynchronization and a booting guest are slow under emulation.
fn deadline(fault: Fault) -> Duration {
    Duration::from_secs(match fault {
        Fault::KillQemu => 120,
        _ => 90,
    })
}

/// The time from the end of the fault to the first new point.
fn one_step(scene: &mut Scene<'_>, step: &Step) -> Result<Duration> {
    scene.trace.say(format!("{step}"));
    std::thread::sleep(step.after);
    let before = ledger::list(scene.world)?;
    scene.inject(step)?;
    let (ended, ended_at) = (Instant::now(), jiff::Timestamp::now());
    let after = scene.wait_new_point(ended_at, deadline(step.fault))?;
    let recovered = ended.elapsed();
    for sentence in ledger::compare(&before, &after, scene.world.keep_all_s) {
        scene.trace.violation(sentence);
    }
    judge_some(scene, &before, &after, step.choice)?;
    check_store(scene)?;
    if let Err(error) = leftovers::wait_none(scene.world) {
        scene.trace.violation(format!("{error:#}"));
    }
    let state = scene.world.status()?["state"].clone();
    scene.trace.say(format!(
        "a new point {:.1} s after it ended; {} points, state {state}",
        recovered.as_secs_f64(),
        after.len()
    ));
    Ok(recovered)
}

/// The newest point of before the fault, the newest of after it, the oldest, and one more.
fn judge_some(
    scene: &mut Scene<'_>,
    before: &[ledger::Point],
    after: &[ledger::Point],
    choice: u64,
) -> Result<()> {
    let last_before = before.last().and_then(|point| after.iter().find(|other| other.id == point.id));
    let chosen = [last_before, after.last(), after.first(), finale::pick(after, choice)];
    let mut seen = std::collections::BTreeSet::new();
    for point in chosen.into_iter().flatten() {
        if seen.insert(&point.id) && !scene.ledger.damaged.contains(&point.id) {
            scene.ledger.judge(scene.world, scene.witness, scene.trace, point)?;
        }
    }
    Ok(())
}

fn check_store(scene: &mut Scene<'_>) -> Result<()> {
    let report = rot::check(scene.world)?;
    let bad = rot::bad_points(scene.world)?;
    let fresh: Vec<&String> = bad.iter().filter(|id| !scene.ledger.damaged.contains(*id)).collect();
    if !fresh.is_empty() {
        scene.trace.violation(format!("`store check` calls points bad: {fresh:?} in {report}"));
    }
    let problems = report["problems"].as_array().map_or(0, Vec::len);
    if problems > 0 {
        scene.trace.violation(format!("`store check` has problems: {}", report["problems"]));
    }
    Ok(())
}

/// The replica's files, as they are now, beside the logs: they are on a file system that goes away.
fn keep_evidence(world: &World, dir: &Path) {
    let copy = std::process::Command::new("cp")
        .args(["-a", "--sparse=always"])
        .arg(world.storage.path().join("r"))
        .arg(dir.join("replica-at-the-end"))
        .output();
    if let Err(error) = copy {
        eprintln!("the replica's files are not kept: {error}");
    }
}

/// Ends the daemons when nothing was said for long, so that whatever waits for them ends with an error.
fn watch_for_standstill(trace: Arc<Trace>, dir: PathBuf) -> Arc<AtomicBool> {
    let done = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&done);
    std::thread::spawn(move || {
        while !ended.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(500));
            if trace.silence() > STUCK {
                trace.violation(format!("nothing happened for {STUCK:?}; the daemons are ended"));
                for pid in world::processes(&dir) {
                    if let Err(error) = process::kill(pid) {
                        eprintln!("{error:#}");
                    }
                }
            }
        }
    });
    done
}
