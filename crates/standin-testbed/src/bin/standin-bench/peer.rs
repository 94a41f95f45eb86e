//! The peer of the first copy: `nbdcopy` from a `qemu-nbd` of the image into a `qemu-nbd` with mutual TLS that
//! writes a file, on the same machine, with the certificates of the same authority.

use crate::rig::free_port;
use anyhow::{Context, Result, bail, ensure};
use standin_testbed::{daemon::Daemon, process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(15);
/// The address in the replica host's certificate.
const SERVER: [u8; 4] = [127, 0, 0, 2];

/// A server that ends with its value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("qemu-nbd was not ended: {error}");
        }
    }
}

/// The certificates of two hosts as GnuTLS programs want them: fixed names in a directory.
pub struct Certificates {
    server: PathBuf,
    client: PathBuf,
}

impl Certificates {
    /// Copies those of the daemons: the primary is the client.
    ///
    /// # Errors
    /// When they cannot be read or copied.
    pub fn of(primary: &Daemon, replica: &Daemon, dir: &Path) -> Result<Self> {
        let copy = |host: &Daemon, role: &str| -> Result<PathBuf> {
            let (from, to) = (host.dir().join("data/pki"), dir.join(role));
            fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
            for (source, name) in [
                ("trusted.crt", "ca-cert.pem".to_owned()),
                ("host.crt", format!("{role}-cert.pem")),
                ("host.key", format!("{role}-key.pem")),
            ] {
                let source = from.join(source);
                fs::copy(&source, to.join(name)).with_context(|| format!("copy {}", source.display()))?;
            }
            Ok(to)
        };
        Ok(Self { server: copy(replica, "server")?, client: copy(primary, "client")? })
    }
}

/// How many connections the programs may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// As `qemu-nbd` comes: one client with one connection.
    Default,
    /// Both servers take any number (`--shared=0`); `nbdcopy` then uses four.
    Several,
}

/// Copies `image` over TLS into `target`. How long `nbdcopy` took, its flush included: it ends with the request to
/// flush, which `qemu-nbd`, whose cache is write-back, answers when the file is synced.
///
/// # Errors
/// When a program is missing or fails, or the copy is not equal.
pub fn nbdcopy(
    image: &Path,
    target: &Path,
    certificates: &Certificates,
    connections: Connections,
) -> Result<Duration> {
    let size = fs::metadata(image).with_context(|| format!("inspect {}", image.display()))?.len();
    let file = fs::File::create(target).with_context(|| format!("make {}", target.display()))?;
    file.set_len(size).with_context(|| format!("size {}", target.display()))?;
    let socket = target.with_extension("sock");
    let address = free_port(SERVER)?;
    let mut source = Command::new("qemu-nbd");
    source.args(["--persistent", "--read-only", "--format=raw"]);
    source.arg(format!("--socket={}", socket.display())).arg(image);
    let mut sink = Command::new("qemu-nbd");
    sink.args(["--persistent", "--format=raw", "--tls-creds=tls0"]);
    if connections == Connections::Several {
        source.arg("--shared=0");
        sink.arg("--shared=0");
    }
    let credentials = format!(
        "tls-creds-x509,id=tls0,endpoint=server,verify-peer=on,dir={}",
        certificates.server.display()
    );
    sink.args(["--object", &credentials, &format!("--bind={}", address.ip())]);
    sink.arg(format!("--port={}", address.port())).arg(target);
    let _servers = (start(source)?, start(sink)?);
    wait_for(|| socket.exists())?;
    wait_for(|| std::net::TcpStream::connect(address).is_ok())?;
    let mut copy = Command::new("nbdcopy");
    copy.arg("--flush").arg(format!("nbd+unix:///?socket={}", socket.display()));
    copy.arg(format!("nbds://{address}/?tls-certificates={}", certificates.client.display()));
    let begun = Instant::now();
    let output = copy.stdin(Stdio::null()).output().context("run nbdcopy")?;
    let took = begun.elapsed();
    if !output.status.success() {
        bail!("nbdcopy failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(took)
}

/// A copy that is not the source would be no peer.
///
/// # Errors
/// When the files differ or `cmp` cannot be run.
pub fn ensure_equal(image: &Path, target: &Path) -> Result<()> {
    let status = Command::new("cmp").arg("--silent").arg(image).arg(target).stdin(Stdio::null()).status();
    let status = status.context("run cmp")?;
    ensure!(status.success(), "{} differs from {}", target.display(), image.display());
    Ok(())
}

fn start(mut command: Command) -> Result<Server> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("start qemu-nbd")?;
    let server = Server(child);
    let pid = i32::try_from(server.0.id()).context("a process id")?;
    ensure!(process::is_alive(pid), "qemu-nbd ended at once");
    Ok(server)
}

fn wait_for(ready: impl Fn() -> bool) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while !ready() {
        ensure!(Instant::now() < until, "qemu-nbd does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
