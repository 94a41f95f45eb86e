//! Links that are held up, whoever needs them: one loop a host, at the addresses that were given last.

use super::{Address, Peers};
use standin_model::{Backoff, HostId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// A link that held for so long was a good one: the next is tried at once.
const STEADY: Duration = Duration::from_secs(60);

/// With whom a link is held up: a host wherever it is, or whoever is at an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Wanted {
    Host(HostId),
    At(Vec<String>),
}

impl Wanted {
    fn of(address: &Address) -> Self {
        address.host.map_or_else(|| Self::At(address.addresses.clone()), Self::Host)
    }
}

pub(super) struct Kept {
    /// How many want it.
    count: usize,
    /// Where it is tried; a host that has moved is not looked for at its old address.
    address: Address,
    stop: CancellationToken,
}

impl Peers {
    /// Holds a link with a host up: it is made again, with a growing wait, whenever it ends. Wanted several times, it is
    /// held until it was forgotten as often. The addresses that are given last count.
    pub fn keep(self: &Arc<Self>, address: Address) {
        let (mut hosts, wanted) = (self.lock(), Wanted::of(&address));
        let kept = hosts.kept.entry(wanted.clone()).or_insert_with(|| {
            let stop = self.service.shutdown.child_token();
            let (peers, stopped) = (Arc::clone(self), stop.clone());
            self.service.tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = stopped.cancelled() => {}
                    () = peers.hold(&wanted) => {}
                }
            });
            Kept { count: 0, address: address.clone(), stop }
        });
        kept.count += 1;
        kept.address = address;
    }

    /// Ends one [`Peers::keep`]. The link stays while it is up: it costs nothing, and a call may need it.
    pub fn forget(&self, address: &Address) {
        let (mut hosts, wanted) = (self.lock(), Wanted::of(address));
        let Some(kept) = hosts.kept.get_mut(&wanted) else { return };
        kept.count -= 1;
        if kept.count == 0 {
            kept.stop.cancel();
            hosts.kept.remove(&wanted);
        }
    }

    async fn hold(self: &Arc<Self>, wanted: &Wanted) {
        let (mut attempt, mut known) = (0, None);
        loop {
            let Some(address) = self.lock().kept.get(wanted).map(|kept| kept.address.clone()) else { return };
            match self.link(&address).await {
                Ok(link) => {
                    let since = Instant::now();
                    known = None;
                    link.ended().await;
                    if since.elapsed() > STEADY {
                        attempt = 0;
                    }
                }
                Err(silence) if known.as_ref() == Some(&silence) => {}
                Err(silence) => {
                    tracing::info!(addresses = ?address.addresses, %silence, remedy = silence.remedy(), "no link");
                    self.is_silent(&address, &silence);
                    known = Some(silence);
                }
            }
            // Hosts that lost the same peer do not come back at one instant.
            let chance = Backoff::chance((self.me, &address, attempt));
            sleep(Backoff::default().wait(attempt, chance)).await;
            attempt += 1;
        }
    }
}
