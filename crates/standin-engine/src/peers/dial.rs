//! How a link comes about: from here, from there, or both at once.
//!
//! ```text
//!   dial: the addresses, a second apart ── the first that answers ── Request::Link ──> Reply::Linked ── install
//!   accept: Request::Link ── whose id is it? ── install ── Reply::Linked
//! ```
//!
//! Nobody makes a second link with a host. Only two hosts that dial each other at once have two, for an instant: both ends
//! see both, and both keep the one that the host with the smaller id dialled ([`supersedes`]). The other closes when its
//! calls are done.

use super::book::{IDS, Peer, proven_addresses};
use super::calls::LINKS_SINCE;
use super::link::{Birth, Ends, Link};
use super::silence::Silence;
use super::{Address, Entry, Hosts, Peers};
use crate::messages::{RefusedReply, Reply, Request};
use standin_model::{HostId, Refusal};
use standin_wire::{Connection, Error, Frame, Receiver, Sender};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use uuid::Uuid;

/// All of a dial.
const DIAL: Duration = Duration::from_secs(15);
/// How much later the next address of a host is tried.
const STAGGER: Duration = Duration::from_secs(1);
/// How long a host may take to take the link.
const REPLY: Duration = Duration::from_secs(5);
/// Two links that came up within this time may be two dials that crossed. Longer than a dial can take.
const CROSSING: Duration = Duration::from_secs(20);
/// How long a refused host may take to read why.
const LAST_WORD: Duration = Duration::from_secs(5);

/// Whether a new link takes the place of one that is there, seen from either end.
fn supersedes(me: HostId, peer: HostId, new: &Birth, old: &Birth) -> Verdict {
    if new.run != old.run || (new.dialled == old.dialled && new.number > old.number) {
        // The peer was restarted, or has made another one: it does not have the old one any more.
        return Verdict::OldIsGone;
    }
    if new.dialled == old.dialled {
        return Verdict::OldStays;
    }
    if old.at.elapsed() > CROSSING {
        // Nobody dials who has a link.
        return Verdict::OldIsGone;
    }
    if new.dialled == (me < peer) { Verdict::NewWins } else { Verdict::OldStays }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    NewWins,
    OldStays,
    OldIsGone,
}

impl Peers {
    /// The link with a host: the one that is there, or a new one. Several that ask for the same wait for one dial.
    pub(super) async fn link(self: &Arc<Self>, address: &Address) -> Result<Arc<Link>, Silence> {
        if let Some(link) = self.find(address) {
            return Ok(link);
        }
        let mut dialled = self.dialling(address);
        match dialled.wait_for(Option::is_some).await.as_deref() {
            // Of two that came up at once, the one that stays.
            Ok(Some(Ok(link))) => Ok(self.find(address).unwrap_or_else(|| Arc::clone(link))),
            Ok(Some(Err(silence))) => Err(silence.clone()),
            Ok(None) | Err(_) => Err(Silence::Stopping),
        }
    }

    fn dialling(self: &Arc<Self>, address: &Address) -> watch::Receiver<Option<Result<Arc<Link>, Silence>>> {
        let mut hosts = self.lock();
        if let Some(dialled) = hosts.dialling.get(address) {
            if dialled.has_changed().is_ok() {
                return dialled.clone();
            }
        }
        let (into, dialled) = watch::channel(None);
        hosts.dialling.insert(address.clone(), dialled.clone());
        let (peers, address) = (Arc::clone(self), address.clone());
        self.service.tasks.spawn(async move {
            let link = tokio::select! {
                biased;
                () = peers.service.shutdown.cancelled() => Err(Silence::Stopping),
                link = peers.dial(&address) => link,
            };
            peers.lock().dialling.remove(&address);
            into.send_replace(Some(link));
        });
        dialled
    }

    async fn dial(self: &Arc<Self>, address: &Address) -> Result<Arc<Link>, Silence> {
        let give_up = Instant::now() + DIAL;
        let mut connecting = JoinSet::new();
        let mut wait = Duration::ZERO;
        for candidate in self.candidates(address) {
            let transport = Arc::clone(&self.transport);
            connecting.spawn(async move {
                sleep(wait).await;
                let connected = transport.connect(&candidate).await;
                (candidate, connected)
            });
            wait += STAGGER;
        }
        let mut silence = Silence::NoAddress { host: self.title(address) };
        loop {
            match timeout_at(give_up, connecting.join_next()).await {
                Ok(Some(Ok((candidate, Ok(connection))))) => {
                    match timeout_at(give_up, self.greet(connection, &candidate, address.host)).await {
                        Ok(Ok(link)) => return Ok(link),
                        Ok(Err(why)) => silence = why,
                        Err(_) => silence = Silence::NoAnswer { host: candidate },
                    }
                }
                Ok(Some(Ok((candidate, Err(error))))) => silence = Silence::unreachable(&candidate, error),
                Ok(Some(Err(error))) => tracing::error!(%error, "a dial ended by a defect"),
                Ok(None) => return Err(silence),
                Err(_) if matches!(silence, Silence::NoAddress { .. }) => {
                    return Err(Silence::NoAnswer { host: self.title(address) });
                }
                Err(_) => return Err(silence),
            }
        }
    }

