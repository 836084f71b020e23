//! The fault matrix: every operation that needs the TPM, met by every fault at its first, second and last
//! command. What comes of it is written down in docs/FAULTS.md, and this test compares the two cell by
//! cell: at every run a sixth of the cells, each fault at one of the three positions or at none, differently
//! for each operation; with `TPM11_MATRIX=all` all of them. `TPM11_MATRIX=write` runs all and writes the
//! document anew from what the module does.
//!
//! No bug can be written down: [`Row`] says what may come of a fault, whatever the document says, and each
//! cell is judged by what must hold in all of them ([`Cell::judge`]).
//!
//! Which operations there are is not kept here: the mechanisms and what they can do come from the module
//! (C_GetMechanismList, C_GetMechanismInfo), the functions from the specification's list, and what nobody
//! has told how to drive fails the test. Of each family of mechanisms the first is driven.
//!
//! What a deadline ends has deadlines that were measured before: an application that loses patience too
//! early, because the machine has too much to do, is replaced by one with twice as much of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN, wait_until};
use swtpm_tests::ck::{Attribute, Ck, Mechanism, P256, Rv, bytes, flag, number};
use swtpm_tests::door::specified;
use swtpm_tests::drive::{Driver, Failure, Kind, Pair, Random, advertised};
use swtpm_tests::shim::{Action, Entry, Fault, Hold};
use swtpm_tests::{App, Bench, Setup, wire};

// ---- faults -------------------------------------------------------------------------------------

/// What goes wrong.
#[derive(Clone, Copy)]
enum What {
    /// The TPM answers this code instead of executing the command.
    Code(u32),
    /// Something happens to the response or to the connection.
    Wire(fn() -> Action),
    /// The command waits while something happens to the TPM, then goes on.
    Event(Event),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    /// Killed and started with the same state.
    PowerCut,
    /// The same, with the state that it had some operations ago.
    RolledBack,
    /// TPM2_Clear.
    Cleared,
    /// Another TPM in its place.
    Replaced,
    /// The connection is cut, and nobody can connect.
    Refused,
}

/// A fault, and what may come of it. The codes are those of TPM 2.0 Part 2 §6.6.
struct Row {
    name: &'static str,
    what: What,
    /// What may come of it when it happens once; empty: it is not of this kind.
    once: &'static [u64],
    /// What may come of it while it lasts.
    lasting: &'static [u64],
    /// What else may come of it at a command that proves a PIN: such a command is not sent again unless
    /// the fault shows that the PIN was not looked at.
    at_pin: &'static [u64],
    /// While it lasts, the module waits until a deadline.
    waits: bool,
}

const OK: &[u64] = &[CKR_OK];
const ERROR: &[u64] = &[CKR_DEVICE_ERROR];
const MEMORY: &[u64] = &[CKR_DEVICE_MEMORY];
const EITHER: &[u64] = &[CKR_OK, CKR_DEVICE_ERROR];
const NONE: &[u64] = &[];

const fn code(
    name: &'static str,
    code: u32,
    once: &'static [u64],
    lasting: &'static [u64],
    at_pin: &'static [u64],
) -> Row {
    Row { name, what: What::Code(code), once, lasting, at_pin, waits: false }
}

/// As [`code`], one that asks to wait.
const fn wait(name: &'static str, code: u32, at_pin: &'static [u64]) -> Row {
    Row { name, what: What::Code(code), once: OK, lasting: ERROR, at_pin, waits: true }
}

const fn wire(name: &'static str, action: fn() -> Action, lasting: &'static [u64]) -> Row {
    Row { name, what: What::Wire(action), once: OK, lasting, at_pin: ERROR, waits: false }
}

const fn event(name: &'static str, event: Event, once: &'static [u64]) -> Row {
    Row { name, what: What::Event(event), once, lasting: NONE, at_pin: ERROR, waits: false }
}

static ROWS: &[Row] = &[
    wait("RETRY", 0x922, NONE),
    wait("TESTING", 0x90A, NONE),
    wait("NV_RATE", 0x920, NONE),
    wait("YIELDED", 0x908, ERROR),
    code("CANCELED", 0x909, OK, ERROR, ERROR),
    code("LOCKOUT", 0x921, ERROR, ERROR, NONE),
    code("OBJECT_MEMORY", 0x902, OK, MEMORY, NONE),
    code("OBJECT_HANDLES", 0x906, OK, MEMORY, NONE),
    code("SESSION_MEMORY", 0x903, OK, MEMORY, NONE),
    code("SESSION_HANDLES", 0x905, OK, MEMORY, NONE),
    code("MEMORY", 0x904, OK, MEMORY, NONE),
    code("INITIALIZE", 0x100, OK, ERROR, NONE),
    code("FAILURE", 0x101, ERROR, ERROR, NONE),
    code("REFERENCE_H0", 0x910, OK, ERROR, NONE),
    code("REFERENCE_S0", 0x918, OK, ERROR, NONE),
    code("HANDLE", 0x18B, EITHER, ERROR, NONE),
    code("INTEGRITY", 0x1DF, EITHER, ERROR, NONE),
    code("AUTH_FAIL", 0x98E, OK, ERROR, &[CKR_PIN_INCORRECT]),
    code("BAD_AUTH", 0x9A2, OK, ERROR, &[CKR_PIN_INCORRECT]),
    code("AUTH_UNAVAILABLE", 0x12F, ERROR, ERROR, &[CKR_PIN_LOCKED]),
    code("POLICY_FAIL", 0x99D, REFUSED, REFUSED, NONE),
    code("PCR_CHANGED", 0x128, REFUSED, REFUSED, NONE),
    code("VALUE", 0x1C4, PARAMETER, PARAMETER, NONE),
    code("CURVE", 0x2E6, PARAMETER, PARAMETER, NONE),
    code("COMMAND_CODE", 0x143, LACKING, LACKING, NONE),
    code("HIERARCHY", 0x185, ERROR, ERROR, NONE),
    code("NV_SPACE", 0x14B, MEMORY, MEMORY, NONE),
    code("NV_LOCKED", 0x148, ERROR, ERROR, NONE),
    code("UPGRADE, or any other code", 0x12D, ERROR, ERROR, NONE),
    code("BAD_TAG of a TPM 1.2", 0x01E, ERROR, ERROR, NONE),
    wire("last byte of the response altered", || Action::Garble { at: -1, xor: 1 }, ALTERED),
    wire("size in the response too small", || shorter(1), ERROR),
    wire("another tag in the response", || Action::Garble { at: 1, xor: 3 }, ERROR),
    wire("four bytes behind the response", || longer(4), EITHER),
    wire("connection cut before the command", || Action::DropBefore, ERROR),
    wire("connection cut within the response", || Action::DropInside(12), ERROR),
    wire("connection cut before the response", || Action::DropAfter, ERROR),
    Row {
        name: "no answer",
        what: What::Wire(|| Action::Silence),
        once: NONE,
        lasting: ERROR,
        at_pin: NONE,
        waits: true,
    },
    Row {
        name: "slow answers",
        what: What::Wire(|| Action::Delay(Duration::from_millis(5))),
        once: NONE,
        lasting: OK,
        at_pin: NONE,
        waits: false,
    },
    Row {
        name: "connection cut and refused",
        what: What::Event(Event::Refused),
        once: NONE,
        lasting: ERROR,
        at_pin: NONE,
        waits: true,
    },
    event("TPM killed and started again", Event::PowerCut, OK),
    event("TPM restarted with an older state", Event::RolledBack, EITHER),
    event("TPM cleared", Event::Cleared, EITHER),
    event("another TPM in its place", Event::Replaced, EITHER),
    // The last, because sessions are done without for a while.
    code(CONTEXT_GAP, 0x901, EITHER, EITHER, NONE),
];

