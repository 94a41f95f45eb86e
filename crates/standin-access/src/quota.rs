//! What the protocols may keep for clients between two requests: results that are read page by page.
//!
//! Clients go away without a word: a script crashes, a shell takes the first object and forgets the others. So a
//! full quota is no reason to refuse the next request; what was not asked for the longest goes instead. Invariants:
//!
//! - All together never exceed the quota, in number and in bytes.
//! - One's own come first: another user's goes only when the whole is full, and then that of the user who holds
//!   most, so that nobody can drive out somebody who holds less than he does.
//! - A result is refused only when it is larger than a user may hold, or when it would drive out such others.
//!
//! Called by `standin-wsman` and `standin-cimxml` when they keep a result; pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How much may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Results of one user.
    pub of_one: usize,
    /// Results of all users.
    pub of_all: usize,
    /// Bytes of one user's results.
    pub bytes_of_one: usize,
    /// Bytes of all results.
    pub bytes_of_all: usize,
}

impl Default for Quota {
    fn default() -> Self {
        Self { of_one: 500, of_all: 2000, bytes_of_one: 64 << 20, bytes_of_all: 256 << 20 }
    }
}

/// A result that is kept.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a, K> {
    /// What it is found by.
    pub key: K,
    /// Whose it is.
    pub owner: &'a str,
    /// What it occupies.
    pub bytes: usize,
    /// When it was last asked for.
    pub used: Instant,
}

/// Why a result is not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// It alone is larger than its user may hold.
    #[error(
        "the result has {bytes} bytes, and {most} are the most that are kept for one user; ask for less at once"
    )]
    TooLarge {
        /// The result's size.
        bytes: usize,
        /// The most that is kept.
        most: usize,
    },
    /// Others hold the rest, each of them less than this would be.
    #[error(
        "results of other users leave no room for one of {bytes} bytes; ask for less at once, or try again later"
    )]
    Full {
        /// The result's size.
        bytes: usize,
    },
}

/// What one user holds.
#[derive(Default, Clone, Copy)]
struct Share {
    count: usize,
    bytes: usize,
}

/// Which results have to go before one of `bytes` bytes can be kept for `owner`; usually none.
///
/// # Errors
/// [`NoRoom`]; nothing goes then.
pub fn make_room<'a, K: Copy>(
    quota: &Quota,
    held: impl Iterator<Item = Held<'a, K>>,
    owner: &'a str,
    bytes: usize,
) -> Result<Vec<K>, NoRoom> {
    let most = quota.bytes_of_one.min(quota.bytes_of_all);
    if bytes > most {
        return Err(NoRoom::TooLarge { bytes, most });
    }
    let mut left: Vec<Held<'a, K>> = held.collect();
    let mut shares: HashMap<&str, Share> = HashMap::from([(owner, Share { count: 1, bytes })]);
    let mut all = Share { count: 1, bytes };
    for one in &left {
        let share = shares.entry(one.owner).or_default();
        for sum in [share, &mut all] {
            sum.count += 1;
            sum.bytes += one.bytes;
        }
    }
    let mut gone = Vec::new();
    let mut sorted = false;
    while let Some(loser) = loser(quota, &shares, all, owner) {
        if !sorted {
            left.sort_by_key(|one| one.used);
            sorted = true;
        }
        let at = left.iter().position(|one| one.owner == loser).ok_or(NoRoom::Full { bytes })?;
        let one = left.remove(at);
        for sum in shares.get_mut(loser).into_iter().chain([&mut all]) {
            sum.count -= 1;
            sum.bytes -= one.bytes;
        }
        gone.push(one.key);
    }
    Ok(gone)
}

