use super::acceptor::response_key;
use super::crypto::{Rc4, hmac_md5};
use super::messages::{self, Authenticate, MIC_AT, flag, pair, push_pair, utf16};
use super::*;

fn names() -> Names {
    Names::of_host("server.example.org")
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// What a client does, as far as the tests need it.
struct Client {
    user: &'static str,
    domain: &'static str,
    password: &'static str,
    bindings: Option<[u8; 16]>,
    mic: bool,
    flags: u32,
}

const ALICE: Client = Client {
    user: "alice",
    domain: "WORK",
    password: "secret",
    bindings: None,
    mic: true,
    flags: 0xe208_8237,
};

impl Client {
    fn negotiate(&self) -> Vec<u8> {
        let mut message = messages::SIGNATURE.to_vec();
        message.extend_from_slice(&1_u32.to_le_bytes());
        message.extend_from_slice(&self.flags.to_le_bytes());
        message.extend_from_slice(&[0; 24]);
        message
    }

    fn authenticate(&self, negotiate: &[u8], challenge: &[u8]) -> Vec<u8> {
        let key = response_key(&NtHash::of(self.password), self.user, self.domain);
        let mut blob = vec![1, 1, 0, 0, 0, 0, 0, 0];
        blob.extend_from_slice(&[9; 8]);
        blob.extend_from_slice(&[0xaa; 8]);
        blob.extend_from_slice(&[0; 4]);
        if self.mic {
            push_pair(&mut blob, pair::FLAGS, &2_u32.to_le_bytes());
        }
        if let Some(bindings) = self.bindings {
            push_pair(&mut blob, pair::CHANNEL_BINDINGS, &bindings);
        }
        push_pair(&mut blob, pair::END, &[]);
        let proof = hmac_md5(&key, &[&challenge[24..32], &blob]);
        let mut session_key = [0x55; 16];
        Rc4::new(&hmac_md5(&key, &[&proof])).apply(&mut session_key);
        let nt_response = [&proof[..], &blob].concat();
        let (user, domain) = (utf16(self.user), utf16(self.domain));
        let fields: [&[u8]; 6] = [&[], &nt_response, &domain, &user, &[], &session_key];
        let mut message = messages::SIGNATURE.to_vec();
        message.extend_from_slice(&3_u32.to_le_bytes());
        let mut offset = 88_u32;
        for field in fields {
            let length = (field.len() as u16).to_le_bytes();
            message.extend_from_slice(&[length, length].concat());
            message.extend_from_slice(&offset.to_le_bytes());
            offset += field.len() as u32;
        }
        message.extend_from_slice(&self.flags.to_le_bytes());
        message.extend_from_slice(&[0; 8 + 16]);
        message.extend_from_slice(&fields.concat());
        if self.mic {
            let mic = hmac_md5(&[0x55; 16], &[negotiate, challenge, &message]);
            message[MIC_AT..MIC_AT + 16].copy_from_slice(&mic);
        }
        message
    }

    fn log_in(&self, hash: Option<&NtHash>, bindings: Option<[u8; 16]>) -> Result<Proven, NtlmError> {
        let negotiate = self.negotiate();
        let (acceptor, challenge) = Acceptor::begin(&negotiate, &names())?;
        acceptor.finish(&self.authenticate(&negotiate, &challenge), hash, bindings)
    }
}

fn secret() -> NtHash {
    NtHash::of("secret")
}

fn refused(result: Result<Proven, NtlmError>) -> NtlmError {
    match result {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error,
    }
}

/// MS-NLMP 4.2.4: user `User`, domain `Domain`, password `Password`, server challenge 0123456789abcdef.
#[test]
fn the_keys_are_those_of_the_example_in_ms_nlmp() {
    let hash = NtHash::of("Password");
    assert_eq!(hash.to_hex(), "a4f49c406510bdcab6824ee7c30fd852");
    assert_eq!(NtHash::parse("a4f49c406510bdcab6824ee7c30fd852"), Some(hash.clone()));
    let key = response_key(&hash, "User", "Domain");
    assert_eq!(key.to_vec(), hex("0c868a403bfd7a93a3001ef22ef02e3f"));
}

/// MS-NLMP 4.2.4.4: GSS_WrapEx of `Plaintext` with the session key 55...; client to server, number 0.
#[test]
fn a_sealed_message_is_that_of_the_example_in_ms_nlmp() {
    let mut session = Session::new(&[0x55; 16], flag::KEY_EXCHANGE | flag::SEAL | flag::SIGN | flag::KEY_128);
    let (signature, sealed) = session.seal_as_client(&utf16("Plaintext"));
    assert_eq!(sealed, hex("54e50165bf1936dc996020c1811b0f06fb5f"));
    assert_eq!(signature.to_vec(), hex("010000007fb38ec5c55d497600000000"));
}

#[test]
fn the_right_password_gets_in_and_messages_can_be_sealed_both_ways() {
    let mut proven = ALICE.log_in(Some(&secret()), None).ok().unwrap();
    assert!(proven.had_mic && proven.session.can_seal());
    let mut client = Session::new(&[0x55; 16], ALICE.flags);
    for text in ["first", "", "third, which is longer"] {
        let (signature, sealed) = client.seal_as_client(text.as_bytes());
        assert_eq!(proven.session.unseal(&signature, sealed).unwrap(), text.as_bytes());
    }
    let (signature, mut sealed) = client.seal_as_client(b"altered");
    sealed[0] ^= 1;
    assert_eq!(proven.session.unseal(&signature, sealed), None);
}

#[test]
fn the_name_is_taken_in_any_case_and_the_domain_as_the_client_has_it() {
    for (user, domain) in [("ALICE", ""), ("alice", "server"), ("Alice", "EXAMPLE.ORG")] {
        let client = Client { user, domain, ..ALICE };
        assert!(client.log_in(Some(&secret()), None).is_ok(), "{user} {domain}");
    }
}

#[test]
fn a_wrong_password_an_unknown_user_and_a_replayed_answer_do_not_get_in() {
    assert_eq!(
        refused(Client { password: "Secret", ..ALICE }.log_in(Some(&secret()), None)),
        NtlmError::WrongProof
    );
    assert_eq!(refused(ALICE.log_in(None, None)), NtlmError::WrongProof);
    let nothing = Client { user: "alice", password: "", ..ALICE };
    assert_eq!(refused(nothing.log_in(None, None)), NtlmError::WrongProof);
    let negotiate = ALICE.negotiate();
    let (_, first) = Acceptor::begin(&negotiate, &names()).unwrap();
    let answer = ALICE.authenticate(&negotiate, &first);
    let (second, _) = Acceptor::begin(&negotiate, &names()).unwrap();
    assert_eq!(refused(second.finish(&answer, Some(&secret()), None)), NtlmError::WrongProof);
}

#[test]
fn anonymous_and_old_log_ins_are_refused() {
    let anonymous = Client { user: "", ..ALICE };
    assert_eq!(refused(anonymous.log_in(Some(&secret()), None)), NtlmError::Anonymous);
    let negotiate = ALICE.negotiate();
    let (acceptor, challenge) = Acceptor::begin(&negotiate, &names()).unwrap();
    let mut old = ALICE.authenticate(&negotiate, &challenge);
    // An NTLMv1 response has 24 bytes.
    old[20..22].copy_from_slice(&24_u16.to_le_bytes());
    assert_eq!(refused(acceptor.finish(&old, Some(&secret()), None)), NtlmError::TooOld);
    let weak = Client { flags: ALICE.flags & !flag::KEY_128, ..ALICE };
    assert_eq!(refused(weak.log_in(Some(&secret()), None)), NtlmError::TooWeak);
}

#[test]
fn messages_that_were_altered_are_refused() {
    let negotiate = ALICE.negotiate();
    let (acceptor, challenge) = Acceptor::begin(&negotiate, &names()).unwrap();
    let mut answer = ALICE.authenticate(&negotiate, &challenge);
    answer[64] ^= 1;
    assert_eq!(refused(acceptor.finish(&answer, Some(&secret()), None)), NtlmError::Altered);
}

#[test]
fn channel_bindings_must_be_those_of_the_connection() {
    let bound = Client { bindings: Some([3; 16]), ..ALICE };
    assert!(bound.log_in(Some(&secret()), Some([3; 16])).is_ok());
    assert_eq!(refused(bound.log_in(Some(&secret()), Some([4; 16]))), NtlmError::OtherChannel);
    assert_eq!(refused(bound.log_in(Some(&secret()), None)), NtlmError::OtherChannel);
    let zero = Client { bindings: Some([0; 16]), ..ALICE };
    assert!(zero.log_in(Some(&secret()), Some([4; 16])).is_ok());
}

#[test]
fn messages_out_of_order_or_cut_anywhere_are_refused_without_a_panic() {
    let negotiate = ALICE.negotiate();
    let (_, challenge) = Acceptor::begin(&negotiate, &names()).unwrap();
    let answer = ALICE.authenticate(&negotiate, &challenge);
    assert_eq!(Acceptor::begin(&answer, &names()).err(), Some(NtlmError::OutOfOrder));
    assert_eq!(Acceptor::begin(&challenge, &names()).err(), Some(NtlmError::Malformed));
    for length in 0..answer.len() {
        let (acceptor, _) = Acceptor::begin(&negotiate, &names()).unwrap();
        assert!(acceptor.finish(&answer[..length], Some(&secret()), None).is_err(), "{length}");
    }
    for at in (12..64).chain(88..answer.len()) {
        for value in [0x00, 0x7f, 0xff] {
            let mut wrong = answer.clone();
            wrong[at] = value;
            let _ = Authenticate::read(&wrong);
            let (acceptor, _) = Acceptor::begin(&negotiate, &names()).unwrap();
            assert!(acceptor.finish(&wrong, Some(&secret()), None).is_err());
        }
    }
}