const CONTEXT_GAP: &str = "CONTEXT_GAP";

/// A policy is a signature's affair; elsewhere it is a device error.
const REFUSED: &[u64] = &[CKR_FUNCTION_REJECTED, CKR_DEVICE_ERROR];
const PARAMETER: &[u64] = &[
    CKR_FUNCTION_FAILED,
    CKR_MECHANISM_PARAM_INVALID,
    CKR_CURVE_NOT_SUPPORTED,
    CKR_ATTRIBUTE_VALUE_INVALID,
];
/// No session proves a response code: one that is altered is believed, as another one of the TPM's.
const ALTERED: &[u64] = &[CKR_OK, CKR_DEVICE_ERROR, CKR_FUNCTION_REJECTED];
const LACKING: &[u64] = &[CKR_MECHANISM_INVALID, CKR_DEVICE_ERROR];

/// The response with a size field that leaves some of its bytes out.
fn shorter(bytes: u32) -> Action {
    resized(move |size| size - bytes, 0)
}

/// The response with bytes that belong to nothing.
fn longer(bytes: usize) -> Action {
    resized(move |size| size + bytes as u32, bytes)
}

fn resized(size: impl Fn(u32) -> u32 + Send + Sync + 'static, more: usize) -> Action {
    Action::Rewrite(std::sync::Arc::new(move |_, response: &mut Vec<u8>| {
        let new = size(response.len() as u32);
        response[2..6].copy_from_slice(&new.to_be_bytes());
        response.extend(vec![0; more]);
    }))
}

// ---- operations ---------------------------------------------------------------------------------

/// Who is logged in before the operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Nobody,
    User,
    So,
}

/// The function that failed, and its code.
type Outcome = Result<(), (&'static str, Rv)>;

type Run = Box<dyn Fn(&Client, &Ck) -> Outcome + Send + Sync>;

/// Something that an application does, and that needs the TPM.
struct Operation {
    /// What it is called in the document.
    title: String,
    who: Who,
    /// A login changes who is logged in.
    logs_in: bool,
    /// A login for one use may be left over.
    grants: bool,
    /// It ends with commands that only tidy up.
    tidies: bool,
    /// What it needs, without a fault.
    prepare: Run,
    run: Run,
}

impl Operation {
    fn new(
        title: impl Into<String>,
        who: Who,
        run: impl Fn(&Client, &Ck) -> Outcome + Send + Sync + 'static,
    ) -> Operation {
        Operation {
            title: title.into(),
            who,
            logs_in: false,
            grants: false,
            tidies: false,
            prepare: Box::new(|_, _| Ok(())),
            run: Box::new(run),
        }
    }

    fn login(mut self) -> Operation {
        self.logs_in = true;
        self
    }

    fn grants(mut self) -> Operation {
        self.grants = true;
        self
    }

    fn tidies(mut self) -> Operation {
        self.tidies = true;
        self
    }

    fn after(
        mut self,
        prepare: impl Fn(&Client, &Ck) -> Outcome + Send + Sync + 'static,
    ) -> Operation {
        self.prepare = Box::new(prepare);
        self
    }
}

fn by<T>(function: &'static str, answer: Result<T, Rv>) -> Result<T, (&'static str, Rv)> {
    answer.map_err(|rv| (function, rv))
}

/// How a function comes to the TPM.
enum Reaches {
    /// Never: it looks, or the host does the work.
    Never,
    /// As the mechanisms' operations with one of these flags (CKF_).
    By(u64),
    /// In these operations of its own.
    With(fn() -> Vec<Operation>),
    /// Only on a token without user PIN, whose seal the first private access opens: as a login does.
    Opening,
}

/// Every function that may need the TPM, and how it is driven; all others are one word each. A function
/// that stands in neither list fails the test.
fn reaches(function: &str) -> Option<Reaches> {
    Some(match function {
        "C_InitToken" => Reaches::With(init_token),
        "C_InitPIN" => Reaches::With(init_pin),
        "C_SetPIN" => Reaches::With(set_pin),
        "C_Login" => Reaches::With(login),
        "C_GenerateRandom" => Reaches::With(random),
        "C_GenerateKeyPair" => Reaches::By(CKF_GENERATE_KEY_PAIR),
        "C_Sign" | "C_SignFinal" => Reaches::By(CKF_SIGN),
        // Of secret keys; with public keys the host does it.
        "C_Verify" | "C_VerifyFinal" => Reaches::By(CKF_VERIFY),
        "C_Encrypt" | "C_EncryptUpdate" | "C_EncryptFinal" => Reaches::By(CKF_ENCRYPT),
        "C_SignRecover" => Reaches::By(CKF_SIGN_RECOVER),
        "C_Decrypt" | "C_DecryptFinal" | "C_DecryptUpdate" => Reaches::By(CKF_DECRYPT),
        "C_DeriveKey" => Reaches::By(CKF_DERIVE),
        "C_GenerateKey" => Reaches::By(CKF_GENERATE),
        "C_WrapKey" | "C_WrapKeyAuthenticated" => Reaches::By(CKF_WRAP),
        "C_UnwrapKey" | "C_UnwrapKeyAuthenticated" => Reaches::By(CKF_UNWRAP),
        "C_EncapsulateKey" => Reaches::By(0x1000_0000),
        "C_DecapsulateKey" => Reaches::By(0x2000_0000),
        "C_EncryptMessage" | "C_EncryptMessageNext" => Reaches::By(CKF_MESSAGE_ENCRYPT),
        "C_DecryptMessage" | "C_DecryptMessageNext" => Reaches::By(CKF_MESSAGE_DECRYPT),
        "C_MessageSignInit" => Reaches::By(CKF_MESSAGE_SIGN),
        "C_MessageVerifyInit" => Reaches::By(CKF_MESSAGE_VERIFY),
        // Without a name it is C_Login.
        "C_LoginUser" => Reaches::Never,
        "C_CreateObject" => Reaches::With(creation),
        "C_CopyObject"
        | "C_DestroyObject"
        | "C_GetAttributeValue"
        | "C_SetAttributeValue"
        | "C_FindObjectsInit" => Reaches::Opening,
        "C_Initialize"
        | "C_Finalize"
        | "C_GetInfo"
        | "C_GetFunctionList"
        | "C_GetInterface"
        | "C_GetInterfaceList"
        | "C_GetSlotList"
        | "C_GetSlotInfo"
        | "C_GetTokenInfo"
        | "C_WaitForSlotEvent"
        | "C_GetMechanismList"
        | "C_GetMechanismInfo"
        | "C_OpenSession"
        | "C_CloseSession"
        | "C_CloseAllSessions"
        | "C_GetSessionInfo"
        | "C_SessionCancel"
        | "C_GetOperationState"
        | "C_SetOperationState"
        | "C_Logout"
        | "C_GetObjectSize"
        | "C_FindObjects"
        | "C_FindObjectsFinal"
        | "C_SeedRandom"
        | "C_GetFunctionStatus"
        | "C_CancelFunction"
        | "C_AsyncComplete"
        | "C_AsyncGetID"
        | "C_AsyncJoin"
        | "C_GetSessionValidationFlags" => Reaches::Never,
        // Beginning costs nothing, parts are kept until the end, and digests are the host's.
        _ if ["Encrypt", "Decrypt", "Sign", "Verify", "Digest"].iter().any(|kind| {
            let rest = function.strip_prefix("C_").unwrap_or_default();
            rest.strip_prefix("Message").unwrap_or(rest).starts_with(kind)
        }) =>
        {
            Reaches::Never
        }
        _ => return None,
    })
}

/// The functions of the specification, and the codes that each may return.
fn listed() -> BTreeMap<&'static str, Vec<u64>> {
    let text = include_str!("returns.txt");
    let lines = || text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let number = |name: &str| {
        let line = lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = 0x"));
        u64::from_str_radix(line.expect("every code has a line"), 16).expect("a number")
    };
    let list = |wanted: &str| -> Vec<u64> {
        let line = lines().find_map(|line| line.strip_prefix(wanted)?.strip_prefix(": "));
        line.into_iter().flat_map(|line| line.split(' ')).map(number).collect()
    };
    let common = [list("any"), list("session"), list("token")].concat();
    lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| name.starts_with("C_"))
        .map(|(name, _)| (name, [list(name), common.clone()].concat()))
        .collect()
}

