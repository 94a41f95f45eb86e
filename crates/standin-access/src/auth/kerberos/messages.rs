//! The messages of RFC 4120 that an acceptor sees: AP-REQ, the inside of a ticket, the authenticator; and the AP-REP
//! that it answers with. Only what counts is read. A field is `[n]` in a SEQUENCE, and its tag `0xa0 + n`.

use super::super::der;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const BITS: u8 = 0x03;
const GENERAL_STRING: u8 = 0x1b;
const TIME: u8 = 0x18;

/// The checksum type that carries channel bindings and flags (RFC 4121, 4.1.1).
const GSS_CHECKSUM: i64 = 0x8003;

/// The fields of a SEQUENCE.
struct Fields<'m>(&'m [u8]);

impl<'m> Fields<'m> {
    /// The SEQUENCE within an element of this tag.
    fn within(message: &'m [u8], tag: u8) -> Option<Self> {
        Self::of(der::only(message, tag)?)
    }

    fn of(sequence: &'m [u8]) -> Option<Self> {
        der::only(sequence, SEQUENCE).map(Self)
    }

    fn get(&self, number: u8) -> Option<&'m [u8]> {
        for field in der::elements(self.0) {
            let (tag, content) = field?;
            if tag == 0xa0 | number {
                return Some(content);
            }
        }
        None
    }

    fn integer(&self, number: u8) -> Option<i64> {
        integer(der::only(self.get(number)?, INTEGER)?)
    }

    fn octets(&self, number: u8) -> Option<&'m [u8]> {
        der::only(self.get(number)?, OCTETS)
    }

    /// Seconds since 1970.
    fn time(&self, number: u8) -> Option<i64> {
        let text = std::str::from_utf8(der::only(self.get(number)?, TIME)?).ok()?;
        let time = DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
        Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
    }

    /// Type and value of a key, or of a checksum: `[0]` and `[1]`.
    fn typed(&self, number: u8) -> Option<(i64, &'m [u8])> {
        let fields = Self::of(self.get(number)?)?;
        Some((fields.integer(0)?, fields.octets(1)?))
    }

    /// Type and text of what is encrypted: `[0]` and `[2]`.
    fn encrypted(&self, number: u8) -> Option<(i64, &'m [u8])> {
        let fields = Self::of(self.get(number)?)?;
        Some((fields.integer(0)?, fields.octets(2)?))
    }

    /// A name and its realm as `name/instance@REALM`.
    fn principal(&self, realm: u8, name: u8) -> Option<String> {
        let realm = text(der::only(self.get(realm)?, GENERAL_STRING)?)?;
        let fields = Self::of(self.get(name)?)?;
        let mut parts = Vec::new();
        for part in der::elements(der::only(fields.get(1)?, SEQUENCE)?) {
            match part? {
                (GENERAL_STRING, part) if parts.len() < 8 => parts.push(text(part)?),
                _ => return None,
            }
        }
        (!parts.is_empty()).then(|| format!("{}@{realm}", parts.join("/")))
    }
}

/// A part of a name. One with a separator in it could pass for another name.
fn text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let sound = !text.is_empty() && !text.chars().any(|c| c.is_control() || matches!(c, '@' | '/' | '\\'));
    sound.then_some(text)
}

fn integer(bytes: &[u8]) -> Option<i64> {
    let (first, rest) = bytes.split_first()?;
    if rest.len() > 7 {
        return None;
    }
    let first = i64::from(i8::from_be_bytes([*first]));
    Some(rest.iter().fold(first, |number, byte| number << 8 | i64::from(*byte)))
}

/// What the client sends.
pub(super) struct ApReq<'m> {
    pub mutual: bool,
    pub use_session_key: bool,
    pub ticket_type: i64,
    pub ticket: &'m [u8],
    pub authenticator: &'m [u8],
}

impl<'m> ApReq<'m> {
    pub fn read(message: &'m [u8]) -> Option<Self> {
        let fields = Fields::within(message, 0x6e)?;
        let options = der::only(fields.get(2)?, BITS)?;
        let ticket = Fields::within(fields.get(3)?, 0x61)?;
        if (fields.integer(0)?, fields.integer(1)?, ticket.integer(0)?) != (5, 14, 5) {
            return None;
        }
        let (ticket_type, ticket) = ticket.encrypted(3)?;
        let first = options.get(1).copied().unwrap_or(0);
        Some(Self {
            mutual: first & 0x20 != 0,
            use_session_key: first & 0x40 != 0,
            ticket_type,
            ticket,
            authenticator: fields.encrypted(4)?.1,
        })
    }
}

/// The inside of a ticket.
pub(super) struct Ticket {
    pub key_type: i64,
    pub key: Vec<u8>,
    pub client: String,
    pub start: i64,
    pub end: i64,
    pub invalid: bool,
}

impl Ticket {
    pub fn read(message: &[u8]) -> Option<Self> {
        let fields = Fields::within(message, 0x63)?;
        let (key_type, key) = fields.typed(1)?;
        let flags = der::only(fields.get(0)?, BITS)?;
        Some(Self {
            key_type,
            key: key.to_vec(),
            client: fields.principal(2, 3)?,
            start: fields.time(6).or_else(|| fields.time(5))?,
            end: fields.time(7)?,
            // Bit 7: a postdated ticket that was not validated.
            invalid: flags.get(1).copied().unwrap_or(0) & 1 != 0,
        })
    }
}

