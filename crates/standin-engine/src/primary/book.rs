//! What a [`Ledger`](super::ledger::Ledger) has open: the trees' files and the page beside them.
//!
//! ```text
//! DIR/sent.json    the page: which relationship and disks, the epoch whose content the trees have, the boot
//! DIR/DISK.tree    a digest tree of each disk
//! ```
//!
//! The page is what makes trees count. It is removed before trees are made anew and written after them, staged and
//! renamed; trees without a page, or with that of another relationship, of other disks, or of another boot that did
//! not end in order, are not opened. A page that says durable is replaced by one that does not before the first
//! change.
//!
//! All of it blocks: called by [`super::ledger`] on a thread for that.

use super::ledger::Start;
use crate::messages::DiskShape;
use crate::records::PrimaryRecord;
use serde::{Deserialize, Serialize};
use standin_durable::{FileError, Files, Mode};
use standin_model::digest::BlockDigest;
use standin_model::{Epoch, VmName};
use standin_store::{Sent, SourceTree, point_digest};
use std::fs;
use std::path::{Path, PathBuf};

/// Names the boot of the kernel that holds what is not durable yet.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The page's file.
pub(super) const PAGE: &str = "sent.json";

pub(super) type Result<T> = std::result::Result<T, standin_store::Error>;

/// What the replica's answer to a seal must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The point's digest.
    pub digest: String,
    /// The root of each disk's tree, in stream order.
    pub roots: Vec<BlockDigest>,
}

/// What is written down beside the trees, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Page {
    /// Which relationship: one that was made anew has another.
    relationship: String,
    granule: u32,
    disks: Vec<DiskShape>,
    /// The newest seal whose content the trees have; `None` while a first copy has not arrived.
    pub(super) epoch: Option<Epoch>,
    /// The boot in which the trees were changed last.
    boot: String,
    /// Nothing was changed since the trees were made durable.
    durable: bool,
}

/// The open trees.
pub(super) struct Book {
    /// Whose they are, for the log.
    pub(super) vm: VmName,
    pub(super) page: Page,
    trees: Vec<SourceTree>,
    /// Of the trees as they are; `None` after a change.
    pub(super) expected: Option<Expected>,
}

/// Runs of one disk that ascend.
pub(super) struct Batch {
    pub(super) stream: u16,
    pub(super) end: u64,
    pub(super) runs: Vec<Sent>,
}

impl Book {
    /// What an earlier process left, if it is certain.
    pub(super) fn open(dir: &Path, record: &PrimaryRecord) -> Option<Self> {
        let text = fs::read(dir.join(PAGE)).ok()?;
        let found: Page = serde_json::from_slice(&text).ok()?;
        let mut page = Page::of(record);
        let usable = found.durable || (found.boot == page.boot && !page.boot.is_empty());
        page.epoch = found.epoch;
        if !usable || found != (Page { boot: found.boot.clone(), durable: found.durable, ..page.clone() }) {
            return None;
        }
        let opened = || -> Result<Option<Vec<SourceTree>>> {
            let open = |disk: &DiskShape| SourceTree::open(&tree_path(dir, disk), page.granule, disk.size);
            let trees: Option<Vec<_>> = page.disks.iter().map(open).collect::<Result<_>>()?;
            if trees.is_some() && found.durable {
                // Before the first change the page must not say durable any more, also after a crash of the host.
                page.save_durably(dir)?;
            }
            Ok(trees)
        };
        let trees = note_failure(&record.name, opened()).flatten()?;
        Some(Self { vm: record.name.clone(), page, trees, expected: None })
    }

    /// Trees of zeros, for whoever sees every granule.
    pub(super) fn create(dir: &Path, record: &PrimaryRecord, start: Start) -> Result<Self> {
        let files = Files::default();
        files.make_directory(dir, Mode::Owner).map_err(failed)?;
        // Durably: a page that says durable and comes back after a loss of power would speak for trees of zeros.
        files.remove(&dir.join(PAGE)).map_err(failed)?;
        let page = Page::of(record);
        let make = |disk: &DiskShape| SourceTree::create(&tree_path(dir, disk), page.granule, disk.size);
        let trees = page.disks.iter().map(make).collect::<Result<_>>()?;
        // A first copy goes on after a restart, a comparison begins anew.
        if matches!(start, Start::Copy { .. }) {
            page.save(dir)?;
        }
        Ok(Self { vm: record.name.clone(), page, trees, expected: None })
    }

    /// Whether the changes since a mark are all that the trees can lack.
    pub(super) fn covers(&self, mark: Epoch) -> bool {
        self.page.epoch.is_some_and(|epoch| mark <= epoch)
    }

    /// A first copy can go on with it.
    pub(super) fn has_base(&self) -> bool {
        self.page.epoch.is_none_or(|epoch| epoch == Epoch(0))
    }

    pub(super) fn lay(&mut self, batch: Batch) -> Result<()> {
        self.expected = None;
        match self.trees.get_mut(usize::from(batch.stream)) {
            Some(tree) => tree.lay(batch.runs),
            None => Err(standin_store::Error::Invalid(format!("digests of a disk number {}", batch.stream))),
        }
    }

    pub(super) fn sum_up(&mut self) -> Result<()> {
        let roots = self.trees.iter().map(SourceTree::root).collect::<Result<Vec<_>>>()?;
        let disks = self.page.disks.iter().zip(&roots).map(|(disk, root)| (&disk.name, disk.size, *root));
        let digest = point_digest(self.page.granule, disks);
        self.expected = Some(Expected { digest, roots });
        Ok(())
    }

    pub(super) fn rest(&mut self, dir: &Path) -> Result<()> {
        // A comparison under way is not written down.
        if !dir.join(PAGE).exists() {
            return Ok(());
        }
        self.trees.iter().try_for_each(SourceTree::sync)?;
        self.page.durable = true;
        self.page.save_durably(dir)?;
        self.page.durable = false;
        Ok(())
    }
}

impl Page {
    fn of(record: &PrimaryRecord) -> Self {
        let made = record.created_at.map(|at| at.to_string()).unwrap_or_default();
        Self {
            relationship: format!("{} {made}", record.tracker.0),
            granule: record.settings.granularity,
            disks: record.disks.clone(),
            epoch: None,
            boot: fs::read_to_string(BOOT_ID).map(|id| id.trim().to_owned()).unwrap_or_default(),
            durable: false,
        }
    }

    /// Replaces what was written down; for this boot.
    pub(super) fn save(&self, dir: &Path) -> Result<()> {
        Files::default().replace_for_this_boot(&dir.join(PAGE), &self.text()?, Mode::Owner).map_err(failed)
    }

    /// The same, also for the next boot.
    fn save_durably(&self, dir: &Path) -> Result<()> {
        Files::default().replace(&dir.join(PAGE), &self.text()?, Mode::Owner).map_err(failed)
    }

    fn text(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|error| standin_store::Error::Invalid(format!("a page that cannot be written: {error}")))
    }
}

fn tree_path(dir: &Path, disk: &DiskShape) -> PathBuf {
    dir.join(format!("{}.tree", disk.name))
}

fn failed(error: FileError) -> standin_store::Error {
    standin_store::Error::Io { op: error.verb, path: error.path, source: error.source }
}

/// Replication does not depend on the ledger: what it cannot do is said, and it is unknown.
pub(super) fn note_failure<T>(name: &VmName, result: Result<T>) -> Option<T> {
    result
        .inspect_err(|error| {
            tracing::warn!(vm = %name, error = %crate::error::chain(error), "the digests of what is sent cannot be kept; \
                 the replica's are not compared until the next resynchronization");
        })
        .ok()
}
