//! Settings of a relationship, with their ranges. A value that
//! passed `validate` needs no further checks anywhere.

mod change;
pub(crate) mod reason;

pub use change::SettingsChange;

use crate::codes::Refusal;
use crate::names::DiskName;
use crate::retention::{MAX_POINTS, Policy};
use reason::Setting;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Shortest interval, in seconds.
pub const MIN_INTERVAL_S: u32 = 1;
/// Longest interval, in seconds: a day.
pub const MAX_INTERVAL_S: u32 = 86_400;
/// Intervals that Hyper-V knows, in seconds.
pub const STANDARD_INTERVALS_S: [u32; 3] = [30, 300, 900];
/// Most hourly points beyond the latest.
pub const MAX_HISTORY: u32 = 24;
/// Most hours between application-consistent points.
pub const MAX_APPLICATION_CONSISTENT_HOURS: u32 = 12;
/// Finest change tracking, in bytes.
pub const MIN_GRANULARITY: u32 = 4 << 10;
/// Coarsest change tracking, in bytes.
pub const MAX_GRANULARITY: u32 = 1 << 20;
/// Most disks of a VM.
pub const MAX_DISKS: usize = 256;

/// Settings of one relationship. Stored, sent to the replica, and read by the cycles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelationshipSettings {
    /// Seconds from cut to cut, [`MIN_INTERVAL_S`] to [`MAX_INTERVAL_S`].
    pub interval_s: u32,
    /// Hourly points kept beyond the latest, 0 to [`MAX_HISTORY`]: `RecoveryHistory`.
    pub history: u32,
    /// Hours between application-consistent points, 1 to [`MAX_APPLICATION_CONSISTENT_HOURS`]; 0 for none, and
    /// always 0 when `history` is 0.
    pub application_consistent_hours: u32,
    /// Longest time the guest may stay frozen for such a point, in seconds, 1 to 60.
    pub freeze_deadline_s: u32,
    /// Compress each block, unless it does not shrink.
    pub compression: bool,
    /// Bytes per bit of the dirty bitmaps: a power of two, [`MIN_GRANULARITY`] to [`MAX_GRANULARITY`]. The
    /// default is the finest: a random 4 KiB write sends 4 KiB and not 64. It costs the hypervisor 32 MiB of
    /// memory for a TiB of disk and bitmap; a coarser one suits very large disks with large writes.
    pub granularity: u32,
    /// The disks that replicate; empty for all that the VM had when the relationship was made.
    pub disks: Vec<DiskName>,
    /// Resynchronize without being asked when the bitmaps are lost. Here it is on by default, because a
    /// comparison sends only what differs; Hyper-V's default is off.
    pub auto_resync: bool,
    /// When in a day a resynchronization may begin without being asked; `None` for at any time. Kept and given back:
    /// the cycles do not look at it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_resync_window: Option<DayWindow>,
    /// Which points are kept, in place of "the latest and `history` hourly ones".
    pub retention: Option<Policy>,
    /// A cycle is given up when less than this is free where the old data of overwritten blocks is kept, bytes.
    pub scratch_reserve: u64,
}

/// Seconds of a day.
pub const DAY_S: u32 = 86_400;

/// A part of every day, in seconds after midnight; past midnight where it ends before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DayWindow {
    /// When it begins, below [`DAY_S`].
    pub start_s: u32,
    /// When it ends, below [`DAY_S`].
    pub end_s: u32,
}

impl DayWindow {
    /// As programs write that there is no window: from midnight to midnight.
    pub const ANY_TIME: Self = Self { start_s: 0, end_s: 0 };
}

impl Default for RelationshipSettings {
    fn default() -> Self {
        Self {
            interval_s: 300,
            history: 0,
            application_consistent_hours: 0,
            freeze_deadline_s: 10,
            compression: true,
            granularity: MIN_GRANULARITY,
            disks: Vec::new(),
            auto_resync: true,
            auto_resync_window: None,
            retention: None,
            scratch_reserve: 1 << 30,
        }
    }
}

impl RelationshipSettings {
    /// Checks every range and every rule between fields.
    ///
    /// # Errors
    /// [`crate::ReturnCode::InvalidParameter`] that names the field, its value and what is allowed.
    pub fn validate(&self) -> Result<(), Refusal> {
        check_interval(u64::from(self.interval_s))?;
        self.check_points()?;
        if !self.granularity.is_power_of_two()
            || !(MIN_GRANULARITY..=MAX_GRANULARITY).contains(&self.granularity)
        {
            return Err(Setting::Granularity { bytes: self.granularity }.into());
        }
        self.check_disks()?;
        self.check_window()?;
        self.check_retention()
    }

