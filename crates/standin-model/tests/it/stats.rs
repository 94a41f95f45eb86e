use jiff::{SignedDuration, Timestamp};
use standin_model::stats::{Cycle, Monitor, Window};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("a time")
}

fn cycle(second: i64, latency_s: i64, changed_bytes: u64) -> Cycle {
    Cycle {
        at: at(second),
        latency: SignedDuration::from_secs(latency_s),
        changed_bytes,
        sent_bytes: changed_bytes / 2,
        application_consistent: changed_bytes == 4,
    }
}

fn monitor() -> Monitor {
    Monitor::new(Window { start: at(0), length_s: 3600 }, at(10))
}

#[test]
fn cycles_add_up_to_totals_averages_and_extremes() {
    let mut set = monitor().current;
    assert_eq!((set.average_latency(), set.average_cycle_bytes()), (None, 0));
    set.succeeded(cycle(20, 2, 4));
    set.succeeded(cycle(30, 4, 10));
    set.missed(3);
    set.failed(true);
    set.failed(false);
    set.application_consistent_failed();
    assert_eq!((set.cycles_ok, set.cycles_missed, set.cycles_failed, set.network_failures), (2, 3, 2, 1));
    assert_eq!(
        (set.bytes_changed, set.bytes_sent, set.max_cycle_bytes, set.average_cycle_bytes()),
        (14, 7, 10, 7)
    );
    assert_eq!((set.latency_total_ms, set.max_latency_ms), (6000, 4000));
    assert_eq!(set.average_latency(), Some(SignedDuration::from_secs(3)));
    assert_eq!((set.application_consistent_ok, set.application_consistent_failed), (1, 1));
    assert_eq!(set.application_consistent_failing, 1);
    assert_eq!(set.last_application_consistent_at, Some(at(20)));
    assert_eq!(set.last_replication_at, Some(at(30)));
    set.succeeded(cycle(30, 4, 4));
    assert_eq!((set.application_consistent_failed, set.application_consistent_failing), (1, 0));
}

#[test]
fn a_clock_set_back_makes_no_negative_latency() {
    let mut set = monitor().current;
    set.succeeded(cycle(20, -5, 1));
    assert_eq!(set.latency_total_ms, 0);
}

#[test]
fn windows_lie_where_the_start_and_the_length_put_them() {
    let window = Window { start: at(0), length_s: 3600 };
    assert_eq!(window.beginning(at(0)), at(0));
    assert_eq!(window.beginning(at(3599)), at(0));
    assert_eq!(window.beginning(at(3600)), at(3600));
    assert_eq!(window.beginning(at(-1)), at(-3600), "before the start too");
    let odd = Window { start: at(0) + SignedDuration::from_millis(700), length_s: 3600 };
    assert_eq!(odd.beginning(at(5)), odd.start);
    assert_eq!(odd.beginning(at(0)), odd.start - SignedDuration::from_secs(3600));
    assert_eq!(odd.beginning(at(-3600)), odd.start - SignedDuration::from_secs(7200));
}

#[test]
fn at_the_end_of_a_window_the_set_is_kept_and_counting_begins_anew() {
    let mut monitor = monitor();
    monitor.current.succeeded(cycle(20, 2, 4));
    monitor.current.pending_bytes = 77;
    assert!(!monitor.roll(at(3599)));
    assert!(monitor.roll(at(3600)));
    let last = monitor.last.clone().expect("the set that ended");
    assert_eq!((last.cycles_ok, last.start, last.end), (1, Some(at(0)), Some(at(3600))));
    assert_eq!(
        (monitor.current.cycles_ok, monitor.current.start, monitor.current.end),
        (0, Some(at(3600)), None)
    );
    assert_eq!(monitor.current.last_replication_at, Some(at(20)), "last times are carried over");
    assert_eq!(monitor.current.pending_bytes, 77);
}

#[test]
fn after_a_long_absence_the_set_that_was_counted_last_is_the_last_one() {
    let mut monitor = monitor();
    monitor.current.missed(5);
    assert!(monitor.roll(at(10 * 3600 + 5)));
    let last = monitor.last.clone().expect("the set that ended");
    assert_eq!((last.cycles_missed, last.end), (5, Some(at(3600))));
    assert_eq!(monitor.current.start, Some(at(10 * 3600)));
}

#[test]
fn a_clock_set_back_ends_no_window() {
    let mut monitor = monitor();
    monitor.current.missed(5);
    assert!(!monitor.roll(at(-100_000)));
    assert_eq!(monitor.current.cycles_missed, 5);
}

#[test]
fn a_reset_forgets_both_sets() {
    let mut monitor = monitor();
    monitor.current.missed(5);
    monitor.roll(at(4000));
    monitor.current.missed(6);
    monitor.reset(at(4100));
    assert_eq!(
        (monitor.current.cycles_missed, monitor.current.start, monitor.last),
        (0, Some(at(4100)), None)
    );
}

#[test]
fn a_window_out_of_range_is_refused() {
    for (length_s, good) in [(3599, false), (3600, true), (604_800, true), (604_801, false), (0, false)] {
        assert_eq!(Window { start: at(0), length_s }.validate().is_ok(), good, "{length_s}");
    }
    assert!(Window::default().validate().is_ok());
}
