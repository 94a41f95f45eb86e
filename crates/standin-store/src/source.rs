//! The digest tree of a disk on the side that sends it: what the replica must have, known without asking the
//! replica. The same file and the same root as the replica's [`Tree`], kept by the primary's engine.
//!
//! The file by itself does not say what it contains: the engine writes that down beside it. Nothing is made
//! durable before [`SourceTree::sync`]; what was laid survives the end of the process, not that of the host.
//!
//! Cost: what is laid, times the tree's height; nothing that grows with the disk but [`SourceTree::create`]'s
//! file, which is a hole.

use crate::error::{Error, Result};
use crate::io::Io;
use crate::manifest::check_granule;
use crate::runs::Run;
use crate::sidecar::Shape;
use crate::tree::Tree;
use standin_model::Epoch;
use standin_model::digest::BlockDigest;
use std::path::Path;

/// Digests of granules that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// So many granules of zeros.
    Zeros {
        /// The number of the first granule.
        first: u64,
        /// Granules.
        count: u64,
    },
    /// One digest a granule.
    Data {
        /// The number of the first granule.
        first: u64,
        /// The digests, in the order of the disk.
        digests: Vec<BlockDigest>,
    },
}

impl Sent {
    /// The number of the first granule.
    #[must_use]
    pub fn first(&self) -> u64 {
        match self {
            Self::Zeros { first, .. } | Self::Data { first, .. } => *first,
        }
    }

    /// The number of the granule after the last.
    #[must_use]
    pub fn end(&self) -> u64 {
        match self {
            Self::Zeros { first, count } => first.saturating_add(*count),
            Self::Data { first, digests } => first + digests.len() as u64,
        }
    }

    fn run(self) -> Run {
        match self {
            Self::Zeros { first, count } => Run::zero(first, count),
            Self::Data { first, digests } => Run::data(first, digests),
        }
    }
}

/// What a sender has sent of one disk. All calls block.
#[derive(Debug)]
pub struct SourceTree {
    tree: Tree,
    granules: u64,
}

impl SourceTree {
    /// The tree of a disk of zeros, in a new file or over an old one.
    ///
    /// # Errors
    /// A granule that is none, or the file cannot be written.
    pub fn create(path: &Path, granule: u32, size: u64) -> Result<Self> {
        let shape = shape(granule, size)?;
        let mut tree = Tree::open(&Io::default(), path, shape)?;
        tree.clear()?;
        Ok(Self { tree, granules: shape.granules() })
    }

    /// The tree in a file; `None` when there is none for a disk of this size and granule.
    ///
    /// # Errors
    /// A granule that is none, or the file cannot be read.
    pub fn open(path: &Path, granule: u32, size: u64) -> Result<Option<Self>> {
        let shape = shape(granule, size)?;
        let found = Tree::found(&Io::default(), path, shape)?;
        Ok(found.map(|tree| Self { tree, granules: shape.granules() }))
    }

    /// Lays `sent` over what is there: runs that ascend and do not overlap.
    ///
    /// # Errors
    /// Runs beyond the disk or out of order, or the file cannot be written. What is in the file is then not
    /// what was sent.
    pub fn lay(&mut self, sent: Vec<Sent>) -> Result<()> {
        let mut end = 0;
        for run in &sent {
            if run.first() < end || run.end() > self.granules {
                return Err(Error::invalid(format!(
                    "digests of granules {} to {} after granule {end}, of {}",
                    run.first(),
                    run.end(),
                    self.granules
                )));
            }
            end = run.end();
        }
        let runs = sent.into_iter().filter(|run| run.first() < run.end());
        self.tree.lay(Epoch(0), Box::new(runs.map(|run| Ok(run.run()))))
    }

    /// The root over all granules.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn root(&self) -> Result<BlockDigest> {
        self.tree.root()
    }

    /// Makes what was laid durable.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&self) -> Result<()> {
        self.tree.sync_data()
    }
}

fn shape(granule: u32, size: u64) -> Result<Shape> {
    check_granule(granule)?;
    Ok(Shape { granule, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use standin_model::digest::tree;

    const GRANULE: u32 = 4096;

    fn digest(n: u8) -> BlockDigest {
        BlockDigest::from_bytes([n; 16])
    }

    #[test]
    fn the_root_is_that_of_all_leaves_after_every_change_and_after_opening_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.tree");
        let granules = 64 * 70 + 3_u64;
        let size = granules * u64::from(GRANULE) - 512;
        let mut leaves = vec![BlockDigest::ZERO; usize::try_from(granules).expect("small")];
        let mut source = SourceTree::create(&path, GRANULE, size).expect("made");
        for (first, count, n) in
            [(0_u64, 5000 - 517_u64, 1_u8), (64, 64, 0), (4000, 1, 2), (granules - 1, 1, 3)]
        {
            let range =
                usize::try_from(first).expect("small")..usize::try_from(first + count).expect("small");
            leaves[range].fill(if n == 0 { BlockDigest::ZERO } else { digest(n) });
            let sent = match n {
                0 => Sent::Zeros { first, count },
                _ => Sent::Data { first, digests: vec![digest(n); usize::try_from(count).expect("small")] },
            };
            source.lay(vec![sent]).expect("laid");
            assert_eq!(source.root().expect("a root"), tree::root(leaves.iter().copied()));
        }
        drop(source);
        let again = SourceTree::open(&path, GRANULE, size).expect("opens").expect("is there");
        assert_eq!(again.root().expect("a root"), tree::root(leaves));
        assert!(SourceTree::open(&path, GRANULE, size + 4096).expect("opens").is_none());
        assert!(SourceTree::open(&path, 2 * GRANULE, size).expect("opens").is_none());
        assert!(SourceTree::open(&dir.path().join("b.tree"), GRANULE, size).expect("opens").is_none());
    }

    #[test]
    fn runs_beyond_the_disk_or_out_of_order_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut source = SourceTree::create(&dir.path().join("a.tree"), GRANULE, 8192).expect("made");
        let zeros = |first, count| Sent::Zeros { first, count };
        assert!(source.lay(vec![zeros(1, 2)]).is_err());
        assert!(source.lay(vec![zeros(1, 1), zeros(0, 1)]).is_err());
        assert!(source.lay(vec![zeros(0, 1), zeros(1, 1)]).is_ok());
    }
}
