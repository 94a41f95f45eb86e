//! Network settings by the guest's agent, against scripted guests: well ones, and those that are slow, refuse,
//! and say one thing while they have another.

#![expect(clippy::unwrap_used, reason = "a panic in a helper of a test is a failed test")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use standin_hypervisor::agent::AgentTimeouts;
use standin_hypervisor::agent::network::{Patience, configure};
use standin_hypervisor::{Error, GuestNic};
use standin_model::network::AdapterSettings;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;

const MAC: &str = "52:54:00:12:34:56";

const SHORT: Patience = Patience {
    agent: Duration::from_millis(1500),
    program: Duration::from_millis(1500),
    settle: Duration::from_millis(1500),
    timeouts: AgentTimeouts {
        connect: Duration::from_millis(300),
        sync: Duration::from_millis(300),
        call: Duration::from_millis(300),
    },
};

/// A guest with one card, and how it behaves.
#[derive(Clone)]
struct Guest {
    system: &'static str,
    mac: &'static str,
    /// Commands that its agent does not allow.
    disabled: &'static [&'static str],
    /// Connections that are not answered, as while it boots.
    deaf: usize,
    /// How the script ends, and what it says: to both outputs.
    ends: (i64, &'static str, &'static str),
    /// Asked for this often, the script still runs.
    runs_for: usize,
    /// What it has once the script was run; before that 198.51.100.9/24.
    addresses: &'static [(&'static str, u64)],
    /// What it was told to run: program, arguments, input.
    ran: Option<(String, Vec<String>, String)>,
}

fn guest() -> Guest {
    Guest {
        system: "debian",
        mac: MAC,
        disabled: &[],
        deaf: 0,
        ends: (0, "interface ens3\nby systemd-networkd\n", ""),
        runs_for: 1,
        addresses: &[("192.0.2.5", 24), ("2001:db8::5", 64), ("fe80::1", 64)],
        ran: None,
    }
}

struct Script {
    socket: PathBuf,
    guest: Arc<Mutex<Guest>>,
    _dir: tempfile::TempDir,
}

fn start(guest: Guest) -> Script {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent");
    let listener = UnixListener::bind(&socket).unwrap();
    let guest = Arc::new(Mutex::new(guest));
    let served = Arc::clone(&guest);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let deaf = {
                let mut guest = served.lock().unwrap();
                let deaf = guest.deaf > 0;
                guest.deaf = guest.deaf.saturating_sub(1);
                deaf
            };
            converse(stream, &served, deaf).await;
        }
    });
    Script { socket, guest, _dir: dir }
}

async fn converse(mut stream: UnixStream, guest: &Mutex<Guest>, deaf: bool) {
    let mut rest = Vec::new();
    loop {
        match stream.read_buf(&mut rest).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let text = line.rsplit(|byte| *byte == 0xff).next().unwrap();
            let request: Value = serde_json::from_slice(text).unwrap();
            if deaf {
                continue;
            }
            let answer = answer(&mut guest.lock().unwrap(), &request);
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    }
}

