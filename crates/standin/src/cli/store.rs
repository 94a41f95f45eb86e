//! `standin store ...`

use super::{Session, wait};
use crate::api::client::segment;
use crate::api::types::{CheckRequest, DirectoryRequest, Done, Outcome, RepairRequest};
use crate::args::{StoreVerb, Wait};
use crate::exit::Failure;
use crate::output::{store as output, table};
use standin_model::JobState;
use standin_model::view::{CheckView, DirectoryView, RepairView};
use std::path::PathBuf;

/// `standin store`
pub(super) async fn run(session: &Session, verb: StoreVerb) -> Result<(), Failure> {
    match verb {
        StoreVerb::List => {
            let found: Vec<DirectoryView> = session.client.get("/v1/store").await?;
            session.style.print(&found, |found| output::directories(session.look(), found))
        }
        StoreVerb::Check { vm, wait } => check(session, vm, wait).await,
        StoreVerb::Repair { vm, wait } => repair(session, vm, wait).await,
        StoreVerb::Adopt { directory } => {
            let request = DirectoryRequest { directory: absolute(directory)? };
            let found: DirectoryView = session.client.send("/v1/store/adopt", &request).await?;
            session.style.print(&found, |found| {
                format!(
                    "{} is a replica of this host again, with {} recovery points; `standin points {}` lists them",
                    found.vm, found.points, found.vm
                )
            })
        }
        StoreVerb::Remove { directory, yes } => remove(session, absolute(directory)?, yes).await,
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&path)
        .map_err(|error| Failure::Usage(format!("{}: {error}; name a directory", path.display())))
}

async fn repair(session: &Session, vm: String, wait: Wait) -> Result<(), Failure> {
    let outcome: Outcome = session.client.send("/v1/store/repair", &RepairRequest { vm }).await?;
    let (Some(started), false) = (outcome.job.clone(), wait.no_wait) else {
        return wait::finish(session, outcome, wait, "there is nothing to repair").await;
    };
    let job = wait::to_the_end(session, started).await?;
    if job.state != JobState::Completed {
        return wait::conclude(session, &job, |_| String::new());
    }
    let path = format!("/v1/store/repair/{}", segment(&job.id.to_string()));
    let found: RepairView = session.client.get(&path).await?;
    session.style.print(&found, output::repaired)
}

async fn remove(session: &Session, directory: PathBuf, yes: bool) -> Result<(), Failure> {
    if !yes {
        if !session.style.asks {
            return Err(Failure::Usage(
                "there is no terminal to ask on; say --yes to delete the directory with its recovery points"
                    .to_owned(),
            ));
        }
        if !super::confirm(&format!("Delete {} with all its recovery points?", directory.display()))? {
            return Ok(());
        }
    }
    let shown = directory.display().to_string();
    let done: Done = session.client.send("/v1/store/remove", &DirectoryRequest { directory }).await?;
    session.style.print(&done, |_| format!("{shown} is deleted"))
}

async fn check(session: &Session, vm: Option<String>, wait: Wait) -> Result<(), Failure> {
    let outcome: Outcome = session.client.send("/v1/store/check", &CheckRequest { vm }).await?;
    let (Some(started), false) = (outcome.job.clone(), wait.no_wait) else {
        return wait::finish(session, outcome, wait, "there is nothing to check").await;
    };
    let job = wait::to_the_end(session, started).await?;
    // A check that found damage may end as failed: what it found is still the answer.
    let found: Result<Vec<CheckView>, Failure> =
        session.client.get(&format!("/v1/store/check/{}", segment(&job.id.to_string()))).await;
    let completed = job.state == JobState::Completed;
    let checks = match found {
        Ok(checks) => checks,
        Err(failure) if completed => return Err(failure),
        Err(_) => return wait::conclude(session, &job, |_| String::new()),
    };
    session.style.print(&checks, |checks| table::checks(checks))?;
    let bad = checks.iter().filter(|check| !check.good).count();
    match (bad, completed) {
        (0, true) => Ok(()),
        (0, false) => Err(wait::failed(&job)),
        _ => Err(Failure::JobFailed {
            message: format!("{bad} of {} replicas are not good", checks.len()),
            remedy:
                "Fail over to good points only; `standin resync VM` on the primary repairs the newest state."
                    .to_owned(),
        }),
    }
}
