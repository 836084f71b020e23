//! The lease under every order of threads: a TPM made of a few lines, and what must hold of it whoever
//! comes, goes, waits, gives up and ends when. See [`crate::sync::schedules`].
//!
//! The TPM's own laws are checked at each command: one line at a time on a bare one, no command beside
//! another on the same line, no handle used by a line that did not make it, no line closed while it is
//! in use. After the end nothing may be open, loaded or running.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shuttle::rand::Rng;
use zeroize::Zeroizing;

use super::fault::{Fault, Trouble};
use super::key::name_of;
use super::lease::{Key, KeyLease, Lease, Settings, Tpm};
use super::session::PolicySession;
use super::srk::root_template;
use super::transport::{Broken, BrokenKind, SLICE, Transport};
use super::wire::{Reader, Writer};
use super::{Call, KeyBlob, Name};
use crate::sync::plain::Instant;
use crate::sync::plain::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::sync::plain::thread;
use crate::sync::schedules::check;

/// The path of the socket where the model listens.
pub(crate) const PATH: &str = "model";

const SRK: u32 = 0x8100_0001;
const SIGN: u32 = 0x15D;

std::thread_local! {
    // shuttle plays all threads of a run in one.
    static CHIP: RefCell<Option<Arc<Chip>>> = const { RefCell::new(None) };
}

/// The TPM.
pub(crate) struct Chip {
    managed: bool,
    now: Mutex<Now>,
}

/// Never locked where another thread could come in between.
#[derive(Default)]
struct Now {
    lines: u32,
    open: u32,
    handles: u32,
    /// What is loaded, and by which line.
    loaded: BTreeMap<u32, u32>,
    /// The bare TPM works at a command.
    busy: bool,
    signatures: u32,
    /// So many lines may still break.
    faults: u32,
    could_break: u32,
    /// Commands were left unfinished, because their calls were canceled.
    canceled: bool,
}

impl Chip {
    /// A TPM for this run, behind a resource manager or bare. So many connections to it may break.
    pub(crate) fn new(managed: bool, faults: u32) -> Arc<Self> {
        let now = Mutex::new(Now { faults, could_break: faults, ..Now::default() });
        let chip = Arc::new(Self { managed, now });
        CHIP.with(|place| *place.borrow_mut() = Some(chip.clone()));
        chip
    }

    /// The module's way to it.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            tcti: format!("swtpm:path={PATH}"),
            resource_manager: Some(self.managed),
            ..Settings::default()
        }
    }

    pub(crate) fn tpm(&self) -> Arc<Tpm> {
        Tpm::new(self.settings(), None, Box::new(|_| false))
    }

    /// What must be after the end.
    pub(crate) fn is_let_go(&self) {
        let now = self.now.lock().unwrap();
        assert_eq!(now.open, 0, "a connection is left open");
        // What a broken line left in a bare TPM is cleared away if that can be done soon enough.
        let whole = now.faults == now.could_break && !now.canceled;
        assert!(!whole || now.loaded.is_empty(), "handles are left: {:x?}", now.loaded);
    }

    fn signatures(&self) -> u32 {
        self.now.lock().unwrap().signatures
    }
}

pub(super) fn connect() -> Box<dyn Transport> {
    let chip = CHIP.with(|place| place.borrow().clone()).expect("a run makes its TPM first");
    let mut now = chip.now.lock().unwrap();
    now.lines += 1;
    now.open += 1;
    assert!(chip.managed || now.open == 1, "two hold the one connection of a bare TPM");
    let number = now.lines;
    drop(now);
    Box::new(Line { chip, number, busy: false, broken: false })
}

/// One connection.
struct Line {
    chip: Arc<Chip>,
    number: u32,
    busy: bool,
    broken: bool,
}

impl Transport for Line {
    fn transmit(&mut self, command: &[u8], call: &Call, _: Duration) -> Result<Vec<u8>, Fault> {
        assert!(!self.broken, "a broken line is used again");
        self.busy = true;
        {
            let mut now = self.chip.now.lock().unwrap();
            assert!(self.chip.managed || !now.busy, "two commands at once in a bare TPM");
            now.busy = true;
        }
        // Now and then it takes its time, and everybody else has theirs.
        if shuttle::rand::thread_rng().gen_range(0..8) == 0 {
            thread::sleep(SLICE);
        } else {
            shuttle::thread::yield_now();
        }
        let canceled = call.is_canceled();
        let breaks = shuttle::rand::thread_rng().gen_range(0..6) == 0;
        let mut now = self.chip.now.lock().unwrap();
        now.busy = false;
        self.busy = false;
        if canceled || (breaks && now.faults > 0) {
            self.broken = true;
            if canceled {
                now.canceled = true;
                return Err(Broken::canceled(true).into());
            }
            now.faults -= 1;
            let what = "the model hangs up".to_owned();
            return Err(Broken { kind: BrokenKind::Closed, sent: true, what }.into());
        }
        Ok(self.answer(&mut now, command))
    }

