//! Two TLS states, one buffer between them, no sockets.

use super::{OutBuf, RECORD, State, Tls};
use crate::pki::PkiDir;
use crate::tls::{Identity, provider};
use rustls::SupportedCipherSuite;
use rustls::crypto::{CipherSuiteCommon, CryptoProvider};
use rustls_pki_types::ServerName;
use std::sync::Arc;

/// Records after which the keys are changed: 2^24 in earnest, which a test cannot send.
const LIMIT: u64 = 20;

fn provider_that_changes_keys_often() -> Arc<CryptoProvider> {
    let mut provider = (*provider()).clone();
    let suite = provider.cipher_suites.iter().find_map(SupportedCipherSuite::tls13).unwrap();
    let common = CipherSuiteCommon { confidentiality_limit: LIMIT, ..suite.common };
    // The suite must be 'static; a test leaks one.
    let suite = Box::leak(Box::new(rustls::Tls13CipherSuite { common, ..*suite }));
    provider.cipher_suites = vec![SupportedCipherSuite::Tls13(suite)];
    Arc::new(provider)
}

fn identity(provider: Arc<CryptoProvider>) -> Identity {
    let keep = tempfile::tempdir().unwrap();
    let dir = PkiDir::new(keep.path());
    dir.init(&["localhost".to_owned()], false).unwrap();
    Identity::with_provider(dir.identity_files(), provider).unwrap()
}

/// Moves what `from` has to say into `to`; gives the plaintext and `to`'s state.
fn carry(out: &mut OutBuf, to: &mut Tls, back: &mut OutBuf) -> (Vec<u8>, Result<State, rustls::Error>) {
    let mut wire = out.pending().to_vec();
    out.consume(wire.len());
    let mut plain = Vec::new();
    let (used, state) = to.feed(&mut wire, back, &mut |bytes| plain.extend_from_slice(bytes));
    if state.is_ok() {
        assert_eq!(used, wire.len(), "whole records are used up");
    }
    (plain, state)
}

struct Pair {
    client: Tls,
    server: Tls,
    to_server: OutBuf,
    to_client: OutBuf,
}

fn connected(identity: &Identity) -> Pair {
    let loaded = identity.current();
    let mut client = Tls::client(loaded.client.clone(), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut server = Tls::server(loaded.server.clone()).unwrap();
    let (mut to_server, mut to_client) = (OutBuf::default(), OutBuf::default());
    let (mut client_open, mut server_open) = (false, false);
    for _ in 0..4 {
        client_open = carry(&mut to_client, &mut client, &mut to_server).1.unwrap() == State::Open;
        server_open = carry(&mut to_server, &mut server, &mut to_client).1.unwrap() == State::Open;
    }
    assert!(client_open && server_open);
    Pair { client, server, to_server, to_client }
}

#[test]
fn data_survives_many_changes_of_keys() {
    let mut pair = connected(&identity(provider_that_changes_keys_often()));
    let data: Vec<u8> = (0..RECORD * 3 + 100).map(|at| u8::try_from(at % 251).unwrap()).collect();
    for round in 0..LIMIT * 10 {
        pair.client.seal(&data, &mut pair.to_server).unwrap();
        let (plain, state) = carry(&mut pair.to_server, &mut pair.server, &mut pair.to_client);
        assert_eq!(state.unwrap(), State::Open);
        assert!(plain == data, "round {round}");
        // Every change of keys asks the other side for one of its own.
        pair.server.seal(b"an answer", &mut pair.to_client).unwrap();
        let (plain, state) = carry(&mut pair.to_client, &mut pair.client, &mut pair.to_server);
        assert_eq!((plain.as_slice(), state.unwrap()), (&b"an answer"[..], State::Open), "round {round}");
    }
}

#[test]
fn a_record_in_two_pieces_waits_for_the_second() {
    let mut pair = connected(&identity(provider()));
    pair.client.seal(b"hello", &mut pair.to_server).unwrap();
    let wire = pair.to_server.pending().to_vec();
    for end in 0..wire.len() {
        let mut nothing = |bytes: &[u8]| panic!("plaintext {bytes:?} after {end} bytes");
        let (used, state) = pair.server.feed(&mut wire[..end].to_vec(), &mut pair.to_client, &mut nothing);
        assert_eq!((used, state), (0, Ok(State::Open)), "after {end} bytes");
        // Sealing in between must not disturb it.
        pair.server.seal(b"meanwhile", &mut pair.to_client).unwrap();
    }
    let mut plain = Vec::new();
    let (used, _) =
        pair.server.feed(&mut wire.clone(), &mut pair.to_client, &mut |b| plain.extend_from_slice(b));
    assert_eq!((used, plain.as_slice()), (wire.len(), &b"hello"[..]));
}

#[test]
fn an_altered_record_breaks_the_connection_for_good_and_leaves_an_alert() {
    let mut pair = connected(&identity(provider()));
    pair.client.seal(b"hello", &mut pair.to_server).unwrap();
    let mut wire = pair.to_server.pending().to_vec();
    *wire.last_mut().unwrap() ^= 1;
    let (_, state) = pair.server.feed(&mut wire, &mut pair.to_client, &mut |_| panic!("plaintext"));
    assert_eq!(state, Err(rustls::Error::DecryptError));
    let (_, told) = carry(&mut pair.to_client, &mut pair.client, &mut pair.to_server);
    assert!(matches!(told, Err(rustls::Error::AlertReceived(_))), "{told:?}");
    assert!(pair.server.seal(b"more", &mut pair.to_client).is_err());
    assert!(pair.server.feed(&mut [], &mut pair.to_client, &mut |_| {}).1.is_err());
}

#[test]
fn the_end_is_seen_by_the_other_side() {
    let mut pair = connected(&identity(provider()));
    pair.client.seal(b"last words", &mut pair.to_server).unwrap();
    pair.client.seal_end(&mut pair.to_server).unwrap();
    let (plain, state) = carry(&mut pair.to_server, &mut pair.server, &mut pair.to_client);
    assert_eq!((plain.as_slice(), state.unwrap()), (&b"last words"[..], State::PeerClosed));
    pair.server.seal(b"an answer", &mut pair.to_client).unwrap();
    let (plain, _) = carry(&mut pair.to_client, &mut pair.client, &mut pair.to_server);
    assert_eq!(plain, b"an answer");
}
