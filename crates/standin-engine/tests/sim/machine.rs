//! A host: what outlives its daemon (VMs, records, disks), and the daemon's process.

use super::life::{Life, Machines, Records, Wires};
use super::power::{self, Power};
use super::step::{BothRun, Host, OverRunning, Part, Setup};
use super::watch::Watch;
use jiff::{SignedDuration, Timestamp};
use standin_durable::faults::Faults;
use standin_durable::{DirLock, Files, LockError};
use standin_engine::vm::{Policy, WhenBothRun};
use standin_engine::{Engine, EngineConfig, Parts, SiteNetworks};
use standin_hypervisor::Hypervisor;
use standin_hypervisor::fake::FakeHypervisor;
use standin_model::HostId;
use standin_model::fence::{self, Rules};
use standin_model::stats::Window;
use standin_state::{Expect, MemoryStore, Op, StateStore};
use standin_store::{Clock, Store, StoreOptions};
use standin_wire::Hello;
use standin_wire::memory::{End, Network};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

/// What is left of a dead daemon is gone by then.
const GONE: Duration = Duration::from_secs(600);

pub struct Machine {
    pub host: Host,
    pub id: HostId,
    dir: PathBuf,
    pub fake: Arc<FakeHypervisor>,
    network: Network,
    power: Power,
    watch: Arc<Watch>,
    policy: Policy,
    /// Recovery points age by it. It does not jump: one that does takes points away which a right one would keep, and that is
    /// no question of this judge.
    clock: Clock,
    /// How often it got another name.
    renamed: u32,
    records: Arc<MemoryStore>,
    process: Option<Process>,
    backup: Option<Backup>,
}

struct Process {
    engine: Arc<Engine>,
    life: Arc<Life>,
    left: Weak<Machines>,
    accepting: JoinHandle<()>,
}

/// An older state of the data directory.
struct Backup {
    records: Arc<MemoryStore>,
    dir: PathBuf,
}

async fn copy_of(records: &MemoryStore) -> Arc<MemoryStore> {
    let copy = MemoryStore::new();
    for (key, found) in records.list("").await.expect("the records") {
        let put = Op::Put { key, value: found.value, expect: Expect::Any };
        copy.transaction(vec![put]).await.expect("a record");
    }
    Arc::new(copy)
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    let Ok(entries) = fs::read_dir(from) else { return };
    for entry in entries.filter_map(Result::ok) {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_tree(&source, &target);
        } else {
            // One that a merge removes in this moment is not part of a backup either.
            drop(fs::copy(&source, &target));
        }
    }
}

/// A clock that goes with simulated time.
pub fn simulated_clock() -> Clock {
    let (base, begun) = (Timestamp::now(), Instant::now());
    Clock::new(move || base + SignedDuration::try_from(begun.elapsed()).expect("hours"))
}

impl Machine {
    /// A host that is down. `dir` is its own.
    pub fn new(
        host: Host,
        dir: PathBuf,
        fake: Arc<FakeHypervisor>,
        network: Network,
        power: Power,
        watch: Arc<Watch>,
        rules: Rules,
    ) -> Self {
        let id = HostId(Uuid::from_u128(host.index() as u128 + 1));
        let records = Arc::new(MemoryStore::new());
        let policy = Policy { rules, ..Policy::default() };
        Self {
            host,
            id,
            dir,
            fake,
            network,
            power,
            watch,
            policy,
            clock: simulated_clock(),
            renamed: 0,
            records,
            process: None,
            backup: None,
        }
    }

    /// The name in its certificate.
    pub fn certificate(&self) -> String {
        self.host.certificate(self.renamed)
    }

    pub fn renamed(&self) -> u32 {
        self.renamed
    }

    /// It gets another one, with the next start.
    pub fn rename(&mut self) {
        self.renamed += 1;
    }

    /// Changes `[fence]` of its configuration, with the next start.
    pub fn configure(&mut self, setup: Setup) {
        let Setup { both_run, over_running, witness, fences } = setup;
        self.policy.witness = witness.map(Host::address);
        self.policy.fence_command = power::command(fences);
        self.policy.both_run = match both_run {
            BothRun::Pause => WhenBothRun::Pause,
            BothRun::PowerOff => WhenBothRun::PowerOff,
            BothRun::Leave => WhenBothRun::Leave,
        };
        self.policy.over_running = match over_running {
            OverRunning::RefuseStart => fence::OverRunning::Refuse,
            OverRunning::PauseFirst => fence::OverRunning::Pause,
        };
    }

    /// It leaves two running copies as they are.
    pub fn leaves_both(&self) -> bool {
        self.policy.both_run == WhenBothRun::Leave
    }

    fn end(&self) -> End {
        let certificate = self.certificate();
        let address = ([10, 0, 0, u8::try_from(self.host.index() + 1).expect("a few hosts")], 28444).into();
        End::new(
            &[&certificate],
            address,
            Hello::new(self.host.name(), "standin simulated").of(self.id, 28444),
        )
    }

    pub fn replicas_dir(&self) -> PathBuf {
        self.dir.join("replicas")
    }

