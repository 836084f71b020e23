//! The key derivation functions of SP 800-108 with HMAC or AES-CMAC: in counter mode, with feedback and as a
//! double pipeline. The base key is the MAC's key, so the TPM computes them. PKCS#11 3.2 §6.42.

use cryptoki_sys::{
    CKA_VALUE_LEN, CKK_AES, CKK_GENERIC_SECRET, CKM_SP800_108_COUNTER_KDF,
    CKM_SP800_108_DOUBLE_PIPELINE_KDF, CKM_SP800_108_FEEDBACK_KDF,
};
use zeroize::Zeroizing;

use super::params::{Number, Part, PrfType, Sp800};
use super::prf::Prf;
use super::{Chip, Derive, Does, Keys, Mechanism, NOTHING, Params, Size};
use crate::error::{Error, Result};
use crate::object::Object;
use crate::object::keyspec::Derives;
use crate::tpm::command::{Command as _, Hmac};
use crate::tpm::key::KEYED_LIMIT;

pub(super) static ROWS: &[Mechanism] = &[
    row(CKM_SP800_108_COUNTER_KDF, "CKM_SP800_108_COUNTER_KDF"),
    row(CKM_SP800_108_FEEDBACK_KDF, "CKM_SP800_108_FEEDBACK_KDF"),
    row(CKM_SP800_108_DOUBLE_PIPELINE_KDF, "CKM_SP800_108_DOUBLE_PIPELINE_KDF"),
];

/// The specification counts these keys in bits.
const fn row(id: u64, name: &'static str) -> Mechanism {
    Mechanism {
        id,
        name,
        keys: Keys::Secret(&[CKK_GENERIC_SECRET, CKK_AES]),
        size: Size::Bits(8, 8 * KEYED_LIMIT as u64),
        hash: None,
        chip: &[Hmac::ID],
        does: Does { derive: Some((Derives::OneWay, Derive::Several(derive))), ..NOTHING },
    }
}

/// The most that all keys of a call have, in bytes: each block is a command.
const MAX_DERIVED: usize = 16 * 1024;

/// How much there is to compute.
#[derive(Debug, PartialEq, Eq)]
struct Extent {
    /// Of each key, in bytes.
    lengths: Vec<usize>,
    /// All of them, each of which begins with a block of its own.
    blocks: usize,
}

fn derive(
    row: &'static Mechanism,
    params: &Params,
    key: &Object,
    others: &[Object],
    lengths: &[Option<usize>],
    chip: &Chip<'_>,
) -> Result<Vec<Zeroizing<Vec<u8>>>> {
    let Params::Sp800(given) = params else {
        return Err(params.refused("the structure of SP800-108 parameters is missing"));
    };
    right_parts(row.id, &given.parts)?;
    let extent = extent(given, lengths)?;
    let values =
        others.iter().map(|key| chip.value(key)).collect::<Result<Vec<Zeroizing<Vec<u8>>>>>()?;
    let prf = match (given.prf, key.key_type()) {
        (PrfType::Hmac(hash), Some(CKK_GENERIC_SECRET)) => Prf::of_key(hash, key, chip)?,
        (PrfType::Cmac, Some(CKK_AES)) => Prf::cmac(key, chip)?,
        _ => return Err(Error::KeyTypeInconsistent),
    };
    keys(row.id, given, &values, &extent, |message| prf.mac(message, chip))
}

/// Which data fields each of the three has, §6.42.3 to §6.42.5.
fn right_parts(id: u64, parts: &[Part]) -> Result<()> {
    let count = |is: fn(&Part) -> bool| parts.iter().filter(|part| is(part)).count();
    let counts = id == CKM_SP800_108_COUNTER_KDF;
    let iterations = count(|part| matches!(part, Part::Iteration(_)));
    let formatted = count(|part| matches!(part, Part::Iteration(Some(_))));
    let counters = count(|part| matches!(part, Part::Counter(_)));
    if iterations != 1 || formatted != usize::from(counts) {
        return Err(Error::MechanismParamInvalid(
            "one iteration variable: a counter with its format, or none with it",
        ));
    }
    if counters > usize::from(!counts) || count(|part| matches!(part, Part::Length { .. })) > 1 {
        return Err(Error::MechanismParamInvalid("a data field too many"));
    }
    Ok(())
}

