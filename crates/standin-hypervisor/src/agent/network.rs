//! Network settings of a guest by its agent: waits until the agent runs, has it run a script that gives each card
//! its addresses in whatever keeps the guest's network, and reads the addresses back. Called by the drivers for
//! [`crate::Hypervisor::configure_network`].
//!
//! ```text
//!  agent answers? ─ may run programs? ─ which system? ─ per card: script ─ read back until they are there
//! ```
//!
//! The guest's word is not trusted further than that: it says itself what its addresses are.

mod script;

use super::run::strange;
use super::{Agent, AgentTimeouts, shown};
use crate::error::Error;
use crate::seam::{GuestNic, Result};
use script::{Done, System};
use serde_json::Value;
use standin_model::network::{AdapterSettings, MacAddress};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A guest with hundreds of virtual interfaces has a list of this length at most.
const MAX_ANSWER: usize = 1 << 20;

/// The pause between two tries to reach an agent that does not answer yet.
const AGAIN: Duration = Duration::from_secs(1);

/// What the agent has to be allowed.
const NEEDED: [&str; 3] = ["guest-exec", "guest-exec-status", "guest-network-get-interfaces"];

/// How long the parts of it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until the agent answers: the guest boots.
    pub agent: Duration,
    /// The script of one card.
    pub program: Duration,
    /// From its end until the addresses are there; also what a DHCP server may take.
    pub settle: Duration,
    /// The conversation with the agent.
    pub timeouts: AgentTimeouts,
}

impl Patience {
    /// The usual patience with a guest whose agent may take `agent` to come up.
    #[must_use]
    pub fn with_agent(agent: Duration) -> Self {
        Self {
            agent,
            program: Duration::from_secs(240),
            settle: Duration::from_secs(45),
            timeouts: AgentTimeouts { call: Duration::from_secs(20), ..AgentTimeouts::default() },
        }
    }
}

/// An interface as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestInterface {
    /// The guest's name of it.
    pub name: String,
    /// Its hardware address, where it has one.
    pub mac: Option<MacAddress>,
    /// Its addresses and the bits of their networks.
    pub addresses: BTreeSet<(IpAddr, u8)>,
}

/// Gives cards of a guest their settings, one sentence a card of what was done.
///
/// # Errors
/// [`Error::Timeout`] when the agent did not answer in time, and then nothing was changed; [`Error::Agent`] with a
/// sentence for each card that did not get its settings.
pub async fn configure(socket: &Path, cards: &[GuestNic], patience: Patience) -> Result<Vec<String>> {
    let mut agent = reach(socket, patience).await?;
    may_run(&mut agent).await?;
    let system = system(&mut agent).await?;
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for card in cards {
        match one(&mut agent, system, card, patience).await {
            Ok(sentence) => done.push(sentence),
            Err(Error::Agent(why)) => failed.push(format!("network card {}: {why}", card.name)),
            Err(error) => failed.push(format!("network card {}: {error}", card.name)),
        }
    }
    if failed.is_empty() { Ok(done) } else { Err(Error::Agent(failed.join("; "))) }
}

/// The interfaces of a guest, as its agent sees them.
///
/// # Errors
/// As [`Agent::sync`]; [`Error::Agent`] when the answer is none.
pub async fn interfaces(agent: &mut Agent) -> Result<Vec<GuestInterface>> {
    let command = "guest-network-get-interfaces";
    let answer = agent.call(command, agent.timeouts.call).await?;
    let list = answer.as_array().ok_or_else(|| strange(command, &answer))?;
    Ok(list.iter().filter_map(interface).collect())
}

fn interface(entry: &Value) -> Option<GuestInterface> {
    let address = |entry: &Value| {
        let ip = entry.get("ip-address")?.as_str()?.parse().ok()?;
        Some((ip, u8::try_from(entry.get("prefix")?.as_u64()?).ok()?))
    };
    let addresses = entry.get("ip-addresses").and_then(Value::as_array);
    Some(GuestInterface {
        name: entry.get("name")?.as_str()?.chars().take(64).collect(),
        mac: entry.get("hardware-address").and_then(Value::as_str).and_then(|text| text.parse().ok()),
        addresses: addresses.into_iter().flatten().filter_map(address).collect(),
    })
}

/// Waits for an agent that answers.
async fn reach(socket: &Path, patience: Patience) -> Result<Agent> {
    let until = Instant::now() + patience.agent;
    loop {
        let reached = async {
            let mut agent = Agent::connect(socket, patience.timeouts).await?;
            agent.max_line = MAX_ANSWER;
            agent.sync().await.map(|()| agent)
        };
        match reached.await {
            Ok(agent) => return Ok(agent),
            Err(error) if Instant::now() >= until => {
                tracing::debug!(%error, "the last try to reach the guest's agent");
                let what = "the wait for the guest's agent to answer".to_owned();
                return Err(Error::Timeout { what, after: patience.agent });
            }
            Err(_) => sleep(AGAIN.min(until.saturating_duration_since(Instant::now()))).await,
        }
    }
}

