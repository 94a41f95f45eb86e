//! `standin auth ...` and `standin peer ...`

use super::Session;
use crate::api::client::segment;
use crate::api::types::{AuthRequest, Done, PeerView, RebindRequest};
use crate::args::{AuthAdd, AuthVerb, PeerVerb};
use crate::exit::Failure;
use crate::output::table;
use standin_model::view::AuthView;

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
