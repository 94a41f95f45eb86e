//! Why a relationship cannot have these settings.

use super::MAX_DISKS;
use crate::names::DiskName;
use crate::reason::{Reason, Text};
use crate::reasons;
use crate::retention::MAX_POINTS;

reasons! {
    /// Why a relationship cannot have these settings.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Setting {
        /// The granularity of the change tracking is no power of two, or out of range.
        Granularity { bytes: u32 } => "granularity_invalid", InvalidParameter;
        /// The window for automatic resynchronizations begins or ends beyond a day.
        Window => "resync_window_out_of_range", InvalidParameter;
        /// More hourly recovery points are wanted than a history has.
        History { points: u32 } => "history_out_of_range", InvalidParameter;
        /// Application-consistent recovery points are wanted less often than every twelve hours.
        ApplicationConsistentHours { hours: u32 } => "application_consistent_out_of_range", InvalidParameter;
        /// Application-consistent recovery points are wanted without a history that would keep them.
        ApplicationConsistentWithoutHistory => "application_consistent_without_history", InvalidParameter;
        /// A guest is to be frozen for no time, or for more than a minute.
        FreezeDeadline { seconds: u32 } => "freeze_deadline_out_of_range", InvalidParameter;
        /// More disks are to replicate than a VM may have.
        TooManyDisks { disks: usize } => "too_many_disks", InvalidParameter;
        /// A disk that is to replicate is named twice.
        DiskTwice { disk: DiskName } => "disk_named_twice", InvalidParameter;
        /// The retention policy could keep more recovery points than a replica may have.
        TooManyPoints { most: u64, interval_s: u32 } => "retention_too_many_points", InvalidParameter;
        /// An extended replica is to get recovery points more often than the replica that sends them.
        ExtendedTooOften { interval_s: u32, first_s: u32 } => "extended_interval_too_short", InvalidParameter;
        /// An extended replica is to have application-consistent recovery points of its own.
        ExtendedApplicationConsistent => "extended_application_consistent", InvalidParameter;
        /// An interval is shorter than a second or longer than a day.
        Interval { seconds: u64 } => "interval_out_of_range", InvalidParameter;
        /// An interval is no number with a unit.
        NoInterval { text: String } => "interval_unreadable", InvalidParameter;
    }
}

impl Reason for Setting {
    fn text(&self) -> Text {
        match self {
            Self::Granularity { bytes } => Text::new(
                format!("the granularity of {bytes} bytes cannot be tracked"),
                "Use a power of two from 4096 (4 KiB) to 1048576 (1 MiB).",
            ),
            Self::Window => Text::new(
                "the times of a day between which a resynchronization may begin are not within a day",
                "Use times from 00:00:00 to 23:59:59.",
            ),
            Self::History { points } => Text::new(
                format!("a history of {points} hourly recovery points is out of range"),
                "Use 0 to 24; for longer ones set a retention policy.",
            ),
            Self::ApplicationConsistentHours { hours } => Text::new(
                format!("an application-consistent point every {hours} hours is out of range"),
                "Use 1 to 12 hours, or 0 for none.",
            ),
            Self::ApplicationConsistentWithoutHistory => Text::new(
                "application-consistent points need a history, and the history is 0",
                "Set a history of 1 to 24 hours, or no application-consistent points.",
            ),
            Self::FreezeDeadline { seconds } => Text::new(
                format!("a guest cannot be frozen for {seconds} s"),
                "Use a freeze deadline of 1 to 60 s.",
            ),
            Self::TooManyDisks { disks } => Text::new(
                format!("{disks} disks are too many for one VM"),
                format!("Replicate at most {MAX_DISKS} disks."),
            ),
            Self::DiskTwice { disk } => Text::new(
                format!("the disk {disk} is named twice"),
                "Name each disk that is to replicate once.",
            ),
            Self::TooManyPoints { most, interval_s } => Text::new(
                format!(
                    "the retention policy can keep {most} recovery points at an interval of {interval_s} s"
                ),
                format!("Keep at most {MAX_POINTS}: shorten a tier, thin it out, or use a longer interval."),
            ),
            Self::ExtendedTooOften { interval_s, first_s } => Text::new(
                format!(
                    "an extended replica cannot get points every {interval_s} s when its source gets one every \
                     {first_s} s"
                ),
                format!("Use an interval of {first_s} s or more."),
            ),
            Self::ExtendedApplicationConsistent => Text::new(
                "an extended replication has no application-consistent points of its own",
                "Set them on the primary; they reach the extended replica too.",
            ),
            Self::Interval { seconds } => Text::new(
                format!("an interval of {seconds} s is out of range"),
                "Use 1 s to 24 h; 30s, 5m and 15m are the usual ones.",
            ),
            Self::NoInterval { text } => {
                let shown: String = text.chars().take(32).collect();
                Text::new(
                    format!("{shown:?} is no interval"),
                    "Write a whole number and a unit: 30s, 5m or 1h.",
                )
            }
        }
    }
}
