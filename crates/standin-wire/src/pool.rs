//! Memory for the data of blocks, used again and again.
//!
//! A block's buffer of a few hundred KiB that is taken from and given back to the system costs a page fault and a
//! cleared page for every 4 KiB of it, which is a tenth of the work at a gigabyte a second. A [`Pool`] keeps the
//! buffers of one connection or pass; each goes back to it when the last [`Bytes`] of it is dropped.
//!
//! A connection outlives its transfers by days, and a host has hundreds of them: what rests is released
//! ([`Pool::release`]).
//!
//! Invariants: a buffer that was handed out is written only through the one [`Buffer`]; a pool keeps at most
//! [`KEPT`] free buffers, and goes with its last user.

use crate::frame::MAX_BODY;
use bytes::Bytes;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where a page begins, direct writes to a disk need no copy.
pub const PAGE: usize = 4096;
/// Every pooled buffer has room for the longest body of a frame, wherever its data is aligned.
const SLAB: usize = MAX_BODY + PAGE;
/// What is shorter is left to the allocator, which is good at it.
const SMALLEST: usize = 64 << 10;
/// Free buffers of a pool: 17 MiB.
const KEPT: usize = 16;

/// Free buffers. Cheap to clone; clones are the same pool.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Debug, Default)]
struct Shelf {
    free: Vec<Vec<u8>>,
    /// When a buffer was asked for last.
    asked: Option<Instant>,
}

impl Pool {
    /// A buffer of `length` bytes of any content, in which byte `aligned` is at the beginning of a page, where the
    /// buffer is long enough to come from the pool.
    #[must_use]
    pub fn take(&self, length: usize, aligned: usize) -> Buffer {
        if !(SMALLEST..=MAX_BODY).contains(&length) || aligned > length {
            return Buffer { memory: vec![0; length], start: 0, length, pool: None };
        }
        let mut shelf = self.lock();
        shelf.asked = Some(Instant::now());
        let memory = shelf.free.pop();
        drop(shelf);
        let memory = memory.unwrap_or_else(|| vec![0; SLAB]);
        let at = memory.as_ptr().addr() + aligned;
        let start = at.next_multiple_of(PAGE) - at;
        Buffer { memory, start, length, pool: Some(self.clone()) }
    }

    /// Gives the free buffers back to the system if none was asked for within the last `rest`.
    pub fn release(&self, rest: Duration) {
        let mut shelf = self.lock();
        if shelf.asked.is_none_or(|asked| asked.elapsed() >= rest) {
            let free = std::mem::take(&mut shelf.free);
            drop(shelf);
            drop(free);
        }
    }

    fn give_back(&self, memory: Vec<u8>) {
        let mut shelf = self.lock();
        if shelf.free.len() < KEPT {
            shelf.free.push(memory);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory that one owner fills, and many may then read.
#[derive(Debug)]
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
    pool: Option<Pool>,
}

impl Buffer {
    /// To be shared, and read only.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// `count` bytes from `from` on, of which the last may lie one behind the end, where the memory has that byte;
    /// it belongs to nobody. For data that is opened in its place with one byte more than it has.
    pub(crate) fn window(&mut self, from: usize, count: usize) -> Option<&mut [u8]> {
        let end = from.checked_add(count).filter(|end| *end <= self.length + 1)?;
        self.memory.get_mut(self.start + from..self.start + end)
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give_back(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_once_its_last_reader_is_gone() {
        let pool = Pool::default();
        let mut buffer = pool.take(SMALLEST, 0);
        buffer.fill(7);
        let place = buffer.as_ptr();
        let bytes = buffer.freeze();
        let part = bytes.slice(10..20);
        drop(bytes);
        assert_ne!(pool.take(SMALLEST, 0).as_ptr(), place, "somebody still reads it");
        assert_eq!(part[..], [7; 10]);
        drop(part);
        let again = (pool.take(SMALLEST, 0), pool.take(SMALLEST, 0));
        assert!(again.0.as_ptr() == place || again.1.as_ptr() == place);
    }

    #[test]
    fn the_asked_byte_is_at_the_beginning_of_a_page() {
        let pool = Pool::default();
        for aligned in [0, 1, 16, 4096, 5000] {
            let buffer = pool.take(1 << 20, aligned);
            assert_eq!(buffer.len(), 1 << 20);
            assert_eq!(buffer[aligned..].as_ptr().addr() % PAGE, 0, "{aligned}");
        }
        assert_eq!(pool.take(MAX_BODY, MAX_BODY).len(), MAX_BODY);
        assert!(pool.take(0, 0).is_empty());
    }

    #[test]
    fn a_pool_does_not_grow_for_ever() {
        let pool = Pool::default();
        let many: Vec<_> = (0..3 * KEPT).map(|_| pool.take(MAX_BODY, 0)).collect();
        drop(many);
        assert_eq!(pool.lock().free.len(), KEPT);
    }

    #[test]
    fn what_rests_is_released_and_what_is_in_use_stays() {
        let pool = Pool::default();
        let mut held = pool.take(MAX_BODY, 0);
        held.fill(7);
        drop(pool.take(MAX_BODY, 0));
        pool.release(Duration::from_secs(3600));
        assert_eq!(pool.lock().free.len(), 1, "asked for a moment ago");
        pool.release(Duration::ZERO);
        assert!(pool.lock().free.is_empty());
        assert!(held.iter().all(|byte| *byte == 7));
        drop(held);
        assert_eq!(pool.lock().free.len(), 1, "and used again afterwards");
    }
}
