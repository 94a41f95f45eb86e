//! Messages that a client encrypted itself (MS-WSMV 2.2.9.1): how WS-Management is private on plain HTTP.
//!
//! ```text
//! Content-Type: multipart/encrypted;protocol="application/HTTP-SPNEGO-session-encrypted";boundary="Encrypted Boundary"
//!
//! --Encrypted Boundary
//!         Content-Type: application/HTTP-SPNEGO-session-encrypted
//!         OriginalContent: type=application/soap+xml;charset=UTF-8;Length=1234
//! --Encrypted Boundary
//!         Content-Type: application/octet-stream
//! <length of the signature, 4 bytes, little endian><signature><1234 bytes of data>--Encrypted Boundary--
//! ```
//!
//! The header lines of the parts begin with a TAB: clients write it so, and some cannot read a reply without it.
//! The data is binary, so that it is taken by its length and never searched for a boundary.

use crate::auth::Sealer;
use thiserror::Error;

/// The boundary of replies; the one that every client uses.
const BOUNDARY: &str = "Encrypted Boundary";
/// The longest signature.
const MAX_SIGNATURE: usize = 1024;
/// The longest line of a part's head.
const MAX_LINE: usize = 1024;

/// How the client seals, and so how the reply to it is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    protocol: &'static str,
    boundary: String,
}

/// Why a sealed message was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum SealError {
    #[error("the sealed message is malformed: {0}")]
    Malformed(&'static str),
    #[error("the sealed message does not fit the session it came in")]
    WrongSignature,
}

/// A message as it was before it was sealed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// Its type, as `application/soap+xml;charset=UTF-8`.
    pub content_type: String,
    /// The message.
    pub body: Vec<u8>,
}

impl Envelope {
    /// Reads a Content-Type; `None` if the message is not sealed.
    pub fn read(content_type: &str) -> Option<Self> {
        let (kind, params) = content_type.split_once(';')?;
        let kind = kind.trim();
        if !["multipart/encrypted", "multipart/x-multi-encrypted"]
            .iter()
            .any(|k| kind.eq_ignore_ascii_case(k))
        {
            return None;
        }
        let param = |wanted: &str| {
            params.split(';').find_map(|param| {
                let (name, value) = param.split_once('=')?;
                name.trim().eq_ignore_ascii_case(wanted).then(|| value.trim().trim_matches('"'))
            })
        };
        let kerberos = param("protocol").is_some_and(|p| p.to_ascii_lowercase().contains("kerberos"));
        let protocol = if kerberos {
            "application/HTTP-Kerberos-session-encrypted"
        } else {
            "application/HTTP-SPNEGO-session-encrypted"
        };
        let boundary = param("boundary").filter(|b| !b.is_empty() && b.len() <= 70).unwrap_or(BOUNDARY);
        Some(Self { protocol, boundary: boundary.to_owned() })
    }

    /// The Content-Type of a reply.
    pub fn content_type(&self) -> String {
        format!("multipart/encrypted;protocol=\"{}\";boundary=\"{BOUNDARY}\"", self.protocol)
    }

    /// Takes a message out of its parts. More than one pair of parts makes one message.
    ///
    /// # Errors
    /// [`SealError`]; the session is of no use then.
    pub fn open(&self, sealer: &mut Sealer, body: &[u8]) -> Result<Opened, SealError> {
        let mut reader = Reader { rest: body, boundary: &self.boundary };
        let mut opened = Opened { content_type: String::new(), body: Vec::new() };
        while !reader.at_end()? {
            let (content_type, length) = reader.original()?;
            if reader.at_end()? {
                return Err(SealError::Malformed("there is no second part"));
            }
            reader.skip_head()?;
            let (signature, data) = reader.sealed(length)?;
            let data = sealer.unseal(signature, data.to_vec()).ok_or(SealError::WrongSignature)?;
            opened.content_type = content_type;
            opened.body.extend_from_slice(&data);
        }
        Ok(opened)
    }

