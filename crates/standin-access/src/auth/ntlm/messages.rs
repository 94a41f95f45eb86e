//! The three messages (MS-NLMP 2.2.1) and the pairs in the challenge (2.2.2.1). Every offset and length comes from
//! a stranger and is checked.

/// What all messages begin with.
pub(super) const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";

/// The flags that count here (2.2.2.5).
pub(super) mod flag {
    pub const UNICODE: u32 = 0x0000_0001;
    pub const REQUEST_TARGET: u32 = 0x0000_0004;
    pub const SIGN: u32 = 0x0000_0010;
    pub const SEAL: u32 = 0x0000_0020;
    pub const NTLM: u32 = 0x0000_0200;
    pub const ANONYMOUS: u32 = 0x0000_0800;
    pub const ALWAYS_SIGN: u32 = 0x0000_8000;
    pub const TARGET_TYPE_SERVER: u32 = 0x0002_0000;
    pub const EXTENDED_SECURITY: u32 = 0x0008_0000;
    pub const TARGET_INFO: u32 = 0x0080_0000;
    pub const VERSION: u32 = 0x0200_0000;
    pub const KEY_128: u32 = 0x2000_0000;
    pub const KEY_EXCHANGE: u32 = 0x4000_0000;
    pub const KEY_56: u32 = 0x8000_0000;
}

/// The pairs that count here (2.2.2.1).
pub(super) mod pair {
    pub const END: u16 = 0;
    pub const NB_COMPUTER: u16 = 1;
    pub const NB_DOMAIN: u16 = 2;
    pub const DNS_COMPUTER: u16 = 3;
    pub const DNS_DOMAIN: u16 = 4;
    pub const FLAGS: u16 = 6;
    pub const TIMESTAMP: u16 = 7;
    pub const CHANNEL_BINDINGS: u16 = 10;
}

/// Which message this is: 1, 2 or 3.
pub(super) fn kind(message: &[u8]) -> Option<u32> {
    if message.get(..8)? != SIGNATURE {
        return None;
    }
    u32_at(message, 8)
}

/// The flags of a NEGOTIATE message.
pub(super) fn negotiate_flags(message: &[u8]) -> Option<u32> {
    u32_at(message, 12)
}

/// An AUTHENTICATE message, taken apart.
pub(super) struct Authenticate<'m> {
    pub nt_response: &'m [u8],
    pub domain: String,
    pub user: String,
    pub session_key: &'m [u8],
    pub flags: u32,
    /// Where the MIC stands, if the header has room for it.
    pub mic: Option<&'m [u8]>,
}

/// Where the MIC stands in an AUTHENTICATE message.
pub(super) const MIC_AT: usize = 72;

impl<'m> Authenticate<'m> {
    pub fn read(message: &'m [u8]) -> Option<Self> {
        if kind(message)? != 3 {
            return None;
        }
        let flags = u32_at(message, 60)?;
        let text = |at| text_of(field(message, at)?, flags);
        let payload = [12, 20, 28, 36, 44, 52].into_iter().filter_map(|at| {
            let length = u16_at(message, at)?;
            (length > 0).then(|| u32_at(message, at + 4))?
        });
        let has_room = payload.min().is_none_or(|first| first as usize >= MIC_AT + 16);
        Some(Self {
            nt_response: field(message, 20)?,
            domain: text(28)?,
            user: text(36)?,
            session_key: field(message, 52)?,
            flags,
            mic: message.get(MIC_AT..MIC_AT + 16).filter(|_| has_room),
        })
    }
}

/// The CHALLENGE message.
pub(super) fn challenge(flags: u32, server_challenge: [u8; 8], target: &str, pairs: &[u8]) -> Vec<u8> {
    const HEADER: usize = 56;
    let target = utf16(target);
    let mut out = Vec::with_capacity(HEADER + target.len() + pairs.len());
    out.extend_from_slice(SIGNATURE);
    out.extend_from_slice(&2_u32.to_le_bytes());
    push_field(&mut out, target.len(), HEADER);
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&server_challenge);
    out.extend_from_slice(&[0; 8]);
    push_field(&mut out, pairs.len(), HEADER + target.len());
    // A version of Windows that is new enough for everything offered, and revision 15 of NTLM.
    out.extend_from_slice(&[10, 0, 0, 0, 0, 0, 0, 15]);
    out.extend_from_slice(&target);
    out.extend_from_slice(pairs);
    out
}

fn push_field(out: &mut Vec<u8>, length: usize, offset: usize) {
    // Names of this host: far below these bounds.
    let length = u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&length);
    out.extend_from_slice(&u32::try_from(offset).unwrap_or(u32::MAX).to_le_bytes());
}

/// Adds a pair to the challenge's list.
pub(super) fn push_pair(out: &mut Vec<u8>, id: u16, value: &[u8]) {
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(value);
}

/// The value of a pair in a list.
pub(super) fn find_pair(mut list: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let id = u16_at(list, 0)?;
        let length = usize::from(u16_at(list, 2)?);
        let value = list.get(4..4 + length)?;
        if id == pair::END {
            return None;
        }
        if id == wanted {
            return Some(value);
        }
        list = &list[4 + length..];
    }
}

/// What a field of a header points at.
fn field(message: &[u8], at: usize) -> Option<&[u8]> {
    let length = usize::from(u16_at(message, at)?);
    if length == 0 {
        return Some(&[]);
    }
    let offset = u32_at(message, at + 4)? as usize;
    message.get(offset..offset.checked_add(length)?)
}

fn text_of(bytes: &[u8], flags: u32) -> Option<String> {
    if flags & flag::UNICODE == 0 {
        return std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii()).map(str::to_owned);
    }
    if bytes.len() % 2 != 0 {
        return None;
    }
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16(&units).ok()
}

/// Text in UTF-16, little endian.
pub(super) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
