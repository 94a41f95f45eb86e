//! The other hosts: the only place of the engine that dials.
//!
//! ```text
//!   a session with a replica ──> stream()          VM tasks ──> call(), announce()
//!                                   │                              │
//!                               Transport        one Link a pair of hosts, whoever dialled it
//!                                   │                │   ▲             │
//!                                 other host     Answers (the VM tasks answer)
//! ```
//!
//! Two hosts that share a VM call each other both ways on one connection, so that one side may be behind NAT or a
//! firewall. The link is held up while anybody wants it ([`Peers::keep`]), and made when somebody calls.
//!
//! Invariants:
//! * A call is answered or it is [`Silence`], within its time. Silence says nothing of what the other host does.
//! * A call may be heard twice, when a link ends in between: all of them may be repeated.
//! * One link a pair of hosts: two that dial each other at once settle on one ([`dial`]).
//! * A host is who its certificate says; its id counts only with the certificate that it was seen with first ([`book`]).
//! * Nothing that a peer sends ends more than its own link.
//!
//! A host that is admitted by no authorization entry may open a link, if its certificate is trusted. What it is told of
//! VMs is decided by [`Answers`], and so is what it may change.

mod book;
mod calls;
mod contact;
mod dial;
mod keep;
mod link;
pub(crate) mod reason;
mod silence;
mod transport;

pub(crate) use book::proven_addresses;
pub use book::{Peer, former_ids, host_id, host_of};
pub use calls::{Answer, Body, Call, ClaimFact, Envelope, LINKS_SINCE, Presence, Testimony};
pub use contact::Contact;
pub use silence::Silence;
pub use transport::{TlsTransport, Transport};

use crate::error::WorkError;
use crate::records::{PeerRecord, Tables};
use async_trait::async_trait;
use book::Book;
use keep::{Kept, Wanted};
use link::{Link, Service};
use standin_model::{HostId, Refusal};
use standin_state::StateError;
use standin_wire::{Connection, Hello, PeerIdentity};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// How often a call is tried on another link when the one that it was made on ends.
const TRIES: usize = 3;

/// Answers what other hosts ask. The engine's VM tasks do.
///
/// A peer has proven its certificate and nothing else: it may share no VM with this host. What it is told, and what it
/// may change, is decided here.
#[async_trait]
pub trait Answers: Send + Sync {
    /// Answers a call. Every call may come twice. Several run side by side, but the claims of one peer come one after
    /// the other. It runs to its end also when the peer is gone.
    async fn answer(&self, from: &Peer, call: Call) -> Answer;

    /// A link with a host has come up: what this host knows of the VMs that both share.
    async fn met(&self, peer: &Peer) -> Vec<ClaimFact>;

    /// What a host answered when it was told claims: what it knows of the same VMs.
    async fn heard(&self, from: &Peer, facts: Vec<ClaimFact>);
}

/// Where a host is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// Which host it must be; `None` while only an address is known.
    pub host: Option<HostId>,
    /// Where it can be reached (`host:port`), the likeliest first. What was learned of a host is tried too.
    pub addresses: Vec<String>,
}

/// How the link with a host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// There is one.
    pub up: bool,
    /// Since when it is so.
    pub since: Instant,
    /// When the host last said something, signs of life of the wire aside. Changes do not wake those who watch.
    pub last_heard: Option<Instant>,
    /// Why there is none, where that is known.
    pub silence: Option<Silence>,
}

/// The other hosts, and the links with them.
pub struct Peers {
    me: HostId,
    /// This process: a host that was restarted has another.
    run: Uuid,
    dials: AtomicU64,
    transport: Arc<dyn Transport>,
    book: Book,
    service: Service,
    hosts: Mutex<Hosts>,
}

/// How a dial ended.
type Dialled = Result<Arc<Link>, Silence>;