    /// What may lead to a host: what the caller knows, then what was learned.
    fn candidates(&self, address: &Address) -> Vec<String> {
        let learned = address.host.and_then(|host| self.book.get(host));
        let learned = learned.into_iter().flat_map(|record| record.addresses);
        let mut candidates: Vec<String> = Vec::new();
        for candidate in address.addresses.iter().cloned().chain(learned) {
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
        candidates
    }

    fn title(&self, address: &Address) -> String {
        let name = address.host.and_then(|host| self.name(host));
        let known = name.or_else(|| address.addresses.first().cloned());
        known.or_else(|| address.host.map(|host| host.to_string())).unwrap_or_default()
    }

    /// Makes a link of a connection that this host has opened.
    async fn greet(
        self: &Arc<Self>,
        connection: Connection,
        candidate: &str,
        expected: Option<HostId>,
    ) -> Result<Arc<Link>, Silence> {
        let hello = connection.peer_hello().clone();
        let identity = connection.peer().clone();
        let speaks = connection.version() >= LINKS_SINCE;
        let (mut sender, mut receiver) = connection.split();
        if !speaks {
            hang_up(sender).await;
            return Err(Silence::OldVersion { host: candidate.to_owned() });
        }
        let peer = match self.book.admit(&identity, &hello, Some(candidate)).await {
            Ok(peer) => peer,
            Err(refusal) => {
                hang_up(sender).await;
                return Err(Silence::Refused(refusal));
            }
        };
        if expected.is_some_and(|id| id != peer.id && peer.former_ids().all(|former| former != id)) {
            hang_up(sender).await;
            let (address, name, found) = (candidate.to_owned(), peer.name, peer.id);
            return Err(Silence::OtherHost { address, name, found });
        }
        if let Some(link) = self.find(&Address { host: Some(peer.id), addresses: Vec::new() }) {
            // It has dialled meanwhile, or is known by another address.
            hang_up(sender).await;
            link.leads_here(candidate);
            return Ok(link);
        }
        let number = self.dials.fetch_add(1, Ordering::Relaxed);
        let broken = |error| Silence::unreachable(candidate, error);
        sender.control(&Request::Link { run: self.run, number }).await.map_err(broken)?;
        let run = self.taken(&mut receiver, candidate).await?;
        let birth = Birth { dialled: true, run, number, at: Instant::now() };
        Ok(self.install(peer, birth, vec![candidate.to_owned()], sender, receiver))
    }

    /// Waits until the other host takes the link, and returns its run.
    async fn taken(&self, receiver: &mut Receiver, candidate: &str) -> Result<Uuid, Silence> {
        let frame = match timeout(REPLY, receiver.next()).await {
            Ok(Ok(Some(frame))) => frame,
            Ok(Ok(None)) => return Err(Silence::unreachable(candidate, Error::Closed { mid_frame: false })),
            Ok(Err(error)) => return Err(Silence::unreachable(candidate, error)),
            Err(_) => return Err(Silence::NoAnswer { host: candidate.to_owned() }),
        };
        let Frame::Control(control) = frame else { return Err(out_of_turn(candidate)) };
        match control.parse::<Reply>() {
            Ok(Reply::Linked { run }) => Ok(run),
            Ok(Reply::Refused(RefusedReply { refusal, .. })) => Err(Silence::Refused(refusal)),
            Ok(_) => Err(out_of_turn(candidate)),
            Err(error) => Err(Silence::unreachable(candidate, error)),
        }
    }

    /// Takes a link that another host has opened.
    pub(super) async fn take(self: &Arc<Self>, connection: Connection, run: Uuid, number: u64) {
        let (identity, hello) = (connection.peer().clone(), connection.peer_hello().clone());
        let (mut sender, receiver) = connection.split();
        let peer = match self.book.admit(&identity, &hello, None).await {
            Ok(peer) => peer,
            Err(refusal) => return turn_away(&identity.address.to_string(), refusal, sender, receiver).await,
        };
        if let Err(error) = sender.control(&Reply::Linked { run: self.run }).await {
            tracing::info!(peer = %peer.name, %error, "a host that made a link has gone");
            return;
        }
        let birth = Birth { dialled: false, run, number, at: Instant::now() };
        self.install(peer, birth, proven_addresses(&identity, &hello), sender, receiver);
    }

    /// Lets a link work. Where there is another one with the same host, one of both goes.
    fn install(
        self: &Arc<Self>,
        peer: Peer,
        birth: Birth,
        known_as: Vec<String>,
        sender: Sender,
        receiver: Receiver,
    ) -> Arc<Link> {
        let mut hosts = self.lock();
        let entry = hosts.entries.entry(peer.id).or_insert_with(Entry::new);
        let (link, queue) = Link::new(peer, birth, known_as, entry.state.clone());
        let old = entry.link.as_ref().filter(|old| old.is_up());
        let verdict = old.map(|old| supersedes(self.me, link.peer.id, &birth, &old.birth));
        match (old, verdict) {
            (Some(_), Some(Verdict::OldStays)) => link.retire(),
            (Some(old), Some(Verdict::NewWins)) => {
                old.retire();
                entry.link = Some(Arc::clone(&link));
            }
            (old, _) => {
                if let Some(old) = old {
                    old.drop_now();
                }
                tracing::info!(peer = %link.peer.name, dialled = birth.dialled, "linked");
                entry.link = Some(Arc::clone(&link));
                entry.goes_up();
            }
        }
        bound_links(&hosts, &link);
        drop(hosts);
        let (peers, running) = (Arc::clone(self), Arc::clone(&link));
        self.service.tasks.spawn(async move {
            let silence = running.run(Ends { sender, receiver, queue }, &peers.service).await;
            peers.is_over(&running, silence);
        });
        link
    }

    fn is_over(&self, link: &Arc<Link>, silence: Silence) {
        let mut hosts = self.lock();
        let Some(entry) = hosts.entries.get_mut(&link.peer.id) else { return };
        if entry.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            tracing::info!(peer = %link.peer.name, reason = %silence, "the link is down");
            entry.link = None;
            entry.goes_down(silence);
            if self.book.get(link.peer.id).is_none() {
                hosts.entries.remove(&link.peer.id);
            }
        }
    }
}

