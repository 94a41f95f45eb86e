//! The page docs/rescue.md where standin is still there: its commands are typed on real hosts that lost what the page is
//! about, and every point fails over afterwards. The part by hand is in [`crate::rescue`].
//!
//! ```text
//! mod        the disks of the replica, the databases
//! authority  the authority's key, with an export and without
//! backups    an older data directory
//! identity   entries, certificates, names, addresses, host ids
//! ```

mod authority;
mod backups;
mod identity;

use crate::rig::{PATIENCE, Rig, status, text, wait_state, wait_status};
use serde_json::{Value, json};
use standin_testbed::daemon::{Daemon, complaints};
use standin_testbed::guest::checkout;
use std::path::Path;
use std::process::Command;

/// Every section of the page, each with a test below that takes all of its commands.
const SECTIONS: [&str; 11] = [
    "A manifest",
    "The storage of replicas was moved",
    "What was kept of a replica",
    "The certificate authority",
    "The database of B",
    "The database of A",
    "An older backup",
    "An authorization entry",
    "A certificate",
    "Another name or address",
    "By hand",
];

fn page() -> String {
    std::fs::read_to_string(checkout().join("docs/rescue.md")).unwrap()
}

/// The lines of a section of the page that are set as code.
fn section(heading: &str) -> Vec<String> {
    let page = page();
    let (_, rest) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let end = rest.find("\n## ").unwrap_or(rest.len());
    rest[..end].lines().filter_map(|line| line.strip_prefix("    ")).map(str::to_owned).collect()
}

/// A line of the page with this case's names in place of the page's.
fn filled(line: &str, names: &[(&str, &str)]) -> String {
    names.iter().fold(line.to_owned(), |line, (from, to)| {
        assert!(line.contains(from), "no {from:?} in {line:?}");
        line.replace(from, to)
    })
}

/// Types a command of the page on a host, with this case's names in place of the page's.
fn typed(host: &Daemon, line: &str, names: &[(&str, &str)], more: &[&str]) -> String {
    let line = filled(line, names);
    let words: Vec<&str> =
        line.strip_prefix("standin ").unwrap().split_whitespace().chain(more.iter().copied()).collect();
    eprintln!("{}$ standin {}", host.name(), words.join(" "));
    host.run(&words).unwrap()
}

/// Runs a command of the page that is not standin's, by a shell.
fn in_shell(line: &str, names: &[(&str, &str)]) {
    let line = filled(line, names);
    eprintln!("$ {line}");
    assert!(Command::new("sh").args(["-euc", &line]).status().unwrap().success(), "{line}");
}

/// Stops or starts a daemon, as the page has it.
fn service(host: &mut Daemon, line: &str) {
    match line {
        "systemctl stop standin" => host.stop().unwrap(),
        "systemctl start standin" => host.start().unwrap(),
        _ => panic!("another command: {line}"),
    }
}

/// The primary of the page, and of these tests.
const ALPHA: (&str, &str) = ("alpha.example.org", "host-a");

const KEEP: [&str; 4] = ["--interval", "2s", "--keep-all-for", "1h"];

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

/// Replicates to `b`, which keeps every point.
fn replicate(rig: &Rig) {
    let to = rig.to();
    rig.a.run(&[&["replicate", "web", "--to", &to], &KEEP[..]].concat()).unwrap();
    wait_state(&rig.b, "web", 3);
}

/// The next point comes, and both hosts say that they replicate.
fn goes_on(rig: &Rig) {
    rig.wait_point_beyond("web", rig.newest_epoch("web"));
    wait_state(&rig.a, "web", 3);
    wait_state(&rig.b, "web", 3);
}

