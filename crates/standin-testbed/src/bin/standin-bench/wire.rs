//! Bytes on the wire for random 4 KiB writes of incompressible data, at the granularity that standin uses unless
//! told otherwise, beside the same writes tracked in 64 KiB, which is what libvirt and virtnbdbackup do.
//!
//! What changed is what the guest's disk shows: the primary's statistics count each changed block once. What was
//! sent comes from the same statistics (all bytes that the daemon gave to the kernel: frames, digests, TLS), and
//! is checked against the kernel's own count of the connection.

use crate::Report;
use crate::rig::{self, BOOT, Hosts, counter};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use standin_testbed::guest::{GuestDisk, GuestPlan};
use standin_testbed::measure::{Measurement, Target};
use standin_testbed::record::Noise;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const CYCLES: u64 = 8;
const SIZE: u64 = 1 << 30;
/// TCP and IP headers of a full Ethernet frame, as a share of what it carries: 52 bytes for 1448.
const HEADERS: f64 = 52.0 / 1448.0;

/// Measures the target.
///
/// # Errors
/// When something could not be measured.
pub fn run(report: &mut Report) -> Result<()> {
    let dir = report.dir().to_path_buf();
    let fine = measure(&dir, &[])?;
    let coarse = measure(&dir, &["--granularity", "64KiB"])?;
    // What a coarse tracking calls changed is more than the guest changed: related to its writes.
    let peer = Some(("64 KiB tracking, as libvirt and virtnbdbackup", coarse.wire / coarse.written));
    let value = fine.wire / fine.changed;
    let target = Target::ValueAtMost(1.1);
    report.add(Measurement::new(
        "bytes sent per byte changed, 4 KiB random writes",
        value,
        "",
        peer,
        target,
    ))?;
    report.note(format!(
        "wire: {:.1} MB sent for {:.1} MB changed ({:.1} MB written by the guest, some of it twice to one place) \
         in {CYCLES} cycles of 5 s; the kernel counted {:.1} MB on the connection, {:.4} of that; with the headers \
         of Ethernet-sized TCP segments {:.3} per byte changed",
        fine.wire / 1e6,
        fine.changed / 1e6,
        fine.written / 1e6,
        fine.kernel / 1e6,
        fine.kernel / fine.wire,
        value * (1.0 + HEADERS)
    ));
    let off = (fine.kernel / fine.wire - 1.0).abs();
    ensure!(off < 0.01, "the daemon says {} bytes were sent, the kernel {}", fine.wire, fine.kernel);
    Ok(())
}

/// Bytes between two cycles.
struct Sent {
    /// Given to the kernel, by the daemon's statistics.
    wire: f64,
    /// Sent on the connection, by the kernel.
    kernel: f64,
    /// Changed on the disk, by the daemon's statistics.
    changed: f64,
    /// Written by the guest, by its own count; by the second.
    written: f64,
}

fn measure(dir: &Path, options: &[&str]) -> Result<Sent> {
    let hosts = Hosts::start(dir, "wire")?;
    let guest = GuestPlan {
        disks: vec![GuestDisk { name: "data".into(), format: "raw", size: SIZE }],
        writer: vec!["standin.mode=random".into(), "standin.mbps=2".into()],
        ..GuestPlan::records("vm", 0)
    };
    let guest = guest.create(&hosts.vm_dir())?;
    fill(&guest.disks[0])?;
    hosts.start_vm(&guest.definition, "vm")?;
    guest.serial.wait_for_line(0, "standin-guest: io", BOOT)?;
    hosts.replicate("vm", &[&["--interval", "5s"], options].concat())?;
    hosts.wait_cycles("vm", 1, Duration::from_secs(60))?;
    let (before, kernel_before) = still(&hosts)?;
    let mark = guest.serial.mark();
    hosts.wait_cycles("vm", CYCLES, Duration::from_secs(CYCLES * 10))?;
    let (after, kernel_after) = still(&hosts)?;
    let since = |name: &str| -> Result<f64> { Ok((counter(&after, name)? - counter(&before, name)?) as f64) };
    let written: u64 = guest.serial.iops(mark).iter().sum();
    Ok(Sent {
        wire: since("bytes_sent")?,
        kernel: kernel_after.checked_sub(kernel_before).context("the connection was made anew")? as f64,
        changed: since("bytes_changed")?,
        written: written as f64 * 4096.0,
    })
}

/// What lies around the guest's writes must be as incompressible as they are: a coarse tracking sends it, too.
fn fill(disk: &Path) -> Result<()> {
    let file = File::options().write(true).open(disk).context("open the guest's disk")?;
    let mut noise = Noise::new(7);
    let mut piece = vec![0; 1 << 20];
    for index in 0..SIZE >> 20 {
        noise.fill(&mut piece);
        file.write_all_at(&piece, index << 20).context("fill the guest's disk")?;
    }
    rig::settle_disk()
}

/// The statistics and the kernel's count at a moment between two cycles.
fn still(hosts: &Hosts) -> Result<(Value, u64)> {
    for _ in 0..200 {
        let before = hosts.status("vm")?;
        let kernel = kernel_sent(hosts)?;
        std::thread::sleep(Duration::from_millis(100));
        let after = hosts.status("vm")?;
        if kernel == kernel_sent(hosts)? && counter(&before, "cycles_ok")? == counter(&after, "cycles_ok")? {
            return Ok((after, kernel));
        }
    }
    anyhow::bail!("the primary never pauses between cycles; load average {}", rig::load_average())
}

/// Bytes that the kernel has sent from the primary to the replica, without what it had to send twice.
fn kernel_sent(hosts: &Hosts) -> Result<u64> {
    let to = hosts.replica.listen();
    let output = Command::new("ss").args(["-tinH", "state", "established", "dst", &to.to_string()]).output();
    let output = output.context("run ss")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let counts =
        text.split_whitespace().filter_map(|word| word.strip_prefix("bytes_acked:")?.parse::<u64>().ok());
    let total: u64 = counts.sum();
    ensure!(total > 0, "ss shows no connection to {to}: {text}");
    Ok(total)
}
