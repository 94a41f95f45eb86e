//! Puts the chunks of one read's reply together: which bytes are there, where the next ones go. Pure.
//!
//! Servers nearly always answer in ascending order, mostly in a single chunk. Then the buffer only grows at its
//! end and a payload goes from the socket to its final place without being cleared first. The first chunk out of
//! order changes to the other mode: the buffer is filled with zeros to its full length, and a map remembers
//! which spans have arrived.

use crate::zero::zeros;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::ops::Range;

/// More spans than this in one reply are an attack on our memory: QEMU sends one a cluster at most.
const MAX_SPANS: usize = 1 << 16;

/// Where a payload goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// At the end of the buffer, this many bytes.
    Append(usize),
    /// Into this part of the buffer, which is there already.
    At(Range<usize>),
}

/// A read whose reply is on its way.
#[derive(Debug)]
pub struct Assembly {
    offset: u64,
    length: u32,
    buffer: BytesMut,
    /// Spans that arrived, start to end, once a chunk came out of order.
    spans: Option<BTreeMap<usize, usize>>,
    all_hole: bool,
}

impl Assembly {
    /// For `length` bytes at `offset`. Takes no memory yet.
    pub fn new(offset: u64, length: u32) -> Self {
        Self { offset, length, buffer: BytesMut::new(), spans: None, all_hole: false }
    }

    /// The range that was asked for: offset and length.
    pub fn range(&self) -> (u64, u32) {
        (self.offset, self.length)
    }

    /// The buffer that [`Place`] speaks of.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Says where the payload of a chunk of `length` bytes at `offset` goes. The caller must then fill that
    /// place completely, or give up the whole read.
    ///
    /// # Errors
    /// The chunk is empty, outside of the range asked for, or covers a byte that was covered before.
    pub fn place(&mut self, offset: u64, length: u32) -> Result<Place, String> {
        let (start, end) = self.inside(offset, length)?;
        if self.all_hole {
            return Err(format!("a chunk at {offset} covers bytes that a hole covered before"));
        }
        if self.spans.is_none() && start == self.buffer.len() {
            if self.buffer.capacity() == 0 {
                self.buffer.reserve(self.wanted());
            }
            return Ok(Place::Append(end - start));
        }
        let whole = self.wanted();
        let spans = self.spans.get_or_insert_with(|| BTreeMap::from([(0, self.buffer.len())]));
        self.buffer.resize(whole, 0);
        insert(spans, start, end).map_err(|problem| format!("a chunk at {offset} {problem}"))?;
        Ok(Place::At(start..end))
    }

    /// Takes a hole: `length` bytes at `offset` are zeros.
    ///
    /// # Errors
    /// As [`Self::place`].
    pub fn hole(&mut self, offset: u64, length: u32) -> Result<(), String> {
        let untouched = self.buffer.is_empty() && self.spans.is_none() && !self.all_hole;
        if untouched && (offset, length) == (self.offset, self.length) {
            self.all_hole = true;
            return Ok(());
        }
        match self.place(offset, length)? {
            // `resize` writes the zeros; in the other mode they are there already.
            Place::Append(count) => self.buffer.resize(self.buffer.len() + count, 0),
            Place::At(_) => {}
        }
        Ok(())
    }

    /// The bytes, when the reply is complete.
    ///
    /// # Errors
    /// Some bytes never came.
    pub fn finish(self) -> Result<Bytes, String> {
        let wanted = self.wanted();
        if self.all_hole {
            return Ok(zeros(wanted));
        }
        let have = match &self.spans {
            None => self.buffer.len(),
            Some(spans) => spans.iter().map(|(start, end)| end - start).sum(),
        };
        if have != wanted {
            return Err(format!("the reply ended after {have} of {wanted} bytes"));
        }
        Ok(self.buffer.freeze())
    }

    fn wanted(&self) -> usize {
        // A request is at most MAX_READ long, which fits usize on every machine that runs QEMU.
        usize::try_from(self.length).unwrap_or(usize::MAX)
    }

    fn inside(&self, offset: u64, length: u32) -> Result<(usize, usize), String> {
        let (from, asked) = (self.offset, self.length);
        let outside = || {
            format!(
                "a chunk of {length} bytes at {offset} lies outside of the {asked} bytes asked for at {from}"
            )
        };
        if length == 0 {
            return Err(format!("a chunk at {offset} is empty"));
        }
        let start = offset.checked_sub(from).ok_or_else(outside)?;
        let end = start
            .checked_add(u64::from(length))
            .filter(|end| *end <= u64::from(asked))
            .ok_or_else(outside)?;
        match (usize::try_from(start), usize::try_from(end)) {
            (Ok(start), Ok(end)) => Ok((start, end)),
            _ => Err(outside()),
        }
    }
}

