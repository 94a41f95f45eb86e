//! A replica beside a model of it: plain bytes per disk and point.

use jiff::Timestamp;
use standin_model::{BlockDigest, DiskName, Epoch, PointId, PointKind, VmId, VmName};
use standin_store::{
    ConfigFile, DiskSpec, Kind, LayerWriter, NewPoint, Replica, ReplicaSpec, Result, SealRequest, Store,
    StoreOptions,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A change of one layer: granules `first..first+count` of a disk; fill 0 is zeros.
#[derive(Debug, Clone)]
pub struct Change {
    pub disk: usize,
    pub first: u64,
    pub count: u64,
    pub fill: u8,
}

pub fn change(disk: usize, first: u64, count: u64, fill: u8) -> Change {
    Change { disk, first, count, fill }
}

/// A directory in memory where there is one: the tests sync a lot.
pub fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).expect("a directory in /dev/shm")
    } else {
        tempfile::tempdir().expect("a temporary directory")
    }
}

pub fn options(location: &Path) -> StoreOptions {
    StoreOptions { locations: vec![location.to_owned()], reserve: 0, ..StoreOptions::default() }
}

pub fn disk(number: usize) -> DiskName {
    DiskName::new(format!("vd{}", char::from(b'a' + u8::try_from(number).expect("few disks"))))
        .expect("a name")
}

pub fn spec(sizes: &[u64], granule: u32) -> ReplicaSpec {
    ReplicaSpec {
        vm: VmId::random(),
        name: VmName::new("web").expect("a name"),
        disks: sizes.iter().enumerate().map(|(n, size)| DiskSpec { name: disk(n), size: *size }).collect(),
        granule,
    }
}

/// Data that differs from granule to granule and is the same for the same place and fill.
pub fn pattern(offset: u64, length: u64, fill: u8) -> Vec<u8> {
    let word = |at: u64| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(fill) << 32)).to_le_bytes();
    (offset..offset + length)
        .map(|at| if fill == 0 { 0 } else { word(at / 8)[(at % 8) as usize] | 1 })
        .collect()
}

pub fn digests(data: &[u8], granule: u32) -> Vec<BlockDigest> {
    data.chunks(granule as usize).map(BlockDigest::of).collect()
}

/// What the disks of a VM hold.
pub type Disks = Vec<Vec<u8>>;

pub struct Rig {
    pub granule: u32,
    pub now: Disks,
    /// Every epoch that was sealed, with its point.
    pub history: BTreeMap<Epoch, (Option<PointId>, Disks)>,
}

impl Rig {
    pub fn new(sizes: &[u64], granule: u32) -> Self {
        let now = sizes.iter().map(|size| vec![0; *size as usize]).collect();
        Self { granule, now, history: BTreeMap::new() }
    }

    fn range(&self, change: &Change) -> (u64, u64) {
        let size = self.now[change.disk].len() as u64;
        let granule = u64::from(self.granule);
        let from = (change.first * granule).min(size);
        (from, (from + change.count * granule).min(size))
    }

    pub fn apply(&mut self, change: &Change) {
        let (from, to) = self.range(change);
        self.now[change.disk][from as usize..to as usize].copy_from_slice(&pattern(
            from,
            to - from,
            change.fill,
        ));
    }

    /// Writes changes into a layer, and into the model only if that works.
    pub fn write(&mut self, layer: &LayerWriter, changes: &[Change]) -> Result<()> {
        for change in changes {
            let (from, to) = self.range(change);
            if from == to {
                continue;
            }
            if change.fill == 0 && change.count % 2 == 0 {
                layer.write_zeroes(&disk(change.disk), from, to - from)?;
            } else {
                let data = pattern(from, to - from, change.fill);
                layer.write(&disk(change.disk), from, &data, &digests(&data, self.granule))?;
            }
            self.apply(change);
        }
        Ok(())
    }

    /// One whole layer. The model keeps what is sealed; on an error it is as before.
    pub fn layer(
        &mut self,
        replica: &Replica,
        epoch: u64,
        changes: &[Change],
        point: bool,
    ) -> Result<Option<PointId>> {
        let before = self.now.clone();
        let outcome = self.try_layer(replica, epoch, changes, point);
        if outcome.is_err() {
            self.now = before;
        }
        outcome
    }

