//! Basic, and what everybody is told before he says who he is.

use crate::raw::{PASSWORD, Raw, basic, post};
use crate::server::{Server, open, start};
use base64::Engine as _;
use standin_access::AccessSettings;
use standin_access::settings::Limits;
use std::time::{Duration, Instant};

async fn server(settings: AccessSettings) -> Server {
    start(settings, Limits::default()).await
}

#[tokio::test]
async fn the_right_password_gets_in_and_the_endpoint_sees_who_it_is() {
    let server = server(open()).await;
    let mut client = Raw::connect(server.http).await;
    for name in ["alice", "ALICE", "HOST\\alice", "alice@example.org"] {
        let reply = client.post(&[&basic(name, PASSWORD)], b"hello").await;
        assert_eq!(reply.status, 200, "{name}");
        assert!(reply.text().starts_with("user=alice role=operator proof=basic protocol=ws-management"));
        assert!(reply.text().ends_with("\nhello"));
    }
    let latin: Vec<u8> = format!("alice:{PASSWORD}").chars().map(|c| c as u8).collect();
    let latin = format!("Authorization: Basic {}", base64::engine::general_purpose::STANDARD.encode(latin));
    assert_eq!(client.post(&[&latin], b"").await.status, 200);
}

#[tokio::test]
async fn nobody_and_wrong_passwords_get_401_with_the_offers_and_the_connection_goes_on() {
    let server = server(open()).await;
    let mut client = Raw::connect(server.http).await;
    let reply = client.post(&[], b"hello").await;
    assert_eq!(reply.status, 401);
    let offers = reply.headers("www-authenticate");
    assert!(offers[0] == "Negotiate" && offers[1].starts_with("Basic realm="), "{offers:?}");
    assert!(reply.body.is_empty());
    for header in [basic("alice", "wrong"), basic("nobody", PASSWORD)] {
        assert_eq!(client.post(&[&header], b"hello").await.status, 401, "{header}");
    }
    assert_eq!(client.post(&[&basic("alice", PASSWORD)], b"hello").await.status, 200);
    // A password does not make the connection his.
    assert_eq!(client.post(&[], b"hello").await.status, 401);
}

#[tokio::test]
async fn malformed_credentials_are_401() {
    let server = server(open()).await;
    for header in [
        "Authorization: Basic",
        "Authorization: Basic !!!",
        "Authorization: Basic YWxpY2U=",
        "Authorization: Bearer x",
        "Authorization: ",
        "Authorization: Negotiate",
    ] {
        let mut client = Raw::connect(server.http).await;
        assert_eq!(client.post(&[header], b"").await.status, 401, "{header}");
    }
    let mut client = Raw::connect(server.http).await;
    let twice = [&*basic("nobody", "x"), &*basic("alice", PASSWORD)];
    assert_eq!(client.post(&twice, b"").await.status, 401);
}

#[tokio::test]
async fn over_http_a_password_is_neither_offered_nor_taken_unless_the_operator_says_so() {
    let server = server(AccessSettings::default()).await;
    let mut client = Raw::connect(server.http).await;
    let reply = client.post(&[&basic("alice", PASSWORD)], b"hello").await;
    assert_eq!(reply.status, 401);
    assert_eq!(reply.headers("www-authenticate"), ["Negotiate"]);
}

#[tokio::test]
async fn an_unknown_path_is_404_before_anybody_is_asked() {
    let server = server(open()).await;
    let mut client = Raw::connect(server.http).await;
    client.send("GET /other HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(client.reply().await.unwrap().status, 404);
    client.send("POST /other HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(client.reply().await.unwrap().status, 404);
    assert_eq!(client.post(&[&basic("alice", PASSWORD)], b"").await.status, 200);
}

#[tokio::test]
async fn an_endpoint_may_answer_somebody_unknown() {
    let server = server(AccessSettings::default()).await;
    let mut client = Raw::connect(server.http).await;
    let reply = client.post(&["WSMANIDENTIFY: unauthenticated"], b"hello").await;
    assert_eq!((reply.status, reply.text()), (200, "anonymous 5".to_owned()));
    let long = vec![b'x'; 20_000];
    assert_eq!(client.post(&["WSMANIDENTIFY: unauthenticated"], &long).await.status, 401);
}

#[tokio::test]
async fn a_user_who_was_removed_is_refused_within_seconds() {
    let server = server(open()).await;
    let mut client = Raw::connect(server.http).await;
    assert_eq!(client.post(&[&basic("bob", PASSWORD)], b"").await.status, 200);
    server.users.remove("bob").unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(client.post(&[&basic("bob", PASSWORD)], b"").await.status, 401);
}

#[tokio::test]
async fn guessing_is_slowed_down_and_then_not_looked_at_but_who_is_in_is_not_disturbed() {
    let server = server(open()).await;
    let mut inside = Raw::connect(server.http).await;
    assert_eq!(inside.post(&[&basic("alice", PASSWORD)], b"").await.status, 200);
    let begin = Instant::now();
    let mut clients = Vec::new();
    for index in 0..60 {
        let mut client = Raw::connect(server.http).await;
        let header = basic("bob", &format!("guess{index}"));
        client.send(post(&[&header], b"")).await;
        clients.push(client);
        // The first ones are counted before the next ones come.
        tokio::time::sleep(Duration::from_millis(if index < 6 { 150 } else { 0 })).await;
    }
    let begin_inside = Instant::now();
    assert_eq!(inside.post(&[&basic("alice", PASSWORD)], b"").await.status, 200);
    assert!(begin_inside.elapsed() < Duration::from_secs(2));
    let mut later = 0;
    for client in &mut clients {
        let reply = client.reply().await.unwrap();
        assert_eq!(reply.status, 401);
        later += usize::from(!reply.headers("retry-after").is_empty());
    }
    assert!(later > 8, "{later} of 60 were told to come later");
    assert!(begin.elapsed() > Duration::from_secs(4), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn stopping_lets_a_request_end_and_closes_idle_connections() {
    let mut server = server(open()).await;
    let mut idle = Raw::connect(server.http).await;
    assert_eq!(idle.post(&[&basic("alice", PASSWORD)], b"").await.status, 200);
    let mut busy = Raw::connect(server.http).await;
    let request = post(&[&basic("alice", PASSWORD)], b"hello");
    busy.send(&request[..request.len() - 2]).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.stop.cancel();
    assert!(idle.reply().await.is_none());
    busy.send(&request[request.len() - 2..]).await;
    assert_eq!(busy.reply().await.unwrap().status, 200);
    tokio::time::timeout(Duration::from_secs(5), &mut server.ended).await.unwrap().unwrap();
}
