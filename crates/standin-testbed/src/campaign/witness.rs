//! The witness: a thread that reads the guest's console during a campaign. The guest must never see an error or
//! a long stall because of replication, whatever happens to the hosts. It also keeps when which record was
//! reported, by which the freshness of a recovery point is judged.

use super::trace::Trace;
use crate::guest::SerialLog;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// The longest a write of the guest may take. QEMU's own limit of a copy-before-write is 4 s; the rest is for
/// an emulated CPU on a busy machine.
const LONGEST_WRITE: Duration = Duration::from_secs(6);
/// The longest the console may show no progress.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);
/// What a kernel says when a disk fails it.
const COMPLAINTS: [&str; 5] =
    ["I/O error", "standin-guest: FAULT", "blocked for more than", "Kernel panic", "soft lockup"];

/// What the witness knows.
#[derive(Debug, Default)]
struct Known {
    /// When a record was first seen on the console.
    samples: Vec<(SystemTime, u64)>,
    /// Lines looked at, in the console's present log.
    lines: usize,
}

#[derive(Debug)]
struct Shared {
    trace: Arc<Trace>,
    serial: SerialLog,
    known: Mutex<Known>,
    away: AtomicBool,
    ended: AtomicBool,
    slowest_ms: AtomicU64,
}

/// Watches one guest until dropped.
#[derive(Debug)]
pub struct Witness {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Witness {
    /// Starts to watch a guest that writes.
    #[must_use]
    pub fn start(trace: Arc<Trace>, serial: SerialLog) -> Self {
        let shared = Arc::new(Shared {
            trace,
            serial,
            known: Mutex::default(),
            away: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            slowest_ms: AtomicU64::new(0),
        });
        let watching = Arc::clone(&shared);
        Self { shared, thread: Some(thread::spawn(move || watching.run())) }
    }

    /// The guest is about to be killed: its silence is none.
    pub fn look_away(&self) {
        self.shared.look();
        self.shared.away.store(true, Ordering::SeqCst);
    }

    /// The guest writes again, after a start with a new console.
    pub fn look_again(&self) {
        self.shared.lock().lines = 0;
        self.shared.away.store(false, Ordering::SeqCst);
    }

    /// The slowest write that the guest reported, in milliseconds.
    #[must_use]
    pub fn slowest_ms(&self) -> u64 {
        self.shared.slowest_ms.load(Ordering::SeqCst)
    }

    /// The newest record that the console showed by `at`: what a cut at that instant must hold at least.
    #[must_use]
    pub fn reported_by(&self, at: SystemTime) -> u64 {
        let known = self.shared.lock();
        known.samples.iter().rev().find(|(seen, _)| *seen <= at).map_or(0, |(_, last)| *last)
    }

    /// The first record that the console showed after `at`: what a cut at that instant holds at most.
    #[must_use]
    pub fn reported_after(&self, at: SystemTime) -> Option<u64> {
        let known = self.shared.lock();
        known.samples.iter().find(|(seen, _)| *seen > at).map(|(_, last)| *last)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // It only ends early by a panic, which the verdict of the campaign cannot hide: it was printed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut progress = (0, Instant::now());
        while !self.ended.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(100));
            if self.away.load(Ordering::SeqCst) {
                progress.1 = Instant::now();
                continue;
            }
            self.look();
            let last = self.lock().samples.last().map_or(0, |(_, last)| *last);
            if last != progress.0 {
                progress = (last, Instant::now());
            } else if progress.1.elapsed() > LONGEST_SILENCE {
                self.trace.violation(format!("the guest has written nothing for {LONGEST_SILENCE:?}"));
                progress.1 = Instant::now();
            }
        }
    }

    /// Reads what is new on the console.
    fn look(&self) {
        let mut known = self.lock();
        let text = self.serial.text();
        let now = SystemTime::now();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let fresh: Vec<&str> = whole.lines().skip(known.lines).collect();
        known.lines += fresh.len();
        for line in fresh {
            if COMPLAINTS.iter().any(|complaint| line.contains(complaint)) {
                self.trace.violation(format!("the guest complains: {}", line.trim()));
            }
            let number = |key: &str| -> Option<u64> {
                let rest = line.split_once(key)?.1;
                rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
            };
            if let Some(last) = number("standin-guest: wrote last=") {
                known.samples.push((now, last));
            }
            if let Some(slowest) = number(" max_ms=") {
                self.slowest_ms.fetch_max(slowest, Ordering::SeqCst);
                if u128::from(slowest) > LONGEST_WRITE.as_millis() {
                    self.trace.violation(format!("a write of the guest took {slowest} ms"));
                }
            }
        }
    }
}
