//! Where an export is.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The address of an NBD server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A unix stream socket.
    Unix(PathBuf),
    /// TCP.
    Tcp(SocketAddr),
}

/// One export of an NBD server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Where the server listens.
    pub address: Address,
    /// The export's name; empty is the server's default export.
    pub export: String,
}

impl Target {
    /// An export behind a unix socket.
    pub fn unix(path: impl Into<PathBuf>, export: impl Into<String>) -> Self {
        Self { address: Address::Unix(path.into()), export: export.into() }
    }

    /// An export behind TCP.
    pub fn tcp(address: SocketAddr, export: impl Into<String>) -> Self {
        Self { address: Address::Tcp(address), export: export.into() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "export {:?} at {}", self.export, self.address)
    }
}
