//! The engine as the service of the local API, and how it is put together from the configuration.

use crate::api::Service;
use crate::api::reason::{Daemon, Select};
use crate::api::service::Result;
use crate::api::types::{
    AdoptRequest, AuthRequest, HostView, KeepRequest, Outcome, PeerAddress, PeerView, ReplicateOrder,
    StartRequest, StartView, VmRef,
};
use crate::check::Checks;
use crate::config::{Certificates, Config, KvmUse};
use crate::listener::Listener;
use crate::management::Management;
use anyhow::Context;
use async_trait::async_trait;
use jiff::Timestamp;
use standin_durable::Files;
use standin_engine::engine::hypervisor_refusal;
use standin_engine::peers::TlsTransport;
use standin_engine::records::PeerRecord;
use standin_engine::replica::failover::Failover;
use standin_engine::vm::FenceCommand;
use standin_engine::{
    Command, Enable, Engine, EngineConfig, Modification, NowKnownAs, Parts, SiteNetworks, jobs, status,
};
use standin_hypervisor::definition::VmDefinition;
use standin_hypervisor::qemu::{self, QemuDriver, QemuOptions};
use standin_hypervisor::{Hypervisor, PowerState};
use standin_model::auth::AuthorizationEntry;
use standin_model::fence::Assertion;
use standin_model::network::{NetworkChange, NetworkView};
use standin_model::reason::Text;
use standin_model::stats::Window;
use standin_model::view::{
    AuthView, CheckView, DirectoryKind, DirectoryView, JobView, PointView, PreflightView, RepairView,
    SettingsView, StatusView, VmView,
};
use standin_model::{AuthId, HostId, JobId, PointId, Refusal, VmId, VmName};
use standin_state::{RedbStore, StateStore};
use standin_store::{Store, StoreOptions};
use standin_wire::{Hello, Identity, IdentityFiles, PkiDir};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Opens everything the daemon needs and starts it.
///
/// # Errors
/// Why it cannot start, in a sentence with what to do: the port is in use, the certificates are missing.
pub async fn build_service(config: Config) -> anyhow::Result<Arc<dyn Service>> {
    let identity = identity(&config)?;
    let host_id = crate::host_id::read_or_create(&config.data_dir).context("this host has no id")?;
    let hello = Hello::new(config.host_name.clone(), format!("standin {}", env!("CARGO_PKG_VERSION")))
        .of(host_id, config.listen.port());
    // The port first: a second daemon must not touch the first one's VMs.
    let listener = Listener::bind(&config).await?;
    let state: Arc<dyn StateStore> = Arc::new(
        RedbStore::open(config.data_dir.join("state.redb"))
            .context("the state of the daemon cannot be opened")?,
    );
    let driver = QemuDriver::open(QemuOptions {
        qemu_binary: config.qemu_binary.clone(),
        kvm: match config.kvm {
            KvmUse::Auto => qemu::KvmUse::Auto,
            KvmUse::Never => qemu::KvmUse::Never,
            KvmUse::Always => qemu::KvmUse::Always,
        },
        ..QemuOptions::new(&config.data_dir, &config.runtime_dir)
    })
    .await
    .context("the QEMU driver cannot be started")?;
    let store = open_store(&config, &state, &driver).await?;
    let log_dir = config.data_dir.join("log");
    std::fs::create_dir_all(&log_dir).with_context(|| format!("cannot make {}", log_dir.display()))?;
    let engine = Engine::open(Parts {
        hypervisor: driver.clone(),
        store: store.clone(),
        state,
        files: Files::default(),
        transport: Arc::new(TlsTransport::new(identity.clone(), hello.clone())),
        fencing: Arc::new(FenceCommand),
        hello: hello.clone(),
        host_id,
        config: EngineConfig {
            scratch_dir: config.scratch_dir.clone(),
            digest_dir: config.data_dir.join("sent"),
            runtime_dir: config.runtime_dir.clone(),
            log_dir,
            networks: SiteNetworks { map: config.network_map.clone(), ..SiteNetworks::default() },
            merge_bytes_per_s: config.merge_bytes_per_s,
            max_parallel: config.max_cycles,
            window: window(&config),
            port: config.listen.port(),
            claims_dir: config.data_dir.join("claims"),
            policy: config.policy.clone(),
        },
    })
    .await
    .context("the state of the daemon cannot be read")?;
    let management = match start_management(&config, &engine).await {
        Ok(management) => management,
        Err(error) => {
            engine.shutdown().await;
            return Err(error);
        }
    };
    listener.serve(Arc::clone(&engine), identity.clone(), hello, PkiDir::new(&config.pki_dir));
    Ok(Arc::new(EngineService {
        checks: Checks::new(store, Arc::clone(engine.jobs())),
        engine,
        management,
        driver,
        identity,
        started_at: Timestamp::now(),
        qemu_version: qemu_version(&config).await,
        config,
    }))
}

