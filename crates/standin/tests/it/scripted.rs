//! A service that does what a test tells it, remembers what it was asked, and knows one VM, `web`.

use async_trait::async_trait;
use jiff::Timestamp;
use standin::api::service::{Result, Service};
use standin::api::types::{
    AdoptRequest, AuthRequest, HostView, KeepRequest, Outcome, PeerAddress, PeerView, ReplicateOrder,
    StartRequest, StartView, VmRef,
};
use standin_engine::Modification;
use standin_engine::replica::failover::Failover;
use standin_engine::vm::Asserts;
use standin_hypervisor::definition::VmDefinition;
use standin_model::fence::{Place, Role, WhenSilent};
use standin_model::network::{
    AdapterId, AdapterSettings, AdapterView, AppliedNetwork, ApplyState, ApplyWay, NetworkChange,
    NetworkView, SettingsOrigin,
};
use standin_model::view::{
    AuthView, CheckView, DirectoryKind, DirectoryView, ErrorView, FenceHostView, FenceView, JobView,
    PointCheckView, PointView, PreflightView, RepairView, SettingsView, StatusView, VmView, WitnessView,
};
use standin_model::{
    AuthId, Epoch, Generation, Health, HostId, JobId, JobRecord, JobState, JobType, PointId, PointKind,
    Policy, Refusal, RelationshipSettings, ReplicationMode, ReplicationState, ReturnCode, VmId, VmName,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::watch;

pub fn web() -> VmName {
    VmName::new("web").expect("a name")
}

pub fn vm_id() -> VmId {
    "6f2c1f0e-0000-4000-8000-000000000001".parse().expect("an id")
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("a time")
}

/// How a job of a test goes.
#[derive(Debug, Clone, Default)]
pub enum Plan {
    /// Moves in steps of a quarter, then completes.
    #[default]
    Completes,
    /// Moves a little, then fails with this.
    Fails(Refusal),
    /// Moves a little and stays there until it is cancelled.
    Stays,
}

#[derive(Default)]
pub struct Scripted {
    /// What mutating operations answer with instead of doing anything.
    pub refuse: Option<Refusal>,
    /// How jobs go.
    pub plan: Plan,
    /// Operations that start a job end at once instead.
    pub no_jobs: bool,
    /// A store check finds damage.
    pub damaged: bool,
    /// The VM is off.
    pub off: bool,
    /// A replica of before is found when the VM replicates, with so many points.
    pub found_points: Option<u64>,
    /// Operations take this long.
    pub slow: Duration,
    /// What it was asked, in order.
    pub asked: Mutex<Vec<String>>,
    pub jobs: Mutex<BTreeMap<JobId, watch::Sender<JobView>>>,
}

/// A job's view as it looks after it completed.
fn completed(view: &JobView) -> JobView {
    JobView {
        state: JobState::Completed,
        state_code: JobState::Completed.code(),
        percent: 100,
        return_code: Some(ReturnCode::Completed),
        ended_at: Some(at(9)),
        ..view.clone()
    }
}

impl Scripted {
    fn note(&self, what: impl Into<String>) -> Result<()> {
        self.asked.lock().expect("unpoisoned").push(what.into());
        self.refuse.clone().map_or(Ok(()), Err)
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("unpoisoned").clone()
    }

    fn sender(&self, id: JobId) -> Result<watch::Sender<JobView>> {
        let jobs = self.jobs.lock().expect("unpoisoned");
        jobs.get(&id).cloned().ok_or_else(|| {
            Refusal::told(
                ReturnCode::FileNotFound,
                "unknown_job",
                format!("there is no job {id}"),
                "See `standin jobs`.",
            )
        })
    }

    /// Starts a job that goes as planned.
    pub fn job_now(&self, job_type: JobType) -> JobView {
        let mut record = JobRecord::new(job_type, "test", at(0)).for_vm(vm_id(), web()).cancellable();
        record.start(at(1)).expect("a new job starts");
        record.progress(0, 4 << 20);
        let (sender, _) = watch::channel(JobView::from(&record));
        self.jobs.lock().expect("unpoisoned").insert(record.id, sender.clone());
        let view = sender.borrow().clone();
        tokio::spawn(go(self.plan.clone(), record, sender));
        view
    }

    /// Ends every job well.
    pub fn finish_all(&self) {
        for sender in self.jobs.lock().expect("unpoisoned").values() {
            sender.send_modify(|view| *view = completed(view));
        }
    }

    fn outcome(&self, job_type: JobType) -> Outcome {
        if self.no_jobs { Outcome::completed() } else { Outcome::started(self.job_now(job_type)) }
    }
}

async fn go(plan: Plan, mut record: JobRecord, sender: watch::Sender<JobView>) {
    for quarter in 1..=3_u64 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        record.progress(quarter << 20, 4 << 20);
        sender.send_replace(JobView::from(&record));
    }
    match plan {
        Plan::Completes => {
            record.progress(4 << 20, 4 << 20);
            record.complete(at(9)).expect("a running job completes");
        }
        Plan::Fails(refusal) => record.fail(refusal, at(9)).expect("a running job fails"),
        Plan::Stays => return,
    }
    sender.send_replace(JobView::from(&record));
}

