//! Keys as the TPM sees them: what to create (`KeySpec`), what comes back and is kept (`KeyBlob`).
//! CKA_* become a `KeySpec` in `object/keyspec.rs`.

use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use tss_esapi::attributes::{ObjectAttributes, ObjectAttributesBuilder};
use tss_esapi::constants::tss::{
    TPM2_ALG_SHA1, TPM2_ALG_SHA256, TPM2_ALG_SHA384, TPM2_ALG_SHA512, TPM2_CC_Duplicate,
    TPM2_CC_PolicyAuthValue, TPM2_CC_PolicyCommandCode, TPM2_CC_PolicyOR, TPM2_CC_PolicySecret,
};
use tss_esapi::interface_types::algorithm::SymmetricMode;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::{AesKeyBits, RsaKeyBits};
use tss_esapi::structures::{
    Digest, EccParameter, EccPoint, EccScheme, KeyDerivationFunctionScheme, KeyedHashScheme,
    Public, PublicBuilder, PublicEccParameters, PublicKeyRsa, PublicKeyedHashParameters,
    PublicRsaParameters, RsaExponent, RsaScheme, SymmetricCipherParameters,
    SymmetricDefinitionObject,
};
use tss_esapi::traits::{Marshall, UnMarshall};
use zeroize::Zeroizing;

use super::Name;
use super::fault::{Fault, Trouble};
use super::session::sha256;
use crate::crypto::ec::Curve;
use crate::crypto::hash::Hash;

/// A hash as the TPM names it (TPM_ALG_ID of the Algorithm Registry).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HashAlgorithm {
    /// 20 bytes
    Sha1,
    /// 32 bytes
    Sha256,
    /// 48 bytes
    Sha384,
    /// 64 bytes
    Sha512,
}

impl HashAlgorithm {
    /// All, by their size.
    pub const ALL: [HashAlgorithm; 4] =
        [HashAlgorithm::Sha1, HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512];

    /// TPM_ALG_ID
    pub fn id(self) -> u16 {
        match self {
            HashAlgorithm::Sha1 => TPM2_ALG_SHA1,
            HashAlgorithm::Sha256 => TPM2_ALG_SHA256,
            HashAlgorithm::Sha384 => TPM2_ALG_SHA384,
            HashAlgorithm::Sha512 => TPM2_ALG_SHA512,
        }
    }

    /// The hash with this TPM_ALG_ID, if it is one of ours.
    pub fn of_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.id() == id)
    }

    /// The digest's size in bytes.
    pub fn bytes(self) -> usize {
        match self {
            HashAlgorithm::Sha1 => 20,
            HashAlgorithm::Sha256 => 32,
            HashAlgorithm::Sha384 => 48,
            HashAlgorithm::Sha512 => 64,
        }
    }

    fn digest(self, data: &[u8]) -> Vec<u8> {
        match self {
            HashAlgorithm::Sha1 => Sha1::digest(data).to_vec(),
            HashAlgorithm::Sha256 => Sha256::digest(data).to_vec(),
            HashAlgorithm::Sha384 => Sha384::digest(data).to_vec(),
            HashAlgorithm::Sha512 => Sha512::digest(data).to_vec(),
        }
    }
}

impl From<HashAlgorithm> for Hash {
    fn from(hash: HashAlgorithm) -> Self {
        match hash {
            HashAlgorithm::Sha1 => Hash::Sha1,
            HashAlgorithm::Sha256 => Hash::Sha256,
            HashAlgorithm::Sha384 => Hash::Sha384,
            HashAlgorithm::Sha512 => Hash::Sha512,
        }
    }
}

/// What a key does in the chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUse {
    /// RSA of this many bits with public exponent 65537: scheme NULL, sign and decrypt, every padding is ours.
    Rsa {
        /// Modulus size in bits.
        bits: u16,
        /// Public exponent; 65537 on nearly every chip.
        exponent: u32,
    },
    /// An elliptic-curve key.
    Ec {
        /// Its curve.
        curve: Curve,
        /// TPM2_Sign is allowed.
        sign: bool,
        /// TPM2_ECDH_ZGen is allowed.
        derive: bool,
    },
    /// An AES key: TPM2_EncryptDecrypt2 in every mode, both ways.
    Aes {
        /// 128, 192 or 256.
        bits: u16,
    },
    /// The key of an HMAC with any hash of the chip, as TPM2_HMAC takes it. At most [`KEYED_LIMIT`] bytes;
    /// the TPM makes one of 32.
    Keyed,
    /// A value that the chip gives back to whoever knows the authorization (TPM2_Unseal): for keys of
    /// what it cannot do itself. At most [`SEALED_LIMIT`] bytes. It cannot be duplicated, for what may
    /// leave is unsealed.
    Sealed,
}

