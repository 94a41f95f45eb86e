//! Waits for a job: shows its progress, survives a restart of the daemon, and lets the job go on at Ctrl-C.

use super::Session;
use super::vm::path;
use crate::api::types::{Outcome, WatchQuery};
use crate::args::Wait;
use crate::exit::Failure;
use crate::output::progress::Progress;
use crate::output::table;
use serde::Serialize;
use standin_model::view::{ErrorView, JobView, StatusView};
use standin_model::{JobState, JobType};
use std::time::{Duration, Instant};

/// A daemon that is being restarted is back by then.
const RESTART_GRACE: Duration = Duration::from_secs(30);
/// Between two looks for a daemon that is away.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Between two looks for what keeps a job from going on.
const TROUBLE_PAUSE: Duration = Duration::from_secs(3);
/// Between two sentences about that.
const TROUBLE_AGAIN: Duration = Duration::from_secs(60);

/// Ends a verb: what is done is said, a job is waited for or printed.
pub(super) async fn finish(
    session: &Session,
    outcome: Outcome,
    wait: Wait,
    done: &str,
) -> Result<(), Failure> {
    let Some(job) = &outcome.job else {
        return session.style.print(&outcome, |_| done.to_owned());
    };
    let shown = |job: &JobView| Shown { job: job.clone(), found_points: outcome.found_points };
    if !wait.no_wait {
        if let Some(why) = waits_for_the_vm(session, job).await {
            return session.style.print(&shown(job), |shown| {
                format!("{why}\nThe job goes on; follow it with `standin jobs {} --watch`", shown.job.id)
            });
        }
    }
    if wait.no_wait {
        return session.style.print(&shown(job), |Shown { job, .. }| {
            format!("job {}: {}; follow it with `standin jobs {} --watch`", job.id, job.job_type, job.id)
        });
    }
    let job = to_the_end(session, job.clone()).await?;
    if job.state == JobState::Completed {
        return session.style.print(&shown(&job), |_| done.to_owned());
    }
    conclude(session, &job, |_| done.to_owned())
}

/// The job of a verb, with what the verb was answered besides.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    job: JobView,
    #[serde(skip_serializing_if = "Option::is_none")]
    found_points: Option<u64>,
}

/// What a job waits for that no waiting here brings about: a copy begins when its VM runs, be it in a year.
async fn waits_for_the_vm(session: &Session, job: &JobView) -> Option<String> {
    let begins = match job.job_type {
        JobType::StartInitialReplication => "the first copy begins",
        JobType::Resynchronize => "the comparison begins",
        _ => return None,
    };
    let vm = job.vm.as_ref().filter(|_| !job.state.is_final())?;
    // Only for this sentence: a daemon that cannot say it now is waited for as ever.
    let view: StatusView = session.client.get(&path(vm.as_str(), "/status")).await.ok()?;
    (view.power.as_deref() == Some("off")).then(|| {
        format!("{vm} is off, so nothing is sent yet: {begins} when it runs (`standin vm start {vm}`)")
    })
}

/// Prints a job that has ended and makes the ending of the verb of it.
pub(super) fn conclude(
    session: &Session,
    job: &JobView,
    text: impl FnOnce(&JobView) -> String,
) -> Result<(), Failure> {
    if job.state == JobState::Completed {
        return session.style.print(job, text);
    }
    if session.style.json {
        session.style.print(job, |_| String::new())?;
    }
    Err(failed(job))
}

/// Why a job did not complete.
pub(super) fn failed(job: &JobView) -> Failure {
    let what = match &job.vm {
        Some(vm) => format!("{} of {vm}", job.job_type),
        None => job.job_type.to_string(),
    };
    let reason =
        job.error.clone().unwrap_or_else(|| format!("it ended as {}", job.state.to_string().to_lowercase()));
    let code = job.return_code.map_or_else(String::new, |code| format!(" ({})", u32::from(code)));
    Failure::JobFailed {
        message: format!("{what}{code}: {reason}"),
        remedy: job
            .remedy
            .clone()
            .unwrap_or_else(|| format!("See `standin jobs {}` and the daemon's log.", job.id)),
    }
}

/// Follows `job` until it has ended. Gives it as it ended.
pub(super) async fn to_the_end(session: &Session, job: JobView) -> Result<JobView, Failure> {
    let id = job.id.to_string();
    let mut progress = Progress::new(session.style, &job);
    let outcome = tokio::select! {
        outcome = follow(session, job, &mut progress) => outcome,
        signal = tokio::signal::ctrl_c() => match signal {
            Ok(()) => Err(Failure::Interrupted(format!(
                "the job goes on; look at it with `standin jobs {id}`, follow it with `standin jobs {id} --watch`, end it with `standin jobs cancel {id}`"
            ))),
            Err(error) => Err(anyhow::Error::new(error).context("Ctrl-C cannot be watched for").into()),
        },
    };
    progress.end();
    outcome
}

