//! Key pairs: the token's, of which OpenSSL knows the public half, and OpenSSL's, of which the module does.

use std::sync::OnceLock;

use cryptoki_sys::*;

use super::{Drive, Failure, Family, Outcome, Random, Row, by, driver};
use crate::ck::{Attribute, Ck, P256, P384, P521, bytes, flag, number};
use crate::openssl::Key;

pub(super) static ROWS: &[Row] = &[
    (CKM_EC_KEY_PAIR_GEN, &Generation(Kind::Ec)),
    (CKM_RSA_PKCS_KEY_PAIR_GEN, &Generation(Kind::Rsa)),
];

#[derive(Debug)]
struct Generation(Kind);

impl Family for Generation {
    fn section(&self) -> &'static str {
        match self.0 {
            Kind::Ec => "EC",
            Kind::Rsa => "RSA",
        }
    }

    fn does(&self) -> u64 {
        CKF_GENERATE_KEY_PAIR
    }

    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let (ck, session) = (drive.ck, drive.session);
        let pair = Pair::generate(ck, session, self.0, random, [&[], &[]])?;
        // That the halves belong together, a signature says.
        let mechanism = if self.0 == Kind::Ec { CKM_ECDSA_SHA256 } else { CKM_SHA256_RSA_PKCS };
        let signing = driver(mechanism, CKF_SIGN).expect("there is one");
        drive.spend_pair(&pair, || signing.drive(ck, session, Some(&pair), random))
    }
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

    pub(super) fn key(&self) -> Result<Key, Failure> {
        Key::from_info(&self.info)
            .ok_or_else(|| Failure::Wrong("OpenSSL does not take the public key".to_owned()))
    }

    pub(super) fn curve(&self) -> &'static Curve {
        curve_of(&self.info)
    }
}

/// DER of the curve, OpenSSL's name, the width of a number in bytes.
pub(super) type Curve = (&'static [u8], &'static str, usize);

pub(super) static CURVES: [Curve; 3] =
    [(P256, "P-256", 32), (P384, "P-384", 48), (P521, "P-521", 66)];

pub(super) fn curve_of(info: &[u8]) -> &'static Curve {
    CURVES
        .iter()
        .find(|(params, ..)| info.windows(params.len()).any(|window| window == *params))
        .expect("one of three curves")
}

/// The uncompressed point of an EC key: where its SubjectPublicKeyInfo ends.
pub(super) fn point(info: &[u8]) -> &[u8] {
    &info[info.len() - (1 + 2 * curve_of(info).2)..]
}

/// A pair that OpenSSL made, whose public half the module is given.
pub(super) fn outsider(kind: Kind, random: &mut Random) -> &'static Key {
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

pub(super) fn p256() -> &'static Key {
    static KEY: OnceLock<Key> = OnceLock::new();
    KEY.get_or_init(|| Key::generate("EC", &["ec_paramgen_curve:P-256"]))
}

/// CKO_PUBLIC_KEY for the outsider's key, a session object.
pub(super) fn public_template(kind: Kind, info: &[u8]) -> Vec<Attribute> {
    let mut template = vec![number(CKA_CLASS, CKO_PUBLIC_KEY), flag(CKA_TOKEN, false)];
    match kind {
        Kind::Ec => {
            let (params, point) = (curve_of(info).0, point(info));
            let mut octets = vec![0x04];
            if point.len() > 127 {
                octets.push(0x81);
            }
            octets.push(point.len() as u8);
            octets.extend(point);
            template.extend([
                number(CKA_KEY_TYPE, CKK_EC),
                bytes(CKA_EC_PARAMS, params),
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
