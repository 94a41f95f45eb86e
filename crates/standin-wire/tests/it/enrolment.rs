//! A new host gets its certificate, and others do not.

use crate::support::{Host, attempt, hello, host, listener, names, quick, replication};
use standin_wire::enroll::{self, Denied, EnrollError, MAX_TRIES, Registry, Report, Token, TokenError};
use standin_wire::pki::PkiError;
use standin_wire::{Accepted, Error, Identity, PkiDir, TlsFault, accept_with};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;

const QUARTER_HOUR: Duration = Duration::from_secs(900);

fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

fn new_dir() -> (PkiDir, TempDir) {
    let keep = tempfile::tempdir().unwrap();
    (PkiDir::new(keep.path().join("pki")), keep)
}

/// Serves one connection of a host that wants a certificate.
async fn serve_one(listener: &TcpListener, host: &Host) -> Result<Report, EnrollError> {
    let (stream, _) = listener.accept().await.unwrap();
    match accept_with(stream, &host.identity, hello("signer"), &quick()).await? {
        Accepted::Enrolment(session) => enroll::serve(session, &host.dir).await,
        Accepted::Replication(connection) => panic!("{connection:?}"),
    }
}

struct Outcome {
    client: Result<standin_wire::pki::Summary, EnrollError>,
    server: Result<Report, EnrollError>,
}

async fn redeem(host: &Host, dir: &PkiDir, make: impl FnOnce(&str) -> Token, wanted: &[&str]) -> Outcome {
    let (listener, address) = listener().await;
    let token = make(&address);
    let wanted = names(wanted);
    let (client, server) = tokio::join!(enroll::request(&token, dir, &wanted), serve_one(&listener, host));
    Outcome { client, server }
}

fn token(host: &Host, address: &str, called: &[&str]) -> Token {
    let registry = Registry::new(host.dir.clone());
    registry.create(&names(called), &names(&[address]), QUARTER_HOUR, now()).unwrap()
}

/// Enrols `dir` with `host` under `called`. For tests of what comes after.
pub async fn enrol(host: &Host, dir: &PkiDir, called: &[&str]) -> Result<Report, EnrollError> {
    let outcome = redeem(host, dir, |address| token(host, address, called), &[]).await;
    outcome.client?;
    outcome.server
}

fn denied(outcome: Outcome) -> Denied {
    match (outcome.server, outcome.client) {
        (Err(EnrollError::Denied(denied)), Err(EnrollError::Wire(Error::Refused { reason }))) => {
            assert_eq!(reason, denied.to_string(), "the host is told what happened");
            denied
        }
        other => panic!("not denied: {other:?}"),
    }
}

async fn can_meet(client: &Identity, server: &Identity) -> Vec<String> {
    let (client, server) = attempt((client, hello("c")), (server, hello("s")), quick()).await;
    client.unwrap();
    replication(server.unwrap()).peer().names.clone()
}

