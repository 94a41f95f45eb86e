use super::*;
use standin_model::job::JobState;
use standin_state::faulty::FaultyStore;
use standin_state::{Expect, MemoryStore, StateStore};

async fn jobs() -> (Arc<Jobs>, Typed<JobRecord>) {
    on(Arc::new(MemoryStore::new())).await
}

async fn on(store: Arc<dyn StateStore>) -> (Arc<Jobs>, Typed<JobRecord>) {
    let table = Typed::new(store, "job", &[]);
    (Jobs::load(table.clone(), "test".into()).await.expect("readable"), table)
}

async fn begin(jobs: &Arc<Jobs>, job_type: JobType) -> JobHandle {
    let new = NewJob { job_type, vm: None, description: "a test".into(), cancellable: true };
    jobs.begin(new).await.expect("recorded")
}

async fn kept(table: &Typed<JobRecord>, id: JobId) -> JobRecord {
    table.get(id).await.expect("read").expect("a job").0
}

#[tokio::test]
async fn work_that_the_end_of_the_daemon_cuts_off_is_left_to_the_next_one_or_was_interrupted() {
    let (jobs, table) = jobs().await;
    let dropped = begin(&jobs, JobType::SendDelta).await;
    let id = dropped.id();
    drop(dropped);
    jobs.settle().await;
    assert!(kept(&table, id).await.error.expect("a reason").message.contains("without a result"));
    let (copy, cycle) =
        (begin(&jobs, JobType::StartInitialReplication).await, begin(&jobs, JobType::SendDelta).await);
    let (copy_id, cycle_id) = (copy.id(), cycle.id());
    jobs.stop();
    drop((copy, cycle));
    jobs.settle().await;
    assert_eq!(kept(&table, copy_id).await.state, JobState::Running);
    let cycle = kept(&table, cycle_id).await;
    assert!(cycle.error.expect("a reason").message.contains("the daemon ended"));
}

#[tokio::test]
async fn a_suspended_job_is_found_suspended_and_goes_on() {
    let (jobs, table) = jobs().await;
    let job = begin(&jobs, JobType::StartInitialReplication).await;
    job.suspend().await;
    job.suspend().await;
    assert_eq!(kept(&table, job.id()).await.state, JobState::Suspended);
    job.go_on().await;
    assert_eq!(kept(&table, job.id()).await.state, JobState::Running);
    jobs.cancel(job.id()).expect("cancelled");
    job.suspend().await;
    assert_eq!(jobs.watch(job.id()).expect("a job").borrow().state, JobState::ShuttingDown);
    job.terminate().await;
}

#[tokio::test]
async fn the_end_of_a_job_is_written_before_its_worker_goes_on() {
    let (jobs, table) = jobs().await;
    let job = begin(&jobs, JobType::SendDelta).await;
    let id = job.id();
    job.complete().await;
    assert_eq!(kept(&table, id).await.state, JobState::Completed);
}

#[tokio::test]
async fn a_job_whose_asker_goes_away_before_it_is_recorded_has_ended() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
    let (jobs, _) = on(Arc::clone(&store) as Arc<dyn StateStore>).await;
    store.stop();
    let new =
        NewJob { job_type: JobType::SendDelta, vm: None, description: "a test".into(), cancellable: true };
    let asked = tokio::time::timeout(Duration::from_millis(5), jobs.begin(new)).await;
    assert!(asked.is_err(), "it was answered before it was recorded");
    assert!(jobs.running().is_empty());
}

#[tokio::test]
async fn an_old_job_is_not_listed_and_goes_from_the_store() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::new());
    let table = Typed::new(Arc::clone(&store), "job", &[]);
    let before = Timestamp::now() - jiff::SignedDuration::from_hours(1);
    let mut old = JobRecord::new(JobType::SendDelta, "test", before);
    old.start(before).and_then(|()| old.complete(before)).expect("a job that ended");
    table.put(old.id, &old, Expect::Absent).await.expect("written");
    let (jobs, table) = on(store).await;
    assert!(jobs.list().is_empty(), "it is listed before the writer came to remove it");
    let young = begin(&jobs, JobType::SendDelta).await;
    let gone = async {
        while table.get(old.id).await.expect("read").is_some() || jobs.watch(old.id).is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("it goes");
    kept(&table, young.id()).await;
}
