//! TLS 1.2, of a secret that OpenSSL knows, too, and the chip works with.

use cryptoki_sys::*;

use super::{Drive, Family, Outcome, Random, Row, by, right};
use crate::ck::{Attribute, Mechanism, bytes, flag, number};
use crate::openssl;

pub(super) static ROWS: &[Row] = &[
    (CKM_TLS12_MASTER_KEY_DERIVE, &Tls::Master),
    (CKM_TLS12_MASTER_KEY_DERIVE_DH, &Tls::Master),
    (CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE, &Tls::Extended),
    (CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH, &Tls::Extended),
    (CKM_TLS12_KEY_AND_MAC_DERIVE, &Tls::Block),
    (CKM_TLS12_KEY_SAFE_DERIVE, &Tls::Block),
    (CKM_TLS_KDF, &Tls::Export),
    (CKM_TLS12_KDF, &Tls::Export),
    (CKM_TLS_MAC, &Tls::Mac),
    (CKM_TLS12_MAC, &Tls::Mac),
];

/// What is made of the secret.
#[derive(Debug)]
enum Tls {
    /// The master secret.
    Master,
    /// The extended one.
    Extended,
    /// The keys and IVs of a connection.
    Block,
    /// Exported keying material.
    Export,
    /// The MAC of a Finished message.
    Mac,
}

impl Family for Tls {
    fn section(&self) -> &'static str {
        match self {
            // Alike in what they ask of the TPM.
            Tls::Mac => "HMAC",
            _ => "key derivation",
        }
    }

    fn does(&self) -> u64 {
        match self {
            Tls::Mac => CKF_SIGN | CKF_VERIFY,
            _ => CKF_DERIVE,
        }
    }

    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let kind = drive.kind();
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
        match self {
            Tls::Mac => {
                let mechanism = Mechanism::tls_mac(kind, CKM_SHA256, 12, 1);
                let expected = of(b"server finished", &[&client], 12);
                let role = match drive.driver.operation {
                    CKF_SIGN => CKA_SIGN,
                    _ => CKA_VERIFY,
                };
                drive.with_hidden(&base, role, |key| {
                    drive.mac(key, mechanism, &client, &expected, random)
                })
            }
            Tls::Export => {
                let mechanism =
                    Mechanism::tls_export(kind, CKM_SHA256, b"label", randoms, b"context");
                let more: [&[u8]; 4] = [&client, &server, &[0, 7], b"context"];
                drive.derives_hidden(&base, mechanism, &of(b"label", &more, 40))
            }
            Tls::Block => {
                let mechanism = Mechanism::tls_block(kind, CKM_SHA256, randoms, [256, 128, 32], 4);
                let block = of(b"key expansion", &[&server, &client], 104);
                drive
                    .with_hidden(&base, CKA_DERIVE, |key| key_block(drive, key, &mechanism, &block))
            }
            Tls::Extended => {
                let mechanism = Mechanism::tls_extended(kind, CKM_SHA256, &client, false);
                let expected = of(b"extended master secret", &[&client], 48);
                master(drive, &base, mechanism, &expected)
            }
            Tls::Master => {
                let mechanism = Mechanism::tls_master(kind, CKM_SHA256, randoms, false);
                let expected = of(b"master secret", &[&client, &server], 48);
                master(drive, &base, mechanism, &expected)
            }
        }
    }
}

/// A master secret, of which the Finished message that it makes shows whether it is the right one.
fn master(drive: &Drive<'_>, base: &[Attribute], mechanism: Mechanism, value: &[u8]) -> Outcome {
    let template = [number(CKA_VALUE_LEN, 48), flag(CKA_SIGN, true)];
    let signing = Mechanism::tls_mac(CKM_TLS_MAC, CKM_SHA256, 12, 2);
    let expected = openssl::tls12("sha256", value, b"client finishedmessage", 12);
    drive.with_hidden(base, CKA_DERIVE, |key| {
        drive.with_derived(mechanism, key, &template, |made| {
            let mac = by("C_Sign", drive.ck.sign(drive.session, signing, made, b"message"))?;
            right(mac == expected, || drive.named("another key"))
        })
    })
}

/// Two keys of 32 bytes that sign, two of AES-128, two IVs of 4 bytes where there are some.
fn key_block(drive: &Drive<'_>, key: u64, mechanism: &Mechanism, block: &[u8]) -> Outcome {
    let (ck, session) = (drive.ck, drive.session);
    let template = [number(CKA_KEY_TYPE, CKK_AES)];
    let (rv, _, left) = ck.derive_into(session, mechanism, key, &template, false);
    by("C_DeriveKey", if rv == CKR_OK { Ok(()) } else { Err(rv) })?;
    let (_, out) = left.pointers.last().expect("CK_SSL3_KEY_MAT_OUT");
    let values = [&block[..32], &block[32..64], &block[64..80], &block[80..96]];
    let mut outcome = Ok(());
    for (number, value) in values.into_iter().enumerate() {
        let checked = drive.spend(out.word_at(8 * number), |made| {
            if value.len() == 32 {
                return drive.is_hidden(made, value);
            }
            let sealed = by("C_Encrypt", ck.encrypt(session, CKM_AES_ECB, made, &[0; 16]))?;
            let expected = openssl::aes("ECB", true, false, value, &[], &[0; 16]);
            right(Some(sealed) == expected, || drive.named("another key"))
        });
        outcome = outcome.and(checked);
    }
    outcome?;
    let told: Vec<&[u8]> = out.pointers.iter().map(|(_, iv)| &iv.bytes[..]).collect();
    let expected: [&[u8]; 2] = match drive.kind() {
        CKM_TLS12_KEY_AND_MAC_DERIVE => [&block[96..100], &block[100..104]],
        _ => [&[0xA5; 4], &[0xA5; 4]],
    };
    right(told == expected, || drive.named("other IVs"))
}
