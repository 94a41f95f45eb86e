//! Two ends of a connection, one buffer between them, no sockets.

use super::{HANDSHAKE, HEADER, KEY_UPDATE, OpenError, Opened, Opener, RECORD, Sealer, Sink};
use crate::pki::PkiDir;
use crate::tls::{Identity, OutBuf, State, Tls, provider};
use rustls::crypto::{CipherSuiteCommon, CryptoProvider};
use rustls::{Error, SupportedCipherSuite};
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

/// One end of a connection.
struct End {
    sealer: Sealer,
    opener: Opener,
}

/// A sink that has a place for data, or has none.
#[derive(Default)]
struct Plain {
    data: Vec<u8>,
    in_place: bool,
    opened_in_place: usize,
}

impl Sink for Plain {
    fn place(&mut self, count: usize) -> Option<&mut [u8]> {
        let filled = self.opened_in_place;
        self.in_place.then(|| {
            self.data.resize(filled + count, 0xee);
            &mut self.data[filled..]
        })
    }
    fn advance(&mut self, count: usize) -> Result<(), String> {
        self.opened_in_place += count;
        self.data.truncate(self.opened_in_place);
        Ok(())
    }
    fn push(&mut self, data: &[u8]) -> Result<(), String> {
        self.data.extend_from_slice(data);
        Ok(())
    }
}

impl End {
    /// Opens all whole records of `out`; what the last of them was.
    fn take(&mut self, out: &mut OutBuf, plain: &mut Plain) -> Result<Opened, Error> {
        let mut wire = out.pending().to_vec();
        out.consume(wire.len());
        let (mut rest, mut last) = (&mut wire[..], Opened::Data);
        while let Some(length) = Opener::whole(rest)? {
            let (record, behind) = rest.split_at_mut(length);
            last = match self.opener.open(record, plain) {
                Ok(opened) => opened,
                Err(OpenError::Tls(error)) => return Err(error),
                Err(OpenError::Sink(reason)) => panic!("{reason}"),
            };
            rest = behind;
        }
        assert!(rest.is_empty(), "whole records are used up");
        Ok(last)
    }

    fn hears(&mut self, out: &mut OutBuf) -> Vec<u8> {
        let mut plain = Plain::default();
        self.take(out, &mut plain).unwrap();
        plain.data
    }
}

struct Pair {
    client: End,
    server: End,
    to_server: OutBuf,
    to_client: OutBuf,
}

