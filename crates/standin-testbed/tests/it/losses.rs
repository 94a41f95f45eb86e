//! The page docs/rescue.md where standin is still there: its commands are typed on real hosts that lost what the page is
//! about, and every point fails over afterwards.

use crate::rig::{self, PATIENCE, Rig, status, text, wait_state, wait_status};
use serde_json::{Value, json};
use standin_testbed::daemon::{Daemon, complaints};
use standin_testbed::guest::checkout;
use standin_testbed::hosts;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The lines of a section of the page that are set as code.
fn section(heading: &str) -> Vec<String> {
    let page = std::fs::read_to_string(checkout().join("docs/rescue.md")).unwrap();
    let (_, rest) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let end = rest.find("\n## ").unwrap_or(rest.len());
    rest[..end].lines().filter_map(|line| line.strip_prefix("    ")).map(str::to_owned).collect()
}

/// Types a command of the page on a host, with this case's names in place of the page's.
fn typed(host: &Daemon, line: &str, names: &[(&str, &str)], more: &[&str]) -> String {
    let line = names.iter().fold(line.to_owned(), |line, (from, to)| {
        assert!(line.contains(from), "no {from:?} in {line:?}");
        line.replace(from, to)
    });
    let words: Vec<&str> =
        line.strip_prefix("standin ").unwrap().split_whitespace().chain(more.iter().copied()).collect();
    eprintln!("{}$ standin {}", host.name(), words.join(" "));
    host.run(&words).unwrap()
}

/// A directory of a replica, as the page has one.
const DIRECTORY: &str = "/var/lib/standin/replicas/web-6f2c1f0e-0000-4000-8000-000000000001";

fn directories(host: &Daemon) -> Vec<Value> {
    host.json(&["store", "list"]).unwrap().as_array().unwrap().clone()
}

fn of_kind(host: &Daemon, kind: &str) -> String {
    let found = directories(host).into_iter().find(|one| one["kind"] == kind);
    let found = found.unwrap_or_else(|| panic!("nothing of kind {kind}: {:?}", directories(host)));
    found["path"].as_str().unwrap().to_owned()
}

fn points(host: &Daemon) -> Vec<String> {
    let points = host.json(&["points", "web"]).unwrap();
    points.as_array().unwrap().iter().map(|point| point["id"].as_str().unwrap().to_owned()).collect()
}

fn put_setting(host: &Daemon, line: &str) {
    let config = std::fs::read_to_string(host.config_path()).unwrap();
    std::fs::write(host.config_path(), format!("{line}\n{config}")).unwrap();
}

