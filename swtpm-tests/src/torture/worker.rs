//! The workers: processes with threads that do everything at random, check all of it, and start again
//! when they were killed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cryptoki_sys::*;

use super::figures::count;
use super::judge::{Judge, Process};
use super::model::{Doubt, Thing};
use super::scene::{Scene, Shared};
use crate::app::{App, GONE, HUNG};
use crate::bench::{LABEL, PIN};
use crate::ck::{Answer, Ck, Rv, bytes, flag, number};
use crate::door::{Argument, Memory};
use crate::drive::{Driver, Failure, Kind, Pair, Random};
use crate::openssl::Key;

/// Threads of a process.
const THREADS: usize = 3;
/// Sessions of a thread that do everything, beside one with an open search.
const SESSIONS: usize = 3;
/// The limit of any call. The configuration's own limits are lower.
pub const LIMIT: Duration = Duration::from_secs(90);
/// So many objects there are about.
const FEW: usize = 60;
const MANY: usize = 140;

/// One place for a process: whenever the one there ends, another begins, until time is up.
pub fn serve(scene: &Scene, place: usize, mut random: Random) {
    let mut number = 0;
    while !scene.is_over() {
        number += 1;
        one_process(scene, place, &format!("{} {place}.{number}", scene.name), &mut random);
    }
}

fn one_process(scene: &Scene, place: usize, name: &str, random: &mut Random) {
    let app = scene.bench.read().expect("nobody panics here").app();
    let process = Process::new(app.id());
    let first = Thread::new(scene, &app, &process, name, random);
    *scene.places[place].lock().expect("nobody panics here") = Some(process.clone());
    let anchor = AtomicU64::new(0);
    if first.begin(&anchor) {
        let resident = place == 0;
        let before = resident.then(|| first.idle_descriptors(&anchor));
        let disrupting = Mutex::new(());
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let name = format!("{name}/{thread}");
                let mut worker = Thread::new(scene, &app, &process, &name, random);
                let (app, anchor, disrupting) = (&app, &anchor, &disrupting);
                scope.spawn(move || worker.work((thread == 0).then_some(app), anchor, disrupting));
            }
            if resident {
                scene.watch_memory(&process);
            }
        });
        if let (Some(before), false) = (before, process.is_killed()) {
            let after = first.idle_descriptors(&anchor);
            if after > before {
                let more = (after - before) as u64;
                scene.figures.descriptors.fetch_add(more, Ordering::SeqCst);
            }
        }
        if !process.is_killed() {
            let _ = first.ck.finalize();
        }
    }
    *scene.places[place].lock().expect("nobody panics here") = None;
    let noise = app.noise();
    if !noise.is_empty() {
        let figures = &scene.figures;
        figures.complain(&figures.noise, format!("{name} wrote: {noise}"));
    }
}

/// What an object of the model is to be used for.
enum Fate {
    Keep(Vec<Thing>),
    Unknown(Doubt),
}

/// One thread of a process.
struct Thread<'a> {
    scene: &'a Scene,
    process: Arc<Process>,
    judge: Arc<Judge>,
    ck: Ck,
    random: Random,
    sessions: Vec<u64>,
    search: Option<u64>,
    searching: bool,
}

type Done = Result<(), Failure>;

fn by<T>(function: &'static str, answer: Answer<T>) -> Result<T, Failure> {
    answer.map_err(|rv| Failure::Refused(function, rv))
}

fn unanswered(rv: Rv) -> bool {
    rv == GONE || rv == HUNG
}

