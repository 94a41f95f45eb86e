use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use standin_model::{Epoch, PointId, PointKind, Policy, RecoveryPoint, Tier};
use std::collections::HashSet;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// A full hour and a full day, UTC.
const BASE: i64 = 20_000 * DAY;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(BASE + second).expect("a time of this century")
}

fn point(epoch: u64, second: i64) -> RecoveryPoint {
    RecoveryPoint {
        id: PointId::random(),
        epoch: Epoch(epoch),
        created_at: at(second),
        received_at: at(second),
        kind: PointKind::Standard,
        changed_bytes: 1,
        stored_bytes: 1,
        digest: String::new(),
        pinned: false,
    }
}

/// A point every `step` seconds from `from` to `to`, with epochs from 1.
fn series(from: i64, to: i64, step: i64) -> Vec<RecoveryPoint> {
    let count = u64::try_from((to - from) / step).expect("ascending");
    (0..=count).map(|n| point(n + 1, from + i64::try_from(n).expect("few") * step)).collect()
}

fn kept(policy: &Policy, points: &[RecoveryPoint], now: Timestamp) -> Vec<RecoveryPoint> {
    let dropped: HashSet<PointId> = policy.plan(points, now).into_iter().collect();
    points.iter().filter(|point| !dropped.contains(&point.id)).cloned().collect()
}

fn seconds(points: &[RecoveryPoint]) -> Vec<i64> {
    points.iter().map(|point| point.created_at.as_second() - BASE).collect()
}

fn tiers(tiers: &[(i64, i64)]) -> Policy {
    let number = |n: i64| u64::try_from(n).expect("not negative");
    Policy {
        tiers: tiers
            .iter()
            .map(|(keep, every)| Tier { keep_for_s: number(*keep), every_s: number(*every) })
            .collect(),
    }
}

#[test]
fn without_history_only_the_latest_point_stays() {
    let points = series(0, 10 * 300, 300);
    assert_eq!(seconds(&kept(&Policy::hyperv(0), &points, at(DAY))), [3000]);
    assert_eq!(Policy::hyperv(0).plan(&[], at(0)), []);
}

#[test]
fn a_history_keeps_the_latest_and_the_first_point_of_each_hour() {
    let points = series(0, 3 * HOUR + 1200, 300);
    let left = kept(&Policy::hyperv(3), &points, at(3 * HOUR + 1200));
    assert_eq!(seconds(&left), [HOUR, 2 * HOUR, 3 * HOUR, 3 * HOUR + 1200]);
}

#[test]
fn after_three_days_of_five_minute_points_a_history_of_24_has_25() {
    let mut points = Vec::new();
    for point in series(0, 3 * DAY, 300) {
        points.push(point);
        let now = points[points.len() - 1].created_at;
        points = kept(&Policy::hyperv(24), &points, now);
        assert!(points.len() <= 25);
    }
    // The last point is the first of its hour, so it counts as both.
    assert_eq!(points.len(), 24);
}

#[test]
fn tiers_thin_out_with_age() {
    let points = series(0, 5 * DAY, 600);
    let policy = tiers(&[(HOUR, 0), (DAY, HOUR), (7 * DAY, DAY)]);
    let left = seconds(&kept(&policy, &points, at(5 * DAY)));
    let recent = left.iter().filter(|second| **second > 5 * DAY - HOUR).count();
    assert_eq!(recent, 6, "all of the last hour");
    let hourly = left.iter().filter(|second| (5 * DAY - 23 * HOUR..=5 * DAY - HOUR).contains(second)).count();
    assert_eq!(hourly, 23, "one an hour of the last day");
    let daily: Vec<i64> = left.iter().copied().filter(|second| *second < 4 * DAY).collect();
    assert_eq!(daily, [0, DAY, 2 * DAY, 3 * DAY]);
}

#[test]
fn an_application_consistent_point_represents_its_hour() {
    let mut points = series(0, 2 * HOUR, 600);
    points[3].kind = PointKind::ApplicationConsistent;
    points[4].kind = PointKind::ApplicationConsistent;
    let left = kept(&Policy::hyperv(3), &points, at(2 * HOUR));
    assert_eq!(seconds(&left), [1800, HOUR, 2 * HOUR]);
}

#[test]
fn pinned_points_stay_beyond_every_limit() {
    let mut points = series(0, 10 * DAY, HOUR);
    points[1].pinned = true;
    assert_eq!(seconds(&kept(&Policy::hyperv(0), &points, at(10 * DAY))), [HOUR, 10 * DAY]);
}

#[test]
fn history_does_not_expire_while_nothing_arrives() {
    let points = kept(&Policy::hyperv(5), &series(0, 5 * HOUR, 300), at(5 * HOUR));
    assert_eq!(kept(&Policy::hyperv(5), &points, at(30 * DAY)), points);
}

