//! What does a primary's pieces of work: the first copy ([`super::first_copy`]), cycles ([`super::cycle`]), the
//! resynchronization ([`super::resync`]). Here is what they share: the session with the replica, the marks in the
//! hypervisor, the view that is open. Each takes the replica from one sealed epoch to the next or changes nothing
//! there, and leaves in the hypervisor at least one mark from which everything that the replica lacks is known.
//!
//! The worker is owned by the relationship's task, which lends it to a spawned future for one piece of work at
//! a time and decides from the result what comes next.

use super::config_files::{ConfigFiles, Sender as ConfigSender};
use super::ledger::Ledger;
use super::pass::{DiskPass, PassControl, Select};
use super::session::Session;
use crate::error::WorkError;
use crate::jobs::Progress;
use crate::messages::{DiskShape, Offer, Opened, PointOffer, Reply, Request};
use crate::peers::Peers;
use crate::records::PrimaryRecord;
use crate::vm::Vms;
use standin_hypervisor::{Hypervisor, LiveRequest, Mark, MarkStatus, PowerState, View};
use standin_model::fence::Claim;
use standin_model::{DiskName, Epoch, HostId};
use standin_wire::block::Compression;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// zstd's fastest standard level: on two cores the link or the disk is the limit, not the ratio.
const ZSTD_LEVEL: i32 = 1;

/// What the worker needs besides the relationship's record.
#[derive(Clone)]
pub struct Tools {
    /// The hypervisor that runs the VM.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Connects to replicas.
    pub peers: Arc<Peers>,
    /// Says who may run a VM, and so who may send it.
    pub vms: Arc<Vms>,
    /// Where old data is kept during a cut.
    pub scratch_dir: PathBuf,
    /// Hashes of kernels and the like.
    pub files: Arc<ConfigFiles>,
    /// Where the digests of what was sent are kept.
    pub digest_dir: PathBuf,
    /// Dates the recovery points of disks that are as they were.
    pub clock: standin_store::Clock,
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
    pub(super) tools: Tools,
    pub(super) session: Option<Session>,
    pub(super) config: ConfigSender,
    /// The replica has opened the layer of the cycle that runs.
    pub(super) begun: bool,
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

    /// The replica's host and its name, while there is a session.
    pub(crate) fn host(&self) -> Option<(HostId, String)> {
        self.session.as_ref().and_then(Session::host).map(|(host, name)| (host, name.to_owned()))
    }

    /// Hangs up; the next piece of work connects anew.
    pub fn hang_up(&mut self) {
        self.session = None;
        self.config.forget();
    }

    /// Makes the relationship on the replica, or finds a replica of this very VM and host there: what that has.
    ///
    /// # Errors
    /// The link's or the replica's reason; nothing changed then.
    pub async fn create(&mut self, record: &PrimaryRecord, claim: Claim) -> Result<Opened, WorkError> {
        let offer = offer_under(claim, record);
        let session = Session::create(&self.tools.peers, &record.peer, offer).await?;
        let opened = session.opened().clone();
        self.session = Some(session);
        self.ledger.forget(record).await;
        Ok(opened)
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
    pub async fn head(&mut self, record: &PrimaryRecord) -> Result<Opened, WorkError> {
        self.connect(record).await?;
        Ok(self.session()?.opened().clone())
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
            tracing::warn!(error = %crate::error::chain(&error), "dirty bitmaps are left");
        }
    }

    /// The daemon ends: what the replica must have is still known at the next start, also after one of the host.
    pub async fn rest(&mut self, record: &PrimaryRecord) {
        self.ledger.rest(record).await;
    }

    pub(super) async fn connect(&mut self, record: &PrimaryRecord) -> Result<(), WorkError> {
        // A session that ended while nothing was sent is no reason for a cycle to fail.
        if !self.has_session() {
            self.config.forget();
            let offer = offer(&self.tools, record);
            let session = Session::open(&self.tools.peers, &record.peer, offer).await?;
            if let Some((host, name)) = session.host() {
                self.tools.vms.met_replica(record, host, name);
            }
            self.session = Some(session);
        }
        Ok(())
    }

    pub(super) fn has_session(&mut self) -> bool {
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
            tracing::warn!(error = %crate::error::chain(&error), "old marks are left");
            self.unclean = true;
        }
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
    pub(super) async fn check_running(&self, record: &PrimaryRecord) -> Result<(), WorkError> {
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

    pub(super) async fn close(&mut self, view: Box<dyn View>) {
        let closed = view.close().await;
        self.note_close(closed);
    }

    pub(super) fn note_close(&mut self, closed: Result<(), standin_hypervisor::Error>) {
        if let Err(error) = closed {
            tracing::warn!(error = %crate::error::chain(&error), "a view was not closed cleanly");
            self.unclean = true;
        }
    }
}

/// The answer to the first request of a session that was left open may tell how things were: the replica
/// restarted, was paused and resumed, failed over and went back. A new session tells how they are.
pub(super) fn may_be_of_the_past(error: &WorkError) -> bool {
    matches!(error, WorkError::Refused { .. } | WorkError::Link { .. })
}

/// What a session begins with: under the claim that is known at this moment, whoever holds it. The replica compares.
pub(super) fn offer(tools: &Tools, record: &PrimaryRecord) -> Offer {
    offer_under(tools.vms.claim(record.vm), record)
}

fn offer_under(claim: Claim, record: &PrimaryRecord) -> Offer {
    Offer {
        vm: record.vm,
        name: record.name.clone(),
        generation: claim.number,
        claim: Some(claim),
        disks: record.disks.clone(),
        settings: record.settings.clone(),
        network: record.network.clone(),
        acknowledged: record.acknowledged,
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
pub(super) async fn seal(
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
