//! A thin client of QEMU's monitor (QMP): JSON lines over a unix socket.
//!
//! ```text
//! callers ── execute(command) ──►  writer ──►  QEMU
//!    ▲   answer by id                            │
//!    └────────────── reader task ◄───────────────┘
//!                        └─► events (broadcast)
//! ```
//!
//! Answers and events stay JSON values: typed schemas break between QEMU's versions. What a caller needs of an
//! answer it takes with the helpers in [`json`].
//!
//! # Invariants
//!
//! - A command is answered exactly once, by QEMU or by the reason why the connection ended.
//! - After the first malformed line nothing more is believed: the connection is closed.
//! - Dropping the last clone closes the connection; QEMU's monitor serves one client at a time, so a client
//!   that lingers would lock out the next.
//! - A future of [`Qmp::execute`] that is dropped leaves the connection usable; the command may have run.

pub mod json;

use crate::error::Error;
use serde_json::{Value, json as value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, oneshot};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

/// Longest line that is taken from QEMU. `query-qmp-schema` is 0.3 MB, a thousand block nodes 2 MB.
const MAX_LINE: u64 = 32 << 20;
/// Events that a slow receiver may fall behind.
const EVENT_QUEUE: usize = 1024;
/// A command that only changes or reads QEMU's own structures answers within milliseconds; a transaction
/// drains the disks first.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Something QEMU said by itself.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its name, as `SHUTDOWN`.
    pub name: String,
    /// Its data, `Null` when it has none.
    pub data: Value,
}

/// A connection to one monitor. Clones share it.
#[derive(Debug, Clone)]
pub struct Qmp {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    peer: PathBuf,
    shared: Arc<Shared>,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    reader: AbortHandle,
    next_id: AtomicU64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.reader.abort();
        self.shared.end("closed by this side");
    }
}

#[derive(Debug)]
struct Shared {
    pending: Mutex<HashMap<u64, oneshot::Sender<Value>>>,
    ended: Mutex<Option<String>>,
    closed: CancellationToken,
    events: broadcast::Sender<Event>,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Value>>> {
        // The map is never left half changed, so a panic elsewhere does not spoil it.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, reason: &str) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.get_or_insert_with(|| reason.to_owned());
        drop(ended);
        self.closed.cancel();
        // Dropping the senders wakes every waiting command.
        self.pending().clear();
    }

    fn reason(&self) -> String {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.clone().unwrap_or_else(|| "closed".to_owned())
    }
}

impl Qmp {
    /// Connects, waits for the greeting and negotiates.
    ///
    /// # Errors
    /// [`Error::Connection`] when nobody listens or another client holds the monitor.
    pub async fn connect(socket: &Path, timeout: Duration) -> Result<Self, Error> {
        let failed = |detail: String| Error::Connection { peer: socket.display().to_string(), detail };
        let greeted = tokio::time::timeout(timeout, async {
            let stream = UnixStream::connect(socket).await.map_err(|e| failed(e.to_string()))?;
            let (read, write) = stream.into_split();
            let mut read = BufReader::new(read);
            let greeting = read_message(&mut read).await.map_err(&failed)?;
            if greeting.get("QMP").is_none() {
                return Err(failed("the peer is not a QEMU monitor".to_owned()));
            }
            Ok((read, write))
        });
        let (read, write) = greeted.await.map_err(|_| {
            failed(format!(
                "no greeting within {timeout:?}: QEMU hangs, or another program holds this monitor"
            ))
        })??;
        let qmp = Self::start(socket, read, write);
        qmp.execute("qmp_capabilities", Value::Null).await?;
        Ok(qmp)
    }

