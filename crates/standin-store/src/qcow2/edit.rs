//! Going on with a qcow2 file that exists: an interrupted first copy, and a merge into the base in place.
//!
//! While a base is edited its header carries qcow2's dirty bit, which says that refcounts may be out of date.
//! Guest data never is: entries are only added for runs that the layer above masks. A file found with the
//! bit set, or without a header at all, is scanned: what no table references is free again.

use super::format::{CLUSTER, Header, L2_SPAN, l1_clusters};
use super::writer::{Writer, read_table};
use crate::error::{Error, Result, to_usize};
use crate::io::{Handle, Io};
use std::path::Path;
use std::sync::Arc;

impl Writer {
    /// Goes on with a first copy that stopped. Guest bytes below `watermark` are kept, the rest is dropped.
    pub(crate) fn resume(io: &Io, path: &Path, size: u64, watermark: u64, max_tables: usize) -> Result<Self> {
        let file = Arc::new(io.open_rw(path, false)?);
        let mut writer = Self::over(file, size, None, max_tables);
        writer.load_l1(watermark.min(size))?;
        writer.rescan(watermark.min(size))?;
        Ok(writer)
    }

    /// Opens a sealed file to write into it in place; sets the dirty bit durably.
    pub(crate) fn edit(io: &Io, path: &Path, max_tables: usize) -> Result<Self> {
        let file = Arc::new(io.open_rw(path, false)?);
        let header = read_header(&file)?;
        if header.l1_offset != CLUSTER {
            return Err(Error::corrupt(path, "its L1 table is not where this store puts it"));
        }
        let mut writer = Self::over(Arc::clone(&file), header.size, header.backing.clone(), max_tables);
        writer.ordered = true;
        writer.load_l1(header.size)?;
        if header.dirty {
            writer.rescan(header.size)?;
            // The refcounts are rebuilt from nothing; until then the header keeps naming the old ones.
            writer.refs.table = header.refcount_table;
            writer.refs.table_clusters = 0;
            return Ok(writer);
        }
        writer.space.end = file.len()?.next_multiple_of(CLUSTER);
        writer.load_refcounts(&header)?;
        writer.refs.written_to = writer.space.end / CLUSTER;
        writer.write_header(true)?;
        file.sync()?;
        Ok(writer)
    }

    /// Entries of tables that lie wholly at or behind guest offset `keep` are forgotten unseen.
    fn load_l1(&mut self, keep: u64) -> Result<()> {
        let mut bytes = vec![0; self.l1.len() * 8];
        self.file.read_padded(&mut bytes, CLUSTER)?;
        let end = self.file.len()?.next_multiple_of(CLUSTER);
        let kept = to_usize(keep.div_ceil(L2_SPAN), "L1 table")?;
        for (slot, raw) in self.l1.iter_mut().zip(bytes.chunks_exact(8)).take(kept) {
            *slot = super::image::l1_entry(self.file.path(), raw, end)?;
        }
        self.l1_dirty = true;
        Ok(())
    }

    fn load_refcounts(&mut self, header: &Header) -> Result<()> {
        let blocks = super::check::read_refcount_table(&self.file, header, self.space.end)?;
        self.refs.table = header.refcount_table;
        self.refs.table_clusters = u64::from(header.refcount_table_clusters);
        self.refs.blocks = blocks;
        Ok(())
    }

    /// Finds what the tables reference below guest offset `keep`, forgets the rest, frees everything else.
    fn rescan(&mut self, keep: u64) -> Result<()> {
        let file_end = self.file.len()?.next_multiple_of(CLUSTER);
        let head = 1 + l1_clusters(self.size);
        let clusters = to_usize((file_end / CLUSTER).max(head), "cluster count")?;
        let mut used = vec![false; clusters];
        used.iter_mut().take(to_usize(head, "L1 table")?).for_each(|cluster| *cluster = true);
        let path = self.file.path().to_owned();
        let mut claim = |host: u64| -> Result<()> {
            match used.get_mut(to_usize(host / CLUSTER, "host offset")?) {
                Some(cluster) if !*cluster => *cluster = true,
                _ => {
                    return Err(Error::corrupt(
                        &path,
                        format!("the cluster at {host} is used twice or outside"),
                    ));
                }
            }
            Ok(())
        };
        for index in 0..self.l1.len() {
            let first = index as u64 * L2_SPAN;
            if self.l1[index] == 0 {
                continue;
            }
            claim(self.l1[index])?;
            let kept = to_usize((keep - first).div_ceil(CLUSTER), "L2 table")?;
            let entries = read_table(&self.file, self.l1[index], file_end, kept)?;
            if (keep - first) < L2_SPAN {
                let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.encode()).collect();
                self.file.write_at(&bytes, self.l1[index])?;
            }
            entries.iter().filter(|entry| entry.host != 0).try_for_each(|entry| claim(entry.host))?;
        }
        let last = used.iter().rposition(|cluster| *cluster).map_or(head, |at| at as u64 + 1);
        self.space.end = last * CLUSTER;
        self.space.free = (0..last)
            .filter(|at| usize::try_from(*at).is_ok_and(|at| !used[at]))
            .map(|at| at * CLUSTER)
            .collect();
        // A reused cluster must not show its earlier bytes in subclusters that are not written.
        for host in &self.space.free {
            self.file.punch(*host, CLUSTER)?;
        }
        Ok(())
    }
}

/// Reads and checks the header of a file.
pub(crate) fn read_header(file: &Handle) -> Result<Header> {
    let length = file.len()?;
    let mut bytes = vec![0; 4096];
    file.read_padded(&mut bytes, 0)?;
    Header::decode(file.path(), &bytes, length)
}
