//! `standin jobs ...`

use super::{Session, wait};
use crate::api::client::segment;
use crate::args::{Jobs, JobsVerb};
use crate::exit::Failure;
use crate::output::table;
use standin_model::view::JobView;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often all jobs are looked at for `jobs --watch`.
const WATCH_ALL_PAUSE: Duration = Duration::from_secs(1);

/// Runs the verb.
pub(super) async fn run(session: &Session, args: Jobs) -> Result<(), Failure> {
    match (args.verb, args.id, args.watch) {
        (Some(JobsVerb::Cancel { id }), _, _) => cancel(session, &id).await,
        (None, Some(id), watch) => one(session, &id, watch).await,
        (None, None, true) => watch_all(session).await,
        (None, None, false) => {
            let jobs = list(session).await?;
            session.style.print(&jobs, |jobs| table::jobs(session.look(), jobs))
        }
    }
}

/// All jobs, oldest first.
async fn list(session: &Session) -> Result<Vec<JobView>, Failure> {
    let mut jobs: Vec<JobView> = session.client.get("/v1/jobs").await?;
    jobs.sort_by_key(|job| (job.created_at, job.id));
    Ok(jobs)
}

async fn one(session: &Session, id: &str, watch: bool) -> Result<(), Failure> {
    let job: JobView = session.client.get(&format!("/v1/jobs/{}", segment(id))).await?;
    if !watch {
        return session.style.print(&job, |job| table::job(session.look(), job));
    }
    if session.style.json || !session.style.bars {
        return tokio::select! {
            outcome = wait::stream(session, job) => outcome,
            signal = tokio::signal::ctrl_c() => stopped(signal),
        };
    }
    let job = wait::to_the_end(session, job).await?;
    wait::conclude(session, &job, table::job_line)
}

async fn cancel(session: &Session, id: &str) -> Result<(), Failure> {
    let job: JobView = session.client.delete(&format!("/v1/jobs/{}", segment(id))).await?;
    session.style.print(&job, |job| {
        if job.state.is_final() {
            format!("job {} has ended: {}", job.id, job.state.to_string().to_lowercase())
        } else {
            format!("job {} is being ended; see `standin jobs {}`", job.id, job.id)
        }
    })
}

/// A line for every job that moved, until Ctrl-C.
async fn watch_all(session: &Session) -> Result<(), Failure> {
    let mut seen = BTreeMap::new();
    loop {
        for job in list(session).await? {
            let now = (job.state, job.percent, job.bytes_done);
            if seen.insert(job.id, now) != Some(now) {
                session.style.print_line(&job, table::job_line)?;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH_ALL_PAUSE) => {}
            signal = tokio::signal::ctrl_c() => return stopped(signal),
        }
    }
}

/// Watching was ended by the one who watched: that is how it ends.
fn stopped(signal: std::io::Result<()>) -> Result<(), Failure> {
    signal.map_err(|error| anyhow::Error::new(error).context("Ctrl-C cannot be watched for").into())
}
