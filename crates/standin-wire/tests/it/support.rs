//! Certificates, connected pairs, and a wire that can be tampered with.

use standin_wire::{Accepted, Connection, Error, Hello, Identity, PkiDir, Settings};
use standin_wire::{accept_with, connect_with};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// A host with an authority, reachable as localhost.
pub struct Host {
    pub dir: PkiDir,
    pub identity: Identity,
    _keep: Option<TempDir>,
}

impl Host {
    /// A host whose files the caller keeps.
    pub fn over(dir: PkiDir) -> Self {
        let identity = dir.identity().unwrap();
        Self { dir, identity, _keep: None }
    }
}

pub fn host() -> Host {
    let keep = tempfile::tempdir().unwrap();
    let dir = PkiDir::new(keep.path().join("pki"));
    dir.init(&names(&["host-a.example", "localhost", "127.0.0.1"]), false).unwrap();
    let identity = dir.identity().unwrap();
    Host { dir, identity, _keep: Some(keep) }
}

/// An identity whose certificate `issue` chose, from files as an operator would write them.
pub fn identity_of(keep: &Path, certificate: &str, key: &str, trust: &str) -> Identity {
    let write = |name: &str, text: &str| {
        let path = keep.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    Identity::from_files(write("c.pem", certificate), write("k.pem", key), write("t.pem", trust)).unwrap()
}

pub fn hello(name: &str) -> Hello {
    Hello::new(name, "standin test")
}

pub fn quick() -> Settings {
    Settings { idle_timeout: Duration::from_secs(5), handshake_timeout: Duration::from_secs(5) }
}

pub async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, format!("localhost:{port}"))
}

pub fn replication(accepted: Accepted) -> Connection {
    match accepted {
        Accepted::Replication(connection) => connection,
        Accepted::Enrolment(session) => panic!("an enrolment: {session:?}"),
    }
}

/// Both ends of an attempt to connect.
pub async fn attempt(
    (client, client_hello): (&Identity, Hello),
    (server, server_hello): (&Identity, Hello),
    settings: Settings,
) -> (Result<Connection, Error>, Result<Accepted, Error>) {
    let (listener, address) = listener().await;
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        accept_with(stream, server, server_hello, &settings).await
    };
    tokio::join!(connect_with(&address, client, client_hello, &settings), serving)
}

/// A client and a server that know each other.
pub async fn pair(settings: Settings) -> (Connection, Connection, Host) {
    let host = host();
    let (client, server) =
        attempt((&host.identity, hello("client")), (&host.identity, hello("server")), settings).await;
    (client.unwrap(), replication(server.unwrap()), host)
}

/// What happens to the bytes of a client on their way.
#[derive(Clone, Copy)]
pub enum Mischief {
    /// One bit of the byte at this position is turned over.
    Flip(u64),
    /// After this many bytes the link is cut in both directions.
    Cut(u64),
}

/// Forwards a connection to `target` and plays a trick on what the client sends.
pub async fn proxy(target: String, mischief: Mischief) -> String {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(target).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        let mut seen = 0;
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            let mut chunk = &mut buffer[..count];
            match mischief {
                Mischief::Flip(at) if (seen..seen + count as u64).contains(&at) => {
                    chunk[usize::try_from(at - seen).unwrap()] ^= 0x10;
                }
                Mischief::Cut(at) if seen + count as u64 >= at => {
                    chunk = &mut chunk[..usize::try_from(at - seen).unwrap()];
                    let _ = to_server.write_all(chunk).await;
                    break;
                }
                _ => {}
            }
            seen += count as u64;
            if to_server.write_all(chunk).await.is_err() {
                break;
            }
        }
        back.abort();
    });
    address
}

/// Bytes that nothing compresses.
pub fn random(length: usize, seed: u64) -> Vec<u8> {
    use rand::{RngCore, SeedableRng};
    let mut data = vec![0; length];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut data);
    data
}