    fn start(socket: &Path, read: BufReader<OwnedReadHalf>, write: OwnedWriteHalf) -> Self {
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            ended: Mutex::default(),
            closed: CancellationToken::new(),
            events: broadcast::channel(EVENT_QUEUE).0,
        });
        let reader = tokio::spawn(read_loop(read, Arc::clone(&shared))).abort_handle();
        Self {
            inner: Arc::new(Inner {
                peer: socket.to_owned(),
                shared,
                writer: tokio::sync::Mutex::new(write),
                reader,
                next_id: AtomicU64::new(1),
            }),
        }
    }

    /// Runs a command. `arguments` is an object or `Null`.
    ///
    /// # Errors
    /// [`Error::Qmp`] when QEMU refuses, [`Error::Connection`] when the connection is or gets closed,
    /// [`Error::Timeout`] after half a minute.
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value, Error> {
        let inner = &self.inner;
        let id = inner.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        inner.shared.pending().insert(id, sender);
        if inner.shared.closed.is_cancelled() {
            inner.shared.pending().remove(&id);
            return Err(self.lost());
        }
        let waiting = tokio::time::timeout(COMMAND_TIMEOUT, async {
            self.send(id, command, arguments).await?;
            answer.await.map_err(|_| self.lost())
        });
        let outcome = waiting.await;
        inner.shared.pending().remove(&id);
        let answer = outcome.map_err(|_| Error::Timeout {
            what: format!("QEMU's command {command}"),
            after: COMMAND_TIMEOUT,
        })??;
        tracing::trace!(command, %answer, "QMP");
        into_return(command, answer)
    }

    async fn send(&self, id: u64, command: &str, arguments: Value) -> Result<(), Error> {
        let mut message = value!({ "execute": command, "id": id });
        if !arguments.is_null() {
            message["arguments"] = arguments;
        }
        let mut line = message.to_string();
        line.push('\n');
        let mut writer = self.inner.writer.lock().await;
        if let Err(error) = writer.write_all(line.as_bytes()).await {
            self.inner.shared.end(&error.to_string());
            return Err(self.lost());
        }
        Ok(())
    }

    /// Runs a command of the human monitor and answers its text.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub async fn human(&self, line: &str) -> Result<String, Error> {
        let answer = self.execute("human-monitor-command", value!({ "command-line": line })).await?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// Events from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.shared.events.subscribe()
    }

    /// Is cancelled when the connection has ended.
    #[must_use]
    pub fn closed(&self) -> CancellationToken {
        self.inner.shared.closed.clone()
    }

    fn lost(&self) -> Error {
        Error::Connection { peer: self.inner.peer.display().to_string(), detail: self.inner.shared.reason() }
    }
}

fn into_return(command: &str, mut answer: Value) -> Result<Value, Error> {
    if let Some(error) = answer.get("error") {
        return Err(Error::Qmp {
            command: command.to_owned(),
            class: json::text(error, "class").to_owned(),
            desc: json::text(error, "desc").to_owned(),
        });
    }
    Ok(answer.get_mut("return").map_or(Value::Null, Value::take))
}

async fn read_loop(mut read: BufReader<OwnedReadHalf>, shared: Arc<Shared>) {
    let reason = loop {
        let mut message = match read_message(&mut read).await {
            Ok(message) => message,
            Err(reason) => break reason,
        };
        if let Some(name) = message.get("event").and_then(Value::as_str).map(str::to_owned) {
            let data = message.get_mut("data").map_or(Value::Null, Value::take);
            tracing::trace!(%name, %data, "QMP event");
            // Nobody listening is no error.
            let _ = shared.events.send(Event { name, data });
        } else if let Some(id) = message.get("id").and_then(Value::as_u64) {
            // An answer nobody waits for any more: its caller gave up.
            let waiting = shared.pending().remove(&id);
            if let Some(waiting) = waiting {
                let _ = waiting.send(message);
            }
        }
    };
    shared.end(&reason);
}

async fn read_message(read: &mut BufReader<OwnedReadHalf>) -> Result<Value, String> {
    let mut line = Vec::new();
    let length = read.take(MAX_LINE).read_until(b'\n', &mut line).await.map_err(|e| e.to_string())?;
    if length == 0 {
        return Err("QEMU closed the connection".to_owned());
    }
    if line.last() != Some(&b'\n') {
        return Err("QEMU's line ended in the middle or is too long".to_owned());
    }
    serde_json::from_slice(&line).map_err(|e| format!("QEMU sent a line that is not JSON: {e}"))
}
