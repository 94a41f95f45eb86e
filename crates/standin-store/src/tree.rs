//! The newest digest of every granule of a disk, with the levels above (see `standin_model::digest::tree`).
//!
//! ```text
//! header, 4 KiB   magic | version u32 | granule u32 | disk size u64 | epoch + 1 u64 | BLAKE3, 16 bytes
//! level 0         16 bytes per granule          every level begins on 4 KiB; zeros are holes
//! level 1         16 bytes per 64 granules
//! ...
//! ```
//!
//! The file says which epoch it contains *at least*. It is changed only after a layer is sealed, and the epoch
//! in the header is raised only after the changes are durable. After a crash the sidecars of all later epochs
//! are laid over it again; that gives the same file, because it is a function of the newest digests alone. A
//! layer that was never sealed does not get here.

use crate::error::{Error, Result, to_usize};
use crate::io::{Handle, Io};
use crate::runs::{Content, Run, Runs};
use crate::sidecar::{Shape, decode};
use standin_model::Epoch;
use standin_model::digest::{BlockDigest, tree};
use std::iter::Peekable;
use std::path::Path;

const MAGIC: [u8; 8] = *b"standin\xd2";
const VERSION: u32 = 1;
const PAGE: u64 = 4096;
const FAN_OUT: u64 = tree::FAN_OUT as u64;
/// Changes kept in memory between computing a root and applying it: 64 bytes each.
const MAX_KEPT: usize = 64 << 10;

/// A change of the file.
#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, digests: Vec<BlockDigest> },
    Punch { offset: u64, length: u64 },
}

/// Changes that give the root that was computed; too many to keep are computed again when they are applied.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    changes: Vec<Change>,
    digests: usize,
    overflow: bool,
}

/// The digests of one disk.
#[derive(Debug)]
pub(crate) struct Tree {
    file: Handle,
    shape: Shape,
    /// File offset and number of nodes of every level, leaves first.
    levels: Vec<(u64, u64)>,
    /// What the header on disk says.
    durable: Option<Epoch>,
    /// What the file contains once it is synced.
    applied: Option<Epoch>,
}

impl Tree {
    /// Opens the file, or makes it, or makes it anew when it is damaged: it can always be rebuilt.
    pub(crate) fn open(io: &Io, path: &Path, shape: Shape) -> Result<Self> {
        let (mut tree, length) = Self::over(io.open_rw(path, true)?, shape);
        match tree.read_header(length)? {
            Some(epoch) => (tree.durable, tree.applied) = (epoch, epoch),
            None => tree.reset(length)?,
        }
        Ok(tree)
    }