#[test]
fn a_clock_that_ran_ahead_does_not_expire_history() {
    let policy = Policy::hyperv(5);
    let mut points = kept(&policy, &series(0, 5 * HOUR, 300), at(5 * HOUR));
    let before: Vec<PointId> = points.iter().map(|point| point.id).collect();
    let all_there = |left: &[RecoveryPoint]| before.iter().all(|id| left.iter().any(|point| point.id == *id));
    let mut ahead = point(1000, 5 * HOUR + 300);
    // The primary's clock only.
    ahead.created_at = at(10_000 * DAY);
    points.push(ahead.clone());
    assert!(all_there(&kept(&policy, &points, at(5 * HOUR + 300))));
    // Both clocks, and this host's was mended since.
    ahead.received_at = at(10_000 * DAY);
    ahead.id = PointId::random();
    ahead.epoch = Epoch(1001);
    points.push(ahead);
    assert!(all_there(&kept(&policy, &points, at(5 * HOUR + 300))));
}

#[test]
fn what_is_to_be_dropped_is_listed_oldest_first() {
    let mut points = series(0, 10 * 300, 300);
    points.reverse();
    let plan = Policy::hyperv(0).plan(&points, at(DAY));
    let expected: Vec<PointId> = points.iter().skip(1).rev().map(|point| point.id).collect();
    assert_eq!(plan, expected);
}

#[test]
fn policies_out_of_range_are_refused() {
    assert!(tiers(&[(HOUR, 0), (DAY, HOUR), (7 * DAY, DAY)]).validate().is_ok());
    for bad in [tiers(&[(0, 0)]), tiers(&[(HOUR, DAY)]), tiers(&[(4000 * DAY, DAY)]), tiers(&[(HOUR, 0); 17])]
    {
        assert!(bad.validate().is_err(), "{bad:?} was accepted");
    }
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let tier = (1_u64..50, prop_oneof![Just(0_u64), 1_u64..20]);
    // Spans of 100 s: the points below lie within a few thousand seconds.
    prop::collection::vec(tier, 0..4).prop_map(|raw| Policy {
        tiers: raw
            .into_iter()
            .map(|(keep, every)| Tier { keep_for_s: keep * 100, every_s: (every * 100).min(keep * 100) })
            .collect(),
    })
}

/// Points whose epochs ascend and whose clocks mostly do.
fn any_points(most: usize) -> impl Strategy<Value = Vec<RecoveryPoint>> {
    let one = (0_i64..400, 0_i64..20, 0_u8..8, any::<bool>(), 0_u8..10);
    prop::collection::vec(one, 1..most).prop_map(|raw| {
        let mut second = 0;
        let mut points = Vec::new();
        for (step, delay, kind, back, pin) in raw {
            second += if back && step > 380 { -step } else { step };
            let mut made = point(points.len() as u64 + 1, second);
            made.received_at = at(second + delay);
            made.kind = if kind == 0 { PointKind::ApplicationConsistent } else { PointKind::Standard };
            made.pinned = pin == 0;
            points.push(made);
        }
        points
    })
}

proptest! {
    #[test]
    fn the_latest_and_the_pinned_stay(policy in any_policy(), points in any_points(60), now in -500_i64..20_000) {
        let left = kept(&policy, &points, at(now));
        prop_assert_eq!(left.last().map(|p| p.id), points.last().map(|p| p.id));
        prop_assert!(points.iter().filter(|p| p.pinned).all(|p| left.contains(p)));
    }

    #[test]
    fn planning_again_drops_nothing_more(policy in any_policy(), points in any_points(60), now in -500_i64..20_000) {
        let left = kept(&policy, &points, at(now));
        prop_assert_eq!(policy.plan(&left, at(now)), []);
    }

    #[test]
    fn the_order_of_the_list_does_not_matter(policy in any_policy(), points in any_points(60), now in -500_i64..20_000) {
        let mut turned = points.clone();
        turned.reverse();
        turned.rotate_left(points.len() / 3);
        prop_assert_eq!(policy.plan(&turned, at(now)), policy.plan(&points, at(now)));
    }

    /// Planning after every point and planning once at the end leave the same: nothing was dropped too early.
    #[test]
    fn a_dropped_point_would_not_have_been_needed_later(
        policy in any_policy(),
        points in any_points(60),
        split in 0_usize..60,
        first in -500_i64..10_000,
        later in 0_i64..10_000,
    ) {
        let (old, new) = points.split_at(split.min(points.len()));
        let mut thinned = kept(&policy, old, at(first));
        thinned.extend_from_slice(new);
        let now = at(first) + SignedDuration::from_secs(later);
        prop_assert_eq!(seconds(&kept(&policy, &thinned, now)), seconds(&kept(&policy, &points, now)));
    }

    #[test]
    fn never_more_than_the_bound(policy in any_policy(), interval in 1_u32..700, count in 1_i64..120, offset in 0_i64..5000) {
        let step = i64::from(interval);
        let points = series(offset, offset + step * (count - 1), step);
        let left = kept(&policy, &points, at(offset + step * count));
        prop_assert!(left.len() as u64 <= policy.bound(interval), "{} points", left.len());
    }
}
