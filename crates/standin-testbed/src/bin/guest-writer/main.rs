//! The program of the test guest: verifies the records on its two disks, then goes on writing them.
//!
//! `scripts/build-guest` compiles it statically with `rustc` alone, so it stands on `std` and shares its two
//! modules with the library by path. It speaks on its standard output, the serial console, in lines that begin
//! with `standin-guest: `; the ones that tests wait for are
//!
//! ```text
//! standin-guest: verified 120 records, last=120, runs=2
//! standin-guest: wrote last=170 rate=50 max_ms=3
//! standin-guest: io iops=5120 mbps=21.0 max_ms=2
//! standin-guest: FAULT <what>                      something is broken: nothing is written any more
//! standin-guest: stopped last=180                  after the power button
//! ```
//!
//! The kernel's command line is its configuration, see [`settings`].

#![forbid(unsafe_code)]

#[path = "../../judge.rs"]
mod judge;
mod pace;
mod random;
#[path = "../../record.rs"]
mod record;
mod records;
mod settings;

use random::RandomWriter;
use records::RecordWriter;
use settings::Settings;
use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

// From the kernel's include/uapi/asm-generic/fcntl.h, for x86-64.
const O_DSYNC: i32 = 0o10000;
const O_DIRECT: i32 = 0o40000;
/// `KEY_POWER` of the kernel's input-event-codes.h.
const KEY_POWER: u16 = 116;
type Failure = String;

fn say(line: &str) {
    let mut out = io::stdout().lock();
    // The console is the only place to complain to; when it fails there is nobody left to tell.
    let _ = writeln!(out, "standin-guest: {line}").and_then(|()| out.flush());
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("FAULT {failure}"));
            ExitCode::FAILURE
        }
    }
}

fn boot_id() -> Result<u128, Failure> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|e| format!("read the boot id: {e}"))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).map_err(|e| format!("read the boot id {text:?}: {e}"))
}

/// What the threads tell each other.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    last: AtomicU64,
    records: Meter,
    random: Meter,
}

/// Counts since the last report.
#[derive(Default)]
struct Meter {
    writes: AtomicU64,
    bytes: AtomicU64,
    slowest_us: AtomicU64,
}

impl Meter {
    fn count(&self, bytes: usize, took: Duration) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.slowest_us.fetch_max(us, Ordering::Relaxed);
    }

    /// Writes, bytes and slowest write in milliseconds since the last call.
    fn take(&self) -> (u64, u64, u64) {
        let slowest = self.slowest_us.swap(0, Ordering::Relaxed).div_ceil(1000);
        (self.writes.swap(0, Ordering::Relaxed), self.bytes.swap(0, Ordering::Relaxed), slowest)
    }
}

fn run() -> Result<(), Failure> {
    let cmdline = std::fs::read_to_string("/proc/cmdline").map_err(|e| format!("read /proc/cmdline: {e}"))?;
    let settings = Settings::parse(&cmdline)?;
    let shared = Arc::new(Shared::default());
    watch_power_button(&shared);

    let mut workers = Vec::new();
    if settings.records {
        let mut writer = RecordWriter::open(&settings)?;
        shared.last.store(writer.last, Ordering::Relaxed);
        let (shared, rate) = (Arc::clone(&shared), settings.rate);
        workers.push(thread::spawn(move || writer.run(rate, &shared)));
    }
    if settings.random {
        for worker in 0..settings.depth {
            let mut writer = RandomWriter::open(&settings, worker)?;
            let shared = Arc::clone(&shared);
            workers.push(thread::spawn(move || writer.run(&shared)));
        }
    }
    report_until_stopped(&settings, &shared, &workers);
    let mut outcome = Ok(());
    for worker in workers {
        let ended = worker.join().unwrap_or_else(|_| Err("a writing thread panicked".into()));
        outcome = outcome.and(ended);
    }
    outcome?;
    say(&format!("stopped last={}", shared.last.load(Ordering::Relaxed)));
    Ok(())
}

fn report_until_stopped(
    settings: &Settings,
    shared: &Shared,
    workers: &[thread::JoinHandle<Result<(), Failure>>],
) {
    let mut since = Instant::now();
    while !shared.stop.load(Ordering::Relaxed) && !workers.iter().any(thread::JoinHandle::is_finished) {
        thread::sleep(Duration::from_millis(50));
        let elapsed = since.elapsed().as_secs_f64();
        if elapsed < 1.0 {
            continue;
        }
        since = Instant::now();
        if settings.records {
            let (writes, _, slowest) = shared.records.take();
            let rate = writes as f64 / elapsed;
            let last = shared.last.load(Ordering::Relaxed);
            say(&format!("wrote last={last} rate={rate:.0} max_ms={slowest}"));
        }
        if settings.random {
            let (writes, bytes, slowest) = shared.random.take();
            let (iops, mbps) = (writes as f64 / elapsed, bytes as f64 / elapsed / 1e6);
            say(&format!("io iops={iops:.0} mbps={mbps:.1} max_ms={slowest}"));
        }
    }
    shared.stop.store(true, Ordering::Relaxed);
}

/// Stops everything when the ACPI power button is pressed.
fn watch_power_button(shared: &Arc<Shared>) {
    let Ok(devices) = std::fs::read_dir("/dev/input") else {
        say("no input devices: the power button will not be heard");
        return;
    };
    for device in devices.flatten().filter(|d| d.file_name().to_string_lossy().starts_with("event")) {
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            if let Ok(mut input) = File::open(device.path()) {
                // struct input_event on x86-64: two 64-bit times, type, code, value.
                let mut event = [0u8; 24];
                while input.read_exact(&mut event).is_ok() {
                    let code = u16::from_le_bytes([event[18], event[19]]);
                    if event[16] == 1 && code == KEY_POWER && event[20] == 1 {
                        say("power button");
                        shared.stop.store(true, Ordering::Relaxed);
                    }
                }
            }
        });
    }
}
