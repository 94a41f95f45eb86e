//! The bytes of a qcow2 header and of its table entries.

use crate::error::{Error, Result};
use std::path::Path;

/// Bytes of a cluster.
pub(crate) const CLUSTER: u64 = 1 << 16;
/// Bytes of a subcluster.
pub(crate) const SUBCLUSTER: u64 = CLUSTER / 32;
/// Entries of an L2 table: 64 KiB of 16 bytes each.
pub(crate) const L2_ENTRIES: u64 = CLUSTER / 16;
/// Guest bytes that one L2 table maps: 256 MiB.
pub(crate) const L2_SPAN: u64 = L2_ENTRIES * CLUSTER;
/// Entries of a refcount block.
pub(crate) const REFS_PER_BLOCK: u64 = CLUSTER / 2;
/// "The refcount is exactly one": set in every L1 and L2 entry of ours.
pub(crate) const COPIED: u64 = 1 << 63;
/// Host offsets in L1 and L2 entries.
pub(crate) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Incompatible feature: refcounts may be out of date.
pub(crate) const DIRTY: u64 = 1;
/// Incompatible feature: extended L2 entries.
const EXTENDED_L2: u64 = 1 << 4;
/// Largest disk: its L1 table takes 2 MiB of memory.
pub(crate) const MAX_DISK: u64 = 64 << 40;

const MAGIC: u32 = 0x5146_49fb;
const HEADER_LEN: usize = 112;
const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
const MAX_BACKING: usize = 1023;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes the guest sees.
    pub(crate) size: u64,
    /// File name of the backing image as it stands in the header.
    pub(crate) backing: Option<String>,
    pub(crate) l1_offset: u64,
    pub(crate) refcount_table: u64,
    pub(crate) refcount_table_clusters: u32,
    /// Refcounts may be out of date: an in-place merge is under way.
    pub(crate) dirty: bool,
}

/// Entries of the L1 table of a disk of `size` bytes.
pub(crate) fn l1_entries(size: u64) -> u64 {
    size.div_ceil(L2_SPAN).max(1)
}

/// Clusters of the L1 table of a disk of `size` bytes.
pub(crate) fn l1_clusters(size: u64) -> u64 {
    (l1_entries(size) * 8).div_ceil(CLUSTER)
}

fn put(bytes: &mut [u8], at: usize, data: &[u8]) {
    bytes[at..at + data.len()].copy_from_slice(data);
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(word)
}

