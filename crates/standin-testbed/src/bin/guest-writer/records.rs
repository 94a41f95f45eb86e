//! The writer of the records, on two disks in turn.

use crate::pace::Pace;
use crate::record::{self, BLOCK, Header, Record, Side};
use crate::settings::Settings;
use crate::{Failure, O_DIRECT, O_DSYNC, Shared, boot_id, judge, say};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Appends records to the two disks in turn.
pub struct RecordWriter {
    disks: [File; 2],
    slots: u64,
    /// The newest record.
    pub last: u64,
    last_sum: u64,
    run: u128,
}

impl RecordWriter {
    /// Verifies what is on the disks and gets ready to go on after it.
    pub fn open(settings: &Settings) -> Result<Self, Failure> {
        let paths = [Path::new("/dev/vda"), Path::new("/dev/vdb")];
        let read = |path: &Path| File::open(path).map_err(|e| format!("open {}: {e}", path.display()));
        let (a, b) = (read(paths[0])?, read(paths[1])?);
        let verdict = judge::judge(&a, &b).map_err(|e| format!("read the disks: {e}"))?;
        if let Some(violation) = verdict.first_violation {
            let (torn, lost, links) = (verdict.torn, verdict.lost, verdict.broken_links);
            return Err(format!(
                "the disks are inconsistent: {violation}; torn={torn} lost={lost} links={links}"
            ));
        }
        say(&format!(
            "verified {} records, last={}, runs={}",
            verdict.records, verdict.last_sequence, verdict.runs
        ));
        let open = |path: &Path| {
            let mut options = OpenOptions::new();
            let file = options.write(true).custom_flags(O_DIRECT | O_DSYNC).open(path);
            file.map_err(|e| format!("open {} for writing: {e}", path.display()))
        };
        let mut writer = Self {
            disks: [open(paths[0])?, open(paths[1])?],
            slots: verdict.slots,
            last: verdict.last_sequence,
            last_sum: verdict.last_sum,
            run: boot_id()?,
        };
        if writer.slots == 0 {
            let size = |disk: &File| judge::Disk::size(disk).map_err(|e| format!("size of a disk: {e}"));
            writer.slots = (size(&a)?.min(size(&b)?) / BLOCK as u64 - 1).min(settings.slots);
            writer.format()?;
        }
        Ok(writer)
    }

    fn format(&self) -> Result<(), Failure> {
        let header = Header { slots: self.slots }.encode();
        for disk in &self.disks {
            disk.write_all_at(&header.0, 0).map_err(|e| format!("write a header: {e}"))?;
        }
        Ok(())
    }

    /// Appends until it is told to stop, `rate` records a second; 0 is as fast as the disks go.
    pub fn run(&mut self, rate: u64, shared: &Shared) -> Result<(), Failure> {
        let mut pace = Pace::new(rate as f64);
        while !shared.stop.load(Ordering::Relaxed) {
            pace.wait();
            let took = self.append()?;
            shared.records.count(BLOCK, took);
            shared.last.store(self.last, Ordering::Relaxed);
        }
        Ok(())
    }

    fn append(&mut self) -> Result<Duration, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let sequence = self.last + 1;
        let record = Record {
            sequence,
            run: self.run,
            written_at: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            previous: self.last_sum,
        };
        let block = record.encode();
        let (side, offset) = record::place(sequence, self.slots);
        let disk = &self.disks[usize::from(side == Side::B)];
        let begun = Instant::now();
        // O_DSYNC: back from here the record is durable, and only then the next one may begin.
        disk.write_all_at(&block.0, offset)
            .map_err(|e| format!("write record {sequence} to disk {side}: {e}"))?;
        self.last = sequence;
        self.last_sum = record::sum_of(&block.0);
        Ok(begun.elapsed())
    }
}
