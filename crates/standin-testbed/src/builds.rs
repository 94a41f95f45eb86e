//! Builds of standin: the one under test, and the release before.

use crate::guest::target_dir;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::PathBuf;

/// The binary under test: `$STANDIN_BIN`, else the one built beside this program.
///
/// # Errors
/// When there is none; the sentence says how to build it.
pub fn find_binary() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("STANDIN_BIN") {
        return Ok(given.into());
    }
    let here = std::env::current_exe().context("find this program")?;
    // target/debug/x, target/debug/deps/x-123, target/debug/examples/x
    let found = here.ancestors().skip(1).take(2).map(|dir| dir.join("standin")).find(|path| path.is_file());
    found.context("no standin binary beside this program: run `cargo build -p standin`, or set STANDIN_BIN")
}

/// The binary of the release before: `$STANDIN_BEFORE`, else what `make before` built. `None`, with a word on standard
/// error, where this machine's Rust cannot build it.
///
/// # Errors
/// When it was not built yet; the sentence says how.
pub fn find_release_before() -> Result<Option<PathBuf>> {
    if let Some(given) = std::env::var_os("STANDIN_BEFORE") {
        return Ok(Some(given.into()));
    }
    let dir = target_dir().join("before");
    if let Ok(reason) = fs::read_to_string(dir.join("why-not")) {
        eprintln!("skipped: {}", reason.trim());
        return Ok(None);
    }
    let found = dir.join("standin");
    ensure!(found.is_file(), "there is no {}: run `make before`, or set STANDIN_BEFORE", found.display());
    Ok(Some(found))
}
