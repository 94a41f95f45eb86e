//! Freezing, and the task that thaws again whatever happens. See the parent's doc for the picture.

use super::marker::Marker;
use super::{Agent, AgentTimeouts, count};
use crate::error::Error;
use crate::seam::Result;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// Pauses between attempts to thaw: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// So many times in a row nobody listens on the socket, and QEMU is taken to be gone with its guest.
const GONE_AFTER: u32 = 3;

/// A frozen guest. It is thawed by [`FrozenGuard::thaw`], by dropping this, or at the deadline, whichever is first,
/// and by then as often as it takes.
#[derive(Debug)]
pub struct FrozenGuard {
    count: u64,
    timeouts: AgentTimeouts,
    requests: mpsc::Sender<Request>,
}

enum Request {
    Status(oneshot::Sender<Result<bool>>),
    Thaw(oneshot::Sender<Result<()>>),
}

/// How a thaw ended.
#[derive(Clone, Copy)]
enum Thawed {
    /// The agent says the guest is thawed, and that it thawed so many file systems just now.
    Confirmed(u64),
    /// Nobody listens any more.
    Gone,
}

impl Agent {
    /// Freezes the guest's file systems, for at most `deadline` from now on.
    ///
    /// # Errors
    /// When the guest is not certainly frozen: it was frozen before by somebody else, the agent refused, was late,
    /// froze nothing, or contradicts itself. If a freeze was sent at all, the guest is being thawed in the
    /// background by then.
    pub async fn freeze(mut self, deadline: Duration) -> Result<FrozenGuard> {
        self.sync().await?;
        if self.is_frozen().await? {
            return Err(Error::Agent("the guest is frozen already, by somebody else".to_owned()));
        }
        let marker = self.marker.as_deref().map(|file| Marker::write(file, &self.socket)).transpose()?;
        let until = Instant::now() + deadline;
        let timeouts = self.timeouts;
        let (requests, inbox) = mpsc::channel(4);
        let (report, frozen) = oneshot::channel();
        // From here on the guest may be frozen: the task has the agent before the first byte is sent.
        tokio::spawn(async move {
            let late = || Error::Timeout { what: "freezing the guest".to_owned(), after: deadline };
            let outcome = timeout_at(until, freeze_now(&mut self, deadline)).await;
            let outcome = outcome.unwrap_or_else(|_| Err(late()));
            let wanted = outcome.is_ok();
            let delivered = report.send(outcome).is_ok();
            if wanted && delivered {
                hold(self, marker, until, inbox).await;
            } else {
                thaw(self.socket.clone(), timeouts, Some(self), marker).await;
            }
        });
        match frozen.await {
            Ok(outcome) => outcome.map(|count| FrozenGuard { count, timeouts, requests }),
            Err(_) => Err(Error::Internal("the task that freezes the guest ended".to_owned())),
        }
    }
}

impl FrozenGuard {
    /// How many file systems the agent says are frozen; at least 1.
    #[must_use]
    pub fn frozen_count(&self) -> u64 {
        self.count
    }

    /// Whether the agent says, now, that the guest is frozen. To be asked after the cut: only then is the cut
    /// known to be one of a frozen guest. `false` once the deadline has passed.
    ///
    /// # Errors
    /// When the agent does not answer or answers nonsense.
    pub async fn still_frozen(&self) -> Result<bool> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Status(reply), answer, "the guest agent's guest-fsfreeze-status").await
    }

    /// Thaws the guest and waits until the agent confirms it, but not for ever.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it is not confirmed yet; it goes on in the background. [`Error::Agent`] when the guest
    /// is thawed but had not been frozen, so that the cut cannot be taken for one of a frozen guest.
    /// [`Error::Connection`] when QEMU is gone.
    pub async fn thaw(self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Thaw(reply), answer, "thawing the guest").await
    }

    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<Result<T>>, what: &str) -> Result<T> {
        let after = self.timeouts.sync + 2 * self.timeouts.call;
        let ended = || Error::Internal("the task that keeps the guest frozen ended".to_owned());
        let talk = async {
            self.requests.send(request).await.map_err(|_| ended())?;
            answer.await.map_err(|_| ended())?
        };
        match tokio::time::timeout(after, talk).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Timeout { what: what.to_owned(), after }),
        }
    }
}

/// Sends the freeze and believes it only when count and status agree.
async fn freeze_now(agent: &mut Agent, deadline: Duration) -> Result<u64> {
    let frozen = count(&agent.call("guest-fsfreeze-freeze", deadline).await?)?;
    if frozen == 0 {
        return Err(Error::Agent("it froze no file system".to_owned()));
    }
    if !agent.is_frozen().await? {
        return Err(Error::Agent(format!("it says that it froze {frozen} file systems, and that none is")));
    }
    Ok(frozen)
}

