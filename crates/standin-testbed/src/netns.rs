//! Hosts as network namespaces, each with one link to a switch between them; links can be cut and slowed.
//!
//! ```text
//!   host 1 (10.x.y.1)      host 2 (10.x.y.2)      host 3 ...
//!        \ eth0                 | eth0               / eth0
//!         +---------- bridge in a namespace --------+
//! ```
//!
//! Needs root. Names and addresses carry this process's id, so that test runs do not meet; everything goes when
//! the [`Network`] is dropped.

use anyhow::{Context, Result, bail, ensure};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// Hosts that reach each other.
#[derive(Debug)]
pub struct Network {
    switch: String,
    hosts: Vec<Host>,
}

/// One host.
#[derive(Debug, Clone)]
pub struct Host {
    /// Name of its namespace, for `ip netns exec`.
    pub namespace: String,
    /// Its address.
    pub address: IpAddr,
    /// The switch's end of its link.
    port: String,
}

/// How slow a link is made: a token bucket (tc-tbf), which every kernel has. Packets wait in its queue, and are
/// lost when it is full, so under load such a link is also late and lossy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slowness {
    /// Bits a second in each direction.
    pub bits_per_s: u64,
    /// How long a packet may wait in the queue at most.
    pub queue_ms: u32,
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {} (network namespaces need root)", arguments.join(" "), said.trim());
    }
    Ok(())
}

fn ip(line: &str) -> Result<()> {
    run("ip", &line.split_whitespace().collect::<Vec<_>>())
}

impl Network {
    /// Makes `hosts` hosts, 1 to 9.
    ///
    /// # Errors
    /// When the machine does not let us, which mostly means: not root.
    pub fn new(hosts: u8) -> Result<Self> {
        ensure!((1..=9).contains(&hosts), "a network of {hosts} hosts cannot be made: 1 to 9");
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let id = std::process::id();
        let name = |host: &str| format!("si{id}-{number}-{host}");
        let mut this = Self { switch: name("sw"), hosts: Vec::new() };
        ip(&format!("netns add {}", this.switch))?;
        ip(&format!("-n {} link add br0 type bridge", this.switch))?;
        ip(&format!("-n {} link set br0 up", this.switch))?;
        for host in 1..=hosts {
            // The namespaces are closed to each other, so any private range does; it need not be unique.
            let address = Ipv4Addr::new(10, 77, 0, host);
            this.add_host(name(&host.to_string()), format!("port{host}"), address)?;
        }
        Ok(this)
    }

    fn add_host(&mut self, namespace: String, port: String, address: Ipv4Addr) -> Result<()> {
        ip(&format!("netns add {namespace}"))?;
        // Known from here on, so that it goes even if the next step fails.
        self.hosts.push(Host {
            namespace: namespace.clone(),
            address: IpAddr::V4(address),
            port: port.clone(),
        });
        let switch = &self.switch;
        ip(&format!("link add eth0 netns {namespace} type veth peer name {port} netns {switch}"))?;
        ip(&format!("-n {switch} link set {port} master br0 up"))?;
        ip(&format!("-n {namespace} address add {address}/24 dev eth0"))?;
        ip(&format!("-n {namespace} link set lo up"))?;
        ip(&format!("-n {namespace} link set eth0 up"))
    }

    /// A host, from 0 on.
    ///
    /// # Errors
    /// When there are not as many.
    pub fn host(&self, index: usize) -> Result<&Host> {
        self.hosts.get(index).with_context(|| format!("the network has no host {index}"))
    }

    /// Cuts a host off: packets are lost without a word, as by a pulled cable at the switch.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn cut(&self, index: usize) -> Result<()> {
        let port = &self.host(index)?.port;
        ip(&format!("-n {} link set {port} nomaster", self.switch))
    }

    /// Joins a host again that was cut off.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn join(&self, index: usize) -> Result<()> {
        let port = &self.host(index)?.port;
        ip(&format!("-n {} link set {port} master br0", self.switch))
    }

    /// Slows a host's link, in both directions.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn slow(&self, index: usize, slowness: Slowness) -> Result<()> {
        let host = self.host(index)?;
        let Slowness { bits_per_s, queue_ms } = slowness;
        // The bucket holds a hundredth of a second, and at least a few full segments.
        let burst = (bits_per_s / 800).max(16 << 10);
        for (namespace, device) in [(&self.switch, host.port.as_str()), (&host.namespace, "eth0")] {
            let bucket = format!("tbf rate {bits_per_s}bit burst {burst}b latency {queue_ms}ms");
            // In tc's words a plain `b` is bytes for sizes.
            ip(&format!("netns exec {namespace} tc qdisc replace dev {device} root {bucket}"))?;
        }
        Ok(())
    }

    /// Makes a slowed link as fast as it was.
    ///
    /// # Errors
    /// When there is no such host or its link is not slowed.
    pub fn unslow(&self, index: usize) -> Result<()> {
        let host = self.host(index)?;
        ip(&format!("netns exec {} tc qdisc del dev {} root", self.switch, host.port))?;
        ip(&format!("netns exec {} tc qdisc del dev eth0 root", host.namespace))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The links go with their namespaces. Processes still in one keep it alive unnamed until they end.
        let names = self.hosts.iter().map(|host| &host.namespace).chain([&self.switch]);
        for name in names {
            if let Err(error) = ip(&format!("netns delete {name}")) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// Whether this process may make namespaces; tests that need them say so and end early where not.
#[must_use]
pub fn available() -> bool {
    rustix::process::geteuid().is_root() && run("ip", &["-V"]).is_ok()
}
