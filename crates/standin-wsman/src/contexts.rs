//! Enumeration contexts: results that a client pulls page by page.
//!
//! Items are kept as the text that will be sent, so that what a context costs is known to the byte. A context
//! belongs to the user who opened it and is unknown to everybody else; it ends when it is read to its end,
//! released, or not asked for in its lifetime. Numbers and memory are limited, for each user and for all; what was not
//! asked for the longest makes room (`standin_access::quota`), because many clients never say that they are done.
//!
//! Called by `enumeration`, and swept by the service's clock. The lock is held for moving strings, never across an
//! await.

use crate::fault::{Fault, Kind};
use standin_access::quota::{self, Held, Quota};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How much may be kept, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Numbers and bytes.
    pub quota: Quota,
    /// How long a context lives after it was opened or last pulled from.
    pub lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { quota: Quota::default(), lifetime: Duration::from_secs(600) }
    }
}

/// How much one reply takes.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Items.
    pub elements: usize,
    /// Characters of all items together, where the client said so.
    pub characters: Option<usize>,
    /// Bytes of all items together.
    pub bytes: usize,
    /// A first item that alone is larger than `bytes` is sent all the same: the limit is ours, not the client's.
    pub soft: bool,
}

/// Items that were not sent yet.
#[derive(Debug, Default)]
pub struct Items {
    left: VecDeque<String>,
    bytes: usize,
}

impl Items {
    /// Adds one at the end.
    pub fn push(&mut self, item: String) {
        self.bytes += item.capacity();
        self.left.push_back(item);
    }

    /// Whether all were taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// Bytes that they occupy.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes + self.left.len() * size_of::<String>()
    }

    /// Takes the next page and appends it to `out`.
    ///
    /// # Errors
    /// `EncodingLimit` when the next item alone is larger than the client takes; nothing is taken then.
    pub fn take(&mut self, page: &Page, out: &mut String) -> Result<(), Fault> {
        let (mut bytes, mut characters) = (0, 0);
        for taken in 0..page.elements {
            let Some(next) = self.left.front() else { break };
            bytes += next.len();
            characters += page.characters.map_or(0, |_| next.chars().count());
            let too_long = page.characters.is_some_and(|most| characters > most);
            if too_long || (bytes > page.bytes && !(taken == 0 && page.soft)) {
                return if taken == 0 { Err(too_large(next.len())) } else { Ok(()) };
            }
            if let Some(item) = self.left.pop_front() {
                self.bytes -= item.capacity();
                out.push_str(&item);
            }
        }
        Ok(())
    }
}

fn too_large(bytes: usize) -> Fault {
    let reason = format!(
        "the next item has {bytes} bytes and does not fit; ask again with a larger w:MaxEnvelopeSize or \
         MaxCharacters"
    );
    Fault::new(Kind::EncodingLimit, reason).detail("MaxEnvelopeSizeExceeded").wsman_code(2_150_858_824)
}

/// All open contexts.
#[derive(Debug)]
pub struct Contexts {
    limits: Limits,
    open: Mutex<HashMap<Uuid, Open>>,
}

#[derive(Debug)]
struct Open {
    owner: Arc<str>,
    items: Items,
    /// The client's own choice of a lifetime is not renewed by pulling.
    fixed: bool,
    used: Instant,
    ends: Instant,
}

