//! How old the newest durable recovery point is while the guest changes 20 MB/s and the interval is 5 s: what a
//! loss of the primary would cost at any moment. The replica is asked for its points ten times a second.

use crate::Report;
use crate::rig::{self, BOOT, Hosts};
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use standin_testbed::guest::{GuestDisk, GuestPlan};
use standin_testbed::measure::{Measurement, Target, median, percentile};
use std::time::{Duration, Instant};

/// Bytes of a write: 4 KiB ones do not reach the rate on an emulated processor, whatever the disk does.
const BLOCK: u64 = 64 << 10;
const WATCHED: Duration = Duration::from_secs(120);
const EVERY: Duration = Duration::from_millis(100);

/// Measures the target.
///
/// # Errors
/// When something could not be measured, or the guest did not reach its rate.
pub fn run(report: &mut Report) -> Result<()> {
    let hosts = Hosts::start(report.dir(), "age")?;
    let guest = GuestPlan {
        disks: vec![GuestDisk { name: "data".into(), format: "raw", size: 2 << 30 }],
        writer: vec![
            "standin.mode=random".into(),
            "standin.mbps=20".into(),
            format!("standin.block={BLOCK}"),
        ],
        ..GuestPlan::records("vm", 0)
    };
    let guest = guest.create(&hosts.vm_dir())?;
    hosts.start_vm(&guest.definition, "vm")?;
    guest.serial.wait_for_line(0, "standin-guest: io", BOOT)?;
    hosts.replicate("vm", &["--interval", "5s"])?;
    hosts.wait_cycles("vm", 2, Duration::from_secs(60))?;
    let (mark, before) = (guest.serial.mark(), hosts.status("vm")?);
    let ages = watch(&hosts)?;
    let after = hosts.status("vm")?;
    let writes = guest.serial.iops(mark);
    let rate = writes.iter().sum::<u64>() as f64 * BLOCK as f64 / 1e6 / writes.len().max(1) as f64;
    // At a lower rate the target would be met for the wrong reason.
    ensure!(rate >= 19.0, "the guest changed only {rate:.1} MB/s");
    let p99 = percentile(&ages, 99.0).context("nothing was seen")?;
    let name = "age of the newest point at 20 MB/s, p99";
    report.add(Measurement::new(name, p99, "s", None, Target::ValueAtMost(10.0)))?;
    let since =
        |name: &str| -> Result<u64> { Ok(rig::counter(&after, name)? - rig::counter(&before, name)?) };
    report.note(format!(
        "age: median {:.2} s, longest {:.2} s in {} samples over {} s; {:.1} MB/s in random writes of 64 KiB; {} cycles, \
         {} missed; mean time from cut to acknowledgement {} ms; load average at the end {}",
        median(&ages).unwrap_or_default(),
        percentile(&ages, 100.0).unwrap_or_default(),
        ages.len(),
        WATCHED.as_secs(),
        rate,
        since("cycles_ok")?,
        since("cycles_missed")?,
        since("latency_total_ms")? / since("cycles_ok")?.max(1),
        rig::load_average()
    ));
    Ok(())
}

fn watch(hosts: &Hosts) -> Result<Vec<f64>> {
    let mut ages = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < WATCHED {
        let next = Instant::now() + EVERY;
        let points = hosts.replica.json(&["points", "vm"])?;
        let now = Timestamp::now();
        let list = points.as_array().context("the points are no list")?;
        let cuts = list.iter().filter_map(|point| point["created_at"].as_str()?.parse::<Timestamp>().ok());
        let newest = cuts.max().context("the replica has no recovery point")?;
        ages.push(now.duration_since(newest).as_secs_f64());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(ages)
}
