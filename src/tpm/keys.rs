//! What a key does: created, loaded and used, each as one verb of [`Tpm`]. Everything here goes through
//! the hot path ([`Tpm::with_key`]), so that a warm key costs exactly the commands named, and is
//! idempotent, so that it may be repeated on a rebuilt lease.

#[cfg(test)]
mod tests;

use zeroize::Zeroizing;

use super::command::{
    Chaining, Create, Direction, EcdhZGen, EncryptDecrypt2, Hmac, HmacStart, RsaDecrypt,
    SequenceComplete, SequenceUpdate, SignEcdsa, Unseal,
};
use super::execute::{Auth, Entity, execute};
use super::fault::{Fault, Trouble};
use super::key::{PublicKey, SHA256_BLOCK, public_key};
use super::lease::{Key, KeyLease, Tpm};
use super::{Call, HashAlgorithm, KeyBlob, KeySpec, KeyUse, Name, NewKey, PlainKey};
use crate::crypto::drbg::os_bytes;
use crate::crypto::secret::Wiped;

/// After so many buffers of one long input other threads get their turn.
const TURN: usize = 16;

/// An ECDSA signature as the TPM gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// As long as the curve's order, big-endian.
    pub r: Vec<u8>,
    /// As `r`.
    pub s: Vec<u8>,
    /// An HMAC proves that this is what the TPM answered. Without a session nothing does.
    pub proven: bool,
}

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
        if spec.extractable && spec.usage == KeyUse::Keyed && value.len() > SHA256_BLOCK {
            // TPM2_Create would need another nameAlg, whose policies are not the ones that we speak.
            let key = PlainKey::Secret(Zeroizing::new(value.to_vec()));
            return self.import(call, srk, spec, authorization, &key);
        }
        self.create_from(call, srk, &spec.template_for(value)?, authorization, value)
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
            let made = execute(link, &create, &mut [Auth::hmac(session, &[])], call);
            if data.is_empty() { made } else { made.map_err(of_the_value) }
        })
    }

    /// TPM2_Sign with ECDSA.
    /// `digest` is exactly as long as `hash` says. One command on a warm key.
    pub fn sign(
        &self,
        call: &Call,
        key: &Key,
        hash: HashAlgorithm,
        digest: &[u8],
    ) -> Result<Signed, Fault> {
        let length = coordinate_length(&key.blob)?;
        let ((r, s), proven) = self.with_key(call, key, |lease| {
            let key = lease.key();
            let signature = lease.execute(&SignEcdsa { key: &key, hash, digest })?;
            Ok((signature, lease.proves()))
        })?;
        Ok(Signed { r: padded(&r, length)?.to_vec(), s: padded(&s, length)?.to_vec(), proven })
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

    /// AES: as many bytes as `input` has. One TPM2_EncryptDecrypt2 for each TPM_PT_INPUT_BUFFER (1,024) of
    /// them on a warm key; a long input lets other threads in between.
    ///
    /// ECB and CBC take whole blocks of 16 bytes, CFB (128 bits of feedback) any length. `iv` is
    /// not used with ECB; else it becomes what the next call goes on with, if the input was whole
    /// blocks (after a part of a block the stream is at its end, after an error its state is unknown).
    /// It is computed here from input and output.
    ///
    /// Nothing crosses the bus in clear but IVs and, with CBC and CFB, the last block of ciphertext of
    /// each command: where that is a secret, [`Tpm::chain`] is what to use.
    ///
    /// # Errors
    /// [`Trouble::Bug`] for a part of a block in ECB or CBC; those of [`Tpm::with_key`].
    pub fn cipher(
        &self,
        call: &Call,
        key: &Key,
        mode: Chaining,
        direction: Direction,
        iv: &mut [u8; BLOCK],
        input: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        if mode != Chaining::Cfb {
            whole_blocks(input)?;
        }
        self.in_turns(call, key, iv, input, self.input_buffer(), |lease, iv, input| {
            let key = lease.key();
            let command = EncryptDecrypt2 { key: &key, mode, direction, iv, input };
            let output = lease.execute(&command)?;
            let ciphertext = match direction {
                Direction::Encrypt => &output,
                Direction::Decrypt => input,
            };
            if let Some(last) = last_block(ciphertext).filter(|_| mode != Chaining::Ecb) {
                *iv = last;
            }
            Ok(output)
        })
    }

    /// CBC encryption of whole blocks whose output is a secret, as a MAC, a derived key or OFB's key stream
    /// (what it makes of zeros) is: as
    /// [`Tpm::cipher`], but no block of it crosses the bus in clear. One command for each
    /// TPM_PT_INPUT_BUFFER less 16 bytes (1,008).
    ///
    /// # Errors
    /// As [`Tpm::cipher`].
    pub fn chain(
        &self,
        call: &Call,
        key: &Key,
        iv: &mut [u8; BLOCK],
        input: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        whole_blocks(input)?;
        self.in_turns(call, key, iv, input, self.input_buffer() - BLOCK, |lease, iv, input| {
            // The IV goes with the first block, and a block of random bytes is the last: so ivIn is
            // always zero, and ivOut is what nobody wants to know.
            let mut whole = Zeroizing::new(Vec::with_capacity(input.len() + BLOCK));
            whole.extend_from_slice(input);
            whole.iter_mut().zip(*iv).for_each(|(byte, other)| *byte ^= other);
            whole.extend_from_slice(&*os_bytes::<BLOCK>().map_err(no_random)?);
            let key = lease.key();
            let mut output = lease.execute(&EncryptDecrypt2 {
                key: &key,
                mode: Chaining::Cbc,
                direction: Direction::Encrypt,
                iv: &[0; BLOCK],
                input: &whole,
            })?;
            output.truncate(input.len());
            *iv = last_block(&output).unwrap_or(*iv);
            Ok(output)
        })
    }

    /// Runs `one` for each `buffer` bytes of the input, a bounded number of them in one turn.
    fn in_turns(
        &self,
        call: &Call,
        key: &Key,
        iv: &mut [u8; BLOCK],
        input: &[u8],
        buffer: usize,
        mut one: impl FnMut(&mut KeyLease, &mut [u8; BLOCK], &[u8]) -> Result<Wiped, Fault>,
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let mut output = Zeroizing::new(Vec::with_capacity(input.len()));
        for turn in input.chunks(buffer * TURN) {
            let (next, parts) = self.with_key(call, key, |lease| {
                let mut iv = *iv;
                let parts: Result<Vec<_>, Fault> =
                    turn.chunks(buffer).map(|input| one(lease, &mut iv, input)).collect();
                Ok((iv, parts?))
            })?;
            *iv = next;
            parts.iter().for_each(|part| output.extend_from_slice(part));
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
        let authorization = os_bytes::<32>().map_err(no_random)?;
        self.with_key(call, key, |lease| {
            let key = lease.key();
            let start = HmacStart { key: &key, authorization: authorization.as_slice(), hash };
            // What stays of it after an error is flushed with the job.
            let sequence = lease.execute(&start)?;
            sequenced(lease, &sequence, &authorization, hash, message, buffer)
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

/// What the TPM says of a value that it was given to make a key of: SIZE, or HASH where it does not have the
/// larger hash.
pub(super) fn of_the_value(fault: Fault) -> Fault {
    match fault.kind() {
        Trouble::Parameter => Fault { trouble: Trouble::KeySize, ..fault },
        _ => fault,
    }
}

pub(super) fn no_random(_: crate::crypto::Fault) -> Fault {
    Fault::bug("the operating system gave no random bytes")
}

/// The block of AES, in bytes.
const BLOCK: usize = 16;

fn whole_blocks(input: &[u8]) -> Result<(), Fault> {
    match input.len() % BLOCK {
        0 => Ok(()),
        _ => Err(Fault::bug("a part of a block where only whole ones can be")),
    }
}

/// What the next block is chained to; none if it is not whole.
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