fn login() -> Vec<Operation> {
    vec![
        Operation::new("C_Login, the user", Who::Nobody, |client, ck| {
            by("C_Login", ck.login(client.session, PIN))
        })
        .login(),
        Operation::new("C_Login, the security officer", Who::Nobody, |client, ck| {
            by("C_Login", ck.login_so(client.session, SO_PIN))
        })
        .login(),
        Operation::new("C_Login, for one use of a key", Who::User, |client, ck| {
            by("C_Login", ck.login_as(client.session, CKU_CONTEXT_SPECIFIC, PIN))
        })
        .after(|client, ck| client.begin_guarded(ck))
        .grants(),
        Operation::new("C_Sign after a login for one use", Who::User, |client, ck| {
            by("C_Sign", ck.sign_now(client.session, &[0x42; 32]).map(drop))
        })
        .after(|client, ck| {
            client.begin_guarded(ck)?;
            by("C_Login", ck.login_as(client.session, CKU_CONTEXT_SPECIFIC, PIN))
        })
        .grants(),
    ]
}

fn init_pin() -> Vec<Operation> {
    vec![Operation::new("C_InitPIN", Who::So, |client, ck| {
        by("C_InitPIN", ck.init_pin(client.session, PIN))
    })]
}

fn set_pin() -> Vec<Operation> {
    // The same PIN again: whatever breaks off, it is known afterwards.
    vec![
        Operation::new("C_SetPIN, the user", Who::User, |client, ck| {
            by("C_SetPIN", ck.set_pin(client.session, PIN, PIN))
        }),
        Operation::new("C_SetPIN, the security officer", Who::So, |client, ck| {
            by("C_SetPIN", ck.set_pin(client.session, SO_PIN, SO_PIN))
        }),
    ]
}

const SCRATCH: &str = "scratch";

fn init_token() -> Vec<Operation> {
    vec![
        Operation::new("C_InitToken, a token anew", Who::User, |_, ck| {
            let slot = ck.slot_of(SCRATCH).expect("the token that is initialised anew");
            by("C_InitToken", ck.init_token(slot, SO_PIN, SCRATCH))
        })
        .after(|_, ck| match ck.slot_of(SCRATCH) {
            Some(_) => Ok(()),
            None => {
                let slot = ck.empty_slot().expect("an empty slot");
                by("C_InitToken", ck.init_token(slot, SO_PIN, SCRATCH))
            }
        })
        .tidies(),
    ]
}

fn random() -> Vec<Operation> {
    vec![Operation::new("C_GenerateRandom", Who::User, |client, ck| {
        by("C_GenerateRandom", ck.random(client.session, 16).map(drop))
    })]
}

/// What may be made of keys that are brought in.
fn creation() -> Vec<Operation> {
    let created = |title, template: fn() -> Vec<Attribute>| {
        Operation::new(title, Who::User, move |client, ck| {
            let made = by("C_CreateObject", ck.create_object(client.session, &template()))?;
            by("C_DestroyObject", ck.destroy_object(client.session, made))
        })
    };
    vec![
        created("C_CreateObject, private keys", || {
            vec![
                number(CKA_CLASS, CKO_PRIVATE_KEY),
                number(CKA_KEY_TYPE, CKK_EC),
                flag(CKA_TOKEN, true),
                bytes(CKA_EC_PARAMS, P256),
                bytes(CKA_VALUE, [0x42; 32]),
                flag(CKA_SIGN, true),
            ]
        }),
        created("C_CreateObject, secret keys", || {
            vec![
                number(CKA_CLASS, CKO_SECRET_KEY),
                number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
                flag(CKA_TOKEN, true),
                bytes(CKA_VALUE, [0x42; 32]),
                flag(CKA_SIGN, true),
                flag(CKA_VERIFY, true),
            ]
        }),
    ]
}

/// The functions of operations that the drivers do from the first to the last call, the key's among them.
const WHOLE: &[(u64, &str)] = &[
    (CKF_SIGN, "C_Sign"),
    (CKF_VERIFY, "C_Verify"),
    (CKF_ENCRYPT, "C_Encrypt"),
    (CKF_DECRYPT, "C_Decrypt"),
    (CKF_MESSAGE_ENCRYPT, "C_EncryptMessage"),
    (CKF_MESSAGE_DECRYPT, "C_DecryptMessage"),
    (CKF_DERIVE, "C_DeriveKey"),
    (CKF_GENERATE, "C_GenerateKey"),
    (CKF_WRAP, "C_WrapKey"),
    (CKF_UNWRAP, "C_UnwrapKey"),
];

/// Whether a driver's operation is done with a key pair of the scene's, or makes one.
fn has_pair(driver: &Driver) -> bool {
    driver.wants().is_some() || driver.operation == CKF_GENERATE_KEY_PAIR
}

