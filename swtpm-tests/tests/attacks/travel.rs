//! Group D, D20: what arrives by CKM_TPM11_DUPLICATE and was made or changed by somebody else. Whoever has
//! the public part of a storage key can make a duplicate of a key that he knows, the secret and the attributes
//! that go with it among it: all of it is done here without the module.

use cryptoki_sys::*;
use swtpm_tests::Attribute;
use swtpm_tests::bench::STORAGE_KEY;
use swtpm_tests::ck::{P256, bytes, flag, number};
use swtpm_tests::drive::{CKA_TPM11_STORAGE_KEY, CKM_TPM11_DUPLICATE};
use swtpm_tests::openssl;

use super::attacker::{Attacker, KNOWN, Key, Step, Verdict};
use super::wrapping::none_is_taken;
use super::{Case, cases};

pub static CASES: &[Case] = cases![
    d20_a_known_key_that_wraps
    d20_a_known_key_with_a_history
    d20_a_key_that_is_readable_when_it_comes
    d20_attributes_that_were_changed
    d20_attributes_that_another_secret_seals
    d20_attributes_of_another_key
    d20_a_key_under_lighter_rules_of_the_tpm
    d20_a_key_for_another_storage_key
    d20_a_key_that_was_changed
    d20_halves_that_do_not_belong_together
];

// ---- the format -----------------------------------------------------------------------------------

/// What a blob is made of.
#[derive(Debug, Clone)]
struct Blob {
    /// TPMT_PUBLIC, the duplicate and its seed, the secret for both sides and its seed.
    parts: [Vec<u8>; 5],
    /// The attributes under the secret.
    sealed: Vec<u8>,
}

const PUBLIC: usize = 0;
const PRIVATE: usize = 1;
const SEED: usize = 2;
const CREDENTIAL: usize = 3;
const CREDENTIAL_SEED: usize = 4;

fn sized(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u16).to_be_bytes()[..], content].concat()
}

impl Blob {
    fn read(blob: &[u8]) -> Blob {
        let length = u32::from_be_bytes(blob[8..12].try_into().expect("four")) as usize;
        let mut parcel = &blob[13..12 + length];
        let parts = [(); 5].map(|()| {
            let length = usize::from(u16::from_be_bytes([parcel[0], parcel[1]]));
            let part = parcel[2..2 + length].to_vec();
            parcel = &parcel[2 + length..];
            part
        });
        assert!(parcel.is_empty());
        Blob { parts, sealed: blob[12 + length..].to_vec() }
    }

    /// All but the attributes, which authenticate it.
    fn open(&self) -> Vec<u8> {
        let parts = self.parts.iter().flat_map(|part| sized(part));
        let parcel: Vec<u8> = std::iter::once(1).chain(parts).collect();
        [&b"TPM11KM1"[..], &(parcel.len() as u32).to_be_bytes(), &parcel].concat()
    }

    fn write(&self) -> Vec<u8> {
        [self.open(), self.sealed.clone()].concat()
    }

    /// Seals attributes under a secret, last of all.
    fn seal(&mut self, secret: &[u8], attributes: &[Attribute]) {
        let mut plain = Vec::new();
        for Attribute { kind, value, .. } in attributes {
            plain.extend(kind.to_be_bytes());
            plain.extend((value.len() as u64).to_be_bytes());
            // Numbers are big-endian here.
            match value.as_slice().try_into().map(u64::from_ne_bytes) {
                Ok(number) => plain.extend(number.to_be_bytes()),
                Err(_) => plain.extend(value),
            }
        }
        let prk = openssl::hmac("sha256", &[0; 32], secret);
        let key = openssl::hkdf_expand("sha256", &prk, b"tpm11 1 attributes of a moved key", 32);
        let sealed = openssl::aead("GCM", true, &key, &[0; 12], &self.open(), 16, &plain);
        self.sealed = sealed.expect("OpenSSL encrypts");
    }
}

// ---- the TPM's arithmetic, TPM 2.0 Part 1 §11.4.10, §23, §24 --------------------------------------

fn kdfa(key: &[u8], label: &str, name: &[u8], length: usize) -> Vec<u8> {
    let bits = (8 * length as u32).to_be_bytes();
    let message = [&1u32.to_be_bytes()[..], label.as_bytes(), &[0], name, &bits].concat();
    openssl::hmac("sha256", key, &message)[..length].to_vec()
}

