//! The verbs that work on files: the configuration, certificates, enrolment tokens.

use crate::world::{Ran, binary, ran};
use standin_wire::{Accepted, Hello, PkiDir};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new(extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "host_name = 'a.example.org'\ndata_dir = 'data'\nruntime_dir = 'run'\nlisten = '127.0.0.1:28999'\n{extra}"
        );
        std::fs::write(dir.path().join("standin.toml"), config).unwrap();
        Self { dir }
    }

    async fn run(&self, line: &str) -> Ran {
        let mut command = binary();
        command.env("STANDIN_CONFIG", self.dir.path().join("standin.toml")).args(line.split_whitespace());
        ran(command).await
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn an_authority_is_made_once_shown_and_renewed() {
    let host = Host::new("");
    let missing = host.run("pki show").await;
    assert_eq!(missing.status, 3);
    assert!(missing.stderr.contains("standin pki init"), "{}", missing.stderr);
    let made = host.run("pki init --json").await;
    assert_eq!(made.status, 0, "{}", made.stderr);
    assert_eq!(made.json()["names"], serde_json::json!(["a.example.org", "127.0.0.1"]));
    assert_eq!(made.json()["has_authority"], true);
    assert_eq!(mode(&host.path("data/pki/ca.key")), 0o600);
    assert_eq!(mode(&host.path("data/pki/host.key")), 0o600);
    let again = host.run("pki init").await;
    assert_eq!(again.status, 3);
    assert!(again.stderr.contains("--force"), "{}", again.stderr);
    let renewed = host.run("pki renew --json").await;
    assert_eq!(renewed.status, 0, "{}", renewed.stderr);
    assert_ne!(renewed.json()["fingerprint"], made.json()["fingerprint"]);
    assert_eq!(renewed.json()["authority_fingerprint"], made.json()["authority_fingerprint"]);
    let shown = host.run("pki show").await.stdout;
    assert!(shown.contains("a.example.org") && (shown.contains("364d") || shown.contains("365d")), "{shown}");
    let forced = host.run("pki init --force --name x --json").await;
    assert_ne!(forced.json()["authority_fingerprint"], made.json()["authority_fingerprint"]);
    assert_eq!(forced.json()["names"], serde_json::json!(["x"]));
}

#[tokio::test]
async fn a_token_is_all_of_the_standard_output() {
    let host = Host::new("");
    assert_eq!(host.run("enroll --new b").await.status, 3, "without an authority");
    assert_eq!(host.run("pki init").await.status, 0);
    let token = host.run("enroll --new b.example.org").await;
    assert_eq!(token.status, 0, "{}", token.stderr);
    assert_eq!(token.stdout.lines().count(), 1);
    assert!(
        token.stderr.contains("127.0.0.1:28999") && token.stderr.contains("b.example.org"),
        "{}",
        token.stderr
    );
    assert!(!token.stderr.contains(token.stdout.trim()), "the secret is beside the result");
    let json = host.run("enroll --new b --name 10.0.0.9 --address a:7000 --valid 1h --json").await.json();
    assert_eq!(json["addresses"], serde_json::json!(["a:7000"]));
    assert_eq!(json["names"], serde_json::json!(["b", "10.0.0.9"]));
    assert_eq!(host.run("enroll --new b --valid 30d").await.status, 3);
    assert_eq!(host.run("enroll --new ../b").await.status, 3);
}

#[tokio::test]
async fn a_token_that_is_none_or_leads_nowhere_is_refused() {
    let host = Host::new("");
    let other = Host::new("");
    let ran = other.run("enroll rubbish").await;
    assert_eq!(ran.status, 3);
    assert!(ran.stderr.starts_with("refused (32773)"), "{}", ran.stderr);
    host.run("pki init").await;
    let token = host.run("enroll --new b --address 127.0.0.1:1").await.stdout;
    let ran = other.run(&format!("enroll {}", token.trim())).await;
    assert_eq!(ran.status, 3);
    assert!(
        ran.stderr.starts_with("refused (32777)") && ran.stderr.contains("127.0.0.1:1"),
        "{}",
        ran.stderr
    );
    assert!(!other.path("data/pki/host.crt").exists());
    let own = host.run(&format!("enroll {}", token.trim())).await;
    assert_eq!(own.status, 3, "a host with an authority joined another");
}

#[tokio::test]
async fn with_own_certificates_the_authority_is_left_alone() {
    let host = Host::new("[tls]\ncertificate = '/c'\nkey = '/k'\ntrust = '/t'\n");
    for line in ["pki init", "pki renew", "enroll --new b"] {
        let ran = host.run(line).await;
        assert_eq!(ran.status, 3, "{line}");
        assert!(ran.stderr.contains("32775") && ran.stderr.contains("/c"), "{line}: {}", ran.stderr);
    }
    assert_eq!(host.run("pki show").await.status, 1);
}

#[tokio::test]
async fn a_configuration_that_is_wrong_is_told_by_every_verb_that_needs_it() {
    let host = Host::new("sokcet = 'x'\n");
    for line in ["serve", "status", "pki show", "enroll --new b"] {
        let ran = host.run(line).await;
        assert_eq!(ran.status, 1, "{line}");
        assert!(ran.stderr.contains("line 5") && ran.stderr.contains("\"socket\""), "{line}: {}", ran.stderr);
    }
    let ran = host.run("--socket /nonexistent/s.sock status").await;
    assert_eq!(ran.status, 5, "the configuration is not needed when the socket is given");
}

#[tokio::test]
async fn the_options_win_over_the_environment_and_that_over_the_default() {
    let host = Host::new("");
    let by_config = host.run("status").await;
    assert!(by_config.stderr.contains("run/standin.sock"), "{}", by_config.stderr);
    let by_option = host.run("--socket /nonexistent/o.sock status").await;
    assert!(by_option.stderr.contains("/nonexistent/o.sock"), "{}", by_option.stderr);
    let missing = host.run("--config /nonexistent/standin.toml status").await;
    assert_eq!(missing.status, 1);
    assert!(missing.stderr.contains("/nonexistent/standin.toml"), "{}", missing.stderr);
}

#[tokio::test]
async fn a_daemon_that_cannot_start_ends_with_1_and_a_sentence() {
    let host = Host::new("");
    std::fs::write(host.path("data"), "a file in the way").unwrap();
    let ran = host.run("serve").await;
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("data_dir") && ran.stderr.contains("data"), "{}", ran.stderr);
    let ran = Host::new("[log]\nlevel = 'standin=loud'\n").run("serve").await;
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("log.level"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_data_directory_that_another_daemon_holds_is_refused() {
    let host = Host::new("");
    std::fs::create_dir(host.path("data")).unwrap();
    let _held = standin_durable::DirLock::take(host.path("data")).unwrap();
    let ran = host.run("serve").await;
    assert_eq!(ran.status, 1);
    let pid = std::process::id().to_string();
    assert!(ran.stderr.contains(&pid), "it does not say who holds it: {}", ran.stderr);
}

/// The part of a daemon that signs, for the certificates in `pki`.
async fn sign_for(
    pki: std::path::PathBuf,
    hosts: usize,
) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let dir = PkiDir::new(pki);
        for _ in 0..hosts {
            let (stream, _) = listener.accept().await.unwrap();
            let identity = dir.identity().unwrap();
            match standin_wire::accept(stream, &identity, Hello::new("a", "test")).await.unwrap() {
                Accepted::Enrolment(session) => drop(standin_wire::enroll::serve(session, &dir).await),
                Accepted::Replication(_) => panic!("a host that enrols wants to replicate"),
            }
        }
    });
    (address, serving)
}