#[tokio::test]
async fn a_new_host_enrols_and_both_know_each_other() {
    let a = host();
    let (b, _keep) = new_dir();
    let report = enrol(&a, &b, &["host-b.example", "localhost"]).await.unwrap();
    assert!(!report.renewed);
    assert_eq!(report.names, ["host-b.example", "localhost"]);
    let identity = b.identity().unwrap();
    assert_eq!(identity.fingerprint(), report.fingerprint);
    assert_eq!(can_meet(&identity, &a.identity).await, ["host-b.example", "localhost"]);
    assert_eq!(can_meet(&a.identity, &identity).await, ["host-a.example", "localhost"]);
    assert!(!b.has_authority(), "the authority's key stays where it is");
    let mode = std::fs::metadata(b.path().join("host.key")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
}

#[tokio::test]
async fn a_token_makes_one_certificate() {
    let a = host();
    let (listener, address) = listener().await;
    let token = token(&a, &address, &["host-b.example"]);
    let (b, _keep_b) = new_dir();
    let (first, served) = tokio::join!(enroll::request(&token, &b, &[]), serve_one(&listener, &a));
    first.unwrap();
    served.unwrap();
    let (c, _keep_c) = new_dir();
    let (client, server) = tokio::join!(enroll::request(&token, &c, &[]), serve_one(&listener, &a));
    assert_eq!(denied(Outcome { client, server }), Denied::Used);
    assert!(!c.path().join("host.crt").exists());
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let a = host();
    let (b, _keep) = new_dir();
    let make = |address: &str| {
        let long_ago = now() - Duration::from_secs(3600);
        Registry::new(a.dir.clone())
            .create(&names(&["host-b.example"]), &names(&[address]), QUARTER_HOUR, long_ago)
            .unwrap()
    };
    assert_eq!(denied(redeem(&a, &b, make, &[]).await), Denied::Expired);
}

#[tokio::test]
async fn names_that_the_token_is_not_for_are_refused_and_do_not_use_it_up() {
    let a = host();
    let (b, _keep) = new_dir();
    let (listener, address) = listener().await;
    let token = token(&a, &address, &["host-b.example", "b.example"]);
    let wanted = names(&["host-a.example"]);
    let (client, server) = tokio::join!(enroll::request(&token, &b, &wanted), serve_one(&listener, &a));
    assert!(matches!(denied(Outcome { client, server }), Denied::Names { .. }));
    let fewer = names(&["b.example"]);
    let (client, server) = tokio::join!(enroll::request(&token, &b, &fewer), serve_one(&listener, &a));
    assert_eq!(client.unwrap().names, ["b.example"]);
    server.unwrap();
}

/// A token as a thief would make it who saw its number but not its secret.
fn with_another_secret(token: &Token) -> Token {
    use base64::Engine as _;
    let code = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let text = token.to_string();
    let mut bytes = code.decode(text.strip_prefix("standin1.").unwrap()).unwrap();
    bytes[10] ^= 1;
    let end = bytes.len() - 4;
    let crc = crc32fast::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&crc.to_le_bytes());
    Token::parse(&format!("standin1.{}", code.encode(bytes))).unwrap()
}

#[tokio::test]
async fn a_tampered_token_is_refused_and_after_some_tries_the_real_one_too() {
    let a = host();
    let (b, _keep) = new_dir();
    let (listener, address) = listener().await;
    let token = token(&a, &address, &["host-b.example"]);
    let stolen = with_another_secret(&token);
    for _ in 0..MAX_TRIES {
        let (client, server) = tokio::join!(enroll::request(&stolen, &b, &[]), serve_one(&listener, &a));
        assert_eq!(denied(Outcome { client, server }), Denied::Unknown);
    }
    let (client, server) = tokio::join!(enroll::request(&token, &b, &[]), serve_one(&listener, &a));
    assert_eq!(denied(Outcome { client, server }), Denied::Void);
}

#[tokio::test]
async fn a_host_whose_authority_is_not_the_one_of_the_token_is_not_talked_to() {
    let (a, impostor) = (host(), host());
    let (b, _keep) = new_dir();
    let (listener, address) = listener().await;
    let token = token(&a, &address, &["host-b.example"]);
    let (client, server) = tokio::join!(enroll::request(&token, &b, &[]), serve_one(&listener, &impostor));
    let error = client.unwrap_err();
    assert!(
        matches!(&error, EnrollError::Wire(Error::Tls { fault: TlsFault::WrongFingerprint, .. })),
        "{error:?}"
    );
    assert!(error.remedy().contains("Do not go on"), "{}", error.remedy());
    assert!(server.is_err());
    assert!(!b.path().join("host.crt").exists());
}

