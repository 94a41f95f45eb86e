//! The sidecar of a layer: which granules it holds and the digest of each.
//!
//! ```text
//! header, 64 bytes   magic "standin\xd1" | version u32 | granule u32 | disk size u64 | granules u64 |
//!                    runs u64 | payload bytes u64 | BLAKE3 of the former, 16 bytes
//! run                first granule u64 | count u32, bit 31: zeros | 0 u32 | count * 16 bytes of digests,
//!                    none for zeros | BLAKE3 of the run, 8 bytes
//! note               what the seal recorded, see [`crate::note`]; version 1 has none
//! ```
//!
//! Little-endian. Runs ascend. While a layer is written, runs may come in any order: they are sorted in a
//! bounded buffer and written in *segments* that ascend each; [`SidecarWriter::finish`] merges the segments when
//! there is more than one. A write that goes up the disk makes one segment.

use crate::error::{Error, Result, to_usize};
use crate::io::{Handle, Io};
use crate::note::MAX_NOTE;
use crate::runs::{Content, MAX_DIGESTS, Run, Runs, overlay_all};
use serde::{Deserialize, Serialize};
use standin_model::digest::BlockDigest;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"standin\xd1";
const VERSION: u32 = 2;
/// Its files end with the payload.
const WITHOUT_NOTE: u32 = 1;
const HEADER: u64 = 64;
const RUN_HEAD: usize = 16;
const RUN_CHECK: usize = 8;
const ZERO_BIT: u32 = 1 << 31;
/// Digests kept in memory before they are written: 1 MiB of them.
const BUFFER_DIGESTS: u64 = 1 << 16;
const WRITE_BUFFER: usize = 256 << 10;

/// Which disk a sidecar is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Bytes of a granule.
    pub(crate) granule: u32,
    /// Bytes of the disk.
    pub(crate) size: u64,
}

impl Shape {
    /// Granules of the disk; the last one may be cut short.
    pub(crate) fn granules(self) -> u64 {
        self.size.div_ceil(u64::from(self.granule))
    }
}

/// A part of the payload that ascends in itself. Offsets in the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Segment {
    start: u64,
    end: u64,
}

/// Writes a sidecar.
#[derive(Debug)]
pub(crate) struct SidecarWriter {
    file: Arc<Handle>,
    io: Io,
    shape: Shape,
    pending: BTreeMap<u64, Run>,
    pending_digests: u64,
    segments: Vec<Segment>,
    /// End of the last granule of the last segment.
    last: u64,
    at: u64,
}

impl SidecarWriter {
    pub(crate) fn create(io: &Io, path: &Path, shape: Shape) -> Result<Self> {
        let file = Arc::new(io.create(path)?);
        Ok(Self::over(file, io, shape))
    }

    fn over(file: Arc<Handle>, io: &Io, shape: Shape) -> Self {
        let (pending, segments) = (BTreeMap::new(), Vec::new());
        Self { file, io: io.clone(), shape, pending, pending_digests: 0, segments, last: 0, at: 0 }
    }

    /// Goes on with a sidecar of which the segments were flushed and synced.
    pub(crate) fn resume(io: &Io, path: &Path, shape: Shape, segments: Vec<Segment>) -> Result<Self> {
        let file = Arc::new(io.open_rw(path, false)?);
        let at = segments.last().map_or(0, |segment| segment.end);
        let ascending = segments.windows(2).all(|pair| pair[0].end <= pair[1].start);
        if !ascending || segments.iter().any(|s| s.start > s.end) || file.len()? < HEADER + at {
            return Err(Error::corrupt(path, "it is shorter than its progress file says"));
        }
        file.set_len(HEADER + at)?;
        let mut writer = Self::over(file, io, shape);
        writer.at = at;
        // What comes next may lie anywhere: begin a segment of its own.
        writer.last = u64::MAX;
        writer.segments = segments;
        Ok(writer)
    }

    pub(crate) fn handle(&self) -> Arc<Handle> {
        Arc::clone(&self.file)
    }

