//! Slots: what is wrong shows in them and never fails C_Initialize; interrupted initialisations.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN, set_mode};
use swtpm_tests::ck::{P256, Rv, bytes};
use swtpm_tests::shim::{Action, Fault};
use swtpm_tests::{App, Bench, Setup};

fn description(app: &App, slot: u64) -> String {
    let info = app.slot_info(slot).expect("C_GetSlotInfo");
    String::from_utf8_lossy(&info.slotDescription).trim_end().to_owned()
}

#[test]
fn a_configuration_with_a_mistake_shows_as_a_slot_that_says_where() {
    let bench = Setup::default().config("[pin]\nlimmit = 3").start();
    let app = bench.ready();
    let slots = app.slots(true).expect("C_GetSlotList");
    assert_eq!(slots.len(), 1);
    let said = description(&app, slots[0]);
    assert!(said.contains("configuration"), "{said}");
    assert_eq!(app.token_info(slots[0]).map(drop), Err(Rv(CKR_TOKEN_NOT_RECOGNIZED)));
    assert_eq!(app.open_session(slots[0], 0), Err(Rv(CKR_TOKEN_NOT_RECOGNIZED)));
    assert_eq!(app.mechanisms(slots[0]).map(drop), Err(Rv(CKR_TOKEN_NOT_RECOGNIZED)));
    assert_eq!(app.init_token(slots[0], SO_PIN, "x"), Err(Rv(CKR_TOKEN_NOT_RECOGNIZED)));
    assert!(bench.log().contains("limmit"), "{}", bench.log());
}

#[test]
fn a_store_that_cannot_be_read_shows_as_a_slot_and_the_others_work() {
    let bench = Bench::start();
    bench.token();
    let other = bench.directory().join("other");
    std::fs::create_dir(&other).expect("a directory");
    let file = std::fs::read_dir(bench.store())
        .expect("the store")
        .filter_map(Result::ok)
        .map(|entry| entry.file_name())
        .next()
        .expect("its file");
    std::fs::write(other.join(file), vec![0x55; 8192]).expect("garbage");
    let text = std::fs::read_to_string(bench.config()).expect("the configuration");
    let stores = format!("{text}\n[store]\npaths = [{:?}, {:?}]\n", other, bench.store());
    std::fs::write(bench.config(), stores).expect("written");
    let app = bench.app_with(|command| {
        command.env_remove("TPM11_STORE");
    });
    app.initialize().expect("C_Initialize");
    let slots = app.slots(true).expect("C_GetSlotList");
    let broken: Vec<_> =
        slots.iter().filter(|slot| app.token_info(**slot).is_err()).copied().collect();
    assert_eq!(broken.len(), 1, "{}", bench.log());
    assert_eq!(app.token_info(broken[0]).map(drop), Err(Rv(CKR_TOKEN_NOT_RECOGNIZED)));
    let slot = app.slot_of(LABEL).expect("the token of the other store");
    let session = app.open(slot).expect("C_OpenSession");
    app.login(session, PIN).expect("C_Login");
    app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
}

#[test]
fn without_a_tpm_everything_is_shown_and_only_what_needs_it_fails() {
    let mut bench = Bench::start();
    bench.token();
    {
        let (app, session) = bench.logged_in();
        app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    }
    bench.tpm.power_off();
    let app = bench.ready();
    let slot = app.slot_of(LABEL).expect("the token");
    let session = app.open(slot).expect("C_OpenSession");
    assert_eq!(app.find(session, &[bytes(CKA_LABEL, "key")]).expect("search").len(), 1);
    assert_eq!(app.login(session, PIN), Err(Rv(CKR_DEVICE_ERROR)));
    assert_eq!(app.random(session, 8).map(drop), Err(Rv(CKR_DEVICE_ERROR)));
    assert_eq!(app.token_flags(slot).expect("flags") & CKF_USER_PIN_COUNT_LOW, 0, "no try");
    bench.tpm.power_on();
    // A TPM that was gone three times in a row is left alone for a while.
    std::thread::sleep(Duration::from_secs(3));
    app.login(session, PIN).expect("back again");
}