#[tokio::test]
async fn a_host_with_an_authority_of_its_own_does_not_lose_it_by_enrolling() {
    let (a, b) = (host(), host());
    let token = token(&a, "localhost:1", &["host-b.example"]);
    let error = enroll::request(&token, &b.dir, &[]).await.unwrap_err();
    assert!(matches!(error, EnrollError::Pki(PkiError::OwnAuthority { .. })), "{error:?}");
}

#[tokio::test]
async fn a_host_without_an_authority_says_so_to_whoever_asks() {
    let a = host();
    let (b, _keep) = new_dir();
    let (listener, address) = listener().await;
    let token = token(&a, &address, &["host-b.example"]);
    std::fs::remove_file(a.dir.path().join("ca.key")).unwrap();
    let (client, _server) = tokio::join!(enroll::request(&token, &b, &[]), serve_one(&listener, &a));
    let error = client.unwrap_err();
    assert!(error.to_string().contains("no certificate authority"), "{error}");
}

#[tokio::test]
async fn an_enrolled_host_renews_with_its_certificate_alone() {
    let a = host();
    let (b, _keep) = new_dir();
    enrol(&a, &b, &["host-b.example", "localhost"]).await.unwrap();
    let old = b.summary().unwrap();
    let (listener, address) = listener().await;
    let (client, server) = tokio::join!(enroll::renew(&address, &b), serve_one(&listener, &a));
    let new = client.unwrap();
    assert_ne!(new.fingerprint, old.fingerprint);
    assert_eq!(new.names, old.names);
    assert!(server.unwrap().renewed);
    assert_eq!(can_meet(&b.identity().unwrap(), &a.identity).await, ["host-b.example", "localhost"]);
}

/// Trusted for replication is not trusted for certificates: a host of another authority could otherwise get one of
/// ours for a name it chose itself.
#[tokio::test]
async fn a_host_of_another_trusted_authority_cannot_renew_here() {
    let (a, foreign) = (host(), host());
    let ca = |host: &Host| std::fs::read_to_string(host.dir.path().join("ca.crt")).unwrap();
    a.dir.trust(&ca(&foreign)).unwrap();
    foreign.dir.trust(&ca(&a)).unwrap();
    a.identity.reload().unwrap();
    let (listener, address) = listener().await;
    let (client, server) = tokio::join!(enroll::renew(&address, &foreign.dir), serve_one(&listener, &a));
    assert_eq!(denied(Outcome { client, server }), Denied::NotOurs);
}

/// The way of an authority's replacement to its end: the enrolled host renews, then the old authority goes.
#[tokio::test]
async fn after_the_authority_was_replaced_hosts_renew_and_the_old_one_can_go() {
    let a = host();
    let (b, _keep) = new_dir();
    enrol(&a, &b, &["host-b.example", "localhost"]).await.unwrap();
    let new_authority = a.dir.rotate_authority().unwrap().authority;
    a.identity.reload().unwrap();
    let (listener, address) = listener().await;
    let (client, server) = tokio::join!(enroll::renew(&address, &b), serve_one(&listener, &a));
    assert_eq!(client.unwrap().authority, new_authority);
    server.unwrap();
    for dir in [&a.dir, &b] {
        std::fs::copy(a.dir.path().join("ca.crt"), dir.path().join("trusted.crt")).unwrap();
    }
    a.identity.reload().unwrap();
    can_meet(&b.identity().unwrap(), &a.identity).await;
}

