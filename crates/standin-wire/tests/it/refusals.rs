//! Peers that should not get in, and links that cannot be trusted.

use crate::support::{
    Host, Mischief, attempt, hello, host, identity_of, listener, names, proxy, quick, random,
};
use bytes::Bytes;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, date_time_ymd};
use standin_wire::block::encode;
use standin_wire::tls::ALPN_REPLICATION;
use standin_wire::{Accepted, Compression, Connection, Error, Frame, Identity, Settings, TlsFault};
use standin_wire::{accept_with, connect_with};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An identity signed by `host`'s authority that was valid only in the past.
fn expired(host: &Host) -> (Identity, TempDir) {
    let read = |name: &str| std::fs::read_to_string(host.dir.path().join(name)).unwrap();
    let authority_key = KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("ca.crt"), authority_key).unwrap();
    let mut params = CertificateParams::new(names(&["localhost"])).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().unwrap();
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let keep = tempfile::tempdir().unwrap();
    let identity = identity_of(keep.path(), &certificate.pem(), &key.serialize_pem(), &read("ca.crt"));
    (identity, keep)
}

async fn meet(client: &Identity, server: &Identity) -> (Result<Connection, Error>, Result<Accepted, Error>) {
    attempt((client, hello("client")), (server, hello("server")), quick()).await
}

/// The fault, with the sentence checked to name a way out.
fn fault<T: std::fmt::Debug>(result: Result<T, Error>) -> TlsFault {
    match result {
        Err(error @ Error::Tls { .. }) => {
            assert!(error.remedy().ends_with('.'), "{}", error.remedy());
            let Error::Tls { fault, .. } = error else { unreachable!() };
            fault
        }
        other => panic!("no error of TLS: {other:?}"),
    }
}

#[tokio::test]
async fn a_client_of_a_foreign_authority_is_refused_and_told() {
    let (ours, foreign) = (host(), host());
    // The foreign client trusts us, so that it is our refusal that is tested.
    let trust = std::fs::read_to_string(ours.dir.path().join("ca.crt")).unwrap();
    foreign.dir.trust(&trust).unwrap();
    foreign.identity.reload().unwrap();
    let (client, server) = meet(&foreign.identity, &ours.identity).await;
    assert_eq!(fault(server), TlsFault::UnknownAuthority);
    let told = fault(client);
    assert!(told.to_string().contains("does not trust the authority of this host"), "{told}");
}

#[tokio::test]
async fn a_server_of_a_foreign_authority_is_refused() {
    let (ours, foreign) = (host(), host());
    let (client, server) = meet(&ours.identity, &foreign.identity).await;
    assert_eq!(fault(client), TlsFault::UnknownAuthority);
    let told = fault(server);
    assert!(told.to_string().contains("does not trust"), "{told}");
}

#[tokio::test]
async fn an_expired_client_certificate_is_refused_and_told() {
    let ours = host();
    let (old, _keep) = expired(&ours);
    let (client, server) = meet(&old, &ours.identity).await;
    assert_eq!(fault(server), TlsFault::Expired);
    let told = fault(client);
    assert_eq!(told.to_string(), "this host's certificate has expired");
}

#[tokio::test]
async fn an_expired_server_certificate_is_refused() {
    let ours = host();
    let (old, _keep) = expired(&ours);
    let (client, server) = meet(&ours.identity, &old).await;
    assert_eq!(fault(client), TlsFault::Expired);
    assert!(fault(server).to_string().contains("expired"));
}

#[tokio::test]
async fn a_server_with_another_name_is_refused() {
    let ours = host();
    let issued = ours.dir.issue(&names(&["other.example"]), 30).unwrap();
    let keep = tempfile::tempdir().unwrap();
    let trust = std::fs::read_to_string(ours.dir.path().join("ca.crt")).unwrap();
    let other = identity_of(keep.path(), &issued.certificate, &issued.key, &trust);
    let (client, _server) = meet(&ours.identity, &other).await;
    match fault(client) {
        TlsFault::WrongName { presented } => assert!(presented.contains("other.example"), "{presented}"),
        other => panic!("{other:?}"),
    }
}

/// A TLS client that is not ours, with the library's own buffered interface.
fn bare_client(
    host: &Host,
    port: u16,
    alpn: &[u8],
) -> rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream> {
    use rustls_pki_types::pem::PemObject;
    let ca = std::fs::read(host.dir.path().join("ca.crt")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    if !alpn.is_empty() {
        config.alpn_protocols = vec![alpn.to_vec()];
    }
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    rustls::StreamOwned::new(connection, socket)
}

async fn served(host: &Host, client: impl FnOnce(u16) -> Vec<u8> + Send + 'static) -> (Error, Vec<u8>) {
    let (listener, address) = listener().await;
    let port = address.rsplit_once(':').unwrap().1.parse().unwrap();
    let client = tokio::task::spawn_blocking(move || client(port));
    let (stream, _) = listener.accept().await.unwrap();
    let error = accept_with(stream, &host.identity, hello("server"), &quick()).await.unwrap_err();
    (error, client.await.unwrap())
}

#[tokio::test]
async fn replication_without_a_certificate_is_refused_with_a_sentence() {
    let ours = Arc::new(host());
    let theirs = ours.clone();
    let (error, got) = served(&ours, move |port| {
        let mut stream = bare_client(&theirs, port, ALPN_REPLICATION);
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got);
        got
    })
    .await;
    assert_eq!(fault::<()>(Err(error)), TlsFault::NoCertificate);
    let text = String::from_utf8_lossy(&got);
    assert!(text.contains("needs a certificate"), "{text}");
}

