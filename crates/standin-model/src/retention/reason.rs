//! Why a retention policy cannot be.

use super::MAX_TIERS;
use crate::reason::{Reason, Text};
use crate::reasons;

reasons! {
    /// Why a retention policy cannot be. A `tier` is its place in the policy, from 1.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Retention {
        /// A retention policy has more tiers than standin keeps.
        TooManyTiers { tiers: usize } => "retention_too_many_tiers", InvalidParameter;
        /// A tier of a retention policy keeps points for no time, or for longer than ten years.
        TierSpan { tier: usize, keep_for_s: u64 } => "retention_tier_span", InvalidParameter;
        /// A tier of a retention policy ends before the second of its points would come.
        TierTooThin { tier: usize, every_s: u64, keep_for_s: u64 } => "retention_tier_too_thin", InvalidParameter;
    }
}

impl Reason for Retention {
    fn text(&self) -> Text {
        match self {
            Self::TooManyTiers { tiers } => Text::new(
                format!("a retention policy of {tiers} tiers is too long"),
                format!("Use at most {MAX_TIERS} tiers."),
            ),
            Self::TierSpan { tier, keep_for_s } => Text::new(
                format!("retention tier {tier} keeps points for {keep_for_s} s"),
                "Keep points for 1 s to 10 years.",
            ),
            Self::TierTooThin { tier, every_s, keep_for_s } => Text::new(
                format!("retention tier {tier} keeps one point every {every_s} s for only {keep_for_s} s"),
                "Keep points for at least as long as the time between two of them.",
            ),
        }
    }
}
