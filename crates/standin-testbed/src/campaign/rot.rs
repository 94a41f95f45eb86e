//! A bit of a stored layer flips. The check of the store must name exactly the points that show it, and what
//! arrives afterwards, at the latest after a resynchronization, must be good again.

use super::inject::Scene;
use super::ledger;
use super::world::{VM, World, first};
use crate::faults::Step;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Data of one disk as stock QEMU sees it at every point.
type Views = BTreeMap<String, u64>;

/// Flips a bit of a data cluster in one stored layer, and judges the check and the healing.
///
/// # Errors
/// When the harness cannot do it, or new points are not good in the end.
pub fn flip_and_heal(scene: &mut Scene<'_>, step: &Step) -> Result<()> {
    // While nothing arrives nothing is merged, so that only the flipped bit changes what the points show.
    scene.world.a.run(&["suspend", VM])?;
    std::thread::sleep(Duration::from_millis(2500));
    let disks = scene.world.disks();
    let disk = &disks[usize::from(step.choice % 2 == 1)];
    let before = views(scene.world, disk)?;
    let (path, offset) = flip(scene.world, disk, step.choice >> 1)?;
    scene.trace.say(format!("flipped a bit of {path} at {offset}"));
    let after = views(scene.world, disk)?;
    let verdicts = verdicts(scene.world)?;
    // Retention goes on meanwhile: only points that were there throughout can be compared.
    let changed: BTreeSet<String> = before
        .iter()
        .filter(|(id, sum)| after.get(*id).is_some_and(|now| now != *sum) && verdicts.contains_key(*id))
        .map(|(id, _)| id.clone())
        .collect();
    let bad = bad_of(&verdicts);
    for id in changed.difference(&bad) {
        scene.trace.violation(format!("point {id} shows the flipped bit and `store check` calls it good"));
    }
    for id in bad.difference(&changed).filter(|id| !scene.ledger.damaged.contains(*id)) {
        scene.trace.violation(format!("point {id} is as it was and `store check` calls it bad"));
    }
    scene.trace.say(format!(
        "{} of {} points show it, {} are called bad",
        changed.len(),
        before.len(),
        bad.len()
    ));
    scene.ledger.damaged.extend(bad);
    scene.world.a.run(&["resync", VM])?;
    scene.wait_new_point(jiff::Timestamp::now(), Duration::from_secs(60))?;
    let newest = ledger::list(scene.world)?;
    let bad = bad_points(scene.world)?;
    if let Some(point) = newest.last().filter(|point| bad.contains(&point.id)) {
        bail!("after the resynchronization the newest point (epoch {}) is still bad", point.epoch);
    }
    Ok(())
}

/// Points that `store check` calls bad.
///
/// # Errors
/// When the check cannot be run.
pub fn bad_points(world: &World) -> Result<BTreeSet<String>> {
    Ok(bad_of(&verdicts(world)?))
}

fn bad_of(verdicts: &BTreeMap<String, bool>) -> BTreeSet<String> {
    verdicts.iter().filter(|(_, good)| !**good).map(|(id, _)| id.clone()).collect()
}

/// Every point that `store check` knows, and whether it calls it good.
fn verdicts(world: &World) -> Result<BTreeMap<String, bool>> {
    let report = check(world)?;
    let points = report["points"].as_array().context("store check printed no points")?;
    let verdict =
        |point: &Value| Some((point["id"].as_str()?.to_owned(), point["good"] == Value::Bool(true)));
    Ok(points.iter().filter_map(verdict).collect())
}

/// What `store check` says of the replica. It ends with another status than 0 when something is bad.
///
/// # Errors
/// When it printed no report.
pub fn check(world: &World) -> Result<Value> {
    let output = world.b.cli(&["store", "check", VM, "--json"])?;
    let parsed = serde_json::from_str(&output.stdout);
    parsed.map(first).with_context(|| format!("store check printed {:?} {}", output.stdout, output.stderr))
}