    /// What [`SidecarWriter::resume`] needs after a flush and a sync.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        self.segments.clone()
    }

    /// Adds a run; it replaces what was said about its granules before.
    pub(crate) fn push(&mut self, run: Run) -> Result<()> {
        if run.count == 0 {
            return Ok(());
        }
        self.cut_out(run.first, run.end());
        if let Content::Data(_) = run.content {
            self.pending_digests += run.count;
        }
        self.pending.insert(run.first, run);
        if self.pending_digests >= BUFFER_DIGESTS || self.pending.len() as u64 >= BUFFER_DIGESTS {
            self.flush()?;
        }
        Ok(())
    }

    /// Removes `from..to` from the runs in memory.
    fn cut_out(&mut self, from: u64, to: u64) {
        while let Some((first, run)) = self.pending.range(..to).next_back() {
            if run.end() <= from {
                return;
            }
            let first = *first;
            let Some(run) = self.pending.remove(&first) else { return };
            for rest in [run.clip(0, from), run.clip(to, u64::MAX)].into_iter().flatten() {
                self.pending.insert(rest.first, rest);
            }
        }
    }

    /// Writes the runs in memory to the file.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let Some(first) = self.pending.keys().next().copied() else { return Ok(()) };
        if self.segments.is_empty() || first < self.last {
            self.segments.push(Segment { start: self.at, end: self.at });
        }
        let mut out = Out { file: &self.file, at: self.at, buffer: Vec::new(), runs: 0 };
        let pending = std::mem::take(&mut self.pending);
        self.pending_digests = 0;
        write_joined(pending.into_values().map(Ok), &mut out, &mut self.last)?;
        out.flush()?;
        self.at = out.at;
        if let Some(segment) = self.segments.last_mut() {
            segment.end = self.at;
        }
        Ok(())
    }

    /// Completes the file; not durable yet. When several segments had to be merged, the complete file has its
    /// own name beside the one that was written, which is of no more use. The writer takes nothing more.
    pub(crate) fn finish(&mut self) -> Result<Arc<Handle>> {
        self.flush()?;
        if self.segments.len() < 2 {
            let runs = count_runs(&self.file, self.segments.first().copied())?;
            write_header(&self.file, self.shape, runs, self.at)?;
            self.file.set_len(HEADER + self.at)?;
            return Ok(Arc::clone(&self.file));
        }
        let mut sorted = self.file.path().as_os_str().to_owned();
        sorted.push(".sorted");
        let sorted = PathBuf::from(sorted);
        let granules = self.shape.granules();
        let series = self.segments.iter().map(|segment| reader(&self.file, *segment, granules)).collect();
        write_file(&self.io, &sorted, self.shape, overlay_all(series))
    }
}

/// Puts the note of the seal behind a complete sidecar; not durable yet.
pub(crate) fn add_note(file: &Handle, note: &[u8]) -> Result<()> {
    if note.is_empty() { Ok(()) } else { file.write_at(note, file.len()?) }
}

/// Writes a complete sidecar of ascending runs; not durable yet.
pub(crate) fn write_file(io: &Io, path: &Path, shape: Shape, runs: Runs<'_>) -> Result<Arc<Handle>> {
    let file = Arc::new(io.create(path)?);
    let mut out = Out { file: &file, at: 0, buffer: Vec::new(), runs: 0 };
    write_joined(runs, &mut out, &mut 0)?;
    out.flush()?;
    write_header(&file, shape, out.runs, out.at)?;
    Ok(file)
}

/// Buffers what goes into the payload.
struct Out<'a> {
    file: &'a Handle,
    at: u64,
    buffer: Vec<u8>,
    runs: u64,
}

impl Out<'_> {
    fn put(&mut self, run: &Run) -> Result<()> {
        let start = self.buffer.len();
        let (count, digests) = match &run.content {
            Content::Zero => (narrow(run.count)? | ZERO_BIT, &[][..]),
            Content::Data(digests) => (narrow(run.count)?, digests.as_slice()),
        };
        self.buffer.extend(run.first.to_le_bytes());
        self.buffer.extend(u64::from(count).to_le_bytes());
        digests.iter().for_each(|digest| self.buffer.extend(digest.as_bytes()));
        let check = blake3::hash(&self.buffer[start..]);
        self.buffer.extend(&check.as_bytes()[..RUN_CHECK]);
        self.runs += 1;
        if self.buffer.len() >= WRITE_BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.file.write_at(&self.buffer, HEADER + self.at)?;
            self.at += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }
}

fn narrow(count: u64) -> Result<u32> {
    u32::try_from(count)
        .ok()
        .filter(|n| n & ZERO_BIT == 0)
        .ok_or_else(|| Error::invalid("a run of 2^31 granules"))
}

