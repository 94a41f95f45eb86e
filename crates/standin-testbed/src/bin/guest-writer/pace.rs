//! A steady pace.

use std::thread;
use std::time::{Duration, Instant};

/// Sleeps so that `per_second` events happen a second; a lag of more than a second is forgotten.
pub struct Pace {
    due: Instant,
    every: Duration,
}

impl Pace {
    /// 0 is without a pause.
    pub fn new(per_second: f64) -> Self {
        let every = if per_second > 0.0 { Duration::from_secs_f64(1.0 / per_second) } else { Duration::ZERO };
        Self { due: Instant::now(), every }
    }

    /// Waits until the next one is due.
    pub fn wait(&mut self) {
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
