//! Drivers: given a mechanism and one of its operation flags, do one such operation and check what
//! comes of it against OpenSSL. Whoever tests everything that the module advertises asks here, and a
//! mechanism without a driver is a failure of that test, not a gap in it.

use std::fmt;
use std::sync::OnceLock;

use cryptoki_sys::*;

use crate::bench::STORAGE_KEY;
use crate::ck::{
    Answer, Attribute, Ck, Mechanism, Message, P256, P384, P521, Rv, bytes, flag, number,
};
use crate::door::Memory;
use crate::openssl::{self, Key, ecdsa_der, ecdsa_raw};

/// CKF_ of everything that a mechanism can be advertised for, with a name.
pub static OPERATIONS: &[(u64, &str)] = &[
    (CKF_MESSAGE_ENCRYPT, "message encryption"),
    (CKF_MESSAGE_DECRYPT, "message decryption"),
    (CKF_MESSAGE_SIGN, "message signing"),
    (CKF_MESSAGE_VERIFY, "message verification"),
    (CKF_ENCRYPT, "encryption"),
    (CKF_DECRYPT, "decryption"),
    (CKF_DIGEST, "digesting"),
    (CKF_SIGN, "signing"),
    (CKF_SIGN_RECOVER, "signing with recovery"),
    (CKF_VERIFY, "verification"),
    (CKF_VERIFY_RECOVER, "verification with recovery"),
    (CKF_GENERATE, "key generation"),
    (CKF_GENERATE_KEY_PAIR, "key pair generation"),
    (CKF_WRAP, "wrapping"),
    (CKF_UNWRAP, "unwrapping"),
    (CKF_DERIVE, "derivation"),
    (CKF_ENCAPSULATE, "encapsulation"),
    (CKF_DECAPSULATE, "decapsulation"),
];

/// CKF_ENCAPSULATE of PKCS#11 3.2, which cryptoki-sys does not have.
const CKF_ENCAPSULATE: u64 = 0x1000_0000;
/// As [`CKF_ENCAPSULATE`].
const CKF_DECAPSULATE: u64 = 0x2000_0000;

/// Messages one after another.
const MESSAGES: u64 = CKF_MESSAGE_ENCRYPT | CKF_MESSAGE_DECRYPT;

/// Numbers that look random and are the same for the same seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.number() % limit as u64) as usize
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.number() as u8).collect()
    }

    /// One of them.
    pub fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

/// Why a drive ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// A C function returned this. Whether it may, whoever injected faults knows.
    Refused(&'static str, Rv),
    /// What came out is not right, whatever was injected.
    Wrong(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(function, rv) => write!(out, "{function}: {rv:?}"),
            Failure::Wrong(what) => out.write_str(what),
        }
    }
}

/// What a drive gives.
pub type Outcome = Result<(), Failure>;

fn by<T>(function: &'static str, answer: Answer<T>) -> Result<T, Failure> {
    answer.map_err(|rv| Failure::Refused(function, rv))
}

fn right(is: bool, what: impl FnOnce() -> String) -> Outcome {
    if is { Ok(()) } else { Err(Failure::Wrong(what())) }
}

/// Which keys an operation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// On one of the three curves.
    Ec,
    /// RSA of 2048 bits.
    Rsa,
}

/// A key pair of the token, and what others know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The public key's handle.
    pub public: u64,
    /// The private key's handle.
    pub private: u64,
    /// Its kind.
    pub kind: Kind,
    /// SubjectPublicKeyInfo, as the module gave it when the pair was made.
    pub info: Vec<u8>,
}

impl Pair {
    /// Generates one on a random curve, or of RSA; `extra` goes into the templates of the public and
    /// the private key.
    ///
    /// # Errors
    /// The call's that failed, or that OpenSSL does not take the public key.
    pub fn generate(
        ck: &Ck,
        session: u64,
        kind: Kind,
        random: &mut Random,
        extra: [&[Attribute]; 2],
    ) -> Result<Pair, Failure> {
        let (mechanism, size, uses): (_, _, &[[u64; 2]]) = match kind {
            Kind::Ec => {
                let curve = random.one_of(&CURVES).0;
                let uses: &[_] = &[[CKA_VERIFY, CKA_SIGN], [CKA_DERIVE, CKA_DERIVE]];
                (CKM_EC_KEY_PAIR_GEN, bytes(CKA_EC_PARAMS, curve), uses)
            }
            Kind::Rsa => (
                CKM_RSA_PKCS_KEY_PAIR_GEN,
                number(CKA_MODULUS_BITS, 2048),
                &[
                    [CKA_VERIFY, CKA_SIGN],
                    [CKA_ENCRYPT, CKA_DECRYPT],
                    [CKA_VERIFY_RECOVER, CKA_SIGN_RECOVER],
                ],
            ),
        };
        let mut public = vec![size];
        let mut private = Vec::new();
        for [of_public, of_private] in uses {
            // A public key that derives is nothing that templates may say.
            if *of_public != CKA_DERIVE {
                public.push(flag(*of_public, true));
            }
            private.push(flag(*of_private, true));
        }
        public.extend_from_slice(extra[0]);
        private.extend_from_slice(extra[1]);
        let answer = ck.generate_pair(session, mechanism, &public, &private);
        let (public, private) = by("C_GenerateKeyPair", answer)?;
        let info = by("C_GetAttributeValue", ck.attribute(session, public, CKA_PUBLIC_KEY_INFO))?;
        let pair = Pair { public, private, kind, info };
        pair.key()?;
        Ok(pair)
    }

    fn key(&self) -> Result<Key, Failure> {
        Key::from_info(&self.info)
            .ok_or_else(|| Failure::Wrong("OpenSSL does not take the public key".to_owned()))
    }

    fn curve(&self) -> &'static Curve {
        curve_of(&self.info)
    }
}

/// DER of the curve, OpenSSL's name, the width of a number in bytes.
type Curve = (&'static [u8], &'static str, usize);

static CURVES: [Curve; 3] = [(P256, "P-256", 32), (P384, "P-384", 48), (P521, "P-521", 66)];

fn curve_of(info: &[u8]) -> &'static Curve {
    CURVES
        .iter()
        .find(|(params, ..)| info.windows(params.len()).any(|window| window == *params))
        .expect("one of three curves")
}

