//! One process of a host, and its end. Everything that the engine can change the world by is behind a door that closes when
//! the process dies: its records, its hypervisor, its disks, its connections. So what is left of it in this process can
//! run to its end without anybody noticing.

use super::step::{Host, When};
use super::watch::Watch;
use async_trait::async_trait;
use standin_durable::faults::{Faults, Step as FileStep, Verdict};
use standin_engine::peers::Transport;
use standin_hypervisor::fake::FakeHypervisor;
use standin_hypervisor::{
    CutRequest, DiskReader, Error, GuestNic, Hypervisor, LiveRequest, Mark, MarkStatus, PowerState,
    StartOptions, Tracker, View, ViewInfo, VmDefinition, VmEvent, VmInfo,
};
use standin_model::{DiskName, VmId, VmName};
use standin_state::{
    Lease, MemoryStore, Op, Revision, StateError, StateStore, Versioned, Watch as RecordWatch,
};
use standin_store::CrashPoint;
use standin_wire::Connection;
use standin_wire::memory::{End, Network};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// Whether a process lives, and when it is to die.
pub struct Life {
    pub host: Host,
    dead: AtomicBool,
    /// Durable steps until its end.
    left: AtomicI64,
    /// The step that is under way is the last.
    dies_now: AtomicBool,
    when: Mutex<When>,
    /// The death of the store's disks.
    pub store: CrashPoint,
    network: Network,
    watch: Arc<Watch>,
}

/// What a dead process gets.
const DEAD: &str = "this process is dead";

impl Life {
    pub fn new(host: Host, network: Network, watch: Arc<Watch>) -> Arc<Self> {
        Arc::new(Self {
            host,
            dead: AtomicBool::new(false),
            left: AtomicI64::new(i64::MAX),
            dies_now: AtomicBool::new(false),
            when: Mutex::new(When::Before),
            store: CrashPoint::after(i64::MAX),
            network,
            watch,
        })
    }

    /// It dies at its `steps`-th durable step from now, or lives on without one.
    pub fn arm(&self, steps: Option<(u32, When)>) {
        let (left, when) = steps.map_or((i64::MAX, When::Before), |(n, when)| (i64::from(n), when));
        *self.when.lock().expect("no panic") = when;
        self.left.store(left, Ordering::SeqCst);
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub fn die(&self) {
        self.dead.store(true, Ordering::SeqCst);
        self.store.arm(0);
        self.network.remove(self.host.name());
        self.watch.is_down(self.host);
    }

    /// Before a durable step. `false`: it is not done any more.
    fn begin(&self) -> bool {
        if self.is_dead() {
            return false;
        }
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            match *self.when.lock().expect("no panic") {
                When::Before => self.die(),
                When::After => self.dies_now.store(true, Ordering::SeqCst),
            }
        }
        !self.is_dead()
    }

    /// After it. `false`: nobody learns it any more.
    fn end(&self) -> bool {
        if self.dies_now.swap(false, Ordering::SeqCst) {
            self.die();
        }
        !self.is_dead()
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Life").field("host", &self.host).field("dead", &self.dead).finish_non_exhaustive()
    }
}

/// The files of the claims.
impl Faults for Life {
    fn before(&self, _step: &FileStep<'_>) -> Verdict {
        if self.begin() { Verdict::Go } else { Verdict::Fail(std::io::Error::other(DEAD)) }
    }

    fn after(&self, _step: &FileStep<'_>) {
        self.end();
    }
}

/// The records.
pub struct Records {
    pub life: Arc<Life>,
    pub inner: Arc<MemoryStore>,
}

fn closed() -> StateError {
    StateError::Closed { path: DEAD.into() }
}

impl Records {
    async fn look<T>(
        &self,
        call: impl Future<Output = standin_state::Result<T>> + Send,
    ) -> standin_state::Result<T> {
        if self.life.is_dead() { Err(closed()) } else { call.await }
    }
}

#[async_trait]
impl StateStore for Records {
    async fn get(&self, key: &str) -> standin_state::Result<Option<Versioned>> {
        self.look(self.inner.get(key)).await
    }

    async fn list(&self, prefix: &str) -> standin_state::Result<Vec<(String, Versioned)>> {
        self.look(self.inner.list(prefix)).await
    }

    async fn transaction(&self, ops: Vec<Op>) -> standin_state::Result<Revision> {
        if !self.life.begin() {
            return Err(closed());
        }
        let done = self.inner.transaction(ops).await;
        if self.life.end() { done } else { Err(closed()) }
    }

    async fn watch(&self, prefix: &str) -> standin_state::Result<RecordWatch> {
        self.look(self.inner.watch(prefix)).await
    }

    async fn lease(&self, key: &str, value: Vec<u8>, ttl: Duration) -> standin_state::Result<Lease> {
        self.look(self.inner.lease(key, value, ttl)).await
    }
}

/// The way to other hosts.
pub struct Wires {
    pub life: Arc<Life>,
    pub network: Network,
    pub end: End,
}

#[async_trait]
impl Transport for Wires {
    async fn connect(&self, address: &str) -> Result<Connection, standin_wire::Error> {
        let refused = || standin_wire::Error::Connect {
            address: address.to_owned(),
            source: std::io::ErrorKind::ConnectionRefused.into(),
        };
        if self.life.is_dead() {
            return Err(refused());
        }
        let connection = self.network.connect(&self.end, address).await?;
        // Dropped, it is closed: nobody has sent anything on it.
        if self.life.is_dead() { Err(refused()) } else { Ok(connection) }
    }
}

