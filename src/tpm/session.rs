//! Authorization sessions: HMAC sessions, salted to the storage root key or not, and policy sessions.
//! This file holds what one session knows (handle, key, nonces) and its arithmetic (KDFa, KDFe, the
//! HMAC, AES-128-CFB); what all sessions of one command have to do with each other is in `execute.rs`.
//!
//! TPM 2.0 Part 1 §11.4.10 (KDFa, KDFe), §19 (authorizations and sessions), §21 (parameter encryption),
//! Annexes B.10.2 and C.6.1 (salts).

use aes::Aes128;
use cfb_mode::cipher::{AsyncStreamCipher, KeyIvInit};
use hmac::{Hmac, Mac, SimpleHmac};
use sha1::Sha1;
use sha2::digest::core_api::BlockSizeUser;
use sha2::digest::{Digest, FixedOutputReset};
use sha2::{Sha256, Sha384, Sha512};
use zeroize::{Zeroize, Zeroizing};

use super::command::{
    FlushContext, PolicyAuthValue, PolicyCommandCode, PolicyOr, StartAuthSession,
};
use super::command::{NULL, SESSION_HMAC, SESSION_POLICY};
use super::execute::{Auth, Entity, execute};
use super::fault::{Fault, Trouble};
use super::key::{HashAlgorithm, PublicKey, public_key};
use super::srk::Pinned;
use super::transport::Transport;
use super::{Call, Name};
use crate::crypto::drbg::os_random;
use crate::crypto::{hash::Hash, rsa};

/// Bytes in our nonces, and so in the TPM's. Part 1 §19.6.2 asks for at least 16.
pub const NONCE_BYTES: usize = 16;

/// The session hash.
const SHA256: HashAlgorithm = HashAlgorithm::Sha256;

/// The session hash is always SHA-256: nonces, HMACs, policies. (Part 1 §19.6.4)
pub(super) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        Digest::update(&mut hash, part);
    }
    hash.finalize().into()
}

/// The key of an HMAC with SHA-256, as far as it can be worked out before there is a message.
pub(super) struct Keyed(Hmac<Sha256>);

impl Keyed {
    /// With a key of any length.
    pub(super) fn new(key: &[u8]) -> Self {
        let mut block = Zeroizing::new([0; 64]);
        if key.len() > 64 {
            block[..32].copy_from_slice(&sha256(&[key]));
        } else {
            block[..key.len()].copy_from_slice(key);
        }
        // A key of exactly one block is what HMAC pads any shorter key to, so this cannot differ from it.
        Self(Hmac::new((&*block).into()))
    }

    /// HMAC-SHA256 of the parts.
    pub(super) fn mac(&self, parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let mut mac = self.0.clone();
        for part in parts {
            Mac::update(&mut mac, part);
        }
        Zeroizing::new(mac.finalize().into_bytes().into())
    }
}

fn hmac_with<D: Digest + BlockSizeUser>(key: &[u8], parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    // A key of any length is taken.
    let Ok(mut mac) = <SimpleHmac<D> as Mac>::new_from_slice(key) else {
        return Zeroizing::default();
    };
    for part in parts {
        Mac::update(&mut mac, part);
    }
    Zeroizing::new(mac.finalize().into_bytes().to_vec())
}

/// HMAC of the parts with this hash.
pub(super) fn hmac(hash: HashAlgorithm, key: &[u8], parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    match hash {
        HashAlgorithm::Sha1 => hmac_with::<Sha1>(key, parts),
        HashAlgorithm::Sha256 => hmac_with::<Sha256>(key, parts),
        HashAlgorithm::Sha384 => hmac_with::<Sha384>(key, parts),
        HashAlgorithm::Sha512 => hmac_with::<Sha512>(key, parts),
    }
}

/// KDFa: SP 800-108 in counter mode with HMAC. `bytes` at most 64. Part 1 §11.4.10.2.
pub(super) fn kdfa(
    hash: HashAlgorithm,
    key: &[u8],
    label: &str,
    u: &[u8],
    v: &[u8],
    bytes: usize,
) -> Zeroizing<Vec<u8>> {
    let bits = (bytes as u32 * 8).to_be_bytes();
    let mut out = Zeroizing::new(Vec::with_capacity(bytes + 64));
    let mut counter = 0u32;
    while out.len() < bytes {
        counter += 1;
        let parts: [&[u8]; 6] = [&counter.to_be_bytes(), label.as_bytes(), &[0], u, v, &bits];
        match hash {
            HashAlgorithm::Sha256 => out.extend_from_slice(&*Keyed::new(key).mac(&parts)),
            _ => out.extend_from_slice(&hmac(hash, key, &parts)),
        }
    }
    out.as_mut_slice()[bytes..].zeroize();
    out.truncate(bytes);
    out
}