/// The function of a mechanism's operation, and what its operations are called.
fn titles(driver: &Driver) -> (&'static str, Vec<String>) {
    let family = driver.family();
    let known = match driver.operation {
        CKF_GENERATE_KEY_PAIR => {
            let title = |kind| format!("C_GenerateKeyPair, {family}, {kind} keys");
            return ("C_GenerateKeyPair", vec![title("token"), title("session")]);
        }
        CKF_SIGN => Some("C_Sign"),
        CKF_SIGN_RECOVER => Some("C_SignRecover"),
        CKF_DECRYPT => Some("C_Decrypt"),
        CKF_DERIVE => Some("C_DeriveKey"),
        CKF_WRAP if driver.apart => Some("C_WrapKeyAuthenticated"),
        CKF_UNWRAP if driver.apart => Some("C_UnwrapKeyAuthenticated"),
        flag => {
            let function = WHOLE.iter().find(|(known, _)| *known == flag);
            function.filter(|_| !has_pair(driver)).map(|(_, function)| *function)
        }
    };
    let Some(function) = known else {
        panic!(
            "The module advertises an operation that needs the TPM, {}, and the matrix has no way to \
             do it (flag {:#x}): teach it in swtpm-tests/tests/matrix.rs.",
            driver.name(),
            driver.operation
        );
    };
    (function, vec![format!("{function}, {family}")])
}

/// The operations of one mechanism.
fn of_mechanism(scene: &Scene, driver: &Driver) -> Vec<Operation> {
    let mechanism = driver.mechanism;
    let (function, titles) = titles(driver);
    if driver.operation == CKF_GENERATE_KEY_PAIR {
        let bits = scene.patient.app.mechanism_info(scene.patient.slot, mechanism);
        let bits = bits.expect("C_GetMechanismInfo").ulMinKeySize;
        return titles
            .into_iter()
            .zip([true, false])
            .map(|(title, token)| {
                Operation::new(title, Who::User, move |client, ck| {
                    let size = match mechanism {
                        CKM_EC_KEY_PAIR_GEN => bytes(CKA_EC_PARAMS, P256),
                        _ => number(CKA_MODULUS_BITS, bits),
                    };
                    let token = || flag(CKA_TOKEN, token);
                    let made = ck.generate_pair(
                        client.session,
                        mechanism,
                        &[size, token()],
                        &[token(), flag(CKA_SIGN, true)],
                    );
                    let (public, private) = by("C_GenerateKeyPair", made)?;
                    for object in [public, private] {
                        by("C_DestroyObject", ck.destroy_object(client.session, object))?;
                    }
                    Ok(())
                })
            })
            .collect();
    }
    let Some(kind) = driver.wants() else {
        let (driver, title) = (*driver, titles.into_iter().next().expect("it has one"));
        return vec![Operation::new(title, Who::User, move |client, ck| {
            match driver.drive(ck, client.session, None, &mut Random::new(mechanism)) {
                Ok(()) => Ok(()),
                Err(Failure::Refused(function, rv)) => Err((function, rv)),
                Err(Failure::Wrong(what)) => panic!("{what}"),
            }
        })];
    };
    let pair = scene.patient.pair(kind);
    let (mechanism, data) = driver.sample(&scene.patient.app, &pair, &mut Random::new(mechanism));
    let title = titles.into_iter().next().expect("it has one");
    vec![Operation::new(title, Who::User, move |client, ck| {
        let (session, mechanism): (u64, Mechanism) = (client.session, mechanism.clone());
        let key = client.private(ck, kind);
        match function {
            "C_Sign" => {
                by("C_SignInit", ck.sign_init(session, mechanism, key))?;
                by(function, ck.sign_now(session, &data).map(drop))
            }
            "C_SignRecover" => {
                by(function, ck.sign_recover(session, mechanism, key, &data).map(drop))
            }
            "C_Decrypt" => by(function, ck.decrypt(session, mechanism, key, &data).map(drop)),
            _ => {
                let template = [
                    number(CKA_CLASS, CKO_SECRET_KEY),
                    number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
                    flag(CKA_TOKEN, false),
                    number(CKA_VALUE_LEN, 32),
                ];
                let secret = by(function, ck.derive(session, mechanism, key, &template))?;
                by("C_DestroyObject", ck.destroy_object(session, secret))
            }
        }
    })]
}

// ---- the scene ----------------------------------------------------------------------------------

/// One application at the token.
struct Client {
    app: App,
    slot: u64,
    session: u64,
}

fn label_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Ec => "ec",
        Kind::Rsa => "rsa",
    }
}

/// Each call begins with nothing open and ends with nothing open, in the caller's own thread.
const FLAGS: u64 = CKF_OS_LOCKING_OK | CKF_LIBRARY_CANT_CREATE_OS_THREADS;

impl Client {
    /// One that waits for no call longer than `limit`; `None` if it cannot even log in.
    fn start(bench: &Bench, limit: Duration) -> Option<Client> {
        let limit = limit.as_secs_f64();
        bench.configure(&format!(
            "linger_ms = 0\nshort_timeout_s = {limit}\ncommand_timeout_s = {limit}\n\
             call_timeout_s = {limit}\nkeygen_timeout_s = {limit}"
        ));
        let app = bench.app();
        app.initialize_with(FLAGS).expect("C_Initialize");
        let slot = app.slot_of(LABEL).expect("the token");
        let session = app.open(slot).expect("C_OpenSession");
        let logged_in = (0..3).any(|_| app.login(session, PIN).is_ok());
        logged_in.then_some(Client { app, slot, session })
    }

    /// One with all the time of the world.
    fn patient(bench: &Bench) -> Client {
        Client::start(bench, 2 * PATIENCE).unwrap_or_else(|| panic!("no login:\n{}", bench.log()))
    }

    /// An object; its handle is good until the next login.
    fn object(&self, ck: &Ck, class: u64, label: &str) -> u64 {
        let wanted = [number(CKA_CLASS, class), bytes(CKA_LABEL, label)];
        ck.find(self.session, &wanted).expect("C_FindObjects")[0]
    }

    fn private(&self, ck: &Ck, kind: Kind) -> u64 {
        self.object(ck, CKO_PRIVATE_KEY, label_of(kind))
    }

    fn pair(&self, kind: Kind) -> Pair {
        let public = self.object(&self.app, CKO_PUBLIC_KEY, label_of(kind));
        let private = self.private(&self.app, kind);
        let info = self.app.attribute(self.session, public, CKA_PUBLIC_KEY_INFO);
        Pair { public, private, kind, info: info.expect("C_GetAttributeValue") }
    }

    /// A signature that asks for a login of its own.
    fn begin_guarded(&self, ck: &Ck) -> Outcome {
        ck.raw("C_SessionCancel", vec![self.session.into(), CKF_SIGN.into()]);
        // A login that nobody used is forgotten at the next call.
        by("C_GenerateRandom", ck.random(self.session, 1))?;
        let key = self.object(ck, CKO_PRIVATE_KEY, "guarded");
        by("C_SignInit", ck.sign_init(self.session, CKM_ECDSA, key))
    }

