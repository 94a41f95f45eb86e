//! What is to change of a relationship's settings. It is applied by the one who keeps them, so that two who change
//! different settings at the same time both have their way.

use super::{DayWindow, RelationshipSettings};
use crate::codes::Refusal;
use crate::names::DiskName;
use crate::retention::Policy;
use serde::{Deserialize, Serialize};

/// A change of settings: what is absent stays as it is. Ranges are those of [`RelationshipSettings`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SettingsChange {
    /// Seconds from cut to cut.
    pub interval_s: Option<u32>,
    /// Hourly points kept beyond the latest. It takes the place of a retention policy, except of a tier that keeps
    /// every point.
    pub history: Option<u32>,
    /// Seconds for which every point is kept besides the hourly ones; 0 for no longer.
    pub keep_all_for_s: Option<u64>,
    /// Hours between application-consistent points; 0 for none.
    pub application_consistent_hours: Option<u32>,
    /// Longest time the guest may stay frozen, in seconds.
    pub freeze_deadline_s: Option<u32>,
    /// Compress blocks.
    pub compression: Option<bool>,
    /// Resynchronize without being asked.
    pub auto_resync: Option<bool>,
    /// When in a day that may begin; from 0 to 0 for at any time.
    pub auto_resync_window: Option<DayWindow>,
    /// Bytes that stay free where the old data of overwritten blocks is kept.
    pub scratch_reserve: Option<u64>,
    /// Bytes per bit of the dirty bitmaps.
    pub granularity: Option<u32>,
    /// The disks that replicate.
    pub disks: Option<Vec<DiskName>>,
}

impl SettingsChange {
    /// The settings with the change.
    ///
    /// # Errors
    /// [`crate::ReturnCode::InvalidParameter`] when they are not valid then, see [`RelationshipSettings::validate`].
    pub fn applied_to(&self, before: &RelationshipSettings) -> Result<RelationshipSettings, Refusal> {
        let settings = RelationshipSettings {
            interval_s: self.interval_s.unwrap_or(before.interval_s),
            history: self.history.unwrap_or(before.history),
            application_consistent_hours: self
                .application_consistent_hours
                .unwrap_or(before.application_consistent_hours),
            freeze_deadline_s: self.freeze_deadline_s.unwrap_or(before.freeze_deadline_s),
            compression: self.compression.unwrap_or(before.compression),
            granularity: self.granularity.unwrap_or(before.granularity),
            disks: self.disks.clone().unwrap_or_else(|| before.disks.clone()),
            auto_resync: self.auto_resync.unwrap_or(before.auto_resync),
            auto_resync_window: match self.auto_resync_window {
                None => before.auto_resync_window,
                Some(window) => Some(window).filter(|window| *window != DayWindow::ANY_TIME),
            },
            retention: self.retention(before),
            scratch_reserve: self.scratch_reserve.unwrap_or(before.scratch_reserve),
        };
        settings.validate()?;
        Ok(settings)
    }

    fn retention(&self, before: &RelationshipSettings) -> Option<Policy> {
        let history = self.history.unwrap_or(before.history);
        if history == before.history && self.keep_all_for_s.is_none() {
            return before.retention.clone();
        }
        let span = self.keep_all_for_s.or_else(|| before.keep_all_for_s()).filter(|span| *span > 0);
        span.map(|span| Policy::keep_all_for(span, history))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::ReturnCode;
    use crate::retention::Tier;

    fn changed(change: SettingsChange, before: &RelationshipSettings) -> RelationshipSettings {
        change.applied_to(before).expect("it is valid")
    }

    #[test]
    fn what_is_absent_stays() {
        let before = RelationshipSettings {
            interval_s: 7,
            history: 3,
            application_consistent_hours: 2,
            compression: false,
            auto_resync_window: Some(DayWindow { start_s: 1, end_s: 2 }),
            ..RelationshipSettings::default()
        };
        assert_eq!(changed(SettingsChange::default(), &before), before);
        let slower = changed(SettingsChange { interval_s: Some(60), ..SettingsChange::default() }, &before);
        assert_eq!(slower, RelationshipSettings { interval_s: 60, ..before });
    }

    #[test]
    fn a_history_keeps_the_tier_that_keeps_every_point() {
        let before = RelationshipSettings {
            history: 2,
            retention: Some(Policy::keep_all_for(600, 2)),
            ..RelationshipSettings::default()
        };
        let longer = changed(SettingsChange { history: Some(24), ..SettingsChange::default() }, &before);
        assert_eq!((longer.history, longer.keep_all_for_s()), (24, Some(600)));
        assert_eq!(longer.retention, Some(Policy::keep_all_for(600, 24)));
        let shorter = SettingsChange { keep_all_for_s: Some(60), ..SettingsChange::default() };
        assert_eq!(changed(shorter, &longer).retention, Some(Policy::keep_all_for(60, 24)));
        let none = SettingsChange { keep_all_for_s: Some(0), ..SettingsChange::default() };
        let none = changed(none, &longer);
        assert_eq!((none.history, none.retention), (24, None));
    }

    #[test]
    fn a_history_takes_the_place_of_another_policy() {
        let daily = Policy { tiers: vec![Tier { keep_for_s: 7 * 86_400, every_s: 86_400 }] };
        let before = RelationshipSettings { retention: Some(daily), ..RelationshipSettings::default() };
        let same = changed(SettingsChange { history: Some(0), ..SettingsChange::default() }, &before);
        assert_eq!(same.retention, before.retention, "it is as it was");
        let simple = changed(SettingsChange { history: Some(5), ..SettingsChange::default() }, &before);
        assert_eq!((simple.history, simple.retention), (5, None));
    }

    #[test]
    fn a_window_from_midnight_to_midnight_is_none() {
        let window = DayWindow { start_s: 3600, end_s: 7200 };
        let set = SettingsChange { auto_resync_window: Some(window), ..SettingsChange::default() };
        let set = changed(set, &RelationshipSettings::default());
        assert_eq!(set.auto_resync_window, Some(window));
        let any =
            SettingsChange { auto_resync_window: Some(DayWindow::ANY_TIME), ..SettingsChange::default() };
        assert_eq!(changed(any, &set).auto_resync_window, None);
    }

    #[test]
    fn a_change_that_leads_out_of_range_is_refused() {
        let hourly = RelationshipSettings {
            history: 4,
            application_consistent_hours: 1,
            ..RelationshipSettings::default()
        };
        for wrong in [
            SettingsChange { interval_s: Some(0), ..SettingsChange::default() },
            SettingsChange { history: Some(0), ..SettingsChange::default() },
            SettingsChange { history: Some(25), ..SettingsChange::default() },
            SettingsChange { freeze_deadline_s: Some(61), ..SettingsChange::default() },
            SettingsChange { granularity: Some(1000), ..SettingsChange::default() },
        ] {
            let refusal = wrong.applied_to(&hourly).expect_err("it is refused");
            assert_eq!(refusal.code, ReturnCode::InvalidParameter, "{wrong:?}");
        }
    }
}