async fn follow(session: &Session, mut job: JobView, progress: &mut Progress) -> Result<JobView, Failure> {
    let mut away_since: Option<Instant> = None;
    let mut troubles = Troubles::default();
    loop {
        progress.show(&job);
        if job.state.is_final() {
            return Ok(job);
        }
        if let Some(trouble) = troubles.look(session, &job).await {
            progress.say(&trouble);
        }
        match session.client.watch_job(&job.id.to_string(), &seen(&job)).await {
            Ok(now) => {
                away_since = None;
                job = now;
            }
            // Jobs survive a restart of the daemon, so this need not be the end.
            Err(Failure::NoDaemon(message)) => {
                let since = *away_since.get_or_insert_with(|| {
                    progress.say("the daemon does not answer; waiting for it to come back");
                    Instant::now()
                });
                if since.elapsed() > RESTART_GRACE {
                    return Err(Failure::NoDaemon(message));
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(other) => return Err(other),
        }
    }
}

/// Why what is waited for does not go on: a job that is tried again by itself has not failed, and does not say.
#[derive(Default)]
struct Troubles {
    looked: Option<Instant>,
    /// What was said last, and when.
    said: Option<(String, Instant)>,
}

impl Troubles {
    /// A sentence, if there is something new to be said of a copy or a comparison.
    async fn look(&mut self, session: &Session, job: &JobView) -> Option<String> {
        let sends = matches!(job.job_type, JobType::StartInitialReplication | JobType::Resynchronize);
        let vm = job.vm_id.filter(|_| sends)?;
        let now = Instant::now();
        if self.looked.is_some_and(|at| now.duration_since(at) < TROUBLE_PAUSE) {
            return None;
        }
        self.looked = Some(now);
        // Only for this sentence: a daemon that cannot say it now is waited for as ever.
        let view: StatusView = session.client.get(&path(&vm.to_string(), "/status")).await.ok()?;
        self.tell(view.last_error.as_ref(), now)
    }

    /// Each trouble once, and one that only has other figures in it (of free space, of attempts) not all the time.
    fn tell(&mut self, error: Option<&ErrorView>, now: Instant) -> Option<String> {
        let Some(error) = error else {
            self.said = None;
            return None;
        };
        let known = self.said.as_ref().is_some_and(|(message, at)| {
            *message == error.message || now.duration_since(*at) < TROUBLE_AGAIN
        });
        if known {
            return None;
        }
        self.said = Some((error.message.clone(), now));
        Some(format!(
            "it does not go on now: {}\n{}\nIt is tried again by itself.",
            error.message, error.remedy
        ))
    }
}

/// What the daemon need not tell again.
pub(super) fn seen(job: &JobView) -> WatchQuery {
    WatchQuery {
        after_percent: Some(job.percent),
        after_bytes: Some(job.bytes_done),
        after_state: Some(job.state_code),
        timeout: Some(20),
    }
}

/// One line a change, on the standard output: `standin jobs ID --watch`.
pub(super) async fn stream(session: &Session, mut job: JobView) -> Result<(), Failure> {
    loop {
        session.style.print_line(&job, table::job_line)?;
        if job.state.is_final() {
            return if job.state == JobState::Completed { Ok(()) } else { Err(failed(&job)) };
        }
        let before = (job.state, job.percent, job.bytes_done);
        while (job.state, job.percent, job.bytes_done) == before {
            job = session.client.watch_job(&job.id.to_string(), &seen(&job)).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use standin_model::{Refusal, ReturnCode};

    #[test]
    fn a_trouble_is_told_once_and_again_when_it_came_back() {
        let error = |free: u32| {
            let message = format!("{free} bytes are free, 300 are needed");
            ErrorView::new(
                Refusal::told(ReturnCode::Failed, "store_no_space", message, "Free some space."),
                None,
            )
        };
        let (mut troubles, start) = (Troubles::default(), Instant::now());
        let told = troubles.tell(Some(&error(7)), start).expect("it is new");
        assert!(told.contains("7 bytes are free") && told.contains("Free some space"), "{told}");
        assert!(told.contains("tried again by itself"), "{told}");
        assert_eq!(troubles.tell(Some(&error(7)), start + 2 * TROUBLE_AGAIN), None, "it is the same");
        assert_eq!(troubles.tell(Some(&error(8)), start + TROUBLE_PAUSE), None, "only a figure is new");
        assert!(troubles.tell(Some(&error(8)), start + TROUBLE_AGAIN).is_some());
        assert_eq!(troubles.tell(None, start + TROUBLE_AGAIN), None);
        assert!(troubles.tell(Some(&error(8)), start + TROUBLE_AGAIN + TROUBLE_PAUSE).is_some());
    }
}
