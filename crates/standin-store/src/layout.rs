//! Names of files and directories of a replica. Nothing that came from a peer or from a manifest becomes a
//! path without passing through here or through the newtypes of the model.
//!
//! ```text
//! <location>/<vm name>-<vm uuid>/
//!     manifest.json  lock
//!     manifest-copy.json                 the same once more, written after it
//!     damage.json                        what a check found damaged and no newer layer covers yet; mostly absent
//!     disks/<disk>/000000000007.qcow2    layer of epoch 7, backed by the one before by relative name
//!                  000000000007.digests  digests of what the layer holds
//!                  *.part                not sealed yet; .progress says how far a first copy came
//!     digests/<disk>.tree                newest digest of every granule, with the levels above
//!     config/000000000007/               the VM's configuration at that epoch
//!     overlays/<id>/<disk>.qcow2         a failover or a test; <id>.part while made, <id>.gone while removed
//!     overlays/<id>/overlay.json         what the manifest says of it
//! ```

use crate::error::{Error, Result};
use jiff::Timestamp;
use standin_model::{DiskName, Epoch, VmId, VmName};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Between the name of a directory and the time at which it was moved aside.
const KEPT: &str = ".kept-";

/// The directory of one replica.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn directory_name(name: &VmName, vm: VmId) -> String {
        format!("{name}-{vm}")
    }

    /// The VM of a directory name of the form above.
    pub(crate) fn parse_directory(name: &str) -> Option<VmId> {
        let start = name.len().checked_sub(36)?;
        let (head, uuid) = (name.get(..start)?, name.get(start..)?);
        let vm_name = head.strip_suffix('-')?;
        VmName::new(vm_name).ok()?;
        uuid.parse().ok()
    }

    /// The VM and its name, of the directory of a replica or of one that is kept beside it.
    pub(crate) fn parse_any(name: &str) -> Option<(VmName, VmId)> {
        let own = match name.rsplit_once(KEPT) {
            Some((own, time)) if !time.is_empty() && time.bytes().all(|b| b.is_ascii_digit()) => own,
            _ => name,
        };
        let vm = Self::parse_directory(own)?;
        Some((VmName::new(own.get(..own.len().checked_sub(37)?)?).ok()?, vm))
    }

    /// Where the directory goes when another one takes its place: a name that is free.
    pub(crate) fn kept(&self, now: Timestamp) -> PathBuf {
        let named = |second: i64| {
            let mut name = self.root.as_os_str().to_owned();
            name.push(format!("{KEPT}{second}"));
            PathBuf::from(name)
        };
        let mut second = now.as_second();
        while named(second).exists() {
            second += 1;
        }
        named(second)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.root.join("manifest.json")
    }

    pub(crate) fn manifest_copy(&self) -> PathBuf {
        self.root.join("manifest-copy.json")
    }

    pub(crate) fn damage(&self) -> PathBuf {
        self.root.join("damage.json")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn disk_dir(&self, disk: &DiskName) -> PathBuf {
        self.root.join("disks").join(disk.as_str())
    }

    pub(crate) fn layer(&self, disk: &DiskName, epoch: Epoch) -> PathBuf {
        self.disk_dir(disk).join(layer_name(epoch))
    }

    pub(crate) fn sidecar(&self, disk: &DiskName, epoch: Epoch) -> PathBuf {
        self.disk_dir(disk).join(format!("{:012}.digests", epoch.0))
    }

    pub(crate) fn progress(&self, disk: &DiskName, epoch: Epoch) -> PathBuf {
        self.disk_dir(disk).join(format!("{:012}.progress", epoch.0))
    }

    pub(crate) fn tree(&self, disk: &DiskName) -> PathBuf {
        self.root.join("digests").join(format!("{disk}.tree"))
    }

    pub(crate) fn config_dir(&self, epoch: Epoch) -> PathBuf {
        self.root.join("config").join(format!("{:012}", epoch.0))
    }

    pub(crate) fn overlays(&self) -> PathBuf {
        self.root.join("overlays")
    }

    pub(crate) fn overlay_dir(&self, id: &str) -> PathBuf {
        self.overlays().join(id)
    }
}

/// The file name of a layer.
pub(crate) fn layer_name(epoch: Epoch) -> String {
    format!("{:012}.qcow2", epoch.0)
}

/// `path` with `.part` appended: a file that is not sealed yet.
pub(crate) fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// What a file in a disk's directory is, by its name; `None` for a foreign one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskFile {
    pub(crate) epoch: Epoch,
    pub(crate) kind: DiskFileKind,
    /// `.part`: not sealed.
    pub(crate) part: bool,
}