/// The management API, where the configuration asks for it.
async fn start_management(config: &Config, engine: &Arc<Engine>) -> anyhow::Result<Option<Management>> {
    match &config.management {
        Some(settings) => Management::start(config, settings, Arc::clone(engine)).await.map(Some),
        None => Ok(None),
    }
}

fn identity(config: &Config) -> anyhow::Result<Identity> {
    let (files, hint) = match &config.certificates {
        Certificates::Builtin(dir) => (
            PkiDir::new(dir).identity_files(),
            "make this host's certificates with `standin pki init`, or get them from another host with `standin \
             enroll TOKEN`",
        ),
        Certificates::Own { certificate, key, trust } => (
            IdentityFiles { certificate: certificate.clone(), key: key.clone(), trust: trust.clone() },
            "correct the paths under [tls] in the configuration",
        ),
    };
    Identity::from_files(files.certificate, files.key, files.trust)
        .with_context(|| format!("this host's certificates cannot be used; {hint}"))
}

/// What the configured QEMU says of itself; `None` when there is none.
async fn qemu_version(config: &Config) -> Option<String> {
    let binary = config.qemu_binary.clone().unwrap_or_else(|| "qemu-system-x86_64".into());
    let output = tokio::process::Command::new(binary).arg("--version").output().await.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(str::to_owned)
}

/// Opens the storage locations: the default one, those that authorization entries name, and those where a replica was the
/// last time, if they are still there.
async fn open_store(
    config: &Config,
    state: &Arc<dyn StateStore>,
    driver: &QemuDriver,
) -> anyhow::Result<Store> {
    let tables = standin_engine::records::Tables::new(state);
    let entries = standin_engine::records::list(&tables.entries).await.context("the state cannot be read")?;
    let replicas = standin_engine::records::receivers(&tables).await.context("the state cannot be read")?;
    let mut locations = vec![config.replica_storage.clone()];
    let known = entries.into_iter().map(|entry| entry.storage_location);
    let former = replicas.into_iter().map(|record| record.location).filter(|location| location.is_dir());
    for location in known.chain(former) {
        if !locations.contains(&location) {
            locations.push(location);
        }
    }
    let vms = driver.list().await.context("the VMs of this host cannot be listed")?;
    let running = vms.into_iter().filter(|info| info.power != PowerState::Off);
    let in_use = running.flat_map(|info| info.definition.disks).map(|disk| disk.file).collect();
    let store = Store::open(StoreOptions { locations, in_use, ..StoreOptions::default() })
        .context("the replicas of this host cannot be opened")?;
    for problem in store.problems() {
        tracing::error!(path = %problem.path.display(), "{}", problem.message);
    }
    Ok(store)
}

fn window(config: &Config) -> Window {
    let length_s = u32::try_from(config.monitoring_interval.as_secs()).unwrap_or(u32::MAX);
    let zone = jiff::tz::TimeZone::system();
    let midnight = Timestamp::now().to_zoned(zone).start_of_day().map(|day| day.timestamp());
    let start = midnight
        .ok()
        .and_then(|midnight| midnight.checked_add(config.monitoring_start).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH);
    Window { start, length_s }
}

struct EngineService {
    engine: Arc<Engine>,
    management: Option<Management>,
    driver: Arc<QemuDriver>,
    identity: Identity,
    checks: Checks,
    started_at: Timestamp,
    qemu_version: Option<String>,
    config: Config,
}

impl EngineService {
    async fn id(&self, vm: &VmRef) -> Result<VmId> {
        match vm {
            VmRef::Id(id) => Ok(*id),
            VmRef::Name(name) => self.engine.resolve(name).await,
        }
    }

    /// What the hypervisor says of a VM by its identity, said by the name that people know.
    async fn named(&self, id: VmId, refusal: Refusal) -> Refusal {
        match self.engine.hypervisor().inspect(id).await {
            Ok(info) => {
                let message = refusal.message.replace(&id.to_string(), info.name.as_str());
                refusal.saying(message)
            }
            Err(_) => refusal,
        }
    }

