//! The JSON of `standin --json` and of the local API. One shape for both: the daemon serves it, the command line
//! prints it, scripts rely on it.
//!
//! Stability: a field keeps its name, type and unit; fields are added, never taken away or given another
//! meaning. Absent values are `null`, not missing. Times are RFC 3339 in UTC, sizes are bytes, spans seconds.

mod fence;

pub use fence::{FenceHostView, FenceView, PreflightView, WitnessView};

use crate::auth::AuthorizationEntry;
use crate::codes::{Refusal, ReturnCode, reason_name};
use crate::fence::WhenSilent;
use crate::health::{Health, HealthIssue};
use crate::ids::{AuthId, Epoch, Generation, JobId, PointId, VmId};
use crate::job::{JobRecord, JobState, JobType};
use crate::names::{DiskName, VmName};
use crate::point::{PointKind, RecoveryPoint};
use crate::retention::Tier;
use crate::settings::RelationshipSettings;
use crate::state::{ReplicationMode, ReplicationState};
use crate::stats::Statistics;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// `standin status`: a VM and its replication, as one host sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// Name of the VM on this host.
    pub vm: VmName,
    /// Its name on its primary host; `null` where this host is not its replica.
    pub primary_name: Option<VmName>,
    /// Identity of the VM.
    pub id: VmId,
    /// What the VM is to this host.
    pub mode: ReplicationMode,
    /// State of the relationship.
    pub state: ReplicationState,
    /// Its number.
    pub state_code: u16,
    /// The verdict.
    pub health: Health,
    /// Its number.
    pub health_code: u16,
    /// Why, with remedies; empty when all is well.
    pub health_issues: Vec<HealthIssue>,
    /// The other host, `host:port` on the primary; `null` without replication.
    pub peer: Option<String>,
    /// Seconds from cut to cut; `null` without replication.
    pub interval_s: Option<u32>,
    /// Instant of the newest sealed point.
    pub last_point_at: Option<Timestamp>,
    /// Age of the newest sealed point in seconds: what a failover now would lose.
    pub lag_s: Option<f64>,
    /// Bytes that changed and are not on the replica; `null` where this host cannot know.
    pub pending_bytes: Option<u64>,
    /// The last thing that went wrong, until a cycle succeeds.
    pub last_error: Option<ErrorView>,
    /// `running`, `paused` or `off`; `null` when the hypervisor does not know the VM.
    pub power: Option<String>,
    /// `kvm` or `tcg` with the reason; `null` while it is off.
    pub accelerator: Option<String>,
    /// Rises at every failover.
    pub generation: Generation,
    /// Who may run the VM; `null` for one that never replicated.
    #[serde(default)]
    pub fence: Option<FenceView>,
    /// Recovery points here.
    pub points: u64,
    /// Instant of the newest application-consistent point.
    pub last_application_consistent_at: Option<Timestamp>,
    /// What is being sent or received now.
    pub progress: Option<ProgressView>,
    /// Cycles of the current monitoring window; `null` without replication.
    pub statistics: Option<Statistics>,
    /// The disks that replicate.
    pub disks: Vec<DiskName>,
}

/// How far something is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProgressView {
    /// 0 to 100.
    pub percent: u8,
    /// Bytes dealt with.
    pub bytes_done: u64,
    /// Bytes to deal with, as far as known; 0 when not known.
    pub bytes_total: u64,
    /// Bytes a second, over the last seconds.
    pub rate: u64,
    /// Seconds left at this rate; `null` when it cannot be told.
    pub remaining_s: Option<u64>,
}

