//! AES with CBC and ciphertext stealing, and HMAC-SHA1 cut to 96 bits: RFC 3961, sections 5.1 and 5.3, and RFC 3962.

use aws_lc_rs::cipher::{
    AES_128, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::hmac;
use subtle::ConstantTimeEq as _;

/// The size of a block, and of a confounder.
pub(super) const BLOCK: usize = 16;
/// The size of a checksum.
pub(super) const MAC: usize = 12;

/// What a key is used for (RFC 4120, 7.5.1; RFC 4121, 2).
pub(super) mod usage {
    pub const TICKET: u32 = 2;
    pub const AP_REQ_AUTHENTICATOR: u32 = 11;
    pub const AP_REP: u32 = 12;
    pub const ACCEPTOR_SEAL: u32 = 22;
    pub const INITIATOR_SEAL: u32 = 24;
}

/// A key of a supported type. Debug does not show it.
#[derive(Clone)]
pub(super) struct Key {
    kind: i64,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Key {
    /// Whether keys of this type can be used.
    pub fn knows(kind: i64) -> bool {
        matches!(kind, 17 | 18)
    }

    /// A key, if its type is known and its length fits.
    pub fn new(kind: i64, bytes: &[u8]) -> Option<Self> {
        let length = match kind {
            17 => 16,
            18 => 32,
            _ => return None,
        };
        (bytes.len() == length).then(|| Self { kind, bytes: bytes.to_vec() })
    }

    /// Its encryption type.
    pub fn kind(&self) -> i64 {
        self.kind
    }

    /// Decrypts and checks; `None` if it is not of this key and usage.
    pub fn decrypt(&self, usage: u32, sealed: &[u8]) -> Option<Vec<u8>> {
        let at = sealed.len().checked_sub(MAC).filter(|at| *at >= BLOCK)?;
        let (cipher, mac) = sealed.split_at(at);
        let plain = cbc_cts_decrypt(&self.derive(usage, 0xaa)?, cipher)?;
        let expected = self.mac(usage, 0x55, &[&plain])?;
        bool::from(expected.ct_eq(mac)).then(|| plain[BLOCK..].to_vec())
    }

    /// Encrypts with a fresh confounder. Empty if the cipher fails, which the other side refuses.
    pub fn encrypt(&self, usage: u32, plain: &[u8]) -> Vec<u8> {
        self.try_encrypt(usage, rand::random(), plain).unwrap_or_default()
    }

    fn try_encrypt(&self, usage: u32, confounder: [u8; BLOCK], plain: &[u8]) -> Option<Vec<u8>> {
        let whole = [&confounder[..], plain].concat();
        let mac = self.mac(usage, 0x55, &[&whole])?;
        let mut sealed = cbc_cts_encrypt(&self.derive(usage, 0xaa)?, &whole)?;
        sealed.extend_from_slice(&mac);
        Some(sealed)
    }

    fn mac(&self, usage: u32, what: u8, parts: &[&[u8]]) -> Option<[u8; MAC]> {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.derive(usage, what)?);
        let mut context = hmac::Context::with_key(&key);
        for part in parts {
            context.update(part);
        }
        context.sign().as_ref().get(..MAC)?.try_into().ok()
    }

    /// DK (RFC 3961, 5.1): the key for one usage and purpose.
    fn derive(&self, usage: u32, what: u8) -> Option<Vec<u8>> {
        let [a, b, c, d] = usage.to_be_bytes();
        let cipher = encryptor(&self.bytes)?;
        let mut block = nfold::<BLOCK>(&[a, b, c, d, what]);
        let mut derived = Vec::with_capacity(self.bytes.len());
        while derived.len() < self.bytes.len() {
            cipher.encrypt(&mut block).ok()?;
            derived.extend_from_slice(&block);
        }
        Some(derived)
    }
}

fn encryptor(key: &[u8]) -> Option<EncryptingKey> {
    let algorithm = if key.len() == 16 { &AES_128 } else { &AES_256 };
    EncryptingKey::ecb(UnboundCipherKey::new(algorithm, key).ok()?).ok()
}

fn xor(block: &mut [u8], with: &[u8]) {
    for (byte, other) in block.iter_mut().zip(with) {
        *byte ^= other;
    }
}

/// CBC with a zero vector; the last two blocks are exchanged and the last is cut to what is needed. One block alone
/// stays as it is.
fn cbc_cts_encrypt(key: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    let cipher = encryptor(key)?;
    let mut out = plain.to_vec();
    out.resize(plain.len().next_multiple_of(BLOCK), 0);
    let mut last = [0; BLOCK];
    for block in out.chunks_exact_mut(BLOCK) {
        xor(block, &last);
        cipher.encrypt(block).ok()?;
        last.copy_from_slice(block);
    }
    if out.len() > BLOCK {
        let at = out.len() - 2 * BLOCK;
        let (before, end) = out[at..].split_at_mut(BLOCK);
        before.swap_with_slice(end);
    }
    out.truncate(plain.len());
    Some(out)
}

fn cbc_cts_decrypt(key: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let algorithm = if key.len() == 16 { &AES_128 } else { &AES_256 };
    let cipher = DecryptingKey::ecb(UnboundCipherKey::new(algorithm, key).ok()?).ok()?;
    let decrypt = |data: &mut [u8]| cipher.decrypt(data, DecryptionContext::None).map(|_| ()).ok();
    let whole = sealed.len().div_ceil(BLOCK);
    if whole == 0 || sealed.len() < BLOCK {
        return None;
    }
    if whole == 1 {
        let mut out = sealed.to_vec();
        decrypt(&mut out)?;
        return Some(out);
    }
    // What stands last but one is the last block of CBC; its end, decrypted, fills up the one before it.
    let (head, tail) = sealed.split_at((whole - 2) * BLOCK);
    let (last, cut) = tail.split_at(BLOCK);
    let mut ended = last.to_vec();
    decrypt(&mut ended)?;
    let mut before = cut.to_vec();
    before.extend_from_slice(&ended[cut.len()..]);
    let chain = [head, &before].concat();
    let mut out = chain.clone();
    decrypt(&mut out)?;
    for at in (BLOCK..chain.len()).step_by(BLOCK) {
        xor(&mut out[at..at + BLOCK], &chain[at - BLOCK..at]);
    }
    xor(&mut ended, &before);
    out.extend_from_slice(&ended[..cut.len()]);
    Some(out)
}

/// n-fold (RFC 3961, 5.1): copies of the input, each turned right by 13 bits more, added up in ones' complement.
fn nfold<const N: usize>(input: &[u8]) -> [u8; N] {
    let bits = input.len() * 8;
    let total = lcm(input.len(), N);
    let bit = |index: usize| {
        let (copy, at) = (index / bits, index % bits);
        let from = (at + bits - (13 * copy) % bits) % bits;
        input[from / 8] >> (7 - from % 8) & 1
    };
    let byte = |at: usize| (0..8).fold(0_u8, |byte, index| byte << 1 | bit(at * 8 + index));
    let mut sum = [0_u8; N];
    for part in 0..total / N {
        let mut carry = 0_u16;
        for at in (0..N).rev() {
            carry += u16::from(sum[at]) + u16::from(byte(part * N + at));
            sum[at] = carry.to_le_bytes()[0];
            carry >>= 8;
        }
        // The carry comes in at the other end.
        for slot in sum.iter_mut().rev() {
            carry += u16::from(*slot);
            *slot = carry.to_le_bytes()[0];
            carry >>= 8;
        }
    }
    sum
}

fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    }

    /// RFC 3961, A.1.
    #[test]
    fn n_fold_gives_the_standard_s_values() {
        assert_eq!(nfold::<8>(b"012345").to_vec(), hex("be072631276b1955"));
        assert_eq!(nfold::<7>(b"password").to_vec(), hex("78a07b6caf85fa"));
        assert_eq!(nfold::<21>(b"password").to_vec(), hex("59e4a8ca7c0385c3c37b3f6d2000247cb6e6bd5b3e"));
        assert_eq!(nfold::<16>(b"kerberos").to_vec(), hex("6b65726265726f737b9b5b2b93132b93"));
        assert_eq!(nfold::<8>(b"Q").to_vec(), hex("518a54a2 15a8452a"));
    }

    /// RFC 3962, appendix B: the key `chicken teriyaki`, texts of every shape of a last block.
    #[test]
    fn ciphertext_stealing_gives_the_standard_s_values() {
        let key = hex("636869636b656e207465726979616b69");
        let text = b"I would like the General Gau's Chicken, please, and wonton soup.";
        for (length, sealed) in [
            (17, "c6353568f2bf8cb4d8a580362da7ff7f 97"),
            (31, "fc00783e0efdb2c1d445d4c8eff7ed22 97687268d6ecccc0c07b25e25ecfe5"),
            (32, "39312523a78662d5be7fcbcc98ebf5a8 97687268d6ecccc0c07b25e25ecfe584"),
            (
                47,
                "97687268d6ecccc0c07b25e25ecfe584 b3fffd940c16a18c1b5549d2f838029e 39312523a78662d5be7fcbcc98ebf5",
            ),
            (
                48,
                "97687268d6ecccc0c07b25e25ecfe584 9dad8bbb96c4cdc03bc103e1a194bbd8 39312523a78662d5be7fcbcc98ebf5a8",
            ),
        ] {
            assert_eq!(cbc_cts_encrypt(&key, &text[..length]).unwrap(), hex(sealed), "{length}");
            assert_eq!(cbc_cts_decrypt(&key, &hex(sealed)).unwrap(), &text[..length], "{length}");
        }
        assert_eq!(cbc_cts_decrypt(&key, &cbc_cts_encrypt(&key, &text[..16]).unwrap()).unwrap(), &text[..16]);
    }

    #[test]
    fn what_was_encrypted_is_decrypted_with_the_same_key_and_usage_only() {
        for (kind, length) in [(17, 16), (18, 32)] {
            let key = Key::new(kind, &vec![7; length]).unwrap();
            for size in [0, 1, 15, 16, 17, 100, 4096] {
                let plain = vec![3; size];
                let sealed = key.encrypt(usage::TICKET, &plain);
                assert_eq!(sealed.len(), size + BLOCK + MAC);
                assert_eq!(key.decrypt(usage::TICKET, &sealed), Some(plain));
                assert_eq!(key.decrypt(usage::AP_REP, &sealed), None);
                let mut altered = sealed.clone();
                altered[size / 2] ^= 1;
                assert_eq!(key.decrypt(usage::TICKET, &altered), None);
                assert_eq!(key.decrypt(usage::TICKET, &sealed[..sealed.len() - 1]), None);
            }
            assert_eq!(key.decrypt(usage::TICKET, &[0; BLOCK + MAC - 1]), None);
        }
        assert!(Key::new(23, &[0; 16]).is_none() && Key::new(18, &[0; 16]).is_none());
    }
}
