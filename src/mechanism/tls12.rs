//! The key schedule of TLS 1.2: the master secret, the keys, MACs and IVs of a connection, key material for
//! exporters (RFC 5705), and the MAC of the "finished" messages. All are one function of HMACs (RFC 5246
//! §5) under the base key, which the TPM computes. PKCS#11 3.2 §6.40.
//!
//! The bytes of a connection's keys and IVs stand side by side, so that who asks for other lengths gets
//! bytes of a key as an IV. Therefore a base key that is not readable has to name what could tell them
//! (P11), and CKM_TLS12_KEY_SAFE_DERIVE makes no IVs.

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::mac::{self, Mac};
use super::params::{KeyBlock, TlsMac};
use super::prf::Prf;
use super::{Allowed, Chip, Derive, Does, Keys, Mechanism, NOTHING, Params, Size, hmac, secret};
use crate::error::{Error, Result};
use crate::object::keyspec::Derives;
use crate::object::{Attributes, Object, Template};
use crate::tpm::command::{Command as _, Hmac};

/// A master secret, in bytes.
const MASTER: usize = 48;
/// The most that an exporter gives, in bytes: each block is two commands.
const MAX_EXPORTED: usize = 8 * 1024;

pub(super) static ROWS: &[Mechanism] = &[
    master(CKM_TLS12_MASTER_KEY_DERIVE, "CKM_TLS12_MASTER_KEY_DERIVE"),
    master(CKM_TLS12_MASTER_KEY_DERIVE_DH, "CKM_TLS12_MASTER_KEY_DERIVE_DH"),
    master(CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE, "CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE"),
    master(CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH, "CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH"),
    block(CKM_TLS12_KEY_AND_MAC_DERIVE, "CKM_TLS12_KEY_AND_MAC_DERIVE", Derives::Telling),
    block(CKM_TLS12_KEY_SAFE_DERIVE, "CKM_TLS12_KEY_SAFE_DERIVE", Derives::OneWay),
    exporter(CKM_TLS_KDF, "CKM_TLS_KDF"),
    exporter(CKM_TLS12_KDF, "CKM_TLS12_KDF"),
    mac(CKM_TLS_MAC, "CKM_TLS_MAC"),
    mac(CKM_TLS12_MAC, "CKM_TLS12_MAC"),
];

/// What a master secret is for, and whether that may tell of it.
static OF_A_MASTER: [Allowed; 6] = [
    Allowed { mechanism: CKM_TLS12_KEY_AND_MAC_DERIVE, tells: true },
    Allowed { mechanism: CKM_TLS12_KEY_SAFE_DERIVE, tells: false },
    Allowed { mechanism: CKM_TLS_KDF, tells: true },
    Allowed { mechanism: CKM_TLS12_KDF, tells: true },
    // Its labels are no other mechanism's.
    Allowed { mechanism: CKM_TLS_MAC, tells: false },
    Allowed { mechanism: CKM_TLS12_MAC, tells: false },
];

const fn row(id: u64, name: &'static str, size: Size, does: Does) -> Mechanism {
    let keys = Keys::Secret(&[CKK_GENERIC_SECRET]);
    Mechanism { id, name, keys, size, hash: None, chip: &[Hmac::ID], does }
}

const fn master(id: u64, name: &'static str) -> Mechanism {
    let derive = Some((Derives::OneWay, Derive::Shaped(master_template, derive_master)));
    let does = Does { derive, allows: &OF_A_MASTER, ..NOTHING };
    row(id, name, Size::Bytes(MASTER as u64, MASTER as u64), does)
}

const fn block(id: u64, name: &'static str, how: Derives) -> Mechanism {
    let derive = Some((how, Derive::Shaped(block_templates, derive_block)));
    row(id, name, Size::Bytes(MASTER as u64, MASTER as u64), Does { derive, ..NOTHING })
}

const fn exporter(id: u64, name: &'static str) -> Mechanism {
    let derive = Some((Derives::Telling, Derive::One(export)));
    row(id, name, hmac::SIZE, Does { derive, ..NOTHING })
}

const fn mac(id: u64, name: &'static str) -> Mechanism {
    let does = Does { tells: Some(|_| true), ..mac::does::<Finished>() };
    row(id, name, hmac::SIZE, does)
}