/// The most bytes of a [`KeyUse::Keyed`]: what TPM 2.0 Part 2 §11.1.13 lets the sensitive data of an
/// object have at least (MAX_SYM_DATA), and the largest block of a hash that we know. libtpms takes
/// exactly this. More than 64 bytes need a TPM with SHA-512; one byte is the least.
pub const KEYED_LIMIT: usize = 128;
/// Up to here a generic secret can be given to TPM2_Create under the nameAlg SHA-256, in bytes.
pub(super) const SHA256_BLOCK: usize = 64;
/// The most bytes of a [`KeyUse::Sealed`] (MAX_SYM_DATA); one byte is the least.
pub const SEALED_LIMIT: usize = 128;

/// What to create: TPM2_Create's public template in our words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpec {
    /// Kind, size and use.
    pub usage: KeyUse,
    /// CKA_EXTRACTABLE: neither fixedTPM nor fixedParent, and a policy that allows duplication with the authorization only.
    pub extractable: bool,
    /// The Name of the written PIN index of the user if the chip itself shall ask for the PIN at each
    /// use (CKA_ALWAYS_AUTHENTICATE): userWithAuth clear, policy PolicySecret(P_user).
    pub always_authenticate: Option<Name>,
}

/// A key at rest: what TPM2_Load needs. The private part is wrapped by the storage root key.
#[derive(Clone)]
pub struct KeyBlob {
    /// Identifies the key in the lease's cache: the object's uuid.
    pub id: [u8; 16],
    /// Marshalled TPMT_PUBLIC.
    pub public: Vec<u8>,
    /// Content of TPM2B_PRIVATE.
    pub private: Vec<u8>,
    /// The object's authorization.
    pub authorization: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for KeyBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyBlob").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What TPM2_Create or TPM2_Import answered.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Marshalled TPMT_PUBLIC.
    pub public: Vec<u8>,
    /// Content of TPM2B_PRIVATE.
    pub private: Vec<u8>,
}

// ---- public areas ------------------------------------------------------------------------------

/// The public key inside a TPMT_PUBLIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// Big-endian numbers.
    Rsa {
        /// As long as the key is.
        modulus: Vec<u8>,
        /// Without leading zeros.
        exponent: Vec<u8>,
    },
    /// A point; both coordinates are as long as the field, big-endian.
    Ec {
        /// Its curve.
        curve: Curve,
        /// x
        x: Vec<u8>,
        /// y
        y: Vec<u8>,
    },
}

fn strange(what: &'static str) -> Fault {
    Fault::new(Trouble::Malformed(what))
}

/// Reads a marshalled TPMT_PUBLIC, to its last byte.
pub(super) fn parse(public: &[u8]) -> Result<Public, Fault> {
    let parsed = Public::unmarshall(public).map_err(|_| strange("a public area"))?;
    // The library does not look at what follows; written again it must be the same bytes.
    match parsed.marshall() {
        Ok(bytes) if bytes == public => Ok(parsed),
        _ => Err(strange("a public area with something after it")),
    }
}

/// The nameAlg and the public key inside a marshalled TPMT_PUBLIC.
///
/// # Errors
/// [`Trouble::Malformed`] if it is no public area of an RSA or EC key on a curve that we know.
pub fn public_key(public: &[u8]) -> Result<(HashAlgorithm, PublicKey), Fault> {
    let parsed = parse(public)?;
    let hash = HashAlgorithm::of_id(parsed.name_hashing_algorithm().into())
        .ok_or_else(|| strange("a public area with an unknown nameAlg"))?;
    let key = match parsed {
        Public::Rsa { parameters, unique, .. } => {
            let exponent = match parameters.exponent().value() {
                0 => 65537u32,
                exponent => exponent,
            };
            let exponent = exponent.to_be_bytes();
            let first = exponent.iter().position(|byte| *byte != 0).unwrap_or(0);
            PublicKey::Rsa {
                modulus: unique.value().to_vec(),
                exponent: exponent.get(first..).unwrap_or_default().to_vec(),
            }
        }
        Public::Ecc { parameters, unique, .. } => {
            let curve = match parameters.ecc_curve() {
                EccCurve::NistP256 => Curve::P256,
                EccCurve::NistP384 => Curve::P384,
                EccCurve::NistP521 => Curve::P521,
                _ => return Err(strange("a public area on an unknown curve")),
            };
            PublicKey::Ec {
                curve,
                x: padded(unique.x().value(), curve)?,
                y: padded(unique.y().value(), curve)?,
            }
        }
        Public::KeyedHash { .. } | Public::SymCipher { .. } => {
            return Err(strange("a public area without a public key"));
        }
    };
    Ok((hash, key))
}

