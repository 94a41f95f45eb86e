//! Two hosts, a link, and a VM with two disks whose sizes are no multiples of anything round.

use crate::host::{Host, State, until};
use crate::link::Link;
use rand::{RngCore, SeedableRng};
use standin_engine::replica::failover::Failover;
use standin_engine::vm::Asserts;
use standin_engine::{Command, Enable};
use standin_model::job::{JobRecord, JobState};
use standin_model::settings::RelationshipSettings;
use standin_model::state::ReplicationState;
use standin_model::{DiskName, JobId, PointId, RecoveryPoint, Refusal, ReturnCode, VmId};
use standin_state::MemoryStore;
use standin_wire::{Identity, PkiDir};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// 3 MiB and three sectors; 1 MiB, a granule and a sector.
pub const SIZE_A: u64 = 3 * MIB + 3 * 512;
pub const SIZE_B: u64 = MIB + 4 * KIB + 512;

/// Contents of all disks.
pub type Contents = BTreeMap<DiskName, Vec<u8>>;

/// A primary `a`, a replica `b`, and between them a link.
pub struct World {
    pub a: Host,
    pub b: Host,
    pub link: Link,
    pub vm: VmId,
    _keep: TempDir,
}

pub fn disk(name: &str) -> DiskName {
    DiskName::new(name).expect("a disk name")
}

/// A failover whatever the primary says: what these tests are about is the replica.
pub fn to(point: Option<PointId>, start: bool) -> Failover {
    Failover { point, start, asserts: Asserts::Forced }
}

/// Bytes that nothing compresses.
pub fn random(length: u64, seed: u64) -> Vec<u8> {
    let mut data = vec![0; usize::try_from(length).expect("small")];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut data);
    data
}

/// Cycles only on request: what happens when is up to the test.
pub fn settings() -> RelationshipSettings {
    RelationshipSettings { interval_s: 3600, history: 24, ..RelationshipSettings::default() }
}

/// Keeps every point.
pub fn keep_all() -> RelationshipSettings {
    let tier = standin_model::retention::Tier { keep_for_s: 3600, every_s: 0 };
    let policy = standin_model::retention::Policy { tiers: vec![tier] };
    RelationshipSettings {
        retention: Some(policy),
        ..RelationshipSettings { interval_s: 3600, ..settings() }
    }
}

/// As [`keep_all`], with a cycle every second.
pub fn every_second() -> RelationshipSettings {
    RelationshipSettings { interval_s: 1, ..keep_all() }
}

pub fn write_identity(dir: &Path, certificate: &str, key: &str, trust: &Path) -> Identity {
    std::fs::create_dir_all(dir).expect("a directory");
    let (cert_path, key_path) = (dir.join("host.crt"), dir.join("host.key"));
    std::fs::write(&cert_path, certificate).expect("write");
    std::fs::write(&key_path, key).expect("write");
    Identity::from_files(cert_path, key_path, trust).expect("an identity")
}

/// Log lines of the engines, when a test is looked into: `STANDIN_TEST_LOG=debug`.
fn log() {
    if let Ok(filter) = std::env::var("STANDIN_TEST_LOG") {
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        drop(subscriber.try_init());
    }
}

impl World {
    /// Both hosts are up, the replica admits the primary, the VM runs with some data on both disks.
    pub async fn new() -> Self {
        Self::with_disks(&[("a", SIZE_A), ("b", SIZE_B)], State::Memory(Arc::new(MemoryStore::new()))).await
    }

    pub async fn with_disks(disks: &[(&str, u64)], state: State) -> Self {
        log();
        let keep = tempfile::tempdir().expect("a directory");
        let root = keep.path();
        let pki = PkiDir::new(root.join("pki"));
        let names = |host: &str| [format!("{host}.example.org"), "localhost".into(), "127.0.0.1".into()];
        pki.init(&names("replica"), false).expect("an authority");
        let issued = pki.issue(&names("primary"), 30).expect("a certificate");
        let files = pki.identity_files();
        let primary =
            write_identity(&root.join("pki-a"), &issued.certificate, issued.key.as_str(), &files.trust);
        let other = match &state {
            State::Redb => State::Redb,
            State::Memory(_) => State::Memory(Arc::new(MemoryStore::new())),
        };
        let mut a = Host::new("primary", root.join("a"), primary, state);
        let mut b = Host::new("replica", root.join("b"), pki.identity().expect("an identity"), other);
        a.start().await;
        b.start().await;
        let link = Link::new().await;
        link.lead_to(b.port());
        b.admit("primary.example.org", "one").await;
        let vm = a.fake.add_vm("web", disks);
        let world = Self { a, b, link, vm, _keep: keep };
        world.write("a", 0, &random(300 * KIB, 1));
        world.write("b", 4 * KIB, &random(100 * KIB + 77, 2));
        world
    }

    pub fn root(&self) -> &Path {
        self._keep.path()
    }

    pub fn write(&self, disk: &str, offset: u64, data: &[u8]) {
        self.a.fake.write(self.vm, disk, offset, data);
    }

    /// What the guest has on its disks now.
    pub fn contents(&self) -> Contents {
        self.a.fake.snapshot(self.vm)
    }