/// P_hash of RFC 5246 §5: `length` bytes of label and seed.
fn expand(prf: &Prf, message: &[u8], length: usize, chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
    let mut output = Zeroizing::new(Vec::with_capacity(length));
    let mut chain = prf.mac(message, chip)?;
    loop {
        let block = prf.mac(&Zeroizing::new([&chain[..], message].concat()), chip)?;
        let missing = length - output.len();
        output.extend(block.iter().take(missing));
        if output.len() == length {
            return Ok(output);
        }
        chain = prf.mac(&chain, chip)?;
    }
}

/// The base key has to be as long as a master secret, and so has a "pre_master" with a version.
fn of_48_bytes(key: &Object) -> Result<()> {
    match key.attributes.ulong(CKA_VALUE_LEN) {
        Some(length) if length == MASTER as u64 => Ok(()),
        _ => Err(Error::KeySizeRange("the base key has 48 bytes".into())),
    }
}

/// An attribute that the mechanism contributes: the template may repeat it.
fn contribute(template: &mut Template, id: u64, value: &[u8]) -> Result<()> {
    match template.get(id) {
        Some(given) if given == value => Ok(()),
        Some(_) => Err(Error::TemplateInconsistent("an attribute contradicts the mechanism")),
        None => {
            template.push(id, value);
            Ok(())
        }
    }
}

fn of_type(template: &mut Template, key_type: u64, length: usize) -> Result<()> {
    contribute(template, CKA_KEY_TYPE, &key_type.to_be_bytes())?;
    contribute(template, CKA_VALUE_LEN, &(length as u64).to_be_bytes())
}

fn master_template(
    _params: &Params,
    _base: &Attributes,
    template: &Template,
) -> Result<Vec<Template>> {
    let mut master = template.clone();
    of_type(&mut master, CKK_GENERIC_SECRET, MASTER)?;
    Ok(vec![master])
}

fn derive_master(
    row: &'static Mechanism,
    params: &Params,
    key: &Object,
    _others: &[Object],
    _lengths: &[Option<usize>],
    chip: &Chip<'_>,
) -> Result<Vec<Zeroizing<Vec<u8>>>> {
    let Params::TlsMaster { hash, message, version } = params else {
        return Err(params.refused("the structure of the master secret is missing"));
    };
    let agreed =
        [CKM_TLS12_MASTER_KEY_DERIVE_DH, CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH].contains(&row.id);
    if agreed && *version {
        return Err(Error::MechanismParamInvalid("pVersion: an agreed secret has none"));
    }
    if !agreed {
        of_48_bytes(key)?;
    }
    let told = version
        .then(|| chip.value(key))
        .transpose()?
        .map(|value| Zeroizing::new(value.iter().copied().take(2).collect()));
    let master = expand(&Prf::of_key(*hash, key, chip)?, message, MASTER, chip)?;
    Ok(std::iter::once(master).chain(told).collect())
}

/// Two keys for MACs, then two for the cipher, if there are such.
fn block_templates(
    params: &Params,
    base: &Attributes,
    template: &Template,
) -> Result<Vec<Template>> {
    let Params::TlsBlock { block, .. } = params else {
        return Err(params.refused("CK_TLS12_KEY_MAT_PARAMS is missing"));
    };
    let mut whole = template.clone();
    // "All four keys inherit".
    for id in [CKA_SENSITIVE, CKA_EXTRACTABLE] {
        contribute(&mut whole, id, &[u8::from(base.is(id))])?;
    }
    let mut of_mac = Template::new();
    for id in [CKA_CLASS, CKA_TOKEN, CKA_PRIVATE, CKA_LABEL, CKA_SENSITIVE, CKA_EXTRACTABLE] {
        if let Some(value) = whole.get(id) {
            of_mac.push(id, value);
        }
    }
    let mut of_mac = of_mac.with_bool(CKA_SIGN, true).with_bool(CKA_VERIFY, true);
    of_type(&mut of_mac, CKK_GENERIC_SECRET, block.mac)?;
    let mut of_cipher = whole;
    contribute(&mut of_cipher, CKA_VALUE_LEN, &(block.key as u64).to_be_bytes())?;
    let pair = |template: Template, length| if length > 0 { vec![template; 2] } else { Vec::new() };
    Ok([pair(of_mac, block.mac), pair(of_cipher, block.key)].concat())
}