/// Keeps the guest frozen until it is to be thawed, thaws it, and answers what is asked afterwards.
async fn hold(mut agent: Agent, marker: Option<Marker>, until: Instant, mut inbox: mpsc::Receiver<Request>) {
    let asked = loop {
        tokio::select! {
            biased;
            () = sleep_until(until) => {
                tracing::warn!(socket = %agent.socket.display(), "the guest was frozen until the deadline; thawing it");
                break None;
            }
            request = inbox.recv() => match request {
                None => break None,
                Some(Request::Thaw(reply)) => break Some(reply),
                Some(Request::Status(reply)) => {
                    // A question that hangs does not prolong the freeze.
                    let answer = tokio::select! {
                        answer = agent.is_frozen() => answer,
                        () = sleep_until(until) => Ok(false),
                    };
                    // Who asked may have gone.
                    let _ = reply.send(answer);
                }
            },
        }
    };
    let on_time = asked.is_some();
    let thawed = thaw(agent.socket.clone(), agent.timeouts, Some(agent), marker).await;
    let result = |on_time: bool| match thawed {
        Thawed::Confirmed(0) if on_time => {
            Err(Error::Agent("the guest was not frozen any more when it was to be thawed".to_owned()))
        }
        Thawed::Confirmed(_) => Ok(()),
        Thawed::Gone => Err(Error::Connection {
            peer: "the guest agent".to_owned(),
            detail: "nobody listens on its socket any more".to_owned(),
        }),
    };
    if let Some(reply) = asked {
        let _ = reply.send(result(on_time));
    }
    while let Some(request) = inbox.recv().await {
        let _ = match request {
            Request::Status(reply) => reply.send(Ok(false)).is_ok(),
            Request::Thaw(reply) => reply.send(result(false)).is_ok(),
        };
    }
}

/// Thaws until the agent confirms it, and clears the marker then.
async fn thaw(
    socket: PathBuf,
    timeouts: AgentTimeouts,
    agent: Option<Agent>,
    marker: Option<Marker>,
) -> Thawed {
    let thawed = insist(&socket, timeouts, agent).await;
    if let Some(marker) = marker {
        marker.clear();
    }
    thawed
}

/// Tries to thaw until the agent confirms it, over a new connection whenever the old one breaks.
async fn insist(socket: &Path, timeouts: AgentTimeouts, mut agent: Option<Agent>) -> Thawed {
    let mut pause = RETRY.0;
    let mut nobody = 0;
    for attempt in 1_u64.. {
        match attempt_thaw(socket, timeouts, &mut agent).await {
            Ok(count) => {
                if attempt > 1 {
                    tracing::info!(socket = %socket.display(), attempt, "the guest agent confirmed the thaw");
                }
                return Thawed::Confirmed(count);
            }
            Err(error) => {
                if attempt == 1 || attempt % 20 == 0 {
                    tracing::warn!(socket = %socket.display(), attempt, %error, "the thaw is not confirmed; trying on");
                }
                if !matches!(error, Error::Timeout { .. } | Error::Agent(_)) {
                    agent = None;
                }
            }
        }
        nobody = if agent.is_none() && nobody_listens(socket).await { nobody + 1 } else { 0 };
        if nobody >= GONE_AFTER {
            break;
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
    tracing::warn!(socket = %socket.display(), "nobody listens for the guest agent any more: the VM is gone");
    Thawed::Gone
}

/// One attempt. A connection that still works is kept: a late answer to the freeze arrives there.
async fn attempt_thaw(socket: &Path, timeouts: AgentTimeouts, agent: &mut Option<Agent>) -> Result<u64> {
    let agent = match agent {
        Some(agent) => agent,
        None => agent.insert(Agent::connect(socket, timeouts).await?),
    };
    agent.sync().await?;
    let thawed = agent.thaw_once().await;
    if agent.is_frozen().await? {
        let why = thawed.err().map_or_else(String::new, |error| format!(": {error}"));
        return Err(Error::Agent(format!("the guest is still frozen{why}")));
    }
    // An agent that refuses to thaw a guest that is not frozen is right.
    Ok(thawed.unwrap_or(0))
}

/// QEMU holds the socket open as long as it lives, whatever its guest does.
async fn nobody_listens(socket: &Path) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    match tokio::time::timeout(RETRY.1, UnixStream::connect(socket)).await {
        Ok(Err(error)) => matches!(error.kind(), ConnectionRefused | NotFound),
        Ok(Ok(_)) | Err(_) => false,
    }
}

/// Thaws the guest if its agent says it is frozen; `true` when it was. For guests that an earlier process of
/// this daemon may have left frozen.
///
/// # Errors
/// When the agent cannot be asked, or when it does not confirm the thaw.
pub async fn thaw_if_frozen(socket: &Path) -> Result<bool> {
    let timeouts = AgentTimeouts::default();
    let mut agent = Agent::connect(socket, timeouts).await?;
    if !agent.is_frozen().await? {
        return Ok(false);
    }
    attempt_thaw(socket, timeouts, &mut Some(agent)).await.map(|_| true)
}

/// Thaws, in the background, the guest that an earlier process of this daemon left frozen, if the marker is there; and
/// removes the marker when the agent confirmed it or QEMU is gone. `None` when there is no marker, or when a task of
/// this process works on it already.
pub fn thaw_left_over(marker: &Path) -> Option<JoinHandle<()>> {
    let (marker, socket) = Marker::take_over(marker)?;
    tracing::warn!(socket = %socket.display(), "a guest may have been left frozen; thawing it");
    Some(tokio::spawn(async move {
        thaw(socket, AgentTimeouts::default(), None, Some(marker)).await;
    }))
}
