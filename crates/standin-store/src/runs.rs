//! Digests of runs of granules, and laying a newer series of runs over an older one.
//!
//! The same operation sorts what a writer got out of order, merges the sidecars of two layers, and gives the
//! digests of a whole point from those of its layers. It streams: memory does not grow with the disk.

use crate::error::Result;
use standin_model::digest::BlockDigest;
use std::iter::Peekable;

/// Digests in one run at most, so that a run is small in memory and on disk.
pub(crate) const MAX_DIGESTS: u64 = 4096;

/// What a run of granules holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Zeros, any number of granules.
    Zero,
    /// One digest a granule.
    Data(Vec<BlockDigest>),
}

/// Digests of `count` granules from `first` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) content: Content,
}

impl Run {
    pub(crate) fn zero(first: u64, count: u64) -> Self {
        Self { first, count, content: Content::Zero }
    }

    pub(crate) fn data(first: u64, digests: Vec<BlockDigest>) -> Self {
        Self { first, count: digests.len() as u64, content: Content::Data(digests) }
    }

    pub(crate) fn end(&self) -> u64 {
        self.first + self.count
    }

    /// The part within `from..to`, `None` when there is none.
    pub(crate) fn clip(&self, from: u64, to: u64) -> Option<Self> {
        let (first, end) = (self.first.max(from), self.end().min(to));
        if first >= end {
            return None;
        }
        let content = match &self.content {
            Content::Zero => Content::Zero,
            Content::Data(digests) => {
                let skip = usize::try_from(first - self.first).ok()?;
                let take = usize::try_from(end - first).ok()?;
                Content::Data(digests.get(skip..skip + take)?.to_vec())
            }
        };
        Some(Self { first, count: end - first, content })
    }
}

/// A series of runs, ascending and without overlap.
pub(crate) type Runs<'a> = Box<dyn Iterator<Item = Result<Run>> + 'a>;

/// `newer` where it says something, `older` elsewhere.
pub(crate) struct Overlay<'a> {
    newer: Peekable<Runs<'a>>,
    older: Peekable<Runs<'a>>,
    /// Granules below this are done.
    done: u64,
}

/// Lays `newer` over `older`.
pub(crate) fn overlay<'a>(newer: Runs<'a>, older: Runs<'a>) -> Runs<'a> {
    Box::new(Overlay { newer: newer.peekable(), older: older.peekable(), done: 0 })
}

/// Lays all series over each other; the last one is the newest. The depth is the logarithm of their number.
pub(crate) fn overlay_all(mut series: Vec<Runs<'_>>) -> Runs<'_> {
    while series.len() > 1 {
        let mut next = Vec::with_capacity(series.len().div_ceil(2));
        let mut pairs = series.into_iter();
        while let Some(older) = pairs.next() {
            next.push(match pairs.next() {
                Some(newer) => overlay(newer, older),
                None => older,
            });
        }
        series = next;
    }
    series.pop().unwrap_or_else(|| Box::new(std::iter::empty()))
}

impl Overlay<'_> {
    /// Where the next newer run begins; an error there is handed out by `next`.
    fn newer_first(&mut self) -> Option<u64> {
        match self.newer.peek() {
            Some(Ok(run)) => Some(run.first),
            Some(Err(_)) => Some(self.done),
            None => None,
        }
    }
}

impl Iterator for Overlay<'_> {
    type Item = Result<Run>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let limit = self.newer_first();
            let older = match self.older.peek() {
                Some(Ok(run)) => Some((run.first.max(self.done), run.end())),
                Some(Err(_)) => return self.older.next(),
                None => None,
            };
            let Some((start, end)) = older else { return self.newer.next() };
            if end <= self.done {
                self.older.next();
                continue;
            }
            if limit.is_some_and(|limit| limit <= start) {
                let newer = self.newer.next();
                if let Some(Ok(run)) = &newer {
                    self.done = run.end();
                }
                return newer;
            }
            let until = limit.map_or(end, |limit| limit.min(end));
            let piece = match self.older.peek() {
                Some(Ok(run)) => run.clip(start, until),
                _ => None,
            };
            self.done = until;
            if let Some(piece) = piece {
                return Some(Ok(piece));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest(n: u8) -> BlockDigest {
        BlockDigest::from_bytes([n; 16])
    }

    /// One series as a map granule -> digest.
    fn flatten(runs: Runs<'_>) -> Vec<(u64, BlockDigest)> {
        let mut all = Vec::new();
        let mut last = 0;
        for run in runs {
            let run = run.expect("no errors here");
            assert!(run.first >= last && run.count > 0, "not ascending at {}", run.first);
            last = run.end();
            match run.content {
                Content::Zero => all.extend((run.first..last).map(|g| (g, BlockDigest::ZERO))),
                Content::Data(digests) => all.extend((run.first..).zip(digests)),
            }
        }
        all
    }

    fn series() -> impl Strategy<Value = Vec<Run>> {
        proptest::collection::vec((0_u64..6, 1_usize..6, 0_u8..4), 0..12).prop_map(|parts| {
            let mut at = 0;
            parts
                .into_iter()
                .map(|(gap, count, n)| {
                    let first = at + gap;
                    at = first + count as u64;
                    if n == 0 {
                        Run::zero(first, count as u64)
                    } else {
                        Run::data(first, vec![digest(n); count])
                    }
                })
                .collect()
        })
    }

    fn boxed(runs: &[Run]) -> Runs<'_> {
        Box::new(runs.iter().cloned().map(Ok))
    }

    proptest! {
        #[test]
        fn laid_over_each_other_the_newest_wins_everywhere(layers in proptest::collection::vec(series(), 1..6)) {
            let mut model = std::collections::BTreeMap::new();
            for layer in &layers {
                model.extend(flatten(boxed(layer)));
            }
            let found = flatten(overlay_all(layers.iter().map(|layer| boxed(layer)).collect()));
            prop_assert_eq!(found, model.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_below_is_not_swallowed() {
        let broken: Runs<'_> = Box::new([Ok(Run::zero(0, 1)), Err(crate::Error::Poisoned)].into_iter());
        let all: Vec<_> = overlay(Box::new([Ok(Run::zero(5, 1))].into_iter()), broken).collect();
        assert!(all.iter().any(Result::is_err));
    }
}
