//! What runs a link: it reads, writes, tells and takes in, all in one task, until one of them ends.

use super::{Busy, Link, Service};
use crate::peers::calls::{Answer, Body, Call, ClaimFact, Envelope, Received, read};
use crate::peers::reason::Peer;
use crate::peers::{Answers, Silence};
use standin_model::Refusal;
use standin_wire::{Error, Frame, Receiver, Sender};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// VMs in one message of claims: far below the limit of a frame.
const FACTS: usize = 1000;
/// How long a peer may take to take in claims before they are told again.
const CLAIMS_WITHIN: Duration = Duration::from_secs(60);
/// After that, how long until then.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a link that was replaced waits for what is in flight.
const RETIRE_WITHIN: Duration = Duration::from_secs(20);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a link runs on.
pub(in crate::peers) struct Ends {
    pub sender: Sender,
    pub receiver: Receiver,
    pub queue: mpsc::Receiver<Envelope>,
}

impl Link {
    /// Serves the link until it is over, and says why it is.
    pub(in crate::peers) async fn run(self: &Arc<Self>, ends: Ends, service: &Service) -> Silence {
        let Ends { sender, receiver, queue } = ends;
        let (claims, told) = mpsc::channel(4);
        let why = tokio::select! {
            biased;
            () = self.dropped.cancelled() => self.silence("the other host has made another one"),
            why = self.read(receiver, claims, service) => why,
            why = self.write(sender, queue, service) => why,
            why = self.tell_news(service) => why,
            why = self.take_in(told, service) => why,
        };
        let mut calls = self.calls();
        calls.ended = Some(why.clone());
        for (_, waiting) in std::mem::take(&mut calls.waiting) {
            // Whoever does not wait any more needs no word.
            drop(waiting.send(Err(why.clone())));
        }
        drop(calls);
        self.slots.close();
        self.over.cancel();
        why
    }

    async fn read(
        self: &Arc<Self>,
        mut receiver: Receiver,
        claims: mpsc::Sender<(u64, Vec<ClaimFact>)>,
        service: &Service,
    ) -> Silence {
        loop {
            let received = match receiver.next().await {
                Ok(Some(Frame::Control(control))) => read(&control),
                Ok(Some(Frame::Block(_))) => Err(Error::Frame { reason: "a block on a link".to_owned() }),
                Ok(None) => return self.silence("the other host closed it"),
                Err(error) => Err(error),
            };
            self.state.send_if_modified(|state| {
                state.last_heard = Some(Instant::now());
                false
            });
            match received {
                Ok(Received::Call(id, Ok(Call::Claims(facts)))) => {
                    // A peer of this version tells claims one message after the other.
                    if claims.try_send((id, facts)).is_err() {
                        self.answer(id, Answer::Refused(busy())).await;
                    }
                }
                Ok(Received::Call(id, Ok(call))) => self.take(id, call, service).await,
                Ok(Received::Call(id, Err(why))) => {
                    self.answer(id, Answer::Refused(not_understood(&why))).await
                }
                Ok(Received::Answer(id, answer)) => {
                    let unreadable = |reason| Silence::Unreadable { host: self.peer.name.clone(), reason };
                    self.answered(id, answer.map_err(unreadable));
                }
                Ok(Received::Other) => {
                    tracing::debug!(peer = %self.peer.name, "a newer peer said something that is not known here");
                }
                Err(error) => return self.silence(crate::error::chain(&error)),
            }
        }
    }

    fn answered(&self, id: u64, answer: Result<Answer, Silence>) {
        let Some(waiting) = self.calls().waiting.remove(&id) else {
            tracing::debug!(peer = %self.peer.name, id, "an answer came after its deadline");
            return;
        };
        // Whoever does not wait any more needs no answer.
        drop(waiting.send(answer));
    }

    /// Answers a call in a task of its own. It runs to its end also when the link does not: what was begun is kept.
    async fn take(self: &Arc<Self>, id: u64, call: Call, service: &Service) {
        let Some(answers) = service.answers() else {
            return self.answer(id, Answer::Refused(starting())).await;
        };
        let Ok(permit) = Arc::clone(&self.answering).try_acquire_owned() else {
            return self.answer(id, Answer::Refused(busy())).await;
        };
        let link = Arc::clone(self);
        let in_flight = Busy::new(self);
        service.tasks.spawn(async move {
            let answer = answers.answer(&link.peer, call).await;
            link.answer(id, answer).await;
            drop((permit, in_flight));
        });
    }

    async fn answer(&self, id: u64, answer: Answer) {
        if self.queue.send(Envelope { id, body: Body::Answer(answer) }).await.is_err() {
            tracing::debug!(peer = %self.peer.name, "the link ended before an answer could be sent");
        }
    }

    /// Takes in the peer's claims in their order.
    async fn take_in(
        self: &Arc<Self>,
        mut told: mpsc::Receiver<(u64, Vec<ClaimFact>)>,
        service: &Service,
    ) -> Silence {
        let Some(answers) = self.answers(service).await else { return Silence::Stopping };
        while let Some((id, facts)) = told.recv().await {
            let (link, answers) = (Arc::clone(self), Arc::clone(&answers));
            let in_flight = Busy::new(self);
            // Not within this future, which ends with the link.
            let taking = service.tasks.spawn(async move {
                let answer = answers.answer(&link.peer, Call::Claims(facts)).await;
                link.answer(id, answer).await;
                drop(in_flight);
            });
            if let Err(error) = taking.await {
                tracing::error!(peer = %self.peer.name, %error, "claims were not taken in, by a defect");
            }
        }
        std::future::pending().await
    }

