//! A host: an engine with its own runtime over a hypervisor, a store and a state that outlive it. Ending the
//! runtime without a word is the nearest thing to SIGKILL within one process.

use crate::link::Link;
use async_trait::async_trait;
use standin_durable::Files;
use standin_engine::peers::TlsTransport;
use standin_engine::vm::FenceCommand;
use standin_engine::vm::Policy;
use standin_engine::{Command, Engine, EngineConfig, Parts, SiteNetworks};
use standin_hypervisor::Hypervisor;
use standin_hypervisor::fake::FakeHypervisor;
use standin_model::auth::AuthorizationEntry;
use standin_model::job::JobRecord;
use standin_model::state::ReplicationState;
use standin_model::stats::Window;
use standin_model::view::StatusView;
use standin_model::{AuthId, HostId, JobId, Refusal, VmId};
use standin_state::{Lease, MemoryStore, Op, RedbStore, Revision, StateError, StateStore, Versioned, Watch};
use standin_store::{CrashPoint, Store, StoreOptions};
use standin_wire::{Accepted, Hello, Identity};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// Everything that a test waits for happens long before.
const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `look` finds something.
#[track_caller]
pub fn until<T>(what: impl Into<String>, mut look: impl FnMut() -> Option<T>) -> impl Future<Output = T> {
    let (what, place) = (what.into(), std::panic::Location::caller());
    async move {
        let begun = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(begun.elapsed() < DEADLINE, "{place}: in vain waited for {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Where a host keeps its records.
#[derive(Clone)]
pub enum State {
    Memory(Arc<MemoryStore>),
    Redb,
}

pub struct Host {
    name: &'static str,
    id: HostId,
    dir: PathBuf,
    pub fake: Arc<FakeHypervisor>,
    identity: Identity,
    state: State,
    /// How the store works after the next start.
    pub store: StoreOptions,
    /// Where its replicas are after the next start, below its directory; the first takes new ones.
    pub storage: Vec<&'static str>,
    /// How it decides who may run a VM, after the next start.
    pub policy: Policy,
    /// How VMs that fail over to it are connected after the next start.
    pub networks: SiteNetworks,
    /// Changes of the records that are still let through before the process is dead.
    records_left: Arc<AtomicI64>,
    /// What the system answers to a change of the records: an errno, 0 for none.
    records_error: Arc<AtomicI32>,
    up: Option<Up>,
}

/// An older data directory.
pub struct Backup {
    pub records: Vec<(String, Vec<u8>)>,
    claims: Vec<(PathBuf, Vec<u8>)>,
}

struct Up {
    runtime: Option<Runtime>,
    dead: Arc<AtomicBool>,
    engine: Arc<Engine>,
    port: u16,
}

impl Drop for Up {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Host {
    /// A host that is down. `dir` is its own.
    pub fn new(name: &'static str, dir: PathBuf, identity: Identity, state: State) -> Self {
        let fake = FakeHypervisor::new();
        Self {
            name,
            id: HostId::random(),
            dir,
            fake,
            identity,
            state,
            store: StoreOptions::default(),
            storage: vec!["replicas"],
            policy: Policy::default(),
            networks: SiteNetworks::default(),
            records_left: Arc::new(AtomicI64::new(i64::MAX)),
            records_error: Arc::default(),
            up: None,
        }
    }

    /// What it keeps its records in.
    pub fn memory(&self) -> Arc<MemoryStore> {
        match &self.state {
            State::Memory(store) => Arc::clone(store),
            State::Redb => panic!("{} keeps its records in a file", self.name),
        }
    }

    pub async fn start(&mut self) {
        assert!(self.up.is_none(), "{} is up", self.name);
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let dead = Arc::new(AtomicBool::new(false));
        let parts = self.parts(Arc::clone(&dead)).await;
        let hello = parts.hello.clone();
        let engine = runtime.spawn(Engine::open(parts)).await.expect("no panic").expect("the engine opens");
        let listening = runtime.spawn(TcpListener::bind("127.0.0.1:0")).await.expect("no panic");
        let listener = listening.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        runtime.spawn(serve(listener, Arc::clone(&engine), self.identity.clone(), hello));
        self.up = Some(Up { runtime: Some(runtime), dead, engine, port });
    }

    async fn parts(&self, dead: Arc<AtomicBool>) -> Parts {
        let make = |name: &str| {
            let path = self.dir.join(name);
            std::fs::create_dir_all(&path).expect("a directory");
            path
        };
        let state: Arc<dyn StateStore> = match &self.state {
            State::Memory(store) => Arc::clone(store) as Arc<dyn StateStore>,
            State::Redb => {
                let path = make("state").join("standin.redb");
                // The file is free when the last task of the process before is gone.
                Arc::new(until("the state's file", || RedbStore::open(&path).ok()).await)
            }
        };
        let (left, crash) = (Arc::clone(&self.records_left), self.store.crash.clone());
        let error = Arc::clone(&self.records_error);
        let state = Arc::new(Mortal { inner: state, dead, left, error, crash });
        let locations = self.storage.iter().map(|name| make(name)).collect();
        let options = StoreOptions { locations, ..self.store.clone() };
        let store = until("the locks of the replicas", || {
            let store = Store::open(options.clone()).expect("the store opens");
            let held = store.problems().iter().any(|problem| problem.message.contains("held by another"));
            (!held).then_some(store)
        })
        .await;
        let hello = Hello::new(self.name, "standin test").of(self.id, 0);
        Parts {
            hypervisor: Arc::clone(&self.fake) as Arc<dyn Hypervisor>,
            store,
            state,
            files: Files::default(),
            transport: Arc::new(TlsTransport::new(self.identity.clone(), hello.clone())),
            fencing: Arc::new(FenceCommand),
            hello,
            host_id: self.id,
            config: EngineConfig {
                scratch_dir: make("scratch"),
                digest_dir: make("sent"),
                runtime_dir: make("run"),
                log_dir: make("log"),
                networks: self.networks.clone(),
                merge_bytes_per_s: 0,
                max_parallel: 4,
                window: Window::default(),
                port: 0,
                claims_dir: make("claims"),
                policy: self.policy.clone(),
            },
        }
    }

    /// The daemon ends in order.
    pub async fn stop(&mut self) {
        let begun = Instant::now();
        self.call(|engine| async move { engine.shutdown().await }).await;
        assert!(begun.elapsed() < Duration::from_secs(3), "{} took {:?} to stop", self.name, begun.elapsed());
        assert_eq!(
            (self.fake.open_views(), self.fake.leftovers()),
            (0, 0),
            "views are left on {}",
            self.name
        );
        self.kill().await;
    }

    /// The daemon is gone from one moment to the next.
    pub async fn kill(&mut self) {
        let mut up = self.up.take().expect("it is up");
        up.dead.store(true, Ordering::SeqCst);
        let runtime = up.runtime.take().expect("it has a runtime");
        drop(up);
        let ending = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(10)));
        ending.await.expect("the runtime ends");
    }

    pub async fn restart(&mut self, how: End) {
        match how {
            End::Stop => self.stop().await,
            End::Kill => self.kill().await,
        }
        self.start().await;
    }

    /// Its database is lost; what lies beside it is not.
    pub fn forget_records(&mut self) {
        assert!(self.up.is_none(), "{} is up", self.name);
        self.state = State::Memory(Arc::new(MemoryStore::new()));
    }

    /// The host gets another certificate, which counts from its next start on.
    pub fn certificate(&mut self, identity: Identity) {
        self.identity = identity;
    }

    /// Its data directory is gone, disks aside: it is another host now, with the certificate of before.
    pub fn set_up_anew(&mut self) {
        self.forget_records();
        std::fs::remove_dir_all(self.claims_dir()).expect("removed");
        self.id = HostId::random();
    }

    /// The id by which other hosts know it.
    pub fn id(&self) -> HostId {
        self.id
    }

    /// Where the claims are kept beside the database.
    pub fn claims_dir(&self) -> PathBuf {
        self.dir.join("claims")
    }

    /// Where no backup reaches.
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// What its data directory holds now, disks aside.
    pub async fn backup(&self) -> Backup {
        let records = self.memory().list("").await.expect("readable");
        let claims = std::fs::read_dir(self.claims_dir()).expect("a directory");
        let read = |path: PathBuf| (path.clone(), std::fs::read(&path).expect("readable"));
        let claims = claims.map(|entry| read(entry.expect("an entry").path())).collect();
        Backup { records: records.into_iter().map(|(key, record)| (key, record.value)).collect(), claims }
    }

    /// Puts an older data directory back in place of what there is.
    pub async fn restore(&mut self, backup: &Backup) {
        self.forget_records();
        let store = self.memory();
        for (key, value) in &backup.records {
            store.put(key, value.clone(), standin_state::Expect::Absent).await.expect("written");
        }
        std::fs::remove_dir_all(self.claims_dir()).expect("removed");
        std::fs::create_dir(self.claims_dir()).expect("made");
        for (path, content) in &backup.claims {
            std::fs::write(path, content).expect("written");
        }
    }

    /// A restart of a replica host, after which the link leads to it again.
    pub async fn restart_behind(&mut self, link: &Link, how: End) {
        self.restart(how).await;
        link.lead_to(self.port());
    }

    /// Lets the process die, as far as its records tell, after so many changes of them.
    pub fn records_left(&self, changes: i64) {
        self.records_left.store(changes, Ordering::SeqCst);
    }

    /// The system refuses every change of the records with this errno; 0 for none.
    pub fn records_fail(&self, errno: i32) {
        self.records_error.store(errno, Ordering::SeqCst);
    }

    /// The process could not write a record any more.
    pub fn is_dead(&self) -> bool {
        self.up.as_ref().is_some_and(|up| up.dead.load(Ordering::SeqCst))
    }

    pub fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.up.as_ref().expect("it is up").engine)
    }

    pub fn port(&self) -> u16 {
        self.up.as_ref().expect("it is up").port
    }

    pub fn replicas_dir(&self) -> PathBuf {
        self.dir.join("replicas")
    }

    /// Calls the engine in its own runtime, as the daemon does.
    pub async fn call<T, F, Fut>(&self, call: F) -> T
    where
        T: Send + 'static,
        F: FnOnce(Arc<Engine>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        let up = self.up.as_ref().expect("it is up");
        let engine = Arc::clone(&up.engine);
        let runtime = up.runtime.as_ref().expect("it has a runtime");
        runtime.spawn(async move { call(engine).await }).await.expect("no panic in the engine")
    }

    pub async fn ask(&self, vm: VmId, command: Command) -> Result<Option<JobId>, Refusal> {
        self.call(move |engine| async move { engine.ask(vm, command).await }).await
    }

    pub async fn status(&self, vm: VmId) -> StatusView {
        self.call(move |engine| async move { engine.status(vm).await }).await.expect("a status")
    }

    /// The state of a VM here.
    pub fn state(&self, vm: VmId) -> ReplicationState {
        self.engine().role(vm).1
    }

    #[track_caller]
    pub fn reaches(&self, vm: VmId, state: ReplicationState) -> impl Future<Output = ()> + use<> {
        let engine = self.engine();
        let what = format!("state {state} on {}", self.name);
        until(what, move || (engine.role(vm).1 == state).then_some(()))
    }

    /// The end of a job.
    #[track_caller]
    pub fn job(&self, id: JobId) -> impl Future<Output = JobRecord> + use<> {
        let engine = self.engine();
        until(format!("the end of job {id} on {}", self.name), move || {
            engine.jobs().watch(id).map(|seen| seen.borrow().clone()).filter(|job| job.state.is_final())
        })
    }

    /// Admits hosts of a name.
    pub async fn admit(&self, pattern: &str, group: &str) -> AuthId {
        let entry = AuthorizationEntry {
            id: AuthId::random(),
            allowed_primary: pattern.to_owned(),
            trust_group: group.to_owned(),
            storage_location: self.replicas_dir(),
        };
        let added = self.call(|engine| async move { engine.replicas().add_entry(entry).await }).await;
        added.expect("an entry").id
    }
}

