//! Merging two neighbouring layers of a disk, in bounded steps.
//!
//! ```text
//! neighbours   lower + upper -> upper.part, synced │ recorded │ renamed over upper │ manifest without lower
//! into base    recorded │ upper's data written into the base in place │ base renamed over upper │ manifest
//! ```
//!
//! Either way the file that stays has the newest name, so nothing above it changes. At every instant the
//! view of every remaining point is whole: neighbours, because the merged file and the old one with the lower
//! one below show the same; into the base, because the upper layer masks every run that is being written. What
//! is recorded in the manifest is finished, or undone where nothing has been renamed, at the next start.

use crate::error::{Error, Result, to_usize};
use crate::layout::{layer_name, part};
use crate::manifest::{Manifest, MergeRecord};
use crate::plan::{Candidate, allowed, base_is_quiet, choose};
use crate::qcow2::{Image, Mapped, State, Writer};
use crate::replica::{Replica, lock};
use crate::runs::overlay;
use crate::sidecar::{Shape, Sidecar, add_note, write_file};
use standin_model::{DiskName, Epoch};
use std::collections::VecDeque;

/// L2 tables in memory.
const TABLES: usize = 64;
/// Bytes copied in one go.
const CHUNK: u64 = 1 << 20;

/// How much one step may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeBudget {
    /// Bytes copied in one step, about. How long the caller waits before the next step decides how much of the disk's
    /// time merging takes.
    pub max_bytes: u64,
}

impl Default for MergeBudget {
    fn default() -> Self {
        Self { max_bytes: 16 << 20 }
    }
}

/// What a step did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MergeOutcome {
    /// There is nothing to merge, or a check is running.
    Idle,
    /// A merge is under way.
    Progress {
        /// Bytes copied in this step.
        copied: u64,
    },
    /// Two layers have become one.
    Merged {
        /// Of which disk.
        disk: DiskName,
        /// The layer that is gone.
        lower: Epoch,
        /// The layer that holds both.
        upper: Epoch,
    },
}

/// A merge under way.
#[derive(Debug)]
pub(crate) struct Job {
    disk: DiskName,
    lower: Epoch,
    upper: Epoch,
    into_base: bool,
    shape: Shape,
    writer: Writer,
    /// Newest first: what is read. Into the base, only the upper one.
    sources: Vec<Image>,
    /// L1 indexes still to do, and the runs of the one that is being done.
    tables: VecDeque<u64>,
    queue: VecDeque<(usize, Mapped)>,
}

/// Names what a merge writes.
struct Files {
    disk: DiskName,
    upper: Epoch,
}

impl Job {
    fn files(&self) -> Files {
        Files { disk: self.disk.clone(), upper: self.upper }
    }
}

impl Replica {
    /// One bounded piece of background merging. Call it until it answers [`MergeOutcome::Idle`], and again
    /// after points were dropped. Runs beside everything else.
    ///
    /// # Errors
    /// [`Error::NoSpace`] and others; the replica is as it was, and the next step begins the merge anew.
    pub fn merge_step(&self, budget: &MergeBudget) -> Result<MergeOutcome> {
        // A check that reads all layers holds it for long; merging can wait.
        let Ok(mut slot) = self.inner.merging.try_lock() else { return Ok(MergeOutcome::Idle) };
        let manifest = self.manifest();
        // What an overlay froze meanwhile is left as it stands; a recorded merge goes on when it thaws.
        let current = match slot.take() {
            Some(job) if !self.may_go_on(&manifest, &job) => {
                self.abandon(&job.files())?;
                None
            }
            current => current,
        };
        let mut job = match current {
            Some(job) => job,
            None => match self.begin_merge(&manifest)? {
                Some(job) => job,
                None => {
                    self.remove_unused_configs()?;
                    return Ok(MergeOutcome::Idle);
                }
            },
        };
        let files = job.files();
        let copied = match job.copy(budget.max_bytes) {
            Ok(copied) => copied,
            Err(error) => return self.given_up(&files, error),
        };
        if job.tables.is_empty() && job.queue.is_empty() {
            let outcome = self.finish_merge(job).or_else(|error| self.given_up(&files, error))?;
            if !matches!(outcome, MergeOutcome::Merged { .. }) {
                self.abandon(&files)?;
            }
            return Ok(outcome);
        }
        *slot = Some(job);
        Ok(MergeOutcome::Progress { copied })
    }