    /// Opens the file as it is; `None` when it is missing, or is not of such a disk.
    pub(crate) fn found(io: &Io, path: &Path, shape: Shape) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let (mut tree, length) = Self::over(io.open_rw(path, false)?, shape);
        Ok(tree.read_header(length)?.map(|epoch| {
            (tree.durable, tree.applied) = (epoch, epoch);
            tree
        }))
    }

    /// The tree in a file whose header has not been looked at, and the length that the file must have.
    fn over(file: Handle, shape: Shape) -> (Self, u64) {
        let mut levels = Vec::new();
        let (mut offset, mut nodes) = (PAGE, shape.granules());
        loop {
            levels.push((offset, nodes));
            offset += (nodes * BlockDigest::LEN as u64).next_multiple_of(PAGE);
            if nodes <= 1 {
                break;
            }
            nodes = nodes.div_ceil(FAN_OUT);
        }
        (Self { file, shape, levels, durable: None, applied: None }, offset)
    }

    /// Empties the file: a disk of zeros that contains no epoch.
    fn reset(&mut self, length: u64) -> Result<()> {
        self.file.set_len(0)?;
        self.file.set_len(length)?;
        (self.durable, self.applied) = (None, None);
        self.write_header()?;
        self.file.sync()
    }

    /// Empties the file, to build it again from the sidecars.
    pub(crate) fn clear(&mut self) -> Result<()> {
        let (offset, nodes) = self.levels.last().copied().unwrap_or((PAGE, 0));
        self.reset(offset + (nodes * BlockDigest::LEN as u64).next_multiple_of(PAGE))
    }

    fn header(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(48);
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend(self.shape.granule.to_le_bytes());
        header.extend(self.shape.size.to_le_bytes());
        header.extend(self.durable.map_or(0, |epoch| epoch.0 + 1).to_le_bytes());
        let check = blake3::hash(&header);
        header.extend(&check.as_bytes()[..16]);
        header
    }

    fn write_header(&self) -> Result<()> {
        self.file.write_at(&self.header(), 0)
    }

    /// The epoch in a header that is sound; the outer `None` when it is not.
    fn read_header(&self, length: u64) -> Result<Option<Option<Epoch>>> {
        let mut header = [0; 48];
        self.file.read_padded(&mut header, 0)?;
        let mut word = [0; 8];
        word.copy_from_slice(&header[24..32]);
        let epoch = u64::from_le_bytes(word).checked_sub(1).map(Epoch);
        let wanted =
            Self { durable: epoch, file: Handle::open(self.file.path())?, levels: Vec::new(), ..*self };
        let sound = wanted.header() == header && self.file.len()? == length;
        Ok(sound.then_some(epoch))
    }

    /// The newest epoch whose changes are in the file.
    pub(crate) fn applied(&self) -> Option<Epoch> {
        self.applied
    }

    /// The newest epoch whose changes are in the file for certain.
    pub(crate) fn durable(&self) -> Option<Epoch> {
        self.durable
    }

    /// Makes everything applied durable and says so in the header.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if self.durable == self.applied {
            return Ok(());
        }
        self.file.sync()?;
        self.durable = self.applied;
        self.write_header()
    }

    /// Makes the changes durable, whatever epoch they are of.
    pub(crate) fn sync_data(&self) -> Result<()> {
        self.file.sync()
    }

    /// The root over all granules.
    pub(crate) fn root(&self) -> Result<BlockDigest> {
        let top = self.levels.len() - 1;
        Ok(self.nodes(u32::try_from(top).unwrap_or(0), 0, 1)?.first().copied().unwrap_or(BlockDigest::ZERO))
    }

    /// `count` nodes of a level from `first` on; level 0 is the granules. Fewer at the end of the disk.
    pub(crate) fn nodes(&self, level: u32, first: u64, count: u64) -> Result<Vec<BlockDigest>> {
        const LIMIT: u64 = 1 << 20;
        let Some((offset, nodes)) = self.levels.get(level as usize).copied() else {
            return Err(Error::invalid(format!(
                "the digest tree has {} levels, no level {level}",
                self.levels.len()
            )));
        };
        if count > LIMIT {
            return Err(Error::invalid(format!("{count} digests at once; {LIMIT} are possible")));
        }
        let count = count.min(nodes.saturating_sub(first));
        let mut bytes = vec![0; to_usize(count, "digest count")? * BlockDigest::LEN];
        self.file.read_padded(&mut bytes, offset + first * BlockDigest::LEN as u64)?;
        Ok(decode(&bytes))
    }

    /// The root with `runs` laid over what is there, and the changes that lead to it. Nothing is written.
    pub(crate) fn preview(&self, runs: Runs<'_>) -> Result<(BlockDigest, Pending)> {
        let mut pending = Pending::default();
        let root = self.walk(runs, &mut |change| {
            pending.keep(change);
            Ok(())
        })?;
        Ok((root, pending))
    }

    /// Applies the changes of a preview; `again` gives the runs once more if they were too many to keep.
    pub(crate) fn apply<'a>(
        &mut self,
        epoch: Epoch,
        pending: Pending,
        again: impl FnOnce() -> Result<Runs<'a>>,
    ) -> Result<()> {
        if pending.overflow {
            return self.lay(epoch, again()?);
        }
        for change in pending.changes {
            self.change(change)?;
        }
        self.applied = Some(epoch);
        Ok(())
    }

    /// Lays the runs of a sealed layer over what is there.
    pub(crate) fn lay(&mut self, epoch: Epoch, runs: Runs<'_>) -> Result<()> {
        self.walk(runs, &mut |change| self.change(change))?;
        self.applied = Some(epoch);
        Ok(())
    }

    fn change(&self, change: Change) -> Result<()> {
        match change {
            Change::Write { offset, digests } => {
                let bytes: Vec<u8> = digests.iter().flat_map(|digest| *digest.as_bytes()).collect();
                self.file.write_at(&bytes, offset)
            }
            Change::Punch { offset, length } => self.file.punch(offset, length),
        }
    }

    /// The first node that differs from another tree of the same shape: level and index.
    pub(crate) fn first_difference(&self, other: &Self) -> Result<Option<(u32, u64)>> {
        const STEP: u64 = 16 << 10;
        for (level, (_, nodes)) in (0..).zip(&self.levels) {
            let mut first = 0;
            while first < *nodes {
                let (a, b) = (self.nodes(level, first, STEP)?, other.nodes(level, first, STEP)?);
                if let Some(at) = a.iter().zip(&b).position(|(a, b)| a != b) {
                    return Ok(Some((level, first + at as u64)));
                }
                first += STEP;
            }
        }
        Ok(None)
    }

    fn walk(&self, runs: Runs<'_>, sink: &mut dyn FnMut(Change) -> Result<()>) -> Result<BlockDigest> {
        let mut cursor = Cursor { runs: runs.peekable(), held: None };
        if cursor.next_first()?.is_none() {
            return self.root();
        }
        let top = self.levels.len() - 1;
        let root = self.visit(top, 0, &mut cursor, sink)?;
        sink(Change::Write { offset: self.levels[top].0, digests: vec![root] })?;
        Ok(root)
    }

    /// The new digest of a node that the next run touches; writes everything below it that changes.
    fn visit(
        &self,
        level: usize,
        index: u64,
        cursor: &mut Cursor<'_>,
        sink: &mut dyn FnMut(Change) -> Result<()>,
    ) -> Result<BlockDigest> {
        let span = FAN_OUT.pow(u32::try_from(level).unwrap_or(u32::MAX));
        let (from, to) = (index * span, ((index + 1) * span).min(self.shape.granules()));
        if level == 0 {
            return cursor.take(from);
        }
        if cursor.zero_until(from)? >= to {
            cursor.skip_to(to)?;
            return self.zero_below(level, from, to, sink).map(|()| BlockDigest::ZERO);
        }
        let (offset, nodes) = self.levels[level - 1];
        let first = index * FAN_OUT;
        let mut children =
            self.nodes(u32::try_from(level - 1).unwrap_or(0), first, FAN_OUT.min(nodes - first))?;
        let mut touched: Option<(usize, usize)> = None;
        while let Some(next) = cursor.next_first()?.filter(|next| *next < to) {
            let slot = to_usize((next - from) / (span / FAN_OUT), "tree slot")?;
            children[slot] = self.visit(level - 1, first + slot as u64, cursor, sink)?;
            touched = Some((touched.map_or(slot, |(low, _)| low), slot));
        }
        if let Some((low, high)) = touched {
            let at = offset + (first + low as u64) * BlockDigest::LEN as u64;
            sink(Change::Write { offset: at, digests: children[low..=high].to_vec() })?;
        }
        Ok(tree::node(&children))
    }

    /// Everything below a node of zeros becomes a hole.
    fn zero_below(
        &self,
        level: usize,
        from: u64,
        to: u64,
        sink: &mut dyn FnMut(Change) -> Result<()>,
    ) -> Result<()> {
        let mut span = 1;
        for (offset, _) in &self.levels[..level] {
            let (first, last) = (from / span, to.div_ceil(span));
            let length = (last - first) * BlockDigest::LEN as u64;
            sink(Change::Punch { offset: offset + first * BlockDigest::LEN as u64, length })?;
            span *= FAN_OUT;
        }
        Ok(())
    }
}

