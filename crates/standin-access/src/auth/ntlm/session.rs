//! Signing and sealing after a log-in (MS-NLMP 3.4): extended session security, 128 bit keys.

use super::crypto::{Rc4, hmac_md5, md5};
use super::messages::flag;
use subtle::ConstantTimeEq as _;

/// The length of a signature.
pub const SIGNATURE: usize = 16;

/// One direction: its keys, its stream and the number of its next message.
struct Direction {
    sign_key: [u8; 16],
    seal_key: [u8; 16],
    cipher: Rc4,
    number: u32,
}

impl Direction {
    fn new(key: &[u8; 16], who: &str) -> Self {
        // SIGNKEY and SEALKEY (3.4.5.2 and 3.4.5.3) with their closing zero.
        let text = |what| format!("session key to {who} {what} key magic constant\0");
        let sign_key = md5(&[key, text("signing").as_bytes()]);
        let seal_key = md5(&[key, text("sealing").as_bytes()]);
        Self { sign_key, seal_key, cipher: Rc4::new(&seal_key), number: 0 }
    }

    /// The signature of the next message, whose sealing, if any, has gone through the cipher already.
    fn signature(&mut self, message: &[u8], key_exchange: bool) -> [u8; SIGNATURE] {
        let number = self.number.to_le_bytes();
        let mac = hmac_md5(&self.sign_key, &[&number, message]);
        let mut checksum = [0; 8];
        checksum.copy_from_slice(&mac[..8]);
        if key_exchange {
            self.cipher.apply(&mut checksum);
        }
        self.number = self.number.wrapping_add(1);
        let mut signature = [0; SIGNATURE];
        signature[0] = 1;
        signature[4..12].copy_from_slice(&checksum);
        signature[12..].copy_from_slice(&number);
        signature
    }

    fn restart_cipher(&mut self) {
        self.cipher = Rc4::new(&self.seal_key);
    }
}

/// A session that both sides have the key of. A signature that does not fit leaves the streams out of step: the
/// session is of no use then.
pub struct Session {
    from_client: Direction,
    from_server: Direction,
    key_exchange: bool,
    can_seal: bool,
}

impl Session {
    pub(super) fn new(key: &[u8; 16], flags: u32) -> Self {
        Self {
            from_client: Direction::new(key, "client-to-server"),
            from_server: Direction::new(key, "server-to-client"),
            key_exchange: flags & flag::KEY_EXCHANGE != 0,
            can_seal: flags & flag::SEAL != 0 && flags & flag::KEY_128 != 0,
        }
    }

    /// The client may seal its messages.
    #[must_use]
    pub fn can_seal(&self) -> bool {
        self.can_seal
    }

    /// Decrypts a message of the client and checks its signature.
    #[must_use]
    pub fn unseal(&mut self, signature: &[u8], mut data: Vec<u8>) -> Option<Vec<u8>> {
        if !self.can_seal {
            return None;
        }
        self.from_client.cipher.apply(&mut data);
        let expected = self.from_client.signature(&data, self.key_exchange);
        bool::from(expected.ct_eq(signature)).then_some(data)
    }

    /// Encrypts a message to the client; gives its signature too.
    #[must_use]
    pub fn seal(&mut self, data: &[u8]) -> ([u8; SIGNATURE], Vec<u8>) {
        let mut sealed = data.to_vec();
        self.from_server.cipher.apply(&mut sealed);
        (self.from_server.signature(data, self.key_exchange), sealed)
    }

    /// Checks the client's MIC over SPNEGO's list of mechanisms and makes the server's. The streams begin anew
    /// after that, the numbers go on (MS-SPNG 3.3.5.1).
    #[must_use]
    pub fn exchange_list_mic(&mut self, list: &[u8], mic: &[u8]) -> Option<[u8; SIGNATURE]> {
        let expected = self.from_client.signature(list, self.key_exchange);
        self.from_client.restart_cipher();
        if !bool::from(expected.ct_eq(mic)) {
            return None;
        }
        let own = self.from_server.signature(list, self.key_exchange);
        self.from_server.restart_cipher();
        Some(own)
    }

    /// Both ends of a session, for tests of what is built on it.
    #[cfg(test)]
    pub(crate) fn both_ends() -> [Self; 2] {
        [(); 2].map(|()| Self::new(&[0x55; 16], flag::KEY_EXCHANGE | flag::SEAL | flag::KEY_128))
    }

    #[cfg(test)]
    pub(crate) fn seal_as_client(&mut self, data: &[u8]) -> ([u8; SIGNATURE], Vec<u8>) {
        let mut sealed = data.to_vec();
        self.from_client.cipher.apply(&mut sealed);
        (self.from_client.signature(data, self.key_exchange), sealed)
    }
}