/// Distributions and administrators switch commands of the agent off.
async fn may_run(agent: &mut Agent) -> Result<()> {
    let info = agent.call("guest-info", agent.timeouts.call).await?;
    let list = info.get("supported_commands").and_then(Value::as_array);
    let list = list.ok_or_else(|| strange("guest-info", &info))?;
    let enabled = |name: &str| {
        list.iter().any(|command| {
            command.get("name").and_then(Value::as_str) == Some(name)
                && command.get("enabled").and_then(Value::as_bool).unwrap_or(true)
        })
    };
    match NEEDED.iter().find(|name| !enabled(name)) {
        None => Ok(()),
        Some(name) => Err(Error::Agent(format!(
            "the guest's agent does not allow {name}; allow it in the guest (in /etc/sysconfig/qemu-ga or \
             /etc/qemu/qemu-ga.conf, by distribution) and restart the agent"
        ))),
    }
}

/// An agent that cannot say is old, and old ones are on Linux.
async fn system(agent: &mut Agent) -> Result<System> {
    match agent.call("guest-get-osinfo", agent.timeouts.call).await {
        Ok(info) if info.get("id").and_then(Value::as_str) == Some("mswindows") => Ok(System::Windows),
        Ok(_) | Err(Error::Agent(_)) => Ok(System::Linux),
        Err(error) => Err(error),
    }
}

async fn one(agent: &mut Agent, system: System, card: &GuestNic, patience: Patience) -> Result<String> {
    seen(agent, card, patience.settle).await?;
    let program = script::program(system, card);
    let arguments: Vec<&str> = program.arguments.iter().map(String::as_str).collect();
    let until = Instant::now() + patience.program;
    let ended = agent.run(program.path, &arguments, &program.input, until).await?;
    tracing::debug!(card = %card.name, ?ended, "the script in the guest ended");
    let done = script::done(&ended)
        .map_err(|why| Error::Agent(format!("the guest did not take the settings: {}", shown(&why))))?;
    read_back(agent, card, &done, patience.settle).await?;
    let kept = if done.temporary { ", until its next boot: nothing there keeps them" } else { "" };
    Ok(format!("{} of the guest has the settings of {}, by {}{kept}", done.interface, card.name, done.by))
}

/// A card can appear a little later than the agent.
async fn seen(agent: &mut Agent, card: &GuestNic, settle: Duration) -> Result<()> {
    let until = Instant::now() + settle;
    loop {
        let all = interfaces(agent).await?;
        if all.iter().any(|interface| interface.mac == Some(card.mac)) {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(Error::Agent(format!("the guest has no network card with the address {}", card.mac)));
        }
        sleep(AGAIN).await;
    }
}

/// Waits until the guest itself says that it has the addresses, and no others of the families that were set.
async fn read_back(agent: &mut Agent, card: &GuestNic, done: &Done, settle: Duration) -> Result<()> {
    let until = Instant::now() + settle;
    loop {
        let all = interfaces(agent).await?;
        let found =
            all.iter().find(|interface| interface.mac == Some(card.mac) && interface.name == done.interface);
        let none = BTreeSet::new();
        let addresses = found.map_or(&none, |interface| &interface.addresses);
        match missing(&card.settings, addresses) {
            None => return Ok(()),
            Some(why) if Instant::now() >= until => return Err(Error::Agent(why)),
            Some(_) => sleep(AGAIN).await,
        }
    }
}

/// What of the settings the guest does not have, or has besides them.
fn missing(settings: &AdapterSettings, found: &BTreeSet<(IpAddr, u8)>) -> Option<String> {
    let wanted: BTreeSet<_> = settings.addresses.iter().map(|own| (own.address(), own.prefix())).collect();
    let list = || found.iter().map(|(ip, bits)| format!("{ip}/{bits}")).collect::<Vec<_>>().join(", ");
    if let Some((ip, bits)) = wanted.iter().find(|address| !found.contains(address)) {
        return Some(format!("the guest does not have the address {ip}/{bits}; it has {}", or_none(list())));
    }
    // Only of IPv4: IPv6 addresses also come from routers, which the settings do not speak of.
    let foreign = found.iter().find(|address| address.0.is_ipv4() && !wanted.contains(address));
    let static4 = wanted.iter().any(|(ip, _)| ip.is_ipv4());
    if let (Some((ip, bits)), true) = (foreign, static4) {
        return Some(format!("the guest still has the address {ip}/{bits} besides those that were set"));
    }
    let leased = found.iter().any(|(ip, _)| matches!(ip, IpAddr::V4(v4) if !v4.is_link_local()));
    if settings.dhcp4 && !leased {
        return Some("the guest asks for its address by DHCP, and no server has given it one yet".to_owned());
    }
    None
}

fn or_none(list: String) -> String {
    if list.is_empty() { "none".to_owned() } else { list }
}
