//! `standin-oracle A B [--format raw|qcow2]`: judges the two disks of a test guest and prints the verdict as
//! one JSON object. Exit status 0: consistent; 1: not; 2: it could not be told.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use standin_testbed::oracle::{Format, judge_images};
use std::process::ExitCode;

const USAGE: &str = "usage: standin-oracle DISK_A DISK_B [--format raw|qcow2]
DISK_A and DISK_B: raw or qcow2 files, or NBD URIs (nbd://host/name, nbd+unix:///name?socket=path)";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("standin-oracle: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool> {
    let mut disks = Vec::new();
    let mut format = Format::Guess;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--format" => {
                format = match arguments.next().as_deref() {
                    Some("raw") => Format::Raw,
                    Some("qcow2") => Format::Qcow2,
                    _ => bail!("--format takes raw or qcow2\n{USAGE}"),
                };
            }
            "-h" | "--help" => {
                println!("{USAGE}");
                return Ok(true);
            }
            _ => disks.push(argument),
        }
    }
    let [a, b] = &disks[..] else { bail!("two disks are needed\n{USAGE}") };
    let verdict = judge_images(a, b, format)?;
    println!("{}", serde_json::to_string(&verdict).context("print the verdict")?);
    Ok(verdict.consistent)
}
