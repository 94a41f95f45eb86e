//! The engine of a host: its primaries, its replicas, its jobs, and the operations on them. Whatever speaks to
//! people and programs (the local API, the management protocols) calls this and nothing below it.

use crate::inventory::Inventory;
use crate::jobs::Jobs;
use crate::messages::DiskShape;
use crate::network::SiteNetworks;
use crate::primary::config_files::ConfigFiles;
use crate::primary::session::Dialer;
use crate::primary::{self, Command, Shared, Tools, Worker};
use crate::records::{self, PrimaryRecord, Tables};
use crate::replica::{HostShared, ReplicaHost, ReplicaVm, failover, session};
use crate::service::Service;
use jiff::Timestamp;
use standin_hypervisor::{Hypervisor, PowerState, StartOptions, Tracker, VmInfo};
use standin_model::network::NetworkSettings;
use standin_model::settings::RelationshipSettings;
use standin_model::state::{ReplicationState, after_restart};
use standin_model::stats::{Monitor, Window};
use standin_model::{DiskName, Generation, JobId, PointId, Refusal, ReturnCode, VmId, VmName};
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

/// What enabling replication needs.
#[derive(Debug, Clone)]
pub struct Enable {
    /// The replica's `host:port`.
    pub peer: String,
    /// The settings; no disks named means all that can replicate.
    pub settings: RelationshipSettings,
    /// Start the initial replication at once.
    pub start: bool,
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
        let jobs = Jobs::load(tables.jobs.clone(), parts.hello.host.clone())?;
        let shutdown = CancellationToken::new();
        let config = parts.config;
        let service = Arc::new(Service::load(tables.clone(), config.port, config.window)?);
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
        engine.take_up()?;
        let follow = Arc::clone(&engine.inventory).follow(engine.shared.shutdown.clone());
        engine.tasks.spawn(follow);
        Ok(engine)
    }

    fn take_up(self: &Arc<Self>) -> Result<(), StateError> {
        let mut owned = Vec::new();
        for mut record in records::list(&self.shared.tables.primaries)? {
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
                handle.interrupted();
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
    pub(crate) fn service(&self) -> &Service {
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

    /// Finds a VM by its name among those that run here, are sent from here and are received here.
    ///
    /// # Errors
    /// 32779 when there is none, 32773 when the name is ambiguous.
    pub async fn resolve(&self, name: &VmName) -> Result<VmId, Refusal> {
        let mut found: Vec<VmId> = Vec::new();
        let names = self.hypervisor.names().await.map_err(|error| hypervisor_refusal(&error))?;
        found.extend(names.iter().filter(|(_, known)| known == name).map(|(id, _)| *id));
        found.extend(self.primaries().iter().filter(|p| p.record.name == *name).map(|p| p.record.vm));
        found.extend(self.replicas.list().iter().filter(|vm| vm.snapshot().name == *name).map(|vm| vm.id()));
        found.extend(self.replicas.missing().iter().filter(|vm| vm.name == *name).map(|vm| vm.vm));
        found.sort_unstable();
        found.dedup();
        match found[..] {
            [one] => Ok(one),
            [] => Err(unknown_vm(name)),
            _ => Err(refuse(
                ReturnCode::InvalidParameter,
                format!("{} VMs on this host are called {name}", found.len()),
                "Name the VM by its UUID; `standin status --json` shows it.",
            )),
        }
    }

    /// Could this host replicate to that one?
    ///
    /// # Errors
    /// The reason why not.
    pub async fn test_connection(&self, peer: &str) -> Result<(), Refusal> {
        self.shared.tools.dialer.probe(peer).await.map_err(|error| error.refusal())
    }

    /// Enables replication of a VM, and starts the initial replication if asked to.
    ///
    /// # Errors
    /// The model's codes; nothing changed then on either side.
    pub async fn enable(self: &Arc<Self>, vm: VmId, enable: Enable) -> Result<Option<JobId>, Refusal> {
        let _one_at_a_time = self.enabling.lock().await;
        self.not_a_replica(vm)?;
        let info = self.hypervisor.inspect(vm).await.map_err(|error| inspect_refusal(&error))?;
        self.not_replicating(&info)?;
        let mut settings = enable.settings;
        settings.validate()?;
        let disks = choose_disks(&info, &settings.disks)?;
        settings.disks = disks.iter().map(|disk| disk.name.clone()).collect();
        let record = PrimaryRecord {
            vm,
            name: info.name.clone(),
            peer: enable.peer,
            settings,
            disks,
            state: ReplicationState::ReadyForReplication,
            generation: Generation(1),
            fenced: false,
            fence: None,
            tracker: tracker(vm),
            acknowledged: None,
            last_point_at: None,
            last_application_at: None,
            last_error: None,
            failures: 0,
            statistics: Monitor::new(self.shared.service.get().monitoring, Timestamp::now()),
            job: None,
            network: NetworkSettings::default(),
            start_at: None,
            last_kind: None,
            created_at: Some(Timestamp::now()),
            doubted: false,
        };
        let mut worker = Worker::new(self.shared.tools.clone());
        worker.create(&record).await.map_err(|error| error.refusal())?;
        records::put(&self.shared.tables.primaries, vm, &record)?;
        let handle = self.spawn_primary(record, Some(worker));
        if enable.start { handle.ask(Command::Start).await } else { Ok(None) }
    }

    fn not_replicating(&self, info: &VmInfo) -> Result<(), Refusal> {
        let Some(handle) = self.primary(info.id) else { return Ok(()) };
        Err(refuse(
            ReturnCode::InvalidState,
            format!("VM {} already replicates to {}", info.name, handle.snapshot().record.peer),
            "`standin status` shows it; remove it first with `standin unreplicate VM`.",
        ))
    }

    /// Asked before the hypervisor, which does not know a replica that has not failed over.
    fn not_a_replica(&self, vm: VmId) -> Result<(), Refusal> {
        let Some(replica) = self.replicas.find(vm) else { return Ok(()) };
        let record = replica.snapshot();
        Err(refuse(
            ReturnCode::InvalidState,
            format!("VM {} is a replica of {}", record.name, record.primary_host),
            "Commit its failover and remove the replica relationship (`standin unreplicate VM`) first.",
        ))
    }

    /// Asks the task of a primary.
    ///
    /// # Errors
    /// 32775 when this host does not send the VM; the task's refusal.
    pub async fn ask(&self, vm: VmId, command: Command) -> Result<Option<JobId>, Refusal> {
        match self.primary(vm) {
            Some(handle) => handle.ask(command).await,
            None => Err(self.no_primary(vm).await),
        }
    }

    async fn no_primary(&self, vm: VmId) -> Refusal {
        if let Some(replica) = self.replicas.find(vm) {
            return refuse(
                ReturnCode::InvalidState,
                format!("VM {} is received here, not sent", replica.snapshot().name),
                "Use this verb on its primary host.",
            );
        }
        match self.hypervisor.inspect(vm).await {
            Ok(info) => refuse(
                ReturnCode::InvalidState,
                format!("VM {} does not replicate", info.name),
                "Enable its replication with `standin replicate VM --to HOST`.",
            ),
            Err(error) => inspect_refusal(&error),
        }
    }

    /// The replica of a VM on this host.
    ///
    /// # Errors
    /// 32775 or 32779 when there is none, 32777 when its disks are not there, 32771 when the hypervisor cannot say whether
    /// there is such a VM.
    pub async fn replica(&self, vm: VmId) -> Result<Arc<ReplicaVm>, Refusal> {
        if let Some(replica) = self.replicas.find(vm) {
            return Ok(replica);
        }
        if let Some(refusal) = self.replicas.disks_missing(vm) {
            return Err(refusal);
        }
        match self.hypervisor.inspect(vm).await {
            Ok(info) => Err(crate::replica::vm::no_replica(info.name.as_str())),
            Err(error) => Err(inspect_refusal(&error)),
        }
    }

    /// Pauses the side that this host is.
    ///
    /// # Errors
    /// 32775 in the wrong state.
    pub async fn suspend(&self, vm: VmId) -> Result<(), Refusal> {
        match self.replicas.find(vm) {
            Some(replica) => replica.suspend().await,
            None => self.ask(vm, Command::Suspend).await.map(|_| ()),
        }
    }

    /// Goes on after a pause or out of a critical state, or begins what was made and not started; that is a job.
    ///
    /// # Errors
    /// 32775 in the wrong state.
    pub async fn resume(&self, vm: VmId) -> Result<Option<JobId>, Refusal> {
        if let Some(replica) = self.replicas.find(vm) {
            return replica.resume().await.map(|()| None);
        }
        let ready = self
            .primary(vm)
            .is_some_and(|p| p.snapshot().record.state == ReplicationState::ReadyForReplication);
        self.ask(vm, if ready { Command::Start } else { Command::Resume }).await
    }

    /// Ends the relationship on this side; the primary tells the other side if it can.
    ///
    /// # Errors
    /// 32775 in the wrong state.
    pub async fn remove(&self, vm: VmId) -> Result<(), Refusal> {
        let received = self.replicas.find(vm).is_some() || self.replicas.disks_missing(vm).is_some();
        if received {
            return self.replicas.remove(vm).await;
        }
        let Some(handle) = self.primary(vm) else { return Err(self.no_primary(vm).await) };
        handle.ask(Command::Remove).await?;
        // Its task ends a moment later; whoever looks, or replicates the VM anew, must not meet it any more.
        self.forget_primary(vm, &handle);
        Ok(())
    }

    /// Fails over on this host.
    ///
    /// # Errors
    /// 32775 in the wrong state, 32779 for an unknown point; 32774 while another job works on the VM, 32772 when what
    /// holds it does not let go.
    pub async fn failover(&self, vm: VmId, point: Option<PointId>, start: bool) -> Result<JobId, Refusal> {
        failover::initiate(&self.replica(vm).await?, point, start).await
    }

    /// Goes back to the state before the failover.
    ///
    /// # Errors
    /// 32775 in the wrong state.
    pub async fn revert(&self, vm: VmId) -> Result<JobId, Refusal> {
        failover::revert(&self.replica(vm).await?).await
    }

    /// Makes the failover final.
    ///
    /// # Errors
    /// 32775 in the wrong state.
    pub async fn commit(&self, vm: VmId) -> Result<JobId, Refusal> {
        failover::commit(&self.replica(vm).await?).await
    }

    /// Starts a VM, unless it runs elsewhere in its place.
    ///
    /// # Errors
    /// 32775 when the replication does not allow it; the hypervisor's reason.
    pub async fn start_vm(&self, vm: VmId) -> Result<(), Refusal> {
        if let Some(handle) = self.primary(vm) {
            handle.ask(Command::Greet).await?;
            may_start_primary(&handle.snapshot().record)?;
        }
        let replica = self.replicas.find(vm);
        if let Some(replica) = &replica {
            let record = replica.snapshot();
            if !matches!(record.state, ReplicationState::Recovered | ReplicationState::Committed) {
                return Err(refuse(
                    ReturnCode::InvalidState,
                    format!("VM {} is a replica in state {}", record.name, record.state),
                    "Fail over first: `standin failover VM --start`.",
                ));
            }
        }
        if let Some(replica) = &replica {
            failover::before_start(replica).await;
        }
        self.hypervisor
            .start(vm, StartOptions::default())
            .await
            .map_err(|error| hypervisor_refusal(&error))?;
        if let Some(replica) = &replica {
            failover::runs(replica).await;
        }
        Ok(())
    }

    /// Forgets a VM that is off and does not replicate.
    ///
    /// # Errors
    /// 32774 while it replicates; the hypervisor's reason.
    pub async fn remove_vm(&self, vm: VmId) -> Result<(), Refusal> {
        if self.primary(vm).is_some() || self.replicas.find(vm).is_some() {
            return Err(refuse(
                ReturnCode::InUse,
                format!("VM {vm} has a replication relationship"),
                "Remove that first: `standin unreplicate VM`.",
            ));
        }
        let removed = self.hypervisor.undefine(vm).await.map_err(|error| hypervisor_refusal(&error));
        self.inventory.refresh(vm).await;
        removed
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
    }
}

fn unknown_vm(name: &VmName) -> Refusal {
    refuse(
        ReturnCode::FileNotFound,
        format!("there is no VM {name} on this host"),
        "`standin vm list` and `standin status` show what is here.",
    )
}

fn may_start_primary(record: &PrimaryRecord) -> Result<(), Refusal> {
    if record.fenced {
        // What is to be done depends on whether the failover is final, and that is what the replica said.
        let remedy = record.fence.as_ref().map_or(
            "Revert the failover on the replica host to run it here again, or remove the replication here if \
             the replica is not to be used.",
            |fence| fence.remedy.as_str(),
        );
        return Err(refuse(
            ReturnCode::InvalidState,
            format!("VM {} has failed over to {}: two of it would run", record.name, record.peer),
            remedy,
        ));
    }
    if record.state == ReplicationState::SyncedReplicationComplete {
        return Err(refuse(
            ReturnCode::InvalidState,
            format!("VM {} is prepared for a planned failover", record.name),
            "Call it off with `standin resume VM`, or fail over on the replica host.",
        ));
    }
    Ok(())
}

/// Names this relationship in the hypervisor: the beginning of the VM's id.
fn tracker(vm: VmId) -> Tracker {
    Tracker(vm.0.simple().to_string().chars().take(12).collect())
}

/// The disks that replicate: those named, or all that can.
fn choose_disks(info: &VmInfo, wanted: &[DiskName]) -> Result<Vec<DiskShape>, Refusal> {
    let mut chosen = Vec::new();
    for name in wanted {
        let disk = info.disks.iter().find(|disk| disk.name == *name).ok_or_else(|| {
            refuse(
                ReturnCode::FileNotFound,
                format!("VM {} has no disk {name}", info.name),
                "`standin vm show VM` lists its disks.",
            )
        })?;
        chosen.push(disk);
    }
    if wanted.is_empty() {
        chosen.extend(info.disks.iter().filter(|disk| !disk.read_only));
    }
    for disk in &chosen {
        let problem = match (&disk.problem, disk.read_only) {
            (Some(problem), _) => problem.clone(),
            (None, true) => "it is read-only, so nothing on it changes".to_owned(),
            (None, false) => continue,
        };
        return Err(refuse(
            ReturnCode::InvalidParameter,
            format!("disk {} of VM {} cannot replicate: {problem}", disk.name, info.name),
            "Mend that, or name the disks that are to replicate with --disks.",
        ));
    }
    if chosen.is_empty() {
        return Err(refuse(
            ReturnCode::InvalidParameter,
            format!("VM {} has no disk that could replicate", info.name),
            "Give it a raw or qcow2 disk.",
        ));
    }
    if info.power == PowerState::Off {
        tracing::info!(vm = %info.name, "replication is enabled while the VM is off; it begins when it runs");
    }
    Ok(chosen.iter().map(|disk| DiskShape { name: disk.name.clone(), size: disk.size }).collect())
}
