//! Which two neighbouring layers to merge next. Pure.
//!
//! A layer may go into the one above it when no recovery point ends at it and no overlay stands on it. Between
//! two points that stay, everything is merged into one file. Behind the last point but the newest, where every
//! cycle adds a layer, only layers of like size are merged, so that each byte is copied a logarithmic number
//! of times and the chain still stays short.

use crate::manifest::{Disk, Manifest};
use standin_model::{DiskName, Epoch};
use std::collections::BTreeMap;

/// Layers of unlike size that may wait behind the last point; beyond, the cheapest are merged all the same.
const MAX_WAITING: usize = 12;
/// Two layers are of like size when neither is larger than this many times the other.
const LIKE: u64 = 2;
/// What a layer costs at least: opening, tables, the sync.
const FILE_COST: u64 = 256 << 10;

/// A merge that may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) disk: DiskName,
    pub(crate) lower: Epoch,
    pub(crate) upper: Epoch,
    pub(crate) into_base: bool,
    cost: u64,
}

/// Whether `lower` of any disk may be merged into `upper`, by points and overlays.
pub(crate) fn allowed(manifest: &Manifest, lower: Epoch, upper: Epoch) -> bool {
    let needed = manifest.points.iter().any(|point| lower <= point.epoch && point.epoch < upper);
    !needed && manifest.frozen().is_none_or(|frozen| frozen < lower)
}

/// The base may be written in place: nobody reads an epoch that ends below `upper`.
pub(crate) fn base_is_quiet(readers: &BTreeMap<Epoch, usize>, upper: Epoch) -> bool {
    readers.range(..upper).next().is_none()
}

/// The cheapest merge that is worth its cost now.
pub(crate) fn choose(manifest: &Manifest, readers: &BTreeMap<Epoch, usize>) -> Option<Candidate> {
    let per_disk = manifest.disks.iter().filter_map(|disk| choose_on(manifest, disk, readers));
    per_disk.min_by_key(|candidate| candidate.cost)
}

