//! GHASH, the polynomial hash of GCM (SP 800-38D §6.4), over data in parts.

use ghash::GHash;
use ghash::universal_hash::{KeyInit as _, UniversalHash as _};

use super::aes::BLOCK;

/// GHASH of additional data and ciphertext. What is not a whole block is padded with zeros at the end of
/// each of both.
pub struct Ghash {
    hash: GHash,
    part: Vec<u8>,
    /// Bytes of additional data and of ciphertext.
    lengths: [u64; 2],
}

impl Ghash {
    /// With the hash subkey, and the additional data.
    pub fn new(subkey: &[u8; BLOCK], additional: &[u8]) -> Self {
        let mut hash = GHash::new(subkey.into());
        hash.update_padded(additional);
        Self { hash, part: Vec::with_capacity(BLOCK), lengths: [additional.len() as u64, 0] }
    }

    /// More ciphertext.
    pub fn update(&mut self, data: &[u8]) {
        self.lengths[1] += data.len() as u64;
        let missing = (BLOCK - self.part.len()) % BLOCK;
        let (first, rest) = data.split_at(missing.min(data.len()));
        self.part.extend_from_slice(first);
        if self.part.len() == BLOCK {
            self.hash.update_padded(&self.part);
            self.part.clear();
        }
        let (whole, tail) = rest.split_at(rest.len() - rest.len() % BLOCK);
        self.hash.update_padded(whole);
        self.part.extend_from_slice(tail);
    }

    /// The hash, both lengths included.
    pub fn finish(mut self) -> [u8; BLOCK] {
        self.hash.update_padded(&self.part);
        let bits = self.lengths.map(|bytes| (8 * bytes).to_be_bytes());
        self.hash.update_padded(&bits.concat());
        self.hash.finalize().into()
    }

    /// The counter block that a nonce of another length than 12 bytes becomes (SP 800-38D §7.1, step 2).
    pub fn of_nonce(subkey: &[u8; BLOCK], nonce: &[u8]) -> [u8; BLOCK] {
        let mut hash = Self::new(subkey, &[]);
        hash.update(nonce);
        hash.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test case of RFC 8452, appendix A.
    #[test]
    fn agrees_with_the_example_and_takes_parts_of_any_size() {
        let bytes = |number: u128| number.to_be_bytes();
        let subkey = bytes(0x2562_9347_5892_4276_1d31_f826_ba4b_757b);
        let data = [
            bytes(0x4f4f_9566_8c83_dfb6_4017_62bb_2d01_a262),
            bytes(0xd1a2_4ddd_2721_d006_bbe4_5f20_d3c9_f362),
        ]
        .concat();
        let mut plain = GHash::new((&subkey).into());
        plain.update_padded(&data);
        let expected = 0xbd9b_3997_0467_31fb_9625_1b91_f9c9_9d7a_u128;
        assert_eq!(plain.finalize()[..], bytes(expected));

        let long: Vec<u8> = (0..100).collect();
        let mut whole = Ghash::new(&subkey, b"additional data");
        whole.update(&long);
        let whole = whole.finish();
        for size in [1, 5, 15, 16, 17, 33] {
            let mut parts = Ghash::new(&subkey, b"additional data");
            long.chunks(size).for_each(|part| parts.update(part));
            assert_eq!(parts.finish(), whole, "{size}");
        }
    }
}
