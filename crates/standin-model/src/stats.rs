//! Statistics of a relationship over a monitoring window: `Msvm_ReplicationStatistics`.
//!
//! A window begins at `MonitoringStartTime + k * MonitoringInterval`. At its end the set is kept as the last one
//! and counting begins anew. Times come from the caller; what happened once is counted once, in the window in
//! which it ended.

use crate::codes::Refusal;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Shortest window, in seconds.
pub const MIN_WINDOW_S: u32 = 3600;
/// Longest window, in seconds: a week.
pub const MAX_WINDOW_S: u32 = 604_800;
/// The window unless set otherwise, in seconds: twelve hours.
pub const DEFAULT_WINDOW_S: u32 = 43_200;

/// Where the windows lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// `MonitoringStartTime`: any one beginning, past or future.
    pub start: Timestamp,
    /// `MonitoringInterval`, in seconds.
    pub length_s: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self { start: Timestamp::UNIX_EPOCH, length_s: DEFAULT_WINDOW_S }
    }
}

impl Window {
    /// Checks the range.
    ///
    /// # Errors
    /// [`crate::ReturnCode::InvalidParameter`].
    pub fn validate(&self) -> Result<(), Refusal> {
        if (MIN_WINDOW_S..=MAX_WINDOW_S).contains(&self.length_s) {
            return Ok(());
        }
        Err(crate::service::reason::Service::MonitoringInterval { seconds: self.length_s }.into())
    }

    /// The beginning of the window that `at` lies in.
    #[must_use]
    pub fn beginning(&self, at: Timestamp) -> Timestamp {
        // In nanoseconds, because the start may have a fraction of a second and windows begin at it too.
        let length = i128::from(self.length_s.max(1)) * 1_000_000_000;
        let into = at.duration_since(self.start).as_nanos().rem_euclid(length);
        // Less than the longest window in nanoseconds, so it fits; before year -9999 there is no beginning.
        let into = SignedDuration::from_nanos(i64::try_from(into).unwrap_or(0));
        at.checked_sub(into).unwrap_or(at)
    }
}

/// Counters of one window.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Statistics {
    /// Beginning of the window.
    pub start: Option<Timestamp>,
    /// End of the window; `null` while it lasts.
    pub end: Option<Timestamp>,
    /// Cycles that succeeded: `ReplicationSuccessCount`.
    pub cycles_ok: u64,
    /// Cycles that were due and did not begin in time: `ReplicationMissCount`.
    pub cycles_missed: u64,
    /// Cycles that began and failed: `ReplicationFailureCount`.
    pub cycles_failed: u64,
    /// Bytes on the wire, total.
    pub bytes_sent: u64,
    /// Bytes that changed, total: `ReplicationSize`.
    pub bytes_changed: u64,
    /// Largest cycle, bytes changed: `MaxReplicationSize`.
    pub max_cycle_bytes: u64,
    /// Time from cut to acknowledgement, total, milliseconds: `ReplicationLatency`.
    pub latency_total_ms: u64,
    /// Longest of these, milliseconds.
    pub max_latency_ms: u64,
    /// Application-consistent points that succeeded.
    pub application_consistent_ok: u64,
    /// Application-consistent points that failed: `ApplicationConsistentSnapshotFailureCount`.
    pub application_consistent_failed: u64,
    /// How many of these failed in a row, up to now; 0 after one that succeeded.
    pub application_consistent_failing: u64,
    /// Network errors: `NetworkFailureCount`.
    pub network_failures: u64,
    /// Bytes not yet sent, at the last look: `PendingReplicationSize`.
    pub pending_bytes: u64,
    /// When a cycle was last sent or received: `LastReplicationTime`. Carried over into the next window.
    pub last_replication_at: Option<Timestamp>,
    /// When it was last applied, too: `LastApplyTime`. Carried over.
    pub last_apply_at: Option<Timestamp>,
    /// When an application-consistent point last succeeded. Carried over.
    pub last_application_consistent_at: Option<Timestamp>,
    /// When a test failover was last made: `LastTestFailoverTime`. Carried over.
    pub last_test_failover_at: Option<Timestamp>,
}

/// A cycle that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cycle {
    /// When it was acknowledged.
    pub at: Timestamp,
    /// From the cut to the acknowledgement.
    pub latency: SignedDuration,
    /// Bytes that changed.
    pub changed_bytes: u64,
    /// Bytes on the wire.
    pub sent_bytes: u64,
    /// It made an application-consistent point.
    pub application_consistent: bool,
}