/// A secret shared with the storage key, and what tells it.
fn shared(area: &[u8], label: &str) -> (Vec<u8>, Vec<u8>) {
    let own = openssl::Key::generate("EC", &["ec_paramgen_curve:P-256"]);
    let mut info = own.info();
    let start = info.len() - 64;
    let (own_x, own_y) = (info[start..start + 32].to_vec(), info[start + 32..].to_vec());
    let (x, y) = (&area[area.len() - 66..area.len() - 34], &area[area.len() - 32..]);
    info[start..].copy_from_slice(&[x, y].concat());
    let theirs = openssl::Key::from_info(&info).expect("a point of P-256");
    let z = own.agree(&theirs).expect("they agree");
    let message = [&1u32.to_be_bytes()[..], &z, label.as_bytes(), &[0], &own_x, x].concat();
    (openssl::digest("sha256", &message), [sized(&own_x), sized(&own_y)].concat())
}

fn name_of(public: &[u8]) -> Vec<u8> {
    [&[0, 0x0B][..], &openssl::digest("sha256", public)].concat()
}

/// An outer wrapper of this storage key's TPM around something, for the object with this Name.
fn outer(area: &[u8], label: &str, name: &[u8], content: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (seed, told) = shared(area, label);
    let key = kdfa(&seed, "STORAGE", name, 16);
    let hidden = openssl::aes("CFB", true, false, &key, &[0; 16], &sized(content));
    let hidden = hidden.expect("OpenSSL encrypts");
    let key = kdfa(&seed, "INTEGRITY", &[], 32);
    let mac = openssl::hmac("sha256", &key, &[&hidden[..], name].concat());
    ([sized(&mac), hidden].concat(), told)
}

const SECRET: [u8; 32] = *b"a secret that the attacker chose";

/// A key that the attacker made: its public area, what kind of key its sensitive area is of, and its value.
struct Forgery {
    public: Vec<u8>,
    kind: u16,
    seed: Vec<u8>,
    value: Vec<u8>,
}

impl Forgery {
    /// An AES key of this value, with the public area of a key that the token made.
    fn aes(like: &Blob, value: &[u8]) -> Forgery {
        let mut public = like.parts[PUBLIC].clone();
        let seed = vec![0x5E; 32];
        let unique = openssl::digest("sha256", &[&seed[..], value].concat());
        let length = public.len();
        public[length - 32..].copy_from_slice(&unique);
        // Nobody says that a TPM drew it.
        public[7] &= !(1 << 5);
        Forgery { public, kind: 0x25, seed, value: value.to_vec() }
    }

    /// For the TPM with this storage key.
    fn blob(&self, area: &[u8], attributes: &[Attribute]) -> Blob {
        let sensitive = [
            &self.kind.to_be_bytes()[..],
            &sized(&SECRET),
            &sized(&self.seed),
            &sized(&self.value),
        ];
        let name = name_of(&self.public);
        let (private, seed) = outer(area, "DUPLICATE", &name, &sensitive.concat());
        let (credential, credential_seed) = credential(area, &SECRET);
        let parts = [self.public.clone(), private, seed, credential, credential_seed];
        let mut blob = Blob { parts, sealed: Vec::new() };
        blob.seal(&SECRET, attributes);
        blob
    }
}

/// The secret for both sides, as TPM2_ActivateCredential takes it.
fn credential(area: &[u8], secret: &[u8]) -> (Vec<u8>, Vec<u8>) {
    outer(area, "IDENTITY", &name_of(area), secret)
}

// ---- at the token ---------------------------------------------------------------------------------

/// The token's own storage key, which the SO trusts: the object, and its public area.
fn storage_key(at: &Attacker) -> Step<(Key, Vec<u8>)> {
    let key = Key::named(CKO_PUBLIC_KEY, STORAGE_KEY);
    let area = at.get(&key, CKA_TPM11_STORAGE_KEY)?;
    Ok((key, area))
}

/// A key of the token's own on its way.
fn sent(at: &Attacker, key: &Key) -> Step<Blob> {
    let (by, _) = storage_key(at)?;
    Ok(Blob::read(&at.wrap(CKM_TPM11_DUPLICATE, &by, key)?))
}

/// C_UnwrapKey, which nothing but the TPM itself does.
fn received(at: &Attacker, blob: &Blob, more: &[Attribute]) -> Step<Key> {
    at.unwrap_raw(CKM_TPM11_DUPLICATE, &blob.write(), CKO_SECRET_KEY, more)
}

/// The attributes of an AES key of 16 bytes, and these letters.
fn described(given: &str) -> Vec<Attribute> {
    let mut attributes = vec![
        number(CKA_CLASS, CKO_SECRET_KEY),
        number(CKA_KEY_TYPE, CKK_AES),
        number(CKA_VALUE_LEN, 16),
    ];
    attributes.extend(super::attacker::letters(given, "wuedDxT").into_iter().filter(on));
    attributes
}

fn on(attribute: &Attribute) -> bool {
    attribute.value == [1]
}