#[test]
fn a_cleared_tpm_is_told_before_any_pin_is_sent_and_a_new_token_can_be_made() {
    let bench = Bench::start();
    bench.token();
    {
        let (app, session) = bench.logged_in();
        app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    }
    bench.tpm.clear();
    let app = bench.ready();
    let slot = app.slot_of(LABEL).expect("the token is still there");
    let session = app.open(slot).expect("C_OpenSession");
    let (record, answer) = bench.shim.watch(|| app.login(session, PIN));
    assert_eq!(answer, Err(Rv(CKR_DEVICE_ERROR)));
    assert_eq!(record.count(swtpm_tests::wire::POLICY_SECRET), 0, "{}", record.lines());
    assert_eq!(app.find(session, &[]).expect("search").len(), 1, "public objects are listed");
    assert_eq!(bench.shim.lockout_counter(), 0);
    assert!(bench.log().contains("cleared or replaced"), "{}", bench.log());
    let empty = app.empty_slot().expect("an empty slot");
    app.init_token(empty, SO_PIN, "new").expect("C_InitToken");
}

#[test]
fn an_empty_slot_has_the_same_id_in_every_process_until_a_token_is_made_there() {
    let bench = Bench::start();
    let looking = bench.ready();
    let slot = looking.empty_slot().expect("an empty slot");
    let app = bench.ready();
    assert_eq!(app.empty_slot(), Some(slot));
    app.init_token(slot, SO_PIN, LABEL).expect("C_InitToken with the id that another process saw");
    looking.slots(true).expect("C_GetSlotList");
    assert_eq!(looking.slot_of(LABEL), Some(slot), "also where the slot was known as empty");
    let next = looking.empty_slot().expect("another empty slot");
    assert_ne!(next, slot);
    assert_eq!(bench.ready().empty_slot(), Some(next));
}

#[test]
fn a_token_that_is_initialised_anew_keeps_its_slot_id_in_other_processes() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let slot = app.slot_of(LABEL).expect("the token");
    app.init_token(slot, SO_PIN, LABEL).expect("C_InitToken");
    assert_eq!(bench.ready().slot_of(LABEL), Some(slot));
}

#[test]
fn the_empty_slot_is_hidden_when_the_configuration_says_so() {
    let bench = Setup::default().config("[store]\nempty_slot = false").start();
    let app = bench.ready();
    assert!(app.slots(true).expect("C_GetSlotList").is_empty());
    assert!(app.slots(false).expect("C_GetSlotList").is_empty());
}

#[test]
fn a_blocked_wait_for_slot_events_ends_with_c_finalize() {
    let bench = Bench::start();
    let app = bench.ready();
    let wait = |app: &swtpm_tests::Ck, flags: u64| {
        let place = swtpm_tests::door::Memory::room(8).into();
        app.raw("C_WaitForSlotEvent", vec![flags.into(), place, swtpm_tests::door::Argument::NULL])
            .0
    };
    assert_eq!(wait(&app, CKF_DONT_BLOCK), CKR_NO_EVENT);
    let waiter = app.thread();
    let waiting = std::thread::spawn(move || wait(&waiter, 0));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!waiting.is_finished());
    app.finalize().expect("C_Finalize");
    assert_eq!(waiting.join().expect("it ends"), CKR_CRYPTOKI_NOT_INITIALIZED);
}