fn kdfe_with<D: Digest + FixedOutputReset>(
    z: &[u8],
    label: &str,
    u: &[u8],
    v: &[u8],
    bytes: usize,
) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(bytes + 64));
    let mut hash = D::new();
    let mut counter = 0u32;
    while out.len() < bytes {
        counter += 1;
        for part in [&counter.to_be_bytes(), z, label.as_bytes(), &[0], u, v] {
            Digest::update(&mut hash, part);
        }
        out.extend_from_slice(&hash.finalize_reset());
    }
    out.as_mut_slice()[bytes..].zeroize();
    out.truncate(bytes);
    out
}

/// KDFe: SP 800-56A's concatenation KDF, as many bytes as `hash` has. Part 1 §11.4.10.3.
pub(super) fn kdfe(
    hash: HashAlgorithm,
    z: &[u8],
    label: &str,
    u: &[u8],
    v: &[u8],
) -> Zeroizing<Vec<u8>> {
    let bytes = hash.bytes();
    match hash {
        HashAlgorithm::Sha1 => kdfe_with::<Sha1>(z, label, u, v, bytes),
        HashAlgorithm::Sha256 => kdfe_with::<Sha256>(z, label, u, v, bytes),
        HashAlgorithm::Sha384 => kdfe_with::<Sha384>(z, label, u, v, bytes),
        HashAlgorithm::Sha512 => kdfe_with::<Sha512>(z, label, u, v, bytes),
    }
}

/// An authorization value without the zero bytes at its end, which the TPM does not keep either: they
/// are cut before the value becomes part of an HMAC or CFB key. Part 1 §19.6.5.
pub(super) fn trimmed(value: &[u8]) -> &[u8] {
    let end = value.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    value.get(..end).unwrap_or_default()
}

fn random<const N: usize>() -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    os_random(&mut bytes).map_err(|_| Fault::bug("the operating system gave no random bytes"))?;
    Ok(bytes)
}

/// What any session knows of itself. Wiped when dropped.
pub(super) struct Session {
    pub(super) handle: u32,
    /// From the salt; empty for an unsalted session.
    pub(super) key: Zeroizing<Vec<u8>>,
    pub(super) nonce_tpm: Vec<u8>,
    pub(super) nonce_caller: [u8; NONCE_BYTES],
    /// Started with AES-128-CFB, so that it can encrypt parameters.
    pub(super) encrypts: bool,
    /// The TPM has flushed it.
    pub(super) ended: bool,
}

/// A secret for the eyes of one TPM, and how it travels.
pub(super) struct Shared {
    pub(super) value: Zeroizing<Vec<u8>>,
    /// Content of TPM2B_ENCRYPTED_SECRET.
    pub(super) encrypted: Vec<u8>,
}

/// Makes a secret that only the TPM with this storage key (a marshalled TPMT_PUBLIC) can read, as long
/// as a digest of the key's nameAlg: ECDH with a one-time key and KDFe, or RSA OAEP. The label says
/// what it is for. Part 1 Annexes B.10, C.6.
pub(super) fn shared_with(storage: &[u8], label: &str) -> Result<Shared, Fault> {
    let (hash, key) = public_key(storage)?;
    match key {
        PublicKey::Rsa { modulus, exponent } => {
            let mut value = Zeroizing::new(vec![0; hash.bytes()]);
            os_random(&mut value)
                .map_err(|_| Fault::bug("the operating system gave no random bytes"))?;
            let hash = Hash::from(hash);
            let key = rsa::PublicKey::new(&modulus, &exponent).map_err(|_| bad_root())?;
            let label = [label.as_bytes(), &[0]].concat();
            let encrypted = key.encrypt_oaep(hash, hash, &label, &value).map_err(|_| bad_root())?;
            Ok(Shared { value, encrypted })
        }
        PublicKey::Ec { curve, x, y } => {
            let (z, our_x, our_y) = agree(curve, &x, &y).ok_or_else(bad_root)?;
            let value = kdfe(hash, &z, label, &our_x, &x);
            let mut encrypted = Vec::with_capacity(4 + our_x.len() + our_y.len());
            for coordinate in [&our_x, &our_y] {
                encrypted.extend_from_slice(&(coordinate.len() as u16).to_be_bytes());
                encrypted.extend_from_slice(coordinate);
            }
            Ok(Shared { value, encrypted })
        }
    }
}