impl Pending {
    fn keep(&mut self, change: Change) {
        if let Change::Write { digests, .. } = &change {
            self.digests += digests.len();
        }
        if self.overflow || self.digests > MAX_KEPT || self.changes.len() > MAX_KEPT {
            self.overflow = true;
            self.changes = Vec::new();
        } else {
            self.changes.push(change);
        }
    }
}

/// Takes digests off a series of runs, granule by granule.
struct Cursor<'a> {
    runs: Peekable<Runs<'a>>,
    held: Option<(Run, u64)>,
}

impl Cursor<'_> {
    fn fill(&mut self) -> Result<()> {
        if self.held.as_ref().is_some_and(|(run, at)| *at >= run.end()) {
            self.held = None;
        }
        if self.held.is_none() {
            if let Some(run) = self.runs.next() {
                let run = run?;
                let at = run.first;
                self.held = Some((run, at));
            }
        }
        Ok(())
    }

    /// The next granule that something is said about.
    fn next_first(&mut self) -> Result<Option<u64>> {
        self.fill()?;
        Ok(self.held.as_ref().map(|(_, at)| *at))
    }

    /// The digest of granule `at`, which must be the next.
    fn take(&mut self, at: u64) -> Result<BlockDigest> {
        self.fill()?;
        match &mut self.held {
            Some((run, next)) if *next == at => {
                let digest = match &run.content {
                    Content::Zero => BlockDigest::ZERO,
                    Content::Data(digests) => digests[to_usize(at - run.first, "granule")?],
                };
                *next += 1;
                Ok(digest)
            }
            _ => Err(Error::invalid("runs of digests that do not ascend")),
        }
    }

    /// The end of the run of zeros that begins at or before `from`; `from` when there is none.
    fn zero_until(&mut self, from: u64) -> Result<u64> {
        self.fill()?;
        Ok(match &self.held {
            Some((Run { content: Content::Zero, first, count }, at)) if *at <= from => first + count,
            _ => from,
        })
    }

    fn skip_to(&mut self, to: u64) -> Result<()> {
        if let Some((_, at)) = &mut self.held {
            *at = to;
        }
        self.fill()
    }
}