/// What kind of key this marshalled TPMT_PUBLIC is of, if it is that of a key that may move to another
/// TPM, as it is made here: userWithAuth, no scheme, the policy that lets its authorization alone
/// duplicate it. (Who made the secret, sensitiveDataOrigin, is not looked at.)
///
/// # Errors
/// [`Trouble::Policy`] if it is anything else.
pub fn movable(public: &[u8]) -> Result<KeyUse, Fault> {
    let other = || Fault::new(Trouble::Policy);
    let parsed = parse(public).map_err(|_| other())?;
    let attributes = parsed.object_attributes();
    let digest =
        |digest: &Digest| digest.value().try_into().map(Unique::Digest).map_err(|_| other());
    let (usage, unique) = match &parsed {
        Public::Rsa { parameters, unique, .. } => {
            let exponent = match parameters.exponent().value() {
                0 => 65537,
                exponent => exponent,
            };
            let usage = KeyUse::Rsa { bits: parameters.key_bits().into(), exponent };
            (usage, Unique::Rsa(unique.value()))
        }
        Public::Ecc { unique, .. } => {
            let PublicKey::Ec { curve, .. } = public_key(public).map_err(|_| other())?.1 else {
                return Err(other());
            };
            let (sign, derive) = (attributes.sign_encrypt(), attributes.decrypt());
            let unique = Unique::Ec(unique.x().value(), unique.y().value());
            (KeyUse::Ec { curve, sign, derive }, unique)
        }
        Public::SymCipher { parameters, unique, .. } => {
            let SymmetricDefinitionObject::Aes { key_bits, .. } =
                parameters.symmetric_definition_object()
            else {
                return Err(other());
            };
            (KeyUse::Aes { bits: key_bits.into() }, digest(unique)?)
        }
        Public::KeyedHash { unique, .. } => (KeyUse::Keyed, digest(unique)?),
    };
    let ours = KeySpec { usage, extractable: true, always_authenticate: None };
    let mut ours = ours.import_template(&unique).map_err(|_| other())?;
    if attributes.sensitive_data_origin() {
        // TPMA_OBJECT stands after type and nameAlg; bit 5 of its last byte.
        if let Some(last) = ours.get_mut(7) {
            *last |= 1 << 5;
        }
    }
    if ours == public { Ok(usage) } else { Err(other()) }
}

/// A coordinate as long as the field: some TPMs cut leading zeros.
fn padded(coordinate: &[u8], curve: Curve) -> Result<Vec<u8>, Fault> {
    let bytes = field_bytes(curve);
    let zeros = bytes.checked_sub(coordinate.len()).ok_or_else(|| strange("a long coordinate"))?;
    let mut padded = vec![0; zeros];
    padded.extend_from_slice(coordinate);
    Ok(padded)
}

fn field_bytes(curve: Curve) -> usize {
    match curve {
        Curve::P256 => 32,
        Curve::P384 => 48,
        Curve::P521 => 66,
    }
}

/// The Name of an object: its nameAlg and the digest of its marshalled TPMT_PUBLIC. Part 1 §16.
///
/// # Errors
/// [`Trouble::Malformed`] if the nameAlg is none that we know.
pub fn name_of(public: &[u8]) -> Result<Name, Fault> {
    let id: [u8; 2] = public
        .get(2..4)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| strange("a public area"))?;
    let hash = HashAlgorithm::of_id(u16::from_be_bytes(id))
        .ok_or_else(|| strange("a public area with an unknown nameAlg"))?;
    let mut name = id.to_vec();
    name.extend_from_slice(&hash.digest(public));
    Ok(name)
}

