//! Writes one layer: clusters are appended, tables are kept in a bounded cache and written back least recently
//! used first, refcounts come at the end. See `edit.rs` for going on with a file that exists.
//!
//! Invariants: a cluster is referenced at most once; every cluster below `end` has refcount one, but for those
//! in `free`; the file is valid qcow2 only after [`Writer::finish`]. After an error the writer must be dropped.

use super::format::{CLUSTER, COPIED, Entry, Header, L2_ENTRIES, L2_SPAN, REFS_PER_BLOCK, SUBCLUSTER};
use super::format::{bits, l1_clusters, l1_entries};
use crate::direct;
use crate::error::{Error, Result, to_usize};
use crate::io::{Handle, Io};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Bytes of an L2 table that are written back as a unit.
const PAGE: usize = 4096;
const ENTRIES_PER_PAGE: usize = PAGE / 16;

/// An L2 table in memory: 64 KiB.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) host: u64,
    pub(super) entries: Vec<Entry>,
    /// Bit per page that differs from the file.
    pub(super) dirty: u16,
    used: u64,
}

/// Guest data that is contiguous in the file: bytes `from..to` of a write go to `host`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    host: u64,
    from: usize,
    to: usize,
}

/// The file grows by as much as it has, within these bounds, before long runs are written into it: a write that
/// makes a file longer keeps all others of the file waiting.
const GROW: std::ops::RangeInclusive<u64> = (1 << 20)..=(64 << 20);

/// Where clusters come from.
#[derive(Debug)]
pub(super) struct Space {
    /// First byte behind the last cluster.
    pub(super) end: u64,
    /// Clusters below `end` that nothing references; sorted, taken from the back.
    pub(super) free: Vec<u64>,
}

impl Space {
    fn take(&mut self) -> u64 {
        self.free.pop().unwrap_or_else(|| {
            let at = self.end;
            self.end += CLUSTER;
            at
        })
    }

    fn take_behind(&mut self, clusters: u64) -> u64 {
        let at = self.end;
        self.end += clusters * CLUSTER;
        at
    }
}

/// Where the refcounts are in the file; empty until the first finish.
#[derive(Debug, Default)]
pub(super) struct Refcounts {
    pub(super) table: u64,
    pub(super) table_clusters: u64,
    pub(super) blocks: Vec<u64>,
    /// Counts of clusters from here on are still to be written.
    pub(super) written_to: u64,
}

/// A layer being written.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(super) file: Arc<Handle>,
    pub(super) size: u64,
    pub(super) backing: Option<String>,
    /// Host offset of every L2 table, 0 for none.
    pub(super) l1: Vec<u64>,
    pub(super) tables: HashMap<usize, Table>,
    pub(super) l1_dirty: bool,
    pub(super) space: Space,
    pub(super) refs: Refcounts,
    max_tables: usize,
    /// The file is in use as it is: data is durable before a table names it, a table before the L1 table does.
    pub(super) ordered: bool,
    clock: u64,
    /// The file was made ready for writes below this.
    reserved: u64,
    /// Bytes of data written.
    pub(super) written: u64,
}

impl Writer {
    /// A new file for a disk of `size` bytes. At most `max_tables` tables of 64 KiB are kept in memory.
    pub(crate) fn create(
        io: &Io,
        path: &Path,
        size: u64,
        backing: Option<String>,
        max_tables: usize,
    ) -> Result<Self> {
        if size > super::format::MAX_DISK || size % 512 != 0 {
            return Err(Error::invalid(format!(
                "a disk of {size} bytes: a multiple of 512 up to 64 TiB is possible"
            )));
        }
        let file = Arc::new(io.create(path)?);
        Ok(Self::over(file, size, backing, max_tables))
    }

    pub(super) fn over(file: Arc<Handle>, size: u64, backing: Option<String>, max_tables: usize) -> Self {
        let entries = usize::try_from(l1_entries(size)).unwrap_or(usize::MAX);
        Self {
            file,
            size,
            backing,
            l1: vec![0; entries],
            tables: HashMap::new(),
            l1_dirty: false,
            space: Space { end: CLUSTER * (1 + l1_clusters(size)), free: Vec::new() },
            refs: Refcounts::default(),
            max_tables: max_tables.max(2),
            ordered: false,
            clock: 0,
            reserved: 0,
            written: 0,
        }
    }

