//! Counts connections and bodies over all listeners, so that their number bounds memory.

use crate::settings::Limits;
use crate::throttle::network;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bodies are counted in units of this many bytes.
const UNIT: usize = 4096;

/// The counts.
#[derive(Debug)]
pub struct Gate {
    connections: usize,
    per_address: usize,
    open: Mutex<Open>,
    bodies: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A connection that was let in. Dropping it makes room.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Gate {
    /// A gate with these limits.
    #[must_use]
    pub fn new(limits: &Limits) -> Arc<Self> {
        let units = (limits.bodies / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            connections: limits.connections,
            per_address: limits.connections_per_address,
            open: Mutex::new(Open::default()),
            bodies: Arc::new(Semaphore::new(units)),
        })
    }

    /// Lets a connection in, if there is room.
    pub(super) fn enter(self: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let address = network(from);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.total >= self.connections {
            return None;
        }
        let of_address = open.by_address.entry(address).or_insert(0);
        if *of_address >= self.per_address {
            return None;
        }
        *of_address += 1;
        open.total += 1;
        Some(Place { gate: Arc::clone(self), address })
    }

    /// Room for so many bytes of a body; waits until there is some.
    pub(super) async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).ok()?;
        Arc::clone(&self.bodies).acquire_many_owned(units).await.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.gate.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total = open.total.saturating_sub(1);
        if let Some(count) = open.by_address.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_bounded_in_all_and_per_address_and_make_room_when_they_end() {
        let limits = Limits { connections: 3, connections_per_address: 2, ..Limits::default() };
        let gate = Gate::new(&limits);
        let [a, b]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let first = gate.enter(a).unwrap();
        let _second = gate.enter(a).unwrap();
        assert!(gate.enter(a).is_none());
        let third = gate.enter(b).unwrap();
        assert!(gate.enter(b).is_none());
        drop(third);
        assert!(gate.enter(a).is_none());
        drop(first);
        assert!(gate.enter(a).is_some());
        drop(_second);
        assert!(gate.open.lock().unwrap().by_address.is_empty());
    }
}
