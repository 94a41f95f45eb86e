//! A VM never runs on two hosts, whatever was removed, restarted, restored, paused or cut off in between: with daemons,
//! their QEMUs and their command lines. After each step both hosts are looked at.
//!
//! ```text
//! returned   the primary was lost, and comes back after the failover
//! consent    failovers beside a primary that runs, or is paused
//! silent     the replica does not answer the primary
//! restored   lost databases and older backups, on either host
//! third      another host with the same VM
//! ```
//!
//! Two VMs of one name that both fail over are in [`crate::names`].

mod consent;
mod restored;
mod returned;
mod silent;
mod third;

use crate::management::{authority, python_with_clients, well};
use crate::rig::{Rig, text};
use serde_json::Value;
use standin_testbed::daemon::Daemon;
use standin_testbed::guest::{Guest, checkout};
use standin_testbed::process;
use std::path::Path;
use std::time::Duration;

const IN_USE: u32 = 32774;
const STATE: u32 = 32775;
const UNAVAILABLE: u32 = 32777;

/// As long as a guest that runs cannot be without a record.
const A_FEW_RECORDS: Duration = Duration::from_secs(3);

/// The QEMU processes of a guest below one host.
fn processes(host: &Daemon, guest: &Guest) -> usize {
    let of_guest = process::find("qemu-system", Path::new(&guest.plan.uuid.to_string()));
    host.vm_pids().into_iter().filter(|pid| of_guest.contains(pid)).count()
}

/// Both hosts have this many QEMU processes of the guest.
fn copies(rig: &Rig, guest: &Guest, expected: [usize; 2], after: &str) {
    let found = [&rig.a, &rig.b].map(|host| processes(host, guest));
    eprintln!("after {after}: QEMU processes {found:?}");
    assert_eq!(found, expected, "QEMU processes on both hosts after {after}");
}

/// Types something that must be refused because of where the VM is. It may change what this host knows: the question
/// itself can bring the news.
fn fenced(host: &Daemon, arguments: &[&str], code: u32, says: &str) {
    let output = host.cli(arguments).unwrap();
    let shown = format!("on {}: standin {arguments:?}\n{}{}", host.name(), output.stdout, output.stderr);
    eprintln!("{shown}");
    assert_eq!(output.status, 3, "{shown}");
    assert!(output.stderr.starts_with(&format!("refused ({code}): ")), "{shown}");
    assert!(output.stderr.contains(says), "{says:?} is not said: {shown}");
    assert!(output.stderr.contains("\nwhat to do: "), "{shown}");
}

/// What a host says of a VM's health, as one text.
fn worries(status: &Value) -> String {
    let issues = status["health_issues"].as_array().cloned().unwrap_or_default();
    let said = |issue: &Value| format!("{} {}", issue["message"], issue["remedy"]);
    let issues = issues.iter().map(said).chain([status["last_error"]["message"].to_string()]);
    issues.collect::<Vec<_>>().join("\n")
}

/// One call of the management API of a host, by `way`: `cimxml` or `wsman`.
fn called(host: &Daemon, way: &str, vm: &str, call: &[&str]) -> Value {
    let script = checkout().join("crates/standin-testbed/tests/clients/call_method.py");
    let mut command = python_with_clients();
    command.arg(script).args([&host.listen().ip().to_string(), text(&authority(host)), way, vm]).args(call);
    let answer = well(&command.output().unwrap());
    eprintln!("on {} by {way}: {call:?} of {vm}: {answer}", host.name());
    serde_json::from_str(&answer).unwrap()
}

/// The call did not do it: refused, or its job failed.
fn in_vain(answer: &Value, code: u32) -> bool {
    answer["code"] == code || (answer["code"] == 4096 && answer["job"] == 10)
}
