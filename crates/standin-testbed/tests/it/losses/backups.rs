//! An older backup of a data directory is put back, while the guest runs on.

use super::{boots, goes_on, in_shell, points, replicate, section, service};
use crate::rig::{PATIENCE, Rig, text, wait_status};
use serde_json::Value;
use standin_testbed::daemon::{Daemon, complaints};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The type code of a comparison's job.
const RESYNC: u64 = 107;

/// A record that is behind by less than this can be that of a daemon that was killed, and its marks count.
const A_WHILE: Duration = Duration::from_secs(20);

/// A copy of a host's data directory, made while its daemon is down.
fn backup(daemon: &mut Daemon, to: PathBuf) -> PathBuf {
    daemon.stop().unwrap();
    let data = daemon.dir().join("data");
    in_shell("cp -a DATA TO", &[("DATA", text(&data)), ("TO", text(&to))]);
    daemon.start().unwrap();
    to
}

/// As the page has it.
fn put_back(daemon: &mut Daemon, backup: &Path) {
    let lines = section("An older backup");
    let [stop, aside, copy, start] = &lines[..] else { panic!("other commands: {lines:#?}") };
    let data = daemon.dir().join("data");
    let data = ("/var/lib/standin", text(&data));
    service(daemon, stop);
    in_shell(aside, &[data]);
    in_shell(copy, &[("/srv/backup/standin", text(backup)), data]);
    service(daemon, start);
}

fn comparisons(host: &Daemon) -> usize {
    let jobs = host.json(&["jobs"]).unwrap();
    let is_one = |job: &&Value| job["type_code"] == RESYNC && job["state_code"] == 7;
    jobs.as_array().unwrap().iter().filter(is_one).count()
}

#[test]
fn the_rescue_page_puts_an_older_backup_of_either_host_back() {
    let mut rig = Rig::new();
    rig.may_complain(
        &[complaints::OF_A_COMPARISON, complaints::OF_OLDER_DISKS, complaints::OF_A_SILENT_HOST],
        &[complaints::OF_OLDER_DISKS, complaints::OF_AN_ASSERTION],
    );
    let guest = rig.boot("web", 50);
    replicate(&rig);
    rig.wait_point_beyond("web", 2);
    let [path_a, path_b] = ["backup-a", "backup-b"].map(|name| rig.path(name));
    let older_b = backup(&mut rig.b, path_b);
    let kept = points(&rig.b);
    let older_a = backup(&mut rig.a, path_a);
    std::thread::sleep(A_WHILE);
    rig.wait_point_beyond("web", rig.newest_epoch("web") + 2);

    // Of A: it compares, and goes on above everything that B has.
    let (before, newest) = (points(&rig.b), rig.newest_epoch("web"));
    put_back(&mut rig.a, &older_a);
    rig.a.wait_json(&["jobs"], PATIENCE, |_| comparisons(&rig.a) == 1).unwrap();
    assert!(rig.wait_point_beyond("web", newest) > newest);
    goes_on(&rig);
    let now = points(&rig.b);
    assert!(before.iter().all(|point| now.contains(point)), "{before:?} {now:?}");

    // Of B: both say it until somebody has them compare. What is older than the backup is there.
    rig.a.run(&["set", "web", "--auto-resync", "off"]).unwrap();
    put_back(&mut rig.b, &older_b);
    for host in [&rig.a, &rig.b] {
        let says = if host.name() == "host-a" { "has lost up to" } else { "are an older copy" };
        let told = wait_status(host, "web", |status| status.to_string().contains(says));
        assert_eq!(told["health"], "critical", "{told}");
    }
    rig.a.run(&["resync", "web"]).unwrap();
    goes_on(&rig);
    wait_status(&rig.b, "web", |status| !status.to_string().contains("are an older copy"));
    let now = points(&rig.b);
    assert!(kept.iter().all(|point| now.contains(point)), "{kept:?} {now:?}");
    assert!(guest.serial.faults().is_empty(), "{:?}", guest.serial.faults());
    boots(&mut rig, &kept[kept.len() - 1]);
}
