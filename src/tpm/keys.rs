//! What a key does: created, loaded and used, each as one verb of [`Tpm`]. Everything here goes through
//! the hot path ([`Tpm::with_key`]), so that a warm key costs exactly the commands named, and is
//! idempotent, so that it may be repeated on a rebuilt lease.

#[cfg(test)]
mod tests;

use zeroize::Zeroizing;

use super::command::{
    CipherMode, Create, Direction, EcdhZGen, EncryptDecrypt2, Hmac, HmacStart, RsaDecrypt,
    SequenceComplete, SequenceUpdate, SignEcdsa, Unseal,
};
use super::execute::{Auth, Entity, execute};
use super::fault::{Fault, Trouble};
use super::key::{PublicKey, public_key};
use super::lease::{Key, KeyLease, Tpm};
use super::{Call, HashAlgorithm, KeyBlob, KeySpec, KeyUse, Name, NewKey};
use crate::crypto::drbg::os_bytes;

/// After so many buffers of one long input other threads get their turn.
const TURN: usize = 16;

impl Tpm {
    /// TPM2_Create under the storage root key, through a salted session: the TPM makes the key.
    pub fn create(
        &self,
        call: &Call,
        srk: &Name,
        spec: &KeySpec,
        authorization: &[u8; 32],
    ) -> Result<NewKey, Fault> {
        self.create_from(call, srk, &spec.template()?, authorization, &[])
    }

    /// As [`Tpm::create`], of an AES key, a generic secret or a sealed object with this value. It is as
    /// fixed in the TPM as one made there (fixedTPM, unless the key may be extracted).
    ///
    /// # Errors
    /// [`Trouble::KeySize`] for a value of another length than the key has, or longer than the TPM
    /// takes ([`KEYED_LIMIT`](super::key::KEYED_LIMIT), [`SEALED_LIMIT`](super::key::SEALED_LIMIT)).
    pub fn create_with(
        &self,
        call: &Call,
        srk: &Name,
        spec: &KeySpec,
        authorization: &[u8; 32],
        value: &[u8],
    ) -> Result<NewKey, Fault> {
        let public = spec.template_for(value)?;
        let made = self.create_from(call, srk, &public, authorization, value);
        made.map_err(|fault| match fault.kind() {
            // SIZE, or HASH where the TPM does not have the larger hash.
            Trouble::Parameter if spec.usage != KeyUse::Sealed => {
                Fault { trouble: Trouble::KeySize, ..fault }
            }
            _ => fault,
        })
    }

    fn create_from(
        &self,
        call: &Call,
        srk: &Name,
        public: &[u8],
        authorization: &[u8; 32],
        data: &[u8],
    ) -> Result<NewKey, Fault> {
        self.with(call, Some(srk), |lease| {
            let parent = Entity::from(&lease.srk()?);
            let (link, session) = lease.salted()?;
            let create = Create { parent: &parent, authorization, data, public };
            execute(link, &create, &mut [Auth::hmac(session, &[])], call)
        })
    }

    /// TPM2_Sign with ECDSA: (r, s), each as long as the curve's order, big-endian.
    /// `digest` is exactly as long as `hash` says. One command on a warm key.
    pub fn sign(
        &self,
        call: &Call,
        key: &Key,
        hash: HashAlgorithm,
        digest: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), Fault> {
        let length = coordinate_length(&key.blob)?;
        let (r, s) = self.with_key(call, key, |lease| {
            let key = lease.key();
            lease.execute(&SignEcdsa { key: &key, hash, digest })
        })?;
        Ok((padded(&r, length)?.to_vec(), padded(&s, length)?.to_vec()))
    }

    /// TPM2_RSA_Decrypt with scheme NULL: the raw private operation on `input`, which is exactly as
    /// long as the modulus and smaller. The answer has the length of the modulus.
    pub fn rsa_decrypt(
        &self,
        call: &Call,
        key: &Key,
        input: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let answer = self.with_key(call, key, |lease| {
            let key = lease.key();
            lease.execute(&RsaDecrypt { key: &key, input })
        })?;
        padded(&answer, input.len())
    }

    /// TPM2_ECDH_ZGen: the x coordinate of the shared point, as long as the curve's field.
    pub fn ecdh(
        &self,
        call: &Call,
        key: &Key,
        x: &[u8],
        y: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let length = coordinate_length(&key.blob)?;
        let answer = self.with_key(call, key, |lease| {
            let key = lease.key();
            lease.execute(&EcdhZGen { key: &key, x, y })
        })?;
        padded(&answer, length)
    }

