//! A directory of documents of one kind, one a name: `<directory>/<name>.json`.
//!
//! ```text
//! claims/
//!   3f6c....json        a document
//!   3f6c....json.part   one that is being written, or that a crash left: removed when the directory is opened
//! ```
//!
//! The name is not in the file: content that must not turn up under another name says itself whose it is, and the
//! caller compares.

use crate::document::{self, Content, DocumentError, Poison, foreign, shortened};
use crate::files::{FileError, Files, Mode};
use crate::staged;
use std::ffi::OsStr;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

const EXTENSION: &str = "json";
const MAX_NAME: usize = 128;

/// A directory of documents. After an error that leaves unknown whether a change is durable it answers nothing more:
/// opening it anew finds out.
#[derive(Debug)]
pub struct Documents<T> {
    files: Files,
    directory: PathBuf,
    poison: Poison,
    content: PhantomData<fn() -> T>,
}

/// A file of the directory.
#[derive(Debug)]
pub struct Listed<T> {
    /// The document's name; the file's, whole, where it is no document.
    pub name: String,
    /// What it holds. One bad file is no reason not to know the others, so each has an error of its own.
    pub content: Result<T, DocumentError>,
}

impl<T: Content> Documents<T> {
    /// Opens the directory, which is made if it does not exist, for its owner only. What a crash left is put in
    /// order, so that what is read survives a loss of power.
    ///
    /// # Errors
    /// [`DocumentError::File`].
    pub fn open(files: Files, directory: impl Into<PathBuf>) -> Result<Self, DocumentError> {
        let directory = directory.into();
        files.make_directory(&directory, Mode::Owner)?;
        files.recover_directory(&directory)?;
        Ok(Self { files, directory, poison: Poison::default(), content: PhantomData })
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// All that is there, by name. Files that are no documents are among it, each with an error that names it.
    ///
    /// # Errors
    /// [`DocumentError::File`]: the directory cannot be listed.
    pub fn list(&self) -> Result<Vec<Listed<T>>, DocumentError> {
        self.poison.check(&self.directory)?;
        let failed = |error| FileError::new("list", &self.directory, error);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if !staged::is_part(&path) {
                found.extend(listed(&path));
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// What a document holds; `None` when there is none of that name.
    ///
    /// # Errors
    /// What is wrong with the name or the file, and what to do.
    pub fn read(&self, name: &str) -> Result<Option<T>, DocumentError> {
        document::read(&self.checked(name)?)
    }

    /// Makes or replaces a document, durably.
    ///
    /// # Errors
    /// It holds what it held before, unless the error is [`DocumentError::File`] and uncertain.
    pub fn write(&self, name: &str, value: &T) -> Result<(), DocumentError> {
        let path = self.checked(name)?;
        self.poison.note(document::write(&self.files, &path, value))
    }

    /// Makes a document. Of several that do so at once, one succeeds.
    ///
    /// # Errors
    /// [`DocumentError::Exists`] when there is one. The others as [`Documents::write`].
    pub fn create(&self, name: &str, value: &T) -> Result<(), DocumentError> {
        let path = self.checked(name)?;
        self.poison.note(document::create(&self.files, &path, value))
    }

    /// Removes a document, durably; one that is not there is no error.
    ///
    /// # Errors
    /// [`DocumentError::File`]; it is still there, unless uncertain.
    pub fn remove(&self, name: &str) -> Result<(), DocumentError> {
        let path = self.checked(name)?;
        self.poison.note(self.files.remove(&path).map_err(DocumentError::from))
    }

    fn checked(&self, name: &str) -> Result<PathBuf, DocumentError> {
        self.poison.check(&self.directory)?;
        if !is_name(name) {
            return Err(DocumentError::Name { shown: shortened(name) });
        }
        Ok(self.directory.join(format!("{name}.{EXTENSION}")))
    }
}

/// Nothing when it is gone by now.
fn listed<T: Content>(path: &Path) -> Option<Listed<T>> {
    let name = path.file_stem().and_then(OsStr::to_str).filter(|name| is_name(name));
    match name.filter(|_| path.extension() == Some(OsStr::new(EXTENSION))) {
        Some(name) => {
            let content = document::read(path).transpose()?;
            Some(Listed { name: name.to_owned(), content })
        }
        None => {
            let whole = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let reason = format!("its name is not that of one (NAME.{EXTENSION})");
            Some(Listed { name: whole, content: Err(foreign::<T>(path, reason)) })
        }
    }
}

/// One path component, whoever gave it.
fn is_name(name: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fine)
}
