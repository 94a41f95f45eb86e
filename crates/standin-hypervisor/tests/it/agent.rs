//! The guest agent's client against scripted agents: well ones, and those that hang, die and lie.
//!
//! A script keeps the truth, whether its guest is frozen, apart from what it says. What every test asks in the
//! end is the truth: the guest is not left frozen.

use serde_json::{Value, json};
use standin_hypervisor::agent::{Agent, AgentTimeouts, FrozenGuard, thaw_if_frozen, thaw_left_over};
use standin_hypervisor::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const FREEZE: &str = "guest-fsfreeze-freeze";
const THAW: &str = "guest-fsfreeze-thaw";
const STATUS: &str = "guest-fsfreeze-status";
const SYNC: &str = "guest-sync-delimited";

const SHORT: AgentTimeouts = AgentTimeouts {
    connect: Duration::from_millis(500),
    sync: Duration::from_millis(300),
    call: Duration::from_millis(300),
};

/// What a script does with a request.
enum Act {
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
struct Guest {
    frozen: bool,
    asked: Vec<String>,
    connections: usize,
}

impl Guest {
    fn times(&self, command: &str) -> usize {
        self.asked.iter().filter(|asked| *asked == command).count()
    }
}

struct Script {
    socket: PathBuf,
    guest: Arc<Mutex<Guest>>,
    server: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Drop for Script {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn error(desc: &str) -> Vec<u8> {
    line(&json!({ "error": { "class": "GenericError", "desc": desc } }))
}

fn says(value: Value) -> Vec<u8> {
    line(&json!({ "return": value }))
}

fn line(value: &Value) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

impl Script {
    /// `act` is asked for every request: the command, and how often it was asked before.
    fn start(act: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("agent");
        let listener = UnixListener::bind(&socket).expect("listen");
        let guest = Arc::new(Mutex::new(Guest::default()));
        let server = tokio::spawn(serve(listener, Arc::clone(&guest), act));
        Self { socket, guest, server, _dir: dir }
    }

    fn well() -> Self {
        Self::start(|_, _| Act::Well)
    }

    fn guest<T>(&self, look: impl FnOnce(&mut Guest) -> T) -> T {
        look(&mut self.guest.lock().expect("the script did not panic"))
    }

    fn marker(&self) -> PathBuf {
        self.socket.with_extension("frozen")
    }

    /// As a process that was killed leaves it.
    fn leave_marker(&self) -> PathBuf {
        std::fs::write(self.marker(), self.socket.as_os_str().as_encoded_bytes()).expect("write");
        self.marker()
    }

    async fn connect(&self) -> Agent {
        Agent::connect(&self.socket, SHORT).await.expect("connect")
    }

    async fn freeze(&self, deadline: Duration) -> Result<FrozenGuard> {
        self.connect().await.freeze(deadline).await
    }

    /// The truth becomes: thawed, and a thaw was asked for, and it stays so.
    async fn assert_thawed(&self) {
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

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_well_guest_is_frozen_until_it_is_thawed() {
    let script = Script::well();
    let guard = script.freeze(LONG).await.expect("freeze");
    assert_eq!(guard.frozen_count(), 2);
    assert!(script.guest(|guest| guest.frozen));
    assert!(guard.still_frozen().await.expect("status"));
    guard.thaw().await.expect("thaw");
    assert!(!script.guest(|guest| guest.frozen));
    assert_eq!(script.guest(|guest| guest.times(THAW)), 1);
}

#[tokio::test]
async fn a_guard_that_is_dropped_thaws() {
    let script = Script::well();
    drop(script.freeze(LONG).await.expect("freeze"));
    script.assert_thawed().await;
}

#[tokio::test]
async fn a_guest_is_thawed_at_the_deadline_whatever_the_holder_does() {
    let script = Script::well();
    let begin = Instant::now();
    let guard = script.freeze(Duration::from_millis(300)).await.expect("freeze");
    assert!(guard.still_frozen().await.expect("status"));
    script.assert_thawed().await;
    assert!(begin.elapsed() >= Duration::from_millis(300), "thawed after {:?} only", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(2), "thawed after {:?}", begin.elapsed());
    assert!(!guard.still_frozen().await.expect("status"));
    guard.thaw().await.expect("it is thawed");
}

#[tokio::test]
async fn a_question_that_hangs_does_not_prolong_the_freeze() {
    let script = Script::start(|command, before| match (command, before) {
        // 0: before the freeze, 1: after it, 2: the holder's.
        (STATUS, 2) => Act::Ignore,
        _ => Act::Well,
    });
    let timeouts = AgentTimeouts { call: Duration::from_secs(30), ..SHORT };
    let agent = Agent::connect(&script.socket, timeouts).await.expect("connect");
    let begin = Instant::now();
    let guard = agent.freeze(Duration::from_millis(300)).await.expect("freeze");
    assert!(!guard.still_frozen().await.expect("an answer at the deadline"));
    script.assert_thawed().await;
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_guest_without_an_agent_is_noticed_and_never_sent_a_freeze() {
    let script = Script::start(|_, _| Act::Ignore);
    let begin = Instant::now();
    let outcome = script.freeze(LONG).await;
    assert!(matches!(outcome, Err(Error::Timeout { .. })), "{outcome:?}");
    assert!(begin.elapsed() < Duration::from_secs(2));
    sleep(Duration::from_millis(200)).await;
    assert_eq!(script.guest(|guest| std::mem::take(&mut guest.asked)), [SYNC]);
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on_is_an_error_of_the_connection() {
    let dir = tempfile::tempdir().expect("a directory");
    let gone = dir.path().join("gone");
    let too_long = dir.path().join("x".repeat(200));
    for socket in [&gone, &too_long] {
        let outcome = Agent::connect(socket, SHORT).await;
        assert!(matches!(outcome, Err(Error::Connection { .. })), "{outcome:?}");
    }
    assert!(thaw_if_frozen(&gone).await.is_err());
}

#[tokio::test]
async fn old_output_is_passed_over() {
    let script = Script::start(|command, before| {
        if command != SYNC || before > 0 {
            return Act::Well;
        }
        let mut old = says(json!("frozen"));
        old.extend(error("Parse error"));
        old.extend(says(json!(17)));
        old.extend(b"\n\n{\"return\": \xff\xff{\"return\": 5}\nno json at all\n");
        old.extend(vec![b'x'; 1 << 20]);
        old.extend(b"half a li");
        Act::First(old)
    });
    let mut agent = script.connect().await;
    agent.sync().await.expect("in step");
    assert!(!agent.is_frozen().await.expect("status"));
}

#[tokio::test]
async fn an_answer_that_comes_late_is_not_taken_for_the_next_ones() {
    let script = Script::start(|command, before| match (command, before) {
        (STATUS, 0) => Act::Ignore,
        // The answer to the first question arrives just before that to the next sync.
        (SYNC, 1) => Act::First(says(json!("thawed"))),
        _ => Act::Well,
    });
    script.guest(|guest| guest.frozen = true);
    let mut agent = script.connect().await;
    assert!(matches!(agent.is_frozen().await, Err(Error::Timeout { .. })));
    assert!(agent.is_frozen().await.expect("the next answer is its own"));
    assert_eq!(script.guest(|guest| guest.times(SYNC)), 2, "it found into step first");
}

#[tokio::test]
async fn a_freeze_that_hangs_after_freezing_is_thawed() {
    let script = Script::start(|command, _| match command {
        FREEZE => Act::After(Duration::from_millis(800)),
        _ => Act::Well,
    });
    let outcome = script.freeze(Duration::from_millis(200)).await;
    assert!(matches!(outcome, Err(Error::Timeout { .. })), "{outcome:?}");
    script.assert_thawed().await;
}

#[tokio::test]
async fn a_freeze_that_succeeds_long_after_it_was_given_up_is_thawed() {
    let script = Script::start(|command, _| match command {
        FREEZE => Act::Late(Duration::from_millis(1500)),
        _ => Act::Well,
    });
    assert!(script.freeze(Duration::from_millis(100)).await.is_err());
    // Not frozen yet: a thaw now would be confirmed too early.
    assert!(!script.guest(|guest| guest.frozen));
    assert_eq!(script.guest(|guest| guest.times(THAW)), 0);
    script.assert_thawed().await;
    assert_eq!(script.guest(|guest| guest.times(FREEZE)), 1);
}

#[tokio::test]
async fn an_agent_that_dies_in_the_freeze_is_found_again_and_thawed() {
    let script = Script::start(|command, before| match (command, before) {
        (FREEZE, 0) => Act::Die,
        // It is also slow to come back.
        (SYNC, 1..4) => Act::Die,
        _ => Act::Well,
    });
    let outcome = script.freeze(LONG).await;
    assert!(matches!(outcome, Err(Error::Connection { .. })), "{outcome:?}");
    script.assert_thawed().await;
    assert!(script.guest(|guest| guest.connections) >= 5);
}

#[tokio::test]
async fn an_agent_that_dies_while_the_guest_is_frozen_is_found_again_and_thawed() {
    let script = Script::start(|command, before| match (command, before) {
        (STATUS, 2) => Act::Die,
        _ => Act::Well,
    });
    let guard = script.freeze(LONG).await.expect("freeze");
    assert!(matches!(guard.still_frozen().await, Err(Error::Connection { .. })));
    guard.thaw().await.expect("thaw over a new connection");
    assert!(!script.guest(|guest| guest.frozen));
}

#[tokio::test]
async fn an_agent_that_dies_in_the_thaw_is_asked_again() {
    let script = Script::start(|command, before| match (command, before) {
        (THAW, 0) => Act::Die,
        _ => Act::Well,
    });
    let guard = script.freeze(LONG).await.expect("freeze");
    // It had thawed before it died, so the second thaw found nothing: not certainly frozen until then.
    assert!(guard.thaw().await.is_err());
    assert!(!script.guest(|guest| guest.frozen));
}

#[tokio::test]
async fn a_freeze_of_nothing_is_not_believed() {
    let script = Script::start(|command, _| match command {
        FREEZE => Act::DoAndSay(says(json!(0))),
        _ => Act::Well,
    });
    let outcome = script.freeze(LONG).await.expect_err("a lie").to_string();
    assert!(outcome.contains("no file system"), "{outcome}");
    script.assert_thawed().await;
}

#[tokio::test]
async fn a_freeze_whose_status_says_thawed_is_not_believed() {
    let script = Script::start(|command, _| match command {
        FREEZE => Act::Say(says(json!(3))),
        _ => Act::Well,
    });
    let outcome = script.freeze(LONG).await.expect_err("a lie").to_string();
    assert!(outcome.contains("froze 3 file systems, and that none is"), "{outcome}");
    script.assert_thawed().await;
}

#[tokio::test]
async fn answers_that_make_no_sense_are_not_believed() {
    for nonsense in [
        says(json!("2")),
        says(json!(-1)),
        says(json!(null)),
        line(&json!([])),
        line(&json!({ "event": "X" })),
        b"}\n".to_vec(),
        [vec![b'9'; 1 << 20], b"\n".to_vec()].concat(),
    ] {
        let shown = String::from_utf8_lossy(&nonsense).chars().take(40).collect::<String>();
        let script = Script::start(move |command, _| match command {
            FREEZE => Act::DoAndSay(nonsense.clone()),
            _ => Act::Well,
        });
        let outcome = script.freeze(LONG).await;
        assert!(outcome.is_err(), "{shown}");
        script.assert_thawed().await;
    }
}

#[tokio::test]
async fn a_thaw_that_is_a_lie_is_asked_for_again_until_it_is_true() {
    let script = Script::start(|command, before| match (command, before) {
        (THAW, 0..3) => Act::Say(says(json!(2))),
        _ => Act::Well,
    });
    let guard = script.freeze(LONG).await.expect("freeze");
    guard.thaw().await.expect("thaw");
    assert!(!script.guest(|guest| guest.frozen));
    assert_eq!(script.guest(|guest| guest.times(THAW)), 4);
}

#[tokio::test]
async fn a_thaw_that_is_refused_is_asked_for_again() {
    let script = Script::start(|command, before| match (command, before) {
        (THAW, 0..2) => Act::Say(error("try again")),
        _ => Act::Well,
    });
    drop(script.freeze(LONG).await.expect("freeze"));
    script.assert_thawed().await;
}

#[tokio::test]
async fn a_thaw_that_hangs_is_told_and_goes_on_in_the_background() {
    let script = Script::start(|command, before| match (command, before) {
        (THAW, 0..4) => Act::Ignore,
        _ => Act::Well,
    });
    let guard = script.freeze(LONG).await.expect("freeze");
    let outcome = guard.thaw().await;
    assert!(matches!(outcome, Err(Error::Timeout { .. })), "{outcome:?}");
    assert!(script.guest(|guest| guest.frozen));
    script.assert_thawed().await;
}

#[tokio::test]
async fn a_guest_that_was_not_frozen_to_the_end_is_told() {
    let script = Script::well();
    let guard = script.freeze(LONG).await.expect("freeze");
    script.guest(|guest| guest.frozen = false);
    assert!(!guard.still_frozen().await.expect("status"));
    let outcome = guard.thaw().await.expect_err("it was not frozen").to_string();
    assert!(outcome.contains("not frozen any more"), "{outcome}");
}

#[tokio::test]
async fn a_guest_that_somebody_else_froze_stays_theirs() {
    let script = Script::well();
    script.guest(|guest| guest.frozen = true);
    let outcome = script.freeze(LONG).await.expect_err("frozen already").to_string();
    assert!(outcome.contains("somebody else"), "{outcome}");
    sleep(Duration::from_millis(100)).await;
    assert!(script.guest(|guest| guest.frozen && guest.times(THAW) == 0));
}

#[tokio::test]
async fn a_refused_freeze_is_told_in_words_that_fit_a_log() {
    let script = Script::start(|command, _| match command {
        FREEZE => Act::Say(error(&format!("no\n\u{1b}[31mred {}", "x".repeat(10_000)))),
        _ => Act::Well,
    });
    let outcome = script.freeze(LONG).await.expect_err("refused").to_string();
    assert!(outcome.contains("red") && outcome.len() < 400, "{outcome}");
    assert!(!outcome.contains(char::is_control), "{outcome:?}");
    script.assert_thawed().await;
}

#[tokio::test]
async fn a_caller_that_is_cancelled_in_the_freeze_leaves_a_thawed_guest() {
    let script = Script::start(|command, _| match command {
        FREEZE => Act::After(Duration::from_millis(300)),
        _ => Act::Well,
    });
    timeout(Duration::from_millis(100), script.freeze(LONG)).await.expect_err("cancelled");
    assert!(script.guest(|guest| guest.frozen), "the freeze was on its way");
    script.assert_thawed().await;
}

#[tokio::test]
async fn when_qemu_is_gone_nobody_tries_for_ever() {
    let script = Script::well();
    let guard = script.freeze(LONG).await.expect("freeze");
    std::fs::remove_file(&script.socket).expect("remove");
    script.server.abort();
    let outcome = guard.thaw().await;
    assert!(matches!(outcome, Err(Error::Connection { .. })), "{outcome:?}");
    let marker = script.leave_marker();
    let task = thaw_left_over(&marker).expect("a marker");
    timeout(Duration::from_secs(5), task).await.expect("it ends").expect("join");
    assert!(!marker.exists());
}

#[tokio::test]
async fn what_an_earlier_process_left_frozen_is_thawed() {
    let script = Script::well();
    assert!(!thaw_if_frozen(&script.socket).await.expect("ask"));
    assert_eq!(script.guest(|guest| guest.times(THAW)), 0);
    script.guest(|guest| guest.frozen = true);
    assert!(thaw_if_frozen(&script.socket).await.expect("thaw"));
    assert!(!script.guest(|guest| guest.frozen));
    let marker = script.leave_marker();
    script.guest(|guest| guest.frozen = true);
    let task = thaw_left_over(&marker).expect("a marker");
    assert!(thaw_left_over(&marker).is_none(), "one task is enough");
    timeout(Duration::from_secs(5), task).await.expect("it ends").expect("join");
    assert!(!script.guest(|guest| guest.frozen));
    assert!(!marker.exists());
    assert!(thaw_left_over(&marker).is_none());
}

#[tokio::test]
async fn a_marker_is_there_exactly_while_the_guest_may_be_frozen() {
    let script = Script::start(|command, before| match (command, before) {
        (THAW, 1..4) => Act::Say(error("not yet")),
        _ => Act::Well,
    });
    let marker = script.marker();
    let guard = script.connect().await.with_marker(&marker).freeze(LONG).await.expect("freeze");
    assert_eq!(std::fs::read(&marker).expect("a marker"), script.socket.as_os_str().as_encoded_bytes());
    guard.thaw().await.expect("thaw");
    assert!(!marker.exists());
    drop(script.connect().await.with_marker(&marker).freeze(LONG).await.expect("freeze"));
    let begin = Instant::now();
    while script.guest(|guest| guest.times(THAW)) < 3 {
        assert!(begin.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(10)).await;
    }
    assert!(marker.exists(), "the thaw is not confirmed");
    script.assert_thawed().await;
    let begin = Instant::now();
    while marker.exists() {
        assert!(begin.elapsed() < Duration::from_secs(5), "the marker stays");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn no_freeze_is_sent_while_an_earlier_one_is_being_thawed_or_without_its_marker() {
    let script = Script::well();
    let marker = script.marker();
    let guard = script.connect().await.with_marker(&marker).freeze(LONG).await.expect("freeze");
    // Through another channel to the same guest, which says that it is thawed.
    let other = Script::well();
    let outcome = other.connect().await.with_marker(&marker).freeze(LONG).await.expect_err("busy");
    assert!(outcome.to_string().contains("not yet certainly thawed"), "{outcome}");
    assert!(thaw_left_over(&marker).is_none(), "it is held, not left over");
    guard.thaw().await.expect("thaw");
    let nowhere = marker.join("nowhere");
    let outcome = other.connect().await.with_marker(nowhere).freeze(LONG).await;
    assert!(matches!(outcome, Err(Error::Io { .. })), "{outcome:?}");
    assert_eq!(other.guest(|guest| guest.times(FREEZE)), 0);
}

#[tokio::test]
async fn a_guest_that_somebody_else_froze_gets_no_marker() {
    let script = Script::well();
    script.guest(|guest| guest.frozen = true);
    let marker = script.marker();
    script.connect().await.with_marker(&marker).freeze(LONG).await.expect_err("frozen already");
    assert!(!marker.exists());
}

/// QEMU accepts connections for a guest that has no agent, and takes them one after the other.
#[tokio::test]
async fn a_real_qemu_whose_guest_has_no_agent_is_noticed_in_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("ga");
    let mut qemu = tokio::process::Command::new("qemu-system-x86_64")
        .args(["-machine", "q35", "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none", "-S"])
        .args([
            "-device",
            "virtio-serial-pci",
            "-device",
            "virtserialport,chardev=ga,name=org.qemu.guest_agent.0",
        ])
        .args(["-chardev", &format!("socket,id=ga,server=on,wait=off,path={}", socket.display())])
        .kill_on_drop(true)
        .spawn()
        .expect("QEMU");
    listening(&socket).await;
    for _ in 0..2 {
        let begin = Instant::now();
        let agent = Agent::connect(&socket, SHORT).await.expect("QEMU accepts");
        assert!(matches!(agent.freeze(LONG).await, Err(Error::Timeout { .. })));
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    }
    qemu.kill().await.expect("kill");
    assert!(matches!(Agent::connect(&socket, SHORT).await, Err(Error::Connection { .. })));
}

async fn listening(socket: &Path) {
    let begin = Instant::now();
    while !socket.exists() {
        assert!(begin.elapsed() < Duration::from_secs(20), "QEMU did not start");
        sleep(Duration::from_millis(20)).await;
    }
}