/// What is asked, if the counters and the field with the length can hold it.
fn extent(given: &Sp800, lengths: &[Option<usize>]) -> Result<Extent> {
    let lengths = lengths
        .iter()
        .map(|length| length.ok_or(Error::TemplateIncomplete(CKA_VALUE_LEN)))
        .collect::<Result<Vec<_>>>()?;
    let total = lengths.iter().fold(0, |sum: usize, length| sum.saturating_add(*length));
    if total > MAX_DERIVED || lengths.contains(&0) {
        return Err(Error::KeySizeRange(format!(
            "1 to {MAX_DERIVED} bytes are derived at once, {total} were asked"
        )));
    }
    let blocks = lengths.iter().map(|length| length.div_ceil(given.prf.size())).sum();
    let extent = Extent { lengths, blocks };
    for part in &given.parts {
        match part {
            Part::Iteration(Some(number)) | Part::Counter(number) if !number.holds(blocks) => {
                return Err(Error::KeySizeRange("the counter has too few bits for it".into()));
            }
            Part::Length { number, segments } if !number.holds(bits(given, &extent, *segments)) => {
                return Err(Error::MechanismParamInvalid(
                    "the length has more bits than its field",
                ));
            }
            _ => {}
        }
    }
    Ok(extent)
}

/// The length of what is derived, in bits.
fn bits(given: &Sp800, extent: &Extent, segments: bool) -> usize {
    8 * if segments { extent.blocks * given.prf.size() } else { extent.lengths.iter().sum() }
}

impl Number {
    fn holds(self, number: usize) -> bool {
        self.bytes >= 8 || (number as u64) >> (8 * self.bytes) == 0
    }

    fn put(self, number: usize, out: &mut Vec<u8>) {
        let bytes = (number as u64).to_be_bytes();
        let from = bytes.len().saturating_sub(self.bytes);
        let wanted = bytes.iter().skip(from);
        if self.little { out.extend(wanted.rev()) } else { out.extend(wanted) }
    }
}