pub fn vm_view(name: VmName) -> VmView {
    VmView {
        vm: name,
        id: vm_id(),
        power: "running".to_owned(),
        accelerator: Some("tcg: the probe guest did not run".to_owned()),
        adopted: false,
        pid: Some(4711),
        disks: Vec::new(),
        mode: ReplicationMode::Primary,
        state: ReplicationState::Replicating,
    }
}

pub fn network_view() -> NetworkView {
    let card = |name: &str, mac: &str| AdapterView {
        name: name.to_owned(),
        id: AdapterId::of(vm_id(), name),
        mac: Some(mac.parse().expect("a hardware address")),
        network: Some("bridge:br-prod".to_owned()),
        failover_network: Some("bridge:br-dr".to_owned()),
        settings: None,
        origin: None,
    };
    let settings = AdapterSettings {
        addresses: vec!["192.0.2.5/24".parse().expect("an address")],
        gateways: vec!["192.0.2.1".parse().expect("an address")],
        ..AdapterSettings::default()
    };
    let set = Some(settings);
    let origin = Some(SettingsOrigin::Primary);
    NetworkView {
        vm: web(),
        id: vm_id(),
        adapters: vec![
            AdapterView { settings: set, origin, ..card("lan", "52:54:00:12:34:56") },
            card("dmz", "52:54:00:12:34:57"),
        ],
        applied: Some(AppliedNetwork {
            state: ApplyState::Applied,
            way: Some(ApplyWay::GuestAgent),
            message: "ens3 of the guest has the settings of lan, by ifupdown".to_owned(),
            at: at(0),
        }),
    }
}

pub fn status_view() -> StatusView {
    StatusView {
        vm: web(),
        primary_name: None,
        id: vm_id(),
        mode: ReplicationMode::Primary,
        state: ReplicationState::Replicating,
        state_code: ReplicationState::Replicating.code(),
        health: Health::Ok,
        health_code: Health::Ok.code(),
        health_issues: Vec::new(),
        peer: Some("replica:28444".to_owned()),
        interval_s: Some(30),
        last_point_at: Some(at(0)),
        lag_s: Some(12.4),
        pending_bytes: Some(65536),
        last_error: None,
        power: Some("running".to_owned()),
        accelerator: None,
        generation: Generation(1),
        fence: Some(fence_view()),
        points: 3,
        last_application_consistent_at: None,
        progress: None,
        statistics: None,
        disks: Vec::new(),
    }
}

fn silent_primary() -> FenceHostView {
    FenceHostView {
        host: "alpha".to_owned(),
        role: Role::Source,
        connected: false,
        when_peer_is_silent: Some("start-after 2m".to_owned()),
        heard_at: Some(at(0)),
    }
}

fn witness_view() -> WitnessView {
    WitnessView {
        address: "gamma:28444".to_owned(),
        answers: true,
        counts_for: vec!["alpha".to_owned()],
        knows: None,
    }
}

/// Of a replica whose primary is silent.
pub fn fence_view() -> FenceView {
    FenceView {
        when_peer_is_silent: "refuse".to_owned(),
        set_for_vm: true,
        hosts: vec![silent_primary()],
        witness: Some(witness_view()),
    }
}

pub fn settings_view() -> SettingsView {
    let settings = RelationshipSettings {
        interval_s: 30,
        history: 24,
        application_consistent_hours: 4,
        retention: Some(Policy::keep_all_for(3600, 24)),
        ..RelationshipSettings::default()
    };
    SettingsView::new(
        web(),
        vm_id(),
        Some("replica:28444".to_owned()),
        &settings,
        (WhenSilent::Refuse, false),
    )
}

