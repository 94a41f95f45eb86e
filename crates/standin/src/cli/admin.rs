//! `standin auth ...` and `standin store ...`

use super::{Session, wait};
use crate::api::client::segment;
use crate::api::types::{AuthRequest, CheckRequest, Done, Outcome, PeerView, RebindRequest};
use crate::args::{AuthAdd, AuthVerb, PeerVerb, StoreVerb, Wait};
use crate::exit::Failure;
use crate::output::table;
use standin_model::JobState;
use standin_model::view::{AuthView, CheckView};

/// `standin auth`
pub(super) async fn auth(session: &Session, verb: AuthVerb) -> Result<(), Failure> {
    match verb {
        AuthVerb::Add(add) => self::add(session, add).await,
        AuthVerb::List => {
            let entries: Vec<AuthView> = session.client.get("/v1/authorizations").await?;
            session.style.print(&entries, |entries| table::authorizations(session.look(), entries))
        }
        AuthVerb::Remove { entry } => {
            let done: Done =
                session.client.delete(&format!("/v1/authorizations/{}", segment(&entry))).await?;
            session.style.print(&done, |_| format!("the entry {entry} is removed"))
        }
    }
}

async fn add(session: &Session, args: AuthAdd) -> Result<(), Failure> {
    let absolute = |path| {
        std::path::absolute(&path)
            .map_err(|error| Failure::Usage(format!("--storage: {error}; name a directory")))
    };
    let storage = args.storage.map(absolute).transpose()?;
    let request = AuthRequest { pattern: args.pattern, trust_group: args.trust_group, storage };
    let entry: AuthView = session.client.send("/v1/authorizations", &request).await?;
    session.style.print(&entry, |entry| {
        format!(
            "{} may replicate to this host, into {} ({})",
            entry.allowed_primary, entry.storage_location, entry.id
        )
    })
}

/// `standin peer`
pub(super) async fn peer(session: &Session, verb: PeerVerb) -> Result<(), Failure> {
    match verb {
        PeerVerb::List => {
            let peers: Vec<PeerView> = session.client.get("/v1/peers").await?;
            session.style.print(&peers, |peers| table::peers(session.look(), peers))
        }
        PeerVerb::Rebind { host, name } => {
            let target = format!("/v1/peers/{}/rebind", segment(&host));
            let request = RebindRequest { name: name.clone() };
            let done: Done = session.client.send(&target, &request).await?;
            session.style.print(&done, |_| format!("the host {host} is known as {name} now"))
        }
    }
}

/// `standin store`
pub(super) async fn store(session: &Session, verb: StoreVerb) -> Result<(), Failure> {
    match verb {
        StoreVerb::Check { vm, wait } => check(session, vm, wait).await,
    }
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
