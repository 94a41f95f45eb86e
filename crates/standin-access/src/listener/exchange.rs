//! One request and its reply.

use super::Shared;
use super::body::{self, Refused};
use super::watch::Progress;
use crate::auth::{Channel, ConnectionState, Decision};
use crate::endpoint::{Endpoint, Request, Response};
use crate::seal::Envelope;
use crate::users::User;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use hyper::{HeaderMap, Method, StatusCode};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::Mutex;

/// The longest body that is kept of somebody unknown: an Identify that needs no log-in.
const UNKNOWN_BODY: usize = 16 << 10;

type Reply = hyper::Response<Full<Bytes>>;

/// A connection: its state lives from request to request.
pub(super) struct Connection {
    shared: Arc<Shared>,
    channel: Channel,
    progress: Arc<Progress>,
    /// Requests of a connection come one after the other: nobody ever waits here.
    state: Mutex<ConnectionState>,
}

/// A user whose request goes on.
struct Known {
    user: Arc<User>,
    proof: &'static str,
    completed: Option<Option<String>>,
}

impl Connection {
    pub fn new(shared: Arc<Shared>, channel: Channel, progress: Arc<Progress>) -> Self {
        Self { shared, channel, progress, state: Mutex::new(ConnectionState::default()) }
    }

    /// Answers a request, whatever it is.
    pub async fn exchange(&self, request: hyper::Request<Incoming>) -> Result<Reply, Infallible> {
        self.progress.working();
        let reply = self.answer(request).await;
        self.progress.done();
        Ok(reply)
    }

    async fn answer(&self, request: hyper::Request<Incoming>) -> Reply {
        let (parts, incoming) = request.into_parts();
        let limits = &self.shared.config.limits;
        let path = parts.uri.path();
        let Some(endpoint) = self.shared.endpoints.iter().find(|endpoint| endpoint.serves(path)) else {
            return self
                .after_draining(incoming, &parts.headers, plain(404, "there is nothing at this path"))
                .await;
        };
        let said =
            parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if said.is_some_and(|said| said > limits.body as u64) {
            return closing(refusal(endpoint, Refused::TooLong));
        }
        let mut state = self.state.lock().await;
        let known = match self.shared.authenticator.decide(&self.channel, &mut state, &parts.headers).await {
            Decision::Accepted { user, proof, completed } => Known { user, proof, completed },
            Decision::Challenge(offers) => {
                let keep = state.is_negotiating();
                drop(state);
                return self.unknown(endpoint, &parts, incoming, &offers, keep).await;
            }
            Decision::Later(pause) => {
                let mut reply = challenge(&[]);
                let seconds = HeaderValue::from(pause.as_secs().max(1));
                reply.headers_mut().insert(RETRY_AFTER, seconds);
                return closing(reply);
            }
        };
        let gate = &self.shared.config.gate;
        let read = match body::read(incoming, limits.body, limits.body_time, gate).await {
            Ok(read) => read,
            Err(refused) => return closing(refusal(endpoint, refused)),
        };
        if known.completed.is_some() && read.bytes.is_empty() && parts.method == Method::POST {
            // The log-in alone: such clients send nothing of value before they can seal it.
            return with_token(plain(200, ""), known.completed);
        }
        self.call(endpoint, parts, read.bytes.clone(), known, &mut state).await
    }

    /// Hands a request to its endpoint, unsealed; seals the reply if the request was sealed.
    async fn call(
        &self,
        endpoint: &Arc<dyn Endpoint>,
        mut parts: hyper::http::request::Parts,
        mut body: Bytes,
        known: Known,
        state: &mut ConnectionState,
    ) -> Reply {
        let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let envelope = content_type.and_then(Envelope::read);
        match (&envelope, state.sealer()) {
            (Some(envelope), Some(sealer)) => match envelope.open(sealer, &body) {
                Ok(opened) => {
                    body = opened.body.into();
                    retype(&mut parts.headers, &opened.content_type, body.len());
                }
                Err(error) => {
                    tracing::warn!(from = %self.channel.from, user = %known.user.name, %error, "a request was refused");
                    return closing(endpoint_reply(endpoint.refusal(400, &error.to_string())));
                }
            },
            (Some(_), None) => {
                let reason = "a sealed message needs a log-in by NTLM or Kerberos on the same connection";
                return closing(endpoint_reply(endpoint.refusal(400, reason)));
            }
            (None, Some(_)) if self.must_seal(known.proof) => {
                let reason = "over HTTP messages have to be sealed; use HTTPS, or let the client encrypt";
                return endpoint_reply(endpoint.refusal(403, reason));
            }
            (None, None) if self.must_seal(known.proof) => {
                let reason =
                    "over HTTP messages have to be sealed and this log-in did not ask for it; use HTTPS";
                return endpoint_reply(endpoint.refusal(403, reason));
            }
            (None, _) => {}
        }
        parts.headers.remove(AUTHORIZATION);
        let caller = self.shared.authenticator.caller(
            &known.user,
            known.proof,
            endpoint.protocol(),
            self.channel.from,
        );
        let request = Request {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            headers: parts.headers,
            body,
            caller,
        };
        let response = endpoint.call(request).await;
        let reply = match (envelope, state.sealer()) {
            (Some(envelope), Some(sealer)) => {
                match envelope.close(sealer, response.content_type, &response.body) {
                    Some(sealed) => sealed_reply(response, &envelope, sealed),
                    None => return closing(plain(500, "the reply could not be sealed")),
                }
            }
            _ => endpoint_reply(response),
        };
        with_token(reply, known.completed)
    }

