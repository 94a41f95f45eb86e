//! Time limits of a connection, without a timer per request: the stream notes when it moved, and one sleeping
//! task looks whether that was too long ago.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Nothing is asked; a reply may be going out.
const QUIET: u8 = 0;
/// A request has begun, or is expected as the first one.
const HEAD: u8 = 1;
/// A request is being worked on; its body has a limit of its own.
const WORK: u8 = 2;

/// What a connection is at, and since when.
#[derive(Debug)]
pub(super) struct Progress {
    started: Instant,
    phase: AtomicU8,
    since_ms: AtomicU64,
}

impl Progress {
    pub fn new() -> Self {
        Self { started: Instant::now(), phase: AtomicU8::new(HEAD), since_ms: AtomicU64::new(0) }
    }

    fn enter(&self, phase: u8) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since_ms.store(now, Ordering::Relaxed);
        self.phase.store(phase, Ordering::Relaxed);
    }

    /// The head of a request is complete.
    pub fn working(&self) {
        self.enter(WORK);
    }

    /// The reply to it is ready to go out.
    pub fn done(&self) {
        self.enter(QUIET);
    }

    fn was_read(&self) {
        if self.phase.load(Ordering::Relaxed) == QUIET {
            self.enter(HEAD);
        }
    }

    fn was_written(&self) {
        if self.phase.load(Ordering::Relaxed) == QUIET {
            self.enter(QUIET);
        }
    }

    /// Ends when the connection has been too slow, or idle for too long.
    pub async fn expire(&self, head: Duration, idle: Duration) {
        loop {
            let since = Duration::from_millis(self.since_ms.load(Ordering::Relaxed));
            let limit = match self.phase.load(Ordering::Relaxed) {
                HEAD => head,
                QUIET => idle,
                _ => {
                    tokio::time::sleep(head.min(idle)).await;
                    continue;
                }
            };
            let deadline = self.started + since + limit;
            if deadline <= Instant::now() {
                return;
            }
            // A head can begin while the limit of an idle connection is waited for.
            tokio::time::sleep_until(deadline.min(Instant::now() + head)).await;
        }
    }
}

/// A stream that notes when it moved.
pub(super) struct Watched<S> {
    stream: S,
    progress: Arc<Progress>,
}

impl<S> Watched<S> {
    pub fn new(stream: S, progress: Arc<Progress>) -> Self {
        Self { stream, progress }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.progress.was_read();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, data);
        if matches!(polled, Poll::Ready(Ok(1..))) {
            self.progress.was_written();
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, data);
        if matches!(polled, Poll::Ready(Ok(1..))) {
            self.progress.was_written();
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD_TIME: Duration = Duration::from_secs(10);
    const IDLE_TIME: Duration = Duration::from_secs(100);

    async fn expires_after(progress: &Progress) -> Duration {
        let begin = Instant::now();
        progress.expire(HEAD_TIME, IDLE_TIME).await;
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_limit_however_often_a_byte_of_it_comes() {
        let progress = Arc::new(Progress::new());
        let slow = Arc::clone(&progress);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                slow.was_read();
            }
        });
        assert_eq!(expires_after(&progress).await, HEAD_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_has_the_longer_limit_and_a_head_that_begins_then_the_shorter() {
        let progress = Progress::new();
        progress.working();
        progress.done();
        assert_eq!(expires_after(&progress).await, IDLE_TIME);
        progress.done();
        progress.was_read();
        assert_eq!(expires_after(&progress).await, HEAD_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn work_has_no_limit_here() {
        let progress = Progress::new();
        progress.working();
        let expired = tokio::time::timeout(Duration::from_secs(3600), progress.expire(HEAD_TIME, IDLE_TIME));
        assert!(expired.await.is_err());
    }
}
