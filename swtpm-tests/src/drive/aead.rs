//! Authenticated encryption, of one message or of many.

use cryptoki_sys::*;

use super::aes::with_key;
use super::wrap::{self, Sealing};
use super::{Drive, Failure, Family, Outcome, Random, Row, by, right};
use crate::ck::{Mechanism, Message};
use crate::openssl;

pub(super) static ROWS: &[Row] = &[(CKM_AES_GCM, &Aead("GCM")), (CKM_AES_CCM, &Aead("CCM"))];

/// OpenSSL's name of the mode.
#[derive(Debug)]
struct Aead(&'static str);

impl Family for Aead {
    fn section(&self) -> &'static str {
        "AES"
    }

    fn does(&self) -> u64 {
        CKF_ENCRYPT
            | CKF_DECRYPT
            | CKF_MESSAGE_ENCRYPT
            | CKF_MESSAGE_DECRYPT
            | CKF_WRAP
            | CKF_UNWRAP
    }

    fn keeps_tags_apart(&self) -> bool {
        true
    }

    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let wraps = |value, random: &mut Random| self.wraps(drive, value, random);
        match drive.driver.operation {
            CKF_WRAP if drive.driver.apart => self.wrap_apart(drive, random),
            CKF_UNWRAP if drive.driver.apart => self.unwrap_apart(drive, random),
            CKF_WRAP => wrap::with_aes(drive, random, wraps),
            CKF_UNWRAP => wrap::opened_with_aes(drive, random, wraps),
            CKF_ENCRYPT | CKF_DECRYPT => {
                with_key(drive, random, |key, value, random| self.one(drive, key, value, random))
            }
            _ => with_key(drive, random, |key, value, random| {
                let outcome = self.three_messages(drive, key, value, random);
                if outcome.is_err() {
                    // The process outlives an error.
                    for function in ["C_MessageEncryptInit", "C_MessageDecryptInit"] {
                        drive.ck.raw(function, vec![drive.session.into(), 0.into(), 0.into()]);
                    }
                }
                outcome
            }),
        }
    }
}

impl Aead {
    /// What OpenSSL makes of a plaintext, the tag behind it.
    fn seal(
        &self,
        drive: &Drive<'_>,
        key: &[u8],
        nonce: &[u8],
        additional: &[u8],
        tag: usize,
        plain: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        drive.openssl(openssl::aead(self.0, true, key, nonce, additional, tag, plain))
    }

    /// One message, and an altered one to decrypt.
    fn one(&self, drive: &Drive<'_>, key: u64, value: &[u8], random: &mut Random) -> Outcome {
        let (plain, additional) = (random.fewer(2200), random.fewer(40));
        let (nonce, tag) = match self.0 {
            "GCM" => (*random.one_of(&[12, 12, 1, 16, 33]), 12 + random.below(5)),
            _ => (7 + random.below(7), 4 + 2 * random.below(7)),
        };
        let nonce = random.bytes(nonce);
        let mechanism = match self.0 {
            "GCM" => Mechanism::gcm(CKM_AES_GCM, &nonce, &additional, 8 * tag as u64),
            _ => Mechanism::ccm(plain.len() as u64, &nonce, &additional, tag as u64),
        };
        let mut sealed = self.seal(drive, value, &nonce, &additional, tag, &plain)?;
        if drive.driver.operation == CKF_ENCRYPT {
            let made = drive.cipher(mechanism, key, &plain, random)?;
            return right(made == sealed, || drive.named("another ciphertext"));
        }
        let made = drive.cipher(mechanism.clone(), key, &sealed, random)?;
        right(made == plain, || drive.named("another plaintext"))?;
        let at = random.below(sealed.len());
        sealed[at] ^= 1 << random.below(8);
        match drive.ck.decrypt(drive.session, mechanism, key, &sealed) {
            Ok(_) => Err(Failure::Wrong(drive.named("an altered ciphertext is taken for good"))),
            Err(rv) if rv == CKR_ENCRYPTED_DATA_INVALID => Ok(()),
            Err(rv) => Err(Failure::Refused("C_Decrypt", rv)),
        }
    }

