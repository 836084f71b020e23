//! What the token secret does for the rows: authenticates all of them, encrypts the private ones,
//! hides their values in the search index, and signs which objects there are.
//!
//! Keys: HKDF-SHA256 of the token secret, the token's serial number as salt, one label each.
//!
//! A row's *tag* is an HMAC over everything that stands in the row and over the token's serial
//! number, so that no byte can change and no row can move to another object, version or token.
//!
//! The *set digest* says which rows there are. It is a sum of one HMAC per row, over uuid, version
//! and tag, modulo 2^256: adding, replacing and removing a row each cost two or one of them, whatever
//! the number of objects. Sums leak their terms to whoever sees two states of the file, so the sum
//! means something only under the MAC over sum, count and generation. There are 64 sums, by the
//! uuid's first six bits, so that a difference names about one object in 64.
//!
//! What no secret in the host can show is a file that was set back as a whole: it is a state that
//! the owner once wrote.

use std::fmt;
use std::ops::Deref;

use aes_gcm::aead::{AeadInPlace, KeyInit};
use aes_gcm::{Aes256Gcm, Key, Nonce, Tag};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use rand_core::{OsRng, RngCore};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::rows::{self, Unchecked};
use super::{Fault, Row};
use crate::crypto::secret::Secret;

type HmacSha256 = Hmac<Sha256>;

/// Bytes of an AES-GCM nonce, drawn at random: good for 2^32 rows under one key.
const NONCE: usize = 12;
/// Bytes of an AES-GCM tag.
const GCM_TAG: usize = 16;
/// Bytes of a private value's hash in the search index.
const HIDDEN: usize = 16;
/// The longest public value that stands in the search index itself; of longer ones, the hash does.
const LONGEST_PLAIN: usize = 64;

/// Which of the derived keys.
#[derive(Clone, Copy)]
enum Use {
    Row = 0,
    Private = 1,
    Search = 2,
    Set = 3,
    Object = 4,
}

const LABELS: [&[u8]; 5] = [
    b"tpm11 1 row authentication",
    b"tpm11 1 private rows",
    b"tpm11 1 search index",
    b"tpm11 1 set of objects",
    b"tpm11 1 object authorization",
];

/// The keys that hang on a token secret. Made at login, dropped at logout.
///
/// No `Debug`, wiped when dropped.
pub struct Sealer {
    serial: [u8; 16],
    keys: Secret,
}

impl Sealer {
    /// Derives all keys from the token secret.
    #[expect(clippy::unreachable, reason = "HKDF refuses more than 255 blocks, RFC 5869 §2.3")]
    pub fn new(token_secret: &[u8; 32], serial: &[u8; 16]) -> Sealer {
        let hkdf = Hkdf::<Sha256>::new(Some(serial), token_secret);
        let keys = Secret::fill(32 * LABELS.len(), |keys| {
            // 32 bytes are far below what HKDF can expand to, so this cannot be refused.
            keys.chunks_exact_mut(32)
                .zip(LABELS)
                .try_for_each(|(key, label)| hkdf.expand(label, key))
        });
        match keys {
            Ok(keys) => Sealer { serial: *serial, keys },
            Err(_) => unreachable!("HKDF refused to make 32 bytes"),
        }
    }

    /// For a forked child that keeps it: locks of memory are not inherited.
    pub fn in_child(&self) {
        self.keys.lock();
    }

    /// The TPM authorization of the object with this uuid.
    pub fn authorization(&self, uuid: &[u8; 16]) -> Zeroizing<[u8; 32]> {
        let mut mac = self.mac(Use::Object);
        mac.update(uuid);
        Zeroizing::new(mac.finalize().into_bytes().into())
    }

    /// The serial number of the token whose rows this sealer opens.
    pub fn serial(&self) -> &[u8; 16] {
        &self.serial
    }

    #[expect(clippy::indexing_slicing, reason = "32 bytes were derived for each use")]
    fn key(&self, which: Use) -> &[u8] {
        let at = which as usize * 32;
        &self.keys.expose()[at..at + 32]
    }

    #[expect(clippy::unreachable, reason = "HMAC takes keys of any length, RFC 2104 §2")]
    fn mac(&self, which: Use) -> HmacSha256 {
        match <HmacSha256 as Mac>::new_from_slice(self.key(which)) {
            Ok(mac) => mac,
            Err(_) => unreachable!("HMAC takes keys of any length"),
        }
    }

    fn row_mac(&self, row: &Unchecked) -> HmacSha256 {
        let mut mac = self.mac(Use::Row);
        mac.update(&self.bound(row));
        for part in [&row.name, &row.content] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }

    /// The MAC over a whole row, as it stands in the file.
    pub(super) fn tag(&self, row: &Unchecked) -> [u8; 32] {
        self.row_mac(row).finalize().into_bytes().into()
    }

    /// What a row is bound to: token, object, version, class and whether it is private.
    fn bound(&self, row: &Unchecked) -> [u8; 49] {
        let mut bound = [0; 49];
        bound[..16].copy_from_slice(&self.serial);
        bound[16..32].copy_from_slice(&row.uuid);
        bound[32..40].copy_from_slice(&row.version.to_be_bytes());
        bound[40..48].copy_from_slice(&row.class.to_be_bytes());
        bound[48] = row.private.into();
        bound
    }

    /// Encrypts the content of a private row; `row` says what it is bound to.
    pub(super) fn encrypt(&self, row: &Unchecked, plain: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut sealed = Vec::with_capacity(NONCE + plain.len() + GCM_TAG);
        sealed.resize(NONCE, 0);
        OsRng
            .try_fill_bytes(&mut sealed)
            .map_err(|_| Fault::Damaged("the system gives no random bytes".to_owned()))?;
        sealed.extend_from_slice(plain);
        let (nonce, content) = sealed.split_at_mut(NONCE);
        let tag = self
            .aead()
            .encrypt_in_place_detached(Nonce::from_slice(nonce), &self.bound(row), content)
            .map_err(|_| Fault::Bug("a row too long to encrypt"))?;
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    fn decrypt(&self, row: &Unchecked) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, rest) = row.content.split_at_checked(NONCE)?;
        let (content, tag) = rest.split_at_checked(rest.len().checked_sub(GCM_TAG)?)?;
        let mut plain = Zeroizing::new(content.to_vec());
        self.aead()
            .decrypt_in_place_detached(
                Nonce::from_slice(nonce),
                &self.bound(row),
                &mut plain,
                Tag::from_slice(tag),
            )
            .ok()?;
        Some(plain)
    }

    fn aead(&self) -> Aes256Gcm {
        Aes256Gcm::new(Key::<Aes256Gcm>::from_slice(self.key(Use::Private)))
    }

    /// What stands in the search index for an attribute of a private object. Equal values of equal
    /// type look equal to whoever reads the file; which value it is cannot be tried.
    pub(super) fn hidden(&self, kind: u64, value: &[u8]) -> Vec<u8> {
        let mut mac = self.mac(Use::Search);
        mac.update(&kind.to_be_bytes());
        mac.update(value);
        mac.finalize().into_bytes().into_iter().take(HIDDEN).collect()
    }

    /// Says which rows belong to a set.
    pub(super) fn set_keeper(&self) -> SetKeeper {
        SetKeeper { mac: self.mac(Use::Set), serial: self.serial }
    }
}

/// What stands in the search index for an attribute of a public object. Hits are compared with the
/// row, so it need not be unique.
pub(super) fn plain(value: &[u8]) -> Vec<u8> {
    if value.len() <= LONGEST_PLAIN { value.to_vec() } else { Sha256::digest(value).to_vec() }
}

/// Something that the token's owner is proven to have written. Only [`check`] makes one.
#[derive(Clone)]
pub struct Checked<T> {
    content: T,
}

impl<T> Checked<T> {
    /// The content, for good.
    pub fn into_inner(self) -> T {
        self.content
    }
}

impl<T> Deref for Checked<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.content
    }
}

/// Proves that the token's owner wrote this row, in this token, under this uuid and version, and
/// decrypts it if it is private.
///
/// # Errors
/// [`Fault::BadRow`].
pub fn check(row: Unchecked, sealer: &Sealer) -> Result<Checked<Row>, Fault> {
    if sealer.row_mac(&row).verify_slice(&row.tag).is_err() {
        return Err(Fault::BadRow { uuid: row.uuid, why: "it does not have the owner's MAC" });
    }
    let content = if row.private {
        let plain = sealer.decrypt(&row);
        let why = "it cannot be decrypted";
        rows::decode(&row, &plain.ok_or(Fault::BadRow { uuid: row.uuid, why })?)?
    } else {
        rows::decode(&row, &row.content)?
    };
    Ok(Checked { content })
}

/// What [`super::Store::verify_set`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// How many objects there should be.
    pub expected: u64,
    /// How many there are.
    pub found: u64,
    /// Whether exactly the objects are there that the owner stored, each in its last version. (The
    /// content of each is proven when it is read.)
    pub intact: bool,
    /// If not intact: the objects that the owner did not write so. They are not used.
    pub bad: Vec<[u8; 16]>,
    /// If not intact: the owner wrote these, but one of them is too old, or one like them is gone.
    pub suspects: Vec<[u8; 16]>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected, found, intact: _, bad, suspects } = self;
        let (bad, suspects) = (list(bad), list(suspects));
        write!(
            f,
            "{found} of {expected} found, not the owner's: {bad}, of doubtful age or company: {suspects}"
        )
    }
}

