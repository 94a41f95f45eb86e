//! The guest agent's client against scripted agents: well ones, and those that hang, die and lie.
//!
//! What every test asks in the end is not what the agent says but the truth: the guest is not left frozen.

mod script;

use script::{Act, FREEZE, SHORT, STATUS, SYNC, Script, THAW, error, line, says};
use serde_json::json;
use standin_hypervisor::Error;
use standin_hypervisor::agent::{Agent, AgentTimeouts, thaw_if_frozen, thaw_left_over};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

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