impl ProgressView {
    /// From the figures a worker has. `rate` in bytes a second.
    #[must_use]
    pub fn new(bytes_done: u64, bytes_total: u64, rate: u64) -> Self {
        // What is dealt with was to be dealt with, whatever was thought before.
        let bytes_total = if bytes_total > 0 { bytes_total.max(bytes_done) } else { 0 };
        let done = u128::from(bytes_done.min(bytes_total));
        let percent = (done * 100).checked_div(u128::from(bytes_total)).unwrap_or(0);
        let left = bytes_total.saturating_sub(bytes_done);
        let remaining_s = if bytes_total == 0 || rate == 0 { None } else { Some(left.div_ceil(rate)) };
        Self { percent: u8::try_from(percent).unwrap_or(100), bytes_done, bytes_total, rate, remaining_s }
    }
}

/// Something that went wrong, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// The return code of the model.
    pub code: ReturnCode,
    /// The stable name of the reason: `docs/reasons.md` lists them. Absent where a release refused that knew no names.
    #[serde(default, deserialize_with = "reason_name", skip_serializing_if = "str::is_empty")]
    pub reason: Cow<'static, str>,
    /// What happened.
    pub message: String,
    /// What to do now.
    pub remedy: String,
    /// When it happened.
    pub at: Option<Timestamp>,
}

impl ErrorView {
    /// A refusal that happened at `at`.
    #[must_use]
    pub fn new(refusal: Refusal, at: Option<Timestamp>) -> Self {
        let Refusal { code, reason, message, remedy } = refusal;
        Self { code, reason, message, remedy, at }
    }
}

/// `standin points`: one recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointView {
    /// Name of the VM on this host.
    pub vm: VmName,
    /// Its name on its primary host.
    pub primary_name: VmName,
    /// Its identity, the argument of `standin failover --point`.
    pub id: PointId,
    /// Number of the cut.
    pub epoch: Epoch,
    /// Instant of the cut.
    pub created_at: Timestamp,
    /// When the replica had sealed it.
    pub received_at: Timestamp,
    /// How the guest was.
    pub kind: PointKind,
    /// Bytes that changed since the point before.
    pub changed_bytes: u64,
    /// Bytes it takes on the replica's disks.
    pub stored_bytes: u64,
    /// Digest over the deltas of all disks.
    pub digest: String,
    /// Never removed by retention.
    pub pinned: bool,
}

impl PointView {
    /// A point of the VM that is called `vm` on this host, and `primary_name` on its primary.
    #[must_use]
    pub fn new(point: &RecoveryPoint, vm: VmName, primary_name: VmName) -> Self {
        Self {
            vm,
            primary_name,
            id: point.id,
            epoch: point.epoch,
            created_at: point.created_at,
            received_at: point.received_at,
            kind: point.kind,
            changed_bytes: point.changed_bytes,
            stored_bytes: point.stored_bytes,
            digest: point.digest.clone(),
            pinned: point.pinned,
        }
    }
}

/// `standin set`: what was agreed of a VM's replication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsView {
    /// Name of the VM on this host.
    pub vm: VmName,
    /// Identity of the VM.
    pub id: VmId,
    /// The other host, `host:port` on the primary.
    pub peer: Option<String>,
    /// Seconds from cut to cut.
    pub interval_s: u32,
    /// Hourly points kept beyond the latest.
    pub history: u32,
    /// Seconds for which every point is kept besides them; `null` for none.
    pub keep_all_for_s: Option<u64>,
    /// Which points are kept, in tiers; the latest always is.
    pub retention: Vec<Tier>,
    /// Hours between application-consistent points; 0 for none.
    pub application_consistent_hours: u32,
    /// Longest time the guest may stay frozen for such a point, in seconds.
    pub freeze_deadline_s: u32,
    /// Blocks are compressed.
    pub compression: bool,
    /// What is lost of the change tracking is compared without being asked.
    pub auto_resync: bool,
    /// Bytes that stay free where the old data of overwritten blocks is kept.
    pub scratch_reserve_bytes: u64,
    /// Bytes per bit of the dirty bitmaps.
    pub granularity_bytes: u32,
    /// The disks that replicate.
    pub disks: Vec<DiskName>,
    /// What this host does at a start of the VM when another host that could run it does not answer: `refuse`, or
    /// `start-after 2m`.
    pub when_peer_is_silent: String,
    /// That was set for this VM; else it is what the host is configured to.
    pub when_peer_is_silent_set: bool,
}