#[tokio::test]
async fn a_tls_client_of_another_protocol_is_refused() {
    let ours = Arc::new(host());
    for alpn in [&b"http/1.1"[..], &b""[..]] {
        let theirs = ours.clone();
        let (error, _) = served(&ours, move |port| {
            let mut stream = bare_client(&theirs, port, alpn);
            let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
            let mut got = Vec::new();
            let _ = stream.read_to_end(&mut got);
            got
        })
        .await;
        assert!(
            matches!(error, Error::Tls { fault: TlsFault::NoCommonProtocol | TlsFault::NoCertificate, .. }),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_client_that_is_not_tls_is_refused_at_once() {
    let ours = host();
    let began = Instant::now();
    let (error, _) = served(&ours, |port| {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut got = Vec::new();
        let _ = socket.read_to_end(&mut got);
        got
    })
    .await;
    assert!(matches!(&error, Error::Tls { fault: TlsFault::NotTls, .. }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_hung_up_on_in_time() {
    let ours = host();
    let (listener, address) = listener().await;
    let _mute = TcpStream::connect(address).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let settings = Settings { handshake_timeout: Duration::from_millis(300), ..quick() };
    let began = Instant::now();
    let error = accept_with(stream, &ours.identity, hello("server"), &settings).await.unwrap_err();
    assert!(matches!(error, Error::Slow { .. }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_server_that_is_not_tls_is_told_from_one_that_is_not_there() {
    let ours = host();
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 100];
        let _ = stream.read(&mut buffer).await;
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n").await;
        let _ = stream.read(&mut buffer).await;
    });
    let error = connect_with(&address, &ours.identity, hello("client"), &quick()).await.unwrap_err();
    assert!(matches!(&error, Error::Tls { fault: TlsFault::NotTls, .. }), "{error:?}");
    let (gone, address) = self::listener().await;
    drop(gone);
    let error = connect_with(&address, &ours.identity, hello("client"), &quick()).await.unwrap_err();
    assert!(matches!(&error, Error::Connect { .. }) && error.to_string().contains(&address), "{error}");
    for nonsense in ["", "localhost", "localhost:", "localhost:99999", ":1", "a b:1"] {
        let error = connect_with(nonsense, &ours.identity, hello("client"), &quick()).await.unwrap_err();
        assert!(matches!(&error, Error::Connect { .. }), "{nonsense:?}: {error:?}");
    }
}

/// Sends blocks through a proxy that plays a trick; gives what the receiver saw in the end.
async fn through(mischief: Mischief) -> (u64, Error) {
    let ours = host();
    let (listener, address) = listener().await;
    let address = proxy(address, mischief).await;
    let identity = ours.identity.clone();
    let sending = tokio::spawn(async move {
        let client = connect_with(&address, &identity, hello("client"), &quick()).await.unwrap();
        let (mut sender, _receiver) = client.split();
        for number in 0..20 {
            let data = Bytes::from(random(100_000, number));
            if sender.block(encode(0, number << 20, data, 4096, Compression::Off).unwrap()).await.is_err() {
                return;
            }
        }
        let _ = sender.close().await;
    });
    let (stream, _) = listener.accept().await.unwrap();
    let Accepted::Replication(server) =
        accept_with(stream, &ours.identity, hello("server"), &quick()).await.unwrap()
    else {
        panic!("an enrolment");
    };
    let (_back, mut receiver) = server.split();
    let mut whole = 0;
    let error = loop {
        match receiver.next().await {
            Ok(Some(Frame::Block(block))) => {
                assert_eq!(block.decode().unwrap().offset, whole << 20);
                whole += 1;
            }
            Ok(other) => panic!("{other:?} after {whole} blocks"),
            Err(error) => break error,
        }
    };
    sending.await.unwrap();
    (whole, error)
}

#[tokio::test]
async fn a_bit_flipped_on_the_wire_ends_the_connection_and_no_wrong_block_comes_out() {
    let (whole, error) = through(Mischief::Flip(1_000_000)).await;
    // A frame is 100,448 bytes, with TLS 100,590: nine are whole before the altered record, and all of them come out,
    // however much of what followed was read together with them.
    assert_eq!(whole, 9);
    assert!(matches!(&error, Error::Tls { fault: TlsFault::Altered, .. }), "{error:?}");
}

#[tokio::test]
async fn a_link_that_is_cut_within_a_frame_is_noticed() {
    let (whole, error) = through(Mischief::Cut(1_050_000)).await;
    assert!((9..11).contains(&whole), "{whole}");
    assert!(matches!(&error, Error::Closed { .. } | Error::Io { .. }), "{error:?}");
}