#[test]
fn the_file_of_tokens_holds_no_secret_and_is_for_the_owner_only() {
    let a = host();
    let token = token(&a, "localhost:7110", &["host-b.example"]);
    let path = a.dir.path().join("enrolments.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(&token.id()));
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(token.to_string().strip_prefix("standin1.").unwrap())
        .unwrap();
    let secret: String = bytes[8..24].iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!text.contains(&secret), "the secret is on file");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_token_from_before_the_file_had_a_checksum_is_honoured() {
    let a = host();
    let (b, _keep) = new_dir();
    let path = a.dir.path().join("enrolments.json");
    let as_it_was = |address: &str| {
        let token = token(&a, address, &["host-b.example"]);
        let file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let bare = serde_json::json!({ "format": 1, "tokens": file["body"]["tokens"] });
        std::fs::write(&path, serde_json::to_vec_pretty(&bare).unwrap()).unwrap();
        token
    };
    let outcome = redeem(&a, &b, as_it_was, &[]).await;
    outcome.client.unwrap();
    outcome.server.unwrap();
}

#[test]
fn a_damaged_file_of_tokens_is_named_with_the_way_out() {
    let a = host();
    token(&a, "localhost:7110", &["host-b.example"]);
    let path = a.dir.path().join("enrolments.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("host-b", "host-x")).unwrap();
    let registry = Registry::new(a.dir.clone());
    let error = registry
        .create(&names(&["host-c.example"]), &names(&["localhost:7110"]), QUARTER_HOUR, now())
        .unwrap_err();
    let said = error.to_string();
    assert!(said.contains("enrolments.json") && said.contains("standin enroll --new"), "{said}");
}

#[test]
fn tokens_with_nonsense_are_refused_before_anything_is_tried() {
    for text in ["", "standin1.", "hello", "standin1.@@@@", &format!("standin1.{}", "A".repeat(10_000))] {
        assert!(matches!(Token::parse(text), Err(TokenError(..))), "{text:.20}");
    }
}

#[tokio::test]
async fn with_the_only_authority_gone_an_import_lets_new_hosts_in_and_old_ones_renew() {
    let a = host();
    let [(b, _b), (c, _c), (d, _d)] = [new_dir(), new_dir(), new_dir()];
    enrol(&a, &b, &["host-b.example", "localhost"]).await.unwrap();
    enrol(&a, &d, &["host-d.example", "localhost"]).await.unwrap();
    let (export, authority) =
        (a.dir.export("correct horse battery").unwrap(), a.dir.summary().unwrap().authority);
    drop(a);
    let summary = b.import(&export, "correct horse battery", &[], false).unwrap();
    assert_eq!((summary.authority, summary.names), (authority, names(&["host-b.example", "localhost"])));
    let b = Host::over(b);
    enrol(&b, &c, &["host-c.example", "localhost"]).await.unwrap();
    // The new one and one that enrolled with the old authority know each other.
    let (c, other) = (c.identity().unwrap(), d.identity().unwrap());
    assert_eq!(can_meet(&c, &b.identity).await, ["host-c.example", "localhost"]);
    assert_eq!(can_meet(&c, &other).await, ["host-c.example", "localhost"]);
    assert_eq!(can_meet(&other, &c).await, ["host-d.example", "localhost"]);
    let (listener, address) = listener().await;
    let (client, server) = tokio::join!(enroll::renew(&address, &d), serve_one(&listener, &b));
    client.unwrap();
    server.unwrap();
}

#[tokio::test]
async fn without_an_export_a_new_authority_that_is_trusted_beside_the_old_one_lets_hosts_in_again() {
    let a = host();
    let [(b, _b), (d, _d)] = [new_dir(), new_dir()];
    enrol(&a, &b, &["host-b.example", "localhost"]).await.unwrap();
    enrol(&a, &d, &["host-d.example", "localhost"]).await.unwrap();
    drop(a);
    let old = std::fs::read_to_string(b.path().join("trusted.crt")).unwrap();
    b.init(&names(&["host-b.example", "localhost"]), true).unwrap();
    // Both trust both: `standin pki trust`.
    b.trust(&old).unwrap();
    d.trust(&std::fs::read_to_string(b.path().join("ca.crt")).unwrap()).unwrap();
    let b = Host::over(b);
    let other = d.identity().unwrap();
    assert_eq!(can_meet(&other, &b.identity).await, ["host-d.example", "localhost"]);
    assert_eq!(can_meet(&b.identity, &other).await, ["host-b.example", "localhost"]);
}