/// The hypervisor as one process sees it. VMs live on when the process is dead.
pub struct Machines {
    pub life: Arc<Life>,
    pub fake: Arc<FakeHypervisor>,
}

type Answer<T> = standin_hypervisor::Result<T>;

fn dead() -> Error {
    Error::Internal(DEAD.to_owned())
}

impl Machines {
    async fn look<T>(&self, call: impl Future<Output = Answer<T>> + Send) -> Answer<T> {
        if self.life.is_dead() { Err(dead()) } else { call.await }
    }

    async fn change<T>(&self, call: impl Future<Output = Answer<T>> + Send) -> Answer<T> {
        if !self.life.begin() {
            return Err(dead());
        }
        let done = call.await;
        if self.life.end() { done } else { Err(dead()) }
    }

    /// A start or a resume: it is judged in the instant in which it happens.
    async fn begins(&self, vm: VmId, call: impl Future<Output = Answer<()>> + Send) -> Answer<()> {
        self.change(async {
            let before = self.fake.power(vm);
            let done = call.await;
            if before != Some(PowerState::Running) && self.fake.power(vm) == Some(PowerState::Running) {
                self.life.watch.started(self.life.host);
            }
            done
        })
        .await
    }
}

#[async_trait]
impl Hypervisor for Machines {
    async fn list(&self) -> Answer<Vec<VmInfo>> {
        self.look(self.fake.list()).await
    }

    async fn names(&self) -> Answer<Vec<(VmId, VmName)>> {
        self.look(self.fake.names()).await
    }

    async fn inspect(&self, vm: VmId) -> Answer<VmInfo> {
        self.look(self.fake.inspect(vm)).await
    }

    async fn define(&self, definition: VmDefinition) -> Answer<VmId> {
        self.change(self.fake.define(definition)).await
    }

    async fn define_new(&self, definition: VmDefinition) -> Answer<VmId> {
        self.change(self.fake.define_new(definition)).await
    }

    async fn rename(&self, vm: VmId, name: VmName) -> Answer<()> {
        self.change(self.fake.rename(vm, name)).await
    }

    async fn undefine(&self, vm: VmId) -> Answer<()> {
        self.change(self.fake.undefine(vm)).await
    }

    async fn adopt(&self, qmp: PathBuf, name: Option<VmName>) -> Answer<VmId> {
        self.change(self.fake.adopt(qmp, name)).await
    }

    async fn start(&self, vm: VmId, options: StartOptions) -> Answer<()> {
        if options.paused {
            return self.change(self.fake.start(vm, options)).await;
        }
        self.begins(vm, self.fake.start(vm, options)).await
    }

    async fn shutdown(&self, vm: VmId, deadline: Duration) -> Answer<()> {
        self.change(self.fake.shutdown(vm, deadline)).await
    }

    async fn power_off(&self, vm: VmId) -> Answer<()> {
        self.change(self.fake.power_off(vm)).await
    }

    async fn pause(&self, vm: VmId) -> Answer<()> {
        self.change(self.fake.pause(vm)).await
    }

    async fn resume(&self, vm: VmId) -> Answer<()> {
        self.begins(vm, self.fake.resume(vm)).await
    }

    async fn marks(&self, vm: VmId, tracker: &Tracker, disks: &[DiskName]) -> Answer<Vec<MarkStatus>> {
        self.look(self.fake.marks(vm, tracker, disks)).await
    }

    async fn is_marked(&self, vm: VmId) -> Answer<bool> {
        self.look(self.fake.is_marked(vm)).await
    }

    async fn retain_marks(&self, vm: VmId, tracker: &Tracker, keep: &[Mark]) -> Answer<()> {
        self.change(self.fake.retain_marks(vm, tracker, keep)).await
    }

    async fn clean(&self, vm: VmId, tracker: &Tracker, scratch_dir: &Path) -> Answer<()> {
        self.look(self.fake.clean(vm, tracker, scratch_dir)).await
    }

    async fn live(&self, vm: VmId, request: LiveRequest) -> Answer<Box<dyn View>> {
        let view = self.change(self.fake.live(vm, request)).await?;
        Ok(Box::new(Seen { life: Arc::clone(&self.life), view }))
    }

    async fn cut(&self, vm: VmId, request: CutRequest) -> Answer<Box<dyn View>> {
        let view = self.change(self.fake.cut(vm, request)).await?;
        Ok(Box::new(Seen { life: Arc::clone(&self.life), view }))
    }

    async fn flatten(&self, vm: VmId, disk: &DiskName, bytes_per_s: u64) -> Answer<()> {
        self.change(self.fake.flatten(vm, disk, bytes_per_s)).await
    }

    async fn configure_network(
        &self,
        vm: VmId,
        cards: &[GuestNic],
        patience: Duration,
    ) -> Answer<Vec<String>> {
        self.look(self.fake.configure_network(vm, cards, patience)).await
    }

    fn events(&self) -> broadcast::Receiver<VmEvent> {
        self.fake.events()
    }
}

/// A view that a dead process does not close in order.
struct Seen {
    life: Arc<Life>,
    view: Box<dyn View>,
}

#[async_trait]
impl View for Seen {
    fn info(&self) -> &ViewInfo {
        self.view.info()
    }

    fn disk(&self, name: &DiskName) -> Option<Arc<dyn DiskReader>> {
        self.view.disk(name)
    }

    fn failure(&self) -> watch::Receiver<Option<String>> {
        self.view.failure()
    }

    async fn close(self: Box<Self>) -> Answer<()> {
        if self.life.is_dead() { Err(dead()) } else { self.view.close().await }
    }
}