/// Whose oldest result goes next; `None` when everything has room.
fn loser<'a>(quota: &Quota, shares: &HashMap<&'a str, Share>, all: Share, owner: &'a str) -> Option<&'a str> {
    let own = shares.get(owner).copied().unwrap_or_default();
    if own.count > quota.of_one.max(1) || own.bytes > quota.bytes_of_one {
        return Some(owner);
    }
    let most = |by: fn(&Share) -> usize| {
        let largest = shares.iter().max_by_key(|(name, share)| (by(share), **name == owner));
        largest.map(|(name, _)| *name)
    };
    if all.count > quota.of_all.max(1) {
        most(|share| share.count)
    } else if all.bytes > quota.bytes_of_all {
        most(|share| share.bytes)
    } else {
        None
    }
}

/// How often what is kept in vain is dropped while nobody asks for anything.
pub const SWEEP: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Quota = Quota { of_one: 3, of_all: 5, bytes_of_one: 100, bytes_of_all: 150 };

    /// Keys count up with time.
    fn held<'a>(start: Instant, all: &[(&'a str, usize)]) -> Vec<Held<'a, usize>> {
        let one = |(key, (owner, bytes)): (usize, &(&'a str, usize))| {
            let used = start + Duration::from_secs(key as u64);
            Held { key, owner, bytes: *bytes, used }
        };
        all.iter().enumerate().map(one).collect()
    }

    fn gone(all: &[(&str, usize)], owner: &str, bytes: usize) -> Vec<usize> {
        // The order in which they are looked at says nothing.
        make_room(&SMALL, held(Instant::now(), all).into_iter().rev(), owner, bytes).unwrap()
    }

    #[test]
    fn what_has_room_drives_out_nothing() {
        assert!(gone(&[], "anna", 100).is_empty());
        assert!(gone(&[("anna", 10), ("bert", 100)], "anna", 40).is_empty());
    }

    #[test]
    fn ones_own_oldest_goes_first() {
        assert_eq!(gone(&[("bert", 1), ("anna", 1), ("anna", 1), ("anna", 1)], "anna", 1), [1]);
        assert_eq!(gone(&[("bert", 1), ("anna", 40), ("anna", 40)], "anna", 50), [1], "by bytes");
        assert_eq!(gone(&[("anna", 40), ("anna", 40)], "anna", 100), [0, 1]);
    }

    #[test]
    fn when_all_is_full_the_one_who_holds_most_gives() {
        let full = [("bert", 1), ("anna", 1), ("bert", 1), ("bert", 1), ("cora", 1)];
        assert_eq!(gone(&full, "dora", 1), [0]);
        assert_eq!(gone(&[("anna", 10), ("bert", 90), ("cora", 20)], "dora", 80), [1], "by bytes");
        let less = held(Instant::now(), &[("anna", 60), ("bert", 60)]);
        let refused = make_room(&SMALL, less.into_iter(), "dora", 70);
        assert_eq!(refused.unwrap_err(), NoRoom::Full { bytes: 70 }, "nobody holds as much");
        // Who holds as much as the largest gives himself.
        let even = [("bert", 1), ("bert", 1), ("anna", 1), ("anna", 1), ("cora", 1)];
        assert_eq!(gone(&even, "anna", 1), [2]);
    }

    #[test]
    fn a_newcomer_cannot_drive_out_all_others_however_often_he_comes() {
        let start = Instant::now();
        let mut kept = held(start, &[("bert", 1), ("bert", 1), ("cora", 1)]);
        for key in 3..50 {
            for gone in make_room(&SMALL, kept.clone().into_iter(), "mallory", 1).unwrap() {
                kept.retain(|one| one.key != gone);
            }
            kept.push(Held {
                key,
                owner: "mallory",
                bytes: 1,
                used: start + Duration::from_secs(key as u64),
            });
            assert!(kept.len() <= SMALL.of_all);
        }
        assert!(kept.iter().any(|one| one.owner == "cora") && kept.iter().any(|one| one.owner == "bert"));
    }

    #[test]
    fn what_can_never_have_room_is_refused_and_nothing_goes() {
        let refused = make_room(&SMALL, held(Instant::now(), &[("anna", 1)]).into_iter(), "anna", 101);
        assert_eq!(refused.unwrap_err(), NoRoom::TooLarge { bytes: 101, most: 100 });
    }
}
