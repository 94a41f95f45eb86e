//! Peers that a daemon must not trust, and what strangers send to its port.

use crate::rig::{self, PATIENCE, Rig, facts, refused, text};
use rcgen::{CertificateParams, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use standin_testbed::daemon::Daemon;
use standin_testbed::guest::GuestPlan;
use standin_wire::{Hello, Identity, PkiDir};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DENIED: u32 = 32769;
const UNAVAILABLE: u32 = 32777;

// Kinds of frames.
const HELLO: u8 = 0;
const CONTROL: u8 = 1;
const BLOCK: u8 = 2;

/// A relationship that `b` refuses: nothing of it stays on either side.
fn replicate_refused(rig: &Rig, a: &Daemon, to: &str, code: u32, says: &[&str]) {
    let before = facts(&rig.b);
    refused(a, &["replicate", "writer", "--to", to], code, says);
    assert_eq!(facts(&rig.b), before, "something changed on the other side");
}

#[test]
fn a_host_with_a_foreign_expired_or_no_certificate_or_without_entry_is_refused() {
    let rig = Rig::new();
    rig.b.may_complain(&["a connection was not let in", "is not authorised to replicate"]);
    rig.define(GuestPlan::records("writer", 20));
    let to = rig.to();

    // Not authorised: a certificate of the same authority, but no entry.
    let entry = rig.b.json(&["auth", "list"]).unwrap()[0]["id"].as_str().unwrap().to_owned();
    rig.b.run(&["auth", "remove", &entry]).unwrap();
    replicate_refused(&rig, &rig.a, &to, DENIED, &["host-a", "auth add"]);
    rig.b.run(&["auth", "add", "host-z"]).unwrap();
    replicate_refused(&rig, &rig.a, &to, DENIED, &["host-a", "auth add"]);
    rig.b.run(&["auth", "add", "host-a"]).unwrap();

    // Foreign: an authority of its own.
    let mut foreign = Daemon::prepare(rig::plan(rig.dir.path(), "host-f")).unwrap();
    foreign.may_complain(&["a connection was not let in"]);
    foreign.run(&["pki", "init", "--name", "host-a"]).unwrap();
    foreign.start().unwrap();
    define(&rig, &foreign);
    replicate_refused(&rig, &foreign, &to, UNAVAILABLE, &[&to, "authority", "not trust"]);
    // It trusts host-b's authority, but host-b does not trust its own.
    let trusted = fs::read_to_string(rig.a.dir().join("data/pki/ca.crt")).unwrap();
    let mine = foreign.dir().join("data/pki/trusted.crt");
    fs::write(&mine, fs::read_to_string(&mine).unwrap() + &trusted).unwrap();
    hang_up(&foreign);
    replicate_refused(&rig, &foreign, &to, UNAVAILABLE, &[&to, "does not trust the authority of this host"]);
    drop(foreign);

    // Expired, by the authority that both trust: the one who calls, and the one who answers.
    let expired = own_certificates(&rig, "host-x", Validity::Over);
    define(&rig, &expired);
    replicate_refused(&rig, &expired, &to, UNAVAILABLE, &[&to, "expired"]);
    let at = expired.listen().to_string();
    refused(&rig.a, &["replicate", "writer", "--to", &at], UNAVAILABLE, &[&at, "expired"]);
    drop(expired);

    // Another name than the one that was called.
    let named = own_certificates(&rig, "host-n", Validity::Valid);
    let at = named.listen().to_string();
    refused(&rig.a, &["replicate", "writer", "--to", &at], UNAVAILABLE, &[&at, "another name", "host-n"]);
    drop(named);

    // Nobody there.
    refused(&rig.a, &["replicate", "writer", "--to", &at], UNAVAILABLE, &[&at]);
    refused(&rig.a, &["replicate", "writer", "--to", "nowhere.invalid"], UNAVAILABLE, &["nowhere.invalid"]);
}

fn define(rig: &Rig, daemon: &Daemon) {
    let definition = rig.path("disks").join("writer.toml");
    daemon.run(&["vm", "define", text(&definition)]).unwrap();
}

/// SIGHUP: certificates are read again.
fn hang_up(daemon: &Daemon) {
    let log = daemon.log().len();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(daemon.pid().unwrap()).unwrap(),
        rustix::process::Signal::HUP,
    )
    .unwrap();
    let until = Instant::now() + PATIENCE;
    while !daemon.log()[log..].contains("certificates are taken") {
        assert!(Instant::now() < until, "the certificates were not read again: {}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Validity {
    Valid,
    Over,
}

/// A started daemon with certificates of the operator's ([tls]), issued by host-a's authority for `name` only.
fn own_certificates(rig: &Rig, name: &str, validity: Validity) -> Daemon {
    let pki = rig.a.dir().join("data/pki");
    let read = |file: &str| fs::read_to_string(pki.join(file)).unwrap();
    let authority_key = KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("ca.crt"), authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    if validity == Validity::Over {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    }
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let write = |file: &str, text: &str| -> PathBuf {
        let path = rig.path(&format!("{name}-{file}"));
        fs::write(&path, text).unwrap();
        path
    };
    let files = [
        write("cert.pem", &certificate.pem()),
        write("key.pem", &key.serialize_pem()),
        write("trust.pem", &read("ca.crt")),
    ];
    let mut plan = rig::plan(rig.dir.path(), name);
    let [certificate, key, trust] = files.map(|path| format!("{path:?}"));
    plan.extra_config += &format!("[tls]\ncertificate = {certificate}\nkey = {key}\ntrust = {trust}\n");
    let mut daemon = Daemon::prepare(plan).unwrap();
    daemon.may_complain(&["a connection was not let in"]);
    daemon.start().unwrap();
    daemon
}

#[test]
fn the_operators_own_certificates_replicate_like_built_in_ones() {
    let rig = Rig::new();
    let own = own_certificates(&rig, "host-o", Validity::Valid);
    let guest = GuestPlan::records("writer", 50).create(&rig.path("disks")).unwrap();
    define(&rig, &own);
    own.run(&["vm", "start", "writer"]).unwrap();
    guest.serial.wait_written_beyond(1, PATIENCE).unwrap();
    rig.b.run(&["auth", "add", "host-o"]).unwrap();
    own.run(&["replicate", "writer", "--to", &rig.to(), "--interval", "2s"]).unwrap();
    rig.wait_point_beyond("writer", 2);
    assert_eq!(rig::status(&rig.b, "writer")["peer"], "host-o");
}

/// The identity of host-a, for a peer of the test's own.
fn identity(rig: &Rig) -> Identity {
    PkiDir::new(rig.a.dir().join("data/pki")).identity().unwrap()
}

/// For a scripted peer.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn a_peer_of_another_version_is_refused_with_both_versions() {
    let rig = Rig::new();
    rig.b.may_complain(&["speaks protocol versions"]);
    rig.define(GuestPlan::records("writer", 20));
    let identity = identity(&rig);
    let newer = || Hello { min_version: 7, max_version: 9, ..Hello::new("host-a", "standin 9") };
    let runtime = runtime();

    // It answers: host-a calls a host of another release at host-a's own address.
    let mut here = rig.a.listen();
    here.set_port(28499);
    let listener = runtime.block_on(tokio::net::TcpListener::bind(here)).unwrap();
    let (server, hello) = (identity.clone(), newer());
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let accepted = standin_wire::accept(stream, &server, hello.clone()).await;
            assert!(accepted.is_err(), "{accepted:?}");
        }
    });
    let at = here.to_string();
    refused(&rig.a, &["replicate", "writer", "--to", &at], UNAVAILABLE, &["host-a", "7 to 9", "1"]);

    // It calls.
    let before = facts(&rig.b);
    let error = runtime.block_on(standin_wire::connect(&rig.to(), &identity, newer())).unwrap_err();
    eprintln!("{error}");
    assert!(error.to_string().contains("version"), "{error}");
    assert_eq!(facts(&rig.b), before);
}

