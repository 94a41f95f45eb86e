//! The engine of a host: its primaries, its replicas, its jobs, and the operations on them. Whatever speaks to
//! people and programs (the local API, the management protocols) calls this and nothing below it.
//!
//! Here is its life: what it is made of, what it takes up at the start, what it hands out, its end. A relationship is
//! begun in [`enable`], names are changed in [`rename`], hosts that are others now are told of in [`rebind`], and all
//! else that is done to a VM is in [`operations`].

mod defining;
mod enable;
mod operations;
mod preflight;
pub(crate) mod reason;
mod rebind;
mod rename;

pub use enable::{Enable, Enabled};
pub use rebind::NowKnownAs;

use crate::inventory::Inventory;
use crate::jobs::Jobs;
use crate::messages::Request;
use crate::network::SiteNetworks;
use crate::peers::{Peers, Transport};
use crate::primary::config_files::ConfigFiles;
use crate::primary::{self, Command, Shared, Tools, Worker};
use crate::records::{self, PrimaryRecord, Tables};
use crate::replica::{HostShared, ReplicaHost, session};
use crate::service::Service;
use crate::vm::{
    self, ClaimFiles, Fencing, NamedWitness, Policy, Senders, VmAnswers, VmContext, Vms, WitnessRecords,
};
use async_trait::async_trait;
use standin_durable::{DocumentError, Files};
use standin_hypervisor::Hypervisor;
use standin_model::fence::Place;
use standin_model::state::{ReplicationState, after_restart};
use standin_model::stats::Window;
use standin_model::{HostId, Refusal, RelationshipId, ReturnCode, VmId};
use standin_state::{StateError, StateStore};
use standin_store::Store;
use standin_wire::{Connection, Frame, Hello};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// How long pieces of work may take to end in order when the daemon stops.
const GRACE: Duration = Duration::from_secs(10);

/// How long a relationship may take to stop reading a VM's disks.
const YIELD: Duration = Duration::from_secs(12);

/// Why an engine cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The state store.
    #[error(transparent)]
    State(#[from] StateError),
    /// The files of the claims.
    #[error(transparent)]
    Claims(#[from] DocumentError),
}

/// What the engine of a host is made of.
pub struct Parts {
    /// Runs the VMs of this host.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// The disks of replicas.
    pub store: Store,
    /// What survives a restart.
    pub state: Arc<dyn StateStore>,
    /// The way to the file system, for the claims.
    pub files: Files,
    /// The way to other hosts.
    pub transport: Arc<dyn Transport>,
    /// Turns another host off, where a `fence_command` is configured.
    pub fencing: Arc<dyn Fencing>,
    /// This host's name and version.
    pub hello: Hello,
    /// This host's id: the same for as long as its data directory lives.
    pub host_id: HostId,
    /// Settings.
    pub config: EngineConfig,
}

/// Settings of the engine of a host.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where old data of overwritten blocks is kept during a cut.
    pub scratch_dir: PathBuf,
    /// Where the digests of what is sent are kept.
    pub digest_dir: PathBuf,
    /// Sockets.
    pub runtime_dir: PathBuf,
    /// Serial logs of VMs that failed over.
    pub log_dir: PathBuf,
    /// How VMs that failed over are connected.
    pub networks: SiteNetworks,
    /// Bytes a second that merging may write; 0 for no bound.
    pub merge_bytes_per_s: u64,
    /// Cycles and copies side by side.
    pub max_parallel: usize,
    /// Where the windows of the statistics lie, until the service's settings say otherwise.
    pub window: Window,
    /// The TCP port on which primaries reach this host.
    pub port: u16,
    /// Where the claims on VMs are kept beside the database.
    pub claims_dir: PathBuf,
    /// How this host decides who may run a VM where that is a choice.
    pub policy: Policy,
}

/// The engine of a host.
pub struct Engine {
    hypervisor: Arc<dyn Hypervisor>,
    shared: Shared,
    primaries: Mutex<BTreeMap<RelationshipId, primary::Handle>>,
    replicas: Arc<ReplicaHost>,
    tasks: TaskTracker,
    inventory: Arc<Inventory>,
    pub(crate) vms: Arc<Vms>,
    enabling: tokio::sync::Mutex<()>,
}

/// A hypervisor's error as people see it.
#[must_use]
pub fn hypervisor_refusal(error: &standin_hypervisor::Error) -> Refusal {
    reason::Hypervisor::of(error).into()
}

/// The same of an error of `inspect`.
pub(crate) fn inspect_refusal(error: &standin_hypervisor::Error) -> Refusal {
    reason::Hypervisor::of_inspect(error).into()
}

/// What a connection that is to be a link begins with.
fn link_of(first: &Result<Option<Frame>, standin_wire::Error>) -> Option<(Uuid, u64)> {
    let Ok(Some(Frame::Control(control))) = first else { return None };
    match control.parse() {
        Ok(Request::Link { run, number }) => Some((run, number)),
        _ => None,
    }
}

