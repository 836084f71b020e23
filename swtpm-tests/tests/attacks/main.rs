//! Sequences of calls that must not give a sensitive key away, each of them allowed or nearly so.
//!
//! An attack is a function that tries to get a secret's bytes, or a use that is forbidden, and says whether
//! it got them: who judges compares bytes, not return values. All are run under both values of
//! `[policy] api_attacks`, with session objects, with token objects, and with token objects in two
//! processes that take turns; and with each rule left out alone, so that it is known which attacks a rule
//! stops. Where a secret key wraps or unwraps, the attack is run by C_WrapKeyAuthenticated and
//! C_UnwrapKeyAuthenticated as well; derivations and formats of wrapping also on a token whose keys are
//! sealed, because those bytes the host works with.
//!
//! What became of each is in docs/ATTACKS.md, which is compared with the module;
//! `TPM11_ATTACKS=write` writes it anew. An attack that needs a mechanism that the token does not have says so there.

mod attacker;
mod derivation;
mod mathematics;
mod sensitivity;
mod separation;
mod state;
mod travel;
mod wrapping;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};

use cryptoki_sys::{CKM_AES_CCM, CKM_AES_GCM};
use swtpm_tests::ck::Mechanism;
use swtpm_tests::shim::Chip;
use swtpm_tests::{Bench, Setup, wire};

use attacker::{Attacker, Stage, Stop, Verdict, Way};

/// One attack.
struct Case {
    name: &'static str,
    run: fn(&Attacker) -> Verdict,
}

macro_rules! cases {
    ($($name:ident)*) => { &[$(Case { name: stringify!($name), run: $name }),*] };
}
use cases;

