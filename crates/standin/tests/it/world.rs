//! One test's world: a directory, a server with a scripted service, and the built binary.

use crate::scripted::Scripted;
use standin::api::server::{Server, ServerOptions};
use standin_model::RelationshipSettings;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// No verb of these tests takes longer, on a loaded machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// The built binary, away from the configuration and the environment of the machine.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_standin"));
    command.env_clear().env("TZ", "UTC").env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// What a verb did.
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The one JSON document on the standard output.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in {:?}, with {:?}", self.stdout, self.stderr))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is text");
        Self {
            status: output.status.code().expect("ended by a signal"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// Runs a command to its end.
pub async fn ran(mut command: Command) -> Ran {
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("the verb hangs");
    output.expect("the binary runs").into()
}

/// A directory with a served socket in it.
pub struct World {
    pub dir: TempDir,
    pub service: Arc<Scripted>,
    stop: CancellationToken,
    server: Option<JoinHandle<anyhow::Result<()>>>,
}

impl World {
    /// Serves `service`.
    pub fn new(service: Scripted) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut world =
            Self { dir, service: Arc::new(service), stop: CancellationToken::new(), server: None };
        world.serve();
        world
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s.sock")
    }

    pub fn options(&self) -> ServerOptions {
        ServerOptions {
            socket: self.socket(),
            group: None,
            defaults: RelationshipSettings { scratch_reserve: 4242, ..RelationshipSettings::default() },
            grace: Duration::from_secs(5),
        }
    }

    /// Begins to serve, for the first time or again.
    pub fn serve(&mut self) {
        self.stop = CancellationToken::new();
        let server = Server::bind(self.options()).expect("the socket can be bound");
        self.server = Some(tokio::spawn(server.run(self.service.clone(), self.stop.clone())));
    }

    /// Stops serving, in order.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        let server = self.server.take().expect("it was serving");
        server.await.expect("it did not panic").expect("it ended well");
    }

    /// The binary with this world's socket and `line` as its arguments.
    pub fn command(&self, line: &str) -> Command {
        let mut command = binary();
        command
            .env("STANDIN_SOCKET", self.socket())
            .args(line.split_whitespace())
            .current_dir(self.dir.path());
        command
    }

    /// Runs a verb to its end.
    pub async fn run(&self, line: &str) -> Ran {
        ran(self.command(line)).await
    }
}
