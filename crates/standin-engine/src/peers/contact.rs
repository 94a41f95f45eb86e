//! Until when a host was heard, for people who decide by what it last told.

use super::Peers;
use jiff::{SignedDuration, Timestamp};
use standin_model::HostId;

/// When a host was last in contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// There is a link with it now.
    pub connected: bool,
    /// Until when there certainly was one: now while it is up; `None` for a host that was never met.
    pub until: Option<Timestamp>,
}

impl Peers {
    /// When a host was last in contact. No I/O.
    #[must_use]
    pub fn contact(&self, host: HostId) -> Contact {
        let state = self.lock().entries.get(&host).map(|entry| entry.state.borrow().clone());
        let now = Timestamp::now();
        let went_down = match &state {
            Some(state) if state.up => return Contact { connected: true, until: Some(now) },
            Some(state) if state.last_heard.is_some() => {
                let ago = SignedDuration::try_from(state.since.elapsed()).unwrap_or_default();
                now.checked_sub(ago).ok()
            }
            _ => None,
        };
        let seen = self.book.get(host).map(|record| record.last_seen);
        Contact { connected: false, until: went_down.max(seen) }
    }
}
