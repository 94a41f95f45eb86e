//! The guest agent: freezing the guest's file systems around a cut, and never leaving them frozen.
//!
//! `qemu-guest-agent` runs *in the guest*, so nothing about it is trusted: it may be missing, hang, die between
//! two answers, answer late, answer something from a conversation before, or lie. Requests and answers are JSON,
//! one per line, over a unix socket that QEMU connects to a virtio-serial port. Answers carry no number, so a
//! client that lost count finds its place again by `guest-sync-delimited` with a random number: what comes before
//! the echo of that number is old.
//!
//! ```text
//!  connect ─ sync ─ status: thawed ─ freeze ─ count > 0 ─ status: frozen ─► FrozenGuard
//!                                      │ late, refused,       │ lies          │ thaw(), drop,
//!                                      │ connection lost      │               │ the deadline
//!                                      ▼                      ▼               ▼
//!                    ┌──────────► sync ─ thaw ─ status: thawed ─► confirmed
//!                    └─ wait, reconnect ◄─┘ anything else      (or QEMU is gone: nothing left to thaw)
//! ```
//!
//! # Invariants
//!
//! - Once a freeze was sent, a task of its own owns the connection, and it ends only when the agent confirmed
//!   that the guest is thawed, or when nobody listens on the socket any more. Whether the caller waits, is
//!   cancelled or forgets the guard makes no difference.
//! - The deadline of a freeze counts from the moment it was sent.
//! - No answer makes this end of the conversation use more than [`MAX_LINE`] bytes.
//!
//! The task lives in this process. A daemon that is killed with a guest frozen leaves it frozen until the next one
//! finds the file named with [`Agent::with_marker`] and calls [`thaw_left_over`], as [`crate::qemu`] does.

mod frozen;
mod marker;
pub mod network;
mod run;

pub use frozen::{FrozenGuard, thaw_if_frozen, thaw_left_over};

use crate::error::Error;
use crate::seam::Result;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

/// The longest answer that is read. Those about freezing are shorter than 100 bytes; the list of a guest's network
/// interfaces may be longer than this, see [`network`].
pub const MAX_LINE: usize = 64 << 10;

/// The byte that stands before the answer to `guest-sync-delimited`, and that makes an agent forget half a
/// request. It cannot occur in UTF-8.
const DELIMITER: u8 = 0xff;

/// How long the agent may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentTimeouts {
    /// To accept the connection.
    pub connect: Duration,
    /// To find into step; a guest without a running agent takes this long to be noticed.
    pub sync: Duration,
    /// To answer a question. A freeze may take until its deadline instead, as it writes out the guest's caches.
    pub call: Duration,
}

impl Default for AgentTimeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(2), sync: Duration::from_secs(5), call: Duration::from_secs(5) }
    }
}

/// A conversation with a guest's agent.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
    socket: PathBuf,
    timeouts: AgentTimeouts,
    /// Bytes that were read after the last line.
    rest: Vec<u8>,
    /// Every request so far has had its answer.
    in_step: bool,
    /// Exists while the guest may be frozen.
    marker: Option<PathBuf>,
    /// The longest answer that is read.
    max_line: usize,
}

impl Agent {
    /// Connects to the agent's socket. That says nothing of the agent yet: QEMU accepts also for a guest without.
    ///
    /// # Errors
    /// [`Error::Connection`] when nobody listens there, [`Error::Timeout`] when nobody accepts.
    pub async fn connect(socket: &Path, timeouts: AgentTimeouts) -> Result<Self> {
        let peer = || socket.display().to_string();
        match tokio::time::timeout(timeouts.connect, UnixStream::connect(socket)).await {
            Ok(Ok(stream)) => {
                let socket = socket.to_path_buf();
                Ok(Self {
                    stream,
                    socket,
                    timeouts,
                    rest: Vec::new(),
                    in_step: false,
                    marker: None,
                    max_line: MAX_LINE,
                })
            }
            Ok(Err(error)) => Err(Error::Connection { peer: peer(), detail: error.to_string() }),
            Err(_) => Err(Error::Timeout {
                what: format!("connecting to the guest agent at {}", peer()),
                after: timeouts.connect,
            }),
        }
    }

    /// Names a file that is to exist while the guest may be frozen by this conversation, see [`thaw_left_over`].
    #[must_use]
    pub fn with_marker(mut self, file: impl Into<PathBuf>) -> Self {
        self.marker = Some(file.into());
        self
    }

