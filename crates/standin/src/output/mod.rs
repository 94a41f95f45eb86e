//! What the verbs print: tables and sentences for people, exact JSON for programs, bars while a job runs.

pub mod fence;
pub mod network;
pub mod progress;
pub mod settings;
pub mod store;
pub mod table;

use crate::exit::Failure;
use anyhow::Context;
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// How to print.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// One JSON document in place of text.
    pub json: bool,
    /// Colours on the standard output.
    pub colour: bool,
    /// Bars on the standard error output.
    pub bars: bool,
    /// Somebody sits at the terminal and can be asked.
    pub asks: bool,
}

impl Style {
    /// The style of this process, by `--json`, its terminals and `$NO_COLOR`.
    #[must_use]
    pub fn detect(json: bool) -> Self {
        Self {
            json,
            colour: !json && std::io::stdout().is_terminal() && colour_wanted(),
            bars: !json && std::io::stderr().is_terminal(),
            asks: !json && std::io::stderr().is_terminal() && std::io::stdin().is_terminal(),
        }
    }

    /// Prints `value` as JSON, or as `text` makes of it.
    ///
    /// # Errors
    /// When the standard output is gone.
    pub fn print<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        let mut line = if self.json { to_json(value, true)? } else { text(value) };
        if !line.ends_with('\n') {
            line.push('\n');
        }
        write(&line)
    }

    /// Prints `value` as one line of JSON, for streams.
    ///
    /// # Errors
    /// When the standard output is gone.
    pub fn print_line<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        let line = if self.json { to_json(value, false)? } else { text(value) };
        write(&format!("{line}\n"))
    }
}

fn to_json<T: Serialize>(value: &T, pretty: bool) -> Result<String, Failure> {
    let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    Ok(text.context("the answer cannot be written as JSON")?)
}

/// Writes to the standard output. A reader that went away (`standin jobs | head`) ends the verb quietly.
fn write(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("the standard output cannot be written").into())
        }
        _ => Ok(()),
    }
}

/// Whether the user wants colours, as <https://no-color.org> says.
#[must_use]
pub fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
