use super::context::as_client;
use super::keytab::entry;
use super::messages::make::*;
use super::*;
use std::os::unix::fs::OpenOptionsExt as _;

const SERVICE_KEY: [u8; 32] = [2; 32];
const SESSION_KEY: [u8; 32] = [5; 32];
const NOW: i64 = 1_800_000_000;

/// A KDC and a client with a ticket of it.
struct Client {
    service_key: [u8; 32],
    ticket_client: &'static str,
    client: &'static str,
    start: i64,
    end: i64,
    time: i64,
    micros: i64,
    bindings: [u8; 16],
    flags: u32,
    options: u8,
    session_type: i64,
}

const ALICE: Client = Client {
    service_key: SERVICE_KEY,
    ticket_client: "alice",
    client: "alice",
    start: NOW - 60,
    end: NOW + 3600,
    time: NOW,
    micros: 1,
    bindings: [0; 16],
    flags: flag::MUTUAL | flag::CONFIDENTIAL,
    options: 0x20,
    session_type: 18,
};

impl Client {
    fn token(&self) -> Vec<u8> {
        let ticket = application(
            3,
            &[
                field(0, &bits([0x40, 0, 0, 0])),
                field(1, &typed(self.session_type, &SESSION_KEY)),
                field(2, &string("EXAMPLE.ORG")),
                field(3, &name(self.ticket_client)),
                field(5, &time(self.start)),
                field(7, &time(self.end)),
            ],
        );
        let ticket = Key::new(18, &self.service_key).unwrap().encrypt(crypto::usage::TICKET, &ticket);
        let ticket = application(1, &[field(0, &number(5)), field(3, &encrypted(18, &ticket))]);
        let checksum = [&[16, 0, 0, 0], &self.bindings[..], &self.flags.to_le_bytes()].concat();
        let authenticator = application(
            2,
            &[
                field(0, &number(5)),
                field(1, &string("EXAMPLE.ORG")),
                field(2, &name(self.client)),
                field(3, &typed(0x8003, &checksum)),
                field(4, &number(self.micros)),
                field(5, &time(self.time)),
                field(7, &number(77)),
            ],
        );
        let session = Key::new(18, &SESSION_KEY).unwrap();
        let authenticator = session.encrypt(crypto::usage::AP_REQ_AUTHENTICATOR, &authenticator);
        let request = application(
            14,
            &[
                field(0, &number(5)),
                field(1, &number(14)),
                field(2, &bits([self.options, 0, 0, 0])),
                field(3, &ticket),
                field(4, &encrypted(18, &authenticator)),
            ],
        );
        gss_token(&[1, 0], &request)
    }

    fn log_in(&self, end_point: Option<&[u8]>) -> Result<Accepted, TicketError> {
        accept(&acceptor(), &self.token(), end_point)
    }
}

fn accept(acceptor: &Acceptor, token: &[u8], end_point: Option<&[u8]>) -> Result<Accepted, TicketError> {
    acceptor.accept_at(token, end_point, jiff::Timestamp::from_second(NOW).unwrap())
}

fn acceptor() -> Acceptor {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keytab");
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    let bytes = [vec![5, 2], entry(18, &[1; 32]), entry(18, &SERVICE_KEY)].concat();
    std::io::Write::write_all(&mut file.unwrap(), &bytes).unwrap();
    Acceptor::open(&path).unwrap()
}

fn refused(result: Result<Accepted, TicketError>) -> TicketError {
    match result {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error,
    }
}

#[test]
fn a_valid_ticket_gets_in_and_the_client_can_check_the_answer() {
    let accepted = ALICE.log_in(None).ok().unwrap();
    assert_eq!(accepted.principal, "alice@EXAMPLE.ORG");
    assert!(accepted.can_seal);
    let reply = accepted.reply.unwrap();
    let (mechanism, content) = spnego::mechanism_of(&reply).unwrap();
    assert_eq!((mechanism, &content[..2]), (spnego::KERBEROS, &[2, 0][..]));
    let quiet = Client { flags: 0, options: 0, ..ALICE };
    assert!(quiet.log_in(None).ok().unwrap().reply.is_none());
}

