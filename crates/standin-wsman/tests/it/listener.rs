//! A listener as small as it can be: HTTP, one user with Basic.

use crate::model::{World, caller};
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use standin_access::endpoint::{Endpoint, Request};
use standin_cim::Role;
use standin_wsman::Service;
use std::convert::Infallible;
use std::sync::Arc;

pub const USER: &str = "anna";
pub const PASSWORD: &str = "correct-horse";

/// Serves a world until the test ends; returns the port.
pub async fn serve(world: &World) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = world.service.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let answer = service_fn(move |request| answer(service.clone(), request));
                let stream = hyper_util::rt::TokioIo::new(stream);
                // A client that goes away in the middle is no failure of a test.
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(stream, answer).await;
            });
        }
    });
    port
}

async fn answer(
    service: Arc<Service>,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let path = parts.uri.path().to_owned();
    let expected = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let known = parts.headers.get(AUTHORIZATION).is_some_and(|given| *given == format!("Basic {expected}"));
    let reply = if !service.serves(&path) {
        return Ok(status(404));
    } else if let Some(reply) = service.anonymous(&path, &parts.headers, &body) {
        reply
    } else if known {
        let caller = caller(USER, Role::Administrator);
        service.call(Request { method: parts.method, path, headers: parts.headers, body, caller }).await
    } else {
        return Ok(status(401));
    };
    let mut answer = hyper::Response::new(Full::new(reply.body));
    *answer.status_mut() = hyper::StatusCode::from_u16(reply.status).unwrap();
    *answer.headers_mut() = reply.headers;
    answer.headers_mut().insert(CONTENT_TYPE, reply.content_type.parse().unwrap());
    Ok(answer)
}

fn status(code: u16) -> hyper::Response<Full<Bytes>> {
    let mut answer = hyper::Response::new(Full::new(Bytes::new()));
    *answer.status_mut() = hyper::StatusCode::from_u16(code).unwrap();
    answer.headers_mut().insert(WWW_AUTHENTICATE, "Basic realm=\"WSMAN\"".parse().unwrap());
    answer
}
