//! The old algorithms that NTLM is made of. Nothing else in standin uses them.

use hmac::{Hmac, KeyInit as _, Mac as _};
use md4::{Digest as _, Md4};
use md5::Md5;

/// MD4.
pub(super) fn md4(data: &[u8]) -> [u8; 16] {
    Md4::digest(data).into()
}

/// MD5 of parts put together.
pub(crate) fn md5(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = Md5::default();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// HMAC-MD5 of parts put together.
pub(super) fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    // A key of any length is taken: longer ones are hashed. An error cannot be; the empty key would only make
    // every comparison fail.
    let Ok(mut mac) = Hmac::<Md5>::new_from_slice(key) else { return [0; 16] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// RC4, a stream: encrypting goes on where it stopped, and decrypting is the same.
#[derive(Clone)]
pub(super) struct Rc4 {
    state: [u8; 256],
    i: u8,
    j: u8,
}

impl Rc4 {
    pub fn new(key: &[u8; 16]) -> Self {
        let mut state = [0; 256];
        for (slot, value) in state.iter_mut().zip(0_u8..=255) {
            *slot = value;
        }
        let mut j = 0_u8;
        for i in 0..256 {
            j = j.wrapping_add(state[i]).wrapping_add(key[i % key.len()]);
            state.swap(i, usize::from(j));
        }
        Self { state, i: 0, j: 0 }
    }

    pub fn apply(&mut self, data: &mut [u8]) {
        for byte in data {
            self.i = self.i.wrapping_add(1);
            let a = self.state[usize::from(self.i)];
            self.j = self.j.wrapping_add(a);
            let b = self.state[usize::from(self.j)];
            self.state.swap(usize::from(self.i), usize::from(self.j));
            *byte ^= self.state[usize::from(a.wrapping_add(b))];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6229, key 0102030405060708090a0b0c0d0e0f10, offset 0.
    #[test]
    fn rc4_gives_the_stream_of_rfc_6229() {
        let key: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        let mut stream = [0; 16];
        Rc4::new(&key).apply(&mut stream);
        assert_eq!(
            stream,
            [0x9a, 0xc7, 0xcc, 0x9a, 0x60, 0x9d, 0x1e, 0xf7, 0xb2, 0x93, 0x28, 0x99, 0xcd, 0xe4, 0x1b, 0x97]
        );
    }

    #[test]
    fn rc4_goes_on_where_it_stopped() {
        let key = [7; 16];
        let (mut whole, mut parts) = ([0; 40], [0; 40]);
        Rc4::new(&key).apply(&mut whole);
        let mut cipher = Rc4::new(&key);
        cipher.apply(&mut parts[..13]);
        cipher.apply(&mut parts[13..]);
        assert_eq!(whole, parts);
    }
}
