//! `make demo`: a VM is replicated, its host dies in the middle of a cycle, the other host takes over.
//!
//! Two daemons on loopback addresses, a Linux guest that writes numbered, checksummed records to two disks in
//! turn, and a third disk full of data. Everything it prints was measured or checked in this run: the last line
//! is one JSON object, and the exit status is not 0 when anything did not hold.
//!
//! The guest's CPU is emulated, whether there is KVM or not: every machine shows the same.

#![forbid(unsafe_code)]

mod proof;
mod story;

use standin_testbed::interrupt;
use std::process::ExitCode;

/// On a disk, not in memory as `/tmp` may be; and short, because unix sockets are below it.
const PLACE: &str = "/var/tmp";

fn main() -> ExitCode {
    let outcome = tempfile::Builder::new().prefix("standin-demo-").tempdir_in(PLACE);
    let outcome = outcome.map_err(anyhow::Error::from).and_then(|dir| {
        let place = dir.path().to_path_buf();
        let told = interrupt::run_until_interrupted(dir.path(), move || story::tell(&place))?;
        Ok(serde_json::to_string(&told)?)
    });
    match outcome {
        Ok(last_line) => {
            println!("{last_line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nthe demo failed: {error:#}");
            println!("{}", serde_json::json!({ "demo": "failed", "error": format!("{error:#}") }));
            ExitCode::FAILURE
        }
    }
}