/// Three points; the ids of the first two begin alike.
pub fn point_ids() -> [PointId; 3] {
    [
        "aaaa0000-0000-4000-8000-000000000001",
        "aaaa0000-0000-4000-8000-000000000002",
        "bbbb0000-0000-4000-8000-000000000003",
    ]
    .map(|text| text.parse().expect("an id"))
}

fn point_view(id: PointId, epoch: u64) -> PointView {
    PointView {
        vm: web(),
        primary_name: VmName::new("shop").expect("a name"),
        id,
        epoch: Epoch(epoch),
        created_at: at(i64::try_from(epoch).expect("small") * 30),
        received_at: at(i64::try_from(epoch).expect("small") * 30 + 1),
        kind: PointKind::Standard,
        changed_bytes: 4096,
        stored_bytes: 8192,
        digest: "00ff".to_owned(),
        pinned: false,
    }
}

#[async_trait]
impl Service for Scripted {
    async fn host_info(&self) -> Result<HostView> {
        self.note("host_info")?;
        Ok(HostView {
            host_name: "here".to_owned(),
            version: "0".to_owned(),
            pid: 1,
            started_at: at(0),
            listen: "127.0.0.1:28444".to_owned(),
            accelerator: "tcg".to_owned(),
            qemu_version: None,
            data_dir: "/d".into(),
            replica_storage: "/r".into(),
        })
    }

    async fn reload(&self) -> Result<()> {
        self.note("reload")
    }

    async fn list_vms(&self) -> Result<Vec<VmView>> {
        Ok(vec![vm_view(web())])
    }

    async fn show_vm(&self, vm: &VmRef) -> Result<VmView> {
        match vm {
            VmRef::Name(name) if *name == web() => Ok(vm_view(web())),
            VmRef::Id(id) if *id == vm_id() => Ok(vm_view(web())),
            other => Err(Refusal::told(
                ReturnCode::FileNotFound,
                "unknown_vm",
                format!("there is no VM {other} on this host"),
                "`standin vm list` shows the VMs there are.",
            )),
        }
    }

    async fn define_vm(&self, definition: VmDefinition) -> Result<VmView> {
        let kernel = definition.kernel.as_ref().map(|path| path.display().to_string());
        self.note(format!("define {} {} {kernel:?}", definition.name, definition.uuid))?;
        Ok(vm_view(definition.name))
    }

    async fn start_vm(&self, vm: &VmRef, request: StartRequest) -> Result<StartView> {
        let how = match request.asserted() {
            None => String::new(),
            Some(how) => format!(" {how:?}"),
        };
        self.note(format!("start {vm}{how}"))?;
        Ok(StartView { vm: self.show_vm(vm).await?, job: None })
    }

    async fn stop_vm(&self, vm: &VmRef, force: bool, timeout: Duration) -> Result<VmView> {
        self.note(format!("stop {vm} {force} {timeout:?}"))?;
        tokio::time::sleep(self.slow).await;
        self.asked.lock().expect("unpoisoned").push("stopped".to_owned());
        Ok(VmView { power: "off".to_owned(), ..self.show_vm(vm).await? })
    }

    async fn adopt_vm(&self, request: AdoptRequest) -> Result<VmView> {
        let force = if request.force { " force" } else { "" };
        self.note(format!("adopt {} {:?}{force}", request.qmp.display(), request.name))?;
        Ok(vm_view(request.name.unwrap_or_else(web)))
    }

    async fn remove_vm(&self, vm: &VmRef) -> Result<()> {
        self.note(format!("remove {vm}"))
    }

    async fn auth_add(&self, request: AuthRequest) -> Result<AuthView> {
        self.note(format!("auth {request:?}"))?;
        Ok(AuthView {
            id: AuthId(vm_id().0),
            allowed_primary: request.pattern,
            trust_group: request.trust_group,
            storage_location: request
                .storage
                .map_or_else(|| "/r".to_owned(), |path| path.display().to_string()),
        })
    }

    async fn auth_list(&self) -> Result<Vec<AuthView>> {
        Ok(vec![AuthView {
            id: AuthId(vm_id().0),
            allowed_primary: "*".to_owned(),
            trust_group: "default".to_owned(),
            storage_location: "/r".to_owned(),
        }])
    }

    async fn auth_remove(&self, id: AuthId) -> Result<()> {
        self.note(format!("auth_remove {id}"))
    }

    async fn peers(&self) -> Result<Vec<PeerView>> {
        self.note("peers".to_owned())?;
        Ok(Vec::new())
    }