fn list(uuids: &[[u8; 16]]) -> String {
    match uuids {
        [] => "none".to_owned(),
        some => some
            .iter()
            .map(|uuid| uuid.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
            .collect::<Vec<_>>()
            .join(" "),
    }
}

/// How many sums a digest has, by the first bits of the uuid.
const SUMS: usize = 64;

/// The set of a token's objects, in constant size.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) objects: u64,
    pub(super) generation: u64,
    sums: [[u8; 32]; SUMS],
}

impl Set {
    pub(super) const EMPTY: Set = Set { objects: 0, generation: 0, sums: [[0; 32]; SUMS] };

    /// The sums as the file keeps them.
    pub(super) fn digest(&self) -> Vec<u8> {
        self.sums.concat()
    }

    /// From what the file says; `None` if that is no digest.
    pub(super) fn from_parts(objects: u64, generation: u64, digest: &[u8]) -> Option<Set> {
        let mut set = Set { objects, generation, ..Set::EMPTY };
        if digest.len() != SUMS * 32 {
            return None;
        }
        for (sum, bytes) in set.sums.iter_mut().zip(digest.chunks_exact(32)) {
            sum.copy_from_slice(bytes);
        }
        Some(set)
    }

    /// Whether the sums that this object has a part in differ.
    pub(super) fn differs_at(&self, other: &Set, uuid: &[u8; 16]) -> bool {
        self.sum(uuid) != other.sum(uuid)
    }

    #[expect(clippy::indexing_slicing, reason = "six bits, and as many sums as they count")]
    fn sum(&self, uuid: &[u8; 16]) -> &[u8; 32] {
        &self.sums[usize::from(uuid[0] >> 2)]
    }

    #[expect(clippy::indexing_slicing, reason = "six bits, and as many sums as they count")]
    fn sum_mut(&mut self, uuid: &[u8; 16]) -> &mut [u8; 32] {
        &mut self.sums[usize::from(uuid[0] >> 2)]
    }
}

/// Adds rows to sets and takes them out.
pub(super) struct SetKeeper {
    mac: HmacSha256,
    serial: [u8; 16],
}

impl SetKeeper {
    /// 52 bytes: with padding one block of SHA-256, so that a row costs two compressions.
    fn term(&self, uuid: &[u8; 16], version: u32, tag: &[u8; 32]) -> [u8; 32] {
        let mut mac = self.mac.clone();
        mac.update(uuid);
        mac.update(&version.to_be_bytes());
        mac.update(tag);
        mac.finalize().into_bytes().into()
    }

    pub(super) fn add(&self, set: &mut Set, uuid: &[u8; 16], version: u32, tag: &[u8; 32]) {
        let term = self.term(uuid, version, tag);
        let mut carry = 0;
        for (sum, term) in set.sum_mut(uuid).iter_mut().rev().zip(term.iter().rev()) {
            let total = u16::from(*sum) + u16::from(*term) + carry;
            *sum = total as u8;
            carry = total >> 8;
        }
        set.objects = set.objects.wrapping_add(1);
    }

    pub(super) fn remove(&self, set: &mut Set, uuid: &[u8; 16], version: u32, tag: &[u8; 32]) {
        let term = self.term(uuid, version, tag);
        let mut borrow = 0;
        for (sum, term) in set.sum_mut(uuid).iter_mut().rev().zip(term.iter().rev()) {
            let total = 0x100 + u16::from(*sum) - u16::from(*term) - borrow;
            *sum = total as u8;
            borrow = 1 - (total >> 8);
        }
        set.objects = set.objects.wrapping_sub(1);
    }

    fn set_mac(&self, set: &Set) -> HmacSha256 {
        let mut mac = self.mac.clone();
        mac.update(&self.serial);
        mac.update(&set.objects.to_be_bytes());
        mac.update(&set.generation.to_be_bytes());
        set.sums.iter().for_each(|sum| mac.update(sum));
        mac
    }

    /// The MAC that makes a set the owner's.
    pub(super) fn sign(&self, set: &Set) -> [u8; 32] {
        self.set_mac(set).finalize().into_bytes().into()
    }

    pub(super) fn is_signed(&self, set: &Set, mac: &[u8]) -> bool {
        self.set_mac(set).verify_slice(mac).is_ok()
    }
}
