//! What a client can take of memory and time.

use crate::raw::{PASSWORD, Raw, basic, post};
use crate::server::{Server, open, start};
use standin_access::settings::Limits;
use std::time::{Duration, Instant};

fn short() -> Limits {
    Limits {
        head_time: Duration::from_secs(1),
        body_time: Duration::from_secs(1),
        idle_time: Duration::from_secs(3),
        body: 64 << 10,
        head: 16 << 10,
        ..Limits::default()
    }
}

async fn server() -> Server {
    start(open(), short()).await
}

async fn still_serves(server: &Server) {
    let mut client = Raw::connect(server.http).await;
    assert_eq!(client.post(&[&basic("alice", PASSWORD)], b"hello").await.status, 200);
}

#[tokio::test]
async fn a_connection_that_says_nothing_or_half_a_head_is_closed_in_time() {
    let server = server().await;
    for begin in ["", "POST /wsman HT", "POST /wsman HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
        let mut client = Raw::connect(server.http).await;
        client.send(begin).await;
        let since = Instant::now();
        assert!(client.reply().await.is_none(), "{begin:?}");
        assert!(since.elapsed() < Duration::from_secs(3), "{begin:?}: {:?}", since.elapsed());
    }
    still_serves(&server).await;
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_cut_off_at_the_same_time() {
    let server = server().await;
    let mut client = Raw::connect(server.http).await;
    let since = Instant::now();
    let slow = async move {
        client.send("POST /wsman HTTP/1.1\r\n").await;
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            // Fails when the server has closed the connection.
            client.send("X: y\r\n").await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(5), tokio::spawn(slow));
    assert!(ended.await.is_ok_and(|joined| joined.is_err()), "it was never cut off");
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_body_that_does_not_come_is_408() {
    let server = server().await;
    let request = post(&[&basic("alice", PASSWORD)], b"hello");
    let mut client = Raw::connect(server.http).await;
    client.send(&request[..request.len() - 1]).await;
    let reply = client.reply().await.unwrap();
    assert_eq!((reply.status, reply.headers("connection")), (408, vec!["close"]));
    assert!(reply.text().starts_with("refused: "));
    still_serves(&server).await;
}

#[tokio::test]
async fn an_idle_connection_lives_longer_than_a_slow_head_and_then_ends() {
    let server = server().await;
    let mut client = Raw::connect(server.http).await;
    assert_eq!(client.post(&[&basic("alice", PASSWORD)], b"").await.status, 200);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(client.post(&[&basic("alice", PASSWORD)], b"").await.status, 200);
    let since = Instant::now();
    assert!(client.reply().await.is_none());
    assert!((2..6).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
}

#[tokio::test]
async fn bodies_over_the_limit_are_413_however_they_come() {
    let server = server().await;
    let authorization = basic("alice", PASSWORD);
    let head = format!("POST /wsman HTTP/1.1\r\nHost: x\r\n{authorization}\r\n");
    for (length, status) in [("65537", 413), ("99999999999", 413), ("18446744073709551615", 431)] {
        let mut client = Raw::connect(server.http).await;
        client.send(format!("{head}Content-Length: {length}\r\n\r\n")).await;
        assert_eq!(client.reply().await.unwrap().status, status, "{length}");
    }
    let mut client = Raw::connect(server.http).await;
    client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n")).await;
    let chunk = [b"4000\r\n".to_vec(), vec![b'x'; 0x4000], b"\r\n".to_vec()].concat();
    for _ in 0..5 {
        client.send(&chunk).await;
    }
    assert_eq!(client.reply().await.unwrap().status, 413);
    let mut client = Raw::connect(server.http).await;
    let reply = client.post(&[&authorization], &vec![b'x'; 64 << 10]).await;
    assert_eq!(reply.status, 200, "a body of exactly the limit");
    still_serves(&server).await;
}

#[tokio::test]
async fn absurd_lengths_and_heads_are_refused_and_the_server_goes_on() {
    let server = server().await;
    for (head, expected) in [
        ("Content-Length: -1".to_owned(), [400].as_slice()),
        ("Content-Length: 5\r\nContent-Length: 6".to_owned(), &[400]),
        ("Content-Length: 999999999999999999999999999".to_owned(), &[400]),
        ("Transfer-Encoding: nonsense".to_owned(), &[400, 501]),
        (format!("X-Long: {}", "x".repeat(40_000)), &[431, 400]),
        ("X-Many: 1\r\n".repeat(500) + "X-Last: 1", &[431, 400]),
        ("\u{0}".to_owned(), &[400]),
    ] {
        let mut client = Raw::connect(server.http).await;
        client.send(format!("POST /wsman HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n")).await;
        let shown: String = head.chars().take(60).collect();
        let status = client.reply().await.map(|reply| reply.status);
        assert!(status.is_some_and(|status| expected.contains(&status)), "{shown}: {status:?}");
    }
    let mut client = Raw::connect(server.http).await;
    client.send("\u{16}\u{3}\u{1}\u{2}nonsense that is no HTTP\r\n\r\n").await;
    client.reply().await;
    still_serves(&server).await;
}

#[tokio::test]
async fn a_broken_chunk_is_400() {
    let server = server().await;
    let mut client = Raw::connect(server.http).await;
    let authorization = basic("alice", PASSWORD);
    client
        .send(format!(
            "POST /wsman HTTP/1.1\r\nHost: x\r\n{authorization}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        ))
        .await;
    assert_eq!(client.reply().await.unwrap().status, 400);
}

#[tokio::test]
async fn a_chunked_body_is_put_together() {
    let server = server().await;
    let mut client = Raw::connect(server.http).await;
    let authorization = basic("alice", PASSWORD);
    client
        .send(format!(
            "POST /wsman HTTP/1.1\r\nHost: x\r\n{authorization}\r\nTransfer-Encoding: chunked\r\n\r\n"
        ))
        .await;
    for part in ["3\r\nhel\r\n", "2\r\nlo\r\n", "0\r\n\r\n"] {
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.send(part).await;
    }
    let reply = client.reply().await.unwrap();
    assert!(reply.text().ends_with("\nhello"), "{}", reply.text());
}

#[tokio::test]
async fn a_client_that_expects_100_is_told_to_go_on_only_when_it_is_known() {
    let server = server().await;
    let mut client = Raw::connect(server.http).await;
    let head = "POST /wsman HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n";
    client.send(format!("{head}{}\r\n\r\n", basic("alice", PASSWORD))).await;
    assert_eq!(client.reply().await.unwrap().status, 100);
    client.send("hello").await;
    assert_eq!(client.reply().await.unwrap().status, 200);
    let mut stranger = Raw::connect(server.http).await;
    stranger.send(format!("{head}\r\n")).await;
    let reply = stranger.reply().await.unwrap();
    assert_eq!(reply.status, 401);
    assert!(!reply.headers("www-authenticate").is_empty());
}

#[tokio::test]
async fn connections_over_the_number_for_an_address_are_closed_and_those_within_go_on() {
    let limits = Limits { connections_per_address: 4, ..Limits::default() };
    let server = start(open(), limits).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Raw::connect(server.http).await;
        assert_eq!(client.post(&[&basic("alice", PASSWORD)], b"").await.status, 200);
        clients.push(client);
    }
    assert!(Raw::connect(server.http).await.reply().await.is_none());
    assert!(Raw::connect(server.https).await.reply().await.is_none());
    for client in &mut clients {
        assert_eq!(client.post(&[&basic("alice", PASSWORD)], b"").await.status, 200);
    }
    clients.pop();
    tokio::time::sleep(Duration::from_millis(200)).await;
    still_serves(&server).await;
}