#[test]
fn the_rescue_page_repairs_a_manifest_follows_the_storage_and_uses_again_what_was_kept() {
    let mut rig = Rig::new();
    rig.may_complain(
        &[
            complaints::OF_A_LOST_MANIFEST,
            complaints::OF_A_REMOVED_RELATIONSHIP,
            complaints::OF_A_SILENT_HOST,
        ],
        &[complaints::OF_A_LOST_MANIFEST, complaints::OF_A_COPIED_REPLICA, complaints::OF_AN_ASSERTION],
    );
    rig.boot("web", 50);
    rig.replicate("web", "2s");
    rig.wait_point_beyond("web", 4);
    let before = points(&rig.b);

    // A manifest, both copies.
    rig.b.stop().unwrap();
    let replicas = rig.b.dir().join("data/replicas");
    let directory = std::fs::read_dir(&replicas).unwrap().next().unwrap().unwrap().path();
    for copy in ["manifest.json", "manifest-copy.json"] {
        std::fs::remove_file(directory.join(copy)).unwrap();
    }
    rig.b.start().unwrap();
    let said = wait_status(&rig.b, "web", |status| status["health"] == "critical");
    assert!(said["last_error"]["message"].as_str().unwrap().contains("is lost"), "{said}");
    let said = wait_status(&rig.a, "web", |status| !status["last_error"].is_null());
    assert!(said["last_error"].to_string().contains("standin store repair"), "{said}");
    let [repair] = &section("A manifest")[..] else { panic!("one command") };
    let answer = typed(&rig.b, repair, &[("web", "web")], &[]);
    assert!(answer.contains("recovery points are proven"), "{answer}");
    let repaired = points(&rig.b);
    assert!(before.iter().all(|point| repaired.contains(point)), "{before:?} {repaired:?}");
    let newest = rig.newest_epoch("web");
    rig.wait_point_beyond("web", newest);

    // The storage.
    let lines = section("The storage of replicas was moved");
    let [stop, copy, setting, start, list, remove] = &lines[..] else { panic!("other commands: {lines:#?}") };
    assert_eq!((stop.as_str(), start.as_str()), ("systemctl stop standin", "systemctl start standin"));
    rig.b.stop().unwrap();
    let srv = rig.path("srv");
    std::fs::create_dir(&srv).unwrap();
    let copy = copy.replace("/var/lib/standin/replicas", text(&replicas)).replace("/srv/", text(&srv));
    assert!(Command::new("sh").args(["-euc", &copy]).status().unwrap().success(), "{copy}");
    let moved = srv.join("replicas");
    put_setting(&rig.b, &setting.replace("/srv/replicas", text(&moved)));
    rig.b.start().unwrap();
    typed(&rig.b, list, &[], &[]);
    let old = of_kind(&rig.b, "copy");
    assert!(Path::new(&old).starts_with(&replicas), "{old}");
    assert!(of_kind(&rig.b, "replica").starts_with(text(&moved)));
    typed(&rig.b, remove, &[(DIRECTORY, &old)], &["--yes"]);
    assert!(!Path::new(&old).exists());
    let newest = rig.newest_epoch("web");
    rig.wait_point_beyond("web", newest);
    let now = status(&rig.a, "web");
    assert_eq!(now["state_code"], json!(3), "{now}");

    // What was kept.
    rig.a.run(&["unreplicate", "web"]).unwrap();
    rig.b.run(&["unreplicate", "web"]).unwrap();
    let kept = of_kind(&rig.b, "kept");
    let [adopt] = &section("What was kept of a replica")[..] else { panic!("one command") };
    typed(&rig.b, adopt, &[(DIRECTORY, &kept)], &[]);
    assert!(points(&rig.b).contains(&before[before.len() - 1]), "{before:?} {:?}", points(&rig.b));

    // And the oldest point of all boots, and is whole.
    rig.a.lose_power().unwrap();
    let oldest = &before[before.len() - 1];
    rig.b.run(&["failover", "web", "--point", oldest, "--start", "--yes"]).unwrap();
    wait_state(&rig.b, "web", 5);
    let serial = rig.b.replica_serial("web").unwrap();
    let (records, last) = serial.wait_verified(0, PATIENCE).unwrap();
    assert!(records > 0 && last > 0);
    assert!(serial.faults().is_empty(), "{:?}", serial.faults());
}