impl<'a> Thread<'a> {
    fn new(
        scene: &'a Scene,
        app: &App,
        process: &Arc<Process>,
        name: &str,
        random: &mut Random,
    ) -> Thread<'a> {
        let judge = Arc::new(Judge {
            door: app.mortal_thread(LIMIT),
            process: process.clone(),
            figures: scene.figures.clone(),
            weather: scene.weather.clone(),
            seen: AtomicU64::new(0),
            name: name.to_owned(),
        });
        Thread {
            scene,
            process: process.clone(),
            ck: Ck::new(judge.clone()),
            judge,
            random: Random::new(random.number()),
            sessions: Vec::new(),
            search: None,
            searching: false,
        }
    }

    fn is_over(&self) -> bool {
        self.process.is_killed() || self.scene.is_over()
    }

    // ---- beginning, ending, beginning again

    /// C_Initialize, a session that stays, C_Login. False if it was killed in it.
    fn begin(&self, anchor: &AtomicU64) -> bool {
        if self.ck.initialize_with(CKF_OS_LOCKING_OK).is_err() {
            return false;
        }
        let Some(slot) = self.ck.slot_of(LABEL) else {
            return false;
        };
        let Ok(session) = self.ck.open(slot) else { return false };
        anchor.store(session, Ordering::SeqCst);
        self.login(session)
    }

    /// C_Login until it works.
    fn login(&self, session: u64) -> bool {
        loop {
            match self.ck.login(session, PIN) {
                Ok(()) => return true,
                Err(_) if self.process.is_killed() => return false,
                // Whether it may be refused is the judge's affair.
                Err(_) if self.scene.is_over_for_good() => return false,
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// The process's descriptors when the module is finalised.
    fn idle_descriptors(&self, anchor: &AtomicU64) -> usize {
        let _ = self.ck.finalize();
        let count = std::fs::read_dir(format!("/proc/{}/fd", self.process.id))
            .map_or(0, std::iter::Iterator::count);
        self.begin(anchor);
        count
    }

    /// Closes what sessions there are and opens others, once nobody disturbs that.
    fn reopen(&mut self) -> bool {
        for session in self.sessions.drain(..).chain(self.search.take()) {
            let _ = self.ck.close_session(session);
        }
        self.searching = false;
        let calm = loop {
            if self.is_over() {
                return false;
            }
            if let Some(calm) = self.process.calm() {
                break calm;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.judge.seen.store(calm, Ordering::SeqCst);
        let Some(slot) = self.ck.slot_of(LABEL) else {
            return true;
        };
        for _ in 0..SESSIONS {
            let flags = if self.random.once_in(3) { 0 } else { CKF_RW_SESSION };
            match self.ck.open_session(slot, flags) {
                Ok(session) => self.sessions.push(session),
                Err(_) => return true,
            }
        }
        self.search = self.ck.open_session(slot, 0).ok();
        true
    }

    fn work(&mut self, app: Option<&App>, anchor: &AtomicU64, disrupting: &Mutex<()>) {
        while !self.is_over() {
            if self.sessions.len() < SESSIONS || self.judge.is_disrupted() {
                if !self.reopen() {
                    break;
                }
                continue;
            }
            let outcome = self.one(app, anchor, disrupting);
            match outcome {
                Ok(()) => count(&self.scene.figures.operations),
                Err(failure) => {
                    self.note(&failure);
                    // Whatever was active or half done in a session goes with it.
                    self.reopen();
                }
            }
        }
        if !self.process.is_killed() && !self.judge.is_disrupted() {
            for session in self.sessions.drain(..).chain(self.search.take()) {
                let _ = self.ck.close_session(session);
            }
        }
    }

    fn note(&self, failure: &Failure) {
        let wrong = match failure {
            Failure::Wrong(_) => true,
            // Of what the model holds nothing is sensitive.
            Failure::Refused("C_GetAttributeValue", rv) if *rv == CKR_ATTRIBUTE_SENSITIVE => true,
            // Of a signature or ciphertext that OpenSSL made.
            Failure::Refused(function, rv) => {
                (function.starts_with("C_Verify") && *rv == CKR_SIGNATURE_INVALID)
                    || (function.starts_with("C_Decrypt") && *rv == CKR_ENCRYPTED_DATA_INVALID)
            }
        };
        if wrong {
            let figures = &self.scene.figures;
            let lately = self.scene.weather.lately();
            let what = format!("{}: {failure} ({lately})", self.judge.name);
            figures.complain(&figures.wrong, what);
        }
    }

    /// One thing of all that can be done.
    fn one(&mut self, app: Option<&App>, anchor: &AtomicU64, disrupting: &Mutex<()>) -> Done {
        match self.random.below(100) {
            0..=44 => self.drive(),
            45..=52 => self.draw(),
            53..=82 => self.keep_house(),
            83..=90 => self.search(),
            91..=94 => self.come_and_go(),
            95 | 96 => self.resolve(),
            97 => self.disrupt(anchor, disrupting),
            98 => app.map_or(Ok(()), |app| self.fork(app)),
            _ => self.look_around(),
        }
    }

    fn session(&mut self) -> u64 {
        *self.random.one_of(&self.sessions)
    }

    /// A session that may write.
    fn writable(&mut self) -> Result<u64, Failure> {
        for session in &self.sessions {
            let info = by("C_GetSessionInfo", self.ck.session_info(*session))?;
            if info.flags & CKF_RW_SESSION != 0 {
                return Ok(*session);
            }
        }
        let slot = self.scene.slot;
        let session = by("C_OpenSession", self.ck.open(slot))?;
        self.sessions.push(session);
        Ok(session)
    }

    // ---- operations

    fn drive(&mut self) -> Done {
        let driver = self.choose_driver();
        let session = self.session();
        let Some(kind) = driver.wants() else {
            return driver.drive(&self.ck, session, None, &mut self.random);
        };
        let shared: Vec<&Shared> =
            self.scene.shared.iter().filter(|shared| shared.pair.kind == kind).collect();
        let Shared { label, pair } = *self.random.one_of(&shared);
        let found = self.find(session, label, CKO_PRIVATE_KEY)?;
        let [private] = found[..] else {
            return self.missing(label, found.len());
        };
        let pair = Pair { private, ..pair.clone() };
        driver.drive(&self.ck, session, Some(&pair), &mut self.random)
    }

    fn choose_driver(&mut self) -> Driver {
        loop {
            let driver = *self.random.one_of(&self.scene.drivers);
            // RSA pairs take a TPM long.
            let slow = driver.mechanism == CKM_RSA_PKCS_KEY_PAIR_GEN;
            if !slow || self.random.once_in(30) {
                return driver;
            }
        }
    }

    fn find(&self, session: u64, label: &str, class: u64) -> Result<Vec<u64>, Failure> {
        let template = [bytes(CKA_LABEL, label), number(CKA_CLASS, class)];
        by("C_FindObjects", self.ck.find(session, &template))
    }

    /// An acknowledged object is not found once; unless somebody logged out in between.
    fn missing(&self, label: &str, found: usize) -> Done {
        if self.judge.is_disrupted() {
            return Err(Failure::Refused("C_FindObjects", Rv(CKR_USER_NOT_LOGGED_IN)));
        }
        let figures = &self.scene.figures;
        let what = format!("{}: {label} was acknowledged, found {found} times", self.judge.name);
        figures.complain(&figures.lost, what);
        Ok(())
    }

    fn draw(&mut self) -> Done {
        let (session, count) = (self.session(), 16 + self.random.below(48));
        let first = by("C_GenerateRandom", self.ck.random(session, count))?;
        let second = by("C_GenerateRandom", self.ck.random(session, count))?;
        if first == second || first.iter().all(|byte| *byte == first[0]) {
            return Err(Failure::Wrong("random bytes that are not".to_owned()));
        }
        Ok(())
    }

    /// A search that stays open while others create and destroy.
    fn search(&mut self) -> Done {
        const AT_ONCE: u64 = 5;
        let Some(session) = self.search else { return Ok(()) };
        let call = |function, arguments| match self.ck.raw(function, arguments) {
            (CKR_OK, arguments) => Ok(arguments),
            (rv, _) => Err(Failure::Refused(function, Rv(rv))),
        };
        if !self.searching {
            call("C_FindObjectsInit", vec![session.into(), Argument::NULL, 0.into()])?;
            self.searching = true;
            return Ok(());
        }
        let room = Memory::room(8 * AT_ONCE as usize);
        let arguments = vec![session.into(), room.into(), AT_ONCE.into(), Memory::room(8).into()];
        let arguments = call("C_FindObjects", arguments)?;
        if arguments[3].memory().word_at(0) < AT_ONCE || self.random.once_in(10) {
            call("C_FindObjectsFinal", vec![session.into()])?;
            self.searching = false;
        }
        Ok(())
    }

    fn come_and_go(&mut self) -> Done {
        let session = by("C_OpenSession", self.ck.open_session(self.scene.slot, 0))?;
        let data = self.random.bytes(20);
        by("C_Digest", self.ck.digest(session, CKM_SHA256, &data))?;
        by("C_CloseSession", self.ck.close_session(session))
    }

    fn look_around(&mut self) -> Done {
        let info = by("C_GetTokenInfo", self.ck.token_info(self.scene.slot))?;
        if !info.label.starts_with(LABEL.as_bytes()) {
            return Err(Failure::Wrong("another label".to_owned()));
        }
        by("C_GetSlotList", self.ck.slots(true)).map(drop)
    }

    // ---- the store

    fn keep_house(&mut self) -> Done {
        let few = self.scene.model.count() < FEW;
        let room = self.scene.model.count() < MANY;
        if few || (room && self.random.once_in(4)) {
            return self.create();
        }
        let Some(thing) = self.scene.model.take(&mut self.random) else { return Ok(()) };
        let outcome = self.tend(&thing);
        let (fate, outcome) = match outcome {
            Ok(fate) => (fate, Ok(())),
            // Nothing was changed.
            Err(failure) => (Fate::Keep(vec![thing]), Err(failure)),
        };
        match fate {
            Fate::Keep(things) => self.scene.model.put(things),
            Fate::Unknown(doubt) => {
                count(&self.scene.figures.doubts);
                self.scene.model.doubt(doubt);
            }
        }
        outcome
    }

    /// What a mutating call did to the things that it was about.
    fn fate<T>(
        &self,
        function: &'static str,
        answer: Answer<T>,
        before: &[Thing],
        after: &[Thing],
    ) -> Result<Fate, Failure> {
        match answer {
            Ok(_) => {
                count(&self.scene.figures.writes);
                Ok(Fate::Keep(after.to_vec()))
            }
            Err(rv) if unanswered(rv) => {
                Ok(Fate::Unknown(Doubt::new(before.to_vec(), after.to_vec())))
            }
            Err(rv) => Err(Failure::Refused(function, rv)),
        }
    }

    /// Looks at an object, then uses, changes, copies or destroys it.
    fn tend(&mut self, thing: &Thing) -> Result<Fate, Failure> {
        let session = self.writable()?;
        let found = self.find(session, &thing.label, thing.class)?;
        let [object] = found[..] else {
            self.missing(&thing.label, found.len())?;
            return Ok(Fate::Keep(Vec::new()));
        };
        if let Some(difference) = self.difference(session, object, thing)? {
            let figures = &self.scene.figures;
            let what = format!("{}: {}: {difference}", self.judge.name, thing.label);
            figures.complain(&figures.wrong, what);
            return Ok(Fate::Keep(Vec::new()));
        }
        let keep = || Ok(Fate::Keep(vec![thing.clone()]));
        let before = std::slice::from_ref(thing);
        match self.random.below(10) {
            0..=2 => {
                let mut after = thing.clone();
                let kind = if thing.class == CKO_DATA { CKA_VALUE } else { CKA_ID };
                let length = 1 + self.random.below(40);
                after.values.insert(kind, self.random.bytes(length));
                let change = [bytes(kind, after.values[&kind].clone())];
                let answer = self.ck.set_attributes(session, object, &change);
                self.fate("C_SetAttributeValue", answer, before, &[after])
            }
            3 if thing.class == CKO_DATA => {
                let mut copy = thing.clone();
                copy.label = self.scene.new_label();
                copy.values.insert(CKA_LABEL, copy.label.clone().into_bytes());
                let change = [bytes(CKA_LABEL, copy.label.clone())];
                let answer = self.ck.copy_object(session, object, &change);
                self.fate("C_CopyObject", answer, before, &[thing.clone(), copy])
            }
            4 | 5 if self.scene.model.count() > FEW => {
                let answer = self.ck.destroy_object(session, object);
                self.fate("C_DestroyObject", answer, before, &[])
            }
            _ => {
                let Some((kind, info)) = &thing.key else { return keep() };
                let pair = Pair { public: 0, private: object, kind: *kind, info: info.clone() };
                let drivers: Vec<&Driver> = self
                    .scene
                    .drivers
                    .iter()
                    .filter(|driver| driver.wants() == Some(*kind))
                    .collect();
                let driver = **self.random.one_of(&drivers);
                driver.drive(&self.ck, session, Some(&pair), &mut self.random)?;
                keep()
            }
        }
    }

    /// What of an object is not as the model has it.
    fn difference(
        &self,
        session: u64,
        object: u64,
        thing: &Thing,
    ) -> Result<Option<String>, Failure> {
        let kinds: Vec<u64> = thing.values.keys().copied().collect();
        let (rv, values) = self.ck.attributes(session, object, &kinds);
        if rv != CKR_OK {
            return Err(Failure::Refused("C_GetAttributeValue", Rv(rv)));
        }
        let wrong = thing
            .values
            .iter()
            .zip(&values)
            .find(|((_, expected), value)| value.as_ref() != Some(*expected));
        Ok(wrong.map(|((kind, expected), value)| {
            format!("attribute {kind:#x} is {value:02x?}, was to be {expected:02x?}")
        }))
    }

    fn create(&mut self) -> Done {
        if self.random.once_in(4) { self.create_pair() } else { self.create_data() }
    }

    fn settle(&self, fate: Fate) {
        match fate {
            Fate::Keep(things) => self.scene.model.put(things),
            Fate::Unknown(doubt) => {
                count(&self.scene.figures.doubts);
                self.scene.model.doubt(doubt);
            }
        }
    }

    fn create_data(&mut self) -> Done {
        let session = self.writable()?;
        let length = self.random.below(3000);
        let label = self.scene.new_label();
        let values = BTreeMap::from([
            (CKA_CLASS, CKO_DATA.to_ne_bytes().to_vec()),
            (CKA_TOKEN, vec![1]),
            (CKA_PRIVATE, vec![u8::from(self.random.once_in(2))]),
            (CKA_LABEL, label.clone().into_bytes()),
            (CKA_APPLICATION, b"torture".to_vec()),
            (CKA_VALUE, self.random.bytes(length)),
        ]);
        let template: Vec<_> =
            values.iter().map(|(kind, value)| bytes(*kind, value.clone())).collect();
        let thing = Thing { label, class: CKO_DATA, values, key: None };
        let answer = self.ck.create_object(session, &template);
        let fate = self.fate("C_CreateObject", answer, &[], &[thing])?;
        self.settle(fate);
        Ok(())
    }

    fn create_pair(&mut self) -> Done {
        let session = self.writable()?;
        let id = self.random.bytes(20);
        let things = [CKO_PUBLIC_KEY, CKO_PRIVATE_KEY].map(|class| {
            let label = self.scene.new_label();
            let values = BTreeMap::from([
                (CKA_CLASS, class.to_ne_bytes().to_vec()),
                (CKA_KEY_TYPE, CKK_EC.to_ne_bytes().to_vec()),
                (CKA_TOKEN, vec![1]),
                (CKA_LOCAL, vec![1]),
                (CKA_LABEL, label.clone().into_bytes()),
                (CKA_ID, id.clone()),
            ]);
            Thing { label, class, values, key: None }
        });
        let [public, private] = &things;
        let template = |thing: &Thing| {
            [
                flag(CKA_TOKEN, true),
                bytes(CKA_LABEL, thing.label.clone()),
                bytes(CKA_ID, id.clone()),
            ]
        };
        let (of_public, of_private) = (template(public), template(private));
        let extra = [&of_public[..], &of_private[..]];
        let answer = Pair::generate(&self.ck, session, Kind::Ec, &mut self.random, extra);
        let both = things.to_vec();
        match answer {
            Ok(pair) => {
                count(&self.scene.figures.writes);
                self.settle(Fate::Keep(known(both, &pair.info)));
                Ok(())
            }
            Err(Failure::Refused("C_GenerateKeyPair", rv)) if unanswered(rv) => {
                self.settle(Fate::Unknown(Doubt::new(Vec::new(), both)));
                Ok(())
            }
            // The pair was acknowledged; only its public key is not known.
            Err(Failure::Refused("C_GetAttributeValue", _)) => {
                count(&self.scene.figures.writes);
                self.settle(Fate::Unknown(Doubt::new(both.clone(), both)));
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// Looks what became of something that was not answered.
    fn resolve(&mut self) -> Done {
        let Some(doubt) = self.scene.model.take_doubt() else { return Ok(()) };
        let session = self.session();
        match self.resolve_one(session, &doubt) {
            Ok(Some(things)) => {
                self.scene.model.put(things);
                Ok(())
            }
            // Somebody logged out meanwhile: later.
            _ if self.judge.is_disrupted() || self.process.is_killed() => {
                self.scene.model.doubt(doubt);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(failure) => {
                self.scene.model.doubt(doubt);
                Err(failure)
            }
        }
    }

    /// What of a doubt is there; `None` if it is none of what it may be, which is noted.
    fn resolve_one(&mut self, session: u64, doubt: &Doubt) -> Result<Option<Vec<Thing>>, Failure> {
        let mut found = BTreeMap::new();
        for label in &doubt.labels {
            let template = [bytes(CKA_LABEL, label.clone())];
            let objects = by("C_FindObjects", self.ck.find(session, &template))?;
            match objects[..] {
                [] => {}
                [object] => {
                    found.insert(label.clone(), object);
                }
                _ => return Ok(self.half(&format!("{label} is there {} times", objects.len()))),
            }
        }
        let mut differences = Vec::new();
        for alternative in &doubt.alternatives {
            if alternative.len() != found.len() {
                differences.push(format!("{} objects, not {}", found.len(), alternative.len()));
                continue;
            }
            let mut difference = None;
            for thing in alternative {
                difference = match found.get(&thing.label) {
                    Some(object) => self.difference(session, *object, thing)?,
                    None => Some(format!("no {}", thing.label)),
                };
                if difference.is_some() {
                    break;
                }
            }
            match difference {
                Some(difference) => differences.push(difference),
                None => return self.complete(session, alternative.clone(), &found),
            }
        }
        if self.judge.is_disrupted() {
            return Ok(None);
        }
        let never_empty = doubt.alternatives.iter().all(|things| !things.is_empty());
        if found.is_empty() && never_empty {
            let figures = &self.scene.figures;
            figures.complain(&figures.lost, format!("{:?} are gone", doubt.labels));
            return Ok(None);
        }
        Ok(self.half(&format!("{:?}: {}", doubt.labels, differences.join("; or "))))
    }

    fn half(&self, what: &str) -> Option<Vec<Thing>> {
        if !self.judge.is_disrupted() {
            let figures = &self.scene.figures;
            figures.complain(&figures.half, format!("{}: {what}", self.judge.name));
        }
        None
    }

    /// Reads the public key of a pair whose making was not answered: both halves must have the same.
    fn complete(
        &self,
        session: u64,
        things: Vec<Thing>,
        found: &BTreeMap<String, u64>,
    ) -> Result<Option<Vec<Thing>>, Failure> {
        let unknown = things.len() == 2
            && things.iter().all(|thing| thing.class != CKO_DATA && thing.key.is_none());
        if !unknown {
            return Ok(Some(things));
        }
        let mut infos = Vec::new();
        for thing in &things {
            let info = self.ck.attribute(session, found[&thing.label], CKA_PUBLIC_KEY_INFO);
            infos.push(by("C_GetAttributeValue", info)?);
        }
        if infos[0] != infos[1] || Key::from_info(&infos[0]).is_none() {
            return Ok(self.half(&format!("{}: two halves, no pair", things[0].label)));
        }
        Ok(Some(known(things, &infos[0])))
    }

    // ---- what disturbs others

    fn disrupt(&mut self, anchor: &AtomicU64, disrupting: &Mutex<()>) -> Done {
        let Ok(_alone) = disrupting.try_lock() else { return Ok(()) };
        count(&self.scene.figures.disruptions);
        self.process.begun.fetch_add(1, Ordering::SeqCst);
        let done = if self.random.once_in(2) {
            let _ = self.ck.finalize();
            self.begin(anchor)
        } else {
            let session = anchor.load(Ordering::SeqCst);
            let _ = self.ck.logout(session);
            self.login(session)
        };
        if done {
            self.process.over.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    /// A child must begin anew, and can; with its parent's threads amid their calls.
    fn fork(&mut self, app: &App) -> Done {
        let Some(child) = app.try_fork(LIMIT) else {
            if !self.process.is_killed() {
                let figures = &self.scene.figures;
                figures.complain(&figures.hangs, format!("{}: fork", self.judge.name));
                self.process.kill();
            }
            return Ok(());
        };
        count(&self.scene.figures.forks);
        let process = Process::new(child.id());
        process.child.store(true, Ordering::SeqCst);
        let name = format!("child of {}", self.judge.name);
        let mut thread = Thread::new(self.scene, &child, &process, &name, &mut self.random);
        let inherited = self.sessions.first().copied().unwrap_or_default();
        let answer = thread.ck.sign_init(inherited, CKM_ECDSA, 1);
        if answer != Err(Rv(CKR_CRYPTOKI_NOT_INITIALIZED)) {
            let figures = &self.scene.figures;
            let what = format!("{name}: before C_Initialize C_SignInit returned {answer:?}");
            figures.complain(&figures.codes, what);
        }
        process.child.store(false, Ordering::SeqCst);
        let anchor = AtomicU64::new(0);
        if thread.begin(&anchor) && thread.reopen() {
            for _ in 0..3 {
                match thread.drive() {
                    Ok(()) => count(&self.scene.figures.operations),
                    Err(failure) => thread.note(&failure),
                }
            }
            if self.random.once_in(3) {
                count(&self.scene.figures.kills);
                process.kill();
            } else {
                let _ = thread.ck.finalize();
            }
        }
        drop(child);
        Ok(())
    }

    // ---- at the end

    /// Everything that was acknowledged is there as it was acknowledged, and nothing else.
    fn compare_all(&mut self) {
        while let Some(doubt) = self.scene.model.take_doubt() {
            let session = self.sessions[0];
            match self.resolve_one(session, &doubt) {
                Ok(Some(things)) => self.scene.model.put(things),
                Ok(None) => {}
                Err(failure) => self.note(&failure),
            }
        }
        let session = self.sessions[0];
        let figures = &self.scene.figures;
        let all = self.scene.model.all();
        for thing in &all {
            let outcome = self.find(session, &thing.label, thing.class).and_then(|found| {
                let [object] = found[..] else { return self.missing(&thing.label, found.len()) };
                if let Some(difference) = self.difference(session, object, thing)? {
                    figures.complain(&figures.wrong, format!("{}: {difference}", thing.label));
                }
                Ok(())
            });
            if let Err(failure) = outcome {
                self.note(&failure);
            }
        }
        let expected = all.len() + 2 * self.scene.shared.len();
        match self.ck.find(session, &[]) {
            Ok(found) if found.len() == expected => {}
            Ok(found) => {
                let what = format!("{} objects at the end, not {expected}", found.len());
                figures.complain(&figures.half, what);
            }
            Err(rv) => figures.complain(&figures.lost, format!("the last search: {rv:?}")),
        }
        // And every key signs.
        for thing in all.iter().filter(|thing| thing.class == CKO_PRIVATE_KEY) {
            let (Some((kind, info)), Ok(found)) =
                (&thing.key, self.find(session, &thing.label, thing.class))
            else {
                continue;
            };
            let signing = crate::drive::driver(CKM_ECDSA_SHA256, CKF_SIGN).expect("there is one");
            for private in found {
                let pair = Pair { public: 0, private, kind: *kind, info: info.clone() };
                if let Err(failure) =
                    signing.drive(&self.ck, session, Some(&pair), &mut self.random)
                {
                    figures.complain(&figures.wrong, format!("{}: {failure}", thing.label));
                }
            }
        }
    }
}

/// Things of a pair whose public key is known.
fn known(things: Vec<Thing>, info: &[u8]) -> Vec<Thing> {
    let with_info = things.into_iter().map(|mut thing| {
        thing.values.insert(CKA_PUBLIC_KEY_INFO, info.to_vec());
        if thing.class == CKO_PRIVATE_KEY {
            thing.key = Some((Kind::Ec, info.to_vec()));
        }
        thing
    });
    with_info.collect()
}

/// A last process, when all others are gone: compares everything, and ends.
pub fn audit(scene: &Scene, random: &mut Random) {
    let app = scene.bench.read().expect("nobody panics here").app();
    let process = Process::new(app.id());
    let mut thread = Thread::new(scene, &app, &process, &format!("{} audit", scene.name), random);
    let anchor = AtomicU64::new(0);
    if thread.begin(&anchor) && thread.open_for_audit() {
        thread.compare_all();
        let _ = thread.ck.finalize();
    } else {
        let figures = &scene.figures;
        figures.complain(&figures.lost, "the last process cannot log in".to_owned());
    }
}

impl Thread<'_> {
    fn open_for_audit(&mut self) -> bool {
        self.sessions = self.ck.open(self.scene.slot).into_iter().collect();
        !self.sessions.is_empty()
    }
}
