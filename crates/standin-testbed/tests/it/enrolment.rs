//! How hosts get to know each other, by typing the commands: tokens, and new certificates without a pause.

use crate::rig::{self, PATIENCE, Rig, status};
use rustix::process::{Pid, Signal, kill_process};
use standin_testbed::daemon::Daemon;
use std::thread;
use std::time::{Duration, Instant};

fn token(rig: &Rig, name: &str, more: &[&str]) -> String {
    let answer = rig.a.json(&[&["enroll", "--new", name], more].concat()).unwrap();
    answer["token"].as_str().unwrap().to_owned()
}

/// A host that only has its configuration.
fn newcomer(rig: &Rig, name: &str) -> Daemon {
    Daemon::prepare(rig::plan(rig.dir.path(), name)).unwrap()
}

/// The token is not taken, with a sentence, and no certificate is left behind.
fn not_enrolled(host: &Daemon, token: &str, says: &[&str]) {
    let output = host.cli(&["enroll", token]).unwrap();
    eprintln!("standin enroll ...\n{}", output.stderr);
    assert!(output.status == 3 || output.status == 1, "{output:?}");
    for word in says {
        assert!(output.stderr.contains(word), "{word:?} is not said: {output:?}");
    }
    assert!(!output.stderr.contains(token), "the token is a secret: {output:?}");
    assert!(!host.dir().join("data/pki/host.crt").exists(), "a certificate is left behind");
}

#[test]
fn a_token_works_once_for_a_while_and_only_where_it_comes_from() {
    let rig = Rig::new();
    rig.a.may_complain(&["an enrolment was not granted"]);
    let once = token(&rig, "host-c", &[]);
    let (mut c, d) = (newcomer(&rig, "host-c"), newcomer(&rig, "host-d"));
    c.run(&["enroll", &once]).unwrap();
    c.start().unwrap();
    not_enrolled(&d, &once, &["token", "used"]);

    let short = token(&rig, "host-d", &["--valid", "1s"]);
    thread::sleep(Duration::from_millis(2100));
    not_enrolled(&d, &short, &["token", "expired"]);

    let mut forged = token(&rig, "host-d", &[]);
    let last = forged.pop().unwrap();
    forged.push(if last == 'A' { 'B' } else { 'A' });
    not_enrolled(&d, &forged, &["token"]);
    not_enrolled(&d, "rubbish", &["token"]);
    assert!(!rig.a.log().contains(&once), "a secret in the log");

    let good = token(&rig, "host-d", &[]);
    d.run(&["enroll", &good]).unwrap();
    let shown = d.json(&["pki", "show"]).unwrap().to_string();
    assert!(shown.contains("host-d"), "{shown}");
    let names = rig.b.cli(&["pki", "init"]).unwrap();
    assert_ne!(names.status, 0, "a host that has certificates makes no authority by mistake: {names:?}");
}

fn fingerprint(daemon: &Daemon) -> String {
    std::fs::read_to_string(daemon.dir().join("data/pki/host.crt")).unwrap()
}

fn hang_up(daemon: &Daemon) {
    let before = daemon.log().matches("certificates are taken").count();
    kill_process(Pid::from_raw(daemon.pid().unwrap()).unwrap(), Signal::HUP).unwrap();
    let until = Instant::now() + PATIENCE;
    while daemon.log().matches("certificates are taken").count() == before {
        assert!(Instant::now() < until, "{}", daemon.log());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn new_certificates_on_both_sides_cost_a_running_replication_no_cycle() {
    let mut rig = Rig::new();
    rig.boot("writer", 50);
    rig.replicate("writer", "1s");
    let epoch = rig.wait_point_beyond("writer", 2);
    for host in [&rig.b, &rig.a] {
        let before = fingerprint(host);
        host.run(&["pki", "renew"]).unwrap();
        assert_ne!(fingerprint(host), before);
        hang_up(host);
    }
    let epoch = rig.wait_point_beyond("writer", epoch + 3);
    let now = status(&rig.a, "writer");
    let statistics = &now["statistics"];
    assert_eq!(
        (&statistics["cycles_failed"], &statistics["network_failures"]),
        (&0.into(), &0.into()),
        "{now}"
    );
    assert!(now["last_error"].is_null(), "{now}");

    // New connections are made with them.
    rig.b.stop().unwrap();
    rig.b.start().unwrap();
    rig.wait_point_beyond("writer", epoch + 1);
}