/// A sum over what every listed point shows of a disk. Retention and merging go on meanwhile: a point that is not
/// listed any more when it cannot be read is left out, and one that still is gets read again.
fn views(world: &World, disk: &str) -> Result<Views> {
    const TRIES: usize = 5;
    let mut views = Views::new();
    for point in ledger::list(world)? {
        for trial in 1..=TRIES {
            match view(&world.layer(disk, point.epoch)?) {
                Ok(sum) => {
                    views.insert(point.id, sum);
                    break;
                }
                Err(_) if ledger::list(world)?.iter().all(|listed| listed.id != point.id) => break,
                Err(error) if trial == TRIES => return Err(error),
                Err(_) => {}
            }
        }
    }
    Ok(views)
}

/// A sum over what a layer and those below it show.
fn view(layer: &Path) -> Result<u64> {
    let raw = tempfile::NamedTempFile::new().context("make a temporary file")?;
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-U", "-f", "qcow2", "-O", "raw"]).arg(layer).arg(raw.path());
    let output = command.stdin(Stdio::null()).output().context("run qemu-img")?;
    if !output.status.success() {
        bail!("read {}: {}", layer.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    sum(raw.path())
}

fn sum(path: &Path) -> Result<u64> {
    let mut file = File::open(path).context("open a converted image")?;
    let (mut sum, mut buffer) = (0_u64, vec![0; 1 << 20]);
    loop {
        let count = file.read(&mut buffer).context("read a converted image")?;
        if count == 0 {
            return Ok(sum);
        }
        // Whole images are multiples of 512 bytes, so of 8.
        sum = sum.rotate_left(7) ^ crate::record::checksum(&buffer[..count]);
    }
}

/// Flips a bit of the data of one layer; its file and the offset.
fn flip(world: &World, disk: &str, choice: u64) -> Result<(String, u64)> {
    let dir = world.replica_dir()?.join("disks").join(disk);
    let places = places(&dir)?;
    let count = places.len() as u64;
    let index = usize::try_from(choice.checked_rem(count).context("no layer holds data")?).unwrap_or(0);
    let (layer, offset, length) = &places[index];
    let at = offset + (choice >> 20) % length;
    let file = File::options().read(true).write(true).open(layer).context("open a layer")?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).context("read a layer")?;
    byte[0] ^= 1 << (choice >> 60 & 7);
    file.write_all_at(&byte, at).context("write a layer")?;
    Ok((layer.display().to_string(), at))
}

/// Where data is: the layer's file, offset in it, and length.
type Places = Vec<(PathBuf, u64, u64)>;

/// Where the layers of a disk hold data. A layer may be merged away while it is looked at; then all are looked at
/// again.
fn places(dir: &Path) -> Result<Places> {
    loop {
        let layers = layers(dir)?;
        match layers.iter().map(|layer| places_in(layer)).collect::<Result<Vec<Places>>>() {
            Ok(places) => return Ok(places.concat()),
            Err(error) if self::layers(dir)? == layers => return Err(error),
            Err(_) => {}
        }
    }
}

fn layers(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut layers = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry.context("list the layers")?.path();
        if path.extension().is_some_and(|extension| extension == "qcow2") {
            layers.push(path);
        }
    }
    layers.sort();
    Ok(layers)
}

fn places_in(layer: &Path) -> Result<Places> {
    let mut command = Command::new("qemu-img");
    command.args(["map", "-U", "-f", "qcow2", "--output=json"]).arg(layer);
    let output = command.stdin(Stdio::null()).output().context("run qemu-img")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "look at {}: {complaint}", layer.display());
    let map: Value = serde_json::from_slice(&output.stdout).context("parse the map of a layer")?;
    let data = map.as_array().into_iter().flatten().filter_map(|extent| {
        let place = (layer.to_path_buf(), extent["offset"].as_u64()?, extent["length"].as_u64()?);
        (extent["depth"].as_u64() == Some(0) && extent["data"] == Value::Bool(true)).then_some(place)
    });
    Ok(data.collect())
}
