//! What is refused on one host: each with its code, a sentence that names the thing, a remedy, and nothing
//! changed.

use crate::rig::{self, PATIENCE, Rig, facts, refused, status, text, wait_state};
use standin_testbed::daemon::{Daemon, complaints};
use standin_testbed::guest::GuestPlan;
use standin_testbed::hosts::SmallFs;
use standin_testbed::process;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const INVALID: u32 = 32773;
const IN_USE: u32 = 32774;
const STATE: u32 = 32775;
const NOT_FOUND: u32 = 32779;

#[test]
fn what_is_unknown_or_replicates_already_is_refused() {
    let rig = Rig::new();
    let guest = rig.boot("writer", 20);
    rig.replicate("writer", "1h");
    let to = rig.to();
    for verb in [
        &["status", "ghost"][..],
        &["points", "ghost"],
        &["suspend", "ghost"],
        &["resume", "ghost"],
        &["point", "ghost"],
        &["resync", "ghost"],
        &["unreplicate", "ghost"],
        &["failover", "ghost"],
        &["failover", "ghost", "--commit"],
        &["failover", "ghost", "--revert"],
        &["replicate", "ghost", "--to", &to],
        &["store", "check", "ghost"],
        &["vm", "show", "ghost"],
        &["vm", "start", "ghost"],
        &["vm", "stop", "ghost"],
        &["vm", "remove", "ghost"],
    ] {
        refused(&rig.a, verb, NOT_FOUND, &["ghost"]);
        refused(&rig.b, verb, NOT_FOUND, &["ghost"]);
    }
    let nobody = "01234567-89ab-4cde-8f01-23456789abcd";
    refused(&rig.a, &["status", nobody], NOT_FOUND, &[nobody]);
    refused(&rig.a, &["jobs", nobody], NOT_FOUND, &[nobody]);
    refused(&rig.a, &["jobs", "cancel", nobody], NOT_FOUND, &[nobody]);
    refused(&rig.b, &["auth", "remove", nobody], NOT_FOUND, &[nobody]);

    for point in ["99999", "0123456789ab", nobody] {
        refused(&rig.b, &["failover", "writer", "--point", point], NOT_FOUND, &[point]);
    }
    refused(&rig.a, &["replicate", "writer", "--to", &to], STATE, &["writer", "already"]);
    refused(&rig.b, &["replicate", "writer", "--to", &to], STATE, &["writer"]);
    refused(&rig.a, &["failover", "writer"], STATE, &["writer", "replica"]);
    refused(&rig.b, &["failover", "writer", "--commit"], STATE, &["state 3"]);
    refused(&rig.b, &["failover", "writer", "--revert"], STATE, &["state 3"]);
    refused(&rig.b, &["point", "writer"], STATE, &["writer", "primary"]);
    refused(&rig.a, &["vm", "start", "writer"], IN_USE, &["writer", "running"]);
    refused(&rig.a, &["vm", "remove", "writer"], IN_USE, &["writer"]);
    refused(&rig.a, &["vm", "define", text(&guest.definition)], IN_USE, &["writer"]);
    refused(&rig.b, &["vm", "define", text(&guest.definition)], IN_USE, &["writer", "replica"]);

    rig.define(GuestPlan::records("other", 20));
    refused(&rig.a, &["replicate", "other", "--to", &to, "--disks", "log-a,swap"], NOT_FOUND, &["swap"]);
    refused(&rig.a, &["point", "other"], STATE, &["other"]);
    assert!(!facts(&rig.b).to_string().contains("other"), "nothing of it reached the other host");
}

