//! Kerberos against a throw-away realm: MIT's KDC, started by the test with files of its own.

use crate::clients::{curl, script};
use crate::server::{Server, start_with, user};
use standin_access::AccessSettings;
use standin_access::settings::Limits;
use standin_access::users::NewUser;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::{Child, Command};

const REALM: &str = "STANDIN.TEST";

/// A KDC; dropping it ends it.
struct Realm {
    dir: tempfile::TempDir,
    _kdc: Child,
}

/// A program of MIT's, most of which are for administrators.
fn program(name: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(|place| Path::new(place).join(name));
    places.into_iter().find(|path| path.exists()).unwrap_or_else(|| {
        panic!("{name} is missing: run scripts/setup, or install krb5-kdc, krb5-admin-server and krb5-user")
    })
}

impl Realm {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let client = format!(
            "[libdefaults]\ndefault_realm = {REALM}\nrdns = false\ndns_canonicalize_hostname = false\n\
             dns_lookup_kdc = false\n[realms]\n{REALM} = {{\n kdc = 127.0.0.1:{port}\n}}\n\
             [domain_realm]\nlocalhost = {REALM}\n"
        );
        std::fs::write(at("krb5.conf"), client).unwrap();
        let kdc = format!(
            "[kdcdefaults]\nkdc_listen = 127.0.0.1:{port}\nkdc_tcp_listen = 127.0.0.1:{port}\n[realms]\n{REALM} = {{\n \
             database_name = {}\n key_stash_file = {}\n acl_file = {}\n max_life = 1h\n}}\n[logging]\nkdc = FILE:{}\n",
            at("principal"),
            at("stash"),
            at("acl"),
            at("kdc.log")
        );
        std::fs::write(at("kdc.conf"), kdc).unwrap();
        run(command(dir.path(), "kdb5_util").args(["create", "-s", "-r", REALM, "-P", "master"])).await;
        let keytab = format!("ktadd -k {} HTTP/localhost host/localhost", at("keytab"));
        for query in [
            "addprinc -pw secret alice",
            "addprinc -pw secret mallory",
            "addprinc -randkey HTTP/localhost",
            "addprinc -randkey host/localhost",
            &keytab,
        ] {
            run(command(dir.path(), "kadmin.local").args(["-r", REALM, "-q", query])).await;
        }
        let kdc = command(dir.path(), "krb5kdc").arg("-n").kill_on_drop(true).spawn().unwrap();
        let realm = Self { dir, _kdc: kdc };
        realm.log_in("alice").await;
        realm
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Gets a ticket; the KDC may take a moment to start.
    async fn log_in(&self, name: &str) {
        for _ in 0..50 {
            let mut kinit = command(self.dir.path(), "kinit");
            kinit.arg(name).stdin(std::process::Stdio::piped()).kill_on_drop(true);
            let mut kinit = kinit.stdout(std::process::Stdio::null()).spawn().unwrap();
            let mut input = kinit.stdin.take().unwrap();
            // Without a KDC it ends before it reads.
            let asked = tokio::io::AsyncWriteExt::write_all(&mut input, b"secret\n").await.is_ok();
            drop(input);
            if kinit.wait().await.unwrap().success() && asked {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("no ticket within ten seconds: {}", std::fs::read_to_string(self.path("kdc.log")).unwrap());
    }

    fn environment(&self) -> Vec<(String, String)> {
        environment(self.dir.path())
    }
}

fn environment(dir: &Path) -> Vec<(String, String)> {
    let at = |name: &str| dir.join(name).display().to_string();
    vec![
        ("KRB5_CONFIG".to_owned(), at("krb5.conf")),
        ("KRB5_KDC_PROFILE".to_owned(), at("kdc.conf")),
        ("KRB5CCNAME".to_owned(), format!("FILE:{}", at("tickets"))),
    ]
}

fn command(dir: &Path, name: &str) -> Command {
    let mut command = Command::new(program(name));
    command.envs(environment(dir));
    command
}

async fn run(command: &mut Command) {
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A server with the realm's keytab, whose user dora is alice there.
async fn server_in(realm: &Realm) -> Server {
    let settings = AccessSettings { keytab: Some(realm.path("keytab")), ..AccessSettings::default() };
    start_with(settings, Limits::default(), |users| {
        let principal = Some(format!("alice@{REALM}"));
        users
            .add(NewUser { password: None, ntlm: false, principal, certificates: Vec::new(), ..user("dora") })
            .unwrap();
    })
    .await
}

/// curl (SPNEGO) and pypsrp (SPNEGO and bare Kerberos, sealed on plain HTTP, with channel bindings over TLS), and
/// somebody with a ticket who is no user.
#[tokio::test]
async fn clients_get_in_with_a_ticket_and_seal_with_it() {
    let realm = Realm::start().await;
    let server = server_in(&realm).await;
    let url = format!("https://localhost:{}/wsman", server.https.port());
    let negotiate = ["--negotiate", "-u", ":", "--data", "hello", &url];
    let text = curl(&server, &realm.environment(), &negotiate).await;
    assert!(text.starts_with("user=dora role=operator proof=kerberos"), "{text}");
    let text = script(&server, &realm.environment(), "with_kerberos.py", &[]).await;
    assert!(text.ends_with("all done\n"), "{text}");
    realm.log_in("mallory").await;
    let mut stranger = Command::new("curl");
    stranger.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"]);
    stranger.arg(server.dir.path().join("ca.crt")).args(negotiate).envs(realm.environment());
    assert_eq!(String::from_utf8_lossy(&stranger.output().await.unwrap().stdout), "401");
}

/// The keytab is rotated as its administrators do it: new keys in the KDC and in the file, and the file put in its place.
#[tokio::test]
async fn a_rotated_keytab_is_used_without_a_restart() {
    let realm = Realm::start().await;
    let keytab = realm.path("keytab");
    let server = server_in(&realm).await;
    let url = format!("https://localhost:{}/wsman", server.https.port());
    let status = || async {
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--negotiate",
            "-u",
            ":",
            "--data",
            "hello",
        ]);
        curl.arg("--cacert").arg(server.dir.path().join("ca.crt")).arg(&url).envs(realm.environment());
        String::from_utf8(curl.output().await.unwrap().stdout).unwrap()
    };
    assert_eq!(status().await, "200");
    let rotated = realm.path("keytab.new");
    let query = format!("ktadd -k {} HTTP/localhost", rotated.display());
    run(command(realm.dir.path(), "kadmin.local").args(["-r", REALM, "-q", &query])).await;
    realm.log_in("alice").await;
    assert_eq!(status().await, "401", "the ticket is for a key that the file does not have yet");
    std::fs::write(&keytab, "half a file").unwrap();
    assert_eq!(status().await, "401");
    std::fs::rename(&rotated, &keytab).unwrap();
    assert_eq!(status().await, "200");
}