/// Writes runs, neighbours joined and long ones split, and keeps `last` at the end of the last granule.
fn write_joined(runs: impl Iterator<Item = Result<Run>>, out: &mut Out<'_>, last: &mut u64) -> Result<()> {
    let mut held: Option<Run> = None;
    for run in runs {
        let run = run?;
        *last = run.end();
        let joins = held.as_ref().is_some_and(|held| held.end() == run.first);
        match (&mut held, run.content) {
            (Some(Run { count, content: Content::Zero, .. }), Content::Zero) if joins => *count += run.count,
            (Some(Run { count, content: Content::Data(to), .. }), Content::Data(from)) if joins => {
                to.extend(from);
                *count += run.count;
            }
            (_, content) => {
                let next = Run { first: run.first, count: run.count, content };
                if let Some(done) = held.replace(next) {
                    put_split(&done, u64::MAX, out)?;
                }
            }
        }
        if let Some(run) = held.take() {
            held = put_split(&run, MAX_DIGESTS, out)?;
        }
    }
    match held {
        Some(run) => put_split(&run, u64::MAX, out).map(drop),
        None => Ok(()),
    }
}

/// Writes a run in pieces of a legal length. What is shorter than `keep` is handed back, to be joined further,
/// unless `keep` is `u64::MAX`: then all is written.
fn put_split(run: &Run, keep: u64, out: &mut Out<'_>) -> Result<Option<Run>> {
    let piece = match run.content {
        Content::Zero => u64::from(ZERO_BIT >> 1),
        Content::Data(_) => MAX_DIGESTS,
    };
    let mut first = run.first;
    while run.end() - first >= piece || (keep == u64::MAX && first < run.end()) {
        let until = run.end().min(first + piece);
        if let Some(part) = run.clip(first, until) {
            out.put(&part)?;
        }
        first = until;
    }
    Ok(run.clip(first, u64::MAX))
}

fn write_header(file: &Handle, shape: Shape, runs: u64, payload: u64) -> Result<()> {
    let mut header = Vec::with_capacity(64);
    header.extend(MAGIC);
    header.extend(VERSION.to_le_bytes());
    header.extend(shape.granule.to_le_bytes());
    header.extend(shape.size.to_le_bytes());
    header.extend(shape.granules().to_le_bytes());
    header.extend(runs.to_le_bytes());
    header.extend(payload.to_le_bytes());
    let check = blake3::hash(&header);
    header.extend(&check.as_bytes()[..16]);
    file.write_at(&header, 0)
}

fn count_runs(file: &Handle, segment: Option<Segment>) -> Result<u64> {
    let Some(segment) = segment else { return Ok(0) };
    let mut runs = 0;
    for run in reader(file, segment, u64::MAX) {
        run?;
        runs += 1;
    }
    Ok(runs)
}

/// A complete sidecar.
#[derive(Debug)]
pub(crate) struct Sidecar {
    file: Handle,
    shape: Shape,
    payload: u64,
    /// Bytes of the note behind it.
    note: u64,
}

impl Sidecar {
    /// Opens a sidecar and checks its header against the disk it should be about.
    pub(crate) fn open(path: &Path, shape: Shape) -> Result<Self> {
        let file = Handle::open(path)?;
        let mut header = [0; 64];
        file.read_padded(&mut header, 0)?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let check = blake3::hash(&header[..48]);
        if header[..8] != MAGIC || header[48..] != check.as_bytes()[..16] {
            return Err(Error::corrupt(path, "its header does not match its checksum"));
        }
        let noted = word(8) & 0xffff_ffff == u64::from(VERSION);
        if !noted && word(8) & 0xffff_ffff != u64::from(WITHOUT_NOTE) {
            return Err(Error::corrupt(path, "it is of another version than 1 and 2"));
        }
        if word(8) >> 32 != u64::from(shape.granule) || word(16) != shape.size {
            return Err(Error::corrupt(path, "it is about a disk of another size or granule"));
        }
        let payload = word(40);
        let note = file.len()?.checked_sub(HEADER.saturating_add(payload));
        match note {
            Some(note) if note == 0 || (noted && note <= MAX_NOTE) => Ok(Self { file, shape, payload, note }),
            _ => Err(Error::corrupt(path, "it has another length than its header says")),
        }
    }

    /// The shape that a sidecar is about, by its own header.
    pub(crate) fn shape_of(path: &Path) -> Result<Shape> {
        let mut header = [0; 64];
        Handle::open(path)?.read_padded(&mut header, 0)?;
        let mut word = [0; 8];
        word.copy_from_slice(&header[16..24]);
        let mut granule = [0; 4];
        granule.copy_from_slice(&header[12..16]);
        let shape = Shape { granule: u32::from_le_bytes(granule), size: u64::from_le_bytes(word) };
        // The header is checked by it.
        Self::open(path, shape).map(|_| shape)
    }