    /// Three messages one after another, in one part or several, each with another nonce.
    fn three_messages(
        &self,
        drive: &Drive<'_>,
        key: u64,
        value: &[u8],
        random: &mut Random,
    ) -> Outcome {
        let (ck, session, kind) = (drive.ck, drive.session, drive.kind());
        let encrypt = drive.driver.operation == CKF_MESSAGE_ENCRYPT;
        let names = match encrypt {
            true => ["C_MessageEncryptInit", "C_EncryptMessage", "C_MessageEncryptFinal"],
            false => ["C_MessageDecryptInit", "C_DecryptMessage", "C_MessageDecryptFinal"],
        };
        by(names[0], ck.message_init(session, encrypt, kind, key))?;
        for _ in 0..3 {
            let (plain, additional) = (random.fewer(1500), random.bytes(20));
            let mut message = Message::new(kind, &random.bytes(12), 16, plain.len());
            message.fixed_bits = 32;
            let fixed = message.nonce.clone();
            message.generator = if encrypt { CKG_GENERATE } else { CKG_NO_GENERATE };
            let mut given = plain.clone();
            if !encrypt {
                given = self.seal(drive, value, &fixed, &additional, 16, &plain)?;
                message.tag = given.split_off(plain.len());
            }
            let made = if random.once_in(2) {
                ck.message(session, encrypt, &mut message, &additional, &given)
            } else {
                let parts: Vec<_> = given.chunks(1 + random.below(600)).collect();
                ck.message_parts(session, encrypt, &mut message, &additional, &parts)
            };
            let made = by(names[1], made)?;
            if encrypt {
                let nonce = &message.nonce;
                let kept = nonce[..4] == fixed[..4] && *nonce != fixed;
                let sealed = self.seal(drive, value, nonce, &additional, 16, &plain)?;
                let same = kept && [made, message.tag].concat() == sealed;
                right(same, || drive.named("another message"))?;
            } else {
                right(made == plain, || drive.named("another plaintext"))?;
            }
        }
        by(names[2], ck.message_final(session, encrypt))
    }

    /// The mechanism with a nonce, and what OpenSSL makes of a value under a key.
    fn wraps<'a>(
        &'a self,
        drive: &'a Drive<'_>,
        value: Vec<u8>,
        random: &mut Random,
    ) -> (Mechanism, Sealing<'a>) {
        let (nonce, additional) = (self.nonce(random), random.bytes(20));
        // The length that CCM's parameter says is not looked at.
        let message = Message::new(drive.kind(), &nonce, 16, 7);
        let mechanism = message.wrapping(&additional);
        let seal = move |key: &[u8]| self.seal(drive, key, &nonce, &additional, 16, &value);
        (mechanism, Box::new(seal))
    }

    /// As long as the mode likes it.
    fn nonce(&self, random: &mut Random) -> Vec<u8> {
        random.bytes(if self.0 == "GCM" { 12 } else { 13 })
    }

    fn wrap_apart(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        wrap::with_wrapping(drive, random, |wrapping, key, value, random| {
            let (additional, given) = (random.bytes(20), self.nonce(random));
            let mut message = Message::new(drive.kind(), &given, 16, 7);
            message.generator = CKG_GENERATE;
            let (ck, session) = (drive.ck, drive.session);
            let made = ck.wrap_authenticated(session, &mut message, &additional, wrapping, key);
            let mut made = by("C_WrapKeyAuthenticated", made)?;
            made.extend(&message.tag);
            let under = drive.value(wrapping)?;
            let sealed = self.seal(drive, &under, &message.nonce, &additional, 16, value)?;
            let own = message.nonce != given;
            right(own && made == sealed, || drive.named("another ciphertext"))
        })
    }

    fn unwrap_apart(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        wrap::with_unwrapping(drive, random, |unwrapping, key, random| {
            let (value, additional) = (random.bytes(32), random.bytes(20));
            let nonce = self.nonce(random);
            let mut sealed = self.seal(drive, key, &nonce, &additional, 16, &value)?;
            let mut message = Message::new(drive.kind(), &nonce, 16, 7);
            message.tag = sealed.split_off(value.len());
            let (ck, session, template) = (drive.ck, drive.session, wrap::unwrapped());
            let made = ck.unwrap_authenticated(
                session,
                &message,
                &additional,
                unwrapping,
                &sealed,
                &template,
            );
            drive.spend(by("C_UnwrapKeyAuthenticated", made)?, |key| drive.is_hidden(key, &value))
        })
    }
}