/// Where the secret part of a new object comes from.
#[derive(Clone, Copy)]
enum Origin<'a> {
    /// The TPM makes it.
    Made,
    /// It is given to TPM2_Create; and which nameAlg the object has.
    Given(HashingAlgorithm),
    /// It is given to TPM2_Import.
    Imported(&'a Unique<'a>),
}

/// What tells the public area of a key from that of any other. TPMU_PUBLIC_ID, Part 2 §12.2.3.
pub(super) enum Unique<'a> {
    /// The modulus.
    Rsa(&'a [u8]),
    /// x and y, as long as the field.
    Ec(&'a [u8], &'a [u8]),
    /// The digest of seed and secret.
    Digest([u8; 32]),
}

fn impossible<E>(_: E) -> Fault {
    Fault::bug("a public area that cannot be built")
}

impl KeySpec {
    /// The marshalled TPMT_PUBLIC for TPM2_Create of a key that the TPM makes.
    ///
    /// # Errors
    /// [`Trouble::KeySize`] for a size that no TPM has.
    pub fn template(&self) -> Result<Vec<u8>, Fault> {
        self.public_area(Origin::Made)
    }

    /// As [`KeySpec::template`], for a value that is given to TPM2_Create.
    ///
    /// # Errors
    /// [`Trouble::KeySize`] for a value of another length than the key has, or can have;
    /// [`Trouble::Bug`] for a key pair: those are imported.
    pub(super) fn template_for(&self, value: &[u8]) -> Result<Vec<u8>, Fault> {
        self.takes(value)?;
        // Where the key names no hash, the block of its nameAlg's is the limit.
        let hash = match self.usage {
            KeyUse::Keyed if value.len() > SHA256_BLOCK => HashingAlgorithm::Sha512,
            _ => HashingAlgorithm::Sha256,
        };
        self.public_area(Origin::Given(hash))
    }

    /// Whether the value has a length that the key has, or can have.
    ///
    /// # Errors
    /// As [`KeySpec::template_for`].
    pub(super) fn takes(&self, value: &[u8]) -> Result<(), Fault> {
        let length = value.len();
        let fits = match self.usage {
            KeyUse::Aes { bits } => length * 8 == usize::from(bits),
            KeyUse::Keyed => (1..=KEYED_LIMIT).contains(&length),
            KeyUse::Sealed => (1..=SEALED_LIMIT).contains(&length),
            KeyUse::Rsa { .. } | KeyUse::Ec { .. } => {
                return Err(Fault::bug("a key pair given to TPM2_Create"));
            }
        };
        if fits { Ok(()) } else { Err(Fault::new(Trouble::KeySize)) }
    }

    /// The marshalled TPMT_PUBLIC for TPM2_Import of a key with this public part. Neither fixedTPM nor
    /// fixedParent, which an imported key cannot have: what holds a key that may not be extracted is
    /// that no policy of its own can be met for TPM2_Duplicate.
    ///
    /// # Errors
    /// [`Trouble::KeySize`] for a key of another size or kind than `usage` says.
    pub(super) fn import_template(&self, unique: &Unique<'_>) -> Result<Vec<u8>, Fault> {
        self.public_area(Origin::Imported(unique))
    }

