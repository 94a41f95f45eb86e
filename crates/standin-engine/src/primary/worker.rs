//! The pieces of work of a primary: first copy, cycle, resynchronization. Each takes the replica from one sealed
//! epoch to the next or changes nothing there, and leaves in the hypervisor at least one mark from which
//! everything that the replica lacks is known.
//!
//! The worker is owned by the relationship's task, which lends it to a spawned future for one piece of work at
//! a time and decides from the result what comes next.

use super::config_files::{ConfigFiles, Sender as ConfigSender};
use super::ledger::{Expected, Ledger, Start, root_level};
use super::pass::{self, DiskPass, PassControl, PassTotals, Select};
use super::session::{Dialer, Session};
use crate::error::WorkError;
use crate::jobs::Progress;
use crate::messages::{DiskShape, LayerKind, Offer, PointOffer, Reply, Request};
use crate::records::PrimaryRecord;
use jiff::Timestamp;
use standin_hypervisor::{
    Consistency, CutRequest, Hypervisor, LiveRequest, Mark, MarkStatus, PowerState, View, ViewInfo,
};
use standin_model::point::PointKind;
use standin_model::{DiskName, Epoch, PointId};
use standin_wire::block::Compression;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A delta larger than this is first read from the live disks, so that the guest does not pay
/// copy-before-write for it; the cut then has only what changed meanwhile. QEMU copies 64 KiB for each first
/// write of 4 KiB while a cut is open, so it pays early.
const LARGE_DELTA: u64 = 8 << 20;

/// zstd's fastest standard level: on two cores the link or the disk is the limit, not the ratio.
const ZSTD_LEVEL: i32 = 1;

/// What the worker needs besides the relationship's record.
#[derive(Clone)]
pub struct Tools {
    /// The hypervisor that runs the VM.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Connects to replicas.
    pub dialer: Dialer,
    /// Where old data is kept during a cut.
    pub scratch_dir: PathBuf,
    /// Hashes of kernels and the like.
    pub files: Arc<ConfigFiles>,
    /// Where the digests of what was sent are kept.
    pub digest_dir: PathBuf,
}

/// What a finished piece of work achieved.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// The epoch that the replica has durably now.
    pub epoch: Epoch,
    /// The recovery point, unless it was a first copy.
    pub point: Option<PointOffer>,
    /// Bytes of the disks that were sent.
    pub changed_bytes: u64,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// A freeze was asked for and did not work.
    pub freeze_error: Option<String>,
    /// From the cut to the acknowledgement.
    pub latency: Duration,
}

/// One piece of work: with which record, how it is watched and ended.
#[derive(Clone)]
pub struct Order {
    /// The relationship as it is now.
    pub record: PrimaryRecord,
    /// Raised as data is sent.
    pub progress: Arc<Progress>,
    /// Ends it early.
    pub cancel: CancellationToken,
}

/// Does the work, and keeps what outlives one piece of it: the session.
pub struct Worker {
    tools: Tools,
    session: Option<Session>,
    config: ConfigSender,
    /// The replica has opened the layer of the cycle that runs.
    begun: bool,
    /// The hypervisor may hold left-overs: at the start, and after a view that could not be closed.
    unclean: bool,
    /// What the replica must have.
    pub(super) ledger: Arc<Ledger>,
}

impl Worker {
    /// A worker without a session.
    #[must_use]
    pub fn new(tools: Tools) -> Self {
        let config = ConfigSender::new(Arc::clone(&tools.files));
        let ledger = Ledger::new(&tools.digest_dir);
        Self { tools, session: None, config, begun: false, unclean: true, ledger }
    }

    /// Hangs up; the next piece of work connects anew.
    pub fn hang_up(&mut self) {
        self.session = None;
        self.config.forget();
    }

    /// Makes the relationship on the replica.
    ///
    /// # Errors
    /// The link's or the replica's reason; nothing changed then.
    pub async fn create(&mut self, record: &PrimaryRecord) -> Result<(), WorkError> {
        self.session = Some(self.tools.dialer.create(&record.peer, offer(record)).await?);
        self.ledger.forget(record).await;
        Ok(())
    }

    /// Sends a request that has no other answer than done, in the session of the relationship.
    ///
    /// # Errors
    /// The link's or the replica's reason.
    pub async fn tell(&mut self, record: &PrimaryRecord, request: &Request) -> Result<(), WorkError> {
        let reused = self.has_session();
        self.connect(record).await?;
        let mut told = self.session()?.done(request).await;
        if reused && told.as_ref().is_err_and(may_be_of_the_past) {
            self.hang_up();
            self.connect(record).await?;
            told = self.session()?.done(request).await;
        }
        self.settle(told)
    }

    /// What the replica has; connects if need be.
    ///
    /// # Errors
    /// The link's or the replica's reason.
    pub async fn head(&mut self, record: &PrimaryRecord) -> Result<crate::messages::Opened, WorkError> {
        self.connect(record).await?;
        Ok(self.session()?.opened().clone())
    }

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
        let wire_bytes = sent?.1;
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

