//! Failover to a running VM process: from `standin failover VM --start --force` to its end, QEMU running then. With a
//! sparse disk of 1 TiB beside one of 1 GiB, and with 200 recovery points beside 2.
//!
//! Three guests are replicated and then lost. Each is failed over and reverted several times, in turn; in the
//! first and the last round the guest boots and reads its own records back from the replica's disks.

use crate::Report;
use crate::rig::{self, BOOT, Hosts};
use anyhow::{Context, Result, ensure};
use standin_testbed::guest::{Guest, GuestDisk, GuestPlan};
use standin_testbed::measure::{Measurement, Target, median, seconds};
use standin_testbed::process;
use std::time::{Duration, Instant};

const ROUNDS: usize = 7;
const MANY: usize = 200;
const FEW: usize = 2;

/// A guest to fail over.
struct Case {
    name: &'static str,
    size: u64,
    points: usize,
}

const CASES: [Case; 3] = [
    Case { name: "small", size: 1 << 30, points: FEW },
    Case { name: "large", size: 1 << 40, points: FEW },
    Case { name: "many", size: 1 << 30, points: MANY },
];

/// Measures the targets.
///
/// # Errors
/// When something could not be measured, or a guest does not find its records on the replica.
pub fn run(report: &mut Report) -> Result<()> {
    let hosts = Hosts::start(report.dir(), "failover")?;
    let mut times = [const { Vec::new() }; CASES.len()];
    let mut counts = Vec::new();
    for case in &CASES {
        counts.push(prepare(&hosts, case)?);
    }
    rig::settle_disk()?;
    for round in 0..ROUNDS {
        let proven = round == 0 || round == ROUNDS - 1;
        for (case, times) in CASES.iter().zip(&mut times) {
            let took = seconds(fail_over(&hosts, case.name, proven)?);
            println!("  {} {took:.3} s, load {}", case.name, rig::load_average());
            times.push(took);
        }
    }
    let [small, large, many] = times.map(|times| median(&times).unwrap_or(f64::NAN));
    report.add(Measurement::new("failover to a running VM", small, "s", None, Target::ValueAtMost(1.0)))?;
    let target = Target::RatioAtMost(1.2);
    report.add(Measurement::new("failover, 1 TiB disk", large, "s", Some(("1 GiB disk", small)), target))?;
    report.add(Measurement::new("failover, 200 points", many, "s", Some(("2 points", small)), target))?;
    report.note(format!(
        "failover: {ROUNDS} rounds, with {} recovery points each; the guests read their records back in the first \
         and the last round; load average at the end {}",
        counts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        rig::load_average()
    ));
    Ok(())
}

/// Replicates a guest until it has its points, then loses it. The number of its points.
fn prepare(hosts: &Hosts, case: &Case) -> Result<usize> {
    let guest = create(hosts, case)?;
    hosts.start_vm(&guest.definition, case.name)?;
    guest.serial.wait_written_beyond(50, BOOT)?;
    hosts.replicate(case.name, &["--interval", "1h", "--keep-all-for", "6h"])?;
    let mut points = count_points(hosts, case.name)?;
    while points < case.points {
        for _ in points..case.points {
            hosts.primary.run(&["point", case.name])?;
        }
        points = count_points(hosts, case.name)?;
    }
    hosts.primary.run(&["vm", "stop", case.name, "--force"])?;
    Ok(points)
}

fn create(hosts: &Hosts, case: &Case) -> Result<Guest> {
    let disk = |name: &str, size| GuestDisk { name: name.into(), format: "raw", size };
    let plan = GuestPlan {
        disks: vec![disk("log-a", case.size), disk("log-b", 64 << 20)],
        writer: vec!["standin.rate=50".into(), "standin.slots=1024".into()],
        ..GuestPlan::records(case.name, 0)
    };
    plan.create(&hosts.vm_dir())
}

fn count_points(hosts: &Hosts, vm: &str) -> Result<usize> {
    let points = hosts.replica.json(&["points", vm])?;
    points.as_array().map(Vec::len).context("the points are no list")
}

/// Fails over and reverts. How long the failover took.
fn fail_over(hosts: &Hosts, vm: &str, proven: bool) -> Result<Duration> {
    ensure!(hosts.replica.vm_pids().is_empty(), "a VM runs on the replica already");
    let begun = Instant::now();
    hosts.replica.run(&["failover", vm, "--start", "--force"])?;
    let took = begun.elapsed();
    let pids = hosts.replica.vm_pids();
    ensure!(
        pids.len() == 1 && process::is_alive(pids[0]),
        "{} QEMU processes run after the failover",
        pids.len()
    );
    if proven {
        let serial = hosts.replica.replica_serial(vm).context("the replica VM has no serial log")?;
        let (records, _) = serial.wait_verified(0, BOOT)?;
        ensure!(records > 0, "the guest {vm} found no records on the replica");
    }
    hosts.replica.run(&["failover", vm, "--revert"])?;
    Ok(took)
}
