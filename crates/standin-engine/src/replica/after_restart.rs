//! What an earlier process left of failovers: each is gone on with, or taken back, and its job says which.
//!
//! ```text
//!  12 in progress        -> the overlay goes, back to the state before; the job was interrupted
//!   5 being reverted     -> reverted
//!   5                    -> served again; its commit, or its start, is done if that was under way
//!   6                    -> served again, the commit is finished
//! ```
//!
//! Called by [`super::host`] for each replica before anything else may touch it.

use super::failover::{carry_out_commit, carry_out_revert, finish_commit, give_back};
use super::network;
use super::overlay_vm::{fill_overlays, serve_maps, start_vm, undo};
use super::reason::Failover;
use super::vm::ReplicaVm;
use crate::jobs::JobHandle;
use crate::records::FailoverRecord;
use crate::tasks;
use standin_hypervisor::PowerState;
use standin_model::Refusal;
use standin_model::job::JobType;
use standin_model::state::{Event, ReplicationState};
use std::sync::Arc;

/// Takes up what an earlier process left: a failover in the middle goes back, one that is done is served again,
/// a revert and a commit are finished. Their jobs end as the work does.
///
/// # Errors
/// What stood in the way; the VM's disks are whole.
pub(super) async fn take_up(vm: &Arc<ReplicaVm>) -> Result<(), Refusal> {
    let record = vm.snapshot();
    let Some(failover) = record.failover else {
        complete_reverts(vm).await;
        return Ok(());
    };
    let job = failover.job.and_then(|id| vm.shared.jobs.resume(id));
    match record.state {
        ReplicationState::FailoverInProgress => {
            let undone = give_up(vm, &failover).await;
            if let Some(job) = job {
                job.interrupted().await;
            }
            undone
        }
        ReplicationState::Recovered if failover.reverting => end(job, carry_out_revert(vm).await).await,
        ReplicationState::Recovered => {
            let done = match serve_again(vm, &failover).await {
                Err(refusal) => Err(refusal),
                Ok(running) => match job.as_ref().and_then(|job| type_of(vm, job)) {
                    Some(JobType::CommitFailover) => carry_out_commit(vm).await,
                    // It was asked for with the failover, and had not come about.
                    Some(JobType::InitiateFailover) if failover.start && !running => {
                        return start_beside(vm, job);
                    }
                    _ => Ok(()),
                },
            };
            end(job, done).await
        }
        ReplicationState::Committed => {
            let done = match serve_again(vm, &failover).await {
                Err(refusal) => Err(refusal),
                Ok(_) => finish_commit(vm, failover.overlay).await,
            };
            end(job, done).await
        }
        _ => Ok(()),
    }
}

/// The other hosts are asked before the VM starts, and the daemon does not wait for them to come up.
fn start_beside(vm: &Arc<ReplicaVm>, job: Option<JobHandle>) -> Result<(), Refusal> {
    let vm = Arc::clone(vm);
    tasks::spawn(async move {
        if let Err(refusal) = end(job, start_vm(&vm).await).await {
            tracing::error!(vm = %vm.snapshot().name, %refusal, "a VM that failed over was not started");
        }
    });
    Ok(())
}

/// A revert whose last word, the record without a failover, was kept, and only the end of its job was not.
async fn complete_reverts(vm: &ReplicaVm) {
    let jobs = &vm.shared.jobs;
    let done =
        |job: &standin_model::JobRecord| job.vm == Some(vm.id()) && job.job_type == JobType::RevertFailover;
    for job in jobs.running().into_iter().filter(done) {
        if let Some(job) = jobs.resume(job.id) {
            job.complete().await;
        }
    }
}

fn type_of(vm: &ReplicaVm, job: &JobHandle) -> Option<JobType> {
    vm.shared.jobs.watch(job.id()).map(|seen| seen.borrow().job_type)
}

/// Ends a job that a restart went on with.
async fn end(job: Option<JobHandle>, result: Result<(), Refusal>) -> Result<(), Refusal> {
    if let Some(job) = job {
        job.finish(result.clone()).await;
    }
    result
}

/// A failover that the end of the daemon cut off.
async fn give_up(vm: &ReplicaVm, failover: &FailoverRecord) -> Result<(), Refusal> {
    undo(vm, &failover.overlay).await?;
    give_back(vm, failover).await?;
    let mut record = vm.lock().await;
    record.failover = None;
    record.step(Event::FailoverFailed { before: failover.prior }).await
}

/// Serves the disks of a failover again, and tells whether its VM runs.
async fn serve_again(vm: &Arc<ReplicaVm>, failover: &FailoverRecord) -> Result<bool, Refusal> {
    let overlays = vm.store().overlays();
    let Some(overlay) = overlays.into_iter().find(|known| known.id == failover.overlay) else {
        return Err(
            Failover::OverlayGone { vm: vm.snapshot().name, overlay: failover.overlay.clone() }.into()
        );
    };
    serve_maps(vm, &overlay).await?;
    let running = vm.shared.hypervisor.inspect(vm.id()).await.is_ok_and(|info| info.power != PowerState::Off);
    if running {
        fill_overlays(vm);
        network::started(vm).await;
    }
    Ok(running)
}