    /// Finds into step with the agent, however the conversation was left before.
    ///
    /// # Errors
    /// [`Error::Timeout`] when the agent does not run or hangs, [`Error::Connection`] when the socket broke.
    pub async fn sync(&mut self) -> Result<()> {
        self.in_step = false;
        let limit = self.timeouts.sync;
        let until = Instant::now() + limit;
        // 48 random bits: exact as a JSON number for every agent.
        let number = uuid::Uuid::new_v4().as_u128() & 0xffff_ffff_ffff;
        let number = u64::try_from(number).unwrap_or_default();
        let mut request = vec![DELIMITER];
        request.extend(line("guest-sync-delimited", Some(json!({ "id": number }))));
        let talk = async {
            self.stream.write_all(&request).await?;
            while self.line(true).await?.get("return").and_then(Value::as_u64) != Some(number) {}
            Ok(())
        };
        match timeout_at(until, talk).await {
            Ok(Ok(())) => {
                self.in_step = true;
                Ok(())
            }
            Ok(Err(error)) => Err(self.broken(&error)),
            Err(_) => {
                Err(Error::Timeout { what: "the guest agent's answer to guest-sync".into(), after: limit })
            }
        }
    }

    /// Whether the agent says that the guest's file systems are frozen.
    ///
    /// # Errors
    /// As [`Agent::sync`]; [`Error::Agent`] when it refuses or answers something else.
    pub async fn is_frozen(&mut self) -> Result<bool> {
        let answer = self.call("guest-fsfreeze-status", self.timeouts.call).await?;
        match answer.as_str() {
            Some("frozen") => Ok(true),
            Some("thawed") => Ok(false),
            _ => Err(Error::Agent(format!("{} is no freeze status", shown(&answer.to_string())))),
        }
    }

    /// Asks for a thaw once. The number of file systems that the agent says it thawed.
    async fn thaw_once(&mut self) -> Result<u64> {
        count(&self.call("guest-fsfreeze-thaw", self.timeouts.call).await?)
    }

    /// Sends a request without arguments and waits for its answer.
    async fn call(&mut self, command: &'static str, limit: Duration) -> Result<Value> {
        self.ask(command, None, limit).await
    }

    /// Sends a request and waits for its answer.
    async fn ask(
        &mut self,
        command: &'static str,
        arguments: Option<Value>,
        limit: Duration,
    ) -> Result<Value> {
        if !self.in_step {
            self.sync().await?;
        }
        // Given up from here on: the answer may still come, so the next call has to find into step first.
        self.in_step = false;
        let talk = async {
            self.stream.write_all(&line(command, arguments)).await?;
            self.line(false).await
        };
        let answer = match tokio::time::timeout(limit, talk).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.broken(&error)),
            Err(_) => {
                return Err(Error::Timeout { what: format!("the guest agent's {command}"), after: limit });
            }
        };
        self.in_step = true;
        if let Some(error) = answer.get("error") {
            let part = |key| shown(error.get(key).and_then(Value::as_str).unwrap_or("no reason given"));
            return Err(Error::Agent(format!("{command} was refused: {} ({})", part("desc"), part("class"))));
        }
        match answer.get("return") {
            Some(value) => Ok(value.clone()),
            None => Err(Error::Agent(format!("{} is no answer to {command}", shown(&answer.to_string())))),
        }
    }

    /// The next line as JSON. With `lenient`, what is too long or no JSON is passed over: it is old, or an
    /// agent's complaint about half a request.
    async fn line(&mut self, lenient: bool) -> std::io::Result<Value> {
        loop {
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let text: Vec<u8> = self.rest.drain(..=end).collect();
                // Old bytes without an end may stand before the delimiter.
                let text = text.rsplit(|byte| *byte == DELIMITER).next().unwrap_or_default();
                match serde_json::from_slice(text) {
                    Ok(value) => return Ok(value),
                    Err(_) if lenient || text.trim_ascii().is_empty() => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if self.rest.len() > self.max_line {
                self.rest.clear();
                if !lenient {
                    let longest = self.max_line;
                    return Err(std::io::Error::other(format!("an answer is longer than {longest} bytes")));
                }
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => self.rest.extend_from_slice(&piece[..count]),
            }
        }
    }

    fn broken(&self, error: &std::io::Error) -> Error {
        let peer = format!("the guest agent at {}", self.socket.display());
        Error::Connection { peer, detail: error.to_string() }
    }
}

fn line(command: &str, arguments: Option<Value>) -> Vec<u8> {
    let request = match arguments {
        Some(arguments) => json!({ "execute": command, "arguments": arguments }),
        None => json!({ "execute": command }),
    };
    let mut bytes = request.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

fn count(answer: &Value) -> Result<u64> {
    answer.as_u64().ok_or_else(|| Error::Agent(format!("{} is no number", shown(&answer.to_string()))))
}

/// A guest's words, fit for a log: short, and without control characters.
fn shown(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