impl Engine {
    /// Takes up what an earlier process left: replicas, failovers, primaries with their jobs.
    ///
    /// # Errors
    /// When the state store cannot be read.
    pub async fn open(parts: Parts) -> Result<Arc<Self>, OpenError> {
        let tables = Tables::new(&parts.state);
        records::take_up(&tables, parts.host_id).await?;
        let jobs = Jobs::load(tables.jobs.clone(), parts.hello.host.clone()).await?;
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let config = parts.config;
        let peers =
            Peers::open(parts.transport, parts.host_id, tables.clone(), shutdown.clone(), tasks.clone())
                .await?;
        let service = Service::load(tables.clone(), config.port, config.window).await?;
        let inventory = Inventory::new(Arc::clone(&parts.hypervisor));
        let files = ClaimFiles::open(parts.files.clone(), &config.claims_dir)?;
        for replica in parts.store.list() {
            files.beside(replica.vm(), replica.directory().to_owned());
        }
        // One that cannot be opened still says who may run its VM.
        for replica in parts.store.unreadable() {
            files.beside(replica.vm, replica.directory);
        }
        let records = vm::recover(&tables, &files).await?;
        let context = VmContext {
            me: parts.host_id,
            hypervisor: Arc::clone(&parts.hypervisor),
            inventory: Arc::clone(&inventory),
            tables: tables.clone(),
            files,
            peers: Arc::clone(&peers),
            fencing: parts.fencing,
            witness: config.policy.witness.clone().map(NamedWitness::new),
            witnessing: WitnessRecords::new(tables.clone(), parts.files.clone(), config.runtime_dir.clone()),
            policy: config.policy,
            senders: OnceLock::new(),
            shutdown: shutdown.clone(),
            tasks: tasks.clone(),
        };
        let vms = Vms::new(context, records);
        let clock = parts.store.clock().clone();
        let replicas = ReplicaHost::load(HostShared {
            hypervisor: Arc::clone(&parts.hypervisor),
            inventory: Arc::clone(&inventory),
            vms: Arc::clone(&vms),
            store: parts.store,
            files: parts.files,
            peers: Arc::clone(&peers),
            tables: tables.clone(),
            jobs: Arc::clone(&jobs),
            service: Arc::clone(&service),
            names: Arc::default(),
            runtime_dir: config.runtime_dir,
            log_dir: config.log_dir,
            networks: config.networks,
            merge_bytes_per_s: config.merge_bytes_per_s,
            shutdown: shutdown.clone(),
        })
        .await?;
        let tools = Tools {
            hypervisor: Arc::clone(&parts.hypervisor),
            peers: Arc::clone(&peers),
            vms: Arc::clone(&vms),
            scratch_dir: config.scratch_dir,
            files: Arc::new(ConfigFiles::default()),
            digest_dir: config.digest_dir,
            clock,
        };
        let slots = Arc::new(tokio::sync::Semaphore::new(config.max_parallel.max(1)));
        let engine = Arc::new(Self {
            hypervisor: parts.hypervisor,
            shared: Shared { tools, tables, jobs, slots, service, shutdown },
            primaries: Mutex::default(),
            replicas,
            tasks,
            inventory,
            vms,
            enabling: tokio::sync::Mutex::default(),
        });
        engine.take_up().await?;
        let follow = Arc::clone(&engine.inventory).follow(engine.shared.shutdown.clone());
        engine.tasks.spawn(follow);
        let senders: std::sync::Weak<Self> = Arc::downgrade(&engine);
        engine.vms.sends_by(senders);
        engine.tasks.spawn(Arc::clone(&engine.vms).follow());
        engine.tasks.spawn(Arc::clone(&engine.vms).tell_again());
        // Only now: whoever calls is answered by what was taken up.
        peers.answer_with(Arc::new(VmAnswers(Arc::downgrade(&engine.vms))));
        engine.vms.keep_links();
        engine.tasks.spawn(Arc::clone(&engine.vms).follow_witness());
        for record in engine.vms.records().into_iter().filter(|record| record.given_up) {
            let engine = Arc::clone(&engine);
            engine.tasks.clone().spawn(async move { engine.give_up(record.vm).await });
        }
        Ok(engine)
    }

    async fn take_up(self: &Arc<Self>) -> Result<(), StateError> {
        let mut owned = Vec::new();
        for mut record in records::senders(&self.shared.tables).await? {
            let (state, reason) = after_restart(record.state, None);
            // A comparison that the restart interrupted goes on by itself: its job is still the operator's wish.
            let resumes = record.state == ReplicationState::Resynchronizing;
            if !resumes {
                record.state = state;
            }
            if let Some(reason) = reason {
                tracing::info!(vm = %record.name, state = %record.state, reason, "taken up after a restart");
            }
            owned.extend(record.job);
            self.spawn_primary(record, None);
        }
        // A job that no relationship takes up again ended with the process that did it.
        for job in self.shared.jobs.running() {
            if !owned.contains(&job.id) {
                if let Some(handle) = self.shared.jobs.resume(job.id) {
                    handle.interrupted().await;
                }
            }
        }
        Ok(())
    }