    fn state(&self) -> u64 {
        self.app.session_info(self.session).expect("C_GetSessionInfo").state
    }

    /// Logs in or out until it is so.
    fn become_(&self, who: Who) {
        let wanted = match who {
            Who::Nobody => CKS_RW_PUBLIC_SESSION,
            Who::User => CKS_RW_USER_FUNCTIONS,
            Who::So => CKS_RW_SO_FUNCTIONS,
        };
        if self.state() == wanted {
            return;
        }
        if self.state() != CKS_RW_PUBLIC_SESSION {
            self.app.logout(self.session).expect("C_Logout");
        }
        let done = wait_until(PATIENCE, || match who {
            Who::Nobody => true,
            Who::User => self.app.login(self.session, PIN).is_ok(),
            Who::So => self.app.login_so(self.session, SO_PIN).is_ok(),
        });
        assert!(done, "no login");
    }
}

/// How long anything may take that must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A TPM with a token, and two applications at it: one that waits for long, and one that soon loses
/// patience, for faults that are waited out until a deadline.
struct Scene {
    bench: Bench,
    patient: Client,
    /// It comes when it is needed.
    impatient: Option<Client>,
    /// How long the impatient one waits for a call.
    limit: Duration,
    /// The TPM's permanent state before the operations.
    older: Vec<u8>,
}

impl Scene {
    fn start() -> Scene {
        let pin = "[pin]\ngate = \"nv\"\nkdf_iterations = 1000";
        let bench = Setup::default().tpm("linger_ms = 0").config(pin).start();
        bench.token();
        bench.trust(&bench);
        let (app, session) = bench.logged_in();
        app.generate_ec(session, P256, "ec").expect("C_GenerateKeyPair");
        let (label, token) = (|| bytes(CKA_LABEL, "rsa"), || flag(CKA_TOKEN, true));
        app.generate_pair(
            session,
            CKM_RSA_PKCS_KEY_PAIR_GEN,
            &[
                number(CKA_MODULUS_BITS, 2048),
                token(),
                label(),
                flag(CKA_ENCRYPT, true),
                flag(CKA_VERIFY, true),
                flag(CKA_VERIFY_RECOVER, true),
            ],
            &[
                token(),
                label(),
                flag(CKA_DECRYPT, true),
                flag(CKA_SIGN, true),
                flag(CKA_SIGN_RECOVER, true),
            ],
        )
        .expect("C_GenerateKeyPair");
        app.generate_pair(
            session,
            CKM_EC_KEY_PAIR_GEN,
            &[bytes(CKA_EC_PARAMS, P256), token()],
            &[token(), bytes(CKA_LABEL, "guarded"), flag(CKA_ALWAYS_AUTHENTICATE, true)],
        )
        .expect("C_GenerateKeyPair");
        app.finalize().expect("C_Finalize");
        let patient = Client::patient(&bench);
        let older = bench.tpm.permanent();
        Scene { bench, patient, impatient: None, limit: Duration::ZERO, older }
    }

    /// The impatient application waits from now on at least so long, and comes anew.
    fn be_impatient(&mut self, limit: Duration) {
        self.limit = limit.max(Duration::from_secs(1));
        loop {
            if let Some(client) = self.impatient.take() {
                let _ = client.app.finalize();
            }
            self.impatient = Client::start(&self.bench, self.limit);
            if self.impatient.is_some() {
                return;
            }
            self.limit *= 2;
            assert!(self.limit < 2 * PATIENCE, "no login:\n{}", self.bench.log());
        }
    }

    /// Flushes what nobody owns: a response that got lost may have had a handle in it.
    fn sweep(&self) {
        let left = self.bench.shim.left();
        for handle in left.objects.iter().chain(&left.sessions) {
            self.bench.shim.ask(&wire::command(wire::FLUSH_CONTEXT, &[*handle], None, &[]));
        }
    }

    /// The commands of the operation when nothing is wrong.
    fn commands(&self, operation: &Operation) -> Vec<Entry> {
        // Once for all that happens once in a process.
        for _ in 0..2 {
            self.patient.become_(operation.who);
            (operation.prepare)(&self.patient, &self.patient.app).expect("without a fault");
            let (record, outcome) =
                self.bench.shim.watch(|| (operation.run)(&self.patient, &self.patient.app));
            if let Err((function, rv)) = outcome {
                panic!("{}: {function} {rv:?}\n{}", operation.title, self.bench.log());
            }
            if operation.logs_in {
                self.patient.become_(Who::Nobody);
            }
            self.sweep();
            let mut commands = record.0;
            while commands.last().is_some_and(|entry| entry.code == wire::FLUSH_CONTEXT) {
                commands.pop();
            }
            if commands.len() > 1 && self.is_settled(operation, &commands) {
                return commands;
            }
        }
        unreachable!("the second time is settled")
    }

    /// Whether a further run has the same commands.
    fn is_settled(&self, operation: &Operation, commands: &[Entry]) -> bool {
        self.patient.become_(operation.who);
        (operation.prepare)(&self.patient, &self.patient.app).expect("without a fault");
        let (record, outcome) =
            self.bench.shim.watch(|| (operation.run)(&self.patient, &self.patient.app));
        outcome.expect("it worked before");
        let codes =
            |entries: &[Entry]| -> Vec<u32> { entries.iter().map(|entry| entry.code).collect() };
        codes(&record.0).starts_with(&codes(commands))
    }

    /// One fault at one command of one operation.
    fn cell(
        &mut self,
        operation: &Operation,
        row: &Row,
        lasting: bool,
        at: usize,
    ) -> Result<Cell, String> {
        if row.waits && lasting && self.impatient.is_none() {
            let begun = Instant::now();
            self.patient.become_(operation.who);
            wait_until(PATIENCE, || (operation.prepare)(&self.patient, &self.patient.app).is_ok());
            let _ = (operation.run)(&self.patient, &self.patient.app);
            let took = begun.elapsed();
            if operation.logs_in {
                self.patient.become_(Who::Nobody);
            }
            forget_grant(operation, &self.patient);
            self.be_impatient(5 * took);
        }
        loop {
            let cell = self.attempt(operation, row, lasting, at)?;
            // An impatient application on a busy machine may not come as far as the fault.
            if cell.met || !row.waits || !lasting || self.limit > PATIENCE {
                return Ok(cell);
            }
            self.be_impatient(2 * self.limit);
        }
    }

