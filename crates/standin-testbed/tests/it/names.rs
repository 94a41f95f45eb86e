//! Names and addresses as an operator meets them: two primaries with a VM of one name, a rename, a replica that has
//! another address, an entry that is removed by what it was added with.

use crate::rig::{self, PATIENCE, Rig, refused, status, text, wait_state, wait_status};
use serde_json::json;
use standin_testbed::daemon::complaints;
use standin_testbed::guest::GuestPlan;
use standin_testbed::hosts;
use standin_testbed::tcpproxy::TcpProxy;
use std::net::SocketAddr;

const DENIED: u32 = 32769;
const INVALID: u32 = 32773;
const IN_USE: u32 = 32774;
const STATE: u32 = 32775;
const NOT_SUPPORTED: u32 = 32770;
const NOT_FOUND: u32 = 32779;

#[test]
fn two_primaries_with_a_vm_of_one_name_both_fail_over_to_one_host() {
    let mut rig = Rig::new();
    rig.b.may_complain(complaints::OF_AN_ASSERTION);
    let mut second = hosts::join(&rig.a, rig::plan(rig.dir.path(), "host-c")).unwrap();
    rig.b.run(&["auth", "add", "host-c"]).unwrap();
    rig.boot("web", 20);
    let guest = GuestPlan::records("web", 20).create(&rig.path("disks-c")).unwrap();
    second.run(&["vm", "define", text(&guest.definition)]).unwrap();
    second.run(&["vm", "start", "web"]).unwrap();
    guest.serial.wait_written_beyond(1, PATIENCE).unwrap();
    rig.replicate("web", "2s");
    second.run(&["replicate", "web", "--to", &rig.to(), "--interval", "2s", "--no-wait"]).unwrap();
    wait_state(&rig.b, "web-host-c", 3);
    let shown = rig.b.run(&["status"]).unwrap();
    assert!(shown.contains("web-host-c (web)"), "{shown}");
    assert_eq!(status(&rig.b, "web-host-c")["primary_name"], json!("web"));
    assert_eq!(rig.b.json(&["points", "web-host-c"]).unwrap()[0]["primary_name"], json!("web"));
    rig.a.lose_power().unwrap();
    second.lose_power().unwrap();
    for name in ["web", "web-host-c"] {
        rig.b.run(&["failover", name, "--start", "--yes"]).unwrap();
        let serial = rig.b.replica_serial(name).unwrap();
        serial.wait_verified(0, PATIENCE).unwrap();
        assert_eq!(serial.faults(), [""; 0]);
    }
    let running = rig.b.json(&["vm", "list"]).unwrap();
    assert!(running.as_array().unwrap().iter().all(|vm| vm["power"] == json!("running")), "{running}");
}

#[test]
fn a_running_vm_is_renamed_on_either_host_for_that_host() {
    let rig = Rig::new();
    rig.a.may_complain(complaints::OF_THE_OLD_HOST);
    rig.boot("web", 20);
    rig.replicate("web", "2s");
    rig.b
        .run(&[
            "vm",
            "define",
            text(&GuestPlan::records("shop", 20).create(&rig.path("shop")).unwrap().definition),
        ])
        .unwrap();
    refused(&rig.b, &["rename", "web", "shop"], IN_USE, &["shop"]);
    rig.a.run(&["rename", "web", "shop"]).unwrap();
    assert_eq!(status(&rig.a, "shop")["power"], json!("running"));
    wait_status(&rig.b, "web", |status| status["primary_name"] == json!("shop"));
    rig.wait_point_beyond("web", rig.newest_epoch("web"));
    rig.b.run(&["rename", "web", "stand-in"]).unwrap();
    rig.b.run(&["failover", "stand-in"]).unwrap();
    let shown = rig.b.json(&["vm", "show", "stand-in"]).unwrap();
    assert_eq!((&shown["vm"], &shown["id"]), (&json!("stand-in"), &status(&rig.a, "shop")["id"]));
}

#[test]
fn a_relationship_is_changed_in_place_and_what_cannot_be_is_named() {
    let rig = Rig::new();
    rig.boot("web", 20);
    rig.replicate("web", "1h");
    rig.a.run(&["set", "web", "--interval", "2s", "--keep-all-for", "10m", "--compression", "off"]).unwrap();
    for host in [&rig.a, &rig.b] {
        let agreed =
            host.wait_json(&["set", "web"], PATIENCE, |agreed| agreed["interval_s"] == json!(2)).unwrap();
        assert_eq!((&agreed["history"], &agreed["keep_all_for_s"]), (&json!(24), &json!(600)));
        assert_eq!(agreed["compression"], json!(false));
    }
    rig.wait_point_beyond("web", rig.newest_epoch("web") + 1);
    refused(&rig.a, &["set", "web", "--disks", "log-a"], NOT_SUPPORTED, &["disks"]);
    refused(&rig.a, &["set", "web", "--granularity", "64KiB"], NOT_SUPPORTED, &["granularity"]);
    refused(&rig.a, &["set", "web", "--interval", "25h"], INVALID, &["interval"]);
    refused(&rig.b, &["set", "web", "--interval", "5s"], STATE, &["primary"]);

    // Its daemon is found at another port by a proxy: the same certificate, the same replica.
    let there = SocketAddr::from((rig.b.listen().ip(), 28445));
    let proxy = TcpProxy::start_at(there, rig.b.listen()).unwrap();
    let own = rig.a.listen().to_string();
    refused(&rig.a, &["set", "web", "--to", &own], DENIED, &["host-a", "very host"]);
    rig.a.run(&["set", "web", "--to", &there.to_string()]).unwrap();
    assert_eq!(status(&rig.a, "web")["peer"], json!(there.to_string()));
    rig.wait_point_beyond("web", rig.newest_epoch("web") + 1);
    assert!(proxy.forwarded() > 0, "points come by the new address");

    refused(&rig.b, &["auth", "remove", "host-z"], NOT_FOUND, &["host-a"]);
    rig.b.run(&["auth", "remove", "host-a"]).unwrap();
    assert_eq!(rig.b.json(&["auth", "list"]).unwrap(), json!([]));
}