/// A hash: CKM_ of the digest, CKG_ of its MGF1 (0: none), OpenSSL's name, length in bytes.
type Hash = (u64, u64, &'static str, usize);

const SHA1: Hash = (CKM_SHA_1, CKG_MGF1_SHA1, "sha1", 20);
const SHA224: Hash = (CKM_SHA224, CKG_MGF1_SHA224, "sha224", 28);
const SHA256: Hash = (CKM_SHA256, CKG_MGF1_SHA256, "sha256", 32);
const SHA384: Hash = (CKM_SHA384, CKG_MGF1_SHA384, "sha384", 48);
const SHA512: Hash = (CKM_SHA512, CKG_MGF1_SHA512, "sha512", 64);
const SHA512_224: Hash = (CKM_SHA512_224, 0, "sha512-224", 28);
const SHA512_256: Hash = (CKM_SHA512_256, 0, "sha512-256", 32);
const SHA3_224: Hash = (CKM_SHA3_224, CKG_MGF1_SHA3_224, "sha3-224", 28);
const SHA3_256: Hash = (CKM_SHA3_256, CKG_MGF1_SHA3_256, "sha3-256", 32);
const SHA3_384: Hash = (CKM_SHA3_384, CKG_MGF1_SHA3_384, "sha3-384", 48);
const SHA3_512: Hash = (CKM_SHA3_512, CKG_MGF1_SHA3_512, "sha3-512", 64);

/// Mechanisms that work alike.
#[derive(Debug, Clone, Copy)]
enum Family {
    Digest(Hash),
    Ecdsa(Option<Hash>),
    Pkcs1(Option<Hash>),
    Pss(Option<Hash>),
    Oaep,
    /// RSA AES key wrap.
    RsaAes,
    /// Keys on their way to another TPM, or to the same.
    Duplicate,
    Raw,
    Ecdh,
    Generate(Kind),
    /// Its MAC, whole or cut to the length that the parameter says.
    Hmac(Hash, bool),
    /// OpenSSL's name of the mode, and the lengths that it takes.
    Aes(&'static str, Lengths),
    /// Authenticated encryption with this mode of AES.
    Aead(&'static str),
    /// CMAC, whole or cut to the length that the parameter says.
    Cmac(bool),
    /// The MAC of GCM.
    Gmac,
    /// AES keys.
    AesKey,
    /// HKDF: keys, or data.
    Hkdf,
    /// Keys for HKDF.
    HkdfKeys,
    /// On the bytes of a key; with a hash, its digest.
    Plain(Option<Hash>),
    /// What a mode of AES makes of data.
    AesData(&'static str),
    /// The public key of a private one.
    PublicHalf,
    /// TLS 1.2.
    Tls,
    /// Keys from passwords.
    Password,
    /// One of SP 800-108's functions.
    Sp800,
    /// Secret keys of this CKK_x, for this hash's HMAC.
    Secret(u64, Hash),
}

/// What a mode of AES takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lengths {
    /// Blocks of 16 bytes.
    Whole,
    /// Any, padded.
    Padded,
    /// 16 bytes and more.
    Block,
    /// Any.
    Any,
    /// Any, and each byte costs a command.
    Slow,
    /// Key wrap: 16 bytes and more in units of 8.
    Semiblocks,
    /// Key wrap: 1 byte and more.
    Counted,
    /// Key wrap: 8 bytes and more, padded.
    Filled,
}

/// Every mechanism that can be driven.
static ROWS: &[(u64, Family)] = &[
    (CKM_SHA_1, Family::Digest(SHA1)),
    (CKM_SHA224, Family::Digest(SHA224)),
    (CKM_SHA256, Family::Digest(SHA256)),
    (CKM_SHA384, Family::Digest(SHA384)),
    (CKM_SHA512, Family::Digest(SHA512)),
    (CKM_SHA512_224, Family::Digest(SHA512_224)),
    (CKM_SHA512_256, Family::Digest(SHA512_256)),
    (CKM_SHA3_224, Family::Digest(SHA3_224)),
    (CKM_SHA3_256, Family::Digest(SHA3_256)),
    (CKM_SHA3_384, Family::Digest(SHA3_384)),
    (CKM_SHA3_512, Family::Digest(SHA3_512)),
    (CKM_ECDSA, Family::Ecdsa(None)),
    (CKM_ECDSA_SHA1, Family::Ecdsa(Some(SHA1))),
    (CKM_ECDSA_SHA224, Family::Ecdsa(Some(SHA224))),
    (CKM_ECDSA_SHA256, Family::Ecdsa(Some(SHA256))),
    (CKM_ECDSA_SHA384, Family::Ecdsa(Some(SHA384))),
    (CKM_ECDSA_SHA512, Family::Ecdsa(Some(SHA512))),
    (CKM_ECDSA_SHA3_224, Family::Ecdsa(Some(SHA3_224))),
    (CKM_ECDSA_SHA3_256, Family::Ecdsa(Some(SHA3_256))),
    (CKM_ECDSA_SHA3_384, Family::Ecdsa(Some(SHA3_384))),
    (CKM_ECDSA_SHA3_512, Family::Ecdsa(Some(SHA3_512))),
    (CKM_RSA_PKCS, Family::Pkcs1(None)),
    (CKM_SHA1_RSA_PKCS, Family::Pkcs1(Some(SHA1))),
    (CKM_SHA224_RSA_PKCS, Family::Pkcs1(Some(SHA224))),
    (CKM_SHA256_RSA_PKCS, Family::Pkcs1(Some(SHA256))),
    (CKM_SHA384_RSA_PKCS, Family::Pkcs1(Some(SHA384))),
    (CKM_SHA512_RSA_PKCS, Family::Pkcs1(Some(SHA512))),
    (CKM_SHA3_224_RSA_PKCS, Family::Pkcs1(Some(SHA3_224))),
    (CKM_SHA3_256_RSA_PKCS, Family::Pkcs1(Some(SHA3_256))),
    (CKM_SHA3_384_RSA_PKCS, Family::Pkcs1(Some(SHA3_384))),
    (CKM_SHA3_512_RSA_PKCS, Family::Pkcs1(Some(SHA3_512))),
    (CKM_RSA_PKCS_PSS, Family::Pss(None)),
    (CKM_SHA1_RSA_PKCS_PSS, Family::Pss(Some(SHA1))),
    (CKM_SHA224_RSA_PKCS_PSS, Family::Pss(Some(SHA224))),
    (CKM_SHA256_RSA_PKCS_PSS, Family::Pss(Some(SHA256))),
    (CKM_SHA384_RSA_PKCS_PSS, Family::Pss(Some(SHA384))),
    (CKM_SHA512_RSA_PKCS_PSS, Family::Pss(Some(SHA512))),
    (CKM_SHA3_224_RSA_PKCS_PSS, Family::Pss(Some(SHA3_224))),
    (CKM_SHA3_256_RSA_PKCS_PSS, Family::Pss(Some(SHA3_256))),
    (CKM_SHA3_384_RSA_PKCS_PSS, Family::Pss(Some(SHA3_384))),
    (CKM_SHA3_512_RSA_PKCS_PSS, Family::Pss(Some(SHA3_512))),
    (CKM_RSA_PKCS_OAEP, Family::Oaep),
    (CKM_RSA_AES_KEY_WRAP, Family::RsaAes),
    (CKM_TPM11_DUPLICATE, Family::Duplicate),
    (CKM_RSA_X_509, Family::Raw),
    (CKM_ECDH1_DERIVE, Family::Ecdh),
    (CKM_ECDH1_COFACTOR_DERIVE, Family::Ecdh),
    (CKM_HKDF_DERIVE, Family::Hkdf),
    (CKM_HKDF_DATA, Family::Hkdf),
    (CKM_HKDF_KEY_GEN, Family::HkdfKeys),
    (CKM_CONCATENATE_BASE_AND_KEY, Family::Plain(None)),
    (CKM_CONCATENATE_BASE_AND_DATA, Family::Plain(None)),
    (CKM_CONCATENATE_DATA_AND_BASE, Family::Plain(None)),
    (CKM_XOR_BASE_AND_DATA, Family::Plain(None)),
    (CKM_EXTRACT_KEY_FROM_KEY, Family::Plain(None)),
    (CKM_SHA1_KEY_DERIVATION, Family::Plain(Some(SHA1))),
    (CKM_SHA224_KEY_DERIVATION, Family::Plain(Some(SHA224))),
    (CKM_SHA256_KEY_DERIVATION, Family::Plain(Some(SHA256))),
    (CKM_SHA384_KEY_DERIVATION, Family::Plain(Some(SHA384))),
    (CKM_SHA512_KEY_DERIVATION, Family::Plain(Some(SHA512))),
    (CKM_SHA512_224_KEY_DERIVATION, Family::Plain(Some(SHA512_224))),
    (CKM_SHA512_256_KEY_DERIVATION, Family::Plain(Some(SHA512_256))),
    (CKM_SHA3_224_KEY_DERIVATION, Family::Plain(Some(SHA3_224))),
    (CKM_SHA3_256_KEY_DERIVATION, Family::Plain(Some(SHA3_256))),
    (CKM_SHA3_384_KEY_DERIVATION, Family::Plain(Some(SHA3_384))),
    (CKM_SHA3_512_KEY_DERIVATION, Family::Plain(Some(SHA3_512))),
    (CKM_AES_ECB_ENCRYPT_DATA, Family::AesData("ECB")),
    (CKM_AES_CBC_ENCRYPT_DATA, Family::AesData("CBC")),
    (CKM_PKCS5_PBKD2, Family::Password),
    (CKM_TLS12_MASTER_KEY_DERIVE, Family::Tls),
    (CKM_TLS12_MASTER_KEY_DERIVE_DH, Family::Tls),
    (CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE, Family::Tls),
    (CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH, Family::Tls),
    (CKM_TLS12_KEY_AND_MAC_DERIVE, Family::Tls),
    (CKM_TLS12_KEY_SAFE_DERIVE, Family::Tls),
    (CKM_TLS_KDF, Family::Tls),
    (CKM_TLS12_KDF, Family::Tls),
    (CKM_TLS_MAC, Family::Tls),
    (CKM_TLS12_MAC, Family::Tls),
    (CKM_PUB_KEY_FROM_PRIV_KEY, Family::PublicHalf),
    (CKM_SP800_108_COUNTER_KDF, Family::Sp800),
    (CKM_SP800_108_FEEDBACK_KDF, Family::Sp800),
    (CKM_SP800_108_DOUBLE_PIPELINE_KDF, Family::Sp800),
    (CKM_SHA_1_HMAC, Family::Hmac(SHA1, false)),
    (CKM_SHA224_HMAC, Family::Hmac(SHA224, false)),
    (CKM_SHA256_HMAC, Family::Hmac(SHA256, false)),
    (CKM_SHA384_HMAC, Family::Hmac(SHA384, false)),
    (CKM_SHA512_HMAC, Family::Hmac(SHA512, false)),
    (CKM_SHA512_224_HMAC, Family::Hmac(SHA512_224, false)),
    (CKM_SHA512_256_HMAC, Family::Hmac(SHA512_256, false)),
    (CKM_SHA3_224_HMAC, Family::Hmac(SHA3_224, false)),
    (CKM_SHA3_256_HMAC, Family::Hmac(SHA3_256, false)),
    (CKM_SHA3_384_HMAC, Family::Hmac(SHA3_384, false)),
    (CKM_SHA3_512_HMAC, Family::Hmac(SHA3_512, false)),
    (CKM_SHA_1_HMAC_GENERAL, Family::Hmac(SHA1, true)),
    (CKM_SHA224_HMAC_GENERAL, Family::Hmac(SHA224, true)),
    (CKM_SHA256_HMAC_GENERAL, Family::Hmac(SHA256, true)),
    (CKM_SHA384_HMAC_GENERAL, Family::Hmac(SHA384, true)),
    (CKM_SHA512_HMAC_GENERAL, Family::Hmac(SHA512, true)),
    (CKM_SHA512_224_HMAC_GENERAL, Family::Hmac(SHA512_224, true)),
    (CKM_SHA512_256_HMAC_GENERAL, Family::Hmac(SHA512_256, true)),
    (CKM_SHA3_224_HMAC_GENERAL, Family::Hmac(SHA3_224, true)),
    (CKM_SHA3_256_HMAC_GENERAL, Family::Hmac(SHA3_256, true)),
    (CKM_SHA3_384_HMAC_GENERAL, Family::Hmac(SHA3_384, true)),
    (CKM_SHA3_512_HMAC_GENERAL, Family::Hmac(SHA3_512, true)),
    (CKM_AES_ECB, Family::Aes("ECB", Lengths::Whole)),
    (CKM_AES_CBC, Family::Aes("CBC", Lengths::Whole)),
    (CKM_AES_CBC_PAD, Family::Aes("CBC", Lengths::Padded)),
    (CKM_AES_CTS, Family::Aes("CBC-CTS", Lengths::Block)),
    (CKM_AES_CTR, Family::Aes("CTR", Lengths::Any)),
    (CKM_AES_OFB, Family::Aes("OFB", Lengths::Any)),
    (CKM_AES_CFB128, Family::Aes("CFB", Lengths::Any)),
    (CKM_AES_CFB8, Family::Aes("CFB8", Lengths::Slow)),
    (CKM_AES_KEY_WRAP, Family::Aes("WRAP", Lengths::Semiblocks)),
    (CKM_AES_KEY_WRAP_KWP, Family::Aes("WRAP-PAD", Lengths::Counted)),
    (CKM_AES_KEY_WRAP_PAD, Family::Aes("WRAP", Lengths::Filled)),
    (CKM_AES_KEY_WRAP_PKCS7, Family::Aes("WRAP", Lengths::Filled)),
    (CKM_AES_GCM, Family::Aead("GCM")),
    (CKM_AES_CCM, Family::Aead("CCM")),
    (CKM_AES_CMAC, Family::Cmac(false)),
    (CKM_AES_CMAC_GENERAL, Family::Cmac(true)),
    (CKM_AES_GMAC, Family::Gmac),
    (CKM_AES_KEY_GEN, Family::AesKey),
    (CKM_GENERIC_SECRET_KEY_GEN, Family::Secret(CKK_GENERIC_SECRET, SHA256)),
    (CKM_SHA_1_KEY_GEN, Family::Secret(CKK_SHA_1_HMAC, SHA1)),
    (CKM_SHA224_KEY_GEN, Family::Secret(CKK_SHA224_HMAC, SHA224)),
    (CKM_SHA256_KEY_GEN, Family::Secret(CKK_SHA256_HMAC, SHA256)),
    (CKM_SHA384_KEY_GEN, Family::Secret(CKK_SHA384_HMAC, SHA384)),
    (CKM_SHA512_KEY_GEN, Family::Secret(CKK_SHA512_HMAC, SHA512)),
    (CKM_SHA512_224_KEY_GEN, Family::Secret(CKK_SHA512_224_HMAC, SHA512_224)),
    (CKM_SHA512_256_KEY_GEN, Family::Secret(CKK_SHA512_256_HMAC, SHA512_256)),
    (CKM_SHA3_224_KEY_GEN, Family::Secret(CKK_SHA3_224_HMAC, SHA3_224)),
    (CKM_SHA3_256_KEY_GEN, Family::Secret(CKK_SHA3_256_HMAC, SHA3_256)),
    (CKM_SHA3_384_KEY_GEN, Family::Secret(CKK_SHA3_384_HMAC, SHA3_384)),
    (CKM_SHA3_512_KEY_GEN, Family::Secret(CKK_SHA3_512_HMAC, SHA3_512)),
    (CKM_EC_KEY_PAIR_GEN, Family::Generate(Kind::Ec)),
    (CKM_RSA_PKCS_KEY_PAIR_GEN, Family::Generate(Kind::Rsa)),
];

/// One operation of one mechanism.
#[derive(Debug, Clone, Copy)]
pub struct Driver {
    /// CKM_x
    pub mechanism: u64,
    /// CKF_x, one bit
    pub operation: u64,
    family: Family,
}

/// The driver of an operation, if there is one.
pub fn driver(mechanism: u64, operation: u64) -> Option<Driver> {
    let family = ROWS.iter().find(|(id, _)| *id == mechanism)?.1;
    let able = match family {
        // By P9 these unwrap nothing, where it holds.
        Family::Pkcs1(None) | Family::Aes(_, Lengths::Padded) if operation == CKF_WRAP => CKF_WRAP,
        Family::Oaep
        | Family::RsaAes
        | Family::Duplicate
        | Family::Aead(_)
        | Family::Aes(_, Lengths::Semiblocks | Lengths::Counted | Lengths::Filled)
            if operation & (CKF_WRAP | CKF_UNWRAP) != 0 =>
        {
            CKF_WRAP | CKF_UNWRAP
        }
        Family::RsaAes | Family::Duplicate => 0,
        Family::Digest(_) => CKF_DIGEST,
        Family::Ecdsa(_) | Family::Pss(_) | Family::Pkcs1(Some(_)) => CKF_SIGN | CKF_VERIFY,
        Family::Pkcs1(None) | Family::Raw => {
            CKF_SIGN
                | CKF_VERIFY
                | CKF_SIGN_RECOVER
                | CKF_VERIFY_RECOVER
                | CKF_ENCRYPT
                | CKF_DECRYPT
        }
        Family::Aead(_) if operation & MESSAGES != 0 => MESSAGES,
        Family::Oaep | Family::Aes(..) | Family::Aead(_) => CKF_ENCRYPT | CKF_DECRYPT,
        Family::Ecdh
        | Family::Hkdf
        | Family::Sp800
        | Family::PublicHalf
        | Family::Plain(_)
        | Family::AesData(_) => CKF_DERIVE,
        Family::Tls if [CKM_TLS_MAC, CKM_TLS12_MAC].contains(&mechanism) => CKF_SIGN | CKF_VERIFY,
        Family::Tls => CKF_DERIVE,
        Family::Generate(_) => CKF_GENERATE_KEY_PAIR,
        Family::Hmac(..) | Family::Cmac(_) | Family::Gmac => CKF_SIGN | CKF_VERIFY,
        Family::Secret(..) | Family::AesKey | Family::HkdfKeys | Family::Password => CKF_GENERATE,
    };
    (able & operation != 0).then_some(Driver { mechanism, operation, family })
}

/// A driver for everything that the module advertises.
///
/// # Errors
/// A call's; or one sentence for each advertised operation that has no driver.
pub fn advertised(ck: &Ck, slot: u64) -> Result<Vec<Driver>, String> {
    let mechanisms = ck.mechanisms(slot).map_err(|rv| format!("C_GetMechanismList: {rv:?}"))?;
    let (mut drivers, mut missing) = (Vec::new(), Vec::new());
    for mechanism in mechanisms {
        let info = ck
            .mechanism_info(slot, mechanism)
            .map_err(|rv| format!("C_GetMechanismInfo({mechanism:#x}): {rv:?}"))?;
        for (operation, name) in OPERATIONS {
            if info.flags & operation == 0 {
                continue;
            }
            match driver(mechanism, *operation) {
                Some(driver) => drivers.push(driver),
                None => missing.push(format!(
                    "The module advertises {name} with mechanism {mechanism:#x}, \
                     for which swtpm-tests/src/drive.rs has no driver."
                )),
            }
        }
    }
    if missing.is_empty() { Ok(drivers) } else { Err(missing.join("\n")) }
}

/// A pair that OpenSSL made, whose public half the module is given.
fn outsider(kind: Kind, random: &mut Random) -> &'static Key {
    static EC: [OnceLock<Key>; 3] = [const { OnceLock::new() }; 3];
    static RSA: OnceLock<Key> = OnceLock::new();
    match kind {
        Kind::Rsa => RSA.get_or_init(|| Key::generate("RSA", &["rsa_keygen_bits:2048"])),
        Kind::Ec => {
            let which = random.below(3);
            let option = format!("ec_paramgen_curve:{}", CURVES[which].1);
            EC[which].get_or_init(|| Key::generate("EC", &[&option]))
        }
    }
}

fn p256() -> &'static Key {
    static KEY: OnceLock<Key> = OnceLock::new();
    KEY.get_or_init(|| Key::generate("EC", &["ec_paramgen_curve:P-256"]))
}

/// CKM_TPM11_DUPLICATE
pub const CKM_TPM11_DUPLICATE: u64 = CKM_VENDOR_DEFINED | 0x5450_4D01;
/// CKA_TPM11_STORAGE_KEY
pub const CKA_TPM11_STORAGE_KEY: u64 = CKA_VENDOR_DEFINED | 0x5450_4D02;

/// CKO_PUBLIC_KEY for a key of P-256 that says to be a TPM's storage key: TPMT_PUBLIC of TPM 2.0 Part 2
/// §12.2.4, as the provisioning guidance has it.
pub fn storage_key(key: &Key) -> Vec<Attribute> {
    let info = key.info();
    let (x, y) = info[info.len() - 64..].split_at(32);
    let mut area = vec![0, 0x23, 0, 0x0B, 0, 3, 4, 0x72, 0, 0];
    // AES-128-CFB, no scheme, P-256, no KDF.
    area.extend([0, 6, 0, 128, 0, 0x43, 0, 0x10, 0, 3, 0, 0x10]);
    for coordinate in [x, y] {
        area.extend([0, 32]);
        area.extend(coordinate);
    }
    let mut template = public_template(Kind::Ec, &info);
    template.push(bytes(CKA_TPM11_STORAGE_KEY, area));
    template
}

/// CKO_PUBLIC_KEY for the outsider's key, a session object.
fn public_template(kind: Kind, info: &[u8]) -> Vec<Attribute> {
    let mut template = vec![number(CKA_CLASS, CKO_PUBLIC_KEY), flag(CKA_TOKEN, false)];
    match kind {
        Kind::Ec => {
            let (params, _, width) = curve_of(info);
            let point = &info[info.len() - (1 + 2 * width)..];
            let mut octets = vec![0x04];
            if point.len() > 127 {
                octets.push(0x81);
            }
            octets.push(point.len() as u8);
            octets.extend(point);
            template.extend([
                number(CKA_KEY_TYPE, CKK_EC),
                bytes(CKA_EC_PARAMS, *params),
                bytes(CKA_EC_POINT, octets),
                flag(CKA_VERIFY, true),
            ]);
        }
        Kind::Rsa => {
            // The end of the structure: INTEGER (257 bytes with the zero in front), INTEGER 65537.
            let modulus = &info[info.len() - 5 - 256..info.len() - 5];
            template.extend([
                number(CKA_KEY_TYPE, CKK_RSA),
                bytes(CKA_MODULUS, modulus),
                bytes(CKA_PUBLIC_EXPONENT, [1, 0, 1]),
                flag(CKA_VERIFY, true),
                flag(CKA_VERIFY_RECOVER, true),
                flag(CKA_ENCRYPT, true),
            ]);
        }
    }
    template
}

impl Driver {
    /// Which key pair [`Driver::drive`] wants; `None`: it needs none.
    pub fn wants(&self) -> Option<Kind> {
        let private = CKF_SIGN | CKF_SIGN_RECOVER | CKF_DECRYPT | CKF_DERIVE;
        if self.operation & private == 0 {
            return None;
        }
        match self.family {
            Family::Ecdsa(_) | Family::Ecdh | Family::PublicHalf => Some(Kind::Ec),
            Family::Pkcs1(_) | Family::Pss(_) | Family::Oaep | Family::Raw => Some(Kind::Rsa),
            Family::RsaAes
            | Family::Duplicate
            | Family::Digest(_)
            | Family::Generate(_)
            | Family::Hmac(..)
            | Family::Secret(..)
            | Family::Aes(..)
            | Family::Aead(_)
            | Family::Cmac(_)
            | Family::Gmac
            | Family::AesKey
            | Family::Hkdf
            | Family::HkdfKeys
            | Family::Sp800
            | Family::Plain(_)
            | Family::AesData(_)
            | Family::Tls
            | Family::Password => None,
        }
    }

    /// Whether the operation needs the TPM: a private or secret key, or a new one.
    pub fn needs_tpm(&self) -> bool {
        let own = matches!(
            self.family,
            Family::Generate(_)
                | Family::Hmac(..)
                | Family::Secret(..)
                | Family::Aes(..)
                | Family::AesKey
                | Family::Aead(_)
                | Family::Cmac(_)
                | Family::Gmac
                | Family::Hkdf
                | Family::HkdfKeys
                | Family::Sp800
                | Family::AesData(_)
                | Family::Tls
                | Family::Duplicate
        );
        // A readable key is wrapped with a public key in the host.
        own || self.operation == CKF_UNWRAP
            || self.wants().is_some() && !matches!(self.family, Family::PublicHalf)
    }

    /// The mechanisms that work alike, by the name of their section.
    pub fn family(&self) -> &'static str {
        match self.family {
            Family::Digest(_) => "digests",
            Family::Hmac(..) => "HMAC",
            Family::Secret(..) => "secret keys",
            Family::Aes(..) | Family::Aead(_) | Family::Cmac(_) | Family::Gmac | Family::AesKey => {
                "AES"
            }
            Family::Hkdf | Family::HkdfKeys => "HKDF",
            // Alike in what they ask of the TPM.
            Family::Tls if self.operation & (CKF_SIGN | CKF_VERIFY) != 0 => "HMAC",
            Family::Sp800 | Family::AesData(_) | Family::Tls => "key derivation",
            Family::PublicHalf => "public keys of private ones",
            Family::Password => "keys from passwords",
            Family::Plain(_) => "derivation from the bytes of keys",
            Family::Ecdsa(_) => "ECDSA",
            Family::Pkcs1(_) => "RSA PKCS #1 v1.5",
            Family::Pss(_) => "RSA PSS",
            Family::Oaep => "RSA OAEP",
            Family::RsaAes => "RSA AES key wrap",
            Family::Duplicate => "moving keys",
            Family::Raw => "RSA without padding",
            Family::Ecdh => "ECDH",
            Family::Generate(Kind::Ec) => "EC",
            Family::Generate(Kind::Rsa) => "RSA",
        }
    }

    /// What one use of `pair`'s private key takes: the mechanism with its parameter, and the data; none
    /// for key agreement. For who wants the bare call, without the judge.
    ///
    /// # Panics
    /// If [`Driver::wants`] is not this kind of pair.
    pub fn sample(&self, ck: &Ck, pair: &Pair, random: &mut Random) -> (Mechanism, Vec<u8>) {
        assert_eq!(self.wants(), Some(pair.kind), "{}", self.name());
        let shapes = Drive { driver: self, ck, session: CK_INVALID_HANDLE };
        match self.operation {
            CKF_DERIVE => {
                let point = &pair.info[pair.info.len() - (1 + 2 * pair.curve().2)..];
                let mechanism = Mechanism::ecdh(CKD_NULL, &[], point);
                (Mechanism { kind: self.mechanism, ..mechanism }, Vec::new())
            }
            CKF_DECRYPT => {
                let shape = shapes.to_encrypt(random);
                let key = pair.key().expect("OpenSSL takes the public key");
                let sealed = key.encrypt(&shape.data, &shape.options()).expect("OpenSSL encrypts");
                (shape.mechanism, sealed)
            }
            _ => {
                let shape = shapes.to_sign(random);
                (shape.mechanism, shape.data)
            }
        }
    }

    /// What it is, for a person.
    pub fn name(&self) -> String {
        let operation = OPERATIONS.iter().find(|(flag, _)| *flag == self.operation);
        let operation = operation.map_or("?", |(_, name)| name);
        format!("{operation} with mechanism {:#x}", self.mechanism)
    }

    /// Does the operation once in `session`, in which the user is logged in where [`Driver::wants`]
    /// names a pair, and checks the result. It leaves no object and no operation behind, but where a
    /// call failed.
    ///
    /// # Errors
    /// See [`Failure`].
    ///
    /// # Panics
    /// If `pair` is not what [`Driver::wants`] names.
    pub fn drive(
        &self,
        ck: &Ck,
        session: u64,
        pair: Option<&Pair>,
        random: &mut Random,
    ) -> Outcome {
        let drive = Drive { driver: self, ck, session };
        let pair = || pair.expect("the pair that this driver wants");
        match (self.family, self.operation) {
            (Family::Duplicate, _) => drive.travel(random),
            (_, CKF_WRAP) => drive.wrap(random),
            (_, CKF_UNWRAP) => drive.unwrap(random),
            (Family::Digest(hash), _) => drive.digest(hash, random),
            (Family::Generate(kind), _) => drive.generate(kind, random),
            (Family::Ecdh, _) => drive.agree(pair(), random),
            (Family::Hmac(hash, general), _) => drive.mac(hash, general, random),
            (Family::Secret(key_type, hash), _) => drive.secret(key_type, hash, random),
            (Family::Aes(..) | Family::Aead(_) | Family::Cmac(_) | Family::Gmac, _) => {
                drive.aes(random)
            }
            (Family::AesKey, _) => drive.aes_key(random),
            (Family::Hkdf, _) => drive.hkdf(random),
            (Family::Sp800, _) => drive.sp800(random),
            (Family::PublicHalf, _) => drive.public_half(pair()),
            (Family::Tls, _) => drive.tls(random),
            (Family::Password, _) => drive.password(random),
            (Family::AesData(mode), _) => drive.aes_data(mode, random),
            (Family::Plain(hash), _) => drive.plain(hash, random),
            (Family::HkdfKeys, _) => drive.hkdf_keys(random),
            (_, CKF_SIGN | CKF_SIGN_RECOVER) => drive.sign(pair(), random),
            (_, CKF_VERIFY | CKF_VERIFY_RECOVER) => drive.verify(random),
            (_, CKF_ENCRYPT) => drive.encrypt(random),
            (_, CKF_DECRYPT) => drive.decrypt(pair(), random),
            _ => unreachable!("driver() gives no such driver"),
        }
    }
}

