//! Health of a replication: one word, and every reason with its remedy.
//!
//! The rules are those of the model: critical when the primary cannot send or the replica is paused; warning
//! when more than a fifth of the cycles were missed, when nothing was sent or received for an hour, while the
//! initial replication is unfinished, after a failover that was not reversed, and while the primary is paused.
//! "One hour" and "five minutes" belong to an interval of 300 s and grow with longer ones.

use crate::coded::coded;
use crate::codes::Refusal;
use crate::state::{ReplicationState as S, Side};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

coded! {
    /// `ReplicationHealth`.
    pub enum Health {
        /// There is no replication.
        NotApplicable = 0, "Not applicable";
        /// As it should be.
        Ok = 1, "Ok";
        /// Works, but somebody should look.
        Warning = 2, "Warning";
        /// Does not protect the VM now.
        Critical = 3, "Critical";
    }
}

/// One reason for a health that is not ok.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthIssue {
    /// What it makes of the health.
    pub severity: Health,
    /// What is wrong.
    pub message: String,
    /// What to do now.
    pub remedy: String,
}

/// What the health is made from. The counters are those of the current monitoring window.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    /// Role of this host.
    pub side: Side,
    /// State of the relationship.
    pub state: S,
    /// Seconds from cut to cut.
    pub interval_s: u32,
    /// Cycles that succeeded.
    pub cycles_ok: u64,
    /// Cycles that were due and did not take place or failed.
    pub cycles_missed: u64,
    /// Mean time from cut to acknowledgement.
    pub average_latency: Option<SignedDuration>,
    /// When a cycle was last sent (primary) or received (replica); before the first one, when the relationship
    /// began.
    pub last_transfer_at: Timestamp,
    /// Why the primary cannot send or the replica cannot store now, while that lasts.
    pub blocked: Option<Refusal>,
    /// Of application-consistent points in a row, how many failed last.
    pub application_consistent_failures: u64,
}

/// Interval that the model's fixed spans belong to, in seconds.
const BASE_INTERVAL_S: u32 = 300;
/// Share of missed cycles that is too much, in percent.
const MISSED_PERCENT: u128 = 20;

/// `span` of the model, grown with intervals above 300 s.
fn scaled(span: SignedDuration, interval_s: u32) -> SignedDuration {
    let span_s = i128::from(span.as_secs()) * i128::from(interval_s.max(BASE_INTERVAL_S));
    let scaled = span_s / i128::from(BASE_INTERVAL_S);
    SignedDuration::from_secs(i64::try_from(scaled).unwrap_or(i64::MAX))
}

/// The health, and all reasons for it: the worst first.
#[must_use]
pub fn assess(inputs: &Inputs, now: Timestamp) -> (Health, Vec<HealthIssue>) {
    if inputs.state == S::Disabled {
        return (Health::NotApplicable, Vec::new());
    }
    let mut issues: Vec<HealthIssue> = Vec::new();
    issues.extend(of_state(inputs.side, inputs.state));
    if let Some(blocked) = &inputs.blocked {
        issues.push(issue(Health::Critical, blocked.message.clone(), &blocked.remedy));
    }
    if expects_cycles(inputs.state) {
        issues.extend(of_missed(inputs));
        issues.extend(of_silence(inputs, now));
        issues.extend(of_latency(inputs));
        issues.extend(of_application_consistency(inputs));
    }
    // Stable: among equals the order above.
    issues.sort_by_key(|issue| std::cmp::Reverse(issue.severity));
    let health = issues.first().map_or(Health::Ok, |worst| worst.severity);
    (health, issues)
}

/// Cycles are due in this state, so their absence means something that the state does not say itself.
const fn expects_cycles(state: S) -> bool {
    matches!(state, S::Replicating | S::Critical | S::DiskUpdateInProgress | S::DiskUpdateCritical)
}

fn issue(severity: Health, message: impl Into<String>, remedy: &str) -> HealthIssue {
    HealthIssue { severity, message: message.into(), remedy: remedy.to_owned() }
}