    pub fn engine(&self) -> Option<Arc<Engine>> {
        let process = self.process.as_ref().filter(|process| !process.life.is_dead())?;
        Some(Arc::clone(&process.engine))
    }

    pub fn is_up(&self) -> bool {
        self.engine().is_some()
    }

    pub fn life(&self) -> Option<&Arc<Life>> {
        self.process.as_ref().map(|process| &process.life)
    }

    pub async fn start(&mut self) {
        assert!(self.process.is_none(), "{:?} is up", self.host);
        let life = Life::new(self.host, self.network.clone(), Arc::clone(&self.watch));
        self.power.plug(&self.fake, &life);
        let machines = Arc::new(Machines { life: Arc::clone(&life), fake: Arc::clone(&self.fake) });
        let left = Arc::downgrade(&machines);
        let parts = self.parts(&life, machines);
        let engine = Engine::open(parts).await.expect("the engine opens");
        let mut connections = self.network.listen(&self.host.address(), self.end());
        let serving = Arc::clone(&engine);
        let accepting = tokio::spawn(async move {
            while let Some(connection) = connections.recv().await {
                serving.accept(connection);
            }
        });
        self.process = Some(Process { engine, life, left, accepting });
    }

    fn parts(&self, life: &Arc<Life>, machines: Arc<Machines>) -> Parts {
        let make = |name: &str| {
            let path = self.dir.join(name);
            fs::create_dir_all(&path).expect("a directory");
            path
        };
        let end = self.end();
        let (hello, network) = (end.hello.clone(), self.network.clone());
        let options = StoreOptions {
            locations: vec![make("replicas")],
            reserve: 0,
            crash: Some(life.store.clone()),
            clock: self.clock.clone(),
            ..StoreOptions::default()
        };
        let store = Store::open(options).expect("the store opens");
        Parts {
            hypervisor: machines as Arc<dyn Hypervisor>,
            store,
            state: Arc::new(Records { life: Arc::clone(life), inner: Arc::clone(&self.records) }),
            files: Files::with(Arc::clone(life) as Arc<dyn Faults>),
            fencing: Arc::new(self.power.clone()),
            transport: Arc::new(Wires { life: Arc::clone(life), network, end }),
            hello,
            host_id: self.id,
            config: EngineConfig {
                scratch_dir: make("scratch"),
                digest_dir: make("sent"),
                runtime_dir: make("run"),
                log_dir: make("log"),
                networks: SiteNetworks::default(),
                merge_bytes_per_s: 0,
                max_parallel: 4,
                window: Window::default(),
                port: 28444,
                claims_dir: make("claims"),
                policy: self.policy.clone(),
            },
        }
    }

    /// The daemon ends in order.
    pub async fn stop(&mut self) {
        if let Some(engine) = self.engine() {
            engine.shutdown().await;
        }
        self.bury().await;
    }

    /// The daemon is gone from one moment to the next, if it was not already; what is left of it ends without an effect.
    pub async fn bury(&mut self) {
        let Some(process) = self.process.take() else { return };
        process.life.die();
        process.accepting.abort();
        process.engine.shutdown().await;
        drop(process.engine);
        let left = process.left;
        let gone = async {
            // What has the disks still would keep them from the next daemon, as no dead process can.
            while left.strong_count() > 0 || self.holds_disks() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        if tokio::time::timeout(GONE, gone).await.is_err() {
            self.watch.violation(format!(
                "stuck: tasks of the daemon of {:?} do not end when it stops ({} are left)",
                self.host,
                left.strong_count()
            ));
        }
    }

    fn holds_disks(&self) -> bool {
        let Ok(entries) = fs::read_dir(self.replicas_dir()) else { return false };
        entries
            .filter_map(Result::ok)
            .any(|entry| matches!(DirLock::take(entry.path()), Err(LockError::Directory { .. })))
    }

    /// Keeps the data directory as it is now.
    pub async fn back_up(&mut self) {
        let dir = self.dir.join("backup");
        drop(fs::remove_dir_all(&dir));
        for part in ["replicas", "claims"] {
            copy_tree(&self.dir.join(part), &dir.join(part));
        }
        self.backup = Some(Backup { records: copy_of(&self.records).await, dir });
    }

    pub fn has_backup(&self) -> bool {
        self.backup.is_some()
    }

    /// Puts back what was kept. The daemon is down.
    pub async fn restore(&mut self, part: Part) {
        assert!(self.process.is_none(), "{:?} is up", self.host);
        let Some(backup) = &self.backup else { return };
        if matches!(part, Part::All | Part::Records) {
            self.records = copy_of(&backup.records).await;
        }
        let trees: &[&str] = match part {
            Part::All => &["replicas", "claims"],
            Part::Claims => &["claims"],
            Part::Disks => &["replicas"],
            Part::Records => &[],
        };
        for tree in trees {
            drop(fs::remove_dir_all(self.dir.join(tree)));
            copy_tree(&backup.dir.join(tree), &self.dir.join(tree));
        }
    }

    /// The database is gone. The daemon is down.
    pub fn lose_records(&mut self) {
        assert!(self.process.is_none(), "{:?} is up", self.host);
        self.records = Arc::new(MemoryStore::new());
    }
}
