//! The drivers themselves: everything that is advertised can be driven, and is right, however it is asked
//! for; and every function there is that does something with a mechanism is called by one of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use cryptoki_sys::*;
use swtpm_tests::bench::LABEL;
use swtpm_tests::ck::{Door, bytes, flag, number};
use swtpm_tests::door::{Argument, Call, specified};
use swtpm_tests::doubt::{Doubt, Doubting};
use swtpm_tests::drive::{Kind, Pair, Random, advertised};
use swtpm_tests::{Bench, Ck, Scene};

/// A door that remembers which functions were called.
#[derive(Debug)]
struct Listening {
    to: Ck,
    called: Mutex<BTreeSet<String>>,
}

impl Door for Listening {
    fn call(&self, call: &mut Call) -> u64 {
        self.called.lock().expect("no panic").insert(call.function.clone());
        let (rv, arguments) = self.to.raw(&call.function, std::mem::take(&mut call.arguments));
        call.arguments = arguments;
        rv
    }
}

/// Functions that are nothing that a mechanism does: the library, slots and tokens, sessions and logins,
/// objects, random numbers.
const OTHERS: &[&str] = &[
    "C_Initialize",
    "C_Finalize",
    "C_GetInfo",
    "C_GetFunctionList",
    "C_GetInterfaceList",
    "C_GetInterface",
    "C_GetSlotList",
    "C_GetSlotInfo",
    "C_GetTokenInfo",
    "C_WaitForSlotEvent",
    "C_GetMechanismList",
    "C_GetMechanismInfo",
    "C_InitToken",
    "C_InitPIN",
    "C_SetPIN",
    "C_OpenSession",
    "C_CloseSession",
    "C_CloseAllSessions",
    "C_GetSessionInfo",
    "C_SessionCancel",
    "C_GetSessionValidationFlags",
    "C_GetOperationState",
    "C_SetOperationState",
    "C_Login",
    "C_LoginUser",
    "C_Logout",
    "C_CreateObject",
    "C_CopyObject",
    "C_DestroyObject",
    "C_GetObjectSize",
    "C_GetAttributeValue",
    "C_SetAttributeValue",
    "C_FindObjectsInit",
    "C_FindObjects",
    "C_FindObjectsFinal",
    "C_SeedRandom",
    "C_GenerateRandom",
    // They say that nothing runs beside the calls.
    "C_GetFunctionStatus",
    "C_CancelFunction",
];

#[test]
fn whatever_the_module_advertises_is_driven_and_right_and_no_function_is_left_out() {
    let bench = Bench::start();
    bench.token();
    bench.trust(&bench);
    let (app, session) = bench.logged_in();
    let random = &mut Random::new(1);
    let drivers = advertised(&app, app.slot_of(LABEL).expect("the token")).expect("drivers");
    let pairs = [Kind::Ec, Kind::Rsa]
        .map(|kind| Pair::generate(&app, session, kind, random, [&[], &[]]).expect("a pair"));
    let listening = Arc::new(Listening { to: (*app).clone(), called: Mutex::default() });
    let ck = Ck::new(listening.clone());

    for driver in &drivers {
        let pair = pairs.iter().find(|pair| Some(pair.kind) == driver.wants());
        for _ in 0..3 {
            driver
                .drive(&ck, session, pair, random)
                .unwrap_or_else(|failure| panic!("{}: {failure}\n{}", driver.name(), bench.log()));
        }
    }

    let called = listening.called.lock().expect("no panic").clone();
    println!("{} operations by {} functions", drivers.len(), called.len());
    assert!(drivers.len() > 60);
    let supported = |function: &String| {
        let words = [session.into()].into_iter().chain([(); 7].map(|()| Argument::NULL));
        app.raw(function, words.collect()).0 != CKR_FUNCTION_NOT_SUPPORTED
    };
    let silent: Vec<String> = specified()
        .into_iter()
        .filter(|function| !OTHERS.contains(&function.as_str()) && !called.contains(function))
        .filter(supported)
        .collect();
    assert!(
        silent.is_empty(),
        "No driver calls these functions, so neither the faults nor the torture meet them: teach one in \
         swtpm-tests/src/drive: {}",
        silent.join(", ")
    );
}

/// How often a driver is driven before it must have come to each doubt: whether it does an operation in one
/// part, of how much data, chance decides.
const ROUNDS: usize = 20;

#[test]
fn whatever_the_module_advertises_answers_every_other_way_to_ask_for_it() {
    // Without P3 a copy may lack a role, so that there are keys that lack nothing else.
    let Scene { bench, app, session } = Scene::configured("[policy]\nwithout = [\"P3\"]");
    bench.trust(&bench);
    let random = &mut Random::new(2);
    let drivers = advertised(&app, app.slot_of(LABEL).expect("the token")).expect("drivers");
    let pairs = [Kind::Ec, Kind::Rsa]
        .map(|kind| Pair::generate(&app, session, kind, random, [&[], &[]]).expect("a pair"));
    let mut strangers: Vec<u64> =
        pairs.iter().flat_map(|pair| [pair.public, pair.private]).collect();
    let roles = [CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY, CKA_WRAP, CKA_UNWRAP, CKA_DERIVE];
    for key_type in [CKK_AES, CKK_GENERIC_SECRET] {
        let mut template = vec![
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, key_type),
            bytes(CKA_VALUE, [3; 32]),
        ];
        template.extend(roles.map(|role| flag(role, true)));
        strangers.push(app.create_object(session, &template).expect("a stranger"));
    }
    let doubting = Doubting::new(&app, strangers);
    let ck = Ck::new(doubting.clone());

    let mut missing = Vec::new();
    for driver in &drivers {
        let pair = pairs.iter().find(|pair| Some(pair.kind) == driver.wants());
        let all = Doubt::all(driver.operation);
        for _ in 0..ROUNDS {
            driver
                .drive(&ck, session, pair, random)
                .unwrap_or_else(|failure| panic!("{}: {failure}\n{}", driver.name(), bench.log()));
            if doubting.seen(driver.mechanism, driver.operation).is_superset(&all) {
                break;
            }
        }
        let seen = doubting.seen(driver.mechanism, driver.operation);
        let left: Vec<&Doubt> = all.difference(&seen).collect();
        if !left.is_empty() {
            missing.push(format!("{}: {left:?}", driver.name()));
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}
