//! What replication costs the guest: random 4 KiB writes a second, as fast as they go, with a 5 s interval beside
//! none, in alternation on the same guest: without, with, without again; several boots.

use crate::Report;
use crate::rig::{self, BOOT, Hosts};
use anyhow::{Context, Result, ensure};
use standin_testbed::guest::{Guest, GuestDisk, GuestPlan};
use standin_testbed::measure::{Measurement, Target};
use std::path::Path;
use std::time::Duration;

const ROUNDS: usize = 3;
/// Length of a phase; the sum over the rounds is the minute of the target.
const PHASE: Duration = Duration::from_secs(25);
/// After a change: the guest's queue and QEMU's caches come to rest.
const SETTLE: Duration = Duration::from_secs(3);

/// Measures the target.
///
/// # Errors
/// When something could not be measured.
pub fn run(report: &mut Report) -> Result<()> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        measure(report.dir(), round, &mut with, &mut without)?;
    }
    let mean = |seconds: &[u64]| seconds.iter().sum::<u64>() as f64 / seconds.len().max(1) as f64;
    let worst = with.iter().min().copied().unwrap_or(0);
    let peer = Some(("without replication", mean(&without)));
    let value = mean(&with);
    report.add(Measurement::new(
        "guest's random 4 KiB writes, 5 s interval",
        value,
        "/s",
        peer,
        Target::RatioAtLeast(0.9),
    ))?;
    report.note(format!(
        "iops: {} s with and {} s without, means of every second; slowest second with replication {worst}/s; \
         load average at the end {}",
        with.len(),
        without.len(),
        rig::load_average()
    ));
    Ok(())
}

fn measure(dir: &Path, round: usize, with: &mut Vec<u64>, without: &mut Vec<u64>) -> Result<()> {
    let hosts = Hosts::start(dir, "iops")?;
    let guest = GuestPlan {
        disks: vec![GuestDisk { name: "data".into(), format: "raw", size: 512 << 20 }],
        writer: vec!["standin.mode=random".into()],
        ..GuestPlan::records("vm", 0)
    };
    let guest = guest.create(&hosts.vm_dir())?;
    fill(&guest.disks[0])?;
    hosts.start_vm(&guest.definition, "vm")?;
    guest.serial.wait_for_line(0, "standin-guest: io", BOOT)?;
    let off = phase(&guest)?;
    hosts.replicate("vm", &["--interval", "5s"])?;
    hosts.wait_cycles("vm", 2, Duration::from_secs(120))?;
    let on = phase(&guest)?;
    hosts.primary.run(&["unreplicate", "vm"])?;
    let again = phase(&guest)?;
    println!(
        "  round {round}: {} {} {} /s, load {}",
        mean(&off),
        mean(&on),
        mean(&again),
        rig::load_average()
    );
    with.extend(on);
    without.extend(off);
    without.extend(again);
    Ok(())
}

fn mean(seconds: &[u64]) -> u64 {
    seconds.iter().sum::<u64>().checked_div(seconds.len() as u64).unwrap_or(0)
}

/// A new file's first writes allocate; that is not what is measured.
fn fill(disk: &Path) -> Result<()> {
    let size = std::fs::metadata(disk).context("inspect the disk")?.len();
    standin_testbed::images::make_mixed(disk, size, 5)?;
    rig::settle_disk()
}

/// Writes a second, for every second of a phase.
fn phase(guest: &Guest) -> Result<Vec<u64>> {
    std::thread::sleep(SETTLE);
    let mark = guest.serial.mark();
    std::thread::sleep(PHASE);
    let seconds = guest.serial.iops(mark);
    ensure!(seconds.len() as u64 >= PHASE.as_secs() / 2, "the guest reported only {} seconds", seconds.len());
    Ok(seconds)
}
