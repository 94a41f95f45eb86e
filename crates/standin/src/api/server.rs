//! The server side of the local API: the unix socket, who may use it, the routes, the orderly end.
//!
//! Called by [`crate::serve`] with the engine's service, and by tests with a scripted one.

use super::extract::problem;
use super::handlers::{self as h, Context};
use super::peer::{Admission, Peer, find_group};
use super::reason::{Daemon, Request as Wrong};
use super::service::Service;
use super::storage;
use anyhow::{Context as _, Result, anyhow, bail};
use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{delete, get, post};
use axum::serve::IncomingStream;
use standin_model::Refusal;
use standin_model::settings::RelationshipSettings;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How to serve.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The path of the socket. Its directory exists.
    pub socket: PathBuf,
    /// A group whose members may use it.
    pub group: Option<String>,
    /// What a `replicate` takes that does not say otherwise.
    pub defaults: RelationshipSettings,
    /// How long running requests and the service may take to end.
    pub grace: Duration,
}

/// A bound socket that is not served yet.
pub struct Server {
    listener: UnixListener,
    options: ServerOptions,
    admission: Admission,
}

impl Server {
    /// Binds the socket, readable and writable for its owner and the group only. A socket that a daemon left
    /// that is no more is replaced.
    ///
    /// # Errors
    /// A sentence: another daemon answers there, the group is unknown, the directory cannot be written.
    pub fn bind(options: ServerOptions) -> Result<Self> {
        let path = &options.socket;
        remove_stale(path)?;
        let group = options.group.as_deref().map(find_group).transpose().map_err(|error| anyhow!(error))?;
        let listener = UnixListener::bind(path)
            .with_context(|| format!("the socket {} cannot be made; check that its directory exists and can be written, or set socket in the configuration", path.display()))?;
        // Owner first, mode second: at no time may a group that is not the configured one connect.
        if let Some(group) = &group {
            std::os::unix::fs::chown(path, None, Some(group.gid)).with_context(|| {
                format!("the socket {} cannot be given to the group {}", path.display(), group.name)
            })?;
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
            .with_context(|| format!("the permissions of the socket {} cannot be set", path.display()))?;
        let admission = Admission { own_uid: rustix::process::geteuid().as_raw(), group };
        Ok(Self { listener, options, admission })
    }

    /// Serves until `stop`, then stops accepting, ends long polls, shuts the service down and waits for what is
    /// running, all within the grace. Removes the socket.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn run(self, service: Arc<dyn Service>, stop: CancellationToken) -> Result<()> {
        let tasks = TaskTracker::new();
        let context = Context {
            service: service.clone(),
            defaults: Arc::new(self.options.defaults),
            tasks: tasks.clone(),
            stopping: stop.clone(),
        };
        let app = router(context, self.admission).into_make_service_with_connect_info::<Client>();
        let serving = axum::serve(self.listener, app).with_graceful_shutdown(stop.clone().cancelled_owned());
        let mut serving = tokio::spawn(serving.into_future());
        tokio::select! {
            // First: an idle API has ended at the same moment, because of this.
            biased;
            () = stop.cancelled() => {}
            ended = &mut serving => {
                ended.context("the local API ended")?.context("the local API cannot be served")?;
                bail!("the local API ended before it was told to");
            }
        }
        tasks.close();
        let orderly = async {
            service.shutdown().await;
            tasks.wait().await;
            let served = (&mut serving).await;
            served.context("the local API ended")?.context("the local API cannot be served")
        };
        let outcome = tokio::time::timeout(self.options.grace, orderly).await;
        serving.abort();
        remove_own(&self.options.socket);
        outcome.unwrap_or_else(|_| {
            tracing::warn!(
                grace_s = self.options.grace.as_secs(),
                "requests were still running at the end of the grace"
            );
            Ok(())
        })
    }
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("{} cannot be looked at", path.display())),
        Ok(found) if !found.file_type().is_socket() => {
            bail!(
                "{} is in the way of the socket and is none; remove it or set socket in the configuration",
                path.display()
            )
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => bail!(
            "another daemon answers on {}; stop it, or give this one its own data_dir, runtime_dir and listen in the configuration",
            path.display()
        ),
        Err(_) => std::fs::remove_file(path)
            .with_context(|| format!("the old socket {} cannot be removed", path.display())),
    }
}

