//! What the last check found damaged and the newest point still shows. A comparison with the primary reads digests,
//! not disks, so rot would look equal for ever. Until a newer layer covers the damage, the digests of its granules
//! and of every node above them are answered as one that no data has: a resynchronization then sends them.
//!
//! Kept in memory: after a restart the next check finds it again. Invariant: a range leaves only when one layer that
//! was sealed after it was found covers all of it.

use crate::scrub::Ranges;
use standin_model::DiskName;
use standin_model::digest::{BlockDigest, tree};
use std::collections::BTreeMap;

/// Granules, as half-open ranges by disk.
#[derive(Debug, Default)]
pub(crate) struct Damage(BTreeMap<DiskName, Vec<(u64, u64)>>);

impl Damage {
    pub(crate) fn new(found: BTreeMap<DiskName, Vec<(u64, u64)>>) -> Self {
        Self(found)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.values().all(Vec::is_empty)
    }

    /// A newer layer holds `covered` of a disk.
    pub(crate) fn healed(&mut self, disk: &DiskName, covered: &Ranges) {
        if let Some(ranges) = self.0.get_mut(disk) {
            ranges.retain(|(first, end)| !(*first..*end).all(|granule| covered.contains(granule)));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
