//! Reads the store's own qcow2 files: which run of the disk is where in the file. Everything that is read is
//! checked before it is used; garbage gives an error, never a panic and never a large allocation.

use super::edit::read_header;
use super::format::{CLUSTER, COPIED, Entry, Header, L2_SPAN, OFFSET_MASK, SUBCLUSTER, host_is_inside};
use crate::error::{Error, Result, to_usize};
use crate::io::Handle;
use std::path::Path;
use std::sync::Arc;

/// What a run of the guest's disk is in one file. A run that is not mapped is that of the file below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Data, at this offset of the file.
    Data(u64),
    /// Zeros.
    Zero,
}

/// A run of the guest's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) state: State,
}

/// An open image of ours. Memory: 16 bytes per L2 table it has.
#[derive(Debug)]
pub(crate) struct Image {
    file: Arc<Handle>,
    header: Header,
    end: u64,
    /// L1 index and host offset of every L2 table, ascending.
    tables: Vec<(u64, u64)>,
}

/// Reads one L1 entry; 0 for none.
pub(super) fn l1_entry(path: &Path, raw: &[u8], end: u64) -> Result<u64> {
    let mut word = [0; 8];
    word.copy_from_slice(raw);
    let word = u64::from_be_bytes(word);
    let host = word & OFFSET_MASK;
    let sound = word & !(OFFSET_MASK | COPIED) == 0 && (host != 0) == (word & COPIED != 0);
    if sound && host_is_inside(host, end) {
        Ok(host)
    } else {
        Err(Error::corrupt(path, format!("its L1 table has the impossible entry {word:#x}")))
    }
}

impl Image {
    /// Opens a file of ours.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = Handle::open(path)?;
        let header = read_header(&file)?;
        let end = file.len()?.next_multiple_of(CLUSTER);
        let tables = read_l1(&file, &header, end)?;
        Ok(Self { file: Arc::new(file), header, end, tables })
    }

    pub(crate) fn size(&self) -> u64 {
        self.header.size
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    pub(crate) fn file(&self) -> &Handle {
        &self.file
    }

    /// Bytes on the file system.
    pub(crate) fn stored(&self) -> Result<u64> {
        self.file.stored()
    }

    /// L1 indexes that have a table, ascending, with the table's host offset.
    pub(crate) fn tables(&self) -> &[(u64, u64)] {
        &self.tables
    }

    /// The entries of the table of an L1 index, if there is one.
    pub(crate) fn table(&self, index: u64) -> Result<Option<Vec<Entry>>> {
        match self.tables.binary_search_by_key(&index, |(index, _)| *index) {
            Ok(at) => {
                super::writer::read_table(&self.file, self.tables[at].1, self.end, usize::MAX).map(Some)
            }
            Err(_) => Ok(None),
        }
    }

    /// The runs that one table holds (data and zeros, no absent ones), ascending, clipped to the disk.
    pub(crate) fn runs(&self, index: u64) -> Result<Vec<Mapped>> {
        let Some(entries) = self.table(index)? else { return Ok(Vec::new()) };
        let mut runs: Vec<Mapped> = Vec::new();
        for (slot, entry) in entries.iter().enumerate() {
            if entry.data | entry.zero != 0 {
                let guest = index * L2_SPAN + slot as u64 * CLUSTER;
                push_entry(&mut runs, guest, *entry, self.header.size);
            }
        }
        Ok(runs)
    }

    /// All runs of the image, one table at a time.
    pub(crate) fn all_runs(&self) -> impl Iterator<Item = Result<Vec<Mapped>>> {
        self.tables.iter().map(|(index, _)| self.runs(*index))
    }

    /// Reads `buffer` at an offset of the file, as given by [`State::Data`].
    pub(crate) fn read_host(&self, buffer: &mut [u8], host: u64) -> Result<()> {
        self.file.read_padded(buffer, host)
    }
}

fn read_l1(file: &Handle, header: &Header, end: u64) -> Result<Vec<(u64, u64)>> {
    const STEP: u64 = 64 << 10;
    let length = super::format::l1_entries(header.size) * 8;
    let mut tables = Vec::new();
    let mut at = 0;
    while at < length {
        let mut bytes = vec![0; to_usize(STEP.min(length - at), "L1 table")?];
        file.read_padded(&mut bytes, header.l1_offset + at)?;
        for (n, raw) in bytes.chunks_exact(8).enumerate() {
            let host = l1_entry(file.path(), raw, end)?;
            if host != 0 {
                tables.push((at / 8 + n as u64, host));
            }
        }
        at += STEP;
    }
    Ok(tables)
}

/// Appends the runs of one cluster; contiguous ones grow the last run.
fn push_entry(runs: &mut Vec<Mapped>, guest: u64, entry: Entry, size: u64) {
    let mut sub: u32 = 0;
    while sub < 32 {
        let bit = 1_u32 << sub;
        let field = if entry.data & bit != 0 {
            entry.data
        } else if entry.zero & bit != 0 {
            entry.zero
        } else {
            sub += 1;
            continue;
        };
        let count = (field >> sub).trailing_ones();
        let inside = u64::from(sub) * SUBCLUSTER;
        let state = if entry.data & bit != 0 { State::Data(entry.host + inside) } else { State::Zero };
        let offset = guest + inside;
        let length = (u64::from(count) * SUBCLUSTER).min(size.saturating_sub(offset));
        if length > 0 {
            push_run(runs, Mapped { offset, length, state });
        }
        sub += count;
    }
}

pub(crate) fn push_run(runs: &mut Vec<Mapped>, next: Mapped) {
    if let Some(last) = runs.last_mut() {
        let joins = match (last.state, next.state) {
            (State::Data(a), State::Data(b)) => a + last.length == b,
            (a, b) => a == b,
        };
        if joins && last.offset + last.length == next.offset {
            last.length += next.length;
            return;
        }
    }
    runs.push(next);
}