fn connected(identity: &Identity) -> Pair {
    let loaded = identity.current();
    let mut client = Tls::client(loaded.client.clone(), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut server = Tls::server(loaded.server.clone()).unwrap();
    let carry = |from: &mut OutBuf, to: &mut Tls, back: &mut OutBuf| {
        let mut wire = from.pending().to_vec();
        from.consume(wire.len());
        let (used, state) = to.feed(&mut wire, back, &mut |bytes| panic!("data {bytes:?}"));
        assert_eq!(used, wire.len());
        state.unwrap()
    };
    let (mut to_server, mut to_client) = (OutBuf::default(), OutBuf::default());
    let mut open = (State::Handshake, State::Handshake);
    for _ in 0..4 {
        open.0 = carry(&mut to_client, &mut client, &mut to_server);
        open.1 = carry(&mut to_server, &mut server, &mut to_client);
    }
    assert_eq!(open, (State::Open, State::Open));
    let end = |tls: Tls| {
        let (sealer, opener) = tls.into_records().unwrap();
        End { sealer, opener }
    };
    Pair { client: end(client), server: end(server), to_server, to_client }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[test]
fn data_survives_many_changes_of_keys_also_into_its_place() {
    let mut pair = connected(&identity(provider_that_changes_keys_often()));
    let data = bytes(RECORD * 3 + 100);
    for round in 0..LIMIT * 10 {
        pair.client.sealer.seal(&data, &mut pair.to_server).unwrap();
        let mut plain = Plain { in_place: round % 2 == 0, ..Plain::default() };
        let last = pair.server.take(&mut pair.to_server, &mut plain).unwrap();
        assert_eq!(last, Opened::Data);
        assert!(plain.data == data, "round {round}");
        assert!(pair.client.sealer.keys.number < LIMIT, "a key is used too often");
        pair.server.sealer.seal(b"an answer", &mut pair.to_client).unwrap();
        assert_eq!(pair.client.hears(&mut pair.to_client), b"an answer", "round {round}");
    }
}

#[test]
fn a_wish_for_other_keys_is_answered_before_the_next_data_and_once() {
    let mut pair = connected(&identity(provider()));
    for _ in 0..3 {
        let asking = [KEY_UPDATE, 0, 0, 1, 1];
        pair.client.sealer.record(HANDSHAKE, &asking, &mut pair.to_server).unwrap();
        pair.client.sealer.keys = pair.client.sealer.shared.secrets().next_to_seal().unwrap();
    }
    let heard = pair.server.take(&mut pair.to_server, &mut Plain::default()).unwrap();
    assert_eq!(heard, Opened::UpdateDue);
    pair.server.sealer.answer(&mut pair.to_client).unwrap();
    assert_eq!(pair.to_client.pending().len(), HEADER + 5 + 1 + 16, "one answer");
    pair.server.sealer.seal(b"with the new keys", &mut pair.to_client).unwrap();
    assert_eq!(pair.client.hears(&mut pair.to_client), b"with the new keys");
    pair.client.sealer.seal(b"the same here", &mut pair.to_server).unwrap();
    assert_eq!(pair.server.hears(&mut pair.to_server), b"the same here");
}

#[test]
fn a_record_in_two_pieces_waits_for_the_second() {
    let mut pair = connected(&identity(provider()));
    pair.client.sealer.seal(b"hello", &mut pair.to_server).unwrap();
    let wire = pair.to_server.pending();
    for end in 0..wire.len() {
        assert_eq!(Opener::whole(&wire[..end]), Ok(None), "after {end} bytes");
    }
    assert_eq!(Opener::whole(wire), Ok(Some(wire.len())));
}

#[test]
fn an_altered_record_is_not_opened_wherever_it_was_altered() {
    for (at, in_place) in [(5, false), (5, true), (20, false), (20, true)] {
        let mut pair = connected(&identity(provider()));
        pair.client.sealer.seal(b"hello", &mut pair.to_server).unwrap();
        let mut wire = pair.to_server.pending().to_vec();
        wire[at] ^= 1;
        let mut plain = Plain { in_place, ..Plain::default() };
        let opened = pair.server.opener.open(&mut wire, &mut plain);
        assert!(matches!(opened, Err(OpenError::Tls(Error::DecryptError))), "{opened:?}");
        assert_eq!(plain.opened_in_place, 0, "bytes that were not verified count as data");
    }
}

#[test]
fn records_that_are_doubled_or_swapped_are_not_opened() {
    for order in [[0, 0], [1, 0]] {
        let mut pair = connected(&identity(provider()));
        let mut wire = Vec::new();
        for text in [b"one", b"two"] {
            pair.client.sealer.seal(text, &mut pair.to_server).unwrap();
            wire.push(pair.to_server.pending().to_vec());
            pair.to_server.consume(usize::MAX);
        }
        let mut open =
            |number: usize| pair.server.opener.open(&mut wire[number].clone(), &mut Plain::default());
        let opened = (open(order[0]), open(order[1]));
        assert!(opened.0.is_err() || opened.1.is_err(), "{order:?}: {opened:?}");
    }
}

#[test]
fn lengths_and_kinds_that_are_not_allowed_are_refused_from_the_header() {
    let too_long = u16::try_from(RECORD + 257).unwrap().to_be_bytes();
    let header = [23, 3, 3, too_long[0], too_long[1]];
    assert_eq!(Opener::whole(&header), Err(Error::PeerSentOversizedRecord));
    for header in [[21, 3, 3, 0, 2], [22, 3, 3, 0, 50], [23, 2, 3, 0, 50], [23, 3, 3, 0, 16]] {
        assert!(Opener::whole(&header).is_err(), "{header:?}");
    }
}

#[test]
fn only_what_has_a_place_after_the_handshake_is_taken() {
    let taken = |kind: u8, content: &[u8]| {
        let mut pair = connected(&identity(provider()));
        pair.client.sealer.record(kind, content, &mut pair.to_server).unwrap();
        let mut plain = Plain { in_place: true, ..Plain::default() };
        let opened = pair.server.take(&mut pair.to_server, &mut plain);
        assert_eq!(plain.opened_in_place, 0);
        opened
    };
    let ticket = [4, 0, 0, 3, 1, 2, 3];
    assert_eq!(taken(HANDSHAKE, &ticket), Ok(Opened::Data), "a ticket, which is not used");
    assert_eq!(taken(21, &[1, 0]), Ok(Opened::End));
    assert!(matches!(taken(21, &[2, 48]), Err(Error::AlertReceived(rustls::AlertDescription::UnknownCA))));
    for (kind, content) in [
        (HANDSHAKE, &[KEY_UPDATE, 0, 0, 1][..]),
        (HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 2]),
        (HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0, 0x14]),
        (HANDSHAKE, &[1, 0, 0, 0]),
        (21, &[2]),
        (20, &[1]),
        (0, &[0, 0]),
    ] {
        assert!(taken(kind, content).is_err(), "{kind} {content:?}");
    }
}

#[test]
fn padding_behind_the_data_is_not_data() {
    let mut pair = connected(&identity(provider()));
    // What the record layer calls kind is the last byte that is not zero; so padded data is data, 23, zeros.
    pair.client
        .sealer
        .record(0, &[b"data".as_slice(), &[23, 0, 0, 0]].concat(), &mut pair.to_server)
        .unwrap();
    assert_eq!(pair.server.hears(&mut pair.to_server), b"data");
}

#[test]
fn the_end_is_seen_by_the_other_side() {
    let mut pair = connected(&identity(provider()));
    pair.client.sealer.seal(b"last words", &mut pair.to_server).unwrap();
    pair.client.sealer.seal_end(&mut pair.to_server).unwrap();
    let mut plain = Plain::default();
    assert_eq!(pair.server.take(&mut pair.to_server, &mut plain), Ok(Opened::End));
    assert_eq!(plain.data, b"last words");
    pair.server.sealer.seal(b"an answer", &mut pair.to_client).unwrap();
    assert_eq!(pair.client.hears(&mut pair.to_client), b"an answer");
}
