//! Which recovery points are kept. The store asks after every sealed point and merges away what is dropped.
//!
//! A [`Policy`] is a list of tiers, like "every point for an hour, then hourly for a day, daily for a week".
//! Time is cut into slots that are fixed to the clock (an hour begins at the full hour, UTC), not to now, so
//! that the representative of a slot does not change from one run to the next:
//!
//! ```text
//!  points   x  x   x  x  x | x  x  x  x | x x x x X latest
//!  slots        13:00      |   14:00    |   15:00
//!  kept     x              | x          | x       X          an hourly tier keeps the first of each slot
//! ```
//!
//! The first point of a slot represents it, or its first application-consistent one if there is any. Slots
//! leave a tier as a whole. So a point that is dropped would not have been needed later: its slot has an
//! older or better representative, which stays as long as the slot does.
//!
//! Ages are counted back from the newest point, not from now. While nothing arrives, because the primary is
//! dead or the link is down, no point expires: that is when they are needed.
//!
//! Invariants, each tested: the latest and all pinned points stay; planning again drops nothing more; dropping
//! early never changes what is kept later; what stays is bounded by [`Policy::bound`] and the pinned ones.

pub(crate) mod reason;

use crate::codes::Refusal;
use crate::ids::{Epoch, PointId};
use crate::point::{PointKind, RecoveryPoint};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// Most tiers of a policy.
pub const MAX_TIERS: usize = 16;
/// Longest time a tier keeps points, in seconds: ten years.
pub const MAX_KEEP_S: u64 = 10 * 366 * 86_400;
/// Most points that a policy may keep for one VM. Each is a file for every disk.
pub const MAX_POINTS: u64 = 4096;

const HOUR_S: u64 = 3600;

/// Keeps points of one density for some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// How long a point of this tier stays, in seconds.
    pub keep_for_s: u64,
    /// One point for every so many seconds; 0 for every point.
    pub every_s: u64,
}

impl Tier {
    /// Slots in the window, the one that is being filled included.
    fn slots(self) -> u64 {
        self.keep_for_s.div_ceil(self.every_s.max(1))
    }

    /// The slot of an instant, in seconds since 1970.
    fn slot(self, second: i64) -> i64 {
        second.div_euclid(i64::try_from(self.every_s.max(1)).unwrap_or(i64::MAX))
    }

    /// The oldest slot that stays when the newest point is from `newest`.
    fn oldest_slot(self, newest: i64) -> i64 {
        self.slot(newest).saturating_sub_unsigned(self.slots()).saturating_add(1)
    }
}

/// Decides which points stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// A point stays if any tier wants it. Without tiers only the latest one stays.
    pub tiers: Vec<Tier>,
}

/// What the plan needs of a point.
struct Dated<'a> {
    point: &'a RecoveryPoint,
    second: i64,
}

impl<'a> Dated<'a> {
    /// A clock that runs ahead on either host must not make the other points look old, so the earlier of the
    /// two times counts. Both are fixed when the point is sealed.
    fn new(point: &'a RecoveryPoint) -> Self {
        Self { point, second: point.created_at.min(point.received_at).as_second() }
    }

    /// Smaller is the better representative of a slot. By epoch, not by time: what arrives later, with a clock
    /// that was set back, must not displace what is there.
    fn rank(&self) -> (bool, Epoch) {
        (self.point.kind != PointKind::ApplicationConsistent, self.point.epoch)
    }
}

impl Policy {
    /// The simple form of the model: the latest point and `history` hourly ones beyond it (`RecoveryHistory`).
    #[must_use]
    pub fn hyperv(history: u32) -> Self {
        let tier = Tier { keep_for_s: u64::from(history) * HOUR_S, every_s: HOUR_S };
        Self { tiers: if history == 0 { Vec::new() } else { vec![tier] } }
    }

    /// Every point for `span_s` seconds, besides `history` hourly ones.
    #[must_use]
    pub fn keep_all_for(span_s: u64, history: u32) -> Self {
        let mut policy = Self::hyperv(history);
        policy.tiers.insert(0, Tier { keep_for_s: span_s, every_s: 0 });
        policy
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`crate::ReturnCode::InvalidParameter`] that says which tier, and what is allowed.
    pub fn validate(&self) -> Result<(), Refusal> {
        if self.tiers.len() > MAX_TIERS {
            return Err(reason::Retention::TooManyTiers { tiers: self.tiers.len() }.into());
        }
        for (index, tier) in self.tiers.iter().enumerate() {
            let (place, Tier { keep_for_s, every_s }) = (index + 1, *tier);
            if keep_for_s == 0 || keep_for_s > MAX_KEEP_S {
                return Err(reason::Retention::TierSpan { tier: place, keep_for_s }.into());
            }
            if every_s > keep_for_s {
                return Err(reason::Retention::TierTooThin { tier: place, every_s, keep_for_s }.into());
            }
        }
        Ok(())
    }

    /// The most points that stay, beside pinned ones, when a point comes every `interval_s` seconds and no
    /// clock is set back.
    #[must_use]
    pub fn bound(&self, interval_s: u32) -> u64 {
        let interval = u64::from(interval_s.max(1));
        let of_tier = |tier: &Tier| match tier.every_s {
            0 => tier.keep_for_s.div_ceil(interval),
            _ => tier.slots().min(tier.keep_for_s.div_ceil(interval).saturating_add(1)),
        };
        self.tiers.iter().map(of_tier).fold(1, u64::saturating_add)
    }

    /// The points to drop, oldest epoch first, in any order of `points`. `now` is the clock of the host that
    /// asks; a point that is dated later, because a clock was wrong for a while, does not age the others.
    #[must_use]
    pub fn plan(&self, points: &[RecoveryPoint], now: Timestamp) -> Vec<PointId> {
        let kept = self.keep(points, now);
        let mut dropped: Vec<&RecoveryPoint> =
            points.iter().filter(|point| !kept.contains(&point.id)).collect();
        dropped.sort_by_key(|point| point.epoch);
        dropped.into_iter().map(|point| point.id).collect()
    }

    /// The points that stay.
    fn keep(&self, points: &[RecoveryPoint], now: Timestamp) -> HashSet<PointId> {
        let mut kept: HashSet<PointId> =
            points.iter().filter(|point| point.pinned).map(|point| point.id).collect();
        kept.extend(points.iter().max_by_key(|point| point.epoch).map(|point| point.id));
        let dated: Vec<Dated<'_>> = points.iter().map(Dated::new).collect();
        let newest = dated.iter().map(|dated| dated.second).max().unwrap_or(0).min(now.as_second());
        for tier in &self.tiers {
            if tier.every_s == 0 {
                let oldest = newest.saturating_sub_unsigned(tier.keep_for_s);
                kept.extend(dated.iter().filter(|dated| dated.second > oldest).map(|dated| dated.point.id));
            } else {
                kept.extend(representatives(*tier, &dated, newest));
            }
        }
        kept
    }
}

/// The best point of every slot that is still in the window of `tier`.
fn representatives(tier: Tier, dated: &[Dated<'_>], newest: i64) -> impl Iterator<Item = PointId> {
    let oldest = tier.oldest_slot(newest);
    let mut best: BTreeMap<i64, &Dated<'_>> = BTreeMap::new();
    for candidate in dated {
        let slot = tier.slot(candidate.second);
        if slot < oldest {
            continue;
        }
        let held = best.entry(slot).or_insert(candidate);
        if candidate.rank() < held.rank() {
            *held = candidate;
        }
    }
    best.into_values().map(|dated| dated.point.id).collect::<Vec<_>>().into_iter()
}