/// Adds a span that must not touch an old one's bytes; joins it to the span that ends where it starts.
fn insert(spans: &mut BTreeMap<usize, usize>, start: usize, end: usize) -> Result<(), &'static str> {
    if spans.range(start..end).any(|(from, to)| to > from) {
        return Err("overlaps one that came before");
    }
    if let Some((_, before)) = spans.range_mut(..start).next_back() {
        if *before > start {
            return Err("overlaps one that came before");
        }
        if *before == start {
            *before = end;
            return Ok(());
        }
    }
    if spans.len() >= MAX_SPANS {
        return Err("is one of more than 65536 pieces out of order");
    }
    spans.insert(start, end);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places `bytes` as the connection does.
    fn data(assembly: &mut Assembly, offset: u64, bytes: &[u8]) -> Result<(), String> {
        match assembly.place(offset, u32::try_from(bytes.len()).unwrap())? {
            Place::Append(_) => assembly.buffer().extend_from_slice(bytes),
            Place::At(range) => assembly.buffer()[range].copy_from_slice(bytes),
        }
        Ok(())
    }

    #[test]
    fn chunks_in_order_are_appended() {
        let mut read = Assembly::new(100, 6);
        data(&mut read, 100, b"ab").unwrap();
        read.hole(102, 2).unwrap();
        data(&mut read, 104, b"cd").unwrap();
        assert_eq!(&read.finish().unwrap()[..], b"ab\0\0cd");
    }

    #[test]
    fn chunks_in_any_order_end_up_in_their_place() {
        let pieces: [(u64, &[u8]); 4] = [(100, b"ab"), (102, b"c"), (103, b"\0\0"), (105, b"d")];
        let mut orders = 0;
        for a in 0..4 {
            for b in (0..4).filter(|b| *b != a) {
                for c in (0..4).filter(|c| *c != a && *c != b) {
                    let mut read = Assembly::new(100, 6);
                    for at in [a, b, c, 6 - a - b - c] {
                        match pieces[at] {
                            (103, _) => read.hole(103, 2).unwrap(),
                            (offset, bytes) => data(&mut read, offset, bytes).unwrap(),
                        }
                    }
                    assert_eq!(&read.finish().unwrap()[..], b"abc\0\0d", "order {a} {b} {c}");
                    orders += 1;
                }
            }
        }
        assert_eq!(orders, 24);
    }

    #[test]
    fn a_hole_over_everything_needs_no_buffer() {
        let mut read = Assembly::new(0, 4096);
        read.hole(0, 4096).unwrap();
        assert_eq!(read.buffer().capacity(), 0);
        assert!(read.hole(0, 4096).is_err(), "covered twice");
        assert!(read.place(0, 1).is_err(), "covered twice");
        assert_eq!(read.finish().unwrap(), vec![0; 4096]);
    }

    #[test]
    fn overlaps_are_refused() {
        for (offset, length) in [(100, 1), (101, 1), (101, 2), (104, 4), (106, 1), (100, 8), (103, 2)] {
            let mut read = Assembly::new(100, 8);
            data(&mut read, 100, b"ab").unwrap();
            data(&mut read, 104, b"cde").unwrap();
            assert!(read.hole(offset, length).is_err(), "{length} at {offset}");
        }
    }

    #[test]
    fn chunks_outside_of_the_range_are_refused() {
        for (offset, length) in
            [(99, 1), (99, 9), (108, 1), (104, 5), (u64::MAX, 1), (100, u32::MAX), (100, 0)]
        {
            let mut read = Assembly::new(100, 8);
            assert!(read.place(offset, length).is_err(), "{length} at {offset}");
            assert_eq!(read.buffer().capacity(), 0, "memory was taken for {length} at {offset}");
        }
    }

    #[test]
    fn a_reply_with_missing_bytes_fails() {
        let mut read = Assembly::new(0, 4);
        data(&mut read, 0, b"ab").unwrap();
        assert!(read.finish().unwrap_err().contains("2 of 4"));
        let mut read = Assembly::new(0, 4);
        data(&mut read, 2, b"ab").unwrap();
        assert!(read.finish().unwrap_err().contains("2 of 4"));
        assert!(Assembly::new(0, 4).finish().is_err());
    }
}
