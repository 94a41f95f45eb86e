//! Writes down what nobody waits for: ends of jobs whose workers were dropped, and that old jobs are gone.
//!
//! One task; it ends with [`super::Jobs`] and all handles, after everything that was handed to it.

use super::{Entry, Kept};
use jiff::Timestamp;
use standin_model::JobId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

/// How often jobs are looked through for old ones.
const SWEEP: Duration = Duration::from_secs(30);

/// What is handed to the writer.
pub(super) enum Order {
    /// Write this job down as it is.
    Save(Arc<Entry>),
    /// Say when all before this is done.
    Settle(oneshot::Sender<()>),
}

/// Starts the writer.
pub(super) fn start(kept: Arc<Kept>) -> mpsc::UnboundedSender<Order> {
    let (orders, taken) = mpsc::unbounded_channel();
    tokio::spawn(run(kept, taken));
    orders
}

/// Hands over a job that has ended.
pub(super) fn end(writer: &mpsc::UnboundedSender<Order>, entry: Arc<Entry>) {
    if let Err(SendError(Order::Save(entry))) = writer.send(Order::Save(entry)) {
        // The runtime is gone. The next process finds the job as running, and ends it.
        tracing::warn!(job = %entry.record.borrow().id, "the end of a job is not recorded: the daemon ends");
    }
}

/// Waits until all that was handed over is done, or nothing will be any more.
pub(super) async fn settle(writer: &mpsc::UnboundedSender<Order>) {
    let (done, settled) = oneshot::channel();
    if writer.send(Order::Settle(done)).is_ok() {
        // An error is a writer that has ended: nothing is left with it.
        drop(settled.await);
    }
}

async fn run(kept: Arc<Kept>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Save(entry)) => save(&kept, &entry).await,
                Some(Order::Settle(done)) => drop(done.send(())),
                None => return,
            },
            _ = sweep.tick() => forget_old(&kept, Timestamp::now()).await,
        }
    }
}

async fn save(kept: &Kept, entry: &Entry) {
    if let Err(refusal) = kept.save(entry).await {
        let id = entry.record.borrow().id;
        tracing::error!(job = %id, error = %refusal, "the end of a job could not be recorded");
    }
}

/// Removes the jobs that are not kept any longer.
pub(super) async fn forget_old(kept: &Kept, now: Timestamp) {
    let old: Vec<JobId> = {
        let entries = kept.lock();
        entries.iter().filter(|(_, entry)| entry.record.borrow().expired(now)).map(|(id, _)| *id).collect()
    };
    for id in old {
        // The memory copy goes only with the stored one: a job must not come back after a restart.
        match crate::records::delete(&kept.table, id).await {
            Ok(()) => drop(kept.lock().remove(&id)),
            Err(error) => tracing::warn!(%id, %error, "an old job could not be removed"),
        }
    }
}
