//! Slows down who guesses passwords: per address and per user, growing with each failure, in bounded memory.
//!
//! The first [`FREE`] failures cost nothing. From then on each attempt of that address or for that user gets a
//! slot in time: the next one begins a pause after this one, and the pause doubles with every failure. So
//! attempts made at the same time do not get around it. An attempt whose slot is too far away is not looked at
//! and is told when to come again. A user's pause stays short, because anybody can fail for him: guessing from
//! many addresses is slowed down, and he himself still gets in. What was remembered as right
//! ([`crate::users::Directory::recall`]) is not slowed down at all.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures before the first pause.
pub const FREE: u32 = 3;
/// The first pause; it doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause between two attempts of an address.
const MAX_ADDRESS_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause between two attempts for a user.
const MAX_USER_PAUSE: Duration = Duration::from_secs(2);
/// An attempt that would have to wait longer is refused at once.
pub const MAX_WAIT: Duration = Duration::from_secs(10);
/// Failures older than this are forgotten.
const FORGOTTEN: Duration = Duration::from_secs(900);
/// The most addresses and users remembered.
const MAX_ENTRIES: usize = 8192;

/// Addresses of one IPv6 network of 64 bits count as one: a host has them all. Users are kept as a keyed hash,
/// so that long names take no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Address(IpAddr),
    User(u64),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    failures: u32,
    last: Instant,
    next: Instant,
}

/// What to do with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Look at it after this time.
    After(Duration),
    /// Do not look at it; it may come again after this time.
    Refused(Duration),
}

/// Failed attempts of the last minutes. Shared by all listeners.
#[derive(Debug, Default)]
pub struct Throttle {
    entries: Mutex<HashMap<Key, Entry>>,
    hasher: RandomState,
}

impl Throttle {
    /// When an attempt may be looked at.
    pub fn admit(&self, now: Instant, from: IpAddr, user: &str) -> Admission {
        let keys = self.keys(from, user);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |entry: &&mut Entry| now.saturating_duration_since(entry.last) < FORGOTTEN;
        let mut wait = Duration::ZERO;
        for key in keys {
            if let Some(entry) = entries.get_mut(&key).filter(fresh) {
                wait = wait.max(entry.next.saturating_duration_since(now));
            }
        }
        if wait > MAX_WAIT {
            return Admission::Refused(wait);
        }
        for key in keys {
            if let Some(entry) = entries.get_mut(&key).filter(fresh) {
                entry.next = now + wait + pause(key, entry.failures);
            }
        }
        Admission::After(wait)
    }

    /// Notes a failure; returns how many there were of this address.
    pub fn failed(&self, now: Instant, from: IpAddr, user: &str) -> u32 {
        let [address, user] = self.keys(from, user);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        note(&mut entries, user, now);
        note(&mut entries, address, now)
    }

    /// Forgets the failures of a user who has proven who he is. Those of the address stay: one right password
    /// must not buy more guesses at others.
    pub fn succeeded(&self, user: &str) {
        let key = Key::User(self.hasher.hash_one(user));
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    fn keys(&self, from: IpAddr, user: &str) -> [Key; 2] {
        [Key::Address(network(from)), Key::User(self.hasher.hash_one(user))]
    }
}

fn note(entries: &mut HashMap<Key, Entry>, key: Key, now: Instant) -> u32 {
    if entries.len() >= MAX_ENTRIES && !entries.contains_key(&key) {
        make_room(entries, now);
    }
    let entry = entries.entry(key).or_insert(Entry { failures: 0, last: now, next: now });
    if now.saturating_duration_since(entry.last) >= FORGOTTEN {
        entry.failures = 0;
    }
    entry.failures = entry.failures.saturating_add(1);
    entry.last = now;
    entry.next = entry.next.max(now + pause(key, entry.failures));
    entry.failures
}

/// Drops what is forgotten anyway; if that is nothing, the quarter that was quiet for longest.
fn make_room(entries: &mut HashMap<Key, Entry>, now: Instant) {
    entries.retain(|_, entry| now.saturating_duration_since(entry.last) < FORGOTTEN);
    if entries.len() < MAX_ENTRIES {
        return;
    }
    let mut ages: Vec<Instant> = entries.values().map(|entry| entry.last).collect();
    let (_, limit, _) = ages.select_nth_unstable(MAX_ENTRIES / 4);
    let limit = *limit;
    let mut left = MAX_ENTRIES / 4;
    entries.retain(|_, entry| {
        let drop = entry.last <= limit && left > 0;
        left -= usize::from(drop);
        !drop
    });
}

fn pause(key: Key, failures: u32) -> Duration {
    if failures < FREE {
        return Duration::ZERO;
    }
    let longest = match key {
        Key::Address(_) => MAX_ADDRESS_PAUSE,
        Key::User(_) => MAX_USER_PAUSE,
    };
    FIRST_PAUSE.saturating_mul(1 << (failures - FREE).min(16)).min(longest)
}

/// What counts as one address.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(four) => IpAddr::V4(four),
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn waits(throttle: &Throttle, now: Instant, from: IpAddr, user: &str) -> Duration {
        match throttle.admit(now, from, user) {
            Admission::After(wait) | Admission::Refused(wait) => wait,
        }
    }