    /// The marshalled TPMT_PUBLIC of an object as described.
    fn public_area(&self, origin: Origin<'_>) -> Result<Vec<u8>, Fault> {
        let (sign, decrypt) = match self.usage {
            KeyUse::Rsa { .. } | KeyUse::Aes { .. } | KeyUse::Keyed => (true, true),
            KeyUse::Ec { sign, derive, .. } => (sign, derive),
            KeyUse::Sealed => {
                return sealed(match &self.always_authenticate {
                    None => Seal::Value,
                    Some(pin) => Seal::Policy(policy_secret(&ZERO, pin)),
                });
            }
        };
        let unique = match origin {
            Origin::Imported(unique) => Some(unique),
            Origin::Made | Origin::Given(_) => None,
        };
        let fixed = !self.extractable && unique.is_none();
        let attributes = ObjectAttributesBuilder::new()
            .with_fixed_tpm(fixed)
            .with_fixed_parent(fixed)
            .with_sensitive_data_origin(matches!(origin, Origin::Made))
            .with_user_with_auth(self.always_authenticate.is_none())
            .with_no_da(true)
            .with_sign_encrypt(sign)
            .with_decrypt(decrypt)
            .build()
            .map_err(impossible)?;
        let name_hash = match origin {
            Origin::Made | Origin::Imported(_) => HashingAlgorithm::Sha256,
            Origin::Given(hash) => hash,
        };
        let builder = PublicBuilder::new()
            .with_name_hashing_algorithm(name_hash)
            .with_object_attributes(attributes)
            .with_auth_policy(policy_digest(&self.policy())?);
        let misfit = |_| Fault::new(Trouble::KeySize);
        let digest = match unique {
            None => Digest::default(),
            Some(Unique::Digest(digest)) => policy_digest(&digest[..])?,
            Some(_) if matches!(self.usage, KeyUse::Aes { .. } | KeyUse::Keyed) => {
                return Err(Fault::new(Trouble::KeySize));
            }
            Some(_) => Digest::default(),
        };
        let builder = match self.usage {
            KeyUse::Rsa { bits, exponent } => {
                let modulus = match unique {
                    None => PublicKeyRsa::default(),
                    Some(Unique::Rsa(modulus)) if modulus.len() * 8 == usize::from(bits) => {
                        PublicKeyRsa::try_from(*modulus).map_err(misfit)?
                    }
                    Some(_) => return Err(Fault::new(Trouble::KeySize)),
                };
                let bits = RsaKeyBits::try_from(bits).map_err(|_| Fault::new(Trouble::KeySize))?;
                // 0 is how every TPM understands 65537.
                let exponent = if exponent == 65537 { 0 } else { exponent };
                builder
                    .with_public_algorithm(PublicAlgorithm::Rsa)
                    .with_rsa_parameters(PublicRsaParameters::new(
                        SymmetricDefinitionObject::Null,
                        RsaScheme::Null,
                        bits,
                        RsaExponent::create(exponent).map_err(impossible)?,
                    ))
                    .with_rsa_unique_identifier(modulus)
            }
            KeyUse::Ec { curve, .. } => {
                let point = match unique {
                    None => EccPoint::default(),
                    Some(Unique::Ec(x, y)) if x.len().max(y.len()) <= curve.len() => {
                        let coordinate = |bytes| EccParameter::try_from(bytes).map_err(misfit);
                        EccPoint::new(coordinate(*x)?, coordinate(*y)?)
                    }
                    Some(_) => return Err(Fault::new(Trouble::KeySize)),
                };
                let curve = match curve {
                    Curve::P256 => EccCurve::NistP256,
                    Curve::P384 => EccCurve::NistP384,
                    Curve::P521 => EccCurve::NistP521,
                };
                builder
                    .with_public_algorithm(PublicAlgorithm::Ecc)
                    .with_ecc_parameters(PublicEccParameters::new(
                        SymmetricDefinitionObject::Null,
                        EccScheme::Null,
                        curve,
                        KeyDerivationFunctionScheme::Null,
                    ))
                    .with_ecc_unique_identifier(point)
            }
            KeyUse::Aes { bits } => {
                let key_bits =
                    AesKeyBits::try_from(bits).map_err(|_| Fault::new(Trouble::KeySize))?;
                let mode = SymmetricMode::Null;
                builder
                    .with_public_algorithm(PublicAlgorithm::SymCipher)
                    .with_symmetric_cipher_parameters(SymmetricCipherParameters::new(
                        SymmetricDefinitionObject::Aes { key_bits, mode },
                    ))
                    .with_symmetric_cipher_unique_identifier(digest)
            }
            KeyUse::Keyed | KeyUse::Sealed => builder
                .with_public_algorithm(PublicAlgorithm::KeyedHash)
                .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
                .with_keyed_hash_unique_identifier(digest),
        };
        builder.build().map_err(impossible)?.marshall().map_err(impossible)
    }

    /// The policy in the public area; empty if there is none.
    fn policy(&self) -> Vec<u8> {
        match (&self.always_authenticate, self.extractable) {
            (None, false) => Vec::new(),
            (Some(pin), false) => policy_secret(&ZERO, pin).to_vec(),
            (None, true) => duplication_policy().to_vec(),
            (Some(pin), true) => policy_or(&use_branches(pin)).to_vec(),
        }
    }
}