/// What the state itself says about the health.
fn of_state(side: Side, state: S) -> Option<HealthIssue> {
    let (severity, message, remedy) = match state {
        S::ReadyForReplication => (
            Health::Warning,
            "the initial replication has not been started",
            "Start it; until it is complete the replica cannot fail over.",
        ),
        S::WaitingForInitialReplication => (
            Health::Warning,
            "the initial replication is not complete",
            "Wait for it; until then the replica cannot fail over.",
        ),
        S::Suspended if side.receives() => (
            Health::Critical,
            "the replica is paused and takes no changes",
            "Resume it with `standin resume VM` on the replica host.",
        ),
        S::Suspended => (
            Health::Warning,
            "the primary is paused and sends no changes",
            "Resume it with `standin resume VM`; all changes since are sent then.",
        ),
        S::Critical => (
            Health::Critical,
            "the replication stopped after an error",
            "Mend what the last error says, then run `standin resume VM`.",
        ),
        S::WaitingToStartResynchronization => (
            Health::Critical,
            "a resynchronization is required",
            "Run `standin resync VM`; it compares both sides and sends only what differs.",
        ),
        S::Resynchronizing => (
            Health::Critical,
            "the replica is being resynchronized and gets no new recovery points",
            "Wait until it is complete; the recovery points before it can be used.",
        ),
        S::ResynchronizationSuspended => {
            (Health::Critical, "the resynchronization is paused", "Go on with it: `standin resume VM`.")
        }
        S::FailoverInProgress | S::Recovered => (
            Health::Warning,
            "the VM is failed over and its replication was not reversed",
            "Commit the failover, `standin failover VM --commit`, or revert it, `standin failover VM --revert`; \
             until then nothing protects the VM.",
        ),
        S::Committed => (
            Health::Warning,
            "the VM is failed over for good and its replication was not reversed",
            "Forget the old relationship, `standin unreplicate VM`, and replicate the VM to another host; until \
             then nothing protects it.",
        ),
        S::SyncedReplicationComplete => (
            Health::Warning,
            "a planned failover is prepared and the VM is locked from starting",
            "Fail over on the replica and reverse, or call it off with `standin resume VM`.",
        ),
        S::DiskUpdateCritical => (
            Health::Critical,
            "the set of disks could not be changed",
            "Mend what the last error says, then run `standin resume VM`.",
        ),
        S::Unknown => {
            (Health::Critical, "the state is not known", "Check the other host and the daemon's log.")
        }
        S::Disabled
        | S::Replicating
        | S::DiskUpdateInProgress
        | S::FailbackInProgress
        | S::FailbackComplete
        | S::RepurposeInProgress
        | S::PreparedForSyncReplication
        | S::PreparedForGroupReverseReplication
        | S::FiredrillInProgress => return None,
    };
    Some(issue(severity, message, remedy))
}

fn of_missed(inputs: &Inputs) -> Option<HealthIssue> {
    let due = u128::from(inputs.cycles_ok) + u128::from(inputs.cycles_missed);
    (u128::from(inputs.cycles_missed) * 100 > due * MISSED_PERCENT).then(|| {
        issue(
            Health::Warning,
            format!("{} of {due} cycles were missed in this monitoring window", inputs.cycles_missed),
            "Look for a slow link or slow storage, or use a longer interval.",
        )
    })
}

fn of_silence(inputs: &Inputs, now: Timestamp) -> Option<HealthIssue> {
    let silence = now.duration_since(inputs.last_transfer_at);
    let word = if inputs.side.receives() { "received" } else { "sent" };
    (silence > scaled(SignedDuration::from_hours(1), inputs.interval_s)).then(|| {
        issue(
            Health::Warning,
            format!("nothing was {word} for {} minutes", silence.as_mins()),
            "Check that both daemons run and reach each other: `standin status VM` on both hosts.",
        )
    })
}

fn of_latency(inputs: &Inputs) -> Option<HealthIssue> {
    let average = inputs.average_latency?;
    let most = scaled(SignedDuration::from_mins(5), inputs.interval_s);
    (average > most).then(|| {
        issue(
            Health::Warning,
            format!("a cycle takes {} s on average, more than {} s", average.as_secs(), most.as_secs()),
            "Look for a slow link or slow storage, or use a longer interval.",
        )
    })
}

fn of_application_consistency(inputs: &Inputs) -> Option<HealthIssue> {
    let failures = inputs.application_consistent_failures;
    (failures > 0).then(|| {
        issue(
            Health::Warning,
            format!("the last {failures} application-consistent points failed; standard points were taken"),
            "Check that the guest agent runs in the guest and can freeze its file systems.",
        )
    })
}