/// The keys, from a function that computes the MAC. `values` are those of the data fields that are keys.
fn keys(
    id: u64,
    given: &Sp800,
    values: &[Zeroizing<Vec<u8>>],
    extent: &Extent,
    prf: impl Fn(&[u8]) -> Result<Zeroizing<Vec<u8>>>,
) -> Result<Vec<Zeroizing<Vec<u8>>>> {
    // What the counter and the iteration variable are in; without them it is the pipeline's beginning.
    let input = |round: Option<(usize, &[u8])>| {
        let mut values = values.iter();
        let mut message = Zeroizing::new(Vec::new());
        for part in &given.parts {
            match (part, round) {
                (Part::Bytes(bytes), _) => message.extend_from_slice(bytes),
                (Part::Key(_), _) => {
                    let value = values.next().ok_or(Error::Bug("a data field without its key"))?;
                    message.extend_from_slice(value);
                }
                (Part::Length { number, segments }, _) => {
                    number.put(bits(given, extent, *segments), &mut message);
                }
                (Part::Iteration(Some(number)) | Part::Counter(number), Some((counter, _))) => {
                    number.put(counter, &mut message);
                }
                (Part::Iteration(None), Some((_, iteration))) => {
                    message.extend_from_slice(iteration);
                }
                (Part::Iteration(_) | Part::Counter(_), None) => {}
            }
        }
        Ok::<_, Error>(message)
    };
    let pipeline = id == CKM_SP800_108_DOUBLE_PIPELINE_KDF;
    let mut iteration = if pipeline { input(None)? } else { Zeroizing::new(given.initial.clone()) };
    let mut made = Vec::with_capacity(extent.lengths.len());
    let mut counter = 0;
    for length in &extent.lengths {
        let mut key = Zeroizing::new(Vec::with_capacity(*length));
        while key.len() < *length {
            counter += 1;
            if pipeline {
                iteration = prf(&iteration)?;
            }
            let block = prf(&input(Some((counter, &iteration)))?)?;
            let missing = *length - key.len();
            key.extend(block.iter().take(missing));
            if !pipeline {
                iteration = block;
            }
        }
        made.push(key);
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hash::Hash;
    use crate::crypto::mac;

    const COUNTER: u64 = CKM_SP800_108_COUNTER_KDF;
    const FEEDBACK: u64 = CKM_SP800_108_FEEDBACK_KDF;
    const PIPELINE: u64 = CKM_SP800_108_DOUBLE_PIPELINE_KDF;

    fn number(bits: usize) -> Number {
        Number { little: false, bytes: bits / 8 }
    }

    fn given(prf: Hash, parts: Vec<Part>) -> Sp800 {
        Sp800 { prf: PrfType::Hmac(prf), parts, initial: Vec::new(), additional: Vec::new() }
    }

    fn derived(id: u64, given: &Sp800, key: &[u8], lengths: &[usize]) -> Vec<String> {
        right_parts(id, &given.parts).unwrap();
        let lengths: Vec<_> = lengths.iter().copied().map(Some).collect();
        let extent = extent(given, &lengths).unwrap();
        let PrfType::Hmac(hash) = given.prf else { panic!("HMAC alone") };
        keys(id, given, &[], &extent, |message| Ok(mac::hmac(hash, key, message)))
            .unwrap()
            .iter()
            .map(|key| hex(key))
            .collect()
    }

    /// [i]₃₂ ‖ label ‖ 0 ‖ context ‖ [L]₃₂, with the iteration variable where it belongs.
    fn usual(id: u64, prf: Hash) -> Sp800 {
        let mut parts = vec![Part::Iteration((id == COUNTER).then_some(number(32)))];
        if id != COUNTER {
            parts.push(Part::Counter(number(32)));
        }
        parts.push(Part::Bytes(b"label\0context".to_vec()));
        parts.push(Part::Length { number: number(32), segments: false });
        given(prf, parts)
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn counter_mode_is_the_nists() {
        // CAVP "KDF in Counter Mode", HMAC_SHA256, BEFORE_FIXED, 32 and 8 bits, COUNT=0.
        for (bits, key, fixed, expected) in [
            (
                32,
                "dd1d91b7d90b2bd3138533ce92b272fbf8a369316aefe242e659cc0ae238afe0",
                concat!(
                    "01322b96b30acd197979444e468e1c5c6859bf1b1cf951b7e725303e237e46b8",
                    "64a145fab25e517b08f8683d0315bb2911d80a0e8aba17f3b413faac"
                ),
                "10621342bfb0fd40046c0e29f2cfdbf0",
            ),
            (
                8,
                "3edc6b5b8f7aadbd713732b482b8f979286e1ea3b8f8f99c30c884cfe3349b83",
                concat!(
                    "98e9988bb4cc8b34d7922e1c68ad692ba2a1d9ae15149571675f17a77ad49e80",
                    "c8d2a85e831a26445b1f0ff44d7084a17206b4896c8112daad18605a"
                ),
                "6c037652990674a07844732d0ad985f9",
            ),
        ] {
            let parts = vec![Part::Iteration(Some(number(bits))), Part::Bytes(unhex(fixed))];
            assert_eq!(
                derived(COUNTER, &given(Hash::Sha256, parts), &unhex(key), &[16]),
                [expected]
            );
        }
    }

    #[test]
    fn counter_and_feedback_modes_are_openssls() {
        // OpenSSL 3.0's KBKDF, 50 bytes.
        let key: Vec<u8> = (0..32).collect();
        for (hash, expected) in [
            (
                Hash::Sha1,
                concat!(
                    "0ef7400c340a4ddec26964e9211c724db335a0fb44f2ac51a659688b02c5c648",
                    "d3eee14da9eb418dc25330133c70837885e2"
                ),
            ),
            (
                Hash::Sha256,
                concat!(
                    "a7afd3bb3fcdafc2230801a28f80922761bb8c9d1afc4851d61d39fb2d266932",
                    "8afe64856ce30655b82ca9648725332af629"
                ),
            ),
            (
                Hash::Sha512,
                concat!(
                    "65e1a887338665522aaf9a16752021a5ff4d43cc648d0a86390223e5352145a8",
                    "57ae65705adf57e1c690034a9592ca9f8335"
                ),
            ),
        ] {
            assert_eq!(derived(COUNTER, &usual(COUNTER, hash), &key, &[50]), [expected]);
        }
        // The counter after the rest, 8 bits wide, the length 16.
        let after = vec![
            Part::Bytes(b"label\0context".to_vec()),
            Part::Length { number: number(16), segments: false },
            Part::Iteration(Some(number(8))),
        ];
        let expected = concat!(
            "01e989b497fcac2fd1a6991eb00ed3f7e9bb016499f66eae7368c74edd59ef8c",
            "82a2fed8a3f2f39bf854c68056d76a137421"
        );
        assert_eq!(derived(COUNTER, &given(Hash::Sha256, after), &key, &[50]), [expected]);
        let mut feedback = usual(FEEDBACK, Hash::Sha256);
        feedback.initial = (0xa0..=0xaf).chain(0xa0..=0xaf).collect();
        let expected = concat!(
            "367f199be4095adf007d8831d13a7498b6356e4b9a307b4e906e5da5bba5ffb6",
            "f67318e183280d4f62e018f785a9fce828a5"
        );
        assert_eq!(derived(FEEDBACK, &feedback, &key, &[50]), [expected]);
        let expected = concat!(
            "0ef7400c340a4ddec26964e9211c724db335a0fbadd665a98aacb4c374fb8301",
            "83c37991fe3a6cf87684326300b565adc3d4"
        );
        assert_eq!(derived(FEEDBACK, &usual(FEEDBACK, Hash::Sha1), &key, &[50]), [expected]);
    }

    #[test]
    fn the_pipeline_is_two_chains_of_hmacs() {
        let given = usual(PIPELINE, Hash::Sha256);
        let prf = |message: &[u8]| mac::hmac(Hash::Sha256, b"key", message).to_vec();
        let fixed = [&b"label\0context"[..], &[0, 0, 2, 0]].concat();
        let first = prf(&fixed);
        let second = prf(&first);
        let expected = [
            prf(&[&first[..], &[0, 0, 0, 1], &fixed].concat()),
            prf(&[&second[..], &[0, 0, 0, 2], &fixed].concat()),
        ];
        assert_eq!(derived(PIPELINE, &given, b"key", &[64]), [hex(&expected.concat())]);
    }

    #[test]
    fn each_key_begins_with_a_block_of_its_own_and_the_length_is_of_keys_or_blocks() {
        for (segments, length) in [(false, [2, 0]), (true, [3, 0])] {
            let given = given(
                Hash::Sha256,
                vec![
                    Part::Iteration(Some(Number { little: true, bytes: 2 })),
                    Part::Length { number: Number { little: false, bytes: 2 }, segments },
                ],
            );
            let block = |counter| {
                mac::hmac(Hash::Sha256, b"key", &[counter, 0, length[0], length[1]]).to_vec()
            };
            // The example of §6.42.6: 48 bytes and 16.
            let first = [block(1), block(2)].concat();
            let expected = [hex(&first[..48]), hex(&block(3)[..16])];
            assert_eq!(derived(COUNTER, &given, b"key", &[48, 16]), expected);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_before_the_tpm_is_asked() {
        let usual = usual(COUNTER, Hash::Sha256);
        assert_eq!(extent(&usual, &[None]), Err(Error::TemplateIncomplete(CKA_VALUE_LEN)));
        for length in [0, MAX_DERIVED + 1, usize::MAX] {
            let refused = extent(&usual, &[Some(16), Some(length)]);
            assert!(matches!(refused, Err(Error::KeySizeRange(_))), "{length}");
        }
        let narrow = given(Hash::Sha256, vec![Part::Iteration(Some(number(8)))]);
        assert!(extent(&narrow, &[Some(255 * 32)]).is_ok());
        assert!(matches!(extent(&narrow, &[Some(255 * 32 + 1)]), Err(Error::KeySizeRange(_))));
        let short = Part::Length { number: number(8), segments: false };
        let short = given(Hash::Sha256, vec![Part::Iteration(Some(number(8))), short]);
        assert!(extent(&short, &[Some(31)]).is_ok());
        assert!(matches!(extent(&short, &[Some(32)]), Err(Error::MechanismParamInvalid(_))));

        let length = || Part::Length { number: number(16), segments: false };
        let counted = || Part::Iteration(Some(number(16)));
        let plain = || Part::Iteration(None);
        let counter = || Part::Counter(number(16));
        for (id, parts, right) in [
            (COUNTER, vec![counted(), length()], true),
            (COUNTER, vec![], false),
            (COUNTER, vec![plain()], false),
            (COUNTER, vec![counted(), counted()], false),
            (COUNTER, vec![counted(), counter()], false),
            (COUNTER, vec![counted(), length(), length()], false),
            (FEEDBACK, vec![plain(), counter()], true),
            (FEEDBACK, vec![plain()], true),
            (FEEDBACK, vec![counted()], false),
            (PIPELINE, vec![plain(), counter(), counter()], false),
            (PIPELINE, vec![counter()], false),
        ] {
            assert_eq!(right_parts(id, &parts).is_ok(), right, "{id:#x} {parts:?}");
        }
    }
}