    fn attempt(
        &mut self,
        operation: &Operation,
        row: &Row,
        lasting: bool,
        at: usize,
    ) -> Result<Cell, String> {
        let Scene { bench, patient, impatient, older, .. } = self;
        let client = impatient.as_ref().filter(|_| row.waits && lasting).unwrap_or(patient);
        client.become_(operation.who);
        let ready = wait_until(PATIENCE, || (operation.prepare)(client, &client.app).is_ok());
        if !ready {
            return Err(format!("it cannot be prepared:\n{}", bench.log()));
        }
        let before = client.state();
        let mark = bench.shim.mark();

        let fault = |action| {
            let fault = Fault::at_any(action).after(at);
            if lasting { fault.always() } else { fault }
        };
        let mut kept = None;
        let outcome = match row.what {
            What::Code(code) => {
                bench.shim.inject(fault(Action::Answer(code)));
                (operation.run)(client, &client.app)
            }
            What::Wire(action) => {
                bench.shim.inject(fault(action()));
                (operation.run)(client, &client.app)
            }
            What::Event(event) => {
                let hold = Hold::new();
                bench.shim.inject(Fault::at_any(Action::Hold(hold.clone())).after(at));
                std::thread::scope(|scope| {
                    let ck = client.app.thread();
                    let runs = scope.spawn(move || (operation.run)(client, &ck));
                    if !hold.wait(PATIENCE) {
                        return runs.join().expect("no panic");
                    }
                    kept = Some(bench.tpm.permanent());
                    let mut then = None;
                    match event {
                        Event::PowerCut => bench.tpm.power_cut(),
                        Event::RolledBack => bench.tpm.power_cut_with(Some(older)),
                        Event::Replaced => bench.tpm.power_cut_with(None),
                        Event::Cleared => {
                            let clear =
                                wire::command(wire::CLEAR, &[wire::PLATFORM], Some(b""), &[]);
                            assert_eq!(wire::response_code(&bench.shim.ask(&clear)), 0);
                        }
                        Event::Refused => {
                            bench.shim.hide();
                            then = Some(Action::DropBefore);
                        }
                    }
                    hold.release(then);
                    runs.join().expect("no panic")
                })
            }
        };
        let met = bench.shim.heal() > 0;
        let tries = bench.shim.pin_tries(mark);
        let record = bench.shim.since(mark);
        let met_entry = record.0.get(at).cloned();
        match row.what {
            What::Event(Event::Refused) if kept.is_some() => bench.shim.show(),
            // The old TPM is back.
            What::Event(Event::Cleared | Event::Replaced | Event::RolledBack) if kept.is_some() => {
                bench.tpm.power_cut_with(kept.as_deref());
            }
            _ => {}
        }

        let after = client.state();
        if !operation.logs_in && before != after {
            return Err(format!("the login state was {before} and is {after}"));
        }
        // Without a new login, but for an operation that is one.
        if operation.logs_in {
            client.become_(Who::Nobody);
        }
        let mut again = Ok(());
        let works = wait_until(PATIENCE, || {
            again = (operation.prepare)(client, &client.app)
                .and_then(|()| (operation.run)(client, &client.app));
            again.is_ok()
        });
        if operation.logs_in {
            client.become_(Who::Nobody);
        }
        if !works {
            return Err(format!(
                "{outcome:?}, and does not work afterwards: {again:?}\n{}\n{}",
                record.lines(),
                bench.log()
            ));
        }
        forget_grant(operation, client);
        if row.name == CONTEXT_GAP {
            // As if it had not been.
            self.patient.app.finalize().expect("C_Finalize");
            self.patient = Client::patient(&self.bench);
        }
        self.sweep();
        let at_pin = met_entry.as_ref().is_some_and(proves_a_pin);
        let tidies = operation.tidies
            && met_entry.is_some_and(|entry| entry.code == wire::NV_UNDEFINE_SPACE);
        Ok(Cell { outcome, tries, met, at_pin, tidies })
    }
}

/// A login that nobody used is forgotten at the next call; until then it keeps the TPM.
fn forget_grant(operation: &Operation, client: &Client) {
    if operation.grants {
        client.app.raw("C_SessionCancel", vec![client.session.into(), CKF_SIGN.into()]);
        wait_until(PATIENCE, || client.app.random(client.session, 1).is_ok());
    }
}

/// Whether the command's authorization is a PIN's.
fn proves_a_pin(entry: &Entry) -> bool {
    let index = entry.handles.first().is_some_and(|handle| handle >> 24 == 0x01);
    index && matches!(entry.code, wire::POLICY_SECRET | wire::NV_CHANGE_AUTH)
}

/// What came of one fault at one command.
struct Cell {
    outcome: Outcome,
    tries: usize,
    met: bool,
    at_pin: bool,
    /// The command removes what the operation has already replaced.
    tidies: bool,
}

impl Cell {
    fn rv(&self) -> u64 {
        self.outcome.err().map_or(CKR_OK, |(_, rv)| rv.0)
    }

    /// What must hold in every cell, whatever the document says.
    fn judge(
        &self,
        operation: &Operation,
        row: &Row,
        lasting: bool,
        listed: &BTreeMap<&str, Vec<u64>>,
    ) -> Result<(), String> {
        let rv = self.rv();
        if !self.met {
            return Err("the fault was not met".to_owned());
        }
        if self.tries != 0 {
            return Err(format!("{} PIN tries were spent", self.tries));
        }
        if let Err((function, rv)) = self.outcome {
            if !listed[function].contains(&rv.0) {
                return Err(format!("{function} may not return {rv:?}"));
            }
        }
        let mut may = if lasting { row.lasting } else { row.once }.to_vec();
        // What the TPM says against a key that goes to another TPM or comes from one, is said of that key.
        let said = matches!(row.what, What::Code(_)) || row.lasting == ALTERED;
        let of_the_key =
            [("C_WrapKey", CKR_KEY_NOT_WRAPPABLE), ("C_UnwrapKey", CKR_WRAPPED_KEY_INVALID)];
        if let Err((function, rv)) = self.outcome {
            if said && of_the_key.contains(&(function, rv.0)) {
                may.push(rv.0);
            }
        }
        if self.at_pin {
            may.extend(row.at_pin);
        }
        // What is left over is removed another time.
        if self.tidies {
            may.push(CKR_OK);
        }
        // What a login for one use allows is not tried again; it is lost with what the TPM forgets.
        if operation.grants {
            may.extend(row.lasting);
            may.push(CKR_USER_NOT_LOGGED_IN);
        }
        if !may.contains(&rv) {
            return Err(format!(
                "{:?} is none of {:?}",
                Rv(rv),
                may.iter().map(|rv| Rv(*rv)).collect::<Vec<_>>()
            ));
        }
        Ok(())
    }
}

// ---- the document -------------------------------------------------------------------------------