    async fn rebind_peer(&self, host: HostId, name: String) -> Result<()> {
        self.note(format!("rebind {host} {name}"))
    }

    async fn test_connection(&self, peer: &PeerAddress) -> Result<()> {
        self.note(format!("test {peer}"))
    }

    async fn replicate(&self, vm: &VmRef, order: ReplicateOrder) -> Result<Outcome> {
        self.note(format!("replicate {vm} {order:?}"))?;
        let outcome = self.outcome(JobType::StartInitialReplication);
        Ok(Outcome { found_points: self.found_points, ..outcome })
    }

    async fn unreplicate(&self, vm: &VmRef) -> Result<Outcome> {
        self.note(format!("unreplicate {vm}"))?;
        Ok(self.outcome(JobType::RemoveRelationship))
    }

    async fn status(&self, vm: Option<&VmRef>) -> Result<Vec<StatusView>> {
        if let Some(vm) = vm {
            self.show_vm(vm).await?;
        }
        let power = if self.off { "off" } else { "running" };
        Ok(vec![StatusView { power: Some(power.to_owned()), ..status_view() }])
    }

    async fn points(&self, vm: &VmRef) -> Result<Vec<PointView>> {
        self.show_vm(vm).await?;
        Ok(point_ids().into_iter().zip(1..).map(|(id, epoch)| point_view(id, epoch)).collect())
    }

    async fn suspend(&self, vm: &VmRef) -> Result<Outcome> {
        self.note(format!("suspend {vm}"))?;
        Ok(self.outcome(JobType::StateChange))
    }

    async fn resume(&self, vm: &VmRef) -> Result<Outcome> {
        self.note(format!("resume {vm}"))?;
        Ok(self.outcome(JobType::StateChange))
    }

    async fn take_point(&self, vm: &VmRef, application_consistent: bool) -> Result<Outcome> {
        self.note(format!("point {vm} {application_consistent}"))?;
        Ok(self.outcome(JobType::SendDelta))
    }

    async fn pin_point(&self, vm: &VmRef, point: PointId, pinned: bool) -> Result<Vec<PointView>> {
        self.note(format!("pin {vm} {point} {pinned}"))?;
        self.points(vm).await
    }

    async fn failover(&self, vm: &VmRef, failover: Failover) -> Result<Outcome> {
        let Failover { point, start, asserts } = failover;
        let point = point.map_or_else(|| "latest".to_owned(), |point| point.to_string());
        let how = match asserts {
            Asserts::Nothing => String::new(),
            how => format!(" {how:?}"),
        };
        self.note(format!("failover {vm} {point} {start}{how}"))?;
        Ok(self.outcome(JobType::InitiateFailover))
    }

    async fn preflight(&self, vm: &VmRef, point: Option<PointId>) -> Result<PreflightView> {
        let point = point.unwrap_or(point_ids()[2]);
        self.note(format!("preflight {vm} {point}"))?;
        let silent = Refusal::told(
            ReturnCode::NotAvailable,
            "primary_silent",
            "alpha does not answer",
            "Repeat this with `--yes`.",
        );
        Ok(PreflightView {
            vm: web(),
            id: vm_id(),
            point,
            epoch: Epoch(3),
            point_at: at(30),
            primary: silent_primary(),
            primary_says: Place::Silent,
            refusal: Some(ErrorView::new(silent, None)),
        })
    }

    async fn keep_copy(&self, vm: &VmRef, request: KeepRequest) -> Result<Outcome> {
        self.note(format!("keep {vm} here={}", request.here))?;
        Ok(Outcome::completed())
    }

    async fn forget_claim(&self, vm: &VmRef) -> Result<()> {
        self.note(format!("forget {vm}"))
    }

    async fn revert_failover(&self, vm: &VmRef) -> Result<Outcome> {
        self.note(format!("revert {vm}"))?;
        Ok(self.outcome(JobType::RevertFailover))
    }

    async fn commit_failover(&self, vm: &VmRef) -> Result<Outcome> {
        self.note(format!("commit {vm}"))?;
        Ok(self.outcome(JobType::CommitFailover))
    }

    async fn network(&self, vm: &VmRef) -> Result<NetworkView> {
        self.note(format!("network {vm}"))?;
        Ok(network_view())
    }

    async fn set_network(&self, vm: &VmRef, changes: Vec<NetworkChange>) -> Result<NetworkView> {
        let changes = serde_json::to_string(&changes).expect("writes");
        self.note(format!("set network {vm}: {changes}"))?;
        Ok(network_view())
    }

