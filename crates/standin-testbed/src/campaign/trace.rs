//! What happens in a campaign, line by line with its time, on standard output and in a file; and the violations.

use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The record of a campaign. Shared by the runner and the thread that watches the guest.
#[derive(Debug)]
pub struct Trace {
    begun: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    step: usize,
    last_line: Instant,
    violations: Vec<String>,
}

impl Trace {
    /// Writes to `path` as well.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let now = Instant::now();
        let inner = Inner { file: File::create(path)?, step: 0, last_line: now, violations: Vec::new() };
        Ok(Self { begun: now, inner: Mutex::new(inner) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The step that runs from now on, from 1.
    pub fn begin_step(&self, step: usize) {
        self.lock().step = step;
    }

    /// Says something.
    pub fn say(&self, line: impl Display) {
        let mut inner = self.lock();
        let text = format!("{:7.1} s  step {:>2}  {line}", self.begun.elapsed().as_secs_f64(), inner.step);
        println!("{text}");
        // The same line is on the terminal; a full disk below the campaign's own directory shows elsewhere.
        let _ = writeln!(inner.file, "{text}");
        inner.last_line = Instant::now();
    }

    /// An invariant does not hold.
    pub fn violation(&self, sentence: impl Display) {
        let step = self.lock().step;
        self.lock().violations.push(format!("step {step}: {sentence}"));
        self.say(format!("VIOLATION {sentence}"));
    }

    /// All violations so far.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// How long nothing was said.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.lock().last_line.elapsed()
    }

    /// Since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}
