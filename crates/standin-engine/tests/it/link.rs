//! The network between two hosts: a TCP proxy that can be cut, also in the middle of a transfer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

struct Shared {
    /// The port that the replica listens on now; 0 while it is down.
    target: AtomicU16,
    /// Bytes from the primary to the replica so far.
    forwarded: AtomicU64,
    /// The link goes down when so many bytes were forwarded.
    limit: AtomicU64,
    up: AtomicBool,
    /// How many more answers of the replica get through; those after wait.
    answers: watch::Sender<u64>,
    /// How often it went down. Connections end when it does, also when it is up again at once.
    cuts: watch::Sender<u64>,
}

impl Shared {
    fn cut(&self) {
        self.up.store(false, Ordering::SeqCst);
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

/// A link that is up in the beginning.
pub struct Link {
    port: u16,
    shared: Arc<Shared>,
}

impl Link {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let shared = Arc::new(Shared {
            target: AtomicU16::new(0),
            forwarded: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
            up: AtomicBool::new(true),
            answers: watch::Sender::new(u64::MAX),
            cuts: watch::Sender::default(),
        });
        let link = Self { port, shared: Arc::clone(&shared) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(forward(Arc::clone(&shared), stream));
            }
        });
        link
    }

    /// What the primary connects to.
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// Where connections lead from now on.
    pub fn lead_to(&self, port: u16) {
        self.shared.target.store(port, Ordering::SeqCst);
    }

    /// Drops every connection and takes none until [`Link::mend`].
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Lets so many more answers through and holds the later ones until [`Link::mend`].
    pub fn hold_answers_after(&self, answers: u64) {
        self.shared.answers.send_replace(answers);
    }

    /// Cuts when so many more bytes went to the replica.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.limit.store(self.forwarded() + bytes, Ordering::SeqCst);
    }

    /// The cut that [`Link::cut_after`] ordered has happened.
    pub fn is_cut(&self) -> bool {
        !self.shared.up.load(Ordering::SeqCst)
    }

    pub fn mend(&self) {
        self.shared.limit.store(u64::MAX, Ordering::SeqCst);
        self.shared.answers.send_replace(u64::MAX);
        self.shared.up.store(true, Ordering::SeqCst);
    }

    /// Bytes that went to the replica.
    pub fn forwarded(&self) -> u64 {
        self.shared.forwarded.load(Ordering::SeqCst)
    }
}

async fn forward(shared: Arc<Shared>, client: TcpStream) {
    let mut cuts = shared.cuts.subscribe();
    let target = shared.target.load(Ordering::SeqCst);
    if !shared.up.load(Ordering::SeqCst) || target == 0 {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ = cuts.changed() => {}
        () = async {
            tokio::join!(count(&shared, from_client, to_server), pump(&shared, from_server, to_client));
        } => {}
    }
}

async fn count(shared: &Shared, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let total = shared.forwarded.fetch_add(length as u64, Ordering::SeqCst) + length as u64;
        if total >= shared.limit.load(Ordering::SeqCst) {
            shared.cut();
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

async fn pump(shared: &Shared, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut answers = shared.answers.subscribe();
    // Each connection has its own count: what two hosts say on their link takes nothing from a session.
    let mut left = *answers.borrow_and_update();
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let mut open = true;
        while open && (left == 0 || answers.has_changed().unwrap_or(false)) {
            // The link outlives its connections.
            open = answers.has_changed().unwrap_or(false) || answers.changed().await.is_ok();
            left = *answers.borrow_and_update();
        }
        left = left.saturating_sub(1);
        if !open || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
