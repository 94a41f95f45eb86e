//! Long writes go around the page cache.
//!
//! What a replica receives is not read again soon. Put into the page cache, each of its pages has to be found,
//! filled, written back and thrown out later, which on a first copy costs more processor time than all other
//! work of the receiver; and the last fsync waits for what is still there. A write with `O_DIRECT` costs none of
//! it. The disk needs several of them at once to show its speed, so [`crate::layer`] does not hold a lock meanwhile.
//!
//! Invariants: only whole, aligned pages go this way, the rest goes through the cache (the kernel keeps both
//! views of a file in step); where the file system refuses, everything goes through the cache from then on.
//! A sync is as necessary as before: it is what puts block allocations and the drive's own cache on disk.

use crate::fault::DirectWrites;
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Alignment of offset, length and memory. No drive with larger sectors is known to Linux.
const ALIGN: usize = 4096;
/// Shorter writes go through the cache: one of these waits for the drive, many small ones would wait long.
pub(crate) const MIN: usize = 128 << 10;
/// Bytes that are copied at a time, where memory is not aligned.
const COPY: usize = 1 << 20;

/// The way around the page cache to one file.
#[derive(Debug, Default)]
pub(crate) struct Direct {
    file: OnceLock<Option<File>>,
    refused: AtomicBool,
    /// What a test wants it to meet.
    fault: DirectWrites,
}

impl Direct {
    /// The way to a file; tests may make it a bad one.
    pub(crate) fn new(fault: DirectWrites) -> Self {
        Self { fault, ..Self::default() }
    }

    /// Writes the beginning of `data` around the cache; how many bytes. The caller writes the rest through it.
    pub(crate) fn write(&self, cached: &File, data: &[u8], offset: u64) -> io::Result<usize> {
        let length = data.len() - data.len() % ALIGN;
        if length < MIN || offset % ALIGN as u64 != 0 || self.refused.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let Some(file) = self.file.get_or_init(|| self.open(cached.as_fd())) else { return Ok(0) };
        match self.try_write(file, &data[..length], offset) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                self.refused.store(true, Ordering::Relaxed);
                Ok(0)
            }
            written => written.map(|()| length),
        }
    }

    fn open(&self, file: BorrowedFd<'_>) -> Option<File> {
        if self.fault == DirectWrites::RefusedAtOpen { None } else { reopen(file) }
    }

    fn try_write(&self, file: &File, data: &[u8], offset: u64) -> io::Result<()> {
        if self.fault != DirectWrites::RefusedHalfWay {
            return write_aligned(file, data, offset);
        }
        let half = data.len() / 2 / ALIGN * ALIGN;
        write_aligned(file, &data[..half], offset)?;
        Err(rustix::io::Errno::INVAL.into())
    }
}

/// The same file once more, whatever its name is by now. Nothing where the file system has no direct writes.
fn reopen(file: BorrowedFd<'_>) -> Option<File> {
    use rustix::fs::{Mode, OFlags};
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let opened = rustix::fs::open(path, OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty());
    opened.inspect_err(|error| tracing::debug!(%error, "no direct writes here")).ok().map(File::from)
}

fn write_aligned(file: &File, data: &[u8], offset: u64) -> io::Result<()> {
    thread_local! {
        static COPIED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    if padding(data.as_ptr()) == 0 {
        return file.write_all_at(data, offset);
    }
    COPIED.with_borrow_mut(|memory| {
        memory.resize(COPY + ALIGN, 0);
        let start = padding(memory.as_ptr());
        for (number, piece) in data.chunks(COPY).enumerate() {
            let aligned = &mut memory[start..start + piece.len()];
            aligned.copy_from_slice(piece);
            file.write_all_at(aligned, offset + (number * COPY) as u64)?;
        }
        Ok(())
    })
}

/// Bytes to the next aligned address.
fn padding(memory: *const u8) -> usize {
    memory.addr().next_multiple_of(ALIGN) - memory.addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterned(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from((at / 512 + at) % 251).unwrap()).collect()
    }

    #[test]
    fn what_is_written_around_the_cache_is_read_through_it() {
        let file = tempfile::tempfile_in(".").unwrap();
        let data = patterned(3 * COPY + 5 * ALIGN + 77);
        for skip in [0, 1, 512] {
            let direct = Direct::default();
            let part = &data[skip..];
            let done = direct.write(&file, part, 8192).unwrap();
            assert!(done % ALIGN == 0 && done + ALIGN > part.len() || done == 0, "{done}");
            file.write_all_at(&part[done..], 8192 + done as u64).unwrap();
            let mut found = vec![0; part.len()];
            file.read_exact_at(&mut found, 8192).unwrap();
            assert!(found == part, "bytes differ after a start at {skip}");
        }
    }

    #[test]
    fn short_and_unaligned_writes_are_left_to_the_cache() {
        let file = tempfile::tempfile_in(".").unwrap();
        let data = patterned(2 * MIN);
        let direct = Direct::default();
        assert_eq!(direct.write(&file, &data[..MIN - 1], 0).unwrap(), 0);
        assert_eq!(direct.write(&file, &data, 512).unwrap(), 0);
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}
