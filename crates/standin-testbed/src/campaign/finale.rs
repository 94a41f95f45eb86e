//! The end of a campaign: the primary is gone for good, and the replica stands in. To the latest point, back, and
//! to an older one; each time the guest itself verifies its records and goes on writing.

use super::inject::Scene;
use super::ledger::{self, Point};
use super::world::VM;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// A kernel that boots under emulation, and a guest that reads its disks.
const BOOT: Duration = Duration::from_secs(150);

/// Fails over twice. `choice` picks the older point.
///
/// # Errors
/// When a failover does not work or the guest finds its records damaged.
pub fn fail_over(scene: &mut Scene<'_>, choice: u64) -> Result<()> {
    let before = ledger::list(scene.world)?;
    scene.witness.look_away();
    scene.world.a.lose_power()?;
    scene.trace.say("the primary host has lost its power");
    let listed = ledger::list(scene.world)?;
    for sentence in ledger::compare(&before, &listed, scene.world.keep_all_s) {
        scene.trace.violation(sentence);
    }
    let good: Vec<Point> =
        listed.into_iter().filter(|point| !scene.ledger.damaged.contains(&point.id)).collect();
    let (newest, older) = good.split_last().context("no good point to fail over to")?;
    stand_in(scene, "latest", newest)?;
    scene.world.b.run(&["failover", VM, "--revert"])?;
    let Some(older) = pick(older, choice) else {
        scene.trace.say("no older point to fail over to");
        return Ok(());
    };
    let older = older.clone();
    stand_in(scene, &older.id, &older)?;
    scene.world.b.run(&["failover", VM, "--commit"])?;
    scene.trace.say("committed");
    Ok(())
}

/// One of a list.
#[must_use]
pub fn pick<T>(list: &[T], choice: u64) -> Option<&T> {
    let index = choice.checked_rem(list.len() as u64)?;
    list.get(usize::try_from(index).ok()?)
}

fn stand_in(scene: &mut Scene<'_>, name: &str, point: &Point) -> Result<()> {
    scene.ledger.judge(scene.world, scene.witness, scene.trace, point)?;
    let wanted = scene.ledger.last_record(point);
    if let Ok(console) = scene.world.replica_console() {
        // Emptied, so that nothing of an earlier failover is taken for this one's.
        std::fs::write(console.path(), []).context("empty the console's log")?;
    }
    scene.world.b.run(&["failover", VM, "--point", name, "--start", "--yes"])?;
    let console = scene.world.replica_console()?;
    let (records, last) = console.wait_verified(0, BOOT)?;
    ensure!(
        wanted == Some(last),
        "the guest found record {last} in epoch {}, the oracle {wanted:?}",
        point.epoch
    );
    console.wait_written_beyond(last + 20, BOOT)?;
    scene.trace.say(format!(
        "failed over to epoch {}: the guest verified {records} records and writes",
        point.epoch
    ));
    Ok(())
}