    fn spawn_primary(self: &Arc<Self>, record: PrimaryRecord, worker: Option<Worker>) -> primary::Handle {
        let id = record.id();
        let (handle, ended) = primary::task::spawn(self.shared.clone(), record, worker);
        self.lock().insert(id, handle.clone());
        let engine = Arc::downgrade(self);
        let seen = handle.clone();
        self.tasks.spawn(async move {
            if ended.await.is_err() {
                tracing::error!(relationship = %id, "the task of a relationship ended by a defect");
            }
            if let Some(engine) = engine.upgrade() {
                if seen.snapshot().removed {
                    engine.forget_primary(id, &seen);
                }
            }
        });
        handle
    }

    /// Forgets a relationship that was removed, unless there is a new one in its place already.
    fn forget_primary(&self, id: RelationshipId, removed: &primary::Handle) {
        let mut primaries = self.lock();
        if primaries.get(&id).is_some_and(|handle| handle.is(removed)) {
            primaries.remove(&id);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<RelationshipId, primary::Handle>> {
        self.primaries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hypervisor of this host.
    #[must_use]
    pub fn hypervisor(&self) -> &Arc<dyn Hypervisor> {
        &self.hypervisor
    }

    /// The VMs of this host as they were seen last.
    pub(crate) fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The settings of the service.
    pub(crate) fn service(&self) -> &Arc<Service> {
        &self.shared.service
    }

    /// All jobs.
    #[must_use]
    pub fn jobs(&self) -> &Arc<Jobs> {
        &self.shared.jobs
    }

    /// The replica side: authorization entries and replicas.
    #[must_use]
    pub fn replicas(&self) -> &Arc<ReplicaHost> {
        &self.replicas
    }

    /// The relationship in which this host sends a VM: the first one, where it sends it to several hosts.
    #[must_use]
    pub fn primary(&self, vm: VmId) -> Option<primary::Handle> {
        self.lock().range(RelationshipId::all_of(vm)).next().map(|(_, handle)| handle.clone())
    }

    /// All relationships in which this host sends.
    #[must_use]
    pub fn primaries(&self) -> Vec<primary::Snapshot> {
        self.lock().values().map(primary::Handle::snapshot).collect()
    }

    /// The VMs of this host: who may run them, and what is done to them.
    #[must_use]
    pub fn vm_tasks(&self) -> &Arc<Vms> {
        &self.vms
    }

    /// The other hosts.
    #[must_use]
    pub fn peers(&self) -> &Arc<Peers> {
        &self.shared.tools.peers
    }

    /// Serves a connection of another host until it ends or the daemon stops: a session of a primary, or a link.
    pub fn accept(&self, mut connection: Connection) {
        let (host, peers) = (Arc::clone(&self.replicas), Arc::clone(self.peers()));
        let shutdown = self.shared.shutdown.clone();
        let serve = async move {
            let first = connection.next().await;
            match link_of(&first) {
                Some((run, number)) => peers.accept(connection, run, number),
                None => session::serve(host, connection, first).await,
            }
        };
        self.tasks.spawn(async move {
            tokio::select! {
                () = serve => {}
                // The sessions are ended one by one before; this is for those that never opened a VM.
                () = async { shutdown.cancelled().await; tokio::time::sleep(GRACE).await } => {}
            }
        });
    }

    /// Stops sessions, cycles and upkeep, and waits for their end. VMs run on.
    pub async fn shutdown(&self) {
        self.shared.jobs.stop();
        self.replicas.stop().await;
        self.shared.shutdown.cancel();
        self.tasks.close();
        if tokio::time::timeout(GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                "some work did not end in {} s; it is taken up at the next start",
                GRACE.as_secs()
            );
        }
        // What was dropped has ended its jobs by now.
        if tokio::time::timeout(GRACE, self.shared.jobs.settle()).await.is_err() {
            tracing::warn!(
                "the ends of some jobs could not be recorded in {} s; the next start ends them",
                GRACE.as_secs()
            );
        }
    }
}

#[async_trait]
impl Senders for Engine {
    async fn yield_up(&self, vm: VmId) -> bool {
        let Some(handle) = self.primary(vm) else { return true };
        // One that has just been removed sends nothing either.
        tokio::time::timeout(YIELD, handle.ask(Command::Yield)).await.is_ok()
    }

    async fn give_up(&self, vm: VmId) {
        while self.vms.record(vm).is_some_and(|record| record.given_up) {
            match self.give_up_copy(vm).await {
                Ok(_) => return,
                Err(refusal) => {
                    tracing::warn!(%vm, %refusal, "what a copy wrote that was given up is not kept yet")
                }
            }
            tokio::select! {
                () = self.shared.shutdown.cancelled() => return,
                () = tokio::time::sleep(YIELD) => {}
            }
        }
    }

    async fn ask_by_session(&self, vm: VmId) -> Place {
        let Some(handle) = self.primary(vm) else { return Place::Silent };
        match handle.ask(Command::Greet).await {
            Ok(_) => Place::NotHere,
            Err(refusal) if refusal.code == ReturnCode::NotAvailable => Place::Silent,
            Err(_) if self.vms.fence(vm).is_some_and(|fence| !fence.held_by(self.vms.me())) => Place::Lives,
            Err(_) => Place::Silent,
        }
    }
}
