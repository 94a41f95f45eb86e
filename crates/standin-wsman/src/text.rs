//! Bodies as text: UTF-8 and UTF-16 in, and out in the encoding that the client used (DSP0226, clause 13).

use crate::fault::{Fault, Kind};
use std::borrow::Cow;

/// The encoding of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// UTF-8, without a mark.
    #[default]
    Utf8,
    /// UTF-16, little endian with a mark on the way out.
    Utf16,
}

impl Encoding {
    /// What `Content-Type` says of it.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Utf8 => "application/soap+xml;charset=UTF-8",
            Self::Utf16 => "application/soap+xml;charset=UTF-16",
        }
    }

    /// The bytes of a reply.
    #[must_use]
    pub fn encode(self, text: String) -> Vec<u8> {
        match self {
            Self::Utf8 => text.into_bytes(),
            Self::Utf16 => {
                let mark = std::iter::once(0xfeff_u16);
                mark.chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
            }
        }
    }

    /// At most this many bytes of UTF-8 fit into an envelope of `octets`.
    #[must_use]
    pub fn budget(self, octets: usize) -> usize {
        match self {
            Self::Utf8 => octets,
            // A byte of UTF-8 never becomes more than two of UTF-16.
            Self::Utf16 => octets.saturating_sub(2) / 2,
        }
    }
}

/// The text of a body. A mark at its beginning decides, then the charset of `Content-Type`, then the zero bytes
/// that UTF-16 has in its first character.
///
/// # Errors
/// `EncodingLimit` with the detail `CharacterSet` for other encodings and for broken ones.
pub fn decode<'a>(body: &'a [u8], content_type: Option<&str>) -> Result<(Cow<'a, str>, Encoding), Fault> {
    let charset = content_type.and_then(charset).unwrap_or_default();
    match body {
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [b'<', 0, ..] => utf16(body, u16::from_le_bytes),
        [0, b'<', ..] => utf16(body, u16::from_be_bytes),
        _ if charset.eq_ignore_ascii_case("utf-16le") || charset.eq_ignore_ascii_case("utf-16") => {
            utf16(body, u16::from_le_bytes)
        }
        _ if charset.eq_ignore_ascii_case("utf-16be") => utf16(body, u16::from_be_bytes),
        _ if charset.is_empty()
            || charset.eq_ignore_ascii_case("utf-8")
            || charset.eq_ignore_ascii_case("utf8")
            || charset.eq_ignore_ascii_case("us-ascii") =>
        {
            utf8(body)
        }
        _ => Err(refuse(format!("the charset {charset:.40} is not understood; send UTF-8 or UTF-16"))),
    }
}

/// The charset parameter of a content type.
fn charset(content_type: &str) -> Option<&str> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    })
}

fn utf8(body: &[u8]) -> Result<(Cow<'_, str>, Encoding), Fault> {
    match std::str::from_utf8(body) {
        Ok(text) => Ok((Cow::Borrowed(text), Encoding::Utf8)),
        Err(error) => Err(refuse(format!("the body is no UTF-8 from byte {} on", error.valid_up_to()))),
    }
}

fn utf16(body: &[u8], unit: fn([u8; 2]) -> u16) -> Result<(Cow<'_, str>, Encoding), Fault> {
    let pairs = body.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(refuse("the body is no UTF-16: its length is odd".to_owned()));
    }
    let units = pairs.map(|pair| unit([pair[0], pair[1]]));
    match char::decode_utf16(units).collect::<Result<String, _>>() {
        Ok(text) => Ok((Cow::Owned(text), Encoding::Utf16)),
        Err(_) => Err(refuse("the body is no UTF-16: half of a surrogate pair is missing".to_owned())),
    }
}

fn refuse(reason: String) -> Fault {
    Fault::new(Kind::EncodingLimit, reason).detail("CharacterSet").wsman_code(2_150_858_828)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn utf8_with_and_without_a_mark() {
        assert_eq!(decode("<ä/>".as_bytes(), None).unwrap(), ("<ä/>".into(), Encoding::Utf8));
        assert_eq!(decode(b"\xef\xbb\xbf<a/>", None).unwrap(), ("<a/>".into(), Encoding::Utf8));
        let quoted = Some("application/soap+xml; charset=\"UTF-8\"; action=\"x\"");
        assert_eq!(decode(b"<a/>", quoted).unwrap(), ("<a/>".into(), Encoding::Utf8));
    }

    #[test]
    fn utf16_by_mark_by_charset_and_by_its_looks() {
        let wanted = ("<ä>😀</ä>".into(), Encoding::Utf16);
        let little = units("<ä>😀</ä>", u16::to_le_bytes);
        let big = units("<ä>😀</ä>", u16::to_be_bytes);
        assert_eq!(decode(&[&[0xff, 0xfe], &little[..]].concat(), None).unwrap(), wanted);
        assert_eq!(
            decode(&[&[0xfe, 0xff], &big[..]].concat(), Some("text/xml;charset=UTF-8")).unwrap(),
            wanted
        );
        assert_eq!(decode(&little, Some("application/soap+xml;charset=UTF-16")).unwrap(), wanted);
        assert_eq!(decode(&big, Some("application/soap+xml;charset=utf-16")).unwrap(), wanted);
        assert_eq!(decode(&little, None).unwrap(), wanted);
    }

    #[test]
    fn broken_and_foreign_encodings_are_faults() {
        for (body, charset) in [
            (&b"<a>\xff</a>"[..], None),
            (&b"\xff\xfe<"[..], None),
            (&b"\xff\xfe\x00\xd8"[..], None),
            (&b"<a/>"[..], Some("text/xml; charset=ISO-8859-1")),
        ] {
            let fault = decode(body, charset).unwrap_err();
            assert_eq!((fault.kind, fault.detail), (Kind::EncodingLimit, Some("CharacterSet")));
        }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        for encoding in [Encoding::Utf8, Encoding::Utf16] {
            let bytes = encoding.encode("<a>ä😀</a>".to_owned());
            assert!(encoding.budget(bytes.len()) <= "<a>ä😀</a>".len());
            assert_eq!(
                decode(&bytes, Some(encoding.content_type())).unwrap(),
                ("<a>ä😀</a>".into(), encoding)
            );
        }
    }
}
