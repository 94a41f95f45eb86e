//! The log of the daemon: human on a terminal, plain lines with level and time elsewhere (a journal, a file).
//! The filter is `$STANDIN_LOG`, else the configured level. The clients do not log; they print.
//!
//! Nothing here can keep a secret out of a line: the rule is that tokens, keys and definitions are never passed
//! to a `tracing` macro.

use crate::config::{Config, LogFormat};
use anyhow::{Context, Result};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::FormatTime;

/// The environment variable that overrides the configured filter.
pub const FILTER_VARIABLE: &str = "STANDIN_LOG";

/// Starts logging to the standard error output, for the life of the process.
///
/// # Errors
/// When the filter makes no sense: says which, and the forms that do.
pub fn init(config: &Config) -> Result<()> {
    let filter = filter(config, std::env::var(FILTER_VARIABLE).ok().as_deref())?;
    let terminal = std::io::stderr().is_terminal();
    let human = match config.log_format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Plain => false,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let colours = human && terminal && crate::output::colour_wanted();
    let outcome = if human {
        builder.with_ansi(colours).with_target(false).with_timer(LocalTime).try_init()
    } else {
        builder.with_ansi(false).with_timer(UtcTime).try_init()
    };
    outcome.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))
}

fn filter(config: &Config, variable: Option<&str>) -> Result<EnvFilter> {
    let (text, place) = match variable.filter(|text| !text.is_empty()) {
        Some(text) => (text, format!("${FILTER_VARIABLE}")),
        None => (config.log_level.as_str(), "log.level in the configuration".to_owned()),
    };
    EnvFilter::try_new(text).with_context(|| {
        format!("{place} is {text:?}, which is no log filter; use error, warn, info, debug or trace, or as in \"info,standin_wire=debug\"")
    })
}

/// `14:05:09.123` in local time.
struct LocalTime;

impl FormatTime for LocalTime {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        write!(w, "{}", jiff::Zoned::now().strftime("%H:%M:%S%.3f"))
    }
}

/// `2026-03-01T13:05:09.123Z`.
struct UtcTime;

impl FormatTime for UtcTime {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        write!(w, "{}", jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(level: &str) -> Config {
        Config::parse(&format!("[log]\nlevel = \"{level}\""), Path::new("/x.toml")).unwrap()
    }

    #[test]
    fn the_variable_wins_over_the_configuration() {
        assert_eq!(filter(&config("info"), Some("debug")).unwrap().to_string(), "debug");
        assert_eq!(filter(&config("warn"), Some("")).unwrap().to_string(), "warn");
        assert_eq!(filter(&config("warn"), None).unwrap().to_string(), "warn");
    }

    #[test]
    fn a_filter_that_makes_no_sense_says_where_it_came_from() {
        let error = filter(&config("standin=loud"), None).expect_err("loud is no level");
        assert!(error.to_string().contains("log.level"), "{error}");
    }
}
