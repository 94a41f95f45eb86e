//! A listener without TLS and users' files: the user of Basic is who asks.

use crate::model::caller;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use standin_access::endpoint::{Endpoint, Request};
use standin_cimxml::CimXml;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Serves until the runtime ends.
pub async fn serve(endpoint: CimXml) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint = Arc::new(endpoint);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let endpoint = endpoint.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(endpoint.clone(), request));
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // A client that goes away in the middle is no failure of the server.
                served.await.ok();
            });
        }
    });
    address
}

async fn answer(
    endpoint: Arc<CimXml>,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    // "ann:x" and "bob:x"
    let user = match head.headers.get("authorization").and_then(|value| value.to_str().ok()) {
        Some("Basic YW5uOng=") => "ann",
        Some("Basic Ym9iOng=") => "bob",
        _ => {
            let mut response = hyper::Response::new(Full::default());
            *response.status_mut() = hyper::StatusCode::UNAUTHORIZED;
            response.headers_mut().insert("www-authenticate", "Basic realm=\"test\"".parse().unwrap());
            return Ok(response);
        }
    };
    let request = Request {
        method: head.method,
        path: head.uri.path().to_owned(),
        headers: head.headers,
        body,
        caller: caller(user),
    };
    let answered = endpoint.call(request).await;
    let mut response = hyper::Response::new(Full::new(answered.body));
    *response.status_mut() = hyper::StatusCode::from_u16(answered.status).unwrap();
    *response.headers_mut() = answered.headers;
    response.headers_mut().insert("content-type", answered.content_type.parse().unwrap());
    Ok(response)
}