#[tokio::test]
async fn a_host_joins_with_a_token_once_and_renews_where_it_joined() {
    let (first, second, third) = (Host::new(""), Host::new(""), Host::new(""));
    let authority = first.run("pki init --json").await.json()["authority_fingerprint"].clone();
    let (address, serving) = sign_for(first.path("data/pki"), 3).await;
    let token = first.run(&format!("enroll --new b.example.org --address {address}")).await.stdout;
    let joined = second.run(&format!("enroll {} --json", token.trim())).await;
    assert_eq!(joined.status, 0, "{}", joined.stderr);
    assert_eq!(joined.json()["names"], serde_json::json!(["b.example.org"]));
    assert_eq!(joined.json()["authority_fingerprint"], authority);
    assert_eq!(joined.json()["has_authority"], false);
    assert_eq!(mode(&second.path("data/pki/host.key")), 0o600);
    let again = third.run(&format!("enroll {}", token.trim())).await;
    assert_eq!(again.status, 3);
    assert!(
        again.stderr.starts_with("refused (32769)") && again.stderr.contains("used already"),
        "{}",
        again.stderr
    );
    let renewed = second.run("pki renew --json").await;
    assert_eq!(renewed.status, 0, "{}", renewed.stderr);
    assert_ne!(renewed.json()["fingerprint"], joined.json()["fingerprint"]);
    serving.await.unwrap();
}

#[tokio::test]
async fn the_token_can_come_from_the_standard_input() {
    let host = Host::new("");
    let mut command = binary();
    command.env("STANDIN_CONFIG", host.path("standin.toml")).args(["enroll", "-"]);
    let ran = ran(command).await;
    assert_eq!(ran.status, 3);
    assert!(ran.stderr.contains("no enrolment token"), "{}", ran.stderr);
}