/// A certificate that presents one id after the other has as many links as it may have ids.
fn bound_links(hosts: &Hosts, new: &Link) {
    let links = hosts.entries.values().filter_map(|entry| entry.link.as_ref());
    let mut same: Vec<_> = links.filter(|link| link.peer.name == new.peer.name).collect();
    same.sort_by_key(|link| std::cmp::Reverse(link.birth.at));
    for surplus in same.into_iter().skip(IDS) {
        surplus.drop_now();
    }
}

fn out_of_turn(candidate: &str) -> Silence {
    let reason = "its answer to a link is none".to_owned();
    Silence::Unreadable { host: candidate.to_owned(), reason }
}

async fn hang_up(sender: Sender) {
    if let Err(error) = sender.close().await {
        tracing::debug!(%error, "a connection that is of no use ended without a goodbye");
    }
}

async fn turn_away(from: &str, refusal: Refusal, mut sender: Sender, mut receiver: Receiver) {
    tracing::warn!(%from, reason = %refusal, remedy = %refusal.remedy, "a host was refused a link");
    let refused = Reply::Refused(RefusedReply { refusal, generation: None, claim: None, failed_over: false });
    if let Err(error) = sender.control(&refused).await {
        tracing::debug!(%from, %error, "the refusal could not be delivered");
        return;
    }
    // It hangs up when it has read it.
    let drain = async { while let Ok(Some(_)) = receiver.next().await {} };
    if timeout(LAST_WORD, drain).await.is_err() {
        tracing::debug!(%from, "a host that was refused a link does not hang up");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn birth(dialled: bool, run: u128, number: u64) -> Birth {
        Birth { dialled, run: Uuid::from_u128(run), number, at: Instant::now() }
    }

    /// What both ends decide about two links, one dialled by each: which one stays, as the name of its dialler.
    fn kept(first: &str) -> [&'static str; 2] {
        let (small, large) = (HostId(Uuid::from_u128(1)), HostId(Uuid::from_u128(2)));
        [(small, large, true), (large, small, false)].map(|(me, peer, is_small)| {
            let (by_small, by_large) = (birth(is_small, 7, 4), birth(!is_small, 7, 9));
            let (old, new) = if first == "small" { (by_small, by_large) } else { (by_large, by_small) };
            match (supersedes(me, peer, &new, &old), first) {
                (Verdict::NewWins, "small") | (Verdict::OldStays, "large") => "large",
                (Verdict::NewWins, "large") | (Verdict::OldStays, "small") => "small",
                (verdict, _) => panic!("{verdict:?}"),
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_dials_that_cross_both_ends_keep_that_of_the_smaller_id() {
        assert_eq!(kept("small"), ["small", "small"]);
        assert_eq!(kept("large"), ["small", "small"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_link_takes_the_place_of_one_that_its_dialler_cannot_have_any_more() {
        let (me, peer) = (HostId(Uuid::from_u128(1)), HostId(Uuid::from_u128(2)));
        let old = birth(true, 7, 1);
        assert_eq!(supersedes(me, peer, &birth(false, 7, 1), &old), Verdict::OldStays);
        assert_eq!(supersedes(me, peer, &birth(false, 8, 1), &old), Verdict::OldIsGone, "it was restarted");
        assert_eq!(supersedes(me, peer, &birth(true, 7, 2), &old), Verdict::OldIsGone, "dialled again");
        assert_eq!(supersedes(me, peer, &birth(true, 7, 0), &old), Verdict::OldStays, "an older dial");
        sleep(CROSSING + Duration::from_secs(1)).await;
        assert_eq!(supersedes(me, peer, &birth(false, 7, 1), &old), Verdict::OldIsGone, "long since up");
    }
}