    pub async fn enable(
        &self,
        settings: RelationshipSettings,
        start: bool,
    ) -> Result<Option<JobId>, Refusal> {
        let (vm, peer) = (self.vm, self.link.address());
        self.a
            .call(move |engine| async move { engine.enable(vm, Enable { peer, settings, start }).await })
            .await
            .map(|enabled| {
                assert_eq!(enabled.found, None, "a replica was there");
                enabled.job
            })
    }

    /// Enables, and begins the initial replication.
    pub async fn begin(&self, settings: RelationshipSettings) -> JobId {
        self.enable(settings, true).await.expect("enabled").expect("a job")
    }

    /// Enables, and waits until the initial replication is complete on both sides.
    pub async fn replicating(settings: RelationshipSettings) -> Self {
        let world = Self::new().await;
        let job = world.begin(settings).await;
        world.done(job).await;
        world.both_replicate().await;
        world
    }

    #[track_caller]
    pub fn both_replicate(&self) -> impl Future<Output = ()> + use<> {
        let a = self.a.reaches(self.vm, ReplicationState::Replicating);
        let b = self.b.reaches(self.vm, ReplicationState::Replicating);
        async move {
            a.await;
            b.await;
        }
    }

    /// A job of the primary ends well.
    #[track_caller]
    pub fn done(&self, job: JobId) -> impl Future<Output = JobRecord> + use<> {
        let ended = self.a.job(job);
        async move {
            let job = ended.await;
            assert_eq!(job.state, JobState::Completed, "{:?}", job.error);
            assert_eq!((job.return_code, job.percent), (Some(ReturnCode::Completed), 100));
            job
        }
    }

    /// A job of the replica ends well.
    #[track_caller]
    pub fn done_on_replica(&self, job: JobId) -> impl Future<Output = ()> + use<> {
        let ended = self.b.job(job);
        async move {
            let job = ended.await;
            assert_eq!(job.state, JobState::Completed, "{:?}", job.error);
        }
    }

    pub async fn order_point(&self) -> JobId {
        let ordered = self.a.ask(self.vm, Command::Point { application: false }).await;
        ordered.expect("a point can be taken").expect("a job")
    }

    /// Takes a point and returns it as the replica has it.
    pub async fn point(&self) -> RecoveryPoint {
        let job = self.order_point().await;
        self.done(job).await;
        self.latest()
    }

    /// Takes a point while the guest is quiet, and proves it equal to the guest's disks.
    pub async fn proven_point(&self) -> RecoveryPoint {
        let before = self.contents();
        let point = self.point().await;
        self.equals(point.id, &before);
        point
    }

    /// The replica's points, oldest first.
    pub fn points(&self) -> Vec<RecoveryPoint> {
        let replica = self.b.engine().replicas().find(self.vm);
        replica.map(|replica| replica.store().points()).unwrap_or_default()
    }

    #[track_caller]
    pub fn latest(&self) -> RecoveryPoint {
        self.points().pop().expect("a recovery point")
    }

    /// Waits for a point that is newer than `than`.
    #[track_caller]
    pub fn newer_than(&self, than: &RecoveryPoint) -> impl Future<Output = RecoveryPoint> + use<> {
        let (engine, vm, epoch) = (self.b.engine(), self.vm, than.epoch);
        until(format!("a point after epoch {epoch}"), move || {
            let points = engine.replicas().find(vm).map(|replica| replica.store().points());
            points.unwrap_or_default().pop().filter(|point| point.epoch > epoch)
        })
    }

    /// What the replica's store has of a point.
    #[track_caller]
    pub fn contents_of(&self, point: PointId) -> Contents {
        let replica = self.b.engine().replicas().find(self.vm).expect("a replica");
        let reader = replica.store().reader(point).expect("a reader");
        let read = |shape: &standin_engine::messages::DiskShape| {
            (shape.name.clone(), reader.read(&shape.name, 0, shape.size).expect("a read"))
        };
        replica.snapshot().disks.iter().map(read).collect()
    }

    #[track_caller]
    pub fn equals(&self, point: PointId, expected: &Contents) {
        let found = self.contents_of(point);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, data) in expected {
            let found = &found[name];
            assert_eq!(found.len(), data.len(), "the size of {name}");
            let differs = found.iter().zip(data).position(|(ours, theirs)| ours != theirs);
            assert_eq!(differs, None, "the first byte of {name} that differs");
        }
    }

    /// Orders a point and returns when its cut is made and the reading of it stands still.
    pub async fn held_cycle(&self, after_reads: u64) -> JobId {
        self.a.fake.faults().stall(standin_hypervisor::fake::Op::Read, after_reads);
        let job = self.order_point().await;
        self.a.fake.faults().stalled(standin_hypervisor::fake::Op::Read).await;
        job
    }

    pub fn release(&self) {
        self.a.fake.faults().release(standin_hypervisor::fake::Op::Read);
    }
}

#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Refusal>, code: ReturnCode) -> Refusal {
    let refusal = result.expect_err("it should be refused");
    assert_eq!(refusal.code, code, "{refusal}");
    assert!(!refusal.message.is_empty() && !refusal.remedy.is_empty(), "{refusal:?}");
    refusal
}
