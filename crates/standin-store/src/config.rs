//! The VM's configuration at an epoch: a directory of small files. A file that did not change since the
//! newest configuration is a hard link to it, so that a kernel that travels with every point is stored once.

use crate::error::{Error, Result};
use crate::io::{Io, read_limited};
use crate::layout::{Layout, check_component, part};
use crate::manifest::{Config, ConfigEntry};
use standin_model::Epoch;
use std::collections::BTreeSet;
use std::path::Path;

/// Files in one configuration, and bytes in one file, at most.
const MAX_FILES: usize = 64;
const MAX_FILE: u64 = 1 << 30;

/// A file of the VM's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// One path component, by the rule for names: `vm.toml`, `kernel`, ...
    pub name: String,
    /// Its content.
    pub data: Vec<u8>,
}

/// Checks names and sizes before anything is written.
pub(crate) fn check(files: &[ConfigFile]) -> Result<()> {
    if files.len() > MAX_FILES {
        return Err(Error::invalid(format!(
            "a configuration of {} files; {MAX_FILES} are possible",
            files.len()
        )));
    }
    let names: BTreeSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
    if names.len() != files.len() {
        return Err(Error::invalid("a configuration with two files of one name"));
    }
    for file in files {
        check_component("configuration file", &file.name)?;
        if file.data.len() as u64 > MAX_FILE {
            return Err(Error::invalid(format!("the configuration file {} is larger than 1 GiB", file.name)));
        }
    }
    Ok(())
}

/// What the configuration of an epoch will be; `None` when nothing differs from `last`.
pub(crate) fn plan(epoch: Epoch, files: &[ConfigFile], last: Option<&Config>) -> Option<Config> {
    let mut entries: Vec<ConfigEntry> = files.iter().map(entry).collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let same = files.is_empty() || last.is_some_and(|last| last.files == entries);
    (!same).then_some(Config { epoch, files: entries })
}

/// Writes the directory of a planned configuration, durably.
pub(crate) fn write(
    io: &Io,
    layout: &Layout,
    planned: &Config,
    files: &[ConfigFile],
    last: Option<&Config>,
) -> Result<()> {
    let target = layout.config_dir(planned.epoch);
    let staged = part(&target);
    io.remove_tree(&staged)?;
    io.create_dir(&staged)?;
    for entry in &planned.files {
        let path = staged.join(&entry.name);
        match last.filter(|last| last.files.contains(entry)) {
            Some(last) => io.hard_link(&layout.config_dir(last.epoch).join(&entry.name), &path)?,
            None => {
                let handle = io.create(&path)?;
                let data = files.iter().find(|file| file.name == entry.name).map(|file| file.data.as_slice());
                handle.write_at(data.unwrap_or_default(), 0)?;
                handle.sync()?;
            }
        }
    }
    io.sync_dir(&staged)?;
    // Left by a seal that ended before its manifest.
    io.remove_tree(&target)?;
    io.rename(&staged, &target)?;
    io.sync_dir(&layout.root().join("config"))
}

/// The files of a directory of a configuration.
pub(crate) fn read(directory: &Path) -> Result<Vec<ConfigFile>> {
    let listed = std::fs::read_dir(directory).map_err(|source| Error::io("read", directory, source))?;
    let mut files = Vec::new();
    for file in listed {
        let file = file.map_err(|source| Error::io("read", directory, source))?;
        let Ok(name) = file.file_name().into_string() else { continue };
        files.push(ConfigFile { name, data: read_limited(&file.path(), MAX_FILE)? });
    }
    Ok(files)
}

fn entry(file: &ConfigFile) -> ConfigEntry {
    let digest = blake3::hash(&file.data).to_hex().to_string();
    ConfigEntry { name: file.name.clone(), size: file.data.len() as u64, digest }
}

/// What differs between a directory and what the manifest says about it.
pub(crate) fn verify(directory: &Path, config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    for file in &config.files {
        let path = directory.join(&file.name);
        match read_limited(&path, MAX_FILE) {
            Ok(data) if blake3::hash(&data).to_hex().as_str() == file.digest => {}
            Ok(_) => problems.push(format!("{} does not match its digest", path.display())),
            Err(error) => problems.push(format!("{error}")),
        }
    }
    problems
}