fn choose_on(manifest: &Manifest, disk: &Disk, readers: &BTreeMap<Epoch, usize>) -> Option<Candidate> {
    // Behind this epoch only like sizes merge: the gap is still open.
    let settled = manifest.points.iter().rev().nth(1).map(|point| point.epoch);
    let mut waiting: Vec<Candidate> = Vec::new();
    let mut ready: Vec<Candidate> = Vec::new();
    for (number, pair) in disk.layers.windows(2).enumerate() {
        let (lower, upper) = (&pair[0], &pair[1]);
        let into_base = number == 0;
        if !allowed(manifest, lower.epoch, upper.epoch) || (into_base && !base_is_quiet(readers, upper.epoch))
        {
            continue;
        }
        let (a, b) = (lower.stored + FILE_COST, upper.stored + FILE_COST);
        let cost = if into_base { b } else { a + b };
        let candidate =
            Candidate { disk: disk.name.clone(), lower: lower.epoch, upper: upper.epoch, into_base, cost };
        let closed = settled.is_some_and(|settled| upper.epoch <= settled);
        if into_base || closed || (a <= LIKE * b && b <= LIKE * a) {
            ready.push(candidate);
        } else {
            waiting.push(candidate);
        }
    }
    if ready.is_empty() && waiting.len() > MAX_WAITING {
        ready = waiting;
    }
    ready.into_iter().min_by_key(|candidate| candidate.cost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{FORMAT, Layer, Point};
    use jiff::Timestamp;
    use standin_model::{Generation, PointId, PointKind, VmId, VmName};

    fn manifest(layers: &[(u64, u64)], points: &[u64]) -> Manifest {
        let now = Timestamp::UNIX_EPOCH;
        let point = |epoch: &u64| Point {
            id: PointId::random(),
            epoch: Epoch(*epoch),
            created_at: now,
            received_at: now,
            kind: PointKind::Standard,
            changed_bytes: 0,
            digest: String::new(),
            pins: Default::default(),
            config_epoch: None,
        };
        Manifest {
            format: FORMAT,
            vm: VmId::random(),
            name: VmName::new("v").expect("a name"),
            created_at: now,
            generation: Generation(0),
            granule: 4096,
            detached: false,
            disks: vec![Disk {
                name: DiskName::new("vda").expect("a name"),
                size: 1 << 30,
                layers: layers
                    .iter()
                    .map(|(epoch, mib)| Layer { epoch: Epoch(*epoch), stored: mib << 20 })
                    .collect(),
            }],
            points: points.iter().map(point).collect(),
            configs: Vec::new(),
            overlays: Vec::new(),
            merges: Vec::new(),
            engine: serde_json::Value::Null,
        }
    }

    fn pair(manifest: &Manifest) -> Option<(u64, u64)> {
        choose(manifest, &BTreeMap::new()).map(|c| (c.lower.0, c.upper.0))
    }

    #[test]
    fn a_layer_at_which_a_point_ends_stays() {
        assert_eq!(pair(&manifest(&[(0, 100), (1, 1), (2, 1)], &[1, 2])), Some((0, 1)));
        assert_eq!(pair(&manifest(&[(1, 100), (2, 1)], &[1, 2])), None);
    }

    #[test]
    fn a_gap_between_two_kept_points_closes_whatever_the_sizes() {
        assert_eq!(pair(&manifest(&[(1, 9), (2, 1), (3, 500), (4, 1)], &[1, 3, 4])), Some((2, 3)));
    }

    #[test]
    fn where_layers_still_arrive_a_large_one_is_not_copied_for_a_small_one() {
        assert_eq!(pair(&manifest(&[(1, 9), (2, 400), (3, 1)], &[1, 3])), None);
        assert_eq!(pair(&manifest(&[(1, 9), (2, 2), (3, 1)], &[1, 3])), Some((2, 3)));
    }

    #[test]
    fn an_hour_of_cycles_leaves_a_short_chain_and_copies_each_byte_a_few_times() {
        let mut state = manifest(&[(1, 1000)], &[1]);
        let mut copied = 0;
        for epoch in 2..722 {
            state.disks[0].layers.push(Layer { epoch: Epoch(epoch), stored: 10 << 20 });
            let newest = Point { epoch: Epoch(epoch), id: PointId::random(), ..state.points[0].clone() };
            state.points.truncate(1);
            state.points.push(newest);
            while let Some(c) = choose(&state, &BTreeMap::new()) {
                copied += c.cost;
                let layers = &mut state.disks[0].layers;
                let at = layers.iter().position(|layer| layer.epoch == c.lower).expect("listed");
                let gone = layers.remove(at);
                layers[at].stored += gone.stored;
            }
            assert!(state.disks[0].layers.len() <= 20, "{} layers", state.disks[0].layers.len());
        }
        let written = 720 * (10 << 20);
        assert!(copied < written * 12, "copied {copied} for {written}");
    }

    #[test]
    fn nothing_under_an_overlay_is_merged_and_a_reader_keeps_the_base() {
        let mut state = manifest(&[(0, 9), (1, 1), (2, 1), (3, 1), (4, 1)], &[2, 4]);
        assert_eq!(pair(&state), Some((0, 1)));
        let readers = BTreeMap::from([(Epoch(0), 1)]);
        assert!(choose(&state, &readers).is_some_and(|c| !c.into_base));
        state.overlays.push(crate::manifest::OverlayRecord {
            id: "t".into(),
            point: state.points[0].id,
            epoch: Epoch(2),
            purpose: crate::manifest::Purpose::Test,
            backing: crate::manifest::Backing::Chain,
            created_at: Timestamp::UNIX_EPOCH,
            committed: false,
        });
        assert_eq!(pair(&state), Some((3, 4)));
    }
}