    async fn send_base(
        &mut self,
        order: &Order,
        view: &dyn View,
        fresh: bool,
    ) -> Result<(PassTotals, u64), WorkError> {
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
        let wire = session.take_bytes_sent();
        Ok((totals, wire))
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
            Err(WorkError::TrackingLost(_)) => self.resynchronize(order).await,
            Err(error @ WorkError::ReplicaDiffers { .. }) => {
                tracing::warn!(error = %crate::error::chain(&error), "the initial replication goes on with a comparison");
                let mut order = order.clone();
                order.record.doubted = true;
                self.resynchronize(&order).await
            }
            other => other,
        }
    }

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
        let done = self.cycle_from(order, &basis, application).await;
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
            latency: elapsed(point.created_at),
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
            latency: elapsed(point.created_at),
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
        self.config.send(session, &info.config).await?;
        Ok(totals)
    }

    /// Removes everything of the relationship from the hypervisor: it has ended. Best effort, because what
    /// cannot be removed (the VM is off, its monitor does not answer) goes with the VM's process.
    pub async fn forget_tracking(&mut self, record: &PrimaryRecord) {
        self.unclean = true;
        self.ledger.forget(record).await;
        let forgotten = match self.tidy(record).await {
            Ok(()) => self.retain(record, &[]).await,
            Err(error) => Err(error),
        };
        if let Err(error) = forgotten {
            tracing::warn!(vm = %record.name, error = %crate::error::chain(&error), "dirty bitmaps are left");
        }
    }

    /// The daemon ends: what the replica must have is still known at the next start, also after one of the host.
    pub async fn rest(&mut self, record: &PrimaryRecord) {
        self.ledger.rest(record).await;
    }

    async fn connect(&mut self, record: &PrimaryRecord) -> Result<(), WorkError> {
        // A session that ended while nothing was sent is no reason for a cycle to fail.
        if !self.has_session() {
            self.config.forget();
            self.session = Some(self.tools.dialer.open(&record.peer, offer(record)).await?);
        }
        Ok(())
    }

    fn has_session(&mut self) -> bool {
        self.session.as_mut().is_some_and(Session::is_fresh)
    }

    pub(super) fn session(&mut self) -> Result<&mut Session, WorkError> {
        self.session.as_mut().ok_or(WorkError::Cancelled)
    }

    /// After an error the session is in the middle of something: a new one is the way back to a known state.
    pub(super) fn settle<T>(&mut self, result: Result<T, WorkError>) -> Result<T, WorkError> {
        if result.is_err() {
            self.hang_up();
        }
        result
    }

    pub(super) async fn tidy(&mut self, record: &PrimaryRecord) -> Result<(), WorkError> {
        if self.unclean {
            self.tools
                .hypervisor
                .clean(record.vm, &record.tracker, &self.tools.scratch_dir)
                .await
                .map_err(WorkError::hypervisor("remove what an earlier cycle left in the VM"))?;
            self.unclean = false;
        }
        Ok(())
    }

    pub(super) async fn marks(&self, record: &PrimaryRecord) -> Result<Vec<MarkStatus>, WorkError> {
        self.tools
            .hypervisor
            .marks(record.vm, &record.tracker, &disk_names(record))
            .await
            .map_err(WorkError::hypervisor("read the dirty bitmaps"))
    }

    pub(super) async fn retain(&self, record: &PrimaryRecord, keep: &[Mark]) -> Result<(), WorkError> {
        self.tools
            .hypervisor
            .retain_marks(record.vm, &record.tracker, keep)
            .await
            .map_err(WorkError::hypervisor("remove old dirty bitmaps"))
    }

    /// Forgets all marks but one. A mark that could not be removed costs memory in QEMU, not data: it is left
    /// for the next cycle.
    pub(super) async fn keep_only(&mut self, record: &PrimaryRecord, mark: Mark) {
        if let Err(error) = self.retain(record, &[mark]).await {
            tracing::warn!(vm = %record.name, error = %crate::error::chain(&error), "old marks are left");
            self.unclean = true;
        }
    }

    /// From where the next delta is known.
    async fn basis(&mut self, record: &PrimaryRecord) -> Result<Basis, WorkError> {
        let Some(head) = self.session()?.opened().head else {
            return Err(WorkError::TrackingLost("the replica has no first copy".into()));
        };
        let read_at = Timestamp::now();
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

    /// Whether the disks are as the relationship has them; a look at the VM, without the replica.
    ///
    /// # Errors
    /// [`WorkError::DiskChanged`] for one that was resized; [`WorkError::NotRunning`].
    pub(super) async fn check_disks(&self, record: &PrimaryRecord) -> Result<(), WorkError> {
        let inspected = self.tools.hypervisor.inspect(record.vm).await;
        let info = inspected.map_err(WorkError::hypervisor(format!("look at VM {}", record.name)))?;
        if info.power == PowerState::Off {
            return Err(WorkError::NotRunning);
        }
        for shape in &record.disks {
            if let Some(disk) = info.disks.iter().find(|disk| disk.name == shape.name) {
                same_size(shape, disk.size)?;
            }
        }
        Ok(())
    }

    /// A VM that is off has no marks to show; that is no loss.
    async fn check_running(&self, record: &PrimaryRecord) -> Result<(), WorkError> {
        let info = self
            .tools
            .hypervisor
            .inspect(record.vm)
            .await
            .map_err(WorkError::hypervisor(format!("look at VM {}", record.name)))?;
        if info.power == PowerState::Off { Err(WorkError::NotRunning) } else { Ok(()) }
    }

    pub(super) async fn live(
        &self,
        record: &PrimaryRecord,
        since: Option<Mark>,
        mark: Mark,
    ) -> Result<Box<dyn View>, WorkError> {
        let request = LiveRequest {
            disks: disk_names(record),
            tracker: record.tracker.clone(),
            since,
            mark,
            granularity: record.settings.granularity,
        };
        self.tools
            .hypervisor
            .live(record.vm, request)
            .await
            .map_err(WorkError::hypervisor("open the running disks for reading"))
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

    pub(super) async fn close(&mut self, view: Box<dyn View>) {
        let closed = view.close().await;
        self.note_close(closed);
    }

    fn note_close(&mut self, closed: Result<(), standin_hypervisor::Error>) {
        if let Err(error) = closed {
            tracing::warn!(error = %crate::error::chain(&error), "a view was not closed cleanly");
            self.unclean = true;
        }
    }
}

/// The answer to the first request of a session that was left open may tell how things were: the replica
/// restarted, was paused and resumed, failed over and went back. A new session tells how they are.
fn may_be_of_the_past(error: &WorkError) -> bool {
    matches!(error, WorkError::Refused { .. } | WorkError::Link { .. })
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

fn elapsed(since: Timestamp) -> Duration {
    Duration::try_from(Timestamp::now().duration_since(since)).unwrap_or_default()
}

fn offer(record: &PrimaryRecord) -> Offer {
    Offer {
        vm: record.vm,
        name: record.name.clone(),
        generation: record.generation,
        disks: record.disks.clone(),
        settings: record.settings.clone(),
        network: record.network.clone(),
    }
}

pub(super) fn disk_names(record: &PrimaryRecord) -> Vec<DiskName> {
    record.disks.iter().map(|disk| disk.name.clone()).collect()
}

pub(super) fn control(order: &Order, view: &dyn View, ledger: &Arc<Ledger>) -> PassControl {
    let settings = &order.record.settings;
    PassControl {
        granule: settings.granularity,
        compression: if settings.compression { Compression::Zstd(ZSTD_LEVEL) } else { Compression::Off },
        progress: Arc::clone(&order.progress),
        cancel: order.cancel.clone(),
        failure: view.failure(),
        ledger: Arc::clone(ledger),
    }
}

/// The readers of a view in stream order.
pub(super) fn disk_passes(
    record: &PrimaryRecord,
    view: &dyn View,
    select: impl Fn(u16) -> Select,
) -> Result<Vec<DiskPass>, WorkError> {
    let mut passes = Vec::with_capacity(record.disks.len());
    for (stream, shape) in (0_u16..).zip(&record.disks) {
        let reader = view
            .disk(&shape.name)
            .ok_or_else(|| WorkError::ViewLost(format!("disk {} is missing in it", shape.name)))?;
        same_size(shape, reader.size())?;
        passes.push(DiskPass { stream, reader, select: select(stream) });
    }
    Ok(passes)
}

fn same_size(shape: &DiskShape, found: u64) -> Result<(), WorkError> {
    if shape.size == found {
        return Ok(());
    }
    Err(WorkError::DiskChanged {
        message: format!("disk {} has {found} bytes now, the replica's copy has {}", shape.name, shape.size),
        remedy: "Remove the replication of this VM and enable it again; growing a replicated disk is not \
                 supported yet."
            .to_owned(),
    })
}

pub(super) async fn begun(session: &mut Session, begin: &Request) -> Result<BTreeMap<u16, u64>, WorkError> {
    match session.ask(begin).await? {
        Reply::Begun { watermarks } => Ok(watermarks),
        other => Err(session.out_of_turn(&other)),
    }
}

/// Seals; the replica's digest of the point, empty when there is none.
async fn seal(
    session: &mut Session,
    point: Option<PointOffer>,
    definition: String,
    files: Vec<crate::messages::ConfigFileInfo>,
) -> Result<String, WorkError> {
    match session.ask(&Request::Seal { point, definition, files }).await? {
        Reply::Sealed { digest, .. } => Ok(digest),
        other => Err(session.out_of_turn(&other)),
    }
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
                tracing::warn!(vm = %record.name, error = %crate::error::chain(&error), "which disk differs is not known");
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
