//! A model of a disk that loses power.
//!
//! It is told every call. From then on it can say in which states the files can be found if the power fails after any
//! of them, by the least that a file system promises:
//! * what was written to a file since its last fsync is there, partly there, zeros, or not there at all;
//! * of the changes of names since the last fsync of their directory each has happened or not, in any combination;
//! * everything else is as it was.

use standin_durable::faults::{Faults, Step, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Contents by file name.
pub type State = BTreeMap<String, Vec<u8>>;

/// A change of names: which file a name is of from then on, or none.
type Change = Vec<(String, Option<usize>)>;

#[derive(Debug, Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    synced: bool,
}

#[derive(Debug, Clone, Default)]
struct Disk {
    contents: Vec<Content>,
    /// As processes see them.
    names: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<Change>,
}

/// Writes down the state after every call on one directory.
#[derive(Debug)]
pub struct Recorder {
    directory: PathBuf,
    disks: Mutex<Vec<Disk>>,
}

impl Recorder {
    /// Begins with what is in `directory`, all of it durable.
    pub fn of(directory: &Path) -> Self {
        let mut disk = Disk::default();
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let entry = entry.expect("an entry");
            let data = std::fs::read(entry.path()).expect("a file");
            disk.names.insert(name_of(&entry.path()), disk.contents.len());
            disk.contents.push(Content { now: data.clone(), durable: data, synced: true });
        }
        disk.durable = disk.names.clone();
        Self { directory: directory.to_owned(), disks: Mutex::new(vec![disk]) }
    }

    /// The states in which the directory can be found: for each number of calls that were made, all that are
    /// possible if the power fails then.
    pub fn states(&self) -> Vec<BTreeSet<State>> {
        self.disks.lock().expect("no panic").iter().map(Disk::states).collect()
    }
}

impl Faults for Recorder {
    fn before(&self, _step: &Step<'_>) -> Verdict {
        Verdict::Go
    }

    fn after(&self, step: &Step<'_>) {
        let mut disks = self.disks.lock().expect("no panic");
        let mut disk = disks.last().expect("the first one").clone();
        disk.take(step, &self.directory);
        disks.push(disk);
    }
}

impl Disk {
    fn take(&mut self, step: &Step<'_>, directory: &Path) {
        match *step {
            Step::Create(path) => {
                self.contents.push(Content::default());
                self.change(vec![(name_of(path), Some(self.contents.len() - 1))]);
            }
            Step::Write { path, data } => {
                let content = self.content(path);
                content.now.extend_from_slice(data);
                content.synced = false;
            }
            Step::Sync(path) => {
                let content = self.content(path);
                content.durable = content.now.clone();
                content.synced = true;
            }
            Step::Rename { from, to } => {
                let file = self.names[&name_of(from)];
                self.change(vec![(name_of(from), None), (name_of(to), Some(file))]);
            }
            Step::Link { from, to } => {
                let file = self.names[&name_of(from)];
                self.change(vec![(name_of(to), Some(file))]);
            }
            Step::Remove(path) => self.change(vec![(name_of(path), None)]),
            Step::SyncDirectory(path) => {
                assert_eq!(path, directory, "another directory was synced");
                self.durable = self.names.clone();
                self.pending.clear();
            }
            other => panic!("a call that this model does not know: {}", other.name()),
        }
    }

    fn content(&mut self, path: &Path) -> &mut Content {
        &mut self.contents[self.names[&name_of(path)]]
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.pending.push(change);
    }

    fn states(&self) -> BTreeSet<State> {
        assert!(self.pending.len() < 12, "too many combinations");
        let mut found = BTreeSet::new();
        for happened in 0_u32..1 << self.pending.len() {
            let mut names = self.durable.clone();
            for (number, change) in self.pending.iter().enumerate() {
                if happened >> number & 1 == 1 {
                    apply(&mut names, change);
                }
            }
            let mut states = vec![State::new()];
            for (name, file) in names {
                let contents = self.contents[file].possible();
                states = states
                    .iter()
                    .flat_map(|state| {
                        contents.iter().map(|content| {
                            let mut state = state.clone();
                            state.insert(name.clone(), content.clone());
                            state
                        })
                    })
                    .collect();
            }
            found.extend(states);
        }
        found
    }
}

impl Content {
    fn possible(&self) -> Vec<Vec<u8>> {
        if self.synced {
            return vec![self.now.clone()];
        }
        let half = (self.durable.len() + self.now.len()) / 2;
        let mut zeros = self.durable.clone();
        zeros.resize(self.now.len(), 0);
        vec![self.durable.clone(), self.now[..half].to_vec(), zeros, self.now.clone()]
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: &Change) {
    for (name, file) in change {
        match file {
            Some(file) => names.insert(name.clone(), *file),
            None => names.remove(name),
        };
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().expect("a name").to_str().expect("text").to_owned()
}
