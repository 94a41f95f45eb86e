//! The management API as its users meet it: real daemons, a real guest, and the clients that people have. The Python
//! ones are in `target/venv` (`make clients`), the others are packages that `scripts/setup` installs.

use crate::rig::{PATIENCE, Rig, text};
use standin_testbed::daemon::{Daemon, find_binary};
use standin_testbed::guest::{SerialLog, checkout};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

pub const PASSWORD: &str = "correct Horse 7";

/// Two hosts whose management API listens on their own addresses.
pub fn managed() -> Rig {
    let rig = Rig::with(|a, b| {
        for plan in [a, b] {
            let address = plan.listen.ip();
            plan.extra_config += &format!("[management]\nlisten = \"{address}\"\n");
        }
    });
    for daemon in [&rig.a, &rig.b] {
        add_user(daemon, "admin", &["--role", "administrator", "--ntlm"]);
        add_user(daemon, "looker", &["--role", "viewer"]);
    }
    rig
}

pub fn add_user(daemon: &Daemon, name: &str, options: &[&str]) {
    let mut command = Command::new(find_binary().unwrap());
    command
        .env("STANDIN_CONFIG", daemon.config_path())
        .args(["user", "add", name, "--password-stdin"])
        .args(options);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{PASSWORD}").unwrap();
    assert!(child.wait().unwrap().success());
}

/// The Python that has the clients.
pub fn python() -> PathBuf {
    let given = std::env::var_os("STANDIN_PYTHON").map(PathBuf::from);
    let python = given.unwrap_or_else(|| checkout().join("target/venv/bin/python"));
    assert!(python.is_file(), "{} is missing: run `make clients`", python.display());
    python
}

/// The authority that the hosts' certificates are of.
pub fn authority(daemon: &Daemon) -> PathBuf {
    daemon.dir().join("data/pki/trusted.crt")
}

/// The Python with the clients. What the machine's owner has set for his own requests must not decide whom these
/// trust: the library would take it before what it is told.
fn clients() -> Command {
    let mut command = Command::new(python());
    command.env_remove("REQUESTS_CA_BUNDLE").env_remove("CURL_CA_BUNDLE").env("STANDIN_PASSWORD", PASSWORD);
    command.stdin(Stdio::null());
    command
}

/// Runs one of the clients' scripts beside these tests, with the two hosts as its arguments.
pub fn client(rig: &Rig, script: &str, more: &[&str]) -> Output {
    let path = checkout().join("crates/standin-testbed/tests/clients").join(script);
    let mut command = clients();
    command.arg(path).args([rig.a.listen().ip().to_string(), rig.b.listen().ip().to_string()]);
    command.arg(authority(&rig.a)).args(more).output().unwrap()
}

/// The output of something that must have gone well.
pub fn well(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn the_whole_story_is_told_by_the_example_of_pywbem() {
    let rig = managed();
    let guest = rig.boot("web-1", 100);
    let url = |daemon: &Daemon| format!("https://{}:5989", daemon.listen().ip());
    let mut command = clients();
    command.arg(checkout().join("examples/python/failover_story.py"));
    command.args(["--vm", "web-1", "--primary", &url(&rig.a), "--replica", &url(&rig.b)]);
    command.args(["--recovery-host", &rig.b.listen().ip().to_string(), "--recovery-port", "28444"]);
    command.args(["--user", "admin", "--interval", "2", "--ca", text(&authority(&rig.a))]);
    let story = well(&command.output().unwrap());
    assert!(story.contains("recovery points") && story.contains("web-1 runs on"), "{story}");
    // What runs there is the guest, with what it had written.
    let there = SerialLog::new(rig.b.dir().join("data/log/web-1-serial.log"));
    let (records, _) = there.wait_verified(0, PATIENCE).unwrap();
    assert!(records > 0 && guest.serial.faults().is_empty());
    // Every call that changed something is in the audit log, with who and what.
    let audit = std::fs::read_to_string(rig.b.dir().join("data/audit.log")).unwrap();
    for method in ["InitiateFailover", "RevertFailover", "CommitFailover", "RequestStateChange"] {
        assert!(audit.contains(&format!("\"method\":\"{method}\"")), "{method}: {audit}");
    }
    assert!(audit.contains("\"user\":\"admin\"") && !audit.contains(PASSWORD));
}

/// The story over WS-Management, by one way to prove who one is.
fn wsman_story(way: &str, prepare: impl Fn(&Rig) -> Vec<String>) {
    let rig = managed();
    let more = prepare(&rig);
    let guest = rig.boot("web-1", 100);
    let more: Vec<&str> = [way, "web-1"].into_iter().chain(more.iter().map(String::as_str)).collect();
    let story = well(&client(&rig, "wsman_story.py", &more));
    assert!(story.contains("the story is told"), "{story}");
    assert!(guest.serial.faults().is_empty());
}

#[test]
fn the_whole_story_is_told_by_pypsrp_with_a_password_over_https() {
    wsman_story("basic", |_| Vec::new());
}

#[test]
fn the_whole_story_is_told_by_pypsrp_with_sealed_messages_over_http() {
    wsman_story("negotiate", |_| Vec::new());
}
