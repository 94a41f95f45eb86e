//! What an idle cycle costs: processor time of both daemons for cycles of a VM that writes nothing, with a sparse
//! disk of 1 TiB beside one of 1 GiB.
//!
//! Two VMs in turn on daemons of their own, cycles of 1 s, so that what is counted is hundreds of cycles. Time is
//! the kernel's count in nanoseconds (`schedstat`) or in ticks (`stat`), whichever is more: the first forgets
//! threads that ended, the second rounds. QEMU's own share is told apart.

use crate::Report;
use crate::rig::{self, Hosts, counter};
use anyhow::{Context, Result};
use standin_testbed::measure::{Measurement, Target, median, seconds};
use standin_testbed::process;
use std::path::Path;
use std::time::Duration;

const ROUNDS: usize = 3;
/// Cycles of a second in a round.
const CYCLES: u64 = 40;

/// Measures both targets.
///
/// # Errors
/// When something could not be measured.
pub fn run(report: &mut Report) -> Result<()> {
    let small = Case::start(report.dir(), "small", 1 << 30)?;
    let large = Case::start(report.dir(), "large", 1 << 40)?;
    let (mut small_ms, mut large_ms, mut qemu_ms) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (case, values) in [(&small, &mut small_ms), (&large, &mut large_ms)] {
            let cycle = case.measure()?;
            println!(
                "  {} {:.2} ms of daemons, {:.2} ms of QEMU a cycle, load {}",
                case.name,
                cycle.daemons,
                cycle.qemu,
                rig::load_average()
            );
            values.push(cycle.daemons);
            qemu_ms.push(cycle.qemu);
        }
    }
    let middle = |values: &[f64]| median(values).context("nothing was measured");
    let (small_ms, large_ms, qemu_ms) = (middle(&small_ms)?, middle(&large_ms)?, middle(&qemu_ms)?);
    let name = "processor time of an idle cycle, both daemons";
    report.add(Measurement::new(name, small_ms, "ms", None, Target::ValueAtMost(5.0)))?;
    let peer = Some(("1 GiB disk", small_ms));
    report.add(Measurement::new("idle cycle, 1 TiB disk", large_ms, "ms", peer, Target::RatioAtMost(1.5)))?;
    report.note(format!(
        "idle: {ROUNDS} rounds of {CYCLES} cycles of 1 s each; QEMU itself took {qemu_ms:.2} ms a second, its own \
         idling included; load average at the end {}",
        rig::load_average()
    ));
    Ok(())
}

struct Case {
    hosts: Hosts,
    name: &'static str,
    qemu: i32,
}

/// Milliseconds of processor a cycle.
struct Cycle {
    daemons: f64,
    qemu: f64,
}

impl Case {
    fn start(dir: &Path, name: &'static str, size: u64) -> Result<Self> {
        let hosts = Hosts::start(dir, name)?;
        let disk = hosts.vm_dir().join("root.raw");
        std::fs::create_dir_all(hosts.vm_dir()).context("make the VM's directory")?;
        let file = std::fs::File::create(&disk).context("make the disk")?;
        file.set_len(size).context("size the disk")?;
        let definition = rig::define_idle(&hosts.vm_dir(), "vm", &disk)?;
        hosts.start_vm(&definition, "vm")?;
        let qemu = rig::wait_halted(&hosts.primary)?;
        hosts.replicate("vm", &["--interval", "1s"])?;
        // The first cycles still connect, allocate and start threads.
        hosts.wait_cycles("vm", 5, Duration::from_secs(60))?;
        Ok(Self { hosts, name, qemu })
    }

    fn measure(&self) -> Result<Cycle> {
        let (primary, replica) = self.hosts.pids()?;
        let daemons = || Ok::<_, anyhow::Error>([times(primary)?, times(replica)?]);
        let (before, qemu_before) = (daemons()?, process::cpu_time_fine(self.qemu)?);
        let first = counter(&self.hosts.status("vm")?, "cycles_ok")?;
        // Asking costs processor time too, so nobody asks while the cycles are counted.
        std::thread::sleep(Duration::from_secs(CYCLES));
        let (after, qemu_after) = (daemons()?, process::cpu_time_fine(self.qemu)?);
        let cycles = counter(&self.hosts.status("vm")?, "cycles_ok")? - first;
        anyhow::ensure!(cycles >= CYCLES / 2, "only {cycles} cycles in {CYCLES} s");
        let spent: f64 = before
            .iter()
            .zip(&after)
            .map(|(before, after)| (after.0 - before.0).max(after.1 - before.1))
            .sum();
        let qemu = seconds(qemu_after.saturating_sub(qemu_before));
        Ok(Cycle { daemons: spent * 1e3 / cycles as f64, qemu: qemu * 1e3 / cycles as f64 })
    }
}

/// Seconds of processor so far, in both ways of counting.
fn times(pid: i32) -> Result<(f64, f64)> {
    Ok((seconds(process::cpu_time_fine(pid)?), seconds(process::cpu_time(pid)?)))
}
