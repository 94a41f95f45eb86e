//! Messages after the log-in (RFC 4121, 4.2): wrap tokens.
//!
//! WS-Management cuts a wrap token in two: a signature, which is everything before the data, and the data. For that
//! the checksum at the token's end is turned to its front (RRC), so that the signature has 60 bytes and the data is as
//! long as the message.

use super::crypto::{BLOCK, Key, MAC, usage};
use subtle::ConstantTimeEq as _;

const HEADER: usize = 16;
const BY_ACCEPTOR: u8 = 1;
const SEALED: u8 = 2;
const ACCEPTOR_SUBKEY: u8 = 4;
/// What is turned to the front: the copy of the header at the end, and the checksum.
const TURNED: usize = HEADER + MAC;

/// A context that both sides have the key of. Messages come in order: each connection has its own.
pub(crate) struct Context {
    key: Key,
    from_client: u64,
    from_server: u64,
}

impl Context {
    pub(super) fn new(key: Key, from_client: u32, from_server: u32) -> Self {
        Self { key, from_client: from_client.into(), from_server: from_server.into() }
    }

    /// Decrypts a message of the client and checks it.
    #[must_use]
    pub fn unseal(&mut self, signature: &[u8], data: &[u8]) -> Option<Vec<u8>> {
        let token = [signature, data].concat();
        let (header, body) = token.split_first_chunk::<HEADER>()?;
        let flags = header[2];
        if header[..2] != [5, 4] || header[3] != 0xff || flags & SEALED == 0 {
            return None;
        }
        self.check_origin(flags, header)?;
        let extra = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let turned = usize::from(u16::from_be_bytes([header[6], header[7]]));
        let mut body = body.to_vec();
        if !body.is_empty() {
            let turn = turned % body.len();
            body.rotate_left(turn);
        }
        let mut plain = self.key.decrypt(usage::INITIATOR_SEAL, &body)?;
        let end = plain.len().checked_sub(HEADER)?;
        let mut expected = *header;
        // The copy was made before anything was turned.
        expected[6..8].copy_from_slice(&[0, 0]);
        if !bool::from(plain[end..].ct_eq(&expected)) {
            return None;
        }
        plain.truncate(end.checked_sub(extra)?);
        Some(plain)
    }

    /// Encrypts a message to the client: signature and data.
    #[must_use]
    pub fn seal(&mut self, data: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut header = [5, 4, BY_ACCEPTOR | SEALED, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        header[8..].copy_from_slice(&self.from_server.to_be_bytes());
        self.from_server = self.from_server.wrapping_add(1);
        let mut body = self.key.encrypt(usage::ACCEPTOR_SEAL, &[data, &header].concat());
        if body.len() != BLOCK + data.len() + TURNED {
            return None;
        }
        body.rotate_right(TURNED);
        header[6..8].copy_from_slice(&u16::try_from(TURNED).ok()?.to_be_bytes());
        let data = body.split_off(TURNED + BLOCK);
        Some(([&header[..], &body].concat(), data))
    }

    /// The message is the client's, with the key that was agreed on, and the next one.
    fn check_origin(&mut self, flags: u8, header: &[u8; HEADER]) -> Option<()> {
        let number = u64::from_be_bytes(header[8..].try_into().ok()?);
        if flags & (BY_ACCEPTOR | ACCEPTOR_SUBKEY) != 0 || number != self.from_client {
            return None;
        }
        self.from_client = self.from_client.wrapping_add(1);
        Some(())
    }
}

#[cfg(test)]
pub(super) fn as_client(key: &Key, number: u64, data: &[u8], extra: u16, turn: u16) -> Vec<u8> {
    let mut header = [5, 4, SEALED, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[4..6].copy_from_slice(&extra.to_be_bytes());
    header[8..].copy_from_slice(&number.to_be_bytes());
    let filler = vec![0xff; usize::from(extra)];
    let mut body = key.encrypt(usage::INITIATOR_SEAL, &[data, &filler, &header].concat());
    body.rotate_right(usize::from(turn));
    header[6..8].copy_from_slice(&turn.to_be_bytes());
    [&header[..], &body].concat()
}
