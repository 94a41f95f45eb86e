//! A server with an echo endpoint, on ports of its own.

use async_trait::async_trait;
use bytes::Bytes;
use hyper::HeaderMap;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use standin_access::endpoint::{Endpoint, Request, Response};
use standin_access::listener::{Gate, TlsFiles, TlsIdentity};
use standin_access::settings::Limits;
use standin_access::users::{Directory, NewUser, UsersFile};
use standin_access::{AccessSettings, Authenticator, Listener, ListenerConfig};
use standin_cim::Role;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Answers with who asked and what was sent.
pub struct Echo;

fn response(status: u16, body: String) -> Response {
    let content_type = "application/soap+xml;charset=UTF-8";
    Response { status, content_type, headers: HeaderMap::new(), body: body.into() }
}

#[async_trait]
impl Endpoint for Echo {
    fn protocol(&self) -> &'static str {
        "ws-management"
    }

    fn serves(&self, path: &str) -> bool {
        path == "/wsman"
    }

    fn anonymous(&self, _: &str, headers: &HeaderMap, body: &Bytes) -> Option<Response> {
        headers.contains_key("wsmanidentify").then(|| response(200, format!("anonymous {}", body.len())))
    }

    async fn call(&self, request: Request) -> Response {
        let header = |name| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-");
        let caller = &request.caller;
        let facts = format!(
            "user={} role={} proof={} protocol={} type={} length={}\n",
            caller.name,
            caller.role.as_str(),
            caller.proof,
            caller.protocol,
            header("content-type"),
            header("content-length")
        );
        response(200, facts + &String::from_utf8_lossy(&request.body))
    }

    fn refusal(&self, status: u16, reason: &str) -> Response {
        response(status, format!("refused: {reason}"))
    }
}

/// A running server; dropping it ends it.
pub struct Server {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub dir: tempfile::TempDir,
    pub users: UsersFile,
    pub stop: CancellationToken,
    pub ended: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn user(name: &str) -> NewUser {
    NewUser {
        name: name.to_owned(),
        role: Role::Operator,
        password: Some("p:ss w\u{f6}rd".to_owned()),
        ntlm: true,
        certificates: Vec::new(),
        principal: None,
    }
}

pub async fn start(settings: AccessSettings, limits: Limits) -> Server {
    start_with(settings, limits, |_| {}).await
}

pub async fn start_with(
    settings: AccessSettings,
    limits: Limits,
    more_users: impl FnOnce(&UsersFile),
) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let users = UsersFile::new(dir.path().join("users.toml"));
    users.add(user("alice")).unwrap();
    users.add(NewUser { ntlm: false, ..user("bob") }).unwrap();
    let certificate = "CN=client".to_owned();
    users
        .add(NewUser { password: None, ntlm: false, certificates: vec![certificate], ..user("carol") })
        .unwrap();
    more_users(&users);
    make_certificates(dir.path().to_path_buf());
    let file = |name: &str| dir.path().join(name);
    let files = TlsFiles {
        certificate: file("server.crt"),
        key: file("server.key"),
        client_trust: Some(file("ca.crt")),
    };
    let tls = Arc::new(TlsIdentity::load(files).unwrap());
    let directory = Directory::open(users.clone()).unwrap();
    let authenticator = Authenticator::new(&settings, directory, "server.example.org").unwrap();
    let authenticator = Arc::new(authenticator);
    let gate = Gate::new(&limits);
    let stop = CancellationToken::new();
    let (mut addresses, mut tasks) = (Vec::new(), Vec::new());
    for tls in [None, Some(tls)] {
        let config = ListenerConfig {
            address: ([127, 0, 0, 1], 0).into(),
            tls,
            limits: limits.clone(),
            gate: Arc::clone(&gate),
        };
        let listener =
            Listener::bind(config, vec![Arc::new(Echo)], Arc::clone(&authenticator)).await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        tasks.push(tokio::spawn(listener.serve(stop.clone())));
    }
    let ended = tokio::spawn(async move {
        for task in tasks {
            task.await.unwrap();
        }
    });
    Server { http: addresses[0], https: addresses[1], dir, users, stop, ended }
}

/// Takes passwords and unsealed messages on plain HTTP.
pub fn open() -> AccessSettings {
    AccessSettings {
        allow_basic_over_http: true,
        allow_unsealed_over_http: true,
        ..AccessSettings::default()
    }
}

fn make_certificates(dir: PathBuf) {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "test authority");
    let authority = params.self_signed(&authority_key).unwrap();
    std::fs::write(dir.join("ca.crt"), authority.pem()).unwrap();
    let issuer = Issuer::new(params, authority_key);
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    for (name, alternatives) in [("server", names), ("client", vec![]), ("stranger", vec![])] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(alternatives).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        // Python refuses certificates without it since version 3.13.
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(dir.join(format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}