fn bad_root() -> Fault {
    Fault::new(Trouble::Unsound("the storage key is no usable public key".to_owned()))
}

/// The shared x coordinate, and our point's two; all as long as the field.
type Agreed = (Zeroizing<Vec<u8>>, Vec<u8>, Vec<u8>);

/// ECDH with a one-time key.
fn agree(curve: crate::crypto::ec::Curve, x: &[u8], y: &[u8]) -> Option<Agreed> {
    use crate::crypto::ec::Curve;

    macro_rules! on {
        ($curve:ident) => {{
            use $curve::elliptic_curve::sec1::{FromEncodedPoint, ToEncodedPoint};
            let field = |bytes: &[u8]| {
                let mut field = $curve::FieldBytes::default();
                let at = field.len().checked_sub(bytes.len())?;
                field.get_mut(at..)?.copy_from_slice(bytes);
                Some(field)
            };
            let point =
                $curve::EncodedPoint::from_affine_coordinates(&field(x)?, &field(y)?, false);
            let theirs =
                Option::<$curve::PublicKey>::from($curve::PublicKey::from_encoded_point(&point))?;
            let ours = $curve::ecdh::EphemeralSecret::random(&mut rand_core::OsRng);
            let shared = ours.diffie_hellman(&theirs);
            let z = Zeroizing::new(shared.raw_secret_bytes().to_vec());
            let point = ours.public_key().to_encoded_point(false);
            Some((z, point.x()?.to_vec(), point.y()?.to_vec()))
        }};
    }
    match curve {
        Curve::P256 => on!(p256),
        Curve::P384 => on!(p384),
        Curve::P521 => on!(p521),
    }
}

impl Session {
    /// TPM2_StartAuthSession, never bound.
    fn start(
        link: &mut dyn Transport,
        kind: u8,
        root: Option<&Pinned>,
        encrypts: bool,
        guard: Option<&mut HmacSession>,
        call: &Call,
    ) -> Result<Self, Fault> {
        let salt = root.map(|root| shared_with(root.public(), "SECRET")).transpose()?;
        let nonce_caller = random()?;
        let null = Entity::permanent(NULL);
        let salt_key = root.map_or(null.clone(), Entity::from);
        let command = StartAuthSession {
            salt_key: &salt_key,
            bind: &null,
            nonce_caller: &nonce_caller,
            encrypted_salt: salt.as_ref().map_or(&[], |salt| &salt.encrypted),
            kind,
            encrypts,
        };
        let started = match guard {
            Some(guard) => execute(link, &command, &mut [Auth::extra(guard)], call)?,
            None => execute(link, &command, &mut [], call)?,
        };
        let key = match &salt {
            Some(salt) => kdfa(SHA256, &salt.value, "ATH", &started.nonce_tpm, &nonce_caller, 32),
            None => Zeroizing::default(),
        };
        Ok(Self {
            handle: started.handle,
            key,
            nonce_tpm: started.nonce_tpm,
            nonce_caller,
            encrypts,
            ended: false,
        })
    }

    /// A fresh nonce of ours for the next command.
    pub(super) fn roll(&mut self) -> Result<(), Fault> {
        self.nonce_caller = random()?;
        Ok(())
    }

    /// The key of this session's HMAC when it authorizes with `value`, and of its parameter encryption.
    /// Part 1 §19.6.5, §21.2.
    pub(super) fn keyed(&self, value: &[u8]) -> Keyed {
        let value = trimmed(value);
        let mut key = Zeroizing::new(Vec::with_capacity(self.key.len() + value.len()));
        key.extend_from_slice(&self.key);
        key.extend_from_slice(value);
        Keyed::new(&key)
    }

