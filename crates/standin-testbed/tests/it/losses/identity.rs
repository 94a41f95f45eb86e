//! What a host is known by: entries, certificates, names, addresses, ids.

use super::{ALPHA, boots, goes_on, points, replicate, section, service, typed};
use crate::rig::{PATIENCE, Rig, text, wait_state, wait_status};
use serde_json::Value;
use standin_testbed::daemon::{Daemon, complaints};
use standin_testbed::guest::GuestPlan;

/// The id of another host, as this one knows it.
fn id_of(host: &Daemon, name: &str) -> String {
    let peers = host.json(&["peer", "list"]).unwrap();
    let named = |peer: &&Value| peer["names"].as_array().unwrap().iter().any(|known| known == name);
    let known = peers.as_array().unwrap().iter().find(named);
    known.unwrap_or_else(|| panic!("no {name}: {peers}"))["id"].as_str().unwrap().to_owned()
}

/// Waits until a host says something of a VM.
fn says(host: &Daemon, vm: &str, words: &[&str]) -> Value {
    wait_status(host, vm, |status| words.iter().all(|word| status.to_string().contains(word)))
}

/// Gets a host a certificate by the page, from the authority, which is on `a`. Its daemon may be down.
fn enrolled(rig: &mut Rig, name: &str) {
    let lines = section("A certificate");
    let [new, join, start] = &lines[..] else { panic!("other commands: {lines:#?}") };
    let ip = rig.b.listen().ip().to_string();
    let token = typed(&rig.a, new, &[("beta.example.org", name)], &["--name", &ip]);
    typed(&rig.b, join, &[("TOKEN", token.trim())], &[]);
    service(&mut rig.b, start);
}

fn reconfigure(host: &Daemon, from: &str, to: &str) {
    let config = std::fs::read_to_string(host.config_path()).unwrap();
    assert!(config.contains(from), "{from:?} is not in {config}");
    std::fs::write(host.config_path(), config.replace(from, to)).unwrap();
}

#[test]
fn the_rescue_page_goes_on_with_an_entry_that_was_removed_and_with_another_certificate() {
    let mut rig = Rig::new();
    rig.may_complain(
        &[complaints::OF_AN_ENTRY, complaints::OF_A_SILENT_HOST],
        &[complaints::OF_AN_ENTRY, complaints::OF_AN_ASSERTION],
    );
    rig.boot("web", 50);
    replicate(&rig);
    rig.wait_point_beyond("web", 2);
    let before = points(&rig.b);

    rig.b.run(&["auth", "remove", "host-a"]).unwrap();
    says(&rig.a, "web", &["is not authorised to replicate", "standin auth add"]);
    says(&rig.b, "web", &["no authorization entry", "standin auth add host-a"]);
    let [add] = &section("An authorization entry")[..] else { panic!("one command") };
    typed(&rig.b, add, &[ALPHA], &[]);
    goes_on(&rig);

    let id = id_of(&rig.a, "host-b");
    rig.b.stop().unwrap();
    std::fs::remove_dir_all(rig.b.dir().join("data/pki")).unwrap();
    let refused = format!("{:#}", rig.b.start().unwrap_err());
    assert!(refused.contains("this host's certificates cannot be used"), "{refused}");
    enrolled(&mut rig, "host-b");
    assert_eq!(id_of(&rig.a, "host-b"), id, "the same host");
    goes_on(&rig);
    let now = points(&rig.b);
    assert!(before.iter().all(|point| now.contains(point)), "{before:?} {now:?}");
    let jobs = rig.a.json(&["jobs"]).unwrap();
    assert!(jobs.as_array().unwrap().iter().all(|job| job["type_code"] != 107), "a comparison: {jobs}");
    boots(&mut rig, &before[before.len() - 1]);
}

/// A VM of `b` that replicates to `a`, so that each host is the primary of one VM and the replica of the other.
fn and_back(rig: &Rig, name: &str) {
    let guest = GuestPlan::idle(name).create(&rig.path("disks-b")).unwrap();
    rig.a.run(&["auth", "add", "host-b"]).unwrap();
    rig.b.run(&["vm", "define", text(&guest.definition)]).unwrap();
    rig.b.run(&["vm", "start", name]).unwrap();
    let to = rig.a.listen().to_string();
    rig.b.run(&["replicate", name, "--to", &to, "--interval", "2s"]).unwrap();
    wait_state(&rig.a, name, 3);
}

fn newest_on_a(rig: &Rig, name: &str) -> u64 {
    rig.a.json(&["points", name]).unwrap()[0]["epoch"].as_u64().unwrap_or(0)
}