fn answer(guest: &mut Guest, request: &Value) -> Vec<u8> {
    let arguments = &request["arguments"];
    let value = match request["execute"].as_str().unwrap() {
        "guest-sync-delimited" => {
            let mut bytes = vec![0xff];
            bytes.extend(format!("{}\n", json!({ "return": arguments["id"] })).into_bytes());
            return bytes;
        }
        "guest-info" => {
            let names = ["guest-exec", "guest-exec-status", "guest-network-get-interfaces"];
            let command = |name: &&str| json!({ "name": name, "enabled": !guest.disabled.contains(name) });
            json!({ "supported_commands": names.iter().map(command).collect::<Vec<_>>() })
        }
        "guest-get-osinfo" => json!({ "id": guest.system }),
        "guest-network-get-interfaces" => {
            let before: &[(&str, u64)] = &[("198.51.100.9", 24)];
            let addresses = if guest.ran.is_some() && guest.runs_for == 0 { guest.addresses } else { before };
            let address = |(ip, prefix): &(&str, u64)| json!({ "ip-address": ip, "prefix": prefix });
            json!([
                { "name": "lo", "hardware-address": "00:00:00:00:00:00" },
                { "name": "vlan7", "hardware-address": guest.mac, "ip-addresses": [] },
                { "name": "ens3", "hardware-address": guest.mac,
                  "ip-addresses": addresses.iter().map(address).collect::<Vec<_>>() },
            ])
        }
        "guest-exec" => {
            let words = |list: &Value| {
                list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
            };
            let input = arguments
                .get("input-data")
                .map(|data| String::from_utf8(STANDARD.decode(data.as_str().unwrap()).unwrap()).unwrap());
            let path = arguments["path"].as_str().unwrap().to_owned();
            guest.ran = Some((path, words(&arguments["arg"]), input.unwrap_or_default()));
            json!({ "pid": 77 })
        }
        "guest-exec-status" if guest.runs_for > 0 => {
            guest.runs_for -= 1;
            json!({ "exited": false })
        }
        "guest-exec-status" => {
            let (code, output, complaint) = guest.ends;
            json!({ "exited": true, "exitcode": code, "out-data": STANDARD.encode(output),
                    "err-data": STANDARD.encode(complaint) })
        }
        other => {
            return format!("{}\n", json!({ "error": { "class": "CommandNotFound", "desc": other } })).into();
        }
    };
    format!("{}\n", json!({ "return": value })).into_bytes()
}

fn card() -> GuestNic {
    GuestNic {
        name: "lan".to_owned(),
        mac: MAC.parse().unwrap(),
        settings: AdapterSettings {
            addresses: ["192.0.2.5/24", "2001:db8::5/64"].map(|a| a.parse().unwrap()).into(),
            gateways: vec!["192.0.2.1".parse().unwrap()],
            dns: vec!["192.0.2.53".parse().unwrap()],
            ..AdapterSettings::default()
        },
    }
}

