//! Network settings of a failover for real: a Debian guest gets its addresses by its agent, in what Debian's
//! installer sets up and in systemd-networkd, and by cloud-init where it has no channel for an agent. What it has is
//! read back from the guest: by its agent, or over the network that it is connected to.

use crate::rig::{PATIENCE, Rig, text, wait_state};
use serde_json::{Value, json};
use standin_testbed::daemon::{Daemon, complaints};
use standin_testbed::guest::GuestPlan;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const MAC: &str = "52:54:00:aa:bb:05";

/// An emulated Debian boots in half a minute on an idle machine; on a busy one it takes minutes.
const BOOT: Duration = Duration::from_secs(400);

/// Defines the Debian guest on `a` with one card, `kind` in the words of a definition, and replicates it. It is off
/// on `a` afterwards: the machine is for the replica's guest.
fn replicated(rig: &Rig, kind: &str, agent: bool) {
    let guest = GuestPlan::debian("debian").unwrap().create(&rig.path("disks")).unwrap();
    let mut definition = std::fs::read_to_string(&guest.definition).unwrap();
    if !agent {
        definition = definition.replace("guest_agent = true\n", "");
    }
    definition.push_str(&format!("\n[[nics]]\nname = \"lan\"\nmac = \"{MAC}\"\n{kind}\n"));
    std::fs::write(&guest.definition, definition).unwrap();
    rig.a.run(&["vm", "define", text(&guest.definition)]).unwrap();
    rig.a.run(&["vm", "start", "debian"]).unwrap();
    let to = rig.to();
    rig.a.run(&["replicate", "debian", "--to", &to, "--interval", "1h", "--history", "4"]).unwrap();
    wait_state(&rig.b, "debian", 3);
    rig.a.run(&["vm", "stop", "debian", "--force"]).unwrap();
}

fn network(daemon: &Daemon) -> Value {
    daemon.json(&["network", "debian"]).unwrap()
}

/// Waits until the settings are in a state other than pending.
fn wait_applied(daemon: &Daemon) -> Value {
    let settled = |view: &Value| view["applied"]["state"].as_str().is_some_and(|state| state != "pending");
    daemon.wait_json(&["network", "debian"], BOOT, settled).unwrap()["applied"].clone()
}

/// Asks the agent of the guest on a host, between standin's own questions.
fn ask(daemon: &Daemon, order: &Value) -> Option<Value> {
    let run = std::fs::read_dir(daemon.dir().join("run")).unwrap().flatten();
    let agent = run.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "ga"))?;
    let mut socket = UnixStream::connect(agent).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    writeln!(socket, "{order}").ok()?;
    let mut answer = String::new();
    BufReader::new(&socket).read_line(&mut answer).ok()?;
    serde_json::from_str::<Value>(&answer).ok()?.get("return").cloned()
}

