//! `store check` as a job: verifies replicas on a blocking thread and keeps the verdicts as long as the job.

use crate::api::service::Result;
use standin_engine::jobs::{self, JobHandle, Jobs, NewJob};
use standin_engine::replica::layer::refusal_of;
use standin_model::job::JobType;
use standin_model::view::{CheckView, PointCheckView};
use standin_model::{JobId, Refusal, ReturnCode, VmId, VmName};
use standin_store::{ReplicaReport, Store};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// The checks of this daemon.
pub(crate) struct Checks {
    store: Store,
    jobs: Arc<Jobs>,
    results: Arc<Mutex<HashMap<JobId, Vec<CheckView>>>>,
}

impl Checks {
    pub(crate) fn new(store: Store, jobs: Arc<Jobs>) -> Self {
        Self { store, jobs, results: Arc::default() }
    }

    /// Starts the check of one replica or of all.
    pub(crate) async fn start(&self, target: Option<(VmId, VmName)>) -> Result<JobId> {
        let what = target.as_ref().map_or_else(|| "all replicas".to_owned(), |(_, name)| name.to_string());
        let vm = target.as_ref().map(|(id, _)| *id);
        let new = NewJob {
            job_type: JobType::CheckStore,
            vm: target,
            description: format!("verification of {what}"),
            cancellable: false,
        };
        let job = self.jobs.begin(new).await?;
        let (id, store, results) = (job.id(), self.store.clone(), Arc::clone(&self.results));
        let jobs = Arc::clone(&self.jobs);
        tokio::spawn(async move {
            let checked = tokio::task::spawn_blocking(move || {
                let verdict = check(&store, vm, &job);
                (job, verdict)
            });
            // A defect has dropped the job, and so ended it.
            let Ok((job, verdict)) = checked.await else { return };
            let ended = verdict.and_then(|views| {
                let verdict = judge(&views);
                let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                results.retain(|known, _| jobs.watch(*known).is_some());
                results.insert(id, views);
                verdict
            });
            job.finish(ended).await;
        });
        Ok(id)
    }

    /// The verdicts of a check that has ended.
    pub(crate) fn result(&self, job: JobId) -> Result<Vec<CheckView>> {
        let found = self.results.lock().unwrap_or_else(PoisonError::into_inner).get(&job).cloned();
        found.ok_or_else(|| match self.jobs.watch(job) {
            None => jobs::unknown(job),
            Some(_) => Refusal::new(
                ReturnCode::InvalidState,
                format!("job {job} has no verdict"),
                "Wait for the end of the check (`standin jobs --watch`), or start it again.",
            ),
        })
    }
}

/// Reads all there is, and shows how far it is.
fn check(store: &Store, vm: Option<VmId>, job: &JobHandle) -> Result<Vec<CheckView>> {
    let progress = job.progress();
    let report = store.check(vm, &mut |done, total| {
        progress.done.store(done, Ordering::Relaxed);
        progress.total.store(total, Ordering::Relaxed);
        job.publish();
    });
    // The total was an estimate; now it is known what there was to read.
    progress.total.store(progress.done.load(Ordering::Relaxed), Ordering::Relaxed);
    job.publish();
    match report {
        Ok(report) => Ok(report.replicas.iter().filter_map(|replica| view(store, replica)).collect()),
        Err(error) => Err(refusal_of(&error)),
    }
}

/// A check that found damage is a job that failed: scripts must not take it for good.
fn judge(views: &[CheckView]) -> std::result::Result<(), Refusal> {
    let bad: usize = views.iter().flat_map(|view| &view.points).filter(|point| !point.good).count();
    let other: usize = views.iter().map(|view| view.problems.len()).sum();
    if views.iter().all(|view| view.good) {
        return Ok(());
    }
    Err(Refusal::new(
        ReturnCode::Failed,
        format!("{bad} recovery points are damaged, {other} other problems were found"),
        "Fail over only to points that are good. `standin resync VM` on the primary mends the newest state; see \
         to the storage below the replica.",
    ))
}

/// The verdict on a replica; `None` for one that was removed since.
fn view(store: &Store, report: &ReplicaReport) -> Option<CheckView> {
    let manifest = store.get(report.vm)?.manifest();
    let points: Vec<_> = report
        .points
        .iter()
        .filter_map(|point| {
            Some(PointCheckView {
                id: point.point,
                epoch: point.epoch,
                created_at: manifest.point(point.point)?.created_at,
                good: point.good,
                problems: point.problems.clone(),
            })
        })
        .collect();
    let layers = report.layers.iter().flat_map(|layer| {
        layer.problems.iter().map(move |what| format!("disk {}, layer {}: {what}", layer.disk, layer.epoch))
    });
    let problems: Vec<String> = report.problems.iter().cloned().chain(layers).collect();
    let sound = report.layers.iter().all(standin_store::LayerReport::good);
    Some(CheckView {
        vm: manifest.name.clone(),
        id: report.vm,
        good: sound && problems.is_empty() && points.iter().all(|point| point.good),
        checked_bytes: report.layers.iter().map(|layer| layer.checked_bytes).sum(),
        points,
        problems,
    })
}
