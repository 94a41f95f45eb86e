//! Block status: extents of a reply checked against the question, clipped and merged. Pure.

use bytes::Buf;

/// A run with one set of flags. Extents of a list follow each other without gaps; the first begins at the offset
/// that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusExtent {
    /// Length in bytes.
    pub length: u64,
    /// The context's flags: see [`crate::FLAG_HOLE`], [`crate::FLAG_ZERO`], [`crate::FLAG_DIRTY`].
    pub flags: u32,
}

/// Appends `extent`, joining it to the last one when their flags are equal. Empty extents vanish.
pub fn push(list: &mut Vec<StatusExtent>, extent: StatusExtent) {
    if extent.length == 0 {
        return;
    }
    match list.last_mut() {
        Some(last) if last.flags == extent.flags => last.length += extent.length,
        _ => list.push(extent),
    }
}

/// Joins neighbours with equal flags and drops empty extents.
#[must_use]
pub fn merge(extents: impl IntoIterator<Item = StatusExtent>) -> Vec<StatusExtent> {
    let mut list = Vec::new();
    extents.into_iter().for_each(|extent| push(&mut list, extent));
    list
}

/// Drops the first `skip` bytes of a list and what lies beyond the `keep` bytes after them.
#[must_use]
pub fn window(extents: &[StatusExtent], mut skip: u64, mut keep: u64) -> Vec<StatusExtent> {
    let mut list = Vec::new();
    for extent in extents {
        let dropped = skip.min(extent.length);
        skip -= dropped;
        let length = (extent.length - dropped).min(keep);
        keep -= length;
        push(&mut list, StatusExtent { length, flags: extent.flags });
    }
    list
}

/// Total length of a list.
#[must_use]
pub fn total(extents: &[StatusExtent]) -> u64 {
    extents.iter().map(|extent| extent.length).sum()
}

/// Reads the extents of one reply to a question of `asked` bytes: pairs of 32-bit length and flags.
///
/// The reply may be shorter than asked, but not empty. Its last extent may be longer; it is clipped.
///
/// # Errors
/// What the server did wrong, as the end of a sentence.
pub fn parse(payload: &[u8], asked: u32) -> Result<Vec<StatusExtent>, String> {
    if payload.is_empty() || payload.len() % 8 != 0 {
        return Err(format!("a block status of {} bytes is not a list of extents", payload.len()));
    }
    let mut left = u64::from(asked);
    let mut list = Vec::new();
    let mut rest = payload;
    while rest.has_remaining() {
        let length = u64::from(rest.get_u32());
        let flags = rest.get_u32();
        if length == 0 {
            return Err("an extent of the block status is empty".to_owned());
        }
        if left == 0 {
            return Err(format!("the block status goes on after the {asked} bytes that were asked for"));
        }
        push(&mut list, StatusExtent { length: length.min(left), flags });
        left = left.saturating_sub(length);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(pairs: &[(u32, u32)]) -> Vec<u8> {
        pairs.iter().flat_map(|(l, f)| [l.to_be_bytes(), f.to_be_bytes()].concat()).collect()
    }

    fn extents(pairs: &[(u64, u32)]) -> Vec<StatusExtent> {
        pairs.iter().map(|&(length, flags)| StatusExtent { length, flags }).collect()
    }

    #[test]
    fn neighbours_with_equal_flags_become_one() {
        let reply = wire(&[(10, 1), (20, 1), (30, 0), (40, 1)]);
        assert_eq!(parse(&reply, 100).unwrap(), extents(&[(30, 1), (30, 0), (40, 1)]));
    }

    #[test]
    fn a_last_extent_longer_than_asked_is_clipped() {
        assert_eq!(parse(&wire(&[(10, 1), (4_000_000_000, 0)]), 15).unwrap(), extents(&[(10, 1), (5, 0)]));
    }

    #[test]
    fn a_reply_shorter_than_asked_is_taken_as_it_is() {
        assert_eq!(total(&parse(&wire(&[(10, 1)]), 100).unwrap()), 10);
    }

    #[test]
    fn broken_lists_are_refused() {
        assert!(parse(&[], 10).unwrap_err().contains("not a list"));
        assert!(parse(&[0; 12], 10).unwrap_err().contains("not a list"));
        assert!(parse(&wire(&[(0, 1)]), 10).unwrap_err().contains("empty"));
        assert!(parse(&wire(&[(10, 1), (1, 0)]), 10).unwrap_err().contains("goes on"));
    }

    #[test]
    fn a_window_cuts_both_ends() {
        let list = extents(&[(10, 1), (20, 0), (30, 1)]);
        assert_eq!(window(&list, 5, 30), extents(&[(5, 1), (20, 0), (5, 1)]));
        assert_eq!(window(&list, 15, 5), extents(&[(5, 0)]));
        assert_eq!(window(&list, 60, 5), extents(&[]));
    }
}