    #[test]
    fn a_few_failures_are_free_and_then_the_pause_grows() {
        let (one, now) = (Throttle::default(), Instant::now());
        let mut last = Duration::ZERO;
        for count in 1..12 {
            one.failed(now, HERE, "a");
            let wait = one.entries.lock().unwrap()[&Key::Address(HERE)].next - now;
            assert!(wait >= last && (count < FREE) == (wait == Duration::ZERO), "{count}: {wait:?}");
            last = wait;
        }
        assert_eq!(last, MAX_ADDRESS_PAUSE);
    }

    #[test]
    fn attempts_at_the_same_time_are_put_one_after_the_other_and_in_the_end_refused() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..6 {
            throttle.failed(now, HERE, "a");
        }
        let admitted: Vec<_> = (0..20).map(|_| throttle.admit(now, HERE, "a")).collect();
        let times: Vec<_> = admitted
            .iter()
            .filter_map(|admission| match admission {
                Admission::After(wait) => Some(*wait),
                Admission::Refused(_) => None,
            })
            .collect();
        assert!(times.windows(2).all(|pair| pair[1] >= pair[0] + Duration::from_secs(2)), "{times:?}");
        assert!(times.len() < 8, "{times:?}");
    }

    #[test]
    fn guessing_from_many_addresses_slows_the_user_down_but_never_for_long() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for index in 0..200_u8 {
            throttle.failed(now, IpAddr::V4([10, 0, 0, index].into()), "a");
        }
        assert_eq!(waits(&throttle, now, ELSEWHERE, "a"), MAX_USER_PAUSE);
        assert_eq!(waits(&throttle, now, ELSEWHERE, "b"), Duration::ZERO);
    }

    #[test]
    fn a_success_clears_the_user_and_not_the_address() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..8 {
            throttle.failed(now, HERE, "a");
        }
        throttle.succeeded("a");
        assert_eq!(waits(&throttle, now, ELSEWHERE, "a"), Duration::ZERO);
        assert!(waits(&throttle, now, HERE, "b") > Duration::ZERO);
    }

    #[test]
    fn failures_are_forgotten_after_a_quarter_of_an_hour() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..8 {
            throttle.failed(now, HERE, "a");
        }
        assert_eq!(waits(&throttle, now + FORGOTTEN, HERE, "a"), Duration::ZERO);
        assert_eq!(throttle.failed(now + FORGOTTEN, HERE, "a"), 1);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_a_mapped_one_is_ipv4() {
        let a: IpAddr = "2001:db8:1:2::1".parse().unwrap();
        let b: IpAddr = "2001:db8:1:2:ffff::9".parse().unwrap();
        assert_eq!(network(a), network(b));
        assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()), HERE);
    }

    #[test]
    fn memory_is_bounded_however_many_names_are_tried() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for index in 0..3 * MAX_ENTRIES {
            throttle.failed(now + Duration::from_micros(index as u64), HERE, &format!("user{index}"));
        }
        assert!(throttle.entries.lock().unwrap().len() <= MAX_ENTRIES);
        assert!(waits(&throttle, now + Duration::from_secs(1), HERE, "x") > Duration::ZERO);
    }
}
