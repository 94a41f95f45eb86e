//! Open enumerations: what the pulled operations leave between two requests.
//!
//! An enumeration keeps its elements as they will be sent, so that its memory is known. Invariants: it belongs to
//! the user who opened it, nobody else can tell that it is there; all together and those of one user are bounded in
//! number and bytes, and what waited the longest makes room (`standin_access::quota`), because clients go away without
//! closing; one that was not asked for within its time is gone, and so is its memory soon after.

use standin_access::quota::{self, Held, Quota};
use standin_cim::{CimError, Namespace, Result, StatusCode};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long one waits when the client does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest that a client may ask for.
const MAX_TIMEOUT: u32 = 900;

/// What an enumeration is made of, and so which operation may pull it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `VALUE.INSTANCEWITHPATH`, by PullInstancesWithPath.
    WithPath,
    /// `INSTANCEPATH`, by PullInstancePaths.
    Paths,
    /// `INSTANCE`, by PullInstances.
    Instances,
}

/// Who asks for elements of what, and in which namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub user: &'a Arc<str>,
    pub namespace: &'a Namespace,
    pub kind: Kind,
}

struct Open {
    user: Arc<str>,
    namespace: Namespace,
    kind: Kind,
    elements: VecDeque<Box<str>>,
    bytes: usize,
    timeout: Duration,
    used: Instant,
    until: Instant,
}

/// What one request gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// The elements.
    pub elements: String,
    /// How the enumeration goes on; `None` at its end.
    pub context: Option<String>,
}

/// The open enumerations of an endpoint.
#[derive(Default)]
pub(crate) struct Enumerations {
    open: Mutex<HashMap<Uuid, Open>>,
    quota: Quota,
}

/// How long an enumeration may wait for its client.
pub(crate) fn timeout(asked: Option<u32>) -> Result<Duration> {
    match asked {
        None => Ok(DEFAULT_TIMEOUT),
        Some(seconds @ 1..=MAX_TIMEOUT) => Ok(Duration::from_secs(seconds.into())),
        Some(seconds) => Err(CimError::new(
            StatusCode::InvalidOperationTimeout,
            format!("OperationTimeout is {seconds}, and from 1 to {MAX_TIMEOUT} seconds are possible"),
        )),
    }
}

impl Enumerations {
    /// Gives the first elements, and keeps the others.
    ///
    /// # Errors
    /// `ServerLimitsExceeded`.
    pub fn open(
        &self,
        asker: Asker<'_>,
        elements: Vec<Box<str>>,
        most: u32,
        timeout: Duration,
    ) -> Result<Page> {
        let mut elements = VecDeque::from(elements);
        let taken = take(&mut elements, most);
        if elements.is_empty() {
            return Ok(Page { elements: taken, context: None });
        }
        let now = Instant::now();
        let bytes = elements.iter().map(|element| element.len()).sum();
        let mut open = self.swept(now);
        let held = open.iter().map(|(key, one)| Held {
            key: *key,
            owner: &one.user,
            bytes: one.bytes,
            used: one.used,
        });
        let gone = quota::make_room(&self.quota, held, asker.user, bytes)
            .map_err(|error| CimError::new(StatusCode::ServerLimitsExceeded, error.to_string()))?;
        for id in gone {
            open.remove(&id);
        }
        let id = Uuid::new_v4();
        open.insert(
            id,
            Open {
                user: asker.user.clone(),
                namespace: asker.namespace.clone(),
                kind: asker.kind,
                elements,
                bytes,
                timeout,
                used: now,
                until: now + timeout,
            },
        );
        Ok(Page { elements: taken, context: Some(id.to_string()) })
    }

    /// Gives further elements; at most none, which only keeps the enumeration waiting.
    ///
    /// # Errors
    /// `InvalidEnumerationContext`: there is none of this user, it has ended, or holds something else.
    pub fn pull(&self, asker: Asker<'_>, context: &str, most: u32) -> Result<Page> {
        let now = Instant::now();
        let mut all = self.swept(now);
        let id = find(&all, asker, context)?;
        let Some(open) = all.get_mut(&id).filter(|open| open.kind == asker.kind) else {
            let message = "the enumeration was opened for another pull operation";
            return Err(CimError::new(StatusCode::InvalidEnumerationContext, message));
        };
        let taken = take(&mut open.elements, most);
        open.bytes = open.bytes.saturating_sub(taken.len());
        open.used = now;
        open.until = now + open.timeout;
        let ended = open.elements.is_empty();
        if ended {
            all.remove(&id);
        }
        Ok(Page { elements: taken, context: (!ended).then(|| id.to_string()) })
    }

    /// Forgets an enumeration.
    ///
    /// # Errors
    /// `InvalidEnumerationContext`: there is none of this user.
    pub fn close(&self, asker: Asker<'_>, context: &str) -> Result<()> {
        let mut all = self.swept(Instant::now());
        let id = find(&all, asker, context)?;
        all.remove(&id);
        Ok(())
    }

    /// Drops what nobody asked for within its time.
    pub fn sweep(&self) {
        drop(self.swept(Instant::now()));
    }

    /// The enumerations whose time is not over.
    fn swept(&self, now: Instant) -> MutexGuard<'_, HashMap<Uuid, Open>> {
        // Each change is one step, so that a panic elsewhere leaves the map whole.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, open| open.until > now);
        open
    }
}