/// Which of an epoch's files it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskFileKind {
    Layer,
    Digests,
    Progress,
}

impl DiskFile {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (digits, rest) = name.split_once('.')?;
        if digits.len() < 12 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let epoch = Epoch(digits.parse().ok()?);
        let (kind, part) = match rest {
            "qcow2" => (DiskFileKind::Layer, false),
            "qcow2.part" => (DiskFileKind::Layer, true),
            "digests" => (DiskFileKind::Digests, false),
            "digests.part" | "digests.part.sorted" => (DiskFileKind::Digests, true),
            "progress" => (DiskFileKind::Progress, false),
            // The second one is of builds before.
            "progress.part" | "progress.tmp" => (DiskFileKind::Progress, true),
            _ => return None,
        };
        Some(Self { epoch, kind, part })
    }
}

/// The sealed files of a disk's directory, by their names.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pub(crate) layers: BTreeSet<Epoch>,
    pub(crate) digests: BTreeSet<Epoch>,
    /// Merged digests that have not got their name yet.
    pub(crate) merged: BTreeSet<Epoch>,
}

impl Inventory {
    /// What is in a directory; nothing where there is none.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let mut found = Self::default();
        let list = match std::fs::read_dir(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
            list => list.map_err(|error| Error::io("list", directory, error))?,
        };
        for entry in list {
            let name = entry.map_err(|error| Error::io("list", directory, error))?.file_name();
            let Some(file) = name.to_str().and_then(DiskFile::parse) else { continue };
            match (file.kind, file.part) {
                (DiskFileKind::Layer, false) => found.layers.insert(file.epoch),
                (DiskFileKind::Digests, false) => found.digests.insert(file.epoch),
                (DiskFileKind::Digests, true) => found.merged.insert(file.epoch),
                _ => false,
            };
        }
        Ok(found)
    }

    /// Layers that have both files.
    pub(crate) fn sealed(&self) -> BTreeSet<Epoch> {
        self.layers.intersection(&self.digests).copied().collect()
    }
}

/// Checks the name of a configuration file or an overlay: one path component, no surprise.
///
/// # Errors
/// [`Error::Invalid`] with the rule.
pub(crate) fn check_component(what: &str, name: &str) -> Result<()> {
    let reserved = name.ends_with(".part") || name.ends_with(".gone") || name.ends_with(".tmp");
    // The rule for disks is the rule for every name that becomes a path.
    if DiskName::new(name).is_err() || reserved {
        let shown: String = name.chars().take(64).collect();
        return Err(Error::Invalid(format!(
            "the {what} name {shown:?} cannot be used: 1 to 64 letters, digits, '-', '_' or '.', beginning with \
             a letter or digit and not ending in .part, .gone or .tmp"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_directory_names_are_taken() {
        let vm = VmId::random();
        assert_eq!(Layout::parse_directory(&format!("web-1-{vm}")), Some(vm));
        let name = VmName::new("web-1").ok();
        for known in [format!("web-1-{vm}"), format!("web-1-{vm}.kept-17")] {
            assert_eq!(Layout::parse_any(&known), name.clone().map(|name| (name, vm)), "{known}");
        }
        for foreign in [format!("web-1-{vm}.kept-"), format!("web-1-{vm}.kept-x"), format!("{vm}.kept-1")] {
            assert_eq!(Layout::parse_any(&foreign), None, "{foreign}");
        }
        for bad in [format!("{vm}"), format!("-{vm}"), "lost+found".into(), format!("../x-{vm}")] {
            assert_eq!(Layout::parse_directory(&bad), None, "{bad}");
        }
    }

    #[test]
    fn only_our_own_disk_files_are_taken() {
        let file = DiskFile::parse("000000000007.qcow2.part").expect("ours");
        assert_eq!(file, DiskFile { epoch: Epoch(7), kind: DiskFileKind::Layer, part: true });
        for foreign in
            ["7.qcow2", "000000000007.raw", "notes.txt", "00000000000a.qcow2", "+00000000007.qcow2"]
        {
            assert_eq!(DiskFile::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn names_of_files_and_overlays_that_could_escape_are_refused() {
        for bad in ["", "..", "a/b", ".x", "x.part", &"x".repeat(300), "a b", "a\0"] {
            assert!(check_component("configuration file", bad).is_err(), "{bad:?}");
        }
        assert!(check_component("overlay", "test-1").is_ok());
    }
}