    fn leak(self: Box<Self>) {}
}

impl Drop for Line {
    fn drop(&mut self) {
        assert!(!self.busy || thread::panicking(), "a line is closed while it is used");
        let mut now = self.chip.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.open -= 1;
        if self.chip.managed {
            now.loaded.retain(|_, line| *line != self.number);
        }
    }
}

impl Line {
    fn answer(&self, now: &mut Now, command: &[u8]) -> Vec<u8> {
        let mut reader = Reader::new(command);
        let sessions = reader.u16().unwrap() == 0x8002;
        reader.u32().unwrap();
        let code = reader.u32().unwrap();
        let mut out = Writer::new();
        let mut handle = None;
        let make = |now: &mut Now, kind: u32| {
            now.handles += 1;
            let made = kind << 24 | now.handles;
            now.loaded.insert(made, self.number);
            made
        };
        match code {
            // GetCapability of handles
            0x17A => {
                reader.u32().unwrap();
                let first = reader.u32().unwrap();
                let listed: Vec<u32> =
                    now.loaded.keys().copied().filter(|made| made >> 24 == first >> 24).collect();
                out.u8(0).u32(1).u32(u32::try_from(listed.len()).unwrap());
                for made in listed {
                    out.u32(made);
                }
            }
            // ReadPublic
            0x173 => {
                assert_eq!(reader.u32().unwrap(), SRK);
                out.sized(&srk_public()).sized(&srk()).sized(&srk());
            }
            // StartAuthSession
            0x176 => {
                handle = Some(make(now, 0x02));
                out.sized(&now.handles.to_be_bytes().repeat(4));
            }
            // Load
            0x157 => {
                assert_eq!(reader.u32().unwrap(), SRK);
                let area = reader.u32().unwrap();
                reader.take(area as usize).unwrap();
                reader.sized().unwrap();
                handle = Some(make(now, 0x80));
                out.sized(&name_of(reader.sized().unwrap()).unwrap());
            }
            // ContextLoad
            0x161 => handle = Some(make(now, 0x80)),
            // ContextSave, FlushContext
            0x162 | 0x165 => {
                let old = reader.u32().unwrap();
                let line = now.loaded.get(&old);
                assert!(line.is_some(), "{old:x} is not there to be saved or flushed");
                if code == 0x165 {
                    now.loaded.remove(&old);
                } else {
                    assert_eq!(line, Some(&self.number), "another line's {old:x} is saved");
                    out.bytes(&[0; 8]);
                }
            }
            SIGN => {
                let key = reader.u32().unwrap();
                let line = now.loaded.get(&key);
                assert_eq!(line, Some(&self.number), "{key:x} is used, which is not loaded here");
                now.signatures += 1;
            }
            other => panic!("the model has no command {other:x}"),
        }
        let parameters = out.as_slice().to_vec();
        let mut body = Writer::new();
        if let Some(handle) = handle {
            body.u32(handle);
        }
        if sessions {
            body.u32(u32::try_from(parameters.len()).unwrap());
        }
        body.bytes(&parameters);
        if sessions {
            // The answer to a password.
            body.bytes(&[0, 0, 1, 0, 0]);
        }
        let mut response = Writer::new();
        let size = u32::try_from(10 + body.as_slice().len()).unwrap();
        response.u16(if sessions { 0x8002 } else { 0x8001 }).u32(size).u32(0);
        response.bytes(body.as_slice());
        response.as_slice().to_vec()
    }
}

/// The template with the curve's generator as its point: sessions are salted to it.
fn srk_public() -> Vec<u8> {
    let mut public = root_template();
    public.truncate(public.len() - 68);
    let generator = p256::AffinePoint::GENERATOR;
    let point = elliptic_curve::sec1::ToEncodedPoint::to_encoded_point(&generator, false);
    let point: &p256::EncodedPoint = &point;
    let point = point.as_bytes();
    let mut out = Writer::new();
    out.bytes(&public).sized(&point[1..33]).sized(&point[33..65]);
    out.as_slice().to_vec()
}

