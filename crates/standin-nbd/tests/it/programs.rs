//! Running QEMU's and libnbd's programs in a directory of their own.

use standin_nbd::{Client, Error, Target};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A server process. It ends with the test.
pub struct Daemon {
    child: Child,
    pub socket: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    /// Starts `program` and waits until something listens on `socket`.
    pub fn start(program: &str, arguments: &[&str], socket: PathBuf) -> Self {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let mut daemon = Self { child, socket };
        let begin = Instant::now();
        while std::os::unix::net::UnixStream::connect(&daemon.socket).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(20), "{program} does not listen");
            assert!(daemon.child.try_wait().unwrap().is_none(), "{program} ended at once");
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    /// `qemu-nbd` for `image`, read-only, with `more` arguments. Takes part in any number of connections.
    pub fn qemu_nbd(dir: &Path, image: &Path, format: &str, more: &[&str]) -> Self {
        let socket = dir.join("qemu-nbd.sock");
        let mut arguments = vec!["-r", "-t", "-e", "8", "-f", format, "-k", socket.to_str().unwrap()];
        arguments.extend(more);
        arguments.push(image.to_str().unwrap());
        Self::start("qemu-nbd", &arguments, socket.clone())
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub async fn client(&self, export: &str, context: Option<&str>) -> Result<Client, Error> {
        Client::connect(&Target::unix(&self.socket, export), context).await
    }
}

/// Runs a program to its end and returns what it printed; fails the test when the program fails.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = try_run(program, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {} {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program to its end.
pub fn try_run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// Runs a program while this task's runtime goes on, because the server under test lives in it.
pub async fn run_aside(program: &'static str, arguments: Vec<String>) -> Output {
    tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        try_run(program, &arguments)
    })
    .await
    .unwrap()
}

/// `length` bytes that repeat nowhere near, the same for the same `seed`.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}
