//! Disk images for benchmarks: half random, a quarter text-like, a quarter empty, mixed finely, from a seed.

use crate::record::Noise;
use anyhow::{Context, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Pieces of one kind: 1 MiB, as files on a disk would be.
const PIECE: usize = 1 << 20;

const WORDS: [&str; 24] = [
    "request", "served", "in", "ms", "from", "client", "with", "status", "ok", "error", "while", "reading",
    "the", "table", "of", "orders", "for", "user", "session", "opened", "closed", "by", "timeout", "retry",
];

/// What a piece holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Cannot be compressed.
    Random,
    /// Like logs: compresses to about a third.
    Text,
    /// Never written: a hole.
    Empty,
}

/// What piece `index` of a mixed image holds: of each four, two random, one text, one empty.
#[must_use]
pub fn content_of(index: u64) -> Content {
    match index % 4 {
        0 | 2 => Content::Random,
        1 => Content::Text,
        _ => Content::Empty,
    }
}

fn fill(piece: &mut [u8], content: Content, noise: &mut Noise) {
    match content {
        Content::Empty => piece.fill(0),
        Content::Random => noise.fill(piece),
        Content::Text => {
            let mut at = 0;
            while at < piece.len() {
                let word = WORDS[noise.below(WORDS.len())];
                let number = noise.next_u64() % 10_000;
                let text = format!("{word} {number} ");
                let count = text.len().min(piece.len() - at);
                piece[at..at + count].copy_from_slice(&text.as_bytes()[..count]);
                at += count;
            }
        }
    }
}

/// Makes a sparse raw image of `size` bytes. Equal seeds make equal images.
///
/// # Errors
/// When it cannot be written.
pub fn make_mixed(path: &Path, size: u64, seed: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("make {}", path.display()))?;
    file.set_len(size).with_context(|| format!("size {}", path.display()))?;
    let mut piece = vec![0; PIECE];
    for index in 0..size.div_ceil(PIECE as u64) {
        let content = content_of(index);
        if content == Content::Empty {
            continue;
        }
        let offset = index * PIECE as u64;
        let count = usize::try_from(size - offset).map_or(PIECE, |left| left.min(PIECE));
        fill(&mut piece, content, &mut Noise::new(seed.wrapping_mul(0x1_0000_0001).wrapping_add(index)));
        file.write_all_at(&piece[..count], offset).with_context(|| format!("write {}", path.display()))?;
    }
    file.sync_all().with_context(|| format!("flush {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn an_image_is_sparse_by_a_quarter_and_the_same_for_the_same_seed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let size = 16 << 20;
        for (name, seed) in [("one", 1), ("same", 1), ("other", 2)] {
            make_mixed(&path(name), size, seed).unwrap();
        }
        let read = |name| std::fs::read(path(name)).unwrap();
        assert_eq!(read("one"), read("same"));
        assert_ne!(read("one"), read("other"));
        let held = std::fs::metadata(path("one")).unwrap().blocks() * 512;
        assert!((11 << 20..=13 << 20).contains(&held), "{held} bytes are held");
        assert!(read("one")[3 * PIECE..4 * PIECE].iter().all(|byte| *byte == 0));
        assert!(read("one")[PIECE..2 * PIECE].is_ascii());
    }
}
