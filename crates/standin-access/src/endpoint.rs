//! The seam between listeners and protocols.

use async_trait::async_trait;
use bytes::Bytes;
use hyper::{HeaderMap, Method};
use standin_cim::Caller;

/// A request that is complete, authenticated and unsealed.
#[derive(Debug, Clone)]
pub struct Request {
    /// The HTTP method.
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// The headers; `Content-Type` and `Content-Length` are those of the unsealed body.
    pub headers: HeaderMap,
    /// The body, at most as long as the listener's limit.
    pub body: Bytes,
    /// Who sent it.
    pub caller: Caller,
}

/// The answer of a protocol. The listener adds length, connection and sealing.
#[derive(Debug, Clone)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The type of the body, with its charset.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A protocol behind a listener.
///
/// # Implementations
///
/// | Where | What |
/// | --- | --- |
/// | `standin-wsman` | WS-Management on `/wsman` |
/// | `standin-cimxml` | CIM-XML on any path |
#[async_trait]
pub trait Endpoint: Send + Sync + 'static {
    /// The name of the protocol, as `Caller::protocol` has it.
    fn protocol(&self) -> &'static str;

    /// Whether a request to this path is for this protocol; others are answered with 404 before anybody is
    /// asked who he is.
    fn serves(&self, path: &str) -> bool;

    /// Whether a request is answered without authentication (an Identify that asks for it by its header), and
    /// with what.
    fn anonymous(&self, path: &str, headers: &HeaderMap, body: &Bytes) -> Option<Response>;

    /// Answers a request. Errors of the protocol are responses.
    async fn call(&self, request: Request) -> Response;

    /// The answer to a request that the listener refused: too large (413), malformed (400), too slow (408). The
    /// protocol says it in its own words where it has some.
    fn refusal(&self, status: u16, reason: &str) -> Response;
}
