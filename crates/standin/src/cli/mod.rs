//! The verbs: each turns what was typed into requests, asks the daemon, prints the answer, and says how it
//! ended. Which text goes where: results to the standard output, progress and complaints to the other one.

mod admin;
mod authority;
mod cim;
mod jobs;
mod network;
mod pki;
pub(crate) mod reason;
mod replication;
mod secret;
mod settings;
mod store;
mod user;
mod vm;
mod wait;

use crate::api::client::Client;
use crate::api::types::Problem;
use crate::args::{Args, Verb};
use crate::config::Config;
use crate::exit::Failure;
use crate::output::Style;
use crate::output::table::Look;
use anyhow::Context;
use jiff::Timestamp;
use std::path::PathBuf;

/// What every verb has.
pub(crate) struct Session {
    /// The daemon.
    pub client: Client,
    /// How to print.
    pub style: Style,
}

impl Session {
    /// The look of tables, as of now.
    fn look(&self) -> Look {
        Look { colour: self.style.colour, now: Timestamp::now() }
    }
}

/// Runs the verb.
///
/// # Errors
/// How it did not end well; `main` makes the exit status of it.
pub fn run(args: Args) -> Result<(), Failure> {
    let style = Style::detect(args.global.json);
    let outcome = dispatch(args, style);
    if let (true, Err(failure)) = (style.json, &outcome) {
        tell_as_json(style, failure)?;
    }
    outcome
}

/// With `--json` a refusal is a document too; a job that failed was already printed as its job.
fn tell_as_json(style: Style, failure: &Failure) -> Result<(), Failure> {
    match failure {
        Failure::Refused(refusal) => style.print(&Problem::from(refusal.clone()), |_| String::new()),
        _ => Ok(()),
    }
}

fn dispatch(args: Args, style: Style) -> Result<(), Failure> {
    let explicit = args.global.config.as_deref();
    let load = || Config::load(explicit).map_err(|error| Failure::Local(error.into()));
    match args.verb {
        Verb::Serve(_) => {
            let mut config = load()?;
            if let Some(socket) = args.global.socket {
                config.socket = socket;
            }
            crate::serve::run(config).map_err(Failure::Local)
        }
        Verb::Pki(pki) => {
            let config = load()?;
            let socket = args.global.socket.unwrap_or_else(|| config.socket.clone());
            pki::pki(pki.verb, &config, socket, style)
        }
        Verb::Enroll(enroll) => {
            let config = load()?;
            let socket = args.global.socket.unwrap_or_else(|| config.socket.clone());
            pki::enroll(enroll, &config, socket, style)
        }
        Verb::User(user) => user::run(user.verb, &load()?, style),
        Verb::Cim(cim) => cim::run(&cim.verb),
        verb => {
            let socket = match args.global.socket {
                Some(socket) => socket,
                None => load()?.socket,
            };
            ask(verb, socket, style)
        }
    }
}

/// A question on the terminal; anything but yes is no.
fn confirm(question: &str) -> Result<bool, Failure> {
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.map_err(|error| Failure::Local(anyhow::Error::new(error).context("cannot read the answer")))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// The verbs that are only clients: one thread is enough.
fn ask(verb: Verb, socket: PathBuf, style: Style) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the asynchronous runtime cannot be started")?;
    let session = Session { client: Client::new(socket), style };
    runtime.block_on(verb_of_a_client(verb, &session))
}

async fn verb_of_a_client(verb: Verb, session: &Session) -> Result<(), Failure> {
    match verb {
        Verb::Vm(vm) => vm::run(session, vm.verb).await,
        Verb::Auth(auth) => admin::auth(session, auth.verb).await,
        Verb::Peer(peer) => admin::peer(session, peer.verb).await,
        Verb::Store(store) => store::run(session, store.verb).await,
        Verb::Replicate(replicate) => replication::replicate(session, replicate).await,
        Verb::Status(status) => replication::status(session, status.vm).await,
        Verb::Points(points) => replication::points(session, points).await,
        Verb::Suspend(verb) => replication::simple(session, verb, "suspend", "replication is paused").await,
        Verb::Resume(verb) => replication::simple(session, verb, "resume", "replication goes on").await,
        Verb::Unreplicate(verb) => {
            replication::simple(session, verb, "unreplicate", "the relationship is removed; the disks stay")
                .await
        }
        Verb::Resync(verb) => {
            replication::simple(session, verb, "resync", "the replica is the same as the VM again").await
        }
        Verb::Point(point) => replication::point(session, point).await,
        Verb::Failover(failover) => replication::failover(session, failover).await,
        Verb::Set(set) => settings::set(session, set).await,
        Verb::Rename(rename) => settings::rename(session, rename).await,
        Verb::Network(network) => network::run(session, network).await,
        Verb::Jobs(jobs) => jobs::run(session, jobs).await,
        // Taken care of by the caller, which needs the configuration for them.
        Verb::Serve(_) | Verb::Pki(_) | Verb::Enroll(_) | Verb::User(_) | Verb::Cim(_) => Ok(()),
    }
}