    /// The file, for whoever syncs it meanwhile.
    pub(crate) fn handle(&self) -> Arc<Handle> {
        Arc::clone(&self.file)
    }

    /// Bytes of data written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    fn check_range(&self, offset: u64, length: u64) -> Result<u64> {
        let end = offset.checked_add(length).filter(|end| *end <= self.size);
        let Some(end) = end else {
            return Err(Error::invalid(format!(
                "{length} bytes at {offset} lie behind the end of a disk of {} bytes",
                self.size
            )));
        };
        if offset % SUBCLUSTER != 0 || (end % SUBCLUSTER != 0 && end != self.size) {
            return Err(Error::invalid(format!(
                "{length} bytes at {offset} are not aligned to {SUBCLUSTER}"
            )));
        }
        Ok(end)
    }

    /// Writes `data` at guest offset `offset`, both aligned to 2 KiB but for the disk's end.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let pieces = self.place(offset, data.len() as u64)?;
        write_pieces(&self.file, &pieces, data).map(drop)
    }

    /// Finds the place of `length` bytes at guest offset `offset`, aligned as in [`Writer::write`], and notes in
    /// the tables that they are there. The caller then writes them with [`write_pieces`], and before that neither
    /// completes the file nor places anything that overlaps.
    pub(crate) fn place(&mut self, offset: u64, length: u64) -> Result<Vec<Piece>> {
        let end = self.check_range(offset, length)?;
        self.grow(length)?;
        let mut pieces: Vec<Piece> = Vec::new();
        let mut at = offset;
        while at < end {
            let until = end.min(at - at % L2_SPAN + L2_SPAN);
            self.place_in_table(at, until, offset, &mut pieces)?;
            at = until;
        }
        self.written += length;
        Ok(pieces)
    }

    fn grow(&mut self, length: u64) -> Result<()> {
        let needed = self.space.end + length.next_multiple_of(CLUSTER);
        if length >= direct::MIN as u64 && needed > self.reserved {
            self.reserved = needed + self.space.end.clamp(*GROW.start(), *GROW.end());
            self.file.reserve(self.space.end, self.reserved - self.space.end)?;
        }
        Ok(())
    }

    /// Places guest bytes `from..to`, which one L2 table maps, of a write that begins at `base`.
    fn place_in_table(&mut self, from: u64, to: u64, base: u64, pieces: &mut Vec<Piece>) -> Result<()> {
        let index = self.load(from)?;
        let Some(table) = self.tables.get_mut(&index) else { return Err(Error::Poisoned) };
        let mut guest = from;
        while guest < to {
            let inside = guest % CLUSTER;
            let until = to.min(guest - inside + CLUSTER);
            let slot = to_usize(guest % L2_SPAN / CLUSTER, "L2 index")?;
            let entry = &mut table.entries[slot];
            if entry.host == 0 {
                entry.host = self.space.take();
            }
            let touched = bits(inside, inside + (until - guest));
            if entry.data & touched != touched {
                entry.zero &= !touched;
                entry.data |= touched;
            }
            table.dirty |= 1 << (slot / ENTRIES_PER_PAGE);
            let host = entry.host + inside;
            let (start, end) = (to_usize(guest - base, "write")?, to_usize(until - base, "write")?);
            match pieces.last_mut() {
                Some(last) if last.host + (last.to - last.from) as u64 == host => last.to = end,
                _ => pieces.push(Piece { host, from: start, to: end }),
            }
            guest = until;
        }
        Ok(())
    }

    /// Makes a run read as zeros. Space that it held is given back.
    pub(crate) fn write_zeroes(&mut self, offset: u64, length: u64) -> Result<()> {
        let end = self.check_range(offset, length)?;
        let mut at = offset;
        while at < end {
            let until = end.min(at - at % L2_SPAN + L2_SPAN);
            // Without a backing file nothing is zeros already.
            let index = to_usize(at / L2_SPAN, "L1 index")?;
            if self.backing.is_some() || self.l1[index] != 0 {
                self.zero_in_table(at, until)?;
            }
            at = until;
        }
        Ok(())
    }

    fn zero_in_table(&mut self, offset: u64, end: u64) -> Result<()> {
        let index = self.load(offset)?;
        let file = Arc::clone(&self.file);
        let needs_bits = self.backing.is_some();
        let Some(table) = self.tables.get_mut(&index) else { return Err(Error::Poisoned) };
        let mut at = offset;
        while at < end {
            let until = end.min(at - at % CLUSTER + CLUSTER);
            let slot = to_usize(at % L2_SPAN / CLUSTER, "L2 index")?;
            let entry = &mut table.entries[slot];
            let touched = bits(at % CLUSTER, at % CLUSTER + (until - at));
            let had_data = entry.data & touched != 0;
            if had_data || (needs_bits && entry.zero & touched != touched) {
                entry.data &= !touched;
                entry.zero |= touched;
                table.dirty |= 1 << (slot / ENTRIES_PER_PAGE);
            }
            if had_data {
                let length = (until - at).next_multiple_of(SUBCLUSTER);
                file.punch(entry.host + at % CLUSTER, length)?;
            }
            at = until;
        }
        Ok(())
    }

    /// Puts the table of a guest offset into the cache, a new one if there is none; its L1 index.
    fn load(&mut self, offset: u64) -> Result<usize> {
        let index = to_usize(offset / L2_SPAN, "L1 index")?;
        self.clock += 1;
        if let Some(table) = self.tables.get_mut(&index) {
            table.used = self.clock;
            return Ok(index);
        }
        if self.tables.len() >= self.max_tables {
            self.evict()?;
        }
        let table = if self.l1[index] == 0 {
            let host = self.space.take();
            self.l1[index] = host;
            self.l1_dirty = true;
            let entries = vec![Entry::default(); to_usize(L2_ENTRIES, "L2 table")?];
            Table { host, entries, dirty: 0, used: self.clock }
        } else {
            let host = self.l1[index];
            let entries = read_table(&self.file, host, self.space.end, usize::MAX)?;
            Table { host, entries, dirty: 0, used: self.clock }
        };
        self.tables.insert(index, table);
        Ok(index)
    }

    fn evict(&mut self) -> Result<()> {
        if self.ordered {
            self.flush()?;
        }
        let oldest = self.tables.iter().min_by_key(|(_, table)| table.used).map(|(index, _)| *index);
        if let Some(mut table) = oldest.and_then(|index| self.tables.remove(&index)) {
            write_back(&self.file, &mut table)?;
        }
        Ok(())
    }

    /// Writes all tables to the file; not durable yet.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if self.ordered {
            self.file.sync()?;
        }
        for table in self.tables.values_mut() {
            write_back(&self.file, table)?;
        }
        if self.l1_dirty {
            if self.ordered {
                self.file.sync()?;
            }
            self.write_l1()?;
            self.l1_dirty = false;
        }
        Ok(())
    }

    /// Only pages with an entry are written: the table of an idle layer of any disk stays a hole.
    fn write_l1(&self) -> Result<()> {
        for (page, entries) in self.l1.chunks(PAGE / 8).enumerate() {
            if entries.iter().any(|host| *host != 0) {
                let bytes: Vec<u8> = entries
                    .iter()
                    .flat_map(|host| if *host == 0 { 0 } else { host | COPIED }.to_be_bytes())
                    .collect();
                self.file.write_at(&bytes, CLUSTER + (page * PAGE) as u64)?;
            }
        }
        Ok(())
    }

    /// Completes the file: tables, refcounts, header, length. The caller syncs.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.flush()?;
        self.write_refcounts()?;
        self.file.set_len(self.space.end)?;
        if self.ordered {
            // The header says that the refcounts are right only once they are there.
            self.file.sync()?;
        }
        self.write_header(false)
    }

    pub(super) fn write_header(&self, dirty: bool) -> Result<()> {
        let header = Header {
            size: self.size,
            backing: self.backing.clone(),
            l1_offset: CLUSTER,
            refcount_table: self.refs.table,
            refcount_table_clusters: u32::try_from(self.refs.table_clusters)
                .map_err(|_| Error::invalid("a refcount table of more than 2^32 clusters"))?,
            dirty,
        };
        self.file.write_at(&header.encode()?, 0)
    }

    /// Makes blocks and table cover every cluster, themselves included, and writes what is not written yet.
    fn write_refcounts(&mut self) -> Result<()> {
        loop {
            let blocks = (self.space.end / CLUSTER).div_ceil(REFS_PER_BLOCK);
            let table = (blocks * 8).div_ceil(CLUSTER);
            if (self.refs.blocks.len() as u64) < blocks {
                let block = self.space.take_behind(1);
                self.refs.blocks.push(block);
            } else if self.refs.table_clusters < table {
                if self.refs.table_clusters > 0 {
                    self.space
                        .free
                        .extend((0..self.refs.table_clusters).map(|n| self.refs.table + n * CLUSTER));
                    self.refs.written_to = self.refs.written_to.min(self.refs.table / CLUSTER);
                }
                self.refs.table = self.space.take_behind(table);
                self.refs.table_clusters = table;
            } else {
                break;
            }
        }
        self.space.free.sort_unstable();
        for number in 0..self.refs.blocks.len() {
            self.write_block(number)?;
        }
        self.refs.written_to = self.space.end / CLUSTER;
        let table: Vec<u8> = self.refs.blocks.iter().flat_map(|block| block.to_be_bytes()).collect();
        self.file.write_at(&table, self.refs.table)
    }

    fn write_block(&self, number: usize) -> Result<()> {
        let first = number as u64 * REFS_PER_BLOCK;
        let last = (first + REFS_PER_BLOCK).min(self.space.end / CLUSTER);
        let from = first.max(self.refs.written_to);
        if from >= last {
            return Ok(());
        }
        let mut counts = [0_u8, 1].repeat(to_usize(last - from, "refcount block")?);
        let skip = self.space.free.partition_point(|host| *host < from * CLUSTER);
        for host in self.space.free[skip..].iter().take_while(|host| **host < last * CLUSTER) {
            let at = to_usize(host / CLUSTER - from, "refcount")? * 2;
            counts[at + 1] = 0;
        }
        self.file.write_at(&counts, self.refs.blocks[number] + (from - first) * 2)
    }
}