/// What the daemon does with strangers may cost it nothing: it answers its own people at once.
fn answers_at_once(daemon: &Daemon) {
    let begun = Instant::now();
    daemon.run(&["status"]).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Whether the other side closes the connection by itself.
fn is_closed(mut stream: TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// A monitor that looks whether the port is open, and a daemon that ends in the middle of a handshake: nobody need act, so
/// nobody is warned (the rig looks for that at its end).
#[test]
fn who_hangs_up_before_it_is_let_in_is_no_complaint() {
    let rig = Rig::new();
    drop(connect(rig.b.listen()));
    let mut stream = connect(rig.b.listen());
    // The head of a TLS handshake whose body never comes.
    stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(is_closed(stream));
    answers_at_once(&rig.b);
}

#[test]
fn rubbish_and_held_handshakes_on_the_port_neither_block_nor_grow_the_daemon() {
    let rig = Rig::new();
    rig.b.may_complain(&["a connection was not let in"]);
    let guest = rig.boot("writer", 50);
    rig.replicate("writer", "2s");
    let epoch = rig.newest_epoch("writer");
    let to = rig.b.listen();
    let pid = rig.b.pid().unwrap();
    let before = standin_testbed::process::memory(pid).unwrap().anonymous;

    // More half handshakes than strangers are let in at once, all of them held open.
    let client_hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    let held: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = connect(to);
            stream.write_all(&client_hello).unwrap();
            stream
        })
        .collect();
    answers_at_once(&rig.b);
    // The relationship has its connection and goes on.
    let epoch = rig.wait_point_beyond("writer", epoch + 1);

    // Whoever says nothing more is shown the door, so that a real host gets in again.
    let begun = Instant::now();
    assert!(held.into_iter().all(is_closed));
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());

    for rubbish in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0; 4096],
        &[0xff; 70_000],
        // A TLS record of the largest length there is.
        &[0x16, 0x03, 0x03, 0xff, 0xff, 1, 2, 3],
        b"",
    ] {
        let mut stream = connect(to);
        // It may hang up in the middle.
        let _ = stream.write_all(rubbish);
        let _ = stream.shutdown(Shutdown::Write);
        assert!(is_closed(stream), "still open after {} bytes of rubbish", rubbish.len());
    }
    answers_at_once(&rig.b);
    rig.wait_point_beyond("writer", epoch + 1);
    let after = standin_testbed::process::memory(pid).unwrap().anonymous;
    assert!(after < before + (32 << 20), "{before} bytes of memory before, {after} after");
    assert!(guest.serial.faults().is_empty());
}

