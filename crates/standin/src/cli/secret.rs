//! Secrets that are typed: never on the command line, where other users see them, and never shown.

use crate::exit::Failure;
use anyhow::{Context, anyhow};
use console::Term;
use std::io::BufRead;
use std::path::Path;

/// The longest line that is taken for a secret.
const MAX_LINE: u64 = 4096;

/// The first line of a text.
pub(super) fn first_line(text: impl BufRead, what: &str, place: &str) -> Result<String, Failure> {
    let mut line = String::new();
    text.take(MAX_LINE)
        .read_line(&mut line)
        .with_context(|| format!("the {what} cannot be read from {place}"))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// The first line of a file; `-` is the standard input.
pub(super) fn from_file(path: &Path, what: &str) -> Result<String, Failure> {
    if path == Path::new("-") {
        return first_line(std::io::stdin().lock(), what, "the standard input");
    }
    let place = path.display().to_string();
    let file =
        std::fs::File::open(path).with_context(|| format!("the {what} cannot be read from {place}"))?;
    first_line(std::io::BufReader::new(file), what, &place)
}

/// Asks on the terminal, `twice` for a secret that is new. `instead` says what to do where there is none.
pub(super) fn from_terminal(what: &str, prompt: &str, twice: bool, instead: &str) -> Result<String, Failure> {
    let term = Term::stderr();
    if !term.is_term() {
        return Err(Failure::Usage(format!("there is no terminal to ask for the {what} on; use {instead}")));
    }
    let ask = |prompt: &str| {
        term.write_str(prompt)
            .and_then(|()| term.read_secure_line())
            .with_context(|| format!("the {what} cannot be read"))
    };
    let secret = ask(prompt)?;
    if twice && ask("The same again: ")? != secret {
        return Err(Failure::Local(anyhow!("the two {what}s are not the same; nothing was changed")));
    }
    Ok(secret)
}
