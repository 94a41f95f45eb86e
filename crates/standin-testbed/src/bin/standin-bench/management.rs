//! The management API under load: Gets of a relationship by WS-Management over HTTPS, an enumeration of a thousand
//! VMs in pages, and whether the daemon's memory stays what it was.
//!
//! One daemon has all VMs; one of them runs and replicates to a second daemon while it is asked for. The clients are
//! 16 connections that stay, each with one request under way, all of one thread of this process: they share the
//! processors with the daemon. Every request has its name and password, and every reply is looked at: its status, the
//! request it answers, the instance it is about.

mod client;

use crate::Report;
use crate::rig::{self, Hosts};
use anyhow::{Context, Result, bail, ensure};
use client::{Connection, Server};
use standin_testbed::builds::find_binary;
use standin_testbed::daemon::Daemon;
use standin_testbed::measure::{Measurement, Target, median, percentile, seconds};
use standin_testbed::process;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// VMs of the daemon, the one that replicates included.
const VMS: usize = 1000;
const CONNECTIONS: usize = 16;
const ROUNDS: usize = 5;
/// Requests of a round; those of all rounds are what memory has to be flat over.
const REQUESTS: usize = 20_000;
/// Requests before anything is counted: threads start, the allocator and the memory of passwords fill.
const WARM_UP: usize = 10_000;
const PAGE: usize = 100;
const ENUMERATIONS: usize = 7;

const RELATIONSHIP: &str = "Msvm_ReplicationRelationship";
const SYSTEM: &str = "Msvm_ComputerSystem";
const USER: &str = "bench";
const PASSWORD: &str = "correct Horse 7";
const MIB: f64 = 1_048_576.0;

/// Measures the targets.
///
/// # Errors
/// When something could not be measured, or an answer was wrong.
pub fn run(report: &mut Report) -> Result<()> {
    let address = rig::free_port([127, 0, 0, 1])?;
    let hosts = Hosts::start_with(report.dir(), "management", &settings(address))?;
    add_user(&hosts.primary)?;
    let vm = replicated(&hosts)?;
    define_others(&hosts)?;
    let trust = hosts.primary.dir().join("data/pki/trusted.crt");
    let server = Server::new(address, &trust, USER, PASSWORD)?;
    let stranger = Server::new(address, &trust, USER, "a wrong password")?;
    let pid = hosts.primary.pid().context("the daemon does not run")?;
    // One thread: what the clients take is taken from the daemon.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    runtime.block_on(async {
        gets(report, &server, pid, &format!("Microsoft:{}\\HVR\\0", vm.to_ascii_uppercase())).await?;
        enumerations(report, &server, pid).await?;
        let (status, _) = stranger.connect().await?.post(&client::get("uuid:0", RELATIONSHIP, "x")).await?;
        ensure!(status == 401, "a wrong password was answered with {status}");
        Ok(())
    })
}

fn settings(address: SocketAddr) -> String {
    format!(
        "[management]\nlisten = \"{}\"\nwsman_http = 0\nwsman_https = {}\ncimxml_http = 0\ncimxml_https = 0\n",
        address.ip(),
        address.port()
    )
}

