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
//! The kernel's command line is its configuration, see [`Settings`].

#![forbid(unsafe_code)]

#[path = "../judge.rs"]
mod judge;
#[path = "../record.rs"]
mod record;

use record::{BLOCK, Block, Header, Noise, Record, Side};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

// From the kernel's include/uapi/asm-generic/fcntl.h, for x86-64.
const O_DSYNC: i32 = 0o10000;
const O_DIRECT: i32 = 0o40000;
/// `KEY_POWER` of the kernel's input-event-codes.h.
const KEY_POWER: u16 = 116;
/// Slots a disk when the command line says nothing: 32 MiB, read back in about a second under emulation.
const DEFAULT_SLOTS: u64 = 8192;
/// The pool from which random writes take their incompressible bytes.
const POOL: usize = 1 << 20;

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

/// What `standin.*` words of the command line ask for.
#[derive(Debug, Clone, PartialEq)]
struct Settings {
    /// `standin.mode=records|random|both|idle`.
    records: bool,
    random: bool,
    /// `standin.rate=N|max`: records a second, 0 for as fast as the disks go.
    rate: u64,
    /// `standin.slots=N`: record slots on each disk, where the disks are still blank.
    slots: u64,
    /// `standin.mbps=N|max`: random writes in 10^6 bytes a second, 0 without a limit.
    mbps: u64,
    /// `standin.block=N`: bytes of a random write.
    block: usize,
    /// `standin.depth=N`: random writes under way at once.
    depth: u64,
    /// `standin.span=N`: MiB of the disk in which random writes fall, 0 for all of it.
    span_mib: u64,
    /// `standin.disk=/dev/vdX`: where random writes go; the third disk in mode `both`, else the first.
    disk: Option<PathBuf>,
}

impl Settings {
    fn parse(cmdline: &str) -> Result<Self, Failure> {
        let mut settings = Self {
            records: true,
            random: false,
            rate: 50,
            slots: DEFAULT_SLOTS,
            mbps: 0,
            block: BLOCK,
            depth: 1,
            span_mib: 0,
            disk: None,
        };
        for word in cmdline.split_whitespace() {
            let Some((key, value)) = word.strip_prefix("standin.").and_then(|word| word.split_once('='))
            else {
                continue;
            };
            settings.set(key, value)?;
        }
        if settings.block % 512 != 0 || settings.block == 0 || settings.block > POOL {
            return Err(format!("standin.block={}: a multiple of 512 up to 1 MiB is needed", settings.block));
        }
        Ok(settings)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Failure> {
        let number = || -> Result<u64, Failure> {
            let value = if value == "max" { "0" } else { value };
            value.parse().map_err(|_| format!("standin.{key}={value}: a number is needed"))
        };
        match key {
            "mode" => {
                (self.records, self.random) = match value {
                    "records" => (true, false),
                    "random" => (false, true),
                    "both" => (true, true),
                    "idle" => (false, false),
                    _ => return Err(format!("standin.mode={value}: records, random, both or idle")),
                }
            }
            "rate" => self.rate = number()?,
            "slots" => self.slots = number()?.clamp(1, record::MAX_SLOTS),
            "mbps" => self.mbps = number()?,
            "block" => self.block = usize::try_from(number()?).unwrap_or(0),
            "depth" => self.depth = number()?.clamp(1, 64),
            "span" => self.span_mib = number()?,
            "disk" => self.disk = Some(value.into()),
            _ => return Err(format!("standin.{key} is unknown")),
        }
        Ok(())
    }

    fn random_disk(&self) -> PathBuf {
        let usual = if self.records { "/dev/vdc" } else { "/dev/vda" };
        self.disk.clone().unwrap_or_else(|| usual.into())
    }
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

/// Sleeps so that `per_second` events happen a second; a lag of more than a second is forgotten.
struct Pace {
    due: Instant,
    every: Duration,
}

impl Pace {
    fn new(per_second: f64) -> Self {
        let every = if per_second > 0.0 { Duration::from_secs_f64(1.0 / per_second) } else { Duration::ZERO };
        Self { due: Instant::now(), every }
    }

    fn wait(&mut self) {
        if self.every.is_zero() {
            return;
        }
        self.due += self.every;
        let now = Instant::now();
        match self.due.checked_duration_since(now) {
            Some(left) => thread::sleep(left),
            None if now - self.due > Duration::from_secs(1) => self.due = now,
            None => {}
        }
    }
}

/// Appends records to the two disks in turn.
struct RecordWriter {
    disks: [File; 2],
    slots: u64,
    last: u64,
    last_sum: u64,
    run: u128,
}

impl RecordWriter {
    /// Verifies what is on the disks and gets ready to go on after it.
    fn open(settings: &Settings) -> Result<Self, Failure> {
        let paths = [Path::new("/dev/vda"), Path::new("/dev/vdb")];
        let read = |path: &Path| File::open(path).map_err(|e| format!("open {}: {e}", path.display()));
        let (a, b) = (read(paths[0])?, read(paths[1])?);
        let verdict = judge::judge(&a, &b).map_err(|e| format!("read the disks: {e}"))?;
        if let Some(violation) = verdict.first_violation {
            let (torn, lost, links) = (verdict.torn, verdict.lost, verdict.broken_links);
            return Err(format!(
                "the disks are inconsistent: {violation}; torn={torn} lost={lost} links={links}"
            ));
        }
        say(&format!(
            "verified {} records, last={}, runs={}",
            verdict.records, verdict.last_sequence, verdict.runs
        ));
        let open = |path: &Path| {
            let mut options = OpenOptions::new();
            let file = options.write(true).custom_flags(O_DIRECT | O_DSYNC).open(path);
            file.map_err(|e| format!("open {} for writing: {e}", path.display()))
        };
        let mut writer = Self {
            disks: [open(paths[0])?, open(paths[1])?],
            slots: verdict.slots,
            last: verdict.last_sequence,
            last_sum: verdict.last_sum,
            run: boot_id()?,
        };
        if writer.slots == 0 {
            let size = |disk: &File| judge::Disk::size(disk).map_err(|e| format!("size of a disk: {e}"));
            writer.slots = (size(&a)?.min(size(&b)?) / BLOCK as u64 - 1).min(settings.slots);
            writer.format()?;
        }
        Ok(writer)
    }

    fn format(&self) -> Result<(), Failure> {
        let header = Header { slots: self.slots }.encode();
        for disk in &self.disks {
            disk.write_all_at(&header.0, 0).map_err(|e| format!("write a header: {e}"))?;
        }
        Ok(())
    }

    fn run(&mut self, rate: u64, shared: &Shared) -> Result<(), Failure> {
        let mut pace = Pace::new(rate as f64);
        while !shared.stop.load(Ordering::Relaxed) {
            pace.wait();
            let took = self.append()?;
            shared.records.count(BLOCK, took);
            shared.last.store(self.last, Ordering::Relaxed);
        }
        Ok(())
    }

    fn append(&mut self) -> Result<Duration, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let sequence = self.last + 1;
        let record = Record {
            sequence,
            run: self.run,
            written_at: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            previous: self.last_sum,
        };
        let block = record.encode();
        let (side, offset) = record::place(sequence, self.slots);
        let disk = &self.disks[usize::from(side == Side::B)];
        let begun = Instant::now();
        // O_DSYNC: back from here the record is durable, and only then the next one may begin.
        disk.write_all_at(&block.0, offset)
            .map_err(|e| format!("write record {sequence} to disk {side}: {e}"))?;
        self.last = sequence;
        self.last_sum = record::sum_of(&block.0);
        Ok(begun.elapsed())
    }
}

fn boot_id() -> Result<u128, Failure> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|e| format!("read the boot id: {e}"))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).map_err(|e| format!("read the boot id {text:?}: {e}"))
}

