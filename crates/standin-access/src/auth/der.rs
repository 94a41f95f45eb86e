//! As much DER as SPNEGO needs: tag, length, content. Lengths are checked against what is there.

/// Splits the first element off: its tag, its content, what follows. Tags of one byte and lengths up to four.
pub(super) fn read(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x0f))?;
            (digits.iter().fold(0_usize, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// The content of an element that must have this tag and be the whole of `bytes`.
pub(super) fn only(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let (found, content, rest) = read(bytes)?;
    (found == tag && rest.is_empty()).then_some(content)
}

/// The elements of a content.
pub(super) fn elements(mut bytes: &[u8]) -> impl Iterator<Item = Option<(u8, &[u8])>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let read = read(bytes);
        bytes = read.map_or(&[], |(_, _, rest)| rest);
        Some(read.map(|(tag, content, _)| (tag, content)))
    })
}

/// An element.
pub(super) fn write(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    let digits = length.to_be_bytes();
    let used = &digits[digits.iter().take_while(|digit| **digit == 0).count()..];
    match length {
        0..=0x7f => out.push(used.first().copied().unwrap_or(0)),
        // A length of at most eight digits.
        _ => {
            out.push(0x80 | u8::try_from(used.len()).unwrap_or(8));
            out.extend_from_slice(used);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_at_every_size_of_a_length() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let content = vec![7; length];
            let written = write(0xa1, &[&content[..length / 2], &content[length / 2..]]);
            assert_eq!(only(&written, 0xa1), Some(&content[..]), "{length}");
            assert_eq!(read(&written[..written.len() - 1]), None);
        }
    }

    #[test]
    fn lengths_beyond_what_is_there_are_refused() {
        for bytes in
            [&[0x30][..], &[0x30, 0x05, 0], &[0x30, 0x80, 0], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0]]
        {
            assert_eq!(read(bytes), None, "{bytes:?}");
        }
    }
}
