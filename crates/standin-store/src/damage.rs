//! What the last check found damaged and the newest point still shows. A comparison with the primary reads digests,
//! not disks, so rot would look equal for ever. Until a newer layer covers the damage, the digests of its granules
//! and of every node above them are answered as one that no data has: a resynchronization then sends them.
//!
//! Kept beside the manifest, as JSON with a line of its checksum, so that a restart between check and resynchronization
//! forgets nothing. Invariants: a range leaves only when one layer that was sealed after it was found covers all of
//! it; a range that a crash brings back is only sent once more.

use crate::checked;
use crate::error::{Error, Result};
use crate::io::{Io, read_limited};
use crate::layout::Layout;
use crate::scrub::Ranges;
use serde::{Deserialize, Serialize};
use standin_model::DiskName;
use standin_model::digest::{BlockDigest, tree};
use std::collections::BTreeMap;

/// Largest file that is read.
const MAX_FILE: u64 = 64 << 20;

/// Granules, as half-open ranges by disk.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Damage(BTreeMap<DiskName, Vec<(u64, u64)>>);

impl Damage {
    pub(crate) fn new(mut found: BTreeMap<DiskName, Vec<(u64, u64)>>) -> Self {
        found.retain(|_, ranges| !ranges.is_empty());
        Self(found)
    }

    /// What an earlier process found. A file that cannot be used is said and left out: the next check finds all of
    /// it again, and damage must not keep a replica from being opened.
    pub(crate) fn load(layout: &Layout) -> Self {
        let path = layout.damage();
        if !path.exists() {
            return Self::default();
        }
        let read = read_limited(&path, MAX_FILE)
            .and_then(|bytes| parse(&bytes).map_err(|what| Error::corrupt(&path, what)));
        read.unwrap_or_else(|error| {
            tracing::error!(%error, "what the last check found is not known; check the store again");
            Self::default()
        })
    }

    /// Keeps it, durably; no file when there is none.
    pub(crate) fn save(&self, io: &Io, layout: &Layout) -> Result<()> {
        let path = layout.damage();
        if self.is_empty() {
            return if path.exists() { io.remove(&path) } else { Ok(()) };
        }
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::invalid(format!("a list of damage cannot be written: {error}")))?;
        io.write_atomic(&path, &checked::seal(text))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.values().all(Vec::is_empty)
    }

    /// A newer layer holds `covered` of a disk.
    pub(crate) fn healed(&mut self, disk: &DiskName, covered: &Ranges) {
        if let Some(ranges) = self.0.get_mut(disk) {
            ranges.retain(|(first, end)| !(*first..*end).all(|granule| covered.contains(granule)));
        }
        self.0.retain(|_, ranges| !ranges.is_empty());
    }

    /// Replaces the digests of nodes that stand on damage; `first` is the index of the first of them.
    pub(crate) fn mask(&self, disk: &DiskName, level: u32, first: u64, nodes: &mut [BlockDigest]) {
        let Some(ranges) = self.0.get(disk).filter(|ranges| !ranges.is_empty()) else { return };
        let width = (tree::FAN_OUT as u64).saturating_pow(level);
        // Shorter than any granule, so the digest of no granule; and no node's.
        let unlike_any = BlockDigest::of(b"damaged");
        for (index, node) in (first..).zip(nodes) {
            let (from, to) = (index.saturating_mul(width), index.saturating_add(1).saturating_mul(width));
            if ranges.iter().any(|(first, end)| *first < to && from < *end) {
                *node = unlike_any;
            }
        }
    }
}

/// The bytes of a file, checked.
fn parse(bytes: &[u8]) -> std::result::Result<Damage, String> {
    let found: Damage = serde_json::from_slice(checked::body(bytes)?)
        .map_err(|error| format!("it cannot be read: {error}"))?;
    match found.0.values().flatten().find(|(first, end)| first >= end) {
        Some((first, end)) => Err(format!("it has a range from {first} to {end}")),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_found_again_and_a_spoilt_file_is_not_believed() {
        let home = tempfile::tempdir().unwrap();
        let (io, layout) = (Io::default(), Layout::new(home.path().to_owned()));
        let damage = Damage::new([(DiskName::new("d").unwrap(), vec![(1, 2), (66, 68)])].into());
        assert_eq!(Damage::load(&layout), Damage::default());
        damage.save(&io, &layout).unwrap();
        assert_eq!(Damage::load(&layout), damage);
        let text = std::fs::read(layout.damage()).unwrap();
        for at in 0..text.len() {
            let mut spoilt = text.clone();
            spoilt[at] ^= 1;
            assert!(parse(&spoilt).is_err(), "byte {at}");
            assert!(parse(&text[..at]).is_err(), "{at} bytes");
        }
        Damage::default().save(&io, &layout).unwrap();
        assert!(!layout.damage().exists());
    }

    #[test]
    fn nodes_above_damage_are_unlike_any_until_a_layer_covers_all_of_it() {
        let disk = DiskName::new("d").unwrap();
        let plain = BlockDigest::of(b"data");
        let masked = |damage: &Damage, level, first| {
            let mut nodes = vec![plain; 4];
            damage.mask(&disk, level, first, &mut nodes);
            (0..4).filter(|node| nodes[*node] != plain).collect::<Vec<_>>()
        };
        let mut damage = Damage::new([(disk.clone(), vec![(66, 68)])].into());
        assert_eq!(masked(&damage, 0, 65), [1, 2]);
        assert_eq!(masked(&damage, 1, 0), [1]);
        assert_eq!(masked(&damage, 2, 0), [0]);
        assert!(masked(&damage, 0, 68).is_empty());
        damage.healed(&disk, &Ranges::of(vec![(60, 67)]));
        assert_eq!(masked(&damage, 0, 65), [1, 2], "half of it is not enough");
        damage.healed(&disk, &Ranges::of(vec![(66, 70)]));
        assert!(damage.is_empty() && masked(&damage, 0, 65).is_empty());
    }
}