/// One signature or ciphertext: the mechanism with its parameter, what goes in, what OpenSSL is to see
/// of it, and OpenSSL's options.
struct Shape {
    mechanism: Mechanism,
    data: Vec<u8>,
    seen: Vec<u8>,
    options: Vec<String>,
}

impl Shape {
    fn options(&self) -> Vec<&str> {
        self.options.iter().map(String::as_str).collect()
    }
}

/// What OpenSSL makes of a value under a key.
type Sealing<'a> = Box<dyn Fn(&[u8]) -> Result<Vec<u8>, Failure> + 'a>;

struct Drive<'a> {
    driver: &'a Driver,
    ck: &'a Ck,
    session: u64,
}

/// An IV, or an initial value of key wrap, that may be left away.
fn iv_of(mode: &str, random: &mut Random) -> Vec<u8> {
    match mode {
        "ECB" => Vec::new(),
        "WRAP" => random.bytes(*random.clone().one_of(&[0, 8])),
        "WRAP-PAD" => random.bytes(*random.clone().one_of(&[0, 4])),
        _ => random.bytes(16),
    }
}

impl Drive<'_> {
    /// Random data in the shape that this mechanism signs.
    fn to_sign(&self, random: &mut Random) -> Shape {
        let kind = self.driver.mechanism;
        let length = random.below(300);
        let message = random.bytes(length);
        let plain = |data: Vec<u8>, options: &[&str]| Shape {
            mechanism: kind.into(),
            seen: data.clone(),
            data,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        match self.driver.family {
            Family::Ecdsa(None) => {
                let length = *random.one_of(&[20, 32, 48, 64]);
                plain(random.bytes(length), &[])
            }
            Family::Ecdsa(Some(hash)) => {
                let seen = openssl::digest(hash.2, &message);
                Shape { seen, ..plain(message, &[]) }
            }
            Family::Pkcs1(None) => {
                let length = 1 + random.below(245);
                plain(random.bytes(length), &["rsa_padding_mode:pkcs1"])
            }
            Family::Pkcs1(Some(hash)) => {
                let seen = openssl::digest(hash.2, &message);
                let digest = format!("digest:{}", hash.2);
                Shape { seen, ..plain(message, &["rsa_padding_mode:pkcs1", &digest]) }
            }
            Family::Pss(fixed) => {
                let hash = fixed.unwrap_or(*random.one_of(&[SHA1, SHA256, SHA512, SHA3_256]));
                let salt = *random.one_of(&[0, hash.3]);
                let seen = openssl::digest(hash.2, &message);
                let data = if fixed.is_some() { message } else { seen.clone() };
                Shape {
                    mechanism: Mechanism::pss(kind, hash.0, hash.1, salt as u64),
                    data,
                    seen,
                    options: vec![
                        "rsa_padding_mode:pss".to_owned(),
                        format!("digest:{}", hash.2),
                        format!("rsa_mgf1_md:{}", hash.2),
                        format!("rsa_pss_saltlen:{salt}"),
                    ],
                }
            }
            // Below any modulus: the first byte is zero.
            Family::Raw => plain([vec![0], random.bytes(255)].concat(), &["rsa_padding_mode:none"]),
            _ => unreachable!("this family signs nothing"),
        }
    }

    /// Random data in the shape that this mechanism encrypts.
    fn to_encrypt(&self, random: &mut Random) -> Shape {
        let kind = self.driver.mechanism;
        let (mechanism, data, options) = match self.driver.family {
            Family::Pkcs1(_) => {
                let length = random.below(246);
                (kind.into(), random.bytes(length), vec!["rsa_padding_mode:pkcs1".to_owned()])
            }
            Family::Oaep => {
                let hash = *random.one_of(&[SHA1, SHA256, SHA384, SHA3_256]);
                let length = random.below(255 - 2 * hash.3);
                let options = vec![
                    "rsa_padding_mode:oaep".to_owned(),
                    format!("rsa_oaep_md:{}", hash.2),
                    format!("rsa_mgf1_md:{}", hash.2),
                ];
                (Mechanism::oaep(hash.0, hash.1, b""), random.bytes(length), options)
            }
            // The data is the AES key of the moment.
            Family::RsaAes => {
                let key = *random.one_of(&[16, 24, 32]);
                let options = vec![
                    "rsa_padding_mode:oaep".to_owned(),
                    "rsa_oaep_md:sha256".to_owned(),
                    "rsa_mgf1_md:sha256".to_owned(),
                ];
                let mechanism = Mechanism::rsa_aes(8 * key as u64, CKM_SHA256, CKG_MGF1_SHA256);
                (mechanism, random.bytes(key), options)
            }
            Family::Raw => {
                let data = [vec![0], random.bytes(255)].concat();
                (kind.into(), data, vec!["rsa_padding_mode:none".to_owned()])
            }
            _ => unreachable!("this family encrypts nothing"),
        };
        Shape { mechanism, seen: data.clone(), data, options }
    }

    fn named(&self, what: &str) -> String {
        format!("{}: {what}", self.driver.name())
    }

    fn digest(&self, hash: Hash, random: &mut Random) -> Outcome {
        let length = random.below(2000);
        let data = random.bytes(length);
        let digest = by("C_Digest", self.ck.digest(self.session, self.driver.mechanism, &data))?;
        right(digest == openssl::digest(hash.2, &data), || self.named("another digest"))
    }

    fn sign(&self, pair: &Pair, random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let shape = self.to_sign(random);
        let mechanism = shape.mechanism.clone();
        let signature = if self.driver.operation == CKF_SIGN_RECOVER {
            by("C_SignRecover", ck.sign_recover(session, mechanism, pair.private, &shape.data))?
        } else {
            let several = matches!(
                self.driver.family,
                Family::Ecdsa(Some(_)) | Family::Pkcs1(Some(_)) | Family::Pss(Some(_))
            ) && random.once_in(4);
            by("C_SignInit", ck.sign_init(session, mechanism, pair.private))?;
            if several {
                for part in shape.data.chunks(100) {
                    by("C_SignUpdate", ck.sign_update(session, part))?;
                }
                by("C_SignFinal", ck.sign_final(session))?
            } else {
                by("C_Sign", ck.sign_now(session, &shape.data))?
            }
        };
        let key = pair.key()?;
        let good = match self.driver.family {
            Family::Ecdsa(_) => {
                signature.len() == 2 * pair.curve().2
                    && key.verifies(&shape.seen, &ecdsa_der(&signature), &[])
            }
            // What raw RSA carries has no padding to verify.
            Family::Raw => key.recover(&signature, &shape.options()).as_ref() == Some(&shape.seen),
            _ => key.verifies(&shape.seen, &signature, &shape.options()),
        };
        right(good, || self.named("OpenSSL refuses the signature"))
    }

    /// Gives the module an outsider's public key for the length of `job`.
    fn with_outsider<T>(
        &self,
        random: &mut Random,
        job: impl FnOnce(&Key, u64, &mut Random) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let kind = match self.driver.family {
            Family::Ecdsa(_) => Kind::Ec,
            _ => Kind::Rsa,
        };
        let key = outsider(kind, random);
        let template = public_template(kind, &key.info());
        let public = by("C_CreateObject", self.ck.create_object(self.session, &template))?;
        let outcome = job(key, public, random);
        let destroyed = self.ck.destroy_object(self.session, public);
        let value = outcome?;
        by("C_DestroyObject", destroyed)?;
        Ok(value)
    }

    fn verify(&self, random: &mut Random) -> Outcome {
        self.with_outsider(random, |key, public, random| {
            let (ck, session) = (self.ck, self.session);
            let shape = self.to_sign(random);
            let mut signature = key
                .sign(&shape.seen, &shape.options())
                .ok_or_else(|| Failure::Wrong(self.named("OpenSSL does not sign")))?;
            if let Family::Ecdsa(_) = self.driver.family {
                signature = ecdsa_raw(&signature, curve_of(&key.info()).2);
            }
            let mechanism = || shape.mechanism.clone();
            if self.driver.operation == CKF_VERIFY_RECOVER {
                let recovered = ck.verify_recover(session, mechanism(), public, &signature);
                let recovered = by("C_VerifyRecover", recovered)?;
                return right(recovered == shape.data, || self.named("something else recovered"));
            }
            by("C_Verify", ck.verify(session, mechanism(), public, &shape.data, &signature))?;
            // A bit of s, or of a number that is not much smaller than the modulus.
            let last = signature.len() - 1;
            signature[last] ^= 1;
            match ck.verify(session, mechanism(), public, &shape.data, &signature) {
                Ok(()) => Err(Failure::Wrong(self.named("a wrong signature is taken for good"))),
                Err(rv) if rv == CKR_SIGNATURE_INVALID => Ok(()),
                Err(rv) => Err(Failure::Refused("C_Verify", rv)),
            }
        })
    }

    fn encrypt(&self, random: &mut Random) -> Outcome {
        self.with_outsider(random, |key, public, random| {
            let shape = self.to_encrypt(random);
            let mechanism = shape.mechanism.clone();
            let sealed = self.ck.encrypt(self.session, mechanism, public, &shape.data);
            let sealed = by("C_Encrypt", sealed)?;
            let opened = key.decrypt(&sealed, &shape.options());
            right(opened.as_ref() == Some(&shape.data), || self.named("OpenSSL decrypts otherwise"))
        })
    }

    fn decrypt(&self, pair: &Pair, random: &mut Random) -> Outcome {
        let shape = self.to_encrypt(random);
        let sealed = pair
            .key()?
            .encrypt(&shape.data, &shape.options())
            .ok_or_else(|| Failure::Wrong(self.named("OpenSSL does not encrypt")))?;
        let opened = self.ck.decrypt(self.session, shape.mechanism, pair.private, &sealed);
        right(by("C_Decrypt", opened)? == shape.data, || self.named("another plaintext"))
    }

    fn agree(&self, pair: &Pair, random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let (_, name, width) = *pair.curve();
        let other = Key::generate("EC", &[&format!("ec_paramgen_curve:{name}")]);
        let info = other.info();
        let point = &info[info.len() - (1 + 2 * width)..];
        let shared = other
            .agree(&pair.key()?)
            .ok_or_else(|| Failure::Wrong(self.named("OpenSSL agrees on nothing")))?;
        let (kdf, expected) = if random.once_in(2) {
            (CKD_NULL, shared)
        } else {
            // ANSI X9.63: the hash of secret and counter.
            (CKD_SHA256_KDF, openssl::digest("sha256", &[&shared[..], &[0, 0, 0, 1]].concat()))
        };
        let mechanism =
            Mechanism { kind: self.driver.mechanism, ..Mechanism::ecdh(kdf, &[], point) };
        let template = [
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
            number(CKA_VALUE_LEN, expected.len() as u64),
            flag(CKA_TOKEN, false),
            flag(CKA_SENSITIVE, false),
            flag(CKA_EXTRACTABLE, true),
        ];
        let secret = by("C_DeriveKey", ck.derive(session, mechanism, pair.private, &template))?;
        let value = ck.attribute(session, secret, CKA_VALUE);
        let destroyed = ck.destroy_object(session, secret);
        let same = by("C_GetAttributeValue", value)? == expected;
        right(same, || self.named("another secret"))?;
        by("C_DestroyObject", destroyed)
    }

    /// A MAC with a key that OpenSSL knows, too.
    fn mac(&self, hash: Hash, general: bool, random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let length = 1 + random.below(64);
        let value = random.bytes(length);
        let template = [
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
            flag(CKA_TOKEN, false),
            flag(CKA_SIGN, true),
            flag(CKA_VERIFY, true),
            bytes(CKA_VALUE, value.clone()),
        ];
        let key = by("C_CreateObject", ck.create_object(session, &template))?;
        let outcome = self.mac_with(key, &value, hash, general, random);
        let destroyed = ck.destroy_object(session, key);
        outcome?;
        by("C_DestroyObject", destroyed)
    }

    fn mac_with(
        &self,
        key: u64,
        value: &[u8],
        hash: Hash,
        general: bool,
        random: &mut Random,
    ) -> Outcome {
        let length = *random.one_of(&[0, 1, 63, 64, 65, 300, 1024, 1025, 2500]);
        let data = random.bytes(length);
        let mut expected = openssl::hmac(hash.2, value, &data);
        let mut mechanism = Mechanism::from(self.driver.mechanism);
        if general {
            expected.truncate(1 + random.below(hash.3));
            let mut parameter = Memory::default();
            parameter.push_word(expected.len() as u64);
            mechanism = Mechanism::with(self.driver.mechanism, parameter);
        }
        self.made_or_compared(key, mechanism, &data, expected, random)
    }

    /// A MAC is made, in one part or many, or the right one and a wrong one are compared.
    fn made_or_compared(
        &self,
        key: u64,
        mechanism: Mechanism,
        data: &[u8],
        mut expected: Vec<u8>,
        random: &mut Random,
    ) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        if self.driver.operation == CKF_SIGN {
            by("C_SignInit", ck.sign_init(session, mechanism, key))?;
            let made = if random.once_in(2) {
                let size = 1 + random.below(700);
                for part in data.chunks(size) {
                    by("C_SignUpdate", ck.sign_update(session, part))?;
                }
                by("C_SignFinal", ck.sign_final(session))?
            } else {
                by("C_Sign", ck.sign_now(session, data))?
            };
            return right(made == expected, || self.named("another MAC"));
        }
        by("C_Verify", ck.verify(session, mechanism.clone(), key, data, &expected))?;
        let at = random.below(expected.len());
        expected[at] ^= 1 << random.below(8);
        match ck.verify(session, mechanism, key, data, &expected) {
            Ok(()) => Err(Failure::Wrong(self.named("a wrong MAC is taken for good"))),
            Err(rv) if rv == CKR_SIGNATURE_INVALID => Ok(()),
            Err(rv) => Err(Failure::Refused("C_Verify", rv)),
        }
    }

    /// Data under a key that OpenSSL knows, too.
    fn aes(&self, random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let size = *random.one_of(&[16, 32]);
        let value = random.bytes(size);
        let template = [
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, CKK_AES),
            flag(CKA_TOKEN, false),
            flag(CKA_ENCRYPT, true),
            flag(CKA_DECRYPT, true),
            flag(CKA_SIGN, true),
            flag(CKA_VERIFY, true),
            bytes(CKA_VALUE, value.clone()),
        ];
        let key = by("C_CreateObject", ck.create_object(session, &template))?;
        let outcome = match self.driver.family {
            Family::Aead(mode) if self.driver.operation & MESSAGES != 0 => {
                self.messages_with(key, &value, mode, random)
            }
            Family::Aead(mode) => self.aead_with(key, &value, mode, random),
            Family::Aes(mode, lengths) => self.aes_with(key, &value, mode, lengths, random),
            _ => self.aes_mac_with(key, &value, random),
        };
        let destroyed = ck.destroy_object(session, key);
        outcome?;
        by("C_DestroyObject", destroyed)
    }

    /// What OpenSSL makes of it.
    fn sealed(
        &self,
        mode: &str,
        lengths: Lengths,
        key: &[u8],
        iv: &[u8],
        plain: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let padded = lengths == Lengths::Padded;
        let fill = match lengths {
            Lengths::Filled => 8 - plain.len() % 8,
            _ => 0,
        };
        let filled = [plain, &vec![fill as u8; fill]].concat();
        openssl::aes(mode, true, padded, key, iv, &filled)
            .ok_or_else(|| Failure::Wrong(self.named("OpenSSL does not encrypt")))
    }

    fn aes_with(
        &self,
        key: u64,
        value: &[u8],
        mode: &str,
        lengths: Lengths,
        random: &mut Random,
    ) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let length = match lengths {
            Lengths::Whole => 16 * random.below(140),
            Lengths::Padded | Lengths::Any => random.below(2200),
            Lengths::Block => 16 + random.below(2200),
            Lengths::Slow => random.below(24),
            Lengths::Semiblocks => 16 + 8 * random.below(5),
            Lengths::Counted => 1 + random.below(40),
            Lengths::Filled => 8 + random.below(40),
        };
        let plain = random.bytes(length);
        let iv = iv_of(mode, random);
        let mechanism = match (mode, <[u8; 16]>::try_from(&iv[..])) {
            ("CTR", Ok(block)) => Mechanism::counter(128, block),
            _ if iv.is_empty() => self.driver.mechanism.into(),
            _ => Mechanism::bytes(self.driver.mechanism, &iv),
        };
        let sealed = self.sealed(mode, lengths, value, &iv, &plain)?;
        let several = 1 + random.below(300);
        if self.driver.operation == CKF_ENCRYPT {
            let made = if random.once_in(2) {
                by("C_Encrypt", ck.encrypt(session, mechanism, key, &plain))?
            } else {
                by("C_EncryptInit", ck.encrypt_init(session, mechanism, key))?;
                by("C_EncryptUpdate", ck.encrypt_parts(session, plain.chunks(several)))?
            };
            return right(made == sealed, || self.named("another ciphertext"));
        }
        let made = if random.once_in(2) {
            by("C_Decrypt", ck.decrypt(session, mechanism, key, &sealed))?
        } else {
            by("C_DecryptInit", ck.decrypt_init(session, mechanism, key))?;
            by("C_DecryptUpdate", ck.decrypt_parts(session, sealed.chunks(several)))?
        };
        right(made == plain, || self.named("another plaintext"))
    }

    fn aead_with(&self, key: u64, value: &[u8], mode: &str, random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let length = random.below(2200);
        let plain = random.bytes(length);
        let length = random.below(40);
        let additional = random.bytes(length);
        let (nonce, tag) = match mode {
            "GCM" => (*random.one_of(&[12, 12, 1, 16, 33]), 12 + random.below(5)),
            _ => (7 + random.below(7), 4 + 2 * random.below(7)),
        };
        let nonce = random.bytes(nonce);
        let mechanism = match mode {
            "GCM" => Mechanism::gcm(CKM_AES_GCM, &nonce, &additional, 8 * tag as u64),
            _ => Mechanism::ccm(plain.len() as u64, &nonce, &additional, tag as u64),
        };
        let mut sealed = openssl::aead(mode, true, value, &nonce, &additional, tag, &plain)
            .ok_or_else(|| Failure::Wrong(self.named("OpenSSL does not encrypt")))?;
        let several = 1 + random.below(300);
        if self.driver.operation == CKF_ENCRYPT {
            let made = if random.once_in(2) {
                by("C_Encrypt", ck.encrypt(session, mechanism, key, &plain))?
            } else {
                by("C_EncryptInit", ck.encrypt_init(session, mechanism, key))?;
                by("C_EncryptUpdate", ck.encrypt_parts(session, plain.chunks(several)))?
            };
            return right(made == sealed, || self.named("another ciphertext"));
        }
        let made = if random.once_in(2) {
            by("C_Decrypt", ck.decrypt(session, mechanism.clone(), key, &sealed))?
        } else {
            by("C_DecryptInit", ck.decrypt_init(session, mechanism.clone(), key))?;
            by("C_DecryptUpdate", ck.decrypt_parts(session, sealed.chunks(several)))?
        };
        right(made == plain, || self.named("another plaintext"))?;
        let at = random.below(sealed.len());
        sealed[at] ^= 1 << random.below(8);
        match ck.decrypt(session, mechanism, key, &sealed) {
            Ok(_) => Err(Failure::Wrong(self.named("an altered ciphertext is taken for good"))),
            Err(rv) if rv == CKR_ENCRYPTED_DATA_INVALID => Ok(()),
            Err(rv) => Err(Failure::Refused("C_Decrypt", rv)),
        }
    }

    /// Three messages one after another, in one part or several, each with another nonce.
    fn messages_with(&self, key: u64, value: &[u8], mode: &str, random: &mut Random) -> Outcome {
        let outcome = self.three_messages(key, value, mode, random);
        if outcome.is_err() {
            // The process outlives an error.
            for function in ["C_MessageEncryptInit", "C_MessageDecryptInit"] {
                self.ck.raw(function, vec![self.session.into(), 0.into(), 0.into()]);
            }
        }
        outcome
    }

    fn three_messages(&self, key: u64, value: &[u8], mode: &str, random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let encrypt = self.driver.operation == CKF_MESSAGE_ENCRYPT;
        let names = match encrypt {
            true => ["C_MessageEncryptInit", "C_EncryptMessage", "C_MessageEncryptFinal"],
            false => ["C_MessageDecryptInit", "C_DecryptMessage", "C_MessageDecryptFinal"],
        };
        let kind = self.driver.mechanism;
        by(names[0], ck.message_init(session, encrypt, kind, key))?;
        for _ in 0..3 {
            let length = random.below(1500);
            let plain = random.bytes(length);
            let additional = random.bytes(20);
            let mut message = Message::new(kind, &random.bytes(12), 16, length);
            message.fixed_bits = 32;
            let fixed = message.nonce.clone();
            message.generator = if encrypt { CKG_GENERATE } else { CKG_NO_GENERATE };
            let seal = |nonce: &[u8]| {
                openssl::aead(mode, true, value, nonce, &additional, 16, &plain)
                    .ok_or_else(|| Failure::Wrong(self.named("OpenSSL does not encrypt")))
            };
            let mut given = plain.clone();
            if !encrypt {
                given = seal(&message.nonce)?;
                message.tag = given.split_off(length);
            }
            let made = if random.once_in(2) {
                ck.message(session, encrypt, &mut message, &additional, &given)
            } else {
                let parts: Vec<_> = given.chunks(1 + random.below(600)).collect();
                ck.message_parts(session, encrypt, &mut message, &additional, &parts)
            };
            let made = by(names[1], made)?;
            if encrypt {
                let whole = [made, message.tag].concat();
                let kept = message.nonce[..4] == fixed[..4] && message.nonce != fixed;
                let same = kept && whole == seal(&message.nonce)?;
                right(same, || self.named("another message"))?;
            } else {
                right(made == plain, || self.named("another plaintext"))?;
            }
        }
        by(names[2], ck.message_final(session, encrypt))
    }

    fn aes_mac_with(&self, key: u64, value: &[u8], random: &mut Random) -> Outcome {
        let length = *random.one_of(&[0, 1, 15, 16, 17, 300, 1008, 1009, 2500]);
        let data = random.bytes(length);
        let kind = self.driver.mechanism;
        let (mechanism, expected) = match self.driver.family {
            Family::Gmac => {
                let (nonce, tag) = (random.bytes(12), 12 + random.below(5));
                let made = openssl::aead("GCM", true, value, &nonce, &data, tag, &[]);
                let made = made.ok_or_else(|| Failure::Wrong(self.named("no tag of OpenSSL")))?;
                (Mechanism::gcm(kind, &nonce, &[], 8 * tag as u64), made)
            }
            Family::Cmac(true) => {
                let mut made = openssl::cmac(value, &data);
                made.truncate(1 + random.below(16));
                (Mechanism::cut(kind, made.len() as u64), made)
            }
            _ => (kind.into(), openssl::cmac(value, &data)),
        };
        self.made_or_compared(key, mechanism, &data, expected, random)
    }

    /// A new AES key: readable, so that OpenSSL can do what it does; or one that nobody knows.
    fn aes_key(&self, random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let length = *random.one_of(&[16, 32]);
        let readable = random.once_in(2);
        let template = [
            number(CKA_VALUE_LEN, length),
            flag(CKA_TOKEN, false),
            flag(CKA_SENSITIVE, !readable),
            flag(CKA_EXTRACTABLE, readable),
            flag(CKA_ENCRYPT, true),
            flag(CKA_DECRYPT, true),
        ];
        let made = ck.generate_key(session, self.driver.mechanism, &template);
        let key = by("C_GenerateKey", made)?;
        let outcome = self.try_aes_key(key, readable, random);
        let destroyed = ck.destroy_object(session, key);
        outcome?;
        by("C_DestroyObject", destroyed)
    }

    fn try_aes_key(&self, key: u64, readable: bool, random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let plain = random.bytes(64);
        let sealed = by("C_Encrypt", ck.encrypt(session, CKM_AES_ECB, key, &plain))?;
        let opened = by("C_Decrypt", ck.decrypt(session, CKM_AES_ECB, key, &sealed))?;
        right(opened == plain, || self.named("another plaintext"))?;
        match ck.attribute(session, key, CKA_VALUE) {
            Ok(value) if readable => {
                let expected = openssl::aes("ECB", true, false, &value, &[], &plain);
                right(expected == Some(sealed), || self.named("another ciphertext"))
            }
            Err(rv) if !readable && rv == CKR_ATTRIBUTE_SENSITIVE => Ok(()),
            // A process that is killed reads nothing.
            Err(rv) => Err(Failure::Refused("C_GetAttributeValue", rv)),
            Ok(_) => Err(Failure::Wrong(self.named("CKA_VALUE of a hidden key"))),
        }
    }

    /// A new key: readable, so that OpenSSL can do what it does; or one that nobody knows.
    fn secret(&self, key_type: u64, hash: Hash, random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let length = *random.one_of(&[16, 20, 32, 64]);
        let readable = random.once_in(2);
        let template = [
            number(CKA_VALUE_LEN, length as u64),
            flag(CKA_TOKEN, false),
            flag(CKA_SENSITIVE, !readable),
            flag(CKA_EXTRACTABLE, readable),
            flag(CKA_SIGN, true),
        ];
        let made = ck.generate_key(session, self.driver.mechanism, &template);
        let key = by("C_GenerateKey", made)?;
        let outcome = self.try_secret(key, key_type, hash, length, readable, random);
        let destroyed = ck.destroy_object(session, key);
        outcome?;
        by("C_DestroyObject", destroyed)
    }

    fn try_secret(
        &self,
        key: u64,
        key_type: u64,
        hash: Hash,
        length: usize,
        readable: bool,
        random: &mut Random,
    ) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let said = by("C_GetAttributeValue", ck.attribute(session, key, CKA_KEY_TYPE))?;
        right(said == key_type.to_ne_bytes(), || self.named("a key of another type"))?;
        let (mechanism, _) = ROWS
            .iter()
            .find(|(_, family)| matches!(family, Family::Hmac(of, false) if *of == hash))
            .expect("every hash has its HMAC");
        let data = random.bytes(100);
        let made = by("C_Sign", ck.sign(session, *mechanism, key, &data))?;
        by("C_Verify", ck.verify(session, *mechanism, key, &data, &made))?;
        match ck.attribute(session, key, CKA_VALUE) {
            Ok(value) if readable => {
                right(value.len() == length && made == openssl::hmac(hash.2, &value, &data), || {
                    self.named("another MAC")
                })
            }
            Err(rv) if !readable && rv == CKR_ATTRIBUTE_SENSITIVE => Ok(()),
            Err(rv) => Err(Failure::Refused("C_GetAttributeValue", rv)),
            Ok(_) => Err(Failure::Wrong(self.named("a sensitive CKA_VALUE was read"))),
        }
    }

    /// A key, or data, of a base key that OpenSSL knows, too, and the chip works with.
    fn hkdf(&self, random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let value = random.bytes(32);
        let mut template = vec![
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, CKK_HKDF),
            flag(CKA_TOKEN, false),
            flag(CKA_SENSITIVE, true),
            flag(CKA_EXTRACTABLE, false),
            bytes(CKA_VALUE, value.clone()),
        ];
        template.push(bytes(CKA_ALLOWED_MECHANISMS, self.driver.mechanism.to_ne_bytes()));
        let key = by("C_CreateObject", ck.create_object(session, &template))?;
        let outcome = self.hkdf_with(key, &value, random);
        let destroyed = ck.destroy_object(session, key);
        outcome?;
        by("C_DestroyObject", destroyed)
    }

    fn hkdf_with(&self, key: u64, value: &[u8], random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let hash = *random.one_of(&[SHA1, SHA256]);
        let length = *random.one_of(&[16, 32, 45]);
        let info = random.bytes(20);
        let expected = openssl::hkdf_expand(hash.2, value, &info, length);
        let mechanism = Mechanism::hkdf(self.driver.mechanism, hash.0, None, Some(&info));
        let data = self.driver.mechanism == CKM_HKDF_DATA;
        let template = [number(CKA_VALUE_LEN, length as u64), flag(CKA_SIGN, true)];
        let template = if data { &template[..1] } else { &template[..] };
        let made = by("C_DeriveKey", ck.derive(session, mechanism, key, template))?;
        let same = if data {
            by("C_GetAttributeValue", ck.attribute(session, made, CKA_VALUE)).map(|v| v == expected)
        } else {
            // It is as hidden as the base key: its MAC shows whether it is the right one.
            by("C_Sign", ck.sign(session, CKM_SHA256_HMAC, made, b"message"))
                .map(|mac| mac == openssl::hmac("sha256", &expected, b"message"))
        };
        let destroyed = ck.destroy_object(session, made);
        right(same?, || self.named("another key"))?;
        by("C_DestroyObject", destroyed)
    }

    /// A key from the bytes of readable keys.
    fn plain(&self, hash: Option<Hash>, random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let bytes_of = random.bytes(32);
        let template = [
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
            flag(CKA_TOKEN, false),
            flag(CKA_SENSITIVE, false),
            flag(CKA_EXTRACTABLE, true),
            flag(CKA_DERIVE, true),
            bytes(CKA_VALUE, bytes_of.clone()),
        ];
        let key = by("C_CreateObject", ck.create_object(session, &template))?;
        let outcome = self.plain_with(key, &bytes_of, hash, random);
        let destroyed = ck.destroy_object(session, key);
        outcome?;
        by("C_DestroyObject", destroyed)
    }

    fn plain_with(
        &self,
        key: u64,
        value: &[u8],
        hash: Option<Hash>,
        random: &mut Random,
    ) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let kind = self.driver.mechanism;
        let data = random.bytes(20);
        let string = || Mechanism::string(kind, &[], &data);
        let (mechanism, expected) = match (kind, hash) {
            (_, Some(hash)) => (kind.into(), openssl::digest(hash.2, value)),
            (CKM_CONCATENATE_BASE_AND_KEY, _) => {
                (Mechanism::with(kind, Memory::word(key)), [value, value].concat())
            }
            (CKM_CONCATENATE_BASE_AND_DATA, _) => (string(), [value, &data].concat()),
            (CKM_CONCATENATE_DATA_AND_BASE, _) => (string(), [&data, value].concat()),
            (CKM_XOR_BASE_AND_DATA, _) => {
                (string(), value.iter().zip(&data).map(|(one, other)| one ^ other).collect())
            }
            _ => {
                let at = random.below(32);
                let turned = value.iter().cycle().skip(at).take(16).copied().collect();
                (Mechanism::with(kind, Memory::word(8 * at as u64)), turned)
            }
        };
        let template = [
            number(CKA_VALUE_LEN, expected.len() as u64),
            flag(CKA_SENSITIVE, false),
            flag(CKA_EXTRACTABLE, true),
        ];
        let made = by("C_DeriveKey", ck.derive(session, mechanism, key, &template))?;
        let found = by("C_GetAttributeValue", ck.attribute(session, made, CKA_VALUE));
        let destroyed = ck.destroy_object(session, made);
        right(found? == expected, || self.named("another key"))?;
        by("C_DestroyObject", destroyed)
    }

    /// The public key of a pair once more.
    fn public_half(&self, pair: &Pair) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let derived = ck.derive(session, self.driver.mechanism, pair.private, &[]);
        let made = by("C_DeriveKey", derived)?;
        let info = by("C_GetAttributeValue", ck.attribute(session, made, CKA_PUBLIC_KEY_INFO));
        let destroyed = ck.destroy_object(session, made);
        right(info? == pair.info, || self.named("another public key"))?;
        by("C_DestroyObject", destroyed)
    }

    /// A key from a password.
    fn password(&self, random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let (password, salt) = (random.bytes(12), random.bytes(16));
        let iterations = 1 + random.below(50) as u64;
        let (prf, name) = *random.one_of(&[
            (CKP_PKCS5_PBKD2_HMAC_SHA1, "sha1"),
            (CKP_PKCS5_PBKD2_HMAC_SHA256, "sha256"),
            (CKP_PKCS5_PBKD2_HMAC_SHA512, "sha512"),
        ]);
        let template = [
            number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
            number(CKA_VALUE_LEN, 48),
            flag(CKA_TOKEN, false),
            flag(CKA_SENSITIVE, false),
            flag(CKA_EXTRACTABLE, true),
        ];
        let mechanism = Mechanism::pbkdf2(prf, &password, &salt, iterations);
        let key = by("C_GenerateKey", ck.generate_key(session, mechanism, &template))?;
        let value = by("C_GetAttributeValue", ck.attribute(session, key, CKA_VALUE));
        let destroyed = ck.destroy_object(session, key);
        let expected = openssl::pbkdf2(name, &password, &salt, iterations, 48);
        right(value? == expected, || self.named("another key"))?;
        by("C_DestroyObject", destroyed)
    }

    /// A key that the chip makes of data, under a key that OpenSSL knows, too.
    fn aes_data(&self, mode: &str, random: &mut Random) -> Outcome {
        let value = random.bytes(32);
        let base = [
            number(CKA_KEY_TYPE, CKK_AES),
            bytes(CKA_ALLOWED_MECHANISMS, self.driver.mechanism.to_ne_bytes()),
            bytes(CKA_VALUE, value.clone()),
        ];
        let iv = if mode == "ECB" { Vec::new() } else { random.bytes(16) };
        let data = random.bytes(48);
        let length = *random.one_of(&[16, 32, 45]);
        let mut expected = openssl::aes(mode, true, false, &value, &iv, &data)
            .ok_or_else(|| Failure::Wrong(self.named("OpenSSL does not encrypt")))?;
        expected.truncate(length);
        let mechanism = Mechanism::string(self.driver.mechanism, &iv, &data);
        self.derived_in_the_chip(&base, mechanism, &expected)
    }

    /// A hidden key of a hidden base key: its MAC shows whether it is the right one.
    fn derived_in_the_chip(
        &self,
        base: &[Attribute],
        mechanism: Mechanism,
        expected: &[u8],
    ) -> Outcome {
        let mac = (CKM_SHA256_HMAC.into(), openssl::hmac("sha256", expected, b"message"));
        self.derived_to_sign(base, mechanism, expected.len(), mac)
    }

    /// The same for a key of so many bytes that makes this MAC of a message.
    fn derived_to_sign(
        &self,
        base: &[Attribute],
        mechanism: Mechanism,
        length: usize,
        (signing, expected): (Mechanism, Vec<u8>),
    ) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        self.with_hidden(base, CKA_DERIVE, |key| {
            let template = [number(CKA_VALUE_LEN, length as u64), flag(CKA_SIGN, true)];
            let made = by("C_DeriveKey", ck.derive(session, mechanism, key, &template))?;
            let mac = by("C_Sign", ck.sign(session, signing, made, b"message"));
            let destroyed = ck.destroy_object(session, made);
            right(mac? == expected, || self.named("another key"))?;
            by("C_DestroyObject", destroyed)
        })
    }

    /// Something with a key that only the chip has, which has this role.
    fn with_hidden(
        &self,
        key: &[Attribute],
        role: u64,
        work: impl FnOnce(u64) -> Outcome,
    ) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let hidden = [
            number(CKA_CLASS, CKO_SECRET_KEY),
            flag(CKA_TOKEN, false),
            flag(CKA_SENSITIVE, true),
            flag(CKA_EXTRACTABLE, false),
            flag(role, true),
        ];
        let key = by("C_CreateObject", ck.create_object(session, &[&hidden, key].concat()))?;
        let outcome = work(key);
        let destroyed = ck.destroy_object(session, key);
        outcome?;
        by("C_DestroyObject", destroyed)
    }

    /// TLS 1.2 of a secret that OpenSSL knows, too, and the chip works with.
    fn tls(&self, random: &mut Random) -> Outcome {
        let kind = self.driver.mechanism;
        let secret = random.bytes(48);
        let base = [
            number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
            bytes(CKA_ALLOWED_MECHANISMS, kind.to_ne_bytes()),
            bytes(CKA_VALUE, secret.clone()),
        ];
        let (client, server) = (random.bytes(32), random.bytes(32));
        let randoms: [&[u8]; 2] = [&client, &server];
        let of = |label: &[u8], more: &[&[u8]], length| {
            openssl::tls12("sha256", &secret, &[label, &more.concat()].concat(), length)
        };
        match kind {
            CKM_TLS_MAC | CKM_TLS12_MAC => {
                let mechanism = Mechanism::tls_mac(kind, CKM_SHA256, 12, 1);
                let expected = of(b"server finished", &[&client], 12);
                self.tls_mac(&base, mechanism, &client, &expected)
            }
            CKM_TLS_KDF | CKM_TLS12_KDF => {
                let mechanism =
                    Mechanism::tls_export(kind, CKM_SHA256, b"label", randoms, b"context");
                let more: [&[u8]; 4] = [&client, &server, &[0, 7], b"context"];
                self.derived_in_the_chip(&base, mechanism, &of(b"label", &more, 40))
            }
            CKM_TLS12_KEY_AND_MAC_DERIVE | CKM_TLS12_KEY_SAFE_DERIVE => {
                let mechanism = Mechanism::tls_block(kind, CKM_SHA256, randoms, [256, 128, 32], 4);
                let block = of(b"key expansion", &[&server, &client], 104);
                self.with_hidden(&base, CKA_DERIVE, |key| self.tls_block(key, &mechanism, &block))
            }
            _ => {
                let extended =
                    [CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE, CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH];
                let (mechanism, master) = if extended.contains(&kind) {
                    (
                        Mechanism::tls_extended(kind, CKM_SHA256, &client, false),
                        of(b"extended master secret", &[&client], 48),
                    )
                } else {
                    (
                        Mechanism::tls_master(kind, CKM_SHA256, randoms, false),
                        of(b"master secret", &[&client, &server], 48),
                    )
                };
                let signing = Mechanism::tls_mac(CKM_TLS_MAC, CKM_SHA256, 12, 2);
                let mac = openssl::tls12("sha256", &master, b"client finishedmessage", 12);
                self.derived_to_sign(&base, mechanism, 48, (signing, mac))
            }
        }
    }

    fn tls_mac(
        &self,
        base: &[Attribute],
        mechanism: Mechanism,
        data: &[u8],
        expected: &[u8],
    ) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        self.with_hidden(base, CKA_SIGN, |key| {
            if self.driver.operation == CKF_SIGN {
                let made = by("C_Sign", ck.sign(session, mechanism, key, data))?;
                return right(made == expected, || self.named("another MAC"));
            }
            let wrong = [&expected[..11], &[!expected[11]]].concat();
            by("C_Verify", ck.verify(session, mechanism.clone(), key, data, expected))?;
            match ck.verify(session, mechanism, key, data, &wrong) {
                Ok(()) => Err(Failure::Wrong(self.named("a wrong MAC is taken for good"))),
                Err(rv) if rv == CKR_SIGNATURE_INVALID => Ok(()),
                Err(rv) => Err(Failure::Refused("C_Verify", rv)),
            }
        })
    }

    /// Two keys of 32 bytes that sign, two of AES-128, two IVs of 4 bytes where there are some.
    fn tls_block(&self, key: u64, mechanism: &Mechanism, block: &[u8]) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let template = [number(CKA_KEY_TYPE, CKK_AES)];
        let (rv, _, left) = ck.derive_into(session, mechanism, key, &template, false);
        by("C_DeriveKey", if rv == CKR_OK { Ok(()) } else { Err(rv) })?;
        let (_, out) = left.pointers.last().expect("CK_SSL3_KEY_MAT_OUT");
        let keys: Vec<u64> = (0..4).map(|number| out.word_at(8 * number)).collect();
        let mut outcome = Ok(());
        for (made, value) in
            keys.iter().zip([&block[..32], &block[32..64], &block[64..80], &block[80..96]])
        {
            let checked = if value.len() == 32 {
                by("C_Sign", ck.sign(session, CKM_SHA256_HMAC, *made, b"message"))
                    .map(|mac| mac == openssl::hmac("sha256", value, b"message"))
            } else {
                by("C_Encrypt", ck.encrypt(session, CKM_AES_ECB, *made, &[0; 16])).map(|made| {
                    Some(made) == openssl::aes("ECB", true, false, value, &[], &[0; 16])
                })
            };
            let checked = checked.and_then(|same| right(same, || self.named("another key")));
            outcome = outcome.and(checked);
        }
        for made in keys {
            let destroyed = by("C_DestroyObject", ck.destroy_object(session, made));
            outcome = outcome.and(destroyed);
        }
        outcome?;
        let told: Vec<&[u8]> = out.pointers.iter().map(|(_, iv)| &iv.bytes[..]).collect();
        let expected: [&[u8]; 2] = match self.driver.mechanism {
            CKM_TLS12_KEY_AND_MAC_DERIVE => [&block[96..100], &block[100..104]],
            _ => [&[0xA5; 4], &[0xA5; 4]],
        };
        right(told == expected, || self.named("other IVs"))
    }

    /// A key of a base key that OpenSSL knows, too, and the chip works with.
    fn sp800(&self, random: &mut Random) -> Outcome {
        let kind = self.driver.mechanism;
        let value = random.bytes(32);
        let base = [number(CKA_KEY_TYPE, CKK_GENERIC_SECRET), bytes(CKA_VALUE, value.clone())];
        let length = *random.one_of(&[16, 32, 45]);
        let label = random.bytes(20);
        let expected = openssl::sp800(kind, &value, &label, length);
        let mut counter = Memory::word(0);
        counter.push_word(32);
        let mut fields = vec![(CK_SP800_108_BYTE_ARRAY, Memory::of(label))];
        if kind == CKM_SP800_108_COUNTER_KDF {
            fields.insert(0, (CK_SP800_108_ITERATION_VARIABLE, counter));
        } else {
            fields.insert(0, (CK_SP800_108_ITERATION_VARIABLE, Memory::default()));
            fields.insert(1, (CK_SP800_108_COUNTER, counter));
        }
        let mechanism = Mechanism::sp800(kind, CKM_SHA256_HMAC, &fields, &[], &[]);
        self.derived_in_the_chip(&base, mechanism, &expected)
    }

    /// A new key for HKDF, readable, so that OpenSSL can do what it does.
    fn hkdf_keys(&self, random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let template = [
            number(CKA_VALUE_LEN, 32),
            flag(CKA_TOKEN, false),
            flag(CKA_SENSITIVE, false),
            flag(CKA_EXTRACTABLE, true),
        ];
        let made = ck.generate_key(session, self.driver.mechanism, &template);
        let key = by("C_GenerateKey", made)?;
        let deriving =
            Driver { mechanism: CKM_HKDF_DERIVE, operation: CKF_DERIVE, family: Family::Hkdf };
        let deriving = Drive { driver: &deriving, ..*self };
        let outcome = by("C_GetAttributeValue", ck.attribute(session, key, CKA_VALUE))
            .and_then(|value| deriving.hkdf_with(key, &value, random));
        let destroyed = ck.destroy_object(session, key);
        outcome?;
        by("C_DestroyObject", destroyed)
    }

    /// A key that goes to the TPM that it is in and comes back, where the SO trusts that TPM's storage
    /// key; else it does not go, nor come.
    fn travel(&self, random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let wanted = [flag(CKA_TRUSTED, true), bytes(CKA_LABEL, STORAGE_KEY)];
        let found = by("C_FindObjects", ck.find(session, &wanted))?;
        let target = match found.first() {
            Some(target) => *target,
            None => by("C_CreateObject", ck.create_object(session, &storage_key(p256())))?,
        };
        let extra = [flag(CKA_EXTRACTABLE, true), bytes(CKA_LABEL, "traveller")];
        let pair = Pair::generate(ck, session, Kind::Ec, random, [&[], &extra])?;
        let outcome = self.travel_with(target, &pair, found.is_empty(), random);
        let unwanted = found.is_empty().then_some(target);
        for object in [pair.private, pair.public].into_iter().chain(unwanted) {
            let destroyed = ck.destroy_object(session, object);
            if outcome.is_ok() {
                by("C_DestroyObject", destroyed)?;
            }
        }
        outcome
    }

    fn travel_with(&self, target: u64, pair: &Pair, foreign: bool, random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let wrapped = ck.wrap(session, self.driver.mechanism, target, pair.private);
        if foreign {
            return match wrapped {
                Err(rv) if rv == CKR_KEY_NOT_WRAPPABLE => Ok(()),
                Err(rv) => Err(Failure::Refused("C_WrapKey", rv)),
                Ok(_) => Err(Failure::Wrong(self.named("a key leaves for nobody's TPM"))),
            };
        }
        let wrapped = by("C_WrapKey", wrapped)?;
        let back = ck.unwrap(session, self.driver.mechanism, 0, &wrapped, &[]);
        let back = by("C_UnwrapKey", back)?;
        let moved = Pair { private: back, ..pair.clone() };
        let signing = driver(CKM_ECDSA_SHA256, CKF_SIGN).expect("there is one");
        let outcome = signing.drive(ck, session, Some(&moved), random);
        let destroyed = ck.destroy_object(session, back);
        outcome?;
        by("C_DestroyObject", destroyed)
    }

    /// A key that everybody may read, wrapped: OpenSSL unwraps it.
    fn wrap(&self, random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let length = *random.one_of(&[16, 24, 32]);
        let value = random.bytes(length);
        let template = [
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
            flag(CKA_TOKEN, false),
            flag(CKA_SENSITIVE, false),
            flag(CKA_EXTRACTABLE, true),
            flag(CKA_SIGN, true),
            bytes(CKA_VALUE, value.clone()),
        ];
        let key = by("C_CreateObject", ck.create_object(session, &template))?;
        let outcome = match self.driver.family {
            Family::Aes(..) | Family::Aead(_) => self.wrap_with_aes(key, &value, random),
            _ => self.wrap_with_rsa(key, &value, random),
        };
        let destroyed = ck.destroy_object(session, key);
        outcome?;
        by("C_DestroyObject", destroyed)
    }

    fn wrap_with_rsa(&self, key: u64, value: &[u8], random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let shape = self.to_encrypt(random);
        let pair = outsider(Kind::Rsa, random);
        let mut template = public_template(Kind::Rsa, &pair.info());
        template.push(flag(CKA_WRAP, true));
        let public = by("C_CreateObject", ck.create_object(session, &template))?;
        let wrapped = by("C_WrapKey", ck.wrap(session, shape.mechanism.clone(), public, key));
        let destroyed = ck.destroy_object(session, public);
        let wrapped = wrapped?;
        let (first, second) = wrapped.split_at(wrapped.len().min(256));
        let mut opened = pair.decrypt(first, &shape.options());
        if matches!(self.driver.family, Family::RsaAes) {
            opened =
                opened.and_then(|key| openssl::aes("WRAP-PAD", false, false, &key, &[], second));
        }
        right(opened.as_deref() == Some(value), || self.named("another key"))?;
        by("C_DestroyObject", destroyed)
    }

    fn wrap_with_aes(&self, key: u64, value: &[u8], random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        // What is brought in does not wrap; so it is made here, readable.
        let template = [
            number(CKA_VALUE_LEN, *random.one_of(&[16, 32])),
            flag(CKA_TOKEN, false),
            flag(CKA_SENSITIVE, false),
            flag(CKA_EXTRACTABLE, true),
            flag(CKA_WRAP, true),
        ];
        let made = ck.generate_key(session, CKM_AES_KEY_GEN, &template);
        let wrapping = by("C_GenerateKey", made)?;
        let (mechanism, seal) = self.wraps(value, random);
        let wrapped = by("C_WrapKey", ck.wrap(session, mechanism, wrapping, key));
        let theirs = by("C_GetAttributeValue", ck.attribute(session, wrapping, CKA_VALUE));
        let destroyed = ck.destroy_object(session, wrapping);
        let expected = seal(&theirs?)?;
        right(wrapped? == expected, || self.named("another ciphertext"))?;
        by("C_DestroyObject", destroyed)
    }

    /// The mechanism with a parameter for a value, and what OpenSSL makes of that under a key.
    fn wraps<'a>(&'a self, value: &'a [u8], random: &mut Random) -> (Mechanism, Sealing<'a>) {
        match self.driver.family {
            Family::Aead(mode) => {
                let nonce = random.bytes(if mode == "GCM" { 12 } else { 13 });
                let additional = random.bytes(20);
                // The length that CCM's parameter says is not looked at.
                let message = Message::new(self.driver.mechanism, &nonce, 16, 7);
                let mechanism = message.wrapping(&additional);
                let seal = move |key: &[u8]| {
                    openssl::aead(mode, true, key, &nonce, &additional, 16, value)
                        .ok_or_else(|| Failure::Wrong(self.named("OpenSSL does not encrypt")))
                };
                (mechanism, Box::new(seal))
            }
            Family::Aes(mode, lengths) => {
                let iv = iv_of(mode, random);
                let mechanism = self.with_iv(&iv);
                let seal = move |key: &[u8]| self.sealed(mode, lengths, key, &iv, value);
                (mechanism, Box::new(seal))
            }
            _ => unreachable!("this family wraps otherwise"),
        }
    }

    fn with_iv(&self, iv: &[u8]) -> Mechanism {
        match iv {
            [] => self.driver.mechanism.into(),
            iv => Mechanism::bytes(self.driver.mechanism, iv),
        }
    }

    /// A key that OpenSSL wrapped.
    fn unwrap(&self, random: &mut Random) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let value = random.bytes(32);
        let (template, mechanism, wrapped) = match self.driver.family {
            Family::Aes(..) | Family::Aead(_) => {
                let key = random.bytes(16);
                let (mechanism, seal) = self.wraps(&value, random);
                let wrapped = seal(&key)?;
                let template = vec![
                    number(CKA_CLASS, CKO_SECRET_KEY),
                    number(CKA_KEY_TYPE, CKK_AES),
                    flag(CKA_TOKEN, false),
                    flag(CKA_UNWRAP, true),
                    bytes(CKA_VALUE, key),
                ];
                (template, mechanism, wrapped)
            }
            family => {
                let pair = outsider(Kind::Rsa, random);
                let shape = self.to_encrypt(random);
                let seal =
                    |data: &[u8]| pair.encrypt(data, &shape.options()).expect("OpenSSL encrypts");
                let wrapped = match family {
                    Family::RsaAes => {
                        let inner = openssl::aes("WRAP-PAD", true, false, &shape.data, &[], &value);
                        [seal(&shape.data), inner.expect("OpenSSL wraps")].concat()
                    }
                    _ => seal(&value),
                };
                let template = vec![
                    number(CKA_CLASS, CKO_PRIVATE_KEY),
                    number(CKA_KEY_TYPE, CKK_RSA),
                    flag(CKA_TOKEN, false),
                    flag(CKA_UNWRAP, true),
                    bytes(CKA_MODULUS, pair.number("n")),
                    bytes(CKA_PUBLIC_EXPONENT, pair.number("e")),
                    bytes(CKA_PRIVATE_EXPONENT, pair.number("d")),
                    bytes(CKA_PRIME_1, pair.number("rsa-factor1")),
                    bytes(CKA_PRIME_2, pair.number("rsa-factor2")),
                ];
                (template, shape.mechanism, wrapped)
            }
        };
        let unwrapping = by("C_CreateObject", ck.create_object(session, &template))?;
        let outcome = self.unwrap_with(unwrapping, mechanism, &wrapped, &value);
        let destroyed = ck.destroy_object(session, unwrapping);
        outcome?;
        by("C_DestroyObject", destroyed)
    }

    fn unwrap_with(
        &self,
        unwrapping: u64,
        mechanism: Mechanism,
        wrapped: &[u8],
        value: &[u8],
    ) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let template = [
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
            flag(CKA_TOKEN, false),
            flag(CKA_SIGN, true),
        ];
        let made = ck.unwrap(session, mechanism, unwrapping, wrapped, &template);
        let key = by("C_UnwrapKey", made)?;
        // It is hidden: its MAC shows whether it is the right one.
        let mac = by("C_Sign", ck.sign(session, CKM_SHA256_HMAC, key, b"message"));
        let destroyed = ck.destroy_object(session, key);
        let same = mac? == openssl::hmac("sha256", value, b"message");
        right(same, || self.named("another key"))?;
        by("C_DestroyObject", destroyed)
    }

    fn generate(&self, kind: Kind, random: &mut Random) -> Outcome {
        let pair = Pair::generate(self.ck, self.session, kind, random, [&[], &[]])?;
        // That the halves belong together, a signature says.
        let mechanism = if kind == Kind::Ec { CKM_ECDSA_SHA256 } else { CKM_SHA256_RSA_PKCS };
        let signing = driver(mechanism, CKF_SIGN).expect("there is one");
        let outcome = signing.drive(self.ck, self.session, Some(&pair), random);
        for object in [pair.private, pair.public] {
            let destroyed = self.ck.destroy_object(self.session, object);
            if outcome.is_ok() {
                by("C_DestroyObject", destroyed)?;
            }
        }
        outcome
    }
}
