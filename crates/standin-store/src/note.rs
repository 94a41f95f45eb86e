//! What a seal recorded in the manifest, once more behind the digests of each disk: with it the manifest is built
//! again when all copies of it are lost. A line of JSON and a line of its checksum, so that a person sees it too:
//! `tail -n 2 disks/vda/000000000042.digests`.
//!
//! It is written before the layer gets its name and goes with it. A layer with a note of a point may have lost its point
//! since, by retention; one whose seal was cut off just before the manifest has the note of a point that was never
//! acknowledged. Either is a point that can be proven.

use crate::checked;
use crate::error::{Error, Result};
use crate::manifest::{Config, Point};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use standin_model::{DiskName, Epoch, VmId};
use std::path::Path;

/// Largest note that is read.
pub(crate) const MAX_NOTE: u64 = 256 << 10;

/// A disk of the replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NotedDisk {
    pub(crate) name: DiskName,
    /// Bytes the guest sees.
    pub(crate) size: u64,
}

/// What one seal recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) vm: VmId,
    /// When the replica was made.
    pub(crate) created_at: Timestamp,
    /// Bytes of a granule.
    pub(crate) granule: u32,
    /// All disks, in the order of the relationship.
    pub(crate) disks: Vec<NotedDisk>,
    /// The layer that it is in.
    pub(crate) epoch: Epoch,
    /// The recovery point, if the layer ended at one; without the reasons why it must stay, which come later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) point: Option<Point>,
    /// The newest configuration at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<Config>,
}

impl Note {
    /// The bytes of it in the file.
    pub(crate) fn render(&self) -> Result<Vec<u8>> {
        let text = serde_json::to_vec(self)
            .map_err(|error| Error::invalid(format!("a note of a seal cannot be written: {error}")))?;
        let text = checked::seal(text);
        if text.len() as u64 > MAX_NOTE {
            return Err(Error::invalid(format!("a note of a seal of {} bytes", text.len())));
        }
        Ok(text)
    }

    /// Reads the bytes of one; `None` for a layer of a version before, which had none.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Option<Self>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let wrong = |what: String| Error::corrupt(path, format!("the note of its seal: {what}"));
        let body = checked::body(bytes).map_err(wrong)?;
        serde_json::from_slice(body).map(Some).map_err(|error| wrong(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Note {
        Note {
            vm: VmId::random(),
            created_at: Timestamp::UNIX_EPOCH,
            granule: 4096,
            disks: vec![NotedDisk { name: DiskName::new("vda").unwrap(), size: 1 << 20 }],
            epoch: Epoch(3),
            point: None,
            config: None,
        }
    }

    #[test]
    fn a_note_survives_its_text_and_every_flipped_bit_and_cut_is_noticed() {
        let (text, path) = (note().render().unwrap(), Path::new("x"));
        assert_eq!(Note::parse(&text, path).unwrap().unwrap().disks, note().disks);
        for bit in 0..text.len() * 8 {
            let mut spoilt = text.clone();
            spoilt[bit / 8] ^= 1 << (bit % 8);
            assert!(Note::parse(&spoilt, path).is_err(), "bit {bit}");
        }
        for cut in 1..text.len() {
            assert!(Note::parse(&text[..cut], path).is_err(), "cut at {cut}");
        }
        assert_eq!(Note::parse(b"", path).unwrap(), None);
    }
}