/// The two branches of a key that asks for the PIN at each use *and* may be duplicated: it is used with
/// PolicySecret(PIN index), then PolicyOR of these.
pub fn use_branches(pin: &[u8]) -> [[u8; 32]; 2] {
    [policy_secret(&ZERO, pin), duplication_policy()]
}

/// The Name or number of nothing yet: where every policy begins.
pub(super) const ZERO: [u8; 32] = [0; 32];

/// Whoever knows the authorization may duplicate, and do nothing else this way. Without PolicyAuthValue
/// anyone who has the blobs could.
fn duplication_policy() -> [u8; 32] {
    policy_command_code(&policy_auth_value(&ZERO), TPM2_CC_Duplicate)
}

fn policy_digest(digest: &[u8]) -> Result<Digest, Fault> {
    Digest::try_from(digest).map_err(impossible)
}

/// The digest after TPM2_PolicySecret without policyRef. Part 3 §23.4.
pub(super) fn policy_secret(before: &[u8; 32], name: &[u8]) -> [u8; 32] {
    sha256(&[&sha256(&[before, &TPM2_CC_PolicySecret.to_be_bytes(), name])])
}

/// The digest after TPM2_PolicyCommandCode. Part 3 §23.11.
pub(super) fn policy_command_code(before: &[u8; 32], code: u32) -> [u8; 32] {
    sha256(&[before, &TPM2_CC_PolicyCommandCode.to_be_bytes(), &code.to_be_bytes()])
}

/// The digest after TPM2_PolicyAuthValue. Part 3 §23.17.
pub(super) fn policy_auth_value(before: &[u8; 32]) -> [u8; 32] {
    sha256(&[before, &TPM2_CC_PolicyAuthValue.to_be_bytes()])
}

/// The digest after TPM2_PolicyOR. Part 3 §23.6.
pub(super) fn policy_or(branches: &[[u8; 32]]) -> [u8; 32] {
    let code = TPM2_CC_PolicyOR.to_be_bytes();
    let mut parts: Vec<&[u8]> = vec![&ZERO, &code];
    parts.extend(branches.iter().map(|branch| branch.as_slice()));
    sha256(&parts)
}

/// How a sealed object may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seal {
    /// By its authorization value, tries not counted by the TPM: the value is random.
    Value,
    /// By its authorization value, in any number of tries, none of it secret: an empty value.
    Policy([u8; 32]),
    /// By this policy, under the TPM-wide dictionary attack protection.
    Protected([u8; 32]),
}

