//! Keys that enter the TPM, leave it, or move to another one: TPM2_Import and TPM2_Duplicate, and the
//! wrappers in which a key's secret part travels.
//!
//! Into the TPM and out of it a key goes in an *inner wrapper*: AES-128-CFB with a key that was drawn here
//! and that crosses the bus as the first parameter of its command, which the session encrypts. From one
//! TPM to another it goes in an *outer wrapper* that the first makes for the storage key of the second,
//! so that it is never in clear outside a TPM.
//!
//! TPM 2.0 Part 1 §23 (duplication), §24 (credentials).

#[cfg(test)]
mod tests;

use aes::{Aes128, Aes192, Aes256};
use cfb_mode::cipher::{AsyncStreamCipher, KeyIvInit};
use subtle::ConstantTimeEq;
use tss_esapi::constants::tss::{
    TPM2_ALG_ECC, TPM2_ALG_KEYEDHASH, TPM2_ALG_RSA, TPM2_ALG_SYMCIPHER,
};
use tss_esapi::interface_types::key_bits::AesKeyBits;
use tss_esapi::structures::SymmetricDefinitionObject;
use zeroize::Zeroizing;

use super::command::{
    ActivateCredential, Duplicate, Duplicated, Import, Load, LoadExternal, NULL, ObjectChangeAuth,
};
use super::execute::{Auth, Entity, execute};
use super::fault::{Fault, Trouble};
use super::key::{PublicKey, Unique, movable, name_of, parse, public_key, use_branches};
use super::keys::{no_random, of_the_value};
use super::lease::{Key, KeyLease, Tpm};
use super::session::{PolicySession, Shared, hmac, kdfa, sha256, shared_with};
use super::srk::unsoundness;
use super::wire::{Reader, Writer};
use super::{Call, HashAlgorithm, KeySpec, KeyUse, Name, NewKey};
use crate::crypto::drbg::os_bytes;

/// A key in clear, on its way into the TPM or out of it. Its secrets are wiped when it is dropped. Numbers
/// are big-endian.
pub enum PlainKey {
    /// An RSA key pair.
    Rsa {
        /// Without leading zeros.
        modulus: Vec<u8>,
        /// The public exponent.
        exponent: u32,
        /// One of the two primes, half as long as the modulus.
        prime: Zeroizing<Vec<u8>>,
    },
    /// A key pair on the curve that its [`KeyUse`] names.
    Ec {
        /// The public point, as long as the field.
        x: Vec<u8>,
        /// As long as the field.
        y: Vec<u8>,
        /// The private number, as long as the curve's order.
        scalar: Zeroizing<Vec<u8>>,
    },
    /// An AES key or a generic secret.
    Secret(Zeroizing<Vec<u8>>),
}

impl std::fmt::Debug for PlainKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PlainKey::Rsa { .. } => "PlainKey::Rsa",
            PlainKey::Ec { .. } => "PlainKey::Ec",
            PlainKey::Secret(_) => "PlainKey::Secret",
        })
    }
}

/// A key on its way from one TPM to another: nobody but the TPM with the storage key that it was made for
/// can read it. Who made it, it does not tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    /// Marshalled TPMT_PUBLIC of the key.
    pub public: Vec<u8>,
    private: Vec<u8>,
    seed: Vec<u8>,
    /// The secret that goes with it, as TPM2_ActivateCredential takes it.
    credential: Vec<u8>,
    credential_seed: Vec<u8>,
}

/// The layout of [`Parcel::to_bytes`].
const PARCEL: u8 = 1;

impl Parcel {
    /// As bytes, for whoever carries it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { public, private, seed, credential, credential_seed } = self;
        let mut out = Writer::new();
        out.u8(PARCEL);
        for part in [public, private, seed, credential, credential_seed] {
            out.sized(part);
        }
        out.as_slice().to_vec()
    }

    /// Reads what [`Parcel::to_bytes`] wrote; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut input = Reader::new(bytes);
        if input.u8().ok()? != PARCEL {
            return None;
        }
        let mut part = || input.sized().ok().map(<[u8]>::to_vec);
        let parcel = Self {
            public: part()?,
            private: part()?,
            seed: part()?,
            credential: part()?,
            credential_seed: part()?,
        };
        input.end().ok()?;
        Some(parcel)
    }
}

