//! Resynchronization: what changed is not known any more, so both sides compare digests, and only what differs
//! travels. The recovery points that the replica has stay.
//!
//! ```text
//!   live view, mark {head, pass 1} records
//!     per window: group digests of the replica (64 granules each)
//!       group equal             -> nothing
//!       group differs           -> granule digests of the replica, send the granules that differ
//!   cut since {head, pass 1}    -> what changed meanwhile, a recovery point
//! ```
//!
//! The replica answers from the digests that it keeps beside its layers; it does not read its disks.

use super::batches::{BATCH_BYTES, allocated};
use super::encode::{encode, read_run};
use super::ledger::Start;
use super::pass::{self, PassTotals, Select};
use super::session::Session;
use super::worker::{Order, Sealed, Worker, begun, control, disk_passes};
use crate::error::WorkError;
use crate::messages::{LayerKind, MAX_NODES, Reply, Request};
use crate::tasks;
use bytes::Bytes;
use standin_hypervisor::{DiskReader, Extent, Mark};
use standin_model::digest::{BlockDigest, digests, tree};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::task::JoinHandle;

/// Groups read ahead. A group of 64 KiB granules is 4 MiB.
const AHEAD: usize = 3;

impl Worker {
    /// Compares all disks with the replica, sends what differs, and seals a recovery point.
    ///
    /// # Errors
    /// See [`WorkError`]. The replica is as before; the comparison begins anew next time.
    pub async fn resynchronize(&mut self, order: &Order) -> Result<Sealed, WorkError> {
        let opened = self.head(&order.record).await?;
        let Some(head) = opened.head else { return self.first_copy(order).await };
        self.tidy(&order.record).await?;
        // Marks of before the loss prove nothing; one of an interrupted comparison neither.
        self.retain(&order.record, &[]).await?;
        let mark = Mark { epoch: head, pass: 1 };
        self.ledger.begin(&order.record, Start::Comparison).await;
        let view = self.live(&order.record, None, mark).await?;
        let compared = self.compare(order, &*view, head.next()).await;
        self.close(view).await;
        let done = match compared {
            Ok(bytes) => self.cut_and_seal(order, mark, head.next(), false, bytes).await,
            Err(error) => Err(error),
        };
        self.settle(done)
    }

    async fn compare(
        &mut self,
        order: &Order,
        view: &dyn standin_hypervisor::View,
        epoch: standin_model::Epoch,
    ) -> Result<u64, WorkError> {
        let disks = disk_passes(&order.record, view, |_| Select::Dirty)?;
        order.progress.total.store(disks.iter().map(|disk| disk.reader.size()).sum(), Ordering::Relaxed);
        let control = control(order, view, &self.ledger);
        let session = self.session()?;
        begun(session, &Request::Begin { epoch, kind: LayerKind::Delta }).await?;
        let mut totals = PassTotals::default();
        for disk in disks {
            let mut comparison =
                Comparison { session: &mut *session, disk, control: control.clone(), totals: &mut totals };
            comparison.run(order.record.doubted).await?;
        }
        session.done(&totals.pass_end()).await?;
        Ok(totals.bytes)
    }
}

struct Comparison<'a> {
    session: &'a mut Session,
    disk: pass::DiskPass,
    control: pass::PassControl,
    totals: &'a mut PassTotals,
}

/// A group as this side has it.
struct Group {
    index: u64,
    data: Option<Bytes>,
    leaves: Vec<BlockDigest>,
}