/// The marshalled TPMT_PUBLIC of a sealed object.
pub(super) fn sealed(seal: Seal) -> Result<Vec<u8>, Fault> {
    let (policy, protected) = match &seal {
        Seal::Value => (&[][..], false),
        Seal::Policy(policy) => (&policy[..], false),
        Seal::Protected(policy) => (&policy[..], true),
    };
    let attributes: ObjectAttributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_user_with_auth(seal == Seal::Value)
        .with_admin_with_policy(seal != Seal::Value)
        .with_no_da(!protected)
        .build()
        .map_err(impossible)?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(policy_digest(policy)?)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
        .map_err(impossible)?
        .marshall()
        .map_err(impossible)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The policy of every endorsement key: TCG EK Credential Profile, B.6.2.
    #[test]
    fn policy_secret_is_that_of_endorsement_keys() {
        assert_eq!(
            hex(&policy_secret(&ZERO, &0x4000_000Bu32.to_be_bytes())),
            "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
        );
    }

    #[test]
    fn only_who_knows_the_authorization_may_duplicate() {
        assert_eq!(
            hex(&duplication_policy()),
            "09bd2ec618ec5d4688b2861cd8aedbbce1c1dd0b9e31e4a12f837750b33831e2"
        );
    }

    fn ec(extractable: bool, always_authenticate: Option<Name>) -> KeySpec {
        let usage = KeyUse::Ec { curve: Curve::P384, sign: true, derive: false };
        KeySpec { usage, extractable, always_authenticate }
    }

    #[test]
    fn a_template_says_what_the_chip_shall_enforce() {
        let pin = vec![0, 11, 9];
        for (spec, fixed, with_auth, policy) in [
            (ec(false, None), true, true, vec![]),
            (ec(true, None), false, true, duplication_policy().to_vec()),
            (ec(false, Some(pin.clone())), true, false, policy_secret(&ZERO, &pin).to_vec()),
            (ec(true, Some(pin.clone())), false, false, policy_or(&use_branches(&pin)).to_vec()),
        ] {
            let public = parse(&spec.template().expect("a template")).expect("public");
            let attributes = public.object_attributes();
            assert_eq!(attributes.fixed_tpm(), fixed);
            assert_eq!(attributes.fixed_parent(), fixed);
            assert_eq!(attributes.user_with_auth(), with_auth);
            assert!(attributes.no_da() && attributes.sensitive_data_origin());
            assert!(attributes.sign_encrypt() && !attributes.decrypt() && !attributes.restricted());
            assert_eq!(public.auth_policy().value(), policy);
        }
    }

    #[test]
    fn an_rsa_key_signs_and_decrypts_because_every_padding_is_ours() {
        let rsa = |bits| KeySpec {
            usage: KeyUse::Rsa { bits, exponent: 65537 },
            extractable: false,
            always_authenticate: None,
        };
        let public = parse(&rsa(3072).template().expect("a template")).expect("public");
        assert!(public.object_attributes().sign_encrypt() && public.object_attributes().decrypt());
        assert_eq!(rsa(1000).template(), Err(Fault::new(Trouble::KeySize)));
    }

    #[test]
    fn a_secret_key_names_neither_mode_nor_hash_and_does_everything() {
        let spec = |usage| KeySpec { usage, extractable: false, always_authenticate: None };
        for usage in [KeyUse::Aes { bits: 128 }, KeyUse::Aes { bits: 256 }, KeyUse::Keyed] {
            let value = vec![1; if usage == (KeyUse::Aes { bits: 128 }) { 16 } else { 32 }];
            let made = parse(&spec(usage).template().expect("a template")).expect("public");
            let given = spec(usage).template_for(&value).expect("a template");
            let given = parse(&given).expect("public");
            assert!(made.object_attributes().sensitive_data_origin());
            assert!(!given.object_attributes().sensitive_data_origin());
            for public in [made, given] {
                let attributes = public.object_attributes();
                assert!(attributes.sign_encrypt() && attributes.decrypt());
                assert!(attributes.fixed_tpm() && attributes.fixed_parent());
                assert!(!attributes.restricted());
            }
        }
        assert_eq!(spec(KeyUse::Aes { bits: 100 }).template(), Err(Fault::new(Trouble::KeySize)));
        let sealed = sealed(Seal::Value).expect("a template");
        assert_eq!(spec(KeyUse::Sealed).template_for(b"value").expect("a template"), sealed);
        assert!(ec(false, None).template_for(b"value").is_err());
    }

    #[test]
    fn only_our_own_extractable_keys_are_movable() {
        let template = |usage, extractable, unique: &Unique<'_>| {
            let spec = KeySpec { usage, extractable, always_authenticate: None };
            spec.import_template(unique).expect("a template")
        };
        let digest = Unique::Digest([7; 32]);
        for usage in [KeyUse::Keyed, KeyUse::Aes { bits: 192 }] {
            assert_eq!(movable(&template(usage, true, &digest)), Ok(usage));
            assert!(movable(&template(usage, false, &digest)).is_err());
            let mut restricted = template(usage, true, &digest);
            restricted[5] |= 1;
            assert!(movable(&restricted).is_err());
        }
        let usage = KeyUse::Ec { curve: Curve::P256, sign: false, derive: true };
        assert_eq!(movable(&template(usage, true, &Unique::Ec(&[1; 32], &[2; 32]))), Ok(usage));
        assert!(movable(&sealed(Seal::Value).expect("a template")).is_err());
        assert!(movable(&[]).is_err());
    }

    #[test]
    fn a_public_area_is_read_to_its_last_byte() {
        let mut bytes = ec(false, None).template().expect("a template");
        parse(&bytes).expect("public");
        name_of(&bytes).expect("a Name");
        bytes.push(0);
        assert!(parse(&bytes).is_err());
        for length in 0..bytes.len() - 1 {
            assert!(parse(&bytes[..length]).is_err());
        }
        assert!(name_of(&[0, 0x23]).is_err());
        assert!(name_of(&[0, 0x23, 0, 0x99, 0]).is_err(), "an unknown nameAlg");
    }
}