fn derive_block(
    _row: &'static Mechanism,
    params: &Params,
    key: &Object,
    _others: &[Object],
    _lengths: &[Option<usize>],
    chip: &Chip<'_>,
) -> Result<Vec<Zeroizing<Vec<u8>>>> {
    let Params::TlsBlock { hash, message, block } = params else {
        return Err(params.refused("CK_TLS12_KEY_MAT_PARAMS is missing"));
    };
    of_48_bytes(key)?;
    let parts = parts(block);
    let bytes = expand(&Prf::of_key(*hash, key, chip)?, message, parts.iter().sum(), chip)?;
    let mut rest = bytes.as_slice();
    let mut cut = |length: usize| {
        let (part, after) = rest.split_at_checked(length)?;
        rest = after;
        Some(Zeroizing::new(part.to_vec()))
    };
    parts.into_iter().map(|length| cut(length).ok_or(Error::Bug("a key block too short"))).collect()
}

/// The lengths of what is cut off the key block, one after the other (RFC 5246 §6.3).
fn parts(block: &KeyBlock) -> Vec<usize> {
    let all = [block.mac, block.mac, block.key, block.key, block.iv, block.iv];
    all.into_iter().filter(|length| *length > 0).collect()
}

fn export(
    _row: &'static Mechanism,
    params: &Params,
    key: &Object,
    _others: &[Object],
    length: Option<usize>,
    chip: &Chip<'_>,
) -> Result<Zeroizing<Vec<u8>>> {
    let Params::TlsExport { hash, message } = params else {
        return Err(params.refused("CK_TLS_KDF_PARAMS is missing"));
    };
    let length = length.ok_or(Error::TemplateIncomplete(CKA_VALUE_LEN))?;
    if !(1..=MAX_EXPORTED).contains(&length) {
        return Err(Error::KeySizeRange(format!(
            "1 to {MAX_EXPORTED} bytes are exported at once, {length} were asked"
        )));
    }
    expand(&Prf::of_key(*hash, key, chip)?, message, length, chip)
}

/// The MAC of a "finished" message.
struct Finished {
    given: TlsMac,
    key: Object,
}

impl Mac for Finished {
    fn new(_row: &Mechanism, params: &Params, key: &Object) -> Result<Self> {
        let Params::TlsMac(given) = params else {
            return Err(params.refused("CK_TLS_MAC_PARAMS is missing"));
        };
        if hmac::of_the_chip(given.hash).is_none() {
            secret::in_the_host(key)?;
        }
        Ok(Self { given: given.clone(), key: key.clone() })
    }

    fn length(&self) -> usize {
        self.given.length
    }

    fn make(self, message: Zeroizing<Vec<u8>>, chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let prf = Prf::of_key(self.given.hash, &self.key, chip)?;
        let labelled = Zeroizing::new([self.given.label, &message[..]].concat());
        expand(&prf, &labelled, self.given.length, chip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hash::Hash;

    #[test]
    fn the_function_of_rfc_5246_is_openssls() {
        // `openssl kdf TLS1-PRF` of OpenSSL 3.0.
        let secret: Vec<u8> = (0..48).collect();
        for (hash, expected) in [
            (
                Hash::Sha256,
                concat!(
                    "c3849668bb1338037f004c96a77dcb4ff2bbe94054d23df5641c1ca9cfea08e6",
                    "fc697343bf1294ab98c243cc03eb9c8a50b71e22ea4ea26af5bf0e7018c13918",
                    "f8bb59d5e2e11c40be2be71cdedbd92e"
                ),
            ),
            (
                Hash::Sha384,
                concat!(
                    "83e945a06b4d03f65618510d423e862ee851cfc73ce0fe7d158807661d7689a0",
                    "7c0d46ff756d220120f73acbe757d8a00b5f67332bba7290c1f11bbc59cc2ac2",
                    "a50e94fe67889263be6528472a2eba8f8d2996c14393f5c353ab1eca33380a95",
                    "76ecf5cd"
                ),
            ),
            (Hash::Sha512, "117df2c1688958b8051d22c8"),
        ] {
            let found = super::super::tests::without_tpm(|chip| {
                let prf = Prf::of_bytes(hash, Zeroizing::new(secret.clone()));
                expand(&prf, b"test labelseed of some length", expected.len() / 2, chip)
            });
            let found: String = found.unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, expected, "{hash:?}");
        }
    }

    #[test]
    fn a_key_block_is_cut_in_the_order_of_rfc_5246() {
        let block = |mac, key, iv| parts(&KeyBlock { mac, key, iv });
        assert_eq!(block(20, 16, 0), [20, 20, 16, 16]);
        assert_eq!(block(0, 32, 4), [32, 32, 4, 4]);
        assert_eq!(block(0, 0, 0), [0usize; 0]);
    }
}