/// Asks until there is an answer: the agent may be starting, or answering standin.
fn ask_until(daemon: &Daemon, order: &Value) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask(daemon, order) {
            return answer;
        }
        assert!(Instant::now() < until, "the agent does not answer to {order}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Has the guest run a shell command, which may be run twice, and waits for its end; what it printed.
fn in_guest(daemon: &Daemon, command: &str) -> String {
    let arguments = json!({ "path": "/bin/sh", "arg": ["-c", command], "capture-output": true });
    let started = ask_until(daemon, &json!({ "execute": "guest-exec", "arguments": arguments }));
    let until = Instant::now() + PATIENCE;
    let status = json!({ "execute": "guest-exec-status", "arguments": { "pid": started["pid"] } });
    loop {
        let answer = ask_until(daemon, &status);
        if answer["exited"] == true {
            let data = answer["out-data"].as_str().unwrap_or_default();
            assert_eq!(answer["exitcode"], 0, "{command}: {answer}");
            return base64(data);
        }
        assert!(Instant::now() < until, "{command} does not end");
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn base64(data: &str) -> String {
    let mut decode = Command::new("base64");
    let mut child = decode.arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(data.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

/// The addresses of the card as the guest says, without link-local ones.
fn addresses(daemon: &Daemon) -> Option<Vec<String>> {
    let all = ask(daemon, &json!({ "execute": "guest-network-get-interfaces" }))?;
    let card = all.as_array()?.iter().find(|card| card["hardware-address"] == MAC)?;
    let list = card["ip-addresses"].as_array()?.iter();
    let text = list.map(|one| format!("{}/{}", one["ip-address"].as_str().unwrap(), one["prefix"]));
    let mut found: Vec<String> = text.filter(|address| !address.starts_with("fe80:")).collect();
    found.sort();
    Some(found)
}

fn wait_addresses(daemon: &Daemon, wanted: &[&str]) {
    let until = Instant::now() + BOOT;
    loop {
        let found = addresses(daemon);
        if found.as_deref().is_some_and(|found| found == wanted) {
            return;
        }
        assert!(Instant::now() < until, "the guest has {found:?}, and not {wanted:?}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn restart(daemon: &Daemon) {
    daemon.run(&["vm", "stop", "debian", "--timeout", "120s"]).unwrap();
    daemon.run(&["vm", "start", "debian"]).unwrap();
}

#[test]
fn the_agent_gives_a_debian_guest_addresses_that_it_keeps_and_a_revert_takes_them_away() {
    let rig = Rig::new();
    rig.a.may_complain(complaints::OF_THE_OLD_HOST);
    replicated(&rig, "kind = \"user\"", true);
    let begun = Instant::now();
    let set = ["--address", "192.0.2.5/24", "--address", "192.0.2.6/24", "--address", "2001:db8:5::5/64"];
    let more = ["--gateway", "192.0.2.1", "--gateway", "2001:db8:5::1", "--dns", "192.0.2.53"];
    rig.a.run(&[&["network", "debian"], &set[..], &more[..]].concat()).unwrap();
    assert_eq!(network(&rig.b)["adapters"][0]["origin"], "primary");

    rig.b.run(&["failover", "debian", "--start", "--force"]).unwrap();
    let applied = wait_applied(&rig.b);
    eprintln!("applied {:?} after the failover: {applied}", begun.elapsed());
    assert_eq!(applied["state"], "applied", "{applied}");
    assert!(applied["message"].as_str().unwrap().ends_with("by ifupdown"), "{applied}");
    let wanted = ["192.0.2.5/24", "192.0.2.6/24", "2001:db8:5::5/64"];
    wait_addresses(&rig.b, &wanted);
    let routes = in_guest(&rig.b, "ip route show default; ip -6 route show default; cat /etc/resolv.conf");
    for part in ["default via 192.0.2.1 ", "default via 2001:db8:5::1 ", "nameserver 192.0.2.53"] {
        assert!(routes.contains(part), "{part:?} is not in {routes}");
    }

    // The guest keeps them by itself: nothing is given to it again.
    restart(&rig.b);
    wait_addresses(&rig.b, &wanted);
    assert_eq!(network(&rig.b)["applied"], applied);
    eprintln!("kept over a boot after {:?}", begun.elapsed());

    // The same guest with its network kept by systemd-networkd, and other settings, set on the replica.
    in_guest(&rig.b, "rm -f /etc/network/interfaces.d/* && systemctl -q enable systemd-networkd");
    rig.b.run(&["network", "debian", "--adapter", MAC, "--address", "198.51.100.7/25"]).unwrap();
    restart(&rig.b);
    rig.b
        .wait_json(&["network", "debian"], BOOT, |view| {
            view["applied"]["message"]
                .as_str()
                .is_some_and(|message| message.ends_with("by systemd-networkd"))
        })
        .unwrap();
    let mut found = addresses(&rig.b).unwrap();
    // The settings do not speak of IPv6, so what QEMU's router gives the guest is its own affair.
    found.retain(|address| !address.contains(':'));
    assert_eq!(found, ["198.51.100.7/25"]);
    eprintln!("by systemd-networkd after {:?}", begun.elapsed());

    rig.b.run(&["failover", "debian", "--revert"]).unwrap();
    assert_eq!(network(&rig.b)["applied"], Value::Null);
    assert_eq!(network(&rig.b)["adapters"][0]["origin"], "here");
}

/// A tap interface of this machine. Gone when dropped.
struct Tap(String);

impl Tap {
    /// With an address of this machine's own on it, if there is one.
    fn new(name: String, address: Option<&str>) -> Self {
        ip(&["tuntap", "add", "dev", &name, "mode", "tap"]);
        let tap = Self(name);
        if let Some(address) = address {
            ip(&["address", "add", address, "dev", &tap.0]);
        }
        ip(&["link", "set", &tap.0, "up"]);
        tap
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // It may be gone with its namespace.
        let _ = Command::new("ip").args(["link", "delete", &self.0]).stdin(Stdio::null()).status();
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "ip {arguments:?}; network interfaces need root");
}

/// Whether something has the address: a host without a listener refuses, and only a host that is there can refuse.
fn refuses(address: &str) -> bool {
    let target: SocketAddr = format!("{address}:9").parse().unwrap();
    let error =
        TcpStream::connect_timeout(&target, Duration::from_secs(2)).expect_err("nobody listens there");
    error.kind() == ErrorKind::ConnectionRefused
}

#[test]
fn cloud_init_gives_a_guest_without_an_agent_its_address_on_the_network_of_this_site() {
    // An address range of its own (RFC 2544), so that runs beside each other do not meet.
    let net = format!("198.18.{}", std::process::id() % 250);
    let (there, here) = (format!("sita{}", std::process::id()), format!("sitb{}", std::process::id()));
    let _there = Tap::new(there.clone(), None);
    let _here = Tap::new(here.clone(), Some(&format!("{net}.1/24")));
    let rig = Rig::with(|_, b| b.extra_config.push_str(&format!("[network_map]\n{there} = \"{here}\"\n")));
    rig.a.may_complain(complaints::OF_THE_OLD_HOST);
    replicated(&rig, &format!("kind = \"tap\"\nifname = \"{there}\""), false);
    let guest = format!("{net}.77");
    rig.a
        .run(&["network", "debian", "--address", &format!("{guest}/24"), "--gateway", &format!("{net}.1")])
        .unwrap();
    let card = &network(&rig.b)["adapters"][0];
    assert_eq!(card["failover_network"], format!("tap:{here}"));

    let begun = Instant::now();
    rig.b.run(&["failover", "debian", "--start", "--force"]).unwrap();
    let applied = wait_applied(&rig.b);
    assert_eq!((&applied["state"], &applied["way"]), (&json!("offered"), &json!("cloud_init")), "{applied}");
    assert!(!refuses(&guest), "something else has the address");
    let until = Instant::now() + BOOT;
    while !refuses(&guest) {
        let log = rig.b.replica_serial("debian").map(|serial| serial.text()).unwrap_or_default();
        assert!(Instant::now() < until, "the guest does not answer at {guest}: {log}");
        std::thread::sleep(Duration::from_secs(1));
    }
    eprintln!("the guest answers at {guest} {:?} after the failover", begun.elapsed());

    let shown = rig.b.json(&["vm", "show", "debian"]).unwrap();
    let image = shown["disks"].as_array().unwrap().iter().find(|disk| disk["name"] == "standin-cidata");
    let image = image.expect("the disk is attached")["path"].as_str().unwrap().to_owned();
    rig.b.run(&["failover", "debian", "--revert"]).unwrap();
    assert!(!std::path::Path::new(&image).exists(), "the disk goes with the revert");
}
