//! C_Initialize, calls and C_Finalize under every order of threads. See [`crate::sync::schedules`].

use super::*;
use crate::sync::plain::thread;
use crate::sync::schedules::{NEVER, check};
use crate::tpm::schedules::{Chip, job};

fn outside() -> &'static State {
    Box::leak(Box::new(State {
        process: fork::process(),
        forked: false,
        stage: Mutex::default(),
        changed: Condvar::new(),
        poisoned: AtomicBool::new(false),
        heritage: AtomicPtr::new(std::ptr::null_mut()),
    }))
}

/// A module with the model's TPM and no store.
fn module(chip: &Chip, patience: Duration) -> Result<(Arc<Module>, Duration)> {
    let settings = chip.settings();
    let mut config = Config::default();
    let mut tpm = config.tpm.remove(0);
    tpm.tcti = settings.tcti;
    tpm.resource_manager = settings.resource_manager;
    tpm.stores = Vec::new();
    config.tpm = vec![tpm];
    Ok((Module::new(Ok(config), true)?, patience))
}

/// A call that uses the TPM, whatever others do meanwhile.
fn use_the_tpm(state: &'static State) -> Result<()> {
    state.run(|module| {
        let tpm = &module.homes()[0].tpm;
        // Longer than any order of threads can make the wait.
        job(tpm, &crate::tpm::Call::within(NEVER)).expect("nothing breaks here");
        Ok(())
    })
}

fn in_or_out(outcome: &Result<()>) {
    assert!(matches!(outcome, Ok(()) | Err(Error::NotInitialized)), "{outcome:?}");
}

#[test]
fn finalize_waits_for_the_calls_inside_lets_none_in_and_leaves_nothing() {
    for managed in [false, true] {
        check(1_000, move || {
            let chip = Chip::new(managed, 0);
            let state = outside();
            state.initialize(|_| module(&chip, NEVER)).unwrap();
            let calls: Vec<_> = (0..2)
                .map(|_| thread::spawn(move || in_or_out(&use_the_tpm(state))))
                .chain([thread::spawn(move || {
                    // C_WaitForSlotEvent, which nothing else ends.
                    let outcome = state.run(|module| module.wait_for_slot_event(true).map(drop));
                    assert_eq!(outcome, Err(Error::NotInitialized));
                })])
                .collect();

            state.finalize().unwrap();

            // Also before the threads have ended: they are outside.
            chip.is_let_go();
            assert_eq!(use_the_tpm(state), Err(Error::NotInitialized));
            calls.into_iter().for_each(|call| call.join().unwrap());
            chip.is_let_go();
        });
    }
}

#[test]
fn of_threads_that_initialize_and_finalize_at_once_each_pair_counts_once() {
    check(1_000, || {
        let chip = Chip::new(true, 0);
        let state = outside();
        let balance = Arc::new(AtomicUsize::new(100));
        let threads: Vec<_> = (0..4)
            .map(|at| {
                let (chip, balance) = (chip.clone(), balance.clone());
                thread::spawn(move || match at % 2 {
                    0 => match state.initialize(|_| module(&chip, NEVER)) {
                        Ok(()) => drop(balance.fetch_add(1, Ordering::SeqCst)),
                        outcome => assert_eq!(outcome, Err(Error::AlreadyInitialized)),
                    },
                    _ => {
                        in_or_out(&use_the_tpm(state));
                        match state.finalize() {
                            Ok(()) => drop(balance.fetch_sub(1, Ordering::SeqCst)),
                            outcome => assert_eq!(outcome, Err(Error::NotInitialized)),
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let left = balance.load(Ordering::SeqCst) - 100;
        assert!(left < 2, "initialised twice");
        assert_eq!(state.finalize().is_ok(), left == 1);
        chip.is_let_go();
    });
}

#[test]
fn a_call_that_outlasts_the_patience_frees_the_module_itself() {
    check(1_000, || {
        let chip = Chip::new(false, 0);
        let state = outside();
        state.initialize(|_| module(&chip, Duration::from_millis(10))).unwrap();
        let finalized = Arc::new((Mutex::new(false), Condvar::new()));
        let inside = Arc::new((Mutex::new(false), Condvar::new()));
        let call = {
            let (finalized, inside) = (finalized.clone(), inside.clone());
            thread::spawn(move || {
                let outcome = state.run(|module| {
                    *inside.0.lock().unwrap() = true;
                    inside.1.notify_all();
                    let mut over = finalized.0.lock().unwrap();
                    while !*over {
                        over = finalized.1.wait(over).unwrap();
                    }
                    // It may even use the TPM once more: what that opens goes with the module.
                    let call = crate::tpm::Call::within(NEVER);
                    job(&module.homes()[0].tpm, &call).expect("nothing breaks here");
                    Ok(())
                });
                assert_eq!(outcome, Ok(()));
            })
        };
        let mut entered = inside.0.lock().unwrap();
        while !*entered {
            entered = inside.1.wait(entered).unwrap();
        }
        drop(entered);

        state.finalize().unwrap();

        // The next one's state is its own.
        let other = state.initialize(|_| Err(Error::CantLock));
        assert_eq!(other, Err(Error::CantLock));
        *finalized.0.lock().unwrap() = true;
        finalized.1.notify_all();
        call.join().unwrap();
        chip.is_let_go();
    });
}