#[test]
fn settings_and_names_out_of_range_are_refused() {
    let rig = Rig::new();
    let guest = rig.define(GuestPlan::records("writer", 20));
    let to = rig.to();
    for (option, value, said) in [
        ("--interval", "0s", "interval"),
        ("--interval", "25h", "interval"),
        ("--interval", "99999999999999999999h", "99999999999999999999h"),
        ("--history", "25", "history"),
        ("--application-consistent-hours", "13", "12"),
        ("--granularity", "5000", "granularity"),
        ("--granularity", "2KiB", "granularity"),
        ("--to", "a b", "a b"),
        ("--to", "127.0.0.1:0", "127.0.0.1:0"),
        ("--disks", "a/b", "a/b"),
    ] {
        let mut arguments = vec!["replicate", "writer", option, value];
        if option != "--to" {
            arguments.extend(["--to", &to]);
        }
        refuse_or_usage(&rig.a, &arguments, said);
    }

    let long = "x".repeat(300);
    let definition = fs::read_to_string(&guest.definition).unwrap();
    for name in ["a/b", "..", "../etc/passwd", ".hidden", "a b", "a\tb", "a\u{7}b", "", long.as_str(), "-x"] {
        for verb in ["status", "points", "suspend", "failover", "resync"] {
            refuse_or_usage(&rig.a, &[verb, "--", name], "name");
        }
        let changed = definition.replace("\"writer\"", &format!("{name:?}").replace("\\u{7}", "\\u0007"));
        let file = rig.path("named.toml");
        fs::write(&file, changed).unwrap();
        refused(&rig.a, &["vm", "define", text(&file)], INVALID, &["name"]);
        let disk = definition.replace("\"log-a\"", &format!("{name:?}").replace("\\u{7}", "\\u0007"));
        fs::write(&file, disk).unwrap();
        refused(&rig.a, &["vm", "define", text(&file)], INVALID, &["name"]);
    }
    for pattern in ["a b", "a/b", "*.*.example", "", long.as_str()] {
        refused(&rig.b, &["auth", "add", pattern], INVALID, &[]);
    }
    let stray = fs::read_dir(rig.a.dir().join("data/vms")).unwrap().count();
    assert_eq!(stray, 1, "only the definition that was accepted");
}

/// What the parser of the command line finds is a usage error; what the daemon finds is a refusal.
fn refuse_or_usage(daemon: &Daemon, arguments: &[&str], said: &str) {
    let before = facts(daemon);
    let output = daemon.cli(arguments).unwrap();
    eprintln!("standin {arguments:?}\n{}", output.stderr);
    assert!(output.status == 2 || output.status == 3, "{arguments:?}: {output:?}");
    assert!(output.stderr.contains(said), "{arguments:?}: {output:?}");
    assert!(!output.stderr.contains('\u{7}'), "a control character reaches the terminal: {output:?}");
    assert!(output.stderr.len() < 1000, "the whole name is repeated: {output:?}");
    assert_eq!(facts(daemon), before);
}

#[test]
fn a_disk_that_cannot_be_used_is_named_before_anything_happens() {
    let rig = Rig::new();
    let to = rig.to();
    let replicate = |vm: &str, says: &[&str]| {
        refused(&rig.a, &["replicate", vm, "--to", &to], INVALID, says);
        assert!(!facts(&rig.b).to_string().contains(vm), "nothing of it reached the other host");
    };
    let define = |name: &str, change: &dyn Fn(String) -> String| {
        let guest = GuestPlan::records(name, 20).create(&rig.path("disks")).unwrap();
        let definition = fs::read_to_string(&guest.definition).unwrap();
        fs::write(&guest.definition, change(definition)).unwrap();
        guest
    };

    let gone = define("gone", &|text| text);
    rig.a.run(&["vm", "define", text(&gone.definition)]).unwrap();
    fs::remove_file(&gone.disks[0]).unwrap();
    replicate("gone", &["log-a", "exist"]);
    refused(&rig.a, &["vm", "start", "gone"], INVALID, &["log-a", "exist"]);

    let fixed =
        define("fixed", &|text| text.replace("format = \"raw\"", "format = \"raw\"\nread_only = true"));
    rig.a.run(&["vm", "define", text(&fixed.definition)]).unwrap();
    let chosen = ["replicate", "fixed", "--to", &to, "--disks", "log-b"];
    refused(&rig.a, &chosen, INVALID, &["log-b", "read-only"]);

    let vmdk = define("vmdk", &|text| text.replace("format = \"raw\"", "format = \"vmdk\""));
    refused(&rig.a, &["vm", "define", text(&vmdk.definition)], INVALID, &["vmdk", "raw", "qcow2"]);

    let wrong = define("wrong", &|text| text.replace("format = \"raw\"", "format = \"qcow2\""));
    rig.a.run(&["vm", "define", text(&wrong.definition)]).unwrap();
    replicate("wrong", &["log-b", "not a qcow2 image"]);
    refused(&rig.a, &["vm", "start", "wrong"], INVALID, &["log-b", "not a qcow2 image"]);

    let dir = define("dir", &|text| text);
    rig.a.run(&["vm", "define", text(&dir.definition)]).unwrap();
    fs::remove_file(&dir.disks[1]).unwrap();
    fs::create_dir(&dir.disks[1]).unwrap();
    replicate("dir", &["log-b", "neither a file nor a block device"]);

    let busy = define("busy", &|text| text);
    rig.a.run(&["vm", "define", text(&busy.definition)]).unwrap();
    let mut other = other_qemu(&busy.disks[0]);
    refused(&rig.a, &["vm", "start", "busy"], INVALID, &["log-a", "in use"]);
    replicate("busy", &["log-a", "in use"]);
    assert!(!rig.a.json(&["vm", "show", "busy"]).unwrap()["disks"][0]["problem"].is_null());
    process::kill(i32::try_from(other.id()).unwrap()).unwrap();
    other.wait().unwrap();
    rig.a.run(&["vm", "start", "busy"]).unwrap();
    assert!(rig.a.json(&["vm", "show", "busy"]).unwrap()["disks"][0]["problem"].is_null());
    assert!(rig.b.vm_pids().is_empty());
}

