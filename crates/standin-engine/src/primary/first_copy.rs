//! The first copy, and the initial replication around it.
//!
//! The running disks are copied into the replica's base, granule for granule in ascending order. What the guest writes
//! meanwhile is recorded under a mark made before the first read, and comes with the first cycle. The replica keeps
//! watermarks, so a try that was cut off is gone on with, as long as that mark is whole.
//!
//! Called by [`super::task`] through [`Worker`].

use super::ledger::Start;
use super::pass::{self, Select};
use super::worker::{Order, Sealed, Worker, begun, control, disk_passes, seal};
use crate::error::WorkError;
use crate::messages::{LayerKind, Request};
use standin_hypervisor::{Mark, View};
use standin_model::Epoch;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Worker {
    /// Copies the live disks into the replica's base, from where an earlier try stopped.
    ///
    /// # Errors
    /// See [`WorkError`]; what was copied stays, and the mark goes on recording.
    pub async fn first_copy(&mut self, order: &Order) -> Result<Sealed, WorkError> {
        self.connect(&order.record).await?;
        self.tidy(&order.record).await?;
        let done = self.first_copy_inner(order).await;
        self.settle(done)
    }

    async fn first_copy_inner(&mut self, order: &Order) -> Result<Sealed, WorkError> {
        let (record, mark) = (&order.record, Mark { epoch: Epoch(0), pass: 0 });
        let known = self.marks(record).await?.iter().any(|status| status.mark == mark && status.complete);
        let keep: &[Mark] = if known { std::slice::from_ref(&mark) } else { &[] };
        self.retain(record, keep).await?;
        self.ledger.begin(record, Start::Copy { fresh: !known }).await;
        let view = self.live(record, None, mark).await?;
        let sent = self.send_base(order, &*view, !known).await;
        self.close(view).await;
        let wire_bytes = sent?;
        // Before the seal: should its answer be lost, the first cycle begins with what changed since this copy.
        self.ledger.sealed(record, Epoch(0)).await;
        let session = self.session.as_mut().ok_or(WorkError::Cancelled)?;
        seal(session, None, String::new(), Vec::new()).await?;
        session.advance(Epoch(0));
        Ok(Sealed {
            epoch: Epoch(0),
            point: None,
            changed_bytes: order.progress.done.load(Ordering::Relaxed),
            wire_bytes,
            freeze_error: None,
            latency: Duration::ZERO,
        })
    }

    /// Returns the bytes on the wire.
    async fn send_base(&mut self, order: &Order, view: &dyn View, fresh: bool) -> Result<u64, WorkError> {
        let session = self.session.as_mut().ok_or(WorkError::Cancelled)?;
        let begin = Request::Begin { epoch: Epoch(0), kind: LayerKind::Base { fresh } };
        let watermarks = begun(session, &begin).await?;
        let select = |stream: u16| Select::From(watermarks.get(&stream).copied().unwrap_or(0));
        let disks = disk_passes(&order.record, view, select)?;
        let skipped: u64 = watermarks.values().sum();
        order.progress.total.store(disks.iter().map(|disk| disk.reader.size()).sum(), Ordering::Relaxed);
        order.progress.done.store(skipped, Ordering::Relaxed);
        let totals = pass::send(session, &disks, &control(order, view, &self.ledger)).await?;
        session.done(&totals.pass_end()).await?;
        Ok(session.take_bytes_sent())
    }

    /// The initial replication, from wherever an earlier try left it: the first copy if the base is not there
    /// yet, then the first recovery point; a comparison where it is not known any more what changed since the
    /// base.
    ///
    /// # Errors
    /// See [`WorkError`].
    pub async fn initial(&mut self, order: &Order) -> Result<Sealed, WorkError> {
        self.check_running(&order.record).await?;
        if self.head(&order.record).await?.head.is_none() {
            self.first_copy(order).await?;
        }
        // The job's counters are those of the copy; the point after it is small.
        let point = Order { progress: Arc::default(), ..order.clone() };
        match self.cycle(&point, false).await {
            Err(WorkError::TrackingLost(_) | WorkError::ReplicaOlder { .. }) => {
                self.resynchronize(order).await
            }
            Err(error @ WorkError::ReplicaDiffers { .. }) => {
                tracing::warn!(error = %crate::error::chain(&error), "the initial replication goes on with a comparison");
                let mut order = order.clone();
                order.record.doubted = true;
                self.resynchronize(&order).await
            }
            other => other,
        }
    }
}