#[test]
fn tickets_of_another_key_or_time_or_type_are_refused() {
    assert_eq!(refused(Client { service_key: [9; 32], ..ALICE }.log_in(None)), TicketError::WrongKey);
    assert_eq!(refused(Client { end: NOW - 301, ..ALICE }.log_in(None)), TicketError::NotNow);
    assert_eq!(refused(Client { start: NOW + 301, ..ALICE }.log_in(None)), TicketError::NotNow);
    assert_eq!(refused(Client { time: NOW - 301, ..ALICE }.log_in(None)), TicketError::Skew(-301));
    assert_eq!(refused(Client { session_type: 23, ..ALICE }.log_in(None)), TicketError::Encryption(23));
    assert_eq!(refused(Client { client: "root", ..ALICE }.log_in(None)), TicketError::Malformed);
    assert_eq!(
        refused(Client { flags: flag::DCE, ..ALICE }.log_in(None)),
        TicketError::Unsupported("DCE style")
    );
    assert_eq!(
        refused(Client { options: 0x40, ..ALICE }.log_in(None)),
        TicketError::Unsupported("user-to-user")
    );
}

#[test]
fn an_authenticator_is_taken_once() {
    let (acceptor, token) = (acceptor(), ALICE.token());
    assert!(accept(&acceptor, &token, None).is_ok());
    assert_eq!(refused(accept(&acceptor, &token, None)), TicketError::Replayed);
    assert!(accept(&acceptor, &Client { micros: 2, ..ALICE }.token(), None).is_ok());
}

#[test]
fn channel_bindings_must_be_those_of_the_connection() {
    let end_point = b"tls-server-end-point:x".as_slice();
    let bound = Client { bindings: bindings_of(end_point), ..ALICE };
    assert!(bound.log_in(Some(end_point)).is_ok());
    assert_eq!(refused(bound.log_in(Some(b"tls-server-end-point:y"))), TicketError::OtherChannel);
    assert_eq!(refused(bound.log_in(None)), TicketError::OtherChannel);
    assert!(ALICE.log_in(Some(end_point)).is_ok());
}

#[test]
fn messages_are_unsealed_in_order_however_the_client_turned_them() {
    let key = Key::new(18, &SESSION_KEY).unwrap();
    let mut context = ALICE.log_in(None).ok().unwrap().context;
    for (index, (extra, turn)) in [(0, 28), (0, 0), (16, 44), (3, 5)].into_iter().enumerate() {
        let token = as_client(&key, 77 + index as u64, b"hello", extra, turn);
        let (signature, data) = token.split_at(60);
        assert_eq!(context.unseal(signature, data).unwrap(), b"hello", "{extra} {turn}");
    }
    let again = as_client(&key, 77, b"hello", 0, 28);
    assert_eq!(context.unseal(&again, &[]), None);
    let mut altered = as_client(&key, 81, b"hello", 0, 28);
    altered[50] ^= 1;
    assert_eq!(context.unseal(&altered, &[]), None);
}

#[test]
fn a_sealed_reply_has_a_signature_of_60_bytes_and_data_as_long_as_the_message() {
    let mut context = ALICE.log_in(None).ok().unwrap().context;
    for length in [0, 1, 16, 100_000] {
        let (signature, data) = context.seal(&vec![7; length]).unwrap();
        assert_eq!((signature.len(), data.len()), (60, length));
    }
}

#[test]
fn tokens_cut_or_altered_anywhere_are_refused_without_a_panic() {
    let (acceptor, token) = (acceptor(), ALICE.token());
    for length in 0..token.len() {
        assert!(accept(&acceptor, &token[..length], None).is_err(), "{length}");
    }
    for at in 0..token.len() {
        let mut altered = token.clone();
        altered[at] ^= 0x55;
        // Some bytes, as the name of the service, are not looked at; then it is the same ticket.
        let _ = accept(&acceptor, &altered, None);
    }
}
