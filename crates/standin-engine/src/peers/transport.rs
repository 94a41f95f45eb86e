//! How a connection to another host comes about.

use async_trait::async_trait;
use standin_wire::{Connection, Error, Hello, Identity};

/// Connects to other hosts. Only [`super::Peers`] calls it.
///
/// | Implementation | For |
/// | --- | --- |
/// | [`TlsTransport`] | the daemon |
/// | over [`standin_wire::memory::Network`] | tests, without a network and in simulated time |
///
/// A connection is proven: its peer's certificate is of a trusted authority and for the address. It ends by itself when
/// the peer is not heard for the wire's idle timeout.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Connects to `address` (`host:port`).
    ///
    /// # Errors
    /// As [`standin_wire::connect_with`].
    async fn connect(&self, address: &str) -> Result<Connection, Error>;
}

/// Mutual TLS over TCP.
pub struct TlsTransport {
    identity: Identity,
    hello: Hello,
}

impl TlsTransport {
    /// Connects as the host of this certificate, which introduces itself with this hello.
    #[must_use]
    pub fn new(identity: Identity, hello: Hello) -> Self {
        Self { identity, hello }
    }
}

#[async_trait]
impl Transport for TlsTransport {
    async fn connect(&self, address: &str) -> Result<Connection, Error> {
        standin_wire::connect(address, &self.identity, self.hello.clone()).await
    }
}
