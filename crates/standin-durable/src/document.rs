//! A document: one value in one file, checksummed and versioned. [`crate::envelope`] draws the file.
//!
//! Who a host is, made once and only read from then on:
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use standin_durable::{Content, Document, Files};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! struct HostIdentity {
//!     id: String,
//! }
//!
//! impl Content for HostIdentity {
//!     const KIND: &'static str = "host-id";
//!     const VERSION: u32 = 1;
//!     const IF_LOST: &'static str = "restore it from a backup of the data directory";
//! }
//!
//! # let directory = tempfile::tempdir()?;
//! # let data_dir = directory.path();
//! let document = Document::open(Files::default(), data_dir.join("host-id"))?;
//! let made = document.read_or_create(|| HostIdentity { id: "7f0e2c51".into() })?;
//! // Every later start finds the same one.
//! let found = document.read_or_create(|| HostIdentity { id: "another".into() })?;
//! assert_eq!(found, made);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Versions
//!
//! A build writes [`Content::VERSION`] and reads every version from 1 on: [`Content::UPGRADES`] has one function for
//! each step between two. What was read from an older version is written as the newest by the next write, and not
//! before. A newer version is refused. A format that had no envelope once says so with [`Content::WITHOUT_ENVELOPE`].

use crate::envelope::{self, Opened};
use crate::files::{FileError, Files, Mode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs::File;
use std::io::{self, Read as _};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

/// Makes the body of one version into that of the next. The error says what cannot be taken over.
pub type Upgrade = fn(Value) -> Result<Value, String>;

/// What a document holds.
pub trait Content: Serialize + DeserializeOwned {
    /// The kind of document, in the envelope: a file of another kind is refused. Never changed.
    const KIND: &'static str;
    /// The schema version that this build writes, from 1.
    const VERSION: u32;
    /// What to do when the file is lost or cannot be used, as in "move it aside, or IF_LOST".
    const IF_LOST: &'static str;
    /// Largest file, in bytes.
    const LIMIT: u64 = 1 << 20;
    /// Who may read it.
    const MODE: Mode = Mode::Owner;
    /// `UPGRADES[n]` makes version `n + 1` into `n + 2`; one for each version before [`Content::VERSION`].
    const UPGRADES: &'static [Upgrade] = &[];
    /// Makes what builds wrote before there was an envelope into version 1. `None` where there was no such build.
    const WITHOUT_ENVELOPE: Option<Upgrade> = None;
}

/// Why a document could not be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not what was written to it.
    #[error("{} is damaged: {reason}; {remedy}", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What was found.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The file is something else.
    #[error("{} is no {kind} of standin: {reason}; move it elsewhere, and if it was one, {remedy}", .path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// What it should be.
        kind: &'static str,
        /// What it is, as far as that can be told.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A newer standin wrote it.
    #[error(
        "{} has version {found} of its format and this standin knows versions up to {known}; \
         start the newer standin that wrote it",
        .path.display()
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// The file's version.
        found: u32,
        /// Newest version known here.
        known: u32,
    },
    /// There is one already.
    #[error("{} is there already", .path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// The value cannot be a document.
    #[error("what is to be written to {} cannot be: {reason}", .path.display())]
    Unwritable {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// An earlier change was made but perhaps not durably.
    #[error(
        "an earlier error left it unknown whether {} would survive a loss of power; check the disk and restart the \
         daemon",
        .path.display()
    )]
    Poisoned {
        /// The file or directory.
        path: PathBuf,
    },
    /// A name that cannot be a document's.
    #[error("{shown:?} cannot be the name of a document: 1 to 128 letters, digits, `-` and `_`")]
    Name {
        /// The name, cut to 64 characters.
        shown: String,
    },
}

/// One document. After an error that leaves unknown whether a change is durable it answers nothing more: opening it
/// anew finds out.
#[derive(Debug)]
pub struct Document<T> {
    files: Files,
    path: PathBuf,
    poison: Poison,
    content: PhantomData<fn() -> T>,
}