    /// Basic over HTTP was allowed by name; what NTLM and Kerberos protect on HTTP they protect by sealing.
    fn must_seal(&self, proof: &str) -> bool {
        self.channel.tls.is_none() && proof != "basic" && !self.shared.authenticator.allow_unsealed_over_http
    }

    /// A request of nobody: an endpoint may answer it anyway, else 401.
    async fn unknown(
        &self,
        endpoint: &Arc<dyn Endpoint>,
        parts: &hyper::http::request::Parts,
        incoming: Incoming,
        offers: &[String],
        negotiating: bool,
    ) -> Reply {
        let limits = &self.shared.config.limits;
        if parts.headers.contains_key(EXPECT) && !negotiating {
            // The client has not sent its body and need not: hyper ends the connection.
            return closing(challenge(offers));
        }
        let body = match body::drain(incoming, UNKNOWN_BODY, limits.body, limits.body_time).await {
            Ok(body) => body,
            Err(refused) => return closing(refusal(endpoint, refused)),
        };
        let anonymous = !parts.headers.contains_key(AUTHORIZATION);
        let answer = body
            .filter(|_| anonymous)
            .and_then(|body| endpoint.anonymous(parts.uri.path(), &parts.headers, &body));
        answer.map_or_else(|| challenge(offers), endpoint_reply)
    }

    async fn after_draining(&self, incoming: Incoming, headers: &HeaderMap, reply: Reply) -> Reply {
        let limits = &self.shared.config.limits;
        if headers.contains_key(EXPECT) {
            return closing(reply);
        }
        match body::drain(incoming, 0, limits.body, limits.body_time).await {
            Ok(_) => reply,
            Err(_) => closing(reply),
        }
    }
}

/// The headers say what the unsealed body is.
fn retype(headers: &mut HeaderMap, content_type: &str, length: usize) {
    headers.remove(CONTENT_TYPE);
    if let Ok(value) = HeaderValue::from_str(content_type) {
        headers.insert(CONTENT_TYPE, value);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
}

fn plain(status: u16, text: &'static str) -> Reply {
    let mut reply = Reply::new(Full::new(Bytes::from_static(text.as_bytes())));
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if !text.is_empty() {
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=UTF-8"));
    }
    reply
}

fn challenge(offers: &[String]) -> Reply {
    let mut reply = plain(401, "");
    for offer in offers {
        if let Ok(value) = HeaderValue::from_str(offer) {
            reply.headers_mut().append(WWW_AUTHENTICATE, value);
        }
    }
    reply
}

fn refusal(endpoint: &Arc<dyn Endpoint>, refused: Refused) -> Reply {
    let (status, reason) = refused.status();
    endpoint_reply(endpoint.refusal(status, reason))
}

fn endpoint_reply(response: Response) -> Reply {
    let content_type = HeaderValue::from_static(response.content_type);
    reply_of(response.status, response.headers, content_type, response.body)
}

fn sealed_reply(response: Response, envelope: &Envelope, sealed: Vec<u8>) -> Reply {
    let content_type = HeaderValue::from_str(&envelope.content_type());
    let content_type = content_type.unwrap_or(HeaderValue::from_static("multipart/encrypted"));
    reply_of(response.status, response.headers, content_type, sealed.into())
}

fn reply_of(status: u16, headers: HeaderMap, content_type: HeaderValue, body: Bytes) -> Reply {
    let mut reply = Reply::new(Full::new(body));
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *reply.headers_mut() = headers;
    if !content_type.is_empty() {
        reply.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    reply
}

fn with_token(mut reply: Reply, completed: Option<Option<String>>) -> Reply {
    let token = completed.flatten().and_then(|token| HeaderValue::from_str(&token).ok());
    if let Some(token) = token {
        reply.headers_mut().insert(WWW_AUTHENTICATE, token);
    }
    reply
}

/// The connection ends after this reply: what follows on it cannot be told apart any more.
fn closing(mut reply: Reply) -> Reply {
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}