fn add_user(daemon: &Daemon) -> Result<()> {
    let mut command = Command::new(find_binary()?);
    command.env("STANDIN_CONFIG", daemon.config_path());
    command.args(["user", "add", USER, "--role", "viewer", "--password-stdin"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("add a user")?;
    let mut input = child.stdin.take().context("no way to tell the password")?;
    writeln!(input, "{PASSWORD}").context("tell the password")?;
    drop(input);
    let status = child.wait().context("wait for `standin user add`")?;
    ensure!(status.success(), "`standin user add` failed ({status})");
    Ok(())
}

/// A VM without an operating system that runs and replicates every few seconds; its id.
fn replicated(hosts: &Hosts) -> Result<String> {
    let dir = hosts.vm_dir();
    std::fs::create_dir_all(&dir).context("make the VMs' directory")?;
    let disk = dir.join("root.raw");
    std::fs::File::create(&disk).and_then(|file| file.set_len(64 << 20)).context("make a disk")?;
    let definition = rig::define_idle(&dir, "vm", &disk)?;
    hosts.start_vm(&definition, "vm")?;
    rig::wait_halted(&hosts.primary)?;
    hosts.replicate("vm", &["--interval", "5s"])?;
    let status = hosts.wait_cycles("vm", 2, Duration::from_secs(60))?;
    Ok(status["id"].as_str().with_context(|| format!("no id in {status}"))?.to_owned())
}

/// The VMs that are only there, switched off, each with a disk of its own.
fn define_others(hosts: &Hosts) -> Result<()> {
    let begun = Instant::now();
    for number in 1..VMS {
        let name = format!("vm-{number:04}");
        let disk = hosts.vm_dir().join(format!("{name}.raw"));
        std::fs::File::create(&disk).and_then(|file| file.set_len(1 << 20)).context("make a disk")?;
        let definition = rig::define_idle(&hosts.vm_dir(), &name, &disk)?;
        // With an identity of its own the daemon need not look through all VMs for one of the same name.
        let text = std::fs::read_to_string(&definition).context("read the definition")?;
        let text = format!("uuid = \"{}\"\n{text}", uuid::Uuid::new_v4());
        std::fs::write(&definition, text).context("write the definition")?;
        hosts.primary.run(&["vm", "define", &definition.to_string_lossy()])?;
    }
    println!("  {VMS} VMs defined in {:.0} s", seconds(begun.elapsed()));
    Ok(())
}

/// What a number of requests took.
struct Load {
    elapsed: f64,
    /// Milliseconds of each request.
    times: Vec<f64>,
    /// Processor time of the daemon.
    daemon: f64,
}

async fn gets(report: &mut Report, server: &Server, pid: i32, instance: &str) -> Result<()> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(server.connect().await?);
    }
    ensure_replicates(&mut connections[0], instance).await?;
    load(&mut connections, pid, instance, WARM_UP).await?;
    let before = process::memory(pid)?;
    let (mut rates, mut times, mut daemon) = (Vec::new(), Vec::new(), 0.0);
    for _ in 0..ROUNDS {
        let mut round = load(&mut connections, pid, instance, REQUESTS).await?;
        let rate = REQUESTS as f64 / round.elapsed;
        println!(
            "  {rate:.0} Gets a second, p99 {:.2} ms, {:.0} us of the daemon each, load {}",
            percentile(&round.times, 99.0).unwrap_or_default(),
            round.daemon * 1e6 / REQUESTS as f64,
            rig::load_average()
        );
        rates.push(rate);
        times.append(&mut round.times);
        daemon += round.daemon;
    }
    let after = process::memory(pid)?;
    let rate = median(&rates).context("nothing was measured")?;
    let p99 = percentile(&times, 99.0).context("nothing was measured")?;
    let grown = (after.resident as f64 - before.resident as f64) / MIB;
    let name = "Gets a second, WS-Management over HTTPS";
    report.add(Measurement::new(name, rate, "/s", None, Target::ValueAtLeast(5000.0)))?;
    report.add(Measurement::new("time of such a Get, p99", p99, "ms", None, Target::ValueAtMost(20.0)))?;
    let name = "memory that 100,000 such Gets leave taken";
    report.add(Measurement::new(name, grown, "MiB", None, Target::ValueAtMost(4.0)))?;
    report.note(format!(
        "management: Gets of {RELATIONSHIP} of a VM that replicates, on a daemon of {VMS} VMs; {CONNECTIONS} connections \
         that stay, Basic on each request, {ROUNDS} rounds of {REQUESTS} after {WARM_UP} to warm up; median {:.2} ms, \
         longest {:.1} ms; {:.0} us of the daemon's processor time each; resident {:.1} MiB before, {:.1} after; load \
         average at the end {}",
        median(&times).unwrap_or_default(),
        percentile(&times, 100.0).unwrap_or_default(),
        daemon * 1e6 / (ROUNDS * REQUESTS) as f64,
        before.resident as f64 / MIB,
        after.resident as f64 / MIB,
        rig::load_average()
    ));
    Ok(())
}

/// What is asked for must be a relationship: an instance in state 0 stands for a VM that has none.
async fn ensure_replicates(connection: &mut Connection, instance: &str) -> Result<()> {
    let text = connection.ask(&client::get("uuid:0", RELATIONSHIP, instance)).await?;
    let state = text.split_once("<p:ReplicationState>").and_then(|(_, rest)| rest.split_once('<'));
    let (state, _) = state.with_context(|| format!("no state in {text}"))?;
    ensure!(state != "0", "the VM has no replication: {text}");
    Ok(())
}