/// Removes the socket at the end, so that clients are told at once that there is no daemon.
fn remove_own(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        if error.kind() != std::io::ErrorKind::NotFound {
            tracing::warn!(path = %path.display(), %error, "the socket cannot be removed");
        }
    }
}

/// What is known of the client of a connection; `None` when the kernel did not say.
#[derive(Debug, Clone)]
struct Client(Option<Peer>);

impl Connected<IncomingStream<'_, UnixListener>> for Client {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|credentials| Peer::of(&credentials)))
    }
}

async fn admit(
    State(admission): State<Arc<Admission>>,
    ConnectInfo(Client(peer)): ConnectInfo<Client>,
    request: Request,
    next: Next,
) -> Response {
    let unknown = || Refusal::from(Daemon::UnknownUser);
    match peer.ok_or_else(unknown).and_then(|peer| admission.check(&peer)) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            tracing::warn!(reason = %refusal.message, "a client of the local API was refused");
            problem(StatusCode::FORBIDDEN, refusal)
        }
    }
}

async fn no_route(request: Request) -> Response {
    let refusal =
        Wrong::Route { method: request.method().to_string(), path: request.uri().path().to_owned() }.into();
    problem(StatusCode::NOT_FOUND, refusal)
}

async fn no_method(request: Request) -> Response {
    problem(
        StatusCode::METHOD_NOT_ALLOWED,
        Wrong::Method { method: request.method().to_string(), path: request.uri().path().to_owned() }.into(),
    )
}

fn router(context: Context, admission: Admission) -> Router {
    let replication = Router::new()
        .route("/replicate", post(h::replicate))
        .route("/unreplicate", post(h::unreplicate))
        .route("/status", get(h::status))
        .route("/points", get(h::points).post(h::take_point))
        .route("/points/pin", post(h::pin_point))
        .route("/network", get(h::network).post(h::set_network))
        .route("/settings", get(h::settings).post(h::modify))
        .route("/rename", post(h::rename))
        .route("/suspend", post(h::suspend))
        .route("/resume", post(h::resume))
        .route("/resync", post(h::resync))
        .route("/failover", get(h::preflight).post(h::failover))
        .route("/failover/revert", post(h::revert_failover))
        .route("/failover/commit", post(h::commit_failover))
        .route("/failover/keep", post(h::keep_copy))
        .route("/claim", delete(h::forget_claim));
    let routes = Router::new()
        .route("/host", get(h::host))
        .route("/host/reload", post(h::reload))
        .route("/vms", get(h::list_vms).post(h::define_vm))
        .route("/vms/{vm}", get(h::show_vm).delete(h::remove_vm))
        .route("/vms/{vm}/start", post(h::start_vm))
        .route("/vms/{vm}/stop", post(h::stop_vm))
        .nest("/vms/{vm}", replication)
        .route("/adopt", post(h::adopt_vm))
        .route("/authorizations", get(h::auth_list).post(h::auth_add))
        .route("/authorizations/{id}", delete(h::auth_remove))
        .route("/peers", get(h::peers))
        .route("/peers/{id}/rebind", post(h::rebind_peer))
        .route("/connection-test", post(h::connection_test))
        .route("/status", get(h::status_all))
        .route("/jobs", get(h::jobs))
        .route("/jobs/{id}", get(h::job).delete(h::cancel_job))
        .route("/jobs/{id}/watch", get(h::watch_job))
        .route("/store", get(storage::list))
        .route("/store/check", post(storage::check))
        .route("/store/check/{id}", get(storage::check_result))
        .route("/store/repair", post(storage::repair))
        .route("/store/repair/{id}", get(storage::repair_result))
        .route("/store/adopt", post(storage::adopt))
        .route("/store/remove", post(storage::remove));
    Router::new()
        .nest("/v1", routes)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(super::MAX_BODY))
        .layer(from_fn_with_state(Arc::new(admission), admit))
        .with_state(context)
}
