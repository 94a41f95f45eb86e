//! Work beside the work that begins it: in the same spans of the log, and where it must be, to its end although nobody
//! waits for it any more.

use standin_model::Refusal;
use std::future::Future;
use tokio::task::JoinHandle;
use tracing::{Instrument, Span};

/// A task of its own, in the spans of the log that this one is in.
pub(crate) fn spawn<W>(work: W) -> JoinHandle<W::Output>
where
    W: Future<Output: Send + 'static> + Send + 'static,
{
    tokio::spawn(work.in_current_span())
}

/// The same on a thread that may block.
pub(crate) fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let span = Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
}

/// Carries `work` to its end, whatever becomes of the one who asked for it: a connection that closes drops its request
/// at whatever it waits for, and what is stored, shown and begun must not come apart there.
///
/// # Errors
/// Those of `work`; 32768 when it ends by a defect.
pub(crate) async fn to_its_end<T, W>(work: W) -> Result<T, Refusal>
where
    T: Send + 'static,
    W: Future<Output = Result<T, Refusal>> + Send + 'static,
{
    spawn(work).await.unwrap_or_else(|defect| {
        tracing::error!(error = %defect, "an operation ended by a defect");
        Err(crate::engine::reason::Operation::Defect.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use standin_model::ReturnCode;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::sync::Notify;

    #[tokio::test]
    async fn work_goes_on_when_whoever_asked_for_it_goes_away() {
        let (go, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (wait, tell) = (Arc::clone(&go), Arc::clone(&done));
        let asked = to_its_end(async move {
            wait.notified().await;
            tell.notify_one();
            Ok(())
        });
        assert!(tokio::time::timeout(Duration::from_millis(5), asked).await.is_err());
        go.notify_one();
        tokio::time::timeout(Duration::from_secs(20), done.notified()).await.expect("it went on");
    }

    #[tokio::test]
    async fn a_defect_is_a_refusal_for_whoever_asked() {
        let refusal = to_its_end::<(), _>(async { panic!("a defect") }).await.expect_err("refused");
        assert_eq!(refusal.code, ReturnCode::Failed);
    }
}