impl<T: Content> Document<T> {
    /// The document at `path`, which need not exist; its directory must. What a crash left is put in order, so that
    /// what is read survives a loss of power.
    ///
    /// # Errors
    /// [`DocumentError::File`]: the directory is missing or cannot be written.
    pub fn open(files: Files, path: impl Into<PathBuf>) -> Result<Self, DocumentError> {
        let path = path.into();
        files.recover(&path)?;
        Ok(Self { files, path, poison: Poison::default(), content: PhantomData })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds; `None` when there is no file.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do.
    pub fn read(&self) -> Result<Option<T>, DocumentError> {
        self.poison.check(&self.path)?;
        read(&self.path)
    }

    /// Replaces what it holds, durably.
    ///
    /// # Errors
    /// It holds what it held before, unless the error is [`DocumentError::File`] and uncertain.
    pub fn write(&self, value: &T) -> Result<(), DocumentError> {
        self.poison.check(&self.path)?;
        self.poison.note(write(&self.files, &self.path, value))
    }

    /// Makes it. Of several that do so at once, one succeeds.
    ///
    /// # Errors
    /// [`DocumentError::Exists`] when there is one; that is durable then. The others as [`Document::write`].
    pub fn create(&self, value: &T) -> Result<(), DocumentError> {
        self.poison.check(&self.path)?;
        self.poison.note(create(&self.files, &self.path, value))
    }

    /// What it holds, after it was made with `value` where there was none. Of several that do so at once, all get
    /// the same.
    ///
    /// # Errors
    /// As [`Document::read`] and [`Document::write`].
    pub fn read_or_create(&self, value: impl FnOnce() -> T) -> Result<T, DocumentError> {
        if let Some(found) = self.read()? {
            return Ok(found);
        }
        let value = value();
        match self.create(&value) {
            Ok(()) => Ok(value),
            Err(DocumentError::Exists { path }) => {
                let gone = || FileError::new("read", path, io::Error::from(io::ErrorKind::NotFound));
                Ok(self.read()?.ok_or_else(gone)?)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes it, durably; one that is not there is no error.
    ///
    /// # Errors
    /// [`DocumentError::File`]; it is still there, unless uncertain.
    pub fn remove(&self) -> Result<(), DocumentError> {
        self.poison.check(&self.path)?;
        self.poison.note(self.files.remove(&self.path).map_err(DocumentError::from))
    }
}

/// Whether a change was made of which nobody knows whether it is durable.
#[derive(Debug, Default)]
pub(crate) struct Poison(AtomicBool);

impl Poison {
    pub(crate) fn check(&self, path: &Path) -> Result<(), DocumentError> {
        if self.0.load(Ordering::Acquire) {
            return Err(DocumentError::Poisoned { path: path.to_owned() });
        }
        Ok(())
    }

    pub(crate) fn note<T>(&self, result: Result<T, DocumentError>) -> Result<T, DocumentError> {
        if matches!(&result, Err(DocumentError::File(error)) if error.uncertain) {
            self.0.store(true, Ordering::Release);
        }
        result
    }
}

pub(crate) fn read<T: Content>(path: &Path) -> Result<Option<T>, DocumentError> {
    let Some(file) = read_limited::<T>(path)? else { return Ok(None) };
    let damaged = |reason| damaged::<T>(path, reason);
    let (version, body) = match envelope::open(T::KIND, &file) {
        Opened::Whole { version, body } => (version, body),
        Opened::Damaged(reason) => return Err(damaged(reason.to_owned())),
        Opened::OtherKind(format) => {
            return Err(foreign::<T>(path, format!("its format is {:?}", shortened(&format))));
        }
        Opened::Bare => {
            let Some(upgrade) = T::WITHOUT_ENVELOPE else {
                return Err(foreign::<T>(path, "it does not begin as one".to_owned()));
            };
            let body = serde_json::from_slice(&file).map_err(|error| damaged(error.to_string()))?;
            let body = upgrade(body).map_err(damaged)?;
            return upgraded(path, 1, body).map(Some);
        }
    };
    if version > T::VERSION {
        return Err(DocumentError::Newer { path: path.to_owned(), found: version, known: T::VERSION });
    }
    let content = if version == T::VERSION {
        serde_json::from_slice(body).map_err(|error| damaged(error.to_string()))?
    } else {
        upgraded(path, version, serde_json::from_slice(body).map_err(|error| damaged(error.to_string()))?)?
    };
    Ok(Some(content))
}

/// Takes a body of an older version through all upgrades from there.
fn upgraded<T: Content>(path: &Path, version: u32, mut body: Value) -> Result<T, DocumentError> {
    const {
        assert!(T::VERSION as usize == T::UPGRADES.len() + 1, "one upgrade function for each older version");
    }
    let damaged = |reason| damaged::<T>(path, reason);
    let done = version.checked_sub(1).ok_or_else(|| damaged("it has version 0".to_owned()))?;
    for upgrade in T::UPGRADES.iter().skip(usize::try_from(done).unwrap_or(usize::MAX)) {
        body = upgrade(body).map_err(damaged)?;
    }
    serde_json::from_value(body).map_err(|error| damaged(error.to_string()))
}

fn read_limited<T: Content>(path: &Path) -> Result<Option<Vec<u8>>, DocumentError> {
    let failed = |verb| move |error| FileError::new(verb, path, error);
    let meta = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        meta => meta.map_err(failed("inspect"))?,
    };
    if !meta.is_file() {
        return Err(foreign::<T>(path, "it is not a file".to_owned()));
    }
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed("open"))?,
    };
    let mut data = Vec::new();
    file.take(T::LIMIT.saturating_add(1)).read_to_end(&mut data).map_err(failed("read"))?;
    if data.len() as u64 > T::LIMIT {
        return Err(foreign::<T>(path, format!("it is larger than {} bytes", T::LIMIT)));
    }
    Ok(Some(data))
}

pub(crate) fn write<T: Content>(files: &Files, path: &Path, value: &T) -> Result<(), DocumentError> {
    Ok(files.replace(path, &render(path, value)?, T::MODE)?)
}

pub(crate) fn create<T: Content>(files: &Files, path: &Path, value: &T) -> Result<(), DocumentError> {
    match files.create(path, &render(path, value)?, T::MODE) {
        Err(error) if error.exists() && error.path == path => {
            Err(DocumentError::Exists { path: path.to_owned() })
        }
        made => Ok(made?),
    }
}

/// What cannot be read back is never written.
fn render<T: Content>(path: &Path, value: &T) -> Result<Vec<u8>, DocumentError> {
    let unwritable = |reason| DocumentError::Unwritable { path: path.to_owned(), reason };
    let body = serde_json::to_vec_pretty(value).map_err(|error| unwritable(error.to_string()))?;
    serde_json::from_slice::<T>(&body).map_err(|error| unwritable(error.to_string()))?;
    let file = envelope::close(T::KIND, T::VERSION, &body).map_err(|error| unwritable(error.to_string()))?;
    if file.len() as u64 > T::LIMIT {
        return Err(unwritable(format!("it would be {} bytes, and {} is the limit", file.len(), T::LIMIT)));
    }
    Ok(file)
}

fn damaged<T: Content>(path: &Path, reason: String) -> DocumentError {
    DocumentError::Damaged { path: path.to_owned(), reason, remedy: T::IF_LOST }
}

pub(crate) fn foreign<T: Content>(path: &Path, reason: String) -> DocumentError {
    DocumentError::Foreign { path: path.to_owned(), kind: T::KIND, reason, remedy: T::IF_LOST }
}

/// At most 64 characters of what came from a file or a caller.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}