/// How a daemon ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// In order.
    Stop,
    /// Without a word.
    Kill,
}

/// Records that a dead process cannot write any more: what its destructors do within this one is not to count.
struct Mortal {
    inner: Arc<dyn StateStore>,
    dead: Arc<AtomicBool>,
    left: Arc<AtomicI64>,
    error: Arc<AtomicI32>,
    /// The store's death is the process's.
    crash: Option<CrashPoint>,
}

impl Mortal {
    /// Whether a change of the records still gets through.
    fn lets_through(&self) -> standin_state::Result<()> {
        let crashed = self.crash.as_ref().is_some_and(CrashPoint::crashed);
        if crashed || self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            self.dead.store(true, Ordering::SeqCst);
        }
        if self.dead.load(Ordering::SeqCst) {
            return Err(StateError::Closed { path: "the state of a dead process".into() });
        }
        match self.error.load(Ordering::SeqCst) {
            0 => Ok(()),
            errno => Err(StateError::Io {
                action: "write the state in",
                path: "the test's memory".into(),
                source: std::io::Error::from_raw_os_error(errno),
            }),
        }
    }
}

#[async_trait]
impl StateStore for Mortal {
    async fn get(&self, key: &str) -> standin_state::Result<Option<Versioned>> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str) -> standin_state::Result<Vec<(String, Versioned)>> {
        self.inner.list(prefix).await
    }

    async fn transaction(&self, ops: Vec<Op>) -> standin_state::Result<Revision> {
        self.lets_through()?;
        self.inner.transaction(ops).await
    }

    async fn watch(&self, prefix: &str) -> standin_state::Result<Watch> {
        self.inner.watch(prefix).await
    }

    async fn lease(&self, key: &str, value: Vec<u8>, ttl: Duration) -> standin_state::Result<Lease> {
        self.lets_through()?;
        self.inner.lease(key, value, ttl).await
    }
}

async fn serve(listener: TcpListener, engine: Arc<Engine>, identity: Identity, hello: Hello) {
    while let Ok((stream, _)) = listener.accept().await {
        let (engine, identity, hello) = (Arc::clone(&engine), identity.clone(), hello.clone());
        tokio::spawn(async move {
            if let Ok(Accepted::Replication(connection)) =
                standin_wire::accept(stream, &identity, hello).await
            {
                engine.accept(connection);
            }
        });
    }
}