impl Tpm {
    /// TPM2_Import under the storage root key, through a salted session: a key made elsewhere. One
    /// command if the session is there. It is not fixedTPM, which the TPM forbids; where `spec` is not
    /// extractable no policy of its own can be met for TPM2_Duplicate.
    ///
    /// Whether the key is a good one was judged before. The TPM checks that private and public key belong
    /// together, of RSA keys perhaps only when it loads them.
    ///
    /// # Errors
    /// [`Trouble::KeySize`] if it is not a key as `spec` describes; [`Trouble::Integrity`] if its
    /// halves do not belong together.
    pub fn import(
        &self,
        call: &Call,
        srk: &Name,
        spec: &KeySpec,
        authorization: &[u8; 32],
        key: &PlainKey,
    ) -> Result<NewKey, Fault> {
        let (public, sensitive) = imported(spec, authorization, key)?;
        let inner = os_bytes::<16>().map_err(no_random)?;
        let duplicate = wrap(&inner, &name_of(&public)?, sensitive.as_slice())?;
        let private = self.with(call, Some(srk), |lease| {
            let parent = Entity::from(&lease.srk()?);
            let (link, session) = lease.salted()?;
            let (public, duplicate) = (&public, &duplicate);
            let inner = Some(&*inner);
            let import = Import { parent: &parent, inner, public, duplicate, seed: &[] };
            let made = execute(link, &import, &mut [Auth::hmac(session, &[])], call);
            if let PlainKey::Secret(_) = key { made.map_err(of_the_value) } else { made }
        })?;
        Ok(NewKey { public, private })
    }

    /// TPM2_Duplicate of an extractable key to nobody: the key in clear, here. `pin` is the Name of the
    /// user's PIN index if the key asks for the PIN at each use. Four commands on a warm key, five with
    /// `pin`. (What is [`KeyUse::Sealed`] is unsealed instead.)
    ///
    /// # Errors
    /// [`Trouble::Parameter`] or [`Trouble::Policy`]: the chip refuses what is not extractable.
    pub fn export(&self, call: &Call, key: &Key, pin: Option<&Name>) -> Result<PlainKey, Fault> {
        let name = name_of(&key.blob.public)?;
        let inner = os_bytes::<16>().map_err(no_random)?;
        let nobody = Entity::permanent(NULL);
        let duplicated = self.with_key(call, key, |lease| {
            let key = lease.key();
            let command = Duplicate { key: &key, parent: &nobody, inner: Some(&inner) };
            let authorization = lease.blob.authorization.clone();
            duplicate(lease, &command, &authorization, pin)
        })?;
        let sensitive = unwrap(&inner, &name, &duplicated.private)?;
        exported(&key.blob.public, &sensitive)
    }

    /// TPM2_Duplicate of an extractable key to another TPM's storage key (`target`, its marshalled
    /// TPMT_PUBLIC, which somebody has judged to be that of a TPM). Its clear text is in no host's memory.
    /// With it goes a secret of 32 random bytes, given to both sides, that the key and whatever else is
    /// sent can be bound together with; it is the duplicate's authorization value, too, until the
    /// other side gives it one of its own.
    ///
    /// # Errors
    /// [`Trouble::Policy`] for a key that is not extractable or asks for a PIN, which is one of this
    /// TPM; [`Trouble::Unsound`] if the target is no storage key.
    pub fn duplicate(
        &self,
        call: &Call,
        key: &Key,
        target: &[u8],
    ) -> Result<(Parcel, Zeroizing<[u8; 32]>), Fault> {
        movable(&key.blob.public)?;
        if let Some(why) = unsoundness(target) {
            return Err(Fault::new(Trouble::Unsound(format!("the target's storage key: {why}"))));
        }
        let secret = os_bytes::<32>().map_err(no_random)?;
        let (credential, credential_seed) = credential(target, &secret)?;
        let Duplicated { private, seed } =
            self.with_key(call, key, |lease| send(lease, &key.srk, target, &secret))?;
        let public = key.blob.public.clone();
        Ok((Parcel { public, private, seed, credential, credential_seed }, secret))
    }

