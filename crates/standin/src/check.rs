//! `store check` and `store repair` as jobs: both read whole replicas, and what they found is kept as long as the job.

use crate::api::reason::{Daemon, Select};
use crate::api::service::Result;
use standin_engine::jobs::{self, JobHandle, Jobs, NewJob};
use standin_engine::replica::ReplicaHost;
use standin_engine::replica::layer::refusal_of;
use standin_model::job::JobType;
use standin_model::view::{CheckView, PointCheckView, RepairView};
use standin_model::{JobId, Refusal, VmId, VmName};
use standin_store::{ReplicaReport, Store};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// The checks of this daemon.
pub(crate) struct Checks {
    store: Store,
    jobs: Arc<Jobs>,
    results: Arc<Mutex<HashMap<JobId, Vec<CheckView>>>>,
    repairs: Arc<Mutex<HashMap<JobId, RepairView>>>,
}

impl Checks {
    pub(crate) fn new(store: Store, jobs: Arc<Jobs>) -> Self {
        Self { store, jobs, results: Arc::default(), repairs: Arc::default() }
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

    /// Starts the repair of a replica whose manifest is lost.
    pub(crate) async fn repair(&self, replicas: Arc<ReplicaHost>, vm: VmId) -> Result<JobId> {
        let missing = replicas.missing().into_iter().find(|record| record.vm == vm);
        let name = match (missing, replicas.find(vm)) {
            (Some(record), _) => record.name,
            (None, Some(replica)) => replica.snapshot().name,
            (None, None) => return Err(standin_engine::replica::vm::no_replica(&vm.to_string())),
        };
        let new = NewJob {
            job_type: JobType::CheckStore,
            vm: Some((vm, name.clone())),
            description: format!("repair of the replica of {name}"),
            cancellable: false,
        };
        let job = self.jobs.begin(new).await?;
        let (id, jobs, repairs) = (job.id(), Arc::clone(&self.jobs), Arc::clone(&self.repairs));
        let job = Arc::new(job);
        let shown = Arc::clone(&job);
        tokio::spawn(async move {
            let repaired = replicas
                .repair(vm, move |done, total| {
                    shown.progress().done.store(done, Ordering::Relaxed);
                    shown.progress().total.store(total, Ordering::Relaxed);
                    shown.publish();
                })
                .await;
            let ended = repaired.map(|found| {
                let view = RepairView {
                    vm: name,
                    id: vm,
                    points: found.points as u64,
                    left_out: found.left_out,
                    set_aside: found.set_aside.iter().map(|path| path.display().to_string()).collect(),
                };
                let mut repairs = repairs.lock().unwrap_or_else(PoisonError::into_inner);
                repairs.retain(|known, _| jobs.watch(*known).is_some());
                repairs.insert(id, view);
            });
            // What showed the progress went with the repair.
            if let Some(job) = Arc::into_inner(job) {
                job.finish(ended).await;
            }
        });
        Ok(id)
    }

    /// What a repair that has ended well found.
    pub(crate) fn repaired(&self, job: JobId) -> Result<RepairView> {
        let found = self.repairs.lock().unwrap_or_else(PoisonError::into_inner).get(&job).cloned();
        found.ok_or_else(|| self.nothing_of(job))
    }

    fn nothing_of(&self, job: JobId) -> Refusal {
        match self.jobs.watch(job) {
            None => jobs::unknown(job),
            Some(_) => Select::NoVerdict { job }.into(),
        }
    }

    /// The verdicts of a check that has ended.
    pub(crate) fn result(&self, job: JobId) -> Result<Vec<CheckView>> {
        let found = self.results.lock().unwrap_or_else(PoisonError::into_inner).get(&job).cloned();
        found.ok_or_else(|| self.nothing_of(job))
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
    Err(Daemon::Damaged { points: bad, other }.into())
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