    fn outcome(&self, job: Option<JobId>) -> Result<Outcome> {
        match job {
            None => Ok(Outcome::completed()),
            Some(id) => {
                let record = self.engine.jobs().watch(id).ok_or_else(|| jobs::unknown(id))?;
                let view = JobView::from(&*record.borrow());
                Ok(Outcome::started(view))
            }
        }
    }

    fn settings_of(&self, id: VmId) -> Result<SettingsView> {
        let none = || Refusal::from(Select::NoSettings { id });
        let found = self.engine.relationship(id).ok_or_else(none)?;
        let (vms, status) = (self.engine.vm_tasks(), found.status);
        let set_here = vms.record(id).is_some_and(|record| record.when_silent.is_some());
        let when_silent = (vms.stance(id).when_silent, set_here);
        Ok(SettingsView::new(status.vm, id, status.peer, &found.settings, when_silent))
    }

    async fn view(&self, id: VmId) -> Result<VmView> {
        let info = self.engine.hypervisor().inspect(id).await.map_err(|error| hypervisor_refusal(&error))?;
        Ok(self.engine.vm_view(&info))
    }
}

#[async_trait]
impl Service for EngineService {
    async fn host_info(&self) -> Result<HostView> {
        Ok(HostView {
            host_name: self.config.host_name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: self.started_at,
            listen: self.config.listen.to_string(),
            accelerator: status::accelerator(&self.driver.accelerator().await),
            qemu_version: self.qemu_version.clone(),
            data_dir: self.config.data_dir.clone(),
            replica_storage: self.config.replica_storage.clone(),
        })
    }

    async fn reload(&self) -> Result<()> {
        if let Some(management) = &self.management {
            management.reload();
        }
        self.identity
            .reload()
            .map(|_| ())
            .map_err(|error| Daemon::NotReloaded(Text::new(error.to_string(), error.remedy())).into())
    }

    async fn list_vms(&self) -> Result<Vec<VmView>> {
        let vms = self.engine.hypervisor().list().await.map_err(|error| hypervisor_refusal(&error))?;
        Ok(vms.iter().map(|info| self.engine.vm_view(info)).collect())
    }

    async fn show_vm(&self, vm: &VmRef) -> Result<VmView> {
        let id = self.id(vm).await?;
        self.view(id).await
    }

    async fn define_vm(&self, definition: VmDefinition) -> Result<VmView> {
        let uuid = definition.uuid;
        match self.engine.define_vm(definition).await {
            Ok(id) => self.view(id).await,
            Err(refusal) => Err(self.named(uuid, refusal).await),
        }
    }

    async fn start_vm(&self, vm: &VmRef, request: StartRequest) -> Result<StartView> {
        let id = self.id(vm).await?;
        let job = match self.engine.start_vm(id, request.asserted()).await {
            Ok(job) => job,
            Err(refusal) => return Err(self.named(id, refusal).await),
        };
        let job = match job {
            Some(job) => Some(self.job(job).await?),
            None => None,
        };
        Ok(StartView { vm: self.view(id).await?, job })
    }

    async fn stop_vm(&self, vm: &VmRef, force: bool, timeout: Duration) -> Result<VmView> {
        let id = self.id(vm).await?;
        let vms = self.engine.vm_tasks();
        let stopped = match force {
            true => vms.power_off(id).await,
            false => vms.shutdown(id, timeout).await,
        };
        if let Err(refusal) = stopped {
            return Err(self.named(id, refusal).await);
        }
        self.view(id).await
    }

    async fn adopt_vm(&self, request: AdoptRequest) -> Result<VmView> {
        let asserted = request.force.then_some(Assertion::Forced);
        let id = self.engine.adopt_vm(request.qmp, request.name, asserted).await?;
        self.view(id).await
    }

    async fn remove_vm(&self, vm: &VmRef) -> Result<()> {
        let id = self.id(vm).await?;
        match self.engine.remove_vm(id).await {
            Ok(()) => Ok(()),
            Err(refusal) => Err(self.named(id, refusal).await),
        }
    }

    async fn auth_add(&self, request: AuthRequest) -> Result<AuthView> {
        let entry = AuthorizationEntry {
            id: AuthId::random(),
            allowed_primary: request.pattern,
            trust_group: request.trust_group,
            storage_location: request.storage.unwrap_or_else(|| self.config.replica_storage.clone()),
        };
        self.engine.replicas().add_entry(entry).await.map(|entry| AuthView::from(&entry))
    }

