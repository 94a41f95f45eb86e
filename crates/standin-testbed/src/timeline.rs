//! What the demo prints: events with the time since its start, in chapters, for a reader who sees all this for
//! the first time.

use std::fmt::Display;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Prints events with their time.
#[derive(Debug)]
pub struct Timeline {
    begun: Instant,
    colour: bool,
}

impl Timeline {
    /// Begins now; with colour only where somebody looks.
    #[must_use]
    pub fn begin() -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { begun: Instant::now(), colour }
    }

    /// Time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A heading.
    pub fn chapter(&self, title: &str) {
        println!("\n{}", self.paint("1", title));
    }

    /// Something that happened now.
    pub fn event(&self, text: impl Display) {
        println!("{:7.1} s  {text}", self.elapsed().as_secs_f64());
    }

    /// Something that was checked and holds.
    pub fn proof(&self, text: impl Display) {
        println!("{:>9}  {text}", self.paint("32", "       ok"));
    }

    /// A command as somebody would type it, before it is run.
    pub fn command(&self, host: &str, line: &str) {
        println!("           {}", self.paint("36", &format!("{host}$ standin {line}")));
    }

    /// Text without a time, a line each, under the event before.
    pub fn note(&self, text: impl Display) {
        for line in text.to_string().lines() {
            println!("           {line}");
        }
    }
}