const GROUPS: [(&str, &[Case]); 6] = [
    ("Key separation", separation::CASES),
    ("Sensitivity, extractability, history, trust", sensitivity::CASES),
    ("Derivation", derivation::CASES),
    ("Wrapping formats", wrapping::CASES),
    ("Keys that come from another TPM", travel::CASES),
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

/// A token under these lines of `[policy]`, whose SO trusts its own storage key. Two processes at a bare TPM
/// would spend their time waiting for each other.
fn bench(policy: &str) -> Bench {
    token(&format!("{SETTINGS}[policy]\n{policy}"), Chip::default())
}

fn token(config: &str, chip: Chip) -> Bench {
    let bench = Setup::default().managed().config(config).start();
    bench.shim.become_chip(chip);
    bench.token();
    bench.trust(&bench);
    bench
}

/// The same where no key works in the TPM that could be sealed instead.
fn sealed(policy: Policy) -> Bench {
    let keys = "[keys]\nsealed_keys = true\nsecret_keys = \"sealed\"";
    let config = format!("{SETTINGS}{keys}\n[policy]\n{}", policy.config());
    let chip = Chip { without_commands: vec![wire::ENCRYPT_DECRYPT_2], ..Chip::default() };
    token(&config, chip)
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

/// What became of attacks, by their names.
type Outcomes = BTreeMap<&'static str, String>;

/// What became of these attacks at one stage; those that came to wrap or unwrap with a secret key go into
/// `wrapping`.
fn run(
    attacker: &Attacker,
    cases: impl Iterator<Item = &'static Case>,
    wrapping: &mut BTreeSet<&'static str>,
) -> Outcomes {
    cases
        // Sessions and logins are one process's, and see where they lie what keys they want.
        .filter(|case| attacker.stage == Stage::Session || !case.name.starts_with('e'))
        .map(|case| {
            let began = std::time::Instant::now();
            attacker.wrapped.set(false);
            let verdict = told(&(case.run)(attacker));
            if attacker.wrapped.get() {
                wrapping.insert(case.name);
            }
            let Attacker { stage, way, sealed, .. } = attacker;
            let sealed = if *sealed { ", sealed" } else { "" };
            let took = began.elapsed();
            println!("{stage:?}, {way:?}{sealed}: {}: {verdict} ({took:?})", case.name);
            (case.name, verdict)
        })
        .collect()
}

/// What also became of an attack, if it is not known.
fn also(known: &mut String, name: &str, outcome: &str) {
    if !known.contains(outcome) {
        write!(known, "; {name}: {outcome}").expect("a string");
    }
}

/// The stages after the first, and how the list calls them.
const FURTHER: [(Stage, &str); 2] =
    [(Stage::Token, "on the token"), (Stage::TwoProcesses, "two processes")];

/// All stages of these cases: for each the session's outcome, and those that differ from it. With it those
/// that wrap.
fn stages<'a>(
    mut attacker: Attacker<'a>,
    wanted: impl Fn(&str) -> bool,
) -> (Attacker<'a>, Outcomes, BTreeSet<&'static str>) {
    let chosen = || all().filter(|case| wanted(case.name));
    let mut wrapping = BTreeSet::new();
    let mut column = run(&attacker, chosen(), &mut wrapping);
    for (stage, name) in FURTHER {
        attacker = attacker.then(stage);
        for (case, outcome) in run(&attacker, chosen(), &mut wrapping) {
            also(column.get_mut(case).expect("the same cases"), name, &outcome);
        }
    }
    (attacker, column, wrapping)
}

/// What one policy tells the other: which attacks wrap or unwrap with a secret key. Under `standard` all come
/// so far that ever will.
enum Wrapping {
    Known(Sender<BTreeSet<&'static str>>),
    Asked(Receiver<BTreeSet<&'static str>>),
}

/// One policy: the outcomes of all attacks, and of those that can go by the functions that authenticate.
fn column(policy: Policy, wrapping: Wrapping) -> (Outcomes, Outcomes) {
    let bench = bench(policy.config());
    let (attacker, column, found) = stages(Attacker::at(&bench, Stage::Session), |_| true);
    let wrapping = match wrapping {
        Wrapping::Known(tell) => {
            tell.send(found.clone()).expect("the other one waits");
            found
        }
        Wrapping::Asked(asked) => asked.recv().expect("the other one tells"),
    };
    let [gcm, ccm] = [CKM_AES_GCM, CKM_AES_CCM].map(Way::Authenticated);
    let attacker = attacker.then(Stage::Session).by(gcm);
    let (attacker, mut authenticated, _) = stages(attacker, |case| wrapping.contains(case));
    let attacker = attacker.then(Stage::Session).by(ccm);
    let wrapping = all().filter(|case| wrapping.contains(case.name));
    for (case, outcome) in run(&attacker, wrapping, &mut BTreeSet::new()) {
        also(authenticated.get_mut(case).expect("the same cases"), "by CCM", &outcome);
    }
    (column, authenticated)
}

/// Derivation and formats of wrapping with sealed keys, which move to no other TPM.
fn column_of_sealed(policy: Policy) -> Outcomes {
    let bench = sealed(policy);
    let attacker = Attacker::at(&bench, Stage::Session).sealed();
    let moves = |case: &str| travel::CASES.iter().any(|moved| moved.name == case);
    stages(attacker, |case| case.starts_with(['c', 'd']) && !moves(case)).1
}

/// A table, a row for each attack of which something is known.
fn table(title: &str, cases: &[Case], columns: [&Outcomes; 2]) -> String {
    let mut text = format!("\n## {title}\n\n| attack | prevent | standard |\n|---|---|---|\n");
    for Case { name, .. } in cases {
        let (Some(prevent), Some(standard)) = (columns[0].get(name), columns[1].get(name)) else {
            continue;
        };
        let (id, words) = name.split_once('_').expect("an id and words");
        let (id, words) = (id.to_uppercase(), words.replace('_', " "));
        writeln!(text, "| {id} {words} | {prevent} | {standard} |").expect("a string");
    }
    text
}

fn document(columns: [&Outcomes; 2], authenticated: [&Outcomes; 2]) -> String {
    let mut text = include_str!("head.md").to_owned();
    for (title, cases) in GROUPS {
        text += &table(title, cases, columns);
    }
    let cases: Vec<Case> = all().map(|Case { name, run }| Case { name, run: *run }).collect();
    let title = "By C_WrapKeyAuthenticated and C_UnwrapKeyAuthenticated";
    text + &table(title, &cases, authenticated)
}

#[test]
fn no_attack_works_under_prevent_and_under_standard_those_that_the_specification_allows() {
    let (tell, asked) = mpsc::channel();
    let ((mut prevent, by_prevent), (mut standard, by_standard), sealed) =
        std::thread::scope(|scope| {
            let prevent = scope.spawn(|| column(Policy::Prevent, Wrapping::Asked(asked)));
            let standard = scope.spawn(|| column(Policy::Standard, Wrapping::Known(tell)));
            let sealed = [Policy::Prevent, Policy::Standard]
                .map(|policy| scope.spawn(move || column_of_sealed(policy)));
            let sealed = sealed.map(|column| column.join().expect("all judged"));
            (prevent.join().expect("all judged"), standard.join().expect("all judged"), sealed)
        });
    for (column, sealed) in [&mut prevent, &mut standard].into_iter().zip(&sealed) {
        for (case, outcome) in sealed {
            also(column.get_mut(case).expect("the same cases"), "sealed keys", outcome);
        }
    }
    let text = document([&prevent, &standard], [&by_prevent, &by_standard]);
    println!("{text}");
    let works = |column: &Outcomes| -> Vec<String> {
        let worked = column.iter().filter(|(_, outcome)| outcome.contains("works"));
        worked.map(|(name, outcome)| format!("{name}: {outcome}")).collect()
    };
    println!("{} attacks, {} also authenticated", prevent.len(), by_prevent.len());
    println!("under standard these work: {:#?}", works(&standard));
    for column in [&prevent, &by_prevent] {
        assert!(works(column).is_empty(), "under prevent: {:#?}", works(column));
    }

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
    (
        &["P10"],
        &[
            "b12_unwrap_it_as_readable",
            "c09_sign_with_the_original_of_a_key_that_came_in_to_derive",
        ],
    ),
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
