//! The binary: parses the command line, runs the verb, and decides the exit status. Everything else is in the
//! library of this crate, where tests reach it.

#![forbid(unsafe_code)]

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match standin::cli::run(standin::args::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.status())
        }
    }
}