/// The enumeration of that user in that namespace.
fn find(open: &HashMap<Uuid, Open>, asker: Asker<'_>, context: &str) -> Result<Uuid> {
    let id = Uuid::try_parse(context.trim()).ok();
    let id = id.filter(|id| {
        open.get(id).is_some_and(|open| open.user == *asker.user && open.namespace == *asker.namespace)
    });
    id.ok_or_else(|| {
        let message = "there is no such enumeration: it ended, was closed, waited too long, or made room for newer ones; \
             open it again";
        CimError::new(StatusCode::InvalidEnumerationContext, message)
    })
}

fn take(elements: &mut VecDeque<Box<str>>, most: u32) -> String {
    let count = elements.len().min(most.try_into().unwrap_or(usize::MAX));
    elements.drain(..count).fold(String::new(), |mut all, element| {
        all.push_str(&element);
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker<'a>(user: &'a Arc<str>, namespace: &'a Namespace) -> Asker<'a> {
        Asker { user, namespace, kind: Kind::Paths }
    }

    fn elements(count: usize, length: usize) -> Vec<Box<str>> {
        vec!["x".repeat(length).into(); count]
    }

    #[test]
    fn elements_come_in_pages_until_the_end() {
        let (user, namespace) = (Arc::from("u"), Namespace::new("root"));
        let all = Enumerations::default();
        let asker = asker(&user, &namespace);
        let first = all.open(asker, elements(5, 1), 2, DEFAULT_TIMEOUT).unwrap();
        assert_eq!(first.elements, "xx");
        let context = first.context.unwrap();
        assert_eq!(all.pull(asker, &context, 0).unwrap().elements, "");
        assert_eq!(
            all.pull(asker, &context, 2).unwrap(),
            Page { elements: "xx".into(), context: Some(context.clone()) }
        );
        assert_eq!(all.pull(asker, &context, 9).unwrap(), Page { elements: "x".into(), context: None });
        assert_eq!(all.pull(asker, &context, 1).unwrap_err().status, StatusCode::InvalidEnumerationContext);
        assert_eq!(all.open(asker, elements(2, 1), 2, DEFAULT_TIMEOUT).unwrap().context, None);
    }

    #[test]
    fn an_enumeration_is_of_its_user_namespace_and_kind() {
        let (user, namespace) = (Arc::from("u"), Namespace::new("root"));
        let (other, elsewhere) = (Arc::from("v"), Namespace::new("root/x"));
        let all = Enumerations::default();
        let owner = asker(&user, &namespace);
        let context = all.open(owner, elements(5, 1), 0, DEFAULT_TIMEOUT).unwrap().context.unwrap();
        for wrong in
            [asker(&other, &namespace), asker(&user, &elsewhere), Asker { kind: Kind::Instances, ..owner }]
        {
            let error = all.pull(wrong, &context, 1).unwrap_err();
            assert_eq!(error.status, StatusCode::InvalidEnumerationContext);
        }
        assert!(all.close(asker(&other, &namespace), &context).is_err());
        assert!(all.pull(owner, "no-uuid", 1).is_err());
        assert!(all.close(owner, &context).is_ok());
        assert!(all.pull(owner, &context, 1).is_err());
    }

    #[test]
    fn an_enumeration_that_nobody_asks_for_goes_away() {
        let (user, namespace) = (Arc::from("u"), Namespace::new("root"));
        let all = Enumerations::default();
        let owner = asker(&user, &namespace);
        let context = all.open(owner, elements(5, 1), 0, Duration::from_millis(5)).unwrap().context.unwrap();
        std::thread::sleep(Duration::from_millis(10));
        assert!(all.pull(owner, &context, 1).is_err());
        assert!(all.open.lock().unwrap().is_empty(), "its memory is free");
        all.open(owner, elements(5, 1), 0, Duration::from_millis(5)).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        all.sweep();
        assert!(all.open.lock().unwrap().is_empty(), "without a request too");
    }

    #[test]
    fn number_and_memory_are_bounded_and_the_longest_idle_makes_room() {
        let (user, namespace) = (Arc::from("u"), Namespace::new("root"));
        let quota = Quota { of_one: 20, of_all: 30, bytes_of_one: 100, bytes_of_all: 120 };
        let all = Enumerations { quota, ..Enumerations::default() };
        let open = |user: &Arc<str>, length| {
            let page = all.open(asker(user, &namespace), elements(1, length), 0, DEFAULT_TIMEOUT);
            page.map(|page| page.context.unwrap())
        };
        let first = open(&user, 1).unwrap();
        for _ in 0..2000 {
            open(&user, 1).unwrap();
        }
        assert_eq!(all.open.lock().unwrap().len(), quota.of_one);
        let gone = all.pull(asker(&user, &namespace), &first, 1).unwrap_err();
        assert_eq!(gone.status, StatusCode::InvalidEnumerationContext);
        let other = Arc::from("v");
        let kept = open(&other, 30).unwrap();
        assert_eq!(open(&user, 101).unwrap_err().status, StatusCode::ServerLimitsExceeded);
        open(&user, 90).unwrap();
        let bytes: usize = all.open.lock().unwrap().values().map(|one| one.bytes).sum();
        assert!(bytes <= quota.bytes_of_all, "{bytes}");
        all.pull(asker(&other, &namespace), &kept, 0).unwrap();
    }

    #[test]
    fn timeouts_are_within_limits() {
        assert_eq!(timeout(None).unwrap(), DEFAULT_TIMEOUT);
        assert_eq!(timeout(Some(1)).unwrap(), Duration::from_secs(1));
        for seconds in [0, MAX_TIMEOUT + 1, u32::MAX] {
            assert_eq!(timeout(Some(seconds)).unwrap_err().status, StatusCode::InvalidOperationTimeout);
        }
    }
}
