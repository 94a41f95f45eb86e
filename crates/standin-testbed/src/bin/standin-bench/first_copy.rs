//! First copy of 2 GiB over mutual TLS until it is durable on the replica, beside `nbdcopy` into a `qemu-nbd`
//! with mutual TLS, once as these programs come and once with several connections; and how much memory either
//! daemon takes for it.
//!
//! The clock runs from `standin replicate` to the end of its job: the base and the first recovery point are
//! synced then. The peer's runs from the start of `nbdcopy` to the end of its flush. Both read the same image
//! from the page cache and write to the same file system.

use crate::Report;
use crate::peer::{self, Certificates, Connections};
use crate::rig::{self, Hosts};
use anyhow::{Context, Result, ensure};
use standin_testbed::measure::{Measurement, Target, in_turn, median, seconds};
use standin_testbed::{images, process};
use std::path::Path;
use std::time::Instant;

const SIZE: u64 = 2 << 30;
const ROUNDS: usize = 5;
const MIB: f64 = 1_048_576.0;

/// Measures both targets.
///
/// # Errors
/// When something could not be measured.
pub fn run(report: &mut Report) -> Result<()> {
    let image = report.dir().join("source.raw");
    images::make_mixed(&image, SIZE, 1)?;
    let dir = report.dir().to_path_buf();
    let mut memory = (Vec::new(), Vec::new());
    let mut processor = Vec::new();
    let mut several = Vec::new();
    let (ours, theirs) = in_turn(
        ROUNDS,
        |round| {
            let copy = standin(&dir, &image, round)?;
            memory.0.push(copy.memory.0);
            memory.1.push(copy.memory.1);
            processor.push(copy.processor);
            println!(
                "  standin {:.2} s, processor {:.2} s of daemons and QEMU, load {}",
                copy.seconds,
                copy.processor,
                rig::load_average()
            );
            Ok(copy.seconds)
        },
        |round| {
            let one = nbdcopy(&dir, &image, round, Connections::Default)?;
            let more = nbdcopy(&dir, &image, round, Connections::Several)?;
            println!(
                "  nbdcopy {one:.2} s, with several connections {more:.2} s, load {}",
                rig::load_average()
            );
            several.push(more);
            Ok(one)
        },
    )?;
    let several = median(&several).context("at least one round is needed")?;
    std::fs::remove_file(&image).context("remove the source image")?;
    for (name, peer, seconds) in [
        ("first_copy", "nbdcopy to TLS qemu-nbd", theirs),
        ("first_copy_multi_conn", "the same, several connections", several),
    ] {
        let peer = Some((peer, seconds));
        report.add(Measurement::new(name, ours, "s", peer, Target::RatioAtMost(0.35)))?;
    }
    report.note(format!(
        "first copy: 2 GiB, {ROUNDS} rounds; processor time of both daemons and QEMU in the median round {:.2} s; load \
         average at its end {}",
        median(&processor).unwrap_or_default(),
        rig::load_average()
    ));
    for (name, values) in [("primary", memory.0), ("replica", memory.1)] {
        let most = values.into_iter().fold(0.0, f64::max);
        let name = format!("memory of the {name} in a first copy");
        report.add(Measurement::new(&name, most, "MiB", None, Target::ValueAtMost(128.0)))?;
    }
    Ok(())
}

struct Copy {
    seconds: f64,
    /// Processor seconds of both daemons and QEMU.
    processor: f64,
    /// Peaks of resident memory, MiB.
    memory: (f64, f64),
}

fn standin(dir: &Path, image: &Path, round: usize) -> Result<Copy> {
    let hosts = Hosts::start(dir, &format!("copy{round}"))?;
    let definition = rig::define_idle(&hosts.vm_dir(), "vm", image)?;
    hosts.start_vm(&definition, "vm")?;
    let qemu = rig::wait_halted(&hosts.primary)?;
    rig::settle_disk()?;
    rig::warm(image)?;
    let (primary, replica) = hosts.pids()?;
    let busy = || -> Result<f64> {
        [primary, replica, qemu].into_iter().map(|pid| Ok(seconds(process::cpu_time(pid)?))).sum()
    };
    let before = busy()?;
    let begun = Instant::now();
    hosts.replicate("vm", &["--interval", "1h"])?;
    let took = seconds(begun.elapsed());
    let points = hosts.replica.json(&["points", "vm"])?;
    ensure!(points.as_array().is_some_and(|points| !points.is_empty()), "no recovery point after the copy");
    let peak = |pid| -> Result<f64> { Ok(process::memory(pid)?.peak as f64 / MIB) };
    Ok(Copy { seconds: took, processor: busy()? - before, memory: (peak(primary)?, peak(replica)?) })
}

fn nbdcopy(dir: &Path, image: &Path, round: usize, connections: Connections) -> Result<f64> {
    // Daemons only for their certificates: the same keys and ciphers on both sides of the comparison.
    let hosts = Hosts::start(dir, "nbdcopy")?;
    let certificates = Certificates::of(&hosts.primary, &hosts.replica, &dir.join("nbdcopy/tls"))?;
    let target = dir.join("nbdcopy/target.raw");
    rig::settle_disk()?;
    rig::warm(image)?;
    let took = peer::nbdcopy(image, &target, &certificates, connections)?;
    if round == 0 {
        peer::ensure_equal(image, &target)?;
    }
    Ok(seconds(took))
}