    /// TPM2_EncryptDecrypt2: as many bytes as `input` has, one command for each
    /// TPM_PT_INPUT_BUFFER (1,024) of them on a warm key; a long input lets other threads in between.
    ///
    /// ECB and CBC take whole blocks of 16 bytes, CFB (128 bits of feedback) and OFB any length. `iv` is
    /// not used with ECB; else it becomes what the next call goes on with, if the input was whole
    /// blocks (after a part of a block the stream is at its end, after an error its state is unknown).
    /// It is computed here from input and output.
    ///
    /// # Errors
    /// [`Trouble::Bug`] for a part of a block in ECB or CBC; those of [`Tpm::with_key`].
    pub fn cipher(
        &self,
        call: &Call,
        key: &Key,
        mode: CipherMode,
        direction: Direction,
        iv: &mut [u8; BLOCK],
        input: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        if matches!(mode, CipherMode::Ecb | CipherMode::Cbc) && input.len() % BLOCK != 0 {
            return Err(Fault::bug("a part of a block where only whole ones can be"));
        }
        let buffer = self.input_buffer();
        let mut output = Zeroizing::new(Vec::with_capacity(input.len()));
        for turn in input.chunks(buffer * TURN) {
            let (next, part) = self.with_key(call, key, |lease| {
                let key = lease.key();
                let mut iv = *iv;
                let mut output = Zeroizing::new(Vec::with_capacity(turn.len()));
                for input in turn.chunks(buffer) {
                    let command = EncryptDecrypt2 { key: &key, mode, direction, iv: &iv, input };
                    let answer = lease.execute(&command)?;
                    iv = next_iv(mode, direction, input, &answer).unwrap_or(iv);
                    output.extend_from_slice(&answer);
                }
                Ok((iv, output))
            })?;
            *iv = next;
            output.extend_from_slice(&part);
        }
        Ok(output)
    }

    /// HMAC of a message of any length with a [`KeyUse::Keyed`], as long as the hash. TPM2_HMAC, one
    /// command on a warm key, for what fits TPM_PT_INPUT_BUFFER (1,024 bytes); beyond, a sequence of 1 + n
    /// commands for n buffers, within which the TPM is ours.
    ///
    /// # Errors
    /// Those of [`Tpm::with_key`].
    pub fn mac(
        &self,
        call: &Call,
        key: &Key,
        hash: HashAlgorithm,
        message: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let buffer = self.input_buffer();
        if message.len() <= buffer {
            return self.with_key(call, key, |lease| {
                let key = lease.key();
                lease.execute(&Hmac { key: &key, message, hash })
            });
        }
        let authorization = os_bytes::<32>()
            .map_err(|_| Fault::bug("the operating system gave no random bytes"))?;
        self.with_key(call, key, |lease| {
            let key = lease.key();
            let start = HmacStart { key: &key, authorization: authorization.as_slice(), hash };
            let sequence = lease.execute(&start)?;
            let outcome = sequenced(lease, &sequence, &authorization, hash, message, buffer);
            if outcome.is_err() {
                lease.flush(sequence.handle);
            }
            outcome
        })
    }

    /// TPM2_Unseal: the value of a [`KeyUse::Sealed`]. One command on a warm object.
    ///
    /// # Errors
    /// Those of [`Tpm::with_key`].
    pub fn unseal(&self, call: &Call, key: &Key) -> Result<Zeroizing<Vec<u8>>, Fault> {
        self.with_key(call, key, |lease| {
            let item = lease.key();
            lease.execute(&Unseal { item: &item })
        })
    }
}

/// The block of AES, in bytes.
const BLOCK: usize = 16;

/// What the block after these is chained to: the last block of ciphertext, or with OFB of the key
/// stream. `None` if nothing is, or the last block is not whole.
fn next_iv(
    mode: CipherMode,
    direction: Direction,
    input: &[u8],
    output: &[u8],
) -> Option<[u8; BLOCK]> {
    let (input, output) = (last_block(input)?, last_block(output)?);
    match (mode, direction) {
        (CipherMode::Ecb, _) => None,
        (CipherMode::Cbc | CipherMode::Cfb, Direction::Encrypt) => Some(output),
        (CipherMode::Cbc | CipherMode::Cfb, Direction::Decrypt) => Some(input),
        (CipherMode::Ofb, _) => {
            let mut stream = input;
            stream.iter_mut().zip(output).for_each(|(byte, other)| *byte ^= other);
            Some(stream)
        }
    }
}

fn last_block(bytes: &[u8]) -> Option<[u8; BLOCK]> {
    if bytes.len() % BLOCK == 0 { bytes.last_chunk().copied() } else { None }
}

/// The rest of an HMAC sequence after its start.
fn sequenced(
    lease: &mut KeyLease,
    sequence: &Entity,
    authorization: &[u8; 32],
    hash: HashAlgorithm,
    message: &[u8],
    buffer: usize,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mut parts = message.chunks(buffer);
    let last = parts.next_back().unwrap_or_default();
    for part in parts {
        lease.execute_as(&SequenceUpdate { sequence, part }, authorization)?;
    }
    lease.execute_as(&SequenceComplete { sequence, part: last, hash }, authorization)
}

/// The length of a coordinate on the key's curve, in bytes.
fn coordinate_length(blob: &KeyBlob) -> Result<usize, Fault> {
    match public_key(&blob.public)?.1 {
        PublicKey::Ec { curve, .. } => Ok(curve.len()),
        PublicKey::Rsa { .. } => Err(Fault::bug("an RSA key where an EC key is needed")),
    }
}

/// A big-endian number with zeros before it.
fn padded(number: &[u8], length: usize) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let zeros = number.iter().take(number.len().saturating_sub(length));
    if zeros.clone().any(|byte| *byte != 0) {
        return Err(Fault::new(Trouble::Tampered("a number longer than the key's")));
    }
    let number = number.get(zeros.len()..).unwrap_or_default();
    let mut bytes = Zeroizing::new(vec![0; length]);
    if let Some(place) = bytes.get_mut(length - number.len()..) {
        place.copy_from_slice(number);
    }
    Ok(bytes)
}