/// The authenticator.
pub(super) struct Authenticator {
    pub client: String,
    pub checksum: Option<Vec<u8>>,
    pub seconds: i64,
    pub subkey: Option<(i64, Vec<u8>)>,
    pub sequence: u32,
    /// Its time as it stood there, which the AP-REP repeats: `cusec` and `ctime` with their tags.
    echo: (Vec<u8>, Vec<u8>),
}

impl Authenticator {
    pub fn read(message: &[u8]) -> Option<Self> {
        let fields = Fields::within(message, 0x62)?;
        let checksum = match fields.typed(3) {
            Some((GSS_CHECKSUM, checksum)) => Some(checksum.to_vec()),
            _ => None,
        };
        // Some libraries write the number with a sign.
        let sequence = fields.integer(7).unwrap_or(0).to_le_bytes();
        Some(Self {
            client: fields.principal(1, 2)?,
            checksum,
            seconds: fields.time(5)?,
            subkey: fields.typed(6).map(|(kind, key)| (kind, key.to_vec())),
            sequence: u32::from_le_bytes([sequence[0], sequence[1], sequence[2], sequence[3]]),
            echo: (fields.get(4)?.to_vec(), fields.get(5)?.to_vec()),
        })
    }
}

/// The inside of an AP-REP: the authenticator's time, and the first number of this side's messages.
pub(super) fn enc_ap_rep_part(authenticator: &Authenticator, sequence: u32) -> Vec<u8> {
    let (cusec, ctime) = &authenticator.echo;
    let fields = [
        der::write(0xa0, &[ctime]),
        der::write(0xa1, &[cusec]),
        der::write(0xa3, &[&write_integer(i64::from(sequence))]),
    ];
    der::write(0x7b, &[&der::write(SEQUENCE, &[&fields.concat()])])
}

/// An AP-REP.
pub(super) fn ap_rep(kind: i64, sealed: &[u8]) -> Vec<u8> {
    let encrypted =
        [der::write(0xa0, &[&write_integer(kind)]), der::write(0xa2, &[&der::write(OCTETS, &[sealed])])];
    let fields = [
        der::write(0xa0, &[&write_integer(5)]),
        der::write(0xa1, &[&write_integer(15)]),
        der::write(0xa2, &[&der::write(SEQUENCE, &[&encrypted.concat()])]),
    ];
    der::write(0x6f, &[&der::write(SEQUENCE, &[&fields.concat()])])
}

fn write_integer(number: i64) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    // As short as it can be with its sign.
    let redundant = |at: &usize| {
        let next_negative = bytes[at + 1] & 0x80 != 0;
        bytes[*at] == if next_negative { 0xff } else { 0x00 }
    };
    let skip = (0..7).take_while(redundant).count();
    der::write(INTEGER, &[&bytes[skip..]])
}

#[cfg(test)]
pub(super) mod make {
    //! Messages of a client and a KDC, for tests.
    use super::*;

    pub fn field(number: u8, content: &[u8]) -> Vec<u8> {
        der::write(0xa0 | number, &[content])
    }
    pub fn sequence(fields: &[Vec<u8>]) -> Vec<u8> {
        der::write(SEQUENCE, &[&fields.concat()])
    }
    pub fn application(number: u8, fields: &[Vec<u8>]) -> Vec<u8> {
        der::write(0x60 | number, &[&sequence(fields)])
    }
    pub fn number(value: i64) -> Vec<u8> {
        write_integer(value)
    }
    pub fn octets(value: &[u8]) -> Vec<u8> {
        der::write(OCTETS, &[value])
    }
    pub fn bits(value: [u8; 4]) -> Vec<u8> {
        der::write(BITS, &[&[0], &value])
    }
    pub fn string(value: &str) -> Vec<u8> {
        der::write(GENERAL_STRING, &[value.as_bytes()])
    }
    pub fn time(at: i64) -> Vec<u8> {
        let text = jiff::Timestamp::from_second(at).unwrap().strftime("%Y%m%d%H%M%SZ").to_string();
        der::write(TIME, &[text.as_bytes()])
    }
    pub fn typed(kind: i64, value: &[u8]) -> Vec<u8> {
        sequence(&[field(0, &number(kind)), field(1, &octets(value))])
    }
    pub fn encrypted(kind: i64, value: &[u8]) -> Vec<u8> {
        sequence(&[field(0, &number(kind)), field(2, &octets(value))])
    }
    pub fn name(text: &str) -> Vec<u8> {
        let parts: Vec<_> = text.split('/').map(string).collect();
        sequence(&[field(0, &number(1)), field(1, &sequence(&parts))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_they_are_written_with_their_sign() {
        for number in [0, 1, 127, 128, 255, 256, -1, -128, -129, i64::from(u32::MAX), i64::MIN, i64::MAX] {
            assert_eq!(
                integer(der::only(&write_integer(number), INTEGER).unwrap()),
                Some(number),
                "{number}"
            );
        }
        assert_eq!(write_integer(128), [2, 2, 0, 128]);
        assert_eq!(integer(&[]), None);
        assert_eq!(integer(&[1; 9]), None);
    }

    #[test]
    fn a_name_with_a_separator_within_a_part_is_refused() {
        for wrong in ["a@B", "a/b", "", "a\nb"] {
            assert_eq!(text(wrong.as_bytes()), None, "{wrong:?}");
        }
        assert_eq!(text(b"alice"), Some("alice"));
    }
}
