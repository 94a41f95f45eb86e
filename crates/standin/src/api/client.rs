//! The client side of the local API: one connection a request, every answer bounded in size and time.

use super::MAX_BODY;
use super::types::{Problem, WatchQuery};
use crate::exit::Failure;
use anyhow::{Context, anyhow};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use standin_model::view::JobView;
use std::fmt::Write;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// Longer than any limit of the server except those that a request asks for.
const PATIENCE: Duration = Duration::from_secs(150);
/// The list of jobs or points of a large host is larger than any request.
const MAX_ANSWER: usize = 64 * MAX_BODY;

/// A client of the daemon on a socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// A request's body.
enum Payload<'a, T> {
    Nothing,
    Json(&'a T),
    Toml(&'a str),
}

impl Client {
    /// A client of the daemon on `socket`; nothing is connected yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Asks.
    ///
    /// # Errors
    /// The refusal of the daemon, or that there is none.
    pub async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, Failure> {
        self.call::<(), A>(Method::GET, path, Payload::Nothing, PATIENCE).await
    }

    /// Has something done that takes no arguments.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<A: DeserializeOwned>(&self, path: &str) -> Result<A, Failure> {
        self.call::<(), A>(Method::POST, path, Payload::Nothing, PATIENCE).await
    }

    /// Has something done.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn send<T: Serialize, A: DeserializeOwned>(&self, path: &str, body: &T) -> Result<A, Failure> {
        self.call(Method::POST, path, Payload::Json(body), PATIENCE).await
    }

    /// Has something done that may take `longer` than usual.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn send_patiently<T: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &T,
        longer: Duration,
    ) -> Result<A, Failure> {
        self.call(Method::POST, path, Payload::Json(body), PATIENCE + longer).await
    }

    /// Sends TOML text.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn send_toml<A: DeserializeOwned>(&self, path: &str, text: &str) -> Result<A, Failure> {
        self.call::<(), A>(Method::POST, path, Payload::Toml(text), PATIENCE).await
    }

    /// Removes, or asks to end.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete<A: DeserializeOwned>(&self, path: &str) -> Result<A, Failure> {
        self.call::<(), A>(Method::DELETE, path, Payload::Nothing, PATIENCE).await
    }

    /// A job, once it differs from `seen` or after `seen.timeout`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn watch_job(&self, id: &str, seen: &WatchQuery) -> Result<JobView, Failure> {
        let mut path = format!("/v1/jobs/{}/watch?timeout={}", segment(id), seen.timeout.unwrap_or(20));
        let fields = [
            ("after_percent", seen.after_percent.map(u64::from)),
            ("after_bytes", seen.after_bytes),
            ("after_state", seen.after_state.map(u64::from)),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={value}"));
            }
        }
        self.get(&path).await
    }

    async fn call<T: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        payload: Payload<'_, T>,
        patience: Duration,
    ) -> Result<A, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.no_daemon(&error))?;
        let request = build(method, path, payload)?;
        let exchange = async {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(connection);
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await
                .map_err(|error| anyhow!(error))?;
            connection.abort();
            Ok::<_, anyhow::Error>((status, body.to_bytes()))
        };
        match tokio::time::timeout(patience, exchange).await {
            Ok(Ok((status, body))) => understand(status, &body),
            Ok(Err(_)) => Err(Failure::NoDaemon(format!(
                "the daemon on {} ended before it answered; look at its log, start it again, and look at `standin jobs`",
                self.socket.display()
            ))),
            Err(_) => Err(Failure::NoDaemon(format!(
                "the daemon on {} did not answer within {} s; look at its log",
                self.socket.display(),
                patience.as_secs()
            ))),
        }
    }

    fn no_daemon(&self, error: &std::io::Error) -> Failure {
        no_daemon(&self.socket, error)
    }
}

fn no_daemon(socket: &Path, error: &std::io::Error) -> Failure {
    let socket = socket.display();
    Failure::NoDaemon(match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => format!(
            "no daemon answers on {socket}; start it with `standin serve` or `systemctl start standin`, or name its socket with --socket"
        ),
        ErrorKind::PermissionDenied => format!(
            "this user may not use {socket}; run the command as root, or have this user added to the group that socket_group names in the configuration"
        ),
        _ => format!("the daemon's socket {socket} cannot be used: {error}; name another with --socket"),
    })
}

fn build<T: Serialize>(
    method: Method,
    path: &str,
    payload: Payload<'_, T>,
) -> anyhow::Result<Request<Full<Bytes>>> {
    let request = Request::builder().method(method).uri(path).header(header::HOST, "standin");
    let (kind, body) = match payload {
        Payload::Nothing => return request.body(Full::default()).context("the request cannot be made"),
        Payload::Json(value) => (
            "application/json",
            Bytes::from(serde_json::to_vec(value).context("the request cannot be made")?),
        ),
        Payload::Toml(text) => ("application/toml", Bytes::copy_from_slice(text.as_bytes())),
    };
    request.header(header::CONTENT_TYPE, kind).body(Full::new(body)).context("the request cannot be made")
}

fn understand<A: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<A, Failure> {
    if status.is_success() {
        return serde_json::from_slice(body)
            .context("the daemon's answer makes no sense; it may be of another version than this client, use the same for both")
            .map_err(Failure::from);
    }
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => Err(Failure::Refused(problem.into())),
        Err(_) => Err(anyhow!("the daemon answered with {status}; it may be of another version than this client, use the same for both").into()),
    }
}

/// `text` as one segment of a path, whatever is in it: the daemon is to refuse it, not to misread it.
#[must_use]
pub fn segment(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut path, byte| {
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'~')
            || (byte == b'.' && text.len() > 2)
        {
            path.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(path, "%{byte:02X}");
        }
        path
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_cannot_leave_its_place() {
        assert_eq!(segment("web-1.example"), "web-1.example");
        assert_eq!(segment("../x"), "..%2Fx");
        assert_eq!(segment(".."), "%2E%2E");
        assert_eq!(segment("a b?c#d%"), "a%20b%3Fc%23d%25");
        assert_eq!(segment("ä"), "%C3%A4");
    }

    #[test]
    fn an_answer_of_a_foreign_server_is_no_crash() {
        let failure = understand::<JobView>(StatusCode::BAD_GATEWAY, b"<html>").expect_err("understood");
        assert_eq!(failure.status(), 1);
        let failure = understand::<JobView>(StatusCode::OK, b"<html>").expect_err("understood");
        assert_eq!(failure.status(), 1);
    }
}