impl Contexts {
    /// None yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, open: Mutex::new(HashMap::new()) }
    }

    /// Keeps items for a user; those that were not asked for the longest make room.
    ///
    /// # Errors
    /// `QuotaLimit` when they are more than may be kept for one user.
    pub fn open(&self, owner: &Arc<str>, items: Items, lifetime: Option<Duration>) -> Result<Uuid, Fault> {
        let now = Instant::now();
        let mut open = self.swept(now);
        let held = open.iter().map(|(key, one)| Held {
            key: *key,
            owner: &one.owner,
            bytes: one.items.bytes(),
            used: one.used,
        });
        let gone = quota::make_room(&self.limits.quota, held, owner, items.bytes())
            .map_err(|error| Fault::new(Kind::QuotaLimit, error.to_string()))?;
        for id in gone {
            open.remove(&id);
        }
        let lasts = lifetime.unwrap_or(self.limits.lifetime).min(self.limits.lifetime);
        let id = Uuid::new_v4();
        let fixed = lifetime.is_some();
        open.insert(id, Open { owner: owner.clone(), items, fixed, used: now, ends: now + lasts });
        Ok(id)
    }

    /// Takes a page from a user's context; true when it was the last one, and the context is gone.
    ///
    /// # Errors
    /// `InvalidEnumerationContext` when he has none of that name; as [`Items::take`], and the context stays.
    pub fn pull(&self, owner: &Arc<str>, id: &str, page: &Page, out: &mut String) -> Result<bool, Fault> {
        let now = Instant::now();
        let mut open = self.swept(now);
        let id = read_id(id)?;
        let context = open.get_mut(&id).filter(|context| context.owner == *owner).ok_or_else(unknown)?;
        context.items.take(page, out)?;
        if context.items.is_empty() {
            open.remove(&id);
            return Ok(true);
        }
        context.used = now;
        if !context.fixed {
            context.ends = now + self.limits.lifetime;
        }
        Ok(false)
    }

    /// Forgets a user's context.
    ///
    /// # Errors
    /// `InvalidEnumerationContext` when he has none of that name.
    pub fn release(&self, owner: &Arc<str>, id: &str) -> Result<(), Fault> {
        let id = read_id(id)?;
        let mut open = self.swept(Instant::now());
        open.get(&id).filter(|context| context.owner == *owner).map(drop).ok_or_else(unknown)?;
        open.remove(&id);
        Ok(())
    }

    /// Drops what nobody asked for in its lifetime.
    pub fn sweep(&self) {
        drop(self.swept(Instant::now()));
    }

    /// How many are open, and how many bytes they occupy.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let open = self.lock();
        (open.len(), open.values().map(|context| context.items.bytes()).sum())
    }

    /// The contexts that still live.
    fn swept(&self, now: Instant) -> MutexGuard<'_, HashMap<Uuid, Open>> {
        let mut open = self.lock();
        open.retain(|_, context| context.ends > now);
        open
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Open>> {
        // Whoever panicked while holding it left a map that is whole: every change is one call.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_id(text: &str) -> Result<Uuid, Fault> {
    let text = text.trim();
    text.strip_prefix("uuid:").unwrap_or(text).parse().map_err(|_| unknown())
}

