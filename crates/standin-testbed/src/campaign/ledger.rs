//! The ledger of recovery points: every point that was ever listed, with what it must stay for as long as
//! retention keeps it. The rule of retention is written here a second time, so that a mistake there shows.

use super::trace::Trace;
use super::witness::Witness;
use super::world::{HISTORY, VM, World};
use crate::oracle;
use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

const HOUR_S: i64 = 3600;
/// How far the time of a cut and that of a line on the console may be apart.
const SLACK: Duration = Duration::from_secs(3);

/// A recovery point as it was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Its identity.
    pub id: String,
    /// Number of its cut.
    pub epoch: u64,
    /// Instant of the cut.
    pub created_at: Timestamp,
    /// The earlier of cut and receipt, in seconds: what retention goes by.
    pub second: i64,
    /// Digest over its deltas.
    pub digest: String,
}

impl Point {
    fn parse(value: &Value) -> Result<Self> {
        let text = |key: &str| value[key].as_str().with_context(|| format!("a point without {key}: {value}"));
        let created_at: Timestamp = text("created_at")?.parse().context("parse the time of a point")?;
        let received_at: Timestamp = text("received_at")?.parse().context("parse the time of a point")?;
        Ok(Self {
            id: text("id")?.to_owned(),
            epoch: value["epoch"].as_u64().with_context(|| format!("a point without epoch: {value}"))?,
            created_at,
            second: created_at.min(received_at).as_second(),
            digest: text("digest")?.to_owned(),
        })
    }

    fn hour(&self) -> i64 {
        self.second.div_euclid(HOUR_S)
    }
}

/// What the oracle found in a point: the same for as long as the point lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    last_sequence: u64,
    last_sum: u64,
}

/// Points seen and judged.
#[derive(Debug, Default)]
pub struct Ledger {
    contents: BTreeMap<String, Content>,
    /// Points whose stored data a fault has damaged.
    pub damaged: BTreeSet<String>,
    /// Judgements made.
    pub judged: u64,
}

/// The recovery points that the replica lists, oldest first.
///
/// # Errors
/// When its daemon does not answer or lists something strange.
pub fn list(world: &World) -> Result<Vec<Point>> {
    let value = world.b.json(&["points", VM])?;
    let list = value.as_array().with_context(|| format!("points printed {value}"))?;
    let mut points = list.iter().map(Point::parse).collect::<Result<Vec<_>>>()?;
    points.sort_by_key(|point| point.epoch);
    Ok(points)
}

/// Whether retention may have dropped `point`, which was listed, when `after` is what is listed now: it is older
/// than every point is kept, and it is of an hour that has left the history, or an older one of its hour is there.
fn may_be_gone(point: &Point, after: &[Point], keep_all_s: i64) -> bool {
    let Some(newest) = after.iter().max_by_key(|point| point.epoch) else { return false };
    let old = point.second <= newest.second - keep_all_s;
    let expired = point.hour() <= newest.hour() - HISTORY;
    let replaced = after.iter().any(|other| other.hour() == point.hour() && other.epoch < point.epoch);
    newest.epoch > point.epoch && old && (expired || replaced)
}

/// What is wrong with the list `after` of points, given that `before` was listed earlier.
#[must_use]
pub fn compare(before: &[Point], after: &[Point], keep_all_s: i64) -> Vec<String> {
    let mut wrong = Vec::new();
    for point in before {
        match after.iter().find(|other| other.id == point.id) {
            Some(other) if other == point => {}
            Some(other) => wrong.push(format!("point {} was {point:?} and is {other:?}", point.id)),
            None if may_be_gone(point, after, keep_all_s) => {}
            None => wrong.push(format!(
                "point {} of epoch {} was listed and is gone, and retention did not allow it",
                point.id, point.epoch
            )),
        }
    }
    for pair in after.windows(2) {
        if pair[0].epoch == pair[1].epoch || pair[0].created_at > pair[1].created_at {
            wrong.push(format!("points {:?} and {:?} are out of order", pair[0], pair[1]));
        }
    }
    wrong
}