#[test]
fn the_rescue_page_follows_a_host_to_another_address_and_another_name() {
    let mut rig = Rig::new();
    let causes = [complaints::OF_ANOTHER_IDENTITY, complaints::OF_AN_ENTRY];
    rig.may_complain(&causes, &causes);
    rig.may_complain(
        &[complaints::OF_A_SILENT_HOST],
        &[complaints::OF_A_SILENT_HOST, complaints::OF_AN_ASSERTION],
    );
    rig.boot("web", 50);
    replicate(&rig);
    and_back(&rig, "shop");
    rig.wait_point_beyond("web", 2);
    let before = points(&rig.b);
    let lines = section("Another name or address");
    let [moved, rebind, add] = &lines[..] else { panic!("other commands: {lines:#?}") };

    // Another port is another address.
    rig.b.stop().unwrap();
    let there = format!("{}:28446", rig.b.listen().ip());
    reconfigure(&rig.b, &rig.b.listen().to_string(), &there);
    rig.b.start().unwrap();
    typed(&rig.a, moved, &[("beta2.example.org", &there)], &[]);
    goes_on(&rig);

    let id = id_of(&rig.a, "host-b");
    rig.b.stop().unwrap();
    reconfigure(&rig.b, "host_name = \"host-b\"", "host_name = \"host-b2\"");
    enrolled(&mut rig, "host-b2");
    let bound = format!("host-b2 presents the host id {id}");
    let remedy = format!("standin peer rebind {id} host-b2");
    for vm in ["web", "shop"] {
        says(&rig.a, vm, &[&bound, &remedy]);
    }
    says(&rig.b, "shop", &[&bound]);
    let names = [("6f2c1f0e-0000-4000-8000-00000000000a", id.as_str()), ("alpha2.example.org", "host-b2")];
    typed(&rig.a, rebind, &names, &[]);
    goes_on(&rig);
    says(&rig.b, "shop", &["not authorised", "standin auth add"]);
    typed(&rig.a, add, &names[1..], &[]);
    let newest = newest_on_a(&rig, "shop");
    rig.a.wait_json(&["points", "shop"], PATIENCE, |_| newest_on_a(&rig, "shop") > newest).unwrap();
    wait_state(&rig.b, "shop", 3);
    let now = points(&rig.b);
    assert!(before.iter().all(|point| now.contains(point)), "{before:?} {now:?}");
    boots(&mut rig, &before[before.len() - 1]);
}

#[test]
fn the_rescue_page_takes_a_replica_up_for_a_host_that_was_set_up_anew() {
    let mut rig = Rig::new();
    rig.may_complain(
        &[complaints::OF_ANOTHER_IDENTITY],
        &[complaints::OF_ANOTHER_IDENTITY, complaints::OF_A_COMPARISON, complaints::OF_A_STOPPED_VM],
    );
    and_back(&rig, "shop");
    let before = rig.a.json(&["points", "shop"]).unwrap();
    let old = id_of(&rig.a, "host-b");
    // Everything of `b` is gone but the VM's images and definition, which lay elsewhere.
    rig.b.run(&["vm", "stop", "shop", "--force"]).unwrap();
    rig.b.lose_power().unwrap();
    std::fs::remove_dir_all(rig.b.dir().join("data")).unwrap();
    std::fs::remove_dir_all(rig.b.dir().join("run")).unwrap();
    enrolled(&mut rig, "host-b");
    rig.b.run(&["vm", "define", text(&rig.path("disks-b/shop.toml"))]).unwrap();

    let lines = section("The database of A");
    let [replicate, rebind, start] = &lines[..] else { panic!("other commands: {lines:#?}") };
    let to = rig.a.listen().to_string();
    let again = ["replicate", "shop", "--to", &to];
    let refusal = rig.b.cli(&again).unwrap();
    assert!(refusal.status == 3 && refusal.stderr.contains("carry marks"), "{refusal:?}");
    typed(&rig.b, start, &[("web", "shop")], &[]);
    let refusal = rig.b.cli(&again).unwrap();
    assert_eq!(refusal.status, 3, "{refusal:?}");
    let new = refusal.stderr.split_once(&format!("standin peer rebind {old} ")).map(|(_, rest)| rest);
    let new = new.unwrap_or_else(|| panic!("{refusal:?}")).split(|c: char| c != '-' && !c.is_alphanumeric());
    let new = new.into_iter().next().unwrap();
    let ids = [
        ("6f2c1f0e-0000-4000-8000-00000000000a", old.as_str()),
        ("0b7d4a55-0000-4000-8000-00000000000b", new),
    ];
    typed(&rig.a, rebind, &ids, &[]);
    typed(&rig.b, replicate, &[("web", "shop"), ("beta.example.org", &to)], &["--interval", "2s"]);
    wait_state(&rig.a, "shop", 3);
    let now = rig.a.json(&["points", "shop"]).unwrap();
    let kept = |point: &Value| now.as_array().unwrap().iter().any(|known| known["id"] == point["id"]);
    assert!(kept(&before[0]), "{before} {now}");
    let kept = rig.a.json(&["store", "list"]).unwrap();
    assert!(kept.as_array().unwrap().iter().all(|one| one["kind"] == "replica"), "set aside: {kept}");
}
