//! The drivers themselves: everything that is advertised can be driven, and is right, however it is asked
//! for.

use cryptoki_sys::*;
use swtpm_tests::bench::LABEL;
use swtpm_tests::ck::{bytes, flag, number};
use swtpm_tests::doubt::{Doubt, Doubting};
use swtpm_tests::drive::{Kind, Pair, Random, advertised};
use swtpm_tests::{Bench, Ck, Scene};

#[test]
fn whatever_the_module_advertises_is_driven_and_right() {
    let bench = Bench::start();
    bench.token();
    bench.trust(&bench);
    let (app, session) = bench.logged_in();
    let random = &mut Random::new(1);
    let drivers = advertised(&app, app.slot_of(LABEL).expect("the token")).expect("drivers");
    let pairs = [Kind::Ec, Kind::Rsa]
        .map(|kind| Pair::generate(&app, session, kind, random, [&[], &[]]).expect("a pair"));

    for driver in &drivers {
        let pair = pairs.iter().find(|pair| Some(pair.kind) == driver.wants());
        for _ in 0..3 {
            driver
                .drive(&app, session, pair, random)
                .unwrap_or_else(|failure| panic!("{}: {failure}\n{}", driver.name(), bench.log()));
        }
    }
    println!("{} operations", drivers.len());
    assert!(drivers.len() > 60);
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
