//! What is run in the guest: the script of its system with the settings before it. Every value is an address or a
//! number that was parsed here, so nothing of it can be a command.

use super::super::run::Ended;
use crate::seam::GuestNic;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::net::IpAddr;

const LINUX: &str = include_str!("linux.sh");
const WINDOWS: &str = include_str!("windows.ps1");

/// Which script a guest understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum System {
    /// A POSIX shell.
    Linux,
    /// PowerShell.
    Windows,
}

/// A program with its arguments and its input.
#[derive(Debug)]
pub(super) struct Program {
    pub path: &'static str,
    pub arguments: Vec<String>,
    pub input: String,
}

/// What the script said it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Done {
    /// The guest's name of the card.
    pub interface: String,
    /// What keeps the settings in the guest.
    pub by: String,
    /// A reboot of the guest loses them.
    pub temporary: bool,
}

/// The program that gives a card its settings.
pub(super) fn program(system: System, card: &GuestNic) -> Program {
    match system {
        System::Linux => Program { path: "/bin/sh", arguments: vec!["-s".to_owned()], input: linux(card) },
        System::Windows => {
            let script: Vec<u8> = windows(card).encode_utf16().flat_map(u16::to_le_bytes).collect();
            let options = ["-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass", "-EncodedCommand"];
            let mut arguments: Vec<String> = options.map(str::to_owned).into();
            arguments.push(STANDARD.encode(script));
            Program { path: "powershell.exe", arguments, input: String::new() }
        }
    }
}

fn linux(card: &GuestNic) -> String {
    let settings = &card.settings;
    let family = |v4: bool| {
        let ours = settings.addresses.iter().filter(|address| address.address().is_ipv4() == v4);
        ours.map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let gateways = |v4: bool| joined(settings.gateways.iter().filter(|gateway| gateway.is_ipv4() == v4));
    let flag = |on| if on { "yes" } else { "no" };
    format!(
        "mac='{}'\naddresses4='{}'\naddresses6='{}'\ngateways4='{}'\ngateways6='{}'\ndns='{}'\ndhcp4={}\n\
         dhcp6={}\n{LINUX}",
        card.mac,
        family(true),
        family(false),
        gateways(true),
        gateways(false),
        joined(&settings.dns),
        flag(settings.dhcp4),
        flag(settings.dhcp6),
    )
}

fn joined<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> String {
    addresses.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn windows(card: &GuestNic) -> String {
    let settings = &card.settings;
    let list =
        |items: Vec<String>| items.iter().map(|item| format!("'{item}'")).collect::<Vec<_>>().join(", ");
    let texts = |all: &[IpAddr]| all.iter().map(ToString::to_string).collect();
    format!(
        "$mac = '{}'\n$addresses = @({})\n$gateways = @({})\n$dns = @({})\n$dhcp4 = ${}\n$dhcp6 = ${}\n{WINDOWS}",
        card.mac,
        list(settings.addresses.iter().map(ToString::to_string).collect()),
        list(texts(&settings.gateways)),
        list(texts(&settings.dns)),
        settings.dhcp4,
        settings.dhcp6,
    )
}

/// What a program that ended says it did, or why not, as it says it.
pub(super) fn done(ended: &Ended) -> Result<Done, String> {
    let word = |key: &str| {
        let line = ended.output.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().chars().take(64).collect::<String>())
    };
    if ended.code != Some(0) {
        let said = if ended.complaint.trim().is_empty() { &ended.output } else { &ended.complaint };
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        let code = ended.code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
        return Err(format!("{} ({code})", last.trim()));
    }
    match (word("interface "), word("by ")) {
        (Some(interface), Some(by)) => {
            let temporary = ended.output.lines().any(|line| line == "temporary");
            Ok(Done { interface, by, temporary })
        }
        _ => Err("the script in the guest ended without saying what it did".to_owned()),
    }
}
