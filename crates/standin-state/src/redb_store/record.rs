//! How a record lies in the file; drawn in the doc of [`super`].

use crate::store::{MAX_TRANSACTION, Revision, Versioned};
use standin_model::BlockDigest;

const RECORD_FORMAT: u8 = 1;
const HEADER: usize = 1 + 8 + BlockDigest::LEN;

/// Over the key too, so that a value cannot turn up under another one.
fn digest(key: &str, revision: Revision, value: &[u8]) -> BlockDigest {
    let mut whole = Vec::with_capacity(key.len() + 9 + value.len());
    whole.extend_from_slice(key.as_bytes());
    whole.push(0);
    whole.extend_from_slice(&revision.0.to_le_bytes());
    whole.extend_from_slice(value);
    BlockDigest::of(&whole)
}

pub(super) fn pack(key: &str, revision: Revision, value: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(HEADER + value.len());
    packed.push(RECORD_FORMAT);
    packed.extend_from_slice(&revision.0.to_le_bytes());
    packed.extend_from_slice(digest(key, revision, value).as_bytes());
    packed.extend_from_slice(value);
    packed
}

/// `None` when it is not what [`pack`] made.
pub(super) fn unpack(key: &str, packed: &[u8]) -> Option<Versioned> {
    let (format, rest) = packed.split_first()?;
    let (revision, rest) = rest.split_first_chunk::<8>()?;
    let (stored, value) = rest.split_first_chunk::<{ BlockDigest::LEN }>()?;
    let revision = Revision(u64::from_le_bytes(*revision));
    let whole = *format == RECORD_FORMAT
        && value.len() <= MAX_TRANSACTION
        && digest(key, revision, value) == BlockDigest::from_bytes(*stored);
    whole.then(|| Versioned { value: value.to_vec(), revision })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_under_another_key_or_with_another_revision_is_not_taken() {
        let packed = pack("a", Revision(7), b"value");
        assert_eq!(unpack("a", &packed).map(|found| found.revision), Some(Revision(7)));
        assert_eq!(unpack("b", &packed), None);
        for index in 0..packed.len() {
            let mut flipped = packed.clone();
            flipped[index] ^= 1;
            assert_eq!(unpack("a", &flipped), None, "byte {index}");
            assert_eq!(unpack("a", &packed[..index]), None, "cut at {index}");
        }
    }
}
