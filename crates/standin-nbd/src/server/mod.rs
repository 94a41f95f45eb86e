//! A read-only NBD server on a unix socket: it serves a recovery point to QEMU, as the backing of an overlay.
//!
//! ```text
//! listener --accept (at most 64 connections)--> negotiate --> transmit --> Source
//! ```
//!
//! It offers fixed newstyle negotiation, structured replies, `base:allocation`, LIST, INFO, GO, EXPORT_NAME and
//! multi-connection. Everything that would write is answered with EPERM. No client can take more memory than the
//! bounds in `transmit`. The daemon's store calls it; its clients are QEMU and `qemu-img`.

mod negotiate;
mod transmit;

use crate::Error;
use crate::extents::StatusExtent;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to negotiate.
const NEGOTIATION_LIMIT: Duration = Duration::from_secs(10);
/// How long connections may finish what they are answering when the server stops.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Pause after an accept that failed for want of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What an export is made of. Its data and size never change while it is served. Calls run side by side.
///
/// Implementations: the store's recovery points; a vector of bytes in tests.
#[async_trait]
pub trait Source: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Exactly `length` bytes at `offset`, inside the size; at most [`crate::MAX_READ`].
    async fn read(&self, offset: u64, length: u32) -> io::Result<Bytes>;

    /// The extents of the range in `base:allocation` ([`crate::FLAG_HOLE`], [`crate::FLAG_ZERO`]), from `offset`
    /// on without gaps. May stop early, but not before the first byte; may go on past the end of the range.
    async fn status(&self, offset: u64, length: u64) -> io::Result<Vec<StatusExtent>>;
}

/// The exports of a server, by name.
type Exports = Arc<BTreeMap<String, Arc<dyn Source>>>;

/// The server. It has no state of its own: see [`Server::serve`].
#[derive(Debug, Clone, Copy)]
pub struct Server;

impl Server {
    /// Serves `exports` on `listener` until `stop` becomes true or its sender is dropped. Then no connection is
    /// accepted any more, requests that are being answered are finished (at most 5 s), and it returns with every
    /// connection closed. The socket's file is the caller's to remove.
    ///
    /// An export may be named by the empty string: it is the default export.
    ///
    /// # Errors
    /// [`Error::Listen`] when the listening socket itself fails. Connections end with their clients then, or
    /// after 5 s.
    pub async fn serve(
        listener: UnixListener,
        exports: BTreeMap<String, Arc<dyn Source>>,
        stop: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let exports = Arc::new(exports);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        let mut stopped = stop.clone();
        let result = loop {
            let accepted = tokio::select! {
                () = wait_for(&mut stopped) => break Ok(()),
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "the task of an NBD connection broke; report this as a bug");
                    }
                    continue;
                }
                accepted = accept(&listener, &places) => accepted,
            };
            match accepted {
                Ok((stream, place)) => {
                    let (exports, stop) = (Arc::clone(&exports), stop.clone());
                    connections.spawn(async move {
                        connection(stream, &exports, stop).await;
                        drop(place);
                    });
                }
                Err(error) if is_passing(&error) => {
                    tracing::warn!(%error, "accepting an NBD connection failed; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Err(error) => break Err(listen_error(&listener, error)),
            }
        };
        drop(listener);
        let finished = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_LIMIT, finished).await.is_err() {
            tracing::warn!(limit = ?STOP_LIMIT, "NBD clients did not take their answers; connections closed");
            connections.shutdown().await;
        }
        result
    }
}

/// Resolves when the server is to stop.
async fn wait_for(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender was dropped: nobody could ever stop us, so that counts as stop.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn accept(
    listener: &UnixListener,
    places: &Arc<Semaphore>,
) -> io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

/// Failures that pass: the client gave up, or file descriptors and memory are short just now.
fn is_passing(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    let kind = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted | io::ErrorKind::OutOfMemory
    );
    kind || matches!(error.raw_os_error(), Some(ENFILE | EMFILE | ENOBUFS))
}

fn listen_error(listener: &UnixListener, error: io::Error) -> Error {
    let address = match listener.local_addr() {
        Ok(address) => format!("{address:?}"),
        Err(_) => "a unix socket".to_owned(),
    };
    Error::Listen { address, source: Arc::new(error) }
}

async fn connection(mut stream: UnixStream, exports: &Exports, mut stop: watch::Receiver<bool>) {
    let negotiation = tokio::time::timeout(NEGOTIATION_LIMIT, negotiate::negotiate(&mut stream, exports));
    let negotiated = tokio::select! {
        () = wait_for(&mut stop) => return,
        negotiated = negotiation => negotiated,
    };
    let session = match negotiated {
        Ok(Ok(Some(session))) => session,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            tracing::debug!(%error, "an NBD client left during the negotiation");
            return;
        }
        Err(_) => {
            tracing::warn!(limit = ?NEGOTIATION_LIMIT, "an NBD client did not finish the negotiation; closed");
            return;
        }
    };
    let export = session.name.clone();
    if let Err(error) = transmit::transmit(stream, session, stop).await {
        tracing::warn!(export, %error, "an NBD connection ended out of order");
    }
}