    async fn auth_list(&self) -> Result<Vec<AuthView>> {
        Ok(self.engine.replicas().entries().iter().map(AuthView::from).collect())
    }

    async fn auth_remove(&self, id: AuthId) -> Result<()> {
        self.engine.replicas().remove_entry(id).await
    }

    async fn peers(&self) -> Result<Vec<PeerView>> {
        let peers = self.engine.peers();
        let linked = peers.linked();
        let view = |record: PeerRecord| PeerView {
            connected: linked.contains(&record.id),
            id: record.id,
            names: record.names,
            addresses: record.addresses,
            software: record.software,
            last_seen: record.last_seen,
        };
        Ok(peers.known().into_iter().map(view).collect())
    }

    async fn rebind_peer(&self, host: HostId, name: String) -> Result<()> {
        self.engine.rebind_host(host, NowKnownAs::from(name)).await
    }

    async fn test_connection(&self, peer: &PeerAddress) -> Result<()> {
        self.engine.test_connection(&peer.to_string()).await
    }

    async fn replicate(&self, vm: &VmRef, order: ReplicateOrder) -> Result<Outcome> {
        let id = self.id(vm).await?;
        let enable = Enable { peer: order.to.to_string(), settings: order.settings, start: order.start };
        let enabled = self.engine.enable(id, enable).await?;
        Ok(Outcome { found_points: enabled.found, ..self.outcome(enabled.job)? })
    }

    async fn unreplicate(&self, vm: &VmRef) -> Result<Outcome> {
        let id = self.id(vm).await?;
        self.engine.remove(id).await.map(|()| Outcome::completed())
    }

    async fn status(&self, vm: Option<&VmRef>) -> Result<Vec<StatusView>> {
        match vm {
            None => self.engine.all_status().await,
            Some(vm) => {
                let id = self.id(vm).await?;
                Ok(vec![self.engine.status(id).await?])
            }
        }
    }

    async fn points(&self, vm: &VmRef) -> Result<Vec<PointView>> {
        let id = self.id(vm).await?;
        let replica = self.engine.replica(id).await?;
        let record = replica.snapshot();
        let view = |point| PointView::new(point, record.name.clone(), record.primary_name().clone());
        let mut points: Vec<_> = replica.store().points().iter().map(view).collect();
        points.sort_by_key(|point| std::cmp::Reverse(point.epoch));
        Ok(points)
    }

    async fn pin_point(&self, vm: &VmRef, point: PointId, pinned: bool) -> Result<Vec<PointView>> {
        let id = self.id(vm).await?;
        self.engine.pin_point(id, point, pinned).await?;
        self.points(vm).await
    }

    async fn suspend(&self, vm: &VmRef) -> Result<Outcome> {
        let id = self.id(vm).await?;
        self.engine.suspend(id).await.map(|()| Outcome::completed())
    }

    async fn resume(&self, vm: &VmRef) -> Result<Outcome> {
        let id = self.id(vm).await?;
        let job = self.engine.resume(id).await?;
        self.outcome(job)
    }

    async fn take_point(&self, vm: &VmRef, application_consistent: bool) -> Result<Outcome> {
        let id = self.id(vm).await?;
        let command = Command::Point { application: application_consistent };
        let job = self.engine.ask(id, command).await?;
        self.outcome(job)
    }

    async fn failover(&self, vm: &VmRef, failover: Failover) -> Result<Outcome> {
        let id = self.id(vm).await?;
        let job = self.engine.failover(id, failover).await?;
        self.outcome(Some(job))
    }

    async fn preflight(&self, vm: &VmRef, point: Option<PointId>) -> Result<PreflightView> {
        let id = self.id(vm).await?;
        self.engine.preflight(id, point).await
    }

    async fn keep_copy(&self, vm: &VmRef, request: KeepRequest) -> Result<Outcome> {
        let id = self.id(vm).await?;
        let job = self.engine.keep_copy(id, request.here).await?;
        self.outcome(job)
    }

    async fn forget_claim(&self, vm: &VmRef) -> Result<()> {
        let id = self.id(vm).await?;
        self.engine.vm_tasks().forget(id).await
    }

    async fn revert_failover(&self, vm: &VmRef) -> Result<Outcome> {
        let id = self.id(vm).await?;
        let job = self.engine.revert(id).await?;
        self.outcome(Some(job))
    }

