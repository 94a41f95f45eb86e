//! HTTP/1.1 on TCP and TLS, with limits on everything that a client can take.
//!
//! ```text
//! accept ─> gate (connections in all, per address) ─> TLS ─> hyper ─> exchange: path, who, body, call, reply
//!                                                     └─ watch: heads and idle connections in time
//! ```
//!
//! A request is done in this order: unknown path 404, too long 413, who sent it 401, body 408 or 413, unsealing
//! 400, then the endpoint. Nothing of a body is kept in memory for somebody unknown, except the small one that
//! could be an Identify which needs no log-in.

mod body;
mod exchange;
mod gate;
pub mod tls;
mod watch;

pub use gate::Gate;
pub use tls::{TlsFiles, TlsIdentity};

use crate::auth::{Authenticator, Channel};
use crate::endpoint::Endpoint;
use crate::settings::Limits;
use exchange::Connection;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use watch::{Progress, Watched};

/// What a listener listens on.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// The certificate; `None` for plain HTTP.
    pub tls: Option<Arc<TlsIdentity>>,
    /// What clients can take. Connections and bodies are counted by the gate.
    pub limits: Limits,
    /// Counts over all listeners that share it.
    pub gate: Arc<Gate>,
}

/// A bound port.
pub struct Listener {
    tcp: TcpListener,
    shared: Arc<Shared>,
}

/// What all connections of a listener have.
struct Shared {
    endpoints: Vec<Arc<dyn Endpoint>>,
    authenticator: Arc<Authenticator>,
    config: ListenerConfig,
}

impl Listener {
    /// Takes the port.
    ///
    /// # Errors
    /// What the system said; the caller names the address.
    pub async fn bind(
        config: ListenerConfig,
        endpoints: Vec<Arc<dyn Endpoint>>,
        authenticator: Arc<Authenticator>,
    ) -> io::Result<Self> {
        let tcp = TcpListener::bind(config.address).await?;
        Ok(Self { tcp, shared: Arc::new(Shared { endpoints, authenticator, config }) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system said.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves until `stop` is cancelled; then requests under way get the grace of the limits.
    pub async fn serve(self, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let hard_stop = CancellationToken::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.tcp.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    let work = meet(Arc::clone(&self.shared), stream, from, stop.clone());
                    let hard_stop = hard_stop.clone();
                    connections.spawn(async move {
                        tokio::select! { () = hard_stop.cancelled() => {}, () = work => {} }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the management API could not be accepted");
                    // Out of file descriptors, mostly: wait for some to come back.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
        drop(self.tcp);
        connections.close();
        if tokio::time::timeout(self.shared.config.limits.grace, connections.wait()).await.is_err() {
            tracing::warn!(connections = connections.len(), "requests of the management API were cut off");
            hard_stop.cancel();
            connections.wait().await;
        }
    }
}

/// Serves one connection to its end.
async fn meet(shared: Arc<Shared>, stream: TcpStream, from: SocketAddr, stop: CancellationToken) {
    let Some(_place) = shared.config.gate.enter(from.ip()) else {
        tracing::debug!(%from, "a connection was closed: too many are open");
        return;
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%from, %error, "TCP_NODELAY could not be set");
    }
    let Some(identity) = shared.config.tls.clone() else {
        return serve(&shared, stream, Channel { from, tls: None }, stop).await;
    };
    let handshake = identity.accept(stream);
    let accepted = tokio::select! {
        () = stop.cancelled() => return,
        accepted = tokio::time::timeout(shared.config.limits.handshake_time, handshake) => accepted,
    };
    match accepted {
        Ok(Ok((stream, facts))) => serve(&shared, stream, Channel { from, tls: Some(facts) }, stop).await,
        Ok(Err(error)) => tracing::debug!(%from, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%from, "a TLS handshake took too long"),
    }
}

async fn serve<S>(shared: &Arc<Shared>, stream: S, channel: Channel, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &shared.config.limits;
    let progress = Arc::new(Progress::new());
    let from = channel.from;
    let connection = Arc::new(Connection::new(Arc::clone(shared), channel, Arc::clone(&progress)));
    let service = service_fn(move |request| {
        let connection = Arc::clone(&connection);
        async move { connection.exchange(request).await }
    });
    let mut builder = http1::Builder::new();
    // `watch` keeps the time of heads: hyper's own limit counts the pause between two requests as well.
    builder.header_read_timeout(None).max_buf_size(limits.head.max(8192)).half_close(false);
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&progress)));
    let http = builder.serve_connection(io, service);
    let mut http = std::pin::pin!(http);
    let slow = progress.expire(limits.head_time, limits.idle_time);
    let mut slow = std::pin::pin!(slow);
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = &mut http => {
                if let Err(error) = ended {
                    tracing::debug!(%from, %error, "a connection of the management API ended early");
                }
                return;
            }
            () = &mut slow => {
                tracing::debug!(%from, "a connection of the management API was closed: too slow, or idle");
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                http.as_mut().graceful_shutdown();
            }
        }
    }
}