/// Reads a table; an entry that points out of the file is an error. Entries from `keep` on are not looked at.
pub(super) fn read_table(file: &Handle, host: u64, end: u64, keep: usize) -> Result<Vec<Entry>> {
    let mut bytes = vec![0; to_usize(CLUSTER, "L2 table")?];
    file.read_padded(&mut bytes, host)?;
    let decode = |(at, raw)| if at < keep { Entry::decode(raw, end) } else { Some(Entry::default()) };
    let entries: Option<Vec<Entry>> = bytes.chunks_exact(16).enumerate().map(decode).collect();
    entries
        .ok_or_else(|| Error::corrupt(file.path(), format!("the L2 table at {host} has an impossible entry")))
}

fn write_back(file: &Handle, table: &mut Table) -> Result<()> {
    let mut page = 0;
    while page < 16 {
        if table.dirty & (1 << page) == 0 {
            page += 1;
            continue;
        }
        let first = page;
        while page < 16 && table.dirty & (1 << page) != 0 {
            page += 1;
        }
        let entries = &table.entries[first * ENTRIES_PER_PAGE..page * ENTRIES_PER_PAGE];
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.encode()).collect();
        file.write_at(&bytes, table.host + (first * PAGE) as u64)?;
    }
    table.dirty = 0;
    Ok(())
}

/// Writes `data` to where it was placed, what is contiguous in one call. How many bytes wait in the page cache.
///
/// The last subcluster of a disk can be cut short: the rest of it is zeros, so that a disk that grows later
/// does not show what an earlier use of the cluster left.
pub(crate) fn write_pieces(file: &Handle, pieces: &[Piece], data: &[u8]) -> Result<u64> {
    let mut cached = 0;
    for Piece { host, from, to } in pieces {
        let bytes = &data[*from..*to];
        cached += file.write_run(bytes, *host)?;
        let tail = (SUBCLUSTER - bytes.len() as u64 % SUBCLUSTER) % SUBCLUSTER;
        if tail > 0 {
            file.write_at(&vec![0; to_usize(tail, "padding")?], host + bytes.len() as u64)?;
        }
    }
    Ok(cached)
}