    async fn commit_failover(&self, vm: &VmRef) -> Result<Outcome> {
        let id = self.id(vm).await?;
        let job = self.engine.commit(id).await?;
        self.outcome(Some(job))
    }

    async fn network(&self, vm: &VmRef) -> Result<NetworkView> {
        self.engine.network(self.id(vm).await?).await
    }

    async fn set_network(&self, vm: &VmRef, changes: Vec<NetworkChange>) -> Result<NetworkView> {
        self.engine.set_network(self.id(vm).await?, changes).await
    }

    async fn settings(&self, vm: &VmRef) -> Result<SettingsView> {
        let id = self.id(vm).await?;
        self.settings_of(id)
    }

    async fn modify(&self, vm: &VmRef, wanted: Modification) -> Result<SettingsView> {
        let id = self.id(vm).await?;
        self.engine.modify(id, wanted).await?;
        self.settings_of(id)
    }

    async fn rename(&self, vm: &VmRef, name: VmName) -> Result<StatusView> {
        let id = self.id(vm).await?;
        self.engine.rename(id, name).await?;
        self.engine.status(id).await
    }

    async fn resync(&self, vm: &VmRef) -> Result<Outcome> {
        let id = self.id(vm).await?;
        let job = self.engine.ask(id, Command::Resynchronize).await?;
        self.outcome(job)
    }

    async fn store_check(&self, vm: Option<&VmRef>) -> Result<Outcome> {
        let replica = match vm {
            None => None,
            Some(vm) => {
                let id = self.id(vm).await?;
                Some(self.engine.replica(id).await?)
            }
        };
        let target = replica.map(|replica| (replica.id(), replica.snapshot().name));
        let job = self.checks.start(target).await?;
        self.outcome(Some(job))
    }

    async fn store_check_result(&self, job: JobId) -> Result<Vec<CheckView>> {
        let mut views = self.checks.result(job)?;
        for view in &mut views {
            // The manifest has the name that the replica was made with.
            if let Some(replica) = self.engine.replicas().find(view.id) {
                view.vm = replica.snapshot().name;
            }
        }
        Ok(views)
    }

    async fn store_list(&self) -> Result<Vec<DirectoryView>> {
        self.engine.replicas().directories().await
    }

    async fn store_repair(&self, vm: &VmRef) -> Result<Outcome> {
        let id = self.id(vm).await?;
        let job = self.checks.repair(Arc::clone(self.engine.replicas()), id).await?;
        self.outcome(Some(job))
    }

    async fn store_repair_result(&self, job: JobId) -> Result<RepairView> {
        self.checks.repaired(job)
    }

    async fn store_adopt(&self, directory: PathBuf) -> Result<DirectoryView> {
        let replicas = self.engine.replicas();
        let vm = replicas.adopt(directory).await?;
        let found = replicas.directories().await?.into_iter();
        let mut adopted = found.filter(|one| one.kind == DirectoryKind::Replica && one.vm == vm);
        adopted.next().ok_or_else(|| standin_engine::replica::vm::no_replica(vm.as_str()))
    }

    async fn store_remove(&self, directory: PathBuf) -> Result<()> {
        self.engine.replicas().remove_directory(directory).await
    }

    async fn jobs(&self) -> Result<Vec<JobView>> {
        Ok(self.engine.jobs().list().iter().map(JobView::from).collect())
    }

    async fn job(&self, id: JobId) -> Result<JobView> {
        let record = self.engine.jobs().watch(id).ok_or_else(|| jobs::unknown(id))?;
        Ok(JobView::from(&*record.borrow()))
    }

    async fn watch_job(&self, id: JobId) -> Result<watch::Receiver<JobView>> {
        let mut record = self.engine.jobs().watch(id).ok_or_else(|| jobs::unknown(id))?;
        let (views, seen) = watch::channel(JobView::from(&*record.borrow_and_update()));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    changed = record.changed() => if changed.is_err() { return },
                    () = views.closed() => return,
                }
                views.send_replace(JobView::from(&*record.borrow_and_update()));
            }
        });
        Ok(seen)
    }

    async fn cancel_job(&self, id: JobId) -> Result<JobView> {
        self.engine.jobs().cancel(id)?;
        self.job(id).await
    }

    async fn shutdown(&self) {
        if let Some(management) = &self.management {
            management.stop().await;
        }
        self.engine.shutdown().await;
    }
}