    /// The bytes of the note of its seal, unchecked; none in a file of a version before.
    pub(crate) fn note(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; to_usize(self.note, "note")?];
        self.file.read_at(&mut bytes, HEADER + self.payload)?;
        Ok(bytes)
    }

    /// Its runs, ascending; each is checked as it passes.
    pub(crate) fn runs(&self) -> Runs<'_> {
        reader(&self.file, Segment { start: 0, end: self.payload }, self.shape.granules())
    }

    /// Opens and hands out the runs, which own the file.
    pub(crate) fn into_runs(self) -> Runs<'static> {
        let granules = self.shape.granules();
        let state = ReadState::new(Segment { start: 0, end: self.payload }, granules);
        Box::new(OwnedReader { file: self.file, state })
    }
}

/// Reads the runs of a segment.
fn reader(file: &Handle, segment: Segment, granules: u64) -> Runs<'_> {
    let mut state = ReadState::new(segment, granules);
    Box::new(std::iter::from_fn(move || state.next(file)))
}

struct OwnedReader {
    file: Handle,
    state: ReadState,
}

impl Iterator for OwnedReader {
    type Item = Result<Run>;
    fn next(&mut self) -> Option<Self::Item> {
        self.state.next(&self.file)
    }
}

/// Where a reader of runs is. Memory: one buffer of at most 128 KiB.
struct ReadState {
    at: u64,
    end: u64,
    granules: u64,
    last: u64,
    buffer: Vec<u8>,
    pos: usize,
}

impl ReadState {
    const BUFFER: u64 = 32 << 10;

    fn new(segment: Segment, granules: u64) -> Self {
        Self { at: segment.start, end: segment.end, granules, last: 0, buffer: Vec::new(), pos: 0 }
    }

    fn next(&mut self, file: &Handle) -> Option<Result<Run>> {
        if self.pos == self.buffer.len() && self.at >= self.end {
            return None;
        }
        let run = self.parse(file);
        if run.is_err() {
            // Nothing behind damage can be trusted.
            (self.at, self.pos, self.buffer) = (self.end, 0, Vec::new());
        }
        Some(run)
    }

    /// Makes the next `length` bytes available in the buffer.
    fn fill(&mut self, file: &Handle, length: usize) -> Result<()> {
        let have = self.buffer.len() - self.pos;
        if have >= length {
            return Ok(());
        }
        let wanted = (length as u64).max(Self::BUFFER) - have as u64;
        let more = wanted.min(self.end - self.at);
        if (have as u64 + more) < length as u64 {
            return Err(Error::corrupt(file.path(), "it ends in the middle of a run"));
        }
        self.buffer.drain(..self.pos);
        self.pos = 0;
        self.buffer.resize(have + to_usize(more, "run")?, 0);
        file.read_at(&mut self.buffer[have..], HEADER + self.at)?;
        self.at += more;
        Ok(())
    }

    fn parse(&mut self, file: &Handle) -> Result<Run> {
        self.fill(file, RUN_HEAD)?;
        let mut word = [0; 8];
        word.copy_from_slice(&self.buffer[self.pos..self.pos + 8]);
        let first = u64::from_le_bytes(word);
        word.copy_from_slice(&self.buffer[self.pos + 8..self.pos + 16]);
        let field = u64::from_le_bytes(word);
        let zero = field & u64::from(ZERO_BIT) != 0;
        let count = field & !u64::from(ZERO_BIT);
        let fits = first.checked_add(count).is_some_and(|end| end <= self.granules);
        if count == 0 || !fits || first < self.last || (!zero && count > MAX_DIGESTS) {
            return Err(Error::corrupt(file.path(), "it has an impossible run"));
        }
        let digests = if zero { 0 } else { to_usize(count, "run")? * BlockDigest::LEN };
        let length = RUN_HEAD + digests + RUN_CHECK;
        self.fill(file, length)?;
        let bytes = &self.buffer[self.pos..self.pos + length];
        let (body, check) = bytes.split_at(length - RUN_CHECK);
        if blake3::hash(body).as_bytes()[..RUN_CHECK] != *check {
            return Err(Error::corrupt(
                file.path(),
                format!("the run at granule {first} does not match its checksum"),
            ));
        }
        let run = if zero { Run::zero(first, count) } else { Run::data(first, decode(&body[RUN_HEAD..])) };
        self.pos += length;
        self.last = first + count;
        Ok(run)
    }
}

/// Digests as they stand in a file.
pub(crate) fn decode(bytes: &[u8]) -> Vec<BlockDigest> {
    bytes
        .chunks_exact(BlockDigest::LEN)
        .map(|chunk| {
            let mut digest = [0; BlockDigest::LEN];
            digest.copy_from_slice(chunk);
            BlockDigest::from_bytes(digest)
        })
        .collect()
}