fn srk() -> Name {
    name_of(&srk_public()).unwrap()
}

fn key(id: u8) -> Key {
    let blob = KeyBlob {
        id: [id; 16],
        public: srk_public(),
        private: vec![id; 8],
        authorization: Zeroizing::new([id; 32]),
    };
    Key { blob: Arc::new(blob), srk: Arc::new(srk()), grant: None }
}

/// A signature, as far as the lease is concerned: one command with the loaded key's handle.
fn sign(lease: &mut KeyLease) -> Result<(), Fault> {
    let handle = lease.key().handle;
    let command = [&[0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x5D][..], &handle.to_be_bytes()].concat();
    let call = lease.call.clone();
    lease.connection.link.transmit(&command, &call, SLICE).map(drop)
}

/// Something of management: makes a session and leaves it to the lease to flush.
fn manage(lease: &mut Lease) -> Result<(), Fault> {
    lease.srk()?;
    let call = lease.call().clone();
    PolicySession::unsalted(lease.link(), &call).map(drop)
}

/// A call of management and one with a key.
pub(crate) fn job(tpm: &Tpm, call: &Call) -> Result<(), Fault> {
    tpm.with(call, Some(&srk()), manage)?;
    tpm.with_key(call, &key(1), sign)
}

/// What a call may say when lines break and others end the lease.
fn is_fair(outcome: &Result<(), Fault>, canceled: bool, faults: u32) {
    let Err(fault) = outcome else { return };
    match fault.kind() {
        Trouble::Broken(broken) if broken.kind == BrokenKind::Canceled => assert!(canceled),
        Trouble::Broken(broken) if broken.kind == BrokenKind::Late => {}
        Trouble::Broken(broken) => {
            assert!(faults > 0 && broken.kind == BrokenKind::Closed, "{fault}");
        }
        other => panic!("{other:?}"),
    }
}

/// Callers with two keys in turn, and one of management.
fn callers(tpm: &Arc<Tpm>, calls: &[Call], faults: u32) -> Vec<thread::JoinHandle<()>> {
    let work = |at: usize, call: &Call| {
        let (tpm, call) = (tpm.clone(), call.clone());
        thread::spawn(move || {
            for turn in 0..2 {
                let outcome = match at {
                    0 => tpm.with(&call, Some(&srk()), manage),
                    _ => tpm.with_key(&call, &key(u8::try_from(at + turn).unwrap() % 3), sign),
                };
                is_fair(&outcome, call.cancel.load(Ordering::SeqCst), faults);
            }
        })
    };
    calls.iter().enumerate().map(|(at, call)| work(at, call)).collect()
}

fn shapes(schedules: usize, body: impl Fn(bool, u32) + Copy + Send + Sync + 'static) {
    for managed in [false, true] {
        for faults in [0, 2] {
            check(schedules, move || body(managed, faults));
        }
    }
}

#[test]
fn calls_wait_for_each_other_and_the_last_end_leaves_nothing() {
    shapes(600, |managed, faults| {
        let chip = Chip::new(managed, faults);
        let tpm = chip.tpm();
        let calls: Vec<_> = (0..3).map(|_| tpm.call()).collect();
        let callers = callers(&tpm, &calls, faults);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        if faults == 0 {
            assert_eq!(chip.signatures(), 4);
        }
        tpm.end();
        chip.is_let_go();
        assert!(!tpm.has_reaper());
    });
}

#[test]
fn an_idle_lease_is_ended_by_the_reaper_alone() {
    shapes(400, |managed, faults| {
        let chip = Chip::new(managed, faults);
        let tpm = chip.tpm();
        is_fair(&tpm.with_key(&tpm.call(), &key(1), sign), false, faults);
        is_fair(&tpm.with(&tpm.call(), Some(&srk()), manage), false, faults);
        // Nobody comes any more. Only the reaper and the clock are left to do something.
        while chip.now.lock().unwrap().open > 0 {
            thread::sleep(Duration::from_millis(200));
        }
        is_fair(&tpm.with_key(&tpm.call(), &key(1), sign), false, faults);
        tpm.end();
        chip.is_let_go();
    });
}

