//! SPNEGO's two messages (RFC 4178), read from clients and written to them.

use super::der;

/// 1.2.840.48018.1.2.2 is what Windows calls Kerberos for historic reasons (MS-SPNG); 1.2.840.113554.1.2.2 is
/// Kerberos; 1.3.6.1.4.1.311.2.2.10 is NTLM. DER, without tag and length.
pub(super) const KERBEROS_WINDOWS: &[u8] = &[0x2a, 0x86, 0x48, 0x82, 0xf7, 0x12, 0x01, 0x02, 0x02];
/// See [`KERBEROS_WINDOWS`].
pub(super) const KERBEROS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02];
/// See [`KERBEROS_WINDOWS`].
pub(super) const NTLM: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0a];
const SPNEGO: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x02];

/// The most mechanisms a client may list.
const MAX_MECHANISMS: usize = 16;

const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
const APPLICATION_0: u8 = 0x60;

/// How far the negotiation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Completed = 0,
    Incomplete = 1,
    /// Go on, and the list of mechanisms must be signed.
    RequestMic = 3,
}

/// A client's first message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Init<'m> {
    /// The mechanisms, best first.
    pub mechanisms: Vec<&'m [u8]>,
    /// Their list as it stood there: what a MIC is over.
    pub list: &'m [u8],
    /// The first message of the first mechanism, on chance.
    pub token: Option<&'m [u8]>,
}

/// A client's further message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Response<'m> {
    pub token: Option<&'m [u8]>,
    pub mic: Option<&'m [u8]>,
}

/// The mechanism and the content of a GSS token (RFC 2743, 3.1).
pub(super) fn mechanism_of(token: &[u8]) -> Option<(&[u8], &[u8])> {
    let content = der::only(token, APPLICATION_0)?;
    match der::read(content)? {
        (OID, mechanism, rest) => Some((mechanism, rest)),
        _ => None,
    }
}

impl<'m> Init<'m> {
    /// Reads the content of a GSS token whose mechanism is SPNEGO.
    pub fn read(token: &'m [u8]) -> Option<Self> {
        let (mechanism, content) = mechanism_of(token)?;
        if mechanism != SPNEGO {
            return None;
        }
        let fields = der::only(der::only(content, 0xa0)?, SEQUENCE)?;
        let mut new = Self { mechanisms: Vec::new(), list: &[], token: None };
        for field in der::elements(fields) {
            match field? {
                (0xa0, list) => {
                    new.list = list;
                    for mechanism in der::elements(der::only(list, SEQUENCE)?).take(MAX_MECHANISMS) {
                        let (tag, mechanism) = mechanism?;
                        if tag != OID {
                            return None;
                        }
                        new.mechanisms.push(mechanism);
                    }
                }
                (0xa2, token) => new.token = Some(der::only(token, OCTETS)?),
                // Flags, hints and a MIC that nobody could have made yet.
                _ => {}
            }
        }
        Some(new)
    }
}

impl<'m> Response<'m> {
    /// Reads a NegTokenResp.
    pub fn read(token: &'m [u8]) -> Option<Self> {
        let fields = der::only(der::only(token, 0xa1)?, SEQUENCE)?;
        let mut new = Self::default();
        for field in der::elements(fields) {
            match field? {
                (0xa2, token) => new.token = Some(der::only(token, OCTETS)?),
                (0xa3, mic) => new.mic = Some(der::only(mic, OCTETS)?),
                _ => {}
            }
        }
        Some(new)
    }
}

/// Writes a NegTokenResp.
pub(super) fn response(
    state: State,
    mechanism: Option<&[u8]>,
    token: Option<&[u8]>,
    mic: Option<&[u8]>,
) -> Vec<u8> {
    let mut fields = der::write(0xa0, &[&der::write(ENUMERATED, &[&[state as u8]])]);
    if let Some(mechanism) = mechanism {
        fields.extend(der::write(0xa1, &[&der::write(OID, &[mechanism])]));
    }
    if let Some(token) = token {
        fields.extend(der::write(0xa2, &[&der::write(OCTETS, &[token])]));
    }
    if let Some(mic) = mic {
        fields.extend(der::write(0xa3, &[&der::write(OCTETS, &[mic])]));
    }
    der::write(0xa1, &[&der::write(SEQUENCE, &[&fields])])
}

#[cfg(test)]
pub(super) fn init(mechanisms: &[&[u8]], token: Option<&[u8]>) -> Vec<u8> {
    let list: Vec<u8> = mechanisms.iter().flat_map(|oid| der::write(OID, &[oid])).collect();
    let mut fields = der::write(0xa0, &[&der::write(SEQUENCE, &[&list])]);
    if let Some(token) = token {
        fields.extend(der::write(0xa2, &[&der::write(OCTETS, &[token])]));
    }
    let content = der::write(0xa0, &[&der::write(SEQUENCE, &[&fields])]);
    der::write(APPLICATION_0, &[&der::write(OID, &[SPNEGO]), &content])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let message = init(&[KERBEROS_WINDOWS, NTLM], Some(b"token"));
        let read = Init::read(&message).unwrap();
        assert_eq!(read.mechanisms, [KERBEROS_WINDOWS, NTLM]);
        assert_eq!(read.token, Some(&b"token"[..]));
        assert_eq!(der::only(read.list, SEQUENCE).unwrap().len(), 2 + 9 + 2 + 10);
        let message = response(State::Incomplete, Some(NTLM), Some(b"t"), Some(b"m"));
        assert_eq!(Response::read(&message), Some(Response { token: Some(b"t"), mic: Some(b"m") }));
    }

    #[test]
    fn messages_cut_or_altered_anywhere_are_read_or_refused_without_a_panic() {
        let message = init(&[KERBEROS, NTLM], Some(&[5; 200]));
        for length in 0..message.len() {
            assert_eq!(Init::read(&message[..length]), None, "{length}");
        }
        for at in 0..message.len() {
            let mut altered = message.clone();
            altered[at] ^= 0xff;
            let _ = (Init::read(&altered), Response::read(&altered));
        }
    }
}