/// A key that the attacker knows, and the blob with it.
fn known(at: &Attacker, attributes: &[Attribute]) -> Step<Blob> {
    let (_, area) = storage_key(at)?;
    let like = sent(at, &at.target()?)?;
    Ok(Forgery::aes(&like, &KNOWN).blob(&area, attributes))
}

fn d20_a_known_key_that_wraps(at: &Attacker) -> Verdict {
    let target = at.target()?;
    let blob = known(at, &described("wx"))?;
    let mut last = Ok(false);
    for asked in
        [&[][..], &[flag(CKA_WRAP, true)], &[flag(CKA_WRAP, true), flag(CKA_DECRYPT, false)]]
    {
        let known = received(at, &blob, asked)?;
        match at.wrap_by(&known, &target) {
            Ok(blob) => return at.is_value(&target, &blob.opened(&KNOWN)?),
            Err(stop) => last = Err(stop),
        }
    }
    last
}

fn d20_a_known_key_with_a_history(at: &Attacker) -> Verdict {
    let history =
        [CKA_LOCAL, CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE, CKA_TRUSTED, CKA_WRAP, CKA_UNWRAP];
    let claimed = history.map(|kind| flag(kind, true));
    let blob = known(at, &[described("e"), claimed.to_vec()].concat())?;
    let key = received(at, &blob, &[])?;
    // It is the attacker's, as anybody may bring one, and no more.
    assert_eq!(at.is_value(&key, &KNOWN), Ok(true));
    for kind in history {
        if at.is(&key, kind)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn d20_a_key_that_is_readable_when_it_comes(at: &Attacker) -> Verdict {
    let target = at.target()?;
    let blob = sent(at, &target)?;
    let open = [flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true)];
    let mut last = Ok(false);
    for asked in [&open[..], &open[..1], &open[1..]] {
        let read = received(at, &blob, asked).and_then(|key| at.get(&key, CKA_VALUE));
        match read {
            Ok(value) => return at.is_value(&target, &value),
            Err(stop) => last = Err(stop),
        }
    }
    last
}

/// A key for GCM alone, on its way.
fn limited(at: &Attacker) -> Step<Blob> {
    let only = [number(CKA_ALLOWED_MECHANISMS, CKM_AES_GCM)];
    sent(at, &at.generate(CKM_AES_KEY_GEN, 16, "sxe", &only)?)
}

/// Whether what arrives does what its owner did not allow.
fn unlimited(at: &Attacker, blob: &Blob) -> Verdict {
    let key = received(at, blob, &[flag(CKA_ENCRYPT, true)])?;
    at.encrypt(CKM_AES_ECB, &key, &[0; 16]).map(|_| true)
}

fn d20_attributes_that_were_changed(at: &Attacker) -> Verdict {
    let blob = limited(at)?;
    let changed = (0..blob.sealed.len()).step_by(9).map(|place| {
        let mut changed = blob.clone();
        changed.sealed[place] ^= 1;
        received(at, &changed, &[])
    });
    let cut = [0, 16, blob.sealed.len() - 1].map(|length| {
        let mut cut = blob.clone();
        cut.sealed.truncate(length);
        received(at, &cut, &[])
    });
    none_is_taken(changed.chain(cut))
}

/// The attacker's own secret, with attributes of his choice under it, beside the owner's key.
fn d20_attributes_that_another_secret_seals(at: &Attacker) -> Verdict {
    let (_, area) = storage_key(at)?;
    let mut blob = limited(at)?;
    (blob.parts[CREDENTIAL], blob.parts[CREDENTIAL_SEED]) = credential(&area, &SECRET);
    blob.seal(&SECRET, &described("e"));
    unlimited(at, &blob)
}

fn d20_attributes_of_another_key(at: &Attacker) -> Verdict {
    let (limited, free) = (limited(at)?, sent(at, &at.target()?)?);
    let mut mixed = free.clone();
    for part in [PUBLIC, PRIVATE, SEED] {
        mixed.parts[part] = limited.parts[part].clone();
    }
    let mut other = limited.clone();
    other.sealed = free.sealed.clone();
    none_is_taken([mixed, other].map(|blob| unlimited(at, &blob)))
}

/// TPMA_OBJECT, the policy for duplication, the parameters: of a forged key, where all the rest is as it should
/// be. A key with another authorization or policy than ours would obey others than us.
fn d20_a_key_under_lighter_rules_of_the_tpm(at: &Attacker) -> Verdict {
    let (_, area) = storage_key(at)?;
    let like = sent(at, &at.target()?)?;
    let as_it_is = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut forged = Forgery::aes(&like, &KNOWN);
        change(&mut forged.public);
        received(at, &forged.blob(&area, &described("e")), &[])
    };
    as_it_is(&|_| ())?;
    let flags = (0..32).filter(|bit| *bit != 5).map(|bit| {
        as_it_is(&move |public| {
            let at = 7 - bit / 8;
            public[at] ^= 1 << (bit % 8);
        })
    });
    let policies = [
        as_it_is(&|public| public[12] ^= 1),
        as_it_is(&|public| {
            public.drain(10..42);
            public[9] = 0;
        }),
        // Another hash for its Name; another mode than "whatever is asked".
        as_it_is(&|public| public[3] = 0x0C),
        as_it_is(&|public| {
            let mode = public.len() - 35;
            public[mode] = 0x42;
        }),
    ];
    none_is_taken(flags.chain(policies))
}

