//! Enabling replication: whether a VM may be sent, which of its disks, and the record it begins with.
//!
//! One at a time on a host, so that two requests for one VM cannot both find it free. The replica is asked before
//! anything is stored here: a refusal leaves both sides as they were.
//!
//! Called by the local API and the management protocols.

use super::reason::Operation;
use super::{Engine, inspect_refusal};
use crate::messages::{DiskShape, Opened};
use crate::peers::reason::Peer;
use crate::primary::{Command, Worker};
use crate::records::{self, PrimaryRecord};
use crate::tasks::to_its_end;
use crate::vm::Sharing;
use jiff::Timestamp;
use standin_hypervisor::{PowerState, Tracker, VmInfo};
use standin_model::fence::{KnownHost, Role};
use standin_model::network::NetworkSettings;
use standin_model::settings::RelationshipSettings;
use standin_model::state::ReplicationState;
use standin_model::stats::Monitor;
use standin_model::{DiskName, JobId, Refusal, VmId};
use std::sync::Arc;

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

/// What came of enabling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enabled {
    /// The initial replication, where it was started.
    pub job: Option<JobId>,
    /// The host had a replica of this VM of before, with so many recovery points: they stay, and the initial replication
    /// compares instead of copying.
    pub found: Option<u64>,
}

impl Engine {
    /// Enables replication of a VM, and starts the initial replication if asked to.
    ///
    /// # Errors
    /// The model's codes; nothing changed then on either side.
    pub async fn enable(self: &Arc<Self>, vm: VmId, enable: Enable) -> Result<Enabled, Refusal> {
        let engine = Arc::clone(self);
        to_its_end(async move { engine.begin_relationship(vm, enable).await }).await
    }

    async fn begin_relationship(self: &Arc<Self>, vm: VmId, enable: Enable) -> Result<Enabled, Refusal> {
        let _one_at_a_time = self.enabling.lock().await;
        self.not_a_replica(vm)?;
        let info = self.hypervisor.inspect(vm).await.map_err(|error| inspect_refusal(&error))?;
        self.not_replicating(&info)?;
        let mut settings = enable.settings;
        settings.validate()?;
        let disks = choose_disks(&info, &settings.disks)?;
        settings.disks = disks.iter().map(|disk| disk.name.clone()).collect();
        let claim = self.vms.offered(&info).await?;
        let mut record = PrimaryRecord {
            vm,
            index: 0,
            name: info.name.clone(),
            peer: enable.peer,
            settings,
            disks,
            state: ReplicationState::ReadyForReplication,
            host: None,
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
            saved_at: None,
            found: None,
        };
        let mut worker = Worker::new(self.shared.tools.clone());
        let opened = worker.create(&record, claim).await.map_err(|error| error.refusal())?;
        found_again(&mut record, &opened);
        let found = record.found;
        let (host, name) = worker.host().ok_or_else(|| Peer::Nameless { address: record.peer.clone() })?;
        record.host = Some(host);
        let addresses = vec![record.peer.clone()];
        let known = KnownHost { name, addresses, role: Role::Replica, accepted: None };
        // A replica of before knows the claim that this host has lost.
        let claim = opened.claim.filter(|known| known.holder == self.vms.me()).unwrap_or(claim);
        let sharing = Sharing { host, known, name: record.name.clone(), claim: Some(claim) };
        self.vms.share(vm, sharing).await?;
        records::put(&self.shared.tables.relationships, record.id(), &record.clone().into()).await?;
        let handle = self.spawn_primary(record, Some(worker));
        let job = if enable.start { handle.ask(Command::Start).await? } else { None };
        Ok(Enabled { job, found })
    }

    fn not_replicating(&self, info: &VmInfo) -> Result<(), Refusal> {
        let Some(handle) = self.primary(info.id) else { return Ok(()) };
        Err(Operation::Replicates { vm: info.name.clone(), peer: handle.snapshot().record.peer }.into())
    }

    /// Asked before the hypervisor, which does not know a replica that has not failed over.
    fn not_a_replica(&self, vm: VmId) -> Result<(), Refusal> {
        let Some(replica) = self.replicas.find(vm) else { return Ok(()) };
        let record = replica.snapshot();
        Err(Operation::IsReplica { vm: record.name, of: record.primary_host }.into())
    }
}

/// The replica has what an earlier relationship left: it is taken up where it is.
fn found_again(record: &mut PrimaryRecord, opened: &Opened) {
    if opened.head.is_none() {
        return;
    }
    tracing::info!(vm = %record.name, peer = %record.peer, points = opened.points, "a replica of before was found");
    record.found = Some(opened.points);
    if let Some(newest) = &opened.newest {
        record.last_point_at = Some(newest.created_at);
        record.last_kind = Some(newest.kind);
    }
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
            Refusal::from(Operation::UnknownDisk { vm: info.name.clone(), disk: name.clone() })
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
        return Err(Operation::DiskUnfit { vm: info.name.clone(), disk: disk.name.clone(), problem }.into());
    }
    if chosen.is_empty() {
        return Err(Operation::NoDisk { vm: info.name.clone() }.into());
    }
    if info.power == PowerState::Off {
        tracing::info!(vm = %info.name, "replication is enabled while the VM is off; it begins when it runs");
    }
    Ok(chosen.iter().map(|disk| DiskShape { name: disk.name.clone(), size: disk.size }).collect())
}