/// How codes are written in the document.
const LETTERS: &[(u64, &str, &str)] = &[
    (CKR_OK, "ok", "`CKR_OK`"),
    (CKR_DEVICE_ERROR, "E", "`CKR_DEVICE_ERROR`"),
    (CKR_DEVICE_MEMORY, "M", "`CKR_DEVICE_MEMORY`"),
    (CKR_FUNCTION_FAILED, "F", "`CKR_FUNCTION_FAILED`"),
    (CKR_FUNCTION_REJECTED, "R", "`CKR_FUNCTION_REJECTED`"),
    (CKR_MECHANISM_INVALID, "I", "`CKR_MECHANISM_INVALID`"),
    (CKR_CURVE_NOT_SUPPORTED, "C", "`CKR_CURVE_NOT_SUPPORTED`"),
    (CKR_ATTRIBUTE_VALUE_INVALID, "A", "`CKR_ATTRIBUTE_VALUE_INVALID`"),
    (CKR_USER_NOT_LOGGED_IN, "N", "`CKR_USER_NOT_LOGGED_IN`"),
    (CKR_PIN_INCORRECT, "P", "`CKR_PIN_INCORRECT`"),
    (CKR_PIN_LOCKED, "L", "`CKR_PIN_LOCKED`"),
];

fn letter(rv: u64) -> String {
    match LETTERS.iter().find(|(code, ..)| *code == rv) {
        Some((_, letter, _)) => (*letter).to_owned(),
        None => format!("{:?}", Rv(rv)),
    }
}