    /// What a merge that failed has written goes, because nobody says that the same merge is ever tried again: the
    /// disk may be full of it. The reason of the failure is what is told.
    fn given_up<T>(&self, files: &Files, error: Error) -> Result<T> {
        if let Err(left) = self.abandon(files) {
            tracing::warn!(disk = %files.disk, error = %left, "what a merge wrote stays until the next start");
        }
        Err(error)
    }

    /// Removes what a merge has written beside the layers. A merge that is recorded keeps it: its files may be half
    /// renamed, and it is gone on with.
    fn abandon(&self, files: &Files) -> Result<()> {
        if self
            .manifest()
            .merges
            .iter()
            .any(|record| record.disk == files.disk && record.upper == files.upper)
        {
            return Ok(());
        }
        let layout = &self.inner.layout;
        for path in [layout.layer(&files.disk, files.upper), layout.sidecar(&files.disk, files.upper)] {
            self.inner.io.remove(&part(&path))?;
        }
        Ok(())
    }

    fn may_go_on(&self, manifest: &Manifest, job: &Job) -> bool {
        let listed =
            |epoch| manifest.disk(&job.disk).is_some_and(|d| d.layers.iter().any(|l| l.epoch == epoch));
        allowed(manifest, job.lower, job.upper) && listed(job.lower) && listed(job.upper)
    }

    fn begin_merge(&self, manifest: &Manifest) -> Result<Option<Job>> {
        // A recorded merge into the base comes first: until it ends nothing else may touch that base.
        if let Some(record) = manifest.merges.first() {
            let quiet = base_is_quiet(&lock(&self.inner.readers), record.upper);
            if allowed(manifest, record.lower, record.upper) && quiet {
                return self.open_job(manifest, &record.disk, record.lower, record.upper, true).map(Some);
            }
        }
        let candidate = choose(manifest, &lock(&self.inner.readers));
        let Some(Candidate { disk, lower, upper, into_base, .. }) = candidate else { return Ok(None) };
        if manifest.merges.iter().any(|record| record.disk == disk && record.upper >= lower) {
            return Ok(None);
        }
        if into_base && !self.record_base_merge(&disk, lower, upper)? {
            return Ok(None);
        }
        match self.open_job(manifest, &disk, lower, upper, into_base) {
            Ok(job) => Ok(Some(job)),
            Err(error) => self.given_up(&Files { disk, upper }, error),
        }
    }

    /// From here on what ends at the base alone is gone for good.
    fn record_base_merge(&self, disk: &DiskName, lower: Epoch, upper: Epoch) -> Result<bool> {
        let guard = self.change_lock();
        let now = self.manifest();
        if !allowed(&now, lower, upper) || !base_is_quiet(&lock(&self.inner.readers), upper) {
            return Ok(false);
        }
        let record = MergeRecord { disk: disk.clone(), lower, upper, into_base: true };
        self.update_locked(&guard, |manifest| {
            manifest.merges.push(record);
            Ok(true)
        })
    }

    fn open_job(
        &self,
        manifest: &Manifest,
        disk: &DiskName,
        lower: Epoch,
        upper: Epoch,
        into_base: bool,
    ) -> Result<Job> {
        let (io, layout) = (&self.inner.io, &self.inner.layout);
        let record = manifest.disk(disk).ok_or_else(|| self.unknown_disk(disk))?;
        let above = Image::open(&layout.layer(disk, upper))?;
        let below = layout.layer(disk, lower);
        let (writer, sources) = if into_base {
            (Writer::edit(io, &below, TABLES)?, vec![above])
        } else {
            let lower_image = Image::open(&below)?;
            let backing = lower_image.header().backing.clone();
            let writer = Writer::create(io, &part(&layout.layer(disk, upper)), record.size, backing, TABLES)?;
            (writer, vec![above, lower_image])
        };
        if sources.iter().any(|image| image.size() != record.size) {
            return Err(Error::corrupt(&below, "its disk has another size than the manifest says"));
        }
        let mut tables: Vec<u64> =
            sources.iter().flat_map(|image| image.tables()).map(|(index, _)| *index).collect();
        tables.sort_unstable();
        tables.dedup();
        let shape = self.shape(record);
        let (tables, queue) = (tables.into(), VecDeque::new());
        Ok(Job { disk: disk.clone(), lower, upper, into_base, shape, writer, sources, tables, queue })
    }