/// A blob for a storage key in software, whole; and one for the token's with another's outer wrapper.
fn d20_a_key_for_another_storage_key(at: &Attacker) -> Verdict {
    let (_, area) = storage_key(at)?;
    let like = sent(at, &at.target()?)?;
    let forged = Forgery::aes(&like, &KNOWN);
    let mut other = area.clone();
    let point = openssl::Key::generate("EC", &["ec_paramgen_curve:P-256"]).info();
    let (place, end) = (area.len() - 66, point.len());
    other[place..place + 32].copy_from_slice(&point[end - 64..end - 32]);
    other[place + 34..].copy_from_slice(&point[end - 32..]);
    let mut elsewhere = forged.blob(&other, &described("e"));
    let whole = elsewhere.clone();
    let own = forged.blob(&area, &described("e"));
    for part in [CREDENTIAL, CREDENTIAL_SEED] {
        elsewhere.parts[part] = own.parts[part].clone();
    }
    elsewhere.seal(&SECRET, &described("e"));
    let mut swapped = own.clone();
    swapped.parts.swap(SEED, CREDENTIAL_SEED);
    swapped.seal(&SECRET, &described("e"));
    received(at, &own, &[])?;
    none_is_taken([whole, elsewhere, swapped].map(|blob| received(at, &blob, &[])))
}

/// Every part, sealed again by who knows the secret.
fn d20_a_key_that_was_changed(at: &Attacker) -> Verdict {
    let blob = known(at, &described("e"))?;
    let changed = (PRIVATE..=CREDENTIAL_SEED).flat_map(|part| {
        let blob = &blob;
        (0..blob.parts[part].len()).step_by(11).map(move |place| {
            let mut changed = blob.clone();
            changed.parts[part][place] ^= 0x10;
            changed.seal(&SECRET, &described("e"));
            received(at, &changed, &[])
        })
    });
    none_is_taken(changed)
}

fn d20_halves_that_do_not_belong_together(at: &Attacker) -> Verdict {
    let (_, area) = storage_key(at)?;
    let like = sent(at, &at.target()?)?;
    let aes = |change: &dyn Fn(&mut Forgery), attributes: &[Attribute]| {
        let mut forged = Forgery::aes(&like, &KNOWN);
        change(&mut forged);
        received(at, &forged.blob(&area, attributes), &[])
    };
    let own = described("e");
    let with = |kind, value| {
        let mut changed = own.clone();
        changed.retain(|attribute| attribute.kind != kind);
        changed.push(number(kind, value));
        changed
    };
    let (_, private) = at.ec("sxS", &[])?;
    let theirs = sent(at, &private)?;
    let ec = |value: &[u8]| {
        let (public, value) = (theirs.parts[PUBLIC].clone(), value.to_vec());
        let forged = Forgery { public, kind: 0x23, seed: Vec::new(), value };
        let attributes = [
            number(CKA_CLASS, CKO_PRIVATE_KEY),
            number(CKA_KEY_TYPE, CKK_EC),
            bytes(CKA_EC_PARAMS, P256),
            flag(CKA_SIGN, true),
        ];
        received(at, &forged.blob(&area, &attributes), &[])
    };
    none_is_taken([
        aes(&|forged| forged.value = b"another key of16".to_vec(), &own),
        aes(&|forged| forged.value = KNOWN[..15].to_vec(), &own),
        aes(&|forged| forged.value = [KNOWN, KNOWN].concat(), &own),
        aes(&|forged| forged.kind = 0x08, &own),
        // Attributes of another key than the TPM has.
        aes(&|_| (), &with(CKA_VALUE_LEN, 32)),
        aes(&|_| (), &with(CKA_KEY_TYPE, CKK_GENERIC_SECRET)),
        aes(&|_| (), &with(CKA_KEY_TYPE, CKK_RSA)),
        aes(&|_| (), &with(CKA_CLASS, CKO_PRIVATE_KEY)),
        ec(&[7; 32]),
        ec(&[0; 32]),
        ec(&[0xFF; 32]),
    ])
}
