//! What the writer is told, by `standin.*` words on the kernel's command line.

use crate::Failure;
use crate::record::{self, BLOCK};
use std::path::PathBuf;

/// Slots a disk when the command line says nothing: 32 MiB, read back in about a second under emulation.
pub const DEFAULT_SLOTS: u64 = 8192;
/// Largest random write, and the pool from which its bytes are taken.
pub const POOL: usize = 1 << 20;

/// What `standin.*` words of the command line ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `standin.mode=records|random|both|idle`.
    pub records: bool,
    pub random: bool,
    /// `standin.rate=N|max`: records a second, 0 for as fast as the disks go.
    pub rate: u64,
    /// `standin.slots=N`: record slots on each disk, where the disks are still blank.
    pub slots: u64,
    /// `standin.mbps=N|max`: random writes in 10^6 bytes a second, 0 without a limit.
    pub mbps: u64,
    /// `standin.block=N`: bytes of a random write.
    pub block: usize,
    /// `standin.depth=N`: random writes under way at once.
    pub depth: u64,
    /// `standin.span=N`: MiB of the disk in which random writes fall, 0 for all of it.
    pub span_mib: u64,
    /// `standin.disk=/dev/vdX`: where random writes go; the third disk in mode `both`, else the first.
    pub disk: Option<PathBuf>,
}

impl Settings {
    /// From the kernel's command line.
    pub fn parse(cmdline: &str) -> Result<Self, Failure> {
        let mut settings = Self {
            records: true,
            random: false,
            rate: 50,
            slots: DEFAULT_SLOTS,
            mbps: 0,
            block: BLOCK,
            depth: 1,
            span_mib: 0,
            disk: None,
        };
        for word in cmdline.split_whitespace() {
            let Some((key, value)) = word.strip_prefix("standin.").and_then(|word| word.split_once('='))
            else {
                continue;
            };
            settings.set(key, value)?;
        }
        if settings.block % 512 != 0 || settings.block == 0 || settings.block > POOL {
            return Err(format!("standin.block={}: a multiple of 512 up to 1 MiB is needed", settings.block));
        }
        Ok(settings)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Failure> {
        let number = || -> Result<u64, Failure> {
            let value = if value == "max" { "0" } else { value };
            value.parse().map_err(|_| format!("standin.{key}={value}: a number is needed"))
        };
        match key {
            "mode" => {
                (self.records, self.random) = match value {
                    "records" => (true, false),
                    "random" => (false, true),
                    "both" => (true, true),
                    "idle" => (false, false),
                    _ => return Err(format!("standin.mode={value}: records, random, both or idle")),
                }
            }
            "rate" => self.rate = number()?,
            "slots" => self.slots = number()?.clamp(1, record::MAX_SLOTS),
            "mbps" => self.mbps = number()?,
            "block" => self.block = usize::try_from(number()?).unwrap_or(0),
            "depth" => self.depth = number()?.clamp(1, 64),
            "span" => self.span_mib = number()?,
            "disk" => self.disk = Some(value.into()),
            _ => return Err(format!("standin.{key} is unknown")),
        }
        Ok(())
    }

    /// Where random writes go.
    pub fn random_disk(&self) -> PathBuf {
        let usual = if self.records { "/dev/vdc" } else { "/dev/vda" };
        self.disk.clone().unwrap_or_else(|| usual.into())
    }
}