impl Header {
    /// The first bytes of the file, up to the end of the backing file's name.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let backing = self.backing.as_deref().unwrap_or("");
        if backing.len() > MAX_BACKING {
            return Err(Error::invalid(format!("a backing file name of {} bytes", backing.len())));
        }
        let extension = if backing.is_empty() { 0 } else { 16 };
        let name_at = HEADER_LEN + extension + 8;
        let mut bytes = vec![0; name_at + backing.len()];
        put(&mut bytes, 0, &MAGIC.to_be_bytes());
        put(&mut bytes, 4, &3_u32.to_be_bytes());
        if !backing.is_empty() {
            put(&mut bytes, 8, &(name_at as u64).to_be_bytes());
            put(&mut bytes, 16, &small(backing.len() as u64)?.to_be_bytes());
            put(&mut bytes, HEADER_LEN, &EXT_BACKING_FORMAT.to_be_bytes());
            put(&mut bytes, HEADER_LEN + 4, &5_u32.to_be_bytes());
            put(&mut bytes, HEADER_LEN + 8, b"qcow2");
            put(&mut bytes, name_at, backing.as_bytes());
        }
        put(&mut bytes, 20, &CLUSTER.trailing_zeros().to_be_bytes());
        put(&mut bytes, 24, &self.size.to_be_bytes());
        put(&mut bytes, 36, &small(l1_entries(self.size))?.to_be_bytes());
        put(&mut bytes, 40, &self.l1_offset.to_be_bytes());
        put(&mut bytes, 48, &self.refcount_table.to_be_bytes());
        put(&mut bytes, 56, &self.refcount_table_clusters.to_be_bytes());
        put(&mut bytes, 72, &self.incompatible().to_be_bytes());
        put(&mut bytes, 96, &4_u32.to_be_bytes());
        put(&mut bytes, 100, &(u32::try_from(HEADER_LEN).unwrap_or(0)).to_be_bytes());
        Ok(bytes)
    }

    fn incompatible(&self) -> u64 {
        EXTENDED_L2 | if self.dirty { DIRTY } else { 0 }
    }

    /// Reads a header; every field that the reader relies on is checked against the file's length.
    pub(crate) fn decode(path: &Path, bytes: &[u8], file_len: u64) -> Result<Self> {
        let bad = |what: &str| Err(Error::corrupt(path, format!("its qcow2 header has {what}")));
        if bytes.len() < HEADER_LEN || be32(bytes, 0) != MAGIC {
            return bad("no qcow2 magic");
        }
        let fields = [
            (u64::from(be32(bytes, 4)), 3, "another version than 3"),
            (u64::from(be32(bytes, 20)), 16, "clusters of another size than 64 KiB"),
            (u64::from(be32(bytes, 32)), 0, "an encryption"),
            (u64::from(be32(bytes, 60)), 0, "internal snapshots"),
            (be64(bytes, 72) & !DIRTY, EXTENDED_L2, "features that this store does not write"),
            (u64::from(be32(bytes, 96)), 4, "refcounts of another width than 16 bits"),
        ];
        for (found, wanted, what) in fields {
            if found != wanted {
                return bad(what);
            }
        }
        let size = be64(bytes, 24);
        if size > MAX_DISK || size % 512 != 0 {
            return bad("an impossible disk size");
        }
        let header = Self {
            size,
            backing: read_backing(path, bytes)?,
            l1_offset: be64(bytes, 40),
            refcount_table: be64(bytes, 48),
            refcount_table_clusters: be32(bytes, 56),
            dirty: be64(bytes, 72) & DIRTY != 0,
        };
        if u64::from(be32(bytes, 36)) != l1_entries(size) {
            return bad("an L1 table that does not fit its size");
        }
        header.check_offsets(path, file_len)?;
        Ok(header)
    }

    fn check_offsets(&self, path: &Path, file_len: u64) -> Result<()> {
        let end = file_len.next_multiple_of(CLUSTER);
        let inside = |offset: u64, clusters: u64| {
            offset % CLUSTER == 0
                && offset >= CLUSTER
                && offset.checked_add(clusters.saturating_mul(CLUSTER)).is_some_and(|last| last <= end)
        };
        if !inside(self.l1_offset, l1_clusters(self.size)) {
            return Err(Error::corrupt(path, "its L1 table lies outside the file"));
        }
        if !inside(self.refcount_table, u64::from(self.refcount_table_clusters)) {
            return Err(Error::corrupt(path, "its refcount table lies outside the file"));
        }
        Ok(())
    }
}

fn read_backing(path: &Path, bytes: &[u8]) -> Result<Option<String>> {
    let (at, length) = (be64(bytes, 8), be32(bytes, 16) as usize);
    if at == 0 {
        return Ok(None);
    }
    let name = usize::try_from(at)
        .ok()
        .filter(|_| length <= MAX_BACKING)
        .and_then(|at| bytes.get(at..at.checked_add(length)?))
        .and_then(|name| std::str::from_utf8(name).ok());
    match name {
        Some(name) => Ok(Some(name.to_owned())),
        None => Err(Error::corrupt(path, "its backing file name lies outside the header")),
    }
}

fn small(value: u64) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::invalid(format!("{value} does not fit in a qcow2 header field")))
}

/// One L2 entry: where the cluster is and what its subclusters are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Entry {
    /// Host offset; 0: no cluster.
    pub(crate) host: u64,
    /// Bit per subcluster: its data is in the host cluster.
    pub(crate) data: u32,
    /// Bit per subcluster: it reads as zeros.
    pub(crate) zero: u32,
}

