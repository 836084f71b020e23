//! The drivers themselves: everything that is advertised can be driven, and is right.

use swtpm_tests::Bench;
use swtpm_tests::bench::LABEL;
use swtpm_tests::drive::{Kind, Pair, Random, advertised};

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
