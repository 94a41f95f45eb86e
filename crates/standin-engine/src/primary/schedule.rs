//! When the next piece of work of a relationship begins: slots of the interval, and back-off after failures.
//!
//! ```text
//!   slot      slot      slot      slot
//!    |= work   |======== work ====|  <- one slot missed: work was still running when it began
//! ```

use standin_model::{Backoff, VmId};
use std::time::Duration;
use tokio::time::Instant;

/// The longest sleep: the clock of the host may stand still with it.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// The longest wait after an answer that may change at any moment: a failover is reverted, and nothing protects the VM
/// until the primary has asked again.
const SOON: Duration = Duration::from_secs(10);

/// Slots of one relationship.
#[derive(Debug)]
pub struct Schedule {
    vm: VmId,
    interval: Duration,
    retry: Backoff,
    /// The beginning of the slot whose work runs or ran last.
    slot: Instant,
    next: Instant,
    /// The next wait is at most [`SOON`].
    soon: bool,
}

impl Schedule {
    /// The first slot is now.
    #[must_use]
    pub fn new(vm: VmId, interval: Duration) -> Self {
        let now = Instant::now();
        Self { vm, interval, retry: Backoff::default(), slot: now, next: now, soon: false }
    }

    /// When the next slot begins, or the next try after a failure.
    #[must_use]
    pub fn next_at(&self) -> Instant {
        self.next.max(Instant::now() + Duration::from_millis(1)).min(Instant::now() + LONGEST_SLEEP)
    }

    /// The next slot has begun.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.next <= Instant::now()
    }

    /// The next slot is now.
    pub fn at_once(&mut self) {
        self.next = Instant::now();
    }

    /// Work of the slot begins.
    pub fn started(&mut self) {
        self.slot = Instant::now();
    }

    /// Work of the slot ended well. Slots that began meanwhile are missed: their number.
    pub fn succeeded(&mut self) -> u64 {
        let missed = self.missed();
        let slots = u32::try_from(missed).unwrap_or(u32::MAX - 1) + 1;
        self.next = self.slot + self.interval.saturating_mul(slots);
        missed
    }

    /// Work failed for the `failures`th time in a row: the next try waits longer each time, at most a minute,
    /// with a jitter so that all relationships of a host do not knock at once.
    pub fn failed(&mut self, failures: u32) {
        let chance = Backoff::chance((self.vm, failures));
        let wait = self.retry.wait(failures.saturating_sub(1), chance);
        let most = if std::mem::take(&mut self.soon) { SOON.mul_f64(1.0 - chance / 4.0) } else { wait };
        self.next = Instant::now() + wait.min(most);
    }

    /// The failure to be told of next was an answer of the replica, which runs the VM for now: it is asked again soon,
    /// however often it has said so.
    pub fn answered(&mut self) {
        self.soon = true;
    }

    /// Changes the length of the slots from the next one on.
    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
        self.next = self.next.min(self.slot + interval);
    }

    fn missed(&self) -> u64 {
        let passed = self.slot.elapsed().as_nanos();
        u64::try_from(passed / self.interval.as_nanos().max(1)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_that_overruns_its_slot_counts_the_slots_it_missed_and_keeps_the_beat() {
        let mut schedule = Schedule::new(VmId::random(), Duration::from_secs(5));
        let begin = Instant::now();
        schedule.started();
        tokio::time::advance(Duration::from_secs(12)).await;
        assert_eq!(schedule.succeeded(), 2);
        assert_eq!(schedule.next_at(), begin + Duration::from_secs(15));
    }

    #[tokio::test(start_paused = true)]
    async fn work_within_its_slot_misses_nothing() {
        let mut schedule = Schedule::new(VmId::random(), Duration::from_secs(5));
        let begin = Instant::now();
        schedule.started();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(schedule.succeeded(), 0);
        assert_eq!(schedule.next_at(), begin + Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn retries_wait_longer_each_time_and_at_most_a_minute() {
        let mut schedule = Schedule::new(VmId::random(), Duration::from_secs(5));
        let mut last = Duration::ZERO;
        for failures in 1..=20 {
            schedule.failed(failures);
            let wait = schedule.next - Instant::now();
            assert!(wait <= Duration::from_secs(60), "{wait:?}");
            if failures == 1 || failures == 6 {
                assert!(wait > last);
                last = wait;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_answers_is_asked_again_soon_and_one_that_is_silent_is_not() {
        let mut schedule = Schedule::new(VmId::random(), Duration::from_secs(1));
        for failures in 1..=50 {
            schedule.answered();
            schedule.failed(failures);
            assert!(schedule.next - Instant::now() <= SOON);
        }
        schedule.failed(51);
        assert!(
            schedule.next - Instant::now() > SOON,
            "the answer before it says nothing about this silence"
        );
    }
}
