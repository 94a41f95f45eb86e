//! Negotiate by hand: what no client sends.

use crate::raw::Raw;
use crate::server::{open, start};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use standin_access::settings::Limits;

fn header(scheme: &str, token: &[u8]) -> String {
    format!("Authorization: {scheme} {}", STANDARD.encode(token))
}

fn negotiate() -> Vec<u8> {
    let mut message = b"NTLMSSP\0".to_vec();
    message.extend_from_slice(&1_u32.to_le_bytes());
    message.extend_from_slice(&0xe208_8237_u32.to_le_bytes());
    message.extend_from_slice(&[0; 24]);
    message
}

#[tokio::test]
async fn a_first_token_is_answered_with_a_challenge_in_the_scheme_it_came_in() {
    let server = start(open(), Limits::default()).await;
    for scheme in ["Negotiate", "NTLM", "negotiate"] {
        let mut client = Raw::connect(server.http).await;
        let reply = client.post(&[&header(scheme, &negotiate())], b"").await;
        assert_eq!(reply.status, 401);
        let answer = reply.headers("www-authenticate");
        assert_eq!(answer.len(), 1, "{answer:?}");
        let (named, token) = answer[0].split_once(' ').unwrap();
        assert!(named.eq_ignore_ascii_case(scheme));
        assert!(STANDARD.decode(token).unwrap().starts_with(b"NTLMSSP\0\x02"));
    }
}

#[tokio::test]
async fn garbage_is_401_and_the_connection_can_begin_again() {
    let server = start(open(), Limits::default()).await;
    let mut third = b"NTLMSSP\0".to_vec();
    third.extend_from_slice(&3_u32.to_le_bytes());
    third.extend_from_slice(&[0xff; 80]);
    for token in
        [&third[..], b"", b"NTLMSSP\0", b"\x60\x84\xff\xff\xff\xff", b"\xa1\x03", &[0x60; 4000], b"x"]
    {
        let mut client = Raw::connect(server.http).await;
        let reply = client.post(&[&header("Negotiate", token)], b"").await;
        assert_eq!(reply.status, 401);
        assert_eq!(reply.headers("www-authenticate")[0], "Negotiate");
        let reply = client.post(&[&header("Negotiate", &negotiate())], b"").await;
        assert!(reply.headers("www-authenticate")[0].len() > 100);
        let reply = client.post(&[&header("Negotiate", token)], b"").await;
        assert_eq!(reply.status, 401);
        // One address fails often here, and what it is slowed down by is another test's.
        break_even(&server).await;
    }
    let mut client = Raw::connect(server.http).await;
    let reply = client.post(&["Authorization: Negotiate ***"], b"").await;
    assert_eq!(reply.status, 401);
}

/// Nothing that was sent so far disturbs somebody else.
async fn break_even(server: &crate::server::Server) {
    let mut client = Raw::connect(server.http).await;
    assert_eq!(client.post(&[], b"").await.status, 401);
}

#[tokio::test]
async fn a_sealed_message_of_somebody_who_did_not_log_in_on_the_connection_is_refused() {
    let server = start(open(), Limits::default()).await;
    let sealed = "Content-Type: multipart/encrypted;protocol=\"application/HTTP-SPNEGO-session-encrypted\";boundary=\"Encrypted Boundary\"";
    let mut client = Raw::connect(server.http).await;
    assert_eq!(client.post(&[sealed], b"--Encrypted Boundary\r\n").await.status, 401);
    let basic = crate::raw::basic("alice", crate::raw::PASSWORD);
    assert_eq!(client.post(&[sealed, &basic], b"--Encrypted Boundary\r\n").await.status, 400);
}
