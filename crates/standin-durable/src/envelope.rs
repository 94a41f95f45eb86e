//! How a document lies in its file. It is JSON as a whole, for `jq .body`; the first line is the envelope:
//!
//! ```text
//! {"format":"standin host-id","version":1,"checksum":"<64 hexadecimal digits>","body":
//! {
//!   "id": "7f0e..."
//! }
//! }
//! ```
//!
//! The magic is the name of the format. The checksum is BLAKE3 over `format`, a zero byte, `version` in decimal, a
//! zero byte, and the exact bytes between the first line and the closing `\n}\n`: damage, a truncated file and an edit
//! by hand are all found. It is checked before the version, so that a flipped bit there is damage and never "written
//! by a newer standin".

use serde::{Deserialize, Serialize};

/// What every format's name begins with.
const MAGIC: &str = "standin ";
/// What every file begins with.
const START: &[u8] = b"{\"format\":\"standin ";
/// How the first line ends.
const BODY: &[u8] = b",\"body\":\n";
/// How the file ends.
const END: &[u8] = b"\n}\n";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<'t> {
    format: &'t str,
    version: u32,
    checksum: &'t str,
}

/// What is in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened<'t> {
    /// A whole document.
    Whole {
        /// Its schema version.
        version: u32,
        /// Its content, JSON.
        body: &'t [u8],
    },
    /// A document of another kind.
    OtherKind(String),
    /// A document of this kind, or the beginning of any, that is not what was written.
    Damaged(&'static str),
    /// It has no envelope at all.
    Bare,
}

/// The file of a document.
pub(crate) fn close(kind: &str, version: u32, body: &[u8]) -> serde_json::Result<Vec<u8>> {
    let format = format!("{MAGIC}{kind}");
    let checksum = checksum(&format, version, body);
    let header = serde_json::to_vec(&Header { format: &format, version, checksum: &checksum })?;
    // The object is left open for the body.
    let mut file = header.strip_suffix(b"}").unwrap_or(&header).to_vec();
    file.extend_from_slice(BODY);
    file.extend_from_slice(body);
    file.extend_from_slice(END);
    Ok(file)
}

/// What a file holds for somebody who expects a `kind`.
pub(crate) fn open<'t>(kind: &str, file: &'t [u8]) -> Opened<'t> {
    if file.is_empty() {
        return Opened::Damaged("it is empty");
    }
    if !file.starts_with(&START[..START.len().min(file.len())]) {
        return Opened::Bare;
    }
    let torn = Opened::Damaged("it ends too early");
    let Some(cut) = file.iter().position(|byte| *byte == b'\n') else { return torn };
    let (line, rest) = file.split_at(cut + 1);
    let Some(line) = line.strip_suffix(BODY) else {
        return Opened::Damaged("its first line is not an envelope");
    };
    let Ok(header) = serde_json::from_slice::<Header<'_>>(&[line, b"}"].concat()).map(Owned::of) else {
        return Opened::Damaged("its first line is not an envelope");
    };
    let Some(body) = rest.strip_suffix(END) else { return torn };
    if checksum(&header.format, header.version, body) != header.checksum {
        return Opened::Damaged("it does not match its checksum");
    }
    match header.format.strip_prefix(MAGIC) {
        Some(found) if found == kind => Opened::Whole { version: header.version, body },
        _ => Opened::OtherKind(header.format),
    }
}

/// A header that outlives the line it was read from.
struct Owned {
    format: String,
    version: u32,
    checksum: String,
}

impl Owned {
    fn of(header: Header<'_>) -> Self {
        let Header { format, version, checksum } = header;
        Self { format: format.to_owned(), version, checksum: checksum.to_owned() }
    }
}

fn checksum(format: &str, version: u32, body: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format.as_bytes()).update(b"\0");
    hasher.update(version.to_string().as_bytes()).update(b"\0");
    hasher.update(body);
    hasher.finalize().to_hex().to_string()
}