#[test]
fn the_rescue_page_finds_the_replica_again_without_the_database_of_either_host() {
    let mut rig = Rig::new();
    rig.may_complain(
        &[complaints::OF_AN_ENTRY, complaints::OF_A_LOST_DATABASE, complaints::OF_A_SILENT_HOST],
        &[complaints::OF_AN_ENTRY, complaints::OF_A_LOST_DATABASE, complaints::OF_AN_ASSERTION],
    );
    let guest = rig.boot("web", 50);
    rig.replicate("web", "2s");
    rig.wait_point_beyond("web", 3);
    let before = points(&rig.b);
    let keeps = |host: &Daemon| {
        let now = points(host);
        assert!(before.iter().all(|point| now.contains(point)), "{before:?} {now:?}");
    };

    rig.b.stop().unwrap();
    std::fs::remove_file(rig.b.dir().join("data/state.redb")).unwrap();
    rig.b.start().unwrap();
    let said = wait_status(&rig.a, "web", |status| !status["last_error"].is_null());
    assert!(
        said["last_error"]["message"].as_str().unwrap().contains("is not authorised to replicate"),
        "{said}"
    );
    keeps(&rig.b);
    let [add] = &section("The database of B")[..] else { panic!("one command") };
    typed(&rig.b, add, &[("alpha.example.org", "host-a")], &[]);
    let newest = rig.newest_epoch("web");
    rig.wait_point_beyond("web", newest);
    keeps(&rig.b);

    rig.a.stop().unwrap();
    std::fs::remove_file(rig.a.dir().join("data/state.redb")).unwrap();
    rig.a.start().unwrap();
    let [replicate] = &section("The database of A")[..] else { panic!("one command") };
    let to = rig.to();
    let newest = rig.newest_epoch("web");
    typed(&rig.a, replicate, &[("beta.example.org", &to)], &["--interval", "2s", "--history", "24"]);
    rig.wait_point_beyond("web", newest);
    keeps(&rig.b);
    assert!(directories(&rig.b).iter().all(|one| one["kind"] == "replica"), "{:?}", directories(&rig.b));
    assert!(guest.serial.faults().is_empty(), "{:?}", guest.serial.faults());

    rig.a.lose_power().unwrap();
    let oldest = &before[before.len() - 1];
    rig.b.run(&["failover", "web", "--point", oldest, "--start", "--yes"]).unwrap();
    let serial = rig.b.replica_serial("web").unwrap();
    serial.wait_verified(0, PATIENCE).unwrap();
    assert!(serial.faults().is_empty(), "{:?}", serial.faults());
}

fn passphrase(dir: &Path) -> PathBuf {
    let file = dir.join("passphrase");
    std::fs::write(&file, "correct horse battery\n").unwrap();
    file
}

#[test]
fn the_rescue_page_lets_a_new_host_in_after_the_only_authority_is_gone() {
    let lines = section("The certificate authority");
    let [export, import, _, _, _, _] = &lines[..] else { panic!("other commands: {lines:#?}") };
    let mut rig = Rig::new();
    let (file, secret) = (rig.path("authority.json"), passphrase(rig.dir.path()));
    let secret = text(&secret);
    let place = ("/root/standin-authority.json", text(&file));
    typed(&rig.a, export, &[place], &["--passphrase-file", secret]);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "the export is for its owner only");
    let again = rig.a.cli(&["pki", "export", text(&file), "--passphrase-file", secret]).unwrap();
    assert!(again.status == 3 && again.stderr.contains("exists"), "{again:?}");
    rig.a.lose_power().unwrap();
    std::fs::remove_dir_all(rig.a.dir()).unwrap();

    std::fs::write(rig.path("wrong"), "incorrect horse battery\n").unwrap();
    let wrong = rig.path("wrong");
    let refused = rig.b.cli(&["pki", "import", text(&file), "--passphrase-file", text(&wrong)]).unwrap();
    assert!(refused.status == 3 && refused.stderr.contains("passphrase"), "{refused:?}");
    typed(&rig.b, import, &[place], &["--passphrase-file", secret]);
    assert!(!rig.b.log().contains("horse") && !rig.b.log().contains("PRIVATE"), "a secret in the log");

    // A new host joins by B, and each replicates to the other.
    let c = hosts::join(&rig.b, rig::plan(rig.dir.path(), "host-c")).unwrap();
    rig.b.run(&["auth", "add", "host-c"]).unwrap();
    let guest = standin_testbed::guest::GuestPlan::records("web", 50).create(&rig.path("disks")).unwrap();
    c.run(&["vm", "define", text(&guest.definition)]).unwrap();
    c.run(&["vm", "start", "web"]).unwrap();
    guest.serial.wait_written_beyond(1, PATIENCE).unwrap();
    c.run(&["replicate", "web", "--to", &rig.to(), "--interval", "2s", "--no-wait"]).unwrap();
    wait_state(&c, "web", 3);
    wait_state(&rig.b, "web", 3);
    rig.wait_point_beyond("web", 2);
}
