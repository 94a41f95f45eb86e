//! Zeros: a shared run of them, and a fast test for them.

use bytes::{Bytes, BytesMut};

/// Never written, so it takes no memory until it is read, and then one page per page read.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// `length` zero bytes; up to 1 MiB without allocating.
pub fn zeros(length: usize) -> Bytes {
    if length <= ZEROS.len() {
        Bytes::from_static(&ZEROS).slice(..length)
    } else {
        BytesMut::zeroed(length).freeze()
    }
}

/// Whether `data` holds only zeros. Comparing the data with itself, shifted, runs at the speed of `memcmp`:
/// if the first 16 bytes are zero and every byte equals the one 16 before it, all are zero.
pub fn is_zero(data: &[u8]) -> bool {
    let head = data.len().min(16);
    data[..head].iter().all(|byte| *byte == 0) && data[head..] == data[..data.len() - head]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_set_byte_anywhere_is_found() {
        for length in [0, 1, 15, 16, 17, 31, 32, 100, 4096] {
            let mut data = vec![0_u8; length];
            assert!(is_zero(&data), "{length} zeros");
            for at in 0..length {
                data[at] = 1;
                assert!(!is_zero(&data), "byte {at} of {length}");
                data[at] = 0;
            }
        }
    }

    #[test]
    fn zeros_of_any_length_are_zeros() {
        for length in [0, 1, 1 << 20, (1 << 20) + 1] {
            let run = zeros(length);
            assert_eq!(run.len(), length);
            assert!(run.iter().all(|byte| *byte == 0));
        }
    }
}
