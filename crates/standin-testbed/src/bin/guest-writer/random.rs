//! The writer of random data, for benchmarks.

use crate::pace::Pace;
use crate::record::{self, BLOCK, Block, Noise};
use crate::settings::{POOL, Settings};
use crate::{Failure, O_DIRECT, Shared, boot_id, judge};
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn boot_seed() -> Result<u64, Failure> {
    let id = boot_id()?.to_le_bytes();
    Ok(record::checksum(&id))
}

/// Writes incompressible data to random places, for benchmarks.
pub struct RandomWriter {
    disk: File,
    blocks: u64,
    block: usize,
    noise: Noise,
    pool: Vec<u8>,
    buffer: Vec<Block>,
    pace: Pace,
}

impl RandomWriter {
    /// The writer number `worker` of several.
    pub fn open(settings: &Settings, worker: u64) -> Result<Self, Failure> {
        let path = settings.random_disk();
        let mut options = OpenOptions::new();
        let disk = options.read(true).write(true).custom_flags(O_DIRECT).open(&path);
        let disk = disk.map_err(|e| format!("open {}: {e}", path.display()))?;
        let size = judge::Disk::size(&disk).map_err(|e| format!("size of {}: {e}", path.display()))?;
        let span = if settings.span_mib == 0 { size } else { size.min(settings.span_mib << 20) };
        let blocks = span / settings.block as u64;
        if blocks == 0 {
            return Err(format!("{} is smaller than one write of {} bytes", path.display(), settings.block));
        }
        let mut noise = Noise::new(boot_seed()?.wrapping_add(worker));
        let mut pool = vec![0; POOL];
        noise.fill(&mut pool);
        let per_second = settings.mbps as f64 * 1e6 / settings.block as f64 / settings.depth as f64;
        Ok(Self {
            disk,
            blocks,
            block: settings.block,
            noise,
            pool,
            buffer: vec![Block::zeroed(); settings.block.div_ceil(BLOCK)],
            pace: Pace::new(per_second),
        })
    }

    /// Writes until it is told to stop.
    pub fn run(&mut self, shared: &Shared) -> Result<(), Failure> {
        while !shared.stop.load(Ordering::Relaxed) {
            self.pace.wait();
            shared.random.count(self.block, self.write()?);
        }
        Ok(())
    }

    fn write(&mut self) -> Result<Duration, Failure> {
        let place = self.noise.next_u64() % self.blocks * self.block as u64;
        for block in &mut self.buffer {
            // A different run of the pool and a stamp each time: no two blocks are alike.
            let from = self.noise.below(POOL - BLOCK + 1);
            block.0.copy_from_slice(&self.pool[from..from + BLOCK]);
            block.0[..8].copy_from_slice(&self.noise.next_u64().to_le_bytes());
        }
        // One request to the disk, whatever its size: the blocks are gathered by the kernel.
        let size = |index: usize| BLOCK.min(self.block - index * BLOCK);
        let slices =
            self.buffer.iter().enumerate().map(|(index, block)| IoSlice::new(&block.0[..size(index)]));
        let slices: Vec<IoSlice> = slices.collect();
        let begun = Instant::now();
        self.disk.seek(SeekFrom::Start(place)).map_err(|e| format!("seek to {place}: {e}"))?;
        let written =
            self.disk.write_vectored(&slices).map_err(|e| format!("random write at {place}: {e}"))?;
        if written != self.block {
            return Err(format!("random write at {place}: only {written} bytes were taken"));
        }
        Ok(begun.elapsed())
    }
}
