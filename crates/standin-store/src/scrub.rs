//! Reading one layer, granule by granule, beside its sidecar. Called by the check.

use crate::check::{BadRange, LayerReport};
use crate::error::{Result, to_usize};
use crate::qcow2::{Image, Mapped, State};
use crate::runs::{Content, Run, Runs};
use crate::sidecar::Shape;
use standin_model::digest::BlockDigest;

/// Bad runs that are listed for one layer at most. One more than that adds a problem that says so.
const MAX_BAD: usize = 1000;

/// Granules, as ranges.
#[derive(Debug, Default)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    #[cfg(test)]
    pub(crate) fn of(ranges: Vec<(u64, u64)>) -> Self {
        Self(ranges)
    }

    pub(crate) fn contains(&self, granule: u64) -> bool {
        let at = self.0.partition_point(|(_, end)| *end <= granule);
        self.0.get(at).is_some_and(|(first, _)| *first <= granule)
    }
}

/// The granules that a series of runs is about.
pub(crate) fn granules(runs: Runs<'_>) -> Result<Ranges> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for run in runs {
        let run = run?;
        match ranges.last_mut() {
            Some((_, end)) if *end == run.first => *end = run.end(),
            _ => ranges.push((run.first, run.end())),
        }
    }
    Ok(Ranges(ranges))
}

/// Reads what a run of digests is about and notes what does not match.
pub(crate) fn verify_run(
    run: &Run,
    shape: Shape,
    data: &mut Granules<'_>,
    skip: &mut Ranges,
    report: &mut LayerReport,
    tick: &mut dyn FnMut(u64),
) -> Result<()> {
    let size = u64::from(shape.granule);
    let mut granule = run.first;
    while granule < run.end() {
        let offset = granule * size;
        let wanted = match &run.content {
            Content::Zero => {
                // A run of zeros is checked as a whole: it must hold no data.
                let end = (run.end() * size).min(shape.size);
                for (from, to) in data.data_within(offset, end)? {
                    note(report, skip, size, from, to - from);
                }
                return Ok(());
            }
            Content::Data(digests) => digests[to_usize(granule - run.first, "granule")?],
        };
        let length = size.min(shape.size - offset);
        let bytes = data.read(offset, length)?;
        report.checked_bytes += length;
        if BlockDigest::of(&bytes) != wanted {
            note(report, skip, size, offset, length);
        }
        tick(length);
        granule += 1;
    }
    Ok(())
}

fn note(report: &mut LayerReport, skip: &Ranges, granule: u64, offset: u64, length: u64) {
    if skip.contains(offset / granule) {
        return;
    }
    let room = report.bad.len() < MAX_BAD;
    match report.bad.last_mut() {
        Some(last) if last.offset + last.length == offset => last.length += length,
        _ if room => report.bad.push(BadRange { offset, length }),
        _ if report.problems.is_empty() => {
            report.problems.push(format!(
                "more than {MAX_BAD} runs of layer {} do not match their digests",
                report.epoch
            ));
        }
        _ => {}
    }
}

/// Reads the granules of one layer in ascending order, and finds what it holds beside them.
pub(crate) struct Granules<'a> {
    image: &'a Image,
    shape: Shape,
    /// The table whose runs are in memory.
    index: Option<u64>,
    runs: Vec<Mapped>,
    claimed: Vec<(u64, u64)>,
}

impl<'a> Granules<'a> {
    pub(crate) fn new(image: &'a Image, shape: Shape) -> Self {
        Self { image, shape, index: None, runs: Vec::new(), claimed: Vec::new() }
    }

    fn load(&mut self, offset: u64) -> Result<()> {
        let index = offset / crate::qcow2::format::L2_SPAN;
        if self.index != Some(index) {
            self.runs = self.image.runs(index)?;
            self.index = Some(index);
        }
        Ok(())
    }

    fn claim(&mut self, from: u64, to: u64) {
        match self.claimed.last_mut() {
            Some((_, end)) if *end == from => *end = to,
            _ => self.claimed.push((from, to)),
        }
    }

    /// A granule lies within one table: both are powers of two.
    fn read(&mut self, offset: u64, length: u64) -> Result<Vec<u8>> {
        self.load(offset)?;
        self.claim(offset, offset + length);
        let mut bytes = vec![0; to_usize(length, "granule")?];
        let first = self.runs.partition_point(|run| run.offset + run.length <= offset);
        for run in self.runs[first..].iter().take_while(|run| run.offset < offset + length) {
            if let State::Data(host) = run.state {
                let (from, to) = (run.offset.max(offset), (offset + length).min(run.offset + run.length));
                let target =
                    &mut bytes[to_usize(from - offset, "granule")?..to_usize(to - offset, "granule")?];
                self.image.read_host(target, host + (from - run.offset))?;
            }
        }
        Ok(bytes)
    }

    /// Runs of data within a range.
    fn data_within(&mut self, from: u64, to: u64) -> Result<Vec<(u64, u64)>> {
        self.claim(from, to);
        let span = crate::qcow2::format::L2_SPAN;
        let mut found = Vec::new();
        for (index, _) in
            self.image.tables().iter().filter(|(index, _)| index * span < to && (index + 1) * span > from)
        {
            self.load(index * span)?;
            let data = self.runs.iter().filter(|run| matches!(run.state, State::Data(_)));
            let clipped = data.map(|run| (run.offset.max(from), to.min(run.offset + run.length)));
            found.extend(clipped.filter(|(a, b)| a < b));
        }
        Ok(found)
    }

    /// Where the layer holds something that no granule so far was about. Zeros of a base say nothing.
    pub(crate) fn unclaimed(&mut self, base: bool, skip: &Ranges) -> Result<Option<u64>> {
        let granule = u64::from(self.shape.granule);
        for runs in self.image.all_runs() {
            for run in runs?.iter().filter(|run| !base || run.state != State::Zero) {
                for (from, to) in self.not_claimed(run.offset, run.offset + run.length) {
                    let mut granules = from / granule..to.div_ceil(granule);
                    if let Some(extra) = granules.find(|granule| !skip.contains(*granule)) {
                        return Ok(Some((extra * granule).max(from)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The parts of a range that no granule so far was about. A run of the file goes on where a merge has begun to write
    /// behind what was there.
    fn not_claimed(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let (mut at, mut parts) = (from, Vec::new());
        let first = self.claimed.partition_point(|(_, end)| *end <= from);
        for (start, end) in self.claimed[first..].iter().take_while(|(start, _)| *start < to) {
            if at < *start {
                parts.push((at, *start));
            }
            at = at.max(*end);
        }
        if at < to {
            parts.push((at, to));
        }
        parts
    }
}
