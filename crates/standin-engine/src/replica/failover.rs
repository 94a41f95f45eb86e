//! Failover on the replica: to a point, back, or for good.
//!
//! ```text
//!  3, 7, 8 --InitiateFailover--> 12 --overlay made, VM defined--> 5 --commit--> 6
//!      ^                          |                               |
//!      +-------- failed ----------+           revert -------------+
//! ```
//!
//! The overlay makes it instant: nothing is copied at any size and any number of points. The VM is started only
//! when that was asked for too.
//!
//! Each flow is recorded with its job before it is answered, and then goes on by itself; what a restart finds of it is
//! in [`super::after_restart`], the VM on its overlay in [`super::overlay_vm`].
//!
//! Called by [`crate::engine`].

use super::layer::{blocking, refusal_of};
use super::overlay_vm::{keep_copy, make, start_vm, undo};
use super::reason;
use super::vm::{Locked, ReplicaVm};
use crate::jobs::{JobHandle, NewJob};
use crate::records::{FailoverRecord, KeptCopy, ReplicaRecord};
use crate::spans;
use crate::tasks;
use crate::tasks::to_its_end;
use crate::vm::{Asserts, Sharing};
use jiff::Timestamp;
use standin_model::fence::{KnownHost, Place, Role};
use standin_model::job::JobType;
use standin_model::state::{Event, Method};
use standin_model::{JobId, PointId, RecoveryPoint, Refusal};
use std::sync::Arc;
use std::time::Duration;
use tracing::{Instrument as _, Span};

/// How long what a primary is sending may take to be sealed or given up.
const SESSION_PATIENCE: Duration = Duration::from_secs(120);

/// What is asked of a failover.
#[derive(Debug, Clone, Copy)]
pub struct Failover {
    /// To which point; the latest if none is named.
    pub point: Option<PointId>,
    /// Start the VM when it is done.
    pub start: bool,
    /// What is asserted of the primary.
    pub asserts: Asserts,
}

/// What a failover would meet.
#[derive(Debug, Clone)]
pub struct Preflight {
    /// The point that it would go to.
    pub point: RecoveryPoint,
    /// The host that the VM would be taken from.
    pub from: Sharing,
    /// What that says of the VM.
    pub says: Place,
    /// Why the VM would not be started unless somebody asserts something.
    pub refusal: Option<Refusal>,
}

/// Fails over to a point, or to the latest. Returns the job once it is recorded; the rest goes on by itself.
///
/// # Errors
/// 32775 in the wrong state, 32779 for an unknown point, 32774 and 32772 while the VM is held. With a start also 32774
/// while the primary runs the VM, and 32777 while it is silent and nobody asserts that it is down.
pub async fn initiate(vm: &Arc<ReplicaVm>, failover: Failover) -> Result<JobId, Refusal> {
    let vm = Arc::clone(vm);
    to_its_end(async move { begin(vm, failover).await }).await
}

async fn begin(vm: Arc<ReplicaVm>, failover: Failover) -> Result<JobId, Refusal> {
    let Failover { point, start, asserts } = failover;
    // Nothing is begun that could not be started: neither the points nor the primary are touched by asking.
    vm.is_free().await?;
    vm.allows(Method::InitiateFailover)?;
    choose(&vm, point)?;
    let (vms, from) = (&vm.shared.vms, source(&vm.snapshot()));
    let word = vms.ask_primary(vm.id(), &from).await;
    let asserted = vms.before_failover(vm.id(), &from, &word, start, asserts)?;
    let mut record = vm.claim().await?;
    record.allow(Method::InitiateFailover)?;
    let chosen = choose(&vm, point)?;
    let job = begin_job(&vm, &record, JobType::InitiateFailover, "failover").await?;
    let id = job.id();
    record.failover = Some(FailoverRecord {
        point: chosen.id,
        kind: chosen.kind,
        overlay: format!("failover-{}", short(id)),
        prior: record.state,
        job: Some(id),
        reverting: false,
        kept: None,
        start,
        asserted,
        from: None,
        point_at: chosen.created_at,
        network: None,
    });
    record.step(Event::StartFailover).await?;
    drop(record);
    let span = flow(&vm, "failover", id);
    let work = async move {
        let result = carry_out(&vm, point).await;
        let result = match result {
            Ok(()) if start => start_vm(&vm).await,
            other => other,
        };
        job.finish(result).await;
    };
    tasks::spawn(work.instrument(span));
    Ok(id)
}