    /// TPM2_Import of a key that another TPM duplicated to this one's storage root key, and the secret
    /// that was sent with it. The key has the authorization value given here from now on.
    ///
    /// # Errors
    /// [`Trouble::Policy`] if it is not a key as our own extractable ones; [`Trouble::Integrity`] if it
    /// was made for another TPM or changed on its way; [`Trouble::AuthFail`] if secret and key do not
    /// belong together.
    pub fn import_duplicate(
        &self,
        call: &Call,
        srk: &Name,
        parcel: &Parcel,
        authorization: &[u8; 32],
    ) -> Result<(NewKey, Zeroizing<[u8; 32]>), Fault> {
        let Parcel { public, private, seed, credential, credential_seed } = parcel;
        movable(public)?;
        let (private, secret) = self.with(call, Some(srk), |lease| {
            let parent = &Entity::from(&lease.srk()?);
            let (link, session) = lease.salted()?;
            let activate = ActivateCredential {
                object: parent,
                key: parent,
                credential,
                seed: credential_seed,
            };
            let auths = &mut [Auth::hmac(session, &[]), Auth::password(&[])];
            let secret = execute(link, &activate, auths, call)?;
            let import = Import { parent, inner: None, public, duplicate: private, seed };
            let private = execute(link, &import, &mut [Auth::hmac(session, &[])], call)?;
            let load = Load { parent, public, private: &private };
            let object = execute(link, &load, &mut [Auth::hmac(session, &[])], call)?;
            let change = ObjectChangeAuth { object: &object, parent, authorization };
            let private = execute(link, &change, &mut [Auth::hmac(session, &secret)], call)?;
            Ok((private, secret))
        })?;
        let secret = secret.as_slice().try_into().map(Zeroizing::new);
        let secret = secret.map_err(|_| {
            Fault::new(Trouble::Tampered("a secret of another length than was sent"))
        })?;
        Ok((NewKey { public: public.clone(), private }, secret))
    }
}

/// TPM2_Duplicate through a policy session of its own. What stays of it after an error goes with the job.
fn duplicate(
    lease: &mut KeyLease,
    command: &Duplicate<'_>,
    authorization: &[u8; 32],
    pin: Option<&Name>,
) -> Result<Duplicated, Fault> {
    use super::command::Command as _;

    let KeyLease { connection, call, .. } = lease;
    let link = &mut connection.link;
    let mut policy = PolicySession::keyed(link, call)?;
    policy.auth_value(link, call)?;
    policy.command_code(Duplicate::CODE, link, call)?;
    if let Some(pin) = pin {
        policy.or(&use_branches(pin), link, call)?;
    }
    let auth = Auth::policy_with_value(&mut policy, authorization).ending();
    execute(link, command, &mut [auth], call)
}

/// The loaded key, given `secret` as its authorization value, as a duplicate for `target`. Of a bare TPM's
/// three slots it needs two, with a transient root three: nothing else may be loaded.
fn send(
    lease: &mut KeyLease,
    srk: &Name,
    target: &[u8],
    secret: &[u8; 32],
) -> Result<Duplicated, Fault> {
    let (call, blob) = (lease.call.clone(), lease.blob.clone());
    let parent = &Entity::from(&lease.connection.root(Some(srk), None, false, &call)?);
    let object = lease.key();
    let private =
        lease.execute(&ObjectChangeAuth { object: &object, parent, authorization: secret })?;
    lease.connection.shrink(0, None, &call)?;
    let link = &mut lease.connection.link;
    let load = Load { parent, public: &blob.public, private: &private };
    let key = &execute(link, &load, &mut [Auth::password(&[])], &call)?;
    let parent = &execute(link, &LoadExternal { public: target }, &mut [], &call)?;
    let duplicated = duplicate(lease, &Duplicate { key, parent, inner: None }, secret, None)?;
    lease.connection.flush(&[key.handle, parent.handle], &[]);
    Ok(duplicated)
}

