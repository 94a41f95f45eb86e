//! The seam between listeners and protocols.

use async_trait::async_trait;
use bytes::Bytes;
use hyper::{HeaderMap, Method};
use standin_cim::Caller;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

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

    /// Drops what clients left behind and will not ask for any more. Called now and then.
    fn sweep(&self) {}
}

/// Has the endpoints swept at each `period`, until it is to stop.
pub async fn keep_swept(endpoints: Vec<Arc<dyn Endpoint>>, period: Duration, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
        for endpoint in &endpoints {
            endpoint.sweep();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Counting(AtomicUsize);

    #[async_trait]
    impl Endpoint for Counting {
        fn protocol(&self) -> &'static str {
            "none"
        }
        fn serves(&self, _: &str) -> bool {
            false
        }
        fn anonymous(&self, _: &str, _: &HeaderMap, _: &Bytes) -> Option<Response> {
            None
        }
        async fn call(&self, _: Request) -> Response {
            self.refusal(400, "")
        }
        fn refusal(&self, status: u16, _: &str) -> Response {
            Response { status, content_type: "", headers: HeaderMap::new(), body: Bytes::new() }
        }
        fn sweep(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_are_swept_until_the_end() {
        let (endpoint, stop) = (Arc::new(Counting::default()), CancellationToken::new());
        let all: Vec<Arc<dyn Endpoint>> = vec![endpoint.clone()];
        let clock = tokio::spawn(keep_swept(all, Duration::from_secs(30), stop.clone()));
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(endpoint.0.load(Ordering::Relaxed), 3);
        stop.cancel();
        clock.await.unwrap();
    }
}
