//! A scripted guest agent on a unix socket. It keeps the truth, whether its guest is frozen, apart from what it says.

use serde_json::{Value, json};
use standin_hypervisor::Result;
use standin_hypervisor::agent::{Agent, AgentTimeouts, FrozenGuard};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

pub(super) const FREEZE: &str = "guest-fsfreeze-freeze";
pub(super) const THAW: &str = "guest-fsfreeze-thaw";
pub(super) const STATUS: &str = "guest-fsfreeze-status";
pub(super) const SYNC: &str = "guest-sync-delimited";

pub(super) const SHORT: AgentTimeouts = AgentTimeouts {
    connect: Duration::from_millis(500),
    sync: Duration::from_millis(300),
    call: Duration::from_millis(300),
};

/// What a script does with a request.
pub(super) enum Act {
    /// As a well agent does.
    Well,
    /// Do it, and then wait before the answer.
    After(Duration),
    /// Wait before it is even begun.
    Late(Duration),
    /// Say this instead, and do nothing.
    Say(Vec<u8>),
    /// Say this, then do and answer as a well agent.
    First(Vec<u8>),
    /// Do it, and say this instead.
    DoAndSay(Vec<u8>),
    /// Do nothing, say nothing.
    Ignore,
    /// Do it, and lose the connection instead of answering.
    Die,
}

/// The guest behind a script.
#[derive(Default)]
pub(super) struct Guest {
    pub(super) frozen: bool,
    pub(super) asked: Vec<String>,
    pub(super) connections: usize,
}

impl Guest {
    pub(super) fn times(&self, command: &str) -> usize {
        self.asked.iter().filter(|asked| *asked == command).count()
    }
}

pub(super) struct Script {
    pub(super) socket: PathBuf,
    pub(super) guest: Arc<Mutex<Guest>>,
    pub(super) server: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Drop for Script {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub(super) fn error(desc: &str) -> Vec<u8> {
    line(&json!({ "error": { "class": "GenericError", "desc": desc } }))
}

pub(super) fn says(value: Value) -> Vec<u8> {
    line(&json!({ "return": value }))
}

pub(super) fn line(value: &Value) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

impl Script {
    /// `act` is asked for every request: the command, and how often it was asked before.
    pub(super) fn start(act: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("agent");
        let listener = UnixListener::bind(&socket).expect("listen");
        let guest = Arc::new(Mutex::new(Guest::default()));
        let server = tokio::spawn(serve(listener, Arc::clone(&guest), act));
        Self { socket, guest, server, _dir: dir }
    }

    pub(super) fn well() -> Self {
        Self::start(|_, _| Act::Well)
    }

    pub(super) fn guest<T>(&self, look: impl FnOnce(&mut Guest) -> T) -> T {
        look(&mut self.guest.lock().expect("the script did not panic"))
    }

    pub(super) fn marker(&self) -> PathBuf {
        self.socket.with_extension("frozen")
    }

    /// As a process that was killed leaves it.
    pub(super) fn leave_marker(&self) -> PathBuf {
        std::fs::write(self.marker(), self.socket.as_os_str().as_encoded_bytes()).expect("write");
        self.marker()
    }

    pub(super) async fn connect(&self) -> Agent {
        Agent::connect(&self.socket, SHORT).await.expect("connect")
    }

    pub(super) async fn freeze(&self, deadline: Duration) -> Result<FrozenGuard> {
        self.connect().await.freeze(deadline).await
    }

    /// The truth becomes: thawed, and a thaw was asked for, and it stays so.
    pub(super) async fn assert_thawed(&self) {
        let begin = Instant::now();
        while self.guest(|guest| guest.frozen || guest.times(THAW) == 0) {
            assert!(begin.elapsed() < Duration::from_secs(10), "the guest was left frozen");
            sleep(Duration::from_millis(10)).await;
        }
        sleep(Duration::from_millis(50)).await;
        assert!(!self.guest(|guest| guest.frozen), "the guest froze again");
    }
}

/// One connection after the other, as QEMU does it.
async fn serve(listener: UnixListener, guest: Arc<Mutex<Guest>>, act: impl Fn(&str, usize) -> Act + Send) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("accept");
        guest.lock().expect("lock").connections += 1;
        // A client that goes away is none of the script's worries.
        let _ = converse(&mut stream, &guest, &act).await;
    }
}

async fn converse(
    stream: &mut UnixStream,
    guest: &Mutex<Guest>,
    act: &(impl Fn(&str, usize) -> Act + Send),
) -> std::io::Result<()> {
    let mut rest = Vec::new();
    loop {
        let request = next_request(stream, &mut rest).await?;
        let command = request["execute"].as_str().expect("a command").to_owned();
        let before = {
            let mut guest = guest.lock().expect("lock");
            guest.asked.push(command.clone());
            guest.times(&command) - 1
        };
        let truth = || obey(&mut guest.lock().expect("lock"), &request);
        match act(&command, before) {
            Act::Well => stream.write_all(&truth()).await?,
            Act::After(delay) => {
                let answer = truth();
                sleep(delay).await;
                stream.write_all(&answer).await?;
            }
            Act::Late(delay) => {
                sleep(delay).await;
                let answer = truth();
                stream.write_all(&answer).await?;
            }
            Act::Say(bytes) => stream.write_all(&bytes).await?,
            Act::DoAndSay(bytes) => {
                truth();
                stream.write_all(&bytes).await?;
            }
            Act::First(mut bytes) => {
                bytes.extend(truth());
                stream.write_all(&bytes).await?;
            }
            Act::Ignore => {}
            Act::Die => {
                truth();
                return Ok(());
            }
        }
    }
}

async fn next_request(stream: &mut UnixStream, rest: &mut Vec<u8>) -> std::io::Result<Value> {
    loop {
        if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let text: Vec<u8> = rest.drain(..=end).collect();
            let text = text.rsplit(|byte| *byte == 0xff).next().unwrap_or_default();
            return Ok(serde_json::from_slice(text)?);
        }
        if stream.read_buf(rest).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// What a well agent does and answers.
fn obey(guest: &mut Guest, request: &Value) -> Vec<u8> {
    match request["execute"].as_str() {
        Some(SYNC) => {
            let mut answer = vec![0xff];
            answer.extend(says(request["arguments"]["id"].clone()));
            answer
        }
        Some(STATUS) => says(json!(if guest.frozen { "frozen" } else { "thawed" })),
        Some(FREEZE) if guest.frozen => error("The command is not allowed while frozen"),
        Some(FREEZE) => {
            guest.frozen = true;
            says(json!(2))
        }
        Some(THAW) => says(json!(if std::mem::take(&mut guest.frozen) { 2 } else { 0 })),
        _ => error("unknown command"),
    }
}
