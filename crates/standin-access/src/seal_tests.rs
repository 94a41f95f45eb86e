use super::*;
use crate::auth::ntlm::Session;

const TYPE: &str = "multipart/encrypted;protocol=\"application/HTTP-SPNEGO-session-encrypted\";boundary=\"Encrypted Boundary\"";

/// A message as clients write it; `tab` is what header lines begin with.
fn sealed(client: &mut Session, body: &[u8], tab: &str, end: &str) -> Vec<u8> {
    let (signature, data) = client.seal_as_client(body);
    let head = format!(
        "--Encrypted Boundary\r\n{tab}Content-Type: application/HTTP-SPNEGO-session-encrypted\r\n\
         {tab}OriginalContent: type=application/soap+xml;charset=UTF-8;Length={}\r\n--Encrypted Boundary\r\n\
         {tab}Content-Type: application/octet-stream\r\n",
        body.len()
    );
    [head.as_bytes(), &16_u32.to_le_bytes(), &signature, &data, end.as_bytes()].concat()
}

fn ends() -> (Session, Sealer) {
    let [client, server] = Session::both_ends();
    (client, Sealer::Ntlm(Box::new(server)))
}

#[test]
fn messages_are_opened_as_clients_write_them() {
    let (mut client, mut server) = ends();
    let envelope = Envelope::read(TYPE).unwrap();
    let boundary_within = b"a\r\n--Encrypted Boundary--\r\nb".to_vec();
    for body in [b"hello".to_vec(), Vec::new(), vec![7; 100_000], boundary_within] {
        for (tab, end) in [
            ("\t", "--Encrypted Boundary--\r\n"),
            ("", "\r\n--Encrypted Boundary--"),
            (" ", "-- Encrypted Boundary--\r\n"),
        ] {
            let message = sealed(&mut client, &body, tab, end);
            let opened = envelope.open(&mut server, &message).unwrap();
            assert_eq!(opened.body, body);
            assert_eq!(opened.content_type, "application/soap+xml;charset=UTF-8");
        }
    }
}

#[test]
fn a_reply_has_the_form_that_clients_read() {
    let (_, mut server) = ends();
    let envelope = Envelope::read(TYPE).unwrap();
    let reply = envelope.close(&mut server, "application/soap+xml; charset=UTF-8", b"hello").unwrap();
    let text = String::from_utf8_lossy(&reply);
    assert!(text.starts_with(
        "--Encrypted Boundary\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n\
         \tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=5\r\n--Encrypted Boundary\r\n\
         \tContent-Type: application/octet-stream\r\n\u{10}\0\0\0"
    ));
    assert!(text.ends_with("--Encrypted Boundary--\r\n"));
    assert_eq!(envelope.content_type(), TYPE);
}

#[test]
fn content_types_are_told_apart() {
    assert!(Envelope::read("application/soap+xml;charset=UTF-8").is_none());
    assert!(Envelope::read("multipart/form-data; boundary=x").is_none());
    let kerberos = TYPE.replace("SPNEGO", "Kerberos").replace(';', "; ");
    assert!(Envelope::read(&kerberos).unwrap().content_type().contains("HTTP-Kerberos-session-encrypted"));
}

#[test]
fn messages_cut_altered_or_sealed_by_somebody_else_are_refused() {
    let envelope = Envelope::read(TYPE).unwrap();
    let message = sealed(&mut ends().0, b"hello", "\t", "--Encrypted Boundary--\r\n");
    for length in 0..message.len() - 4 {
        assert!(envelope.open(&mut ends().1, &message[..length]).is_err(), "{length}");
    }
    for at in 0..message.len() {
        let mut altered = message.clone();
        altered[at] ^= 0x20;
        // Letters of a header's name or value may change their case and mean the same.
        if let Ok(opened) = envelope.open(&mut ends().1, &altered) {
            assert_eq!(opened.body, b"hello", "{at}");
        }
    }
    let again = envelope.open(&mut ends().1, &message).unwrap();
    assert_eq!(again.body, b"hello");
    let (mut client, mut server) = ends();
    let first = sealed(&mut client, b"hello", "\t", "--Encrypted Boundary--\r\n");
    envelope.open(&mut server, &first).unwrap();
    assert_eq!(envelope.open(&mut server, &first), Err(SealError::WrongSignature), "a replay");
}

#[test]
fn absurd_lengths_are_refused() {
    let envelope = Envelope::read(TYPE).unwrap();
    let message = sealed(&mut ends().0, b"hello", "\t", "--Encrypted Boundary--\r\n");
    let text = String::from_utf8_lossy(&message).into_owned();
    for length in ["18446744073709551615", "99999999999999999999999", "-1", "", "6"] {
        let altered = text.replace("Length=5", &format!("Length={length}"));
        assert!(envelope.open(&mut ends().1, altered.as_bytes()).is_err(), "{length}");
    }
}
