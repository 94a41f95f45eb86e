//! The sending half: a queue of plaintext, cut into whole TLS records. In memory ([`crate::memory`]) frames go as they
//! are.

use crate::block::EncodedBlock;
use crate::error::Error;
use crate::frame::{Kind, plain_frame};
use crate::link::Shared;
use crate::memory::LaneIn;
use crate::tls::{OutBuf, RECORD, Sealer};
use bytes::{Buf, Bytes};
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Ciphertext sealed before it is written: large enough to make the system call cheap, small enough to stay in
/// the second-level cache between the two.
const BATCH: usize = 8 * RECORD;
/// How long a goodbye may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// Where frames go. One branch for each batch of records, none for each byte.
enum Way {
    Tls(Box<Tls>),
    Memory(LaneIn),
}

/// TLS over TCP: ciphertext and how far it got.
struct Tls {
    tcp: OwnedWriteHalf,
    /// The beginning of a record that is not full yet.
    record: Vec<u8>,
    sealer: Sealer,
    sealed: OutBuf,
}

impl Tls {
    /// Seals up to a batch of what waits. With `flush` the last record may be short; otherwise it waits for more.
    fn seal_batch(&mut self, queue: &mut VecDeque<Bytes>, flush: bool) -> Result<(), rustls::Error> {
        self.sealer.answer(&mut self.sealed)?;
        while self.sealed.pending().len() < BATCH {
            let Some(front) = queue.front_mut() else { break };
            if self.record.is_empty() && front.len() >= RECORD {
                // Whole records straight from the caller's bytes.
                let count = (front.len() - front.len() % RECORD).min(BATCH);
                self.sealer.seal(&front[..count], &mut self.sealed)?;
                front.advance(count);
            } else {
                let count = front.len().min(RECORD - self.record.len());
                self.record.extend_from_slice(&front[..count]);
                front.advance(count);
            }
            if front.is_empty() {
                queue.pop_front();
            }
            if self.record.len() == RECORD {
                self.sealer.seal(&self.record, &mut self.sealed)?;
                self.record.clear();
            }
        }
        if flush && queue.is_empty() && !self.record.is_empty() {
            self.sealer.seal(&self.record, &mut self.sealed)?;
            self.record.clear();
        }
        Ok(())
    }

    async fn write_sealed(&mut self, shared: &Shared, last_write: &mut Instant) -> Result<(), Error> {
        while !self.sealed.pending().is_empty() {
            let written = tokio::select! {
                biased;
                () = shared.dead.cancelled() => return Err(Error::Closed { mid_frame: false }),
                written = self.tcp.write(self.sealed.pending()) => written,
            };
            match written {
                Ok(0) => return Err(Error::Closed { mid_frame: false }),
                Ok(count) => {
                    self.sealed.consume(count);
                    shared.sent.fetch_add(count as u64, Ordering::Relaxed);
                    *last_write = Instant::now();
                }
                Err(source) => return Err(Error::Io { verb: "write to", source }),
            }
        }
        Ok(())
    }
}

/// What is written and how far it got. Only whoever holds the lock around it writes to the connection.
pub(crate) struct Writer {
    way: Way,
    shared: Arc<Shared>,
    queue: VecDeque<Bytes>,
    last_write: Instant,
    failed: bool,
}

impl Writer {
    pub fn new(tcp: OwnedWriteHalf, shared: Arc<Shared>, sealer: Sealer) -> Self {
        let (record, sealed) = (Vec::with_capacity(RECORD), OutBuf::default());
        Self::over(Way::Tls(Box::new(Tls { tcp, record, sealer, sealed })), shared)
    }

    pub fn in_memory(lane: LaneIn, shared: Arc<Shared>) -> Self {
        Self::over(Way::Memory(lane), shared)
    }

    fn over(way: Way, shared: Arc<Shared>) -> Self {
        Self { way, shared, queue: VecDeque::new(), last_write: Instant::now(), failed: false }
    }

    fn push(&mut self, frame: Bytes) {
        if !frame.is_empty() {
            self.queue.push_back(frame);
        }
    }

    /// Writes what waits. Cancelled in between it has lost nothing: the next call goes on.
    async fn drive(&mut self, flush: bool) -> Result<(), Error> {
        if self.failed {
            return Err(Error::Closed { mid_frame: false });
        }
        let result = self.drive_unless_failed(flush).await;
        if result.is_err() {
            self.failed = true;
            self.queue.clear();
        }
        result
    }

    async fn drive_unless_failed(&mut self, flush: bool) -> Result<(), Error> {
        let Self { way, shared, queue, last_write, .. } = self;
        match way {
            Way::Tls(tls) => loop {
                tls.write_sealed(shared, last_write).await?;
                tls.seal_batch(queue, flush).map_err(|error| shared.tls_error(error))?;
                if tls.sealed.pending().is_empty() {
                    return Ok(());
                }
            },
            Way::Memory(lane) => {
                while let Some(bytes) = queue.front() {
                    tokio::select! {
                        biased;
                        () = shared.dead.cancelled() => return Err(Error::Closed { mid_frame: false }),
                        taken = lane.put(bytes.clone()) => taken?,
                    }
                    let length = queue.pop_front().map_or(0, |bytes| bytes.len());
                    shared.sent.fetch_add(length as u64, Ordering::Relaxed);
                    *last_write = Instant::now();
                }
                Ok(())
            }
        }
    }