/// What the log says of a flow beside its message.
fn flow(vm: &ReplicaVm, kind: &'static str, job: JobId) -> Span {
    let record = vm.snapshot();
    spans::flow(&spans::receiver(record.id(), &record.name), kind, job)
}

/// What a failover would meet. Nothing is changed by it.
///
/// # Errors
/// 32775 in the wrong state, 32779 for an unknown point, 32774 while a job works on the VM.
pub async fn preflight(vm: &ReplicaVm, point: Option<PointId>) -> Result<Preflight, Refusal> {
    vm.is_free().await?;
    vm.allows(Method::InitiateFailover)?;
    let (point, vms, from) = (choose(vm, point)?, &vm.shared.vms, source(&vm.snapshot()));
    let word = vms.ask_primary(vm.id(), &from).await;
    let refusal = vms.before_failover(vm.id(), &from, &word, true, Asserts::Nothing).err();
    Ok(Preflight { point, from, says: word.place, refusal })
}

/// The host that the VM is taken from.
fn source(record: &ReplicaRecord) -> Sharing {
    let (host, name) = (record.source(), record.primary_host.clone());
    let known = KnownHost { name, addresses: Vec::new(), role: Role::Source, accepted: None };
    Sharing { host, known, name: record.name.clone(), claim: None }
}

fn short(id: JobId) -> String {
    id.0.simple().to_string().chars().take(8).collect()
}

/// The point of an id, or the newest.
fn choose(vm: &ReplicaVm, point: Option<PointId>) -> Result<RecoveryPoint, Refusal> {
    let points = vm.store().points();
    let found = match point {
        Some(id) => points.into_iter().find(|known| known.id == id),
        None => points.into_iter().max_by_key(|known| known.epoch),
    };
    found.ok_or_else(|| reason::Failover::UnknownPoint { vm: vm.snapshot().name, point }.into())
}

async fn begin_job(
    vm: &ReplicaVm,
    record: &Locked<'_>,
    job_type: JobType,
    what: &str,
) -> Result<JobHandle, Refusal> {
    let new = NewJob {
        job_type,
        vm: Some((record.vm, record.name.clone())),
        description: format!("{what} of {}", record.name),
        cancellable: false,
    };
    vm.shared.jobs.begin(new).await
}

async fn carry_out(vm: &Arc<ReplicaVm>, point: Option<PointId>) -> Result<(), Refusal> {
    let from =
        vm.shared.vms.fence(vm.id()).map_or_else(|| vm.snapshot().source(), |fence| fence.claim.holder);
    let made = reach(vm, point).await;
    let mut record = vm.lock().await;
    let Some(mut failover) = record.failover.clone() else {
        return Err(reason::Failover::RecordGone.into());
    };
    match made {
        Ok(chosen) => {
            failover.point = chosen.id;
            failover.kind = chosen.kind;
            failover.point_at = chosen.created_at;
            record.last_failover_kind = Some(chosen.kind);
            failover.from = Some(from);
            record.failover = Some(failover);
            record.step(Event::FailoverDone).await
        }
        Err(refusal) => {
            drop(undo(vm, &failover.overlay).await);
            give_back(vm, &failover).await?;
            record.failover = None;
            record.step(Event::FailoverFailed { before: failover.prior }).await?;
            record.note_error(&refusal).await;
            Err(refusal)
        }
    }
}

/// Lets what is fully received become a point, and goes to the point of the id or to the latest then.
async fn reach(vm: &Arc<ReplicaVm>, point: Option<PointId>) -> Result<RecoveryPoint, Refusal> {
    vm.end_session_within(SESSION_PATIENCE).await?;
    let chosen = choose(vm, point)?;
    make(vm, &chosen).await?;
    // The VM is taken before the state says so: who asks in between is told that it lives here.
    let record = vm.snapshot();
    let asserted = record.failover.as_ref().and_then(|failover| failover.asserted);
    vm.shared.vms.take(vm.id(), source(&record), asserted).await?;
    Ok(chosen)
}

/// The VM goes back to the host that it was taken from. Where it was not taken yet, nothing changes.
pub(super) async fn give_back(vm: &ReplicaVm, failover: &FailoverRecord) -> Result<(), Refusal> {
    let vms = &vm.shared.vms;
    if vms.fence(vm.id()).is_none_or(|fence| fence.claim.holder != vms.me()) {
        return Ok(());
    }
    let to = failover.from.filter(|from| *from != vms.me()).unwrap_or_else(|| vm.snapshot().source());
    vms.give(vm.id(), to).await.map(|_| ())
}