impl SettingsView {
    /// What was agreed of the VM that is called `vm` on this host, and what silence of another host means: here, or only
    /// for this VM.
    #[must_use]
    pub fn new(
        vm: VmName,
        id: VmId,
        peer: Option<String>,
        settings: &RelationshipSettings,
        when_silent: (WhenSilent, bool),
    ) -> Self {
        Self {
            vm,
            id,
            peer,
            interval_s: settings.interval_s,
            history: settings.history,
            keep_all_for_s: settings.keep_all_for_s(),
            retention: settings.policy().tiers,
            application_consistent_hours: settings.application_consistent_hours,
            freeze_deadline_s: settings.freeze_deadline_s,
            compression: settings.compression,
            auto_resync: settings.auto_resync,
            scratch_reserve_bytes: settings.scratch_reserve,
            granularity_bytes: settings.granularity,
            disks: settings.disks.clone(),
            when_peer_is_silent: when_silent.0.to_string(),
            when_peer_is_silent_set: when_silent.1,
        }
    }
}

/// `standin jobs`: one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// Its identity.
    pub id: JobId,
    /// Number of its type.
    pub type_code: u16,
    /// Its type.
    #[serde(rename = "type")]
    pub job_type: JobType,
    /// Name of the VM it works on.
    pub vm: Option<VmName>,
    /// Identity of the VM it works on.
    pub vm_id: Option<VmId>,
    /// Where it is.
    pub state: JobState,
    /// The number of that.
    pub state_code: u16,
    /// 0 to 100.
    pub percent: u8,
    /// How it ended; `null` before.
    pub return_code: Option<ReturnCode>,
    /// Why it failed.
    pub error: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// The stable name of why it failed: `docs/reasons.md` lists them.
    #[serde(default)]
    pub reason: Option<String>,
    /// Bytes dealt with.
    pub bytes_done: u64,
    /// Bytes to deal with; 0 when it does not count bytes.
    pub bytes_total: u64,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// When it began to work.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// `standin jobs cancel` is allowed.
    pub cancellable: bool,
    /// Who asked for it.
    pub owner: String,
    /// A sentence for people.
    pub description: String,
}

impl From<&JobRecord> for JobView {
    fn from(job: &JobRecord) -> Self {
        Self {
            id: job.id,
            type_code: job.job_type.code(),
            job_type: job.job_type,
            vm: job.vm_name.clone(),
            vm_id: job.vm,
            state: job.state,
            state_code: job.state.code(),
            percent: job.percent,
            return_code: job.return_code,
            error: job.error.as_ref().map(|error| error.message.clone()),
            remedy: job.error.as_ref().map(|error| error.remedy.clone()),
            reason: job.error.as_ref().and_then(Refusal::named),
            bytes_done: job.bytes_done,
            bytes_total: job.bytes_total,
            created_at: job.created_at,
            started_at: job.started_at,
            ended_at: job.ended_at,
            cancellable: job.cancellable && !job.state.is_final(),
            owner: job.owner.clone(),
            description: job.description.clone(),
        }
    }
}

/// `standin vm list` and `vm show`: a VM of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmView {
    /// Name of the VM.
    pub vm: VmName,
    /// Identity of the VM.
    pub id: VmId,
    /// `running`, `paused` or `off`.
    pub power: String,
    /// `kvm` or `tcg` with the reason; `null` while it is off or when it was adopted.
    pub accelerator: Option<String>,
    /// Somebody else started it.
    pub adopted: bool,
    /// Process of the hypervisor.
    pub pid: Option<i32>,
    /// Its disks.
    pub disks: Vec<DiskView>,
    /// What it is to this host.
    pub mode: ReplicationMode,
    /// State of its replication.
    pub state: ReplicationState,
}

