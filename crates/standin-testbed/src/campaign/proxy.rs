//! The proxy of a campaign: a process of its own, because it has to be in a host's namespace. It is the
//! campaign's own program, told by its first argument; it takes orders on its standard input.

use crate::tcpproxy::TcpProxy;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// First argument of the program when it is to be the proxy.
pub const PROXY_WORD: &str = "--be-the-proxy";

/// The proxy's process. Ends with its handle.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    front: SocketAddr,
}

impl Proxy {
    /// Starts it in `namespace`, listening on `front`, in front of `target`.
    ///
    /// # Errors
    /// When it cannot be started or cannot listen.
    pub fn start(program: &Path, namespace: &str, front: SocketAddr, target: SocketAddr) -> Result<Self> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(program);
        command.args([PROXY_WORD, &front.to_string(), &target.to_string()]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start the proxy")?;
        let orders = child.stdin.take().context("the proxy has no input")?;
        let answers = child.stdout.take().context("the proxy has no output")?;
        let mut this = Self { child, orders, answers: BufReader::new(answers), front };
        this.ask("flipped")?;
        Ok(this)
    }

    /// Where it listens.
    #[must_use]
    pub fn front(&self) -> SocketAddr {
        self.front
    }

    /// Flips one bit after `bytes` more bytes towards the replica.
    ///
    /// # Errors
    /// When the proxy is gone.
    pub fn flip_after(&mut self, bytes: u64) -> Result<()> {
        self.ask(&format!("flip {bytes}")).map(drop)
    }

    /// How many bits were flipped so far.
    ///
    /// # Errors
    /// When the proxy is gone.
    pub fn flipped(&mut self) -> Result<u64> {
        self.ask("flipped")
    }

    fn ask(&mut self, order: &str) -> Result<u64> {
        writeln!(self.orders, "{order}").context("tell the proxy")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("hear the proxy")?;
        line.trim().parse().with_context(|| format!("the proxy answered {line:?} to {order:?}"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill().and_then(|()| self.child.wait().map(drop));
    }
}

/// What the proxy's process does: obeys until its standard input ends.
///
/// # Errors
/// When it cannot listen, or is told what it does not understand.
pub fn serve(arguments: &[String]) -> Result<()> {
    let [front, target] = arguments else { bail!("{PROXY_WORD} FRONT TARGET") };
    let proxy = TcpProxy::start_at(front.parse()?, target.parse()?)?;
    for line in std::io::stdin().lock().lines() {
        let line = line.context("read an order")?;
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["flip", bytes] => proxy.flip_after(bytes.parse()?),
            ["flipped"] => {}
            _ => bail!("the proxy does not know {line:?}"),
        }
        println!("{}", proxy.flipped());
    }
    Ok(())
}
