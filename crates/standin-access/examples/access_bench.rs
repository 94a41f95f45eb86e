//! How many requests a second the listener takes: an echo endpoint behind HTTPS with Basic on every request, and
//! a load generator on the same machine.
//!
//! `cargo run --release -p standin-access --example access_bench -- [connections] [seconds]`

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use hyper::HeaderMap;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, ServerName};
use standin_access::endpoint::{Endpoint, Request, Response};
use standin_access::listener::{Gate, TlsFiles, TlsIdentity};
use standin_access::settings::Limits;
use standin_access::users::{Directory, NewUser, UsersFile};
use standin_access::{AccessSettings, Authenticator, Listener, ListenerConfig};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

struct Echo;

#[async_trait]
impl Endpoint for Echo {
    fn protocol(&self) -> &'static str {
        "ws-management"
    }
    fn serves(&self, path: &str) -> bool {
        path == "/wsman"
    }
    fn anonymous(&self, _: &str, _: &HeaderMap, _: &Bytes) -> Option<Response> {
        None
    }
    async fn call(&self, request: Request) -> Response {
        let content_type = "application/soap+xml;charset=UTF-8";
        Response { status: 200, content_type, headers: HeaderMap::new(), body: request.body }
    }
    fn refusal(&self, status: u16, _: &str) -> Response {
        Response { status, content_type: "text/plain", headers: HeaderMap::new(), body: Bytes::new() }
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let connections = args.next().map_or(Ok(16), |text| text.parse::<usize>())?;
    let seconds = args.next().map_or(Ok(5), |text| text.parse::<u64>())?;
    let dir = tempfile::tempdir()?;
    let stop = CancellationToken::new();
    let (address, certificate) = serve(dir.path(), stop.clone()).await?;
    let connector = connector(certificate)?;
    let until = Instant::now() + Duration::from_secs(seconds);
    let begin = Instant::now();
    let clients: Vec<_> =
        (0..connections).map(|_| tokio::spawn(load(address, connector.clone(), until))).collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await??);
    }
    let elapsed = begin.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |per_mille: usize| times.get(times.len() * per_mille / 1000).copied().unwrap_or_default();
    println!(
        "{connections} connections, {} requests in {elapsed:.1} s: {:.0} a second; p50 {:?}, p99 {:?}, p99.9 {:?}",
        times.len(),
        times.len() as f64 / elapsed,
        at(500),
        at(990),
        at(999)
    );
    stop.cancel();
    Ok(())
}

async fn serve(
    dir: &std::path::Path,
    stop: CancellationToken,
) -> Outcome<(SocketAddr, CertificateDer<'static>)> {
    let users = UsersFile::new(dir.join("users.toml"));
    users.add(NewUser {
        name: "bench".to_owned(),
        role: standin_cim::Role::Viewer,
        password: Some("secret".to_owned()),
        ntlm: false,
        certificates: Vec::new(),
        principal: None,
    })?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    let files = TlsFiles { certificate: dir.join("crt"), key: dir.join("key"), client_trust: None };
    std::fs::write(&files.certificate, certificate.pem())?;
    std::fs::write(&files.key, key.serialize_pem())?;
    let settings = AccessSettings::default();
    let limits = Limits { connections: 4096, connections_per_address: 4096, ..Limits::default() };
    let config = ListenerConfig {
        address: ([127, 0, 0, 1], 0).into(),
        tls: Some(Arc::new(TlsIdentity::load(files)?)),
        gate: Gate::new(&limits),
        limits,
    };
    let authenticator = Arc::new(Authenticator::new(&settings, Directory::open(users)?, "localhost")?);
    let listener = Listener::bind(config, vec![Arc::new(Echo)], authenticator).await?;
    let address = listener.local_addr()?;
    tokio::spawn(listener.serve(stop));
    Ok((address, certificate.der().clone()))
}

fn connector(certificate: CertificateDer<'static>) -> Outcome<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// One connection: request after request; the time of each.
async fn load(address: SocketAddr, connector: TlsConnector, until: Instant) -> Outcome<Vec<Duration>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut stream = connector.connect(ServerName::try_from("localhost")?, stream).await?;
    let credentials = base64::engine::general_purpose::STANDARD.encode("bench:secret");
    // As long as a Get of WS-Management.
    let body = "x".repeat(1400);
    let request = format!(
        "POST /wsman HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {credentials}\r\n\
         Content-Type: application/soap+xml;charset=UTF-8\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (mut times, mut buffer) = (Vec::new(), Vec::with_capacity(8192));
    while Instant::now() < until {
        let begin = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        buffer.clear();
        loop {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err("the connection ended".into());
            }
            if let Some(head) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                if !buffer.starts_with(b"HTTP/1.1 200") {
                    return Err(String::from_utf8_lossy(&buffer).into_owned().into());
                }
                if buffer.len() >= head + 4 + body.len() {
                    break;
                }
            }
        }
        times.push(begin.elapsed());
    }
    Ok(times)
}