fn boot_seed() -> Result<u64, Failure> {
    let id = boot_id()?.to_le_bytes();
    Ok(record::checksum(&id))
}

/// Writes incompressible data to random places, for benchmarks.
struct RandomWriter {
    disk: File,
    blocks: u64,
    block: usize,
    noise: Noise,
    pool: Vec<u8>,
    buffer: Vec<Block>,
    pace: Pace,
}

impl RandomWriter {
    fn open(settings: &Settings, worker: u64) -> Result<Self, Failure> {
        let path = settings.random_disk();
        let mut options = OpenOptions::new();
        let disk = options.read(true).write(true).custom_flags(O_DIRECT).open(&path);
        let disk = disk.map_err(|e| format!("open {}: {e}", path.display()))?;
        let size = judge::Disk::size(&disk).map_err(|e| format!("size of {}: {e}", path.display()))?;
        let span = if settings.span_mib == 0 { size } else { size.min(settings.span_mib << 20) };
        let blocks = span / settings.block as u64;
        if blocks == 0 {
            return Err(format!("{} is smaller than one write of {} bytes", path.display(), settings.block));
        }
        let mut noise = Noise::new(boot_seed()?.wrapping_add(worker));
        let mut pool = vec![0; POOL];
        noise.fill(&mut pool);
        let per_second = settings.mbps as f64 * 1e6 / settings.block as f64 / settings.depth as f64;
        Ok(Self {
            disk,
            blocks,
            block: settings.block,
            noise,
            pool,
            buffer: vec![Block::zeroed(); settings.block.div_ceil(BLOCK)],
            pace: Pace::new(per_second),
        })
    }

    fn run(&mut self, shared: &Shared) -> Result<(), Failure> {
        while !shared.stop.load(Ordering::Relaxed) {
            self.pace.wait();
            shared.random.count(self.block, self.write()?);
        }
        Ok(())
    }

    fn write(&mut self) -> Result<Duration, Failure> {
        let place = self.noise.next_u64() % self.blocks * self.block as u64;
        for block in &mut self.buffer {
            // A different run of the pool and a stamp each time: no two blocks are alike.
            let from = self.noise.below(POOL - BLOCK + 1);
            block.0.copy_from_slice(&self.pool[from..from + BLOCK]);
            block.0[..8].copy_from_slice(&self.noise.next_u64().to_le_bytes());
        }
        // One request to the disk, whatever its size: the blocks are gathered by the kernel.
        let size = |index: usize| BLOCK.min(self.block - index * BLOCK);
        let slices =
            self.buffer.iter().enumerate().map(|(index, block)| IoSlice::new(&block.0[..size(index)]));
        let slices: Vec<IoSlice> = slices.collect();
        let begun = Instant::now();
        self.disk.seek(SeekFrom::Start(place)).map_err(|e| format!("seek to {place}: {e}"))?;
        let written =
            self.disk.write_vectored(&slices).map_err(|e| format!("random write at {place}: {e}"))?;
        if written != self.block {
            return Err(format!("random write at {place}: only {written} bytes were taken"));
        }
        Ok(begun.elapsed())
    }
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
