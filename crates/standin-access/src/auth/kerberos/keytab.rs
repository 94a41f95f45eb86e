//! The keytab: this host's keys, in MIT's file format of version 2 (`05 02`), which every KDC's tools write. Keys are
//! rotated while the daemon runs: the file is read again when it is another one than it was.

use super::crypto::Key;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use thiserror::Error;

/// The longest keytab.
const MAX_SIZE: u64 = 1 << 20;
/// The most keys: each of them is tried on a ticket.
const MAX_KEYS: usize = 256;

/// Why Kerberos cannot be offered.
#[derive(Debug, Error)]
#[error("the keytab {path} cannot be used: {reason}")]
pub struct KerberosError {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong and what to do.
    pub reason: String,
}

/// What tells one state of a file from another: when it was changed, to the nanosecond, its number and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    inode: u64,
    size: u64,
}

impl Stamp {
    /// `None` when there is no such file.
    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self {
            modified: (meta.mtime(), meta.mtime_nsec()),
            // A change of the mode too: whoever mends the keytab's permissions has not to restart the daemon.
            changed: (meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
            size: meta.size(),
        })
    }
}

/// A keytab that follows its file.
#[derive(Debug)]
pub(super) struct KeytabFile {
    path: PathBuf,
    read: Mutex<(Option<Stamp>, Arc<Keytab>)>,
}

impl KeytabFile {
    pub fn open(path: &Path) -> Result<Self, KerberosError> {
        // Looked at before it is read: what changes meanwhile is seen as a change the next time.
        let stamp = Stamp::of(path);
        let keytab = Arc::new(Keytab::read(path)?);
        Ok(Self { path: path.to_path_buf(), read: Mutex::new((stamp, keytab)) })
    }

    /// The keys as the file has them now. One that cannot be used leaves those that there are, and is said once.
    pub fn current(&self) -> Arc<Keytab> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&self.path);
        if read.0 != stamp {
            read.0 = stamp;
            match Keytab::read(&self.path) {
                Ok(keytab) => {
                    tracing::info!(path = %self.path.display(), "the keytab was read again");
                    read.1 = Arc::new(keytab);
                }
                Err(error) => tracing::warn!(%error, "the keys from before are used on"),
            }
        }
        Arc::clone(&read.1)
    }
}

#[derive(Debug)]
pub(super) struct Keytab(Vec<Key>);

impl Keytab {
    pub fn read(path: &Path) -> Result<Self, KerberosError> {
        let error = |reason: String| KerberosError { path: path.to_path_buf(), reason };
        let meta = std::fs::metadata(path).map_err(|cause| error(cause.to_string()))?;
        if meta.mode() & 0o077 != 0 {
            let reason =
                "others than its owner can read it, and whoever has it can pose as this host; run chmod 600";
            return Err(error(reason.to_owned()));
        }
        if meta.len() > MAX_SIZE {
            return Err(error("it is longer than 1 MiB".to_owned()));
        }
        let bytes = std::fs::read(path).map_err(|cause| error(cause.to_string()))?;
        let keys = parse(&bytes).ok_or_else(|| error("it is no keytab of version 5.2".to_owned()))?;
        if keys.is_empty() {
            let reason = "it has no AES key; make it anew with aes256-cts-hmac-sha1-96".to_owned();
            return Err(error(reason));
        }
        Ok(Self(keys))
    }

    /// The keys of a type, newest first.
    pub fn keys(&self, kind: i64) -> impl Iterator<Item = &Key> {
        self.0.iter().rev().filter(move |key| key.kind() == kind)
    }
}

/// The usable keys; `None` if it is no keytab. Keys of other types are passed over.
fn parse(bytes: &[u8]) -> Option<Vec<Key>> {
    let mut rest = bytes.strip_prefix(&[5, 2])?;
    let mut keys = Vec::new();
    while !rest.is_empty() {
        let (size, after) = rest.split_first_chunk::<4>()?;
        let size = i32::from_be_bytes(*size);
        if size == 0 {
            break;
        }
        let (entry, after) = after.split_at_checked(size.unsigned_abs() as usize)?;
        // A negative size is a hole that an entry left.
        if size > 0 && keys.len() < MAX_KEYS {
            keys.extend(entry_key(entry)?);
        }
        rest = after;
    }
    Some(keys)
}

/// The key of an entry; `Some(None)` if it is of another type.
fn entry_key(entry: &[u8]) -> Option<Option<Key>> {
    let mut rest = entry;
    let components = take_u16(&mut rest)?;
    // The realm, then the components of the name.
    for _ in 0..=components {
        let length = take_u16(&mut rest)?;
        rest = rest.split_at_checked(usize::from(length))?.1;
    }
    // Type of the name, time, number of the key in 8 bits.
    rest = rest.split_at_checked(9)?.1;
    let kind = take_u16(&mut rest)?;
    let length = take_u16(&mut rest)?;
    let (key, _) = rest.split_at_checked(usize::from(length))?;
    Some(Key::new(i64::from(kind), key))
}

fn take_u16(rest: &mut &[u8]) -> Option<u16> {
    let (digits, after) = rest.split_first_chunk::<2>()?;
    *rest = after;
    Some(u16::from_be_bytes(*digits))
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "sizes of small test data")]
pub(super) fn entry(kind: u16, key: &[u8]) -> Vec<u8> {
    let mut entry = vec![0, 2];
    for text in [&b"EXAMPLE.ORG"[..], b"HTTP", b"server.example.org"] {
        entry.extend_from_slice(&(text.len() as u16).to_be_bytes());
        entry.extend_from_slice(text);
    }
    entry.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 3]);
    entry.extend_from_slice(&kind.to_be_bytes());
    entry.extend_from_slice(&(key.len() as u16).to_be_bytes());
    entry.extend_from_slice(key);
    [&(entry.len() as i32).to_be_bytes()[..], &entry].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usable_keys_are_read_and_holes_and_other_types_passed_over() {
        let hole = [&(-3_i32).to_be_bytes()[..], &[9, 9, 9]].concat();
        let bytes =
            [vec![5, 2], entry(23, &[1; 16]), hole, entry(18, &[2; 32]), entry(17, &[3; 16])].concat();
        let kinds: Vec<_> = parse(&bytes).unwrap().iter().map(Key::kind).collect();
        assert_eq!(kinds, [18, 17]);
    }

    #[test]
    fn what_is_no_keytab_or_cut_off_is_refused() {
        let bytes = [vec![5, 2], entry(18, &[2; 32])].concat();
        for length in 0..bytes.len() {
            assert!(parse(&bytes[..length]).is_none_or(|keys| keys.is_empty()), "{length}");
        }
        assert!(parse(b"nonsense").is_none());
        assert!(parse(&[5, 2, 0x7f, 0xff, 0xff, 0xff, 0]).is_none());
    }

    #[test]
    fn a_keytab_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keytab");
        std::fs::write(&path, [vec![5, 2], entry(18, &[2; 32])].concat()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Keytab::read(&path).unwrap_err().reason.contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Keytab::read(&path).unwrap().keys(18).count(), 1);
    }
}
