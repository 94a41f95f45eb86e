//! zstd with contexts that live as long as their thread, and a quick guess whether it is worth a try.
//!
//! Compressing random data costs the time of compressing it and gains nothing. So a few short samples are
//! compressed first; only if one of them shrinks is the whole block tried.

use crate::block::MAX_BLOCK;
use bytes::Bytes;
use std::cell::RefCell;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

/// What has to be saved, in hundredths: less is not worth the time to decompress it.
const WORTH: usize = 6;
/// Blocks up to this size are tried whole: a sample would cost nearly as much.
const SMALL: usize = 16 << 10;
/// Bytes of a sample.
const SAMPLE: usize = 2 << 10;
/// Samples of a block, spread evenly, the last one at its end.
const SAMPLES: usize = 3;
/// The fastest of zstd's usual levels, good enough for a guess.
const SAMPLE_LEVEL: i32 = 1;

/// Contexts and scratch memory of one thread: making them anew costs more than compressing 64 KiB. Sampling has
/// its own compressor, because a change of level resets the tables of the other.
#[derive(Default)]
struct Contexts {
    sampler: Option<Compressor<'static>>,
    compressor: Option<(i32, Compressor<'static>)>,
    decompressor: Option<Decompressor<'static>>,
    scratch: Vec<u8>,
}

thread_local! {
    static CONTEXTS: RefCell<Contexts> = RefCell::default();
}

fn worth(raw: usize, compressed: usize) -> bool {
    compressed * 100 <= raw * (100 - WORTH)
}

impl Contexts {
    fn looks_compressible(&mut self, data: &[u8]) -> bool {
        if data.len() <= SMALL {
            return true;
        }
        if self.sampler.is_none() {
            self.sampler = Compressor::new(SAMPLE_LEVEL).ok();
        }
        let Some(sampler) = &mut self.sampler else { return true };
        let step = (data.len() - SAMPLE) / (SAMPLES - 1);
        let mut out = [0; SAMPLE + SAMPLE / 2];
        (0..SAMPLES).any(|number| {
            let sample = &data[number * step..number * step + SAMPLE];
            sampler.compress_to_buffer(sample, &mut out[..]).is_ok_and(|length| worth(SAMPLE, length))
        })
    }

    fn compress(&mut self, data: &[u8], level: i32) -> Option<Bytes> {
        if !self.looks_compressible(data) {
            return None;
        }
        if self.compressor.as_ref().is_none_or(|(made_for, _)| *made_for != level) {
            self.compressor = Some((level, Compressor::new(level).ok()?));
        }
        let (_, compressor) = self.compressor.as_mut()?;
        self.scratch.clear();
        self.scratch.reserve(zstd_safe::compress_bound(data.len()));
        let length = compressor.compress_to_buffer(data, &mut self.scratch).ok()?;
        // The copy gives back the scratch memory: a block in a queue holds what it needs and no more.
        worth(data.len(), length).then(|| Bytes::copy_from_slice(&self.scratch))
    }
}

/// `data` compressed, or nothing if that does not save at least 6 %. A failure of zstd, which is one to get
/// memory, gives nothing too: the block goes raw, which is always right.
pub(super) fn compress(data: &[u8], level: i32) -> Option<Bytes> {
    CONTEXTS.with_borrow_mut(|contexts| contexts.compress(data, level))
}

/// Exactly `length` bytes out of `payload`, or what is wrong with it.
pub(super) fn decompress(payload: &[u8], length: u64) -> Result<Bytes, String> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_BLOCK {
        return Err(format!("a block of {length} bytes is over the limit of {MAX_BLOCK}"));
    }
    CONTEXTS.with_borrow_mut(|contexts| {
        let decompressor = match &mut contexts.decompressor {
            Some(decompressor) => decompressor,
            empty => empty.insert(Decompressor::new().map_err(|error| error.to_string())?),
        };
        let mut raw = Vec::with_capacity(length);
        let got = decompressor
            .decompress_to_buffer(payload, &mut raw)
            .map_err(|error| format!("it cannot be decompressed ({error})"))?;
        if got != length {
            return Err(format!("it decompresses to {got} bytes instead of {length}"));
        }
        Ok(Bytes::from(raw))
    })
}