// ---- the sensitive area ------------------------------------------------------------------------

/// The public area and the TPMT_SENSITIVE of a key that comes from outside. Part 2 §12.3.2.
fn imported(
    spec: &KeySpec,
    authorization: &[u8; 32],
    key: &PlainKey,
) -> Result<(Vec<u8>, Writer), Fault> {
    let misfit = || Fault::new(Trouble::KeySize);
    let mut out = Writer::new();
    let public = match (spec.usage, key) {
        (KeyUse::Rsa { bits, exponent }, PlainKey::Rsa { modulus, exponent: theirs, prime }) => {
            if exponent != *theirs || prime.len() * 16 != usize::from(bits) {
                return Err(misfit());
            }
            out.u16(TPM2_ALG_RSA).sized(authorization).sized(&[]).sized(prime);
            spec.import_template(&Unique::Rsa(modulus))?
        }
        (KeyUse::Ec { curve, .. }, PlainKey::Ec { x, y, scalar }) => {
            if [x.len(), y.len(), scalar.len()] != [curve.len(); 3] {
                return Err(misfit());
            }
            out.u16(TPM2_ALG_ECC).sized(authorization).sized(&[]).sized(scalar);
            spec.import_template(&Unique::Ec(x, y))?
        }
        (KeyUse::Aes { .. } | KeyUse::Keyed, PlainKey::Secret(value)) => {
            spec.takes(value)?;
            let kind = match spec.usage {
                KeyUse::Keyed => TPM2_ALG_KEYEDHASH,
                _ => TPM2_ALG_SYMCIPHER,
            };
            // So that the public area does not tell one secret from another. Part 1 §27.2.
            let seed = os_bytes::<32>().map_err(no_random)?;
            out.u16(kind).sized(authorization).sized(&*seed).sized(value);
            spec.import_template(&Unique::Digest(sha256(&[seed.as_slice(), value])))?
        }
        _ => return Err(misfit()),
    };
    Ok((public, out))
}

/// The key of this public area whose TPMT_SENSITIVE this is.
fn exported(public: &[u8], sensitive: &[u8]) -> Result<PlainKey, Fault> {
    let strange = || Fault::new(Trouble::Tampered("the secret part of another key"));
    let mut input = Reader::new(sensitive);
    let kind = input.u16()?;
    // The authorization value, and the seed that hides the secret in the public area.
    input.sized()?;
    input.sized()?;
    let secret = Zeroizing::new(input.sized()?.to_vec());
    input.end()?;
    match kind {
        TPM2_ALG_SYMCIPHER | TPM2_ALG_KEYEDHASH => Ok(PlainKey::Secret(secret)),
        TPM2_ALG_RSA | TPM2_ALG_ECC => match public_key(public)?.1 {
            PublicKey::Rsa { modulus, exponent } => {
                if secret.len() * 2 != modulus.len() {
                    return Err(strange());
                }
                let exponent =
                    exponent.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
                Ok(PlainKey::Rsa { modulus, exponent, prime: secret })
            }
            PublicKey::Ec { curve, x, y } => {
                // Some TPMs cut leading zeros.
                let zeros = curve.len().checked_sub(secret.len()).ok_or_else(strange)?;
                let mut scalar = Zeroizing::new(Vec::with_capacity(curve.len()));
                scalar.resize(zeros, 0);
                scalar.extend_from_slice(&secret);
                Ok(PlainKey::Ec { x, y, scalar })
            }
        },
        _ => Err(strange()),
    }
}