    fn finish_merge(&self, mut job: Job) -> Result<MergeOutcome> {
        let (io, layout) = (&self.inner.io, &self.inner.layout);
        let (kept, gone) = (layout.layer(&job.disk, job.upper), layout.layer(&job.disk, job.lower));
        let (kept_side, gone_side) =
            (layout.sidecar(&job.disk, job.upper), layout.sidecar(&job.disk, job.lower));
        let newer = Sidecar::open(&kept_side, job.shape)?;
        let older = Sidecar::open(&gone_side, job.shape)?;
        let side = write_file(io, &part(&kept_side), job.shape, overlay(newer.runs(), older.runs()))?;
        add_note(&side, &newer.note()?)?;
        side.sync()?;
        job.writer.finish()?;
        let layer = job.writer.handle();
        layer.sync()?;
        io.sync_dir(&layout.disk_dir(&job.disk))?;
        let stored = layer.stored()? + side.stored()?;
        if job.into_base {
            // Otherwise a replay would have to read the digests of the whole base.
            if let Some(tree) = self.inner.trees.get(&job.disk) {
                lock(tree).sync()?;
            }
        }
        let guard = self.change_lock();
        if !self.may_go_on(&self.manifest(), &job) {
            return Ok(MergeOutcome::Progress { copied: 0 });
        }
        if !job.into_base {
            let record =
                MergeRecord { disk: job.disk.clone(), lower: job.lower, upper: job.upper, into_base: false };
            self.update_locked(&guard, |manifest| {
                manifest.merges.push(record);
                Ok(())
            })?;
        }
        let fresh = if job.into_base { gone.clone() } else { part(&kept) };
        io.rename(&fresh, &kept)?;
        io.sync_dir(&layout.disk_dir(&job.disk))?;
        io.rename(&part(&kept_side), &kept_side)?;
        io.sync_dir(&layout.disk_dir(&job.disk))?;
        self.update_locked(&guard, |manifest| {
            unlist(manifest, &job.disk, job.lower, job.upper, stored);
            Ok(())
        })?;
        io.remove(&gone)?;
        io.remove(&gone_side)?;
        Ok(MergeOutcome::Merged { disk: job.disk, lower: job.lower, upper: job.upper })
    }