impl Entry {
    pub(crate) fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let word = if self.host == 0 { 0 } else { self.host | COPIED };
        bytes[..8].copy_from_slice(&word.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.zero.to_be_bytes());
        bytes[12..].copy_from_slice(&self.data.to_be_bytes());
        bytes
    }

    /// Reads an entry; `end` is the end of the file. `None` when it is damaged.
    pub(crate) fn decode(bytes: &[u8], end: u64) -> Option<Self> {
        let word = be64(bytes, 0);
        let entry = Self { host: word & OFFSET_MASK, zero: be32(bytes, 8), data: be32(bytes, 12) };
        let reserved = word & !(OFFSET_MASK | COPIED) != 0 || entry.data & entry.zero != 0;
        let copied = (word & COPIED != 0) == (entry.host != 0);
        let located = host_is_inside(entry.host, end) && (entry.host != 0 || entry.data == 0);
        (!reserved && copied && located).then_some(entry)
    }
}

/// 0, or a cluster that begins inside the file and behind its header.
pub(crate) fn host_is_inside(host: u64, end: u64) -> bool {
    host % CLUSTER == 0 && host < end
}

/// The bits of the subclusters from byte `from` up to byte `to` of a cluster; partly touched ones count.
pub(crate) fn bits(from: u64, to: u64) -> u32 {
    let (first, last) = (from / SUBCLUSTER, to.div_ceil(SUBCLUSTER).min(32));
    let below = |n: u64| if n >= 32 { u32::MAX } else { (1_u32 << n) - 1 };
    below(last) & !below(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            size: 1 << 30,
            backing: Some("000000000001.qcow2".into()),
            l1_offset: CLUSTER,
            refcount_table: 3 * CLUSTER,
            refcount_table_clusters: 1,
            dirty: false,
        }
    }

    #[test]
    fn a_header_survives_its_bytes() {
        let bytes = header().encode().expect("encodes");
        let read = Header::decode(Path::new("x"), &bytes, 4 * CLUSTER).expect("decodes");
        assert_eq!(read, header());
    }

    #[test]
    fn a_header_cut_or_flipped_anywhere_is_an_error_or_another_valid_one_and_never_a_panic() {
        let bytes = header().encode().expect("encodes");
        for cut in 0..HEADER_LEN {
            assert!(Header::decode(Path::new("x"), &bytes[..cut], 4 * CLUSTER).is_err(), "cut at {cut}");
        }
        let mut refused = 0;
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            refused += usize::from(Header::decode(Path::new("x"), &damaged, 4 * CLUSTER).is_err());
        }
        assert!(refused > 300, "only {refused} flips were refused");
    }

    #[test]
    fn subcluster_bits_cover_what_is_touched() {
        assert_eq!(bits(0, CLUSTER), u32::MAX);
        assert_eq!(bits(0, 512), 1);
        assert_eq!(bits(4096, 8192), 0b1100);
        assert_eq!(bits(CLUSTER - 2048, CLUSTER), 1 << 31);
    }

    #[test]
    fn entries_that_qemu_would_call_corrupt_are_refused() {
        let good = Entry { host: 2 * CLUSTER, data: 3, zero: 4 };
        assert_eq!(Entry::decode(&good.encode(), 3 * CLUSTER), Some(good));
        assert_eq!(Entry::decode(&good.encode(), 2 * CLUSTER), None, "behind the end");
        let both = Entry { host: 2 * CLUSTER, data: 3, zero: 1 };
        assert_eq!(Entry::decode(&both.encode(), 3 * CLUSTER), None, "data and zero at once");
        let nowhere = Entry { host: 0, data: 1, zero: 0 };
        assert_eq!(Entry::decode(&nowhere.encode(), 3 * CLUSTER), None, "data without a cluster");
    }
}