    fn try_layer(
        &mut self,
        replica: &Replica,
        epoch: u64,
        changes: &[Change],
        point: bool,
    ) -> Result<Option<PointId>> {
        let kind = if replica.head_epoch().is_none() { Kind::Base } else { Kind::Delta };
        let layer = replica.begin(Epoch(epoch), kind)?;
        self.write(&layer, changes)?;
        let id = point.then(PointId::random);
        // Recorded before the answer: a crash in the seal may leave the point behind.
        self.history.insert(Epoch(epoch), (id, self.now.clone()));
        layer.seal(request(id, epoch))?;
        Ok(id)
    }

    /// Every point of the replica shows what the model says.
    pub fn verify(&self, replica: &Replica) {
        for point in replica.points() {
            let (id, disks) = self.history.get(&point.epoch).expect("a point that was sealed");
            assert_eq!(*id, Some(point.id));
            let reader = replica.reader(point.id).expect("the point can be read");
            for (number, wanted) in disks.iter().enumerate() {
                let read = |(n, part): (usize, &[u8])| {
                    reader.read(&disk(number), (n as u64) << 20, part.len() as u64).expect("reads")
                };
                let found: Vec<u8> = wanted.chunks(1 << 20).enumerate().flat_map(read).collect();
                assert!(
                    found == *wanted,
                    "disk {number} of epoch {} differs at {:?}",
                    point.epoch,
                    first(&found, wanted)
                );
                self.verify_extents(&reader, number, wanted);
            }
            assert_eq!(point.digest, self.digest(disks), "digest of epoch {}", point.epoch);
        }
    }

    fn verify_extents(&self, reader: &standin_store::PointReader, number: usize, wanted: &[u8]) {
        let mut at = 0;
        for extent in reader.extents(&disk(number), 0, wanted.len() as u64).expect("extents") {
            assert_eq!(extent.offset, at, "a gap in the extents");
            at += extent.length;
            let data = &wanted[extent.offset as usize..at as usize];
            assert!(!extent.zero || data.iter().all(|byte| *byte == 0), "data that is said to be zeros");
        }
        assert_eq!(at, wanted.len() as u64);
    }

    pub fn digest(&self, disks: &Disks) -> String {
        let roots: Vec<_> = disks
            .iter()
            .enumerate()
            .map(|(n, data)| {
                let root = standin_model::digest::tree::root(digests(data, self.granule));
                (disk(n), data.len() as u64, root)
            })
            .collect();
        standin_store::point_digest(self.granule, roots.iter().map(|(name, size, root)| (name, *size, *root)))
    }

    /// The newest digests are those of the newest sealed epoch.
    pub fn verify_tree(&self, replica: &Replica) {
        let Some(head) = replica.head_epoch() else { return };
        for (number, data) in self.history[&head].1.iter().enumerate() {
            let wanted = digests(data, self.granule);
            let found = replica.leaf_digests(&disk(number), 0, 1 << 20).expect("leaves");
            let differs = found.iter().zip(&wanted).position(|(a, b)| a != b);
            assert!(found == wanted, "the digest of granule {differs:?} of disk {number} differs");
            assert_eq!(replica.root(&disk(number)).expect("root"), standin_model::digest::tree::root(wanted));
        }
    }
}

fn first(a: &[u8], b: &[u8]) -> Option<usize> {
    a.iter().zip(b).position(|(a, b)| a != b)
}

pub fn request(point: Option<PointId>, epoch: u64) -> SealRequest {
    let seconds = i64::try_from(epoch).expect("small") * 60;
    let created_at = Timestamp::from_second(seconds).expect("in range");
    let config = vec![
        ConfigFile { name: "vm.toml".into(), data: format!("memory = {}\n", epoch / 3).into_bytes() },
        ConfigFile { name: "kernel".into(), data: vec![7; 5000] },
    ];
    SealRequest { point: point.map(|id| NewPoint { id, created_at, kind: PointKind::Standard }), config }
}

/// Merges until there is nothing to merge; how many layers went.
pub fn merge_all(replica: &Replica, max_bytes: u64) -> Result<usize> {
    let budget = standin_store::MergeBudget { max_bytes };
    let mut merged = 0;
    loop {
        match replica.merge_step(&budget)? {
            standin_store::MergeOutcome::Idle => return Ok(merged),
            standin_store::MergeOutcome::Merged { .. } => merged += 1,
            standin_store::MergeOutcome::Progress { .. } => {}
        }
    }
}

pub fn assert_good(store: &Store) {
    let report = store.check(None, &mut |_, _| {}).expect("checks");
    assert!(report.good(), "{report:#?}");
}

/// The file of a layer.
pub fn layer_file(replica: &Replica, number: usize, epoch: Epoch) -> PathBuf {
    replica.directory().join("disks").join(disk(number).as_str()).join(format!("{:012}.qcow2", epoch.0))
}