    /// At the start: finishes merges whose files were renamed and forgets those whose were not. A merge into
    /// the base that has begun stays recorded; [`Replica::merge_step`] goes on with it.
    pub(crate) fn finish_merges(&self) -> Result<()> {
        for record in self.manifest().merges.clone() {
            let (io, layout) = (&self.inner.io, &self.inner.layout);
            let (kept, gone) =
                (layout.layer(&record.disk, record.upper), layout.layer(&record.disk, record.lower));
            let renamed = if record.into_base {
                !gone.exists()
            } else {
                Image::open(&kept)?.header().backing.as_deref() != Some(layer_name(record.lower).as_str())
            };
            let side = layout.sidecar(&record.disk, record.upper);
            if renamed {
                if part(&side).exists() {
                    io.rename(&part(&side), &side)?;
                    io.sync_dir(&layout.disk_dir(&record.disk))?;
                }
                let stored = Image::open(&kept)?.stored()? + crate::io::Handle::open(&side)?.stored()?;
                self.update(|manifest| {
                    unlist(manifest, &record.disk, record.lower, record.upper, stored);
                    Ok(())
                })?;
            } else if !record.into_base {
                self.update(|manifest| {
                    manifest.merges.retain(|merge| *merge != record);
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// Configurations that no point and no overlay names go, but for the newest, which the next point may share.
    fn remove_unused_configs(&self) -> Result<()> {
        let unused = |manifest: &Manifest| -> Vec<Epoch> {
            let newest = manifest.configs.last().map(|config| config.epoch);
            let overlays: Vec<Epoch> = manifest.overlays.iter().map(|overlay| overlay.epoch).collect();
            let used = |epoch: Epoch| {
                let by_point = manifest.points.iter().any(|point| point.config_epoch == Some(epoch));
                by_point || Some(epoch) == newest || overlays.iter().any(|overlay| epoch <= *overlay)
            };
            manifest.configs.iter().map(|config| config.epoch).filter(|epoch| !used(*epoch)).collect()
        };
        if unused(&self.manifest()).is_empty() {
            return Ok(());
        }
        let gone = self.update(|manifest| {
            let gone = unused(manifest);
            manifest.configs.retain(|config| !gone.contains(&config.epoch));
            Ok(gone)
        })?;
        gone.into_iter().try_for_each(|epoch| self.inner.io.remove_tree(&self.inner.layout.config_dir(epoch)))
    }
}

/// The lower layer is part of the upper one now.
fn unlist(manifest: &mut Manifest, disk: &DiskName, lower: Epoch, upper: Epoch, stored: u64) {
    manifest.merges.retain(|merge| merge.disk != *disk || merge.lower != lower);
    if let Some(record) = manifest.disks.iter_mut().find(|record| record.name == *disk) {
        record.layers.retain(|layer| layer.epoch != lower);
        record.layers.iter_mut().filter(|layer| layer.epoch == upper).for_each(|layer| layer.stored = stored);
    }
}

impl Job {
    /// Copies about `budget` bytes; what it copied.
    fn copy(&mut self, budget: u64) -> Result<u64> {
        let mut copied = 0;
        while copied < budget.max(1) {
            let Some((source, run)) = self.queue.pop_front() else {
                let Some(index) = self.tables.pop_front() else { return Ok(copied) };
                self.fill(index)?;
                // An empty table costs something too.
                copied += 4096;
                continue;
            };
            copied += self.copy_run(source, run)?;
        }
        Ok(copied)
    }

    fn copy_run(&mut self, source: usize, run: Mapped) -> Result<u64> {
        let State::Data(host) = run.state else {
            self.writer.write_zeroes(run.offset, run.length)?;
            return Ok(4096);
        };
        let length = run.length.min(CHUNK);
        let mut data = vec![0; to_usize(length, "merge")?];
        self.sources[source].read_host(&mut data, host)?;
        self.writer.write(run.offset, &data)?;
        if length < run.length {
            let rest = Mapped {
                offset: run.offset + length,
                length: run.length - length,
                state: State::Data(host + length),
            };
            self.queue.push_front((source, rest));
        }
        Ok(length)
    }

    /// The runs of one table: all of the upper layer, and of the lower one what the upper one does not hold.
    fn fill(&mut self, index: u64) -> Result<()> {
        let upper = self.sources[0].runs(index)?;
        let mut all: Vec<(usize, Mapped)> = upper.iter().map(|run| (0, *run)).collect();
        if let Some(image) = self.sources.get(1) {
            let lower = image.runs(index)?;
            all.extend(lower.iter().flat_map(|run| outside(*run, &upper)).map(|run| (1, run)));
        }
        all.sort_unstable_by_key(|(_, run)| run.offset);
        self.queue = all.into();
        Ok(())
    }
}

/// The parts of a run that no run of `masks`, ascending, covers.
fn outside(run: Mapped, masks: &[Mapped]) -> Vec<Mapped> {
    let end = run.offset + run.length;
    let first = masks.partition_point(|mask| mask.offset + mask.length <= run.offset);
    let mut parts = Vec::new();
    let mut at = run.offset;
    let mut push = |from: u64, to: u64| {
        if from < to {
            let state = match run.state {
                State::Data(host) => State::Data(host + (from - run.offset)),
                other => other,
            };
            parts.push(Mapped { offset: from, length: to - from, state });
        }
    };
    for mask in masks[first..].iter().take_while(|mask| mask.offset < end) {
        push(at, mask.offset);
        at = at.max(mask.offset + mask.length);
    }
    push(at, end);
    parts
}
