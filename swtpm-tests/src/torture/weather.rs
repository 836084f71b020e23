//! What was injected when, and which return values that permits.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use cryptoki_sys::*;

use crate::drive::Random;
use crate::shim::{Action, Fault};
use crate::wire;

/// How long after its end a fault may still be felt: the module asks no TPM for two seconds after three
/// transport failures in a row, and a machine under load is late.
const TAIL: Duration = Duration::from_secs(4);

/// Return values that a fault permits, each in some functions; in none named: in all.
type Permits = &'static [(&'static [&'static str], u64)];

/// A kind of fault: how it comes about, and which return values it permits beside CKR_DEVICE_ERROR.
#[derive(Debug, Clone)]
pub struct Gust {
    /// What the shim is to do.
    pub fault: Fault,
    permits: Permits,
    /// It may keep something from being flushed: what stays fills a bare TPM's slots.
    strands: bool,
}

const ANY: &[&str] = &[];
const LOGIN: &[&str] = &["C_Login"];
const MAKES: &[&str] = &[
    "C_GenerateKey",
    "C_CreateObject",
    "C_CopyObject",
    "C_DeriveKey",
    "C_UnwrapKey",
    "C_UnwrapKeyAuthenticated",
];
const SIGN: &[&str] = &["C_Sign", "C_SignFinal", "C_SignRecover"];

/// Response codes of Part 2 §6.6 and what the module makes of each if it lasts. The replay of a
/// command, waiting, flushing come before that.
const CODES: &[(u32, Permits)] = &[
    // RETRY, YIELDED, CANCELED, TESTING, NV_RATE, NV_UNAVAILABLE, LOCKOUT
    (0x922, &[]),
    (0x908, &[]),
    (0x909, &[]),
    (0x90A, &[]),
    (0x920, &[]),
    (0x923, &[]),
    (0x921, &[]),
    // OBJECT_MEMORY, OBJECT_HANDLES, SESSION_MEMORY, SESSION_HANDLES, MEMORY
    (0x902, &[(ANY, CKR_DEVICE_MEMORY)]),
    (0x906, &[(ANY, CKR_DEVICE_MEMORY)]),
    (0x903, &[(ANY, CKR_DEVICE_MEMORY)]),
    (0x905, &[(ANY, CKR_DEVICE_MEMORY)]),
    (0x904, &[(ANY, CKR_DEVICE_MEMORY)]),
    // CONTEXT_GAP, TOO_MANY_CONTEXTS, INITIALIZE
    (0x901, &[]),
    (0x12E, &[]),
    (0x100, &[]),
    // INTEGRITY, HANDLE, REFERENCE_H0, REFERENCE_S0
    (0x1DF, &[]),
    (0x18B, &[]),
    (0x910, &[]),
    (0x918, &[]),
    // AUTH_FAIL, BAD_AUTH, AUTH_UNAVAILABLE: at the gate they are about the PIN
    (0x98E, &[(LOGIN, CKR_PIN_INCORRECT)]),
    (0x9A2, &[(LOGIN, CKR_PIN_INCORRECT)]),
    (0x12F, &[(LOGIN, CKR_PIN_LOCKED)]),
    // POLICY_FAIL, EXPIRED, PCR_CHANGED
    (0x99D, &[(SIGN, CKR_FUNCTION_REJECTED)]),
    (0x9A3, &[(SIGN, CKR_FUNCTION_REJECTED)]),
    (0x128, &[(SIGN, CKR_FUNCTION_REJECTED)]),
    // VALUE, SIZE, SCHEME of the first parameter, CURVE, KEY_SIZE, ECC_POINT
    (0x1C4, FORMAT),
    (0x1D5, FORMAT),
    (0x1D2, FORMAT),
    (0x1E6, FORMAT),
    (0x1C7, FORMAT),
    (0x1E7, FORMAT),
    // COMMAND_CODE, HIERARCHY
    (0x143, &[(ANY, CKR_MECHANISM_INVALID)]),
    (0x185, &[]),
    // NV_SPACE, NV_UNINITIALIZED, LOCALITY, BAD_TAG, a code that nobody knows
    (0x14B, &[(ANY, CKR_DEVICE_MEMORY)]),
    (0x14A, &[]),
    (0x907, &[]),
    (0x01E, &[]),
    (0x97F, &[]),
];

/// Codes that no TPM gives after it has executed a command: whoever gets one may send a PIN again.
const BEFORE_IT_BEGINS: &[u32] = &[
    0x922, 0x90A, 0x920, 0x923, 0x902, 0x906, 0x903, 0x905, 0x904, 0x901, 0x12E, 0x100, 0x910,
    0x918,
];

const FORMAT: Permits = &[
    (ANY, CKR_FUNCTION_FAILED),
    (ANY, CKR_MECHANISM_PARAM_INVALID),
    (ANY, CKR_CURVE_NOT_SUPPORTED),
    (ANY, CKR_KEY_SIZE_RANGE),
    // Of CKA_VALUE_LEN, CKA_VALUE, of what was unwrapped, of what stays readable: a length that the chip
    // does not take.
    (MAKES, CKR_ATTRIBUTE_VALUE_INVALID),
    (&["C_UnwrapKey", "C_UnwrapKeyAuthenticated"], CKR_WRAPPED_KEY_LEN_RANGE),
    (&["C_CopyObject", "C_SetAttributeValue"], CKR_TEMPLATE_INCONSISTENT),
];

/// Commands whose answers an HMAC proves, or where the context gap leaves no session, the public key.
/// A shared secret has no such second proof, and is not here.
const PROVEN: &[u32] = &[wire::SIGN, wire::RSA_DECRYPT, wire::UNSEAL];

impl Gust {
    /// Any of them, at any command or at one of these, which the module has sent before.
    pub fn random(random: &mut Random, sent: &[u32]) -> Gust {
        let command = if sent.is_empty() { wire::START_AUTH_SESSION } else { *random.one_of(sent) };
        let any = random.once_in(3);
        let at = |action| if any { Fault::at_any(action) } else { Fault::at(command, action) };
        let (fault, permits): (Fault, Permits) = match random.below(25) {
            0..=7 => {
                let (code, permits) = *random.one_of(CODES);
                (at(Action::Answer(code)), permits)
            }
            8 | 9 => {
                let late = |(code, _): &&(u32, Permits)| !BEFORE_IT_BEGINS.contains(code);
                let late: Vec<_> = CODES.iter().filter(late).collect();
                let (code, permits) = **random.one_of(&late);
                (at(Action::AnswerAfter(code)), permits)
            }
            10 | 11 => (at(Action::DropBefore), &[]),
            12 | 13 => (at(Action::DropAfter), &[]),
            14 | 15 => (at(Action::DropInside(random.below(60))), &[]),
            16 | 17 => {
                let garble = Action::Garble { at: -1 - random.below(30) as isize, xor: 0x11 };
                (Fault::at(*random.one_of(PROVEN), garble), &[])
            }
            // TPM_RC_FAILURE: of one command, else the TPM would be in failure mode in earnest.
            18 | 19 => (Fault::at(command, Action::Answer(0x101)), &[]),
            20 => (at(Action::Silence), &[]),
            _ => {
                let pause = Duration::from_millis(10 + random.below(1500) as u64);
                (at(Action::Delay(pause)), &[])
            }
        };
        let strands = any || command == wire::FLUSH_CONTEXT;
        Gust { fault: fault.times(1 + random.below(2)).after(random.below(3)), permits, strands }
    }
}

/// What happened from when to when.
#[derive(Debug)]
struct Spell {
    from: Instant,
    until: Option<Instant>,
    permits: Permits,
    strands: bool,
    what: String,
}

/// Everything that was injected, as long as it can matter.
#[derive(Debug, Default)]
pub struct Weather(Mutex<Vec<Spell>>);

/// Functions that never ask the TPM, and so have nothing to do with its weather.
const OF_THE_HOST: &[&str] = &[
    "C_Initialize",
    "C_Finalize",
    "C_GetInfo",
    "C_GetSlotList",
    "C_GetSlotInfo",
    "C_GetTokenInfo",
    "C_GetMechanismList",
    "C_GetMechanismInfo",
    "C_OpenSession",
    "C_CloseSession",
    "C_CloseAllSessions",
    "C_GetSessionInfo",
    "C_Logout",
    "C_DestroyObject",
    "C_GetObjectSize",
    "C_GetAttributeValue",
    "C_FindObjectsInit",
    "C_FindObjects",
    "C_FindObjectsFinal",
    // An operation asks when there is something to do.
    "C_EncryptInit",
    "C_DecryptInit",
    "C_SignInit",
    "C_SignRecoverInit",
    "C_VerifyInit",
    "C_VerifyRecoverInit",
    "C_VerifySignatureInit",
    "C_MessageEncryptInit",
    "C_MessageEncryptFinal",
    "C_MessageDecryptInit",
    "C_MessageDecryptFinal",
    // Public keys alone do it.
    "C_VerifyRecover",
    "C_DigestInit",
    "C_Digest",
    "C_DigestUpdate",
    "C_DigestKey",
    "C_DigestFinal",
    "C_SeedRandom",
];

impl Weather {
    /// Something begins, which permits CKR_DEVICE_ERROR and `permits`.
    pub fn begin(&self, what: String, gust: Option<&Gust>) {
        let permits = gust.map_or(&[][..], |gust| gust.permits);
        let strands = gust.is_some_and(|gust| gust.strands);
        let spell = Spell { from: Instant::now(), until: None, permits, strands, what };
        self.0.lock().expect("nobody panics here").push(spell);
    }

    /// Everything that has begun ends now.
    pub fn end(&self) {
        let now = Instant::now();
        let mut spells = self.0.lock().expect("nobody panics here");
        // No call lasts that long without being a hang.
        spells
            .retain(|spell| spell.until.is_none_or(|until| now - until < Duration::from_secs(600)));
        for spell in spells.iter_mut().filter(|spell| spell.until.is_none()) {
            spell.until = Some(now);
        }
    }

    /// Whether a call of `function` that began then and ends now may return `rv`.
    pub fn permits(&self, function: &str, rv: u64, began: Instant) -> bool {
        !OF_THE_HOST.contains(&function)
            && self.0.lock().expect("nobody panics here").iter().any(|spell| {
                spell.until.is_none_or(|until| until + TAIL > began)
                    && (rv == CKR_DEVICE_ERROR
                        || (rv == CKR_DEVICE_MEMORY && spell.strands)
                        || spell.permits.iter().any(|(functions, code)| {
                            *code == rv && (functions.is_empty() || functions.contains(&function))
                        }))
            })
    }

    /// The last of it, for a person.
    pub fn lately(&self) -> String {
        let now = Instant::now();
        let spells = self.0.lock().expect("nobody panics here");
        let lately: Vec<String> = spells
            .iter()
            .rev()
            .take(6)
            .filter(|spell| spell.until.is_none_or(|until| until + 2 * TAIL > now))
            .map(|spell| format!("{} {} ms ago", spell.what, (now - spell.from).as_millis()))
            .collect();
        if lately.is_empty() { "nothing injected".to_owned() } else { lately.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_excuses_only_calls_of_its_time_that_may_ask_the_tpm() {
        let weather = Weather::default();
        let before = Instant::now();
        assert!(!weather.permits("C_Sign", CKR_DEVICE_ERROR, before));
        let gust =
            Gust { fault: Fault::at_any(Action::DropAfter), permits: FORMAT, strands: false };
        weather.begin("a fault".to_owned(), Some(&gust));
        assert!(weather.permits("C_Sign", CKR_DEVICE_ERROR, before));
        assert!(weather.permits("C_Sign", CKR_FUNCTION_FAILED, before));
        assert!(!weather.permits("C_Sign", CKR_DATA_INVALID, before));
        assert!(!weather.permits("C_FindObjects", CKR_DEVICE_ERROR, before));
        weather.end();
        assert!(weather.permits("C_Sign", CKR_DEVICE_ERROR, Instant::now()));
        let later = Instant::now() + TAIL + Duration::from_secs(1);
        assert!(!weather.permits("C_Sign", CKR_DEVICE_ERROR, later));
    }
}
