//! The monitor's client against a scripted peer: what a real QEMU does not do on request.

use serde_json::{Value, json};
use standin_hypervisor::Error;
use standin_hypervisor::qmp::Qmp;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

struct Peer {
    requests: Lines<BufReader<OwnedReadHalf>>,
    answers: OwnedWriteHalf,
}

impl Peer {
    async fn request(&mut self) -> Option<Value> {
        let line = self.requests.next_line().await.expect("read")?;
        Some(serde_json::from_str(&line).expect("JSON"))
    }

    async fn say(&mut self, line: &str) {
        self.answers.write_all(line.as_bytes()).await.expect("write");
    }

    async fn answer(&mut self, id: &Value, answer: &str) {
        self.say(&format!("{}\n", json!({ "return": answer, "id": id }))).await;
    }
}

/// A client that is through with the greeting, and its peer.
async fn connected() -> (Qmp, Peer, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("qmp");
    let listener = UnixListener::bind(&socket).expect("bind");
    let accept = async {
        let (stream, _) = listener.accept().await.expect("accept");
        let (read, answers) = stream.into_split();
        let mut peer = Peer { requests: BufReader::new(read).lines(), answers };
        peer.say("{\"QMP\": {}}\n").await;
        let hello = peer.request().await.expect("a request");
        assert_eq!(hello["execute"], "qmp_capabilities");
        peer.answer(&hello["id"], "").await;
        peer
    };
    let (qmp, peer) = tokio::join!(Qmp::connect(&socket, Duration::from_secs(5)), accept);
    (qmp.expect("connect"), peer, dir)
}

#[tokio::test]
async fn answers_find_their_callers_in_any_order_and_between_events() {
    let (qmp, mut peer, _dir) = connected().await;
    let mut events = qmp.events();
    let script = async {
        let (first, second) = (peer.request().await.expect("one"), peer.request().await.expect("two"));
        peer.say("{\"event\": \"STOP\", \"data\": {\"x\": 1}}\n").await;
        for request in [&second, &first] {
            let command = request["execute"].as_str().expect("a command").to_owned();
            peer.answer(&request["id"], &command).await;
        }
    };
    let (one, two, ()) =
        tokio::join!(qmp.execute("one", Value::Null), qmp.execute("two", json!({ "a": 1 })), script);
    assert_eq!((one.expect("one"), two.expect("two")), (json!("one"), json!("two")));
    let event = events.recv().await.expect("an event");
    assert_eq!((event.name.as_str(), &event.data["x"]), ("STOP", &json!(1)));
}

#[tokio::test]
async fn a_refusal_carries_the_command_and_the_reason() {
    let (qmp, mut peer, _dir) = connected().await;
    let script = async {
        let id = peer.request().await.expect("a request")["id"].clone();
        peer.say(&format!(
            "{}\n",
            json!({ "error": { "class": "GenericError", "desc": "no such disk" }, "id": id })
        ))
        .await;
    };
    let (refused, ()) = tokio::join!(qmp.execute("eject", Value::Null), script);
    let refused = refused.expect_err("it was refused");
    assert!(matches!(&refused, Error::Qmp { class, .. } if class == "GenericError"));
    assert_eq!(refused.to_string(), "QEMU refused eject: no such disk (GenericError)");
}

#[tokio::test]
async fn after_a_line_that_is_no_json_nothing_is_believed() {
    let (qmp, mut peer, _dir) = connected().await;
    let script = async {
        let id = peer.request().await.expect("a request")["id"].clone();
        peer.say("garbage\n").await;
        // The client may have closed already.
        let _ = peer.answers.write_all(format!("{}\n", json!({ "return": 1, "id": id })).as_bytes()).await;
    };
    let (answer, ()) = tokio::join!(qmp.execute("query-status", Value::Null), script);
    assert!(answer.expect_err("it is closed").to_string().contains("not JSON"));
    let later = qmp.execute("query-status", Value::Null).await.expect_err("it stays closed");
    assert!(matches!(later, Error::Connection { .. }), "{later}");
}

#[tokio::test]
async fn the_end_of_the_peer_ends_what_is_waited_for() {
    let (qmp, mut peer, _dir) = connected().await;
    let script = async {
        peer.request().await;
        drop(peer);
    };
    let (answer, ()) = tokio::join!(qmp.execute("quit", Value::Null), script);
    assert!(matches!(answer, Err(Error::Connection { .. })));
    assert!(qmp.closed().is_cancelled());
}

#[tokio::test]
async fn the_last_clone_closes_the_connection() {
    let (qmp, mut peer, _dir) = connected().await;
    let clone = qmp.clone();
    drop(qmp);
    let open = tokio::time::timeout(Duration::from_millis(50), peer.request()).await;
    assert!(open.is_err(), "a clone still holds it");
    drop(clone);
    let closed = tokio::time::timeout(Duration::from_secs(5), peer.request()).await;
    assert_eq!(closed.expect("in time"), None);
}

#[tokio::test]
async fn a_caller_that_gives_up_does_not_spoil_the_connection() {
    let (qmp, mut peer, _dir) = connected().await;
    let given_up = tokio::time::timeout(Duration::from_millis(20), qmp.execute("slow", Value::Null)).await;
    assert!(given_up.is_err());
    let script = async {
        let slow = peer.request().await.expect("the slow one");
        peer.answer(&slow["id"], "late").await;
        let next = peer.request().await.expect("the next");
        peer.answer(&next["id"], "next").await;
    };
    let (answer, ()) = tokio::join!(qmp.execute("next", Value::Null), script);
    assert_eq!(answer.expect("next"), json!("next"));
}