/// The primary is lost, and a point boots on the replica and is whole.
fn boots(rig: &mut Rig, point: &str) {
    rig.a.lose_power().unwrap();
    rig.b.run(&["failover", "web", "--point", point, "--start", "--yes"]).unwrap();
    wait_state(&rig.b, "web", 5);
    let serial = rig.b.replica_serial("web").unwrap();
    let (records, last) = serial.wait_verified(0, PATIENCE).unwrap();
    assert!(records > 0 && last > 0, "{records} records up to {last}");
    assert!(serial.faults().is_empty(), "{:?}", serial.faults());
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
        &[
            complaints::OF_A_LOST_MANIFEST,
            complaints::OF_A_COPIED_REPLICA,
            complaints::OF_AN_ENTRY,
            complaints::OF_AN_ASSERTION,
        ],
    );
    rig.boot("web", 50);
    replicate(&rig);
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
    let [stop, copy, setting, start, list, forget, admit, remove] = &lines[..] else {
        panic!("other commands: {lines:#?}")
    };
    service(&mut rig.b, stop);
    let srv = rig.path("srv");
    std::fs::create_dir(&srv).unwrap();
    in_shell(copy, &[("/var/lib/standin/replicas", text(&replicas)), ("/srv/", text(&srv))]);
    let moved = srv.join("replicas");
    let there = ("/srv/replicas", text(&moved));
    put_setting(&rig.b, &filled(setting, &[there]));
    service(&mut rig.b, start);
    typed(&rig.b, list, &[], &[]);
    typed(&rig.b, forget, &[ALPHA], &[]);
    typed(&rig.b, admit, &[ALPHA, there], &[]);
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

    boots(&mut rig, &before[before.len() - 1]);
}

#[test]
fn the_rescue_page_finds_the_replica_again_without_the_database_of_either_host() {
    let mut rig = Rig::new();
    rig.may_complain(
        &[complaints::OF_AN_ENTRY, complaints::OF_A_LOST_DATABASE, complaints::OF_A_SILENT_HOST],
        &[complaints::OF_AN_ENTRY, complaints::OF_A_LOST_DATABASE, complaints::OF_AN_ASSERTION],
    );
    let guest = rig.boot("web", 50);
    replicate(&rig);
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
    typed(&rig.b, add, &[ALPHA], &[]);
    let newest = rig.newest_epoch("web");
    rig.wait_point_beyond("web", newest);
    keeps(&rig.b);

    rig.a.stop().unwrap();
    std::fs::remove_file(rig.a.dir().join("data/state.redb")).unwrap();
    rig.a.start().unwrap();
    let lines = section("The database of A");
    let [again, _rebind, _start] = &lines[..] else { panic!("other commands: {lines:#?}") };
    let to = rig.to();
    let newest = rig.newest_epoch("web");
    typed(&rig.a, again, &[("beta.example.org", &to)], &KEEP);
    rig.wait_point_beyond("web", newest);
    keeps(&rig.b);
    assert!(directories(&rig.b).iter().all(|one| one["kind"] == "replica"), "{:?}", directories(&rig.b));
    assert!(guest.serial.faults().is_empty(), "{:?}", guest.serial.faults());

    boots(&mut rig, &before[before.len() - 1]);
}

/// The words of a command up to the first that stands for something else: `standin auth add` of `standin auth add A`.
fn verb(command: &str) -> String {
    let words = command.split_whitespace();
    let is_verb = |word: &&str| !word.contains(|c: char| !c.is_ascii_lowercase() && c != '-');
    words.take_while(is_verb).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_command_that_the_rescue_page_mentions_is_one_that_it_shows_and_every_section_is_typed() {
    let page = page();
    let headings = page.lines().filter_map(|line| line.strip_prefix("## "));
    assert!(headings.eq(SECTIONS.into_iter()), "a section without a test");
    let shown: Vec<String> =
        SECTIONS.into_iter().flat_map(section).map(|line| line.replace('\n', " ")).collect();
    // They change nothing, or are what the loss is.
    let aside = ["standin status", "standin auth list", "standin unreplicate"];
    for mentioned in page.split('`').skip(1).step_by(2).filter(|code| code.starts_with("standin ")) {
        let verb = verb(mentioned);
        let is_shown = shown.iter().any(|line| line.starts_with(&verb)) || aside.contains(&verb.as_str());
        assert!(is_shown, "no section shows {mentioned:?}");
    }
}
