//! Hosts with addresses, and what lies between them: for tests of several engines in one process.

use super::{Cable, Direction, End, Flow, pair_with};
use crate::error::Error;
use crate::link::{Connection, Settings};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc};

/// A network in memory. Hosts are named as in the `host` of their [`crate::Hello`].
#[derive(Clone, Default)]
pub struct Network {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    settings: Settings,
}

#[derive(Default)]
struct State {
    listeners: HashMap<String, Listener>,
    cables: Vec<Laid>,
    /// Directions between two hosts, and pairs that are cut.
    flows: HashMap<(String, String), Flow>,
    cut: Vec<(String, String)>,
}

struct Listener {
    end: End,
    into: mpsc::UnboundedSender<Connection>,
}

/// A connection that is up.
struct Laid {
    from: String,
    to: String,
    cable: Cable,
}

impl State {
    fn flow(&self, from: &str, to: &str) -> Flow {
        self.flows.get(&(from.to_owned(), to.to_owned())).copied().unwrap_or_default()
    }

    fn is_cut(&self, one: &str, other: &str) -> bool {
        self.cut.iter().any(|(a, b)| (a == one && b == other) || (a == other && b == one))
    }
}

impl Network {
    /// A network whose connections have these times.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host takes connections at `address`; each comes out of the receiver. Whoever listened there before does not
    /// any more.
    pub fn listen(&self, address: &str, end: End) -> mpsc::UnboundedReceiver<Connection> {
        let (into, connections) = mpsc::unbounded_channel();
        self.lock().listeners.insert(address.to_owned(), Listener { end, into });
        connections
    }

    /// Connects a host to an address.
    ///
    /// # Errors
    /// [`Error::Connect`] where nobody listens or the way is cut, [`Error::Slow`] where one direction stands still for
    /// the handshake timeout, [`Error::Version`].
    pub async fn connect(&self, from: &End, address: &str) -> Result<Connection, Error> {
        // Nothing on a network happens within the call that asks for it.
        tokio::task::yield_now().await;
        let after = self.settings.handshake_timeout;
        let connecting = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(connection) = self.try_connect(from, address)? {
                    return Ok(connection);
                }
                changed.await;
            }
        };
        let slow = Error::Slow { what: "connecting", after };
        tokio::time::timeout(after, connecting).await.unwrap_or(Err(slow))
    }

    /// Nothing while one direction stands still.
    fn try_connect(&self, from: &End, address: &str) -> Result<Option<Connection>, Error> {
        let refused = || Error::Connect {
            address: address.to_owned(),
            source: io::ErrorKind::ConnectionRefused.into(),
        };
        let mut state = self.lock();
        let listener = state.listeners.get(address).ok_or_else(refused)?;
        let (name, to) = (from.hello.host.clone(), listener.end.hello.host.clone());
        if state.is_cut(&name, &to) {
            return Err(refused());
        }
        if state.flow(&name, &to) != Flow::Free || state.flow(&to, &name) != Flow::Free {
            return Ok(None);
        }
        let (ours, theirs, cable) = pair_with(from, &listener.end, &self.settings)?;
        listener.into.send(theirs).map_err(|_| refused())?;
        state.cables.retain(|laid| !laid.cable.is_over());
        state.cables.push(Laid { from: name, to, cable });
        Ok(Some(ours))
    }

    /// Ends every connection between two hosts, and lets none come about until [`Network::mend`].
    pub fn cut(&self, one: &str, other: &str) {
        let mut state = self.lock();
        state.cut.push((one.to_owned(), other.to_owned()));
        for laid in &state.cables {
            if [&laid.from, &laid.to].iter().all(|name| *name == one || *name == other) {
                laid.cable.cut();
            }
        }
    }

    /// Whatever is sent from one host to the other waits until [`Network::mend`].
    pub fn hold(&self, from: &str, to: &str) {
        self.set(from, to, Flow::Held);
    }

    /// Whatever is sent from one host to the other is lost until [`Network::mend`].
    pub fn lose(&self, from: &str, to: &str) {
        self.set(from, to, Flow::Lost);
    }

    /// The way between two hosts works again, in both directions.
    pub fn mend(&self, one: &str, other: &str) {
        self.lock().cut.retain(|(a, b)| !((a == one && b == other) || (a == other && b == one)));
        self.set(one, other, Flow::Free);
        self.set(other, one, Flow::Free);
    }

    /// A host is gone: its connections end, and nobody listens at its addresses.
    pub fn remove(&self, host: &str) {
        let mut state = self.lock();
        state.listeners.retain(|_, listener| listener.end.hello.host != host);
        for laid in state.cables.iter().filter(|laid| laid.from == host || laid.to == host) {
            laid.cable.cut();
        }
    }

    /// A host has lost its power: nothing of its connections moves any more, and nobody is told. It may come back, and
    /// connects anew then.
    pub fn power_off(&self, host: &str) {
        let mut state = self.lock();
        state.listeners.retain(|_, listener| listener.end.hello.host != host);
        state.cables.retain(|laid| {
            let of_it = laid.from == host || laid.to == host;
            if of_it {
                laid.cable.set(Direction::Forth, Flow::Lost);
                laid.cable.set(Direction::Back, Flow::Lost);
            }
            !of_it
        });
    }

    /// Connections to a host that are up.
    #[must_use]
    pub fn connections_to(&self, host: &str) -> usize {
        self.lock().cables.iter().filter(|laid| laid.to == host && !laid.cable.is_over()).count()
    }

    fn set(&self, from: &str, to: &str, flow: Flow) {
        let mut state = self.lock();
        state.flows.insert((from.to_owned(), to.to_owned()), flow);
        for laid in &state.cables {
            if laid.from == from && laid.to == to {
                laid.cable.set(Direction::Forth, flow);
            }
            if laid.from == to && laid.to == from {
                laid.cable.set(Direction::Back, flow);
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }
}
