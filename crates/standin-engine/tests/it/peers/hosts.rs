//! Hosts on a network in memory, which answer by a script.

use async_trait::async_trait;
use futures_util::FutureExt;
use standin_engine::messages::Request;
use standin_engine::peers::{
    Answer, Answers, Call, ClaimFact, Peer, Peers, Presence, Silence, Testimony, Transport,
};
use standin_engine::records::Tables;
use standin_model::fence::{Claim, Place};
use standin_model::{Generation, HostId, VmId};
use standin_state::{MemoryStore, StateStore};
use standin_wire::memory::{End, Network};
use standin_wire::{Connection, Error, Frame, Hello};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub fn id(number: u128) -> HostId {
    HostId(Uuid::from_u128(number))
}

pub fn vm(number: u128) -> VmId {
    VmId(Uuid::from_u128(number))
}

/// The addresses of a host.
pub fn peer(name: &str) -> Vec<String> {
    vec![format!("{name}:1")]
}

pub fn ask(vm: VmId) -> Call {
    Call::Ask { vm, claim: None, seen: Vec::new() }
}

pub fn fact(vm: VmId, place: Place) -> ClaimFact {
    ClaimFact {
        vm,
        claim: Claim { number: Generation(1), holder: id(1), id: Uuid::from_u128(5) },
        place,
        ran: false,
        stance: None,
        sees_as: None,
        others: Vec::new(),
    }
}

#[track_caller]
pub fn place(said: &Result<Answer, Silence>) -> Place {
    match said {
        Ok(Answer::Ask(presence)) => presence.place,
        other => panic!("{other:?}"),
    }
}

pub async fn up(host: &Host, peer: HostId) {
    host.peers.watch(peer).wait_for(|state| state.up).await.expect("a state");
}

pub async fn down(host: &Host, peer: HostId) {
    host.peers.watch(peer).wait_for(|state| !state.up).await.expect("a state");
}

/// A network, and what its hosts keep.
#[derive(Default)]
pub struct World {
    pub network: Network,
    stores: Mutex<HashMap<String, Arc<MemoryStore>>>,
}

impl World {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn end(&self, name: &str, hello: Hello) -> End {
        let certificate = format!("{name}.example");
        End::new(&["localhost", &certificate], "192.0.2.9:40000".parse().expect("an address"), hello)
    }

    /// Takes connections at the address of a host that is no engine.
    pub fn listen(&self, name: &str, hello: Hello) -> mpsc::UnboundedReceiver<Connection> {
        self.network.listen(&format!("{name}:1"), self.end(name, hello))
    }

    /// A host that is up and tells this number as its id. Under the same name again, it is the same host after a restart.
    pub fn host(&self, name: &str, number: u128) -> Host {
        let end = self.end(name, Hello::new(name, "standin test").of(id(number), 1));
        let store = Arc::clone(self.stores.lock().expect("stores").entry(name.to_owned()).or_default());
        let tables = Tables::new(&(store as Arc<dyn StateStore>));
        let dials = Arc::new(AtomicUsize::new(0));
        let network = self.network.clone();
        let transport = Arc::new(Memory { network, end: end.clone(), dials: Arc::clone(&dials) });
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let peers = Peers::open(transport, id(number), tables, shutdown.clone(), tasks.clone());
        // A store in memory never waits.
        let peers = peers.now_or_never().expect("at once").expect("peers");
        let script = Arc::new(Script::default());
        peers.answer_with(Arc::clone(&script) as Arc<dyn Answers>);
        let listening = self.network.listen(&format!("{name}:1"), end);
        let accepted = Arc::new(AtomicUsize::new(0));
        tokio::spawn(accept(listening, Arc::clone(&peers), Arc::clone(&accepted)));
        let name = name.to_owned();
        Host { name, network: self.network.clone(), peers, script, dials, accepted, shutdown, tasks }
    }
}

pub struct Host {
    name: String,
    network: Network,
    pub peers: Arc<Peers>,
    pub script: Arc<Script>,
    dials: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Host {
    /// How often it has dialled.
    pub fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }

    /// Connections that others have made to it, ever.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Those that are up now.
    pub fn open_connections(&self) -> usize {
        self.network.connections_to(&self.name)
    }