/// The results of one operation: for each fault and position what comes of it once and while it lasts.
struct Section {
    title: String,
    /// The commands at first, second and last.
    positions: [String; 3],
    /// For each row three cells.
    rows: Vec<(&'static str, [String; 3])>,
}

impl Section {
    /// As it stands in the document: faults with the same cells share a line.
    fn text(&self) -> String {
        let mut lines: Vec<(Vec<&str>, &[String; 3])> = Vec::new();
        for (name, cells) in &self.rows {
            match lines.iter_mut().find(|(_, known)| *known == cells) {
                Some((names, _)) => names.push(name),
                None => lines.push((vec![name], cells)),
            }
        }
        let [first, second, last] = &self.positions;
        let mut text = format!("### {}\n\n", self.title);
        let _ = writeln!(text, "| fault | {first} | {second} | {last} |\n|---|---|---|---|");
        for (names, [first, second, last]) in lines {
            let _ = writeln!(text, "| {} | {first} | {second} | {last} |", names.join("; "));
        }
        text
    }
}

/// The sections of the document by their titles, each with its text.
fn sections(document: &str) -> Vec<(String, String)> {
    let mut parts = document.split("### ");
    parts.next();
    parts
        .map(|part| {
            let title = part.lines().next().unwrap_or_default().to_owned();
            (title, format!("### {}\n", part.trim_end()))
        })
        .collect()
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/FAULTS.md")
}

/// The head of the document, from what the sections hold.
fn head(sections: &[(String, String)]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut cells, mut runs) = (0, 0);
    for (_, text) in sections {
        for line in text.lines().skip(4) {
            let fields: Vec<&str> = line.trim_matches('|').split(" | ").collect();
            let [names, first, second, last] = fields[..] else { continue };
            let faults = names.split("; ").count();
            for cell in [first, second, last] {
                cells += faults;
                for part in cell.trim().split(" / ").filter(|part| *part != "–") {
                    runs += faults;
                    let name = LETTERS.iter().find(|(_, letter, _)| *letter == part);
                    *counts.entry(name.map_or(part, |(_, _, name)| name)).or_default() += faults;
                }
            }
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let counts: Vec<String> =
        counts.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
    let letters: Vec<String> =
        LETTERS.iter().map(|(_, letter, name)| format!("{letter} {name}")).collect();
    format!(
        "# Faults\n\n\
         What becomes of a call when the TPM or the way to it fails. This file is written by the test \
         `swtpm-tests/tests/matrix.rs`, which compares it with the module at every run.\n\n\
         {} operations, {} faults, each at the first, the second and the last command of the operation: \
         {cells} cells, {runs} calls that met a fault. Of these {}.\n\n\
         In all of them: no PIN try was spent, the login stayed, and afterwards the same call worked \
         without a new login (after a TPM was cleared or replaced: once the token's own was back). \
         `CKR_DEVICE_REMOVED` and `CKR_TOKEN_NOT_PRESENT`, which make applications close their sessions, \
         never came.\n\n\
         A cell says what the call returned when the fault happened once, and after the slash what it \
         returns while the fault lasts; – is for a fault that is not of this kind. {}. A PIN command is not \
         sent again unless the fault shows that the TPM did not look at the PIN; what a TPM says of a PIN \
         (wrong, locked) is believed. Mechanisms of a family share a section.\n\n",
        sections.len(),
        ROWS.len(),
        counts.join(", "),
        letters.join(", "),
    )
}

/// One at a time reads and writes the document.
static DOCUMENT: Mutex<()> = Mutex::new(());

/// The cells of a section's text, by fault and position.
fn cells(text: &str) -> BTreeMap<(&str, usize), &str> {
    let mut cells = BTreeMap::new();
    for line in text.lines().skip(4) {
        let fields: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let Some((names, values)) = fields.split_first() else { continue };
        for name in names.split("; ") {
            cells.extend(values.iter().enumerate().map(|(at, cell)| ((name, at), *cell)));
        }
    }
    cells
}

/// Writes a section into the document, or compares the cells that were run with it. A section that is not
/// there is the affair of the test that looks for missing ones.
fn publish(section: &Section) -> Result<(), String> {
    let _turn = DOCUMENT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let document = std::fs::read_to_string(path()).unwrap_or_default();
    let mut known = sections(&document);
    let text = section.text();
    let at = known.iter().position(|(title, _)| *title == section.title);
    if mode() != "write" {
        let Some(at) = at else { return Ok(()) };
        let old = cells(&known[at].1);
        let differences: Vec<String> = cells(&text)
            .into_iter()
            .filter(|(place, cell)| *cell != NOT_RUN && old.get(place) != Some(cell))
            .map(|((fault, at), cell)| {
                format!("{fault}, {at}: {cell}, document: {:?}", old.get(&(fault, at)))
            })
            .collect();
        if differences.is_empty() {
            return Ok(());
        }
        return Err(format!(
            "{} differs from docs/FAULTS.md (written anew with TPM11_MATRIX=write):\n{}",
            section.title,
            differences.join("\n")
        ));
    }
    match at {
        Some(at) => known[at].1 = text,
        None => known.push((section.title.clone(), text)),
    }
    known.sort();
    write(&known).map_err(|error| error.to_string())
}

fn write(sections: &[(String, String)]) -> std::io::Result<()> {
    let body: Vec<&str> = sections.iter().map(|(_, text)| text.as_str()).collect();
    std::fs::write(path(), format!("{}{}", head(sections), body.join("\n")))
}

// ---- the tests ----------------------------------------------------------------------------------

fn mode() -> String {
    std::env::var("TPM11_MATRIX").unwrap_or_default()
}

/// A cell that this run leaves to others.
const NOT_RUN: &str = "not run";

/// Runs every cell of an operation; the section, and what must not be.
fn run(scene: &mut Scene, operation: &Operation) -> (Section, Vec<String>) {
    let listed = listed();
    let commands = scene.commands(operation);
    let positions = [0, 1, commands.len() - 1];
    let names = ["first", "second", "last"];
    let mut wrong = Vec::new();
    let mut rows = Vec::new();
    for (number, row) in ROWS.iter().enumerate() {
        let one = (number + operation.title.len()) % 6;
        let cells: [String; 3] = std::array::from_fn(|place| {
            if mode().is_empty() && place != one {
                return NOT_RUN.to_owned();
            }
            let at = positions[place];
            let kinds = [(false, row.once), (true, row.lasting)];
            let parts = kinds.map(|(lasting, may)| {
                if may.is_empty() {
                    return "–".to_owned();
                }
                let judged = scene.cell(operation, row, lasting, at).and_then(|cell| {
                    cell.judge(operation, row, lasting, &listed).map(|()| cell.rv())
                });
                match judged {
                    Ok(rv) => letter(rv),
                    Err(why) => {
                        wrong.push(format!(
                            "{}, {} at {} ({}){}: {why}",
                            operation.title,
                            row.name,
                            at,
                            commands[at].name,
                            if lasting { ", lasting" } else { "" }
                        ));
                        "wrong".to_owned()
                    }
                }
            });
            parts.join(" / ")
        });
        rows.push((row.name, cells));
    }
    assert_eq!(scene.bench.shim.lockout_counter(), 0, "the TPM-wide counter");
    let mut positions =
        positions.into_iter().zip(names).map(|(at, name)| format!("{name}: {}", commands[at].name));
    let positions = std::array::from_fn(|_| positions.next().expect("three"));
    (Section { title: operation.title.clone(), positions, rows }, wrong)
}

/// Runs operations, each with a TPM of its own, some at once (half of the time they wait), and compares or
/// writes their sections. `operations` gives them for a scene.
fn matrix(operations: impl Fn(&Scene) -> Vec<Operation> + Sync) {
    let first = Scene::start();
    let count = operations(&first).len();
    assert!(count > 0, "nothing to do");
    let one = |mut scene: Scene, index: usize| {
        let operation = &operations(&scene)[index];
        let (section, mut wrong) = run(&mut scene, operation);
        if wrong.is_empty() {
            wrong.extend(publish(&section).err());
        }
        wrong
    };
    let one = &one;
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let others: Vec<_> =
            (1..count).map(|index| scope.spawn(move || one(Scene::start(), index))).collect();
        let mut wrong = one(first, 0);
        for other in others {
            wrong.extend(other.join().expect("no panic"));
        }
        wrong
    });
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Everything advertised that needs the TPM.
fn drivers(scene: &Scene) -> Vec<Driver> {
    let drivers = advertised(&scene.patient.app, scene.patient.slot);
    let mut drivers = drivers.unwrap_or_else(|missing| panic!("{missing}"));
    drivers.retain(Driver::needs_tpm);
    drivers
}

/// The operations of the mechanisms of which this is true; of each family the first mechanism's.
fn of_mechanisms(scene: &Scene, wanted: impl Fn(&Driver) -> bool) -> Vec<Operation> {
    let mut operations: Vec<Operation> = Vec::new();
    for driver in drivers(scene).iter().filter(|driver| wanted(driver)) {
        let known = |title: &String| operations.iter().any(|known| known.title == *title);
        if !titles(driver).1.iter().all(known) {
            operations.extend(of_mechanism(scene, driver));
        }
    }
    operations
}

/// The operations with a pair that have this flag.
fn by_flag(scene: &Scene, flags: u64) -> Vec<Operation> {
    of_mechanisms(scene, |driver| has_pair(driver) && driver.operation & flags != 0)
}

/// The flags of pairs that the tests below ask for; without pairs they ask for all.
const OF_PAIRS: u64 =
    CKF_SIGN | CKF_SIGN_RECOVER | CKF_DECRYPT | CKF_DERIVE | CKF_GENERATE_KEY_PAIR;

#[test]
fn signing() {
    matrix(|scene| by_flag(scene, CKF_SIGN));
}

#[test]
fn signing_with_recovery_and_random_numbers() {
    matrix(|scene| by_flag(scene, CKF_SIGN_RECOVER).into_iter().chain(random()).collect());
}

#[test]
fn decrypting_and_deriving() {
    matrix(|scene| by_flag(scene, CKF_DECRYPT | CKF_DERIVE));
}

#[test]
fn generating_key_pairs() {
    matrix(|scene| by_flag(scene, CKF_GENERATE_KEY_PAIR));
}

#[test]
fn working_with_secret_keys() {
    matrix(|scene| of_mechanisms(scene, |driver| !has_pair(driver)));
}

#[test]
fn creating_objects() {
    matrix(|_| creation());
}

#[test]
fn logging_in() {
    matrix(|_| login());
}

#[test]
fn setting_pins() {
    matrix(|_| init_pin().into_iter().chain(set_pin()).collect());
}

#[test]
fn initialising_a_token() {
    matrix(|_| init_token());
}

#[test]
fn no_operation_that_needs_the_tpm_is_missing_from_the_matrix() {
    let scene = Scene::start();
    let drivers = drivers(&scene);
    let mut expected = Vec::new();
    for driver in &drivers {
        assert!(
            !has_pair(driver) || OF_PAIRS & driver.operation != 0,
            "No test of the matrix asks for {}: add its flag to OF_PAIRS and to one of the tests.",
            driver.name()
        );
        expected.extend(titles(driver).1);
    }
    for function in listed().into_keys() {
        match reaches(function) {
            Some(Reaches::With(operations)) => {
                expected.extend(operations().into_iter().map(|operation| operation.title));
            }
            Some(Reaches::By(flag)) => {
                let known = OF_PAIRS | WHOLE.iter().fold(0, |flags, (known, _)| flags | known);
                let advertised = drivers.iter().any(|driver| driver.operation & flag != 0);
                assert!(
                    known & flag != 0 || !advertised,
                    "{function} is advertised and not driven"
                );
            }
            Some(Reaches::Opening | Reaches::Never) | None => {}
        }
    }
    expected.sort();
    expected.dedup();
    let turn = DOCUMENT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let document = std::fs::read_to_string(path()).expect("docs/FAULTS.md");
    let mut known = sections(&document);
    if mode() == "write" {
        // What there is no longer; what is missing the other tests add.
        known.retain(|(title, _)| expected.contains(title));
        return write(&known).expect("docs/FAULTS.md is written");
    }
    drop(turn);
    let titles: Vec<&String> = known.iter().map(|(title, _)| title).collect();
    assert_eq!(
        titles,
        expected.iter().collect::<Vec<_>>(),
        "the sections of docs/FAULTS.md (left) and the operations (right); TPM11_MATRIX=write makes them \
         the same"
    );
    assert!(document.starts_with(&head(&known)), "the head of docs/FAULTS.md says something else");
    let specified = specified();
    let unknown: Vec<&str> = specified
        .iter()
        .map(String::as_str)
        .filter(|function| reaches(function).is_none())
        .collect();
    assert!(
        unknown.is_empty(),
        "Whether these functions need the TPM nobody has said in swtpm-tests/tests/matrix.rs: {}",
        unknown.join(", ")
    );
}
