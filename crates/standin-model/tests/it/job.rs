use jiff::{SignedDuration, Timestamp};
use standin_model::job::MAX_ERRORS;
use standin_model::{JobRecord, JobState, JobType, Refusal, ReturnCode};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("a time")
}

fn job() -> JobRecord {
    JobRecord::new(JobType::SendInitialReplica, "root", at(0))
}

fn trouble() -> Refusal {
    Refusal::told(
        ReturnCode::NotAvailable,
        "peer_unreachable",
        "the host cannot be reached",
        "Check the link.",
    )
}

#[test]
fn numbers_are_those_of_the_model() {
    // What the model has no number for is numbered from 32768, so that it can never be taken for one of it.
    let (codes, own): (Vec<u16>, Vec<u16>) =
        JobType::ALL.iter().map(|job_type| job_type.code()).partition(|code| *code < 32_768);
    assert_eq!(own, [JobType::CheckStore.code()]);
    // Starting, powering off, shutting down, pausing and resuming a VM; then those of replication.
    let mut model: Vec<u16> = vec![12, 13, 16, 26, 27];
    model.extend(90..=111);
    model.extend([115, 116, 117, 118, 119, 121, 122, 123, 124, 125]);
    assert_eq!(codes, model);
    assert_eq!(
        JobState::ALL.iter().map(|state| state.code()).collect::<Vec<_>>(),
        (2..=10).collect::<Vec<_>>()
    );
    assert_eq!(JobType::from_code(112), None);
}

#[test]
fn a_job_runs_completes_and_is_forgotten_after_five_minutes() {
    let mut job = job();
    assert_eq!((job.state.code(), job.return_code), (2, None));
    job.start(at(1)).expect("a new job starts");
    job.progress(512, 1024);
    assert_eq!((job.state, job.percent), (JobState::Running, 50));
    job.complete(at(60)).expect("a running job completes");
    assert_eq!((job.percent, job.return_code, job.error.clone()), (100, Some(ReturnCode::Completed), None));
    assert!(!job.expired(at(359)));
    assert!(job.expired(at(360)));
    assert!(!JobRecord::new(JobType::SendDelta, "root", at(0)).expired(at(1_000_000)), "it has not ended");
}

#[test]
fn progress_never_falls_and_is_complete_only_at_the_end() {
    let mut job = job();
    job.start(at(0)).expect("a new job starts");
    for (done, total, percent) in
        [(90, 100, 90), (90, 1000, 90), (1000, 1000, 99), (5, 0, 99), (u64::MAX, u64::MAX, 99)]
    {
        job.progress(done, total);
        assert_eq!(job.percent, percent, "{done} of {total}");
        assert!(total == 0 || job.bytes_done <= job.bytes_total, "{done} of {total}");
    }
    job.progress(32 << 10, 28 << 10);
    assert_eq!((job.bytes_done, job.bytes_total), (32 << 10, 32 << 10), "what is done was to be done");
    job.progress(u64::MAX, u64::MAX);
    job.fail(trouble(), at(5)).expect("a running job fails");
    job.progress(1, 2);
    assert_eq!((job.percent, job.bytes_done), (99, u64::MAX), "a late report changes nothing");
}

#[test]
fn a_failed_job_carries_the_code_and_the_remedy() {
    let mut job = job();
    job.start(at(0)).expect("a new job starts");
    job.fail(trouble(), at(5)).expect("a running job fails");
    assert_eq!(job.state, JobState::Exception);
    assert_eq!(job.return_code, Some(ReturnCode::NotAvailable));
    assert_eq!(job.error, Some(trouble()));
    assert_eq!(job.errors, [trouble()]);
}

#[test]
fn only_a_cancellable_job_is_cancelled_and_it_ends_when_its_worker_says_so() {
    let mut fixed = job();
    fixed.start(at(0)).expect("a new job starts");
    assert_eq!(fixed.cancel().expect_err("not cancellable").code, ReturnCode::NotSupported);
    assert_eq!(fixed.state, JobState::Running);

    let mut job = job().cancellable();
    job.start(at(0)).expect("a new job starts");
    job.cancel().expect("cancellable");
    job.cancel().expect("twice is no error");
    assert_eq!((job.state, job.ended_at), (JobState::ShuttingDown, None));
    job.terminated(Refusal::told(ReturnCode::Failed, "job_cancelled", "cancelled", "Start it again."), at(9))
        .expect("it ends");
    assert_eq!((job.state, job.ended_at), (JobState::Terminated, Some(at(9))));
}

#[test]
fn a_job_that_ended_does_not_change() {
    let mut job = job().cancellable();
    job.complete(at(1)).expect("a job without work completes");
    let ended = job.clone();
    assert_eq!(job.start(at(2)).expect_err("ended").code, ReturnCode::InvalidState);
    assert!(job.complete(at(2)).is_err());
    assert!(job.fail(trouble(), at(2)).is_err());
    assert!(job.cancel().is_err());
    assert!(job.suspend().is_err());
    assert!(job.terminated(trouble(), at(2)).is_err());
    assert!(job.interrupted(at(2)).is_err());
    assert_eq!(job, ended);
}

#[test]
fn a_suspended_job_goes_on_with_its_first_start() {
    let mut job = job();
    job.start(at(1)).expect("a new job starts");
    job.suspend().expect("a running job is suspended");
    assert!(job.suspend().is_err());
    job.start(at(50)).expect("a suspended job goes on");
    assert_eq!((job.state, job.started_at), (JobState::Running, Some(at(1))));
}

#[test]
fn a_job_found_unfinished_at_the_start_ends_with_a_reason() {
    let mut running = job();
    running.start(at(0)).expect("a new job starts");
    running.interrupted(at(9)).expect("it was unfinished");
    assert_eq!((running.state, running.return_code), (JobState::Exception, Some(ReturnCode::Failed)));
    let mut cancelled = job().cancellable();
    cancelled.cancel().expect("cancellable");
    cancelled.interrupted(at(9)).expect("it was unfinished");
    assert_eq!(cancelled.state, JobState::Terminated);
}

#[test]
fn a_clock_set_back_does_not_end_a_job_before_it_began() {
    let mut job = job();
    job.start(at(100)).expect("a new job starts");
    job.complete(at(100) - SignedDuration::from_hours(1)).expect("a running job completes");
    assert_eq!(job.ended_at, Some(at(100)));
}

#[test]
fn remembered_errors_are_bounded_and_include_the_last() {
    let mut job = job();
    for number in 0..100 {
        job.note_error(Refusal::told(ReturnCode::Failed, "disk_slow", number.to_string(), "Wait."));
    }
    assert_eq!(job.errors.len(), MAX_ERRORS);
    assert_eq!(job.errors.last().map(|error| error.message.as_str()), Some("99"));
}

#[test]
fn a_record_survives_json() {
    let mut job = job().cancellable().described("send web-1");
    job.start(at(1)).expect("a new job starts");
    job.fail(trouble(), at(2)).expect("a running job fails");
    let json = serde_json::to_string(&job).expect("plain values");
    assert_eq!(serde_json::from_str::<JobRecord>(&json).expect("own JSON"), job);
}
