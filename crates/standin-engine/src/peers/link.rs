//! One link: the connection over which two hosts call each other.
//!
//! ```text
//!   call() ──> waiting[id]          read: answers ──> waiting[id]
//!     └──> queue ──> write                 calls ───> a task each ──> Answers ──> queue
//!   tell() ──> news (the newest of each VM)      claims ──> one after the other, in their order
//! ```
//!
//! Invariants:
//! * A call ends with an answer, at its deadline, or with the link: nobody waits for a link that is over.
//! * Calls in flight are bounded in both directions: those of this host wait for a slot, those of the peer beyond
//!   [`ANSWERING`] are refused at once, so that its answers to ours are never stuck behind them.
//! * The claims of a peer are taken in one after the other: an older word about a VM never overtakes a newer one.
//! * A link that another one replaces takes no new calls, and closes when those in flight are done.
//!
//! Made and kept by [`super::Peers`].

mod serve;

pub(super) use serve::Ends;

use super::calls::{Answer, Body, Call, ClaimFact, Envelope};
use super::silence::Silence;
use super::{Answers, LinkState, Peer};
use standin_model::VmId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// Calls of this host on one link that may wait for their answer.
const CALLING: usize = 64;
/// Calls of the peer that are being answered: more than a peer of this version ever has in flight.
const ANSWERING: usize = 2 * CALLING;

/// The engine's side of every link: who answers, and where the answering runs.
pub(super) struct Service {
    pub answers: watch::Sender<Option<Arc<dyn Answers>>>,
    pub tasks: TaskTracker,
    pub shutdown: CancellationToken,
}

impl Service {
    fn answers(&self) -> Option<Arc<dyn Answers>> {
        self.answers.borrow().clone()
    }
}

/// How a link came about: what decides when there are two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Birth {
    /// This host dialled.
    pub dialled: bool,
    /// The peer's process.
    pub run: Uuid,
    /// Which dial of its dialler it is.
    pub number: u64,
    /// When it came up.
    pub at: Instant,
}

/// A link.
pub(super) struct Link {
    pub peer: Peer,
    pub birth: Birth,
    /// Addresses that certainly lead to this peer.
    known_as: Mutex<Vec<String>>,
    queue: mpsc::Sender<Envelope>,
    calls: Mutex<Calls>,
    slots: Semaphore,
    answering: Arc<Semaphore>,
    /// Calls in flight, in both directions.
    busy: watch::Sender<usize>,
    news: Mutex<BTreeMap<VmId, ClaimFact>>,
    has_news: Notify,
    retired: CancellationToken,
    dropped: CancellationToken,
    over: CancellationToken,
    state: watch::Sender<LinkState>,
}

#[derive(Default)]
struct Calls {
    last: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Result<Answer, Silence>>>,
    ended: Option<Silence>,
}

impl Link {
    /// A link, and what it queues for its writer. It works as soon as [`Link::run`] does.
    pub fn new(
        peer: Peer,
        birth: Birth,
        known_as: Vec<String>,
        state: watch::Sender<LinkState>,
    ) -> (Arc<Self>, mpsc::Receiver<Envelope>) {
        let (queue, queued) = mpsc::channel(CALLING);
        let link = Self {
            peer,
            birth,
            known_as: Mutex::new(known_as),
            queue,
            calls: Mutex::default(),
            slots: Semaphore::new(CALLING),
            answering: Arc::new(Semaphore::new(ANSWERING)),
            busy: watch::Sender::new(0),
            news: Mutex::default(),
            has_news: Notify::new(),
            retired: CancellationToken::new(),
            dropped: CancellationToken::new(),
            over: CancellationToken::new(),
            state,
        };
        (Arc::new(link), queued)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn news(&self) -> MutexGuard<'_, BTreeMap<VmId, ClaimFact>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of these addresses leads to the peer.
    pub fn is_known_as(&self, addresses: &[String]) -> bool {
        let known = self.known_as.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().any(|known| addresses.contains(known))
    }

    /// This address leads to the peer too.
    pub fn leads_here(&self, address: &str) {
        let mut known = self.known_as.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.iter().any(|known| known == address) {
            known.push(address.to_owned());
        }
    }

    /// Another link has taken its place, and the peer sees that too: what is in flight may end here.
    pub fn retire(&self) {
        self.retired.cancel();
    }

    /// The peer does not have it any more.
    pub fn drop_now(&self) {
        self.dropped.cancel();
    }

    /// It takes calls.
    pub fn is_up(&self) -> bool {
        !self.over.is_cancelled() && !self.retired.is_cancelled() && !self.dropped.is_cancelled()
    }

    /// Waits for its end.
    pub async fn ended(&self) {
        self.over.cancelled().await;
    }

    /// Asks the peer, and waits for its answer until the deadline.
    ///
    /// # Errors
    /// [`Silence::Ended`] when the link ends first: the call may have been heard. [`Silence::NoAnswer`] at the deadline.
    pub async fn call(self: &Arc<Self>, call: Call, deadline: Instant) -> Result<Answer, Silence> {
        let asking = async {
            let Ok(_slot) = self.slots.acquire().await else { return Err(self.silence("it is closed")) };
            let _busy = Busy::new(self);
            let waiting = Waiting::new(self)?;
            let envelope = Envelope { id: waiting.id, body: Body::Call(call) };
            if self.queue.send(envelope).await.is_err() {
                return Err(self.silence("it is closed"));
            }
            waiting.answer().await
        };
        let late = Silence::NoAnswer { host: self.peer.name.clone() };
        timeout_at(deadline, asking).await.unwrap_or(Err(late))
    }

    /// Tells the peer about VMs. Of each, only the newest word is told; it is repeated until the peer has it or the link
    /// is over.
    pub fn tell(&self, facts: Vec<ClaimFact>) {
        self.news().extend(facts.into_iter().map(|fact| (fact.vm, fact)));
        self.has_news.notify_one();
    }

    fn silence(&self, reason: impl Into<String>) -> Silence {
        Silence::Ended { host: self.peer.name.clone(), reason: reason.into() }
    }
}

/// A call in flight.
struct Busy(Arc<Link>);

impl Busy {
    fn new(link: &Arc<Link>) -> Self {
        link.busy.send_modify(|calls| *calls += 1);
        Self(Arc::clone(link))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.send_modify(|calls| *calls = calls.saturating_sub(1));
    }
}

/// A call that waits for its answer. Dropped, nobody waits any more.
struct Waiting {
    link: Arc<Link>,
    id: u64,
    answer: oneshot::Receiver<Result<Answer, Silence>>,
}

impl Waiting {
    fn new(link: &Arc<Link>) -> Result<Self, Silence> {
        let mut calls = link.calls();
        if let Some(silence) = &calls.ended {
            return Err(silence.clone());
        }
        if !link.is_up() {
            return Err(link.silence("another one has taken its place"));
        }
        let (into, answer) = oneshot::channel();
        calls.last += 1;
        let id = calls.last;
        calls.waiting.insert(id, into);
        Ok(Self { link: Arc::clone(link), id, answer })
    }

    async fn answer(mut self) -> Result<Answer, Silence> {
        let link = Arc::clone(&self.link);
        (&mut self.answer).await.unwrap_or_else(|_| Err(link.silence("it is closed")))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.link.calls().waiting.remove(&self.id);
    }
}