fn unknown() -> Fault {
    Fault::new(
        Kind::InvalidEnumerationContext,
        "there is no such enumeration context: it was read to its end, released, not used for too long, or made \
         room for newer ones; enumerate again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(count: usize) -> Items {
        let mut items = Items::default();
        (0..count).for_each(|n| items.push(format!("<{n:03}>")));
        items
    }

    fn all(elements: usize) -> Page {
        Page { elements, characters: None, bytes: 1 << 20, soft: true }
    }

    fn user(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    #[test]
    fn pages_follow_each_other_and_the_last_one_ends_the_context() {
        let contexts = Contexts::new(Limits::default());
        let id = contexts.open(&user("anna"), items(5), None).unwrap().to_string();
        let mut out = String::new();
        assert!(!contexts.pull(&user("anna"), &id, &all(2), &mut out).unwrap());
        assert_eq!(out, "<000><001>");
        assert!(!contexts.pull(&user("anna"), &format!(" uuid:{id} "), &all(2), &mut out).unwrap());
        assert!(contexts.pull(&user("anna"), &id, &all(2), &mut out).unwrap());
        assert_eq!(out, "<000><001><002><003><004>");
        let after = contexts.pull(&user("anna"), &id, &all(2), &mut out).unwrap_err();
        assert_eq!(after.kind, Kind::InvalidEnumerationContext);
        assert_eq!(contexts.size(), (0, 0));
    }

    #[test]
    fn a_context_of_another_user_is_unknown() {
        let contexts = Contexts::new(Limits::default());
        let id = contexts.open(&user("anna"), items(5), None).unwrap().to_string();
        let mut out = String::new();
        let pulled = contexts.pull(&user("bert"), &id, &all(2), &mut out).unwrap_err();
        let released = contexts.release(&user("bert"), &id).unwrap_err();
        assert_eq!((pulled.kind, out.as_str()), (Kind::InvalidEnumerationContext, ""));
        assert_eq!(released.kind, Kind::InvalidEnumerationContext);
        contexts.release(&user("anna"), &id).unwrap();
        assert_eq!(contexts.size(), (0, 0));
        assert!(contexts.release(&user("anna"), &id).is_err());
    }

    #[test]
    fn characters_and_bytes_end_a_page() {
        let mut left = items(5);
        let mut out = String::new();
        left.take(&Page { elements: 9, characters: Some(14), bytes: 1 << 20, soft: true }, &mut out).unwrap();
        assert_eq!(out, "<000><001>");
        left.take(&Page { elements: 9, characters: None, bytes: 11, soft: false }, &mut out).unwrap();
        assert_eq!(out, "<000><001><002><003>");
        let hard = Page { elements: 9, characters: None, bytes: 4, soft: false };
        assert_eq!(left.take(&hard, &mut out).unwrap_err().kind, Kind::EncodingLimit);
        assert!(!left.is_empty(), "what does not fit is not lost");
        left.take(&Page { soft: true, ..hard }, &mut out).unwrap();
        assert!(left.is_empty());
    }

    #[test]
    fn contexts_expire() {
        let limits = Limits { lifetime: Duration::from_millis(30), ..Limits::default() };
        let contexts = Contexts::new(limits);
        let id = contexts.open(&user("anna"), items(5), None).unwrap().to_string();
        std::thread::sleep(Duration::from_millis(60));
        let fault = contexts.pull(&user("anna"), &id, &all(1), &mut String::new()).unwrap_err();
        assert_eq!(fault.kind, Kind::InvalidEnumerationContext);
        assert_eq!(contexts.size(), (0, 0));
    }

    #[test]
    fn what_nobody_asks_for_goes_without_a_request() {
        let limits = Limits { lifetime: Duration::from_millis(30), ..Limits::default() };
        let contexts = Contexts::new(limits);
        contexts.open(&user("anna"), items(5), None).unwrap();
        contexts.sweep();
        assert_eq!(contexts.size().0, 1);
        std::thread::sleep(Duration::from_millis(60));
        contexts.sweep();
        assert_eq!(contexts.size(), (0, 0));
    }

    #[test]
    fn numbers_and_memory_are_limited_and_the_longest_idle_makes_room() {
        let quota = Quota { of_one: 2, of_all: 3, bytes_of_one: 1000, bytes_of_all: 10_000 };
        let contexts = Contexts::new(Limits { quota, ..Limits::default() });
        let open =
            |name: &str, count| contexts.open(&user(name), items(count), None).map(|id| id.to_string());
        let pull = |name: &str, id: &str| contexts.pull(&user(name), id, &all(1), &mut String::new());
        let first = open("anna", 9).unwrap();
        let second = open("anna", 9).unwrap();
        pull("anna", &first).unwrap();
        open("anna", 9).unwrap();
        let fault = pull("anna", &second).unwrap_err();
        assert_eq!(fault.kind, Kind::InvalidEnumerationContext, "the one that waited the longest is gone");
        pull("anna", &first).unwrap();
        open("bert", 2).unwrap();
        open("cora", 2).unwrap();
        assert_eq!(contexts.size().0, 3, "of all");
        assert_eq!(open("anna", 100).unwrap_err().kind, Kind::QuotaLimit, "one that has no room by itself");
        for _ in 0..5000 {
            open("anna", 9).unwrap();
            let (count, bytes) = contexts.size();
            assert!(count <= 3 && bytes <= 3000, "{count} {bytes}");
        }
    }
}