    fn check_window(&self) -> Result<(), Refusal> {
        match self.auto_resync_window {
            Some(window) if window.start_s >= DAY_S || window.end_s >= DAY_S => Err(Setting::Window.into()),
            _ => Ok(()),
        }
    }

    fn check_points(&self) -> Result<(), Refusal> {
        if self.history > MAX_HISTORY {
            return Err(Setting::History { points: self.history }.into());
        }
        if self.application_consistent_hours > MAX_APPLICATION_CONSISTENT_HOURS {
            let hours = self.application_consistent_hours;
            return Err(Setting::ApplicationConsistentHours { hours }.into());
        }
        if self.application_consistent_hours > 0 && self.history == 0 && self.retention.is_none() {
            return Err(Setting::ApplicationConsistentWithoutHistory.into());
        }
        if !(1..=60).contains(&self.freeze_deadline_s) {
            return Err(Setting::FreezeDeadline { seconds: self.freeze_deadline_s }.into());
        }
        Ok(())
    }

    fn check_disks(&self) -> Result<(), Refusal> {
        if self.disks.len() > MAX_DISKS {
            return Err(Setting::TooManyDisks { disks: self.disks.len() }.into());
        }
        let mut seen = BTreeSet::new();
        match self.disks.iter().find(|disk| !seen.insert(*disk)) {
            None => Ok(()),
            Some(twice) => Err(Setting::DiskTwice { disk: twice.clone() }.into()),
        }
    }

    fn check_retention(&self) -> Result<(), Refusal> {
        let Some(policy) = &self.retention else { return Ok(()) };
        policy.validate()?;
        let most = policy.bound(self.interval_s);
        if most > MAX_POINTS {
            return Err(Setting::TooManyPoints { most, interval_s: self.interval_s }.into());
        }
        Ok(())
    }

    /// Seconds for which every point is kept besides the hourly ones; `None` where the policy is another one.
    #[must_use]
    pub fn keep_all_for_s(&self) -> Option<u64> {
        let all = self.retention.as_ref()?.tiers.first().filter(|tier| tier.every_s == 0)?.keep_for_s;
        (self.retention == Some(Policy::keep_all_for(all, self.history))).then_some(all)
    }

    /// The policy that decides which points are kept.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.retention.clone().unwrap_or_else(|| Policy::hyperv(self.history))
    }

    /// Seconds between two application-consistent points; `None` when there are none.
    #[must_use]
    pub fn application_consistent_every_s(&self) -> Option<u64> {
        (self.application_consistent_hours > 0).then(|| u64::from(self.application_consistent_hours) * 3600)
    }

    /// Checks that an extended relationship is not faster than the one it hangs on, and takes no
    /// application-consistent points of its own: the points it gets are made on the first host.
    ///
    /// # Errors
    /// [`crate::ReturnCode::InvalidParameter`].
    pub fn validate_extended(&self, first: &Self) -> Result<(), Refusal> {
        self.validate()?;
        if self.interval_s < first.interval_s {
            let (interval_s, first_s) = (self.interval_s, first.interval_s);
            return Err(Setting::ExtendedTooOften { interval_s, first_s }.into());
        }
        if self.application_consistent_hours > 0 {
            return Err(Setting::ExtendedApplicationConsistent.into());
        }
        Ok(())
    }
}

fn check_interval(seconds: u64) -> Result<u32, Refusal> {
    let in_range = u32::try_from(seconds).ok().filter(|s| (MIN_INTERVAL_S..=MAX_INTERVAL_S).contains(s));
    in_range.ok_or_else(|| Setting::Interval { seconds }.into())
}

/// Reads an interval as people write it: `30s`, `5m`, `1h`, `1d`, or bare seconds. Gives seconds.
///
/// # Errors
/// [`crate::ReturnCode::InvalidParameter`] for other text and for what is out of range.
pub fn parse_interval(text: &str) -> Result<u32, Refusal> {
    let unreadable = || Setting::NoInterval { text: text.to_owned() };
    let text_trimmed = text.trim();
    let digits = text_trimmed.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor: u64 = match &text_trimmed[digits.len()..] {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(unreadable().into()),
    };
    // `parse` would take a plus sign.
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return Err(unreadable().into());
    }
    // Digits only, so the one way to fail is to be too large.
    check_interval(digits.parse::<u64>().map_or(u64::MAX, |number| number.saturating_mul(factor)))
}