#[test]
fn initialising_anew_that_breaks_off_anywhere_leaves_the_old_token_or_the_new_one() {
    let bench = Bench::start();
    bench.token();
    {
        let (app, session) = bench.logged_in();
        app.generate_ec(session, P256, "old key").expect("C_GenerateKeyPair");
    }
    let mut broken = 0;
    for commands in 0.. {
        bench.shim.inject(Fault::at_any(Action::DropBefore).after(commands).always());
        let app = bench.ready();
        let slot = app.slot_of(LABEL).expect("the old token");
        let answer = app.init_token(slot, SO_PIN, "new");
        // As a crash: nothing is tidied up.
        app.kill();
        let met = bench.shim.heal();

        let app = bench.ready();
        if let Some(slot) = app.slot_of("new") {
            assert!(met == 0 || answer.is_err() || answer.is_ok(), "committed is committed");
            assert_eq!(app.slot_of(LABEL), None, "never both");
            let session = app.open(slot).expect("C_OpenSession");
            app.login_so(session, SO_PIN).expect("C_Login(SO)");
            app.init_pin(session, PIN).expect("C_InitPIN");
            app.logout(session).expect("C_Logout");
            app.login(session, PIN).expect("C_Login");
            assert!(app.find(session, &[]).expect("search").is_empty());
            broken += 1;
            break;
        }
        assert!(answer.is_err(), "{}", bench.log());
        let session = app.open(app.slot_of(LABEL).expect("the old one")).expect("C_OpenSession");
        app.login(session, PIN).unwrap_or_else(|rv| panic!("{commands}: {rv:?}\n{}", bench.log()));
        let key = app.find(session, &[bytes(CKA_LABEL, "old key")]).expect("search");
        assert_eq!(key.len(), 2);
        drop(app);
        let app = bench.ready();
        if app.slot_of(LABEL).is_none() {
            // The login found the new token complete but for its last commit, and committed.
            assert!(app.slot_of("new").is_some(), "{}", bench.log());
            broken += 1;
            break;
        }
        broken += 1;
    }
    assert!(broken > 20, "only {broken} commands to break off at");
    assert!(bench.shim.nv_indices().len() <= 2, "{:x?}", bench.shim.nv_indices());
}

#[test]
fn a_transport_that_is_not_installed_is_told_in_the_log_and_nowhere_else() {
    let bench = Bench::start();
    bench.token();
    let app = bench.app_with(|command| {
        command.env("TPM11_TCTI", "nosuch:really=not");
    });
    app.initialize().unwrap();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    assert_eq!(app.login(session, PIN), Err(Rv(CKR_DEVICE_ERROR)));
    app.finalize().unwrap();
    assert_eq!(app.noise(), "", "tpm2-tss's loader was not asked");
    assert!(bench.log().contains("\"nosuch:really=not\": no TCTI library"), "{}", bench.log());
}

#[test]
fn whatever_is_broken_c_initialize_and_the_list_of_slots_do_not_fail() {
    #[derive(Debug, Clone, Copy)]
    enum Broken {
        NoTpm,
        ForbiddenTpm,
        BusyTpm,
        ClearedTpm,
        NoStore,
        DamagedStore,
        NewerStore,
        Configuration,
    }
    use Broken::*;
    for broken in
        [NoTpm, ForbiddenTpm, BusyTpm, ClearedTpm, NoStore, DamagedStore, NewerStore, Configuration]
    {
        let mut bench = Bench::start();
        bench.token();
        let file = bench.store().join("tpm11.sqlite3");
        let mut holder = None;
        match broken {
            NoTpm => bench.tpm.power_off(),
            ForbiddenTpm => set_mode(bench.shim.socket(), 0),
            // It serves one program at a time.
            BusyTpm => holder = Some(UnixStream::connect(bench.shim.socket()).expect("the TPM")),
            ClearedTpm => bench.tpm.clear(),
            NoStore => std::fs::remove_dir_all(bench.store()).expect("the store"),
            DamagedStore => std::fs::write(&file, [0x5A; 4096]).expect("garbage"),
            NewerStore => rusqlite::Connection::open(&file)
                .and_then(|store| store.pragma_update(None, "user_version", 999))
                .expect("a version of the future"),
            Configuration => {
                std::fs::write(bench.config(), "[pin]\nlimmit = 3").expect("a mistake")
            }
        }
        let app = bench.app();
        assert_eq!(app.initialize(), Ok(()), "{broken:?}");
        let slots = app.slots(true).unwrap_or_else(|rv| panic!("{broken:?}: {rv:?}"));
        assert!(!slots.is_empty(), "{broken:?}: at least one slot that says what is wrong");
        for slot in &slots {
            app.slot_info(*slot).unwrap_or_else(|rv| panic!("{broken:?}: {rv:?}"));
        }
        let has_token = app.slot_of(LABEL).is_some();
        let expected = !matches!(broken, NoStore | DamagedStore | Configuration);
        // (Of a store of the future, its tokens may be readable or not.)
        assert!(has_token == expected || matches!(broken, NewerStore), "{broken:?}");
        assert_eq!(app.finalize(), Ok(()), "{broken:?}");
        assert_eq!(app.noise(), "", "{broken:?}");
        drop(holder);
    }
}