    /// Encrypts the first parameter of a command in place. Part 1 §21.3.
    pub(super) fn encrypt(&self, key: &Keyed, data: &mut [u8]) {
        let material = Self::cfb(key, &self.nonce_caller, &self.nonce_tpm);
        let (key, iv) = material.split_at(16);
        if let Ok(cfb) = cfb_mode::Encryptor::<Aes128>::new_from_slices(key, iv) {
            cfb.encrypt(data);
        }
    }

    /// Decrypts the first parameter of a response in place; `nonce_tpm` is that of the response.
    pub(super) fn decrypt(&self, key: &Keyed, data: &mut [u8]) {
        let material = Self::cfb(key, &self.nonce_tpm, &self.nonce_caller);
        let (key, iv) = material.split_at(16);
        if let Ok(cfb) = cfb_mode::Decryptor::<Aes128>::new_from_slices(key, iv) {
            cfb.decrypt(data);
        }
    }

    /// KDFa for the key (16 bytes) and the IV (16 bytes) of one parameter: one step of it. Part 1 §21.3.
    fn cfb(key: &Keyed, newer: &[u8], older: &[u8]) -> Zeroizing<[u8; 32]> {
        key.mac(&[&1u32.to_be_bytes(), b"CFB", &[0], newer, older, &256u32.to_be_bytes()])
    }
}

/// An HMAC session: proves to the TPM that we know an authorization value without sending it, and
/// encrypts the first parameter both ways.
pub struct HmacSession(pub(super) Session);

impl HmacSession {
    /// Starts a session that is keyed by the authorization values used in it alone: one command, no
    /// public-key operation in the chip. Protects and encrypts as well as that value is secret.
    pub fn unsalted(link: &mut dyn Transport, call: &Call) -> Result<Self, Fault> {
        Session::start(link, SESSION_HMAC, None, true, None, call).map(Self)
    }

    /// Starts a session keyed by a secret that only the TPM with this storage root key can read.
    pub fn salted(link: &mut dyn Transport, root: &Pinned, call: &Call) -> Result<Self, Fault> {
        Session::start(link, SESSION_HMAC, Some(root), true, None, call).map(Self)
    }

    /// Its handle in the TPM.
    pub fn handle(&self) -> u32 {
        self.0.handle
    }

    /// Whether the TPM still has it: a command that was marked as its last ends it.
    pub fn has_ended(&self) -> bool {
        self.0.ended
    }

    /// Flushes it, unless its last command did already.
    pub fn end(self, link: &mut dyn Transport, call: &Call) -> Result<(), Fault> {
        if self.0.ended {
            return Ok(());
        }
        execute(link, &FlushContext { handle: self.0.handle }, &mut [], call)
    }
}

/// A policy session: collects what was proven, until the TPM accepts it as an object's policy.
pub struct PolicySession(pub(super) Session);

impl PolicySession {
    /// Starts a session whose policy has no secret in its HMAC.
    pub fn unsalted(link: &mut dyn Transport, call: &Call) -> Result<Self, Fault> {
        Session::start(link, SESSION_POLICY, None, false, None, call).map(Self)
    }

    /// The same, begun through the HMAC session that a PIN goes through next, which so proves itself: if
    /// one bit of the answer that began it was wrong, so is every HMAC that is made with it, and a PIN
    /// sent with one would count as wrong.
    pub(super) fn proving(
        link: &mut dyn Transport,
        guard: &mut HmacSession,
        call: &Call,
    ) -> Result<Self, Fault> {
        Session::start(link, SESSION_POLICY, None, false, Some(guard), call).map(Self)
    }

    /// Starts a session for PolicyAuthValue: its HMAC is keyed by the salt and the authorization value,
    /// so that what is seen on the bus gives nothing to guess a PIN with.
    pub fn salted(link: &mut dyn Transport, root: &Pinned, call: &Call) -> Result<Self, Fault> {
        Session::start(link, SESSION_POLICY, Some(root), true, None, call).map(Self)
    }

    /// Starts a session for PolicyAuthValue that is keyed by the authorization value alone, which is no
    /// PIN but random.
    pub(super) fn keyed(link: &mut dyn Transport, call: &Call) -> Result<Self, Fault> {
        Session::start(link, SESSION_POLICY, None, true, None, call).map(Self)
    }

