//! The only authority is gone: with an export of it, and without.

use super::{in_shell, section, typed};
use crate::rig::{self, PATIENCE, Rig, text, wait_state};
use standin_testbed::hosts;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn passphrase(dir: &Path) -> PathBuf {
    let file = dir.join("passphrase");
    std::fs::write(&file, "correct horse battery\n").unwrap();
    file
}

#[test]
fn the_rescue_page_lets_a_new_host_in_after_the_only_authority_is_gone() {
    let lines = section("The certificate authority");
    let [export, import, renew, _, _, _, _] = &lines[..] else { panic!("other commands: {lines:#?}") };
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
    // What joined before renews here, and so does the new one.
    typed(&c, renew, &[("beta.example.org", &rig.to())], &[]);
    rig.wait_point_beyond("web", rig.newest_epoch("web"));
}

#[test]
fn the_rescue_page_makes_a_new_authority_while_the_certificates_of_the_old_one_are_valid() {
    let lines = section("The certificate authority");
    let [_, _, _, copy, init, trust_old, trust_new] = &lines[..] else {
        panic!("other commands: {lines:#?}")
    };
    let mut rig = Rig::new();
    rig.boot("web", 50);
    rig.replicate("web", "2s");
    // As if the key of the authority was lost: B makes another one.
    std::fs::remove_file(rig.a.dir().join("data/pki/ca.key")).unwrap();
    let (old, new) = (rig.path("old-authority.crt"), rig.path("new-authority.crt"));
    let data = rig.b.dir().join("data");
    in_shell(copy, &[("/var/lib/standin", text(&data)), ("/root/old-authority.crt", text(&old))]);
    typed(&rig.b, init, &[], &[]);
    typed(&rig.b, trust_old, &[("/root/old-authority.crt", text(&old))], &[]);
    std::fs::copy(data.join("pki/ca.crt"), &new).unwrap();
    typed(&rig.a, trust_new, &[("/root/new-authority.crt", text(&new))], &[]);
    rig.wait_point_beyond("web", rig.newest_epoch("web"));
    // Both go on, also after a restart, and A gets a certificate of the new one.
    let ip = rig.a.listen().ip().to_string();
    let token = rig.b.run(&["enroll", "--new", "host-a", "--name", &ip]).unwrap();
    rig.a.run(&["enroll", token.trim()]).unwrap();
    for restart in [false, true] {
        if restart {
            for host in [&mut rig.a, &mut rig.b] {
                host.stop().unwrap();
                host.start().unwrap();
            }
        }
        rig.wait_point_beyond("web", rig.newest_epoch("web"));
        wait_state(&rig.a, "web", 3);
        wait_state(&rig.b, "web", 3);
    }
    let shown = [&rig.a, &rig.b].map(|host| host.json(&["pki", "show"]).unwrap());
    assert_eq!(shown[0]["authority_fingerprint"], shown[1]["authority_fingerprint"], "{shown:?}");
}
