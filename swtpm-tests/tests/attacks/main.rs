//! Sequences of calls that must not give a sensitive key away, each of them allowed or nearly so.
//!
//! An attack is a function that tries to get a secret's bytes, or a use that is forbidden, and says whether
//! it got them: who judges compares bytes, not return values. All are run under both values of
//! `[policy] api_attacks`, with session objects, with token objects, and with token objects in two
//! processes that take turns; and with each rule left out alone, so that it is known which attacks a rule
//! stops.
//!
//! What became of each is in docs/ATTACKS.md, which is compared with the module;
//! `TPM11_ATTACKS=write` writes it anew. An attack that needs a mechanism that the token does not have says so there.

mod attacker;
mod derivation;
mod mathematics;
mod sensitivity;
mod separation;
mod state;
mod wrapping;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use cryptoki_sys::CKM_AES_GCM;
use swtpm_tests::ck::{Mechanism, Message};
use swtpm_tests::{Bench, Setup};

use attacker::{Attacker, Stage, Stop, Verdict};

/// One attack.
struct Case {
    name: &'static str,
    run: fn(&Attacker) -> Verdict,
}

macro_rules! cases {
    ($($name:ident)*) => { &[$(Case { name: stringify!($name), run: $name }),*] };
}
use cases;

const GROUPS: [(&str, &[Case]); 5] = [
    ("Key separation", separation::CASES),
    ("Sensitivity, extractability, history, trust", sensitivity::CASES),
    ("Derivation", derivation::CASES),
    ("Wrapping formats", wrapping::CASES),
    ("State, sessions, roles, PINs", state::CASES),
];

fn all() -> impl Iterator<Item = &'static Case> {
    GROUPS.into_iter().flat_map(|(_, cases)| cases)
}

fn case(name: &str) -> &'static Case {
    all().find(|case| case.name == name).unwrap_or_else(|| panic!("no case {name}"))
}

/// AES-GCM with an IV of the caller's.
fn gcm(iv: &[u8]) -> Mechanism {
    Mechanism::gcm(CKM_AES_GCM, iv, b"", 128)
}

/// The same for a key that is wrapped.
fn gcm_wrapping(iv: &[u8]) -> Mechanism {
    Message::new(CKM_AES_GCM, iv, 16, 0).wrapping(b"")
}

/// The columns of the list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Prevent,
    Standard,
}

impl Policy {
    const fn config(self) -> &'static str {
        match self {
            Policy::Prevent => "api_attacks = \"prevent\"\ndates = \"enforce\"",
            Policy::Standard => "api_attacks = \"standard\"",
        }
    }
}

const SETTINGS: &str = "[pin]\nkdf_iterations = 1000\n";

/// A token under these lines of `[policy]`. Two processes at a bare TPM would spend their time waiting for
/// each other.
fn bench(policy: &str) -> Bench {
    let setup = Setup::default().managed();
    let bench = setup.config(&format!("{SETTINGS}[policy]\n{policy}")).start();
    bench.token();
    bench
}

fn told(verdict: &Verdict) -> String {
    match verdict {
        Ok(true) => "**works**".to_owned(),
        Ok(false) => "gets nothing".to_owned(),
        Err(Stop::Refused(function, rv)) => format!("{function}: {rv:?}"),
        Err(Stop::NotOffered(what)) => format!("not offered: {what}"),
        Err(Stop::Thwarted(how)) => (*how).to_owned(),
    }
}

/// What became of all attacks at one stage.
fn run(attacker: &Attacker) -> BTreeMap<&'static str, String> {
    all()
        // Sessions and logins are one process's, and see where they lie what keys they want.
        .filter(|case| attacker.stage == Stage::Session || !case.name.starts_with('e'))
        .map(|case| {
            let began = std::time::Instant::now();
            let verdict = told(&(case.run)(attacker));
            println!("{:?} {}: {verdict} ({:?})", attacker.stage, case.name, began.elapsed());
            (case.name, verdict)
        })
        .collect()
}

/// All stages under one policy: for each case the session's outcome, and those that differ from it.
fn column(policy: Policy) -> BTreeMap<&'static str, String> {
    let bench = bench(policy.config());
    let mut attacker = Attacker::at(&bench, Stage::Session);
    let mut column = run(&attacker);
    for (stage, name) in [(Stage::Token, "on the token"), (Stage::TwoProcesses, "two processes")] {
        attacker = attacker.then(stage);
        for (case, outcome) in run(&attacker) {
            let known = column.get_mut(case).expect("the same cases");
            if !known.contains(&outcome) {
                write!(known, "; {name}: {outcome}").expect("a string");
            }
        }
    }
    column
}

