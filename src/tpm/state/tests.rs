//! The state against a real TPM behind a resource manager, and the breaker alone.

use super::super::lease::Settings;
use super::super::lease::tests::{key, sign};
use super::super::testing::Swtpm;
use super::*;

const SIGN: u32 = 0x15D;
const START_SESSION: u32 = 0x176;

#[test]
fn an_idle_session_of_a_stranger_turns_the_hot_path_to_passwords_and_back() {
    let swtpm = Swtpm::start_managed();
    let tpm = swtpm.tpm_with(swtpm.managed_settings());
    let srk = Arc::new(tpm.srk_name(&tpm.call()).unwrap());
    let key = key(&tpm, &srk, 1);
    sign(&tpm, &key).unwrap();

    let mut start = vec![0x80, 1, 0, 0, 0, 43, 0, 0, 1, 0x76, 0x40, 0, 0, 7, 0x40, 0, 0, 7];
    start.extend([0, 16]);
    start.extend([7; 16]);
    start.extend([0, 0, 0, 0, 0x10, 0, 0x0B]);
    let (stranger, answers) = swtpm.stranger(&[&start]);
    assert_eq!(answers[0][6..10], [0; 4]);
    let handle = answers[0][10..14].to_vec();
    let save = [&[0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x62][..], &handle].concat();
    let (_, answers) = swtpm.stranger(&[&save]);
    assert_eq!(answers[0][6..10], [0; 4]);

    tpm.peek(|state| state.gap.commands = GAP_LOOK);
    swtpm.take_record();
    sign(&tpm, &key).unwrap();
    let record = swtpm.take_record();
    assert!(record.contains(&SIGN) && !record.contains(&START_SESSION), "{record:x?}");
    assert!(tpm.peek(|state| state.gap.passwords));

    let flush = [&[0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x65][..], &handle].concat();
    let (_, answers) = swtpm.stranger(&[&flush]);
    assert_eq!(answers[0][6..10], [0; 4]);
    drop(stranger);
    tpm.peek(|state| state.gap.looked = None);
    sign(&tpm, &key).unwrap();
    assert!(swtpm.take_record().contains(&START_SESSION), "with a session again");
}

#[test]
fn what_the_configuration_says_of_sessions_holds() {
    for (bus_protection, sessions) in [
        (BusProtection::Always, true),
        (BusProtection::Strict, true),
        // swtpm has no bus.
        (BusProtection::Discrete, false),
    ] {
        let swtpm = Swtpm::start_managed();
        let settings = Settings { bus_protection, ..swtpm.managed_settings() };
        let tpm = swtpm.tpm_with(settings);
        let srk = Arc::new(tpm.srk_name(&tpm.call()).unwrap());
        let key = key(&tpm, &srk, 1);
        swtpm.take_record();
        sign(&tpm, &key).unwrap();
        let record = swtpm.take_record();
        assert_eq!(record.contains(&START_SESSION), sessions, "{bus_protection:?}");
    }
}

#[test]
fn a_full_resource_manager_halves_the_connections() {
    let swtpm = Swtpm::start_managed();
    let settings = Settings { bus_protection: BusProtection::Discrete, ..swtpm.managed_settings() };
    let tpm = swtpm.tpm_with(settings);
    let srk = Arc::new(tpm.srk_name(&tpm.call()).unwrap());
    let first = key(&tpm, &srk, 1);
    sign(&tpm, &first).unwrap();
    let inner_call = tpm.call();
    let mut full = true;
    tpm.with_key(&inner_call, &first, |_| match std::mem::take(&mut full) {
        true => Err(Fault::of_code(SESSION_HANDLES)),
        false => Ok(()),
    })
    .unwrap();
    assert!(tpm.peek(|state| state.halved.is_some()));
}

#[test]
fn a_broken_breaker_closes_again_by_itself() {
    let mut state = State::new(None, true, true);
    let gone = || {
        Fault::from(transport::Broken {
            kind: BrokenKind::Absent,
            sent: false,
            what: String::new(),
        })
    };
    for _ in 0..FAILURES {
        assert!(state.breaker.is_open().is_none());
        state.note(&gone());
    }
    let until = state.breaker.until.unwrap();
    assert!(state.breaker.is_open().is_some());
    state.note(&gone());
    assert_eq!(state.breaker.until, Some(until), "a poller does not keep it open");
}