/// A QEMU of somebody else's that has opened the image, without a guest.
fn other_qemu(image: &Path) -> std::process::Child {
    let drive = format!("if=virtio,file={},format=qcow2", image.display());
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-nodefaults", "-display", "none", "-machine", "q35", "-S", "-drive", &drive]);
    let child = command.stdin(Stdio::null()).spawn().unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    let info = || Command::new("qemu-img").arg("info").arg(image).output().unwrap().status.success();
    while info() {
        assert!(std::time::Instant::now() < deadline, "the other QEMU does not open the image");
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

#[test]
fn a_disk_whose_size_changed_stops_the_replication_with_a_sentence_and_keeps_the_points() {
    let rig = Rig::new();
    rig.a.may_complain(complaints::OF_LOST_TRACKING);
    rig.a.may_complain(&["disk log-b has"]);
    let guest = rig.boot("writer", 20);
    rig.replicate("writer", "1h");
    let points = rig.b.json(&["points", "writer"]).unwrap();
    rig.a.run(&["vm", "stop", "writer", "--force"]).unwrap();
    let resized = Command::new("qemu-img")
        .args(["resize", "-f", "raw"])
        .arg(&guest.disks[1])
        .arg("80M")
        .stdout(Stdio::null())
        .status();
    assert!(resized.unwrap().success());
    rig.a.run(&["vm", "start", "writer"]).unwrap();
    let now = rig::wait_status(&rig.a, "writer", |status| {
        status["last_error"]["message"].as_str().is_some_and(|message| message.contains("83886080"))
    });
    assert_eq!(now["health"], "critical", "{now}");
    let error = &now["last_error"];
    let said = error["message"].as_str().unwrap();
    eprintln!("{error}");
    assert!(said.contains("log-b") && said.contains("83886080") && said.contains("67108864"), "{said}");
    assert!(error["remedy"].as_str().unwrap().contains("enable it again"), "{error}");
    assert_eq!(rig.b.json(&["points", "writer"]).unwrap(), points);
}

/// Runs `standin serve` with a configuration to its end, which must come by itself.
fn serve(config: &Path) -> Output {
    let binary = standin_testbed::builds::find_binary().unwrap();
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "30"]).arg(binary).arg("serve").arg("--config").arg(config);
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_daemon_that_cannot_start_says_why_and_what_to_do() {
    let rig = Rig::new();
    let fails = |text: &str, says: &[&str]| {
        let config = rig.path("other.toml");
        fs::write(&config, text).unwrap();
        let before = (facts(&rig.a), facts(&rig.b));
        let output = serve(&config);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        eprintln!("{said}");
        assert_eq!(output.status.code(), Some(1), "{said}");
        for word in says {
            assert!(said.contains(word), "{word:?} is not said: {said}");
        }
        assert_eq!((facts(&rig.a), facts(&rig.b)), before);
    };
    let own = fs::read_to_string(rig.a.config_path()).unwrap();
    let free = rig::address().to_string();

    fails(
        &own.replace("data_dir", "data_dri"),
        &["other.toml", "line 2", "data_dri", "did you mean", "data_dir"],
    );
    fails(&format!("{own}fast = true\n"), &["fast", "[qemu]"]);
    fails("listen = 5\n", &["line 1", "listen"]);
    fails("listen = \"here\"\n", &["listen", "here"]);
    fails("listen = \n", &["line 1"]);

    // All its own but the data directory.
    let address = rig.a.listen().to_string();
    let socket = rig.path("other.sock");
    let mut other =
        own.replace(&address, &free).replace(text(&rig.a.dir().join("standin.sock")), text(&socket));
    let held = rig.a.dir().join("data");
    fails(&other, &[text(&held), "another"]);

    // All its own but the port; it has the certificates of host-a.
    let data = rig.path("other-data");
    let runtime = rig.path("other-run");
    other = own.replace(text(&held), text(&data)).replace(text(&rig.a.dir().join("run")), text(&runtime));
    other = other.replace(text(&rig.a.dir().join("standin.sock")), text(&socket));
    other = format!("pki_dir = {:?}\n{other}", text(&held.join("pki")));
    fails(&other, &[&address, "listen"]);
    assert!(!data.join("state.redb").exists(), "nothing was begun");

    // Without certificates.
    fails(&other.replace("pki_dir", "scratch_dir").replace(&address, &free), &["pki init", "enroll"]);

    // An address that is no address of this host.
    fails(&other.replace(&address, "203.0.113.7:28444"), &["203.0.113.7:28444", "listen"]);

    assert_eq!(rig.a.cli(&["status"]).unwrap().status, 0);
}

#[test]
fn a_full_disk_of_the_daemon_refuses_what_it_cannot_keep_and_goes_on_when_there_is_room() {
    let rig = Rig::new();
    let small = SmallFs::mount(&rig.path("small"), 24 << 20).unwrap();
    let mut plan = rig::plan(rig.dir.path(), "host-c");
    plan.dir = small.path().to_path_buf();
    let c = hosts_join(&rig, plan);
    let guest = GuestPlan::records("writer", 20).create(&rig.path("disks")).unwrap();
    small.fill(0).unwrap();
    refused(&c, &["vm", "define", text(&guest.definition)], 32768, &["data/vms", "space"]);
    small.release().unwrap();
    c.run(&["vm", "define", text(&guest.definition)]).unwrap();
    assert_eq!(c.json(&["vm", "list"]).unwrap()[0]["vm"], "writer");
}

fn hosts_join(rig: &Rig, plan: standin_testbed::daemon::DaemonPlan) -> Daemon {
    standin_testbed::hosts::join(&rig.a, plan).unwrap()
}

#[test]
fn a_full_disk_of_the_replica_is_said_on_both_sides_and_nothing_is_lost() {
    let dir = rig::workdir();
    let small = SmallFs::mount(&dir.path().join("small"), 640 << 20).unwrap();
    let rig = Rig::with(|_, b| b.replica_storage = Some(small.path().join("replicas")));
    rig.a.may_complain(&["no space for"]);
    rig.b.may_complain(&["no space for", "the record beside the disks"]);
    let guest = rig.boot("writer", 200);
    rig.replicate("writer", "2s");
    let epoch = rig.wait_point_beyond("writer", 1);
    small.fill(64 << 10).unwrap();
    let now = wait_state(&rig.a, "writer", 8);
    eprintln!("{}", now["last_error"]);
    let said = now["last_error"]["message"].as_str().unwrap();
    assert!(said.contains("space"), "{said}");
    assert!(!now["last_error"]["remedy"].as_str().unwrap().is_empty());
    assert!(rig.newest_epoch("writer") >= epoch, "its points are still there");
    let written = guest.serial.last_written().unwrap();
    guest.serial.wait_written_beyond(written, PATIENCE).unwrap();
    small.release().unwrap();
    let after = rig.newest_epoch("writer");
    rig.wait_point_beyond("writer", after);
    let healed = wait_state(&rig.a, "writer", 3);
    assert!(healed["last_error"].is_null(), "{healed}");
    rig.b.run(&["store", "check", "writer"]).unwrap();
    assert_eq!(status(&rig.b, "writer")["state_code"], 3);
}