    /// The daemon stops. What it was asked is answered too late to be heard.
    pub async fn stop(&self) {
        self.shutdown.cancel();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        self.script.resume();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

struct Memory {
    network: Network,
    end: End,
    dials: Arc<AtomicUsize>,
}

#[async_trait]
impl Transport for Memory {
    async fn connect(&self, address: &str) -> Result<Connection, Error> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        self.network.connect(&self.end, address).await
    }
}

/// What the engine does with a connection that came in.
async fn accept(
    mut listening: mpsc::UnboundedReceiver<Connection>,
    peers: Arc<Peers>,
    accepted: Arc<AtomicUsize>,
) {
    while let Some(mut connection) = listening.recv().await {
        accepted.fetch_add(1, Ordering::SeqCst);
        let peers = Arc::clone(&peers);
        tokio::spawn(async move {
            let Ok(Some(Frame::Control(control))) = connection.next().await else { return };
            let Ok(Request::Link { run, number }) = control.parse() else { panic!("{control:?}") };
            peers.accept(connection, run, number);
        });
    }
}

/// Answers what it is told to, and writes down what it was asked.
pub struct Script {
    places: Mutex<VecDeque<Place>>,
    knows: Mutex<Vec<ClaimFact>>,
    calls: Mutex<Vec<(String, Call)>>,
    /// The words about VMs that came, in their order.
    told: watch::Sender<Vec<ClaimFact>>,
    answered: watch::Sender<usize>,
    stalled: watch::Sender<bool>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            places: Mutex::default(),
            knows: Mutex::default(),
            calls: Mutex::default(),
            told: watch::Sender::default(),
            answered: watch::Sender::default(),
            stalled: watch::Sender::new(false),
        }
    }
}

impl Script {
    /// What it says next when it is asked where a VM is.
    pub fn places<const N: usize>(&self, places: [Place; N]) {
        self.places.lock().expect("places").extend(places);
    }

    /// What it tells whoever it meets.
    pub fn knows<const N: usize>(&self, facts: [ClaimFact; N]) {
        *self.knows.lock().expect("facts") = facts.to_vec();
    }

    /// Answers nothing until [`Script::resume`].
    pub fn stall(&self) {
        self.stalled.send_replace(true);
    }

    pub fn resume(&self) {
        self.stalled.send_replace(false);
    }

    /// Who called what, claims aside.
    pub fn calls(&self) -> Vec<(String, Call)> {
        self.calls.lock().expect("calls").clone()
    }

    pub fn forget(&self) {
        self.told.send_replace(Vec::new());
    }

    /// Waits until it was told of a VM.
    pub async fn heard(&self, vm: VmId, place: Place) {
        let mut told = self.told.subscribe();
        let of_it = |told: &Vec<ClaimFact>| told.iter().any(|fact| fact.vm == vm && fact.place == place);
        told.wait_for(of_it).await.expect("a script");
    }

    /// All it was told of a VM.
    pub fn claims(&self, vm: VmId) -> Vec<Place> {
        self.told.borrow().iter().filter(|fact| fact.vm == vm).map(|fact| fact.place).collect()
    }

    /// Waits until another host has answered claims.
    pub async fn was_answered(&self) {
        self.answered.subscribe().wait_for(|answers| *answers > 0).await.expect("a script");
    }
}

#[async_trait]
impl Answers for Script {
    async fn answer(&self, from: &Peer, call: Call) -> Answer {
        if !matches!(call, Call::Claims(_)) {
            self.calls.lock().expect("calls").push((from.name.clone(), call.clone()));
        }
        self.stalled.subscribe().wait_for(|stalled| !stalled).await.expect("a script");
        let presence = || Presence {
            claim: None,
            place: self.places.lock().expect("places").pop_front().unwrap_or(Place::Unknown),
            further: Vec::new(),
            stance: None,
        };
        match call {
            Call::Claims(facts) => {
                self.told.send_modify(|told| told.extend(facts.iter().cloned()));
                Answer::Claims(facts)
            }
            Call::Ask { .. } => Answer::Ask(presence()),
            Call::Raise { .. } => Answer::Raise(presence()),
            Call::Witness { .. } => Answer::Witness(Testimony { records: Uuid::nil(), claim: None }),
        }
    }

    async fn met(&self, _peer: &Peer) -> Vec<ClaimFact> {
        self.knows.lock().expect("facts").clone()
    }

    async fn heard(&self, _from: &Peer, _facts: Vec<ClaimFact>) {
        self.answered.send_modify(|answers| *answers += 1);
    }
}