    async fn answers(&self, service: &Service) -> Option<Arc<dyn Answers>> {
        let mut set = service.answers.subscribe();
        set.wait_for(Option::is_some).await.ok().and_then(|answers| answers.clone())
    }

    /// Tells what this host knows of the VMs that both share, and every change of it.
    async fn tell_news(self: &Arc<Self>, service: &Service) -> Silence {
        let Some(answers) = self.answers(service).await else { return Silence::Stopping };
        self.tell_again(answers.met(&self.peer).await);
        loop {
            let facts = self.take_news();
            if facts.is_empty() {
                self.has_news.notified().await;
                continue;
            }
            let deadline = Instant::now() + CLAIMS_WITHIN;
            match self.call(Call::Claims(facts.clone()), deadline).await {
                Ok(Answer::Claims(theirs)) => self.heard(&answers, theirs, service).await,
                Ok(other) => {
                    tracing::info!(peer = %self.peer.name, answer = ?other, "what is told of shared VMs is not taken");
                }
                Err(silence) => {
                    tracing::debug!(peer = %self.peer.name, %silence, "what is told of shared VMs is told again");
                    self.tell_again(facts);
                    if !self.is_up() {
                        return std::future::pending().await;
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// What was told since is newer.
    fn tell_again(&self, facts: Vec<ClaimFact>) {
        let mut news = self.news();
        for fact in facts {
            news.entry(fact.vm).or_insert(fact);
        }
    }

    /// Takes in what the peer knows of the VMs that it was told about.
    async fn heard(self: &Arc<Self>, answers: &Arc<dyn Answers>, facts: Vec<ClaimFact>, service: &Service) {
        let (link, answers) = (Arc::clone(self), Arc::clone(answers));
        let taking = service.tasks.spawn(async move { answers.heard(&link.peer, facts).await });
        if let Err(error) = taking.await {
            tracing::error!(peer = %self.peer.name, %error, "claims were not taken in, by a defect");
        }
    }

    fn take_news(&self) -> Vec<ClaimFact> {
        let mut news = self.news();
        let mut facts = Vec::new();
        while facts.len() < FACTS {
            let Some((_, fact)) = news.pop_first() else { break };
            facts.push(fact);
        }
        facts
    }

    async fn write(
        &self,
        mut sender: Sender,
        mut queue: mpsc::Receiver<Envelope>,
        service: &Service,
    ) -> Silence {
        let done = self.done_with();
        tokio::pin!(done);
        loop {
            let envelope = tokio::select! {
                biased;
                Some(envelope) = queue.recv() => envelope,
                () = &mut done => break,
                () = service.shutdown.cancelled() => break,
            };
            if let Err(error) = self.send(&mut sender, envelope).await {
                return self.silence(crate::error::chain(&error));
            }
        }
        queue.close();
        while let Ok(envelope) = queue.try_recv() {
            if let Err(error) = self.send(&mut sender, envelope).await {
                return self.silence(crate::error::chain(&error));
            }
        }
        match timeout(GOODBYE, sender.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(peer = %self.peer.name, %error, "a link ended without a goodbye")
            }
            Err(_) => tracing::debug!(peer = %self.peer.name, "a link ended without a goodbye"),
        }
        if service.shutdown.is_cancelled() {
            Silence::Stopping
        } else {
            self.silence("another one has taken its place")
        }
    }

    /// A message that does not fit into a frame concerns nobody but those who wait for it.
    async fn send(&self, sender: &mut Sender, envelope: Envelope) -> Result<(), Error> {
        let reason = match sender.control(&envelope).await {
            Err(Error::Frame { reason }) => reason,
            sent => return sent,
        };
        tracing::warn!(peer = %self.peer.name, reason, "a message for another host cannot be sent");
        match envelope.body {
            Body::Call(_) => {
                self.answered(envelope.id, Err(Silence::Unsendable { host: self.peer.name.clone(), reason }));
                Ok(())
            }
            Body::Answer(_) => {
                let body = Body::Answer(Answer::Refused(too_long()));
                sender.control(&Envelope { id: envelope.id, body }).await
            }
        }
    }

    async fn done_with(&self) {
        self.retired.cancelled().await;
        let mut busy = self.busy.subscribe();
        if timeout(RETIRE_WITHIN, busy.wait_for(|calls| *calls == 0)).await.is_err() {
            tracing::debug!(peer = %self.peer.name, "a link that was replaced ends with calls in flight");
        }
    }
}

fn busy() -> Refusal {
    Peer::Busy.into()
}

fn starting() -> Refusal {
    Peer::Starting.into()
}

fn not_understood(why: &str) -> Refusal {
    Peer::NotUnderstood { why: why.to_owned() }.into()
}

fn too_long() -> Refusal {
    Peer::TooLong.into()
}
