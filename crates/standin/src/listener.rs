//! The TCP port of replication and enrolment: takes connections, lets each prove who it is in a task of its own,
//! and hands it to the engine or to the certificate authority.

use crate::config::Config;
use anyhow::{Context, Result};
use standin_engine::Engine;
use standin_wire::{Accepted, Hello, Identity, PkiDir, accept, enroll};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections that have not proven who they are yet. More wait in the kernel's queue: strangers cannot take
/// the daemon's memory.
const STRANGERS: usize = 64;

/// How often the certificates' files are looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(60);

/// A bound port.
pub struct Listener {
    tcp: TcpListener,
}

impl Listener {
    /// Takes the port.
    ///
    /// # Errors
    /// A sentence that names the address and what to do.
    pub async fn bind(config: &Config) -> Result<Self> {
        let tcp = TcpListener::bind(config.listen).await.with_context(|| {
            format!(
                "the address {} cannot be listened on; end what uses it, or set listen in the configuration to \
                 an address of this host with a free port",
                config.listen
            )
        })?;
        Ok(Self { tcp })
    }

    /// Serves it for the rest of the process.
    pub fn serve(self, engine: Arc<Engine>, identity: Identity, hello: Hello, pki: PkiDir) {
        let strangers = Arc::new(Semaphore::new(STRANGERS));
        tokio::spawn(renewed(identity.clone()));
        let host = Arc::new(Host { engine, identity, hello, pki });
        tokio::spawn(async move {
            loop {
                // Never closed.
                let Ok(permit) = Arc::clone(&strangers).acquire_owned().await else { return };
                match self.tcp.accept().await {
                    Ok((stream, from)) => {
                        let host = Arc::clone(&host);
                        tokio::spawn(async move {
                            host.meet(stream, from).await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        // Out of file descriptors, mostly: wait for some to come back.
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                }
            }
        });
    }
}

/// Takes certificates that were renewed from their files: new connections use them, those that are up go on.
async fn renewed(identity: Identity) {
    let mut timer = tokio::time::interval(CERTIFICATES_EVERY);
    timer.tick().await;
    loop {
        timer.tick().await;
        match identity.reload() {
            Ok(false) => {}
            Ok(true) => tracing::info!(valid_until = %identity.not_after(), "certificates were renewed"),
            Err(error) => tracing::error!(
                error = %standin_engine::error::chain(&error), remedy = %error.remedy(),
                "the certificates in the files cannot be used; the ones in use stay"
            ),
        }
    }
}

struct Host {
    engine: Arc<Engine>,
    identity: Identity,
    hello: Hello,
    pki: PkiDir,
}

impl Host {
    async fn meet(&self, stream: TcpStream, from: SocketAddr) {
        match accept(stream, &self.identity, self.hello.clone()).await {
            Ok(Accepted::Replication(connection)) => self.engine.accept(connection),
            Ok(Accepted::Enrolment(session)) => match enroll::serve(session, &self.pki).await {
                Ok(report) => tracing::info!(
                    names = report.names.join(", "), renewed = report.renewed, %from, "a certificate was issued"
                ),
                Err(error) => tracing::warn!(%from, %error, "an enrolment was not granted"),
            },
            // Whoever was there has gone: a look at the port, or a daemon that ended at the wrong moment. Nobody need act.
            Err(error @ (standin_wire::Error::Closed { .. } | standin_wire::Error::Io { .. })) => {
                let reason = standin_engine::error::chain(&error);
                tracing::debug!(%from, %reason, "a connection ended before it was let in");
            }
            Err(error) => {
                let reason = standin_engine::error::chain(&error);
                tracing::warn!(%from, %reason, remedy = %error.remedy(), "a connection was not let in");
            }
        }
    }
}