    /// Its handle in the TPM.
    pub fn handle(&self) -> u32 {
        self.0.handle
    }

    /// It as a command's handle: a session's Name is its handle.
    pub fn entity(&self) -> Entity {
        Entity::permanent(self.0.handle)
    }

    /// The TPM's newest nonce in it, for TPM2_PolicySecret.
    pub fn nonce_tpm(&self) -> &[u8] {
        &self.0.nonce_tpm
    }

    /// TPM2_PolicyCommandCode
    pub fn command_code(
        &self,
        code: u32,
        link: &mut dyn Transport,
        call: &Call,
    ) -> Result<(), Fault> {
        execute(link, &PolicyCommandCode { session: &self.entity(), code }, &mut [], call)
    }

    /// TPM2_PolicyAuthValue
    pub fn auth_value(&self, link: &mut dyn Transport, call: &Call) -> Result<(), Fault> {
        execute(link, &PolicyAuthValue { session: &self.entity() }, &mut [], call)
    }

    /// TPM2_PolicyOR
    pub fn or(
        &self,
        branches: &[[u8; 32]],
        link: &mut dyn Transport,
        call: &Call,
    ) -> Result<(), Fault> {
        execute(link, &PolicyOr { session: &self.entity(), branches }, &mut [], call)
    }

    /// Whether the TPM still has it.
    pub fn has_ended(&self) -> bool {
        self.0.ended
    }

    /// Flushes it, unless its last command did already.
    pub fn end(self, link: &mut dyn Transport, call: &Call) -> Result<(), Fault> {
        if self.0.ended {
            return Ok(());
        }
        execute(link, &FlushContext { handle: self.0.handle }, &mut [], call)
    }
}

impl From<&Pinned> for Entity {
    fn from(root: &Pinned) -> Self {
        Entity { handle: root.handle(), name: Name::clone(root.name()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    // Expected values from Python's hmac and hashlib.

    #[test]
    fn kdfa_is_sp_800_108_in_counter_mode() {
        let key: Vec<u8> = (0..32).collect();
        let out = kdfa(SHA256, &key, "ATH", &[0x11; 16], &[0x22; 16], 32);
        assert_eq!(hex(&out), "b93102ad8d3b1dd43bce22e7dee81abcf358306ce73947449b4f21bca783af41");
        let out = kdfa(SHA256, &[], "CFB", &[0x11; 16], &[0x22; 16], 48);
        assert_eq!(
            hex(&out),
            "471594aa8eaa05f95ad5521a7725e1772b5f7488878992d60b1fda2fa1328957\
             fd10958ea68bcbd319f36324270e5122"
        );
    }

    #[test]
    fn kdfe_is_the_concatenation_kdf_with_the_keys_own_hash() {
        let out = kdfe(HashAlgorithm::Sha256, &[5; 32], "SECRET", &[6; 32], &[7; 32]);
        assert_eq!(hex(&out), "4e39d50c118cef341d33c737aa61fa1decae416bd1c996fa3d204b73702b4848");
        let out = kdfe(HashAlgorithm::Sha384, &[5; 48], "SECRET", &[6; 48], &[7; 48]);
        assert_eq!(
            hex(&out),
            "e2b9f853da905fbf22794a1eca3ddbb05e40d01549943a05\
             54fa594acfe8e40a93fa444f2497ebf660c0d733f68b8ec3"
        );
    }

    /// RFC 4231, cases 1, 2 and 6 (a key longer than the block).
    #[test]
    fn hmac_is_hmac() {
        assert_eq!(
            hex(&*Keyed::new(&[0x0b; 20]).mac(&[b"Hi ", b"There"])),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        assert_eq!(
            hex(&*Keyed::new(b"Jefe").mac(&[b"what do ya want ", b"for nothing?"])),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(&*Keyed::new(&[0xaa; 131])
                .mac(&[b"Test Using Larger Than Block-Size Key - Hash Key First"])),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn zero_bytes_are_cut_at_the_end_only() {
        assert_eq!(trimmed(&[0, 1, 0, 2, 0, 0]), [0, 1, 0, 2]);
        assert_eq!(trimmed(&[0, 0]), [0u8; 0]);
        assert_eq!(trimmed(&[]), [0u8; 0]);
    }
}