/// Goes back to the state before the failover; a running replica VM is turned off and what it wrote is gone.
///
/// # Errors
/// 32775 unless failed over and not committed, 32774 and 32772 while the VM is held.
pub async fn revert(vm: &Arc<ReplicaVm>) -> Result<JobId, Refusal> {
    let vm = Arc::clone(vm);
    to_its_end(async move { begin_revert(vm, false).await }).await
}

/// As [`revert`], of a copy that somebody decided against: what its VM wrote becomes a pinned recovery point first.
///
/// # Errors
/// As [`revert`].
pub async fn give_up(vm: &Arc<ReplicaVm>) -> Result<JobId, Refusal> {
    let vm = Arc::clone(vm);
    to_its_end(async move { begin_revert(vm, true).await }).await
}

async fn begin_revert(vm: Arc<ReplicaVm>, keep: bool) -> Result<JobId, Refusal> {
    let mut record = vm.claim().await?;
    record.allow(Method::RevertFailover)?;
    let what =
        if keep { "keeping of the copy, and revert of the failover" } else { "revert of the failover" };
    let job = begin_job(&vm, &record, JobType::RevertFailover, what).await?;
    let id = job.id();
    if let Some(failover) = record.failover.as_mut().filter(|failover| keep && failover.kept.is_none()) {
        failover.kept = Some(KeptCopy { point: PointId::random(), at: Timestamp::now() });
    }
    belongs_to(&mut record, id, true).await?;
    drop(record);
    let span = flow(&vm, "revert", id);
    let work = async move { job.finish(carry_out_revert(&vm).await).await };
    tasks::spawn(work.instrument(span));
    Ok(id)
}

/// Notes the job that reverts or commits the failover, so that a restart goes on with it.
async fn belongs_to(record: &mut Locked<'_>, job: JobId, reverting: bool) -> Result<(), Refusal> {
    let Some(failover) = &mut record.failover else { return Ok(()) };
    if failover.reverting && !reverting {
        let name = record.name.clone();
        return Err(reason::Failover::BeingReverted { vm: name }.into());
    }
    let before = (failover.job.replace(job), std::mem::replace(&mut failover.reverting, reverting));
    let saved = record.save().await;
    if saved.is_err() {
        if let Some(failover) = &mut record.failover {
            (failover.job, failover.reverting) = before;
        }
    }
    saved
}

pub(super) async fn carry_out_revert(vm: &ReplicaVm) -> Result<(), Refusal> {
    let mut record = vm.lock().await;
    let Some(failover) = record.failover.clone() else {
        return Err(reason::Failover::None { vm: record.name.clone() }.into());
    };
    if let Some(kept) = failover.kept {
        keep_copy(vm, &failover.overlay, kept).await?;
    }
    undo(vm, &failover.overlay).await?;
    give_back(vm, &failover).await?;
    record.failover = None;
    record.step(Event::Revert { before: failover.prior }).await
}

/// Makes the failover final: the overlay is the VM's disk, the other points go.
///
/// # Errors
/// 32775 unless failed over and not committed, 32774 and 32772 while the VM is held.
pub async fn commit(vm: &Arc<ReplicaVm>) -> Result<JobId, Refusal> {
    let vm = Arc::clone(vm);
    to_its_end(async move { begin_commit(vm).await }).await
}

async fn begin_commit(vm: Arc<ReplicaVm>) -> Result<JobId, Refusal> {
    let mut record = vm.claim().await?;
    record.allow(Method::CommitFailover)?;
    let job = begin_job(&vm, &record, JobType::CommitFailover, "commit of the failover").await?;
    belongs_to(&mut record, job.id(), false).await?;
    drop(record);
    let id = job.id();
    let span = flow(&vm, "commit", id);
    let work = async move { job.finish(carry_out_commit(&vm).await).await };
    tasks::spawn(work.instrument(span));
    Ok(id)
}

pub(super) async fn carry_out_commit(vm: &ReplicaVm) -> Result<(), Refusal> {
    let mut record = vm.lock().await;
    let overlay = record.failover.as_ref().map(|failover| failover.overlay.clone()).unwrap_or_default();
    // The state first: if the daemon dies between, the commit is finished at the next start, not half undone.
    record.step(Event::Commit).await?;
    drop(record);
    finish_commit(vm, overlay).await
}

pub(super) async fn finish_commit(vm: &ReplicaVm, overlay: String) -> Result<(), Refusal> {
    let store = vm.store().clone();
    blocking(move || store.commit_overlay(&overlay).map_err(|error| refusal_of(&error))).await
}