/// A TLS connection to `to` with the certificate of host-a, as a standin would make it, and nothing said yet.
fn tls(rig: &Rig, to: SocketAddr) -> StreamOwned<ClientConnection, TcpStream> {
    let pki = PkiDir::new(rig.a.dir().join("data/pki")).identity_files();
    let mut trusted = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(pki.trust).unwrap() {
        trusted.add(certificate.unwrap()).unwrap();
    }
    let chain = CertificateDer::pem_file_iter(pki.certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(pki.key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(trusted)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"standin/1".to_vec()];
    let name = ServerName::from(to.ip());
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(session, connect(to))
}

/// The header of a frame, sealed as by a sender that means it.
fn header(kind: u8, length: u64, digests: u32, payload: u32) -> Vec<u8> {
    let mut bytes = b"SIFR".to_vec();
    bytes.extend([1, kind, 0, 0, 0, 0, 0, 0]);
    bytes.extend(if kind == BLOCK { 4096_u32 } else { 0 }.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(digests.to_le_bytes());
    bytes.extend(payload.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    assert_eq!(bytes.len(), standin_wire::frame::HEADER_LEN);
    bytes
}

fn hello() -> Vec<u8> {
    let body = br#"{"host":"host-a","software":"test","min_version":1,"max_version":1}"#;
    let mut bytes = header(HELLO, 0, 0, u32::try_from(body.len()).unwrap());
    bytes.truncate(40);
    bytes.extend(crc32fast::hash(body).to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes.extend(body);
    bytes
}

#[test]
fn frames_with_absurd_lengths_end_the_connection_and_nothing_else() {
    let rig = Rig::new();
    rig.b.may_complain(&["is over the limit of"]);
    let before = facts(&rig.b);
    let pid = rig.b.pid().unwrap();
    let memory = || standin_testbed::process::memory(pid).unwrap().anonymous;
    let at_first = memory();
    let lies: [(&str, Vec<u8>); 6] = [
        ("a hello of 4 GiB", header(HELLO, 0, 0, u32::MAX)),
        ("a message of 4 GiB", [hello(), header(CONTROL, 0, 0, u32::MAX)].concat()),
        ("a message of 16 MiB", [hello(), header(CONTROL, 0, 0, 16 << 20)].concat()),
        ("a block of 16 EiB", [hello(), header(BLOCK, u64::MAX, u32::MAX, u32::MAX)].concat()),
        ("a block of 4 GiB", [hello(), header(BLOCK, 4 << 30, 1 << 20, u32::MAX)].concat()),
        ("no frame", [hello(), vec![0xff; 4096]].concat()),
    ];
    for (what, bytes) in lies {
        let mut stream = tls(&rig, rig.b.listen());
        stream.write_all(&bytes).unwrap();
        stream.flush().unwrap();
        let begun = Instant::now();
        let mut answer = Vec::new();
        // With or without a goodbye: it must end, and at once.
        let ended = stream.read_to_end(&mut answer);
        assert!(begun.elapsed() < Duration::from_secs(8), "{what}: {ended:?} after {:?}", begun.elapsed());
        assert!(answer.len() < 64 << 10, "{what}: {} bytes of answer", answer.len());
        answers_at_once(&rig.b);
    }
    assert!(memory() < at_first + (16 << 20), "{at_first} bytes of memory before, {} after", memory());
    assert_eq!(facts(&rig.b), before);
    // A connection without a lie is still let in.
    let mut stream = tls(&rig, rig.b.listen());
    stream.write_all(&hello()).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"SIFR");
}
