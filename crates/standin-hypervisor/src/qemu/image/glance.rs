//! The size of an image from its first bytes, without a process: what a list of a thousand VMs can afford.
//!
//! Answers only for the ordinary image, whose header leaves nothing open; whatever is old, unusual or damaged is
//! left to `qemu-img`, so that there is one judge of what is wrong with an image. Fields and features:
//! `docs/interop/qcow2.txt` in QEMU. Called by [`super::look`].

use crate::definition::DiskFormat;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// What a first look told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Glance {
    /// What the guest sees, in bytes.
    Size(u64),
    /// It does not begin as an image of its format does.
    OtherFormat,
    /// Only QEMU can tell.
    AskQemu,
}

/// The longest header with its extensions that is looked through; QEMU's take a few hundred bytes.
const HEAD: u64 = 4096;
/// A header of version 3 has at least this many bytes.
const MIN_HEADER: u64 = 104;
const EXTENDED_L2: u64 = 1 << 4;
const BITMAPS_CURRENT: u64 = 1;
/// Header extensions by number. The backing file's format is no longer there when the backing was taken away.
const END: u32 = 0;
const FEATURE_NAMES: u32 = 0x6803_f857;
const BITMAPS: u32 = 0x2385_2875;
const BACKING_FORMAT: u32 = 0xe279_2aca;

/// Looks at an open image. An error of reading is for QEMU to say, too.
pub(super) fn glance(file: &mut File, format: DiskFormat) -> Glance {
    let Ok(length) = file.seek(SeekFrom::End(0)) else { return Glance::AskQemu };
    match format {
        // QEMU counts in sectors of 512 bytes, and the last one may be short.
        DiskFormat::Raw => length.checked_next_multiple_of(512).map_or(Glance::AskQemu, Glance::Size),
        DiskFormat::Qcow2 => {
            let mut head = Vec::new();
            let read = file.rewind().and_then(|()| file.take(HEAD).read_to_end(&mut head));
            match read {
                Ok(_) if head.get(..4) != Some(&super::QCOW2_MAGIC) => Glance::OtherFormat,
                Ok(_) => qcow2_size(&head, length).map_or(Glance::AskQemu, Glance::Size),
                Err(_) => Glance::AskQemu,
            }
        }
    }
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(word.try_into().ok()?))
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_be_bytes(word.try_into().ok()?))
}

/// The size in the header of a file of `length` bytes, if all of the header is ordinary.
fn qcow2_size(head: &[u8], length: u64) -> Option<u64> {
    let (features, autoclear) = (be64(head, 72)?, be64(head, 88)?);
    let (cluster_bits, refcount_order, header) = (be32(head, 20)?, be32(head, 96)?, be32(head, 100)?);
    let (backing, encryption) = (be64(head, 8)?, be32(head, 32)?);
    let snapshots = (be32(head, 60)?, be64(head, 64)?);
    let extended = features == EXTENDED_L2;
    let ordinary = be32(head, 4)? == 3
        && (features == 0 || extended)
        && autoclear & !BITMAPS_CURRENT == 0
        && (if extended { 14..=21 } else { 9..=21 }).contains(&cluster_bits)
        && refcount_order <= 6
        && (backing, encryption, snapshots) == (0, 0, (0, 0));
    if !ordinary {
        return None;
    }
    let file = Clusters { bytes: 1 << cluster_bits, length };
    let size = be64(head, 24)?;
    // An L2 table is one cluster of entries of 8 bytes, extended ones of 16.
    let span = file.bytes * (file.bytes / if extended { 16 } else { 8 });
    let l1_entries = u64::from(be32(head, 36)?);
    let refcounts = u64::from(be32(head, 56)?).checked_mul(file.bytes)?;
    let sound = size % 512 == 0
        && l1_entries >= size.div_ceil(span)
        && (l1_entries == 0 || file.has(be64(head, 40)?, l1_entries * 8))
        && refcounts > 0
        && file.has(be64(head, 48)?, refcounts)
        && u64::from(header) >= MIN_HEADER
        && u64::from(header) % 8 == 0
        // Compression of another kind than zlib is a feature of the header's next field.
        && (u64::from(header) == MIN_HEADER || be64(head, 104)? == 0)
        && extensions_are_known(head, usize::try_from(header).ok()?, &file)?;
    sound.then_some(size)
}

/// Where things may be in a file.
struct Clusters {
    bytes: u64,
    length: u64,
}

impl Clusters {
    fn has(&self, offset: u64, bytes: u64) -> bool {
        offset >= self.bytes
            && offset % self.bytes == 0
            && offset.checked_add(bytes).is_some_and(|end| end <= self.length)
    }
}

/// Walks the extensions behind the header; `None` when they do not end inside what was read.
fn extensions_are_known(head: &[u8], from: usize, file: &Clusters) -> Option<bool> {
    let inside = usize::try_from(file.bytes).ok()?.min(head.len());
    let mut at = from;
    loop {
        let (kind, length) = (be32(head, at)?, usize::try_from(be32(head, at.checked_add(4)?)?).ok()?);
        let data = head.get(..inside)?.get(at.checked_add(8)?..)?.get(..length)?;
        match kind {
            END => return Some(true),
            FEATURE_NAMES | BACKING_FORMAT => {}
            BITMAPS if length == 24 && file.has(be64(data, 16)?, be64(data, 8)?) && be32(data, 0)? > 0 => {}
            _ => return Some(false),
        }
        at = at.checked_add(8)?.checked_add(length.checked_next_multiple_of(8)?)?;
    }
}

#[cfg(test)]
mod tests;