#[test]
fn the_end_comes_while_calls_wait_and_run_and_all_leave() {
    shapes(800, |managed, faults| {
        let chip = Chip::new(managed, faults);
        let tpm = chip.tpm();
        let calls: Vec<_> = (0..3).map(|_| tpm.call()).collect();
        let callers = callers(&tpm, &calls, faults);
        let ends: Vec<_> = (0..2)
            .map(|_| {
                let tpm = tpm.clone();
                thread::spawn(move || tpm.end())
            })
            .collect();
        calls.iter().for_each(|call| call.cancel.store(true, Ordering::SeqCst));
        tpm.end();
        ends.into_iter().for_each(|end| end.join().unwrap());
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        // A call may have begun before its flag was set and come to its turn after the end: what it
        // opened goes with the last owner.
        drop(tpm);
        chip.is_let_go();
    });
}

#[test]
fn after_an_end_the_next_call_works_and_its_lease_ends_again() {
    shapes(400, |managed, faults| {
        let chip = Chip::new(managed, faults);
        let tpm = chip.tpm();
        let calls = [tpm.call(), tpm.call()];
        let callers = callers(&tpm, &calls, faults);
        tpm.end();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        is_fair(&tpm.with_key(&tpm.call(), &key(1), sign), false, faults);
        drop(tpm);
        chip.is_let_go();
    });
}

/// Somebody has the TPM until the other has given up.
fn one_gives_up(call: Call, cancel: bool, kind: BrokenKind) {
    let chip = Chip::new(false, 0);
    let tpm = chip.tpm();
    let (inside, gone) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let holder = {
        let (tpm, inside, gone) = (tpm.clone(), inside.clone(), gone.clone());
        thread::spawn(move || {
            let outcome = tpm.with(&Call::within(Duration::from_secs(100_000)), None, |_| {
                inside.store(1, Ordering::SeqCst);
                while !gone.load(Ordering::SeqCst) {
                    thread::sleep(SLICE);
                }
                Ok(())
            });
            assert_eq!(outcome, Ok(()));
        })
    };
    let waiter = {
        let (tpm, inside, call) = (tpm.clone(), inside.clone(), call.clone());
        thread::spawn(move || {
            while inside.load(Ordering::SeqCst) == 0 {
                thread::sleep(SLICE);
            }
            let begun = Instant::now();
            let fault = tpm.with(&call, Some(&srk()), manage).unwrap_err();
            assert!(matches!(fault.kind(), Trouble::Broken(broken) if broken.kind == kind));
            assert!(cancel || Instant::now() >= call.deadline || begun >= call.deadline);
            gone.store(true, Ordering::SeqCst);
        })
    };
    if cancel {
        call.cancel.store(true, Ordering::SeqCst);
    }
    waiter.join().unwrap();
    holder.join().unwrap();
    // The place of the one who left is nobody's.
    assert_eq!(tpm.with(&tpm.call(), Some(&srk()), manage), Ok(()));
    drop(tpm);
    chip.is_let_go();
}

#[test]
fn a_canceled_waiter_leaves_whatever_the_holder_does() {
    check(600, || {
        one_gives_up(Call::within(Duration::from_secs(90_000)), true, BrokenKind::Canceled);
    });
}

#[test]
fn a_waiter_leaves_at_its_deadline_whatever_the_holder_does() {
    check(600, || {
        one_gives_up(Call::within(Duration::from_secs(1)), false, BrokenKind::Late);
    });
}

#[test]
fn a_login_for_one_use_is_used_or_forgotten_and_never_kept() {
    shapes(400, |managed, faults| {
        let chip = Chip::new(managed, faults);
        let tpm = chip.tpm();
        let granted = tpm.grant(&tpm.call(), &srk(), |lease| {
            let call = lease.call().clone();
            PolicySession::unsalted(lease.link(), &call)
        });
        let other = {
            let tpm = tpm.clone();
            thread::spawn(move || is_fair(&tpm.with_key(&tpm.call(), &key(2), sign), false, faults))
        };
        if let Ok(grant) = granted {
            let user = {
                let (tpm, grant) = (tpm.clone(), grant.clone());
                thread::spawn(move || {
                    let key = Key { grant: Some(grant), ..key(1) };
                    match tpm.with_key(&tpm.call(), &key, sign) {
                        Err(fault) if *fault.kind() == Trouble::LoginLost => {}
                        outcome => is_fair(&outcome, false, faults),
                    }
                })
            };
            drop(grant);
            user.join().unwrap();
        }
        other.join().unwrap();
        while chip.now.lock().unwrap().open > 0 {
            thread::sleep(Duration::from_millis(200));
        }
        tpm.end();
        chip.is_let_go();
    });
}