    async fn end(&mut self) -> Result<(), Error> {
        self.drive(true).await?;
        let Self { way, shared, last_write, .. } = self;
        match way {
            Way::Tls(tls) => {
                let sealed = tls.sealer.seal_end(&mut tls.sealed);
                sealed.map_err(|error| shared.tls_error(error))?;
                tls.write_sealed(shared, last_write).await?;
                tls.tcp.shutdown().await.map_err(|source| Error::Io { verb: "close", source })
            }
            Way::Memory(lane) => {
                lane.end();
                Ok(())
            }
        }
    }
}

/// Ends its task with itself.
struct Keepalive(JoinHandle<()>);

impl Drop for Keepalive {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The sending half of a connection. Dropped without [`Sender::close`] it ends the connection the hard way: the
/// peer sees [`Error::Closed`].
pub struct Sender {
    writer: Arc<Mutex<Writer>>,
    shared: Arc<Shared>,
    _keepalive: Keepalive,
}

impl Sender {
    /// Takes over a writer once the handshake is done.
    pub(crate) fn new(writer: Writer, idle_timeout: Duration) -> Self {
        let shared = writer.shared.clone();
        let writer = Arc::new(Mutex::new(writer));
        let period = (idle_timeout / 3).max(Duration::from_millis(1));
        let task = tokio::spawn(keep_alive(writer.clone(), shared.clone(), period));
        Self { writer, shared, _keepalive: Keepalive(task) }
    }

    /// Sends a message, and with it all blocks before it, at once.
    ///
    /// # Errors
    /// [`Error::Frame`] if it is longer than [`crate::frame::MAX_CONTROL`] (nothing was sent then),
    /// [`Error::Closed`], [`Error::Io`] or [`Error::Tls`] if the connection is gone.
    pub async fn control<T: Serialize + ?Sized>(&mut self, message: &T) -> Result<(), Error> {
        let body = serde_json::to_vec(message)
            .map_err(|error| Error::Frame { reason: format!("a message of this host: {error}") })?;
        self.internal(Kind::Control, &body).await
    }

    /// Sends a block. Returns when all but its last, unfilled record is on its way; [`Sender::flush`] or the next
    /// message sends that too.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Io`] or [`Error::Tls`] if the connection is gone.
    pub async fn block(&mut self, block: EncodedBlock) -> Result<(), Error> {
        let (head, payload) = block.into_parts();
        let mut writer = self.writer.lock().await;
        writer.push(head);
        writer.push(payload);
        writer.drive(false).await
    }

    /// Sends everything that waits. It is in the kernel's hands then; whether the peer has it, only an answer tells.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Io`] or [`Error::Tls`] if the connection is gone.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.writer.lock().await.drive(true).await
    }

    /// Sends everything that waits, and then the orderly end: the peer's [`crate::Receiver::next`] gives nothing
    /// more. What the peer sends can still be received.
    ///
    /// # Errors
    /// [`Error::Slow`] if the peer does not take it within ten seconds, and as for [`Sender::flush`].
    pub async fn close(self) -> Result<(), Error> {
        self.end_with("").await
    }

    /// Ends the connection and tells the peer why: it gets [`Error::Refused`] with this sentence.
    ///
    /// # Errors
    /// As [`Sender::close`].
    pub async fn refuse(self, reason: &str) -> Result<(), Error> {
        self.end_with(reason).await
    }

    async fn end_with(mut self, reason: &str) -> Result<(), Error> {
        let ending = async {
            self.internal(Kind::Goodbye, reason.as_bytes()).await?;
            self.writer.lock().await.end().await
        };
        match tokio::time::timeout(CLOSE_WITHIN, ending).await {
            Ok(result) => result,
            Err(_) => Err(Error::Slow { what: "closing the connection", after: CLOSE_WITHIN }),
        }
    }

    pub(crate) async fn internal(&mut self, kind: Kind, body: &[u8]) -> Result<(), Error> {
        let frame = plain_frame(kind, body)?;
        let mut writer = self.writer.lock().await;
        writer.push(frame);
        writer.drive(true).await
    }

    /// Bytes written to the socket so far, with everything TLS adds.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

/// Sends what nobody else would: pings while the connection is idle, pongs, and what TLS has to say.
async fn keep_alive(writer: Arc<Mutex<Writer>>, shared: Arc<Shared>, period: Duration) {
    loop {
        tokio::select! {
            () = shared.dead.cancelled() => return,
            () = shared.nudge.notified() => {}
            () = tokio::time::sleep(period) => {}
        }
        let mut writer = writer.lock().await;
        let kind = if shared.pong_due.swap(false, Ordering::Relaxed) {
            Some(Kind::Pong)
        } else {
            (writer.last_write.elapsed() >= period / 2).then_some(Kind::Ping)
        };
        if let Some(frame) = kind.and_then(|kind| plain_frame(kind, &[]).ok()) {
            writer.push(frame);
        }
        if let Err(error) = writer.drive(true).await {
            tracing::debug!(peer = %shared.peer, %error, "no more signs of life are sent");
            return;
        }
    }
}