// ---- wrappers ----------------------------------------------------------------------------------

/// The inner wrapper around a TPMT_SENSITIVE. `name` is the object's, whose nameAlg is SHA-256. Part 1 §23.3.2.
fn wrap(key: &[u8; 16], name: &[u8], sensitive: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mut content = Writer::new();
    content.sized(sensitive);
    let mut out = Writer::new();
    out.sized(&integrity(content.as_slice(), name)).bytes(content.as_slice());
    out.check()?;
    let mut wrapped = Zeroizing::new(out.as_slice().to_vec());
    cfb(key, true, &mut wrapped)?;
    Ok(wrapped)
}

/// What is in an inner wrapper.
fn unwrap(key: &[u8; 16], name: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mut content = Zeroizing::new(wrapped.to_vec());
    cfb(key, false, &mut content)?;
    let mut input = Reader::new(&content);
    let theirs = input.sized()?;
    let content = input.rest();
    if !bool::from(integrity(content, name).ct_eq(theirs)) {
        return Err(Fault::new(Trouble::Tampered("a duplicate that is not whole")));
    }
    let mut input = Reader::new(content);
    let sensitive = Zeroizing::new(input.sized()?.to_vec());
    input.end()?;
    Ok(sensitive)
}

fn integrity(content: &[u8], name: &[u8]) -> [u8; 32] {
    sha256(&[content, name])
}

/// AES in CFB mode with an IV of zeros, in place.
fn cfb(key: &[u8], encrypt: bool, data: &mut [u8]) -> Result<(), Fault> {
    const IV: [u8; 16] = [0; 16];
    macro_rules! with {
        ($aes:ty) => {
            if encrypt {
                cfb_mode::Encryptor::<$aes>::new_from_slices(key, &IV).map(|cfb| cfb.encrypt(data))
            } else {
                cfb_mode::Decryptor::<$aes>::new_from_slices(key, &IV).map(|cfb| cfb.decrypt(data))
            }
        };
    }
    match key.len() {
        16 => with!(Aes128),
        24 => with!(Aes192),
        _ => with!(Aes256),
    }
    .map_err(|_| Fault::bug("no AES key"))
}

/// 32 bytes for the TPM with this storage key, as TPM2_ActivateCredential takes them of the storage key
/// itself: the content of TPM2B_ID_OBJECT and of TPM2B_ENCRYPTED_SECRET. Part 1 §24.
fn credential(target: &[u8], secret: &[u8; 32]) -> Result<(Vec<u8>, Vec<u8>), Fault> {
    let unsound =
        |why: &str| Fault::new(Trouble::Unsound(format!("the target's storage key: {why}")));
    let name = name_of(target)?;
    let (hash, _) = public_key(target)?;
    if hash == HashAlgorithm::Sha1 {
        return Err(unsound("SHA-1 gives it its Name"));
    }
    let bytes = match parse(target)?.symmetric_algorithm() {
        Some(SymmetricDefinitionObject::Aes { key_bits: AesKeyBits::Aes128, .. }) => 16,
        Some(SymmetricDefinitionObject::Aes { key_bits: AesKeyBits::Aes192, .. }) => 24,
        Some(SymmetricDefinitionObject::Aes { key_bits: AesKeyBits::Aes256, .. }) => 32,
        _ => return Err(unsound("it does not protect with AES")),
    };
    let Shared { value: seed, encrypted } = shared_with(target, "IDENTITY")?;
    let mut content = Writer::new();
    content.sized(secret);
    cfb(&kdfa(hash, &seed, "STORAGE", &name, &[], bytes), true, content.as_mut_slice())?;
    let mac_key = kdfa(hash, &seed, "INTEGRITY", &[], &[], hash.bytes());
    let mac = hmac(hash, &mac_key, &[content.as_slice(), &name]);
    let mut out = Writer::new();
    out.sized(&mac).bytes(content.as_slice());
    Ok((out.as_slice().to_vec(), encrypted))
}