fn document(prevent: &BTreeMap<&str, String>, standard: &BTreeMap<&str, String>) -> String {
    let mut text = include_str!("head.md").to_owned();
    for (title, cases) in GROUPS {
        write!(text, "\n## {title}\n\n| attack | prevent | standard |\n|---|---|---|\n")
            .expect("a string");
        for Case { name, .. } in cases {
            let (id, words) = name.split_once('_').expect("an id and words");
            let words = words.replace('_', " ");
            let id = id.to_uppercase();
            writeln!(text, "| {id} {words} | {} | {} |", prevent[name], standard[name])
                .expect("a string");
        }
    }
    text
}

#[test]
fn no_attack_works_under_prevent_and_under_standard_those_that_the_specification_allows() {
    let (prevent, standard) = std::thread::scope(|scope| {
        let prevent = scope.spawn(|| column(Policy::Prevent));
        let standard = scope.spawn(|| column(Policy::Standard));
        (prevent.join().expect("all judged"), standard.join().expect("all judged"))
    });
    let text = document(&prevent, &standard);
    println!("{text}");
    let works = |column: &BTreeMap<&str, String>| -> Vec<String> {
        let worked = column.iter().filter(|(_, outcome)| outcome.contains("works"));
        worked.map(|(name, outcome)| format!("{name}: {outcome}")).collect()
    };
    println!("{} attacks; under standard these work: {:#?}", prevent.len(), works(&standard));
    assert!(works(&prevent).is_empty(), "under prevent: {:#?}", works(&prevent));

    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/ATTACKS.md");
    if std::env::var("TPM11_ATTACKS").is_ok_and(|how| how == "write") {
        std::fs::write(&path, &text).expect("it is written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (now, then) = (lines(&text), lines(&kept));
    let differ: Vec<_> = now
        .iter()
        .filter(|line| !then.contains(line))
        .map(|line| format!("+ {line}"))
        .chain(then.iter().filter(|line| !now.contains(line)).map(|line| format!("- {line}")))
        .collect();
    assert!(
        differ.is_empty(),
        "docs/ATTACKS.md says otherwise (TPM11_ATTACKS=write writes it anew):\n{}",
        differ.join("\n")
    );
}

/// Attacks that work as soon as one rule is left out; where another rule stops them as well, both. P14 is
/// no row: there is nothing that could save a state, and so nothing to leave out.
const STOPPED: [(&[&str], &[&str]); 18] = [
    (&["P1"], &["b03_read_what_is_neither_sensitive_nor_extractable"]),
    (&["P2"], &["b04_no_longer_sensitive", "b05_extractable_after_all"]),
    (&["P3"], &["a02_wrap_then_decrypt", "a03_wrap_then_no_longer_wrap_but_decrypt"]),
    (&["P4"], &["c09_sign_what_hkdf_expands", "c11_sign_what_sp_800_108_computes"]),
    (&["P5"], &["a10_rsa_oaep_wrap_and_decrypt"]),
    (&["P6"], &["c09_sign_with_a_copy_that_went_out_and_in"]),
    (&["P7"], &["a12_wrap_by_a_public_key_from_outside", "a13_wrap_by_a_known_key"]),
    (&["P8"], &["b25_unwrapped_without_its_limits", "b29_a_secret_key_trusted_by_the_so"]),
    (&["P9"], &["a16_a_strong_key_under_a_weak_one"]),
    (&["P10"], &["b12_unwrap_it_as_readable"]),
    (&["P11"], &["c10_hkdf_data_beside_an_hkdf_key"]),
    (&["P13"], &["b09_a_copy_that_is_not_private"]),
    (&["P15"], &["b16_the_check_value_of_a_short_secret"]),
    // What keeps no value has none to digest.
    (&["P1", "P12"], &["c22_digest_a_sensitive_key"]),
    (&["P3", "P7"], &["a14_let_a_known_key_wrap"]),
    (&["P4", "P7"], &["a01_key_wrap_undone_by_blocks"]),
    (&["P4", "P11"], &["c06_encrypt_what_was_derived_by_encryption"]),
    (&["P6", "P7"], &["a18_a_key_wraps_itself"]),
];

#[test]
fn each_rule_left_out_alone_lets_an_attack_through() {
    let bench = bench(Policy::Prevent.config());
    let mut wrong = Vec::new();
    for (rules, attacks) in STOPPED {
        bench.reconfigure(&format!("{SETTINGS}[policy]\nwithout = {rules:?}"));
        let attacker = Attacker::at(&bench, Stage::Session);
        for name in attacks {
            let verdict = told(&(case(name).run)(&attacker));
            println!("without {rules:?} {name}: {verdict}");
            if verdict != "**works**" {
                wrong.push(format!("without {rules:?} {name}: {verdict}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for number in (1..=15).filter(|number| *number != 14) {
        let rule = format!("P{number}");
        let shown = |(rules, _): &(&[&str], _)| rules.contains(&rule.as_str());
        assert!(STOPPED.iter().any(shown), "{rule}");
    }
}