/// One disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskView {
    /// Its name.
    pub name: DiskName,
    /// The image file or block device.
    pub path: String,
    /// `raw` or `qcow2`.
    pub format: String,
    /// Size that the guest sees.
    pub size: u64,
    /// Why it cannot replicate and what to do; `null` when it can.
    pub problem: Option<String>,
}

/// `standin auth list`: one authorization entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthView {
    /// Its identity, the argument of `standin auth remove`.
    pub id: AuthId,
    /// Whom it admits.
    pub allowed_primary: String,
    /// Its trust group.
    pub trust_group: String,
    /// Where replicas are stored.
    pub storage_location: String,
}

impl From<&AuthorizationEntry> for AuthView {
    fn from(entry: &AuthorizationEntry) -> Self {
        Self {
            id: entry.id,
            allowed_primary: entry.allowed_primary.clone(),
            trust_group: entry.trust_group.clone(),
            storage_location: entry.storage_location.display().to_string(),
        }
    }
}

/// `standin store check`: the verdict on one VM's replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckView {
    /// Name of the VM.
    pub vm: VmName,
    /// Identity of the VM.
    pub id: VmId,
    /// Every point is good and nothing else was found.
    pub good: bool,
    /// Bytes that were read and compared.
    pub checked_bytes: u64,
    /// Every point, oldest first.
    pub points: Vec<PointCheckView>,
    /// What was found outside the points, a sentence each: files nobody knows, a damaged manifest.
    pub problems: Vec<String>,
}

/// What a directory of a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DirectoryKind {
    /// The replica of a VM.
    Replica,
    /// A copy of a replica that is in another directory.
    Copy,
    /// What was kept of a replica that another one replaced, or whose replication was removed.
    Kept,
    /// It cannot be opened.
    Unreadable,
    /// Its first copy never ended.
    Unfinished,
}

impl DirectoryKind {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Replica => "replica",
            Self::Copy => "copy",
            Self::Kept => "kept",
            Self::Unreadable => "unreadable",
            Self::Unfinished => "unfinished",
        }
    }
}

/// `standin store list`: a directory of a replica on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryView {
    /// Where it is.
    pub path: String,
    /// Name of the VM on this host; of what is no replica, in the name of the directory.
    pub vm: VmName,
    /// Identity of the VM.
    pub id: VmId,
    /// What it is.
    pub kind: DirectoryKind,
    /// The host that replicated the VM, where that is known.
    pub host: Option<String>,
    /// How many recovery points it has; 0 where that cannot be read.
    pub points: u64,
    /// The instant of the newest one.
    pub newest_point_at: Option<Timestamp>,
    /// Bytes that it takes on its file system.
    pub size_bytes: u64,
    /// A VM of this host has disks in it.
    pub in_use: bool,
    /// Why it cannot be opened.
    pub problem: Option<String>,
    /// What can be done with it, a sentence; empty for a replica that is well.
    pub remedy: String,
}

/// `standin store repair`: what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairView {
    /// Name of the VM.
    pub vm: VmName,
    /// Identity of the VM.
    pub id: VmId,
    /// Recovery points that are offered again, each proven.
    pub points: u64,
    /// What is not offered or could not be used, and why, a sentence each.
    pub left_out: Vec<String>,
    /// Files that no recovery point needs, under their new names.
    pub set_aside: Vec<String>,
}

/// The verdict on one recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointCheckView {
    /// Its identity.
    pub id: PointId,
    /// Number of the cut.
    pub epoch: Epoch,
    /// Instant of the cut.
    pub created_at: Timestamp,
    /// All its data has the digest it was received with.
    pub good: bool,
    /// What is wrong with it, a sentence each, naming disk and file.
    pub problems: Vec<String>,
}