fn millis(span: SignedDuration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(0)
}

impl Statistics {
    /// Mean time from cut to acknowledgement; `None` before the first cycle of the window.
    #[must_use]
    pub fn average_latency(&self) -> Option<SignedDuration> {
        let mean = self.latency_total_ms.checked_div(self.cycles_ok)?;
        Some(SignedDuration::from_millis(i64::try_from(mean).unwrap_or(i64::MAX)))
    }

    /// Mean bytes changed in a cycle; 0 before the first.
    #[must_use]
    pub fn average_cycle_bytes(&self) -> u64 {
        self.bytes_changed.checked_div(self.cycles_ok).unwrap_or(0)
    }

    /// A cycle succeeded.
    pub fn succeeded(&mut self, cycle: Cycle) {
        self.cycles_ok = self.cycles_ok.saturating_add(1);
        self.bytes_sent = self.bytes_sent.saturating_add(cycle.sent_bytes);
        self.bytes_changed = self.bytes_changed.saturating_add(cycle.changed_bytes);
        self.max_cycle_bytes = self.max_cycle_bytes.max(cycle.changed_bytes);
        // A clock that was set back in between makes no negative latency.
        let latency = millis(cycle.latency);
        self.latency_total_ms = self.latency_total_ms.saturating_add(latency);
        self.max_latency_ms = self.max_latency_ms.max(latency);
        self.last_replication_at = Some(cycle.at);
        self.last_apply_at = Some(cycle.at);
        if cycle.application_consistent {
            self.application_consistent_ok = self.application_consistent_ok.saturating_add(1);
            self.application_consistent_failing = 0;
            self.last_application_consistent_at = Some(cycle.at);
        }
    }

    /// Cycles that were due did not begin.
    pub fn missed(&mut self, cycles: u64) {
        self.cycles_missed = self.cycles_missed.saturating_add(cycles);
    }

    /// A cycle began and failed; `network` when the other host could not be reached or the connection broke.
    pub fn failed(&mut self, network: bool) {
        self.cycles_failed = self.cycles_failed.saturating_add(1);
        self.network_failures = self.network_failures.saturating_add(u64::from(network));
    }

    /// An application-consistent point was wanted and a standard one was made.
    pub fn application_consistent_failed(&mut self) {
        self.application_consistent_failed = self.application_consistent_failed.saturating_add(1);
        self.application_consistent_failing = self.application_consistent_failing.saturating_add(1);
    }
}

/// The set of the current window and that of the last one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Monitor {
    /// Where the windows lie.
    pub window: Window,
    /// The window that lasts.
    pub current: Statistics,
    /// The window before.
    pub last: Option<Statistics>,
}

impl Monitor {
    /// Begins to count in the window that `now` lies in.
    #[must_use]
    pub fn new(window: Window, now: Timestamp) -> Self {
        let current = Statistics { start: Some(window.beginning(now)), ..Statistics::default() };
        Self { window, current, last: None }
    }

    /// Ends the window if it is over. Call it before counting. Gives whether a window ended.
    ///
    /// After windows without a call (the daemon was down) the last set is the one that was counted last. A
    /// clock that was set back ends nothing.
    pub fn roll(&mut self, now: Timestamp) -> bool {
        let beginning = self.window.beginning(now);
        let Some(start) = self.current.start else {
            self.current.start = Some(beginning);
            return false;
        };
        if beginning <= start {
            return false;
        }
        let end = start.checked_add(SignedDuration::from_secs(i64::from(self.window.length_s)));
        let next = self.fresh(beginning);
        let mut ended = std::mem::replace(&mut self.current, next);
        // A window whose length was changed while it lasted ends where the next begins.
        ended.end = Some(end.unwrap_or(beginning).min(beginning));
        self.last = Some(ended);
        true
    }

    /// `ResetReplicationStatistics`: counting begins anew, both sets are forgotten.
    pub fn reset(&mut self, now: Timestamp) {
        self.current = self.fresh(now);
        self.last = None;
    }

    /// A set without counts that still knows the last times.
    fn fresh(&self, start: Timestamp) -> Statistics {
        Statistics {
            start: Some(start),
            pending_bytes: self.current.pending_bytes,
            last_replication_at: self.current.last_replication_at,
            last_apply_at: self.current.last_apply_at,
            last_application_consistent_at: self.current.last_application_consistent_at,
            last_test_failover_at: self.current.last_test_failover_at,
            ..Statistics::default()
        }
    }
}