    async fn resync(&self, vm: &VmRef) -> Result<Outcome> {
        self.note(format!("resync {vm}"))?;
        Ok(self.outcome(JobType::Resynchronize))
    }

    async fn store_check(&self, vm: Option<&VmRef>) -> Result<Outcome> {
        self.note(format!("check {}", vm.map_or_else(|| "all".to_owned(), ToString::to_string)))?;
        Ok(self.outcome(JobType::ApplyChangeLog))
    }

    async fn store_list(&self) -> Result<Vec<DirectoryView>> {
        self.note("store list".to_owned())?;
        Ok(vec![directory_view()])
    }

    async fn store_repair(&self, vm: &VmRef) -> Result<Outcome> {
        self.note(format!("repair {vm}"))?;
        Ok(self.outcome(JobType::CheckStore))
    }

    async fn store_repair_result(&self, job: JobId) -> Result<RepairView> {
        self.sender(job)?;
        let left_out = vec!["point 1 (epoch 1) is not offered: damaged".to_owned()];
        Ok(RepairView { vm: web(), id: vm_id(), points: 2, left_out, set_aside: Vec::new() })
    }

    async fn store_adopt(&self, directory: PathBuf) -> Result<DirectoryView> {
        self.note(format!("adopt {}", directory.display()))?;
        Ok(directory_view())
    }

    async fn store_remove(&self, directory: PathBuf) -> Result<()> {
        self.note(format!("remove {}", directory.display()))
    }

    async fn settings(&self, vm: &VmRef) -> Result<SettingsView> {
        self.note(format!("settings {vm}"))?;
        Ok(settings_view())
    }

    async fn modify(&self, vm: &VmRef, wanted: Modification) -> Result<SettingsView> {
        let settings = serde_json::to_string(&wanted.settings).expect("JSON");
        let silent =
            wanted.when_silent.map(|when| when.map_or_else(|| "default".to_owned(), |when| when.to_string()));
        let silent = silent.map_or_else(String::new, |when| format!(" {when}"));
        self.note(format!("modify {vm} {:?}{silent}: {settings}", wanted.peer))?;
        Ok(settings_view())
    }

    async fn rename(&self, vm: &VmRef, name: VmName) -> Result<StatusView> {
        self.note(format!("rename {vm} {name}"))?;
        Ok(StatusView { vm: name, primary_name: Some(web()), ..status_view() })
    }

    async fn store_check_result(&self, job: JobId) -> Result<Vec<CheckView>> {
        self.sender(job)?;
        let problem =
            if self.damaged { vec!["disk root, 000001.qcow2: damaged at 4096".to_owned()] } else { vec![] };
        let point = |id, good: bool, problems| PointCheckView {
            id,
            epoch: Epoch(1),
            created_at: at(30),
            good,
            problems,
        };
        Ok(vec![CheckView {
            vm: web(),
            id: vm_id(),
            good: !self.damaged,
            checked_bytes: 1 << 20,
            points: vec![point(point_ids()[0], !self.damaged, problem)],
            problems: Vec::new(),
        }])
    }

    async fn jobs(&self) -> Result<Vec<JobView>> {
        let jobs = self.jobs.lock().expect("unpoisoned");
        Ok(jobs.values().map(|sender| sender.borrow().clone()).collect())
    }

    async fn job(&self, id: JobId) -> Result<JobView> {
        Ok(self.sender(id)?.borrow().clone())
    }

    async fn watch_job(&self, id: JobId) -> Result<watch::Receiver<JobView>> {
        Ok(self.sender(id)?.subscribe())
    }

    async fn cancel_job(&self, id: JobId) -> Result<JobView> {
        self.note(format!("cancel {id}"))?;
        Ok(self.sender(id)?.borrow().clone())
    }

    async fn shutdown(&self) {
        self.asked.lock().expect("unpoisoned").push("shutdown".to_owned());
    }
}

fn directory_view() -> DirectoryView {
    DirectoryView {
        path: "/srv/replicas/web.kept-17".to_owned(),
        vm: web(),
        id: vm_id(),
        kind: DirectoryKind::Kept,
        host: Some("alpha.example.org".to_owned()),
        points: 12,
        newest_point_at: Some(at(30)),
        size_bytes: 3 << 20,
        in_use: false,
        problem: None,
        remedy: "Make it a replica again with `standin store adopt /srv/replicas/web.kept-17`.".to_owned(),
    }
}
