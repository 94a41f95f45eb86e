//! The primary's end of a session with a replica: opens it, asks, and sends blocks.
//!
//! A reader task turns frames into replies, so that a refusal which the replica sends in the middle of a pass
//! (its disk is full, somebody failed over) is seen at once, and waiting for a reply can be cancelled.

use crate::error::WorkError;
use crate::messages::{Offer, Opened, Reply, Request};
use crate::peers::{self, Peers};
use crate::tasks;
use standin_model::HostId;
use standin_model::fence::Claim;
use standin_wire::block::EncodedBlock;
use standin_wire::{Connection, Frame, Receiver, Sender};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long a replica may take to answer. Sealing a large layer flushes it to disk, so this is generous; a dead
/// link is found much sooner by the wire's own idle timer.
const ANSWER: Duration = Duration::from_secs(300);

/// An open session.
pub struct Session {
    peer: String,
    sender: Sender,
    replies: mpsc::Receiver<Result<Reply, standin_wire::Error>>,
    reader: JoinHandle<()>,
    /// Who is at the other end.
    host: Option<HostId>,
    host_name: String,
    opened: Opened,
    sent_before: u64,
    /// Something came that nobody had asked for.
    stale: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Session {
    /// Connects and asks whether this host may replicate to `peer`.
    ///
    /// # Errors
    /// The link's or the replica's reason.
    pub async fn probe(peers: &Peers, peer: &str) -> Result<(), WorkError> {
        let mut session = Self::dial(peers, peer).await?;
        session.done(&Request::Probe).await
    }

    /// Connects and makes the relationship on the replica.
    ///
    /// # Errors
    /// The link's or the replica's reason; nothing changed then.
    pub async fn create(peers: &Peers, peer: &str, offer: Offer) -> Result<Self, WorkError> {
        Self::begin(peers, peer, Request::Create(Box::new(offer))).await
    }

    /// Connects and opens a session of an existing relationship.
    ///
    /// # Errors
    /// The link's or the replica's reason.
    pub async fn open(peers: &Peers, peer: &str, offer: Offer) -> Result<Self, WorkError> {
        Self::begin(peers, peer, Request::Open(Box::new(offer))).await
    }

    async fn begin(peers: &Peers, peer: &str, request: Request) -> Result<Self, WorkError> {
        let mut session = Self::dial(peers, peer).await?;
        session.opens(&request).await?;
        Ok(session)
    }

    /// Connects, and asks nothing yet.
    ///
    /// # Errors
    /// The link's reason, or why the host there may not be who it says it is.
    pub async fn dial(peers: &Peers, peer: &str) -> Result<Self, WorkError> {
        let connection = peers.stream(peer).await?;
        let (identity, hello) = (connection.peer(), connection.peer_hello());
        if peers::host_id(identity, hello).is_some() {
            let known = peers.identify(identity, hello).await;
            known.map_err(|refusal| WorkError::NotItself { refusal })?;
        }
        Ok(Self::over(peer, connection))
    }

    /// Opens a session of an existing relationship on a fresh connection.
    ///
    /// # Errors
    /// The link's or the replica's reason.
    pub async fn resume(&mut self, offer: Offer) -> Result<(), WorkError> {
        self.opens(&Request::Open(Box::new(offer))).await
    }

    async fn opens(&mut self, request: &Request) -> Result<(), WorkError> {
        match self.ask(request).await? {
            Reply::Opened(opened) => self.opened = opened,
            other => return Err(self.out_of_turn(&other)),
        }
        Ok(())
    }

    fn over(peer: &str, connection: Connection) -> Self {
        let host = peers::host_id(connection.peer(), connection.peer_hello());
        let host_name = connection.peer().names.first().cloned().unwrap_or_else(|| peer.to_owned());
        let (sender, receiver) = connection.split();
        let (into, replies) = mpsc::channel(4);
        let reader = tasks::spawn(read_replies(receiver, into));
        let opened = Opened {
            generation: Default::default(),
            claim: None,
            head: None,
            has_points: false,
            resumable: false,
            newest: None,
            points: 0,
        };
        let peer = peer.to_owned();
        Self { peer, sender, replies, reader, host, host_name, opened, sent_before: 0, stale: false }
    }

    /// The host at the other end, and its name; `None` where its certificate has no name of its own.
    #[must_use]
    pub fn host(&self) -> Option<(HostId, &str)> {
        self.host.map(|host| (host, self.host_name.as_str()))
    }

    /// What the replica had when the session was opened.
    #[must_use]
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Whether nothing came from the replica since its last answer. A refusal that nobody waited for, or the end
    /// of the connection, means that it restarted, was suspended or failed over while nothing was sent. Once it was
    /// said, the replica only waits for this side to hang up: nothing more is answered, so it stays said.
    pub fn is_fresh(&mut self) -> bool {
        self.stale |= !matches!(self.replies.try_recv(), Err(mpsc::error::TryRecvError::Empty));
        !self.stale
    }

    /// Notes that the replica has sealed `epoch`.
    pub fn advance(&mut self, epoch: standin_model::Epoch) {
        self.opened.head = Some(epoch);
    }

    /// Bytes put on the wire since the last call, frames and records included.
    pub fn take_bytes_sent(&mut self) -> u64 {
        let now = self.sender.bytes_sent();
        let since = now - self.sent_before;
        self.sent_before = now;
        since
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// The link's reason, or the replica's refusal.
    pub async fn ask(&mut self, request: &Request) -> Result<Reply, WorkError> {
        self.tell(request).await?;
        self.flush().await?;
        self.answer().await
    }

    /// Sends a request that must be answered with `Done`.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn done(&mut self, request: &Request) -> Result<(), WorkError> {
        match self.ask(request).await? {
            Reply::Done => Ok(()),
            other => Err(self.out_of_turn(&other)),
        }
    }

    /// Sends a request that has no answer.
    ///
    /// # Errors
    /// The link's reason.
    pub async fn tell(&mut self, request: &Request) -> Result<(), WorkError> {
        let sent = self.sender.control(request).await;
        self.link(sent).await
    }

    /// Sends a block. Waits while the replica or the link is slower than this host.
    ///
    /// # Errors
    /// The link's reason, or a refusal that the replica sent meanwhile.
    pub async fn block(&mut self, block: EncodedBlock) -> Result<(), WorkError> {
        let sent = tokio::select! {
            biased;
            early = self.replies.recv() => return Err(self.early(early)),
            sent = self.sender.block(block) => sent,
        };
        self.link(sent).await
    }

    /// Hands what is buffered to the network.
    ///
    /// # Errors
    /// The link's reason.
    pub async fn flush(&mut self) -> Result<(), WorkError> {
        let flushed = self.sender.flush().await;
        self.link(flushed).await
    }

    async fn answer(&mut self) -> Result<Reply, WorkError> {
        match tokio::time::timeout(ANSWER, self.replies.recv()).await {
            Ok(Some(Ok(Reply::Refused(refused)))) => Err(self.refused(refused)),
            Ok(Some(Ok(reply))) => Ok(reply),
            Ok(Some(Err(source))) => Err(WorkError::link(&self.peer, source)),
            Ok(None) => Err(self.closed()),
            Err(_) => Err(WorkError::OutOfTurn {
                peer: self.peer.clone(),
                what: format!("nothing for {} s", ANSWER.as_secs()),
            }),
        }
    }

    /// A write that failed often has its reason in a refusal that the replica sent before it hung up.
    async fn link(&mut self, result: Result<(), standin_wire::Error>) -> Result<(), WorkError> {
        let Err(source) = result else { return Ok(()) };
        match tokio::time::timeout(Duration::from_secs(1), self.replies.recv()).await {
            Ok(Some(Ok(Reply::Refused(refused)))) => Err(self.refused(refused)),
            _ => Err(WorkError::link(&self.peer, source)),
        }
    }

    fn early(&self, reply: Option<Result<Reply, standin_wire::Error>>) -> WorkError {
        match reply {
            Some(Ok(Reply::Refused(refused))) => self.refused(refused),
            Some(Ok(other)) => self.out_of_turn(&other),
            Some(Err(source)) => WorkError::link(&self.peer, source),
            None => self.closed(),
        }
    }

    fn closed(&self) -> WorkError {
        WorkError::link(&self.peer, standin_wire::Error::Closed { mid_frame: false })
    }

    fn refused(&self, refused: crate::messages::RefusedReply) -> WorkError {
        WorkError::Refused {
            peer: self.peer.clone(),
            claim: refused.claim.or_else(|| self.unnamed(&refused)).map(Box::new),
            failed_over: refused.failed_over,
            refusal: refused.refusal,
        }
    }

    /// The claim of a replica of the version before: it has failed over itself, or it tells nothing.
    fn unnamed(&self, refused: &crate::messages::RefusedReply) -> Option<Claim> {
        let (number, host) = refused.generation.zip(self.host).filter(|_| refused.failed_over)?;
        Some(Claim::unnamed(number, host))
    }

    /// The error for a reply that has no place here.
    #[must_use]
    pub fn out_of_turn(&self, reply: &Reply) -> WorkError {
        let what = format!("{reply:?}").chars().take(120).collect();
        WorkError::OutOfTurn { peer: self.peer.clone(), what }
    }
}

async fn read_replies(mut receiver: Receiver, into: mpsc::Sender<Result<Reply, standin_wire::Error>>) {
    loop {
        let reply = match receiver.next().await {
            Ok(Some(Frame::Control(control))) => control.parse::<Reply>(),
            Ok(Some(Frame::Block(_))) => {
                Err(standin_wire::Error::Frame { reason: "a replica sends no blocks".into() })
            }
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let last = reply.is_err();
        if into.send(reply).await.is_err() || last {
            return;
        }
    }
}