#[derive(Default)]
struct Hosts {
    entries: BTreeMap<HostId, Entry>,
    dialling: HashMap<Address, watch::Receiver<Option<Dialled>>>,
    kept: HashMap<Wanted, Kept>,
}

struct Entry {
    link: Option<Arc<Link>>,
    state: watch::Sender<LinkState>,
}

impl Entry {
    fn new() -> Self {
        let state = LinkState { up: false, since: Instant::now(), last_heard: None, silence: None };
        Self { link: None, state: watch::Sender::new(state) }
    }

    fn goes_up(&self) {
        let now = Instant::now();
        self.state.send_replace(LinkState { up: true, since: now, last_heard: Some(now), silence: None });
    }

    fn goes_down(&self, silence: Silence) {
        self.state.send_modify(|state| {
            (state.up, state.since, state.silence) = (false, Instant::now(), Some(silence));
        });
    }
}

impl Peers {
    /// Takes up the hosts that were met before. `shutdown` ends every link; all tasks run in `tasks`.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub async fn open(
        transport: Arc<dyn Transport>,
        me: HostId,
        tables: Tables,
        shutdown: CancellationToken,
        tasks: TaskTracker,
    ) -> Result<Arc<Self>, StateError> {
        Ok(Arc::new(Self {
            me,
            run: Uuid::new_v4(),
            dials: AtomicU64::new(0),
            transport,
            book: Book::load(me, tables).await?,
            service: Service { answers: watch::Sender::new(None), tasks, shutdown },
            hosts: Mutex::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of this host.
    #[must_use]
    pub const fn me(&self) -> HostId {
        self.me
    }

    /// Says who answers. Until then, calls of others are refused.
    pub fn answer_with(&self, answers: Arc<dyn Answers>) {
        self.service.answers.send_replace(Some(answers));
    }

    /// A connection for a session with the host at an address.
    ///
    /// # Errors
    /// The link's reason.
    pub async fn stream(&self, address: &str) -> Result<Connection, WorkError> {
        self.transport.connect(address).await.map_err(|source| WorkError::link(address, source))
    }

    /// Takes a connection whose first message was [`crate::messages::Request::Link`], with what that said.
    pub fn accept(self: &Arc<Self>, connection: Connection, run: Uuid, number: u64) {
        let peers = Arc::clone(self);
        self.service.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = peers.service.shutdown.cancelled() => {}
                () = peers.take(connection, run, number) => {}
            }
        });
    }

    /// Finds out who is at an address: over the link with that host, which is made if there is none.
    ///
    /// # Errors
    /// Why there is none. Never later than `within`.
    pub async fn meet(self: &Arc<Self>, address: &Address, within: Duration) -> Result<Peer, Silence> {
        let link = timeout_at(Instant::now() + within, self.link(address)).await;
        let late = || Silence::NoAnswer { host: address.addresses.first().cloned().unwrap_or_default() };
        Ok(link.unwrap_or_else(|_| Err(late()))?.peer.clone())
    }

    /// Asks a host, over the link with it; without one it is dialled.
    ///
    /// # Errors
    /// Why it did not answer. Never later than `within`. It may have heard the call nevertheless.
    pub async fn call(
        self: &Arc<Self>,
        host: HostId,
        addresses: &[String],
        call: Call,
        within: Duration,
    ) -> Result<Answer, Silence> {
        let deadline = Instant::now() + within;
        let address = Address { host: Some(host), addresses: addresses.to_vec() };
        let mut last = Silence::NoAnswer { host: self.name(host).unwrap_or_else(|| host.to_string()) };
        for _ in 0..TRIES {
            let Ok(link) = timeout_at(deadline, self.link(&address)).await else { return Err(last) };
            match link?.call(call.clone(), deadline).await {
                Err(ended @ Silence::Ended { .. }) => last = ended,
                other => return other,
            }
        }
        Err(last)
    }

    /// Tells a host about VMs that both share, over the link with it; without one it is dialled. Of each VM only the
    /// newest word is told, and a host that cannot be reached is told everything when it can.
    pub fn announce(self: &Arc<Self>, host: HostId, addresses: &[String], facts: Vec<ClaimFact>) {
        let address = Address { host: Some(host), addresses: addresses.to_vec() };
        if let Some(link) = self.find(&address) {
            return link.tell(facts);
        }
        let peers = Arc::clone(self);
        self.service.tasks.spawn(async move {
            match peers.link(&address).await {
                Ok(link) => link.tell(facts),
                Err(silence) => {
                    tracing::debug!(%host, %silence, "a host is told about VMs when it can be reached")
                }
            }
        });
    }

    /// Says why there is no link, to those who watch.
    fn is_silent(&self, address: &Address, silence: &Silence) {
        let hosts = self.lock();
        if let Some(entry) = address.host.and_then(|host| hosts.entries.get(&host)) {
            entry.state.send_if_modified(|state| {
                let changes = !state.up && state.silence.as_ref() != Some(silence);
                if changes {
                    state.silence = Some(silence.clone());
                }
                changes
            });
        }
    }

    /// How the link with a host is, now and whenever it changes.
    #[must_use]
    pub fn watch(&self, host: HostId) -> watch::Receiver<LinkState> {
        self.lock().entries.entry(host).or_insert_with(Entry::new).state.subscribe()
    }

    /// The hosts with which there is a link.
    #[must_use]
    pub fn linked(&self) -> Vec<HostId> {
        let hosts = self.lock();
        let up =
            hosts.entries.iter().filter(|(_, entry)| entry.link.as_ref().is_some_and(|link| link.is_up()));
        up.map(|(host, _)| *host).collect()
    }

    /// What a host is called, if this one has met it.
    #[must_use]
    pub fn name(&self, host: HostId) -> Option<String> {
        self.book.get(host).map(|record| record.own_name().to_owned())
    }

    /// The names of the certificate that a host is bound to; empty for one that this host has never met.
    #[must_use]
    pub fn names(&self, host: HostId) -> Vec<String> {
        self.book.get(host).map(|record| record.names).unwrap_or_default()
    }

    /// Whether a host may be who it says it is: its id belongs to its certificate, or is seen for the first time.
    ///
    /// # Errors
    /// 32769 for an id of another certificate or of this host, 32773 for a certificate without a name of its own; when
    /// it cannot be kept.
    pub async fn identify(&self, identity: &PeerIdentity, hello: &Hello) -> Result<(), Refusal> {
        self.book.identify(identity, hello).await
    }

    /// The hosts that this one has met, by name.
    #[must_use]
    pub fn known(&self) -> Vec<PeerRecord> {
        self.book.all()
    }

    /// Binds the id of a host to another certificate: somebody says that it is the same host.
    ///
    /// # Errors
    /// 32779 for a host that this one has never met, 32773 without a name; when it cannot be kept.
    pub async fn rebind(&self, host: HostId, names: Vec<String>) -> Result<(), Refusal> {
        self.book.rebind(host, names).await
    }

    /// Forgets a host that is another one now. One that this host has not met is no error.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn forget_host(&self, host: HostId) -> Result<(), Refusal> {
        self.book.forget(host).await
    }

    /// The link with a host. Without an id, an address must lead to it for certain: one that was dialled, or that its
    /// certificate proves.
    fn find(&self, address: &Address) -> Option<Arc<Link>> {
        let hosts = self.lock();
        let up = |entry: &Entry| entry.link.clone().filter(|link| link.is_up());
        let Some(host) = address.host else {
            let leads = |link: &Arc<Link>| link.is_known_as(&address.addresses);
            return hosts.entries.values().filter_map(up).find(leads);
        };
        let by_id = hosts.entries.get(&host).and_then(up);
        by_id.or_else(|| {
            let mut links = hosts.entries.values().filter_map(up);
            links.find(|link| link.peer.former_ids().any(|former| former == host))
        })
    }
}