/// Shares `requests` among the connections, which are all busy until the last ones are done.
async fn load(connections: &mut Vec<Connection>, pid: i32, instance: &str, requests: usize) -> Result<Load> {
    let daemon = process::cpu_time_fine(pid)?;
    let begun = Instant::now();
    let share = requests / connections.len();
    let tasks: Vec<_> = connections
        .drain(..)
        .enumerate()
        .map(|(number, connection)| tokio::spawn(ask(connection, number, share, instance.to_owned())))
        .collect();
    let mut times = Vec::with_capacity(requests);
    for task in tasks {
        let (connection, mut some) = task.await.context("a client stopped")??;
        connections.push(connection);
        times.append(&mut some);
    }
    let elapsed = seconds(begun.elapsed());
    ensure!(times.len() == requests, "{} of {requests} requests were made", times.len());
    Ok(Load { elapsed, times, daemon: seconds(process::cpu_time_fine(pid)?.saturating_sub(daemon)) })
}

async fn ask(
    mut connection: Connection,
    number: usize,
    count: usize,
    instance: String,
) -> Result<(Connection, Vec<f64>)> {
    let about = format!("<p:InstanceID>{instance}</p:InstanceID>");
    let mut times = Vec::with_capacity(count);
    for request in 0..count {
        let message = format!("uuid:{number:08x}-0000-4000-8000-{request:012x}");
        let body = client::get(&message, RELATIONSHIP, &instance);
        let begun = Instant::now();
        let reply = connection.ask(&body).await?;
        times.push(seconds(begun.elapsed()) * 1e3);
        let right = reply.contains(&message) && reply.contains(&about) && reply.ends_with("</s:Envelope>");
        ensure!(right, "not the reply to {message}: {reply}");
    }
    Ok((connection, times))
}

async fn enumerations(report: &mut Report, server: &Server, pid: i32) -> Result<()> {
    let mut connection = server.connect().await?;
    // The first one warms up.
    enumerate(&mut connection).await?;
    let before = process::cpu_time_fine(pid)?;
    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..ENUMERATIONS {
        let begun = Instant::now();
        bytes = enumerate(&mut connection).await?;
        times.push(seconds(begun.elapsed()));
    }
    let daemon = seconds(process::cpu_time_fine(pid)?.saturating_sub(before));
    let took = median(&times).context("nothing was measured")?;
    let name = "enumerating 1,000 VMs in pages of 100";
    report.add(Measurement::new(name, took, "s", None, Target::ValueAtMost(0.5)))?;
    report.note(format!(
        "enumeration: {SYSTEM} in {ENUMERATIONS} rounds, {:.2} MiB of replies each; longest {:.3} s; {:.1} ms of the \
         daemon's processor time each; load average at the end {}",
        bytes as f64 / MIB,
        percentile(&times, 100.0).unwrap_or_default(),
        daemon * 1e3 / ENUMERATIONS as f64,
        rig::load_average()
    ));
    Ok(())
}

/// Reads all VMs and the host, page by page; bytes of all replies.
async fn enumerate(connection: &mut Connection) -> Result<usize> {
    let item = format!("<p:{SYSTEM} ");
    let (mut seen, mut bytes) = (0, 0);
    let mut request = client::enumerate("uuid:1", SYSTEM, PAGE);
    for _ in 0..=VMS {
        let reply = connection.ask(&request).await?;
        bytes += reply.len();
        let items = reply.matches(item.as_str()).count();
        ensure!(items > 0 && items <= PAGE, "a page of {items} instances");
        seen += items;
        if reply.contains("EndOfSequence/>") {
            ensure!(seen == VMS + 1, "{seen} systems instead of {VMS} VMs and their host");
            return Ok(bytes);
        }
        let context = reply.split_once("<n:EnumerationContext>").and_then(|(_, rest)| rest.split_once('<'));
        let (context, _) = context.context("a page without a context")?;
        request = client::pull("uuid:2", SYSTEM, context, PAGE);
    }
    bail!("the enumeration has no end")
}
