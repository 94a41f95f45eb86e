//! The whole story of a replicated VM, as people's scripts tell it.

use super::{
    PASSWORD, authority, client, managed, managed_by_plan, python_with_clients, user_certificate, well,
};
use crate::rig::{PATIENCE, Rig, text};
use standin_testbed::daemon::Daemon;
use standin_testbed::guest::{SerialLog, checkout};

/// The scripts rehearse a failover beside a primary that goes on: the management API has no word for consent, so the
/// host says in its configuration that a running primary's VM is to be paused.
fn rehearsing() -> Rig {
    managed_by_plan("", |_, b| b.extra_config.push_str("\n[fence]\nstart_over_running_primary = \"pause\"\n"))
}

#[test]
fn the_whole_story_is_told_by_the_example_of_pywbem() {
    let rig = rehearsing();
    let guest = rig.boot("web-1", 100);
    let url = |daemon: &Daemon| format!("https://{}:5989", daemon.listen().ip());
    let mut command = python_with_clients();
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
    let rig = rehearsing();
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

#[test]
fn the_whole_story_is_told_by_pypsrp_with_a_client_certificate() {
    wsman_story("certificate", |rig| {
        let files = user_certificate(rig, "carol", "administrator");
        files.iter().map(|file| text(file).to_owned()).collect()
    });
}

/// There is no PowerShell to run the example with: its requests are made as Windows makes them, in its order, and the
/// script is read to know that they are its own.
#[test]
fn the_whole_story_is_told_by_the_requests_of_the_example_of_powershell() {
    let rig = rehearsing();
    let guest = rig.boot("web-1", 100);
    let script = checkout().join("examples/powershell/Invoke-FailoverStory.ps1");
    let story = well(&client(&rig, "powershell_story.py", &[text(&script), "web-1"]));
    assert!(story.contains("recovery points") && story.ends_with("the story is told\n"), "{story}");
    let there = SerialLog::new(rig.b.dir().join("data/log/web-1-serial.log"));
    let (records, _) = there.wait_verified(0, PATIENCE).unwrap();
    assert!(records > 0 && guest.serial.faults().is_empty());
}

#[test]
fn the_example_of_powershell_can_be_parsed_and_names_only_what_there_is() {
    let script = checkout().join("examples/powershell/Invoke-FailoverStory.ps1");
    let said = well(&client(&managed(), "powershell_story.py", &[text(&script)]));
    assert!(said.ends_with("the script is checked\n"), "{said}");
}