impl Comparison<'_> {
    /// `afresh` has the replica read its digests again from its layers.
    async fn run(&mut self, afresh: bool) -> Result<(), WorkError> {
        let size = self.disk.reader.size();
        let group_bytes = u64::from(self.control.granule) * tree::FAN_OUT as u64;
        let groups = size.div_ceil(group_bytes);
        let mut first = 0;
        while first < groups {
            let count = u32::try_from((groups - first).min(u64::from(MAX_NODES))).unwrap_or(MAX_NODES);
            let theirs = nodes(self.session, self.disk.stream, 1, first, count, afresh && first == 0).await?;
            self.window(first, &theirs, group_bytes).await?;
            first += u64::from(count);
        }
        Ok(())
    }

    async fn window(
        &mut self,
        first: u64,
        theirs: &[BlockDigest],
        group_bytes: u64,
    ) -> Result<(), WorkError> {
        let mut ahead: VecDeque<JoinHandle<Result<Group, WorkError>>> = VecDeque::new();
        let mut next = theirs.iter().zip(first..).peekable();
        while next.peek().is_some() || !ahead.is_empty() {
            while ahead.len() < AHEAD {
                let Some((_, index)) = next.next() else { break };
                ahead.push_back(self.start(index, group_bytes));
            }
            let Some(mut task) = ahead.pop_front() else { break };
            let mut failure = self.control.failure.clone();
            let group = tokio::select! {
                biased;
                () = self.control.cancel.cancelled() => Err(WorkError::Cancelled),
                reason = pass::broken(&mut failure) => Err(WorkError::ViewLost(reason)),
                ended = &mut task => ended.unwrap_or(Err(WorkError::Cancelled)),
            };
            let group = group.inspect_err(|_| ahead.iter().chain([&task]).for_each(JoinHandle::abort))?;
            let position = usize::try_from(group.index - first).unwrap_or(usize::MAX);
            let expected = theirs.get(position).copied().unwrap_or(BlockDigest::ZERO);
            self.control.ledger.read(self.disk.stream, group.index * tree::FAN_OUT as u64, &group.leaves);
            self.control.ledger.settle_if_full().await;
            if tree::node(&group.leaves) != expected {
                self.send_difference(&group, group_bytes).await?;
            }
            self.control.progress.done.fetch_add(
                group_bytes.min(self.disk.reader.size() - group.index * group_bytes),
                Ordering::Relaxed,
            );
        }
        Ok(())
    }

    fn start(&self, index: u64, group_bytes: u64) -> JoinHandle<Result<Group, WorkError>> {
        let (reader, granule) = (Arc::clone(&self.disk.reader), self.control.granule);
        tasks::spawn(read_group(reader, granule, index, group_bytes))
    }

    async fn send_difference(&mut self, group: &Group, group_bytes: u64) -> Result<(), WorkError> {
        let first = group.index * tree::FAN_OUT as u64;
        let count = u32::try_from(group.leaves.len()).unwrap_or(u32::MAX);
        let theirs = nodes(self.session, self.disk.stream, 0, first, count, false).await?;
        let granule = u64::from(self.control.granule);
        let base = group.index * group_bytes;
        let size = self.disk.reader.size();
        let mut runs: Vec<(Extent, Option<Bytes>)> = Vec::new();
        for (at, _) in
            group.leaves.iter().zip(&theirs).enumerate().filter(|(_, (ours, theirs))| ours != theirs)
        {
            let offset = base + at as u64 * granule;
            let length = granule.min(size - offset);
            let zero = group.leaves[at].is_zero();
            let data = group.data.as_ref().filter(|_| !zero).map(|data| {
                let start = usize::try_from(offset - base).unwrap_or(usize::MAX);
                data.slice(start..start + usize::try_from(length).unwrap_or(usize::MAX))
            });
            runs.push((Extent { offset, length, zero: data.is_none() }, data));
        }
        let (stream, granule, compression) =
            (self.disk.stream, self.control.granule, self.control.compression);
        let encode = move || encode(stream, runs, granule, compression);
        for block in tasks::on_thread(encode).await.map_err(|_| WorkError::Cancelled)?? {
            self.totals.add(&block);
            self.session.block(block).await?;
        }
        Ok(())
    }
}

/// Reads a group and computes its leaves. A group without data is not read.
async fn read_group(
    reader: Arc<dyn DiskReader>,
    granule: u32,
    index: u64,
    group_bytes: u64,
) -> Result<Group, WorkError> {
    let offset = index * group_bytes;
    let length = group_bytes.min(reader.size() - offset);
    let granules = usize::try_from(length.div_ceil(u64::from(granule))).unwrap_or(usize::MAX);
    let runs = allocated(&*reader, granule, offset, length).await?;
    if runs.iter().all(|run| run.zero) {
        return Ok(Group { index, data: None, leaves: vec![BlockDigest::ZERO; granules] });
    }
    let mut data = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    let mut at = offset;
    while at < offset + length {
        let piece = BATCH_BYTES.min(offset + length - at);
        data.extend_from_slice(&read_run(&*reader, Extent { offset: at, length: piece, zero: false }).await?);
        at += piece;
    }
    let step = usize::try_from(granule).unwrap_or(usize::MAX);
    let hash = move || {
        let leaves = digests(&data, step);
        Group { index, leaves, data: Some(Bytes::from(data)) }
    };
    tasks::on_thread(hash).await.map_err(|_| WorkError::Cancelled)
}

pub(super) async fn nodes(
    session: &mut Session,
    stream: u16,
    level: u32,
    first: u64,
    count: u32,
    afresh: bool,
) -> Result<Vec<BlockDigest>, WorkError> {
    match session.ask(&Request::Nodes { stream, level, first, count, afresh }).await? {
        Reply::Nodes { digests } if digests.len() == count as usize => Ok(digests),
        other => Err(session.out_of_turn(&other)),
    }
}
