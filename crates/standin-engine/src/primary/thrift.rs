//! Whether compressing pays on this link, found out while a pass runs.
//!
//! zstd's fastest level gives a few hundred MB/s on a core, and a core is also needed to read, hash and encrypt.
//! On a link that takes more than a Gbit/s, sending data as it is arrives sooner and leaves the processors to
//! the guests. So a long pass tries a stretch without compression and keeps to what it finds:
//!
//! ```text
//!   Compress ── 16 MiB, later 10 s ──> Drain ── what was begun is sent ──> Probe ── fast ──> Raw
//!      ^                                                                     │ slow           │ slow
//!      └─────────────────────────────────────────────────────────────────────┴────────────────┘
//! ```
//!
//! A short pass never gets beyond `Compress`. Pure: the time comes from the caller, [`super::pass`].

use standin_wire::block::Compression;
use std::time::{Duration, Instant};

/// Bytes a second above which data goes raw: what a Gbit/s carries is 117 MB/s, and there compressing pays.
const FAST: f64 = 140e6;
/// Bytes on the wire before the first try.
const FIRST_TRY: u64 = 16 << 20;
/// Before the next one, after a link was found slow.
const NEXT_TRY: Duration = Duration::from_secs(10);
/// A probe ends after so many bytes,
const PROBE_BYTES: u64 = 32 << 20;
/// or after this time: on a slow link it costs a fiftieth of the time at most.
const PROBE_TIME: Duration = Duration::from_millis(200);
/// While data goes raw, its rate is looked at once for so many bytes.
const WATCH_BYTES: u64 = 128 << 20;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Compress { sent: u64, until: Option<Instant> },
    Drain { left: u64 },
    Probe { since: Instant, sent: u64 },
    Raw { since: Instant, sent: u64 },
}

/// Decides block by block; one for a pass.
#[derive(Debug)]
pub(super) struct Thrift {
    wanted: Compression,
    /// Bytes that may be under way, chosen before a decision.
    under_way: u64,
    phase: Phase,
}

impl Thrift {
    /// `wanted` is the setting; where it is off, it stays off. `under_way` is the size of the pass's window.
    pub(super) fn new(wanted: Compression, under_way: u64) -> Self {
        Self { wanted, under_way, phase: Phase::Compress { sent: 0, until: None } }
    }

    /// How the next block is to be sent.
    pub(super) fn choice(&self) -> Compression {
        match self.phase {
            Phase::Compress { .. } => self.wanted,
            Phase::Drain { .. } | Phase::Probe { .. } | Phase::Raw { .. } => Compression::Off,
        }
    }

    /// `bytes` went on the wire.
    pub(super) fn sent(&mut self, bytes: u64, now: Instant) {
        self.phase = match self.phase {
            Phase::Compress { sent, until } => {
                let sent = sent + bytes;
                let due = until.map_or(sent >= FIRST_TRY, |until| now >= until);
                if due { Phase::Drain { left: self.under_way } } else { Phase::Compress { sent, until } }
            }
            Phase::Drain { left } if left > bytes => Phase::Drain { left: left - bytes },
            Phase::Drain { .. } => Phase::Probe { since: now, sent: 0 },
            Phase::Probe { since, sent } => {
                let (sent, took) = (sent + bytes, now.saturating_duration_since(since));
                if sent < PROBE_BYTES && took < PROBE_TIME {
                    Phase::Probe { since, sent }
                } else {
                    judged(sent, took, now)
                }
            }
            Phase::Raw { since, sent } if sent + bytes < WATCH_BYTES => {
                Phase::Raw { since, sent: sent + bytes }
            }
            Phase::Raw { since, sent } => judged(sent + bytes, now.saturating_duration_since(since), now),
        };
    }
}

fn judged(sent: u64, took: Duration, now: Instant) -> Phase {
    if sent as f64 >= FAST * took.as_secs_f64() {
        Phase::Raw { since: now, sent: 0 }
    } else {
        Phase::Compress { sent: 0, until: Some(now + NEXT_TRY) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZSTD: Compression = Compression::Zstd(1);
    const BLOCK: u64 = 256 << 10;

    /// Sends `total` bytes at a rate; how many of them were to be compressed.
    fn send(thrift: &mut Thrift, now: &mut Instant, total: u64, rate: f64) -> u64 {
        let mut compressed = 0;
        for _ in 0..total / BLOCK {
            if thrift.choice() == ZSTD {
                compressed += BLOCK;
            }
            *now += Duration::from_secs_f64(BLOCK as f64 / rate);
            thrift.sent(BLOCK, *now);
        }
        compressed
    }

    #[test]
    fn on_a_fast_link_only_the_beginning_is_compressed() {
        let (mut thrift, mut now) = (Thrift::new(ZSTD, 4 << 20), Instant::now());
        assert_eq!(send(&mut thrift, &mut now, 4 << 30, 500e6), FIRST_TRY);
        assert_eq!(thrift.choice(), Compression::Off);
    }

    #[test]
    fn on_a_slow_link_nearly_all_is_compressed() {
        let (mut thrift, mut now) = (Thrift::new(ZSTD, 4 << 20), Instant::now());
        let total = 8 << 30;
        let compressed = send(&mut thrift, &mut now, total, 110e6);
        assert!(compressed > total / 100 * 95, "{compressed} of {total}");
        assert!(compressed < total, "it was never tried");
    }

    #[test]
    fn a_probe_of_a_very_slow_link_is_short() {
        let (mut thrift, mut now) = (Thrift::new(ZSTD, 4 << 20), Instant::now());
        send(&mut thrift, &mut now, FIRST_TRY + (4 << 20), 1e6);
        assert_eq!(thrift.choice(), Compression::Off);
        // The block that begins the clock, and the one that ends it.
        send(&mut thrift, &mut now, 2 * BLOCK, 1e6);
        assert_eq!(thrift.choice(), ZSTD);
    }

    #[test]
    fn a_link_that_becomes_slow_is_noticed() {
        let (mut thrift, mut now) = (Thrift::new(ZSTD, 4 << 20), Instant::now());
        send(&mut thrift, &mut now, 1 << 30, 500e6);
        assert_eq!(thrift.choice(), Compression::Off);
        send(&mut thrift, &mut now, 2 * WATCH_BYTES, 50e6);
        assert_eq!(thrift.choice(), ZSTD);
    }

    #[test]
    fn compression_that_is_switched_off_stays_off_and_short_passes_are_compressed() {
        let mut now = Instant::now();
        let mut off = Thrift::new(Compression::Off, 4 << 20);
        assert_eq!(send(&mut off, &mut now, 1 << 30, 1e6), 0);
        let mut short = Thrift::new(ZSTD, 4 << 20);
        assert_eq!(send(&mut short, &mut now, FIRST_TRY, 5e9), FIRST_TRY);
    }
}
