//! The id of this host: a file in the data directory, made at the first start. It outlives the database, the name and
//! the certificate of the host, and goes with the data directory.
//!
//! Other hosts know this one by it, and so do claims on VMs. Whoever copies a data directory to make another host of it
//! removes the file there: two hosts with one id refuse each other.

use serde::{Deserialize, Serialize};
use standin_durable::{Content, Document, DocumentError, Files};
use standin_model::HostId;
use std::path::Path;

/// Its name in the data directory.
const NAME: &str = "host-id";

#[derive(Serialize, Deserialize)]
struct Identity {
    id: HostId,
}

impl Content for Identity {
    const KIND: &'static str = "host-id";
    const VERSION: u32 = 1;
    const IF_LOST: &'static str = "restore it from a backup of the data directory";
}

/// The id, made durably when there is none. Blocks.
///
/// # Errors
/// When the file cannot be read or written, or holds no id: the host does not start under another one by itself.
pub fn read_or_create(data_dir: &Path) -> Result<HostId, DocumentError> {
    let document = Document::open(Files::default(), data_dir.join(NAME))?;
    let identity = document.read_or_create(|| Identity { id: HostId::random() })?;
    Ok(identity.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_keeps_the_id_of_its_first_start() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let id = read_or_create(dir.path()).unwrap();
        assert_eq!(read_or_create(dir.path()).unwrap(), id);
        assert_ne!(read_or_create(other.path()).unwrap(), id);
    }

    #[test]
    fn a_file_that_holds_no_id_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        for text in ["", "host-a", "00000000"] {
            std::fs::write(&path, text).unwrap();
            let error = read_or_create(dir.path()).unwrap_err().to_string();
            assert!(error.contains("host-id"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
