//! The engine of a host: its primaries, its replicas, its jobs, and the operations on them. Whatever speaks to
//! people and programs (the local API, the management protocols) calls this and nothing below it.
//!
//! Here is its life: what it is made of, what it takes up at the start, what it hands out, its end. A relationship is
//! begun in [`enable`], and all else that is done to a VM is in [`operations`].

mod enable;
mod operations;

pub use enable::Enable;

use crate::inventory::Inventory;
use crate::jobs::Jobs;
use crate::network::SiteNetworks;
use crate::primary::config_files::ConfigFiles;
use crate::primary::session::Dialer;
use crate::primary::{self, Shared, Tools, Worker};
use crate::records::{self, PrimaryRecord, Tables};
use crate::replica::{HostShared, ReplicaHost, session};
use crate::service::Service;
use standin_hypervisor::Hypervisor;
use standin_model::state::{ReplicationState, after_restart};
use standin_model::stats::Window;
use standin_model::{Refusal, ReturnCode, VmId};
use standin_state::{StateError, StateStore};
use standin_store::Store;
use standin_wire::{Connection, Hello, Identity};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long pieces of work may take to end in order when the daemon stops.
const GRACE: Duration = Duration::from_secs(10);

/// What the engine of a host is made of.
pub struct Parts {
    /// Runs the VMs of this host.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// The disks of replicas.
    pub store: Store,
    /// What survives a restart.
    pub state: Arc<dyn StateStore>,
    /// This host's certificates.
    pub identity: Identity,
    /// This host's name and version.
    pub hello: Hello,
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
}

/// The engine of a host.
pub struct Engine {
    hypervisor: Arc<dyn Hypervisor>,
    shared: Shared,
    primaries: Mutex<HashMap<VmId, primary::Handle>>,
    replicas: Arc<ReplicaHost>,
    tasks: TaskTracker,
    inventory: Arc<Inventory>,
    enabling: tokio::sync::Mutex<()>,
}

fn refuse(code: ReturnCode, message: impl Into<String>, remedy: impl Into<String>) -> Refusal {
    Refusal::new(code, message, remedy)
}

/// The model's return code for a hypervisor's error.
pub(crate) fn hypervisor_code(error: &standin_hypervisor::Error) -> ReturnCode {
    use standin_hypervisor::Error as E;
    match error {
        E::UnknownVm(_) | E::UnknownDisk { .. } => ReturnCode::FileNotFound,
        E::AlreadyRunning(_) | E::AlreadyDefined { .. } => ReturnCode::InUse,
        E::NotRunning(_) | E::Adopted { .. } => ReturnCode::InvalidState,
        E::Unsupported { .. } => ReturnCode::NotSupported,
        E::Timeout { .. } => ReturnCode::Timeout,
        E::Definition { .. } | E::DiskProblem { .. } => ReturnCode::InvalidParameter,
        E::Io { source, .. } if crate::error::out_of_memory(source) => ReturnCode::OutOfMemory,
        _ => ReturnCode::Failed,
    }
}

/// A hypervisor's error as people see it.
#[must_use]
pub fn hypervisor_refusal(error: &standin_hypervisor::Error) -> Refusal {
    refuse(hypervisor_code(error), crate::error::chain(error), error.remedy().to_string())
}

/// The same of an error of `inspect`: unless the hypervisor knows that the VM is not there, it cannot say how the VM is.
pub(crate) fn inspect_refusal(error: &standin_hypervisor::Error) -> Refusal {
    let refusal = hypervisor_refusal(error);
    match refusal.code {
        ReturnCode::Failed => Refusal {
            code: ReturnCode::StatusUnknown,
            message: format!("the hypervisor cannot say how the VM is: {}", refusal.message),
            ..refusal
        },
        _ => refusal,
    }
}

impl Engine {
    /// Takes up what an earlier process left: replicas, failovers, primaries with their jobs.
    ///
    /// # Errors
    /// When the state store cannot be read.
    pub async fn open(parts: Parts) -> Result<Arc<Self>, StateError> {
        let tables = Tables::new(&parts.state);
        records::take_up(&tables).await?;
        let jobs = Jobs::load(tables.jobs.clone(), parts.hello.host.clone()).await?;
        let shutdown = CancellationToken::new();
        let config = parts.config;
        let service = Service::load(tables.clone(), config.port, config.window).await?;
        let inventory = Inventory::new(Arc::clone(&parts.hypervisor));
        let replicas = ReplicaHost::load(HostShared {
            hypervisor: Arc::clone(&parts.hypervisor),
            inventory: Arc::clone(&inventory),
            store: parts.store,
            tables: tables.clone(),
            jobs: Arc::clone(&jobs),
            service: Arc::clone(&service),
            runtime_dir: config.runtime_dir,
            log_dir: config.log_dir,
            networks: config.networks,
            merge_bytes_per_s: config.merge_bytes_per_s,
            shutdown: shutdown.clone(),
        })
        .await?;
        let tools = Tools {
            hypervisor: Arc::clone(&parts.hypervisor),
            dialer: Dialer { identity: parts.identity, hello: parts.hello },
            scratch_dir: config.scratch_dir,
            files: Arc::new(ConfigFiles::default()),
            digest_dir: config.digest_dir,
        };
        let slots = Arc::new(tokio::sync::Semaphore::new(config.max_parallel.max(1)));
        let engine = Arc::new(Self {
            hypervisor: parts.hypervisor,
            shared: Shared { tools, tables, jobs, slots, service, shutdown },
            primaries: Mutex::default(),
            replicas,
            tasks: TaskTracker::new(),
            inventory,
            enabling: tokio::sync::Mutex::default(),
        });
        engine.take_up().await?;
        let follow = Arc::clone(&engine.inventory).follow(engine.shared.shutdown.clone());
        engine.tasks.spawn(follow);
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
            if !owned.contains(&job.id)
                && let Some(handle) = self.shared.jobs.resume(job.id)
            {
                handle.interrupted().await;
            }
        }
        Ok(())
    }

    fn spawn_primary(self: &Arc<Self>, record: PrimaryRecord, worker: Option<Worker>) -> primary::Handle {
        let vm = record.vm;
        let (handle, ended) = primary::task::spawn(self.shared.clone(), record, worker);
        self.lock().insert(vm, handle.clone());
        let engine = Arc::downgrade(self);
        let seen = handle.clone();
        self.tasks.spawn(async move {
            if ended.await.is_err() {
                tracing::error!(%vm, "the task of a relationship ended by a defect");
            }
            if let Some(engine) = engine.upgrade()
                && seen.snapshot().removed
            {
                engine.forget_primary(vm, &seen);
            }
        });
        handle
    }

    /// Forgets a relationship that was removed, unless the VM has a new one already.
    fn forget_primary(&self, vm: VmId, removed: &primary::Handle) {
        let mut primaries = self.lock();
        if primaries.get(&vm).is_some_and(|handle| handle.is(removed)) {
            primaries.remove(&vm);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<VmId, primary::Handle>> {
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

    /// The relationship in which this host sends a VM.
    #[must_use]
    pub fn primary(&self, vm: VmId) -> Option<primary::Handle> {
        self.lock().get(&vm).cloned()
    }

    /// All relationships in which this host sends.
    #[must_use]
    pub fn primaries(&self) -> Vec<primary::Snapshot> {
        self.lock().values().map(primary::Handle::snapshot).collect()
    }

    /// Serves a connection of a primary until it ends or the daemon stops.
    pub fn accept(&self, connection: Connection) {
        let (host, shutdown) = (Arc::clone(&self.replicas), self.shared.shutdown.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = session::serve(host, connection) => {}
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