impl Ledger {
    /// Opens a point with stock `qemu-img`, checks its files, has the oracle judge both its disks together, and
    /// compares with what the point was before and with what the guest had reported when it was cut.
    ///
    /// # Errors
    /// When the point could not be read and is still listed. What is wrong with it goes to the trace.
    pub fn judge(&mut self, world: &World, witness: &Witness, trace: &Trace, point: &Point) -> Result<()> {
        let mut attempts = 0;
        let content = loop {
            match read(world, point) {
                Ok(content) => break content,
                Err(error) => {
                    // Merging may have renamed a file while the chain was opened, or the point may have expired.
                    if !list(world)?.iter().any(|other| other.id == point.id) {
                        return Ok(());
                    }
                    attempts += 1;
                    if attempts == 4 {
                        trace.violation(format!("point of epoch {}: {error:#}", point.epoch));
                        return Ok(());
                    }
                    std::thread::sleep(Duration::from_millis(300));
                }
            }
        };
        self.judged += 1;
        if let Some(earlier) = self.contents.insert(point.id.clone(), content) {
            if earlier != content {
                trace.violation(format!("epoch {}: was {earlier:?} and is {content:?}", point.epoch));
            }
        }
        check_freshness(witness, trace, point, content);
        Ok(())
    }

    /// The newest record in a point that was judged.
    #[must_use]
    pub fn last_record(&self, point: &Point) -> Option<u64> {
        self.contents.get(&point.id).map(|content| content.last_sequence)
    }
}

fn check_freshness(witness: &Witness, trace: &Trace, point: &Point, content: Content) {
    let cut_at = SystemTime::from(point.created_at);
    let least =
        witness.reported_by(cut_at.checked_sub(Duration::from_millis(200)).unwrap_or(SystemTime::UNIX_EPOCH));
    let most = witness.reported_after(cut_at + SLACK);
    let last = content.last_sequence;
    if last < least {
        trace.violation(format!(
            "epoch {} ends with record {last}, but {least} was written before its cut",
            point.epoch
        ));
    }
    if let Some(most) = most.filter(|most| last > *most) {
        trace.violation(format!(
            "epoch {} holds record {last}, but {SLACK:?} after its cut only {most} were written",
            point.epoch
        ));
    }
}

fn read(world: &World, point: &Point) -> Result<Content> {
    let disks = world.disks();
    let layers = disks.iter().map(|disk| world.layer(disk, point.epoch)).collect::<Result<Vec<_>>>()?;
    for layer in &layers {
        let mut command = Command::new("qemu-img");
        command.args(["check", "-q", "-U", "-f", "qcow2"]).arg(layer);
        let output = command.stdin(Stdio::null()).output().context("run qemu-img")?;
        // 3 is leaked clusters only; a sealed layer has none either.
        ensure!(
            output.status.success(),
            "qemu-img check {} ended with {}: {}{}",
            layer.display(),
            output.status,
            String::from_utf8_lossy(&output.stdout).trim(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let [a, b, ..] = &layers[..] else { bail!("a point of {} disks", layers.len()) };
    let verdict = oracle::judge_files(a, b)?;
    if let Some(violation) = verdict.first_violation {
        bail!("its disks are not one instant of the guest: {violation}");
    }
    Ok(Content { last_sequence: verdict.last_sequence, last_sum: verdict.last_sum })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(epoch: u64, second: i64) -> Point {
        let created_at = Timestamp::from_second(second).unwrap();
        Point { id: format!("p{epoch}"), epoch, created_at, second, digest: String::new() }
    }

    #[test]
    fn a_point_that_retention_would_keep_must_not_be_gone() {
        let hour = HOUR_S;
        let before = [point(1, 10), point(2, 20), point(3, hour + 5), point(4, hour + 9)];
        let next = point(5, 2 * hour);
        let kept = [before[0].clone(), before[2].clone(), next.clone()];
        assert!(compare(&before, &kept, 60).is_empty(), "the first of each hour and the newest");
        assert_eq!(compare(&before, &kept, hour).len(), 1, "the span of every point still holds epoch 4");
        let lost = [before[0].clone(), next.clone()];
        assert_eq!(compare(&before, &lost, 60).len(), 2, "epochs 3 and 4: the hour is left without a point");
        assert_eq!(compare(&before, &before[..3], 60).len(), 1, "the newest must stay");
        assert_eq!(compare(&before, &[], 60).len(), 4);
        let late = |hours: i64| [point(9, hours * hour)];
        assert!(compare(&before[..2], &late(HISTORY + 1), 60).is_empty(), "hours leave the history");
        assert_eq!(compare(&before[2..3], &late(HISTORY), 60).len(), 1, "not too early");
    }

    #[test]
    fn a_point_that_changed_or_stands_out_of_order_is_named() {
        let before = [point(1, 10)];
        let changed = [Point { digest: "other".into(), ..point(1, 10) }];
        assert_eq!(compare(&before, &changed, 60).len(), 1);
        assert_eq!(compare(&[], &[point(1, 10), point(2, 5)], 60).len(), 1);
    }
}
