//! Every name that standin gives to something in QEMU, in one place, so that what an earlier process left
//! behind is recognised and nothing of anybody else's ever is.
//!
//! | Thing | Name |
//! | --- | --- |
//! | recording bitmap (a mark) | `standin:<tracker>:<epoch>.<pass>` |
//! | frozen bitmap | `standin-<tracker>-tmp` |
//! | scratch node, filter, snapshot node, export, job of disk n | `standin-<tracker>-{s,f,a,e,j}<n>` |
//! | scratch file of disk n | `standin-<tracker>-<id of the VM, 32 digits>-<n>.scratch` |
//! | an owned VM's nodes of a disk: format, file, served backing | `disk-<disk>`, `file-<disk>`, `backing-<disk>` |

use crate::error::Error;
use crate::seam::{Mark, Tracker};
use standin_model::{DiskName, Epoch, VmId};
use uuid::Uuid;

/// Beginning of every mark's name.
const MARKS: &str = "standin:";
/// QEMU's limit of a node's name, in bytes.
const MAX_NODE: usize = 31;
/// Bytes of the hash, as text, at the end of a name that was too long.
const HASH: usize = 12;

/// The names that belong to one tracker.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// Beginning of every node, job, export and frozen bitmap.
    prefix: String,
    /// Beginning of every mark.
    marks: String,
}

impl Names {
    /// The names of `tracker`, if it is well formed.
    pub fn new(tracker: &Tracker) -> Result<Self, Error> {
        let text = &tracker.0;
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if text.is_empty() || text.len() > 16 || !text.chars().all(good) {
            return Err(Error::Internal(format!(
                "the tracker {text:?} has to be 1 to 16 lower-case letters and digits"
            )));
        }
        Ok(Self { prefix: format!("standin-{text}-"), marks: format!("{MARKS}{text}:") })
    }

    /// What `kind` is called for the disk with this index in the request.
    pub fn item(&self, kind: Kind, index: usize) -> String {
        format!("{}{}{index}", self.prefix, kind.letter())
    }

    /// The frozen copy of a mark. It is per node, so one name does for all disks.
    pub fn frozen(&self) -> String {
        format!("{}tmp", self.prefix)
    }

    /// The bitmap of a mark.
    pub fn mark(&self, mark: Mark) -> String {
        format!("{}{}.{}", self.marks, mark.epoch, mark.pass)
    }

    /// The mark of a bitmap, if it is one of this tracker's.
    pub fn parse_mark(&self, bitmap: &str) -> Option<Mark> {
        let (epoch, pass) = bitmap.strip_prefix(&self.marks)?.split_once('.')?;
        Some(Mark { epoch: Epoch(epoch.parse().ok()?), pass: pass.parse().ok()? })
    }

    /// Whether a bitmap is a mark, of whatever tracker.
    pub fn is_mark(bitmap: &str) -> bool {
        let rest = bitmap.strip_prefix(MARKS).and_then(|rest| rest.split_once(':'));
        rest.is_some_and(|(tracker, mark)| !tracker.is_empty() && mark.contains('.'))
    }

    /// Whether a node, job, export or frozen bitmap is one of this tracker's.
    pub fn owns(&self, name: &str) -> bool {
        name.starts_with(&self.prefix)
    }

    /// Whether a name of this tracker's is of that kind.
    pub fn is(&self, kind: Kind, name: &str) -> bool {
        name.strip_prefix(&self.prefix).is_some_and(|rest| rest.starts_with(kind.letter()))
    }

    /// The scratch file of a disk.
    pub fn scratch_file(&self, vm: VmId, index: usize) -> String {
        format!("{}{index}.scratch", self.scratch_prefix(vm))
    }

    /// How this tracker's scratch files of a VM begin.
    pub fn scratch_prefix(&self, vm: VmId) -> String {
        format!("{}{}-", self.prefix, vm.0.simple())
    }

    /// How those began that the release before made: a cut that it left open is cleaned up by this one.
    pub fn former_scratch_prefix(&self, vm: VmId) -> String {
        format!("{}{}-", self.prefix, short(vm))
    }
}