async fn why_not(guest: Guest) -> String {
    let script = start(guest);
    match configure(&script.socket, &[card()], SHORT).await {
        Err(Error::Agent(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_linux_guest_runs_the_script_with_its_settings_and_is_read_back() {
    let script = start(guest());
    let done = configure(&script.socket, &[card()], SHORT).await.expect("configured");
    assert_eq!(done, ["ens3 of the guest has the settings of lan, by systemd-networkd"]);
    let (path, arguments, input) = script.guest.lock().unwrap().ran.clone().unwrap();
    assert_eq!((path.as_str(), arguments), ("/bin/sh", vec!["-s".to_owned()]));
    for line in [
        "mac='52:54:00:12:34:56'",
        "addresses4='192.0.2.5/24'",
        "addresses6='2001:db8::5/64'",
        "gateways4='192.0.2.1'",
        "gateways6=''",
        "dns='192.0.2.53'",
        "dhcp4=no",
        "dhcp6=no",
    ] {
        assert!(input.lines().any(|have| have == line), "{line} is not in the script");
    }
}

#[tokio::test]
async fn a_windows_guest_is_given_a_script_of_its_own() {
    let script =
        start(Guest { system: "mswindows", ends: (0, "interface ens3\r\nby Windows\r\n", ""), ..guest() });
    let done = configure(&script.socket, &[card()], SHORT).await.expect("configured");
    assert_eq!(done, ["ens3 of the guest has the settings of lan, by Windows"]);
    let (path, arguments, input) = script.guest.lock().unwrap().ran.clone().unwrap();
    assert_eq!((path.as_str(), input.as_str()), ("powershell.exe", ""));
    let encoded = STANDARD.decode(arguments.last().unwrap()).unwrap();
    let units: Vec<u16> = encoded.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let text = String::from_utf16(&units).unwrap();
    assert!(
        text.starts_with("$mac = '52:54:00:12:34:56'\n$addresses = @('192.0.2.5/24', '2001:db8::5/64')\n"),
        "{text}"
    );
}

#[tokio::test]
async fn an_agent_that_comes_late_is_waited_for_and_one_that_does_not_come_is_given_up() {
    let script = start(Guest { deaf: 1, ..guest() });
    configure(&script.socket, &[card()], SHORT).await.expect("the second try is answered");
    let begun = Instant::now();
    let script = start(Guest { deaf: usize::MAX, ..guest() });
    let given_up = configure(&script.socket, &[card()], SHORT).await;
    assert!(matches!(given_up, Err(Error::Timeout { .. })), "{given_up:?}");
    assert!(begun.elapsed() >= SHORT.agent && begun.elapsed() < SHORT.agent * 3, "{:?}", begun.elapsed());
    assert!(script.guest.lock().unwrap().ran.is_none());
}

#[tokio::test]
async fn an_agent_that_may_not_run_programs_is_told_of_with_the_remedy() {
    let why = why_not(Guest { disabled: &["guest-exec"], ..guest() }).await;
    assert!(why.contains("does not allow guest-exec") && why.contains("qemu-ga"), "{why}");
}

#[tokio::test]
async fn a_guest_without_the_card_is_not_touched() {
    let script = start(Guest { mac: "52:54:00:99:99:99", ..guest() });
    let outcome = configure(&script.socket, &[card()], SHORT).await;
    assert!(outcome.is_err_and(|error| error.to_string().contains("no network card with the address")));
    assert!(script.guest.lock().unwrap().ran.is_none());
}

#[tokio::test]
async fn a_script_that_fails_is_quoted() {
    let why =
        why_not(Guest { ends: (1, "interface ens3\n", "noise\nens3 is part of br0\n"), ..guest() }).await;
    assert_eq!(
        why,
        "network card lan: the guest did not take the settings: ens3 is part of br0 (exit code 1)"
    );
    let why = why_not(Guest { ends: (0, "nothing of use", ""), ..guest() }).await;
    assert!(why.contains("without saying what it did"), "{why}");
}

#[tokio::test]
async fn what_the_guest_says_it_has_counts_and_not_what_the_script_says() {
    let why = why_not(Guest { addresses: &[("192.0.2.5", 24)], ..guest() }).await;
    assert!(why.contains("does not have the address 2001:db8::5/64; it has 192.0.2.5/24"), "{why}");
    let both = &[("192.0.2.5", 24), ("2001:db8::5", 64), ("198.51.100.9", 24)];
    let why = why_not(Guest { addresses: both, ..guest() }).await;
    assert!(why.contains("still has the address 198.51.100.9/24"), "{why}");
    let why = why_not(Guest { ends: (0, "interface vlan7\nby ip\n", ""), ..guest() }).await;
    assert!(why.contains("it has none"), "{why}");
}

#[tokio::test]
async fn settings_that_a_reboot_loses_are_told_so() {
    let script = start(Guest { ends: (0, "interface ens3\nby ip\ntemporary\n", ""), ..guest() });
    let done = configure(&script.socket, &[card()], SHORT).await.expect("configured");
    assert!(done[0].contains("until its next boot"), "{done:?}");
}

#[tokio::test]
async fn a_card_that_fails_does_not_keep_the_others_from_theirs() {
    let script = start(guest());
    let other = GuestNic { name: "dmz".into(), mac: "52:54:00:00:00:01".parse().unwrap(), ..card() };
    let outcome = configure(&script.socket, &[other, card()], SHORT).await;
    let why = outcome.expect_err("one card is not there").to_string();
    assert!(why.contains("network card dmz") && !why.contains("lan"), "{why}");
    assert!(script.guest.lock().unwrap().ran.is_some(), "the other card was configured");
}
