//! `standin serve`: puts the daemon together, runs it until it is told to stop, and takes it apart in order.
//!
//! ```text
//! log -> directories -> lock of data_dir -> service (engine) -> socket -> ready
//!                                                                  |  SIGTERM, SIGINT
//! lock freed <- socket removed <- service shut down <- requests end <-
//! ```
//!
//! SIGHUP takes certificates from their files again. A second SIGTERM or SIGINT ends the process at once.

use crate::api::Service;
use crate::api::server::{Server, ServerOptions};
use crate::config::Config;
use crate::service_impl::build_service;
use anyhow::{Context, Result};
use standin_durable::{DirLock, Files, Mode};
use standin_model::settings::RelationshipSettings;
use std::path::Path;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Runs the daemon in the foreground until SIGTERM or SIGINT.
///
/// # Errors
/// Why it could not start, in a sentence with what to do.
pub fn run(config: Config) -> Result<()> {
    crate::logging::init(&config)?;
    // A client that goes away must not end the daemon; Rust ignores SIGPIPE already.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("the asynchronous runtime cannot be started")?;
    let outcome = runtime.block_on(serve(config));
    // Blocking work that did not end within the grace does not hold the exit up.
    runtime.shutdown_background();
    outcome
}

async fn serve(config: Config) -> Result<()> {
    prepare(&config)?;
    let _lock = DirLock::take(&config.data_dir)
        .with_context(|| format!("the data directory {} cannot be used", config.data_dir.display()))?;
    // Before anything that takes time: a stop during the start is then a stop, not a kill.
    let stop = stop_on_signals()?;
    raise_file_limit();
    let service = build_service(config.clone()).await?;
    let server = Server::bind(ServerOptions {
        socket: config.socket.clone(),
        group: config.socket_group.clone(),
        defaults: RelationshipSettings {
            scratch_reserve: config.scratch_reserve,
            ..RelationshipSettings::default()
        },
        grace: config.shutdown_grace,
    });
    let server = match server {
        Ok(server) => server,
        Err(error) => {
            service.shutdown().await;
            return Err(error);
        }
    };
    tokio::spawn(reload_on_hangup(service.clone(), signal(SignalKind::hangup())?));
    tracing::info!(
        host = %config.host_name,
        socket = %config.socket.display(),
        data_dir = %config.data_dir.display(),
        "standin {} is ready",
        env!("CARGO_PKG_VERSION")
    );
    tell_systemd("READY=1");
    let outcome = server.run(service, stop).await;
    tracing::info!("standin has ended; VMs go on");
    outcome
}

/// A point with many layers is served from all of their files at once: the soft limit of open files, often 1024,
/// is raised to the hard one.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Makes the directories that are the daemon's own, for its eyes only where secrets are.
fn prepare(config: &Config) -> Result<()> {
    make_dir(&config.data_dir, Mode::Owner, "data_dir")?;
    make_dir(&config.runtime_dir, Mode::Everybody, "runtime_dir")?;
    make_dir(&config.replica_storage, Mode::Owner, "replica_storage")?;
    make_dir(&config.scratch_dir, Mode::Owner, "scratch_dir")?;
    if let Some(parent) = config.socket.parent() {
        make_dir(parent, Mode::Everybody, "socket")?;
    }
    Ok(())
}

fn make_dir(path: &Path, mode: Mode, key: &str) -> Result<()> {
    Files::default().make_directory(path, mode).with_context(|| {
        format!(
            "the directory {} cannot be made; make it yourself or set {key} in the configuration",
            path.display()
        )
    })
}

/// A token that the first SIGTERM or SIGINT cancels; the second one ends the process.
fn stop_on_signals() -> Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be watched for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be watched for")?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        tracing::info!("stopping; a second signal ends it at once");
        tell_systemd("STOPPING=1");
        token.cancel();
        either(&mut terminate, &mut interrupt).await;
        tracing::warn!("ended at once; what was running is taken up again at the next start");
        std::process::exit(130);
    });
    Ok(stop)
}

async fn either(first: &mut Signal, second: &mut Signal) {
    tokio::select! {
        _ = first.recv() => {}
        _ = second.recv() => {}
    }
}

async fn reload_on_hangup(service: Arc<dyn Service>, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        match service.reload().await {
            Ok(()) => tracing::info!("certificates are taken from their files again"),
            Err(refusal) => {
                tracing::error!(remedy = %refusal.remedy, "certificates cannot be reloaded: {}", refusal.message);
            }
        }
    }
}

/// Tells systemd how far the daemon is, where systemd started it (`Type=notify`).
fn tell_systemd(state: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(target) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match target.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&target),
    };
    let sent = address.and_then(|to| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &to));
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd cannot be told {state}");
    }
}