/// What a view makes of each disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The node over the scratch file.
    Scratch,
    /// The copy-before-write filter.
    Filter,
    /// The snapshot-access node.
    Access,
    /// The NBD export.
    Export,
    /// The backup job.
    Job,
}

impl Kind {
    fn letter(self) -> char {
        match self {
            Self::Scratch => 's',
            Self::Filter => 'f',
            Self::Access => 'a',
            Self::Export => 'e',
            Self::Job => 'j',
        }
    }
}

/// The first 12 digits of a VM's identity, for logs and for what the release before named by them. No name of a
/// thing that is made now: two identities can begin alike.
pub(crate) fn short(vm: VmId) -> String {
    let mut text = vm.0.simple().to_string();
    text.truncate(12);
    text
}

/// The node of an owned VM's disk in its format: what the guest's device sits on.
pub(crate) fn disk_node(disk: &DiskName) -> String {
    node("disk", disk.as_str())
}

/// The node of the served backing of an owned VM's disk.
pub(crate) fn backing_node(disk: &DiskName) -> String {
    node("backing", disk.as_str())
}

/// The node of an owned VM's image file.
pub(crate) fn file_node(disk: &DiskName) -> String {
    node("file", disk.as_str())
}

/// The device of an owned VM's disk.
pub(crate) fn disk_device(disk: &DiskName) -> String {
    format!("dev-{disk}")
}

fn node(kind: &str, name: &str) -> String {
    let plain = format!("{kind}-{name}");
    if plain.len() <= MAX_NODE {
        return plain;
    }
    let mut hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).simple().to_string();
    hash.truncate(HASH);
    let kept: String = plain.chars().take(MAX_NODE - HASH - 1).collect();
    format!("{kept}_{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new(&Tracker("a1b2".into())).expect("a tracker")
    }

    #[test]
    fn a_mark_is_found_again_by_its_bitmap() {
        let mark = Mark { epoch: Epoch(17), pass: 1 };
        assert_eq!(names().parse_mark(&names().mark(mark)), Some(mark));
    }

    #[test]
    fn what_belongs_to_another_tracker_is_not_ours() {
        for bitmap in
            ["standin:a1b:1.0", "standin:a1b22:1.0", "bitmap0", "standin:a1b2:1", "standin:a1b2:x.0"]
        {
            assert_eq!(names().parse_mark(bitmap), None, "{bitmap}");
        }
        assert!(!names().owns("standin-a1b22-f0"));
        assert!(names().owns("standin-a1b2-f0"));
    }

    #[test]
    fn a_tracker_that_could_break_a_name_is_refused() {
        for bad in ["", "A", "a-b", "a:b", "abcdefghijklmnopq"] {
            assert!(Names::new(&Tracker(bad.into())).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn scratch_files_of_identities_that_begin_alike_are_told_apart() {
        let one: VmId = "6f2c1f0e-0000-4000-8000-000000000001".parse().expect("an id");
        let other: VmId = "6f2c1f0e-0000-4000-8000-000000000002".parse().expect("an id");
        assert!(names().scratch_file(one, 0).starts_with(&names().scratch_prefix(one)));
        assert!(!names().scratch_file(one, 0).starts_with(&names().scratch_prefix(other)));
        assert!(!names().scratch_file(one, 0).starts_with(&names().former_scratch_prefix(one)));
    }

    #[test]
    fn node_names_fit_and_stay_apart() {
        let disk = |text: String| DiskName::new(text).expect("a name");
        assert_eq!(disk_node(&disk("root".into())), "disk-root");
        let (one, two) = (disk("x".repeat(63) + "1"), disk("x".repeat(63) + "2"));
        assert_eq!(disk_node(&one).len(), MAX_NODE);
        assert_ne!(disk_node(&one), disk_node(&two));
        let longest = Names::new(&Tracker("abcdefghijklmnop".into())).expect("a tracker");
        assert!(longest.item(Kind::Filter, 199).len() <= MAX_NODE);
    }
}
