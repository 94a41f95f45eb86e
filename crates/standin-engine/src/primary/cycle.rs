//! One cycle: from a mark in the hypervisor to a sealed epoch on the replica.
//!
//! ```text
//! basis: the youngest complete mark that is not newer than the replica's head, and best not than the ledger's
//!   nothing changed  -> seal at once; the point is the instant at which that was read
//!   much changed     -> a pass over the live disks first, under a mark of its own
//!   cut -> send what changed since -> seal -> compare digests -> only the cut's mark is kept
//! ```
//!
//! The basis goes only after the seal was answered as expected. A cycle that fails keeps it and hangs up: the replica
//! gives up what is not sealed, and the next cycle finds every change again.
//!
//! Called by [`super::task`] through [`Worker`]; a resynchronization ends with the same cut.

use super::ledger::{Expected, Start, root_level};
use super::pass::{self, PassTotals, Select};
use super::provenance;
use super::session::Session;
use super::worker::{
    Order, Sealed, Worker, begun, control, disk_names, disk_passes, may_be_of_the_past, seal,
};
use crate::error::WorkError;
use crate::messages::{LayerKind, PointOffer, Request};
use crate::records::PrimaryRecord;
use crate::spans;
use jiff::Timestamp;
use standin_hypervisor::{Consistency, CutRequest, Mark, MarkStatus, View, ViewInfo};
use standin_model::point::PointKind;
use standin_model::{Epoch, PointId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tracing::Instrument as _;

/// A delta larger than this is first read from the live disks, so that the guest does not pay
/// copy-before-write for it; the cut then has only what changed meanwhile. QEMU copies 64 KiB for each first
/// write of 4 KiB while a cut is open, so it pays early.
const LARGE_DELTA: u64 = 8 << 20;

impl Worker {
    /// One cycle: a cut, what changed since the head, a recovery point.
    ///
    /// # Errors
    /// [`WorkError::TrackingLost`] when only a comparison can tell what changed; otherwise see [`WorkError`].
    /// The replica is as before.
    pub async fn cycle(&mut self, order: &Order, application: bool) -> Result<Sealed, WorkError> {
        let reused = self.has_session();
        self.begun = false;
        match self.one_cycle(order, application).await {
            Err(error) if reused && !self.begun && may_be_of_the_past(&error) => {
                self.one_cycle(order, application).await
            }
            other => other,
        }
    }

    async fn one_cycle(&mut self, order: &Order, application: bool) -> Result<Sealed, WorkError> {
        self.connect(&order.record).await?;
        self.tidy(&order.record).await?;
        let basis = self.basis(&order.record).await?;
        let span = spans::point(basis.head.next());
        let cycle = async {
            let sealed = self.cycle_from(order, &basis, application).await?;
            tracing::debug!(
                changed_bytes = sealed.changed_bytes,
                latency_ms = u64::try_from(sealed.latency.as_millis()).unwrap_or(u64::MAX),
                "the replica has a recovery point"
            );
            Ok(sealed)
        };
        let done = cycle.instrument(span).await;
        if done.is_err() {
            self.keep_only(&order.record, basis.mark).await;
        }
        self.settle(done)
    }

    async fn cycle_from(
        &mut self,
        order: &Order,
        basis: &Basis,
        application: bool,
    ) -> Result<Sealed, WorkError> {
        order.progress.total.store(basis.dirty_bytes, Ordering::Relaxed);
        self.ledger.begin(&order.record, Start::Changes(basis.mark.epoch)).await;
        if basis.dirty_bytes == 0 && !application && self.config.reusable() {
            return self.empty_cycle(&order.record, basis).await;
        }
        let epoch = basis.head.next();
        let session = self.session.as_mut().ok_or(WorkError::Cancelled)?;
        begun(session, &Request::Begin { epoch, kind: LayerKind::Delta }).await?;
        self.begun = true;
        let mut since = basis.mark;
        let mut changed = 0;
        if basis.dirty_bytes > LARGE_DELTA {
            let ahead = Mark { epoch: basis.mark.epoch, pass: 1 };
            changed += self.live_pass(order, Some(since), ahead).await?;
            since = ahead;
        }
        self.cut_and_seal(order, since, epoch, application, changed).await
    }

    /// A cycle in which nothing changed. At the instant at which every disk's count was read as zero the disks
    /// were what they were at the mark: that instant is the point, and no cut is needed. The mark stays the
    /// old one, from which a later cycle finds the same changes.
    async fn empty_cycle(&mut self, record: &PrimaryRecord, basis: &Basis) -> Result<Sealed, WorkError> {
        let epoch = basis.head.next();
        let session = self.session.as_mut().ok_or(WorkError::Cancelled)?;
        begun(session, &Request::Begin { epoch, kind: LayerKind::Delta }).await?;
        self.begun = true;
        let point =
            PointOffer { id: PointId::random(), created_at: basis.read_at, kind: PointKind::Standard };
        let (definition, files) = self.config.last();
        let digest = seal(session, Some(point.clone()), definition, files).await?;
        let expected = self.ledger.expected().await;
        compare(session, record, &point, &digest, expected).await?;
        session.advance(epoch);
        Ok(Sealed {
            epoch,
            latency: self.tools.clock.since(point.created_at),
            point: Some(point),
            changed_bytes: 0,
            wire_bytes: session.take_bytes_sent(),
            freeze_error: None,
        })
    }

    /// Sends what changed since `since` from the live disks. Returns the bytes.
    async fn live_pass(&mut self, order: &Order, since: Option<Mark>, mark: Mark) -> Result<u64, WorkError> {
        let view = self.live(&order.record, since, mark).await?;
        let session = self.session.as_mut().ok_or(WorkError::Cancelled)?;
        let sent = async {
            let disks = disk_passes(&order.record, &*view, |_| Select::Dirty)?;
            let totals = pass::send(session, &disks, &control(order, &*view, &self.ledger)).await?;
            session.done(&totals.pass_end()).await?;
            Ok(totals.bytes)
        }
        .await;
        self.close(view).await;
        sent
    }

    /// Cuts, sends what changed since `since`, seals `epoch`, and forgets the older marks.
    pub(super) async fn cut_and_seal(
        &mut self,
        order: &Order,
        since: Mark,
        epoch: Epoch,
        application: bool,
        already: u64,
    ) -> Result<Sealed, WorkError> {
        let (record, mark) = (&order.record, Mark { epoch, pass: 0 });
        let view = self.cut(record, since, mark, application).await?;
        let info = view.info().clone();
        let sent = self.send_cut(order, &*view, &info).await;
        let totals = match sent {
            Ok(totals) => totals,
            Err(error) => {
                self.close(view).await;
                return Err(error);
            }
        };
        let point = point_of(&info);
        let (definition, files) = self.config.last();
        let session = self.session.as_mut().ok_or(WorkError::Cancelled)?;
        // All is read: the guest need not pay copy-before-write while the replica makes it durable.
        let ledger = Arc::clone(&self.ledger);
        let (closed, sealed, expected) = tokio::join!(
            view.close(),
            async {
                session.done(&totals.pass_end()).await?;
                seal(session, Some(point.clone()), definition, files).await
            },
            ledger.expected()
        );
        self.note_close(closed);
        let digest = sealed?;
        let session = self.session.as_mut().ok_or(WorkError::Cancelled)?;
        compare(session, record, &point, &digest, expected).await?;
        ledger.sealed(record, epoch).await;
        session.advance(epoch);
        let wire_bytes = session.take_bytes_sent();
        self.keep_only(record, mark).await;
        Ok(Sealed {
            epoch,
            latency: self.tools.clock.since(point.created_at),
            point: Some(point),
            changed_bytes: already + totals.bytes,
            wire_bytes,
            freeze_error: info.freeze_error,
        })
    }

    async fn send_cut(
        &mut self,
        order: &Order,
        view: &dyn View,
        info: &ViewInfo,
    ) -> Result<PassTotals, WorkError> {
        let session = self.session.as_mut().ok_or(WorkError::Cancelled)?;
        let disks = disk_passes(&order.record, view, |_| Select::Dirty)?;
        let totals = pass::send(session, &disks, &control(order, view, &self.ledger)).await?;
        self.config.send(session, &info.config, &order.record.name).await?;
        Ok(totals)
    }

    /// From where the next delta is known.
    async fn basis(&mut self, record: &PrimaryRecord) -> Result<Basis, WorkError> {
        let opened = self.session()?.opened();
        if let Some(error) = provenance::doubt(record, opened) {
            return Err(error);
        }
        let Some(head) = opened.head else {
            return Err(WorkError::TrackingLost("the replica has no first copy".into()));
        };
        let read_at = self.tools.clock.now();
        let marks = self.marks(record).await?;
        if marks.is_empty() {
            self.check_running(record).await?;
        }
        // An older mark than the head's knows more than is needed, never less.
        let usable =
            |status: &&MarkStatus| status.complete && status.mark.pass == 0 && status.mark.epoch <= head;
        // Nor is one that is older still, of a daemon that was killed between a seal and its note of it.
        let noted = self.ledger.newest(record).await;
        let known =
            |status: &&MarkStatus| usable(status) && noted.is_some_and(|noted| status.mark.epoch <= noted);
        let best = marks.iter().filter(known).max_by_key(|status| status.mark);
        let best = best.or_else(|| marks.iter().filter(usable).max_by_key(|status| status.mark));
        let Some(best) = best else {
            return Err(WorkError::TrackingLost(format!(
                "the hypervisor has no record of what changed since epoch {head}"
            )));
        };
        Ok(Basis { head, mark: best.mark, dirty_bytes: best.dirty_bytes, read_at })
    }

    async fn cut(
        &self,
        record: &PrimaryRecord,
        since: Mark,
        mark: Mark,
        application: bool,
    ) -> Result<Box<dyn View>, WorkError> {
        let request = CutRequest {
            disks: disk_names(record),
            tracker: record.tracker.clone(),
            since,
            mark,
            granularity: record.settings.granularity,
            consistency: match application {
                true => Consistency::Application {
                    deadline: Duration::from_secs(u64::from(record.settings.freeze_deadline_s)),
                },
                false => Consistency::Crash,
            },
            scratch_dir: self.tools.scratch_dir.clone(),
            scratch_reserve: record.settings.scratch_reserve,
        };
        self.tools
            .hypervisor
            .cut(record.vm, request)
            .await
            .map_err(WorkError::hypervisor("cut the disks at one instant"))
    }
}

struct Basis {
    head: Epoch,
    mark: Mark,
    dirty_bytes: u64,
    read_at: Timestamp,
}

fn point_of(info: &ViewInfo) -> PointOffer {
    let kind = match info.application_consistent {
        true => PointKind::ApplicationConsistent,
        false => PointKind::Standard,
    };
    PointOffer { id: PointId::random(), created_at: info.at, kind }
}

/// Whether the replica has sealed what was sent to it. What is not known is not compared.
async fn compare(
    session: &mut Session,
    record: &PrimaryRecord,
    point: &PointOffer,
    digest: &str,
    expected: Option<Expected>,
) -> Result<(), WorkError> {
    let Some(expected) = expected.filter(|expected| expected.digest != digest) else { return Ok(()) };
    let mut differ = Vec::new();
    for ((stream, disk), ours) in (0_u16..).zip(&record.disks).zip(&expected.roots) {
        let level = root_level(disk, record.settings.granularity);
        match super::resync::nodes(session, stream, level, 0, 1, false).await {
            Ok(theirs) if theirs == [*ours] => {}
            Ok(_) => differ.push(format!("disk {}", disk.name)),
            Err(error) => {
                tracing::warn!(error = %crate::error::chain(&error), "which disk differs is not known");
                break;
            }
        }
    }
    let disks = if differ.is_empty() { "its disks".to_owned() } else { differ.join(" and of ") };
    Err(WorkError::ReplicaDiffers {
        vm: record.name.clone(),
        peer: record.peer.clone(),
        disks,
        point: point.id,
    })
}