    /// Puts a reply into its parts; `None` if the session cannot seal.
    pub fn close(&self, sealer: &mut Sealer, content_type: &str, body: &[u8]) -> Option<Vec<u8>> {
        let (signature, data) = sealer.seal(body)?;
        let head = format!(
            "--{BOUNDARY}\r\n\tContent-Type: {}\r\n\tOriginalContent: type={};Length={}\r\n--{BOUNDARY}\r\n\
             \tContent-Type: application/octet-stream\r\n",
            self.protocol,
            content_type.replace("; ", ";"),
            body.len()
        );
        let tail = format!("--{BOUNDARY}--\r\n");
        let mut out = Vec::with_capacity(head.len() + 4 + signature.len() + data.len() + tail.len());
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&u32::try_from(signature.len()).ok()?.to_le_bytes());
        out.extend_from_slice(&signature);
        out.extend_from_slice(&data);
        out.extend_from_slice(tail.as_bytes());
        Some(out)
    }
}

struct Reader<'b> {
    rest: &'b [u8],
    boundary: &'b str,
}

impl<'b> Reader<'b> {
    /// Passes a boundary; true if it was the last one.
    fn at_end(&mut self) -> Result<bool, SealError> {
        let rest = self.rest.strip_prefix(b"\r\n").unwrap_or(self.rest);
        let marked = rest.strip_prefix(b"--").map(|rest| rest.strip_prefix(b" ").unwrap_or(rest));
        let after = marked.and_then(|rest| rest.strip_prefix(self.boundary.as_bytes()));
        let after = after.ok_or(SealError::Malformed("there is no boundary where one should be"))?;
        if after.starts_with(b"--") {
            return Ok(true);
        }
        self.rest = after.strip_prefix(b"\r\n").ok_or(SealError::Malformed("a boundary has no end"))?;
        Ok(false)
    }

    /// The next line of a part's head; `None` where the next thing is no such line.
    fn line(&mut self) -> Option<&'b str> {
        let end = self.rest.iter().take(MAX_LINE).position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&self.rest[..end]).ok()?.trim();
        if !line.is_empty() && !line.split_once(':').is_some_and(|(name, _)| is_header(name)) {
            return None;
        }
        self.rest = &self.rest[end + 1..];
        Some(line)
    }

    /// The head of a first part: the original type and length.
    fn original(&mut self) -> Result<(String, usize), SealError> {
        let mut found = None;
        while !self.rest.starts_with(b"--") {
            let line =
                self.line().ok_or(SealError::Malformed("the head of the first part cannot be read"))?;
            let value = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("OriginalContent"));
            if let Some((_, value)) = value {
                found = Some(read_original(value).ok_or(SealError::Malformed("its OriginalContent"))?);
            }
        }
        found.ok_or(SealError::Malformed("there is no OriginalContent"))
    }

    /// The head of a second part says nothing that is needed.
    fn skip_head(&mut self) -> Result<(), SealError> {
        let line = self.line().ok_or(SealError::Malformed("the head of the second part cannot be read"))?;
        if line.is_empty() { Err(SealError::Malformed("the second part has no head")) } else { Ok(()) }
    }

    fn sealed(&mut self, length: usize) -> Result<(&'b [u8], &'b [u8]), SealError> {
        let short = SealError::Malformed("it is shorter than it says");
        let Some((digits, rest)) = self.rest.split_first_chunk::<4>() else { return Err(short) };
        let signature = u32::from_le_bytes(*digits) as usize;
        if signature > MAX_SIGNATURE {
            return Err(SealError::Malformed("its signature is too long"));
        }
        let Some((signature, rest)) = rest.split_at_checked(signature) else { return Err(short) };
        let Some((data, rest)) = rest.split_at_checked(length) else { return Err(short) };
        self.rest = rest;
        Ok((signature, data))
    }
}

fn is_header(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// `type=application/soap+xml;charset=UTF-8;Length=1234`.
fn read_original(value: &str) -> Option<(String, usize)> {
    let (mut content_type, mut length) = (Vec::new(), None);
    for part in value.split(';').map(str::trim) {
        let lower = part.to_ascii_lowercase();
        if let Some(digits) = lower.strip_prefix("length=") {
            length = Some(digits.trim().parse().ok()?);
        } else if lower.starts_with("type=") {
            content_type.push(&part[5..]);
        } else {
            content_type.push(part);
        }
    }
    Some((content_type.join(";"), length?))
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
