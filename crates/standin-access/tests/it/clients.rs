//! The clients that people use, from their own packages.

use crate::raw::PASSWORD;
use crate::server::{Server, open, start, start_with, user};
use standin_access::AccessSettings;
use standin_access::settings::Limits;
use standin_access::users::NewUser;
use std::path::{Path, PathBuf};
use std::process::Output;
use tokio::process::Command;

/// The Python that has the clients.
fn python() -> PathBuf {
    if let Some(path) = std::env::var_os("STANDIN_PYTHON") {
        return path.into();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/venv/bin/python");
    assert!(
        path.exists(),
        "the Python clients are missing: run scripts/setup, or set STANDIN_PYTHON to a Python that has pypsrp, \
         pywinrm and requests-ntlm"
    );
    path
}

async fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.kill_on_drop(true).output().await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{out}\n{err}");
    out.into_owned()
}

pub async fn script(server: &Server, env: &[(String, String)], name: &str, args: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
    let mut command = Command::new(python());
    command
        .arg(path)
        .args(args)
        .envs(env.iter().cloned())
        .env("REQUESTS_CA_BUNDLE", server.dir.path().join("ca.crt"));
    command.env("HTTP_PORT", server.http.port().to_string());
    command.env("HTTPS_PORT", server.https.port().to_string());
    command.env("PASSWORD", PASSWORD);
    run(&mut command).await
}

pub async fn curl(server: &Server, env: &[(String, String)], args: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["-sS", "--fail-with-body", "--max-time", "30", "--cacert"]);
    command.arg(server.dir.path().join("ca.crt")).args(args).envs(env.iter().cloned());
    run(&mut command).await
}

/// What Python checks by default since 3.13, also where the Python at hand is older.
#[tokio::test]
async fn the_certificates_of_these_tests_pass_the_strict_checks_of_openssl() {
    let server = start(open(), Limits::default()).await;
    let file = |name: &str| server.dir.path().join(name);
    for (certificate, purpose) in [("server.crt", "sslserver"), ("client.crt", "sslclient")] {
        let mut command = Command::new("openssl");
        command.args(["verify", "-x509_strict", "-purpose", purpose, "-no-CApath", "-CAfile"]);
        run(command.arg(file("ca.crt")).arg(file(certificate))).await;
    }
}

fn credentials() -> String {
    format!("alice:{PASSWORD}")
}

/// curl's NTLM takes each byte of a password for a letter, so that only ASCII works there.
const ASCII: &str = "erin:secret";

async fn with_erin(settings: AccessSettings) -> Server {
    start_with(settings, Limits::default(), |users| {
        users.add(NewUser { password: Some("secret".to_owned()), ..user("erin") }).unwrap();
    })
    .await
}

async fn strict() -> Server {
    start(AccessSettings::default(), Limits::default()).await
}

#[tokio::test]
async fn curl_gets_in_by_basic_over_tls() {
    let server = strict().await;
    let url = format!("https://localhost:{}/wsman", server.https.port());
    let text = curl(&server, &[], &["--basic", "-u", &credentials(), "--data", "hello", &url]).await;
    assert!(text.starts_with("user=alice role=operator proof=basic"), "{text}");
    assert!(text.ends_with("\nhello"), "{text}");
}

#[tokio::test]
async fn curl_sends_a_long_body_with_expect_and_in_chunks() {
    let server = strict().await;
    let url = format!("https://localhost:{}/wsman", server.https.port());
    let file = server.dir.path().join("long");
    std::fs::write(&file, vec![b'y'; 900_000]).unwrap();
    let data = format!("@{}", file.display());
    for header in ["Expect: 100-continue", "Transfer-Encoding: chunked"] {
        let args = ["--basic", "-u", &credentials(), "-H", header, "--data-binary", &data, &url];
        let text = curl(&server, &[], &args).await;
        let echoed = text.split_once('\n').map(|(_, body)| body.len());
        assert_eq!(echoed, Some(900_000), "{header}");
    }
}

#[tokio::test]
async fn curl_gets_in_by_ntlm_where_unsealed_messages_are_allowed_and_over_tls_anyway() {
    let open = with_erin(open()).await;
    let url = format!("http://localhost:{}/wsman", open.http.port());
    let text = curl(&open, &[], &["--ntlm", "-u", ASCII, "--data", "hello", &url]).await;
    assert!(text.starts_with("user=erin role=operator proof=ntlm"), "{text}");
    let strict = with_erin(AccessSettings::default()).await;
    let url = format!("https://localhost:{}/wsman", strict.https.port());
    let text = curl(&strict, &[], &["--ntlm", "-u", ASCII, "--data", "hello", &url]).await;
    assert!(text.starts_with("user=erin role=operator proof=ntlm"), "{text}");
}

#[tokio::test]
async fn curl_is_refused_by_ntlm_on_plain_http_unless_it_seals() {
    let server = with_erin(AccessSettings::default()).await;
    let url = format!("http://localhost:{}/wsman", server.http.port());
    let mut command = Command::new("curl");
    command.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--ntlm", "-u", ASCII]);
    let status = run(command.args(["--data", "hello", &url])).await;
    assert_eq!(status, "403");
}

#[tokio::test]
async fn curl_gets_in_by_its_certificate_and_a_stranger_s_certificate_is_nobody_s() {
    let server = strict().await;
    let url = format!("https://localhost:{}/wsman", server.https.port());
    let file = |name: &str| server.dir.path().join(name).display().to_string();
    let mutual = "Authorization: http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual";
    for header in [mutual, "X-None: 1"] {
        let (cert, key) = (file("client.crt"), file("client.key"));
        let text =
            curl(&server, &[], &["--cert", &cert, "--key", &key, "-H", header, "--data", "x", &url]).await;
        assert!(text.starts_with("user=carol role=operator proof=certificate"), "{text}");
        let mut command = Command::new("curl");
        command.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", &file("ca.crt")]);
        command.args(["--cert", &file("stranger.crt"), "--key", &file("stranger.key")]);
        assert_eq!(run(command.args(["-H", header, "--data", "x", &url])).await, "401");
    }
}

/// NTLM sealed on plain HTTP, SPNEGO around NTLM, NTLM over TLS with channel bindings, Basic, a certificate.
#[tokio::test]
async fn pypsrp_gets_in_by_every_way_it_has() {
    let server = strict().await;
    let cert = server.dir.path().join("client.crt").display().to_string();
    let key = server.dir.path().join("client.key").display().to_string();
    let text = script(&server, &[], "with_pypsrp.py", &[&cert, &key]).await;
    assert!(text.ends_with("all done\n"), "{text}");
}

#[tokio::test]
async fn pywinrm_gets_in_sealed_on_plain_http_and_over_tls() {
    let server = strict().await;
    let text = script(&server, &[], "with_pywinrm.py", &[]).await;
    assert!(text.ends_with("all done\n"), "{text}");
}

/// Tokens on the wrong connection, twice, in the wrong order, with foreign channel bindings, anonymous.
#[tokio::test]
async fn tokens_that_do_not_belong_where_they_come_are_refused() {
    let server = start(open(), Limits::default()).await;
    let text = script(&server, &[], "wrong_tokens.py", &[]).await;
    assert!(text.ends_with("all done\n"), "{text}");
}
