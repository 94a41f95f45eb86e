//! What can go wrong with an NBD connection. Cloneable, because one dead connection fails many requests.

use std::io;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// A failure of the NBD client or server. `target` is `export "NAME" at ADDRESS` throughout.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket could not be opened.
    #[error("connect to NBD {target}; check that the VM still runs and still exports the disk")]
    Connect {
        /// Which export, where.
        target: String,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The negotiation failed: unknown export, a context that is not offered, no structured replies.
    #[error("negotiate NBD {target}: {message}")]
    Handshake {
        /// Which export, where.
        target: String,
        /// What the server said, or what was missing.
        message: String,
    },
    /// The peer broke the protocol; the connection is closed, nothing read in this reply is usable.
    #[error(
        "NBD {target} broke the protocol: {message}; the connection was closed, read the range again on a new one"
    )]
    Protocol {
        /// Which export, where.
        target: String,
        /// What it did.
        message: String,
    },
    /// The server answered a request with an error. The connection goes on.
    #[error("NBD {target} refused {request}: error {errno}, {message}")]
    Server {
        /// Which export, where.
        target: String,
        /// What was asked: command, offset and length.
        request: String,
        /// The server's error number, as on Linux.
        errno: u32,
        /// The server's text, or the name of the number.
        message: String,
    },
    /// The connection is gone. All requests that were pending failed with it; connect again.
    #[error("the connection to NBD {target} is closed: {reason}")]
    Closed {
        /// Which export, where.
        target: String,
        /// Who closed it, or which I/O error it was.
        reason: String,
    },
    /// The peer did not answer in time.
    #[error("NBD {target}: {step} took longer than {limit:?}; check whether the server hangs")]
    Timeout {
        /// Which export, where.
        target: String,
        /// What took so long.
        step: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The caller asked for something that cannot be asked of this export. Nothing was sent.
    #[error("NBD {target}: {message}")]
    Request {
        /// Which export, where.
        target: String,
        /// What was wrong with it.
        message: String,
    },
    /// The server's listening socket failed.
    #[error("accept NBD connections on {address}")]
    Listen {
        /// The socket.
        address: String,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
}
