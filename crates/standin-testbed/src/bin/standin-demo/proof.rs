//! What is checked, apart from what is told.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use standin_testbed::daemon::Daemon;
use standin_testbed::oracle::{Verdict, judge_files};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A recovery point, as `standin points --json` has it.
#[derive(Debug, Clone)]
pub struct Point {
    /// What `--point` takes.
    pub id: String,
    /// Number of the cut.
    pub epoch: u64,
    /// Instant of the cut.
    pub cut_at: jiff::Timestamp,
}

/// The points of a VM, newest first.
pub fn points(replica: &Daemon, vm: &str) -> Result<Vec<Point>> {
    let listed = replica.json(&["points", vm])?;
    let listed = listed.as_array().context("the points are no list")?;
    let mut points = listed.iter().map(parse).collect::<Result<Vec<_>>>()?;
    points.sort_by_key(|point| std::cmp::Reverse(point.epoch));
    Ok(points)
}

fn parse(point: &Value) -> Result<Point> {
    let known = || {
        Some(Point {
            id: point["id"].as_str()?.to_owned(),
            epoch: point["epoch"].as_u64()?,
            cut_at: point["created_at"].as_str()?.parse().ok()?,
        })
    };
    known().with_context(|| format!("a point that is not understood: {point}"))
}

/// The directory of a replica, as the README describes it.
pub fn replica_dir(replica: &Daemon, vm: &str) -> Result<PathBuf> {
    let all = replica.dir().join("data/replicas");
    let entries = std::fs::read_dir(&all).with_context(|| format!("list {}", all.display()))?;
    let mut found = entries.flatten().filter(|entry| {
        entry.file_name().to_string_lossy().strip_prefix(vm).is_some_and(|rest| rest.starts_with('-'))
    });
    let first = found.next().with_context(|| format!("no replica of {vm} in {}", all.display()))?;
    Ok(first.path())
}

/// The file of a disk at a point: the layer of its epoch, which stock QEMU opens with all below it.
pub fn layer(replica: &Path, disk: &str, epoch: u64) -> PathBuf {
    replica.join("disks").join(disk).join(format!("{epoch:012}.qcow2"))
}

/// Waits until a layer begins to arrive: a cycle is under way from then on until it is sealed.
pub fn wait_for_cycle(replica: &Path, disk: &str, deadline: Duration) -> Result<u64> {
    let dir = replica.join("disks").join(disk);
    let until = Instant::now() + deadline;
    loop {
        for entry in std::fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))?.flatten() {
            let name = entry.file_name();
            if let Some(epoch) = name.to_string_lossy().strip_suffix(".qcow2.part") {
                return epoch.parse().with_context(|| format!("the name of {}", entry.path().display()));
            }
        }
        ensure!(Instant::now() < until, "no cycle began within {deadline:?}");
        std::thread::sleep(Duration::from_micros(300));
    }
}

/// The oracle's verdict on a point, by stock `qemu-img` on the replica's files. It must be consistent.
pub fn judge_point(replica: &Path, disks: [&str; 2], point: &Point) -> Result<Verdict> {
    let [a, b] = disks.map(|disk| layer(replica, disk, point.epoch));
    judged(&a, &b, &format!("point {}", point.epoch))
}

/// The oracle's verdict on two disks, which must be consistent.
pub fn judged(a: &Path, b: &Path, what: &str) -> Result<Verdict> {
    let verdict = judge_files(a, b)?;
    ensure!(
        verdict.consistent,
        "{what} is not one instant of both disks: {}",
        verdict.first_violation.as_deref().unwrap_or("no reason given")
    );
    Ok(verdict)
}

/// Fails unless two images show a guest the same bytes.
pub fn same_content(one: &Path, other: &Path) -> Result<()> {
    let mut command = Command::new("qemu-img");
    let output = command.args(["compare", "-U"]).args([one, other]).stdin(Stdio::null()).output();
    let output = output.context("run qemu-img")?;
    ensure!(
        output.status.success(),
        "{} and {} differ: {}{}",
        one.display(),
        other.display(),
        String::from_utf8_lossy(&output.stdout).trim(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
